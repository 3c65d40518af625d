"""Keeps the shared state of a key at a Redis server; the only module that knows Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from doitong_async.errors import ConfigurationError
from doitong_async.log import log

if TYPE_CHECKING:
    from redis.asyncio import Redis

TIMEOUT: Final = 1.0
"""Seconds for one command: our choice. With redis-py's own defaults, one on a frozen server takes 58."""
_LISTEN_MS: Final = 2_000
"""Milliseconds for which one command waits for news: our choice."""
_LISTEN_BRIEFLY_MS: Final = 500
"""The same, by a client of the user's own, which may give up on a command after a second."""
_MOST_READ: Final = 256
_EXPIRES_MS: Final = 2 * 86_400 * 1_000
"""Milliseconds after which all is forgotten if nobody uses the key: longer than any day of the service."""

_SCRIPT: Final = """
-- Replace the state if it is still the one that the caller knows, and tell the time.
--
-- KEYS  state, signs of life, news
-- ARGV  caller, its version, the new one ('' for none), the new state, whom to tell, its clock, expiry (ms)
local time = redis.call('TIME')
local wall = time[1] + time[2] / 1000000
local known = redis.call('HMGET', KEYS[1], 'version', 'last', 'ahead')
local version, last, ahead = known[1] or '', tonumber(known[2] or ARGV[6]), tonumber(known[3] or '0')
-- The clock never goes back: a step of the server's clock is made up for.
if wall + ahead < last then ahead = last - wall end
local now = wall + ahead
local accepted, state = 0, false
if ARGV[3] ~= '' and version == ARGV[2] then
  redis.call('HSET', KEYS[1], 'version', ARGV[3], 'state', ARGV[4])
  version, accepted = ARGV[3], 1
  if ARGV[5] ~= '' then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', '256', '*', 'for', ARGV[5])
    redis.call('PEXPIRE', KEYS[3], ARGV[7])
  end
elseif version ~= ARGV[2] then
  state = redis.call('HGET', KEYS[1], 'state')
end
redis.call('HSET', KEYS[1], 'last', string.format('%.6f', now), 'ahead', string.format('%.6f', ahead))
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.6f', now))
local beats = redis.call('HGETALL', KEYS[2])
for index = 1, #beats, 2 do
  if tonumber(beats[index + 1]) < now - 3600 then redis.call('HDEL', KEYS[2], beats[index]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return {accepted, string.format('%.6f', now), version, state, beats}
"""


_READ: Final = """
-- Tell the time and what there is, and change nothing.
--
-- KEYS  state, signs of life
local time = redis.call('TIME')
local known = redis.call('HMGET', KEYS[1], 'version', 'state', 'last', 'ahead')
local now = time[1] + time[2] / 1000000 + tonumber(known[4] or '0')
if known[3] then now = math.max(now, tonumber(known[3])) end
return {string.format('%.6f', now), known[1] or '', known[2], redis.call('HGETALL', KEYS[2])}
"""


class UnreachableError(Exception):
    """Redis did not answer, or not as it should; `is_final` is whether asking again is in vain."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Reply:
    """What Redis said.

    Attributes:
        accepted: whether it took the new state.
        now: its clock.
        version: of the state that it has now; "" if it has none.
        state: what it has, if that is not what the caller knows.
        beats: when each process was last heard of.
    """

    accepted: bool
    now: float
    version: str
    state: str | None
    beats: dict[str, float]


class Store:
    """The state of one key at one server.

    Args:
        coordinator: the URL of the server, or a client of the user's own, which is not closed.
        name: a digest of the key, and of the address for which it is valid.

    Raises:
        ConfigurationError: if redis is not installed, or the URL is none.
    """

    def __init__(self, coordinator: str | Redis, name: str) -> None:
        redis, self._failures, self._finals = _redis()
        self._is_own = isinstance(coordinator, str)
        if isinstance(coordinator, str):
            self._client = _client(redis, coordinator, timeout=TIMEOUT)
            # A command that waits for news must not time out.
            self._listener, self._listen_ms = _client(redis, coordinator, timeout=None), _LISTEN_MS
        else:
            self._client = self._listener = coordinator
            self._listen_ms = _LISTEN_BRIEFLY_MS
        tag = f"doitong:{{{name}}}"
        self._keys = [f"{tag}:state", f"{tag}:signs", f"{tag}:news"]
        self._script = self._client.register_script(_SCRIPT)
        self._reading = self._client.register_script(_READ)
        self._cursor: str | bytes | None = None

    async def exchange(
        self,
        me: str,
        *,
        version: str,
        now: float,
        new: tuple[str, str] | None = None,
        tell: Iterable[str] = (),
    ) -> Reply:
        """Replace the state if `version` is still the one there is; in any case say what there is.

        Args:
            me: the process that asks.
            version: that it knows.
            now: its estimate of the server's clock.
            new: the new version and state, if it wants to replace it.
            tell: the processes that should ask what is new.

        Raises:
            UnreachableError: if the server does not answer; it may have replaced the state.
        """
        new_version, state = new or ("", "")
        arguments = [me, version, new_version, state, ",".join(tell), f"{now:.6f}", _EXPIRES_MS]
        async with self._answering():
            answer = await self._script(keys=self._keys, args=arguments)
        accepted, *rest = answer
        return _reply(rest, accepted=bool(accepted))

    async def read(self) -> Reply:
        """Return what there is, for one who takes no part: it writes nothing, not even a sign of life.

        Raises:
            UnreachableError: if the server does not answer.
        """
        async with self._answering():
            answer = await self._reading(keys=self._keys[:2], args=[])
        return _reply(answer, accepted=False)

    async def listen(self) -> list[str]:
        """Wait for news, for a while at most, and return the processes that they are for.

        Raises:
            UnreachableError: if the server does not answer.
        """
        stream = self._keys[2]
        async with self._answering(self._listen_ms / 1_000 + TIMEOUT):
            if self._cursor is None:
                last = await self._listener.xrevrange(stream, count=1)
                self._cursor = last[0][0] if last else "0-0"
            found: Any = await self._listener.xread({stream: self._cursor}, _MOST_READ, self._listen_ms)
        names: list[str] = []
        for _, entries in found.items() if isinstance(found, dict) else found or ():
            for self._cursor, fields in _entries(entries):
                names += [name for text in fields.values() for name in _text(text).split(",")]
        return names

    async def warn_of_eviction(self) -> None:
        """Log a warning if the server may drop what it should keep."""
        policy = "noeviction"
        # Hosted servers may forbid the question.
        with suppress(UnreachableError):
            async with self._answering():
                policy = (await self._client.info("memory")).get("maxmemory_policy", policy)
        if policy != "noeviction":
            log.warning(
                "The coordinator's maxmemory-policy is %s, so Redis may drop the state of the key. Set it to "
                "noeviction.",
                policy,
            )

    async def aclose(self) -> None:
        """Close the connections, unless they are the user's."""
        if self._is_own:
            await self._listener.aclose()
            await self._client.aclose()

    @asynccontextmanager
    async def _answering(self, seconds: float = TIMEOUT) -> AsyncIterator[None]:
        """Bound a command, and name what keeps it from an answer."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except self._failures as error:
            _check_cancelled()
            reason = str(error) or type(error).__name__
            raise UnreachableError(reason, is_final=isinstance(error, self._finals)) from None
        _check_cancelled()


def _reply(answer: Any, *, accepted: bool) -> Reply:
    clock, version, found, beats = answer
    pairs = iter(beats)
    return Reply(
        accepted=accepted,
        now=float(clock),
        version=_text(version),
        state=None if found is None else _text(found),
        beats={_text(name): float(at) for name, at in zip(pairs, pairs, strict=True)},
    )


def _check_cancelled() -> None:
    """Raise a cancellation that was lost: redis-py does that while a command is being sent (Python 3.11)."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _entries(entries: Any) -> Any:
    # Redis's newer protocol, which a client of the user's own may speak, has one more list around them.
    return entries[0] if entries and isinstance(entries[0], list) else entries


def _text(value: str | bytes) -> str:
    # A client of the user's own may decode answers.
    return value.decode() if isinstance(value, bytes) else value


def _client(redis: Any, url: str, *, timeout: float | None) -> Any:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        client = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT,
            # Whoever waits here is told; we try again by ourselves.
            retry=Retry(NoBackoff(), 0),
        )
        # Not as an argument: one in the URL would go before it.
        client.connection_pool.connection_kwargs["socket_timeout"] = timeout
        return client
    except ValueError:
        # The message may quote a part of the password.
        raise ConfigurationError(
            "coordinator is no URL of a Redis server; expected one such as "
            "redis://user:password@host:6379/0, with special characters in the password escaped."
        ) from None


def _redis() -> tuple[Any, tuple[type[BaseException], ...], tuple[type[BaseException], ...]]:
    """Import redis, and return it with its errors: all, and those that will not pass."""
    try:
        import redis
        import redis.asyncio
    except ImportError:
        raise ConfigurationError(
            "A coordinator needs redis; install it: pip install 'doitong-async[redis]'."
        ) from None
    failures = (redis.RedisError, OSError, TimeoutError)
    finals = (redis.AuthenticationError, redis.exceptions.NoPermissionError, redis.exceptions.InvalidResponse)
    return redis, failures, finals
