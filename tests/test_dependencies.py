"""pyproject.toml declares every imported library, with version bounds that CI tries."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests import __main__ as checks

PACKAGE = checks.ROOT / "doitong_async"
PROJECT = tomllib.loads((checks.ROOT / "pyproject.toml").read_text())["project"]
BROUGHT_BY_ANOTHER = {"pydantic-core"}
"""pydantic needs exactly one version of it and brings it along."""
NAMESPACES = {"opentelemetry": ["opentelemetry-api"]}
"""Packages of which several distributions are parts, with the one that a library uses."""


def names_of(requirements: list[str]) -> set[str]:
    """Return the normalised names in a list of requirements."""
    return {_same(re.split(r"[<>=\[]", each)[0]) for each in requirements}


def _same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(modules: Iterable[Path]) -> set[str]:
    """Return the distributions that the given modules import."""
    names: set[str] = set()
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    brought = {**packages_distributions(), **NAMESPACES}
    foreign = names - sys.stdlib_module_names - {"doitong_async", "tests", "benchmarks"}
    return {_same(brought[name][0]) for name in foreign} - BROUGHT_BY_ANOTHER


@pytest.mark.slow
def test_every_imported_library_is_declared() -> None:
    """A library that comes with another one may be gone in its next version."""
    extras = PROJECT["optional-dependencies"]
    needed = names_of(PROJECT["dependencies"])
    parts = {
        "cli/*.py": names_of(extras["cli"]),
        "emulator/*.py": names_of(extras["emulator"]),
        "otel.py": names_of(extras["otel"]),
        "limits/redis/*.py": names_of(extras["redis"]),
        # Names the class of a user's own client.
        "client.py": names_of(extras["redis"]),
        # Whoever loads the fixtures runs pytest.
        "testing/fixtures.py": {"pytest", "pytest-asyncio"},
    }
    modules = set(PACKAGE.rglob("*.py"))
    for part, more in parts.items():
        those = set(PACKAGE.glob(part))
        modules -= those
        assert those
        assert imported(those) <= needed | more
    assert imported(modules) <= needed
    assert imported(PACKAGE.rglob("*.py")) == needed.union(*parts.values())


def test_ci_installs_the_lower_bound_of_every_declared_library() -> None:
    """The constraints come from pyproject.toml, so no second list can become outdated."""
    lowest = [line.split("==") for line in checks.lowest()]
    every = [
        *PROJECT["dependencies"],
        *(each for more in PROJECT["optional-dependencies"].values() for each in more),
    ]
    assert {_same(name) for name, _ in lowest} == names_of(every) - {"doitong-async"}
    assert all(f"{name}>={version}" in " ".join(every) for name, version in lowest)


def test_a_dependency_without_a_lower_bound_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip would install the newest version, and nobody would notice."""
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    text = '[project]\nname = "x"\ndependencies = ["aiohttp"]\noptional-dependencies = {}'
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ValueError, match="aiohttp has no lower bound"):
        list(checks.lowest())


def test_the_tested_pythons_are_declared() -> None:
    """They start with the oldest allowed version and leave no gap."""
    listed = [
        re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", each) for each in PROJECT["classifiers"]
    ]
    minors = [int(match[1]) for match in listed if match]
    assert PROJECT["requires-python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
