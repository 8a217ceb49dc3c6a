"""Whole migrations as a role that is no superuser, with no more grants than docs/security.md asks for."""

from __future__ import annotations

import importlib
import json
import os

import pytest
from sqlalchemy import create_engine

from alembic_zero import pin_engine
from tests.support.harness import AFTER, APP, BEFORE, OUTCOMES, Case, Flight, outcome_id, outcomes_of
from tests.support.roles import RoleDatabase

pytestmark = pytest.mark.one_server

MODULES = ("scenarios", "across", "across_patterns", "across_semantics", "constraints", "enums", "everything_at_once",
           "indexes", "keys", "operations", "patterns")  # fmt: skip


# Their setup, or the revision itself, is what only a superuser may do; or they are no whole migrations.
LEFT_OUT = {"first_draft", "extension", "locks", "text_becomes_case_insensitive_under_its_unique_index"}


def _cases():
    """Return every case that the acceptance tests run as a superuser."""
    found = {}
    for name in MODULES:
        for value in vars(importlib.import_module(f"tests.acceptance.test_{name}")).values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Case) and one.name not in LEFT_OUT:
                    found[f"{name}: {one.name}"] = one
    return found


CASES = _cases()
SLOW = "ALEMBIC_ZERO_SLOW" in os.environ
# One of each kind of step; the others belong to "make test-slow".
SMALL = {"everything_at_once", "every_type_at_once", "two_tables_in_two_schemas", "labels_exchanged", "S03_split"}


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.name in SMALL], ids=outcome_id)
def test_some_cases__without_superuser(database, tmp_path, case):
    """As a member of the role that owns the tables: that is less than the owner."""
    OUTCOMES["complete"](case, RoleDatabase(database, "member"), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not SLOW, reason="set ALEMBIC_ZERO_SLOW to run it")
@pytest.mark.parametrize("kind", ["owner", "member"])
@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*CASES.values()) if SLOW else [], ids=outcome_id)
def test_every_case__without_superuser(database, tmp_path, case, outcome, kind):
    """Every case and outcome that the acceptance tests run as a superuser."""
    OUTCOMES[outcome](case, RoleDatabase(database, kind), tmp_path)


ADD = 'op.zd_add_column("t", sa.Column("b", sa.Text), up="a || \'!\'")'
SIMPLE = Case("simple", "CREATE TABLE t (id integer PRIMARY KEY, a text);", ADD, ADD.replace("zd_", ""))


@pytest.mark.parametrize("kind", ["owner", "member"])
def test_zd_complete__clients_of_other_roles__seen_without_pg_read_all_stats(database, tmp_path, kind):
    """The server hides much of other roles' sessions; not the name by which a version's clients are known."""
    flight = Flight(SIMPLE, RoleDatabase(database, kind), tmp_path / "project")
    flight.run("upgrade", AFTER)
    engine = pin_engine(create_engine(database.url.set(username=APP)), revision=BEFORE)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM t")
        refused = flight.project.run_in_process("zd-complete", check=False)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "clients of older versions are connected" in refused.stdout + refused.stderr
        (version,) = [v for v in json.loads(flight.run("zd-status", "--json").stdout)["versions"]
                      if v["revision"] == BEFORE]  # fmt: skip
        assert version["clients"] == 1
    engine.dispose()
    flight.run("zd-complete")
