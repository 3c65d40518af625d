"""Identifies a file by its first bytes: the ending of its name, and whether it is an error page instead."""

from __future__ import annotations

import re
from typing import Final

from doitong_async.types import MediaType

LEADING: Final = 1 << 16
"""Bytes that are enough to identify a file; an SVG may begin with long comments."""

# (ending, first bytes, bytes at offset 8); the first match counts.
_SIGNATURES: Final = (
    (".jpg", b"\xff\xd8\xff", b""),
    (".png", b"\x89PNG\r\n\x1a\n", b""),
    (".gif", b"GIF8", b""),
    (".webp", b"RIFF", b"WEBP"),
    (".tif", b"II*\x00", b""),
    (".tif", b"MM\x00*", b""),
    (".jxl", b"\xff\x0a", b""),
    (".jxl", b"\x00\x00\x00\x0cJXL \r\n\x87\n", b""),
    (".webm", b"\x1aE\xdf\xa3", b""),
    (".avi", b"RIFF", b"AVI "),
    (".wav", b"RIFF", b"WAVE"),
    (".aiff", b"FORM", b"AIF"),
    (".mp3", b"ID3", b""),
    *((".mp3", b"\xff" + second, b"") for second in (b"\xfb", b"\xfa", b"\xf3", b"\xf2")),
    *((".aac", b"\xff" + second, b"") for second in (b"\xf1", b"\xf9")),
    (".ogg", b"OggS", b""),
    (".flac", b"fLaC", b""),
    (".glb", b"glTF", b""),
    (".zip", b"PK\x03\x04", b""),
    (".gz", b"\x1f\x8b\x08", b""),
    (".pdf", b"%PDF-", b""),
    (".vtt", b"WEBVTT", b""),
    (".vtt", b"\xef\xbb\xbfWEBVTT", b""),
)
# Endings of ISO media files, which consist of boxes, by brand (ISO/IEC 14496-12); most specific first.
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), ".avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), ".heic"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), ".m4a"),
    b"qt  ": ".mov",
}
_GENERAL_IMAGE: Final = (b"mif1", b"msf1", b"mif2")
"""Brands of an ISO media picture whose coding another brand names."""
_MOST_BRANDS: Final = 64

# Accepted content types for unknown bytes: never an ending that a system runs or a browser renders.
_SAME_NAME: Final = (
    *("image/png", "image/gif", "image/webp", "image/avif", "image/heic", "image/heif", "image/bmp"),
    *("image/jxl", "video/mp4", "video/webm", "audio/aac", "audio/ogg", "audio/flac", "audio/wav"),
    *("audio/aiff", "audio/webm", "model/obj", "model/stl", "model/ply", "model/3mf", "text/vtt"),
    *("text/srt", "text/csv", "application/json", "application/zip", "application/pdf"),
)
_BY_CONTENT_TYPE: Final = {kind: f".{kind.partition('/')[2]}" for kind in _SAME_NAME} | {
    "image/jpeg": ".jpg",
    "image/tiff": ".tif",
    "video/quicktime": ".mov",
    "video/x-msvideo": ".avi",
    "video/mpeg": ".mpg",
    "video/x-matroska": ".mkv",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "audio/x-m4a": ".m4a",
    "audio/x-wav": ".wav",
    "model/gltf-binary": ".glb",
    "model/gltf+json": ".gltf",
    "model/vnd.usdz+zip": ".usdz",
    "application/x-subrip": ".srt",
    "text/plain": ".txt",
}

SUFFIXES: Final = tuple(
    sorted(
        {signature[0] for signature in _SIGNATURES}
        | {*_BRANDS.values(), *_BY_CONTENT_TYPE.values(), ".heif", ".mp4", ".svg", ".bin"}
    )
)
"""All endings that outputs get; the host chooses none of them."""

_SHOWN: Final = {str(kind) for kind in MediaType}
"""Types to see or hear: an output of these is never a page or JSON."""
_TEXT: Final = ("text/plain", "text/html", "application/json", "application/problem+json")
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_PROLOG: Final = re.compile(r"\s*(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>)", re.DOTALL)
_SVG: Final = re.compile(r"\s*<(?:[\w.-]+:)?svg[\s/>]")


def suffix_of(head: bytes) -> str | None:
    """Return the usual ending of such a file, as in ".jpg", or None for an unknown kind."""
    if head[4:8] == b"ftyp":
        return _suffix_of_iso_media(head)
    for suffix, first, inner in _SIGNATURES:
        if head.startswith(first) and head.startswith(inner, 8 if inner else 0):
            return suffix
    text = _text(head)
    return ".svg" if text is not None and _is_svg(text) else None


def ending(head: bytes, content_type: str) -> str:
    """Return the ending for a file: by its first bytes, else by a known content type, else ".bin"."""
    plain = content_type.partition(";")[0].strip().lower()
    return suffix_of(head) or _BY_CONTENT_TYPE.get(plain, ".bin")


def why_not(head: bytes, *, media: str | None, content_type: str) -> str | None:
    """Return why these first bytes cannot be the output of such a job, or None if they may be.

    For something to see or hear, it rejects only what is certainly an error or still compressed. For an
    unknown type, a page is an error too.
    """
    is_shown = (media or "").upper() in _SHOWN
    if media is not None and not is_shown:
        return None
    known = suffix_of(head)
    if known == ".gz" and is_shown:
        return "it is still packed (gzip)"
    text = _text(head) if known is None else None
    if text is None:
        return None
    begin = text.lstrip()[:1]
    is_text_type = content_type.lower().strip().startswith(_TEXT)
    if begin == "<" or (is_shown and (is_text_type or (begin != "" and begin in "{["))):
        return f"it is text ({content_type or 'no content type'}), not a file"
    return None


def _suffix_of_iso_media(head: bytes) -> str:
    size = int.from_bytes(head[:4], "big")
    major, others = head[8:12], head[16 : min(size, 16 + 4 * _MOST_BRANDS)]
    if major in _BRANDS:
        return _BRANDS[major]
    brands = [others[first : first + 4] for first in range(0, len(others), 4)]
    if major not in _GENERAL_IMAGE:
        # A picture has its own major brand; a film may also list the brand of a picture that it contains.
        return ".mp4"
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), ".heif")


def _text(head: bytes) -> str | None:
    """Return the bytes as text, or None if they are no text."""
    coding = "utf-8"
    for mark, named in _BOMS:
        if head.startswith(mark):
            head, coding = head[len(mark) :], named
            break
    # Drop a letter that was cut off at the end.
    text = head.decode(coding, "replace").removesuffix("\ufffd")
    is_text = "\ufffd" not in text and not any(sign < " " and sign not in "\t\n\r\f" for sign in text)
    return text if is_text else None


def _is_svg(text: str) -> bool:
    at = 0
    while (part := _PROLOG.match(text, at)) is not None:
        at = part.end()
    return _SVG.match(text, at) is not None


_SAME: Final = {
    ".jpeg": ".jpg",
    ".jpe": ".jpg",
    ".tiff": ".tif",
    ".mpeg": ".mpg",
    ".m4v": ".mp4",
    ".oga": ".ogg",
}


def other_ending(given: str, fitting: str | None) -> str | None:
    """Return the ending that fits an output, if the given one is that of another kind of file; else None."""
    named = _SAME.get(given.lower(), given.lower())
    is_of_media = named in SUFFIXES
    return fitting if is_of_media and fitting in SUFFIXES and named != fitting else None
