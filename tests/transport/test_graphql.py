"""The transport: each answer whole, each failure a value, the key nowhere else."""

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
from doitong_async.transport.graphql import GraphQLTransport
from doitong_async.transport.wire import Answer, encoded
from tests.odd_answers import OddAnswers
from tests.virtual import virtual

KEY = "sk-very/secret"
REQUEST = aiohttp.RequestInfo(
    URL("https://api.doitong.com/graphql"),
    "POST",
    CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {KEY}"})),
    URL("https://api.doitong.com/graphql"),
)
PLACE = ConnectionKey("api.doitong.com", 443, True, True, None, None, None)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[GraphQLTransport, OddAnswers]]:
    """Yield a transport whose answers are made up."""
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
    """Send something."""
    return await transport.send(encoded("query { x }", {"n": 1}), timeout=5, idempotency_key="i-1")


@virtual
async def test_an_answer_keeps_its_status_and_headers_whatever_it_says() -> None:
    """gql would drop both of an answer with a JSON body, a 429's reset among them."""
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
    """gql keeps the headers of the last answer for everybody."""
    async with opened() as (transport, odd):
        for number in range(20):
            odd.answer("{}", X_Request_Id=str(number))
        answers = await asyncio.gather(*(send(transport) for _ in range(20)))
    ids = [answer.headers["x-request-id"] for answer in answers if isinstance(answer, Answer)]
    assert sorted(ids, key=int) == [str(number) for number in range(20)]


@virtual
@pytest.mark.parametrize("body", ["<html>Bad Gateway</html>", "", "null", "[1", "\x00\xff"])
async def test_what_is_no_json_comes_as_an_excerpt(body: str) -> None:
    """The body is None then, and the excerpt short."""
    async with opened() as (transport, odd):
        odd.answer(body * 50, status=502)
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert answer.body is None
    assert len(answer.excerpt) <= 200


@virtual
async def test_a_request_is_what_the_documentation_shows() -> None:
    """The document as it was written, variables beside it, key and idempotency key in the headers."""
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
async def test_a_service_that_echoes_the_key_does_not_get_it_into_an_error(slash: str) -> None:
    """Neither into the body nor the excerpt nor a header that is kept, escaped as an error page may be."""
    spelling = KEY.replace("/", slash)
    async with opened() as (transport, odd):
        odd.answer(f'{{"errors": [{{"message": "bad {spelling}"}}]}}', status=400, X_Request_Id=spelling)
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert "secret" not in json.dumps([answer.body, answer.excerpt, dict(answer.headers)])


def errors_of_aiohttp() -> list[BaseException]:
    """Everything that can be raised on the way."""
    refused = ConnectionRefusedError(111, "Connection refused")
    certificate = ssl.SSLCertVerificationError(1, "certificate verify failed")
    told: dict[str, Any] = {"request_info": REQUEST, "history": ()}
    return [
        aiohttp.ClientConnectorError(PLACE, refused),
        aiohttp.ClientConnectorDNSError(PLACE, OSError(-2, "Name or service not known")),
        aiohttp.ClientConnectorCertificateError(PLACE, certificate),
        aiohttp.ClientConnectorSSLError(PLACE, ssl.SSLError(1, "wrong version")),
        aiohttp.ClientProxyConnectionError(PLACE, refused),
        aiohttp.ClientHttpProxyError(status=407, message="proxy says no", **told),
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
        aiohttp.ClientResponseError(status=400, message="bad http", **told),
        aiohttp.ContentTypeError(status=200, message="odd", **told),
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
@pytest.mark.parametrize("error", errors_of_aiohttp(), ids=lambda error: type(error).__name__)
async def test_every_exception_becomes_a_value_that_says_whether_it_was_sent(
    error: BaseException, is_sent: bool
) -> None:
    """What was surely not sent may go again; the rest may have made a job. The class decides nothing."""
    async with opened() as (transport, odd):
        odd.fail(error, is_sent=is_sent)
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert failure.kind is (FailureKind.UNANSWERED if is_sent else FailureKind.NOT_SENT)
    assert ("was sent" in failure.message) is is_sent
    raised = failure.error(idempotency_key="i-1")
    everything = "".join(traceback.format_exception(raised)) + repr(pickle.dumps(raised)) + repr(failure)
    assert "secret" not in everything
    assert raised.__cause__ is raised.__context__ is None


@virtual
@pytest.mark.parametrize(
    "error", [ValueError("Cannot combine AUTHORIZATION header with AUTH"), RuntimeError("Session is closed")]
)
async def test_a_session_that_cannot_send_is_a_configuration_error(error: BaseException) -> None:
    """It will not heal by trying again, and nothing was sent."""
    async with opened() as (transport, odd):
        odd.fail(error, is_sent=False)
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.UNUSABLE
    assert "did not leave this machine" in failure.message
    assert isinstance(failure.error(), ConfigurationError)


@virtual
async def test_an_escaped_key_is_found_too() -> None:
    """.NET and Go escape letters that a key may have; a lone surrogate beside it changes nothing."""
    async with opened() as (transport, odd):
        odd.answer('{"errors": [{"message": "bad sk-very\\u002Fsecret", "x": "\\ud800"}]}', status=401)
        answer = await send(transport)
    assert isinstance(answer, Answer)
    assert answer.body == {"errors": [{"message": "bad ***", "x": "\ud800"}]}
    assert "secret" not in answer.excerpt


@virtual
async def test_a_key_shorter_than_any_real_one_spoils_no_answer() -> None:
    """The emulator takes any key; one letter of it is in every word."""
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
async def test_an_answer_without_end_is_cut_off() -> None:
    """Nothing that a server sends fills the memory."""

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
