"""Refuses downloads from addresses that are not public, unless the user trusts the host."""

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
"""The host being fetched from: a session also resolves the hosts of the API and of proxies."""


class GuardedResolver(AbstractResolver):
    """The resolver of our own session, which connects to exactly the addresses that were checked.

    A session of the user's has its own resolver: `lookup` then runs before each connection and misses an
    address that changes in between. Behind a proxy, the proxy resolves the host.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._default: AbstractResolver = aiohttp.DefaultResolver()

    @contextmanager
    def fetching(self, host: str) -> Iterator[None]:
        """Check the addresses that are resolved for this host within the block."""
        _fetched.set(host)
        try:
            yield
        finally:
            # Not by its token: a loop that ends closes pending generators in another context.
            _fetched.set("")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            DownloadError: if outputs are being fetched from the host and an address is not allowed.
        """
        found = await self._default.resolve(host, port, family)
        if host == _fetched.get():
            await self._check(host, _kinds(found))
        return found

    async def close(self) -> None:
        """Close the underlying resolver."""
        await self._default.close()

    async def check(self, host: str) -> None:
        """Check a host that is an address or this machine.

        Raises:
            DownloadError: if outputs may not be fetched from it.
        """
        if (kind := kind_of_host(host)) is not None:
            await self._check(host, {kind})

    async def lookup(self, host: str) -> None:
        """Check the addresses of a host that another resolver will resolve.

        Raises:
            DownloadError: if one of its addresses is not allowed.
        """
        if self._places.is_trusted(host) or address_of(host) is not None:
            return
        try:
            found = await self._default.resolve(host, 0, socket.AF_UNSPEC)
        except (OSError, ValueError):
            # The other resolver may know the host all the same.
            return
        await self._check(host, _kinds(found))

    async def _check(self, host: str, kinds: Iterable[str]) -> None:
        if self._places.is_trusted(host):
            return
        forbidden = set(kinds)
        if forbidden:
            forbidden -= await self._own_kinds()
        if forbidden:
            raise DownloadError(
                f"The URL of the output leads to a {min(forbidden)} address ({host}), "
                "which the API is not at; if you trust it, name the host in output_hosts.",
                is_remote=True,
            )

    async def _own_kinds(self) -> set[str]:
        own = self._places.own
        if (kind := kind_of_host(own)) is not None:
            return {kind}
        if address_of(own) is not None:
            return set()
        try:
            return _kinds(await self._default.resolve(own, 0, socket.AF_UNSPEC))
        except (OSError, ValueError):
            return set()


def _kinds(found: Iterable[ResolveResult]) -> set[str]:
    addresses = (ipaddress.ip_address(each["host"].partition("%")[0]) for each in found)
    return {kind for address in addresses if (kind := kind_of(address)) is not None}
