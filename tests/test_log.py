"""DOITONG_LOG: what it shows, where, and that it leaves the program's own logging alone."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from doitong_async import AsyncDoitong, DoitongWarning
from doitong_async.cli import main
from doitong_async.events import SubmitAttempted, line_of
from doitong_async.testing import emulated, run_virtual
from doitong_async.transport.failure import FailureKind

PROMPT = "a fox nobody else may read of"
KEY = "sk-live-7QxVn4rT9b"
SECRET = "whsec-Zr8mQ1vX5tB3"
OURS = logging.getLogger("doitong_async")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the logger as it was."""
    level, handlers = OURS.level, list(OURS.handlers)
    yield
    OURS.setLevel(level)
    OURS.handlers[:] = handlers


def lines_of_a_job(caplog: pytest.LogCaptureFixture, **arguments: Any) -> list[str]:
    """Make one job and read its output; return what was logged, with its ids as J and K."""

    async def one_job() -> str:
        secrets: dict[str, Any] = {"api_key": KEY, "webhook_secret": SECRET}
        emulator = {"durations": 3.0, "webhook_secret": SECRET}
        async with emulated(**secrets, emulator=emulator, **arguments) as doitong:
            result = await doitong.generate(PROMPT, idempotency_key="K")
            await result.read()
            return result.id

    job_id = run_virtual(one_job())
    return [record.getMessage().replace(job_id, "J") for record in caplog.records if record.name == OURS.name]


def test_at_debug_a_job_tells_its_whole_life(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its submit, a line for each poll, its statuses, its end and its cost, with ids; no secret."""
    monkeypatch.setenv("DOITONG_LOG", "debug")
    lines = lines_of_a_job(caplog)
    assert lines == [
        "RequestSent kind=submit jobs=1 attempt=1 idempotency_key=K",
        "SubmitAttempted idempotency_key=K attempt=1 provider=flux-pro job_id=J is_in_doubt=False",
        "JobTracked job_id=J is_resumed=False provider=flux-pro",
        "StatusChanged job_id=J status=processing provider=flux-pro",
        "RequestEnded kind=poll seconds=0.0 http_status=200 job_ids=J",
        "RequestEnded kind=poll seconds=0.0 http_status=200 job_ids=J",
        "StatusChanged job_id=J status=completed provider=flux-pro",
        "JobFinished job_id=J status=completed seconds=4.0 credit_cost=20 provider=flux-pro",
        "JobLetGo job_id=J",
        lines[-1],
    ]
    assert re.fullmatch(r"DownloadEnded job_id=J seconds=0.0 size=\d+ is_whole=True", lines[-1])
    assert not [secret for secret in (PROMPT, KEY, SECRET) if secret in caplog.text]


def test_at_debug_a_webhook_has_its_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the secret that signed it."""
    monkeypatch.setenv("DOITONG_LOG", "debug")
    lines = lines_of_a_job(caplog, webhooks=True)
    assert "WebhookReceived job_id=J status=completed" in lines
    assert not [secret for secret in (PROMPT, KEY, SECRET) if secret in caplog.text]


@pytest.mark.parametrize("asked", ["info", "", " INFO "])
def test_at_info_a_normal_job_has_no_line(
    asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what went wrong has."""
    monkeypatch.setenv("DOITONG_LOG", asked)
    assert lines_of_a_job(caplog) == []
    assert OURS.isEnabledFor(logging.INFO) == bool(asked)


def test_a_line_leaves_out_the_words_of_the_service() -> None:
    """They may quote the prompt."""
    failed = SubmitAttempted(
        idempotency_key="K",
        attempt=2,
        provider=None,
        version=None,
        failure=FailureKind.BAD_REQUEST,
        message=PROMPT,
    )
    assert (
        line_of(failed) == "SubmitAttempted idempotency_key=K attempt=2 failure=bad_request is_in_doubt=False"
    )


def test_another_word_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the line that makes the client, which is made all the same; and no level changes."""
    monkeypatch.setenv("DOITONG_LOG", "loud")
    with pytest.warns(DoitongWarning, match="DOITONG_LOG is 'loud'; expected debug or info") as caught:
        AsyncDoitong(api_key="k")
    assert caught[0].filename == __file__
    assert (OURS.level, OURS.handlers) == (logging.NOTSET, [])


PROGRAM = """
import io, json, logging, os, sys

def lines():
    out = sys.stderr.getvalue()
    sys.stderr.seek(0); sys.stderr.truncate()
    return len(out.splitlines())

sys.stderr = io.StringIO()
import doitong_async
from doitong_async.log import log
counts = {}
os.environ["DOITONG_LOG"] = "debug"  # as a program does that reads a file of settings after its imports
doitong_async.AsyncDoitong(api_key="k")
doitong_async.AsyncDoitong(api_key="k")
log.debug("one")
counts["nothing configured"] = lines()
counts["root"] = (logging.getLogger().level, len(logging.getLogger().handlers))
logging.basicConfig()
log.debug("one")
counts["the root configured later"] = lines()
doitong_async.AsyncDoitong(api_key="k")
log.debug("one")
counts["the root configured before"] = lines()
logging.getLogger().handlers.clear()
logging.getLogger("doitong_async").addHandler(logging.StreamHandler(sys.stderr))
log.debug("one")
counts["our logger configured"] = lines()
logging.getLogger("another").info("none")
counts["another logger"] = lines()
print(json.dumps(counts))
"""


def test_each_line_is_written_once_whoever_configures_logging() -> None:
    """To the standard error, unless the program has a handler for it; the root logger stays as it is."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)
    assert json.loads(ran.stdout) == {
        "nothing configured": 1,
        "root": [logging.WARNING, 0],
        "the root configured later": 1,
        "the root configured before": 1,
        "our logger configured": 1,
        "another logger": 0,
    }


def test_the_command_line_shows_the_lines_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the standard error, as notes of the command."""
    monkeypatch.setenv("DOITONG_LOG", "debug")
    assert main(["generate", PROMPT, "--emulator"]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("debug: ")]
    names = [line.split()[1] for line in lines]
    assert [name for name in names if name != "RequestEnded"] == [
        *("RequestSent", "SubmitAttempted", "JobTracked"),
        *("StatusChanged", "StatusChanged", "JobFinished", "JobLetGo"),
    ]
    assert not [line for line in lines if PROMPT in line]
    assert "Request" not in out
