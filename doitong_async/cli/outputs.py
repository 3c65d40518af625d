"""Where a job's output goes: nowhere, to a file, into a directory, or to the standard output."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO
from weakref import WeakSet

from doitong_async import media
from doitong_async.cli.exits import CommandError
from doitong_async.errors import DownloadError
from doitong_async.result import Result


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved: the file (None: the standard output), and its size in bytes.

    `suffix` is the ending that fits the output, if the file has that of another kind.
    """

    file: str | None
    size: int
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """The value of `-o`; None saves nothing, "-" is the standard output."""

    name: str | None

    @property
    def is_stdout(self) -> bool:
        """Whether the bytes go to the standard output, so that messages must go elsewhere."""
        return self.name == "-"

    def check(self) -> None:
        """Check that the output can be saved, before anything is sent or spent.

        Raises:
            CommandError: saying what is wrong with the destination, and what would work.
        """
        if self.is_stdout:
            if sys.stdout.isatty():
                raise CommandError(
                    "-o - would write binary data to this terminal. Pipe it on, or name a file."
                )
        elif self.name is not None:
            _check_path(self.name)

    async def take(self, result: Result) -> Saved | None:
        """Fetch the output and save it.

        Raises:
            DownloadError: if it cannot be fetched or saved.
        """
        if self.name is None:
            return None
        if not self.is_stdout:
            path = await result.save(self.name)
            size = (await asyncio.to_thread(path.stat)).st_size
            return Saved(str(path), size, media.other_ending(path.suffix, result.suffix))
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
    """Discard further output: the reader has gone, and the flush at exit must not fail."""
    _silent.add(file)
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, file.fileno())
    os.close(null_device)


def is_silent(file: TextIO) -> bool:
    """Whether output there is discarded."""
    return file in _silent


class Steady:
    """A stream for rich that never fails, even when its reader or its terminal has gone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write, or discard."""
        try:
            return self._file.write(text)
        except OSError:
            silence(self._file)
            return len(text)

    def flush(self) -> None:
        """Flush, or discard."""
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
            raise CommandError(f"-o {name}: the directory {folder} does not exist. Create it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CommandError(f"-o {name}: {folder} is not writable. Choose another directory.")
        if not is_folder and path.exists() and not path.is_file():
            # Saving would replace it, even /dev/null for a careless root.
            raise CommandError(f"-o {name}: this is not a regular file. Use -o - and redirect the output.")
    except OSError as error:
        raise CommandError(f"-o {name[:200]}: this cannot be a file: {error.strerror}.") from None
