"""What processes on one key tell each other about a job: never a prompt, a secret or a header."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class JobFacts:
    """What a poll of a job needs, and what the last one brought; never a prompt.

    Attributes:
        id: of the job.
        provider: as in its request, like `version` and `size`: they make up its kind.
        version: as in its request.
        size: of a picture, in pixels.
        media: what it makes.
        submitted: when its submit was accepted.
        interval: seconds between two polls at least.
        status: as the service writes it.
        url: of its output.
        cost: credits.
        is_missing: whether the service does not know it.
        trouble: why its polls fail, as the kind of the failure and the HTTP status.
    """

    id: str
    provider: str | None = None
    version: str | None = None
    size: int | None = None
    media: str | None = None
    submitted: float = 0.0
    interval: float = 2.0
    status: str = "processing"
    url: str | None = None
    cost: float | None = None
    is_missing: bool = False
    trouble: tuple[str, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What a poll or a webhook said of a job; `is_over` is whether nothing more is to come of it."""

    job_id: str
    status: str | None = None
    url: str | None = None
    cost: float | None = None
    is_over: bool = False
    is_missing: bool = False
    trouble: tuple[str, int | None] | None = None
