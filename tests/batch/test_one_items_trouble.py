"""Whatever the service says about one item is the trouble of that item, and of no other."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doitong_async import BadRequestError, Item, Outcome, Plan, ProtocolError
from doitong_async.batch.ledger import Ledger, LedgerFile
from doitong_async.batch.worker import ItemWorker
from doitong_async.cli.batch_run import gallery_of
from doitong_async.log import log
from doitong_async.unicode import is_unicode
from tests.virtual import plain, virtual

ODD = {
    "half a pair": "https://a.example/\ud83d",
    "a NUL": "https://a.example/\x00",
    "no URL": "https://[x",
    "no host": "https://xn--#/",
    "an endless number": 10**400,
    "more than 64 bits": 2**70,
    "a list": ["\ud83d"],
    "an object": {"\ud83d": "\ud83d"},
}
FIELDS = ("url", "id", "status", "metadata", "provider", "type", "creditCost", "createdAt")
HEAD = "HTTP/1.1 {} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


def answer(status: int, body: object, headers: bytes = b"") -> bytes:
    raw = json.dumps(body).encode()
    head, end = HEAD.format(status, len(raw)).encode()[:-2], b"\r\n"
    return head + headers + end + raw


def oddly(field: str, value: object) -> Callable[[bytes, bytes | None], bytes | None]:
    """Return what replaces one field of the job of the prompt "two", and nothing else."""
    odd_ids: set[str] = set()

    def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
        if honest is None or b"200 " not in honest[:16] or b'"data"' not in honest:
            return honest
        told = json.loads(honest.partition(b"\r\n\r\n")[2])
        if b"mutation" in request and b'"two"' in request:
            odd_ids.add(told["data"]["generate"]["id"])
        for job in told["data"].values():
            if job and job["id"] in odd_ids and field in job:
                job[field] = value
        return answer(200, told)

    return rewrite


async def ran(
    tmp_path: Path, rewrite: Callable[[bytes, bytes | None], bytes | None], **arguments: Any
) -> dict[str, Item]:
    """Run three prompts, one after the other, so that "three" is submitted after the trouble of "two"."""
    async with plain(Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=1), timeout=60.0) as (
        doitong,
        server,
    ):
        server.rewrite = rewrite
        given = [{"prompt": prompt, "key": prompt} for prompt in ("one", "two", "three")]
        async with doitong.batch(given, ledger=tmp_path / "run.db", out=tmp_path, **arguments) as batch:
            return {item.key: item async for item in batch}


def assert_is_its_own(items: dict[str, Item], tmp_path: Path) -> None:
    """The others are done, and everything about it can be written, read and shown."""
    assert {key: item.outcome for key, item in items.items() if key != "two"} == {
        "one": Outcome.DONE,
        "three": Outcome.DONE,
    }
    assert is_unicode(str(items["two"].error))
    with Ledger.read(tmp_path / "run.db") as ledger:
        assert len([*ledger.records()]) == 3
    page, trouble = gallery_of(tmp_path / "run.db", tmp_path, "odd")
    assert trouble is None
    assert page is not None
    page.read_text("utf-8")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "field", [name if name == "url" else pytest.param(name, marks=pytest.mark.slow) for name in FIELDS]
)
def test_an_odd_field_of_a_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str, odd: str
) -> None:
    """In any field, in an answer to a submit or to a poll."""

    @virtual
    async def run() -> None:
        assert_is_its_own(await ran(tmp_path, oddly(field, ODD[odd])), tmp_path)

    run()
    assert "The ledger cannot" not in caplog.text
    assert all(is_unicode(record.getMessage()) for record in caplog.records)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"odd": "\ud83d"}, b""),
        ({"errors": [{"message": "\ud83d"}]}, b""),
        ({"errors": [{"message": {"\ud83d": 1}}]}, b""),
        ({"errors": [{"message": "no", "extensions": {"code": "\ud83d"}}]}, b""),
        ({"errors": [{"message": "no"}]}, b"X-Request-Id: \xff\xfe\r\n"),
    ],
)
def test_an_odd_error(tmp_path: Path, body: object, headers: bytes) -> None:
    """What cannot be written as UTF-8 is escaped, in the error and in the ledger alike."""

    def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
        return answer(400, body, headers) if b'"two"' in request else honest

    @virtual
    async def run() -> None:
        items = await ran(tmp_path, rewrite)
        assert_is_its_own(items, tmp_path)
        error = items["two"].error
        assert isinstance(error, BadRequestError)
        assert is_unicode(f"{error.message}{error.code}{error.request_id}")
        assert "\\ud" in str(error).lower()
        with Ledger.read(tmp_path / "run.db") as ledger:
            record = ledger.find("two")
        assert record is not None
        assert record.reason == error.message

    run()


@virtual
async def test_an_error_that_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing foreign ends the loop: it is reported as the end of its item."""
    usual = ItemWorker._fetch

    async def breaking(self: ItemWorker, pending: Any, result: Any) -> Any:
        if pending.key == "two":
            raise ValueError("\ud83d is no address")
        return await usual(self, pending, result)

    monkeypatch.setattr(ItemWorker, "_fetch", breaking)
    monkeypatch.setattr("doitong_async.batch.worker.log", _Silent())
    items = await ran(tmp_path, lambda request, honest: honest)
    assert_is_its_own(items, tmp_path)
    error = items["two"].error
    assert items["two"].outcome is Outcome.IN_DOUBT
    assert isinstance(error, ProtocolError)
    assert isinstance(error.__cause__, ValueError)
    assert error.job_id
    assert error.token


class _Silent:
    def error(self, *_: object, **__: object) -> None:
        """Log nothing."""

    warning = error


@pytest.mark.parametrize("value", [2**70, object()])
@virtual
async def test_a_value_that_sqlite_rejects_is_no_trouble_of_the_ledger(tmp_path: Path, value: Any) -> None:
    """Its change gets an error that does not end a batch; the others of its group are written."""
    ledger = await LedgerFile.open(tmp_path / "run.db", service="s")
    try:
        begun = {
            "attempt": 0, "digest": "d", "request": "{}", "body": "{}", "file": None, "at": 1.0
        }  # fmt: skip
        odd, good = await asyncio.gather(
            ledger.begin("odd", idempotency_key="k1", reserved=value, **begun),
            ledger.begin("good", idempotency_key="k2", reserved=1.0, **begun),
            return_exceptions=True,
        )
        assert isinstance(odd, ProtocolError)
        assert good is None
        assert ledger.find("odd") is None
        assert ledger.find("good") is not None
    finally:
        await ledger.close()


def test_the_log_escapes_what_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler with a file would print a traceback of its own instead of the line."""
    file = tmp_path / "log.txt"
    handler = logging.FileHandler(file, encoding="utf-8")
    monkeypatch.setattr(log.logger, "handlers", [handler])
    log.warning("nobody took %s", "https://a.example/\ud83d")
    handler.close()
    assert file.read_text("utf-8") == "nobody took https://a.example/\\ud83d\n"
