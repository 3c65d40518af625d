"""Keeps in touch with Redis: gives a sign of life each second, and finds the way back when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from doitong_async.callbacks import own_task_is_over
from doitong_async.errors import ConfigurationError, CoordinatorError
from doitong_async.limits.redis.codec import AnotherFormatError
from doitong_async.limits.redis.replica import Replica
from doitong_async.limits.redis.store import Store, UnreachableError
from doitong_async.log import log
from doitong_async.waits import backoff_waits

BEAT: Final = 1.0
"""Seconds between two signs of life: our choice."""
LAST_WORDS: Final = 2.0
"""Seconds that closing, or a webhook, waits for Redis to take what is left to say: our choice."""
_UNUSABLE: Final = (TypeError, ValueError, RuntimeError)
_ANOTHER_FORMAT: Final = (
    "Another version of this library shares the coordinator, in a format that this one cannot read. Give all "
    "processes on the key the same version."
)


class Link:
    """The connection of one process to the state that it shares.

    Args:
        store: keeps the state.
        replica: this process's copy.
        me: the name of this process.
        on_away: called after each attempt to reach Redis that failed.
        on_back: called after each that succeeded.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        me: str,
        *,
        on_away: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self._store = store
        self._replica = replica
        self._me = me
        self._on_away = on_away
        self._on_back = on_back
        self.wanted: asyncio.Event = asyncio.Event()
        """Set by who has something to say, or wants to know what is new."""
        self._tasks: list[asyncio.Task[None]] = []
        self._is_away = False

    async def open(self) -> None:
        """Join the others; if Redis cannot be reached now, go on trying.

        Raises:
            CoordinatorError: if Redis will never let us in.
            ConfigurationError: if the client of Redis, or its URL, cannot be used at all.
        """
        try:
            await self._replica.sync()
            await self._store.warn_of_eviction()
        except UnreachableError as error:
            if error.is_final:
                raise CoordinatorError(f"The coordinator rejects this process: {error}") from None
            self._go_away(str(error))
        except AnotherFormatError:
            raise CoordinatorError(_ANOTHER_FORMAT) from None
        except _UNUSABLE as error:
            # As for an unknown option in the URL, or a client that belongs to another event loop.
            raise ConfigurationError(f"coordinator cannot be used: {error}.") from None
        for task in (self._run(), self._listen()):
            self._tasks.append(asyncio.create_task(task, name="doitong coordinator"))
            self._tasks[-1].add_done_callback(own_task_is_over)

    async def flush(self) -> None:
        """Wait until Redis has everything that happened here so far.

        Raises:
            CoordinatorError: if it does not answer.
        """
        if self._is_away:
            raise unreachable()
        try:
            async with asyncio.timeout(LAST_WORDS):
                await self._replica.taken()
        except TimeoutError:
            raise unreachable() from None

    async def close(self) -> None:
        """Say what is left to say, and close the connections."""
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with suppress(UnreachableError, AnotherFormatError, TimeoutError, *_UNUSABLE):
                async with asyncio.timeout(LAST_WORDS):
                    await self._replica.sync()
        finally:
            await self._store.aclose()

    async def _run(self) -> None:
        waits = backoff_waits(first=0.1, longest=BEAT)
        while True:
            if self._is_away:
                await asyncio.sleep(next(waits))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT):
                        await self.wanted.wait()
            self.wanted.clear()
            try:
                await self._replica.sync()
            except UnreachableError as error:
                self._go_away(str(error))
            except AnotherFormatError:
                self._go_away(_ANOTHER_FORMAT)
            except Exception as error:
                # Ours or of a client of the user's own: whoever waits must not wait for ever.
                log.exception("The exchange with the coordinator failed.")
                self._go_away(type(error).__name__)
            else:
                waits = self._come_back(waits)

    async def _listen(self) -> None:
        while True:
            try:
                if self._me in await self._store.listen():
                    self.wanted.set()
            except UnreachableError:
                await asyncio.sleep(BEAT)

    def _go_away(self, reason: str) -> None:
        if not self._is_away:
            log.warning("The coordinator cannot be reached, so nothing new is sent: %s", reason)
        self._is_away = True
        self._on_away()

    def _come_back(self, waits: Iterator[float]) -> Iterator[float]:
        if not self._is_away:
            return waits
        log.warning("The coordinator can be reached again.")
        self._is_away = False
        self._on_back()
        return backoff_waits(first=0.1, longest=BEAT)


def unreachable() -> CoordinatorError:
    """Return the error for those who wait for what only Redis can grant."""
    return CoordinatorError("The coordinator does not answer.")
