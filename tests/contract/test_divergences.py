"""Where the emulator differs from the reference, or chooses one of the ways that the reference leaves open.

Each docstring quotes the reference and says what the emulator does. If the live service does otherwise,
change the emulator, or say so here. What holds on every service is in `test_contract.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession

from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.emulator.api_errors import STATUSES
from doitong_async.emulator.calls import Reply
from tests.emulator.direct import A_FOX, GENERATE, EmulatorApi, a_call, codes
from tests.virtual import virtual

POLL = "query($id: ID!) { generation(id: $id) { id status url creditCost metadata } }"
WHOLE = (
    "mutation($input: GenerateInput!) { generate(input: $input) { id status type url creditCost metadata } }"
)
QUARTER = 90 * 86_400


def submit(api: EmulatorApi, *, now: float = 0.0, key: str | None = None, **fields: object) -> Reply:
    """Send one submit in the documented form, with these fields of its input changed."""
    headers = {"Idempotency_Key": key} if key else {}
    return api.graphql(WHOLE, {"input": {**A_FOX, **fields}}, now=now, **headers)


def job_of(reply: Reply) -> dict[str, Any]:
    (job,) = reply.body["data"].values()
    assert isinstance(job, dict)
    return job


def poll(api: EmulatorApi, job_id: str, *, now: float) -> dict[str, Any]:
    return job_of(api.graphql(POLL, {"id": job_id}, now=now))


# Documented, but different in the emulator


def test_the_answer_is_under_the_name_of_its_field() -> None:
    """On "the documented bodies answer under the key `generateimage`": here only with `answer_key` set."""
    assert list(submit(EmulatorApi()).body["data"]) == ["generate"]
    assert list(submit(EmulatorApi(answer_key="generateimage")).body["data"]) == ["generateimage"]


@virtual
async def test_without_a_secret_no_webhook_is_sent() -> None:
    """On "on completion a POST": answers repeat `webhookUrl`, but only `webhook_secret` makes it send."""
    calls = []

    async def called(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(True)
        writer.close()

    listening = await asyncio.start_server(called, "127.0.0.1", 0)
    there = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/done"
    async with listening, Emulator(durations=5.0) as emulator, ClientSession() as session:
        body = {"service": "flux-pro", "prompt": "a fox", "webhookUrl": there}
        url, key = f"{emulator.url}/v1/text_to_image", {"X-API-Key": "k"}
        async with session.post(url, json=body, headers=key) as response:
            assert (await response.json())["webhookUrl"] == there
        await asyncio.sleep(3600)
    assert calls == []


@pytest.mark.parametrize(
    "field",
    [
        {"options": {"version": "flux-pro-1.1"}},
        {"options": {"quality": "high"}},
        {"options": {"aspectRatio": "16:9"}},
        {"input": {"text": "a fox", "voice": "anna"}},
    ],
    ids=lambda field: "-".join(value for part in field.values() for value in part),
)
def test_some_options_have_no_effect(field: dict[str, Any]) -> None:
    """On "`version`, `quality`" and the like: the emulator accepts them and makes the same order."""
    changed, usual = EmulatorApi(), EmulatorApi()
    assert job_of(submit(changed, **field)) == job_of(submit(usual))
    (one,), (other,) = changed.world.jobs.values(), usual.world.jobs.values()
    assert one.order == other.order


@pytest.mark.parametrize(("kind", "ending"), [("VIDEO", ".gif"), ("AVATAR", ".gif"), ("AUDIO", ".wav")])
def test_other_outputs_have_the_simplest_formats(kind: str, ending: str) -> None:
    """On "VIDEO", "AVATAR", "AUDIO": no format is documented; the emulator makes short GIFs and plain WAV."""
    api = EmulatorApi(durations=0.0)
    assert job_of(submit(api, type=kind))["url"].endswith(ending)


def test_prices_between_the_documented_ones_are_interpolated() -> None:
    """On "10–20 credits from 512×512 to 1024×1024": the price grows linearly with the pixels in between."""
    sizes = [(512, 512), (1024, 640), (1024, 1024), (2048, 2048), (1, 1)]
    costs = [job_of(submit(EmulatorApi(), options={"width": w, "height": h}))["creditCost"] for w, h in sizes]
    assert costs == [10, 15, 20, 30, 10]


@pytest.mark.parametrize(("kind", "cost"), [("VIDEO", 100), ("AVATAR", 60), ("AUDIO", 5)])
def test_other_prices_are_the_emulators_own(kind: str, cost: int) -> None:
    """On "Credits", which prices pictures only: the emulator invents all other prices."""
    assert job_of(submit(EmulatorApi(), type=kind))["creditCost"] == cost


# Errors and limits


def test_all_codes_but_one_are_the_emulators_own() -> None:
    """On "INSUFFICIENT_CREDITS […] is the only code shown": the emulator invents the others."""
    assert codes(submit(EmulatorApi(credits=5))) == ["INSUFFICIENT_CREDITS"]
    assert codes(submit(EmulatorApi(key="right"))) == ["UNAUTHENTICATED"]
    invented = STATUSES.keys() - {"INSUFFICIENT_CREDITS"}
    assert {"BAD_USER_INPUT", "UNAUTHENTICATED", "RATE_LIMITED", "IDEMPOTENCY_CONFLICT"} <= invented


def test_errors_have_the_status_of_the_table() -> None:
    """On "whether a GraphQL error comes with HTTP 200 or with the table's status": the table's."""
    assert submit(EmulatorApi(credits=5)).status == 402
    assert submit(EmulatorApi(credits=5, error_status="200")).status == 200


def test_each_limit_has_its_own_code() -> None:
    """On "which limit a 429 means […] and its `extensions.code`": the code distinguishes the three."""
    minute, jobs, day = (EmulatorApi(PlanLimits(*limits)) for limits in [(1, 9, 9), (9, 1, 9), (9, 9, 1)])
    for api, code in (
        (minute, "RATE_LIMITED"),
        (jobs, "CONCURRENCY_LIMITED"),
        (day, "DAILY_LIMIT_EXCEEDED"),
    ):
        assert submit(api).status == 200
        assert (submit(api).status, codes(submit(api))) == (429, [code])


def test_retry_after_is_not_sent_unless_scripted() -> None:
    """On "`Retry-After`: never mentioned": a 429 has it only if a fault says so."""

    def headers(api: EmulatorApi) -> dict[str, str]:
        call = a_call("POST", "/graphql", {"query": GENERATE, "variables": {"input": A_FOX}})
        replies = [api.api.answer(call) for _ in range(2)]
        assert replies[1].status == 429
        return api.api.headers(call, replies[1])

    assert "Retry-After" not in headers(EmulatorApi(PlanLimits(1, 9, 9)))
    assert headers(EmulatorApi(faults=["submit 2: 429-minute retry-after=7"]))["Retry-After"] == "7"


def test_the_reset_is_when_the_next_permit_comes_back() -> None:
    """On "when the window resets": the window slides, so the reset is when the next permit comes back."""
    api = EmulatorApi()
    for moment in (0.0, 45.0):
        submit(api, now=moment)
    call = a_call("POST", "/graphql", now=50.0)
    assert api.api.headers(call)["X-RateLimit-Reset"] == "1060"
    assert api.api.headers(a_call("POST", "/graphql", now=61.0))["X-RateLimit-Remaining"] == "59"
    assert EmulatorApi(reset_unit="seconds").api.headers(call)["X-RateLimit-Reset"] == "0"


def test_status_requests_count_and_aliases_count_as_one() -> None:
    """On "whether a status request counts against requests per minute": yes; two aliases count as one."""
    api = EmulatorApi()
    made = job_of(submit(api))["id"]
    api.graphql("query($i: ID!) { a: generation(id: $i) { id } b: generation(id: $i) { id } }", {"i": made})
    assert api.api.headers(a_call("POST", "/graphql"))["X-RateLimit-Remaining"] == "58"


def test_a_rejected_request_takes_no_permit() -> None:
    """On "429": a request rejected by the minute's limit does not lengthen the wait."""
    api = EmulatorApi(PlanLimits(1, 9, 9))
    statuses = [submit(api, now=moment).status for moment in (0.0, 30.0, 59.0, 60.0)]
    assert statuses == [200, 429, 429, 200]


def test_jobs_over_the_limit_are_rejected_not_queued() -> None:
    """On "whether a job past the plan's concurrency is refused or queued": rejected by default."""
    assert [submit(api).status for api in [EmulatorApi("free")] * 2] == [200, 429]
    queue = EmulatorApi("free", over_concurrency="queue")
    assert [job_of(submit(queue))["status"] for _ in range(2)] == ["processing", "queued"]


def test_the_day_ends_at_midnight_utc() -> None:
    """On "when the daily limit resets": at 00:00 UTC, whenever the first job came."""
    api = EmulatorApi(PlanLimits(9, 9, 1))
    midnight = 86_400 - 1000.0  # a call's wall clock shows 1000 when its own clock shows 0
    statuses = [submit(api, now=moment).status for moment in (0.0, midnight - 1, midnight)]
    assert statuses == [200, 429, 200]


# Jobs


def test_a_replay_repeats_the_first_status() -> None:
    """On "what a re-sent idempotency key answers": the first answer, unchanged."""
    api = EmulatorApi(durations=10.0)
    first = job_of(submit(api, key="1"))
    assert job_of(submit(api, now=60.0, key="1")) == first
    assert first["status"] == "processing"
    assert poll(api, first["id"], now=60.0)["status"] == "completed"


def test_a_key_with_another_request_is_a_conflict() -> None:
    """On "what a re-sent idempotency key answers": 409 for another request, without a job's id."""
    api = EmulatorApi()
    submit(api, key="1")
    other = submit(api, key="1", input={"text": "a hare"})
    assert (other.status, codes(other)) == (409, ["IDEMPOTENCY_CONFLICT"])
    assert set(other.body["errors"][0]["extensions"]) == {"code"}


def test_keys_are_honoured_on_every_request_that_makes_a_job() -> None:
    """On "on every VIDEO page […] and on no other": the emulator honours the header on REST too."""
    api = EmulatorApi()
    body = {"service": "flux-pro", "prompt": "a fox"}
    for _ in range(2):
        api.call("POST", "/v1/text_to_image", body, headers={"Idempotency-Key": "1"})
    assert api.world.charges == 1


def test_a_failed_job_is_charged_and_says_why_in_its_metadata() -> None:
    """On "whether a failed job is charged": yes, unless a fault says otherwise."""
    api = EmulatorApi(durations=1.0, faults=["job 1: fail", "job 2: fail charged=no"])
    ids = [job_of(submit(api))["id"] for _ in range(2)]
    seen = [poll(api, job_id, now=5.0) for job_id in ids]
    assert [(job["status"], job["creditCost"]) for job in seen] == [("failed", 20), ("failed", 0)]
    assert seen[0]["metadata"] == {"reason": "The model gave no output"}
    assert api.world.balance("k") == 10_000 - 20


def test_an_unknown_id_is_a_null_with_http_200() -> None:
    """On "nothing is documented but a stub": a poll for an unknown job is null, with an error at its path."""
    reply = EmulatorApi().graphql(POLL, {"id": "nobody"})
    assert (reply.status, reply.body["data"], codes(reply)) == (200, {"generation": None}, ["NOT_FOUND"])


def test_there_is_no_cancel_list_balance_nor_subscription() -> None:
    """On "none assumed": the schema has one query, `generate` and its flat siblings, and nothing else."""
    document = "{ __schema { queryType { fields { name } } mutationType { fields { name } } %s } }"
    reply = EmulatorApi().graphql(document % "subscriptionType { name }")
    schema = reply.body["data"]["__schema"]
    names = {
        kind: [each["name"] for each in schema[kind]["fields"]] for kind in ("queryType", "mutationType")
    }
    assert names == {
        "queryType": ["generation"],
        "mutationType": ["generate", "generateImage", "animateImage", "generateAvatar", "generateSpeech"],
    }
    assert schema["subscriptionType"] is None


def test_rest_answers_the_bare_generation() -> None:
    """On "REST bodies are not shown at all": submit and status answer with the same complete object."""
    api = EmulatorApi()
    made = api.call("POST", "/v1/text_to_image", {"service": "flux-pro", "prompt": "a fox"})
    seen = api.call("GET", f"/v1/generations/{made.body['id']}")
    assert made.body == seen.body
    assert {"id", "status", "url", "provider", "creditCost", "createdAt"} <= made.body.keys()


def test_every_provider_type_and_size_is_accepted() -> None:
    """On "more providers exist": unknown names pass, and so does every size from 1 to 16,384 pixels."""
    made = job_of(
        submit(EmulatorApi(), provider="nobody", type="SMELL", options={"width": 1, "height": 16_384})
    )
    assert made["type"] == "SMELL"
    assert submit(EmulatorApi(), options={"width": 16_385}).status == 400


def test_every_key_has_its_own_account() -> None:
    """On "missing or invalid API key": without `key` every key is valid and has its own 10,000 credits."""
    api = EmulatorApi()
    submit(api)
    assert [api.world.balance(key) for key in ("k", "another")] == [10_000 - 20, 10_000]
    assert submit(EmulatorApi(key="right")).status == 401


@virtual
async def test_outputs_never_expire() -> None:
    """On "how long outputs stay": as long as the server runs, on loopback over plain http."""
    async with Emulator(durations=1.0) as emulator:
        url, key = f"{emulator.url}/v1/text_to_image", {"X-API-Key": "k"}
        body = {"service": "flux-pro", "prompt": "a fox", "width": 64, "height": 64}
        async with ClientSession() as session, session.post(url, json=body, headers=key) as response:
            made = (await response.json())["id"]
        await asyncio.sleep(QUARTER)
        there = f"{emulator.outputs_url}/{made}.jpg"
        assert there.startswith("http://127.0.0.1:")
        async with ClientSession() as session, session.get(there) as response:
            assert response.status == 200


@virtual
async def test_it_has_an_endpoint_that_the_service_lacks() -> None:
    """`/_emulator/faults` changes the faults and asks for no key; the service has nothing like it."""
    async with Emulator() as emulator, ClientSession() as session:
        async with session.put(f"{emulator.url}/_emulator/faults", json=["any: 500"]) as response:
            assert response.status == 200
        assert [str(fault) for fault in emulator.faults] == ["any: 500"]
