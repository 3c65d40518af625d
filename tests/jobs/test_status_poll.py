"""One poll of many jobs: whole if possible, halved if it fails, renamed if the field is unknown."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from doitong_async import (
    ConfigurationError,
    DoitongError,
    JobNotFoundError,
    JobTimeoutError,
    Plan,
    ProtocolError,
    ServerError,
)
from tests.plain_server import Behaviour, PlainServer
from tests.virtual import now, plain, virtual, with_emulator

Json = dict[str, Any]
BAD = "plain00003"


def answer(body: Json | str, status: str = "200 OK") -> bytes:
    """Return a whole HTTP response as bytes."""
    text = body if isinstance(body, str) else json.dumps(body)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head + text).encode()


def body_of(honest: bytes | None) -> Json:
    """Return the JSON body of an HTTP response."""
    body: Json = json.loads((honest or b"").partition(b"\r\n\r\n")[2] or b"{}")
    return body


def reject_polls(server: PlainServer, failure_of: Callable[[list[str]], Json | None]) -> None:
    """Make the server fail polls as a whole, depending on their ids."""

    def poll(request: bytes, honest: bytes | None) -> bytes | None:
        variables = json.loads(request).get("variables", {})
        ids = [value for name, value in variables.items() if re.fullmatch(r"i\d+", name)]
        failure = failure_of(ids) if ids else None
        return honest if failure is None else answer(failure)

    server.rewrite = poll


def sizes(server: PlainServer) -> list[int]:
    """Return how many jobs each poll asked for."""
    return [len(request.ids) for request in server.requests if request.kind == "poll"]


@virtual
async def test_one_job_that_nulls_the_whole_answer_harms_no_other() -> None:
    """With a non-null field one bad id nulls everything; halving isolates it and serves the others."""
    nulled = {"data": None, "errors": [{"message": "boom", "path": ["j2", "status"]}]}
    async with plain(seconds=1.0) as (doitong, server):
        reject_polls(server, lambda ids: nulled if BAD in ids else None)
        jobs = [await doitong.submit(f"fox {n}") for n in range(8)]
        good = [job for job in jobs if job.id != BAD]
        await asyncio.gather(*good)
        assert now() == 2.0
        assert sizes(server) == [8, 4, 2, 2, 1, 1, 4]
        assert [job.id for job in doitong.jobs()] == [BAD]


@virtual
async def test_the_poller_learns_how_many_jobs_fit_into_one_poll() -> None:
    """A service that rejects many jobs in one request then gets as many as it accepts."""
    too_many = {"errors": [{"message": "Query is too complex"}]}
    async with plain(seconds=7.0) as (doitong, server):
        reject_polls(server, lambda ids: too_many if len(ids) > 3 else None)
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        # Once more after the schema has shown that the operation exists; then in halves. The poller does so
        # for three polls before it shrinks the size.
        halves = [8, 4, 2, 2, 4, 2, 2]
        assert sizes(server) == [8, *halves * 3, *[2] * 4]


@virtual
async def test_a_service_that_rejects_every_poll_is_not_asked_for_each_job() -> None:
    """Halving goes down to one job and asks once for each remainder; the next tick starts over."""
    no = {"data": None, "errors": [{"message": "not today"}]}
    rejecting = True
    async with plain(seconds=3.0) as (doitong, server):
        reject_polls(server, lambda ids: no if rejecting else None)
        jobs = [await doitong.submit(f"fox {n}") for n in range(8)]
        await asyncio.sleep(3)
        assert sizes(server) == [8, 4, 2, 1, 1, 2, 4]
        rejecting = False
        await asyncio.gather(*jobs)


@virtual
async def test_jobs_missing_from_an_answer_are_polled_again_at_once() -> None:
    """A service that answers one alias of several leaves no job waiting, and is soon polled one by one."""
    async with plain(seconds=7.0) as (doitong, server):

        def first_only(request: bytes, honest: bytes | None) -> bytes | None:
            jobs = body_of(honest).get("data") or {}
            return answer({"data": {"j0": jobs["j0"]}}) if "j0" in jobs else honest

        server.rewrite = first_only
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(3)))
        assert sizes(server) == [*[3, 2, 1] * 3, 1, 1, 1]


PAGE = answer("<html>Just a moment</html>")
TRANSIENT: Json = {"data": None, "errors": [{"message": "Something went wrong"}]}


@pytest.mark.parametrize("glitch", ["page", "nonsense", "error", "part", "errors of one moment"])
@virtual
async def test_one_odd_answer_changes_nothing_permanently(glitch: str) -> None:
    """The next poll asks for all jobs in one request again; an HTML page does not even cause halving."""
    async with plain(seconds=9.0) as (doitong, server):
        left = 3 if glitch == "errors of one moment" else 1

        def odd(request: bytes, honest: bytes | None) -> bytes | None:
            nonlocal left
            if b"query Status" not in request or now() < 4.0 or not left:
                return honest
            left -= 1
            body = body_of(honest)
            if glitch == "part":
                return answer({"data": {name: body["data"][name] for name in list(body["data"])[:3]}})
            return {"page": PAGE, "nonsense": answer("[]")}.get(glitch, answer(TRANSIENT))

        server.rewrite = odd
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        at_once = {
            "page": [8],
            "nonsense": [8],
            "error": [8, 4, 4],
            "part": [8, 5],
            "errors of one moment": [8, 4, 2, 1, 1, 2, 4],
        }
        assert sizes(server) == [8, *at_once[glitch], 8, 8, 8]
        assert not left


@virtual
async def test_a_size_that_was_too_large_is_tried_again() -> None:
    """A service that accepted only two at once for a while is asked for all of them again."""
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=8)
    async with plain(plan, seconds=120.0) as (doitong, server):
        reject_polls(server, lambda ids: TRANSIENT if len(ids) > 2 and now() < 20.0 else None)
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        asked = [(request.at, len(request.ids)) for request in server.requests if request.kind == "poll"]
        narrow = [size for at, size in asked if 8.0 <= at < 20.0]
        # Six polls of all jobs, two at a time. A trial costs its own requests, and the next comes later.
        assert narrow.count(2) == 6 * 4
        assert narrow.count(4) == 2 == len(narrow) - narrow.count(2)
        assert all(size == 8 for at, size in asked if at > 32.0)


@pytest.mark.parametrize("status", ["400 Bad Request", "408 Request Timeout", "502 Bad Gateway"])
@virtual
async def test_an_html_page_does_not_halve_the_poll(status: str) -> None:
    """A page says nothing about the query, so the poller asks once a tick."""
    async with plain(seconds=20.0) as (doitong, server):
        jobs = [await doitong.submit(f"fox {n}") for n in range(8)]
        await asyncio.sleep(3)
        server.rewrite = lambda request, honest: answer("<html>", status) if b"Status" in request else honest
        await asyncio.sleep(6)
        assert sizes(server) == [8, 8, 8, 8]
        server.rewrite = lambda request, honest: honest
        await asyncio.gather(*jobs)


@virtual
async def test_a_poll_that_a_gateway_finds_too_large_is_halved() -> None:
    """A 413 is about the size, whoever sends it and in whatever form."""
    too_large = answer("<html>", "413 Content Too Large")
    async with plain(seconds=1.0) as (doitong, server):
        server.rewrite = lambda request, honest: too_large if b"j4:" in request else honest
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        assert sizes(server)[-2:] == [4, 4]


@pytest.mark.parametrize("argument_type", ["Int!", "Int"])
@virtual
async def test_an_operation_that_takes_a_number_gets_numbers(argument_type: str) -> None:
    """An id that is not a number fails at once with its own error, unsent; no other job suffers."""
    behaviour = Behaviour(status_type=argument_type)
    operation = f"generation(id: {argument_type})"
    async with plain(seconds=5.0, behaviour=behaviour, status_operation=operation) as (doitong, server):
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(3)]
        for job_id in ("not-a-number", "007", "99999999999", "1.0", "١"):
            odd = doitong.job(job_id)
            with pytest.raises(ProtocolError, match=r"takes a number.*The job goes on") as caught:
                await odd
            assert caught.value.job_id == job_id
            with pytest.raises(ProtocolError, match="takes a number"):
                await odd.refresh()
        assert {result.id for result in await asyncio.gather(*work)} == {"1", "2", "3"}
        assert now() <= 8.0
        assert {request.status for request in server.requests} == {200}


@virtual
async def test_an_operation_that_takes_a_number_is_found_in_the_schema() -> None:
    """Introspection accepts a numeric id as well as an ID."""
    async with plain(seconds=5.0, behaviour=Behaviour(status_type="Int!", status_field="job")) as (
        doitong,
        server,
    ):
        assert (await doitong.generate("a fox")).id == "1"
        assert sum(request.kind == "introspection" for request in server.requests) == 1


@virtual
async def test_a_failed_refresh_says_why_and_that_the_job_goes_on() -> None:
    """`refresh` raises the poll's failure; the job and its cost are unchanged."""
    async with plain(seconds=9.0) as (doitong, server):
        job = await doitong.submit("a fox")
        server.script = lambda kind, nth: answer("<html>", "503 Busy") if kind == "poll" else None
        with pytest.raises(ServerError, match="The job goes on") as caught:
            await job.refresh()
        assert caught.value.job_id == job.id
        server.script = lambda kind, nth: "cut" if kind == "poll" else None
        with pytest.raises(DoitongError, match="The job goes on"):
            await job.refresh()
        server.script = lambda kind, nth: None
        assert (await job.refresh()).status == "processing"


@pytest.mark.parametrize(
    "status", ["503 Busy", "500 Oops", "408 Slow", "425 Early", "400 Bad", "200 OK", "403 No"]
)
@virtual
async def test_no_poll_is_sent_before_retry_after_has_passed(status: str) -> None:
    """Not the next tick, not a half of the poll, and not a `refresh`."""
    busy = answer({"errors": [{"message": "busy"}]}, f"{status}\r\nRetry-After: 20")
    async with plain(seconds=5.0) as (doitong, server):
        jobs = [await doitong.submit(f"fox {n}") for n in range(3)]
        server.script = lambda kind, nth: busy if (kind, nth) == ("poll", 2) else None
        await asyncio.sleep(5)
        await asyncio.gather(*jobs)
        _, failure, *later = [each for each in server.requests if each.kind == "poll"]
        assert (failure.at, later[0].at) == (4.0, 24.0)
        # One whole poll, not halves: the failure was not about the jobs.
        assert len(later[0].ids) == 3
        server.script = lambda kind, nth: busy if (kind, nth) == ("poll", 4) else None
        job = await doitong.submit("a hare")
        with pytest.raises(DoitongError, match="busy"):
            await job.refresh()
        asked = now()
        await job.refresh()
        assert now() == asked + 20.0


@virtual
async def test_retry_after_does_not_extend_a_timeout() -> None:
    """The caller's own timeout holds."""
    busy = answer("busy", "503 Busy\r\nRetry-After: 300")
    async with plain(seconds=3.0) as (doitong, server):
        server.script = lambda kind, nth: busy if kind == "poll" else None
        job = await doitong.submit("a fox")
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=30.0)
        assert now() == 30.0


@virtual
async def test_refreshing_an_unknown_job_fails_at_once() -> None:
    """`refresh` wants an answer now, so one "not found" is enough."""
    async with with_emulator() as (doitong, _):
        with pytest.raises(JobNotFoundError):
            await doitong.job("stranger").refresh()


@pytest.mark.parametrize("introspection", [True, False])
@virtual
async def test_a_wrong_status_operation_is_an_error_that_names_the_candidates(introspection: bool) -> None:
    """Where two fields fit, the client does not guess; the error names the setting and both fields."""
    async with plain(behaviour=Behaviour(introspection=introspection), status_operation="wrong") as (
        doitong,
        server,
    ):

        def offer_two_fields(request: bytes, honest: bytes | None) -> bytes | None:
            body = body_of(honest)
            if b"__schema" in request and introspection:
                fields = body["data"]["__schema"]["queryType"]["fields"]
                fields.append({**fields[0], "name": "jobStatus"})
                return answer(body)
            return honest

        server.rewrite = offer_two_fields
        job = await doitong.submit("a fox")
        with pytest.raises(ConfigurationError, match="status_operation") as caught:
            await job
        candidates = "generation(id: ID!), jobStatus(id: ID!)" if introspection else "none"
        assert candidates in str(caught.value)
        assert [each.id for each in doitong.jobs()] == [job.id]


@virtual
async def test_a_bad_request_about_one_job_does_not_blame_the_setting() -> None:
    """The schema knows the operation: only the poll failed, and the next one may succeed."""
    no = {"errors": [{"message": "id is malformed", "extensions": {"code": "BAD_USER_INPUT"}}]}
    rejecting = True
    async with plain(seconds=3.0) as (doitong, server):
        reject_polls(server, lambda ids: no if rejecting else None)
        job = await doitong.submit("a fox")
        await asyncio.sleep(7)
        assert sum(request.kind == "introspection" for request in server.requests) == 1
        rejecting = False
        assert (await job).id == job.id


@virtual
async def test_a_failed_introspection_is_repeated() -> None:
    """A 500 on introspection decides nothing."""
    async with plain(seconds=3.0, behaviour=Behaviour(status_field="other")) as (doitong, server):
        busy = answer("busy", "500 Oops")
        server.script = lambda kind, nth: busy if (kind, nth) == ("introspection", 1) else None
        assert (await doitong.generate("a fox")).id
        assert sum(request.kind == "introspection" for request in server.requests) == 2


@pytest.mark.parametrize("bad", ["plain00001", "plain00002", "plain00004"])
@virtual
async def test_a_job_that_spoils_every_poll_starves_no_other(bad: str) -> None:
    """In any position, it is soon polled alone, and less and less often."""
    nulled = {"data": None, "errors": [{"message": "boom", "path": ["j0", "status"]}]}
    async with plain(seconds=5.0, timeout=60.0) as (doitong, server):
        reject_polls(server, lambda ids: nulled if bad in ids else None)
        jobs = [await doitong.submit(f"fox {n}") for n in range(4)]
        await asyncio.gather(*(job for job in jobs if job.id != bad))
        assert now() == 6.0
        with pytest.raises(JobTimeoutError, match="boom"):
            await doitong.job(bad)
        alone = [request.at for request in server.requests if request.kind == "poll" and request.at > 6.0]
        assert len(alone) <= 5


@virtual
async def test_one_malformed_id_stops_no_other_job() -> None:
    """A 400 for a malformed id is about that id once the operation has worked for others."""
    malformed = {"errors": [{"message": "Variable $i0 got invalid value"}]}
    async with plain(seconds=9.0, behaviour=Behaviour(introspection=False)) as (doitong, server):
        reject_polls(server, lambda ids: malformed if "not-a-uuid" in ids else None)
        good = await doitong.submit("a fox")
        await asyncio.sleep(3)
        odd = doitong.job("not-a-uuid")
        with pytest.raises(JobTimeoutError):
            await odd.wait(timeout=4)
        assert (await good).id == good.id
        assert (await doitong.generate("another")).id


@pytest.mark.parametrize(
    "message",
    [
        "field 'job' not found in type: 'query_root'",
        "Field 'job' doesn't exist on type 'Query'",
        "Validation error (FieldUndefined@[job]) : Field 'job' in type 'Query' is undefined",
        'Unknown field "job" on type "Query"',
    ],
)
@virtual
async def test_an_unknown_field_is_recognised_in_any_servers_wording(message: str) -> None:
    """No poll has worked and the server rejects the whole document: the client fetches the schema once."""
    unknown = answer({"errors": [{"message": message}]})
    async with plain(seconds=3.0, status_operation="job(id: ID!)") as (doitong, server):
        server.rewrite = lambda request, honest: unknown if b"job(id" in request else honest
        assert (await doitong.generate("a fox")).id
        assert sum(request.kind == "introspection" for request in server.requests) == 1


@virtual
async def test_an_error_about_one_alias_is_reported() -> None:
    """The job is neither found nor missing; the next poll may succeed."""
    odd = answer({"data": {"j0": None}, "errors": [{"message": "database is tired", "path": ["j0"]}]})
    async with plain(seconds=30.0) as (doitong, server):
        job = await doitong.submit("a fox")
        server.script = lambda kind, nth: odd if kind == "poll" else None
        with pytest.raises(ProtocolError, match="database is tired"):
            await job.refresh()
        with pytest.raises(JobTimeoutError, match="database is tired"):
            await job.wait(timeout=3)
        server.script = lambda kind, nth: None
        assert (await job).id == job.id
