"""Pytest fixtures for your own tests: `pytest_plugins = ["doitong_async.testing.fixtures"]` in conftest.py.

- `doitong`: an open client on an emulator of its own, as `doitong_async.testing.emulated` yields it.
- `doitong_emulator`: that emulator. A client that your code opens by itself reaches it too.
- `doitong_virtual_time`: the test's event loop, on which time jumps instead of passing.

They work in async tests that pytest-asyncio (strict or auto) or anyio runs, on the loop of the test. For
virtual time pytest-asyncio must be 1.4 or newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from typing import Any, Final

import pytest

from doitong_async.emulator import Emulator
from doitong_async.testing import EmulatedDoitong, VirtualTimeLoop, emulated

__all__ = ["doitong", "doitong_emulator", "doitong_virtual_time"]

try:
    import pytest_asyncio
except ImportError:
    pytest_asyncio = None  # type: ignore[assignment]

_VIRTUAL: Final = "doitong_virtual_time"
_NO_LOOP: Final = (
    "{fixture} needs an async test that pytest-asyncio or anyio runs: mark it with @pytest.mark.asyncio or "
    "@pytest.mark.anyio, or set asyncio_mode = auto. In any other test use doitong_async.testing.emulated() "
    "and run_virtual()."
)
_NOT_ASYNCIO: Final = (
    "{fixture} needs asyncio, and anyio runs this test on {backend}. Give your tests a fixture anyio_backend "
    'that returns "asyncio".'
)
_REAL_TIME: Final = (
    "doitong_virtual_time could not set the event loop of this test, which is {loop!r}. pytest-asyncio must "
    "be 1.4 or newer. For anyio the mark must stand on the test, its class or its module, the test must not "
    "parametrize anyio_backend, and no async fixture may outlive it. Or run the test's body with "
    "doitong_async.testing.run_virtual()."
)


@pytest.fixture
def doitong(request: pytest.FixtureRequest) -> EmulatedDoitong:
    """An open client on an emulator of its own, `doitong.emulator`: no key, no network, no cost."""
    client, _ = _opened(request)
    return client


@pytest.fixture
def doitong_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator that `doitong` speaks to.

    For the time of the test DOITONG_BASE_URL, DOITONG_API_KEY and DOITONG_PLAN lead to it: a plain
    `AsyncDoitong()` in the tested code reaches it as well, and never the service.
    """
    client, _ = _opened(request)
    settings = {"BASE_URL": client.emulator.url, "API_KEY": "emulated", "PLAN": "pro"}
    for name, value in settings.items():
        monkeypatch.setenv(f"DOITONG_{name}", value)
    return client.emulator


@pytest.fixture
def doitong_virtual_time(request: pytest.FixtureRequest) -> VirtualTimeLoop:
    """The event loop of the test, whose clock jumps to the next timer: see `VirtualTimeLoop`."""
    _, loop = _opened(request)
    if not isinstance(loop, VirtualTimeLoop):
        pytest.fail(_REAL_TIME.format(loop=loop), pytrace=False)
    return loop


_Opened = tuple[EmulatedDoitong, asyncio.AbstractEventLoop]


def _opened(request: pytest.FixtureRequest) -> _Opened:
    """Return the client of the test, opened on the test's own loop by the plugin that runs the test."""
    mark = request.node.get_closest_marker("asyncio")
    name = "_doitong_by_anyio"
    if mark is not None and pytest_asyncio is not None:
        scope = mark.kwargs.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope")
        name = f"_doitong_in_{scope}_loop"
    elif "anyio_backend" not in request.fixturenames:
        pytest.fail(_NO_LOOP.format(fixture=request.fixturename), pytrace=False)
    elif (backend := request.getfixturevalue("anyio_backend_name")) != "asyncio":
        pytest.fail(_NOT_ASYNCIO.format(fixture=request.fixturename, backend=backend), pytrace=False)
    opened: _Opened = request.getfixturevalue(name)
    return opened


def _opening() -> Callable[[], AsyncIterator[_Opened]]:
    """Return a function of its own for each fixture: pytest-asyncio marks the function as one of its own."""

    async def opening() -> AsyncIterator[_Opened]:
        async with emulated() as client:
            yield client, asyncio.get_running_loop()

    return opening


_doitong_by_anyio = pytest.fixture(_opening())
if pytest_asyncio is not None:
    for _scope in ("function", "class", "module", "package", "session"):
        globals()[f"_doitong_in_{_scope}_loop"] = pytest_asyncio.fixture(_opening(), loop_scope=_scope)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Generator[None, Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None, Mapping[str, Any]]:
    """Give pytest-asyncio the loop of a test in virtual time; the others keep theirs."""
    others = yield
    if _VIRTUAL in getattr(item, "fixturenames", ()):
        return {"virtual": VirtualTimeLoop}
    return others or {"default": asyncio.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give anyio the loop of a test in virtual time, unless the test itself names its backends."""
    own = metafunc.definition.iter_markers("parametrize")
    if {_VIRTUAL, "anyio_backend"} <= set(metafunc.fixturenames) and not any(
        "anyio_backend" in mark.args[0] for mark in own if mark.args
    ):
        backend = ("asyncio", {"loop_factory": VirtualTimeLoop})
        virtual = pytest.mark.parametrize("anyio_backend", [backend], ids=["virtual"], scope="session")
        metafunc.definition.add_marker(virtual)
