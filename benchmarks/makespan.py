"""When are N jobs done, in virtual time, and how near is that to the best that the plan allows?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import mean
from typing import Final

from benchmarks import loops
from benchmarks.report import Bar, Chart, Group, Report, Table, Target
from benchmarks.schedules import Run, best_fixed_tick, clairvoyant
from benchmarks.service import Service
from benchmarks.service import served as serves
from benchmarks.workload import CASES, Case, durations, lower_bound
from doitong_async import AsyncDoitong, Plan
from doitong_async.testing import run_virtual
from doitong_async.webhooks.serving import free_port, served

SEEDS: Final = range(8)
TICKS: Final = tuple(2 + step / 4 for step in range(73))
"""Seconds: from the 2 s of the documented loop to 20 s."""
MARGIN: Final = 1.03
GLITCHES: Final = 0.03
"""The share of polls that get an odd answer."""
LONG: Final = Case(Plan.PRO, "image", 1500)

OURS: Final = "doitong_async"
DOCUMENTED: Final = "documentation's loop"
SEMAPHORE: Final = "the loop, semaphore"
PACED: Final = "a paced loop a job"
FIXED: Final = "best fixed tick"
HOOKED: Final = "doitong_async, webhooks"
CLAIRVOYANT: Final = "clairvoyant"
SECRET: Final = "benchmark-webhook-secret"
OF_CLAIRVOYANT: Final = 1.1
MOST_REQUESTS: Final = 1.1
"""A job, where all webhooks come."""


@dataclass(frozen=True)
class Outcome:
    """All runs of one case by competitor, one a seed, with the lower bound of each seed."""

    case: Case
    bounds: Sequence[float]
    tick: float
    runs: Mapping[str, Sequence[Run]]

    def seconds(self, competitor: str) -> float:
        """Return the mean makespan."""
        return mean(run.seconds for run in self.runs[competitor])

    def over_bound(self, competitor: str) -> float:
        """Return the mean of makespan over lower bound."""
        return mean(
            run.seconds / bound for run, bound in zip(self.runs[competitor], self.bounds, strict=True)
        )

    @property
    def over_fixed(self) -> float:
        """Our mean makespan over that of the best fixed tick."""
        return self.seconds(OURS) / self.seconds(FIXED)

    @property
    def over_clairvoyant(self) -> float:
        """Our mean makespan with webhooks over the clairvoyant's."""
        return self.seconds(HOOKED) / self.seconds(CLAIRVOYANT)

    @property
    def requests_a_job(self) -> float:
        """The most requests that we sent for a job with webhooks, in any run."""
        return max(run.requests / self.case.jobs for run in self.runs[HOOKED])


@dataclass(frozen=True)
class Flaw:
    """The runs of one case on a service that now and then gives an odd answer, and on one that never does."""

    case: Case
    honest: Sequence[Run]
    flawed: Sequence[Run]

    @property
    def over_honest(self) -> float:
        """The mean makespan with odd answers over the one without."""
        return mean(run.seconds for run in self.flawed) / mean(run.seconds for run in self.honest)


def run(*, quick: bool) -> Report:
    """Measure all cases; a quick run has images only, a tenth of the jobs, two seeds and a coarse grid."""
    if not quick:
        return report(measure(CASES, SEEDS, TICKS), measure_flaw(LONG, SEEDS[:4]))
    cases = [replace(case, jobs=case.jobs // 10) for case in CASES if case.kind == "image"]
    flaw = measure_flaw(replace(LONG, jobs=LONG.jobs // 10), SEEDS[:2])
    return report(measure(cases, SEEDS[:2], TICKS[::8]), flaw)


def measure_flaw(case: Case, seeds: Sequence[int]) -> Flaw:
    """Run the client on each seed with odd answers and without."""
    sets = [durations(case, seed) for seed in seeds]
    return Flaw(
        case,
        [run_ours(case.plan, seconds) for seconds in sets],
        [run_ours(case.plan, seconds, GLITCHES) for seconds in sets],
    )


def measure(cases: Sequence[Case], seeds: Sequence[int], ticks: Sequence[float]) -> list[Outcome]:
    """Run every competitor on every case and seed, in as many processes as keep the machine busy."""
    # Virtual time waits a little at each jump for the network, so more processes than cores are of use.
    with ProcessPoolExecutor(2 * (os.cpu_count() or 1), get_context("spawn")) as pool:
        ours = {
            case: [pool.submit(run_ours, case.plan, durations(case, seed)) for seed in seeds]
            for case in cases
        }
        hooked = {
            case: [pool.submit(run_hooked, case.plan, durations(case, seed)) for seed in seeds]
            for case in cases
        }
        others = {case: pool.submit(_others, case, seeds, ticks) for case in cases}
        outcomes = []
        for case in cases:
            tick, runs = others[case].result()
            runs[OURS] = [each.result() for each in ours[case]]
            runs[HOOKED] = [each.result() for each in hooked[case]]
            bounds = [lower_bound(case.plan, durations(case, seed)) for seed in seeds]
            outcomes.append(Outcome(case, bounds, tick, runs))
        return outcomes


def run_ours(plan: Plan, seconds: Sequence[float], glitches: float = 0.0) -> Run:
    """Let the client make all jobs at once, over real sockets, on a service in the same virtual time.

    A share of `glitches` of the polls gets an odd answer.
    """

    async def main() -> Run:
        service = Service(plan, seconds)
        async with (
            serves(service, glitches=glitches) as url,
            AsyncDoitong(api_key="benchmark-key", base_url=url, plan=plan) as client,
        ):
            jobs = (client.generate(f"picture {number}") for number in range(len(seconds)))
            ended = await asyncio.gather(*jobs, return_exceptions=True)
            return loops.outcome(service, ended, loops.now())

    return run_virtual(main())


def run_hooked(plan: Plan, seconds: Sequence[float]) -> Run:
    """Let the client make all jobs at once, on a service that tells of each end by a webhook."""

    async def main() -> Run:
        service = Service(plan, seconds)
        with free_port() as place:
            async with serves(service, secret=SECRET) as url:
                client = AsyncDoitong(
                    api_key="benchmark-key",
                    base_url=url,
                    plan=plan,
                    webhook_url=f"http://127.0.0.1:{place.getsockname()[1]}/",
                    webhook_secret=SECRET,
                )
                async with served(client.webhooks.aiohttp_app(), place), client:
                    jobs = (client.generate(f"picture {number}") for number in range(len(seconds)))
                    ended = await asyncio.gather(*jobs, return_exceptions=True)
                    return loops.outcome(service, ended, loops.now())

    return run_virtual(main())


def _others(
    case: Case, seeds: Sequence[int], ticks: Sequence[float]
) -> tuple[float, dict[str, Sequence[Run]]]:
    sets = [durations(case, seed) for seed in seeds]
    tick, fixed = best_fixed_tick(case.plan, sets, ticks)
    return tick, {
        DOCUMENTED: [loops.run_documented(case.plan, seconds) for seconds in sets],
        SEMAPHORE: [loops.run_semaphore(case.plan, seconds) for seconds in sets],
        PACED: [loops.run_paced(case.plan, seconds) for seconds in sets],
        FIXED: fixed,
        CLAIRVOYANT: [clairvoyant(case.plan, seconds) for seconds in sets],
    }


def report(outcomes: Sequence[Outcome], flaw: Flaw) -> Report:
    """Return what the outcomes say."""
    targets = [
        Target(f"{each.case.name}: doitong_async over the best fixed tick", MARGIN, each.over_fixed)
        for each in outcomes
    ]
    for each in outcomes:
        name = f"{each.case.name}, webhooks"
        targets += [
            Target(f"{name}: makespan over the clairvoyant's", OF_CLAIRVOYANT, each.over_clairvoyant),
            Target(f"{name}: requests a job, at most", MOST_REQUESTS, each.requests_a_job),
        ]
    targets.append(Target(f"{flaw.case.name}: with {GLITCHES:.0%} odd polls", MARGIN, flaw.over_honest))
    ours = [run for each in outcomes for name in (OURS, HOOKED) for run in each.runs[name]]
    ours += [*flaw.honest, *flaw.flawed]
    targets += [
        Target("429s of doitong_async, all runs", 0, sum(run.refused for run in ours)),
        Target("jobs that doitong_async lost, all runs", 0, sum(run.lost for run in ours)),
    ]
    return Report(
        name="makespan",
        question=str(__doc__),
        tables=[_summary(outcomes), *(_details(each) for each in outcomes), _flawed(flaw)],
        targets=targets,
        doubts=_DOUBTS,
        charts=[_chart(outcomes)],
    )


_ROWS: Final = (DOCUMENTED, SEMAPHORE, PACED, FIXED, OURS, HOOKED, CLAIRVOYANT)


def _summary(outcomes: Sequence[Outcome]) -> Table:
    rows = [[name, *(_cell(each, name) for each in outcomes)] for name in _ROWS]
    return Table(
        "Virtual makespan over the lower bound, mean of all seeds; who loses jobs has none",
        ["", *(each.case.name for each in outcomes)],
        rows,
    )


def _cell(outcome: Outcome, name: str) -> str:
    return _loss(outcome, name) or f"{outcome.over_bound(name):.2f}"


def _loss(outcome: Outcome, name: str) -> str:
    lost = mean(run.lost for run in outcome.runs[name])
    return f"loses {lost:,.0f} of {outcome.case.jobs:,}" if lost else ""


def _details(outcome: Outcome) -> Table:
    rows = [[f"lower bound {mean(outcome.bounds):,.1f} s", *[""] * 7]]
    for name in _ROWS:
        runs = outcome.runs[name]
        means = [mean(getattr(run, what) for run in runs) for what in _COUNTED]
        shown = f"{name} ({outcome.tick:g} s)" if name == FIXED else name
        seconds = [run.seconds for run in runs]
        span = [f"{outcome.seconds(name):,.1f}", f"{min(seconds):,.0f} – {max(seconds):,.0f}"]
        rows.append([shown, *span, *(f"{value:,.0f}" for value in means)])
    head = [
        "",
        "virtual seconds, mean",
        "least – most",
        "requests",
        "of them polls",
        "429s",
        "lost",
        "paid and lost",
    ]
    return Table(f"{outcome.case.name}: means of {len(outcome.bounds)} seeds", head, rows)


def _flawed(flaw: Flaw) -> Table:
    rows = [
        [name, *(f"{mean(getattr(run, what) for run in runs):,.0f}" for what in ("seconds", "polls", "lost"))]
        for name, runs in (("no odd answer", flaw.honest), (f"{GLITCHES:.0%} of the polls", flaw.flawed))
    ]
    return Table(
        f"{flaw.case.name}, doitong_async, polls answered by a page, an error or in part: means of "
        f"{len(flaw.honest)} seeds",
        ["", "virtual seconds", "polls", "lost"],
        rows,
    )


_COUNTED: Final = ("requests", "polls", "refused", "lost", "paid_and_lost")


def _chart(outcomes: Sequence[Outcome]) -> Chart:
    shown = [each for each in outcomes if each.case.kind == "image"]
    groups = [
        Group(each.case.name, [_bar(each, name) for name in _ROWS if name != SEMAPHORE]) for each in shown
    ]
    return Chart(
        name="makespan",
        title="Time until all pictures are there, over the least that the plan allows",
        subtitle="virtual time, jobs of 6 s (median, lognormal), status requests counted, mean of "
        f"{len(shown[0].bounds)} seeds; less is better",
        groups=groups,
        reference=1.0,
        reference_name="lower bound",
    )


def _bar(outcome: Outcome, name: str) -> Bar:
    lost = _loss(outcome, name)
    return Bar(name, None if lost else outcome.over_bound(name), lost)


_DOUBTS: Final = [
    "While no duration is known it is taken to be jobs at once over requests a second (10 s on Pro, 6 s on "
    "Free and Starter), which for these images is near the truth. Tried, and no better: the even tick "
    "alone, hysteresis between ticks, a mean of all jobs in place of those that run, believing it later.",
    "The durations are chosen (lognormal, sigma 0.35, median 6 s or 90 s), and requests take no time: how "
    "long the service's own jobs and answers take is not known here.",
    "The service refuses a job past the plan's concurrency, and that request has taken its place in the "
    "window; a service that queues such jobs would be kinder to the loops.",
    "The best fixed tick is chosen by its mean over the very seeds it is measured on, from 73 ticks and "
    "two orders (submits or polls first).",
    "Webhooks take no time here either, and none is lost: the service sends each in the moment of the end.",
    "The clairvoyant polls only once, when all is over: no one who must see a job end can be as early.",
    "The lower bound knows nothing of polls at all; where the minute is what binds, nobody can reach it.",
]
