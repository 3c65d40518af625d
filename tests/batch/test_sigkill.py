"""A batch whose process is killed with SIGKILL at random moments, repeatedly."""

from __future__ import annotations

import asyncio

import pytest

from tests.batch import sigkill
from tests.strides import offset

pytestmark = pytest.mark.slow


def test_killed_at_random_nothing_is_paid_twice_and_nothing_lost() -> None:
    """Four batches at once, against a service that cuts connections before and after it made the job."""
    assert asyncio.run(sigkill.rounds(4, offset(1_000))) == []
