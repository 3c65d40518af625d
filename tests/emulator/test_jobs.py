"""A job's status and fields over time."""

import random
from dataclasses import replace
from statistics import median

import pytest

from doitong_async.emulator.jobs import FAILURE, Job, draw_duration, draw_id, iso
from doitong_async.emulator.orders import Order


def a_job(media_type: str = "IMAGE", duration: float | None = None) -> Job:
    return Job(
        number=0,
        id="abc123xyz",
        order=Order(media_type, "flux-kontext", "a fox", 640, 480, duration, "https://example.com/hook"),
        key="k",
        idempotency_key=None,
        credit_cost=20,
        charged=True,
        created_at=0.0,
        starts_at=5.0,
        ends_at=11.0,
        created_wall=1_704_067_200.0,
    )


@pytest.mark.parametrize(
    ("now", "status"), [(0.0, "queued"), (5.0, "processing"), (10.9, "processing"), (11.0, "completed")]
)
def test_status_depends_on_the_time(now: float, status: str) -> None:
    """Queued until it starts, processing until it ends, then completed forever."""
    assert a_job().status_at(now) == status


def test_fields_of_a_completed_image() -> None:
    """The documented names; the URL appears once the job is completed."""
    job = a_job()
    assert job.fields_at(6.0, "https://cdn.doitong.com/outputs")["url"] is None
    assert job.fields_at(11.0, "https://cdn.doitong.com/outputs") == {
        "id": "abc123xyz",
        "status": "completed",
        "type": "IMAGE",
        "provider": "flux-kontext",
        "url": "https://cdn.doitong.com/outputs/abc123xyz.jpg",
        "videoUrl": None,
        "audioUrl": None,
        "metadata": {"duration": None, "width": 640, "height": 480},
        "creditCost": 20,
        "createdAt": "2024-01-01T00:00:00Z",
        "duration": None,
        "webhookUrl": "https://example.com/hook",
        "width": 640,
        "height": 480,
    }


@pytest.mark.parametrize(
    ("media_type", "field", "extension"),
    [("VIDEO", "videoUrl", "gif"), ("AVATAR", "videoUrl", "gif"), ("AUDIO", "audioUrl", "wav")],
)
def test_other_media_have_their_own_url_field(media_type: str, field: str, extension: str) -> None:
    """The URL has its documented name as well, and an extension that fits its content."""
    fields = a_job(media_type, duration=5).fields_at(99.0, "o")
    assert fields[field] == fields["url"] == f"o/abc123xyz.{extension}"
    assert fields["duration"] == 5


@pytest.mark.parametrize(
    ("media_type", "seconds"), [("IMAGE", 6), ("VIDEO", 90), ("AVATAR", 30), ("AUDIO", 4)]
)
def test_random_durations_have_the_right_median(media_type: str, seconds: float) -> None:
    """Half of the jobs are shorter than the median of their type."""
    rng = random.Random(1)
    drawn = [draw_duration(rng, media_type, n, None) for n in range(4_000)]
    assert median(drawn) == pytest.approx(seconds, rel=0.03)


def test_given_durations_are_used() -> None:
    """One number for every job, or a function of the job's number."""
    rng = random.Random(1)
    assert draw_duration(rng, "IMAGE", 3, 2.5) == 2.5
    assert draw_duration(rng, "IMAGE", 3, lambda number: number * 10.0) == 30.0


def test_ids_are_alphanumeric() -> None:
    """An id needs no escaping in a URL."""
    job_id = draw_id(random.Random(1))
    assert job_id.isascii()
    assert job_id.isalnum()


def test_times_are_iso_8601() -> None:
    """In the documentation's form."""
    assert iso(0) == "1970-01-01T00:00:00Z"


def test_failed_job_has_a_reason_and_no_output() -> None:
    """It says so at its end, and not before."""
    job = replace(a_job("VIDEO"), fails=True)
    assert job.status_at(10.9) == "processing"
    fields = job.fields_at(11.0, "o")
    assert (fields["status"], fields["url"], fields["videoUrl"]) == ("failed", None, None)
    assert (fields["metadata"], fields["creditCost"]) == ({"reason": FAILURE}, 20)


def test_failed_job_that_is_not_charged_costs_nothing() -> None:
    """From its end on."""
    job = replace(a_job(), fails=True, charged=False)
    assert [job.fields_at(now, "o")["creditCost"] for now in (10.9, 11.0)] == [20, 0]


def test_odd_status_comes_between_processing_and_the_end() -> None:
    """For as long as the fault says."""
    job = replace(a_job(), odd_word="dreaming", odd_from=8.0)
    assert [job.status_at(now) for now in (7.9, 8.0, 10.9, 11.0)] == [
        "processing",
        "dreaming",
        "dreaming",
        "completed",
    ]
