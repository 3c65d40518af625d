"""`doitong job`: a job of another command is followed to its end."""

from __future__ import annotations

import re

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from tests.cli.commands import Serve, running


def test_a_job_resumes_without_a_key(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`doitong job --emulator` finds another command's job on the running emulator."""
    monkeypatch.delenv("DOITONG_API_KEY")
    with running(Emulator(durations=0.0)) as emulator:
        monkeypatch.setattr("doitong_async.cli.job.EMULATOR_PORT", int(emulator.url.rpartition(":")[2]))
        monkeypatch.setenv("DOITONG_API_KEY", "emulated")
        assert main(["generate", "waves", "--base-url", emulator.url]) == 0
        monkeypatch.delenv("DOITONG_API_KEY")
        (job_id,) = emulator.world.jobs
        capsys.readouterr()
        assert main(["job", job_id, "--emulator"]) == 0
    out, err = capsys.readouterr()
    assert f"job {job_id} resumed" in err
    assert f"job {job_id} completed" in err
    assert "processing" not in err
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/outputs/{job_id}\.jpg\n", out)


def test_an_unreachable_service_is_named_after_the_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 7; the message says why the last poll failed."""
    assert main(["job", "abc", "--base-url", "http://127.0.0.1:9", "--timeout", "0.1"]) == Exit.TIMEOUT
    assert "The last poll failed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_of_a_private_emulator_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 6; the message says that a job of `generate --emulator` ends with that command."""
    with running(Emulator()) as emulator:
        assert main(["job", "abc", "--emulator", "--base-url", emulator.url]) == Exit.JOB
    assert "ends with that command" in capsys.readouterr().err
