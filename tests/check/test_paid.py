"""The paid jobs of a check: two submits at most, each found out about, and every one of them reported."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from doitong_async import Assumption, AsyncDoitong, CheckOutcome, CheckReport, Plan
from doitong_async.check.paid import expiry_of
from doitong_async.emulator import Emulator
from doitong_async.events import Event, SubmitAttempted
from tests.check.reports import SOUND, failing, holding, rewriting
from tests.plain_server import Behaviour
from tests.virtual import now, plain, seen, until, virtual, with_emulator

KEY = "k-test"
PAID = {"idempotency", "visible", "statuses", "output_host"}
"""What a paid job tells on a sound server; the URLs of both show no expiry."""


def of_paid(report: CheckReport) -> set[str]:
    """Return which assumptions about the paid jobs fail."""
    return failing(report) & {*PAID, "output_expiry"}


# Sound servers.


@pytest.mark.parametrize("plan", [Plan.FREE, Plan.PRO])
@virtual
async def test_a_sound_emulator_is_charged_once_for_two_submits(plan: Plan) -> None:
    """Even on the plan with one job at once; the report names the job, its key, token and cost."""
    async with with_emulator(plan, emulator={"key": KEY, "durations": 6.0}) as (doitong, emulator):
        report = await doitong.check(spend=40)
        submits = seen(emulator, "submit")
        assert failing(report) == set()
        assert holding(report) >= PAID
        assert report.find(Assumption.STATUSES).detail == "processing → completed"
        assert report.find(Assumption.VISIBLE).detail == "a poll first knew the job 0.0 s after its submit"
        (job,) = report.jobs
        assert [each.headers["Idempotency-Key"] for each in submits] == [job.idempotency_key] * 2
        assert (job.job_id, job.credit_cost) == (emulator.jobs[0].id, 10)
        assert (await doitong.job(job.token or "")).id == job.job_id
        assert report.credits_spent == 10
        assert emulator.charges == 1
        assert (emulator.jobs[0].width, emulator.jobs[0].height) == (512, 512)


@virtual
async def test_every_request_is_counted() -> None:
    """Six free ones, the submits and their polls."""
    async with with_emulator(emulator={"key": KEY, "durations": 6.0}) as (doitong, emulator):
        report = await doitong.check(spend=40)
        assert report.requests == len(emulator.requests)


@virtual
async def test_another_sound_server_is_charged_once() -> None:
    """It also answers a repeated key with the first job."""
    async with plain(behaviour=SOUND) as (doitong, server):
        report = await doitong.check(spend=40)
        assert failing(report) == set()
        assert holding(report) >= PAID
        assert len(server.jobs) == 1


@virtual
async def test_a_conflict_that_names_the_job_is_as_good_as_a_replay() -> None:
    """The client learns the job from it."""
    behaviour = Behaviour(date=True, conflict_on_replay=True)
    async with plain(behaviour=behaviour) as (doitong, _):
        report = await doitong.check(spend=40)
    assert report.find(Assumption.IDEMPOTENCY).outcome is CheckOutcome.HOLDS


# Money.


@virtual
async def test_without_spend_no_job_is_made() -> None:
    """And the report says that only a job would tell."""
    async with with_emulator(emulator={"key": KEY}) as (doitong, emulator):
        report = await doitong.check()
        assert emulator.jobs == []
    assert report.find(Assumption.IDEMPOTENCY).detail == "only a paid job shows it"


@virtual
async def test_what_pays_for_one_job_makes_one_submit() -> None:
    """A second one could be charged, too."""
    async with with_emulator(emulator={"key": KEY, "keys_honoured": False}) as (doitong, emulator):
        report = await doitong.check(spend=20)
        assert (len(seen(emulator, "submit")), emulator.charges) == (1, 1)
    assert report.find(Assumption.IDEMPOTENCY).outcome is CheckOutcome.UNKNOWN
    assert {"visible", "statuses"} <= holding(report)


@virtual
async def test_a_first_job_that_cost_more_than_documented_is_the_last() -> None:
    """What is left would not cover another like it."""
    async with plain(behaviour=SOUND) as (doitong, server):
        server.rewrite = rewriting((b'"creditCost": 10', b'"creditCost": 25'))
        report = await doitong.check(spend=40)
        assert len(server.jobs) == 1
        assert sum(request.kind == "submit" for request in server.requests) == 1
    assert "the first job cost 25 credits" in report.find(Assumption.IDEMPOTENCY).detail


@pytest.mark.parametrize("is_emulator", [True, False])
@virtual
async def test_keys_that_are_not_honoured_cost_two_jobs_and_no_more(is_emulator: bool) -> None:
    """The setting to use keeps batches from paying twice; both jobs are reported."""
    ignoring = Behaviour(date=True, keys_honoured=False)
    server: Any = with_emulator(emulator={"key": KEY, "keys_honoured": False, "durations": 6.0})
    async with server if is_emulator else plain(behaviour=ignoring) as (doitong, service):
        report = await doitong.check(spend=40)
        assert failing(report) == {"idempotency"}
        assert report.settings == {"resend_unanswered": False}
        made = [job.id for job in service.jobs] if isinstance(service, Emulator) else list(service.jobs)
        assert [job.job_id for job in report.jobs] == made
        assert len(made) == 2


@pytest.mark.parametrize("cut", ["cut-after", "cut"])
@virtual
async def test_a_submit_without_an_answer_is_not_sent_again(cut: str) -> None:
    """It may have been charged: its key is reported."""
    async with plain(behaviour=Behaviour(date=True, keys_honoured=False)) as (doitong, server):
        server.script = lambda kind, nth: cut if kind == "submit" else None
        report = await doitong.check(spend=40)
        (submit,) = [request for request in server.requests if request.kind == "submit"]
        (job,) = report.jobs
        assert (job.idempotency_key, job.job_id) == (submit.headers["idempotency-key"], None)
    assert of_paid(report) == set()


@virtual
async def test_a_submit_that_never_left_is_not_reported() -> None:
    """The service went away just before it."""
    async with plain(behaviour=SOUND) as (doitong, server):

        def leave_after_the_free_requests(request: bytes, honest: bytes | None) -> bytes | None:
            if len(server.requests) < 6:
                return honest
            server._listening[0].close()
            # A byte too many, after which the server closes the connection.
            return (honest or b"") + b"\n"

        server.rewrite = leave_after_the_free_requests
        report = await doitong.check(spend=40)
        assert (list(report.jobs), len(server.requests)) == ([], 6)
    assert "could not be reached" in report.find(Assumption.VISIBLE).detail


@virtual
async def test_a_submit_that_is_refused_for_credits_costs_nothing() -> None:
    """There is nothing to report but the reason."""
    async with with_emulator(emulator={"key": KEY, "credits": 5}) as (doitong, emulator):
        report = await doitong.check(spend=40)
        assert (report.jobs, emulator.charges) == ([], 0)
    assert "Insufficient credits" in report.find(Assumption.VISIBLE).detail


@pytest.mark.parametrize(
    "rules",
    [{"key": "another"}, {"status_field": "job"}, {"faults": ["any 3-: 429-minute"]}],
)
@virtual
async def test_nothing_is_paid_for_what_could_not_be_followed(rules: dict[str, Any]) -> None:
    """A refused key, a wrong status operation, or a limit: put that right first."""
    async with with_emulator(emulator={"key": KEY, **rules}) as (doitong, emulator):
        report = await doitong.check(spend=40)
        assert emulator.jobs == []
    assert "no job was paid for" in report.find(Assumption.VISIBLE).detail


# Planted faults.


@virtual
async def test_a_conflict_that_names_no_job_is_found() -> None:
    """No second job was made, but a lost answer could not be found again."""
    behaviour = Behaviour(date=True, conflict_on_replay=True, conflict_names_job=False)
    async with plain(behaviour=behaviour) as (doitong, server):
        report = await doitong.check(spend=40)
        assert len(server.jobs) == len(report.jobs) == 1
    assert failing(report) == {"idempotency"}
    assert report.settings == {}


@pytest.mark.parametrize(("late", "fails"), [(5, set()), (15, {"visible"}), (90, {"visible"})])
@virtual
async def test_a_job_that_becomes_known_late_is_found(late: int, fails: set[str]) -> None:
    """The client waits 10 s for it."""
    rules = {"key": KEY, "durations": 20.0, "faults": [f"job 1: late {late}"]}
    async with with_emulator(emulator=rules) as (doitong, _):
        report = await doitong.check(spend=40)
    assert of_paid(report) == fails
    if late == 15:
        assert "16.0 s after its submit" in report.find(Assumption.VISIBLE).detail


@virtual
async def test_an_unknown_status_is_found() -> None:
    """It is shown between the others."""
    rules = {"key": KEY, "durations": 6.0, "faults": ["job 1: odd-status dreaming seconds=4"]}
    async with with_emulator(emulator=rules) as (doitong, _):
        report = await doitong.check(spend=40)
    assert of_paid(report) == {"statuses"}
    assert "processing → dreaming → completed" in report.find(Assumption.STATUSES).detail


@virtual
async def test_a_failed_job_tells_its_statuses_and_no_output() -> None:
    """It is reported as paid, as far as the service says."""
    rules = {"key": KEY, "durations": 6.0, "faults": ["job 1: fail"]}
    async with with_emulator(emulator=rules) as (doitong, _):
        report = await doitong.check(spend=40)
    assert of_paid(report) == set()
    assert report.find(Assumption.STATUSES).detail == "processing → failed"
    assert "ended as 'failed'" in report.find(Assumption.OUTPUT_HOST).detail
    assert len(report.jobs) == 1


@virtual
async def test_a_job_that_never_ends_is_left_with_its_token() -> None:
    """After `timeout`, as every wait; the submit is not repeated."""
    rules = {"key": KEY, "faults": ["job 1: stuck"]}
    async with with_emulator(emulator=rules) as (doitong, emulator):
        report = await doitong.with_options(timeout=60).check(spend=40)
        assert now() < 70
        assert len(seen(emulator, "submit")) == 1
    assert of_paid(report) == set()
    assert "was still 'processing' after 60 s" in report.find(Assumption.STATUSES).detail
    assert report.jobs[0].token is not None


@virtual
async def test_another_host_of_outputs_is_found() -> None:
    """A webhook that names it would not be believed; the setting keeps the hosts that are named."""
    async with plain(behaviour=SOUND, output_hosts=["mine.example"]) as (doitong, server):
        server.rewrite = rewriting((server.outputs_url.encode(), b"https://files.example"))
        report = await doitong.check(spend=40)
    assert of_paid(report) == {"output_host"}
    assert report.settings == {"output_hosts": ("mine.example", "files.example")}


@pytest.mark.parametrize(
    ("query", "outcome"),
    [
        (b"?X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600", "holds"),
        (b"?X-Goog-Date=20260101T000000Z&X-Goog-Expires=1", "fails"),
        (b"?Expires=1767229200&Signature=x", "holds"),
        (b"?Expires=1767225601", "fails"),
        (b"?Expires=never", "unknown"),
        (b"", "unknown"),
    ],
)
@virtual
async def test_the_expiry_of_an_output_is_read_where_its_url_shows_one(query: bytes, outcome: str) -> None:
    """In the spellings of AWS and Google; virtual time starts at 2026-01-01."""
    async with plain(behaviour=SOUND) as (doitong, server):
        server.rewrite = rewriting((b".jpg", b".jpg" + query))
        report = await doitong.check(spend=20)
    assert report.find(Assumption.OUTPUT_EXPIRY).outcome == outcome


def test_an_expiry_that_depends_on_what_is_not_shown_is_none() -> None:
    """Seconds without the moment from which they count."""
    assert expiry_of("https://cdn.example/a.jpg?X-Amz-Expires=3600") is None
    assert expiry_of("https://cdn.example/a.jpg?expires=+12") is None
    assert expiry_of("not a url") is None


# Leaving early.


@virtual
async def test_a_cancelled_check_logs_the_job_that_it_paid_for(caplog: pytest.LogCaptureFixture) -> None:
    """Its token resumes it."""
    rules = {"key": KEY, "durations": 60.0}
    async with with_emulator(emulator=rules) as (doitong, emulator):
        checking = asyncio.ensure_future(doitong.check(spend=40))
        await until(lambda: emulator.jobs)
        await asyncio.sleep(5)
        with caplog.at_level(logging.WARNING, "doitong_async"):
            checking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await checking
        assert f"job {emulator.jobs[0].id}, whose caller was cancelled, goes on: token dtj1." in caplog.text


@virtual
async def test_a_check_cancelled_during_its_submit_logs_the_job_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer is still read: it is about a paid job."""
    rules = {"key": KEY, "faults": ["submit: latency 3"]}
    async with with_emulator(emulator=rules) as (doitong, emulator):
        checking = asyncio.ensure_future(doitong.check(spend=40))
        await until(lambda: emulator.jobs)
        with caplog.at_level(logging.WARNING, "doitong_async"):
            checking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await checking
        assert f"job {emulator.jobs[0].id}" in caplog.text
        assert "token dtj1." in caplog.text


@virtual
async def test_the_events_of_its_jobs_reach_the_user() -> None:
    """Each submit is known by its key before it is sent, and by its job as soon as that is made."""
    events: list[Event] = []
    async with with_emulator(emulator={"key": KEY}, on_event=events.append) as (doitong, _):
        report = await doitong.check(spend=20)
    (attempt,) = [event for event in events if isinstance(event, SubmitAttempted)]
    assert (attempt.idempotency_key, attempt.job_id) == (
        report.jobs[0].idempotency_key,
        report.jobs[0].job_id,
    )


@virtual
async def test_its_jobs_have_no_webhook() -> None:
    """The user's receiver does not learn of them."""
    url = "http://127.0.0.1:9/"
    async with with_emulator(emulator={"key": KEY}, webhook_url=url, webhook_secret="s") as (doitong, server):
        await doitong.check(spend=20)
        assert [job.order.webhook_url for job in server.jobs] == [None]


@virtual
async def test_a_client_that_is_not_open_checks_nothing() -> None:
    """Like every other call."""
    doitong = AsyncDoitong(api_key="k")
    with pytest.raises(Exception, match="The client is not open yet"):
        await doitong.check()
