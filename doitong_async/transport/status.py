"""Spells the question for a job's status: a GraphQL query for many jobs, or the path of one job in REST."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

from doitong_async.errors import ConfigurationError
from doitong_async.transport.forms import graphql_body

POLLED: Final = "id status url metadata creditCost"
"""The fields that may change after the submit; its answer has type, provider and createdAt."""

MOST_IN_ONE_POLL: Final = 100
"""Jobs in one status request; more gain little (measured)."""


class Get(NamedTuple):
    """A request without a body."""

    path: str


Message: TypeAlias = bytes | Get
"""What a transport sends: a body to post, or a path to get."""


@dataclass(frozen=True, slots=True)
class StatusOperation:
    """The query field for a job's status: undocumented, so a setting."""

    field: str
    argument: str
    argument_type: str

    @classmethod
    def parse(cls, text: str) -> StatusOperation:
        """Read `"generation(id: ID!)"`, or only `"generation"`.

        Raises:
            ConfigurationError: if the text is neither, or the argument cannot take an id.
        """
        match = _OPERATION.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ConfigurationError(
                f"status_operation is {text!r}; expected a query field with its id argument, "
                'as in "generation(id: ID!)".'
            )
        field, argument, argument_type = match.groups()
        operation = cls(field, argument or "id", argument_type or "ID!")
        if operation._scalar == "Boolean":
            raise ConfigurationError(
                f"status_operation is {text!r}; expected an argument that takes an id, and no Boolean does."
            )
        return operation

    @property
    def _scalar(self) -> str:
        return self.argument_type.removesuffix("!")

    def value_of(self, job_id: str) -> str | int | None:
        """Return an id as a variable of the argument's type, or None if it does not fit.

        An Int or Float takes only a numeric id, sent as a number; every other type takes the id unchanged.
        """
        greatest = _GREATEST.get(self._scalar)
        if greatest is None:
            return job_id
        # Only the canonical form: an answer is matched by its id.
        is_number = _NUMBER.fullmatch(job_id) is not None and len(job_id) <= len(str(greatest)) + 1
        return int(job_id) if is_number and abs(int(job_id)) <= greatest else None

    def __str__(self) -> str:
        return f"{self.field}({self.argument}: {self.argument_type})"


_GREATEST: Final = {"Int": 2**31 - 1, "Float": 2**53}
"""The greatest whole number that a GraphQL scalar surely holds; types that are not here take strings."""
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
_OPERATION: Final = re.compile(
    r"([A-Za-z_]\w*)(?:\s*\(\s*([A-Za-z_]\w*)\s*:\s*([A-Za-z_]\w*!?)\s*\))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class StatusPath:
    """The path of a job in REST: undocumented, so a setting."""

    template: str

    @classmethod
    def parse(cls, text: str) -> StatusPath:
        """Read `"/v1/generations/{id}"`.

        Raises:
            ConfigurationError: if it is no path, or does not have `{id}` once.
        """
        is_path = isinstance(text, str) and _PATH.fullmatch(text) is not None
        if not is_path or text.count(_ID) != 1 or "{" in text.replace(_ID, "") or ".." in text:
            raise ConfigurationError(
                f"status_path is {text!r}; expected a path with {{id}}, such as '/v1/generations/{{id}}'."
            )
        return cls(text)

    def value_of(self, job_id: str) -> str | None:
        """Return an id as a part of the path, or None if it would lead elsewhere or cannot be encoded."""
        if job_id in (".", ".."):
            return None
        try:
            return quote(job_id, safe="")
        except UnicodeEncodeError:
            return None

    def __str__(self) -> str:
        return self.template


StatusQuery: TypeAlias = StatusOperation | StatusPath

_ID: Final = "{id}"
_PATH: Final = re.compile(r"/(?!/)[!$-~]*", re.ASCII)
"""Printable, and without white space, quotes or a fragment."""


def most_in_one_poll(query: StatusQuery) -> int:
    """Return how many jobs one request can ask for: in REST one, as no list is documented."""
    return MOST_IN_ONE_POLL if isinstance(query, StatusOperation) else 1


def poll_message(query: StatusQuery, ids: Sequence[str]) -> Message:
    """Return the request for the status of these jobs, each of which the query can take.

    Raises:
        BadRequestError: if an id cannot be encoded.
    """
    if isinstance(query, StatusPath):
        (job_id,) = ids
        return Get(query.template.replace(_ID, query.value_of(job_id) or ""))
    return graphql_body(status_document(query, len(ids)), status_variables(query, ids))


@lru_cache(maxsize=4 * MOST_IN_ONE_POLL)
def status_document(operation: StatusOperation, count: int) -> str:
    """Return the query for `count` jobs at once, one alias per job, with the ids as variables."""
    variables = ", ".join(f"$i{n}: {operation.argument_type}" for n in range(count))
    statuses = " ".join(
        f"j{n}: {operation.field}({operation.argument}: $i{n}) {{ {POLLED} }}" for n in range(count)
    )
    return f"query Status({variables}) {{ {statuses} }}"


def status_variables(operation: StatusOperation, ids: Sequence[str]) -> dict[str, object]:
    """Return the variables of `status_document` for these ids, in the operation's type."""
    return {f"i{n}": operation.value_of(job_id) for n, job_id in enumerate(ids)}
