"""Ctrl-C, SIGTERM and a hangup: no paid job is lost, and the user learns how to continue."""

from __future__ import annotations

import builtins
import fcntl
import json
import os
import re
import shlex
import signal
import termios
from pathlib import Path
from typing import Any

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.cli.outputs import Destination
from doitong_async.cli.render import Lines
from doitong_async.emulator import Emulator
from doitong_async.limits.admission import Admission
from doitong_async.limits.permits import Priority
from tests.cli.commands import (
    KEY,
    SLOW_SUBMIT,
    Serve,
    at_submit,
    json_answer,
    running,
    size_of,
    spawn,
    spawn_ignoring,
    wait_for,
)
from tests.plain_server import HANG, PlainServer


def interrupting(kind: str, reply: bytes | str | None = None, *, times: int = 1) -> PlainServer:
    """Return a server that sends Ctrl-C to the command at the first request of a kind."""

    def script(seen: str, nth: int) -> bytes | str | None:
        if seen == kind and nth == 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return reply if seen == kind else None

    return PlainServer(key=KEY, seconds=6.0, script=script)


def test_ctrl_c_while_a_job_runs(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It says which job continues, and which command resumes it."""
    serve(interrupting("poll"))
    assert main(["generate", "a fox", "-o", "fox.jpg"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "Interrupted. Job plain00001 continues at the service and is charged." in err
    assert re.search(r"^next: doitong job dtj1\.\S+ -o fox\.jpg$", err, re.MULTILINE)


def test_ctrl_c_while_a_submit_is_in_flight(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The command still reads the answer: its job is paid for."""
    serve(interrupting("submit"))
    assert main(["generate", "a fox", "--json"]) == Exit.INTERRUPTED
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["job_id"], error["exit_code"]) == ("Interrupted", "plain00001", 130)
    assert error["next"] == f"doitong job {error['token']}"
    assert "waiting up to 10 s for the answer" in err


def test_ctrl_c_during_the_download(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The job has ended; no partial file stays, and the printed command fetches the complete one."""
    serve(interrupting("output", HANG))
    assert main(["generate", "a fox", "-o", f"{tmp_path}/fox.jpg"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "Job plain00001 has ended." in err
    assert "next: doitong job dtj1." in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_at_a_submit_that_is_rejected(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing continues, and the message says why."""
    serve(interrupting("submit", json_answer(401, {"errors": [{"message": "Unauthorized"}]})))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "Interrupted. The submit in flight failed: The service said: 'Unauthorized'." in err
    assert "next:" not in err


def test_ctrl_c_at_a_submit_whose_connection_breaks(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A job may exist, so the suggested command repeats the submit under the same idempotency key."""
    serve(interrupting("submit", "cut"))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert re.search(r"next: doitong generate --idempotency-key \S+ 'a fox'", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("given", "times"), [([], 1), (["--idempotency-key", "mine"], 1), (["--idempotency-key=mine"], 2)]
)
def test_ctrl_c_at_a_submit_that_is_never_answered(
    given: list[str], times: int, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job may exist; the same command under the same idempotency key finds out."""
    serve(interrupting("submit", HANG, times=times))
    assert main(["generate", "a fox", *given]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "A job may have been made and charged." in err
    match = re.search(r"^next: doitong generate (.*)$", err, re.MULTILINE)
    assert match is not None
    words = shlex.split(match[1])
    assert words == ["a fox", *given] if given else words[::2] == ["--idempotency-key", "a fox"]


def test_ctrl_c_while_the_program_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with one line and no traceback."""
    usual = builtins.__import__

    def interrupted(name: str, *more: Any, **named: Any) -> Any:
        if name == "doitong_async.cli.app":
            raise KeyboardInterrupt
        return usual(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert capsys.readouterr().err == "Interrupted. Nothing was sent.\n"


def test_ctrl_c_while_options_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was sent, and the message says so."""
    monkeypatch.setattr("doitong_async.cli.generate.Service", lambda **_: signal.raise_signal(signal.SIGINT))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert "Interrupted. Nothing was sent." in capsys.readouterr().err


def test_ctrl_c_while_a_submit_waits_for_its_permit(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A submit that leaves the wait queue was never sent."""

    async def wait_for_permit(admission: Admission, priority: Priority, **_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        await admission.sleep(3600)

    monkeypatch.setattr(Admission, "permit", wait_for_permit)
    server = PlainServer(key=KEY)
    serve(server)
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert "Interrupted. Nothing was sent." in capsys.readouterr().err
    assert server.requests == []


def test_ctrl_c_before_the_first_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was sent, and the message says so."""
    monkeypatch.setattr(Destination, "check", lambda _: signal.raise_signal(signal.SIGINT))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert "Interrupted. Nothing was sent." in capsys.readouterr().err


@pytest.mark.usefixtures("virtual_time")
def test_ctrl_c_ends_a_private_emulator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its jobs end with it, so the command offers no resume."""
    monkeypatch.setattr(Lines, "accepted", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["generate", "a fox", "--emulator"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "private emulator" in err
    assert "next:" not in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_that_an_interrupt_prints_resumes_the_job(number: signal.Signals, tmp_path: Path) -> None:
    """Run word for word, it brings the picture, and the job is charged once."""
    target = tmp_path / "a fox.jpg"
    with running(Emulator(durations=1.0)) as emulator:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", str(target))
        assert process.stderr is not None
        while "token" not in process.stderr.readline():
            pass
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == Exit.INTERRUPTED
        assert "Traceback" not in err
        match = re.search(r"^next: doitong (.*)$", err, re.MULTILINE)
        assert match is not None
        again = spawn(*shlex.split(match[1]))
        out, err = again.communicate()
    assert (again.returncode, out) == (0, f"{target}\n")
    assert f"saved {target}" in err
    assert size_of(target) == (1024, 1024)
    assert emulator.world.charges == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ignored", "numbers"),
    [
        ("", [signal.SIGHUP, signal.SIGHUP, signal.SIGHUP]),
        ("", [signal.SIGTERM, signal.SIGHUP]),
        ("", [signal.SIGINT, signal.SIGHUP]),
        ("INT", [signal.SIGHUP]),
        ("INT", [signal.SIGTERM]),
    ],
)
def test_a_hangup_while_a_submit_is_in_flight_loses_no_job(
    ignored: str, numbers: list[signal.Signals]
) -> None:
    """The command reads the answer and reports the job, although a closing terminal signals repeatedly."""
    with running(Emulator(faults=[SLOW_SUBMIT])) as emulator:
        arrived = at_submit(emulator)
        process = spawn_ignoring(ignored or "USR1", "generate", "a fox", "--base-url", emulator.url, "--json")
        wait_for(arrived, process)
        for number in numbers:
            process.send_signal(number)
        out, err = process.communicate()
    [job_id] = emulator.world.jobs
    error = json.loads(out)["error"]
    assert process.returncode == Exit.INTERRUPTED
    assert (error["type"], error["job_id"]) == ("Interrupted", job_id)
    assert error["token"].startswith("dtj1.")
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_hangup_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup doitong generate …` makes its picture."""
    target = tmp_path / "fox.jpg"
    with running(Emulator(faults=[SLOW_SUBMIT], durations=0.0)) as emulator:
        arrived = at_submit(emulator)
        process = spawn_ignoring("HUP", "generate", "a fox", "--base-url", emulator.url, "-o", str(target))
        wait_for(arrived, process)
        process.send_signal(signal.SIGHUP)
        assert (process.communicate()[0], process.returncode) == (f"{target}\n", 0)
    assert size_of(target) == (1024, 1024)


@pytest.mark.slow
@pytest.mark.parametrize(("drawn_on", "arguments"), [("stdout", []), ("stderr", []), ("stdout", ["--json"])])
def test_closing_the_terminal_loses_no_job(drawn_on: str, arguments: list[str], tmp_path: Path) -> None:
    """It sends SIGHUP and then fails every write; the output that goes to a file has the token."""
    ours, theirs = os.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    log = tmp_path / "log"
    with running(Emulator(faults=[SLOW_SUBMIT])) as emulator, log.open("w") as file:
        arrived = at_submit(emulator)
        more: dict[str, Any] = {"start_new_session": True, "preexec_fn": own_terminal}
        streams: dict[str, Any] = {"stdin": theirs, "stdout": file, "stderr": file, drawn_on: theirs}
        process = spawn("generate", "a fox", "--base-url", emulator.url, *arguments, **streams, **more)
        os.close(theirs)
        wait_for(arrived, process)
        os.close(ours)
        assert process.wait() == Exit.INTERRUPTED
    [job_id] = emulator.world.jobs
    assert re.search(rf"{job_id}.* token dtj1\.", log.read_text())
    assert "Traceback" not in log.read_text()


def test_the_hangup_handler_is_restored(serve: Serve) -> None:
    """The command handles SIGHUP only until it has reported how it ended."""
    before = signal.getsignal(signal.SIGHUP)
    handlers: list[Any] = []

    def script(kind: str, nth: int) -> None:
        handlers.append(signal.getsignal(signal.SIGHUP))

    serve(PlainServer(key=KEY, seconds=0.0, script=script))
    assert main(["generate", "a fox"]) == 0
    assert handlers[0] is not before
    assert signal.getsignal(signal.SIGHUP) is before
