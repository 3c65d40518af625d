"""Calls the emulator without a server: calls go in as values, replies come out."""

import json
from collections.abc import Iterable
from typing import Any

from doitong_async.emulator.api import Api, ResetUnit
from doitong_async.emulator.calls import Call, Reply
from doitong_async.emulator.faults import Fault
from doitong_async.emulator.graphql import ErrorStatus, GraphQLFace
from doitong_async.emulator.rest import RestFace
from doitong_async.emulator.world import Rules, World

OUTPUTS = "http://cdn/outputs"
GENERATE = "mutation($input: GenerateInput!) { generate(input: $input) { id status url creditCost } }"
A_FOX = {"type": "IMAGE", "provider": "flux-pro", "input": {"text": "a fox"}}


class EmulatorApi:
    """An API with its own world, and short ways to call it."""

    def __init__(
        self,
        plan: Any = "pro",
        *,
        status_field: str = "generation",
        error_status: ErrorStatus = "table",
        answer_key: str | None = None,
        introspection: bool = True,
        reset_unit: ResetUnit = "epoch_s",
        faults: Iterable[Fault | str] = (),
        **rules: Any,
    ) -> None:
        self.world = World(plan, Rules(**{"durations": 10.0, **rules}), faults=faults)
        graphql = GraphQLFace(
            self.world,
            lambda: OUTPUTS,
            status_field=status_field,
            error_status=error_status,
            answer_key=answer_key,
            introspection=introspection,
        )
        self.api = Api(self.world, graphql, RestFace(self.world, lambda: OUTPUTS), reset_unit)

    def call(self, method: str, path: str, body: object = None, *, now: float = 0.0, **more: Any) -> Reply:
        """Make one call with a known key, unless `headers` say otherwise."""
        return self.api.answer(a_call(method, path, body, now=now, **more))

    def graphql(self, query: str, variables: object = None, *, now: float = 0.0, **headers: str) -> Reply:
        """Make one GraphQL request by POST; underscores in a header's name become dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", "/graphql", {"query": query, "variables": variables}, now=now, headers=named)


def a_call(
    method: str, path: str, body: object = None, *, now: float = 0.0, headers: Any = None, query: Any = None
) -> Call:
    """Return a call at Unix time 1000 + now; a body that is not bytes is sent as JSON."""
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given = {"Authorization": "Bearer k", "Content-Type": "application/json", **(headers or {})}
    return Call(method, path, now, 1000.0 + now, given, query or {}, sent)


def codes(reply: Reply) -> list[str]:
    """Return the codes of a reply's errors."""
    return [error["extensions"]["code"] for error in reply.body["errors"]]
