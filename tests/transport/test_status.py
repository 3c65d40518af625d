"""How the status of a job is asked for, in GraphQL and in REST."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from graphql import FieldNode, OperationDefinitionNode, parse
from hypothesis import given
from hypothesis import strategies as st

from doitong_async.errors import ConfigurationError
from doitong_async.transport import status
from doitong_async.transport.status import Get, StatusOperation, StatusPath, poll_message

OPERATION = StatusOperation("generation", "id", "ID!")
PATH = StatusPath("/v1/generations/{id}")


class TestStatusDocument:
    @pytest.mark.parametrize("count", [1, 2, 7, status.MOST_IN_ONE_POLL])
    def test_it_has_one_alias_per_job(self, count: int) -> None:
        """It is valid GraphQL; each alias asks for one field with its own variable."""
        (operation,) = parse(
            status.status_document(StatusOperation("job", "jobId", "String"), count)
        ).definitions
        assert isinstance(operation, OperationDefinitionNode)
        asked = [part for part in operation.selection_set.selections if isinstance(part, FieldNode)]
        assert [field.alias and field.alias.value for field in asked] == [f"j{n}" for n in range(count)]
        assert {field.name.value for field in asked} == {"job"}
        assert {argument.name.value for field in asked for argument in field.arguments or ()} == {"jobId"}
        assert len(operation.variable_definitions or ()) == count

    def test_the_document_for_one_job_in_full(self) -> None:
        """This is the text that goes over the status."""
        assert status.status_document(OPERATION, 1) == (
            "query Status($i0: ID!) { j0: generation(id: $i0) { id status url metadata creditCost } }"
        )

    def test_the_ids_are_variables(self) -> None:
        """No id ever becomes part of the text."""
        assert status.status_variables(OPERATION, ["a", '") { x }']) == {"i0": "a", "i1": '") { x }'}


class TestStatusOperation:
    @pytest.mark.parametrize(
        ("text", "whole"),
        [
            ("generation", "generation(id: ID!)"),
            ("generation(id: ID!)", "generation(id: ID!)"),
            ("  job ( jobId : String ) ", "job(jobId: String)"),
            ("_job2(n: Int!)", "_job2(n: Int!)"),
        ],
    )
    def test_a_query_field_may_name_its_argument(self, text: str, whole: str) -> None:
        """Without one it takes the documented id."""
        assert str(StatusOperation.parse(text)) == whole

    @pytest.mark.parametrize(
        "text", ["", "two words", "job(id)", "job(id: ID!) { x }", "job(id: [ID!])", "2job", "狐", None, 5]
    )
    def test_anything_else_is_a_configuration_error(self, text: Any) -> None:
        """The client raises it when it is created, not at the first poll."""
        with pytest.raises(ConfigurationError, match="expected a query field with its id argument"):
            StatusOperation.parse(text)
        with pytest.raises(ConfigurationError, match="no Boolean does"):
            StatusOperation.parse("job(id: Boolean!)")

    @pytest.mark.parametrize(
        ("scalar", "job_id", "value"),
        [
            *(("ID", "abc", "abc"), ("ID", "17", "17"), ("String", "17", "17"), ("Uuid", "17", "17")),
            *(("Int", "17", 17), ("Int", "-17", -17), ("Int", "0", 0), ("Float", "17", 17)),
            *(("Int", "017", None), ("Int", "+17", None), ("Int", "1.0", None), ("Int", "abc", None)),
            *(("Int", "2147483647", 2**31 - 1), ("Int", "-2147483647", 1 - 2**31)),
            *(("Int", "2147483648", None), ("Int", "9" * 5_000, None)),
            *(("Float", "9007199254740992", 2**53), ("Float", "9007199254740993", None)),
        ],
    )
    def test_an_id_is_sent_in_the_type_of_the_argument(
        self, scalar: str, job_id: str, value: str | int | None
    ) -> None:
        """As a number only if the answer will spell it like the id."""
        for mark in ("", "!"):
            assert StatusOperation("job", "id", scalar + mark).value_of(job_id) == value


class TestStatusPath:
    def test_it_is_a_path_with_the_id_in_it(self) -> None:
        """Anywhere, also in a query."""
        for text in ("/v1/generations/{id}", "/{id}", "/status?job={id}&v=1"):
            assert str(StatusPath.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            *("", "/v1/generations", "v1/{id}", "//e.example/{id}", "https://e.example/{id}", "/{id}/{id}"),
            *("/a b/{id}", "/{name}/{id}", "/../{id}", "/{id}#x", "/狐/{id}", '/"{id}"', None, 5),
        ],
    )
    def test_anything_else_is_a_configuration_error(self, text: Any) -> None:
        """The key must go to the API's own origin, and each poll to one job."""
        with pytest.raises(ConfigurationError, match=r"expected a path with \{id\}"):
            StatusPath.parse(text)

    @given(st.text(min_size=1))
    def test_an_id_stays_one_part_of_the_path(self, job_id: str) -> None:
        """Whatever the service calls its jobs; one that leads elsewhere is not asked for."""
        value = PATH.value_of(job_id)
        if value is None:
            assert job_id in (".", "..") or not job_id.isascii()
            return
        assert poll_message(PATH, [job_id]) == Get(f"/v1/generations/{value}")
        assert unquote(value) == job_id
        assert not set(value) & set("/?#\\ ")
