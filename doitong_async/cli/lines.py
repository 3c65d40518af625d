"""The lines of a file of prompts: UTF-8, of bounded length, whichever line ends they have."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import IO, Final

from doitong_async.cli.exits import CommandError

LONGEST_LINE: Final = 1 << 24
"""Bytes."""
_CHUNK: Final = 1 << 13
# UTF-16 without its mark is sound UTF-8 with a NUL in every second byte.
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
_BOM: Final = b"\xef\xbb\xbf"


class BadLineError(Exception):
    """One line is wrong; the next may be fine."""


class PromptLines(Iterator[str]):
    """The lines of a file from its start, whoever else reads it; a bad line raises and is skipped.

    A line ends with LF, CR LF or a lone CR.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._offset = 0
        self._whole: deque[bytes] = deque()
        self._begun = b""
        """The last line read, which may go on."""
        self.number = 0
        """The number of the last line read, from 1."""

    def __next__(self) -> str:
        line, is_too_long = self._line()
        if not line:
            raise StopIteration
        self.number += 1
        if is_too_long:
            raise BadLineError(f"it is longer than {LONGEST_LINE:,} bytes; expected a prompt.")
        try:
            text = (line.removeprefix(_BOM) if self.number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise BadLineError(
                f"it is not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8."
            ) from None
        if (odd := _NO_TEXT.search(text)) is not None:
            raise BadLineError(
                f"it is not text: it holds the control character {odd[0]!r}; save the file as UTF-8."
            )
        return text

    def _line(self) -> tuple[bytes, bool]:
        """Return the next line with its end, and whether it is too long; then this is its last part alone."""
        is_too_long = False
        while not self._whole:
            if len(self._begun) > LONGEST_LINE:
                # The last byte may be the first half of CR LF.
                is_too_long, self._begun = True, self._begun[-1:]
            if not self._read():
                break
        if self._whole:
            line = self._whole.popleft()
        else:
            line, self._begun = self._begun, b""
        return line, is_too_long or len(line.rstrip(b"\r\n")) >= LONGEST_LINE

    def _read(self) -> bool:
        """Read on, and cut what was read into lines; False at the end of the file."""
        try:
            self._file.seek(self._offset)
            # As much again for a long line, so that its parts are not joined over and over.
            more = self._file.read(max(_CHUNK, len(self._begun)))
        except OSError as error:
            raise CommandError(f"{self._name} cannot be read: {error.strerror or error}.") from None
        self._offset += len(more)
        lines = (self._begun + more).splitlines(keepends=True)
        self._begun = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        self._whole.extend(lines)
        return bool(more)


def first_line(file: IO[bytes], name: str, *, comments: bool = False) -> str:
    """Return the first line that is not blank, nor a comment if there are any."""
    lines = PromptLines(file, name)
    try:
        return next(
            (line for line in lines if line.strip() and not (comments and line.lstrip().startswith("#"))), ""
        )
    except BadLineError:
        return ""
