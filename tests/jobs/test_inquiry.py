"""One look at many jobs: whole where it goes, in halves where refused, by another name where unknown."""

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
    ProtocolError,
    ServerError,
)
from tests.plain_server import PlainServer, Ways
from tests.virtual import boxed, now, plain, virtual

Json = dict[str, Any]
BAD = "plain00003"


def answer(body: Json | str, status: str = "200 OK") -> bytes:
    """Return an HTTP answer as bytes."""
    text = body if isinstance(body, str) else json.dumps(body)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head + text).encode()


def body_of(honest: bytes | None) -> Json:
    """Return the JSON of an HTTP answer."""
    body: Json = json.loads((honest or b"").partition(b"\r\n\r\n")[2] or b"{}")
    return body


def strict(server: PlainServer, is_bad: Callable[[list[str]], Json | None]) -> None:
    """Make a server answer some looks as a whole with an error, by the ids that are asked for."""

    def look(request: bytes, honest: bytes | None) -> bytes | None:
        variables = json.loads(request).get("variables", {})
        ids = [value for name, value in variables.items() if re.fullmatch(r"i\d+", name)]
        refused = is_bad(ids) if ids else None
        return honest if refused is None else answer(refused)

    server.rewrite = look


def sizes(server: PlainServer) -> list[int]:
    """Return how many jobs each look asked for."""
    return [len(request.ids) for request in server.requests if request.kind == "poll"]


@virtual
async def test_one_job_that_nulls_the_whole_answer_harms_no_other() -> None:
    """With a non-null field one bad id nulls all of it: halves find it, the others are served at once."""
    nulled = {"data": None, "errors": [{"message": "boom", "path": ["j2", "status"]}]}
    async with plain(seconds=1.0) as (doitong, server):
        strict(server, lambda ids: nulled if BAD in ids else None)
        jobs = [await doitong.submit(f"fox {n}") for n in range(8)]
        good = [job for job in jobs if job.id != BAD]
        await asyncio.gather(*good)
        assert now() == 2.0
        assert sizes(server) == [8, 4, 2, 2, 1, 1, 4]
        assert [job.id for job in doitong.jobs()] == [BAD]


@virtual
async def test_what_one_look_can_hold_is_learned() -> None:
    """A service that refuses many jobs in one request is asked for as many as it takes from then on."""
    too_many = {"errors": [{"message": "Query is too complex"}]}
    async with plain(seconds=5.0) as (doitong, server):
        strict(server, lambda ids: too_many if len(ids) > 3 else None)
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        # Once more after the schema has shown that the operation is known; then in halves; then in twos.
        assert sizes(server) == [8, 8, 4, 2, 2, 4, 2, 2, *[2] * 8]


@virtual
async def test_a_service_that_refuses_every_look_is_not_asked_for_each_job() -> None:
    """Halves go down to one job, and ask once for each rest; then the next tick tries again."""
    no = {"data": None, "errors": [{"message": "not today"}]}
    refusing = True
    async with plain(seconds=3.0) as (doitong, server):
        strict(server, lambda ids: no if refusing else None)
        jobs = [await doitong.submit(f"fox {n}") for n in range(8)]
        await asyncio.sleep(3)
        assert sizes(server) == [8, 4, 2, 1, 1, 2, 4]
        refusing = False
        await asyncio.gather(*jobs)


@virtual
async def test_jobs_that_were_passed_over_are_asked_for_again_at_once() -> None:
    """A service that answers one alias of several leaves none waiting, and is asked one by one then."""
    async with plain(seconds=1.0) as (doitong, server):

        def first_only(request: bytes, honest: bytes | None) -> bytes | None:
            jobs = body_of(honest).get("data") or {}
            return answer({"data": {"j0": jobs["j0"]}}) if "j0" in jobs else honest

        server.rewrite = first_only
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(3)))
        assert sizes(server) == [3, 1, 1]


@virtual
async def test_a_look_that_fails_says_why_and_that_the_job_goes_on() -> None:
    """`refresh` raises what the look met; nothing about the job or its cost has changed."""
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
async def test_no_poll_is_sent_before_the_service_is_ready_for_it(status: str) -> None:
    """Not the next tick, not a half of it, and not one that is asked for by `refresh`."""
    busy = answer({"errors": [{"message": "busy"}]}, f"{status}\r\nRetry-After: 20")
    async with plain(seconds=5.0) as (doitong, server):
        jobs = [await doitong.submit(f"fox {n}") for n in range(3)]
        server.script = lambda kind, nth: busy if (kind, nth) == ("poll", 2) else None
        await asyncio.sleep(5)
        await asyncio.gather(*jobs)
        _, refused, *later = [each for each in server.requests if each.kind == "poll"]
        assert (refused.at, later[0].at) == (4.0, 24.0)
        # Whole again, and not in halves: it was not about the jobs.
        assert len(later[0].ids) == 3
        server.script = lambda kind, nth: busy if (kind, nth) == ("poll", 4) else None
        job = await doitong.submit("a hare")
        with pytest.raises(DoitongError, match="busy"):
            await job.refresh()
        asked = now()
        await job.refresh()
        assert now() == asked + 20.0


@virtual
async def test_a_wait_ends_in_time_whatever_the_service_asks() -> None:
    """The caller's own bound holds."""
    busy = answer("busy", "503 Busy\r\nRetry-After: 300")
    async with plain(seconds=3.0) as (doitong, server):
        server.script = lambda kind, nth: busy if kind == "poll" else None
        job = await doitong.submit("a fox")
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=30.0)
        assert now() == 30.0


@virtual
async def test_a_look_at_a_job_that_is_not_known_says_so() -> None:
    """At once: whoever asks now wants to know now."""
    async with boxed() as (doitong, _):
        with pytest.raises(JobNotFoundError):
            await doitong.job("stranger").refresh()


@pytest.mark.parametrize("introspection", [True, False])
@virtual
async def test_a_wrong_setting_is_told_with_what_would_do(introspection: bool) -> None:
    """Where two fields fit, nobody guesses; the error names the setting and them."""
    async with plain(ways=Ways(introspection=introspection), status_operation="wrong") as (doitong, server):

        def two(request: bytes, honest: bytes | None) -> bytes | None:
            body = body_of(honest)
            if b"__schema" in request and introspection:
                fields = body["data"]["__schema"]["queryType"]["fields"]
                fields.append({**fields[0], "name": "jobStatus"})
                return answer(body)
            return honest

        server.rewrite = two
        job = await doitong.submit("a fox")
        with pytest.raises(ConfigurationError, match="status_operation") as caught:
            await job
        candidates = "generation(id: ID!), jobStatus(id: ID!)" if introspection else "none"
        assert candidates in str(caught.value)
        assert [each.id for each in doitong.jobs()] == [job.id]


@virtual
async def test_a_bad_request_about_one_job_is_not_taken_for_a_wrong_setting() -> None:
    """The schema knows the operation: the look failed, and the next one may not."""
    no = {"errors": [{"message": "id is malformed", "extensions": {"code": "BAD_USER_INPUT"}}]}
    refusing = True
    async with plain(seconds=3.0) as (doitong, server):
        strict(server, lambda ids: no if refusing else None)
        job = await doitong.submit("a fox")
        await asyncio.sleep(7)
        assert sum(request.kind == "introspection" for request in server.requests) == 1
        refusing = False
        assert (await job).id == job.id


@virtual
async def test_a_schema_that_cannot_be_had_now_is_asked_for_again() -> None:
    """A 500 on introspection decides nothing."""
    async with plain(seconds=3.0, ways=Ways(status_field="other")) as (doitong, server):
        busy = answer("busy", "500 Oops")
        server.script = lambda kind, nth: busy if (kind, nth) == ("introspection", 1) else None
        assert (await doitong.generate("a fox")).id
        assert sum(request.kind == "introspection" for request in server.requests) == 2


@pytest.mark.parametrize("bad", ["plain00001", "plain00002", "plain00004"])
@virtual
async def test_a_job_that_spoils_every_look_starves_no_other(bad: str) -> None:
    """Wherever it stands in line; from then on it is asked for alone, and less and less often."""
    nulled = {"data": None, "errors": [{"message": "boom", "path": ["j0", "status"]}]}
    async with plain(seconds=5.0, timeout=60.0) as (doitong, server):
        strict(server, lambda ids: nulled if bad in ids else None)
        jobs = [await doitong.submit(f"fox {n}") for n in range(4)]
        await asyncio.gather(*(job for job in jobs if job.id != bad))
        assert now() == 6.0
        with pytest.raises(JobTimeoutError, match="boom"):
            await doitong.job(bad)
        alone = [request.at for request in server.requests if request.kind == "poll" and request.at > 6.0]
        assert len(alone) <= 5


@virtual
async def test_one_odd_id_stops_nobody() -> None:
    """A 400 for an id that is no id is about that id, once the operation has worked for others."""
    malformed = {"errors": [{"message": "Variable $i0 got invalid value"}]}
    async with plain(seconds=9.0, ways=Ways(introspection=False)) as (doitong, server):
        strict(server, lambda ids: malformed if "not-a-uuid" in ids else None)
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
async def test_an_unknown_field_is_understood_in_any_servers_words(message: str) -> None:
    """No look ever worked, and the document is refused as a whole: the schema is asked, once."""
    unknown = answer({"errors": [{"message": message}]})
    async with plain(seconds=3.0, status_operation="job(id: ID!)") as (doitong, server):
        server.rewrite = lambda request, honest: unknown if b"job(id" in request else honest
        assert (await doitong.generate("a fox")).id
        assert sum(request.kind == "introspection" for request in server.requests) == 1


@virtual
async def test_a_job_that_could_not_be_read_says_so() -> None:
    """Neither found nor missing: the error of its alias is told, and the next look may do better."""
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
