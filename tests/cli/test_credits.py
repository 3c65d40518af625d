"""`--budget` and `--low` of `generate` and `batch`, and what a command says when credits run out."""

from __future__ import annotations

import json
import re

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from tests.cli.batches import WIDE, WIDE_LIMITS, run_batch, write_prompts
from tests.cli.commands import Serve

SMALL = ["--width", "512", "--height", "512"]
LOW = r"^Low on credits: (\d+) of the budget of (\d+) are left\.$"


def test_a_job_that_may_cost_more_than_the_budget_is_not_sent(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 12, with the numbers; the highest price counts."""
    serve(emulator := Emulator("pro"))
    assert main(["generate", "a fox", "--budget", "19", *SMALL]) == Exit.BUDGET
    err = capsys.readouterr().err
    assert "The next job may cost 20 credits, but only 19 are left of the budget." in err
    assert "nothing was charged" in err
    assert len(emulator.world.seen) == 0


def test_a_job_within_the_budget_is_made_and_a_low_budget_said_once(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tenth by default; --low sets another share."""
    serve(Emulator("pro"))
    for given, said in ([], []), (["--low", "0.5"], [("20", "40")]):
        assert main(["generate", "a fox", "--budget", "40", *given, *SMALL]) == Exit.OK
        assert re.findall(LOW, capsys.readouterr().err, re.MULTILINE) == said


def test_a_job_without_a_documented_price_needs_one_under_a_budget(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says how to give it."""
    serve(emulator := Emulator("pro"))
    assert main(["generate", "waves", "--provider", "kling", "--budget", "500"]) == Exit.USAGE
    assert "Give price= (--price on the command line)" in capsys.readouterr().err
    assert len(emulator.world.seen) == 0
    given = ["--provider", "kling", "--budget", "500", "--price", "kling=200"]
    assert main(["generate", "waves", *given]) == Exit.OK


@pytest.mark.parametrize("command", ["generate", "batch"])
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--low", "0.5"], "--low is a share of --budget. Give both, or none."),
        (["--low", "1", "--budget", "9"], "--low is 1; expected a share from 0 to below 1"),
        (["--low", "nan", "--budget", "9"], "--low is nan; expected a share"),
        (["--budget", "0"], "budget is 0.0; expected credits, a finite number above zero."),
    ],
)
def test_a_wrong_share_or_budget_is_a_usage_error(
    command: str, given: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent."""
    write_prompts(1)
    file = ["prompts.txt", "--out", "pictures"] if command == "batch" else ["a fox"]
    assert main([command, *file, *given]) == Exit.USAGE
    assert complaint in capsys.readouterr().err


def test_a_batch_says_once_that_its_budget_is_low(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line of the standard error, however far it falls after that."""
    serve(Emulator(WIDE_LIMITS))
    write_prompts(6)
    assert run_batch("--budget", "120", "--low", "0.6", *SMALL, *WIDE) == Exit.OK
    (said,) = re.findall(LOW, capsys.readouterr().err, re.MULTILINE)
    assert said[1] == "120"
    assert int(said[0]) <= 72


def test_a_low_budget_leaves_the_json_alone(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The standard output has one object, and nothing else."""
    serve(Emulator("pro"))
    assert main(["generate", "a fox", "--json", "--budget", "20", *SMALL]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["credit_cost"] == 10
