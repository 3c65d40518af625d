"""Guesses the format of a prompt file from its name and its first line."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


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
    if first_line.lstrip().startswith("{") and not has_name:
        return Format.JSONL
    return None if _JSON.match(first_line) else Format.LINES
