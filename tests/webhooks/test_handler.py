"""How the handler answers a request from any server: the table of statuses, and garbage."""

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
    """Accepts and keeps signed events, or raises the given error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.taken: list[Generation] = []

    async def accept(self, body: bytes, header: str | None) -> Generation:
        verify(body, header, SECRET)
        update = parse(body)
        if self.error is not None:
            raise self.error
        self.taken.append(update)
        return update


def reader(*pieces: bytes, error: Exception | None = None) -> Callable[[], Awaitable[bytes | None]]:
    """Return a reader that yields a body piece by piece."""
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
    """Return a valid request, with these changes."""
    return Request(
        method=method,
        content_encoding=content_encoding,
        content_length=len(body) if content_length is None else content_length,
        signatures=[signed(body)] if signatures is None else signatures,
        read=read or reader(body),
    )


def answer_to(sent: Request, endpoint: Endpoint | None = None, on_event: Any = None) -> Response:
    """Return the answer to one request."""
    return asyncio.run(WebhookHandler((endpoint or Endpoint()).accept, on_event).answer(sent))


def test_a_signed_event_is_accepted() -> None:
    """Once, with an empty 204."""
    endpoint = Endpoint()
    assert answer_to(request(read=reader(BODY[:10], b"", BODY[10:])), endpoint) == Response(204)
    assert endpoint.taken == [parse(BODY)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "post"])
def test_any_method_but_post_is_405(method: str) -> None:
    """The answer names POST."""
    assert answer_to(request(method=method)) == Response(405, {"Allow": "POST"})


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("identity", 204), ("Identity", 204)])
def test_a_compressed_body_is_not_decompressed(encoding: str, status: int) -> None:
    """The signature covers the raw body, and a small body could become a large one."""
    assert answer_to(request(content_encoding=encoding)).status == status


@pytest.mark.parametrize("signatures", [[], [signed(BODY)] * 2, ["sha256=" + "0" * 64], ["nonsense"], [""]])
def test_an_invalid_signature_is_401(signatures: list[str]) -> None:
    """Missing, doubled, wrong or malformed: the same answer, which does not say which."""
    endpoint = Endpoint()
    assert answer_to(request(signatures=signatures), endpoint) == Response(401)
    assert endpoint.taken == []


def test_a_body_without_a_signature_is_not_read() -> None:
    """Strangers get no memory."""
    sent = request(signatures=[], read=reader(error=AssertionError("it was read")))
    assert answer_to(sent).status == 401


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"status": "completed"}'])
def test_a_signed_body_without_a_job_is_400(body: bytes) -> None:
    """Its signature is valid, but it names no job."""
    assert answer_to(request(body)) == Response(400)


@pytest.mark.parametrize(
    ("more", "is_announced", "status"),
    [(0, True, 204), (1, True, 413), (1, False, 413), (1 << 20, False, 413)],
)
def test_a_body_above_1_mib_is_413(more: int, is_announced: bool, status: int) -> None:
    """By its announced or its real size; the handler reads no more than the limit and one piece."""
    body = webhook_body(pad="")
    body = body.replace(b'"pad": ""', b'"pad": "' + b"x" * (LARGEST_BODY - len(body) + more) + b'"')
    pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    sizes = []

    async def read() -> bytes | None:
        sizes.append(len(pieces[0]) if pieces else 0)
        return pieces.pop(0) if pieces else None

    sent = request(body, content_length=len(body) if is_announced else 0, read=read)
    assert answer_to(sent).status == status
    assert sum(sizes) <= (0 if is_announced and more else LARGEST_BODY + 65_536)


@virtual
async def test_a_body_that_takes_too_long_is_408() -> None:
    """The whole body has ten seconds, even if a little of it keeps coming."""

    async def drip() -> bytes:
        await asyncio.sleep(3)
        return b" "

    assert (await WebhookHandler(Endpoint().accept).answer(request(read=drip))).status == 408
    assert now() == 10.0
    assert (await WebhookHandler(Endpoint().accept, read_timeout=2).answer(request(read=drip))).status == 408
    assert now() == 12.0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "10"])
def test_an_invalid_read_timeout_is_rejected(seconds: Any) -> None:
    """The error comes when the application is created."""
    with pytest.raises(ConfigurationError, match="read_timeout is"):
        WebhookHandler(Endpoint().accept, read_timeout=seconds)


@pytest.mark.parametrize("error", [CutOffError(), ConnectionError("gone"), ValueError("an odd encoding")])
def test_a_cut_off_body_is_400(error: Exception) -> None:
    """Half a body is no event, whatever the server raises for it."""
    endpoint = Endpoint()
    assert answer_to(request(read=reader(BODY[:9], error=error)), endpoint).status == 400
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
def test_a_stranger_causes_at_most_one_debug_line(sent: Request, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise anybody could fill the log without a signature."""
    caplog.set_level(logging.DEBUG, "doitong_async")
    assert answer_to(sent).status in (400, 401, 405, 413, 415)
    lines = [record for record in caplog.records if record.name == "doitong_async"]
    assert len(lines) <= 1
    assert {(record.levelno, record.exc_info) for record in lines} <= {(logging.DEBUG, None)}
    assert all(len(record.getMessage()) < 100 and record.getMessage().isprintable() for record in lines)


@pytest.mark.parametrize(
    "error", [ClientClosedError("closed"), ConfigurationError("another loop"), RuntimeError("broken")]
)
def test_an_event_that_cannot_be_accepted_now_is_503(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The service sends it again; only an error of ours is logged."""
    assert answer_to(request(), Endpoint(error)) == Response(503)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(errors) is isinstance(error, RuntimeError)


class TestHook:
    def test_the_hook_runs_before_the_answer(self) -> None:
        """Sync or async, with the accepted update."""
        endpoint, calls = Endpoint(), []

        async def record(update: Generation) -> None:
            await asyncio.sleep(0)
            calls.append((update, list(endpoint.taken)))

        assert answer_to(request(), endpoint, record).status == 204
        assert (
            answer_to(request(), endpoint, lambda update: calls.append((update, list(endpoint.taken)))).status
            == 204
        )
        assert calls == [(parse(BODY), [parse(BODY)]), (parse(BODY), [parse(BODY)] * 2)]

    @pytest.mark.parametrize("is_async", [True, False])
    def test_a_failing_hook_makes_the_service_send_again(
        self, is_async: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The update is accepted all the same, and the failure is logged."""
        endpoint = Endpoint()

        def fail(_: Generation) -> None:
            raise OSError("the disk is full")

        async def fail_later(update: Generation) -> None:
            fail(update)

        assert answer_to(request(), endpoint, fail_later if is_async else fail) == Response(503)
        assert len(endpoint.taken) == 1
        assert "the disk is full" in caplog.text

    def test_the_hook_does_not_run_for_rejected_requests(self) -> None:
        """User code must not run without a valid signature."""
        calls: list[Generation] = []
        for sent in (request(signatures=["nonsense"]), request(b"{}"), request(method="GET")):
            answer_to(sent, on_event=calls.append)
        answer_to(request(), Endpoint(ClientClosedError("closed")), calls.append)
        assert calls == []


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
def test_nothing_unsigned_is_accepted(
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
    answer = answer_to(sent, endpoint)
    assert answer.status in (204, 400, 401, 405, 413, 415)
    is_taken = 200 <= answer.status < 300
    assert is_taken is bool(endpoint.taken)
    if is_taken:
        body = b"".join(pieces)
        assert signatures == [signed(body)]
        assert json.loads(body)["id"]
