"""How soon each job is looked at: the rules of `schedule`, fed with what is known of gate and durations."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from doitong_async.jobs import schedule
from doitong_async.jobs.durations import Durations
from doitong_async.jobs.watch import Watch
from doitong_async.limits.entrance import Entrance
from doitong_async.types import Generation

ENOUGH: Final = 5
"""Jobs of a kind that must have been seen to end until their mean is believed: our choice."""


class Pace:
    """Says when to look, and learns how long jobs take; moments come in as arguments.

    Args:
        entrance: whose gate tells what the plan has left.
        has_webhooks: whether the service tells of the ends, so that looks are only a safety net.
    """

    def __init__(self, entrance: Entrance, *, has_webhooks: bool) -> None:
        self._entrance = entrance
        self._has_webhooks = has_webhooks
        self.durations = Durations()

    def tick(self, watches: Collection[Watch], most: int) -> float:
        """Return the seconds between two looks, with so many jobs at most in one request."""
        gate = self._entrance.gate
        return schedule.tick(
            schedule.Load(
                rate=gate.plan.requests_per_minute,
                slots=gate.plan.concurrent_jobs,
                seconds=self.durations.mean(
                    ((watch.kind, watch.waited_at - watch.submitted) for watch in watches),
                    enough=self._enough,
                ),
                waiting=gate.waiting,
                free=gate.free,
                coming=gate.coming(schedule.PARTS),
                requests=math.ceil(len(watches) / most),
                polls_count=gate.polls_count,
            )
        )

    def begin(self, watch: Watch) -> None:
        """Set when a job is looked at first: at once if it is taken up, as its news may be gone by."""
        if watch.submitted == watch.begun:
            self._put_off(watch, watch.due, watch.begun)

    def looked(self, watch: Watch, now: float) -> None:
        """Set when a job is looked at next, as a look at it is sent now."""
        pause = max(watch.options.poll_interval, schedule.spacing_after(watch.refusals))
        self._put_off(watch, now + pause, now)
        if now < watch.deadline:
            watch.due = min(watch.due, max(now + pause, watch.deadline - schedule.TICK))

    def missed(self, watch: Watch, now: float) -> None:
        """Set when a job is looked at next, as a look brought nothing: not as late as the net has it."""
        if self._has_webhooks:
            watch.due = min(watch.due, now + watch.options.poll_interval)

    def saw(self, watch: Watch, before: Generation, now: float, *, is_told: bool) -> None:
        """Learn from news of a job, and set when it is looked at if the news leave the output open.

        Args:
            watch: with the news in it.
            before: what was known before them.
            now: the moment.
            is_told: whether the service told of its own accord, when it happened.
        """
        if not watch.last.status.is_terminal:
            watch.waited_at = now
            return
        if not before.status.is_terminal and watch.submitted == watch.begun:
            low = now if is_told else watch.waited_at
            # A look in the safety net comes so late that it says nothing of the end.
            if is_told or not self._has_webhooks:
                self.durations.add(watch.kind, low - watch.submitted, now - watch.submitted)
        self.missed(watch, now)

    def hinted(self, watch: Watch, now: float) -> None:
        """Let a job be looked at now: it is said to be over, by news that are not enough."""
        watch.due = min(watch.due, max(now, watch.submitted + schedule.TICK))

    def await_until(self, watch: Watch, deadline: float, now: float) -> None:
        """Set when a job is looked at, if somebody waits for it for less long than the net would."""
        watch.deadline = deadline
        soon = max(now, watch.submitted + schedule.TICK)
        watch.due = min(watch.due, max(soon, deadline - 2 * schedule.TICK))

    def joining(self, watches: list[Watch], now: float, most: int) -> list[Watch]:
        """Return which of the jobs that may be looked at now are."""
        if not self._has_webhooks:
            return watches
        # Of a thousand jobs one may be overdue: who is not must not cost a further request.
        places = schedule.chosen([watch.due for watch in watches], now, most)
        return [watches[place] for place in places]

    @property
    def _enough(self) -> int:
        return min(ENOUGH, self._entrance.gate.plan.concurrent_jobs)

    def _put_off(self, watch: Watch, moment: float, now: float) -> None:
        """Let a job be due at that moment; or later, as long as its webhook is likely to come."""
        watch.due = moment
        if self._has_webhooks and not watch.last.status.is_terminal:
            mean = self.durations.mean([(watch.kind, 0.0)], enough=self._enough)
            # The age of a job that was taken up may not be known.
            since = watch.submitted if math.isfinite(watch.submitted) else watch.begun
            patience = min(watch.options.timeout, watch.options.lease_age)
            watch.due = max(moment, since + schedule.net_look(now - since, mean, patience))
