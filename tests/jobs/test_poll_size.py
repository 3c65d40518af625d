"""How many jobs a poll asks for: proofs, one for each moment, and trials, each later than the one before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doitong_async.jobs.poll_size import FIRST_TRIAL, LAST_TRIAL, PROOFS, PollSize


def believing(part: int, *, asked: int = 10) -> PollSize:
    """Return a size after so many polls that came in parts."""
    size = PollSize(100)
    for number in range(PROOFS):
        assert size.most == 100
        size.went_in_parts(asked, part, asked_at=2.0 * number, now=2.0 * number + 1.0)
    return size


def test_less_is_asked_for_after_several_proofs_in_a_row() -> None:
    """The greatest part that went through is what is believed."""
    assert believing(5).most == 5
    size = PollSize(100)
    for number, part in enumerate((5, 3, 4)):
        size.went_in_parts(10, part, asked_at=2.0 * number, now=2.0 * number)
    assert size.most == 5


def test_polls_of_one_moment_are_one_proof() -> None:
    """A slip meets all of them."""
    size = PollSize(100)
    for _ in range(10 * PROOFS):
        size.went_in_parts(100, 50, asked_at=2.0, now=2.5)
    assert size.most == 100


def test_a_poll_of_more_that_goes_well_is_a_proof_against() -> None:
    """One of no more than the parts is none."""
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


def test_polls_of_the_usual_size_are_proofs_too() -> None:
    """Nothing smaller had to be asked for before."""
    assert believing(50, asked=100).most == 50
    size = believing(5)
    for number in range(PROOFS):
        size.went_in_parts(5, 2, asked_at=100.0 + number, now=100.0 + number)
    assert size.most == 2


def test_parts_in_which_nothing_came_leave_one_job_to_ask_for() -> None:
    """Less cannot be asked for."""
    assert believing(0).most == 1


def test_a_poll_that_was_sent_when_the_last_proof_came_is_no_new_one() -> None:
    """It may have met the same slip."""
    size = PollSize(100)
    for _ in range(10 * PROOFS):
        size.went_in_parts(100, 50, asked_at=2.0, now=2.0)
    assert size.most == 100


def test_after_a_proof_against_it_takes_all_proofs_again() -> None:
    """Not one less."""
    size = PollSize(100)
    for start in (0.0, 100.0):
        size.went_whole(6)
        for number in range(PROOFS - 1):
            size.went_in_parts(10, 5, asked_at=start + number, now=start + number)
        assert size.most == 100
    size.went_in_parts(10, 5, asked_at=200.0, now=200.0)
    assert size.most == 5


def test_twice_as_many_are_tried_after_some_that_went_well() -> None:
    """And again; one that asked for less tells nothing of them."""
    size = believing(5)
    for _ in range(FIRST_TRIAL):
        assert size.most == 5
        size.went_whole(5)
        size.went_whole(4)
    assert size.most == 10
    size.went_whole(10)
    for _ in range(10 * FIRST_TRIAL):
        size.went_whole(size.most)
    assert size.most == 100


def test_a_trial_that_fails_is_over_and_the_next_one_comes_later() -> None:
    """Twice as late each time, within bounds."""
    size = believing(5)
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


def test_an_answer_to_a_question_that_is_asked_no_more_tells_nothing() -> None:
    """As of the other polls of the tick in which a trial failed."""
    size = believing(5)
    for number in range(PROOFS):
        size.went_in_parts(10, 1, asked_at=50.0 + number, now=50.0 + number)
    assert size.most == 5


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100), st.integers(1, 100))))
def test_it_asks_for_one_at_least_and_recovers_from_anything(story: list[tuple[bool, int, int]]) -> None:
    """Whatever the answers were, polls that go well bring it back to the whole."""
    size = PollSize(100)
    for number, (went_well, asked, part) in enumerate(story):
        if went_well:
            size.went_whole(min(asked, size.most))
        else:
            size.went_in_parts(asked, min(asked, part), asked_at=float(number), now=float(number))
        assert 1 <= size.most <= 100
    for _ in range(10 * LAST_TRIAL):
        size.went_whole(size.most)
    assert size.most == 100
