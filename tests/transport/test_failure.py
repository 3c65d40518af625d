"""Why the service did not do what it was asked: by status, by code, by message."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async import errors
from doitong_async.transport.failure import Failure, FailureKind, errors_in, failure_of, was_executed

# wire/error-insufficient-credits.json, as data.
INSUFFICIENT_CREDITS = {
    "errors": [
        {
            "message": "Insufficient credits for this operation",
            "extensions": {"code": "INSUFFICIENT_CREDITS", "creditsRequired": 100, "creditsAvailable": 50},
        }
    ]
}
# The error table of the reference: status, name, failure kind.
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
    """Read a failure, and insist that there is one."""
    read = failure_of(status, headers or {}, body, excerpt)
    assert read is not None
    return read


def coded(code: object, message: str = "No.") -> dict[str, object]:
    """Write a GraphQL error with this code."""
    return {"errors": [{"message": message, "extensions": {"code": code}}]}


class TestErrorTable:
    @by_row
    def test_the_status_alone_is_enough(self, status: int, name: str, kind: FailureKind) -> None:
        """A gateway answers with an HTML page or with nothing."""
        assert failure(status).kind is kind
        assert failure(status, {"errors": [{"message": "?"}]}).kind is kind

    @by_row
    def test_the_code_is_enough_under_200(self, status: int, name: str, kind: FailureKind) -> None:
        """GraphQL servers answer 200 with the row's name as a code, in any spelling."""
        spellings = (
            name.upper().replace(" ", "_"),
            name,
            name.lower().replace(" ", "-"),
            status,
            str(status),
        )
        assert {failure(200, coded(code)).kind for code in spellings} == {kind}

    @by_row
    def test_the_message_is_enough_under_200(self, status: int, name: str, kind: FailureKind) -> None:
        """Without a code, the name within a sentence is enough."""
        assert failure(200, {"errors": [{"message": f"{name}: please check"}]}).kind is kind

    @by_row
    def test_the_code_outweighs_the_status(self, status: int, name: str, kind: FailureKind) -> None:
        """The status in turn outweighs the message."""
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
            (410, FailureKind.MISPLACED),
            (413, FailureKind.BAD_REQUEST),
            (415, FailureKind.BAD_REQUEST),
            (425, FailureKind.SERVER),
            (418, FailureKind.PROTOCOL),
            (422, FailureKind.BAD_REQUEST),
            (502, FailureKind.SERVER),
            (503, FailureKind.SERVER),
            (599, FailureKind.SERVER),
            (300, FailureKind.GATEWAY),
            (301, FailureKind.GATEWAY),
            (303, FailureKind.GATEWAY),
            (307, FailureKind.MISPLACED),
            (101, FailureKind.PROTOCOL),
        ],
    )
    def test_other_statuses(self, status: int, kind: FailureKind) -> None:
        """HTTP itself gives their meaning; where it gives none, the answer is a protocol failure."""
        assert failure(status).kind is kind

    def test_a_403_that_names_an_error_comes_from_the_service(self) -> None:
        """A firewall answers with an HTML page or with nothing."""
        assert failure(403, {"errors": [{"message": "?"}]}).kind is FailureKind.AUTHENTICATION
        assert failure(403, {}).kind is FailureKind.AUTHENTICATION

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            *((400, FailureKind.GATEWAY), (401, FailureKind.GATEWAY), (404, FailureKind.GATEWAY)),
            *((408, FailureKind.SERVER), (425, FailureKind.SERVER), (429, FailureKind.RATE_LIMIT)),
            *((500, FailureKind.SERVER), (502, FailureKind.SERVER)),
        ],
    )
    def test_a_page_comes_from_a_gateway_where_only_the_service_could_know(
        self, status: int, kind: FailureKind
    ) -> None:
        """A proxy cannot know that the key or the request is wrong; it can know of a timeout."""
        assert failure(status, None, {"content-type": "text/html"}).kind is kind
        assert failure(status, None, {}, "Blocked.").kind is kind
        assert failure(status, "Blocked.", {}, '"Blocked."').kind is kind

    @pytest.mark.parametrize("status", [400, 413, 415, 422])
    def test_a_bad_request_may_quote_a_prompt_about_credits(self, status: int) -> None:
        """Quotes follow a colon, a bracket or similar; a plain sentence is the service's own."""
        for message in ("Invalid prompt: not enough credits", "Bad text (not enough credits)"):
            assert failure(status, {"errors": [{"message": message}]}).kind is FailureKind.BAD_REQUEST
        for message in ("Not enough credits", "Payment required"):
            assert failure(status, {"errors": [{"message": message}]}).kind is FailureKind.CREDITS
        assert failure(409, {"error": "Prompt: not enough credits"}).kind is FailureKind.CREDITS

    @pytest.mark.parametrize(
        ("required", "available", "kind"),
        [
            *((100, 50, FailureKind.CREDITS), (50.5, 50, FailureKind.CREDITS)),
            *((50, 50, FailureKind.SERVER), (100, None, FailureKind.SERVER), (None, 0, FailureKind.SERVER)),
        ],
    )
    def test_more_credits_required_than_available_is_a_credit_failure(
        self, required: object, available: object, kind: FailureKind
    ) -> None:
        """Whatever the code and the message say."""
        numbers = {"creditsRequired": required, "creditsAvailable": available}
        assert failure(200, {"errors": [{"message": "No.", "extensions": numbers}]}).kind is kind

    @pytest.mark.parametrize(
        ("message", "headers", "kind"),
        [
            ("Key in use", {}, FailureKind.IN_PROGRESS),
            ("Conflict", {"retry-after": "3"}, FailureKind.IN_PROGRESS),
            ("Conflict", {}, FailureKind.CONFLICT),
            ("The key was used for another request", {"retry-after": "3"}, FailureKind.CONFLICT),
        ],
    )
    def test_a_temporary_conflict_differs_from_a_permanent_one(
        self, message: str, headers: dict[str, str], kind: FailureKind
    ) -> None:
        """Either an earlier attempt is still running, or another request owns the key for good."""
        assert failure(409, {"errors": [{"message": message}]}, headers).kind is kind

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
            ("500", FailureKind.SERVER),
            (503, FailureKind.SERVER),
        ],
    )
    def test_common_codes_decide_whatever_the_status(self, code: object, kind: FailureKind) -> None:
        """None of them is documented, but each one is clear."""
        assert {failure(status, coded(code)).kind for status in (200, 400, 500)} == {kind}

    @pytest.mark.parametrize(
        "code", ["E_PURPLE", "1001", "50001", "299", "5" * 5000, "٤٢٩٠", "", True, None, 1.5, []]
    )
    def test_an_unknown_code_decides_nothing(self, code: object) -> None:
        """The status or the message decides instead."""
        assert failure(401, coded(code)).kind is FailureKind.AUTHENTICATION
        assert failure(200, coded(code, "Rate limit exceeded")).kind is FailureKind.RATE_LIMIT

    def test_an_unknown_error_is_a_server_failure(self) -> None:
        """It may have made a job, so it must not count as a clean rejection."""
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
            # The first known phrase counts.
            ("Idempotency key not found", FailureKind.CONFLICT),
            ("Not found: the idempotency key", FailureKind.NOT_FOUND),
            # Quoted text may be a prompt, unless the whole message is quoted.
            ('"Generation not found"', FailureKind.NOT_FOUND),
            ('The words "not found" are odd', FailureKind.SERVER),
            ('"not found" is not "good"', FailureKind.SERVER),
            ("`not found", FailureKind.NOT_FOUND),
            ('"', FailureKind.SERVER),
        ],
    )
    def test_common_messages_decide_last(self, message: str, kind: FailureKind) -> None:
        """Only where neither status nor code does."""
        assert failure(200, {"errors": [{"message": message}]}).kind is kind

    @pytest.mark.parametrize(
        "body", [None, {}, [], "ok", {"data": {}}, {"errors": []}, {"errors": None, "error": ""}]
    )
    def test_a_success_without_an_error_is_no_failure(self, body: object) -> None:
        """Another function reads whether it holds a job."""
        assert failure_of(200, {}, body, "") is None

    @pytest.mark.parametrize("status", [200, 201, 299])
    def test_a_success_may_come_with_a_message(self, status: int) -> None:
        """A message alone is no error, unless it is a known one."""
        assert failure_of(status, {}, {"message": "Accepted"}, "") is None
        assert failure(status, {"message": "Unauthorized"}).kind is FailureKind.AUTHENTICATION
        assert failure(500, {"message": "Accepted"}).kind is FailureKind.SERVER

    @pytest.mark.parametrize(
        "body",
        [
            {"message": "Unauthorized"},
            {"detail": "Unauthorized"},
            {"error": {"code": "UNAUTHORIZED", "message": "no"}},
            {"error": "Unauthorized"},
            {"errors": "Unauthorized"},
            {"errors": {"message": "Unauthorized"}},
            {"errors": ["Unauthorized"]},
            {"errors": [{"code": "UNAUTHORIZED"}]},
        ],
    )
    def test_errors_are_found_in_any_common_shape(self, body: object) -> None:
        """The reference shows no REST error, so any usual shape is accepted."""
        assert failure(200, body).kind is FailureKind.AUTHENTICATION
        assert len(errors_in(body)) == 1


JOB = {"id": "abc", "status": "processing"}


class TestWasExecuted:
    @pytest.mark.parametrize(
        "body",
        [
            {"data": {"generate": JOB}},
            {"data": {"generate": {}}},
            {"data": [None, JOB]},
            {"data": "abc"},
            {"id": "abc", "url": None},
            {"id": "abc", "creditCost": 20},
            [{"data": None}, {"data": {"generate": JOB}}],
        ],
    )
    def test_returned_data_proves_that_the_mutation_ran(self, body: object) -> None:
        """Even beside an error."""
        assert was_executed(body) is True

    @pytest.mark.parametrize(
        "path",
        [
            ["generate", "creditCost"],
            ["generate", 0],
            "generate.creditCost",
            ["generate.url"],
            "generate[url]",
        ],
    )
    def test_an_error_below_the_root_field_proves_that_it_ran(self, path: object) -> None:
        """However the path is written, and however deep it is nested, up to a bound."""
        error: dict[str, object] = {"message": "x", "path": path}
        assert was_executed({"errors": [error]}) is True
        assert was_executed({"data": None, "errors": [{"message": "y"}, {"errors": [error]}]}) is True
        assert was_executed({"errors": [{"a": {"b": {"c": error}}}]}) is True
        assert was_executed({"errors": [{"a": {"b": {"c": {"d": error}}}}]}) is False

    @pytest.mark.parametrize(
        "path",
        [
            *(None, [], "", "generate", ["generate"], 5, ["input", "prompt"], "variables.input.prompt"),
            *(["$input", "prompt"], ["Input", "prompt"], {"a": 1}),
        ],
    )
    def test_an_error_of_the_root_field_or_the_input_proves_nothing(self, path: object) -> None:
        """Then nothing was made."""
        assert was_executed({"data": None, "errors": [{"message": "x", "path": path}]}) is False

    @pytest.mark.parametrize(
        "body",
        [
            *(None, "abc", 5, [], {}, {"data": None}, {"data": {}}, {"data": {"generate": None}}),
            *({"id": "abc"}, {"url": "u", "creditCost": 20}, {"data": None, "id": "abc", "url": "u"}),
            [{"data": None}, {"errors": [{"message": "x"}]}],
        ],
    )
    def test_an_answer_without_a_job_proves_nothing(self, body: object) -> None:
        """An id alone may be the request's."""
        assert was_executed(body) is False


class TestFacts:
    @pytest.mark.parametrize(
        ("body", "is_of_document"),
        [
            ({"errors": [{"message": "x"}]}, True),
            ({"errors": [{"message": "x"}], "data": None}, False),
            ({"errors": [{"message": "x", "path": ["generate"]}]}, False),
        ],
    )
    def test_a_rejected_document_has_neither_data_nor_a_path(
        self, body: object, is_of_document: bool
    ) -> None:
        """In GraphQL both come with the execution."""
        assert failure(400, body).is_of_document is is_of_document

    def test_an_error_about_a_field_is_recognised(self) -> None:
        """For example where the service has no such query."""
        assert failure(400, {"error": "Cannot query Field x"}).is_of_field
        assert not failure(400, {"error": "No."}).is_of_field
        assert not failure(400).is_of_field

    def test_an_answer_that_names_an_error_differs_from_a_page(self) -> None:
        """Only the service itself names one."""
        assert failure(400, {"error": "No."}).names_error
        assert not failure(400, None, {}, "<html>").names_error

    def test_the_documented_credit_error_is_read_in_full(self) -> None:
        """Its credits are read under 402 and under 200."""
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
    def test_credits_must_be_numbers(self, value: object) -> None:
        """Any other value counts as unknown."""
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
        """The job is ours: it was made with this key."""
        assert (failure(409, body).kind, failure(409, body).job_id) == (FailureKind.CONFLICT, "abc")

    @pytest.mark.parametrize("value", [None, True, "", [], {}])
    def test_an_invalid_id_names_no_job(self, value: object) -> None:
        """A boolean is not the job `True`."""
        assert failure(409, {"errors": [{"extensions": {"id": value}}]}).job_id is None

    def test_a_failure_keeps_the_headers(self) -> None:
        """They hold the request's id and Retry-After."""
        headers = {"x-request-id": "req-1", "retry-after": "3"}
        assert (failure(429, None, headers).request_id, failure(429, None, headers).headers) == (
            "req-1",
            headers,
        )

    def test_the_message_says_that_a_redirect_is_not_followed(self) -> None:
        """Following it could send the key elsewhere."""
        for status in (300, 307, 399):
            assert failure(status).message == (
                f"The service answered with a redirect (HTTP {status}), which is never followed with the key."
            )
        assert "redirect" not in failure(400).message

    def test_the_message_shows_the_start_of_a_page(self) -> None:
        """The content type shows that a proxy answered."""
        headers = {"content-type": "text/html; charset=utf-8"}
        read = failure(502, None, headers, "<html>Bad Gateway")
        assert read.message == "The service answered HTTP 502 (text/html): <html>Bad Gateway"
        assert failure(502).message == "The service answered HTTP 502 (no content type): an empty body"

    def test_a_long_message_is_truncated(self) -> None:
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
        """It carries everything known about the failure."""
        error = Failure(kind, "No.", http_status=418, code="C", request_id="r", job_id="j").error(
            idempotency_key="i"
        )
        assert type(error) is expected
        assert (error.message, error.http_status, error.code, error.request_id) == ("No.", 418, "C", "r")
        assert (error.job_id, error.idempotency_key) == ("j", "i")

    @pytest.mark.parametrize("kind", FailureKind)
    def test_no_kind_is_left_out(self, kind: FailureKind) -> None:
        """A new kind needs an error of its own."""
        assert isinstance(Failure(kind, "No.").error(), errors.DoitongError)

    def test_the_error_carries_the_credits(self) -> None:
        """A caller can decide by the numbers."""
        error = failure(402, INSUFFICIENT_CREDITS).error()
        assert isinstance(error, errors.InsufficientCreditsError)
        assert (error.credits_required, error.credits_available) == (100, 50)

    @pytest.mark.parametrize(
        ("kind", "sent"), [(FailureKind.NOT_SENT, False), (FailureKind.UNANSWERED, True)]
    )
    def test_a_connection_error_says_whether_anything_was_sent(self, kind: FailureKind, sent: bool) -> None:
        """Only a sent request can have cost anything."""
        error = Failure(kind, "No.").error()
        assert isinstance(error, errors.ConnectionFailedError)
        assert error.sent is sent

    def test_the_callers_job_id_wins(self) -> None:
        """The caller knows the job better than an answer does."""
        assert Failure(FailureKind.SERVER, "No.", job_id="reported").error(job_id="asked").job_id == "asked"


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
def test_any_answer_is_a_success_or_a_failure_with_a_message(
    body: object, status: int, headers: dict[str, str]
) -> None:
    """No answer is too odd; a failure always becomes an error."""
    read = failure_of(status, headers, body, "")
    assert read is not None or 200 <= status < 300
    if read is not None:
        assert read.message in str(read.error(idempotency_key="key-1"))
        assert read.message.startswith("The service ")
