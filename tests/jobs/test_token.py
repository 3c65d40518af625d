"""The token, a job in one line of text: everything in it survives, and nothing secret goes in."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.errors import BadRequestError
from doitong_async.jobs.token import JobRef, read_ref, write_token

texts = st.text(min_size=1, max_size=20)
refs = st.builds(
    JobRef,
    id=texts,
    type=st.none() | texts,
    provider=st.none() | texts,
    accepted_at=st.none() | st.integers(0, 2**36),
)
FOX = JobRef("abc123xyz", "IMAGE", "flux-pro", 1_704_067_200)


def packed(content: object) -> str:
    """Write a token by hand, with any content."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return "dtj1." + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@settings(deadline=None, max_examples=100)
@given(refs)
def test_a_token_round_trips(ref: JobRef) -> None:
    """Whatever characters the ids contain; space around the token does not matter."""
    token = write_token(ref)
    assert read_ref(token) == ref
    assert read_ref(f" {token} ") == ref


@settings(deadline=None, max_examples=100)
@given(refs)
def test_a_token_is_safe_anywhere(ref: JobRef) -> None:
    """In a URL, a file name, a shell, a log: letters, digits, dash, underscore and one dot."""
    assert re.fullmatch(r"dtj1\.[A-Za-z0-9_-]+", write_token(ref))


def test_a_token_holds_only_what_identifies_the_job() -> None:
    """It holds id, type, provider and time, and has no field for a key, a prompt or a URL."""
    token = write_token(FOX)
    raw = token.removeprefix("dtj1.")
    assert json.loads(base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))) == {
        "id": "abc123xyz",
        "type": "IMAGE",
        "provider": "flux-pro",
        "at": 1_704_067_200,
    }
    assert [field.name for field in dataclasses.fields(JobRef)] == ["id", "type", "provider", "accepted_at"]


@pytest.mark.parametrize("job_id", ["abc123xyz", "a/b+c", "dtj", "dtj1", "狐", "dtjx.abc"])
def test_a_bare_id_is_an_id(job_id: str) -> None:
    """Nothing else is known about the job then."""
    assert read_ref(job_id) == JobRef(job_id)
    assert read_ref(f"  {job_id} ") == JobRef(job_id)


@pytest.mark.parametrize("text", ["", "   ", "abc\ndef", "abc\x00", "\ud800", None, 5, b"abc"])
def test_text_that_is_neither_an_id_nor_a_token_is_rejected(text: str) -> None:
    """The service is never asked about it."""
    with pytest.raises(BadRequestError, match="is no job id and no token"):
        read_ref(text)


@pytest.mark.parametrize(
    ("at", "accepted_at"), [(0, 0), (99_999_999_999, 99_999_999_999), (100_000_000_000, None), (-1, None)]
)
def test_an_impossible_time_counts_as_unknown(at: int, accepted_at: int | None) -> None:
    """The job is resumed all the same, as from a bare id."""
    assert read_ref(packed({"id": "abc", "at": at})) == JobRef("abc", accepted_at=accepted_at)


@pytest.mark.parametrize("version", ["0", "2", "17"])
def test_a_token_of_another_version_is_an_error_that_names_it(version: str) -> None:
    """Only a newer library can read it; it is not taken for an id."""
    with pytest.raises(BadRequestError, match=f"of version {version}, this library reads version 1"):
        read_ref(f"dtj{version}.e30")


@settings(deadline=None, max_examples=100)
@given(refs, st.data())
def test_a_truncated_token_is_damaged(ref: JobRef, data: st.DataObject) -> None:
    """Wherever it was cut; a terminal may break lines."""
    token = write_token(ref)
    cut = data.draw(st.integers(len("dtj1."), len(token) - 1))
    with pytest.raises(BadRequestError, match="The token is damaged"):
        read_ref(token[:cut])


@pytest.mark.parametrize("extra", ["!", "!!!!", " ", "=", ".", "é"])
def test_a_token_with_foreign_characters_is_damaged(extra: str) -> None:
    """The reader must not silently skip them."""
    token = write_token(FOX)
    with pytest.raises(BadRequestError, match="The token is damaged"):
        read_ref(f"{token[:20]}{extra}{token[20:]}")


@pytest.mark.parametrize(
    "token",
    [
        "dtj1.",
        "dtj1.!!!",
        "dtj1.a b",
        "dtj1.é",
        "dtj1.a",
        packed(b"\xff\xfe"),
        packed(b"{"),
        packed(b"[" * 100_000),
        packed(b'{"id": ' + b"9" * 5_000 + b"}"),
        packed([]),
        packed("abc"),
        packed(5),
        packed(None),
        packed({}),
        packed({"id": ""}),
        packed({"id": 5}),
        packed({"id": None}),
    ],
)
def test_a_token_with_invalid_content_is_damaged(token: str) -> None:
    """The error says what to pass instead, whatever the token holds."""
    with pytest.raises(BadRequestError, match=r"The token is damaged; give job\.token whole"):
        read_ref(token)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40) | st.text(max_size=20))
def test_any_text_is_a_job_or_a_bad_request(content: bytes | str) -> None:
    """A token may come from a web form."""
    for text in (packed(content), str(content), f"dtj1.{content!s}"):
        with contextlib.suppress(BadRequestError):
            assert read_ref(text).id


@pytest.mark.parametrize(
    "extra", [{"type": 5}, {"provider": ["x"]}, {"at": "soon"}, {"at": 1.5}, {"new": "field"}]
)
def test_invalid_optional_fields_of_a_token_are_ignored(extra: dict[str, object]) -> None:
    """The id alone is enough to resume the job."""
    assert read_ref(packed({"id": "abc", **extra})) == JobRef("abc")
