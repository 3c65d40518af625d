"""A budget and its tracker: credits reserved, spent and left."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import ConfigurationError
from doitong_async.budget import Budget, BudgetTracker, Reservation, as_budget


class CallbackError(BaseException):
    """An exception that a user's callback may raise."""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"credits": 0}, "budget is 0; expected credits"),
        ({"credits": -5}, "budget is -5"),
        ({"credits": math.inf}, "budget is inf"),
        ({"credits": True}, "budget is True"),
        ({"credits": "100"}, "budget is '100'"),
        ({"credits": 1, "low_at": 1}, "low_at is 1; expected a share"),
        ({"credits": 1, "low_at": -0.1}, "low_at is -0.1"),
        ({"credits": 1, "low_at": math.nan}, "low_at is nan"),
        ({"credits": 1, "on_low": 7}, "on_low is 7; expected a function"),
    ],
)
def test_a_budget_is_checked(arguments: dict[str, Any], complaint: str) -> None:
    """An impossible value is an error that names it, before anything is spent."""
    with pytest.raises(ConfigurationError, match=complaint):
        Budget(**arguments)


def test_a_number_of_credits_is_a_budget() -> None:
    """And a budget is one, and none is none."""
    assert as_budget(5) == Budget(5)
    assert as_budget(budget := Budget(5, low_at=0.5)) is budget
    assert as_budget(None) is None


def test_a_tracker_reserves_and_settles() -> None:
    """A running job reserves its highest price; a finished one has spent what it really cost."""
    tracker = BudgetTracker(Budget(100))
    job = tracker.reserve(60)
    assert not tracker.fits(41)
    assert (tracker.spent, tracker.reserved, tracker.left) == (0, 60, 40)
    job.settle(15)
    assert (tracker.spent, tracker.reserved, tracker.left) == (15, 0, 85)
    assert tracker.fits(85)
    tracker.reserve(85).release()
    assert (tracker.spent, tracker.reserved, tracker.left) == (15, 0, 85)


@pytest.mark.parametrize("cost", [None, math.nan, math.inf, -3])
def test_an_unknown_cost_counts_as_the_reserved_price(cost: float | None) -> None:
    """If the service reports no cost, or an impossible one, the highest price counts."""
    tracker = BudgetTracker(Budget(100))
    tracker.reserve(20).settle(cost)
    assert (tracker.spent, tracker.left) == (20, 80)


def test_the_reported_cost_counts_even_above_the_reservation() -> None:
    """The budget is then overdrawn, and no further job starts."""
    tracker = BudgetTracker(Budget(20))
    tracker.reserve(20).settle(30)
    assert (tracker.spent, tracker.left) == (30, -10)
    assert not tracker.fits(0.5)


def test_a_later_cost_corrects_an_earlier_one() -> None:
    """A failed job counts in full until its cost is reported, which may be zero; a release comes too late."""
    tracker = BudgetTracker(Budget(100))
    job = tracker.reserve(60)
    job.settle(None)
    assert (tracker.spent, tracker.left) == (60, 40)
    job.settle(20)
    job.settle(20)
    job.settle(None)
    job.release()
    assert (tracker.spent, tracker.left) == (20, 80)
    job.settle(0)
    assert (tracker.spent, tracker.left) == (0, 100)


def test_a_release_counts_once() -> None:
    """What comes after it changes nothing."""
    tracker = BudgetTracker(Budget(100))
    tracker.reserve(10)
    job = tracker.reserve(20)
    job.release()
    job.release()
    job.settle(5)
    job.keep()
    job.resume()
    assert (tracker.spent, tracker.reserved, len(tracker.in_flight)) == (0, 10, 1)


def test_a_block_releases_its_reservation_whatever_ends_it() -> None:
    """Unless it was settled or handed over in the block."""
    tracker = BudgetTracker(Budget(100))
    with pytest.raises(CallbackError), tracker.reserve(20):
        raise CallbackError
    assert tracker.left == 100
    with tracker.reserve(20) as reservation:
        of_job = reservation.hand_over()
        reservation.settle(1)
    with tracker.reserve(30) as settled:
        settled.settle(30)
    assert (tracker.spent, tracker.reserved) == (30, 20)
    assert tracker.in_flight == {of_job}


def test_credits_in_doubt_stay_reserved_and_are_not_waited_for() -> None:
    """They may be spent already; once the submit is resumed, they may come back again."""
    tracker = BudgetTracker(Budget(100))
    reservation = tracker.reserve(60)
    reservation.keep()
    assert (tracker.reserved, tracker.in_flight) == (60, set())
    reservation.resume()
    assert tracker.in_flight == {reservation}
    reservation.release()
    assert tracker.left == 100


def test_a_job_of_an_earlier_run_counts_only_by_its_correction() -> None:
    """The total of that run has its cost already."""
    tracker = BudgetTracker(Budget(100))
    tracker.carry(50)
    job = tracker.settled(50)
    job.settle(50)
    assert tracker.spent == 50
    job.settle(40)
    assert tracker.spent == 40


def test_an_empty_reservation_counts_nothing() -> None:
    """It stands for a job that no budget knows."""
    tracker = BudgetTracker(None)
    with Reservation() as reservation:
        held = reservation.hand_over()
        tracker.replace(reservation, held)
        held.settle(5)
        held.keep()
        held.resume()
        held.release()
    assert (tracker.spent, tracker.reserved, tracker.in_flight) == (0, 0, set())


def test_without_a_budget_everything_is_counted_and_allowed() -> None:
    """There are always credits left."""
    tracker = BudgetTracker(None)
    assert tracker.fits(1e18)
    tracker.reserve(1e18).settle(5)
    tracker.carry(7)
    assert (tracker.spent, tracker.reserved, tracker.left) == (12, 0, math.inf)
    assert tracker.falls_low() is None


def test_earlier_runs_reduce_the_budget() -> None:
    """A resumed batch has only the rest of its budget."""
    tracker = BudgetTracker(Budget(100))
    tracker.carry(90)
    assert not tracker.fits(11)
    assert tracker.fits(10)


def test_tenths_of_credits_add_up_exactly() -> None:
    """Three times 0.1 fits into 0.3, although floats disagree."""
    tracker = BudgetTracker(Budget(0.3))
    for _ in range(3):
        assert tracker.fits(0.1)
        tracker.reserve(0.1)
    assert tracker.left == 0


def test_a_budget_falls_low_once() -> None:
    """At the chosen share, with the credits left, and not again when they fall further."""
    tracker = BudgetTracker(Budget(100, low_at=0.25))
    job = tracker.reserve(74)
    assert tracker.falls_low() is None
    tracker.reserve(1)
    assert tracker.falls_low() == 25
    assert tracker.falls_low() is None
    job.release()
    tracker.carry(80)
    assert tracker.falls_low() is None


def test_a_settlement_or_earlier_runs_may_make_the_budget_low() -> None:
    """Not only a reservation can."""
    dear, resumed = BudgetTracker(Budget(100)), BudgetTracker(Budget(100))
    dear.reserve(50).settle(95)
    resumed.carry(90)
    assert (dear.falls_low(), resumed.falls_low()) == (5, 10)


def test_the_tracker_says_when_credits_may_have_come_back() -> None:
    """At each settlement and release, and when a doubt leaves nobody to wait for."""
    changes: list[float] = []
    tracker = BudgetTracker(Budget(100), lambda: changes.append(tracker.left))
    jobs = [tracker.reserve(20) for _ in range(3)]
    jobs[0].settle(5)
    jobs[0].settle(5)
    jobs[1].release()
    jobs[2].keep()
    assert changes == [55, 75, 75]


amounts = st.integers(0, 400).map(lambda tenths: tenths / 10)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts),
        st.tuples(st.just("settle"), st.integers(0, 9), st.none() | amounts),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("keep"), st.integers(0, 9)),
        st.tuples(st.just("hand_over"), st.integers(0, 9)),
    ),
    max_size=40,
)


@given(acts, st.integers(1, 100))
def test_whatever_happens_each_job_counts_once(acts: list[Any], credits: int) -> None:  # noqa: A002
    """In any order of calls: reserved until it is settled or released, spent at its last known cost."""
    tracker = BudgetTracker(Budget(credits))
    jobs: list[Reservation] = []
    reserved: list[float | None] = []
    spent: list[float | None] = []
    for name, first, *more in acts:
        if name == "reserve":
            if tracker.fits(first):
                jobs.append(tracker.reserve(first))
                reserved.append(first)
                spent.append(None)
                assert tracker.left >= 0
            continue
        if first >= len(jobs):
            continue
        if name == "hand_over":
            jobs[first] = jobs[first].hand_over()
            continue
        getattr(jobs[first], name)(*more)
        held, booked = reserved[first], spent[first]
        if name == "settle" and (held is not None or booked is not None):
            spent[first] = more[0] if more[0] is not None else booked if booked is not None else held
            reserved[first] = None
        elif name == "release" and held is not None:
            reserved[first] = None
    assert tracker.reserved == pytest.approx(sum(each for each in reserved if each is not None))
    assert tracker.spent == pytest.approx(sum(each for each in spent if each is not None))


@given(st.lists(st.tuples(amounts, st.none() | amounts), min_size=1, max_size=6), st.data())
def test_the_order_of_ends_does_not_matter(jobs: list[Any], data: st.DataObject) -> None:
    """The same jobs, ended in any order, leave the same credits to the last fraction."""
    ends = []
    for order in (range(len(jobs)), data.draw(st.permutations(range(len(jobs))))):
        tracker = BudgetTracker(Budget(10_000))
        reservations = [tracker.reserve(most) for most, _ in jobs]
        for number in order:
            reservations[number].settle(jobs[number][1])
        ends.append((tracker.spent, tracker.reserved, tracker.left))
    assert ends[0] == ends[1]
