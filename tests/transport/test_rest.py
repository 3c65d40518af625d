"""REST end to end: the documented header, a poll per job, and a status path that may be wrong."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    Plan,
    SubmitOutcomeUnknownError,
)
from doitong_async.events import Event, RequestSent
from doitong_async.transport.exchange import NoBody
from tests.plain_server import PlainServer
from tests.virtual import now, plain, virtual, with_emulator

FORMS = ("graphql", "graphql-flat", "rest")


def http(body: object, status: int = 200) -> bytes:
    """Return a whole HTTP response; text is no JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    kind = "text/html" if isinstance(body, str) else "application/json"
    head = f"HTTP/1.1 {status} \r\nContent-Type: {kind}\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head + text).encode()


def polls_answer(server: PlainServer, answer: bytes | None) -> None:
    """Make every poll get this answer; None is the honest one."""
    server.script = lambda kind, _: answer if kind == "poll" else None


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_the_key_travels_in_the_documented_header_alone(form: str) -> None:
    """Reference, "Endpoints and keys": each form has its own header, and outputs get none."""
    async with plain(seconds=1.0, transport=form) as (doitong, server):
        await (await doitong.generate("a fox", width=64, height=64)).read()
    right, wrong = ("x-api-key", "authorization")[:: 1 if form == "rest" else -1]
    by_kind = {request.kind: request.headers for request in server.requests}
    assert by_kind.keys() == {"submit", "poll", "output"}
    assert all(server.key in by_kind[kind][right] for kind in ("submit", "poll"))
    assert all(wrong not in headers for headers in by_kind.values())
    assert not any(server.key in value for value in by_kind["output"].values())


@virtual
async def test_each_job_has_a_poll_of_its_own_and_the_plan_is_kept() -> None:
    """No list is documented: thirty jobs at once take thirty polls a round, within the requests a minute."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=30)
    async with plain(plan, seconds=6.0, transport="rest") as (doitong, server):
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(60)))
    polls = [request.ids for request in server.requests if request.kind == "poll"]
    assert all(len(ids) == 1 for ids in polls)
    assert len(server.jobs) == 60
    assert server.most_in_any_minute() <= 60
    assert server.most_at_once() <= 30
    assert not any(request.meant == 429 for request in server.requests)


@virtual
async def test_polls_of_one_job_each_do_not_wait_for_each_other_s_answers() -> None:
    """Each answer takes a second here: a round of 32 polls must not take eight."""
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=32)
    slow = {"durations": 4.0, "faults": ["poll: latency 1"]}
    async with with_emulator(plan, transport="rest", emulator=slow) as (doitong, emulator):
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(32)))
        assert now() < 8
        assert emulator.world.charges == 32


@virtual
async def test_a_wrong_status_path_is_said_and_no_job_is_given_up() -> None:
    """A server without that path answers 404 to every poll: that says nothing about a paid job."""
    for body in ("<h1>Cannot GET /v2/jobs</h1>", {"detail": "Not Found"}, {"message": "no route"}):
        async with plain(seconds=1.0, transport="rest", status_path="/v2/jobs/{id}") as (doitong, server):
            server.script = lambda kind, _, body=body: http(body, 404) if kind == "other" else None  # type: ignore[misc]
            job = await doitong.submit("a fox")
            with pytest.raises(ConfigurationError, match=r"'/v2/jobs/\{id\}'.*Set status_path") as caught:
                await job
            assert caught.value.job_id == job.id
            assert caught.value.token == job.token


@virtual
async def test_a_job_that_is_not_visible_yet_is_no_wrong_path() -> None:
    """A service may take seconds to show a job, and nothing was found at its path so far."""
    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        polls_answer(server, http({"detail": "Not Found"}, 404))
        asyncio.get_running_loop().call_later(9.0, polls_answer, server, None)
        await doitong.generate("a fox")
        assert 9 < now() < 15


@virtual
async def test_an_unknown_job_is_told_from_an_unknown_path() -> None:
    """By the documented form of errors; or because the path has served a job before."""
    listed = http({"errors": [{"message": "No generation here", "extensions": {"code": "NOT_FOUND"}}]}, 404)
    bare = http({"detail": "Not Found"}, 404)
    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        polls_answer(server, listed)
        with pytest.raises(JobNotFoundError):
            await doitong.job("nobodymadethis")
        polls_answer(server, bare)
        with pytest.raises(ConfigurationError):
            await doitong.job("nobodymadethis").refresh()
        polls_answer(server, None)
        await doitong.generate("a fox")
        polls_answer(server, bare)
        with pytest.raises(JobNotFoundError):
            await doitong.job("nobodymadethis")


@virtual
async def test_a_gateway_s_page_is_no_answer_about_a_job() -> None:
    """Once the path is known to be right, a page with a 404 is an outage: the job is polled again."""
    async with plain(seconds=5.0, transport="rest") as (doitong, server):
        await doitong.generate("a fox")
        polls_answer(server, http("<h1>Not Found</h1>", 404))
        job = await doitong.submit("another")
        asyncio.get_running_loop().call_later(30.0, polls_answer, server, None)
        assert (await job).id == job.id
        assert now() > 30


@pytest.mark.parametrize("body", ["bare", "data", "generation"])
@virtual
async def test_a_job_is_read_wherever_the_body_has_it(body: str) -> None:
    """Reference, "What comes back": REST bodies are not shown, so they are read by shape."""

    def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
        job = json.loads((honest or b"").partition(b"\r\n\r\n")[2])
        return http(job if body == "bare" else {body: job, "took": 3})

    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        server.rewrite = rewrite
        result = await doitong.generate("a fox")
        assert result.url.endswith(".jpg")


@virtual
async def test_an_id_of_an_error_is_no_job() -> None:
    """A body that reports an error makes nothing, whatever ids it has."""
    async with plain(transport="rest", max_attempts=1) as (doitong, server):
        error = http({"error": {"id": "err_1", "status": "bad", "message": "bad request"}}, 400)
        server.script = lambda *_: error
        with pytest.raises(BadRequestError):
            await doitong.generate("a fox")
        assert doitong.jobs() == []


@virtual
async def test_what_rest_cannot_carry_is_refused_before_anything_is_sent() -> None:
    """No slot, no permit and no request is spent on it."""
    async with plain(transport="rest") as (doitong, server):
        refused: Any
        for refused in ({"quality": "high"}, {"provider": "kling"}, {"options": {"seed": 7}}):
            with pytest.raises(BadRequestError, match="Use the transport 'graphql'"):
                await doitong.generate("a fox", **refused)
        assert doitong.stats().slots_in_use == 0
        assert server.requests == []


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_an_unanswered_submit_is_sent_again_byte_for_byte(form: str) -> None:
    """Under the same key, in every form: one job."""
    async with plain(seconds=1.0, transport=form) as (doitong, server):
        sent: list[bytes] = []

        def noted(request: bytes, honest: bytes | None) -> bytes | None:
            sent.append(request)
            return honest

        server.rewrite = noted
        server.script = lambda kind, nth: "cut-after" if (kind, nth) == ("submit", 1) else None
        await doitong.generate("a fox")
    submits = [request for request in server.requests if request.kind == "submit"]
    assert len({request.headers["idempotency-key"] for request in submits}) == 1
    assert Counter(sent).most_common(1)[0] == (sent[0], 2)
    assert len(server.jobs) == 1


JOB = {"id": "plain00001", "status": "processing", "url": None}


@pytest.mark.parametrize(
    "conflict",
    [
        JOB,
        {"data": JOB, "error": "this Idempotency-Key was used before"},
        {"error": "this Idempotency-Key was used before", "jobId": "plain00001"},
        {"error": {"code": "CONFLICT", "generationId": "plain00001"}},
        {"errors": [{"message": "Conflict", "extensions": {"id": "plain00001"}}]},
    ],
)
@virtual
async def test_a_conflict_names_the_job_of_the_key_in_any_shape(conflict: object) -> None:
    """Reference, "Unknown": a key that is sent again brings the first answer, or a conflict."""
    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        answers: dict[int, bytes | str] = {1: "cut-after", 2: http(conflict, 409)}
        server.script = lambda kind, nth: answers.get(nth) if kind == "submit" else None
        assert (await doitong.generate("a fox")).id == "plain00001"
    assert len(server.jobs) == 1


@pytest.mark.parametrize(
    "body", [{"id": "err-1", "status": 409, "detail": "used"}, {"error": {"id": "err-1"}}]
)
@virtual
async def test_the_id_of_a_conflict_is_no_job_s(body: object) -> None:
    """Nobody knows what it numbers; the submit stays in doubt, and its key is told."""
    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        answers: dict[int, bytes | str] = {1: "cut-after", 2: http(body, 409)}
        server.script = lambda kind, nth: answers.get(nth) if kind == "submit" else None
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox", idempotency_key="my-own-key")
        assert (caught.value.job_id, caught.value.idempotency_key) == (None, "my-own-key")


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_a_wrong_address_names_the_settings_that_make_it(form: str) -> None:
    """Each form has an address of its own below the root."""
    async with plain(transport=form) as (doitong, server):
        server.script = lambda *_: http({"detail": "Not Found"}, 404)
        with pytest.raises(ConfigurationError) as caught:
            await doitong.generate("a fox")
        assert caught.value.advice == "Check base_url and transport."


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_a_job_knows_its_type_and_provider_in_every_form(form: str) -> None:
    """The flat answers name neither; so do tokens and results, and so does a job that is resumed."""
    async with with_emulator(Plan.PRO, transport=form) as (doitong, _):
        job = await doitong.submit("a fox", provider="flux-krea", width=64, height=64)
        result = await job
        assert (result.type, result.provider) == ("IMAGE", "flux-krea")
        assert result.credit_cost


@pytest.mark.parametrize(
    "request_",
    [
        {"provider": "runway-i2v", "input": {"image": "https://e.example/a.jpg"}},
        {"prompt": "hello", "provider": "hedra", "input": {"avatarId": "a"}},
        {"prompt": "hello", "provider": "elevenlabs", "input": {"voice": "deep"}},
    ],
)
@pytest.mark.parametrize("server", ["emulator", "plain"])
@virtual
async def test_the_siblings_of_the_flat_form_make_their_outputs(server: str, request_: Any) -> None:
    """`videoUrl` and `audioUrl` are outputs as well, from whichever answer they come."""
    opened: Any = with_emulator(Plan.PRO, transport="graphql-flat")
    if server == "plain":
        opened = plain(seconds=1.0, transport="graphql-flat")
    async with opened as (doitong, _):
        result = await doitong.generate(**request_)
        assert await result.read(check=server == "emulator")


@pytest.mark.parametrize("where", [{"error": "too spicy"}, {"failure": {"message": "too spicy"}}, "metadata"])
@virtual
async def test_a_failed_job_says_why_wherever_the_service_put_it(where: Any) -> None:
    """Beside the status, below it, or in the metadata; the field itself is kept in `extra`."""

    def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
        job = json.loads((honest or b"").partition(b"\r\n\r\n")[2])
        reason = {"metadata": {"reason": "too spicy"}} if where == "metadata" else where
        return http(
            job | {"status": "failed", "url": None, "metadata": None, **reason} if not request else job
        )

    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        server.rewrite = rewrite
        with pytest.raises(JobFailedError, match="The service said: too spicy") as caught:
            await doitong.generate("a fox")
        assert caught.value.generation is not None
        assert "createdAt" not in caught.value.generation.extra
        assert where == "metadata" or where.items() <= caught.value.generation.extra.items()


@virtual
async def test_a_poll_whose_connection_breaks_is_sent_once() -> None:
    """aiohttp repeats a GET by itself after that, and the plan counts both."""
    sent: list[Event] = []
    async with plain(seconds=30.0, transport="rest", timeout=20.0, on_event=sent.append) as (doitong, server):
        server.script = lambda kind, _: "cut" if kind == "poll" else None
        with pytest.raises(JobTimeoutError, match="the connection broke"):
            await doitong.generate("a fox")
        polls = sum(isinstance(event, RequestSent) and event.kind == "poll" for event in sent)
        assert polls == [request.kind for request in server.requests].count("poll") > 3


@virtual
async def test_a_poll_goes_through_the_middlewares_of_the_session() -> None:
    """As a submit does."""
    seen: list[str] = []

    async def note(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
        seen.append(request.method)
        return await handler(request)

    async with (
        aiohttp.ClientSession(middlewares=(note,)) as session,
        plain(seconds=1.0, transport="rest", session=session) as (doitong, _),
    ):
        await doitong.generate("a fox")
    assert seen == ["POST", "GET"]


@virtual
async def test_polls_go_where_submits_go() -> None:
    """Also if the address of the service has to be encoded."""
    paths: list[str] = []

    async with PlainServer(seconds=1.0) as server:
        honest = server._honest

        def below(path: str, headers: dict[str, str], raw: bytes) -> bytes | None:
            paths.append(path)
            return honest(path.removeprefix("/d%C3%BC"), headers, raw)

        server._honest = below  # type: ignore[method-assign]
        root = f"{server.url}/dü"
        async with AsyncDoitong(api_key=server.key, base_url=root, plan="pro", transport="rest") as doitong:
            await doitong.generate("a fox")
    assert {path.partition("/v1/")[0] for path in paths} == {"/d%C3%BC"}
    assert len(paths) == 2


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_a_proxy_s_refusal_is_said_of_a_poll(form: Any) -> None:
    """No connection was made, so nothing was sent, whatever the form."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        settings: Any = {"base_url": "https://api.example", "proxy": f"http://127.0.0.1:{port}"}
        async with AsyncDoitong(api_key="k-test", transport=form, **settings) as doitong:
            with pytest.raises(ConnectionFailedError, match="proxy refused the connection: HTTP 407") as no:
                await doitong.job("abc").refresh()
    assert not no.value.sent


@virtual
async def test_a_poll_without_a_body_counts_as_sent_unless_nothing_was_reached() -> None:
    """Nothing tells how far a request without a body got, and the service may have counted it."""
    async with plain(seconds=1.0, transport="rest") as (doitong, server):
        job = await doitong.submit("a fox")
        before = doitong.stats().requests_left
        server.script = lambda *_: "cut"
        with pytest.raises(ConnectionFailedError) as caught:
            await job.refresh()
        assert caught.value.sent
        assert doitong.stats().requests_left == before - 1
    reached = aiohttp.ClientConnectorError(None, OSError(111, "refused"))  # type: ignore[arg-type]
    for unmade in (reached, aiohttp.ConnectionTimeoutError()):
        assert not NoBody().may_have_left(unmade, None)
    assert NoBody().may_have_left(aiohttp.ServerDisconnectedError(), None)
