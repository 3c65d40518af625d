"""The emulator's own switch, which is no part of the service: its faults over HTTP, while it runs.

`GET /_emulator/faults` on the API's port gives them as a JSON list of texts, `PUT` puts such a list in their
place, `DELETE` takes all away. `GET /_emulator` tells which process this is and what it counted, and
`POST /_emulator/stop` ends an emulator that is a program of its own. These ask for no key, and their requests
are neither counted nor recorded.
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
    """Answer a request to one of `PATHS`; `stop` ends the program, None where it is part of another."""
    if request.path == FAULTS_PATH:
        return await _control_faults(request, world.faults)
    if request.path == ROOT_PATH:
        return _about(request, world)
    if request.method != "POST":
        return web.Response(status=405, headers={"Allow": "POST"})
    if stop is None:
        return web.json_response({"error": "this emulator ends with the program that it is in"}, status=409)
    stop()
    return web.json_response({"stopping": True})


def _about(request: web.Request, world: World) -> web.Response:
    if request.method != "GET":
        return web.Response(status=405, headers={"Allow": "GET"})
    counts = {"submits": world.count("submit"), "looks": world.count("poll"), "charges": world.charges}
    return web.json_response({"emulator": "doitong-async", "pid": os.getpid(), **counts})


async def _control_faults(request: web.Request, faults: Faults) -> web.Response:
    """Show or change the faults in force; the answer is what is in force then."""
    match request.method:
        case "GET":
            pass
        case "PUT":
            try:
                fresh = [parse_fault(text) for text in await _texts(request)]
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
            faults.clear()
            faults.extend(fresh)
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
