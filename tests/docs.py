"""Builds the API reference from the docstrings: `python -m tests --docs`."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import shutil
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pdoc

import doitong_async

PAGES = ["doitong_async", *re.findall(r"^- `([\w.]+)`:", doitong_async.__doc__ or "", re.MULTILINE)]
"""The public modules: each has a page."""
SECTIONS = {"Args:", "Attributes:", "Keys:", "Raises:"}


def build(folder: Path) -> list[str]:
    """Write the reference into a folder, and return what is wrong with it."""
    shutil.rmtree(folder, ignore_errors=True)
    modules = [importlib.import_module(name) for name in PAGES]
    # pdoc looks for what is there, and batches load at their first use.
    _ = [getattr(module, name, None) for module in modules for name in public_names(module)]
    for kind in (value for module in modules for value in vars(module).values()):
        if hasattr(kind, "__pydantic_fields__"):
            _show_fields(kind)
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pdoc.pdoc(*PAGES, output_directory=folder)
    return [*(str(warning.message) for warning in said), *faults_of(folder, modules)]


def faults_of(folder: Path, modules: list[ModuleType]) -> Iterator[str]:
    """Yield what is missing on the pages, and what was not understood."""
    for module in modules:
        page = folder / f"{module.__name__.replace('.', '/')}.html"
        if not page.exists():
            yield f"{module.__name__} has no page"
            continue
        text = page.read_text()
        for name in sorted(set(re.findall(r"<code>(doitong_async\.[\w.]+)</code>", text))):
            yield f"{module.__name__} names {name}, which has no page"
        yield from (f"{module.__name__}: {each} would be run together" for each in unread_sections(module))


def unread_sections(module: ModuleType) -> Iterator[str]:
    """Yield the headings over indented lines that are none of the docstring's known sections."""
    shown: list[Any] = [getattr(module, name, None) for name in public_names(module)]
    members = [member for kind in shown if inspect.isclass(kind) for member in vars(kind).values()]
    documented: list[Any] = [each for each in shown if inspect.isclass(each) or inspect.isroutine(each)]
    documented += [each for each in members if inspect.isroutine(each) or isinstance(each, property)]
    for each in (module, *documented):
        lines = (inspect.getdoc(each) or "").splitlines()
        for heading, below in itertools.pairwise(lines):
            is_section = heading.endswith(":") and not heading.startswith((" ", "-")) and below[:1] == " "
            if is_section and heading not in SECTIONS:
                yield heading


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a module offers: those of `__all__`, or its own without an underscore."""
    own = (
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )
    return list(getattr(module, "__all__", own))


def _show_fields(kind: Any) -> None:
    """Give a dataclass of pydantic's a signature with its fields: its `__init__` takes anything."""
    hints = typing.get_type_hints(kind)
    signature = inspect.signature(kind)
    parameters = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    kind.__init__.__signature__ = signature.replace(parameters=parameters)
