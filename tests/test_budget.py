"""A budget and its tracker: credits reserved, spent and left."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import ConfigurationError
from doitong_async.budget import Budget, BudgetTracker


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


def test_a_tracker_reserves_and_settles() -> None:
    """A running job reserves its highest price; a finished one has spent what it really cost."""
    tracker = BudgetTracker(Budget(100))
    assert tracker.reserve("a", 60)
    assert not tracker.reserve("b", 41)
    assert (tracker.spent, tracker.reserved, tracker.left) == (0, 60, 40)
    tracker.settle("a", 15)
    assert (tracker.spent, tracker.reserved, tracker.left) == (15, 0, 85)
    assert tracker.reserve("b", 85)
    tracker.release("b")
    assert (tracker.spent, tracker.reserved, tracker.left) == (15, 0, 85)


@pytest.mark.parametrize("cost", [None, math.nan, math.inf, -3])
def test_an_unknown_cost_counts_as_the_reserved_price(cost: float | None) -> None:
    """If the service reports no cost, or an impossible one, the highest price counts."""
    tracker = BudgetTracker(Budget(100))
    tracker.reserve("a", 20)
    tracker.settle("a", cost)
    assert (tracker.spent, tracker.left) == (20, 80)


def test_the_reported_cost_counts_even_above_the_reservation() -> None:
    """The budget is then overdrawn, and no further job starts."""
    tracker = BudgetTracker(Budget(20))
    tracker.reserve("a", 20)
    tracker.settle("a", 30)
    assert (tracker.spent, tracker.left) == (30, -10)
    assert not tracker.reserve("b", 0.5)


def test_repeated_calls_count_once() -> None:
    """A second settle, a late release or an unknown item changes nothing."""
    tracker = BudgetTracker(Budget(100))
    tracker.reserve("a", 20)
    tracker.settle("a", 10)
    tracker.settle("a", 10)
    tracker.release("a")
    tracker.settle("never seen", 50)
    tracker.release("never seen")
    assert (tracker.spent, tracker.reserved) == (10, 0)


def test_a_new_reservation_replaces_the_old_one() -> None:
    """A retried item is not reserved twice."""
    tracker = BudgetTracker(Budget(100))
    assert tracker.reserve("a", 60)
    assert tracker.reserve("a", 90)
    assert tracker.reserved == 90
    assert not tracker.reserve("a", 101)
    assert tracker.reserved == 90


def test_credits_in_doubt_are_reserved_whatever_is_left() -> None:
    """They may be spent already. They replace the item's earlier reservation."""
    tracker = BudgetTracker(Budget(100))
    tracker.reserve("a", 60)
    tracker.keep("b", 50)
    assert (tracker.reserved, tracker.left) == (110, -10)
    tracker.keep("b", 40)
    assert (tracker.reserved, tracker.left) == (100, 0)
    tracker.settle("b", None)
    assert (tracker.spent, tracker.reserved) == (40, 60)


def test_credits_in_doubt_may_make_the_budget_low() -> None:
    """They count like any reservation."""
    reported: list[float] = []
    BudgetTracker(Budget(100, on_low=reported.append)).keep("a", 95)
    assert reported == [5]


def test_a_job_may_cost_zero() -> None:
    """A failed job may cost zero, and zero is a known cost."""
    tracker = BudgetTracker(Budget(100))
    tracker.reserve("a", 60)
    tracker.settle("a", 0)
    assert (tracker.spent, tracker.left) == (0, 100)


def test_without_a_budget_everything_is_counted_and_allowed() -> None:
    """There are always credits left."""
    tracker = BudgetTracker(None)
    assert tracker.reserve("a", 1e18)
    tracker.settle("a", 5)
    tracker.carry(7)
    assert (tracker.spent, tracker.reserved, tracker.left) == (12, 0, math.inf)


def test_earlier_runs_reduce_the_budget() -> None:
    """A resumed batch has only the rest of its budget."""
    tracker = BudgetTracker(Budget(100))
    tracker.carry(90)
    assert not tracker.reserve("a", 11)
    assert tracker.reserve("a", 10)


def test_tenths_of_credits_add_up_exactly() -> None:
    """Three times 0.1 fits into 0.3, although floats disagree."""
    tracker = BudgetTracker(Budget(0.3))
    assert all(tracker.reserve(item, 0.1) for item in "abc")
    assert tracker.left == 0


def test_a_low_budget_is_reported_once() -> None:
    """At the chosen share, with the credits left, and not again when they fall further."""
    reported: list[float] = []
    tracker = BudgetTracker(Budget(100, low_at=0.25, on_low=reported.append))
    tracker.reserve("a", 74)
    assert reported == []
    tracker.reserve("b", 1)
    assert reported == [25]
    tracker.release("a")
    tracker.carry(80)
    assert reported == [25]


def test_a_settlement_or_earlier_runs_may_make_the_budget_low() -> None:
    """Not only a reservation can."""
    reported: list[float] = []
    dear = BudgetTracker(Budget(100, on_low=reported.append))
    dear.reserve("a", 50)
    dear.settle("a", 95)
    BudgetTracker(Budget(100, on_low=reported.append)).carry(90)
    assert reported == [5, 10]


def test_a_callback_that_raises_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the tracker continues."""

    def broken(left: float) -> None:
        raise ValueError(left)

    tracker = BudgetTracker(Budget(10, on_low=broken))
    with caplog.at_level(logging.ERROR, logger="doitong_async"):
        assert tracker.reserve("a", 10)
    assert tracker.reserved == 10
    assert "on_low failed at 0 credits left" in caplog.text


items = st.sampled_from("abcdef")
amounts = st.integers(0, 400).map(lambda tenths: tenths / 10)
acts = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), items, amounts),
        st.tuples(st.just("settle"), items, st.none()),
        st.tuples(st.just("release"), items),
    ),
    max_size=40,
)


@given(acts, st.integers(1, 100), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_reservations_never_pass_the_budget(acts: list[Any], credits: int, low_at: float) -> None:  # noqa: A002
    """In any order of calls, at most the budget is reserved and spent, and low is reported once."""
    reported: list[float] = []
    tracker = BudgetTracker(Budget(credits, low_at=low_at, on_low=reported.append))
    kept: dict[str, float] = {}
    was_low = False
    for name, item, *more in acts:
        before = tracker.reserved
        done = getattr(tracker, name)(item, *more)
        if name == "reserve" and done:
            kept[item] = more[0]
        elif name == "reserve":
            assert tracker.reserved == before
        else:
            kept.pop(item, None)
        assert tracker.reserved == pytest.approx(sum(kept.values()))
        assert tracker.spent + tracker.reserved <= credits
        was_low = was_low or (name != "release" and tracker.left <= low_at * credits)
        assert len(reported) == was_low


@given(st.dictionaries(items, st.tuples(amounts, st.none() | amounts), min_size=1), st.data())
def test_the_order_of_ends_does_not_matter(jobs: dict[str, Any], data: st.DataObject) -> None:
    """The same jobs, ended in any order, leave the same credits to the last fraction."""
    orders = [list(jobs), data.draw(st.permutations(list(jobs)))]
    ends = []
    for order in orders:
        tracker = BudgetTracker(Budget(10_000))
        for item in order:
            tracker.reserve(item, jobs[item][0])
        for item in reversed(order):
            tracker.settle(item, jobs[item][1])
        ends.append((tracker.spent, tracker.reserved, tracker.left))
    assert ends[0] == ends[1]
