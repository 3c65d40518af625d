"""A process that runs out of file descriptors: the client runs in a process of its own, the service here."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from doitong_async.connections import FEWEST_CONNECTIONS, MOST_CONNECTIONS, most_connections
from doitong_async.emulator import Emulator, PlanLimits

resource = pytest.importorskip("resource")

ROOT = Path(__file__).parents[1]
WIDE = PlanLimits(100_000, 10_000, None)

PRELUDE = """
import asyncio, json, os, resource, sys
from doitong_async import AsyncDoitong, DoitongError, Plan

def told(error):
    return [type(error).__name__, str(error), error.idempotency_key]

def leave(free):
    "Let so many descriptors be free from here on."
    spare = [os.dup(0) for _ in range(free)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare, default=os.dup(0) - 1) + 1, 4096))
    for each in spare:
        os.close(each)

def client():
    plan = Plan("wide", 100_000, 10_000)
    return AsyncDoitong(api_key="k-child", base_url=sys.argv[1], plan=plan, max_attempts=1)

"""


async def in_a_process(body: str, **rules: Any) -> tuple[Any, Emulator]:
    """Run `main` of a script against an emulator; return its output and what the service saw."""
    async with Emulator(WIDE, credits=1_000_000, **rules) as emulator:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", f"{PRELUDE}{body}\nasyncio.run(main())", emulator.url),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
    assert child.returncode == 0, err.decode()
    return json.loads(out), emulator


@pytest.mark.slow
def test_many_submits_fit_few_descriptors() -> None:
    """300 submits at once, with 256 descriptors: each makes a job, and no answer is lost."""
    script = """
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

async def main():
    async with client() as doitong:
        ends = await asyncio.gather(*(doitong.submit(f"fox {n}") for n in range(300)), return_exceptions=True)
        # Files can be opened at the same time.
        files = [open(os.devnull) for _ in range(100)]
    print(json.dumps([told(end) for end in ends if isinstance(end, BaseException)]))
    for each in files:
        each.close()
"""
    errors, emulator = asyncio.run(in_a_process(script, durations=1e6))
    assert errors == []
    assert emulator.world.charges == 300


@pytest.mark.slow
def test_one_descriptor_is_enough_for_a_job() -> None:
    """The connection takes it; nothing else is opened on the way."""
    script = """
async def main():
    async with client() as doitong:
        leave(1)
        job = await doitong.submit("a fox", idempotency_key="i-fox")
        last = await job.refresh()
        print(json.dumps([job.id, last.status.value]))
"""
    (job_id, status), emulator = asyncio.run(in_a_process(script, durations=0.0))
    assert [job_id] == list(emulator.world.jobs)
    assert status == "completed"


@pytest.mark.slow
def test_without_a_descriptor_nothing_is_sent_and_the_error_says_why() -> None:
    """The error does not blame the network or a lost answer."""
    script = """
async def main():
    async with client() as doitong:
        leave(0)
        try:
            await doitong.submit("a fox", idempotency_key="i-fox")
        except DoitongError as error:
            failure = told(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        print(json.dumps(failure))
"""
    (name, text, key), emulator = asyncio.run(in_a_process(script))
    assert (name, key) == ("ConnectionFailedError", "i-fox")
    assert "The request did not leave this machine: too many open files." in text
    assert "nothing was charged" in text
    assert emulator.world.charges == 0


AUDITED = """
from doitong_async.transport.exchange import RequestBody

opened, sent, is_armed = [], [], False

def audit(event, arguments):
    if is_armed and event in ("open", "import"):
        opened.append([event, str(arguments[0])])

sys.addaudithook(audit)
write, write_with_length = RequestBody.write, RequestBody.write_with_length

async def armed_write(self, writer):
    global is_armed
    is_armed = True
    sent.append(1)
    await write(self, writer)

async def armed_write_with_length(self, writer, length):
    global is_armed
    is_armed = True
    sent.append(1)
    await write_with_length(self, writer, length)

RequestBody.write, RequestBody.write_with_length = armed_write, armed_write_with_length

def disarm():
    global is_armed
    is_armed = False
"""


@pytest.mark.slow
@pytest.mark.parametrize("faults", [[], ["submit: 401"], ["submit: 502"], ["poll: 429-minute"]], ids=str)
def test_nothing_is_opened_or_imported_between_sending_and_reading(faults: list[str]) -> None:
    """In the first submit of a process, an error answer and the first poll."""
    script = f"""{AUDITED}
async def main():
    async with client() as doitong:
        try:
            job = await doitong.submit("a fox")
        except DoitongError:
            job = None
        disarm()
        try:
            if job is not None:
                await job.refresh()
        except DoitongError:
            pass
        disarm()
        print(json.dumps([len(sent), opened]))
"""
    (sent, opened), _ = asyncio.run(in_a_process(script, durations=0.0, faults=faults))
    assert sent == (1 if "submit" in str(faults) else 2)
    assert opened == []


@pytest.mark.parametrize(
    ("soft", "most"),
    [
        (1 << 20, MOST_CONNECTIONS),
        (1024, MOST_CONNECTIONS),
        (256, 96),
        (64, FEWEST_CONNECTIONS),
        (resource.RLIM_INFINITY, MOST_CONNECTIONS),
    ],
)
def test_connections_leave_descriptors_for_the_rest(
    soft: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest gets half and a few more, but connections are never so few that downloads delay submits."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert most_connections() == most
    monkeypatch.setattr("doitong_async.connections._HAS_LIMITS", False)
    assert most_connections() == MOST_CONNECTIONS
