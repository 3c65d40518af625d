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
from doitong_async.cli.report import Notes, Outcome
from doitong_async.cli.story import Story
from doitong_async.cli.text import clean
from doitong_async.client import AsyncDoitong
from doitong_async.errors import ClientClosedError, DoitongError, DoitongWarning
from doitong_async.jobs.job import AsyncJob
from doitong_async.types import GenerateRequest


def run_to_end(story: Story, work: Callable[[], Coroutine[Any, Any, Outcome]], *, is_verbose: bool) -> None:
    """Run the work of one command, tell what happens, and at last what came of it.

    Raises:
        CommandError, DoitongError: if the work does; the story knows how far it came.
        KeyboardInterrupt: at Ctrl-C, when the client is closed and the story complete.
    """
    with heard(story.report, is_verbose=is_verbose), story.report:
        outcome = asyncio.run(_interruptible(work))
    story.report.done(outcome)
    if story.service.has_own_emulator and outcome.saved is None:
        story.report.note("The emulator ended with this command, and the picture with it; -o saves it.")


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


async def generate(story: Story, request: GenerateRequest) -> Outcome:
    """Make one thing."""
    async with story.service.opened(story.on_event) as doitong:
        story.begin()
        story.report.begin(request.prompt or "(no prompt)", story.idempotency_key or "")
        return await _finish(story, await _submit(story, doitong, request))


async def take_up(story: Story, id_or_token: str) -> Outcome:
    """Wait for a job that another command submitted."""
    async with story.service.opened(story.on_event) as doitong:
        story.job = doitong.job(id_or_token)
        # Only now: the status that a job has when it is taken up is assumed, not seen.
        story.begin()
        story.report.happened(f"job {story.job.id} taken up")
        return await _finish(story, story.job)


async def _submit(story: Story, doitong: AsyncDoitong, request: GenerateRequest) -> AsyncJob:
    submit = asyncio.ensure_future(doitong.submit(request, idempotency_key=story.idempotency_key))
    story.may_be_sent = True
    try:
        story.job = await asyncio.shield(submit)
    except asyncio.CancelledError:
        story.report.note("Interrupted: reading the answer of the submit under way, for 10 s at most …")
        # Closing waits for the answer: it may be about a job that is paid for.
        await doitong.aclose()
        await asyncio.wait([submit])
        _learn_fate(story, submit)
        if story.job is not None:
            # Where this goes may live on, though the place where the failure is told is gone.
            story.report.accepted(story.job.id, story.job.token)
        raise
    except DoitongError as error:
        story.may_be_sent = error.idempotency_key is not None
        raise
    story.report.accepted(story.job.id, story.job.token)
    return story.job


def _learn_fate(story: Story, submit: asyncio.Future[AsyncJob]) -> None:
    error = None if submit.cancelled() else submit.exception()
    if not submit.cancelled() and error is None:
        story.job = submit.result()
    elif isinstance(error, ClientClosedError):
        # It was sent away from the queue; after a try in doubt it would be another error.
        story.may_be_sent = False
    elif isinstance(error, DoitongError):
        story.refusal = error


async def _finish(story: Story, job: AsyncJob) -> Outcome:
    result = await job
    return story.outcome(job, result, await story.place.take(result))


@contextmanager
def heard(report: Notes, *, is_verbose: bool) -> Iterator[None]:
    """Let the report tell what the library warns of and logs, instead of Python in its own way."""
    log = logging.getLogger("doitong_async")
    handler, level = _ToReport(report), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO if is_verbose else logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("default", DoitongWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, DoitongWarning):
                report.note(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _ToReport(logging.Handler):
    def __init__(self, report: Notes) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._report.note(f"{record.levelname.lower()}: {clean(record.getMessage())}")
        except Exception:
            # Whoever logs has something else to do than to tell.
            self.handleError(record)
