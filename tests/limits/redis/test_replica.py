"""A copy of the shared state is what Redis has, whatever became of the proposals that got no answer."""

from __future__ import annotations

import asyncio
from typing import Any

from doitong_async import Plan
from doitong_async.limits.redis.codec import dumped, loaded
from doitong_async.limits.redis.replica import Replica
from doitong_async.limits.redis.shared import SharedKey
from doitong_async.limits.redis.store import Reply, UnreachableError
from tests.virtual import now, virtual


class Server:
    """Takes states as Redis does; `does` says what becomes of each proposal."""

    def __init__(self) -> None:
        self.version, self.state = "", dumped(SharedKey(Plan.PRO, 0.0, 0.0))
        self.does = "answer"

    async def exchange(self, _: str, *, version: str, new: Any = None, **__: Any) -> Reply:
        """Take a proposal, or not, and answer, or not."""
        if self.does == "refuse":
            raise UnreachableError(self.does)
        known, accepted = self.version, new is not None and version == self.version
        if accepted:
            self.version, self.state = new
        if self.does == "take and be silent":
            raise UnreachableError(self.does)
        state = None if accepted or version == known or not known else self.state
        return Reply(accepted=accepted, now=now(), version=self.version, state=state, beats={})


async def copy_after(*fates: str) -> tuple[Replica, Server]:
    """Return a copy and its server after a change with each of these fates, and one that is answered."""
    server = Server()

    def prepare(key: SharedKey) -> None:
        key.reported = int(now())

    replica = Replica(server, "me", server_key(), prepare=prepare, adopt=lambda _: None)  # type: ignore[arg-type]  # as far as a copy uses it
    await replica.sync()
    for fate in (*fates, "answer"):
        await asyncio.sleep(1)
        server.does = fate
        try:
            await replica.sync()
        except UnreachableError:
            assert fate != "answer"
    return replica, server


def server_key() -> SharedKey:
    """Return the state of a key that nobody used."""
    return SharedKey(Plan.PRO, 0.0, 0.0)


@virtual
async def test_a_proposal_that_was_lost_is_not_taken_for_the_next_one() -> None:
    """Redis was away, and took what came after it was back."""
    for fates in (
        ("refuse",),
        ("refuse", "refuse"),
        ("take and be silent",),
        ("refuse", "take and be silent"),
    ):
        replica, server = await copy_after(*fates)
        assert replica.key.reported == loaded(server.state).reported, fates
