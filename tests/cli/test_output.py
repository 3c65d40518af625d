"""What a command writes: to a terminal, a pipe, a closed stream, a full disk."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from doitong_async import DoitongWarning
from doitong_async.cli import main, run_job
from doitong_async.cli.exits import Exit
from doitong_async.cli.render import Lines, Screen, renderer_for, write_line
from doitong_async.emulator import Emulator
from tests.cli.commands import (
    COMMAND,
    KEY,
    Serve,
    Terminal,
    accepted_job,
    json_answer,
    on,
    running,
    size_of,
    spawn,
)
from tests.plain_server import PlainServer


@pytest.mark.usefixtures("virtual_time")
def test_a_terminal_shows_a_spinner_and_a_summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It shows status and seconds while the job runs, and a complete summary at the end."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    target = tmp_path / "fox.jpg"
    assert main(["generate", "[b]fox[/b]", "--emulator", "--version", "flux-krea", "-o", str(target)]) == 0
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert "[b]fox[/b]" in plain
    assert "warning: version 'flux-krea' is shown for 'flux-krea', not for 'flux-pro'" in plain
    assert re.search(r"status +processing 0\.0 s → completed \d\.\d s", plain)
    assert re.search(r"took +\d\.\d s, \d+ credits", plain)
    # A long path wraps, and the rest of the line follows it on the next one.
    assert f"{target.stat().st_size:,} bytes" in " ".join(plain.split())


def test_an_error_on_a_terminal_says_what_to_do_next(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    """It shows the failure, the command that resumes the job, and the ids to quote."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    serve(PlainServer(key=KEY, seconds=1000.0))
    assert main(["generate", "a fox", "--timeout", "5"]) == Exit.TIMEOUT
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"✗ Job plain00001 was still 'processing' after 5 s\. The job goes on", plain)
    assert re.search(r"→ doitong job dtj1\.\S+\n", plain)
    assert "· job id plain00001, token dtj1." in plain


def test_a_terminal_shows_retries_and_leaves_the_log_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retries appear on the terminal; log lines go to standard error when that is a file."""
    terminal = Terminal()
    screen = renderer_for(terminal, sys.stderr, as_json=False)
    assert isinstance(screen, Screen)
    screen.happened("attempt 1 created no job")
    screen.note("slow")
    assert "attempt 1 created no job" in terminal.getvalue()
    assert capsys.readouterr().err == "slow\n"


def test_an_output_that_cannot_be_drawn_on_gets_lines() -> None:
    """A pipe or a terminal without UTF-8 gets lines, with unencodable characters escaped."""
    old = Terminal()
    old.encoding = "ascii"
    lines = renderer_for(io.StringIO(), old, as_json=False)
    assert isinstance(lines, Lines)
    lines.happened("größer → 🦊")
    assert old.getvalue().endswith("gr\\xf6\\xdfer \\u2192 \\U0001f98a\n")


def test_server_text_cannot_control_the_terminal_or_show_the_key(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output shows control characters as escapes and masks the key."""
    status = f"odd\x1b[31m\x9b2J\u202e{KEY}"
    serve(PlainServer(key=KEY, script=on("submit", accepted_job(status=status))))
    assert main(["generate", "fox", "-v"]) == Exit.JOB
    out, err = capsys.readouterr()
    assert "job job1 odd\\x1b[31m\\u009b2J\\u202e***" in err
    assert "warning: The service speaks of a status" in err
    assert not set("\x1b\x9b\u202e") & set(out + err)
    assert KEY not in out + err


def test_json_output_masks_the_key(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that repeats the key shows `***` in its place."""
    rejection = {"errors": [{"message": f"Unauthorized: {KEY}"}]}
    serve(PlainServer(key=KEY, script=on("submit", json_answer(401, rejection))))
    assert main(["generate", "fox", "--json"]) == Exit.CREDENTIALS
    out, err = capsys.readouterr()
    assert "Unauthorized: ***" in json.loads(out)["error"]["message"]
    assert KEY not in out + err


def test_retries_are_reported(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Each failed attempt is reported; one that was sent and not answered may have created a job."""
    answers: dict[int, bytes | str] = {1: "cut", 2: json_answer(503, {"message": "busy"})}
    serve(
        PlainServer(
            key=KEY, seconds=0.0, script=lambda kind, nth: answers.get(nth) if kind == "submit" else None
        )
    )
    assert main(["generate", "fox"]) == 0
    out, err = capsys.readouterr()
    assert "attempt 1 may have created a job: The request was sent" in err
    assert "attempt 2 may" in err
    assert len(out.splitlines()) == 1


def test_warnings_of_other_libraries_keep_their_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this library's warnings become notes of the command."""

    seen: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: seen.append(str(message)))
    lines = Lines(io.StringIO())
    with run_job.heard(lines, is_verbose=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "note", lambda text: seen.append(f"note {text}"))
        warnings.simplefilter("always")
        warnings.warn("theirs", UserWarning, stacklevel=1)
        warnings.warn("ours", DoitongWarning, stacklevel=1)
    assert seen == ["theirs", "note warning: ours"]


def test_a_log_line_that_cannot_be_written_does_no_harm(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the log must not break the code that logs."""

    def broken(_: Lines, text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Lines, "note", broken)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    server = PlainServer(key=KEY, script=lambda kind, nth: "cut" if (kind, nth) == ("submit", 1) else None)
    serve(server)
    assert main(["generate", "a fox", "-v"]) == 0
    assert len(server.jobs) == 1


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_does_not_stop_the_job(tmp_path: Path) -> None:
    """`doitong generate … | head -1` still saves the picture, without a traceback."""
    target = tmp_path / "fox.jpg"
    with running(Emulator(durations=0.0)) as emulator:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", str(target))
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait() == 0
        assert "Traceback" not in err
        process.stderr.close()
    assert target.exists()


@pytest.mark.slow
def test_output_on_a_full_disk_does_not_stop_the_job(tmp_path: Path) -> None:
    """The job matters more than its messages; standard error says once that the output ends."""
    target = tmp_path / "fox.jpg"
    with running(Emulator(durations=0.0)) as emulator, open("/dev/full", "w") as full:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", str(target), stdout=full)
        _, err = process.communicate()
    assert process.returncode == 0
    assert err.splitlines()[-1] == "The output cannot be written any more: No space left on device."
    assert size_of(target) == (1024, 1024)


@pytest.mark.slow
def test_a_command_with_closed_outputs_does_its_job(tmp_path: Path) -> None:
    """Cron may start a job with standard output and standard error closed."""
    target = tmp_path / "fox.jpg"
    with running(Emulator(durations=0.0)) as emulator:
        words = [*COMMAND, "generate", "a fox", "--base-url", emulator.url, "-o", str(target)]
        assert subprocess.call(["sh", "-c", f"{shlex.join(words)} >&- 2>&-"]) == 0
    assert size_of(target) == (1024, 1024)


@pytest.mark.slow
def test_a_picture_that_nobody_reads_is_a_failed_download() -> None:
    """`-o -` into a closed pipe is exit 10, with the command that fetches the picture again."""
    with running(Emulator(durations=0.0)) as emulator:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", "-")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait() == Exit.DOWNLOAD
        process.stderr.close()
    assert "next: doitong job dtj1." in err
    assert "Traceback" not in err


def test_a_download_into_a_closed_pipe_fails(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same failure, within one process."""
    reader, writer = os.pipe()
    os.close(reader)
    serve(Emulator(durations=0.0))
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["generate", "a fox", "-o", "-"]) == Exit.DOWNLOAD
    assert "The standard output cannot be written: Broken pipe." in capsys.readouterr().err


def test_writing_to_a_closed_pipe_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line that fails silences the stream; later lines are not attempted."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        assert [write_line(file, line) for line in ("nobody", "reads this")] == [False, False]
    assert capsys.readouterr() == ("", "")
