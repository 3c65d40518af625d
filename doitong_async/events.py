"""The events that `on_event` gets, the counters of a client, and safe calls of user callbacks.

No callback of the user's can lose a job, a slot or a permit, or end the polling:

- An `Exception` is logged and harms nothing. So is a `CancelledError`, as from `future.result()`: a real
  cancellation never comes out of a plain function.
- Anything else (`KeyboardInterrupt`, `SystemExit`, a test's failure) propagates, but only once the client's
  state is consistent: out of the caller's own call (`__call__`, `in_order`); or, in the client's own tasks,
  out of the `await` of a caller that waits for the job, or else into the event loop (`aside`).
- An async function is an error: nobody would await it. So is a generator function: calling it runs nothing.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

from doitong_async.errors import ConfigurationError, DoitongWarning
from doitong_async.jobs.durations import JobKind
from doitong_async.log import log
from doitong_async.transport.failure import FailureKind
from doitong_async.types import JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent:
    """A request is about to be sent.

    Attributes:
        kind: "submit" or "poll".
        jobs: how many jobs it covers.
        attempt: of a submit, counted from 1.
        idempotency_key: of a submit.
    """

    kind: Literal["submit", "poll"]
    jobs: int
    attempt: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitAttempted:
    """One attempt of a submit ended, with a job that is tracked by now, or with a failure.

    Attributes:
        idempotency_key: the same for all attempts of a submit.
        attempt: counted from 1.
        provider: as in the request.
        version: as in the request.
        job_id: of the job that it made.
        failure: the kind of failure; None if it made a job.
        message: about the failure, for people.
        http_status: of the failed answer, if there was one.
        code: `extensions.code` of the failed answer.
        request_id: the `X-Request-Id` of the failed answer (assumption).
        retry_in: seconds until the next attempt, before any wait for the plan; None if there is none.
        is_in_doubt: whether this attempt may have made a job in spite of its failure.
    """

    idempotency_key: str
    attempt: int
    provider: str | None
    version: str | None
    job_id: str | None = None
    failure: FailureKind | None = None
    message: str | None = None
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_in: float | None = None
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFailed:
    """A status poll failed; it changes nothing about its jobs, which are polled again.

    Attributes:
        jobs: how many it asked for.
        failure: the kind of failure.
        message: about the failure, for people.
        http_status: of the failed answer, if there was one.
        code: `extensions.code` of the failed answer.
        request_id: the `X-Request-Id` of the failed answer (assumption).
    """

    jobs: int
    failure: FailureKind
    message: str
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """The status of a job changed; `provider` and `version` are None for a resumed job."""

    job_id: str
    status: JobStatus
    provider: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """A job ended or was given up.

    Attributes:
        job_id: the service's id.
        status: the last one seen.
        seconds: since this client began to wait for it.
        credit_cost: credits, if the service said so.
        provider: as in the request; None for a resumed job.
        version: as in the request; None for a resumed job.
    """

    job_id: str
    status: JobStatus
    seconds: float
    credit_cost: float | None
    provider: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotExpired:
    """A job held its slot until the slot expired; unless somebody awaits it, it is no longer tracked.

    Attributes:
        job_id: None for a submit in doubt.
        seconds: for which the slot was held.
        idempotency_key: of a submit in doubt.
    """

    job_id: str | None
    seconds: float
    idempotency_key: str | None = None


WaitReason: TypeAlias = Literal["slot", "minute", "day", "server"]
"""Why a call waits: for a slot, for a permit, for the next day, or because the service asked for a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitBegan:
    """A call waits for the plan.

    Attributes:
        wait_id: the same in the event of its end; unique in this process.
        request: what waits, a "submit" or a "poll".
        reason: why it waits.
    """

    wait_id: int
    request: Literal["submit", "poll"]
    reason: WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded:
    """A call that waited goes on, or failed.

    Attributes:
        wait_id: the same as in the event of its beginning.
        request: what waited, a "submit" or a "poll".
        reason: why it waited at first.
        seconds: for which it waited.
    """

    wait_id: int
    request: Literal["submit", "poll"]
    reason: WaitReason
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLowered:
    """The service sent a lower limit than the plan's, which applies from now on; emitted once.

    `limit` is its `X-RateLimit-Limit`, `plan_limit` the plan's requests a minute.
    """

    limit: int
    plan_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceived:
    """A signed webhook brought an update of a tracked job; the update may be old."""

    job_id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDropped:
    """A signed webhook was dropped: its job did not become known here within the time it was kept."""

    job_id: str


Event: TypeAlias = (
    RequestSent
    | SubmitAttempted
    | PollFailed
    | StatusChanged
    | JobFinished
    | SlotExpired
    | WaitBegan
    | WaitEnded
    | LimitLowered
    | WebhookReceived
    | WebhookDropped
)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a client's counters.

    Attributes:
        in_flight: jobs submitted or resumed, and not known to have ended.
        slots_in_use: slots that jobs hold, for all clients on the key in this process.
        waiting: waiting callers, by reason: "slot", "minute", "day" or "server".
        requests_left: requests that the plan allows now, for all clients on the key in this process.
        mean_seconds: mean duration of jobs in seconds, by provider, version and size.
        credits_spent: credits that this client's jobs cost, as far as the service reported.
    """

    in_flight: int
    slots_in_use: int
    waiting: Mapping[str, int]
    requests_left: int
    mean_seconds: Mapping[JobKind, float]
    credits_spent: float


T = TypeVar("T")
Throw: TypeAlias = Callable[[BaseException], bool]
"""Raises an error out of a waiting caller's `await`; returns False if nobody waits."""


class Callback(Generic[T]):
    """Calls a user's function; falsy if there is none: `if callback: callback(value)`.

    Args:
        function: the user's, or None.
        name: the argument that it was passed as.
        when: describes the moment of a call for the log, from the value.

    Raises:
        ConfigurationError: if it is no function, or one that would never run.
    """

    __slots__ = ("_function", "_has_warned", "_held", "_name", "_when")

    def __init__(self, function: Callable[[T], object] | None, name: str, when: Callable[[T], str]) -> None:
        self._function = checked_callback(function, name)
        self._name = name
        self._when = when
        self._has_warned = False
        self._held: list[T] | None = None

    def __bool__(self) -> bool:
        return self._function is not None

    def __call__(self, value: T) -> None:
        """Call the function from the user's own call: what propagates comes out here."""
        if self._held is not None:
            self._held.append(value)
        elif (error := self._error_of(value)) is not None:
            raise error

    def aside(self, value: T, whose: Throw | None = None) -> None:
        """Call the function and raise nothing here: what propagates goes to a waiting caller or the loop."""
        if self._held is not None:
            self._held.append(value)
        elif (error := self._error_of(value)) is not None and (whose is None or not whose(error)):
            raise_in_loop(error)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Hold the calls of this block until its end; what propagates comes out of the block.

        The block must not `await`.
        """
        if self._function is None or self._held is not None:
            yield
            return
        held: list[T] = []
        self._held = held
        is_well = False
        try:
            yield
            is_well = True
        finally:
            self._held = None
            thrown = [error for value in held if (error := self._error_of(value)) is not None]
            here = thrown.pop(0) if thrown and is_well else None
            for error in thrown:
                raise_in_loop(error)
        if here is not None:
            raise here

    def _error_of(self, value: T) -> BaseException | None:
        """Call the function, log an ordinary exception, and return one that propagates."""
        if self._function is None:
            return None
        try:
            returned = self._function(value)
            if returned is not None:
                self._discard(returned)
        except BaseException as error:
            if is_from_user(error):
                return error
            with suppress(Exception):
                log.error("%s failed %s", self._name, self._when(value), exc_info=error)
        return None

    def _discard(self, returned: object) -> None:
        """Close a coroutine that nobody will run; a task or a future runs on its own."""
        is_lost = inspect.isawaitable(returned) or isinstance(returned, AsyncGenerator)
        if not is_lost or asyncio.isfuture(returned):
            return
        if isinstance(returned, Coroutine):
            returned.close()
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self._name} returned a {type(returned).__name__}, which nobody awaits. {_how(self._name)}",
                DoitongWarning,
                stacklevel=1,
            )


class Hook(Callback[Event]):
    """The user's `on_event`; `if hook: hook(SomethingHappened(…))` costs nothing where there is none."""

    __slots__ = ()

    def __init__(self, function: Callable[[Event], object] | None) -> None:
        super().__init__(function, "on_event", lambda event: f"on {type(event).__name__}")


F = TypeVar("F", bound=Callable[..., object])


def checked_callback(function: F | None, name: str, *, may_be_async: bool = False) -> F | None:
    """Return the callback, once checked.

    Raises:
        ConfigurationError: if it is no function, or one that would never run.
    """
    if function is None:
        return None
    if not callable(function):
        raise ConfigurationError(f"{name} is {function!r}; expected a function.")
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    # On the type, where Python looks up `__call__`.
    for each in (inner, inspect.getattr_static(type(inner), "__call__", None)):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            how = "Pass a plain or an async function." if may_be_async else _how(name)
            raise ConfigurationError(f"{name} is a generator function: calling it runs nothing. {how}")
        if inspect.iscoroutinefunction(each) and not may_be_async:
            raise ConfigurationError(f"{name} is an async function: nobody would await it. {_how(name)}")
    return function


def is_from_user(error: BaseException) -> bool:
    """Whether this is neither an error nor a cancellation, but meant for the program itself."""
    return not isinstance(error, Exception | asyncio.CancelledError)


def pass_on(error: BaseException | None) -> None:
    """Raise an error of one of our tasks in the loop, if it is from the user and nobody awaits the task.

    `KeyboardInterrupt` and `SystemExit` left the loop when the task ended.
    """
    if error is not None and is_from_user(error) and not isinstance(error, KeyboardInterrupt | SystemExit):
        raise_in_loop(error)


def own_task_is_over(task: asyncio.Task[Any]) -> None:
    """Pass on, or log, the error of one of our tasks that nobody awaits."""
    error = None if task.cancelled() else task.exception()
    pass_on(error)
    if error is not None and not is_from_user(error):
        log.error("%s broke; this is a bug in doitong_async, please report it", task, exc_info=error)


def raise_in_loop(error: BaseException) -> None:
    """Raise an error in the running loop, after the current callback; without a loop, raise it here.

    `KeyboardInterrupt` and `SystemExit` leave the loop, anything else reaches its exception handler.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon(_raise, error)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _how(name: str) -> str:
    return (
        f"Pass a plain function that returns at once. To await something, pass {name}=queue.put_nowait with "
        f"queue = asyncio.Queue(), and read the queue in your own task."
    )
