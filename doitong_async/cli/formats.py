"""Guesses the format of a prompt file from its name and its first line."""

from __future__ import annotations

import csv
import re
from enum import StrEnum
from typing import Final

from doitong_async.batch.source import FIELDS


class Format(StrEnum):
    """The formats of a prompt file."""

    LINES = "lines"
    CSV = "csv"
    JSONL = "jsonl"


_BY_SUFFIX: Final = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}
# Each line of these would be mistaken for a prompt, and paid for.
_OTHERS: Final = frozenset({".json", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".parquet"})
_SEPARATORS: Final = ",;\t"
# How JSON begins, but hardly a prompt: "[sepia] a fox" is a prompt.
_JSON: Final = re.compile(r"\s*[\[{]\s*([\[{\"]|$)")


def guessed(suffix: str, first_line: str, *, has_name: bool) -> Format | None:
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
    if separator_of(first_line) is not None:
        # Each line of a table would be paid for as a prompt, the header too.
        return Format.CSV
    if suffix == ".tsv":
        return None
    if first_line.lstrip().startswith("{") and not has_name:
        return Format.JSONL
    return None if _JSON.match(first_line) else Format.LINES


def separator_of(line: str) -> str | None:
    """Return what separates the columns, if a line is the header of a table of items; else None.

    Each column is a known one, and either there are several or the one is `prompt`. Empty columns at the end,
    as spreadsheets write them, do not count.
    """
    for separator in _SEPARATORS:
        cells = columns_of(next(csv.reader([line.strip("\r\n")], delimiter=separator), []))
        is_table = len(cells) > 1 or cells == ["prompt"]
        if is_table and all(cell in FIELDS for cell in cells):
            return separator
    return None


def columns_of(cells: list[str]) -> list[str]:
    """Return the cells of a header, without white space and without the empty ones at its end."""
    columns = [cell.strip() for cell in cells]
    while columns and not columns[-1]:
        columns.pop()
    return columns
