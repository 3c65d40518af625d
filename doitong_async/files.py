"""Bytes to disk, whole or not at all: written beside the place, renamed into it at the end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from doitong_async.errors import DownloadError

_BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is whole: where, how many bytes, and their SHA-256 in hexadecimal."""

    path: Path
    length: int
    sha256: str


async def write_whole(path: Path, chunks: AsyncIterator[bytes]) -> Written:
    """Write all chunks to `path`, and return what was written.

    Until the last byte is on the disk nothing stands under the final name; what stood there before stays.
    On an error, a cancel or a full disk nothing is left behind.

    Raises:
        DownloadError: if the file cannot be written, with what the system said.
    """
    part = _Part(path)
    try:
        await _in_thread(part.open, path)
        async for chunk in chunks:
            await _in_thread(lambda data=chunk: part.write(data), path)  # type: ignore[misc]  # bound at once
        await _in_thread(part.finish, path)
    except BaseException:
        # Not in a thread: whoever cancelled must find nothing left when this returns.
        part.discard()
        raise
    return Written(path, part.length, part.digest.hexdigest())


def safe_name(job_id: str, suffix: str) -> str:
    """Return a file name made of an id that the service chose: no separator, no dot, no odd letter."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:100]
    if plain == job_id and plain.upper() not in _RESERVED:
        return plain + suffix
    return f"{plain}-{hashlib.sha256(job_id.encode()).hexdigest()[:8]}{suffix}"


_RESERVED: Final = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}


class _Part:
    """The unfinished file, hidden beside the place where the whole one will stand."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._path = place.with_name(f".{place.name[:40]}.{secrets.token_hex(6)}.part")
        self._file: BinaryIO | None = None
        self.length = 0
        self.digest = hashlib.sha256()

    def open(self) -> None:
        # Exclusive, and with the rights that the user's umask gives a new file.
        self._file = self._path.open("xb", buffering=_BUFFER)

    def write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self.length += len(data)
        self.digest.update(data)

    def finish(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._path, self._place)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        with contextlib.suppress(OSError, ValueError):
            self._path.unlink()


async def _in_thread(work: Callable[[], None], path: Path) -> None:
    """Do blocking work elsewhere; when cancelled, wait for it all the same, so that none goes on alone."""
    task = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # However often it is cancelled: a thread that is left alone would leave its file behind.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
    except (OSError, ValueError) as error:
        # ValueError: a null byte in the name.
        reason = getattr(error, "strerror", None) or error
        raise DownloadError(f"{path} cannot be written: {reason}.") from error
