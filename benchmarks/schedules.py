"""Schedules of polls without a client: the fixed tick and the clairvoyant, simulated on the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, Literal

from benchmarks.service import Service
from doitong_async import Plan

MOST_IN_ONE_POLL: Final = 100
"""Jobs; what the client asks for in one request."""

First = Literal["submits", "polls"]


@dataclass(frozen=True)
class Run:
    """What one competitor made of one set of jobs."""

    seconds: float
    submits: int
    polls: int
    refused: int = 0
    lost: int = 0
    paid_and_lost: int = 0

    @property
    def requests(self) -> int:
        """Submits and polls, the refused ones among them."""
        return self.submits + self.polls


class _FixedTick:
    """One run: every request goes to a service, which would refuse what the plan does not allow."""

    def __init__(self, plan: Plan, seconds: Sequence[float], tick: float) -> None:
        self._service = Service(plan, seconds)
        self._slots = plan.concurrent_jobs
        self._left = len(seconds)
        self._tick = self._due = tick
        self._running: list[int] = []

    def run(self, first: First) -> Run:
        now, service = 0.0, self._service
        while self._left or self._running:
            submit = service.opens(now) if self._left and len(self._running) < self._slots else None
            poll = service.opens(max(now, self._due), self._requests()) if self._running else None
            is_tie_won = submit == poll and first == "submits"
            if submit is not None and (poll is None or submit < poll or is_tie_won):
                now = submit
                self._submit(now)
            elif poll is not None:
                now = poll
                self._poll(now)
        return Run(now, service.submits, service.polls)

    def _requests(self) -> int:
        return -(-len(self._running) // MOST_IN_ONE_POLL)

    def _submit(self, now: float) -> None:
        self._running.append(self._service.submit(now))
        self._left -= 1

    def _poll(self, now: float) -> None:
        self._due = now + self._tick
        running, self._running = self._running, []
        for first in range(0, len(running), MOST_IN_ONE_POLL):
            jobs = running[first : first + MOST_IN_ONE_POLL]
            done = self._service.poll(now, jobs)
            self._running += [job for job, is_done in zip(jobs, done, strict=True) if not is_done]


def fixed_tick(plan: Plan, seconds: Sequence[float], tick: float, first: First = "submits") -> Run:
    """Poll all jobs in flight every `tick` seconds, all in one request; submit whenever there is room.

    Args:
        plan: its window is kept exactly, polls counted.
        seconds: the duration of each job, in the order of their submits.
        tick: seconds from the sending of one poll to the next.
        first: who goes first where both a submit and a poll that is due wait for the window.
    """
    return _FixedTick(plan, seconds, tick).run(first)


def best_fixed_tick(
    plan: Plan, jobs: Sequence[Sequence[float]], ticks: Sequence[float]
) -> tuple[float, list[Run]]:
    """Return the tick with the least mean makespan over all sets of jobs, and its runs.

    It is chosen on the very jobs it is measured on: better than anyone could choose it beforehand.
    """
    grid = (
        (tick, [fixed_tick(plan, seconds, tick, first) for seconds in jobs])
        for tick in ticks
        for first in ("submits", "polls")
    )
    return min(grid, key=lambda entry: sum(run.seconds for run in entry[1]))


def clairvoyant(plan: Plan, seconds: Sequence[float]) -> Run:
    """Submit as soon as a slot and the window allow, knowing every end; poll only when all is over."""
    service, ends = Service(plan, seconds), list[float]()
    now = 0.0
    for _ in seconds:
        if len(ends) == plan.concurrent_jobs:
            now = max(now, heappop(ends))
        now = service.opens(now)
        heappush(ends, service.ends[service.submit(now)])
    jobs = range(len(seconds))
    polls = -(-len(seconds) // MOST_IN_ONE_POLL)
    now = service.opens(max(service.ends), polls)
    for first in range(0, len(seconds), MOST_IN_ONE_POLL):
        assert all(service.poll(now, jobs[first : first + MOST_IN_ONE_POLL]))
    return Run(now, service.submits, service.polls)
