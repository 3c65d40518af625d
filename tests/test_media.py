"""What a file is, told by its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.media import LEADING, suffix_of, why_not

HEADS = {
    ".jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    ".png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    ".gif": b"GIF89a",
    ".webp": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
    ".avif": b"\x00\x00\x00 ftypavif",
    ".heic": b"\x00\x00\x00 ftypheic",
    ".tif": b"II*\x00\x08\x00",
    ".m4a": b"\x00\x00\x00 ftypM4A ",
    ".mov": b"\x00\x00\x00 ftypqt  ",
    ".mp4": b"\x00\x00\x00 ftypisom",
    ".webm": b"\x1aE\xdf\xa3\x01\x00",
    ".avi": b"RIFF\x10\x00\x00\x00AVI LIST",
    ".wav": b"RIFF\x10\x00\x00\x00WAVEfmt ",
    ".mp3": b"ID3\x04\x00",
    ".aac": b"\xff\xf1P\x80",
    ".ogg": b"OggS\x00\x02",
    ".flac": b"fLaC\x00\x00",
}
IMAGES = {".jpg", ".png", ".gif", ".webp", ".avif", ".heic", ".tif"}
VIDEOS = {".mov", ".mp4", ".webm", ".avi"}
SOUNDS = {".m4a", ".wav", ".mp3", ".aac", ".ogg", ".flac"}


@pytest.mark.parametrize(("suffix", "head"), HEADS.items(), ids=HEADS)
def test_a_known_kind_has_its_usual_ending(suffix: str, head: bytes) -> None:
    """Told by the first bytes that are kept for it, and by no more of them."""
    assert suffix_of(head[:LEADING]) == suffix


@pytest.mark.parametrize("head", [b"MM\x00*\x00\x00", b"\xff\xfb\x90d", b"\xff\xf3\x90d"])
def test_other_spellings_of_the_same_kinds(head: bytes) -> None:
    """TIFF has two byte orders, MP3 may begin without a tag."""
    assert suffix_of(head) in {".tif", ".mp3"}


@pytest.mark.parametrize("head", [b"", b"\xff", b"RIFF", b"\x00" * LEADING, b"hello"])
def test_an_unknown_kind_has_no_ending(head: bytes) -> None:
    """Nor has a file that is cut off before one can tell."""
    assert suffix_of(head) is None


@pytest.mark.parametrize(
    ("media", "fitting"),
    [("IMAGE", IMAGES), ("VIDEO", VIDEOS | IMAGES), ("AVATAR", VIDEOS | IMAGES), ("AUDIO", SOUNDS | VIDEOS)],
)
def test_a_job_makes_what_it_was_asked_for(media: str, fitting: set[str]) -> None:
    """A moving picture may be a GIF, a sound may come in a video's container; nothing else fits."""
    told = {
        suffix: why_not(head, media=media, content_type="application/octet-stream")
        for suffix, head in HEADS.items()
    }
    assert {suffix for suffix, why in told.items() if why is None} == fitting
    assert all(why.endswith(f"but the job makes {media}") for why in told.values() if why)


@pytest.mark.parametrize("media", [None, "HOLOGRAM"])
def test_a_type_that_is_not_known_may_be_any_file(media: str | None) -> None:
    """A job that was taken up by its id alone tells no type."""
    assert all(why_not(head, media=media, content_type="") is None for head in HEADS.values())


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"<!doctype html>", "text/html"),
        (b"  \n<Error>", "application/octet-stream"),
        (b'{"error": "expired"}', ""),
        (b"", "text/plain; charset=utf-8"),
        (b"Not found", "TEXT/PLAIN"),
        (b"[1]", "application/json"),
    ],
)
def test_text_is_no_output(head: bytes, content_type: str) -> None:
    """An error page under a 200 is not saved as a picture."""
    why = why_not(head, media="IMAGE", content_type=content_type)
    assert why == f"it is text ({content_type or 'no content type'}), not a file"


def test_bytes_say_more_than_the_content_type() -> None:
    """A CDN may call everything text/plain."""
    assert why_not(HEADS[".png"], media="IMAGE", content_type="text/plain") is None


def test_a_new_kind_of_file_passes() -> None:
    """Refused is only what is surely something else."""
    assert why_not(b"\x00\x01new!", media="IMAGE", content_type="image/new") is None


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=LEADING), st.text(), st.text())
def test_any_bytes_can_be_judged(head: bytes, media: str, content_type: str) -> None:
    """Whatever a CDN sends: an ending or none, a reason or none."""
    assert suffix_of(head) is None or suffix_of(head) in HEADS
    assert why_not(head, media=media, content_type=content_type) != ""
