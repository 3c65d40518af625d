"""The whole API as one function from a Call to a Reply: face, admission, rate limit headers, record."""

import math
from typing import Literal

from doitong_async.emulator.calls import Call, Errand, Reply, refusal
from doitong_async.emulator.graphql import GraphQLFace
from doitong_async.emulator.jobs import iso
from doitong_async.emulator.refusals import Refused
from doitong_async.emulator.rest import RestFace
from doitong_async.emulator.world import Seen, World

ResetUnit = Literal["epoch_s", "epoch_ms", "seconds", "iso"]


class Api:
    """Answers every call to the API's origin."""

    def __init__(self, world: World, graphql: GraphQLFace, rest: RestFace, reset_unit: ResetUnit) -> None:
        self._world = world
        self._graphql = graphql
        self._rest = rest
        self._reset_unit = reset_unit

    def answer(self, call: Call) -> Reply:
        """Do what a call asks for, if it may, and keep a record of it."""
        errand = self._read(call)
        try:
            reply = errand.run(self._world.admit(call.key, errand.kind, call.now))
        except Refused as refused:
            reply = self._refuse(call, refused)
        self._world.record(Seen(call.now, errand.kind, reply.status, reply.ids, dict(call.headers)))
        return reply

    def headers(self, call: Call) -> dict[str, str]:
        """The rate limit headers, for a key that is known."""
        if call.key is None or not self._world.knows(call.key):
            return {}
        allowance = self._world.allowance(call.key, call.now)
        wait = allowance.frees_at - call.now
        return {
            "X-RateLimit-Limit": str(allowance.limit),
            "X-RateLimit-Remaining": str(allowance.remaining),
            "X-RateLimit-Reset": reset_text(self._reset_unit, wait, call.wall),
        }

    def _read(self, call: Call) -> Errand:
        """The errand of a call; what cannot be read is refused too, but only after its key was looked at."""
        try:
            return self._graphql.read(call) if call.path == "/graphql" else self._rest.read(call)
        except Refused as refused:
            reply = refusal(refused)
            return Errand("other", lambda _key: reply)

    def _refuse(self, call: Call, refused: Refused) -> Reply:
        if call.path == "/graphql":
            return refusal(refused, self._graphql.status_of(refused.status))
        return refusal(refused)


def reset_text(unit: ResetUnit, wait: float, wall: float) -> str:
    """The reset as the header says it, rounded up: who waits until then finds a place."""
    match unit:
        case "seconds":
            return str(math.ceil(wait))
        case "epoch_ms":
            return str(math.ceil((wall + wait) * 1000))
        case "epoch_s":
            return str(math.ceil(wall + wait))
        case "iso":
            return iso(math.ceil(wall + wait))
