"""Writes the page of a batch's outputs, from `gallery.html` and `gallery.js`.

`gallery.html` is the page around the cards and `gallery.js` its script; both are embedded, so the folder
can be moved anywhere. The cards are plain HTML, streamed one by one: the page works without its script, and
memory stays flat. The totals are written last, into space reserved at the top.

A page names its ledger in a mark, and only the page of the same ledger is ever replaced: an `index.html` that
the user or another batch wrote stays, and this page gets a number.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path, PurePath
from typing import BinaryIO, Final
from urllib.parse import quote

from doitong_async.batch.item import Outcome
from doitong_async.cli.units import LEFT, RUNNING, credit_words, short_span
from doitong_async.files import Existing, numbered, writing
from doitong_async.unicode import writable

_TOTALS_SIZE: Final = 4096
"""Bytes reserved for the totals: the longest, with numbers of 300 digits, take half."""
_SHEET: Final = 120
"""Cards laid out together: whole rows of 1, 2, 3, 4, 5, 6 or 8 columns."""
PAGE: Final = "index.html"
"""The name of the page, unless a page that is not ours has it."""
_MARK_WITHIN: Final = 1024
"""Bytes at the beginning of a page that have its mark."""
_ALT: Final = 100
"""Letters of a prompt used as the alternative text of a picture."""

_OUTCOMES: Final = (*(str(each) for each in Outcome if each is not Outcome.SKIPPED), LEFT, RUNNING)
_SHOWN_BY: Final = {
    "image": (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp", ".svg"),
    "video": (".mp4", ".webm", ".mov", ".m4v"),
    "audio": (".mp3", ".wav", ".ogg", ".m4a", ".aac", ".flac"),
}
_KINDS: Final = {suffix: kind for kind, suffixes in _SHOWN_BY.items() for suffix in suffixes}
_NOTE: Final = (
    '<svg viewBox="0 0 48 32" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round" '
    'aria-hidden="true"><path d="M3 13v6M10 8v16M17 3v26M24 10v12M31 5v22M38 11v10M45 14v4"/></svg>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One item of a batch, as the gallery shows it.

    Attributes:
        key: the item's key in the ledger.
        prompt: the prompt of the request.
        provider: the provider of the request.
        outcome: "done", "failed", "rejected", "in_doubt", "left" or "running".
        credits: its cost, or None if unknown.
        seconds: how long it took, or None.
        file: the name of its file relative to the page, with "/" between folders; None if there is none.
        size: the requested width and height, in pixels.
        job_id: the service's id of the job.
        reason: why it is not done.
    """

    key: str
    prompt: str
    provider: str
    outcome: str
    credits: float | None
    seconds: float | None
    file: str | None
    size: tuple[int, int] | None = None
    job_id: str | None = None
    reason: str | None = None


def write_gallery(folder: Path, cards: Iterable[Card], *, title: str, owner: str = "", left: int = 0) -> Path:
    """Write the page whole and return its path.

    The old page stays until the last card of the new one is on disk. On any error it stays for good, and no
    temporary file is left.

    Args:
        folder: the folder of the pictures; the page is its `index.html`, or `index.2.html` and so on if that
            is not a page of this owner.
        cards: read once, one by one, and not kept.
        title: the page's title.
        owner: the mark of the ledger, on the page and on its temporary file.
        left: how many items of the batch have no card: they were not submitted.

    Raises:
        ValueError: if a card has an unknown outcome.
        OSError: if the page cannot be written.
    """
    mark = f'<meta name="generator" content="{" ".join(["doitong_async", owner]).rstrip()}">'
    pages = numbered(folder / PAGE)
    page, is_old = next((page, is_ours) for page in pages if (is_ours := _is_ours(page, mark)) is not False)
    # A page that somebody writes meanwhile stays, too.
    existing = Existing.REPLACE if is_old else Existing.KEEP
    with writing(page, existing=existing, owner=owner) as part:
        _write_page(part.opened(), cards, title, mark, left)
    return part.target


def _is_ours(page: Path, mark: str) -> bool | None:
    """Whether a page has the mark; None if there is no page."""
    if not os.path.lexists(page):
        return None
    try:
        with page.open("rb") as file:
            return mark.encode() in file.read(_MARK_WITHIN)
    except OSError:
        return False


def _write_page(file: BinaryIO, cards: Iterable[Card], title: str, mark: str, left: int) -> None:
    script = _own("gallery.js")
    parts = {
        "mark": mark,
        "title": escape(title),
        "script": script,
        "sheet": str(_SHEET),
        # Only this script may run on the page, whatever a prompt contains.
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    totals = _Totals(left)
    totals_at = 0
    # Even pieces are the page's own text, odd ones name placeholders.
    for number, piece in enumerate(re.split(r"\{\{(\w+)\}\}", _own("gallery.html"))):
        if piece == "totals":
            totals_at = file.tell()
            file.write(b" " * _TOTALS_SIZE)
        elif piece == "cards":
            for count, card in enumerate(cards):
                totals.add(card)
                if count % _SHEET == 0:
                    file.write(_bytes(f'{"</ul>" if count else ""}<ul class="sheet" role="list">'))
                file.write(_bytes(_item(card)))
            if totals.total > left:
                file.write(b"</ul>")
        else:
            file.write(_bytes(parts[piece] if number % 2 else piece))
    file.seek(totals_at)
    file.write(_bytes(totals.html()))


def _own(name: str) -> str:
    """Return a file of this package, which may be in a zip."""
    return resources.files("doitong_async.cli").joinpath(name).read_text(encoding="utf-8")


def _bytes(text: str) -> bytes:
    return writable(text).encode()


class _Totals:
    """The totals over all cards."""

    def __init__(self, left: int) -> None:
        self._outcomes = {**dict.fromkeys(_OUTCOMES, 0), LEFT: left}
        self._credits = 0.0
        self._seconds = 0.0
        self._timed = 0

    def add(self, card: Card) -> None:
        if card.outcome not in self._outcomes:
            raise ValueError(
                f"The outcome of item {card.key!r} is {card.outcome!r}; "
                f"it must be one of {', '.join(_OUTCOMES)}."
            )
        self._outcomes[card.outcome] += 1
        self._credits += card.credits or 0
        if card.seconds is not None:
            self._seconds += card.seconds
            self._timed += 1

    @property
    def total(self) -> int:
        return sum(self._outcomes.values())

    def html(self) -> str:
        total = self.total
        parts = ["1 item" if total == 1 else f"{total:,} items", credit_words(self._credits)]
        if self._timed:
            parts.append(f"{short_span(self._seconds / self._timed)} on average")
        counts = {"": total, **{outcome: count for outcome, count in self._outcomes.items() if count}}
        buttons = "".join(
            f'<li><button type="button" class="{outcome}" data-outcome="{outcome}" disabled>'
            f"<b>{count:,}</b> {outcome.replace('_', ' ') or 'all'}</button></li>\n"
            for outcome, count in counts.items()
        )
        return (
            f'<p class="sum">{" · ".join(parts)}</p>\n'
            f'<ul class="totals" role="list" aria-label="Totals">\n{buttons}</ul>'
        )


def _item(card: Card) -> str:
    suffix = PurePath(card.file).suffix.lower() if card.file else ""
    kind = _KINDS.get(suffix, "") if card.file else ""
    size = f"{card.size[0]} × {card.size[1]}" if card.size else None
    marks = {
        "outcome": card.outcome,
        "provider": card.provider,
        "key": card.key,
        "job": card.job_id,
        "kind": kind,
        "size": size,
        "why": card.reason if kind else None,
    }
    data = "".join(f' data-{name}="{escape(mark)}"' for name, mark in marks.items() if mark)
    facts = [f"<bdi>{escape(card.provider)}</bdi>"]
    if card.credits is not None:
        facts.append(f'<span class="credits">{credit_words(card.credits)}</span>')
    if card.seconds is not None:
        facts.append(f'<span class="seconds">{short_span(card.seconds)}</span>')
    if card.file:
        facts.append(
            f'<a class="file" href="{_url(card.file)}" title="Open {escape(card.file)}" tabindex="-1">'
            f"{escape(suffix[1:6] or 'file')}</a>"
        )
    return (
        f'\n<li class="card {card.outcome}"{data}>{_frame(card, kind)}'
        f'<p class="prompt" dir="auto">{escape(card.prompt)}</p><p class="facts">{"".join(facts)}</p></li>'
    )


def _frame(card: Card, kind: str) -> str:
    """Return the square at the top of a card: its file, or why there is none."""
    tag = "" if card.outcome == "done" else f'<span class="tag">{card.outcome.replace("_", " ")}</span>'
    if not card.file or not kind:
        named = "no file" if not card.file else "file"
        word = tag or f'<span class="tag">{named}</span>'
        why = f'<p class="why" dir="auto">{escape(card.reason)}</p>' if card.reason else ""
        return f'<div class="frame word">{word}{why}</div>'
    url = _url(card.file)
    if kind == "image":
        size = f' width="{card.size[0]}" height="{card.size[1]}"' if card.size else ""
        alt = escape(card.prompt[:_ALT])
        return (
            f'<a class="frame" href="{url}">'
            f'<img src="{url}" alt="{alt}"{size} loading="lazy" decoding="async">{tag}</a>'
        )
    if kind == "video":
        video = f'<video src="{url}" preload="none" controls muted loop playsinline></video>'
        return f'<div class="frame">{video}{tag}</div>'
    return f'<div class="frame sign">{_NOTE}<audio src="{url}" preload="none" controls></audio>{tag}</div>'


def _url(file: str) -> str:
    # "./" and no bare colon: no name can be read as a scheme, a host or a root directory.
    return "./" + quote(file, errors="surrogateescape")
