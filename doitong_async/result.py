"""What a finished job gives: its fields, and its output as bytes or as a whole file."""

from __future__ import annotations

import os
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from doitong_async.errors import DoitongError, DownloadError, about_job
from doitong_async.files import Start, Written, in_thread, safe_name, write_whole
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.types import Generation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from doitong_async.downloads import Downloads


EXPIRED: Final = (401, 403, 404, 410)
"""What an output host answers for a URL that is no longer good (assumption): one poll may tell a new one."""


class Result:
    """A finished job. The service does not say how long outputs stay: save them when the job completes.

    Args:
        generation: what is known of it.
        downloads: fetches the output.
        token: takes the job up again.
        renew: asks the service, in one poll, where the output is now.
        is_remembered: whether the URL is of an earlier run: whatever keeps it from being fetched, a poll may
            tell a better one.
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
        """The media type, such as "IMAGE"; None for a job taken up by its bare id."""
        return self.generation.type

    @property
    def provider(self) -> str | None:
        """The provider; None for a job taken up by its bare id."""
        return self.generation.provider

    @property
    def metadata(self) -> JsonValue:
        """What else the service said of the job, as JSON."""
        return self.generation.metadata

    @property
    def credit_cost(self) -> int | float | None:
        """What the job really cost, in credits, or None if the service did not say."""
        return self.generation.credit_cost

    @property
    def created_at(self) -> datetime | None:
        """When the job was created, by the service's clock."""
        return self.generation.created_at

    async def read(self, *, check: bool = True) -> bytes:
        """Return the output as bytes.

        Where its URL has expired, one poll asks for a new one.

        Args:
            check: whether a page or JSON in the place of a picture, a video or a sound is refused, as it is
                an error; else the bytes are taken as they are.

        Raises:
            DownloadError: if it cannot be had whole, or is empty, too large, too slow or an error page.
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

        The file appears under its name only when it is whole; one that stood there is replaced, and a link is
        followed. The name is kept as given, whatever the output is.

        Args:
            path: a file; or an existing directory, in which the file is named after the job's id, with the
                ending that its bytes tell. A file there that has other bytes is left alone: the name gets a
                number.
            check: as `read` takes it.

        Raises:
            DownloadError: if the output cannot be had, or the file cannot be written: a device, a pipe, a
                socket or a folder is no file.
        """
        place = Path(path)
        with self._named():
            is_folder = os.fspath(path).endswith(("/", os.sep)) or await in_thread(place.is_dir, place)
            if is_folder:
                written = await self._write(lambda suffix: place / safe_name(self.id, suffix), check, False)
            else:
                written = await self._write(place, check)
        return written.path

    async def write(self, name: Callable[[str], Path], *, check: bool = True) -> Written:
        """Write the output to a file whose name hangs on what it is, as `save` does.

        Args:
            name: from an ending such as ".jpg" to the path of the file; a file that stands there is replaced.
                It may be called again where a download begins anew.
            check: as `read` takes it.

        Raises:
            DownloadError: if the output cannot be had, or the file cannot be written.
        """
        with self._named():
            return await self._write(name, check)

    async def _write(
        self, place: Path | Callable[[str], Path], check: bool, replaces: bool = True
    ) -> Written:
        async with aclosing(self._pieces(check)) as pieces:
            return await write_whole(place, pieces, replaces=replaces)

    async def _pieces(self, check: bool) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output; from a new URL where this one is no longer good."""
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
        """Ask for a new URL where that may help, and say whether there is one."""
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
        """Let nothing leave but errors of this library, each with the id and the token of this job."""
        try:
            yield
        except DoitongError as error:
            self._about(error)
            raise
        except Exception as error:
            foreign = DownloadError(f"The output cannot be had: {type(error).__name__}.", is_remote=True)
            raise self._about(foreign) from error

    def _about(self, error: DoitongError) -> DoitongError:
        token = self._token or write_token(JobRef(self.id, self.type, self.provider))
        return about_job(error, job_id=self.id, token=token)
