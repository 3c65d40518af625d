"""An answer that arrived while the event loop stood still is read, however late."""

from __future__ import annotations

import asyncio

import pytest

from doitong_async.testing import VirtualTimeLoop
from tests.plain_server import HANG
from tests.virtual import now, plain, virtual


def stand_still(seconds: float) -> None:
    """Let time pass as `time.sleep` does: the loop runs nothing meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.skip(seconds)


@pytest.mark.parametrize("resend_unanswered", [True, False])
@virtual
async def test_an_answer_that_arrived_meanwhile_is_read(resend_unanswered: bool) -> None:
    """Reading it late neither puts a submit in doubt nor sends it again."""
    async with plain(seconds=3.0, request_timeout=60.0, resend_unanswered=resend_unanswered) as (
        doitong,
        server,
    ):

        def stand_still_once(request: bytes, honest: bytes | None) -> bytes | None:
            stand_still(100.0)
            server.rewrite = lambda request, honest: honest
            return honest

        server.rewrite = stand_still_once
        job = await doitong.submit("a fox")
        assert [request.kind for request in server.requests] == ["submit"]
        assert (await job).id == job.id


@virtual
async def test_a_poll_answered_meanwhile_does_not_fail() -> None:
    """The poller uses the answer, however late it reads it."""
    async with plain(seconds=1.0, poll_timeout=5.0) as (doitong, server):

        def stand_still_once(request: bytes, honest: bytes | None) -> bytes | None:
            if b"query Status" in request:
                stand_still(100.0)
            return honest

        server.rewrite = stand_still_once
        assert (await doitong.generate("a fox")).url
        assert sum(request.kind == "poll" for request in server.requests) == 1


@virtual
async def test_an_unanswered_request_still_times_out() -> None:
    """Each standstill extends it by only a second."""
    async with plain(seconds=3.0, poll_timeout=5.0) as (doitong, server):
        job = await doitong.submit("a fox")
        server.script = lambda kind, nth: HANG if kind == "poll" else None
        refresh = asyncio.ensure_future(job.refresh())
        await asyncio.sleep(1)
        begun = now()
        stand_still(50.0)
        with pytest.raises(ConnectionError):
            await refresh
        assert now() == begun + 51.0
