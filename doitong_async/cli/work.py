"""One job from its request to its file: submit or take up, wait, fetch."""

from __future__ import annotations

import asyncio
import logging
import signal
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from doitong_async.cli.interrupts import heeding
from doitong_async.cli.job_progress import JobProgress
from doitong_async.cli.render import Notes, Outcome
from doitong_async.cli.text import clean
from doitong_async.client import AsyncDoitong
from doitong_async.errors import ClientClosedError, DoitongError, DoitongWarning
from doitong_async.jobs.job import AsyncJob
from doitong_async.types import GenerateRequest


def run_to_end(
    progress: JobProgress, work: Callable[[], Coroutine[Any, Any, Outcome]], *, is_verbose: bool
) -> None:
    """Run the work of one command, tell what happens, and at last what came of it.

    Raises:
        CommandError, DoitongError: if the work does; the story knows how far it came.
        KeyboardInterrupt: at Ctrl-C, when the client is closed and the story complete.
    """
    with heard(progress.renderer, is_verbose=is_verbose), progress.renderer:
        outcome = asyncio.run(_interruptible(work))
    progress.renderer.done(outcome)
    if progress.service.has_own_emulator and outcome.saved is None:
        progress.renderer.note("The emulator ended with this command, and the picture with it; -o saves it.")


async def _interruptible(work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: the token of a paid job is told before the command ends."""
    task = asyncio.current_task()
    assert task is not None
    is_told = False

    def interrupt() -> None:
        # Not by a SIGINT of our own, which is ignored where the command was begun in the background.
        nonlocal is_told
        if task.cancelling():
            raise KeyboardInterrupt
        is_told = True
        task.cancel()

    with heeding(interrupt, [signal.SIGTERM]):
        try:
            return await work()
        except asyncio.CancelledError:
            if is_told:
                raise KeyboardInterrupt from None
            raise


async def generate(progress: JobProgress, request: GenerateRequest) -> Outcome:
    """Make one thing."""
    async with progress.service.opened(progress.on_event) as doitong:
        progress.begin()
        progress.renderer.begin(request.prompt or "(no prompt)", progress.idempotency_key or "")
        return await _finish(progress, await _submit(progress, doitong, request))


async def take_up(progress: JobProgress, id_or_token: str) -> Outcome:
    """Wait for a job that another command submitted."""
    async with progress.service.opened(progress.on_event) as doitong:
        progress.job = doitong.job(id_or_token)
        # Only now: the status that a job has when it is taken up is assumed, not seen.
        progress.begin()
        progress.renderer.happened(f"job {progress.job.id} taken up")
        return await _finish(progress, progress.job)


async def _submit(progress: JobProgress, doitong: AsyncDoitong, request: GenerateRequest) -> AsyncJob:
    submit = asyncio.ensure_future(doitong.submit(request, idempotency_key=progress.idempotency_key))
    progress.may_be_sent = True
    try:
        progress.job = await asyncio.shield(submit)
    except asyncio.CancelledError:
        progress.renderer.note("Interrupted: reading the answer of the submit under way, for 10 s at most …")
        # Closing waits for the answer: it may be about a job that is paid for.
        await doitong.aclose()
        await asyncio.wait([submit])
        _learn_fate(progress, submit)
        if progress.job is not None:
            # Where this goes may live on, though the place where the failure is told is gone.
            progress.renderer.accepted(progress.job.id, progress.job.token)
        raise
    except DoitongError as error:
        progress.may_be_sent = error.idempotency_key is not None
        raise
    progress.renderer.accepted(progress.job.id, progress.job.token)
    return progress.job


def _learn_fate(progress: JobProgress, submit: asyncio.Future[AsyncJob]) -> None:
    error = None if submit.cancelled() else submit.exception()
    if not submit.cancelled() and error is None:
        progress.job = submit.result()
    elif isinstance(error, ClientClosedError):
        # It was sent away from the queue; after a try in doubt it would be another error.
        progress.may_be_sent = False
    elif isinstance(error, DoitongError):
        progress.refusal = error


async def _finish(progress: JobProgress, job: AsyncJob) -> Outcome:
    result = await job
    return progress.outcome(job, result, await progress.destination.take(result))


@contextmanager
def heard(renderer: Notes, *, is_verbose: bool) -> Iterator[None]:
    """Let the report tell what the library warns of and logs, instead of Python in its own way."""
    log = logging.getLogger("doitong_async")
    handler, level = _ToReport(renderer), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if is_verbose else logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("default", DoitongWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *destination: Any, **more: Any) -> None:
            if issubclass(category, DoitongWarning):
                renderer.note(f"warning: {message}")
            else:
                usual(message, category, *destination, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _ToReport(logging.Handler):
    def __init__(self, renderer: Notes) -> None:
        super().__init__()
        self._renderer = renderer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._renderer.note(f"{record.levelname.lower()}: {clean(record.getMessage())}")
        except Exception:
            # Whoever logs has something else to do than to tell.
            self.handleError(record)
