"""The active faults: how they count, how one is chosen, and changes at run time."""

import pytest

from doitong_async.emulator.faults import Fault
from doitong_async.emulator.script import Faults


def hits(faults: Faults, *kinds: str) -> list[str]:
    return [str(faults.of_request(kind)) for kind in kinds]


def test_each_kind_has_its_own_count() -> None:
    """Requests of other kinds in between do not matter."""
    faults = Faults(["poll 2: 500", "submit 1: 502", "output 1: empty"])
    found = hits(faults, "poll", "submit", "output", "poll", "other")
    assert found == ["", "submit 1: 502", "output 1: empty", "poll 2: 500", ""]


def test_any_counts_all_api_requests() -> None:
    """Including introspection and unknown requests, but no outputs."""
    faults = Faults(["any 3: 500"])
    assert hits(faults, "poll", "output", "introspection", "other") == ["", "", "", "any 3: 500"]


def test_requests_without_a_fault_count() -> None:
    """A fault that is added later uses the numbers since the start."""
    faults = Faults()
    hits(faults, "poll", "poll")
    faults.append("poll 3: 500")
    assert hits(faults, "poll", "poll") == ["poll 3: 500", ""]


def test_times_limits_the_hits() -> None:
    """It counts requests that were hit, not all that match."""
    faults = Faults(["poll 2-: 500 times=2"])
    assert hits(faults, *["poll"] * 5) == ["", *["poll 2-: 500 times=2"] * 2, "", ""]


def test_latencies_add_up_and_one_other_fault_hits() -> None:
    """It is the first in the list; the others keep their hits."""
    faults = Faults(["poll: latency 1", "poll: 500 times=1", "poll: 502 times=1", "any: latency 2"])
    first, second, third = (faults.of_request("poll") for _ in range(3))
    assert [first.delay, third.delay] == [3.0, 3.0]
    assert [first.main, second.main, third.main] == [
        Fault("500", "poll", times=1),
        Fault("502", "poll", times=1),
        None,
    ]


def test_fault_can_be_excluded() -> None:
    """Then it keeps its hits."""
    faults = Faults(["output: redirect times=1"])
    assert faults.of_request("output", without=("redirect",)).main is None
    assert faults.of_request("output").main is not None


def test_job_has_one_fault_of_each_sort() -> None:
    """The first of each in the list."""
    faults = Faults(["job 2: late 1", "job: late 2 times=1", "job: fail", "poll: 500"])
    assert [[str(fault) for fault in faults.of_job(number)] for number in (1, 2, 3)] == [
        ["job: late 2 times=1", "job: fail"],
        ["job 2: late 1", "job: fail"],
        ["job: fail"],
    ]


def test_list_can_be_changed() -> None:
    """Faults may be given as values or as texts."""
    faults = Faults([Fault("500", "poll")])
    faults.extend(["poll: 502", "submit: 500"])
    assert len(faults) == 3
    faults.remove("poll: 500")
    faults.remove(Fault("502", "poll"))
    assert [str(fault) for fault in faults] == ["submit: 500"]
    with pytest.raises(ValueError, match="not in list"):
        faults.remove("poll: 500")
    faults.clear()
    assert not faults


def test_bad_text_adds_nothing() -> None:
    """Not even the valid texts before it."""
    faults = Faults()
    with pytest.raises(ValueError, match="the fault 'nonsense'"):
        faults.extend(["poll: 500", "nonsense"])
    assert not faults


def test_webhook_is_counted_and_has_one_fault_of_each_sort() -> None:
    """The count is of webhooks to send, whatever jobs were made in between."""
    faults = Faults(["webhook 2: late 5", "webhook 2-: late 6", "webhook: lost every=2"])
    faults.of_job(1)
    assert [[str(fault) for fault in faults.of_webhook()] for _ in range(3)] == [
        ["webhook: lost every=2"],
        ["webhook 2: late 5"],
        ["webhook 2-: late 6", "webhook: lost every=2"],
    ]
