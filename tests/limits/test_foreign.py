"""Somebody else on the key: how many tokens they hold, and how we send beside them."""

from __future__ import annotations

from doitong_async.limits.foreign import ForeignUsage, Probing


def test_what_was_seen_grows_at_the_rate_at_which_it_was_seen() -> None:
    """From three to nine in ten seconds: six more in the next ten, and at most a period's worth."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=0)
    assert theirs.tokens(5.0) == 3
    theirs.saw(9, 10.0, of_ours=0)
    assert [theirs.tokens(now) for now in (10.0, 20.0, 40.0, 60.0)] == [9, 15, 27, 36]


def test_our_own_requests_in_flight_are_not_growth() -> None:
    """The service had not counted them at the first sight, and has at the second."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=6)
    theirs.saw(9, 10.0, of_ours=0)
    assert theirs.tokens(20.0) == 9


def test_they_are_forgotten_a_period_after_the_last_sign() -> None:
    """A confirmation is a sign, too."""
    theirs = ForeignUsage(60.0)
    assert not theirs
    theirs.saw(3, 0.0, of_ours=0)
    theirs.confirm(30.0)
    assert not theirs.lapse(89.0)
    assert theirs.lapse(90.0)
    assert not theirs.lapse(91.0)
    assert not theirs


def test_a_token_taken_back_early_changes_no_rate() -> None:
    """They go on from one less."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=0)
    theirs.saw(9, 10.0, of_ours=0)
    theirs.give_back_one(20.0)
    assert (theirs.tokens(20.0), theirs.tokens(30.0)) == (14, 20)


def test_while_the_key_is_contested_a_request_waits_for_the_one_before_it() -> None:
    """For its answer, or a second."""
    probing = Probing(0.0)
    probing.sent(0.0)
    assert probing.next_moment(0.5, in_flight=1) == 0.5
    probing.contest(60.0)
    assert probing.next_moment(0.5, in_flight=1) == 1.0
    assert probing.next_moment(0.5, in_flight=0) == 0.5
    assert probing.next_moment(60.0, in_flight=1) == 60.0
