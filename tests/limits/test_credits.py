"""Credits go to waiters in order, come back from whoever leaves, and fail those for whom none will come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import Budget, BudgetReachedError, ClientClosedError, Plan, RateLimitError
from doitong_async.budget import Reservation
from doitong_async.events import Event, Hook, WaitBegan, WaitEnded
from doitong_async.limits.admission import Admission
from doitong_async.limits.credits import Credits
from doitong_async.limits.local_limiter import LocalLimiter
from doitong_async.limits.users import KeyUser
from doitong_async.testing import run_virtual
from tests.virtual import now, settle, start, virtual


def new_admission(on_event: Callable[[Event], object] | None = None) -> Admission:
    """Return a client's admission to a new rate limiter."""
    return Admission(LocalLimiter(Plan.PRO), KeyUser(Plan.PRO), Hook(on_event))


@virtual
async def test_a_cheap_job_does_not_overtake_a_dear_one() -> None:
    """First come, first served: or a dear one would wait for ever."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    first = await admission.reservation(credits_, 60)
    dear = start(admission.reservation(credits_, 80))
    await settle()
    cheap = start(admission.reservation(credits_, 10))
    await settle()
    assert not dear.done()
    assert not cheap.done()
    first.settle(10)
    await asyncio.gather(dear, cheap)
    assert (credits_.tracker.spent, credits_.tracker.reserved) == (10, 90)


@virtual
async def test_a_job_that_does_not_fit_fails_once_nothing_can_come_back() -> None:
    """With the numbers; and then the next one may fit."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    first = await admission.reservation(credits_, 60)
    waiting = [start(admission.reservation(credits_, most)) for most in (80, 40)]
    await settle()
    first.settle(None)
    with pytest.raises(BudgetReachedError, match="may cost 80 credits, but only 40 are left") as caught:
        await waiting[0]
    assert (caught.value.credits_required, caught.value.credits_available) == (80, 40)
    await waiting[1]
    assert credits_.tracker.left == 0


@virtual
async def test_nobody_waits_for_a_submit_in_doubt() -> None:
    """What it may have spent does not come back by itself."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    first = await admission.reservation(credits_, 60)
    waiting = start(admission.reservation(credits_, 80))
    await settle()
    credits_.keep("k", first.hand_over())
    with pytest.raises(BudgetReachedError):
        await waiting
    assert credits_.tracker.reserved == 60
    resumed = credits_.resume("k")
    assert resumed is not None
    assert credits_.tracker.in_flight == {resumed}
    assert credits_.resume("k") is None
    resumed.release()
    assert credits_.tracker.left == 100


@virtual
async def test_two_doubts_under_one_key_keep_one_reservation() -> None:
    """They made one job at most."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    for _ in range(2):
        credits_.keep("k", await admission.reservation(credits_, 20))
    assert credits_.tracker.reserved == 20


@virtual
async def test_one_who_leaves_lets_the_next_one_go() -> None:
    """It may have been all that kept the next one waiting, as its job was dear."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    first = await admission.reservation(credits_, 60)
    dear, cheap = (start(admission.reservation(credits_, most)) for most in (80, 10))
    await settle()
    dear.cancel()
    reservation = await cheap
    assert credits_.tracker.in_flight == {first, reservation}


@virtual
async def test_one_who_leaves_with_its_grant_gives_it_back() -> None:
    """The cancellation came in the very iteration of the loop in which the credits did."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    first = await admission.reservation(credits_, 60)
    waiting = start(admission.reservation(credits_, 80))
    await settle()
    first.release()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert (credits_.tracker.left, credits_.tracker.in_flight) == (100, set())


@virtual
async def test_a_wait_ends_in_time() -> None:
    """As a wait for the plan does, and says what it waited for."""
    events: list[Event] = []
    admission, credits_ = new_admission(events.append), Credits(Budget(100))
    await admission.reservation(credits_, 60)
    waiting = start(admission.reservation(credits_, 80, timeout=5.0))
    await settle()
    assert admission.waiting() == {"credits": 1}
    with pytest.raises(RateLimitError, match="other jobs may yet give credits back") as caught:
        await waiting
    assert caught.value.limit == "credits"
    assert now() == 5.0
    assert credits_.tracker.reserved == 60
    begun, ended = events
    assert isinstance(begun, WaitBegan)
    assert (begun.request, begun.reason) == ("submit", "credits")
    assert ended == WaitEnded(
        wait_id=begun.wait_id, request="submit", reason="credits", seconds=5.0, is_granted=False
    )


@virtual
async def test_closing_ends_every_wait() -> None:
    """Now and later, and nothing stays reserved for it."""
    admission, credits_ = new_admission(), Credits(Budget(100))
    first = await admission.reservation(credits_, 60)
    waiting = [start(admission.reservation(credits_, 80)) for _ in range(3)]
    await settle()
    admission.close()
    first.release()
    for each in (*waiting, start(admission.reservation(credits_, 1))):
        with pytest.raises(ClientClosedError):
            await each
    assert credits_.tracker.left == 100


@virtual
async def test_low_credits_are_reported_once() -> None:
    """After the one who got them: a callback that ends everybody's wait meets a consistent state."""
    lows: list[float] = []

    def on_low(left: float) -> None:
        lows.append(left)
        admission.close()

    admission, credits_ = new_admission(), Credits(Budget(100, low_at=0.2, on_low=on_low))
    first = await admission.reservation(credits_, 60)
    waiting = [start(admission.reservation(credits_, most)) for most in (70, 10, 70)]
    await settle()
    assert lows == []
    first.settle(20)
    reservation = await waiting[0]
    await waiting[1]
    with pytest.raises(ClientClosedError):
        await waiting[2]
    assert lows == [0]
    reservation.settle(70)
    assert credits_.tracker.reserved == 10


def test_those_left_behind_on_a_closed_loop_do_no_harm() -> None:
    """The next loop starts without them; what they reserved is counted and not waited for."""
    credits_ = Credits(Budget(100))
    left_behind: list[Any] = []

    async def leave() -> None:
        admission = new_admission()
        left_behind.append(await admission.reservation(credits_, 60))
        left_behind.append(start(admission.reservation(credits_, 80)))
        await settle()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    reservation, waiting = left_behind
    waiting._log_destroy_pending = False
    reservation.keep()
    credits_.drop()

    async def begin_anew() -> None:
        admission = new_admission()
        await admission.reservation(credits_, 40)
        with pytest.raises(RateLimitError):
            await admission.reservation(credits_, 1, timeout=1.0)
        reservation.settle(50)
        await admission.reservation(credits_, 10)

    run_virtual(begin_anew())
    waiting.get_coro().close()
    assert credits_.tracker.left == 0


class Crowd:
    """Jobs of one budget, each of which waits, holds credits, or is over."""

    def __init__(self, budget: int) -> None:
        self.admission = new_admission()
        self.credits = Credits(Budget(budget))
        self.waiting: list[asyncio.Task[Reservation]] = []
        self.held: list[Reservation] = []

    async def act(self, act: str, amount: int) -> None:
        """Let one of them do something."""
        if act == "come":
            self.waiting.append(start(self.admission.reservation(self.credits, amount)))
        elif act == "leave" and self.waiting:
            self.waiting[amount % len(self.waiting)].cancel()
        elif self.held:
            one = self.held.pop(amount % len(self.held))
            ends = {"settle": lambda: one.settle(amount), "release": one.release, "keep": one.keep}
            ends.get(act, one.release)()
        await settle()
        over = [each for each in self.waiting if each.done()]
        self.waiting = [each for each in self.waiting if not each.done()]
        for each in over:
            if not each.cancelled() and each.exception() is None:
                self.held.append(each.result())


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "settle", "release", "keep"]), st.integers(0, 60)),
        max_size=30,
    )
)
def test_nobody_waits_in_vain_and_nothing_is_lost(acts: list[tuple[str, int]]) -> None:
    """Someone waits only behind one who does not fit, while something is in flight; the sums always hold."""

    async def main() -> None:
        crowd = Crowd(60)
        tracker = crowd.credits.tracker
        for act, amount in acts:
            reserved_before = tracker.reserved
            await crowd.act(act, amount)
            assert tracker.in_flight == set(crowd.held)
            if act == "come":
                assert tracker.reserved in (reserved_before, reserved_before + amount)
            if crowd.waiting:
                assert crowd.held
        for each in crowd.waiting:
            each.cancel()
        await settle()
        for one in list(tracker.in_flight):
            one.release()
        assert not tracker.in_flight

    run_virtual(main())
