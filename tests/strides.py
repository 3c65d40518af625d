"""Where a sweep over many moments begins, if it tries only some of them."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import doitong_async


def offset(stride: int) -> int:
    """Return from which moment on, counted from 0, a sweep tries every `stride`-th.

    It follows from the package's code: each change of it is tried at other moments, and one change always at
    the same, so that a failure comes again.
    """
    return _code() % stride


@cache
def _code() -> int:
    paths = sorted(Path(doitong_async.__file__).parent.rglob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))
