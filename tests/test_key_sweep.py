"""Whole runs with every fault, at DEBUG: the API key must be in nothing that comes out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import json
import logging
import pickle
import re
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import quote, unquote

import aiohttp
import pytest

from doitong_async import (
    AsyncDoitong,
    AsyncJob,
    ConfigurationError,
    DoitongError,
    GenerateRequest,
    Plan,
    Result,
)
from doitong_async.check.probes import STRANGER
from doitong_async.emulator import Emulator, Fault
from doitong_async.emulator.faults import What, Where
from tests.exception_chain import chain
from tests.plain_server import JPEG
from tests.virtual import virtual, with_emulator

pytestmark = pytest.mark.slow

KEY: Final = "sk-live-7QxVn4rT9b/kE+2mLpZ8wDhJ5sYb0/uGc3+Xa=="
LONGEST: Final = 60.0
"""The most virtual seconds that one step of a run may take."""
PIECE: Final = 10
"""This many characters of the key count as a finding, because a message may cut it in the middle."""
NOT_FOR_OTHERS: Final = {"authorization", "x-api-key", "idempotency-key"}


# The finder.


def plainer(text: str) -> str:
    """Return a text with the escapes of JSON, Python, HTML and URLs undone."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})", lambda at: chr(int(at[1] or at[2], 16)), text)
    return html.unescape(unquote(text.replace("\\/", "/").replace("\\", "")))


def as_base64(secret: str) -> Iterator[str]:
    """Yield its base64 spellings at every position in a longer text."""
    for before in range(3):
        coded = base64.b64encode(b"?" * before + secret.encode()).decode().rstrip("=")
        yield coded[before + 1 if before else 0 : -1]


BASE64: Final = [
    spelled for coded in as_base64(KEY) for spelled in (coded, coded.translate(str.maketrans("+/", "-_")))
]
PIECES: Final = [KEY[at : at + PIECE] for at in range(len(KEY) - PIECE + 1)]


def shows_key(text: str) -> bool:
    """Whether the key, or a piece of it, can be read in a text, in any spelling."""
    readings = {text, plainer(text), plainer(plainer(text))}
    return any(piece in reading for reading in readings for piece in [*PIECES, *BASE64])


@dataclass
class Net:
    """Collects what comes out of a run, as texts with their places."""

    caught: list[tuple[str, str]] = field(default_factory=list)
    errors: set[str] = field(default_factory=set)

    def keep(self, place: str, text: str) -> None:
        """Keep a text."""
        self.caught.append((place, text))

    def keep_object(self, place: str, thing: object) -> None:
        """Keep an object's repr and str."""
        self.keep(place, f"{thing!r} {thing}")

    def keep_pickled(self, place: str, thing: object) -> None:
        """Keep an object as it is pickled, and as it arrives."""
        packed = pickle.dumps(thing)
        self.keep(f"{place}, pickled", packed.decode("latin-1"))
        self.keep_object(f"{place}, unpickled", pickle.loads(packed))

    def keep_error(self, place: str, error: BaseException, *, is_ours: bool = True) -> None:
        """Keep an error, its traceback, and every error chained to it."""
        self.errors.add(type(error).__name__)
        self.keep(f"{place}, traceback", "".join(traceback.format_exception(error)))
        for each in chain(error):
            self.keep(place, f"{each!r} {each} {each.args!r} {vars(each)!r}")
        if is_ours and isinstance(error, DoitongError):
            self.keep_pickled(place, error)

    def keep_file(self, path: Path) -> None:
        """Keep a file with its name."""
        self.keep("file", f"{path} {path.read_bytes().decode('latin-1')}")

    async def attempt(self, place: str, work: Awaitable[Any]) -> Any:
        """Run something that may fail, and keep its result or its error."""
        try:
            # However short the timeouts are, a service may postpone for ever.
            outcome = await asyncio.wait_for(work, LONGEST)
        except (Exception, asyncio.CancelledError) as error:
            self.keep_error(place, error)
            return None
        self.keep_object(place, outcome)
        return outcome

    def findings(self) -> list[tuple[str, str]]:
        """Return where the key was found, and in which text."""
        found = []
        for place, text in dict.fromkeys(self.caught):
            if shows_key(text):
                found.append((place, text[:2000]))
        return found


class LogNet(logging.Handler):
    """Puts every log record into a net, formatted and bare."""

    def __init__(self, net: Net) -> None:
        super().__init__(logging.NOTSET)
        self._net = net

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._net.keep(f"log of {record.name}", f"{self.format(record)} {record.args!r}")
        if record.exc_info and record.exc_info[1]:
            self._net.keep_error(f"log of {record.name}", record.exc_info[1])


LOUD: Final = ("", "doitong_async", "gql", "gql.transport.aiohttp", "aiohttp", "aiohttp.client", "asyncio")


@contextmanager
def net_over_everything() -> Iterator[Net]:
    """Yield a net that collects all warnings, and the logs of all libraries at DEBUG."""
    net = Net()
    handler = LogNet(net)
    levels = {name: logging.getLogger(name).level for name in LOUD}
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield net
    finally:
        logging.getLogger().removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    for warning in caught:
        net.keep("warning", f"{warning.message!r} {warning.source!r}")


# The run.


class BrokenCallbackError(Exception):
    """Raised by a user's `on_event`."""


def listening(net: Net) -> Callable[[object], None]:
    """Return a callback that keeps every event and raises at the first of each kind, which is then logged."""
    kinds = set[type]()

    def on_event(event: object) -> None:
        net.keep_object("event", event)
        if type(event) not in kinds:
            kinds.add(type(event))
            raise BrokenCallbackError

    return on_event


def log_every_step() -> None:
    """Let asyncio log each step with all its details."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0


async def whole_run(doitong: AsyncDoitong, net: Net, folder: Path) -> None:
    """Do everything a client can do: submit, poll, wait, download, write, leave early, resume."""
    quick = doitong.with_options(timeout=12.0, request_timeout=4.0, poll_timeout=3.0, slot_timeout=8.0)
    net.keep_object("client", [doitong, quick, vars(doitong), doitong._shared.settings, quick._options])
    request = GenerateRequest(prompt="a fox", width=8, height=8)
    net.keep_object("request", request)
    job = await net.attempt("submit", quick.submit(request, idempotency_key="i-1"))
    if isinstance(job, AsyncJob):
        await follow(quick, job, net, folder)
    await net.attempt("leave early", asyncio.wait_for(quick.generate("a hare"), 0.5))
    await net.attempt("generate", quick.generate("a wolf", provider="elevenlabs"))
    await net.attempt("no such job", quick.job("nobody").wait(timeout=3.0))
    net.keep_object("check", await net.attempt("check", quick.check(spend=40)))
    leaver = asyncio.ensure_future(quick.generate("a cat", width=8, height=8))
    await asyncio.sleep(0.01)
    leaver.cancel()
    await net.attempt("cancel", leaver)


async def follow(doitong: AsyncDoitong, job: AsyncJob, net: Net, folder: Path) -> None:
    """Wait for a job in every way, and keep what it gives."""
    net.keep("token", job.token)
    net.keep("token, read", base64.urlsafe_b64decode(job.token.removeprefix("dtj1.") + "==").decode())
    net.keep_object(
        "job", [job, vars(job._tracked.last) if hasattr(job._tracked.last, "__dict__") else job.last]
    )
    await net.attempt("refresh", job.refresh())
    await net.attempt("updates", all_of(job))
    await net.attempt("too short", job.wait(timeout=0.1))
    await net.attempt("take up", doitong.job(job.token).wait(timeout=3.0))
    result = await net.attempt("result", job)
    net.keep_pickled("snapshot", job.last)
    if isinstance(result, Result):
        net.keep_object("result", [result, result.url, result.metadata, result.generation, result.id])
        await net.attempt("read", result.read())
        await net.attempt("save", result.save(folder / "fox.jpg"))
        await net.attempt("save into", result.save(folder))
        await net.attempt("save nowhere", result.save(folder / "nowhere" / "fox.jpg"))


async def all_of(job: AsyncJob) -> list[Any]:
    """Return every update of a job."""
    return [update async for update in job.updates()]


async def close_during_calls(doitong: AsyncDoitong, net: Net) -> None:
    """Close while one submit is under way, one job is awaited, and one caller waits for a permit."""
    work = [asyncio.ensure_future(doitong.generate(f"late {n}", width=8, height=8)) for n in range(12)]
    await asyncio.sleep(0.01)
    await net.attempt("close", doitong.aclose())
    for each in work:
        await net.attempt("closed under way", each)
    await net.attempt("closed", doitong.generate("too late"))


def keep_files(net: Net, folder: Path) -> None:
    """Keep every file that was written."""
    for path in folder.rglob("*"):
        if path.is_file():
            net.keep_file(path)


@asynccontextmanager
async def session_that_raises() -> Any:
    """Yield a user's session that raises for each error status."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        yield session


# Every fault that the emulator knows.


def every_fault() -> list[Fault]:
    """Return each fault in each place where it can be, with each of its own switches."""
    switches: list[dict[str, Any]] = [
        {},
        {"handled": True},
        {"announced": False},
        {"charged": False},
        {"retry_after": 3},
        {"url": "?round"},
        {"url": "http://127.0.0.9:9/fox.jpg"},
        {"word": "failed"},
    ]
    faults = []
    for what in get_args(What):
        for where in get_args(Where):
            for switch in switches:
                # The parser itself says which combinations are impossible.
                with contextlib.suppress(ValueError):
                    faults.append(Fault(what, where, **switch))
    return faults


async def run_on_emulator(faults: list[Fault], net: Net, folder: Path, *, own_session: bool) -> None:
    """Run against the emulator, with the client's session or a user's, and search it all for the key."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(session_that_raises()) if own_session else None
        arguments = {"session": session, "on_event": listening(net), "max_download_bytes": 1 << 20}
        rules: dict[str, Any] = {"faults": faults, "durations": 2.5}
        doitong, emulator = await stack.enter_async_context(
            with_emulator(Plan.PRO, emulator=rules, api_key=KEY, **arguments)
        )
        await whole_run(doitong, net, folder)
        await close_during_calls(doitong, net)
        assert_key_went_to_the_api_alone(emulator)


@virtual
async def test_a_loop_that_logs_each_step_does_not_show_the_key(tmp_path: Path) -> None:
    """In asyncio's debug mode, which logs every call with its arguments, under mixed faults."""
    faults = [replace(fault, p=0.05, seed=number) for number, fault in enumerate(every_fault())]
    with net_over_everything() as net:
        log_every_step()
        await run_on_emulator(faults, net, tmp_path, own_session=False)
        keep_files(net, tmp_path)
    assert sum(place == "log of asyncio" for place, _ in net.caught) > 100
    assert net.findings() == []


@pytest.mark.parametrize("fault", every_fault(), ids=str)
@virtual
async def test_no_fault_leaks_the_key(fault: Fault, tmp_path: Path) -> None:
    """Whether it hits twice, or always and with a user's session that raises by itself."""
    passing = replace(fault, last=2)
    with net_over_everything() as net:
        await run_on_emulator([passing], net, tmp_path, own_session=False)
        await run_on_emulator([fault], net, tmp_path, own_session=True)
        keep_files(net, tmp_path)
    assert_net_has_every_kind(net)
    assert net.findings() == []


def assert_key_went_to_the_api_alone(emulator: Emulator) -> None:
    """The key was sent, so it could have leaked; it did not go to the outputs."""
    for request in emulator.world.seen:
        headers = str(dict(request.headers))
        assert shows_key(headers) == (request.kind != "output" and STRANGER not in headers)
        if request.kind == "output":
            assert not NOT_FOR_OTHERS & {name.lower() for name in request.headers}


def assert_net_has_every_kind(net: Net) -> None:
    """The sweep saw a text of every kind."""
    places = {place for place, _ in net.caught}
    assert {"event", "log of doitong_async", "client", "request", "cancel"} <= places
    assert "BrokenCallbackError" in net.errors
    assert len(net.errors) >= 3


# A server that echoes what it receives.


@dataclass
class EchoServer:
    """Answers every API request with one made-up answer, which may contain the key it received."""

    answer: Callable[[str, str], bytes]
    """Makes an answer from the kind of a request and the key that came with it."""
    heads: list[str] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> EchoServer:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self._server.wait_closed()
        for _step in range(5):
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"(?i)content-length: (\d+)", head)
            body = (await reader.readexactly(int(length[1]) if length else 0)).decode()
            self.heads.append(head)
            key = re.search(r"Bearer (\S+)", head)
            writer.write(self.answer(kind_of(head, body), key[1] if key else ""))
            await writer.drain()
        writer.close()


def kind_of(head: str, body: str) -> str:
    """Return the kind of a request."""
    if not head.startswith("POST"):
        return head.partition(" ")[0].lower()
    return "submit" if "mutation" in body else "introspection" if "__schema" in body else "poll"


def http(body: str, status: str = "200 OK", **headers: str) -> bytes:
    """Return an answer as bytes, after which the connection ends."""
    named = {"Content_Type": "application/json", "Content_Length": str(len(body.encode())), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", body]).encode()


SPELLINGS: Final[dict[str, Callable[[str], str]]] = {
    "as it is": lambda key: key,
    "slashes escaped": lambda key: key.replace("/", "\\/"),
    "every letter escaped": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "signs escaped": lambda key: re.sub(r"[^a-zA-Z0-9]", lambda at: f"\\u{ord(at[0]):04X}", key),
}


def body_with_error(text: str, **extensions: str) -> str:
    """Return a body with one error; the text stands in it unchanged."""
    more = "".join(f', "{name}": "{value}"' for name, value in extensions.items())
    caught = f'"message": "Authorization: Bearer {text}", "extensions": {{"code": "ODD"{more}}}'
    return f'{{"errors": [{{{caught}}}]}}'


def job_with(**fields: str) -> str:
    """Return a body with one job, in which each field stands unchanged."""
    whole = {"id": '"job-1"', "status": '"processing"', "url": "null", "metadata": "null", **fields}
    return f'{{"data": {{"j0": {{{", ".join(f"{json.dumps(n)}: {v}" for n, v in whole.items())}}}}}}}'


# Each makes an answer from the key as a body spells it.
IN_BODIES: Final[dict[str, Callable[[str], bytes]]] = {
    "200 with an error": lambda key: http(body_with_error(key)),
    **{
        f"{status} with an error": lambda key, status=status: http(body_with_error(key), f"{status} Odd")  # type: ignore[misc]
        for status in (400, 401, 402, 404, 429, 500)
    },
    "a code": lambda key: http(f'{{"errors": [{{"message": "no", "extensions": {{"code": "{key}"}}}}]}}'),
    "a conflict that names a job": lambda key: http(body_with_error("x", generationId=key), "409 Conflict"),
    "a bare error": lambda key: http(f'{{"error": "Bearer {key}"}}', "400 Bad Request"),
    "an error at the end of what is shown": lambda key: http(
        body_with_error("x" * 170 + key), "400 Bad Request"
    ),
    "a name": lambda key: http(f'{{"{key}": "{key}"}}', "502 Bad Gateway"),
    "an unknown field": lambda key: http(f'{{"errors": [{{"message": "Cannot query field \\"{key}\\""}}]}}'),
    "HTML": lambda key: http(f"<pre>Bearer {key}</pre>", "502 Bad Gateway", Content_Type="text/html"),
    "HTML, cut": lambda key: http("x" * 175 + f" {key}", "502 Bad Gateway", Content_Type="text/html"),
    "half a JSON": lambda key: http(f'{{"errors": [{{"message": "{key}"', "502 Bad Gateway"),
    "HTML with 200": lambda key: http(f"<pre>{key}</pre>", Content_Type="text/html"),
    "a string": lambda key: http(f'"{key}"'),
    "an id": lambda key: http(job_with(id=f'"{key}"')),
    "a status": lambda key: http(job_with(status=f'"{key}"')),
    "a type": lambda key: http(job_with(type=f'"{key}"', provider=f'"{key}"', createdAt=f'"{key}"')),
    "a url": lambda key: http(job_with(status='"completed"', url=f'"https://127.0.0.9:9/{key}"')),
    "an odd url": lambda key: http(job_with(status='"completed"', url=f'"ftp://{key}"')),
    "metadata": lambda key: http(job_with(metadata=f'{{"headers": ["Bearer {key}"], "{key}": 1}}')),
    "metadata of a failure": lambda key: http(job_with(status='"failed"', metadata=f'{{"why": "{key}"}}')),
}

# Each makes an answer from the key as it came: a head needs no escapes.
IN_HEADS: Final[dict[str, Callable[[str], bytes]]] = {
    "X-Request-Id": lambda key: http(body_with_error("x"), "500 Odd", X_Request_Id=key),
    "Retry-After": lambda key: http("", "429 Slow", Retry_After=key, X_RateLimit_Reset=key, Date=key),
    "X-RateLimit-Limit": lambda key: http(job_with(), X_RateLimit_Limit=key, X_RateLimit_Remaining=key),
    "Content-Type": lambda key: http("oops", "502 Odd", Content_Type=f"text/{key}"),
    "the reason": lambda key: http("", f"502 Bearer {key}"),
    "Set-Cookie": lambda key: http("", "502 Odd", Set_Cookie=f"a={key}; Path=/", Link=f"<http://{key}>"),
    "Location": lambda key: http("", "307 Moved", Location=f"https://elsewhere.example/?key={key}"),
    "a cookie that cannot be": lambda key: http("", "502 Odd", Set_Cookie=f"{key}=\x01; @"),
    "a broken status line": lambda key: f"HTTP/1.1 Bearer {key}\r\n\r\n".encode(),
    "a broken header": lambda key: f"HTTP/1.1 200 OK\r\nBearer {key}\r\n\r\n".encode(),
    "a broken value": lambda key: f"HTTP/1.1 200 OK\r\nX-Key: {key}\x00\x01\r\n\r\n".encode(),
    "a broken length": lambda key: f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n".encode(),
    "a broken encoding": lambda key: http(f"{key}", Content_Encoding="gzip"),
    "a broken chunk": lambda key: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n".encode(),
    "no HTTP at all": lambda key: f"421 {key}\r\n\r\n".encode(),
    "too few bytes": lambda key: http(f'{{"a": "{key}"', Content_Length="5000"),
}


async def sweep_echo(
    answer: Callable[[str, str], bytes], folder: Path, *, sessions: tuple[bool, ...] = (True,)
) -> Net:
    """Run against a server that answers so, with a user's session that raises, or the client's own."""
    with net_over_everything() as net:
        for own_session in sessions:
            async with contextlib.AsyncExitStack() as stack:
                session = await stack.enter_async_context(session_that_raises()) if own_session else None
                server = await stack.enter_async_context(EchoServer(answer))
                doitong = await stack.enter_async_context(
                    AsyncDoitong(
                        api_key=KEY,
                        base_url=server.url,
                        plan=Plan.PRO,
                        session=session,
                        on_event=listening(net),
                    )
                )
                await whole_run(doitong, net, folder)
                await close_during_calls(doitong, net)
            assert any(shows_key(head) for head in server.heads)
        keep_files(net, folder)
    return net


def echo_of(
    kind: str, made: Callable[[str], bytes], spell: Callable[[str], str]
) -> Callable[[str, str], bytes]:
    """Return a server's behaviour: it answers submits or polls with an echo, and the rest properly."""

    def answer(asked: str, key: str) -> bytes:
        is_hit = asked == kind or (asked == "introspection" and kind == "poll")
        return made(spell(key)) if is_hit else http(job_with())

    return answer


def echoes() -> Iterator[tuple[str, str, str]]:
    """Yield every place in a body with every spelling, for submits and polls alternately."""
    for row, place in enumerate(IN_BODIES):
        for column, spelling in enumerate(SPELLINGS):
            yield ("submit", "poll")[(row + column) % 2], spelling, place


@pytest.mark.parametrize(("kind", "spelling", "place"), list(echoes()))
@virtual
async def test_a_key_echoed_in_a_body_does_not_leak(
    kind: str, spelling: str, place: str, tmp_path: Path
) -> None:
    """In any field, spelled as JSON or as broken JSON."""
    net = await sweep_echo(echo_of(kind, IN_BODIES[place], SPELLINGS[spelling]), tmp_path)
    assert net.findings() == []


@pytest.mark.parametrize("kind", ["submit", "poll"])
@pytest.mark.parametrize("place", IN_HEADS)
@virtual
async def test_a_key_echoed_in_a_head_does_not_leak(kind: str, place: str, tmp_path: Path) -> None:
    """Neither through a header that the client reads nor through aiohttp's message about a broken one."""
    echo = echo_of(kind, IN_HEADS[place], SPELLINGS["as it is"])
    net = await sweep_echo(echo, tmp_path, sessions=(False, True))
    assert net.findings() == []


# Other origins.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@virtual
async def test_a_redirect_of_the_api_is_not_followed(status: int, tmp_path: Path) -> None:
    """Neither submits nor polls follow it: the other origin gets no request."""
    async with EchoServer(lambda kind, key: http(job_with())) as elsewhere:

        def moved(kind: str, key: str) -> bytes:
            return http("", f"{status} Moved", Location=f"{elsewhere.url}/graphql?key={quote(key, safe='')}")

        net = await sweep_echo(moved, tmp_path)
        assert elsewhere.heads == []
        polls = await sweep_echo(echo_of("poll", lambda _: moved("", ""), SPELLINGS["as it is"]), tmp_path)
        assert elsewhere.heads == []
    assert net.findings() == polls.findings() == []
    # 301 to 303 may come after the request was executed, so they prove nothing.
    assert ("ConfigurationError" if status >= 307 else "ServerError") in net.errors


@virtual
async def test_outputs_are_fetched_without_a_key_from_any_origin() -> None:
    """From another origin, after a redirect to a third, and from the API's own: anyone may own a path."""
    picture = http("", Content_Type="image/jpeg", Content_Length=str(len(JPEG))) + JPEG
    async with EchoServer(lambda kind, key: picture) as third:
        hop = http("", "302 Found", Location=f"{third.url}/fox.jpg")
        async with EchoServer(lambda kind, key: hop) as other:
            places = {"other": other.url}

            def api(kind: str, key: str) -> bytes:
                url = json.dumps(f"{places[chosen]}/fox.jpg")
                made = job_with(id=f'"job-{chosen}"', status='"completed"', url=url)
                return picture if kind == "get" else http(made)

            async with EchoServer(api) as server:
                places["own"] = server.url
                async with AsyncDoitong(api_key=KEY, base_url=server.url, plan=Plan.PRO) as doitong:
                    for chosen in places:
                        result = await doitong.generate("a fox", idempotency_key=f"i-{chosen}")
                        assert await result.read() == JPEG
                fetches = [head for head in server.heads if head.startswith("GET")]
    assert (len(fetches), len(other.heads), len(third.heads)) == (1, 1, 1)
    for head in [*fetches, *other.heads, *third.heads]:
        assert not shows_key(head)
        assert not NOT_FOR_OTHERS & {line.partition(":")[0].lower() for line in head.splitlines()}


# Routes that do not reach the API.


@pytest.mark.parametrize("base_url", ["http://127.0.0.9:9", "https://127.0.0.9:9"])
@pytest.mark.parametrize("proxy", ["refuses to connect", "refuses to serve", "answers nonsense"])
@virtual
async def test_a_proxy_that_rejects_neither_learns_nor_leaks_the_key(
    base_url: str, proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the CONNECT of https without the key, and its error comes out without the key, too."""

    def answer(kind: str, key: str) -> bytes:
        if proxy == "answers nonsense":
            return f"421 Bearer {key or KEY}\r\n\r\n".encode()
        return http(f"Bearer {key or KEY}", "407 Proxy Authentication Required", X_Request_Id=key or KEY)

    async with EchoServer(answer) as server:
        url = "http://127.0.0.1:9" if proxy == "refuses to connect" else server.url
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("https_proxy", url)
        with net_over_everything() as net:
            log_every_step()
            async with AsyncDoitong(
                api_key=KEY, base_url=base_url, trust_env=True, on_event=listening(net)
            ) as doitong:
                await whole_run(doitong, net, tmp_path)
    tunnels = [head for head in server.heads if head.startswith("CONNECT")]
    assert bool(tunnels) == (proxy != "refuses to connect" and base_url.startswith("https"))
    assert not any(shows_key(head) for head in tunnels)
    assert net.errors & {
        "ConnectionFailedError",
        "SubmitOutcomeUnknownError",
        "AuthenticationError",
        "ProtocolError",
        "ServerError",
    }
    assert net.findings() == []


@virtual
async def test_a_server_without_tls_never_gets_the_key(tmp_path: Path) -> None:
    """The handshake fails before a header is sent, and its error does not show the key either."""
    async with EchoServer(lambda kind, key: http(KEY, "400 Plain HTTP sent to an HTTPS port")) as server:
        with net_over_everything() as net:
            log_every_step()
            url = server.url.replace("http:", "https:")
            async with AsyncDoitong(api_key=KEY, base_url=url, on_event=listening(net)) as doitong:
                await whole_run(doitong, net, tmp_path)
    assert not any(shows_key(head) for head in server.heads)
    assert "ConnectionFailedError" in net.errors
    assert net.findings() == []


def test_a_plain_http_base_url_needs_insecure_http() -> None:
    """Except on this machine. The error does not show the key it protects."""
    for url in ("http://api.doitong.com", "http://10.0.0.1:8080", "http://127.0.0.1.example.com"):
        net = Net()
        with pytest.raises(ConfigurationError, match="plain http") as caught:
            AsyncDoitong(api_key=KEY, base_url=url)
        net.keep_error("refusal", caught.value)
        net.keep_object("insists", AsyncDoitong(api_key=KEY, base_url=url, allow_insecure_http=True))
        assert net.findings() == []
    for url in ("http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "https://api.doitong.com"):
        assert KEY not in repr(AsyncDoitong(api_key=KEY, base_url=url))


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}é", KEY.encode()])
def test_an_invalid_key_is_not_shown(key: Any) -> None:
    """It may be the right key with a typo."""
    net = Net()
    with pytest.raises(ConfigurationError) as caught:
        AsyncDoitong(api_key=key)
    net.keep_error("refusal", caught.value)
    assert net.findings() == []


# The sweep itself can fail.


LEAKS: Final[dict[str, Callable[[Net, Path], None]]] = {
    "log": lambda net, _: logging.getLogger("gql.transport.aiohttp").debug(
        "headers %s", {"Authorization": KEY}
    ),
    "log of an error": lambda net, _: logging.getLogger("aiohttp").error("", exc_info=ValueError(KEY)),
    "warning": lambda net, _: warnings.warn(f"key {KEY}", stacklevel=1),
    "event": lambda net, _: net.keep_object("event", {"failure": KEY}),
    "file": lambda net, folder: keep_written(net, folder / "x", KEY),
    "file name": lambda net, folder: keep_written(net, folder / KEY[:18], ""),
    "cause": lambda net, _: net.keep_error("x", chained(DoitongError("no"), cause=OSError(KEY))),
    "context": lambda net, _: net.keep_error("x", chained(DoitongError("no"), context=OSError(KEY))),
    "pickle": lambda net, _: net.keep_pickled("x", DoitongError("no", request_id=KEY)),
    "piece": lambda net, _: net.keep("x", f"…{KEY[10:22]}…"),
    "JSON": lambda net, _: net.keep("x", json.dumps(KEY).replace("/", "\\/")),
    "URL": lambda net, _: net.keep("x", quote(KEY, safe="")),
    "base64": lambda net, _: net.keep("x", base64.b64encode(f"Bearer {KEY}".encode()).decode()),
    "a token": lambda net, _: net.keep("x", base64.urlsafe_b64encode(f'{{"id":"{KEY}"}}'.encode()).decode()),
    **{
        spelling: lambda net, _, spell=spell: net.keep("x", repr(spell(KEY)))  # type: ignore[misc]
        for spelling, spell in SPELLINGS.items()
    },
}


def keep_written(net: Net, path: Path, text: str) -> None:
    """Write a file, and keep everything that was written."""
    path.write_text(text)
    keep_files(net, path.parent)


def chained(
    error: Exception, *, cause: Exception | None = None, context: Exception | None = None
) -> Exception:
    """Return an error as `raise … from` leaves it; `from None` hides a context."""
    error.__context__, error.__cause__ = context, cause
    return error


@pytest.mark.parametrize("leak", LEAKS)
def test_the_sweep_finds_a_leaked_key(leak: str, tmp_path: Path) -> None:
    """Wherever it leaks and however it is spelled; otherwise the other tests would prove nothing."""
    with net_over_everything() as net:
        LEAKS[leak](net, tmp_path)
    assert net.findings()


def test_the_sweep_finds_nothing_without_a_leak() -> None:
    """A redacted key and similar words do not count."""
    net = Net()
    net.keep("x", "Authorization: Bearer *** sk-live- 7QxVn4rT")
    assert net.findings() == []


@virtual
async def test_the_sweep_finds_what_aiohttp_chains() -> None:
    """The error of a session that raises shows the request's headers, so no error of ours may chain it."""
    net = Net()
    async with EchoServer(lambda kind, key: http("", "502 Odd")) as server, session_that_raises() as session:
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await session.post(server.url, headers={"Authorization": f"Bearer {KEY}"})
        net.keep_error("x", chained(DoitongError("no"), context=caught.value))
    assert net.findings()
