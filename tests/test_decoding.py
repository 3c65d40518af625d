"""Content codings: all taken off, to the last byte, or the body is not there."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.decoding import CodingError, Decoder

BODY = b"a fox in the snow, " * 5_000


def packed(*codings: str, body: bytes = BODY) -> bytes:
    """Put codings on, the first one first."""
    for coding in codings:
        if coding == "raw":
            raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = raw.compress(body) + raw.flush()
        else:
            body = gzip.compress(body, mtime=0) if coding == "gzip" else zlib.compress(body)
    return body


def unpacked(body: bytes, *headers: str, step: int = 1_000) -> tuple[bytes, bool]:
    """Decode a body that comes in steps; say whether its end was seen."""
    decoder = Decoder(headers)
    data = b"".join(piece for at in range(0, len(body), step) for piece in decoder.feed(body[at : at + step]))
    return data, decoder.is_whole


@pytest.mark.parametrize(
    ("codings", "headers"),
    [
        ([], []),
        ([], ["identity"]),
        ([], ["", "aws-chunked"]),
        (["gzip"], ["gzip"]),
        (["gzip"], ["X-GZIP"]),
        (["deflate"], ["deflate"]),
        (["raw"], ["deflate"]),
        (["gzip", "gzip"], ["gzip, gzip"]),
        (["deflate", "gzip"], ["deflate", " gzip"]),
        (["gzip"] * 4, ["gzip", "gzip,identity,gzip", "gzip"]),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_all_layers_come_off(codings: list[str], headers: list[str], step: int) -> None:
    """The last one put on first, however the bytes are cut."""
    assert unpacked(packed(*codings), *headers, step=step) == (BODY, True)


@pytest.mark.parametrize("codings", [["gzip"], ["gzip", "gzip"], ["deflate"], ["deflate", "gzip"]])
@pytest.mark.parametrize("left_out", [1, 4, 9])
def test_what_is_cut_short_is_not_whole(codings: list[str], left_out: int) -> None:
    """Even by the one byte that only the check sum misses."""
    assert not unpacked(packed(*codings)[:-left_out], ", ".join(codings))[1]


def test_an_inner_layer_that_is_cut_short_is_not_whole() -> None:
    """The outer one is, and says nothing of it."""
    assert not unpacked(gzip.compress(packed("gzip")[:-3], mtime=0), "gzip, gzip")[1]


def test_members_one_after_the_other_and_padding_are_gzip() -> None:
    """As gzip itself reads them."""
    assert unpacked(packed("gzip") * 2 + bytes(100), "gzip") == (BODY * 2, True)


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (BODY, "gzip"),
        (packed("gzip") + b"more", "gzip"),
        (packed("deflate") + b"more", "deflate"),
        (packed("gzip")[:-8] + b"\0" * 8, "gzip"),
        (packed("gzip"), "gzip, gzip"),
    ],
    ids=["plain", "gzip with more", "deflate with more", "gzip of no sum", "gzip once of twice"],
)
def test_what_is_not_coded_as_it_says_is_told(body: bytes, header: str) -> None:
    """Other bytes, bytes after the end, a wrong check sum, a layer too many."""
    with pytest.raises(CodingError, match="not coded as it says"):
        unpacked(body, header)


@pytest.mark.parametrize("header", ["br", "gzip, zstd", "utf-8", "compress", "x" * 9_999])
def test_a_coding_that_is_not_known_is_told(header: str) -> None:
    """It was not asked for."""
    with pytest.raises(CodingError, match="was not asked for"):
        Decoder([header])


def test_a_body_that_unpacks_to_very_much_comes_in_bounded_pieces() -> None:
    """Whoever counts them can stop."""
    sizes = [
        len(piece) for piece in Decoder(["gzip, gzip"]).feed(packed("gzip", "gzip", body=bytes(1 << 25)))
    ]
    assert sum(sizes) == 1 << 25
    assert max(sizes) <= 1 << 20


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=200) | st.binary(max_size=50).map(lambda body: packed("deflate", "gzip", body=body)),
    st.sampled_from(["gzip", "deflate", "gzip, deflate", "deflate, gzip"]),
)
def test_any_bytes_are_decoded_or_refused(body: bytes, header: str) -> None:
    """Nothing of zlib's comes out, and how the bytes are cut decides neither."""
    assert outcome(body, header, step=3) == outcome(body, header, step=1_000)


def outcome(body: bytes, header: str, *, step: int) -> tuple[bytes, bool] | None:
    """Decode a body; None if it is refused."""
    try:
        return unpacked(body, header, step=step)
    except CodingError:
        return None
