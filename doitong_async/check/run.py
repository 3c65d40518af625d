"""Runs a check: the free requests, the events to one's own receiver, and the jobs that may be paid.

Free, and through the client's rate limiter, go at most six requests: polls of one and of two job ids that
cannot exist, an introspection, and a GET of the REST status path. The poll and the GET go once more with a
key that we made up: where its answer is the same, an answer proves nothing about the user's key. In REST they
are GETs of the status path and of a path where nothing can be, and a GraphQL poll.

With a `webhook_url`, two events go to it, one signed and one with a wrong signature, about a job that cannot
exist and is still running. The receiver's `on_event` gets the signed one.

With `spend`, and if the free requests show that a job can be followed to its end, the cheapest documented
job is made: 512 × 512 pixels, at most 20 credits (reference, "Credits"). If the rest covers a second one, the
same submit goes again under the same idempotency key, and is charged only if the service does not honour it.

What cannot be told is reported with its reason; nothing holds that was not seen to hold.
"""

from __future__ import annotations

from dataclasses import replace

from doitong_async.check.allowance import allowance_findings
from doitong_async.check.connection import connection_findings, was_sent
from doitong_async.check.findings import Assumption, CheckOutcome, CheckReport, Finding
from doitong_async.check.jobs import PaidJobs, Watched
from doitong_async.check.observed import Observed
from doitong_async.check.paid import check_spend, not_paid, paid_findings
from doitong_async.check.probes import Probes, send_events
from doitong_async.check.receiver import receiver_findings
from doitong_async.check.route import followed, route_of
from doitong_async.check.schema import schema_findings
from doitong_async.events import Hook
from doitong_async.jobs.tracker import VISIBLE_WITHIN
from doitong_async.runtime import Runtime
from doitong_async.settings import Options
from doitong_async.webhooks.endpoint import Webhooks


async def run_check(client: Runtime, options: Options, *, spend: float) -> CheckReport:
    """Check the service with a client's settings, and return the report.

    It opens parts of its own, so that no job of the client's is touched; only the rate limiter, the events
    and a session of the user's are shared. Its jobs carry no webhook URL, so that the user's receiver does
    not learn of them.

    Args:
        client: the open client.
        options: the timeouts to use.
        spend: credits that may be spent.

    Raises:
        ConfigurationError: if `spend` is no amount, or does not cover one job.
    """
    spend = check_spend(spend)
    watched = Watched(client.notify)
    session = None if client.owns_session else client.session
    settings = replace(client.settings, webhook_url=None)
    own = Runtime(settings, session, Hook(watched), Webhooks(None), client.credits)
    await own.open()
    try:
        probes = Probes(own, slot_timeout=options.slot_timeout)
        seen = await probes.observe()
        free = await _free_findings(seen, client)
        report = CheckReport(
            findings=[*free, *not_paid(_why_not(spend))], requests=probes.sent, cut_short=seen.cut_short
        )
        if not spend or not _may_pay(report):
            return report
        paid = await PaidJobs(own, watched, options, spend).run()
        found = paid_findings(paid, client.settings, visible_within=VISIBLE_WITHIN)
        requests = probes.sent + watched.requests
        return replace(report, findings=[*free, *found], requests=requests, jobs=paid.jobs)
    finally:
        await own.close()


async def _free_findings(seen: Observed, client: Runtime) -> list[Finding]:
    settings, session = client.settings, client.session
    route = route_of(settings, has_own_session=not client.owns_session, trust_env=session.trust_env)
    if seen.single is not None and not was_sent(seen.single):
        route = await followed(route, settings)
    return [
        *connection_findings(seen, route, settings),
        *schema_findings(seen, settings),
        *allowance_findings(seen, settings),
        *receiver_findings(await send_events(session, settings), settings),
    ]


def _may_pay(report: CheckReport) -> bool:
    """Whether a job could be followed to its end, so that it is worth its credits."""
    is_polled = report.find(Assumption.STATUS).outcome is CheckOutcome.HOLDS
    return report.is_reached and is_polled and report.cut_short is None


def _why_not(spend: float) -> str:
    if spend:
        return "no job was paid for: first put right what is found above"
    return "only a paid job shows it"
