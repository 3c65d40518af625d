"""What a request is answered, whatever server brings it: the table, and garbage."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doitong_async import ClientClosedError, ConfigurationError, Generation
from doitong_async.webhooks.handler import LARGEST_BODY, CutOffError, Request, Response, WebhookHandler
from doitong_async.webhooks.signature import parse, verify
from tests.virtual import now, virtual
from tests.webhooks.bodies import SECRET, signed, webhook_body

BODY = webhook_body()


class Endpoint:
    """Accepts and keeps signed events; or raises the given error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.taken: list[Generation] = []

    def accept(self, body: bytes, header: str | None) -> Generation:
        verify(body, header, SECRET)
        update = parse(body)
        if self.error is not None:
            raise self.error
        self.taken.append(update)
        return update


def reader(*pieces: bytes, error: Exception | None = None) -> Callable[[], Awaitable[bytes | None]]:
    """Hand over a body piece by piece."""
    left = list(pieces)

    async def read() -> bytes | None:
        if not left and error is not None:
            raise error
        return left.pop(0) if left else None

    return read


def request(
    body: bytes = BODY,
    *,
    method: str = "POST",
    content_encoding: str | None = None,
    content_length: int | None = None,
    signatures: Sequence[str] | None = None,
    read: Callable[[], Awaitable[bytes | None]] | None = None,
) -> Request:
    """A request that is taken, but for what is changed."""
    return Request(
        method=method,
        content_encoding=content_encoding,
        content_length=len(body) if content_length is None else content_length,
        signatures=[signed(body)] if signatures is None else signatures,
        read=read or reader(body),
    )


def answered(sent: Request, endpoint: Endpoint | None = None, on_event: Any = None) -> Response:
    """The answer to one request."""
    return asyncio.run(WebhookHandler((endpoint or Endpoint()).accept, on_event).answer(sent))


def test_what_is_signed_is_taken() -> None:
    """Once, and answered with a 2xx and nothing else."""
    endpoint = Endpoint()
    assert answered(request(read=reader(BODY[:10], b"", BODY[10:])), endpoint) == Response(204)
    assert endpoint.taken == [parse(BODY)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post"])
def test_405(method: str) -> None:
    """Only POST, and the answer says so."""
    assert answered(request(method=method)) == Response(405, {"Allow": "POST"})


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("identity", 204), ("Identity", 204)])
def test_what_is_compressed_is_not_undone(encoding: str, status: int) -> None:
    """The signature covers the raw body, and a small body could become a large one."""
    assert answered(request(content_encoding=encoding)).status == status


@pytest.mark.parametrize("signatures", [[], [signed(BODY)] * 2, ["sha256=" + "0" * 64], ["nonsense"], [""]])
def test_401(signatures: list[str]) -> None:
    """Missing, doubled, wrong or malformed: the same answer, which does not say which."""
    endpoint = Endpoint()
    assert answered(request(signatures=signatures), endpoint) == Response(401)
    assert endpoint.taken == []


def test_who_has_no_signature_is_not_read() -> None:
    """Strangers get no memory."""
    sent = request(signatures=[], read=reader(error=AssertionError("it was read")))
    assert answered(sent).status == 401


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"status": "completed"}'])
def test_400(body: bytes) -> None:
    """Signed, and of no job."""
    assert answered(request(body)) == Response(400)


@pytest.mark.parametrize(
    ("more", "announced", "status"),
    [(0, True, 204), (1, True, 413), (1, False, 413), (1 << 20, False, 413)],
)
def test_413(more: int, announced: bool, status: int) -> None:
    """1 MiB is the most, by what is announced and by what comes; no more than that is read."""
    body = webhook_body(pad="")
    body = body.replace(b'"pad": ""', b'"pad": "' + b"x" * (LARGEST_BODY - len(body) + more) + b'"')
    pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    got = []

    async def read() -> bytes | None:
        got.append(len(pieces[0]) if pieces else 0)
        return pieces.pop(0) if pieces else None

    sent = request(body, content_length=len(body) if announced else 0, read=read)
    assert answered(sent).status == status
    assert sum(got) <= (0 if announced and more else LARGEST_BODY + 65_536)


@virtual
async def test_408() -> None:
    """The whole body has ten seconds, however often a little of it comes."""

    async def drip() -> bytes:
        await asyncio.sleep(3)
        return b" "

    assert (await WebhookHandler(Endpoint().accept).answer(request(read=drip))).status == 408
    assert now() == 10.0
    assert (await WebhookHandler(Endpoint().accept, read_timeout=2).answer(request(read=drip))).status == 408
    assert now() == 12.0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "10"])
def test_a_timeout_that_cannot_be(seconds: Any) -> None:
    """When the application is made."""
    with pytest.raises(ConfigurationError, match="read_timeout is"):
        WebhookHandler(Endpoint().accept, read_timeout=seconds)


@pytest.mark.parametrize("error", [CutOffError(), ConnectionError("gone"), ValueError("an odd encoding")])
def test_cut_off(error: Exception) -> None:
    """Half a body is no event, whatever its server raises for it."""
    endpoint = Endpoint()
    assert answered(request(read=reader(BODY[:9], error=error)), endpoint).status == 400
    assert endpoint.taken == []


STRANGERS = {
    "no signature": request(signatures=[]),
    "several": request(signatures=[signed(BODY)] * 1000),
    "a wrong one": request(signatures=[signed(b"")]),
    "no ASCII": request(signatures=["sha256=\udcff\u00e9" * 1000]),
    "another method": request(method="\udcff"),
    "an odd encoding": request(content_encoding="\udcff"),
    "too large": request(content_length=LARGEST_BODY + 1),
    "cut off": request(read=reader(error=CutOffError())),
    "what its server cannot read": request(read=reader(error=RuntimeError("\udcff\n" * 1000))),
}


@pytest.mark.parametrize("sent", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_stranger_makes_one_debug_line_at_most(sent: Request, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can fill a log that shows more of who has no signature."""
    caplog.set_level(logging.DEBUG, "doitong_async")
    assert answered(sent).status in (400, 401, 405, 413, 415)
    lines = [record for record in caplog.records if record.name == "doitong_async"]
    assert len(lines) <= 1
    assert {(record.levelno, record.exc_info) for record in lines} <= {(logging.DEBUG, None)}
    assert all(len(record.getMessage()) < 100 and record.getMessage().isprintable() for record in lines)


@pytest.mark.parametrize(
    "error", [ClientClosedError("closed"), ConfigurationError("another loop"), RuntimeError("broken")]
)
def test_503(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be taken now is asked for again; a mistake of ours is logged."""
    assert answered(request(), Endpoint(error)) == Response(503)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(errors) is isinstance(error, RuntimeError)


class TestHook:
    def test_it_runs_before_the_answer(self) -> None:
        """Sync or async, with the update, and after it was accepted."""
        endpoint, told = Endpoint(), []

        async def remember(update: Generation) -> None:
            await asyncio.sleep(0)
            told.append((update, list(endpoint.taken)))

        assert answered(request(), endpoint, remember).status == 204
        assert (
            answered(request(), endpoint, lambda update: told.append((update, list(endpoint.taken)))).status
            == 204
        )
        assert told == [(parse(BODY), [parse(BODY)]), (parse(BODY), [parse(BODY)] * 2)]

    @pytest.mark.parametrize("is_async", [True, False])
    def test_if_it_fails_the_service_tries_again(
        self, is_async: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The update was accepted anyway, and the failure is logged."""
        endpoint = Endpoint()

        def fail(_: Generation) -> None:
            raise OSError("the disk is full")

        async def fail_later(update: Generation) -> None:
            fail(update)

        assert answered(request(), endpoint, fail_later if is_async else fail) == Response(503)
        assert len(endpoint.taken) == 1
        assert "the disk is full" in caplog.text

    def test_it_is_not_run_for_what_is_refused(self) -> None:
        """Nobody calls a user's code without a signature."""
        told: list[Generation] = []
        for sent in (request(signatures=["nonsense"]), request(b"{}"), request(method="GET")):
            answered(sent, on_event=told.append)
        answered(request(), Endpoint(ClientClosedError("closed")), told.append)
        assert told == []


BODIES = st.binary(max_size=64) | st.sampled_from([BODY, b"{}", webhook_body("b", "dreaming")])
HEADERS = st.text(max_size=80) | st.sampled_from([signed(BODY), signed(b"{}"), "sha256=", signed(b"")])


@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET"]) | st.text(max_size=8),
    content_encoding=st.none() | st.text(max_size=8),
    content_length=st.none() | st.integers(),
    signatures=st.lists(HEADERS, max_size=2),
    pieces=st.lists(BODIES, max_size=3),
    is_cut=st.booleans(),
)
@example("POST", None, None, [signed(BODY)], [BODY], False)
def test_nothing_unsigned_is_taken(
    method: str,
    content_encoding: str | None,
    content_length: int | None,
    signatures: list[str],
    pieces: list[bytes],
    is_cut: bool,
) -> None:
    """Every request gets an answer of the table, and a 2xx only for a signed event."""
    sent = Request(
        method=method,
        content_encoding=content_encoding,
        content_length=content_length,
        signatures=signatures,
        read=reader(*pieces, error=CutOffError() if is_cut else None),
    )
    endpoint = Endpoint()
    answer = answered(sent, endpoint)
    assert answer.status in (204, 400, 401, 405, 413, 415)
    is_taken = 200 <= answer.status < 300
    assert is_taken is bool(endpoint.taken)
    if is_taken:
        body = b"".join(pieces)
        assert signatures == [signed(body)]
        assert json.loads(body)["id"]
