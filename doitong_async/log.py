"""The library's logger, which harms nothing: a handler that raises must not cost a paid job."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class _Log(_Adapter):
    """Logs, and lets nothing that a handler raises reach the call that logs."""

    def log(self, level: int, msg: object, *args: object, **named: Any) -> None:
        """Log a message."""
        with suppress(Exception):
            if self.isEnabledFor(level):
                # Of the caller, not of this adapter: past `log` and the method that called it.
                self.logger.log(level, msg, *args, stacklevel=3, **named)


log: Final = _Log(logging.getLogger("doitong_async"), None)
