"""Slots and permits: whatever ends a block, it returns what it holds and nothing that it handed over."""

from __future__ import annotations

import pytest

from doitong_async.limits.permits import RequestPermit, Slot


class CallbackError(BaseException):
    """An exception that a user's callback may raise."""


class Grants:
    """Takes back slots and permits, and records how."""

    def __init__(self) -> None:
        self.returned: list[str] = []

    def slot_is_back(self, slot_id: str, *, was_of_a_job: bool) -> None:
        self.returned.append("slot of a job" if was_of_a_job else "slot")

    def slot_is_kept(self, slot_id: str, until: float, name: str) -> None:
        self.returned.append(f"slot kept until {until} with {name}")

    def job_is_settled(self, slot_id: str, *, was_made: bool) -> None:
        self.returned.append("job made" if was_made else "no job made")

    def is_stale(self, permit: RequestPermit) -> bool:
        return False

    def permit_is_over(self, *, was_sent: bool, is_submit: bool, number: int | None) -> None:
        self.returned.append("sent" if was_sent else "unsent")


def test_a_block_releases_its_slot_whatever_ends_it() -> None:
    """It releases the slot once, even if the block released it already."""
    grants = Grants()
    with pytest.raises(CallbackError), Slot(grants, is_counted=True):
        raise CallbackError
    with Slot(grants, is_counted=True) as slot:
        slot.release()
    assert grants.returned == ["no job made", "slot"] * 2


def test_a_slot_handed_over_belongs_to_its_new_holder() -> None:
    """The block returns nothing, and a second hand-over yields an empty slot."""
    grants = Grants()
    with Slot(grants, is_counted=True) as slot:
        slot.job_is_made()
        of_job = slot.hand_over()
        assert not slot.hand_over().is_held
        slot.keep(5.0, "j0")
    assert grants.returned == ["job made"]
    of_job.release()
    assert grants.returned == ["job made", "slot of a job"]


def test_a_slot_handed_over_before_its_job_was_made_is_counted_once() -> None:
    """The reservation of the day goes with it."""
    grants = Grants()
    with Slot(grants, is_counted=True) as slot:
        of_doubt = slot.hand_over()
    of_doubt.keep(5.0, "j")
    assert grants.returned == ["job made", "slot kept until 5.0 with j"]


def test_a_permit_counts_as_unsent_until_it_sends() -> None:
    """Then the service may have counted the request, unless the transport knows better."""
    grants = Grants()
    with pytest.raises(CallbackError), RequestPermit(grants, is_submit=True):
        raise CallbackError
    permit = RequestPermit(grants, is_submit=True)
    permit.sends()
    with pytest.raises(CallbackError), permit:
        raise CallbackError
    with RequestPermit(grants, is_submit=True) as permit:
        permit.sends()
        permit.unsent()
    assert grants.returned == ["unsent", "sent", "unsent"]


def test_a_permit_handed_over_belongs_to_its_new_holder() -> None:
    """It keeps its number, and the block returns nothing."""
    grants = Grants()
    with RequestPermit(grants, is_submit=False, number=7, sent_at=3.0) as permit:
        of_task = permit.hand_over()
    assert grants.returned == []
    assert (of_task.number, of_task.sent_at) == (7, 3.0)
    with of_task:
        of_task.sends()
    assert grants.returned == ["sent"]
