"""The public names, and what importing them costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import alembic_zero

PUBLIC = {
    "IRREVERSIBLE",
    "MigrationError",
    "PinError",
    "RefusedError",
    "ZeroError",
    "configure",
    "from_table",
    "pin_engine",
    "version_schema",
}


def test_exported_names__are_the_documented_ones():
    assert set(alembic_zero.__all__) == PUBLIC
    assert set(dir(alembic_zero)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_exported_name__resolves_to_what_its_module_defines(name):
    home = importlib.import_module(alembic_zero._HOMES[name])
    assert getattr(alembic_zero, name) is getattr(home, name)


def test_configure__is_the_function_even_after_its_module_was_imported():
    importlib.import_module("alembic_zero.configuration")
    assert inspect.isfunction(alembic_zero.configure)


def test_unknown_name__attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = alembic_zero.nothing


@pytest.mark.parametrize(
    "statement",
    ["import alembic_zero", "from alembic_zero import pin_engine", "from alembic_zero import version_schema"],
)
def test_import__application_side__loads_neither_alembic_nor_psycopg(statement):
    program = f"""
import sys
{statement}
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(*sorted(loaded & {{"alembic", "psycopg", "psycopg_binary"}}))
print(*sorted(name for name in sys.modules if name.startswith("alembic_zero.")))
"""
    completed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    foreign, own = completed.stdout.splitlines()
    assert foreign == ""
    assert set(own.split()) <= {
        "alembic_zero.errors",
        "alembic_zero.names",
        "alembic_zero.runtime",
        "alembic_zero.runtime.pin",
    }
