"""A batch in each documented form of the calls, and resumed in another one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from doitong_async import AsyncDoitong, Item, Outcome, Plan, SubmitOutcomeUnknownError
from tests.plain_server import PlainServer
from tests.virtual import virtual

FORMS = ("graphql", "graphql-flat", "rest")
OTHER = {"graphql": "rest", "graphql-flat": "rest", "rest": "graphql"}


def client(server: PlainServer, form: Any) -> AsyncDoitong:
    """Return a client of the server that makes its calls in this form."""
    return AsyncDoitong(
        api_key=server.key, base_url=server.url, plan=Plan.PRO, transport=form, max_attempts=1
    )


async def run(server: PlainServer, form: str, folder: Path, *prompts: str) -> list[Item]:
    """Run a batch with a client of this form."""
    async with client(server, form) as doitong:
        return [item async for item in doitong.generate_many(prompts, ledger=folder / "l.db")]


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_a_submit_in_doubt_goes_on_only_by_the_transport_that_it_was_sent_by(
    form: str, tmp_path: Path
) -> None:
    """Elsewhere the service does not know its key: it stays in doubt, and its key is told."""
    async with PlainServer(seconds=1.0) as server:
        server.script = lambda kind, _: "cut-after" if kind == "submit" else None
        (lost,) = await run(server, form, tmp_path, "a fox")
        assert lost.outcome is Outcome.IN_DOUBT
        server.script = lambda *_: None
        (still,) = await run(server, OTHER[form], tmp_path, "a fox")
        assert still.outcome is Outcome.IN_DOUBT
        assert isinstance(still.error, SubmitOutcomeUnknownError)
        assert "use the transport" in still.error.message
        assert lost.error is not None
        assert still.error.idempotency_key == lost.error.idempotency_key
        assert len(server.jobs) == 1
        (done,) = await run(server, form, tmp_path, "a fox")
        assert done.outcome is Outcome.DONE
        assert len(server.jobs) == 1


@pytest.mark.parametrize("form", FORMS)
@virtual
async def test_a_job_that_was_accepted_is_resumed_by_any_transport(form: str, tmp_path: Path) -> None:
    """A job is the same job whichever way it was made."""
    async with PlainServer(seconds=30.0) as server:
        async with client(server, form) as doitong:
            async with doitong.batch(["a fox", "a whale"], ledger=tmp_path / "l.db") as batch:
                await asyncio.sleep(5)
            assert batch.progress().running == 0
        ended = await run(server, OTHER[form], tmp_path, "a fox", "a whale")
        assert [item.outcome for item in ended] == [Outcome.DONE] * 2
        assert len(server.jobs) == 2


@virtual
async def test_what_a_form_cannot_carry_is_rejected_and_costs_no_other(tmp_path: Path) -> None:
    """The item says what has no place in the form."""
    async with PlainServer(seconds=1.0) as server, client(server, "rest") as doitong:
        given: list[Any] = [
            "a fox",
            {"prompt": "waves", "provider": "kling"},
            {"prompt": "a fox", "quality": "high"},
        ]
        items = [item async for item in doitong.generate_many(given, ledger=tmp_path / "l.db")]
        by_number = {item.number: item for item in items}
        assert [by_number[number].outcome for number in (1, 2, 3)] == [
            Outcome.DONE,
            Outcome.REJECTED,
            Outcome.REJECTED,
        ]
        assert "has no VIDEO" in str(by_number[2].error)
        assert len(server.jobs) == 1
