"""Bytes to disk, whole or not at all: written beside the place, renamed into it at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from doitong_async.errors import DownloadError

_T = TypeVar("_T")
_BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """Here a file begins, and what came before is void: a download that cannot go on begins anew.

    `suffix` is the ending that fits what it is, as in ".jpg".
    """

    suffix: str


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is whole: where, how many bytes, and their SHA-256 in hexadecimal."""

    path: Path
    length: int
    sha256: str


async def write_whole(
    place: Path | Callable[[str], Path], pieces: AsyncIterator[Start | bytes], *, replaces: bool = True
) -> Written:
    """Write a file, and return what was written.

    Until the last byte is on the disk nothing stands under the final name; what stood there before stays.
    On an error, a cancel or a full disk nothing is left behind. A link is followed.

    Args:
        place: the file; or, from its ending, the file.
        pieces: its bytes; at each `Start` they begin anew.
        replaces: whether a file that stands there is replaced; else another one is left alone, and the name
            gets a number.

    Raises:
        DownloadError: if the file cannot be written, with what the system said; or what stands there is a
            device, a pipe, a socket or a folder.
    """
    part = _Part(place if isinstance(place, Path) else Path(), replaces=replaces)
    try:
        if isinstance(place, Path):
            # Before anything is fetched in vain.
            await in_thread(part.check, place)
        async for piece in pieces:
            if not isinstance(piece, Start):
                await in_thread(lambda data=piece: part.write(data), part.place)  # type: ignore[misc]  # bound at once
                continue
            if not isinstance(place, Path):
                part.place = place(piece.suffix)
            await in_thread(part.begin, part.place)
        await in_thread(part.finish, part.place)
    except BaseException:
        # Not in a thread: whoever cancelled must find nothing left when this returns.
        part.discard()
        raise
    return Written(part.place, part.length, part.digest.hexdigest())


def safe_name(job_id: str, suffix: str) -> str:
    """Return a file name made of an id that the service chose: no separator, no dot, no odd letter."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:100]
    if plain == job_id and plain.upper() not in _RESERVED:
        return plain + suffix
    return f"{plain}-{hashlib.sha256(job_id.encode()).hexdigest()[:8]}{suffix}"


_RESERVED: Final = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}


class _Part:
    """The unfinished file, hidden beside the place where the whole one will stand."""

    def __init__(self, place: Path, *, replaces: bool) -> None:
        self.place = place
        self._replaces = replaces
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        # A thread that is late opens no file that nobody removes.
        self._opening = threading.Lock()
        self._is_discarded = False
        self.length = 0
        self.digest = hashlib.sha256()

    def check(self) -> None:
        _target(self.place)

    def open(self) -> None:
        with self._opening:
            if self._is_discarded:
                return
            target = _target(self.place)
            name = os.fsdecode(os.fsencode(target.name)[:_SHOWN]).encode(errors="ignore").decode()
            self._path = target.with_name(f".{name}.{secrets.token_hex(6)}.part")
            # Exclusive, and with the rights that the user's umask gives a new file.
            self._file = self._path.open("xb", buffering=_BUFFER)

    def begin(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self.length, self.digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        if self._file is None:
            self.open()
        if self._file is not None:
            self._file.write(data)
        self.length += len(data)
        self.digest.update(data)

    def finish(self) -> None:
        if self._file is None:
            self.open()
        if self._file is None or self._path is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if not self._replaces:
            self.place = self._free(self.place)
        os.replace(self._path, _target(self.place))

    def discard(self) -> None:
        with self._opening:
            self._is_discarded = True
            with contextlib.suppress(OSError):
                if self._file is not None:
                    self._file.close()
            with contextlib.suppress(OSError, ValueError):
                if self._path is not None:
                    self._path.unlink()

    def _free(self, place: Path) -> Path:
        """Return the first name that is not taken, or has these very bytes."""
        stem = place.stem
        for number in count(2):
            if not os.path.lexists(place) or self._is_same(place):
                return place
            place = place.with_stem(f"{stem}-{number}")
        raise AssertionError

    def _is_same(self, place: Path) -> bool:
        try:
            seen = os.lstat(place)
            if not stat.S_ISREG(seen.st_mode) or seen.st_size != self.length:
                return False
            with place.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest() == self.digest.digest()
        except OSError:
            return False


_SHOWN: Final = 40
"""Bytes of a file's name in the name of its part: some file systems take no more than 143 in all."""


_NO_FILE: Final = "it is a device, a pipe or a socket; save to a file, or write there what read() returns"


def _target(place: Path) -> Path:
    """Return where a file is written: at the end of a link.

    Raises:
        OSError: if what stands there is no regular file, or cannot be looked at.
    """
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        # Nothing is there yet, or a link to nothing.
        return Path(os.path.realpath(place))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, _NO_FILE)
    return Path(os.path.realpath(place))


async def in_thread(work: Callable[[], _T], path: Path) -> _T:
    """Do blocking work on a file elsewhere, and return what it returns.

    When cancelled, wait for it all the same, so that none goes on alone.

    Raises:
        DownloadError: if it cannot be done; its cause is an `OSError` or a `ValueError`.
    """
    try:
        task = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError as error:
        reason = str(error)
        raise DownloadError(f"{path} cannot be written: {reason}.") from OSError(errno.EAGAIN, reason)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # However often it is cancelled: a thread that is left alone would leave its file behind.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
    except (OSError, ValueError) as error:
        # ValueError: a null byte in the name.
        reason = getattr(error, "strerror", None) or str(error)
        raise DownloadError(f"{path} cannot be written: {reason}.") from error
