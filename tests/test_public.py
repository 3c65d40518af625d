"""The public face: what the package exports, and that whatever its signatures name is among it."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

import doitong_async
from doitong_async import AsyncDoitong, events
from doitong_async.batch.source import Requests
from doitong_async.webhooks.adapters import AsgiApp

LATE = {
    "web": web,
    "AsgiApp": AsgiApp,
    "Requests": Requests,
    **{name: getattr(doitong_async, name) for name in ("Batch", "BatchArguments", "Item")},
}
"""What a module imports for its types alone, to load it later or never."""
MODULES = re.findall(r"^- `([\w.]+)`:", doitong_async.__doc__ or "", re.M)
CLASSES = [
    getattr(doitong_async, name)
    for name in doitong_async.__all__
    if inspect.isclass(getattr(doitong_async, name))
]


def test_the_public_names_are_sorted_and_real() -> None:
    """One list, in order, each name once."""
    names = doitong_async.__all__
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(doitong_async, name)] == []


def test_what_few_programs_need_is_loaded_when_they_need_it() -> None:
    """The HTTP client when a client opens, SQLite for the first batch; a wrong name is an error as usual."""
    program = """
import sys
import doitong_async
heavy = ("aiohttp", "gql", "sqlite3", "doitong_async.batch.item")
print(*(name for name in heavy if name in sys.modules))
doitong_async.Batch
print("sqlite3" in sys.modules, set(doitong_async.__all__) <= set(dir(doitong_async)))
doitong_async.Batches
"""
    end = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert end.stdout.splitlines() == ["", "True True"]
    assert "AttributeError: module 'doitong_async' has no attribute 'Batches'" in end.stderr


def test_the_public_modules_are_real() -> None:
    """Each one that the package's docstring names can be imported and opens with a docstring of its own."""
    assert len(MODULES) == 7
    assert all(importlib.import_module(name).__doc__ for name in MODULES)


def public_functions(kind: type) -> Iterator[Callable[..., Any]]:
    """Yield the methods that users call; objects that the library makes are not constructed by them."""
    for name, member in vars(kind).items():
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if inspect.isfunction(member) and not name.startswith("_"):
            yield member


def named(hint: Any) -> Iterator[type]:
    """Yield every class of ours that a type hint names."""
    for inner in typing.get_args(hint):
        yield from named(inner)
    kind = typing.get_origin(hint) or hint
    if inspect.isclass(kind) and kind.__module__.startswith("doitong_async"):
        yield kind


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_whatever_a_signature_names_can_be_imported_from_the_top(kind: type) -> None:
    """So that users can annotate their own code; events have a module of their own."""
    public = {*CLASSES, *(each for each in vars(events).values() if inspect.isclass(each))}
    hints = [kind] if kind.__module__.startswith("doitong_async") else []
    for each in (*hints, *public_functions(kind)):
        for hint in typing.get_type_hints(each, localns=LATE).values():
            assert set(named(hint)) <= public, each


def anything(value: object) -> Any:
    """Return a value as what no type checker knows: these calls are wrong on purpose."""
    return value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anything(AsyncDoitong)(plann="pro"), r"AsyncDoitong\(\).*'plann'. Did you mean 'plan'\?"),
        (
            lambda: anything(AsyncDoitong(api_key="k" * 20)).with_options(timout=1),
            r"AsyncDoitong.with_options\(\).*Did you mean 'timeout'\?",
        ),
    ],
)
def test_a_wrong_keyword_names_the_function_and_the_nearest_right_one(
    call: Callable[[], object], message: str
) -> None:
    """Not the private class that would meet it first."""
    with pytest.raises(TypeError, match=message):
        call()


def test_the_version_stands_in_one_place() -> None:
    """The package has it; the distribution and the User-Agent header take it from there."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", doitong_async.__version__)
    assert (
        inspect.signature(AsyncDoitong).parameters["user_agent"].default.endswith(doitong_async.__version__)
    )
