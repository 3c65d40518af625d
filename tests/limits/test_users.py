"""The clients on one key: the narrowest of their plans, and which key a job belongs to."""

from __future__ import annotations

from doitong_async import Plan
from doitong_async.limits.users import MOST_KNOWN, KeyUser, KeyUsers


def test_the_narrowest_of_several_plans_applies() -> None:
    """Until its client leaves; the plan of the last client remains."""
    users = KeyUsers(Plan.FREE)
    wide, narrow = KeyUser(Plan.PRO), KeyUser(Plan.enterprise(requests_per_minute=90, concurrent_jobs=2))
    users.join(wide)
    users.join(narrow)
    assert (users.plan.requests_per_minute, users.plan.concurrent_jobs) == (60, 2)
    users.leave(narrow)
    users.leave(wide)
    assert users.plan == Plan.PRO
    assert not users


def test_an_assumed_plan_narrows_no_other() -> None:
    """The client assumes Free only because nothing names the real plan."""
    users = KeyUsers(Plan.FREE)
    users.join(KeyUser(Plan.FREE, plan_is_assumed=True, polls_count=False))
    assert not users.polls_count
    users.join(KeyUser(Plan.PRO))
    assert (users.plan, users.polls_count) == (Plan.PRO, True)


def test_the_service_may_lower_the_request_rate_but_not_raise_it() -> None:
    """Nor can it lower the rate to zero."""
    users = KeyUsers(Plan.PRO)
    for reported, allowed in ((6, 6), (90, 60), (0, 1)):
        users.reported(reported)
        assert users.requests_per_minute == allowed


def test_a_job_belongs_to_the_key_it_was_first_returned_for() -> None:
    """The client remembers the most recent finished jobs, and all that are still known."""
    users = KeyUsers(Plan.PRO)
    user = KeyUser(Plan.PRO)
    users.join(user)

    def claim(job_id: str, key: str) -> str:
        return users.claim(job_id, key, user=user, is_known=lambda each: each == "running")

    assert claim("running", "k0") == "k0"
    assert claim("old", "k1") == claim("old", "k2") == "k1"
    for number in range(2 * MOST_KNOWN):
        claim(f"j{number}", "k")
    assert claim("running", "k3") == "k0"
    assert claim("old", "k3") == "k3"
    assert claim(f"j{2 * MOST_KNOWN - 1}", "k3") == "k"
    users.leave(user)
    assert claim("running", "k3") == "k3"


def test_a_client_does_not_forget_the_jobs_of_another() -> None:
    """Only the other one knows whether they still run; with it gone they are forgotten like any."""
    users = KeyUsers(Plan.PRO)
    one, other = KeyUser(Plan.PRO), KeyUser(Plan.PRO)
    users.join(one)
    users.join(other)
    assert users.claim("long", "k0", user=one, is_known=lambda _: True) == "k0"
    for number in range(6 * MOST_KNOWN):
        users.claim(f"j{number}", "k", user=other, is_known=lambda _: False)
    assert users.claim("long", "k1", user=other, is_known=lambda _: False) == "k0"
    users.leave(one)
    for number in range(6 * MOST_KNOWN):
        users.claim(f"m{number}", "k", user=other, is_known=lambda _: False)
    assert users.claim("long", "k2", user=other, is_known=lambda _: False) == "k2"
