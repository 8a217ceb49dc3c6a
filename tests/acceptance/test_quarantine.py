"""The old application never fails, whatever the new shape thinks of its writes; the new one gets ordinary errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.harness import AFTER, Case, Flight

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Database

pytestmark = pytest.mark.one_server

# By new column: its type, what goes wrong in it for the value 'bad_<column>', and a word of the error.
CAUSES = {
    "raised": ("sa.Column('raised', sa.Text)", "text", "public.picky(v)", "picky says no to bad_raised"),
    "nulled": ("sa.Column('nulled', sa.Text, nullable=False)", "text", "nullif(v, 'bad_nulled')", "null value"),
    "checked": (
        "sa.Column('checked', sa.Integer, sa.CheckConstraint('checked > 0', name='above'))", "integer",
        "CASE v WHEN 'bad_checked' THEN -1 ELSE 1 END", "above",
    ),
    "domained": (
        "sa.Column('domained', sa.dialects.postgresql.DOMAIN('positive', sa.Integer, create_type=False))", "integer",
        "CASE v WHEN 'bad_domained' THEN -1 ELSE 1 END", "positive",
    ),
    "long": (
        "sa.Column('long', sa.String(20))", "text", "CASE v WHEN 'bad_long' THEN repeat(v, 9) ELSE v END", "too long",
    ),
    "overflown": (
        "sa.Column('overflown', sa.SmallInteger)", "integer", "CASE v WHEN 'bad_overflown' THEN 99999 ELSE 1 END",
        "out of range",
    ),
    "divided": (
        "sa.Column('divided', sa.Integer)", "integer", "6 / CASE v WHEN 'bad_divided' THEN 0 ELSE 2 END",
        "division by zero",
    ),
    "cast": (
        "sa.Column('cast', sa.Integer)", "integer", "CASE v WHEN 'bad_cast' THEN v ELSE '5' END::integer",
        "invalid input",
    ),
}  # fmt: skip


def _function(name: str, returns: str, body: str) -> str:
    return f"""CREATE OR REPLACE FUNCTION make_{name}(v text) RETURNS {returns} IMMUTABLE LANGUAGE plpgsql
        AS 'BEGIN RETURN {body.replace("'", "''")}; END';"""


# Every expression is in a function, so that the cause of an error can go away while the row stays as it is.
SETUP = """
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE FUNCTION picky(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
        'BEGIN IF v = ''bad_raised'' THEN RAISE ''picky says no to %'', v; END IF; RETURN v; END';
""" + "".join(_function(name, returns, body) for name, (_, returns, body, _) in CAUSES.items())

CASE = Case(
    "causes",
    setup=SETUP
    + """
        CREATE TABLE t (id integer PRIMARY KEY, v text);
        INSERT INTO t SELECT i, 'good ' || i FROM generate_series(1, 40) AS i;
    """,
    upgrade="".join(
        f"""
        op.zd_add_column("t", {column}, up="make_{name}(v)")"""
        for name, (column, *_) in CAUSES.items()
    )
    + """
        op.zd_drop_column("t", "v", down="nulled")""",
    plain="pass",
)
# What a new client has to say of a row in which nothing could be computed.
WHOLE = "raised = 'r', nulled = 'n', checked = 1, domained = 1, long = 'l', overflown = 1, divided = 1, \"cast\" = 1"


def _status(flight: Flight) -> dict[str, str]:
    (table,) = json.loads(flight.run("zd-status", "--json").stdout)["tables"]
    return {row["key"]: row["error"] for row in table["quarantined_rows"]}


def _verified(flight: Flight, *arguments: str) -> dict[str, Any]:
    """Return the keys and errors that zd-verify lists; all must be of quarantined rows."""
    said = json.loads(flight.project.run_in_process("zd-verify", "--json", *arguments, check=False).stdout)
    assert {f["kind"] for f in said["discrepancies"]} <= {"quarantined"}, said
    return {f["key"]: f["error"] for f in said["discrepancies"]}


def test_quarantine__every_cause__old_client_goes_on_and_each_way_of_repair_works(
    database: Database, tmp_path: Path
) -> None:
    flight = Flight(CASE, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    words = {}
    with flight.clients() as clients:
        old, new = clients["old"].connection, clients["new"].connection
        for number, (name, (*_, word)) in enumerate(CAUSES.items()):
            bad = f"bad_{name}"
            insert, update, upsert = 100 + number, 1 + number, 11 + number
            old.execute(f"INSERT INTO t VALUES ({insert}, '{bad}')".encode())
            old.execute(f"UPDATE t SET v = '{bad}' WHERE id = {update}".encode())
            old.execute(
                f"INSERT INTO t VALUES ({upsert}, 'x') ON CONFLICT (id) DO UPDATE SET v = '{bad}' RETURNING v".encode()
            )
            words |= {f"(id)=({key})": word for key in (insert, update, upsert)}
        found = _verified(flight)
        assert set(found) == set(words) or len(found) == 20  # the list is cut, the count is not
        for key, error in (found | _status(flight)).items():
            assert words[key] in error, (key, error)
        shown = flight.project.run_in_process("zd-verify", check=False)
        assert f"{len(words)} quarantined" in shown.stdout
        refused = flight.project.run_in_process("zd-complete", check=False)
        assert refused.returncode == 2
        assert "ZD261" in refused.stdout + refused.stderr

        # (i) The old client writes something better; (ii) the new one does.
        old.execute("UPDATE t SET v = 'better' WHERE id < 11 AND v LIKE 'bad%'")
        new.execute(f"UPDATE t SET {WHOLE} WHERE id BETWEEN 11 AND 30 AND nulled IS NULL".encode())
        left = _verified(flight)
        assert set(left) == {f"(id)=({100 + n})" for n in range(len(CAUSES))}, left
        assert old.execute("SELECT count(*) FROM t WHERE v = 'n'").fetchone() == (len(CAUSES),)

        # (iii) The cause goes; nobody touches the rows.
        assert len(_verified(flight, "--repair")) == len(CAUSES)
        database.execute("ALTER DOMAIN positive DROP CONSTRAINT positive_check")
        for name, (_, returns, _, _) in CAUSES.items():
            database.execute(_function(name, returns, "'1'" if returns == "text" else "1"))
        assert _verified(flight, "--repair") == {}
        assert old.execute("SELECT count(*) FROM t WHERE v LIKE 'bad%'").fetchone() == (len(CAUSES),)
    flight.run("zd-complete")


LINKED = Case(
    "linked",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text);
        CREATE TABLE banned (email text PRIMARY KEY);
        CREATE FUNCTION is_banned(email text) RETURNS boolean STABLE LANGUAGE plpgsql
            AS 'BEGIN RETURN EXISTS (SELECT FROM banned AS b WHERE b.email = is_banned.email); END';
        INSERT INTO users VALUES (1, 'a@x'), (2, 'b@x'), (3, 'c@x'), (4, 'd@x');
        INSERT INTO banned VALUES ('bad');
    """,
    upgrade="""
        op.zd_create_table("mails",
            sa.Column("user_id", sa.Integer, primary_key=True, autoincrement=False), sa.Column("email", sa.Text),
            sa.CheckConstraint("NOT is_banned(email)", name="welcome"),
            up=alembic_zero.from_table("users", {"user_id": "id", "email": "email"}))
    """,
    plain="pass",
)


def test_quarantine__another_table_refuses__each_way_of_repair_works(database: Database, tmp_path: Path) -> None:
    flight = Flight(LINKED, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        old, new = clients["old"].connection, clients["new"].connection
        old.execute("UPDATE users SET email = 'bad' WHERE id < 4")
        old.execute("INSERT INTO users VALUES (5, 'bad')")
        found = _verified(flight)
        assert set(found) == {f"(id)=({n})" for n in (1, 2, 3, 5)}
        assert all("welcome" in error for error in found.values())
        assert flight.project.run_in_process("zd-complete", check=False).returncode == 2
        old.execute("UPDATE users SET email = 'e@x' WHERE id = 1")
        new.execute("UPDATE users SET email = 'f@x' WHERE id = 2")
        assert set(_verified(flight, "--repair")) == {"(id)=(3)", "(id)=(5)"}
        database.execute("DELETE FROM banned")
        assert _verified(flight, "--repair") == {}
        assert new.execute("SELECT * FROM mails ORDER BY 1").fetchall() == [
            (1, "e@x"), (2, "f@x"), (3, "bad"), (4, "d@x"), (5, "bad"),
        ]  # fmt: skip
    flight.run("zd-complete")


# -- a down that fails --------------------------------------------------------------------------------

# By column: its type in the old version, down, the SQLSTATE that a new client gets for the value 'bad'.
DOWNS = {
    "raises": ("text", "picky(raises)", "P0001"),
    "checks": ("text CHECK (checks <> 'bad')", "checks", "23514"),
    "nulls": ("text NOT NULL", "nullif(nulls, 'bad')", "23502"),
    "cuts": ("varchar(9)", "CASE cuts WHEN 'bad' THEN 'much too long' ELSE cuts END", "22001"),
    "divides": ("integer", "1 / CASE divides WHEN 'bad' THEN 0 ELSE 1 END", "22012"),
    "casts": ("integer", "CASE casts WHEN 'bad' THEN casts ELSE '1' END::integer", "22P02"),
    "overflows": ("smallint", "CASE overflows WHEN 'bad' THEN 99999 ELSE 1 END", "22003"),
    "repeats": ("text UNIQUE", "CASE repeats WHEN 'bad' THEN '2' ELSE repeats END", "23505"),
}
DOWN_FAILS = Case(
    "down_fails",
    setup="""
        CREATE FUNCTION picky(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
            'BEGIN IF v = ''bad'' THEN RAISE ''picky says no''; END IF; RETURN v; END';
        CREATE TABLE t (id integer PRIMARY KEY, """
    + ", ".join(f"{name} {type_}" for name, (type_, *_) in DOWNS.items())
    + f""");
        INSERT INTO t VALUES (1, {", ".join(["'1'"] * len(DOWNS))}), (2, {", ".join(["'2'"] * len(DOWNS))});
    """,
    upgrade="".join(
        f"""
        op.zd_add_column("t", sa.Column("new_{name}", sa.Text), up="{name}::text")
        op.zd_drop_column("t", "{name}", down="{down.replace(name, "new_" + name)}")"""
        for name, (_, down, _) in DOWNS.items()
    ),
    plain="pass",
)


def test_down__fails_for_a_new_client__ordinary_error_and_no_change(database: Database, tmp_path: Path) -> None:
    flight = Flight(DOWN_FAILS, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    whole = database.fetch("SELECT t::text FROM t ORDER BY id")
    names = ", ".join(f"new_{name}" for name in DOWNS)
    with flight.client(AFTER) as client:
        for name, (_, _, sqlstate) in DOWNS.items():
            values = ", ".join("'bad'" if other == name else "'3'" for other in DOWNS)
            for statement in (
                f"UPDATE t SET new_{name} = 'bad' WHERE id = 1",
                f"INSERT INTO t (id, {names}) VALUES (3, {values})",
                f"INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET new_{name} = 'bad'",
            ):
                if statement.startswith("INSERT INTO t (id) ") and name != "nulls":
                    statement = statement.replace("(id) VALUES (1)", "(id, new_nulls) VALUES (1, 'n')")
                with pytest.raises(psycopg.Error) as caught:
                    client.connection.execute(statement.encode())
                assert caught.value.sqlstate == sqlstate, (statement, caught.value)
        assert database.fetch("SELECT t::text FROM t ORDER BY id") == whole
        client.connection.execute("UPDATE t SET new_raises = 'fine' WHERE id = 1")
    assert json.loads(flight.run("zd-verify", "--json").stdout)["consistent"]
