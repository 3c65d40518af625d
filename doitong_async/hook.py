"""The user's `on_event`: a broken one harms nothing, a missing one costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from doitong_async.events import Event

_log: Final = logging.getLogger("doitong_async")


class Hook:
    """Calls the user's callback, and is false if there is none: `if hook: hook(SomethingHappened(…))`."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[Event], object] | None) -> None:
        self._callback = callback

    def __bool__(self) -> bool:
        return self._callback is not None

    def __call__(self, event: Event) -> None:
        """Tell the callback; what it raises is logged."""
        try:
            if self._callback is not None:
                self._callback(event)
        except Exception:
            _log.exception("on_event failed on %s", type(event).__name__)
