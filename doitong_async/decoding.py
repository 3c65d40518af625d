"""Decodes the content codings of a response body, all of them and to the last byte."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

_MOST: Final = 1 << 20
"""Bytes decoded at once: a small body may expand to a very large one."""
_PLAIN: Final = {"", "identity", "aws-chunked"}
"""Not real codings; S3 returns the last one as it was set at the upload."""
_GZIP: Final = {"gzip", "x-gzip"}


class CodingError(ValueError):
    """The body has an unknown coding, or is not coded as its header says."""


class Decoder:
    """Decodes one body as it arrives.

    Args:
        headers: the values of `Content-Encoding`, in the order in which they were applied.

    Raises:
        CodingError: if a coding is unknown.
    """

    def __init__(self, headers: Iterable[str] = ()) -> None:
        named = [name.strip().lower() for header in headers for name in header.split(",")]
        codings = [name for name in named if name not in _PLAIN]
        for name in codings:
            if name not in _GZIP and name != "deflate":
                raise CodingError(f"it is coded as {name[:40]!r}, which was not asked for")
        self._layers = [_Layer(name) for name in reversed(codings)]

    @property
    def is_plain(self) -> bool:
        """Whether the body is not coded."""
        return not self._layers

    @property
    def is_whole(self) -> bool:
        """Whether every layer has ended."""
        return all(layer.is_whole for layer in self._layers)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the next bytes of the body, decoded.

        Raises:
            CodingError: if the bytes do not match the coding.
        """
        try:
            yield from self._through(data, 0)
        except zlib.error:
            raise CodingError("it is not coded as it says") from None

    def _through(self, data: bytes, depth: int) -> Iterator[bytes]:
        if depth == len(self._layers):
            yield data
            return
        for piece in self._layers[depth].feed(data):
            yield from self._through(piece, depth + 1)


class _Layer:
    """One coding: gzip, of one member or several, or deflate, with or without its header."""

    def __init__(self, name: str) -> None:
        self._is_gzip = name in _GZIP
        self._stream: zlib._Decompress | None = None
        self.is_whole = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._stream is None:
                if self.is_whole and not data.strip(b"\0"):
                    return
                if self.is_whole and not self._is_gzip:
                    raise zlib.error
                self._stream, self.is_whole = zlib.decompressobj(self._window(data)), False
            stream, piece = self._stream, b""
            while not stream.eof and (data or len(piece) == _MOST):
                piece = stream.decompress(data, _MOST)
                data = stream.unconsumed_tail
                if piece:
                    yield piece
            if stream.eof:
                self._stream, self.is_whole, data = None, True, stream.unused_data

    def _window(self, data: bytes) -> int:
        if self._is_gzip:
            return zlib.MAX_WBITS | 16
        # Some hosts omit the zlib header; the low half of its first byte says "deflate".
        return zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS
