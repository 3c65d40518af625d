"""What `doitong batch` and `batch status` show while items run and after they end."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from doitong_async.batch.batch import Progress
from doitong_async.batch.item import Outcome
from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.cli.progress import BatchProgress, reason
from doitong_async.cli.units import span
from doitong_async.emulator import Emulator
from doitong_async.limits.plan import Plan
from tests.cli.batches import run_batch, write_prompts
from tests.cli.commands import Serve, Terminal


@pytest.mark.slow
def test_a_terminal_shows_the_progress_of_a_batch(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar, why items wait, credits and pace, failures above it, and a summary at the end."""
    serve(Emulator("starter", faults=["job 1: fail"]))
    write_prompts(9)
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert run_batch("--plan", "starter", "--budget", "900") == Exit.SOME_FAILED
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue())
    assert "━" in text
    assert re.search(r"waiting +\d+  for a job to end \(3 at once\)", text)
    assert re.search(r"credits +\d+ spent of 900, \d+ reserved", text)
    assert re.search(r"pace +[\d.]+ a minute, about [\dmins ]+ left", text)
    assert "✗ failed " in text
    assert "8 of 9 done, 1 failed" in text
    assert "gallery  pictures/index.html" in text


def test_prompts_cannot_control_the_terminal(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines, status and its table show escapes of a prompt or a key instead of sending them."""
    serve(Emulator("pro", faults=["job 1: fail"]))
    Path("shots.jsonl").write_text(json.dumps({"prompt": "a \x1b[2J fox\tand \u202e more"}) + "\n")
    assert run_batch(file="shots.jsonl") == Exit.SOME_FAILED
    assert main(["batch", "status", "pictures"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert "a \\x1b[2J fox\\x09and \\u202e more" in out
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert main(["batch", "status", "pictures"]) == 0
    assert "\x1b[2J" not in screen.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80, 130, 200])
def test_a_status_fits_the_terminal(
    columns: int, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per item, none wider than the terminal; wide characters count as two columns."""
    serve(Emulator("pro"))
    Path("prompts.txt").write_text("狐狸在雪地里奔跑" * 20 + "\na fox\n")
    assert run_batch() == Exit.OK
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert main(["batch", "status", "pictures"]) == 0
    lines = [re.sub(r"\x1b\[[\d;?]*m", "", line) for line in screen.getvalue().splitlines()]
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["key", "prompt"]
    assert all(sum(2 if letter > "⺀" else 1 for letter in line) <= columns for line in lines)
    assert ("sha-256" in lines[0]) == (columns == 200)


@pytest.mark.slow
def test_a_status_in_a_pipe_is_separated_by_tabs(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine complete fields a line; the totals go to standard error."""
    serve(Emulator("pro"))
    write_prompts(2)
    assert run_batch() == Exit.OK
    capsys.readouterr()
    assert main(["batch", "status", "pictures/ledger.db"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [len(row) for row in rows] == [9, 9]
    for key, prompt, provider, job_id, outcome, credits_spent, seconds, file, digest in rows:
        assert prompt.startswith("a fox number ")
        assert (provider, outcome) == ("flux-pro", "done")
        assert (len(key), bool(job_id), len(digest)) == (16, True, 64)
        assert float(credits_spent) >= 10
        assert float(seconds) > 0
        assert (Path("pictures") / file).exists()
    assert re.fullmatch(r"2 items: 2 done; \d+ credits\n", err)


def test_prompts_from_stdin_must_be_piped_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command to continue with needs the same prompts in its pipe, and the message says so."""
    serve(Emulator("pro", faults=["job 1: fail"]))
    stdin = io.TextIOWrapper(io.BytesIO(b"a fox\na hen\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run_batch(file="-") == Exit.SOME_FAILED
    assert "pipe the same prompts into the same command" in capsys.readouterr().err


def test_the_batch_help_lists_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has examples, explains how to continue, and says what each exit code means."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["batch", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(
        re.search(rf"^ {code} +\w", text, re.MULTILINE) for code in (0, 2, 3, 4, 5, 8, 10, 11, 12, 130)
    )
    assert "doitong batch status pictures" in text
    assert main(["batch", "status", "-h"]) == 0
    assert "SHA-256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("waiting", "more", "words"),
    [
        ({"slot": 2, "minute": 1}, {}, "for a job to end (3 at once)"),
        ({"minute": 3}, {}, "for the next minute (30 requests a minute)"),
        ({"day": 3}, {}, "for the next day (1,000 a day)"),
        ({"server": 1}, {}, "for a pause that the service requested"),
        ({"credits": 2, "slot": 1}, {}, "for credits that are reserved"),
        ({"slot": 1}, {"is_unreachable": True}, "for the service, which is unreachable"),
        ({"minute": 1}, {"is_unreachable": True}, "for the next minute (30 requests a minute)"),
        ({}, {}, None),
    ],
)
def test_the_reason_why_items_wait(waiting: dict[str, int], more: dict[str, bool], words: str | None) -> None:
    """It is the commonest reason; a limit hides an unreachable service, as no request is sent meanwhile."""
    flags = {"is_unreachable": False, **more}
    assert reason(waiting, Plan.STARTER, **flags) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (700, "12 min"),
        (3600, "1 h"),
        (7800, "2 h 10 min"),
        (10 * 86_400, "10 days"),
        (200_000, "2 days 8 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, words: str) -> None:
    """More precision would be false."""
    assert span(seconds) == words


def test_the_time_left_follows_the_rate_and_the_daily_limit() -> None:
    """It follows recent completions; where the day is the limit, it counts days."""
    progress = BatchProgress(5_000, Plan.STARTER, None, None)
    idle = Progress(items={}, known=0, running=3, fetching=0, waiting=3, spent=0, reserved=0, stopped=None)

    def left(now: float, waiting: dict[str, int]) -> tuple[float | None, float | None]:
        moment = progress.moment(now, idle, waiting=waiting, is_unreachable=False, stopping=None)
        return moment.rate, moment.left

    assert left(0.0, {})[0] is None
    progress.outcomes[Outcome.DONE] += 4_400
    assert left(60.0, {"slot": 3}) == (4_400.0, 60.0 * 600 / 4_400)
    assert left(60.0, {"day": 3})[1] == 86_400.0
    progress.outcomes[Outcome.DONE] -= 4_000
    assert left(120.0, {"minute": 3})[1] == 5 * 86_400.0
