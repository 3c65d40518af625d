"""The free requests: nothing is found on a sound server, and each planted fault is, on both servers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from doitong_async import (
    Assumption,
    AsyncDoitong,
    CheckOutcome,
    CheckReport,
    ConfigurationError,
    Plan,
    SettingsToUse,
)
from doitong_async.emulator import PlanLimits
from doitong_async.events import Event, LimitLowered
from tests.check.reports import SOUND, always, failing, holding, rewriting
from tests.plain_server import Behaviour, PlainServer, http
from tests.virtual import now, plain, virtual, with_emulator

KEY = "k-test"
TOLD_FREELY = {
    *("address", "dns", "proxy", "clock", "key", "header", "generate", "webhook_field", "status"),
    *("aliases", "alias_cost", "polls_count", "plan", "reset"),
}
"""What can be told of a sound server on loopback, without webhooks."""


# Sound servers.


@virtual
async def test_nothing_is_found_on_a_sound_emulator() -> None:
    """Everything that can be told without a job holds, for six requests that make none."""
    async with with_emulator(emulator={"key": KEY}) as (doitong, emulator):
        report = await doitong.check()
        assert failing(report) == set()
        assert holding(report) == TOLD_FREELY
        assert report.requests == len(emulator.requests) == 6
        assert (report.is_usable, report.cut_short, report.settings) == (True, None, {})
        assert (emulator.jobs, emulator.charges) == ([], 0)


@pytest.mark.parametrize(
    "behaviour",
    [
        SOUND,
        Behaviour(date=True, errors_with_200=True),
        Behaviour(date=True, answer_key="generateimage", over_concurrency="refuse"),
        Behaviour(date=True, reset_unit="epoch_ms"),
        Behaviour(date=True, reset_unit="seconds"),
        Behaviour(date=True, reset_unit="iso"),
    ],
)
@virtual
async def test_nothing_is_found_on_another_sound_server(behaviour: Behaviour) -> None:
    """Whatever it does where the client is ready for either."""
    async with plain(behaviour=behaviour) as (doitong, server):
        report = await doitong.check()
        assert failing(report) == set()
        assert holding(report) == TOLD_FREELY
        assert report.requests == len(server.requests) == 6


@virtual
async def test_the_free_plan_covers_a_check() -> None:
    """Its ten requests a minute are enough: no request is refused, and none waits."""
    async with with_emulator(Plan.FREE, emulator={"key": KEY}) as (doitong, emulator):
        assert holding(await doitong.check()) == TOLD_FREELY
        assert {request.http_status for request in emulator.requests} == {200, 401, 404}


# Planted faults.


@pytest.mark.parametrize(
    ("rules", "assumption", "settings"),
    [
        ({"status_field": "job"}, Assumption.STATUS, {"status_operation": "job(id: ID!)"}),
        ({"polls_count": False}, Assumption.POLLS_COUNT, {"polls_count": False}),
        ({"plan": PlanLimits(10, 1, 100)}, Assumption.PLAN, {"plan": "free"}),
        ({"plan": PlanLimits(45, 1, 100)}, Assumption.PLAN, {}),
        ({"faults": ["any: html"]}, Assumption.ADDRESS, {}),
    ],
)
@virtual
async def test_a_fault_of_the_emulator_is_found(
    rules: dict[str, Any], assumption: Assumption, settings: dict[str, Any]
) -> None:
    """That fault alone, with the setting to use instead."""
    async with with_emulator(emulator={"key": KEY, **rules}) as (doitong, _):
        report = await doitong.check()
    assert failing(report) == {assumption}
    assert report.settings == settings


INTROSPECTION = b"Introspection"
FAULTS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"behaviour": Behaviour(date=True, status_field="checkJobStatus", status_argument="jobId")},
        "status",
        {"status_operation": "checkJobStatus(jobId: ID!)"},
    ),
    (
        {"behaviour": Behaviour(date=True, status_type="Int!")},
        "status",
        {"status_operation": "generation(id: Int!)"},
    ),
    ({"behaviour": Behaviour(date=True, aliases_count_as_one=False)}, "alias_cost", {}),
    ({"behaviour": Behaviour(date=True, polls_count=False)}, "polls_count", {"polls_count": False}),
    ({"behaviour": Behaviour(date=True, clock_ahead=120.0)}, "clock", {}),
    ({"behaviour": Behaviour(date=True, clock_ahead=-120.0)}, "clock", {}),
    ({"requests_per_minute": 30}, "plan", {"plan": "starter"}),
    ({"polls_count": False}, "polls_count", {"polls_count": True}),
]


@pytest.mark.parametrize(("rules", "assumption", "settings"), FAULTS)
@virtual
async def test_a_fault_of_another_server_is_found(
    rules: dict[str, Any], assumption: str, settings: dict[str, Any]
) -> None:
    """That fault alone, with the setting to use instead; with that setting nothing is found."""
    async with plain(**{"behaviour": SOUND, **rules}) as (doitong, server):
        report = await doitong.check()
        assert failing(report) == {assumption}
        assert report.settings == settings
        if settings:
            changed: SettingsToUse = {"plan": "pro", **report.settings}
            async with AsyncDoitong(api_key=server.key, base_url=server.url, **changed) as better:
                better_report = await better.check()
                assert failing(better_report) == set()
                assert "aliases" in holding(better_report)


@pytest.mark.parametrize(
    ("changes", "assumption", "settings"),
    [
        ((b'"webhookUrl"', b'"webhook_url"'), "webhook_field", {"webhook_field": "webhook_url"}),
        ((b'"webhookUrl"', b'"callback"'), "webhook_field", {}),
        ((b'"generate"', b'"make"'), "generate", {"transport": "graphql-flat"}),
        ((b'"GenerateInput"', b'"MakeInput"'), "generate", {}),
        ((b'"input"', b'"request"'), "generate", {}),
    ],
)
@virtual
async def test_a_schema_with_other_names_is_found(
    changes: tuple[bytes, bytes], assumption: str, settings: dict[str, Any]
) -> None:
    """A mutation that does not fit keeps every job from being made, unless another form has its own."""
    async with plain(behaviour=SOUND) as (doitong, server):
        server.rewrite = rewriting(changes, of=INTROSPECTION)
        report = await doitong.check()
    assert failing(report) >= {assumption}
    assert report.settings == settings
    assert report.is_usable is (assumption == "webhook_field" or "transport" in settings)


@virtual
async def test_a_service_without_aliases_is_found() -> None:
    """And then what they cost cannot be told."""
    async with plain(behaviour=Behaviour(date=True, aliases=False)) as (doitong, _):
        report = await doitong.check()
    assert failing(report) == {"aliases"}
    assert report.find(Assumption.ALIAS_COST).outcome is CheckOutcome.UNKNOWN


@pytest.mark.parametrize(
    ("reset", "words"), [(b"soon", "cannot be read"), (b"7200", "no moment of the next")]
)
@virtual
async def test_a_reset_that_the_client_would_not_obey_is_found(reset: bytes, words: str) -> None:
    """It is shown as it came."""
    async with plain(behaviour=Behaviour(date=True, reset_unit="iso")) as (doitong, server):
        server.rewrite = lambda request, honest: re.sub(rb"Reset: [^\r]+", b"Reset: " + reset, honest or b"")
        report = await doitong.check()
    assert failing(report) == {"reset"}
    detail = report.find(Assumption.RESET).detail
    assert words in detail
    assert repr(reset.decode()) in detail


@virtual
async def test_a_wrong_key_is_found_and_nothing_more_is_asked_with_it() -> None:
    """One poll, and one request in the other header; neither is accepted."""
    for server in (with_emulator(emulator={"key": "another"}), plain(behaviour=SOUND)):
        async with server as (doitong, service):
            if isinstance(service, PlainServer):
                service.key = "another"
            report = await doitong.check()
            assert failing(report) == {"key", "header"}
            assert "HTTP 401" in report.find(Assumption.KEY).detail
            assert (report.is_usable, report.requests) == (False, 2)


@virtual
async def test_a_key_that_only_the_rest_header_carries_is_found() -> None:
    """The other form is named, as it may be the one to use."""
    async with plain(behaviour=SOUND) as (doitong, server):
        unauthorized = json.dumps({"errors": [{"message": "Unauthorized"}]}).encode()
        refused = http(401, unauthorized, "application/json", {})
        server.rewrite = lambda request, honest: refused if request else honest
        report = await doitong.check()
    assert failing(report) == {"key", "header"}
    detail = report.find(Assumption.HEADER).detail
    assert detail == "Authorization is refused; X-API-Key works."
    assert (report.settings, report.is_reached) == ({"transport": "rest"}, True)


@virtual
async def test_a_rest_header_that_is_refused_is_no_fault_of_the_form_in_use() -> None:
    """It is told all the same."""
    async with plain(behaviour=SOUND) as (doitong, server):
        refused = http(401, b"{}", "application/json", {})
        server.rewrite = lambda request, honest: honest if request else refused
        report = await doitong.check()
    assert failing(report) == set()
    assert "X-API-Key is refused" in report.find(Assumption.HEADER).detail


# What cannot be told.


@virtual
async def test_a_service_that_accepts_any_key_proves_nothing() -> None:
    """A poll that works with a key that we made up says nothing about the user's."""
    async with with_emulator() as (doitong, _):
        report = await doitong.check()
    assert {"key", "header"}.isdisjoint(holding(report) | failing(report))
    assert "as a made-up key is (HTTP 404)" in report.find(Assumption.HEADER).detail
    assert report.is_usable


@pytest.mark.parametrize("is_emulator", [True, False])
@virtual
async def test_with_a_closed_schema_the_polls_still_tell(is_emulator: bool) -> None:
    """What only the schema shows cannot be told."""
    closed = Behaviour(date=True, introspection=False)
    server = with_emulator(emulator={"key": KEY, "introspection": False})
    async with server if is_emulator else plain(behaviour=closed) as (doitong, _):
        report = await doitong.check()
    assert failing(report) == set()
    assert holding(report) == TOLD_FREELY - {"generate", "webhook_field"}
    assert "introspection is closed" in report.find(Assumption.GENERATE).detail


@virtual
async def test_an_unknown_status_operation_behind_a_closed_schema_has_no_setting() -> None:
    """The service's own words are shown, and nothing is guessed."""
    behaviour = Behaviour(date=True, status_field="job", introspection=False)
    async with plain(behaviour=behaviour) as (doitong, _):
        report = await doitong.check()
    assert failing(report) == {"status"}
    assert 'Cannot query field "generation"' in report.find(Assumption.STATUS).detail
    assert (report.settings, report.is_usable) == ({}, False)
    assert {"key", "header"} <= holding(report)


@virtual
async def test_without_rate_limit_headers_and_date_nothing_is_told_of_them() -> None:
    """Their absence is no fault."""
    async with plain(behaviour=Behaviour(rate_headers=False)) as (doitong, _):
        report = await doitong.check()
    assert failing(report) == set()
    assert holding(report) == TOLD_FREELY - {"clock", "plan", "reset", "alias_cost", "polls_count"}


@virtual
async def test_another_user_of_the_key_hides_what_a_poll_costs() -> None:
    """A count that jumps proves nothing."""
    async with plain(behaviour=SOUND) as (doitong, server):
        jumps = iter([b"50", b"44", b"43", b"9", b"9", b"9"])
        server.rewrite = lambda request, honest: re.sub(
            rb"Remaining: \d+", b"Remaining: " + next(jumps), honest or b""
        )
        report = await doitong.check()
    assert failing(report) == set()
    assert {"alias_cost", "polls_count"}.isdisjoint(holding(report))
    assert "went 50, 44, 43" in report.find(Assumption.POLLS_COUNT).detail


AT_FIRST = {"address", "dns", "proxy", "clock"}
BY_THEN = TOLD_FREELY - {"key", "header", "aliases", "alias_cost", "polls_count"}


@pytest.mark.parametrize(("number", "holds"), [(1, AT_FIRST), (3, BY_THEN), (5, TOLD_FREELY)])
@virtual
async def test_a_429_in_the_middle_ends_the_check(number: int, holds: set[str]) -> None:
    """No request follows it, and what was not asked cannot be told."""
    faults = [f"any {number}-: 429-minute"]
    async with with_emulator(emulator={"key": KEY, "faults": faults}) as (doitong, emulator):
        report = await doitong.check()
        assert report.requests == len(emulator.requests) == number
    assert report.cut_short is not None
    assert "HTTP 429" in report.cut_short
    assert failing(report) == set()
    assert holding(report) - {"plan", "reset"} == holds - {"plan", "reset"}


@virtual
async def test_a_429_is_obeyed() -> None:
    """The next request waits as long as the service asks, even where no other header says so."""
    async with plain(behaviour=SOUND) as (doitong, server):
        refused = http(429, b'{"errors": [{"message": "Too Many Requests"}]}', JSON, {"Retry-After": 7})
        server.script = lambda kind, nth: refused if (kind, nth) == ("poll", 1) else None
        await doitong.check()
        assert now() < 1
        assert holding(await doitong.check()) == TOLD_FREELY
        assert now() >= 7


JSON = "application/json"
ALIKE = [
    (http(200, b"<html>sign in</html>", "text/html", {}), "fails"),
    (http(200, b"<html>", "text/html", {"X-RateLimit-Limit": 60, "X-RateLimit-Reset": 9}), "fails"),
    (http(200, b"", "text/html", {}), "fails"),
    (http(200, b"{}", JSON, {}), "unknown"),
    (http(200, b"[]", JSON, {}), "unknown"),
    (http(200, b'{"message": "ok"}', JSON, {}), "unknown"),
    (http(200, b'{"data": null}', JSON, {}), "unknown"),
    (http(200, b'{"data": {}}', JSON, {}), "fails"),
    (http(200, b'{"data": {"j0": null}}', JSON, {}), "fails"),
    (http(200, b'{"data": {"j0": null, "j1": null}}', JSON, {}), "fails"),
    (http(404, b'{"message": "Not Found"}', JSON, {}), "fails"),
    (http(307, b"", "text/html", {"Location": "https://elsewhere.example/"}), "fails"),
    (http(502, b"<html>Bad Gateway</html>", "text/html", {}), "unknown"),
    (http(500, b'{"errors": [{"message": "Internal server error"}]}', JSON, {}), "holds"),
    (http(403, b'{"errors": [{"message": "Forbidden"}]}', JSON, {}), "holds"),
    (http(403, b'{"message": "Forbidden"}', JSON, {}), "holds"),
]


@pytest.mark.parametrize(("answer", "address"), ALIKE)
@virtual
async def test_a_server_that_answers_everything_alike_holds_nothing(answer: bytes, address: str) -> None:
    """Only that something answers; nothing about the API, and no job can be made there."""
    async with plain() as (doitong, server):
        server.rewrite = always(answer)
        report = await doitong.check(spend=40)
        assert holding(report) - {"clock"} == {"dns", "proxy"} | (
            {"address"} if address == "holds" else set()
        )
        assert report.find(Assumption.ADDRESS).outcome == address
        assert not report.is_usable
        assert (report.jobs, server.jobs) == ((), {})


@virtual
async def test_a_poll_that_is_forbidden_to_a_known_key_is_not_taken_for_a_wrong_key() -> None:
    """A service may answer 403 about a job that is not yours."""
    async with plain(behaviour=SOUND) as (doitong, server):
        forbidden = http(403, b'{"errors": [{"message": "Forbidden"}]}', JSON, {})

        def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
            return forbidden if b"200" in (honest or b"")[:12] and b"Status" in request else honest

        server.rewrite = rewrite
        report = await doitong.check()
    assert failing(report) == set()
    assert "HTTP 403" in report.find(Assumption.KEY).detail


# Its place in the client.


@virtual
async def test_the_requests_go_through_the_rate_limiter() -> None:
    """With the minute used up, the check waits for its permits like any poll."""
    async with with_emulator(Plan.FREE, emulator={"key": KEY}) as (doitong, emulator):
        first, second = await doitong.check(), await doitong.check()
        assert (first.requests, second.requests) == (6, 6)
        assert 429 not in {request.http_status for request in emulator.requests}
        assert emulator.world.most_in_window <= 10


@virtual
async def test_the_answers_headers_reach_the_rate_limiter() -> None:
    """A lower limit than the plan's applies from then on."""
    events: list[Event] = []
    rules = {"key": KEY, "plan": PlanLimits(30, 10, None)}
    async with with_emulator(emulator=rules, on_event=events.append) as (doitong, _):
        await doitong.check()
        assert LimitLowered(limit=30, plan_limit=60) in events
        assert doitong.stats().requests_left == 30 - 6


@virtual
async def test_a_share_of_a_plan_is_a_share_of_the_limit() -> None:
    """Several workers on one key each keep to their part."""
    async with plain(Plan.PRO.share(4), behaviour=SOUND, requests_per_minute=60) as (doitong, _):
        report = await doitong.check()
    assert failing(report) == set()
    assert "of which this client uses 15" in report.find(Assumption.PLAN).detail


@virtual
async def test_a_bounded_wait_for_the_plan_is_told() -> None:
    """`slot_timeout` ends the check; nothing is claimed about what was not asked."""
    async with with_emulator(Plan.FREE, emulator={"key": KEY}) as (doitong, emulator):
        await doitong.check()
        report = await doitong.with_options(slot_timeout=5).check()
        assert len(emulator.requests) == 6 + report.requests < 12
    assert report.cut_short is not None
    assert "The wait timed out" in report.cut_short
    assert failing(report) == set()


@virtual
async def test_the_key_goes_into_its_own_headers_and_a_made_up_one_into_two_requests() -> None:
    """`Authorization` on GraphQL, `X-API-Key` on REST, and never both."""
    async with plain(behaviour=SOUND) as (doitong, server):
        await doitong.check()
        sent = [
            (each.headers.get("authorization"), each.headers.get("x-api-key")) for each in server.requests
        ]
    bearer, made_up = f"Bearer {server.key}", "made-up-by-doitong-check"
    assert sent == [
        *[(bearer, None)] * 3,
        (f"Bearer {made_up}", None),
        (None, server.key),
        (None, made_up),
    ]


@virtual
async def test_no_redirect_is_followed_with_the_key() -> None:
    """A redirect to another server brings it nothing."""
    async with plain(behaviour=SOUND) as (doitong, server), plain() as (_, other):
        moved = http(302, b"", JSON, {"Location": f"{other.url}/v1/generations/x"})
        server.rewrite = lambda request, honest: honest if request else moved
        report = await doitong.check()
        assert other.requests == []
    assert failing(report) == set()


@virtual
async def test_a_check_leaves_running_jobs_alone() -> None:
    """They go on, and end as if nothing had been checked."""
    async with with_emulator(emulator={"key": KEY, "durations": 6.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        await doitong.check()
        assert doitong.jobs() == [job]
        assert (await job).id == job.id


@pytest.mark.parametrize("spend", [-1, 19, float("nan"), float("inf"), "40", True, None])
@virtual
async def test_an_amount_that_pays_for_no_job_is_refused_before_anything_is_sent(spend: Any) -> None:
    """The message says what the cheapest job may cost."""
    async with with_emulator() as (doitong, emulator):
        with pytest.raises(ConfigurationError, match="spend is"):
            await doitong.check(spend=spend)
        assert emulator.requests == []


def test_a_report_is_a_value_without_settings_if_nothing_fails() -> None:
    """`AsyncDoitong(**report.settings)` then changes nothing."""
    assert CheckReport(findings=(), requests=0).settings == {}
