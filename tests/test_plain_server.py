"""The behaviour of the plain server, seen through a bare HTTP client."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from graphql import build_client_schema, get_introspection_query, parse, validate
from PIL import Image

from tests.plain_server import JPEG, Behaviour, PlainServer
from tests.virtual import now, virtual

WIRE = Path(__file__).parents[2] / "shared" / "api" / "wire"
INPUT = {"type": "IMAGE", "provider": "flux-pro", "input": {"text": "a city"}, "options": {"width": 512}}
CREATE = "mutation M($input: GenerateInput!) { generate(input: $input) { id status url creditCost } }"
FLAT = "mutation M($input: ImageGenerationInput!) { generateImage(input: $input) { id url width height } }"
POLL = "query Q($id: ID!) { generation(id: $id) { ...All } } fragment All on Generation { id status url }"


class Client:
    """Sends requests to one server and returns (status, body) for each."""

    def __init__(self, server: PlainServer, session: aiohttp.ClientSession) -> None:
        self.server, self.session = server, session
        self.headers: dict[str, str] = {}

    async def ask(
        self, query: str, key: str = "k-plain", idempotency_key: str = "", **variables: object
    ) -> tuple[int, Any]:
        """Send one GraphQL request."""
        headers = {"Authorization": f"Bearer {key}"} | (
            {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        )
        body = {"query": query, "variables": variables}
        async with self.session.post(f"{self.server.url}/graphql", json=body, headers=headers) as response:
            self.headers = dict(response.headers)
            return response.status, await response.json()


@asynccontextmanager
async def serving(server: PlainServer) -> AsyncIterator[Client]:
    """Yield a client of a server, both open."""
    async with server, aiohttp.ClientSession() as session:
        yield Client(server, session)


def failure(body: Any) -> str:
    """Return the message of the only error."""
    (error,) = body["errors"]
    return str(error["message"])


@pytest.mark.asyncio
async def test_the_documented_request_is_accepted_verbatim() -> None:
    """The body of wire/generate-request.json makes a job, and the answer has only the requested fields."""
    if not WIRE.is_dir():
        pytest.skip("the wire files are not beside this checkout")
    request = json.loads((WIRE / "generate-request.json").read_text())
    async with serving(PlainServer(seconds=0)) as client:
        status, body = await client.ask(request["query"], **request["variables"])
        (job,) = client.server.jobs.values()
    assert status == 200
    made = body["data"]["generate"]
    assert list(made) == ["id", "status", "type", "provider", "url", "metadata", "creditCost"]
    assert (made["id"], made["provider"], made["creditCost"]) == (job.id, "flux-kontext", 20)


@pytest.mark.asyncio
async def test_a_job_from_mutation_to_output() -> None:
    """A job is processing without a url, then completed, and its output is a picture on the other host."""
    spans = [1000.0]
    async with serving(PlainServer(seconds=lambda nth: spans[nth - 1])) as client:
        _, body = await client.ask(CREATE, input=INPUT)
        job_id = body["data"]["generate"]["id"]
        _, body = await client.ask(POLL, id=job_id)
        assert body["data"]["generation"] == {"id": job_id, "status": "processing", "url": None}
        spans.append(0.0)
        _, body = await client.ask(CREATE, input=INPUT)
        url = body["data"]["generate"]["url"]
        assert url.startswith(client.server.outputs_url)
        async with client.session.get(url) as response:
            assert await response.read() == JPEG
        async with client.session.get(url.replace("00002", "00001")) as response:
            assert response.status == 404
        assert client.server.most_at_once() == 1
    assert [each.kind for each in client.server.requests] == ["submit", "poll", "submit", "output", "output"]
    assert "authorization" not in client.server.requests[-1].headers
    Image.open(io.BytesIO(JPEG)).load()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("spelled", "mutation", "key"),
    [
        ("generate", CREATE, "generate"),
        ("generate", FLAT, "generateImage"),
        ("generateimage", CREATE, "generateimage"),
        ("generateImage", CREATE, "generateImage"),
        ("generateimage", FLAT, "generateimage"),
    ],
)
async def test_the_answer_key_follows_the_behaviour(spelled: str, mutation: str, key: str) -> None:
    """The server accepts both mutations and answers under the chosen key."""
    given = INPUT if mutation == CREATE else {"service": "flux-pro", "prompt": "a city"}
    async with serving(PlainServer(behaviour=Behaviour(answer_key=spelled))) as client:
        _, body = await client.ask(mutation, input=given)
    assert list(body["data"]) == [key]


@pytest.mark.asyncio
@pytest.mark.parametrize("with_200", [False, True])
async def test_errors_have_the_documented_status_or_200(with_200: bool) -> None:
    """The message is the same either way, and no job is made."""
    behaviour = Behaviour(errors_with_200=with_200, status_field="job")
    async with serving(PlainServer(behaviour=behaviour, requests_per_minute=4)) as client:
        said = [
            await client.ask(CREATE, key="wrong", input=INPUT),
            await client.ask(CREATE, input={**INPUT, "options": {"width": -1}}),
            await client.ask(CREATE, input={**INPUT, "prompt": "elsewhere"}),
            await client.ask(POLL, id="x"),
            await client.ask("mutation { " + "a: generate(input: 1) { id } " * 500),
            await client.ask(CREATE, input=INPUT),
        ]
    assert [status for status, _ in said] == [200] * 6 if with_200 else [401, 400, 400, 400, 400, 429]
    assert [each.meant for each in client.server.requests] == [401, 400, 400, 400, 400, 429]
    assert failure(said[3][1]) == 'Cannot query field "generation" on type "Query".'
    assert [each.counts for each in client.server.requests] == [0, 1, 1, 1, 1, 1]
    assert client.server.jobs == {}


@pytest.mark.asyncio
async def test_an_unknown_id_is_null_with_a_path() -> None:
    """Beside a known job an unknown one is null, and the error has its path."""
    async with serving(PlainServer()) as client:
        await client.ask(CREATE, input=INPUT)
        query = "query($a: ID!, $b: ID!) { x: generation(id: $a) { id } y: generation(id: $b) { id } }"
        status, body = await client.ask(query, a="plain00001", b="none")
    assert (status, body["data"]) == (200, {"x": {"id": "plain00001"}, "y": None})
    assert body["errors"][0]["path"] == ["y"]
    assert client.server.requests[-1].ids == ["plain00001", "none"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("aliases", "as_one", "counted"), [(True, True, 1), (True, False, 2), (False, True, 1)]
)
async def test_two_mutations_in_a_request(aliases: bool, as_one: bool, counted: int) -> None:
    """They make two jobs, or are too many fields; they count as one request or as two."""
    query = """mutation($a: GenerateInput!, $b: GenerateInput!) {
        a: generate(input: $a) { ...F }, b: generate(input: $b) { ...F }
    }
    fragment F on Generation { id, status }"""
    async with serving(
        PlainServer(behaviour=Behaviour(aliases=aliases, aliases_count_as_one=as_one))
    ) as client:
        status, body = await client.ask(query, a=INPUT, b=INPUT)
        assert (status, len(client.server.jobs)) == ((200, 2) if aliases else (400, 0))
        assert client.server.most_in_any_minute() == counted
    if aliases:
        assert [body["data"][alias]["id"] for alias in "ab"] == ["plain00001", "plain00002"]


@pytest.mark.asyncio
async def test_a_repeated_key() -> None:
    """It replays the first answer, is a conflict with or without the job, or is ignored."""
    async with serving(PlainServer(seconds=0)) as client:
        server = client.server
        first = await client.ask(CREATE, idempotency_key="k1", input=INPUT)
        assert await client.ask(CREATE, idempotency_key="k1", input=INPUT) == first
        server.behaviour = Behaviour(conflict_on_replay=True)
        status, body = await client.ask(CREATE, idempotency_key="k1", input=INPUT)
        assert (status, body["errors"][0]["extensions"]) == (409, {"id": "plain00001"})
        server.behaviour = Behaviour(conflict_on_replay=True, conflict_names_job=False)
        status, body = await client.ask(CREATE, idempotency_key="k1", input=INPUT)
        assert (status, "plain00001" in str(body)) == (409, False)
        assert len(server.jobs) == 1
        server.behaviour = Behaviour(keys_honoured=False)
        await client.ask(CREATE, idempotency_key="k1", input=INPUT)
        assert [job.key for job in server.jobs.values()] == ["k1", "k1"]


@pytest.mark.asyncio
async def test_a_script_cuts_or_sends_odd_answers() -> None:
    """It cuts before the job or after it, or sends raw bytes, and the server records each request."""
    raw = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}"
    odd: dict[tuple[str, int], str | bytes] = {
        ("submit", 1): "cut",
        ("submit", 2): "cut-after",
        ("output", 1): "cut",
        ("output", 2): "cut",
        ("poll", 2): raw,
    }
    async with serving(PlainServer(seconds=0, script=lambda kind, nth: odd.get((kind, nth)))) as client:
        for jobs in (0, 1):
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await client.ask(CREATE, input=INPUT)
            assert len(client.server.jobs) == jobs
        _, body = await client.ask(POLL, id="plain00001")
        headers = {"Authorization": "Bearer k-plain"}
        body = {"query": POLL, "variables": {"id": "plain00001"}}
        async with client.session.post(
            f"{client.server.url}/graphql", json=body, headers=headers
        ) as response:
            assert (response.status, await response.text()) == (502, "{}")
        # Two are cut, since aiohttp itself repeats a GET once when its connection is cut.
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.session.get(f"{client.server.outputs_url}/outputs/plain00001.jpg")
    assert [each.ids for each in client.server.requests] == [
        [],
        *[["plain00001"]] * 2,
        [],
        *[["plain00001"]] * 2,
    ]


@virtual
async def test_the_second_half_of_an_answer_may_come_late() -> None:
    """The job is made all the same, and each picture may be its job's own."""
    server = PlainServer(
        seconds=0,
        pause=lambda kind, nth: 5.0 if (kind, nth) == ("submit", 1) else 0.0,
        picture=lambda job: JPEG + job.id.encode(),
    )
    async with serving(server) as client:
        late = asyncio.ensure_future(client.ask(CREATE, input=INPUT))
        await asyncio.sleep(4.9)
        assert len(server.jobs) == 1
        assert not late.done()
        _, body = await late
        assert now() == pytest.approx(5.0)
        _, second = await client.ask(CREATE, input=INPUT)
        assert now() == pytest.approx(5.0)
        for made, name in ((body, b"plain00001"), (second, b"plain00002")):
            async with client.session.get(made["data"]["generate"]["url"]) as response:
                assert await response.read() == JPEG + name


@pytest.mark.asyncio
@pytest.mark.parametrize("unit", ["epoch_s", "epoch_ms", "seconds", "iso"])
async def test_the_request_window(unit: str) -> None:
    """A request past the limit is rejected, with rate-limit headers; other users' requests count as well."""
    shape = {"epoch_s": r"\d{10}", "epoch_ms": r"\d{13}", "seconds": "60", "iso": r"[\d-]{10}T[\d:]{8}Z"}
    async with serving(PlainServer(requests_per_minute=2, behaviour=Behaviour(reset_unit=unit))) as client:
        for left in ("1", "0"):
            assert (await client.ask(CREATE, input=INPUT))[0] == 200
            assert client.headers["X-RateLimit-Remaining"] == left
        assert (await client.ask(CREATE, input=INPUT))[0] == 429
        assert re.fullmatch(shape[unit], client.headers["X-RateLimit-Reset"])
        assert client.server.most_in_any_minute() == 3
        client.server.requests_per_minute = 100
        client.server.foreign_load(60_000)
        await asyncio.sleep(0.15)
        assert (await client.ask(CREATE, input=INPUT))[0] == 429
        assert client.headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.asyncio
async def test_concurrency_and_the_daily_limit() -> None:
    """A job above the slots is queued or rejected; one above the daily limit is rejected."""
    async with serving(PlainServer(concurrent_jobs=2, jobs_per_day=4, seconds=float)) as client:
        for _ in range(4):
            await client.ask(CREATE, input=INPUT)
        jobs = list(client.server.jobs.values())
        assert [round(job.ends - jobs[0].created) for job in jobs] == [1, 2, 4, 6]
        assert client.server.most_at_once() == 4
        status, body = await client.ask(CREATE, input=INPUT)
        assert (status, failure(body)) == (429, "Too Many Requests: jobs per day exceeded")
        client.server.behaviour, client.server.jobs_per_day = Behaviour(over_concurrency="refuse"), None
        status, body = await client.ask(CREATE, input=INPUT)
        assert (status, failure(body)) == (429, "Too Many Requests: concurrent jobs exceeded")


@pytest.mark.asyncio
async def test_introspection_gives_a_valid_schema() -> None:
    """The documented requests are valid against it."""
    async with serving(PlainServer()) as client:
        _, body = await client.ask(get_introspection_query())
        schema = build_client_schema(body["data"])
        assert [validate(schema, parse(each)) for each in (CREATE, FLAT, POLL)] == [[], [], []]
        _, body = await client.ask('{ it: __type(name: "Query") { fields { name args { name } } } }')
        (field,) = body["data"]["it"]["fields"]
        assert (field["name"], [each["name"] for each in field["args"]]) == ("generation", ["id"])
        client.server.behaviour = Behaviour(introspection=False)
        assert (await client.ask("{ __schema { queryType { name } } }"))[0] == 400


@pytest.mark.asyncio
async def test_rest() -> None:
    """The REST API takes the flat body and the other key header, and answers the bare job."""
    async with serving(PlainServer(behaviour=Behaviour(polls_count=False))) as client:
        url, headers = client.server.url, {"X-API-Key": "k-plain"}
        body = {"service": "flux-pro", "prompt": "a city", "webhookUrl": "https://example.com/hook"}
        async with client.session.post(f"{url}/v1/text_to_image", json=body, headers=headers) as response:
            made = await response.json()
        assert (made["status"], made["webhookUrl"]) == ("processing", "https://example.com/hook")
        async with client.session.get(f"{url}/v1/generations/{made['id']}", headers=headers) as response:
            assert await response.json() == made
        async with client.session.get(f"{url}/v1/generations/none", headers=headers) as response:
            assert response.status == 404
        async with client.session.post(f"{url}/v1/text_to_image", json=body) as response:
            assert response.status == 401
    assert [each.counts for each in client.server.requests] == [1, 0, 0, 0]
