"""The contract itself: nothing leaves this machine unless requested, and no run exceeds the budget."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from doitong_async import Plan
from doitong_async.emulator import Emulator
from tests.contract import test_contract
from tests.contract.budget import BUDGET, PICTURE, BudgetError, BudgetTracker
from tests.contract.services import CASES, Service, Target, contract, is_live_requested, targets
from tests.virtual import now, virtual

HOW = (
    "DOITONG_LIVE=1 DOITONG_API_KEY=… DOITONG_PLAN=… python -m pytest tests/contract "
    f"tests the contract on the live service too, for at most {BUDGET} credits"
)


def test_the_live_service_is_tested_on_request() -> None:
    """Otherwise the test is skipped, with the command that requests it."""
    if not is_live_requested(os.environ):
        pytest.skip(HOW)
    assert "live" in [target.name for target in targets(os.environ)]


@pytest.mark.parametrize(
    "environment",
    [{}, {"DOITONG_API_KEY": "k"}, {"DOITONG_LIVE": "1"}, {"DOITONG_LIVE": "0", "DOITONG_API_KEY": "k"}],
)
def test_the_live_service_needs_both_variables(environment: dict[str, str]) -> None:
    """One alone does not request it, nor does a key that the environment has for other work."""
    assert {target.name.split(" ")[0] for target in targets(environment)} == {"emulator", "plain", "contrary"}
    both = {"DOITONG_LIVE": "1", "DOITONG_API_KEY": "k"}
    assert [target.name for target in targets(both) if target.tracker] == ["live"]


@pytest.fixture
def _not_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOITONG_LIVE", raising=False)


@pytest.mark.usefixtures("_not_requested")
def test_a_remote_service_is_rejected_unless_requested() -> None:
    """The error comes before a client can exist for it."""
    with pytest.raises(RuntimeError, match="not on this machine"):
        Service(base_url="https://api.doitong.com", key="k", plan=Plan.FREE)


def test_the_key_never_leaves_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a requested live service."""
    monkeypatch.setenv("DOITONG_LIVE", "1")
    monkeypatch.setenv("DOITONG_API_KEY", "k")
    assert Service(base_url="https://api.doitong.com", key="k", plan=Plan.FREE)
    with pytest.raises(RuntimeError, match="not https"):
        Service(base_url="http://api.doitong.com", key="k", plan=Plan.FREE)


@pytest.mark.skipif(is_live_requested(os.environ), reason="connections to the live service were requested")
def test_no_socket_connects_to_another_machine() -> None:
    """The guard covers every socket; 192.0.2.1 is an address that no machine has."""
    with socket.socket() as one, pytest.raises(AssertionError, match=r"192\.0\.2\.1 is not this machine"):
        one.connect(("192.0.2.1", 443))


def test_every_case_states_its_cost_and_all_fit_the_budget() -> None:
    """Together they reserve no more than the budget."""
    cases = {name for name in vars(test_contract) if name.startswith("test_")}
    assert cases <= CASES.keys()
    assert 0 < sum(CASES[name] for name in cases) <= BUDGET


def test_a_budget_gives_no_more_than_it_has() -> None:
    """A rejected case reserves nothing; a case that costs more than it reserved pays the difference."""
    tracker = BudgetTracker(50)
    tracker.take(40)
    with pytest.raises(BudgetError, match="may cost 20 credits; of the budget of 250, 10 are left"):
        tracker.take(20)
    assert tracker.left == 10
    tracker.settle(40, actual=25)
    assert tracker.left == 10
    tracker.settle(40, actual=45)
    assert tracker.left == 5


@asynccontextmanager
async def at_once() -> AsyncIterator[Service]:
    """An emulator whose jobs are done at once, so that a test in real time need not wait."""
    async with Emulator("pro", durations=0.0) as server:
        yield Service(base_url=server.url, key="k", plan=Plan.PRO, jobs=lambda: len(server.world.jobs))


@contract(pictures=1)
async def one_picture(service: Service) -> None:
    async with service.client() as doitong:
        await doitong.generate("a fox")


@contract(pictures=0)
async def one_picture_for_nothing(service: Service) -> None:
    async with service.client() as doitong:
        await doitong.generate("a fox")


def test_a_case_over_the_budget_is_rejected_before_anything_is_sent() -> None:
    """Without enough credits the service is not even started."""
    started = []

    @asynccontextmanager
    async def start() -> AsyncIterator[Service]:
        started.append(True)
        async with at_once() as service:
            yield service

    tracker = BudgetTracker(PICTURE + 1)
    one_picture(Target("dear", start, tracker=tracker))
    with pytest.raises(BudgetError):
        one_picture(Target("dear", start, tracker=tracker))
    assert (started, tracker.left) == ([True], 1)


def test_the_real_cost_of_a_case_is_subtracted() -> None:
    """A case that understates its cost fails on the emulator and still pays the full cost."""
    with pytest.raises(AssertionError):
        one_picture_for_nothing(Target("emulator", at_once))
    tracker = BudgetTracker()
    with pytest.raises(AssertionError):
        one_picture_for_nothing(Target("dear", at_once, tracker=tracker))
    assert tracker.left == BUDGET - 10


@virtual
async def test_a_raw_request_waits_for_the_next_minute() -> None:
    """All cases share one key, and the ten requests of the Free plan are soon spent."""
    async with Emulator("free", faults=["any 1: 429-minute"]) as server:
        service = Service(base_url=server.url, key="k", plan=Plan.FREE)
        assert (await service.ask("query { __typename }")).status == 200
        assert 60 <= now() < 61
