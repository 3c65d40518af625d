"""Every job that may have been charged is reported: in the result, the error, the ledger or the log."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    AsyncJob,
    AuthenticationError,
    BadRequestError,
    Batch,
    ClientClosedError,
    ConfigurationError,
    DoitongError,
    DownloadError,
    InsufficientCreditsError,
    Item,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    Outcome,
    Plan,
    ProtocolError,
    Result,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.testing import run_virtual
from tests.plain_server import Behaviour, PlainServer
from tests.strides import offset
from tests.virtual import now, plain, until, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=600_000, concurrent_jobs=4_000)


def http(status: int, body: Any, content_type: str = "application/json", **headers: str) -> bytes:
    """Return an HTTP answer as bytes."""
    raw = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(raw)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + raw


PAGE = http(403, "<html>Just a moment…</html>", "text/html")


def odd(kind: str, *answers: bytes | str | None) -> Callable[[str, int], bytes | str | None]:
    """Return a script: the first requests of a kind get these answers, the rest are answered normally."""
    return lambda asked, nth: answers[nth - 1] if asked == kind and nth <= len(answers) else None


def always(kind: str, answer: bytes | str) -> Callable[[str, int], bytes | str | None]:
    """Return a script: every request of a kind gets this answer."""
    return lambda asked, _: answer if asked == kind else None


class TestAnErrorBelowTheRootFieldProvesExecution:
    @pytest.mark.slow
    @pytest.mark.parametrize("status", [200, 401, 402, 500])
    @pytest.mark.parametrize(
        "error",
        [
            {"message": "Unauthorized"},
            {"message": "Insufficient credits", "extensions": {"code": "INSUFFICIENT_CREDITS"}},
            {"message": "bad", "extensions": {"code": "BAD_USER_INPUT"}},
            {"message": "slow down", "extensions": {"code": "RATE_LIMITED"}},
            {"message": "not found", "extensions": {"code": "NOT_FOUND"}},
            {"message": "boom"},
            {},
        ],
    )
    @virtual
    async def test_the_submit_is_in_doubt_whatever_the_error_says(
        self, error: dict[str, Any], status: int
    ) -> None:
        """The field failed after the mutation ran, so the error holds the one key that was sent."""
        body = {"data": {"generate": None}, "errors": [{**error, "path": ["generate", "creditCost"]}]}
        async with plain() as (doitong, server):
            server.script = always("submit", http(status, body))
            with pytest.raises(SubmitOutcomeUnknownError) as caught:
                await doitong.submit("a fox")
        keys = {each.headers["idempotency-key"] for each in server.requests if each.kind == "submit"}
        assert {caught.value.idempotency_key} == keys
        assert "nothing was charged" not in str(caught.value)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "body",
        [
            {"data": None, "errors": [{"message": "Unauthorized", "path": ["generate", "url"]}]},
            {"data": {"generate": {}}, "errors": [{"message": "Unauthorized"}]},
            {
                "data": {"generate": {"id": None}},
                "errors": [{"message": "Unauthorized", "path": ["generate"]}],
            },
            {"errors": [{"message": "Unauthorized"}, {"message": "x", "path": ["generate", "id"]}]},
            {"errors": [{"message": "Unauthorized", "path": "generate.creditCost"}]},
            {"errors": [{"message": "Unauthorized", "path": ["generate.creditCost"]}]},
            {"errors": [{"message": "Unauthorized", "path": "generate->creditCost"}]},
            {"errors": [{"message": "Unauthorized", "extensions": {"path": ["generate", "url"]}}]},
            {"errors": [{"message": "Unauthorized", "path": ["generate"], "extensions": {"jobId": "j"}}]},
            {"data": [{"id": None}], "errors": [{"message": "Unauthorized"}]},
            [{"data": None, "errors": [{"message": "Unauthorized", "path": ["generate", "url"]}]}],
        ],
    )
    @virtual
    async def test_every_spelling_of_such_an_error_counts(self, body: dict[str, Any]) -> None:
        """Data nulled up to the top, an object without its id, a second error, a path as text, a list."""
        async with plain(max_attempts=1) as (doitong, server):
            server.script = always("submit", http(200, body))
            with pytest.raises(SubmitOutcomeUnknownError) as caught:
                await doitong.submit("a fox")
            assert caught.value.idempotency_key

    @pytest.mark.parametrize("status", [200, 401, 500])
    @virtual
    async def test_partial_data_with_an_id_is_the_job(self, status: int) -> None:
        """Partial data names the job that was made: it is paid for, and it is ours."""
        async with plain(seconds=0.0) as (doitong, server):

            def partial(request: bytes, honest: bytes | None) -> bytes | None:
                if b"mutation" not in request or honest is None:
                    return honest
                body = json.loads(honest.partition(b"\r\n\r\n")[2])
                (name,) = body["data"]
                made = {"id": body["data"][name]["id"], "status": None}
                errors = [{"message": "Unauthorized", "path": [name, "creditCost"]}]
                return http(status, {"data": {name: made}, "errors": errors})

            server.rewrite = partial
            assert (await doitong.generate("a fox")).id in server.jobs
            assert len(server.jobs) == 1

    @pytest.mark.parametrize("status", [400, 401, 402, 403])
    @pytest.mark.parametrize("more", [{}, {"errors": []}, {"errors": None}])
    @virtual
    async def test_a_job_beside_an_error_status_is_not_a_clear_rejection(
        self, more: dict[str, Any], status: int
    ) -> None:
        """A gateway may lie about the status. A job was made, so no error says that nothing was charged."""
        body = {"data": {"generate": {"id": "j-1", "status": "processing"}}, **more}
        async with plain(max_attempts=1) as (doitong, server):
            server.script = always("submit", http(status, body))
            with pytest.raises(SubmitOutcomeUnknownError) as caught:
                await doitong.submit("a fox")
            assert caught.value.idempotency_key

    @pytest.mark.parametrize("path", [["input", "width"], "input.options.width", ["variables", "input"]])
    @virtual
    async def test_a_path_into_the_request_is_a_clear_rejection(self, path: object) -> None:
        """The path says where the request is wrong, not what ran."""
        body = {"errors": [{"message": "Bad Request: width", "path": path}]}
        async with plain() as (doitong, server):
            server.script = always("submit", http(400, body))
            with pytest.raises(BadRequestError):
                await doitong.submit("a fox")

    @pytest.mark.parametrize("code", ["FORBIDDEN", "BAD_USER_INPUT", "INSUFFICIENT_CREDITS"])
    @virtual
    async def test_a_5xx_proves_nothing(self, code: str) -> None:
        """Whatever error code comes with it."""
        body = {"errors": [{"message": "x", "extensions": {"code": code}}]}
        async with plain(max_attempts=1) as (doitong, server):
            server.script = always("submit", http(502, body))
            with pytest.raises(ServerError) as caught:
                await doitong.submit("a fox")
            assert "othing was charged" not in str(caught.value)

    @virtual
    async def test_an_id_beside_unreadable_fields_is_the_job(self) -> None:
        """The id alone names what was paid for."""
        made = {"id": "j-1", "status": "processing", "creditCost": {"odd": 1}, "url": 7}
        async with plain() as (doitong, server):
            server.script = always("submit", http(200, {"data": {"generate": made}}))
            assert (await doitong.submit("a fox")).id == "j-1"

    @virtual
    async def test_an_error_at_the_root_field_is_a_clear_rejection(self) -> None:
        """The mutation itself failed: nothing was charged, and the error says so."""
        body = {"data": {"generate": None}, "errors": [{"message": "Unauthorized", "path": ["generate"]}]}
        async with plain() as (doitong, server):
            server.script = always("submit", http(200, body))
            with pytest.raises(AuthenticationError):
                await doitong.submit("a fox")

    @virtual
    async def test_a_batch_keeps_such_an_item_in_doubt(self, tmp_path: Path) -> None:
        """The next run sends the same key again instead of paying twice."""
        body = {
            "data": {"generate": None},
            "errors": [{"message": "Unauthorized", "path": ["generate", "x"]}],
        }
        async with plain(seconds=0.0, max_attempts=1) as (doitong, server):
            nothing = server.rewrite
            server.rewrite = lambda request, honest: http(200, body) if b"mutation" in request else honest
            (item,) = [item async for item in doitong.generate_many(["a fox"], ledger=tmp_path / "l.db")]
            assert item.outcome is Outcome.IN_DOUBT
            assert item.error is not None
            assert item.error.idempotency_key
            server.rewrite = nothing
            (item,) = [item async for item in doitong.generate_many(["a fox"], ledger=tmp_path / "l.db")]
            assert item.outcome is Outcome.DONE
            assert len(server.jobs) == 1


class TestCancellation:
    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["submit", "generate", "timeout"])
    def test_a_cancel_at_any_loop_step_loses_no_paid_job(
        self, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Cancels five times at each of 50 loop steps of a submit: every charged id is reported somewhere."""

        async def sweep() -> int:
            async with with_emulator(WIDE, emulator={"credits": 10**9, "durations": 0.0}) as (
                doitong,
                emulator,
            ):
                known = set[str]()
                for number in range(250):
                    call: Callable[[str], Coroutine[Any, Any, AsyncJob | Result]] = (
                        doitong.submit if how == "submit" else doitong.generate
                    )
                    caller = asyncio.ensure_future(call(f"fox {number}"))
                    _cancel_after(number % 50, caller)
                    await asyncio.wait([caller])
                    if not caller.cancelled() and caller.exception() is None:
                        known.add(caller.result().id)
                    if how == "timeout":
                        await until(lambda: not doitong._running().submissions.in_flight)
                await doitong.aclose()
                charged = set(emulator.world.jobs)
                log = caplog.text
                assert charged == known | {job_id for job_id in charged if f"job {job_id}, " in log}
                return len(charged)

        assert run_virtual(sweep()) > 25

    def test_a_cancel_while_the_answer_is_read_loses_no_paid_job(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Cancels the caller in the loop steps around the end of the submit."""

        async def sweep() -> None:
            steps = [0]
            callers: list[asyncio.Task[AsyncJob]] = []

            def on_event(event: object) -> None:
                if type(event).__name__ == "SubmitAttempted":
                    _cancel_after(steps[0], callers[-1])

            async with with_emulator(WIDE, on_event=on_event) as (doitong, emulator):
                known = set[str]()
                for number in range(60):
                    steps[0] = number % 6
                    callers.append(asyncio.ensure_future(doitong.submit(f"fox {number}")))
                    await asyncio.wait(callers[-1:])
                    if not callers[-1].cancelled():
                        known.add(callers[-1].result().id)
                assert 0 < len(known) < 60
                charged = set(emulator.world.jobs)
                assert len(charged) == 60
                assert charged == known | {each for each in charged if f"job {each}, " in caplog.text}

        run_virtual(sweep())

    @pytest.mark.parametrize("how", ["close", "throw"])
    @virtual
    async def test_a_closed_coroutine_leaves_its_job_in_the_log(
        self, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its owner does not cancel it, but closes it or throws into it while the submit is under way."""
        async with plain(seconds=5.0) as (doitong, server):
            call = doitong.generate("a fox")
            call.send(None)
            await until(lambda: server.jobs)
            if how == "close":
                call.close()
            else:
                with pytest.raises(RuntimeError):
                    call.throw(RuntimeError("mine"))
            await until(lambda: not doitong._running().submissions.in_flight)
            (job_id,) = server.jobs
            assert f"job {job_id}, " in caplog.text
            assert "token dtj1." in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("has_ledger", [True, False])
    def test_a_batch_cancelled_at_any_loop_step_reports_each_job(
        self, has_ledger: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Every charged job is in an item, the ledger or the log, whichever await the cancel hits."""
        step, left_early = 1 + offset(8), True
        while left_early:
            left_early = run_virtual(_batch_left_at(step, tmp_path / str(step), has_ledger, caplog))
            step += 8
        assert step > 60


def _cancel_after(steps: int, task: asyncio.Future[Any]) -> None:
    """Cancel a task after this many loop steps."""
    if steps == 0:
        task.cancel()
    else:
        asyncio.get_running_loop().call_soon(_cancel_after, steps - 1, task)


async def _batch_left_at(step: int, folder: Path, has_ledger: bool, caplog: pytest.LogCaptureFixture) -> bool:
    folder.mkdir()
    caplog.clear()
    taken: list[Item] = []

    async def consume(doitong: AsyncDoitong) -> None:
        ledger = folder / "l.db" if has_ledger else None
        batch = doitong.batch([f"fox {n}" for n in range(6)], ledger=ledger, out=folder)
        async with batch:
            async for item in batch:
                taken.append(item)  # noqa: PERF401 - items taken before the cancel count

    async with with_emulator(Plan.PRO, emulator={"durations": 1.0}) as (doitong, emulator):
        caller = asyncio.ensure_future(consume(doitong))
        for number in range(step):
            await asyncio.sleep(1 if number % 20 == 19 else 0)
        caller.cancel()
        await asyncio.wait([caller])
        is_left_early = caller.cancelled()
    known = {item.result.id for item in taken if item.result}
    if has_ledger:
        known |= _ids_in(folder / "l.db")
    charged = set(emulator.world.jobs)
    words = set(caplog.text.replace(",", " ").split())
    assert charged <= known | words
    return is_left_early


def _ids_in(ledger: Path) -> set[str]:
    if not ledger.exists():
        return set()
    with closing(sqlite3.connect(ledger)) as connection:
        return {job_id for (job_id,) in connection.execute("SELECT job_id FROM items") if job_id}


class TestOddPolls:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "answer",
        [
            PAGE,
            http(401, "<html>Sign in</html>", "text/html"),
            http(401, {"errors": [{"message": "Unauthorized"}]}),
            http(403, {"errors": [{"message": "Forbidden", "extensions": {"code": "FORBIDDEN"}}]}),
            http(200, {"errors": [{"message": "Unauthorized"}]}),
            http(402, {"errors": [{"message": "Payment Required"}]}),
            http(400, {"errors": [{"message": 'Cannot query field "generation" on type "Query".'}]}),
            http(400, "field", "text/plain"),
            http(400, "<html>Bad Request: field</html>", "text/html"),
            http(303, "", Location="https://elsewhere.example/"),
            http(404, "<html>gone</html>", "text/html"),
            http(302, "", Location="https://login.example/"),
            http(418, {}),
            "cut",
        ],
    )
    @pytest.mark.parametrize("at", [1, 2])
    @virtual
    async def test_one_odd_poll_changes_nothing(self, answer: bytes | str, at: int) -> None:
        """A gateway slips once: every job ends as usual, and polling keeps its pace."""
        async with plain(seconds=5.0, behaviour=Behaviour(introspection=False)) as (doitong, server):
            server.script = odd("poll", *[None] * (at - 1), answer)
            results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(4)))
            assert len({result.id for result in results}) == 4
            assert now() <= 10.0
            await doitong.generate("another")

    @virtual
    async def test_a_batch_survives_one_odd_poll(self, tmp_path: Path) -> None:
        """No item is skipped or in doubt."""
        async with plain(seconds=5.0) as (doitong, server):
            server.script = odd("poll", http(401, {"errors": [{"message": "Unauthorized"}]}))
            prompts = [f"fox {n}" for n in range(40)]
            items = [item async for item in doitong.generate_many(prompts, ledger=tmp_path / "l.db")]
            assert {item.outcome for item in items} == {Outcome.DONE}

    @virtual
    async def test_html_pages_do_not_invalidate_the_key(self) -> None:
        """Jobs wait through any number of pages and end once the gateway is well."""
        async with plain(seconds=5.0, timeout=300.0) as (doitong, server):
            server.script = odd("poll", *[PAGE] * 6)
            assert (await doitong.generate("a fox")).id in server.jobs

    @virtual
    async def test_a_submit_answered_with_a_page_is_retried_under_its_key(self) -> None:
        """If only pages come, the error does not blame the key and says that the outcome is unknown."""
        async with plain(seconds=0.0) as (doitong, server):
            server.script = odd("submit", PAGE)
            assert (await doitong.generate("a fox")).id in server.jobs
            assert len(server.jobs) == 1
            server.script = always("submit", PAGE)
            with pytest.raises(ServerError, match="not known whether a job was made") as caught:
                await doitong.generate("a hare")
            assert caught.value.idempotency_key
            assert "DOITONG_API_KEY" not in str(caught.value)

    @pytest.mark.slow
    @pytest.mark.parametrize("status", [301, 303, 400, 401, 403, 404, 405, 409, 410, 422])
    @virtual
    async def test_a_page_with_any_status_stops_no_batch(self, status: int, tmp_path: Path) -> None:
        """The page comes from a gateway, so the submit is sent again under its key."""
        async with plain(seconds=1.0) as (doitong, server):
            server.script = odd("submit", http(status, "<html>odd</html>", "text/html", Location="/x"))
            items = await _all_of(doitong.generate_many(["a", "b", "c"], ledger=tmp_path / "l.db"))
            assert {item.outcome for item in items} == {Outcome.DONE}
            assert len(server.jobs) == 3

    @virtual
    async def test_a_status_field_in_the_schema_is_kept(self) -> None:
        """One odd 400 on the first poll does not switch to another field, however well that one would fit."""
        async with plain(seconds=5.0) as (doitong, server):

            def rewritten(request: bytes, honest: bytes | None) -> bytes | None:
                if b"__schema" not in request or honest is None:
                    return honest
                body = json.loads(honest.partition(b"\r\n\r\n")[2])
                (field,) = body["data"]["__schema"]["queryType"]["fields"]
                other = {**field, "type": {"kind": "OBJECT", "name": "GenerationStatus", "ofType": None}}
                body["data"]["__schema"]["queryType"]["fields"] = [other, {**field, "name": "asset"}]
                return http(200, body)

            server.rewrite = rewritten
            server.script = odd("poll", http(400, {"errors": [{"message": "Bad gateway field"}]}))
            assert (await doitong.generate("a fox")).id in server.jobs

    @virtual
    async def test_three_failed_polls_in_a_row_end_the_wait(self) -> None:
        """Two do not, and a poll that succeeds in between restarts the count."""
        no = http(401, {"errors": [{"message": "Unauthorized"}]})
        async with plain(seconds=30.0) as (doitong, server):
            server.script = odd("poll", no, no, None, no, no, None)
            assert (await doitong.generate("a fox")).id
        async with plain(seconds=30.0) as (doitong, server):
            server.script = odd("poll", no, no, no)
            job = await doitong.submit("a fox")
            with pytest.raises(AuthenticationError) as caught:
                await job
            assert (caught.value.job_id, caught.value.token) == (job.id, job.token)
            assert (await job).id == job.id


async def _wait(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await job


async def _updates(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    async for _ in job.updates():
        pass


async def _refresh(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await job.refresh()


async def _save(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await (await job).save("/dev/null/no/such/place.jpg")


async def _read(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await (await job).read()


async def _wait_closed(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await doitong.aclose()
    await job


async def _close_while_waiting(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    waiting = asyncio.ensure_future(job.wait())
    await asyncio.sleep(1)
    await doitong.aclose()
    await waiting


async def _read_closed(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    result = await job
    await doitong.aclose()
    await result.read()


async def _wrong_timeout(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await job.wait(timeout=-1)


async def _short_timeout(doitong: AsyncDoitong, server: PlainServer, job: AsyncJob) -> None:
    await job.wait(timeout=1)


NO_FIELD = http(400, {"errors": [{"message": 'Cannot query field "generation" on type "Query".'}]})
NO_KEY = http(401, {"errors": [{"message": "Unauthorized"}]})
UNKNOWN = http(200, {"data": {"j0": None}})
FAILED = "failed"
Walk = Callable[[AsyncDoitong, PlainServer, AsyncJob], Awaitable[None]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("walk", "poll", "output", "expected"),
    [
        (_wait, NO_FIELD, None, ConfigurationError),
        (_updates, NO_FIELD, None, ConfigurationError),
        (_refresh, NO_FIELD, None, ConfigurationError),
        (_wait, NO_KEY, None, AuthenticationError),
        (_updates, NO_KEY, None, AuthenticationError),
        (_refresh, NO_KEY, None, AuthenticationError),
        (_refresh, http(402, {"errors": [{"message": "Payment Required"}]}), None, InsufficientCreditsError),
        (_refresh, http(429, "", Retry_After="1"), None, DoitongError),
        (_refresh, http(404, "<html>", "text/html"), None, ServerError),
        (_refresh, http(502, "<html>", "text/html"), None, ServerError),
        (_refresh, http(200, "<html>", "text/html"), None, ProtocolError),
        (_refresh, "cut", None, DoitongError),
        (_refresh, UNKNOWN, None, JobNotFoundError),
        (_wait, UNKNOWN, None, JobNotFoundError),
        (_updates, UNKNOWN, None, JobNotFoundError),
        (_short_timeout, None, None, JobTimeoutError),
        (_wrong_timeout, None, None, BadRequestError),
        (_wait, "cut", None, JobTimeoutError),
        (_updates, "cut", None, JobTimeoutError),
        (_wait_closed, None, None, ClientClosedError),
        (_close_while_waiting, None, None, ClientClosedError),
        (_read_closed, None, None, ClientClosedError),
        (_read, None, http(403, ""), DownloadError),
        (_read, None, http(500, ""), DownloadError),
        (_read, None, http(200, "<html>", "text/html"), DownloadError),
        (_read, None, "cut", DownloadError),
        (_read, None, http(302, "", Location="ftp://x/"), DownloadError),
        (_save, None, None, DownloadError),
        (_wait, FAILED, None, JobFailedError),
        (_updates, FAILED, None, None),
    ],
)
@virtual
async def test_every_error_about_an_accepted_job_has_its_id_and_token(
    walk: Walk, poll: bytes | str | None, output: bytes | str | None, expected: type[DoitongError] | None
) -> None:
    """Every error raised after acceptance can resume the job, and claims nothing false."""
    async with plain(seconds=5.0, timeout=60.0, behaviour=Behaviour(introspection=False)) as (
        doitong,
        server,
    ):
        job = await doitong.submit("a fox")
        if poll == FAILED:
            failed = {"j0": {"id": job.id, "status": "failed", "url": None}}
            poll = http(200, {"data": failed})
        answers = {"poll": poll, "output": output}
        server.script = lambda kind, nth: answers.get(kind)
        if expected is None:
            await walk(doitong, server, job)
            return
        with pytest.raises(expected) as caught:
            await walk(doitong, server, job)
        assert (caught.value.job_id, caught.value.token) == (job.id, job.token)
        assert "No job was made" not in str(caught.value)
        assert "othing was charged" not in str(caught.value)


@virtual
async def test_an_error_on_another_loop_has_the_token() -> None:
    """Only the loop is wrong; the job is unharmed."""
    async with plain() as (doitong, _):
        job = await doitong.submit("a fox")

        async def elsewhere() -> DoitongError:
            with pytest.raises(ConfigurationError) as caught:
                await job
            return caught.value

        error = await asyncio.to_thread(asyncio.run, elsewhere())
        assert (error.job_id, error.token) == (job.id, job.token)


class TestABatchWithoutALedger:
    @pytest.mark.parametrize("how", ["break", "exception", "timeout", "close"])
    @virtual
    async def test_leaving_it_early_logs_each_job(self, how: str, caplog: pytest.LogCaptureFixture) -> None:
        """The log has id and token of running jobs, id and URL of finished jobs that nobody took."""
        taken: list[Item] = []
        async with with_emulator(emulator={"durations": 4.0}) as (doitong, emulator):
            batch = doitong.batch([f"fox {n}" for n in range(40)])

            async def consume() -> None:
                async with batch, asyncio.timeout(7.0 if how == "timeout" else None):
                    async for item in batch:
                        taken.append(item)
                        if how == "break":
                            break
                        if how == "exception":
                            raise RuntimeError("mine")
                        if how == "close":
                            await doitong.aclose()

            caught = (await asyncio.gather(consume(), return_exceptions=True))[0]
            reported = {item.result.id for item in taken if item.result}
            for job_id in set(emulator.world.jobs) - reported:
                (line,) = [line for line in caplog.messages if f"job {job_id} " in line]
                assert "token dtj1." in line or "https://" in line or "http://" in line
            assert len(emulator.world.jobs) > len(reported)
            if how == "close":
                assert isinstance(caught, ClientClosedError)
                assert "its ledger" not in str(caught)

    @virtual
    async def test_with_a_ledger_nothing_is_logged(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The ledger has every job."""
        async with with_emulator(emulator={"durations": 4.0}) as (doitong, _):
            batch = doitong.batch([f"fox {n}" for n in range(40)], ledger=tmp_path / "l.db")
            async with batch:
                async for _ in batch:
                    break
        assert "token" not in caplog.text


class TestAConflictOverOurOwnKey:
    IN_PROGRESS: tuple[bytes, ...] = (
        http(409, {"errors": [{"message": "Conflict"}]}, Retry_After="1"),
        http(409, {"errors": [{"message": "x", "extensions": {"code": "IDEMPOTENCY_IN_PROGRESS"}}]}),
        http(409, {"error": {"type": "idempotency_key_in_use", "message": "…"}}),
        http(200, {"errors": [{"message": "Idempotency: a request with this key is in progress"}]}),
        http(409, {"errors": [{"message": "Another request with this key is in flight"}]}),
        http(409, {"errors": [{"message": "The key is locked by a different worker"}]}, Retry_After="1"),
        http(409, {"errors": [{"message": "x", "extensions": {"code": "REQUEST_IN_FLIGHT"}}]}),
        http(409, {"errors": [{"message": "x", "extensions": {"code": "PROCESSING"}}]}),
    )

    @pytest.mark.parametrize("conflict", IN_PROGRESS)
    @virtual
    async def test_the_submit_waits_for_an_attempt_in_progress(self, conflict: bytes) -> None:
        """A second later the key gives the job.

        However often the service says to wait, no attempt is used up.
        """
        async with plain(seconds=0.0) as (doitong, server):
            server.script = odd("submit", "cut-after", *[conflict] * 4)
            assert (await doitong.generate("a fox")).id in server.jobs
            assert len(server.jobs) == 1

    @virtual
    async def test_retry_after_is_obeyed(self) -> None:
        """The next request with the key waits as long as `Retry-After` says."""
        async with plain(seconds=0.0) as (doitong, server):
            server.script = odd("submit", "cut-after", http(409, {}, Retry_After="7"))
            await doitong.submit("a fox")
            moments = [each.at for each in server.requests if each.kind == "submit"]
            assert moments[2] - moments[1] == pytest.approx(7.0)

    @virtual
    async def test_an_endless_conflict_leaves_the_submit_in_doubt(self) -> None:
        """After a minute, with the key in the error."""
        async with plain(seconds=0.0) as (doitong, server):
            server.script = always("submit", self.IN_PROGRESS[0])
            with pytest.raises(SubmitOutcomeUnknownError) as caught:
                await doitong.submit("a fox", idempotency_key="mine")
            assert caught.value.idempotency_key == "mine"
            assert 60.0 <= now() <= 70.0

    @virtual
    async def test_a_permanent_conflict_fails_at_once(self) -> None:
        """Another request used the key: waiting changes nothing, whatever `Retry-After` says."""
        body = {"errors": [{"message": "The key was used for a different request"}]}
        async with plain() as (doitong, server):
            server.script = always("submit", http(409, body, Retry_After="1"))
            with pytest.raises(SubmitOutcomeUnknownError):
                await doitong.submit("a fox", idempotency_key="mine")
            assert now() == 0.0


class TestOneJobForTwoKeys:
    @pytest.mark.parametrize("seconds", [0.0, 50.0])
    @virtual
    async def test_the_second_submit_is_in_doubt_and_names_both_keys(self, seconds: float) -> None:
        """Whether the first job still runs or is done: one picture is never silently sold twice."""
        async with plain(seconds=seconds) as (doitong, server):
            first = await doitong.submit("a fox", idempotency_key="first")
            if not seconds:
                await first
            body = {"data": {"generate": {"id": first.id, "status": "processing"}}}
            server.script = always("submit", http(200, body))
            with pytest.raises(SubmitOutcomeUnknownError) as caught:
                await doitong.submit("a hare", idempotency_key="second")
            assert caught.value.idempotency_key == "second"
            for named in ("first", "second", first.id):
                assert named in str(caught.value)

    @virtual
    async def test_a_repeated_id_is_noticed_among_many_jobs(self) -> None:
        """The client never forgets a running job."""
        async with plain(WIDE, seconds=30.0) as (doitong, server):
            jobs = [await doitong.submit(f"fox {n}") for n in range(300)]
            body = {"data": {"generate": {"id": jobs[0].id, "status": "processing"}}}
            server.script = always("submit", http(200, body))
            with pytest.raises(SubmitOutcomeUnknownError):
                await doitong.submit("a hare")
            await doitong.aclose()

    @virtual
    async def test_the_rest_of_a_batch_continues(self) -> None:
        """It is no outage: nothing is sent again, and the other items continue."""
        async with plain(Plan.STARTER, seconds=20.0) as (doitong, server):
            server.rewrite = lambda request, honest: (
                honest.replace(b"plain00002", b"plain00001") if honest and b'"fox 1"' in request else honest
            )
            items = await _all_of(doitong.generate_many([f"fox {n}" for n in range(12)]))
            outcomes = sorted(item.outcome for item in items)
            assert outcomes == [*[Outcome.DONE] * 11, Outcome.IN_DOUBT]
            assert sum(each.kind == "submit" for each in server.requests) == 12

    @virtual
    async def test_a_repeated_id_is_noticed_across_clients(self) -> None:
        """Clients with one API key share what they know of its jobs, as they share its limits."""
        async with (
            plain(seconds=50.0) as (doitong, server),
            AsyncDoitong(api_key=server.key, base_url=server.url, plan=Plan.PRO) as other,
        ):
            first = await other.submit("a fox", idempotency_key="first")
            body = {"data": {"generate": {"id": first.id, "status": "processing"}}}
            server.script = always("submit", http(200, body))
            with pytest.raises(SubmitOutcomeUnknownError, match="first"):
                await doitong.submit("a hare", idempotency_key="second")

    @virtual
    async def test_the_same_key_gives_the_same_job(self) -> None:
        """That is the purpose of an idempotency key."""
        async with plain(seconds=5.0) as (doitong, server):
            jobs = [await doitong.submit("a fox", idempotency_key="mine") for _ in range(2)]
            assert jobs[0] == jobs[1]
            assert len(server.jobs) == 1

    @virtual
    async def test_a_batch_gives_each_job_to_one_item(self) -> None:
        """A second item with the same job id is in doubt."""
        async with plain(seconds=0.0) as (doitong, server):
            body = {
                "data": {"generate": {"id": "always", "status": "completed", "url": "https://x.example/a"}}
            }
            server.script = always("submit", http(200, body))
            items = [item async for item in doitong.generate_many(["a", "b", "c"])]
            outcomes = sorted(item.outcome for item in items)
            assert outcomes == [Outcome.DONE, Outcome.IN_DOUBT, Outcome.IN_DOUBT]


class TestInDoubtItemsOfABatch:
    @virtual
    async def test_an_item_stopped_while_in_doubt_holds_its_key(self, tmp_path: Path) -> None:
        """Its error holds the key, and the reason for the stop as its cause."""
        async with with_emulator(emulator={"faults": ["submit: cut-after"]}) as (doitong, emulator):
            batch = doitong.batch(["a fox"], ledger=tmp_path / "l.db")
            running = asyncio.ensure_future(_all_of(batch))
            await asyncio.sleep(20)
            batch.stop()
            (item,) = await running
            (key,) = {
                seen.headers["Idempotency-Key"] for seen in emulator.world.seen if seen.kind == "submit"
            }
            assert item.outcome is Outcome.IN_DOUBT
            assert item.error is not None
            assert item.error.idempotency_key == key
            assert "othing was charged" not in str(item.error)

    @virtual
    async def test_an_unsent_item_does_not_name_another_items_job(self, tmp_path: Path) -> None:
        """The error that stopped the batch names one job; unsent items do not repeat it."""
        async with plain(Plan.FREE, seconds=9.0) as (doitong, server):
            server.script = always("poll", NO_KEY)
            items = [item async for item in doitong.generate_many(["a", "b", "c"], ledger=tmp_path / "l.db")]
            by_outcome = {item.outcome: item.error for item in items}
            assert set(by_outcome) == {Outcome.IN_DOUBT, Outcome.SKIPPED}
            in_doubt, not_sent = by_outcome[Outcome.IN_DOUBT], by_outcome[Outcome.SKIPPED]
            assert in_doubt is not None
            assert in_doubt.job_id in server.jobs
            assert in_doubt.token
            assert not_sent is not None
            assert (not_sent.job_id, not_sent.token, not_sent.idempotency_key) == (None, None, None)
            assert "Nothing was sent for this item" in str(not_sent)


async def _all_of(batch: Any) -> list[Item]:
    async with batch if isinstance(batch, Batch) else nullcontext():
        return [item async for item in batch]


CREDITS = [
    http(402, ""),
    http(402, {"errors": [{"message": "Payment Required"}]}),
    http(429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota."}}),
    http(429, {"error": {"type": "insufficient_quota", "message": "…"}}),
    http(429, {"errors": [{"message": "…", "extensions": {"code": "INSUFFICIENT_QUOTA"}}]}),
    http(429, {"error": {"message": "You exceeded your current quota, please check your plan and billing."}}),
    http(200, {"errors": [{"message": "Insufficient balance"}]}),
    http(200, {"errors": [{"message": "…", "extensions": {"code": "InsufficientBalance"}}]}),
    http(200, {"errors": [{"message": "Not enough credits for this job"}]}),
    http(200, {"errors": [{"message": "Your account is out of credits."}]}),
    http(200, {"error": "Insufficient funds"}),
    http(200, {"message": "Insufficient balance"}),
    http(400, {"detail": "Your credit balance is too low"}),
    http(
        403, {"errors": [{"message": "insufficient-balance", "extensions": {"code": "insufficient-balance"}}]}
    ),
    http(200, {"errors": [{"message": "Insufficient balance. Please recharge before sending requests."}]}),
    http(429, {"errors": [{"message": "Insufficient credits for concurrent jobs"}]}),
    http(200, {"errors": [{"message": "Insufficient account balance"}]}),
    http(200, {"errors": [{"message": "You have no credits"}]}),
    http(200, {"errors": [{"message": "You do not have enough credits"}]}),
    http(200, {"errors": [{"message": "Your credits have been exhausted"}]}),
    http(200, {"errors": [{"message": '"Insufficient balance"'}]}),
    http(200, {"errors": [{"message": "Insufficient-Balance"}]}),
    http(429, {"errors": [{"message": "x", "extensions": {"code": "insufficient_user_quota"}}]}),
    http(429, {"errors": [{"message": "x", "extensions": {"code": "CREDIT_QUOTA_EXCEEDED"}}]}),
    http(200, {"errors": [{"message": "x", "extensions": {"code": "NO_CREDITS"}}]}),
    http(200, {"errors": [{"message": "x", "extensions": {"code": "LOW_BALANCE"}}]}),
    http(403, {"errors": [{"message": "Insufficient credits", "extensions": {"code": "FORBIDDEN"}}]}),
    http(200, {"errors": [{"message": "…", "extensions": {"creditsRequired": 100, "creditsAvailable": 50}}]}),
]


@pytest.mark.parametrize("answer", CREDITS)
@virtual
async def test_every_spelling_of_missing_credits_is_understood(answer: bytes) -> None:
    """It is raised at once, under any status, without a wait or a retry, and the slot is free again."""
    async with plain(Plan.FREE) as (doitong, server):
        server.script = odd("submit", answer)
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        assert len(server.requests) == 1
        assert doitong.stats().slots_in_use == 0
        # After such an answer nothing is sent for half a minute.
        await asyncio.sleep(30)
        assert (await doitong.with_options(slot_timeout=1.0).submit("a fox")).id


@pytest.mark.parametrize(
    "body",
    [
        {"errors": [{"message": "Rate limit exceeded: no credits were charged"}]},
        {"error": {"message": "You exceeded your current quota of 60 requests per minute"}},
        {"error": {"message": "daily quota exhausted", "code": "QUOTA_EXCEEDED"}},
    ],
)
@virtual
async def test_a_plan_limit_is_not_missing_credits(body: dict[str, Any]) -> None:
    """A 429 fails no job; only missing credits do."""
    async with plain(seconds=0.0, wait_for_next_day=True) as (doitong, server):
        server.script = odd("submit", http(429, body, Retry_After="2"))
        assert (await doitong.generate("a fox")).id in server.jobs


@pytest.mark.parametrize(
    "message",
    [
        "Bad Request: 'a sign that says insufficient credits' is refused",
        "Prompt refused: A banker who is out of credits, crying",
        "The prompt a banker with insufficient funds is refused",
        "Content policy: insufficient funds scam imagery",
        "Refused (no credits left) as too short",
        "Refused: ‘insufficient credits’",
    ],
)
@virtual
async def test_a_prompt_about_money_is_not_missing_credits(message: str) -> None:
    """The service repeats the prompt, with or without quotes."""
    said = {"errors": [{"message": message}]}
    async with plain() as (doitong, server):
        server.script = odd("submit", http(400, said))
        with pytest.raises(BadRequestError):
            await doitong.generate("a sign that says insufficient credits")
