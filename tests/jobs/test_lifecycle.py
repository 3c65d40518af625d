"""The lifecycle of a job: the same end for every order of its updates."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.jobs.lifecycle import is_settled, leaves_open, merge
from doitong_async.types import Generation, JobStatus

TERMINAL = [status for status in JobStatus if status.is_terminal]
WAITING = [*(status for status in JobStatus if not status.is_terminal), JobStatus("upscaling")]

urls = st.none() | st.sampled_from(["https://cdn.example/a", "https://cdn.example/b"])
scraps = st.none() | st.sampled_from(["x", "y"])


def snapshots_of(*statuses: JobStatus) -> st.SearchStrategy[Generation]:
    """Draw an update of one job in one of these statuses."""
    return st.builds(
        Generation,
        id=st.just("abc"),
        status=st.sampled_from(statuses),
        url=urls,
        type=scraps,
        provider=scraps,
        metadata=scraps,
        credit_cost=st.none() | st.integers(0, 50),
        created_at=st.none() | st.just(datetime(2024, 1, 1, tzinfo=UTC)),
    )


waiting = snapshots_of(*WAITING)
terminal = snapshots_of(*TERMINAL)
anything = waiting | terminal


def told(update: list[Generation]) -> Generation:
    """Merge the updates in order, beginning with a job just submitted."""
    return reduce(merge, update, Generation(id="abc", status=JobStatus.PROCESSING))


def seen(status: str, url: str | None = None, credit_cost: int | None = None) -> Generation:
    """Return one snapshot."""
    return Generation(id="abc", status=JobStatus(status), url=url, credit_cost=credit_cost)


@settings(deadline=None, max_examples=100)
@given(terminal, st.lists(anything, max_size=8))
def test_a_terminal_status_stays(end: Generation, update: list[Generation]) -> None:
    """No late, repeated or contradicting update changes it or its URL."""
    after = reduce(merge, update, end)
    assert after.status is end.status
    assert end.url is None or after.url == end.url


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.lists(waiting, max_size=5), terminal.filter(lambda end: end.url is not None), st.data())
def test_the_end_is_the_same_in_any_order(
    update: list[Generation], end: Generation, data: st.DataObject
) -> None:
    """One terminal snapshot with a URL among others: status and URL end as it says, in any number."""
    again = data.draw(st.lists(st.sampled_from([*update, end]), max_size=5))
    order = data.draw(st.permutations([*update, end, *again]))
    assert (told(order).status, told(order).url) == (end.status, end.url)


@settings(deadline=None, max_examples=100)
@given(st.lists(waiting.map(lambda update: dataclasses.replace(update, url=None)), max_size=4), st.data())
def test_an_end_may_come_before_its_url(update: list[Generation], data: st.DataObject) -> None:
    """`completed` without a URL and with one, in any order: the URL is known in the end."""
    both = [seen("completed"), seen("completed", "https://cdn.example/a")]
    last = told(data.draw(st.permutations([*update, *both])))
    assert (last.status, last.url) == (JobStatus.COMPLETED, "https://cdn.example/a")
    assert is_settled(last)


@settings(deadline=None, max_examples=100)
@given(anything, anything)
def test_the_same_news_twice_change_nothing(last: Generation, update: Generation) -> None:
    """It is the very same object, so that it wakes nobody."""
    assert merge(last, last) is last
    after = merge(last, update)
    assert merge(after, after) is after
    assert merge(after, update) is after


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(anything, min_size=1, max_size=8))
def test_what_was_known_is_not_forgotten(update: list[Generation]) -> None:
    """Above all the cost: a later answer that leaves it out, or sends null, does not undo it."""
    after = told(update)
    for name in ("credit_cost", "metadata", "created_at", "type", "provider", "url"):
        ever = [value for snapshot in update if (value := getattr(snapshot, name)) is not None]
        assert getattr(after, name) in ever or (not ever and getattr(after, name) is None)


def test_the_latest_cost_counts() -> None:
    """It is estimated first and settled at the end; zero is a cost."""
    assert told([seen("processing", credit_cost=20), seen("failed", credit_cost=0)]).credit_cost == 0
    assert told([seen("completed", "u", credit_cost=20), seen("processing")]).credit_cost == 20


def test_an_update_that_brings_nothing_new_builds_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most polls do: a snapshot for each would double what a poll costs. One with something new does."""
    last = whole(status=JobStatus.RUNNING)
    news = [
        Generation(id="abc", status=JobStatus.RUNNING),
        Generation(id="abc", status=JobStatus.RUNNING, url="u", metadata={"seed": 7}, credit_cost=20),
        Generation(id="abc", status=JobStatus.RUNNING, type="VIDEO", provider="kling"),
    ]
    monkeypatch.setattr(dataclasses, "replace", None)
    assert all(merge(last, update) is last for update in [*news, last])
    with pytest.raises(TypeError):
        merge(last, seen("completed"))


@pytest.mark.parametrize("name", ["url", "type", "provider", "metadata", "credit_cost", "created_at"])
def test_one_fact_that_is_new_is_taken(name: str) -> None:
    """Whatever else the update leaves out or repeats."""
    fact = getattr(whole(), name)
    only: Any = {name: fact}
    all_others: Any = {name: None}
    bare = Generation(id="abc", status=JobStatus.RUNNING)
    assert getattr(merge(bare, dataclasses.replace(bare, **only)), name) == fact
    assert merge(dataclasses.replace(whole(), **all_others), whole()) == whole()


def whole(status: JobStatus = JobStatus.RUNNING) -> Generation:
    """Return a snapshot of which every field is known."""
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
def test_a_completed_job_whose_output_is_not_named_is_left_open(
    status: str, url: str | None, expected: bool
) -> None:
    """The next poll decides; an end with a URL and a failure are decided."""
    assert leaves_open(seen(status, url)) is expected


def test_words_follow_each_other_while_it_waits() -> None:
    """Also one that is not known here, and back again."""
    for word in ("queued", "upscaling", "running"):
        assert told([seen("pending"), seen(word)]).status == word


def test_the_url_of_a_job_that_waits_may_change() -> None:
    """A preview is no output yet; null does not take it away."""
    assert told([seen("running", "preview"), seen("running", "better"), seen("running")]).url == "better"
    assert told([seen("running", "preview"), seen("completed", "whole")]).url == "whole"


@pytest.mark.parametrize("url", [None, "https://cdn.example/a"])
@pytest.mark.parametrize("status", [*JobStatus, JobStatus("upscaling")])
def test_when_there_is_nothing_left_to_wait_for(status: JobStatus, url: str | None) -> None:
    """A failure, or an output that can be fetched; not a completed job without a URL."""
    settled = status in TERMINAL and (status is not JobStatus.COMPLETED or url is not None)
    assert is_settled(seen(status.value, url)) is settled
