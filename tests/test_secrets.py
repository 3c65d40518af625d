"""Tools show a frame's locals: no frame shows the API key or the webhook secret, whatever fails."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import logging
import pickle
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import pytest

import doitong_async
from doitong_async import AsyncDoitong, AsyncJob, Plan, Result
from doitong_async.limits.admission import limiter_of
from doitong_async.secret import Sealed, Secret, SecretBytes, hidden
from doitong_async.settings import secret_of_environment
from doitong_async.testing import emulated
from doitong_async.transport.graphql import GraphQLTransport
from doitong_async.webhooks import sign, verify
from doitong_async.webhooks.endpoint import Webhooks
from tests.exception_chain import chain
from tests.virtual import until, virtual, with_emulator
from tests.webhooks.bodies import signed, webhook_body

KEY = "sk-live-7QxVn4rT9b-kE2mLpZ8wDhJ5sYb0"
WHSEC = "whsec-Zr8mQ1vX5tB3nK7pL2dF"
HERE = frozenset({KEY, WHSEC})


# The walk over frames and exceptions.


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of a traceback, except this module's own that are no hooks: those know all secrets."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_filename != __file__ or frame.f_code.co_name.startswith("hook"):
            yield frame
        traceback = traceback.tb_next


def leaks_of(error: BaseException | None) -> list[str]:
    """Return where a tool that shows locals would show a secret."""
    shown_texts = []
    for each in chain(error):
        shown_texts.append((f"{type(each).__name__}", f"{each!r} {each} {each.args!r} {vars(each)!r}"))
        for frame in frames_of(each):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
            shown_texts += [(f"{place} {name}", repr(value)) for name, value in frame.f_locals.items()]
    return [place for place, text in shown_texts if any(secret in text for secret in HERE)]


def test_the_walk_finds_a_leak() -> None:
    """In a local, in a container, in an error, and in an error chained to it."""

    def hook_that_shows(*, headers: dict[str, str]) -> None:
        raise KeyError("x")

    for headers in ({"a": KEY}, {WHSEC: "b"}):
        with pytest.raises(KeyError) as caught:
            hook_that_shows(headers=headers)
        assert leaks_of(caught.value)
        outer = ValueError("y")
        outer.__context__ = caught.value
        assert leaks_of(outer)
    assert leaks_of(ValueError(KEY))
    assert leaks_of(ValueError("fine")) == []


# Failures before anything is open.


def made(**arguments: Any) -> AsyncDoitong:
    return AsyncDoitong(**{"api_key": KEY, "webhook_secret": WHSEC, **arguments})


EARLY_FAILURES: dict[str, Callable[[], object]] = {
    "a bad plan": lambda: made(plan="gold"),
    "a bad base_url": lambda: made(base_url="ftp://x"),
    "plain http": lambda: made(base_url="http://example.com"),
    "a bad option": lambda: made(timeout=-1),
    "another bad option": lambda: made(width=0),
    "a bad count": lambda: made(max_attempts=0),
    "bad ssl": lambda: made(ssl=False),
    "a bad user agent": lambda: made(user_agent="é"),
    "a bad status operation": lambda: made(status_operation="?"),
    "bad output hosts": lambda: made(output_hosts=[5]),
    "a bad webhook_url": lambda: made(webhook_url="ftp://x"),
    "a bad coordinator": lambda: made(coordinator=f"http://:{KEY}@cache.example"),
    "a bad webhook_field": lambda: made(webhook_field="?"),
    "a misspelt key": lambda: AsyncDoitong(apikey=KEY, webhook_secret=WHSEC),  # type: ignore[call-arg]
    "a misspelt secret": lambda: made(webhook_secrets=[WHSEC]),
    "a key of another name": lambda: made(authorization=KEY),
    "a misspelt key of a view": lambda: made().with_options(apikey=KEY),  # type: ignore[call-arg]
    "a key of a view": lambda: made().with_options(api_key=KEY),  # type: ignore[call-arg]
    "a key with a space": lambda: made(api_key=f"{KEY} "),
    "a key of bytes": lambda: made(api_key=KEY.encode()),
    "a key in a list": lambda: made(api_key=[KEY]),
    "a key in a mapping": lambda: made(api_key={"key": KEY}),
    "a secret and none": lambda: made(webhook_secret=[WHSEC, ""]),
    "a secret in a mapping": lambda: made(webhook_secret={"secret": WHSEC}),
    "a secret in a set": lambda: made(webhook_secret={WHSEC}),
    "verify another": lambda: verify(webhook_body(), signed(webhook_body(), "another"), WHSEC),
    "verify another of several": lambda: verify(
        webhook_body(), signed(webhook_body(), "another"), [WHSEC, WHSEC.encode()]
    ),
    "verify with a bad secret": lambda: verify(webhook_body(), None, [WHSEC, ""]),
    "verify a text": lambda: verify("no bytes", None, WHSEC),  # type: ignore[arg-type]
    "sign with a bad secret": lambda: sign(b"", [WHSEC]),  # type: ignore[arg-type]
    "sign a text": lambda: sign("no bytes", WHSEC),  # type: ignore[arg-type]
    "an endpoint with a bad secret": lambda: Webhooks([WHSEC, ""]),
    "a client outside": lambda: made().jobs(),
    "a limiter outside": lambda: limiter_of(KEY, "https://x", Plan.PRO),
    "a transport of nothing": lambda: GraphQLTransport(
        base_url="https://x",
        api_key=KEY,
        session=None,  # type: ignore[arg-type]
        ssl=True,
        user_agent=5,  # type: ignore[arg-type]
    ).send(),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("failure", EARLY_FAILURES)
def test_no_frame_shows_a_given_secret(failure: str) -> None:
    """Even if the secret itself is wrong."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - other tests check what is raised
        EARLY_FAILURES[failure]()
    assert leaks_of(caught.value) == []


@pytest.mark.parametrize(
    "wrong", [{"plan": "gold"}, {"base_url": "ftp://x"}, {"timeout": -1}, {"max_attempts": 0}]
)
def test_no_frame_shows_a_secret_of_the_environment(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the whole environment, which contains it."""
    monkeypatch.setenv("DOITONG_API_KEY", KEY)
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", WHSEC)
    with pytest.raises(ValueError, match="expected") as caught:
        AsyncDoitong(**wrong)
    assert leaks_of(caught.value) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("apikey", "api_key"),
        ("webhooksecret", "webhook_secret"),
        ("time_out", "timeout"),
        ("hight", "height"),
    ],
)
def test_a_misspelt_keyword_is_an_error_that_names_it(wrong: str, right: str) -> None:
    """It suggests the nearest right one and shows no value, which may be the key."""
    given: Any = {wrong: KEY}
    for taker in (AsyncDoitong, made().with_options):
        with pytest.raises(TypeError, match=rf"AsyncDoitong.*'{wrong}'. Did you mean '{right}'\?") as caught:
            taker(**given)
        assert leaks_of(caught.value) == []
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'\.$"):
        AsyncDoitong(zzz=KEY)  # type: ignore[call-arg]


# Failures while a client is open.


class Exit(BaseException):
    """Derives from BaseException, as what `pytest.fail` raises."""


def raising(name: str, raised: type[BaseException] = KeyError) -> aiohttp.ClientSession:
    """Return a user's session with one hook that sees everything and raises."""
    config = aiohttp.TraceConfig()

    async def hook(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        headers = dict(getattr(params, "headers", None) or {})
        items = list(headers.items())
        assert headers or items or name
        raise raised("x")

    getattr(config, name).append(hook)
    return aiohttp.ClientSession(trace_configs=[config])


def between(is_before: bool) -> aiohttp.ClientSession:
    """Return a user's session with a middleware that raises."""

    async def hook_between(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        headers, everything = request.headers, [dict(request.headers)]
        if is_before:
            raise KeyError(len(everything))
        answer = await handler(request)
        raise KeyError(answer.status, len(headers))

    if not hasattr(aiohttp, "ClientMiddlewareType"):
        pytest.skip("aiohttp has middlewares from 3.12 on")
    return aiohttp.ClientSession(middlewares=(hook_between,))


SESSIONS: dict[str, Callable[[], aiohttp.ClientSession]] = {
    **{
        name: lambda name=name: raising(name)  # type: ignore[misc]
        for name in (
            *("on_request_start", "on_connection_create_start", "on_request_headers_sent"),
            *("on_request_chunk_sent", "on_response_chunk_received", "on_request_end"),
        )
    },
    "an aiohttp error of a hook's": lambda: raising("on_request_end", aiohttp.ClientError),
    "a cancellation of a hook's": lambda: raising("on_request_end", asyncio.CancelledError),
    "an exit before": lambda: raising("on_request_start", Exit),
    "an exit after": lambda: raising("on_request_end", Exit),
    "a middleware before": lambda: between(True),
    "a middleware after": lambda: between(False),
    "raises for each status": lambda: aiohttp.ClientSession(raise_for_status=True),
    "a header of its own": lambda: aiohttp.ClientSession(headers={"Authorization": "Basic x"}),
}
FAULTS = ["401", "500", "502", "cut-before", "cut-after", "null", "partial", "null-alias", "latency inf"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults", [[], *([f"{place}: {what}"] for place in ("submit", "poll") for what in FAULTS)], ids=str
)
@virtual
async def test_no_frame_shows_a_secret_when_the_service_fails(
    faults: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Submits, polls and the wait are covered, and so is the log of a callback that raises."""
    assert await sweep(caplog, faults=faults) == []


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS)
@virtual
async def test_no_frame_shows_a_secret_when_a_users_session_fails(
    session: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own hook or middleware raises; it sees the request's headers, but masked."""
    async with SESSIONS[session]() as own:
        assert await sweep(caplog, session=own, faults=["output: 500"]) == []


async def sweep(caplog: pytest.LogCaptureFixture, *, faults: list[str], **arguments: Any) -> list[str]:
    """Make a client fail in every way, and return where a secret was shown."""

    def hook_of_events(event: object) -> None:
        raise KeyError(event)

    given = {
        "api_key": KEY,
        "webhook_secret": WHSEC,
        "webhook_url": "http://127.0.0.1:9/",
        "on_event": hook_of_events,
        "timeout": 20.0,
        "request_timeout": 4.0,
        "poll_timeout": 3.0,
        **arguments,
    }
    caplog.set_level(logging.DEBUG)
    ends: list[BaseException | None] = []
    async with with_emulator(emulator={"faults": faults, "durations": 2.0}, **given) as (doitong, emulator):
        ends.append(await end_of(doitong.generate("a fox", width=8, height=8)))
        ends.append(await end_of(asyncio.wait_for(doitong.generate("a hare", width=8, height=8), 0.5)))
        ends.append(await end_of(follow(doitong)))
        ends.append(await end_of(doitong.webhooks.deliver(webhook_body(), signed(webhook_body(), "another"))))
        leaver = asyncio.ensure_future(doitong.generate("a cat", width=8, height=8))
        await asyncio.sleep(0.01)
        leaver.cancel()
        ends.append(await end_of(leaver))
        waiting = asyncio.ensure_future(doitong.generate("a wolf", width=8, height=8))
        await asyncio.sleep(0)
        await doitong.aclose()
        ends.append(await end_of(waiting))
        ends.append(await end_of(doitong.generate("too late")))
        assert any(KEY in str(dict(request.headers)) for request in emulator.world.seen) or arguments
    errors = [error for error in ends if error is not None]
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert len(errors) >= 4
    leaks = [leak for error in [*errors, *logged] for leak in leaks_of(error)]
    return [*leaks, *("log" for secret in HERE if secret in caplog.text)]


async def follow(doitong: AsyncDoitong) -> bytes:
    """Call every method of one job."""
    job = await doitong.submit("a dog", width=8, height=8)
    await job.refresh()
    result = await job
    return await result.read()


async def end_of(work: Awaitable[object]) -> BaseException | None:
    try:
        await work
    except (Exception, asyncio.CancelledError, Exit) as error:
        return error
    return None


@virtual
async def test_no_frame_shows_a_secret_when_nobody_listens() -> None:
    """The same holds after the session's owner closed it."""
    session = aiohttp.ClientSession()
    for own in (None, session):
        async with made(base_url="http://127.0.0.1:9", session=own) as doitong:
            if own is not None:
                await own.close()
            error = await end_of(doitong.generate("a fox"))
        assert error is not None
        assert leaks_of(error) == []
    error = await end_of(made(session=session).__aenter__())
    assert error is not None
    assert leaks_of(error) == []


@virtual
async def test_a_cancelled_request_shows_nothing() -> None:
    """Nor do the transport's own frames, which a cancellation passes."""
    got = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, aiohttp.ClientSession() as session:
        url = f"http://{host}:{port}"
        transport = GraphQLTransport(base_url=url, api_key=KEY, session=session, ssl=True, user_agent="x")
        await transport.open()
        sending = asyncio.ensure_future(transport.send(b"{}", timeout=60))
        await until(got.is_set)
        sending.cancel()
        error = await end_of(sending)
        await transport.close()
        for _ in range(5):
            await asyncio.sleep(0)
    assert isinstance(error, asyncio.CancelledError)
    assert leaks_of(error) == []


@virtual
async def test_a_failure_in_a_users_test_shows_no_secret() -> None:
    """Every exception raised in the block of `emulated` has its frame."""
    for arguments in (
        {"api_key": KEY, "webhook_secret": [WHSEC], "webhook_url": "http://127.0.0.1:9/"},
        {"apikey": KEY},
        {"emulator": {"key": "emulated", "webhook_secret": WHSEC}, "webhook_secrets": WHSEC},
    ):
        given: dict[str, Any] = arguments
        with pytest.raises((ZeroDivisionError, TypeError)) as caught:
            async with emulated(**given):
                raise ZeroDivisionError
        assert leaks_of(caught.value) == []


# Reprs and pickles.


def test_settings_show_no_secret_in_any_form() -> None:
    """Neither as a mapping nor as JSON nor pickled, but they still contain the given values."""
    client = made(webhook_url="https://example.com/")
    settings = client._shared.settings
    as_mapping = dataclasses.asdict(settings)
    shown = [
        *(repr(settings), str(settings), repr(as_mapping), json.dumps(as_mapping, default=repr)),
        json.dumps(as_mapping, default=str),
        *(repr(dataclasses.astuple(settings)), repr(copy.deepcopy(settings)), repr(vars(client))),
        pickle.dumps(settings).decode("latin-1"),
        repr(dataclasses.replace(settings, max_attempts=1)),
    ]
    for text in shown:
        assert not any(secret in text for secret in HERE)
    assert copy.deepcopy(settings) == settings
    assert settings.api_key.reveal() == KEY
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.reveal() == WHSEC


@pytest.mark.parametrize("secret", [KEY, KEY.encode(), [KEY, KEY.encode()], {KEY}, {"a": KEY}])
def test_a_hidden_secret_is_masked_everywhere(secret: Any) -> None:
    """In its repr, in the repr of a container, and pickled."""
    masked = hidden(secret)
    for text in (
        f"{masked!r} {[masked]!r} { ({'a': masked})!r} {masked!a}",
        *(repr(copy.deepcopy([masked])), pickle.dumps(masked).decode("latin-1"), repr(copy.copy(masked))),
    ):
        assert KEY not in text
    assert hidden(masked) == masked


def test_a_hidden_secret_works_like_its_value() -> None:
    """It compares and encodes like the value it hides."""
    assert (hidden(KEY), hidden(KEY.encode()), hidden(None)) == (KEY, KEY.encode(), None)
    assert isinstance(hidden(KEY), Secret)
    assert isinstance(hidden(KEY.encode()), SecretBytes)
    assert f"Bearer {hidden(KEY)}" == f"Bearer {KEY}"
    assert {Sealed(KEY)} == {Sealed(KEY)}
    assert Sealed(KEY) != KEY
    assert sign(b"x", KEY) == sign(b"x", KEY.encode())


def test_a_half_built_object_has_a_repr() -> None:
    """Debuggers and tools that show locals ask for it."""
    assert repr(AsyncDoitong.__new__(AsyncDoitong)) == "<AsyncDoitong not made>"
    with pytest.raises(ValueError, match="plan") as caught:
        made(plan="gold")
    traceback = caught.value.__traceback__
    assert traceback is not None
    assert traceback.tb_next is not None
    assert any("not made" in repr(frame.f_locals) for frame in frames_of(caught.value))
    for kind in (AsyncJob, Result):
        assert repr(kind.__new__(kind)) == f"<{kind.__name__} not made>"


# The environment.


@pytest.mark.parametrize("given", [KEY, f" {KEY}\n", f"\t{KEY}\r\n", f"\n{KEY} "])
def test_white_space_around_a_secret_in_the_environment_is_ignored(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable read from a file ends in a line break."""
    monkeypatch.setenv("DOITONG_API_KEY", given)
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", given)
    settings = AsyncDoitong()._shared.settings
    assert settings.api_key.reveal() == KEY
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.reveal() == KEY


@pytest.mark.parametrize("blank", ["", " ", "\n", "\t \r\n"])
def test_a_blank_secret_in_the_environment_counts_as_unset(
    blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client then asks for a key."""
    monkeypatch.setenv("DOITONG_API_KEY", blank)
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", blank)
    assert secret_of_environment("DOITONG_API_KEY") is None
    with pytest.raises(ValueError, match="There is no API key"):
        AsyncDoitong()
    assert AsyncDoitong(api_key=KEY)._shared.settings.webhook_secret is None


def test_the_package_starts_no_process() -> None:
    """A child process would inherit the environment, and with it the secrets."""
    package = Path(doitong_async.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "subprocess" in path.read_text()] == []


def test_a_part_of_a_secret_is_masked_as_well() -> None:
    """Tools cut a long text before they show it."""
    secret, raw = Secret("sk-" + "SECRET" * 40), SecretBytes(b"SECRET" * 40)
    assert "SECRET" not in repr([secret[:80], secret[3], raw[:80], copy.copy(secret), copy.copy(raw)])
    assert copy.copy(secret) == secret


@pytest.mark.parametrize("call", ["generate", "submit"])
@virtual
async def test_a_secret_given_to_the_wrong_call_is_not_shown(call: str) -> None:
    """Nor is one under a misspelt name; the error suggests the nearest right name."""
    async with with_emulator() as (doitong, _):
        with pytest.raises(TypeError, match=f"AsyncDoitong.{call}") as caught:
            await getattr(doitong, call)("a fox", api_key=KEY)
        assert leaks_of(caught.value) == []
        with pytest.raises(TypeError, match="'width'"):
            await getattr(doitong, call)("a fox", widht=5)
