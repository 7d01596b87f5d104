"""Which module imports which: one order, no circle, and nothing heavy before it is used."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import syncagent as package
from tests.sources import HEAVY

ROOT = Path(package.__file__).parent
ORDER: tuple[frozenset[str], ...] = (
    frozenset({"invisible", "redaction"}),
    frozenset({"errors", "addresses"}),
    frozenset({"model", "files"}),
    frozenset({"values"}),
    frozenset({"privileges"}),
    frozenset({"postfix"}),
    frozenset({"sources"}),
    frozenset({"config"}),
    frozenset({"state"}),
    frozenset({"sync"}),
    frozenset({"agent", "checks"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""A module imports from earlier sets only, and from its own package; those of one set do not import each other."""
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
PURE = {
    "redaction",
    "errors",
    "model",
    "addresses",
    "invisible",
    "values",
    "values.cron",
    "values.patterns",
    "values.quoting",
    "values.readable",
    "values.spellings",
    "sources.binary",
    "sources.leftovers",
    "values.types",
    "postfix.table_text",
    "state",
    "state.alarms",
    "state.content_age",
    "state.doubt_groups",
    "state.identity",
    "state.likely",
    "state.looks",
    "state.fields",
    "state.messages",
    "state.not_relayed",
    "state.rejects",
    "state.tally",
    "sync",
    "sync.approvals",
    "sync.clock",
    "sync.conditions",
    "sync.counting",
    "sync.domain_counter",
    "sync.doubt",
    "sync.guard",
    "sync.holds",
    "sync.losses",
    "sync.missing",
    "sync.outcome",
    "sync.rejected",
    "sync.relay_domains",
    "sync.removals",
    "sync.scope",
    "sync.state_new",
    "sync.unchanged",
    "sync.waiting",
}
DOING = {"os", "subprocess", "sqlite3", "socket", "tempfile", "shutil", "threading", "time", "io", "logging"}


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def _imports(nodes: list[ast.stmt], *, deep: bool) -> Iterator[str]:
    """Give the full names of what is imported when the statements run; `deep` looks into functions too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names
            if not {name.removeprefix("syncagent.") for name in names} <= MODULES.keys():  # more than rooms of a house
                yield node.module or ""
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _imports(node.orelse, deep=deep)
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for _, value in ast.iter_fields(node):
                if isinstance(value, list):
                    yield from _imports([item for item in value if isinstance(item, ast.stmt)], deep=deep)
                    for item in value:
                        yield from _imports(
                            getattr(item, "body", []) if not isinstance(item, ast.stmt) else [], deep=deep
                        )


@cache
def imported(module: str, *, deep: bool = True) -> frozenset[str]:
    """Give what a module imports."""
    return frozenset(_imports(ast.parse(MODULES[module].read_text(encoding="utf-8")).body, deep=deep))


def ours(module: str) -> set[str]:
    """Give the modules of the package that a module imports."""
    names = {name.removeprefix("syncagent.") for name in imported(module) if name.startswith("syncagent.")}
    return (names & MODULES.keys()) - {module}


def reached(module: str) -> set[str]:
    """Give the modules of the package that a module imports, itself or by way of another."""
    found: set[str] = set()
    new = ours(module)
    while new:
        found |= new
        new = set().union(*(ours(name) for name in new)) - found
    return found


def test_the_imports_are_found() -> None:
    """The tests below see what they are about."""
    assert {"errors", "sync.fetch", "state.opened", "sync.tables"} <= ours("sync.run")
    assert "config.tables" not in ours("sync.guard")
    assert "rich.console" in imported("cli.output")
    assert "rich.console" not in imported("cli.output", deep=False)
    assert "click" in imported("cli.main", deep=False)
    assert {"files.sorted_lines", "errors"} <= reached("cli.main")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    """No module imports itself by way of others, and none imports what comes after it in the order."""
    assert module not in reached(module)
    room = module.partition(".")[0]
    later = {name for name in ours(module) if room != name.partition(".")[0] and not _before(name, room)}
    assert not later - {"__init__"}


def _before(module: str, room: str) -> bool:
    """True if a module stands before a room of the house."""
    return RANK[module.partition(".")[0]] < RANK[room]


def test_explain_needs_no_checks() -> None:
    """What Postfix answers is known below the checks: `explain` reaches none of them, by whatever way."""
    assert not {name for name in reached("cli.explain") if name.partition(".")[0] == "checks"}


def test_every_module_has_its_place() -> None:
    """The order has each top-level module and package, and no other."""
    assert {name.partition(".")[0] for name in MODULES} - {"", "__init__"} == set(RANK)


@pytest.mark.parametrize("module", sorted(PURE))
def test_deciding_does_nothing(module: str) -> None:
    """What only decides imports only what only decides: no file, process, clock or thread is within its reach."""
    assert reached(module) <= PURE
    assert not {name.partition(".")[0] for name in imported(module)} & DOING


HOMES = {
    "agent.schedule": {"apscheduler"},
    "agent.file_watch": {"watchdog"},
    "agent.log": {"structlog"},
    "agent.metrics": {"prometheus_client"},
    "sources.http.client": {"httpx"},
    "sources.ldap.connection": {"ldap3"},
    "sources.ldap.tls": {"ldap3"},
}
"""The only modules that import these; the contract suite sees to it that reading a configuration reaches none."""


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    """No module imports a heavy library when it is itself imported, but for its home, which is imported late itself."""
    assert not {name.partition(".")[0] for name in imported(module, deep=False)} & (HEAVY | {"idna"}) - HOMES.get(
        module, set()
    )


def test_only_the_ends_of_the_line_are_imported_by_none() -> None:
    """Every module is used; the rooms that nothing leads to are the front door and those found by entry point."""
    used = set().union(*(ours(module) for module in MODULES))
    used |= {name.rpartition(".")[0] for name in used}  # a room of a house opens the house
    entry_points = {"sources.file", "sources.http", "sources.ldap"}
    assert set(MODULES) - used <= {"", "__init__", "__main__", "config.json_schema", *entry_points}
