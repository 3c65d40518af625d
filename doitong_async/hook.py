"""The user's callbacks, under one rule: none of them loses a job, a slot or a permit, or ends the polling.

- An `Exception` is logged, and harms nothing. So is a `CancelledError`, as `future.result()` raises it: a
  real cancellation never comes out of a plain function.
- Anything else (`KeyboardInterrupt`, `SystemExit`, a test's failure) goes on, but only when all is in order:
  out of the caller's own call (`__call__`, `in_order`); or, where the client works on its own, out of the
  `await` of whoever waits for the job, or else into the event loop (`aside`).
- An async function is refused, as nobody would await it. So is a generator function: to call it runs nothing.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

from doitong_async.errors import ConfigurationError, DoitongWarning
from doitong_async.events import Event
from doitong_async.log import log

T = TypeVar("T")
Throw: TypeAlias = Callable[[BaseException], bool]
"""Raises an error out of the `await` of one who waits; returns False if nobody does."""


class Callback(Generic[T]):
    """Calls a user's function, and is false if there is none: `if told: told(value)`.

    Args:
        function: the user's, or None.
        name: of the argument that it was given as.
        when: says of a value when the function was called, for the log.

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
        """Tell the function, in a call of the user's own: what goes on comes out here."""
        if self._held is not None:
            self._held.append(value)
        elif (error := self._error_of(value)) is not None:
            raise error

    def aside(self, value: T, whose: Throw | None = None) -> None:
        """Tell the function, and raise nothing here: what goes on goes to whoever waits, or into the loop."""
        if self._held is not None:
            self._held.append(value)
        elif (error := self._error_of(value)) is not None and (whose is None or not whose(error)):
            raise_in_loop(error)

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Tell all that happens in this block at its end, when all is in order; what goes on comes out of it.

        There is no `await` in the block.
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
        """Tell the function, log what harms nothing, and return what goes on."""
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
        """Close what nobody will run; a task or a future runs on its own, and is its owner's."""
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
    """Return a callback that can be called.

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
    # On the type, where Python looks for it when it calls an object.
    for each in (inner, inspect.getattr_static(type(inner), "__call__", None)):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            how = "Give a plain or an async function." if may_be_async else _how(name)
            raise ConfigurationError(f"{name} is a generator function, and to call it runs nothing. {how}")
        if inspect.iscoroutinefunction(each) and not may_be_async:
            raise ConfigurationError(f"{name} is an async function, and nobody would await it. {_how(name)}")
    return function


def is_from_user(error: BaseException) -> bool:
    """Whether this is neither an error nor a cancellation, but meant for whoever runs the program."""
    return not isinstance(error, Exception | asyncio.CancelledError)


def pass_on(error: BaseException | None) -> None:
    """Raise what a task of ours ended with in the loop, if it is from the user and nobody awaits the task.

    `KeyboardInterrupt` and `SystemExit` left the loop when the task ended.
    """
    if error is not None and is_from_user(error) and not isinstance(error, KeyboardInterrupt | SystemExit):
        raise_in_loop(error)


def own_task_is_over(task: asyncio.Task[Any]) -> None:
    """Pass on, or log, what a task of ours ended with that nobody awaits."""
    error = None if task.cancelled() else task.exception()
    pass_on(error)
    if error is not None and not is_from_user(error):
        log.error("%s broke; this is a mistake of doitong_async, please report it", task, exc_info=error)


def raise_in_loop(error: BaseException) -> None:
    """Raise an error in the running loop, when what runs now has ended; without a loop here.

    `KeyboardInterrupt` and `SystemExit` leave the loop then, anything else reaches its exception handler.
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
        f"Give a plain function that returns at once. To await something, let it put what it is told into a "
        f"queue, queue = asyncio.Queue() and {name}=queue.put_nowait, and read that in a task of your own."
    )
