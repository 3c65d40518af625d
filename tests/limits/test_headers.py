"""Rate-limit headers: whatever the service sends, the reader understands or ignores it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async.limits.headers import (
    DAY_WAIT,
    RETRY_WAIT,
    UNBELIEVED_WAIT,
    Limit,
    RateLimitHeaders,
    clock_ahead,
    read_headers,
    requested_wait,
    reset_spelling,
    which_limit,
)

NOW = 1_767_225_600.0  # 2026-01-01 00:00:00 UTC


@pytest.mark.parametrize(
    "text",
    [
        *("30", "30.0", "1767225630", "1767225630000", "1767225630000000", "1767225630000000000"),
        *("2026-01-01T00:00:30Z", "2026-01-01T00:00:30.000000000Z", "2026-01-01T05:30:30+05:30"),
        *("Thu, 01 Jan 2026 00:00:30 GMT", "Wed, 31 Dec 2025 19:00:30 EST"),
        *("Thu, 01 Jan 2026 00:00:30 -0000", "Thu, 01 Jan 2026 00:00:30", "Thu, 01 Jan 2026 00:00:30 XYZ"),
    ],
)
def test_a_reset_may_come_in_any_unit_or_format(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, an epoch in any unit, ISO 8601, an HTTP date: none is documented. No zone means UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    assert read_headers({"x-ratelimit-reset": text}, NOW).reset_in == 30.0
    assert read_headers({"retry-after": text}, NOW).retry_after == 30.0
    monkeypatch.undo()
    time.tzset()


def test_a_time_without_a_zone_is_utc() -> None:
    """The documented times are UTC as well."""
    assert read_headers({"x-ratelimit-reset": "2026-01-01T00:01:00"}, NOW).reset_in == 60.0


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "inf", "1e999", "2026-13-01T00:00:00Z"])
def test_an_invalid_time_is_ignored(text: str) -> None:
    """The reader does not guess."""
    assert read_headers({"x-ratelimit-reset": text}, NOW).reset_in is None


def test_a_time_is_read_against_the_answers_own_date() -> None:
    """The local clock may be wrong by minutes; both times of one answer share a clock."""
    headers = {"x-ratelimit-reset": "1767225630", "date": "Thu, 01 Jan 2026 00:00:20 GMT"}
    assert read_headers(headers, NOW - 300).reset_in == 10.0


def test_the_clock_that_puts_the_reset_near_is_trusted() -> None:
    """A gateway may add its own `Date`, hours off, to an answer whose reset is right."""
    headers = {"x-ratelimit-reset": "1767225630", "date": "Thu, 01 Jan 2026 02:00:00 GMT"}
    assert read_headers(headers, NOW).renews_in == 30.0
    assert read_headers(headers, NOW - 86_400).renews_in is None


@pytest.mark.parametrize(
    ("reset", "wall", "reset_in"),
    [
        ("1767225595", NOW - 35, 0.0),
        ("1767225602", NOW - 38, 2.0),
        ("1767225690", NOW + 60, 90.0),
        ("1767225691", NOW + 60, 31.0),
        ("1767225594", NOW - 36, 30.0),
    ],
)
def test_the_answers_clock_is_trusted_within_bounds(reset: str, wall: float, reset_in: float) -> None:
    """From 5 s in the past to 90 s ahead; only beyond that does the local clock decide."""
    headers = {"x-ratelimit-reset": reset, "date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    assert read_headers(headers, wall).reset_in == reset_in


@pytest.mark.parametrize("text", ["1767232800", "2026-01-01T02:00:30", "1767218400", "7200", "9" * 25])
def test_a_reset_hours_away_is_not_a_reset_of_the_minute(text: str) -> None:
    """Far ahead or long past, it shows that a clock, a zone or a unit is wrong."""
    assert read_headers({"x-ratelimit-reset": text}, NOW).renews_in is None
    assert (
        requested_wait(read_headers({"x-ratelimit-reset": text}, NOW), limit=Limit.MINUTE) == UNBELIEVED_WAIT
    )


@pytest.mark.parametrize("text", ["1767225600", "1767225597", "1767225595", "0"])
def test_a_reset_just_past_is_trusted(text: str) -> None:
    """It comes in whole seconds, and the answer takes a while to arrive."""
    assert read_headers({"x-ratelimit-reset": text}, NOW).renews_in == 0.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("600", 600.0), ("86400", RETRY_WAIT), ("9" * 30, RETRY_WAIT), ("-5", None), ("x", None)],
)
def test_retry_after_is_obeyed_up_to_a_bound(text: str, seconds: float | None) -> None:
    """A date in the past means now."""
    assert read_headers({"retry-after": text}, NOW).retry_in == seconds
    assert read_headers({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, NOW).retry_in == 0.0


def test_a_credible_reset_has_bounds() -> None:
    """At most 5 s in the past and 90 s in the future."""
    assert read_headers({"x-ratelimit-reset": "1767225594"}, NOW).renews_in is None
    assert read_headers({"x-ratelimit-reset": "90"}, NOW).renews_in == 90.0
    assert read_headers({"x-ratelimit-reset": "91"}, NOW).renews_in is None


def test_a_reset_in_the_past_means_now() -> None:
    """A wait is never negative."""
    assert read_headers({"x-ratelimit-reset": "1767225000"}, NOW).reset_in == 0.0


@pytest.mark.parametrize(
    ("text", "count"), [("60", 60), (" 7 ", 7), ("0", 0), ("-1", None), ("x", None), ("٣", None)]
)
def test_counts_are_whole_numbers(text: str, count: int | None) -> None:
    """The reader ignores anything else."""
    rate_limit = read_headers({"x-ratelimit-limit": text, "x-ratelimit-remaining": text}, NOW)
    assert (rate_limit.limit, rate_limit.remaining) == (count, count)


@pytest.mark.parametrize(
    ("code", "message", "limit"),
    [
        ("CONCURRENCY_LIMITED", "Rate limit exceeded", Limit.SLOT),
        (None, "Rate limit exceeded: too many concurrent jobs", Limit.SLOT),
        ("DAILY_LIMIT_EXCEEDED", "", Limit.DAY),
        (None, "Rate limit exceeded: too many jobs today", Limit.DAY),
        ("RATE_LIMITED", "too many requests per minute", Limit.MINUTE),
        (None, "Too Many Requests", Limit.MINUTE),
    ],
)
def test_the_message_identifies_the_limit(code: str | None, message: str, limit: Limit) -> None:
    """The most specific phrase decides."""
    assert which_limit(code, message, RateLimitHeaders(), jobs_in_flight=False) is limit


def test_the_headers_identify_the_limit_where_the_message_does_not() -> None:
    """Hours to wait: the day. Requests left while jobs run: the slots. Otherwise: the minute."""
    assert which_limit(None, "no", RateLimitHeaders(retry_after=7200), jobs_in_flight=True) is Limit.DAY
    far = RateLimitHeaders(retry_after=7200)
    assert which_limit(None, "no", far, jobs_in_flight=True, may_be_day=False) is Limit.MINUTE
    assert which_limit(None, "today", far, jobs_in_flight=True, may_be_day=False) is Limit.DAY
    assert which_limit(None, "no", RateLimitHeaders(remaining=5), jobs_in_flight=True) is Limit.SLOT
    assert which_limit(None, "no", RateLimitHeaders(remaining=5), jobs_in_flight=False) is Limit.MINUTE
    assert which_limit(None, "no", RateLimitHeaders(remaining=0), jobs_in_flight=True) is Limit.MINUTE


def test_a_wait_of_over_an_hour_is_about_the_day() -> None:
    """Retry-After takes precedence over the reset, which may be another window's."""
    for wait, limit in ((3_600.0, Limit.MINUTE), (3_601.0, Limit.DAY)):
        assert which_limit(None, "no", RateLimitHeaders(retry_after=wait), jobs_in_flight=False) is limit
        assert which_limit(None, "no", RateLimitHeaders(reset_in=wait), jobs_in_flight=False) is limit
    both = RateLimitHeaders(retry_after=30.0, reset_in=7_200.0)
    assert which_limit(None, "no", both, jobs_in_flight=False) is Limit.MINUTE


def test_one_request_left_rules_out_the_minute_while_jobs_run() -> None:
    """Without running jobs it cannot be the slots either."""
    assert which_limit(None, "no", RateLimitHeaders(remaining=1), jobs_in_flight=True) is Limit.SLOT
    assert which_limit(None, "no", RateLimitHeaders(remaining=1), jobs_in_flight=False) is Limit.MINUTE


@pytest.mark.parametrize(
    ("rate_limit", "limit"),
    [
        (RateLimitHeaders(remaining=0, reset_in=90.0), Limit.MINUTE),
        (RateLimitHeaders(remaining=0, reset_in=91.0), Limit.SLOT),
        (RateLimitHeaders(remaining=1, reset_in=30.0), Limit.SLOT),
        (RateLimitHeaders(remaining=0), Limit.SLOT),
        (RateLimitHeaders(), Limit.SLOT),
    ],
)
def test_the_headers_decide_if_the_message_lists_all_limits(
    rate_limit: RateLimitHeaders, limit: Limit
) -> None:
    """With no request left in the minute it is the minute; otherwise it is the slots."""
    listing = "Your plan allows 10 concurrent jobs, 60 requests per minute and 1,000 jobs per day."
    for message in (listing, "10 concurrent jobs, 60 requests per minute"):
        assert which_limit(None, message, rate_limit, jobs_in_flight=True) is limit


def test_a_message_that_names_one_limit_outweighs_the_headers() -> None:
    """The minute may be used up as well."""
    used_up = RateLimitHeaders(remaining=0, reset_in=30.0)
    assert which_limit(None, "too many concurrent jobs", used_up, jobs_in_flight=True) is Limit.SLOT


def test_the_longest_credible_waits_are_obeyed() -> None:
    """Each limit has its own bound."""
    assert requested_wait(RateLimitHeaders(retry_after=600.0), limit=Limit.MINUTE) == 600.0
    assert requested_wait(RateLimitHeaders(retry_after=601.0), limit=Limit.MINUTE) == UNBELIEVED_WAIT
    assert requested_wait(RateLimitHeaders(reset_in=90.0), limit=Limit.DAY) is None
    assert requested_wait(RateLimitHeaders(reset_in=91.0), limit=Limit.DAY) == 91.0
    assert requested_wait(RateLimitHeaders(retry_after=0.0, reset_in=7_200.0), limit=Limit.DAY) == 0.0
    for wait in (86_399.0, 86_400.0, 86_401.0):
        assert requested_wait(RateLimitHeaders(retry_after=wait), limit=Limit.DAY) == min(wait, 86_400.0)


def test_retry_after_wins_and_every_wait_is_bounded() -> None:
    """No header makes anybody wait for a year."""
    assert requested_wait(RateLimitHeaders(retry_after=3, reset_in=50), limit=Limit.MINUTE) == 3
    assert requested_wait(RateLimitHeaders(reset_in=50), limit=Limit.MINUTE) == 50
    assert requested_wait(RateLimitHeaders(reset_in=1e6), limit=Limit.MINUTE) == UNBELIEVED_WAIT
    assert requested_wait(RateLimitHeaders(retry_after=300), limit=Limit.MINUTE) == 300
    assert requested_wait(RateLimitHeaders(retry_after=1e6), limit=Limit.MINUTE) == UNBELIEVED_WAIT
    assert requested_wait(RateLimitHeaders(retry_after=1e6), limit=Limit.SLOT) == RETRY_WAIT
    assert requested_wait(RateLimitHeaders(retry_after=1e9), limit=Limit.DAY) == DAY_WAIT
    assert requested_wait(RateLimitHeaders(), limit=Limit.MINUTE) is None


def test_the_reset_of_the_window_does_not_apply_to_other_limits() -> None:
    """Every answer carries it, also a 429 about the day or the slots."""
    assert requested_wait(RateLimitHeaders(reset_in=50), limit=Limit.DAY) is None
    assert requested_wait(RateLimitHeaders(reset_in=50), limit=Limit.SLOT) is None
    assert requested_wait(RateLimitHeaders(reset_in=7200), limit=Limit.DAY) == 7200


@given(
    st.dictionaries(
        st.sampled_from(
            ["date", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]
        ),
        st.text()
        | st.integers().map(str)
        | st.floats().map(str)
        | st.datetimes().map(lambda at: at.isoformat()),
    )
)
def test_no_header_breaks_the_reader(headers: dict[str, str]) -> None:
    """It reads any headers, and each wait is None or finite."""
    rate_limit = read_headers(headers, NOW)
    for limit in Limit:
        wait = requested_wait(rate_limit, limit=limit)
        assert wait is None or 0 <= wait <= DAY_WAIT


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("57", "seconds from now"),
        ("1767225660", "epoch seconds"),
        ("1767225660000", "epoch milliseconds"),
        ("1767225660000000", "epoch microseconds"),
        ("1767225660000000000", "epoch nanoseconds"),
        ("2026-01-01T00:01:00Z", "ISO 8601"),
        ("Thu, 01 Jan 2026 00:01:00 GMT", "an HTTP date"),
        ("soon", None),
        ("-1", None),
        ("", None),
        (None, None),
    ],
)
def test_the_spelling_of_a_reset_is_named(text: str | None, spelling: str | None) -> None:
    """As it is read; None for what cannot be."""
    headers = {} if text is None else {"x-ratelimit-reset": text}
    assert reset_spelling(headers) == spelling
    assert (read_headers(headers, NOW).reset_in is None) is (spelling is None)


@pytest.mark.parametrize("ahead", [0.0, 120.0, -7.5])
def test_a_clock_is_compared_with_the_date(ahead: float) -> None:
    """A `Date` has whole seconds, of which half a second is the middle."""
    headers = {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    assert clock_ahead(headers, NOW + 0.5 + ahead) == ahead
    assert clock_ahead({}, NOW) is None


@pytest.mark.parametrize("text", ["60", " 60 ", "60.0", "60;w=60", "60, 60;w=60"])
def test_a_count_may_carry_a_gateways_suffix(text: str) -> None:
    """The drafts of the rate-limit headers append the window."""
    read = read_headers({"x-ratelimit-limit": text, "x-ratelimit-remaining": text}, NOW)
    assert (read.limit, read.remaining) == (60, 60)


@pytest.mark.parametrize("text", ["", "many", "-1", "6x", "60.5", "1" * 12])
def test_an_invalid_count_is_ignored(text: str) -> None:
    """The reader does not guess."""
    assert read_headers({"x-ratelimit-limit": text}, NOW).limit is None


def test_the_clock_that_makes_retry_after_possible_is_trusted() -> None:
    """A gateway's `Date` two hours ahead does not end a wait of minutes."""
    headers = {"retry-after": "Thu, 01 Jan 2026 00:02:30 GMT", "date": "Thu, 01 Jan 2026 02:00:00 GMT"}
    assert read_headers(headers, NOW).retry_after == 150.0
