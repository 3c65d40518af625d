"""Finds, from what one's own webhook receiver answered, whether webhooks can arrive."""

from __future__ import annotations

from doitong_async.check.findings import Assumption, Finding, fails, holds, unknown
from doitong_async.check.observed import Reached, ReceiverSeen
from doitong_async.settings import Settings
from doitong_async.urls import kind_of_host, split_http

_ACCEPTED = 204
_UNSIGNED = 401
_LATER = 503
_REDIRECTS = range(300, 400)


def receiver_findings(seen: ReceiverSeen | None, settings: Settings) -> list[Finding]:
    """Return what is known of the webhooks; `seen` is None if no event was sent."""
    if settings.webhook_url is None or seen is None:
        why = (
            "webhook_url is not set: jobs are polled" if settings.webhook_url is None else "no event was sent"
        )
        return [
            unknown(Assumption.WEBHOOK_URL, why),
            _secret(settings),
            unknown(Assumption.WEBHOOK_EVENT, why),
        ]
    return [_url(seen, settings.webhook_url, settings.base_url), _secret(settings), _event(seen)]


def _secret(settings: Settings) -> Finding:
    if settings.webhook_secret is not None:
        return holds(Assumption.WEBHOOK_SECRET, "it is set")
    return unknown(Assumption.WEBHOOK_SECRET, "it is not set, and only webhooks need it")


def _url(seen: ReceiverSeen, url: str, base_url: str) -> Finding:
    host, forged = _host_of(url), seen.forged
    kind = kind_of_host(host)
    if kind is not None and kind_of_host(_host_of(base_url)) is None:
        detail = (
            f"{host} is a {kind} address, which the service cannot reach. Set webhook_url to a public URL."
        )
        return fails(Assumption.WEBHOOK_URL, detail)
    if forged.status is None:
        detail = f"nothing answers at {url} from here: {forged.reason}. Is your receiver running?"
        return fails(Assumption.WEBHOOK_URL, detail)
    if forged.status in _REDIRECTS:
        return _redirected(forged, url)
    if forged.status == _UNSIGNED:
        return holds(Assumption.WEBHOOK_URL, "a receiver answers there, seen from here")
    if 200 <= forged.status < 300:
        return unknown(Assumption.WEBHOOK_URL, "something answers there, but not as a receiver does")
    detail = f"{url} answers HTTP {forged.status}: no receiver is mounted there."
    return fails(Assumption.WEBHOOK_URL, detail)


def _redirected(forged: Reached, url: str) -> Finding:
    detail = f"{url} redirects (HTTP {forged.status}), which the service may not follow."
    # A mount without its final slash is the usual reason; any other target is for the user to judge.
    if forged.location is not None and forged.location.endswith(f"{split_path(url)}/"):
        return fails(Assumption.WEBHOOK_URL, detail, webhook_url=f"{url}/")
    return fails(Assumption.WEBHOOK_URL, f"{detail} Set webhook_url to where it leads.")


def split_path(url: str) -> str:
    """Return the path of a URL."""
    parts = split_http(url)
    return "" if parts is None else parts.path


def _host_of(url: str) -> str:
    parts = split_http(url)
    return "" if parts is None else (parts.hostname or "").lower()


def _event(seen: ReceiverSeen) -> Finding:
    forged, signed = seen.forged, seen.signed
    if forged.status is not None and 200 <= forged.status < 300:
        return fails(
            Assumption.WEBHOOK_EVENT,
            f"an event with a wrong signature is accepted (HTTP {forged.status}): whatever answers there "
            "verifies nothing.",
        )
    if signed is None or forged.status != _UNSIGNED:
        return unknown(Assumption.WEBHOOK_EVENT, "no receiver answered")
    if signed.status == _ACCEPTED:
        return holds(
            Assumption.WEBHOOK_EVENT,
            "the receiver took a signed event, and refused one with a wrong signature",
        )
    if signed.status == _UNSIGNED:
        return fails(
            Assumption.WEBHOOK_EVENT,
            "the receiver refuses an event signed with this webhook secret: it has another one. Give both "
            "the same DOITONG_WEBHOOK_SECRET.",
        )
    if signed.status == _LATER:
        why = "the receiver answers HTTP 503: its client is not open, or its on_event failed"
        return unknown(Assumption.WEBHOOK_EVENT, why)
    what = signed.reason if signed.status is None else f"HTTP {signed.status}"
    return unknown(Assumption.WEBHOOK_EVENT, f"the signed event was not taken: {what}")
