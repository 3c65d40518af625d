"""Where the output of a job goes: nowhere, to a file, into a directory, or to the standard output."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO
from weakref import WeakSet

from doitong_async.cli.exits import CommandError
from doitong_async.errors import DownloadError
from doitong_async.result import Result


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written: the file (None: the standard output), and how many bytes."""

    file: str | None
    size: int


@dataclass(frozen=True, slots=True)
class Destination:
    """What `-o` said; None saves nothing, "-" is the standard output."""

    name: str | None

    @property
    def is_stdout(self) -> bool:
        """Whether the bytes go to the standard output, and words have to go elsewhere."""
        return self.name == "-"

    def check(self) -> None:
        """Make sure that the output can be written there, while nothing is sent or spent.

        Raises:
            CommandError: saying what is wrong with the place, and what would do.
        """
        if self.is_stdout:
            if sys.stdout.isatty():
                raise CommandError(
                    "-o - writes the bytes of a picture to this terminal; pipe them on, or name a file."
                )
        elif self.name is not None:
            _check_path(self.name)

    async def take(self, result: Result) -> Saved | None:
        """Fetch the output and put it in its place.

        Raises:
            DownloadError: if it cannot be had, or not be written.
        """
        if self.name is None:
            return None
        if not self.is_stdout:
            path = await result.save(self.name)
            return Saved(str(path), (await asyncio.to_thread(path.stat)).st_size)
        data = await result.read()
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            silence(sys.stdout)
            raise DownloadError(
                f"The standard output cannot be written: {error.strerror or error}.", job_id=result.id
            ) from error
        return Saved(None, len(data))


_silent: Final[WeakSet[TextIO]] = WeakSet()


def silence(file: TextIO) -> None:
    """Let what is still written there vanish: its reader is gone, and the flush at exit must not fail."""
    _silent.add(file)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


def is_silent(file: TextIO) -> bool:
    """Whether what is written there vanishes."""
    return file in _silent


class Steady:
    """A stream for rich that takes what it is given, also when its reader or its terminal is gone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write, or let it vanish."""
        try:
            return self._file.write(text)
        except OSError:
            silence(self._file)
            return len(text)

    def flush(self) -> None:
        """Flush, or let it vanish."""
        try:
            self._file.flush()
        except OSError:
            silence(self._file)


def _check_path(name: str) -> None:
    try:
        path = Path(name)
        is_folder = name.endswith(("/", os.sep)) or path.is_dir()
        folder = path if is_folder else path.parent
        if not name.strip() or not (is_folder or path.name):
            raise CommandError("-o is empty; expected a file, a directory, or - for the standard output.")
        if not folder.is_dir():
            raise CommandError(f"-o {name}: there is no directory {folder}; create it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CommandError(f"-o {name}: {folder} is not writable; choose another directory.")
        if not is_folder and path.exists() and not path.is_file():
            # It would be replaced, as /dev/null would be for a careless root.
            raise CommandError(f"-o {name}: that is no regular file; use -o - and redirect the output.")
    except OSError as error:
        raise CommandError(f"-o {name[:200]}: this cannot be a file: {error.strerror}.") from None
