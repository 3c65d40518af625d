"""Faults as data: what goes wrong, where, and how often; each has a one-line text form.

    WHERE [NUMBERS]: WHAT [OPTION ...]           submit 3: cut-after
                                                 poll 2-4: latency 12
                                                 poll: 502 p=0.2 seed=7
                                                 job 1: fail charged=no
                                                 output 5-: truncated every=2 times=3

    WHERE     submit, poll   requests that create jobs, or ask for their status, in order of arrival
              any            every request to the API, of any kind
              output         requests for outputs
              job            jobs created; a request that fails or is repeated creates none
              webhook        webhooks: one for each job with a webhookUrl, in the order of the jobs
    NUMBERS   3   2-4   5-   * or none: all; counted from 1 since the server started, failed requests included
    WHEN      every=3        only every third, from the first of NUMBERS on
              p=0.2 seed=7   only with this probability; equal seed and number give an equal decision
              times=2        at most this often

    of submit, poll, any
      latency 10       the answer is delayed by so many seconds; inf is forever
      500              server error, not executed; handled=yes: executed before the error
      502              a gateway's HTML page, not executed; handled=yes: executed, the answer lost
      401              the key is rejected
      429-minute       too many requests; retry-after=5 sends that header
      cut-before       the connection closes, nothing was executed
      cut-after        the request is executed, then the connection closes without an answer
      html             a page with status 200, as from a captive portal; not executed
      null             `data: null` and an error, not executed; handled=yes: executed
    of submit, poll
      partial          the first job's nullable fields are null, each with an error
      null-alias       the first job is null, with an error; the others are normal
    of submit
      429-concurrency, 429-day   the other two limits; retry-after=5
    of output
      latency, 500, 502, cut-before   as above
      truncated        the full length is announced, half of it is sent
      slow 10          in small pieces over so many seconds
      oversized 2147483648   so many bytes are sent; announced=no: without Content-Length
      redirect         once, to itself with a query; redirect URL: there; redirect ?round: forever
      html             a page with status 200
      empty            no bytes, with status 200
    of job
      stuck            it never ends, and keeps its slot
      fail             it fails, and is charged; charged=no: its credits come back
      odd-status dreaming   before its end, this status for seconds=10; inf is forever
      late 10          polls do not find it for so many seconds
    of webhook
      lost             it is never sent
      late 10          it is sent so many seconds after its job's end; inf is never
      doubled          it is sent twice, one after the other
      overtaken 10     it is sent after the next webhook of another job, or after so many seconds
      outdated         it is followed by one with the status `processing`
      forged           it is signed with another secret
      early 10         the submit's answer is held back until it is sent, for at most so many seconds
      down 3           its first so many attempts find no listener

Latencies add up; of a request's other faults, the first in the list applies. A job can have each of its
four kinds of fault, a webhook each of its eight. `Seen.fault` or `Posted.fault` names those that applied.
"""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

Where = Literal["submit", "poll", "any", "output", "job", "webhook"]
What = Literal[
    "latency",
    "500",
    "502",
    "401",
    "429-minute",
    "429-concurrency",
    "429-day",
    "cut-before",
    "cut-after",
    "null",
    "partial",
    "null-alias",
    "truncated",
    "slow",
    "oversized",
    "redirect",
    "html",
    "empty",
    "stuck",
    "fail",
    "odd-status",
    "late",
    "lost",
    "doubled",
    "overtaken",
    "outdated",
    "forged",
    "early",
    "down",
]

_API: tuple[Where, ...] = ("submit", "poll", "any")
_SENT: tuple[Where, ...] = (*_API, "output")
_COMMON = ("every", "p", "seed", "times")


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where a fault can occur, and its own options; `bare` is the one that needs no name."""

    wheres: tuple[Where, ...]
    bare: str | None = None
    named: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        return (self.bare, *self.named) if self.bare else self.named


_SHAPES: dict[What, _Shape] = {
    "latency": _Shape(_SENT, "seconds"),
    "500": _Shape(_SENT, None, ("handled",)),
    "502": _Shape(_SENT, None, ("handled",)),
    "401": _Shape(_API),
    "429-minute": _Shape(_API, None, ("retry_after",)),
    "429-concurrency": _Shape(("submit",), None, ("retry_after",)),
    "429-day": _Shape(("submit",), None, ("retry_after",)),
    "cut-before": _Shape(_SENT),
    "cut-after": _Shape(_API),
    "null": _Shape(_API, None, ("handled",)),
    "partial": _Shape(("submit", "poll")),
    "null-alias": _Shape(("submit", "poll")),
    "truncated": _Shape(("output",)),
    "slow": _Shape(("output",), "seconds"),
    "oversized": _Shape(("output",), "size", ("announced",)),
    "redirect": _Shape(("output",), "url"),
    "html": _Shape(_SENT),
    "empty": _Shape(("output",)),
    "stuck": _Shape(("job",)),
    "fail": _Shape(("job",), None, ("charged",)),
    "odd-status": _Shape(("job",), "word", ("seconds",)),
    "late": _Shape(("job", "webhook"), "seconds"),
    "lost": _Shape(("webhook",)),
    "doubled": _Shape(("webhook",)),
    "overtaken": _Shape(("webhook",), "seconds"),
    "outdated": _Shape(("webhook",)),
    "forged": _Shape(("webhook",)),
    "early": _Shape(("webhook",), "seconds"),
    "down": _Shape(("webhook",), "attempts"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `what` goes wrong `where`, for the numbers from `first` to `last`, and how.

    The other fields are the options of the text form, under the same names; an option that does not belong to
    `what`, or an invalid value, raises a ValueError.
    """

    what: What
    where: Where
    first: int = 1
    last: int | None = None
    every: int = 1
    p: float = 1.0
    seed: int = 0
    times: int | None = None
    seconds: float = 10.0
    handled: bool = False
    retry_after: int | None = None
    size: int = 1 << 31
    announced: bool = True
    url: str | None = None
    charged: bool = True
    word: str = "dreaming"
    attempts: int = 3

    def __post_init__(self) -> None:
        reason = _why_not(self)
        if reason:
            raise ValueError(reason)

    def hits(self, number: int) -> bool:
        """Whether it applies to this number; the caller counts `times`."""
        last = math.inf if self.last is None else self.last
        if not self.first <= number <= last or (number - self.first) % self.every:
            return False
        # Without its name in the seed, two faults with the same seed would always coincide.
        draw = random.Random(f"{self.seed}:{self.where}:{self.what}:{number}")
        return self.p >= 1 or draw.random() < self.p

    def __str__(self) -> str:
        """Return the text form that `parse_fault` reads, without default values."""
        words = [f"{self.where}{self._numbers()}:", self.what]
        shape = _SHAPES[self.what]
        for name in (*shape.own, *_COMMON):
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                words.append(_written(value) if name == shape.bare else f"{_dashed(name)}={_written(value)}")
        return " ".join(words)

    def _numbers(self) -> str:
        if self.last is not None:
            return f" {self.first}" if self.last == self.first else f" {self.first}-{self.last}"
        return "" if self.first == 1 else f" {self.first}-"


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Fault)}


def parse_fault(text: str) -> Fault:
    """Return the fault that a text form describes.

    Raises:
        ValueError: if the text is invalid; the module's docstring lists the forms.
    """
    try:
        return _parsed(text)
    except ValueError as error:
        raise ValueError(f"the fault {text!r} is invalid: {error}") from None


def _why_not(fault: Fault) -> str | None:
    """Return what is wrong with a fault's fields, or None."""
    shape = _SHAPES.get(fault.what)
    if shape is None:
        return f"{fault.what!r} is none of {', '.join(_SHAPES)}"
    if fault.where not in get_args(Where):
        return f"{fault.where!r} is none of {', '.join(get_args(Where))}"
    if fault.where not in shape.wheres:
        return f"{fault.what!r} is a fault of {', '.join(shape.wheres)}, not of {fault.where}"
    for name in _READERS.keys() - {*shape.own, *_COMMON}:
        if getattr(fault, name) != _DEFAULTS[name]:
            return f"{fault.what!r} has no option {_dashed(name)}"
    if fault.first < 1 or (fault.last is not None and fault.last < fault.first):
        return "numbers count from 1, upwards"
    return next((problem for is_valid, problem in _bounds(fault) if not is_valid), None)


def _bounds(fault: Fault) -> list[tuple[bool, str]]:
    return [
        (fault.every >= 1, "every must be at least 1"),
        (0 <= fault.p <= 1, "p must be a probability, from 0 to 1"),
        (fault.times is None or fault.times >= 1, "times must be at least 1"),
        (fault.seconds >= 0, "seconds must be 0 or more"),
        (fault.retry_after is None or fault.retry_after >= 0, "retry-after must be 0 or more"),
        (fault.size >= 1, "size must be at least 1"),
        (fault.attempts >= 1, "attempts must be at least 1"),
        (
            fault.url is None or re.fullmatch(r"(https?://|[/?])[!-~]*", fault.url) is not None,
            "url must start with http://, https://, / or ?, and hold no space",
        ),
        (re.fullmatch(r"[A-Za-z0-9_-]+", fault.word) is not None, "word must be of letters, digits, _ and -"),
    ]


_FORM = re.compile(r"\s*([^\s:]+)(?:\s+([^\s:]+))?\s*:\s*(\S+)\s*(.*?)\s*")


def _parsed(text: str) -> Fault:
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("expected WHERE [NUMBERS]: WHAT [OPTION ...], as in 'submit 3: cut-after'")
    where, numbers, what, rest = match.groups()
    first, last = _range(numbers or "*")
    bare = _SHAPES[cast(What, what)].bare if what in _SHAPES else None
    options: dict[str, Any] = {}
    for index, word in enumerate(rest.split()):
        name, value = _option(word, bare if index == 0 else None)
        if name in options:
            raise ValueError(f"{_dashed(name)} is given twice")
        options[name] = value
    return Fault(cast(What, what), cast(Where, where), first, last, **options)


def _range(text: str) -> tuple[int, int | None]:
    if text == "*":
        return 1, None
    match = re.fullmatch(r"([0-9]+)(-([0-9]*))?", text)
    if match is None:
        raise ValueError(f"{text!r} are no numbers, such as 3, 2-4, 5- or *")
    first, dash, last = match.groups()
    if dash is None:
        return int(first), int(first)
    return int(first), int(last) if last else None


def _option(word: str, bare: str | None) -> tuple[str, Any]:
    """Return the name and the value of an option; `bare` is the name if none is given."""
    name, equals, value = word.partition("=")
    name = name.replace("-", "_")
    if not equals or name not in _READERS:
        if bare is None:
            raise ValueError(f"{word!r} is no option; there are {', '.join(map(_dashed, _READERS))}")
        name, value = bare, word
    try:
        return name, _READERS[name](value)
    except (ValueError, KeyError):
        raise ValueError(f"{value!r} is no value for {_dashed(name)}") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "every": int,
    "p": float,
    "seed": int,
    "times": int,
    "seconds": float,
    "handled": {"yes": True, "no": False}.__getitem__,
    "retry_after": int,
    "size": int,
    "announced": {"yes": True, "no": False}.__getitem__,
    "url": str,
    "charged": {"yes": True, "no": False}.__getitem__,
    "word": str,
    "attempts": int,
}


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).removesuffix(".0")
