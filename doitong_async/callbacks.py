"""Safe calls of user callbacks.

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
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

from doitong_async.errors import ConfigurationError, DoitongWarning
from doitong_async.log import log

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
