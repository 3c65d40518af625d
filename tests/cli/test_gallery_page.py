"""The gallery's place: a page that is not of its ledger is never replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from doitong_async.cli import main
from doitong_async.cli.gallery import Card, write_gallery
from doitong_async.files import new_owner

FOX = Card(
    key="1", prompt="a red fox", provider="flux-pro", outcome="done", credits=12, seconds=6.25, file="1.jpg"
)


def test_a_page_of_the_user_s_own_stays(tmp_path: Path) -> None:
    """The gallery takes the next name, and has the same one in the next run."""
    (tmp_path / "index.html").write_text("<h1>My site</h1>")
    owner = new_owner()
    for title in ("Foxes", "More foxes"):
        page = write_gallery(tmp_path, [FOX], title=title, owner=owner)
        assert page.name == "index.2.html"
        assert f"<title>{title}" in page.read_text()
    assert (tmp_path / "index.html").read_text() == "<h1>My site</h1>"
    assert sorted(os.listdir(tmp_path)) == ["index.2.html", "index.html"]


@pytest.mark.parametrize("kind", ["a folder", "a link to nowhere", "an empty file", "a link to a page"])
def test_whatever_has_the_name_stays(tmp_path: Path, kind: str) -> None:
    """Not only files."""
    (tmp_path / "page.html").write_text("mine")
    match kind:
        case "a folder":
            (tmp_path / "index.html").mkdir()
        case "an empty file":
            (tmp_path / "index.html").touch()
        case "a link to nowhere":
            (tmp_path / "index.html").symlink_to("nowhere")
        case _:
            (tmp_path / "index.html").symlink_to("page.html")
    for _ in range(2):
        assert write_gallery(tmp_path, [FOX], title="Foxes").name == "index.2.html"
    assert (tmp_path / "page.html").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["index.2.html", "index.html", "page.html"]


def test_two_ledgers_in_one_folder_have_a_page_each(tmp_path: Path) -> None:
    """In whatever order they run."""
    owners = [new_owner(), new_owner()]
    pages = [write_gallery(tmp_path, [FOX], title="Foxes", owner=owner).name for owner in owners * 2]
    assert pages == ["index.html", "index.2.html"] * 2


def test_a_page_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    """The gallery of many items takes a while to write."""

    def cards() -> Iterator[Card]:
        yield FOX
        (tmp_path / "index.html").write_text("mine")

    assert write_gallery(tmp_path, cards(), title="Foxes").name == "index.2.html"
    assert (tmp_path / "index.html").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_command_says_where_the_page_is_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """`doitong batch --out site` beside the user's site."""
    monkeypatch.chdir(tmp_path)
    Path("site").mkdir()
    Path("site/index.html").write_text("mine")
    Path("prompts.txt").write_text("a fox\n")
    command = ["batch", "prompts.txt", "--out", "site", "--plan", "pro", "--emulator"]
    assert main([*command, *more]) == 0
    out = capsys.readouterr().out
    if more:
        assert '"gallery": "site/index.2.html"' in out
    else:
        assert "gallery site/index.2.html (index.html there is not the page of this ledger" in out
    assert Path("site/index.html").read_text() == "mine"
