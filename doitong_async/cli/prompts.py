"""Reads a file of prompts: one per line, CSV or JSONL, lazily and as often as needed.

A file is read through one descriptor, in lines of bounded length, so that memory stays flat. Input that
cannot be read twice, such as the standard input, is first copied to an unnamed temporary file.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, Self, TypeAlias

from doitong_async import catalog
from doitong_async.batch.source import FIELDS, read_item, unknown_field
from doitong_async.cli.exits import CommandError
from doitong_async.errors import BadRequestError
from doitong_async.types import GenerateRequest, MediaType

KEPT: Final = 10
"""Bad lines to report in full; the others are only counted."""
_LONGEST_LINE: Final = 1 << 24
_LONGEST_COMPLAINT: Final = 300
_BOM: Final = b"\xef\xbb\xbf"
_SIDES: Final = ("width", "height")
_OBJECTS: Final = ("input", "options")


class Format(StrEnum):
    """The formats of a prompt file."""

    LINES = "lines"
    CSV = "csv"
    JSONL = "jsonl"


_BY_SUFFIX: Final = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}
# Each line of these would be mistaken for a prompt, and paid for.
_OTHERS: Final = frozenset({".json", ".tsv", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".parquet"})
# How JSON begins, but hardly a prompt: "[sepia] a fox" is a prompt.
_JSON: Final = re.compile(r"\s*[\[{]\s*([\[{\"]|$)")

Row: TypeAlias = "tuple[int, dict[str, Any] | _BadLineError]"


class _BadLineError(Exception):
    """One line is wrong; the next may be fine."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file holds.

    Attributes:
        items: how many items the iteration yields.
        total: how many items the file holds, including those past the limit.
    """

    items: int
    total: int


class Prompts:
    """The items of a file; each iteration starts at its first line. Use as a context manager, or close it."""

    def __init__(
        self, file: IO[bytes], name: str, kind: Format, defaults: Mapping[str, object], limit: int | None
    ) -> None:
        self._file = file
        self._name = name
        self._kind = kind
        self._defaults = defaults
        self._limit = limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a temporary one vanishes."""
        self._file.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each item as a mapping with its `key`, if any, and the fields of its request.

        Raises:
            CommandError: at a line that cannot be read, which `check` would have found.
        """
        for count, (number, row) in enumerate(self._rows()):
            if count == self._limit:
                return
            if isinstance(row, _BadLineError):
                raise CommandError(f"{self._name}, line {number}: {row}")
            yield row

    def check(self) -> Checked:
        """Read the whole file once, and check that each item can be sent.

        Raises:
            CommandError: naming the first ten bad lines; or if the file has no item.
        """
        total = bad = 0
        complaints: list[str] = []
        with closing(_Keys()) as keys:
            for number, row in self._rows():
                total += 1
                try:
                    _check(row, number, keys)
                except (_BadLineError, BadRequestError) as error:
                    bad += 1
                    if len(complaints) < KEPT:
                        complaints.append(f"line {number}: {_short(error)}")
        if bad:
            raise CommandError(_summary(self._name, bad, len(complaints)), details=complaints)
        if not total:
            raise CommandError(f"{self._name} has no prompt. Nothing was sent.")
        return Checked(total if self._limit is None else min(total, self._limit), total)

    def _rows(self) -> Iterator[Row]:
        lines = _Lines(self._file, self._name)
        if self._kind is Format.CSV:
            rows = _csv_rows(lines, self._name)
        else:
            rows = _line_rows(lines, _read_object if self._kind is Format.JSONL else _read_prompt)
        for number, row in rows:
            yield number, row if isinstance(row, _BadLineError) else _filled(row, self._defaults)


def open_prompts(
    name: str,
    *,
    format: str | None,  # noqa: A002 - the option's name
    defaults: Mapping[str, object],
    limit: int | None,
) -> Prompts:
    """Open a file of prompts.

    Args:
        name: the file's name; "-" is the standard input.
        format: lines, csv or jsonl; by default as the suffix says, or else as the first line looks.
        defaults: provider, width and height of items that name none; None means no default.
        limit: how many items to yield at most.

    Raises:
        CommandError: if the file cannot be read, or a default is invalid.
    """
    given = {field: value for field, value in defaults.items() if value is not None}
    try:
        GenerateRequest(prompt="any", **given)  # type: ignore[arg-type]  # the class checks the values
    except BadRequestError as error:
        raise CommandError(error.message) from None
    is_stdin = name == "-"
    shown = "The standard input" if is_stdin else name
    try:
        file, is_spooled = (_spooled(sys.stdin.buffer), True) if is_stdin else _opened(name)
    except FileNotFoundError:
        raise CommandError(f"{name}: the file does not exist.") from None
    except IsADirectoryError:
        raise CommandError(f"{name} is a directory; expected a file of prompts.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"{shown} cannot be read: {reason}.") from None
    first_line = "" if format else _first_line(file, shown)
    kind = Format(format) if format else _guessed(Path(name).suffix, first_line, has_name=not is_spooled)
    if kind is None:
        file.close()
        raise CommandError(
            f"{shown} does not look like prompts, one per line. Nothing was sent. Make it JSONL or CSV, or "
            "name its format with --format lines, csv or jsonl."
        )
    return Prompts(file, shown, kind, given, limit)


def _opened(name: str) -> tuple[IO[bytes], bool]:
    """Open a file by name, and return whether it is a copy: a pipe can be read only once."""
    if not name.strip():
        raise ValueError("its name is empty")
    file = Path(name).open("rb")  # noqa: SIM115 - `Prompts` closes it
    try:
        if stat.S_ISREG(Path(name).stat().st_mode):
            return file, False
        with file:
            return _spooled(file), True
    except BaseException:
        file.close()
        raise


def _spooled(source: IO[bytes]) -> IO[bytes]:
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - `Prompts` closes it
    try:
        shutil.copyfileobj(source, spool)
        spool.flush()
    except BaseException:
        spool.close()
        raise
    return spool


def _first_line(file: IO[bytes], name: str) -> str:
    lines = _Lines(file, name)
    try:
        return next((line for line in lines if line.strip()), "")
    except _BadLineError:
        return ""


class _Lines(Iterator[str]):
    """The lines of a file from its start, whoever else reads it; a bad line raises and is skipped."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._offset = 0
        self.number = 0
        """The number of the last line read, from 1."""

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            while (more := self._read()) and not more.endswith(b"\n"):
                pass
            raise _BadLineError(f"it is longer than {_LONGEST_LINE:,} bytes; expected a prompt.")
        try:
            return (line.removeprefix(_BOM) if self.number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise _BadLineError(
                f"it is not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8."
            ) from None

    def _read(self) -> bytes:
        try:
            self._file.seek(self._offset)
            line = self._file.readline(_LONGEST_LINE)
        except OSError as error:
            raise CommandError(f"{self._name} cannot be read: {error.strerror or error}.") from None
        self._offset += len(line)
        return line


def _line_rows(lines: _Lines, read: Any) -> Iterator[Row]:
    while True:
        try:
            line = next(lines).strip()
            if line:
                yield lines.number, read(line)
        except StopIteration:
            return
        except _BadLineError as error:
            yield lines.number, error


def _read_prompt(line: str) -> dict[str, Any]:
    return {"prompt": line}


def _read_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLineError(f'it is not JSON: {_where(error)}; expected {{"prompt": "…"}}.') from None
    if not isinstance(value, dict):
        raise _BadLineError(f'it is {line[:40]}; expected an object such as {{"prompt": "…"}}.')
    return {name: item for name, item in value.items() if item is not None or name not in FIELDS}


def _where(error: Exception) -> str:
    # The decoder counts lines within each line of the file, so its line number is always 1.
    return (
        f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    )


def _csv_rows(lines: _Lines, name: str) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    columns: list[str] = []
    while True:
        number = lines.number + 1
        try:
            cells = next(reader)
            if not any(cell.strip() for cell in cells):
                continue
            if columns:
                yield number, _read_cells(columns, cells)
            else:
                columns = _read_header(cells)
        except StopIteration:
            return
        except (_BadLineError, csv.Error) as error:
            bad = error if isinstance(error, _BadLineError) else _BadLineError(f"it is not CSV: {error}.")
            if not columns:
                raise CommandError(f"{name}, line {number}, the header: {_short(bad)}") from None
            yield number, bad


def _read_header(cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    for column in columns:
        if column not in FIELDS:
            has_other_separator = any(mark in column for mark in ";\t|")
            advice = " Separate the columns by commas." if has_other_separator else ""
            raise _BadLineError(unknown_field(column, what="column") + advice)
        if columns.count(column) > 1:
            raise _BadLineError(f"the column {column!r} occurs twice; expected it once.")
    return columns


def _read_cells(columns: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(columns):
        raise _BadLineError(
            f"it has {len(cells)} cells, the header {len(columns)}; put a cell with a comma in quotes."
        )
    given = zip(columns, cells, strict=False)
    return {column: _read_cell(column, cell.strip()) for column, cell in given if cell.strip()}


def _read_cell(column: str, cell: str) -> Any:
    if column in _SIDES and cell.isascii() and cell.removeprefix("-").isdigit() and len(cell) < 20:
        return int(cell)
    if column in _OBJECTS:
        try:
            return json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise _BadLineError(
                f"{column} is not JSON: {_where(error)}; expected an object in quotes."
            ) from None
    return cell


def _filled(row: dict[str, Any], defaults: Mapping[str, object]) -> dict[str, Any]:
    """Return an item with its defaults; a size only for pictures, unless its options have one."""
    filled = {**row}
    provider = filled.get("provider")
    if provider is None:
        provider = defaults.get("provider", catalog.DEFAULT_PROVIDER)
        if "provider" in defaults:
            filled["provider"] = provider
    kind = filled.get("type") or catalog.type_of(str(provider))
    options = filled.get("options")
    own = options if isinstance(options, dict) else {}
    if kind == MediaType.IMAGE:
        for side in _SIDES:
            if side in defaults and side not in own:
                filled.setdefault(side, defaults[side])
    return filled


class _Keys:
    """The users' item keys, on disk, each with its first line."""

    def __init__(self) -> None:
        # An unnamed database is a temporary file, of which SQLite keeps little in memory.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def line_of(self, key: str, line: int) -> int:
        """Return the first line with this key, which is `line` itself for a new key."""
        try:
            added = self._database.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (key, line))
        except sqlite3.OperationalError as error:
            raise CommandError(
                f"The keys of the items cannot be compared: {error}. Make room for temporary files."
            ) from None
        if added.rowcount:
            return line
        (first,) = self._database.execute("SELECT line FROM keys WHERE key = ?", (key,)).fetchone()
        return int(first)

    def close(self) -> None:
        """Delete the keys."""
        self._database.close()


def _check(row: dict[str, Any] | _BadLineError, number: int, keys: _Keys) -> None:
    if isinstance(row, _BadLineError):
        raise row
    key, _ = read_item(row)
    if key is not None and (first := keys.line_of(key, number)) != number:
        raise _BadLineError(f"the key {key!r} is already used on line {first}; expected another one.")


def _short(error: Exception) -> str:
    text = error.message if isinstance(error, BadRequestError) else str(error)
    return text if len(text) <= _LONGEST_COMPLAINT else f"{text[:_LONGEST_COMPLAINT]}…"


def _summary(name: str, bad: int, shown: int) -> str:
    lines = "line is" if bad == 1 else "lines are"
    first = f"; here are the first {shown}" if bad > shown else ""
    return f"{name}: {bad:,} {lines} wrong{first}. Nothing was sent."


def _guessed(suffix: str, first_line: str, *, has_name: bool) -> Format | None:
    """Return the likely format of a file, or None if it is no prompt file.

    Args:
        suffix: the suffix of its name, with the dot.
        first_line: the first line that is not blank; empty if there is none.
        has_name: whether it is a file rather than a pipe.
    """
    suffix = suffix.lower()
    if suffix in _OTHERS:
        return None
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if first_line.lstrip().startswith("{") and not has_name:
        return Format.JSONL
    return None if _JSON.match(first_line) else Format.LINES
