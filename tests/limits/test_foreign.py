"""Other users of the key: how many tokens they hold, and how we send beside them."""

from __future__ import annotations

from doitong_async.limits.foreign import ForeignUsage, Probing


def test_foreign_usage_is_extrapolated_at_its_observed_rate() -> None:
    """From three to nine in ten seconds means six more in the next ten, for at most one period."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 100.0, of_ours=0)
    assert theirs.tokens(105.0) == 3
    theirs.saw(9, 110.0, of_ours=0)
    assert [theirs.tokens(now) for now in (110.0, 120.0, 140.0, 160.0)] == [9, 15, 27, 36]


def test_two_close_observations_do_not_make_a_steep_rate() -> None:
    """Six more within a second count as six in five: two answers may just have arrived together."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=0)
    theirs.saw(9, 1.0, of_ours=0)
    assert theirs.tokens(11.0) == 9 + 12


def test_a_rate_spans_at_most_one_period() -> None:
    """Tokens taken a period ago are back by now."""
    theirs = ForeignUsage(60.0)
    theirs.saw(10, 0.0, of_ours=0)
    theirs.confirm(50.0)
    theirs.saw(40, 100.0, of_ours=0)
    assert theirs.tokens(110.0) == 40
    theirs.saw(100, 100.0, of_ours=0)
    assert theirs.tokens(110.0) == 100
    assert theirs.tokens(100.0) == 100


def test_falling_usage_has_no_rate() -> None:
    """The tokens of the others came back faster than they sent requests."""
    theirs = ForeignUsage(60.0)
    theirs.saw(9, 0.0, of_ours=0)
    theirs.saw(5, 10.0, of_ours=0)
    assert theirs.tokens(50.0) == 5


def test_one_foreign_token_counts_as_a_user() -> None:
    """Once it is back, nobody else uses the key."""
    theirs = ForeignUsage(60.0)
    theirs.saw(1, 0.0, of_ours=0)
    assert theirs
    theirs.give_back_one(10.0)
    assert not theirs
    assert theirs.tokens(20.0) == 0


def test_a_new_count_after_a_lapse_has_no_rate() -> None:
    """One observation does not show how fast the others send."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=0)
    assert theirs.lapse(60.0)
    theirs.saw(9, 70.0, of_ours=0)
    assert theirs.tokens(100.0) == 9
    assert theirs.until == 130.0


def test_our_own_requests_in_flight_do_not_count_as_growth() -> None:
    """The service counts them only in the second observation."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=6)
    theirs.saw(9, 10.0, of_ours=0)
    assert theirs.tokens(20.0) == 9


def test_foreign_usage_lapses_a_period_after_the_last_observation() -> None:
    """A confirmation is an observation, too."""
    theirs = ForeignUsage(60.0)
    assert not theirs
    theirs.saw(3, 0.0, of_ours=0)
    theirs.confirm(30.0)
    assert not theirs.lapse(89.0)
    assert theirs.lapse(90.0)
    assert not theirs.lapse(91.0)
    assert not theirs


def test_a_token_returned_early_keeps_the_rate() -> None:
    """The estimate continues from one less."""
    theirs = ForeignUsage(60.0)
    theirs.saw(3, 0.0, of_ours=0)
    theirs.saw(9, 10.0, of_ours=0)
    theirs.give_back_one(20.0)
    assert (theirs.tokens(20.0), theirs.tokens(30.0)) == (14, 20)


def test_the_first_request_does_not_wait() -> None:
    """Even if the key was contested before it."""
    probing = Probing(10.0)
    probing.contest(60.0)
    assert probing.next_moment(10.0, in_flight=1) == 10.0


def test_on_a_contested_key_a_request_waits_for_the_previous_one() -> None:
    """It waits for the previous answer, or for a second."""
    probing = Probing(0.0)
    probing.sent(0.0)
    assert probing.next_moment(0.5, in_flight=1) == 0.5
    probing.contest(60.0)
    assert probing.next_moment(0.5, in_flight=1) == 1.0
    assert probing.next_moment(0.5, in_flight=0) == 0.5
    probing.sent(59.5)
    assert probing.next_moment(60.0, in_flight=1) == 60.0
    assert probing.next_moment(59.9, in_flight=1) == 60.5
