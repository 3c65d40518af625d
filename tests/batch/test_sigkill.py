"""A batch whose process is killed with SIGKILL at random moments, repeatedly."""

from __future__ import annotations

import asyncio

import pytest

from tests.batch import sigkill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_nothing_is_paid_twice_and_nothing_lost(seed: int) -> None:
    """Five rounds each, against a service that cuts connections before and after it made the job."""
    assert asyncio.run(sigkill.rounds(5, seed)) == []
