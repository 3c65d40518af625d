"""The Redis in virtual time runs scripts by the loop's clock, and breaks like the real one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from doitong_async.clock import wall_time
from tests.fake_redis import FakeRedisServer
from tests.redis_server import RedisServer
from tests.test_foreign import patient
from tests.virtual import now, settle, start, virtual

SCRIPT = """
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'state', ARGV[1])
redis.call('PEXPIRE', KEYS[1], 60000)
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', '1000', '*', 'grant', ARGV[1])
return {time[1], time[2], redis.call('HGET', KEYS[1], 'state'), id, redis.call('PTTL', KEYS[1])}
"""
COMPARE_AND_SET = """
local held = redis.call('GET', KEYS[1])
if (held or '') ~= ARGV[1] then return {0, held or ''} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1, ARGV[2]}
"""
KEYS = ("{k}state", "{k}stream")


@virtual
async def test_the_time_in_a_script_is_the_loops() -> None:
    client = FakeRedisServer().client()
    script = client.register_script(SCRIPT)
    for _ in range(2):
        seconds, micros, state, made, left = await script(keys=KEYS, args=["x"])
        assert int(seconds) + int(micros) / 1e6 == pytest.approx(wall_time(), abs=1e-5)
        assert int(made.split(b"-")[0]) == int(wall_time() * 1000)
        assert (state, left) == (b"x", 60_000)
        await asyncio.sleep(12.345)
    await client.aclose()


@virtual
async def test_a_key_expires_in_virtual_time() -> None:
    client = FakeRedisServer().client()
    await client.set("x", "1", px=60_000)
    await asyncio.sleep(59.9)
    assert await client.get("x") == b"1"
    await asyncio.sleep(0.2)
    assert await client.get("x") is None
    await client.aclose()


@virtual
async def test_a_blocking_read_wakes_in_the_moment_of_the_entry_and_ends_in_virtual_time() -> None:
    server = FakeRedisServer()
    reader, writer = server.client(socket_timeout=None), server.client()
    script = writer.register_script(SCRIPT)
    waiting = start(reader.xread({KEYS[1]: "$"}, block=60_000))
    await asyncio.sleep(30)
    await script(keys=KEYS, args=["x"])
    [[_, [(_, fields)]]] = await waiting
    assert (fields, now()) == ({b"grant": b"x"}, 30.0)

    assert await reader.xread({KEYS[1]: "$"}, block=60_000) == []
    assert now() == pytest.approx(90.0)
    await reader.aclose()
    await writer.aclose()


@virtual
async def test_a_client_that_leaves_in_a_blocking_read_leaves_no_task() -> None:
    client = FakeRedisServer().client(socket_timeout=None)
    waiting = start(client.xread({"stream": "$"}, block=0))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await settle()
    assert await client.ping()
    await client.aclose()


@virtual
async def test_a_frozen_server_times_out_and_does_what_was_sent_once_it_is_thawed() -> None:
    server = FakeRedisServer()
    client, reader = server.client(), server.client(socket_timeout=None)
    await client.ping()
    waiting = start(reader.xread({"stream": "$"}, block=5_000))
    await settle()
    server.freeze()
    with pytest.raises(RedisTimeoutError):
        await client.set("x", "1")
    assert now() == 1.0
    with pytest.raises(RedisTimeoutError):
        await client.ping()
    assert now() == 2.0
    await asyncio.sleep(10)
    assert not waiting.done()
    server.thaw()
    assert await waiting == []
    # Whoever gave up has closed the connection: here, as when the bytes had not arrived, nothing was done.
    assert await client.get("x") is None
    await client.aclose()
    await reader.aclose()


@virtual
async def test_a_killed_server_breaks_connections_and_comes_back_empty_as_another_one() -> None:
    server = FakeRedisServer()
    client, reader = server.client(), server.client(socket_timeout=None)
    script = client.register_script(COMPARE_AND_SET)
    assert await script(keys=["x"], args=["", "1", 1000]) == [1, b"1"]
    before = await client.info("server")
    waiting = start(reader.xread({"stream": "$"}, block=0))
    await settle()

    server.kill()
    with pytest.raises(RedisConnectionError):
        await waiting
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            await client.ping()
    server.start()

    assert await script(keys=["x"], args=["1", "2", 1000]) == [0, b""]
    assert (await client.info("server"))["run_id"] != before["run_id"]
    await client.aclose()
    await reader.aclose()


@virtual
async def test_after_a_restart_a_connection_of_the_pool_costs_one_command() -> None:
    server = FakeRedisServer()
    client = server.client()
    await client.ping()
    server.kill()
    server.start()
    with pytest.raises(RedisConnectionError):
        await client.ping()
    assert await client.ping()
    await client.aclose()


@virtual
async def test_its_clock_may_step_and_its_keys_may_be_evicted() -> None:
    server = FakeRedisServer(eviction="allkeys-lru")
    client = server.client()
    server.ahead = -30.0
    seconds, _ = await client.time()
    assert seconds == int(wall_time() - 30)
    assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
    assert (await client.info("memory"))["maxmemory_policy"] == "allkeys-lru"
    await client.aclose()


async def outcomes(client: Any) -> list[object]:
    """Return what a client gets for the same few calls."""
    script = client.register_script(COMPARE_AND_SET)
    await client.xadd("stream", {"a": "1"}, id="5-1")
    return [
        await script(keys=["x"], args=["", "é1", 1000]),
        await script(keys=["x"], args=["", "2", 1000]),
        await script(keys=["x"], args=["é1", "2", 1000]),
        await client.get("x"),
        await client.get("nothing"),
        await client.xread({"stream": "0"}, count=10),
        await client.xread({"stream": "$"}, block=1),
        await client.xread({"nothing": "0"}),
        await client.xrange("stream"),
        await client.config_get("maxmemory-policy"),
        {type(value) for value in (await client.info("server")).values()} >= {str},
    ]


@pytest.mark.asyncio
async def test_the_fake_and_the_real_one_answer_alike() -> None:
    fake = FakeRedisServer().client()
    with RedisServer() as server:
        real = patient(server.url)
        assert await outcomes(fake) == await outcomes(real)
        await real.aclose()
    await fake.aclose()
