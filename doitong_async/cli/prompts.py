"""Reads a file of prompts: one per line, CSV or JSONL, lazily and as often as needed.

A file is read through one descriptor, in lines of bounded length, so that memory stays flat. Input that
cannot be read twice, such as the standard input, is first copied to an unnamed temporary file.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self, TypeAlias

from doitong_async import catalog
from doitong_async.batch.source import FIELDS, read_item, unknown_field
from doitong_async.cli.exits import CommandError
from doitong_async.cli.formats import Format, columns_of, guessed, separator_of
from doitong_async.cli.lines import LONGEST_LINE, BadLineError, PromptLines, first_line
from doitong_async.errors import BadRequestError
from doitong_async.transport.forms import Form, check_form
from doitong_async.types import GenerateRequest, MediaType

KEPT: Final = 10
"""Bad lines to report in full; the others are only counted."""
_CHUNK: Final = 1 << 13
_LONGEST_COMPLAINT: Final = 300
_SIDES: Final = ("width", "height")
_OBJECTS: Final = ("input", "options")


Row: TypeAlias = "tuple[int, dict[str, Any] | BadLineError]"


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
        self,
        file: IO[bytes],
        name: str,
        kind: Format,
        defaults: Mapping[str, object],
        limit: int | None,
        *,
        comments: bool = False,
    ) -> None:
        self._file = file
        self._name = name
        self._kind = kind
        self._defaults = defaults
        self._limit = limit
        self._comments = comments
        self._items = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a temporary one vanishes."""
        self._file.close()

    def __length_hint__(self) -> int:
        """Return how many items `check` found."""
        return self._items or NotImplemented

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each item as a mapping with its `key`, if any, and the fields of its request.

        Raises:
            CommandError: at a line that cannot be read, which `check` would have found.
        """
        for count, (number, row) in enumerate(self._rows()):
            if count == self._limit:
                return
            if isinstance(row, BadLineError):
                raise CommandError(f"{self._name}, line {number}: {row}")
            yield row

    def check(self, form: Form = Form.GRAPHQL) -> Checked:
        """Read the whole file once, and check that each item can be sent.

        Args:
            form: the form of the calls, which has to carry each item.

        Raises:
            CommandError: naming the first ten bad lines; or if the file has no item.
        """
        total = bad = 0
        complaints: list[str] = []
        with closing(_Keys()) as keys:
            for number, row in self._rows():
                total += 1
                try:
                    _check(row, number, keys, form)
                except (BadLineError, BadRequestError) as error:
                    bad += 1
                    if len(complaints) < KEPT:
                        complaints.append(f"line {number}: {_short(error)}")
        if bad:
            raise CommandError(_summary(self._name, bad, len(complaints)), details=complaints)
        if not total:
            raise CommandError(f"{self._name} has no prompt. Nothing was sent.")
        self._items = total if self._limit is None else min(total, self._limit)
        return Checked(self._items, total)

    def seems_commented(self) -> str | None:
        """Return the first line, if it looks like a comment but will be sent, and paid for, as a prompt."""
        if self._comments or self._kind is not Format.LINES:
            return None
        line = first_line(self._file, self._name).strip()
        return line if line.startswith("#") else None

    def _rows(self) -> Iterator[Row]:
        lines = PromptLines(self._file, self._name)
        if self._kind is Format.CSV:
            header = first_line(self._file, self._name, comments=self._comments)
            rows = _csv_rows(lines, self._name, _separator(header), comments=self._comments)
        else:
            read = _read_object if self._kind is Format.JSONL else _read_prompt
            rows = _line_rows(lines, read, comments=self._comments)
        for number, row in rows:
            yield number, row if isinstance(row, BadLineError) else _filled(row, self._defaults)


def open_prompts(
    name: str,
    *,
    format: str | None,  # noqa: A002 - the option's name
    defaults: Mapping[str, object],
    limit: int | None,
    comments: bool = False,
) -> Prompts:
    """Open a file of prompts.

    Args:
        name: the file's name; "-" is the standard input.
        format: lines, csv or jsonl; by default as the suffix says, or else as the first line looks.
        defaults: provider, width and height of items that name none; None means no default.
        limit: how many items to yield at most.
        comments: whether lines that begin with "#" are comments; else they are prompts like any other.

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
    first = "" if format else first_line(file, shown, comments=comments)
    kind = Format(format) if format else guessed(Path(name).suffix, first, has_name=not is_spooled)
    if kind is None:
        file.close()
        raise CommandError(
            f"{shown} does not look like prompts, one per line. Nothing was sent. Make it JSONL or CSV, or "
            "name its format with --format lines, csv or jsonl."
        )
    return Prompts(file, shown, kind, given, limit, comments=comments)


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
    """Copy what can be read only once to a temporary file.

    Raises:
        CommandError: naming the temporary folder, if the copy cannot be written there.
    """
    try:
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - `Prompts` closes it
    except OSError as error:
        # Its text lists the folders that were tried.
        raise CommandError(f"{_NO_COPY}: {error.strerror or error}. {_SET_TMPDIR}") from None
    try:
        while chunk := source.read(_CHUNK):
            try:
                spool.write(chunk)
                spool.flush()
            except OSError as error:
                reason = f"{tempfile.gettempdir()}: {error.strerror or error}"
                raise CommandError(f"{_NO_COPY} in {reason}. {_SET_TMPDIR}") from None
    except BaseException:
        spool.close()
        raise
    return spool


_NO_COPY: Final = "The prompts cannot be copied to a temporary file"
_SET_TMPDIR: Final = "Nothing was sent. Set TMPDIR to a folder with room, or give a file of prompts."


def _line_rows(lines: PromptLines, read: Any, *, comments: bool) -> Iterator[Row]:
    while True:
        try:
            line = next(lines).strip()
            if line and not (comments and line.startswith("#")):
                yield lines.number, read(line)
        except StopIteration:
            return
        except BadLineError as error:
            yield lines.number, error


def _read_prompt(line: str) -> dict[str, Any]:
    return {"prompt": line}


def _read_object(line: str) -> dict[str, Any]:
    try:
        value = _loaded(line)
    except (ValueError, RecursionError) as error:
        raise BadLineError(f'it is not JSON: {_where(error)}; expected {{"prompt": "…"}}.') from None
    if not isinstance(value, dict):
        raise BadLineError(f'it is {line[:40]}; expected an object such as {{"prompt": "…"}}.')
    return {name: item for name, item in value.items() if item is not None or name not in FIELDS}


def _loaded(text: str) -> Any:
    """Read JSON; an object with a name twice is an error anywhere in it, as one of the values would be lost.

    Raises:
        ValueError, RecursionError: if it cannot be read.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object")
    return read


def _where(error: Exception) -> str:
    # The decoder counts lines within each line of the file, so its line number is always 1.
    return (
        f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
    )


def _csv_rows(lines: PromptLines, name: str, separator: str, *, comments: bool) -> Iterator[Row]:
    # A cell may be as long as a line; the module's own limit is 131,072 characters.
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    columns: list[str] = []
    while True:
        number = lines.number + 1
        try:
            cells = next(reader)
            if not any(cell.strip() for cell in cells) or (comments and cells[0].lstrip().startswith("#")):
                continue
            if columns:
                yield number, _read_cells(columns, cells)
            else:
                columns = _read_header(cells)
        except StopIteration:
            return
        except (BadLineError, csv.Error) as error:
            bad = error if isinstance(error, BadLineError) else BadLineError(f"it is not CSV: {error}.")
            if not columns:
                raise CommandError(f"{name}, line {number}, the header: {_short(bad)}") from None
            yield number, bad


def _separator(header: str) -> str:
    """Return what separates the columns; with a wrong column in it, what is likely to."""
    likely = next((mark for mark in ";\t" if mark in header and "," not in header), ",")
    return separator_of(header) or likely


def _read_header(cells: list[str]) -> list[str]:
    columns = columns_of(cells)
    for column in columns:
        if column not in FIELDS:
            advice = " Separate the columns by commas." if "|" in column else ""
            raise BadLineError(unknown_field(column, what="column") + advice)
        if columns.count(column) > 1:
            raise BadLineError(f"the column {column!r} occurs twice; expected it once.")
    return columns


def _read_cells(columns: list[str], cells: list[str]) -> dict[str, Any]:
    while len(cells) > len(columns) and not cells[-1].strip():
        cells.pop()
    if len(cells) > len(columns):
        raise BadLineError(
            f"it has {len(cells)} cells, the header {len(columns)}; put a cell with a comma in quotes."
        )
    given = zip(columns, cells, strict=False)
    return {column: _read_cell(column, cell.strip()) for column, cell in given if cell.strip()}


def _read_cell(column: str, cell: str) -> Any:
    if column in _SIDES and cell.isascii() and cell.removeprefix("-").isdigit() and len(cell) < 20:
        return int(cell)
    if column in _OBJECTS:
        try:
            return _loaded(cell)
        except (ValueError, RecursionError) as error:
            raise BadLineError(
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


def _check(row: dict[str, Any] | BadLineError, number: int, keys: _Keys, form: Form) -> None:
    if isinstance(row, BadLineError):
        raise row
    key, request = read_item(row)
    check_form(form, request.with_defaults(provider=catalog.DEFAULT_PROVIDER, width=None, height=None))
    if key is not None and (first := keys.line_of(key, number)) != number:
        raise BadLineError(f"the key {key!r} is already used on line {first}; expected another one.")


def _short(error: Exception) -> str:
    text = error.message if isinstance(error, BadRequestError) else str(error)
    return text if len(text) <= _LONGEST_COMPLAINT else f"{text[:_LONGEST_COMPLAINT]}…"


def _summary(name: str, bad: int, shown: int) -> str:
    lines = "line is" if bad == 1 else "lines are"
    first = f"; here are the first {shown}" if bad > shown else ""
    return f"{name}: {bad:,} {lines} wrong{first}. Nothing was sent."
