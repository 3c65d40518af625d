"""Failures of the command line: bad input, exit codes, messages and the command to continue with."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

import doitong_async
from doitong_async import errors
from doitong_async.cli import main
from doitong_async.cli.exits import OF_ERRORS, Exit, exit_of
from doitong_async.emulator import Emulator
from doitong_async.jobs.job import JobFailedError, JobTimeoutError
from tests.cli.commands import KEY, Serve, Terminal, accepted_job, json_answer, on
from tests.plain_server import PlainServer


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_bad_input_is_an_error_before_anything_is_sent(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the mistake on standard error and nothing on standard output."""
    assert main(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_picture_and_json_cannot_share_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """`-o -` and `--json` exclude each other; the error is JSON, as requested."""
    assert main(["generate", "fox", "-o", "-", "--json"]) == Exit.USAGE
    assert "both want the standard output" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_an_invalid_idempotency_key_is_rejected(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The library rejects what no header can carry, before anything is sent."""
    server = PlainServer(key=KEY)
    serve(server)
    assert main(["generate", "fox", "--idempotency-key", "ä"]) == Exit.USAGE
    assert "expected printable ASCII" in capsys.readouterr().err
    assert server.requests == []


def test_a_directory_must_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says so before the job is paid for."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert main(["generate", "fox", "-o", str(tmp_path / "fox.jpg")]) == Exit.USAGE
    assert f"{tmp_path} is not writable" in capsys.readouterr().err


def test_a_picture_is_not_written_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`-o -` requires a pipe or a file."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["generate", "fox", "-o", "-"]) == Exit.USAGE
    assert "Pipe it on" in capsys.readouterr().err


def test_a_prompt_from_stdin_must_be_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are not UTF-8 are rejected, with their position."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert main(["generate", "-"]) == Exit.USAGE
    assert "not UTF-8: invalid start byte at byte 2" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["generate", "a fox"], ["job", "abc123"]])
def test_a_missing_key_is_a_credentials_error(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3; the message names the variable and the way to try the command without a key."""
    monkeypatch.delenv("DOITONG_API_KEY")
    assert main(command) == Exit.CREDENTIALS
    err = capsys.readouterr().err
    assert "DOITONG_API_KEY is not set" in err
    assert "--emulator" in err


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_extra_is_named(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("doitong_async.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["--help"]) == Exit.USAGE
    assert "pip install 'doitong-async[cli]'" in capsys.readouterr().err


def test_an_import_error_of_another_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a missing extra becomes a message."""
    for module in ("app", "generate", "job"):
        monkeypatch.delitem(sys.modules, f"doitong_async.cli.{module}")
        monkeypatch.delattr(f"doitong_async.cli.{module}")
    monkeypatch.setitem(sys.modules, "doitong_async.cli.run_job", None)
    monkeypatch.delattr("doitong_async.cli.run_job")
    with pytest.raises(ImportError, match="run_job"):
        main(["--help"])


@pytest.mark.parametrize("command", [["generate", "a fox", "--emulator"], ["emulator", "--port", "0"]])
def test_a_missing_pillow_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, with the command that installs it."""
    for name in [name for name in sys.modules if name.startswith(("doitong_async.emulator", "PIL"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "doitong_async.testing", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(command) == Exit.USAGE
    assert "pip install 'doitong-async[emulator]'" in capsys.readouterr().err


def test_every_error_has_its_exit_code() -> None:
    """Each error of the tree has the exit code that the help promises; a subclass shares its parent's."""
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
        Exit.COORDINATOR: {errors.CoordinatorError},
        Exit.INTERRUPTED: {errors.ClientClosedError},
    }
    assert {code: {kind for kind in leaves if exit_of(kind("")) == code} for code in expected} == expected
    # 13 is a finding of the doctor, and no error.
    assert [int(code) for code in Exit] == [0, *range(2, 15), 130]

    class Narrower(errors.DailyLimitError):
        pass

    assert exit_of(Narrower("")) == Exit.LIMITS


@pytest.mark.parametrize(
    ("server", "end", "message", "next_command"),
    [
        (Emulator(key="another"), Exit.CREDENTIALS, "API key", None),
        (Emulator(credits=1), Exit.CREDITS, "Insufficient credits", None),
        (Emulator(durations=1e6), Exit.TIMEOUT, "goes on", r"doitong job dtj1\.\S+ -o out/ --plan free"),
        (
            PlainServer(key=KEY, script=on("submit", accepted_job(status="failed"))),
            Exit.JOB,
            "'failed'",
            None,
        ),
        (
            PlainServer(key=KEY, script=on("submit", json_answer(500, {}))),
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
            PlainServer(key=KEY, script=on("output", json_answer(403, {}))),
            Exit.DOWNLOAD,
            "done and paid",
            r"doitong job dtj1\.\S+ -o out/ --plan free",
        ),
        (PlainServer(key=KEY, script=on("submit", json_answer(404, {}))), Exit.USAGE, "HTTP 404", None),
    ],
)
def test_a_failure_says_what_it_means_and_what_to_do_next(
    server: Emulator | PlainServer,
    end: Exit,
    message: str,
    next_command: str | None,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each failure has its exit code, in JSON too, and a command to continue with if there is one."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    serve(server)
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


def test_usage_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that mistypes an option reads why where it reads everything else."""
    assert main(["generate", "fox", "--wdith", "3", "--json"]) == Exit.USAGE
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["advice"]) == ("UsageError", "See `doitong generate --help`.")
    assert err == ""
