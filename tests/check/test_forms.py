"""The check in each documented form of the call: it polls as the client would."""

from __future__ import annotations

from typing import Any

import pytest

from doitong_async import Assumption, CheckOutcome
from tests.check.reports import SOUND, always, failing, holding, rewriting
from tests.check.test_free import ALIKE, INTROSPECTION, JSON, KEY, TOLD_FREELY
from tests.plain_server import Behaviour, http
from tests.virtual import plain, virtual, with_emulator

TOLD = {
    "graphql-flat": TOLD_FREELY,
    "rest": TOLD_FREELY - {"generate", "webhook_field", "aliases", "alias_cost"},
}
"""REST has no schema, and asks for one job at a time."""
UNAUTHORIZED = http(401, b'{"errors": [{"message": "Unauthorized"}]}', JSON, {})


@pytest.mark.parametrize("form", TOLD)
@virtual
async def test_nothing_is_found_on_sound_servers(form: str) -> None:
    """For as many free requests as in the usual form."""
    for server in (
        with_emulator(emulator={"key": KEY}, transport=form),
        plain(behaviour=SOUND, transport=form),
    ):
        async with server as (doitong, service):
            report = await doitong.check()
            assert failing(report) == set()
            assert holding(report) == TOLD[form]
            assert report.requests == len(service.requests) == 6


@pytest.mark.parametrize("form", TOLD)
@virtual
async def test_a_paid_job_is_made_in_the_form(form: str) -> None:
    """Once, for two submits under one key."""
    async with with_emulator(emulator={"key": KEY, "durations": 6.0}, transport=form) as (doitong, emulator):
        report = await doitong.check(spend=40)
        assert failing(report) == set()
        assert {"idempotency", "visible", "statuses", "output_host"} <= holding(report)
        assert report.requests == len(emulator.requests)
        assert emulator.charges == 1


@virtual
async def test_rest_sends_the_key_in_its_header_and_in_the_other_once() -> None:
    """And a made-up key in each of them."""
    async with plain(behaviour=SOUND, transport="rest") as (doitong, server):
        await doitong.check()
        sent = [
            (each.headers.get("x-api-key"), each.headers.get("authorization")) for each in server.requests
        ]
    made_up = "made-up-by-doitong-check"
    assert sent == [
        *[(server.key, None)] * 3,
        (made_up, None),
        (None, f"Bearer {server.key}"),
        (None, f"Bearer {made_up}"),
    ]


@virtual
async def test_a_key_that_only_graphql_takes_is_found_in_rest() -> None:
    """With the form to use instead."""
    async with plain(behaviour=SOUND, transport="rest") as (doitong, server):
        server.rewrite = lambda request, honest: honest if request else UNAUTHORIZED
        report = await doitong.check()
    assert failing(report) == {"key", "header"}
    assert report.settings == {"transport": "graphql"}
    assert report.find(Assumption.HEADER).detail == "X-API-Key is refused; Authorization works."


@virtual
async def test_a_wrong_key_is_found_in_rest() -> None:
    """Neither header carries it."""
    async with with_emulator(emulator={"key": "another"}, transport="rest") as (doitong, _):
        report = await doitong.check()
    assert failing(report) == {"key", "header"}
    assert (report.settings, report.is_reached, report.requests) == ({}, False, 2)


@pytest.mark.parametrize("is_emulator", [True, False])
@virtual
async def test_a_wrong_status_path_looks_like_an_unknown_job(is_emulator: bool) -> None:
    """So it is not said to hold, and no job is paid that could not be followed."""
    more: dict[str, Any] = {"transport": "rest", "status_path": "/v1/jobs/{id}"}
    server = with_emulator(emulator={"key": KEY}, **more)
    async with server if is_emulator else plain(behaviour=SOUND, **more) as (doitong, _):
        report = await doitong.check(spend=40)
    assert failing(report) == set()
    assert report.find(Assumption.STATUS).outcome is CheckOutcome.UNKNOWN
    assert "/v1/jobs/{id} is answered as a path that cannot exist" in report.find(Assumption.STATUS).detail
    assert (report.is_usable, report.jobs) == (False, ())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message": "Not Found: no such job"}', "does not show"),
        (b'{"id": "other", "status": "processing"}', "as if there were a job"),
    ],
)
@virtual
async def test_an_answer_that_the_client_could_not_use_proves_no_path(body: bytes, words: str) -> None:
    """The client takes a 404 for an unknown job only if the service lists its errors."""
    status = 404 if b"message" in body else 200
    async with plain(behaviour=SOUND, transport="rest") as (doitong, server):
        odd = http(status, body, JSON, {})
        server.rewrite = lambda request, honest: odd if b"no generation" in (honest or b"") else honest
        report = await doitong.check()
    finding = report.find(Assumption.STATUS)
    assert finding.outcome is CheckOutcome.UNKNOWN
    assert words in finding.detail


@pytest.mark.parametrize(("answer", "address"), ALIKE)
@virtual
async def test_rest_holds_nothing_where_everything_is_answered_alike(answer: bytes, address: str) -> None:
    """A JSON 404 for everything may come from an API, and proves none."""
    async with plain(transport="rest") as (doitong, server):
        server.rewrite = always(answer)
        report = await doitong.check(spend=40)
        assert holding(report) - {"clock"} <= {"dns", "proxy", "address"}
        assert ("address" in holding(report)) <= (address == "holds")
        assert not report.is_usable
        assert (report.jobs, server.jobs) == ((), {})


@virtual
async def test_polls_that_do_not_count_are_found_in_rest() -> None:
    """Two polls of one id show it."""
    behaviour = Behaviour(date=True, polls_count=False)
    async with plain(behaviour=behaviour, transport="rest") as (doitong, _):
        report = await doitong.check()
    assert report.settings == {"polls_count": False}


@virtual
async def test_a_schema_without_the_flat_mutation_has_the_general_one() -> None:
    """The other form of the same protocol."""
    async with plain(behaviour=SOUND, transport="graphql-flat") as (doitong, server):
        server.rewrite = rewriting((b'"generateImage"', b'"makeImage"'), of=INTROSPECTION)
        report = await doitong.check()
    assert report.find(Assumption.GENERATE).settings == {"transport": "graphql"}
