"""The documented forms of a submit, and what each of them can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic_core import from_json, to_json

from doitong_async.errors import BadRequestError
from doitong_async.transport.failure import as_mapping
from doitong_async.types import GenerateRequest, MediaType


class Form(StrEnum):
    """How jobs are submitted (reference, "Create a job" and "The flat forms")."""

    GRAPHQL = "graphql"
    """The `generate` mutation, documented for every provider."""
    FLAT = "graphql-flat"
    """The older mutations, one per media type."""
    REST = "rest"
    """`POST /v1/text_to_image`, documented for pictures alone."""


GENERATE: Final = (
    "mutation Generate($input: GenerateInput!) "
    "{ generate(input: $input) { id status type provider url metadata creditCost createdAt } }"
)
"""The documented mutation, with the documented fields and no other."""


@dataclass(frozen=True, slots=True)
class _Flat:
    """A mutation of the flat form.

    `names` are the names of its fields, by the names that the general form has for them.
    """

    document: str
    names: Mapping[str, str]


_PICTURE: Final = {"text": "prompt", "width": "width", "height": "height", "version": "version"}
_FLAT: Final[Mapping[str, _Flat]] = {
    MediaType.IMAGE: _Flat(
        "mutation GenerateImage($input: ImageGenerationInput!) "
        "{ generateImage(input: $input) { id url width height } }",
        _PICTURE,
    ),
    MediaType.VIDEO: _Flat(
        "mutation AnimateImage($input: ImageAnimationInput!) "
        "{ animateImage(input: $input) { id status url } }",
        {"image": "imageUrl", "duration": "duration", "motionIntensity": "motionIntensity"},
    ),
    MediaType.AVATAR: _Flat(
        "mutation GenerateAvatar($input: AvatarGenerationInput!) "
        "{ generateAvatar(input: $input) { id status videoUrl } }",
        {"text": "text", "avatarId": "avatarId", "voice": "voice"},
    ),
    MediaType.AUDIO: _Flat(
        "mutation GenerateSpeech($input: TTSInput!) "
        "{ generateSpeech(input: $input) { id audioUrl duration } }",
        {"text": "text", "voice": "voice", "speed": "speed"},
    ),
}


def submit_body(
    form: Form, request: GenerateRequest, *, webhook_url: str | None = None, webhook_field: str = "webhookUrl"
) -> bytes:
    """Return the body of a submit; every attempt sends these same bytes.

    Args:
        form: the form of the call.
        request: with the defaults filled in.
        webhook_url: where the service reports the end of the job; the request's own URL takes precedence.
        webhook_field: the path of that URL in the input (the flat forms: documented; `generate`: an
            assumption, see the reference, "Unknown").

    Raises:
        BadRequestError: if the form cannot carry the request, or it cannot be written as JSON.
    """
    if form is Form.GRAPHQL:
        document, fields = GENERATE, _general(request)
    else:
        document, fields = _flat(form, request)
    if webhook_url:
        fields = _with(fields, webhook_field.split("."), webhook_url)
    return encoded(fields) if form is Form.REST else graphql_body(document, {"input": fields})


def document_of(form: Form, kind: str) -> str | None:
    """Return the mutation with which a form makes a media type; None in REST, which has no document."""
    if form is Form.REST:
        return None
    return GENERATE if form is Form.GRAPHQL else _FLAT[kind].document


def check_form(form: Form, request: GenerateRequest) -> None:
    """Check that a form can carry a request.

    Raises:
        BadRequestError: if it cannot; the message names what it cannot carry.
    """
    if form is not Form.GRAPHQL:
        _flat(form, request)


def is_sent_alike(form: Form, body: bytes) -> bool:
    """Whether a client of this form sends a body that was sent before to the same address.

    Both GraphQL forms have one address.
    """
    return ("query" in as_mapping(from_json(body))) is (form is not Form.REST)


def graphql_body(document: str, variables: Mapping[str, object]) -> bytes:
    """Return the body of a GraphQL request.

    Raises:
        BadRequestError: if it cannot be written as JSON.
    """
    return encoded({"query": document, "variables": variables})


def encoded(body: Mapping[str, object]) -> bytes:
    """Return a body as JSON.

    Raises:
        BadRequestError: if it cannot be written as JSON, for example because it is nested too deep.
    """
    try:
        return to_json(body)
    except ValueError as error:
        raise BadRequestError(f"The request cannot be written as JSON: {error}.") from None


def _general(request: GenerateRequest) -> dict[str, object]:
    """Return the input of `generate`, without what the request leaves open."""
    content, options = _parts(request)
    whole: dict[str, object] = {"type": request.type, "provider": request.provider, "input": content}
    if options:
        whole["options"] = options
    return whole


def _parts(request: GenerateRequest) -> tuple[dict[str, object], dict[str, object]]:
    """Return a request's `input` and `options`, with the short forms in their places."""
    content: dict[str, object] = dict(request.input or {})
    if request.prompt is not None:
        content = {"text": request.prompt, **content}
    short = {
        "width": request.width,
        "height": request.height,
        "version": request.version,
        "quality": request.quality,
    }
    options: dict[str, object] = {name: value for name, value in short.items() if value is not None}
    options.update(request.options or {})
    return content, options


def _flat(form: Form, request: GenerateRequest) -> tuple[str, dict[str, object]]:
    """Return the document and the fields of a flat form.

    Raises:
        BadRequestError: if the form has no place for something.
    """
    flat = _FLAT.get(request.type or "")
    if flat is None or (form is Form.REST and request.type != MediaType.IMAGE):
        takes = MediaType.IMAGE if form is Form.REST else ", ".join(_FLAT)
        raise _refused(form, f"has no {request.type}, only {takes}")
    content, options = _parts(request)
    names = {**flat.names, "webhookUrl": "webhookUrl"}
    if homeless := [name for name in (*content, *options) if name not in names]:
        raise _refused(form, f"has no place for {', '.join(homeless)} of {request.type}")
    if twice := [name for name in content if name in options]:
        raise BadRequestError(f"{', '.join(twice)} was given in input and in options; say it once.")
    fields = {names[name]: value for name, value in (content | options).items()}
    return flat.document, {"service": request.provider, **fields}


def _refused(form: Form, why: str) -> BadRequestError:
    return BadRequestError(
        f"The transport {form.value!r} {why}, as far as is documented. Use the transport 'graphql', or leave "
        "it out."
    )


def _with(fields: Mapping[str, object], path: Sequence[str], value: object) -> dict[str, object]:
    """Return a copy with the value at `path`, unless one is there."""
    name, *below = path
    return {
        **fields,
        name: _with(as_mapping(fields.get(name)), below, value) if below else fields.get(name) or value,
    }
