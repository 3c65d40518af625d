"""The backoff after a 429 about concurrent jobs, step by step."""

from __future__ import annotations

from doitong_async.limits.concurrency import ConcurrencyBackoff


def test_the_hold_doubles_with_each_rejection_up_to_a_minute() -> None:
    """Without Retry-After; a second 429 during a hold belongs to the same rejection."""
    backoff = ConcurrencyBackoff(0.0)
    now = 0.0
    for seconds in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        backoff.rejected(now, None, 0.0)
        backoff.rejected(now, None, 0.0)
        assert backoff.blocks(now + seconds - 0.1)
        assert not backoff.blocks(now + seconds)
        assert backoff.held_until == now + seconds
        now += seconds


def test_retry_after_sets_the_hold_plus_jitter() -> None:
    """A shorter one never shortens a longer hold."""
    backoff = ConcurrencyBackoff(0.0)
    backoff.rejected(0.0, 30.0, 0.5)
    backoff.rejected(0.0, 2.0, 0.0)
    assert backoff.held_until == 30.5


def test_each_job_that_ends_lets_one_submit_through_the_hold() -> None:
    """A job that ended before the 429 does not count."""
    backoff = ConcurrencyBackoff(0.0)
    backoff.job_ended()
    backoff.rejected(0.0, 30.0, 0.0)
    assert backoff.blocks(1.0)
    backoff.job_ended()
    assert not backoff.blocks(1.0)
    backoff.submit_sent(1.0)
    assert backoff.blocks(1.0)
    for _ in range(2):
        backoff.job_ended()
    backoff.submit_sent(2.0)
    assert not backoff.blocks(2.0)
    backoff.submit_sent(2.0)
    assert backoff.blocks(2.0)


def test_submits_in_flight_are_counted() -> None:
    """A submit counts from its sending to its answer."""
    backoff = ConcurrencyBackoff(0.0)
    for _ in range(3):
        backoff.submit_sent(0.0)
    backoff.submit_is_over()
    assert backoff.submits_in_flight == 2


def test_after_a_hold_submits_go_one_by_one_for_a_minute() -> None:
    """A busy service then rejects one of them, not all."""
    backoff = ConcurrencyBackoff(0.0)
    backoff.rejected(0.0, 10.0, 0.0)
    backoff.submit_sent(10.0)
    assert backoff.submits_in_flight == 1
    assert backoff.blocks(69.9)
    assert not backoff.blocks(70.0)
    backoff.submit_is_over()
    assert not backoff.blocks(11.0)


def test_an_accepted_submit_resets_the_backoff() -> None:
    """Only one that the service accepted after the hold."""
    backoff = ConcurrencyBackoff(0.0)
    backoff.rejected(0.0, None, 0.0)
    backoff.accepted(4.9)
    backoff.rejected(5.0, None, 0.0)
    assert backoff.held_until == 15.0
    backoff.accepted(15.0)
    backoff.rejected(15.0, None, 0.0)
    assert backoff.held_until == 20.0
