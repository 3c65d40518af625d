"""The lifecycle of a job: it ends the same whatever the order of its updates."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.jobs.lifecycle import is_settled, leaves_open, merge, reason_of
from doitong_async.types import Generation, JobStatus

TERMINAL = [status for status in JobStatus if status.is_terminal]
WAITING = [*(status for status in JobStatus if not status.is_terminal), JobStatus("upscaling")]

urls = st.none() | st.sampled_from(["https://cdn.example/a", "https://cdn.example/b"])
texts = st.none() | st.sampled_from(["x", "y"])


def snapshots_of(*statuses: JobStatus) -> st.SearchStrategy[Generation]:
    """Draw an update of one job in one of these statuses."""
    return st.builds(
        Generation,
        id=st.just("abc"),
        status=st.sampled_from(statuses),
        url=urls,
        type=texts,
        provider=texts,
        metadata=texts,
        credit_cost=st.none() | st.integers(0, 50),
        created_at=st.none() | st.just(datetime(2024, 1, 1, tzinfo=UTC)),
        extra=st.dictionaries(st.sampled_from(["width", "completedAt"]), texts),
    )


waiting = snapshots_of(*WAITING)
terminal = snapshots_of(*TERMINAL)
snapshots = waiting | terminal


def merged(updates: list[Generation]) -> Generation:
    """Merge the updates in order, starting from a job just submitted."""
    return reduce(merge, updates, Generation(id="abc", status=JobStatus.PROCESSING))


def snapshot(status: str, url: str | None = None, credit_cost: int | None = None) -> Generation:
    """Return one snapshot."""
    return Generation(id="abc", status=JobStatus(status), url=url, credit_cost=credit_cost)


@settings(deadline=None, max_examples=100)
@given(terminal, st.lists(snapshots, max_size=8))
def test_a_terminal_status_is_sticky(end: Generation, updates: list[Generation]) -> None:
    """No late, repeated or contradicting update changes it or its URL."""
    after = reduce(merge, updates, end)
    assert after.status is end.status
    assert end.url is None or after.url == end.url


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.lists(waiting, max_size=5), terminal.filter(lambda end: end.url is not None), st.data())
def test_the_end_is_the_same_in_any_order(
    updates: list[Generation], end: Generation, data: st.DataObject
) -> None:
    """One terminal snapshot decides status and URL, in any order and however often each update arrives."""
    again = data.draw(st.lists(st.sampled_from([*updates, end]), max_size=5))
    order = data.draw(st.permutations([*updates, end, *again]))
    assert (merged(order).status, merged(order).url) == (end.status, end.url)


@settings(deadline=None, max_examples=100)
@given(st.lists(waiting.map(lambda update: dataclasses.replace(update, url=None)), max_size=4), st.data())
def test_the_url_may_come_before_or_after_completed(updates: list[Generation], data: st.DataObject) -> None:
    """`completed` arrives with and without a URL, in any order: the URL is kept."""
    both = [snapshot("completed"), snapshot("completed", "https://cdn.example/a")]
    last = merged(data.draw(st.permutations([*updates, *both])))
    assert (last.status, last.url) == (JobStatus.COMPLETED, "https://cdn.example/a")
    assert is_settled(last)


@settings(deadline=None, max_examples=100)
@given(snapshots, snapshots)
def test_a_repeated_update_changes_nothing(last: Generation, update: Generation) -> None:
    """Merging returns the very same object, so nobody is woken."""
    assert merge(last, last) is last
    after = merge(last, update)
    assert merge(after, after) is after
    assert merge(after, update) is after


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(snapshots, min_size=1, max_size=8))
def test_a_later_update_erases_nothing(updates: list[Generation]) -> None:
    """An answer that omits a value or sends null does not undo it; above all not the cost."""
    after = merged(updates)
    for name in ("credit_cost", "metadata", "created_at", "type", "provider", "url"):
        ever = [value for each in updates if (value := getattr(each, name)) is not None]
        assert getattr(after, name) in ever or (not ever and getattr(after, name) is None)


def test_the_latest_cost_counts() -> None:
    """The cost is estimated first and settled at the end; zero is a valid cost."""
    assert (
        merged([snapshot("processing", credit_cost=20), snapshot("failed", credit_cost=0)]).credit_cost == 0
    )
    assert merged([snapshot("completed", "u", credit_cost=20), snapshot("processing")]).credit_cost == 20


def test_an_update_without_changes_builds_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most polls change nothing; a snapshot for each would double what a poll costs."""
    last = complete(status=JobStatus.RUNNING)
    unchanged = [
        Generation(id="abc", status=JobStatus.RUNNING),
        Generation(id="abc", status=JobStatus.RUNNING, url="u", metadata={"seed": 7}, credit_cost=20),
        Generation(id="abc", status=JobStatus.RUNNING, type="VIDEO", provider="kling"),
    ]
    monkeypatch.setattr(dataclasses, "replace", None)
    assert all(merge(last, update) is last for update in [*unchanged, last])
    with pytest.raises(TypeError):
        merge(last, snapshot("completed"))


@pytest.mark.parametrize("name", ["url", "type", "provider", "metadata", "credit_cost", "created_at"])
def test_a_single_new_value_is_taken(name: str) -> None:
    """Whatever else the update omits or repeats."""
    value = getattr(complete(), name)
    only: Any = {name: value}
    all_others: Any = {name: None}
    bare = Generation(id="abc", status=JobStatus.RUNNING)
    assert getattr(merge(bare, dataclasses.replace(bare, **only)), name) == value
    assert merge(dataclasses.replace(complete(), **all_others), complete()) == complete()


def complete(status: JobStatus = JobStatus.RUNNING) -> Generation:
    """Return a snapshot with every field set."""
    return Generation(
        id="abc",
        status=status,
        url="u",
        type="IMAGE",
        provider="flux-pro",
        metadata={"seed": 7},
        credit_cost=20,
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("status", "url", "expected"),
    [("completed", None, True), ("completed", "u", False), ("running", None, False), ("failed", None, False)],
)
def test_only_a_completed_job_without_a_url_is_left_open(
    status: str, url: str | None, expected: bool
) -> None:
    """The next poll decides; an end with a URL and a failure need none."""
    assert leaves_open(snapshot(status, url)) is expected


def test_the_status_of_an_unfinished_job_may_change_to_any_other() -> None:
    """An unknown status is taken as well, and may change back."""
    for status in ("queued", "upscaling", "running"):
        assert merged([snapshot("pending"), snapshot(status)]).status == status


def test_the_url_of_an_unfinished_job_may_change() -> None:
    """A preview is not the output; null does not remove it."""
    assert (
        merged([snapshot("running", "preview"), snapshot("running", "better"), snapshot("running")]).url
        == "better"
    )
    assert merged([snapshot("running", "preview"), snapshot("completed", "whole")]).url == "whole"


@pytest.mark.parametrize("url", [None, "https://cdn.example/a"])
@pytest.mark.parametrize("status", [*JobStatus, JobStatus("upscaling")])
def test_a_job_is_settled_by_a_failure_or_a_url(status: JobStatus, url: str | None) -> None:
    """A completed job without a URL is not settled."""
    settled = status in TERMINAL and (status is not JobStatus.COMPLETED or url is not None)
    assert is_settled(snapshot(status.value, url)) is settled


def with_extra(**extra: Any) -> Generation:
    """Return a snapshot of a running job with fields that have no attribute."""
    return Generation(id="abc", status=JobStatus.PROCESSING, extra=extra)


def test_fields_without_an_attribute_are_collected() -> None:
    """Each update adds its own; a null takes nothing away, and no update changes the one before it."""
    first = with_extra(width=512, duration=None)
    both = merge(first, with_extra(width=None, completedAt="2024", height=None))
    assert both.extra == {"width": 512, "duration": None, "completedAt": "2024", "height": None}
    assert first.extra == {"width": 512, "duration": None}
    assert merge(both, with_extra()) is both
    assert merge(both, with_extra(width=1024)).extra["width"] == 1024


@pytest.mark.parametrize(
    ("extra", "metadata", "reason"),
    [
        ({}, None, None),
        ({"error": "too spicy"}, None, "too spicy"),
        ({"errorMessage": "too spicy", "width": 5}, {"reason": "other"}, "too spicy"),
        ({"failure_reason": {"code": "E1", "message": "too spicy"}}, None, "too spicy"),
        ({"error": {"code": "E1"}}, None, "{'code': 'E1'}"),
        ({"errors": [{"message": "too spicy"}, {"message": "too long"}]}, None, "too spicy; too long"),
        ({"reason": None, "width": 5}, {"reason": "too spicy", "seed": 7}, "too spicy"),
        ({"width": 5}, {"seed": 7}, "{'seed': 7}"),
        ({}, "too spicy", "too spicy"),
        ({"error": True, "details": {}, "cause": False, "failure": [], "message": ""}, None, None),
        ({"error": "too spicy", "message": "too\n spicy"}, None, "too spicy"),
        ({"error": 17}, None, "17"),
        ({"width": 5}, {}, None),
    ],
)
def test_the_reason_of_a_failure_is_found_wherever_it_is(
    extra: dict[str, Any], metadata: Any, reason: str | None
) -> None:
    """Under the usual names, beside the status before the metadata; else all of the metadata."""
    failed = Generation(id="abc", status=JobStatus("failed"), metadata=metadata, extra=extra)
    assert reason_of(failed) == reason


def test_a_reason_however_deep_is_no_error() -> None:
    """The service may nest as deep as its answers can be read; the error of the job must come out."""
    nested: Any = "too spicy"
    for _ in range(250):
        nested = {"error": nested}
    reason = reason_of(Generation(id="abc", status=JobStatus("failed"), extra=nested))
    assert reason is not None
    assert reason.startswith("{'error': ")


def test_a_late_update_says_nothing_new_of_what_the_end_said() -> None:
    """It is older than the end, whenever it arrives; it may still add a field."""
    end = Generation(
        id="abc",
        status=JobStatus("failed"),
        metadata="final",
        credit_cost=10,
        extra={"message": "too spicy", "seed": None},
    )
    late = Generation(
        id="abc",
        status=JobStatus.PROCESSING,
        metadata="at first",
        credit_cost=20,
        extra={"message": "rendering", "seed": 7, "width": 5},
    )
    after = merge(end, late)
    assert (after.metadata, after.credit_cost) == ("final", 10)
    assert after.extra == {"message": "too spicy", "seed": 7, "width": 5}
    assert merge(after, late) is after
    assert merge(late, end).extra == after.extra


def test_a_repeated_nan_changes_nothing() -> None:
    """It equals nothing, not even itself: each poll would wake everybody."""
    first, second = (
        Generation(id="abc", status=JobStatus.PROCESSING, metadata={"a": nan}, extra={"b": [nan]})
        for nan in (float("nan"), float("nan"))
    )
    assert merge(first, second) is first
