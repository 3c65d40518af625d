"""Wait queues for slots and permits: first in, first out, and nothing is lost when a waiter leaves."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar


class Returnable(Protocol):
    """A grant that its holder can return unused."""

    def give_back(self) -> None:
        """Return it unused."""


T = TypeVar("T", bound=Returnable)


@dataclass(frozen=True, slots=True)
class Position:
    """What the queue knows of a waiter.

    Attributes:
        since: when it joined.
        waits_for_day: whether it would wait for the next day.
        in_doubt: whether its submit may have made a job already.
        credits: for which it waits.
        slot: the id of the slot that its submit has.
        key: the idempotency key of its submit.
        is_asked: whether its poll was asked for by a caller, and is none of the regular ones.
    """

    since: float
    waits_for_day: bool = False
    in_doubt: bool = False
    credits: float = 0.0
    slot: str = ""
    key: str = ""
    is_asked: bool = False


class WaitQueue(Generic[T]):
    """Waiters for one kind of grant, in the order they came."""

    def __init__(self) -> None:
        self._waiters: OrderedDict[asyncio.Future[T], Position] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def first(self) -> Position | None:
        """Return the position of the next waiter."""
        return next(iter(self._waiters.values()), None)

    def join(self, position: Position) -> Waiter[T]:
        """Join the queue."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = position
        return Waiter(self, waiter)

    def leave(self, waiter: asyncio.Future[T]) -> None:
        """Leave the queue; a grant that arrived at this very moment goes back."""
        self._waiters.pop(waiter, None)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            waiter.result().give_back()

    def grant(self, make: Callable[[], T]) -> None:
        """Give the first waiter its grant, unless it left at this very moment."""
        waiter, _ = self._waiters.popitem(last=False)
        if not waiter.done():
            waiter.set_result(make())

    def positions(self) -> list[Position]:
        """Return the positions of all waiters, in their order."""
        return list(self._waiters.values())

    def grant_first(self, make: Callable[[], T], *, who: Callable[[Position], bool]) -> bool:
        """Give the first waiter of whom `who` is true its grant; return whether there was one."""
        for waiter, position in list(self._waiters.items()):
            if who(position) and not waiter.done():
                del self._waiters[waiter]
                waiter.set_result(make())
                return True
        return False

    def fail(self, make: Callable[[], Exception], *, unless: Callable[[Position], bool]) -> None:
        """Remove the waiters for which `unless` is false, each with an error of its own."""
        for waiter, position in list(self._waiters.items()):
            if not unless(position):
                del self._waiters[waiter]
                if not waiter.done():
                    waiter.set_exception(make())


class Waiter(Generic[T]):
    """One caller's wait: `with waiter: … await waiter`; await it once.

    A block that ends with an exception leaves the queue and returns what was granted by then.
    """

    __slots__ = ("_queue", "_waiter")

    def __init__(self, queue: WaitQueue[T], waiter: asyncio.Future[T]) -> None:
        self._queue = queue
        self._waiter = waiter

    @property
    def is_over(self) -> bool:
        """Whether the wait has ended, with a grant or an error."""
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
