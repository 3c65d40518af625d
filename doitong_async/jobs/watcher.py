"""Watches every job in flight: one task, one look for all of them, one door for whatever is learned."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from doitong_async.clock import LATE
from doitong_async.errors import ClientClosedError
from doitong_async.events import JobFinished, SlotExpired, StatusSeen
from doitong_async.hook import Hook, Throw, own_task_is_over
from doitong_async.jobs import lifecycle, schedule
from doitong_async.jobs.inquiry import Inquiry, Report
from doitong_async.jobs.pace import Pace
from doitong_async.jobs.watch import MakeError, Watch, closed, not_found
from doitong_async.limits.entrance import Entrance
from doitong_async.limits.gate import Priority
from doitong_async.limits.grants import Turn
from doitong_async.log import log
from doitong_async.transport.refusal import Kind, Refusal
from doitong_async.types import Generation, JobStatus

VISIBLE_WITHIN: Final = 10.0
"""Seconds after its submit in which a job may still be unknown to the status query: our choice."""
LANES: Final = 4
"""Looks of one tick that are under way at once: our choice."""
MISSES: Final = 2
"""Polls in a row to which a job must be unknown until it is believed: one may be a replica's slip."""
STEPS: Final = 10
"""Steps in which the last poll of a job is waited for; a loop that stands still again uses up one of them."""
REFUSALS: Final = 3
"""Polls in a row that must be refused until whoever waits is told: one may be a gateway's slip."""
_REFUSED: Final = frozenset({Kind.AUTHENTICATION, Kind.NO_OPERATION})


class Watcher:
    """Looks at the jobs in flight until they end; must be started and closed on one running loop.

    Args:
        entrance: says when a request may go.
        inquiry: asks.
        notify: is told of what is seen.
        has_webhooks: whether the service tells of the ends, so that looks are only a safety net.
    """

    def __init__(
        self, entrance: Entrance, inquiry: Inquiry, notify: Hook, *, has_webhooks: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._entrance = entrance
        self._inquiry = inquiry
        self._notify = notify
        self._has_webhooks = has_webhooks
        self._watches: dict[str, Watch] = {}
        # One watch a job, also when it is let go and taken up again: whoever holds it is told all the same.
        self._let_go_of: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._changed = asyncio.Event()
        self._last_tick = self._loop.time() - schedule.LONGEST_TICK
        self._refused_at = self._failed_at = self._last_tick
        self._stood_still_at = -math.inf
        self._failures = self._refused = 0
        self._begun = 0.0
        self._odd_words: set[JobStatus] = set()
        self._pace = Pace(entrance, has_webhooks=has_webhooks)
        self.durations = self._pace.durations
        self.credits_spent = 0.0
        """What the jobs cost that were submitted here, as far as the service told."""
        self._sleeps_until: float | None = None
        self._stopped: MakeError | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._task = self._loop.create_task(self._run(), name="doitong watcher")
        self._task.add_done_callback(own_task_is_over)

    def __iter__(self) -> Iterator[Watch]:
        return iter(list(self._watches.values()))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which it watches, and on which alone its jobs can be awaited."""
        return self._loop

    def find(self, job_id: str) -> Watch | None:
        """Return the watch of a job in flight, or of one that was let go and somebody still holds."""
        return self._watches.get(job_id) or self._let_go_of.get(job_id)

    def add(self, watch: Watch) -> None:
        """Begin to watch a job; one that is over already is never asked for."""
        if not watch.is_ended:
            self._begin(watch)
        if watch.submitted == watch.begun:
            # The status of a job that is taken up is assumed until the first look.
            self._tell_status(watch)
            self._book(watch)
        self._follow(watch)

    def resume(self, watch: Watch) -> None:
        """Watch a job again that was let go before its end; it takes a slot without queueing."""
        if not watch.is_ended and watch.last.id not in self._watches:
            watch.lease = self._entrance.gate.slot_at_once(watch.last.id)
            watch.begun = watch.asked_at = self._loop.time()
            watch.misses = watch.refusals = 0
            self._begin(watch)
            self._follow(watch)

    @property
    def is_stopped(self) -> bool:
        """Whether no news will come any more, as far as is known: polls are refused, one and all."""
        is_deaf = self._refused >= REFUSALS and not self._has_webhooks
        return is_deaf or self._stopped is not None

    def check(self) -> None:
        """Raise what keeps this watcher from bringing any news.

        Raises:
            ClientClosedError: if the client is closed.
        """
        if self._stopped is not None:
            raise self._stopped()

    def observe(self, news: Generation) -> Throw | None:
        """Take news that nobody asked for; None if it is of no use, else what reaches the job's awaiter."""
        watch = self.find(news.id)
        if watch is None or lifecycle.is_settled(watch.last):
            return None
        if lifecycle.leaves_open(news):
            # The body is a hint: the look that is due now decides what became of the job.
            self._pace.hinted(watch, self._loop.time())
            self._changed.set()
        elif news.id in self._watches:
            self._merge(watch, news, is_told=True)
        else:
            self._observe_let_go(watch, news)
        return watch.throw

    def await_until(self, watch: Watch, deadline: float) -> None:
        """Note that somebody waits for a job until then: it is looked at while that is of use."""
        if self._has_webhooks:
            self._pace.await_until(watch, deadline, self._loop.time())
            self._changed.set()

    async def make_sure(self, watch: Watch, deadline: float) -> None:
        """See that a deadline that has passed may be kept to, or poll the job once before that.

        A deadline that passed while the event loop stood still (a stopped or suspended process, a debugger, a
        blocking call) says nothing of the job: nobody could ask. One poll that is sent now has to be over
        first, or `poll_timeout` and the 2 s between two polls, where it cannot be sent.

        Raises:
            DoitongError: the one that whoever waits for the job is told.
        """
        self.check()
        now = self._loop.time()
        since = deadline if now > deadline + LATE else self._stood_still_at
        if watch.asked_at >= since:
            return
        watch.overdue += 1
        watch.due = min(watch.due, now)
        self._changed.set()
        step = (schedule.TICK + watch.options.poll_timeout) / STEPS
        steps, until = STEPS, now + step
        try:
            while steps and not watch.is_ended and watch.asked_at < since:
                if not await watch.news(until):
                    steps, until = steps - 1, self._loop.time() + step
        finally:
            watch.overdue -= 1

    def _observe_let_go(self, watch: Watch, news: Generation) -> None:
        """Take late news of a job that was let go before its end: who still holds it is told."""
        before, watch.last = watch.last, lifecycle.merge(watch.last, news)
        # It was believed lost, and here is word of it.
        watch.loss = None
        if watch.last.status != before.status:
            self._tell_status(watch)
        self._follow(watch)

    def _merge(self, watch: Watch, news: Generation, *, is_told: bool) -> None:
        before, watch.last = watch.last, lifecycle.merge(watch.last, news)
        self._pace.saw(watch, before, self._loop.time(), is_told=is_told)
        self._book(watch)
        watch.failure, watch.misses, watch.refusals = None, 0, 0
        if watch.last is before:
            return
        if watch.last.status != before.status:
            self._tell_status(watch)
        self._follow(watch)
        watch.wake()

    async def look_at(self, watch: Watch) -> None:
        """Look at one job now, as soon as the plan allows a request.

        Raises:
            DoitongError: if the look brought nothing, saying why.
        """
        self.check()
        job_id = watch.last.id
        report = await self._inquiry.look([job_id], timeout=watch.options.poll_timeout)
        # What was learned may change when to look next.
        self._changed.set()
        with self._notify.in_order():
            self._take(report)
        refusal = report.spoilers.get(job_id) or report.unaskable.get(job_id) or report.refusal
        if refusal is not None:
            raise refusal.error_of_poll(job_id, watch.token)
        if report.missing:
            raise not_found(watch)
        if job_id in report.unreadable:
            raise Refusal(Kind.PROTOCOL, report.unreadable[job_id]).error_of_poll(job_id, watch.token)
        if job_id not in self._watches:
            watch.last = lifecycle.merge(watch.last, report.found[0], is_asked=True)
            watch.loss = None

    async def close(self) -> None:
        """Stop watching and wake whoever still waits; the jobs go on at the service."""
        self._stopped = lambda: ClientClosedError("The client is closed.")
        tasks = [self._task, *self._looks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watch in self:
            if not watch.last.status.is_terminal:
                # The job goes on, and others may use the key: its slot is kept for it until its greatest age.
                watch.lease.keep(watch.begun + watch.options.lease_age, watch.last.id)
            self._let_go(watch)
            watch.wake(partial(closed, watch))

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            moment = self._next_moment()
            if moment is not None and moment <= self._loop.time():
                try:
                    await self._tick()
                except ClientClosedError:
                    return
                continue
            self._sleeps_until = moment
            timer = None if moment is None else self._loop.call_at(moment, self._changed.set)
            await self._changed.wait()
            if timer is not None:
                timer.cancel()
            if moment is not None and self._loop.time() > moment + LATE:
                self._stood_still_at = self._loop.time()

    def _next_moment(self) -> float | None:
        if self._stopped is not None:
            return None
        due = (watch.due for watch in self._watches.values())
        if any(watch.overdue for watch in self._watches.values()):
            return schedule.next_tick(due, last=self._last_tick, spacing=schedule.TICK)
        usual = self._pace.tick(self._watches.values(), self._inquiry.most)
        spacing = schedule.spacing(usual, self._failures)
        # What a look did not bring is asked for soon, in step or not.
        begun = None if self._failures else self._begun
        return schedule.next_tick(due, last=self._last_tick, spacing=spacing, begun=begun)

    async def _tick(self) -> None:
        turn: Turn | None = await self._entrance.turn(Priority.LOOK)
        # A few at a time, so that a thousand answers do not keep the loop from everybody else.
        lanes = asyncio.Semaphore(LANES)
        try:
            # Chosen only now: whoever became ready while the turn was waited for joins for nothing.
            for watches in self._looks_due():
                await lanes.acquire()
                self._send_look(watches, turn or await self._entrance.turn(Priority.LOOK), lanes)
                turn = None
        finally:
            if turn is not None:
                turn.unsent()

    def _looks_due(self) -> list[list[Watch]]:
        """Return who is looked at now: all together, but for those who would spoil it for the others."""
        now, most = self._loop.time(), self._inquiry.most
        joining = [watch for watch in self if not watch.refusals and schedule.may_join(watch.submitted, now)]
        alone = [[watch] for watch in self if watch.refusals and watch.due <= now]
        joining = self._pace.joining(joining, now, most)
        return [joining[first : first + most] for first in range(0, len(joining), most)] + alone

    def _send_look(self, watches: Sequence[Watch], turn: Turn, lanes: asyncio.Semaphore) -> None:
        self._last_tick = now = self._loop.time()
        for watch in watches:
            self._pace.looked(watch, now)
        # Not awaited: a slow answer delays no other tick.
        look = self._loop.create_task(self._look(watches, turn), name="doitong look")
        self._looks.add(look)
        look.add_done_callback(self._look_is_over)
        # Cancelled before its first step it would never end its turn; a second end changes nothing.
        look.add_done_callback(lambda _: turn.unsent())
        look.add_done_callback(lambda _: lanes.release())

    async def _look(self, watches: Sequence[Watch], turn: Turn) -> None:
        timeout = max(watch.options.poll_timeout for watch in watches)
        asked_at = self._loop.time()
        try:
            report = await self._inquiry.look(
                [watch.last.id for watch in watches], timeout=timeout, turn=turn
            )
        except ClientClosedError:
            return
        self._take(report)
        if report.refusal is not None:
            self._note_failure(watches, report.refusal, asked_at)
        for watch in watches:
            watch.asked_at = max(watch.asked_at, asked_at)
            if watch.overdue:
                watch.wake()
        # What was learned may change when to look next.
        self._changed.set()

    def _look_is_over(self, look: asyncio.Task[None]) -> None:
        self._looks.discard(look)
        own_task_is_over(look)

    def _take(self, report: Report) -> None:
        for news in report.found:
            if (watch := self._watches.get(news.id)) is not None:
                self._merge(watch, news, is_told=False)
        for job_id in report.missing:
            self._miss(job_id)
        for job_id, reason in report.unreadable.items():
            if (watch := self._watches.get(job_id)) is not None:
                watch.failure = reason
                self._pace.missed(watch, self._loop.time())
        for job_id, refusal in (report.spoilers | report.unaskable).items():
            if (watch := self._watches.get(job_id)) is not None:
                watch.failure = refusal.message
                watch.refusals += 1
                watch.due = self._loop.time() + schedule.spacing_after(watch.refusals)
                if job_id in report.unaskable and not self._has_webhooks:
                    # No later poll can do better, and nothing else would tell of its end.
                    watch.wake(partial(refusal.error_of_poll, job_id, watch.token))
        if report.refusal is None:
            self._failures = self._refused = 0

    def _note_failure(self, watches: Sequence[Watch], refusal: Refusal, asked_at: float) -> None:
        """One poll that failed changes nothing that lasts: polling goes on, more and more seldom."""
        if asked_at > self._failed_at:
            # The polls of one moment meet the same slip: they count as one.
            self._failures, self._failed_at = self._failures + 1, self._loop.time()
        log.info("poll of %d jobs: %s", len(watches), refusal.message)
        is_told = refusal.kind is Kind.UNUSABLE or self._is_believed(refusal, asked_at)
        for watch in watches:
            watch.failure = refusal.message
            self._pace.missed(watch, self._loop.time())
            if is_told:
                watch.wake(partial(refusal.error_of_poll, watch.last.id, watch.token))

    def _is_believed(self, refusal: Refusal, asked_at: float) -> bool:
        """Whether polls were refused often enough to tell whoever waits: the key, or the query, is wrong."""
        if refusal.kind not in _REFUSED:
            return False
        if asked_at > self._refused_at:
            self._refused, self._refused_at = self._refused + 1, self._loop.time()
        # Webhooks come all the same where the query is not known.
        has_other_news = self._has_webhooks and refusal.kind is Kind.NO_OPERATION
        return self._refused >= REFUSALS and not has_other_news

    def _miss(self, job_id: str) -> None:
        watch = self._watches.get(job_id)
        if watch is None:
            return
        watch.misses += 1
        self._pace.missed(watch, self._loop.time())
        if watch.misses >= MISSES and watch.submitted + VISIBLE_WITHIN <= self._loop.time():
            watch.loss = partial(not_found, watch)
            self._end(watch)

    def _follow(self, watch: Watch) -> None:
        """Free the slot of a job that is over, and let go of one of which nothing more is to come."""
        if watch.last.status.is_terminal:
            watch.lease.release()
        if watch.is_ended:
            self._end(watch)

    def _begin(self, watch: Watch) -> None:
        if not self._watches:
            self._begun = watch.begun
        self._watches[watch.last.id] = watch
        self._pace.begin(watch)
        watch.expiry = self._loop.call_at(watch.begun + watch.options.lease_age, self._expire, watch)
        # Every job is due some time; only where nobody waits may one more make the next look earlier.
        is_earlier = self._sleeps_until is None or watch.due < self._sleeps_until
        is_alone = self._sleeps_until is None or not self._entrance.gate.waiting
        if is_earlier and (is_alone or self._has_webhooks):
            self._changed.set()

    def _let_go(self, watch: Watch) -> None:
        self._watches.pop(watch.last.id, None)
        self._let_go_of[watch.last.id] = watch
        watch.lease.release()
        if watch.expiry is not None:
            watch.expiry.cancel()

    def _book(self, watch: Watch) -> None:
        if watch.submitted == watch.begun:
            cost = watch.last.credit_cost or 0.0
            self.credits_spent += cost - watch.booked
            watch.booked = cost

    def _end(self, watch: Watch) -> None:
        self._let_go(watch)
        watch.wake()
        if self._notify:
            finished = JobFinished(
                job_id=watch.last.id,
                status=watch.last.status,
                seconds=self._loop.time() - watch.begun,
                credit_cost=watch.last.credit_cost,
            )
            self._notify.aside(finished, watch.throw)

    def _expire(self, watch: Watch) -> None:
        """The greatest age of a slot: it is free, whatever becomes of the job."""
        now = self._loop.time()
        seconds = now - watch.begun
        if watch.expiry is not None and now > watch.expiry.when() + LATE:
            # The loop stood still, and the job may have ended meanwhile: a poll comes first.
            watch.due = min(watch.due, now)
            self._changed.set()
            watch.expiry = self._loop.call_later(
                schedule.TICK + watch.options.poll_timeout, self._expire, watch
            )
            return
        if watch.lease.is_held:
            watch.lease.release()
            self._notify.aside(SlotExpired(job_id=watch.last.id, seconds=seconds), watch.throw)
        if watch.is_awaited:
            # Whoever waits longer than that is served on; it is asked again whether anybody does.
            watch.expiry = self._loop.call_later(watch.options.lease_age, self._expire, watch)
            return
        self._let_go(watch)
        log.warning(
            "Job %s was not seen to end within %.0f s; its slot is free again. Its token: %s",
            watch.last.id,
            seconds,
            watch.token,
        )

    def _tell_status(self, watch: Watch) -> None:
        status = watch.last.status
        if self._notify:
            self._notify.aside(StatusSeen(job_id=watch.last.id, status=status), watch.throw)
        if not status.is_known and status not in self._odd_words:
            self._odd_words.add(status)
            log.warning(
                "The service speaks of a status %r, which is not known here; it is waited on. "
                "If jobs end with it, name it in failure_statuses.",
                str(status),
            )
