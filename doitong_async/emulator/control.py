"""The emulator's control API, which is not part of the service: its faults over HTTP, while it runs.

On the API's port, `GET /_emulator/faults` lists the faults as JSON texts, `PUT` replaces them by such a list,
and `DELETE` removes them. These requests need no key, and are neither counted nor recorded.
"""

from aiohttp import web

from doitong_async.emulator.faults import parse_fault
from doitong_async.emulator.script import Faults

FAULTS_PATH = "/_emulator/faults"


async def control(request: web.Request, faults: Faults) -> web.Response:
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
