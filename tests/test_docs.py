"""The API reference has a page for every public module, and a build that is not perfect fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import docs
from tests.__main__ import ROOT, main


@pytest.mark.slow
def test_the_reference_is_complete() -> None:
    """In a process of its own: the build changes the signatures that it shows."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests", "--docs"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.returncode) == ("The API reference is in docs/index.html.\n", 0), ran
    assert {"doitong_async.events", "doitong_async.webhooks", "doitong_async.emulator"} < set(docs.PAGES)
    for name in docs.PAGES:
        assert (ROOT / "docs" / f"{name.replace('.', '/')}.html").exists()
    ignored = subprocess.run(["git", "check-ignore", "-q", "docs"], cwd=ROOT, check=False)
    assert ignored.returncode in (0, 128)


ODD = '''
"""A module whose reference is not perfect; it belongs to `doitong_async.nowhere`."""

__all__ = ["missing", "odd"]


def odd(argument: "Nowhere") -> None:
    """Do something.

    Arguments, as they come:
        argument: is run together with its heading.
    """
'''


def test_a_reference_that_is_not_perfect_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A type that cannot be read, a name without a description, a page that does not exist."""
    (tmp_path / "odd_module.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(docs, "PAGES", ["odd_module"])
    monkeypatch.setattr("tests.__main__.ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["tests", "--docs"])
    assert main() == 1
    said = capsys.readouterr().out
    assert "Error parsing type annotation" in said
    assert "Found 'missing' in odd_module.__all__, but it does not resolve" in said
    assert "odd_module names doitong_async.nowhere, which has no page" in said
    assert "odd_module: Arguments, as they come: would be run together" in said
