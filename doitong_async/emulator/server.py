"""The emulator as a server: the API on one port, the outputs on another, both on the loopback."""

import json
import secrets
from collections import deque
from collections.abc import Collection, Iterable
from email.utils import formatdate
from types import TracebackType
from typing import Self

from aiohttp import web

from doitong_async.emulator.api import Api, ResetUnit
from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.calls import Call, Reply, error_reply
from doitong_async.emulator.clocks import read_clocks
from doitong_async.emulator.control import FAULTS_PATH, control
from doitong_async.emulator.edges import Waits, cut
from doitong_async.emulator.faults import Fault
from doitong_async.emulator.graphql import ErrorStatus, GraphQLFace
from doitong_async.emulator.jobs import Durations, Job
from doitong_async.emulator.limits import PlanLimits
from doitong_async.emulator.outputs import OutputsHost
from doitong_async.emulator.rest import RestFace
from doitong_async.emulator.script import Faults
from doitong_async.emulator.sender import Sender
from doitong_async.emulator.traffic import Seen
from doitong_async.emulator.webhooks import Posted
from doitong_async.emulator.world import OverConcurrency, Rules, World

LARGEST_BODY = 1 << 20
_KEEP_ALIVE = 3600.0
# A client on a large plan opens hundreds of connections at once; beyond the backlog each would wait a second.
_BACKLOG = 4096


class Emulator:
    """An emulator of the Doitong API; `async with` starts and stops it.

    Job ids are new in each emulator, unless it gets a `seed`; durations and faults are the same each time.
    `speed` makes jobs end that many times faster without changing the rate limits; `durations` is the
    seconds of every job, or a function from the job's number to its seconds. `faults` are values, or texts
    in the form of `doitong_async.emulator.faults`. With `keys_honoured=False` a repeated submit under the
    same Idempotency-Key creates a second job; with `introspection=False` the schema is not shown.

    With a `webhook_secret` it sends a signed webhook when a job with a `webhookUrl` ends, in up to
    `webhook_attempts` attempts, after 1 s, 2 s, 4 s …, which `speed` shortens too: our assumptions. It sends
    only to this machine and to the `webhook_hosts`. `posted` records what it sent.
    """

    def __init__(
        self,
        plan: str | PlanLimits = "free",
        *,
        credits: int = 10_000,  # noqa: A002 - the field's word; the site builtin is for interactive shells
        seed: int | None = None,
        speed: float = 1.0,
        key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        outputs_port: int = 0,
        status_field: str = "generation",
        error_status: ErrorStatus = "table",
        answer_key: str | None = None,
        introspection: bool = True,
        over_concurrency: OverConcurrency = "refuse",
        polls_count: bool = True,
        reset_unit: ResetUnit = "epoch_s",
        durations: Durations = None,
        keys_honoured: bool = True,
        faults: Iterable[Fault | str] = (),
        webhook_secret: str | None = None,
        webhook_attempts: int = 6,
        webhook_hosts: Collection[str] = (),
    ) -> None:
        rules = Rules(
            credits=credits,
            seed=seed or 0,
            run=secrets.token_hex(8) if seed is None else "",
            speed=speed,
            key=key,
            over_concurrency=over_concurrency,
            polls_count=polls_count,
            durations=durations,
            keys_honoured=keys_honoured,
        )
        self.world: World = World(plan, rules, faults=faults)
        graphql = GraphQLFace(
            self.world,
            lambda: self.outputs_url,
            status_field=status_field,
            error_status=error_status,
            answer_key=answer_key,
            introspection=introspection,
        )
        self._api = Api(self.world, graphql, RestFace(self.world, lambda: self.outputs_url), reset_unit)
        self._waits = Waits()
        self._outputs = OutputsHost(self.world, self._waits)
        self._sender = Sender(
            self.world.faults,
            lambda: self.outputs_url,
            secret=webhook_secret,
            attempts=webhook_attempts,
            hosts=webhook_hosts,
            speed=speed,
        )
        self._host, self._ports = host, (port, outputs_port)
        self._runners: list[web.AppRunner] = []

    @property
    def url(self) -> str:
        """The API's base URL: the root of `/graphql` and `/v1/…`."""
        return self._origin(0)

    @property
    def outputs_url(self) -> str:
        """The outputs' base URL, on another origin than the API, like the service's CDN."""
        return f"{self._origin(1)}/outputs"

    @property
    def faults(self) -> Faults:
        """The faults in force; a change applies from the next request on."""
        return self.world.faults

    @property
    def requests(self) -> list[Seen]:
        """The latest requests that arrived, failed ones included, to assert on."""
        return list(self.world.seen)

    @property
    def jobs(self) -> list[Job]:
        """Every job that was created, in order."""
        return list(self.world.jobs.values())

    @property
    def charges(self) -> int:
        """How many jobs were charged."""
        return self.world.charges

    @property
    def posted(self) -> deque[Posted]:
        """The latest attempts to send a webhook."""
        return self._sender.posted

    async def start(self) -> None:
        """Listen on both ports."""
        for handler, port in zip((self._answer, self._outputs.answer), self._ports, strict=True):
            app = web.Application(client_max_size=LARGEST_BODY)
            app.router.add_route("*", "/{path:.*}", handler)
            # Long keep-alive: a test's virtual clock may jump minutes between two requests.
            runner = web.AppRunner(
                app,
                access_log=None,
                keepalive_timeout=_KEEP_ALIVE,
                shutdown_timeout=0.1,
                handle_signals=False,
            )
            self._runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, self._host, port, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        """Cancel every webhook, close both ports and every connection, including delayed ones."""
        await self._sender.end()
        while self._runners:
            await self._waits.end()
            await self._runners.pop().cleanup()
        await self._waits.end()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _origin(self, index: int) -> str:
        if len(self._runners) <= index:
            raise RuntimeError("the emulator has no address before it is started")
        # Bound to all addresses, it is reached on this machine by the loopback one, which a client accepts.
        listened = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        # Brackets separate an IPv6 address from the port (RFC 3986, 3.2.2).
        host = f"[{listened}]" if ":" in listened else listened
        return f"http://{host}:{self._runners[index].addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path == FAULTS_PATH:
            return await control(request, self.world.faults)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            call = _call(request, b"")
            return _response(
                call, error_reply(ApiError("PAYLOAD_TOO_LARGE", "The body is larger than 1 MiB")), self._api
            )
        call = _call(request, body)
        made = len(self.world.jobs)
        reply = self._api.answer(call)
        await self._sender.send(self.world.jobs_since(made))
        # A request is executed on arrival, however late its answer is.
        if reply.delay:
            await self._waits.wait(reply.delay)
        return cut(request) if reply.cut else _response(call, reply, self._api)


def _call(request: web.Request, body: bytes) -> Call:
    now, wall = read_clocks()
    return Call(
        method=request.method,
        path=request.path,
        now=now,
        wall=wall,
        headers=request.headers,
        query=request.query,
        body=body,
    )


def _response(call: Call, reply: Reply, api: Api) -> web.Response:
    return web.Response(
        status=reply.status,
        body=(json.dumps(reply.body) if reply.text is None else reply.text).encode(),
        content_type=reply.content_type,
        charset="utf-8",
        headers={"Date": formatdate(call.wall, usegmt=True), **api.headers(call, reply)},
    )
