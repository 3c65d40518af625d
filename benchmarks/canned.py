"""The cheapest server that will do, in a process of its own: `python -m benchmarks.canned POLLS`.

It has no limits. Jobs end with their POLLS-th poll; with 0 they are over when they are made.
"""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks import wire


class Canned:
    """Counts the polls of each job; one that it does not know (any more) is completed."""

    def __init__(self, polls: int) -> None:
        self._polls = polls
        self._made = 0
        self._left: dict[str, int] = {}

    def answer(self, _: bytes, body: bytes) -> bytes:
        """Return the bytes of the answer to a request."""
        if not wire.is_submit(body):
            return wire.response(self._polled_jobs(json.loads(body)).encode())
        return self._submitted()

    def _submitted(self) -> bytes:
        self._made += 1
        # Of the same length each, and no two alike: a client refuses one job for two keys.
        job_id = f"job-{self._made:09}"
        if self._polls:
            self._left[job_id] = self._polls
        return _made(wire.snapshot(job_id, is_done=not self._polls))

    def _polled_jobs(self, request: dict[str, object]) -> str:
        variables = request["variables"]
        assert isinstance(variables, dict)
        answers = {}
        for key, name in wire.asked(str(request["query"])):
            job_id = variables[name]
            # A document of a fixed size may ask for one job several times.
            if job_id not in answers:
                answers[job_id] = wire.snapshot(job_id, is_done=self._poll(job_id))
            answers[key] = answers[job_id]
        shown = (f'"{key}":{answers[key]}' for key, _ in wire.asked(str(request["query"])))
        return f'{{"data":{{{",".join(shown)}}}}}'

    def _poll(self, job_id: str) -> bool:
        left = self._left.get(job_id, 1) - 1
        if left == 0:
            self._left.pop(job_id, None)
        else:
            self._left[job_id] = left
        return left == 0


def _made(snapshot: str) -> bytes:
    return wire.response(f'{{"data":{{"generate":{snapshot}}}}}'.encode())


async def serve(polls: int) -> None:
    """Serve on any port of the loopback, say where on stdout, and end with stdin."""
    loop = asyncio.get_running_loop()
    canned = Canned(polls)
    server = await loop.create_server(lambda: wire.Http(canned.answer), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}) + "\n")
    sys.stdout.flush()
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    bytes(1 << 20)
    asyncio.run(serve(int(sys.argv[1])))
