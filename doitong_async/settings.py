"""The client's settings and arguments: their types, their defaults, the environment, and their checks."""

from __future__ import annotations

import difflib
import os
import re
import secrets
import ssl
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from pydantic import JsonValue

from doitong_async import catalog
from doitong_async.budget import Budget
from doitong_async.errors import BadRequestError, ConfigurationError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument, check_price
from doitong_async.secret import Sealed, Secret, hidden
from doitong_async.transport.forms import Form
from doitong_async.transport.status import StatusOperation, StatusPath, StatusQuery
from doitong_async.types import JobStatus, bare_word, checked_side
from doitong_async.urls import is_loopback, split_http
from doitong_async.webhooks.signature import Secrets

DEFAULT_BASE_URL: Final = "https://api.doitong.com"
STATUS_PATH: Final = "/v1/generations/{id}"
"""Where REST has a job (assumption: reference, "Unknown")."""
DOWNLOAD_TIMEOUT: Final = 3_600.0
"""Seconds that one output may take: our choice."""
MIN_DOWNLOAD_RATE: Final = 1_000.0
"""Bytes a second below which a download attempt fails: our choice."""
KEY_LIVES: Final = 86_400.0
"""Seconds for which the service remembers an idempotency key (assumption: 24 hours)."""
SHORTEST_INTERVAL: Final = 2.0
"""Seconds between polls in the documented loop; nothing here polls more often."""
_REDIS_URL: Final = re.compile(r"(redis|rediss|unix)://.", re.IGNORECASE)
_FIELD_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class OptionArguments(TypedDict, total=False):
    """Options of the client, which `with_options` can change for some calls.

    Keys:
        timeout: seconds to wait for a job, from its accepted submit; 600 by default.
        slot_timeout: seconds that a submit may wait for the plan or for a service that asks to wait
            (`Retry-After`); None, the default, sets no bound.
        wait_for_next_day: whether to wait when the day's jobs are used up; else `DailyLimitError`.
        request_timeout: seconds that one attempt of a submit may take; 60 by default.
        poll_timeout: seconds that one status poll may take; 10 by default.
        poll_interval: seconds between polls of a job; at least 2, the default.
        slot_expiry: seconds after which a job not known to have ended frees its slot; 600 by default.
        provider: for requests that name none; "flux-pro" by default.
        width: pixels, for pictures that give none; by default the service's own, 1024.
        height: pixels, for pictures that give none; by default the service's own, 1024.
    """

    timeout: float
    slot_timeout: float | None
    wait_for_next_day: bool
    request_timeout: float
    poll_timeout: float
    poll_interval: float
    slot_expiry: float
    provider: str
    width: int | None
    height: int | None


class RequestArguments(TypedDict, total=False):
    """The fields of `GenerateRequest` other than the prompt."""

    provider: str | None
    width: int | None
    height: int | None
    version: str | None
    quality: str | None
    type: str | None
    input: Mapping[str, JsonValue] | None
    options: Mapping[str, JsonValue] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may differ from call to call on one client: see `AsyncDoitong.with_options`."""

    timeout: float = 600.0
    slot_timeout: float | None = None
    wait_for_next_day: bool = False
    request_timeout: float = 60.0
    poll_timeout: float = 10.0
    poll_interval: float = SHORTEST_INTERVAL
    slot_expiry: float = 600.0
    provider: str = catalog.DEFAULT_PROVIDER
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "request_timeout", "poll_timeout", "slot_expiry"):
            _check_seconds(name, getattr(self, name), least=0.0)
        _check_seconds("poll_interval", self.poll_interval, least=SHORTEST_INTERVAL)
        if self.slot_timeout is not None:
            _check_seconds("slot_timeout", self.slot_timeout, least=0.0)
        for name in ("width", "height"):
            try:
                if (side := getattr(self, name)) is not None:
                    # As a plain number: it may be one of numpy's.
                    object.__setattr__(self, name, checked_side(name, side))
            except BadRequestError as error:
                raise ConfigurationError(error.message) from None
        if not isinstance(self.provider, str) or not self.provider.strip():
            raise ConfigurationError(f"provider is {self.provider!r}; expected a word such as 'flux-pro'.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What stays fixed for the life of a client; it shows neither the API key nor the webhook secret."""

    api_key: Sealed[Secret]
    base_url: str
    plan: Plan
    plan_is_assumed: bool
    polls_count: bool
    day_starts_at: float
    form: Form
    status_operation: StatusOperation
    status_path: StatusPath
    ssl: ssl.SSLContext | Literal[True]
    trust_env: bool
    proxy: Sealed[Secret] | None
    user_agent: str
    max_attempts: int
    resend_unanswered: bool
    max_download_bytes: int
    download_timeout: float
    min_download_rate: float
    allow_insecure_http: bool
    webhook_url: str | None
    webhook_secret: Sealed[Secrets] | None
    webhook_field: str
    failure_words: frozenset[str]
    output_hosts: Iterable[str] | None = None
    budget: Budget | None = None
    price: PriceArgument = None
    coordinator: Sealed[Any] | None = None

    @property
    def status_query(self) -> StatusQuery:
        """How the status of a job is asked for."""
        return self.status_path if self.form is Form.REST else self.status_operation


def settle(
    *,
    api_key: str | None,
    base_url: str | None,
    plan: Plan | str | None,
    status_operation: str,
    transport: str | None = None,
    status_path: str = STATUS_PATH,
    allow_insecure_http: bool,
    download_timeout: float = DOWNLOAD_TIMEOUT,
    min_download_rate: float = MIN_DOWNLOAD_RATE,
    failure_statuses: Iterable[str] = (),
    webhook_url: str | None = None,
    webhook_secret: Secrets | None = None,
    webhook_field: str = "webhookUrl",
    proxy: str | None = None,
    coordinator: object = None,
    **others: Any,
) -> Settings:
    """Return the settings: arguments first, then the environment, then the defaults.

    Raises:
        ConfigurationError: if a setting is invalid; the message names the first one.
    """
    api_key, webhook_secret, proxy = hidden(api_key), hidden(webhook_secret), hidden(proxy)
    key = api_key if api_key is not None else secret_of_environment("DOITONG_API_KEY")
    named = plan if plan is not None else os.environ.get("DOITONG_PLAN") or None
    secret = webhook_secret if webhook_secret is not None else secret_of_environment("DOITONG_WEBHOOK_SECRET")
    _check_session_settings(others["ssl"], others["user_agent"])
    if not isinstance(others["day_starts_at"], int | float) or not 0 <= others["day_starts_at"] < 86_400:
        raise ConfigurationError(
            f"day_starts_at is {others['day_starts_at']!r}; expected seconds after 00:00 UTC, below 86,400."
        )
    for name in ("max_attempts", "max_download_bytes"):
        value = others[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(f"{name} is {value!r}; expected a whole number above zero.")
    _check_seconds("download_timeout", download_timeout, least=0.0)
    check_price(others.get("price"))
    is_number = isinstance(min_download_rate, int | float) and not isinstance(min_download_rate, bool)
    if not is_number or not 0 <= min_download_rate <= sys.float_info.max:
        raise ConfigurationError(
            f"min_download_rate is {min_download_rate!r}; expected bytes a second, finite, zero or more."
        )
    return Settings(
        api_key=Sealed(checked_api_key(key)),
        base_url=root_of(base_url, allow_insecure_http=allow_insecure_http),
        plan=_checked_plan(named),
        plan_is_assumed=named is None,
        allow_insecure_http=allow_insecure_http,
        download_timeout=download_timeout,
        min_download_rate=min_download_rate,
        form=form_of(transport),
        status_operation=StatusOperation.parse(status_operation),
        status_path=StatusPath.parse(status_path),
        failure_words=_checked_failure_statuses(failure_statuses),
        webhook_url=_checked_webhook_url(webhook_url, has_secret=bool(secret)),
        # An empty argument is a mistake, which the code that reads the secret reports.
        webhook_secret=None if secret is None else Sealed(secret),
        webhook_field=_checked_webhook_field(webhook_field),
        proxy=None if proxy is None else Sealed(_checked_proxy(proxy)),
        coordinator=checked_coordinator(coordinator),
        **others,
    )


def checked_coordinator(coordinator: object) -> Sealed[Any] | None:
    """Return the URL of a Redis server, or the user's own client of one, or None if there is none.

    Raises:
        ConfigurationError: if it is something else.
    """
    coordinator = hidden(coordinator) if isinstance(coordinator, str) else coordinator
    if coordinator is None:
        coordinator = secret_of_environment("DOITONG_COORDINATOR")
    if coordinator is None or coordinator is False:
        return None
    is_client = callable(getattr(coordinator, "register_script", None))
    if is_client or (isinstance(coordinator, str) and _REDIS_URL.match(coordinator)):
        return Sealed(coordinator)
    # What was given may hold a password.
    raise ConfigurationError(
        "coordinator is not the address of a Redis server; expected a URL such as redis://cache:6379/0, or a "
        "redis.asyncio.Redis."
    )


def form_of(name: str | None) -> Form:
    """Return the form of the calls: as named, or as DOITONG_TRANSPORT says, or the default.

    Raises:
        ConfigurationError: if there is no such form.
    """
    name = name if name is not None else os.environ.get("DOITONG_TRANSPORT") or Form.GRAPHQL
    try:
        return Form(name)
    except ValueError:
        known = ", ".join(repr(form.value) for form in Form)
        raise ConfigurationError(f"transport is {name!r}; expected one of {known}.") from None


def _checked_failure_statuses(words: object) -> frozenset[str]:
    """Return more status words that mean failure, as `bare_word` returns them."""
    # A string is an iterable of strings too, but never what the user means here.
    listed = list(words) if isinstance(words, Iterable) and not isinstance(words, str | bytes) else [None]
    texts = [word for word in listed if isinstance(word, str) and bare_word(word)]
    if len(texts) < len(listed):
        raise ConfigurationError(
            f"failure_statuses is {words!r}; expected several words, as in ('withdrawn', 'timed_out')."
        )
    for word in texts:
        if (status := JobStatus(word)).is_known and not status.is_failure:
            raise ConfigurationError(f"failure_statuses has {word!r}, known to be no failure; leave it out.")
    return frozenset(map(bare_word, texts))


def secret_of_environment(name: str) -> Secret | None:
    """Return a secret from an environment variable, stripped of white space; None if it is blank.

    No frame here holds the whole environment: its repr shows every secret in it.
    """
    return Secret(os.environ.get(name, "").strip()) or None


def _check_session_settings(context: object, user_agent: object) -> None:
    if context is not True and not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(f"ssl is {context!r}; expected True or an ssl.SSLContext with your own CA.")
    is_plain = isinstance(user_agent, str) and user_agent.isascii() and user_agent.isprintable()
    if not is_plain or not user_agent:
        raise ConfigurationError(f"user_agent is {user_agent!r}; expected printable ASCII.")


def checked_api_key(key: object) -> Secret:
    """Return an API key that can be sent.

    Raises:
        ConfigurationError: if it is missing, or no key.
    """
    key = hidden(key)
    if key is None or key == "":
        raise ConfigurationError("There is no API key; give api_key=… or set DOITONG_API_KEY.")
    # Show neither the length nor any part of the key: messages end up in logs.
    if not isinstance(key, Secret) or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("api_key is no key: expected printable ASCII characters without spaces.")
    return key


def root_of(base_url: str | None, *, allow_insecure_http: bool = False) -> str:
    """Return the root of the API: the argument, the environment variable or the default.

    Raises:
        ConfigurationError: if it is no root URL, or the key could be read in transit.
    """
    url = base_url if base_url is not None else os.environ.get("DOITONG_BASE_URL") or DEFAULT_BASE_URL
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise ConfigurationError(f"base_url is {url!r}; expected a root such as {DEFAULT_BASE_URL!r}.")
    if "@" in url:
        # Before any message that shows the URL.
        raise ConfigurationError("base_url has a user or a password; expected only scheme, host and path.")
    parts = split_http(url)
    if parts is None:
        raise ConfigurationError(f"base_url is {url!r}; expected a root such as {DEFAULT_BASE_URL!r}.")
    if parts.query or parts.fragment:
        raise ConfigurationError("base_url has a query or a fragment; expected only scheme, host and path.")
    root = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    if root.endswith("/graphql"):
        raise ConfigurationError(f"base_url is {url!r}; expected the root; the client adds /graphql.")
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not allow_insecure_http:
        raise ConfigurationError(
            f"base_url is {url!r}: over plain http others can read the API key. "
            "Use https, or allow_insecure_http=True if you accept that."
        )
    return root


def _checked_webhook_url(url: object, *, has_secret: bool) -> str | None:
    if url is None:
        return None
    expected = "expected a public URL such as 'https://example.com/doitong/'"
    if isinstance(url, str) and "@" in url:
        # Before any message that shows the URL: it may contain a password.
        raise ConfigurationError(f"webhook_url has a user, or an @; {expected}.")
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise ConfigurationError(f"webhook_url is {url!r}; {expected}.")
    parts = split_http(url)
    if parts is None:
        raise ConfigurationError(f"webhook_url is {url!r}; {expected}.")
    if parts.fragment:
        raise ConfigurationError(f"webhook_url has a fragment; {expected}.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigurationError(
            f"webhook_url is {url!r}: over plain http others can read your outputs. Use https; http is only "
            "for this machine."
        )
    if not has_secret:
        raise ConfigurationError(
            "webhook_url is set, but no webhook secret, which is needed to detect forged webhooks. Give "
            "webhook_secret=… or set DOITONG_WEBHOOK_SECRET."
        )
    return url


def _checked_webhook_field(path: object) -> str:
    if not isinstance(path, str) or not _FIELD_PATH.fullmatch(path):
        raise ConfigurationError(
            f"webhook_field is {path!r}; expected the path of the URL in the input of the mutation, such as "
            "'webhookUrl' or 'options.webhookUrl'."
        )
    return path


def _checked_proxy(proxy: object) -> Secret:
    """Return a proxy's URL; it may hold a user and a password, so no message shows it."""
    text = hidden(proxy)
    if not isinstance(text, Secret) or not text.isprintable() or " " in text or split_http(text) is None:
        raise ConfigurationError(
            "proxy is no URL of a proxy; expected one such as 'http://proxy.example:3128'."
        )
    return text


def _checked_plan(plan: object) -> Plan:
    if plan is None:
        return Plan.FREE
    if isinstance(plan, str):
        return Plan.named(plan)
    if not isinstance(plan, Plan):
        raise ConfigurationError(f"plan is {plan!r}; expected Plan.FREE, Plan.enterprise(…) or a name.")
    return plan


def _check_seconds(name: str, value: float, *, least: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and value > 0 and least <= value <= sys.float_info.max:
        return
    bound = f"at least {least:g}" if least else "above zero"
    raise ConfigurationError(f"{name} is {value!r}; expected seconds, a finite number {bound}.")


def check_options(options: Any, *, taker: str, fixed: Collection[str]) -> None:
    """Reject keywords that are no options, without showing their values: a misspelt `api_key` holds the key.

    Args:
        options: the keywords as passed; emptied before an error, as a traceback shows the caller's frame too.
        taker: the name of the function they were passed to.
        fixed: the keywords that only the client itself takes.

    Raises:
        TypeError: if a keyword is unknown; the message suggests the nearest known one.
        ConfigurationError: if a keyword belongs to the client and is no option.
    """
    unknown = sorted(options.keys() - OptionArguments.__annotations__.keys())
    if not unknown:
        return
    options.clear()
    misspelt = next((name for name in unknown if name not in fixed), None)
    if misspelt is not None:
        near = difflib.get_close_matches(misspelt, [*fixed, *OptionArguments.__annotations__], 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{taker}() got an unexpected keyword argument {misspelt!r}.{hint}")
    raise ConfigurationError(
        f"with_options cannot change {', '.join(unknown)}; it changes "
        f"{', '.join(OptionArguments.__annotations__)}. Open another client for the rest."
    )


def check_fields(fields: Any, *, taker: str) -> None:
    """Reject keywords that are no fields of a request, without showing their values.

    Args:
        fields: the keywords as passed; emptied before an error, as a traceback shows the caller's frame too.
        taker: the name of the function they were passed to.

    Raises:
        TypeError: if a keyword is unknown; the message suggests the nearest known one.
    """
    unknown = sorted(fields.keys() - RequestArguments.__annotations__.keys())
    if unknown:
        fields.clear()
        near = difflib.get_close_matches(unknown[0], RequestArguments.__annotations__, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{taker}() got an unexpected keyword argument {unknown[0]!r}.{hint}")


def new_idempotency_key() -> str:
    """Return a random key that no other job has."""
    return secrets.token_urlsafe(24)


def checked_idempotency_key(key: str | None) -> str:
    """Return the idempotency key of one job, a random one if none is given.

    Raises:
        BadRequestError: if it cannot be sent.
    """
    if key is None:
        return new_idempotency_key()
    if not isinstance(key, str) or not key.strip() or not key.isascii() or not key.isprintable():
        raise BadRequestError(f"idempotency_key is {key!r}; expected printable ASCII characters.")
    return key
