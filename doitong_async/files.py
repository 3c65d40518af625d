"""Writes files whole or not at all: to a temporary file beside the target, renamed at the end.

Whoever writes says what may happen to an existing file (`Existing`). A name that we choose is created
exclusively: of two writers of one name, in whatever processes, one gets it, and the other takes the next of
`numbered`.

What is written for an owner, such as a ledger, has its mark. Temporary files carry it in their names, and
their writer holds a lock on them: so an owner can remove what a killed process left (`remove_leftovers`), and
nothing else. Whole files carry it in the digits of their modification times below a second: so an owner can
tell what others wrote from what its own killed process wrote and did not record (`is_of_another`).
"""

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
from enum import Enum, auto
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from doitong_async.errors import DownloadError

try:
    import fcntl
except ImportError:
    # Windows, where no open file can be removed: it needs no lock.
    fcntl = None  # type: ignore[assignment]  # the type of a module that exists

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


class Existing(Enum):
    """What happens to a file that exists under the name to be written."""

    REPLACE = auto()
    """It is replaced: the user chose the name. Links are followed."""
    ADOPT = auto()
    """It is replaced if nothing is lost: it has the bytes to be written, or some of the first.

    Any other file, any link, and what has another owner's mark stays, and the new name gets a number.
    """
    KEEP = auto()
    """It stays, whatever it is, and the new name gets a number."""


async def write_whole(
    target: Path | Callable[[str], Path],
    pieces: AsyncIterator[Start | bytes],
    *,
    existing: Existing = Existing.REPLACE,
    owner: str = "",
) -> SavedFile:
    """Write a file and return what was written.

    The final name appears only once the last byte is on disk; until then an existing file stays. An error, a
    cancellation or a full disk leaves nothing behind.

    Args:
        target: the file, or a function from its ending to the file.
        pieces: its bytes; each `Start` begins them again.
        existing: what happens to an existing file.
        owner: the mark of whom it is written for, who can clean up if this process is killed; see
            `remove_leftovers` and `is_of_another`.

    Raises:
        DownloadError: if the file cannot be written, with the system's reason; or if the target is a device,
            a pipe, a socket or a folder.
    """
    part = Part(target if isinstance(target, Path) else Path(), existing=existing, owner=owner)
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
def writing(target: Path, *, existing: Existing, owner: str = "") -> Iterator[Part]:
    """Write a file in this thread: it appears under its name, whole and on disk, when the block ends well.

    An existing file stays until then; an error leaves nothing behind. The arguments are those of
    `write_whole`; write to `opened()` of what this yields. Its `target` is the file's name after the block.

    Raises:
        OSError: if the file cannot be written.
    """
    part = Part(target, existing=existing, owner=owner)
    try:
        yield part
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
    {
        # On Windows no file can have these names, whatever its ending.
        *("con", "prn", "aux", "nul"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
        # In the same folder: a batch's page, index.html, and its ledger.db, -wal, -shm and .lock.
        *("index", "ledger"),
    }
)
"""Names without ending that no output gets."""


def numbered(target: Path) -> Iterator[Path]:
    """Yield a name, and then the names to take if it is taken: fox.jpg, fox.2.jpg, fox.3.jpg …

    The names that we choose have no dot before their ending. So a numbered name is never another item's own.
    """
    yield target
    yield from (target.with_name(f"{target.stem}.{number}{target.suffix}") for number in count(2))


def remove_leftovers(folder: Path, owner: str) -> None:
    """Remove the temporary files that killed processes left in a folder, as far as they are the owner's.

    A file that is being written stays, whoever writes it, and so does one that cannot be removed.

    Args:
        folder: a folder in which the owner writes; it need not exist.
        owner: the mark that the files were written with, 12 hexadecimal digits; files without one are
            nobody's to remove.
    """
    if not owner:
        return
    is_ours = re.compile(rf"\..*\.{re.escape(owner)}[0-9a-f]{{{_RANDOM}}}\.part", re.DOTALL).fullmatch
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if is_ours(entry.name)]:
            # Whoever writes it holds the lock, which dies with the process.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                _lock(file)
                path.unlink()


_RANDOM: Final = 12
"""Hexadecimal digits that tell temporary files apart, and as many are an owner's mark."""


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed or the process dies.

    Raises:
        OSError: if it is locked, or the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def new_owner() -> str:
    """Return a mark for the files of one owner."""
    return secrets.token_hex(_RANDOM // 2)


def is_of_another(path: Path, owner: str) -> bool:
    """Whether a file has the mark of another owner.

    It has none if a stranger wrote it, or if the file system or a program that copied it kept no exact time.

    Raises:
        OSError: if there is no such file.
    """
    microseconds, nanoseconds = divmod(os.lstat(path).st_mtime_ns % 1_000_000_000, 1_000)
    return nanoseconds == _MARKED and microseconds != _microseconds_of(owner)


_MARKED: Final = 700
"""Nanoseconds of a time whose microseconds are a mark: one of a thousand others has them by chance."""


def _microseconds_of(owner: str) -> int:
    return int(owner, 16) % 1_000_000


def _mark(path: Path, owner: str) -> None:
    """Set a file's modification time back to the latest one with the owner's mark, if that can be kept."""
    mark = _microseconds_of(owner) * 1_000 + _MARKED
    with contextlib.suppress(OSError):
        info = os.stat(path)
        written_at = info.st_mtime_ns
        os.utime(path, ns=(info.st_atime_ns, written_at - (written_at - mark) % 1_000_000_000))


class Part:
    """The unfinished file, hidden beside its target."""

    def __init__(self, target: Path, *, existing: Existing, owner: str = "") -> None:
        self.target = target
        self._existing = existing
        self._owner = owner
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
            target = self._place()
            name = os.fsdecode(os.fsencode(target.name)[:_SHOWN]).encode(errors="ignore").decode()
            self._path = target.with_name(f".{name}.{self._owner}{secrets.token_hex(_RANDOM // 2)}.part")
            # Exclusive, and with the permissions that the user's umask gives a new file.
            self._file = self._path.open("xb", buffering=_BUFFER)
            # Not every file system has locks.
            with contextlib.suppress(OSError):
                _lock(self._file)

    def opened(self) -> BinaryIO:
        """Return the file to write to."""
        if self._file is None:
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
        if self._existing is Existing.REPLACE:
            os.replace(self._path, self._place())
            return
        if self._owner:
            _mark(self._path, self._owner)
        for name in numbered(self.target):
            if self._existing is Existing.ADOPT and self._is_begun_at(name):
                os.replace(self._path, name)
            elif not _rename_new(self._path, name):
                continue
            self.target = name
            return

    def _place(self) -> Path:
        """Return the path to write to: only who may replace the file follows a link to it."""
        return _resolved(self.target) if self._existing is Existing.REPLACE else self.target

    def discard(self) -> None:
        with self._opening:
            self._is_discarded = True
            with contextlib.suppress(OSError):
                if self._file is not None:
                    self._file.close()
            with contextlib.suppress(OSError, ValueError):
                if self._path is not None:
                    self._path.unlink()

    def _is_begun_at(self, name: Path) -> bool:
        """Whether the file of that name may be replaced: it has these bytes, or the first, and no others."""
        try:
            info = os.lstat(name)
            # An empty file may be the claim of another writer, in `_rename_new`.
            is_part = stat.S_ISREG(info.st_mode) and 0 < info.st_size <= self.length
            if not is_part or self._path is None:
                return False
            if self._owner and is_of_another(name, self._owner):
                return False
            with name.open("rb") as old, self._path.open("rb") as new:
                while data := old.read(_BUFFER):
                    if new.read(len(data)) != data:
                        return False
        except OSError:
            return False
        return True


def _rename_new(path: Path, name: Path) -> bool:
    """Give a file a name that no file has, and return whether it got it: no existing file is replaced.

    Raises:
        OSError: if the file cannot be renamed.
    """
    try:
        # Not `os.rename`, which replaces an existing file, except on Windows.
        os.link(path, name)
    except FileExistsError:
        return False
    except OSError:
        # No hard links, as on FAT: an empty file claims the name for a moment. It stays if the process is
        # killed in it, and is then a name that is taken.
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        try:
            os.replace(path, name)
        except BaseException:
            os.unlink(name)
            raise
        return True
    os.unlink(path)
    return True


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
