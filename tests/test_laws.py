"""The laws of the design, read from the source of every module."""

from __future__ import annotations

import ast
import re
from collections import Counter

from tests.sources import (
    CLIENT,
    EMULATOR,
    MODULES,
    PACKAGE,
    classes,
    decides_by_words,
    functions,
    identifiers,
    imports,
    length_of,
    mutable_attributes,
    tree_of,
)

# Bottom to top; a module imports what stands below it, or beside it in its own layer. The errors stand at
# the bottom: values are checked when they are built, and say so in errors of this library.
LAYERS = [
    ["unicode", "errors", "catalog", "clock", "forks", "log", "secret", "waits"],
    ["types"],
    [
        "callbacks",
        "events",
        "check.findings",
        "jobs.durations",
        "decoding",
        "media",
        "files",
        "received",
        "urls",
        "limits.plan",
        "limits.foreign",
        "limits.window",
        "limits.circuit",
        "limits.concurrency",
        "limits.quota",
        "limits.headers",
        "limits.facts",
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
        "transport.forms",
        "budget",
        "transport.wire",
        "webhooks.signature",
        "webhooks",
        "transport.status",
        "transport.introspection",
        "transport.retry",
        "jobs.lifecycle",
        "jobs.poll_size",
        "jobs.schedule",
        "jobs.token",
        "webhooks.unmatched",
    ],
    [
        "settings",
        "limits.credits",
        "limits.key_state",
        "limits.limiter",
        "limits.local_limiter",
        "limits.admission",
        "check.observed",
    ],
    ["limits.redis.shared", "limits.redis.server_clock"],
    ["limits.redis.granting", "limits.redis.codec", "limits.redis.store"],
    ["limits.redis.replica", "limits.redis.link", "limits.redis.status"],
    ["limits.redis.away"],
    ["limits.redis.limiter"],
    [
        "transport.exchange",
        "transport.calls",
        "transport.graphql",
        "transport.rest",
        "resolver",
        "downloads",
        "result",
        "webhooks.hosts",
        "webhooks.handler",
        "webhooks.adapters",
        "webhooks.serving",
        *("check.allowance", "check.connection", "check.paid", "check.receiver", "check.route"),
        "check.schema",
    ],
    ["connections", "webhooks.endpoint"],
    ["submit", "jobs.status_poll", "jobs.tracked", "jobs.poll_failures", "jobs.pacer", "jobs.tracker"],
    ["jobs.shared_jobs"],
    ["jobs.poller", "jobs.job"],
    ["submissions"],
    ["runtime"],
    ["check.jobs", "check.probes"],
    ["check.run"],
    ["batch.item", "batch.backend", "batch.damage", "batch.locked", "batch.promises", "batch.source"],
    ["batch.sqlite", "batch.spending"],
    ["batch.ledger", "batch.in_step"],
    ["batch.planner"],
    ["batch.worker"],
    ["batch.batch"],
    ["client"],
    [
        *("testing", "testing.fixtures", "otel"),
        *("cli", "__main__", "cli.app", "cli.batch", "cli.batch_render", "cli.batch_run"),
        *("cli.coordinator", "cli.generate", "cli.job", "cli.doctor"),
        *("cli.emulator", "cli.exits", "cli.formats", "cli.gallery", "cli.interrupts", "cli.options"),
        *("cli.outputs", "cli.estimate", "cli.prompts", "cli.render", "cli.service"),
        *("cli.status", "cli.units"),
        *(
            "cli.job_progress",
            "cli.lines",
            "cli.preflight",
            "cli.progress",
            "cli.text",
            "cli.summary",
            "cli.run_job",
            "cli.generate",
            "cli.job",
            "",
        ),
    ],
]
PURE = {
    *("batch.item", "batch.damage", "budget", "catalog", "pricing", "errors", "media", "secret", "types"),
    *("decoding", "received", "urls"),
    *("check.allowance", "check.connection", "check.findings", "check.observed", "check.paid"),
    *("check.receiver", "check.schema"),
    *("transport.introspection", "transport.failure", "transport.retry", "transport.wire"),
    *("transport.forms", "transport.status"),
    *(
        "limits.circuit",
        "limits.concurrency",
        "limits.foreign",
        "limits.facts",
        "limits.key_state",
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
    *("limits.redis.codec", "limits.redis.granting", "limits.redis.server_clock"),
    "limits.redis.shared",
    *("jobs.durations", "jobs.lifecycle", "jobs.poll_size", "jobs.schedule", "jobs.token"),
    *("webhooks.unmatched", "webhooks.signature"),
}
IMPURE_LIBRARIES = {"asyncio", "aiohttp", "gql", "time", "random", "secrets", "os", "socket"}
KNOWS_GQL = {"transport.graphql"}
KNOWS_BACKOFF = {"waits"}
KNOWS_AIOHTTP = {
    *("transport.calls", "transport.exchange", "transport.graphql", "transport.rest"),
    *("connections", "downloads", "resolver", "runtime", "webhooks.adapters", "webhooks.serving"),
    "check.probes",
}
# gql and aiohttp cost a quarter of a second: they are imported when a client opens, or a command runs. So are
# batches, with SQLite, by those who have one.
MAY_IMPORT_LATE = {
    "client": {
        *("doitong_async.runtime", "doitong_async.check.run"),
        *("doitong_async.batch.batch", "doitong_async.batch.source"),
    },
    "webhooks.endpoint": {"doitong_async.webhooks.adapters"},
    # Only who shares a key with other processes needs what knows Redis.
    "runtime": {f"doitong_async.limits.redis.{name}" for name in ("limiter", "store")},
    "jobs.poller": {"doitong_async.jobs.shared_jobs"},
    "limits.redis.store": {"redis", "redis.asyncio", "redis.asyncio.retry", "redis.backoff"},
    # These tell which extra is missing, instead of showing a traceback.
    "cli": {"doitong_async.cli.app"},
    "cli.service": {"doitong_async.testing", "doitong_async.webhooks.serving"},
    "cli.emulator": {"doitong_async.emulator"},
}
# The packages whose `__init__` holds more than a docstring.
WITH_CONTENT = {"", "cli", "testing", "webhooks"}
READ_BY_COMMANDS = {"batch.batch", "batch.item", "batch.ledger", "batch.planner", "batch.source"}
"""What a command may know of a batch; the file's tables and the carrying out of items are not among it."""
NOBODYS_NAMES = {"utils", "helpers", "common", "base", "manager", "core"}
MOST_LINES_OF_A_MODULE = 500
FEWEST_LINES_OF_A_MODULE = 50
MOST_LINES_OF_A_CLASS = 250
MOST_LINES_OF_A_FUNCTION = 60
LONG_FUNCTIONS = {
    ("client", "__init__"): "a line for each setting where it is given, and where it is passed on",
    ("cli.batch", "batch_file"): "a line for each option where it is given, and where it is passed on",
    ("cli.generate", "generate"): "a line for each option where it is given, and where it is passed on",
}
LARGE = {"client": "what the user calls, each argument documented where it is given"}
"""Modules past 500 lines, each with the reason why it is not split."""
MOST_MUTABLE = 12
SMALL = {
    "cli": "the command's entry point, which tells which extra is missing",
    "__main__": "`python -m doitong_async`",
    "connections": "the one place that opens a session of our own",
    "forks": "the one rule for a client that was opened before a fork",
    "unicode": "the one rule for text that UTF-8 cannot write",
    "waits": "the one place that knows backoff",
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
READS_THE_SERVICES_WORDS = {"transport.failure", "limits.headers"}
READS_OTHERS_WORDS = {"batch.sqlite": "SQLite has one error class for a lock and for anything else"}

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


def is_empty_package(name: str) -> bool:
    return MODULES[name].name == "__init__.py" and name not in WITH_CONTENT and name not in EMULATOR


def layer_of(name: str) -> int:
    return next((number for number, layer in enumerate(LAYERS) if name in layer), -1)


def ours(name: str) -> set[str]:
    """Return the modules of the package that a module imports, for its types alone as well."""
    prefix = "doitong_async."
    return {each.removeprefix(prefix) for each, _ in imports(MODULES[name]) if each.startswith(prefix)}


def test_every_module_of_the_client_has_its_layer() -> None:
    """A new module is given a place; a package's `__init__` is empty, but for a few."""
    assert [name for name in CLIENT if not is_empty_package(name) and layer_of(name) < 0] == []
    assert [name for name in CLIENT if is_empty_package(name) and ours(name)] == []
    assert [name for layer in LAYERS for name in layer if name not in CLIENT] == []


def test_imports_run_downwards() -> None:
    """A module imports from its own layer and those below; the emulator is imported by the top alone."""
    upwards = [
        (name, imported)
        for name in CLIENT
        if not is_empty_package(name)
        for imported in ours(name)
        if (layer_of(name) < len(LAYERS) - 1 if imported in EMULATOR else layer_of(imported) > layer_of(name))
    ]
    assert upwards == []


def test_there_is_no_circle() -> None:
    """No module imports itself by way of others, not even for its types alone."""
    graph = {name: ours(name) & CLIENT.keys() for name in CLIENT}

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            fresh = graph[todo.pop()] - seen
            seen |= fresh
            todo += fresh
        return seen

    assert [name for name in graph if name in reach(name)] == []


def test_no_import_is_hidden_in_a_function() -> None:
    """Imports stand at the top, but for the few that are late for their cost."""
    for name, path in MODULES.items():
        hidden = {node for function in functions(path) for node in ast.walk(function)}
        late = {imported for imported, node in imports(path) if node in hidden}
        assert late <= MAY_IMPORT_LATE.get(name, set()), name


def test_the_pure_decide_without_the_world() -> None:
    """No loop, no socket, no clock, no chance: these come in as arguments."""
    for name in PURE:
        libraries = {imported.partition(".")[0] for imported, _ in imports(MODULES[name])}
        assert libraries & IMPURE_LIBRARIES == set(), name


def test_gql_and_aiohttp_stand_where_they_may() -> None:
    """One file knows gql, one knows backoff; aiohttp is known where bytes are sent."""
    for name, path in CLIENT.items():
        libraries = {imported.partition(".")[0] for imported, _ in imports(path, typing_too=False)}
        assert "gql" not in libraries or name in KNOWS_GQL, name
        assert "backoff" not in libraries or name in KNOWS_BACKOFF, name
        assert "aiohttp" not in libraries or name in KNOWS_AIOHTTP, name
        assert "redis" not in libraries or name == "limits.redis.store", name
        assert "opentelemetry" not in libraries or name == "otel", name
        assert not {"pytest", "pytest_asyncio"} & libraries or name == "testing.fixtures", name


def test_the_emulator_shares_nothing_with_the_client() -> None:
    """Shared code would hide shared mistakes."""
    assert [name for name in EMULATOR if not ours(name) <= EMULATOR.keys()] == []


def test_a_command_reads_a_ledger_by_its_public_modules() -> None:
    """No command knows the tables of the file, or how items are carried out."""
    for name in CLIENT:
        if name.startswith("cli."):
            inside = {imported for imported in ours(name) if imported.startswith("batch.")}
            assert inside <= READ_BY_COMMANDS, name


def test_a_module_opens_with_one_sentence() -> None:
    """The first paragraph of the docstring is one sentence that says what the module is for."""
    for name, path in MODULES.items():
        first = (ast.get_docstring(tree_of(path)) or "").split("\n\n")[0]
        assert first.endswith((".", ":")), name
        assert len(first) > 20, name


def test_a_module_is_of_a_size_and_named_for_what_it_is() -> None:
    """Below 50 lines, or past 500, it needs its reason in a list above."""
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert [name for name, count in lines.items() if count > MOST_LINES_OF_A_MODULE] == [*LARGE]
    assert {
        name
        for name, count in lines.items()
        if count < FEWEST_LINES_OF_A_MODULE and not is_empty_package(name)
    } == SMALL.keys()
    assert [name for name in MODULES if NOBODYS_NAMES & set(name.split("."))] == []


def test_functions_fit_on_a_screen() -> None:
    """Sixty lines, docstring aside; a longer one is in the list above, with its reason."""
    long = [
        (name, function.name)
        for name, path in MODULES.items()
        for function in functions(path)
        if length_of(function) > MOST_LINES_OF_A_FUNCTION
    ]
    assert set(long) == LONG_FUNCTIONS.keys()


def test_a_class_holds_one_idea() -> None:
    """At most 250 lines, docstrings aside, and 12 attributes that change."""
    for name, node in classes():
        assert length_of(node) <= MOST_LINES_OF_A_CLASS, (name, node.name)
        changing = mutable_attributes(node)
        assert len(changing) <= MOST_MUTABLE, (name, node.name, sorted(changing))


def test_a_class_name_is_used_once() -> None:
    """One word, one meaning; the emulator's twins aside, and what a module keeps to itself."""
    names = [node.name for name, node in classes() if name in CLIENT and not node.name.startswith("_")]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_permits_and_slots_are_taken_in_a_block() -> None:
    """So that no exception leaves one taken."""
    for name, path in CLIENT.items():
        tree = tree_of(path)
        blocks = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.With)
            for item in node.items
            for inner in ast.walk(item.context_expr)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Await(value=ast.Call(func=ast.Attribute(attr="permit" | "slot" | "reservation"))):
                    assert id(node) in blocks, (name, node.lineno)


def test_no_decision_hangs_on_the_words_of_a_message() -> None:
    """A message is for people; what code decides on is a field."""
    for name, path in MODULES.items():
        found = list(decides_by_words(tree_of(path)))
        if name in READS_OTHERS_WORDS:
            assert found, f"{name} needs its exception no more"
        elif name not in READS_THE_SERVICES_WORDS:
            assert found == [], name


def test_no_retired_word_comes_back() -> None:
    """As a name, or as a part of one; `a_looks_b` and `ALooksB` alike. And no phrase of the old voice."""
    for name, path in MODULES.items():
        assert not RETIRED.intersection(re.split(r"[._]", name)), name
        for identifier in identifiers(tree_of(path)):
            parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", identifier).lower().split("_")
            assert not RETIRED.intersection(parts), (name, identifier)
        text = path.read_text().lower()
        assert [phrase for phrase in RETIRED_PHRASES if phrase in text] == [], name


def test_no_retired_phrase_stands_in_the_readme() -> None:
    """It is what a user reads first."""
    text = (PACKAGE.parent / "README.md").read_text().lower()
    assert [phrase for phrase in RETIRED_PHRASES if phrase in text] == []
