"""How an item that the user gives becomes a request."""

from __future__ import annotations

from dataclasses import fields
from types import MappingProxyType

import pytest

from doitong_async import BadRequestError, GenerateRequest
from doitong_async.batch.source import FIELDS, read_item, unknown_field


def test_an_item_is_a_prompt_a_mapping_or_a_request() -> None:
    """Each becomes a request; only a mapping may have a key."""
    fox = GenerateRequest(prompt="a fox", width=512)
    assert read_item("a fox") == (None, GenerateRequest(prompt="a fox"))
    assert read_item({"prompt": "a fox", "width": 512}) == (None, fox)
    assert read_item(MappingProxyType({"key": "fox", "prompt": "a fox", "width": 512})) == ("fox", fox)
    key, same = read_item(fox)
    assert key is None
    assert same is fox


def test_a_mapping_may_have_every_field() -> None:
    """Those of the request, and the key; None counts as absent."""
    assert set(FIELDS) == {each.name for each in fields(GenerateRequest)} | {"key"}
    assert read_item({**dict.fromkeys(FIELDS), "prompt": "a fox"}) == (None, GenerateRequest(prompt="a fox"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (17, "An item is a int; expected a prompt, a mapping or a GenerateRequest."),
        (None, "An item is a NoneType"),
        (["a fox"], "An item is a list"),
        ("  ", "prompt is '  '; expected a text"),
        ({}, "prompt is None"),
        ({"prompt": "a", "width": 0}, "width is 0; expected whole pixels"),
        ({"prompt": "a", "Widht": 5}, "There is no field 'Widht'; did you mean 'width'?"),
        ({"prompt": "a", "colour": 5}, "There is no field 'colour'; expected some of prompt, provider"),
        ({"prompt": "a", 5: 5}, "There is no field 5; expected some of"),
        ({"prompt": "a", "key": ""}, "key is ''; expected a printable text, not blank, of at most 200"),
        ({"prompt": "a", "key": " "}, "key is ' '"),
        ({"prompt": "a", "key": 7}, "key is 7"),
        ({"prompt": "a", "key": "a\nb"}, r"key is 'a\nb'"),
        ({"prompt": "a", "key": "a" * 201}, "… (201 characters); expected"),
    ],
)
def test_a_bad_item_is_explained(given: object, message: str) -> None:
    """Before anything is sent, the error shows the value and what is expected."""
    with pytest.raises(BadRequestError) as caught:
        read_item(given)
    assert message in caught.value.message


def test_the_longest_key_is_valid() -> None:
    """Two hundred characters, including spaces and letters of any script."""
    key = "ключ 1 " * 28 + "ключ"
    assert len(key) == 200
    assert read_item({"prompt": "a", "key": key})[0] == key


def test_an_unknown_column_is_called_a_column() -> None:
    """The same advice serves for mappings and tables."""
    assert unknown_field("Prompt ", what="column") == "There is no column 'Prompt '; did you mean 'prompt'?"
