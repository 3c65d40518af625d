"""`doitong batch` with a webhook server of its own."""

from __future__ import annotations

import pytest

from doitong_async.cli.batch_run import Run
from doitong_async.cli.exits import Exit
from doitong_async.emulator import Emulator
from doitong_async.events import Event, RequestSent, WebhookReceived
from doitong_async.webhooks.serving import free_port
from tests.cli.batches import port_of, printed_json, run_batch, write_prompts
from tests.cli.commands import Serve

SECRET = "whsec-never-to-be-seen"


def webhook_options(port: int, path: str = "/") -> list[str]:
    return ["--webhook-url", f"http://127.0.0.1:{port}{path}", "--webhook-port", str(port)]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/hooks/doitong/", "/hooks/doitong"])
def test_a_batch_with_webhooks_never_polls(
    path: str, serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item ends at its webhook: one request per item, and every webhook is taken."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    serve(emulator := Emulator("pro", webhook_secret=SECRET))
    write_prompts(12)
    with free_port() as listener:
        port = port_of(listener)
    assert run_batch("--plan", "pro", *webhook_options(port, path)) == Exit.OK
    assert (emulator.world.count("submit"), emulator.world.count("poll")) == (12, 0)
    assert [posted.outcome for posted in emulator.posted] == ["taken"] * 12
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--webhook-port", "4711"], "belong together"),
        (["--webhook-url", "https://example.com/"], "belong together"),
        (["--webhook-url", "http://example.com/", "--webhook-port", "4711"], "https"),
        (["--webhook-port", "70000", "--webhook-url", "https://example.com/"], "webhook-port"),
    ],
)
def test_bad_webhook_options_are_an_error_before_anything_is_sent(
    arguments: list[str],
    says: str,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 2, with the option to correct."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    serve(emulator := Emulator("pro"))
    write_prompts(1)
    assert run_batch("--plan", "pro", *arguments) == Exit.USAGE
    assert says in capsys.readouterr().err
    assert not emulator.world.seen


def test_webhooks_need_the_secret(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not an option of the command, and without it anybody could send updates."""
    serve(emulator := Emulator("pro"))
    write_prompts(1)
    assert run_batch("--plan", "pro", *webhook_options(4711)) == Exit.USAGE
    assert "DOITONG_WEBHOOK_SECRET is not set" in capsys.readouterr().err
    assert not emulator.world.seen


def test_a_port_in_use_is_an_error(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, before anything is sent."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    serve(emulator := Emulator("pro"))
    write_prompts(1)
    with free_port() as listener:
        assert run_batch("--plan", "pro", *webhook_options(port_of(listener))) == Exit.USAGE
    assert "--webhook-port" in capsys.readouterr().err
    assert not emulator.world.seen


@pytest.mark.usefixtures("virtual_time")
def test_the_private_emulator_sends_webhooks_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It signs them with its own secret, and no item waits for a poll."""
    write_prompts(3)
    with free_port() as listener:
        port = port_of(listener)
    sent: list[Event] = []
    monkeypatch.setattr(Run, "_on_event", lambda _, event: sent.append(event))
    assert run_batch("--emulator", "--json", *webhook_options(port)) == Exit.OK
    assert printed_json(capsys)["done"] == 3
    assert [event.kind for event in sent if isinstance(event, RequestSent)] == ["submit"] * 3
    assert sum(isinstance(event, WebhookReceived) for event in sent) == 3
