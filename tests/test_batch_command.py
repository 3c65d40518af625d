"""`doitong batch` as its users meet it: what is made, what is told, and how it goes on after any end."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import re
import shlex
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from doitong_async.batch.batch import Progress
from doitong_async.batch.item import Outcome
from doitong_async.cli import main
from doitong_async.cli.batch_run import Run
from doitong_async.cli.exits import Exit
from doitong_async.cli.progress import BatchProgress, reason
from doitong_async.cli.units import span
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.events import Event, RequestSent, WebhookReceived
from doitong_async.limits.plan import Plan
from doitong_async.testing import run_virtual
from doitong_async.webhooks.serving import free_port
from tests.test_cli import Terminal, at_each_request, running, size_of, spawn, wait_for

WIDE = ["--requests-per-minute", "6000", "--concurrent-jobs", "3"]
WIDE_LIMITS = PlanLimits(6000, 3, None)
Beside = Callable[[Emulator], None]
Facts = dict[str, Any]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key, a folder to work in, and nothing else that a developer may have set."""
    for name in ("DOITONG_PLAN", "DOITONG_WEBHOOK_SECRET", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOITONG_API_KEY", "sk-never-to-be-seen")
    monkeypatch.setenv("DOITONG_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT as at a prompt, even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """Commands run in virtual time beside an emulator, and know where it is."""

    def start(emulator: Emulator) -> None:
        async def together(work: Coroutine[Any, Any, Any]) -> Any:
            async with emulator:
                monkeypatch.setenv("DOITONG_BASE_URL", emulator.url)
                return await work

        monkeypatch.setattr(asyncio, "run", lambda work: run_virtual(together(work)))

    yield start
    gc.collect()


def prompts(count: int, name: str = "prompts.txt") -> None:
    Path(name).write_text("".join(f"a fox number {number}\n" for number in range(1, count + 1)))


def batch(*arguments: str, file: str = "prompts.txt") -> int:
    return main(["batch", file, "--out", "pictures", *arguments])


def told(capsys: pytest.CaptureFixture[str]) -> Facts:
    """The one JSON object that a command printed."""
    facts: Facts = json.loads(capsys.readouterr().out)
    return facts


def status(capsys: pytest.CaptureFixture[str]) -> list[Facts]:
    capsys.readouterr()
    assert main(["batch", "status", "pictures", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def after_jobs(emulator: Emulator, count: int) -> threading.Event:
    """An event that is set when the emulator made so many jobs and is asked for something more."""
    made = threading.Event()
    charges = 0

    def check() -> None:
        nonlocal charges
        if charges >= count:
            made.set()
        charges = emulator.world.charges

    at_each_request(emulator, check)
    return made


# What it makes


@pytest.mark.slow
def test_a_file_becomes_pictures_and_a_gallery(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """Each prompt its picture, a page to look at, lines that say what is done, and exit 0."""
    beside(emulator := Emulator("pro"))
    prompts(12)
    assert batch("--plan", "pro") == Exit.OK
    out, err = capsys.readouterr()
    assert err == ""
    first, *lines, summary, gallery = out.splitlines()
    assert "prompts.txt: 12 prompts. To submit: 12 jobs on the plan pro: 120 to 240 credits." in first
    assert any(re.search(r" \d+ of 12: \d+ done, \d+ running.*; credits \d+ spent", line) for line in lines)
    assert re.search(r" 12 of 12 done; \d+ credits spent; [\dmins ]+$", summary)
    assert gallery.endswith(" gallery pictures/index.html")
    pictures = sorted(Path("pictures").glob("*.jpg"))
    assert len(pictures) == 12
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (1024, 1024)
    page = Path("pictures/index.html").read_text()
    assert all(picture.name in page for picture in pictures)
    assert emulator.world.charges == 12


def test_what_is_done_needs_neither_key_nor_network(
    beside: Beside, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again says so and exits 0 without a client; --verify hashes the files."""
    with free_port() as place:
        port = port_of(place)
    # Each command begins at the same moment: a job of no time is over for the next one, too.
    beside(emulator := Emulator("pro", outputs_port=port, durations=0.0))
    prompts(2)
    assert batch() == Exit.OK
    capsys.readouterr()
    Path("pictures/index.html").unlink()
    with monkeypatch.context() as patch:
        patch.delenv("DOITONG_API_KEY")
        patch.delattr(asyncio, "run")
        assert batch() == Exit.OK
    out = capsys.readouterr().out
    assert "2 prompts, 2 done before. Nothing is left to do." in out
    assert "2 of 2 done (2 before)" in out
    assert Path("pictures/index.html").exists()
    picture = next(Path("pictures").glob("*.jpg"))
    whole = picture.read_bytes()
    picture.write_bytes(bytes(len(whole)))
    assert batch("--verify") == Exit.OK
    assert picture.with_suffix(".2.jpg").read_bytes() == whole
    assert emulator.world.charges == 2


def test_only_the_first_of_a_file(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """--limit makes so many and no more, and says of how many."""
    beside(emulator := Emulator("pro"))
    prompts(5)
    assert batch("--limit", "2") == Exit.OK
    assert "prompts.txt: 2 of 5 prompts." in capsys.readouterr().out
    assert emulator.world.charges == 2


def test_json_is_one_object(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """Totals, credits, seconds, where things are, and nothing beside it."""
    beside(emulator := Emulator("pro", faults=["job 1: fail"]))
    prompts(3)
    assert batch("--json") == Exit.SOME_FAILED
    facts = told(capsys)
    counts = {name: facts[name] for name in ("total", "done", "failed", "rejected", "in_doubt", "left")}
    assert counts == {"total": 3, "done": 2, "failed": 1, "rejected": 0, "in_doubt": 0, "left": 0}
    assert facts["credits_spent"] == sum(job.credit_cost for job in emulator.world.jobs.values())
    assert facts["seconds"] > 0
    assert (facts["ledger"], facts["gallery"]) == ("pictures/ledger.db", "pictures/index.html")
    assert (facts["stopped"]["type"], facts["exit_code"]) == ("SomeFailed", 11)
    assert facts["next"] == "doitong batch prompts.txt --out pictures --json --retry-failed"


def test_defaults_and_limits_reach_the_service(beside: Beside) -> None:
    """Provider and size are those of the options, where a line names none."""
    beside(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "a", "width": 640}\n{"prompt": "b", "provider": "dalle"}\n')
    size = ["--width", "512", "--height", "768", "--provider", "sdxl"]
    assert batch(*size, "--plan", "pro", file="shots.jsonl") == Exit.OK
    orders = {job.order.prompt: job.order for job in emulator.world.jobs.values()}
    assert (orders["a"].provider, orders["a"].width, orders["a"].height) == ("sdxl", 640, 768)
    assert (orders["b"].provider, orders["b"].width, orders["b"].height) == ("dalle", 512, 768)


# What it does not begin


def test_bad_lines_are_told_before_anything_is_sent(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its number; no job, no folder, exit 2."""
    beside(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "widht": 3}\nnonsense\n')
    assert batch(file="shots.jsonl") == Exit.USAGE
    err = capsys.readouterr().err
    assert "2 lines are wrong. Nothing was sent." in err
    assert "line 2: There is no field 'widht'; did you mean 'width'?" in err
    assert "line 3: it is not JSON" in err
    assert emulator.world.charges == 0
    assert not Path("pictures").exists()


def test_a_known_key_with_another_request_is_refused(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent, and the item is named."""
    beside(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "a", "key": "x"}\n')
    assert batch(file="shots.jsonl") == Exit.OK
    Path("shots.jsonl").write_text('{"prompt": "b", "key": "y"}\n{"prompt": "c", "key": "x"}\n')
    assert batch(file="shots.jsonl") == Exit.USAGE
    assert "item 2: the key 'x'" in capsys.readouterr().err
    assert emulator.world.charges == 1


def test_a_ledger_of_a_trial_is_not_taken_for_the_real_thing(
    beside: Beside, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything done at an emulator, nothing of it is done at the service."""
    beside(emulator := Emulator("pro"))
    prompts(2)
    assert batch("--plan", "pro") == Exit.OK
    monkeypatch.setenv("DOITONG_BASE_URL", "https://api.doitong.com")
    for more in ((), ("--dry-run",)):
        capsys.readouterr()
        assert batch(*more) == Exit.DOWNLOAD
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
def test_what_is_no_list_of_prompts_is_not_paid_line_by_line(
    name: str, text: str, beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who means it says so; a prompt that begins with a bracket is one."""
    beside(emulator := Emulator("pro"))
    Path(name).write_text(text)
    assert batch(file=name) == Exit.USAGE
    assert "--format" in capsys.readouterr().err
    assert batch("--plan", "pro", "--format", "lines", file=name) == Exit.OK
    assert emulator.world.charges == len(text.splitlines())
    Path("prompts.txt").write_text("[sepia] a fox\n{soft} light\n")
    assert main(["batch", "prompts.txt", "--out", "more", "--plan", "pro"]) == Exit.OK
    assert emulator.world.charges == len(text.splitlines()) + 2


def test_a_first_line_like_a_comment_is_said_before_anything_is_paid(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is a prompt unless --comments says otherwise."""
    Path("prompts.txt").write_text("# foxes\na fox\n")
    assert batch("--dry-run") == Exit.OK
    assert "begins with # and is paid for like any prompt: '# foxes'" in "".join(capsys.readouterr())
    assert batch("--dry-run", "--comments", "--json") == Exit.OK
    assert told(capsys)["to_begin"] == 1


def test_a_dry_run_sends_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is to do, what it costs and how long it takes; no key, no folder, no service."""
    monkeypatch.delenv("DOITONG_API_KEY")
    prompts(30)
    assert batch("--dry-run", "--plan", "starter", "--jobs-per-day", "10") == Exit.OK
    out, err = capsys.readouterr()
    assert err == ""
    assert "30 jobs on the plan starter: 300 to 600 credits." in out
    assert "They take three days, as the plan allows 10 jobs a day." in out
    assert not Path("pictures").exists()
    assert batch("--dry-run", "--json") == Exit.OK
    facts = told(capsys)
    assert (facts["to_begin"], facts["credits_low"], facts["credits_high"]) == (30, 300, 600)


def test_a_missing_key_is_a_matter_of_credentials(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3, once the file is known to be sound, and nothing is left behind."""
    monkeypatch.delenv("DOITONG_API_KEY")
    prompts(1)
    assert batch() == Exit.CREDENTIALS
    assert "DOITONG_API_KEY is not set. Nothing was sent." in capsys.readouterr().err
    assert not Path("pictures").exists()


def test_a_budget_needs_prices(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """What has no documented price is told before anything is spent; --price says it."""
    beside(emulator := Emulator("pro"))
    Path("shots.jsonl").write_text('{"prompt": "waves", "provider": "kling"}\n')
    assert batch("--budget", "500", file="shots.jsonl") == Exit.USAGE
    assert "--price" in capsys.readouterr().err
    assert emulator.world.charges == 0
    assert batch("--budget", "500", "--price", "kling=100", file="shots.jsonl") == Exit.OK


def test_a_place_that_cannot_be_written_is_told(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """A file stands where the folder should be: exit 2, nothing sent, with --emulator too."""
    beside(emulator := Emulator("pro"))
    prompts(1)
    Path("pictures").write_text("mine")
    for more in ([], ["--emulator"]):
        assert batch(*more) == Exit.USAGE
        assert "Nothing was sent" in capsys.readouterr().err
    assert emulator.world.charges == 0
    assert Path("pictures").read_text() == "mine"


def test_a_file_that_is_no_ledger_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 10 from the batch and from its status, and not a byte of it changes."""
    prompts(1)
    Path("mine.db").write_text("my own data, and no ledger")
    assert batch("--ledger", "mine.db") == Exit.DOWNLOAD
    assert main(["batch", "status", "mine.db"]) == Exit.DOWNLOAD
    assert capsys.readouterr().err.count("mine.db is not a ledger of doitong_async") == 2
    assert Path("mine.db").read_text() == "my own data, and no ledger"


def test_a_ledger_without_its_log_is_refused(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """By the batch and by its status: exit 10, and nothing is sent."""
    beside(emulator := Emulator("pro"))
    prompts(3)
    copies: list[bytes] = []

    def copy() -> None:
        if emulator.world.charges:
            copies.append(Path("pictures/ledger.db").read_bytes())

    at_each_request(emulator, copy)
    assert batch() == Exit.OK
    capsys.readouterr()
    Path("pictures/ledger.db").write_bytes(copies[-1])
    assert main(["batch", "status", "pictures"]) == Exit.DOWNLOAD
    assert batch() == Exit.DOWNLOAD
    out, err = capsys.readouterr()
    assert "0 items" not in out + err
    assert err.count("without its log ledger.db-wal") == 2
    assert emulator.world.charges == 3


# How it ends, and goes on


def test_a_budget_is_reached_and_a_larger_one_goes_on(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 12; the command that it tells makes the rest, and nothing twice."""
    beside(emulator := Emulator(WIDE_LIMITS))
    prompts(5)
    assert batch("--budget", "60", *WIDE) == Exit.BUDGET
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


def test_what_failed_is_made_again_only_when_asked(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 11 with a line for what failed; again the same; --retry-failed pays for another try."""
    beside(emulator := Emulator("pro", faults=["job 1: fail"]))
    prompts(3)
    assert batch() == Exit.SOME_FAILED
    out, err = capsys.readouterr()
    assert len(re.findall(r"^\S+ failed [0-9a-f]{16}: JobFailedError: ", out, re.MULTILINE)) == 1
    assert "2 of 3 done, 1 failed" in out
    assert "next: doitong batch prompts.txt --out pictures --retry-failed" in err
    assert batch() == Exit.SOME_FAILED
    assert emulator.world.charges == 3
    assert batch("--retry-failed") == Exit.OK
    assert emulator.world.charges == 4


def test_what_could_not_be_fetched_is_fetched_by_the_same_command(
    beside: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is paid: the next run needs no --retry-failed, and makes nothing again."""
    beside(emulator := Emulator("pro", faults=["output: html"]))
    prompts(3)
    assert batch() == Exit.SOME_FAILED
    err = capsys.readouterr().err
    assert "--retry-failed" not in err
    assert "next: doitong batch prompts.txt --out pictures" in err
    emulator.faults.clear()
    assert batch() == Exit.OK
    assert emulator.world.charges == 3


def test_credits_that_are_used_up_stop_all(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """A 402 is exit 4; what the server said is told, and the rest is not tried."""
    beside(emulator := Emulator("pro", credits=45))
    prompts(9)
    assert batch() == Exit.CREDITS
    err = capsys.readouterr().err
    assert "credits available 5" in err
    assert "next: doitong batch prompts.txt --out pictures" in err
    assert emulator.world.charges == 2
    assert emulator.world.count("submit") < 9


@pytest.mark.slow
def test_the_next_day_is_waited_for(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """Five pictures at two a day take three days, are promised so, and end with exit 0."""
    limits = PlanLimits(60, 3, 2)
    beside(emulator := Emulator(limits))
    prompts(5)
    given = ["--plan", "starter", "--requests-per-minute", "60", "--jobs-per-day", "2"]
    assert batch(*given) == Exit.OK
    out = capsys.readouterr().out
    assert "They take three days, as the plan allows 2 jobs a day." in out
    assert "waiting for the next day (2 a day); " in out
    assert re.search(r"5 of 5 done; \d+ credits spent; 2 days", out)
    assert emulator.world.charges == 5


def test_a_source_that_breaks_is_told_and_nothing_is_lost(
    beside: Beside, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes while it is read ends the batch after what was begun, with its reason."""
    beside(emulator := Emulator("free"))
    Path("shots.jsonl").write_text("".join(f'{{"prompt": "a fox {n}"}}{" " * 20_000}\n' for n in range(9)))
    record = emulator.world.record

    def spoil(seen: Any) -> None:
        record(seen)
        text = Path("shots.jsonl").read_text()
        Path("shots.jsonl").write_text(text[:50_000] + "#" * (len(text) - 50_000))

    monkeypatch.setattr(emulator.world, "record", spoil)
    assert batch(file="shots.jsonl") == Exit.USAGE
    out, err = capsys.readouterr()
    assert "shots.jsonl, line " in err
    assert re.search(r"[1-5] of 9 done, [4-8] left", out)
    assert 1 <= emulator.world.charges < 6
    assert Path("pictures/index.html").exists()


# Signals


@pytest.mark.slow
def test_ctrl_c_drains_and_the_command_that_is_told_goes_on() -> None:
    """Once: what runs is waited for and kept, nothing is begun; the next run makes the rest."""
    prompts(5)
    with running(Emulator(WIDE_LIMITS, durations=1.0)) as emulator:
        made = after_jobs(emulator, 3)
        process = spawn("batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE)
        wait_for(made, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert process.returncode == Exit.INTERRUPTED
        assert re.search(r"Stopping: waiting for the .* Ctrl-C again leaves", out)
        assert "Traceback" not in err
        done = len(list(Path("pictures").glob("*.jpg")))
        assert done == emulator.world.charges
        assert 3 <= done < 5
        assert f"Interrupted: {done} of 5 done" in err
        assert Path("pictures/index.html").exists()
        match = re.search(r"^next: doitong (.*)$", err, re.MULTILINE)
        assert match is not None
        again = spawn(*shlex.split(match[1]))
        out, err = again.communicate()
        assert (again.returncode, err) == (0, "")
    assert f"5 of 5 done ({done} before)" in out
    assert emulator.world.charges == 5


@pytest.mark.slow
def test_a_hangup_drains_however_often_it_comes() -> None:
    """A terminal that goes says so more than once; that is not the second Ctrl-C, which leaves what runs."""
    prompts(9)
    with running(Emulator(WIDE_LIMITS, durations=4.0)) as emulator:
        made = after_jobs(emulator, 3)
        process = spawn("batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE)
        assert process.stdout is not None
        wait_for(made, process)
        process.send_signal(signal.SIGHUP)
        assert any("Stopping" in line for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    done = len(list(Path("pictures").glob("*.jpg")))
    assert done == emulator.world.charges
    assert 3 <= done < 9
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_twice_leaves_what_runs_to_the_next_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs that would take an hour are left at once, and are known to the ledger as running."""
    prompts(6)
    with running(Emulator(WIDE_LIMITS, durations=3600.0)) as emulator:
        made = after_jobs(emulator, 3)
        process = spawn("batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE)
        assert process.stdout is not None
        wait_for(made, process)
        process.send_signal(signal.SIGINT)
        while "Stopping" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert "Leaving 3 jobs to the next run" in out
    assert "3 jobs continue at the service; the next run resumes them." in err
    assert "Traceback" not in err
    assert Counter(item["outcome"] for item in status(capsys)) == {"running": 3}
    assert emulator.world.charges == 3


@pytest.mark.slow
def test_sigterm_drains_and_meanwhile_the_ledger_is_only_read(capsys: pytest.CaptureFixture[str]) -> None:
    """While a batch runs its status can be read, a second one on its ledger is refused; SIGTERM drains."""
    prompts(12)
    with running(Emulator(WIDE_LIMITS, durations=3.0)) as emulator:
        made = after_jobs(emulator, 3)
        command = ["batch", "prompts.txt", "--out", "pictures", "--base-url", emulator.url, *WIDE, "--json"]
        process = spawn(*command)
        wait_for(made, process)
        assert {item["outcome"] for item in status(capsys)} <= {"running", "in_doubt", "done"}
        assert main(command) == Exit.DOWNLOAD
        assert "is in use by another batch. Nothing was sent." in told(capsys)["error"]["message"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    facts = json.loads(out)
    assert (process.returncode, err) == (Exit.INTERRUPTED, "")
    assert facts["stopped"]["type"] == "Interrupted"
    assert facts["done"] == emulator.world.charges == 12 - facts["left"] < 12


# A trial at its own emulator


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in virtual time: waiting takes none."""
    monkeypatch.setattr(asyncio, "run", run_virtual)


def interrupt_at_events(monkeypatch: pytest.MonkeyPatch, *counts: int) -> None:
    """Press Ctrl-C when a batch has told so many events."""
    count = 0

    def on_event(run: Run, event: Event) -> None:
        nonlocal count
        count += 1
        if count in counts:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "_on_event", on_event)


@pytest.mark.usefixtures("virtual")
def test_a_trial_that_is_complete_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """It makes its pictures, whatever DOITONG_BASE_URL says; the second time all is done before."""
    prompts(3)
    assert batch("--emulator") == Exit.OK
    assert {size_of(picture) for picture in Path("pictures").glob("*.jpg")} == {(1024, 1024)}
    assert batch("--emulator") == Exit.OK
    out, err = capsys.readouterr()
    assert "3 done before. Nothing is left to do." in out
    assert err == ""


@pytest.mark.usefixtures("virtual")
def test_a_trial_that_drained_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one Ctrl-C nothing runs any more, so the rest can be made at another emulator."""
    prompts(9)
    interrupt_at_events(monkeypatch, 8)
    assert batch("--emulator", *WIDE) == Exit.INTERRUPTED
    assert "Ctrl-C again ends" in "".join(capsys.readouterr())
    assert batch("--emulator", *WIDE) == Exit.OK
    assert len({item["job_id"] for item in status(capsys)}) == 9


@pytest.mark.usefixtures("virtual")
def test_a_trial_that_was_broken_off_is_not_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs ended with its emulator: nothing is sent, nothing changes, and the way to try it is told."""
    prompts(6)
    interrupt_at_events(monkeypatch, 8, 9)
    assert batch("--emulator", *WIDE) == Exit.INTERRUPTED
    err = capsys.readouterr().err
    assert "ended with this command's emulator: a trial cannot be resumed" in err
    assert "next:" not in err
    before = status(capsys)
    assert "running" in {item["outcome"] for item in before}
    for more in ([], ["--retry-failed"]):
        assert batch("--emulator", *WIDE, *more) == Exit.USAGE
        err = capsys.readouterr().err
        assert "A trial cannot be resumed: the ledger pictures/ledger.db has jobs" in err
        assert "Nothing was sent" in err
        assert "`doitong emulator`" in err
        assert "export" in err
    assert status(capsys) == before


@pytest.mark.slow
def test_a_trial_that_was_killed_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    """After SIGKILL no emulator is left, and the ledger says so."""
    prompts(12)
    command = ["batch", "prompts.txt", "--out", "pictures", "--emulator", "--speed", "50", *WIDE]
    killed = spawn(*command)
    assert killed.stdout is not None
    while " of 12: " not in killed.stdout.readline():
        pass
    killed.kill()
    killed.communicate()
    before = status(capsys)
    assert main(command) == Exit.USAGE
    assert "A trial cannot be resumed" in capsys.readouterr().err
    assert status(capsys) == before


def test_a_trial_has_its_own_address(capsys: pytest.CaptureFixture[str]) -> None:
    """It uses no server that it did not start."""
    prompts(1)
    assert batch("--emulator", "--base-url", "http://127.0.0.1:1") == Exit.USAGE
    assert "--emulator has its own address" in capsys.readouterr().err


# What is told


@pytest.mark.slow
def test_a_terminal_shows_the_batch_as_it_goes(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar, what is waited for, credits and pace, what failed above it, and a summary at the end."""
    beside(Emulator("starter", faults=["job 1: fail"]))
    prompts(9)
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert batch("--plan", "starter", "--budget", "900") == Exit.SOME_FAILED
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue())
    assert "━" in text
    assert re.search(r"waiting +\d+  for a job to end \(3 at once\)", text)
    assert re.search(r"credits +\d+ spent of 900, \d+ reserved", text)
    assert re.search(r"pace +[\d.]+ a minute, about [\dmins ]+ left", text)
    assert "✗ failed " in text
    assert "8 of 9 done, 1 failed" in text
    assert "gallery  pictures/index.html" in text


def test_what_prompts_hold_cannot_act_on_a_terminal(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escapes in a prompt or a key are shown, never obeyed, in lines, in the status and in its table."""
    beside(Emulator("pro", faults=["job 1: fail"]))
    Path("shots.jsonl").write_text(json.dumps({"prompt": "a \x1b[2J fox\tand \u202e more"}) + "\n")
    assert batch(file="shots.jsonl") == Exit.SOME_FAILED
    assert main(["batch", "status", "pictures"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert "a \\x1b[2J fox\\x09and \\u202e more" in out
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert main(["batch", "status", "pictures"]) == 0
    assert "\x1b[2J" not in screen.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80, 130, 200])
def test_a_status_fits_the_terminal(
    columns: int, beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line an item, none wider than the terminal, letters of two columns counted as two."""
    beside(Emulator("pro"))
    Path("prompts.txt").write_text("狐狸在雪地里奔跑" * 20 + "\na fox\n")
    assert batch() == Exit.OK
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    assert main(["batch", "status", "pictures"]) == 0
    lines = [re.sub(r"\x1b\[[\d;?]*m", "", line) for line in screen.getvalue().splitlines()]
    assert len(lines) == 3
    assert lines[0].split()[:2] == ["key", "prompt"]
    assert all(sum(2 if letter > "⺀" else 1 for letter in line) <= columns for line in lines)
    assert ("sha-256" in lines[0]) == (columns == 200)


@pytest.mark.slow
def test_a_status_in_a_pipe_is_parted_by_tabs(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine fields a line, whole; the totals go to the standard error."""
    beside(Emulator("pro"))
    prompts(2)
    assert batch() == Exit.OK
    capsys.readouterr()
    assert main(["batch", "status", "pictures/ledger.db"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [len(row) for row in rows] == [9, 9]
    for key, prompt, provider, job_id, outcome, credits_spent, seconds, file, digest in rows:
        assert prompt.startswith("a fox number ")
        assert (provider, outcome) == ("flux-pro", "done")
        assert (len(key), bool(job_id), len(digest)) == (16, True, 64)
        assert float(credits_spent) >= 10
        assert float(seconds) > 0
        assert (Path("pictures") / file).exists()
    assert re.fullmatch(r"2 items: 2 done; \d+ credits\n", err)


def test_prompts_from_stdin_cannot_be_typed_again(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that goes on needs the same prompts in its pipe, and it says so."""
    beside(Emulator("pro", faults=["job 1: fail"]))
    stdin = io.TextIOWrapper(io.BytesIO(b"a fox\na hen\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert batch(file="-") == Exit.SOME_FAILED
    assert "pipe the same prompts into the same command" in capsys.readouterr().err


def test_the_help_teaches_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples, how to go on, and what each end means."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["batch", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(
        re.search(rf"^ {code} +\w", text, re.MULTILINE) for code in (0, 2, 3, 4, 5, 8, 10, 11, 12, 130)
    )
    assert "doitong batch status pictures" in text
    assert main(["batch", "status", "-h"]) == 0
    assert "SHA-256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("waiting", "more", "words"),
    [
        ({"slot": 2, "minute": 1}, {}, "for a job to end (3 at once)"),
        ({"minute": 3}, {}, "for the next minute (30 requests a minute)"),
        ({"day": 3}, {}, "for the next day (1,000 a day)"),
        ({"server": 1}, {}, "for a pause that the service requested"),
        ({}, {"has_budget": True}, "for credits that are reserved"),
        ({"slot": 1}, {"is_unreachable": True}, "for the service, which is unreachable"),
        ({"minute": 1}, {"is_unreachable": True}, "for the next minute (30 requests a minute)"),
        ({}, {}, None),
    ],
)
def test_why_items_wait_is_said_plainly(
    waiting: dict[str, int], more: dict[str, bool], words: str | None
) -> None:
    """What most of them wait for; of a service that is away nothing is known while a limit holds all back."""
    flags = {"is_unreachable": False, "has_budget": False, **more}
    assert reason(waiting, Plan.STARTER, **flags) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (700, "12 min"),
        (3600, "1 h"),
        (7800, "2 h 10 min"),
        (10 * 86_400, "10 days"),
        (200_000, "2 days 8 h"),
    ],
)
def test_a_time_is_said_in_two_units(seconds: float, words: str) -> None:
    """Never more exact than it is worth."""
    assert span(seconds) == words


def test_the_time_left_follows_the_rate_and_the_day() -> None:
    """By what ended of late; where the day is the limit, by days."""
    tally = BatchProgress(5_000, Plan.STARTER, None, None)
    idle = Progress(items={}, known=0, running=3, fetching=0, waiting=3, spent=0, reserved=0, stopped=None)

    def left(now: float, waiting: dict[str, int]) -> tuple[float | None, float | None]:
        moment = tally.moment(now, idle, waiting=waiting, is_unreachable=False, stopping=None)
        return moment.rate, moment.left

    assert left(0.0, {})[0] is None
    tally.outcomes[Outcome.DONE] += 4_400
    assert left(60.0, {"slot": 3}) == (4_400.0, 60.0 * 600 / 4_400)
    assert left(60.0, {"day": 3})[1] == 86_400.0
    tally.outcomes[Outcome.DONE] -= 4_000
    assert left(120.0, {"minute": 3})[1] == 5 * 86_400.0


# Webhooks


SECRET = "whsec-never-to-be-seen"


def hooked(port: int, path: str = "/") -> list[str]:
    return ["--webhook-url", f"http://127.0.0.1:{port}{path}", "--webhook-port", str(port)]


def port_of(place: socket.socket) -> int:
    port: int = place.getsockname()[1]
    return port


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/hooks/doitong/", "/hooks/doitong"])
def test_with_a_receiver_of_its_own_nothing_is_looked_at(
    path: str, beside: Beside, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item ends at its webhook: a request an item, and all webhooks taken."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    beside(emulator := Emulator("pro", webhook_secret=SECRET))
    prompts(12)
    with free_port() as place:
        port = port_of(place)
    assert batch("--plan", "pro", *hooked(port, path)) == Exit.OK
    assert (emulator.world.count("submit"), emulator.world.count("poll")) == (12, 0)
    assert [posted.outcome for posted in emulator.posted] == ["taken"] * 12
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--webhook-port", "4711"], "belong together"),
        (["--webhook-url", "https://example.com/"], "belong together"),
        (["--webhook-url", "http://example.com/", "--webhook-port", "4711"], "https"),
        (["--webhook-port", "70000", "--webhook-url", "https://example.com/"], "webhook-port"),
    ],
)
def test_what_cannot_be_of_webhooks_is_said_before_anything_is_sent(
    arguments: list[str],
    says: str,
    beside: Beside,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 2."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    beside(emulator := Emulator("pro"))
    prompts(1)
    assert batch("--plan", "pro", *arguments) == Exit.USAGE
    assert says in capsys.readouterr().err
    assert not emulator.world.seen


def test_a_receiver_needs_the_secret(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no argument, and without it anybody could send news."""
    beside(emulator := Emulator("pro"))
    prompts(1)
    assert batch("--plan", "pro", *hooked(4711)) == Exit.USAGE
    assert "DOITONG_WEBHOOK_SECRET is not set" in capsys.readouterr().err
    assert not emulator.world.seen


def test_a_port_that_is_taken_is_told(
    beside: Beside, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    beside(emulator := Emulator("pro"))
    prompts(1)
    with free_port() as place:
        assert batch("--plan", "pro", *hooked(port_of(place))) == Exit.USAGE
    assert "--webhook-port" in capsys.readouterr().err
    assert not emulator.world.seen


@pytest.mark.usefixtures("virtual")
def test_the_own_emulator_sends_webhooks_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed with a secret of their own: no item waits for a poll."""
    prompts(3)
    with free_port() as place:
        port = port_of(place)
    sent: list[Event] = []
    monkeypatch.setattr(Run, "_on_event", lambda _, event: sent.append(event))
    assert batch("--emulator", "--json", *hooked(port)) == Exit.OK
    assert told(capsys)["done"] == 3
    assert [event.kind for event in sent if isinstance(event, RequestSent)] == ["submit"] * 3
    assert sum(isinstance(event, WebhookReceived) for event in sent) == 3
