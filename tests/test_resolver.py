"""Addresses where a remote service can have no output: rejected before a byte goes there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from doitong_async import AsyncDoitong, DownloadError, Generation, JobStatus, Result
from tests.plain_server import JPEG, PlainServer, http
from tests.virtual import plain, virtual

ELSEWHERE = "https://api.example"


class Names(AbstractResolver):
    """A resolver with a fixed table of names; every other name is unknown."""

    def __init__(self, **table: str) -> None:
        self.table = {name.replace("_", "."): addresses.split() for name, addresses in table.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        await asyncio.sleep(0)
        if host not in self.table:
            raise OSError(None, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=each, port=port, family=_family(each), proto=0, flags=0)
            for each in self.table[host]
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@asynccontextmanager
async def client(names: Names | None = None, **arguments: Any) -> AsyncIterator[AsyncDoitong]:
    """Yield a client that resolves names from a table, and sends nothing by itself."""
    async with AsyncDoitong(**{"api_key": "k", "base_url": ELSEWHERE, **arguments}) as doitong:
        doitong._running()._resolver._default = names or Names()
        yield doitong


def at(doitong: AsyncDoitong, url: str) -> Result:
    """Return a finished job with its output there."""
    done = Generation(id="j1", status=JobStatus.COMPLETED, url=url, type="IMAGE")
    return Result(done, doitong._running().downloads)


@virtual
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "127.0.0.1."]
)
async def test_this_machine_is_rejected_while_the_api_is_elsewhere(host: str) -> None:
    """The author of a URL must not read what listens on this machine alone."""
    async with PlainServer() as server, client() as doitong:
        port = server.outputs_url.rpartition(":")[2]
        for scheme in ("http", "https"):
            with pytest.raises(DownloadError, match=r"leads to a loopback address.*output_hosts") as caught:
                await at(doitong, f"{scheme}://{host}:{port}/outputs/a.jpg").read()
            assert caught.value.job_id == "j1"
        assert server.requests == []


@virtual
@pytest.mark.parametrize(
    ("addresses", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("93.184.216.34 127.0.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("10.0.0.7", "private"),
        ("::ffff:192.168.0.1", "private"),
        ("fd00::1", "private"),
        ("fe80::1%eth0", "link-local"),
        ("100.64.0.1", "private"),
        ("0.0.0.0", "unspecified"),
        ("224.0.0.1", "multicast"),
    ],
)
@pytest.mark.parametrize("is_own", [True, False])
async def test_one_forbidden_address_rejects_a_name(addresses: str, kind: str, is_own: bool) -> None:
    """In our own session by the addresses it connects to, in a user's by those resolved for it."""
    names = Names(evil_example=addresses)
    async with (
        aiohttp.ClientSession() as session,
        client(names, session=None if is_own else session) as doitong,
    ):
        with pytest.raises(DownloadError, match=f"leads to a {kind} address \\(evil.example\\)"):
            await at(doitong, "https://evil.example/x.jpg").read()
    assert names.asked[0] == "evil.example"
    assert names.asked.count("evil.example") == 1


@virtual
@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:1/x", "//localhost/x", "https://10.0.0.1/", "https://evil/"]
)
async def test_a_redirect_is_checked_like_the_url_itself(location: str) -> None:
    """The answering host chooses its target."""
    moved = http(302, b"", "text/plain", {"Location": location})
    names = Names(evil="192.168.0.1")
    async with plain(seconds=0.0, output_hosts=["outputs.example"]) as (doitong, server):
        names.table["outputs.example"] = ["127.0.0.1"]
        runtime = doitong._running()
        runtime._resolver._default = names
        # As if the API were elsewhere: only its outputs are here.
        places = runtime._resolver._places
        elsewhere = type(places)("api.example", places.named)
        runtime._resolver._places = runtime.downloads._places = elsewhere
        server.script = lambda kind, nth: moved if kind == "output" else None
        with pytest.raises(DownloadError, match=r"leads to a (loopback|private) address|not https"):
            await at(doitong, server.outputs_url.replace("127.0.0.1", "localhost")).read()


@virtual
async def test_a_local_service_allows_loopback_alone() -> None:
    """Loopback for a service on loopback, but no private network."""
    async with plain(seconds=0.0) as (doitong, _):
        assert await (await doitong.generate("a fox")).read() == JPEG
        for host in ("10.0.0.1", "192.168.0.1", "169.254.1.1"):
            with pytest.raises(DownloadError, match="which the API is not at"):
                await at(doitong, f"https://{host}/x.jpg").read()


@virtual
async def test_a_service_on_a_private_network_may_have_outputs_there() -> None:
    """Its host may be an address or a name."""
    names = Names(api_corp="10.0.0.1", cdn_corp="192.168.0.1", cdn_here="127.0.0.1")
    for base_url in ("https://10.9.9.9", "https://api.corp"):
        async with client(names, base_url=base_url) as doitong:
            guard = doitong._running()._resolver
            await guard.lookup("cdn.corp")
            await guard.check("172.16.0.9")
            for refused in (guard.lookup("cdn.here"), guard.check("127.0.0.1"), guard.check("::1")):
                with pytest.raises(DownloadError, match="loopback"):
                    await refused


@virtual
@pytest.mark.parametrize(
    ("output_hosts", "host"),
    [
        (["127.0.0.1"], "127.0.0.1"),
        (["Localhost"], "localhost"),
        ("[::1]", "[::1]"),
        (["127.0.0.1"], "0x7f.1"),
    ],
)
async def test_a_host_named_by_the_user_is_allowed(output_hosts: Any, host: str) -> None:
    """In any spelling."""
    async with (
        PlainServer() as server,
        client(Names(localhost="127.0.0.1"), output_hosts=output_hosts) as doitong,
    ):
        url = server.outputs_url.replace("127.0.0.1", host)
        if host == "[::1]":
            with pytest.raises(DownloadError, match="could not be reached"):
                await at(doitong, f"{url}/x.jpg").read()
            return
        server.script = lambda kind, nth: http(200, JPEG, "image/jpeg", {})
        assert await at(doitong, f"{url}/x.jpg").read() == JPEG


@virtual
async def test_the_documented_host_may_not_be_private() -> None:
    """Only a host named by the user may have a private address."""
    names = Names(cdn_doitong_com="10.0.0.1")
    async with client(names) as doitong:
        with pytest.raises(DownloadError, match="private"):
            await doitong._running()._resolver.lookup("cdn.doitong.com")
    async with client(names, output_hosts=["cdn.doitong.com"]) as doitong:
        await doitong._running()._resolver.lookup("cdn.doitong.com")


@virtual
@pytest.mark.parametrize("is_own", [True, False])
async def test_insecure_http_allows_outputs_over_http_from_the_api_host(is_own: bool) -> None:
    """As in a network of containers; another host may not."""
    names = Names(api_internal="127.0.0.1", other_internal="127.0.0.1")
    own = aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=names))
    async with own, PlainServer(seconds=0.0) as server:
        given: dict[str, Any] = {
            "allow_insecure_http": True,
            "session": None if is_own else own,
            "api_key": server.key,
        }
        async with client(
            names, base_url=server.url.replace("127.0.0.1", "api.internal"), **given
        ) as doitong:
            server.outputs_url = server.outputs_url.replace("127.0.0.1", "api.internal")
            assert await (await doitong.generate("a fox")).read() == JPEG
            with pytest.raises(DownloadError, match="not https"):
                await at(doitong, server.outputs_url.replace("api.", "other.")).read()


@virtual
async def test_a_session_with_a_proxy_resolves_no_name() -> None:
    """The proxy resolves names, and its own address is not an output's."""
    names = Names(cdn_example="10.0.0.1")
    async with (
        aiohttp.ClientSession(proxy="http://127.0.0.1:9") as session,
        client(names, session=session) as doitong,
    ):
        with pytest.raises(DownloadError, match="could not be reached"):
            await at(doitong, "https://cdn.example/x.jpg").read()
    assert names.asked == []


@virtual
async def test_a_proxy_of_the_environment_may_be_on_a_private_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same session resolves its name, but fetches nothing from it."""
    names = Names(proxy_corp="127.0.0.1")
    async with PlainServer() as server:
        server.script = lambda kind, nth: http(200, JPEG, "image/jpeg", {})
        port = server.outputs_url.rpartition(":")[2]
        monkeypatch.setenv("http_proxy", f"http://proxy.corp:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        async with client(
            names, base_url="http://api.example", allow_insecure_http=True, trust_env=True
        ) as doitong:
            assert await at(doitong, "http://api.example/x.jpg").read() == JPEG
    assert set(names.asked) == {"proxy.corp"}


@virtual
async def test_an_unknown_name_is_a_download_error() -> None:
    """It is a network error, and is retried."""
    for url in ("https://nowhere.example/x", "https://" + "a" * 63 + ".example/x"):
        async with client() as doitong:
            with pytest.raises(DownloadError, match="could not be reached"):
                await at(doitong, url).read()
