"""What a finished job gives: its fields, and its output as bytes or as a whole file."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import JsonValue

from doitong_async import media
from doitong_async.errors import DoitongError, about_job
from doitong_async.files import Written, safe_name, write_whole
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.types import Generation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from doitong_async.downloads import Downloads


class Result:
    """A finished job. The service does not say how long outputs stay: save them when the job completes."""

    __slots__ = ("_downloads", "_token", "generation")

    def __init__(self, generation: Generation, downloads: Downloads, token: str | None = None) -> None:
        self.generation = generation
        self._downloads = downloads
        self._token = token

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

    async def read(self) -> bytes:
        """Return the output as bytes.

        Raises:
            DownloadError: if it cannot be had, is truncated, empty, too large or not what the job makes.
        """
        with self._named():
            async with aclosing(self._downloads.chunks(self.generation)) as chunks:
                return b"".join([chunk async for chunk in chunks])

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the output to a file and return the file's path.

        The file appears under its name only when it is whole; one that stood there is replaced.

        Args:
            path: a file, or an existing directory, in which the file is named after the job's id.

        Raises:
            DownloadError: if the output cannot be had, or the file cannot be written.
        """
        place = Path(path)
        is_folder = os.fspath(path).endswith(("/", os.sep)) or await asyncio.to_thread(place.is_dir)
        written = await self.write(lambda suffix: place / safe_name(self.id, suffix) if is_folder else place)
        return written.path

    async def write(self, name: Callable[[str], Path]) -> Written:
        """Write the output to a file whose name hangs on what it is, as `save` does.

        Args:
            name: from an ending such as ".jpg" to the path of the file.

        Raises:
            DownloadError: if the output cannot be had, or the file cannot be written.
        """
        with self._named():
            return await self._write(name)

    async def _write(self, name: Callable[[str], Path]) -> Written:
        async with aclosing(self._downloads.chunks(self.generation)) as chunks:
            # The first chunk is asked for before the file is opened: it tells the ending, and most failures.
            first = await anext(chunks)
            path = name(media.suffix_of(first) or self._suffix())
            return await write_whole(path, _with_first(first, chunks))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let no error leave without the id and the token of this job."""
        try:
            yield
        except DoitongError as error:
            token = self._token or write_token(JobRef(self.id, self.type, self.provider))
            about_job(error, job_id=self.id, token=token)
            raise

    def _suffix(self) -> str:
        """The ending that the URL has, if it is a plain one."""
        suffix = PurePosixPath(urlsplit(self.url).path).suffix
        return suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= 6 else ".bin"


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
