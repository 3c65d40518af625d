"""Makes text safe for a terminal and a shell: it shows control characters and hides the secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Final

from doitong_async.secret import MASK, Secret
from doitong_async.settings import secret_of_environment

_JOINERS: Final = "\u200c\u200d"
"""Invisible, harmless, and part of many emoji."""
_SHORTEST_SECRET: Final = 8
_NOT_SECRET: Final = "emulated"
_PASSWORDS: Final = re.compile(
    # To the last @ of a word, as a password may have one itself.
    r"(?P<before>\b(?:rediss?|unix)://[^\s:@/]*:)\S+(?=@)|(?P<name>[?&]password=)[^&#\s]+",
    re.IGNORECASE,
)
"""In the URL of a coordinator."""


def clean(text: str) -> str:
    """Return the text as one line, with control characters escaped and without the secrets."""
    words = hide_secrets(" ".join(text.splitlines()))
    return "".join(letter if _is_harmless(letter) else _escape(letter) for letter in words)


def hide_secrets(text: str) -> str:
    """Return the text without the API key, in case the service echoed it, and without a Redis password."""
    key = secret_of_environment("DOITONG_API_KEY") or Secret()
    is_secret = len(key) >= _SHORTEST_SECRET and key != _NOT_SECRET
    return _without_password(text.replace(key, MASK) if is_secret else text)


def _without_password(text: str) -> str:
    return _PASSWORDS.sub(lambda found: f"{found['before'] or found['name']}{MASK}", text)


def command_line(words: Iterable[str]) -> str:
    """Return a command to copy into a shell; odd characters are escaped the way bash and zsh read them.

    A password in the URL of a coordinator has to be filled in again.
    """
    return " ".join(["doitong", *(_quoted(_without_password(word)) for word in words)])


def _quoted(word: str) -> str:
    if all(map(_is_harmless, word)):
        return shlex.quote(word)
    characters = (f"\\{x}" if x in "\\'" else x if _is_harmless(x) else _escape(x) for x in word)
    return f"$'{''.join(characters)}'"


def _is_harmless(letter: str) -> bool:
    return letter.isprintable() or letter in _JOINERS


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter == "\n":
        return "\\n"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
