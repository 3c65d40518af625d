"""`doitong emulator`: it says how to reach it, takes faults, and stops cleanly."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from tests.cli.commands import spawn
from tests.emulator.test_server import has_ipv6


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_emulator_runs_until_a_signal_stops_it(number: signal.Signals) -> None:
    """It prints lines to copy that reach it, and exits 0 at SIGTERM or SIGHUP."""
    process = spawn("emulator", "--port", "0", "--plan", "pro", "--speed", "1e9", "--key", "k e"[::2] + "y")
    assert process.stdout is not None
    first, export, curl = (process.stdout.readline().strip() for _ in range(3))
    assert re.fullmatch(r"emulator on http://127\.0\.0\.1:\d+, plan pro; Ctrl-C stops it", first)
    script = f"{export}; {curl}; test $DOITONG_PLAN = pro && test $DOITONG_API_KEY = key"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert json.loads(ran.stdout)["type"] == "IMAGE"
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out == "stopped: 1 submits, 0 polls, 1 jobs charged\n"


def test_ctrl_c_is_the_normal_end_of_the_emulator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs until then, so this is not a failure."""
    start = Emulator.start

    async def start_and_interrupt(emulator: Emulator) -> None:
        await start(emulator)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Emulator, "start", start_and_interrupt)
    assert main(["emulator", "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert "DOITONG_API_KEY=emulated DOITONG_PLAN=free" in out
    assert out.endswith("stopped: 0 submits, 0 polls, 0 jobs charged\n")


def test_a_port_in_use_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["emulator", "--port", str(port)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1 port {port}" in err
    assert "Choose another --port" in err


@pytest.mark.slow
def test_the_emulator_prints_its_faults_and_applies_them() -> None:
    """It prints each as it was parsed, and a line to copy that changes them at run time."""
    process = spawn("emulator", "--port", "0", "--fault", "submit  1-1: 502", "--fault", "job: stuck times=2")
    assert process.stdout is not None
    _, export, curl, first, second, put = (process.stdout.readline().strip() for _ in range(6))
    assert (first, second) == ("fault submit 1: 502", "fault job: stuck times=2")
    show = put.partition(" -X")[0] + " $DOITONG_BASE_URL/_emulator/faults"
    script = f"{export}; {curl}; echo; {curl}; echo; {put}; echo; {show}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", check=True)
    page, accepted_job, changed, shown = ran.stdout.strip().rsplit("\n", 3)
    assert "502 Bad Gateway" in page
    assert json.loads(accepted_job)["status"] == "processing"
    assert json.loads(changed) == json.loads(shown) == ["submit 1: 502", "job: stuck times=2"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == ""


@pytest.mark.slow
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_an_ipv6_address_is_printed_in_brackets() -> None:
    """The lines to copy work on IPv6 too, in a shell that expands brackets."""
    process = spawn("emulator", "--host", "::1", "--port", "0")
    assert process.stdout is not None
    first, _, curl = (process.stdout.readline().strip() for _ in range(3))
    assert re.match(r"emulator on http://\[::1\]:\d+, ", first)
    assert re.match(r"curl -s 'http://\[::1\]:\d+/v1/text_to_image' ", curl)
    ran = subprocess.run(["bash", "-c", curl], capture_output=True, encoding="utf-8", check=True)
    assert json.loads(ran.stdout)["type"] == "IMAGE"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == ""
