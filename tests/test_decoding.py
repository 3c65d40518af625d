"""Content codings: every layer is decoded to its last byte, or there is no body."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.decoding import CodingError, Decoder

BODY = b"a fox in the snow, " * 5_000


def encoded(*codings: str, body: bytes = BODY) -> bytes:
    """Apply the codings in the given order."""
    for coding in codings:
        if coding == "raw":
            raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = raw.compress(body) + raw.flush()
        else:
            body = gzip.compress(body, mtime=0) if coding == "gzip" else zlib.compress(body)
    return body


def decoded(body: bytes, *headers: str, step: int = 1_000) -> tuple[bytes, bool]:
    """Decode a body in pieces of `step` bytes; return it and whether its end was seen."""
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
def test_every_layer_is_decoded(codings: list[str], headers: list[str], step: int) -> None:
    """The last one applied comes first, however the bytes are split."""
    assert decoded(encoded(*codings), *headers, step=step) == (BODY, True)


@pytest.mark.parametrize(
    ("headers", "is_plain"), [([], True), (["identity"], True), (["identity", "gzip"], False)]
)
def test_a_body_without_a_coding_is_plain(headers: list[str], is_plain: bool) -> None:
    """Only then do the headers give its length."""
    assert Decoder(headers).is_plain is is_plain


@pytest.mark.parametrize("codings", [["gzip"], ["gzip", "gzip"], ["deflate"], ["deflate", "gzip"]])
@pytest.mark.parametrize("left_out", [1, 4, 9])
def test_a_truncated_body_is_incomplete(codings: list[str], left_out: int) -> None:
    """Even if only the last byte of the checksum is missing."""
    assert not decoded(encoded(*codings)[:-left_out], ", ".join(codings))[1]


def test_a_truncated_inner_layer_is_incomplete() -> None:
    """The outer layer is complete and does not show it."""
    assert not decoded(gzip.compress(encoded("gzip")[:-3], mtime=0), "gzip, gzip")[1]


def test_concatenated_and_padded_gzip_is_decoded() -> None:
    """As the gzip program reads it."""
    assert decoded(encoded("gzip") * 2 + bytes(100), "gzip") == (BODY * 2, True)


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (BODY, "gzip"),
        (encoded("gzip") + b"more", "gzip"),
        (encoded("deflate") + b"more", "deflate"),
        (encoded("gzip")[:-8] + b"\0" * 8, "gzip"),
        (encoded("gzip"), "gzip, gzip"),
    ],
    ids=["plain", "gzip with more", "deflate with more", "gzip of no sum", "gzip once of twice"],
)
def test_a_body_that_contradicts_its_coding_is_an_error(body: bytes, header: str) -> None:
    """Other bytes, bytes after the end, a wrong checksum, one layer too many."""
    with pytest.raises(CodingError, match="not coded as it says"):
        decoded(body, header)


@pytest.mark.parametrize("header", ["br", "gzip, zstd", "utf-8", "compress", "x" * 9_999])
def test_an_unknown_coding_is_an_error(header: str) -> None:
    """The client did not ask for it."""
    with pytest.raises(CodingError, match="was not asked for"):
        Decoder([header])


def test_a_large_decoded_body_comes_in_bounded_pieces() -> None:
    """So the reader can count them and stop."""
    sizes = [
        len(piece) for piece in Decoder(["gzip, gzip"]).feed(encoded("gzip", "gzip", body=bytes(1 << 25)))
    ]
    assert sum(sizes) == 1 << 25
    assert max(sizes) <= 1 << 20


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=200) | st.binary(max_size=50).map(lambda body: encoded("deflate", "gzip", body=body)),
    st.sampled_from(["gzip", "deflate", "gzip, deflate", "deflate, gzip"]),
)
def test_any_bytes_are_decoded_or_rejected(body: bytes, header: str) -> None:
    """No zlib error escapes, and the result does not depend on how the bytes are split."""
    assert outcome(body, header, step=3) == outcome(body, header, step=1_000)


def outcome(body: bytes, header: str, *, step: int) -> tuple[bytes, bool] | None:
    """Decode a body; return None if it is rejected."""
    try:
        return decoded(body, header, step=step)
    except CodingError:
        return None
