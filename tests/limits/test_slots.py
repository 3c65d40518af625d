"""The count of slots: those of tracked jobs, and those kept for jobs that nobody tracks."""

from __future__ import annotations

from doitong_async.limits.slots import SlotCount


def test_a_kept_slot_is_free_once_it_expires() -> None:
    """Not a moment before; the earliest expires first."""
    slots = SlotCount(2)
    slots.take()
    slots.take()
    assert slots.next_expiry() is None
    slots.keep(20.0, "b")
    slots.keep(10.0, "a")
    assert (slots.next_expiry(), slots.has_free(9.9), slots.taken(10.0), slots.taken(20.0)) == (
        10,
        False,
        1,
        0,
    )


def test_a_resumed_job_takes_the_slot_kept_for_it() -> None:
    """Another job, or one without an id, takes one more."""
    slots = SlotCount(1)
    slots.take()
    slots.keep(10.0, "a")
    slots.take_for("b")
    slots.take_for("")
    assert slots.taken(0.0) == 3
    slots.take_for("a")
    assert (slots.taken(0.0), slots.next_expiry()) == (3, None)
    slots.give_back()
    assert slots.taken(99.0) == 2
