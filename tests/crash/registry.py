"""Every scenario that the killing goes through: the cases of the acceptance tests, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance import (
    test_across,
    test_across_patterns,
    test_across_semantics,
    test_constraints,
    test_enums,
    test_everything_at_once,
    test_indexes,
    test_keys,
    test_operations,
    test_patterns,
    test_scenarios,
)
from tests.support.harness import Case, new, old

if TYPE_CHECKING:
    from collections.abc import Sequence

# What ordinary operations and SQL text do at once has to be undone where it was done, and only there.
ORDINARY = Case(
    "ordinary_operations",
    setup="""
        CREATE TABLE t (id integer PRIMARY KEY, name text);
        INSERT INTO t VALUES (1, 'Ada'), (2, 'Bob');
    """,
    upgrade="""
        op.execute("CREATE FUNCTION first_letter(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN left($1, 1)")
        op.zd_add_column("t", sa.Column("letter", sa.Text), up="first_letter(name)")
        op.create_table("colors", sa.Column("name", sa.Text, primary_key=True))
        op.execute("INSERT INTO colors VALUES ('red')")
        with op.get_context().autocommit_block():
            op.create_index("t_name", "t", ["name"], postgresql_concurrently=True)
        op.execute("CREATE SEQUENCE numbers")
    """,
    plain="pass",
    downgrade="""
        op.execute("DROP SEQUENCE numbers")
        op.drop_index("t_name", "t")
        op.execute("DELETE FROM colors WHERE name = 'red'")
        op.drop_table("colors")
        op.zd_drop_column("t", "letter")
        op.execute("DROP FUNCTION first_letter")
    """,
    writes=[old("INSERT INTO t VALUES (3, 'Eve')"), new("INSERT INTO t VALUES (4, 'Jo', 'x')")],
    old={"SELECT * FROM t": [(1, "Ada"), (2, "Bob"), (3, "Eve"), (4, "Jo")]},
    new={"SELECT letter FROM t": [("A",), ("B",), ("E",), ("x",)], "SELECT * FROM colors": [("red",)]},
)

_FAMILIES: dict[str, Sequence[Case]] = {
    "scenarios": [
        test_scenarios.S03_SPLIT,
        test_scenarios._s04("json"),
        test_scenarios._s04("jsonb"),
        test_scenarios.S04_SUBSCRIPT,
        *test_scenarios.S07,
        *test_scenarios.S08,
        test_scenarios.S11,
        test_scenarios.S12_FIRST,
        test_scenarios.S13,
        test_scenarios.S14,
        test_scenarios.S15,
    ],
    "across": test_across.CASES,
    "across_patterns": test_across_patterns.CASES,
    "across_semantics": test_across_semantics.CASES,
    "constraints": [
        *test_constraints.CONFORMING,
        *test_constraints.ADDED,
        test_constraints.NAMED,
        *test_constraints.DROPPED,
        *test_constraints.RENAMED,
        *test_constraints.REPLACED,
        test_constraints.S09_TABLES,
    ],
    "indexes": [*test_indexes.S10_KINDS, *test_indexes.S10_DROPS, test_indexes.NOT_DISTINCT, *test_indexes.MIXED],
    "enums": test_enums.CASES,
    "keys": [*test_keys.KEYS, test_keys.OTHER_SCHEMA],
    "patterns": test_patterns.PATTERNS,
    "operations": [
        *test_operations.COMBINATIONS,
        *test_operations.TABLES,
        *test_operations.KEYS,
        test_operations.EVERYTHING_AT_ONCE,
    ],
    "everything": [test_everything_at_once.EVERYTHING],
    "crash": [ORDINARY],
}

SCENARIOS: dict[str, Case] = {f"{family}-{case.name}": case for family, cases in _FAMILIES.items() for case in cases}

# What a server must be at least.
NEEDS = {"indexes-create_nulls_not_distinct": 15}


def family_of(name: str) -> str:
    """Return the family of a scenario."""
    return name.split("-", 1)[0]
