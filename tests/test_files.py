"""Bytes to disk, whole or not at all; and a name that an id cannot make dangerous."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.errors import DownloadError
from doitong_async.files import Existing, Part, Start, safe_name, write_whole


async def chunks_of(*chunks: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    """Give some chunks, and then perhaps an error."""
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


def names_in(folder: Path) -> list[str]:
    """Return what stands in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


class TestWriteWhole:
    @pytest.mark.asyncio
    @pytest.mark.parametrize("chunks", [[], [b""], [b"one"], [b"one", b"", b"two"], [b"x" * 3_000_000] * 2])
    async def test_all_chunks_are_written(self, tmp_path: Path, chunks: list[bytes]) -> None:
        """In order, however many and however large; and nothing else stands in the folder."""
        await write_whole(tmp_path / "fox.jpg", chunks_of(*chunks))
        assert (tmp_path / "fox.jpg").read_bytes() == b"".join(chunks)
        assert names_in(tmp_path) == ["fox.jpg"]

    @pytest.mark.asyncio
    async def test_the_old_file_stays_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        """Whoever reads in between reads the old bytes, never half of the new."""
        place = tmp_path / "fox.jpg"
        place.write_bytes(b"old")
        seen: list[bytes] = []

        async def watching() -> AsyncIterator[bytes]:
            for chunk in (b"n", b"ew"):
                yield chunk
                seen.append(place.read_bytes())

        await write_whole(place, watching())
        assert (seen, place.read_bytes()) == ([b"old", b"old"], b"new")

    @pytest.mark.asyncio
    async def test_nothing_stands_under_the_name_until_it_is_whole(self, tmp_path: Path) -> None:
        """The unfinished file is a hidden one beside it."""
        seen: list[list[str]] = []

        async def watching() -> AsyncIterator[bytes]:
            yield b"new"
            seen.append(names_in(tmp_path))
            yield b"er"

        await write_whole(tmp_path / "fox.jpg", watching())
        [[part]] = seen
        assert part.startswith(".fox.jpg.")
        assert part.endswith(".part")

    @pytest.mark.asyncio
    @pytest.mark.parametrize("old", [None, b"old"])
    async def test_an_error_of_the_source_leaves_nothing_behind(
        self, tmp_path: Path, old: bytes | None
    ) -> None:
        """The error is the source's own, and what stood there before stays."""
        place = tmp_path / "fox.jpg"
        if old is not None:
            place.write_bytes(old)
        broken = RuntimeError("the connection broke")
        with pytest.raises(RuntimeError) as caught:
            await write_whole(place, chunks_of(b"half", then=broken))
        assert caught.value is broken
        assert names_in(tmp_path) == ([] if old is None else ["fox.jpg"])
        assert old is None or place.read_bytes() == old

    @pytest.mark.asyncio
    async def test_a_cancel_while_waiting_for_bytes_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """And whoever cancelled finds the folder clean at once."""
        waiting = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"half"
            waiting.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(write_whole(tmp_path / "fox.jpg", endless()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names_in(tmp_path) == []

    @pytest.mark.asyncio
    @pytest.mark.parametrize("fails", [False, True])
    async def test_a_cancel_while_writing_waits_for_the_writer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
    ) -> None:
        """No thread goes on alone: the call ends once the disk has answered, well or not."""
        loop = asyncio.get_running_loop()
        syncing, disk = asyncio.Event(), threading.Event()

        def slow_disk(_: int) -> None:
            loop.call_soon_threadsafe(syncing.set)
            assert disk.wait(300)
            if fails:
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", slow_disk)
        complaints: list[object] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = asyncio.create_task(write_whole(tmp_path / "fox.jpg", chunks_of(b"whole")))
        await syncing.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        disk.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        # On the last step the file may have become whole; half of it is never there.
        assert names_in(tmp_path) == ([] if fails else ["fox.jpg"])
        assert complaints == []

    @pytest.mark.asyncio
    async def test_a_second_cancel_does_not_leave_the_writer_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An impatient Ctrl-C while the file is being opened leaves no part behind."""
        loop = asyncio.get_running_loop()
        opening, disk = asyncio.Event(), threading.Event()
        plain_open: Callable[..., object] = Path.open

        def slow_open(path: Path, *args: object, **options: object) -> object:
            loop.call_soon_threadsafe(opening.set)
            assert disk.wait(300)
            return plain_open(path, *args, **options)

        monkeypatch.setattr(Path, "open", slow_open)
        task = asyncio.create_task(write_whole(tmp_path / "fox.jpg", chunks_of(b"whole")))
        await opening.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        disk.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert names_in(tmp_path) == []

    @pytest.mark.asyncio
    async def test_a_missing_folder_is_said(self, tmp_path: Path) -> None:
        """With the path that was asked for and what the system said; no folder is made in silence."""
        place = tmp_path / "nowhere" / "fox.jpg"
        with pytest.raises(DownloadError, match=r"fox\.jpg cannot be written: No such file or directory"):
            await write_whole(place, chunks_of(b"x"))
        assert names_in(tmp_path) == []

    @pytest.mark.asyncio
    async def test_a_folder_that_is_a_file_is_said(self, tmp_path: Path) -> None:
        """It stays the file that it was."""
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(DownloadError, match="Not a directory") as caught:
            await write_whole(tmp_path / "file" / "fox.jpg", chunks_of(b"x"))
        assert isinstance(caught.value.__cause__, NotADirectoryError)
        assert (tmp_path / "file").read_bytes() == b"old"

    @pytest.mark.asyncio
    async def test_a_folder_in_its_place_is_said(self, tmp_path: Path) -> None:
        """Found at the last step; the part that was whole already goes too."""
        (tmp_path / "fox.jpg").mkdir()
        with pytest.raises(DownloadError, match="cannot be written"):
            await write_whole(tmp_path / "fox.jpg", chunks_of(b"x"))
        assert names_in(tmp_path) == ["fox.jpg"]

    @pytest.mark.asyncio
    async def test_a_full_disk_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The device that is always full stands in for the part: the write itself fails, as it would."""
        place = tmp_path / "fox.jpg"
        place.write_bytes(b"old")
        plain_open: Callable[..., object] = Path.open

        def on_a_full_disk(path: Path, mode: str, **options: int) -> object:
            plain_open(path, mode).close()  # type: ignore[attr-defined]  # it does stand there until it is discarded
            return plain_open(Path("/dev/full"), "wb", **options)

        monkeypatch.setattr(Path, "open", on_a_full_disk)
        with pytest.raises(DownloadError, match=r"fox\.jpg cannot be written: No space left on device"):
            await write_whole(place, chunks_of(b"x" * 3_000_000))
        monkeypatch.undo()
        assert names_in(tmp_path) == ["fox.jpg"]
        assert place.read_bytes() == b"old"

    @pytest.mark.asyncio
    @pytest.mark.parametrize("name", ["f" * 255, "狐" * 80 + ".jpg", "🦊" * 62 + ".jpg"])
    async def test_the_longest_names_can_be_written(self, tmp_path: Path, name: str) -> None:
        """The hidden part needs no longer name than the file itself may have (255 bytes)."""
        await write_whole(tmp_path / name, chunks_of(b"x"))
        assert names_in(tmp_path) == [name]

    @pytest.mark.asyncio
    async def test_a_file_has_the_rights_of_any_new_file(self, tmp_path: Path) -> None:
        """Those that the user's umask leaves, not those of a private temporary file."""
        (tmp_path / "plain").write_bytes(b"")
        await write_whole(tmp_path / "fox.jpg", chunks_of(b"x"))
        assert (tmp_path / "fox.jpg").stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.asyncio
    async def test_two_writers_of_one_name_do_not_mix(self, tmp_path: Path) -> None:
        """One of them is last; the file is whole whichever it is."""
        place = tmp_path / "fox.jpg"
        await asyncio.gather(*(write_whole(place, chunks_of(*[letter] * 3)) for letter in (b"a", b"b")))
        assert place.read_bytes() in (b"aaa", b"bbb")
        assert names_in(tmp_path) == ["fox.jpg"]


async def pieces_of(*pieces: Start | bytes) -> AsyncIterator[Start | bytes]:
    """Give starts and bytes."""
    for piece in pieces:
        yield piece


class TestBeginningAnew:
    @pytest.mark.asyncio
    async def test_what_came_before_a_start_is_void(self, tmp_path: Path) -> None:
        """Bytes, length and hash are those since the last one; so is the ending."""
        pieces = pieces_of(Start(".png"), b"x" * 3_000_000, b"y", Start(".jpg"), b"new")
        written = await write_whole(lambda suffix: tmp_path / f"fox{suffix}", pieces)
        assert (written.path, written.length) == (tmp_path / "fox.jpg", 3)
        assert written.sha256 == hashlib.sha256(b"new").hexdigest()
        assert names_in(tmp_path) == ["fox.jpg"]
        assert written.path.read_bytes() == b"new"

    @pytest.mark.asyncio
    async def test_a_start_alone_is_an_empty_file(self, tmp_path: Path) -> None:
        """And takes back what was written."""
        await write_whole(tmp_path / "a", pieces_of(Start(""), b"x", Start("")))
        assert (tmp_path / "a").read_bytes() == b""


class TestWhatStandsThere:
    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "kind", ["device", "pipe", "socket", "folder", "link to a pipe", "link in a circle"]
    )
    async def test_what_is_no_file_is_refused_and_stays(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before anything is fetched: nothing of it is asked for."""
        # The name of a socket may be no longer than 107 bytes.
        monkeypatch.chdir(tmp_path)
        place = Path("/dev/null") if kind == "device" else Path("there")
        with socket.socket(socket.AF_UNIX) as listening:
            match kind:
                case "pipe":
                    os.mkfifo(place)
                case "socket":
                    listening.bind(str(place))
                case "folder":
                    place.mkdir()
                case "link to a pipe":
                    os.mkfifo("pipe")
                    place.symlink_to("pipe")
                case "link in a circle":
                    place.symlink_to("there")
        before, beside = os.lstat(place), names_in(tmp_path)

        never = chunks_of(then=AssertionError("it was asked for"))
        reason = {"folder": "Is a directory", "link in a circle": "symbolic links"}.get(
            kind, "a device, a pipe or"
        )
        with pytest.raises(DownloadError, match=f"cannot be written: .*{reason}"):
            await write_whole(place, never)
        assert os.path.samestat(os.lstat(place), before)
        assert names_in(tmp_path) == beside

    @pytest.mark.asyncio
    @pytest.mark.parametrize("is_there", [True, False])
    async def test_a_link_is_followed(self, tmp_path: Path, is_there: bool) -> None:
        """To its end, over other links; the file is written beside that end, whole or not at all."""
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "second").symlink_to("fox.jpg")
        (tmp_path / "first").symlink_to(Path("far") / "second")
        if is_there:
            (tmp_path / "far" / "fox.jpg").write_bytes(b"old")
        seen: list[list[str]] = []

        async def watching() -> AsyncIterator[bytes]:
            yield b"new"
            seen.append(names_in(tmp_path / "far"))

        written = await write_whole(tmp_path / "first", watching())
        assert written.path == tmp_path / "first"
        assert (tmp_path / "first").is_symlink()
        assert (tmp_path / "far" / "second").is_symlink()
        assert (tmp_path / "far" / "fox.jpg").read_bytes() == b"new"
        assert not (tmp_path / "far" / "fox.jpg").is_symlink()
        assert any(name.endswith(".part") for name in seen[0])
        assert names_in(tmp_path / "far") == ["fox.jpg", "second"]

    @pytest.mark.asyncio
    async def test_a_file_that_is_not_to_be_replaced_is_left_alone(self, tmp_path: Path) -> None:
        """A file of the same bytes is the same file; of others it is somebody's, and so is a link."""
        (tmp_path / "fox.jpg").write_bytes(b"old")
        (tmp_path / "fox.2.jpg").symlink_to("fox.3.jpg")
        (tmp_path / "fox.3.jpg").write_bytes(b"new")
        (tmp_path / "fox.4.jpg").mkdir()
        written = await write_whole(tmp_path / "fox.jpg", chunks_of(b"new"), existing=Existing.ADOPT)
        assert written.path == tmp_path / "fox.3.jpg"
        written = await write_whole(tmp_path / "fox.jpg", chunks_of(b"NEW"), existing=Existing.ADOPT)
        assert written.path == tmp_path / "fox.5.jpg"
        assert (tmp_path / "fox.jpg").read_bytes() == b"old"

    @pytest.mark.asyncio
    @pytest.mark.parametrize("taker", ["searched", "written"])
    async def test_a_folder_without_the_right_is_said(self, tmp_path: Path, taker: str) -> None:
        """One that may not be searched, and one that may not be written."""
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o000 if taker == "searched" else 0o555)
        tmp_path.parent.parent.chmod(0o755)
        tmp_path.parent.chmod(0o755)
        tmp_path.chmod(0o755)
        me = os.geteuid()
        try:
            if me == 0:
                os.seteuid(65_534)
            with pytest.raises(DownloadError, match="Permission denied") as caught:
                await write_whole(folder / "fox.jpg", chunks_of(b"x"))
        finally:
            os.seteuid(me)
            folder.chmod(0o755)
        assert isinstance(caught.value.__cause__, PermissionError)
        assert names_in(folder) == []


class TestThreads:
    @pytest.mark.asyncio
    async def test_a_thread_that_cannot_be_started_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What its pool takes on all the same, and does later, leaves no file behind."""
        late: list[Callable[[], object]] = []

        def no_thread(_: object, work: Callable[[], object]) -> None:
            late.append(work)
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", no_thread)
        for number in range(2):
            with pytest.raises(DownloadError, match="can't start new thread") as caught:
                await write_whole(
                    (lambda _: tmp_path / "fox.jpg") if number else tmp_path / "fox.jpg",
                    pieces_of(Start(""), b"x"),
                )
            assert isinstance(caught.value.__cause__, OSError)
        monkeypatch.undo()
        part = Part(tmp_path / "fox.jpg", existing=Existing.REPLACE)
        part.discard()
        for work in (*late, part.open, lambda: part.write(b"x"), part.finish):
            work()
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize("name", ["f" * 255, "狐" * 85, "🦊" * 60, "a" * 39 + "狐", "\udcff" * 99])
    def test_the_name_of_a_part_fits_where_names_are_short(self, tmp_path: Path, name: str) -> None:
        """Some file systems take no more than 143 bytes."""
        part = Part(tmp_path / name, existing=Existing.REPLACE)
        part.open()
        [made] = names_in(tmp_path)
        assert len(os.fsencode(made)) <= 60
        part.discard()
        assert names_in(tmp_path) == []


ids = st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable())


class TestSafeName:
    @pytest.mark.parametrize("job_id", ["abc123xyz", "A-b_9", "a" * 100])
    def test_a_plain_id_stays_as_it_is(self, job_id: str) -> None:
        """The usual case is readable."""
        assert safe_name(job_id, ".jpg") == f"{job_id}.jpg"

    @pytest.mark.parametrize(
        ("job_id", "begins"),
        [
            ("../../etc/passwd", "______etc_passwd-"),
            (".hidden", "_hidden-"),
            ("a\\b:c", "a_b_c-"),
            ("狐", "_-"),
        ],
    )
    def test_an_odd_id_is_made_plain(self, job_id: str, begins: str) -> None:
        """What was replaced is told apart by eight digits of its own."""
        name = safe_name(job_id, ".jpg")
        assert name.startswith(begins)
        assert len(name) == len(begins) + 8 + len(".jpg")

    @pytest.mark.parametrize("job_id", ["CON", "nul", "Com1", "LPT9"])
    def test_a_name_that_windows_keeps_is_not_used(self, job_id: str) -> None:
        """There they are devices, whatever ending follows."""
        assert safe_name(job_id, ".jpg").startswith(f"{job_id}-")

    @settings(deadline=None, max_examples=200)
    @given(ids)
    def test_no_id_leaves_the_folder(self, job_id: str) -> None:
        """No separator, no leading dot, no second dot, never longer than a file system takes."""
        name = safe_name(job_id, ".jpg")
        assert Path(name).name == name
        assert not set(name) & set("/\\:\0")
        assert not name.startswith(".")
        assert name.count(".") == 1
        assert len(name.encode()) <= 128

    @pytest.mark.slow
    @settings(deadline=None, max_examples=200)
    @given(st.lists(ids | st.text("ab/._", min_size=1, max_size=4), unique=True, min_size=2))
    def test_ids_that_differ_have_names_that_differ(self, job_ids: list[str]) -> None:
        """No job's output overwrites another's."""
        assert len({safe_name(job_id, ".jpg") for job_id in job_ids}) == len(job_ids)

    def test_long_ids_are_cut_and_still_differ(self) -> None:
        """The cut end counts in the eight digits."""
        assert safe_name("a" * 101, "") != safe_name("a" * 102, "") != safe_name("a" * 100, "")
