"""Runs every check, one tool after another: `python -m tests`; arguments go to pytest.

`python -m tests --quick` leaves out slow tests and coverage. `python -m tests --docs` writes the API
reference to docs/. `python -m tests --lowest` prints the lowest allowed version of each direct dependency,
as constraints for pip.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKS = [
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy", "."],
    ["tests", "--docs"],
    ["pytest", "-n", "auto", "-m", "not slow", "--cov", "--cov-report=term"],
    ["pytest", "-n", "auto", "-m", "slow"],
]
"""The slow tests run without coverage, which would double their time and find nothing more."""
QUICK = [*CHECKS[:4], ["pytest", "-q", "-n", "auto", "-m", "not slow"]]


def lowest() -> Iterator[str]:
    """Yield the lower bound of every direct dependency in pyproject.toml as `name==version`.

    Raises:
        ValueError: if one has no lower bound.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in requirements:
            if requirement.startswith(f"{project['name']}["):
                continue
            match = re.fullmatch(r"([\w.-]+)>=([\d.]+)(,<[\d.]+)?", requirement)
            if match is None:
                raise ValueError(f"{requirement} has no lower bound that can be read")
            yield f"{match[1]}=={match[2]}"


def docs() -> int:
    """Build the API reference; print what is wrong with it, and return 1 if anything is."""
    # Late: `--lowest` runs before pdoc is installed.
    from tests.docs import build

    folder = ROOT / "docs"
    wrong = build(folder)
    print(*wrong or [f"The API reference is in {folder.name}/index.html."], sep="\n")  # noqa: T201
    return bool(wrong)


def _environment() -> dict[str, str]:
    """Return an environment that keeps compiled modules: each worker and each command needs them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def main() -> int:
    """Run every check even if one fails, so that one run shows every mistake."""
    if sys.argv[1:] == ["--lowest"]:
        print(*lowest(), sep="\n")  # noqa: T201 - the command's own output
        return 0
    if sys.argv[1:] == ["--docs"]:
        return docs()
    failed = set()
    is_quick = sys.argv[1:2] == ["--quick"]
    for check in QUICK if is_quick else CHECKS:
        arguments = sys.argv[1 + is_quick :] if check[0] == "pytest" else []
        print("$", *check, *arguments, flush=True)  # noqa: T201 - the command's own output
        command = [sys.executable, "-m", *check, *arguments]
        code = subprocess.run(command, cwd=ROOT, env=_environment(), check=False).returncode
        # Exit code 5: the arguments select no test of this part.
        if code and not (arguments and code == 5):
            failed.add(check[0])
    if failed:
        print("failed:", ", ".join(sorted(failed)), flush=True)  # noqa: T201
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
