"""The tree of errors is complete, matches its drawing, and survives pickling."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import pytest

import doitong_async
from doitong_async import errors, jobs
from doitong_async.errors import DoitongError, DoitongWarning
from doitong_async.jobs.job import JobTimeoutError
from doitong_async.types import Generation, JobStatus

CLASSES = [
    kind
    for module in (errors, jobs.job)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, DoitongError) and kind.__module__ == module.__name__
]
by_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)

LAST = Generation(id="abc", status=JobStatus.PROCESSING)
FACTS: dict[str, Any] = {
    "job_id": "abc",
    "token": "dtj1.e30",
    "idempotency_key": "key-1",
    "request_id": "req-1",
    "http_status": 402,
    "code": "SOME_CODE",
}
OWN: dict[str, dict[str, Any]] = {
    "InsufficientCreditsError": {"credits_required": 100, "credits_available": 50},
    "RateLimitError": {"limit": "slot", "retry_after": 2.5},
    "DailyLimitError": {"resets_at": datetime(2024, 1, 2, tzinfo=UTC), "retry_after": 60.0},
    "ConnectionFailedError": {"sent": True},
    "JobFailedError": {"generation": LAST},
    "JobTimeoutError": {"generation": LAST},
}


def full(kind: type[DoitongError]) -> DoitongError:
    """Build an error that has every fact."""
    return kind("It went wrong.", **FACTS, **OWN.get(kind.__name__, {}))


def drawn() -> dict[str, tuple[str, str | None]]:
    """Read the tree in the docstring: name → (parent, builtin base)."""
    tree: dict[str, tuple[str, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│ ├└─]*)(\w+Error)(?: \((\w+)\))?(?:  |$)", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            tree[match[2]] = (above[depth - 1] if depth else "Exception", match[3])
    return tree


def test_the_drawing_matches_the_tree() -> None:
    """It shows every class under its parent with its builtin base, and nothing else."""
    real = {}
    for kind in CLASSES:
        parent, *beside = kind.__bases__
        real[kind.__name__] = (parent.__name__, beside[0].__name__ if beside else None)
    assert drawn() == real


def test_the_warning_is_a_user_warning() -> None:
    """It can be silenced, or turned into an error, like any other user warning."""
    assert issubclass(DoitongWarning, UserWarning)
    assert not issubclass(DoitongWarning, DoitongError)


@by_class
def test_every_error_says_what_to_do(kind: type[DoitongError]) -> None:
    """What happened to the job and the money, and what to do: one sentence each.

    The root has neither. A wrong setting has no advice: its message says what is expected.
    """
    if kind is DoitongError:
        assert (kind.outcome, kind.advice) == ("", "")
    else:
        assert kind.outcome.endswith(".")
        assert kind.advice.endswith("." if kind is not errors.ConfigurationError else "")


@by_class
def test_the_text_has_every_part(kind: type[DoitongError]) -> None:
    """The message, the outcome, the advice, and each known fact with its name."""
    assert str(full(kind)) == " ".join(
        part
        for part in (
            "It went wrong.",
            full(kind).outcome,
            kind.advice,
            "[job id: abc, token: dtj1.e30, idempotency key: key-1, request id: req-1, "
            "http status: 402, code: SOME_CODE]",
        )
        if part
    )


def test_unknown_facts_are_left_out() -> None:
    """Without facts there are no brackets, and an error needs a message."""
    assert str(DoitongError("Oh.")) == "Oh."
    assert str(DoitongError("Oh.", code="X")) == "Oh. [code: X]"
    assert str(DoitongError()) == ""


@by_class
@pytest.mark.parametrize(
    "how",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_every_error_survives_copying(kind: type[DoitongError], how: Any) -> None:
    """Through a process pool or a task queue, with all its facts."""
    error = full(kind)
    twin = how(error)
    assert type(twin) is kind
    assert (str(twin), twin.args, vars(twin)) == (
        str(error),
        error.args,
        {**vars(error), **({"job": None} if hasattr(error, "job") else {})},
    )
    own = OWN.get(kind.__name__, {})
    assert {name: getattr(twin, name) for name in own} == own


def test_a_live_job_is_not_pickled() -> None:
    """It belongs to a loop and a socket; only its token is pickled."""
    live: Any = object()
    twin = pickle.loads(pickle.dumps(JobTimeoutError("Late.", job=live, token="t", generation=LAST)))
    assert (twin.job, twin.token, twin.generation) == (None, "t", LAST)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (JobTimeoutError, TimeoutError),
        (errors.ConnectionFailedError, ConnectionError),
        (errors.BadRequestError, ValueError),
        (errors.ConfigurationError, ValueError),
    ],
)
def test_builtin_classes_catch_these_errors(kind: type[DoitongError], builtin: type[Exception]) -> None:
    """Code that does not know this library still understands them."""
    with pytest.raises(builtin, match="It went wrong"):
        raise full(kind)


def test_a_rate_limit_error_names_its_limit() -> None:
    """A caller that catches RateLimitError can see which limit it was."""
    assert errors.DailyLimitError("Enough.").limit == "day"
    assert errors.RateLimitError("Enough.").limit == "server"


def test_every_error_is_public() -> None:
    """Anyone who may meet an error can import it from the top of the package."""
    for kind in (*CLASSES, DoitongWarning):
        assert kind.__name__ in doitong_async.__all__
        assert getattr(doitong_async, kind.__name__) is kind


def test_a_broken_connection_does_not_claim_that_no_job_was_made() -> None:
    """An error may claim that only if nothing was sent."""
    assert "No job was made" in str(errors.ConnectionFailedError("refused"))
    assert "not known whether" in str(errors.ConnectionFailedError("cut", sent=True))
