"""The exact window: never too many requests in 60 s at the server, however slow the answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.limits.window import PERIOD, Window

# Sums of eighths of a second are exact, so the tests check the rule and not the rounding.
eighths = st.integers(0, 8 * 90).map(lambda n: n / 8)


@dataclass(frozen=True)
class Request:
    """One request: its delay before sending, and when the server counts and answers it after that."""

    idle: float
    counted: float
    answered: float
    is_sent: bool


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Draw a request that the server counts at some time between its sending and its answer."""
    answered = draw(eighths)
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    idle = draw(st.just(0.0) | eighths)
    return Request(idle, answered * share, answered, draw(st.integers(0, 9)) > 0)


def run(limit: int, plans: list[Request], start: float = 0.0) -> list[float]:
    """Send each request as soon as the window allows it, and return the times at which the server counted."""
    window = Window(limit)
    now = start
    in_flight: list[tuple[float, bool]] = []
    counted: list[float] = []

    def answer_until(moment: float) -> None:
        for end, is_sent in sorted(in_flight):
            if end <= moment:
                in_flight.remove((end, is_sent))
                (window.answered(end) if is_sent else window.unsent())

    for plan in plans:
        answer_until(now := now + plan.idle)
        while not window.free(now):
            moment = window.next_free(now)
            first_answer = min((end for end, _ in in_flight), default=math.inf)
            # Nobody waits for ever: there is a time, or an answer to come that will bring one.
            assert moment is not None or first_answer < math.inf
            waited_for = min(first_answer, math.inf if moment is None else moment)
            assert waited_for > now
            if moment is not None and moment < first_answer:
                # It is exact: nothing is free just before it, something is at it.
                assert not window.free(math.nextafter(moment, -math.inf))
                assert window.free(moment)
            answer_until(now := waited_for)
        assert window.next_free(now) == now
        window.spend()
        in_flight.append((now + plan.answered, plan.is_sent))
        if plan.is_sent:
            counted.append(now + plan.counted)
    return sorted(counted)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 5), st.lists(requests(), max_size=30))
def test_no_window_at_the_server_holds_too_many(limit: int, plans: list[Request]) -> None:
    """Any half-open 60 s hold at most R requests, wherever between sending and answer the server counts."""
    counted = run(limit, plans)
    for first, last in zip(counted, counted[limit:], strict=False):
        assert last >= first + PERIOD


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 3),
    st.lists(
        st.builds(Request, st.floats(0, 70), st.just(0.0), st.floats(0, 70), st.just(True)), max_size=15
    ),
    st.floats(0, 1e9),
)
def test_rounding_makes_nobody_wait_for_ever(limit: int, plans: list[Request], start: float) -> None:
    """At the time that the window named a request may be sent, whatever floats make of it."""
    counted = run(limit, plans, start)
    for first, last in zip(counted, counted[limit:], strict=False):
        assert last - first >= PERIOD - 1e-6


def test_the_plan_is_used_in_full() -> None:
    """R requests go at 10:00:00; with immediate answers the next R go at 10:01:00, not later."""
    at_once = Request(0.0, 0.0, 0.0, True)
    assert run(10, [at_once] * 25) == [0.0] * 10 + [60.0] * 10 + [120.0] * 5


def test_a_token_comes_back_a_period_after_the_answer() -> None:
    """Not after the sending: the server may count the request as late as it answers."""
    window = Window(1)
    window.spend()
    window.answered(7.0)
    assert (window.free(66.9), window.next_free(66.9), window.free(67.0)) == (0, 67.0, 1)


def test_without_an_answer_the_next_free_time_is_unknown() -> None:
    """A caller waits for the answer first, and then for the time."""
    window = Window(1)
    window.spend()
    assert window.next_free(1_000.0) is None
    window.answered(1_000.0)
    assert window.next_free(1_000.0) == 1_060.0


def test_an_overspent_window_names_the_time_that_frees_a_token() -> None:
    """With one too many sent, the first to come back frees nothing, even if a clock ran backwards."""
    window = Window(1)
    window.spend()
    window.spend()
    window.answered(10.0)
    assert window.next_free(10.0) is None
    window.answered(9.0)
    assert (window.next_free(60.0), window.free(69.5), window.free(70.0)) == (70.0, 0, 1)


def test_an_unsent_request_returns_its_token_at_once() -> None:
    """The server cannot have counted it."""
    window = Window(1)
    window.spend()
    assert window.free(0.0) == 0
    window.unsent()
    assert (window.free(0.0), window.next_free(0.0)) == (1, 0.0)


def test_the_period_may_differ_from_a_minute() -> None:
    """A minute is only the usual one."""
    window = Window(1, period=2.0)
    window.spend()
    window.answered(0.0)
    assert window.next_free(0.0) == 2.0


def test_two_simultaneous_answers_reveal_no_rate() -> None:
    """A process that starts beside another sees it in two answers, and must not be shut out."""
    window = Window(6_000)
    assert window.lower(5_990, 0.0)
    assert window.lower(5_989, 0.001)
    assert window.free(2.0) > 5_980


def spend(window: Window, count: int, now: float) -> None:
    """Send this many requests and have them answered at once."""
    for _ in range(count):
        window.spend()
        window.answered(now)


def test_returning_tokens_are_known_for_each_part_of_the_next_minute() -> None:
    """The schedule plans with them; a request in flight comes back at the end, at the earliest."""
    window = Window(10)
    spend(window, 2, 0.0)
    spend(window, 1, 30.0)
    assert window.coming(30.0, 4) == [0, 0, 2, 1]
    assert window.coming(15.0, 4) == [0, 0, 0, 3]
    window.spend()
    assert window.in_flight == 1
    assert window.coming(30.0, 4) == [0, 0, 2, 2]
    # Nobody has asked since they came back.
    assert window.coming(85.0, 4) == [3, 0, 0, 1]


def test_foreign_tokens_come_back_a_minute_after_their_last_observation() -> None:
    """All of them do, if the others stop."""
    window = Window(10)
    spend(window, 1, 0.0)
    assert window.lower(3, 15.0)
    assert window.coming(30.0, 4) == [0, 0, 1, 6]


def test_the_window_names_the_time_for_several_requests_at_once() -> None:
    """A poll in several parts needs tokens beside its own."""
    window = Window(4)
    spend(window, 1, 0.0)
    assert [window.next_free(10.0, beside=others) for others in range(4)] == [10.0, 10.0, 10.0, 60.0]
    # Somebody else takes two.
    assert window.lower(1, 20.0)
    assert [window.next_free(20.0, beside=others) for others in range(4)] == [20.0, 60.0, 80.0, 80.0]
    window.spend()
    assert [window.next_free(20.0, beside=others) for others in range(4)] == [60.0, 80.0, 80.0, None]


def test_the_window_waits_for_a_reset_that_comes_before_any_token() -> None:
    """Not while every token is in flight: a reset could release none."""
    window = Window(2)
    spend(window, 2, 0.0)
    window.renews(30.0, 0.0)
    assert window.next_free(0.0) == 30.0
    window = Window(2)
    spend(window, 2, 0.0)
    window.renews(61.0, 0.0)
    assert window.next_free(0.0) == 60.0
    window = Window(1)
    window.spend()
    window.renews(30.0, 0.0)
    assert window.next_free(0.0) is None
    window = Window(2)
    window.spend()
    assert window.lower(0, 0.0)
    window.renews(30.0, 0.0)
    assert window.next_free(0.0) == 30.0


def test_on_our_own_key_each_reset_releases_one_token() -> None:
    """However short the service's own window is."""
    window = Window(2)
    spend(window, 2, 0.0)
    for reset in (6.0, 12.0, 18.0):
        window.renews(reset, reset - 6.0)
        assert window.free(reset) == 1
        spend(window, 1, reset)
        assert window.free(reset) == 0


def test_a_reset_while_a_token_is_free_does_not_count_as_an_attempt() -> None:
    """The next one, when others have used up the window, still does."""
    window = Window(6)
    assert window.lower(1, 0.0)
    window.renews(6.0, 0.0)
    assert window.free(6.0) == 1
    spend(window, 1, 6.0)
    window.renews(12.0, 7.0)
    assert window.free(12.0) == 1


def test_requests_sent_since_the_reset_reduce_the_remaining() -> None:
    """The answer to the first of them counts that one alone."""
    window = Window(6)
    spend(window, 2, 0.0)
    spend(window, 4, 30.0)
    window.renews(59.0, 30.0)
    assert window.free(59.0) == 1
    first = window.spend()
    assert window.free(60.0) == 1
    window.spend()
    window.left(4, 60.5, first)
    assert window.free(60.5) == 3


def test_only_a_lower_count_than_ours_reveals_other_users() -> None:
    """Half of what they held is enough to confirm them."""
    window = Window(10)
    assert window.lower(10, 0.0) is False
    for remaining, free in ((7, 4), (8, 10)):
        window = Window(10)
        assert window.lower(4, 0.0) is True
        assert window.lower(remaining, 40.0) is False
        assert window.free(60.0) == free


def test_beside_other_users_a_reset_is_tried_again_after_a_period() -> None:
    """Or earlier, if the last attempt brought something."""
    for left, at, free in ((0, 12.0, 0), (0, 65.0, 0), (0, 66.0, 1), (1, 12.0, 1)):
        window = Window(6)
        assert window.lower(0, 0.0)
        window.renews(6.0, 3.0)
        assert window.free(6.0) == 1
        number = window.spend()
        window.left(left, 6.0, number)
        window.lower(0, 10.0)
        window.renews(at, 10.0)
        assert window.free(at) == free


def test_a_reset_releases_one_token_and_the_next_answer_says_how_many_more() -> None:
    """Sixty seconds apply only where the service reports nothing."""
    window = Window(6)
    spend(window, 6, 0.0)
    window.renews(6.0, 0.0)
    assert (window.next_free(0.0), window.free(5.9), window.free(6.0)) == (6.0, 0, 1)
    number = window.spend()
    assert window.free(6.0) == 0
    window.left(5, 6.1, number)
    window.answered(6.1)
    assert window.free(6.1) == 5
    # A higher count is trusted once for each reset.
    spend(window, 3, 6.2)
    window.left(6, 6.2)
    assert window.free(6.2) == 2


def test_a_reset_releases_nothing_if_its_token_is_already_back() -> None:
    """The reset is about that very token, but in whole seconds, so it comes later."""
    window = Window(2)
    spend(window, 1, 0.0)
    spend(window, 1, 30.0)
    window.renews(61.0, 30.0)
    assert window.free(60.0) == 1
    spend(window, 1, 60.0)
    assert window.free(61.0) == 0


def test_the_remaining_count_is_trusted_for_requests_sent_after_the_reset() -> None:
    """Requests that the service had not counted by then are subtracted."""
    window = Window(10)
    early = window.spend()
    spend(window, 9, 0.0)
    window.renews(6.0, 0.0)
    assert window.free(6.0) == 1
    late = window.spend()
    for before in (early, late - 1):
        window.left(5, 7.0, before)
        assert window.free(7.0) == 0
    window.left(5, 7.0, late)
    # The early one is still in flight, and may reach the service after all.
    assert window.free(7.0) == 4


def test_a_slow_answer_reports_no_new_reset() -> None:
    """The token that it is about came back before it arrived."""
    window = Window(2)
    spend(window, 1, 0.0)
    early = window.spend()
    assert window.free(60.0) == 1
    spend(window, 1, 60.0)
    window.renews(62.0, 61.0, early)
    window.answered(61.0)
    assert window.free(62.0) == 0


def test_an_unsent_request_uses_up_no_reset() -> None:
    """The next request takes it instead."""
    window = Window(6)
    spend(window, 6, 0.0)
    window.renews(6.0, 0.0)
    assert window.free(6.0) == 1
    assert window.is_renewed
    window.spend()
    window.unsent()
    number = window.spend()
    window.left(5, 6.5, number)
    window.answered(6.5)
    assert window.free(6.5) == 5


def test_beside_other_users_a_useless_reset_is_tried_once_a_period() -> None:
    """The released token may just as well be theirs."""
    window = Window(6)
    spend(window, 2, 0.0)
    assert window.lower(0, 0.0)
    window.renews(6.0, 3.0)
    assert window.free(6.0) == 1
    spend(window, 1, 6.0)
    window.left(0, 6.0)
    window.renews(12.0, 6.0)
    assert window.free(12.0) == 0


def test_an_unreported_limit_is_not_mistaken_for_growing_foreign_usage() -> None:
    """Six requests at once count down to none: the gap to the plan is there from the start."""
    window = Window(60)
    for _ in range(6):
        window.spend()
    for left in (5, 4, 3, 2, 1, 0):
        window.lower(left, 0.0)
        window.answered(0.0)
    window.renews(8.0, 0.0)
    assert window.free(8.0) == 1
    number = window.spend()
    window.left(5, 8.0, number)
    window.answered(8.0)
    assert window.free(8.0) == 5


def test_after_a_reset_each_accepted_request_without_headers_allows_one_more() -> None:
    """Until an answer says how many remain; before a reset it allows none."""
    window = Window(6)
    window.unsaid(0.0, window.spend())
    spend(window, 5, 0.0)
    window.answered(0.0)
    assert window.free(1.0) == 0
    window.renews(6.0, 1.0)
    for _ in range(3):
        assert window.free(6.0) == 1
        window.unsaid(6.0, window.spend())
        window.answered(6.0)
    window.left(0, 6.0, window.spend())
    assert window.free(6.0) == 0


def test_foreign_usage_holds_as_long_as_answers_confirm_it() -> None:
    """Sixty seconds after their first request the others have not all stopped."""
    window = Window(10)
    assert window.lower(4, 0.0)
    assert not window.lower(5, 40.0)
    assert window.free(70.0) == 4
    assert not window.lower(9, 90.0)
    assert window.free(100.0) == 10


@dataclass(frozen=True)
class Attempt:
    """One request of a scenario: its delay before sending, and when it is counted and answered after that."""

    idle: float
    counted: float
    answered: float


attempts = st.builds(
    lambda idle, answered, share: Attempt(idle, answered * share, answered),
    st.just(0.0) | eighths,
    eighths,
    st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 5), st.sampled_from([6.0, 30.0, 60.0]), st.booleans(), st.lists(attempts, max_size=30))
def test_a_window_that_follows_the_headers_is_never_rejected(
    limit: int, period: float, is_fixed: bool, plans: list[Attempt]
) -> None:
    """One user of a service with correct headers, and a window of any length and kind."""
    window, now = Window(limit), 0.0
    counted: list[float] = []
    events: list[tuple[float, int, str, int]] = []
    reported: dict[int, tuple[int, float]] = {}

    def used(at: float) -> list[float]:
        if not is_fixed:
            return [each for each in counted if each > at - period]
        starts: list[float] = []
        for each in counted:
            if not starts or each >= starts[0] + period:
                starts = []
            starts.append(each)
        return starts if starts and at < starts[0] + period else []

    def until(moment: float) -> None:
        while events and min(events)[0] <= moment:
            at, _, kind, number = min(events)
            events.remove(min(events))
            if kind == "counted":
                assert len(used(at)) < limit, "rejected"
                counted.append(at)
                taken = used(at)
                reported[number] = limit - len(taken), taken[0] + period
                continue
            left, reset = reported[number]
            window.lower(left, at)
            window.left(left, at, number)
            if reset >= at - 5:
                window.renews(max(reset, at + 1), at, number)
            window.answered(at)

    for order, plan in enumerate(plans):
        until(now := now + plan.idle)
        while not window.free(now):
            moments = [moment for moment in (window.next_free(now), *(each[0] for each in events)) if moment]
            until(now := min(moments))
        number = window.spend()
        events.append((now + plan.counted, 2 * order, "counted", number))
        events.append((now + plan.answered, 2 * order + 1, "answered", number))
        until(now)
    until(math.inf)
