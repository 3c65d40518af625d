"""The gallery: complete or absent, self-contained, and never executing a prompt."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import os
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.cli.gallery import Card, write_gallery

FOX = Card(
    key="1", prompt="a red fox", provider="flux-pro", outcome="done", credits=12, seconds=6.25, file="1.jpg"
)
OLD = '<meta name="generator" content="doitong_async">old'
FAILED = replace(FOX, key="2", outcome="failed", credits=0, seconds=None, file=None, reason="flagged")
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    '\'" onerror=alert(1) x="',
    "&lt;b&gt; &amp;quot; &#34;",
    "{{cards}}{{totals}}{{script}}{{title}}",
    "]]></p></li></ul></main></title></style><img src=x onerror=alert(1)>",
    "🦊 👩‍👩‍👧 \u202eright to left\u202c شجرة",
    "half a pair \ud83e, a null \x00, a line\nand another\r\n",
    "five thousand " * 358,
]


class Page(html.parser.HTMLParser):
    """A parsed page: its elements with their attributes, and the text inside each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.words.append("")
        self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.words[self._open[-1]] += data

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        """Return the attributes of every element of this kind."""
        return [attrs for name, attrs in self.elements if name == tag and _is(attrs, cls)]

    def text(self, tag: str, cls: str = "") -> list[str]:
        """Return the text directly inside every element of this kind."""
        found = zip(self.elements, self.words, strict=True)
        return [words for (name, attrs), words in found if name == tag and _is(attrs, cls)]


def _is(attrs: dict[str, str | None], cls: str) -> bool:
    return not cls or cls in (attrs.get("class") or "").split()


def written(folder: Path, *cards: Card, title: str = "Foxes") -> str:
    """Return the text of a page with these cards."""
    return write_gallery(folder, iter(cards), title=title).read_text("utf-8")


def page(folder: Path, *cards: Card, title: str = "Foxes") -> Page:
    """Return the parsed page with these cards."""
    return Page(written(folder, *cards, title=title))


def utf8_of(text: str) -> str:
    """Return a text with the characters escaped that UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


class TestForeignText:
    @pytest.mark.parametrize("words", HOSTILE)
    def test_hostile_text_adds_no_element_and_no_attribute(self, tmp_path: Path, words: str) -> None:
        """The page has the same elements and attribute names as with harmless text."""

        def shape(of: Page) -> list[tuple[str, list[str]]]:
            return [(tag, sorted(attrs)) for tag, attrs in of.elements]

        def cards(x: str) -> list[Card]:
            said = replace(FOX, key=x, prompt=x, provider=x, job_id=x, reason=x)
            pictures = [
                replace(said, file=utf8_of(f"{kind}{x}{kind}")) for kind in (".jpg", ".mp4", ".wav", ".x")
            ]
            return [*pictures, replace(said, outcome="failed", file=None)]

        tame, hostile = page(tmp_path, *cards("x"), title="x"), page(tmp_path, *cards(words), title=words)
        assert shape(hostile) == shape(tame)
        assert hostile.text("script") == tame.text("script")

    @pytest.mark.parametrize("words", HOSTILE)
    def test_text_appears_unchanged(self, tmp_path: Path, words: str) -> None:
        """Prompt, provider, key, reason and title read the same on the page."""
        card = replace(FAILED, prompt=words, provider=words, key=words, reason=words)
        read = page(tmp_path, card, title=words)
        expected = utf8_of(words).replace("\r\n", "\n")
        assert [read.text("p", "prompt"), read.text("p", "why"), read.text("bdi")] == [[expected]] * 3
        assert read.all("li", "card")[0]["data-key"] == expected
        assert read.text("h1") == [expected]

    @settings(max_examples=60, deadline=None)
    @given(words=st.text(st.characters(blacklist_characters="\r"), max_size=60))
    def test_any_prompt_is_text(self, tmp_path_factory: pytest.TempPathFactory, words: str) -> None:
        """Whatever it holds, it is the text of one paragraph."""
        read = page(tmp_path_factory.mktemp("any"), replace(FOX, prompt=words))
        assert read.text("p", "prompt") == [utf8_of(words)]
        assert len(read.all("li", "card")) == 1

    def test_only_the_script_of_the_page_may_run(self, tmp_path: Path) -> None:
        """The policy names the script by its hash, so nothing else would run even if it got in."""
        read = page(tmp_path, FOX)
        (script,) = read.text("script")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = [meta["content"] for meta in read.all("meta") if "http-equiv" in meta]
        assert policy[0] is not None
        assert policy[0].startswith(f"script-src 'sha256-{digest}';")


class TestSelfContained:
    def test_nothing_is_fetched_from_another_host(self, tmp_path: Path) -> None:
        """The page has no foreign address, no import, and no file except those of the cards."""
        text = written(tmp_path, FOX, FAILED)
        assert re.findall(r"https?:|[\"'(]//\w|url\(|@import|@font-face", text) == []
        read = Page(text)
        addresses = {
            value for _, attrs in read.elements for name, value in attrs.items() if name in ("src", "href")
        }
        assert addresses == {"./1.jpg", "#cards", "data:,"}

    @pytest.mark.parametrize(
        "name",
        [
            "a fox.jpg",
            "50% #1?.jpg",
            "javascript:alert(1).jpg",
            "//evil.example/x.jpg",
            "/etc/x.jpg",
            "C:x.jpg",
            "füchse/小狐狸.jpg",
            "\"'<&>.jpg",
        ],
    )
    def test_a_file_name_becomes_a_relative_address(self, tmp_path: Path, name: str) -> None:
        """Its link points into the page's folder and decodes to the same name."""
        read = page(tmp_path, replace(FOX, file=name))
        for address in (read.all("a", "file")[0]["href"], read.all("a", "frame")[0]["href"]):
            assert address is not None
            assert re.fullmatch(r"\./[\w./%~-]+", address, re.ASCII)
            assert urljoin("file:///home/me/", address).startswith("file:///home/me/")
            assert unquote(address.removeprefix("./")) == name
        assert read.all("img")[0]["src"] == address

    def test_a_file_name_that_is_not_utf8_keeps_its_bytes(self, tmp_path: Path) -> None:
        """The system may have a file whose name is not text."""
        read = page(tmp_path, replace(FOX, file=os.fsdecode(b"\xff.jpg")))
        assert read.all("a", "file")[0]["href"] == "./%FF.jpg"


class TestCards:
    def test_a_picture_is_shown_lazily_at_its_size(self, tmp_path: Path) -> None:
        """It loads when it scrolls into view, decodes in the background, and has its prompt as `alt`."""
        (picture,) = page(tmp_path, replace(FOX, size=(1024, 768))).all("img")
        assert picture == {
            "src": "./1.jpg",
            "alt": "a red fox",
            "width": "1024",
            "height": "768",
            "loading": "lazy",
            "decoding": "async",
        }

    def test_a_card_shows_provider_cost_and_time(self, tmp_path: Path) -> None:
        """It has a link to the file, too."""
        read = page(tmp_path, FOX)
        assert read.text("bdi") == ["flux-pro"]
        assert read.text("span", "credits") == ["12 credits"]
        assert read.text("span", "seconds") == ["6.2 s"]
        assert read.text("a", "file") == ["jpg"]

    @pytest.mark.parametrize(
        ("name", "tag"),
        [("a.MP4", "video"), ("a.webm", "video"), ("a.gif", "img"), ("a.mp3", "audio"), ("a.wav", "audio")],
    )
    def test_each_kind_of_file_has_its_element(self, tmp_path: Path, name: str, tag: str) -> None:
        """Only a picture loads before the user asks for it."""
        read = page(tmp_path, replace(FOX, file=name))
        (shown,) = read.all(tag)
        assert shown["src"] == f"./{name}"
        assert shown.get("preload", "none") == "none"
        assert sum(len(read.all(other)) for other in ("img", "video", "audio")) == 1

    def test_a_file_that_browsers_cannot_show_is_linked(self, tmp_path: Path) -> None:
        """A link, and no broken picture."""
        read = page(tmp_path, replace(FOX, file="fox.tif"))
        assert (read.all("img"), read.all("a", "file")[0]["href"]) == ([], "./fox.tif")

    @pytest.mark.parametrize("outcome", ["failed", "rejected", "in_doubt", "left", "running"])
    def test_an_item_without_a_file_has_a_card_with_its_reason(self, tmp_path: Path, outcome: str) -> None:
        """It has the outcome in words, the reason and the prompt, but no picture or link."""
        read = page(tmp_path, replace(FAILED, outcome=outcome))
        assert read.text("span", "tag") == [outcome.replace("_", " ")]
        assert (read.text("p", "why"), read.text("p", "prompt")) == (["flagged"], ["a red fox"])
        assert read.all("img") + read.all("a", "file") == []
        assert read.all("li", "card")[0]["data-outcome"] == outcome

    def test_a_failed_item_with_a_file_shows_both(self, tmp_path: Path) -> None:
        """The card shows picture and outcome, and keeps the reason for the large view."""
        read = page(tmp_path, replace(FOX, outcome="in_doubt", reason="nobody knows"))
        assert (len(read.all("img")), read.text("span", "tag")) == (1, ["in doubt"])
        assert read.all("li", "card")[0]["data-why"] == "nobody knows"

    def test_unknown_numbers_are_left_out(self, tmp_path: Path) -> None:
        """Unknown credits and seconds differ from zero."""
        read = page(tmp_path, replace(FOX, credits=None, seconds=None))
        assert read.text("span", "credits") + read.text("span", "seconds") == []

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (0, "0.0 s"),
            (99.94, "99.9 s"),
            (99.95, "100 s"),
            (600, "10 min"),
            (3600, "1 h"),
            (8.6e6, "99 days 13 h"),
        ],
    )
    def test_durations_are_rounded(self, tmp_path: Path, seconds: float, said: str) -> None:
        """Tenths while they matter, minutes and hours later."""
        assert page(tmp_path, replace(FOX, seconds=seconds)).text("span", "seconds") == [said]

    def test_cards_keep_their_order_across_sheets(self, tmp_path: Path) -> None:
        """Sheets of 120; the last has the remainder."""
        cards = [replace(FOX, key=str(number)) for number in range(250)]
        text = written(tmp_path, *cards)
        assert "contain-intrinsic-height: calc(120 / var(--n)" in text
        read = Page(text)
        assert [card["data-key"] for card in read.all("li", "card")] == [card.key for card in cards]
        after = Counter(
            sum(tag == "ul" and _is(attrs, "sheet") for tag, attrs in read.elements[:place])
            for place, (tag, attrs) in enumerate(read.elements)
            if tag == "li" and _is(attrs, "card")
        )
        assert after == {1: 120, 2: 120, 3: 10}


class TestTotals:
    def test_they_count_every_outcome(self, tmp_path: Path) -> None:
        """Items, credits and mean time in words, and each outcome that occurs with its number."""
        cards = [FOX, replace(FOX, credits=1200.5, seconds=8.25), FAILED, replace(FAILED, outcome="in_doubt")]
        read = page(tmp_path, *cards)
        assert read.text("p", "sum") == ["4 items · 1,212.5 credits · 7.2 s on average"]
        buttons = [button["data-outcome"] for button in read.all("button") if "data-outcome" in button]
        assert (buttons, read.text("b")[:4]) == (["", "done", "failed", "in_doubt"], ["4", "2", "1", "1"])

    def test_they_stand_above_the_cards(self, tmp_path: Path) -> None:
        """The reader sees them first, with a script or without."""
        text = written(tmp_path, FOX)
        assert text.index('class="totals"') < text.index("<main") < text.index('class="card')

    def test_an_empty_batch_has_a_page(self, tmp_path: Path) -> None:
        """It has no sheet, so that the text for an empty gallery shows."""
        text = written(tmp_path)
        assert '<div id="cards"></div>' in text
        assert Page(text).text("p", "sum") == ["0 items · 0 credits"]

    def test_the_largest_numbers_fit_into_their_space(self, tmp_path: Path) -> None:
        """The space for the totals is reserved; a longer text must not overwrite what follows."""
        outcomes = ("done", "failed", "rejected", "in_doubt", "left", "running")
        cards = [replace(FOX, outcome=outcome, credits=1e307, seconds=1e307) for outcome in outcomes]
        text = written(tmp_path, *cards)
        assert re.search(r"</ul>\s+</header>\n<div class=\"bar", text)


class TestMemory:
    def test_cards_are_read_one_at_a_time(self, tmp_path: Path) -> None:
        """Nothing is read ahead: the writer holds only one card at a time."""
        alive: list[int] = []

        class Prompt(str):
            def __init__(self, *_: object) -> None:
                alive.append(1)

            def __del__(self) -> None:
                alive.pop()

        most = 0

        def cards() -> Iterator[Card]:
            nonlocal most
            for _ in range(500):
                yield replace(FOX, prompt=Prompt("a fox"))
                most = max(most, len(alive))

        write_gallery(tmp_path, cards(), title="Foxes")
        assert most <= 2

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_cards(self, tmp_path: Path) -> None:
        """The peak for 20,000 cards is that for 1,000."""

        def peak(count: int) -> int:
            tracemalloc.start()
            try:
                cards = (replace(FOX, key=str(number), prompt="fox " * 25) for number in range(count))
                write_gallery(tmp_path, cards, title="Foxes")
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        peak(10)
        assert peak(20_000) <= 1.05 * peak(1_000)


class TestCompleteOrAbsent:
    def test_it_returns_the_path_of_the_page(self, tmp_path: Path) -> None:
        """It writes the page and no other file."""
        assert write_gallery(tmp_path, [FOX], title="Foxes") == tmp_path / "index.html"
        assert os.listdir(tmp_path) == ["index.html"]

    def test_the_old_page_stays_until_the_new_one_is_complete(self, tmp_path: Path) -> None:
        """A reload during the writing shows the old page."""
        (tmp_path / "index.html").write_text(OLD)
        seen: list[str] = []

        def cards() -> Iterator[Card]:
            for _ in range(3):
                seen.append((tmp_path / "index.html").read_text())
                yield FOX

        write_gallery(tmp_path, cards(), title="Foxes")
        assert seen == [OLD] * 3
        assert "a red fox" in (tmp_path / "index.html").read_text("utf-8")

    @pytest.mark.parametrize("error", [RuntimeError("the ledger is gone"), KeyboardInterrupt()])
    def test_an_error_of_the_cards_changes_nothing(self, tmp_path: Path, error: BaseException) -> None:
        """The error reaches the caller, the old page stays, and no temporary file remains."""
        (tmp_path / "index.html").write_text(OLD)

        def cards() -> Iterator[Card]:
            yield FOX
            raise error

        with pytest.raises(type(error)):
            write_gallery(tmp_path, cards(), title="Foxes")
        assert (os.listdir(tmp_path), (tmp_path / "index.html").read_text()) == (["index.html"], OLD)

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_failing_disk_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """It is full at the very end, after all cards are written."""
        (tmp_path / "index.html").write_text(OLD)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_gallery(tmp_path, [FOX], title="Foxes")
        assert (os.listdir(tmp_path), (tmp_path / "index.html").read_text()) == (["index.html"], OLD)

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        """The writer does not create it silently."""
        with pytest.raises(FileNotFoundError, match="nowhere"):
            write_gallery(tmp_path / "nowhere", [FOX], title="Foxes")

    def test_an_unknown_outcome_is_rejected(self, tmp_path: Path) -> None:
        """The error names the item, its outcome and the valid ones."""
        with pytest.raises(ValueError, match=r"item '1' is 'lost'; it must be one of done, failed, "):
            write_gallery(tmp_path, [replace(FOX, outcome="lost")], title="Foxes")
        assert os.listdir(tmp_path) == []
