"""A batch whose process is killed with SIGKILL at random moments, repeatedly."""

from __future__ import annotations

import asyncio

import pytest

from tests.batch import shared_folder, sigkill
from tests.strides import offset

pytestmark = pytest.mark.slow


def test_random_kills_lose_nothing_and_pay_for_nothing_twice() -> None:
    """Four batches at once, at a service that cuts connections before and after it makes the job."""
    assert asyncio.run(sigkill.rounds(4, offset(1_000))) == []


def test_kills_in_a_shared_folder_leave_nothing_else_there() -> None:
    """Three ledgers, one folder, a server that is not the emulator; all 14 are killed by hand, as it says."""
    report = asyncio.run(shared_folder.killed(batches=3, kills=2, seed=offset(1_000)))
    assert report.wrong == []
    assert report.kills.total() == 6
    assert report.jobs == report.pictures == report.items
