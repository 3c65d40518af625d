"""The services under test, and a guard: without DOITONG_LIVE=1 no byte leaves this machine."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from doitong_async.urls import is_loopback
from tests.contract.services import Target, is_live_requested, targets


@pytest.fixture(params=targets(os.environ), ids=lambda target: target.name)
def service(request: pytest.FixtureRequest) -> Target:
    """Return one of the services under test; each case starts it."""
    target: Target = request.param
    return target


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection to another machine an error, whichever code opens it."""
    if is_live_requested(os.environ):
        return
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise AssertionError(f"{address[0]} is not this machine, and DOITONG_LIVE is not 1")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
