"""Writes files whole or not at all: to a temporary file beside the target, renamed at the end."""

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
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from doitong_async.errors import DownloadError

_T = TypeVar("_T")
_BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """A file begins here, and bytes before it are void: a download that cannot resume restarts.

    `suffix` is the ending that fits the content, as in ".jpg", `content_type` what the host says it is.
    """

    suffix: str
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A whole file: its path, its length in bytes, and their SHA-256 in hexadecimal."""

    path: Path
    length: int
    sha256: str


async def write_whole(
    target: Path | Callable[[str], Path], pieces: AsyncIterator[Start | bytes], *, replaces: bool = True
) -> SavedFile:
    """Write a file and return what was written.

    The final name appears only once the last byte is on disk; until then an existing file stays. An error, a
    cancellation or a full disk leaves nothing behind. Links are followed.

    Args:
        target: the file, or a function from its ending to the file.
        pieces: its bytes; each `Start` begins them again.
        replaces: whether to replace an existing file; otherwise a different file stays, and the new name
            gets a number.

    Raises:
        DownloadError: if the file cannot be written, with the system's reason; or if the target is a device,
            a pipe, a socket or a folder.
    """
    part = _Part(target if isinstance(target, Path) else Path(), replaces=replaces)
    try:
        if isinstance(target, Path):
            # Before anything is downloaded in vain.
            await in_thread(part.check, target)
        async for piece in pieces:
            if not isinstance(piece, Start):
                await in_thread(lambda data=piece: part.write(data), part.target)  # type: ignore[misc]  # bound at once
                continue
            if not isinstance(target, Path):
                part.target = target(piece.suffix)
            await in_thread(part.begin, part.target)
        await in_thread(part.finish, part.target)
    except BaseException:
        # Not in a thread: nothing must be left when a cancelled call returns.
        part.discard()
        raise
    return SavedFile(part.target, part.length, part.digest.hexdigest())


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Write a file in this thread: it appears under its name, whole and on disk, when the block ends well.

    An existing file stays until then; an error leaves nothing behind. Links are followed.

    Raises:
        OSError: if the file cannot be written.
    """
    part = _Part(target, replaces=True)
    try:
        yield part.opened()
        part.finish()
    except BaseException:
        part.discard()
        raise


def safe_name(job_id: str, suffix: str) -> str:
    """Return a file name from an id that the service chose: only letters, digits, "_" and "-"."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", job_id)[:100]
    if plain == job_id and plain.lower() not in RESERVED_NAMES:
        return plain + suffix
    return f"{plain}-{hashlib.sha256(job_id.encode()).hexdigest()[:8]}{suffix}"


RESERVED_NAMES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
)
"""Names that no file can have on Windows, whatever its ending."""


class _Part:
    """The unfinished file, hidden beside its target."""

    def __init__(self, target: Path, *, replaces: bool) -> None:
        self.target = target
        self._replaces = replaces
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        # A late thread must not open a file that nobody removes.
        self._opening = threading.Lock()
        self._is_discarded = False
        self.length = 0
        self.digest = hashlib.sha256()

    def check(self) -> None:
        _resolved(self.target)

    def open(self) -> None:
        with self._opening:
            if self._is_discarded:
                return
            target = _resolved(self.target)
            name = os.fsdecode(os.fsencode(target.name)[:_SHOWN]).encode(errors="ignore").decode()
            self._path = target.with_name(f".{name}.{secrets.token_hex(6)}.part")
            # Exclusive, and with the permissions that the user's umask gives a new file.
            self._file = self._path.open("xb", buffering=_BUFFER)

    def opened(self) -> BinaryIO:
        self.open()
        assert self._file is not None, "it was discarded"
        return self._file

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
            self.target = self._free(self.target)
        os.replace(self._path, _resolved(self.target))

    def discard(self) -> None:
        with self._opening:
            self._is_discarded = True
            with contextlib.suppress(OSError):
                if self._file is not None:
                    self._file.close()
            with contextlib.suppress(OSError, ValueError):
                if self._path is not None:
                    self._path.unlink()

    def _free(self, target: Path) -> Path:
        """Return the first name that is free, or whose file has the same bytes."""
        stem = target.stem
        for number in count(2):
            if not os.path.lexists(target) or self._is_same(target):
                return target
            target = target.with_stem(f"{stem}-{number}")
        raise AssertionError

    def _is_same(self, target: Path) -> bool:
        try:
            info = os.lstat(target)
            if not stat.S_ISREG(info.st_mode) or info.st_size != self.length:
                return False
            with target.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest() == self.digest.digest()
        except OSError:
            return False


_SHOWN: Final = 40
"""Bytes of the file's name in its temporary name: some file systems allow only 143 in all."""


_NO_FILE: Final = "it is a device, a pipe or a socket; save to a file, or write the bytes of read() there"


def _resolved(target: Path) -> Path:
    """Return the path to write to, with links followed.

    Raises:
        OSError: if the path exists and is no regular file, or cannot be checked.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        # Nothing there yet, or a dangling link.
        return Path(os.path.realpath(target))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, _NO_FILE)
    return Path(os.path.realpath(target))


async def in_thread(operation: Callable[[], _T], path: Path) -> _T:
    """Run a blocking file operation in a thread, and return its result.

    On cancellation, wait for the thread all the same, so that none runs on alone.

    Raises:
        DownloadError: if the operation fails; its cause is an `OSError` or a `ValueError`.
    """
    try:
        task = asyncio.get_running_loop().run_in_executor(None, operation)
    except RuntimeError as error:
        reason = str(error)
        raise DownloadError(f"{path} cannot be written: {reason}.") from OSError(errno.EAGAIN, reason)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # However often it is cancelled: an abandoned thread would leave its file behind.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
    except (OSError, ValueError) as error:
        # ValueError: a null byte in the name.
        reason = getattr(error, "strerror", None) or str(error)
        raise DownloadError(f"{path} cannot be written: {reason}.") from error
