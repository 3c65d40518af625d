"""Changing the faults over HTTP while the emulator runs."""

import json
from typing import Any

import pytest
from aiohttp import ClientSession

from doitong_async.emulator import Emulator, Fault
from tests.virtual import virtual


async def call(
    session: ClientSession, emulator: Emulator, method: str, body: object = None
) -> tuple[int, Any]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with session.request(method, f"{emulator.url}/_emulator/faults", data=sent) as response:
        content = await response.read()
        return response.status, json.loads(content) if content else None


@virtual
async def test_faults_can_be_read_replaced_and_deleted() -> None:
    """As texts, in their short form."""
    async with Emulator(faults=["poll  1: latency seconds=5"]) as emulator, ClientSession() as session:
        assert await call(session, emulator, "GET") == (200, ["poll 1: latency 5"])
        assert await call(session, emulator, "PUT", ["job *: stuck"]) == (200, ["job: stuck"])
        assert list(emulator.faults) == [Fault("stuck", "job")]
        assert await call(session, emulator, "DELETE") == (200, [])
        assert not emulator.faults


@virtual
async def test_faults_apply_from_the_next_request_on() -> None:
    """Whether HTTP or code changed them."""
    async with Emulator() as emulator, ClientSession() as session:
        status = []
        for change in (None, ["any: 502"], []):
            if change is not None:
                await call(session, emulator, "PUT", change)
            async with session.get(
                f"{emulator.url}/v1/generations/x", headers={"X-API-Key": "k"}
            ) as response:
                status.append(response.status)
        emulator.faults.append("poll 4: 500")
        async with session.get(f"{emulator.url}/v1/generations/x", headers={"X-API-Key": "k"}) as response:
            status.append(response.status)
        assert status == [404, 502, 404, 500]


@virtual
async def test_the_endpoint_is_not_part_of_the_service() -> None:
    """No key, no fault, no count, no record; and it is not on the port of the outputs."""
    async with Emulator(key="right", faults=["any: 500"]) as emulator, ClientSession() as session:
        assert (await call(session, emulator, "GET"))[0] == 200
        assert not emulator.world.seen
        assert emulator.world.most_in_window == 0
        root = emulator.outputs_url.removesuffix("/outputs")
        async with session.get(f"{root}/_emulator/faults") as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "Expecting value"),
        ({"poll": "500"}, "expected a JSON list of texts"),
        ([1], "expected a JSON list of texts"),
        (["poll: 500", "poll: 5oo"], "'5oo' is none of"),
    ],
)
def test_invalid_faults_change_nothing(body: object, reason: str) -> None:
    """The 400 says why."""

    @virtual
    async def run() -> None:
        async with Emulator(faults=["job: stuck"]) as emulator, ClientSession() as session:
            status, answer = await call(session, emulator, "PUT", body)
            assert status == 400
            assert reason in answer["error"]
            assert list(emulator.faults) == [Fault("stuck", "job")]

    run()


@virtual
async def test_other_methods_are_rejected() -> None:
    """With 405."""
    async with Emulator() as emulator, ClientSession() as session:
        assert (await call(session, emulator, "POST", []))[0] == 405
