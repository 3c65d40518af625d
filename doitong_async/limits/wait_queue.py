"""Callers in line: first come, first served, and nothing lost with those who leave."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar


class Returnable(Protocol):
    """What is granted can be given back unused."""

    def give_back(self) -> None:
        """Take it back: nobody used it."""


T = TypeVar("T", bound=Returnable)


@dataclass(frozen=True, slots=True)
class Position:
    """How a caller stands in line: since when, and whether it would wait for the next day."""

    since: float
    waits_for_day: bool = False


class WaitQueue(Generic[T]):
    """Callers that wait for one kind of thing, in the order they came."""

    def __init__(self) -> None:
        self._waiters: OrderedDict[asyncio.Future[T], Position] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def first(self) -> Position | None:
        """Return the place of who is next."""
        return next(iter(self._waiters.values()), None)

    def join(self, position: Position) -> Waiter[T]:
        """Stand in line."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = position
        return Waiter(self, waiter)

    def leave(self, waiter: asyncio.Future[T]) -> None:
        """Stand in line no more; what was granted in this very moment goes back."""
        self._waiters.pop(waiter, None)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            waiter.result().give_back()

    def grant(self, make: Callable[[], T]) -> None:
        """Give the first in line what it waits for, unless it left at this very moment."""
        waiter, _ = self._waiters.popitem(last=False)
        if not waiter.done():
            waiter.set_result(make())

    def fail(self, make: Callable[[], Exception], *, unless: Callable[[Position], bool]) -> None:
        """Send away whoever stands in line, with an error of its own, but for some."""
        for waiter, position in list(self._waiters.items()):
            if not unless(position):
                del self._waiters[waiter]
                if not waiter.done():
                    waiter.set_exception(make())


class Waiter(Generic[T]):
    """One caller's wait: `with waiting: … await waiting`; await it once.

    Whatever leaves the block by an exception leaves the line, and what was granted by then goes back.
    """

    __slots__ = ("_queue", "_waiter")

    def __init__(self, queue: WaitQueue[T], waiter: asyncio.Future[T]) -> None:
        self._queue = queue
        self._waiter = waiter

    @property
    def is_over(self) -> bool:
        """Whether it was granted, or refused, already."""
        return self._waiter.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._queue.leave(self._waiter)

    def __await__(self) -> Generator[object, None, T]:
        return self._waiter.__await__()

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        if not self._waiter.done():
            self._waiter.set_exception(error)
