"""The benchmarks run, their exact counts hold, and their reports read correctly."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import call_overhead, coordinator, loops, makespan
from benchmarks.__main__ import HERE, NAMES, draw, measured, renewed
from benchmarks.clocks import HurryingLoop
from benchmarks.harness import Sample, percentile, spread
from benchmarks.processes import scene
from benchmarks.report import Bar, Chart, Group, Report, Table, Target, as_markdown
from benchmarks.schedules import First, best_fixed_tick, clairvoyant, fixed_tick
from benchmarks.service import RefusedError, Service
from benchmarks.svg import drawn
from benchmarks.wire import Http, asked
from benchmarks.workload import CASES, Case, durations, lower_bound
from doitong_async import AsyncDoitong, Plan
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.testing import run_virtual
from tests.redis_server import RedisServer

pytestmark = pytest.mark.slow

SMALL = [replace(case, jobs=case.jobs // 5) for case in CASES if case.kind == "image"]
by_case = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.plan.name)
PRO = next(case for case in CASES if case.plan is Plan.PRO)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_answers_its_question(name: str, tmp_path: Path) -> None:
    report = measured(name, quick=True)

    draw([report], tmp_path)
    assert report.question.endswith("?")
    assert report.targets
    assert report.tables
    assert report.doubts
    assert "Python 3." in report.stamp
    for chart in report.charts:
        assert (tmp_path / f"{chart.name}.svg").read_text().startswith("<svg ")
    exact = {target.what: target.measured for target in report.targets if not target.limit}
    assert not any(exact.values()), exact


def test_a_section_is_replaced_between_the_others() -> None:
    readme = (HERE / "README.md").read_text()
    report = Report("job_overhead", "Why?", [], [], ["D."])

    changed = renewed(readme, [report])

    assert as_markdown(report) in changed
    before, after = (text.split("## job_overhead")[0] for text in (readme, changed))
    assert before == after
    assert changed[changed.index("## makespan") :] == readme[readme.index("## makespan") :]


@by_case
def test_no_client_beats_the_clairvoyant_and_no_schedule_the_lower_bound(case: Case) -> None:
    seconds = durations(case, 0)

    ours = makespan.run_ours(case.plan, seconds)

    assert (ours.refused, ours.lost, ours.paid_and_lost, ours.submits) == (0, 0, 0, case.jobs)
    foresight = clairvoyant(case.plan, seconds).seconds
    _, (fixed,) = best_fixed_tick(case.plan, [seconds], [2.0, 6.0, 10.0])
    assert lower_bound(case.plan, seconds) <= foresight <= min(fixed.seconds, ours.seconds)


@by_case
def test_webhooks_end_nearly_as_early_as_foresight(case: Case) -> None:
    seconds = durations(case, 0)

    ours = makespan.run_hooked(case.plan, seconds)

    assert (ours.refused, ours.lost, ours.submits) == (0, 0, case.jobs)
    assert ours.seconds <= makespan.OF_CLAIRVOYANT * clairvoyant(case.plan, seconds).seconds
    assert ours.requests <= makespan.MOST_REQUESTS * case.jobs


@by_case
def test_a_paced_loop_gets_no_429_and_loses_nothing(case: Case) -> None:
    run = loops.run_paced(case.plan, durations(case, 0))

    assert (run.refused, run.lost, run.paid_and_lost) == (0, 0, 0)


def test_the_documented_loop_loses_the_jobs_of_pro_but_pays_for_ten() -> None:
    run = loops.run_documented(PRO.plan, durations(PRO, 0))

    assert run.lost >= 290
    assert run.paid_and_lost == 10


def test_a_semaphore_does_not_save_the_documented_loop() -> None:
    run = loops.run_semaphore(PRO.plan, durations(PRO, 0))

    assert run.lost > 200
    assert run.paid_and_lost > 10


def test_the_lean_service_and_the_emulator_give_the_same_run() -> None:
    case = Case(Plan.STARTER, "image", 25)
    seconds = durations(case, 0)

    async def on_the_emulator() -> tuple[float, int, int]:
        limits = PlanLimits(case.plan.requests_per_minute, case.plan.concurrent_jobs, case.plan.jobs_per_day)
        async with (
            Emulator(limits, durations=lambda number: seconds[number]) as emulator,
            AsyncDoitong(api_key="benchmark-key", base_url=emulator.url, plan=case.plan) as client,
        ):
            await asyncio.gather(*(client.generate(f"picture {number}") for number in range(case.jobs)))
            return loops.now(), emulator.world.count("submit"), emulator.world.count("poll")

    lean = makespan.run_ours(case.plan, seconds)

    took, submits, polls = run_virtual(on_the_emulator())
    assert (took, submits, polls) == (lean.seconds, lean.submits, lean.polls)


def test_the_service_counts_a_sliding_window() -> None:
    service = Service(Plan.enterprise(requests_per_minute=2, concurrent_jobs=2), [5.0, 5.0, 5.0])
    service.submit(0.0)
    service.submit(10.0)

    with pytest.raises(RefusedError, match="minute"):
        service.poll(59.9, [0])

    assert service.opens(59.9) == 60.0
    assert service.poll(60.0, [0, 1]) == [True, True]
    assert (service.refused, service.most_in_window, service.most_at_once) == (1, 2, 1)


def test_the_service_rejects_a_job_above_the_slots_or_the_daily_limit() -> None:
    service = Service(Plan("narrow", 60, 1, 2), [5.0, 5.0])
    service.submit(0.0)

    with pytest.raises(RefusedError, match="slot"):
        service.submit(4.9)
    service.submit(5.0)
    with pytest.raises(RefusedError, match="day"):
        service.submit(10.0)


@by_case
@pytest.mark.parametrize("first", ["submits", "polls"])
def test_a_fixed_tick_keeps_the_plan(case: Case, first: First, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted independently of the window that the tick asks for the next free moment."""
    sent: list[float] = []
    admit = Service._admit

    def counted(self: Service, now: float) -> None:
        sent.append(now)
        admit(self, now)

    monkeypatch.setattr(Service, "_admit", counted)

    fixed_tick(case.plan, durations(case, 1), 10.0, first)

    rate = case.plan.requests_per_minute
    assert all(later - earlier >= 60 for earlier, later in zip(sent, sent[rate:], strict=False))


@pytest.mark.parametrize("plan", [Plan.FREE, Plan.PRO], ids=lambda plan: plan.name)
def test_polls_keep_step_with_the_minute_from_the_start(plan: Plan) -> None:
    case = next(case for case in CASES if case.plan is plan and case.kind == "image")
    sets = [durations(case, seed) for seed in range(4)]

    ours = [makespan.run_ours(plan, seconds).seconds for seconds in sets]

    _, fixed = best_fixed_tick(plan, sets, [6.0, 7.5, 8.0, 9.0, 10.0, 12.0, 15.0])
    assert sum(ours) <= 1.03 * sum(run.seconds for run in fixed)


def test_odd_answers_cost_next_to_nothing() -> None:
    case = replace(PRO, jobs=600)
    seconds = durations(case, 1)

    honest, odd = (makespan.run_ours(Plan.PRO, seconds, share) for share in (0.0, 0.03))

    assert odd.seconds <= 1.03 * honest.seconds
    assert honest.polls < odd.polls <= 1.15 * honest.polls
    assert (odd.refused, odd.lost, odd.submits) == (0, 0, 600)


def test_a_fixed_tick_sees_a_job_at_the_first_tick_after_its_end() -> None:
    run = fixed_tick(Plan.PRO, [6.5, 3.0], 2.0)

    assert (run.seconds, run.submits, run.polls) == (8.0, 2, 4)


def test_the_lower_bound_counts_the_jobs_that_the_last_minute_has_to_run() -> None:
    plan = Plan.enterprise(requests_per_minute=3, concurrent_jobs=2)

    assert lower_bound(plan, [6.0]) == 6.0
    assert lower_bound(plan, [6.0, 6.0, 9.0]) == 10.5
    assert lower_bound(plan, [6.0, 6.0, 6.0, 7.0]) == 67.0
    assert lower_bound(Plan("day", 60, 1, 2), [6.0, 5.0, 6.0]) == 86_405.0


def test_the_99th_percentile_of_few_values_is_the_greatest() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    spread_of_three = spread([4.0, 1.0, 2.0])
    assert (spread_of_three.least, spread_of_three.median, spread_of_three.p99) == (1.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_hurrying_clock_shortens_the_wait() -> None:
    with asyncio.Runner(loop_factory=lambda: HurryingLoop(1000.0)) as runner:
        loop = runner.get_loop()
        before = loop.time()
        runner.run(asyncio.sleep(10))

        assert loop.time() - before >= 10


def test_a_missing_competitor_is_named_and_not_compared() -> None:
    sample = Sample(cpu=1.0, wall=2.0, operations=1000, rss=1 << 20, more={})
    names = [name for name in call_overhead.COMPETITORS if name != "httpx"]

    report = call_overhead.report({name: [sample] for name in names}, ["httpx"])

    assert "httpx is not installed, so it is left out." in report.doubts
    assert not [target for target in report.targets if "httpx" in target.what]


def test_a_target_is_met_up_to_its_limit() -> None:
    assert Target("x", 1.05, 1.05).is_met
    assert not Target("x", 1.05, 1.051).is_met
    assert not Target("429s", 0, 1).is_met


def test_a_report_becomes_markdown_and_a_picture() -> None:
    chart = Chart(
        "c", "A chart", "of two", [Group("g", [Bar("doitong_async", 1.2), Bar("x", None, "loses 3")])]
    )
    report = Report(
        "n", "Why?", [Table("T", ["", "s"], [["a", "1"]])], [Target("fast", 1.0, 2.0)], ["D."], [chart]
    )

    text = as_markdown(report)

    assert "| fast | 1 | 2 | **missed** |" in text
    assert "![A chart](c.svg)" in text
    picture = drawn(report.charts[0])
    assert "loses 3" in picture
    assert "prefers-color-scheme: dark" in picture


def test_the_thin_server_answers_split_and_joined_requests() -> None:
    class SavedFile:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    seen: list[bytes] = []
    http, written = Http(lambda _, body: seen.append(body) or b"."), SavedFile()  # type: ignore[func-returns-value]
    http._transport = written  # type: ignore[assignment]
    request = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"

    http.data_received(request[:30])
    http.data_received(request[30:] + request)

    assert (seen, written.data) == ([b"hi", b"hi"], b"..")


def test_the_fields_of_a_status_query_are_recognised() -> None:
    single = "query Status($id: ID!) { generation(id: $id) { id status } }"
    several = "query S($i0: ID!, $i1: ID!) { j0: generation(id: $i0) { id } j1: generation(id: $i1) { id } }"

    assert asked(single) == (("generation", "id"),)
    assert asked(several) == (("j0", "i0"), ("j1", "i1"))


def test_a_script_call_at_redis_is_timed_by_redis() -> None:
    with RedisServer() as redis:
        assert coordinator.milliseconds_a_call(redis) == 0.0
        digest = redis.ask("SCRIPT", "LOAD", "for _ = 1, 1e6 do end return 1")
        redis.ask("EVALSHA", digest, "0")

        assert 0.1 < coordinator.milliseconds_a_call(redis) < 1e3


def test_a_successor_goes_on_where_a_killed_process_stopped() -> None:
    """The service counts one job an item, and the harness an end for each."""

    async def killed() -> None:
        sizes = coordinator.QUICK
        async with scene(sizes.plan, lambda number: 0.1, is_coordinated=False) as here:
            part = await here.open(3)
            first = part.pid
            part.go()
            while not here.server.jobs:  # noqa: ASYNC110 - the server sets no event
                await asyncio.sleep(0.01)

            await part.replace()
            counts = await here.finish()

        assert part.pid != first
        assert (counts.items, counts.lost, counts.charged, counts.paid_twice) == (3, 0, 3, 0)
        assert (counts.refused, counts.errors) == (0, 0)

    asyncio.run(killed())
