"""Finds, from what was observed, whether the API is reached and takes the key."""

from __future__ import annotations

from typing import Final

from doitong_async.check.findings import Assumption, CheckOutcome, Finding, fails, holds, unknown
from doitong_async.check.observed import Observed, Probed, Route, Stage
from doitong_async.limits.headers import clock_ahead
from doitong_async.settings import Settings
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.forms import Form
from doitong_async.urls import address_of

CLOCK_AGREES: Final = 5.0
"""Seconds by which two clocks may differ: rounding and latency explain less."""
_NEVER_LEFT: Final = frozenset({FailureKind.NOT_SENT, FailureKind.UNUSABLE})


def connection_findings(seen: Observed, route: Route, settings: Settings) -> list[Finding]:
    """Return what is known of the way to the API, and of the key."""
    return [
        _address(seen, route, settings),
        _dns(seen, route),
        _tls(seen, route, settings),
        _proxy(seen, route),
        _clock(seen),
        _key(seen),
        _header(seen),
    ]


def _address(seen: Observed, route: Route, settings: Settings) -> Finding:
    probed, where = seen.single, f"{settings.base_url}{_path_of(seen, settings)}"
    if probed is None:
        return unknown(Assumption.ADDRESS, seen.missing)
    if probed.answer is None:
        return _unanswered(probed.came, route)
    if seen.is_alike:
        return _alike(seen, where)
    status = probed.answer.status
    if probed.is_api(seen.form):
        return holds(Assumption.ADDRESS, f"{where} answers (HTTP {status}, {probed.seconds:.1f} s)")
    if probed.is_misplaced and probed.failure is not None:
        detail = f"{where} is not the API's address: {probed.failure.message} Check base_url."
        return fails(Assumption.ADDRESS, detail, is_blocking=True)
    if isinstance(probed.body, dict | list):
        what = f"{where} answers HTTP {status} with JSON that is no answer of the API"
        return unknown(Assumption.ADDRESS, f"{what}: {probed.answer.excerpt}")
    return _page(probed, where, is_rest=seen.form is Form.REST)


def _path_of(seen: Observed, settings: Settings) -> str:
    return str(settings.status_path) if seen.form is Form.REST else "/graphql"


def _alike(seen: Observed, where: str) -> Finding:
    detail = f"{where} answers different requests alike"
    if seen.form is Form.REST:
        # A 404 for everything may come from an API that has no such path.
        return unknown(Assumption.ADDRESS, f"{detail}: whether it is the API does not show")
    return fails(Assumption.ADDRESS, f"{detail}, so it is not the API. Check base_url.", is_blocking=True)


def _unanswered(came: object, route: Route) -> Finding:
    message = came.message if isinstance(came, Failure) else ""
    if route.broken is Stage.CONNECT and route.proxy is None:
        return fails(
            Assumption.ADDRESS,
            f"nothing answers at {route.host}:{route.port}: {route.reason}. Check base_url and the network.",
            is_blocking=True,
        )
    return unknown(Assumption.ADDRESS, message)


def _page(probed: Probed, where: str, *, is_rest: bool) -> Finding:
    assert probed.answer is not None
    status = probed.answer.status
    kind = probed.headers.get("content-type", "no content type").partition(";")[0]
    what = f"{where} answers HTTP {status} with no JSON ({kind})"
    if status >= 500:
        return unknown(Assumption.ADDRESS, f"{what}: a gateway's page. Try again later.")
    settings = "base_url, status_path" if is_rest else "base_url"
    return fails(
        Assumption.ADDRESS,
        f"{what}: this is another server, a proxy or a captive portal, and not the API. Check {settings} and "
        "the network.",
        is_blocking=True,
    )


def was_sent(probed: Probed) -> bool:
    """Whether a request left for the API: then its host was found, and its certificate accepted."""
    return not (isinstance(probed.came, Failure) and probed.came.kind in _NEVER_LEFT)


def _dns(seen: Observed, route: Route) -> Finding:
    if seen.single is None:
        return unknown(Assumption.DNS, seen.missing)
    if route.broken is Stage.DNS:
        return fails(
            Assumption.DNS,
            f"{route.host} has no address here: {route.reason}. Check base_url, and the resolver of this "
            "machine.",
            is_blocking=True,
        )
    if route.proxy is not None:
        return unknown(Assumption.DNS, f"the proxy {route.proxy} resolves the host")
    if was_sent(seen.single) or route.broken is not None:
        is_literal = address_of(route.host) is not None
        return holds(
            Assumption.DNS, f"{route.host} is an address" if is_literal else f"{route.host} resolves"
        )
    return unknown(Assumption.DNS, "no request got through")


def _tls(seen: Observed, route: Route, settings: Settings) -> Finding:
    if not settings.base_url.startswith("https:"):
        return unknown(Assumption.TLS, "base_url is plain http: the key and the prompts travel unencrypted")
    if seen.single is None:
        return unknown(Assumption.TLS, seen.missing)
    if route.broken is Stage.TLS:
        return fails(
            Assumption.TLS,
            f"no secure connection to {route.host}: {route.reason}. If you trust its authority, pass ssl= a "
            "context that has it.",
            is_blocking=True,
        )
    if not was_sent(seen.single):
        return unknown(Assumption.TLS, "no request got through")
    if route.has_own_session:
        return unknown(Assumption.TLS, "your own session decides which certificates it accepts")
    return holds(Assumption.TLS, "the certificate is valid here")


def _proxy(seen: Observed, route: Route) -> Finding:
    if seen.single is None:
        return unknown(Assumption.PROXY, seen.missing)
    if route.proxy is None:
        if route.has_own_session:
            return unknown(Assumption.PROXY, "your own session may use one")
        return holds(Assumption.PROXY, "none is set")
    if was_sent(seen.single):
        return holds(Assumption.PROXY, f"requests go through {route.proxy}")
    came = seen.single.came
    message = route.reason or (came.message if isinstance(came, Failure) else "")
    return fails(Assumption.PROXY, f"nothing gets through {route.proxy}: {message}", is_blocking=True)


def _clock(seen: Observed) -> Finding:
    probed = seen.single
    if probed is None or not seen.is_of_api:
        return unknown(Assumption.CLOCK, seen.missing)
    ahead = clock_ahead(probed.headers, probed.at - probed.seconds / 2)
    if ahead is None:
        return unknown(Assumption.CLOCK, "the answer has no Date")
    if abs(ahead) <= CLOCK_AGREES + probed.seconds / 2:
        return holds(Assumption.CLOCK, "it agrees with the service's Date")
    word = "ahead of" if ahead > 0 else "behind"
    return fails(
        Assumption.CLOCK,
        f"this machine's clock is {abs(ahead):,.0f} s {word} the service's Date. Set it, as by NTP: the "
        "plan's day is counted by it.",
    )


def _key(seen: Observed) -> Finding:
    probed, stranger = seen.single, seen.stranger
    if probed is None or not seen.is_of_api:
        return unknown(Assumption.KEY, seen.missing)
    failure = probed.failure
    if failure is not None and failure.kind is FailureKind.AUTHENTICATION:
        return _refused(failure, seen)
    if failure is not None and failure.kind is FailureKind.RATE_LIMIT:
        return unknown(Assumption.KEY, failure.message)
    if stranger is None:
        return unknown(Assumption.KEY, f"no key that we made up was sent to compare: {seen.missing}")
    if stranger.is_refused:
        return holds(Assumption.KEY, "it is accepted, and one that we made up is refused")
    if stranger.answer is None:
        return unknown(Assumption.KEY, "the request with a key that we made up had no answer")
    return unknown(
        Assumption.KEY,
        "a poll with a key that we made up is answered just like one with yours, so polls prove nothing",
    )


def _refused(failure: Failure, seen: Observed) -> Finding:
    other = None if seen.stranger is None else seen.stranger.failure
    if other is not None and (other.http_status, other.code) != (failure.http_status, failure.code):
        return unknown(
            Assumption.KEY,
            f"a poll is refused with HTTP {failure.http_status}, but a key that we made up with HTTP "
            f"{other.http_status}: {failure.message}",
        )
    return fails(
        Assumption.KEY,
        f"it is refused (HTTP {failure.http_status}). {failure.message} Set DOITONG_API_KEY to a valid key.",
        is_blocking=not _works_elsewhere(seen),
    )


def _header(seen: Observed) -> Finding:
    """Return whether the header of the form in use works, and what is known of the other form's."""
    key, is_rest = _key(seen), seen.form is Form.REST
    mine, other = ("X-API-Key", "Authorization") if is_rest else ("Authorization", "X-API-Key")
    found = {
        CheckOutcome.HOLDS: "works",
        CheckOutcome.FAILS: "is refused",
        CheckOutcome.UNKNOWN: "shows in no answer to work",
    }
    detail = f"{mine} {found[key.outcome]}; {other} {_of_other_header(seen)}"
    if key.outcome is CheckOutcome.FAILS and not key.is_blocking:
        return fails(Assumption.HEADER, f"{detail}.", transport="graphql" if is_rest else "rest")
    return Finding(
        assumption=Assumption.HEADER, outcome=key.outcome, detail=detail, is_blocking=key.is_blocking
    )


def _of_other_header(seen: Observed) -> str:
    probed = seen.other
    if probed is None:
        return f"was not sent: {seen.missing}"
    if probed.answer is None:
        return "had no answer"
    if probed.is_refused:
        return f"is refused (HTTP {probed.answer.status})"
    if not _works_elsewhere(seen):
        return f"is answered as a made-up key is (HTTP {probed.answer.status})"
    return "works"


def _works_elsewhere(seen: Observed) -> bool:
    """Whether the key is accepted in the other header: there, a key that we made up is refused."""
    form = Form.GRAPHQL if seen.form is Form.REST else Form.REST
    mine, stranger = seen.other, seen.other_stranger
    is_answered = mine is not None and mine.is_api(form) and not mine.is_refused
    return is_answered and stranger is not None and stranger.is_refused
