"""What a file is, told by its first bytes: the ending of its name, and whether it is an error instead."""

from __future__ import annotations

import re
from typing import Final

from doitong_async.types import MediaType

LEADING: Final = 1 << 16
"""So many first bytes are enough to tell; an SVG may begin with long comments."""

# (ending, first bytes, bytes at offset 8); the first that fits counts.
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
# What a file of boxes is, by its brands (ISO/IEC 14496-12): those that say the most come first.
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), ".avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), ".heic"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), ".m4a"),
    b"qt  ": ".mov",
}
_GENERAL_IMAGE: Final = (b"mif1", b"msf1", b"mif2")
"""Brands of a picture in boxes whose coding another brand names."""
_MOST_BRANDS: Final = 64

# What a host may say of bytes that are not known: never an ending that a system runs or a browser renders.
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
"""Endings that files of outputs have; none is the host's own choice."""

_SHOWN: Final = {str(kind) for kind in MediaType}
"""Types that are seen or heard: no page and no JSON is an output of these."""
_TEXT: Final = ("text/plain", "text/html", "application/json", "application/problem+json")
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_PROLOG: Final = re.compile(r"\s*(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>)", re.DOTALL)
_SVG: Final = re.compile(r"\s*<(?:[\w.-]+:)?svg[\s/>]")


def suffix_of(head: bytes) -> str | None:
    """Return the usual ending of such a file, as in ".jpg", or None for a kind that is not known."""
    if head[4:8] == b"ftyp":
        return _suffix_of_boxes(head)
    for suffix, first, inner in _SIGNATURES:
        if head.startswith(first) and head.startswith(inner, 8 if inner else 0):
            return suffix
    text = _text(head)
    return ".svg" if text is not None and _is_svg(text) else None


def ending(head: bytes, content_type: str) -> str:
    """Return the ending for a file: by its first bytes, else by a content type that is known, else ".bin"."""
    plain = content_type.partition(";")[0].strip().lower()
    return suffix_of(head) or _BY_CONTENT_TYPE.get(plain, ".bin")


def why_not(head: bytes, *, media: str | None, content_type: str) -> str | None:
    """Return why these first bytes are not the output of such a job, or None if they may be.

    Refused is only what is surely an error, or still packed, where something to see or to hear was asked
    for. Where the type is not known, a page is an error, too.
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
    is_told = content_type.lower().strip().startswith(_TEXT)
    if begin == "<" or (is_shown and (is_told or (begin != "" and begin in "{["))):
        return f"it is text ({content_type or 'no content type'}), not a file"
    return None


def _suffix_of_boxes(head: bytes) -> str:
    size = int.from_bytes(head[:4], "big")
    major, others = head[8:12], head[16 : min(size, 16 + 4 * _MOST_BRANDS)]
    if major in _BRANDS:
        return _BRANDS[major]
    brands = [others[first : first + 4] for first in range(0, len(others), 4)]
    if major not in _GENERAL_IMAGE:
        # A picture is named as one by its own brand; a film may say beside it that it has a picture.
        return ".mp4"
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), ".heif")


def _text(head: bytes) -> str | None:
    """Return what bytes say, or None if they are no text."""
    coding = "utf-8"
    for mark, named in _BOMS:
        if head.startswith(mark):
            head, coding = head[len(mark) :], named
            break
    # A letter may be cut off at the end, and is left out.
    text = head.decode(coding, "replace").removesuffix("\ufffd")
    is_text = "\ufffd" not in text and not any(sign < " " and sign not in "\t\n\r\f" for sign in text)
    return text if is_text else None


def _is_svg(text: str) -> bool:
    at = 0
    while (part := _PROLOG.match(text, at)) is not None:
        at = part.end()
    return _SVG.match(text, at) is not None
