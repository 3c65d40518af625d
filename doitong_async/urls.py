"""Parses URLs, knows which addresses are not public, and which hosts the user trusts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from yarl import URL

from doitong_async.errors import DownloadError

Address: TypeAlias = IPv4Address | IPv6Address

LOOPBACK: Final = "loopback"
_KINDS: Final = {
    LOOPBACK: ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "private": (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15"),
        *("fc00::/7", "fec0::/10", "64:ff9b:1::/48"),
    ),
    "unspecified": ("0.0.0.0/8", "::/128"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4",),
}
_NETWORKS: Final = [(ipaddress.ip_network(net), kind) for kind, nets in _KINDS.items() for net in nets]
# IPv6 addresses that stand for the IPv4 address in their last 32 bits: mapped, translated, NAT64, compatible.
_EMBEDDING: Final = [
    ipaddress.IPv6Network(net) for net in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "::/96")
]
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SHAPE: Final = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:@\[\]]+)(?::([0-9]{0,5}))?")
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")
_NOT_SENT: Final = re.compile(r"[^\x21-\x7e]+")
"""What a request line cannot contain: spaces, control characters and non-ASCII letters."""


@dataclass(frozen=True, slots=True)
class Places:
    """The hosts that a client may fetch outputs from.

    Args:
        own: the host of the API.
        named: the hosts in `output_hosts`.
        is_http_allowed: whether outputs on the API's own host may be fetched over plain http.
    """

    own: str
    named: frozenset[str] = frozenset()
    is_http_allowed: bool = False

    @classmethod
    def of_service(cls, base_url: str, names: Iterable[str] | None, *, allow_insecure_http: bool) -> Places:
        """Return the hosts for a client with these settings, already checked."""
        several = (names,) if isinstance(names, str) else names or ()
        named = frozenset(_host_of(name.strip("[]").lower()) or "" for name in several)
        parts = split_http(base_url)
        host = "" if parts is None else parts.hostname or ""
        return cls(_host_of(host) or host, named, allow_insecure_http)

    def is_trusted(self, host: str) -> bool:
        """Whether the user chose this host: its addresses are not checked."""
        return host == self.own or host in self.named

    def checked(self, url: str | None) -> URL:
        """Return the URL of an output as sent on the wire: byte for byte as issued.

        Raises:
            DownloadError: if it is no URL, or would be fetched over plain http.
        """
        if url is None:
            raise DownloadError("The service gave no URL for this job.", is_remote=True)
        wire = _wire(url)
        if wire is None:
            raise DownloadError(
                f"The URL of the output is no address to fetch: {url[:200]!r}.", is_remote=True
            )
        host = wire.raw_host or ""
        is_own_http = self.is_http_allowed and host == self.own
        if wire.scheme == "http" and kind_of_host(host) != LOOPBACK and not is_own_http:
            raise DownloadError(f"The URL of the output is not https: {url[:200]!r}.", is_remote=True)
        return wire


def split_http(url: str) -> SplitResult | None:
    """Return the parts of an http or https URL with a host and a usable port; None for anything else."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable else None


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this machine."""
    return host is not None and kind_of_host(host.lower()) == LOOPBACK


def is_here(url: str) -> bool:
    """Whether a URL leads to this machine."""
    parts = split_http(url)
    return parts is not None and is_loopback(parts.hostname)


def joined(url: URL, location: str) -> str:
    """Return the target of a redirect, with its bytes unchanged."""
    try:
        return location if _SCHEME.match(location) else urljoin(str(url), location)
    except ValueError:
        return location


def kind_of_host(host: str) -> str | None:
    """Return the kind of a host that is an address or this machine; None for all others."""
    if host == "localhost" or host.endswith(".localhost"):
        return LOOPBACK
    address = address_of(host)
    return None if address is None else kind_of(address)


def kind_of(address: Address) -> str | None:
    """Return the kind of a non-public address, or None for a public one."""
    if isinstance(address, IPv6Address) and (inner := _embedded(address)) is not None:
        return kind_of(inner)
    return next((kind for network, kind in _NETWORKS if address in network), None)


def address_of(host: str) -> Address | None:
    """Return the address that a host is, in any spelling that systems accept; None for a name."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return _old_spelling(bare)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    is_own = int(address) <= 1  # "::" and "::1"
    if not is_own and any(address in network for network in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _old_spelling(host: str) -> IPv4Address | None:
    """Read an IPv4 address as `inet_aton` does: decimal, octal or hexadecimal, in one to four parts."""
    parts = host.removesuffix(".").split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        *upper, last = (_number(part) for part in parts)
    except ValueError:
        return None
    bits = 8 * (4 - len(upper))
    if any(part > 255 for part in upper) or last >= 1 << bits:
        return None
    value = last
    for index, part in enumerate(upper):
        value |= part << (24 - 8 * index)
    return IPv4Address(value)


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)


def _wire(url: str) -> URL | None:
    shape = _SHAPE.fullmatch(url.strip())
    authority = _AUTHORITY.fullmatch(shape[2]) if shape else None
    if shape is None or authority is None:
        return None
    host = _host_of(authority[1].lower())
    port = int(authority[2]) if authority[2] else None
    if host is None or port == 0 or (port or 0) > 65_535:
        return None
    try:
        # Header bytes that are no UTF-8 are kept as they are.
        rest = _NOT_SENT.sub(lambda odd: quote(odd[0], safe="", errors="surrogateescape"), shape[3])
    except UnicodeEncodeError:
        return None
    bracketed = f"[{host}]" if ":" in host else host
    return URL(f"{shape[1].lower()}://{bracketed}{'' if port is None else f':{port}'}{rest}", encoded=True)


def _host_of(host: str) -> str | None:
    """Return a host as resolvers need it: an address in its usual spelling or an ASCII name; else None."""
    if not host.isascii():
        try:
            host = URL.build(scheme="https", host=host).raw_host or ""
        except ValueError:
            return None
    address = address_of(host)
    if address is not None:
        return str(address)
    labels = host.removesuffix(".").split(".")
    is_name = len(host) <= 254 and all(_LABEL.fullmatch(label) for label in labels)
    return host if is_name else None
