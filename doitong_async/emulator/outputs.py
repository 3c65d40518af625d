"""The outputs host: serves files by name, whole or in ranges, without a key, and records the headers."""

import hashlib
from email.utils import formatdate

from aiohttp import web

from doitong_async.emulator.breakage import GATEWAY_PAGE, SIGN_IN_PAGE
from doitong_async.emulator.clocks import read_clocks
from doitong_async.emulator.edges import Waits, cut, send_oddly
from doitong_async.emulator.faults import Fault
from doitong_async.emulator.gallery import Gallery
from doitong_async.emulator.traffic import Seen
from doitong_async.emulator.world import World

_TYPES = {"jpg": "image/jpeg", "gif": "image/gif", "wav": "audio/wav"}


_REDIRECTED = "redirected"


class OutputsHost:
    """Answers `/outputs/<id>.<ext>`."""

    def __init__(self, world: World, waits: Waits) -> None:
        self._world = world
        self._waits = waits
        self._gallery = Gallery()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Return the output, or the requested part, and record the request's headers."""
        now, wall = read_clocks()
        followed = ("redirect",) if _REDIRECTED in request.query else ()
        hits = self._world.faults.of_request("output", without=followed)
        folder, _, name = request.path.rpartition("/")
        job = self._world.output(name, now) if folder == "/outputs" else None
        if request.method not in ("GET", "HEAD"):
            response = web.Response(status=405, headers={"Allow": "GET, HEAD"})
        elif job is None:
            response = web.Response(status=404, text="404: Not Found")
        else:
            response = _serve(request, await self._gallery.draw(job), name)
        fault = hits.main
        response = _broken(response, fault) if fault else response
        response.headers["Date"] = formatdate(wall, usegmt=True)
        ids = (job.id,) if job else ()
        is_cut = fault is not None and fault.what == "cut-before"
        status = 0 if is_cut else response.status
        self._world.record(Seen(now, "output", status, ids, dict(request.headers), str(hits) or None))
        if hits.delay:
            await self._waits.wait(hits.delay)
        if is_cut:
            return cut(request)
        if fault and fault.what in ("truncated", "slow", "oversized") and request.method == "GET":
            return await send_oddly(request, response, fault, self._waits)
        return response


def _broken(response: web.Response, fault: Fault) -> web.Response:
    """Return the response that a fault puts in place; faults in the sending are applied elsewhere."""
    match fault.what:
        case "500":
            return web.Response(status=500, text="500: Internal Server Error")
        case "502":
            return web.Response(status=502, text=GATEWAY_PAGE, content_type="text/html")
        case "redirect":
            return web.Response(status=302, headers={"Location": fault.url or f"?{_REDIRECTED}"})
        case "html":
            return web.Response(text=SIGN_IN_PAGE, content_type="text/html")
        case "empty":
            return web.Response(content_type=response.content_type)
    return response


def _serve(request: web.Request, content: bytes, name: str) -> web.Response:
    etag = hashlib.sha256(content).hexdigest()[:32]
    headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
    content_type = _TYPES[name.rpartition(".")[2]]
    if request.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
        return web.Response(body=content, content_type=content_type, headers=headers)
    try:
        wanted = request.http_range
    except ValueError:
        wanted = slice(None)
    if wanted.start is None and wanted.stop is None:
        return web.Response(body=content, content_type=content_type, headers=headers)
    start, stop, _ = wanted.indices(len(content))
    if start >= stop:
        headers["Content-Range"] = f"bytes */{len(content)}"
        return web.Response(status=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return web.Response(status=206, body=content[start:stop], content_type=content_type, headers=headers)
