"""Slots for jobs and permits for requests; each is returned when its `with` block ends."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Protocol, Self

IN_DOUBT_FOR: Final = 120.0
"""Seconds that a submit in doubt keeps its slot: our choice. An outage must not block the plan for as long
as a job that is known to run."""


class Priority(Enum):
    """Who gets the next permit; within one priority, first come, first served."""

    SUBMIT = auto()
    POLL = auto()


class Grantor(Protocol):
    """Whoever granted a slot or permit, and takes it back."""

    def slot_is_back(self, slot_id: str, *, was_of_a_job: bool) -> None:
        """Take a slot back."""

    def slot_is_kept(self, slot_id: str, until: float, name: str) -> None:
        """Take a slot back at a moment of the loop's clock."""

    def job_is_settled(self, slot_id: str, *, was_made: bool) -> None:
        """End the job's reservation of the day, and count the job if it was made."""

    def is_stale(self, permit: RequestPermit) -> bool:
        """Whether a permit is too old to be used."""

    def permit_is_over(self, *, was_sent: bool, is_submit: bool, number: int | None) -> None:
        """Take a permit back; `number` is its request's."""


class Slot:
    """A slot of the plan, held for a remote job from before its submit until it is seen to end.

    `id` names it where several processes share the plan. `with slot: …` releases it, unless the block handed
    it over: a slot belongs to the remote job and outlives the code that submitted it. Once it is released,
    kept or handed over, later calls change nothing.
    """

    __slots__ = ("_has_job", "_is_counted", "_limiter", "id")

    def __init__(self, limiter: Grantor | None, *, is_counted: bool, slot_id: str = "") -> None:
        self._limiter = limiter
        self.id: str = slot_id
        self._is_counted = is_counted
        self._has_job = not is_counted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether the slot is still held."""
        return self._limiter is not None

    def hand_over(self) -> Slot:
        """Return the slot for its next holder; this one holds it no more."""
        slot = Slot(self._limiter, is_counted=self._is_counted, slot_id=self.id)
        slot._has_job = self._has_job
        self._limiter = None
        return slot

    def job_is_made(self) -> None:
        """Count the job in its day: its submit was accepted."""
        self._settle(was_made=True)

    def release(self) -> None:
        """Return the slot."""
        if self._limiter is not None:
            self._settle(was_made=False)
            limiter, self._limiter = self._limiter, None
            limiter.slot_is_back(self.id, was_of_a_job=self._has_job)

    give_back = release

    def keep(self, until: float, name: str) -> None:
        """Leave the slot with a job that nobody here tracks any more, until a moment of the loop's clock.

        Args:
            until: the moment.
            name: the job's id, or the idempotency key of its submit, by which it is found again.
        """
        if self._limiter is not None:
            self._settle(was_made=True)
            limiter, self._limiter = self._limiter, None
            limiter.slot_is_kept(self.id, until, name)

    def _settle(self, *, was_made: bool) -> None:
        if self._is_counted and self._limiter is not None:
            self._is_counted = False
            self._has_job = was_made
            self._limiter.job_is_settled(self.id, was_made=was_made)


class RequestPermit:
    """The right to send one request now. It ends once, as answered or as unsent; later calls change nothing.

    `with permit: …` ends it: as answered or lost if the block said that it sends, else as unsent. `number` is
    the request's number among those that count, or None; `sent_at` is when it was granted.
    """

    __slots__ = ("_is_sent", "_is_submit", "_limiter", "number", "sent_at")

    def __init__(
        self, limiter: Grantor | None, *, is_submit: bool, number: int | None = None, sent_at: float = 0.0
    ) -> None:
        self._limiter = limiter
        self._is_submit = is_submit
        self._is_sent = False
        self.number: int | None = number
        self.sent_at: float = sent_at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(was_sent=self._is_sent)

    @property
    def is_stale(self) -> bool:
        """Whether the process stood still since the grant, so that it may be somebody else's by now."""
        return self._limiter is not None and self._limiter.is_stale(self)

    def hand_over(self) -> RequestPermit:
        """Return the permit for its next holder; this one ends without an effect."""
        permit = RequestPermit(
            self._limiter, is_submit=self._is_submit, number=self.number, sent_at=self.sent_at
        )
        permit._is_sent = self._is_sent
        self._limiter = None
        return permit

    def sends(self) -> None:
        """Record that the request is sent now: from here on the service may count it, whatever happens."""
        self._is_sent = True

    def answered(self) -> None:
        """End the permit: the request was answered or is lost."""
        self._end(was_sent=True)

    def unsent(self) -> None:
        """End the permit: the request never left this machine."""
        self._end(was_sent=False)

    give_back = unsent

    def _end(self, *, was_sent: bool) -> None:
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.permit_is_over(was_sent=was_sent, is_submit=self._is_submit, number=self.number)


def uncounted_poll() -> RequestPermit:
    """Return the permit of a poll that does not count, and that nobody takes back."""
    return RequestPermit(None, is_submit=False)
