"""`doitong doctor`: a line for each assumption, an exit code for each conclusion, no paid job unknown."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from doitong_async import Assumption
from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from doitong_async.webhooks.serving import free_port
from tests.check.reports import SOUND, rewriting
from tests.cli.commands import KEY, Serve, Terminal
from tests.plain_server import HANG, Behaviour, PlainServer, http

USUAL: dict[str, Any] = {"key": KEY, "durations": 6.0}


def lines_of(text: str) -> dict[str, str]:
    """Return the report's lines by assumption: the outcome."""
    found = re.findall(r"^(holds|fails|cannot be told) +(\w+) ", text, re.MULTILINE)
    return {assumption: outcome for outcome, assumption in found}


def test_a_sound_service_has_a_line_for_each_assumption(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits with 0, and says how many requests were sent."""
    emulator = Emulator("pro", **USUAL)
    serve(emulator)
    assert main(["doctor", "--plan", "pro"]) == Exit.OK
    out, err = capsys.readouterr()
    lines = lines_of(out)
    assert list(lines) == [each.value for each in Assumption]
    assert "fails" not in lines.values()
    assert lines["key"] == lines["status"] == "holds"
    assert out.splitlines()[-2:] == [
        "6 requests to the API.",
        "What only a paid job shows is checked with --spend 40.",
    ]
    assert err == ""
    assert emulator.jobs == []


def test_the_sample_in_the_readme_is_real(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of its lines is printed so, for a key on another plan than the one that is set."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (sample,) = re.findall(r"^```text\n(holds .*?)^```$", readme, re.DOTALL | re.MULTILINE)
    serve(Emulator("starter", **USUAL))
    assert main(["doctor", "--plan", "pro"]) == Exit.SETTINGS
    assert set(sample.splitlines()) <= set(capsys.readouterr().out.splitlines())


def test_settings_to_change_are_printed_to_be_copied(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the line of the assumption, and together at the end."""
    behaviour = Behaviour(date=True, status_field="job", status_argument="jobId")
    serve(PlainServer(key=KEY, behaviour=behaviour, requests_per_minute=30))
    assert main(["doctor", "--plan", "pro"]) == Exit.SETTINGS
    out, _ = capsys.readouterr()
    assert 'generation(id: ID!). Use status_operation="job(jobId: ID!)".\n' in out
    assert 'Use: AsyncDoitong(status_operation="job(jobId: ID!)", plan="starter")\n' in out
    assert "On the command line: --plan starter\n" in out


@pytest.mark.parametrize(
    ("rules", "end"),
    [
        ({"key": "another"}, Exit.CREDENTIALS),
        ({"faults": ["any: html"]}, Exit.SERVICE),
        ({"faults": ["any: cut-before"]}, Exit.SERVICE),
        ({"faults": ["any: 500"]}, Exit.SERVICE),
        ({"faults": ["any: 429-minute"]}, Exit.LIMITS),
        ({"faults": ["any 3: 429-minute"]}, Exit.LIMITS),
        ({"introspection": False, "status_field": "job"}, Exit.SETTINGS),
    ],
)
def test_an_exit_code_tells_what_is_wrong(rules: dict[str, Any], end: Exit, serve: Serve) -> None:
    """Credentials, no usable API, a limit, or a setting."""
    serve(Emulator("pro", **{**USUAL, **rules}))
    assert main(["doctor", "--plan", "pro"]) == end


def test_the_form_of_the_calls_is_an_option(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The check polls as the client would; a form that the key is not accepted in has another beside it."""
    serve(Emulator("pro", **USUAL))
    assert main(["doctor", "--plan", "pro", "--transport", "rest"]) == Exit.OK
    assert "/v1/generations/{id} answers about an unknown id" in capsys.readouterr().out
    server = PlainServer(key=KEY, behaviour=SOUND)
    refused = http(401, b'{"errors": [{"message": "Unauthorized"}]}', "application/json", {})
    server.rewrite = lambda request, honest: honest if request else refused
    serve(server)
    assert main(["doctor", "--requests-per-minute", "600", "--transport", "rest"]) == Exit.SETTINGS
    assert "On the command line: --transport graphql\n" in capsys.readouterr().out


@pytest.mark.usefixtures("virtual_time")
def test_a_dead_port_is_no_service(capsys: pytest.CaptureFixture[str]) -> None:
    """No request got through."""
    assert main(["doctor"]) == Exit.SERVICE
    out, _ = capsys.readouterr()
    assert "nothing answers at 127.0.0.1:9: connection refused" in out
    assert "0 requests to the API. The check was cut short: no request got through." in out


def test_without_a_key_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what to set."""
    monkeypatch.delenv("DOITONG_API_KEY")
    assert main(["doctor"]) == Exit.CREDENTIALS
    assert "DOITONG_API_KEY is not set. Nothing was sent." in capsys.readouterr().err


@pytest.mark.usefixtures("virtual_time")
def test_it_can_be_tried_without_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A private emulator accepts any key, so that a poll proves nothing of one."""
    monkeypatch.delenv("DOITONG_API_KEY")
    assert main(["doctor", "--emulator", "--spend", "40"]) == Exit.OK
    lines = lines_of(capsys.readouterr().out)
    assert lines["key"] == "cannot be told"
    assert lines["idempotency"] == "holds"


def test_json_is_one_object(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """With every finding, its settings, and the jobs."""
    serve(PlainServer(key=KEY, behaviour=Behaviour(date=True, keys_honoured=False)))
    assert main(["doctor", "--requests-per-minute", "600", "--spend", "40", "--json"]) == Exit.SETTINGS
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert [each["assumption"] for each in report["findings"]] == [each.value for each in Assumption]
    (finding,) = [each for each in report["findings"] if each["outcome"] == "fails"]
    assert finding["settings"] == report["settings"] == {"resend_unanswered": False}
    assert [job["job_id"] for job in report["jobs"]] == ["plain00001", "plain00002"]
    assert (report["credits_spent"], report["is_usable"]) == (20, True)
    assert "submitting under idempotency key" in err


def test_paid_jobs_are_shown_with_their_key_and_token(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key before it is sent, on the standard error; the rest in the report."""
    emulator = Emulator("pro", **USUAL)
    serve(emulator)
    assert main(["doctor", "--plan", "pro", "--spend", "40"]) == Exit.OK
    out, err = capsys.readouterr()
    (job,) = emulator.jobs
    key = job.idempotency_key
    assert err.splitlines() == [
        f"submitting under idempotency key {key}",
        f"job {job.id} was made under it",
        f"submitting again under idempotency key {key}",
    ]
    assert re.search(
        rf"^Paid: job {job.id}, 10 credits, under idempotency key {key}, token dtj1\.", out, re.M
    )


@pytest.mark.parametrize("arguments", [["--spend", "19"], ["--spend", "-1"], ["--webhook-port", "8001"]])
def test_a_wrong_option_sends_nothing(
    arguments: list[str], serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what is expected."""
    emulator = Emulator(**USUAL)
    serve(emulator)
    assert main(["doctor", *arguments]) == Exit.USAGE
    assert re.search(r"error: (spend|--webhook-port)", capsys.readouterr().err)
    assert emulator.requests == []


def test_it_can_receive_the_test_events_itself(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the port of `--webhook-port`, as `doitong batch` listens."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", "whsec-fox")
    with free_port() as place:
        port = str(place.getsockname()[1])
    serve(Emulator("pro", **USUAL))
    url = f"http://127.0.0.1:{port}/"
    assert main(["doctor", "--plan", "pro", "--webhook-url", url, "--webhook-port", port]) == Exit.OK
    lines = lines_of(capsys.readouterr().out)
    assert {lines[name] for name in ("webhook_url", "webhook_secret", "webhook_event")} == {"holds"}


def test_a_receiver_that_does_not_run_is_found(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a port, the user's own application receives."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", "whsec-fox")
    serve(Emulator("pro", **USUAL))
    assert main(["doctor", "--plan", "pro", "--webhook-url", "http://127.0.0.1:9/"]) == Exit.SETTINGS
    assert lines_of(capsys.readouterr().out)["webhook_url"] == "fails"


def test_a_terminal_shows_a_table(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same lines, folded to its width."""
    terminal = Terminal()
    serve(Emulator("pro", **USUAL))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["doctor", "--plan", "pro"]) == Exit.OK
    shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert "fails" not in lines_of(shown).values()
    assert lines_of(shown)["status"] == "holds"


def test_words_of_the_service_cannot_act_on_a_terminal(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters are escaped, and a key that is echoed is hidden."""
    server = PlainServer(key=KEY, behaviour=Behaviour(date=True, introspection=False))
    server.rewrite = rewriting((b"introspection is", b"\\u001b[2J " + KEY.encode()))
    serve(server)
    main(["doctor"])
    out, _ = capsys.readouterr()
    assert "\x1b" not in out
    assert KEY not in out


# Ctrl-C.


def interrupting(kind: str, number: int, reply: bytes | str | None = None) -> PlainServer:
    """Return a server that sends Ctrl-C to the command at a request of a kind."""

    def script(seen: str, nth: int) -> bytes | str | None:
        if (seen, nth) == (kind, number):
            signal.raise_signal(signal.SIGINT)
        return reply if seen == kind and nth >= number else None

    return PlainServer(key=KEY, behaviour=SOUND, script=script)


def test_ctrl_c_in_the_free_checks_says_that_no_job_was_made(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was paid."""
    serve(interrupting("poll", 2))
    assert main(["doctor", "--spend", "40"]) == Exit.INTERRUPTED
    assert "Interrupted. No job was made." in capsys.readouterr().err


def test_ctrl_c_while_a_paid_job_runs_names_it(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """With its key, and the command that resumes it."""
    server = interrupting("poll", 6)
    serve(server)
    assert main(["doctor", "--spend", "40"]) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    (job,) = server.jobs.values()
    assert f"Up to two jobs may have been charged. Made: {job.id}." in err
    assert f"next: doitong job {job.id}\n" in err
    assert f"idempotency key {job.key}" in err


@pytest.mark.parametrize("reply", [None, HANG])
def test_ctrl_c_during_the_submit_names_its_key(
    reply: bytes | None, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its job, if the answer still comes."""
    server = interrupting("submit", 1, reply)
    serve(server)
    assert main(["doctor", "--spend", "40", "--json"]) == Exit.INTERRUPTED
    out, _ = capsys.readouterr()
    error = json.loads(out)["error"]
    (submit,) = [request for request in server.requests if request.kind == "submit"]
    assert error["idempotency_key"] == submit.headers["idempotency-key"]
    assert error["job_id"] == ("plain00001" if reply is None else None)
    assert ("It is not known whether one was made." in error["message"]) is (reply is HANG)
