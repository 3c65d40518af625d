"""`doitong batch --emulator`: a trial at an emulator of its own, which no later run can resume."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from doitong_async.cli import main
from doitong_async.cli.batch_run import Run
from doitong_async.cli.exits import Exit
from doitong_async.events import Event
from tests.cli.batches import WIDE, batch_status, run_batch, write_prompts
from tests.cli.commands import size_of, spawn


def interrupt_at_events(monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
    """Send Ctrl-C when the count of a batch's events reaches each of these numbers."""
    count = 0

    def on_event(run: Run, event: Event) -> None:
        nonlocal count
        count += 1
        if count in counts:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "_on_event", on_event)


@pytest.mark.usefixtures("virtual_time")
def test_a_complete_trial_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """It ignores DOITONG_BASE_URL, and a second run finds everything done."""
    write_prompts(3)
    assert run_batch("--emulator") == Exit.OK
    assert {size_of(picture) for picture in Path("pictures").glob("*.jpg")} == {(1024, 1024)}
    assert run_batch("--emulator") == Exit.OK
    assert "3 done before. Nothing is left to do." in capsys.readouterr().err


@pytest.mark.usefixtures("virtual_time")
def test_a_drained_trial_can_continue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one Ctrl-C no job is running, so another emulator can make the rest."""
    write_prompts(9)
    interrupt_at_events(monkeypatch, 8)
    assert run_batch("--emulator", *WIDE) == Exit.INTERRUPTED
    assert "Ctrl-C again ends" in "".join(capsys.readouterr())
    assert run_batch("--emulator", *WIDE) == Exit.OK
    assert len({item["job_id"] for item in batch_status(capsys)}) == 9


@pytest.mark.usefixtures("virtual_time")
def test_an_interrupted_trial_cannot_be_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs ended with its emulator: nothing is sent, and the message says how to start over."""
    write_prompts(6)
    interrupt_at_events(monkeypatch, 8, 9)
    assert run_batch("--emulator", *WIDE) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "ended with this command's emulator: a trial cannot be resumed" in err
    assert "next:" not in err
    before = batch_status(capsys)
    assert "running" in {item["outcome"] for item in before}
    for more in ([], ["--retry-failed"]):
        assert run_batch("--emulator", *WIDE, *more) == Exit.USAGE
        err = capsys.readouterr().err
        assert "A trial cannot be resumed: the ledger pictures/ledger.db has jobs" in err
        assert "Nothing was sent" in err
        assert "`doitong emulator`" in err
        assert "export" in err
    assert batch_status(capsys) == before


@pytest.mark.slow
def test_a_killed_trial_cannot_be_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    """After SIGKILL its emulator is gone, and the ledger knows."""
    write_prompts(12)
    command = ["batch", "prompts.txt", "--out", "pictures", "--emulator", "--speed", "50", *WIDE]
    killed = spawn(*command)
    assert killed.stderr is not None
    while " of 12: " not in killed.stderr.readline():
        pass
    killed.kill()
    killed.communicate()
    before = batch_status(capsys)
    assert main(command) == Exit.USAGE
    assert "A trial cannot be resumed" in capsys.readouterr().err
    assert batch_status(capsys) == before


def test_a_trial_has_its_own_address(capsys: pytest.CaptureFixture[str]) -> None:
    """It uses no server that it did not start."""
    write_prompts(1)
    assert run_batch("--emulator", "--base-url", "http://127.0.0.1:1") == Exit.USAGE
    assert "--emulator has its own address" in capsys.readouterr().err
