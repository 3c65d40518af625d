"""The server that tests kill and freeze, and the proxy that cuts a client off, do what they say."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.redis_server import Proxy, RedisServer, free_port


def state_of(pid: int) -> str:
    """Return the letter by which Linux shows the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_killed_server_comes_back_empty_at_the_same_port() -> None:
    with RedisServer() as server:
        url = server.url
        server.ask("SET", "x", "1")
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "x")

        server.start()

        assert (server.url, server.ask("EXISTS", "x")) == (url, "0")
    with pytest.raises(ConnectionRefusedError):
        server.ask("PING")


def test_a_frozen_server_answers_when_it_is_thawed_and_dies_frozen() -> None:
    with RedisServer() as server:
        server.freeze()
        assert state_of(server.pid) == "T"
        with socket.create_connection(("127.0.0.1", server.port)) as waiting:
            waiting.sendall(b"PING\r\n")
            server.thaw()
            assert waiting.recv(100) == b"+PONG\r\n"

        server.freeze()


def test_a_flushed_server_has_no_keys_and_its_options_are_set() -> None:
    with RedisServer("--maxmemory-policy", "allkeys-lru") as server:
        server.ask("SET", "x", "1")
        server.flush()

        assert server.ask("DBSIZE") == "0"
        assert "maxmemory_policy:allkeys-lru" in server.ask("INFO", "memory")


def test_a_server_can_ask_for_a_password() -> None:
    with RedisServer(password="s3cr/t") as server:
        assert server.url == f"redis://:s3cr%2Ft@127.0.0.1:{server.port}/0"
        assert server.ask("PING") == "PONG"
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(b"PING\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(ChildProcessError, match="FATAL CONFIG FILE ERROR"),
        RedisServer("--no-such-option", "1") as server,
    ):
        server.ask("PING")


def test_a_free_port_is_none_that_a_client_is_given() -> None:
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert not int(first) <= free_port() <= int(last)


async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"PING\r\n")
    return await reader.read(100)


@pytest.mark.asyncio
async def test_a_cut_stalls_one_client_and_refuses_it_until_it_is_mended() -> None:
    with RedisServer() as server:
        async with Proxy(server.port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await ping(reader, writer) == b"+PONG\r\n"

            proxy.cut("stall")
            stalled = asyncio.ensure_future(ping(reader, writer))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            assert server.ask("PING") == "PONG"
            assert not stalled.done()

            await proxy.mend()
            assert await stalled == b"+PONG\r\n"
            again = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await ping(*again) == b"+PONG\r\n"
            again[1].close()
            writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("mends", [True, False])
async def test_a_cut_resets_what_is_open(mends: bool) -> None:
    with RedisServer() as server:
        async with Proxy(server.port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await ping(reader, writer) == b"+PONG\r\n"

            proxy.cut("reset")
            with pytest.raises(ConnectionResetError):
                await reader.read(100)
            writer.close()

            if mends:
                await proxy.mend()
                again = await asyncio.open_connection("127.0.0.1", proxy.port)
                assert await ping(*again) == b"+PONG\r\n"
                again[1].close()


@pytest.mark.asyncio
async def test_behind_a_proxy_a_dead_server_ends_the_connection() -> None:
    with RedisServer() as server:
        async with Proxy(server.port) as proxy:
            server.kill()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            assert await reader.read(100) == b""
            writer.close()
