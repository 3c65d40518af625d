"""First bytes show what kind of file an output is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.media import LEADING, SUFFIXES, ending, suffix_of, why_not

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
    ".jxl": b"\xff\x0a\x00\x00",
    ".aiff": b"FORM\x00\x00\x00\x10AIFFCOMM",
    ".glb": b"glTF\x02\x00\x00\x00",
    ".zip": b"PK\x03\x04\x14\x00",
    ".gz": b"\x1f\x8b\x08\x00",
    ".pdf": b"%PDF-1.7",
    ".vtt": b"WEBVTT\n\n00:00",
    ".heif": b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1miaf",
    ".svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
BOX = b"\x00\x00\x00\x20ftyp"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
SHOWN = ["IMAGE", "VIDEO", "AVATAR", "AUDIO", "image"]
"""Types whose output can be seen or heard."""
OTHERS = ["MODEL_3D", "SUBTITLES", "JSON", ""]


@pytest.mark.parametrize(("suffix", "head"), HEADS.items(), ids=HEADS)
def test_a_known_kind_has_its_usual_suffix(suffix: str, head: bytes) -> None:
    """The bytes that the client keeps for it are enough."""
    assert suffix_of(head[:LEADING]) == suffix


@pytest.mark.parametrize("head", [b"MM\x00*\x00\x00", b"\xff\xfb\x90d", b"\xff\xf3\x90d"])
def test_variants_of_a_kind_are_recognised(head: bytes) -> None:
    """TIFF has two byte orders, and MP3 may begin without a tag."""
    assert suffix_of(head) in {".tif", ".mp3"}


@pytest.mark.parametrize("head", [b"", b"\xff", b"RIFF", b"\x00" * LEADING, b"hello"])
def test_an_unknown_kind_has_no_suffix(head: bytes) -> None:
    """Nor has a file cut off before it can be recognised."""
    assert suffix_of(head) is None


@pytest.mark.parametrize(
    ("brands", "suffix"),
    [
        (b"mif1\0\0\0\0mif1avifmiaf", ".avif"),
        (b"msf1\0\0\0\0avismsf1miaf", ".avif"),
        (b"mif1\0\0\0\0mif1heicmiaf", ".heic"),
        (b"msf1\0\0\0\0msf1hevcmif1", ".heic"),
        (b"mif1\0\0\0\0mif1miafMA1A", ".heif"),
        (b"avif\0\0\0\0mif1miafMA1B", ".avif"),
        (b"avis\0\0\0\0msf1", ".avif"),
        (b"heix\0\0\0\0mif1", ".heic"),
        (b"isom\0\0\0\0isomavifmp42", ".mp4"),
        (b"M4B \0\0\0\0", ".m4a"),
    ],
)
def test_iso_media_files_are_recognised_by_their_brands(brands: bytes, suffix: str) -> None:
    """A general picture brand does not show the coding; the compatible brands do."""
    head = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands
    assert suffix_of(head + b"\0\0\0\0metaheic") == suffix


@pytest.mark.parametrize(
    "head",
    [
        SVG,
        b"\n\t <svg>",
        b"\xef\xbb\xbf" + SVG,
        b"\xff\xfe" + SVG.decode().encode("utf-16-le"),
        b"\xfe\xff" + SVG.decode().encode("utf-16-be"),
        b'<?xml version="1.0" encoding="UTF-8"?>\n<!-- made > by <us> -->\n' + SVG,
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://x/svg11.dtd">' + SVG,
        b'<?xml version="1.0"?><!DOCTYPE svg [ <!ENTITY ns "http://x/"> ]>' + SVG,
        b"<svg:svg xmlns:svg='http://www.w3.org/2000/svg'>",
        b"<!--" + b"a licence " * 3000 + b"-->" + SVG,
    ],
)
def test_every_beginning_of_an_svg_is_recognised(head: bytes) -> None:
    """With a byte order mark, a prolog, comments, a document type, a prefix."""
    assert suffix_of(head) == ".svg"
    assert why_not(head, media="IMAGE", content_type="image/svg+xml") is None


@pytest.mark.parametrize(
    "head",
    [
        b"<html><svg></svg></html>",
        b"<!doctype html><svg>",
        b"<!-- <svg> --><html>",
        b"<svgs>",
        b"<SVG>",
        b"<!-- <svg>",
        b"svg",
        b"\x00<svg>",
    ],
)
def test_a_page_that_contains_an_svg_is_not_one(head: bytes) -> None:
    """The root element decides: a page, whose scripts would run, never gets that suffix."""
    assert suffix_of(head) != ".svg" or head.lower().startswith(b"<!doctype html>")
    assert ending(head, "image/svg+xml") != ".svg" or head.lower().startswith(b"<!doctype html>")


@pytest.mark.parametrize("media", [*SHOWN, *OTHERS, None])
@pytest.mark.parametrize("suffix", sorted(HEADS.keys() - {".gz"}))
def test_a_known_kind_is_an_output_of_any_job(suffix: str, media: str | None) -> None:
    """It is paid for, so only errors are rejected."""
    for content_type in ("", "text/plain", "application/octet-stream"):
        assert why_not(HEADS[suffix], media=media, content_type=content_type) is None


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"<!doctype html>", "text/html"),
        (b"  \n<Error>", "application/octet-stream"),
        (b"\xef\xbb\xbf<html>", ""),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "application/xml"),
        (b'{"error": "expired"}', ""),
        (b'\xef\xbb\xbf{"error": "expired"}', "image/png"),
        (b"\n[1]", "application/octet-stream"),
        (b"null", "application/json; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        (b"Not found", "TEXT/PLAIN"),
        ('{"error": "läuft'.encode()[:-3], ""),
    ],
)
@pytest.mark.parametrize("media", SHOWN)
def test_text_is_no_output(head: bytes, content_type: str, media: str) -> None:
    """An error page under a 200 is not saved as a picture, a video or a sound."""
    why = why_not(head, media=media, content_type=content_type)
    assert why == f"it is text ({content_type or 'no content type'}), not a file"
    assert all(why_not(head, media=other, content_type=content_type) is None for other in OTHERS)


def test_only_a_page_is_an_error_for_a_job_of_unknown_type() -> None:
    """A job resumed by its id alone has no type; JSON may be what was asked for."""
    assert why_not(b"<html>", media=None, content_type="text/html") is not None
    assert why_not(b'{"a": 1}', media=None, content_type="application/json") is None


@pytest.mark.parametrize("media", SHOWN)
def test_a_still_compressed_output_is_no_picture(media: str) -> None:
    """A host may compress it twice and declare it once."""
    assert why_not(HEADS[".gz"], media=media, content_type="image/png") == "it is still packed (gzip)"
    assert all(why_not(HEADS[".gz"], media=other, content_type="") is None for other in (*OTHERS, None))


@pytest.mark.parametrize(
    "head",
    [b"\x00\x01new!", b"{\x00\x01\xff\xfe", b"[\xff\xff", b"<\x00\xff", b"#EXTM3U\n", b"1\n00:00:01 --> 0"],
)
def test_a_new_kind_of_file_passes(head: bytes) -> None:
    """Only clear errors are rejected."""
    assert why_not(head, media="VIDEO", content_type="application/octet-stream") is None


@pytest.mark.parametrize(
    ("content_type", "suffix"),
    [
        ("image/png", ".png"),
        ("IMAGE/JPEG; q=1", ".jpg"),
        ("application/x-subrip", ".srt"),
        ("model/gltf+json", ".gltf"),
        ("application/json", ".json"),
        ("application/x-msdownload", ".bin"),
        ("text/html", ".bin"),
        ("image/svg+xml", ".bin"),
        ("text/x-python", ".bin"),
        ("application/javascript", ".bin"),
        ("../../etc", ".bin"),
        ("", ".bin"),
    ],
)
def test_the_content_type_gives_the_suffix_of_unknown_bytes(content_type: str, suffix: str) -> None:
    """If the type is known to be harmless; for known bytes it does not count."""
    assert ending(b"\x00\x01new!", content_type) == suffix
    assert ending(HEADS[".png"], content_type) == ".png"


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64) | st.text(alphabet="<?!->[]svg \n{", max_size=64).map(str.encode), st.text())
def test_any_bytes_get_an_answer(head: bytes, content_type: str) -> None:
    """Whatever a CDN sends, the answer is one of our suffixes, a reason or None."""
    assert ending(head, content_type) in SUFFIXES
    assert why_not(head, media="IMAGE", content_type=content_type) != ""


def test_no_suffix_is_executable() -> None:
    """Neither on a system nor, pictures aside, in a browser."""
    assert not set(SUFFIXES) & {".exe", ".html", ".htm", ".sh", ".py", ".js", ".xml", ".bat", ".com", ".php"}
