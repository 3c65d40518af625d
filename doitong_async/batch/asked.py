"""Reads each item of a batch: its request with the defaults filled in, its canonical JSON and its key."""

from __future__ import annotations

from typing import NamedTuple

from doitong_async.batch.item_record import digest_of, spelled
from doitong_async.batch.items import read_item
from doitong_async.batch.keys import ItemKeys
from doitong_async.settings import Options
from doitong_async.types import GenerateRequest


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
