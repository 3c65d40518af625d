"""The gate: slots and turns, first come first served, with nothing lost to cancelled callers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doitong_async import ClientClosedError, Plan, RateLimitError
from doitong_async.limits.gate import Gate, Priority, Turn
from tests.virtual import now, virtual

NARROW = Plan.enterprise(requests_per_minute=2, concurrent_jobs=1)


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


def start(coroutine: Any) -> asyncio.Task[Any]:
    """Begin to wait in the background."""
    return asyncio.ensure_future(coroutine)


@virtual
async def test_slots_go_to_who_came_first() -> None:
    """However many wait, a slot that comes back goes to the first in line."""
    gate = Gate(NARROW)
    lease = await gate.slot()
    order: list[int] = []

    async def take(number: int) -> None:
        mine = await gate.slot()
        order.append(number)
        mine.release()

    waiting = [start(take(number)) for number in range(5)]
    await settle()
    assert order == []
    lease.release()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert gate.slots_taken == 0


@virtual
async def test_a_lease_is_given_back_once() -> None:
    """A second release must not make a slot out of nothing."""
    gate = Gate(NARROW)
    lease = await gate.slot()
    lease.release()
    lease.release()
    assert gate.slots_taken == 0


@virtual
async def test_a_slot_granted_to_a_caller_who_is_gone_goes_on_to_the_next() -> None:
    """The cancel may come in the very moment in which the slot is granted."""
    gate = Gate(NARROW)
    lease = await gate.slot()
    gone, following = start(gate.slot()), start(gate.slot())
    await settle()
    lease.release()
    gone.cancel()
    (await following).release()
    assert gate.slots_taken == 0


@virtual
async def test_a_bounded_wait_for_a_slot_ends() -> None:
    """With an error that names the limit, and without a place left in the line."""
    gate = Gate(NARROW)
    lease = await gate.slot()
    with pytest.raises(RateLimitError):
        await gate.slot(timeout=3.0)
    assert now() == 3.0
    lease.release()
    assert (await gate.slot(timeout=3.0)).is_held


@virtual
async def test_turns_come_back_a_minute_after_the_answer() -> None:
    """Not after the sending: the server may have counted the request as late as its answer."""
    gate = Gate(NARROW)
    first, second = await gate.turn(Priority.SUBMIT), await gate.turn(Priority.SUBMIT)
    first.answered()
    await asyncio.sleep(10)
    second.answered()
    (await gate.turn(Priority.SUBMIT)).answered()
    assert now() == 60.0
    (await gate.turn(Priority.SUBMIT)).answered()
    assert now() == 70.0


@virtual
async def test_a_request_that_was_never_sent_costs_nothing() -> None:
    """Its turn is back at once."""
    gate = Gate(NARROW)
    for _ in range(5):
        (await gate.turn(Priority.SUBMIT)).unsent()
    assert now() == 0.0


@virtual
async def test_submits_go_before_looks_but_an_overdue_look_goes_first() -> None:
    """A look may wait behind submits, though not for ever."""
    gate = Gate(Plan.enterprise(requests_per_minute=1, concurrent_jobs=9))
    (await gate.turn(Priority.SUBMIT)).answered()
    order: list[str] = []

    async def take(name: str, priority: Priority) -> None:
        turn: Turn = await gate.turn(priority)
        order.append(name)
        turn.answered()

    await asyncio.sleep(57)
    waiting = [start(take("look", Priority.LOOK)), start(take("submit 1", Priority.SUBMIT))]
    waiting.append(start(take("submit 2", Priority.SUBMIT)))
    await asyncio.gather(*waiting)
    assert order == ["submit 1", "look", "submit 2"]


@virtual
async def test_a_turn_granted_to_a_caller_who_is_gone_is_not_spent() -> None:
    """Nothing was sent, so the next in line has it at once."""
    gate = Gate(Plan.enterprise(requests_per_minute=1, concurrent_jobs=9))
    held = await gate.turn(Priority.SUBMIT)
    gone, following = start(gate.turn(Priority.SUBMIT)), start(gate.turn(Priority.SUBMIT))
    await settle()
    held.unsent()
    gone.cancel()
    (await following).unsent()
    assert now() == 0.0


@virtual
async def test_a_pause_holds_everything() -> None:
    """What the service forbids until a moment is not sent before it."""
    gate = Gate(NARROW)
    gate.pause(now() + 12.5)
    (await gate.turn(Priority.LOOK)).answered()
    assert now() == 12.5


@virtual
async def test_closing_sends_everybody_away() -> None:
    """Whoever waits for a slot or a turn is told that the client is closed."""
    gate = Gate(Plan.enterprise(requests_per_minute=1, concurrent_jobs=1))
    await gate.slot()
    (await gate.turn(Priority.SUBMIT)).answered()
    waiting = [start(gate.slot()), start(gate.turn(Priority.SUBMIT)), start(gate.turn(Priority.LOOK))]
    await settle()
    gate.close()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [ClientClosedError] * 3
