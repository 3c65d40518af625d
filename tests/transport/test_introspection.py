"""Introspection finds the status query by its shape, not by its name."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import build_schema, graphql_sync, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.transport import introspection
from doitong_async.transport.introspection import status_candidates
from doitong_async.transport.status import StatusOperation

SCHEMA = """
scalar JSON
input GenerateInput {{ type: String provider: String input: JSON options: JSON }}
type Generation {{ id: ID! status: String url: String metadata: JSON creditCost: Int createdAt: String }}
type Account {{ id: ID! credits: Int }}
type Mutation {{ generate(input: GenerateInput!): {made} rename(id: ID!): Account }}
type Query {{ {fields} }}
"""


def candidates_in(fields: str, made: str = "Generation") -> list[str]:
    """Return the candidates that a real GraphQL server with this schema yields, as text."""
    schema = build_schema(SCHEMA.format(fields=fields, made=made))
    answer = graphql_sync(schema, introspection.DOCUMENT)
    assert answer.errors is None
    return [str(candidate) for candidate in status_candidates({"data": answer.data})]


def test_the_document_is_valid_graphql() -> None:
    """It stays below the depth limits that services set."""
    parse(introspection.DOCUMENT)
    assert introspection.DOCUMENT.count("ofType") == 9


@pytest.mark.parametrize(
    ("fields", "candidates"),
    [
        ("generation(id: ID!): Generation", ["generation(id: ID!)"]),
        ("job(jobId: String!): Generation!", ["job(jobId: String!)"]),
        ("generation(id: Int!): Generation", ["generation(id: Int!)"]),
        ("checkJobStatus(jobId: ID): Generation", ["checkJobStatus(jobId: ID)"]),
        ("generation(id: ID! = 5): Generation", ["generation(id: ID!)"]),
        (
            "generation(id: ID!): Generation job(id: ID!): Generation",
            ["generation(id: ID!)", "job(id: ID!)"],
        ),
        (
            "account(id: ID!): Account generation(id: ID!, wait: Boolean): Generation",
            ["generation(id: ID!)"],
        ),
        ('generation(id: ID!, size: String! = "s"): Generation', ["generation(id: ID!)"]),
    ],
)
def test_a_field_that_takes_one_id_and_returns_a_generation_is_a_candidate(
    fields: str, candidates: list[str]
) -> None:
    """Whatever its name, and with other arguments if the schema lets us omit them."""
    assert candidates_in(fields) == candidates


@pytest.mark.parametrize(
    "fields",
    [
        "account(id: ID!): Account",
        "generations(id: ID!): [Generation!]!",
        "generation: Generation",
        "generation(ids: [ID!]!): Generation",
        "generation(id: ID!, region: String!): Generation",
        "generation(id: ID!, accountId: ID!): Generation",
        "generation(name: String!): Generation",
        "generation(id: Boolean!): Generation",
        "generation(number: Int!): Generation",
    ],
)
def test_other_fields_are_not_candidates(fields: str) -> None:
    """Another type, a list, no id, two ids, or an unknown required argument."""
    assert candidates_in(fields) == []


@pytest.mark.parametrize("made", ["Generation!", "[Generation!]!"])
def test_the_type_may_be_wrapped(made: str) -> None:
    """In lists and non-nulls, as deep as GraphQL schemas go."""
    assert candidates_in("generation(id: ID!): Generation!", made) == ["generation(id: ID!)"]


ID = {"name": "id", "defaultValue": None, "type": {"kind": "SCALAR", "name": "ID", "ofType": None}}
OBJECT = {"kind": "OBJECT", "name": "Generation", "ofType": None}


def by_hand(**changes: object) -> dict[str, Any]:
    """Write the answer to `DOCUMENT` by hand, with changes to its schema."""
    schema = {
        "queryType": {"fields": [{"name": "generation", "args": [ID], "type": OBJECT}]},
        "mutationType": {"fields": [{"name": "generate", "type": OBJECT}]},
    }
    return {"data": {"__schema": {**schema, **changes}}}


def test_a_minimal_answer_is_enough() -> None:
    """It holds only the fields that the client reads."""
    assert status_candidates(by_hand()) == [StatusOperation("generation", "id", "ID")]


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"data": None},
        {"data": {"__schema": None}, "errors": [{"message": "introspection is off"}]},
        by_hand(queryType=None),
        by_hand(mutationType=None),
        by_hand(mutationType={"fields": None}),
        by_hand(mutationType={"fields": [{"name": "make", "type": OBJECT}]}),
        by_hand(mutationType={"fields": [{"name": "generate", "type": None}]}),
        by_hand(mutationType={"fields": ["generate"]}),
        by_hand(queryType={"fields": [{"name": "generation", "args": None, "type": OBJECT}]}),
        by_hand(queryType={"fields": [{"name": "generation", "args": [ID], "type": {}}]}),
    ],
)
def test_an_unusable_schema_has_no_candidates(body: object) -> None:
    """Introspection may be switched off, or the server may not speak GraphQL."""
    assert status_candidates(body) == []


# What a mutation takes and returns.


WHOLE = """
scalar JSON
input More {{ webhookUrl: String width: Int }}
input GenerateInput {{ type: String! options: JSON more: More! {field} }}
type Generation {{ id: ID! status: String url: String }}
type Mutation {{ generate(input: GenerateInput!, dry: Boolean, region: String!): {made} }}
type Query {{ generation(id: ID!): Generation }}
"""


def shown(field: str = "webhookUrl: String", made: str = "Generation") -> Any:
    """Return what a real GraphQL server with this schema answers to the larger document."""
    schema = build_schema(WHOLE.format(field=field, made=made))
    answer = graphql_sync(schema, introspection.document_with_input("GenerateInput"))
    assert answer.errors is None
    return {"data": answer.data}


@pytest.mark.parametrize("made", ["Generation", "Generation!"])
def test_a_mutation_is_shown_with_its_arguments_and_fields(made: str) -> None:
    """Which of the arguments are required, too."""
    (mutation,) = introspection.mutations(shown(made=made)).values()
    assert mutation.arguments == {"input": "GenerateInput", "dry": "Boolean", "region": "String"}
    assert mutation.required == {"input", "region"}
    assert mutation.fields == {"id", "status", "url"}


def test_an_input_type_is_shown_with_the_fields_of_its_own_inputs() -> None:
    """Wrapped or not; a scalar has none."""
    assert introspection.input_fields(shown()) == {
        "type": frozenset(),
        "options": frozenset(),
        "more": {"webhookUrl", "width"},
        "webhookUrl": frozenset(),
    }


def test_the_larger_document_shows_the_status_query_as_well() -> None:
    """One request is enough for a check."""
    body = shown()
    assert introspection.is_open(body)
    assert status_candidates(body) == [StatusOperation("generation", "id", "ID!")]


def test_a_type_that_the_schema_does_not_have_is_none() -> None:
    """Unlike one without fields."""
    assert introspection.input_fields({"data": {"__type": None}}) is None
    assert introspection.input_fields({"data": {"__type": {"inputFields": []}}}) == {}


@pytest.mark.parametrize(
    "body", [None, {}, {"data": None}, {"data": {"__schema": None}}, by_hand(queryType={})]
)
def test_a_schema_that_is_kept_back_is_closed(body: object) -> None:
    """Whatever the answer looks like."""
    assert not introspection.is_open(body)


names = st.sampled_from(["data", "__schema", "queryType", "mutationType", "fields", "args", "type", "name"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["generate", "ID", "NON_NULL"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(values, values, values)
def test_any_answer_can_be_read(body: object, query: object, mutation: object) -> None:
    """Whatever comes, the result is a list."""
    assert isinstance(status_candidates(body), list)
    assert isinstance(status_candidates(by_hand(queryType=query, mutationType=mutation)), list)
    for answer in (body, by_hand(queryType=query, mutationType=mutation)):
        assert isinstance(introspection.is_open(answer), bool)
        assert isinstance(introspection.mutations(answer), dict)
        introspection.input_fields(answer)


def test_a_query_exists_by_its_name_alone() -> None:
    """Its arguments and type do not matter: the setting names an existing query."""
    schema = {"queryType": {"fields": [{"name": "generation"}, {"name": "me"}]}}
    for name, is_there in (("generation", True), ("me", True), ("job", False)):
        assert introspection.has_query({"data": {"__schema": schema}}, name) is is_there
    assert introspection.has_query(None, "generation") is False
