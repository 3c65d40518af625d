"""Why the service did not do what it was asked: by status, by code, by message."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async import errors
from doitong_async.transport.failure import Failure, FailureKind, errors_in, failure_of

# wire/error-insufficient-credits.json, as data.
INSUFFICIENT_CREDITS = {
    "errors": [
        {
            "message": "Insufficient credits for this operation",
            "extensions": {"code": "INSUFFICIENT_CREDITS", "creditsRequired": 100, "creditsAvailable": 50},
        }
    ]
}
# The error table of the reference: status, name, what it is.
TABLE = [
    (400, "Bad Request", FailureKind.BAD_REQUEST),
    (401, "Unauthorized", FailureKind.AUTHENTICATION),
    (402, "Payment Required", FailureKind.CREDITS),
    (429, "Too Many Requests", FailureKind.RATE_LIMIT),
    (500, "Internal Server Error", FailureKind.SERVER),
]
by_row = pytest.mark.parametrize(("status", "name", "kind"), TABLE)


def failure(
    status: int = 200, body: object = None, headers: Mapping[str, str] | None = None, excerpt: str = ""
) -> Failure:
    """Read a refusal, and insist that it is one."""
    read = failure_of(status, headers or {}, body, excerpt)
    assert read is not None
    return read


def coded(code: object, message: str = "No.") -> dict[str, object]:
    """Write an error of GraphQL with a code."""
    return {"errors": [{"message": message, "extensions": {"code": code}}]}


class TestTable:
    @by_row
    def test_by_the_status_alone(self, status: int, name: str, kind: FailureKind) -> None:
        """A gateway answers with a page, or with nothing."""
        assert failure(status).kind is kind
        assert failure(status, {"errors": [{"message": "?"}]}).kind is kind

    @by_row
    def test_by_the_code_under_200(self, status: int, name: str, kind: FailureKind) -> None:
        """GraphQL servers answer 200 with the name of the row as a code, however it is spelled."""
        spellings = (
            name.upper().replace(" ", "_"),
            name,
            name.lower().replace(" ", "-"),
            status,
            str(status),
        )
        assert {failure(200, coded(code)).kind for code in spellings} == {kind}

    @by_row
    def test_by_the_message_under_200(self, status: int, name: str, kind: FailureKind) -> None:
        """With no code at all the name in a sentence is enough."""
        assert failure(200, {"errors": [{"message": f"{name}: please check"}]}).kind is kind

    @by_row
    def test_the_code_says_more_than_the_status(self, status: int, name: str, kind: FailureKind) -> None:
        """And the status more than the message."""
        assert failure(status, coded("RATE_LIMITED")).kind is FailureKind.RATE_LIMIT
        assert failure(status, {"errors": [{"message": "rate limit"}]}).kind is kind


class TestKinds:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (403, FailureKind.GATEWAY),
            (404, FailureKind.MISPLACED),
            (405, FailureKind.MISPLACED),
            (408, FailureKind.SERVER),
            (409, FailureKind.CONFLICT),
            (413, FailureKind.BAD_REQUEST),
            (418, FailureKind.PROTOCOL),
            (422, FailureKind.BAD_REQUEST),
            (502, FailureKind.SERVER),
            (503, FailureKind.SERVER),
            (599, FailureKind.SERVER),
            (301, FailureKind.GATEWAY),
            (303, FailureKind.GATEWAY),
            (307, FailureKind.MISPLACED),
            (101, FailureKind.PROTOCOL),
        ],
    )
    def test_other_statuses(self, status: int, kind: FailureKind) -> None:
        """What HTTP itself says of them; where it says nothing, the answer is not understood."""
        assert failure(status).kind is kind

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("RATE_LIMITED", FailureKind.RATE_LIMIT),
            ("CONCURRENCY_LIMIT", FailureKind.RATE_LIMIT),
            ("TOO_MANY_CONCURRENT_JOBS", FailureKind.RATE_LIMIT),
            ("DAILY_LIMIT_REACHED", FailureKind.RATE_LIMIT),
            ("QUOTA_EXCEEDED", FailureKind.RATE_LIMIT),
            ("IDEMPOTENCY_KEY_REUSED", FailureKind.CONFLICT),
            ("idempotency_key_in_use", FailureKind.IN_PROGRESS),
            ("IDEMPOTENT_REQUEST_IN_PROGRESS", FailureKind.IN_PROGRESS),
            ("CONFLICT", FailureKind.CONFLICT),
            ("GENERATION_NOT_FOUND", FailureKind.NOT_FOUND),
            ("UNAUTHENTICATED", FailureKind.AUTHENTICATION),
            ("GRAPHQL_VALIDATION_FAILED", FailureKind.BAD_REQUEST),
            ("404", FailureKind.MISPLACED),
            (503, FailureKind.SERVER),
        ],
    )
    def test_codes_that_servers_use(self, code: object, kind: FailureKind) -> None:
        """None of them is documented; each says plainly what it is, whatever the status."""
        assert {failure(status, coded(code)).kind for status in (200, 400, 500)} == {kind}

    @pytest.mark.parametrize(
        "code", ["E_PURPLE", "1001", "50001", "299", "5" * 5000, "٤٢٩٠", "", True, None, 1.5, []]
    )
    def test_a_code_that_says_nothing_decides_nothing(self, code: object) -> None:
        """The status does, or the message."""
        assert failure(401, coded(code)).kind is FailureKind.AUTHENTICATION
        assert failure(200, coded(code, "Rate limit exceeded")).kind is FailureKind.RATE_LIMIT

    def test_an_error_that_nothing_is_known_of_is_the_servers(self) -> None:
        """Whether a job was made is not known either, so it must not count as a clean refusal."""
        assert failure(200, {"errors": [{"message": "boom"}]}).kind is FailureKind.SERVER
        assert failure(200, {"errors": [{}]}).kind is FailureKind.SERVER

    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            ("Generation not found", FailureKind.NOT_FOUND),
            ("Invalid API key", FailureKind.AUTHENTICATION),
            ('Cannot query field "generation" on type "Query".', FailureKind.BAD_REQUEST),
            ('Unknown argument "id" on field "Query.generation".', FailureKind.BAD_REQUEST),
            ("Idempotency key was used before", FailureKind.CONFLICT),
        ],
    )
    def test_messages_that_servers_use(self, message: str, kind: FailureKind) -> None:
        """The last resort."""
        assert failure(200, {"errors": [{"message": message}]}).kind is kind

    @pytest.mark.parametrize(
        "body", [None, {}, [], "ok", {"data": {}}, {"errors": []}, {"errors": None, "error": ""}]
    )
    def test_a_success_that_names_no_error_is_none(self, body: object) -> None:
        """Whether it holds a job is for others to read."""
        assert failure_of(200, {}, body, "") is None

    @pytest.mark.parametrize(
        "body",
        [
            {"error": {"code": "UNAUTHORIZED", "message": "no"}},
            {"error": "Unauthorized"},
            {"errors": "Unauthorized"},
            {"errors": {"message": "Unauthorized"}},
            {"errors": ["Unauthorized"]},
            {"errors": [{"code": "UNAUTHORIZED"}]},
        ],
    )
    def test_errors_as_other_services_spell_them(self, body: object) -> None:
        """REST errors are not shown, so any usual spelling is understood."""
        assert failure(200, body).kind is FailureKind.AUTHENTICATION
        assert len(errors_in(body)) == 1


class TestFacts:
    def test_the_documented_body(self) -> None:
        """With the credits that it names, as a status or under 200."""
        for status in (200, 402):
            read = failure(status, INSUFFICIENT_CREDITS)
            assert (read.kind, read.http_status, read.code) == (
                FailureKind.CREDITS,
                status,
                "INSUFFICIENT_CREDITS",
            )
            assert (read.credits_required, read.credits_available) == (100, 50)
            assert read.message == "The service said: 'Insufficient credits for this operation'."

    @pytest.mark.parametrize("value", ["100", True, None, [100]])
    def test_credits_are_numbers(self, value: object) -> None:
        """Or they are not known."""
        body = {"errors": [{"extensions": {"code": "INSUFFICIENT_CREDITS", "creditsRequired": value}}]}
        assert failure(402, body).credits_required is None

    @pytest.mark.parametrize(
        "body",
        [
            {"errors": [{"extensions": {"code": "CONFLICT", "id": "abc"}}]},
            {"errors": [{"extensions": {"code": "CONFLICT", "jobId": "abc"}}]},
            {"errors": [{"extensions": {"code": "CONFLICT", "generationId": "abc"}}]},
            {"errors": [{"extensions": {"code": "CONFLICT"}}], "data": {"generate": {"id": "abc"}}},
        ],
    )
    def test_a_conflict_names_the_job(self, body: object) -> None:
        """That job is ours: the key was used for it."""
        assert (failure(409, body).kind, failure(409, body).job_id) == (FailureKind.CONFLICT, "abc")

    @pytest.mark.parametrize("value", [None, True, "", [], {}])
    def test_what_is_no_id_names_no_job(self, value: object) -> None:
        """A truth value is not the job `True`."""
        assert failure(409, {"errors": [{"extensions": {"id": value}}]}).job_id is None

    def test_headers_ride_along(self) -> None:
        """Among them the id of the request, and those that say until when."""
        headers = {"x-request-id": "req-1", "retry-after": "3"}
        assert (failure(429, None, headers).request_id, failure(429, None, headers).headers) == (
            "req-1",
            headers,
        )

    def test_a_redirect_is_said_not_to_be_followed(self) -> None:
        """The key goes nowhere else."""
        assert failure(307).message == (
            "The service answered with a redirect (HTTP 307), which is never followed with the key."
        )

    def test_a_page_is_shown_in_part(self) -> None:
        """With its type, so that one sees that a proxy spoke."""
        headers = {"content-type": "text/html; charset=utf-8"}
        read = failure(502, None, headers, "<html>Bad Gateway")
        assert read.message == "The service answered HTTP 502 (text/html): <html>Bad Gateway"
        assert failure(502).message == "The service answered HTTP 502 (no content type): an empty body"

    def test_a_long_message_is_cut(self) -> None:
        """Some servers answer with a stack trace."""
        assert len(failure(500, {"error": "x" * 5000}).message) < 400


class TestError:
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (FailureKind.BAD_REQUEST, errors.BadRequestError),
            (FailureKind.AUTHENTICATION, errors.AuthenticationError),
            (FailureKind.CREDITS, errors.InsufficientCreditsError),
            (FailureKind.RATE_LIMIT, errors.RateLimitError),
            (FailureKind.NOT_FOUND, errors.JobNotFoundError),
            (FailureKind.CONFLICT, errors.SubmitOutcomeUnknownError),
            (FailureKind.SERVER, errors.ServerError),
            (FailureKind.PROTOCOL, errors.ProtocolError),
            (FailureKind.MISPLACED, errors.ConfigurationError),
            (FailureKind.NOT_SENT, errors.ConnectionFailedError),
            (FailureKind.UNANSWERED, errors.ConnectionFailedError),
        ],
    )
    def test_every_kind_has_its_error(self, kind: FailureKind, expected: type[errors.DoitongError]) -> None:
        """With all that is known of it."""
        error = Failure(kind, "No.", http_status=418, code="C", request_id="r", job_id="j").error(
            idempotency_key="i"
        )
        assert type(error) is expected
        assert (error.message, error.http_status, error.code, error.request_id) == ("No.", 418, "C", "r")
        assert (error.job_id, error.idempotency_key) == ("j", "i")

    @pytest.mark.parametrize("kind", FailureKind)
    def test_no_kind_is_forgotten(self, kind: FailureKind) -> None:
        """A new kind needs an error of its own."""
        assert isinstance(Failure(kind, "No.").error(), errors.DoitongError)

    def test_the_credits_are_in_the_error(self) -> None:
        """So that a caller can decide by numbers."""
        error = failure(402, INSUFFICIENT_CREDITS).error()
        assert isinstance(error, errors.InsufficientCreditsError)
        assert (error.credits_required, error.credits_available) == (100, 50)

    @pytest.mark.parametrize(
        ("kind", "sent"), [(FailureKind.NOT_SENT, False), (FailureKind.UNANSWERED, True)]
    )
    def test_a_broken_connection_says_whether_anything_was_sent(self, kind: FailureKind, sent: bool) -> None:
        """It is what decides about the money."""
        error = Failure(kind, "No.").error()
        assert isinstance(error, errors.ConnectionFailedError)
        assert error.sent is sent

    def test_whoever_asks_knows_the_job_better(self) -> None:
        """Its id goes before one that an answer named."""
        assert Failure(FailureKind.SERVER, "No.", job_id="told").error(job_id="asked").job_id == "asked"


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["errors", "error", "message", "extensions", "code", "data", "id", "jobId"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    jsons,
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["content-type", "x-request-id"]), st.text()),
)
def test_any_answer_can_be_refused(body: object, status: int, headers: dict[str, str]) -> None:
    """Whatever comes: a refusal that says something and becomes an error, or none under a success."""
    read = failure_of(status, headers, body, "")
    assert read is not None or 200 <= status < 300
    if read is not None:
        assert read.message in str(read.error(idempotency_key="key-1"))
        assert read.message.startswith("The service ")
