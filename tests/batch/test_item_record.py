"""What a new run does with the ledger's records, and how requests and files are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import GenerateRequest
from doitong_async.batch.item_record import Action, ItemRecord, State, decide, digest_of, spelled, stem_of

KNOWN = ItemRecord(
    number=1,
    key="k",
    digest="d",
    request='{"prompt":"a fox"}',
    state=State.INTENT,
    attempt=1,
    idempotency_key="i",
    intended_at=1_000.0,
    reserved=20.0,
    job_id=None,
    accepted_at=None,
    status=None,
    url=None,
    cost=None,
    earlier_cost=0.0,
    reason=None,
    file=None,
    length=None,
    sha256=None,
    ended_at=None,
)


def action(record: ItemRecord | None, **changed: object) -> Action:
    usual: dict[str, Any] = {
        "wall": 2_000.0,
        "key_lives": 86_400.0,
        "may_resend": True,
        "retry_failed": False,
        "has_file": True,
    }
    return decide(record, str(changed.pop("digest", "d")), **{**usual, **changed})


@pytest.mark.parametrize(
    ("state", "changed", "expected"),
    [
        (None, {}, Action.BEGIN),
        (State.OPEN, {}, Action.BEGIN),
        (State.INTENT, {}, Action.RESEND),
        (State.INTENT, {"wall": 87_399.9}, Action.RESEND),
        (State.INTENT, {"wall": 87_400.0}, Action.DOUBT),
        (State.INTENT, {"key_lives": 0.0}, Action.DOUBT),
        (State.INTENT, {"may_resend": False}, Action.DOUBT),
        (State.SUBMITTED, {}, Action.TAKE_UP),
        (State.SUBMITTED, {"wall": 1e9, "may_resend": False}, Action.TAKE_UP),
        (State.DONE, {}, Action.REPORT),
        (State.DONE, {"has_file": False}, Action.FETCH),
        (State.DONE, {"retry_failed": True}, Action.REPORT),
        (State.FAILED, {}, Action.REPORT),
        (State.FAILED, {"retry_failed": True}, Action.BEGIN),
        (State.REJECTED, {}, Action.REPORT),
        (State.REJECTED, {"retry_failed": True}, Action.BEGIN),
    ],
)
def test_what_a_run_does(state: State | None, changed: dict[str, object], expected: Action) -> None:
    """The table of resumption."""
    assert action(replace(KNOWN, state=state) if state else None, **changed) is expected


@given(st.sampled_from(State), st.booleans(), st.booleans(), st.floats(0, 1e10))
def test_another_request_is_never_taken_for_the_known_one(
    state: State, retry: bool, resend: bool, wall: float
) -> None:
    """In any state, a known key with another request is rejected."""
    record = replace(KNOWN, state=state)
    asked = action(record, digest="other", retry_failed=retry, may_resend=resend, wall=wall)
    assert asked is Action.CLASH


@given(st.floats(0, 1e10), st.booleans(), st.booleans(), st.booleans())
def test_an_intent_is_never_begun_anew(wall: float, resend: bool, retry: bool, has_file: bool) -> None:
    """A second key for what may have been made would pay twice."""
    told = action(KNOWN, wall=wall, may_resend=resend, retry_failed=retry, has_file=has_file)
    assert told in (Action.RESEND, Action.DOUBT)


def test_a_request_has_one_spelling() -> None:
    """The order of options changes nothing; whatever is asked for does."""
    one = GenerateRequest(prompt="a", options={"x": 1, "y": {"b": 2, "a": 3}})
    same = GenerateRequest(prompt="a", options={"y": {"a": 3, "b": 2}, "x": 1})
    other = GenerateRequest(prompt="a", options={"x": 1, "y": {"b": 2, "a": 4}})
    assert spelled(one) == spelled(same)
    assert digest_of(spelled(one)) != digest_of(spelled(other))


@pytest.mark.parametrize(
    ("key", "stem"),
    [
        ("whale", "whale"),
        ("Whale", "whale-"),
        ("../../etc/passwd", "______etc_passwd-"),
        ("con", "con-"),
        ("index", "index-"),
        ("käse", "k_se-"),
        ("x" * 150, "x" * 100 + "-"),
        (".hidden", "_hidden-"),
    ],
)
def test_a_key_becomes_a_plain_file_name(key: str, stem: str) -> None:
    """No separator, no dot, no capital; a hash distinguishes changed names."""
    named = stem_of(key, GenerateRequest(prompt="a"), is_given=True)
    assert named.startswith(stem)
    assert (len(named) == len(stem)) is not stem.endswith("-")


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_files_of_different_keys_are_different_files(one: str, other: str) -> None:
    """On file systems too that do not tell "A" from "a"."""
    request = GenerateRequest(prompt="a")
    names = [stem_of(key, request, is_given=True).casefold() for key in (one, other)]
    assert (names[0] == names[1]) is (one == other)
    assert all(name.replace("-", "").replace("_", "").isalnum() or set(name) <= set("-_") for name in names)


def test_without_a_key_the_prompt_is_read_in_the_name() -> None:
    """And the key of the item tells repeats apart."""
    request = GenerateRequest(prompt="A red fox, in the snow! " * 5)
    assert stem_of("0a1b-2", request, is_given=False) == "a-red-fox-in-the-snow-a-red-fox-in-the-s-0a1b-2"
    assert stem_of("0a1b", GenerateRequest(prompt="雪"), is_given=False) == "0a1b"
