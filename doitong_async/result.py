"""The result of a finished job: its fields, and its output as bytes or as a file."""

from __future__ import annotations

import html
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from doitong_async.errors import DoitongError, DownloadError, about_job
from doitong_async.files import Existing, SavedFile, Start, in_thread, safe_name, write_whole
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.types import Generation, MediaType

EXPIRED: Final = (401, 403, 404, 410)
"""Statuses of an output host for an expired URL (assumption): one poll may return a new URL."""


class Source(Protocol):
    """Where a result gets its output from: the downloads of a client, while that is open."""

    def pieces(self, job: Generation, *, check: bool = True) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output; a `Start` voids what came before it."""


class Result:
    """A finished job. The service does not document how long outputs stay: save them at once.

    Args:
        generation: the job's last snapshot.
        downloads: downloads the output.
        token: resumes the job.
        renew: polls once for the output's current URL.
        prompt: what was asked for.
        is_remembered: whether the URL is from an earlier run: then any failed download is worth such a poll.
    """

    __slots__ = ("_downloads", "_is_remembered", "_renew", "_start", "_token", "generation", "prompt")

    def __init__(
        self,
        generation: Generation,
        downloads: Source,
        token: str | None = None,
        *,
        renew: Callable[[], Awaitable[Generation]] | None = None,
        is_remembered: bool = False,
        prompt: str | None = None,
    ) -> None:
        self.generation: Generation = generation
        self.prompt: str | None = prompt
        """What was asked for; None for a resumed job, or one without a prompt."""
        self._downloads = downloads
        self._token = token
        self._renew = renew
        self._is_remembered = is_remembered
        self._start: Start | None = None

    def __repr__(self) -> str:
        if not hasattr(self, "generation"):
            return "<Result not made>"
        return f"<Result {self.id!r} {self.url}>"

    def __copy__(self) -> Result:
        """Return a twin of the same client: `dataclasses.asdict(item)` and data frames copy results."""
        twin = Result(
            self.generation,
            self._downloads,
            self._token,
            renew=self._renew,
            is_remembered=self._is_remembered,
            prompt=self.prompt,
        )
        twin._start = self._start
        return twin

    def __deepcopy__(self, memo: object) -> Result:
        return self.__copy__()

    def __reduce__(self) -> tuple[Callable[..., Result], tuple[object, ...]]:
        # A client belongs to a loop and to sockets; the token is what travels.
        return _unpickled, (self.generation, self._token, self._start, self.prompt)

    def _repr_html_(self) -> str:
        """Show a picture in a notebook; only its URL is put into the page."""
        cost = "" if self.credit_cost is None else f", {self.credit_cost:g} credits"
        about = html.escape(f"{self.prompt or self.id}{cost}")
        is_picture = self.type in (None, MediaType.IMAGE)
        url = html.escape(self.url)
        output = f'<img src="{url}" alt="{about}" style="max-width: 512px">' if is_picture else url
        return f'<figure><a href="{url}">{output}</a><figcaption>{about}</figcaption></figure>'

    @property
    def id(self) -> str:
        """The service's id of the job."""
        return self.generation.id

    @property
    def url(self) -> str:
        """Where the output is; a job without one is not finished."""
        return self.generation.url or ""

    @property
    def type(self) -> str | None:
        """The media type, such as "IMAGE"; None for a job resumed by its bare id."""
        return self.generation.type

    @property
    def provider(self) -> str | None:
        """The provider; None for a job resumed by its bare id."""
        return self.generation.provider

    @property
    def metadata(self) -> JsonValue:
        """The service's other data about the job, as JSON."""
        return self.generation.metadata

    @property
    def extra(self) -> Mapping[str, JsonValue]:
        """Every other field that the service sent, such as `duration` or `completedAt`, as JSON."""
        return self.generation.extra

    @property
    def credit_cost(self) -> int | float | None:
        """The actual cost in credits, or None if the service did not report it."""
        return self.generation.credit_cost

    @property
    def created_at(self) -> datetime | None:
        """When the job was created, by the service's clock."""
        return self.generation.created_at

    @property
    def suffix(self) -> str | None:
        """The ending that fits the output's bytes, such as ".jpg"; None until it was fetched."""
        return None if self._start is None else self._start.suffix

    @property
    def content_type(self) -> str | None:
        """The `Content-Type` that the output's host sent; None until it was fetched, or if there was none."""
        return None if self._start is None else self._start.content_type

    async def chunks(self, *, check: bool = True) -> AsyncGenerator[bytes, None]:
        """Yield the output piece by piece as it arrives, so that a large one never is in memory as a whole.

        Use it as `async with contextlib.aclosing(result.chunks()) as chunks`, or iterate it to its end.

        Args:
            check: as in `read`.

        Raises:
            DownloadError: as `read` does; and if the download broke off and the host cannot resume it: then
                what was yielded is void.
        """
        is_begun = False
        with self._named():
            async with aclosing(self._pieces(check)) as pieces:
                async for piece in pieces:
                    if not isinstance(piece, Start):
                        is_begun = True
                        yield piece
                    elif is_begun:
                        raise DownloadError(
                            "The download broke off, and the host sends it only from its beginning.",
                            is_remote=True,
                        )

    async def read(self, *, check: bool = True) -> bytes:
        """Return the output as bytes.

        If its URL has expired, one poll asks for a new one.

        Args:
            check: whether to reject a page or JSON received instead of a picture, video or audio file; False
                accepts any bytes.

        Raises:
            DownloadError: if the output cannot be fetched whole, or is empty, too large, too slow or an error
                page.
        """
        chunks: list[bytes] = []
        with self._named():
            async with aclosing(self._pieces(check)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Start):
                        chunks.clear()
                    else:
                        chunks.append(piece)
            return b"".join(chunks)

    async def save(self, path: str | os.PathLike[str], *, check: bool = True) -> Path:
        """Write the output to a file and return the file's path.

        The file appears under its name only once it is whole; it replaces an existing file and follows a
        link. The name stays as given, whatever the output is.

        Args:
            path: a file; or an existing directory, where the file is named after the job's id, with the
                ending that fits its bytes. A different file of that name stays: the new name gets a number.
            check: as in `read`.

        Raises:
            DownloadError: if the output cannot be downloaded, or the file cannot be written: a device, a
                pipe, a socket or a folder is no file.
        """
        target = Path(path)
        with self._named():
            is_folder = os.fspath(path).endswith(("/", os.sep)) or await in_thread(target.is_dir, target)
            if is_folder:
                written = await self._write(
                    lambda suffix: target / safe_name(self.id, suffix), check, existing=Existing.ADOPT
                )
            else:
                written = await self._write(target, check)
        return written.path

    async def write(self, name: Callable[[str], Path], *, check: bool = True) -> SavedFile:
        """Write the output, as `save` does, to a file whose name depends on the kind of output.

        Args:
            name: maps an ending such as ".jpg" to the path of the file, which replaces an existing one. It is
                called again if a download restarts.
            check: as in `read`.

        Raises:
            DownloadError: if the output cannot be downloaded, or the file cannot be written.
        """
        with self._named():
            return await self._write(name, check)

    async def write_beside(
        self, name: Callable[[str], Path], *, is_resumed: bool = False, owner: str = ""
    ) -> SavedFile:
        """Write the output of a batch's item; unlike `write`, never over a file that is not the item's.

        Args:
            name: as in `write`; if the name is taken, the new one gets a number.
            is_resumed: whether an earlier run may have written this output: a file that has the same bytes,
                or the first of them, is then the item's, unless it has another ledger's mark.
            owner: the mark of the ledger.

        Raises:
            DownloadError: as in `write`.
        """
        existing = Existing.ADOPT if is_resumed else Existing.KEEP
        with self._named():
            return await self._write(name, True, existing=existing, owner=owner)

    async def _write(
        self,
        target: Path | Callable[[str], Path],
        check: bool,
        *,
        existing: Existing = Existing.REPLACE,
        owner: str = "",
    ) -> SavedFile:
        async with aclosing(self._pieces(check)) as pieces:
            return await write_whole(target, pieces, existing=existing, owner=owner)

    async def _pieces(self, check: bool) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output, from a new URL if this one has expired."""
        try:
            async with aclosing(self._noted(check)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except DownloadError as error:
            if not await self._is_renewed(error):
                raise
        async with aclosing(self._noted(check)) as pieces:
            async for piece in pieces:
                yield piece

    async def _noted(self, check: bool) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output, and note what it turns out to be."""
        async with aclosing(self._downloads.pieces(self.generation, check=check)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Start):
                    self._start = piece
                yield piece

    async def _is_renewed(self, error: DownloadError) -> bool:
        """Poll for a new URL if that may help; return whether there is one."""
        is_of_url = error.http_status in EXPIRED or (self._is_remembered and error.is_remote)
        if self._renew is None or not is_of_url:
            return False
        try:
            now = await self._renew()
        except DoitongError as failure:
            error.message = f"{error.message} The poll for a new URL failed: {failure.message}"
            return False
        if now.url in (None, self.generation.url):
            return False
        self.generation = now
        return True

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let only errors of this library out, each with the id and the token of this job."""
        try:
            yield
        except DoitongError as error:
            self._about(error)
            raise
        except Exception as error:
            foreign = DownloadError(f"The output cannot be fetched: {type(error).__name__}.", is_remote=True)
            raise self._about(foreign) from error

    def _about(self, error: DoitongError) -> DoitongError:
        token = self._token or write_token(JobRef(self.id, self.type, self.provider))
        return about_job(error, job_id=self.id, token=token)


class _NoClient:
    """The source of a result that was unpickled."""

    async def pieces(self, job: Generation, *, check: bool = True) -> AsyncGenerator[Start | bytes, None]:
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece
        raise DownloadError("This result was unpickled, and no client belongs to it that could fetch it.")


def _unpickled(generation: Generation, token: str | None, start: Start | None, prompt: str | None) -> Result:
    result = Result(generation, _NoClient(), token, prompt=prompt)
    result._start = start
    return result
