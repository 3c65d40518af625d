"""The entry point of the command line, `doitong`; `cli.app` has its commands."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

_EXTRA = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `doitong --help` lists them.

    Args:
        arguments: the command's arguments; those of the process by default.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # The parent process closed it: carry on without output.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper) and stream.errors == "strict":
            # What the stream cannot encode is escaped, in the help as in every line.
            stream.reconfigure(errors="backslashreplace")
    try:
        # Imported late, so that a missing extra gives a message and not a traceback.
        from doitong_async.cli.app import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("The command line needs typer and rich: pip install 'doitong-async[cli]'\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Nothing was sent.\n")
        return 130
    return run(sys.argv[1:] if arguments is None else arguments)
