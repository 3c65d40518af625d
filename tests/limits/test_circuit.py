"""The circuit of an account's credits: closed, open, half-open, and one probe at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doitong_async.limits.circuit import FORGOTTEN_AFTER, OPEN_FOR, CreditCircuit
from doitong_async.transport.failure import Failure, FailureKind


def a_402(available: float | None = 5.0) -> Failure:
    """Return a 402."""
    return Failure(
        FailureKind.CREDITS,
        "The service said: 'Insufficient credits'.",
        http_status=402,
        code="INSUFFICIENT_CREDITS",
        credits_required=20.0,
        credits_available=available,
    )


def opened(now: float = 0.0) -> CreditCircuit:
    """Return a circuit that a 402 opened."""
    circuit = CreditCircuit()
    circuit.rejected(a_402(), now)
    return circuit


def test_a_402_opens_the_circuit_for_half_a_minute() -> None:
    """And another one for half a minute from then on."""
    assert not CreditCircuit().is_open(0.0)
    circuit = opened()
    assert [circuit.is_open(at) for at in (0.0, OPEN_FOR - 0.1, OPEN_FOR)] == [True, True, False]
    circuit.rejected(a_402(), 20.0)
    assert [circuit.is_open(at) for at in (49.9, 50.0)] == [True, False]


def test_the_first_submit_of_a_half_open_circuit_is_the_probe() -> None:
    """One that is sent while the circuit is closed, or open as it is in doubt, is none."""
    circuit = CreditCircuit()
    circuit.sends(1, 0.0)
    assert not circuit.is_probing()
    circuit.rejected(a_402(), 1.0)
    circuit.sends(2, 2.0)
    assert not circuit.is_probing()
    circuit.sends(3, 31.0)
    assert circuit.is_probing()


def test_a_probe_that_is_accepted_closes_the_circuit() -> None:
    """Then every submit may go."""
    circuit = opened()
    circuit.sends(1, 30.0)
    circuit.accepted(sent_at=30.0)
    circuit.over(1)
    circuit.sends(2, 31.0)
    assert not circuit.is_open(31.0)
    assert not circuit.is_probing()


def test_a_probe_that_gets_a_402_opens_the_circuit_again() -> None:
    """For half a minute, after which the next one goes."""
    circuit = opened()
    circuit.sends(1, 30.0)
    circuit.rejected(a_402(), 31.0)
    circuit.over(1)
    assert circuit.is_open(60.9)
    assert not circuit.is_probing()
    circuit.sends(2, 61.0)
    assert circuit.is_probing()


def test_a_probe_that_says_nothing_about_credits_makes_room_for_the_next() -> None:
    """It was not sent, or met another failure. The end of an older request changes nothing."""
    circuit = opened()
    circuit.sends(7, 30.0)
    circuit.over(6)
    assert circuit.is_probing()
    circuit.over(7)
    assert not circuit.is_probing()
    assert not circuit.is_open(30.0)
    circuit.sends(8, 31.0)
    assert circuit.is_probing()


def test_a_submit_sent_before_the_402_does_not_close_the_circuit() -> None:
    """Its answer may only have been slower: it took the last credits."""
    circuit = opened(5.0)
    circuit.accepted(sent_at=5.0)
    assert circuit.is_open(6.0)
    circuit.accepted(sent_at=5.1)
    assert not circuit.is_open(6.0)


def test_it_knows_the_balance_and_its_age() -> None:
    """As the service last named it, which it need not do with every 402."""
    assert (CreditCircuit().available, CreditCircuit().age(9.0)) == (None, None)
    circuit = opened(1.0)
    circuit.rejected(a_402(None), 8.0)
    assert (circuit.available, circuit.age(9.0)) == (5.0, 8.0)


def test_its_error_says_what_is_known_and_when_to_come_back() -> None:
    """What the other job would have cost is not said of this one."""
    error = opened().error(12.5)
    assert str(error) == (
        "Not sent: 12 s ago the service rejected another submit for lack of credits. The service said: "
        "'Insufficient credits'. Nothing was sent, and nothing was charged. Buy credits. In 18 s one submit "
        "is sent to find out. [code: INSUFFICIENT_CREDITS]"
    )
    assert (error.credits_required, error.credits_available, error.retry_after) == (None, 5.0, 17.5)


def test_a_402_is_forgotten_after_an_hour() -> None:
    """So that no rate limiter is kept for it without end; a closed circuit has nothing to remember."""
    circuit = opened()
    assert [circuit.is_fresh(at) for at in (0.0, FORGOTTEN_AFTER - 1, FORGOTTEN_AFTER)] == [
        False,
        False,
        True,
    ]
    circuit.accepted(sent_at=1.0)
    assert circuit.is_fresh(1.0)


@given(st.lists(st.tuples(st.sampled_from(["send", "accept", "402", "lose", "wait"]), st.integers(0, 40))))
def test_once_it_is_half_open_one_submit_at_a_time_is_out(acts: list[tuple[str, int]]) -> None:
    """Whatever the answers, and however late those of earlier submits come."""
    circuit, now = CreditCircuit(), 0.0
    out: dict[int, float] = {}
    number, last_402 = 0, -1.0
    for act, amount in acts:
        now += amount / 10 if act != "wait" else amount
        if act == "send" and not circuit.is_open(now) and not circuit.is_probing():
            number += 1
            out[number] = now
            circuit.sends(number, now)
        elif act in ("accept", "402", "lose") and out:
            each = sorted(out)[amount % len(out)]
            sent_at = out.pop(each)
            if act == "accept":
                circuit.accepted(sent_at=sent_at)
                last_402 = -1.0 if sent_at > last_402 else last_402
            elif act == "402":
                circuit.rejected(a_402(), now)
                last_402 = now
            circuit.over(each)
        is_half_open = last_402 >= 0 and now >= last_402 + OPEN_FOR
        assert circuit.is_open(now) == (last_402 >= 0 and now < last_402 + OPEN_FOR)
        if is_half_open:
            assert sum(sent_at >= last_402 + OPEN_FOR for sent_at in out.values()) <= 1
