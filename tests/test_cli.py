"""The command line as its users meet it: lines in a pipe, a screen, JSON, exit codes, Ctrl-C."""

from __future__ import annotations

import asyncio
import builtins
import fcntl
import gc
import io
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import termios
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import doitong_async
from doitong_async import DoitongWarning, errors
from doitong_async.cli import main, run_job
from doitong_async.cli.exits import MEANINGS, OF_ERRORS, Exit, exit_of
from doitong_async.cli.outputs import Destination
from doitong_async.cli.render import Lines, Screen, renderer_for, write_line
from doitong_async.cli.text import clean, command_line
from doitong_async.emulator import Emulator, Seen, parse_fault
from doitong_async.jobs.job import JobFailedError, JobTimeoutError
from doitong_async.limits.admission import Admission
from doitong_async.limits.permits import Priority
from doitong_async.testing import run_virtual
from tests.emulator.test_server import has_ipv6
from tests.plain_server import HANG, PlainServer, http

KEY = "sk-never-to-be-seen"
COMMAND = [sys.executable, "-m", "doitong_async"]
Beside = Callable[[Emulator | PlainServer], None]
Work = Coroutine[Any, Any, Any]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and nothing else that a developer may have set."""
    for name in ("DOITONG_PLAN", "FORCE_COLOR", "NO_COLOR", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOITONG_API_KEY", KEY)
    monkeypatch.setenv("DOITONG_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT as at a prompt, even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in virtual time: waiting takes none."""
    monkeypatch.setattr(asyncio, "run", run_virtual)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """Commands run in virtual time beside a server, on one loop with it, and know where it is."""

    def start(server: Emulator | PlainServer) -> None:
        async def together(work: Work) -> Any:
            async with server:
                monkeypatch.setenv("DOITONG_BASE_URL", server.url)
                return await work

        def run(work: Work) -> Any:
            return run_virtual(together(work))

        monkeypatch.setattr(asyncio, "run", run)

    yield start
    # An interrupted task complains when it is collected: here, and not within another test's `ast.parse`,
    # which Python 3.11 then fails with a SystemError.
    gc.collect()


@contextmanager
def running(emulator: Emulator) -> Iterator[Emulator]:
    """Run an emulator in a thread of its own, for commands that are processes of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(emulator.start(), loop).result()
        yield emulator
    finally:
        asyncio.run_coroutine_threadsafe(emulator.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def spawn(*arguments: str, program: Sequence[str] = COMMAND, **more: Any) -> subprocess.Popen[str]:
    """Start the real command, with its output in pipes."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    return subprocess.Popen([*program, *arguments], **pipes)


def wait_for(event: threading.Event, process: subprocess.Popen[str]) -> None:
    """Wait for an event that a process causes, however slow the machine; fail if the process ends before."""
    while not event.wait(0.05):
        assert process.poll() is None, process.communicate()


def size_of(picture: Path | io.BytesIO) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def answer(status: int, body: object) -> bytes:
    return http(status, json.dumps(body).encode(), "application/json", {})


def made(**fields: object) -> bytes:
    return answer(200, {"data": {"generate": {"id": "job1", "status": "processing", **fields}}})


def on(kind: str, reply: bytes | str) -> Callable[[str, int], bytes | str | None]:
    """A script of the plain server: this reply to every request of one kind."""
    return lambda seen, _: reply if seen == kind else None


# What it does


@pytest.mark.usefixtures("virtual")
def test_a_prompt_becomes_a_picture_without_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--emulator -o` leaves a real picture of the asked size and says, line by line, what it did."""
    monkeypatch.delenv("DOITONG_API_KEY")
    place = tmp_path / "city.jpg"
    prompt = "A city with [red]neon[/red] lights"
    assert (
        main(["generate", prompt, "--emulator", "-o", str(place), "--width", "640", "--height", "360"]) == 0
    )
    assert size_of(place) == (640, 360)
    out, err = capsys.readouterr()
    assert err == ""
    patterns = (
        r"submitting 'A city with \[red\]neon\[/red\] lights' under idempotency key \S+",
        r"job (\w+) processing",
        r"job \w+ token dtj1\.\S+",
        r"job \w+ completed",
        r"job \w+ done: \d+\.\d s, \d+ credits, flux-pro",
        r"url http://127\.0\.0\.1:\d+/outputs/\w+\.jpg",
        rf"saved {place}, {place.stat().st_size:,} bytes",
    )
    lines = out.splitlines()
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(r"\d\d:\d\d:\d\d " + pattern, line), line


@pytest.mark.slow
def test_the_real_command_in_a_pipe(tmp_path: Path) -> None:
    """The process as a shell starts it: bytes to its standard output, words to the other."""
    with running(Emulator(durations=0.0)) as emulator:
        options = ["--base-url", emulator.url, "--width", "320", "--height", "200", "-o", "-"]
        ran = subprocess.run([*COMMAND, "generate", "-", *options], input=b"waves\n", capture_output=True)
    assert ran.returncode == 0
    assert size_of(io.BytesIO(ran.stdout)) == (320, 200)
    assert b"saved to stdout" in ran.stderr
    assert [job.prompt for job in emulator.world.jobs.values()] == ["waves"]


def test_json_is_one_object(beside: Beside, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` the standard output is exactly one JSON object, and nothing else is written."""
    emulator = Emulator("pro", durations=5.0)
    beside(emulator)
    assert main(["generate", "a fox", "--json", "--plan", "PRO", "-o", f"{tmp_path}/"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    (job,) = emulator.world.jobs.values()
    (file,) = tmp_path.iterdir()
    assert err == ""
    assert said["token"].startswith("dtj1.")
    assert [each["status"] for each in said["statuses"]] == ["processing", "completed"]
    assert said["url"].endswith(file.name)
    assert said["seconds"] >= 5
    assert said["idempotency_key"] == job.idempotency_key
    known: dict[str, object] = {"id": job.id, "status": "completed", "provider": "flux-pro", "type": "IMAGE"}
    known |= {"credit_cost": job.credit_cost, "file": str(file), "bytes": file.stat().st_size}
    assert said.items() >= known.items()


def test_bytes_go_to_the_standard_output(beside: Beside, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """`-o -` writes the picture there, and the words elsewhere."""
    beside(Emulator(durations=0.0))
    assert main(["generate", "a fox", "-o", "-", "--width", "300", "--height", "300"]) == 0
    out, err = capsysbinary.readouterr()
    assert size_of(io.BytesIO(out)) == (300, 300)
    assert f"saved to stdout, {len(out):,} bytes".encode() in err


def test_every_option_reaches_the_service(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """The request is sent as it was asked for, under the key that was given."""
    emulator = Emulator(durations=0.0)
    beside(emulator)
    options = ["--provider", "kling", "--type", "VIDEO", "--version", "v2", "--quality", "high"]
    options += ["--input", '{"style": "calm"}', "--options", '{"duration": 5}', "--idempotency-key", "once"]
    assert main(["generate", "waves", *options, "--timeout", "30"]) == 0
    (job,) = emulator.world.jobs.values()
    assert (job.type, job.provider, job.prompt, job.idempotency_key) == ("VIDEO", "kling", "waves", "once")
    assert job.order.duration == 5
    assert "saved" not in capsys.readouterr().out


def test_a_job_is_taken_up_without_a_key(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`doitong job --emulator` finds the job of another command on the emulator that runs."""
    monkeypatch.delenv("DOITONG_API_KEY")
    with running(Emulator(durations=0.0)) as emulator:
        monkeypatch.setattr("doitong_async.cli.job.EMULATOR_PORT", int(emulator.url.rpartition(":")[2]))
        monkeypatch.setenv("DOITONG_API_KEY", "emulated")
        assert main(["generate", "waves", "--base-url", emulator.url]) == 0
        monkeypatch.delenv("DOITONG_API_KEY")
        (job_id,) = emulator.world.jobs
        capsys.readouterr()
        assert main(["job", job_id, "--emulator"]) == 0
    out = capsys.readouterr().out
    assert f"job {job_id} resumed" in out
    assert f"job {job_id} completed" in out
    assert "processing" not in out


@pytest.mark.usefixtures("virtual")
def test_a_picture_that_is_not_saved_ends_with_its_emulator(capsys: pytest.CaptureFixture[str]) -> None:
    """Who forgot `-o` is told why the URL is of no use."""
    assert main(["generate", "waves", "--emulator"]) == 0
    assert "-o saves the picture" in capsys.readouterr().err


def test_an_emulator_of_its_own_offers_no_job_to_take_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a timeout its job is gone with it: wait longer is all there is to say."""
    monkeypatch.setattr(asyncio, "run", run_virtual)
    assert main(["generate", "waves", "--emulator", "--timeout", "1"]) == Exit.TIMEOUT
    assert "next: Allow a longer --timeout." in capsys.readouterr().err


# The screen


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    encoding: str = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("virtual")
def test_a_terminal_shows_a_spinner_and_a_summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Status and seconds while it runs, and at the end what was done, whole."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    place = tmp_path / "fox.jpg"
    assert main(["generate", "[b]fox[/b]", "--emulator", "--version", "flux-krea", "-o", str(place)]) == 0
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert "[b]fox[/b]" in plain
    assert "warning: version 'flux-krea' is shown for 'flux-krea', not for 'flux-pro'" in plain
    assert re.search(r"status +processing 0\.0 s → completed \d\.\d s", plain)
    assert re.search(r"took +\d\.\d s, \d+ credits", plain)
    # A long path is folded, and what follows it goes to the next line.
    assert f"{place.stat().st_size:,} bytes" in " ".join(plain.split())


def test_errors_on_a_terminal_say_what_next(monkeypatch: pytest.MonkeyPatch, beside: Beside) -> None:
    """The failure, the command that goes on from it, and the facts to quote."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    beside(PlainServer(key=KEY, seconds=1000.0))
    assert main(["generate", "a fox", "--timeout", "5"]) == Exit.TIMEOUT
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(r"✗ Job plain00001 was still 'processing' after 5 s\. The job goes on", plain)
    assert re.search(r"→ doitong job dtj1\.\S+\n", plain)
    assert "· job id plain00001, token dtj1." in plain


def test_a_screen_tells_notes_where_they_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retries are shown among the rest; the log goes to the standard error if that is a file."""
    terminal = Terminal()
    screen = renderer_for(terminal, as_json=False)
    assert isinstance(screen, Screen)
    screen.happened("attempt 1 created no job")
    screen.note("slow")
    assert "attempt 1 created no job" in terminal.getvalue()
    assert capsys.readouterr().err == "slow\n"


def test_what_cannot_be_drawn_is_written_in_lines() -> None:
    """A pipe, and a terminal without UTF-8, get lines; letters that a stream lacks are escaped."""
    old = Terminal()
    old.encoding = "ascii"
    report = renderer_for(old, as_json=False)
    assert isinstance(report, Lines)
    report.happened("größer → 🦊")
    assert old.getvalue().endswith("gr\\xf6\\xdfer \\u2192 \\U0001f98a\n")


# What it refuses, before anything is sent


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["generate"], "prompt is None"),
        (
            ["generate", "fox", "-o", "/nowhere/at/all.jpg"],
            "the directory /nowhere/at does not exist. Create it",
        ),
        (["generate", "fox", "-o", "/nowhere/"], "the directory /nowhere does not exist."),
        (["generate", "fox", "-o", ""], "-o is empty"),
        (["generate", "fox", "-o", "/dev/null"], "not a regular file"),
        (["generate", "fox", "-o", "x" * 300], "this cannot be a file"),
        (["generate", "fox", "--width", "0"], "width is 0; expected whole pixels"),
        (["generate", "fox", "--width", "wide"], "--width"),
        (["generate", "fox", "--input", "{"], "--input is not JSON"),
        (["generate", "fox", "--options", "[1]"], "--options is [1]; expected a JSON object"),
        (["generate", "fox", "--plan", "gold"], "gold"),
        (["generate", "fox", "--timeout", "-1"], "timeout is -1.0; expected seconds"),
        (
            ["generate", "fox", "--base-url", "http://example.com"],
            "over plain http others can read the API key",
        ),
        (["generate", "fox", "--emulator", "--base-url", "http://127.0.0.1:1"], "has its own address"),
        (["generate", "fox", "--api-key", "x"], "No such option"),
        (["job", "dtj1.broken"], "The token is damaged"),
        (["paint"], "No such command"),
        (["emulator", "--speed", "0"], "--speed is 0.0; expected a number above zero"),
        (["emulator", "--speed", "nan"], "--speed is nan"),
        (["emulator", "--key", "two words"], "--key is not a key"),
        (["emulator", "--webhook-secret", " "], "--webhook-secret is empty"),
        (["emulator", "--host", "999.0.0.1"], "cannot listen on 999.0.0.1"),
        (
            ["emulator", "--fault", "poll: 5oo"],
            "the fault 'poll: 5oo' is invalid: '5oo' is none of latency, 500",
        ),
        (["emulator", "--fault", "poll: 500", "--fault", "x"], "the fault 'x' is invalid: expected WHERE"),
        (["emulator", "--fault", "nonsense"], "`doitong emulator --fault help` lists all faults"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, what is wrong on the standard error, nothing on the other."""
    assert main(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    assert complaint in err
    assert out == ""


def test_two_things_cannot_have_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes and JSON do not mix; the complaint is JSON, as was asked."""
    assert main(["generate", "fox", "-o", "-", "--json"]) == Exit.USAGE
    assert "both want the standard output" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_key_that_is_none_is_refused(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """The library refuses what no header can carry, before anything is sent."""
    server = PlainServer(key=KEY)
    beside(server)
    assert main(["generate", "fox", "--idempotency-key", "ä"]) == Exit.USAGE
    assert "expected printable ASCII" in capsys.readouterr().err
    assert server.requests == []


def test_a_directory_must_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may not write there is told before the job is paid for."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert main(["generate", "fox", "-o", str(tmp_path / "fox.jpg")]) == Exit.USAGE
    assert f"{tmp_path} is not writable" in capsys.readouterr().err


def test_bytes_are_not_written_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-o -` wants a pipe or a file behind it."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["generate", "fox", "-o", "-"]) == Exit.USAGE
    assert "Pipe it on" in capsys.readouterr().err


def test_a_prompt_from_stdin_is_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are no UTF-8 are refused, saying where."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert main(["generate", "-"]) == Exit.USAGE
    assert "not UTF-8: invalid start byte at byte 2" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["generate", "a fox"], ["job", "abc123"]])
def test_a_missing_key_is_a_matter_of_credentials(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3, naming the variable, and the way to try without."""
    monkeypatch.delenv("DOITONG_API_KEY")
    assert main(command) == Exit.CREDENTIALS
    err = capsys.readouterr().err
    assert "DOITONG_API_KEY is not set" in err
    assert "--emulator" in err


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_extra_is_told(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the command that brings it."""
    for name in [name for name in sys.modules if name.startswith("doitong_async.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["--help"]) == Exit.USAGE
    assert "pip install 'doitong-async[cli]'" in capsys.readouterr().err


def test_another_module_that_is_missing_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the extra's own absence is told in words."""
    for module in ("app", "generate", "job"):
        monkeypatch.delitem(sys.modules, f"doitong_async.cli.{module}")
        monkeypatch.delattr(f"doitong_async.cli.{module}")
    monkeypatch.setitem(sys.modules, "doitong_async.cli.run_job", None)
    monkeypatch.delattr("doitong_async.cli.run_job")
    with pytest.raises(ImportError, match="run_job"):
        main(["--help"])


@pytest.mark.parametrize("command", [["generate", "a fox", "--emulator"], ["emulator", "--port", "0"]])
def test_missing_pillow_is_told(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the command that brings it."""
    for name in [name for name in sys.modules if name.startswith(("doitong_async.emulator", "PIL"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "doitong_async.testing", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(command) == Exit.USAGE
    assert "pip install 'doitong-async[emulator]'" in capsys.readouterr().err


# How it ends


def test_every_error_has_its_exit_code() -> None:
    """The whole tree of errors, each with the code that the help promises; a subclass ends as its parent."""
    tree = {kind for kind in vars(doitong_async).values() if isinstance(kind, type)}
    leaves = {kind for kind in tree if issubclass(kind, errors.DoitongError)} - {errors.DoitongError}
    assert leaves == OF_ERRORS.keys()
    expected = {
        Exit.USAGE: {errors.ConfigurationError, errors.BadRequestError},
        Exit.CREDENTIALS: {errors.AuthenticationError},
        Exit.CREDITS: {errors.InsufficientCreditsError},
        Exit.LIMITS: {errors.RateLimitError, errors.DailyLimitError},
        Exit.JOB: {JobFailedError, errors.JobNotFoundError},
        Exit.TIMEOUT: {JobTimeoutError},
        Exit.SERVICE: {
            *(errors.ConnectionFailedError, errors.ServerError, errors.ProtocolError),
            *(errors.WebhookPayloadError, errors.WebhookSignatureError),
        },
        Exit.UNKNOWN: {errors.SubmitOutcomeUnknownError},
        Exit.DOWNLOAD: {errors.DownloadError, errors.LedgerError},
        Exit.BUDGET: {errors.BudgetReachedError},
        Exit.INTERRUPTED: {errors.ClientClosedError},
    }
    assert {code: {kind for kind in leaves if exit_of(kind("")) == code} for code in expected} == expected
    assert [int(code) for code in Exit] == [0, *range(2, 13), 130]

    class Narrower(errors.DailyLimitError):
        pass

    assert exit_of(Narrower("")) == Exit.LIMITS


@pytest.mark.parametrize(
    ("server", "end", "message", "next_command"),
    [
        (Emulator(key="another"), Exit.CREDENTIALS, "API key", None),
        (Emulator(credits=1), Exit.CREDITS, "Insufficient credits", None),
        (Emulator(durations=1e6), Exit.TIMEOUT, "goes on", r"doitong job dtj1\.\S+ -o out/ --plan free"),
        (PlainServer(key=KEY, script=on("submit", made(status="failed"))), Exit.JOB, "'failed'", None),
        (
            PlainServer(key=KEY, script=on("submit", answer(500, {}))),
            Exit.SERVICE,
            "HTTP 500",
            r"doitong generate --idempotency-key \S+ 'a fox' -o out/ --plan free --timeout 60 --json",
        ),
        (
            PlainServer(key=KEY, script=on("submit", "cut")),
            Exit.UNKNOWN,
            "may have been made",
            r"doitong generate --idempotency-key \S+ 'a fox' -o out/ --plan free --timeout 60 --json",
        ),
        (
            PlainServer(key=KEY, script=on("output", answer(403, {}))),
            Exit.DOWNLOAD,
            "done and paid",
            r"doitong job dtj1\.\S+ -o out/ --plan free",
        ),
        (PlainServer(key=KEY, script=on("submit", answer(404, {}))), Exit.USAGE, "HTTP 404", None),
    ],
)
def test_failures_say_what_they_mean_and_what_next(
    server: Emulator | PlainServer,
    end: Exit,
    message: str,
    next_command: str | None,
    beside: Beside,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each failure has its exit code, in JSON too, and a command to go on with if there is one."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    beside(server)
    assert main(["generate", "a fox", "-o", "out/", "--plan", "free", "--timeout", "60", "--json"]) == end
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert OF_ERRORS[getattr(doitong_async, error["type"])] == error["exit_code"] == end
    assert {"job_id", "token", "idempotency_key", "request_id", "http_status", "code"} <= error.keys()
    assert message in error["message"]
    if next_command is None:
        assert error["next"] is None
        assert error["advice"]
    else:
        assert re.fullmatch(next_command, error["next"])
    assert not list(Path("out").iterdir())
    assert KEY not in out + err


def test_a_service_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """No job was made, and where to look for the reason."""
    assert main(["job", "abc", "--base-url", "http://127.0.0.1:9", "--timeout", "0.1"]) == Exit.TIMEOUT
    assert "The last poll failed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_that_the_emulator_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 6; who looks for a job of `generate --emulator` learns that it is gone."""
    with running(Emulator()) as emulator:
        assert main(["job", "abc", "--emulator", "--base-url", emulator.url]) == Exit.JOB
    assert "ends with that command" in capsys.readouterr().err


def test_usage_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that mistypes an option reads why, where it reads everything else."""
    assert main(["generate", "fox", "--wdith", "3", "--json"]) == Exit.USAGE
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["advice"]) == ("UsageError", "See `doitong generate --help`.")
    assert err == ""


def test_the_help_teaches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples, the environment and every exit code; a bare `doitong` shows it and counts as a mistake."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--emulator -o city.jpg" in text
    assert "DOITONG_API_KEY" in text
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ {code.value} +{re.escape(meaning)}", text, re.MULTILINE)
    assert main([]) == Exit.USAGE
    assert capsys.readouterr().out == text
    for command in ("generate", "job", "emulator"):
        assert main([command, "-h"]) == 0
        assert "Examples" in capsys.readouterr().out


# What it keeps to itself


def test_what_the_server_says_cannot_act_nor_tell_the_key(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters are shown instead of obeyed, and the key is blotted out."""
    status = f"odd\x1b[31m\x9b2J\u202e{KEY}"
    beside(PlainServer(key=KEY, script=on("submit", made(status=status))))
    assert main(["generate", "fox", "-v"]) == Exit.JOB
    out, err = capsys.readouterr()
    assert "job job1 odd\\x1b[31m\\u009b2J\\u202e***" in out
    assert "warning: The service speaks of a status" in err
    assert not set("\x1b\x9b\u202e") & set(out + err)
    assert KEY not in out + err


def test_the_key_is_not_in_json_either(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor in an error that repeats it."""
    refusal = {"errors": [{"message": f"Unauthorized: {KEY}"}]}
    beside(PlainServer(key=KEY, script=on("submit", answer(401, refusal))))
    assert main(["generate", "fox", "--json"]) == Exit.CREDENTIALS
    out, err = capsys.readouterr()
    assert "Unauthorized: ***" in json.loads(out)["error"]["message"]
    assert KEY not in out + err


def test_retries_are_told(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """A try that failed is a thing that happened; one that was sent and not answered may have made a job."""
    answers: dict[int, bytes | str] = {1: "cut", 2: answer(503, {"message": "busy"})}
    beside(
        PlainServer(
            key=KEY, seconds=0.0, script=lambda kind, nth: answers.get(nth) if kind == "submit" else None
        )
    )
    assert main(["generate", "fox"]) == 0
    out = capsys.readouterr().out
    assert "attempt 1 may have created a job: The request was sent" in out
    assert "attempt 2 may" in out


def test_other_peoples_warnings_stay_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this library's warnings are told in its own words."""

    seen: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: seen.append(str(message)))
    report = Lines(io.StringIO())
    with run_job.heard(report, is_verbose=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "note", lambda text: seen.append(f"note {text}"))
        warnings.simplefilter("always")
        warnings.warn("theirs", UserWarning, stacklevel=1)
        warnings.warn("ours", DoitongWarning, stacklevel=1)
    assert seen == ["theirs", "note warning: ours"]


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "a fox",
        "it's",
        "two\nlines",
        "tab\tand 'quote' and \\",
        "\x1b[31m",
        "\u202e",
        "🦊\u200d",
        "\U000e0001",
    ],
)
def test_a_command_to_copy_means_what_was_meant(word: str) -> None:
    """Printable, and the shell reads the same words from it."""
    line = command_line(["generate", word])
    assert clean(line) == line
    script = line.replace("doitong", "printf '%s|'", 1)
    ran = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert ran.stdout.decode() == f"generate|{word}|"


# Ctrl-C


def interrupting(kind: str, reply: bytes | str | None = None, *, times: int = 1) -> PlainServer:
    """A server at whose first request of a kind the user presses Ctrl-C."""

    def script(seen: str, nth: int) -> bytes | str | None:
        if seen == kind and nth == 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return reply if seen == kind else None

    return PlainServer(key=KEY, seconds=6.0, script=script)


def test_ctrl_c_while_a_job_runs(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """It says which job goes on, and the command that takes it up."""
    beside(interrupting("poll"))
    assert main(["generate", "a fox", "-o", "fox.jpg"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "Interrupted. Job plain00001 continues at the service and is charged." in err
    assert re.search(r"^next: doitong job dtj1\.\S+ -o fox\.jpg$", err, re.MULTILINE)


def test_ctrl_c_while_the_submit_is_under_way(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is read all the same: the job that came of it is paid for."""
    beside(interrupting("submit"))
    assert main(["generate", "a fox", "--json"]) == Exit.INTERRUPTED
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["job_id"], error["exit_code"]) == ("Interrupted", "plain00001", 130)
    assert error["next"] == f"doitong job {error['token']}"
    assert "waiting up to 10 s for the answer" in err


def test_ctrl_c_while_the_output_is_fetched(
    beside: Beside, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job is over; half a file is not left, and the whole one can be had."""
    beside(interrupting("output", HANG))
    assert main(["generate", "a fox", "-o", f"{tmp_path}/fox.jpg"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "Job plain00001 has ended." in err
    assert "next: doitong job dtj1." in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_at_a_submit_that_is_refused(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """Then nothing goes on, and it says why."""
    beside(interrupting("submit", answer(401, {"errors": [{"message": "Unauthorized"}]})))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "Interrupted. The submit in flight failed: The service said: 'Unauthorized'." in err
    assert "next:" not in err


def test_ctrl_c_at_a_submit_whose_connection_breaks(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may have been made is asked for again under the same key."""
    beside(interrupting("submit", "cut"))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert re.search(r"next: doitong generate --idempotency-key \S+ 'a fox'", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("given", "times"), [([], 1), (["--idempotency-key", "mine"], 1), (["--idempotency-key=mine"], 2)]
)
def test_ctrl_c_at_a_submit_that_is_never_answered(
    given: list[str], times: int, beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody knows whether a job was made: the same command under the same key finds out."""
    beside(interrupting("submit", HANG, times=times))
    assert main(["generate", "a fox", *given]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "A job may have been made and charged." in err
    match = re.search(r"^next: doitong generate (.*)$", err, re.MULTILINE)
    assert match is not None
    words = shlex.split(match[1])
    assert words == ["a fox", *given] if given else words[::2] == ["--idempotency-key", "a fox"]


def test_ctrl_c_while_the_program_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is as quiet as any other."""
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
    """There is no story yet, and nothing was sent."""
    monkeypatch.setattr("doitong_async.cli.generate.Service", lambda **_: signal.raise_signal(signal.SIGINT))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert "Interrupted. Nothing was sent." in capsys.readouterr().err


def test_ctrl_c_while_a_submit_waits_for_its_permit(
    monkeypatch: pytest.MonkeyPatch, beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was sent away from the queue was never sent to the service."""

    async def wait_for_permit(admission: Admission, priority: Priority, **_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        await admission.sleep(3600)

    monkeypatch.setattr(Admission, "permit", wait_for_permit)
    server = PlainServer(key=KEY)
    beside(server)
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert "Interrupted. Nothing was sent." in capsys.readouterr().err
    assert server.requests == []


def test_ctrl_c_before_the_first_request(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then nothing was sent, and it says so."""
    monkeypatch.setattr(Destination, "check", lambda _: signal.raise_signal(signal.SIGINT))
    assert main(["generate", "a fox"]) == Exit.INTERRUPTED
    assert "Interrupted. Nothing was sent." in capsys.readouterr().err


@pytest.mark.usefixtures("virtual")
def test_ctrl_c_ends_an_emulator_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its jobs end with it, so nothing is promised."""
    monkeypatch.setattr(Lines, "accepted", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["generate", "a fox", "--emulator"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "private emulator" in err
    assert "next:" not in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_at_the_real_command_and_taking_the_job_up(number: signal.Signals, tmp_path: Path) -> None:
    """The command that the interrupted process tells, word for word, brings the picture."""
    place = tmp_path / "a fox.jpg"
    with running(Emulator(durations=1.0)) as emulator:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", str(place))
        assert process.stdout is not None
        while "token" not in process.stdout.readline():
            pass
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == Exit.INTERRUPTED
        assert "Traceback" not in err
        match = re.search(r"^next: doitong (.*)$", err, re.MULTILINE)
        assert match is not None
        again = spawn(*shlex.split(match[1]))
        out, err = again.communicate()
    assert (again.returncode, err) == (0, "")
    assert f"saved {place}" in out
    assert size_of(place) == (1024, 1024)
    assert emulator.world.charges == 1


def ignoring(signals: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """Start the real command as nohup does, or a shell in the background: it ignores these signals."""
    return spawn(*arguments, program=["sh", "-c", f"trap '' {signals}; exec \"$@\"", "sh", *COMMAND], **more)


def at_each_request(emulator: Emulator, act: Callable[[], object]) -> None:
    """Act at each request, before its answer is sent."""
    record = emulator.world.record

    def recorded(seen: Seen) -> None:
        record(seen)
        act()

    emulator.world.record = recorded  # type: ignore[method-assign]


def at_submit(emulator: Emulator) -> threading.Event:
    """An event that is set when a submit has arrived."""
    arrived = threading.Event()
    at_each_request(emulator, arrived.set)
    return arrived


SLOWLY = parse_fault("submit: latency 1")


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
def test_a_hangup_while_a_submit_is_under_way_loses_no_job(
    ignored: str, numbers: list[signal.Signals]
) -> None:
    """The answer is read, and the job told; a terminal that goes says so more than once."""
    with running(Emulator(faults=[SLOWLY])) as emulator:
        arrived = at_submit(emulator)
        process = ignoring(ignored or "USR1", "generate", "a fox", "--base-url", emulator.url, "--json")
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
    place = tmp_path / "fox.jpg"
    with running(Emulator(faults=[SLOWLY], durations=0.0)) as emulator:
        arrived = at_submit(emulator)
        process = ignoring("HUP", "generate", "a fox", "--base-url", emulator.url, "-o", str(place))
        wait_for(arrived, process)
        process.send_signal(signal.SIGHUP)
        assert (process.communicate()[1], process.returncode) == ("", 0)
    assert size_of(place) == (1024, 1024)


@pytest.mark.slow
@pytest.mark.parametrize(("drawn_on", "arguments"), [("stdout", []), ("stderr", []), ("stdout", ["--json"])])
def test_a_terminal_that_is_closed_takes_no_job_along(
    drawn_on: str, arguments: list[str], tmp_path: Path
) -> None:
    """It sends SIGHUP, and then cannot be written to: what goes to a file has the token."""
    ours, theirs = os.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    log = tmp_path / "log"
    with running(Emulator(faults=[SLOWLY])) as emulator, log.open("w") as file:
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


def test_a_hangup_does_in_the_end_what_it_did_before(beside: Beside) -> None:
    """It is ignored only until the command has told how it ended."""
    before = signal.getsignal(signal.SIGHUP)
    heard: list[Any] = []

    def script(kind: str, nth: int) -> None:
        heard.append(signal.getsignal(signal.SIGHUP))

    beside(PlainServer(key=KEY, seconds=0.0, script=script))
    assert main(["generate", "a fox"]) == 0
    assert heard[0] is not before
    assert signal.getsignal(signal.SIGHUP) is before


def test_a_log_that_cannot_be_told_harms_nothing(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever logs has something else to do."""

    def broken(_: Lines, text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Lines, "note", broken)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    server = PlainServer(key=KEY, script=lambda kind, nth: "cut" if (kind, nth) == ("submit", 1) else None)
    beside(server)
    assert main(["generate", "a fox", "-v"]) == 0
    assert len(server.jobs) == 1


# Readers that go away


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_stop_the_job(tmp_path: Path) -> None:
    """`doitong generate … | head -1` still saves the picture, without a traceback."""
    place = tmp_path / "fox.jpg"
    with running(Emulator(durations=0.0)) as emulator:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", str(place))
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert (process.wait(), err) == (0, "")
        process.stderr.close()
    assert place.exists()


@pytest.mark.slow
def test_a_log_on_a_full_disk_does_not_stop_the_job(tmp_path: Path) -> None:
    """What is told is worth less than the job; that it is told no more is said where it can be."""
    place = tmp_path / "fox.jpg"
    with running(Emulator(durations=0.0)) as emulator, open("/dev/full", "w") as full:
        process = spawn("generate", "a fox", "--base-url", emulator.url, "-o", str(place), stdout=full)
        _, err = process.communicate()
    assert (process.returncode, err) == (
        0,
        "The output cannot be written any more: No space left on device.\n",
    )
    assert size_of(place) == (1024, 1024)


@pytest.mark.slow
def test_a_command_without_outputs_does_its_job(tmp_path: Path) -> None:
    """As a job of cron may be begun: with standard output and error closed."""
    place = tmp_path / "fox.jpg"
    with running(Emulator(durations=0.0)) as emulator:
        words = [*COMMAND, "generate", "a fox", "--base-url", emulator.url, "-o", str(place)]
        assert subprocess.call(["sh", "-c", f"{shlex.join(words)} >&- 2>&-"]) == 0
    assert size_of(place) == (1024, 1024)


@pytest.mark.slow
def test_bytes_that_nobody_reads_are_a_failed_download() -> None:
    """`-o -` into a closed pipe: exit 10, and how to fetch it again."""
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


def test_a_download_into_a_closed_pipe(
    monkeypatch: pytest.MonkeyPatch, beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, within one process."""
    reader, writer = os.pipe()
    os.close(reader)
    beside(Emulator(durations=0.0))
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["generate", "a fox", "-o", "-"]) == Exit.DOWNLOAD
    assert "The standard output cannot be written: Broken pipe." in capsys.readouterr().err


def test_a_closed_pipe_is_written_to_without_complaint(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line that fails silences the stream; no later one is tried, and nothing is said of it."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        assert [write_line(file, line) for line in ("nobody", "reads this")] == [False, False]
    assert capsys.readouterr() == ("", "")


# The emulator


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_emulator_runs_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """It says how to reach it, in lines to copy that work, and ends well at SIGTERM or SIGHUP."""
    process = spawn("emulator", "--port", "0", "--plan", "pro", "--speed", "1e9", "--key", "k e"[::2] + "y")
    assert process.stdout is not None
    first, export, curl = (process.stdout.readline().strip() for _ in range(3))
    assert re.fullmatch(r"emulator on http://127\.0\.0\.1:\d+, plan pro; Ctrl-C stops it", first)
    script = f"{export}; {curl}; test $DOITONG_PLAN = pro && test $DOITONG_API_KEY = key"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["type"] == "IMAGE"
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out == "stopped: 1 submits, 0 polls, 1 jobs charged\n"


def test_ctrl_c_ends_the_emulator_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was told to run until then: that is no failure."""
    start = Emulator.start

    async def start_and_interrupt(emulator: Emulator) -> None:
        await start(emulator)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Emulator, "start", start_and_interrupt)
    assert main(["emulator", "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert "DOITONG_API_KEY=emulated DOITONG_PLAN=free" in out
    assert out.endswith("stopped: 0 submits, 0 polls, 0 jobs charged\n")


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["emulator", "--port", str(port)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}" in err
    assert "Choose another --port" in err


@pytest.mark.slow
def test_faults_of_the_emulator_are_told_and_hold() -> None:
    """Each in a line of its own, as it is understood, and a line to copy that reaches them while it runs."""
    process = spawn("emulator", "--port", "0", "--fault", "submit  1-1: 502", "--fault", "job: stuck times=2")
    assert process.stdout is not None
    _, export, curl, first, second, put = (process.stdout.readline().strip() for _ in range(6))
    assert (first, second) == ("fault submit 1: 502", "fault job: stuck times=2")
    show = put.partition(" -X")[0] + " $DOITONG_BASE_URL/_emulator/faults"
    script = f"{export}; {curl}; echo; {curl}; echo; {put}; echo; {show}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    page, made, told, shown = ran.stdout.strip().rsplit("\n", 3)
    assert "502 Bad Gateway" in page
    assert json.loads(made)["status"] == "processing"
    assert json.loads(told) == json.loads(shown) == ["submit 1: 502", "job: stuck times=2"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == ""


@pytest.mark.parametrize("arguments", [["help"], ["poll: nonsense", "--fault", "help"]])
def test_the_forms_of_faults_can_be_asked_for(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--fault help` prints the table of `doitong_async.emulator.faults` and runs nothing."""
    assert main(["emulator", "--fault", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Faults as data")
    assert all(
        f"\n  {what}" in out for what in ("latency 10", "cut-after ", "odd-status dreaming", "late 10")
    )


def test_the_help_teaches_faults(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text in it can be read, and it names where faults are changed while the emulator runs."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["emulator", "--help"]) == 0
    text = capsys.readouterr().out
    shown = re.findall(r"^ *((?:submit|poll|any|output|job)[^:\n]*: .+?)(?:  .*)?$", text, re.MULTILINE)
    assert len(shown) == 5
    for fault in shown:
        assert str(parse_fault(fault.strip()))
    assert "--fault help" in text
    assert all(word in text for word in ("/_emulator/faults", "GET", "PUT", "DELETE"))


@pytest.mark.slow
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_an_address_with_colons_is_told_in_brackets() -> None:
    """The lines to copy work for an emulator on IPv6 too, in a shell that looks for files in brackets."""
    process = spawn("emulator", "--host", "::1", "--port", "0")
    assert process.stdout is not None
    first, _, curl = (process.stdout.readline().strip() for _ in range(3))
    assert re.match(r"emulator on http://\[::1\]:\d+, ", first)
    assert re.match(r"curl -s 'http://\[::1\]:\d+/v1/text_to_image' ", curl)
    ran = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["type"] == "IMAGE"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == ""
