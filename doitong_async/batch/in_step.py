"""Recognises items that the ledger has as done, by reading the ledger in step with the source.

A batch that is run again mostly meets what it did before, in the same order. To compare a prompt with the
next row of the ledger takes no request and no query of its own. An item that does not match is read, and
looked up by its key, as usual.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.item import Glimpse, ItemState, Row
from doitong_async.batch.source import (
    KEY_LENGTH,
    Asked,
    Reading,
    digest_of,
    is_like_generated,
    read_item,
    spelled,
    spelled_text,
)
from doitong_async.errors import BadRequestError
from doitong_async.settings import Options
from doitong_async.types import GenerateRequest

PAGE: Final = 500
"""Rows that one query reads."""
FARTHEST: Final = 1_000
"""Rows that may be passed over to be in step again; a row farther ahead is a straggler of an earlier run."""
_MARK: Final = "\ue000prompt\ue000"
"""Stands for the prompt while the text of a request around it is found out."""

_Fields: TypeAlias = tuple[tuple[str, str | int], ...]


class InStep:
    """The rows of a ledger in order, of which none was taken before in this run.

    Args:
        backend: the ledger, as earlier runs left it.
        reading: gets the keys of the items that are recognised.
        options: the defaults of requests.
    """

    def __init__(self, backend: LedgerBackend, reading: Reading, options: Options) -> None:
        self._backend = backend
        self._reading = reading
        self._options = options
        self._page: deque[Row] = deque()
        self._last = 0
        """The number of the last row that was taken or passed over."""
        self._end = -1
        """From here on rows may be taken: by stragglers, or by items that this run added."""

    def take(self, number: int, given: object) -> tuple[Asked, Glimpse] | None:
        """Return an item and what the ledger has of it, if the next row says that it is done.

        Args:
            number: the item's number in this run.
            given: the item, as the source has it.
        """
        if self._end < 0:
            self._end = self._backend.last_row() + 1
        if self._last + 1 >= self._end or (parts := _parts(given)) is None:
            return None
        row = self._next()
        if row is None or row.glimpse.state != ItemState.DONE:
            return None
        key, prompt, fields = parts
        digest = row.glimpse.digest
        is_same_key = row.key == digest[:KEY_LENGTH] if key is None else row.key == key
        if not is_same_key or (key is not None and is_like_generated(key)):
            return None
        options = self._options
        spelling = _spelling(fields, options.provider, options.width, options.height)
        if spelling is None or row.request != f"{spelling.before}{spelled_text(prompt)}{spelling.after}":
            return None
        if digest != digest_of(row.request):
            # Somebody edited the row: its key alone may find it.
            return None
        self.took(row.glimpse.number)
        asked = Asked(row.key, key is not None, spelling.request.with_prompt(prompt), row.request, digest)
        self._reading.known(number, asked)
        return asked, row.glimpse

    def took(self, number: int) -> None:
        """Record that an item has the row of this number, wherever that is."""
        if self._last < number <= self._last + FARTHEST:
            self._last = number
        elif number > self._last:
            self._end = min(self._end, number)

    def _next(self) -> Row | None:
        page = self._page
        while page and page[0].glimpse.number <= self._last:
            page.popleft()
        if not page:
            page.extend(self._backend.rows_after(self._last, PAGE))
            if not page:
                self._end = 0
        return page[0] if page and page[0].glimpse.number < self._end else None


class _Spelling(NamedTuple):
    """The canonical JSON of a request, but for its prompt."""

    before: str
    after: str
    request: GenerateRequest


def _parts(given: object) -> tuple[str | None, str, _Fields] | None:
    """Return key, prompt and other fields of a plain item; None if it has to be read with more care."""
    if type(given) is str:
        return None, given, ()
    if type(given) is not dict:
        return None
    key, prompt = given.get("key"), given.get("prompt")
    fields = tuple([each for each in given.items() if each[0] not in ("key", "prompt")])
    if type(prompt) is not str or not (key is None or type(key) is str):
        return None
    # Not a bool, which equals a number, and nothing that can change.
    return (key, prompt, fields) if all(type(value) in (str, int) for _, value in fields) else None


@lru_cache(maxsize=64)
def _spelling(fields: _Fields, provider: str, width: int | None, height: int | None) -> _Spelling | None:
    try:
        _, request = read_item({**dict(fields), "prompt": _MARK})
    except BadRequestError:
        return None
    request = request.with_defaults(provider=provider, width=width, height=height)
    before, *after = spelled(request).split(spelled_text(_MARK))
    return _Spelling(before, after[0], request) if len(after) == 1 else None
