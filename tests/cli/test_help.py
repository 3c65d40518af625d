"""The help texts, and the commands that messages offer for copying."""

from __future__ import annotations

import re
import subprocess

import pytest

from doitong_async.cli import main
from doitong_async.cli.exits import MEANINGS, Exit
from doitong_async.cli.text import clean, command_line
from doitong_async.emulator import parse_fault


def test_the_help_shows_examples_and_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lists the environment as well; a bare `doitong` shows it and counts as a mistake."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--emulator -o city.jpg" in text
    assert "DOITONG_API_KEY" in text
    assert "DOITONG_LOG  " in text
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ {code.value} +{re.escape(meaning)}", text, re.MULTILINE)
    assert main([]) == Exit.USAGE
    assert capsys.readouterr().out == text
    for command in ("generate", "job", "doctor", "emulator"):
        assert main([command, "-h"]) == 0
        assert "Examples" in capsys.readouterr().out


def test_the_help_of_generate_says_how_to_write_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    """The three rules of the service's pages."""
    assert main(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    for rule in (
        "visual elements, style and mood",
        "lighting, camera angle and composition",
        "contradictory",
    ):
        assert rule in text


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "a fox",
        "it's",
        "two\nlines",
        "tab\tand 'quote' and \\",
        "\x1b[31m",
        "\u202e",
        "🦊\u200d",
        "\U000e0001",
    ],
)
def test_a_command_to_copy_keeps_its_arguments(word: str) -> None:
    """It is printable, and the shell reads the same arguments from it."""
    line = command_line(["generate", word])
    assert clean(line) == line
    script = line.replace("doitong", "printf '%s|'", 1)
    ran = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert ran.stdout.decode() == f"generate|{word}|"


@pytest.mark.parametrize("arguments", [["help"], ["poll: nonsense", "--fault", "help"]])
def test_fault_help_lists_the_forms_of_faults(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--fault help` prints the table of `doitong_async.emulator.faults` and starts nothing."""
    assert main(["emulator", "--fault", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Faults as data")
    assert all(
        f"\n  {what}" in out for what in ("latency 10", "cut-after ", "odd-status dreaming", "late 10")
    )


def test_the_emulator_help_explains_faults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example in it parses, and it names the endpoint that changes faults at run time."""
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["emulator", "--help"]) == 0
    text = capsys.readouterr().out
    shown = re.findall(r"^ *((?:submit|poll|any|output|job)[^:\n]*: .+?)(?:  .*)?$", text, re.MULTILINE)
    assert len(shown) == 5
    for fault in shown:
        assert str(parse_fault(fault.strip()))
    assert "--fault help" in text
    assert all(word in text for word in ("/_emulator/faults", "GET", "PUT", "DELETE"))
