"""Checks everything, one tool after the other: `python -m tests`; arguments go to pytest.

`python -m tests --lowest` prints the lowest allowed version of each direct dependency, as constraints for
pip; `python -m tests --fast` runs the part of the tests that hangs on them and on the Python.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAST = [
    "tests/test_cli.py::test_bad_input_is_told_before_anything_is_sent",
    "tests/test_cli.py::test_the_help_teaches",
    "tests/test_cli.py::test_the_help_teaches_faults",
    "tests/test_client.py",
    "tests/test_dependencies.py",
    "tests/test_estimate_command.py",
    "tests/test_foreign.py",
    "tests/test_testing.py",
    "tests/test_types.py",
    "tests/batch/test_ledger.py",
    "tests/contract/test_contract.py",
    "tests/emulator/test_graphql.py",
    "tests/emulator/test_pictures.py",
    "tests/jobs/test_job.py",
    "tests/limits/test_word.py",
    "tests/transport/test_exchange.py",
    "tests/transport/test_graphql.py",
    "tests/webhooks/test_faces.py",
]
"""What touches every folder and every library: for other Pythons and other versions of the libraries."""
CHECKS = [
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy", "."],
    ["pytest", "-n", "auto", "--cov", "--cov-report=term"],
]


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


def main() -> int:
    """Run every check even if one fails, so that one run shows all there is to mend."""
    if sys.argv[1:] == ["--lowest"]:
        print(*lowest(), sep="\n")  # noqa: T201 - a command's own output
        return 0
    if sys.argv[1:2] == ["--fast"]:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *sys.argv[2:], *FAST]
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    failed = []
    for check in CHECKS:
        arguments = sys.argv[1:] if check[0] == "pytest" else []
        print("$", *check, *arguments, flush=True)  # noqa: T201 - a command's own output
        if subprocess.run([sys.executable, "-m", *check, *arguments], cwd=ROOT, check=False).returncode:
            failed.append(check[0])
    if failed:
        print("failed:", ", ".join(failed), flush=True)  # noqa: T201
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
