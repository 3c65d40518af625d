"""The number of jobs in one poll: it shrinks after repeated failures and grows again by trials."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doitong_async.jobs.poll_size import FIRST_TRIAL, LAST_TRIAL, PROOFS, PollSize


def shrunk_to(part: int, *, asked: int = 10) -> PollSize:
    """Return a size that so many split polls have shrunk to this part."""
    size = PollSize(100)
    for number in range(PROOFS):
        assert size.most == 100
        size.went_in_parts(asked, part, asked_at=2.0 * number, now=2.0 * number + 1.0)
    return size


def test_the_size_shrinks_after_several_proofs_in_a_row() -> None:
    """It shrinks to the largest part that went through."""
    assert shrunk_to(5).most == 5
    size = PollSize(100)
    for number, part in enumerate((5, 3, 4)):
        size.went_in_parts(10, part, asked_at=2.0 * number, now=2.0 * number)
    assert size.most == 5


def test_simultaneous_polls_are_one_proof() -> None:
    """One glitch of the service hits all of them."""
    size = PollSize(100)
    for _ in range(10 * PROOFS):
        size.went_in_parts(100, 50, asked_at=2.0, now=2.5)
    assert size.most == 100


def test_a_larger_poll_that_succeeds_cancels_the_proofs() -> None:
    """A poll no larger than the parts cancels nothing."""
    size = PollSize(100)
    for number in range(PROOFS - 1):
        size.went_in_parts(10, 5, asked_at=2.0 * number, now=2.0 * number)
    size.went_whole(5)
    size.went_whole(6)
    size.went_in_parts(10, 5, asked_at=100.0, now=100.0)
    assert size.most == 100
    for number in range(PROOFS - 1):
        size.went_in_parts(10, 5, asked_at=200.0 + number, now=200.0 + number)
        size.went_whole(5)
    assert size.most == 5


def test_polls_of_the_current_size_are_proofs_too() -> None:
    """The size shrinks from its maximum, and again from a smaller one."""
    assert shrunk_to(50, asked=100).most == 50
    size = shrunk_to(5)
    for number in range(PROOFS):
        size.went_in_parts(5, 2, asked_at=100.0 + number, now=100.0 + number)
    assert size.most == 2


def test_the_size_never_shrinks_below_one() -> None:
    """Even if no part goes through."""
    assert shrunk_to(0).most == 1


def test_a_poll_sent_before_the_last_proof_arrived_is_not_a_new_proof() -> None:
    """The same glitch may have hit it."""
    size = PollSize(100)
    for _ in range(10 * PROOFS):
        size.went_in_parts(100, 50, asked_at=2.0, now=2.0)
    assert size.most == 100


def test_cancelled_proofs_must_all_come_again() -> None:
    """The size shrinks only at the last of the new ones."""
    size = PollSize(100)
    for start in (0.0, 100.0):
        size.went_whole(6)
        for number in range(PROOFS - 1):
            size.went_in_parts(10, 5, asked_at=start + number, now=start + number)
        assert size.most == 100
    size.went_in_parts(10, 5, asked_at=200.0, now=200.0)
    assert size.most == 5


def test_the_size_doubles_after_enough_successful_polls() -> None:
    """It doubles again after that; a poll below the current size does not count."""
    size = shrunk_to(5)
    for _ in range(FIRST_TRIAL):
        assert size.most == 5
        size.went_whole(5)
        size.went_whole(4)
    assert size.most == 10
    size.went_whole(10)
    for _ in range(10 * FIRST_TRIAL):
        size.went_whole(size.most)
    assert size.most == 100


def test_a_failed_trial_postpones_the_next_one() -> None:
    """The wait doubles each time, within bounds."""
    size = shrunk_to(5)
    waits = []
    for number in range(8):
        waits.append(0)
        while size.most == 5:
            size.went_whole(5)
            waits[-1] += 1
        size.went_in_parts(10, 5, asked_at=100.0 + number, now=100.0 + number)
        assert size.most == 5
    assert waits == [8, 16, 32, 64, 128, 256, 256, 256]
    assert waits[-1] == LAST_TRIAL


def test_a_split_poll_above_the_current_size_is_ignored() -> None:
    """It belongs to the tick in which a trial failed."""
    size = shrunk_to(5)
    for number in range(PROOFS):
        size.went_in_parts(10, 1, asked_at=50.0 + number, now=50.0 + number)
    assert size.most == 5


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100), st.integers(1, 100))))
def test_the_size_stays_at_least_one_and_always_recovers(history: list[tuple[bool, int, int]]) -> None:
    """After any history, enough successful polls restore the maximum."""
    size = PollSize(100)
    for number, (went_well, asked, part) in enumerate(history):
        if went_well:
            size.went_whole(min(asked, size.most))
        else:
            size.went_in_parts(asked, min(asked, part), asked_at=float(number), now=float(number))
        assert 1 <= size.most <= 100
    for _ in range(10 * LAST_TRIAL):
        size.went_whole(size.most)
    assert size.most == 100
