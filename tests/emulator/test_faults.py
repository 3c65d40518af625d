"""The text form of faults in both directions, and the numbers that a fault applies to."""

import re
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async.emulator import faults
from doitong_async.emulator.faults import Fault, What, Where, parse_fault

WORDS = st.text("abcXYZ019_-", min_size=1, max_size=8)
SECONDS = st.floats(min_value=0, allow_nan=False)
OWN: dict[str, st.SearchStrategy[Any]] = {
    "seconds": SECONDS,
    "handled": st.booleans(),
    "retry_after": st.none() | st.integers(0, 1000),
    "size": st.integers(1, 1 << 40),
    "announced": st.booleans(),
    "url": st.none()
    | st.builds("{}{}".format, st.sampled_from(["http://a", "https://b/?c=d", "/", "?"]), WORDS),
    "charged": st.booleans(),
    "word": WORDS,
    "attempts": st.integers(1, 20),
}
OWN_OF = {
    "latency": ["seconds"],
    "500": ["handled"],
    "502": ["handled"],
    "null": ["handled"],
    "429-minute": ["retry_after"],
    "429-concurrency": ["retry_after"],
    "429-day": ["retry_after"],
    "slow": ["seconds"],
    "oversized": ["size", "announced"],
    "redirect": ["url"],
    "fail": ["charged"],
    "odd-status": ["word", "seconds"],
    "late": ["seconds"],
    "overtaken": ["seconds"],
    "early": ["seconds"],
    "down": ["attempts"],
}


def is_possible(what: str, where: str) -> bool:
    try:
        Fault(what, where)  # type: ignore[arg-type] # the test is whether it raises
    except ValueError:
        return False
    return True


PLACES = [(what, where) for what in get_args(What) for where in get_args(Where) if is_possible(what, where)]


@st.composite
def any_fault(draw: st.DrawFn) -> Fault:
    """Draw any possible fault."""
    what, where = draw(st.sampled_from(PLACES))
    first = draw(st.integers(1, 99))
    return Fault(
        what,
        where,
        first=first,
        last=draw(st.none() | st.integers(first, 200)),
        every=draw(st.integers(1, 9)),
        p=draw(st.floats(0, 1)),
        seed=draw(st.integers(-5, 5)),
        times=draw(st.none() | st.integers(1, 9)),
        **{name: draw(OWN[name]) for name in OWN_OF.get(what, [])},
    )


@given(any_fault())
def test_text_round_trips(fault: Fault) -> None:
    """A fault that is written as text is read back unchanged."""
    assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("submit 3: cut-after", Fault("cut-after", "submit", 3, 3)),
        ("poll: 502 p=0.2 seed=7", Fault("502", "poll", p=0.2, seed=7)),
        ("poll 2-4: latency 12", Fault("latency", "poll", 2, 4, seconds=12)),
        ("any 5-: 500 every=2 times=3 handled=yes", Fault("500", "any", 5, every=2, times=3, handled=True)),
        ("submit: 429-minute p=0.1 retry-after=5", Fault("429-minute", "submit", p=0.1, retry_after=5)),
        ("output *: truncated", Fault("truncated", "output")),
        ("output: redirect http://a:1/b?c=d", Fault("redirect", "output", url="http://a:1/b?c=d")),
        ("output: oversized 9 announced=no", Fault("oversized", "output", size=9, announced=False)),
        ("output: oversized 1 announced=yes", Fault("oversized", "output", size=1)),
        ("any: null handled=no", Fault("null", "any")),
        ("job: fail charged=yes", Fault("fail", "job")),
        ("job 1: stuck", Fault("stuck", "job", 1, 1)),
        ("webhook 2: lost", Fault("lost", "webhook", 2, 2)),
        ("webhook: lost every=2", Fault("lost", "webhook", every=2)),
        ("webhook: late 5 p=0.3 seed=1", Fault("late", "webhook", seconds=5, p=0.3, seed=1)),
        ("webhook: down 2", Fault("down", "webhook", attempts=2)),
        ("job: fail charged=no", Fault("fail", "job", charged=False)),
        (
            "job 2: odd-status paused seconds=inf",
            Fault("odd-status", "job", 2, 2, word="paused", seconds=float("inf")),
        ),
        ("  poll 3 :  latency   seconds=1.5 ", Fault("latency", "poll", 3, 3, seconds=1.5)),
    ],
)
def test_text_is_read(text: str, fault: Fault) -> None:
    """Neither spaces nor the order of the options matter."""
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("latency", "any"), "any: latency"),
        (Fault("latency", "any", 2, 4, seconds=12), "any 2-4: latency 12"),
        (Fault("500", "poll", 5, times=1, handled=True), "poll 5-: 500 handled=yes times=1"),
        (
            Fault("odd-status", "job", 1, 1, word="paused", seconds=0.5),
            "job 1: odd-status paused seconds=0.5",
        ),
        (Fault("429-day", "submit", retry_after=60, p=0.5), "submit: 429-day retry-after=60 p=0.5"),
    ],
)
def test_text_is_short(fault: Fault, text: str) -> None:
    """It leaves out default values."""
    assert str(fault) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected WHERE [NUMBERS]: WHAT [OPTION ...]"),
        ("submit 3 cut-after", "expected WHERE"),
        ("poll: 503", "'503' is none of latency, 500, 502"),
        ("polls: 500", "'polls' is none of submit, poll, any, output, job, webhook"),
        ("submit 1: stuck", "'stuck' is a fault of job, not of submit"),
        ("poll: 429-day", "'429-day' is a fault of submit, not of poll"),
        ("poll x: 500", "'x' are no numbers"),
        ("poll 1-2-3: 500", "'1-2-3' are no numbers"),
        ("poll 0: 500", "numbers count from 1"),
        ("poll 4-2: 500", "numbers count from 1, upwards"),
        ("poll: 500 soon", "'soon' is no option; there are every, p"),
        ("poll: latency 1 2", "'2' is no option"),
        ("poll: 500 colour=red", "'colour=red' is no option"),
        ("poll: latency soon", "'soon' is no value for seconds"),
        ("poll: 500 handled=perhaps", "'perhaps' is no value for handled"),
        ("poll: latency 1 seconds=2", "seconds is given twice"),
        ("poll: 500 retry-after=5", "'500' has no option retry-after"),
        ("poll: 500 every=0", "every must be at least 1"),
        ("poll: 500 p=1.5", "p must be a probability"),
        ("poll: 500 p=nan", "p must be a probability"),
        ("poll: 500 times=0", "times must be at least 1"),
        ("poll: latency -1", "seconds must be 0 or more"),
        ("poll: latency nan", "seconds must be 0 or more"),
        ("poll: 429-minute retry-after=-1", "retry-after must be 0 or more"),
        ("webhook: down 0", "attempts must be at least 1"),
        ("webhook: stuck", "'stuck' is a fault of job, not of webhook"),
        ("job: late attempts=2", "'late' has no option attempts"),
        ("output: oversized 0", "size must be at least 1"),
        ("output: redirect ftp://a", "url must start with"),
        ("job: odd-status a/b", "word must be of letters"),
    ],
)
def test_an_invalid_text_is_explained(text: str, reason: str) -> None:
    """The error has the text and the reason."""
    with pytest.raises(ValueError, match=re.escape(f"the fault {text!r} is invalid: {reason}")):
        parse_fault(text)


def test_faults_made_in_code_are_checked_too() -> None:
    """An impossible fault cannot be constructed."""
    with pytest.raises(ValueError, match="'stuck' is a fault of job"):
        Fault("stuck", "poll")


def hit(text: str, upto: int = 12) -> list[int]:
    return [number for number in range(1, upto + 1) if parse_fault(text).hits(number)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("poll 3: 500", [3]),
        ("poll 2-4: 500", [2, 3, 4]),
        ("poll 10-: 500", [10, 11, 12]),
        ("poll 3-: 500 every=3", [3, 6, 9, 12]),
        ("poll 2-7: 500 every=2", [2, 4, 6]),
        ("poll 2-: 500 every=3", [2, 5, 8, 11]),
        ("poll: 500 p=0", []),
        ("poll: 500", list(range(1, 13))),
    ],
)
def test_a_fault_hits_its_numbers(text: str, numbers: list[int]) -> None:
    """Both ends included, and no others."""
    assert hit(text) == numbers


def test_probability_is_reproducible() -> None:
    """Hits follow from seed and number, and are about as frequent as `p` says."""
    often = hit("poll: 500 p=0.2 seed=7", 10_000)
    assert often == hit("poll: 500 p=0.2 seed=7", 10_000)
    assert 1800 < len(often) < 2200
    assert often != hit("poll: 500 p=0.2 seed=8", 10_000)


def test_two_faults_of_one_seed_do_not_coincide() -> None:
    """Otherwise the second in the list would never hit."""
    both = set(hit("poll: 500 p=0.5", 100)) & set(hit("poll: 502 p=0.5", 100))
    assert 10 < len(both) < 40


def test_the_help_shows_the_defaults() -> None:
    """Each default follows its fault."""
    text = faults.__doc__ or ""
    assert f"  oversized {Fault('oversized', 'output').size} " in text
    assert f"  odd-status {Fault('odd-status', 'job').word} " in text
    assert f"  down {Fault('down', 'webhook').attempts} " in text
    for what in ("latency", "slow", "late", "overtaken", "early"):
        assert f"  {what} {Fault('latency', 'any').seconds:g} " in text


def test_help_names_every_fault_and_option() -> None:
    """The command line prints the module's docstring."""
    text = faults.__doc__ or ""
    for name in get_args(What) + get_args(Where):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), name
    shown_bare = {"what", "where", "first", "last", "url", "word", "size", "attempts"}
    for field in fields(Fault):
        assert field.name in shown_bare or f"{field.name.replace('_', '-')}=" in text, field.name


def test_every_example_of_the_help_parses() -> None:
    """A user may copy them."""
    text = (faults.__doc__ or "").partition("WHERE     ")[0].replace("WHERE [NUMBERS]: WHAT [OPTION ...]", "")
    lines = [line.strip() for line in text.splitlines()[2:] if line.strip()]
    assert len(lines) == 5
    for line in lines:
        parse_fault(line)
