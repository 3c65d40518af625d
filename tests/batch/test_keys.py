"""Item keys: the same in every run, in constant memory."""

from __future__ import annotations

import tracemalloc
from contextlib import closing

import pytest

from doitong_async import BadRequestError
from doitong_async.batch.source import ItemKeys, digest_of


def test_repeats_are_counted() -> None:
    """The same requests in the same order have the same keys, each its own."""
    digests = [digest_of(word) for word in ("fox", "whale", "fox", "fox", "whale")]
    runs = []
    for _ in range(2):
        with closing(ItemKeys()) as keys:
            runs.append([keys.key_of(None, digest, number) for number, digest in enumerate(digests, 1)])
    fox, whale = digests[0][:16], digests[1][:16]
    assert runs == [[fox, whale, f"{fox}-2", f"{fox}-3", f"{whale}-2"]] * 2


def test_a_users_key_is_used_unchanged_and_once() -> None:
    """The second item with a key is rejected, and the error names both."""
    with closing(ItemKeys()) as keys:
        assert keys.key_of("mine", "0d", 3) == "mine"
        with pytest.raises(BadRequestError, match="3 and 8"):
            keys.key_of("mine", "0e", 8)


@pytest.mark.slow
def test_memory_does_not_grow() -> None:
    """Known keys are kept in a file: 50,000 take no more memory than 500."""
    grown = []
    for count in (500, 50_000):
        with closing(ItemKeys()) as keys:
            tracemalloc.start()
            for number in range(count):
                keys.key_of(None, f"{number:064}", number)
            grown.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert grown[1] < grown[0] + 4_096
