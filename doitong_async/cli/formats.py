"""What a file of prompts holds, by its name and its first line, where nobody says it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class Format(StrEnum):
    """What a file of prompts may hold."""

    LINES = "lines"
    CSV = "csv"
    JSONL = "jsonl"


_BY_SUFFIX: Final = {".csv": Format.CSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}
# Each line of these would be taken for a prompt, and paid.
_OTHERS: Final = frozenset({".json", ".tsv", ".xls", ".xlsx", ".ods", ".yaml", ".yml", ".parquet"})


# How a text of JSON begins, and hardly a prompt: "[sepia] a fox" is one.
_JSON: Final = re.compile(r"\s*[\[{]\s*([\[{\"]|$)")


def guessed(suffix: str, first_line: str, *, has_name: bool) -> Format | None:
    """Return what a file most likely holds, or None if that is nothing a batch is made of.

    Args:
        suffix: of its name, with the dot.
        first_line: that is not blank; empty if there is none.
        has_name: whether it is a file, and not a pipe.
    """
    suffix = suffix.lower()
    if suffix in _OTHERS:
        return None
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if first_line.lstrip().startswith("{") and not has_name:
        return Format.JSONL
    return None if _JSON.match(first_line) else Format.LINES
