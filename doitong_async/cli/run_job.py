"""Runs `generate` and `job`: submit or resume, wait, save."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from doitong_async.cli.interrupts import interruptible
from doitong_async.cli.job_progress import JobProgress
from doitong_async.cli.render import JobReport, Notes
from doitong_async.cli.text import clean
from doitong_async.client import AsyncDoitong
from doitong_async.errors import ClientClosedError, DoitongError, DoitongWarning
from doitong_async.jobs.job import AsyncJob
from doitong_async.types import GenerateRequest


def run_to_end(
    progress: JobProgress, run: Callable[[], Coroutine[Any, Any, JobReport]], *, is_verbose: bool
) -> None:
    """Run one command, show its progress, and finally its outcome.

    Raises:
        CommandError, DoitongError: if the command fails; `progress` knows how far it came.
        KeyboardInterrupt: at Ctrl-C, once the client is closed and `progress` is complete.
    """
    with heard(progress.renderer, is_verbose=is_verbose), progress.renderer:
        outcome = asyncio.run(interruptible(run))
    progress.renderer.finish(outcome)
    if progress.service.has_own_emulator and outcome.saved is None:
        progress.renderer.note(
            "The emulator and its picture are gone with this command; -o saves the picture."
        )


async def generate(progress: JobProgress, request: GenerateRequest) -> JobReport:
    """Make one output."""
    async with progress.service.opened(progress.on_event) as doitong:
        progress.begin()
        progress.renderer.begin(request.prompt or "(no prompt)", progress.idempotency_key or "")
        return await _finish(progress, await _submit(progress, doitong, request))


async def take_up(progress: JobProgress, id_or_token: str) -> JobReport:
    """Resume a job that another command submitted."""
    async with progress.service.opened(progress.on_event) as doitong:
        progress.job = doitong.job(id_or_token)
        # Only now: the status of a resumed job is assumed at first, not seen.
        progress.begin()
        progress.renderer.happened(f"job {progress.job.id} resumed")
        return await _finish(progress, progress.job)


async def _submit(progress: JobProgress, doitong: AsyncDoitong, request: GenerateRequest) -> AsyncJob:
    submit = asyncio.ensure_future(doitong.submit(request, idempotency_key=progress.idempotency_key))
    progress.may_be_sent = True
    try:
        progress.job = await asyncio.shield(submit)
    except asyncio.CancelledError:
        progress.renderer.note("Interrupted: waiting up to 10 s for the answer of the submit in flight …")
        # Closing waits for the answer, which may be about a paid job.
        await doitong.aclose()
        await asyncio.wait([submit])
        _record_submit(progress, submit)
        if progress.job is not None:
            # The output may go to a file that survives the terminal on which the failure is shown.
            progress.renderer.accepted(progress.job.id, progress.job.token)
        raise
    except DoitongError as error:
        progress.may_be_sent = error.idempotency_key is not None
        raise
    progress.renderer.accepted(progress.job.id, progress.job.token)
    return progress.job


def _record_submit(progress: JobProgress, submit: asyncio.Future[AsyncJob]) -> None:
    error = None if submit.cancelled() else submit.exception()
    if not submit.cancelled() and error is None:
        progress.job = submit.result()
    elif isinstance(error, ClientClosedError):
        # It left the queue unsent; after an attempt in doubt the error would be another one.
        progress.may_be_sent = False
    elif isinstance(error, DoitongError):
        progress.submit_error = error


async def _finish(progress: JobProgress, job: AsyncJob) -> JobReport:
    result = await job
    saved = await progress.destination.take(result)
    if saved is not None and saved.suffix is not None:
        progress.renderer.note(f"{saved.file} holds a {saved.suffix} file, which its name does not say.")
    return progress.outcome(job, result, saved)


@contextmanager
def heard(renderer: Notes, *, is_verbose: bool) -> Iterator[None]:
    """Send the library's warnings and log to the renderer."""
    log = logging.getLogger("doitong_async")
    handler, level = _ToRenderer(renderer), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if is_verbose else logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("default", DoitongWarning)
        original = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *destination: Any, **more: Any) -> None:
            if issubclass(category, DoitongWarning):
                renderer.note(f"warning: {message}")
            else:
                original(message, category, *destination, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _ToRenderer(logging.Handler):
    def __init__(self, renderer: Notes) -> None:
        super().__init__()
        self._renderer = renderer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._renderer.note(f"{record.levelname.lower()}: {clean(record.getMessage())}")
        except Exception:
            # A caller that logs must not fail because of it.
            self.handleError(record)
