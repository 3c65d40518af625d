"""A batch whose process is killed with SIGKILL at random moments, repeatedly."""

from __future__ import annotations

import asyncio

import pytest

from tests.batch import sigkill
from tests.strides import offset

pytestmark = pytest.mark.slow


def test_random_kills_lose_nothing_and_pay_for_nothing_twice() -> None:
    """Four batches at once, at a service that cuts connections before and after it makes the job."""
    assert asyncio.run(sigkill.rounds(4, offset(1_000))) == []
