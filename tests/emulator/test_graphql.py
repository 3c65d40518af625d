"""The GraphQL endpoint: forms, aliases, errors, and GraphQL over HTTP."""

from typing import Any

import pytest
from graphql import build_client_schema, get_introspection_query

from doitong_async.emulator.limits import PlanLimits
from doitong_async.emulator.world import World
from tests.emulator.direct import A_FOX, GENERATE, OUTPUTS, EmulatorApi, codes

POLL = "query($id: ID!) { generation(id: $id) { id status url } }"
TWO = "mutation($i: GenerateInput!) { a: generate(input: $i) { id } b: generate(input: $i) { id } }"


def test_job_is_created_and_polled_until_it_completes() -> None:
    """Processing without a URL, then completed with one."""
    api = EmulatorApi()
    made = api.graphql(GENERATE, {"input": A_FOX}).body["data"]["generate"]
    assert (made["status"], made["url"], made["creditCost"]) == ("processing", None, 20)
    seen = api.graphql(POLL, {"id": made["id"]}, now=10.0).body["data"]["generation"]
    url = f"{OUTPUTS}/{made['id']}.jpg"
    assert seen == {"id": made["id"], "status": "completed", "url": url}


@pytest.mark.parametrize(
    ("field", "input_type", "given", "made"),
    [
        ("generateImage", "ImageGenerationInput", {"service": "s", "prompt": "p", "width": 64}, "IMAGE"),
        ("animateImage", "ImageAnimationInput", {"service": "s", "imageUrl": "u", "duration": 5}, "VIDEO"),
        ("generateAvatar", "AvatarGenerationInput", {"service": "s", "text": "t", "avatarId": "a"}, "AVATAR"),
        ("generateSpeech", "TTSInput", {"service": "s", "text": "t", "voice": "v", "speed": 1.0}, "AUDIO"),
    ],
)
def test_flat_forms(field: str, input_type: str, given: dict[str, Any], made: str) -> None:
    """Each of the older mutations makes a job of its type."""
    api = EmulatorApi()
    query = f"mutation($input: {input_type}!) {{ {field}(input: $input) {{ id type provider }} }}"
    answer = api.graphql(query, {"input": given}).body["data"][field]
    assert (answer["type"], answer["provider"]) == (made, "s")
    assert list(api.world.jobs) == [answer["id"]]


def test_request_of_many_aliases_counts_as_one() -> None:
    """This is what makes a coalesced poll worthwhile."""
    api = EmulatorApi()
    api.graphql(TWO, {"i": A_FOX})
    ids = list(api.world.jobs)
    api.graphql(
        "query($a: ID!, $b: ID!) { a: generation(id: $a) { id } b: generation(id: $b) { id } }",
        {"a": ids[0], "b": ids[1]},
    )
    assert [(seen.kind, seen.ids) for seen in api.world.seen] == [
        ("submit", tuple(ids)),
        ("poll", tuple(ids)),
    ]
    assert api.world.allowance("k", 0.0).remaining == 58


def test_unknown_id_is_null_at_its_alias() -> None:
    """The error's path names the alias; the other jobs are answered, with HTTP 200."""
    api = EmulatorApi()
    made = api.graphql(GENERATE, {"input": A_FOX}).body["data"]["generate"]["id"]
    reply = api.graphql(f'{{ a: generation(id: "{made}") {{ id }} b: generation(id: "nothing") {{ id }} }}')
    assert reply.status == 200
    assert reply.body["data"] == {"a": {"id": made}, "b": None}
    assert [error["path"] for error in reply.body["errors"]] == [["b"]]
    assert codes(reply) == ["NOT_FOUND"]
    assert reply.ids == (made, "nothing")


def test_only_unknown_ids_are_still_200() -> None:
    """The error table has no 404."""
    reply = EmulatorApi().graphql(POLL, {"id": "nothing"})
    assert (reply.status, reply.body["data"], codes(reply)) == (200, {"generation": None}, ["NOT_FOUND"])


def test_rejecting_some_of_the_jobs_is_a_partial_answer() -> None:
    """On Free, the first of two is made and the second is not."""
    api = EmulatorApi("free")
    reply = api.graphql(TWO, {"i": A_FOX})
    assert reply.status == 200
    assert reply.body["data"]["a"]
    assert reply.body["data"]["b"] is None
    assert codes(reply) == ["CONCURRENCY_LIMITED"]


def test_rejected_job_has_the_status_of_the_table() -> None:
    """402 and the documented body, without data."""
    reply = EmulatorApi(credits=5).graphql(GENERATE, {"input": A_FOX})
    assert reply.status == 402
    assert set(reply.body) == {"errors"}
    (error,) = reply.body["errors"]
    assert error["message"] == "Insufficient credits for this operation"
    assert error["extensions"] == {
        "code": "INSUFFICIENT_CREDITS",
        "creditsRequired": 20,
        "creditsAvailable": 5,
    }
    assert error["path"] == ["generate"]


def test_errors_can_come_with_200() -> None:
    """error_status="200" behaves as most GraphQL servers do."""
    api = EmulatorApi(PlanLimits(1, 1, None), error_status="200", credits=5)
    refused = api.graphql(GENERATE, {"input": A_FOX})
    assert (refused.status, refused.body["data"], codes(refused)) == (
        200,
        {"generate": None},
        ["INSUFFICIENT_CREDITS"],
    )
    limited = api.graphql(GENERATE, {"input": A_FOX})
    assert (limited.status, codes(limited)) == (200, ["RATE_LIMITED"])


@pytest.mark.parametrize(
    "given",
    [
        {"type": "IMAGE", "input": {"text": "x"}},
        {"type": "IMAGE", "provider": "flux-pro", "input": {}},
        {**A_FOX, "options": {"width": 0}},
    ],
)
def test_incomplete_input_is_400(given: dict[str, Any]) -> None:
    """Whether GraphQL's types or the service finds it."""
    reply = EmulatorApi().graphql(GENERATE, {"input": given})
    assert (reply.status, codes(reply)) == (400, ["BAD_USER_INPUT"])


def test_same_request_under_the_same_key_is_a_replay() -> None:
    """The first answer unchanged, even after the job has ended; and one charge."""
    api = EmulatorApi()
    first = api.graphql(GENERATE, {"input": A_FOX}, Idempotency_Key="once")
    again = api.graphql(GENERATE, {"input": A_FOX}, now=50.0, Idempotency_Key="once")
    assert again == first
    assert (api.world.charges, api.world.allowance("k", 50.0).remaining) == (1, 58)


def test_other_request_under_the_same_key_is_a_conflict() -> None:
    """409."""
    api = EmulatorApi()
    api.graphql(GENERATE, {"input": A_FOX}, Idempotency_Key="once")
    other = {"input": {**A_FOX, "provider": "flux-krea"}}
    reply = api.graphql(GENERATE, other, Idempotency_Key="once")
    assert (reply.status, codes(reply), api.world.charges) == (409, ["IDEMPOTENCY_CONFLICT"], 1)


def test_status_field_can_have_another_name() -> None:
    """The real name is unknown."""
    api = EmulatorApi(status_field="checkJobStatus")
    made = api.graphql(GENERATE, {"input": A_FOX}).body["data"]["generate"]["id"]
    answer = api.graphql(f'{{ checkJobStatus(id: "{made}") {{ id }} }}').body["data"]
    assert answer == {"checkJobStatus": {"id": made}}
    assert api.world.count("poll") == 1
    assert codes(api.graphql(POLL, {"id": made})) == ["BAD_USER_INPUT"]


def test_answer_can_come_under_the_documented_key() -> None:
    """The documented bodies say `generateimage` for every mutation; a poll keeps its field's name."""
    api = EmulatorApi(answer_key="generateimage")
    made = api.graphql(GENERATE, {"input": A_FOX}).body["data"]
    assert list(made) == ["generateimage"]
    assert list(api.graphql(POLL, {"id": made["generateimage"]["id"]}).body["data"]) == ["generation"]
    assert list(api.graphql(TWO, {"i": A_FOX}).body["data"]) == ["a", "b"]


def test_introspection_shows_one_type_for_submits_and_polls() -> None:
    """A client can check its status operation against it."""
    api = EmulatorApi()
    schema = build_client_schema(api.graphql(get_introspection_query()).body["data"])
    assert schema.query_type
    assert schema.mutation_type
    created, polled = schema.mutation_type.fields["generate"], schema.query_type.fields["generation"]
    assert str(created.type) == str(polled.type) == "Generation"
    assert api.world.count("introspection") == 1


def test_a_closed_schema_is_not_shown() -> None:
    """The request is counted, and polls are answered as ever."""
    api = EmulatorApi(introspection=False)
    reply = api.graphql("{ __schema { queryType { name } } }")
    assert (reply.status, codes(reply)) == (400, ["BAD_USER_INPUT"])
    assert api.world.allowance("k", 0.0).remaining == 59
    assert codes(api.graphql(POLL, {"id": "x"})) == ["NOT_FOUND"]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("query Q { ...F } fragment F on Query { generation(id: 1) { id } }", "poll"),
        ("{ ... on Query { generation(id: 1) { id } } __typename }", "poll"),
        ("{ __typename }", "other"),
        ('{ generation(id: 1) { id } __type(name: "JSON") { name } }', "introspection"),
        ("query A { __typename } query B { __typename }", "other"),
        ("{ nothing }", "other"),
    ],
)
def test_kind_follows_from_the_document(query: str, kind: str) -> None:
    """It decides whether a request counts, in whatever form it is written."""
    api = EmulatorApi()
    api.graphql(query)
    assert api.world.seen[-1].kind == kind


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        ("application/json", 200, "application/json"),
        ("*/*", 200, "application/json"),
        (
            "application/json, application/graphql-response+json; q=0.9",
            400,
            "application/graphql-response+json",
        ),
    ],
)
def test_bad_document_answers_as_graphql_over_http_says(accept: str, status: int, content_type: str) -> None:
    """200 in plain JSON, 400 in GraphQL's own media type; never with data."""
    for query in ("{", "{ nothing }", "query($id: ID!) { generation(id: $id) { id } }"):
        reply = EmulatorApi().graphql(query, Accept=accept)
        assert (reply.status, reply.content_type, set(reply.body)) == (status, content_type, {"errors"})


def test_only_json_is_accepted() -> None:
    """406 if the client wants another answer, 415 if it sends another body."""
    api = EmulatorApi()
    assert api.graphql("{ __typename }", Accept="text/html").status == 406
    assert api.graphql("{ __typename }", Content_Type="text/plain").status == 415


@pytest.mark.parametrize(
    "body",
    [
        b"{ not json",
        b"[]",
        {},
        {"query": 7},
        {"query": "{ __typename }", "variables": [1]},
        {"query": "{ __typename }", "operationName": 1},
        {"query": "{ __typename }", "extensions": "x"},
    ],
)
def test_malformed_request_is_400(body: object) -> None:
    """Before anything is executed."""
    reply = EmulatorApi().call("POST", "/graphql", body)
    assert (reply.status, codes(reply)) == (400, ["BAD_USER_INPUT"])


def test_query_by_get() -> None:
    """Parameters are in the query string, variables as JSON."""
    given = {"query": "query($n: String!) { __type(name: $n) { name } }", "variables": '{"n": "JSON"}'}
    assert EmulatorApi().call("GET", "/graphql", query=given).body["data"] == {"__type": {"name": "JSON"}}
    assert EmulatorApi().call("GET", "/graphql", query={**given, "variables": "{"}).status == 400


def test_mutation_by_get_is_rejected() -> None:
    """405, and no job."""
    api = EmulatorApi()
    given = {"query": 'mutation { generateImage(input: {service: "s", prompt: "p"}) { id } }'}
    assert api.call("GET", "/graphql", query=given).status == 405
    assert api.call("PUT", "/graphql").status == 405
    assert not api.world.jobs


def test_bad_document_is_cached_too() -> None:
    """Each text is parsed once, good or bad; each request is still answered and counted."""
    api = EmulatorApi()
    first, again = api.graphql("{ nothing }"), api.graphql("{ nothing }")
    assert first == again
    assert api.world.most_in_window == 2


def test_bug_of_the_emulator_is_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception becomes an error with a code."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(World, "submit", broken)
    reply = EmulatorApi().graphql(GENERATE, {"input": A_FOX})
    assert (reply.status, codes(reply)) == (500, ["INTERNAL_SERVER_ERROR"])
