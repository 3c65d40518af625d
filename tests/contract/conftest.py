"""The services, one after the other, and a guard: without DOITONG_LIVE=1 no byte leaves this machine."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from doitong_async.urls import is_loopback
from tests.contract.services import Place, is_asked_for_live, places


@pytest.fixture(params=places(os.environ), ids=lambda place: place.name)
def service(request: pytest.FixtureRequest) -> Place:
    """One of the services that take part; a case gets it when it listens."""
    place: Place = request.param
    return place


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no socket connect elsewhere, whoever asks for it."""
    if is_asked_for_live(os.environ):
        return
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise AssertionError(f"{address[0]} is not this machine, and DOITONG_LIVE is not 1")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
