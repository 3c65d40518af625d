"""What was received of one output, and whether an answer is surely the rest of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

from yarl import URL

from doitong_async import media
from doitong_async.decoding import CodingError, Decoder
from doitong_async.errors import DownloadError
from doitong_async.files import Start
from doitong_async.types import Generation

_SETTLED: Final = 60.0
"""Seconds after which a file has surely not changed within the second that `Last-Modified` names."""

_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_SPAN: Final = re.compile(r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_NO_SPAN: Final = re.compile(r"bytes\s+\*/([0-9]{1,18})", re.IGNORECASE)
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_DATE: Final = re.compile(r"[A-Za-z0-9,: +-]{1,40}")


_AS_IT_IS: Final = "read(check=False) and save(…, check=False) take it as it is."


class Headers(Protocol):
    """The headers of an answer."""

    def get(self, name: str, default: str, /) -> str:
        """Return the first value, or the default."""

    def getall(self, name: str, default: tuple[()], /) -> list[str] | tuple[()]:
        """Return all values, or the default."""

    def __contains__(self, name: object, /) -> bool: ...


class AttemptFailed(Exception):  # noqa: N818 - a signal inside a download, never an error that anyone sees
    """This attempt brought no whole file, the next one may.

    Args:
        why: what to say if it was the last one.
        cause: what a hook of the session raised.
        anew: whether what came before is void.
        status: the status of the answer, if that is why.
        told: seconds that the output host asks to wait.
    """

    def __init__(
        self,
        why: str,
        cause: BaseException | None = None,
        *,
        anew: bool = False,
        status: int | None = None,
        told: float = 0.0,
    ) -> None:
        super().__init__(why)
        self.told = told
        self.cause = cause
        self.anew = anew
        self.status = status


@dataclass(frozen=True, slots=True)
class Announced:
    """What an answer says of the bytes that follow; `validator` proves that two answers are of one content.

    `start` and `end` are the first byte and the one after the last, `total` is the length of the whole; None
    where it is not told.
    """

    start: int
    end: int | None
    total: int | None
    validator: str | None
    codings: list[str]
    content_type: str
    is_delimited: bool
    """Whether the body itself says where it ends, and not only the end of the connection."""

    @classmethod
    def by(cls, status: int, headers: Headers, wall: float) -> Announced:
        """Read the headers of an answer; `wall` is now, in epoch seconds.

        Raises:
            AttemptFailed: if it is a part, and does not say of what.
        """
        length = _LENGTH.fullmatch(headers.get("Content-Length", ""))
        start, total = 0, int(length[0]) if length else None
        end = total
        if status == 206:
            span = _SPAN.fullmatch(headers.get("Content-Range", "").strip())
            if span is None:
                raise AttemptFailed("The output host sent a part, and did not say which.", anew=True)
            start, end = int(span[1]), int(span[2]) + 1
            total = None if span[3] == "*" else int(span[3])
        return cls(
            start=start,
            end=end,
            total=total,
            validator=_validator(headers, wall),
            codings=[*headers.getall("Content-Encoding", ()), *_transfer_codings(headers)],
            content_type=headers.get("Content-Type", ""),
            is_delimited=length is not None or "Transfer-Encoding" in headers,
        )


@dataclass(slots=True)
class Received:
    """How far one download has come, over all its attempts.

    `got` counts the bytes as they came, `size` those that they are; `held` waits until there are enough of
    them to tell what they are, `is_begun` is whether any were passed on.
    """

    job: Generation
    url: URL
    deadline: float
    is_checked: bool
    got: int = 0
    size: int = 0
    total: int | None = None
    end: int | None = None
    validator: str | None = None
    content_type: str = ""
    decoder: Decoder = field(default_factory=Decoder)
    held: bytearray = field(default_factory=bytearray)
    is_begun: bool = False

    @property
    def may_resume(self) -> bool:
        """Whether the rest can be asked for: bytes are here, and what is to come can be proven to fit."""
        return self.got > 0 and self.validator is not None and self.decoder.is_plain

    def begin(self, told: Announced) -> None:
        """Take an answer that begins with the first byte; what came before is void."""
        self.clear()
        self.total, self.end, self.validator = told.total, told.end, told.validator
        self.content_type = told.content_type
        try:
            self.decoder = Decoder(told.codings)
        except CodingError as error:
            if self.is_checked:
                raise DownloadError(
                    f"The output is still packed: {error}. {_AS_IT_IS}", is_remote=True
                ) from None
            self.decoder = Decoder()

    def clear(self) -> None:
        """Begin anew."""
        self.got = self.size = 0
        self.total = self.end = self.validator = None
        self.decoder, self.held, self.is_begun = Decoder(), bytearray(), False

    def fits(self, told: Announced) -> bool:
        """Whether an answer is surely the rest of what is here."""
        is_same = self.may_resume and told.validator == self.validator and not told.codings
        return is_same and (None in (told.total, self.total) or told.total == self.total)

    def go_on(self, told: Announced) -> None:
        """Take an answer that is the rest."""
        self.total = told.total if self.total is None else self.total
        self.end = None if told.end is None else max(told.end, self.got)

    def see_whole(self, headers: Headers, wall: float) -> None:
        """Take the answer that there is no rest: by the same validator, the whole is as long as what is here.

        Raises:
            AttemptFailed: if it says anything else.
        """
        length = _NO_SPAN.fullmatch(headers.get("Content-Range", "").strip())
        told = _validator(headers, wall)
        if length is None or int(length[1]) != self.got or told not in (None, self.validator):
            raise AttemptFailed("The output changed while it was downloaded.", anew=True)
        self.total = self.end = self.got

    def what_is_missing(self) -> tuple[str | None, bool]:
        """Return why this is not known to be whole, and whether it is void; None if it is whole."""
        if not self.decoder.is_whole:
            return "its coding was cut short", True
        until = self.total if self.total is not None else self.end
        if until is not None and self.got < until:
            return "it ended early", False
        if self.end is not None and self.total is None:
            return "how long it is is not told", False
        return None, False

    def pass_on(self) -> Iterator[Start | bytes]:
        """Yield what was held, once it tells what it is.

        Raises:
            DownloadError: if it is an error in the place of the output.
        """
        held, self.held, self.is_begun = bytes(self.held), bytearray(), True
        head = held[: media.LEADING]
        if self.is_checked:
            reason = media.why_not(head, media=self.job.type, content_type=self.content_type)
            if reason:
                raise DownloadError(f"The output is of the wrong kind: {reason}. {_AS_IT_IS}", is_remote=True)
        yield Start(media.ending(head, self.content_type))
        yield held


def _validator(headers: Headers, wall: float) -> str | None:
    """Return what proves that two answers are of the same bytes: a strong tag, or a time long enough ago."""
    if "ETag" in headers:
        tag = headers.get("ETag", "")
        return tag if _STRONG_TAG.fullmatch(tag) else None
    changed = headers.get("Last-Modified", "")
    at, date = _moment(changed), _moment(headers.get("Date", ""))
    is_old = at is not None and at + _SETTLED <= (wall if date is None else date)
    return changed if is_old else None


def _moment(text: str) -> float | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _transfer_codings(headers: Headers) -> list[str]:
    """Return codings of the way that aiohttp leaves on."""
    named = ",".join(headers.getall("Transfer-Encoding", ())).lower().split(",")
    return [name for each in named if (name := each.strip()) not in ("", "chunked")]
