"""Temporary files of killed processes: the next run of the ledger removes its own, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from doitong_async import Item, Plan
from doitong_async.batch import promises, sqlite
from doitong_async.batch.batch import Batch
from doitong_async.batch.ledger import Ledger, LedgerFile, service_of
from doitong_async.cli import main as doitong_command
from doitong_async.cli.batch_run import gallery_of
from doitong_async.files import Existing, Part, new_owner, remove_leftovers
from tests.virtual import virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)

KILLED = """
import os, signal, sys
from pathlib import Path
from doitong_async.files import Existing, Part
part = Part(Path(sys.argv[1]), existing=Existing.KEEP, owner=sys.argv[2])
part.write(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_LEDGER = """
import asyncio, os, signal, sys
from pathlib import Path
from doitong_async.batch.ledger import LedgerFile
os.replace = os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(LedgerFile.open(Path(sys.argv[1]), service="s"))
"""

KILLED_BATCH = """
import asyncio, os, signal, sys
from pathlib import Path
from doitong_async.batch.ledger import LedgerFile
asyncio.run(LedgerFile.open(Path(sys.argv[1]), service=sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_CHECK = """
import os, signal, sys
from pathlib import Path
from doitong_async.batch.batch import _check_folder
os.unlink = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
_check_folder(Path(sys.argv[1]))
"""


async def all_of(batch: AsyncIterator[Item]) -> list[Item]:
    async with batch if isinstance(batch, Batch) else nullcontext():
        return [item async for item in batch]


def kill(program: str, *arguments: str) -> None:
    """Run a program that kills itself."""
    end = subprocess.run([sys.executable, "-c", program, *arguments], check=False)
    assert end.returncode == -signal.SIGKILL


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


@pytest.mark.slow
@virtual
async def test_the_next_run_removes_what_its_ledger_s_killed_runs_left(tmp_path: Path) -> None:
    """Not what another ledger left, not what is being written, not what the user calls so."""
    async with with_emulator(WIDE) as (doitong, _):
        await all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db", out=tmp_path))
        with Ledger.read(tmp_path / "l.db") as ledger:
            owner = ledger.owner
        kill(KILLED, str(tmp_path / "fox\n.jpg"), owner)
        assert len(parts(tmp_path)) == 1
        kill(KILLED, str(tmp_path / "fox.jpg"), new_owner())
        (tmp_path / f".fox.{owner}.part").write_bytes(b"the user's")
        alive = Part(tmp_path / "fox.jpg", existing=Existing.KEEP, owner=owner)
        alive.write(b"half")
        assert len(before := parts(tmp_path)) == 4
        await all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db", out=tmp_path))
        assert set(before) - set(parts(tmp_path)) == {name for name in before if "\n" in name}
        alive.discard()


@pytest.mark.slow
@virtual
async def test_the_next_run_removes_the_file_that_tried_the_folder(tmp_path: Path) -> None:
    """Whichever ledger it has."""
    kill(KILLED_CHECK, str(tmp_path))
    assert len(parts(tmp_path)) == 1
    async with with_emulator(WIDE) as (doitong, _):
        await all_of(doitong.generate_many([], ledger=tmp_path / "l.db", out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"l.db", "l.db.lock"}


@pytest.mark.slow
def test_a_batch_with_nothing_left_to_do_removes_them_too(tmp_path: Path) -> None:
    """Such as half a page of its gallery."""

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, _):
            await all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db", out=tmp_path))

    test()
    with Ledger.read(tmp_path / "l.db") as ledger:
        kill(KILLED, str(tmp_path / "index.html"), ledger.owner)
    assert gallery_of(tmp_path / "l.db", tmp_path, "Foxes") == (tmp_path / "index.html", None)
    assert parts(tmp_path) == []


@pytest.mark.slow
def test_a_command_with_nothing_left_to_do_removes_the_log_of_a_killed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed between its last item and the end; while another batch uses the ledger, the log stays."""
    (tmp_path / "foxes.txt").write_text("a fox")
    ledger, out = tmp_path / "l.db", tmp_path / "out"

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, emulator):
            service.append(emulator.url)
            await all_of(doitong.generate_many(["a fox"], ledger=ledger, out=out))

    service: list[str] = []
    test()
    monkeypatch.setenv("DOITONG_BASE_URL", service[0])
    command = ["batch", str(tmp_path / "foxes.txt"), "--out", str(out), "--ledger", str(ledger)]
    kill(KILLED_BATCH, str(ledger), service_of(service[0]))
    assert promises.log_of(ledger).exists()
    with closing(sqlite.lock(ledger)):
        assert doitong_command(command) == 0
        assert promises.log_of(ledger).exists()
    assert doitong_command(command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"foxes.txt", "out", "l.db", "l.db.lock"}


@pytest.mark.slow
def test_a_ledger_that_was_being_made_is_made_anew(tmp_path: Path) -> None:
    """Half a ledger beside it belongs to its path: there is no ledger yet that could say whose it is."""
    kill(KILLED_LEDGER, str(tmp_path / "l.db"))
    kill(KILLED_LEDGER, str(tmp_path / "other.db"))
    assert len(parts(tmp_path)) == 2

    @virtual
    async def test() -> None:
        await (await LedgerFile.open(tmp_path / "l.db", service="s")).close()

    test()
    [left] = parts(tmp_path)
    assert left.startswith(".other.db.")


def test_all_that_a_ledger_writes_has_its_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs and the page: whatever of them is left, its next run knows it."""
    usual: Callable[..., None] = os.link
    marks: list[str] = []

    def link(part: Path, name: Path) -> None:
        marks.append(part.name.removesuffix(".part").rpartition(".")[2][:12])
        usual(part, name)

    monkeypatch.setattr(os, "link", link)

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, _):
            await all_of(doitong.generate_many(["a", "b"], ledger=tmp_path / "l.db", out=tmp_path))

    test()
    assert gallery_of(tmp_path / "l.db", tmp_path, "Foxes") == (tmp_path / "index.html", None)
    with Ledger.read(tmp_path / "l.db") as ledger:
        assert marks == [ledger.owner] * 3


def test_what_has_no_owner_is_nobody_s_to_remove(tmp_path: Path) -> None:
    """It may be a download of somebody else, on a file system without locks."""
    (tmp_path / f".fox.jpg.{new_owner()}.part").touch()
    remove_leftovers(tmp_path, "")
    assert len(parts(tmp_path)) == 1


@virtual
async def test_each_ledger_has_an_owner_s_mark_that_stays(tmp_path: Path) -> None:
    """Also where the folder is moved."""
    marks = set()
    for name in ("a.db", "b.db", "a.db"):
        ledger = await LedgerFile.open(tmp_path / name, service="s")
        marks.add(ledger.owner)
        await ledger.close()
    assert len(marks) == 2
    (tmp_path / "a.db").rename(tmp_path / "c.db")
    with Ledger.read(tmp_path / "c.db") as moved:
        assert moved.owner in marks
