"""Reads the requests and arguments of a batch, and names its items and their files."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import operator
import os
import re
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, TypedDict

from doitong_async import media
from doitong_async.budget import Budget, as_budget
from doitong_async.errors import BadRequestError, ConfigurationError
from doitong_async.files import RESERVED_NAMES, is_of_another, numbered
from doitong_async.pricing import PriceArgument, check_price
from doitong_async.settings import Options
from doitong_async.types import GenerateRequest

Request: TypeAlias = str | Mapping[str, Any] | GenerateRequest
"""A prompt; or a mapping with `key` and the fields of a `GenerateRequest`; or one of these."""
Requests: TypeAlias = Iterable[Request] | AsyncIterable[Request]

FIELDS: Final = (*(each.name for each in fields(GenerateRequest)), "key")
"""Keys that a mapping may have: the fields of a request, and the user's item key."""
LONGEST_KEY: Final = 200
"""Characters."""
KEY_LENGTH: Final = 16
"""Hexadecimal digits of a request's digest that form its item key, unless the user gives one."""


def read_item(given: object) -> tuple[str | None, GenerateRequest]:
    """Return the user's key of an item, if any, and its request.

    Args:
        given: a prompt, a mapping with `key` and the fields of `GenerateRequest`, or a `GenerateRequest`.

    Raises:
        BadRequestError: if the item is invalid.
    """
    if isinstance(given, GenerateRequest):
        return None, given
    if isinstance(given, str):
        return None, GenerateRequest(prompt=given)
    if not isinstance(given, Mapping):
        raise BadRequestError(
            f"An item is a {type(given).__name__}; expected a prompt, a mapping or a GenerateRequest."
        )
    for name in given:
        if name not in FIELDS:
            raise BadRequestError(unknown_field(name))
    more: dict[str, Any] = {name: value for name, value in given.items() if name != "key"}
    return _checked_key(given.get("key")), GenerateRequest(**more)


def unknown_field(name: object, *, what: str = "field") -> str:
    """Return the message about an unknown name, with the nearest known one.

    Args:
        name: the unknown name.
        what: what it names, such as a field or a column.
    """
    near = difflib.get_close_matches(str(name).strip().lower(), FIELDS, 1)
    advice = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(FIELDS)}."
    return f"There is no {what} {name!r}; {advice}"


def _checked_key(key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not key.strip() or not key.isprintable() or len(key) > LONGEST_KEY:
        shown = (
            f"{key[:40]!r}… ({len(key):,} characters)"
            if isinstance(key, str) and len(key) > 60
            else repr(key)
        )
        raise BadRequestError(
            f"key is {shown}; expected a printable text, not blank, of at most {LONGEST_KEY} characters."
        )
    return key


class RequestSource:
    """The requests of a batch: read one at a time, and closed at the end.

    Raises:
        BadRequestError: if they are no iterable, or something that is iterable by mistake.
    """

    def __init__(self, requests: Requests) -> None:
        is_many = isinstance(requests, Iterable | AsyncIterable)
        if not is_many or isinstance(requests, str | bytes | Mapping):
            raise BadRequestError(
                f"requests is a {type(requests).__name__}; expected an iterable or async iterable of "
                "prompts, mappings or GenerateRequest."
            )
        self._requests = requests

    async def each(self) -> AsyncGenerator[Any, None]:
        """Yield each request; the caller closes this generator."""
        requests = self._requests
        source = aiter(requests) if isinstance(requests, AsyncIterable) else iter(requests)
        try:
            if isinstance(source, AsyncIterator):
                async for given in source:
                    yield given
            else:
                for given in source:
                    yield given
        finally:
            # However early the batch was left, a generator may have to clean up.
            if isinstance(source, AsyncGenerator):
                await source.aclose()
            elif isinstance(source, Generator):
                source.close()

    def left(self, number: int, *, fallback: int) -> int:
        """Return how many requests come after the first `number`; `fallback` if the source does not say."""
        return operator.length_hint(self._requests, number + fallback) - number

    def forget(self) -> None:
        """Keep nothing alive that the user gave."""
        self._requests = ()


spelled_text: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
"""Return a value as canonical JSON."""
_SPELLED: Final = tuple(sorted(field.name for field in fields(GenerateRequest)))


def spelled(request: GenerateRequest) -> str:
    """Return a request as canonical JSON: equal requests give equal text."""
    given = {name: value for name in _SPELLED if (value := getattr(request, name)) is not None}
    return spelled_text(given)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a request's canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()


class Asked(NamedTuple):
    """One item as read; `is_key_given` says whether the user named it."""

    key: str
    is_key_given: bool
    request: GenerateRequest
    text: str
    digest: str


class Reading:
    """Reads the items of one run in order, once each: a key depends on the items before it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._keys = ItemKeys()

    def close(self) -> None:
        """Forget the keys seen so far."""
        self._keys.close()

    def known(self, number: int, asked: Asked) -> None:
        """Record the key of an item that was recognised in the ledger, where keys are unique."""
        self._keys.known(asked.key if asked.is_key_given else None, asked.digest, number)

    def read(self, number: int, given: object) -> Asked:
        """Return the item's request and key.

        Raises:
            BadRequestError: if the request is invalid, or the user's key is a duplicate.
            ValueError, RecursionError: if the request cannot be written as JSON.
        """
        own, request = read_item(given)
        defaults = self._options
        request = request.with_defaults(
            provider=defaults.provider, width=defaults.width, height=defaults.height
        )
        text = spelled(request)
        digest = digest_of(text)
        return Asked(self._keys.key_of(own, digest, number), own is not None, request, text, digest)


_TABLE = "CREATE TABLE seen (key PRIMARY KEY, times INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID"
_ADD = "INSERT INTO seen VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET times = times + 1"
_SEE = f"{_ADD} RETURNING times, number"
_AT_ONCE = 500
"""Keys that are added together."""
_MADE = re.compile(rf"([0-9a-f]{{{KEY_LENGTH}}})(?:-(\d{{1,9}}))?")
_MADE_STEM = re.compile(rf"(?:.*-)?{_MADE.pattern}")


class ItemKeys:
    """Assigns each item of one run its key; the keys are kept in a temporary file, not in memory."""

    def __init__(self) -> None:
        # An empty name opens SQLite's own temporary database, which spills to a file and vanishes on close.
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute(_TABLE)
        # One endless transaction: nothing has to outlive this object.
        self._seen.execute("BEGIN")
        self._known: list[tuple[str | bytes, int]] = []
        """Keys that are still to be added."""
        self._has_lookalikes = False
        """Whether a user gave a key that looks like a generated one."""

    def close(self) -> None:
        """Forget all keys."""
        self._seen.close()

    def key_of(self, given: str | None, digest: str, number: int) -> str:
        """Return the key of an item.

        Args:
            given: the user's own key, if any.
            digest: the digest of the request.
            number: the item's number in this run, from 1.

        Raises:
            BadRequestError: if the key occurred before in this run.
        """
        self._add_known()
        if given is not None:
            times, first = self._see(f"given {given}", number)
            lookalike = _MADE.fullmatch(given)
            if lookalike and times == 1:
                self._has_lookalikes = True
                times, first = self._find_generated(lookalike)
            if times > 1:
                raise _duplicate(given, first, number)
            return given
        times, _ = self._see(bytes.fromhex(digest), number)
        key = digest[:KEY_LENGTH] if times == 1 else f"{digest[:KEY_LENGTH]}-{times}"
        if self._has_lookalikes:
            seen = self._seen.execute("SELECT number FROM seen WHERE key = ?", (f"given {key}",)).fetchone()
            if seen is not None:
                raise _duplicate(key, seen[0], number)
        return key

    def known(self, given: str | None, digest: str, number: int) -> None:
        """Add a key that is known to be new in this run, and no lookalike; many at once cost less."""
        self._known.append((bytes.fromhex(digest) if given is None else f"given {given}", number))
        if len(self._known) >= _AT_ONCE:
            self._add_known()

    def _add_known(self) -> None:
        if self._known:
            self._seen.executemany(_ADD, self._known)
            self._known.clear()

    def _find_generated(self, given: re.Match[str]) -> tuple[int, int]:
        """Return 2 and the item's number if exactly this key was generated before; otherwise 1."""
        first = bytes.fromhex(given[1])
        between = first, first + b"\xff" * 32
        row = self._seen.execute(
            "SELECT times, number FROM seen WHERE key BETWEEN ? AND ?", between
        ).fetchone()
        is_made = row is not None and row[0] >= int(given[2] or 1)
        return (2, row[1]) if is_made else (1, 0)

    def _see(self, key: str | bytes, number: int) -> tuple[int, int]:
        row: tuple[int, int] = self._seen.execute(_SEE, (key, number)).fetchone()
        return row


def _duplicate(key: str, first: int, second: int) -> BadRequestError:
    return BadRequestError(
        f"The item key {key!r} is used twice, by the items {first} and {second}. Give each item its own key."
    )


def is_like_generated(key: str) -> bool:
    """Whether a user's key looks like one that is generated from a request's digest."""
    return _MADE.fullmatch(key) is not None


def stem_of(key: str, request: GenerateRequest, *, is_given: bool) -> str:
    """Return the name, without suffix, of the file for an item's output.

    It is the item's claim to the name: no other key has the same one, even on case-insensitive file systems,
    and none gets it by a number (see `files.numbered`, which sets numbers off by a dot).

    Args:
        key: the item's key.
        request: its request.
        is_given: whether the user gave the key; otherwise words of the prompt precede it.
    """
    if not is_given:
        words = re.sub(r"[^a-z0-9]+", "-", (request.prompt or request.provider or "").lower())
        return f"{words[:40].strip('-')}-{key}".lstrip("-")
    plain = re.sub(r"[^a-z0-9_-]", "_", key.lower())[:100]
    # A key that ends like a generated one could be the name of another item.
    is_safe = plain == key and plain not in RESERVED_NAMES and not _MADE_STEM.fullmatch(plain)
    return plain if is_safe else f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def outputs(folder: Path, stem: str) -> list[Path]:
    """Return the outputs under a name, whatever their suffixes."""
    paths = (folder / f"{stem}{suffix}" for suffix in media.SUFFIXES)
    return [path for path in paths if os.path.lexists(path)]


def free_stem(folder: Path, stem: str) -> str:
    """Return a name, numbered if files have it: an existing output may be somebody's, and paid for."""
    return next(path.name for path in numbered(Path(stem)) if not outputs(folder, path.name))


def output_of(folder: Path, stem: str, owner: str) -> Path | None:
    """Return an output under a name, or its numbers, that may have been written for an owner."""
    for name in numbered(Path(stem)):
        paths = outputs(folder, name.name)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                if not is_of_another(path, owner):
                    return path
        if not paths:
            return None
    return None


class BatchArguments(TypedDict, total=False):
    """The keyword arguments of `AsyncDoitong.batch`, where they are explained."""

    ledger: str | os.PathLike[str] | None
    out: str | os.PathLike[str] | None
    budget: float | Budget | None
    price: PriceArgument
    retry_failed: bool
    verify: bool
    key_lives: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The arguments of a batch; see `AsyncDoitong.batch`."""

    out: Path | None
    budget: Budget | None
    price: PriceArgument
    retry_failed: bool
    verify: bool
    key_lives: float
    options: Options


def terms_of(
    options: Options,
    *,
    out: str | os.PathLike[str] | None,
    budget: float | Budget | None,
    price: PriceArgument,
    retry_failed: bool,
    verify: bool,
    key_lives: float,
) -> Terms:
    """Return the terms of a batch after checking them.

    Raises:
        ConfigurationError: naming the invalid argument.
    """
    check_price(price)
    is_number = isinstance(key_lives, int | float) and not isinstance(key_lives, bool)
    if not is_number or not 0 <= key_lives < math.inf:
        raise ConfigurationError(f"key_lives is {key_lives!r}; expected seconds, zero or more.")
    return Terms(
        out=None if out is None else Path(out),
        budget=as_budget(budget),
        price=price,
        retry_failed=retry_failed,
        verify=verify,
        key_lives=key_lives,
        # A batch waits for the plan without a limit.
        options=replace(options, slot_timeout=None),
    )
