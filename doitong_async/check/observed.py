"""What the requests of a check brought, as values: whoever makes findings of them sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from doitong_async.transport.failure import Failure, FailureKind, as_mapping, errors_in, failure_of
from doitong_async.transport.forms import Form
from doitong_async.transport.wire import Answer


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one request to the API, at epoch second `at`, `seconds` after it was sent."""

    came: Answer | Failure
    at: float = 0.0
    seconds: float = 0.0

    @property
    def answer(self) -> Answer | None:
        """The answer, if one came that could be read."""
        return self.came if isinstance(self.came, Answer) else None

    @property
    def body(self) -> object:
        """The JSON of the answer, or None."""
        return self.came.body if isinstance(self.came, Answer) else None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer."""
        return self.came.headers if isinstance(self.came, Answer) else {}

    @property
    def failure(self) -> Failure | None:
        """Why the request failed; None if its answer reports no failure."""
        if isinstance(self.came, Failure):
            return self.came
        return failure_of(self.came.status, self.came.headers, self.came.body, self.came.excerpt)

    @property
    def is_refused(self) -> bool:
        """Whether the answer refuses the key."""
        return self.failure is not None and self.failure.kind is FailureKind.AUTHENTICATION

    @property
    def is_misplaced(self) -> bool:
        """Whether HTTP says that nothing exists at this address."""
        return self.failure is not None and self.failure.kind is FailureKind.MISPLACED

    def is_api(self, form: Form) -> bool:
        """Whether the answer is one that an API of this form gives, whatever it says."""
        if self.answer is None:
            return False
        body = as_mapping(self.body)
        if form is not Form.REST and (isinstance(body.get("data"), dict) or _has_list(body)):
            return True
        if form is Form.REST and "id" in body:
            return True
        # In REST an unknown job is a 404, as an unknown address is.
        is_here = form is Form.REST or not self.is_misplaced
        return self.answer.status >= 400 and is_here and bool(errors_in(body))

    def is_like(self, other: Probed | None, *own: str) -> bool:
        """Whether another request was answered alike; `own` are the texts in which the requests differ."""
        return other is not None and self._essence(own) == other._essence(own)

    def _essence(self, own: Sequence[str]) -> tuple[object, ...]:
        failure = self.failure
        text = "" if failure is None else failure.message
        for each in own:
            text = text.replace(each, "")
        status = None if self.answer is None else self.answer.status
        return status, failure and failure.code, text, self.body if failure is None else None


def _has_list(body: Mapping[str, object]) -> bool:
    return isinstance(body.get("errors"), list) and bool(body["errors"])


class Stage(Enum):
    """How far a connection came before it broke."""

    DNS = auto()
    CONNECT = auto()
    TLS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to the API.

    Attributes:
        host: of the API, or of the proxy in front of it.
        port: of the same.
        proxy: the proxy's host and port, without its password; None if none is set.
        has_own_session: whether the user's session connects, which may have a proxy of its own.
        broken: where a bare connection broke, made only if no request got through; None if it did not.
        reason: why it broke.
    """

    host: str
    port: int
    proxy: str | None = None
    has_own_session: bool = False
    broken: Stage | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the free requests brought; None for one that was not sent.

    Attributes:
        form: of the calls that the client makes.
        single_id: the job id in `single`; it cannot exist.
        single_path: where `single` is asked for in REST.
        single: a poll as the client polls: with the status operation, or at the status path, that is set.
        between: a request of another kind: the introspection; in REST, a GET where nothing can be.
        elsewhere: the path of `between` in REST.
        second_ids: the job ids in `second`; they cannot exist.
        second: another poll: of two ids, with the status operation that is set or else the schema's own; in
            REST, of the same id.
        stranger: the single poll again, under a key that we made up.
        other: a poll in the other protocol, which has the key in the other header.
        other_stranger: the same under a key that we made up.
        skipped: why there was no reason to send some of them.
        cut_short: why the rest were not sent, although they would have told more.
    """

    form: Form
    single_id: str
    single_path: str = ""
    single: Probed | None = None
    between: Probed | None = None
    elsewhere: str = ""
    second_ids: Sequence[str] = ()
    second: Probed | None = None
    stranger: Probed | None = None
    other: Probed | None = None
    other_stranger: Probed | None = None
    skipped: str | None = None
    cut_short: str | None = None

    @property
    def own_texts(self) -> Sequence[str]:
        """What only one of the requests of REST has, and a service may repeat in its answer."""
        return [text for text in (self.single_path, self.elsewhere, self.single_id) if text]

    @property
    def is_alike(self) -> bool:
        """Whether different requests were answered alike: then nobody read them."""
        single, between = self.single, self.between
        if single is None or between is None:
            return False
        if self.form is Form.REST:
            return single.is_like(between, *self.own_texts) and single.is_like(self.stranger)
        # An error may be the same for a good reason; data may not.
        is_data = single.failure is None and single.is_api(self.form)
        return is_data and single.body == between.body

    @property
    def is_of_api(self) -> bool:
        """Whether it is the API that answers."""
        return self.single is not None and self.single.is_api(self.form) and not self.is_alike

    @property
    def missing(self) -> str:
        """Why a request was not sent, for the findings that would need it."""
        return self.cut_short or self.skipped or "it was not asked"


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of an event to one's own receiver: the HTTP status, or why there is none.

    `location` is where the answer redirects to.
    """

    status: int | None
    location: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSeen:
    """What one's own webhook receiver answered: to an event with a wrong signature, and to a signed one."""

    forged: Reached
    signed: Reached | None = None
