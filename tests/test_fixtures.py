"""The pytest fixtures, as a user's own project has them: under pytest-asyncio, under anyio, under neither."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["doitong_async.testing.fixtures"]\n'
TESTS = """
import asyncio
import pytest
from doitong_async import AsyncDoitong
from doitong_async.testing import VirtualTimeLoop

{mark}

@pytest.fixture
def anyio_backend():
    return "asyncio"

{fixture}
async def submitted(doitong):
    return await doitong.submit("a fox")

async def test_in_real_time(doitong, doitong_emulator, submitted):
    assert doitong.emulator is doitong_emulator
    async with AsyncDoitong() as own:
        await own.submit("a hare")
    assert doitong_emulator.charges == 2
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)

async def test_in_virtual_time(doitong_virtual_time, doitong, submitted):
    assert asyncio.get_running_loop() is doitong_virtual_time
    assert await (await submitted).read()
    await asyncio.sleep(3600)
    assert doitong_virtual_time.time() > 3600
"""
ASYNCIO = "pytestmark = pytest.mark.asyncio"
WIDE = 'pytestmark = pytest.mark.asyncio(loop_scope="session")'
ANYIO = "pytestmark = pytest.mark.anyio"
BY_ASYNCIO = "import pytest_asyncio\n@pytest_asyncio.fixture"
BY_ASYNCIO_WIDE = 'import pytest_asyncio\n@pytest_asyncio.fixture(loop_scope="session")'


def ran(folder: Path, files: dict[str, str], *options: str) -> str:
    """Run a project of these test files, in which every warning is an error; return what pytest prints.

    Without its summary, which says everything a second time where the variable CI is set.
    """
    settings = "[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    for name, text in {"pytest.ini": settings, "conftest.py": CONFTEST, **files}.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rN", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_they_open_on_the_loop_of_the_test(tmp_path: Path) -> None:
    """In real time and in virtual time, for the fixtures of the project too, whichever plugin runs it."""
    files = {
        "test_asyncio.py": TESTS.format(mark=ASYNCIO, fixture=BY_ASYNCIO),
        "test_session.py": TESTS.format(mark=WIDE, fixture=BY_ASYNCIO_WIDE),
        "test_anyio.py": TESTS.format(mark=ANYIO, fixture="@pytest.fixture"),
    }
    end = ran(tmp_path, files)
    assert "6 passed" in end, end


@pytest.mark.slow
def test_they_open_on_the_loop_of_a_test_without_a_mark(tmp_path: Path) -> None:
    """In pytest-asyncio's auto mode."""
    end = ran(
        tmp_path, {"test_it.py": TESTS.format(mark="", fixture="@pytest.fixture")}, "--asyncio-mode=auto"
    )
    assert "2 passed" in end, end


@pytest.mark.slow
def test_they_need_no_pytest_asyncio(tmp_path: Path) -> None:
    """With anyio alone."""
    files = {
        "test_it.py": TESTS.format(mark=ANYIO, fixture="@pytest.fixture"),
        "without.py": "import sys\nsys.modules['pytest_asyncio'] = None\n",
    }
    unknown_setting = "ignore::pytest.PytestConfigWarning"
    end = ran(tmp_path, files, "-p", "without", "-p", "no:asyncio", "-W", unknown_setting)
    assert "2 passed" in end, end


OWN_LOOPS = """
import asyncio
def pytest_asyncio_loop_factories(config, item):
    return {"one": asyncio.SelectorEventLoop, "other": asyncio.SelectorEventLoop}
"""


@pytest.mark.slow
def test_a_project_keeps_its_own_loops(tmp_path: Path) -> None:
    """The factories of its conftest.py apply to every test but those in virtual time."""
    files = {"test_it.py": TESTS.format(mark=ASYNCIO, fixture=BY_ASYNCIO), "own.py": OWN_LOOPS}
    end = ran(tmp_path, files, "-p", "own", "-vv")
    names = re.findall(r"::(\S+) PASSED", end)
    assert names == ["test_in_real_time[one]", "test_in_real_time[other]", "test_in_virtual_time"], end


WRONG = """
import pytest

def test_without_a_loop(doitong): ...

async def test_without_a_mark(doitong_emulator): ...

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio(doitong): ...

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_a_loop_of_its_own(doitong_virtual_time): ...
"""
WIDER = """
import pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="session")
async def shared():
    return "by all tests"

pytestmark = pytest.mark.anyio

async def test_in_real_time(doitong, shared): ...

async def test_beside_a_wider_fixture(doitong_virtual_time, shared): ...
"""


@pytest.mark.slow
def test_a_wrong_loop_says_what_to_do(tmp_path: Path) -> None:
    """At once, in the report of that test."""
    end = ran(tmp_path, {"test_it.py": WRONG, "test_wider.py": WIDER}, "-vv")
    assert "1 passed, 5 errors" in end, end
    for words in (
        "doitong needs an async test that pytest-asyncio or anyio runs: mark it with",
        "doitong_emulator needs an async test",
        'Give your tests a fixture anyio_backend that returns "asyncio"',
        "the test must not parametrize anyio_backend, and no async fixture may outlive it. Or run",
    ):
        assert words in end, words
    assert end.count("could not set the event loop") == 2
