"""How answers are read, checked with the documented bodies and with nonsense."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.transport import wire
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.wire import Answer, PollAnswer
from doitong_async.types import Generation, JobStatus

# The bodies of the reference (`wire/`) as data.
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
            id="abc123xyz",
            status=JobStatus.PROCESSING,
            created_at=DOCUMENTED_DAY,
            extra={"webhookUrl": "https://your-webhook.com/callback"},
        )
        assert wire.read_submit(answer_of({"data": {key: DOCUMENTED_COMPLETED}})) == Generation(
            id="abc123xyz",
            status=JobStatus.COMPLETED,
            url="https://cdn.doitong.com/outputs/abc123xyz.jpg",
            created_at=DOCUMENTED_DAY,
            extra={"duration": None},
        )

    @pytest.mark.parametrize("body", [DOCUMENTED_PROCESSING, {"data": DOCUMENTED_PROCESSING}])
    @pytest.mark.parametrize("status", [200, 201, 202])
    def test_a_bare_body_is_read(self, body: object, status: int) -> None:
        """The reference shows no REST body; the reader knows a job by its shape."""
        read = wire.read_submit(answer_of(body, status))
        assert isinstance(read, Generation)
        assert read.id == "abc123xyz"

    @pytest.mark.parametrize(
        "envelope",
        [
            {"id": "request-1", "data": {"generate": job("a")}},
            {"id": "request-1", "status": 200, "data": job("a")},
            {**job("a"), "data": {"width": 512}},
            {**job("a"), "data": None},
        ],
    )
    def test_an_id_beside_data_is_a_job_only_if_it_looks_like_one(self, envelope: object) -> None:
        """A gateway may number its answers: that number is no job, and the one that was paid is below."""
        read = wire.read_submit(answer_of(envelope))
        assert isinstance(read, Generation)
        assert read.id == "a"

    def test_a_job_beside_a_job_in_data_are_two(self) -> None:
        """Which of them was paid for, nothing shows; a poll knows its id."""
        body = {**job("a"), "data": job("b")}
        assert "several jobs" in failure_in(wire.read_submit(answer_of(body))).message
        for job_id in ("a", "b"):
            assert [each.id for each in poll_answer(body, [job_id]).found] == [job_id]

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
    extra=st.dictionaries(st.sampled_from(["width", "completedAt", "reason"]), jsons),
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
        **snapshot.extra,
    }


def test_what_has_no_attribute_is_kept() -> None:
    """All but the URL that is the output's own; a value that is no JSON costs only the extra fields."""
    odd = {**job("a"), "url": "u", "videoUrl": "u", "audioUrl": "v", "width": 5, "nested": {"a": [1, None]}}
    read = wire.read_generation(odd)
    assert read is not None
    assert (read.url, read.extra) == ("u", {"audioUrl": "v", "width": 5, "nested": {"a": [1, None]}})
    read = wire.read_generation({**job("a"), "width": object()})
    assert read == Generation(id="a", status=JobStatus.PROCESSING)


def test_errors_beside_a_failed_job_are_kept() -> None:
    """They may say why it failed; beside a running one they are about its fields."""
    errors = [{"message": "too spicy", "path": ["j0"]}]
    failed = poll_answer({"data": {"j0": job("a", "failed")}, "errors": errors}, ["a"]).found
    assert [each.extra for each in failed] == [{"errors": errors}]
    running = poll_answer({"data": {"j0": job("a")}, "errors": errors}, ["a"]).found
    assert [each.extra for each in running] == [{}]


def test_an_error_is_kept_with_the_job_that_it_is_about() -> None:
    """Of several jobs in one poll, the others failed for reasons of their own."""
    errors = [{"message": "too spicy", "path": ["j1"]}, {"message": "no job c", "path": ["j2"]}]
    data = {"j0": job("a", "failed"), "j1": job("b", "failed"), "j2": None}
    found = poll_answer({"data": data, "errors": errors}, ["a", "b", "c"]).found
    assert {each.id: each.extra for each in found} == {"a": {}, "b": {"errors": errors[:1]}}


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
