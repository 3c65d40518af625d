"""What a file is, told by its first bytes."""

from __future__ import annotations

from typing import Final

from doitong_async.types import MediaType

_IMAGE, _VIDEO, _AUDIO = "image", "video", "audio"

# (offset, bytes, family, suffix); the first that fits counts.
_SIGNATURES: Final = (
    (0, b"\xff\xd8\xff", _IMAGE, ".jpg"),
    (0, b"\x89PNG\r\n\x1a\n", _IMAGE, ".png"),
    (0, b"GIF8", _IMAGE, ".gif"),
    (8, b"WEBP", _IMAGE, ".webp"),
    (4, b"ftypavif", _IMAGE, ".avif"),
    (4, b"ftyphei", _IMAGE, ".heic"),
    (0, b"II*\x00", _IMAGE, ".tif"),
    (0, b"MM\x00*", _IMAGE, ".tif"),
    (4, b"ftypM4A", _AUDIO, ".m4a"),
    (4, b"ftypqt", _VIDEO, ".mov"),
    (4, b"ftyp", _VIDEO, ".mp4"),
    (0, b"\x1aE\xdf\xa3", _VIDEO, ".webm"),
    (8, b"AVI ", _VIDEO, ".avi"),
    (8, b"WAVE", _AUDIO, ".wav"),
    (0, b"ID3", _AUDIO, ".mp3"),
    (0, b"\xff\xfb", _AUDIO, ".mp3"),
    (0, b"\xff\xf3", _AUDIO, ".mp3"),
    (0, b"\xff\xf1", _AUDIO, ".aac"),
    (0, b"OggS", _AUDIO, ".ogg"),
    (0, b"fLaC", _AUDIO, ".flac"),
)

SUFFIXES: Final = (*sorted({suffix for *_, suffix in _SIGNATURES}), ".bin")
"""Endings that files of outputs have."""

# A moving picture may be an animated GIF or WebP.
_FITS: Final = {
    MediaType.IMAGE: {_IMAGE},
    MediaType.VIDEO: {_VIDEO, _IMAGE},
    MediaType.AVATAR: {_VIDEO, _IMAGE},
    MediaType.AUDIO: {_AUDIO, _VIDEO},
}
_TEXT: Final = ("text/", "application/json", "application/xml", "application/problem+json")
LEADING: Final = 16
"""So many first bytes are enough to tell."""


def suffix_of(head: bytes) -> str | None:
    """Return the usual ending of such a file, as in ".jpg", or None for a kind that is not known."""
    known = _match(head)
    return known[1] if known else None


def why_not(head: bytes, *, media: str | None, content_type: str) -> str | None:
    """Return why these first bytes are not the output of such a job, or None if they may be.

    A kind of file that is not known may be: refused is only what is surely something else.
    """
    known = _match(head)
    if known is None:
        if head.lstrip()[:1] in (b"<", b"{") or content_type.lower().startswith(_TEXT):
            return f"it is text ({content_type or 'no content type'}), not a file"
        return None
    fits = _FITS.get(media) if media in _FITS else None  # type: ignore[call-overload]  # a str is looked up
    if fits and known[0] not in fits:
        return f"it is {known[0]} ({known[1]}), but the job makes {media}"
    return None


def _match(head: bytes) -> tuple[str, str] | None:
    for offset, signature, family, suffix in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return family, suffix
    return None
