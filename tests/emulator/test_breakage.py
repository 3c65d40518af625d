"""What faults do to requests and replies, without a server."""

import json
from typing import Any

import pytest

from doitong_async.emulator.breakage import GATEWAY_PAGE, SIGN_IN_PAGE
from doitong_async.emulator.calls import Reply
from doitong_async.emulator.limits import PlanLimits
from tests.emulator.direct import A_FOX, GENERATE, EmulatorApi, a_call, codes

REST = "/v1/text_to_image"
BODY = {"service": "flux-pro", "prompt": "a fox"}
FULL = "mutation($i: GenerateInput!) { generate(input: $i) { id status url metadata width creditCost } }"
TWO = "mutation($i: GenerateInput!) { a: generate(input: $i) { id url } b: generate(input: $i) { id url } }"


def submit(api: EmulatorApi, now: float = 0.0) -> Reply:
    return api.graphql(GENERATE, {"input": A_FOX}, now=now)


def headers(api: EmulatorApi, reply: Reply, now: float = 0.0) -> dict[str, str]:
    return api.api.headers(a_call("POST", "/graphql", now=now), reply)


def test_hit_is_recorded() -> None:
    """With the text of the fault, or None if there was no fault."""
    api = EmulatorApi(faults=["submit 2: 500"])
    for _ in range(3):
        submit(api)
    assert [seen.fault for seen in api.world.seen] == [None, "submit 2: 500", None]


def test_rejected_requests_are_counted_too() -> None:
    """The third submit is the third that arrived."""
    api = EmulatorApi("free", faults=["submit 3: 502"])
    assert [submit(api).status for _ in range(3)] == [200, 429, 502]


@pytest.mark.parametrize(
    "text", ["500", "502", "null", "cut-before", "401", "429-minute", "429-day", "429-concurrency"]
)
def test_some_faults_leave_the_request_undone(text: str) -> None:
    """No job is made and nothing charged; the next request succeeds."""
    api = EmulatorApi(faults=[f"submit 1: {text}"])
    submit(api)
    assert (api.world.charges, api.world.jobs) == (0, {})
    assert submit(api).status == 200
    assert api.world.charges == 1


@pytest.mark.parametrize(
    "text",
    [
        "500 handled=yes",
        "502 handled=yes",
        "null handled=yes",
        "cut-after",
        "partial",
        "null-alias",
        "latency",
    ],
)
def test_some_faults_break_only_the_answer(text: str) -> None:
    """The job is made and charged, and the record has its id."""
    api = EmulatorApi(faults=[f"submit 1: {text}"])
    submit(api)
    assert api.world.charges == 1
    assert api.world.seen[0].ids == tuple(api.world.jobs)


@pytest.mark.parametrize(
    ("text", "permits"),
    [
        ("500", 1),
        ("502", 1),
        ("cut-before", 1),
        ("null", 1),
        ("429-day", 1),
        ("429-concurrency", 1),
        ("401", 0),
        ("429-minute", 0),
    ],
)
def test_most_faults_take_a_permit(text: str, permits: int) -> None:
    """As any request that arrives; the rate limiter's own errors take none."""
    api = EmulatorApi(faults=[f"submit: {text}"])
    submit(api)
    assert api.world.most_in_window == permits


def test_500_is_json() -> None:
    """With HTTP 500, even if errors come with 200."""
    api = EmulatorApi(error_status="200", faults=["submit: 500"])
    reply = submit(api)
    assert (reply.status, codes(reply), set(reply.body)) == (500, ["INTERNAL_SERVER_ERROR"], {"errors"})


def test_502_is_a_gateways_page() -> None:
    """It is HTML, and a gateway sends no rate-limit headers."""
    api = EmulatorApi(faults=["submit: 502"])
    reply = submit(api)
    assert (reply.status, reply.content_type, reply.text) == (502, "text/html", GATEWAY_PAGE)
    assert headers(api, reply) == {}


def test_html_is_a_page_that_says_nothing_went_wrong() -> None:
    """As a captive portal answers: HTTP 200, and nothing was executed."""
    api = EmulatorApi(faults=["submit: html"])
    reply = submit(api)
    assert (reply.status, reply.content_type, reply.text) == (200, "text/html", SIGN_IN_PAGE)
    assert headers(api, reply) == {}
    assert api.world.jobs == {}


@pytest.mark.parametrize("text", ["cut-before", "cut-after"])
def test_cut_is_recorded_without_a_status(text: str) -> None:
    """The client got no answer."""
    api = EmulatorApi(faults=[f"submit: {text}"])
    assert submit(api).cut
    assert api.world.seen[0].http_status == 0


def test_scripted_401_equals_a_real_one() -> None:
    """Status and body are the same."""
    api = EmulatorApi(key="k", faults=["submit 1: 401"])
    scripted = submit(api)
    api.world.faults.clear()
    real = api.graphql(GENERATE, {"input": A_FOX}, Authorization="Bearer wrong")
    assert (scripted.status, scripted.body) == (real.status, real.body)


def test_scripted_429_of_the_minute_equals_a_real_one() -> None:
    """Status, body and headers are the same, with nothing left until the reset."""
    api = EmulatorApi(PlanLimits(1, 9, None), faults=["poll 1: 429-minute"])
    submit(api)
    poll = "{ generation(id: 1) { id } }"
    scripted, real = api.graphql(poll, now=30.0), api.graphql(poll, now=30.0)
    assert (scripted.status, scripted.body) == (real.status, real.body)
    assert headers(api, scripted, 30.0) == headers(api, real, 30.0)


def test_429_of_an_empty_minute_resets_after_a_whole_one() -> None:
    """No other request holds a permit that could come back."""
    api = EmulatorApi(faults=["submit: 429-minute"])
    assert headers(api, submit(api)) == {
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1060",
    }


def test_429_says_when_to_retry() -> None:
    """Retry-After and the reset agree."""
    api = EmulatorApi(faults=["submit: 429-minute retry-after=5"])
    sent = headers(api, submit(api))
    assert (sent["Retry-After"], sent["X-RateLimit-Reset"]) == ("5", "1005")


@pytest.mark.parametrize(
    ("plan", "text", "code"),
    [
        (PlanLimits(60, 1, None), "429-concurrency", "CONCURRENCY_LIMITED"),
        (PlanLimits(60, 9, 1), "429-day", "DAILY_LIMIT_EXCEEDED"),
    ],
)
def test_other_429s_equal_real_ones(plan: PlanLimits, text: str, code: str) -> None:
    """The minute has permits left, and Retry-After comes only if it is scripted."""
    api = EmulatorApi(plan, faults=[f"submit 2: {text} retry-after=7"])
    submit(api)
    scripted = submit(api)
    real = submit(api)
    assert scripted.status == real.status == 429
    assert codes(scripted) == codes(real) == [code]
    assert scripted.body["errors"][0]["message"] == real.body["errors"][0]["message"]
    assert (headers(api, scripted)["Retry-After"], headers(api, scripted)["X-RateLimit-Remaining"]) == (
        "7",
        "57",
    )
    assert "Retry-After" not in headers(api, real)


def test_scripted_rejection_can_come_with_200() -> None:
    """As a real one does with this setting; not at the REST endpoint."""
    api = EmulatorApi(error_status="200", faults=["submit: 429-day"])
    assert submit(api).status == 200
    assert api.call("POST", REST, BODY).status == 429


def test_unknown_key_gets_no_rate_limit_headers() -> None:
    """Not even with a scripted 429."""
    api = EmulatorApi(key="right", faults=["submit: 429-minute"])
    call = a_call("POST", REST, BODY)
    assert api.api.headers(call, api.api.answer(call)) == {}
    nobody = a_call("POST", REST, BODY, headers={"Authorization": ""})
    assert api.api.headers(nobody, api.api.answer(nobody)) == {}


def test_data_can_be_null() -> None:
    """With an error, and HTTP 200."""
    reply = EmulatorApi(faults=["submit: null"]).graphql(GENERATE, {"input": A_FOX})
    assert (reply.status, reply.body["data"], codes(reply)) == (200, None, ["INTERNAL_SERVER_ERROR"])


def test_partial_answer_lacks_the_nullable_fields() -> None:
    """Each has an error at its path; id and status are present."""
    api = EmulatorApi(faults=["submit: partial"])
    reply = api.graphql(FULL, {"i": A_FOX})
    (job_id,) = api.world.jobs
    assert reply.status == 200
    assert reply.body["data"]["generate"] == {
        "id": job_id,
        "status": "processing",
        "url": None,
        "metadata": None,
        "width": None,
        "creditCost": 20,
    }
    paths = [["generate", name] for name in ("url", "metadata", "width")]
    assert [error["path"] for error in reply.body["errors"]] == paths


def test_partial_answer_for_many_jobs_lacks_fields_of_the_first() -> None:
    """The other jobs are complete, and real errors are kept."""
    api = EmulatorApi(faults=["poll: partial"])
    made = api.graphql(TWO, {"i": A_FOX}).body["data"]
    a, b = made["a"]["id"], made["b"]["id"]
    parts = [
        f'{alias}: generation(id: "{job}") {{ url }}' for alias, job in (("x", "no"), ("a", a), ("b", b))
    ]
    reply = api.graphql(f"{{ {' '.join(parts)} }}", now=10.0)
    assert reply.body["data"]["x"] is None
    assert reply.body["data"]["a"] == {"url": None}
    assert reply.body["data"]["b"]["url"]
    assert [error["path"] for error in reply.body["errors"]] == [["x"], ["a", "url"]]


def test_one_job_of_an_answer_can_be_null() -> None:
    """The error at its alias does not say that the job is unknown."""
    api = EmulatorApi(faults=["submit: null-alias"])
    reply = api.graphql(TWO, {"i": A_FOX})
    assert reply.body["data"]["a"] is None
    assert reply.body["data"]["b"]["id"]
    assert [error["path"] for error in reply.body["errors"]] == [["a"]]
    assert codes(reply) == ["INTERNAL_SERVER_ERROR"]
    assert len(api.world.jobs) == 2


@pytest.mark.parametrize("text", ["partial", "null-alias"])
def test_rejection_has_no_fields_to_lack(text: str) -> None:
    """These faults do not change it."""
    plain, odd = (EmulatorApi(credits=0, faults=faults) for faults in ([], [f"submit: {text}"]))
    assert submit(odd) == submit(plain)


def test_rest_answers_lack_the_same_fields() -> None:
    """Without errors, which REST has no field for; a null answer is a bare null."""
    api = EmulatorApi(faults=["submit 1: partial", "submit 2: null", "submit 3: null-alias"])
    reply = api.call("POST", REST, BODY)
    assert (reply.body["id"], reply.body["url"], reply.body["metadata"]) == (*api.world.jobs, None, None)
    assert "errors" not in reply.body
    for made in (1, 2):
        reply = api.call("POST", REST, BODY)
        assert (reply.status, reply.text, len(api.world.jobs)) == (200, "null", made)


def test_latency_combines_with_another_fault() -> None:
    """The late answer is the broken one."""
    api = EmulatorApi(faults=["submit: latency 2", "submit: 500", "any: latency 1"])
    reply = submit(api)
    assert (reply.delay, reply.status) == (3.0, 500)
    assert api.world.seen[0].fault == "submit: latency 2; submit: 500; any: latency 1"


def test_faults_of_a_job_are_recorded_with_the_request_that_made_it() -> None:
    """Of each of its jobs, in order; not with a second sending, which makes none."""
    api = EmulatorApi(faults=["submit: latency 1", "job 1: stuck", "job 2: late"])
    for _ in range(2):
        api.graphql(TWO, {"i": A_FOX}, Idempotency_Key="once")
    assert [seen.fault for seen in api.world.seen] == [
        "submit: latency 1; job 1: stuck; job 2: late",
        "submit: latency 1",
    ]


def test_late_job_is_not_found_by_either_face() -> None:
    """As one that does not exist."""
    api = EmulatorApi(faults=["job: late 3"])
    made = submit(api).body["data"]["generate"]["id"]
    poll = f'{{ generation(id: "{made}") {{ id }} }}'
    for now, there in ((2.9, False), (3.0, True)):
        assert bool(api.graphql(poll, now=now).body["data"]["generation"]) is there
        assert api.call("GET", f"/v1/generations/{made}", now=now).status == (200 if there else 404)


@pytest.mark.parametrize("fault", ["500", "502", "401", "429-minute", "null", "partial", "null-alias"])
def test_key_is_never_echoed(fault: Any) -> None:
    """With any fault."""
    secret = "sk-very-secret"
    api = EmulatorApi(faults=[f"submit: {fault}", f"poll: {fault}"])
    for path, body in (("/graphql", {"query": GENERATE, "variables": {"input": A_FOX}}), (REST, BODY)):
        call = a_call("POST", path, body, headers={"Authorization": f"Bearer {secret}", "X-API-Key": secret})
        reply = api.api.answer(call)
        sent = json.dumps(reply.body) + str(reply.text) + str(api.api.headers(call, reply))
        assert secret not in sent
