"""The outputs of finished jobs: drawn in a thread when they are first asked for, the last few kept."""

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
    """Gives the bytes of any job's output; the same prompt, provider and size give the same bytes."""

    def __init__(self) -> None:
        self._content = lru_cache(maxsize=KEPT)(content)

    async def draw(self, job: Job) -> bytes:
        """The output of a job."""
        return await asyncio.to_thread(
            self._content, job.type, job.prompt, job.provider, job.width, job.height
        )


def content(media_type: str, prompt: str, provider: str, width: int, height: int) -> bytes:
    """A JPEG of the asked size, a GIF for video and avatars, a WAV for audio."""
    if media_type == "AUDIO":
        return melody(prompt)
    if media_type in ("VIDEO", "AVATAR"):
        return moving_picture(prompt, provider, talking=media_type == "AVATAR")
    return picture(prompt, provider, width, height)
