"""Commands that share the plan with other processes, and `doitong coordinator status`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from doitong_async import AsyncDoitong, Plan
from doitong_async.cli import main
from doitong_async.cli.exits import Exit
from doitong_async.cli.text import clean, command_line
from doitong_async.emulator import Emulator
from tests.cli.batches import WIDE, WIDE_LIMITS, batch_status, printed_json, run_batch, write_prompts
from tests.cli.commands import KEY, Serve, Terminal, at_each_request, running
from tests.fake_redis import FakeRedisServer
from tests.redis_server import RedisServer

PASSWORD = "Zr8mQ1vX5tB3"
URL = f"redis://:{PASSWORD}@cache.example:6379/0"
SHARED = ("--coordinator", URL)
DEAD = "redis://127.0.0.1:9/0"


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> FakeRedisServer:
    """Return the server at `URL`, in virtual time."""
    server = FakeRedisServer()

    def from_url(url: str, **arguments: Any) -> Redis:
        assert url == URL
        return server.client(**arguments)

    monkeypatch.setattr(Redis, "from_url", from_url)
    return server


def output(capsys: pytest.CaptureFixture[str]) -> str:
    """Return all that a command printed, which does not have the password."""
    text = "".join(capsys.readouterr())
    assert PASSWORD not in text
    return text


# The option.


@pytest.mark.parametrize("command", ["generate", "batch", "doctor", "job"])
def test_a_command_shares_the_plan(
    command: str, serve: Serve, redis: FakeRedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """It joins the others, and prints no password, not even with --verbose."""
    emulator = Emulator(plan=WIDE_LIMITS, durations=1.0)
    serve(emulator)
    if command == "job":
        assert main(["generate", "a fox"]) == 0
    write_prompts(2)
    arguments = {
        "generate": ["a fox"],
        "batch": ["prompts.txt", "--out", "pictures", *WIDE],
        "doctor": WIDE,
        "job": [*emulator.world.jobs],
    }
    before = redis.calls
    assert main([command, *arguments[command], *SHARED, "--verbose"]) == 0
    assert redis.calls > before
    output(capsys)


@pytest.mark.parametrize(
    "arguments", [["generate", "a fox"], ["batch", "prompts.txt", "--out", "pictures"], ["doctor"]]
)
def test_a_private_emulator_is_not_shared(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, before anything is opened."""
    write_prompts(1)
    assert main([*arguments, "--emulator", *SHARED]) == Exit.USAGE
    assert "Leave out --coordinator, or --emulator." in output(capsys)
    assert not Path("pictures").exists()


@pytest.mark.usefixtures("virtual_time")
def test_a_private_emulator_ignores_the_coordinator_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is for the service, and a trial needs nobody else."""
    monkeypatch.setenv("DOITONG_COORDINATOR", DEAD)
    assert main(["generate", "a fox", "--emulator", "-o", "fox.jpg"]) == 0


@pytest.mark.parametrize("url", ["", "cache.example", f"http://:{PASSWORD}@cache.example"])
def test_what_is_no_coordinator_is_a_mistake(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2; the message does not show it, as it may hold a password."""
    assert main(["generate", "a fox", "--coordinator", url]) == Exit.USAGE
    assert "coordinator is not the address of a Redis server" in output(capsys)


def test_the_coordinator_is_away(
    serve: Serve, redis: FakeRedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 14 after a minute; nothing was sent."""
    emulator = Emulator(durations=1.0)
    serve(emulator)
    redis.kill()
    assert main(["generate", "a fox", *SHARED, "--json"]) == Exit.COORDINATOR
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["exit_code"]) == ("CoordinatorError", 14)
    assert "This was not sent, and nothing was charged for it" in error["message"]
    assert "--coordinator (DOITONG_COORDINATOR)" in error["advice"]
    assert "cannot be reached" in err
    assert emulator.world.charges == 0


@pytest.mark.slow
def test_a_wrong_password_is_an_error_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 14: waiting would not help. Neither password is shown."""
    with RedisServer(password="another-password") as server:
        url = f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
        assert main(["generate", "a fox", "--coordinator", url]) == Exit.COORDINATOR
        assert "rejects this process" in output(capsys)
        assert main(["coordinator", "status", "--coordinator", url]) == Exit.COORDINATOR
        assert "another-password" not in output(capsys)


def test_the_command_that_resumes_a_job_shares_the_plan(
    serve: Serve, redis: FakeRedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its password is to be filled in again."""
    serve(Emulator(durations=100.0))
    masked = "--coordinator 'redis://:***@cache.example:6379/0'"
    assert main(["generate", "a fox", "--timeout", "5", *SHARED]) == Exit.TIMEOUT
    printed = output(capsys)
    assert masked in printed
    token = printed.partition("doitong job ")[2].split()[0]
    assert main(["job", token, "--timeout", "5", *SHARED]) == Exit.TIMEOUT
    assert masked in output(capsys)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "redis://:***@cache.example:6379/0"),
        (f"rediss://user:{PASSWORD}@cache/0", "rediss://user:***@cache/0"),
        (f"redis://:{PASSWORD}@more@cache/0", "redis://:***@cache/0"),
        (f"unix:///run/redis.sock?db=1&password={PASSWORD}", "unix:///run/redis.sock?db=1&password=***"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://user@cache:6379/0", "redis://user@cache:6379/0"),
    ],
)
def test_no_text_shows_a_password(url: str, shown: str) -> None:
    assert clean(f"to {url} and again {url}") == f"to {shown} and again {shown}"
    assert shown in command_line(["job", url])


# A batch.


@pytest.mark.slow
def test_a_batch_whose_coordinator_stays_away_resumes(
    serve: Serve, redis: FakeRedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 14 after ten minutes: what ran is done, the rest is left, and the same command makes it."""
    emulator = Emulator(plan=WIDE_LIMITS, durations=3.0)
    serve(emulator)
    write_prompts(20)
    killed: list[int] = []

    def kill_once() -> None:
        if emulator.world.charges >= 6 and not killed:
            killed.append(emulator.world.charges)
            redis.kill()

    at_each_request(emulator, kill_once)
    assert run_batch(*WIDE, *SHARED, "--json") == Exit.COORDINATOR
    printed = capsys.readouterr()
    ended = json.loads(printed.out)
    made = emulator.world.charges
    assert (ended["done"], ended["failed"], ended["in_doubt"], ended["left"]) == (made, 0, 0, 20 - made)
    assert ended["stopped"]["type"] == "CoordinatorError"
    assert "--coordinator 'redis://:***@cache.example:6379/0'" in ended["next"]
    assert PASSWORD not in printed.out + printed.err
    assert len(batch_status(capsys)) == made
    redis.start()
    assert run_batch(*WIDE, *SHARED, "--json") == 0
    assert printed_json(capsys)["done"] == 20
    assert emulator.world.charges == 20


# Its status.


def status(*arguments: str) -> int:
    return main(["coordinator", "status", *arguments])


def test_nobody_uses_the_key(
    redis: FakeRedisServer, virtual_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0: an empty coordinator is no mistake."""
    assert status(*SHARED) == 0
    assert output(capsys) == "Nobody uses this key at the coordinator.\n"
    assert status(*SHARED, "--json") == 0
    facts = printed_json(capsys)
    assert (facts["poller"], facts["processes"], facts["slots_taken"]) == (None, [], 0)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_status_needs_a_coordinator(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*arguments) == Exit.USAGE
    assert "Give --coordinator, or set DOITONG_COORDINATOR." in output(capsys)


def test_the_status_needs_a_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DOITONG_API_KEY")
    assert status(*SHARED) == Exit.CREDENTIALS
    assert "DOITONG_API_KEY is not set" in output(capsys)


def test_the_coordinator_is_away_from_its_status(
    redis: FakeRedisServer, virtual_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    redis.kill()
    assert status(*SHARED) == Exit.COORDINATOR
    assert "The coordinator cannot be reached" in output(capsys)


@pytest.mark.slow
def test_the_status_of_a_real_coordinator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two clients with five jobs on a plan of three at once: as JSON, as lines and on a screen."""
    plan = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=3)

    async def show(url: str) -> tuple[dict[str, Any], str, str]:
        arguments: dict[str, Any] = {"api_key": KEY, "base_url": url, "plan": plan}
        async with AsyncDoitong(**arguments) as first, AsyncDoitong(**arguments) as second:
            jobs = [asyncio.ensure_future(first.generate(f"fox {number}")) for number in range(4)]
            jobs.append(asyncio.ensure_future(second.generate("a hare")))
            facts: dict[str, Any] = {"slots_taken": 0, "processes": []}
            while sum(each["slots"]["running"] for each in facts["processes"]) < 3:
                assert await asyncio.to_thread(status, "--json") == 0
                facts = printed_json(capsys)
            assert await asyncio.to_thread(status) == 0
            lines = output(capsys)
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", screen := Terminal())
                assert await asyncio.to_thread(status) == 0
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            return facts, lines, screen.getvalue()

    with RedisServer(password=PASSWORD) as server, running(Emulator(plan=WIDE_LIMITS)) as emulator:
        monkeypatch.setenv("DOITONG_COORDINATOR", server.url)
        monkeypatch.setenv("DOITONG_BASE_URL", emulator.url)
        facts, lines, screen = asyncio.run(show(emulator.url))
        assert status("--base-url", "http://127.0.0.1:9") == 0
        assert "Nobody uses this key" in output(capsys)
    (poller,) = [each for each in facts["processes"] if each["polls"]]
    assert facts["poller"] == poller["id"]
    assert (facts["slots_taken"], facts["concurrent_jobs"], facts["orphans"]) == (3, 3, 0)
    assert sum(each["waiting"]["slot"] for each in facts["processes"]) == 2
    for text in (lines, screen):
        assert "3 of 3 taken" in text
        assert f"{poller['id']}, process id {poller['pid']}" in text
        assert "for slot" in text
    assert "\x1b[" in screen
    assert "\x1b[" not in lines
