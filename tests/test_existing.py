"""Files that exist already: who replaces them, and two writers of one name."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doitong_async import files
from doitong_async.errors import DownloadError
from doitong_async.files import Existing, Part, is_of_another, safe_name, write_whole

WRITERS = 8


@pytest.fixture(params=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and one without, such as FAT."""

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param == "no hard links":
        monkeypatch.setattr(os, "link", link)


def write(
    target: Path,
    existing: Existing,
    data: bytes,
    ready: threading.Barrier | None = None,
    *,
    owner: str = "",
) -> Path:
    """Write a file in this thread; all writers end at the same moment."""
    part = Part(target, existing=existing, owner=owner)
    try:
        part.write(data)
        if ready is not None:
            ready.wait()
        part.finish()
    finally:
        part.discard()
    return part.target


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("existing", [Existing.KEEP, Existing.ADOPT])
def test_of_two_writers_of_one_name_each_gets_a_file(tmp_path: Path, existing: Existing) -> None:
    """Whoever comes second takes the next name, however close they are."""
    for number in range(10):
        folder, ready = tmp_path / str(number), threading.Barrier(WRITERS)
        folder.mkdir()
        with ThreadPoolExecutor(WRITERS) as threads:
            writers = [
                threads.submit(write, folder / "fox.jpg", existing, bytes([65 + nth]) * 10, ready)
                for nth in range(WRITERS)
            ]
            paths = [writer.result() for writer in writers]
        names = {"fox.jpg", *(f"fox.{nth}.jpg" for nth in range(2, WRITERS + 1))}
        assert {path.name for path in folder.iterdir()} == {path.name for path in paths} == names
        assert [path.read_bytes() for path in paths] == [bytes([65 + nth]) * 10 for nth in range(WRITERS)]


@pytest.mark.usefixtures("links")
def test_what_is_kept_is_kept_whatever_it_is(tmp_path: Path) -> None:
    """The same bytes, a link to nowhere, a folder: none of them is this writer's."""
    (tmp_path / "fox.jpg").write_bytes(b"fox")
    (tmp_path / "fox.2.jpg").symlink_to("nowhere")
    (tmp_path / "fox.3.jpg").mkdir()
    assert write(tmp_path / "fox.jpg", Existing.KEEP, b"fox").name == "fox.4.jpg"
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize(
    ("old", "name"), [(b"fo", "fox.jpg"), (b"fox", "fox.jpg"), (b"fax", "fox.2.jpg"), (b"", "fox.2.jpg")]
)
def test_only_what_is_the_beginning_of_a_file_is_adopted(tmp_path: Path, old: bytes, name: str) -> None:
    """Replacing it loses nothing; any other byte is somebody's, and an empty file may be a claim."""
    (tmp_path / "fox.jpg").write_bytes(old)
    assert write(tmp_path / "fox.jpg", Existing.ADOPT, b"fox").name == name


@pytest.mark.usefixtures("links")
def test_what_another_owner_wrote_is_not_adopted(tmp_path: Path) -> None:
    """Not even if it has the same bytes; what this owner wrote is."""
    own, other = "0" * 11 + "1", "0" * 11 + "2"
    fox = write(tmp_path / "fox.jpg", Existing.KEEP, b"fox", owner=other)
    assert fox.name == "fox.jpg"
    assert write(tmp_path / "fox.jpg", Existing.KEEP, b"fox", owner=own).name == "fox.2.jpg"
    assert write(tmp_path / "fox.jpg", Existing.ADOPT, b"fox", owner=own).name == "fox.2.jpg"
    assert write(tmp_path / "fox.jpg", Existing.ADOPT, b"fox", owner=other).name == "fox.jpg"
    assert len(os.listdir(tmp_path)) == 2


def test_a_file_without_a_mark_may_be_anybody_s(tmp_path: Path) -> None:
    """A file system, or a program that copied it, kept no exact time."""
    fox = write(tmp_path / "fox.jpg", Existing.KEEP, b"fox", owner="0" * 11 + "2")
    marked = fox.stat().st_mtime_ns
    for coarse in (1_000, 1_000_000, 1_000_000_000):
        os.utime(fox, ns=(marked, marked // coarse * coarse))
        assert not is_of_another(fox, "0" * 11 + "1")
    os.utime(fox, ns=(marked, marked // 100 * 100))
    assert is_of_another(fox, "0" * 11 + "1")


@pytest.mark.parametrize(
    ("written_at", "marked"), [(5_000_002_700, 5_000_002_700), (5_000_002_699, 4_000_002_700)]
)
def test_a_mark_sets_the_time_back_by_less_than_a_second(
    tmp_path: Path, written_at: int, marked: int
) -> None:
    """No file comes from the future."""
    (tmp_path / "fox.jpg").touch()
    os.utime(tmp_path / "fox.jpg", ns=(0, written_at))
    files._mark(tmp_path / "fox.jpg", "0" * 11 + "2")
    assert (tmp_path / "fox.jpg").stat().st_mtime_ns == marked


@pytest.mark.asyncio
@pytest.mark.usefixtures("links")
async def test_a_disk_that_fails_at_the_last_step_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the temporary file nor an empty claim."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"fox"

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(DownloadError, match="No space left"):
        await write_whole(tmp_path / "fox.jpg", chunks(), existing=Existing.KEEP)
    assert os.listdir(tmp_path) == []


def test_a_job_s_id_is_no_reserved_name() -> None:
    """The list is the same for a batch's items and for the jobs that are saved in a folder."""
    assert {safe_name(name, ".db") for name in ("index", "ledger", "nul")}.isdisjoint(
        {"index.db", "ledger.db", "nul.db"}
    )
