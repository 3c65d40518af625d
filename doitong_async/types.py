"""The data types: what a user requests, and what the service reports about a job."""

from __future__ import annotations

import json
import operator
import re
import unicodedata
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, JsonValue
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import CoreSchema, core_schema

from doitong_async import catalog
from doitong_async.errors import BadRequestError, DoitongWarning
from doitong_async.unicode import is_unicode

MAX_SIDE: Final = 16_384
"""Pixels; we assume that no model makes more, so that a typing error costs nothing."""


class MediaType(StrEnum):
    """The types that the reference shows; others pass through as plain strings."""

    IMAGE = "IMAGE"
    VIDEO = "VIDEO"
    AVATAR = "AVATAR"
    AUDIO = "AUDIO"


class JobStatus(StrEnum):
    """A status word: an open set, of which the reference shows `processing` and `completed`.

    The other members are our assumption, and so are the words in `FAILURE_WORDS`: such a status is a failure
    and keeps the service's spelling. Any other unknown word counts as waiting, so that no paid job is given
    up for a new word.
    """

    QUEUED = "queued"
    PENDING = "pending"
    STARTING = "starting"
    PROCESSING = "processing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @classmethod
    def _missing_(cls, value: object) -> JobStatus:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"a status is a word, not {value!r}")
        known = cls._value2member_map_.get(value.strip().lower())
        if isinstance(known, cls):
            return known
        return _as_spelled(value, is_failure=bare_word(value) in FAILURE_WORDS)

    def __reduce_ex__(self, proto: object) -> tuple[Any, ...]:
        # Whether a word is a failure may depend on a setting, which is not pickled with it.
        if self._name_ in _SPELLED:
            return _as_spelled, (self._value_, self.is_failure)
        return JobStatus, (self._value_,)

    @property
    def is_known(self) -> bool:
        """Whether this client knows what the word means."""
        return self._name_ != _UNKNOWN

    @property
    def is_success(self) -> bool:
        """Whether the job ended with an output."""
        return self is JobStatus.COMPLETED

    @property
    def is_failure(self) -> bool:
        """Whether the job ended without an output."""
        return self._name_ == _FAILURE or self._value_ in _FAILURES

    @property
    def is_terminal(self) -> bool:
        """Whether the job is over."""
        return self._name_ == _FAILURE or self._value_ in _TERMINAL


def bare_word(word: str) -> str:
    """Normalise a status word for comparison: lower case, without "-", "_" and white space."""
    return _JOINTS.sub("", word).casefold()


def with_failures(update: Generation, words: Container[str]) -> Generation:
    """Return the update; its status is a failure if it is one of `words` (as `bare_word` returns them)."""
    status = update.status
    if status.is_known or bare_word(status) not in words:
        return update
    return replace(update, status=_as_spelled(status.value, is_failure=True))


def _as_spelled(word: str, is_failure: bool) -> JobStatus:
    status = str.__new__(JobStatus, word)
    status._name_ = _FAILURE if is_failure else _UNKNOWN
    status._value_ = word
    return status


FAILURE_WORDS: Final = frozenset(
    {
        *("failed", "failure", "error", "errored", "faulted", "crashed", "killed", "terminated", "aborted"),
        *("cancelled", "canceled", "abandoned", "discarded", "deleted", "unsuccessful", "dead"),
        *("expired", "timeout", "timedout", "deadlineexceeded"),
        *("rejected", "refused", "denied", "declined", "disallowed", "prohibited", "forbidden", "invalid"),
        *("blocked", "moderated", "flagged", "censored", "filtered", "banned", "nsfw", "unsafe"),
        *("contentmoderated", "requestmoderated", "contentfiltered", "contentblocked", "moderationblocked"),
        *("moderationfailed", "policyviolation", "contentpolicyviolation"),
        *("internalerror", "servererror", "systemerror", "generationfailed", "processingfailed"),
    }
)
"""Words that mean that a job ended without an output, as `bare_word` returns them.

None is documented: other services use them, and we assume that they mean the same here. `failure_statuses`
adds to them.
"""

_JOINTS: Final = re.compile(r"[-_\s]+")
_UNKNOWN: Final = "UNKNOWN"
_FAILURE: Final = "FAILURE"
_SPELLED: Final = frozenset({_UNKNOWN, _FAILURE})
# Plain strings: an enum's own hash is a call into Python, and every poll checks these.
_FAILURES: Final = frozenset({"failed", "error", "rejected", "cancelled", "canceled", "expired"})
_TERMINAL: Final = _FAILURES | {"completed"}


class _OrNone:
    """Marks a field not worth losing a paid job for: a value of the wrong type becomes None."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


class _OrEmpty:
    """Marks a mapping not worth losing a paid job for: a value of the wrong type becomes an empty one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default_factory=dict, on_error="default")


_Credits: TypeAlias = Annotated[int | float, Field(ge=0, le=1e12, allow_inf_nan=False)]
"""A plausible cost; any other value from the service counts as none."""
_LENIENT: Final = ConfigDict(coerce_numbers_to_str=True, hide_input_in_errors=True)


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_LENIENT)
class Generation:
    """A snapshot of a job, as the service reported it.

    Only `id` and `status` are always there. `url` is None until the job is completed,
    `credit_cost` (credits) is the actual cost, `created_at` is the service's own clock. `extra` has every
    field that the service sent and that has no attribute here, such as `duration` or `completedAt`.
    """

    id: Annotated[str, Field(min_length=1)]
    status: JobStatus
    url: Annotated[str | None, _OrNone()] = None
    type: Annotated[str | None, _OrNone()] = None
    provider: Annotated[str | None, _OrNone()] = None
    # Objects cannot be hashed, snapshots can.
    metadata: Annotated[JsonValue, _OrNone()] = field(default=None, hash=False)
    credit_cost: Annotated[_Credits | None, _OrNone()] = None
    created_at: Annotated[datetime | None, _OrNone()] = None
    extra: Annotated[dict[str, JsonValue], _OrEmpty()] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One thing to make, checked when it is built, before a byte is sent.

    A picture needs only a `prompt`. For everything else, `type`, `provider`, `input` and `options` are sent
    unchanged (reference, "Create a job"); `prompt` is then short for `input={"text": …}`, and `width`,
    `height`, `version` and `quality` are short for the options of the same name.

    Args:
        prompt: what to make.
        provider: "flux-pro" if neither the request nor the client names one. Unknown ones pass through.
        width: pixels, 1 to 16,384; the service's own default is 1024.
        height: pixels, 1 to 16,384; the service's own default is 1024.
        version: a version of the provider's model.
        quality: only "high" is documented.
        type: "IMAGE", "VIDEO", "AVATAR", "AUDIO" or another; by default what the provider makes.
        input: more of the service's `input`, as JSON.
        options: more of the service's `options`, as JSON.

    Raises:
        BadRequestError: if the service could not process it.
    """

    prompt: str | None = None
    provider: str | None = None
    width: int | None = None
    height: int | None = None
    version: str | None = None
    quality: str | None = None
    type: str | None = None
    input: Mapping[str, JsonValue] | None = None
    options: Mapping[str, JsonValue] | None = None

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if (side := getattr(self, name)) is not None:
                object.__setattr__(self, name, checked_side(name, side))
        for name in ("provider", "version", "quality", "type"):
            if (word := getattr(self, name)) is not None:
                _check_word(name, word)
        for name in ("input", "options"):
            if (more := getattr(self, name)) is not None:
                object.__setattr__(self, name, _checked_json(name, more))
        _check_prompt(self.prompt, self.input)
        if self.input is not None:
            _check_said_once("input", self.input, {"text": self.prompt})
        if self.options is not None:
            short = {name: getattr(self, name) for name in ("width", "height", "version", "quality")}
            _check_said_once("options", self.options, short)
        if self.version is not None:
            _advise_on_version(self.provider, self.version)

    def with_prompt(self, prompt: str) -> GenerateRequest:
        """Return the request with another prompt, which was checked before."""
        other = self._copy()
        object.__setattr__(other, "prompt", prompt)
        return other

    def _copy(self) -> GenerateRequest:
        # Skips the checks of a new request: all fields were checked before, and thousands pass here.
        other = object.__new__(GenerateRequest)
        for name in _FIELDS:
            object.__setattr__(other, name, getattr(self, name))
        return other

    def with_defaults(self, *, provider: str, width: int | None, height: int | None) -> GenerateRequest:
        """Return the request with defaults filled in; a size only for a picture."""
        if self.provider is None and self.version is not None:
            _advise_on_version(provider, self.version)
        filled = self._copy()
        _fill(filled, "provider", provider)
        _fill(filled, "type", catalog.type_of(filled.provider or provider))
        if filled.type == MediaType.IMAGE:
            for side, pixels in (("width", width), ("height", height)):
                if side not in (self.options or {}):
                    _fill(filled, side, pixels)
        return filled


def _fill(request: GenerateRequest, name: str, value: object) -> None:
    if getattr(request, name) is None:
        object.__setattr__(request, name, value)


_FIELDS: Final = tuple(each.name for each in fields(GenerateRequest))


def as_request(prompt: str | GenerateRequest | None, **more: Any) -> GenerateRequest:
    """Return the request for `generate` and `submit`, from a prompt with fields or from a whole request.

    Raises:
        BadRequestError: if a whole request comes with more fields, or the fields are invalid.
    """
    if not isinstance(prompt, GenerateRequest):
        return GenerateRequest(prompt=prompt, **more)
    extra = sorted(name for name, value in more.items() if value is not None)
    if extra:
        raise BadRequestError(f"A GenerateRequest came with {', '.join(extra)} beside it; put them inside.")
    return prompt


def checked_side(name: str, value: object) -> int:
    """Return a width or height in pixels.

    Raises:
        BadRequestError: if it is no whole number from 1 to `MAX_SIDE`.
    """
    try:
        side = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # any object may come
    except TypeError:
        side = None
    if side is None or not 1 <= side <= MAX_SIDE:
        raise BadRequestError(f"{name} is {value!r}; expected whole pixels from 1 to {MAX_SIDE:,}.")
    return side


def _check_word(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        raise BadRequestError(f"{name} is {value!r}; expected a word, or nothing.")


def _checked_json(name: str, value: object) -> dict[str, JsonValue]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BadRequestError(f"{name} is a {value.__class__.__name__}; expected a mapping with string keys.")
    try:
        # A copy, so that we send what was checked even if the caller changes theirs.
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        same: dict[str, JsonValue] = json.loads(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequestError(f"{name} cannot be written as JSON: {error}.") from None
    return same


def is_visible(text: str) -> bool:
    """Whether a text holds anything to see: more than white space, marks and invisible characters."""
    return any(
        ((kind := unicodedata.category(each))[0] in "LNPS" and each not in _FILLERS)
        # A newer emoji than this Python knows, or one of a private font.
        or kind in ("Cn", "Co")
        for each in text
    )


_FILLERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Characters that Unicode counts as letters or symbols, and that show nothing: fillers, the empty Braille."""


def _check_prompt(prompt: object, more: Mapping[str, JsonValue] | None) -> None:
    if prompt is None and more:
        return
    if not isinstance(prompt, str):
        raise BadRequestError(f"prompt is {prompt!r}; expected a text that says what to make.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise BadRequestError(f"prompt cannot be sent as UTF-8: {error.reason} at {error.start}.") from None
    if not is_visible(prompt):
        raise BadRequestError(f"prompt is {prompt!r}; expected a text that says what to make.")


def _check_said_once(name: str, given: Mapping[str, JsonValue], short: Mapping[str, object]) -> None:
    twice = [key for key, value in short.items() if value is not None and key in given]
    if twice:
        raise BadRequestError(f"{', '.join(twice)} was given by name and in {name}; say it once.")


def _advise_on_version(provider: str | None, version: str) -> None:
    known = catalog.PROVIDERS.get(provider or "")
    owner = catalog.owner_of(version)
    if known and owner and version not in known.versions:
        warnings.warn(
            f"version {version!r} is shown for {owner!r}, not for {provider!r}; it is sent as asked.",
            DoitongWarning,
            stacklevel=4,
        )
