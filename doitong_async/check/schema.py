"""Finds, from a poll and the schema, whether the client's documents fit the service."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from doitong_async.check.findings import Assumption, Finding, fails, holds, unknown
from doitong_async.check.observed import Observed, Probed
from doitong_async.settings import Settings
from doitong_async.transport import introspection
from doitong_async.transport.failure import FailureKind, as_mapping
from doitong_async.transport.forms import Form, document_of
from doitong_async.transport.status import StatusOperation
from doitong_async.transport.wire import PollAnswer, read_poll
from doitong_async.types import MediaType


@dataclass(frozen=True, slots=True)
class Needed:
    """What the document of a form needs of the schema.

    Attributes:
        mutation: its name.
        input_type: the type of its one argument, `input`.
        returned: the fields that it asks for.
    """

    mutation: str
    input_type: str
    returned: frozenset[str]


_DOCUMENT: Final = re.compile(r"\(\$input: (\w+)!\) \{ (\w+)\(input: \$input\) \{ ([\w ]+) \} \}")
_NO_SCHEMA: Final = "REST has no schema to ask"
_OF_PATH: Final = (404, 410)


def needed(form: Form) -> Needed | None:
    """Return what a form's document for a picture needs; None in REST."""
    found = _DOCUMENT.search(document_of(form, MediaType.IMAGE) or "")
    return None if found is None else Needed(found[2], found[1], frozenset(found[3].split()))


class Polled(Enum):
    """What a poll of an id that cannot exist says about its status operation."""

    WORKS = auto()
    """It was executed."""
    REJECTED = auto()
    """The service names a field, or an argument, that it does not know."""
    UNCLEAR = auto()


def schema_findings(seen: Observed, settings: Settings) -> list[Finding]:
    """Return what is known of the mutation, the webhook's field and the status query."""
    needs = needed(seen.form)
    if needs is None:
        return [
            unknown(Assumption.GENERATE, _NO_SCHEMA),
            unknown(Assumption.WEBHOOK_FIELD, _NO_SCHEMA),
            _status_path(seen, settings),
        ]
    return [_generate(seen, needs), _webhook_field(seen, settings, needs), _status(seen, settings, needs)]


def polled(probed: Probed, job_id: str) -> Polled:
    """Return what a poll of one id says about the operation that it used."""
    if probed.answer is None:
        return Polled.UNCLEAR
    result = read_poll(probed.answer, [job_id])
    if isinstance(result, PollAnswer):
        # Under its own alias: a server that answers alike to everything must not pass.
        has_alias = "j0" in as_mapping(as_mapping(probed.body).get("data"))
        return Polled.WORKS if has_alias else Polled.UNCLEAR
    if result.kind is FailureKind.NOT_FOUND and not result.is_of_document:
        return Polled.WORKS
    is_of_query = result.kind is FailureKind.BAD_REQUEST and result.is_of_document and result.is_of_field
    return Polled.REJECTED if is_of_query else Polled.UNCLEAR


def schema_of(seen: Observed) -> object:
    """Return the body of an introspection that was answered, or None."""
    body = None if seen.between is None else seen.between.body
    return body if introspection.is_open(body) else None


def suggested(operation: StatusOperation, schema: object, mutation: str) -> list[StatusOperation]:
    """Return the schema's operations that may replace one: those with its name, or else all.

    They return what the mutation returns.
    """
    candidates = introspection.status_candidates(schema, mutation)
    return [each for each in candidates if each.field == operation.field] or candidates


def fits(operation: StatusOperation, schema: object, mutation: str) -> bool:
    """Whether the schema has this operation; a variable that is never null may be passed where null may."""
    nullable = StatusOperation(operation.field, operation.argument, operation.argument_type.removesuffix("!"))
    return bool({operation, nullable}.intersection(introspection.status_candidates(schema, mutation)))


def _closed(seen: Observed) -> str:
    """Return why the schema is not known."""
    if seen.between is None:
        return seen.missing
    failure = seen.between.failure
    return f"introspection is closed{'' if failure is None else f': {failure.message}'}"


def _generate(seen: Observed, needs: Needed) -> Finding:
    if (schema := schema_of(seen)) is None:
        return unknown(Assumption.GENERATE, _closed(seen))
    known = introspection.mutations(schema)
    mutation = known.get(needs.mutation)
    if mutation is None:
        names = ", ".join(sorted(known)) or "none"
        detail = f"the schema has no mutation {needs.mutation}; it has: {names}."
        return _other_form(seen.form, known, detail)
    taken = mutation.arguments.get("input")
    others = mutation.required - {"input"}
    if taken != needs.input_type or others:
        takes = ", ".join(f"{name}: {kind}" for name, kind in sorted(mutation.arguments.items()))
        detail = f"{needs.mutation} takes ({takes}), and not (input: {needs.input_type})."
        return fails(Assumption.GENERATE, detail, is_blocking=True)
    lacking = sorted(needs.returned - mutation.fields) if mutation.fields else []
    if lacking:
        detail = f"what {needs.mutation} returns has no {', '.join(lacking)}, which the client asks for."
        return fails(Assumption.GENERATE, detail, is_blocking=True)
    return holds(Assumption.GENERATE, f"{needs.mutation}(input: {needs.input_type}) is in the schema")


def _other_form(form: Form, known: Mapping[str, introspection.Mutation], detail: str) -> Finding:
    """Return that a mutation is missing, with the other GraphQL form if that has its own."""
    other = Form.FLAT if form is Form.GRAPHQL else Form.GRAPHQL
    needs = needed(other)
    if needs is None or needs.mutation not in known:
        return fails(Assumption.GENERATE, detail, is_blocking=True)
    return fails(Assumption.GENERATE, detail, transport="graphql-flat" if other is Form.FLAT else "graphql")


def _webhook_field(seen: Observed, settings: Settings, needs: Needed) -> Finding:
    if (schema := schema_of(seen)) is None:
        return unknown(Assumption.WEBHOOK_FIELD, _closed(seen))
    fields = introspection.input_fields(schema)
    if fields is None:
        return unknown(Assumption.WEBHOOK_FIELD, f"the schema has no {needs.input_type}")
    name, *below = settings.webhook_field.split(".")
    paths = _paths(fields)
    if settings.webhook_field in paths:
        return holds(Assumption.WEBHOOK_FIELD, f"{needs.input_type} has {settings.webhook_field}")
    if below and name in fields and not fields[name]:
        return unknown(Assumption.WEBHOOK_FIELD, f"the schema does not say what {name} holds")
    named = [path for path in paths if "webhook" in path.lower()]
    where = f"{needs.input_type} has no {settings.webhook_field}"
    if len(named) == 1:
        return fails(Assumption.WEBHOOK_FIELD, f"{where}.", webhook_field=named[0])
    listed = ", ".join(named or sorted(fields))
    return fails(Assumption.WEBHOOK_FIELD, f"{where}; it has: {listed}. Set webhook_field to the right one.")


def _paths(fields: dict[str, frozenset[str]]) -> Sequence[str]:
    return [*fields, *(f"{name}.{inner}" for name, nested in fields.items() for inner in sorted(nested))]


def _status(seen: Observed, settings: Settings, needs: Needed) -> Finding:
    operation, probed = settings.status_operation, seen.single
    if probed is None or not seen.is_of_api:
        return unknown(Assumption.STATUS, seen.missing)
    result = polled(probed, seen.single_id)
    if result is Polled.WORKS:
        return holds(Assumption.STATUS, f"{operation} answers about an unknown id")
    failure = probed.failure
    why = "the answer names no job" if failure is None else failure.message
    if (schema := schema_of(seen)) is None:
        if result is Polled.REJECTED:
            return fails(
                Assumption.STATUS,
                f"{why} Set status_operation to the service's own; {_closed(seen)}",
            )
        return unknown(Assumption.STATUS, why)
    if fits(operation, schema, needs.mutation):
        return holds(Assumption.STATUS, f"{operation} is in the schema; the poll itself failed: {why}")
    found = suggested(operation, schema, needs.mutation)
    if len(found) == 1:
        return fails(
            Assumption.STATUS, f"the service does not know {operation}.", status_operation=str(found[0])
        )
    listed = ", ".join(map(str, found)) or "none"
    return fails(
        Assumption.STATUS,
        f"the service does not know {operation}. Query fields that take an id and return what "
        f"{needs.mutation} returns: {listed}. Set status_operation to the right one.",
    )


def _status_path(seen: Observed, settings: Settings) -> Finding:
    """Return whether the status path of REST is right: there, an unknown job is not an unknown path."""
    probed, path = seen.single, settings.status_path
    if probed is None or not seen.is_of_api or probed.answer is None:
        return unknown(Assumption.STATUS, seen.missing)
    failure = probed.failure
    if failure is None:
        return unknown(Assumption.STATUS, f"{path} answers as if there were a job with a made-up id")
    if probed.answer.status not in _OF_PATH:
        return unknown(Assumption.STATUS, failure.message)
    if seen.between is None:
        return unknown(Assumption.STATUS, seen.missing)
    if not failure.is_listed or probed.is_like(seen.between, *seen.own_texts):
        return unknown(
            Assumption.STATUS,
            f"an unknown job at {path} is answered as a path that cannot exist is (HTTP "
            f"{probed.answer.status}): whether status_path is right does not show",
        )
    return holds(Assumption.STATUS, f"{path} answers about an unknown id")
