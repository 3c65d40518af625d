"""Whether a submit is sent again: the table, and what holds for every sequence of failures."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.transport.failure import FailureKind
from doitong_async.transport.retry import DOUBTFUL, RetryDecision, decide_retry

WAITED_FOR = (FailureKind.RATE_LIMIT, FailureKind.IN_PROGRESS)
RETRY, WAIT, FAIL, IN_DOUBT = (
    RetryDecision.RETRY,
    RetryDecision.WAIT,
    RetryDecision.FAIL,
    RetryDecision.IN_DOUBT,
)

# Failure kind → the decision with attempts left, then with none left; nothing was in doubt before.
TRUSTED = {
    FailureKind.BAD_REQUEST: (FAIL, FAIL),
    FailureKind.AUTHENTICATION: (FAIL, FAIL),
    FailureKind.CREDITS: (FAIL, FAIL),
    FailureKind.RATE_LIMIT: (WAIT, WAIT),
    FailureKind.NOT_FOUND: (FAIL, FAIL),
    FailureKind.CONFLICT: (IN_DOUBT, IN_DOUBT),
    FailureKind.IN_PROGRESS: (WAIT, WAIT),
    FailureKind.SERVER: (RETRY, FAIL),
    FailureKind.GATEWAY: (RETRY, FAIL),
    FailureKind.PROTOCOL: (RETRY, IN_DOUBT),
    FailureKind.MISPLACED: (FAIL, FAIL),
    FailureKind.NO_OPERATION: (FAIL, FAIL),
    FailureKind.UNUSABLE: (FAIL, FAIL),
    FailureKind.NOT_SENT: (RETRY, FAIL),
    FailureKind.UNANSWERED: (RETRY, IN_DOUBT),
}
# The same where the service is not trusted to honour idempotency keys.
NOT_TRUSTED = {**TRUSTED, FailureKind.SERVER: (FAIL, FAIL), FailureKind.GATEWAY: (FAIL, FAIL)} | {
    FailureKind.IN_PROGRESS: (IN_DOUBT, IN_DOUBT),
    FailureKind.PROTOCOL: (IN_DOUBT, IN_DOUBT),
    FailureKind.UNANSWERED: (IN_DOUBT, IN_DOUBT),
}


def decision_for(
    kind: FailureKind, attempts: int, *, in_doubt: bool = False, trusted: bool = True
) -> RetryDecision:
    """Decide as a submit does, with three attempts: a doubtful failure puts it in doubt."""
    return decide_retry(
        kind,
        attempts=attempts,
        max_attempts=3,
        in_doubt=in_doubt or kind in DOUBTFUL,
        resend_unanswered=trusted,
    )


@pytest.mark.parametrize("kind", FailureKind)
def test_the_table_where_keys_are_trusted(kind: FailureKind) -> None:
    """One row for each kind: with attempts left, and with none."""
    assert (decision_for(kind, 1), decision_for(kind, 2), decision_for(kind, 3)) == (
        TRUSTED[kind][0],
        *TRUSTED[kind],
    )


@pytest.mark.parametrize("kind", FailureKind)
def test_the_table_where_keys_are_not_trusted(kind: FailureKind) -> None:
    """Only an attempt that was surely not sent is repeated."""
    assert (decision_for(kind, 1, trusted=False), decision_for(kind, 3, trusted=False)) == NOT_TRUSTED[kind]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FailureKind.BAD_REQUEST, IN_DOUBT),
        (FailureKind.AUTHENTICATION, IN_DOUBT),
        (FailureKind.CREDITS, IN_DOUBT),
        (FailureKind.NOT_FOUND, IN_DOUBT),
        (FailureKind.MISPLACED, IN_DOUBT),
        (FailureKind.CONFLICT, IN_DOUBT),
        (FailureKind.NOT_SENT, IN_DOUBT),
        (FailureKind.SERVER, FAIL),
        (FailureKind.GATEWAY, FAIL),
        (FailureKind.RATE_LIMIT, WAIT),
    ],
)
def test_an_earlier_doubt_stays(kind: FailureKind, expected: RetryDecision) -> None:
    """A clear rejection of the last attempt does not cover the first; the error of a 5xx names the doubt."""
    assert decision_for(kind, 3, in_doubt=True) is expected


COMBINATIONS = list(itertools.product(FailureKind, range(6), range(1, 5), [True, False], [True, False]))


def test_no_retry_after_the_last_attempt() -> None:
    """Whatever went wrong."""
    for kind, attempts, max_attempts, doubt, trusted in COMBINATIONS:
        decision = decide_retry(
            kind, attempts=attempts, max_attempts=max_attempts, in_doubt=doubt, resend_unanswered=trusted
        )
        assert decision is not RETRY or attempts < max_attempts


def test_a_rate_limit_always_waits() -> None:
    """A 429 fails no job; only an attempt in progress under a trusted key waits as well."""
    for kind, attempts, max_attempts, doubt, trusted in COMBINATIONS:
        decision = decide_retry(
            kind, attempts=attempts, max_attempts=max_attempts, in_doubt=doubt, resend_unanswered=trusted
        )
        assert (decision is WAIT) is (
            kind is FailureKind.RATE_LIMIT or (kind is FailureKind.IN_PROGRESS and trusted)
        )


def test_the_wait_for_an_attempt_in_progress_ends() -> None:
    """Once its time is over, its outcome is in doubt."""
    decision = decide_retry(
        FailureKind.IN_PROGRESS,
        attempts=1,
        max_attempts=3,
        in_doubt=True,
        resend_unanswered=True,
        may_wait_for_key=False,
    )
    assert decision is IN_DOUBT


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(FailureKind), min_size=1), st.integers(1, 5), st.booleans())
def test_a_sequence_of_failures_ends_within_its_attempts(
    kinds: list[FailureKind], max_attempts: int, trusted: bool
) -> None:
    """After a doubtful failure a submit is sent again only under a trusted key."""
    attempts, in_doubt, sent = 0, False, []
    for kind in kinds:
        sent.append(kind)
        attempts += kind not in WAITED_FOR
        in_doubt = in_doubt or kind in DOUBTFUL
        decision = decide_retry(
            kind, attempts=attempts, max_attempts=max_attempts, in_doubt=in_doubt, resend_unanswered=trusted
        )
        if decision in (FAIL, IN_DOUBT):
            # A doubt that the service did not resolve stays a doubt, never "no job was made".
            assert decision is IN_DOUBT or not in_doubt or kind in (FailureKind.SERVER, FailureKind.GATEWAY)
            break
    assert len([kind for kind in sent if kind not in WAITED_FOR]) <= max_attempts
    assert trusted or not DOUBTFUL & set(sent[:-1])
