"""Wraps secrets so that no repr shows them: tools that print a traceback's locals show three stars."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, Generic, SupportsIndex, TypeVar

MASK: Final = "***"

_T = TypeVar("_T")


class Secret(str):
    """A string whose repr is masked; strings made from it, slices aside, are plain again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"

    def __getitem__(self, index: SupportsIndex | slice) -> Secret:
        # Tools truncate a long string before they show it.
        return Secret(super().__getitem__(index))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return str, (MASK,)


class SecretBytes(bytes):
    """Bytes whose repr is masked, as in `Secret`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"b'{MASK}'"

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return SecretBytes(part) if isinstance(part, bytes) else part

    def __copy__(self) -> SecretBytes:
        return self

    def __deepcopy__(self, _: object) -> SecretBytes:
        return self

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return bytes, (MASK.encode(),)


class Sealed(Generic[_T]):
    """Holds a secret that must not be written even as plain text, as in a JSON dump of all settings."""

    __slots__ = ("_value",)

    def __init__(self, value: _T) -> None:
        self._value = value

    def reveal(self) -> _T:
        """Return the secret."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Sealed) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"<sealed {MASK}>"

    def __deepcopy__(self, _: object) -> Sealed[_T]:
        return self

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return Sealed, (MASK,)


def digest(text: str) -> str:
    """Return a name for something that must not be told."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:24]


def name_of(base_url: str, api_key: str) -> str:
    """Return the name of a key at one address: no more than a digest of both."""
    return digest(f"{base_url} {api_key}")


def hidden(value: Any) -> Any:
    """Return a secret so that no repr shows it; None stays None, and a sequence becomes a tuple of secrets.

    A function that takes a secret starts with `secret = hidden(secret)`: from then on its frame shows
    nothing. A value of another type, such as a number, is sealed, as it may be a secret passed by mistake.
    """
    if value is None or isinstance(value, Secret | SecretBytes | Sealed):
        return value
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, bytes):
        return SecretBytes(value)
    if isinstance(value, Sequence):
        return tuple(hidden(each) for each in value)
    return Sealed(value)
