"""The emulator's control API, which is not part of the service: its faults over HTTP, while it runs.

On the API's port, `GET /_emulator/faults` lists the faults as JSON texts, `PUT` replaces them by such a list,
and `DELETE` removes them. `GET /_emulator` identifies the process and gives its counts, and `POST
/_emulator/stop` stops an emulator that is its own program. These requests need no key, and are neither
counted nor recorded.
"""

import os
from collections.abc import Callable

from aiohttp import web

from doitong_async.emulator.faults import parse_fault
from doitong_async.emulator.script import Faults
from doitong_async.emulator.world import World

ROOT_PATH = "/_emulator"
FAULTS_PATH = "/_emulator/faults"
STOP_PATH = "/_emulator/stop"
PATHS = (ROOT_PATH, FAULTS_PATH, STOP_PATH)


async def control(request: web.Request, world: World, stop: Callable[[], object] | None) -> web.Response:
    """Answer a request to one of `PATHS`; `stop` ends the program, None if it is part of another."""
    if request.path == FAULTS_PATH:
        return await _control_faults(request, world.faults)
    if request.path == ROOT_PATH:
        return _about(request, world)
    if request.method != "POST":
        return web.Response(status=405, headers={"Allow": "POST"})
    if stop is None:
        return web.json_response(
            {"error": "this emulator runs inside a program, and stops with it"}, status=409
        )
    stop()
    return web.json_response({"stopping": True})


def _about(request: web.Request, world: World) -> web.Response:
    if request.method != "GET":
        return web.Response(status=405, headers={"Allow": "GET"})
    counts = {"submits": world.count("submit"), "looks": world.count("poll"), "charges": world.charges}
    return web.json_response({"emulator": "doitong-async", "pid": os.getpid(), **counts})


async def _control_faults(request: web.Request, faults: Faults) -> web.Response:
    """Show or change the faults in force; the answer lists those in force afterwards."""
    match request.method:
        case "GET":
            pass
        case "PUT":
            try:
                parsed = [parse_fault(text) for text in await _texts(request)]
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
            faults.clear()
            faults.extend(parsed)
        case "DELETE":
            faults.clear()
        case _:
            return web.Response(status=405, headers={"Allow": "GET, PUT, DELETE"})
    return web.json_response([str(fault) for fault in faults])


async def _texts(request: web.Request) -> list[str]:
    given = await request.json()
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError("expected a JSON list of texts")
    return given
