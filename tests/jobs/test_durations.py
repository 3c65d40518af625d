"""How long jobs of a kind take: a running mean that follows the service."""

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


def seen(*seconds: float) -> Durations:
    """Return the durations after pictures whose ends the service reported."""
    durations = Durations()
    for each in seconds:
        durations.add(FOX, each, each)
    return durations


# Kinds


def test_providers_and_versions_are_kinds_of_their_own() -> None:
    """Each model has a speed of its own."""
    one, other, third = (
        GenerateRequest(prompt="a fox", provider=provider, version=version, type="IMAGE")
        for provider, version in (("flux-pro", None), ("flux-pro", "flux-pro-1.1"), ("brand-new", None))
    )
    assert len({kind_of(one), kind_of(other), kind_of(third)}) == 3


def test_pictures_of_about_one_size_are_of_one_kind() -> None:
    """Pixels count, not sides, and only to a power of two."""
    assert kind_of(picture(1024, 1024)) == kind_of(picture(2048, 512)) == kind_of(picture(1448, 1448))
    assert kind_of(picture(2048, 1024)) != kind_of(picture(1024, 1024)) != kind_of(picture(1023, 1024))


@pytest.mark.parametrize(
    ("side", "size"), [(1, 1), (64, 4_096), (1_023, 2**19), (1_024, 2**20), (1_448, 2**20), (1_449, 2**21)]
)
def test_a_size_is_the_power_of_two_below_the_pixels(side: int, size: int) -> None:
    """That is what `Stats` shows of a kind."""
    assert kind_of(picture(side, side)).size == size


def test_a_side_that_is_left_open_counts_as_the_services_default() -> None:
    """1,024 pixels, for each side by itself."""
    assert kind_of(picture(None, None)) == kind_of(picture(1024, 1024))
    for side in (1023, 2047, 2048):
        assert kind_of(picture(side, None)) == kind_of(picture(None, side)) == kind_of(picture(side, 1024))


def test_the_size_of_what_is_no_picture_tells_nothing() -> None:
    """A video's length would, but no request names it."""
    small, large = (
        GenerateRequest(prompt="waves", provider="kling", type="VIDEO", width=side, height=side)
        for side in (64, 2048)
    )
    assert kind_of(small) == kind_of(large)


# Means


def test_the_mean_of_the_first_jobs_is_their_average() -> None:
    """Each of few counts alike."""
    assert seen(6.0, 9.0, 12.0).means() == {FOX: pytest.approx(9.0)}


def test_a_mean_follows_a_service_that_slows_down() -> None:
    """The twentieth part of each job counts, however many there were before it."""
    long_ago = seen(*[6.0] * 1_000)
    long_ago.add(FOX, 26.0, 26.0)
    assert long_ago.means()[FOX] == pytest.approx(7.0)
    just_before = seen(*[6.0] * 19)
    just_before.add(FOX, 26.0, 26.0)
    assert just_before.means()[FOX] == pytest.approx(7.0)


def test_the_first_job_between_two_polls_counts_as_their_middle() -> None:
    """Nothing else is known of when it ended."""
    durations = Durations()
    durations.add(FOX, 4.0, 6.0)
    assert durations.means() == {FOX: 5.0}


@pytest.mark.parametrize(
    ("low", "high", "counts_as"),
    [
        (8.0, 12.0, 10.0),  # the mean is the middle
        (9.0, 13.0, 10.5),  # the mean lies between the polls: half way to it from 11
        (12.0, 16.0, 13.0),  # it is below both: half way from 14 to the earlier poll
        (4.0, 8.0, 7.0),  # it is above both: half way from 6 to the later poll
    ],
)
def test_a_job_between_two_polls_is_drawn_towards_the_mean(low: float, high: float, counts_as: float) -> None:
    """The mean so far is 10 s; the end is where both agree best, but never outside of the polls."""
    durations = seen(10.0)
    durations.add(FOX, low, high)
    assert durations.means()[FOX] == pytest.approx((10.0 + counts_as) / 2)


def test_kinds_have_means_of_their_own() -> None:
    """A video does not make pictures slow."""
    durations = seen(6.0)
    durations.add(WAVES, 90.0, 90.0)
    assert durations.means() == {FOX: 6.0, WAVES: 90.0}


# The mean of what is running


def test_running_jobs_take_as_long_as_their_kinds() -> None:
    """On average: a mixture has the mean of its parts."""
    durations = seen(6.0)
    durations.add(WAVES, 90.0, 90.0)
    assert durations.mean([(FOX, 0.0), (FOX, 0.0), (WAVES, 0.0)], enough=1) == pytest.approx(34.0)


def test_a_job_that_runs_already_for_longer_takes_at_least_as_long_as_it_has() -> None:
    """Its kind may have become slow, and no other has ended since."""
    durations = seen(6.0)
    assert durations.mean([(FOX, 5.0)], enough=1) == 6.0
    assert durations.mean([(FOX, 20.0)], enough=1) == 20.0


def test_a_kind_of_which_too_few_have_ended_is_not_known() -> None:
    """The first that end are the short ones."""
    durations = seen(6.0, 6.0)
    assert durations.mean([(FOX, 0.0)], enough=2) == 6.0
    assert durations.mean([(FOX, 0.0)], enough=3) is None


def test_jobs_of_unknown_kinds_do_not_count() -> None:
    """Those that are known speak for them; without any of these, nothing is known."""
    durations = seen(6.0)
    assert durations.mean([(FOX, 0.0), (WAVES, 100.0)], enough=1) == 6.0
    assert durations.mean([(WAVES, 100.0)], enough=1) is None
    assert durations.mean([], enough=1) is None
