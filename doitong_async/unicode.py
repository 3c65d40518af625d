"""Knows which texts UTF-8 can write, and escapes what it cannot.

JSON can spell half a surrogate pair (`"\\ud83d"`), and bytes of a header or a file name that are no UTF-8
arrive in Python as lone surrogates. Neither can be written to a file, a ledger, a log or a terminal, and one
such text must cost no more than its own item. So whatever goes there passes through `writable`.
"""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def writable(text: str) -> str:
    """Return a text that can be encoded as UTF-8: lone surrogates are escaped, as in `\\ud83d`."""
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()
