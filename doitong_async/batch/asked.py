"""What is asked for, item by item: the request with its defaults, its one spelling, and the item's key."""

from __future__ import annotations

from typing import NamedTuple

from doitong_async.batch.item_record import digest_of, spelled
from doitong_async.batch.items import read_item
from doitong_async.batch.keys import ItemKeys
from doitong_async.settings import Options
from doitong_async.types import GenerateRequest


class Asked(NamedTuple):
    """One item as it was read; `is_key_given` is whether its user named it."""

    key: str
    is_key_given: bool
    request: GenerateRequest
    text: str
    digest: str


class Reading:
    """Reads the items of one run in their order, once each: the key of one hangs on those before it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._keys = ItemKeys()

    def close(self) -> None:
        """Forget which keys there were."""
        self._keys.close()

    def read(self, number: int, given: object) -> Asked:
        """Return what is asked for.

        Raises:
            BadRequestError: if it cannot be, or its user's key was there before.
            ValueError, RecursionError: if it cannot be written as JSON.
        """
        own, request = read_item(given)
        usual = self._options
        request = request.with_defaults(provider=usual.provider, width=usual.width, height=usual.height)
        text = spelled(request)
        digest = digest_of(text)
        return Asked(self._keys.key_of(own, digest, number), own is not None, request, text, digest)
