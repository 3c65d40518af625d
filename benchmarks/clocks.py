"""Event loops whose clock is not the wall's: one that hurries, and one that jumps."""

from __future__ import annotations

import asyncio
import selectors

Ready = list[tuple[selectors.SelectorKey, int]]


class HurryingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock runs `speed` times as fast: waiting is shorter, work is not."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        super().__init__(_Hurrying(speed))

    def time(self) -> float:
        """Return the hurried moment, in seconds."""
        return super().time() * self._speed


class _Hurrying(selectors.DefaultSelector):
    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> Ready:
        return super().select(timeout / self._speed if timeout else timeout)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop in which time jumps from timer to timer; for code without sockets, so it need not be patient."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return the virtual moment, in seconds since the loop was made."""
        return self.now


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Ready:
        if timeout is not None and timeout > 0:
            # The timer's own moment, not a sum: a moment that is rounded just below it would come again.
            timers: list[asyncio.TimerHandle] = self._loop._scheduled  # type: ignore[attr-defined]  # private
            self._loop.now = max(self._loop.now, timers[0].when())
        return super().select(0)
