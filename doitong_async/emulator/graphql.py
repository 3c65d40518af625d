"""The GraphQL endpoint: graphql-core executes the emulator's own schema, as GraphQL-over-HTTP specifies."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.resources import files
from typing import Any, Literal

from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLSchema,
    InlineFragmentNode,
    OperationType,
    SelectionSetNode,
    build_schema,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
)

from doitong_async.emulator.accounts import Submission
from doitong_async.emulator.api_errors import STATUSES, ApiError
from doitong_async.emulator.calls import Call, Operation, Reply, fingerprint
from doitong_async.emulator.orders import Order, from_flat, from_generate
from doitong_async.emulator.traffic import Kind
from doitong_async.emulator.world import World

ErrorStatus = Literal["table", "200"]

_JSON = "application/json"
_RESPONSE_JSON = "application/graphql-response+json"
_FLAT_FORMS = {
    "generateImage": "IMAGE",
    "animateImage": "VIDEO",
    "generateAvatar": "AVATAR",
    "generateSpeech": "AUDIO",
}
_READERS: dict[str, Callable[[Mapping[str, Any]], Order]] = {
    "generate": from_generate,
    **{name: partial(from_flat, made) for name, made in _FLAT_FORMS.items()},
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a GraphQL request, with their types checked."""

    query: str
    variables: dict[str, Any] | None
    operation_name: str | None

    @classmethod
    def of(cls, call: Call) -> "Parameters":
        """Read the parameters from the body of a POST or the query string of a GET."""
        given = _from_query_string(call.query) if call.method == "GET" else call.json()
        _parameter(given, "extensions", dict)
        return cls(
            query=_parameter(given, "query", str, required=True),
            variables=_parameter(given, "variables", dict),
            operation_name=_parameter(given, "operationName", str),
        )


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed and validated document; one with errors is never executed."""

    ast: DocumentNode | None
    errors: tuple[GraphQLError, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """The context of one request's resolvers; they record the jobs they created or were asked for."""

    world: World
    outputs_url: str
    call: Call
    key: str
    body: str
    ids: list[str] = field(default_factory=list)


class GraphQLFace:
    """Answers `/graphql`."""

    def __init__(
        self,
        world: World,
        outputs_url: Callable[[], str],
        *,
        status_field: str = "generation",
        error_status: ErrorStatus = "table",
        answer_key: str | None = None,
        introspection: bool = True,
    ) -> None:
        self._world = world
        self._outputs_url = outputs_url
        self._status_field = status_field
        self._error_status = error_status
        self._answer_key = answer_key
        self._introspection = introspection

    def read(self, call: Call) -> Operation:
        """Read a call as far as its kind; it is executed once admitted."""
        if call.method not in ("GET", "POST"):
            raise ApiError("METHOD_NOT_ALLOWED", "GraphQL is spoken with GET or POST")
        content_type = _accepted(call)
        if call.method == "POST" and _media_type(call.header("Content-Type")) != _JSON:
            raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"The body of a POST must be {_JSON}")
        parameters = Parameters.of(call)
        document = _read(self._status_field, parameters.query)
        kind = self._kind(document, parameters.operation_name)
        if kind == "submit" and call.method == "GET":
            raise ApiError("METHOD_NOT_ALLOWED", "Mutations are not allowed over GET")
        return Operation(kind, lambda key: self._run(call, key, kind, parameters, document, content_type))

    def status_of(self, status: int) -> int:
        """Return the HTTP status of an error whose documented status is `status`."""
        return 200 if self._error_status == "200" else status

    def _run(
        self, call: Call, key: str, kind: Kind, parameters: Parameters, document: Document, content_type: str
    ) -> Reply:
        if kind == "introspection" and not self._introspection:
            raise ApiError("BAD_USER_INPUT", "GraphQL introspection is not allowed")
        sent = fingerprint(parameters.query, parameters.variables, parameters.operation_name)
        scene = Scene(self._world, self._outputs_url(), call, key, sent)
        result = self._execute(parameters, document, scene)
        status = self._http_status(result, kind, content_type)
        body = self._body(result, kind, with_data=status == 200)
        return Reply(status, body, tuple(scene.ids), content_type)

    def _execute(self, parameters: Parameters, document: Document, scene: Scene) -> ExecutionResult:
        if document.ast is None:
            return ExecutionResult(None, list(document.errors))
        return execute_sync(
            _schema(self._status_field),
            document.ast,
            context_value=scene,
            variable_values=parameters.variables,
            operation_name=parameters.operation_name,
        )

    def _http_status(self, result: ExecutionResult, kind: Kind, content_type: str) -> int:
        """Return 200 for any data; else the documented status, or GraphQL-over-HTTP's for a bad document."""
        if not result.errors or (result.data and any(value is not None for value in result.data.values())):
            return 200
        if result.data is None and kind != "submit":
            return 400 if content_type == _RESPONSE_JSON else 200
        code = _code(result.errors[0])
        # The documentation has no 404: an unknown id is a null at its path.
        return 200 if code == "NOT_FOUND" else self.status_of(STATUSES[code])

    def _body(self, result: ExecutionResult, kind: Kind, *, with_data: bool) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if with_data and result.data is not None:
            body["data"] = self._renamed(result.data) if kind == "submit" else result.data
        if result.errors:
            body["errors"] = [_error(error) for error in result.errors]
        return body

    def _renamed(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the answer under the documented bodies' key, if that is set and one mutation was sent."""
        if self._answer_key is None or len(data) != 1:
            return data
        return dict.fromkeys([self._answer_key], *data.values())

    def _kind(self, document: Document, operation_name: str | None) -> Kind:
        operation = document.ast and get_operation_ast(document.ast, operation_name)
        if not document.ast or not operation:
            return "other"
        if operation.operation is OperationType.MUTATION:
            return "submit"
        names = set(_root_fields(document.ast, operation.selection_set)) - {"__typename"}
        if names == {self._status_field}:
            return "poll"
        return "introspection" if names & {"__schema", "__type"} else "other"


@lru_cache(maxsize=1024)
def _read(status_field: str, text: str) -> Document:
    """Parse and validate a document once: a coalesced poll sends one text over and over."""
    try:
        ast = parse(text, no_location=False)
    except GraphQLError as error:
        return Document(None, (error,))
    errors = validate(_schema(status_field), ast)
    return Document(None, tuple(errors)) if errors else Document(ast)


@lru_cache
def _schema(status_field: str) -> GraphQLSchema:
    """Build the schema once for all emulators, which takes longer than most of their requests."""
    text = files("doitong_async.emulator").joinpath("schema.graphql").read_text(encoding="utf-8")
    schema = build_schema(text.replace("generation(id: ID!)", f"{status_field}(id: ID!)"))
    assert schema.query_type is not None
    assert schema.mutation_type is not None
    schema.query_type.fields[status_field].resolve = _poll
    for mutation in schema.mutation_type.fields.values():
        mutation.resolve = _submit
    return schema


def _poll(_root: None, info: "GraphQLResolveInfo[Scene]", **given: Any) -> dict[str, Any]:
    scene, job_id = info.context, given["id"]
    scene.ids.append(job_id)
    return scene.world.poll(scene.key, job_id, scene.call.now).fields_at(scene.call.now, scene.outputs_url)


def _submit(_root: None, info: "GraphQLResolveInfo[Scene]", **given: Any) -> dict[str, Any]:
    scene = info.context
    call = scene.call
    order = _READERS[info.field_name](given["input"])
    sender = Submission(scene.key, call.header("Idempotency-Key"), scene.body, str(info.path.key))
    job = scene.world.submit(order, sender, call.now, call.wall)
    scene.ids.append(job.id)
    # As it was when created: a repeated submit gets the same answer as the first.
    return job.fields_at(job.created_at, scene.outputs_url)


def _from_query_string(query: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = dict(query)
    for name in ("variables", "extensions"):
        try:
            given[name] = json.loads(given.get(name) or "null")
        except ValueError:
            raise ApiError("BAD_USER_INPUT", f"{name} is not JSON") from None
    return given


def _parameter(given: Mapping[str, Any], name: str, wanted: type, *, required: bool = False) -> Any:
    value = given.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, wanted):
        raise ApiError("BAD_USER_INPUT", f"{name} must be a {'string' if wanted is str else 'map'}")
    return value


def _media_type(header: str | None) -> str:
    return (header or "").partition(";")[0].strip().lower()


def _accepted(call: Call) -> str:
    wanted = {_media_type(part) for part in (call.header("Accept") or "*/*").split(",")}
    if _RESPONSE_JSON in wanted:
        return _RESPONSE_JSON
    if wanted & {_JSON, "application/*", "*/*"}:
        return _JSON
    raise ApiError("NOT_ACCEPTABLE", f"Answers are {_JSON} or {_RESPONSE_JSON}")


def _root_fields(ast: DocumentNode, selections: SelectionSetNode) -> Iterator[str]:
    fragments = {
        node.name.value: node for node in ast.definitions if isinstance(node, FragmentDefinitionNode)
    }
    for node in selections.selections:
        if isinstance(node, FieldNode):
            yield node.name.value
        elif isinstance(node, InlineFragmentNode):
            yield from _root_fields(ast, node.selection_set)
        elif isinstance(node, FragmentSpreadNode):
            yield from _root_fields(ast, fragments[node.name.value].selection_set)


def _code(error: GraphQLError) -> str:
    if error.extensions and "code" in error.extensions:
        return str(error.extensions["code"])
    blameless = error.original_error is None or isinstance(error.original_error, GraphQLError)
    return "BAD_USER_INPUT" if blameless else "INTERNAL_SERVER_ERROR"


def _error(error: GraphQLError) -> dict[str, Any]:
    return {**error.formatted, "extensions": {**(error.extensions or {}), "code": _code(error)}}
