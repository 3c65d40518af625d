"""The result of a finished job: its fields, and its output as bytes or as a file."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from doitong_async.errors import DoitongError, DownloadError, about_job
from doitong_async.files import SavedFile, Start, in_thread, safe_name, write_whole
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.downloads import Downloads


EXPIRED: Final = (401, 403, 404, 410)
"""Statuses of an output host for an expired URL (assumption): one poll may return a new URL."""


class Result:
    """A finished job. The service does not document how long outputs stay: save them at once.

    Args:
        generation: the job's last snapshot.
        downloads: downloads the output.
        token: resumes the job.
        renew: polls once for the output's current URL.
        is_remembered: whether the URL is from an earlier run: then any failed download is worth such a poll.
    """

    __slots__ = ("_downloads", "_is_remembered", "_renew", "_token", "generation")

    def __init__(
        self,
        generation: Generation,
        downloads: Downloads,
        token: str | None = None,
        *,
        renew: Callable[[], Awaitable[Generation]] | None = None,
        is_remembered: bool = False,
    ) -> None:
        self.generation = generation
        self._downloads = downloads
        self._token = token
        self._renew = renew
        self._is_remembered = is_remembered

    def __repr__(self) -> str:
        if not hasattr(self, "generation"):
            return "<Result not made>"
        return f"<Result {self.id!r} {self.url}>"

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
    def credit_cost(self) -> int | float | None:
        """The actual cost in credits, or None if the service did not report it."""
        return self.generation.credit_cost

    @property
    def created_at(self) -> datetime | None:
        """When the job was created, by the service's clock."""
        return self.generation.created_at

    async def read(self, *, check: bool = True) -> bytes:
        """Return the output as bytes.

        If its URL has expired, one poll asks for a new one.

        Args:
            check: whether to reject a page or JSON in target of a picture, video or audio file, as that is an
                error; False accepts any bytes.

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
                written = await self._write(lambda suffix: target / safe_name(self.id, suffix), check, False)
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

    async def _write(
        self, target: Path | Callable[[str], Path], check: bool, replaces: bool = True
    ) -> SavedFile:
        async with aclosing(self._pieces(check)) as pieces:
            return await write_whole(target, pieces, replaces=replaces)

    async def _pieces(self, check: bool) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output, from a new URL if this one has expired."""
        try:
            async with aclosing(self._downloads.pieces(self.generation, check=check)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except DownloadError as error:
            if not await self._is_renewed(error):
                raise
        async with aclosing(self._downloads.pieces(self.generation, check=check)) as pieces:
            async for piece in pieces:
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
