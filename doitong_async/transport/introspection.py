"""Find the query field for a job's status in the schema, where the service gives it another name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def status_candidates(body: object) -> list[StatusOperation]:
    """Return the query fields that take one id and return what `generate` returns."""
    schema = as_mapping(as_mapping(as_mapping(body).get("data")).get("__schema"))
    made = {
        _named(field.get("type"))
        for field in _fields(schema.get("mutationType"))
        if field.get("name") == "generate"
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


def _fields(owner: object) -> Iterator[Mapping[str, object]]:
    fields = as_mapping(owner).get("fields")
    return (as_mapping(field) for field in (fields if isinstance(fields, list) else []))


def _as_operation(field: Mapping[str, object]) -> StatusOperation | None:
    listed = field.get("args")
    arguments = [as_mapping(argument) for argument in (listed if isinstance(listed, list) else [])]
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
