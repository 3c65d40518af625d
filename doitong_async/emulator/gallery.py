"""Draws the output of a finished job in a thread, and keeps it."""

import asyncio
from functools import lru_cache

from doitong_async.emulator.jobs import Job
from doitong_async.emulator.sounds import melody

try:
    from doitong_async.emulator.pictures import moving_picture, picture
except ModuleNotFoundError as missing:
    if missing.name != "PIL":
        raise
    raise ImportError("the emulator draws with Pillow: pip install 'doitong-async[emulator]'") from None

KEPT = 32


class Gallery:
    """Draws any job's output; equal prompt, provider and size give equal bytes."""

    def __init__(self) -> None:
        self._content = lru_cache(maxsize=KEPT)(content)

    async def draw(self, job: Job) -> bytes:
        """Return a job's output."""
        return await asyncio.to_thread(
            self._content, job.type, job.prompt, job.provider, job.width, job.height
        )


def content(media_type: str, prompt: str, provider: str, width: int, height: int) -> bytes:
    """Return a JPEG of the requested size, a GIF for video and avatars, a WAV for audio."""
    if media_type == "AUDIO":
        return melody(prompt)
    if media_type in ("VIDEO", "AVATAR"):
        return moving_picture(prompt, provider, talking=media_type == "AVATAR")
    return picture(prompt, provider, width, height)
