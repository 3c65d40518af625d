"""What the rate limiter grants: a slot for a job, a permit for a request; each is returned once."""

from __future__ import annotations

from typing import Protocol


class Grantor(Protocol):
    """Whoever granted a slot or permit, and takes it back."""

    def slot_is_back(self, *, was_of_a_job: bool) -> None:
        """Take a slot back."""

    def slot_is_kept(self, until: float, job_id: str = "") -> None:
        """Take a slot back at a moment of the loop's clock."""

    def job_is_settled(self, *, was_made: bool) -> None:
        """End the job's reservation of the day, and count the job if it was made."""

    def permit_is_over(self, *, was_sent: bool, is_submit: bool) -> None:
        """Take a permit back."""


class Slot:
    """A slot of the plan, held for a remote job from before its submit until it is seen to end."""

    __slots__ = ("_has_job", "_is_counted", "_limiter")

    def __init__(self, limiter: Grantor, *, is_counted: bool) -> None:
        self._limiter: Grantor | None = limiter
        self._is_counted = is_counted
        self._has_job = not is_counted

    @property
    def is_held(self) -> bool:
        """Whether the slot is still held."""
        return self._limiter is not None

    def job_is_made(self) -> None:
        """Count the job in its day: its submit was accepted."""
        self._settle(was_made=True)

    def release(self) -> None:
        """Return the slot; a second call changes nothing."""
        if self._limiter is not None:
            self._settle(was_made=False)
            limiter, self._limiter = self._limiter, None
            limiter.slot_is_back(was_of_a_job=self._has_job)

    give_back = release

    def keep(self, until: float, job_id: str = "") -> None:
        """Leave the slot with a job that nobody here tracks any more, until a moment of the loop's clock."""
        if self._limiter is not None:
            self._settle(was_made=True)
            limiter, self._limiter = self._limiter, None
            limiter.slot_is_kept(until, job_id)

    def _settle(self, *, was_made: bool) -> None:
        if self._is_counted and self._limiter is not None:
            self._is_counted = False
            self._has_job = was_made
            self._limiter.job_is_settled(was_made=was_made)


class RequestPermit:
    """The right to send one request now. It ends once, as answered or as unsent; later calls change nothing.

    `number` is the request's number among those that count, or None; `sent_at` is when it was granted.
    """

    __slots__ = ("_is_submit", "_limiter", "number", "sent_at")

    def __init__(
        self, limiter: Grantor | None, *, is_submit: bool, number: int | None = None, sent_at: float = 0.0
    ) -> None:
        self._limiter = limiter
        self._is_submit = is_submit
        self.number = number
        self.sent_at = sent_at

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
            limiter.permit_is_over(was_sent=was_sent, is_submit=self._is_submit)
