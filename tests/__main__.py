"""Checks everything, one tool after the other: `python -m tests`; arguments go to pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKS = [
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy", "."],
    ["pytest", "-n", "auto", "--cov", "--cov-report=term"],
]


def main() -> int:
    """Run every check even if one fails, so that one run shows all there is to mend."""
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
