"""The library's logger, which never raises: a broken handler must not cost a paid job."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from doitong_async.errors import DoitongWarning
from doitong_async.unicode import writable

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
    _Handler = logging.StreamHandler[TextIO]
else:
    _Adapter = logging.LoggerAdapter
    _Handler = logging.StreamHandler

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO}


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


class _LastResort(_Handler):
    """Writes to the standard error what no other handler gets: who configures logging has each line once."""

    def filter(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = log.logger
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True


def log_as_asked(asked: str) -> None:
    """Obey DOITONG_LOG: set the level of this package's logger, and see to it that its lines are shown.

    A client calls it when it is made, as it then reads its other variables, which a program may have
    loaded from a file after its imports. No other logger is touched.

    Args:
        asked: "debug", "info", or nothing. Anything else is warned about: a switch for diagnosis must not
            stop a program that works.
    """
    word = asked.strip().lower()
    if not word:
        return
    if word not in _LEVELS:
        warnings.warn(
            f"DOITONG_LOG is {asked!r}; expected debug or info. It has no effect.",
            DoitongWarning,
            stacklevel=3,
        )
        return
    log.logger.setLevel(_LEVELS[word])
    if not any(isinstance(handler, _LastResort) for handler in log.logger.handlers):
        handler = _LastResort()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        log.logger.addHandler(handler)
