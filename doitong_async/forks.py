"""Notices that a process was forked since a client was opened in it."""

from __future__ import annotations

import os

from doitong_async.errors import ConfigurationError


def check_process(pid: int) -> None:
    """Check that connections belong to this process.

    Args:
        pid: of the process that opened them.

    Raises:
        ConfigurationError: if it was another one.
    """
    if os.getpid() != pid:
        raise ConfigurationError(
            "The client was opened before this process was forked, and its connections belong to the other "
            "process. Open a client in each process, after the fork."
        )
