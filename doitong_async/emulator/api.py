"""The whole API as one function from a Call to a Reply: endpoint, limits, rate-limit headers, record."""

import math
from dataclasses import replace
from typing import Literal

from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.breakage import broken, imitated_error, is_left_undone
from doitong_async.emulator.calls import Call, Operation, Reply, error_reply
from doitong_async.emulator.faults import Fault
from doitong_async.emulator.graphql import GraphQLFace
from doitong_async.emulator.jobs import iso
from doitong_async.emulator.limits import MINUTE
from doitong_async.emulator.rest import RestFace
from doitong_async.emulator.script import Hits
from doitong_async.emulator.traffic import Seen
from doitong_async.emulator.world import World

ResetUnit = Literal["epoch_s", "epoch_ms", "seconds", "iso"]


class Api:
    """Answers every call to the API's origin."""

    def __init__(self, world: World, graphql: GraphQLFace, rest: RestFace, reset_unit: ResetUnit) -> None:
        self._world = world
        self._graphql = graphql
        self._rest = rest
        self._reset_unit = reset_unit

    def answer(self, call: Call) -> Reply:
        """Execute a call if it is admitted, and record it."""
        operation = self._read(call)
        hits = self._world.faults.of_request(operation.kind)
        made = len(self._world.jobs)
        try:
            reply = self._run(call, operation, hits.main)
        except ApiError as error:
            reply = self._error_reply(call, error)
        if hits.main:
            reply = broken(reply, hits.main, graphql=call.path == "/graphql")
            reply = replace(reply, headers=self._odd_headers(call, hits.main))
        if hits.delay:
            reply = replace(reply, delay=hits.delay)
        hits = Hits((*hits.all, *self._world.faults_since(made)))
        status = 0 if reply.cut else reply.status
        self._world.record(
            Seen(call.now, operation.kind, status, reply.ids, dict(call.headers), str(hits) or None)
        )
        return reply

    def headers(self, call: Call, reply: Reply | None = None) -> dict[str, str]:
        """Return a reply's headers: the rate-limit headers, for a known key, and its own."""
        own = dict(reply.headers) if reply else {}
        if call.key is None or not self._world.knows(call.key) or (reply and reply.by_gateway):
            return own
        allowance = self._world.allowance(call.key, call.now)
        wait = allowance.frees_at - call.now
        return {
            "X-RateLimit-Limit": str(allowance.limit),
            "X-RateLimit-Remaining": str(allowance.remaining),
            "X-RateLimit-Reset": reset_text(self._reset_unit, wait, call.wall),
            **own,
        }

    def _run(self, call: Call, operation: Operation, fault: Fault | None) -> Reply:
        """Admit a call and run its operation, as far as its fault allows."""
        error = imitated_error(fault) if fault else None
        # These two errors come before the rate limiter, so the request is not counted; the others count.
        if error and error.code in ("UNAUTHENTICATED", "RATE_LIMITED"):
            raise error
        key = self._world.admit(call.key, operation.kind, call.now)
        if error:
            raise error
        return Reply(200, {}) if fault and is_left_undone(fault) else operation.run(key)

    def _odd_headers(self, call: Call, fault: Fault) -> dict[str, str]:
        """Return the headers that a scripted 429 has besides the usual ones, or instead of them."""
        after = fault.retry_after
        headers = {} if after is None else {"Retry-After": str(after)}
        if fault.what == "429-minute" and call.key is not None and self._world.knows(call.key):
            wait = self._world.allowance(call.key, call.now).frees_at - call.now or MINUTE
            reset = reset_text(self._reset_unit, wait if after is None else after, call.wall)
            headers |= {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
        return headers

    def _read(self, call: Call) -> Operation:
        """Return a call's operation; an unreadable call fails too, but only after its key is checked."""
        try:
            return self._graphql.read(call) if call.path == "/graphql" else self._rest.read(call)
        except ApiError as error:
            reply = error_reply(error)
            return Operation("other", lambda _key: reply)

    def _error_reply(self, call: Call, error: ApiError) -> Reply:
        if call.path == "/graphql":
            return error_reply(error, self._graphql.status_of(error.status))
        return error_reply(error)


def reset_text(unit: ResetUnit, wait: float, wall: float) -> str:
    """Return the reset as its header gives it, rounded up, so that a request at that time is admitted."""
    match unit:
        case "seconds":
            return str(math.ceil(wait))
        case "epoch_ms":
            return str(math.ceil((wall + wait) * 1000))
        case "epoch_s":
            return str(math.ceil(wall + wait))
        case "iso":
            return iso(math.ceil(wall + wait))
