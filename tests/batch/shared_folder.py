"""Kills batches that share one folder; `python -m tests.batch.shared_folder` kills 14 batches 12 times each.

Each batch has its own ledger in the folder; every other one is run by `doitong batch`, the others by a
program that uses the library. They have some prompts and some item keys in common. A few run at once, and are
killed with SIGKILL at random moments. The service is the plain server, which loses answers, answers late and
breaks off downloads. In the end every item is paid once and has a file of its own, and nothing else is in the
folder.

Options: `--batches 14 --kills 12 --seed N`; `--harsh` breaks more; `--alike` gives all jobs the same picture,
so that nothing but the names tells the files apart.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from doitong_async import LedgerError
from doitong_async.batch.item import ItemRecord, ItemState
from doitong_async.batch.ledger import Ledger
from tests.batch.victim import KILLED, UNFETCHED, Victim
from tests.plain_server import JPEG, Job, PlainServer, http

AT_ONCE: Final = 3
LONGEST: Final = 120.0
"""Seconds after which a run to the end is given up."""
MOST_RUNS: Final = 8
"""At a harsh server one download in eight breaks off four times in a row; the next run fetches it."""
LAST_STEP: Final = 32.0
LAST_MOMENT: Final = 3.0
"""The latest step, and the latest second from the first, at which a run is killed."""
FAULTS: Final = {"submit": 0.2, "poll": 0.1, "output": 0.2}
HARSH: Final = {"submit": 0.6, "poll": 0.4, "output": 0.6}
"""The share of requests, by kind, that get no proper answer."""


def prompts_of(number: int) -> list[dict[str, str]]:
    """Return the prompts of one batch; the other batches have the same keys, or the same prompts."""
    return [
        *({"key": f"fox-{nth}", "prompt": f"a fox of batch {number}, picture {nth}"} for nth in range(4)),
        # One of them twice.
        *({"prompt": f"a whale, picture {nth % 3}"} for nth in range(4)),
        *({"prompt": f"a frog of batch {number}, picture {nth}"} for nth in range(2)),
    ]


def picture_of(job: Job) -> bytes:
    """Return a picture of 240 kB that no other job has: the pixel of all, and much commentary."""
    noise = hashlib.shake_128(job.id.encode()).digest(60_000)
    return JPEG[:2] + 4 * (b"\xff\xfe" + (len(noise) + 2).to_bytes(2, "big") + noise) + JPEG[2:]


class Faults:
    """What goes wrong at the server, by chance; unless that is harsh, every third attempt succeeds."""

    def __init__(self, server: PlainServer, chance: random.Random, *, is_harsh: bool) -> None:
        self._server = server
        self._chance = chance
        self._shares = HARSH if is_harsh else FAULTS
        self._most_in_a_row = math.inf if is_harsh else 2
        self._in_a_row: Counter[str] = Counter()
        server.script, server.pause = self.answer, self.seconds

    def answer(self, kind: str, nth: int) -> bytes | str | None:
        """Return what the server sends instead of the answer, if this one goes wrong."""
        seen = self._server.requests[-1]
        about = seen.headers.get("idempotency-key") or " ".join([kind, *seen.ids])
        is_due = self._chance.random() < self._shares.get(kind, 0.0)
        if not is_due or self._in_a_row[about] >= self._most_in_a_row:
            self._in_a_row[about] = 0
            return None
        self._in_a_row[about] += 1
        if kind == "submit":
            return self._chance.choice(["cut", "cut-after", "cut-after"])
        if self._chance.random() < 0.5:
            return http(502, b"Bad Gateway", "text/plain", {})
        if kind == "poll":
            return "cut"
        whole = http(200, self._server.picture(self._server.jobs[seen.ids[0]]), "image/jpeg", {})
        return whole[: self._chance.randrange(len(whole))]

    def seconds(self, kind: str, nth: int) -> float:
        """Return how late the second half of an answer comes."""
        return self._chance.choice([0.0, 0.0, self._chance.uniform(0.0, 0.6)])


@dataclass(slots=True)
class Report:
    """What was counted: kills by the moment in which they landed, jobs at the server, items and pictures."""

    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    pictures: int = 0
    items: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        moments = "".join(f"\n  {count:4} {moment}" for moment, count in self.kills.most_common())
        counts = f"{self.items} items, {self.jobs} jobs charged, {self.pictures} pictures"
        wrong = "".join(f"\n{message}" for message in self.wrong)
        return f"{self.kills.total()} kills:{moments}\n{counts}, {len(self.wrong)} wrong{wrong}"


class SharedFolder:
    """The batches of one folder, and the server that they pay."""

    def __init__(self, place: Path, server: PlainServer, *, batches: int, seed: int) -> None:
        self.out = place / "pictures"
        self._server = server
        self._seed = seed
        self._room = asyncio.Semaphore(AT_ONCE)
        self._batches = [
            Victim(
                prompts=place / f"{number:02}.jsonl",
                ledger=self.out / f"{number:02}.db",
                out=self.out,
                is_command=number % 2 == 1,
            )
            for number in range(batches)
        ]
        self.report = Report()

    async def run(self, kills: int) -> None:
        """Kill each batch so many times, run it to its end, and then once more."""
        for number, batch in enumerate(self._batches):
            batch.write_prompts(prompts_of(number))
        await asyncio.gather(*(self._kill(batch, kills) for batch in self._batches))
        codes = await asyncio.gather(*(self._end(batch) for batch in self._batches))
        self.report.wrong += [
            f"{batch.ledger.name}: exit code {code}: {batch.log.read_text()}"
            for batch, code in zip(self._batches, codes, strict=True)
            if code != 0
        ]
        self._check()
        before = len(self._server.requests), sorted(os.listdir(self.out))
        codes = await asyncio.gather(*(self._end(batch) for batch in self._batches))
        if (len(self._server.requests), sorted(os.listdir(self.out))) != before or any(codes):
            self.report.wrong.append(f"a second run was no rest: exit codes {codes}, {os.listdir(self.out)}")

    async def _run(self, batch: Victim, *, dies_after: float, dies_at: int | None = None) -> int:
        async with self._room:
            return await batch.run(self._server.url, self._server.key, dies_after=dies_after, dies_at=dies_at)

    async def _kill(self, batch: Victim, kills: int) -> None:
        chance, latest = random.Random(f"{self._seed} {batch.ledger.name}"), [LAST_STEP, LAST_MOMENT]
        while kills:
            by_clock = chance.random() < 0.5
            moment = chance.uniform(0.0, latest[by_clock])
            before = {*os.listdir(self.out)} if self.out.exists() else set()
            code = await self._run(
                batch,
                dies_after=moment if by_clock else LONGEST,
                dies_at=None if by_clock else 1 + int(moment),
            )
            if code == KILLED:
                self.report.kills[self._moment(batch, before)] += 1
                kills -= 1
            else:
                # It ended before: a batch that has less to do is killed earlier.
                latest[by_clock] *= 0.7
                if code not in (0, UNFETCHED):
                    self.report.wrong.append(f"{batch.ledger.name}: {code}: {batch.log.read_text()}")

    async def _end(self, batch: Victim) -> int:
        for _ in range(MOST_RUNS):
            code = await self._run(batch, dies_after=LONGEST)
            if code != UNFETCHED:
                break
        return code

    def _moment(self, batch: Victim, before: set[str]) -> str:
        """Return in what moment a batch was killed, by what it left that was not there before."""
        with tempfile.TemporaryDirectory() as place:
            # A copy: opening a ledger changes its log.
            for path in self.out.glob(f"{batch.ledger.name}*"):
                shutil.copy(path, place)
            try:
                with Ledger.read(Path(place) / batch.ledger.name) as ledger:
                    owner, states = ledger.owner, ledger.totals().items
            except LedgerError:
                return "before there was a ledger"
        parts = [name for name in {*os.listdir(self.out)} - before if owner and f".{owner}" in name]
        if any(name.startswith(".index") for name in parts):
            return "while its gallery was written"
        if parts:
            return "while a picture was written"
        if ItemState.INTENT in states:
            return "while a submit was unanswered"
        if ItemState.SUBMITTED in states:
            return "while jobs ran"
        if states.get(ItemState.DONE) == len(prompts_of(0)):
            return "after its last item"
        return "between two items"

    def _check(self) -> None:
        """Count, once all batches have ended, and report what is not as it must be."""
        # First: opening a ledger may remove an empty log.
        found = set(os.listdir(self.out))
        pages = {name for name in found if name.startswith("index") and name.endswith(".html")}
        ledgers = {f"{batch.ledger.name}{more}" for batch in self._batches for more in ("", ".lock")}
        records, jobs = [*self._records()], self._server.jobs
        names, ids = Counter(each.file for each in records), Counter(each.job_id for each in records)
        report = self.report
        report.items, report.jobs = len(self._batches) * len(prompts_of(0)), len(jobs)
        report.pictures = sum(name.endswith(".jpg") for name in found)
        findings = {
            "items without a record": report.items - len(records),
            "jobs too many": report.jobs - report.items,
            "jobs that no ledger has": sorted(jobs.keys() - ids.keys()),
            "jobs of two items": [each for each, count in ids.items() if count > 1],
            "files of two items": [each for each, count in names.items() if count > 1],
            "strays": sorted(found - names.keys() - ledgers - pages),
            "galleries too many": len(pages) - sum(batch.is_command for batch in self._batches),
            "not as it was made": [each for each in records if not self._is_sound(each)],
        }
        report.wrong += [f"{what}: {finding}" for what, finding in findings.items() if finding]

    def _records(self) -> Iterator[ItemRecord]:
        for batch in self._batches:
            if not batch.ledger.exists():
                continue
            with Ledger.read(batch.ledger) as ledger:
                yield from ledger.records()

    def _is_sound(self, record: ItemRecord) -> bool:
        """Whether an item is done, and has the picture of the job that was made under its own key."""
        job = self._server.jobs.get(record.job_id or "")
        path = self.out / (record.output or "none")
        return (
            job is not None
            and job.key == record.idempotency_key
            and path.is_file()
            and path.read_bytes() == self._server.picture(job)
        )


async def killed(
    *, batches: int, kills: int, seed: int, is_harsh: bool = False, is_alike: bool = False
) -> Report:
    """Kill so many batches of one folder so many times each, and report how they ended.

    Args:
        batches: how many batches share the folder.
        kills: how often each is killed.
        seed: of all chance.
        is_harsh: whether more goes wrong at the server.
        is_alike: whether all jobs have the same picture.
    """
    chance = random.Random(seed)
    server = PlainServer(
        requests_per_minute=1_000_000,
        concurrent_jobs=1_000,
        seconds=lambda nth: chance.choice([0.0, 0.5, 0.5]),
        picture=(lambda job: JPEG) if is_alike else picture_of,
    )
    Faults(server, chance, is_harsh=is_harsh)
    with tempfile.TemporaryDirectory() as place:
        async with server:
            folder = SharedFolder(Path(place).resolve(), server, batches=batches, seed=seed)
            await folder.run(kills)
    return folder.report


def main() -> int:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batches", type=int, default=14)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--harsh", action="store_true")
    parser.add_argument("--alike", action="store_true")
    given = parser.parse_args()
    report = asyncio.run(
        killed(
            batches=given.batches,
            kills=given.kills,
            seed=given.seed,
            is_harsh=given.harsh,
            is_alike=given.alike,
        )
    )
    print(f"{given}\n{report}")  # noqa: T201 - its report
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
