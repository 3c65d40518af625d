"""How requests are written and answers read, checked with the documented bodies and with nonsense."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from graphql import FieldNode, OperationDefinitionNode, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.errors import BadRequestError, ConfigurationError
from doitong_async.transport import wire
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.wire import Answer, PollAnswer, StatusOperation
from doitong_async.types import GenerateRequest, Generation, JobStatus

# The bodies of the reference (`wire/`) as data.
DOCUMENTED_VARIABLES = {
    "input": {
        "type": "IMAGE",
        "provider": "flux-kontext",
        "input": {"text": "A futuristic city with flying cars and neon lights"},
        "options": {"width": 1024, "height": 1024},
    }
}
DOCUMENTED_COMPLETED = {
    "id": "abc123xyz",
    "status": "completed",
    "url": "https://cdn.doitong.com/outputs/abc123xyz.jpg",
    "duration": None,
    "createdAt": "2024-01-01T00:00:00Z",
}
DOCUMENTED_PROCESSING = {
    "id": "abc123xyz",
    "status": "processing",
    "url": None,
    "webhookUrl": "https://your-webhook.com/callback",
    "createdAt": "2024-01-01T00:00:00Z",
}
DOCUMENTED_DAY = datetime(2024, 1, 1, tzinfo=UTC)
OPERATION = StatusOperation("generation", "id", "ID!")


def answer_of(body: object, status: int = 200, text: str = "…", **headers: str) -> Answer:
    """Build an answer from the service."""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, text)


def poll_answer(body: object, ids: list[str], status: int = 200) -> PollAnswer:
    """Read a status answer that is not a failure."""
    statuses = wire.read_poll(answer_of(body, status), ids)
    assert isinstance(statuses, PollAnswer)
    return statuses


def failure_in(read: object) -> Failure:
    """Insist on a failure."""
    assert isinstance(read, Failure)
    return read


def job(job_id: str, status: str = "processing", **fields: object) -> dict[str, object]:
    """Write a job as the service does."""
    return {"id": job_id, "status": status, **fields}


class TestSubmitVariables:
    def test_they_match_the_documentation(self) -> None:
        """They equal wire/generate-request.json, name by name."""
        request = GenerateRequest(
            prompt="A futuristic city with flying cars and neon lights",
            provider="flux-kontext",
            type="IMAGE",
            width=1024,
            height=1024,
        )
        assert wire.submit_variables(request) == DOCUMENTED_VARIABLES

    def test_omitted_values_are_not_sent(self) -> None:
        """The service has its own defaults; there are no empty options."""
        request = GenerateRequest(prompt="a fox", provider="flux-pro", type="IMAGE")
        assert wire.submit_variables(request) == {
            "input": {"type": "IMAGE", "provider": "flux-pro", "input": {"text": "a fox"}}
        }

    def test_further_input_and_options_are_passed_through(self) -> None:
        """They go beside the prompt and the short names."""
        request = GenerateRequest(
            prompt="hello",
            provider="hedra",
            type="AVATAR",
            quality="high",
            version="v1",
            input={"avatarId": "a1"},
            options={"voice": "deep", "seed": None},
        )
        assert wire.submit_variables(request) == {
            "input": {
                "type": "AVATAR",
                "provider": "hedra",
                "input": {"text": "hello", "avatarId": "a1"},
                "options": {"version": "v1", "quality": "high", "voice": "deep", "seed": None},
            }
        }

    def test_an_input_without_a_prompt_has_no_text(self) -> None:
        """runway-i2v takes an image alone."""
        request = GenerateRequest(provider="runway-i2v", type="VIDEO", input={"image": "https://e.example/a"})
        assert wire.submit_variables(request)["input"] == {
            "type": "VIDEO",
            "provider": "runway-i2v",
            "input": {"image": "https://e.example/a"},
        }

    def test_the_webhook_field_sets_where_the_webhook_url_goes(self) -> None:
        """By default it goes beside `type` (an assumption); a URL that the request sets itself stays."""
        request = GenerateRequest(
            prompt="fox", options={"seed": 7, "mine": {"webhookUrl": "https://b.example"}}
        )

        def fields(**place: str) -> Any:
            return wire.submit_variables(request, webhook_url="https://a.example", **place)["input"]

        plain = wire.submit_variables(request)["input"]
        assert isinstance(plain, dict)
        assert fields() == {**plain, "webhookUrl": "https://a.example"}
        assert fields(webhook_field="options.webhookUrl")["options"]["webhookUrl"] == "https://a.example"
        assert fields(webhook_field="options.mine.webhookUrl") == plain
        assert fields(webhook_field="options.hooks.done")["options"]["seed"] == 7
        assert request.options == {"seed": 7, "mine": {"webhookUrl": "https://b.example"}}

    def test_the_mutation_is_valid_graphql(self) -> None:
        """It asks for the documented fields and no others."""
        (operation,) = parse(wire.GENERATE).definitions
        assert isinstance(operation, OperationDefinitionNode)
        (field,) = operation.selection_set.selections
        assert isinstance(field, FieldNode)
        assert field.selection_set is not None
        assert [
            part.name.value for part in field.selection_set.selections if isinstance(part, FieldNode)
        ] == [*("id", "status", "type", "provider", "url", "metadata", "creditCost", "createdAt")]


class TestStatusDocument:
    @pytest.mark.parametrize("count", [1, 2, 7, wire.MOST_IN_ONE_POLL])
    def test_it_has_one_alias_per_job(self, count: int) -> None:
        """It is valid GraphQL; each alias asks for one field with its own variable."""
        (operation,) = parse(
            wire.status_document(StatusOperation("job", "jobId", "String"), count)
        ).definitions
        assert isinstance(operation, OperationDefinitionNode)
        asked = [part for part in operation.selection_set.selections if isinstance(part, FieldNode)]
        assert [field.alias and field.alias.value for field in asked] == [f"j{n}" for n in range(count)]
        assert {field.name.value for field in asked} == {"job"}
        assert {argument.name.value for field in asked for argument in field.arguments or ()} == {"jobId"}
        assert len(operation.variable_definitions or ()) == count

    def test_the_document_for_one_job_in_full(self) -> None:
        """This is the text that goes over the wire."""
        assert wire.status_document(OPERATION, 1) == (
            "query Status($i0: ID!) { j0: generation(id: $i0) { id status url metadata creditCost } }"
        )

    def test_the_ids_are_variables(self) -> None:
        """No id ever becomes part of the text."""
        assert wire.status_variables(OPERATION, ["a", '") { x }']) == {"i0": "a", "i1": '") { x }'}


class TestStatusOperation:
    @pytest.mark.parametrize(
        ("text", "whole"),
        [
            ("generation", "generation(id: ID!)"),
            ("generation(id: ID!)", "generation(id: ID!)"),
            ("  job ( jobId : String ) ", "job(jobId: String)"),
            ("_job2(n: Int!)", "_job2(n: Int!)"),
        ],
    )
    def test_a_query_field_may_name_its_argument(self, text: str, whole: str) -> None:
        """Without one it takes the documented id."""
        assert str(StatusOperation.parse(text)) == whole

    @pytest.mark.parametrize(
        "text", ["", "two words", "job(id)", "job(id: ID!) { x }", "job(id: [ID!])", "2job", "狐", None, 5]
    )
    def test_anything_else_is_a_configuration_error(self, text: Any) -> None:
        """The client raises it when it is created, not at the first poll."""
        with pytest.raises(ConfigurationError, match="expected a query field with its id argument"):
            StatusOperation.parse(text)
        with pytest.raises(ConfigurationError, match="no Boolean does"):
            StatusOperation.parse("job(id: Boolean!)")

    @pytest.mark.parametrize(
        ("scalar", "job_id", "value"),
        [
            *(("ID", "abc", "abc"), ("ID", "17", "17"), ("String", "17", "17"), ("Uuid", "17", "17")),
            *(("Int", "17", 17), ("Int", "-17", -17), ("Int", "0", 0), ("Float", "17", 17)),
            *(("Int", "017", None), ("Int", "+17", None), ("Int", "1.0", None), ("Int", "abc", None)),
            *(("Int", "2147483647", 2**31 - 1), ("Int", "-2147483647", 1 - 2**31)),
            *(("Int", "2147483648", None), ("Int", "9" * 5_000, None)),
            *(("Float", "9007199254740992", 2**53), ("Float", "9007199254740993", None)),
        ],
    )
    def test_an_id_is_sent_in_the_type_of_the_argument(
        self, scalar: str, job_id: str, value: str | int | None
    ) -> None:
        """As a number only if the answer will spell it like the id."""
        for mark in ("", "!"):
            assert StatusOperation("job", "id", scalar + mark).value_of(job_id) == value


class TestEncoded:
    def test_a_request_is_a_document_and_its_variables(self) -> None:
        """As GraphQL over HTTP specifies."""
        body = wire.encoded("query { x }", {"狐": [1, None]})
        assert json.loads(body) == {"query": "query { x }", "variables": {"狐": [1, None]}}

    def test_a_value_that_json_cannot_hold_is_rejected(self) -> None:
        """Nothing is sent."""
        with pytest.raises(BadRequestError, match="cannot be written as JSON"):
            wire.encoded("query { x }", {"n": "\ud800"})


class TestReadJson:
    @pytest.mark.parametrize(
        ("raw", "value"),
        [
            (b'{"a": 1}', {"a": 1}),
            (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
            (b'{"id": "abc", "x": "\\ud800"}', {"id": "abc", "x": "\ud800"}),
            (b'\xef\xbb\xbf{"id": "abc", "n": 17}', {"id": "abc", "n": 17}),
            (b'\xef\xbb\xbf{"id": "abc", "n": ' + b"9" * 5_000 + b"}", {"id": "abc", "n": None}),
        ],
    )
    def test_an_odd_value_does_not_lose_the_id_beside_it(self, raw: bytes, value: object) -> None:
        """The lenient reader accepts what the fast one rejects."""
        assert wire.read_json(raw) == value

    @pytest.mark.parametrize("raw", [b"", b"{", b"<html>", b"\xff", b"[" * 100_000])
    def test_invalid_json_is_none(self, raw: bytes) -> None:
        """Whatever is wrong with it."""
        assert wire.read_json(raw) is None


CONFLICT = {"message": "Conflict", "extensions": {"code": "CONFLICT"}}
UNAUTHORIZED = {"message": "Unauthorized"}


class TestErrorsInAnswers:
    def test_a_job_beside_errors_is_a_job_whatever_the_status(self) -> None:
        """The errors of partial data are about its fields. Only a conflict's job may be another's."""
        body = {"data": {"generate": job("a")}, "errors": [{"message": "no cost"}]}
        for status in (200, 400, 500):
            read = wire.read_submit(answer_of(body, status))
            assert isinstance(read, Generation)
            assert read.id == "a"
        conflict = {"data": {"generate": job("a")}, "errors": [CONFLICT]}
        assert failure_in(wire.read_submit(answer_of(conflict, 409))).kind is FailureKind.CONFLICT

    @pytest.mark.parametrize(
        "body",
        [
            {"data": {"generate": {"creditCost": 20}}, "errors": [UNAUTHORIZED]},
            {"data": None, "errors": [{**UNAUTHORIZED, "path": ["generate", "url"]}]},
            {"errors": [{**UNAUTHORIZED, "extensions": {"jobId": "a"}}]},
        ],
    )
    def test_an_error_after_the_mutation_leaves_the_outcome_unknown(self, body: object) -> None:
        """The service may have charged for a job."""
        failure = failure_in(wire.read_submit(answer_of(body)))
        assert failure.kind is FailureKind.PROTOCOL
        assert failure.message == "The mutation ran, and its answer failed. The service said: 'Unauthorized'."

    @pytest.mark.parametrize(
        ("body", "status", "kind"),
        [
            ({"errors": [UNAUTHORIZED]}, 200, FailureKind.AUTHENTICATION),
            ({"errors": [{"message": "boom", "extensions": {"jobId": "a"}}]}, 200, FailureKind.SERVER),
            ({"data": {"generate": {"x": 1}}, "errors": [CONFLICT]}, 200, FailureKind.CONFLICT),
            ({"data": {"generate": None}, "errors": [UNAUTHORIZED]}, 200, FailureKind.AUTHENTICATION),
        ],
    )
    def test_other_errors_keep_their_kind(self, body: object, status: int, kind: FailureKind) -> None:
        """Nothing ran, or the kind is in doubt already."""
        assert failure_in(wire.read_submit(answer_of(body, status))).kind is kind

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(499, FailureKind.BAD_REQUEST), (500, FailureKind.SERVER), (503, FailureKind.SERVER)],
    )
    def test_a_failed_server_does_not_prove_a_bad_request(self, status: int, kind: FailureKind) -> None:
        """Under a 5xx even a BAD_REQUEST code proves nothing."""
        body = {"errors": [{"message": "no", "extensions": {"code": "BAD_REQUEST"}}]}
        assert failure_in(wire.read_submit(answer_of(body, status))).kind is kind

    @pytest.mark.parametrize(("status", "is_success"), [(200, True), (299, True), (300, False), (199, False)])
    def test_a_success_is_a_status_from_200_to_299(self, status: int, is_success: bool) -> None:
        """For submits and polls alike."""
        submit = wire.read_submit(answer_of({"data": {"generate": job("a")}}, status))
        poll = wire.read_poll(answer_of({"data": {"j0": job("a")}}, status), ["a"])
        assert isinstance(submit, Generation) is isinstance(poll, PollAnswer) is is_success


class TestReadSubmit:
    @pytest.mark.parametrize("key", ["generateimage", "generate", "generateImage", "anything"])
    def test_the_documented_bodies_are_read_under_any_key(self, key: str) -> None:
        """The reference answers under a key that is not the mutation's name."""
        assert wire.read_submit(answer_of({"data": {key: DOCUMENTED_PROCESSING}})) == Generation(
            id="abc123xyz", status=JobStatus.PROCESSING, created_at=DOCUMENTED_DAY
        )
        assert wire.read_submit(answer_of({"data": {key: DOCUMENTED_COMPLETED}})) == Generation(
            id="abc123xyz",
            status=JobStatus.COMPLETED,
            url="https://cdn.doitong.com/outputs/abc123xyz.jpg",
            created_at=DOCUMENTED_DAY,
        )

    @pytest.mark.parametrize("body", [DOCUMENTED_PROCESSING, {"data": DOCUMENTED_PROCESSING}])
    @pytest.mark.parametrize("status", [200, 201, 202])
    def test_a_bare_body_is_read(self, body: object, status: int) -> None:
        """The reference shows no REST body; the reader knows a job by its shape."""
        read = wire.read_submit(answer_of(body, status))
        assert isinstance(read, Generation)
        assert read.id == "abc123xyz"

    def test_a_job_beside_errors_is_a_job(self) -> None:
        """The errors are about its fields; the job exists and is paid for."""
        body = {"data": {"generate": job("a")}, "errors": [{"message": "creditCost is not known"}]}
        assert wire.read_submit(answer_of(body)) == Generation(id="a", status=JobStatus.PROCESSING)

    @pytest.mark.parametrize("status", [5, None, {"word": "completed"}, " "])
    def test_a_status_of_an_odd_type_loses_no_job(self, status: object) -> None:
        """The id identifies the paid job; the next poll may bring the status."""
        read = wire.read_submit(answer_of({"data": {"generate": {"id": "a", "status": status}}}))
        assert read == Generation(id="a", status=JobStatus.PROCESSING)

    def test_several_jobs_are_a_protocol_failure(self) -> None:
        """The request asked for one, and nothing shows which it is."""
        failure = failure_in(wire.read_submit(answer_of({"data": {"a": job("1"), "b": job("2")}})))
        assert (failure.kind, "several jobs" in failure.message) == (FailureKind.PROTOCOL, True)

    @pytest.mark.parametrize(
        "body",
        [
            None,
            "ok",
            [],
            {},
            {"data": None},
            {"data": {}},
            {"data": {"generate": None}},
            {"data": {"generate": {"status": "processing"}}},
            {"data": {"generate": {"id": "", "status": "processing"}}},
            {"data": [job("a")]},
            {"message": "hello"},
        ],
    )
    def test_an_answer_without_a_job_is_a_protocol_failure(self, body: object) -> None:
        """The failure shows the excerpt and carries the request's id."""
        read = wire.read_submit(answer_of(body, text="<html>", x_request_id="req-1"))
        assert failure_in(read).kind is FailureKind.PROTOCOL
        excerpt = "<html>" if body is None else json.dumps(body)
        assert (
            failure_in(read).message
            == f"The service answered HTTP 200 with no job with an id and a status: {excerpt}"
        )
        assert (failure_in(read).http_status, failure_in(read).request_id) == (200, "req-1")

    def test_the_message_says_that_an_answer_is_empty(self) -> None:
        """A message never ends in nothing."""
        assert failure_in(wire.read_submit(answer_of(None, text=""))).message.endswith(": an empty body")

    def test_a_job_under_an_error_status_is_a_failure(self) -> None:
        """HTTP 500 is a failure first; it keeps the id of the job in the body."""
        failure = failure_in(wire.read_submit(answer_of({"data": {"generate": job("a")}}, 500)))
        assert (failure.kind, failure.job_id) == (FailureKind.SERVER, "a")


class TestReadPoll:
    def test_every_job_is_found_missing_unreadable_or_unanswered(self) -> None:
        """An unreadable job keeps the reason."""
        body = {
            "data": {"j0": job("a"), "j1": None, "j2": None, "j3": {"url": "u"}},
            "errors": [
                {"message": "not found", "path": ["j1"]},
                {"message": "boom", "path": ["j2"]},
            ],
        }
        statuses = poll_answer(body, ["a", "b", "c", "d", "e"])
        assert [found.id for found in statuses.found] == ["a"]
        assert (statuses.missing, statuses.unanswered) == (["b"], ["e"])
        assert statuses.unreadable == {
            "c": "The service said: 'boom'.",
            "d": "The service answered without the fields of the job.",
        }

    def test_jobs_are_matched_by_their_ids(self) -> None:
        """In any order and under any alias."""
        statuses = poll_answer(
            {"data": {"j1": job("a"), "x": job("c", "completed"), "j0": job("b")}}, ["a", "b", "c"]
        )
        assert {(found.id, found.status) for found in statuses.found} == {
            ("a", "processing"),
            ("b", "processing"),
            ("c", "completed"),
        }
        assert (statuses.missing, statuses.unanswered) == ([], [])

    def test_a_single_job_may_come_under_any_name(self) -> None:
        """A service without aliases answers under the field's name, or without one."""
        for body in ({"data": {"generation": job("a")}}, {"data": job("a")}, job("a")):
            assert [found.id for found in poll_answer(body, ["a"]).found] == ["a"]

    @pytest.mark.parametrize(
        "errors",
        [
            None,
            [],
            [{"message": "Generation not found", "path": ["j1"]}],
            [{"message": "?", "path": ["j1"], "extensions": {"code": "JOB_NOT_FOUND"}}],
            [{"message": "?", "extensions": {"code": "NOT_FOUND"}}],
            [{"message": "boom", "path": ["j0", "creditCost"]}],
        ],
    )
    def test_a_null_that_means_unknown_is_a_missing_job(self, errors: object) -> None:
        """It has no error of its own, or one that says "not found"."""
        statuses = poll_answer({"data": {"j0": job("a"), "j1": None}, "errors": errors}, ["a", "b"])
        assert ([found.id for found in statuses.found], statuses.missing, statuses.unanswered) == (
            ["a"],
            ["b"],
            [],
        )

    @pytest.mark.parametrize(
        "errors",
        [
            [{"message": "boom", "path": ["j1"]}],
            [{"message": "boom", "path": ["j1", "metadata"]}],
            [{"message": "boom"}],
            [{"message": "not found", "path": ["j1"]}, {"message": "boom", "path": ["j1"]}],
            [None],
            {"message": "boom"},
            "boom",
        ],
    )
    def test_a_null_for_another_reason_is_unreadable(self, errors: object) -> None:
        """The job is neither found, nor missing, nor unanswered."""
        statuses = poll_answer({"data": {"j0": job("a"), "j1": None}, "errors": errors}, ["a", "b"])
        assert ([found.id for found in statuses.found], statuses.missing, statuses.unanswered) == (
            ["a"],
            [],
            [],
        )

    @pytest.mark.parametrize(
        ("errors", "missing"),
        [
            (None, ["a"]),
            ([{"message": "not found", "path": ["generation"]}], ["a"]),
            ([{"message": "boom", "path": ["generation"]}], []),
            ([{"message": "boom"}], []),
        ],
    )
    def test_errors_beside_a_single_null_are_about_its_job(self, errors: object, missing: list[str]) -> None:
        """Whatever the error's path, the poll asked for one job only."""
        statuses = poll_answer({"data": {"generation": None}, "errors": errors}, ["a"])
        assert (statuses.found, statuses.missing, statuses.unanswered) == ([], missing, [])

    def test_an_absent_alias_is_unanswered(self) -> None:
        """A service without aliases answers only one of several."""
        statuses = poll_answer({"data": {"generation": job("b")}}, ["a", "b", "c"])
        assert ([found.id for found in statuses.found], statuses.missing, statuses.unanswered) == (
            ["b"],
            [],
            ["a", "c"],
        )

    def test_a_job_that_was_not_polled_is_ignored(self) -> None:
        """It is somebody else's."""
        statuses = poll_answer({"data": {"j0": job("other"), "j1": job("b")}}, ["a", "b"])
        assert ([found.id for found in statuses.found], statuses.missing, statuses.unanswered) == (
            ["b"],
            [],
            [],
        )

    @pytest.mark.parametrize("value", [5, "text", [], {}, {"id": "", "status": "completed"}, [job("a")]])
    def test_a_value_of_another_shape_is_unreadable(self, value: object) -> None:
        """The service did answer, so the job is not missing."""
        statuses = poll_answer({"data": {"j0": value, "j1": job("b")}}, ["a", "b"])
        assert ([found.id for found in statuses.found], statuses.missing, statuses.unanswered) == (
            ["b"],
            [],
            [],
        )

    @pytest.mark.parametrize("ids", [["a"], ["a", "b"]])
    @pytest.mark.parametrize("body", [None, {}, [], "x", {"data": None}, {"data": {}}, {"data": [job("a")]}])
    def test_an_answer_about_none_of_the_jobs_is_a_protocol_failure(
        self, body: object, ids: list[str]
    ) -> None:
        """HTML or foreign JSON must not make a job count as missing."""
        failure = failure_in(wire.read_poll(answer_of(body), ids))
        assert failure.kind is FailureKind.PROTOCOL
        assert "none of the jobs that were asked for" in failure.message

    def test_no_data_with_an_error_is_that_error(self) -> None:
        """The service rejected the whole request."""
        body = {"data": None, "errors": [{"message": 'Cannot query field "generation" on type "Query".'}]}
        assert failure_in(wire.read_poll(answer_of(body), ["a"])).kind is FailureKind.BAD_REQUEST

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(500, FailureKind.SERVER), (302, FailureKind.GATEWAY), (100, FailureKind.PROTOCOL)],
    )
    def test_an_unsuccessful_status_is_a_failure(self, status: int, kind: FailureKind) -> None:
        """Even with jobs in the body, since nothing shows what went wrong."""
        assert failure_in(wire.read_poll(answer_of({"data": {"j0": job("a")}}, status), ["a"])).kind is kind


class TestReadGeneration:
    @pytest.mark.parametrize("name", ["url", "videoUrl", "audioUrl"])
    def test_without_a_status_the_url_decides(self, name: str) -> None:
        """The flat forms of the reference have one or the other."""
        done = wire.read_generation({"id": "a", name: "https://cdn.example/a"})
        assert done == Generation(id="a", status=JobStatus.COMPLETED, url="https://cdn.example/a")
        assert wire.read_generation({"id": "a", name: None}) == Generation(
            id="a", status=JobStatus.PROCESSING
        )

    def test_a_webhook_names_the_provider_service(self) -> None:
        """It says `service` where other bodies say `provider`."""
        read = wire.read_generation({**DOCUMENTED_COMPLETED, "service": "flux-kontext"})
        assert read is not None
        assert read.provider == "flux-kontext"

    @pytest.mark.parametrize(
        "value", [None, 5, "a", [], {}, {"status": "completed"}, {"id": [], "status": "x"}]
    )
    def test_anything_without_an_id_is_no_job(self, value: object) -> None:
        """Only an id makes a job."""
        assert wire.read_generation(value) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
shapes: st.SearchStrategy[object] = st.dictionaries(
    st.sampled_from(
        ["data", "errors", "error", "id", "status", "url", "j0", "j1", "path", "message", "code"]
    ),
    st.deferred(lambda: jsons | shapes | st.lists(shapes, max_size=2)),
    max_size=4,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(jsons | shapes, st.sampled_from([100, 200, 204, 301, 400, 401, 402, 404, 418, 429, 500, 599]))
def test_any_answer_can_be_read(body: object, status: int) -> None:
    """Any JSON under any status is a job, a poll answer or a failure, and never an exception."""
    answer = answer_of(body, status)
    assert isinstance(wire.read_submit(answer), Generation | Failure)
    for ids in (["a"], ["a", "b"]):
        statuses = wire.read_poll(answer, ids)
        assert isinstance(statuses, PollAnswer | Failure)
        if isinstance(statuses, PollAnswer):
            reported = [*(found.id for found in statuses.found), *statuses.missing, *statuses.unanswered]
            assert len(reported) == len(set(reported))
            assert set(reported) <= set(ids)


snapshots = st.builds(
    Generation,
    id=texts,
    status=st.sampled_from([*JobStatus, JobStatus("upscaling")]),
    url=st.none() | texts,
    type=st.none() | texts,
    provider=st.none() | texts,
    metadata=jsons,
    credit_cost=st.none() | st.integers(0, 10_000),
    created_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


def as_service_json(snapshot: Generation) -> dict[str, Any]:
    """Write a snapshot as the service does."""
    return {
        "id": snapshot.id,
        "status": snapshot.status.value,
        "url": snapshot.url,
        "type": snapshot.type,
        "provider": snapshot.provider,
        "metadata": snapshot.metadata,
        "creditCost": snapshot.credit_cost,
        "createdAt": snapshot.created_at and snapshot.created_at.isoformat(),
    }


@settings(deadline=None, max_examples=200)
@given(snapshots)
def test_a_snapshot_round_trips(snapshot: Generation) -> None:
    """The reader loses nothing that the service writes."""
    assert wire.read_generation(as_service_json(snapshot)) == snapshot
    assert wire.read_submit(answer_of({"data": {"generate": as_service_json(snapshot)}})) == snapshot


@settings(deadline=None, max_examples=50)
@given(st.lists(snapshots, min_size=1, max_size=5, unique_by=lambda snapshot: snapshot.id), st.randoms())
def test_a_poll_brings_every_job_once(jobs: list[Generation], chance: Any) -> None:
    """In any order of the aliases."""
    ids = [snapshot.id for snapshot in jobs]
    aliases = [(f"j{n}", as_service_json(snapshot)) for n, snapshot in enumerate(jobs)]
    chance.shuffle(aliases)
    statuses = poll_answer({"data": dict(aliases)}, ids)
    assert sorted(found.id for found in statuses.found) == sorted(ids)
    assert all(found in jobs for found in statuses.found)
    assert (statuses.missing, statuses.unanswered) == ([], [])
