"""REDTEAM B12 and E6: UNIQUE and foreign keys on derived columns; subqueries of other tables."""

from __future__ import annotations

import json
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.acceptance.test_redteam import assert_refused
from tests.support.harness import AFTER, APP, BEFORE, OUTCOMES, Case, Flight, new, old
from tests.support.project import AlembicProject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.server import Database

pytestmark = pytest.mark.one_server


def _fly(case: Case, database: Database, directory: Path) -> Flight:
    flight = Flight(case, database, directory / "project")
    flight.run("upgrade", AFTER)
    return flight


def _status(flight: Flight) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(flight.run("zd-status", "--json").stdout)
    return found


# -- E6 -----------------------------------------------------------------------------------------------

_LABELS = f"""
    CREATE TABLE statuses (id integer PRIMARY KEY, label text UNIQUE);
    REVOKE ALL ON statuses FROM {APP};
    INSERT INTO statuses VALUES (1, 'open'), (2, 'closed');
    CREATE TABLE orders (id integer PRIMARY KEY, status text);
    INSERT INTO orders VALUES (1, 'open'), (2, 'closed'), (3, 'unknown');
"""
_LABEL_OF = "(SELECT s.label FROM statuses s WHERE s.id = status_id)"
LOOK_UP = Case(
    "look_up",
    _LABELS,
    """
    op.zd_add_column("orders", sa.Column("status_id", sa.Integer),
                     up="(SELECT s.id FROM statuses s WHERE s.label = status)")
    op.zd_drop_column("orders", "status", down="(SELECT s.label FROM statuses s WHERE s.id = status_id)")
    """,
    """
    op.add_column("orders", sa.Column("status_id", sa.Integer))
    op.drop_column("orders", "status")
    """,
    """
    op.zd_add_column("orders", sa.Column("status", sa.Text),
                     up="(SELECT s.label FROM statuses s WHERE s.id = status_id)")
    op.zd_drop_column("orders", "status_id", down="(SELECT s.id FROM statuses s WHERE s.label = status)")
    """,
    writes=[
        old("INSERT INTO orders VALUES (4, 'open'), (5, 'nowhere') RETURNING status", [("open",), ("nowhere",)]),
        new("INSERT INTO orders VALUES (6, 2) RETURNING status_id", [(2,)]),
        old("UPDATE orders SET status = 'closed' WHERE id = 1"),
        new("UPDATE orders SET status_id = 1 WHERE id = 2"),
        new("INSERT INTO orders VALUES (6, 1) ON CONFLICT (id) DO UPDATE SET status_id = excluded.status_id"),
        old("INSERT INTO orders VALUES (4, 'closed') ON CONFLICT (id) DO UPDATE SET status = excluded.status"),
    ],
    old={
        "SELECT id, status FROM orders": [
            (1, "closed"), (2, "open"), (3, "unknown"), (4, "closed"), (5, "nowhere"), (6, "open"),
        ]
    },
    new={"SELECT id, status_id FROM orders": [(1, 2), (2, 1), (3, None), (4, 2), (5, None), (6, 1)]},
    reversed={
        "SELECT id, status FROM orders": [
            (1, "closed"), (2, "open"), (3, None), (4, "closed"), (5, None), (6, "open"),
        ]
    },
    probes=False,
)  # fmt: skip


@pytest.mark.parametrize("outcome", ["complete", "rollback", "reverse"])
def test_e06_lookup_in_another_table__client_without_rights_on_it__followed(outcome, database, tmp_path):
    """The trigger looks up with the migrating role's rights: nothing ends in quarantine."""
    OUTCOMES[outcome](LOOK_UP, database, tmp_path)


def test_e06_lookup_in_another_table__nothing_that_a_client_could_call(database, tmp_path):
    """What reads the other table with the migration's rights is closed: a client's call of it is refused."""
    flight = _fly(LOOK_UP, database, tmp_path)
    functions = database.fetch(
        "SELECT oid::regprocedure::text, has_function_privilege('zd_app', oid, 'EXECUTE'), prosecdef FROM pg_proc"
        " WHERE pronamespace = 'alembic_zero'::regnamespace ORDER BY 1"
    )
    reading = [name for name, _, _ in functions if "up_" in name or "down_" in name or "sync_" in name]
    assert len(reading) == 3, functions
    assert [name for name, callable_, _ in functions if callable_ and name in reading] == []
    with flight.client(BEFORE) as client:
        for name in reading:
            arguments = "NULL" if "sync_" not in name else ""
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.fetch(f"SELECT {name.split('(')[0]}({arguments})")
    pinned = database.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'alembic_zero'::regnamespace AND prosecdef"
        " AND NOT COALESCE(array_to_string(proconfig, ',') LIKE '%search_path=%', false)"
    )
    assert pinned == []


def test_e06_lookup_in_another_table__client_with_a_path_and_tables_of_its_own__means_the_same(database, tmp_path):
    """A temporary table of that name, or another schema first on the path, changes nothing."""
    flight = _fly(LOOK_UP, database, tmp_path)
    with flight.client(BEFORE) as client:
        client.connection.execute("CREATE TEMP TABLE statuses (id integer, label text)")
        client.connection.execute("INSERT INTO pg_temp.statuses VALUES (666, 'open')")
        client.connection.execute("INSERT INTO orders VALUES (7, 'open')")
    with flight.client(AFTER) as client:
        assert client.fetch("SELECT status_id FROM orders WHERE id = 7") == [(1,)]


@pytest.mark.since(15, "its views cannot keep row security, ZD242")
def test_e06_lookup_in_another_table__row_security_there__seen_by_nobody_but_the_owner(database, tmp_path):
    """Policies for clients do not apply: what a row becomes does not depend on who wrote it."""
    setup = f"""{_LABELS}
    GRANT SELECT ON statuses TO {APP};
    ALTER TABLE statuses ENABLE ROW LEVEL SECURITY;
    CREATE POLICY nothing ON statuses TO {APP} USING (false);
    """
    flight = _fly(Case("row_security", setup, LOOK_UP.upgrade, "pass"), database, tmp_path)
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO orders VALUES (7, 'open')")
    with flight.client(AFTER) as client:
        assert client.fetch("SELECT status_id FROM orders WHERE id = 7") == [(1,)]


@pytest.mark.since(15, "its views cannot keep row security, ZD242")
def test_e06_lookup_in_another_table__row_security_hides_it_from_the_migrating_role__refused(database, tmp_path):
    """A role that sees a part only would fill the column wrongly, and say nothing."""
    database.execute("DROP ROLE IF EXISTS zd_part; CREATE ROLE zd_part LOGIN")
    name = database.fetch("SELECT current_database()")[0][0]
    database.execute(
        f"{_LABELS} ALTER TABLE statuses ENABLE ROW LEVEL SECURITY; ALTER TABLE orders OWNER TO zd_part;"
        f"GRANT SELECT ON statuses TO zd_part; GRANT CREATE ON DATABASE {name} TO zd_part;"
        "GRANT ALL ON SCHEMA public TO zd_part"
    )
    project = AlembicProject(tmp_path / "project", database.url.set(username="zd_part"))
    project.revision(BEFORE)
    project.revision(AFTER, BEFORE, LOOK_UP.upgrade, "pass")
    project.run_in_process("stamp", BEFORE)
    project.run_in_process("zd-init")
    refused = project.run_in_process("upgrade", AFTER, check=False)
    assert refused.returncode == 2
    assert "ZD211" in refused.stdout + refused.stderr
    assert "row security" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("(SELECT max(o.id) FROM orders o)", ["other rows of its own table"]),
        ("(SELECT id FROM labels WHERE label = status)", ["public.labels", "not a table"]),
    ],
    ids=["own table", "view"],
)
def test_e06_lookup_where_it_would_not_mean_what_it_says__refused(expression, words, database, tmp_path):
    """Rows of the own table change while they are filled; a view's base may be in flight itself."""
    setup = f"{_LABELS} CREATE VIEW labels AS SELECT * FROM statuses;"
    upgrade = f'op.zd_add_column("orders", sa.Column("n", sa.Integer), up={expression!r})'
    flight = Flight(Case("refused", setup, upgrade, "pass"), database, tmp_path / "project")
    for word in ["ZD211", *words]:
        assert_refused(flight, word)


_DROPS = {
    "column": 'op.zd_drop_column("statuses", "label", down="\'?\'")',
    "type": 'op.zd_alter_column("statuses", "label", type_=sa.String(20))',
    "table": 'op.zd_drop_table("statuses")',
}


@pytest.mark.parametrize("drop", _DROPS.values(), ids=_DROPS)
def test_e06_column_that_is_looked_up__may_go_only_after_that_is_completed(drop, database, tmp_path):
    """PostgreSQL would stop the contract half-way: refused with advice, and fine once the reader is completed."""
    flight = _fly(LOOK_UP, database, tmp_path)
    flight.project.revision("r3", AFTER, drop, "pass")
    before = flight.everything()
    refused = flight.project.run_in_process("upgrade", "r3", check=False)
    assert refused.returncode == 2
    for word in ("ZD207", "statuses", "public.orders", f"zd-complete {AFTER}"):
        assert word in refused.stderr + refused.stdout
    assert flight.everything() == before
    flight.run("zd-complete")
    flight.run("upgrade", "r3")
    flight.run("zd-complete")


@pytest.mark.parametrize("drop", _DROPS.values(), ids=_DROPS)
def test_e06_column_that_is_looked_up__goes_in_the_same_upgrade__refused(drop, database, tmp_path):
    """The look-up works until zd-complete, and so must the column."""
    flight = Flight(Case("both", _LABELS, f"{LOOK_UP.upgrade}\n    {drop}", "pass"), database, tmp_path / "project")
    assert_refused(flight, "ZD211")


def test_e06_table_that_is_looked_up_is_in_flight__refused(database, tmp_path):
    """Its physical columns are not what the revision's author sees."""
    upgrade = 'op.zd_alter_column("statuses", "label", type_=sa.String(20))'
    flight = _fly(Case("first", _LABELS, upgrade, "pass"), database, tmp_path)
    flight.project.revision("r3", AFTER, LOOK_UP.upgrade, "pass")
    refused = flight.project.run_in_process("upgrade", "r3", check=False)
    assert refused.returncode == 2
    for word in ("ZD211", "public.statuses", "in flight", f"zd-complete {AFTER}"):
        assert word in refused.stderr + refused.stdout
    flight.run("zd-complete")
    flight.run("upgrade", "r3")
    flight.run("zd-complete")


def test_e06_lookup_in_a_table_of_the_same_revision__filled(database, tmp_path):
    """op.create_table and its rows come first, as they stand in the revision."""
    upgrade = """
    op.create_table("kinds", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
    op.execute("INSERT INTO kinds VALUES (1, 'open'), (2, 'closed')")
    op.zd_add_column("orders", sa.Column("kind_id", sa.Integer), up="(SELECT id FROM kinds WHERE name = status)")
    """
    flight = _fly(Case("created", _LABELS, upgrade, "pass"), database, tmp_path)
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO orders VALUES (7, 'open')")
    with flight.client(AFTER) as client:
        assert client.fetch("SELECT id, kind_id FROM orders ORDER BY id") == [(1, 1), (2, 2), (3, None), (7, 1)]
    flight.run("zd-complete")
    assert not _status(flight)["tables"]


# -- B12 ----------------------------------------------------------------------------------------------

_EMAILS = """
    CREATE TABLE users (id integer PRIMARY KEY, email text, team integer, note text);
    INSERT INTO users VALUES (1, 'Ada@x', 1), (2, 'Bob@x', 1);
"""
UNIQUE = Case(
    "unique",
    _EMAILS,
    """
    op.zd_add_column("users", sa.Column("mail", sa.Text, unique=True), up="lower(email)")
    op.zd_drop_column("users", "email", down="mail")
    """,
    """
    op.add_column("users", sa.Column("mail", sa.Text, unique=True))
    op.drop_column("users", "email")
    """,
    """
    op.zd_add_column("users", sa.Column("email", sa.Text), up="mail")
    op.zd_drop_column("users", "mail", down="lower(email)")
    """,
    writes=[
        old("INSERT INTO users VALUES (3, 'ada@X') RETURNING email", [("ada@X",)]),
        old("INSERT INTO users VALUES (4, 'Cleo@x'), (5, 'CLEO@x'), (6, 'Dan@x')"),
        old("UPDATE users SET email = 'BOB@X' WHERE id = 6"),
        new("INSERT INTO users VALUES (7, NULL, NULL, 'bob@x')", error="23505"),
        new("INSERT INTO users (id, mail) VALUES (7, 'bob@x') ON CONFLICT (mail) DO NOTHING"),
        new("INSERT INTO users (id, mail) VALUES (7, 'ada@x') ON CONFLICT (mail) DO UPDATE SET note = 'met'"),
        new("UPDATE users SET mail = 'ada@x' WHERE id = 2", error="23505"),
        old("INSERT INTO users VALUES (2, 'bob@x') ON CONFLICT (id) DO UPDATE SET email = excluded.email"),
        # What was in the way of row 3 goes.
        new("UPDATE users SET mail = 'countess@x' WHERE id = 1"),
        old("UPDATE users SET email = 'Five@x' WHERE id = 5"),
        old("UPDATE users SET email = 'Six@x' WHERE id = 6"),
        old("UPDATE users SET note = 'any update ends it' WHERE id = 3"),
    ],
    old={
        "SELECT id, email, note FROM users": [
            (1, "countess@x", "met"), (2, "bob@x", None), (3, "ada@X", "any update ends it"),
            (4, "Cleo@x", None),
            (5, "Five@x", None), (6, "Six@x", None),
        ]
    },
    new={
        "SELECT id, mail FROM users": [
            (1, "countess@x"), (2, "bob@x"), (3, "ada@x"), (4, "cleo@x"), (5, "five@x"), (6, "six@x"),
        ]
    },
    reversed={
        "SELECT id, email FROM users": [
            (1, "countess@x"), (2, "bob@x"), (3, "ada@x"), (4, "cleo@x"), (5, "five@x"), (6, "six@x"),
        ]
    },
)  # fmt: skip

_CUSTOMERS = """
    CREATE TABLE customers (id integer PRIMARY KEY, note text);
    CREATE TABLE orders (id integer PRIMARY KEY, customer text);
    INSERT INTO customers VALUES (1), (2), (3);
    INSERT INTO orders VALUES (1, '1'), (2, '2'), (3, NULL);
"""
FOREIGN_KEY = Case(
    "foreign_key",
    _CUSTOMERS,
    """
    op.zd_add_column("orders", sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.id", ondelete="CASCADE")),
                     up="customer::integer")
    op.zd_drop_column("orders", "customer", down="customer_id::text")
    """,
    """
    op.add_column("orders", sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.id", ondelete="CASCADE")))
    op.drop_column("orders", "customer")
    """,
    """
    op.zd_add_column("orders", sa.Column("customer", sa.Text), up="customer_id::text")
    op.zd_drop_column("orders", "customer_id", down="customer::integer")
    """,
    writes=[
        old("INSERT INTO orders VALUES (4, '7') RETURNING customer", [("7",)]),
        old("INSERT INTO orders VALUES (5, '3'), (6, '8'), (7, 'nine')"),
        old("UPDATE orders SET customer = '9' WHERE id = 2"),
        new("SELECT id, customer_id FROM orders ORDER BY id",
            [(1, 1), (2, None), (3, None), (4, None), (5, 3), (6, None), (7, None)]),
        new("INSERT INTO orders VALUES (8, 7)", error="23503"),
        new("UPDATE orders SET customer_id = 7 WHERE id = 5", error="23503"),
        old("INSERT INTO customers VALUES (7)"),
        old("UPDATE orders SET customer = '7' WHERE id IN (2, 4)"),
        new("UPDATE orders SET customer_id = 7 WHERE id = 6"),
        old("UPDATE orders SET customer = NULL WHERE id = 7"),
        old("DELETE FROM customers WHERE id = 3"),
    ],
    old={"SELECT id, customer FROM orders": [(1, "1"), (2, "7"), (3, None), (4, "7"), (6, "7"), (7, None)]},
    new={"SELECT id, customer_id FROM orders": [(1, 1), (2, 7), (3, None), (4, 7), (6, 7), (7, None)]},
)  # fmt: skip


@pytest.mark.parametrize("outcome", ["complete", "rollback", "reverse"])
@pytest.mark.parametrize("case", [UNIQUE, FOREIGN_KEY], ids=str)
def test_b12_constraint_on_a_derived_column__old_client_quarantined_new_client_refused(
    case, outcome, database, tmp_path
):
    """The old client's statements all succeed; the new one's get the ordinary SQLSTATE."""
    OUTCOMES[outcome](case, database, tmp_path)


# -- B12: races ---------------------------------------------------------------------------------------


def _run_all(*actions: Callable[[], object]) -> list[BaseException | None]:
    """Run actions at once; return what each raised."""
    raised: list[BaseException | None] = [None] * len(actions)

    def run(n: int) -> None:
        try:
            actions[n]()
        except Exception as error:  # noqa: BLE001 - handed on
            raised[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


_A = "INSERT INTO users (id, email) VALUES (11, 'Eve@x')"
_B = "INSERT INTO users (id, email) VALUES (12, 'eve@X')"


@pytest.mark.parametrize("first", [BEFORE, AFTER], ids=["old", "new"])
def test_b12_same_key_not_yet_committed__outcome_awaited_for_a_moment(first, database, tmp_path):
    """Whoever is first: the old client waits as a unique index would, but never long, and never fails."""
    flight = _fly(UNIQUE, database, tmp_path)
    write = _A if first == BEFORE else "INSERT INTO users (id, mail) VALUES (11, 'eve@x')"
    with flight.client(first) as one, flight.client(BEFORE) as other:
        one.connection.execute("BEGIN")
        one.connection.execute(write.encode())
        # It cannot know how this will end, and does not wait until it is over.
        other.connection.execute(_B.encode())
        one.connection.execute("ROLLBACK")
        (row,) = _status(flight)["tables"][0]["quarantined_rows"]
        assert row["key"] == "(id)=(12)"
        assert "fits by now" in row["error"]
        other.connection.execute("DELETE FROM users WHERE id = 12")
        # A rollback that comes soon is seen.
        one.connection.execute("BEGIN")
        one.connection.execute(write.encode())
        raised = _run_all(
            lambda: other.connection.execute(_B.encode()),
            lambda: (time.sleep(0.02), one.connection.execute("ROLLBACK")),
        )
        assert raised == [None, None]
    flight.run("zd-complete")
    assert database.fetch("SELECT id, mail FROM users WHERE id > 10") == [(12, "eve@x")]


@pytest.mark.parametrize("first", [BEFORE, AFTER], ids=["old", "new"])
def test_b12_same_key_not_yet_committed__then_committed__quarantined(first, database, tmp_path):
    """The row of an old client that comes second is set aside, and explained."""
    flight = _fly(UNIQUE, database, tmp_path)
    write = _A if first == BEFORE else "INSERT INTO users (id, mail) VALUES (11, 'eve@x')"
    with flight.client(first) as one, flight.client(BEFORE) as other:
        one.connection.execute("BEGIN")
        one.connection.execute(write.encode())
        raised = _run_all(
            lambda: other.connection.execute(_B.encode()),
            lambda: (time.sleep(0.02), one.connection.execute("COMMIT")),
        )
        assert raised == [None, None]
    (row,) = _status(flight)["tables"][0]["quarantined_rows"]
    assert row["key"] == "(id)=(12)"
    for word in ("duplicate key", "mail", "(eve@x)", "(id)=(11)"):
        assert word in row["error"]
    refused = flight.project.run_in_process("zd-complete", check=False)
    assert refused.returncode == 2
    assert "ZD261" in refused.stderr + refused.stdout
    assert "(id)=(11)" in refused.stderr + refused.stdout


def test_b12_new_client_meets_an_old_ones_key__waits_and_gets_the_ordinary_error(database, tmp_path):
    """The unique index does what it always does."""
    flight = _fly(UNIQUE, database, tmp_path)
    with flight.client(BEFORE) as one, flight.client(AFTER) as other:
        one.connection.execute("BEGIN")
        one.connection.execute(_A.encode())
        raised = _run_all(
            lambda: other.connection.execute("INSERT INTO users (id, mail) VALUES (12, 'eve@x')"),
            lambda: (time.sleep(0.5), one.connection.execute("COMMIT")),
        )
        assert isinstance(raised[0], psycopg.errors.UniqueViolation)
        assert raised[0].diag.constraint_name == "users_mail_key"
        assert raised[1] is None


def test_b12_keys_taken_crosswise_in_transactions__nobody_is_a_deadlocks_victim(database, tmp_path):
    """Old clients with keys in opposite orders: with waits in the lock queue, one of each pair would die."""
    flight = _fly(UNIQUE, database, tmp_path)
    barrier = threading.Barrier(2)

    def transfer(session: Any, first: int, keys: tuple[str, str]) -> None:
        with session.connection.transaction():
            session.connection.execute(b"INSERT INTO users (id, email) VALUES (%s, %s)", (first, keys[0]))
            barrier.wait(30)
            session.connection.execute(b"INSERT INTO users (id, email) VALUES (%s, %s)", (first + 1, keys[1]))
            # Long enough for the server to look for deadlocks.
            barrier.wait(30)

    with flight.client(BEFORE) as one, flight.client(BEFORE) as other:
        for n in range(3):
            keys = (f"k{n}", f"l{n}")
            raised = _run_all(
                partial(transfer, one, 100 + 10 * n, keys), partial(transfer, other, 105 + 10 * n, keys[::-1])
            )
            assert raised == [None, None]
    assert database.fetch("SELECT count(*), count(mail) FROM users WHERE id >= 100") == [(12, 6)]
    assert database.fetch("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


def test_b12_old_and_new_clients_at_once_over_few_keys__old_ones_never_fail(database, tmp_path):
    """Inserts, updates, upserts and deletes over twenty keys: no old client's statement fails, no key comes twice."""
    flight = _fly(UNIQUE, database, tmp_path)
    failures: list[str] = []
    done: list[int] = []
    until = time.monotonic() + 6

    def work(worker: int, revision: str) -> None:
        chance = random.Random(worker)
        column, allowed = ("email", ()) if revision == BEFORE else ("mail", ("23505",))
        with flight.client(revision) as client:
            while time.monotonic() < until:
                key, id_ = f"Key{chance.randrange(20)}", chance.randrange(60)
                value = key if revision == BEFORE else key.lower()
                insert = f"INSERT INTO users (id, {column}) VALUES ({id_}, '{value}')"
                statement = chance.choice((
                    f"{insert} ON CONFLICT (id) DO NOTHING",
                    f"{insert} ON CONFLICT (id) DO UPDATE SET {column} = excluded.{column}",
                    f"UPDATE users SET {column} = '{value}' WHERE id = {id_}",
                    f"DELETE FROM users WHERE id = {id_}",
                ))  # fmt: skip
                try:
                    if chance.random() < 0.5:
                        client.connection.execute(statement.encode())
                    else:
                        with client.connection.transaction():
                            client.connection.execute(statement.encode())
                            time.sleep(0.01 * chance.random())
                    done.append(worker)
                except psycopg.Error as error:
                    if error.sqlstate not in allowed:
                        failures.append(f"{revision}: {error.sqlstate} {error} {statement}")

    raised = _run_all(*(partial(work, n, BEFORE if n < 4 else AFTER) for n in range(7)))
    assert raised == [None] * 7
    assert failures == []
    assert len({*done}) == 7
    database.execute("UPDATE users SET note = 'all again' WHERE mail IS NULL")
    keys = database.fetch("SELECT lower(email), count(*), count(mail) FROM users WHERE email IS NOT NULL GROUP BY 1")
    assert [key for key in keys if key[2] != 1] == []
    database.execute("DELETE FROM users WHERE mail IS NULL")
    flight.run("zd-complete")


# -- B12: large statements, rows that are there, rights ---------------------------------------------------


def test_b12_statement_of_many_thousand_rows__does_not_fill_the_lock_table(database, tmp_path):
    """One lock for each key would use up what all sessions of the server share."""
    flight = _fly(UNIQUE, database, tmp_path)
    with flight.client(BEFORE) as client, client.connection.transaction():
        client.connection.execute(
            "INSERT INTO users (id, email) SELECT n, 'Bulk' || n % 9000 FROM generate_series(100, 12099) AS n"
        )
        pid = client.connection.info.backend_pid
        (locks,) = database.fetch(f"SELECT count(*) FROM pg_locks WHERE pid = {pid}")[0]
    assert locks < 50
    assert database.fetch("SELECT count(*), count(mail) FROM users WHERE id >= 100") == [(12000, 9000)]


def test_b12_rows_that_are_there_collide__upgrade_names_them_and_goes_on_once_corrected(database, tmp_path):
    """Nothing is published; the old version works on; the message has the rows, the constraint and the key."""
    flight = Flight(UNIQUE, database, tmp_path / "project")
    database.execute("INSERT INTO users SELECT n, 'row' || n FROM generate_series(10, 3000) AS n")
    database.execute("UPDATE users SET email = 'ROW10' WHERE id = 2000")
    for word in ("ZD213", "(2000)", "(10)", "(row10)", "mail", "nothing was changed"):
        assert_refused(flight, word)
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO users VALUES (5000, 'row11'), (5001, 'unlike')")
        client.connection.execute("UPDATE users SET email = 'unlike, too' WHERE id IN (2000, 5000)")
        client.connection.execute("DELETE FROM users WHERE id = 5000")
    flight.run("upgrade", AFTER)
    flight.run("zd-complete")
    assert database.fetch("SELECT count(*), count(DISTINCT mail) FROM users") == [(2994, 2994)]


def test_b12_rows_that_are_there_reference_nothing__upgrade_names_them(database, tmp_path):
    """Before anything changes; what appears later is found before anything is published."""
    flight = Flight(FOREIGN_KEY, database, tmp_path / "project")
    database.execute("INSERT INTO orders VALUES (10, '77')")
    for word in ("ZD213", "(10)", "(77)", "orders_customer_id_fkey", "customers", "nothing was changed"):
        assert_refused(flight, word)


def test_b12_old_clients_write_equal_keys_during_the_upgrade__none_fails(database, tmp_path):
    """Before the index, while it is built, while rows are filled: the upgrade lists them, nobody's write fails."""
    flight = Flight(UNIQUE, database, tmp_path / "project")
    database.execute("INSERT INTO users SELECT n, 'row' || n FROM generate_series(10, 8000) AS n")
    failures: list[str] = []
    over = threading.Event()

    def write(worker: int) -> None:
        chance = random.Random(worker)
        with flight.client(BEFORE) as client:
            # Before that, the upgrade would be refused because of the first equal keys.
            while not (over.is_set() or database.fetch("SELECT FROM pg_attribute WHERE attname = '_zd_v'")):
                time.sleep(0.01)
            while not over.is_set():
                key = f"Row{chance.randrange(10, 8000)}"
                try:
                    if chance.random() < 0.5:
                        client.connection.execute(
                            "INSERT INTO users (id, email) VALUES (%s, %s)", (chance.randrange(10**4, 10**9), key)
                        )
                    else:
                        client.connection.execute(
                            "UPDATE users SET email = %s WHERE id = %s", (key, chance.randrange(10, 8000))
                        )
                except psycopg.Error as error:
                    failures.append(f"{error.sqlstate} {error}")

    def upgrade() -> None:
        try:
            refused.append(flight.project.run("upgrade", AFTER, check=False).returncode)
        finally:
            over.set()

    refused: list[int] = []
    assert _run_all(upgrade, *(partial(write, n) for n in range(3))) == [None] * 4
    assert failures == []
    assert refused[0] != 0
    database.execute("DELETE FROM users WHERE id >= 10000")
    database.execute("UPDATE users SET email = 'again' || id")
    flight.run("upgrade", AFTER)
    assert _status(flight)["tables"][0]["quarantined"] == 0
    flight.run("downgrade", BEFORE)
    assert flight.dump() == flight.original


def test_b12_row_in_the_way_that_the_client_may_not_see__quarantined_all_the_same(database, tmp_path):
    """Row security hides it from the client, not from the unique index; and the client learns nothing by functions."""
    setup = f"""{_EMAILS}
    ALTER TABLE users ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON users TO {APP} USING (id > 2);
    """
    flight = _fly(Case("hidden", setup, UNIQUE.upgrade, "pass"), database, tmp_path)
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO users VALUES (3, 'ADA@x')")
        assert client.fetch("SELECT id FROM users") == [(3,)]
    with flight.client(AFTER) as client:
        assert client.fetch("SELECT id, mail FROM users") == [(3, None)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.fetch("SELECT * FROM alembic_zero.key_slots FOR UPDATE")
    open_to_clients = database.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'alembic_zero'::regnamespace AND prosecdef"
        f" AND has_function_privilege('{APP}', oid, 'EXECUTE')"
    )
    assert open_to_clients == []


# -- B12: kinds of keys -----------------------------------------------------------------------------------

# What citext is, where nobody's search_path leads.
_CASELESS = (
    """
    CREATE SCHEMA odd;
    CREATE TYPE odd.caseless;
    CREATE FUNCTION odd.caseless_in(cstring) RETURNS odd.caseless LANGUAGE internal IMMUTABLE STRICT AS 'textin';
    CREATE FUNCTION odd.caseless_out(odd.caseless) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
    CREATE TYPE odd.caseless (INPUT = odd.caseless_in, OUTPUT = odd.caseless_out, LIKE = text, COLLATABLE = true);
    CREATE CAST (odd.caseless AS text) WITHOUT FUNCTION AS IMPLICIT;
    CREATE CAST (text AS odd.caseless) WITHOUT FUNCTION AS ASSIGNMENT;
    GRANT USAGE ON SCHEMA odd TO PUBLIC;
    CREATE FUNCTION odd.cmp(odd.caseless, odd.caseless) RETURNS integer LANGUAGE sql IMMUTABLE
        AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';
    CREATE FUNCTION odd.hash(odd.caseless) RETURNS integer LANGUAGE sql IMMUTABLE
        AS 'SELECT hashtext(lower($1::text))';
    CREATE FUNCTION odd.hash(odd.caseless, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
        AS 'SELECT hashtextextended(lower($1::text), $2)';
"""
    + "".join(
        f"""
    CREATE FUNCTION odd.{name}(odd.caseless, odd.caseless) RETURNS boolean LANGUAGE sql IMMUTABLE
        AS 'SELECT lower($1::text) {operator} lower($2::text)';
    CREATE OPERATOR odd.{operator} (FUNCTION = odd.{name}, LEFTARG = odd.caseless, RIGHTARG = odd.caseless);
    """
        for name, operator in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">"))
    )
    + """
    CREATE OPERATOR CLASS odd.caseless_ops DEFAULT FOR TYPE odd.caseless USING btree AS OPERATOR 1 odd.<,
        OPERATOR 2 odd.<=, OPERATOR 3 odd.=, OPERATOR 4 odd.>=, OPERATOR 5 odd.>,
        FUNCTION 1 odd.cmp(odd.caseless, odd.caseless);
    CREATE OPERATOR CLASS odd.caseless_ops DEFAULT FOR TYPE odd.caseless USING hash AS OPERATOR 1 odd.=,
        FUNCTION 1 odd.hash(odd.caseless), FUNCTION 2 odd.hash(odd.caseless, bigint);
"""
)
_CASELESS_TYPE = """
class Caseless(sa.types.UserDefinedType):
    def get_col_spec(self, **kw):
        return "odd.caseless"
"""
_ITEMS = """
    CREATE TABLE items (id integer PRIMARY KEY, team integer, code text, place text, hidden boolean DEFAULT false);
    INSERT INTO items VALUES (1, 1, 'a', '(1,1)');
"""
_KINDS = {
    "composite": (
        """
        op.zd_alter_column("items", "code", type_=sa.String(20), up="lower(code)", down="code")
        op.zd_create_unique_constraint("u", "items", ["team", "code"])
        """,
        ["(2, 2, 'A')", "(3, 1, 'A')", "(4, NULL, 'A')", "(5, NULL, 'a')", "(6, 1, NULL)", "(7, 1, NULL)"],
        [3],
    ),
    "composite, by the shared column": (
        """
        op.zd_alter_column("items", "code", type_=sa.String(20), up="lower(code)", down="code")
        op.zd_create_unique_constraint("u", "items", ["team", "code"])
        """,
        ["(2, 2, 'A')", "UPDATE items SET team = 1 WHERE id = 2"],
        [2],
    ),
    "partial": (
        """
        op.zd_alter_column("items", "code", type_=sa.String(20), up="lower(code)", down="code")
        op.zd_create_index("u", "items", ["code"], unique=True, postgresql_where=sa.text("NOT hidden"))
        """,
        ["(2, 2, 'A', NULL, true)", "(3, 2, 'A', NULL, false)", "UPDATE items SET hidden = false WHERE id = 2"],
        [2, 3],
    ),
    "expression": (
        """
        op.zd_alter_column("items", "code", type_=sa.String(20), up="code || ' '", down="code")
        op.zd_create_index("u", "items", [sa.text("upper(code)")], unique=True)
        """,
        ["(2, 2, 'A')", "(3, 2, 'b')"],
        [2],
    ),
    "equal, not the same": (
        """
        op.zd_alter_column("items", "code", type_=Caseless(), up="code", down="code")
        op.zd_create_unique_constraint("u", "items", ["code"])
        """,
        ["(2, 2, 'A')", "(3, 2, 'b')", "UPDATE items SET code = 'B' WHERE id = 3"],
        [2],
    ),
    "no hash": (
        """
        op.zd_alter_column("items", "code", type_=postgresql.MONEY, up="ascii(lower(code))::money", down="'?'")
        op.zd_create_unique_constraint("u", "items", ["code"])
        """,
        ["(2, 2, 'A')", "(3, 2, 'b')"],
        [2],
    ),
    "primary key": (
        """
        op.zd_drop_constraint("items_pkey", "items")
        op.zd_alter_column("items", "code", type_=sa.String(20), nullable=False, up="lower(code)", down="code")
        op.zd_create_primary_key("items_pkey", "items", ["code"])
        """,
        ["(2, 2, 'A')", "(3, 2, 'b')", "UPDATE items SET code = 'B' WHERE id = 3"],
        [2],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("upgrade", "writes", "quarantined"), _KINDS.values(), ids=_KINDS)
def test_b12_kind_of_key__judged_as_the_index_does(upgrade, writes, quarantined, database, tmp_path):
    """NULLs, predicates, expressions, collations, types without a hash: neither too strict nor too lax."""
    case = Case("kinds", _CASELESS + _ITEMS, upgrade, "pass", prelude=_CASELESS_TYPE)
    flight = _fly(case, database, tmp_path)
    with flight.client(BEFORE) as client:
        for write in writes:
            statement = write if write.startswith("UPDATE") else f"INSERT INTO items VALUES {write}"
            client.connection.execute(statement.encode())
    rows = _status(flight)["tables"][0].get("quarantined_rows", [])
    assert sorted(row["key"] for row in rows) == [f"(id)=({n})" for n in quarantined]
    for row in rows:
        assert "duplicate key" in row["error"]
    flight.run("downgrade", BEFORE)
    assert flight.dump() == flight.original


def test_b12_columns_called_like_the_triggers_variables__no_mistake(database, tmp_path):
    """Names of columns mean columns, in expressions of indexes too."""
    setup = """
    CREATE TABLE refs ("writer" integer PRIMARY KEY);
    CREATE TABLE items (id integer PRIMARY KEY, "key" text, "found" text, "writer" integer, tries integer);
    INSERT INTO items VALUES (1, 'a', 'b', 1, 1);
    INSERT INTO refs VALUES (1);
    """
    upgrade = """
    op.zd_alter_column("items", "key", type_=sa.String(20), up="lower(key)", down="key")
    op.zd_alter_column("items", "found", type_=sa.String(20), up="lower(found)", down="found")
    op.zd_create_index("u", "items", [sa.text("(key || found)"), "tries"], unique=True)
    op.zd_create_index("v", "items", ["key", "found", "writer"], unique=True)
    op.zd_create_foreign_key("f", "items", "refs", ["writer"], ["writer"], up="writer", down="writer")
    """
    flight = _fly(Case("names", setup, upgrade, "pass"), database, tmp_path)
    with flight.client(BEFORE) as client:
        client.connection.execute(
            "INSERT INTO items VALUES (2, 'A', 'b', 1, 1), (3, 'A', 'c', 1, 1), (4, 'D', 'e', 7, 1)"
        )
    assert [row["key"] for row in _status(flight)["tables"][0]["quarantined_rows"]] == ["(id)=(2)", "(id)=(4)"]
    flight.run("downgrade", BEFORE)


def test_b12_two_revisions_in_flight__each_version_held_to_its_own(database, tmp_path):
    """A row may fit the second version and not the third; versions in between get the error of their own only."""
    upgrade = """
    op.zd_alter_column("items", "code", type_=sa.String(20), up="lower(code)", down="code")
    op.zd_create_index("u", "items", ["code"], unique=True)
    """
    flight = _fly(Case("chain", _ITEMS, upgrade, "pass"), database, tmp_path)
    flight.project.revision(
        "r3", AFTER, 'op.zd_alter_column("items", "code", type_=sa.String(9), up="left(code, 1)", down="code")', "pass"
    )
    flight.run("upgrade", "r3")
    with flight.clients() as clients, flight.client("r3") as third:
        old_client, new_client = clients["old"].connection, clients["new"].connection
        old_client.execute("INSERT INTO items (id, code) VALUES (2, 'A'), (3, 'Bee'), (4, 'Bus')")
        new_client.execute("INSERT INTO items (id, code) VALUES (5, 'boo')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            new_client.execute("INSERT INTO items (id, code) VALUES (6, 'boo')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            third.connection.execute("INSERT INTO items (id, code) VALUES (6, 'b')")
        assert clients["new"].fetch("SELECT id, code FROM items ORDER BY id") == [
            (1, "a"), (2, None), (3, "bee"), (4, "bus"), (5, "boo"),
        ]  # fmt: skip
        assert third.fetch("SELECT id, code FROM items ORDER BY id") == [
            (1, "a"), (2, None), (3, "b"), (4, None), (5, None),
        ]  # fmt: skip
        old_client.execute("UPDATE items SET code = 'c' WHERE id = 2")
    flight.run("zd-complete", AFTER)
    with flight.client(AFTER) as second, flight.client("r3") as third:
        second.connection.execute("INSERT INTO items (id, code) VALUES (7, 'bow')")
        second.connection.execute("UPDATE items SET code = 'dee' WHERE id = 4")
        second.connection.execute("UPDATE items SET code = 'eff' WHERE id = 5")
        assert third.fetch("SELECT id, code FROM items ORDER BY id") == [
            (1, "a"), (2, "c"), (3, "b"), (4, "d"), (5, "e"), (7, None),
        ]  # fmt: skip
        second.connection.execute("DELETE FROM items WHERE id = 7")
    flight.run("zd-complete")
    assert not _status(flight)["tables"]


def test_b12_key_whose_type_grows__costs_nothing(database, tmp_path):
    """What was unique stays unique if only its type changes: no lock, no look-up."""
    upgrade = """
    op.zd_alter_column("orders", "id", type_=sa.BigInteger)
    op.zd_alter_column("customers", "id", type_=sa.BigInteger)
    op.zd_alter_column("orders", "customer", type_=sa.BigInteger)
    """
    setup = """
    CREATE TABLE customers (id integer PRIMARY KEY);
    CREATE TABLE orders (id integer PRIMARY KEY, customer integer REFERENCES customers);
    """
    _fly(Case("growing", setup, upgrade, "pass"), database, tmp_path)
    assert database.fetch(
        "SELECT tgname FROM pg_trigger WHERE tgname ~ 'unique|key_' AND NOT tgisinternal"
    ) == []  # fmt: skip
    assert database.fetch("SELECT to_regclass('alembic_zero.key_slots')") == [(None,)]


# -- B12: foreign keys ------------------------------------------------------------------------------------


def test_b12_referenced_row_is_being_deleted__outcome_awaited_for_a_moment(database, tmp_path):
    """The old client neither fails nor waits long; a rollback of the deletion is seen."""
    flight = _fly(FOREIGN_KEY, database, tmp_path)
    with flight.client(BEFORE) as one, flight.client(BEFORE) as other:
        for n, end in ((21, "ROLLBACK"), (22, "COMMIT")):
            one.connection.execute("BEGIN")
            one.connection.execute("DELETE FROM customers WHERE id = 3")
            raised = _run_all(
                lambda n=n: other.connection.execute(f"INSERT INTO orders VALUES ({n}, '3')"),
                lambda end=end: (time.sleep(0.02), one.connection.execute(end)),
            )
            assert raised == [None, None]
    with flight.client(AFTER) as client:
        # The first one went with the customer; the second one came too late to.
        assert client.fetch("SELECT id, customer_id FROM orders WHERE id > 20") == [(22, None)]
    (row,) = _status(flight)["tables"][0]["quarantined_rows"]
    assert row["key"] == "(id)=(22)"
    for word in ("foreign key", "customers", "(id)=(3)", "orders_customer_id_fkey"):
        assert word in row["error"]


@pytest.mark.parametrize("timing", ["", ", deferrable=True, initially='DEFERRED'"], ids=["immediate", "deferred"])
def test_b12_rows_that_reference_each_other__judged_when_the_key_is(timing, database, tmp_path):
    """The referenced row may come later in the statement; for a deferred key, in the transaction."""
    setup = "CREATE TABLE nodes (id integer PRIMARY KEY, parent text); INSERT INTO nodes VALUES (1, '1');"
    upgrade = f"""
    op.zd_alter_column("nodes", "parent", type_=sa.Integer, up="parent::integer", down="parent::text")
    op.zd_create_foreign_key("up", "nodes", "nodes", ["parent"], ["id"]{timing})
    """
    flight = _fly(Case("nodes", setup, upgrade, "pass"), database, tmp_path)
    with flight.clients() as clients:
        client = clients["old"].connection
        client.execute("INSERT INTO nodes VALUES (2, '3'), (3, '2'), (4, '99')")
        with client.transaction():
            client.execute("INSERT INTO nodes VALUES (5, '6')")
            client.execute("INSERT INTO nodes VALUES (6, '1')")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            clients["new"].connection.execute("INSERT INTO nodes VALUES (7, 99)")
        expected = [(1, 1), (2, 3), (3, 2), (4, None), (5, 6 if timing else None), (6, 1)]
        assert clients["new"].fetch("SELECT id, parent FROM nodes ORDER BY id") == expected
    flight.run("downgrade", BEFORE)
    assert flight.dump() == flight.original


def test_b12_both_ends_copied__filled_and_held_in_step(database, tmp_path):
    """Keys converted at both ends: filled in any order, and a row whose parent is quarantined waits for it."""
    setup = """
    CREATE TABLE aa (id integer PRIMARY KEY, parent text);
    CREATE TABLE zz (code text PRIMARY KEY);
    ALTER TABLE aa ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES zz;
    INSERT INTO zz VALUES ('1'), ('2');
    INSERT INTO aa SELECT n, 1 + n % 2 FROM generate_series(1, 500) AS n;
    """
    upgrade = """
    op.zd_alter_column("aa", "parent", type_=sa.Integer, up="parent::integer", down="parent::text")
    op.zd_alter_column("zz", "code", type_=sa.Integer, up="nullif(code, '3')::integer", down="code::text")
    """
    flight = _fly(Case("ends", setup, upgrade, "pass"), database, tmp_path)
    with flight.clients() as clients:
        client = clients["old"].connection
        client.execute("INSERT INTO zz VALUES ('3'), ('4'), ('04')")
        client.execute("INSERT INTO aa VALUES (501, '3'), (502, '4'), (503, '04')")
        rows = clients["new"].fetch("SELECT id, parent FROM aa WHERE id > 500 ORDER BY id")
        assert rows == [(501, None), (502, 4), (503, 4)]
        assert clients["new"].fetch("SELECT count(*) FROM aa WHERE parent IS NULL") == [(1,)]
        quarantined = {t["table"]: t["quarantined"] for t in _status(flight)["tables"]}
        assert quarantined == {"public.aa": 1, "public.zz": 2}
        client.execute("UPDATE aa SET parent = '1' WHERE id = 501")
        client.execute("UPDATE aa SET parent = '4' WHERE id = 503")
        client.execute("DELETE FROM zz WHERE code IN ('3', '04')")
    flight.run("zd-complete")
    assert database.fetch("SELECT count(*) FROM aa WHERE parent IS NULL") == [(0,)]
