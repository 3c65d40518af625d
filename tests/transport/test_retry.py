"""Whether a submit is sent again: the table, and what holds for every run of failures."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.transport.refusal import Kind
from doitong_async.transport.retry import DOUBTFUL, Verdict, judge

WAITED_FOR = (Kind.RATE_LIMIT, Kind.IN_PROGRESS)
AGAIN, WAIT, FAIL, IN_DOUBT = Verdict.AGAIN, Verdict.WAIT, Verdict.FAIL, Verdict.IN_DOUBT

# What went wrong → the verdict with tries left, then with none left; nothing was in doubt before.
TRUSTED = {
    Kind.BAD_REQUEST: (FAIL, FAIL),
    Kind.AUTHENTICATION: (FAIL, FAIL),
    Kind.CREDITS: (FAIL, FAIL),
    Kind.RATE_LIMIT: (WAIT, WAIT),
    Kind.NOT_FOUND: (FAIL, FAIL),
    Kind.CONFLICT: (IN_DOUBT, IN_DOUBT),
    Kind.IN_PROGRESS: (WAIT, WAIT),
    Kind.SERVER: (AGAIN, FAIL),
    Kind.GATEWAY: (AGAIN, FAIL),
    Kind.PROTOCOL: (AGAIN, IN_DOUBT),
    Kind.MISPLACED: (FAIL, FAIL),
    Kind.NO_OPERATION: (FAIL, FAIL),
    Kind.UNUSABLE: (FAIL, FAIL),
    Kind.NOT_SENT: (AGAIN, FAIL),
    Kind.UNANSWERED: (AGAIN, IN_DOUBT),
}
# The same where the service is not trusted to honour idempotency keys.
NOT_TRUSTED = {**TRUSTED, Kind.SERVER: (FAIL, FAIL), Kind.GATEWAY: (FAIL, FAIL)} | {
    Kind.IN_PROGRESS: (IN_DOUBT, IN_DOUBT),
    Kind.PROTOCOL: (IN_DOUBT, IN_DOUBT),
    Kind.UNANSWERED: (IN_DOUBT, IN_DOUBT),
}


def verdict_of(kind: Kind, tries: int, *, in_doubt: bool = False, trusted: bool = True) -> Verdict:
    """Judge as a submit does, with three tries: what is doubtful itself is in doubt."""
    return judge(
        kind, tries=tries, max_tries=3, in_doubt=in_doubt or kind in DOUBTFUL, resend_unanswered=trusted
    )


@pytest.mark.parametrize("kind", Kind)
def test_the_table(kind: Kind) -> None:
    """One row a kind: while there are tries left, and when they are spent."""
    assert (verdict_of(kind, 1), verdict_of(kind, 2), verdict_of(kind, 3)) == (
        TRUSTED[kind][0],
        *TRUSTED[kind],
    )


@pytest.mark.parametrize("kind", Kind)
def test_the_table_where_keys_are_not_trusted(kind: Kind) -> None:
    """Only what surely was not sent is sent again."""
    assert (verdict_of(kind, 1, trusted=False), verdict_of(kind, 3, trusted=False)) == NOT_TRUSTED[kind]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.BAD_REQUEST, IN_DOUBT),
        (Kind.AUTHENTICATION, IN_DOUBT),
        (Kind.CREDITS, IN_DOUBT),
        (Kind.NOT_FOUND, IN_DOUBT),
        (Kind.MISPLACED, IN_DOUBT),
        (Kind.CONFLICT, IN_DOUBT),
        (Kind.NOT_SENT, IN_DOUBT),
        (Kind.SERVER, FAIL),
        (Kind.GATEWAY, FAIL),
        (Kind.RATE_LIMIT, WAIT),
    ],
)
def test_an_earlier_doubt_stays(kind: Kind, expected: Verdict) -> None:
    """A clear refusal of the last try says nothing of the first; a 5xx says the doubt in its own error."""
    assert verdict_of(kind, 3, in_doubt=True) is expected


everything = list(itertools.product(Kind, range(6), range(1, 5), [True, False], [True, False]))


def test_never_again_past_the_greatest_number_of_tries() -> None:
    """Whatever went wrong."""
    for kind, tries, most, doubt, trusted in everything:
        verdict = judge(kind, tries=tries, max_tries=most, in_doubt=doubt, resend_unanswered=trusted)
        assert verdict is not AGAIN or tries < most


def test_a_rate_limit_is_always_waited_for() -> None:
    """A 429 fails no job; beside it only an attempt in progress under a trusted key is waited for."""
    for kind, tries, most, doubt, trusted in everything:
        verdict = judge(kind, tries=tries, max_tries=most, in_doubt=doubt, resend_unanswered=trusted)
        assert (verdict is WAIT) is (kind is Kind.RATE_LIMIT or (kind is Kind.IN_PROGRESS and trusted))


def test_an_attempt_in_progress_is_not_waited_for_without_end() -> None:
    """Once its time is over, what it made is in doubt."""
    verdict = judge(
        Kind.IN_PROGRESS,
        tries=1,
        max_tries=3,
        in_doubt=True,
        resend_unanswered=True,
        may_wait_for_key=False,
    )
    assert verdict is IN_DOUBT


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(Kind), min_size=1), st.integers(1, 5), st.booleans())
def test_a_run_of_failures(kinds: list[Kind], max_tries: int, trusted: bool) -> None:
    """A submit ends within its tries; after a doubtful failure it is sent again only under a trusted key."""
    tries, in_doubt, sent = 0, False, []
    for kind in kinds:
        sent.append(kind)
        tries += kind not in WAITED_FOR
        in_doubt = in_doubt or kind in DOUBTFUL
        verdict = judge(kind, tries=tries, max_tries=max_tries, in_doubt=in_doubt, resend_unanswered=trusted)
        if verdict in (FAIL, IN_DOUBT):
            # What is in doubt and was not explained by the service ends as that, never as "no job was made".
            assert verdict is IN_DOUBT or not in_doubt or kind in (Kind.SERVER, Kind.GATEWAY)
            break
    assert len([kind for kind in sent if kind not in WAITED_FOR]) <= max_tries
    assert trusted or not DOUBTFUL & set(sent[:-1])
