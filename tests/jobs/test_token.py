"""A job in a line of text: what goes in comes out, and nothing that is secret goes in."""

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

words = st.text(min_size=1, max_size=20)
refs = st.builds(
    JobRef,
    id=words,
    type=st.none() | words,
    provider=st.none() | words,
    accepted_at=st.none() | st.integers(0, 2**36),
)
FOX = JobRef("abc123xyz", "IMAGE", "flux-pro", 1_704_067_200)


def packed(content: object) -> str:
    """Write a token by hand, of any content."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return "dtj1." + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@settings(deadline=None, max_examples=100)
@given(refs)
def test_what_goes_in_comes_out(ref: JobRef) -> None:
    """Whatever letters the service makes its ids of; space around the token does not matter."""
    token = write_token(ref)
    assert read_ref(token) == ref
    assert read_ref(f" {token} ") == ref


@settings(deadline=None, max_examples=100)
@given(refs)
def test_a_token_can_stand_anywhere(ref: JobRef) -> None:
    """In a URL, a file name, a shell, a log: letters, digits, dash, underscore and one dot."""
    assert re.fullmatch(r"dtj1\.[A-Za-z0-9_-]+", write_token(ref))


def test_a_token_says_what_is_known_and_no_more() -> None:
    """Id, type, provider and moment; it holds no field for a key, a prompt or a URL."""
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
    """Nothing more is known of it then."""
    assert read_ref(job_id) == JobRef(job_id)
    assert read_ref(f"  {job_id} ") == JobRef(job_id)


@pytest.mark.parametrize("text", ["", "   ", "abc\ndef", "abc\x00", "\ud800", None, 5, b"abc"])
def test_what_is_neither_is_refused(text: str) -> None:
    """Before it becomes a question that the service cannot answer."""
    with pytest.raises(BadRequestError, match="is no job id and no token"):
        read_ref(text)


@pytest.mark.parametrize(
    ("at", "accepted_at"), [(0, 0), (99_999_999_999, 99_999_999_999), (100_000_000_000, None), (-1, None)]
)
def test_a_moment_that_no_clock_shows_is_not_known(at: int, accepted_at: int | None) -> None:
    """The job is taken up nevertheless, as from a bare id."""
    assert read_ref(packed({"id": "abc", "at": at})) == JobRef("abc", accepted_at=accepted_at)


@pytest.mark.parametrize("version", ["0", "2", "17"])
def test_a_token_of_another_version_is_said_to_be_one(version: str) -> None:
    """What it means only a newer library knows; it is not taken for an id."""
    with pytest.raises(BadRequestError, match=f"of version {version}, this library reads version 1"):
        read_ref(f"dtj{version}.e30")


@settings(deadline=None, max_examples=100)
@given(refs, st.data())
def test_a_token_that_was_cut_is_damaged(ref: JobRef, data: st.DataObject) -> None:
    """Wherever: a terminal may break lines."""
    token = write_token(ref)
    cut = data.draw(st.integers(len("dtj1."), len(token) - 1))
    with pytest.raises(BadRequestError, match="The token is damaged"):
        read_ref(token[:cut])


@pytest.mark.parametrize("dirt", ["!", "!!!!", " ", "=", ".", "é"])
def test_a_token_with_dirt_in_it_is_damaged(dirt: str) -> None:
    """What does not belong is not silently passed over."""
    token = write_token(FOX)
    with pytest.raises(BadRequestError, match="The token is damaged"):
        read_ref(f"{token[:20]}{dirt}{token[20:]}")


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
def test_a_token_that_makes_no_sense_is_damaged(token: str) -> None:
    """The refusal says what to give instead, whatever is in it."""
    with pytest.raises(BadRequestError, match=r"The token is damaged; give job\.token whole"):
        read_ref(token)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40) | st.text(max_size=20))
def test_any_text_is_a_job_or_refused(content: bytes | str) -> None:
    """A token may come from a web form."""
    for text in (packed(content), str(content), f"dtj1.{content!s}"):
        with contextlib.suppress(BadRequestError):
            assert read_ref(text).id


@pytest.mark.parametrize(
    "extra", [{"type": 5}, {"provider": ["x"]}, {"at": "soon"}, {"at": 1.5}, {"new": "field"}]
)
def test_odd_fields_of_a_token_are_passed_over(extra: dict[str, object]) -> None:
    """The id alone is enough to take the job up."""
    assert read_ref(packed({"id": "abc", **extra})) == JobRef("abc")
