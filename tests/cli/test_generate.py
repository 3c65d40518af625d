"""`doitong generate`: a prompt becomes a file, and its output says what happened."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
from pathlib import Path

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from doitong_async.testing import run_virtual
from tests.cli.commands import COMMAND, KEY, Serve, running, size_of


@pytest.mark.usefixtures("virtual_time")
def test_a_prompt_becomes_a_picture_without_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--emulator -o` saves a real picture of the requested size, and reports each step on its own line.

    The standard output has the name of the file alone.
    """
    monkeypatch.delenv("DOITONG_API_KEY")
    target = tmp_path / "city.jpg"
    prompt = "A city with [red]neon[/red] lights"
    assert (
        main(["generate", prompt, "--emulator", "-o", str(target), "--width", "640", "--height", "360"]) == 0
    )
    assert size_of(target) == (640, 360)
    out, err = capsys.readouterr()
    assert out == f"{target}\n"
    patterns = (
        r"submitting 'A city with \[red\]neon\[/red\] lights' under idempotency key \S+",
        r"job (\w+) processing",
        r"job \w+ token dtj1\.\S+",
        r"job \w+ completed",
        r"job \w+ done: \d+\.\d s, \d+ credits, flux-pro",
        r"url http://127\.0\.0\.1:\d+/outputs/\w+\.jpg",
        rf"saved {target}, {target.stat().st_size:,} bytes",
    )
    lines = err.splitlines()
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(r"\d\d:\d\d:\d\d " + pattern, line), line


@pytest.mark.slow
def test_the_real_command_writes_a_picture_to_a_pipe(tmp_path: Path) -> None:
    """The picture goes to standard output, the messages go to standard error."""
    with running(Emulator(durations=0.0)) as emulator:
        options = ["--base-url", emulator.url, "--width", "320", "--height", "200", "-o", "-"]
        ran = subprocess.run([*COMMAND, "generate", "-", *options], input=b"waves\n", capture_output=True)
    assert ran.returncode == 0
    assert size_of(io.BytesIO(ran.stdout)) == (320, 200)
    assert b"saved to stdout" in ran.stderr
    assert [job.prompt for job in emulator.world.jobs.values()] == ["waves"]


def test_json_output_is_one_object(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints exactly one JSON object and nothing else."""
    emulator = Emulator("pro", durations=5.0)
    serve(emulator)
    assert main(["generate", "a fox", "--json", "--plan", "PRO", "-o", f"{tmp_path}/"]) == 0
    out, err = capsys.readouterr()
    output = json.loads(out)
    (job,) = emulator.world.jobs.values()
    (file,) = tmp_path.iterdir()
    assert err == ""
    assert output["token"].startswith("dtj1.")
    assert [each["status"] for each in output["statuses"]] == ["processing", "completed"]
    assert output["url"].endswith(file.name)
    assert output["seconds"] >= 5
    assert output["idempotency_key"] == job.idempotency_key
    known: dict[str, object] = {"id": job.id, "status": "completed", "provider": "flux-pro", "type": "IMAGE"}
    known |= {"credit_cost": job.credit_cost, "file": str(file), "bytes": file.stat().st_size}
    assert output.items() >= known.items()


def test_a_picture_can_go_to_standard_output(
    serve: Serve, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`-o -` writes the picture to standard output and the messages to standard error."""
    serve(Emulator(durations=0.0))
    assert main(["generate", "a fox", "-o", "-", "--width", "300", "--height", "300"]) == 0
    out, err = capsysbinary.readouterr()
    assert size_of(io.BytesIO(out)) == (300, 300)
    assert f"saved to stdout, {len(out):,} bytes".encode() in err


def test_every_option_reaches_the_service(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The service receives the request as the user gave it, under the given idempotency key."""
    emulator = Emulator(durations=0.0)
    serve(emulator)
    options = ["--provider", "kling", "--type", "VIDEO", "--version", "v2", "--quality", "high"]
    options += ["--input", '{"style": "calm"}', "--options", '{"duration": 5}', "--idempotency-key", "once"]
    assert main(["generate", "waves", *options, "--timeout", "30"]) == 0
    (job,) = emulator.world.jobs.values()
    assert (job.type, job.provider, job.prompt, job.idempotency_key) == ("VIDEO", "kling", "waves", "once")
    assert job.order.duration == 5
    assert "saved" not in capsys.readouterr().out


@pytest.mark.usefixtures("virtual_time")
def test_a_picture_at_a_private_emulator_needs_an_output_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Without `-o` the picture is gone with its emulator, so the command says how to save it."""
    assert main(["generate", "waves", "--emulator"]) == 0
    assert "-o saves the picture" in capsys.readouterr().err


def test_a_timeout_at_a_private_emulator_offers_no_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job ends with its emulator, so the only advice is a longer timeout."""
    monkeypatch.setattr(asyncio, "run", run_virtual)
    assert main(["generate", "waves", "--emulator", "--timeout", "1"]) == Exit.TIMEOUT
    assert "next: Allow a longer --timeout." in capsys.readouterr().err


def test_a_pipe_gets_the_url_alone(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """`doitong generate x > url.txt` holds one line; progress and warnings go to the standard error."""
    serve(Emulator("pro"))
    assert main(["generate", "a fox"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"http://\S+/outputs/\w+\.jpg\n", out)
    assert "completed" in err


@pytest.mark.parametrize(
    ("name", "is_said"), [("x.png", True), ("x.mp4", True), ("x.jpg", False), ("x.JPEG", False), ("x", False)]
)
def test_a_name_that_does_not_fit_the_output_is_said(
    serve: Serve, name: str, is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file keeps the name that the user gave; programs that trust it would fail to open it."""
    serve(Emulator("pro"))
    assert main(["generate", "a fox", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).exists()
    assert ("holds a .jpg file" in capsys.readouterr().err) == is_said


def test_the_transport_is_an_option(serve: Serve, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In any of the documented forms; what a form cannot carry is said before anything is sent."""
    emulator = Emulator(key=KEY)
    serve(emulator)
    for form in ("graphql-flat", "rest"):
        assert main(["generate", "a fox", "--transport", form, "-o", str(tmp_path / f"{form}.jpg")]) == 0
    assert len(emulator.world.jobs) == 2
    assert main(["generate", "waves", "--provider", "kling", "--transport", "rest"]) == Exit.USAGE
    assert "The transport 'rest' has no VIDEO, only IMAGE" in capsys.readouterr().err
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,quality\na fox,\na whale,high\n")
    assert main(["batch", str(prompts), "--out", str(tmp_path / "out"), "--transport", "rest"]) == Exit.USAGE
    assert "line 3: The transport 'rest' has no place for quality" in capsys.readouterr().err
    assert len(emulator.world.jobs) == 2


def test_the_command_that_resumes_a_job_keeps_the_transport(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that speaks one form may not know the others."""
    emulator = Emulator(key=KEY, durations=3.0)
    serve(emulator)
    assert main(["generate", "a fox", "--transport", "rest", "--timeout", "0.1"]) == Exit.TIMEOUT
    found = re.search(r"^next: doitong (job dtj1\.\S+ --transport rest)$", capsys.readouterr().err, re.M)
    assert found is not None
    assert main([*found[1].split(), "--timeout", "60"]) == 0
    assert not any("Authorization" in request.headers for request in emulator.world.seen)
