"""The way to the API: which part of it breaks, found without a request, and never guessed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from doitong_async import Assumption, AsyncDoitong, CheckOutcome, CheckReport
from doitong_async.emulator import Emulator
from doitong_async.webhooks.serving import free_port
from tests.check.reports import SOUND, failing, holding
from tests.plain_server import HANG, PlainServer, read_request
from tests.virtual import plain, virtual, with_emulator

SELF_SIGNED = Path(__file__).with_name("self_signed.pem")
"""A certificate for localhost with its key, which no authority signed; for these tests alone."""
API = "https://api.example"


async def checked(base_url: str, **arguments: Any) -> CheckReport:
    """Check an address with a client of its own."""
    async with AsyncDoitong(api_key="k-test", base_url=base_url, **arguments) as doitong:
        return await doitong.check()


def dead_url() -> str:
    """Return an address at which nobody listens."""
    with free_port() as place:
        return f"http://127.0.0.1:{place.getsockname()[1]}"


@virtual
async def test_a_dead_port_is_found() -> None:
    """Nothing was sent, and nothing is claimed about the service."""
    url = dead_url()
    async with AsyncDoitong(api_key="k-test", base_url=url) as doitong:
        report = await doitong.check()
        assert doitong.stats().requests_left == 10
    assert failing(report) == {"address"}
    assert holding(report) == {"dns", "proxy"}
    assert (report.requests, report.is_usable) == (0, False)
    assert f"nothing answers at {url.removeprefix('http://')}" in report.find(Assumption.ADDRESS).detail


@virtual
async def test_a_host_without_an_address_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's own words are shown."""

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    report = await checked(API)
    assert failing(report) == {"dns"}
    assert "api.example has no address here: name or service not known" in report.find(Assumption.DNS).detail
    assert holding(report) == {"proxy"}


async def serve_tls(reader: StreamReader, writer: StreamWriter) -> None:
    """Read a request, and close the connection: its handshake is all that the test needs."""
    await read_request(reader)
    writer.close()


@virtual
async def test_a_certificate_that_nobody_signed_is_found() -> None:
    """With a context that knows it, the certificate is no obstacle."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SELF_SIGNED)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with await asyncio.start_server(serve_tls, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        report = await checked(url)
        knowing = ssl.create_default_context(cafile=str(SELF_SIGNED))
        trusted = await checked(url, ssl=knowing)
        async with aiohttp.ClientSession() as session:
            with_own_session = await checked(url, ssl=knowing, session=session)
    assert failing(report) == {"tls"}
    assert "self-signed certificate" in report.find(Assumption.TLS).detail
    assert holding(report) == {"dns", "proxy"}
    assert trusted.find(Assumption.TLS).outcome is CheckOutcome.HOLDS
    assert with_own_session.find(Assumption.TLS).outcome is CheckOutcome.UNKNOWN


@virtual
async def test_plain_http_has_no_certificate_to_check() -> None:
    """That is told, and is no fault on loopback."""
    async with plain(behaviour=SOUND) as (doitong, _):
        finding = (await doitong.check()).find(Assumption.TLS)
    assert finding.outcome is CheckOutcome.UNKNOWN
    assert "plain http" in finding.detail


@virtual
async def test_a_proxy_that_lets_requests_through_is_named_without_its_password() -> None:
    """The proxy resolves the host, so nothing is told of that."""
    async with Emulator(key="k-test") as proxy:
        port = proxy.url.rpartition(":")[2]
        report = await checked("http://127.0.0.9:9", proxy=f"http://user:sesame@127.0.0.1:{port}")
    assert failing(report) == set()
    assert report.find(Assumption.PROXY).detail == f"requests go through 127.0.0.1:{port}"
    assert report.find(Assumption.DNS).outcome is CheckOutcome.UNKNOWN
    assert "sesame" not in str(report)


@virtual
async def test_a_proxy_of_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the client uses it; `NO_PROXY` is obeyed."""
    proxy = dead_url()
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    report = await checked(API, trust_env=True)
    assert failing(report) == {"proxy"}
    place = proxy.removeprefix("http://")
    assert report.find(Assumption.PROXY).detail.startswith(f"nothing gets through {place}: ")
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    direct = await checked(dead_url(), trust_env=True)
    assert direct.find(Assumption.PROXY).detail == "none is set"


@virtual
async def test_a_proxy_that_refuses_shows_its_status() -> None:
    """407 asks for a password."""
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    async with PlainServer(script=lambda kind, nth: answer) as server:
        report = await checked(API, proxy=server.url)
    assert failing(report) == {"proxy"}
    assert "HTTP 407" in report.find(Assumption.PROXY).detail


@virtual
async def test_a_session_of_the_users_may_have_a_proxy_and_certificates_of_its_own() -> None:
    """So nothing is claimed of either."""
    async with aiohttp.ClientSession() as session, with_emulator(session=session) as (doitong, _):
        report = await doitong.check()
        assert not session.closed
    assert report.find(Assumption.PROXY).outcome is CheckOutcome.UNKNOWN


@virtual
async def test_a_service_that_never_answers_is_not_asked_again() -> None:
    """The host was reached; more cannot be told."""
    async with plain(behaviour=SOUND) as (doitong, server):
        server.script = lambda kind, nth: HANG
        report = await doitong.check()
        assert report.requests == len(server.requests) == 1
    assert report.cut_short == "the first request had no answer"
    assert failing(report) == set()
    assert holding(report) == {"dns", "proxy"}


@virtual
async def test_an_introspection_that_is_cut_off_ends_nothing() -> None:
    """Some gateways drop it; the polls still tell."""
    async with plain(behaviour=SOUND) as (doitong, server):
        server.script = lambda kind, nth: "cut" if kind == "introspection" else None
        report = await doitong.check()
    assert failing(report) == set()
    assert {"key", "status", "aliases", "plan"} <= holding(report)
    assert {"generate", "alias_cost"}.isdisjoint(holding(report))
