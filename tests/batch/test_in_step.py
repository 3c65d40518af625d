"""Items that the ledger has as done: recognised in step with it, or by their keys, to the same end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doitong_async import BadRequestError, GenerateRequest, Item, Outcome, Plan
from doitong_async.batch import in_step, sqlite
from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.in_step import InStep
from doitong_async.batch.item import Glimpse, ItemState, Row
from doitong_async.batch.source import Asked, Reading
from doitong_async.settings import Options
from tests.virtual import virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)


class Rows(LedgerBackend):
    """A ledger of nothing but rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, asked: Asked, state: ItemState = ItemState.DONE) -> None:
        """Add an item's row, or leave the one that it has."""
        if self.glance(asked.key) is None:
            seen = Glimpse(state, asked.digest, "j", None, 1.0, None, None, len(self.rows) + 1)
            self.rows.append(Row(asked.key, asked.text, seen))

    def glance(self, key: str) -> Glimpse | None:
        return next((row.glimpse for row in self.rows if row.key == key), None)

    def last_row(self) -> int:
        return len(self.rows)

    def rows_after(self, number: int, most: int) -> Sequence[Row]:
        return self.rows[number : number + most]


class Run:
    """One run over a source; `recognised` are the items that were found in step with the ledger."""

    def __init__(self, backend: Rows, options: Options, *, is_in_step: bool) -> None:
        self.seen: list[object] = []
        self.recognised: list[int] = []
        self._backend = backend
        self._reading = Reading(options)
        self._in_step = InStep(backend, self._reading, options) if is_in_step else None

    def run(self, source: Iterable[object]) -> Run:
        with closing(self._reading):
            for number, item in enumerate(source, 1):
                try:
                    self.seen.append(self._find(number, item))
                except BadRequestError as error:
                    self.seen.append(error.message)
        return self

    def _find(self, number: int, item: object) -> tuple[Asked, Glimpse | None]:
        if self._in_step is not None and (found := self._in_step.take(number, item)) is not None:
            self.recognised.append(number)
            return found
        asked = self._reading.read(number, item)
        if (glimpse := self._backend.glance(asked.key)) is None:
            # A new item gets its row in this run, and may be done when the next one is read.
            self._backend.add(asked)
        elif self._in_step is not None:
            self._in_step.took(glimpse.number)
        return asked, glimpse


def ledger_of(source: Sequence[object], options: Options, order: Sequence[int] | None = None) -> Rows:
    """Return the ledger that a run over the source leaves, its rows in that order."""
    backend = Rows()
    made: list[Asked] = []
    with closing(Reading(options)) as reading:
        for number, item in enumerate(source, 1):
            try:
                made.append(reading.read(number, item))
            except BadRequestError:
                continue
    for index in range(len(made)) if order is None or not made else order:
        backend.add(made[index % len(made)])
    return backend


PROMPTS = st.sampled_from(["a fox", "a whale", 'say "hi"\n', "лиса \u2028"])
KEYS = st.sampled_from(["mine", "other", "0123456789abcdef", "0123456789abcdef-2"])
ITEMS = st.one_of(
    PROMPTS,
    st.fixed_dictionaries(
        {"prompt": PROMPTS},
        optional={
            "key": KEYS,
            "width": st.sampled_from([512, 1024, True, "512"]),
            "provider": st.sampled_from(["kling", "flux-pro"]),
            "quality": st.just("high"),
            "options": st.just({"height": 512}),
        },
    ),
    st.builds(GenerateRequest, prompt=PROMPTS),
)
SOURCES = st.lists(ITEMS, max_size=12)


@given(SOURCES, SOURCES, st.none() | st.lists(st.integers(0, 20), max_size=12), st.sampled_from([None, 512]))
@example(["a fox"], ["a fox", "a fox"], None, None)
@example(["a fox", "a whale"], ["a whale", "a fox", "a whale"], [1, 0], None)
@example(
    ["a fox", {"prompt": "a fox", "key": "mine"}], [{"prompt": "a fox", "key": "mine"}, "a fox"], None, None
)
def test_whatever_the_order_each_item_has_the_row_of_its_key(
    before: list[Any], now: list[Any], order: list[int] | None, width: int | None
) -> None:
    """Repeated, added, removed and moved items, and keys that look generated: as if looked up one by one."""
    options = Options(width=width)
    for source in (now, before + now, now + before):
        both = [ledger_of(before, options, order if before else None) for _ in range(2)]
        expected = Run(both[0], options, is_in_step=False).run(source)
        assert Run(both[1], options, is_in_step=True).run(source).seen == expected.seen


def test_a_batch_that_is_run_again_is_recognised_whole() -> None:
    """Strings, rows of a table, keys and other fields; more than a page of them."""
    given_: list[Any] = [f"fox {number}" for number in range(in_step.PAGE)]
    given_ += [{"prompt": f"whale {number}", "key": f"w{number}", "width": 512} for number in range(9)]
    run = Run(ledger_of(given_, Options()), Options(), is_in_step=True).run(given_)
    assert run.recognised == [*range(1, len(given_) + 1)]


def test_one_item_out_of_step_costs_no_other() -> None:
    """Whether it is new, removed, not done, or a later run made it; at worst the others are looked up."""
    foxes = [f"fox {number}" for number in range(20)]
    options = Options()
    added = Run(ledger_of(foxes, options), options, is_in_step=True).run([*foxes[:7], "new", *foxes[7:]])
    assert added.recognised == [*range(1, 8), *range(9, 22)]
    removed = Run(ledger_of(foxes, options), options, is_in_step=True).run(foxes[:7] + foxes[8:])
    assert removed.recognised == [*range(1, 8), *range(9, 20)]
    backend = ledger_of(foxes, options)
    backend.rows[7] = backend.rows[7]._replace(glimpse=backend.rows[7].glimpse._replace(state="failed"))
    assert Run(backend, options, is_in_step=True).run(foxes).recognised == [*range(1, 8), *range(9, 21)]
    later = [*itertools.chain(range(7), range(8, 20)), 7]
    many = [f"fox {number}" for number in range(in_step.FARTHEST + 100)]
    late = ledger_of(many, options, [*range(7), *range(8, len(many)), 7])
    assert Run(late, options, is_in_step=True).run(many).recognised == [
        *range(1, 8),
        *range(9, len(many) + 1),
    ]
    near = Run(ledger_of(foxes, options, later), options, is_in_step=True).run(foxes)
    assert near.recognised == [*range(1, 8)]


@pytest.mark.parametrize("is_table", [False, True])
def test_a_resumed_batch_builds_requests_only_for_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_table: bool
) -> None:
    """Nor does it look up what is done one by one: 30 items take a query or two."""
    prompts = [f"fox {number}" for number in range(30)]
    source: list[Any] = (
        [{"prompt": prompt, "width": 64, "height": 64} for prompt in prompts] if is_table else prompts
    )
    asked: list[object] = []
    queries: list[str] = []

    async def run(count: int) -> list[Item]:
        async with with_emulator(WIDE) as (doitong, _):
            terms: dict[str, Any] = {"ledger": tmp_path / "l.db", "out": tmp_path / "out"}
            return [item async for item in doitong.generate_many(source[:count], **terms)]

    @virtual
    async def test() -> None:
        first = {item.key: item for item in await run(29)}
        _spy(monkeypatch, Reading, "read", lambda _, number, given: asked.append(given))
        _spy(monkeypatch, sqlite, "glance", lambda *_: queries.append("one"))
        _spy(monkeypatch, sqlite, "rows_after", lambda *_: queries.append("page"))
        again = await run(30)
        assert [item.outcome for item in again] == [Outcome.DONE] * 30
        known = [item for item in again if not item.is_new]
        assert [(item.key, item.request, item.file) for item in known] == [
            (item.key, first[item.key].request, first[item.key].file) for item in known
        ]
        assert len(known) == 29

    test()
    assert asked == source[29:]
    assert len(queries) <= 3


@virtual
async def test_a_row_that_was_looked_up_serves_no_other_item(tmp_path: Path) -> None:
    """A source that was sorted anew, and then asks for a prompt once more: that is a new job."""
    terms: dict[str, Any] = {"ledger": tmp_path / "l.db"}
    async with with_emulator(WIDE) as (doitong, emulator):
        for source in (["a fox", "a whale"], ["a whale", "a fox", "a whale"]):
            items = [item async for item in doitong.generate_many(source, **terms)]
        assert sorted(item.number for item in items if item.is_new) == [3]
        assert emulator.world.charges == 3


def _spy(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, note: Callable[..., None]) -> None:
    """Note the arguments of each call of a function."""
    usual = getattr(owner, name)

    def noted(*arguments: Any) -> Any:
        note(*arguments)
        return usual(*arguments)

    monkeypatch.setattr(owner, name, noted)


def test_an_edited_row_is_left_to_whoever_looks_it_up() -> None:
    """Its request is the item's, its digest is another's: only its key tells what it is."""
    given_: list[Any] = [{"prompt": f"fox {number}", "key": f"k{number}"} for number in range(3)]
    for digest in ("no digest", "0" * 64):
        backend = ledger_of(given_, Options())
        backend.rows[1] = backend.rows[1]._replace(glimpse=backend.rows[1].glimpse._replace(digest=digest))
        assert Run(backend, Options(), is_in_step=True).run(given_).recognised == [1, 3]


def test_rows_that_cannot_be_used_are_in_the_way_of_none(tmp_path: Path) -> None:
    """A damaged one is left to whoever looks it up; others have no job yet, or never had one.

    Only a text that cannot be read at all ends the page.
    """
    with closing(sqlite.writer(tmp_path / "l.db")) as connection:
        for number in range(4):
            values = (f"k{number}", "d", "{}", "done", 1, 0.0, "j", 0.0)
            connection.execute(
                "INSERT INTO items (key, digest, request, state, attempt, earlier_cost, job_id, cost) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        assert len(sqlite.rows_after(connection, 0, 9)) == 4
        connection.execute("UPDATE items SET job_id = NULL WHERE key = 'k2'")
        assert [row.key for row in sqlite.rows_after(connection, 0, 9)] == ["k0", "k1", "k3"]
        connection.execute("UPDATE items SET state = 'rejected' WHERE key = 'k2'")
        assert len(sqlite.rows_after(connection, 0, 9)) == 4
        connection.execute("UPDATE items SET job_id = CAST(x'ff' AS TEXT) WHERE key = 'k2'")
        assert [row.key for row in sqlite.rows_after(connection, 0, 9)] == ["k0", "k1"]
