"""Looks up the hosts of outputs, and refuses addresses that a service elsewhere has no output on."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from doitong_async.errors import DownloadError
from doitong_async.urls import Places, address_of, kind_of, kind_of_host

_fetched: Final = ContextVar[str]("doitong_fetched", default="")
"""The host that is fetched from: a session looks up those of the API and of proxies, too."""


class GuardedResolver(AbstractResolver):
    """What a session of ours looks hosts up with: it connects to the very addresses that were checked.

    A session of the user's has a resolver of its own; `lookup` is then asked before each connection, and an
    address that changes between the two is not seen. Behind a proxy it is the proxy that looks up.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._usual: AbstractResolver = aiohttp.DefaultResolver()

    @contextmanager
    def fetching(self, host: str) -> Iterator[None]:
        """Let what is looked up for a host be checked meanwhile."""
        _fetched.set(host)
        try:
            yield
        finally:
            # Not by its token: a loop that ends closes what is left in a context of its own.
            _fetched.set("")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            DownloadError: if it is fetched from, and one of them is refused.
        """
        found = await self._usual.resolve(host, port, family)
        if host == _fetched.get():
            await self._check(host, _kinds(found))
        return found

    async def close(self) -> None:
        """Let go of what it looks up with."""
        await self._usual.close()

    async def check(self, host: str) -> None:
        """See that a host that is an address, or this machine, may be fetched from.

        Raises:
            DownloadError: if it is refused.
        """
        if (kind := kind_of_host(host)) is not None:
            await self._check(host, {kind})

    async def lookup(self, host: str) -> None:
        """See that a host may be fetched from which another resolver will look up.

        Raises:
            DownloadError: if one of its addresses is refused.
        """
        if self._places.is_trusted(host) or address_of(host) is not None:
            return
        try:
            found = await self._usual.resolve(host, 0, socket.AF_UNSPEC)
        except (OSError, ValueError):
            # The other one may know it all the same.
            return
        await self._check(host, _kinds(found))

    async def _check(self, host: str, kinds: Iterable[str]) -> None:
        if self._places.is_trusted(host):
            return
        refused = set(kinds)
        if refused:
            refused -= await self._own_kinds()
        if refused:
            raise DownloadError(
                f"The URL of the output leads to a {min(refused)} address ({host}), which the API is not at; "
                "if it is meant, name the host in output_hosts.",
                is_remote=True,
            )

    async def _own_kinds(self) -> set[str]:
        own = self._places.own
        if (kind := kind_of_host(own)) is not None:
            return {kind}
        if address_of(own) is not None:
            return set()
        try:
            return _kinds(await self._usual.resolve(own, 0, socket.AF_UNSPEC))
        except (OSError, ValueError):
            return set()


def _kinds(found: Iterable[ResolveResult]) -> set[str]:
    addresses = (ipaddress.ip_address(each["host"].partition("%")[0]) for each in found)
    return {kind for address in addresses if (kind := kind_of(address)) is not None}
