"""The README runs: each Python block on an emulator, its tables against the code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import generate_latest

import doitong_async
from doitong_async import DoitongError, Plan, events
from doitong_async.emulator import Emulator
from doitong_async.events import Event
from doitong_async.settings import OptionArguments
from doitong_async.testing import emulated, run_virtual
from doitong_async.webhooks import adapters, handler
from doitong_async.webhooks.serving import free_port
from tests.plain_server import PlainServer

pytestmark = pytest.mark.slow

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


SECRET = "whsec-readme"
NAMES: dict[str, Any] = {name: getattr(doitong_async, name) for name in doitong_async.__all__}
(SERVICE,) = [code for code in PYTHON if "FastAPI" in code]
(PROMETHEUS,) = [code for code in PYTHON if "prometheus_client" in code]
(OPENTELEMETRY,) = [code for code in PYTHON if "opentelemetry" in code]
(FIXTURES,) = [code for code in PYTHON if "doitong_virtual_time" in code]
(CELERY,) = [code for code in PYTHON if "celery" in code]
"""tests/test_task_queue.py runs it."""
RECIPES = [code for code in PYTHON if code not in (SERVICE, PROMETHEUS, OPENTELEMETRY, FIXTURES, CELERY)]


@contextmanager
def settings_of(url: str) -> Iterator[None]:
    """Set the environment variables for the API's address and its keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOITONG_API_KEY", "k-readme")
        patch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
        patch.setenv("DOITONG_BASE_URL", url)
        patch.setenv("DOITONG_PLAN", "pro")
        yield


def on_loopback(code: str, port: int) -> str:
    """Return a recipe whose public address is replaced by one on this machine."""
    return re.sub(r"https://\w+\.example\.com", f"http://127.0.0.1:{port}", code)


def coroutine_of(code: str) -> Any:
    """Return a block as a coroutine, as if it stood in an async function."""
    tree = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return types.FunctionType(tree, {**NAMES, "asyncio": asyncio})()


def run_block(code: str) -> None:
    """Run a block as a script: whole scripts unchanged, other blocks inside an async function."""
    tree = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def on_an_emulator(block: Any) -> None:
        async with Emulator(plan="pro", durations=3.0) as emulator:
            with settings_of(emulator.url):
                await block

    if tree.co_flags & inspect.CO_COROUTINE:
        run_virtual(on_an_emulator(coroutine_of(code)))
        return
    with pytest.MonkeyPatch.context() as patch:
        # A whole script calls it by itself.
        patch.setattr(asyncio, "run", lambda main: run_virtual(on_an_emulator(main)))
        exec(tree, {**NAMES})


@pytest.mark.parametrize("code", RECIPES, ids=[code.strip().splitlines()[0][:50] for code in RECIPES])
def test_a_block_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block works as shown, on an emulator, in virtual time."""
    monkeypatch.chdir(tmp_path)
    with free_port() as listener:
        port = listener.getsockname()[1]
    run_block(on_loopback(code, port))
    written = set(re.findall(r'save\("([^"{]+)"\)', code))
    assert written <= {path.name for path in tmp_path.iterdir()}


def test_the_fastapi_recipe_gets_its_picture_by_webhook() -> None:
    """As `uvicorn app:app` runs it, with a server that is not the emulator; it needs no poll."""

    async def main() -> None:
        with free_port() as listener:
            port = listener.getsockname()[1]
        async with PlainServer(seconds=0.05, webhook_secret=SECRET, key="k-readme") as service:
            with settings_of(service.url):
                module: dict[str, Any] = {}
                exec(compile(on_loopback(SERVICE, port), "app.py", "exec"), module)
                server = uvicorn.Server(uvicorn.Config(module["app"], port=port, lifespan="on"))
                serving = asyncio.create_task(server.serve())
                while not server.started and not serving.done():  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                asked = [session.get("/picture", params={"prompt": f"fox {n}"}) for n in range(5)]
                answers = await asyncio.gather(*(fetched(each) for each in asked))
            server.should_exit = True
            await serving
        assert sorted(answer["url"] for answer in answers) == sorted(
            f"{service.outputs_url}/outputs/{job_id}.jpg" for job_id in service.jobs
        )
        assert service.webhooks == [204] * 5
        assert {request.kind for request in service.requests} == {"submit"}

    asyncio.run(main())


async def three_jobs(on_event: Callable[[Event], object]) -> None:
    """Make three jobs, one at a time, for 20 credits each; the first attempt of one fails."""
    one = Plan.enterprise(requests_per_minute=600, concurrent_jobs=1)
    rules = {"durations": 3.0, "faults": ["submit 2: 500"]}
    async with emulated(plan=one, emulator=rules, on_event=on_event) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(3)))
        await doitong.submit("in flight when the client closes")


def test_the_prometheus_recipe_counts_what_happens() -> None:
    """On the real registry, with the names that a dashboard sees."""
    names: dict[str, Any] = {"events": events}
    exec(compile(PROMETHEUS, "README.md", "exec"), names)
    run_virtual(three_jobs(names["on_event"]))
    shown = generate_latest().decode()
    for line in (
        'doitong_requests_total{failure="None",http_status="200",kind="submit"} 4.0',
        'doitong_requests_total{failure="server",http_status="500",kind="submit"} 1.0',
        'doitong_job_seconds_count{provider="flux-pro",status="completed"} 3.0',
        'doitong_job_seconds_sum{provider="flux-pro",status="completed"} 12.0',
        'doitong_wait_seconds_count{reason="slot"} 2.0',
        "doitong_credits_total 60.0",
        "doitong_jobs_in_flight 0.0",
    ):
        assert line in shown.splitlines(), shown
    assert 'kind="poll"' in shown


def test_the_opentelemetry_recipe_counts_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real SDK."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    # The global provider can be set once in a process.
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    names: dict[str, Any] = {"events": events}
    exec(compile(OPENTELEMETRY, "README.md", "exec"), names)
    run_virtual(three_jobs(names["on_event"]))
    read = reader.get_metrics_data()
    assert read is not None
    points: dict[tuple[str, ...], Any] = {
        (metric.name, *sorted(map(str, (point.attributes or {}).values()))): point
        for metric in read.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }
    assert points["doitong.requests", "200", "None", "submit"].value == 4
    assert points["doitong.requests", "500", "server", "submit"].value == 1
    job, wait = points["doitong.job", "completed", "flux-pro"], points["doitong.wait", "slot"]
    assert (job.count, job.sum, wait.count) == (3, 12.0, 2)
    assert (points["doitong.credits",].value, points["doitong.jobs_in_flight",].value) == (60, 0)


def test_the_recipe_with_fixtures_runs(tmp_path: Path) -> None:
    """As a test of a project whose conftest.py names the plugin."""
    (plugins,) = re.findall(r"`(pytest_plugins = .*?)`", TEXT)
    (tmp_path / "conftest.py").write_text(plugins)
    (tmp_path / "test_it.py").write_text(FIXTURES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in ran.stdout, ran.stdout


def test_the_advice_for_a_prompt_is_the_services() -> None:
    """The three rules of its pages, in the recipe for one job."""
    recipe = " ".join(TEXT.partition("## One job")[2].partition("\n## ")[0].split())
    for rule in (
        "visual elements, style and mood",
        "lighting, camera angle and composition",
        "contradictory",
    ):
        assert rule in recipe


async def fetched(request: Any) -> Any:
    """Return the JSON of the response."""
    async with request as response:
        assert response.status == 200
        return await response.json()


def test_the_table_of_answers_matches_the_endpoint() -> None:
    """It has a row for every status that the endpoint may answer, and no other."""
    rows = re.findall(r"^\| ((?:\d{3}(?:, )?)+) \|", TEXT, re.MULTILINE)
    source = inspect.getsource(handler) + inspect.getsource(adapters)
    assert {code for row in rows for code in row.split(", ")} == {
        *re.findall(r"Response\((\d{3})", source),
        *re.findall(r"(204) if await", source),
    }


def test_the_first_two_commands_have_blocks_of_their_own() -> None:
    """A new user types them first."""
    assert SHELL[:2] == FIRST_LINES
    assert TEXT.index(FIRST_LINES[1]) < 4_000


def test_code_without_a_key_comes_by_line_15() -> None:
    """The first thing a reader sees runs."""
    assert "```python" in TEXT.splitlines()[:15]
    assert "emulated" in PYTHON[0]


def test_it_is_short_and_in_order() -> None:
    """Lines have at most 120 characters, except the one to copy; the guide comes first."""
    lines = TEXT.splitlines()
    assert len(lines) <= 500
    several = TEXT.partition("## Several processes")[2].partition("\n## ")[0]
    assert len(several.splitlines()) <= 40
    assert [line for line in lines if len(line) > 120] == [FIRST_LINES[0].strip()]
    parts = [
        "## What it takes off your hands",
        "## Install",
        "## One job",
        "## A batch that survives a crash",
        "## Limits",
        "## Webhooks",
        "## Several processes on one key",
        "## Errors",
        "## Logs and metrics",
        "## Testing your own code",
        "## The command line",
        "## Settings",
        "## What the service documents",
        "## What is assumed about the service",
        "## How it is built",
        "## Contributing",
    ]
    assert re.findall(r"^## .*$", TEXT, re.MULTILINE) == parts


def test_every_setting_has_its_row() -> None:
    """The table names every argument of the client, and marks those that may differ from call to call."""
    table = TEXT.partition("## Settings")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    marked = {name: mark == " *" for cell in cells for name, mark in re.findall(r"`(\w+)`( \*)?", cell)}
    options = set(OptionArguments.__annotations__)
    arguments = set(inspect.signature(doitong_async.AsyncDoitong.__init__).parameters) - {"self", "options"}
    assert set(marked) == options | arguments
    assert {name for name, is_marked in marked.items() if is_marked} <= options


def test_recipes_are_short() -> None:
    """At most fifteen lines of code each, and twenty for the one that sets up a task queue."""
    lines = {code: sum(bool(line.strip()) for line in code.splitlines()) for code in PYTHON}
    assert lines.pop(CELERY) <= 20
    assert max(lines.values()) <= 15


@pytest.mark.parametrize("error", DoitongError.__subclasses__(), ids=lambda error: error.__name__)
def test_every_error_has_its_row(error: type[DoitongError]) -> None:
    """The table says what happened to the job and the money, in the words of the code."""
    rows = [line for line in TEXT.splitlines() if line.startswith(f"| `{error.__name__}`")]
    assert len(rows) == 1
    assert error.outcome in rows[0]


def test_the_times_in_the_limits_section_are_real() -> None:
    """Twelve prompts on Pro, 6 s each: twelve submits, six polls, twelve seconds."""

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
    assert "12 jobs, 12 submits, 6 polls" in TEXT
