"""Decide when to poll the jobs in flight: one tick for all of them, never less than 2 s after the last.

Each poll costs a request that a submit could have had, and each second between polls costs the slots of jobs
that have ended unseen. With R requests and C jobs at once, jobs of T seconds and k requests a poll, a tick of
τ starts min(C / (T + τ/2), R − k/τ) jobs a second, which is best where both are equal. While more requests
are available than the plan gives in the long run, as in the first minute or when few jobs are left, 2 s is
better; every tick decides again which of the two ends the queue earlier. While T is unknown we assume C/R, at
which slots and requests run out together. A wrong guess is soon corrected.

Where webhooks report the ends, polls only catch lost webhooks, and cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

TICK: Final = 2.0
"""Seconds between two polls in the documented loop."""
LONGEST_TICK: Final = 30.0
"""Seconds between two polls of a service that keeps failing: our choice."""
_PATIENT_FOR: Final = 4
"""Failed polls in a row after which the wait doubles, and after as many more each time: our choice."""
PARTS: Final = 24
_PERIOD: Final = 60.0
_MOST_POLLED: Final = 0.05
"""Share of requests that polls take at least: below it a longer tick gains next to nothing."""
_HORIZON: Final = 6 * PARTS
_NET: Final = 4.0
"""Mean durations after which a webhook is overdue; few jobs take so much longer than others of their kind."""
NET_UNKNOWN: Final = 30.0
"""Seconds after which a webhook is overdue while no duration is known: our choice."""
NET_LONGEST: Final = 60.0
"""Seconds between two polls of a job whose webhook is overdue: our choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the tick depends on.

    `rate` is requests a minute, `slots` jobs at once, `seconds` the mean duration of a job (None: unknown),
    `waiting` the jobs that wait to begin, `free` the requests that may be sent now, `coming` those that come
    back in each of `PARTS` parts of the next minute, `requests` how many one poll takes. If `polls_count` is
    false, a poll costs nothing.
    """

    rate: int
    slots: int
    seconds: float | None
    waiting: int
    free: int
    coming: Sequence[int]
    requests: int = 1
    polls_count: bool = True


def tick(load: Load) -> float:
    """Return the seconds between two polls that end the queue earliest, at least 2."""
    if not load.polls_count:
        return TICK
    if load.waiting == 0:
        # No job waits for these requests, so poll often, unless that would use up the minute.
        is_plenty = load.free * 2 >= load.rate
        return TICK if is_plenty else max(TICK, _PERIOD * load.requests / load.rate)
    usual = _PERIOD * load.slots / load.rate
    mean = usual if load.seconds is None else load.seconds
    even = even_tick(load.rate, load.slots, mean, load.requests)
    return min((even, TICK), key=lambda every: _ends_in(load, mean, every))


def even_tick(rate: int, slots: int, seconds: float, requests: int = 1) -> float:
    """Return the tick τ* at which slots and requests run out together, in the long run."""
    r = rate / _PERIOD
    b = slots + requests / 2 - r * seconds
    even = min((b + math.sqrt(b * b + 2 * r * requests * seconds)) / r, requests / (_MOST_POLLED * r))
    if even <= TICK:
        return TICK
    # A request comes back a minute after it was spent: a tick that divides the minute finds it there.
    return _PERIOD / max(1, round(_PERIOD / even))


def _ends_in(load: Load, seconds: float, every: float) -> float:
    """Return roughly the seconds until the queue is empty with a poll every `every` seconds.

    What is spent in one part of a minute comes back in the same part of the next.
    """
    part = _PERIOD / PARTS
    begun = load.slots / (seconds + every / 2) * part
    wanted = begun + load.requests / every * part
    coming: list[float] = list(load.coming)
    free, left = float(load.free), float(load.waiting)
    for number in range(_HORIZON):
        free += coming[number % PARTS]
        spent = min(wanted, free)
        done = begun * spent / wanted
        if done >= left:
            return (number + left / done) * part + every / 2
        free, left = free - spent, left - done
        coming[number % PARTS] = spent
    rate = (load.waiting - left) / _HORIZON
    return (_HORIZON + left / rate) * part + every / 2 if rate else math.inf


def next_tick(
    due: Iterable[float], *, last: float, spacing: float, begun: float | None = None
) -> float | None:
    """Return the moment of the next tick, or None if there is no job to poll.

    Args:
        due: when each job is due for its next poll.
        last: when the last poll was sent.
        spacing: seconds from one poll to the next.
        begun: when jobs began to run. Ticks count from there, so that a late or early tick does not put
            those after it out of step with the requests that come back.
    """
    earliest = min(due, default=None)
    if earliest is None:
        return None
    if begun is None or spacing <= TICK:
        return max(earliest, last + spacing)
    soonest = max(last, begun) + TICK
    return max(earliest, soonest, begun + spacing * math.ceil((soonest - begun) / spacing))


def spacing_after(failed_polls: int) -> float:
    """Return the seconds until the next poll of a job whose own polls failed this many times in a row.

    One failure changes nothing, as the next poll may well succeed; each further one doubles the wait.
    """
    return float(min(TICK * 2 ** max(0, min(failed_polls, 8) - 1), LONGEST_TICK))


def spacing(usual: float, failures: int) -> float:
    """Return the seconds from one poll to the next, after `failures` failed polls in a row.

    A failed poll is repeated soon, not only at the next tick: 2 s later, 4 s after a second failure, and so
    on up to the tick. A few failures slow nothing down, as the next poll may well succeed: even where six
    of ten fail, many in a row are rare. Every `_PATIENT_FOR` of them double the wait, as the service may be
    down.

    Args:
        usual: the tick, in seconds.
        failures: failed polls in a row.
    """
    if not failures:
        return usual
    return max(min(usual, TICK * failures), spacing_after(1 + failures // _PATIENT_FOR))


def safety_net_poll(age: float, mean: float | None, patience: float) -> float:
    """Return the age at which a job whose webhook does not come is polled next.

    First at four times the mean duration, then at twice that age, and so on, but never more than
    `NET_LONGEST` after the poll before. No wait may time out because a webhook was lost, so the first poll
    comes before `patience` ends.

    Args:
        age: seconds since the job was made.
        mean: the mean seconds of its kind, or None if unknown.
        patience: seconds after which nobody waits for the job any more, or its slot expires.
    """
    usual = NET_UNKNOWN if mean is None else _NET * mean
    poll = max(TICK, min(usual, patience - 2 * TICK))
    while poll <= age:
        if poll >= NET_LONGEST:
            return poll + NET_LONGEST * (math.floor((age - poll) / NET_LONGEST) + 1)
        poll *= 2
    return poll


def chosen(due: Sequence[float], now: float, most: int) -> Sequence[int]:
    """Return which jobs to poll now, as indices into `due`: those that are due, and others that fit in.

    Args:
        due: when each job is due for a poll.
        now: the moment, on the same clock.
        most: how many jobs fit into one request.
    """
    in_order = sorted(range(len(due)), key=due.__getitem__)
    requests = -(-sum(moment <= now for moment in due) // most)
    return in_order[: requests * most]


def may_join(accepted: float, now: float) -> bool:
    """Whether a job joins a tick that comes now: no job is polled less than 2 s after its submit."""
    return accepted + TICK <= now
