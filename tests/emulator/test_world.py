"""Keys, limits, jobs, credits and idempotency over time, without a clock."""

from collections.abc import Iterable
from typing import Any

import pytest

from doitong_async.emulator.accounts import Submission
from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.limits import DAY, PlanLimits
from doitong_async.emulator.orders import Order
from doitong_async.emulator.traffic import Seen
from doitong_async.emulator.world import Rules, World

A_FOX = Order("IMAGE", "flux-pro", "a fox")
ME = Submission("me")


def a_world(plan: Any = "free", *, faults: Iterable[str] = (), **rules: Any) -> World:
    return World(plan, Rules(**{"durations": 10.0, **rules}), faults=faults)


def failure_of(world: World, sender: Submission = ME, now: float = 0.0, wall: float = 0.0) -> ApiError:
    with pytest.raises(ApiError) as rejected:
        world.submit(A_FOX, sender, now, wall)
    return rejected.value


def test_job_is_charged_when_it_is_accepted() -> None:
    """Not when it ends."""
    world = a_world(credits=100)
    job = world.submit(A_FOX, ME, 0.0, 0.0)
    assert (world.balance("me"), world.charges, job.credit_cost, job.charged) == (80, 1, 20, True)
    assert world.balance("somebody else") == 100
    assert world.jobs == {job.id: job}
    assert (job.type, job.provider, job.prompt, job.width, job.height) == (
        "IMAGE",
        "flux-pro",
        "a fox",
        1024,
        1024,
    )


def test_a_job_without_enough_credits_is_rejected_and_not_charged() -> None:
    """402 with both numbers, as documented."""
    world = a_world(credits=19)
    rejected = failure_of(world)
    assert rejected.status == 402
    assert rejected.extensions == {
        "code": "INSUFFICIENT_CREDITS",
        "creditsRequired": 20,
        "creditsAvailable": 19,
    }
    assert (world.balance("me"), world.charges, world.jobs) == (19, 0, {})


def test_slot_is_free_again_when_the_job_ends() -> None:
    """Free has one slot per key, which is taken for exactly as long as the job runs."""
    world = a_world()
    world.submit(A_FOX, ME, 0.0, 0.0)
    assert failure_of(world, now=9.9).code == "CONCURRENCY_LIMITED"
    world.submit(A_FOX, Submission("somebody else"), 9.9, 0.0)
    world.submit(A_FOX, ME, 10.0, 0.0)
    assert world.most_at_once == 2


def test_jobs_beyond_the_slots_can_be_queued() -> None:
    """With "queue", jobs start in order, each when a slot becomes free."""
    world = a_world(
        PlanLimits(100, 2, None), over_concurrency="queue", durations=[10.0, 4.0, 3.0, 1.0].__getitem__
    )
    jobs = [world.submit(A_FOX, ME, 0.0, 0.0) for _ in range(4)]
    assert [(job.starts_at, job.ends_at) for job in jobs] == [(0, 10), (0, 4), (4, 7), (7, 8)]
    assert [job.status_at(5.0) for job in jobs] == ["processing", "completed", "processing", "queued"]
    assert world.most_at_once == 4


def test_daily_limit_ends_with_the_utc_day() -> None:
    """Yesterday's jobs do not count today."""
    world = a_world(PlanLimits(100, 10, 2))
    for _ in range(2):
        world.submit(A_FOX, ME, 0.0, DAY - 1.0)
    assert failure_of(world, wall=DAY - 0.5).code == "DAILY_LIMIT_EXCEEDED"
    world.submit(A_FOX, ME, 0.0, float(DAY))


def test_speed_shortens_jobs() -> None:
    """At speed 10 a job of 10 s takes 1."""
    assert a_world(speed=10.0).submit(A_FOX, ME, 5.0, 0.0).ends_at == 6.0


def test_same_seed_same_world() -> None:
    """Ids and durations depend only on the seed and the number of the job."""
    first, again, other = (World("pro", Rules(seed=seed)).submit(A_FOX, ME, 0.0, 0.0) for seed in (1, 1, 2))
    assert (first.id, first.ends_at) == (again.id, again.ends_at)
    assert (first.id, first.ends_at) != (other.id, other.ends_at)


def test_a_repeated_request_gets_the_first_job() -> None:
    """It takes no slot and no credits, even if neither is left."""
    world = a_world(credits=20)
    sender = Submission("me", "once", "body")
    first = world.submit(A_FOX, sender, 0.0, 0.0)
    assert world.submit(A_FOX, sender, 1.0, 0.0) is first
    assert (world.charges, world.balance("me"), len(world.jobs)) == (1, 0, 1)
    assert first.idempotency_key == "once"


def test_idempotency_key_of_another_body_conflicts() -> None:
    """A key belongs to one request."""
    world = a_world()
    world.submit(A_FOX, Submission("me", "once", "body"), 0.0, 0.0)
    rejected = failure_of(world, Submission("me", "once", "another body"), now=20.0)
    assert (rejected.code, rejected.status) == ("IDEMPOTENCY_CONFLICT", 409)


def test_idempotency_keys_belong_to_their_api_key() -> None:
    """Two customers may choose the same one."""
    world = a_world()
    jobs = [world.submit(A_FOX, Submission(key, "once", key), 0.0, 0.0) for key in ("me", "you")]
    assert jobs[0] != jobs[1]


def test_a_rejected_submit_does_not_use_up_its_idempotency_key() -> None:
    """It can be repeated under its key, and then succeeds."""
    world = a_world()
    world.submit(A_FOX, ME, 0.0, 0.0)
    again = Submission("me", "once", "body")
    assert failure_of(world, again, now=1.0).code == "CONCURRENCY_LIMITED"
    assert world.submit(A_FOX, again, 10.0, 0.0).created_at == 10.0


def test_orders_of_one_request_are_distinguished_by_their_alias() -> None:
    """Two aliases under one idempotency key are two jobs, each made once."""
    world = a_world("pro")
    senders = [Submission("me", "once", "body", place) for place in ("a", "b")]
    first, second = ([world.submit(A_FOX, sender, 0.0, 0.0) for sender in senders] for _ in range(2))
    assert first == second
    assert len(world.jobs) == 2


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_unknown_key_is_rejected(key: str | None) -> None:
    """If a key is set, only that one is valid; an empty one never is."""
    with pytest.raises(ApiError, match="API key") as rejected:
        a_world(key="right").admit(key, "submit", 0.0)
    assert rejected.value.status == 401


def test_every_key_is_valid_if_none_is_set() -> None:
    """An emulator without a key accepts every key."""
    assert a_world().admit("anything", "poll", 0.0) == "anything"


def test_requests_are_counted_per_key() -> None:
    """Ten a minute on Free; the eleventh is rejected and takes no permit."""
    world = a_world()
    for _ in range(10):
        world.admit("me", "submit", 0.0)
    with pytest.raises(ApiError) as rejected:
        world.admit("me", "poll", 59.9)
    assert (rejected.value.code, rejected.value.status) == ("RATE_LIMITED", 429)
    world.admit("somebody else", "submit", 59.9)
    world.admit("me", "poll", 60.0)
    assert world.most_in_window == 11


def test_polls_may_be_uncounted() -> None:
    """With polls_count=False they pass whatever else was sent."""
    world = a_world(PlanLimits(1, 1, None), polls_count=False)
    world.admit("me", "submit", 0.0)
    world.admit("me", "poll", 0.0)
    assert world.allowance("me", 0.0).remaining == 0
    assert world.most_in_window == 1


def test_allowance_says_when_the_next_permit_comes_back() -> None:
    """The oldest counted request returns its permit first."""
    world = a_world()
    world.admit("me", "submit", 3.0)
    world.admit("me", "submit", 9.0)
    allowance = world.allowance("me", 10.0)
    assert (allowance.limit, allowance.remaining, allowance.frees_at) == (10, 8, 63.0)


def test_job_is_visible_to_its_key_only() -> None:
    """For another key it does not exist."""
    world = a_world()
    job = world.submit(A_FOX, ME, 0.0, 0.0)
    assert world.poll("me", job.id, 0.0) is job
    for key, job_id in (("you", job.id), ("me", "nothing")):
        with pytest.raises(ApiError, match="no generation"):
            world.poll(key, job_id, 0.0)


def test_output_exists_once_the_job_is_completed() -> None:
    """Under its one name, and not before."""
    world = a_world()
    job = world.submit(A_FOX, ME, 0.0, 0.0)
    assert world.output(job.file_name, 9.9) is None
    assert world.output(job.file_name, 10.0) is job
    assert world.output(f"{job.id}.gif", 10.0) is None
    assert world.output("nothing.jpg", 10.0) is None


def test_counts_outlive_the_record() -> None:
    """The record is bounded, the numbers are not."""
    world = a_world(seen_kept=2)
    for at in range(5):
        world.record(Seen(float(at), "poll", 200, ("id",), {}))
    assert [seen.at for seen in world.seen] == [3.0, 4.0]
    assert (world.count("poll"), world.count("submit")) == (5, 0)


def test_stuck_job_never_ends_and_keeps_its_slot() -> None:
    """Other jobs use the remaining slots."""
    world = a_world(faults=["job 1: stuck"])
    job = world.submit(A_FOX, ME, 0.0, 0.0)
    assert job.status_at(1e9) == "processing"
    assert world.output(job.file_name, 1e9) is None
    assert failure_of(world, now=1e9).code == "CONCURRENCY_LIMITED"


def test_job_faults_count_jobs() -> None:
    """A rejected submit creates none, and neither does a repeated one."""
    world = a_world(faults=["job 2: stuck"])
    sender = Submission("me", "once", "body")
    first = world.submit(A_FOX, sender, 0.0, 0.0)
    failure_of(world, now=1.0)
    assert world.submit(A_FOX, sender, 2.0, 0.0) is first
    assert [str(fault) for fault in world.submit(A_FOX, ME, 10.0, 0.0).faults] == ["job 2: stuck"]


def test_faults_do_not_change_ids_and_durations() -> None:
    """The same seed gives the same jobs, whatever the faults."""
    plain, odd = (World(rules=Rules(seed=1), faults=faults) for faults in ([], ["job: fail", "job: late 9"]))
    jobs = [world.submit(A_FOX, ME, 0.0, 0.0) for world in (plain, odd)]
    assert len({(job.id, job.ends_at) for job in jobs}) == 1


def test_odd_status_lasts_for_its_seconds() -> None:
    """They add to the job's own duration, and it keeps its slot meanwhile."""
    world = a_world(faults=["job 1: odd-status dreaming seconds=5"])
    job = world.submit(A_FOX, ME, 0.0, 0.0)
    assert [job.status_at(now) for now in (9.9, 10.0, 14.9, 15.0)] == [
        "processing",
        "dreaming",
        "dreaming",
        "completed",
    ]
    assert failure_of(world, now=14.9).code == "CONCURRENCY_LIMITED"


def test_odd_status_may_be_the_last() -> None:
    """It lasts forever."""
    job = a_world(faults=["job: odd-status expired seconds=inf"]).submit(A_FOX, ME, 0.0, 0.0)
    assert (job.status_at(9.9), job.status_at(1e9)) == ("processing", "expired")


def test_failed_job_is_charged() -> None:
    """Unless a fault says otherwise."""
    world = a_world(credits=100, faults=["job 1: fail"])
    job = world.submit(A_FOX, ME, 0.0, 0.0)
    world.admit("me", "poll", 99.0)
    assert (job.status_at(10.0), world.charges, world.balance("me")) == ("failed", 1, 80)
    assert world.output(job.file_name, 10.0) is None


def test_credits_of_a_failed_job_come_back() -> None:
    """When it fails, as the key's next request shows; it never counts as charged."""
    world = a_world("pro", credits=40, faults=["job: fail charged=no"])
    for now in (0.0, 1.0):
        world.submit(A_FOX, ME, now, 0.0)
    balances = []
    for now in (9.9, 10.0, 11.0):
        world.admit("me", "poll", now)
        balances.append(world.balance("me"))
    assert (balances, world.charges) == ([0, 20, 40], 0)


def test_returned_credits_can_be_spent() -> None:
    """At the very moment of the failure."""
    world = a_world(credits=20, faults=["job 1: fail charged=no"])
    world.submit(A_FOX, ME, 0.0, 0.0)
    assert world.submit(A_FOX, ME, 10.0, 0.0).charged


@pytest.mark.parametrize("endless", ["job: stuck", "job: odd-status seconds=inf"])
def test_job_that_never_ends_does_not_fail(endless: str) -> None:
    """So it stays charged."""
    world = a_world(credits=20, faults=["job: fail charged=no", endless])
    assert world.submit(A_FOX, ME, 0.0, 0.0).charged
    assert (world.charges, world.balance("me")) == (1, 0)


def test_idempotency_keys_may_be_ignored() -> None:
    """With keys_honoured=False each submit makes a job, whatever its body."""
    world = a_world("pro", keys_honoured=False)
    jobs = [world.submit(A_FOX, Submission("me", "once", body), 0.0, 0.0) for body in "aab"]
    assert (len(world.jobs), world.charges) == (3, 3)
    assert {job.idempotency_key for job in jobs} == {"once"}
