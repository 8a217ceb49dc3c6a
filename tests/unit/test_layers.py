"""Rooms import only leftwards; the list below is the house."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import alembic_zero

ROOT = Path(alembic_zero.__file__).parent
PACKAGE = "alembic_zero"

# A module's room is its longest prefix here. Lower ranks are further left; rooms of one rank
# do not know each other, except among the wiring.
RANKS = {
    "errors": 0,
    "names": 0,
    "plain": 0,
    "operations": 1,
    "catalog": 1,
    "lens": 2,
    "sql": 3,
    "plan": 4,
    "catalog.reader": 5,
    "execute": 6,
    "autogenerate": 6,
    "runtime": 6,
    "completing": 7,
    "driver": 7,
    "heads": 7,
    "recording": 7,
    "reporting": 7,
    "returning": 7,
    "road": 7,
    "verifying": 7,
    "workplace": 7,
    "configuration": 7,
    "commands": 7,
    "plugin": 7,
    "cli": 7,
    "op": 7,
}
WIRING = 7
PURE = {"errors", "names", "plain", "catalog", "lens", "sql", "plan"}
CONNECTIONS = {"psycopg", "psycopg2", "asyncpg", "socket", "subprocess"}
QUOTING_ONLY = "psycopg.sql"  # composes text, needs no connection

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py"  # only re-exports, lazily
}


def room_of(module: str) -> str:
    rooms = [room for room in RANKS if module == room or module.startswith(f"{room}.")]
    assert rooms, f"alembic_zero.{module} is in no room: add it to RANKS"
    return max(rooms, key=len)


def imports_of(path: Path, *, top_level: bool = False) -> set[str]:
    """Return the dotted names that a module imports, those for type checking included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(path: Path) -> set[str]:
    """Return the imported modules of this package, relative to it."""
    found = set()
    for name in imports_of(path):
        if name.partition(".")[0] != PACKAGE:
            continue
        inner = name.removeprefix(f"{PACKAGE}.")
        # "from package.module import thing": cut until a module is left.
        while inner not in MODULES and "." in inner:
            inner = inner.rpartition(".")[0]
        found.add(inner)
    return found


def may_import(room: str, other: str) -> bool:
    if room == other or (RANKS[room] == RANKS[other] == WIRING):
        return True
    if room == "runtime":
        return other in {"errors", "names"}
    return RANKS[other] < RANKS[room]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_layers__imports_point_left(module):
    room = room_of(module)
    wrong = {name for name in own_imports(MODULES[module]) if not may_import(room, room_of(name))}
    assert not wrong, f"alembic_zero.{module} (room {room}) must not import {sorted(wrong)}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if room_of(name) in PURE))
def test_layers__pure_rooms_know_no_connection(module):
    names = {name for name in imports_of(MODULES[module]) if not name.startswith(QUOTING_ONLY)}
    assert not {name.partition(".")[0] for name in names} & CONNECTIONS


@pytest.mark.parametrize("module", ["errors", "names"])
def test_layers__errors_and_names__standard_library_only(module):
    import sys

    tops = {name.partition(".")[0] for name in imports_of(MODULES[module])}
    assert tops <= set(sys.stdlib_module_names)


def test_layers__runtime__at_import_only_sqlalchemy():
    import sys

    allowed = set(sys.stdlib_module_names) | {"sqlalchemy", PACKAGE}
    for module in (name for name in MODULES if room_of(name) == "runtime"):
        tops = {name.partition(".")[0] for name in imports_of(MODULES[module], top_level=True)}
        assert tops <= allowed
