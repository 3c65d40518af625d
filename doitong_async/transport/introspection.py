"""Reads the schema: which query field tells a job's status, and what a mutation takes and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from doitong_async.transport.failure import as_mapping
from doitong_async.transport.status import StatusOperation

_TYPE: Final = "{ kind name ofType { kind name ofType { kind name ofType { kind name } } } }"

DOCUMENT: Final = (
    "query Introspection { __schema { "
    f"queryType {{ fields {{ name args {{ name defaultValue type {_TYPE} }} type {_TYPE} }} }} "
    f"mutationType {{ fields {{ name type {_TYPE} }} }} }} }}"
)
"""Asks only for the fields of query and mutation, which fits the depth limits that services set."""

_RESULT: Final = "{ kind name fields { name } ofType { kind name fields { name } ofType { kind name } } }"
_NESTED: Final = "{ kind name inputFields { name } ofType { kind name inputFields { name } } }"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A mutation as the schema has it.

    Attributes:
        arguments: the name of each argument's type, by argument.
        required: the arguments that a request cannot leave out.
        fields: the fields of what it returns; empty if the schema does not show them.
    """

    arguments: Mapping[str, str | None]
    required: frozenset[str]
    fields: frozenset[str]


def document_with_input(input_type: str) -> str:
    """Return a larger `DOCUMENT`, which also asks what mutations take and return, and for an input type.

    Args:
        input_type: such as "GenerateInput".
    """
    return (
        "query Introspection { __schema { "
        f"queryType {{ fields {{ name args {{ name defaultValue type {_TYPE} }} type {_TYPE} }} }} "
        "mutationType { fields "
        f"{{ name args {{ name defaultValue type {_TYPE} }} type {_RESULT} }} }} }} "
        f'__type(name: "{input_type}") {{ inputFields {{ name type {_NESTED} }} }} }}'
    )


def is_open(body: object) -> bool:
    """Whether an answer has the schema: some services keep it to themselves."""
    schema = as_mapping(as_mapping(as_mapping(body).get("data")).get("__schema"))
    return bool(as_mapping(schema.get("queryType")).get("fields"))


def mutations(body: object) -> dict[str, Mutation]:
    """Return the mutations of the schema, by name."""
    schema = as_mapping(as_mapping(as_mapping(body).get("data")).get("__schema"))
    return {str(field.get("name")): _as_mutation(field) for field in _fields(schema.get("mutationType"))}


def input_fields(body: object) -> dict[str, frozenset[str]] | None:
    """Return the fields of the input type that was asked for, each with those of its own type, if any.

    Returns:
        None if the schema has no such input type.
    """
    listed = as_mapping(as_mapping(as_mapping(body).get("data")).get("__type")).get("inputFields")
    if not isinstance(listed, list):
        return None
    fields = [as_mapping(each) for each in listed]
    return {str(field.get("name")): _names(field.get("type"), "inputFields") for field in fields}


def status_candidates(body: object, mutation: str = "generate") -> list[StatusOperation]:
    """Return the query fields that take one id and return what a mutation returns."""
    schema = as_mapping(as_mapping(as_mapping(body).get("data")).get("__schema"))
    made = {
        _named(field.get("type"))
        for field in _fields(schema.get("mutationType"))
        if field.get("name") == mutation
    } - {None}
    return [
        operation
        for field in _fields(schema.get("queryType"))
        if _named(field.get("type")) in made and (operation := _as_operation(field)) is not None
    ]


def has_query(body: object, name: str) -> bool:
    """Whether the schema has a query field of that name, whatever it takes and returns."""
    schema = as_mapping(as_mapping(as_mapping(body).get("data")).get("__schema"))
    return any(field.get("name") == name for field in _fields(schema.get("queryType")))


def _as_mutation(field: Mapping[str, object]) -> Mutation:
    arguments = _arguments(field)
    return Mutation(
        {str(each.get("name")): _named(each.get("type")) for each in arguments},
        frozenset(str(each.get("name")) for each in arguments if _is_required(each)),
        _names(field.get("type"), "fields"),
    )


def _names(kind: object, part: str) -> frozenset[str]:
    """Return the names of a type's fields, in whatever layer they are listed."""
    lists = [layer.get(part) for layer in _layers(kind)]
    return frozenset(
        str(as_mapping(each).get("name")) for listed in lists if isinstance(listed, list) for each in listed
    )


def _fields(owner: object) -> Iterator[Mapping[str, object]]:
    fields = as_mapping(owner).get("fields")
    return (as_mapping(field) for field in (fields if isinstance(fields, list) else []))


def _arguments(field: Mapping[str, object]) -> list[Mapping[str, object]]:
    listed = field.get("args")
    return [as_mapping(argument) for argument in (listed if isinstance(listed, list) else [])]


def _as_operation(field: Mapping[str, object]) -> StatusOperation | None:
    arguments = _arguments(field)
    ids = [argument for argument in arguments if _is_id(argument)]
    others = [argument for argument in arguments if _is_required(argument) and argument not in ids]
    if len(ids) != 1 or others or _is_list(field.get("type")):
        return None
    required = "!" if as_mapping(ids[0].get("type")).get("kind") == "NON_NULL" else ""
    return StatusOperation(
        str(field.get("name")), str(ids[0].get("name")), f"{_named(ids[0].get('type'))}{required}"
    )


def _is_id(argument: Mapping[str, object]) -> bool:
    kind, name = _named(argument.get("type")), str(argument.get("name"))
    return not _is_list(argument.get("type")) and (
        kind == "ID" or (kind in ("String", "Int") and name.lower().endswith("id"))
    )


def _is_required(argument: Mapping[str, object]) -> bool:
    return as_mapping(argument.get("type")).get("kind") == "NON_NULL" and argument.get("defaultValue") is None


def _is_list(kind: object) -> bool:
    return any(layer.get("kind") == "LIST" for layer in _layers(kind))


def _named(kind: object) -> str | None:
    name = [layer.get("name") for layer in _layers(kind)][-1:]
    return name[0] if name and isinstance(name[0], str) else None


def _layers(kind: object) -> Iterator[Mapping[str, object]]:
    layer = as_mapping(kind)
    while layer:
        yield layer
        layer = as_mapping(layer.get("ofType"))
