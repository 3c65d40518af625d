"""The state of one download, and whether an answer can continue it."""

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
"""Age in seconds from which `Last-Modified` is a strong validator: it has a resolution of one second."""

_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_SPAN: Final = re.compile(r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_NO_SPAN: Final = re.compile(r"bytes\s+\*/([0-9]{1,18})", re.IGNORECASE)
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]*"')
_DATE: Final = re.compile(r"[A-Za-z0-9,: +-]{1,40}")


_AS_IT_IS: Final = "Use read(check=False) or save(…, check=False) to accept it unchecked."


class Headers(Protocol):
    """The headers of an answer."""

    def get(self, name: str, default: str, /) -> str:
        """Return the first value, or the default."""

    def getall(self, name: str, default: tuple[()], /) -> list[str] | tuple[()]:
        """Return all values, or the default."""

    def __contains__(self, name: object, /) -> bool: ...


class AttemptFailed(Exception):  # noqa: N818 - a signal inside a download that no user sees
    """This attempt brought no whole file, but the next one may.

    Args:
        why: the error message if this was the last attempt.
        cause: the error out of a hook of the session.
        restart: whether the bytes received so far are void and the download restarts.
        status: the HTTP status, if that is the reason.
        retry_after: seconds that the output host asks to wait.
    """

    def __init__(
        self,
        why: str,
        cause: BaseException | None = None,
        *,
        restart: bool = False,
        status: int | None = None,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        self.cause = cause
        self.restart = restart
        self.status = status


@dataclass(frozen=True, slots=True)
class Announced:
    """What the headers of an answer announce; `validator` proves that two answers have the same content.

    `start` and `end` are the first byte and the one after the last, `total` is the length of the whole; None
    if unknown.
    """

    start: int
    end: int | None
    total: int | None
    validator: str | None
    codings: list[str]
    content_type: str
    is_delimited: bool
    """Whether the body marks its own end, rather than the end of the connection."""

    @classmethod
    def by(cls, status: int, headers: Headers, wall: float) -> Announced:
        """Read the headers of an answer; `wall` is now, in epoch seconds.

        Raises:
            AttemptFailed: if it is a part, but does not say which.
        """
        length = _LENGTH.fullmatch(headers.get("Content-Length", ""))
        start, total = 0, int(length[0]) if length else None
        end = total
        if status == 206:
            span = _SPAN.fullmatch(headers.get("Content-Range", "").strip())
            if span is None:
                raise AttemptFailed("The output host sent a part, but did not say which.", restart=True)
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
    """The state of one download over all its attempts.

    `got` counts the bytes as received, `size` those after decoding; `held` collects bytes until there are
    enough to identify the file, `is_begun` is whether any were passed on.
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
        """Whether to request only the rest: some bytes are here, and a validator can prove a match."""
        return self.got > 0 and self.validator is not None and self.decoder.is_plain

    def begin(self, announced: Announced) -> None:
        """Start over with an answer that begins with the first byte."""
        self.clear()
        self.total, self.end, self.validator = announced.total, announced.end, announced.validator
        self.content_type = announced.content_type
        try:
            self.decoder = Decoder(announced.codings)
        except CodingError as error:
            if self.is_checked:
                raise DownloadError(
                    f"The output is still compressed: {error}. {_AS_IT_IS}", is_remote=True
                ) from None
            self.decoder = Decoder()

    def clear(self) -> None:
        """Discard everything received."""
        self.got = self.size = 0
        self.total = self.end = self.validator = None
        self.decoder, self.held, self.is_begun = Decoder(), bytearray(), False

    def fits(self, announced: Announced) -> bool:
        """Whether an answer is certain to continue what is here."""
        is_same = self.may_resume and announced.validator == self.validator and not announced.codings
        return is_same and (None in (announced.total, self.total) or announced.total == self.total)

    def resume(self, announced: Announced) -> None:
        """Continue with an answer that is the rest."""
        self.total = announced.total if self.total is None else self.total
        self.end = None if announced.end is None else max(announced.end, self.got)

    def confirm_whole(self, headers: Headers, wall: float) -> None:
        """Accept a 416 if it proves that what is here is the whole: same validator, same length.

        Raises:
            AttemptFailed: if it proves no such thing.
        """
        length = _NO_SPAN.fullmatch(headers.get("Content-Range", "").strip())
        validator = _validator(headers, wall)
        if length is None or int(length[1]) != self.got or validator not in (None, self.validator):
            raise AttemptFailed("The output changed while it was downloaded.", restart=True)
        self.total = self.end = self.got

    def what_is_missing(self) -> tuple[str | None, bool]:
        """Return why this may be incomplete, and whether it is void; None if it is whole."""
        if not self.decoder.is_whole:
            return "its compressed data was cut short", True
        until = self.total if self.total is not None else self.end
        if until is not None and self.got < until:
            return "it ended early", False
        if self.end is not None and self.total is None:
            return "its length is unknown", False
        return None, False

    def release_held(self) -> Iterator[Start | bytes]:
        """Yield the held bytes, once they identify the file.

        Raises:
            DownloadError: if they are an error page in place of the output.
        """
        held, self.held, self.is_begun = bytes(self.held), bytearray(), True
        head = held[: media.LEADING]
        if self.is_checked:
            reason = media.why_not(head, media=self.job.type, content_type=self.content_type)
            if reason:
                raise DownloadError(f"The output is of the wrong kind: {reason}. {_AS_IT_IS}", is_remote=True)
        yield Start(media.ending(head, self.content_type), self.content_type)
        yield held


def _validator(headers: Headers, wall: float) -> str | None:
    """Return a strong validator: a strong `ETag`, or a `Last-Modified` that is old enough."""
    if "ETag" in headers:
        tag = headers.get("ETag", "")
        return tag if _STRONG_TAG.fullmatch(tag) else None
    changed = headers.get("Last-Modified", "")
    at, date = _epoch_seconds(changed), _epoch_seconds(headers.get("Date", ""))
    is_old = at is not None and at + _SETTLED <= (wall if date is None else date)
    return changed if is_old else None


def _epoch_seconds(text: str) -> float | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _transfer_codings(headers: Headers) -> list[str]:
    """Return the transfer codings that aiohttp does not decode."""
    named = ",".join(headers.getall("Transfer-Encoding", ())).lower().split(",")
    return [name for each in named if (name := each.strip()) not in ("", "chunked")]
