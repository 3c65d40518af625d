"""The exact window: never too many requests in 60 s at the server, however slow the answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.limits.window import PERIOD, Window

# Eighths of a second: sums of them are exact, so that what is tested is the rule and not the rounding.
eighths = st.integers(0, 8 * 90).map(lambda n: n / 8)


@dataclass(frozen=True)
class Request:
    """One request: how long after it was possible it is sent, when it is counted and answered after that."""

    idle: float
    counted: float
    answered: float
    is_sent: bool


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Draw a request that the server counts at some moment between its sending and its answer."""
    answered = draw(eighths)
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    idle = draw(st.just(0.0) | eighths)
    return Request(idle, answered * share, answered, draw(st.integers(0, 9)) > 0)


def run(limit: int, plans: list[Request], start: float = 0.0) -> list[float]:
    """Send each request as soon as the window lets it, and return the moments that the server counted."""
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
            # Nobody waits for ever: there is a moment, or an answer to come that will make one.
            assert moment is not None or first_answer < math.inf
            waited_for = min(first_answer, math.inf if moment is None else moment)
            assert waited_for > now
            if moment is not None and moment < first_answer:
                # It is honest: not free just before it, free at it.
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
    """In every half-open 60 s at most R, wherever between sending and answer the server counts."""
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
def test_no_rounding_makes_anybody_wait_for_ever(limit: int, plans: list[Request], start: float) -> None:
    """At the moment that was named a request may be sent, whatever floats make of it."""
    counted = run(limit, plans, start)
    for first, last in zip(counted, counted[limit:], strict=False):
        assert last - first >= PERIOD - 1e-6


def test_a_full_plan_is_used() -> None:
    """At 10:00:00 all R go at once; with immediate answers the next R at 10:01:00, not later."""
    at_once = Request(0.0, 0.0, 0.0, True)
    assert run(10, [at_once] * 25) == [0.0] * 10 + [60.0] * 10 + [120.0] * 5


def test_a_place_comes_back_a_period_after_the_answer() -> None:
    """Not after the sending: the server may have counted as late as it answered."""
    window = Window(1)
    window.spend()
    window.answered(7.0)
    assert (window.free(66.9), window.next_free(66.9), window.free(67.0)) == (0, 67.0, 1)


def test_what_hangs_on_an_answer_has_no_moment() -> None:
    """One waits for the answer, and then for its moment."""
    window = Window(1)
    window.spend()
    assert window.next_free(1_000.0) is None
    window.answered(1_000.0)
    assert window.next_free(1_000.0) == 1_060.0


def test_an_overspent_window_names_the_moment_that_is_enough() -> None:
    """With one too many sent, the first to come back frees nothing yet, even if a clock ran back."""
    window = Window(1)
    window.spend()
    window.spend()
    window.answered(10.0)
    assert window.next_free(10.0) is None
    window.answered(9.0)
    assert (window.next_free(60.0), window.free(69.5), window.free(70.0)) == (70.0, 0, 1)


def test_a_request_that_never_left_gives_its_place_back_at_once() -> None:
    """The server cannot have counted it."""
    window = Window(1)
    window.spend()
    assert window.free(0.0) == 0
    window.unsent()
    assert (window.free(0.0), window.next_free(0.0)) == (1, 0.0)


def test_another_period() -> None:
    """A minute is only the usual one."""
    window = Window(1, period=2.0)
    window.spend()
    window.answered(0.0)
    assert window.next_free(0.0) == 2.0


def test_two_answers_at_once_tell_nothing_of_a_rate() -> None:
    """A process that begins beside another hears of it in two answers, and is not shut out."""
    window = Window(6_000)
    assert window.lower(5_990, 0.0)
    assert window.lower(5_989, 0.001)
    assert window.free(2.0) > 5_980
