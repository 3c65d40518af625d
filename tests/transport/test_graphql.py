"""The transport: each answer is whole, each failure is a value, and the key goes nowhere else."""

from __future__ import annotations

import asyncio
import json
import pickle
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from doitong_async import ConfigurationError
from doitong_async.transport.exchange import MOST_BYTES
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.forms import graphql_body
from doitong_async.transport.graphql import GraphQLTransport
from doitong_async.transport.wire import Answer
from tests.odd_answers import OddAnswers
from tests.virtual import virtual

KEY = "sk-very/secret"
REQUEST = aiohttp.RequestInfo(
    URL("https://api.doitong.com/graphql"),
    "POST",
    CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {KEY}"})),
    URL("https://api.doitong.com/graphql"),
)
ENDPOINT = ConnectionKey("api.doitong.com", 443, True, True, None, None, None)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[GraphQLTransport, OddAnswers]]:
    """Yield a transport whose answers the test makes up."""
    async with aiohttp.ClientSession() as session:
        transport = GraphQLTransport(
            base_url="https://api.doitong.com", api_key=KEY, session=session, ssl=True, user_agent="test"
        )
        await transport.open()
        odd = OddAnswers()
        with odd:
            yield transport, odd
        await transport.close()


async def send(transport: GraphQLTransport) -> Answer | Failure:
    """Send a small query."""
    return await transport.send(graphql_body("query { x }", {"n": 1}), timeout=5, idempotency_key="i-1")


@virtual
async def test_an_answer_keeps_its_status_and_headers() -> None:
    """gql drops both for a JSON answer, including the reset of a 429."""
    async with opened() as (transport, odd):
        odd.answer('{"errors": [{"message": "slow down"}]}', status=429, X_RateLimit_Reset="7", X_Other="no")
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert answer.status == 429
    assert answer.headers["x-ratelimit-reset"] == "7"
    assert "x-other" not in answer.headers
    assert answer.body == {"errors": [{"message": "slow down"}]}


@virtual
async def test_each_caller_reads_its_own_headers() -> None:
    """gql shares the headers of the last answer among all callers."""
    async with opened() as (transport, odd):
        for number in range(20):
            odd.answer("{}", X_Request_Id=str(number))
        answers = await asyncio.gather(*(send(transport) for _ in range(20)))
    ids = [answer.headers["x-request-id"] for answer in answers if isinstance(answer, Answer)]
    assert sorted(ids, key=int) == [str(number) for number in range(20)]


@virtual
@pytest.mark.parametrize("body", ["<html>Bad Gateway</html>", "", "null", "[1", "\x00\xff"])
async def test_an_answer_that_is_not_json_becomes_an_excerpt(body: str) -> None:
    """The body is then None, and the excerpt short."""
    async with opened() as (transport, odd):
        odd.answer(body * 50, status=502)
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert answer.body is None
    assert len(answer.excerpt) <= 200


@virtual
async def test_a_request_matches_the_documentation() -> None:
    """It holds the unchanged document with its variables, and both keys in the headers."""
    async with opened() as (transport, odd):
        odd.answer("{}")
        await send(transport)
        ((call,),) = odd.requests.values()
    assert json.loads(call.kwargs["data"].decode()) == {"query": "query { x }", "variables": {"n": 1}}
    assert call.kwargs["headers"]["Authorization"] == f"Bearer {KEY}"
    assert call.kwargs["headers"]["Idempotency-Key"] == "i-1"
    assert call.kwargs["headers"]["Content-Type"] == "application/json"
    assert call.kwargs["allow_redirects"] is False
    assert call.kwargs["timeout"] == aiohttp.ClientTimeout(total=None, connect=2.5)


@virtual
@pytest.mark.parametrize("slash", ["/", "\\/", "\\u002f", "&#x2F;", "&#47;", "%2F", "%2f", "\\u00252F"])
async def test_an_echoed_key_gets_into_no_answer(slash: str) -> None:
    """Not into body, excerpt or headers, however an error page escapes it."""
    spelling = KEY.replace("/", slash)
    async with opened() as (transport, odd):
        odd.answer(f'{{"errors": [{{"message": "bad {spelling}"}}]}}', status=400, X_Request_Id=spelling)
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert "secret" not in json.dumps([answer.body, answer.excerpt, dict(answer.headers)])


def possible_errors() -> list[BaseException]:
    """Return every error that sending may raise."""
    refused = ConnectionRefusedError(111, "Connection refused")
    certificate = ssl.SSLCertVerificationError(1, "certificate verify failed")
    response: dict[str, Any] = {"request_info": REQUEST, "history": ()}
    return [
        aiohttp.ClientConnectorError(ENDPOINT, refused),
        aiohttp.ClientConnectorDNSError(ENDPOINT, OSError(-2, "Name or service not known")),
        aiohttp.ClientConnectorCertificateError(ENDPOINT, certificate),
        aiohttp.ClientConnectorSSLError(ENDPOINT, ssl.SSLError(1, "wrong version")),
        aiohttp.ClientProxyConnectionError(ENDPOINT, refused),
        aiohttp.ClientHttpProxyError(status=407, message="proxy says no", **response),
        aiohttp.ConnectionTimeoutError(),
        aiohttp.InvalidURL("x"),
        aiohttp.NonHttpUrlClientError("x"),
        aiohttp.ServerFingerprintMismatch(b"a", b"b", "host", 1),
        aiohttp.ServerDisconnectedError(),
        aiohttp.SocketTimeoutError(),
        aiohttp.ServerTimeoutError(),
        aiohttp.ClientOSError(104, "reset"),
        aiohttp.ClientConnectionResetError("closing"),
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ClientResponseError(status=400, message="bad http", **response),
        aiohttp.ContentTypeError(status=200, message="odd", **response),
        ConnectionResetError(104, "reset"),
        ssl.SSLError(1, "decryption failed"),
        TimeoutError(),
        OSError(24, "Too many open files"),
        MemoryError(),
        KeyError("x"),
        AssertionError(),
        asyncio.CancelledError(),
    ]


@pytest.mark.slow
@virtual
@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("error", possible_errors(), ids=lambda error: type(error).__name__)
async def test_every_exception_becomes_a_failure_that_says_whether_it_was_sent(
    error: BaseException, is_sent: bool
) -> None:
    """What was surely unsent may be sent again; the rest may have made a job. Its class does not matter."""
    async with opened() as (transport, odd):
        odd.fail(error, is_sent=is_sent)
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert failure.kind is (FailureKind.UNANSWERED if is_sent else FailureKind.NOT_SENT)
    assert ("was sent" in failure.message) is is_sent
    raised = failure.error(idempotency_key="i-1")
    shown = "".join(traceback.format_exception(raised)) + repr(pickle.dumps(raised)) + repr(failure)
    assert "secret" not in shown
    assert raised.__cause__ is raised.__context__ is None


@virtual
@pytest.mark.parametrize(
    "error", [ValueError("Cannot combine AUTHORIZATION header with AUTH"), RuntimeError("Session is closed")]
)
async def test_a_session_that_cannot_send_is_a_configuration_error(error: BaseException) -> None:
    """A retry does not help, and nothing was sent."""
    async with opened() as (transport, odd):
        odd.fail(error, is_sent=False)
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.UNUSABLE
    assert "did not leave this machine" in failure.message
    assert isinstance(failure.error(), ConfigurationError)


@virtual
async def test_an_escaped_key_is_redacted_too() -> None:
    """.NET and Go escape some letters of a key; a lone surrogate beside it changes nothing."""
    async with opened() as (transport, odd):
        odd.answer('{"errors": [{"message": "bad sk-very\\u002Fsecret", "x": "\\ud800"}]}', status=401)
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert answer.body == {"errors": [{"message": "bad ***", "x": "\ud800"}]}
    assert "secret" not in answer.excerpt


@virtual
async def test_a_very_short_key_corrupts_no_answer() -> None:
    """The emulator accepts any key, even a single letter that many words contain."""
    async with aiohttp.ClientSession() as session:
        transport = GraphQLTransport(
            base_url="https://api.doitong.com", api_key="e", session=session, ssl=True, user_agent="test"
        )
        await transport.open()
        odd = OddAnswers()
        with odd:
            odd.answer('{"data": {"generate": {"id": "eee", "status": "completed"}}}')
            answer = await send(transport)
        await transport.close()
    assert isinstance(answer, Answer)
    assert answer.body == {"data": {"generate": {"id": "eee", "status": "completed"}}}


@virtual
async def test_an_endless_answer_is_cut_off() -> None:
    """No server can fill the memory."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MOST_BYTES + 1_000_000))
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, aiohttp.ClientSession() as session:
        settings = SimpleNamespace(base_url=f"http://{host}:{port}", api_key=KEY, ssl=True, user_agent="test")
        transport = GraphQLTransport(session=session, **vars(settings))
        await transport.open()
        failure = await send(transport)
        await transport.close()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.UNANSWERED
