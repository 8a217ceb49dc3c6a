"""The plugin: what ``import alembic`` does in an environment that has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands for the installed entry point, and for its absence: the same whether the package is installed or not.
PRELUDE = """
import importlib.metadata, json, sys
_entry_points = importlib.metadata.entry_points
def entry_points(**kw):
    if kw.get("group") != "alembic.plugins":
        return _entry_points(**kw)
    if not {installed}:
        return ()
    return (importlib.metadata.EntryPoint("alembic_zero", "alembic_zero.plugin", "alembic.plugins"),)
importlib.metadata.entry_points = entry_points
"""

HELP = """
import argparse
from alembic.config import CommandLine
line = CommandLine(prog="alembic")
commands = next(a for a in line.parser._actions if isinstance(a, argparse._SubParsersAction)).choices
print(json.dumps({
    "commands": {name: parser.format_help() for name, parser in commands.items()},
    "options": line.parser.format_help().partition("\\noptions:")[2],
}))
"""


def run(code: str, *, installed: bool = True) -> str:
    """Return what *code* prints in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE.format(installed=installed) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_alembic__with_plugin__directives_and_nothing_heavy():
    """Every program that imports Alembic pays for what the plugin imports."""
    code = """
import alembic
assert callable(alembic.op.zd_add_column)
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(json.loads(run(code)))
    without = set(json.loads(run(code.replace("assert", "assert True or"), installed=False)))
    assert {"alembic.config", "alembic.command", "psycopg"}.isdisjoint(loaded)
    assert all(name.startswith("alembic_zero") for name in loaded - without), loaded - without
    assert loaded - without == {
        "alembic_zero",
        "alembic_zero.autogenerate",
        "alembic_zero.autogenerate.render",
        "alembic_zero.errors",
        "alembic_zero.names",
        "alembic_zero.operations",
        "alembic_zero.operations.across",
        "alembic_zero.operations.base",
        "alembic_zero.operations.columns",
        "alembic_zero.operations.constraints",
        "alembic_zero.operations.dispatch",
        "alembic_zero.operations.enums",
        "alembic_zero.operations.errors",
        "alembic_zero.operations.execute",
        "alembic_zero.operations.indexes",
        "alembic_zero.operations.irreversible",
        "alembic_zero.operations.tables",
        "alembic_zero.plugin",
    }


def test_import_config__with_plugin__commands_and_nothing_heavy():
    code = """
import alembic.config
print(json.dumps(sorted(name for name in sys.modules if name.startswith(("alembic_zero", "psycopg")))))
"""
    loaded = set(json.loads(run(code)))
    assert "alembic_zero.cli" in loaded
    heavy = (
        "alembic_zero.driver",
        "alembic_zero.plan",
        "alembic_zero.execute",
        "alembic_zero.catalog",
        "psycopg",
    )
    assert not [name for name in loaded if name.startswith(heavy)]


def test_command_line__with_plugin__stock_commands_unchanged():
    stock = json.loads(run(HELP, installed=False))
    ours = json.loads(run(HELP))
    assert set(ours["commands"]) - set(stock["commands"]) == {
        "zd-init",
        "zd-status",
        "zd-plan",
        "zd-verify",
        "zd-complete",
        "zd-prune",
        "zd-schema",
    }
    assert list(ours["commands"])[: len(stock["commands"])] == list(stock["commands"])
    assert {name: ours["commands"][name] for name in stock["commands"]} == stock["commands"]
    assert ours["options"] == stock["options"]


@pytest.mark.parametrize(
    "code",
    [
        "import importlib.util, alembic; importlib.util.find_spec('alembic.config'); import alembic.config",
        "import alembic.config, alembic_zero.plugin; alembic_zero.plugin.setup(None)",
        "import alembic_zero.operations.columns, alembic.config",
        "import alembic_zero.cli, alembic.config",
        "import alembic_zero.op, alembic.config",
        "import alembic_zero.plugin, alembic.config",
        "from alembic_zero import IRREVERSIBLE, RefusedError; import alembic.config",
    ],
)
def test_import__in_any_order__commands_installed_once(code):
    check = """
line = alembic.config.CommandLine()
assert "zd-init" in line.subparsers.choices
assert callable(alembic.op.zd_add_column)
import alembic_zero.plugin
assert not any(isinstance(finder, alembic_zero.plugin.ConfigFinder) for finder in sys.meta_path)
import inspect
assert "class CommandLine" in inspect.getsource(alembic.config)
"""
    run(code + check)


def test_setup__without_entry_point__installs_when_called():
    run(
        """
import alembic.config
assert "zd-init" not in alembic.config.CommandLine().subparsers.choices
import alembic_zero.plugin
alembic_zero.plugin.setup(None)
assert "zd-init" in alembic.config.CommandLine().subparsers.choices
""",
        installed=False,
    )
