"""`doitong estimate`: credits and days of a file of prompts, with no network and no key."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from doitong_async import Plan
from doitong_async.batch.source import FIELDS
from doitong_async.cli import main
from doitong_async.cli.exits import CommandError, Exit
from doitong_async.cli.options import plan_of, read_prices
from tests.cli.commands import Terminal


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide key, plan and base URL, and make every use of the network an error."""

    def no_network(*_: object) -> None:
        raise AssertionError("the command used the network")

    for name in ("DOITONG_API_KEY", "DOITONG_PLAN", "DOITONG_BASE_URL", "FORCE_COLOR", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)


@pytest.fixture
def foxes(tmp_path: Path) -> str:
    """Return the name of a file of ten thousand prompts."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"fox {number}\n" for number in range(10_000)))
    return str(path)


def limits(*numbers: int | None) -> dict[str, Any]:
    return dict(zip(("requests_per_minute", "concurrent_jobs", "jobs_per_day"), numbers, strict=True))


def test_the_estimate_is_plain_sentences(foxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand pictures on Starter take ten days."""
    assert main(["estimate", foxes, "--plan", "Starter"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "10,000 jobs on the plan starter: 100,000 to 200,000 credits. "
        "They take ten days, as the plan allows 1,000 jobs a day.\n"
    )


def test_json_output_is_one_object(foxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows the limits of the estimate, with options in place of the plan's own."""
    numbers = ["--requests-per-minute", "600", "--concurrent-jobs", "50", "--jobs-per-day", "4000"]
    assert (
        main(["estimate", foxes, "--json", "--plan", "pro", *numbers, "--width", "2048", "--height", "2048"])
        == 0
    )
    output = json.loads(capsys.readouterr().out)
    text = output.pop("text")
    assert output == {
        "jobs": 10_000,
        "credits_low": 300_000,
        "credits_high": 500_000,
        "seconds": 2 * 86_400 + 180,
        "days": 3,
        "plan": {
            "name": "pro",
            "requests_per_minute": 600,
            "concurrent_jobs": 50,
            "jobs_per_day": 4_000,
        },
    }
    assert text.endswith("They take three days, as the plan allows 4,000 jobs a day.")


def test_a_limit_and_a_format_hold_for_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts only the first prompts of the pipe, in the named format."""
    table = b"prompt,provider\na fox,\nwaves,kling\na cat,\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table)))
    assert main(["estimate", "-", "--format", "csv", "--limit", "2", "--price", "kling=100"]) == 0
    assert capsys.readouterr().out.startswith("2 jobs on the plan free: 110 to 120 credits.")


def test_the_environment_names_the_plan(
    foxes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for every command; the option comes first."""
    monkeypatch.setenv("DOITONG_PLAN", "pro")
    assert main(["estimate", foxes, "--limit", "12"]) == 0
    assert main(["estimate", foxes, "--limit", "12", "--plan", "starter"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("12 jobs on the plan pro: 120 to 240 credits.")
    assert second.startswith("12 jobs on the plan starter")


def test_a_missing_price_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with the kinds that have no price and the option that gives one."""
    path = tmp_path / "shots.jsonl"
    path.write_text('{"prompt": "a fox"}\n{"prompt": "waves", "provider": "kling"}\n')
    assert main(["estimate", str(path)]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "No price is documented for 1 of 2 jobs: 1 of kling VIDEO" in err
    assert "--price" in err
    assert main(["estimate", str(path), "--price", "100"]) == 0
    assert "110 to 120 credits" in capsys.readouterr().out


def test_each_bad_line_has_its_own_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One per line on standard error; JSON has them as a list."""
    path = tmp_path / "p.csv"
    path.write_text("prompt,width\na,0\nb,512\n,5\n")
    assert main(["estimate", str(path)]) == Exit.USAGE
    assert capsys.readouterr().err.splitlines() == [
        f"error: {path}: 2 lines are wrong. Nothing was sent.",
        "error: line 2: width is 0; expected whole pixels from 1 to 16,384.",
        "error: line 4: prompt is None; expected a text that says what to make.",
    ]
    assert main(["estimate", str(path), "--json"]) == Exit.USAGE
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == f"{path}: 2 lines are wrong. Nothing was sent."
    assert [line.partition(":")[0] for line in error["details"]] == ["line 2", "line 4"]


def test_a_terminal_shows_bad_lines_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They follow the failure, one per line, and cannot control the terminal."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    path = tmp_path / "p.jsonl"
    path.write_text('"\x1b[31m"\n')
    assert main(["estimate", str(path)]) == Exit.USAGE
    assert "1 line is wrong. Nothing was sent." in screen.getvalue()
    assert "\n  line 1: it is " in screen.getvalue()
    assert '\x1b[31m"' not in screen.getvalue()


def test_advice_is_a_warning_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A version of another provider causes one warning and does not stop the command."""
    path = tmp_path / "p.csv"
    path.write_text("prompt,version,provider\n" + "a fox,flux-krea,flux-pro\n" * 3)
    assert main(["estimate", str(path), "--plan", "pro"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 jobs on the plan pro")
    assert err == (
        "warning: version 'flux-krea' is shown for 'flux-krea', not for 'flux-pro'; it is sent as asked.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["none.txt"], "none.txt: the file does not exist."),
        (["{foxes}", "--plan", "gold"], "gold"),
        (["{foxes}", "--plan", "enterprise"], "Give them with --requests-per-minute and --concurrent-jobs"),
        (["{foxes}", "--jobs-per-day", "0"], "--jobs-per-day"),
        (["{foxes}", "--limit", "0"], "--limit"),
        (["{foxes}", "--width", "0"], "width is 0; expected whole pixels"),
        (["{foxes}", "--format", "xml"], "xml"),
        (["{foxes}", "--price", "dear"], "--price is dear; expected credits, zero or more"),
    ],
)
def test_bad_options_are_errors(
    arguments: list[str], message: str, foxes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the mistake on standard error and nothing on standard output."""
    assert main(["estimate", *(word.format(foxes=foxes) for word in arguments)]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_the_estimate_help_describes_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has examples to copy, the formats of FILE and the names of its fields."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["estimate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "doitong estimate prompts.txt --plan starter" in text
    assert "no key is needed" in text
    assert "A prompt per line; CSV with a header; JSONL; - reads the standard input." in text
    assert "Columns and names: " in text
    assert all(field in text for field in FIELDS)


# Options that other commands share


def test_a_plan_comes_from_options_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over the environment; single limits replace those of the plan."""
    assert plan_of(None, **limits(None, None, None)) == Plan.FREE
    assert plan_of("PRO", **limits(None, None, None)) == Plan.PRO
    assert plan_of("pro", **limits(90, None, 7)) == Plan("pro", 90, 10, 7)
    monkeypatch.setenv("DOITONG_PLAN", " Starter ")
    assert plan_of(None, **limits(None, 5, None)) == Plan("starter", 30, 5, 1_000)
    monkeypatch.setenv("DOITONG_PLAN", "gold")
    with pytest.raises(
        CommandError, match=r"The plan is 'gold' \(DOITONG_PLAN\); expected one of free, starter, pro, ent"
    ):
        plan_of(None, **limits(None, None, None))


def test_an_enterprise_plan_needs_its_limits() -> None:
    """The customer agrees them with the service; a daily limit is optional."""
    assert plan_of("enterprise", **limits(600, 100, None)) == Plan("enterprise", 600, 100, None)
    assert plan_of("enterprise", **limits(600, 100, 5)) == Plan("enterprise", 600, 100, 5)
    with pytest.raises(CommandError, match="Give them with"):
        plan_of("enterprise", **limits(600, None, None))


@pytest.mark.parametrize(
    ("given", "prices"),
    [
        (None, None),
        (["20"], 20.0),
        (["0"], 0.0),
        (["kling=100", " wan =0.5"], {"kling": 100.0, "wan": 0.5}),
        (["a=b=3"], {"a=b": 3.0}),
    ],
)
def test_prices_are_one_number_or_by_provider(given: list[str] | None, prices: object) -> None:
    """As `price=` takes them."""
    assert read_prices(given) == prices


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x"], "--price is x; expected credits, zero or more"),
        (["-1"], "--price is -1; expected credits"),
        (["nan"], "--price is nan; expected credits"),
        (["kling=inf"], "--price is kling=inf; expected credits"),
        (["=5"], "--price is =5; expected one number"),
        (["5", "kling=6"], "--price is 5; expected one number"),
        (["kling=6", "5"], "--price is 5; expected one number"),
        (["kling=6", "kling=7"], "--price is given twice for kling"),
    ],
)
def test_an_invalid_price_is_rejected(given: list[str], message: str) -> None:
    """The message shows what was typed and what is expected."""
    with pytest.raises(CommandError, match=message):
        read_prices(given)
