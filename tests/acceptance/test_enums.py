"""Enums: every change through every outcome, old and new clients side by side, each with its labels."""

from __future__ import annotations

import enum
import threading
import time
from contextlib import ExitStack

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic_zero import pin_engine
from alembic_zero.execute.executor import Executor
from tests.support.harness import (
    _DEFAULT_RIGHTS,
    _ROLE,
    APP,
    OUTCOMES,
    Case,
    Flight,
    assert_nothing_left,
    assert_same,
    new,
    normalise_settings,
    old,
    outcome_id,
    outcomes_of,
)
from tests.support.project import AlembicProject


def plain(labels: str, *conversions: str) -> str:
    """Return what one does by hand: another type, every column converted, the former one dropped."""
    lines = [
        'op.execute("ALTER TYPE mood RENAME TO former")',
        f'op.execute("CREATE TYPE mood AS ENUM ({labels})")',
        *(f"op.execute({conversion!r})" for conversion in conversions),
        'op.execute("DROP TYPE former")',
    ]
    return "\n".join(lines)


CASES = [
    Case(
        "add",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood NOT NULL DEFAULT 'ok');
            INSERT INTO t VALUES (1, 'sad'), (2, 'ok');
        """,
        upgrade='op.zd_alter_enum("mood", ["sad", "ok", "happy"], down={"happy": "ok"})',
        plain="""op.execute("ALTER TYPE mood ADD VALUE 'happy'")""",
        downgrade='op.zd_alter_enum("mood", ["sad", "ok"], up={"happy": "ok"})',
        path="public",
        writes=[
            old("INSERT INTO t VALUES (3, 'sad'::mood)"),
            new("INSERT INTO t VALUES (4, 'happy'::mood)"),
            new("INSERT INTO t (id) VALUES (5) RETURNING mood::text", [("ok",)]),
            new("UPDATE t SET mood = 'happy' WHERE mood = 'ok'::mood AND id = 2"),
            new("SELECT id FROM t WHERE mood > 'ok'::mood ORDER BY id", [(2,), (4,)]),
            old("SELECT id FROM t WHERE mood = ANY (ARRAY['ok']::mood[]) ORDER BY id", [(2,), (4,), (5,)]),
            old("UPDATE t SET mood = 'sad'::mood WHERE id = 5"),
            old("UPDATE t SET id = id WHERE id = 4"),
            old("SELECT 'happy'::mood", error="22P02"),
        ],
        old={"SELECT id, mood::text FROM t": [(1, "sad"), (2, "ok"), (3, "sad"), (4, "ok"), (5, "sad")]},
        new={"SELECT id, mood::text FROM t": [(1, "sad"), (2, "happy"), (3, "sad"), (4, "happy"), (5, "sad")]},
    ),
    Case(
        "rename",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood DEFAULT 'sad');
            INSERT INTO t VALUES (1, 'sad'), (2, 'ok'), (3, NULL);
        """,
        upgrade="""op.zd_alter_enum("mood", ("it's bad", "ok"), up={"sad": "it's bad"})""",
        plain="""op.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'it''s bad'")""",
        downgrade="""op.zd_alter_enum("mood", ["sad", "ok"], up={"it's bad": "sad"})""",
        path="public",
        writes=[
            old("INSERT INTO t (id) VALUES (4) RETURNING mood::text", [("sad",)]),
            new("INSERT INTO t (id) VALUES (5) RETURNING mood::text", [("it's bad",)]),
            new("UPDATE t SET mood = 'it''s bad'::mood WHERE mood = 'ok'::mood"),
            old("UPDATE t SET mood = 'ok' WHERE id = 1"),
            new("INSERT INTO t VALUES (6, 'sad')", error="22P02"),
        ],
        old={"SELECT id, mood::text FROM t": [(1, "ok"), (2, "sad"), (3, None), (4, "sad"), (5, "sad")]},
        new={"SELECT id, mood::text FROM t": [(1, "ok"), (2, "it's bad"), (3, None), (4, "it's bad"), (5, "it's bad")]},
    ),
    Case(
        "remove_with_mapping",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'meh', 'ok', 'unknown');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood DEFAULT 'meh', other mood DEFAULT 'unknown');
            INSERT INTO t VALUES (1, 'sad', 'unknown'), (2, 'meh', NULL), (3, 'ok', 'meh');
        """,
        upgrade="""op.zd_alter_enum("mood", ["sad", "ok"], up={"meh": "ok", "unknown": None})""",
        plain=plain(
            "'sad', 'ok'",
            "ALTER TABLE t ALTER mood DROP DEFAULT, ALTER other DROP DEFAULT",
            "ALTER TABLE t ALTER mood TYPE mood USING CASE mood WHEN 'meh' THEN 'ok' ELSE mood END::text::mood",
            "ALTER TABLE t ALTER other TYPE mood USING "
            "CASE other WHEN 'meh' THEN 'ok' WHEN 'unknown' THEN NULL ELSE other END::text::mood",
            "ALTER TABLE t ALTER mood SET DEFAULT 'ok', ALTER other SET DEFAULT NULL",
        ),
        path="public",
        outcomes=("complete", "rollback", "direct"),
        writes=[
            old("INSERT INTO t VALUES (4, 'meh', 'unknown')"),
            old("UPDATE t SET mood = 'unknown' WHERE id = 3"),
            new("INSERT INTO t (id) VALUES (5) RETURNING mood::text, other", [("ok", None)]),
            new("UPDATE t SET id = 20 WHERE id = 2"),
            new("UPDATE t SET other = 'sad' WHERE id = 1"),
            new("SELECT 'meh'::mood", error="22P02"),
        ],
        old={
            "SELECT id, mood::text, other::text FROM t": [
                (1, "sad", "sad"),
                (20, "meh", None),
                (3, "unknown", "meh"),
                (4, "meh", "unknown"),
                (5, "ok", None),
            ]
        },
        new={
            "SELECT id, mood::text, other::text FROM t": [
                (1, "sad", "sad"),
                (20, "ok", None),
                (3, None, "ok"),
                (4, "ok", None),
                (5, "ok", None),
            ]
        },
    ),
    Case(
        "reorder",
        setup="""
            CREATE TYPE mood AS ENUM ('ok', 'sad', 'happy');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood);
            CREATE INDEX t_mood ON t (mood DESC NULLS LAST);
            INSERT INTO t VALUES (1, 'ok'), (2, 'sad'), (3, 'happy');
        """,
        upgrade='op.zd_alter_enum("mood", ["sad", "ok", "happy"])',
        plain=plain("'sad', 'ok', 'happy'", "ALTER TABLE t ALTER mood TYPE mood USING mood::text::mood"),
        downgrade='op.zd_alter_enum("mood", ["ok", "sad", "happy"])',
        path="public",
        writes=[
            old("SELECT id FROM t ORDER BY mood", [(1,), (2,), (3,)]),
            new("SELECT id FROM t ORDER BY mood", [(2,), (1,), (3,)]),
            old("INSERT INTO t VALUES (4, 'happy')"),
            new("INSERT INTO t VALUES (5, 'sad')"),
        ],
        old={"SELECT array_agg(id ORDER BY mood, id) FROM t": [([1, 2, 5, 3, 4],)]},
        new={"SELECT array_agg(id ORDER BY mood, id) FROM t": [([2, 5, 1, 3, 4],)]},
    ),
    Case(
        "labels_exchanged",
        setup="""
            CREATE TYPE mood AS ENUM ('on', 'off');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood NOT NULL DEFAULT 'on', moods mood[] DEFAULT '{on,off}');
            INSERT INTO t VALUES (1, 'on', '{on,off}'), (2, 'off', '{}');
        """,
        upgrade='op.zd_alter_enum("mood", ["on", "off"], up={"on": "off", "off": "on"})',
        plain="""
            op.execute("ALTER TABLE t ALTER mood SET DEFAULT 'off', ALTER moods SET DEFAULT '{off,on}'")
        """,
        downgrade='op.zd_alter_enum("mood", ["on", "off"], up={"on": "off", "off": "on"})',
        path="public",
        writes=[old("INSERT INTO t (id) VALUES (3)"), new("INSERT INTO t (id) VALUES (4)")],
        old={
            "SELECT id, mood::text, moods::text FROM t": [
                (1, "on", "{on,off}"),
                (2, "off", "{}"),
                (3, "on", "{on,off}"),
                (4, "on", "{on,off}"),
            ]
        },
        new={
            "SELECT id, mood::text, moods::text FROM t": [
                (1, "off", "{off,on}"),
                (2, "on", "{}"),
                (3, "off", "{off,on}"),
                (4, "off", "{off,on}"),
            ]
        },
    ),
    Case(
        "array_labels_renamed",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'two words', 'ok');
            CREATE TABLE t (id integer PRIMARY KEY, moods mood[] NOT NULL DEFAULT '{sad,"two words"}');
            CREATE INDEX t_moods ON t USING gin (moods);
            INSERT INTO t VALUES (1, '{sad,ok,NULL}'), (2, '{}'), (3, '{{sad,ok},{ok,sad}}'), (4, '[0:1]={ok,sad}');
        """,
        upgrade="""op.zd_alter_enum("mood", ["bad", 'quo"ted', "ok"], up={"sad": "bad", "two words": 'quo"ted'})""",
        plain="""
            op.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'")
            op.execute("ALTER TYPE mood RENAME VALUE 'two words' TO 'quo\\"ted'")
        """,
        downgrade="""op.zd_alter_enum("mood", ["sad", "two words", "ok"], up={"bad": "sad", 'quo"ted': "two words"})""",
        path="public",
        writes=[
            old("INSERT INTO t VALUES (5, ARRAY['ok', 'sad']::mood[])"),
            new("INSERT INTO t VALUES (6, ARRAY['bad']::mood[])"),
            new("INSERT INTO t (id) VALUES (7)"),
            new("UPDATE t SET moods = moods || 'bad'::mood WHERE id = 2"),
            new(
                "SELECT id FROM t WHERE moods @> ARRAY['bad']::mood[] ORDER BY id",
                [(1,), (2,), (3,), (4,), (5,), (6,), (7,)],
            ),
        ],
        old={
            "SELECT id, moods::text FROM t": [
                (1, "{sad,ok,NULL}"),
                (2, "{sad}"),
                (3, "{{sad,ok},{ok,sad}}"),
                (4, "[0:1]={ok,sad}"),
                (5, "{ok,sad}"),
                (6, "{sad}"),
                (7, '{sad,"two words"}'),
            ]
        },
        new={
            "SELECT id, moods::text FROM t": [
                (1, "{bad,ok,NULL}"),
                (2, "{bad}"),
                (3, "{{bad,ok},{ok,bad}}"),
                (4, "[0:1]={ok,bad}"),
                (5, "{ok,bad}"),
                (6, "{bad}"),
                (7, '{bad,"quo\\"ted"}'),
            ]
        },
    ),
    Case(
        "everything_on_the_column",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
            COMMENT ON TYPE mood IS 'how it is';
            REVOKE ALL ON TYPE mood FROM PUBLIC;
            GRANT USAGE ON TYPE mood TO zd_app;
            CREATE TABLE t (
                id integer PRIMARY KEY,
                name text DEFAULT 'sad',
                mood mood NOT NULL DEFAULT 'ok',
                other mood,
                CONSTRAINT t_mood_check CHECK (mood <> 'sad' OR name = 'sad'),
                CONSTRAINT t_in CHECK (mood IN ('sad', 'ok', 'happy') AND mood IS DISTINCT FROM other),
                CONSTRAINT t_unique UNIQUE (mood, id)
            );
            COMMENT ON COLUMN t.mood IS 'the mood';
            COMMENT ON CONSTRAINT t_in ON t IS 'as always';
            CREATE INDEX t_mood ON t (mood, name) WHERE mood <> 'happy' AND name <> 'public.mood';
            CREATE UNIQUE INDEX t_expr ON t ((mood = 'sad'), id);
            CREATE STATISTICS t_stat ON mood, name FROM t;
            INSERT INTO t (id, name, mood) VALUES (1, 'a', 'ok'), (2, 'sad', 'sad');
        """,
        upgrade="""
            op.zd_alter_enum("mood", ["blue", "ok", "happy", "wild"], up={"sad": "blue"}, down={"wild": "happy"})
        """,
        plain="""
            op.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
            op.execute("ALTER TYPE mood ADD VALUE 'wild'")
        """,
        downgrade="""
            op.zd_alter_enum("mood", ["sad", "ok", "happy"], up={"blue": "sad", "wild": "happy"})
        """,
        path="public",
        writes=[
            old("INSERT INTO t (id) VALUES (3)"),
            old("INSERT INTO t VALUES (4, 'x', 'sad')", error="23514"),
            new("INSERT INTO t VALUES (4, 'x', 'blue')", error="23514"),
            new("INSERT INTO t VALUES (5, 'sad', 'blue', 'ok')"),
            new("UPDATE t SET other = 'blue' WHERE id = 2", error="23514"),
            new("INSERT INTO t VALUES (5, 'x') ON CONFLICT (mood, id) DO NOTHING", error="23505"),
        ],
        old={
            "SELECT id, name, mood::text, other::text FROM t": [
                (1, "a", "ok", None),
                (2, "sad", "sad", None),
                (3, "sad", "ok", None),
                (5, "sad", "sad", "ok"),
            ]
        },
        new={
            "SELECT id, name, mood::text, other::text FROM t": [
                (1, "a", "ok", None),
                (2, "sad", "blue", None),
                (3, "sad", "ok", None),
                (5, "sad", "blue", "ok"),
            ]
        },
    ),
    Case(
        "two_tables_in_two_schemas",
        setup="""
            CREATE SCHEMA app;
            GRANT USAGE ON SCHEMA app TO zd_app;
            CREATE TYPE app."Mood state" AS ENUM ('sad', 'ok');
            CREATE TABLE t (id integer PRIMARY KEY, mood app."Mood state");
            CREATE TABLE app.t (id integer PRIMARY KEY, mood app."Mood state"[]);
            CREATE TABLE app.untouched (id integer PRIMARY KEY);
            INSERT INTO t VALUES (1, 'sad');
            INSERT INTO app.t VALUES (1, '{sad}');
        """,
        upgrade="""op.zd_alter_enum("Mood state", ["bad", "ok"], up={"sad": "bad"}, schema="app")""",
        plain="""op.execute("ALTER TYPE app.\\"Mood state\\" RENAME VALUE 'sad' TO 'bad'")""",
        downgrade="""op.zd_alter_enum("Mood state", ["sad", "ok"], up={"bad": "sad"}, schema="app")""",
        schema="app",
        path="app",
        metadata="""
            target_metadata = sa.MetaData()
            sa.Table("t", target_metadata)
            sa.Table("t", target_metadata, schema="app")
        """,
        writes=[
            old("""INSERT INTO t VALUES (2, '{ok,sad}'::"Mood state"[])"""),
            new("""INSERT INTO t VALUES (3, '{ok,bad}'::"Mood state"[])"""),
            old("""INSERT INTO zd_r1.t VALUES (2, 'sad'::"Mood state")"""),
            new("""INSERT INTO zd_r2.t VALUES (3, 'bad'::"Mood state")"""),
        ],
        old={"SELECT id, mood::text FROM t": [(1, "{sad}"), (2, "{ok,sad}"), (3, "{ok,sad}")]},
        new={
            "SELECT id, mood::text FROM t": [(1, "{bad}"), (2, "{ok,bad}"), (3, "{ok,bad}")],
            "SELECT id, mood::text FROM zd_r2.t": [(1, "bad"), (2, "bad"), (3, "bad")],
        },
    ),
    Case(
        "with_other_operations",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood NOT NULL, former mood, note text);
            CREATE TABLE gone (mood mood);
            CREATE TABLE fresh (id integer PRIMARY KEY, mood mood);
            INSERT INTO t VALUES (1, 'sad', 'ok', 'a');
            INSERT INTO fresh VALUES (1, 'ok');
        """,
        upgrade="""
            mood = postgresql.ENUM(name="mood", create_type=False)
            op.zd_add_column("t", sa.Column("second", mood, server_default="sad"), up="mood")
            op.zd_alter_enum("mood", ["bad", "ok"], up={"sad": "bad"})
            op.zd_alter_enum("mood", ["bad", "ok", "top"], down={"top": "ok"})
            op.zd_drop_column("t", "former")
            op.zd_drop_table("gone")
            op.zd_rename_table("fresh", "renamed")
            op.zd_alter_column("t", "mood", new_column_name="first")
            op.create_table("made", sa.Column("id", sa.Integer, primary_key=True), sa.Column("mood", mood))
            op.execute("INSERT INTO made VALUES (1, 'sad')")
        """,
        plain="""
            mood = postgresql.ENUM(name="mood", create_type=False)
            op.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'")
            op.execute("ALTER TYPE mood ADD VALUE 'top'")
            op.add_column("t", sa.Column("second", mood, server_default="bad"))
            op.drop_column("t", "former")
            op.alter_column("t", "mood", new_column_name="first")
            op.drop_table("gone")
            op.rename_table("fresh", "renamed")
            op.create_table("made", sa.Column("id", sa.Integer, primary_key=True), sa.Column("mood", mood))
        """,
        path="public",
        outcomes=("complete", "rollback"),
        writes=[
            old("INSERT INTO t VALUES (2, 'sad'::mood, 'sad')"),
            new("INSERT INTO t (id, first) VALUES (3, 'top'::mood) RETURNING second::text", [("bad",)]),
            new("INSERT INTO made VALUES (2, 'top')"),
            new("INSERT INTO renamed VALUES (2, 'top')"),
            old("INSERT INTO gone VALUES ('sad')"),
        ],
        old={
            "SELECT id, mood::text, former::text FROM t": [(1, "sad", "ok"), (2, "sad", "sad"), (3, "ok", None)],
            "SELECT id, mood::text FROM fresh": [(1, "ok"), (2, "ok")],
        },
        new={
            "SELECT id, first::text, second::text FROM t": [(1, "bad", "bad"), (2, "bad", "bad"), (3, "top", "bad")],
            "SELECT id, mood::text FROM made": [(1, "bad"), (2, "top")],
            "SELECT id, mood::text FROM renamed": [(1, "ok"), (2, "top")],
        },
    ),
    Case(
        "s10_create_and_use",
        setup="CREATE TABLE t (id integer PRIMARY KEY, active boolean NOT NULL); INSERT INTO t VALUES (1, true)",
        upgrade="""
            op.zd_create_enum("state", "on", "off")
            state = sa.Enum("on", "off", name="state")
            op.zd_add_column("t", sa.Column("state", state, nullable=False, server_default="off"),
                up="CASE WHEN active THEN 'on'::state ELSE 'off' END")
            op.zd_drop_column("t", "active", down="state = 'on'")
            op.zd_create_enum("unused", ["a"])
            op.zd_create_table("made", sa.Column("state", state), sa.Column("other", sa.Enum("x", name="other")))
        """,
        plain="""
            state = sa.Enum("on", "off", name="state")
            op.create_table("made", sa.Column("state", state), sa.Column("other", sa.Enum("x", name="other")))
            op.add_column("t", sa.Column("state", state, nullable=False, server_default="off"))
            op.drop_column("t", "active")
            op.execute("CREATE TYPE unused AS ENUM ('a')")
        """,
        path="public",
        outcomes=("complete", "rollback", "direct"),
        writes=[
            old("INSERT INTO t VALUES (2, false)"),
            new("INSERT INTO t VALUES (3, 'on'::state)"),
            new("INSERT INTO made VALUES ('off', 'x')"),
        ],
        old={"SELECT id, active FROM t": [(1, True), (2, False), (3, True)]},
        new={"SELECT id, state::text FROM t": [(1, "on"), (2, "off"), (3, "on")]},
    ),
    Case(
        "s10_drop_after_enum_to_text",
        setup="""
            CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE TABLE t (id integer PRIMARY KEY, mood mood NOT NULL DEFAULT 'ok', moods mood[]);
            INSERT INTO t VALUES (1, 'sad', '{ok}');
        """,
        upgrade="""
            op.zd_alter_column("t", "mood", type_=sa.Text, server_default="ok", up="mood::text", down="mood::mood")
            op.zd_alter_column("t", "moods", type_=sa.ARRAY(sa.Text), up="moods::text[]", down="moods::mood[]")
            op.zd_drop_enum("mood", existing_values=["sad", "ok"])
        """,
        plain="""
            op.alter_column("t", "mood", server_default=None)
            op.alter_column("t", "mood", type_=sa.Text, server_default="ok")
            op.alter_column("t", "moods", type_=sa.ARRAY(sa.Text))
            op.execute("DROP TYPE mood")
        """,
        downgrade="""
            op.zd_create_enum("mood", ["sad", "ok"])
            mood = postgresql.ENUM(name="mood", create_type=False)
            op.zd_alter_column("t", "mood", type_=mood, server_default="ok", up="mood::mood", down="mood::text")
            op.zd_alter_column("t", "moods", type_=sa.ARRAY(mood), up="moods::mood[]", down="moods::text[]")
        """,
        path="public",
        writes=[
            old("INSERT INTO t VALUES (2, 'sad'::mood, '{}')"),
            new("INSERT INTO t VALUES (3, 'ok', '{sad}')"),
            new("INSERT INTO t (id) VALUES (4)"),
        ],
        old={
            "SELECT id, mood::text, moods::text FROM t": [
                (1, "sad", "{ok}"),
                (2, "sad", "{}"),
                (3, "ok", "{sad}"),
                (4, "ok", None),
            ]
        },
        new={
            "SELECT id, mood, moods FROM t": [(1, "sad", ["ok"]), (2, "sad", []), (3, "ok", ["sad"]), (4, "ok", None)]
        },
    ),
    Case(
        "text_to_enum",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, mood text NOT NULL DEFAULT 'ok');
            CREATE INDEX t_mood ON t (mood) WHERE id > 0;
            INSERT INTO t VALUES (1, 'sad');
        """,
        upgrade="""
            op.zd_create_enum("mood", "sad", "ok")
            op.zd_alter_column("t", "mood", type_=postgresql.ENUM(name="mood", create_type=False),
                server_default="ok", up="mood::mood", down="mood::text")
        """,
        plain="""
            op.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
            op.alter_column("t", "mood", server_default=None)
            op.alter_column("t", "mood", type_=postgresql.ENUM(name="mood", create_type=False),
                server_default="ok", postgresql_using="mood::mood")
        """,
        downgrade="""
            op.zd_alter_column("t", "mood", type_=sa.Text, server_default="ok", up="mood::text", down="mood::mood")
            op.zd_drop_enum("mood")
        """,
        path="public",
        writes=[old("INSERT INTO t VALUES (2, 'ok')"), new("INSERT INTO t VALUES (3, 'sad'::mood)")],
        old={"SELECT id, mood FROM t": [(1, "sad"), (2, "ok"), (3, "sad")]},
        new={"SELECT id, mood::text FROM t": [(1, "sad"), (2, "ok"), (3, "sad")]},
    ),
]


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*CASES), ids=outcome_id)
def test_enums(case, outcome, database, tmp_path):
    OUTCOMES[outcome](case, database, tmp_path)


# -- several versions -------------------------------------------------------------------------------

SETUP = """
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE t (id integer PRIMARY KEY, mood mood NOT NULL DEFAULT 'ok', moods mood[]);
    CREATE INDEX t_mood ON t (mood) WHERE mood <> 'sad';
    INSERT INTO t VALUES (1, 'sad', '{ok}'), (2, 'ok', NULL);
"""
RENAME = 'op.zd_alter_enum("mood", ["bad", "ok"], up={"sad": "bad"})'
RENAMED = """op.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'")"""


def chain(database, directory, third):
    """Return a project at r1 with two more revisions: the rename, and *third*."""
    flight = Flight(Case("chain", setup=SETUP, upgrade=RENAME, plain="", path="public"), database, directory)
    flight.project.revision("r3", "r2", third)
    return flight


def expected(database, tmp_path, *plain):
    other = database.other()
    other.execute(_ROLE + _DEFAULT_RIGHTS + SETUP)
    project = AlembicProject(tmp_path / "plain", other.url, env="plain")
    project.revision("r1", None, "\n".join(plain))
    project.run_in_process("upgrade", "head")
    return normalise_settings(other.normalised_dump(("public",)))


def check_version(client, label, number):
    """Write and read a label by prepared statements that name the type."""
    client.connection.prepare_threshold = 0
    insert = f"INSERT INTO t VALUES ({number}, '{label}'::mood, ARRAY['{label}']::mood[])"
    client.connection.execute(insert.encode())
    query = f"SELECT '{label}'::mood = ANY (moods) FROM t WHERE mood = '{label}'::mood AND id = {number}"
    assert client.fetch(query) == [(True,)]


THIRD = {
    "untouched": ('op.zd_add_column("t", sa.Column("note", sa.Text))', "bad"),
    "empty": ("pass", "bad"),
    "renamed_again": ('op.zd_alter_enum("mood", ["ok", "worse"], up={"bad": "worse"})', "worse"),
}


@pytest.mark.parametrize("order", [("r3",), ("r2", "r3")], ids=["at_once", "one_by_one"])
@pytest.mark.parametrize("third", THIRD)
def test_enum__three_versions_live__each_finds_its_labels_by_the_same_name(database, tmp_path, third, order):
    upgrade, worst = THIRD[third]
    flight = chain(database, tmp_path / "project", upgrade)
    flight.run("upgrade", "r2")
    flight.run("upgrade", "r3")
    labels = {"r1": "sad", "r2": "bad", "r3": worst}
    with ExitStack() as stack:
        clients = {revision: stack.enter_context(flight.client(revision)) for revision in labels}
        live = list(labels)
        for completed in ("", *order):
            if completed:
                flight.run("zd-complete", completed)
                live = live[live.index(completed) :]
            for number, revision in enumerate(live, 10):
                check_version(clients[revision], labels[revision], number)
                with flight.client(revision) as fresh:
                    assert fresh.fetch(f"SELECT '{labels[revision]}'::mood::text") == [(labels[revision],)]
            for revision in live:
                query = f"SELECT count(*) FROM t WHERE mood = '{labels[revision]}'::mood AND id >= 10"
                assert clients[revision].fetch(query) == [(len(live),)], revision
            database.execute("DELETE FROM t WHERE id >= 10")
    plain = [RENAMED]
    if third == "untouched":
        plain.append('op.add_column("t", sa.Column("note", sa.Text))')
    if third == "renamed_again":
        plain += [
            'op.execute("DROP INDEX t_mood")',
            'op.execute("ALTER TABLE t ALTER mood DROP DEFAULT")',
            'op.execute("ALTER TYPE mood RENAME TO former")',
            "op.execute(\"CREATE TYPE mood AS ENUM ('ok', 'worse')\")",
            'op.execute("ALTER TABLE t ALTER mood TYPE mood USING NULL, ALTER moods TYPE mood[] USING NULL")',
            "op.execute(\"ALTER TABLE t ALTER mood SET DEFAULT 'ok'\")",
            "op.execute(\"CREATE INDEX t_mood ON t (mood) WHERE mood <> 'worse'\")",
            'op.execute("DROP TYPE former")',
        ]
        plain = ['op.execute("TRUNCATE t")', *plain]
    flight.run("zd-prune")
    assert_same(flight.dump(), expected(database, tmp_path, *plain), "zd-complete against plain Alembic")
    assert_nothing_left(database)


def test_enum__three_versions_rolled_back__newest_first(database, tmp_path):
    flight = chain(database, tmp_path / "project", "pass")
    flight.run("upgrade", "r2")
    flight.run("upgrade", "r3")
    with flight.client("r2") as client:
        flight.run("downgrade", "r2")
        client.connection.execute(b"INSERT INTO t VALUES (3, 'bad'::mood)")
        flight.run("upgrade", "r3")
        client.connection.execute(b"INSERT INTO t VALUES (4, 'bad'::mood)")
        flight.run("downgrade", "r1")
    assert database.fetch("SELECT id FROM t WHERE mood = 'sad' ORDER BY id") == [(1,), (3,), (4,)]
    assert_same(flight.dump(), flight.original, "rollback of both")
    flight.run("zd-prune")
    assert_nothing_left(database)
    assert database.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_'") == [("zd_r1",)]


@pytest.mark.parametrize(
    "third",
    [
        'op.zd_add_column("t", sa.Column("second", postgresql.ENUM(name="mood", create_type=False)))',
        'op.create_table("made", sa.Column("mood", postgresql.ENUM(name="mood", create_type=False)))',
    ],
)
def test_enum__new_column_of_it_while_it_is_in_flight__refused(database, tmp_path, third):
    flight = chain(database, tmp_path / "project", third)
    flight.run("upgrade", "r2")
    before = flight.everything()
    refused = flight.project.run_in_process("upgrade", "r3", check=False)
    assert refused.returncode == 2
    assert "ZD233" in refused.stdout
    assert "mood" in refused.stdout
    assert "alembic zd-complete" in refused.stdout
    assert flight.everything() == before
    flight.run("zd-complete")
    flight.run("upgrade", "r3")
    flight.run("zd-complete")
    assert_nothing_left(database)


# -- what is refused --------------------------------------------------------------------------------

DISTURBED = """
    CREATE TYPE mood AS ENUM ('sad', 'meh', 'ok');
    CREATE TYPE free AS ENUM ('a');
    CREATE TABLE t (id integer PRIMARY KEY, mood mood NOT NULL DEFAULT 'ok', moods mood[], note text);
    INSERT INTO t SELECT n, 'meh', '{meh}' FROM generate_series(1, 12) AS n;
    CREATE TABLE keyless (mood mood);
    INSERT INTO keyless VALUES ('meh');
"""
REMOVE = 'op.zd_alter_enum("mood", ["sad", "ok"], up={"meh": "ok"})'

REFUSED = {
    "label_without_mapping": (
        "",
        'op.zd_alter_enum("mood", ["sad", "ok"])',
        "ZD231",
        ["'meh' would go", "public.t.mood in rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10;", "public.t.moods", "keyless.mood"],
    ),
    "unused_label_without_mapping": (
        "",
        'op.zd_alter_enum("mood", ["meh", "ok"])',
        "ZD231",
        ["'sad' would go", "no row has label 'sad' now, but clients of the revision before may write it"],
    ),
    "new_label_without_mapping": (
        "",
        'op.zd_alter_enum("mood", ["sad", "meh", "ok", "new"])',
        "ZD231",
        ["do not know 'new'", "down="],
    ),
    "unknown_former_label": ("", 'op.zd_alter_enum("mood", ["sad"], up={"x": "sad"})', "ZD231", ["'x'"]),
    "null_for_a_not_null_column": (
        "",
        'op.zd_alter_enum("mood", ["sad", "ok"], up={"meh": None})',
        "ZD231",
        ["'mood' is NOT NULL", "up= makes NULL of label 'meh'"],
    ),
    "label_twice": ("", 'op.zd_alter_enum("mood", ["sad", "sad"])', "ZD101", ["'sad' is there twice"]),
    "no_such_enum": ("", 'op.zd_alter_enum("moods", ["a"])', "ZD202", ["public.moods", "public.free, public.mood"]),
    "drop_of_no_such_enum": ("", 'op.zd_drop_enum("t")', "ZD202", ["there is no enum public.t"]),
    "exists_already": ("", 'op.zd_create_enum("mood", "a")', "ZD203", ["public.mood exists already"]),
    "takes_the_name_of_a_table": ("", 'op.zd_create_enum("t", "a")', "ZD203", ["public.t exists already"]),
    "check_with_the_label": (
        "ALTER TABLE t ADD CONSTRAINT never CHECK (mood <> 'meh' OR id > 0)",
        REMOVE,
        "ZD232",
        ["CHECK 'never'", "'meh'"],
    ),
    "predicate_with_the_label": (
        "CREATE INDEX i ON t (id) WHERE mood = 'meh'",
        REMOVE,
        "ZD232",
        ["index 'i'", "'meh'"],
    ),
    "view": ("CREATE VIEW v AS SELECT mood FROM t", REMOVE, "ZD207", ["view public.v depends on column 'mood'"]),
    "view_without_the_table": ("CREATE VIEW v AS SELECT 'ok'::mood AS m", REMOVE, "ZD207", ["view v"]),
    "function": (
        "CREATE FUNCTION f(mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        REMOVE,
        "ZD207",
        ["function f(mood)"],
    ),
    "domain": ("CREATE DOMAIN d AS mood", REMOVE, "ZD207", ["type d"]),
    "composite": ("CREATE TYPE c AS (m mood)", REMOVE, "ZD207", ["composite type c"]),
    "default_of_another_column": (
        "ALTER TABLE keyless ADD note text DEFAULT 'sad'::mood; ALTER TABLE keyless DROP mood",
        REMOVE,
        "ZD207",
        ["column note of table keyless"],
    ),
    "generated_column": (
        "ALTER TABLE t ADD bad boolean GENERATED ALWAYS AS (mood = 'sad') STORED",
        REMOVE,
        "ZD204",
        ["generated column 'bad'"],
    ),
    "partition_key": ("CREATE TABLE p (mood mood) PARTITION BY LIST (mood)", REMOVE, "ZD204", ["partition key"]),
    "drop_in_use": ("", 'op.zd_drop_enum("mood")', "ZD207", ["column mood of table t", "table keyless"]),
    "drop_in_use_by_a_new_column": (
        "",
        """
            op.zd_add_column("t", sa.Column("free", postgresql.ENUM(name="free", create_type=False)))
            op.zd_drop_enum("free")
        """,
        "ZD207",
        ["column free of table t"],
    ),
    "new_label_in_the_same_upgrade": (
        "",
        """
            op.zd_alter_enum("mood", ["sad", "meh", "ok", "new"], down={"new": "ok"})
            op.zd_alter_column("t", "mood", server_default="new")
        """,
        "ZD201",
        ['invalid input value for enum mood: "new"', "in a revision after this one, once it is completed"],
    ),
    "column_of_no_enum": (
        "",
        'op.zd_add_column("t", sa.Column("x", sa.Enum("a", name="nope")))',
        "ZD201",
        ['type "nope" does not exist', "op.zd_create_enum"],
    ),
    "new_table_with_foreign_key": (
        "",
        f"""
            {REMOVE}
            op.create_table("made", sa.Column("t", sa.Integer, sa.ForeignKey("t.id")),
                sa.Column("mood", postgresql.ENUM(name="mood", create_type=False)))
        """,
        "ZD233",
        ["public.made"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_enum__bad_input__refused_and_nothing_changed(database, tmp_path, name):
    setup, upgrade, code, words = REFUSED[name]
    case = Case(name, setup=f"{DISTURBED};{setup}", upgrade=upgrade, plain="")
    flight = Flight(case, database, tmp_path / "project")
    before = flight.everything()
    refused = flight.project.run_in_process("upgrade", "r2", check=False)
    said = f"{refused.stdout}{refused.stderr}"
    assert refused.returncode == 2, said
    assert code in said
    assert [w for w in words if w not in said] == [], said
    assert "nothing was changed" in said
    assert flight.everything() == before


# -- SQLAlchemy -------------------------------------------------------------------------------------


def model(*labels):
    table = sa.Table(
        "t",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("mood", sa.Enum(*labels, name="mood")),
        sa.Column("moods", postgresql.ARRAY(sa.Enum(*labels, name="mood"))),
    )
    kind = enum.Enum("Mood", {label: label for label in labels})
    typed = sa.Table(
        "t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("mood", sa.Enum(kind, name="mood"))
    )
    return table, typed, kind


def use(engine, labels, number):
    """Write and read by a model: the dialect casts each parameter to the type's bare name."""
    table, typed, kind = model(*labels)
    first, *_ = labels
    with engine.begin() as connection:
        connection.execute(sa.insert(table), [{"id": number, "mood": first, "moods": list(labels)}])
        connection.execute(sa.insert(typed), [{"id": number + 1, "mood": kind[first]}])
        connection.execute(sa.update(table).where(table.c.mood == first, table.c.id == number).values(mood=labels[-1]))
        found = sa.select(table.c.id).where(table.c.mood.in_([first]), table.c.id >= number)
        assert connection.execute(found).scalars().all() == [number + 1]
        assert connection.execute(
            sa.select(table.c.mood, table.c.moods).where(table.c.moods.contains([first]), table.c.id == number)
        ).one() == (labels[-1], list(labels))
        assert connection.execute(sa.select(typed.c.mood).where(typed.c.id == number)).scalar_one() is kind[labels[-1]]


def test_enum__sqlalchemy_models_of_both_versions__pinned_engines(database, tmp_path):
    flight = chain(database, tmp_path / "project", "pass")
    flight.run("upgrade", "r2")
    database.execute(f"ALTER ROLE {APP} IN DATABASE {database.name} SET search_path = public")
    url = database.url.set(username=APP)
    engines = {}
    for revision in ("r1", "r2"):
        engines[revision] = pin_engine(sa.create_engine(url), revision)
    use(engines["r1"], ("sad", "ok"), 10)
    use(engines["r2"], ("bad", "ok"), 20)
    flight.run("upgrade", "r3")
    engines["r3"] = pin_engine(sa.create_engine(url), "r3")
    use(engines["r1"], ("sad", "ok"), 30)
    use(engines["r2"], ("bad", "ok"), 40)
    use(engines["r3"], ("bad", "ok"), 50)
    engines["r1"].dispose()
    flight.run("zd-complete", "r2")
    use(engines["r2"], ("bad", "ok"), 60)
    use(engines["r3"], ("bad", "ok"), 70)
    engines["r2"].dispose()
    flight.run("zd-complete")
    use(engines["r3"], ("bad", "ok"), 80)
    engines["r3"].dispose()
    assert_nothing_left(database)


def test_enum__foreign_key_between_enum_columns__follows(database, tmp_path):
    setup = """
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TABLE parent (mood mood PRIMARY KEY);
        CREATE TABLE child (id integer PRIMARY KEY, mood mood REFERENCES parent ON UPDATE CASCADE);
        INSERT INTO parent VALUES ('sad');
        INSERT INTO child VALUES (1, 'sad');
    """
    case = Case(
        "foreign_key",
        setup=setup,
        upgrade=RENAME,
        plain=RENAMED,
        downgrade='op.zd_alter_enum("mood", ["sad", "ok"], up={"bad": "sad"})',
        path="public",
        writes=[
            old("INSERT INTO parent VALUES ('ok')"),
            new("INSERT INTO child VALUES (2, 'bad'), (3, 'ok')"),
            old("INSERT INTO child VALUES (4, 'sad')"),
        ],
        old={"SELECT id, mood::text FROM child": [(1, "sad"), (2, "sad"), (3, "ok"), (4, "sad")]},
        new={"SELECT id, mood::text FROM child": [(1, "bad"), (2, "bad"), (3, "ok"), (4, "bad")]},
    )
    OUTCOMES["complete"](case, database, tmp_path)


# -- live traffic -----------------------------------------------------------------------------------


class Writer(threading.Thread):
    """A client that writes, changes and reads a label by prepared statements until it is told to stop."""

    def __init__(self, flight, revision, label, start):
        super().__init__(daemon=True)
        self.client = flight.client(revision)
        self.client.connection.prepare_threshold = 0
        self.label, self.number = label, start
        self.errors, self.stopping = [], threading.Event()

    def run(self):
        try:
            while not self.stopping.is_set():
                self.once()
        except (psycopg.Error, AssertionError) as error:
            self.errors.append(error)

    def once(self):
        run = self.client.connection.execute
        label = self.label
        self.number += 1
        run(b"INSERT INTO t VALUES (%s, %s::mood, ARRAY[%s]::mood[])", (self.number, "ok", label))
        run(b"UPDATE t SET mood = %s::mood, moods = moods || %s::mood WHERE id = %s", (label, label, self.number))
        query = b"SELECT mood::text, moods::text[] FROM t WHERE id = %s AND mood = %s::mood"
        assert run(query, (self.number, label)).fetchone() == (label, [label, label])

    def finish(self):
        self.stopping.set()
        self.join()
        self.client.connection.close()
        assert self.errors == []


@pytest.mark.parametrize("way", ["complete", "rollback"])
def test_enum__clients_write_all_the_time__no_statement_fails(database, tmp_path, way):
    flight = chain(database, tmp_path / "project", "pass")
    before = [Writer(flight, "r1", "sad", 1_000_000 * n) for n in (1, 2)]
    for writer in before:
        writer.start()
    flight.run("upgrade", "r2")
    after = [Writer(flight, "r2", "bad", 1_000_000 * n) for n in (3, 4)]
    for writer in after:
        writer.start()
    time.sleep(0.5)
    for writer in before if way == "complete" else after:
        writer.finish()
    flight.run(*(("zd-complete",) if way == "complete" else ("downgrade", "r1")))
    for writer in after if way == "complete" else before:
        writer.finish()
    label = "bad" if way == "complete" else "sad"
    written = sum(writer.number % 1_000_000 for writer in before + after)
    assert min(writer.number % 1_000_000 for writer in before + after) > 0
    found = database.fetch(
        f"SELECT count(*) FROM t WHERE mood = '{label}' AND moods = ARRAY['{label}', '{label}']::mood[]"
    )
    assert found == [(written,)]
    if way == "rollback":
        assert_same(flight.dump(), flight.original, "rollback against the state before")
    assert_nothing_left(database)


@pytest.mark.parametrize("step", ["zd_r2.mood", "expand public.t", "backfill public.t", "check public.t"])
@pytest.mark.parametrize("way", ["go_on", "take_back"])
def test_enum__upgrade_stopped_at_a_step__goes_on_or_is_taken_back(database, tmp_path, monkeypatch, step, way):
    flight = chain(database, tmp_path / "project", "pass")
    original = Executor._run_step

    def stop(self, migration, phase, position, one):
        if one.name.endswith(step):
            raise KeyboardInterrupt
        return original(self, migration, phase, position, one)

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_run_step", stop)
        with pytest.raises(KeyboardInterrupt):
            flight.project.run_in_process("upgrade", "r2", check=False)
    with flight.client("r1") as client:
        client.connection.execute(b"INSERT INTO t VALUES (3, 'sad'::mood)")
    if way == "take_back":
        flight.run("downgrade", "r1")
        assert_same(flight.dump(), flight.original, "taken back")
        assert database.fetch("SELECT nspname FROM pg_namespace WHERE nspname = 'zd_r2'") == []
    flight.run("upgrade", "r2")
    with flight.client("r2") as client:
        assert client.fetch("SELECT id FROM t WHERE mood = 'bad'::mood ORDER BY id") == [(1,), (3,)]
    flight.run("zd-complete")
    assert_same(flight.dump(), expected(database, tmp_path, RENAMED), "zd-complete against plain Alembic")
    assert_nothing_left(database)
