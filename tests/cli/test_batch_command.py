"""`doitong batch`: what it makes, what it rejects, how it ends and how it continues."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.webhooks.serving import free_port
from tests.cli.batches import WIDE, WIDE_LIMITS, port_of, printed_json, run_batch, write_prompts
from tests.cli.commands import Serve, at_each_request

# What it makes


@pytest.mark.slow
def test_a_file_becomes_pictures_and_a_gallery(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Each prompt gets its picture; a gallery shows them, lines report progress, and the exit code is 0."""
    serve(emulator := Emulator("pro"))
    write_prompts(12)
    assert run_batch("--plan", "pro") == Exit.OK
    out, err = capsys.readouterr()
    summary, gallery = out.splitlines()
    first, *lines = err.splitlines()
    assert "prompts.txt: 12 prompts. To submit: 12 jobs on the plan pro: 120 to 240 credits." in first
    assert any(re.search(r" \d+ of 12: \d+ done, \d+ running.*; credits \d+ spent", line) for line in lines)
    assert re.search(r"^12 of 12 done; \d+ credits spent; [\dmins ]+$", summary)
    assert gallery == "gallery pictures/index.html"
    pictures = sorted(Path("pictures").glob("*.jpg"))
    assert len(pictures) == 12
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (1024, 1024)
    page = Path("pictures/index.html").read_text()
    assert all(picture.name in page for picture in pictures)
    assert emulator.world.charges == 12


def test_a_finished_batch_needs_neither_key_nor_network(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command exits 0 without a client; --verify hashes the files."""
    with free_port() as listener:
        port = port_of(listener)
    # Virtual time starts at zero for each command, so only a job without duration has ended for the next one.
    serve(emulator := Emulator("pro", outputs_port=port, durations=0.0))
    write_prompts(2)
    assert run_batch() == Exit.OK
    capsys.readouterr()
    Path("pictures/index.html").unlink()
    with monkeypatch.context() as patch:
        patch.delenv("DOITONG_API_KEY")
        patch.delattr(asyncio, "run")
        assert run_batch() == Exit.OK
    out, err = capsys.readouterr()
    assert "2 prompts, 2 done before. Nothing is left to do." in err
    assert "2 of 2 done (2 before)" in out
    assert Path("pictures/index.html").exists()
    picture = next(Path("pictures").glob("*.jpg"))
    whole = picture.read_bytes()
    picture.write_bytes(bytes(len(whole)))
    assert run_batch("--verify") == Exit.OK
    assert picture.with_suffix(".2.jpg").read_bytes() == whole
    assert emulator.world.charges == 2


def test_a_limit_takes_the_first_prompts(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """--limit makes that many, and the output says out of how many."""
    serve(emulator := Emulator("pro"))
    write_prompts(5)
    assert run_batch("--limit", "2") == Exit.OK
    assert "prompts.txt: 2 of 5 prompts." in capsys.readouterr().err
    assert emulator.world.charges == 2


def test_json_output_is_one_object(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the totals, credits, seconds and paths, and nothing else is printed."""
    serve(emulator := Emulator("pro", faults=["job 1: fail"]))
    write_prompts(3)
    assert run_batch("--json") == Exit.SOME_FAILED
    facts = printed_json(capsys)
    counts = {name: facts[name] for name in ("total", "done", "failed", "rejected", "in_doubt", "left")}
    assert counts == {"total": 3, "done": 2, "failed": 1, "rejected": 0, "in_doubt": 0, "left": 0}
    assert facts["credits_spent"] == sum(job.credit_cost for job in emulator.world.jobs.values())
    assert facts["seconds"] > 0
    assert (facts["ledger"], facts["gallery"]) == ("pictures/ledger.db", "pictures/index.html")
    assert (facts["stopped"]["type"], facts["exit_code"]) == ("SomeFailed", 11)
    assert facts["next"] == "doitong batch prompts.txt --out pictures --json --retry-failed"


def test_default_options_reach_the_service(serve: Serve) -> None:
    """Provider and size come from the options where a line names none."""
    serve(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "a", "width": 640}\n{"prompt": "b", "provider": "dalle"}\n')
    size = ["--width", "512", "--height", "768", "--provider", "sdxl"]
    assert run_batch(*size, "--plan", "pro", file="shots.jsonl") == Exit.OK
    orders = {job.order.prompt: job.order for job in emulator.world.jobs.values()}
    assert (orders["a"].provider, orders["a"].width, orders["a"].height) == ("sdxl", 640, 768)
    assert (orders["b"].provider, orders["b"].width, orders["b"].height) == ("dalle", 512, 768)


# What it rejects before it begins


def test_bad_lines_are_listed_before_anything_is_sent(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its number; no job, no folder, exit 2."""
    serve(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "widht": 3}\nnonsense\n')
    assert run_batch(file="shots.jsonl") == Exit.USAGE
    err = capsys.readouterr().err
    assert "2 lines are wrong. Nothing was sent." in err
    assert "line 2: There is no field 'widht'; did you mean 'width'?" in err
    assert "line 3: it is not JSON" in err
    assert emulator.world.charges == 0
    assert not Path("pictures").exists()


def test_a_known_key_with_another_request_is_rejected(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the item, before anything is sent."""
    serve(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "a", "key": "x"}\n')
    assert run_batch(file="shots.jsonl") == Exit.OK
    Path("shots.jsonl").write_text('{"prompt": "b", "key": "y"}\n{"prompt": "c", "key": "x"}\n')
    assert run_batch(file="shots.jsonl") == Exit.USAGE
    assert "item 2: the key 'x'" in capsys.readouterr().err
    assert emulator.world.charges == 1


def test_a_ledger_of_emulated_jobs_is_rejected_at_the_service(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an emulator has done, the service has not."""
    serve(emulator := Emulator("pro"))
    write_prompts(2)
    assert run_batch("--plan", "pro") == Exit.OK
    monkeypatch.setenv("DOITONG_BASE_URL", "https://api.doitong.com")
    for more in ((), ("--dry-run",)):
        capsys.readouterr()
        assert run_batch(*more) == Exit.DOWNLOAD
        assert "belongs to jobs at an emulator" in capsys.readouterr().err
    assert emulator.world.charges == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.json", '["a", "b"]'),
        ("prompts.txt", '[\n{"prompt": "a"}\n]'),
        ("prompts.txt", '{"prompt": "a"}'),
    ],
)
def test_a_json_file_is_not_paid_for_line_by_line(
    name: str, text: str, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """--format says that it is meant; a prompt may begin with a bracket."""
    serve(emulator := Emulator("pro"))
    Path(name).write_text(text)
    assert run_batch(file=name) == Exit.USAGE
    assert "--format" in capsys.readouterr().err
    assert run_batch("--plan", "pro", "--format", "lines", file=name) == Exit.OK
    assert emulator.world.charges == len(text.splitlines())
    Path("prompts.txt").write_text("[sepia] a fox\n{soft} light\n")
    assert main(["batch", "prompts.txt", "--out", "more", "--plan", "pro"]) == Exit.OK
    assert emulator.world.charges == len(text.splitlines()) + 2


def test_a_first_line_like_a_comment_causes_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is a prompt unless --comments says otherwise."""
    Path("prompts.txt").write_text("# foxes\na fox\n")
    assert run_batch("--dry-run") == Exit.OK
    assert "begins with # and is paid for like any prompt: '# foxes'" in "".join(capsys.readouterr())
    assert run_batch("--dry-run", "--comments", "--json") == Exit.OK
    assert printed_json(capsys)["to_begin"] == 1


def test_a_dry_run_sends_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the jobs, credits and time that the batch needs, without key, folder or service."""
    monkeypatch.delenv("DOITONG_API_KEY")
    write_prompts(30)
    assert run_batch("--dry-run", "--plan", "starter", "--jobs-per-day", "10") == Exit.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert "30 jobs on the plan starter: 300 to 600 credits." in out
    assert "They take three days, as the plan allows 10 jobs a day." in out
    assert "Before you pay: `doitong doctor`" in out
    assert not Path("pictures").exists()
    assert run_batch("--dry-run", "--json") == Exit.OK
    facts = printed_json(capsys)
    assert (facts["to_begin"], facts["credits_low"], facts["credits_high"]) == (30, 300, 600)


def test_a_missing_key_is_a_credentials_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 after the check of the file, and nothing is created."""
    monkeypatch.delenv("DOITONG_API_KEY")
    write_prompts(1)
    assert run_batch() == Exit.CREDENTIALS
    assert "DOITONG_API_KEY is not set. Nothing was sent." in capsys.readouterr().err
    assert not Path("pictures").exists()


def test_a_budget_needs_prices(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A kind without a documented price stops the batch before anything is spent; --price gives one."""
    serve(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "waves", "provider": "kling"}\n')
    assert run_batch("--budget", "500", file="shots.jsonl") == Exit.USAGE
    assert "--price" in capsys.readouterr().err
    assert emulator.world.charges == 0
    assert run_batch("--budget", "500", "--price", "kling=100", file="shots.jsonl") == Exit.OK


def test_an_output_folder_that_cannot_be_made_is_an_error(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file has its name: exit 2, nothing sent, with --emulator too."""
    serve(emulator := Emulator("pro"))
    write_prompts(1)
    Path("pictures").write_text("mine")
    for more in ([], ["--emulator"]):
        assert run_batch(*more) == Exit.USAGE
        assert "Nothing was sent" in capsys.readouterr().err
    assert emulator.world.charges == 0
    assert Path("pictures").read_text() == "mine"


def test_a_file_that_is_not_a_ledger_stays_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 10 from the batch and from its status, and not a byte changes."""
    write_prompts(1)
    Path("mine.db").write_text("my own data, and no ledger")
    assert run_batch("--ledger", "mine.db") == Exit.DOWNLOAD
    assert main(["batch", "status", "mine.db"]) == Exit.DOWNLOAD
    assert capsys.readouterr().err.count("mine.db is not a ledger of doitong_async") == 2
    assert Path("mine.db").read_text() == "my own data, and no ledger"


def test_a_ledger_without_its_log_is_rejected(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """By the batch and by its status: exit 10, and nothing is sent."""
    serve(emulator := Emulator("pro"))
    write_prompts(3)
    copies: list[bytes] = []

    def copy() -> None:
        if emulator.world.charges:
            copies.append(Path("pictures/ledger.db").read_bytes())

    at_each_request(emulator, copy)
    assert run_batch() == Exit.OK
    capsys.readouterr()
    Path("pictures/ledger.db").write_bytes(copies[-1])
    assert main(["batch", "status", "pictures"]) == Exit.DOWNLOAD
    assert run_batch() == Exit.DOWNLOAD
    out, err = capsys.readouterr()
    assert "0 items" not in out + err
    assert err.count("without its log ledger.db-wal") == 2
    assert emulator.world.charges == 3


# How it ends and continues


def test_a_larger_budget_continues_a_batch_that_reached_its_budget(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 12; the command that it prints makes the rest, and nothing twice."""
    serve(emulator := Emulator(WIDE_LIMITS))
    write_prompts(5)
    assert run_batch("--budget", "60", *WIDE) == Exit.BUDGET
    out, err = capsys.readouterr()
    assert "left" in out
    made = emulator.world.charges
    spent = sum(job.credit_cost for job in emulator.world.jobs.values())
    assert 3 <= made < 5
    assert spent <= 60
    match = re.search(r"^next: doitong (.*)$", err, re.MULTILINE)
    assert match is not None
    assert f"--budget {spent + 20 * (5 - made)} " in match[1]
    assert main(shlex.split(match[1])) == Exit.OK
    assert emulator.world.charges == 5


def test_failed_items_are_retried_only_on_request(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 11 with a line per failure, each time; --retry-failed pays for another attempt."""
    serve(emulator := Emulator("pro", faults=["job 1: fail"]))
    write_prompts(3)
    assert run_batch() == Exit.SOME_FAILED
    out, err = capsys.readouterr()
    assert len(re.findall(r"^\S+ failed [0-9a-f]{16}: JobFailedError: ", err, re.MULTILINE)) == 1
    assert "2 of 3 done, 1 failed" in out
    assert "next: doitong batch prompts.txt --out pictures --retry-failed" in err
    assert run_batch() == Exit.SOME_FAILED
    assert emulator.world.charges == 3
    assert run_batch("--retry-failed") == Exit.OK
    assert emulator.world.charges == 4


def test_the_same_command_repeats_a_failed_download(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The job is paid, so the next run needs no --retry-failed and submits nothing."""
    serve(emulator := Emulator("pro", faults=["output: html"]))
    write_prompts(3)
    assert run_batch() == Exit.SOME_FAILED
    err = capsys.readouterr().err
    assert "--retry-failed" not in err
    assert "next: doitong batch prompts.txt --out pictures" in err
    emulator.faults.clear()
    assert run_batch() == Exit.OK
    assert emulator.world.charges == 3


def test_a_batch_stops_when_credits_run_out(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A 402 is exit 4 with the server's message; the remaining items are not submitted."""
    serve(emulator := Emulator("pro", credits=45))
    write_prompts(9)
    assert run_batch() == Exit.CREDITS
    err = capsys.readouterr().err
    assert "credits available 5" in err
    assert "next: doitong batch prompts.txt --out pictures" in err
    assert emulator.world.charges == 2
    assert emulator.world.count("submit") < 9


@pytest.mark.slow
def test_a_batch_waits_for_the_next_day(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Five pictures at two a day take three days, as the estimate says, and end with exit 0."""
    limits = PlanLimits(60, 3, 2)
    serve(emulator := Emulator(limits))
    write_prompts(5)
    given = ["--plan", "starter", "--requests-per-minute", "60", "--jobs-per-day", "2"]
    assert run_batch(*given) == Exit.OK
    out, err = capsys.readouterr()
    assert "They take three days, as the plan allows 2 jobs a day." in err
    assert "waiting for the next day (2 a day); " in err
    assert re.search(r"5 of 5 done; \d+ credits spent; 2 days", out)
    assert emulator.world.charges == 5


def test_a_source_that_breaks_ends_the_batch_and_loses_nothing(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes while it is read ends the batch after the jobs in flight, with its reason."""
    serve(emulator := Emulator("free"))
    Path("shots.jsonl").write_text("".join(f'{{"prompt": "a fox {n}"}}{" " * 20_000}\n' for n in range(9)))
    record = emulator.world.record

    def spoil(seen: Any) -> None:
        record(seen)
        text = Path("shots.jsonl").read_text()
        Path("shots.jsonl").write_text(text[:50_000] + "#" * (len(text) - 50_000))

    monkeypatch.setattr(emulator.world, "record", spoil)
    assert run_batch(file="shots.jsonl") == Exit.USAGE
    out, err = capsys.readouterr()
    assert "shots.jsonl, line " in err
    assert re.search(r"[1-5] of 9 done, [4-8] left", out)
    assert 1 <= emulator.world.charges < 6
    assert Path("pictures/index.html").exists()
