"""The library's logger, which never raises: a broken handler must not cost a paid job."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from doitong_async.unicode import writable

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class _Log(_Adapter):
    """Logs, and lets no exception of a handler reach the caller."""

    def log(self, level: int, msg: object, *args: object, **named: Any) -> None:
        """Log a message."""
        with suppress(Exception):
            if self.isEnabledFor(level):
                # Report the position of the caller: skip `log` and the method that called it.
                texts = (writable(each) if isinstance(each, str) else each for each in args)
                self.logger.log(level, msg, *texts, stacklevel=3, **named)


log: Final = _Log(logging.getLogger("doitong_async"), None)
