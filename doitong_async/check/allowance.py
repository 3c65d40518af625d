"""Finds, from the rate-limit headers, what requests cost, and whether the plan that is set is the key's."""

from __future__ import annotations

from collections.abc import Iterator

from doitong_async.check.findings import Assumption, CheckOutcome, Finding, fails, holds, unknown
from doitong_async.check.observed import Observed, Probed
from doitong_async.check.schema import Polled, polled
from doitong_async.limits.headers import RateLimitHeaders, read_headers, reset_spelling
from doitong_async.limits.plan import Plan
from doitong_async.settings import Settings
from doitong_async.transport.failure import FailureKind
from doitong_async.transport.forms import Form
from doitong_async.transport.wire import PollAnswer, read_poll

_ONE_BY_ONE = "REST is asked for one job at a time"
_DOCUMENTED = (Plan.FREE, Plan.STARTER, Plan.PRO)


def allowance_findings(seen: Observed, settings: Settings) -> list[Finding]:
    """Return what is known of polls about several jobs, of what they cost, and of the plan."""
    return [
        _aliases(seen),
        _alias_cost(seen),
        _polls_count(seen, settings),
        _plan(seen, settings),
        _reset(seen),
    ]


def _answered(seen: Observed) -> Iterator[Probed]:
    """Yield the requests with the user's key that were answered, the latest first."""
    asked = (seen.second, seen.between, seen.single) if seen.is_of_api else ()
    return (each for each in asked if each is not None and each.answer is not None)


def _without(seen: Observed, header: str) -> str:
    return f"the answers have no {header}" if seen.is_of_api else seen.missing


def _limits_in(probed: Probed | None) -> RateLimitHeaders:
    return RateLimitHeaders() if probed is None else read_headers(probed.headers, probed.at)


def _aliases(seen: Observed) -> Finding:
    probed = seen.second
    if seen.form is Form.REST:
        return unknown(Assumption.ALIASES, _ONE_BY_ONE)
    if probed is None:
        return unknown(Assumption.ALIASES, seen.missing)
    if probed.answer is None:
        return unknown(Assumption.ALIASES, "the poll of two ids had no answer")
    result = read_poll(probed.answer, seen.second_ids)
    if isinstance(result, PollAnswer) and not result.unanswered:
        return holds(Assumption.ALIASES, "one request about two unknown ids is answered for both")
    slower = "Polls will go in smaller parts, down to one request for each job."
    if isinstance(result, PollAnswer):
        return fails(Assumption.ALIASES, f"of two ids in one request, not both are answered. {slower}")
    is_alone_fine = seen.single is not None and polled(seen.single, seen.single_id) is Polled.WORKS
    if result.kind is FailureKind.BAD_REQUEST and result.names_error and is_alone_fine:
        return fails(Assumption.ALIASES, f"two ids in one request are rejected. {result.message} {slower}")
    return unknown(Assumption.ALIASES, result.message)


def _cost_of_second(seen: Observed) -> int | str:
    """Return by how many requests the second poll lowered what is left, or why that cannot be told.

    The request just before it shows that nobody else uses the key at this moment.
    """
    if seen.second is None:
        return seen.missing
    left = [_limits_in(each).remaining for each in (seen.single, seen.between, seen.second)]
    if left[1] is None or left[2] is None:
        return "the answers have no X-RateLimit-Remaining"
    if left[0] is None or not 0 <= left[0] - left[1] <= 1 or not 0 <= left[1] - left[2] <= 2:
        shown = ", ".join("none" if each is None else str(each) for each in left)
        return f"X-RateLimit-Remaining went {shown}: others use the key, or a window began meanwhile"
    return left[1] - left[2]


def _alias_cost(seen: Observed) -> Finding:
    cost = _cost_of_second(seen)
    if seen.form is Form.REST:
        return unknown(Assumption.ALIAS_COST, _ONE_BY_ONE)
    if isinstance(cost, str):
        return unknown(Assumption.ALIAS_COST, cost)
    if _aliases(seen).outcome is not CheckOutcome.HOLDS:
        return unknown(Assumption.ALIAS_COST, "two ids in one request were not answered")
    if cost == 2:
        return fails(
            Assumption.ALIAS_COST,
            "a poll of two ids counts as two requests: polls take more of the plan than the client plans "
            "with. Use webhooks, or a longer poll_interval.",
        )
    return holds(Assumption.ALIAS_COST, f"a poll of two ids counts as {'one request' if cost else 'none'}")


def _polls_count(seen: Observed, settings: Settings) -> Finding:
    cost = _cost_of_second(seen)
    if isinstance(cost, str):
        return unknown(Assumption.POLLS_COUNT, cost)
    counts = cost > 0
    found = "a poll lowers X-RateLimit-Remaining" if counts else "a poll leaves X-RateLimit-Remaining alone"
    if counts is settings.polls_count:
        return holds(Assumption.POLLS_COUNT, found)
    return fails(Assumption.POLLS_COUNT, f"{found}.", polls_count=counts)


def _plan(seen: Observed, settings: Settings) -> Finding:
    plan = settings.plan
    limit = next((each for probed in _answered(seen) if (each := _limits_in(probed).limit) is not None), None)
    if limit is None:
        return unknown(Assumption.PLAN, _without(seen, "X-RateLimit-Limit"))
    documented = next((each for each in _DOCUMENTED if each.name == plan.name), plan)
    said = f"X-RateLimit-Limit is {limit}"
    if limit == plan.requests_per_minute:
        return holds(Assumption.PLAN, f"{said}, as on the plan {plan.name}")
    if limit == documented.requests_per_minute > plan.requests_per_minute:
        return holds(Assumption.PLAN, f"{said}, of which this client uses {plan.requests_per_minute}")
    whose = "no plan is set, and the default" if settings.plan_is_assumed else "the plan"
    detail = f"{said}, but {whose} {plan.name} allows {plan.requests_per_minute} a minute."
    fitting = [each for each in _DOCUMENTED if each.requests_per_minute == limit]
    if fitting:
        return fails(Assumption.PLAN, detail, plan=fitting[0].name)
    return fails(Assumption.PLAN, f"{detail} Set Plan.enterprise(requests_per_minute={limit}, …).")


def _reset(seen: Observed) -> Finding:
    probed = next((each for each in _answered(seen) if "x-ratelimit-reset" in each.headers), None)
    if probed is None:
        return unknown(Assumption.RESET, _without(seen, "X-RateLimit-Reset"))
    text = probed.headers["x-ratelimit-reset"]
    spelling = reset_spelling(probed.headers)
    instead = "The client waits a whole minute instead."
    if spelling is None:
        return fails(Assumption.RESET, f"X-RateLimit-Reset is {text!r}, which cannot be read. {instead}")
    renews_in = _limits_in(probed).renews_in
    if renews_in is None:
        return fails(
            Assumption.RESET,
            f"X-RateLimit-Reset is {text!r} ({spelling}), which is no moment of the next minute. {instead}",
        )
    return holds(Assumption.RESET, f"it is {spelling}, {renews_in:.0f} s from now")
