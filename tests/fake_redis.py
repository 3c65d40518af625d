"""A Redis in virtual time: fakeredis on the clock of the running loop, to freeze, kill and empty.

fakeredis answers in the process, without sockets, so the virtual-time loop has no network to wait for. It
takes the time from `time.time()`, also for `TIME` in a script, for expiry and for the ids of a stream: its
modules are given a clock here that follows the running loop. Waits (a blocking XREAD, a timeout) are timers
of the loop.

What fakeredis lacks, and a coordinator may ask for, is added: `INFO`, `CONFIG GET`, the timeout of a socket,
and a server that freezes or dies. A client that goes away in a blocking command leaves no task behind.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final

import fakeredis
import fakeredis._helpers
import fakeredis._socket._base
import fakeredis.commands_mixins.server_mixin
import fakeredis.model._stream
from fakeredis._commands import command
from fakeredis.aioredis import AsyncFakeSocket, FakeAsyncRedisConnection, FakeReader, FakeRedis, FakeWriter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from doitong_async.clock import wall_time

_CLOCK: Final = SimpleNamespace(**{**vars(time), "time": wall_time})
for _module in (
    fakeredis._helpers,
    fakeredis._socket._base,
    fakeredis.commands_mixins.server_mixin,
    fakeredis.model._stream,
):
    _module.time = _CLOCK  # type: ignore[attr-defined]  # its own name for the library's module

_GONE: Final = object()
"""What a connection reads whose server died."""


class FakeRedisServer(fakeredis.FakeServer):
    """A server of the process; clients of its own take commands to it in virtual time.

    Args:
        eviction: its `maxmemory-policy`.
    """

    def __init__(self, *, eviction: str = "noeviction") -> None:
        super().__init__(version=(7,))
        self.eviction = eviction
        self.run_id = uuid.uuid4().hex
        self.ahead = 0.0
        """Seconds by which its `TIME` is ahead of the loop's wall clock."""
        self.calls = 0
        """Commands that clients sent."""
        self.is_frozen = False

    def client(self, **arguments: Any) -> Redis:
        """Return a client that makes one attempt of at most a second; `arguments` are those of `Redis`."""
        made: Redis = FakeRedis(
            **{
                "server": self,
                "connection_class": _Connection,
                "socket_timeout": 1,
                "retry": Retry(NoBackoff(), 0),
                **arguments,
            }
        )
        return made

    def freeze(self) -> None:
        """Answer nothing and carry out nothing, until it is thawed."""
        self.is_frozen = True

    def thaw(self) -> None:
        """Go on, with all that was sent meanwhile."""
        self.is_frozen = False
        for each in list(self.sockets):
            each.go_on()

    def kill(self) -> None:
        """Die: connections break, and new ones are refused."""
        self.connected = False
        self.is_frozen = False
        for each in list(self.sockets):
            each.die()

    def start(self) -> None:
        """Come back after `kill`, as another server with nothing in it."""
        self.run_id = uuid.uuid4().hex
        self.script_cache.clear()
        self.flush()
        self.connected = True

    def flush(self) -> None:
        """Forget every key."""
        with self.lock:
            for database in self.dbs.values():
                database.clear()


class _Socket(AsyncFakeSocket):
    """The server's end of a connection."""

    _server: FakeRedisServer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread: list[bytes] = []
        self._unsent: list[Any] = []
        self._blocking_task: asyncio.Task[None] | None = None

    def sendall(self, data: Any) -> None:
        if self._killed:
            raise RedisConnectionError("Connection closed by server.")
        if self._server.is_frozen:
            self._unread.append(data)
        else:
            super().sendall(data)

    def put_response(self, msg: Any) -> None:
        if self._server.is_frozen:
            self._unsent.append(msg)
        else:
            super().put_response(msg)

    def go_on(self) -> None:
        """Send and read what waited while the server was frozen."""
        unsent, self._unsent = self._unsent, []
        for message in unsent:
            super().put_response(message)
        unread, self._unread = self._unread, []
        for data in unread:
            super().sendall(data)

    def die(self) -> None:
        """Break: whoever waits for an answer is told."""
        self.leave()
        self._killed = True
        super().put_response(_GONE)

    def leave(self) -> None:
        """Carry out nothing more for a client that is gone."""
        if self._blocking_task is not None:
            self._blocking_task.cancel()
        with suppress(ValueError):
            self._server.sockets.remove(self)
        self._unread.clear()

    async def _async_blocking(self, *args: Any) -> None:
        self._blocking_task = asyncio.current_task()
        # fakeredis cleans up by itself; the task of nobody must not end with an error.
        with suppress(asyncio.CancelledError):
            await super()._async_blocking(*args)
        self._blocking_task = None

    def _process_command(self, fields: list[bytes]) -> None:
        self._server.calls += 1
        super()._process_command(fields)

    def time(self) -> list[bytes]:
        """`TIME`, also within a script."""
        microseconds = round((wall_time() + self._server.ahead) * 1e6)
        return [str(part).encode() for part in divmod(microseconds, 10**6)]

    @command(name="INFO", fixed=(), repeat=(bytes,))
    def info(self, *_: bytes) -> bytes:
        """`INFO`: what identifies the server, and whether it may evict keys."""
        server = f"# Server\r\nredis_version:7.0.15\r\nrun_id:{self._server.run_id}\r\n"
        return f"{server}# Memory\r\nmaxmemory_policy:{self._server.eviction}\r\n".encode()

    @command(name="CONFIG GET", fixed=(bytes,), repeat=(bytes,))
    def config_get(self, *names: bytes) -> dict[bytes, bytes]:
        """`CONFIG GET maxmemory-policy`; nothing else is known."""
        known = {b"maxmemory-policy": self._server.eviction.encode()}
        return {name: known[name] for name in names if name in known}


class _Connection(FakeAsyncRedisConnection):
    """The client's end of a connection."""

    _server: FakeRedisServer

    async def _connect(self) -> None:
        if not self._server.connected:
            raise RedisConnectionError("Error 111 connecting to the fake server. Connection refused.")
        sock = _Socket(
            self._server,
            self.db,
            client_class=self._client_class,
            lua_modules=self._lua_modules,
            client_info=self._client_info,
        )
        self._sock: Any = sock
        self._reader, self._writer = FakeReader(sock), FakeWriter(sock)

    async def disconnect(self, nowait: bool = False, *args: Any, **kwargs: Any) -> None:
        if self._sock is not None:
            self._sock.leave()
        await super().disconnect(nowait, **kwargs)

    async def _read_response(self, **kwargs: Any) -> Any:
        """Read an answer as redis-py does, which bounds it by the socket's timeout."""
        if self._sock is None:
            raise RedisConnectionError("Connection closed by server.")
        given: float | None = kwargs.get("timeout")
        try:
            async with asyncio.timeout(self.socket_timeout if given is None else given):
                answer = await self._sock.responses.get()
        except TimeoutError:
            if given is not None:
                return None
            raise RedisTimeoutError("Timeout reading from the fake server") from None
        if answer is _GONE:
            raise RedisConnectionError("Connection closed by server.")
        return answer
