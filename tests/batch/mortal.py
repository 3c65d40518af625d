"""Simulates a process that dies: after one of its awaits, none of its tasks continues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any


class Life:
    """The tasks of one simulated process, and the number of the await at which it dies (None: never).

    What it sent stays sent, and its timers and threads run to their end; only its own code stops. It calls
    `at_death` at that very moment, to copy the disk.
    """

    def __init__(self, dies_at: int | None = None, at_death: Callable[[], object] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.awaits = 0
        self.is_lying = False
        """Whether it is dead and its tasks are frozen, until `bury` ends them."""
        self.died = asyncio.Event()
        self._dies_at = dies_at
        self._at_death = at_death
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine, and all tasks that it starts, within this life."""
        context = copy_context()
        context.run(_LIFE.set, self)
        asyncio.get_running_loop().set_task_factory(_make_task)
        return context.run(asyncio.ensure_future, coroutine)

    def dies_here(self) -> bool:
        """Count one await, and return whether it is the last one."""
        self.awaits += 1
        if self.awaits != self._dies_at:
            return False
        self.die()
        return True

    def die(self) -> None:
        """Die here and now; another thread may call this."""
        self.is_lying = True
        if self._at_death is not None:
            self._at_death()
        # Only now: the test continues with the copy of the disk.
        self._loop.call_soon_threadsafe(self.died.set)

    def add(self, task: asyncio.Task[Any]) -> None:
        """Freeze this task too when the process dies."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def bury(self) -> None:
        """Cancel the frozen tasks, so that the test leaves nothing behind."""
        self.is_lying = False
        # Nobody retrieves the exceptions of what the frozen tasks awaited.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


_LIFE: ContextVar[Life] = ContextVar("life")


class _Mortal(Coroutine[Any, Any, Any]):
    """A coroutine that stops forever at the await at which its process dies."""

    def __init__(self, inner: Coroutine[Any, Any, Any], life: Life) -> None:
        self._inner = inner
        self._life = life

    def send(self, value: Any) -> Any:
        if self._life.is_lying:
            return self._freeze()
        awaited = self._inner.send(value)
        return self._freeze() if self._life.dies_here() else awaited

    def throw(self, *error: Any) -> Any:
        return self._freeze() if self._life.is_lying else self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("a task drives it, nobody awaits it")

    def _freeze(self) -> Any:
        return asyncio.get_running_loop().create_future().__await__().send(None)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    life = _LIFE.get(None)
    if life is None:
        return asyncio.Task(coroutine, loop=loop, **more)
    task: asyncio.Task[Any] = asyncio.Task(_Mortal(coroutine, life), loop=loop, **more)
    life.add(task)
    return task
