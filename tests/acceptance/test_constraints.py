"""Constraints: created, dropped and renamed beside live clients; no scan holds a lock that they notice."""

from __future__ import annotations

import threading
import time

import psycopg
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

TABLES = """
    CREATE TABLE parent (id integer PRIMARY KEY, a integer, b text, UNIQUE (a, b));
    CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, a integer, b text, email text,
        CONSTRAINT child_a CHECK (a > 0), CONSTRAINT child_email UNIQUE (email));
    INSERT INTO parent VALUES (1, 10, 'x'), (2, 20, 'y'), (3, NULL, NULL);
    INSERT INTO child VALUES (1, 1, 10, 'x', 'one'), (2, NULL, NULL, NULL, NULL);
"""
INSERTS = [
    old("INSERT INTO child VALUES (3, 2, 20, 'y', 'three')"),
    new("INSERT INTO child VALUES (4, 1, 10, 'x', 'four')"),
]
ROWS = {
    "SELECT * FROM child": [
        (1, 1, 10, "x", "one"),
        (2, None, None, None, None),
        (3, 2, 20, "y", "three"),
        (4, 1, 10, "x", "four"),
    ]
}


def added(name, arguments, directive, refused=(), *, drop=None, setup=""):
    """Return a case that adds a constraint to tables in use; both versions are held to it."""
    writes = [*INSERTS, *(one for text, error in refused for one in (old(text, error=error), new(text, error=error)))]
    return Case(
        name,
        setup=TABLES + setup,
        upgrade=f"op.zd_{directive}({arguments})",
        plain=f"op.{directive}({arguments})",
        downgrade=f'op.zd_drop_constraint("{drop}", "child")' if drop else "",
        writes=writes,
        old=ROWS,
        new=ROWS,
    )


ADDED = [
    added("fk", '"fk", "child", "parent", ["parent_id"], ["id"]', "create_foreign_key", drop="fk",
          refused=[("INSERT INTO child VALUES (9, 9)", "23503"), ("DELETE FROM parent WHERE id = 1", "23503")]),
    added("fk_unnamed", 'None, "child", "parent", ["parent_id"], ["id"]', "create_foreign_key",
          drop="child_parent_id_fkey"),
    added("fk_unnamed_taken", 'None, "child", "parent", ["parent_id"], ["id"]', "create_foreign_key",
          setup="CREATE TABLE o (id integer CONSTRAINT child_parent_id_fkey CHECK (id > 0));"),
    added("fk_composite", '"fk", "child", "parent", ["a", "b"], ["a", "b"], match="FULL", onupdate="CASCADE", '
          'ondelete="SET NULL"', "create_foreign_key", drop="fk",
          refused=[("INSERT INTO child (id, a, b) VALUES (9, 10, NULL)", "23503")]),
    added("fk_deferrable", '"fk", "child", "parent", ["parent_id"], ["id"], deferrable=True, initially="DEFERRED", '
          'ondelete="CASCADE"', "create_foreign_key", drop="fk"),
    added("fk_to_itself", 'None, "child", "child", ["parent_id"], ["id"], ondelete="SET NULL"', "create_foreign_key"),
    added("fk_schemas", '"fk", "child", "far", ["parent_id"], ["id"], source_schema="public", referent_schema="Other"',
          "create_foreign_key", drop="fk",
          setup='CREATE SCHEMA "Other"; CREATE TABLE "Other".far (id integer PRIMARY KEY);'
                'GRANT USAGE ON SCHEMA "Other" TO zd_app; INSERT INTO "Other".far VALUES (1), (2);'),
    added("check", '"ck", "child", "a < 1000 AND b <> \'%s:x\'"', "create_check_constraint", drop="ck",
          refused=[("INSERT INTO child (id, a) VALUES (9, 1000)", "23514")]),
    added("check_unnamed", 'None, "child", "a < 1000"', "create_check_constraint", drop="child_a_check"),
    added("check_expression", '"ck", "child", sa.column("a") < 1000', "create_check_constraint", drop="ck"),
    added("check_no_inherit", '"ck", "child", "a < 1000"', "create_check_constraint", drop="ck"),
    added("unique", '"uq", "child", ["id", "email"]', "create_unique_constraint", drop="uq"),
    added("unique_unnamed", 'None, "child", ["email", "b"]', "create_unique_constraint", drop="child_email_b_key",
          refused=[("INSERT INTO child (id, b, email) VALUES (9, 'x', 'one')", "23505")]),
    added("unique_deferrable", '"uq", "child", ["email", "b"], deferrable=True, initially="DEFERRED"',
          "create_unique_constraint", drop="uq"),
    added("primary_key_instead", '"pk", "keyless", ["k", "l"]', "create_primary_key",
          setup="CREATE TABLE keyless (k integer, l text, m integer NOT NULL); INSERT INTO keyless VALUES (1, 'x', 1);",
          refused=[("INSERT INTO keyless VALUES (1, 'x', 2)", "23505"),
                   ("INSERT INTO keyless VALUES (2, NULL, 2)", "23514")]),
    added("exclude_on_empty_table", '"ex", "booking", ("during", "&&"), using="gist", '
          'where=sa.text("during IS NOT NULL")', "create_exclude_constraint",
          setup="CREATE TABLE booking (during tsrange);"),
]  # fmt: skip

NAMED = Case(
    "naming_convention",
    setup=TABLES,
    metadata="""
import sqlalchemy as sa
target_metadata = sa.MetaData(naming_convention={
    "ix": "ix_%(column_0_label)s", "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s"})
""",
    upgrade="""
        op.zd_create_foreign_key(None, "child", "parent", ["parent_id"], ["id"])
        op.zd_create_unique_constraint(None, "child", ["b", "email"])
        op.zd_create_check_constraint("small", "child", "a < 1000")
        op.zd_create_check_constraint(op.f("as_it_is"), "child", "a < 1001")
        op.zd_create_index(None, "child", ["b"])
    """,
    plain="""
        op.create_foreign_key(None, "child", "parent", ["parent_id"], ["id"])
        op.create_unique_constraint(None, "child", ["b", "email"])
        op.create_check_constraint("small", "child", "a < 1000")
        op.create_check_constraint(op.f("as_it_is"), "child", "a < 1001")
        op.create_index(None, "child", ["b"])
    """,
    writes=INSERTS,
    old=ROWS,
    new=ROWS,
)

BOOKED = """
    CREATE TABLE booking (during tsrange, CONSTRAINT ex EXCLUDE USING gist (during WITH &&));
    INSERT INTO booking VALUES ('[2020-01-01,2020-01-02)');
"""
DROPPED = [
    Case(
        f"drop_{name}",
        setup=TABLES + setup,
        upgrade=f'op.zd_drop_constraint("{constraint}", "{table}")',
        plain=f'op.drop_constraint("{constraint}", "{table}")',
        downgrade=downgrade,
        writes=[*INSERTS, *(one for error in errors for one in (old(text, error=error), new(text, error=error)))],
        old=ROWS,
        new=ROWS,
    )
    for name, constraint, table, setup, downgrade, text, errors in (
        ("check", "child_a", "child", "", 'op.zd_create_check_constraint("child_a", "child", "a > 0")',
         "INSERT INTO child (id, a) VALUES (9, 0)", ["23514"]),
        ("unique", "child_email", "child", "", 'op.zd_create_unique_constraint("child_email", "child", ["email"])',
         "INSERT INTO child (id, email) VALUES (9, 'one')", ["23505"]),
        ("primary_key", "child_pkey", "child", "", 'op.zd_create_primary_key("child_pkey", "child", ["id"])',
         "INSERT INTO child (id) VALUES (1)", ["23505"]),
        ("fk", "fk", "child", "ALTER TABLE child ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES parent;",
         'op.zd_create_foreign_key("fk", "child", "parent", ["parent_id"], ["id"])',
         "INSERT INTO child (id, parent_id) VALUES (9, 9)", ["23503"]),
        ("fk_to_itself", "fk", "child", "ALTER TABLE child ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES child;",
         'op.zd_create_foreign_key("fk", "child", "child", ["parent_id"], ["id"])',
         "INSERT INTO child (id, parent_id) VALUES (9, 99)", ["23503"]),
        ("exclude", "ex", "booking", BOOKED, "",
         "INSERT INTO booking VALUES ('[2020-01-01,2020-01-03)')", ["23P01"]),
    )
]  # fmt: skip

RENAMED = [
    Case(
        "rename_each",
        setup=TABLES + "ALTER TABLE child ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES parent;"
        "COMMENT ON CONSTRAINT child_a ON child IS 'kept';",
        upgrade="""
            op.zd_rename_constraint("child_a", "child", "Child %s a")
            op.zd_rename_constraint("child_email", "child", "uq")
            op.zd_rename_constraint("fk", "child", "f:k")
            op.zd_rename_constraint("child_pkey", "child", "pk")
        """,
        plain="""
            op.execute('ALTER TABLE child RENAME CONSTRAINT child_a TO "Child %s a"')
            op.execute("ALTER TABLE child RENAME CONSTRAINT child_email TO uq")
            op.execute('ALTER TABLE child RENAME CONSTRAINT fk TO "f\\\\:k"')
            op.execute("ALTER TABLE child RENAME CONSTRAINT child_pkey TO pk")
        """,
        downgrade="""
            op.zd_rename_constraint("Child %s a", "child", "child_a")
            op.zd_rename_constraint("uq", "child", "child_email")
            op.zd_rename_constraint("f:k", "child", "fk")
            op.zd_rename_constraint("pk", "child", "child_pkey")
        """,
        writes=INSERTS,
        old=ROWS,
        new=ROWS,
    ),
    Case(
        "rename_swapped_and_reused",
        setup=TABLES + "ALTER TABLE child ADD CONSTRAINT other CHECK (b <> 'other');",
        upgrade="""
            op.zd_rename_constraint("child_a", "child", "x")
            op.zd_rename_constraint("other", "child", "child_a")
            op.zd_rename_constraint("x", "child", "other")
            op.zd_rename_constraint("child_email", "child", "uq")
            op.zd_create_unique_constraint("child_email", "child", ["email", "a"])
        """,
        plain="""
            op.execute("ALTER TABLE child RENAME CONSTRAINT child_a TO x")
            op.execute("ALTER TABLE child RENAME CONSTRAINT other TO child_a")
            op.execute("ALTER TABLE child RENAME CONSTRAINT x TO other")
            op.execute("ALTER TABLE child RENAME CONSTRAINT child_email TO uq")
            op.create_unique_constraint("child_email", "child", ["email", "a"])
        """,
        downgrade="""
            op.zd_drop_constraint("child_email", "child")
            op.zd_rename_constraint("uq", "child", "child_email")
            op.zd_rename_constraint("child_a", "child", "x")
            op.zd_rename_constraint("other", "child", "child_a")
            op.zd_rename_constraint("x", "child", "other")
        """,
        writes=INSERTS,
        old=ROWS,
        new=ROWS,
    ),
    Case(
        "rename_on_a_copied_column",
        setup=TABLES,
        upgrade="""
            op.zd_alter_column("child", "a", type_=sa.BigInteger, down="a::integer")
            op.zd_rename_constraint("child_a", "child", "positive")
            op.zd_alter_column("child", "email", type_=sa.String(50), down="email")
            op.zd_rename_constraint("child_email", "child", "uq")
        """,
        plain="""
            op.alter_column("child", "a", type_=sa.BigInteger)
            op.execute("ALTER TABLE child RENAME CONSTRAINT child_a TO positive")
            op.alter_column("child", "email", type_=sa.String(50))
            op.execute("ALTER TABLE child RENAME CONSTRAINT child_email TO uq")
        """,
        downgrade="""
            op.zd_rename_constraint("uq", "child", "child_email")
            op.zd_alter_column("child", "email", type_=sa.Text, down="email")
            op.zd_rename_constraint("positive", "child", "child_a")
            op.zd_alter_column("child", "a", type_=sa.Integer, up="a::integer", down="a")
        """,
        writes=INSERTS,
        old=ROWS,
        new=ROWS,
    ),
]

REPLACED = [
    Case(
        "replace_each_under_its_name",
        setup=TABLES + "ALTER TABLE child ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES parent;",
        upgrade="""
            op.zd_drop_constraint("child_a", "child")
            op.zd_create_check_constraint("child_a", "child", "a > 5")
            op.zd_drop_constraint("child_email", "child")
            op.zd_create_unique_constraint("child_email", "child", ["email", "b"])
            op.zd_drop_constraint("fk", "child")
            op.zd_create_foreign_key("fk", "child", "parent", ["parent_id"], ["id"], ondelete="CASCADE")
            op.zd_drop_constraint("child_pkey", "child")
            op.zd_create_primary_key("child_pkey", "child", ["id"])
        """,
        plain="""
            op.drop_constraint("child_a", "child")
            op.create_check_constraint("child_a", "child", "a > 5")
            op.drop_constraint("child_email", "child")
            op.create_unique_constraint("child_email", "child", ["email", "b"])
            op.drop_constraint("fk", "child")
            op.create_foreign_key("fk", "child", "parent", ["parent_id"], ["id"], ondelete="CASCADE")
        """,
        writes=INSERTS,
        old=ROWS,
        new=ROWS,
    ),
    Case(
        "among_other_operations",
        setup=TABLES,
        upgrade="""
            op.zd_rename_table("parent", "mother")
            op.zd_alter_column("mother", "id", new_column_name="key")
            op.zd_add_column("child", sa.Column("mother_key", sa.Integer), up="parent_id")
            op.zd_create_foreign_key("fk", "child", "mother", ["mother_key"], ["key"])
            op.zd_create_foreign_key("fk2", "child", "mother", ["parent_id"], ["key"])
            op.zd_create_check_constraint("ck", "child", "mother_key > 0")
            op.zd_drop_constraint("child_email", "child")
            op.zd_drop_column("child", "b")
            op.zd_create_table("pet", sa.Column("id", sa.Integer, primary_key=True), sa.Column("child_id", sa.Integer))
            op.zd_create_foreign_key("pet_fk", "pet", "child", ["child_id"], ["id"])
            op.zd_create_check_constraint("pet_ck", "pet", "child_id > 0")
            op.zd_rename_constraint("pet_ck", "pet", "pet_check")
        """,
        plain="""
            op.rename_table("parent", "mother")
            op.alter_column("mother", "id", new_column_name="key")
            op.add_column("child", sa.Column("mother_key", sa.Integer))
            op.create_foreign_key("fk", "child", "mother", ["mother_key"], ["key"])
            op.create_foreign_key("fk2", "child", "mother", ["parent_id"], ["key"])
            op.create_check_constraint("ck", "child", "mother_key > 0")
            op.drop_constraint("child_email", "child")
            op.drop_column("child", "b")
            op.create_table("pet", sa.Column("id", sa.Integer, primary_key=True), sa.Column("child_id", sa.Integer))
            op.create_foreign_key("pet_fk", "pet", "child", ["child_id"], ["id"])
            op.create_check_constraint("pet_check", "pet", "child_id > 0")
        """,
        writes=[
            old("INSERT INTO child VALUES (3, 2, 20, 'y', 'three')"),
            new("INSERT INTO child (id, parent_id, a, email, mother_key) VALUES (4, 1, 10, 'four', 1)"),
            new("INSERT INTO child (id, mother_key) VALUES (9, 9)", error="23503"),
            new("INSERT INTO child (id, mother_key) VALUES (9, 0)", error="23514"),
        ],
        old={"SELECT id, parent_id, email FROM child": [
            (1, 1, "one"), (2, None, None), (3, 2, "three"), (4, 1, "four")]},
        new={"SELECT id, parent_id, mother_key FROM child": [(1, 1, 1), (2, None, None), (3, 2, 2), (4, 1, 1)],
             "SELECT key FROM mother": [(1,), (2,), (3,)]},
    ),
]  # fmt: skip

CONFORMING = [
    Case(
        "check_up_and_down",
        setup="CREATE TABLE t (id integer PRIMARY KEY, age integer); INSERT INTO t VALUES (1, 20), (2, -5), (3, NULL);",
        upgrade="""
            op.zd_create_check_constraint("adult", "t", "age >= 18",
                up="CASE WHEN age < 18 THEN 18 ELSE age END", down="age")
        """,
        plain="""
            op.execute("UPDATE t SET age = 18 WHERE age < 18")
            op.create_check_constraint("adult", "t", "age >= 18")
        """,
        downgrade='op.zd_drop_constraint("adult", "t", up="age", down="CASE WHEN age < 18 THEN 18 ELSE age END")',
        writes=[
            old("INSERT INTO t VALUES (4, 3) RETURNING age", [(3,)]),
            new("INSERT INTO t VALUES (5, 50)"),
            new("INSERT INTO t VALUES (9, 17)", error="23514"),
            old("UPDATE t SET age = 4 WHERE id = 1"),
        ],
        old={"SELECT * FROM t": [(1, 4), (2, -5), (3, None), (4, 3), (5, 50)]},
        new={"SELECT * FROM t": [(1, 18), (2, 18), (3, None), (4, 18), (5, 50)]},
        reversed={"SELECT * FROM t": [(1, 18), (2, 18), (3, None), (4, 18), (5, 50)]},
    ),
    Case(
        "check_of_two_columns",
        setup="CREATE TABLE t (id integer PRIMARY KEY, a integer, b integer);"
        "INSERT INTO t VALUES (1, 1, 2), (2, 9, 3);",
        upgrade="""
            op.zd_create_check_constraint("ck", "t", "a < b", up={"a": "least(a, b - 1)", "b": "b"},
                down={"a": "a", "b": "b"})
        """,
        plain="""
            op.execute("UPDATE t SET a = 2 WHERE id = 2")
            op.create_check_constraint("ck", "t", "a < b")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 7, 7)"),
            new("INSERT INTO t VALUES (4, 1, 9)"),
            new("INSERT INTO t VALUES (9, 9, 9)", error="23514"),
            new("UPDATE t SET b = 10 WHERE id = 1"),
        ],
        old={"SELECT * FROM t": [(1, 1, 10), (2, 9, 3), (3, 7, 7), (4, 1, 9)]},
        new={"SELECT * FROM t": [(1, 1, 10), (2, 2, 3), (3, 6, 7), (4, 1, 9)]},
    ),
    Case(
        "unique_up",
        setup="CREATE TABLE t (id integer PRIMARY KEY, code text NOT NULL); INSERT INTO t VALUES (1, 'x'), (2, 'x');",
        upgrade="""
            op.zd_create_unique_constraint("uq", "t", ["code"], up="code || '-' || id", down="split_part(code, '-', 1)")
        """,
        plain="""
            op.execute("UPDATE t SET code = code || id")
            op.create_unique_constraint("uq", "t", ["code"])
        """,
        downgrade="""
            op.zd_drop_constraint("uq", "t", up="split_part(code, '-', 1)", down="code || '-' || id")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 'x')"),
            new("INSERT INTO t VALUES (4, 'y')"),
            new("INSERT INTO t VALUES (9, 'x-1')", error="23505"),
        ],
        old={"SELECT * FROM t": [(1, "x"), (2, "x"), (3, "x"), (4, "y")]},
        new={"SELECT * FROM t": [(1, "x-1"), (2, "x-2"), (3, "x-3"), (4, "y")]},
    ),
    Case(
        "foreign_key_up",
        setup="""
            CREATE TABLE p (id integer PRIMARY KEY);
            CREATE TABLE t (id integer PRIMARY KEY, p_id integer);
            INSERT INTO p VALUES (0), (1);
            INSERT INTO t VALUES (1, 1), (2, 7), (3, NULL);
        """,
        upgrade="""
            op.zd_create_foreign_key("fk", "t", "p", ["p_id"], ["id"], ondelete="CASCADE",
                up="CASE WHEN p_id IN (0, 1) THEN p_id ELSE 0 END", down="p_id")
        """,
        plain="""
            op.execute("UPDATE t SET p_id = 0 WHERE p_id = 7 OR p_id IS NULL")
            op.create_foreign_key("fk", "t", "p", ["p_id"], ["id"], ondelete="CASCADE")
        """,
        downgrade="""
            op.zd_drop_constraint("fk", "t", down="CASE WHEN p_id IN (0, 1) THEN p_id ELSE 0 END")
        """,
        writes=[
            old("INSERT INTO t VALUES (4, 8) RETURNING p_id", [(8,)]),
            new("INSERT INTO t VALUES (5, 1)"),
            new("INSERT INTO t VALUES (9, 9)", error="23503"),
        ],
        old={"SELECT * FROM t": [(1, 1), (2, 7), (3, None), (4, 8), (5, 1)]},
        new={"SELECT * FROM t": [(1, 1), (2, 0), (3, 0), (4, 0), (5, 1)]},
        reversed={"SELECT * FROM t": [(1, 1), (2, 0), (3, 0), (4, 0), (5, 1)]},
    ),
    Case(
        "primary_key_up",
        setup="CREATE TABLE t (k integer, n integer NOT NULL); INSERT INTO t VALUES (1, 1), (NULL, 2), (NULL, 3);",
        upgrade='op.zd_create_primary_key("pk", "t", ["k"], up="coalesce(k, n * 10)", down="k")',
        plain="""
            op.execute("UPDATE t SET k = n * 10 WHERE k IS NULL")
            op.create_primary_key("pk", "t", ["k"])
        """,
        writes=[
            old("INSERT INTO t VALUES (NULL, 4)"),
            new("INSERT INTO t VALUES (5, 5)"),
            new("INSERT INTO t VALUES (NULL, 9)", error="23502"),
        ],
        old={"SELECT * FROM t": [(1, 1), (None, 2), (None, 3), (None, 4), (5, 5)]},
        new={"SELECT * FROM t": [(1, 1), (20, 2), (30, 3), (40, 4), (5, 5)]},
    ),
    Case(
        "drop_check_down",
        setup="CREATE TABLE t (id integer PRIMARY KEY, n integer, CONSTRAINT ck CHECK (n < 10));"
        "CREATE INDEX t_n ON t (n); INSERT INTO t VALUES (1, 1);",
        upgrade='op.zd_drop_constraint("ck", "t", "check", down="least(n, 9)")',
        plain='op.drop_constraint("ck", "t")',
        downgrade='op.zd_create_check_constraint("ck", "t", "n < 10", up="least(n, 9)")',
        writes=[
            new("INSERT INTO t VALUES (2, 100) RETURNING n", [(100,)]),
            old("INSERT INTO t VALUES (9, 100)", error="23514"),
            old("INSERT INTO t VALUES (3, 3)"),
        ],
        old={"SELECT * FROM t": [(1, 1), (2, 9), (3, 3)]},
        new={"SELECT * FROM t": [(1, 1), (2, 100), (3, 3)]},
    ),
    Case(
        "drop_unique_of_two_down",
        setup="CREATE TABLE t (id integer PRIMARY KEY, a text, b text, CONSTRAINT uq UNIQUE (a, b));"
        "INSERT INTO t VALUES (1, 'x', 'y');",
        upgrade="""op.zd_drop_constraint("uq", "t", down={"b": "b || '-' || id"}, up={"b": "split_part(b, '-', 1)"})""",
        plain='op.drop_constraint("uq", "t")',
        writes=[
            new("INSERT INTO t VALUES (2, 'x', 'y')"),
            old("INSERT INTO t VALUES (9, 'x', 'y')", error="23505"),
            old("INSERT INTO t VALUES (3, 'x', 'z-3')"),
        ],
        old={"SELECT * FROM t": [(1, "x", "y"), (2, "x", "y-2"), (3, "x", "z-3")]},
        new={"SELECT * FROM t": [(1, "x", "y"), (2, "x", "y"), (3, "x", "z")]},
    ),
]


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*CONFORMING), ids=outcome_id)
def test_constraint_with_up_or_down__binds_one_version_only(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*ADDED, NAMED), ids=outcome_id)
def test_constraint_added__both_versions_are_held_to_it(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*DROPPED), ids=outcome_id)
def test_constraint_dropped__goes_with_completion(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*RENAMED, *REPLACED), ids=outcome_id)
def test_constraint_renamed_or_replaced__final_names(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


S09_TABLES = Case(
    "create_rename_and_remove_tables",
    setup=TABLES + "CREATE TABLE gone (id integer PRIMARY KEY, child_id integer REFERENCES child);"
    "ALTER TABLE child ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES parent;",
    upgrade="""
        op.zd_create_table("pet", sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("child_id", sa.Integer, sa.ForeignKey("child.id", name="pet_child")))
        op.zd_drop_table("gone")
        op.zd_drop_constraint("fk", "child", "foreignkey")
        op.zd_rename_table("parent", "mother")
        op.zd_create_foreign_key("child_mother", "child", "mother", ["a", "b"], ["a", "b"], ondelete="SET NULL")
    """,
    plain="""
        op.create_table("pet", sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("child_id", sa.Integer, sa.ForeignKey("child.id", name="pet_child")))
        op.drop_table("gone")
        op.drop_constraint("fk", "child", "foreignkey")
        op.rename_table("parent", "mother")
        op.create_foreign_key("child_mother", "child", "mother", ["a", "b"], ["a", "b"], ondelete="SET NULL")
    """,
    writes=[
        *INSERTS,
        old("INSERT INTO gone VALUES (1, 3)"),
        new("INSERT INTO pet VALUES (1, 4)"),
        new("INSERT INTO pet VALUES (9, 9)", error="23503"),
        new("INSERT INTO child (id, a, b) VALUES (9, 10, 'z')", error="23503"),
        new("INSERT INTO mother VALUES (5, 50, 'five')"),
        old("SELECT b FROM parent WHERE id = 5", [("five",)]),
    ],
    old={**ROWS, "SELECT * FROM gone": [(1, 3)]},
    new={**ROWS, "SELECT * FROM pet": [(1, 4)], "SELECT id FROM mother": [(1,), (2,), (3,), (5,)]},
)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(S09_TABLES), ids=outcome_id)
def test_s09_tables_and_foreign_keys__both_versions_write(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


# -- over two revisions ------------------------------------------------------------------------------

FKEY = '"fk", "child", "parent", ["parent_id"], ["id"]'
TWICE = {
    "made_then_dropped": (
        f"""
            op.create_foreign_key({FKEY})
            op.create_check_constraint("ck", "child", "a < 1000")
            op.create_unique_constraint("uq", "child", ["email", "a"])
            op.drop_constraint("child_pkey", "child")
            op.create_primary_key("pk", "child", ["id"])
        """,
        """
            op.drop_constraint("fk", "child")
            op.drop_constraint("ck", "child")
            op.drop_constraint("uq", "child")
            op.drop_constraint("pk", "child")
        """,
    ),
    "dropped_then_made": (
        """
            op.drop_constraint("child_a", "child")
            op.drop_constraint("child_email", "child")
        """,
        """
            op.create_check_constraint("child_a", "child", "a > 1")
            op.create_unique_constraint("child_email", "child", ["a", "email"])
        """,
    ),
    "made_on_copies_then_renamed": (
        """
            op.alter_column("child", "a", type_=sa.BigInteger)
            op.create_check_constraint("ck", "child", "a < 1000 AND b <> ''")
            op.create_unique_constraint("uq", "child", ["a", "email"])
        """,
        """
            op.rename_constraint("ck", "child", "kc")
            op.rename_constraint("uq", "child", "qu")
            op.rename_constraint("child_a", "child", "ck")
            op.drop_constraint("child_email", "child")
        """,
    ),
    "made_then_columns_copied": (
        f"""
            op.create_foreign_key({FKEY})
            op.create_check_constraint("ck", "child", "a < 1000 AND b <> ''")
            op.create_unique_constraint("uq", "child", ["a", "email"])
        """,
        """
            op.alter_column("child", "a", type_=sa.BigInteger)
            op.rename_constraint("uq", "child", "qu")
            op.rename_constraint("fk", "child", "kf")
        """,
    ),
}


def _zd(body):
    return body.replace("op.", "op.zd_").replace("sa.BigInteger)", 'sa.BigInteger, down="a::integer")')


def _plain(body):
    lines = []
    for line in body.splitlines():
        head, _, rest = line.partition("op.rename_constraint(")
        if rest:
            before, table, after = (part.strip(' ")') for part in rest.split(","))
            line = f"{head}op.execute('ALTER TABLE {table} RENAME CONSTRAINT {before} TO {after}')"
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("way", ["one_by_one", "at_once", "rolled_back"])
def test_constraints_over_two_revisions_in_flight__final_catalog(name, way, database, tmp_path):
    second, third = TWICE[name]
    flight = Flight(Case(name, TABLES, _zd(second), "pass"), database, tmp_path / "project")
    flight.project.revision("r3", AFTER, _zd(third))
    flight.run("upgrade", AFTER)
    between = flight.dump()
    flight.run("upgrade", "r3")
    database.execute("INSERT INTO child VALUES (3, 2, 20, 'y', 'three')")
    if way == "rolled_back":
        flight.run("downgrade", AFTER)
        assert_same(flight.dump(), between, "rollback of the second revision")
        flight.run("downgrade", BEFORE)
        expected = flight.original
    else:
        if way == "one_by_one":
            flight.run("zd-complete", AFTER)
        flight.run("zd-complete", "r3")
        both = Case(name, TABLES, "", f"{_plain(second)}\n{_plain(third)}")
        expected = plain_dump(both, database, tmp_path)
    assert_same(flight.dump(), expected, way)
    assert_nothing_left(database)


# -- locks -------------------------------------------------------------------------------------------

LOCKING = Case(
    "locks",
    setup="""
        CREATE TABLE parent (id integer PRIMARY KEY);
        CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, n integer);
        INSERT INTO parent SELECT i FROM generate_series(1, 1000) AS i;
        INSERT INTO child SELECT i, i % 1000 + 1, i FROM generate_series(1, 400000) AS i;
    """,
    upgrade="""
        op.zd_create_foreign_key("fk", "child", "parent", ["parent_id"], ["id"])
        op.zd_create_check_constraint("ck", "child", "length(repeat(n::text, 20)) > 0")
        op.zd_create_unique_constraint("uq", "child", ["n", "parent_id"])
        op.zd_drop_constraint("child_pkey", "child")
        op.zd_create_primary_key("pk", "child", ["id", "n"])
    """,
    plain="pass",
)
HELD = """
    SELECT l.mode, a.query FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.granted AND l.relation IN ('parent'::regclass, 'child'::regclass)
       AND a.pid <> pg_backend_pid() AND a.usename <> 'zd_app'
"""
NOTICED = {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}
SCANS = ("CREATE UNIQUE INDEX", "CREATE INDEX", "SELECT ROW", "WITH keyed")


class _Sampler(threading.Thread):
    """Looks at the locks of the migration's sessions, and writes like a client, until it is stopped."""

    def __init__(self, flight):
        super().__init__()
        self.flight, self.stopped, self.seen, self.worst_s = flight, False, set(), 0.0
        self.failures = []

    def run(self):
        number = 1_000_000
        with self.flight.client(BEFORE) as client, self.flight.database.connect() as observer:
            while not self.stopped:
                self.seen.update(observer.execute(HELD.encode()).fetchall())
                started, number = time.monotonic(), number + 1
                try:
                    client.connection.execute(b"INSERT INTO public.child VALUES (%d, 1, %d)" % (number, number))
                    client.connection.execute(b"UPDATE public.parent SET id = id WHERE id = 1")
                except psycopg.Error as error:
                    self.failures.append(str(error))
                self.worst_s = max(self.worst_s, time.monotonic() - started)


def _scans(query):
    # A tombstone's table is empty, and nobody else's.
    return ("VALIDATE" in query or query.startswith(SCANS)) and '."tomb_' not in query


def test_constraints_and_indexes__table_under_writes__nothing_scans_under_a_lock_that_clients_notice(
    database, tmp_path
):
    flight = Flight(LOCKING, database, tmp_path / "project")
    sampler = _Sampler(flight)
    sampler.start()
    try:
        flight.run("upgrade", AFTER)
        upgraded = set(sampler.seen)
        flight.run("zd-complete", "--force")
    finally:
        sampler.stopped = True
        sampler.join()
    assert sampler.failures == []
    # The sampler did look at the scans: each was seen, with the lock that it may have.
    for word in ('VALIDATE CONSTRAINT "fk"', 'VALIDATE CONSTRAINT "ck"', "CREATE UNIQUE INDEX CONCURRENTLY"):
        modes = {mode for mode, query in upgraded if word in query}
        assert "ShareUpdateExclusiveLock" in modes, (word, modes)
    assert {(mode, query) for mode, query in sampler.seen if mode in NOTICED and _scans(query)} == set()
    assert sampler.worst_s < 2.0
