"""Across tables: clients' sessions and rights, what is owed at commit, quarantine, kills, chains, bad input."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from alembic_zero import version_schema
from tests.support.harness import (
    AFTER,
    APP,
    BEFORE,
    Case,
    Flight,
    assert_nothing_left,
    assert_same,
    check_rows,
    plain_dump,
)

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.support.harness import Session
    from tests.support.server import Database

pytestmark = pytest.mark.one_server


def _said(completed: CompletedProcess[str]) -> str:
    return completed.stdout + completed.stderr


def _run(client: Session, *statements: str) -> None:
    for statement in statements:
        client.connection.execute(statement.encode())


def _status(flight: Flight) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(flight.run("zd-status", "--json").stdout)
    return found


# -- sessions and rights ------------------------------------------------------------------------------

MOVE = Case(
    "move",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text, name text);
        CREATE TABLE letters (id integer PRIMARY KEY, user_id integer);
        INSERT INTO users VALUES (1, 'one', 'a'), (2, 'two', 'b');
        INSERT INTO letters VALUES (1, 1), (2, 2), (3, 3);
        CREATE FUNCTION clean(text) RETURNS text LANGUAGE sql RETURN lower(trim($1));
    """,
    upgrade="""
        op.zd_create_table("mails", sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", {"user_id": "id", "email": "clean(email)"}))
        op.zd_add_column("letters", sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", "clean(email)", where="letters.user_id = users.id"))
        op.zd_drop_column("users", "email",
            down=alembic_zero.from_table("mails", "mails.email", where="users.id = mails.user_id"))
    """,
    plain="""
        op.create_table("mails", sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text))
        op.add_column("letters", sa.Column("email", sa.Text))
        op.drop_column("users", "email")
    """,
)


def test_first_statement_of_a_fresh_session__carried(database: Database, tmp_path: Path) -> None:
    flight = Flight(MOVE, database, tmp_path)
    flight.run("upgrade", AFTER)
    old_statements = [
        "INSERT INTO users VALUES (3, ' Three ', 'c')",
        "UPDATE users SET email = 'EINS' WHERE id = 1",
        "UPDATE users SET id = 4 WHERE id = 2",
        "INSERT INTO letters VALUES (4, 4)",
    ]
    for statement in old_statements:
        with flight.client(BEFORE) as client:
            _run(client, statement)
    with flight.client(AFTER) as client:
        check_rows(client, {
            "SELECT * FROM mails": [(1, "eins"), (3, "three"), (4, "two")],
            "SELECT * FROM letters": [(1, 1, "eins"), (2, 2, None), (3, 3, "three"), (4, 4, "two")],
        }, "after first statements")  # fmt: skip
    for statement in ("UPDATE mails SET email = 'm' WHERE user_id = 1", "INSERT INTO mails VALUES (9, 'nobody')",
                      "DELETE FROM mails WHERE user_id = 4"):  # fmt: skip
        with flight.client(AFTER) as client:
            _run(client, statement)
    with flight.client(BEFORE) as client:
        check_rows(client, {"SELECT id, email FROM users": [(1, "m"), (3, " Three "), (4, None)]}, "first of new")


def test_rights__only_on_the_own_versions_views__carried(database: Database, tmp_path: Path) -> None:
    """Neither an old client nor a new one may touch the other table; without public on their search_path."""
    flight = Flight(MOVE, database, tmp_path)
    flight.run("upgrade", AFTER)
    database.execute(f"""
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {APP};
        REVOKE ALL ON ALL TABLES IN SCHEMA {version_schema(AFTER)} FROM {APP};
        REVOKE ALL ON ALL TABLES IN SCHEMA {version_schema(BEFORE)} FROM {APP};
        REVOKE USAGE ON SCHEMA alembic_zero FROM {APP};
        GRANT SELECT, INSERT, UPDATE, DELETE ON {version_schema(BEFORE)}.users, public.users TO {APP};
    """)
    with flight.client(BEFORE) as client:
        _run(client, "UPDATE users SET email = 'Old' WHERE id = 1", "INSERT INTO users VALUES (3, 'd', 'e')",
             "DELETE FROM users WHERE id = 2")  # fmt: skip
    database.execute(f"""
        REVOKE ALL ON {version_schema(BEFORE)}.users, public.users FROM {APP};
        GRANT SELECT, INSERT, UPDATE, DELETE ON {version_schema(AFTER)}.mails, public.mails TO {APP};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA alembic_zero TO {APP};
    """)
    assert database.fetch("SELECT * FROM mails ORDER BY 1") != []
    with flight.client(AFTER) as client:
        check_rows(client, {"SELECT * FROM mails": [(1, "old"), (3, "d")]}, "written without rights")
        _run(client, "UPDATE mails SET email = 'new' WHERE user_id = 3")
    assert database.fetch(f"SELECT id, email FROM {version_schema(BEFORE)}.users ORDER BY 1") == [
        (1, "Old"), (3, "new"),
    ]  # fmt: skip


# -- what is owed at commit -----------------------------------------------------------------------------

OWED = Case(
    "owed",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, name text,
            email text CONSTRAINT must_have_mail NOT NULL);
        INSERT INTO users VALUES (1, 'a', 'one'), (2, 'b', 'two');
    """,
    upgrade="""
        op.zd_create_table("mails", sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"),
            primary_key=True, autoincrement=False), sa.Column("email", sa.Text, nullable=False),
            up=alembic_zero.from_table("users", {"user_id": "id", "email": "email"}))
        op.zd_drop_column("users", "email",
            down=alembic_zero.from_table("mails", "mails.email", where="users.id = mails.user_id"))
    """,
    plain="""
        op.create_table("mails", sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"),
            primary_key=True, autoincrement=False), sa.Column("email", sa.Text, nullable=False))
        op.drop_column("users", "email")
    """,
)


@pytest.mark.parametrize("end", ["complete", "rollback"])
def test_not_null__owed_until_commit__and_held_again_after_rollback(
    end: str, database: Database, tmp_path: Path
) -> None:
    flight = Flight(OWED, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        connection = clients["new"].connection
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("INSERT INTO users VALUES (3, 'c')")
        assert caught.value.sqlstate == "23503"
        with pytest.raises(psycopg.Error) as caught:
            connection.execute("DELETE FROM mails WHERE user_id = 1")
        assert caught.value.sqlstate == "23503"
        with connection.transaction():
            connection.execute("INSERT INTO users VALUES (3, 'c')")
            connection.execute("INSERT INTO mails VALUES (3, 'three')")
        with connection.transaction():
            connection.execute("DELETE FROM mails WHERE user_id = 2")
            connection.execute("INSERT INTO mails VALUES (2, 'anew')")
        with pytest.raises(psycopg.Error) as caught:
            clients["old"].connection.execute("INSERT INTO users VALUES (5, 'e')")
        assert caught.value.sqlstate == "23502"
        clients["old"].connection.execute("INSERT INTO users VALUES (5, 'e', 'five')")
        clients["old"].connection.execute("DELETE FROM users WHERE id = 1")
        # The foreign key takes the other row along: nothing is owed for a row that is gone.
        connection.execute("DELETE FROM users WHERE id = 5")
        check_rows(clients["old"], {"SELECT id, email FROM users": [(2, "anew"), (3, "three")]}, "old")
        check_rows(clients["new"], {"SELECT * FROM mails": [(2, "anew"), (3, "three")]}, "new")
    if end == "complete":
        flight.run("zd-complete")
        assert_same(flight.dump(), plain_dump(OWED, database, tmp_path), "completed")
    else:
        flight.run("downgrade", BEFORE)
        assert_same(flight.dump(), flight.original, "rolled back")
        assert database.fetch("SELECT id, email FROM users ORDER BY 1") == [(2, "anew"), (3, "three")]
    assert_nothing_left(database)


# -- quarantine -----------------------------------------------------------------------------------------

STRICT = {
    "check": 'sa.CheckConstraint("email LIKE \'%@%\'", name="has_at")',
    "not_null": 'sa.CheckConstraint("user_id > 0", name="positive")',
    "unique": 'sa.UniqueConstraint("email", name="one_each")',
}
_WRONG = {
    "check": ("UPDATE users SET email = 'nowhere' WHERE id = 2", "has_at"),
    "not_null": ("UPDATE users SET email = NULL WHERE id = 2", "email"),
    "unique": ("UPDATE users SET email = 'a@x' WHERE id = 2", "one_each"),
}


def _strict(kind: str, rows: str = "") -> Case:
    email = 'sa.Column("email", sa.Text, nullable=False)' if kind == "not_null" else 'sa.Column("email", sa.Text)'
    table = f"""table("mails",
            sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False), {email}, {STRICT[kind]}"""
    return Case(
        f"strict_{kind}",
        setup=f"""
            CREATE TABLE users (id integer PRIMARY KEY, email text);
            INSERT INTO users VALUES (1, 'a@x'), (2, 'b@x'){rows};
        """,
        upgrade=f"""op.zd_create_{table},
            up=alembic_zero.from_table("users", {{"user_id": "id", "email": "email"}}))""",
        plain=f"op.create_{table})",
    )


@pytest.mark.parametrize("kind", STRICT)
def test_quarantine__row_that_the_new_table_refuses__listed_until_corrected(
    kind: str, database: Database, tmp_path: Path
) -> None:
    case = _strict(kind)
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    wrong, word = _WRONG[kind]
    with flight.clients() as clients:
        _run(clients["old"], wrong)
        _run(clients["old"], wrong.replace("UPDATE users SET email =", "INSERT INTO users SELECT 3,")
             .replace("WHERE id = 2", ""))  # fmt: skip
        (table,) = [t for t in _status(flight)["tables"] if t.get("quarantined")]
        assert table["quarantined"] == 2
        assert [row["key"] for row in table["quarantined_rows"]] == ["(id)=(2)", "(id)=(3)"]
        for row in table["quarantined_rows"]:
            assert word in row["error"], row
        refused = flight.project.run_in_process("zd-complete", check=False)
        assert refused.returncode == 2, _said(refused)
        assert "(id)=(2)" in _said(refused)
        assert word in _said(refused)
        _run(clients["old"], "UPDATE users SET email = 'bb@x' WHERE id = 2", "DELETE FROM users WHERE id = 3")
        check_rows(clients["new"], {"SELECT * FROM mails": [(1, "a@x"), (2, "bb@x")]}, "corrected")
    assert not any(t.get("quarantined") for t in _status(flight)["tables"])
    flight.run("zd-complete")
    assert_same(flight.dump(), plain_dump(case, database, tmp_path), "completed after the correction")


COLUMN_STRICT = Case(
    "strict_column",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text);
        CREATE TABLE letters (id integer PRIMARY KEY, user_id integer);
        INSERT INTO users VALUES (1, 'a@x'), (2, 'b@x');
        INSERT INTO letters VALUES (1, 1), (2, 2);
    """,
    upgrade="""op.zd_add_column("letters", sa.Column("email", sa.String(5), sa.CheckConstraint("email LIKE '%@%'",
        name="has_at"), nullable=False),
        up=alembic_zero.from_table("users", "users.email", where="letters.user_id = users.id"))""",
    plain="""
        op.add_column("letters", sa.Column("email", sa.String(5)))
        op.execute("UPDATE letters SET email = '@'")
        op.alter_column("letters", "email", nullable=False)
        op.create_check_constraint("has_at", "letters", "email LIKE '%@%'")
    """,
)


@pytest.mark.parametrize(
    ("wrong", "table", "key", "word", "right"),
    [
        ("UPDATE users SET email = 'long@x' WHERE id = 2", "users", "2", "too long", "UPDATE users SET email = 'c@x'"),
        ("UPDATE users SET email = 'nil' WHERE id = 2", "letters", "2", "has_at", "UPDATE users SET email = 'c@x'"),
        ("DELETE FROM users WHERE id = 2", "letters", "2", "null", "UPDATE letters SET user_id = 1"),
        ("INSERT INTO letters VALUES (3, 9)", "letters", "3", "null", "INSERT INTO users VALUES (9, 'z@x')"),
    ],
    ids=["too_long", "check", "match_gone", "no_match"],
)
def test_quarantine__value_that_the_new_column_refuses__listed_until_corrected(
    wrong: str, table: str, key: str, word: str, right: str, database: Database, tmp_path: Path
) -> None:
    flight = Flight(COLUMN_STRICT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.client(BEFORE) as client:
        _run(client, wrong)
        found = {t["table"]: t for t in _status(flight)["tables"] if t["quarantined"]}
        assert list(found) == [f"public.{table}"], found
        (row,) = found[f"public.{table}"]["quarantined_rows"]
        assert row["key"] == f"(id)=({key})"
        assert word in row["error"]
        assert flight.project.run_in_process("zd-complete", check=False).returncode == 2
        _run(client, right)
    assert not any(t["quarantined"] for t in _status(flight)["tables"])
    flight.run("zd-complete")
    assert_same(flight.dump(), plain_dump(COLUMN_STRICT, database, tmp_path), "completed after the correction")


def test_quarantine__key_moves_with_it__no_row_stays_behind(database: Database, tmp_path: Path) -> None:
    flight = Flight(_strict("check"), database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        _run(clients["old"], "UPDATE users SET id = 20, email = 'nowhere' WHERE id = 2",
             "UPDATE users SET email = 'b@y' WHERE id = 20")  # fmt: skip
        check_rows(clients["new"], {"SELECT * FROM mails": [(1, "a@x"), (20, "b@y")]}, "corrected")
        _run(clients["old"], "UPDATE users SET email = 'nowhere' WHERE id = 20",
             "UPDATE users SET id = 21, email = 'b@z' WHERE id = 20")  # fmt: skip
        check_rows(clients["new"], {"SELECT * FROM mails": [(1, "a@x"), (21, "b@z")]}, "corrected with its key")


@pytest.mark.parametrize("kind", STRICT)
def test_upgrade__existing_row_does_not_fit__named_then_corrected_or_taken_back(
    kind: str, database: Database, tmp_path: Path
) -> None:
    rows = {"check": ", (3, 'nowhere')", "not_null": ", (3, NULL)", "unique": ", (3, 'a@x')"}[kind]
    case = _strict(kind, rows)
    flight = Flight(case, database, tmp_path / "project")
    # Else it is found before anything changes: test_preflight.py.
    flight.project.write_env(extra={"zd_sample_rows": 0}, metadata=case.metadata)
    failed = flight.project.run_in_process("upgrade", AFTER, check=False)
    assert failed.returncode == 1, _said(failed)
    for word in ("ZD321", "public.users", "(id)=(3)", _WRONG[kind][1]):
        assert word in _said(failed)
    assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]
    filled = [b for b in _status(flight)["backfills"] if b["table"] == "public.mails from public.users"]
    assert [b["blocks_done"] for b in filled] == [b["blocks_total"] for b in filled] == [1]
    if kind == "check":
        flight.run("downgrade", BEFORE)
        assert_same(flight.dump(), flight.original, "taken back")
        assert_nothing_left(database)
        return
    with flight.client(BEFORE) as client:
        _run(client, "UPDATE users SET email = 'c@x' WHERE id = 3")
    flight.run("upgrade", AFTER)
    with flight.client(AFTER) as client:
        check_rows(client, {"SELECT * FROM mails": [(1, "a@x"), (2, "b@x"), (3, "c@x")]}, "corrected")


# -- chains ---------------------------------------------------------------------------------------------

_CHAIN_SETUP = """
    CREATE TABLE s (id integer PRIMARY KEY, a text, b text);
    INSERT INTO s VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2');
"""
_T = """op.{}create_table("t", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("a", sa.Text), sa.Column("b", sa.Text){})
"""
_U = """op.{}create_table("u", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("a", sa.Text){})
"""
_T_UP = ', up=alembic_zero.from_table("s", {"id": "id", "a": "upper(a)", "b": "b"})'
_U_UP = ', up=alembic_zero.from_table("t", {"id": "id * 10", "a": "a || \'!\'"})'


@pytest.mark.parametrize("end", ["complete", "rollback"])
def test_chain__one_revision__table_from_a_table_from_a_table(end: str, database: Database, tmp_path: Path) -> None:
    case = Case(
        "chain", _CHAIN_SETUP, _T.format("zd_", _T_UP) + _U.format("zd_", _U_UP), _T.format("", "") + _U.format("", "")
    )
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        _run(clients["old"], "INSERT INTO s VALUES (3, 'a3', 'b3')", "UPDATE s SET a = 'x' WHERE id = 1",
             "UPDATE s SET id = 4 WHERE id = 2")  # fmt: skip
        expected = [(10, "X!"), (30, "A3!"), (40, "A2!")]
        check_rows(clients["new"], {"SELECT * FROM u": expected}, "in flight")
        _run(clients["old"], "DELETE FROM s WHERE id = 3")
        _run(clients["new"], "UPDATE u SET a = 'own' WHERE id = 40")
        _run(clients["old"], "UPDATE s SET b = 'bb'")
        check_rows(clients["new"], {"SELECT * FROM u": [(10, "X!"), (40, "own")]}, "in flight")
    if end == "complete":
        flight.run("zd-complete")
        assert_same(flight.dump(), plain_dump(case, database, tmp_path), "completed")
    else:
        flight.run("downgrade", BEFORE)
        assert_same(flight.dump(), flight.original, "rolled back")
    assert_nothing_left(database)


THIRD = {
    "table_from_the_new_table": (_U.format("zd_", _U_UP), _U.format("", "")),
    "column_of_the_new_table_altered": (
        'op.zd_alter_column("t", "a", new_column_name="c", type_=sa.String(9), up="lower(a)", down="upper(c)")',
        'op.alter_column("t", "a", new_column_name="c", type_=sa.String(9))',
    ),
    "column_of_the_source_altered": (
        'op.zd_alter_column("s", "a", type_=sa.String(9), up="a || a", down="left(a, length(a) / 2)")',
        'op.alter_column("s", "a", type_=sa.String(9))',
    ),
    "new_table_renamed": ('op.zd_rename_table("t", "tt")', 'op.rename_table("t", "tt")'),
    "source_renamed": ('op.zd_rename_table("s", "ss")', 'op.rename_table("s", "ss")'),
    "source_dropped": ('op.zd_drop_table("s")', 'op.drop_table("s")'),
}


@pytest.mark.parametrize("name", THIRD)
@pytest.mark.parametrize("end", ["complete", "rollback"])
def test_chain__two_revisions_in_flight__each_ends_by_itself(
    name: str, end: str, database: Database, tmp_path: Path
) -> None:
    third, plain = THIRD[name]
    case = Case(name, _CHAIN_SETUP, _T.format("zd_", _T_UP), _T.format("", "") + plain)
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    flight.project.revision("r3", AFTER, third, "pass")
    flight.run("upgrade", "r3")
    with flight.clients() as clients:
        _run(clients["old"], "INSERT INTO s VALUES (3, 'a3', 'b3')", "UPDATE s SET a = 'x1', id = 5 WHERE id = 1",
             "DELETE FROM s WHERE id = 2")  # fmt: skip
        second = {"SELECT id, a FROM t": [(3, "A3"), (5, "X1")]}
        check_rows(clients["new"], second, "second version")
        _run(clients["new"], "UPDATE t SET a = 'MINE' WHERE id = 3")
        second = {"SELECT id, a FROM t": [(3, "MINE"), (5, "X1")]}
        check_rows(clients["new"], second, "second version, written")
        with flight.client("r3") as third_client:
            seen = {
                "table_from_the_new_table": {"SELECT * FROM u": [(30, "MINE!"), (50, "X1!")]},
                "column_of_the_new_table_altered": {"SELECT id, c FROM t": [(3, "mine"), (5, "x1")]},
                "column_of_the_source_altered": {"SELECT id, a FROM s": [(3, "a3a3"), (5, "x1x1")]},
                "new_table_renamed": {"SELECT id, a FROM tt": [(3, "MINE"), (5, "X1")]},
                "source_renamed": {"SELECT id, a FROM ss": [(3, "a3"), (5, "x1")]},
                "source_dropped": second,
            }[name]
            check_rows(third_client, seen, "third version")
            if end == "complete":
                flight.run("zd-complete", AFTER)
                check_rows(clients["new"], second, "second version, first completed")
                check_rows(third_client, seen, "third version, first completed")
                flight.run("zd-complete")
                check_rows(third_client, seen, "third version, completed")
            else:
                flight.run("downgrade", AFTER)
                check_rows(clients["new"], second, "second version, third rolled back")
                _run(clients["old"], "UPDATE s SET a = 'y' WHERE id = 5")
                check_rows(clients["new"], {"SELECT a FROM t WHERE id = 5": [("Y",)]}, "still carried")
                flight.run("downgrade", BEFORE)
    if end == "complete":
        assert_same(flight.dump(), plain_dump(case, database, tmp_path), "both completed")
    else:
        assert_same(flight.dump(), flight.original, "both rolled back")
    assert_nothing_left(database)


_VALUE_SETUP = """
    CREATE TABLE s (id integer PRIMARY KEY, a text);
    CREATE TABLE t (id integer PRIMARY KEY, s_id integer);
    CREATE TABLE u (id integer PRIMARY KEY, t_id integer);
    INSERT INTO s VALUES (1, 'a1'), (2, 'a2');
    INSERT INTO t VALUES (10, 1), (20, 2), (30, 2);
    INSERT INTO u VALUES (100, 10), (200, 20);
"""
_VALUE = """op.zd_add_column("t", sa.Column("a", sa.Text),
    up=alembic_zero.from_table("s", "upper(s.a)", where="t.s_id = s.id"))
"""
FOURTH = {
    "source_column_dropped": (
        'op.zd_drop_column("s", "a", down=alembic_zero.from_table("t", "lower(t.a)", where="t.s_id = s.id"))',
        'op.drop_column("s", "a")',
        {"SELECT id FROM s": [(1,), (2,)]},
    ),
    "source_column_altered": (
        """op.zd_alter_column("s", "a", new_column_name="b", type_=sa.String(9),
            up="a || '!'", down="rtrim(b, '!')")""",
        'op.alter_column("s", "a", new_column_name="b", type_=sa.String(9))',
        {"SELECT id, b FROM s": [(1, "x!"), (2, "a2!")]},
    ),
    "target_column_altered": (
        """op.zd_alter_column("t", "a", new_column_name="b", type_=sa.String(9),
            up="a || '!'", down="rtrim(b, '!')")""",
        'op.alter_column("t", "a", new_column_name="b", type_=sa.String(9))',
        {"SELECT id, b FROM t": [(10, "X!"), (20, "MINE!"), (30, "A2!")]},
    ),
    "column_from_the_new_column": (
        'op.zd_add_column("u", sa.Column("a", sa.Text), up=alembic_zero.from_table("t", "t.a", where="u.t_id = t.id"))',
        'op.add_column("u", sa.Column("a", sa.Text))',
        {"SELECT id, a FROM u": [(100, "X"), (200, "MINE")]},
    ),
    "what_joins_renamed": (
        'op.zd_alter_column("t", "s_id", new_column_name="of", type_=sa.BigInteger, down="of::integer")',
        'op.alter_column("t", "s_id", new_column_name="of", type_=sa.BigInteger)',
        {"SELECT id, of FROM t": [(10, 1), (20, 2), (30, 2)]},
    ),
}


@pytest.mark.parametrize("name", FOURTH)
@pytest.mark.parametrize("end", ["complete", "rollback"])
def test_chain__column_then_another_revision__each_ends_by_itself(
    name: str, end: str, database: Database, tmp_path: Path
) -> None:
    third, plain, seen = FOURTH[name]
    case = Case(name, _VALUE_SETUP, _VALUE, 'op.add_column("t", sa.Column("a", sa.Text))\n' + plain)
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    flight.project.revision("r3", AFTER, third, "pass")
    flight.run("upgrade", "r3")
    second = {"SELECT id, a FROM t": [(10, "X"), (20, "MINE"), (30, "A2")]}
    with flight.clients() as clients, flight.client("r3") as last:
        _run(clients["old"], "UPDATE s SET a = 'x' WHERE id = 1")
        _run(clients["new"], "UPDATE t SET a = 'MINE' WHERE id = 20")
        check_rows(clients["new"], second, "second version")
        check_rows(last, seen, "third version")
        if end == "complete":
            flight.run("zd-complete", AFTER)
            check_rows(clients["new"], second, "second version, first completed")
            check_rows(last, seen, "third version, first completed")
            flight.run("zd-complete")
            check_rows(last, seen, "third version, completed")
        else:
            flight.run("downgrade", AFTER)
            check_rows(clients["new"], second, "second version, third rolled back")
            _run(clients["old"], "UPDATE s SET a = 'y' WHERE id = 1", "UPDATE t SET s_id = 1 WHERE id = 30")
            check_rows(clients["new"], {"SELECT a FROM t WHERE id IN (10, 30)": [("Y",), ("Y",)]}, "still carried")
            flight.run("downgrade", BEFORE)
    if end == "complete":
        assert_same(flight.dump(), plain_dump(case, database, tmp_path), "both completed")
    else:
        assert_same(flight.dump(), flight.original, "both rolled back")
    assert_nothing_left(database)


# -- kills ----------------------------------------------------------------------------------------------

ROWS = 40_000
BIG = Case(
    "big",
    setup=f"""
        CREATE TABLE big (id integer PRIMARY KEY, a text, note text);
        CREATE TABLE twin (id integer PRIMARY KEY, big_id integer);
        CREATE INDEX ON twin (big_id);
        INSERT INTO big SELECT n, 'a' || n, repeat('x', 300) FROM generate_series(1, {ROWS}) AS n;
        INSERT INTO twin SELECT n, n FROM generate_series(1, {ROWS}) AS n;
    """,
    upgrade="""
        op.zd_create_table("copy", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("a", sa.Text, nullable=False), up=alembic_zero.from_table("big", {"id": "id", "a": "upper(a)"}))
        op.zd_add_column("twin", sa.Column("a", sa.Text),
            up=alembic_zero.from_table("big", "upper(a)", where="twin.big_id = big.id"))
    """,
    plain="""
        op.create_table("copy", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("a", sa.Text, nullable=False))
        op.add_column("twin", sa.Column("a", sa.Text))
    """,
)


def _kill(flight: Flight, delay_s: float, *arguments: str, marked: bool = True) -> bool:
    """Kill -9 a command a while after the marker column is there (or at once); return whether it still ran."""
    sign = b"SELECT FROM pg_attribute WHERE attname = '_zd_v' AND attrelid = 'public.big'::regclass"
    process = flight.project.start(*arguments)
    with flight.database.connect() as watcher:
        while marked and process.poll() is None and not watcher.execute(sign).fetchall():
            time.sleep(0.01)
    time.sleep(delay_s)
    process.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (0, -9), stderr
    return process.returncode == -9


@pytest.mark.slow
@pytest.mark.parametrize("end", ["complete", "rollback", "half_way"])
def test_kill__while_links_are_filled__converges(end: str, database: Database, tmp_path: Path) -> None:
    flight = Flight(BIG, database, tmp_path / "project")
    killed = 0
    for number, delay_s in enumerate((0.05, 0.3, 0.6, 0.9, 1.2)):
        if not _kill(flight, delay_s, "upgrade", AFTER, marked=True):
            break
        killed += 1
        if end == "half_way" and number == 1:
            break
        with flight.client(BEFORE) as client:
            _run(client, f"UPDATE big SET a = 'k{number}' WHERE id = {number + 1}",
                 f"DELETE FROM big WHERE id = {ROWS}",
                 f"UPDATE big SET id = {ROWS * 2 + number} WHERE id = {100 + number}")  # fmt: skip
    assert killed, "never killed: the machine is too fast for this test"
    if end == "half_way":
        flight.run("downgrade", BEFORE)
        assert_same(flight.dump(), flight.original, "taken back after kills")
        assert_nothing_left(database)
        return
    flight.run("upgrade", AFTER)
    wrong = {
        "SELECT count(*) FROM big FULL JOIN copy USING (id) WHERE copy.a IS DISTINCT FROM upper(big.a)": [(0,)],
        "SELECT count(*) FROM twin LEFT JOIN big ON big.id = big_id WHERE twin.a IS DISTINCT FROM upper(big.a)": [(0,)],
    }
    with flight.client(AFTER) as client:
        check_rows(client, wrong, "after kills")
    arguments = ("zd-complete",) if end == "complete" else ("downgrade", BEFORE)
    for delay_s in (0.8, 1.2):
        _kill(flight, delay_s, *arguments, marked=False)
    flight.run(*arguments)
    if end == "complete":
        assert_same(flight.dump(), plain_dump(BIG, database, tmp_path), "completed after kills")
    else:
        assert_same(flight.dump(), flight.original, "rolled back after kills")
    assert_nothing_left(database)


# -- bad input ------------------------------------------------------------------------------------------

_BAD_SETUP = """
    CREATE TABLE s (id integer PRIMARY KEY, a text, n integer);
    CREATE TABLE t (id integer PRIMARY KEY, s_id integer, k text NOT NULL);
    CREATE TABLE third (id integer PRIMARY KEY, x text);
    CREATE TABLE parts (id integer, a text) PARTITION BY RANGE (id);
    CREATE SCHEMA app;
    CREATE TABLE app.t (id integer PRIMARY KEY, a text);
    INSERT INTO s VALUES (1, 'a', 1);
    INSERT INTO t VALUES (1, 1, 'k');
"""


def _column(value: str, where: str = "t.s_id = s.id", source: str = "s", more: str = "") -> str:
    return (
        f'op.zd_add_column("t", sa.Column("c", sa.Text), '
        f"up=alembic_zero.from_table({source!r}, {value!r}, where={where!r}{more}))"
    )


def _table(values: dict[str, str], more: str = "", source: str = "s") -> str:
    return (
        'op.zd_create_table("made", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False), '
        'sa.Column("a", sa.Text, nullable=False), sa.Column("g", sa.Integer, sa.Computed("id + 1", persisted=True)), '
        f"up=alembic_zero.from_table({source!r}, {values!r}{more}))"
    )


BAD = {
    "circle_upward": (
        _column("s.a") + '\nop.zd_add_column("s", sa.Column("c", sa.Text), '
        'up=alembic_zero.from_table("t", "t.k", where="t.s_id = s.id"))',
        ["ZD217", "public.s", "public.t"],
    ),
    "circle_of_three": (
        _column("s.a") + '\nop.zd_add_column("third", sa.Column("c", sa.Text), '
        'up=alembic_zero.from_table("t", "t.c", where="t.id = third.id"))'
        '\nop.zd_add_column("s", sa.Column("c", sa.Text), '
        'up=alembic_zero.from_table("third", "third.c", where="third.id = s.id"))',
        ["ZD217", "public.s", "public.t", "public.third"],
    ),
    "unknown_source": (_column("a", source="nowhere"), ["ZD202", "nowhere"]),
    "unknown_schema": (_column("s.a", more=", schema='nowhere'"), ["nowhere"]),
    "unknown_column": (_column("s.nope"), ["ZD210", "nope"]),
    "unknown_column_in_where": (_column("s.a", "t.nope = s.id"), ["ZD210", "nope"]),
    "ambiguous_column": (_column("id::text"), ["ZD210", "ambiguous"]),
    "wrong_type": (_column("s.a").replace("sa.Text", "sa.Integer"), ["ZD210", "integer", "text"]),
    "wrong_type_of_old_clients": (
        'op.zd_drop_column("t", "s_id", down=alembic_zero.from_table("s", "s.a", where="t.id = s.id"))',
        ["ZD210", "integer", "text"],
    ),
    "where_is_no_condition": (_column("s.a", "s.id"), ["ZD210", "boolean"]),
    "aggregate": (_column("max(s.a)"), ["ZD210", "aggregate"]),
    "aggregate_in_where": (_column("s.a", "count(*) > 1"), ["ZD210", "aggregate"]),
    "window": (_column("first_value(s.a) OVER ()"), ["ZD210", "window"]),
    "set": (_column("unnest(ARRAY[s.a])"), ["ZD210", "set-returning"]),
    "two_statements": (_column("s.a; DROP TABLE s"), ["ZD210"]),
    "closes_the_parenthesis": (_column("s.a) FROM s, t; DROP TABLE s; SELECT (1"), ["ZD210"]),
    "whole_row": (_column("to_jsonb(s)::text"), ["ZD210", "whole row"]),
    "whole_row_in_where": (_column("s.a", "t.s_id = s.id AND s IS NOT NULL"), ["ZD210", "whole row"]),
    "rows_whole_row": (_table({"id": "id", "a": "s::text"}), ["ZD210", "whole row"]),
    "third_table": (_column("(SELECT x FROM third)"), ["ZD211", "third"]),
    "third_table_in_where": (_column("s.a", "EXISTS (SELECT FROM third)"), ["ZD211", "third"]),
    "itself": (_column("t.k", "true", source="t"), ["ZD215"]),
    "same_name": (_column("a", "true", source="t", more=", schema='app'"), ["ZD215"]),
    "partitioned": (_column("parts.a", "parts.id = t.id", source="parts"), ["ZD208", "parts"]),
    "no_key": (_table({"a": "a"}), ["ZD216", "made"]),
    "not_null_without_value": (_table({"id": "id"}), ["ZD205", "'a'"]),
    "generated": (_table({"id": "id", "a": "a", "g": "n"}), ["ZD204", "'g'"]),
    "unknown_target_column": (_table({"id": "id", "a": "a", "zz": "n"}), ["'zz'"]),
    "rows_of_wrong_type": (_table({"id": "a", "a": "a"}), ["ZD210", "integer"]),
    "rows_aggregate": (_table({"id": "max(id)", "a": "a"}), ["ZD210", "aggregate"]),
    "rows_third_table": (_table({"id": "id", "a": "(SELECT x FROM third)"}), ["ZD211", "third"]),
    "rows_where_reads_unmapped": (_table({"id": "id", "a": "a"}, ", where='made.g = s.n'"), ["ZD216", "'g'"]),
    "mapping_for_a_column": (
        'op.zd_add_column("t", sa.Column("c", sa.Text), up=alembic_zero.from_table("s", {"c": "a"}))',
        ["ZD101"],
    ),
    "value_for_a_table": (
        'op.zd_create_table("made", sa.Column("id", sa.Integer), up=alembic_zero.from_table("s", "id"))',
        ["ZD101"],
    ),
    "column_without_where": (
        'op.zd_add_column("t", sa.Column("c", sa.Text), up=alembic_zero.from_table("s", "s.a"))',
        ["ZD101", "where"],
    ),
    "key_cannot_wait": (
        'op.zd_drop_column("t", "id", down=alembic_zero.from_table("s", "s.id", where="t.s_id = s.id"))',
        ["ZD215", "'id'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input__refused_before_any_change(name: str, database: Database, tmp_path: Path) -> None:
    body, words = BAD[name]
    flight = Flight(Case(name, _BAD_SETUP, body, "pass"), database, tmp_path)
    whole, rows = flight.everything(), flight.contents("public")
    refused = flight.project.run_in_process("upgrade", AFTER, check=False)
    said = _said(refused)
    assert refused.returncode == 2, said
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in: {said}"
    assert_same(flight.everything(), whole, f"refused ({said.strip()}), and yet")
    assert flight.contents("public") == rows


# -- several schemas --------------------------------------------------------------------------------------

SCHEMAS = Case(
    "schemas",
    setup=f"""
        CREATE SCHEMA app;
        GRANT USAGE ON SCHEMA app TO {APP};
        CREATE TABLE app.users (id integer PRIMARY KEY, email text);
        CREATE TABLE users (id integer PRIMARY KEY, user_id integer);
        CREATE TABLE letters (id integer PRIMARY KEY, user_id integer);
        INSERT INTO app.users VALUES (1, 'one'), (2, 'two');
        INSERT INTO letters VALUES (1, 1), (2, 2);
        INSERT INTO users VALUES (1, 1);
    """,
    upgrade="""
        op.zd_add_column("letters", sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", "users.email", where="letters.user_id = users.id", schema="app"))
        op.zd_create_table("mails", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", {"id": "id", "email": "users.email"}, schema="app"))
        op.zd_add_column("users", sa.Column("email", sa.Text),
            up=alembic_zero.from_table("mails", "mails.email", where="users.user_id = mails.id"))
    """,
    plain="""
        op.add_column("letters", sa.Column("email", sa.Text))
        op.create_table("mails", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text))
        op.add_column("users", sa.Column("email", sa.Text))
    """,
)


@pytest.mark.parametrize("end", ["complete", "rollback"])
def test_schemas__source_and_target_apart__and_two_tables_of_one_name(
    end: str, database: Database, tmp_path: Path
) -> None:
    flight = Flight(SCHEMAS, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        schema = version_schema(BEFORE, "app") if database.fetch(
            f"SELECT FROM pg_namespace WHERE nspname = '{version_schema(BEFORE, 'app')}'") else "app"  # fmt: skip
        _run(clients["old"], f"UPDATE {schema}.users SET email = 'eins' WHERE id = 1",
             f"INSERT INTO {schema}.users VALUES (3, 'drei')", "INSERT INTO letters VALUES (3, 3)",
             "UPDATE users SET user_id = 3")  # fmt: skip
        check_rows(clients["new"], {
            "SELECT id, email FROM letters": [(1, "eins"), (2, "two"), (3, "drei")],
            "SELECT id, email FROM mails": [(1, "eins"), (2, "two"), (3, "drei")],
            "SELECT id, email FROM users": [(1, "drei")],
        }, "in flight")  # fmt: skip
    if end == "complete":
        flight.run("zd-complete")
        assert_same(flight.dump(), plain_dump(SCHEMAS, database, tmp_path), "completed")
    else:
        flight.run("downgrade", BEFORE)
        assert_same(flight.dump(), flight.original, "rolled back")
    assert_nothing_left(database)
