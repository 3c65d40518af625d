"""The schema against the client's documents, read by a real GraphQL server's introspection."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import build_schema, graphql_sync

from doitong_async import Assumption, AsyncDoitong, CheckOutcome, Finding
from doitong_async.check.observed import Observed, Probed
from doitong_async.check.schema import needed, schema_findings
from doitong_async.transport.forms import Form
from doitong_async.transport.introspection import document_with_input
from doitong_async.transport.wire import Answer

SCHEMA = """
scalar JSON
input GenerateInput {{ type: String! provider: String! input: JSON options: {options} {webhook} }}
input Options {{ width: Int webhookUrl: String }}
input ImageGenerationInput {{ service: String! prompt: String! webhookUrl: String }}
type Generation {{
  id: ID! status: String type: String provider: String url: String
  metadata: JSON width: Int height: Int {fields}
}}
type Mutation {{
  generate(input: GenerateInput! {argument}): Generation
  generateImage(input: ImageGenerationInput!): Generation
}}
type Query {{ {query} }}
"""
USUAL = {
    "options": "JSON",
    "webhook": "webhookUrl: String",
    "fields": "creditCost: Int createdAt: String",
    "argument": "",
    "query": "generation(id: ID!): Generation",
}


def answer_of(body: Any, status: int = 200) -> Probed:
    """Return what came of a request that was answered so."""
    return Probed(Answer(status, {}, body, str(body)))


UNKNOWN_FIELD = answer_of({"errors": [{"message": 'Cannot query field "generation" on type "Query".'}]}, 400)
BROKEN = answer_of({"errors": [{"message": "Internal server error"}]}, 500)
FOUND_NOTHING = answer_of({"data": {"j0": None}})


def found(
    *,
    form: Form = Form.GRAPHQL,
    single: Probed = FOUND_NOTHING,
    settings: dict[str, Any] | None = None,
    **parts: str,
) -> dict[Assumption, Finding]:
    """Return the findings about a service with this schema."""
    needs = needed(form)
    assert needs is not None
    schema = build_schema(SCHEMA.format(**{**USUAL, **parts}))
    shown = graphql_sync(schema, document_with_input(needs.input_type))
    assert shown.errors is None
    seen = Observed(form=form, single_id="x", single=single, between=answer_of({"data": shown.data}))
    doitong = AsyncDoitong(api_key="k", **(settings or {}))
    return {each.assumption: each for each in schema_findings(seen, doitong._shared.settings)}


def test_the_documented_schema_holds() -> None:
    """In every line."""
    assert {each.outcome for each in found().values()} == {CheckOutcome.HOLDS}


def test_another_form_needs_another_mutation() -> None:
    """The form is an argument; its input has the webhook's field as well."""
    findings = found(form=Form.FLAT, webhook="")
    assert findings[Assumption.GENERATE].detail.startswith("generateImage(input: ImageGenerationInput)")
    assert {each.outcome for each in findings.values()} == {CheckOutcome.HOLDS}


def test_each_form_needs_what_its_document_says() -> None:
    """REST has none."""
    flat = needed(Form.FLAT)
    assert flat is not None
    assert (flat.mutation, flat.input_type) == ("generateImage", "ImageGenerationInput")
    assert flat.returned == {"id", "url", "width", "height"}
    assert needed(Form.REST) is None


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"fields": "createdAt: String"}, "has no creditCost, which the client asks for"),
        ({"fields": ""}, "has no createdAt, creditCost"),
        ({"argument": "team: ID!"}, "takes (input: GenerateInput, team: ID)"),
    ],
)
def test_a_mutation_that_the_document_does_not_fit_is_found(parts: dict[str, Any], words: str) -> None:
    """No job could be made."""
    finding = found(**parts)[Assumption.GENERATE]
    assert (finding.outcome, finding.is_blocking) == (CheckOutcome.FAILS, True)
    assert words in finding.detail


def test_an_argument_that_may_be_left_out_is_no_obstacle() -> None:
    """The documented mutation does not pass it."""
    assert found(argument="dry: Boolean")[Assumption.GENERATE].outcome is CheckOutcome.HOLDS


@pytest.mark.parametrize(
    ("parts", "field", "outcome", "settings"),
    [
        ({}, "webhookUrl", "holds", {}),
        ({"options": "Options"}, "options.webhookUrl", "holds", {}),
        (
            {"options": "Options!", "webhook": ""},
            "webhookUrl",
            "fails",
            {"webhook_field": "options.webhookUrl"},
        ),
        ({"webhook": "webhook: String"}, "webhookUrl", "fails", {"webhook_field": "webhook"}),
        ({"webhook": "webhookA: ID webhookB: ID"}, "webhookUrl", "fails", {}),
        ({"webhook": ""}, "webhookUrl", "fails", {}),
        ({"webhook": ""}, "options.webhookUrl", "unknown", {}),
        ({"webhook": ""}, "settings.webhookUrl", "fails", {}),
    ],
)
def test_where_the_webhooks_url_belongs(
    parts: dict[str, Any], field: str, outcome: str, settings: dict[str, str]
) -> None:
    """Within the input and the inputs in it; what a JSON scalar holds, no schema says."""
    finding = found(settings={"webhook_field": field}, **parts)[Assumption.WEBHOOK_FIELD]
    assert (finding.outcome, finding.settings) == (outcome, settings)


@pytest.mark.parametrize(
    ("query", "asked", "outcome", "settings"),
    [
        ("generation(id: ID): Generation", "generation(id: ID!)", "holds", {}),
        ("generation(id: ID!): Generation", "generation(id: ID)", "fails", "generation(id: ID!)"),
        ("job(jobId: String!): Generation", "generation(id: ID!)", "fails", "job(jobId: String!)"),
        (
            "generation(id: Int!): Generation job(id: ID!): Generation",
            "generation(id: ID!)",
            "fails",
            "generation(id: Int!)",
        ),
        ("one(id: ID!): Generation two(id: ID!): Generation", "generation(id: ID!)", "fails", None),
        ("list: [Generation]", "generation(id: ID!)", "fails", None),
    ],
)
def test_a_rejected_poll_finds_the_operation_in_the_schema(
    query: str, asked: str, outcome: str, settings: str | None
) -> None:
    """If there is one, or one with the name that is set; several are listed, and none is chosen."""
    finding = found(single=UNKNOWN_FIELD, query=query, settings={"status_operation": asked})[
        Assumption.STATUS
    ]
    assert finding.outcome == outcome
    assert finding.settings == ({"status_operation": settings} if settings else {})


@pytest.mark.parametrize(
    "single", [BROKEN, answer_of({"data": {"j0": None}, "errors": [{"path": ["j0"], "message": "bad id"}]})]
)
def test_a_poll_that_fails_for_another_reason_leaves_it_to_the_schema(single: Probed) -> None:
    """The made-up id may be refused, or the service be broken at the moment."""
    assert found(single=single)[Assumption.STATUS].outcome is CheckOutcome.HOLDS


@pytest.mark.parametrize("body", [{"data": {"other": None}}, {"data": {"j1": None}}])
def test_an_answer_under_another_alias_proves_nothing(body: Any) -> None:
    """Whoever sent it has not read the poll."""
    seen = Observed(
        form=Form.GRAPHQL, single_id="x", single=answer_of(body), between=answer_of({"data": None})
    )
    doitong = AsyncDoitong(api_key="k")
    *_, finding = schema_findings(seen, doitong._shared.settings)
    assert finding.outcome is CheckOutcome.UNKNOWN


def test_a_poll_without_data_and_schema_tells_nothing() -> None:
    """The reason is the service's own."""
    seen = Observed(
        form=Form.GRAPHQL,
        single_id="x",
        single=BROKEN,
        between=answer_of({"errors": [{"message": "closed"}]}, 400),
    )
    doitong = AsyncDoitong(api_key="k")
    *_, finding = schema_findings(seen, doitong._shared.settings)
    assert finding.outcome is CheckOutcome.UNKNOWN
    assert "Internal server error" in finding.detail
