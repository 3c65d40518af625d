"""The README runs: each Python block on an emulator, its tables against the code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import types
from pathlib import Path
from typing import Any

import pytest

import doitong_async
from doitong_async import DoitongError
from doitong_async.emulator import Emulator
from doitong_async.testing import run_virtual

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh"]
FIRST_LINES = [
    "python3 -m venv .venv && .venv/bin/pip install -q '.[cli,emulator]' && .venv/bin/doitong generate "
    '"A futuristic city with flying cars and neon lights" --emulator -o city.jpg\n',
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m tests\n",
]


def run_block(code: str) -> None:
    """Run a block as a script: whole ones as they are, the others inside an async function."""
    tree = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {name: getattr(doitong_async, name) for name in doitong_async.__all__}
    if not tree.co_flags & inspect.CO_COROUTINE:
        exec(tree, names)
        return

    async def on_an_emulator() -> None:
        async with Emulator(plan="pro", durations=3.0) as emulator:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DOITONG_API_KEY", "k-readme")
                patch.setenv("DOITONG_BASE_URL", emulator.url)
                patch.setenv("DOITONG_PLAN", "pro")
                await types.FunctionType(tree, {**names, "asyncio": asyncio})()

    run_virtual(on_an_emulator())


@pytest.mark.parametrize("code", PYTHON, ids=[code.strip().splitlines()[0][:50] for code in PYTHON])
def test_a_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block does what it shows, on an emulator, in virtual time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asyncio, "run", run_virtual)
    run_block(code)
    written = set(re.findall(r'save\("([^"{]+)"\)', code))
    assert written <= {path.name for path in tmp_path.iterdir()}


def test_the_two_lines_stand_alone_near_the_top() -> None:
    """What a new user types, each in a block of its own."""
    assert SHELL[:2] == FIRST_LINES
    assert TEXT.index(FIRST_LINES[1]) < 4_000


def test_code_that_needs_no_key_stands_by_line_15() -> None:
    """The first thing one sees runs."""
    assert "```python" in TEXT.splitlines()[:15]
    assert "emulated" in PYTHON[0]


def test_it_is_short_and_in_order() -> None:
    """300 lines at most, the parts in the order of the house."""
    assert len(TEXT.splitlines()) <= 300
    parts = [
        "## What it takes off your hands",
        "## Install",
        "## One job",
        "## A batch that survives a crash",
        "## Limits",
        "## Errors",
        "## Testing your own code",
        "## The command line",
        "## How it is built",
        "## Numbers",
        "## What is assumed about the service",
        "## When not to use it",
        "## Contributing",
    ]
    places = [TEXT.index(part) for part in parts]
    assert places == sorted(places)


def test_recipes_are_short() -> None:
    """Fifteen lines at most, each."""
    assert max(len(code.strip().splitlines()) for code in PYTHON) <= 15


@pytest.mark.parametrize("error", DoitongError.__subclasses__(), ids=lambda error: error.__name__)
def test_every_error_has_its_row(error: type[DoitongError]) -> None:
    """The table says of each what happened to the job and the money, in the words of the code."""
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{error.__name__}`")]
    assert len(rows) == 1
    assert error.outcome in rows[0]


def test_the_clock_times_of_the_limits_are_what_happens() -> None:
    """Twelve prompts on Pro, 6 s each: twelve submits, six looks, twelve seconds."""

    async def twelve() -> tuple[float, int, int]:
        async with Emulator(plan="pro", durations=6.0) as emulator:
            async with doitong_async.AsyncDoitong(api_key="k", base_url=emulator.url, plan="pro") as doitong:
                await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(12)))
            return (
                asyncio.get_running_loop().time(),
                emulator.world.count("submit"),
                emulator.world.count("poll"),
            )

    assert run_virtual(twelve()) == (12.0, 12, 6)
    assert "12 jobs, 12 submits, 6 looks" in TEXT
