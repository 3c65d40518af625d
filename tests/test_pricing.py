"""Prices of the documented table, estimates in plain words, and a budget that holds."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import AsyncDoitong, BadRequestError, ConfigurationError, GenerateRequest, Plan
from doitong_async.pricing import Price, estimate, price_of
from tests.virtual import virtual, with_emulator

FOX = GenerateRequest(prompt="a fox")
KLING = GenerateRequest(prompt="waves", provider="kling")


def sized(width: int, height: int, **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt="a fox", width=width, height=height, **fields)


# Prices


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (FOX, Price(10, 20)),
        (sized(512, 512), Price(10, 20)),
        (sized(1024, 1024), Price(10, 20)),
        # Pixels count, not sides.
        (sized(2048, 512), Price(10, 20)),
        (GenerateRequest(prompt="a fox", width=256), Price(10, 20)),
        (sized(511, 512), None),
        (sized(1024, 1025), None),
        (sized(2048, 2047), None),
        (sized(2048, 2048), Price(30, 50)),
        (sized(16_384, 16_384), Price(30, 50)),
        (sized(64, 64, provider="flux-dev"), Price(50, 50)),
        (sized(1024, 1024, provider="brand-new"), Price(10, 20)),
        (sized(1024, 1024, provider="flux-dev", type="VIDEO"), None),
        (KLING, None),
        (GenerateRequest(prompt="hello", provider="elevenlabs"), None),
        (GenerateRequest(prompt="a fox", type="VIDEO"), None),
        (GenerateRequest(prompt="waves", provider="kling", type="IMAGE"), Price(10, 20)),
        (GenerateRequest(prompt="a fox", options={"width": 2048, "height": 2048}), Price(30, 50)),
        (GenerateRequest(prompt="a fox", height=2048, options={"width": 2048}), Price(30, 50)),
        (GenerateRequest(prompt="a fox", options={"width": "wide"}), None),
    ],
)
def test_a_price_comes_from_the_table_or_is_none(request_: GenerateRequest, expected: Price | None) -> None:
    """10 to 20 credits up to 1024×1024, 30 to 50 from 2048×2048, 50 for flux-dev; no price is guessed."""
    assert price_of(request_) == expected


def test_a_single_price_fills_only_undocumented_prices() -> None:
    """The table stays in force."""
    assert price_of(KLING, 100) == Price(100, 100)
    assert price_of(KLING, 0) == Price(0, 0)
    assert price_of(FOX, 100) == Price(10, 20)


def test_prices_by_provider_override_the_table() -> None:
    """A named provider costs its price; the others cost the documented price or have none."""
    prices = {"kling": 80.5, "flux-pro": 12}
    assert price_of(KLING, prices) == Price(80.5, 80.5)
    assert price_of(FOX, prices) == Price(12, 12)
    assert price_of(sized(2048, 2048, provider="flux-ultra"), prices) == Price(30, 50)
    assert price_of(GenerateRequest(prompt="waves", provider="wan"), prices) is None


@pytest.mark.parametrize("price", [-1, math.nan, math.inf, True, "20", {"kling": -1}, {"kling": None}])
def test_a_price_is_a_number_of_credits(price: Any) -> None:
    """Anything else is an error that names it, even if the table has the price."""
    with pytest.raises(ConfigurationError, match=r"^price(\['kling'\])? is .*; expected credits"):
        price_of(FOX, price)
    with pytest.raises(ConfigurationError, match="expected credits"):
        estimate([], Plan.PRO, price=price)


# Estimates


@pytest.mark.parametrize(
    ("requests", "plan", "more", "said"),
    [
        (
            [FOX] * 10_000,
            Plan.STARTER,
            {},
            "10,000 jobs on the plan starter: 100,000 to 200,000 credits. "
            "They take ten days, as the plan allows 1,000 jobs a day.",
        ),
        (
            [FOX] * 101,
            Plan.FREE,
            {},
            "101 jobs on the plan free: 1,010 to 2,020 credits. "
            "They take two days, as the plan allows 100 jobs a day.",
        ),
        (
            [FOX] * 12,
            Plan.PRO,
            {"seconds": 20.0},
            "12 jobs on the plan pro: 120 to 240 credits. They take at least 24 seconds.",
        ),
        (
            [FOX] * 12,
            Plan.PRO,
            {},
            "12 jobs on the plan pro: 120 to 240 credits. "
            "How long they take depends on the service; the plan lets 10 run at once.",
        ),
        (
            [FOX] * 10,
            Plan.PRO,
            {},
            "10 jobs on the plan pro: 100 to 200 credits. "
            "How long they take depends on the service; the plan lets them all run at once.",
        ),
        (
            [FOX],
            Plan.PRO,
            {},
            "1 job on the plan pro: 10 to 20 credits. How long it takes depends on the service.",
        ),
        (
            [FOX],
            Plan.PRO,
            {"seconds": 1.5},
            "1 job on the plan pro: 10 to 20 credits. It takes at least 1 second.",
        ),
        (
            [sized(64, 64, provider="flux-dev")] * 1_000,
            Plan.PRO,
            {},
            "1,000 jobs on the plan pro: 50,000 credits. They take at least 18 minutes.",
        ),
        (
            [KLING] * 3,
            Plan("narrow", 1, 1),
            {"price": 0.25, "seconds": 86_400.0},
            "3 jobs on the plan narrow: 0.75 credits. They take at least three days.",
        ),
        (
            [FOX],
            Plan.PRO,
            {"seconds": 0.5},
            "1 job on the plan pro: 10 to 20 credits. It takes at least 0.5 seconds.",
        ),
        (
            [FOX] * 100,
            Plan.FREE,
            {},
            "100 jobs on the plan free: 1,000 to 2,000 credits. They take at least 19 minutes.",
        ),
        (
            [FOX] * 2,
            Plan("one a day", 1, 1, 1),
            {},
            "2 jobs on the plan one a day: 20 to 40 credits. "
            "They take two days, as the plan allows 1 job a day.",
        ),
        ([], Plan.PRO, {}, "0 jobs on the plan pro: 0 credits."),
    ],
)
def test_an_estimate_reads_as_plain_sentences(
    requests: list[GenerateRequest], plan: Plan, more: dict[str, Any], said: str
) -> None:
    """Jobs, plan, credits and the least time, in one or two sentences."""
    assert str(estimate(requests, plan, **more)) == said


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((1.0, "1 second"), (1.9, "1 second"), (2.0, "2 seconds"), (119.9, "119 seconds")),
        *((120.0, "2 minutes"), (150.0, "2 minutes"), (7_199.0, "119 minutes"), (7_200.0, "2 hours")),
        *((7_230.0, "2 hours"), (172_799.0, "47 hours"), (172_800.0, "two days"), (177_000.0, "two days")),
        *((12 * 86_400.0, "twelve days"), (13 * 86_400.0, "13 days"), (1_234 * 86_400.0, "1,234 days")),
    ],
)
def test_a_time_is_rounded_down_in_a_suitable_unit(seconds: float, words: str) -> None:
    """It is the least time, so it may only be too short."""
    assert str(estimate([FOX], Plan.PRO, seconds=seconds)).endswith(f"It takes at least {words}.")


def test_no_jobs_take_no_time() -> None:
    """Nor do jobs of unknown length that fit the limits."""
    assert estimate([], Plan.FREE, seconds=60.0).seconds == estimate([FOX], Plan.FREE).seconds == 0
    assert estimate([FOX] * 10, Plan.FREE, polls_count=False).seconds == 0


def test_the_least_time_follows_from_the_limits() -> None:
    """One minute per full window of submits and of polls that free slots; one day per full day."""
    free = estimate([FOX] * 12, Plan.FREE)
    # Before the twelfth submit: eleven submits and eleven polls, 22 requests of 10 a minute.
    assert free.seconds == 120
    assert estimate([FOX] * 12, Plan.FREE, polls_count=False).seconds == 60
    assert estimate([FOX] * 12, Plan.FREE, seconds=30.0).seconds == 360
    assert estimate([FOX] * 100, Plan.FREE).days == 1
    long = estimate([FOX] * 250, Plan.FREE)
    # Two whole days, and on the third 49 submits and 49 polls before the last submit.
    assert (long.seconds, long.days) == (2 * 86_400 + 9 * 60, 3)


def test_the_narrowest_limit_gives_the_days() -> None:
    """If slots cost more days than the daily limit, the daily limit is not named."""
    found = estimate([FOX] * 101, Plan.FREE, seconds=7_200.0)
    assert found.days == 9
    assert str(found).endswith("They take at least eight days.")


@given(
    st.integers(1, 3_000),
    st.builds(Plan, st.just("any"), st.integers(1, 200), st.integers(1, 50), st.none() | st.integers(1, 500)),
    st.floats(0, 5_000),
)
def test_more_jobs_never_take_less_time(jobs: int, plan: Plan, seconds: float) -> None:
    """The least time grows with the number and the length of jobs, and no limit allows less."""
    one, other = (estimate([FOX] * count, plan, seconds=seconds) for count in (jobs, jobs + 1))
    assert one.seconds <= other.seconds
    assert one.days <= other.days
    assert estimate([FOX] * jobs, plan).seconds <= one.seconds
    assert one.seconds >= 60 * ((jobs - 1) // plan.requests_per_minute) + seconds
    assert one.seconds >= jobs * seconds / plan.concurrent_jobs
    if plan.jobs_per_day:
        assert one.days >= -(-jobs // plan.jobs_per_day)


def test_jobs_without_a_price_are_named() -> None:
    """The error counts them, names the first three kinds, and says which option to set."""
    kinds = [KLING, KLING, sized(1920, 1080), GenerateRequest(prompt="hi", provider="hedra")]
    with pytest.raises(ConfigurationError) as caught:
        estimate([FOX, *kinds, GenerateRequest(prompt="hi", provider="elevenlabs")], Plan.PRO)
    assert caught.value.message == (
        "No price is documented for 5 of 6 jobs: 2 of kling VIDEO, 1 of flux-pro IMAGE 1920×1080, "
        "1 of hedra AVATAR, 1 of other kinds. Say what one costs with price= (--price on the command line): "
        "credits for all of them, or by provider."
    )
    assert estimate(kinds, Plan.PRO, price=7).high == 28


@pytest.mark.parametrize("seconds", [-1, math.nan, True, "6"])
def test_seconds_are_a_number(seconds: Any) -> None:
    """Any other mean time is an error."""
    with pytest.raises(ConfigurationError, match="seconds is "):
        estimate([FOX], Plan.PRO, seconds=seconds)


def test_an_estimate_keeps_nothing() -> None:
    """It reads requests once, and its memory does not grow with them, even if each is of another kind."""
    stream = (sized(100, 1 + number) for number in range(2_600))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigurationError, match="2,597 of other kinds"):
            estimate(stream, Plan.PRO)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000


def test_a_client_estimates_before_it_is_open() -> None:
    """It takes prompts, mappings and requests, and uses the client's own defaults and plan."""
    doitong = AsyncDoitong(api_key="k", plan=Plan.STARTER, width=2048, height=2048)
    found = doitong.estimate(["a fox", {"prompt": "a cat", "key": "cat", "height": 256}, FOX])
    assert (found.jobs, found.low, found.high, found.plan) == (3, 70, 120, Plan.STARTER)
    assert found.seconds == 0
    assert doitong.with_options(provider="kling").estimate(["waves"], price={"kling": 90}).low == 90
    with pytest.raises(BadRequestError, match="did you mean 'prompt'"):
        doitong.estimate([{"promt": "a fox"}])


@virtual
async def test_an_open_client_estimates_with_its_measured_means() -> None:
    """After the first job ends its mean time is known; the assumption about polls stays."""
    async with with_emulator(Plan.PRO, emulator={"durations": 20.0}) as (doitong, _):
        assert doitong.estimate(["a fox"] * 10).seconds == 0
        await doitong.generate("a fox")
        (mean,) = doitong.stats().mean_seconds.values()
        assert doitong.estimate(["a fox"] * 30).seconds == pytest.approx(3 * mean)
    silent = AsyncDoitong(api_key="k", plan=Plan.FREE, polls_count=False)
    assert silent.estimate(["a fox"] * 12).seconds == 60
