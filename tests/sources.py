"""Reads the source of the package for the laws: its modules, imports, classes, names and conditions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "doitong_async"


def name_of(path: Path) -> str:
    """Return a module's name within the package; "" is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
EMULATOR = {name: path for name, path in MODULES.items() if name.split(".")[0] == "emulator"}
CLIENT = {name: path for name, path in MODULES.items() if name not in EMULATOR}


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


def imports(path: Path, *, typing_too: bool = True) -> Iterator[tuple[str, ast.AST]]:
    """Yield every imported module by its full name, with the statement; a package's member as a module."""
    tree = tree_of(path)
    only_typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not typing_too and id(node) in only_typing:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                is_module = (
                    (PACKAGE.parent / (node.module + "." + alias.name).replace(".", "/"))
                    .with_suffix(".py")
                    .exists()
                )
                yield (f"{node.module}.{alias.name}" if is_module else node.module), node


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions and methods of a module."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield every class with the name of its module."""
    for name, path in MODULES.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                yield name, node


def length_of(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a class or function has, docstrings aside."""
    return (node.end_lineno or 0) - node.lineno + 1 - lines_of_strings(node)


def lines_of_strings(node: ast.AST) -> int:
    """Count the lines of docstrings, those below attributes included."""
    return sum(
        (inner.end_lineno or 0) - inner.lineno + 1
        for inner in ast.walk(node)
        if isinstance(inner, ast.Expr)
        and isinstance(inner.value, ast.Constant)
        and isinstance(inner.value.value, str)
    )


def assigned(node: ast.AST) -> Iterator[tuple[ast.Attribute, ast.expr | None]]:
    """Yield every attribute that is assigned, with its value."""
    for inner in ast.walk(node):
        match inner:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AugAssign(target=target, value=value) | ast.AnnAssign(target=target, value=value):
                targets = [target]
            case _:
                continue
        for place in targets:
            for each in ast.walk(place):
                if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                    yield each, value


def is_self(attribute: ast.Attribute) -> bool:
    return isinstance(attribute.value, ast.Name) and attribute.value.id == "self"


@cache
def words_of(path: Path) -> frozenset[str]:
    """Return the words in a module."""
    return frozenset(re.findall(r"\w+", path.read_text()))


@cache
def set_on_others(path: Path) -> frozenset[str]:
    """Return the names of attributes that a module sets on some object but `self`."""
    return frozenset(attribute.attr for attribute, _ in assigned(tree_of(path)) if not is_self(attribute))


@cache
def set_from_outside(class_name: str) -> frozenset[str]:
    """Return the names of attributes that a module which knows the class sets on some object but `self`."""
    knowing = (path for path in MODULES.values() if class_name in words_of(path))
    return frozenset().union(*map(set_on_others, knowing))


def is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        is_field = value.func.id == "field" and CONTAINERS.intersection(
            name.id for name in ast.walk(value) if isinstance(name, ast.Name)
        )
        return value.func.id in CONTAINERS or bool(is_field)
    return isinstance(value, ast.Dict | ast.List | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def mutable_attributes(node: ast.ClassDef) -> set[str]:
    """Return what may change in an object: set outside `__init__`, here or elsewhere, or a container."""
    if any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list):
        return set()
    own, changing = set(), set()
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            own.add(part.target.id)
            changing |= {part.target.id} if is_container(part.value) else set()
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            for attribute, value in assigned(part):
                if is_self(attribute):
                    own.add(attribute.attr)
                    is_set_later = part.name not in ("__init__", "__post_init__")
                    changing |= {attribute.attr} if is_set_later or is_container(value) else set()
    return changing | (own & set_from_outside(node.name))


CONTAINERS = {
    *("dict", "list", "set", "deque", "bytearray", "Counter", "OrderedDict", "defaultdict"),
    *("WeakValueDictionary", "WeakSet"),
}


def decides_by_words(tree: ast.AST) -> Iterator[str]:
    """Yield the conditions that ask what a message says: `"429" in failure.message`, `reason LIKE …`."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(ops=ops) if any(isinstance(op, ast.In | ast.NotIn | ast.Eq) for op in ops):
                parts: list[ast.expr] = [node.left, *node.comparators]
            case ast.Call(func=ast.Attribute(value=value, attr="startswith" | "endswith" | "find" | "index")):
                parts = [value]
            case ast.Constant(value=str(text)) if re.search(r"\b(reason|message)\b[^,;]*\bLIKE\b", text):
                yield text
                continue
            case _:
                continue
        if any(is_message(part) for part in parts):
            yield ast.unparse(node)


def is_message(node: ast.expr) -> bool:
    """Whether this is the text of an error: `error.message`, `row.reason`, `str(error)`."""
    match node:
        case ast.Attribute(attr="message" | "reason" | "outcome_text" | "advice"):
            return True
        case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id="error" | "failure" | "exception")]):
            return True
        case ast.BoolOp(values=values):
            return any(is_message(value) for value in values)
    return False


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
