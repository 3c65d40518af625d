"""Decides which output URLs in a webhook are believed; downloads are not limited by it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Final, Self

from doitong_async.errors import ConfigurationError
from doitong_async.types import Generation
from doitong_async.urls import is_here, is_loopback, split_http

DOCUMENTED: Final = ("cdn.doitong.com",)
"""The host of the outputs (reference, "Endpoints and keys")."""

_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", re.ASCII)
_AUTHORITY: Final = re.compile(rf"({_HOST.pattern})(:[0-9]*)?", re.ASCII)


class OutputHosts:
    """The hosts whose URLs we accept from a webhook.

    Args:
        names: host names or addresses, without port; a name does not include its subdomains.
        loopback: whether this machine is one of them, over plain http too: for a service on loopback.

    Raises:
        ConfigurationError: if a name is not a host.
    """

    def __init__(self, names: Iterable[str] = DOCUMENTED, *, loopback: bool = False) -> None:
        several = (names,) if isinstance(names, str) else tuple(names)
        for name in several:
            if not isinstance(name, str) or not _HOST.fullmatch(name.lower()):
                raise ConfigurationError(
                    f"output_hosts has {name!r}; expected host names such as {DOCUMENTED[0]!r}, without "
                    "scheme, port and path."
                )
        self._names = frozenset(name.lower().strip("[]") for name in several)
        self._loopback = loopback

    @classmethod
    def of_service(cls, names: Iterable[str] | None, base_url: str) -> Self:
        """Return the given hosts, or the documented one; and this machine for a service on loopback.

        Raises:
            ConfigurationError: if a name is not a host.
        """
        return cls(DOCUMENTED if names is None else names, loopback=is_here(base_url))

    def allows(self, url: str) -> bool:
        """Whether a URL may be an output's: https, on one of the hosts, without user info."""
        if not url.isprintable() or " " in url:
            return False
        parts = split_http(url)
        if parts is None:
            return False
        # Exactly a host and a port: other URL parsers must not read another host.
        authority = _AUTHORITY.fullmatch(parts.netloc.lower())
        if authority is None:
            return False
        host = authority[1].strip("[]")
        if self._loopback and is_loopback(host):
            return True
        return parts.scheme == "https" and host in self._names

    def believed(self, update: Generation) -> Generation:
        """Return the update without a URL that is not allowed; a completed job is then polled once."""
        if update.url is None or self.allows(update.url):
            return update
        return dataclasses.replace(update, url=None)
