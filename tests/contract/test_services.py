"""The contract's own promises: nothing leaves this machine unasked, and the budget is never passed."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from doitong_async import Plan
from doitong_async.emulator import Emulator
from tests.contract import test_contract
from tests.contract.purse import BUDGET, PICTURE, BudgetError, BudgetTracker
from tests.contract.services import CASES, Place, Service, contract, is_asked_for_live, places
from tests.virtual import now, virtual

HOW = (
    "DOITONG_LIVE=1 DOITONG_API_KEY=… DOITONG_PLAN=… python -m pytest tests/contract "
    f"holds the contract against the live service too, for at most {BUDGET} credits"
)


def test_the_live_service_takes_part_when_it_is_asked_for() -> None:
    """Skipped, with the command that asks for it, where it is not."""
    if not is_asked_for_live(os.environ):
        pytest.skip(HOW)
    assert "live" in [place.name for place in places(os.environ)]


@pytest.mark.parametrize(
    "environment",
    [{}, {"DOITONG_API_KEY": "k"}, {"DOITONG_LIVE": "1"}, {"DOITONG_LIVE": "0", "DOITONG_API_KEY": "k"}],
)
def test_both_variables_ask_for_the_live_service(environment: dict[str, str]) -> None:
    """One of them alone does not, nor does a key that is in the environment for other work."""
    assert [place.name for place in places(environment)] == ["emulator", "plain", "contrary"]
    both = {"DOITONG_LIVE": "1", "DOITONG_API_KEY": "k"}
    assert [place.name for place in places(both) if place.tracker] == ["live"]


@pytest.fixture
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOITONG_LIVE", raising=False)


@pytest.mark.usefixtures("_unasked")
def test_a_service_elsewhere_is_refused_unasked() -> None:
    """Before a client could be made for it."""
    with pytest.raises(RuntimeError, match="not on this machine"):
        Service(base_url="https://api.doitong.com", key="k", plan=Plan.FREE)


def test_the_key_does_not_leave_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the live service is asked for."""
    monkeypatch.setenv("DOITONG_LIVE", "1")
    monkeypatch.setenv("DOITONG_API_KEY", "k")
    assert Service(base_url="https://api.doitong.com", key="k", plan=Plan.FREE)
    with pytest.raises(RuntimeError, match="not https"):
        Service(base_url="http://api.doitong.com", key="k", plan=Plan.FREE)


@pytest.mark.skipif(is_asked_for_live(os.environ), reason="connections elsewhere were asked for")
def test_no_socket_connects_elsewhere() -> None:
    """The guard holds for whoever opens one; 192.0.2.1 is nobody's address."""
    with socket.socket() as one, pytest.raises(AssertionError, match=r"192\.0\.2\.1 is not this machine"):
        one.connect(("192.0.2.1", 443))


def test_every_case_says_what_it_may_cost_and_all_fit_the_budget() -> None:
    """Together they reserve no more than is stated."""
    cases = {name for name in vars(test_contract) if name.startswith("test_")}
    assert cases <= CASES.keys()
    assert 0 < sum(CASES[name] for name in cases) <= BUDGET


def test_a_purse_gives_no_more_than_it_has() -> None:
    """What is refused is not taken; what came dearer than reserved is."""
    tracker = BudgetTracker(50)
    tracker.take(40)
    with pytest.raises(BudgetError, match="may cost 20 credits; of the budget of 250, 10 are left"):
        tracker.take(20)
    assert tracker.left == 10
    tracker.settle(40, told=25)
    assert tracker.left == 10
    tracker.settle(40, told=45)
    assert tracker.left == 5


@asynccontextmanager
async def at_once() -> AsyncIterator[Service]:
    """The emulator with jobs that are done when they are made: in real time nothing is waited for."""
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


def test_a_case_is_refused_before_anything_is_sent() -> None:
    """Where the purse lacks what it may cost, the service is not even started."""
    started = []

    @asynccontextmanager
    async def start() -> AsyncIterator[Service]:
        started.append(True)
        async with at_once() as service:
            yield service

    tracker = BudgetTracker(PICTURE + 1)
    one_picture(Place("dear", start, tracker))
    with pytest.raises(BudgetError):
        one_picture(Place("dear", start, tracker))
    assert (started, tracker.left) == ([True], 1)


def test_what_a_case_really_cost_is_taken() -> None:
    """A case that says less than it costs is found out on the emulator, and cannot hide it from the purse."""
    with pytest.raises(AssertionError):
        one_picture_for_nothing(Place("emulator", at_once))
    tracker = BudgetTracker()
    with pytest.raises(AssertionError):
        one_picture_for_nothing(Place("dear", at_once, tracker))
    assert tracker.left == BUDGET - 10


@virtual
async def test_a_raw_request_waits_where_the_minute_is_used_up() -> None:
    """The cases share one key: on Free its ten requests are soon spent."""
    async with Emulator("free", faults=["any 1: 429-minute"]) as server:
        service = Service(base_url=server.url, key="k", plan=Plan.FREE)
        assert (await service.ask("query { __typename }")).status == 200
        assert 60 <= now() < 61
