"""Signals to `doitong batch`: it drains, or leaves what runs to the next run, and loses nothing."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections import Counter
from pathlib import Path

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from tests.cli.batches import (
    WIDE,
    WIDE_LIMITS,
    after_jobs,
    batch_status,
    printed_json,
    write_prompts,
)
from tests.cli.commands import running, spawn, wait_for


@pytest.mark.slow
def test_ctrl_c_drains_and_the_printed_command_continues() -> None:
    """The batch waits for running jobs and begins no others; the next run makes the rest."""
    write_prompts(5)
    with running(Emulator(WIDE_LIMITS, durations=1.0)) as emulator:
        made = after_jobs(emulator, 3)
        process = spawn("batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE)
        wait_for(made, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert process.returncode == Exit.INTERRUPTED
        assert re.search(r"Stopping: waiting for the .* Ctrl-C again leaves", err)
        assert "Traceback" not in err
        done = len(list(Path("pictures").glob("*.jpg")))
        assert done == emulator.world.charges
        assert 3 <= done < 5
        assert f"Interrupted: {done} of 5 done" in err
        assert Path("pictures/index.html").exists()
        match = re.search(r"^next: doitong (.*)$", err, re.MULTILINE)
        assert match is not None
        again = spawn(*shlex.split(match[1]))
        out, err = again.communicate()
        assert again.returncode == 0
        assert "Traceback" not in err
    assert f"5 of 5 done ({done} before)" in out
    assert emulator.world.charges == 5


@pytest.mark.slow
def test_a_hangup_drains_however_often_it_comes() -> None:
    """A closing terminal repeats SIGHUP; unlike a second Ctrl-C, that does not abandon running jobs."""
    write_prompts(9)
    with running(Emulator(WIDE_LIMITS, durations=4.0)) as emulator:
        made = after_jobs(emulator, 3)
        process = spawn("batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE)
        assert process.stderr is not None
        wait_for(made, process)
        process.send_signal(signal.SIGHUP)
        assert any("Stopping" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    done = len(list(Path("pictures").glob("*.jpg")))
    assert done == emulator.world.charges
    assert 3 <= done < 9
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_running_jobs_to_the_next_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends at once, and the ledger lists the hour-long jobs as running."""
    write_prompts(6)
    with running(Emulator(WIDE_LIMITS, durations=3600.0)) as emulator:
        made = after_jobs(emulator, 3)
        process = spawn("batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE)
        assert process.stderr is not None
        wait_for(made, process)
        process.send_signal(signal.SIGINT)
        while "Stopping" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert out.startswith("0 of 6 done, 6 left")
    assert "Leaving 3 jobs to the next run" in err
    assert "3 jobs continue at the service; the next run resumes them." in err
    assert "Traceback" not in err
    assert Counter(item["outcome"] for item in batch_status(capsys)) == {"running": 3}
    assert emulator.world.charges == 3


@pytest.mark.slow
def test_a_running_batch_shares_its_ledger_with_readers_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Its status can be read, a second batch is rejected, and SIGTERM drains it."""
    write_prompts(12)
    with running(Emulator(WIDE_LIMITS, durations=3.0)) as emulator:
        made = after_jobs(emulator, 3)
        command = ["batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE, "--json"]
        process = spawn(*command)
        wait_for(made, process)
        assert {item["outcome"] for item in batch_status(capsys)} <= {"running", "in_doubt", "done"}
        assert main(command) == Exit.DOWNLOAD
        assert "is in use by another batch. Nothing was sent." in printed_json(capsys)["error"]["message"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    facts = json.loads(out)
    assert (process.returncode, err) == (Exit.INTERRUPTED, "")
    assert facts["stopped"]["type"] == "Interrupted"
    assert facts["done"] == emulator.world.charges == 12 - facts["left"] < 12
