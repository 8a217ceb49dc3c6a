"""Indexes are built concurrently, on any column, and dropped with zd-complete."""

from __future__ import annotations

import pytest

from tests.support.harness import (
    AFTER,
    BEFORE,
    OUTCOMES,
    Case,
    Flight,
    assert_nothing_left,
    assert_same,
    new,
    old,
    outcome_id,
    outcomes_of,
    plain_dump,
)

TABLE = """
    CREATE TABLE t (id integer PRIMARY KEY, name text, n integer, tags text[], "odd %s" integer, deleted boolean);
    CREATE INDEX t_n ON t (n);
    INSERT INTO t VALUES (1, 'one', 10, '{a,b}', 5, false), (2, 'two', NULL, NULL, NULL, NULL);
"""
ROWS = {"SELECT id, name, n FROM t": [(1, "one", 10), (2, "two", None), (3, "three", 30), (4, "four", 40)]}
WRITES = [
    old("INSERT INTO t (id, name, n) VALUES (3, 'three', 30)"),
    new("INSERT INTO t (id, name, n) VALUES (4, 'four', 40)"),
]

# What each kind of index is, as arguments of op.create_index.
KINDS = {
    "plain": '"t_x", "t", ["name"]',
    "several": '"t_x", "t", ["name", "n"]',
    "unique": '"t_x", "t", ["name"], unique=True',
    "expression": '"t_x", "t", [sa.text("lower(name)"), "n"], unique=True',
    "constant_expression": '"t_x", "t", [sa.text("(1)")]',
    "partial": '"t_x", "t", ["name"], unique=True, postgresql_where=sa.text("deleted IS NOT TRUE")',
    "include": '"t_x", "t", ["name"], postgresql_include=["n", "odd %s"]',
    "hash": '"t_x", "t", ["name"], postgresql_using="hash"',
    "gin": '"t_x", "t", ["tags"], postgresql_using="gin"',
    "brin": '"t_x", "t", ["n"], postgresql_using="brin", postgresql_with={"pages_per_range": 16}',
    "opclass": '"t_x", "t", ["name"], postgresql_ops={"name": "text_pattern_ops"}',
    "order": '"t_x", "t", [sa.text("n DESC NULLS LAST"), sa.text(\'name COLLATE "C"\')]',
    "fillfactor": '"t_x", "t", ["n"], postgresql_with={"fillfactor": 50}',
    "odd_name": '"T %s \\"x\\"", "t", ["odd %s"]',
    "concurrently": '"t_x", "t", ["name"], postgresql_concurrently=True',
}

S10_KINDS = [
    Case(
        f"create_{kind}",
        setup=TABLE,
        upgrade=f"op.zd_create_index({arguments})",
        plain=f"op.create_index({arguments.replace(', postgresql_concurrently=True', '')})",
        downgrade=f'op.zd_drop_index({arguments.split(",")[0]}, "t")',
        writes=WRITES,
        old=ROWS,
        new=ROWS,
    )
    for kind, arguments in KINDS.items()
]  # fmt: skip

NOT_DISTINCT = Case(
    "create_nulls_not_distinct",
    setup=TABLE,
    upgrade='op.zd_create_index("t_x", "t", ["n"], unique=True, postgresql_nulls_not_distinct=True)',
    plain='op.create_index("t_x", "t", ["n"], unique=True, postgresql_nulls_not_distinct=True)',
    downgrade='op.zd_drop_index("t_x")',
    writes=[*WRITES, new("INSERT INTO t (id) VALUES (9)", error="23505")],
    old=ROWS,
    new=ROWS,
)

S10_DROPS = [
    Case(
        "drop",
        setup=TABLE,
        upgrade='op.zd_drop_index("t_n", "t")',
        plain='op.drop_index("t_n", "t")',
        downgrade='op.zd_create_index("t_n", "t", ["n"])',
        writes=WRITES,
        old=ROWS,
        new=ROWS,
    ),
    Case(
        "drop_unique_without_table_name",
        setup=TABLE + "CREATE UNIQUE INDEX t_name ON t (name);",
        upgrade='op.zd_drop_index("t_name", postgresql_concurrently=True)',
        plain='op.drop_index("t_name")',
        downgrade='op.zd_create_index("t_name", "t", ["name"], unique=True)',
        # Until zd-complete it binds both versions, and serves ON CONFLICT.
        writes=[
            *WRITES,
            new("INSERT INTO t (id, name) VALUES (9, 'one')", error="23505"),
            old("INSERT INTO t (id, name, n) VALUES (9, 'one', 10) ON CONFLICT (name) DO NOTHING"),
        ],
        old=ROWS,
        new=ROWS,
    ),
    Case(
        "replaced_under_its_name",
        setup=TABLE + "COMMENT ON INDEX t_n IS 'gone with it';",
        upgrade="""
            op.zd_drop_index("t_n", "t")
            op.zd_create_index("t_n", "t", ["n", "name"], unique=True)
        """,
        plain="""
            op.drop_index("t_n", "t")
            op.create_index("t_n", "t", ["n", "name"], unique=True)
        """,
        downgrade="""
            op.zd_drop_index("t_n", "t")
            op.zd_create_index("t_n", "t", ["n"])
        """,
        faithful=False,  # The comment went with the index.
        writes=WRITES,
        old=ROWS,
        new=ROWS,
    ),
    Case(
        "exists_or_not",
        setup=TABLE,
        upgrade="""
            op.zd_create_index("t_n", "t", ["name"], if_not_exists=True)
            op.zd_drop_index("nope", "t", if_exists=True)
            op.zd_create_index("t_x", "t", ["n"], if_not_exists=True)
        """,
        plain='op.create_index("t_x", "t", ["n"])',
        writes=WRITES,
        old=ROWS,
        new=ROWS,
    ),
]

MIXED = [
    Case(
        "on_columns_in_flight",
        setup=TABLE,
        upgrade="""
            op.zd_add_column("t", sa.Column("upper_name", sa.Text), up="upper(name)")
            op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")
            op.zd_create_index("t_upper", "t", ["upper_name", "n"], unique=True)
            op.zd_create_index("t_mixed", "t", ["name", "n"])
            op.zd_create_index("t_odd", "t", ["odd %s"])
            op.zd_drop_column("t", "deleted")
            op.zd_rename_table("t", "tt")
            op.zd_create_index("tt_tags", "tt", ["tags"], postgresql_using="gin")
        """,
        plain="""
            op.add_column("t", sa.Column("upper_name", sa.Text))
            op.alter_column("t", "n", type_=sa.Text)
            op.create_index("t_upper", "t", ["upper_name", "n"], unique=True)
            op.create_index("t_mixed", "t", ["name", "n"])
            op.create_index("t_odd", "t", ["odd %s"])
            op.drop_column("t", "deleted")
            op.rename_table("t", "tt")
            op.create_index("tt_tags", "tt", ["tags"], postgresql_using="gin")
        """,
        downgrade="""
            op.zd_drop_index("tt_tags", "tt")
            op.zd_rename_table("tt", "t")
            op.zd_add_column("t", sa.Column("deleted", sa.Boolean))
            op.zd_drop_index("t_odd", "t")
            op.zd_drop_index("t_mixed", "t")
            op.zd_drop_index("t_upper", "t")
            op.zd_alter_column("t", "n", type_=sa.Integer, up="n::integer", down="n::text")
            op.zd_drop_column("t", "upper_name")
        """,
        faithful=False,  # The columns are in another order.
        writes=[
            old("INSERT INTO t (id, name, n) VALUES (3, 'three', 30)"),
            new("INSERT INTO tt (id, name, n, upper_name) VALUES (4, 'four', '40', 'IV')"),
            new("INSERT INTO tt (id, n, upper_name) VALUES (9, '40', 'IV')", error="23505"),
            new("INSERT INTO tt (id, n, upper_name) VALUES (9, '40', 'IV') ON CONFLICT (upper_name, n) DO NOTHING"),
        ],
        old=ROWS,
        new={"SELECT id, upper_name, n FROM tt": [
            (1, "ONE", "10"), (2, "TWO", None), (3, "THREE", "30"), (4, "IV", "40")]},
    ),
    Case(
        "name_of_a_dropped_column_index",
        setup=TABLE,
        upgrade="""
            op.zd_drop_column("t", "n")
            op.zd_create_index("t_n", "t", ["name"])
        """,
        plain="""
            op.drop_column("t", "n")
            op.create_index("t_n", "t", ["name"])
        """,
        downgrade="""
            op.zd_drop_index("t_n", "t")
            op.zd_add_column("t", sa.Column("n", sa.Integer))
            op.zd_create_index("t_n", "t", ["n"])
        """,
        faithful=False,
        writes=[old("INSERT INTO t (id, name, n) VALUES (3, 'three', 30)")],
        old={"SELECT id, n FROM t": [(1, 10), (2, None), (3, 30)]},
        new={"SELECT id, name FROM t": [(1, "one"), (2, "two"), (3, "three")]},
        reversed={"SELECT id, name FROM t": [(1, "one"), (2, "two"), (3, "three")]},
    ),
    Case(
        "table_of_the_same_upgrade",
        setup=TABLE,
        upgrade="""
            op.zd_create_table("u", sa.Column("id", sa.Integer), sa.Column("a", sa.Text))
            op.zd_create_index("u_a", "u", ["a"], unique=True)
            op.zd_create_index("u_id", "u", ["id"])
            op.zd_drop_index("u_id", "u")
        """,
        plain="""
            op.create_table("u", sa.Column("id", sa.Integer), sa.Column("a", sa.Text))
            op.create_index("u_a", "u", ["a"], unique=True)
        """,
        downgrade='op.zd_drop_table("u")',
        writes=[
            *WRITES,
            new("INSERT INTO u VALUES (1, 'x')"),
            new("INSERT INTO u VALUES (2, 'x')", error="23505"),
        ],
        old=ROWS,
        new={**ROWS, "SELECT * FROM u": [(1, "x")]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*S10_KINDS, *S10_DROPS), ids=outcome_id)
def test_s10_index__both_versions_write(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(NOT_DISTINCT), ids=outcome_id)
def test_s10_index_nulls_not_distinct__both_versions_write(case, outcome, database, tmp_path):
    if database.fetch("SELECT current_setting('server_version_num')::int < 150000")[0][0]:
        pytest.skip("PostgreSQL 15")
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*MIXED), ids=outcome_id)
def test_index_among_other_operations__both_versions_write(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


# -- several revisions -------------------------------------------------------------------------------

THIRD = "r3"
TWICE = {
    "made_then_dropped": (
        'op.zd_create_index("t_x", "t", ["name"], unique=True)',
        'op.zd_drop_index("t_x", "t")',
        'op.create_index("t_x", "t", ["name"], unique=True)',
        'op.drop_index("t_x", "t")',
    ),
    "dropped_then_made": (
        'op.zd_drop_index("t_n", "t")',
        'op.zd_create_index("t_n", "t", ["name"])',
        'op.drop_index("t_n", "t")',
        'op.create_index("t_n", "t", ["name"])',
    ),
    "replaced_twice": (
        'op.zd_drop_index("t_n", "t")\nop.zd_create_index("t_n", "t", ["name"])',
        'op.zd_drop_index("t_n", "t")\nop.zd_create_index("t_n", "t", ["name", "n"])',
        'op.drop_index("t_n", "t")\nop.create_index("t_n", "t", ["name"])',
        'op.drop_index("t_n", "t")\nop.create_index("t_n", "t", ["name", "n"])',
    ),
    "column_copied_then_indexed": (
        'op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")',
        'op.zd_create_index("t_x", "t", ["n", "name"])\nop.zd_drop_index("t_n", "t")',
        'op.alter_column("t", "n", type_=sa.Text)',
        'op.create_index("t_x", "t", ["n", "name"])\nop.drop_index("t_n", "t")',
    ),
    "indexed_then_column_copied": (
        'op.zd_create_index("t_x", "t", ["n", "name"])\nop.zd_drop_index("t_n", "t")',
        'op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")',
        'op.create_index("t_x", "t", ["n", "name"])\nop.drop_index("t_n", "t")',
        'op.alter_column("t", "n", type_=sa.Text)',
    ),
}


def two_revisions(database, tmp_path, name):
    second, third, plain_second, plain_third = TWICE[name]
    case = Case(name, TABLE, second, plain_second)
    flight = Flight(case, database, tmp_path / "project")
    flight.project.revision(THIRD, AFTER, third)
    flight.run("upgrade", AFTER)
    return flight, case, plain_third


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("way", ["one_by_one", "at_once"])
def test_index_over_two_revisions_in_flight__complete__as_plain(name, way, database, tmp_path):
    flight, case, plain_third = two_revisions(database, tmp_path, name)
    flight.run("upgrade", THIRD)
    database.execute("INSERT INTO t (id, name, n) VALUES (3, 'three', 30)")
    if way == "one_by_one":
        flight.run("zd-complete", AFTER)
    flight.run("zd-complete", THIRD)
    both = Case(name, TABLE, "", f"{case.plain}\n{plain_third}")
    assert_same(flight.dump(), plain_dump(both, database, tmp_path), "zd-complete against plain Alembic")
    assert_nothing_left(database)


@pytest.mark.parametrize("name", TWICE)
def test_index_over_two_revisions_in_flight__rolled_back__as_before(name, database, tmp_path):
    flight, _, _ = two_revisions(database, tmp_path, name)
    between = flight.dump()
    flight.run("upgrade", THIRD)
    flight.run("downgrade", AFTER)
    assert_same(flight.dump(), between, "rollback of the second revision")
    flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), flight.original, "rollback of both")
    assert_nothing_left(database)
