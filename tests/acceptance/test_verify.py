"""zd-verify: every corrupted row is found and no other one, whatever clients do meanwhile."""

from __future__ import annotations

import json
import os
import pty
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.test_commands import SPLIT, TO_INTEGER
from tests.support.harness import AFTER, BEFORE, Case, Flight

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Database

pytestmark = pytest.mark.one_server


def verify(flight: Flight, *arguments: str) -> dict[str, Any]:
    """Run zd-verify and return what it says; its exit code must say the same."""
    completed = flight.project.run_in_process("zd-verify", "--json", *arguments, check=False)
    said = json.loads(completed.stdout)
    assert completed.returncode == (0 if said["consistent"] else 1), completed.stderr
    assert said["consistent"] or "ZD330" in completed.stderr
    return said


def corrupt(database: Database, table: str, *statements: str) -> None:
    """Write past the triggers, as nobody should."""
    off, on = (f"ALTER TABLE {table} {word} TRIGGER USER" for word in ("DISABLE", "ENABLE ALWAYS"))
    names = database.fetch(
        f"SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
    )
    on = "; ".join(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for (name,) in names)
    database.execute("; ".join([off, *statements, on]))


def found(said: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Return table, kind and key of everything listed."""
    return {(f["table"].partition(".")[2], f["kind"], f["key"].rpartition("=")[2]) for f in said["discrepancies"]}


def test_zd_verify__nothing_in_flight__consistent(database: Database, tmp_path: Path) -> None:
    flight = Flight(SPLIT, database, tmp_path / "project")
    assert verify(flight)["revision"] is None
    assert "nothing is in flight" in flight.run("zd-verify").stdout


def test_zd_verify__clients_of_both_versions__lossy_pairs_are_legal(database: Database, tmp_path: Path) -> None:
    flight = Flight(SPLIT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["old"].connection.execute("INSERT INTO users (name) VALUES ('A B C'), (NULL), ('')")
        clients["new"].connection.execute("INSERT INTO users (first, last) VALUES ('X Y', 'Z W'), (NULL, 'q')")
        clients["new"].connection.execute("UPDATE users SET last = 'van  Dyk' WHERE id = 1")
    assert verify(flight)["consistent"]


def test_zd_verify__corrupted_rows__all_found_and_no_other(database: Database, tmp_path: Path) -> None:
    flight = Flight(SPLIT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO users (name) SELECT 'Ann Nr' || i FROM generate_series(3, 200) AS i")
    corrupt(
        database,
        "users",
        "UPDATE users SET first = 'Bob' WHERE id = 7",
        "UPDATE users SET name = NULL WHERE id = 8",
        "UPDATE users SET last = NULL, first = NULL WHERE id = 9",
        "UPDATE users SET _zd_v = NULL WHERE id = 10",
        "UPDATE users SET email = 'x' WHERE id = 11",
    )
    said = verify(flight)
    assert found(said) == {
        ("users", "inconsistent", "(7)"),
        ("users", "inconsistent", "(8)"),
        ("users", "inconsistent", "(9)"),
        ("users", "not synchronised", "(10)"),
    }
    assert said["tables"] == [{"table": "public.users", "counts": {"inconsistent": 3, "not synchronised": 1}}]
    (seven,) = (f for f in said["discrepancies"] if f["key"] == "(id)=(7)")
    assert {"column": "first", "revision": AFTER, "stored": "Bob", "derived": "Ann", "error": None} in seven["columns"]
    shown = flight.project.run_in_process("zd-verify", check=False)
    assert shown.returncode == 1
    for word in ("(id)=(7): inconsistent (revision r2)", "'Bob'", "'Ann'", "3 inconsistent"):
        assert word in shown.stdout


@pytest.mark.parametrize("truth", ["old", "new"])
def test_zd_verify_repair__corrupted_rows__consistent_by_the_chosen_version(
    truth: str, database: Database, tmp_path: Path
) -> None:
    flight = Flight(SPLIT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["new"].connection.execute("UPDATE users SET last = 'van  Dyk' WHERE id = 1")
        clients["old"].connection.execute(
            "INSERT INTO users (name) SELECT 'Ann Nr' || i FROM generate_series(3, 9) AS i"
        )
        corrupt(
            database,
            "users",
            "UPDATE users SET first = 'Bob' WHERE id = 7",
            "UPDATE users SET name = 'Cy' WHERE id = 8",
            "UPDATE users SET _zd_v = NULL, first = NULL WHERE id = 9",
        )
        query = f"--repair={truth}" if truth == "new" else "--repair"
        said = verify(flight, query)
        assert (said["consistent"], said["repaired"]) == (True, 3)
        names = {"old": ["Ann Nr7", "Cy", "Ann Nr9"], "new": ["Bob Nr7", "Ann Nr8", "Ann Nr9"]}[truth]
        firsts = {"old": [("Ann", "Nr7"), ("Cy", ""), ("Ann", "Nr9")],
                  "new": [("Bob", "Nr7"), ("Ann", "Nr8"), ("Ann", "Nr9")]}[truth]  # fmt: skip
        assert clients["old"].fetch("SELECT name FROM users WHERE id > 6 ORDER BY id") == [(name,) for name in names]
        assert clients["new"].fetch("SELECT first, last FROM users WHERE id > 6 ORDER BY id") == firsts
        assert clients["new"].fetch("SELECT first, last FROM users WHERE id = 1") == [("Ada", "van  Dyk")]
        assert clients["old"].fetch("SELECT name FROM users WHERE id = 1") == [("Ada van  Dyk",)]
    assert verify(flight)["consistent"]


def test_zd_verify_repair__row_held_by_a_client__left_alone_and_done_next_time(
    database: Database, tmp_path: Path
) -> None:
    flight = Flight(SPLIT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    corrupt(database, "users", "UPDATE users SET first = 'Bob' WHERE id < 3")
    with flight.client(BEFORE) as client:
        client.connection.execute("BEGIN")
        client.connection.execute("SELECT * FROM users WHERE id = 1 FOR UPDATE")
        assert found(verify(flight, "--repair")) == {("users", "inconsistent", "(1)")}
        client.connection.execute("COMMIT")
    assert verify(flight, "--repair")["consistent"]


def test_zd_verify__quarantined__listed_with_key_and_error(database: Database, tmp_path: Path) -> None:
    flight = Flight(TO_INTEGER, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO t VALUES (7, 'seven')")
    (discrepancy,) = verify(flight)["discrepancies"]
    assert (discrepancy["kind"], discrepancy["key"]) == ("quarantined", "(id)=(7)")
    assert "invalid input syntax for type integer" in discrepancy["error"]


# -- across tables ------------------------------------------------------------------------------------

MEMBERS = Case(
    "members",
    setup="""
        CREATE TABLE accounts (id integer PRIMARY KEY);
        CREATE TABLE users (id integer PRIMARY KEY, account_id integer REFERENCES accounts, account_role text);
        INSERT INTO accounts SELECT generate_series(1, 9);
        INSERT INTO users SELECT i, 1 + i % 9, 'Role ' || i FROM generate_series(1, 60) AS i;
    """,
    upgrade="""
        op.zd_create_table(
            "account_users",
            sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), primary_key=True),
            sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True),
            sa.Column("role", sa.Text),
            up=alembic_zero.from_table(
                "users", {"account_id": "account_id", "user_id": "id", "role": "upper(account_role)"}
            ),
        )
        for column, value in [("account_id", "account_id"), ("account_role", "lower(account_users.role)")]:
            op.zd_drop_column("users", column, down=alembic_zero.from_table(
                "account_users", value.replace("account_id", "account_users.account_id"),
                where="users.id = account_users.user_id"))
    """,
    plain="pass",
)
MOVED = Case(
    "moved",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text);
        CREATE TABLE profiles (id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES users);
        CREATE INDEX ON profiles (user_id);
        INSERT INTO users SELECT i, 'Ada' || i || '@x' FROM generate_series(1, 60) AS i;
        INSERT INTO profiles SELECT i, i FROM generate_series(1, 50) AS i;
    """,
    upgrade="""
        op.zd_add_column("profiles", sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", "upper(users.email)", where="profiles.user_id = users.id"))
        op.zd_drop_column("users", "email",
            down=alembic_zero.from_table("profiles", "lower(profiles.email)", where="users.id = profiles.user_id"))
    """,
    plain="pass",
)


def test_zd_verify__rows_follow_across_tables__corrupted_ones_found(database: Database, tmp_path: Path) -> None:
    flight = Flight(MEMBERS, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["new"].connection.execute("UPDATE account_users SET role = 'Mixed' WHERE user_id = 30")
        clients["new"].connection.execute("INSERT INTO account_users VALUES (9, 31, 'Second')")
        clients["new"].connection.execute("DELETE FROM account_users WHERE user_id = 32")
        clients["new"].connection.execute("INSERT INTO users VALUES (61)")
        clients["old"].connection.execute("UPDATE users SET account_id = NULL WHERE id = 33")
        clients["old"].connection.execute("UPDATE users SET account_role = 'oLd' WHERE id IN (30, 34)")
        clients["old"].connection.execute("INSERT INTO users VALUES (62, NULL, 'x')")
    assert verify(flight)["consistent"]
    corrupt(database, "account_users", "UPDATE account_users SET role = 'wrong' WHERE user_id = 5",
            "DELETE FROM account_users WHERE user_id = 6",
            "UPDATE account_users SET account_id = 9 WHERE user_id = 10")  # fmt: skip
    corrupt(database, "users", "UPDATE users SET account_role = 'wrong' WHERE id = 7")
    said = verify(flight)
    assert found(said) == {
        ("users", "inconsistent", "(5)"),
        ("users", "missing", "(6)"),
        ("users", "inconsistent", "(7)"),
        ("users", "missing", "(10)"),
    }


def test_zd_verify__old_client_comes_to_a_row_of_a_new_one__that_has_all_of_its_values(
    database: Database, tmp_path: Path
) -> None:
    """What it wrote while there was no row to carry it to is carried when there is one."""
    flight = Flight(MEMBERS, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["old"].connection.execute("UPDATE users SET account_id = NULL WHERE id = 5")
        clients["new"].connection.execute("INSERT INTO account_users VALUES (3, 5, 'Own'), (4, 5, 'Other')")
        clients["old"].connection.execute("UPDATE users SET account_id = NULL WHERE id = 5")
        clients["old"].connection.execute("UPDATE users SET account_role = 'mine' WHERE id = 5")
        clients["old"].connection.execute("UPDATE users SET account_id = 4 WHERE id = 5")
        query = "SELECT role FROM account_users WHERE user_id = 5 ORDER BY account_id"
        assert clients["new"].fetch(query)[-1] == ("MINE",)
    said = verify(flight)
    assert said["consistent"], said["discrepancies"]


def test_zd_verify__column_follows_across_tables__corrupted_ones_found(database: Database, tmp_path: Path) -> None:
    flight = Flight(MOVED, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["new"].connection.execute("UPDATE profiles SET email = 'Mixed' WHERE user_id = 30")
        clients["new"].connection.execute("UPDATE profiles SET user_id = 60 WHERE user_id = 31")
        clients["new"].connection.execute("INSERT INTO profiles VALUES (51, 51, 'New'), (52, 1, 'Second')")
        clients["new"].connection.execute("DELETE FROM profiles WHERE user_id = 32")
        clients["old"].connection.execute("UPDATE users SET email = 'oLd' WHERE id IN (30, 33, 59)")
        clients["old"].connection.execute("INSERT INTO users VALUES (61, 'Z')")
        clients["old"].connection.execute("UPDATE profiles SET user_id = 61 WHERE user_id = 34")
    assert verify(flight)["consistent"]
    corrupt(database, "profiles", "UPDATE profiles SET email = 'wrong' WHERE id = 5",
            "UPDATE profiles SET email = NULL WHERE id = 6")  # fmt: skip
    corrupt(database, "users", "UPDATE users SET email = 'wrong' WHERE id = 7")
    assert found(verify(flight)) == {("profiles", "inconsistent", f"({n})") for n in (5, 6, 7)}


CORRUPTED = {
    "members": (
        MEMBERS,
        {
            "account_users": [
                "UPDATE account_users SET role = 'wrong' WHERE user_id = 5",
                "DELETE FROM account_users WHERE user_id = 6",
                "UPDATE account_users SET account_id = 9 WHERE user_id = 10",
            ],
            "users": ["UPDATE users SET account_role = 'wrong' WHERE id = 7"],
        },
        {
            "old": [(5, 6, "Role 5"), (6, 7, "Role 6"), (7, 8, "wrong"), (10, 2, "Role 10")],
            "new": [(5, 6, "wrong"), (6, None, None), (7, 8, "role 7"), (10, 9, "role 10")],
        },
        "SELECT id, account_id, account_role FROM users WHERE id IN (5, 6, 7, 10) ORDER BY id",
    ),
    "moved": (
        MOVED,
        {
            "profiles": [
                "UPDATE profiles SET email = 'Wrong' WHERE id = 5",
                "UPDATE profiles SET email = NULL WHERE id = 6",
            ],
            "users": ["UPDATE users SET email = 'Wrong' WHERE id = 7"],
        },
        {
            "old": [(5, "Ada5@x"), (6, "Ada6@x"), (7, "Wrong")],
            "new": [(5, "wrong"), (6, None), (7, "ada7@x")],
        },
        "SELECT id, email FROM users WHERE id IN (5, 6, 7) ORDER BY id",
    ),
}


@pytest.mark.parametrize("truth", ["old", "new"])
@pytest.mark.parametrize("name", CORRUPTED)
def test_zd_verify_repair__across_tables__consistent_by_the_chosen_version(
    name: str, truth: str, database: Database, tmp_path: Path
) -> None:
    case, statements, expected, query = CORRUPTED[name]
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    for table, writes in statements.items():
        corrupt(database, table, *writes)
    said = verify(flight, f"--repair={truth}")
    assert said["consistent"], said["discrepancies"]
    with flight.client(BEFORE) as client:
        assert client.fetch(query) == expected[truth]
    flight.run("zd-complete")


LEFT = Case(
    "left",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text);
        INSERT INTO users SELECT i, i || '@x' FROM generate_series(1, 9) AS i;
    """,
    upgrade="""
        op.zd_create_table("mails", sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", {"user_id": "id", "email": "email"}))
        op.zd_create_table("letters", sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("mail", sa.Integer, sa.ForeignKey("mails.user_id")))
    """,
    plain="pass",
)


@pytest.mark.parametrize("truth", ["old", "new"])
def test_zd_verify__deletion_that_could_not_follow__found_and_mended(
    truth: str, database: Database, tmp_path: Path
) -> None:
    """The other table's row is referenced: the old client's DELETE succeeds, and the row stays behind."""
    flight = Flight(LEFT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        old, new = clients["old"].connection, clients["new"].connection
        new.execute("INSERT INTO letters VALUES (1, 2), (2, 3), (3, 4)")
        old.execute("DELETE FROM users WHERE id IN (1, 2, 3, 4)")
        new.execute("INSERT INTO mails VALUES (77, 'own')")
        old.execute("INSERT INTO users VALUES (4, '4@x')")
        assert new.execute("SELECT user_id FROM mails WHERE user_id < 5 ORDER BY 1").fetchall() == [(2,), (3,), (4,)]
        left = {("mails", "left behind", f"({n})") for n in (2, 3)}
        assert found(verify(flight)) == left
        refused = flight.project.run_in_process("zd-complete", check=False)
        assert refused.returncode == 2
        if truth == "old":
            assert found(verify(flight, "--repair")) == left
            new.execute("DELETE FROM letters")
        assert verify(flight, f"--repair={truth}")["consistent"]
        there = new.execute("SELECT user_id FROM mails WHERE user_id < 4 ORDER BY 1").fetchall()
        assert there == ([] if truth == "old" else [(2,), (3,)])
    flight.run("zd-complete")


# -- what tables there are ------------------------------------------------------------------------------

VARIED = Case(
    "varied",
    setup="""
        CREATE SCHEMA "Other";
        GRANT USAGE ON SCHEMA "Other" TO zd_app;
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TABLE par (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, m mood DEFAULT 'ok');
        CREATE TABLE child (id integer PRIMARY KEY, par_id integer REFERENCES par);
        CREATE TABLE "Other"."T x" (n integer, "a'b" text, shared text, secret text);
        CREATE TABLE log (line text);
        CREATE FUNCTION logged(v text) RETURNS text VOLATILE LANGUAGE sql SET search_path = public AS
            'INSERT INTO log VALUES (v); SELECT v || random()';
        CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
            'BEGIN PERFORM logged(''trigger''); RETURN NEW; END';
        CREATE TRIGGER noted BEFORE UPDATE ON par FOR EACH ROW EXECUTE FUNCTION noted();
        INSERT INTO par SELECT FROM generate_series(1, 20);
        INSERT INTO child SELECT i, i FROM generate_series(1, 20) AS i;
        INSERT INTO "Other"."T x" SELECT i, 'a' || i, 's', 'x' FROM generate_series(1, 20) AS i;
    """,
    upgrade="""
        op.zd_alter_column("par", "id", type_=sa.BigInteger)
        op.zd_alter_column("child", "par_id", type_=sa.BigInteger)
        op.zd_alter_enum("mood", ["blue", "ok"], up={"sad": "blue"}, down={"blue": "sad"})
        op.zd_alter_column("T x", "a'b", new_column_name="renamed", type_=sa.String(40), schema="Other",
            up='''"a'b" || '!' ''', down="rtrim(renamed, '!')")
        op.zd_add_column("T x", sa.Column("kept", sa.Text, nullable=False), up="shared", schema="Other")
        op.zd_add_column("T x", sa.Column("tag", sa.Text), up="public.logged(shared)", schema="Other")
        op.zd_alter_column("T x", "secret", type_=sa.LargeBinary, up="sha256(secret::bytea)",
            down=alembic_zero.IRREVERSIBLE, schema="Other")
    """,
    plain="pass",
)


def _copy_of(database: Database, table: str, column: str) -> str:
    ((name,),) = database.fetch(
        "SELECT quote_ident(attname) FROM pg_attribute "
        f"WHERE attrelid = '{table}'::regclass AND attname ~ '^_zd_.*_{column}$'"
    )
    return str(name)


def test_zd_verify__keys_enums_schemas_names_and_what_cannot_be_compared(database: Database, tmp_path: Path) -> None:
    flight = Flight(VARIED, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["old"].connection.execute("INSERT INTO par (m) VALUES ('sad')")
        clients["new"].connection.execute("INSERT INTO par (m) VALUES ('blue')")
        clients["old"].connection.execute("UPDATE par SET m = 'sad', id = 101 WHERE id = 21")
    lines = database.fetch("SELECT count(*) FROM log")
    said = verify(flight)
    assert said["consistent"], said["discrepancies"]
    reasons = {u["column"]: u["reason"] for u in said["not_comparable"]}
    assert set(reasons) == {"kept", "tag", "secret"}
    assert "volatile" in reasons["tag"]
    assert "newer" in reasons["kept"]
    id_, par_id, m = (_copy_of(database, *c) for c in (("par", "id"), ("child", "par_id"), ("par", "m")))
    corrupt(database, "par", f"UPDATE par SET {id_} = 500 WHERE id = 22", f"UPDATE par SET {m} = 'blue' WHERE id = 6",
            "UPDATE par SET m = 'sad' WHERE id = 7")  # fmt: skip
    corrupt(database, "child", f"UPDATE child SET {par_id} = 1 WHERE id = 8")
    corrupt(database, '"Other"."T x"', """UPDATE "Other"."T x" SET renamed = 'other' WHERE n = 9""",
            """UPDATE "Other"."T x" SET kept = NULL WHERE n = 10""")  # fmt: skip
    places = dict(database.fetch("""SELECT n, ROW(ctid::text)::text FROM "Other"."T x" WHERE n IN (9, 10)"""))
    said = verify(flight)
    assert found(said) == {
        ("par", "inconsistent", "(22)"),
        ("par", "inconsistent", "(6)"),
        ("par", "inconsistent", "(7)"),
        ("child", "inconsistent", "(8)"),
        ("T x", "inconsistent", places[9]),
        ("T x", "forbidden", places[10]),
    }
    # Nothing has run that does more than compute.
    assert database.fetch("SELECT count(*) FROM log") == lines
    assert verify(flight, "--repair")["consistent"]


def test_zd_verify__on_a_terminal__shows_a_bar(database: Database, tmp_path: Path) -> None:
    flight = Flight(SPLIT, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = flight.project.start("zd-verify", stderr=theirs)
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while piece := terminal.read(4096):
                shown += piece
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"verifying public.users" in shown
    assert b"blocks" in shown
