"""Operations alone and combined, on tables with everything, under odd names, and several revisions at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from alembic_zero import version_schema
from tests.support.harness import (
    AFTER,
    BEFORE,
    OUTCOMES,
    Case,
    Flight,
    Session,
    assert_nothing_left,
    assert_same,
    assert_tombstone,
    check_rows,
    new,
    old,
    outcome_id,
    outcomes_of,
    plain_dump,
)

# -- several operations on one column, or one table -------------------------------------------------

NUMBERS = """
    CREATE TABLE t (id integer PRIMARY KEY, n integer NOT NULL, m integer);
    INSERT INTO t VALUES (1, 10, 100), (2, -20, NULL);
"""

COMBINATIONS = [
    Case(
        "alter_twice",
        setup=NUMBERS,
        upgrade="""
            op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")
            op.zd_alter_column("t", "n", up="'#' || n", down="substr(n, 2)")
        """,
        plain='op.alter_column("t", "n", type_=sa.Text)',
        downgrade="""
            op.zd_alter_column("t", "n", up="substr(n, 2)", down="'#' || n")
            op.zd_alter_column("t", "n", type_=sa.Integer, up="n::integer", down="n::text")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 30)"),
            new("INSERT INTO t VALUES (4, '#40') RETURNING n", [("#40",)]),
            new("UPDATE t SET n = '#11' WHERE id = 1"),
            old("UPDATE t SET n = 21 WHERE id = 2"),
            new("INSERT INTO t VALUES (5, '#x')", error="22P02"),
        ],
        old={"SELECT id, n FROM t": [(1, 11), (2, 21), (3, 30), (4, 40)]},
        new={"SELECT id, n FROM t": [(1, "#11"), (2, "#21"), (3, "#30"), (4, "#40")]},
    ),
    Case(
        "alter_and_rename_in_turns",
        setup=NUMBERS,
        upgrade="""
            op.zd_alter_column("t", "n", new_column_name="x")
            op.zd_alter_column("t", "x", type_=sa.Text, up="x::text", down="x::integer")
            op.zd_alter_column("t", "x", new_column_name="y", server_default="5")
        """,
        plain='op.alter_column("t", "n", type_=sa.Text, new_column_name="y", server_default="5")',
        downgrade="""
            op.zd_alter_column("t", "y", type_=sa.Integer, new_column_name="n", server_default=None,
                up="y::integer", down="n::text")
        """,
        writes=[old("INSERT INTO t VALUES (3, 30)"), new("INSERT INTO t (id) VALUES (4) RETURNING y", [("5",)])],
        old={"SELECT id, n FROM t": [(1, 10), (2, -20), (3, 30), (4, 5)]},
        new={"SELECT id, y FROM t": [(1, "10"), (2, "-20"), (3, "30"), (4, "5")]},
    ),
    Case(
        "add_then_alter",
        setup=NUMBERS,
        upgrade="""
            op.zd_add_column("t", sa.Column("c", sa.Integer), up="n * 2")
            op.zd_alter_column("t", "c", type_=sa.Text, nullable=False, up="c::text", down="c::integer")
        """,
        plain="""
            op.add_column("t", sa.Column("c", sa.Text))
            op.execute("UPDATE t SET c = ''")
            op.alter_column("t", "c", nullable=False)
        """,
        downgrade='op.zd_drop_column("t", "c", down="(n * 2)::text")',
        writes=[
            old("INSERT INTO t VALUES (3, 30)"),
            new("INSERT INTO t (id, n, c) VALUES (4, 40, 'forty')"),
            old("UPDATE t SET n = 11 WHERE id = 1"),
            new("INSERT INTO t (id, n) VALUES (5, 50)", error="23502"),
        ],
        old={"SELECT id, n FROM t": [(1, 11), (2, -20), (3, 30), (4, 40)]},
        new={"SELECT id, n, c FROM t": [(1, 11, "22"), (2, -20, "-40"), (3, 30, "60"), (4, 40, "forty")]},
    ),
    Case(
        "add_identity",
        setup=NUMBERS,
        upgrade="""
            op.zd_add_column("t", sa.Column("x", sa.Integer, sa.Identity(start=100, increment=10, cycle=True)))
            op.add_column("t", sa.Column("y", sa.BigInteger, sa.Identity(always=True), nullable=False))
            op.zd_create_index("t_x", "t", ["x"], unique=True)
        """,
        plain="""
            op.add_column("t", sa.Column("x", sa.Integer, sa.Identity(start=100, increment=10, cycle=True)))
            op.add_column("t", sa.Column("y", sa.BigInteger, sa.Identity(always=True), nullable=False))
            op.create_index("t_x", "t", ["x"], unique=True)
        """,
        downgrade="""
            op.zd_drop_column("t", "y")
            op.zd_drop_column("t", "x")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 30)"),
            new("INSERT INTO t (id, n) VALUES (4, 40) RETURNING x, y", [(130, 4)]),
            new("INSERT INTO t (id, n, x) VALUES (5, 50, 7) RETURNING x, y", [(7, 5)]),
            new("INSERT INTO t (id, n, x) VALUES (6, 60, NULL)", error="23502"),
            old("UPDATE t SET n = 11 WHERE id = 1"),
        ],
        old={"SELECT id, n FROM t": [(1, 11), (2, -20), (3, 30), (4, 40), (5, 50)]},
        new={"SELECT id, n, x, y FROM t": [
            (1, 11, 100, 1), (2, -20, 110, 2), (3, 30, 120, 3), (4, 40, 130, 4), (5, 50, 7, 5),
        ]},
    ),
    Case(
        "alter_then_drop",
        setup=NUMBERS,
        upgrade="""
            op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")
            op.zd_drop_column("t", "n", down="coalesce(m, 0)::text || '0'")
        """,
        plain='op.drop_column("t", "n")',
        downgrade="""
            op.zd_add_column("t", sa.Column("n", sa.Integer, nullable=False), up="coalesce(m, 0) * 10")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 7, 3)"),
            new("INSERT INTO t VALUES (4, 4)"),
            new("UPDATE t SET id = 5 WHERE id = 2"),
            new("UPDATE t SET m = 101 WHERE id = 1"),
        ],
        # The row of id 1: m is common to both versions, so its writer counts as old and n stays.
        old={"SELECT id, m FROM t": [(1, 101), (3, 3), (4, 4), (5, None)],
             "SELECT id, n FROM t WHERE id > 2": [(3, 7), (4, 40), (5, -20)]},
        new={"SELECT * FROM t": [(1, 101), (3, 3), (4, 4), (5, None)]},
        reversed={"SELECT id, m, n FROM t": [(1, 101, 1010), (3, 3, 30), (4, 4, 40), (5, None, 0)]},
    ),
    Case(
        "all_attributes_at_once",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, n varchar(5) DEFAULT '1');
            COMMENT ON COLUMN t.n IS 'before';
            INSERT INTO t VALUES (1, '10'), (2, NULL);
        """,
        upgrade="""
            op.zd_alter_column("t", "n", new_column_name="total", type_=sa.Numeric(8, 2), nullable=False,
                server_default=sa.text("2"), comment="after's", up="coalesce(n, '0')::numeric", down="total::text")
        """,
        plain="""
            op.execute("UPDATE t SET n = '0' WHERE n IS NULL")
            op.alter_column("t", "n", server_default=None)
            op.alter_column("t", "n", new_column_name="total", type_=sa.Numeric(8, 2), nullable=False,
                server_default=sa.text("2"), comment="after's", postgresql_using="n::numeric")
        """,
        downgrade="""
            op.zd_alter_column("t", "total", new_column_name="n", type_=sa.String(5), nullable=True,
                server_default="1", comment="before", up="trim_scale(total)::text", down="coalesce(n, '0')::numeric")
        """,
        writes=[
            old("INSERT INTO t (id) VALUES (3) RETURNING n", [("1",)]),
            new("INSERT INTO t (id) VALUES (4) RETURNING total::text", [("2.00",)]),
            new("INSERT INTO t VALUES (5, NULL)", error="23502"),
            new("INSERT INTO t VALUES (5, 123456)", error="22001"),
            old("INSERT INTO t VALUES (5, NULL)"),
            new("UPDATE t SET total = 9 WHERE id = 2"),
        ],
        old={"SELECT id, n FROM t": [(1, "10"), (2, "9.00"), (3, "1"), (4, "2.00"), (5, None)]},
        new={"SELECT id, total::text FROM t": [
            (1, "10.00"), (2, "9.00"), (3, "1.00"), (4, "2.00"), (5, "0.00")]},
        reversed={"SELECT id, n FROM t": [(1, "10"), (2, "9"), (3, "1"), (4, "2"), (5, "0")]},
    ),
    Case(
        "drop_a_rename_b_to_a",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, a integer NOT NULL, b text UNIQUE);
            INSERT INTO t VALUES (1, 3, 'one'), (2, 5, 'three');
        """,
        upgrade="""
            op.zd_drop_column("t", "a", down="length(b)")
            op.zd_alter_column("t", "b", new_column_name="a")
        """,
        plain="""
            op.drop_column("t", "a")
            op.alter_column("t", "b", new_column_name="a")
        """,
        downgrade="""
            op.zd_alter_column("t", "a", new_column_name="b")
            op.zd_add_column("t", sa.Column("a", sa.Integer, nullable=False), up="length(b)")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 4, 'four')"),
            new("INSERT INTO t VALUES (4, 'eleven') RETURNING a", [("eleven",)]),
            new("INSERT INTO t VALUES (9, 'one') ON CONFLICT (a) DO UPDATE SET a = 'uno'"),
        ],
        old={"SELECT id, a, b FROM t": [(1, 3, "uno"), (2, 5, "three"), (3, 4, "four"), (4, 6, "eleven")]},
        new={"SELECT id, a FROM t": [(1, "uno"), (2, "three"), (3, "four"), (4, "eleven")]},
    ),
    Case(
        "names_swapped",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, a integer, b text DEFAULT 'b', CHECK (a > 0 AND b <> 'a'));
            INSERT INTO t VALUES (1, 3, 'one');
        """,
        upgrade="""
            op.zd_alter_column("t", "a", new_column_name="c")
            op.zd_alter_column("t", "b", new_column_name="a")
            op.zd_alter_column("t", "c", new_column_name="b")
        """,
        plain="""
            op.alter_column("t", "a", new_column_name="c")
            op.alter_column("t", "b", new_column_name="a")
            op.alter_column("t", "c", new_column_name="b")
        """,
        downgrade="""
            op.zd_alter_column("t", "a", new_column_name="c")
            op.zd_alter_column("t", "b", new_column_name="a")
            op.zd_alter_column("t", "c", new_column_name="b")
        """,
        writes=[
            old("INSERT INTO t VALUES (2, 22, 'two')"),
            new("INSERT INTO t (id, a, b) VALUES (3, 'three', 33) RETURNING a, b", [("three", 33)]),
            new("INSERT INTO t (id, b) VALUES (4, 44) RETURNING a", [("b",)]),
            new("UPDATE t SET b = b + 1 WHERE id = 1"),
        ],
        old={"SELECT id, a, b FROM t": [(1, 4, "one"), (2, 22, "two"), (3, 33, "three"), (4, 44, "b")]},
        new={"SELECT id, a, b FROM t": [(1, "one", 4), (2, "two", 22), (3, "three", 33), (4, "b", 44)]},
    ),
    Case(
        "names_swapped_and_converted",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, a integer NOT NULL, b text NOT NULL);
            INSERT INTO t VALUES (1, 3, '30');
        """,
        upgrade="""
            op.zd_alter_column("t", "a", new_column_name="c", type_=sa.Text, up="a::text", down="c::integer")
            op.zd_alter_column("t", "b", new_column_name="a", type_=sa.Integer, up="b::integer", down="a::text")
            op.zd_alter_column("t", "c", new_column_name="b")
        """,
        plain="""
            op.alter_column("t", "a", new_column_name="c", type_=sa.Text)
            op.alter_column("t", "b", new_column_name="a", type_=sa.Integer, postgresql_using="b::integer")
            op.alter_column("t", "c", new_column_name="b")
        """,
        downgrade="""
            op.zd_alter_column("t", "b", new_column_name="c")
            op.zd_alter_column("t", "a", new_column_name="b", type_=sa.Text, up="a::text", down="b::integer")
            op.zd_alter_column("t", "c", new_column_name="a", type_=sa.Integer, up="c::integer", down="a::text")
        """,
        writes=[old("INSERT INTO t VALUES (2, 4, '40')"), new("INSERT INTO t (id, a, b) VALUES (3, 50, '5')")],
        old={"SELECT id, a, b FROM t": [(1, 3, "30"), (2, 4, "40"), (3, 5, "50")]},
        new={"SELECT id, a, b FROM t": [(1, 30, "3"), (2, 40, "4"), (3, 50, "5")]},
    ),
    Case(
        "name_of_dropped_column_reused",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, x integer NOT NULL, y text);
            CREATE INDEX t_x ON t (x);
            INSERT INTO t VALUES (1, 3, 'one');
        """,
        upgrade="""
            op.zd_drop_column("t", "x", down="coalesce(length(y), 0)")
            op.zd_add_column("t", sa.Column("x", sa.Text, index=True), up="upper(y)")
        """,
        plain="""
            op.drop_column("t", "x")
            op.add_column("t", sa.Column("x", sa.Text, index=True))
        """,
        downgrade="""
            op.zd_drop_column("t", "x", down="upper(y)")
            op.zd_add_column("t", sa.Column("x", sa.Integer, nullable=False), up="coalesce(length(y), 0)")
        """,
        faithful=False,
        writes=[
            old("INSERT INTO t VALUES (2, 7, 'two')"),
            new("INSERT INTO t (id, y, x) VALUES (3, 'three', 'III') RETURNING x", [("III",)]),
        ],
        old={"SELECT id, x, y FROM t": [(1, 3, "one"), (2, 7, "two"), (3, 5, "three")]},
        new={"SELECT id, x, y FROM t": [(1, "ONE", "one"), (2, "TWO", "two"), (3, "III", "three")]},
        reversed={"SELECT id, x, y FROM t": [(1, 3, "one"), (2, 3, "two"), (3, 5, "three")]},
    ),
    Case(
        "boolean_inverted_and_renamed",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, active boolean NOT NULL DEFAULT true);
            INSERT INTO t VALUES (1, true), (2, false);
        """,
        upgrade="""
            op.zd_alter_column("t", "active", new_column_name="disabled", server_default=sa.false(),
                up="NOT active", down="NOT disabled")
        """,
        plain="""
            op.alter_column("t", "active", new_column_name="disabled", server_default=sa.false())
        """,
        downgrade="""
            op.zd_alter_column("t", "disabled", new_column_name="active", server_default=sa.true(),
                up="NOT disabled", down="NOT active")
        """,
        writes=[
            old("INSERT INTO t (id) VALUES (3) RETURNING active", [(True,)]),
            new("INSERT INTO t (id) VALUES (4) RETURNING disabled", [(False,)]),
            new("UPDATE t SET disabled = true WHERE id = 1"),
            old("UPDATE t SET active = NOT active WHERE id = 2"),
        ],
        old={"SELECT id, active FROM t": [(1, False), (2, True), (3, True), (4, True)]},
        new={"SELECT id, disabled FROM t": [(1, True), (2, False), (3, False), (4, False)]},
    ),
    Case(
        "sign_flipped_and_renamed",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, debit numeric(8, 2) NOT NULL CHECK (debit >= 0));
            ALTER TABLE t DROP CONSTRAINT t_debit_check;
            INSERT INTO t VALUES (1, 1.50);
        """,
        upgrade='op.zd_alter_column("t", "debit", new_column_name="credit", up="-debit", down="-credit")',
        plain='op.alter_column("t", "debit", new_column_name="credit")',
        downgrade='op.zd_alter_column("t", "credit", new_column_name="debit", up="-credit", down="-debit")',
        writes=[old("INSERT INTO t VALUES (2, -2)"), new("INSERT INTO t VALUES (3, -3) RETURNING credit::text",
                [("-3.00",)])],
        old={"SELECT id, debit::text FROM t": [(1, "1.50"), (2, "-2.00"), (3, "3.00")]},
        new={"SELECT id, credit::text FROM t": [(1, "-1.50"), (2, "2.00"), (3, "-3.00")]},
    ),
    Case(
        "three_booleans_to_one_state",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, draft boolean NOT NULL, live boolean NOT NULL DEFAULT false,
                gone boolean NOT NULL DEFAULT false);
            INSERT INTO t VALUES
                (1, true, false, false), (2, false, true, false), (3, false, false, true), (4, false, false, false);
        """,
        upgrade="""
            op.zd_add_column("t", sa.Column("state", sa.String(10)), up="CASE WHEN draft THEN 'draft' "
                "WHEN live THEN 'live' WHEN gone THEN 'gone' END")
            op.zd_drop_column("t", "draft", down="state IS NOT DISTINCT FROM 'draft'")
            op.zd_drop_column("t", "live", down="state IS NOT DISTINCT FROM 'live'")
            op.zd_drop_column("t", "gone", down="state IS NOT DISTINCT FROM 'gone'")
        """,
        plain="""
            op.add_column("t", sa.Column("state", sa.String(10)))
            op.drop_column("t", "draft")
            op.drop_column("t", "live")
            op.drop_column("t", "gone")
        """,
        downgrade="""
            for name, default in (("draft", None), ("live", sa.false()), ("gone", sa.false())):
                column = sa.Column(name, sa.Boolean, nullable=False, server_default=default)
                op.zd_add_column("t", column, up=f"state IS NOT DISTINCT FROM '{name}'")
            op.zd_drop_column("t", "state", down="CASE WHEN draft THEN 'draft' WHEN live THEN 'live' "
                "WHEN gone THEN 'gone' END")
        """,
        writes=[
            new("INSERT INTO t VALUES (5, 'gone'), (6, NULL)"),
            old("INSERT INTO t VALUES (7, false, true)"),
            new("UPDATE t SET state = 'live' WHERE id = 1"),
            old("UPDATE t SET live = false, gone = true WHERE id = 2"),
        ],
        old={"SELECT * FROM t": [
            (1, False, True, False), (2, False, False, True), (3, False, False, True), (4, False, False, False),
            (5, False, False, True), (6, False, False, False), (7, False, True, False)]},
        new={"SELECT * FROM t": [
            (1, "live"), (2, "gone"), (3, "gone"), (4, None), (5, "gone"), (6, None), (7, "live")]},
        reversed={"SELECT id, draft, live, gone FROM t": [
            (1, False, True, False), (2, False, False, True), (3, False, False, True), (4, False, False, False),
            (5, False, False, True), (6, False, False, False), (7, False, True, False)]},
    ),
    Case(
        "two_columns_to_one_map",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, a text, b integer NOT NULL);
            INSERT INTO t VALUES (1, 'x', 1), (2, NULL, 2);
        """,
        upgrade="""
            op.zd_add_column("t", sa.Column("map", postgresql.JSONB, nullable=False, server_default="{}"),
                up="jsonb_build_object('a', a, 'b', b)")
            op.zd_drop_column("t", "a", down="map ->> 'a'")
            op.zd_drop_column("t", "b", down="coalesce((map ->> 'b')::integer, 0)")
        """,
        plain="""
            op.add_column("t", sa.Column("map", postgresql.JSONB, nullable=False, server_default="{}"))
            op.drop_column("t", "a")
            op.drop_column("t", "b")
        """,
        downgrade="""
            op.zd_add_column("t", sa.Column("a", sa.Text), up="map ->> 'a'")
            op.zd_add_column("t", sa.Column("b", sa.Integer, nullable=False),
                up="coalesce((map ->> 'b')::integer, 0)")
            op.zd_drop_column("t", "map", down="jsonb_build_object('a', a, 'b', b)")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 'z', 3)"),
            new("INSERT INTO t (id) VALUES (4) RETURNING map", [({},)]),
            new("""UPDATE t SET map = map || '{"a": "y", "extra": 1}' WHERE id = 2"""),
            old("UPDATE t SET b = 11 WHERE id = 1"),
            old("UPDATE t SET id = 20 WHERE id = 2"),
        ],
        old={"SELECT id, a, b FROM t": [(1, "x", 11), (20, "y", 2), (3, "z", 3), (4, None, 0)]},
        new={"SELECT id, map FROM t": [
            (1, {"a": "x", "b": 11}), (20, {"a": "y", "b": 2, "extra": 1}), (3, {"a": "z", "b": 3}), (4, {})]},
    ),
    Case(
        "text_to_enum",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, mood text NOT NULL DEFAULT 'ok', moods text[]);
            CREATE INDEX t_mood ON t (mood) WHERE id > 0;
            INSERT INTO t VALUES (1, 'sad', '{sad,ok}');
        """,
        upgrade="""
            op.zd_execute(
                expand="DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad', 'ok'); EXCEPTION WHEN duplicate_object "
                "THEN NULL; END $$",
                rollback="DROP TYPE IF EXISTS mood",
            )
            mood = postgresql.ENUM("sad", "ok", name="mood", create_type=False)
            op.zd_alter_column("t", "mood", type_=mood, server_default=sa.text("'ok'::mood"),
                up="mood::mood", down="mood::text")
            op.zd_alter_column("t", "moods", type_=sa.ARRAY(mood), up="moods::mood[]", down="moods::text[]")
        """,
        plain="""
            op.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
            mood = postgresql.ENUM("sad", "ok", name="mood", create_type=False)
            op.alter_column("t", "mood", server_default=None)
            op.alter_column("t", "mood", type_=mood, server_default=sa.text("'ok'::mood"),
                postgresql_using="mood::mood")
            op.alter_column("t", "moods", type_=sa.ARRAY(mood), postgresql_using="moods::mood[]")
        """,
        downgrade="""
            op.zd_alter_column("t", "mood", type_=sa.Text, server_default="ok", up="mood::text",
                down="mood::mood")
            op.zd_alter_column("t", "moods", type_=sa.ARRAY(sa.Text), up="moods::text[]", down="moods::mood[]")
            op.zd_execute(contract="DROP TYPE IF EXISTS mood")
        """,
        path="public",
        writes=[
            old("INSERT INTO t VALUES (2, 'ok', '{}')"),
            new("INSERT INTO t VALUES (3, 'ok', ARRAY['ok']::mood[])"),
            new("INSERT INTO t (id) VALUES (4) RETURNING mood::text", [("ok",)]),
            new("UPDATE t SET mood = 'ok' WHERE id = 1"),
            old("UPDATE t SET mood = 'sad' WHERE mood = 'ok' AND id = 2"),
            new("INSERT INTO t VALUES (5, 'angry')", error="22P02"),
        ],
        old={"SELECT id, mood, moods FROM t": [
            (1, "ok", ["sad", "ok"]), (2, "sad", []), (3, "ok", ["ok"]), (4, "ok", None)]},
        new={"SELECT id, mood::text, moods::text[] FROM t": [
            (1, "ok", ["sad", "ok"]), (2, "sad", []), (3, "ok", ["ok"]), (4, "ok", None)]},
    ),
    Case(
        "text_to_enum_by_op_execute",
        setup="CREATE TABLE t (id integer PRIMARY KEY, mood text); INSERT INTO t VALUES (1, 'sad')",
        upgrade="""
            op.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
            op.zd_alter_column("t", "mood", type_=postgresql.ENUM(name="mood", create_type=False),
                up="mood::mood", down="mood::text")
        """,
        plain="""
            op.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
            op.alter_column("t", "mood", type_=postgresql.ENUM(name="mood", create_type=False),
                postgresql_using="mood::mood")
        """,
        # A rollback runs the plain SQL of downgrade().
        downgrade='op.execute("DROP TYPE mood")',
        path="public",
        outcomes=("complete", "rollback", "direct"),
        writes=[old("INSERT INTO t VALUES (2, 'ok')"), new("INSERT INTO t VALUES (3, 'ok')")],
        old={"SELECT id, mood FROM t": [(1, "sad"), (2, "ok"), (3, "ok")]},
        new={"SELECT id, mood::text FROM t": [(1, "sad"), (2, "ok"), (3, "ok")]},
    ),
    Case(
        "add_column_with_everything",
        setup="CREATE TABLE t (id integer PRIMARY KEY, n integer); INSERT INTO t VALUES (1, 10), (2, 20)",
        upgrade="""
            op.zd_add_column("t", sa.Column("a", sa.Integer, sa.CheckConstraint("a > 0", name="a_positive"),
                sa.ForeignKey("t.id", name="t_a", ondelete="CASCADE"), nullable=False, unique=True,
                server_default="7", comment="the a"), up="id")
            op.zd_add_column("t", sa.Column("b", sa.Integer, sa.ForeignKey("t.id", name="t_b"), index=True))
        """,
        plain="""
            op.add_column("t", sa.Column("a", sa.Integer, sa.CheckConstraint("a > 0", name="a_positive")))
            op.execute("UPDATE t SET a = id")
            op.alter_column("t", "a", nullable=False, server_default="7", comment="the a")
            op.create_foreign_key("t_a", "t", "t", ["a"], ["id"], ondelete="CASCADE")
            op.create_unique_constraint(None, "t", ["a"])
            op.add_column("t", sa.Column("b", sa.Integer, sa.ForeignKey("t.id", name="t_b"), index=True))
        """,
        downgrade="""
            op.zd_drop_column("t", "b")
            op.zd_drop_column("t", "a", down="id")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 30)"),
            new("INSERT INTO t (id, a) VALUES (7, DEFAULT) RETURNING a", [(7,)]),
            new("INSERT INTO t (id, a) VALUES (8, 7)", error="23505"),
            new("INSERT INTO t (id, a) VALUES (8, 0)", error="23514"),
            new("INSERT INTO t (id, a) VALUES (8, 9)", error="23503"),
            new("INSERT INTO t (id, a, b) VALUES (8, 8, 9)", error="23503"),
            new("INSERT INTO t (id, a) VALUES (9, 1) ON CONFLICT (a) DO UPDATE SET b = 3"),
            old("DELETE FROM t WHERE id = 2"),
        ],
        old={"SELECT * FROM t": [(1, 10), (3, 30), (7, None)]},
        new={"SELECT id, a, b FROM t": [(1, 1, 3), (3, 3, None), (7, 7, None)]},
    ),
    Case(
        "key_column_dropped",
        setup="""
            CREATE TABLE t (a integer, b text, PRIMARY KEY (a, b));
            INSERT INTO t VALUES (1, 'one'), (2, 'two');
        """,
        upgrade='op.zd_drop_column("t", "b", down="\'b\' || a")',
        plain='op.drop_column("t", "b")',
        writes=[old("INSERT INTO t VALUES (3, 'three')"), new("INSERT INTO t VALUES (4)")],
        old={"SELECT * FROM t": [(1, "one"), (2, "two"), (3, "three"), (4, "b4")]},
        new={"SELECT * FROM t": [(1,), (2,), (3,), (4,)]},
    ),
    Case(
        "irreversible",
        setup="CREATE TABLE t (id integer PRIMARY KEY, word text); INSERT INTO t VALUES (1, 'secret')",
        upgrade="""
            op.zd_alter_column("t", "word", new_column_name="hash", up="md5(word)",
                down=alembic_zero.IRREVERSIBLE)
        """,
        plain='op.alter_column("t", "word", new_column_name="hash")',
        writes=[old("INSERT INTO t VALUES (2, 'two')"), new("INSERT INTO t VALUES (3, 'three')")],
        old={"SELECT * FROM t": [(1, "secret"), (2, "two"), (3, None)]},
        new={"SELECT id, hash = md5(CASE id WHEN 1 THEN 'secret' ELSE 'two' END), hash FROM t WHERE id = 3":
                [(3, False, "three")],
             "SELECT count(*) FROM t WHERE hash IN (md5('secret'), md5('two'))": [(2,)]},
    ),
    Case(
        "four_tables_at_once",
        setup="".join(
            f"CREATE TABLE t{i} (id integer PRIMARY KEY, n integer); INSERT INTO t{i} VALUES ({i}, {i});"
            for i in range(4)
        ),
        upgrade="""
            for i in range(4):
                op.zd_alter_column(f"t{i}", "n", type_=sa.Text, up="n::text", down="n::integer")
        """,
        plain="""
            for i in range(4):
                op.alter_column(f"t{i}", "n", type_=sa.Text)
        """,
        downgrade="""
            for i in range(4):
                op.zd_alter_column(f"t{i}", "n", type_=sa.Integer, up="n::integer", down="n::text")
        """,
        writes=[old("INSERT INTO t2 VALUES (9, 9)"), new("INSERT INTO t3 VALUES (9, '9')")],
        old={"SELECT n FROM t2": [(2,), (9,)], "SELECT n FROM t3": [(3,), (9,)], "SELECT n FROM t0": [(0,)]},
        new={"SELECT n FROM t2": [("2",), ("9",)], "SELECT n FROM t3": [("3",), ("9",)]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*COMBINATIONS), ids=outcome_id)
def test_operations__combined__both_versions_write(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


# -- tables, custom SQL, ordinary operations --------------------------------------------------------

LOG = "CREATE TABLE IF NOT EXISTS log (line text)"

TABLES = [
    Case(
        "create_table",
        setup="CREATE TABLE users (id integer PRIMARY KEY); INSERT INTO users VALUES (1)",
        upgrade="""
            op.zd_create_table("items",
                sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
                sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), index=True),
                sa.Column("name", sa.String(5), sa.CheckConstraint("name <> 'bad'"), nullable=False,
                    server_default="none", comment="a name"),
                sa.UniqueConstraint("user_id", "name", name="items_unique"),
                comment="things")
        """,
        plain="""
            op.create_table("items",
                sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
                sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), index=True),
                sa.Column("name", sa.String(5), sa.CheckConstraint("name <> 'bad'"), nullable=False,
                    server_default="none", comment="a name"),
                sa.UniqueConstraint("user_id", "name", name="items_unique"),
                comment="things")
        """,
        downgrade='op.zd_drop_table("items")',
        writes=[
            old("INSERT INTO users VALUES (2)"),
            new("INSERT INTO items (user_id) VALUES (1), (2) RETURNING id, name", [(1, "none"), (2, "none")]),
            old("SELECT * FROM items", error="42P01"),
            old("DELETE FROM users WHERE id = 2"),
            new("INSERT INTO items (user_id) VALUES (2)", error="23503"),
        ],
        old={"SELECT id FROM users": [(1,)]},
        new={"SELECT id FROM users": [(1,)], "SELECT user_id, name FROM items": [(1, "none")]},
    ),
    Case(
        "rename_table",
        setup="""
            CREATE TABLE users (id serial PRIMARY KEY, name text UNIQUE);
            CREATE TABLE items (user_id integer REFERENCES users);
            INSERT INTO users (name) VALUES ('one'); INSERT INTO items VALUES (1);
        """,
        upgrade='op.zd_rename_table("users", "customers")',
        plain='op.rename_table("users", "customers")',
        downgrade='op.zd_rename_table("customers", "users")',
        writes=[
            old("INSERT INTO users (name) VALUES ('two') RETURNING id", [(2,)]),
            new("INSERT INTO customers (name) VALUES ('three') RETURNING id", [(3,)]),
            new("INSERT INTO items VALUES (3)"),
            new("SELECT * FROM users", error="42P01"),
            old("SELECT * FROM customers", error="42P01"),
            new("INSERT INTO customers (name) VALUES ('one') ON CONFLICT (name) DO UPDATE SET name = 'uno'"),
        ],
        old={"SELECT * FROM users JOIN items ON id = user_id": [(1, "uno", 1), (3, "three", 3)]},
        new={"SELECT id, name FROM customers": [(1, "uno"), (2, "two"), (3, "three")]},
    ),
    Case(
        "drop_table",
        setup="""
            CREATE TABLE users (id integer PRIMARY KEY);
            CREATE TABLE items (id integer GENERATED BY DEFAULT AS IDENTITY, user_id integer REFERENCES users);
            INSERT INTO users VALUES (1); INSERT INTO items (user_id) VALUES (1);
        """,
        upgrade='op.zd_drop_table("items")',
        plain='op.drop_table("items")',
        writes=[
            old("INSERT INTO items (user_id) VALUES (1) RETURNING id", [(2,)]),
            new("SELECT * FROM items", error="42P01"),
            new("INSERT INTO users VALUES (2)"),
        ],
        old={"SELECT * FROM items": [(1, 1), (2, 1)], "SELECT * FROM users": [(1,), (2,)]},
        new={"SELECT * FROM users": [(1,), (2,)]},
    ),
    Case(
        "name_of_dropped_table_reused",
        setup="""
            CREATE TABLE a (id integer PRIMARY KEY, old_a text); INSERT INTO a VALUES (1, 'a');
            CREATE TABLE b (id integer PRIMARY KEY, was_b text); INSERT INTO b VALUES (2, 'b');
        """,
        upgrade='op.zd_drop_table("a")\nop.zd_rename_table("b", "a")',
        plain='op.drop_table("a")\nop.rename_table("b", "a")',
        writes=[old("INSERT INTO a VALUES (3, 'aa')"), new("INSERT INTO a VALUES (4, 'bb')")],
        old={"SELECT id, old_a FROM a": [(1, "a"), (3, "aa")], "SELECT id, was_b FROM b": [(2, "b"), (4, "bb")]},
        new={"SELECT id, was_b FROM a": [(2, "b"), (4, "bb")]},
    ),
    Case(
        "tables_swapped",
        setup="""
            CREATE TABLE a (id integer PRIMARY KEY, a text); INSERT INTO a VALUES (1, 'a');
            CREATE TABLE b (id integer PRIMARY KEY, b text); INSERT INTO b VALUES (2, 'b');
        """,
        upgrade='op.zd_rename_table("a", "c")\nop.zd_rename_table("b", "a")\nop.zd_rename_table("c", "b")',
        plain='op.rename_table("a", "c")\nop.rename_table("b", "a")\nop.rename_table("c", "b")',
        downgrade='op.zd_rename_table("a", "c")\nop.zd_rename_table("b", "a")\nop.zd_rename_table("c", "b")',
        writes=[old("INSERT INTO a VALUES (3, 'aa')"), new("INSERT INTO a VALUES (4, 'bb')")],
        old={"SELECT id, a FROM a": [(1, "a"), (3, "aa")], "SELECT id, b FROM b": [(2, "b"), (4, "bb")]},
        new={"SELECT id, b FROM a": [(2, "b"), (4, "bb")], "SELECT id, a FROM b": [(1, "a"), (3, "aa")]},
    ),
    Case(
        "custom_sql",
        setup=f"CREATE TABLE t (id integer PRIMARY KEY); {LOG}; INSERT INTO t VALUES (1)",
        upgrade="""
            op.zd_execute(
                expand=["CREATE OR REPLACE FUNCTION f(x integer) RETURNS text LANGUAGE sql IMMUTABLE "
                        "AS 'SELECT ''%s :x '' || x'", "INSERT INTO log VALUES ('expand')"],
                contract="INSERT INTO log VALUES ('contract')",
                rollback=["INSERT INTO log VALUES ('rollback')", "DROP FUNCTION IF EXISTS f(integer)"],
            )
            op.zd_add_column("t", sa.Column("c", sa.Text), up="f(id)")
        """,
        plain="""
            op.get_bind().exec_driver_sql("CREATE OR REPLACE FUNCTION f(x integer) RETURNS text LANGUAGE sql "
                "IMMUTABLE AS 'SELECT ''%s :x '' || x'", execution_options={"no_parameters": True})
            op.add_column("t", sa.Column("c", sa.Text))
        """,
        writes=[old("INSERT INTO t VALUES (2)")],
        old={"SELECT * FROM log": [("expand",)], "SELECT * FROM t": [(1,), (2,)]},
        new={"SELECT * FROM t": [(1, "%s :x 1"), (2, "%s :x 2")]},
        outcomes=(),
    ),
    Case(
        "ordinary_operations_mixed_in",
        setup="CREATE TABLE t (id integer PRIMARY KEY, n integer); INSERT INTO t VALUES (1, 10)",
        upgrade="""
            labels = op.create_table("labels", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("text", sa.Text), sa.Column("price", sa.Numeric(5, 2)))
            op.bulk_insert(labels, [{"id": 1, "text": "it's :x %s", "price": 1.5}, {"id": 2, "text": None,
                "price": None}])
            op.add_column("t", sa.Column("note", sa.Text))
            op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")
            op.execute("INSERT INTO labels (id, text) VALUES (3, 'three')")
            op.execute(sa.text("INSERT INTO labels (id, text) VALUES (4, :text)").bindparams(text="f'o:ur"))
            op.zd_add_column("t", sa.Column("label", sa.Integer), up="length(n)")
            op.create_index("labels_text", "labels", ["text"])
        """,
        plain="""
            op.create_table("labels", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text),
                sa.Column("price", sa.Numeric(5, 2)))
            op.add_column("t", sa.Column("note", sa.Text))
            op.alter_column("t", "n", type_=sa.Text)
            op.add_column("t", sa.Column("label", sa.Integer))
            op.create_index("labels_text", "labels", ["text"])
        """,
        downgrade="""
            op.zd_drop_column("t", "label", down="length(n)")
            op.zd_alter_column("t", "n", type_=sa.Integer, up="n::integer", down="n::text")
            op.zd_drop_column("t", "note")
            op.zd_drop_table("labels")
        """,
        writes=[
            old("INSERT INTO t VALUES (2, 20)"),
            new("INSERT INTO t (id, n, note) VALUES (3, '30', 'note') RETURNING note", [("note",)]),
        ],
        old={"SELECT id, n FROM t": [(1, 10), (2, 20), (3, 30)]},
        new={
            "SELECT id, n, note, label FROM t": [
                (1, "10", None, 2), (2, "20", None, 2), (3, "30", "note", None)],
            "SELECT id, text FROM labels": [(1, "it's :x %s"), (2, None), (3, "three"), (4, "f'o:ur")],
        },
    ),
    Case(
        "ordinary_add_column",
        setup="CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2)",
        upgrade="""
            op.add_column("t", sa.Column("a", sa.Uuid, server_default=sa.text("gen_random_uuid()")))
            op.add_column("t", sa.Column("b", sa.Integer, sa.ForeignKey("t.id", name="t_b"), index=True))
            op.add_column("t", sa.Column("c", sa.Integer, nullable=False, server_default="3", comment="c"))
        """,
        plain="""
            op.add_column("t", sa.Column("a", sa.Uuid, server_default=sa.text("gen_random_uuid()")))
            op.add_column("t", sa.Column("b", sa.Integer, sa.ForeignKey("t.id", name="t_b"), index=True))
            op.add_column("t", sa.Column("c", sa.Integer, nullable=False, server_default="3", comment="c"))
        """,
        downgrade="""
            op.zd_drop_column("t", "c")
            op.zd_drop_column("t", "b")
            op.zd_drop_column("t", "a")
        """,
        writes=[
            old("INSERT INTO t VALUES (3)"),
            new("INSERT INTO t (id, b) VALUES (4, 3) RETURNING a IS NOT NULL, c", [(True, 3)]),
            new("INSERT INTO t (id, b) VALUES (5, 9)", error="23503"),
        ],
        old={"SELECT * FROM t": [(1,), (2,), (3,), (4,)]},
        new={"SELECT count(DISTINCT a) FROM t": [(4,)],
             "SELECT id, b, c FROM t": [(1, None, 3), (2, None, 3), (3, None, 3), (4, 3, 3)]},
        outcomes=("complete", "rollback", "reverse"),
    ),
    Case(
        "index_concurrently",
        setup="CREATE TABLE t (id integer PRIMARY KEY, n integer); INSERT INTO t VALUES (1, 10)",
        upgrade="""
            with op.get_context().autocommit_block():
                op.create_index("t_n", "t", ["n"], postgresql_concurrently=True)
        """,
        plain='op.create_index("t_n", "t", ["n"])',
        writes=[old("INSERT INTO t VALUES (2, 20)"), new("INSERT INTO t VALUES (3, 30)")],
        old={"SELECT n FROM t": [(10,), (20,), (30,)]},
        new={"SELECT n FROM t": [(10,), (20,), (30,)]},
    ),
]  # fmt: skip
CUSTOM_SQL = next(case for case in TABLES if case.name == "custom_sql")


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*TABLES), ids=outcome_id)
def test_operations__tables_and_ordinary_ones__both_versions_write(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.parametrize(("command", "line"), [("zd-complete", "contract"), ("downgrade", "rollback")])
def test_execute__each_phase__runs_in_it(database, tmp_path, command, line):
    flight = Flight(CUSTOM_SQL, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        flight.write(clients, transactions=True)
        flight.check(clients, "in flight")
    flight.run(*([command] if command == "zd-complete" else [command, BEFORE]))
    assert database.fetch("SELECT line FROM log") == [("expand",), (line,)]
    expected = plain_dump(CUSTOM_SQL, database, tmp_path) if command == "zd-complete" else flight.original
    assert_same(flight.dump(), expected, command)
    assert_nothing_left(database)


UNSAFE = {
    "drop_column": ('op.drop_column("t", "n")', "op.zd_drop_column"),
    "type": ('op.alter_column("t", "n", type_=sa.Text)', "op.zd_alter_column"),
    "not_null": ('op.alter_column("t", "n", nullable=False)', "op.zd_alter_column"),
    "nullable": ('op.alter_column("t", "k", nullable=True)', "op.zd_alter_column"),
    "rename": ('op.alter_column("t", "n", new_column_name="x")', "op.zd_alter_column"),
    "default": ('op.alter_column("t", "n", server_default="1")', "op.zd_alter_column"),
    "rename_table": ('op.rename_table("t", "u")', "op.zd_rename_table"),
    "drop_table": ('op.drop_table("t")', "op.zd_drop_table"),
    "index": ('op.create_index("t_n2", "t", ["n"])', "op.zd_create_index"),
    "drop_index": ('op.drop_index("t_n", "t")', "op.zd_drop_index"),
    "drop_constraint": ('op.drop_constraint("t_check", "t")', "op.zd_drop_constraint"),
    "unique": ('op.create_unique_constraint("t_u", "t", ["n"])', "op.zd_create_unique_constraint"),
    "check": ('op.create_check_constraint("t_c", "t", "n > 0")', "op.zd_create_check_constraint"),
    "foreign_key": ('op.create_foreign_key("t_f", "t", "t", ["n"], ["k"])', "op.zd_create_foreign_key"),
    "primary_key": ('op.create_primary_key("t_p", "t", ["n"])', "op.zd_create_primary_key"),
    "add_not_null": (
        'op.add_column("t", sa.Column("x", sa.Integer, nullable=False))',
        "zd_add_column",
    ),
    "write_through_bind": (
        'op.get_bind().exec_driver_sql("UPDATE t SET n = 1")',
        "op.execute",
    ),
}
UNSAFE_SETUP = """
    CREATE TABLE t (k integer NOT NULL UNIQUE, n integer, CONSTRAINT t_check CHECK (n <> 5));
    CREATE INDEX t_n ON t (n);
    INSERT INTO t VALUES (1, 10);
"""


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("after", [False, True], ids=["alone", "after_another"])
def test_ordinary_operation__unsafe__refused_with_advice(database, tmp_path, name, after):
    """Nothing is changed, not even what stands before it in the revision."""
    body, advice = UNSAFE[name]
    before = 'op.zd_add_column("t", sa.Column("y", sa.Integer), up="n")\n' if after else ""
    flight = Flight(Case(name, UNSAFE_SETUP, before + body, "pass"), database, tmp_path)
    whole = flight.everything()
    refused = flight.project.run_in_process("upgrade", AFTER, check=False)
    assert refused.returncode == 2, refused.stderr
    assert advice in refused.stderr + refused.stdout
    assert AFTER in refused.stderr + refused.stdout
    assert_same(flight.everything(), whole, "a refused revision changed something")
    assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]
    assert database.fetch("SELECT * FROM t") == [(1, 10)]


# -- everything that a column may have --------------------------------------------------------------

EVERYTHING = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zd_reader') THEN CREATE ROLE zd_reader; END IF;
    EXCEPTION WHEN unique_violation OR duplicate_object THEN NULL;
    END $$;
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE parent (id integer PRIMARY KEY, code varchar(10) UNIQUE);
    INSERT INTO parent VALUES (1, 'one'), (2, 'two');
    CREATE TABLE everything (
        id integer GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 3) PRIMARY KEY,
        ident integer GENERATED BY DEFAULT AS IDENTITY (MAXVALUE 1000),
        ser serial,
        name varchar(20) COLLATE "C" DEFAULT 'name' NOT NULL
            CONSTRAINT name_ok CHECK (name <> 'other' AND name <> 'price' AND length(name) < 20),
        price numeric(10, 2) DEFAULT 1.5 * 2 CHECK (price >= 0),
        tags text[] DEFAULT '{a}',
        grid integer[][] DEFAULT '{{1,2},{3,4}}',
        pos positive DEFAULT 1,
        mood mood DEFAULT 'ok',
        code varchar(10) DEFAULT 'one' REFERENCES parent (code) ON UPDATE CASCADE ON DELETE SET NULL
            DEFERRABLE INITIALLY DEFERRED,
        parent_id integer DEFAULT 1 NOT NULL,
        a integer DEFAULT 1, b integer DEFAULT 2,
        doc text DEFAULT 'doc',
        key uuid DEFAULT gen_random_uuid() NOT NULL,
        at timestamp DEFAULT now(),
        flags bit(4) DEFAULT B'0101',
        CONSTRAINT parent_fk FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE CASCADE,
        CONSTRAINT ab CHECK (a < b OR a IS NULL OR doc = 'a'),
        CONSTRAINT uniq UNIQUE NULLS NOT DISTINCT (a, b, ser) INCLUDE (doc),
        CONSTRAINT later UNIQUE (name, price, ser) DEFERRABLE INITIALLY DEFERRED
    );
    CREATE INDEX ev_lower ON everything (lower(name), (price * 2));
    CREATE INDEX ev_partial ON everything (price) WHERE price > 10 AND name <> 'price';
    CREATE INDEX ev_include ON everything (a DESC NULLS LAST) INCLUDE (b, mood) WITH (fillfactor = 70);
    CREATE INDEX ev_opclass ON everything (doc text_pattern_ops, name COLLATE "POSIX");
    CREATE INDEX ev_gin ON everything USING gin (tags) WITH (fastupdate = off);
    CREATE INDEX ev_hash ON everything USING hash (mood);
    CREATE INDEX ev_brin ON everything USING brin (at) WITH (pages_per_range = 4);
    CREATE UNIQUE INDEX ev_key ON everything (key);
    ALTER TABLE everything REPLICA IDENTITY USING INDEX ev_key;
    ALTER TABLE everything CLUSTER ON ev_include;
    ALTER TABLE everything ALTER doc SET STATISTICS 500, ALTER doc SET STORAGE EXTERNAL,
        ALTER a SET (n_distinct = -0.5);
    CREATE STATISTICS ev_stats (ndistinct, dependencies) ON a, b FROM everything;
    CREATE STATISTICS ev_expression ON (price * 2), (a + b) FROM everything;
    COMMENT ON TABLE everything IS 'everything''s';
    COMMENT ON COLUMN everything.doc IS 'doc';
    COMMENT ON COLUMN everything.a IS 'a; "a" -- a';
    COMMENT ON CONSTRAINT ab ON everything IS 'a before b';
    COMMENT ON CONSTRAINT parent_fk ON everything IS 'the parent';
    COMMENT ON CONSTRAINT uniq ON everything IS 'uniq';
    COMMENT ON INDEX ev_partial IS 'price';
    COMMENT ON STATISTICS ev_stats IS 'a and b';
    GRANT SELECT (doc, a), UPDATE (a, price) ON everything TO zd_reader;
    INSERT INTO everything (name, price, mood) VALUES ('first', 20, 'sad'), ('second', NULL, NULL);
"""

# Column: new type (with ``down`` where there is no cast back), and the type for the way back.
TYPE_CHANGES = {
    "id": ("sa.BigInteger", "sa.Integer"),
    "ident": ("sa.BigInteger", "sa.Integer"),
    "ser": ("sa.BigInteger", "sa.Integer"),
    "name": ('sa.String(40, collation="C")', 'sa.String(20, collation="C")'),
    "price": ("sa.Numeric(12, 4)", "sa.Numeric(10, 2)"),
    "tags": ("sa.ARRAY(sa.String(30))", "sa.ARRAY(sa.Text)"),
    "grid": ("sa.ARRAY(sa.BigInteger)", "sa.ARRAY(sa.Integer)"),
    "pos": ("sa.BigInteger", "postgresql.DOMAIN('positive', sa.Integer)"),
    "mood": ("sa.Text, down='mood::mood'", ""),
    "code": ("sa.String(20)", "sa.String(10)"),
    "parent_id": ("sa.BigInteger", "sa.Integer"),
    "a": ("sa.BigInteger", "sa.Integer"),
    "b": ("sa.Numeric", "sa.Integer"),
    "doc": ("sa.String(100)", "sa.Text"),
    "key": ("sa.Text, down='key::uuid'", ""),
    "at": ("sa.DateTime(timezone=True)", "sa.DateTime"),
    "flags": ("postgresql.BIT(4, varying=True)", "postgresql.BIT(4)"),
}
FAITHFUL = {"id", "ident", "ser", "name", "price", "grid", "code", "parent_id", "a"}


def _change_of(column: str) -> Case:
    type_, back = TYPE_CHANGES[column]
    return Case(
        f"type_of_{column}",
        setup=EVERYTHING,
        since=15,
        upgrade=f'op.zd_alter_column("everything", "{column}", type_={type_})',
        plain=f'op.alter_column("everything", "{column}", type_={type_.split(", down=")[0]})',
        downgrade=f'op.zd_alter_column("everything", "{column}", type_={back})' if column in FAITHFUL else "",
        path="public",
        outcomes=("complete", "rollback", "reverse"),
        writes=[
            old("INSERT INTO everything (name) VALUES ('third') RETURNING id, ident, ser", [(11, 3, 3)]),
            new("INSERT INTO everything (name) VALUES ('fourth'), ('fifth') RETURNING id, ident, ser",
                [(14, 4, 4), (17, 5, 5)]),
            new("INSERT INTO everything (name) VALUES ('sixth') RETURNING mood::text, doc, code",
                [("ok", "doc", "one")]),
            new("INSERT INTO everything (name) VALUES ('other')", error="23514"),
            old("INSERT INTO everything (name) VALUES ('price')", error="23514"),
            # In flight, a copy of the identity column takes explicit values; the column itself does not.
            *([] if column == "id" else [new("INSERT INTO everything (id) VALUES (1)", error="428C9")]),
            new("INSERT INTO everything (name, parent_id) VALUES ('seventh', 9)", error="23503"),
            old("UPDATE everything SET doc = 'x' WHERE name = 'third'"),
            new("DELETE FROM everything WHERE name = 'fifth'"),
        ],
        old={
            "SELECT id, ident, ser, length(name), doc FROM everything": [
                (5, 1, 1, 5, "doc"), (8, 2, 2, 6, "doc"), (11, 3, 3, 5, "x"),
                (14, 4, 4, 6, "doc"), (20, 6, 6, 5, "doc")],
            f"SELECT count(*) FROM everything WHERE {column} IS NULL": [(int(column in ("price", "mood")),)],
        },
        new={
            "SELECT id, ident, ser, length(name), doc FROM everything": [
                (5, 1, 1, 5, "doc"), (8, 2, 2, 6, "doc"), (11, 3, 3, 5, "x"),
                (14, 4, 4, 6, "doc"), (20, 6, 6, 5, "doc")],
            f"SELECT count(*) FROM everything WHERE {column} IS NULL": [(int(column in ("price", "mood")),)],
        },
    )  # fmt: skip


EVERYTHING_AT_ONCE = Case(
    "every_type_at_once",
    setup=EVERYTHING,
    since=15,
    upgrade="\n".join(
        f'op.zd_alter_column("everything", "{column}", type_={type_})' for column, (type_, _) in TYPE_CHANGES.items()
    ),
    plain="\n".join(
        f'op.alter_column("everything", "{column}", type_={type_.split(", down=")[0]})'
        for column, (type_, _) in TYPE_CHANGES.items()
    ),
    path="public",
    writes=_change_of("id").writes,
    old=_change_of("a").old,
    new=_change_of("a").new,
    outcomes=("complete", "rollback"),
)


@pytest.mark.parametrize(
    ("case", "outcome"),
    outcomes_of(*(_change_of(column) for column in TYPE_CHANGES), EVERYTHING_AT_ONCE),
    ids=outcome_id,
)
def test_alter_column__table_with_everything__catalog_is_plain_alembics(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


def test_alter_column__column_grants__reader_sees_what_it_may_in_both_versions(database, tmp_path):
    flight = Flight(_change_of("a"), database, tmp_path)
    flight.run("upgrade", AFTER)
    for revision in (BEFORE, AFTER):
        view = f"{version_schema(revision)}.everything"
        allowed = "has_column_privilege('zd_reader', '{}', '{}', '{}')"
        query = ", ".join(
            allowed.format(view, column, right)
            for column, right in (("a", "SELECT"), ("a", "UPDATE"), ("doc", "UPDATE"), ("key", "SELECT"))
        )
        assert database.fetch(f"SELECT {query}") == [(True, True, False, False)]


# -- odd names --------------------------------------------------------------------------------------

ODD_NAMES = [
    *("user", "order", "default", "table", "new", "old", "excluded", "found", "tg_op", "timestamp", "row"),
    *("MixedCase", 'with "quotes"', "it's", "a b.c;--", "back\\slash", "per%s %(x)s :y %%", "naïve Ω", "$1"),
    *("x" * 63, "é" * 31 + "x", "$zd$"),
]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _odd(name: str) -> Case:
    """Table, columns, index and constraint all with the odd name, or as near as can be."""
    other = name[:-1] + "Y" if len(name.encode()) == 63 else f"{name}Y"
    q, o = _quote(name), _quote(other)
    return Case(
        name,
        setup=f"""
            CREATE TABLE {q} ({q} integer CONSTRAINT {q} CHECK (num_nonnulls({q}) = 1), id integer PRIMARY KEY);
            CREATE INDEX {_quote(name[:-2] + "ZZ")} ON {q} ({q});
            COMMENT ON COLUMN {q}.{q} IS {_literal(name)};
            INSERT INTO {q} VALUES (1, 1), (2, 2);
        """,
        upgrade=f"""
            name, other = {name!r}, {other!r}
            op.zd_add_column(name, sa.Column(other, sa.Text), up={f"{q}.{q}::text || {_literal(name)}"!r})
            op.zd_alter_column(name, name, type_=sa.Text, new_column_name="mid",
                up={f"{q}::text || ''"!r}, down="mid::integer")
            op.zd_alter_column(name, "mid", new_column_name=name)
            op.zd_rename_table(name, other)
        """,
        plain=f"""
            name, other = {name!r}, {other!r}
            op.add_column(name, sa.Column(other, sa.Text))
            op.alter_column(name, name, type_=sa.Text, postgresql_using={f"{q}::text"!r})
            op.rename_table(name, other)
        """
        if "%" not in name
        else f"""
            name, other = {name!r}, {other!r}
            bind = op.get_bind()
            for text in ({f"ALTER TABLE {q} ADD {o} text"!r}, {f"ALTER TABLE {q} ALTER {q} TYPE text"!r},
                    {f"ALTER TABLE {q} RENAME TO {o}"!r}):
                bind.exec_driver_sql(text, execution_options={{"no_parameters": True}})
        """,
        downgrade=f"""
            name, other = {name!r}, {other!r}
            op.zd_rename_table(other, name)
            op.zd_alter_column(name, name, type_=sa.Integer, up={f"{q}::integer"!r}, down={f"{q}::text"!r})
            op.zd_drop_column(name, other)
        """,
        writes=[
            old(f"INSERT INTO {q} VALUES (3, 3) RETURNING {q}", [(3,)]),
            new(f"INSERT INTO {o} ({q}, id, {o}) VALUES ('4', 4, 'four') RETURNING {q}", [("4",)]),
            new(f"INSERT INTO {o} ({q}, id) VALUES (NULL, 5)", error="23514"),
            new(f"UPDATE {o} SET {q} = '20' WHERE id = 2"),
            old(f"UPDATE {q} SET {q} = 10 WHERE id = 1"),
        ],
        old={f"SELECT id, {q} FROM {q}": [(1, 10), (2, 20), (3, 3), (4, 4)]},
        new={f"SELECT id, {q}, {o} FROM {o}": [
            (1, "10", f"10{name}"), (2, "20", f"2{name}"), (3, "3", f"3{name}"), (4, "4", "four")]},
        outcomes=("complete", "rollback", "reverse"),
    )  # fmt: skip


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*(_odd(name) for name in ODD_NAMES)), ids=outcome_id)
def test_operations__odd_names__work(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


LONG_TABLE, LONG_ONE, LONG_TWO = "t" * 40, "c" * 39 + "1", "c" * 39 + "2"

KEYS = [
    Case(
        "long_names",
        setup=f"""
            CREATE TABLE {LONG_TABLE} (id integer PRIMARY KEY, {LONG_ONE} integer NOT NULL UNIQUE,
                {LONG_TWO} integer NOT NULL UNIQUE CHECK ({LONG_TWO} > 0));
            INSERT INTO {LONG_TABLE} VALUES (1, 1, 1);
        """,
        upgrade=f"""
            op.zd_alter_column("{LONG_TABLE}", "{LONG_ONE}", type_=sa.BigInteger)
            op.zd_alter_column("{LONG_TABLE}", "{LONG_TWO}", type_=sa.BigInteger)
        """,
        plain=f"""
            op.alter_column("{LONG_TABLE}", "{LONG_ONE}", type_=sa.BigInteger)
            op.alter_column("{LONG_TABLE}", "{LONG_TWO}", type_=sa.BigInteger)
        """,
        downgrade=f"""
            op.zd_alter_column("{LONG_TABLE}", "{LONG_ONE}", type_=sa.Integer)
            op.zd_alter_column("{LONG_TABLE}", "{LONG_TWO}", type_=sa.Integer)
        """,
        writes=[old(f"INSERT INTO {LONG_TABLE} VALUES (2, 2, 2)"), new(f"INSERT INTO {LONG_TABLE} VALUES (3, 3, 3)")],
        old={f"SELECT * FROM {LONG_TABLE}": [(1, 1, 1), (2, 2, 2), (3, 3, 3)]},
        new={f"SELECT id, {LONG_ONE}, {LONG_TWO} FROM {LONG_TABLE}": [(1, 1, 1), (2, 2, 2), (3, 3, 3)]},
    ),
    *(
        Case(
            f"key_{name}",
            setup=f"""
                CREATE TABLE t ({columns}, v integer NOT NULL);
                INSERT INTO t VALUES ({one}, 10), ({two}, 20);
            """,
            upgrade='op.zd_alter_column("t", "v", type_=sa.Text, up="v::text", down="v::integer")',
            plain='op.alter_column("t", "v", type_=sa.Text)',
            downgrade='op.zd_alter_column("t", "v", type_=sa.Integer, up="v::integer", down="v::text")',
            writes=[
                old(f"INSERT INTO t VALUES ({three}, 30)"),
                new(f"INSERT INTO t VALUES ({four}, '40')"),
                old("UPDATE t SET v = v + 1 WHERE v = 10"),
                new("UPDATE t SET v = '21' WHERE v = '20'"),
            ],
            old={"SELECT v FROM t": [(11,), (21,), (30,), (40,)]},
            new={"SELECT v FROM t": [("11",), ("21",), ("30",), ("40",)]},
        )
        for name, columns, (one, two, three, four) in [
            ("composite", "a integer, b text, PRIMARY KEY (b, a)", ("1, 'x'", "1, 'y'", "2, 'x'", "2, 'y'")),
            ("uuid", "id uuid PRIMARY KEY", [f"'{n * 8}-0000-0000-0000-000000000000'" for n in "1234"]),
            ("bytea", "id bytea PRIMARY KEY", [f"'\\x0{n}ff'" for n in "1234"]),
            ("missing", "x integer", ["1", "1", "1", "1"]),
            ("date_range", "id daterange PRIMARY KEY", [f"'[200{n}-01-01,2010-01-01)'" for n in "1234"]),
        ]
    ),
    Case(
        "composite_key_changed",
        setup="""
            CREATE TABLE t (a integer, b integer, v text, PRIMARY KEY (b, a), UNIQUE (a, v));
            INSERT INTO t VALUES (1, 1, 'x'), (1, 2, 'y');
        """,
        upgrade='op.zd_alter_column("t", "b", type_=sa.Text, up="b::text", down="b::integer")',
        plain='op.alter_column("t", "b", type_=sa.Text)',
        downgrade='op.zd_alter_column("t", "b", type_=sa.Integer, up="b::integer", down="b::text")',
        writes=[
            old("INSERT INTO t VALUES (2, 2, 'z')"),
            new("INSERT INTO t (a, b, v) VALUES (3, '3', 'w'), (1, '1', 'x') ON CONFLICT (b, a) DO NOTHING"),
            new("INSERT INTO t (a, b, v) VALUES (1, '2', 'y') ON CONFLICT (b, a) DO UPDATE SET v = 'yy'"),
            new("INSERT INTO t (a, b, v) VALUES (1, '2', 'q')", error="23505"),
            old("INSERT INTO t VALUES (3, 3, 'q')", error="23505"),
        ],
        old={"SELECT a, b, v FROM t": [(1, 1, "x"), (1, 2, "yy"), (2, 2, "z"), (3, 3, "w")]},
        new={"SELECT a, b, v FROM t": [(1, "1", "x"), (1, "2", "yy"), (2, "2", "z"), (3, "3", "w")]},
    ),
    Case(
        "other_schema",
        setup="""
            CREATE SCHEMA sales;
            GRANT USAGE ON SCHEMA sales TO zd_app;
            CREATE TABLE sales.orders (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n integer UNIQUE);
            CREATE TABLE orders (id integer);
            INSERT INTO sales.orders (n) VALUES (10);
        """,
        metadata="""
            target_metadata = sa.MetaData()
            sa.Table("orders", target_metadata, sa.Column("id", sa.Integer, primary_key=True), schema="sales")
        """,
        upgrade="""
            op.zd_alter_column("orders", "n", type_=sa.Text, up="n::text", down="n::integer", schema="sales")
            op.zd_add_column("orders", sa.Column("c", sa.Integer), up="length(n)", schema="sales")
            op.zd_rename_table("orders", "bookings", schema="sales")
            op.zd_create_table("extras", sa.Column("id", sa.Integer, primary_key=True), schema="sales")
        """,
        plain="""
            op.alter_column("orders", "n", type_=sa.Text, schema="sales")
            op.add_column("orders", sa.Column("c", sa.Integer), schema="sales")
            op.rename_table("orders", "bookings", schema="sales")
            op.create_table("extras", sa.Column("id", sa.Integer, primary_key=True), schema="sales")
        """,
        downgrade="""
            op.zd_drop_table("extras", schema="sales")
            op.zd_rename_table("bookings", "orders", schema="sales")
            op.zd_drop_column("orders", "c", schema="sales")
            op.zd_alter_column("orders", "n", type_=sa.Integer, up="n::integer", down="n::text", schema="sales")
        """,
        schema="sales",
        writes=[
            old("INSERT INTO orders (n) VALUES (20) RETURNING id, n", [(2, 20)]),
            new("INSERT INTO bookings (n, c) VALUES ('30', 3) RETURNING id, n", [(3, "30")]),
            new("INSERT INTO bookings (n) VALUES ('30') ON CONFLICT (n) DO UPDATE SET c = 33"),
            new("INSERT INTO extras VALUES (1)"),
        ],
        old={"SELECT id, n FROM orders": [(1, 10), (2, 20), (3, 30)]},
        new={"SELECT id, n, c FROM bookings": [(1, "10", 2), (2, "20", 2), (3, "30", 33)]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*KEYS), ids=outcome_id)
def test_operations__keys_and_schemas__work(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


# -- four revisions in flight -----------------------------------------------------------------------

CHAIN_SETUP = """
    CREATE TABLE t (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n integer NOT NULL, name text);
    CREATE TABLE u (id integer PRIMARY KEY);
    INSERT INTO t (n, name) VALUES (10, 'Ada Lovelace');
"""
CHAIN = [
    # revision, upgrade, downgrade, plain
    (
        "r2",
        'op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down="n::integer")',
        'op.zd_alter_column("t", "n", type_=sa.Integer, up="n::integer", down="n::text")',
        'op.alter_column("t", "n", type_=sa.Text)',
    ),
    (
        "r3",
        """
        op.zd_alter_column("t", "n", new_column_name="code", up="'#' || n", down="substr(code, 2)")
        op.zd_add_column("u", sa.Column("x", sa.Integer), up="id * 2")
        """,
        """
        op.zd_drop_column("u", "x")
        op.zd_alter_column("t", "code", new_column_name="n", up="substr(code, 2)", down="'#' || n")
        """,
        'op.alter_column("t", "n", new_column_name="code")\nop.add_column("u", sa.Column("x", sa.Integer))',
    ),
    (
        "r4",
        """
        op.zd_add_column("t", sa.Column("first", sa.Text), up="split_part(name, ' ', 1)")
        op.zd_add_column("t", sa.Column("last", sa.Text), up="split_part(name, ' ', 2)")
        op.zd_drop_column("t", "name", down="first || ' ' || last")
        """,
        """
        op.zd_add_column("t", sa.Column("name", sa.Text), up="first || ' ' || last")
        op.zd_drop_column("t", "first", down="split_part(name, ' ', 1)")
        op.zd_drop_column("t", "last", down="split_part(name, ' ', 2)")
        """,
        """
        op.add_column("t", sa.Column("first", sa.Text))
        op.add_column("t", sa.Column("last", sa.Text))
        op.drop_column("t", "name")
        """,
    ),
    (
        "r5",
        """
        op.zd_rename_table("t", "people")
        op.zd_alter_column("people", "code", nullable=True, down="coalesce(code, '#0')")
        """,
        """
        op.zd_alter_column("people", "code", nullable=False, up="coalesce(code, '#0')")
        op.zd_rename_table("people", "t")
        """,
        'op.rename_table("t", "people")\nop.alter_column("people", "code", nullable=True)',
    ),
]
CHAIN_READS = {
    "r1": "SELECT id, n, name FROM t",
    "r2": "SELECT id, n, name FROM t",
    "r3": "SELECT id, code, name FROM t",
    "r4": "SELECT id, code, first, last FROM t",
    "r5": "SELECT id, code, first, last FROM people",
}


def _as_revision(revision, row):
    """Return a row (id, number, first, last) as clients of *revision* see it."""
    key, number, first, last = row
    code = {"r1": number, "r2": str(number)}.get(revision, f"#{number}")
    return (key, code, first, last) if revision in ("r4", "r5") else (key, code, f"{first} {last}")


class _Chain:
    """r1 to r5, each published, each with a client that was there all the time."""

    def __init__(self, database, tmp_path, stack):
        self.flight = Flight(Case("chain", CHAIN_SETUP, CHAIN[0][1], CHAIN[0][3], CHAIN[0][2]), database, tmp_path)
        self.rows = [(1, 10, "Ada", "Lovelace")]
        self.clients = {"r1": stack.enter_context(Session(database, "r1"))}
        down = "r1"
        for revision, upgrade, downgrade, _ in CHAIN:
            self.flight.project.revision(revision, down, upgrade, downgrade)
            self.flight.run("upgrade", revision)
            self.clients[revision] = stack.enter_context(Session(database, revision))
            self.check()
            down = revision

    def check(self):
        for revision, client in self.clients.items():
            expected = [_as_revision(revision, row) for row in self.rows]
            check_rows(client, {CHAIN_READS[revision]: expected}, f"version {revision}")

    def write(self):
        """Every live version inserts a row, and updates another version's; everybody sees it."""
        for revision in self.clients:
            row = (len(self.rows) + 1, 10 * (len(self.rows) + 1), f"First{revision}", "Last")
            self._insert(revision, row)
            self.rows.append(row)
            self.check()
        for position, revision in enumerate(self.clients):
            key, number, first, _ = self.rows[-1 - position]
            self._update(revision, key, number + 1)
            self.rows[-1 - position] = (key, number + 1, first, self.rows[-1 - position][3])
            self.check()

    def _insert(self, revision, row):
        query = CHAIN_READS[revision]
        columns, table = query.removeprefix("SELECT ").split(" FROM ")
        values = ", ".join(f"'{value}'" for value in _as_revision(revision, row))
        self.clients[revision].connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})".encode())

    def _update(self, revision, key, number):
        columns, table = CHAIN_READS[revision].removeprefix("SELECT ").split(" FROM ")
        column, value = columns.split(", ")[1], _as_revision(revision, (0, number, "", ""))[1]
        self.clients[revision].connection.execute(f"UPDATE {table} SET {column} = '{value}' WHERE id = {key}".encode())

    def retire(self, *revisions, successor):
        for revision in revisions:
            assert_tombstone(self.clients.pop(revision), {CHAIN_READS[revision]: []}, successor)

    def plain(self, tmp_path, upto):
        body = "\n".join(
            "\n".join(line.strip() for line in plain.strip().splitlines()) for *_, plain in CHAIN[: upto - 1]
        )
        case = Case("chain", CHAIN_SETUP, "pass", body)
        dump = plain_dump(case, self.flight.database, tmp_path)
        assert_same(self.flight.dump(), dump, f"all of r1 to r{upto} completed")


def test_four_revisions_in_flight__complete_up_to_one__rest_goes_on(database, tmp_path):
    """Five live versions; r3 is completed, r5 rolled back, r4 goes on and is completed."""
    with ExitStack() as stack:
        chain = _Chain(database, tmp_path / "project", stack)
        chain.write()
        chain.flight.run("zd-complete", "r3")
        chain.retire("r1", "r2", successor="r3")
        chain.check()
        chain.write()
        chain.flight.run("downgrade", "r4")
        chain.retire("r5", successor="r4")
        chain.check()
        chain.write()
        chain.flight.run("zd-complete")
        chain.retire("r3", successor="r4")
        chain.check()
        assert database.fetch("SELECT version_num FROM alembic_version") == [("r4",)]
        chain.plain(tmp_path, 4)
        assert_nothing_left(database)


def test_four_revisions_in_flight__rolled_back_one_by_one__original(database, tmp_path):
    with ExitStack() as stack:
        chain = _Chain(database, tmp_path / "project", stack)
        for gone, back in (("r5", "r4"), ("r4", "r3"), ("r3", "r2"), ("r2", "r1")):
            chain.write()
            chain.flight.run("downgrade", back)
            chain.retire(gone, successor=back)
            chain.check()
        assert_same(chain.flight.dump(), chain.flight.original, "everything rolled back")
        assert_nothing_left(database)


def test_four_revisions_in_flight__all_completed_at_once__plain(database, tmp_path):
    with ExitStack() as stack:
        chain = _Chain(database, tmp_path / "project", stack)
        chain.write()
        chain.flight.run("zd-complete")
        chain.retire("r1", "r2", "r3", "r4", successor="r5")
        chain.check()
        chain.write()
        chain.plain(tmp_path, 5)
        assert_nothing_left(database)


def test_upgrade__several_pending_revisions__only_the_last_is_published(database, tmp_path):
    flight = Flight(Case("chain", CHAIN_SETUP, CHAIN[0][1], "pass", CHAIN[0][2]), database, tmp_path / "project")
    down = "r1"
    for revision, upgrade, downgrade, _ in CHAIN:
        flight.project.revision(revision, down, upgrade, downgrade)
        down = revision
    flight.run("upgrade", "head")
    schemas = {name for (name,) in database.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_'")}
    assert schemas == {version_schema("r1"), version_schema("r5")}
    with Session(database, "r1") as first, Session(database, "r5") as last:
        first.connection.execute("INSERT INTO t (n, name) VALUES (20, 'Bob Ray')")
        last.connection.execute("INSERT INTO people (code, first, last) VALUES ('#30', 'Cy', 'Fox')")
        check_rows(first, {CHAIN_READS["r1"]: [(1, 10, "Ada Lovelace"), (2, 20, "Bob Ray"), (3, 30, "Cy Fox")]}, "r1")
        check_rows(
            last,
            {CHAIN_READS["r5"]: [(1, "#10", "Ada", "Lovelace"), (2, "#20", "Bob", "Ray"), (3, "#30", "Cy", "Fox")]},
            "r5",
        )
    flight.run("zd-complete")
    case = Case(
        "chain",
        CHAIN_SETUP,
        "pass",
        "\n".join(line.strip() for *_, plain in CHAIN for line in plain.strip().splitlines()),
    )
    assert_same(flight.dump(), plain_dump(case, database, tmp_path), "four revisions in one upgrade")
    assert_nothing_left(database)
