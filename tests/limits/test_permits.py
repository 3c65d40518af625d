"""Slots and permits: whatever ends a block, it returns what it holds, and nothing that it handed over."""

from __future__ import annotations

import pytest

from doitong_async.limits.permits import RequestPermit, Slot


class Mine(BaseException):
    """What a user's callback may raise."""


class Grants:
    """Takes back slots and permits, and records how."""

    def __init__(self) -> None:
        self.returned: list[str] = []

    def slot_is_back(self, *, was_of_a_job: bool) -> None:
        self.returned.append("slot of a job" if was_of_a_job else "slot")

    def slot_is_kept(self, until: float, job_id: str = "") -> None:
        self.returned.append(f"slot kept until {until} with {job_id}")

    def job_is_settled(self, *, was_made: bool) -> None:
        self.returned.append("job made" if was_made else "no job made")

    def permit_is_over(self, *, was_sent: bool, is_submit: bool) -> None:
        self.returned.append("sent" if was_sent else "unsent")


def test_a_block_releases_its_slot_whatever_ends_it() -> None:
    """Once, also if it released the slot itself."""
    grants = Grants()
    with pytest.raises(Mine), Slot(grants, is_counted=True):
        raise Mine
    with Slot(grants, is_counted=True) as slot:
        slot.release()
    assert grants.returned == ["no job made", "slot"] * 2


def test_a_slot_that_was_handed_over_is_its_next_holders() -> None:
    """The block returns nothing, and a second hand-over brings an empty slot."""
    grants = Grants()
    with Slot(grants, is_counted=True) as slot:
        slot.job_is_made()
        of_job = slot.hand_over()
        assert not slot.hand_over().is_held
        slot.keep(5.0)
    assert grants.returned == ["job made"]
    of_job.release()
    assert grants.returned == ["job made", "slot of a job"]


def test_a_slot_handed_over_before_its_job_was_made_is_counted_once() -> None:
    """The reservation of the day goes along with it."""
    grants = Grants()
    with Slot(grants, is_counted=True) as slot:
        of_doubt = slot.hand_over()
    of_doubt.keep(5.0, "j")
    assert grants.returned == ["job made", "slot kept until 5.0 with j"]


def test_a_block_ends_its_permit_as_unsent_until_it_sends() -> None:
    """From then on the service may have counted the request, unless the transport knows better."""
    grants = Grants()
    with pytest.raises(Mine), RequestPermit(grants, is_submit=True):
        raise Mine
    permit = RequestPermit(grants, is_submit=True)
    permit.sends()
    with pytest.raises(Mine), permit:
        raise Mine
    with RequestPermit(grants, is_submit=True) as permit:
        permit.sends()
        permit.unsent()
    assert grants.returned == ["unsent", "sent", "unsent"]


def test_a_permit_that_was_handed_over_is_its_next_holders() -> None:
    """With its number; the block ends nothing."""
    grants = Grants()
    with RequestPermit(grants, is_submit=False, number=7, sent_at=3.0) as permit:
        of_task = permit.hand_over()
    assert grants.returned == []
    assert (of_task.number, of_task.sent_at) == (7, 3.0)
    with of_task:
        of_task.sends()
    assert grants.returned == ["sent"]
