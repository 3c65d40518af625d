"""What the gate grants: a slot for a job, a turn for a request; each is given back once."""

from __future__ import annotations

from typing import Protocol


class Grantor(Protocol):
    """Who granted them, and takes them back."""

    def slot_is_back(self, *, was_of_a_job: bool) -> None:
        """Take a slot back."""

    def slot_is_kept(self, until: float, job_id: str = "") -> None:
        """Take a slot back at that moment of the loop's clock."""

    def job_is_settled(self, *, was_made: bool) -> None:
        """Count a job of the day that was set aside, or set it aside no more."""

    def permit_is_over(self, *, was_sent: bool, is_submit: bool) -> None:
        """Take a turn back."""


class Slot:
    """A slot of the plan, held by a remote job from before its submit until its end is seen."""

    __slots__ = ("_has_job", "_is_counted", "_limiter")

    def __init__(self, limiter: Grantor, *, is_counted: bool) -> None:
        self._limiter: Grantor | None = limiter
        self._is_counted = is_counted
        self._has_job = not is_counted

    @property
    def is_held(self) -> bool:
        """Whether the slot was not given back yet."""
        return self._limiter is not None

    def job_is_made(self) -> None:
        """Count the job in its day: its submit was accepted."""
        self._settle(was_made=True)

    def release(self) -> None:
        """Give the slot back; a second time changes nothing."""
        if self._limiter is not None:
            self._settle(was_made=False)
            limiter, self._limiter = self._limiter, None
            limiter.slot_is_back(was_of_a_job=self._has_job)

    give_back = release

    def keep(self, until: float, job_id: str = "") -> None:
        """Leave the slot with a job that nobody here watches any more, until a moment of the loop's clock."""
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
    """The right to send one request now. It ends with the one or the other, and then changes nothing more.

    `number` is the request's among those that count, None if it does not; `sent_at` is when it was granted.
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
        """Say that the request was answered, or is lost."""
        self._end(was_sent=True)

    def unsent(self) -> None:
        """Say that the request never left this machine."""
        self._end(was_sent=False)

    give_back = unsent

    def _end(self, *, was_sent: bool) -> None:
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.permit_is_over(was_sent=was_sent, is_submit=self._is_submit)
