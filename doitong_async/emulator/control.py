"""The emulator's own switch, which is no part of the service: its faults over HTTP, while it runs.

`GET /_emulator/faults` on the API's port gives them as a JSON list of texts, `PUT` puts such a list in their
place, `DELETE` takes all away. It asks for no key, and its requests are neither counted nor recorded.
"""

from aiohttp import web

from doitong_async.emulator.faults import parse_fault
from doitong_async.emulator.script import Faults

FAULTS_PATH = "/_emulator/faults"


async def control_faults(request: web.Request, faults: Faults) -> web.Response:
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
