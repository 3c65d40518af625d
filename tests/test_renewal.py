"""An expired output URL is renewed by one authenticated poll, for every holder of the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from doitong_async import AsyncDoitong, DownloadError, Generation, JobStatus, Outcome, Plan
from doitong_async.jobs.lifecycle import merge
from tests.plain_server import JPEG, Heads, Job, Json, PlainServer, http
from tests.virtual import now, virtual

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=40)


@dataclass(kw_only=True, eq=False)
class Signing(PlainServer):
    """A server whose URLs expire: each poll gives one that later fails with the status `rejected_with`.

    URLs live `lives` seconds; with `is_stuck` every poll gives the first one.
    """

    lives: float = 60.0
    rejected_with: int = 403
    is_stuck: bool = False

    def _rendered(self, job: Job, at: float) -> Json:
        shown = super()._rendered(job, at)
        period = 0 if self.is_stuck else int(at // self.lives)
        return shown | {"url": shown["url"] and f"{shown['url']}?Signature=%2f{period}~"}

    def _answer_output(self, path: str, headers: Heads, raw: bytes) -> bytes | None:
        plain, _, query = path.partition("?")
        honest = super()._answer_output(plain, headers, raw)
        if query != f"Signature=%2f{int(self._now() // self.lives)}~":
            return http(
                self.rejected_with, b"<Error><Code>AccessDenied</Code></Error>", "application/xml", {}
            )
        return honest


@asynccontextmanager
async def signing(plan: Plan = Plan.PRO, **behaviour: Any) -> AsyncIterator[tuple[AsyncDoitong, Signing]]:
    """Yield a client and a server whose URLs expire."""
    limits = {"requests_per_minute": plan.requests_per_minute, "concurrent_jobs": plan.concurrent_jobs}
    server = Signing(**{"seconds": 0.0, **limits, **behaviour})
    async with server, AsyncDoitong(api_key=server.key, base_url=server.url, plan=plan) as doitong:
        yield doitong, server


def count(server: PlainServer, kind: str) -> int:
    """Return how many requests of a kind came."""
    return sum(request.kind == kind for request in server.requests)


@pytest.mark.slow
@virtual
@pytest.mark.parametrize("rejected_with", [401, 403, 404, 410])
@pytest.mark.parametrize("take", ["read", "save", "write"])
async def test_an_expired_url_is_renewed_by_one_poll(rejected_with: int, take: str, tmp_path: Path) -> None:
    """The client keeps the new one and polls no second time."""
    async with signing(rejected_with=rejected_with) as (doitong, server):
        result = await doitong.generate("a fox")
        first = result.url
        await asyncio.sleep(100)
        if take == "read":
            assert await result.read() == JPEG
        elif take == "save":
            assert (await result.save(tmp_path / "fox.jpg")).read_bytes() == JPEG
        else:
            assert (await result.write(lambda suffix: tmp_path / f"a{suffix}")).length == len(JPEG)
        assert count(server, "poll") == 1
        assert result.url != first
        before = count(server, "output")
        assert await result.read() == JPEG
        assert (count(server, "poll"), count(server, "output")) == (1, before + 1)


@virtual
async def test_a_404_right_after_the_end_is_retried_before_any_poll() -> None:
    """An output host may know an output a moment later than the API does."""
    async with signing(lives=1e6) as (doitong, server):
        late = http(404, b"", "text/plain", {})
        server.script = lambda kind, nth: late if kind == "output" and nth < 3 else None
        assert await (await doitong.generate("a fox")).read() == JPEG
        assert count(server, "poll") == 0


@virtual
@pytest.mark.parametrize("status", [400, 402, 405, 500, 503])
async def test_other_failures_renew_no_url(status: int) -> None:
    """They do not concern the URL."""
    async with signing() as (doitong, server):
        result = await doitong.generate("a fox")
        server.rejected_with = status
        await asyncio.sleep(100)
        with pytest.raises(DownloadError, match=r"rejected|HTTP"):
            await result.read()
        assert count(server, "poll") == 0


@virtual
async def test_an_unchanged_url_is_not_fetched_again() -> None:
    """The service has no better one, so the error is the host's."""
    async with signing(is_stuck=True) as (doitong, server):
        result = await doitong.generate("a fox")
        await asyncio.sleep(100)
        with pytest.raises(DownloadError, match="rejected the request") as caught:
            await result.read()
        assert (caught.value.http_status, caught.value.job_id) == (403, result.id)
        assert (count(server, "poll"), count(server, "output")) == (1, 1)


@virtual
async def test_a_failed_poll_is_reported_with_the_failed_download() -> None:
    """The caller asked for the download; the error adds why there is no new URL."""
    async with signing() as (doitong, server):
        result = await doitong.generate("a fox")
        await asyncio.sleep(100)
        server.script = lambda kind, nth: http(500, b"", "text/plain", {}) if kind == "poll" else None
        with pytest.raises(DownloadError, match=r"rejected the request.*poll for a new URL failed.*HTTP 500"):
            await result.read()
        server.script = lambda kind, nth: None
        assert await result.read() == JPEG


@virtual
async def test_a_url_that_expires_midway_restarts_the_download(tmp_path: Path) -> None:
    """The bytes written before are discarded."""
    cut = (
        b'HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nETag: "a"\r\nContent-Length: 999999\r\n\r\n'
        + bytes(200_000)
    )
    async with signing(lives=0.5) as (doitong, server):
        result = await doitong.generate("a fox")
        server.script = lambda kind, nth: cut if kind == "output" and nth == 1 else None
        path = await result.save(tmp_path)
        assert path.read_bytes() == JPEG
        assert list(tmp_path.iterdir()) == [path]


@virtual
async def test_refresh_and_every_handle_of_the_job_have_the_new_url() -> None:
    """Even an old handle has it, and an old result renews its own URL."""
    async with signing() as (doitong, server):
        job = await doitong.submit("a fox")
        old = await job
        await asyncio.sleep(100)
        fresh = await job.refresh()
        assert fresh.url != old.url
        assert job.last.url == fresh.url == (await job).url == (await doitong.job(job.id)).url
        assert (await doitong.job(job.token)).generation is job.last
        polls = count(server, "poll")
        assert await (await doitong.job(job.id)).read() == JPEG
        assert count(server, "poll") == polls
        await asyncio.sleep(100)
        assert await (await doitong.job(job.id)).read() == JPEG
        assert await old.read() == JPEG


@virtual
async def test_a_batch_of_slow_outputs_needs_one_run(tmp_path: Path) -> None:
    """Eight downloads run at once, and the URLs of those that wait expire meanwhile."""

    def odd(kind: str, nth: int) -> bytes | None:
        return b"hang" if kind == "output" and nth <= 8 else None

    async with signing(WIDE, lives=40.0, script=odd) as (doitong, server):
        prompts = [f"fox {number}" for number in range(20)]
        async with doitong.batch(prompts, ledger=tmp_path / "l.db", out=tmp_path / "out") as batch:
            items = [item async for item in batch]
        assert {item.outcome for item in items} == {Outcome.DONE}
        assert now() > 40
        assert len(server.jobs) == 20
        # A later run takes URLs from the ledger and has them renewed as well, for files and for results.
        await asyncio.sleep(200)
        (tmp_path / "out" / str(items[0].file and items[0].file.name)).unlink()
        again = [
            item
            async for item in doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path / "out")
        ]
        assert {item.outcome for item in again} == {Outcome.DONE}
        assert len(server.jobs) == 20
        assert again[5].result is not None
        assert await again[5].result.read() == JPEG


@virtual
async def test_a_webhook_replaces_no_url() -> None:
    """Only an authenticated poll may: a forged or late webhook changes nothing."""
    async with signing() as (doitong, _):
        job = await doitong.submit("a fox")
        url = (await job).url
        evil = Generation(id=job.id, status=JobStatus.COMPLETED, url="http://127.0.0.1:1/evil.jpg")
        assert not doitong._running().poller.tracker.observe(evil)
        assert (await job).url == (await doitong.job(job.id)).url == url


@pytest.mark.parametrize(
    ("last", "update", "is_asked", "url"),
    [
        ("completed", "completed", True, "new"),
        ("completed", "completed", False, "old"),
        ("completed", "processing", True, "old"),
        ("completed", "failed", True, "old"),
        ("failed", "completed", True, "old"),
        ("processing", "completed", False, "new"),
    ],
)
def test_only_a_poll_changes_the_url_of_a_completed_job(
    last: str, update: str, is_asked: bool, url: str
) -> None:
    """Nothing else of a terminal status changes."""
    known = Generation(id="a", status=JobStatus(last), url="old", metadata={"a": 1}, credit_cost=20)
    merged = merge(known, Generation(id="a", status=JobStatus(update), url="new"), is_asked=is_asked)
    assert (merged.url, merged.metadata, merged.credit_cost) == (url, {"a": 1}, 20)
    assert merged.status == (last if known.status.is_terminal else update)
    kept = merge(merged, Generation(id="a", status=JobStatus(update)), is_asked=is_asked)
    assert kept is merged
