"""A redis-server of the test's own, to kill, freeze and empty, and a proxy that cuts a client off from it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import struct
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from io import BufferedRWPair
from subprocess import PIPE, STDOUT, Popen
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

_HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
"""Ports that Linux gives to no client. A client that connects again and again to a dead server on loopback
would in the end be given the server's own port, and speak to itself."""
_READY: Final = "Ready to accept connections"
_PATIENCE: Final = 10.0
"""Seconds after which a server that answers nothing is a failure."""


def free_port() -> int:
    """Return a port of loopback that nobody listens on, and that the system gives to no client."""
    while True:
        # Tests run side by side: each draws its port by chance.
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as trial, suppress(OSError):
            trial.bind((_HOST, port))
            return port


class RedisServer:
    """A server that keeps nothing on disk, running inside `with`; `start` brings a killed one back, empty.

    Args:
        *options: more options of redis-server, such as `"--maxmemory-policy", "allkeys-lru"`.
        password: what it asks of every client, if anything.
    """

    def __init__(self, *options: str, password: str = "") -> None:
        self.port = 0
        self._options = ("--requirepass", password, *options)
        self._password = password
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: Popen[str] | None = None

    def __enter__(self) -> Self:
        self.port = free_port()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its address, as `redis.asyncio.Redis.from_url` takes it."""
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{user}{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it with nothing in it, and wait until it answers.

        Raises:
            ChildProcessError: if it ended instead; what it printed is the message.
        """
        assert self._process is None
        self._folder = tempfile.TemporaryDirectory()
        command = ["redis-server", "--bind", _HOST, "--port", str(self.port), "--dir", self._folder.name]
        command += ["--save", "", "--appendonly", "no", *self._options]
        process = self._process = Popen(command, stdout=PIPE, stderr=STDOUT, encoding="utf-8")
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if _READY in line:
                break
        else:
            self.kill()
            raise ChildProcessError("".join(printed))
        assert self.ask("PING", "SAFE") == "SAFE"
        # Nobody reads on: a pipe that is full would stop it.
        self.ask("CONFIG", "SET", "loglevel", "warning")

    def kill(self) -> None:
        """End it with SIGKILL, frozen or not; what it knew is gone."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def freeze(self) -> None:
        """Stop it: connections stay open, new ones are taken by the system, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on, with all that was sent meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Forget every key."""
        assert self.ask("FLUSHALL") == "OK"

    def ask(self, *words: str) -> str:
        """Return the answer to one command, on a connection of its own and without any library.

        Raises:
            ValueError: if the answer is an error, or more than one value.
        """
        with (
            socket.create_connection((_HOST, self.port), _PATIENCE) as connection,
            connection.makefile("rwb") as stream,
        ):
            if self._password:
                _answer(stream, ("AUTH", self._password))
            return _answer(stream, words)


def _answer(stream: BufferedRWPair, words: Sequence[str]) -> str:
    """Send one command in the protocol's own form, and read its answer."""
    sent = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    stream.write(f"*{len(words)}\r\n{sent}".encode())
    stream.flush()
    first = stream.readline().decode().rstrip()
    match first[:1]:
        case "+" | ":":
            return first[1:]
        case "$":
            return stream.read(max(0, int(first[1:]))).decode()
    raise ValueError(f"{words[0]}: {first!r}")


class Proxy:
    """Passes bytes on to a port of loopback, inside `async with`, until it is told to cut.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._to = port
        self._flows = asyncio.Event()
        self._listening: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """Its address, as `redis.asyncio.Redis.from_url` takes it."""
        return f"redis://{_HOST}:{self.port}/0"

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut("reset")
        await asyncio.gather(*self._connections)
        # The step of the loop in which closed connections release their sockets.
        await asyncio.sleep(0)

    def cut(self, how: Literal["stall", "reset"]) -> None:
        """Refuse new connections, and stall those that are open, or reset them.

        A stalled one goes on when it is mended, as with a cable that was out.
        """
        self._flows.clear()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if how == "reset":
            for task, writer in self._connections.items():
                place = writer.get_extra_info("socket")
                place.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                task.cancel()

    async def mend(self) -> None:
        """Take connections again, at the same port, and let stalled ones go on."""
        self._flows.set()
        self._listening = await asyncio.start_server(self._converse, _HOST, self.port)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            with suppress(OSError, asyncio.CancelledError):
                there, beyond = await asyncio.open_connection(_HOST, self._to)
                try:
                    ways = [self._pump(reader, beyond), self._pump(there, writer)]
                    await asyncio.gather(*ways)
                finally:
                    beyond.close()
        finally:
            writer.close()
            del self._connections[task]

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Pass bytes one way until they end; what is read while it is cut waits."""
        while data := await source.read(1 << 16):
            await self._flows.wait()
            target.write(data)
            await target.drain()
        await self._flows.wait()
        target.close()
