"""What every command line has: a version, `python -m`, completion, a help that fits, and proxies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command

import doitong_async
from doitong_async import AsyncDoitong, ConfigurationError, ConnectionFailedError
from doitong_async.cli import main
from doitong_async.cli.app import app
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from tests.plain_server import PlainServer
from tests.virtual import virtual

COMMANDS: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009 - typer does not state its type


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "doitong_async", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, which bug reports can quote."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"doitong-async {doitong_async.__version__}\n"


def test_the_package_runs_as_a_module() -> None:
    """Where the script is not on the path."""
    assert run("--version").stdout.split()[-1].decode() == doitong_async.__version__


def test_the_shell_completes_commands() -> None:
    """typer brings it; our own entry point must not break it."""
    answered = run(_DOITONG_COMPLETE="complete_bash", COMP_WORDS="doitong gen", COMP_CWORD="1")
    assert answered.stdout.split() == [b"generate"]


@pytest.mark.parametrize("columns", ["40", "80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_cut_in_the_help(
    command: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without its end cannot be typed; a narrow terminal wraps the lines instead."""
    monkeypatch.setenv("COLUMNS", columns)
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for option in COMMANDS[command].params:
        assert [name for name in option.opts if name.startswith("-") and name not in shown] == []


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", ["", "batch", "emulator"])
def test_the_help_is_shown_in_every_encoding(encoding: str, command: str) -> None:
    """What a stream cannot encode is escaped."""
    shown = run(*command.split(), "--help", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"Usage: doitong" in shown.stdout


@pytest.mark.parametrize("option", ["--requests-per-minute", "--concurrent-jobs", "--jobs-per-day"])
def test_a_limit_is_above_zero(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that names the option."""
    assert main(["emulator", option, "0"]) == 2
    assert f"{option} is 0; expected a whole number above zero." in capsys.readouterr().err


@pytest.mark.parametrize("command", [["generate", "a fox"], ["job", "abc"]])
def test_a_malformed_key_is_a_matter_of_credentials(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Like a missing one; no part of it is shown."""
    monkeypatch.setenv("DOITONG_API_KEY", "bad key")
    assert main(command) == Exit.CREDENTIALS
    error = capsys.readouterr().err
    assert "DOITONG_API_KEY is no key" in error
    assert "bad key" not in error


def test_a_rejected_key_is_to_be_set_before_the_command_goes_on() -> None:
    """The same command again would fail again."""

    async def rejected() -> subprocess.CompletedProcess[bytes]:
        async with Emulator(key="another") as emulator:
            command = ("job", "abc", "--base-url", emulator.url)
            return await asyncio.to_thread(run, *command, DOITONG_API_KEY="wrong")

    ended = asyncio.run(rejected())
    assert ended.returncode == Exit.CREDENTIALS
    assert b"Set DOITONG_API_KEY to a valid key, then go on." in ended.stderr


# Proxies


ELSEWHERE = "http://127.0.0.9:9"
"""A place where nobody listens: what arrives came through the proxy."""


@virtual
async def test_a_proxy_carries_every_request() -> None:
    """Submits, polls and outputs alike."""
    async with Emulator(durations=3.0) as proxy:
        async with AsyncDoitong(api_key="k", base_url=ELSEWHERE, proxy=proxy.url) as doitong:
            assert (await doitong.generate("a fox")).id
        assert {request.kind for request in proxy.requests} == {"submit", "poll"}


@pytest.mark.parametrize("proxy", ["", "proxy.example", "socks5://proxy.example", "http://", 7])
def test_what_is_no_proxy_is_refused_without_showing_it(proxy: Any) -> None:
    """It may hold a password."""
    with pytest.raises(ConfigurationError, match="proxy is no URL of a proxy") as caught:
        AsyncDoitong(api_key="k", proxy=proxy)
    assert "socks5" not in caught.value.message


@virtual
async def test_the_refusal_of_a_proxy_shows_its_status() -> None:
    """407 means a password is missing, 403 that the host is not allowed; nothing was sent."""
    server = PlainServer(script=lambda kind, nth: b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    async with server:
        client = AsyncDoitong(api_key="k", base_url="https://api.example", proxy=server.url, max_attempts=1)
        async with client as doitong:
            with pytest.raises(
                ConnectionFailedError, match="proxy refused the connection: HTTP 407"
            ) as caught:
                await doitong.submit("a fox")
    assert not caught.value.sent


@virtual
async def test_a_proxy_of_the_environment_is_used_by_commands_only_for_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An emulator on this machine is reached without it."""
    from doitong_async.cli.service import Service

    async with Emulator(durations=0.0) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("DOITONG_API_KEY", "k")
        async with Service(base_url=ELSEWHERE).opened(lambda _: None) as doitong:
            await doitong.generate("a fox")
        assert proxy.charges == 1
        async with Service(base_url=ELSEWHERE, is_keyless=True).opened(lambda _: None) as doitong:
            with pytest.raises(ConnectionFailedError):
                await doitong.generate("a fox")
        assert proxy.charges == 1
