"""A job as the server knows it: a value whose status is a function of time."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from doitong_async.emulator.faults import Fault
from doitong_async.emulator.orders import Order

Durations = float | Callable[[int], float] | None

FAILURE = "The model gave no output"

_EXTENSIONS = {"VIDEO": "gif", "AVATAR": "gif", "AUDIO": "wav"}
_MEDIANS = {"VIDEO": 90.0, "AVATAR": 30.0, "AUDIO": 4.0}
_IMAGE_MEDIAN = 6.0
_SIGMA = 0.35
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted job; times are on the event loop's clock, `created_wall` in epoch seconds."""

    number: int
    id: str
    order: Order
    key: str
    idempotency_key: str | None
    credit_cost: int
    charged: bool
    created_at: float
    starts_at: float
    ends_at: float
    created_wall: float
    hidden_until: float = -math.inf
    """Before this time a poll does not find it."""
    odd_word: str = ""
    odd_from: float = math.inf
    """From this time until its end the status is the odd word."""
    fails: bool = False
    faults: tuple[Fault, ...] = ()
    """The faults that set the four fields above."""

    @property
    def type(self) -> str:
        return self.order.type

    @property
    def provider(self) -> str:
        return self.order.provider

    @property
    def prompt(self) -> str:
        return self.order.prompt

    @property
    def width(self) -> int:
        return self.order.width

    @property
    def height(self) -> int:
        return self.order.height

    @property
    def file_name(self) -> str:
        """The output's name, with the suffix of its type."""
        return f"{self.id}.{_EXTENSIONS.get(self.type, 'jpg')}"

    def status_at(self, now: float) -> str:
        """Return the status at a time of the event loop's clock."""
        if now >= self.ends_at:
            return "failed" if self.fails else "completed"
        if now >= self.odd_from:
            return self.odd_word
        return "processing" if now >= self.starts_at else "queued"

    def fields_at(self, now: float, outputs_url: str) -> dict[str, Any]:
        """Return every documented field of the answer, by its documented name."""
        status = self.status_at(now)
        url = f"{outputs_url}/{self.file_name}" if status == "completed" else None
        seconds = None if self.file_name.endswith("jpg") else self.order.duration
        metadata = {"duration": seconds, "width": self.width, "height": self.height}
        failed = status == "failed"
        return {
            "id": self.id,
            "status": status,
            "type": self.type,
            "provider": self.provider,
            "url": url,
            "videoUrl": url if self.type in ("VIDEO", "AVATAR") else None,
            "audioUrl": url if self.type == "AUDIO" else None,
            "metadata": {"reason": FAILURE} if failed else metadata,
            "creditCost": 0 if failed and not self.charged else self.credit_cost,
            "createdAt": iso(self.created_wall),
            "duration": seconds,
            "webhookUrl": self.order.webhook_url,
            "width": self.width,
            "height": self.height,
        }


def iso(wall: float) -> str:
    """Return an epoch time as the service writes it: `2024-01-01T00:00:00Z`."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def draw_id(rng: random.Random) -> str:
    """Return an id that looks like the documented `abc123xyz` and does not collide."""
    return "".join(rng.choices(_ID_ALPHABET, k=14))


def draw_duration(rng: random.Random, media_type: str, number: int, durations: Durations) -> float:
    """Return a job's duration in seconds: as configured, or lognormal around its type's median."""
    if callable(durations):
        return durations(number)
    if durations is not None:
        return durations
    return rng.lognormvariate(math.log(_MEDIANS.get(media_type, _IMAGE_MEDIAN)), _SIGMA)
