"""This process's copy of the shared state: takes changes at once, and brings them to Redis in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from doitong_async.clock import elapsed_clock, wall_time
from doitong_async.limits.redis.codec import DamagedError, dumped, loaded
from doitong_async.limits.redis.granting import Signs
from doitong_async.limits.redis.server_clock import ServerClock
from doitong_async.limits.redis.shared import NOBODY, SharedKey
from doitong_async.limits.redis.store import Reply, Store

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Proposal:
    """A state that Redis is asked to take, with how many of our changes it holds, and what is whose in it."""

    text: str
    version: str
    changes: int
    holdings: frozenset[tuple[str, str, str]]
    tell: list[str]


class Replica:
    """The copy of one process.

    A change is made in the copy at once, and again in each newer state until Redis has taken it. Should Redis
    come back empty, or with an older state than this one, it gets this one.

    Args:
        store: keeps the state.
        me: the name of this process.
        key: the state until Redis says what it has.
        prepare: writes what this process wants and holds into a state, and grants what can be granted.
        adopt: takes what a state grants to this process.
    """

    def __init__(
        self,
        store: Store,
        me: str,
        key: SharedKey,
        *,
        prepare: Callable[[SharedKey], None],
        adopt: Callable[[SharedKey], None],
    ) -> None:
        self._store = store
        self._me = me
        self._prepare = prepare
        self._adopt = adopt
        self._elapsed = elapsed_clock()
        self._clock = ServerClock()
        self._guess = wall_time() - self._elapsed()
        """What to add to our clock for the time of Redis's, until it was heard of."""
        self.key: SharedKey = key
        self.signs: Signs = Signs({}, 0.0)
        self._version, self._state = "", dumped(key)
        """What Redis was last known to have."""
        self._holdings = _holdings(key)
        """What is whose in that."""
        self._number = self._highest = 0
        """The number of that version, and the highest that was ever seen: each is one more than the last."""
        self._is_lost = True
        """Whether Redis has lost what we know, or never had it."""
        self._unanswered: dict[str, _Proposal] = {}
        """What Redis was asked to take without an answer, by version: it may have taken one of them."""
        self._proposals = 0
        """How many there ever were, so that each has a version of its own."""
        self._changes: list[Callable[[SharedKey], object]] = []
        """What happened here and is not at Redis yet, in order."""
        self._confirmed = 0
        """How many changes were ever taken."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the time of Redis's clock, or a little less; until it was heard of, by our own."""
        # Also where Redis was never heard of, time passes: waits end, and our jobs are polled.
        elapsed = self._elapsed()
        return self._clock.time(elapsed) if self._clock.is_set else elapsed + self._guess

    def now_at_most(self) -> float:
        """Return the time of Redis's clock, or a little more."""
        return self.now() + self._clock.spread

    def change(self, change: Callable[[SharedKey], R]) -> R:
        """Change the state, here at once and at Redis soon; return what the change returns here."""
        self._changes.append(change)
        return change(self.key)

    async def taken(self) -> None:
        """Wait until Redis has all changes made so far."""
        target = self._confirmed + len(self._changes)
        if self._changes:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((target, future))
            await future

    async def sync(self) -> None:
        """Bring all changes to Redis, and take what it has.

        Raises:
            UnreachableError: if Redis does not answer; the changes stay.
            AnotherFormatError: if another version of this library wrote what it has.
        """
        proposal = self._proposal() if self._clock.is_set else None
        while True:
            reply = await self._exchange(proposal)
            asked = self._unanswered.get(reply.version)
            self._unanswered.clear()
            if proposal is not None and asked is proposal:
                self._confirm(proposal)
            elif asked is not None:
                self._take(loaded(asked.text), asked.text, asked.version, confirmed=asked.changes)
            elif not self._receives(reply) and proposal is not None:
                # What it grants is nobody's.
                self._become(loaded(self._state))
            self._adopt(self.key)
            # What an accepted state left undone comes with the next one.
            if reply.accepted and not self._changes:
                return
            proposal = self._proposal()
            if proposal is None:
                return

    def _proposal(self) -> _Proposal | None:
        """Make `key` the state that Redis should have, and return it; None if Redis has that."""
        if self._is_lost:
            self.key.restore(self._me, self._number, self.now())
        self._prepare(self.key)
        text = dumped(self.key)
        if text == self._state and not self._is_lost:
            return None
        self._proposals += 1
        holdings = _holdings(self.key)
        others = {owner for owner, _, _ in self._holdings ^ holdings} - {self._me, NOBODY}
        return _Proposal(
            text,
            f"{self._highest + 1}.{self._me}.{self._proposals}",
            len(self._changes),
            holdings,
            sorted(others),
        )

    async def _exchange(self, proposal: _Proposal | None) -> Reply:
        asked = self._elapsed()
        known = self.now() if self._clock.is_set else 0.0
        new = None if proposal is None else (proposal.version, proposal.text)
        tell = [] if proposal is None else proposal.tell
        if proposal is not None:
            self._unanswered[proposal.version] = proposal
        try:
            reply = await self._store.exchange(self._me, version=self._version, now=known, new=new, tell=tell)
        except BaseException:
            # What it grants is nobody's before Redis says so.
            self._become(loaded(self._state))
            raise
        self._clock.answered(reply.now, asked=asked, now=self._elapsed())
        self.signs = Signs(reply.beats, self._clock.steady_since)
        return reply

    def _receives(self, reply: Reply) -> bool:
        """Take what Redis has, unless it is older than ours, or somebody else wrote there."""
        number = _number(reply.version)
        self._version, self._highest = reply.version, max(self._highest, number)
        key = None if reply.state is None else _read(reply.state)
        if reply.state is None:
            self._is_lost = self._is_lost or not reply.version
        elif key is None or _base(key, number) < _base(self.key, self._number):
            self._is_lost = True
        else:
            self._take(key, reply.state, reply.version)
            return True
        return False

    def _take(self, key: SharedKey, text: str, version: str, *, confirmed: int = 0) -> None:
        """Take a state, and make our changes in it but for the first `confirmed` ones, which it has."""
        self._settle(text, version, confirmed)
        self._become(key)

    def _confirm(self, proposal: _Proposal) -> None:
        """Know that Redis has taken the state that we made: `key` is that, with what changed since."""
        self._settle(proposal.text, proposal.version, proposal.changes)
        self._holdings = proposal.holdings

    def _become(self, key: SharedKey) -> None:
        self._holdings = _holdings(key)
        self.key.become(key)
        for change in self._changes:
            change(self.key)

    def _settle(self, text: str, version: str, confirmed: int) -> None:
        self._state, self._version = text, version
        self._number, self._is_lost = _number(version), False
        self._highest = max(self._highest, self._number)
        del self._changes[:confirmed]
        self._confirmed += confirmed
        for target, future in list(self._waiting):
            if target <= self._confirmed:
                self._waiting.remove((target, future))
                if not future.done():
                    future.set_result(None)


def _read(text: str) -> SharedKey | None:
    """Return a state, or None if it is none."""
    try:
        return loaded(text)
    except DamagedError:
        return None


def _base(key: SharedKey, number: int) -> int:
    """Return how new a state is: until all have spoken, one that was put back is as new as before."""
    return key.restored_from if key.restoring else number


def _number(version: str) -> int:
    number, _, _ = version.partition(".")
    return int(number) if number.isdecimal() else 0


def _holdings(key: SharedKey) -> frozenset[tuple[str, str, str]]:
    """Return what is whose: the owner, the name, and what others may have to say of it."""
    slots = {(slot.owner, name, f"{slot.phase} {slot.job}") for name, slot in key.slots.items()}
    return frozenset(slots | {(permit.owner, name, "") for name, permit in key.permits.items()})
