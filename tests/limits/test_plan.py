"""What a plan allows: the documented table, and shares of it."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.errors import ConfigurationError
from doitong_async.limits.plan import Plan


@pytest.mark.parametrize(
    ("plan", "name", "row"),
    [
        (Plan.FREE, "free", (10, 1, 100)),
        (Plan.STARTER, "starter", (30, 3, 1_000)),
        (Plan.PRO, "pro", (60, 10, 10_000)),
    ],
)
def test_the_documented_table(plan: Plan, name: str, row: tuple[int, int, int]) -> None:
    """It lists requests per minute, concurrent jobs and jobs per day; names match in any case."""
    assert dataclasses.astuple(plan) == (name, *row)
    assert Plan.named(f" {name.title()} ") is plan


@pytest.mark.parametrize("name", ["gold", "", "enterprise"])
def test_an_unknown_plan_name_is_rejected(name: str) -> None:
    """The error lists the known names."""
    with pytest.raises(ConfigurationError, match=r"expected one of free, starter, pro, or Plan\.enterprise"):
        Plan.named(name)


def test_an_enterprise_plan_takes_its_limits_as_arguments() -> None:
    """They are agreed on individually; a day without a number has no limit."""
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=100)
    assert dataclasses.astuple(plan) == ("enterprise", 600, 100, None)
    assert Plan.enterprise(requests_per_minute=1, concurrent_jobs=1, jobs_per_day=5).jobs_per_day == 5


@pytest.mark.parametrize("field", ["requests_per_minute", "concurrent_jobs", "jobs_per_day"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "10", float("inf")])
def test_a_limit_must_be_a_whole_number_above_zero(field: str, value: object) -> None:
    """The error names the limit and the value."""
    limits: dict[str, Any] = {"requests_per_minute": 1, "concurrent_jobs": 1, field: value}
    with pytest.raises(ConfigurationError, match=f"{field} is {value!r}; expected a whole number above zero"):
        Plan.enterprise(**limits)


@pytest.mark.parametrize("field", ["requests_per_minute", "concurrent_jobs"])
def test_only_a_day_may_have_no_limit(field: str) -> None:
    """The client cannot work without the other two."""
    limits: dict[str, Any] = {"requests_per_minute": 1, "concurrent_jobs": 1, field: None}
    with pytest.raises(ConfigurationError, match=f"{field} is None"):
        Plan.enterprise(**limits)


limits = st.integers(1, 1_000)


@settings(deadline=None, max_examples=100)
@given(limits, limits, st.none() | limits, st.integers(1, 50))
def test_shares_stay_within_the_plan(minute: int, at_once: int, day: int | None, workers: int) -> None:
    """All shares together fit; sharing fails only if some worker would get nothing."""
    plan = Plan("mine", minute, at_once, day)
    too_narrow = min(minute, at_once, day or minute) < workers
    if too_narrow:
        with pytest.raises(ConfigurationError, match=f"cannot be shared by {workers} workers"):
            plan.share(workers)
        return
    share = plan.share(workers)
    assert share.name == "mine"
    assert 0 < share.requests_per_minute * workers <= minute
    assert 0 < share.concurrent_jobs * workers <= at_once
    assert (share.jobs_per_day is None) is (day is None)
    assert (share.jobs_per_day or 0) * workers <= (day or 0)


def test_a_failed_share_names_all_limits() -> None:
    """The limit of the day too, which is the one that is too narrow here."""
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=100, jobs_per_day=5)
    with pytest.raises(ConfigurationError, match=r"100 jobs at once, 600 requests a minute and 5 jobs a day"):
        plan.share(6)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2", None])
def test_the_number_of_workers_must_be_whole_and_positive(workers: Any) -> None:
    """Nothing else can divide a plan."""
    with pytest.raises(ConfigurationError, match="expected a whole number of workers above zero"):
        Plan.PRO.share(workers)


def test_a_plan_is_a_value() -> None:
    """It is frozen, equal by its limits, and can be pickled."""
    assert pickle.loads(pickle.dumps(Plan.PRO)) == Plan.PRO == Plan.PRO.share(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plan.PRO.concurrent_jobs = 11  # type: ignore[misc]
