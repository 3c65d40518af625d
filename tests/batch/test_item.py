"""The table of an item's life, what errors mean in it, and what a new run does with each record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import GenerateRequest, errors
from doitong_async.batch.item import (
    LIFE,
    OUTCOMES,
    UNSETTLED,
    Action,
    ItemEvent,
    ItemRecord,
    ItemState,
    Outcome,
    decide,
    event_of,
    follow,
    states_before,
)
from doitong_async.batch.source import digest_of, spelled, stem_of
from doitong_async.batch.worker import stops_the_batch
from doitong_async.jobs.job import JobFailedError, JobTimeoutError

KNOWN = ItemRecord(
    number=1,
    key="k",
    digest="d",
    request='{"prompt":"a fox"}',
    state=ItemState.INTENT,
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
    error=None,
    reason=None,
    file=None,
    length=None,
    sha256=None,
    ended_at=None,
    body=None,
)


KINDS = [
    kind
    for kind in (*vars(errors).values(), JobFailedError, JobTimeoutError)
    if isinstance(kind, type) and issubclass(kind, errors.DoitongError) and kind is not errors.DoitongError
]
WITH_JOB = (ItemState.SUBMITTED, ItemState.MISSING, ItemState.DONE)
LIVING = (ItemState.OPEN, ItemState.INTENT, ItemState.DOUBT, *WITH_JOB)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("state", LIVING)
def test_an_item_that_may_be_paid_for_is_never_skipped(
    kind: type[errors.DoitongError], state: ItemState
) -> None:
    """Every error ends an item in every state; only an item that certainly has no job may begin again."""
    after, outcome = follow(state, event_of(kind("x")))
    if state in WITH_JOB:
        assert outcome in (Outcome.FAILED, Outcome.IN_DOUBT)
        assert after in (*WITH_JOB, ItemState.FAILED)
    if state is ItemState.DOUBT:
        assert (after, outcome) == (ItemState.DOUBT, Outcome.IN_DOUBT)
    if state is ItemState.INTENT and after is ItemState.OPEN:
        assert outcome is Outcome.SKIPPED
        assert "nothing was charged" in kind.outcome.lower() or "none was made" in kind.outcome
    if state is ItemState.DONE:
        assert after is ItemState.DONE


@pytest.mark.parametrize(
    ("state", "error", "expected"),
    [
        (ItemState.OPEN, errors.BudgetReachedError("x"), (ItemState.OPEN, Outcome.SKIPPED)),
        (ItemState.OPEN, errors.BadRequestError("x"), (ItemState.OPEN, Outcome.REJECTED)),
        (ItemState.INTENT, errors.BadRequestError("x"), (ItemState.REJECTED, Outcome.REJECTED)),
        (ItemState.INTENT, errors.InsufficientCreditsError("x"), (ItemState.OPEN, Outcome.SKIPPED)),
        (ItemState.INTENT, errors.DailyLimitError("x"), (ItemState.OPEN, Outcome.SKIPPED)),
        (ItemState.INTENT, errors.SubmitOutcomeUnknownError("x"), (ItemState.INTENT, Outcome.IN_DOUBT)),
        (ItemState.INTENT, errors.ServerError("x"), (ItemState.INTENT, Outcome.IN_DOUBT)),
        (ItemState.DOUBT, errors.BadRequestError("x"), (ItemState.DOUBT, Outcome.IN_DOUBT)),
        (ItemState.SUBMITTED, JobFailedError("x"), (ItemState.FAILED, Outcome.FAILED)),
        (ItemState.SUBMITTED, JobTimeoutError("x"), (ItemState.SUBMITTED, Outcome.IN_DOUBT)),
        (ItemState.SUBMITTED, errors.DownloadError("x"), (ItemState.SUBMITTED, Outcome.FAILED)),
        (ItemState.SUBMITTED, errors.JobNotFoundError("x"), (ItemState.MISSING, Outcome.FAILED)),
        (ItemState.MISSING, errors.JobNotFoundError("x"), (ItemState.MISSING, Outcome.FAILED)),
        # It is no longer missing: only a new "not found" and `retry_failed` would pay again.
        (ItemState.MISSING, JobTimeoutError("x"), (ItemState.SUBMITTED, Outcome.IN_DOUBT)),
        (ItemState.DONE, errors.DownloadError("x"), (ItemState.DONE, Outcome.FAILED)),
    ],
)
def test_how_an_error_ends_an_item(
    state: ItemState, error: errors.DoitongError, expected: tuple[ItemState, Outcome]
) -> None:
    """The readable part of the table."""
    assert follow(state, event_of(error)) == expected


def test_the_table_is_complete() -> None:
    """Every state is reachable and has a row; an impossible step is an error; stopping always ends it."""
    assert (
        {state for state, _ in LIFE}
        == set(ItemState)
        == {state for state, _ in LIFE.values()} | {ItemState.OPEN}
    )
    assert set(OUTCOMES) == set(ItemState)
    assert all(follow(state, ItemEvent.STOPPED)[1] is not None for state in LIVING)
    for state, event in ((ItemState.OPEN, ItemEvent.ACCEPTED), (ItemState.DONE, ItemEvent.BEGUN)):
        with pytest.raises(KeyError):
            follow(state, event)


def test_only_an_open_failed_or_missing_item_begins() -> None:
    """A second idempotency key for an item that may have a job would pay twice."""
    assert set(states_before(ItemEvent.BEGUN)) == {
        *(ItemState.OPEN, ItemState.FAILED, ItemState.REJECTED, ItemState.MISSING),
    }
    assert set(states_before(ItemEvent.ACCEPTED)) == {ItemState.INTENT}
    assert set(UNSETTLED) == {
        state.recorded for state in ItemState if state in (*WITH_JOB[:2], ItemState.INTENT, ItemState.DOUBT)
    }


def test_which_errors_stop_the_whole_batch() -> None:
    """Those of the key, the credits, the day and the disk; not a bad prompt, a failed job or a download."""
    on_disk = errors.DownloadError("cannot be written")
    on_disk.__cause__ = OSError(28, "No space left on device")
    in_doubt = errors.SubmitOutcomeUnknownError("x")
    in_doubt.__cause__ = errors.InsufficientCreditsError("x")
    assert all(
        map(stops_the_batch, (on_disk, in_doubt, errors.AuthenticationError(), errors.DailyLimitError()))
    )
    assert not any(map(stops_the_batch, (errors.DownloadError(), JobFailedError(), errors.BadRequestError())))


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
        (ItemState.OPEN, {}, Action.BEGIN),
        (ItemState.INTENT, {}, Action.RESEND),
        (ItemState.INTENT, {"wall": 87_399.9}, Action.RESEND),
        (ItemState.INTENT, {"wall": 87_400.0}, Action.DOUBT),
        (ItemState.INTENT, {"key_lives": 0.0}, Action.DOUBT),
        (ItemState.INTENT, {"may_resend": False}, Action.DOUBT),
        (ItemState.SUBMITTED, {}, Action.TAKE_UP),
        (ItemState.SUBMITTED, {"wall": 1e9, "may_resend": False}, Action.TAKE_UP),
        (ItemState.SUBMITTED, {"retry_failed": True}, Action.TAKE_UP),
        (ItemState.MISSING, {}, Action.TAKE_UP),
        (ItemState.MISSING, {"retry_failed": True}, Action.BEGIN),
        (ItemState.DONE, {}, Action.REPORT),
        (ItemState.DONE, {"has_file": False}, Action.FETCH),
        (ItemState.DONE, {"retry_failed": True}, Action.REPORT),
        (ItemState.FAILED, {}, Action.REPORT),
        (ItemState.FAILED, {"retry_failed": True}, Action.BEGIN),
        (ItemState.REJECTED, {}, Action.REPORT),
        (ItemState.REJECTED, {"retry_failed": True}, Action.BEGIN),
    ],
)
def test_what_a_run_does_with_a_record(
    state: ItemState | None, changed: dict[str, object], expected: Action
) -> None:
    """The table of resumption."""
    assert action(replace(KNOWN, state=state) if state else None, **changed) is expected


@given(st.sampled_from(ItemState), st.booleans(), st.booleans(), st.floats(0, 1e10))
def test_another_request_is_never_taken_for_the_known_one(
    state: ItemState, retry: bool, resend: bool, wall: float
) -> None:
    """In any state, a known key with another request is a clash."""
    record = replace(KNOWN, state=state)
    asked = action(record, digest="other", retry_failed=retry, may_resend=resend, wall=wall)
    assert asked is Action.CLASH


@given(st.floats(0, 1e10), st.booleans(), st.booleans(), st.booleans())
def test_an_intent_never_begins_again(wall: float, resend: bool, retry: bool, has_file: bool) -> None:
    """A second idempotency key for a job that may exist would pay twice."""
    chosen = action(KNOWN, wall=wall, may_resend=resend, retry_failed=retry, has_file=has_file)
    assert chosen in (Action.RESEND, Action.DOUBT)


def test_a_request_has_one_spelling() -> None:
    """The order of options changes nothing; every value does."""
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
    """No separator, dot or capital letter; a hash distinguishes names that were changed."""
    named = stem_of(key, GenerateRequest(prompt="a"), is_given=True)
    assert named.startswith(stem)
    assert (len(named) == len(stem)) is not stem.endswith("-")


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_files_of_different_keys_are_different_files(one: str, other: str) -> None:
    """Also on file systems that ignore case."""
    request = GenerateRequest(prompt="a")
    names = [stem_of(key, request, is_given=True).casefold() for key in (one, other)]
    assert (names[0] == names[1]) is (one == other)
    assert all(name.replace("-", "").replace("_", "").isalnum() or set(name) <= set("-_") for name in names)


def test_without_a_key_the_file_name_shows_the_prompt() -> None:
    """The key of the item distinguishes repeats."""
    request = GenerateRequest(prompt="A red fox, in the snow! " * 5)
    assert stem_of("0a1b-2", request, is_given=False) == "a-red-fox-in-the-snow-a-red-fox-in-the-s-0a1b-2"
    assert stem_of("0a1b", GenerateRequest(prompt="雪"), is_given=False) == "0a1b"
