"""What cannot work is refused before anything changes, and the message says what, where and why."""

from __future__ import annotations

import pytest

from alembic_zero import version_schema
from tests.support.harness import (
    AFTER,
    BEFORE,
    Case,
    Flight,
    assert_nothing_left,
    assert_same,
    check_rows,
    plain_dump,
)
from tests.support.project import AlembicProject

pytestmark = pytest.mark.one_server

SETUP = """
    CREATE TABLE t (id integer PRIMARY KEY, n integer, k text NOT NULL, w integer);
    CREATE INDEX t_n ON t (n);
    CREATE TABLE u (id integer PRIMARY KEY);
    CREATE TABLE child (id integer PRIMARY KEY, u_id integer REFERENCES u);
    CREATE SEQUENCE counter;
    CREATE VIEW v AS SELECT id, w FROM t;
    INSERT INTO t VALUES (1, 10, 'x'), (2, NULL, 'y');
"""

ADD = 'op.zd_add_column("t", sa.Column("c", sa.Integer), up={!r})'
ALTER = 'op.zd_alter_column("t", "n", type_=sa.Text, up="n::text", down={!r})'
DROP = 'op.zd_drop_column("t", "k", down={!r})'

# What each does wrong: body of the revision, and what the message must hold beside the revision.
BAD = {
    "unknown_table_add": ('op.zd_add_column("nowhere", sa.Column("c", sa.Text))', ["zd_add_column", "nowhere"]),
    "unknown_table_alter": (
        'op.zd_alter_column("nowhere", "n", type_=sa.Text)',
        ["zd_alter_column", "nowhere"],
    ),
    "unknown_table_drop": ('op.zd_drop_table("nowhere")', ["zd_drop_table", "nowhere"]),
    "unknown_table_rename": ('op.zd_rename_table("nowhere", "x")', ["zd_rename_table", "nowhere"]),
    "unknown_schema": ('op.zd_drop_column("t", "n", schema="nowhere")', ["zd_drop_column", "nowhere"]),
    "unknown_column_alter": (
        'op.zd_alter_column("t", "nope", nullable=True)',
        ["zd_alter_column", "nope", "'t'"],
    ),
    "unknown_column_drop": ('op.zd_drop_column("t", "nope")', ["zd_drop_column", "nope"]),
    "dropped_twice": (
        'op.zd_drop_column("t", "n")\nop.zd_drop_column("t", "n")',
        ["zd_drop_column", "'n'"],
    ),
    "used_after_drop": ('op.zd_drop_column("t", "n")\n' + ADD.format("n + 1"), ["zd_add_column", '"n"']),
    "used_after_rename": (
        'op.zd_alter_column("t", "n", new_column_name="m")\n' + ADD.format("n + 1"),
        ["zd_add_column", '"n"'],
    ),
    "table_renamed_before": (
        'op.zd_rename_table("t", "tt")\nop.zd_drop_column("t", "n")',
        ["zd_drop_column", "'t'"],
    ),
    "add_existing": ('op.zd_add_column("t", sa.Column("k", sa.Text))', ["zd_add_column", "'k'", "exists"]),
    "add_system_column": ('op.zd_add_column("t", sa.Column("xmin", sa.Text))', ["zd_add_column", "xmin"]),
    "rename_to_existing": (
        'op.zd_alter_column("t", "n", new_column_name="k")',
        ["zd_alter_column", "'k'", "exists"],
    ),
    "create_existing": (
        'op.zd_create_table("u", sa.Column("id", sa.Integer))',
        ["u", "exists"],
    ),
    "create_named_like_index": (
        'op.zd_create_table("t_n", sa.Column("id", sa.Integer))',
        ["t_n", "exists"],
    ),
    "create_with_existing_index_name": (
        'op.zd_create_table("w", sa.Column("id", sa.Integer), sa.Index("t_n", "id"))',
        ["t_n", "exists"],
    ),
    "create_referring_to_nothing": (
        'op.zd_create_table("w", sa.Column("id", sa.Integer, sa.ForeignKey("nowhere.id")))',
        ["nowhere"],
    ),
    "rename_table_to_existing": ('op.zd_rename_table("t", "u")', ["zd_rename_table", "'u'"]),
    "rename_table_to_view": ('op.zd_rename_table("t", "v")', ["zd_rename_table", "'v'"]),
    "rename_table_to_sequence": ('op.zd_rename_table("t", "counter")', ["zd_rename_table", "counter"]),
    "on_a_view": ('op.zd_add_column("v", sa.Column("c", sa.Text))', ["zd_add_column", "v"]),
    "on_a_sequence": ('op.zd_rename_table("counter", "c")', ["zd_rename_table", "counter"]),
    "view_on_dropped_column": ('op.zd_drop_column("t", "w")', ["zd_drop_column", "'w'", "view public.v"]),
    "view_on_altered_column": (
        'op.zd_alter_column("t", "w", type_=sa.BigInteger, down="w::integer")',
        ["zd_alter_column", "'w'", "view public.v"],
    ),
    "referenced_table_dropped": ('op.zd_drop_table("u")', ["zd_drop_table", "child"]),
    "unknown_type": (
        'op.zd_add_column("t", sa.Column("c", postgresql.ENUM(name="nope", create_type=False)))',
        ["zd_add_column", "nope"],
    ),
    "bad_default": (
        'op.zd_add_column("t", sa.Column("c", sa.Integer, server_default="abc"))',
        ["zd_add_column", "abc"],
    ),
    "no_cast_forwards": (
        'op.zd_alter_column("t", "k", type_=sa.Integer, down="k::text")',
        ["zd_alter_column", "up="],
    ),
    "no_cast_back": ('op.zd_alter_column("t", "n", type_=sa.Text)', ["zd_alter_column", "down="]),
    "default_does_not_fit_new_type": (
        'op.zd_alter_column("t", "n", type_=sa.Date, server_default="x", up="NULL", down="NULL")',
        ["zd_alter_column", "date"],
    ),
    "not_null_added_without_value": (
        'op.zd_add_column("t", sa.Column("c", sa.Integer, nullable=False))',
        ["zd_add_column", "up=", "'c'"],
    ),
    "not_null_dropped_without_down": ('op.zd_drop_column("t", "k")', ["zd_drop_column", "down=", "'k'"]),
    "nullable_without_down": (
        'op.zd_alter_column("t", "k", nullable=True)',
        ["zd_alter_column", "down=", "'k'"],
    ),
    "second_operation_bad": (ADD.format("n") + '\nop.zd_drop_table("nowhere")', ["zd_drop_table", "nowhere"]),
    "up_without_type_or_value": ('op.zd_alter_column("t", "n")', ["zd_alter_column", "nothing to change"]),
    "argument": ('op.zd_add_column("t", sa.Column("c", sa.Integer), up=5)', ["zd_add_column", "up"]),
    **{
        f"up_{name}": (ADD.format(expression), ["zd_add_column", "up", *words])
        for name, expression, words in (
            ("syntax", "n +", ["syntax"]),
            ("two_statements", "n; DROP TABLE u", ["syntax"]),
            ("closes_parenthesis", "n) FROM t; DROP TABLE u; SELECT (1", ["multiple commands"]),
            ("unterminated_string", "'x", []),
            ("unterminated_comment", "n /* x", []),
            ("two_columns", "n, 1", []),
            ("star", "t.*", []),
            ("unknown_column", "nope + 1", ["nope"]),
            ("unknown_function", "nope(n)", ["nope"]),
            ("itself", "c + 1", ['"c"']),
            ("wrong_type", "k", ["text", "integer"]),
            ("wrong_type_date", "CAST('2020-01-01' AS date)", ["date", "integer"]),
            ("aggregate", "count(*)", []),
            ("aggregate_of_column", "sum(n)", []),
            ("window", "row_number() OVER ()", []),
            ("set_returning", "generate_series(1, n)", []),
            ("set_returning_unnest", "unnest(ARRAY[n])", []),
            ("parameter", "$1", []),
            ("marker", "_zd_v", ["_zd_v"]),
        )
    },
    **{
        f"down_{name}": (template.format(expression), [operation, "down", *words])
        for name, template, operation, expression, words in (
            ("syntax", ALTER, "zd_alter_column", "n +", ["syntax"]),
            ("unknown_column", ALTER, "zd_alter_column", "nope", ["nope"]),
            ("wrong_type", ALTER, "zd_alter_column", "n", ["text", "integer"]),
            ("aggregate", ALTER, "zd_alter_column", "max(n)::integer", []),
            ("set_returning", ALTER, "zd_alter_column", "generate_series(1, 2)", []),
            ("dropped_column", DROP, "zd_drop_column", "k || '!'", ['"k"']),
        )
    },
}  # fmt: skip


def _refused(flight, *arguments):
    """Run a command that must be refused; return what it says, having checked that nothing changed."""
    whole, heads = flight.everything(), flight.database.fetch("SELECT version_num FROM alembic_version")
    completed = flight.project.run_in_process(*arguments, check=False)
    said = completed.stdout + completed.stderr
    assert completed.returncode == 2, f"exit code {completed.returncode}\n{said}"
    assert_same(flight.everything(), whole, f"refused ({said.strip()}), and yet")
    assert flight.database.fetch("SELECT version_num FROM alembic_version") == heads
    return said


@pytest.mark.parametrize("name", BAD)
def test_upgrade__bad_revision__refused_before_any_change(database, tmp_path, name):
    body, words = BAD[name]
    flight = Flight(Case(name, SETUP, body, "pass"), database, tmp_path)
    rows = flight.contents("public")
    said = _refused(flight, "upgrade", AFTER)
    missing = [word for word in (repr(AFTER), *words) if word not in said]
    assert not missing, f"{missing} not in: {said}"
    assert flight.contents("public") == rows
    # The plan of it is refused in the same words.
    assert _refused(flight, "zd-plan", AFTER).split("]")[-1] == said.split("]")[-1]


def test_upgrade__bad_revision_corrected__works(database, tmp_path):
    flight = Flight(Case("x", SETUP, ADD.format("n +"), "pass"), database, tmp_path)
    _refused(flight, "upgrade", AFTER)
    flight.project.revision(AFTER, BEFORE, ADD.format("n + 1"))
    flight.run("upgrade", AFTER)
    with flight.client(AFTER) as client:
        check_rows(client, {"SELECT id, c FROM t": [(1, 11), (2, None)]}, "corrected")


def test_upgrade__comment_in_expression__means_what_it_says(database, tmp_path):
    flight = Flight(Case("x", SETUP, ADD.format("n -- + 1 */"), "pass"), database, tmp_path)
    flight.run("upgrade", AFTER)
    with flight.client(AFTER) as client:
        check_rows(client, {"SELECT id, c FROM t": [(1, 10), (2, None)]}, "with a comment")


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('mine')",
        "op.zd_add_column('t', sa.Column('c', sa.Integer))\nraise ValueError('mine')",
    ],
)
def test_upgrade__revision_raises__nothing_changed(database, tmp_path, body):
    """A mistake in the user's Python is shown as such."""
    flight = Flight(Case("x", SETUP, body, "pass"), database, tmp_path)
    whole = flight.everything()
    with pytest.raises(ValueError, match="mine"):
        flight.run("upgrade", AFTER)
    assert_same(flight.everything(), whole, "a revision that raises")


FAILING_ROWS = {
    "up": ADD.format("100 / (n - 10)"),
    "not_null": 'op.zd_alter_column("t", "n", nullable=False, up="n")',
    "type": 'op.zd_alter_column("t", "k", type_=sa.Integer, up="k::integer", down="k::text")',
    "length": 'op.zd_alter_column("t", "k", type_=sa.String(0 + 1), up="k || k", down="k")',
}


@pytest.mark.parametrize("name", FAILING_ROWS)
def test_upgrade__rows_do_not_fit__fails_by_key_and_can_be_taken_back(database, tmp_path, name):
    """Some row that is there cannot be converted: named, and either repaired or rolled back."""
    flight = Flight(Case(name, SETUP, FAILING_ROWS[name], "pass"), database, tmp_path)
    failed = flight.project.run_in_process("upgrade", AFTER, check=False)
    said = failed.stdout + failed.stderr
    assert failed.returncode in (1, 2), said
    for word in (repr(AFTER), "public.t", "(id)"):
        assert word in said
    assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO t VALUES (3, 30, 'z')")
        client.connection.execute("UPDATE t SET n = 11 WHERE id = 1")
    flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), flight.original, "taken back")
    assert_nothing_left(database)
    assert database.fetch("SELECT * FROM t ORDER BY id") == [
        (1, 11, "x", None),
        (2, None, "y", None),
        (3, 30, "z", None),
    ]


def test_upgrade__rows_do_not_fit_but_are_repaired__goes_on(database, tmp_path):
    case = Case("x", SETUP, ADD.format("100 / (n - 10)"), 'op.add_column("t", sa.Column("c", sa.Integer))')
    flight = Flight(case, database, tmp_path / "project")
    assert flight.project.run_in_process("upgrade", AFTER, check=False).returncode in (1, 2)
    with flight.client(BEFORE) as client:
        client.connection.execute("UPDATE t SET n = 20 WHERE id = 1")
    flight.run("upgrade", AFTER)
    with flight.client(AFTER) as client:
        check_rows(client, {"SELECT id, c FROM t": [(1, 10), (2, None)]}, "repaired")
    flight.run("zd-complete")
    assert_same(flight.dump(), plain_dump(case, database, tmp_path), "repaired and completed")


def test_upgrade__ordinary_sql_fails__named_and_can_be_taken_back(database, tmp_path):
    body = ADD.format("n") + '\nop.execute("SELECT nope")'
    flight = Flight(Case("x", SETUP, body, "pass"), database, tmp_path)
    failed = flight.project.run_in_process("upgrade", AFTER, check=False)
    said = failed.stdout + failed.stderr
    assert failed.returncode in (1, 2), said
    assert "nope" in said
    assert repr(AFTER) in said
    if failed.returncode == 1:
        flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), flight.original, "taken back")
    assert_nothing_left(database)


# -- commands at the wrong time ---------------------------------------------------------------------

GOOD = Case(
    "good",
    SETUP,
    ADD.format("n + 1"),
    'op.add_column("t", sa.Column("c", sa.Integer))',
    'op.zd_drop_column("t", "c")',
)


@pytest.mark.parametrize("revision", [BEFORE, AFTER, "base"])
def test_stamp__in_flight__refused(database, tmp_path, revision):
    flight = Flight(GOOD, database, tmp_path)
    flight.run("upgrade", AFTER)
    said = _refused(flight, "stamp", revision)
    assert repr(AFTER) in said
    assert "zd-complete" in said
    flight.run("zd-complete")
    flight.run("stamp", AFTER)


@pytest.mark.parametrize("command", ["upgrade", "downgrade", "zd-init", "zd-complete", "stamp"])
@pytest.mark.parametrize("retired", [False, True], ids=["live", "tombstone"])
def test_migration_connection__version_schema_on_search_path__refused(database, tmp_path, command, retired):
    """alembic_version would land in the version schema, and Alembic would still exit with 0."""
    flight = Flight(GOOD, database, tmp_path / "project")
    if retired:
        flight.run("upgrade", AFTER)
        flight.run("zd-complete")
    schema = version_schema(BEFORE)
    url = database.url.update_query_dict({"options": f"-csearch_path={schema},public"})
    flight.project = AlembicProject(tmp_path / "project", url)
    arguments = [AFTER] if command in ("upgrade", "stamp") else [BEFORE] if command == "downgrade" else []
    said = _refused(flight, command, *arguments)
    assert schema in said
    assert "search_path" in said


def test_downgrade__to_a_version_that_is_live__refused(database, tmp_path):
    """r1 -> r2 in flight and r3 on top: from r3 there is no way "back" to a new r1 but by rollback."""
    flight = Flight(GOOD, database, tmp_path)
    flight.project.revision("r3", AFTER, 'op.zd_rename_table("u", "uu")', 'op.zd_rename_table("uu", "u")')
    flight.run("upgrade", "r3")
    flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), flight.original, "both taken back")
    assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]


def test_env__without_our_configure__refused(database, tmp_path):
    flight = Flight(GOOD, database, tmp_path)
    flight.project.write_env(env="plain")
    for arguments in (("upgrade", AFTER), ("zd-init",), ("zd-complete",), ("zd-status",)):
        assert "alembic_zero.configure" in _refused(flight, *arguments)


@pytest.mark.slow
def test_upgrade__two_at_once__one_migration(database, tmp_path):
    """Whoever comes second waits, and finds the work done or says so; nothing runs twice."""
    setup = SETUP + "INSERT INTO t SELECT i, i, i::text FROM generate_series(3, 60000) AS i;"
    case = Case("x", setup, ADD.format("n + 1"), GOOD.plain)
    flight = Flight(case, database, tmp_path / "project")
    processes = [flight.project.start("upgrade", AFTER) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes[0] == 0, outputs
    assert set(codes) <= {0, 1, 2}, outputs
    assert all("Traceback" not in error for _, error in outputs), outputs
    assert database.fetch("SELECT version_num FROM alembic_version") == [(AFTER,)]
    with flight.client(AFTER) as client:
        check_rows(client, {"SELECT count(*) FROM t WHERE c = n + 1": [(59_999,)]}, "after three upgrades")
    flight.run("zd-complete")
    assert_same(flight.dump(), plain_dump(case, database, tmp_path), "three upgrades at once, completed")
    assert_nothing_left(database)
