"""The outputs host: files by name, whole or in ranges; it asks for no key and notes the headers it got."""

import hashlib
from email.utils import formatdate

from aiohttp import web

from doitong_async.emulator.clocks import read_clocks
from doitong_async.emulator.gallery import Gallery
from doitong_async.emulator.world import Seen, World

_TYPES = {"jpg": "image/jpeg", "gif": "image/gif", "wav": "audio/wav"}


class OutputsHost:
    """Answers `/outputs/<id>.<ext>`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gallery = Gallery()

    async def answer(self, request: web.Request) -> web.Response:
        """The output, or the part of it that was asked for, and a record of the headers that came."""
        now, wall = read_clocks()
        folder, _, name = request.path.rpartition("/")
        job = self._world.output(name, now) if folder == "/outputs" else None
        if request.method not in ("GET", "HEAD"):
            response = web.Response(status=405, headers={"Allow": "GET, HEAD"})
        elif job is None:
            response = web.Response(status=404, text="404: Not Found")
        else:
            response = _serve(request, await self._gallery.draw(job), name)
        response.headers["Date"] = formatdate(wall, usegmt=True)
        ids = (job.id,) if job else ()
        self._world.record(Seen(now, "output", response.status, ids, dict(request.headers)))
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
