"""Reads the file of prompts of a batch, and finds its mistakes before anything is spent."""

from __future__ import annotations

import errno
import io
import json
import os
import sqlite3
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doitong_async.batch.source import read_item
from doitong_async.cli import lines as lines_of_files
from doitong_async.cli import prompts as reader
from doitong_async.cli.exits import CommandError, Exit
from doitong_async.cli.formats import Format
from doitong_async.cli.prompts import Checked, Prompts, open_prompts
from doitong_async.types import is_visible

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file and returns its name."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def opened(
    name: str,
    *,
    kind: str | None = None,
    limit: int | None = None,
    comments: bool = False,
    **defaults: object,
) -> Prompts:
    return open_prompts(name, format=kind, defaults=defaults, limit=limit, comments=comments)


def read(name: str, **more: Any) -> list[dict[str, Any]]:
    """Check a file and return its items; a second read must return the same."""
    with opened(name, **more) as prompts:
        assert prompts.check().items == len(list(prompts))
        return list(prompts)


def messages_of(name: str, **more: Any) -> list[str]:
    """Return the messages of a failed check: the summary, then one per bad line."""
    with opened(name, **more) as prompts, pytest.raises(CommandError) as caught:
        prompts.check()
    assert caught.value.end is Exit.USAGE
    assert str(caught.value) == "\n".join([caught.value.message, *caught.value.details])
    return [caught.value.message, *caught.value.details]


def feed(monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    """Replace standard input with this content."""
    data = content if isinstance(content, bytes) else content.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# Formats and fields


def test_one_prompt_per_line(write: Write) -> None:
    """Blank lines are skipped, prompts are stripped, and quotes and commas are ordinary characters."""
    name = write("prompts.txt", 'a red fox\n\n  "a cat", asleep \r\n\t\n{"not": "json"}\nlast')
    texts = ["a red fox", '"a cat", asleep', '{"not": "json"}', "last"]
    assert read(name) == [{"prompt": text} for text in texts]


@pytest.mark.parametrize("suffix", ["jsonl", "NDJSON"])
def test_one_object_per_line(write: Write, suffix: str) -> None:
    """JSONL may give every field in any order; null counts as absent."""
    lines = [
        {"key": "fox", "prompt": "a fox", "width": 512, "provider": None},
        {"input": {"text": "waves"}, "provider": "kling", "options": {"duration": 5}},
    ]
    name = write(f"prompts.{suffix}", "\n\n".join(map(json.dumps, lines)))
    assert read(name) == [{"key": "fox", "prompt": "a fox", "width": 512}, lines[1]]


def test_a_table_with_a_header(write: Write) -> None:
    """Numbers are parsed, input and options are JSON, an empty cell counts as absent, a row may be short."""
    name = write(
        "shots.CSV",
        "prompt, width,height,options,key\n"
        "a fox,512,,,fox 1\n"
        ",,,,\n"
        '"a cat, ""asleep""\nin the sun",,,"{""seed"": 7}",2024\n'
        "\n"
        "a dog\n",
    )
    assert read(name) == [
        {"prompt": "a fox", "width": 512, "key": "fox 1"},
        {"prompt": 'a cat, "asleep"\nin the sun', "options": {"seed": 7}, "key": "2024"},
        {"prompt": "a dog"},
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.txt", "größe 🦊"), ("p.jsonl", '{"prompt": "größe 🦊"}'), ("p.csv", "prompt\ngröße 🦊")],
)
def test_a_byte_order_mark_is_dropped(write: Write, name: str, content: str) -> None:
    """Some editors put one before UTF-8 text."""
    assert read(write(name, "\ufeff" + content)) == [{"prompt": "größe 🦊"}]


def test_a_given_format_overrides_the_suffix(write: Write) -> None:
    """The same file is read differently as CSV, lines or JSONL."""
    name = write("prompts.txt", "prompt\na fox\n")
    assert read(name, kind="csv") == [{"prompt": "a fox"}]
    assert read(name, kind="lines") == [{"prompt": "prompt"}, {"prompt": "a fox"}]
    assert read(write("p.csv", '{"prompt": "a fox"}'), kind="jsonl") == [{"prompt": "a fox"}]


def test_defaults_fill_absent_fields(write: Write) -> None:
    """They set a size only where a picture is made and the options give none."""
    lines: list[dict[str, Any]] = [
        {"prompt": "a"},
        {"prompt": "b", "provider": "flux-krea", "width": 256},
        {"prompt": "c", "provider": "kling"},
        {"prompt": "d", "provider": "kling", "type": "IMAGE"},
        {"prompt": "e", "options": {"height": 64}},
    ]
    name = write("p.jsonl", "\n".join(map(json.dumps, lines)))
    a, b, c, d, e = read(name, provider="flux-ultra", width=512, height=600)
    assert a == {"prompt": "a", "provider": "flux-ultra", "width": 512, "height": 600}
    assert b == {**lines[1], "height": 600}
    assert c == lines[2]
    assert d == {**lines[3], "width": 512, "height": 600}
    assert e == {**lines[4], "provider": "flux-ultra", "width": 512}
    assert read(name, provider="kling", width=512)[0] == {"prompt": "a", "provider": "kling"}
    assert read(name, provider=None) == lines


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.fixed_dictionaries(
        {"prompt": st.just("a fox")},
        optional={
            "provider": st.sampled_from(["flux-dev", "kling", "new"]),
            "type": st.sampled_from(["IMAGE", "VIDEO"]),
            "width": st.integers(1, 99),
            "options": st.sampled_from([{}, {"height": 5}]),
        },
    ),
    defaults=st.fixed_dictionaries(
        {},
        optional={
            "provider": st.sampled_from(["kling", "flux-krea"]),
            "width": st.just(7),
            "height": st.just(8),
        },
    ),
)
def test_defaults_work_as_in_the_client(write: Write, row: dict[str, Any], defaults: dict[str, Any]) -> None:
    """An item with defaults is sent as a client with the same defaults would send it."""
    (item,) = read(write("p.jsonl", json.dumps(row)), **defaults)
    sides = {side: defaults.get(side) for side in ("width", "height")}
    bare: dict[str, Any] = {"provider": "flux-pro", "width": None, "height": None}
    client = read_item(row)[1].with_defaults(provider=defaults.get("provider", "flux-pro"), **sides)
    assert read_item(item)[1].with_defaults(**bare) == client


def test_a_limit_applies_to_reading_not_to_the_check(write: Write) -> None:
    """Reading yields the first items; the check still finds a bad line after them."""
    name = write("p.txt", "a\nb\n\nc\n")
    assert read(name, limit=2) == [{"prompt": "a"}, {"prompt": "b"}]
    with opened(name, limit=2) as prompts:
        assert prompts.check() == Checked(items=2, total=3)
    with opened(name, limit=9) as prompts:
        assert prompts.check() == Checked(items=3, total=3)
    assert messages_of(write("p.jsonl", '{"prompt": "a"}\n7\n'), limit=1)[1].startswith("line 2: it is 7;")


def test_items_are_read_lazily_by_independent_readers(write: Write) -> None:
    """Two iterators over one file do not disturb each other, nor does one that stops early."""
    with opened(write("p.txt", "a\nb\nc\n")) as prompts:
        one, other = iter(prompts), iter(prompts)
        assert [next(one)["prompt"], next(other)["prompt"], next(one)["prompt"]] == ["a", "a", "b"]
        assert len(list(prompts)) == 3
        assert next(other)["prompt"] == "b"


# Standard input


def test_standard_input_can_be_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is spooled first and read as lines, or as JSONL if the first line is an object."""
    feed(monkeypatch, "a fox\n{a cat}\n")
    assert read("-") == [{"prompt": "a fox"}, {"prompt": "{a cat}"}]
    feed(monkeypatch, '\ufeff\n  {"prompt": "a fox"}\n')
    assert read("-") == [{"prompt": "a fox"}]
    feed(monkeypatch, "prompt\na fox")
    assert read("-", kind="csv") == [{"prompt": "a fox"}]
    feed(monkeypatch, b"\xff\n")
    assert "line 1: it is not UTF-8" in messages_of("-")[1]


def test_the_spool_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The directory of temporary files stays empty, even during the reading."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    feed(monkeypatch, "a fox\n")
    with opened("-") as prompts:
        prompts.check()
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed file"):
        list(prompts)


def test_an_empty_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names standard input."""
    feed(monkeypatch, "\n \n")
    assert messages_of("-") == ["The standard input has no prompt. Nothing was sent."]


def test_a_named_pipe_is_spooled(tmp_path: Path) -> None:
    """A shell's process substitution can be read once; the spool makes it readable repeatedly."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('{"prompt": "a fox"}\n'))
    writer.start()
    assert read(str(pipe)) == [{"prompt": "a fox"}]
    writer.join()


def test_a_full_disk_for_the_spool_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message says where standard input could not be copied, and what to do."""

    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    feed(monkeypatch, "a fox")
    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CommandError, match=rf"{tmp_path}: No space left on device\. .*Set TMPDIR") as caught:
        opened("-")
    assert "does not exist" not in caught.value.message


def test_a_missing_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was mistaken for a missing file of prompts; Python's text names the folders it tried."""

    def nowhere(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    feed(monkeypatch, "a fox")
    monkeypatch.setattr("tempfile.TemporaryFile", nowhere)
    with pytest.raises(CommandError, match=r"in \['/tmp', '/var/tmp'\]\. Nothing was sent\. Set TMPDIR"):
        opened("-")


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("p.txt", b"a fox\n\xff\xfe\n", "line 2: it is not UTF-8: invalid start byte at byte 0; save"),
        ("p.jsonl", '{"a"}', "line 1: it is not JSON: Expecting ':' delimiter at character 5; expected"),
        ("p.jsonl", "[" * 100_000, "line 1: it is not JSON: "),
        ("p.jsonl", '\n["a fox"]', 'line 2: it is ["a fox"]; expected an object such as {"prompt": "…"}.'),
        ("p.jsonl", '{"promt": "a"}', "line 1: There is no field 'promt'; did you mean 'prompt'?"),
        ("p.jsonl", '{"prompt": "a", "colour": null}', "line 1: There is no field 'colour'; expected some"),
        ("p.jsonl", '{"prompt": 7}', "line 1: prompt is 7; expected a text"),
        ("p.jsonl", '{"prompt": "a", "key": 7}', "line 1: key is 7; expected a printable text"),
        ("p.jsonl", '{"prompt": "\\ud800"}', "line 1: prompt cannot be sent as UTF-8"),
        ("p.jsonl", '{"prompt": "a", "options": {"x": NaN}}', "line 1: options cannot be written as JSON"),
        ("p.jsonl", '{"prompt": "a", "provider": ["a"], "type": {}}', "line 1: provider is ['a']; expected"),
        ("p.csv", "prompt,width\na,\nb,wide", "line 3: width is 'wide'; expected whole pixels"),
        ("p.csv", "prompt,width\na,-5", "line 2: width is -5; expected whole pixels"),
        ("p.csv", f"prompt,width\na,{'9' * 5000}", "line 2: width is '999"),
        ("p.csv", "prompt,width\n,512", "line 2: prompt is None; expected"),
        ("p.csv", "prompt,options\na,{", "line 2: options is not JSON: "),
        ("p.csv", "prompt,options\na,[]", "line 2: options is a list; expected a mapping"),
        ("p.csv", "prompt,width\na fox, red,5", "line 2: it has 3 cells, the header 2; put a cell"),
        ("p.csv", 'prompt\n"a\nb"\n"c\nd"e', "line 4: it is not CSV: "),
        ("p.csv", 'prompt\na\n"never closed\n', "line 3: it is not CSV: unexpected end of data."),
        (
            "p.txt",
            "a fox".encode("utf-16-le"),
            "line 1: it is not text: it holds the control character '\\x00'",
        ),
        ("p.txt", b"a fox\x1b[31m", "line 1: it is not text: it holds the control character '\\x1b'"),
        ("p.txt", "a fox\n\u200b\n", "line 2: prompt is '\\u200b'; expected a text"),
        (
            "p.jsonl",
            '{"prompt": "a", "prompt": "b"}',
            "line 1: it is not JSON: the name 'prompt' occurs twice",
        ),
        (
            "p.jsonl",
            '{"prompt": "a", "options": {"x": [{"y": 1, "y": 2}]}}',
            "line 1: it is not JSON: the name 'y'",
        ),
        (
            "p.csv",
            'prompt,options\na,"{""x"": 1, ""x"": 2}"',
            "line 2: options is not JSON: the name 'x' occurs",
        ),
        ("p.csv", b"prompt\na\n\xff\nb\n", "line 3: it is not UTF-8: "),
    ],
)
def test_a_bad_line_is_named(write: Write, name: str, content: str | bytes, line: str) -> None:
    """With its number, the mistake and what was expected; a row has the number of its first line."""
    found = messages_of(write(name, content))
    assert found[0].endswith(f"{name}: 1 line is wrong. Nothing was sent.")
    assert found[1].startswith(line)
    assert len(found[1]) < 350


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("promt,key", "There is no column 'promt'; did you mean 'prompt'?"),
        ("promt;key", "There is no column 'promt'; did you mean 'prompt'?"),
        ("prompt|key", "There is no column 'prompt|key'; "),
        ("prompt,,key", "There is no column ''; expected some of prompt"),
        ("prompt,key,prompt", "the column 'prompt' occurs twice; expected it once."),
        ('"prompt', "it is not CSV: unexpected end of data."),
    ],
)
def test_a_bad_header_is_the_only_message(write: Write, header: str, message: str) -> None:
    """Without it the rows mean nothing."""
    (found,) = messages_of(write("p.csv", f"\n{header}\na,b\n" if '"' not in header else f"\n{header}"))
    assert f"p.csv, line 2, the header: {message}" in found


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["p.csv", "p.txt", "p.tsv", "p"])
def test_a_table_is_known_by_its_header(write: Write, mark: str, name: str) -> None:
    """Otherwise each of its lines would be paid for as a prompt; some spreadsheets write semicolons."""
    rows = [["key", "prompt"], ["1", '"a red, red; fox"']]
    content = "".join(mark.join(row) + "\n" for row in rows)
    for text in (content, "\ufeff" + content, content.replace("key", '"key"')):
        assert read(write(name, text)) == [{"key": "1", "prompt": "a red, red; fox"}]


def test_a_table_on_standard_input_is_known_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no suffix."""
    feed(monkeypatch, 'key,prompt\n1,"a fox"\n')
    assert read("-") == [{"key": "1", "prompt": "a fox"}]


@pytest.mark.parametrize("line", ["a fox, a hen", "key", "version", "a key, a prompt", "prompt: a fox"])
def test_a_prompt_is_not_taken_for_a_header(write: Write, line: str) -> None:
    """A header has known columns only: several, or just the prompt."""
    assert read(write("p.txt", f"{line}\n")) == [{"prompt": line}]


def test_empty_columns_of_spreadsheets_are_ignored(write: Write) -> None:
    """Spreadsheets add empty columns and cells at the end."""
    assert read(write("p.csv", "prompt,key,,\na fox,1,,\na hen,2,,,,\n")) == [
        {"prompt": "a fox", "key": "1"},
        {"prompt": "a hen", "key": "2"},
    ]


def test_a_cell_may_be_as_long_as_a_line(write: Write) -> None:
    """Python's CSV limit of 131,072 characters does not apply, as JSONL has none."""
    long = "a" * 200_000
    assert read(write("p.csv", f'prompt\n"{long}"\n')) == [{"prompt": long}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("p.txt", ["a fox", "", "a hen"]),
        ("p.csv", ["prompt", "a fox", "a hen"]),
        ("p.jsonl", ['{"prompt": "a fox"}', '{"prompt": "a hen"}']),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 13])
def test_every_line_end_ends_a_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, end: str, name: str, lines: list[str], chunk: int
) -> None:
    """CR alone, as old Macs write it, ends a line too; CR LF may fall between two reads."""
    monkeypatch.setattr(lines_of_files, "_CHUNK", chunk)
    content = end.join(lines)
    for text in (content, content + end):
        assert read(write(name, text.encode())) == [{"prompt": "a fox"}, {"prompt": "a hen"}]


def test_line_numbers_match_an_editor(write: Write) -> None:
    """They count every kind of line end, mixed or not."""
    found = messages_of(write("p.jsonl", b'{"prompt": "a"}\r\r\n{"prompt": "b"}\nx\r\n'))
    assert found[1].startswith("line 4: it is not JSON")


COMMENTED = {
    "p.txt": "# foxes\na fox\n  # hens\na hen\n",
    "p.csv": '# foxes\nprompt\na fox\n"# hens"\na hen\n',
    "p.jsonl": '# foxes\n{"prompt": "a fox"}\n# hens\n{"prompt": "a hen"}\n',
}


@pytest.mark.parametrize("name", COMMENTED)
def test_comments_are_skipped_on_request(write: Write, name: str) -> None:
    """In every format."""
    with opened(write(name, COMMENTED[name]), comments=True) as prompts:
        assert prompts.check().total == 2
        assert list(prompts) == [{"prompt": "a fox"}, {"prompt": "a hen"}]
        assert prompts.seems_commented() is None


def test_a_first_line_like_a_comment_is_a_prompt_and_is_reported(write: Write) -> None:
    """The user may mean "#foxes"; otherwise the report comes before anything is paid."""
    with opened(write("p.txt", "\n#1 fox\na hen\n")) as prompts:
        assert [each["prompt"] for each in prompts] == ["#1 fox", "a hen"]
        assert prompts.seems_commented() == "#1 fox"
    with opened(write("q.txt", "a fox\n# a hen\n")) as prompts:
        assert prompts.seems_commented() is None


def test_ten_bad_lines_are_listed_and_all_are_counted(write: Write) -> None:
    """The messages about a wrong file fit on a screen."""
    found = messages_of(write("p.jsonl", '{"prompt": "a"}\n' + "x\n" * 1_234))
    assert found[0].endswith("1,234 lines are wrong; here are the first 10. Nothing was sent.")
    assert [line.partition(":")[0] for line in found[1:]] == [f"line {number}" for number in range(2, 12)]


def test_a_key_given_twice_is_named_with_both_lines(write: Write) -> None:
    """A key names one item; items without a key may repeat."""
    lines = [
        '{"prompt": "a", "key": "x"}',
        '{"prompt": "a"}',
        "",
        '{"prompt": "a"}',
        '{"prompt": "b", "key": "x"}',
    ]
    found = messages_of(write("p.jsonl", "\n".join(lines)))
    assert found[1:] == ["line 5: the key 'x' is already used on line 1; expected another one."]


def test_an_endless_line_is_rejected(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read into memory, and the lines after it are still checked."""
    monkeypatch.setattr(lines_of_files, "LONGEST_LINE", 8)
    found = messages_of(write("p.txt", "1234567\n12345678\n1234567812345678123\nlast"))
    expected = "it is longer than 8 bytes; expected a prompt."
    assert found[1:] == [f"line 2: {expected}", f"line 3: {expected}"]


def test_a_file_without_prompts_is_an_error(write: Write) -> None:
    """A header alone, blank lines, or nothing at all."""
    for name, content in (("p.csv", "prompt,key\n,\n"), ("p.txt", "\n \n"), ("p.jsonl", "")):
        assert messages_of(write(name, content))[0].endswith(f"{name} has no prompt. Nothing was sent.")


def test_a_name_that_cannot_be_opened_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a directory, forbidden, empty, or not a valid name."""
    cases = {
        f"{tmp_path}/none.txt": "the file does not exist",
        str(tmp_path): "is a directory; expected a file of prompts",
        "": "its name is empty",
        "a\0b": "cannot be read: embedded null byte",
        "x" * 300: "cannot be read: File name too long",
    }
    for name, message in cases.items():
        with pytest.raises(CommandError, match=message):
            opened(name)

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # root may read every file
    with pytest.raises(CommandError, match=r"p\.txt cannot be read: Permission denied\."):
        opened("p.txt")


def test_a_read_error_is_reported(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails during the reading."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    prompts = Prompts(Broken(), "p.txt", Format.LINES, {}, None)
    with pytest.raises(CommandError, match=r"p\.txt cannot be read: Input/output error\."):
        prompts.check()


def test_a_full_disk_for_keys_is_reported(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are compared on disk."""

    class Full:
        def execute(self, *_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        def close(self) -> None:
            pass

    keys = reader._Keys()
    keys.close()
    monkeypatch.setattr(keys, "_database", Full())
    with pytest.raises(CommandError, match="database or disk is full"):
        keys.line_of("a", 1)


def test_a_bad_default_is_reported_once(write: Write) -> None:
    """Not once for every line."""
    with pytest.raises(CommandError, match="width is 0; expected whole pixels"):
        opened(write("p.txt", "a"), width=0)


def test_a_line_that_changes_after_the_check_is_named(write: Write) -> None:
    """The file changes between the check and the reading."""
    name = write("p.jsonl", '{"prompt": "a"}\n')
    with opened(name) as prompts:
        prompts.check()
        Path(name).write_text("nonsense\n")
        with pytest.raises(CommandError, match=r"p\.jsonl, line 1: it is not JSON"):
            list(prompts)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(write: Write) -> None:
    """More than three times the lines, each with its own key, take no more memory."""

    def peak(count: int) -> int:
        lines = "".join(f'{{"prompt": "fox {number}", "key": "{number}"}}\n' for number in range(count))
        name = write("p.jsonl", lines)
        del lines
        tracemalloc.start()
        try:
            with opened(name) as prompts:
                assert prompts.check().total == sum(1 for _ in prompts)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # The first run also allocates what stays, such as the caches of the interpreter.
    peak(5_000)
    # Ten times the lines: what grew with the file would take ten times as much.
    assert peak(5_000) < 2 * peak(500)


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20).filter(
    lambda text: is_visible(text) and not text.lstrip().startswith(("#", "{", "["))
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=8))
def test_prompts_survive_every_format(write: Write, written: list[str]) -> None:
    """Any one-line prompt comes out of each format as it went in, except for white space around it."""
    expected = [{"prompt": text.strip().removeprefix("\ufeff").strip()} for text in written]
    objects = write("p.jsonl", "".join(json.dumps({"prompt": text.strip()}) + "\n" for text in written))
    assert read(objects) == [{"prompt": text.strip()} for text in written]
    if all(item["prompt"] for item in expected) and not any("\ufeff" in text for text in written):
        assert read(write("p.txt", "\n".join(written)), kind="lines") == expected
        cells = "".join('"{}"\n'.format(text.replace('"', '""')) for text in written)
        assert read(write("p.csv", f"prompt\n{cells}")) == expected
