"""What each documented form of a submit carries, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from graphql import FieldNode, OperationDefinitionNode, parse

from doitong_async.errors import BadRequestError
from doitong_async.transport.forms import GENERATE, Form, check_form, graphql_body, is_sent_alike, submit_body
from doitong_async.types import GenerateRequest

FLAT_FORMS = [Form.FLAT, Form.REST]
# The body of the reference (`wire/generate-request.json`) as data.
DOCUMENTED_VARIABLES = {
    "input": {
        "type": "IMAGE",
        "provider": "flux-kontext",
        "input": {"text": "A futuristic city with flying cars and neon lights"},
        "options": {"width": 1024, "height": 1024},
    }
}


def request_of(**fields: Any) -> GenerateRequest:
    """Return a request with the defaults filled in."""
    return GenerateRequest(**fields).with_defaults(provider="flux-pro", width=None, height=None)


def variables(request: GenerateRequest, **place: str) -> Any:
    """Return the variables of the `generate` mutation for a request."""
    body = json.loads(submit_body(Form.GRAPHQL, request, **place))
    assert body["query"] == GENERATE
    return body["variables"]


def flat(request: GenerateRequest, **place: str) -> tuple[str, Any]:
    """Return the root field and the input of a flat mutation for a request."""
    body = json.loads(submit_body(Form.FLAT, request, **place))
    (operation,) = parse(body["query"]).definitions
    assert isinstance(operation, OperationDefinitionNode)
    (field,) = operation.selection_set.selections
    assert isinstance(field, FieldNode)
    return field.name.value, body["variables"]["input"]


class TestGeneral:
    def test_they_match_the_documentation(self) -> None:
        """They equal wire/generate-request.json, name by name."""
        request = GenerateRequest(
            prompt="A futuristic city with flying cars and neon lights",
            provider="flux-kontext",
            type="IMAGE",
            width=1024,
            height=1024,
        )
        assert variables(request) == DOCUMENTED_VARIABLES

    def test_omitted_values_are_not_sent(self) -> None:
        """The service has its own defaults; there are no empty options."""
        request = GenerateRequest(prompt="a fox", provider="flux-pro", type="IMAGE")
        assert variables(request) == {
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
        assert variables(request) == {
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
        assert variables(request)["input"] == {
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
            return variables(request, webhook_url="https://a.example", **place)["input"]

        plain = variables(request)["input"]
        assert isinstance(plain, dict)
        assert fields() == {**plain, "webhookUrl": "https://a.example"}
        assert fields(webhook_field="options.webhookUrl")["options"]["webhookUrl"] == "https://a.example"
        assert fields(webhook_field="options.mine.webhookUrl") == plain
        assert fields(webhook_field="options.hooks.done")["options"]["seed"] == 7
        assert request.options == {"seed": 7, "mine": {"webhookUrl": "https://b.example"}}

    def test_the_mutation_is_valid_graphql(self) -> None:
        """It asks for the documented fields and no others."""
        (operation,) = parse(GENERATE).definitions
        assert isinstance(operation, OperationDefinitionNode)
        (field,) = operation.selection_set.selections
        assert isinstance(field, FieldNode)
        assert field.selection_set is not None
        assert [
            part.name.value for part in field.selection_set.selections if isinstance(part, FieldNode)
        ] == [*("id", "status", "type", "provider", "url", "metadata", "creditCost", "createdAt")]


class TestGraphqlBody:
    def test_a_request_is_a_document_and_its_variables(self) -> None:
        """As GraphQL over HTTP specifies."""
        body = graphql_body("query { x }", {"狐": [1, None]})
        assert json.loads(body) == {"query": "query { x }", "variables": {"狐": [1, None]}}

    def test_a_value_that_json_cannot_hold_is_rejected(self) -> None:
        """Nothing is sent."""
        with pytest.raises(BadRequestError, match="cannot be written as JSON"):
            graphql_body("query { x }", {"n": "\ud800"})


class TestFlat:
    @pytest.mark.parametrize(
        ("request_", "mutation", "fields"),
        [
            (
                request_of(prompt="a fox", width=512, height=256, version="flux-pro-1.1"),
                "generateImage",
                {
                    "service": "flux-pro",
                    "prompt": "a fox",
                    "width": 512,
                    "height": 256,
                    "version": "flux-pro-1.1",
                },
            ),
            (
                request_of(
                    provider="runway-i2v",
                    input={"image": "https://e.example/a.jpg"},
                    options={"duration": 5, "motionIntensity": "medium"},
                ),
                "animateImage",
                {
                    "service": "runway-i2v",
                    "imageUrl": "https://e.example/a.jpg",
                    "duration": 5,
                    "motionIntensity": "medium",
                },
            ),
            (
                request_of(prompt="hi", provider="hedra", input={"avatarId": "a"}, options={"voice": "deep"}),
                "generateAvatar",
                {"service": "hedra", "text": "hi", "avatarId": "a", "voice": "deep"},
            ),
            (
                request_of(
                    prompt="hi", provider="elevenlabs", input={"voice": "deep"}, options={"speed": 1.5}
                ),
                "generateSpeech",
                {"service": "elevenlabs", "text": "hi", "voice": "deep", "speed": 1.5},
            ),
        ],
    )
    def test_each_media_type_has_its_mutation_with_the_documented_fields(
        self, request_: GenerateRequest, mutation: str, fields: object
    ) -> None:
        """Reference, "The flat forms": the same request, its fields side by side under their flat names."""
        assert flat(request_) == (mutation, fields)

    def test_rest_has_the_same_fields_without_a_document(self) -> None:
        """Reference: the parameter table of the pictures is the only description of the REST body."""
        request = request_of(prompt="a fox", width=512)
        _, fields = flat(request)
        assert json.loads(submit_body(Form.REST, request)) == fields

    @pytest.mark.parametrize("form", FLAT_FORMS)
    def test_the_webhook_url_stands_beside_the_prompt(self, form: Form) -> None:
        """As documented; the request's own URL takes precedence."""
        ours, own = "https://a.example", "https://b.example"

        def url_of(request: GenerateRequest) -> object:
            body = json.loads(submit_body(form, request, webhook_url=ours))
            return (body if form is Form.REST else body["variables"]["input"])["webhookUrl"]

        assert url_of(request_of(prompt="a fox")) == ours
        assert url_of(request_of(prompt="a fox", options={"webhookUrl": own})) == own

    @pytest.mark.parametrize(
        ("request_", "form", "reason"),
        [
            *(
                (request_of(prompt="a fox", quality="high"), form, "has no place for quality of IMAGE")
                for form in FLAT_FORMS
            ),
            (request_of(prompt="waves", provider="kling"), Form.FLAT, "has no place for text of VIDEO"),
            (request_of(prompt="waves", provider="kling"), Form.REST, "has no VIDEO, only IMAGE"),
            (request_of(prompt="hi", provider="elevenlabs"), Form.REST, "has no AUDIO, only IMAGE"),
            (request_of(prompt="a fox", options={"seed": 7}), Form.FLAT, "has no place for seed of IMAGE"),
            (request_of(prompt="a fox", type="HOLOGRAM"), Form.FLAT, "has no HOLOGRAM, only IMAGE, VIDEO"),
            (
                request_of(provider="elevenlabs", input={"text": "a", "voice": "b"}, options={"voice": "c"}),
                Form.FLAT,
                "voice was given in input and in options",
            ),
        ],
    )
    def test_what_a_form_cannot_carry_is_refused_with_the_reason(
        self, request_: GenerateRequest, form: Form, reason: str
    ) -> None:
        """Nothing is left out in silence; the general form carries it."""
        for refuses in (check_form, submit_body):
            with pytest.raises(BadRequestError, match=reason):
                refuses(form, request_)
        check_form(Form.GRAPHQL, request_)
        assert submit_body(Form.GRAPHQL, request_)

    def test_a_body_goes_only_where_it_was_sent(self) -> None:
        """The GraphQL forms have one address, REST has another."""
        request = request_of(prompt="query { x }")
        for sent in Form:
            for form in Form:
                is_alike = (sent is Form.REST) == (form is Form.REST)
                assert is_sent_alike(form, submit_body(sent, request)) is is_alike
