"""Estimates what jobs cost, and how long they take at least, before they are submitted.

Prices come from the documented table, and nothing else is guessed: the caller gives any other price. The
service reports the actual cost afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard

from doitong_async import catalog
from doitong_async.errors import BadRequestError, ConfigurationError
from doitong_async.limits.plan import Plan
from doitong_async.types import GenerateRequest, MediaType

PriceArgument: TypeAlias = float | Mapping[str, float] | None
"""Credits for each job whose price is not documented; or credits by provider, which take precedence."""

_DAY: Final = 86_400.0
_MINUTE: Final = 60.0
_NAMED: Final = 3
"""Kinds of unpriced jobs that the error names one by one."""
_WORDS: Final = (
    *("no", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


@dataclass(frozen=True, slots=True)
class Price:
    """What one job costs, in credits: between `low` and `high`."""

    low: float
    high: float


def price_of(request: GenerateRequest, price: PriceArgument = None) -> Price | None:
    """Return the price of a job, or None if none is documented or given.

    A request without provider, type or size counts with the client's defaults: flux-pro, the type that the
    provider makes, 1024 pixels.

    Args:
        request: what to make.
        price: credits for a job whose price is not documented; or credits by provider, which replace the
            table for these providers.

    Raises:
        ConfigurationError: if `price` is no number of credits.

    Source: reference, "Credits".
    """
    check_price(price)
    return _price(request, price)


def most_of(request: GenerateRequest, price: PriceArgument, *, has_budget: bool) -> float | None:
    """Return the most credits that a job costs, or None if nobody knows and no budget depends on it.

    Args:
        request: what to make.
        price: see `price_of`.
        has_budget: whether credits have to be reserved for it.

    Raises:
        BadRequestError: if there is a budget and no price.
    """
    known = _price(request, price)
    if known is None and has_budget:
        raise BadRequestError(
            f"There is a budget, but no documented price for this {_kind(request)}. Give price= (--price on "
            "the command line): the most credits that such a job costs."
        )
    return None if known is None else known.high


def _price(request: GenerateRequest, price: PriceArgument) -> Price | None:
    provider = _provider(request)
    if isinstance(price, Mapping):
        if provider in price:
            return Price(price[provider], price[provider])
        return _documented(request, provider)
    documented = _documented(request, provider)
    return Price(price, price) if documented is None and price is not None else documented


def _provider(request: GenerateRequest) -> str:
    return request.provider or catalog.DEFAULT_PROVIDER


def _type(request: GenerateRequest) -> str:
    return request.type or catalog.type_of(_provider(request))


def _size(request: GenerateRequest) -> tuple[object, object]:
    """Return width and height from the request or its options, where they may be of any type."""
    more = request.options or {}
    width = more.get("width") if request.width is None else request.width
    height = more.get("height") if request.height is None else request.height
    return (
        catalog.DEFAULT_SIDE if width is None else width,
        catalog.DEFAULT_SIDE if height is None else height,
    )


def _documented(request: GenerateRequest, provider: str) -> Price | None:
    if _type(request) != MediaType.IMAGE:
        return None
    if (fixed := catalog.PRICES_BY_PROVIDER.get(provider)) is not None:
        return Price(fixed, fixed)
    width, height = _size(request)
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    pixels = width * height
    for row in catalog.PRICES_BY_PIXELS:
        if row.least <= pixels and (row.most is None or pixels <= row.most):
            return Price(row.low, row.high)
    return None


def check_price(price: object) -> None:
    """Check that a price is credits, or credits by provider.

    Raises:
        ConfigurationError: if it is neither.
    """
    if price is None:
        return
    prices = price if isinstance(price, Mapping) else {None: price}
    for name, value in prices.items():
        if not is_amount(value) or value < 0:
            where = "price" if name is None else f"price[{name!r}]"
            raise ConfigurationError(f"{where} is {value!r}; expected credits, a finite number not below 0.")


def is_amount(value: object) -> TypeGuard[float]:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What jobs cost and how long they take at least; `str(estimate)` puts it in words.

    Attributes:
        jobs: the number of jobs.
        low: credits, if each costs the least that is documented for it.
        high: credits, if each costs the most.
        seconds: the least time from the first submit, made at the start of a plan day. It covers the plan's
            limits, and the duration of jobs only if known.
        days: the least number of plan days; 1 if all jobs fit in the first.
        plan: the limits used.
    """

    jobs: int
    low: float
    high: float
    seconds: float
    days: int
    plan: Plan

    def __str__(self) -> str:
        """Put it in one or two sentences."""
        jobs = f"{self.jobs:,} job{'' if self.jobs == 1 else 's'}"
        low, high = _shown(self.low), _shown(self.high)
        cost = f"{jobs} on the plan {self.plan.name}: {low if low == high else f'{low} to {high}'} credits."
        return f"{cost} {self._time()}" if self.jobs else cost

    def _time(self) -> str:
        they, take = ("It", "takes") if self.jobs == 1 else ("They", "take")
        daily = self.plan.jobs_per_day
        if daily is not None and self.jobs > daily and self.days == -(-self.jobs // daily):
            job = "job" if daily == 1 else "jobs"
            return f"{they} {take} {_spelled(self.days)} days, as the plan allows {daily:,} {job} a day."
        if self.seconds > 0:
            return f"{they} {take} at least {_span(self.seconds)}."
        how_long = f"How long {they.lower()} {take} depends on the service"
        at_once = self.plan.concurrent_jobs
        if self.jobs == 1:
            return f"{how_long}."
        return (
            f"{how_long}; the plan lets {'them all' if self.jobs <= at_once else f'{at_once:,}'} run at once."
        )


def estimate(
    requests: Iterable[GenerateRequest],
    plan: Plan,
    *,
    price: PriceArgument = None,
    seconds: float | None = None,
    polls_count: bool = True,
) -> Estimate:
    """Estimate what requests cost and how long they take at least; each is read once and not kept.

    Args:
        requests: what to make.
        plan: the limits.
        price: see `price_of`.
        seconds: the mean duration of a job; None counts as unknown.
        polls_count: whether status polls count against the requests per minute (assumption: they do).

    Raises:
        ConfigurationError: if `price` or `seconds` is wrong, or a job has no price.

    Source: reference, "Credits" and "Plans".
    """
    check_price(price)
    if seconds is not None and (not is_amount(seconds) or seconds < 0):
        raise ConfigurationError(f"seconds is {seconds!r}; expected a finite number not below 0.")
    jobs, low, high = 0, 0.0, 0.0
    unpriced: dict[str, int] = {}
    without = 0
    for request in requests:
        jobs += 1
        known = _price(request, price)
        if known is not None:
            low, high = low + known.low, high + known.high
            continue
        without += 1
        kind = _kind(request)
        if kind in unpriced or len(unpriced) < _NAMED:
            unpriced[kind] = unpriced.get(kind, 0) + 1
    if without:
        raise ConfigurationError(_unpriced_message(unpriced, without, jobs))
    least = _least(jobs, plan, seconds or 0.0, polls_count)
    return Estimate(jobs, low, high, least, int(least // _DAY) + 1, plan)


def _days(jobs: int, plan: Plan) -> int:
    return 1 if plan.jobs_per_day is None else -(-jobs // plan.jobs_per_day)


def _least(jobs: int, plan: Plan, seconds: float, polls_count: bool) -> float:
    """Return the least seconds that the plan needs, from the start of one of its days."""
    if jobs == 0:
        return 0.0
    days = _days(jobs, plan) - 1
    last = jobs - days * (plan.jobs_per_day or 0)
    return max(
        _least_within_a_day(jobs, plan, seconds, polls_count),
        days * _DAY + _least_within_a_day(last, plan, seconds, polls_count),
    )


def _least_within_a_day(jobs: int, plan: Plan, seconds: float, polls_count: bool) -> float:
    # At best one poll frees all slots, so the last submit comes after this many polls and all other submits.
    polls = -(-jobs // plan.concurrent_jobs) - 1 if polls_count else 0
    minutes = (jobs - 1 + polls) // plan.requests_per_minute
    return max(minutes * _MINUTE + seconds, jobs * seconds / plan.concurrent_jobs)


def _kind(request: GenerateRequest) -> str:
    words = f"{_provider(request)} {_type(request)}"
    width, height = _size(request)
    return f"{words} {width}×{height}" if _type(request) == MediaType.IMAGE else words


def _unpriced_message(kinds: Mapping[str, int], without: int, jobs: int) -> str:
    named = [f"{count:,} of {kind}" for kind, count in kinds.items()]
    if others := without - sum(kinds.values()):
        named.append(f"{others:,} of other kinds")
    return (
        f"No price is documented for {without:,} of {jobs:,} jobs: {', '.join(named)}. Say what one "
        "costs with price= (--price on the command line): credits for all of them, or by provider."
    )


def _shown(amount: float) -> str:
    return f"{amount:,.0f}" if amount == round(amount) else f"{amount:,.2f}"


def _spelled(days: int) -> str:
    return _WORDS[days] if days < len(_WORDS) else f"{days:,}"


def _span(seconds: float) -> str:
    """Return a time in words, rounded down, as it is a lower bound."""
    if seconds < 2 * _MINUTE:
        number = f"{math.floor(seconds)}" if seconds >= 1 else f"{seconds:.1g}"
        return f"{number} second{'' if number == '1' else 's'}"
    if seconds < 120 * _MINUTE:
        return f"{math.floor(seconds / _MINUTE)} minutes"
    hours = math.floor(seconds / 3600)
    return f"{hours} hours" if hours < 48 else f"{_spelled(hours // 24)} days"
