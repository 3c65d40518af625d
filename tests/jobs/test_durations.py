"""The mean duration of jobs by kind: a running mean that follows the service."""

from __future__ import annotations

import pytest

from doitong_async import GenerateRequest
from doitong_async.jobs.durations import Durations, kind_of


def picture(width: int | None = 1024, height: int | None = 1024) -> GenerateRequest:
    """Return a request for a picture of this size."""
    return GenerateRequest(
        prompt="a fox", provider="flux-pro", version="flux-pro-1.1", type="IMAGE", width=width, height=height
    )


FOX = kind_of(picture())
WAVES = kind_of(GenerateRequest(prompt="waves", provider="kling", type="VIDEO"))


def durations_after(*seconds: float) -> Durations:
    """Return the durations after pictures that took this many seconds."""
    durations = Durations()
    for each in seconds:
        durations.add(FOX, each, each)
    return durations


# Kinds


def test_each_provider_and_version_is_its_own_kind() -> None:
    """Each model runs at its own speed."""
    one, other, third = (
        GenerateRequest(prompt="a fox", provider=provider, version=version, type="IMAGE")
        for provider, version in (("flux-pro", None), ("flux-pro", "flux-pro-1.1"), ("brand-new", None))
    )
    assert len({kind_of(one), kind_of(other), kind_of(third)}) == 3


def test_pictures_of_similar_size_share_a_kind() -> None:
    """The number of pixels counts, not the sides, rounded down to a power of two."""
    assert kind_of(picture(1024, 1024)) == kind_of(picture(2048, 512)) == kind_of(picture(1448, 1448))
    assert kind_of(picture(2048, 1024)) != kind_of(picture(1024, 1024)) != kind_of(picture(1023, 1024))


@pytest.mark.parametrize(
    ("side", "size"), [(1, 1), (64, 4_096), (1_023, 2**19), (1_024, 2**20), (1_448, 2**20), (1_449, 2**21)]
)
def test_the_size_is_the_pixels_rounded_down_to_a_power_of_two(side: int, size: int) -> None:
    """`Stats` shows this size for each kind."""
    assert kind_of(picture(side, side)).size == size


def test_an_omitted_side_counts_as_the_services_default() -> None:
    """Each omitted side counts as 1,024 pixels."""
    assert kind_of(picture(None, None)) == kind_of(picture(1024, 1024))
    for side in (1023, 2047, 2048):
        assert kind_of(picture(side, None)) == kind_of(picture(None, side)) == kind_of(picture(side, 1024))


def test_only_pictures_are_grouped_by_size() -> None:
    """The length of a video would matter, but a request does not name it."""
    small, large = (
        GenerateRequest(prompt="waves", provider="kling", type="VIDEO", width=side, height=side)
        for side in (64, 2048)
    )
    assert kind_of(small) == kind_of(large)


# Means


def test_the_mean_of_the_first_jobs_is_their_average() -> None:
    """The first few jobs have equal weight."""
    assert durations_after(6.0, 9.0, 12.0).means() == {FOX: pytest.approx(9.0)}


def test_the_mean_follows_a_service_that_slows_down() -> None:
    """A new job weighs a twentieth, however many jobs came before it."""
    long_ago = durations_after(*[6.0] * 1_000)
    long_ago.add(FOX, 26.0, 26.0)
    assert long_ago.means()[FOX] == pytest.approx(7.0)
    just_before = durations_after(*[6.0] * 19)
    just_before.add(FOX, 26.0, 26.0)
    assert just_before.means()[FOX] == pytest.approx(7.0)


def test_the_first_job_that_ends_between_two_polls_counts_as_their_midpoint() -> None:
    """Nothing else is known about its end."""
    durations = Durations()
    durations.add(FOX, 4.0, 6.0)
    assert durations.means() == {FOX: 5.0}


@pytest.mark.parametrize(
    ("low", "high", "counts_as"),
    [
        (8.0, 12.0, 10.0),  # the mean is the midpoint
        (9.0, 13.0, 10.5),  # the mean lies between the polls: halfway to it from 11
        (12.0, 16.0, 13.0),  # it lies before both: halfway from 14 to the earlier poll
        (4.0, 8.0, 7.0),  # it lies after both: halfway from 6 to the later poll
    ],
)
def test_a_job_that_ends_between_two_polls_is_pulled_towards_the_mean(
    low: float, high: float, counts_as: float
) -> None:
    """With a mean of 10 s, the estimate moves halfway to the mean but stays between the two polls."""
    durations = durations_after(10.0)
    durations.add(FOX, low, high)
    assert durations.means()[FOX] == pytest.approx((10.0 + counts_as) / 2)


def test_each_kind_has_its_own_mean() -> None:
    """A slow video does not raise the mean of pictures."""
    durations = durations_after(6.0)
    durations.add(WAVES, 90.0, 90.0)
    assert durations.means() == {FOX: 6.0, WAVES: 90.0}


# The mean of the running jobs


def test_the_mean_of_running_jobs_is_the_average_of_their_kinds() -> None:
    """Two pictures of 6 s and a video of 90 s average 34 s."""
    durations = durations_after(6.0)
    durations.add(WAVES, 90.0, 90.0)
    assert durations.mean([(FOX, 0.0), (FOX, 0.0), (WAVES, 0.0)], enough=1) == pytest.approx(34.0)


def test_a_job_counts_for_at_least_the_time_it_has_run() -> None:
    """Its kind may have become slow while no other job has ended to show it."""
    durations = durations_after(6.0)
    assert durations.mean([(FOX, 5.0)], enough=1) == 6.0
    assert durations.mean([(FOX, 20.0)], enough=1) == 20.0


def test_a_kind_with_too_few_finished_jobs_has_no_mean() -> None:
    """The jobs that finish first are the short ones."""
    durations = durations_after(6.0, 6.0)
    assert durations.mean([(FOX, 0.0)], enough=2) == 6.0
    assert durations.mean([(FOX, 0.0)], enough=3) is None


def test_jobs_of_unknown_kinds_do_not_count() -> None:
    """The known kinds decide; with none of them there is no mean."""
    durations = durations_after(6.0)
    assert durations.mean([(FOX, 0.0), (WAVES, 100.0)], enough=1) == 6.0
    assert durations.mean([(WAVES, 100.0)], enough=1) is None
    assert durations.mean([], enough=1) is None
