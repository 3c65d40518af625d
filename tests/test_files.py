"""Files on disk are written whole or not at all, under names that no id can make dangerous."""

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
    """Yield some chunks, then raise an error if one is given."""
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


class TestWriteWhole:
    @pytest.mark.asyncio
    @pytest.mark.parametrize("chunks", [[], [b""], [b"one"], [b"one", b"", b"two"], [b"x" * 3_000_000] * 2])
    async def test_all_chunks_are_written(self, tmp_path: Path, chunks: list[bytes]) -> None:
        """In order, however many and however large, and the folder holds nothing else."""
        await write_whole(tmp_path / "fox.jpg", chunks_of(*chunks))
        assert (tmp_path / "fox.jpg").read_bytes() == b"".join(chunks)
        assert names_in(tmp_path) == ["fox.jpg"]

    @pytest.mark.asyncio
    async def test_the_old_file_stays_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        """A reader in between gets the old bytes, never half of the new ones."""
        target = tmp_path / "fox.jpg"
        target.write_bytes(b"old")
        seen: list[bytes] = []

        async def observing() -> AsyncIterator[bytes]:
            for chunk in (b"n", b"ew"):
                yield chunk
                seen.append(target.read_bytes())

        await write_whole(target, observing())
        assert (seen, target.read_bytes()) == ([b"old", b"old"], b"new")

    @pytest.mark.asyncio
    async def test_the_name_is_unused_until_the_file_is_whole(self, tmp_path: Path) -> None:
        """The unfinished file is a hidden one beside it."""
        seen: list[list[str]] = []

        async def observing() -> AsyncIterator[bytes]:
            yield b"new"
            seen.append(names_in(tmp_path))
            yield b"er"

        await write_whole(tmp_path / "fox.jpg", observing())
        [[part]] = seen
        assert part.startswith(".fox.jpg.")
        assert part.endswith(".part")

    @pytest.mark.asyncio
    @pytest.mark.parametrize("old", [None, b"old"])
    async def test_an_error_of_the_source_leaves_nothing_behind(
        self, tmp_path: Path, old: bytes | None
    ) -> None:
        """The source's own error comes out, and an earlier file stays."""
        target = tmp_path / "fox.jpg"
        if old is not None:
            target.write_bytes(old)
        broken = RuntimeError("the connection broke")
        with pytest.raises(RuntimeError) as caught:
            await write_whole(target, chunks_of(b"half", then=broken))
        assert caught.value is broken
        assert names_in(tmp_path) == ([] if old is None else ["fox.jpg"])
        assert old is None or target.read_bytes() == old

    @pytest.mark.asyncio
    async def test_a_cancel_while_waiting_for_bytes_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """The caller finds the folder clean at once."""
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
        """No thread runs on alone: the call ends after the disk has answered, with or without an error."""
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
        # At the last step the file may have become whole, but never half of it is there.
        assert names_in(tmp_path) == ([] if fails else ["fox.jpg"])
        assert complaints == []

    @pytest.mark.asyncio
    async def test_a_second_cancel_does_not_leave_the_writer_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An impatient Ctrl-C while the file is being opened leaves no part file."""
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
    async def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        """It names the path and the system's reason; no folder is silently created."""
        target = tmp_path / "nowhere" / "fox.jpg"
        with pytest.raises(DownloadError, match=r"fox\.jpg cannot be written: No such file or directory"):
            await write_whole(target, chunks_of(b"x"))
        assert names_in(tmp_path) == []

    @pytest.mark.asyncio
    async def test_a_file_in_the_place_of_the_folder_is_an_error(self, tmp_path: Path) -> None:
        """The file stays as it was."""
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(DownloadError, match="Not a directory") as caught:
            await write_whole(tmp_path / "file" / "fox.jpg", chunks_of(b"x"))
        assert isinstance(caught.value.__cause__, NotADirectoryError)
        assert (tmp_path / "file").read_bytes() == b"old"

    @pytest.mark.asyncio
    async def test_a_folder_in_the_place_of_the_file_is_an_error(self, tmp_path: Path) -> None:
        """It is found at the last step, and the finished part file is removed."""
        (tmp_path / "fox.jpg").mkdir()
        with pytest.raises(DownloadError, match="cannot be written"):
            await write_whole(tmp_path / "fox.jpg", chunks_of(b"x"))
        assert names_in(tmp_path) == ["fox.jpg"]

    @pytest.mark.asyncio
    async def test_a_full_disk_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """/dev/full replaces the part file, so the write itself fails as on a full disk."""
        target = tmp_path / "fox.jpg"
        target.write_bytes(b"old")
        plain_open: Callable[..., object] = Path.open

        def on_a_full_disk(path: Path, mode: str, **options: int) -> object:
            plain_open(path, mode).close()  # type: ignore[attr-defined]  # it does stand there until it is discarded
            return plain_open(Path("/dev/full"), "wb", **options)

        monkeypatch.setattr(Path, "open", on_a_full_disk)
        with pytest.raises(DownloadError, match=r"fox\.jpg cannot be written: No space left on device"):
            await write_whole(target, chunks_of(b"x" * 3_000_000))
        monkeypatch.undo()
        assert names_in(tmp_path) == ["fox.jpg"]
        assert target.read_bytes() == b"old"

    @pytest.mark.asyncio
    @pytest.mark.parametrize("name", ["f" * 255, "狐" * 80 + ".jpg", "🦊" * 62 + ".jpg"])
    async def test_the_longest_names_can_be_written(self, tmp_path: Path, name: str) -> None:
        """The hidden part file needs no longer name than the file itself may have (255 bytes)."""
        await write_whole(tmp_path / name, chunks_of(b"x"))
        assert names_in(tmp_path) == [name]

    @pytest.mark.asyncio
    async def test_a_file_has_the_permissions_of_any_new_file(self, tmp_path: Path) -> None:
        """The user's umask sets them, unlike those of a private temporary file."""
        (tmp_path / "plain").write_bytes(b"")
        await write_whole(tmp_path / "fox.jpg", chunks_of(b"x"))
        assert (tmp_path / "fox.jpg").stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.asyncio
    async def test_two_writers_of_one_name_do_not_mix(self, tmp_path: Path) -> None:
        """One of them is last, and the file is whole either way."""
        target = tmp_path / "fox.jpg"
        await asyncio.gather(*(write_whole(target, chunks_of(*[letter] * 3)) for letter in (b"a", b"b")))
        assert target.read_bytes() in (b"aaa", b"bbb")
        assert names_in(tmp_path) == ["fox.jpg"]


async def pieces_of(*pieces: Start | bytes) -> AsyncIterator[Start | bytes]:
    """Yield starts and bytes."""
    for piece in pieces:
        yield piece


class TestRestarts:
    @pytest.mark.asyncio
    async def test_a_start_discards_earlier_bytes(self, tmp_path: Path) -> None:
        """Bytes, length, hash and suffix are those since the last start."""
        pieces = pieces_of(Start(".png"), b"x" * 3_000_000, b"y", Start(".jpg"), b"new")
        written = await write_whole(lambda suffix: tmp_path / f"fox{suffix}", pieces)
        assert (written.path, written.length) == (tmp_path / "fox.jpg", 3)
        assert written.sha256 == hashlib.sha256(b"new").hexdigest()
        assert names_in(tmp_path) == ["fox.jpg"]
        assert written.path.read_bytes() == b"new"

    @pytest.mark.asyncio
    async def test_a_start_alone_is_an_empty_file(self, tmp_path: Path) -> None:
        """It also discards earlier bytes."""
        await write_whole(tmp_path / "a", pieces_of(Start(""), b"x", Start("")))
        assert (tmp_path / "a").read_bytes() == b""


class TestExistingTargets:
    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "kind", ["device", "pipe", "socket", "folder", "link to a pipe", "link in a circle"]
    )
    async def test_a_target_that_is_no_file_is_an_error_and_stays(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error comes before anything is fetched."""
        # The name of a socket may be no longer than 107 bytes.
        monkeypatch.chdir(tmp_path)
        target = Path("/dev/null") if kind == "device" else Path("there")
        with socket.socket(socket.AF_UNIX) as listening:
            match kind:
                case "pipe":
                    os.mkfifo(target)
                case "socket":
                    listening.bind(str(target))
                case "folder":
                    target.mkdir()
                case "link to a pipe":
                    os.mkfifo("pipe")
                    target.symlink_to("pipe")
                case "link in a circle":
                    target.symlink_to("there")
        before, beside = os.lstat(target), names_in(tmp_path)

        never = chunks_of(then=AssertionError("it was asked for"))
        reason = {"folder": "Is a directory", "link in a circle": "symbolic links"}.get(
            kind, "a device, a pipe or"
        )
        with pytest.raises(DownloadError, match=f"cannot be written: .*{reason}"):
            await write_whole(target, never)
        assert os.path.samestat(os.lstat(target), before)
        assert names_in(tmp_path) == beside

    @pytest.mark.asyncio
    @pytest.mark.parametrize("is_there", [True, False])
    async def test_a_link_is_followed(self, tmp_path: Path, is_there: bool) -> None:
        """Through other links to its target; the file is written beside the target, whole or not at all."""
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "second").symlink_to("fox.jpg")
        (tmp_path / "first").symlink_to(Path("far") / "second")
        if is_there:
            (tmp_path / "far" / "fox.jpg").write_bytes(b"old")
        seen: list[list[str]] = []

        async def observing() -> AsyncIterator[bytes]:
            yield b"new"
            seen.append(names_in(tmp_path / "far"))

        written = await write_whole(tmp_path / "first", observing())
        assert written.path == tmp_path / "first"
        assert (tmp_path / "first").is_symlink()
        assert (tmp_path / "far" / "second").is_symlink()
        assert (tmp_path / "far" / "fox.jpg").read_bytes() == b"new"
        assert not (tmp_path / "far" / "fox.jpg").is_symlink()
        assert any(name.endswith(".part") for name in seen[0])
        assert names_in(tmp_path / "far") == ["fox.jpg", "second"]

    @pytest.mark.asyncio
    async def test_replaces_false_leaves_an_existing_file_alone(self, tmp_path: Path) -> None:
        """The same bytes are the same file; another file, or a link, belongs to somebody else."""
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
    async def test_a_folder_without_permission_is_an_error(self, tmp_path: Path, taker: str) -> None:
        """Without the permission to search it, or to write in it."""
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
    async def test_a_thread_that_cannot_start_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the pool accepts the work nevertheless and does it later, that leaves no file."""
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
        """Some file systems allow no more than 143 bytes."""
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
    def test_an_odd_id_is_cleaned(self, job_id: str, begins: str) -> None:
        """Eight digits of a hash keep names apart after characters are replaced."""
        name = safe_name(job_id, ".jpg")
        assert name.startswith(begins)
        assert len(name) == len(begins) + 8 + len(".jpg")

    @pytest.mark.parametrize("job_id", ["CON", "nul", "Com1", "LPT9"])
    def test_a_name_that_windows_reserves_is_not_used(self, job_id: str) -> None:
        """There they are devices, whatever the suffix."""
        assert safe_name(job_id, ".jpg").startswith(f"{job_id}-")

    @settings(deadline=None, max_examples=200)
    @given(ids)
    def test_no_id_leaves_the_folder(self, job_id: str) -> None:
        """No separator, no leading dot, no second dot, never longer than a file system allows."""
        name = safe_name(job_id, ".jpg")
        assert Path(name).name == name
        assert not set(name) & set("/\\:\0")
        assert not name.startswith(".")
        assert name.count(".") == 1
        assert len(name.encode()) <= 128

    @pytest.mark.slow
    @settings(deadline=None, max_examples=200)
    @given(st.lists(ids | st.text("ab/._", min_size=1, max_size=4), unique=True, min_size=2))
    def test_different_ids_have_different_names(self, job_ids: list[str]) -> None:
        """No job's output overwrites another's."""
        assert len({safe_name(job_id, ".jpg") for job_id in job_ids}) == len(job_ids)

    def test_long_ids_are_cut_and_still_differ(self) -> None:
        """The eight digits depend on the part that was cut off."""
        assert safe_name("a" * 101, "") != safe_name("a" * 102, "") != safe_name("a" * 100, "")
