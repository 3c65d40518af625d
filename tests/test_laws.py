"""The laws of the design, read from the source of every module."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "doitong_async"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Bottom to top; a module imports what stands below it, or beside it on its own floor. The errors stand at
# the bottom: the nouns are checked when they are built, and say so in errors of this library.
FLOORS = [
    ["errors", "catalog", "clock", "log", "secret"],
    ["types"],
    [
        "events",
        "jobs.durations",
        "decoding",
        "media",
        "files",
        "received",
        "urls",
        "limits.plan",
        "limits.foreign",
        "limits.window",
        "limits.concurrency",
        "limits.quota",
        "limits.headers",
        "limits.permits",
        "limits.request_rate",
        "limits.slots",
        "limits.users",
        "limits.wait_queue",
        "transport.failure",
        "limits.rejections",
    ],
    [
        "pricing",
        "transport.wire",
        "webhooks.signature",
        "webhooks",
        "transport.introspection",
        "transport.retry",
        "jobs.lifecycle",
        "jobs.poll_size",
        "jobs.schedule",
        "jobs.token",
        "webhooks.unmatched",
    ],
    ["settings", "limits.limiter", "limits.admission"],
    [
        "transport.exchange",
        "transport.graphql",
        "resolver",
        "downloads",
        "result",
        "webhooks.hosts",
        "webhooks.handler",
        "webhooks.adapters",
        "webhooks.serving",
    ],
    ["connections", "webhooks.endpoint"],
    ["submit", "jobs.status_poll", "jobs.tracked", "jobs.pacer", "jobs.tracker"],
    ["jobs.poller", "jobs.job"],
    ["submissions"],
    ["runtime"],
    ["budget"],
    ["batch.item", "batch.promises", "batch.source"],
    ["batch.sqlite", "batch.spending"],
    ["batch.ledger"],
    ["batch.planner"],
    ["batch.worker"],
    ["batch.batch"],
    ["client"],
    [
        *("testing", "cli", "cli.__main__", "cli.app", "cli.batch", "cli.batch_render", "cli.batch_run"),
        *("cli.emulation", "cli.exits", "cli.formats", "cli.gallery", "cli.interrupts", "cli.options"),
        *("cli.outputs", "cli.planning", "cli.prompts", "cli.render", "cli.service"),
        *("cli.status", "cli.units"),
        *("cli.job_progress", "cli.preflight", "cli.progress", "cli.text", "cli.summary", "cli.work", ""),
    ],
]
PURE = {
    *("batch.item", "budget", "catalog", "pricing", "errors", "media", "secret", "types"),
    *("decoding", "received", "urls"),
    *("transport.introspection", "transport.failure", "transport.retry", "transport.wire"),
    *(
        "limits.concurrency",
        "limits.foreign",
        "limits.rejections",
        "limits.request_rate",
        "limits.slots",
        "limits.users",
        "limits.quota",
        "limits.permits",
        "limits.plan",
        "limits.window",
        "limits.headers",
    ),
    *("jobs.durations", "jobs.lifecycle", "jobs.poll_size", "jobs.schedule", "jobs.token"),
    *("webhooks.unmatched", "webhooks.signature"),
}
IMPURE_LIBRARIES = {"asyncio", "aiohttp", "gql", "time", "random", "secrets", "os", "socket"}
KNOWS_GQL = {"transport.graphql"}
KNOWS_AIOHTTP = {
    *("transport.exchange", "transport.graphql"),
    *("connections", "downloads", "resolver", "runtime", "webhooks.adapters", "webhooks.serving"),
}
# gql and aiohttp cost a quarter of a second: they are imported when a client opens, or a command runs.
MAY_IMPORT_LATE = {
    "client": {"doitong_async.runtime"},
    "webhooks.endpoint": {"doitong_async.webhooks.adapters"},
    # These tell which extra is missing, instead of showing a traceback.
    "cli": {"doitong_async.cli.app"},
    "cli.service": {"doitong_async.testing", "doitong_async.webhooks.serving"},
    "cli.emulation": {"doitong_async.emulator"},
}
# The packages whose `__init__` is a door and not only its plate.
DOORS = {"", "cli", "webhooks"}
NOBODYS_NAMES = {"utils", "helpers", "common", "base", "manager", "core"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_emulator(path: Path) -> bool:
    return name_of(path).split(".")[0] == "emulator"


CLIENT = [path for path in MODULES if not is_emulator(path)]
EMULATOR = [path for path in MODULES if is_emulator(path)]
by_name = pytest.mark.parametrize("path", MODULES, ids=name_of)
by_client_name = pytest.mark.parametrize("path", CLIENT, ids=name_of)


@cache
def tree_of(path: Path) -> ast.Module:
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


def floor_of(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


@by_client_name
def test_every_module_of_the_client_has_its_floor(path: Path) -> None:
    """A new module is given a place in the house; a package's `__init__` is only a doorplate."""
    name = name_of(path)
    if path.name == "__init__.py" and name not in DOORS:
        assert not list(imports(path))
    else:
        assert any(name in floor for floor in FLOORS)


@by_client_name
def test_imports_run_downwards(path: Path) -> None:
    """A module imports only from floors below it, or its own; the emulator is imported by the top alone."""
    name = name_of(path)
    if path.name == "__init__.py" and name not in DOORS:
        pytest.skip("a doorplate, which the test above shows to import nothing")
    for imported, _ in imports(path):
        if imported.startswith("doitong_async.emulator"):
            assert name in FLOORS[-1]
        elif imported.startswith("doitong_async."):
            assert floor_of(imported.removeprefix("doitong_async.")) <= floor_of(name), imported


def test_there_is_no_circle() -> None:
    """No module imports itself by way of others, not even for its types alone."""
    graph = {
        name_of(path): {name.removeprefix("doitong_async.") for name, _ in imports(path)} for path in CLIENT
    }

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            fresh = (graph.get(todo.pop(), set()) & graph.keys()) - seen
            seen |= fresh
            todo += fresh
        return seen

    assert [name for name in graph if name and name in reach(name)] == []


@pytest.mark.slow
@by_name
def test_no_import_is_hidden_in_a_function(path: Path) -> None:
    """Imports stand at the top, but for the few that are late for their cost."""
    functions = [
        node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    hidden = {node for function in functions for node in ast.walk(function)}
    late = {imported for imported, node in imports(path) if node in hidden}
    assert late <= MAY_IMPORT_LATE.get(name_of(path), set())


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_decide_without_the_world(name: str) -> None:
    """No loop, no socket, no clock, no chance: these come in as arguments."""
    path = PACKAGE / (name.replace(".", "/") + ".py")
    assert {imported.partition(".")[0] for imported, _ in imports(path)} & IMPURE_LIBRARIES == set()


@by_client_name
def test_gql_and_aiohttp_stand_where_they_may(path: Path) -> None:
    """One file knows gql; aiohttp is known where bytes are sent."""
    libraries = {imported.partition(".")[0] for imported, _ in imports(path, typing_too=False)}
    assert "gql" not in libraries or name_of(path) in KNOWS_GQL
    assert "aiohttp" not in libraries or name_of(path) in KNOWS_AIOHTTP


@pytest.mark.parametrize("path", EMULATOR, ids=name_of)
def test_the_emulator_shares_nothing_with_the_client(path: Path) -> None:
    """Shared code would hide shared mistakes."""
    ours = {imported for imported, _ in imports(path) if imported.startswith("doitong_async")}
    assert all(imported.startswith("doitong_async.emulator") for imported in ours)


FACE_OF_BATCH = {"batch.batch", "batch.item", "batch.ledger", "batch.planner", "batch.source"}


@pytest.mark.parametrize("path", [path for path in CLIENT if name_of(path).startswith("cli.")], ids=name_of)
def test_a_command_reads_a_ledger_through_its_face(path: Path) -> None:
    """No command knows the tables of the file, or how items are carried out."""
    batch = {name.removeprefix("doitong_async.") for name, _ in imports(path) if ".batch." in name}
    assert {name for name in batch if not name.startswith("cli.")} <= FACE_OF_BATCH


@by_name
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    """The first paragraph of the docstring is one sentence that says what the module is for."""
    first = (ast.get_docstring(tree_of(path)) or "").split("\n\n")[0]
    assert first.endswith((".", ":"))
    assert len(first) > 20


@by_name
def test_a_module_is_short_and_named_for_what_it_is(path: Path) -> None:
    """Past 500 lines it is split by noun; nobody's names are not names."""
    assert len(path.read_text().splitlines()) <= 500
    assert not NOBODYS_NAMES & set(name_of(path).split("."))


@by_name
def test_functions_fit_on_a_screen(path: Path) -> None:
    """Sixty lines, docstring included."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            documented = len((ast.get_docstring(node) or "").splitlines())
            assert length - documented <= 60, f"{node.name} has {length} lines"


@by_client_name
def test_permits_and_slots_are_taken_in_a_block(path: Path) -> None:
    """So that no exception leaves one taken."""
    blocks = {
        id(inner)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.With)
        for item in node.items
        for inner in ast.walk(item.context_expr)
    }
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and function.attr in {"permit", "slot"}:
                assert id(node) in blocks, f"line {node.lineno}"


MOST_LINES_OF_A_CLASS = 250
MOST_MUTABLE = 12
SMALL = {
    "cli": "the command's entry point, which tells which extra is missing",
    "cli.__main__": "`python -m doitong_async.cli`",
    "connections": "the one place that opens a session of our own",
    "log": "one logger, one filter for secrets",
    "webhooks": "the module's public names",
    "webhooks.serving": "the receiver that a command opens",
    "emulator": "the module's public names",
    "emulator.api_errors": "a twin of the client's table, on purpose",
    "emulator.clocks": "the emulator's own clock",
    "emulator.control": "the page that sets faults",
    "emulator.gallery": "the emulator's page of pictures",
    "emulator.prices": "a twin of the client's table, on purpose",
    "emulator.rest": "the documented REST form of the call",
    "emulator.sounds": "what the emulator answers to speech",
    "emulator.traffic": "what arrived, to count and to assert on",
}
"""Modules below 50 lines, each with the reason why it is one."""
CONTAINERS = {
    *("dict", "list", "set", "deque", "bytearray", "Counter", "OrderedDict", "defaultdict"),
    *("WeakValueDictionary", "WeakSet"),
}


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                yield name_of(path), node


by_class = pytest.mark.parametrize(
    "node", [pytest.param(node, id=f"{module}.{node.name}") for module, node in classes()]
)


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
def set_from_outside(class_name: str) -> frozenset[str]:
    """Return the names of attributes that a module which knows the class sets on some object but `self`."""
    return frozenset(
        attribute.attr
        for path in MODULES
        if re.search(rf"\b{class_name}\b", path.read_text())
        for attribute, _ in assigned(tree_of(path))
        if not is_self(attribute)
    )


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


@by_class
def test_a_class_holds_one_idea(node: ast.ClassDef) -> None:
    """At most 250 lines, docstrings aside, and 12 attributes that change."""
    length = (node.end_lineno or 0) - node.lineno + 1 - lines_of_strings(node)
    assert length <= MOST_LINES_OF_A_CLASS
    assert len(changing := mutable_attributes(node)) <= MOST_MUTABLE, sorted(changing)


def test_a_class_name_is_used_once() -> None:
    """One word, one meaning; the emulator's twins aside, and what a module keeps to itself."""
    names = [
        node.name
        for module, node in classes()
        if not module.startswith("emulator") and not node.name.startswith("_")
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@by_name
def test_a_small_module_has_its_reason(path: Path) -> None:
    """Below 50 lines a module is a room without a purpose, unless the list above says which."""
    name = name_of(path)
    is_doorplate = path.name == "__init__.py" and name not in DOORS
    is_small = len(path.read_text().splitlines()) < 50
    assert is_doorplate or is_small == (name in SMALL)


READS_THE_SERVICES_WORDS = {"transport.failure", "limits.headers"}
READS_OTHERS_WORDS = {
    "batch.sqlite": "SQLite has one error class for a lock and for anything else",
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


@by_name
def test_no_decision_hangs_on_the_words_of_a_message(path: Path) -> None:
    """A message is for people; what code decides on is a field."""
    if name_of(path) in READS_THE_SERVICES_WORDS | READS_OTHERS_WORDS.keys():
        assert list(decides_by_words(tree_of(path))) or name_of(path) in READS_THE_SERVICES_WORDS
    else:
        assert list(decides_by_words(tree_of(path))) == []


# The words of the first version, which a reader of asyncio and HTTP would have to learn; see the vocabulary
# of the field instead: poll, rate limiter, permit, slot, failure, retry decision, tracked job, update, item …
RETIRED = {
    *("look", "looks", "looked", "inquiry", "gate", "gates", "entrance", "member", "members"),
    *("lease", "leases", "turn", "turns", "refusal", "refusals", "verdict", "judge", "watcher"),
    *("watchers", "heed", "told", "errand", "errands", "fate", "halt", "book", "purse", "tally"),
    *("survey", "story", "news", "door", "doors", "faces", "loss", "letters", "house", "tries"),
}
RETIRED_PHRASES = (
    *("not to be had any more", "as long as it takes", "with nonsense", "is said so", "the server's word"),
    *("stand in line", "stands in line", "looked at", "a safety net of looks", "the one gate", "the door"),
)


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name


@by_name
def test_no_retired_word_comes_back(path: Path) -> None:
    """As a name, or as a part of one; `a_looks_b` and `ALooksB` alike. And no phrase of the old voice."""
    for name in identifiers(tree_of(path)):
        parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().split("_")
        assert not RETIRED.intersection(parts), name
    text = path.read_text().lower()
    assert [phrase for phrase in RETIRED_PHRASES if phrase in text] == []


def test_no_retired_phrase_stands_in_the_readme() -> None:
    """It is what a user reads first."""
    text = (PACKAGE.parent / "README.md").read_text().lower()
    assert [phrase for phrase in RETIRED_PHRASES if phrase in text] == []
