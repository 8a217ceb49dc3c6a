"""REDTEAM F, what it had not tested: pg_repack, foreign and unlogged tables, SSI, wraparound, MERGE; and B16.

Several heads, merges and stamp are in test_branches.py, whole migrations on other servers in test_versions.py.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import IsolationLevel

from tests.acceptance.test_redteam import SPLIT, USERS, assert_refused, fly
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
)
from tests.support.server import Server, builds
from tests.support.threads import in_threads

MANY_USERS = """
    CREATE TABLE users (id integer PRIMARY KEY, name text, email text);
    INSERT INTO users SELECT i, 'First' || i || ' Last' || i, 'e' || i FROM generate_series(1, 3000) AS i;
"""
LINKED = """
    CREATE TABLE users (id integer PRIMARY KEY, email text);
    CREATE TABLE profiles (user_id integer PRIMARY KEY, note text);
    INSERT INTO users SELECT i, 'e' || i FROM generate_series(1, 3000) AS i;
    INSERT INTO profiles SELECT i, 'n' || i FROM generate_series(1, 3000) AS i;
    DELETE FROM profiles WHERE user_id <= 1000;
"""
LINK = """
    op.zd_add_column("profiles", sa.Column("email", sa.Text),
        up=alembic_zero.from_table("users", "users.email", where="profiles.user_id = users.id"))
"""


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


AT_FIRST_RANGE = "SELECT FROM pg_locks WHERE relation = 'alembic_zero.backfill'::regclass AND NOT granted"


@contextmanager
def before_the_first_range(flight):
    """Start ``alembic upgrade``; hold it between expansion and first range while the block runs; wait for its end."""
    database = flight.database
    with database.connect(autocommit=False) as hold:
        # The first range notes its position here.
        hold.execute("LOCK TABLE alembic_zero.backfill IN EXCLUSIVE MODE")
        process = flight.project.start("upgrade", AFTER)
        wait_for(lambda: database.fetch(AT_FIRST_RANGE) or process.poll() is not None, "the backfill waits")
        yield
        hold.rollback()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


# -- rewrites: VACUUM FULL, CLUSTER, pg_repack --------------------------------------------------------


def test_f_rewrite_while_linked_values_are_filled__no_row_gets_another_ones_value(database, tmp_path):
    """The values are kept by ctid; a rewrite of the table between finding and writing them moves every row."""
    flight = fly(database, tmp_path, LINKED, LINK, run=False)
    with before_the_first_range(flight):
        database.execute("VACUUM FULL profiles")
    with flight.client(AFTER) as client:
        assert client.fetch("SELECT count(*) FROM profiles WHERE email = 'e' || user_id") == [(2000,)]
    flight.run("zd-complete")
    assert database.fetch("SELECT count(*) FROM profiles WHERE email = 'e' || user_id") == [(2000,)]


def repack_build():
    """Return a server version with pg_repack in its directory, None if no build has it."""
    return next((version for version, path in builds().items() if (path / "pg_repack").exists()), None)


@contextmanager
def server_with_repack():
    version = repack_build()
    if version is None:
        pytest.skip("no build of PostgreSQL with pg_repack was found")
    server = Server(version)
    try:
        with server.fresh_database() as database:
            database.execute("CREATE EXTENSION pg_repack")
            yield database
    finally:
        server.stop()


def repack(database, table):
    """Run pg_repack itself on one table."""
    server = database.server
    done = subprocess.run(
        [builds()[server.version] / "pg_repack", "-h", server.host, "-p", str(server.port), "-U", "postgres",
         "-d", database.name, "-t", table, "--no-kill-backend"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    assert "WARNING" not in done.stderr, done.stderr


def kill_before_the_first_range(flight):
    """Start ``alembic upgrade`` and kill it between expansion and first range."""
    database = flight.database
    with database.connect(autocommit=False) as hold:
        hold.execute("LOCK TABLE alembic_zero.backfill IN EXCLUSIVE MODE")
        process = flight.project.start("upgrade", AFTER)
        wait_for(lambda: database.fetch(AT_FIRST_RANGE) or process.poll() is not None, "the backfill waits")
        process.kill()
        process.communicate()
        hold.rollback()


def test_f_pg_repack__in_every_phase_under_old_and_new_writers(tmp_path):
    """pg_repack copies the table beside ours: its trigger, its copy without any trigger, its swap of the files."""
    with server_with_repack() as database:
        flight = fly(database, tmp_path, MANY_USERS, SPLIT, run=False)
        before = database.fetch("SELECT pg_relation_filenode('users')")
        kill_before_the_first_range(flight)
        repack(database, "users")
        assert database.fetch("SELECT count(*) FROM users WHERE first_name IS NOT NULL") == [(0,)]
        flight.run("upgrade", AFTER)
        written = {BEFORE: 0, AFTER: 0}

        def writer(revision, statement):
            def write(stop):
                with flight.client(revision) as client:
                    while not stop.is_set():
                        client.connection.execute(statement, (f"W{written[revision]}", random.randint(1, 3000)))
                        written[revision] += 1

            return write

        by_old = "UPDATE users SET name = %s || ' Old' WHERE id = %s"
        by_new = "UPDATE users SET first_name = %s, last_name = 'New' WHERE id = %s"
        with in_threads(writer(BEFORE, by_old), writer(AFTER, by_new)):
            for _ in range(2):
                repack(database, "users")
        assert min(written.values()) > 0
        assert database.fetch("SELECT pg_relation_filenode('users')") != before
        with flight.client(AFTER) as client:
            differing = (
                f"SELECT u.id FROM users AS u JOIN {flight.view_schema(BEFORE)}.users AS o USING (id)"
                " WHERE o.name <> u.first_name || ' ' || u.last_name"
            )
            assert client.fetch(differing) == []
            assert client.fetch("SELECT count(*) FROM users") == [(3000,)]
        flight.run("zd-complete")
        assert_nothing_left(database)


def test_f_pg_repack__in_flight_then_rolled_back__the_table_is_what_it_was(tmp_path):
    with server_with_repack() as database:
        flight = fly(database, tmp_path, LINKED, LINK)
        repack(database, "profiles")
        repack(database, "users")
        with flight.clients() as clients:
            clients["old"].connection.execute("UPDATE users SET email = 'new' WHERE id = 1500")
            differing = "SELECT user_id FROM profiles WHERE email <> 'e' || user_id"
            assert clients["new"].fetch(differing) == [(1500,)]
        flight.run("downgrade", BEFORE)
        assert_same(flight.dump(), flight.original, "rollback after pg_repack")


# -- foreign and unlogged tables ----------------------------------------------------------------------

FOREIGN_SERVER = """
    CREATE FOREIGN DATA WRAPPER elsewhere;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
"""
FOREIGN = {
    "foreign_table": """
        CREATE FOREIGN TABLE users (id integer, name text, email text) SERVER elsewhere;
    """,
    "foreign_partition": """
        CREATE TABLE users (id integer, name text, email text) PARTITION BY RANGE (id);
        CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (100);
        CREATE FOREIGN TABLE users_2 PARTITION OF users FOR VALUES FROM (100) TO (200) SERVER elsewhere;
    """,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_f_foreign_table__refused_before_anything_changes(database, tmp_path, kind):
    """Where a foreign table has its rows there is no column and no trigger of ours; zd-plan refuses it, too."""
    flight = Flight(Case("foreign", FOREIGN_SERVER + FOREIGN[kind], SPLIT, "pass"), database, tmp_path / "project")
    whole = flight.everything()
    for command in (("zd-plan",), ("upgrade", AFTER)):
        refused = flight.project.run_in_process(*command, check=False)
        said = refused.stderr + refused.stdout
        assert refused.returncode == 2, said
        assert "[ZD208]" in said
        assert "foreign" in said
    assert flight.everything() == whole


UNLOGGED = Case(
    "unlogged",
    setup="""
        CREATE UNLOGGED TABLE sessions (
            id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, token text, hits integer);
        CREATE INDEX sessions_token ON sessions (token);
        INSERT INTO sessions (token, hits) VALUES ('a-1', 1), ('b-2', 2);
    """,
    upgrade="""
        op.zd_add_column("sessions", sa.Column("kind", sa.Text), up="split_part(token, '-', 1)")
        op.zd_alter_column("sessions", "hits", type_=sa.BigInteger)
        op.zd_drop_column("sessions", "token", down="kind || '-' || id")
    """,
    plain="""
        op.add_column("sessions", sa.Column("kind", sa.Text))
        op.alter_column("sessions", "hits", type_=sa.BigInteger)
        op.drop_column("sessions", "token")
    """,
    writes=(
        old("INSERT INTO sessions (token, hits) VALUES ('c-3', 3) RETURNING id", [(3,)]),
        new("INSERT INTO sessions (kind, hits) VALUES ('d', 4) RETURNING id", [(4,)]),
        new("UPDATE sessions SET hits = 20 WHERE id = 2"),
    ),
    old={"SELECT * FROM sessions": [(1, "a-1", 1), (2, "b-2", 20), (3, "c-3", 3), (4, "d-4", 4)]},
    new={"SELECT id, kind, hits FROM sessions": [(1, "a", 1), (2, "b", 20), (3, "c", 3), (4, "d", 4)]},
    outcomes=("complete", "rollback"),
)


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(UNLOGGED), ids=outcome_id)
def test_f_unlogged_table__stays_unlogged(database, tmp_path, case, outcome):
    """The dumps that are compared say UNLOGGED, of the table and, from PostgreSQL 15 on, of its sequence."""
    OUTCOMES[outcome](case, database, tmp_path)


@pytest.mark.one_server
def test_f_unlogged_table__server_crash_in_flight__empty_and_still_in_flight(server, tmp_path):
    """A crash empties the table, as ever; marker, triggers and views are there, and the flight goes on."""
    own = Server(server.version)
    try:
        with own.fresh_database() as database:
            flight = Flight(UNLOGGED, database, tmp_path / "project")
            flight.run("upgrade", AFTER)
            database.execute("CHECKPOINT")
            own.crash()
            assert database.fetch("SELECT count(*) FROM sessions") == [(0,)]
            with flight.clients() as clients:
                clients["old"].connection.execute("INSERT INTO sessions (id, token, hits) VALUES (7, 'x-7', 1)")
                clients["new"].connection.execute("INSERT INTO sessions (id, kind, hits) VALUES (8, 'y', 2)")
                assert clients["new"].fetch("SELECT id, kind FROM sessions ORDER BY id") == [(7, "x"), (8, "y")]
                assert clients["old"].fetch("SELECT token FROM sessions ORDER BY id") == [("x-7",), ("y-8",)]
            flight.run("zd-complete")
            assert_nothing_left(database)
    finally:
        own.stop()


# -- companion triggers (B4) --------------------------------------------------------------------------

SEARCHED = """
    CREATE TABLE users (id integer PRIMARY KEY, name text, email text, words text);
    INSERT INTO users VALUES (1, 'Ada Lovelace', 'ada');
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.words := lower(NEW.name); RETURN NEW; END $$;
"""


def test_f_trigger_by_column_list__no_companion_but_its_plain_form_sees_every_version(database, tmp_path):
    """UPDATE OF is refused (PostgreSQL itself would not drop its column); the form that the error asks for works."""
    by_list = "CREATE TRIGGER note BEFORE INSERT OR UPDATE OF name ON users FOR EACH ROW EXECUTE FUNCTION note();"
    flight = fly(database, tmp_path, SEARCHED + by_list, SPLIT, run=False)
    assert_refused(flight, "note")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        database.execute("ALTER TABLE users DROP COLUMN name")
    database.execute(
        "DROP TRIGGER note ON users;"
        "CREATE TRIGGER note BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION note()"
    )
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        clients["new"].connection.execute("UPDATE users SET first_name = 'A.' WHERE id = 1")
        clients["new"].connection.execute("INSERT INTO users (id, first_name, last_name) VALUES (2, 'Alan', 'Turing')")
        assert clients["old"].fetch("SELECT words FROM users ORDER BY id") == [("a. lovelace",), ("alan turing",)]


# -- isolation levels: B16 and SSI --------------------------------------------------------------------

STATEMENTS = {
    "update": "UPDATE users SET email = 'mine' WHERE id = 1",
    "update_of_what_is_in_flight": "UPDATE users SET name = 'My Own' WHERE id = 1",
    "delete": "DELETE FROM users WHERE id = 1",
    "lock": "SELECT id FROM users WHERE id = 1 FOR UPDATE",
    "upsert": "INSERT INTO users (id, name) VALUES (1, 'My Own') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
}


@pytest.mark.one_server
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_b16_row_backfilled_after_the_snapshot__40001_and_nothing_else(database, tmp_path, level):
    """A stricter transaction that changes such a row has to try again, and then succeeds; READ COMMITTED never."""
    flight = fly(database, tmp_path, USERS, SPLIT, run=False)
    clients = {}
    try:
        with before_the_first_range(flight):
            for name in (*STATEMENTS, "read", "insert"):
                clients[name] = flight.client(BEFORE)
                clients[name].connection.execute(f"BEGIN ISOLATION LEVEL {level}")
                # The snapshot is from now; the backfill comes after it.
                assert clients[name].fetch("SELECT count(*) FROM users") == [(2,)]
        assert database.fetch("SELECT first_name FROM users WHERE id = 1") == [("Ada",)]
        for name, statement in STATEMENTS.items():
            connection = clients[name].connection
            if level == "READ COMMITTED":
                connection.execute(statement)
                connection.execute("ROLLBACK")
                continue
            with pytest.raises(psycopg.errors.SerializationFailure):
                connection.execute(statement)
            connection.execute("ROLLBACK")
            connection.execute(f"BEGIN ISOLATION LEVEL {level}")
            connection.execute(statement)
            connection.execute("ROLLBACK")
        # Who only reads, or only adds rows, is never told anything.
        assert clients["read"].fetch("SELECT name FROM users ORDER BY id") == [("Ada Lovelace",), ("Alan Turing",)]
        clients["read"].connection.execute("COMMIT")
        clients["insert"].connection.execute("INSERT INTO users (id, name) VALUES (9, 'Grace Hopper')")
        clients["insert"].connection.execute("COMMIT")
    finally:
        for client in clients.values():
            client.connection.close()
    assert database.fetch("SELECT first_name FROM users WHERE id = 9") == [("Grace",)]


ACCOUNTS = """
    CREATE TABLE accounts (id integer PRIMARY KEY, balance integer NOT NULL);
    INSERT INTO accounts SELECT i, 100 FROM generate_series(0, 3) AS i;
"""
MONEY = """
    op.zd_alter_column("accounts", "balance", new_column_name="cents", type_=sa.BigInteger,
        up="balance * 100", down="cents / 100")
"""


class Bank:
    """Clients that pay in, withdraw and move money in SERIALIZABLE transactions, each tried until it commits.

    Accounts 2n and 2n + 1 belong together: each alone may be overdrawn, the two together not. So a withdrawal
    reads both and writes one, which only SSI keeps from going wrong (write skew): with REPEATABLE READ in its
    place the test fails within a second.
    """

    def __init__(self, flight):
        self.flight = flight
        self.paid_in = {}
        self.retries = {}
        self.commits = {}

    def client(self, revision, number, column, factor):
        """Return what one client does until it is told to stop.

        :param factor: how many of its version's units make one of the old version's.
        """

        def work(stop):
            chance = random.Random(f"{revision}{number}")
            key = f"{revision} {number}"
            self.paid_in[key] = self.retries[key] = self.commits[key] = 0
            with self.flight.client(revision) as client:
                client.connection.autocommit = False
                client.connection.isolation_level = IsolationLevel.SERIALIZABLE
                while not stop.is_set():
                    transaction = chance.choice([self._pay_in, self._withdraw, self._withdraw, self._move])
                    account, amount = chance.randrange(4), chance.randint(20, 60)
                    change, total = self._until_committed(
                        key, client.connection, transaction, account, amount * factor, column
                    )
                    assert total >= 0, f"{key} has seen a pair of accounts overdrawn: {total}"
                    self.paid_in[key] += change // factor

        return work

    def _until_committed(self, key, connection, transaction, *arguments):
        for _ in range(500):
            try:
                done = transaction(connection, *arguments)
                connection.commit()
            except psycopg.errors.SerializationFailure:
                connection.rollback()
                self.retries[key] += 1
                time.sleep(random.random() * 0.01)
            else:
                self.commits[key] += 1
                return done
        raise AssertionError("a serializable transaction did not succeed in 500 tries")

    @staticmethod
    def _pay_in(connection, account, amount, column):
        connection.execute(f"UPDATE accounts SET {column} = {column} + {amount} WHERE id = {account}")
        return amount, 0

    @staticmethod
    def _move(connection, account, amount, column):
        # In one order, so that no two clients wait for each other.
        for one, sign in ((account // 2 * 2, "+"), (account // 2 * 2 + 1, "-")):
            connection.execute(f"UPDATE accounts SET {column} = {column} {sign} {amount} WHERE id = {one}")
        return 0, 0

    @staticmethod
    def _withdraw(connection, account, amount, column):
        ((total,),) = connection.execute(
            f"SELECT sum({column})::int FROM accounts WHERE id BETWEEN {account // 2 * 2} AND {account // 2 * 2 + 1}"
        )
        connection.execute("SELECT pg_sleep(0.003)")
        if total < amount:
            return 0, total
        connection.execute(f"UPDATE accounts SET {column} = {column} - {amount} WHERE id = {account}")
        return -amount, total


@pytest.mark.one_server
@pytest.mark.parametrize("ending", ["zd-complete", "downgrade"])
def test_f_serializable_clients_of_both_versions__only_40001_and_no_anomaly(database, tmp_path, ending):
    """Through expand, flight and contract or rollback: nothing but 40001, no write lost, no write skew."""
    flight = fly(database, tmp_path, ACCOUNTS, MONEY, run=False)
    bank = Bank(flight)
    olds = [bank.client(BEFORE, number, "balance", 1) for number in range(2)]
    news = [bank.client(AFTER, number, "cents", 100) for number in range(2)]
    with ExitStack() as stay:
        with ExitStack() as go:
            (go if ending == "zd-complete" else stay).enter_context(in_threads(*olds))
            time.sleep(0.3)
            flight.run("upgrade", AFTER)
            (stay if ending == "zd-complete" else go).enter_context(in_threads(*news))
            time.sleep(2)
        flight.run(*(["zd-complete"] if ending == "zd-complete" else ["downgrade", BEFORE]))
        time.sleep(0.3)
    column, factor = ("cents", 100) if ending == "zd-complete" else ("balance", 1)
    pairs = database.fetch(f"SELECT sum({column})::int / {factor} FROM accounts GROUP BY id / 2")
    assert min(total for (total,) in pairs) >= 0, pairs
    assert sum(total for (total,) in pairs) == 400 + sum(bank.paid_in.values())
    assert min(bank.commits.values()) > 0, bank.commits
    # Otherwise nothing was tried.
    assert sum(bank.retries.values()) > 0


# -- wraparound vacuum --------------------------------------------------------------------------------


@contextmanager
def wraparound_vacuum(database, table):
    """Have a real autovacuum worker crawl over *table* to prevent wraparound: such a one yields to nobody."""
    database.execute(
        f"ALTER TABLE {table} SET (autovacuum_freeze_max_age = 100000, autovacuum_freeze_min_age = 0,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
    )
    with database.connect() as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            "DO $$ BEGIN FOR i IN 1 .. 100100 LOOP PERFORM pg_catalog.txid_current(); COMMIT; END LOOP; END $$"
        )
    database.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    database.execute("SELECT pg_reload_conf()")
    try:
        wait_for(lambda: wraparound_worker(database), "a worker that prevents wraparound")
        yield
    finally:
        database.execute("ALTER SYSTEM RESET autovacuum_naptime")
        database.execute("SELECT pg_reload_conf()")


def wraparound_worker(database):
    """Return the process id of the worker, nothing if there is none."""
    return database.fetch(
        "SELECT a.pid FROM pg_stat_activity a JOIN pg_stat_progress_vacuum v ON v.pid = a.pid"
        " WHERE v.relid = 'users'::regclass AND a.query LIKE '%to prevent wraparound%'"
    )


@pytest.mark.one_server
def test_f_wraparound_vacuum__clients_do_not_wait_and_the_command_gets_there_after_it(database, tmp_path):
    """The vacuum is named, no client queues behind us, and with patience the upgrade goes on when it has ended."""
    flight = fly(database, tmp_path, MANY_USERS, SPLIT, run=False)
    waits, done = [], []

    def client(stop):
        with flight.client(BEFORE) as session:
            done.append(session.connection.info.backend_pid)
            while not stop.is_set():
                session.connection.execute("UPDATE users SET email = 'x' WHERE id = 1")
                done.append(1)

    def observer(stop):
        with database.connect() as connection:
            while not stop.is_set():
                if done:
                    waits.extend(
                        connection.execute(
                            "SELECT now() - waitstart FROM pg_locks WHERE NOT granted AND pid = %s"
                            " AND now() - waitstart > interval '0.2 s'",
                            done[:1],
                        ).fetchall()
                    )
                time.sleep(0.005)

    with wraparound_vacuum(database, "users"):
        with in_threads(client, observer):
            # One that has no patience is refused by name, and has changed nothing.
            flight.project.write_env(extra={"zd_lock_budget_s": 0.5})
            failed = flight.project.run_in_process("upgrade", AFTER, check=False)
            said = failed.stdout + failed.stderr
            assert failed.returncode == 1, said
            assert re.search(
                r"ZD310.*pid \d+.*autovacuum: VACUUM( ANALYZE)? public\.users \(to prevent wraparound\)", said
            ), said
            assert wraparound_worker(database), "the vacuum was meant to outlast the first try"
            flight.project.write_env()
            flight.run("upgrade", AFTER)
            # It had gone its way: nobody cancelled it.
            assert not wraparound_worker(database)
        assert len(done) > 1
        assert waits == []
    age = database.fetch("SELECT age(relfrozenxid) FROM pg_class WHERE oid = 'users'::regclass")[0][0]
    assert age < 100_000, "the vacuum was not allowed to finish"
    with flight.client(AFTER) as session:
        assert session.fetch("SELECT count(*) FROM users WHERE last_name = 'Last' || id") == [(3000,)]
    flight.run("zd-complete")


# -- MERGE --------------------------------------------------------------------------------------------

MERGE = """
    MERGE INTO {into} AS t USING (VALUES (1, 'Ada King'), (2, ''), (3, 'Grace Hopper')) AS s (id, name) ON t.id = s.id
    WHEN MATCHED AND s.name = '' THEN DELETE
    WHEN MATCHED THEN UPDATE SET {update}
    WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})
"""
OLD_MERGE = {"update": "name = s.name", "columns": "id, name", "values": "s.id, s.name"}
NEW_MERGE = {
    "update": "first_name = split_part(s.name, ' ', 1), last_name = split_part(s.name, ' ', 2)",
    "columns": "id, first_name, last_name",
    "values": "s.id, split_part(s.name, ' ', 1), split_part(s.name, ' ', 2)",
}


@pytest.mark.every_server
@pytest.mark.parametrize("client", ["old", "new"])
def test_f_merge_statement__through_both_versions(database, tmp_path, client):
    """PostgreSQL 17 and later merge into views, ours too; before, MERGE knows tables only, and 14 does not know it."""
    version = database.server.version
    flight = fly(database, tmp_path, USERS, SPLIT)
    with flight.clients() as clients:
        connection = clients[client].connection
        statement = MERGE.format(into="users", **(OLD_MERGE if client == "old" else NEW_MERGE))
        if version < 17:
            expected = psycopg.errors.SyntaxError if version == 14 else psycopg.errors.FeatureNotSupported
            with pytest.raises((expected, psycopg.errors.WrongObjectType)):
                connection.execute(statement)
        if version == 14:
            return
        if version < 17:
            if client == "new":
                return
            # On the table itself it works, and counts as the oldest version's.
            statement = MERGE.format(into="public.users", **OLD_MERGE)
        connection.execute(statement)
        assert clients["old"].fetch("SELECT id, name FROM users ORDER BY id") == [(1, "Ada King"), (3, "Grace Hopper")]
        assert clients["new"].fetch("SELECT id, first_name, last_name FROM users ORDER BY id") == [
            (1, "Ada", "King"), (3, "Grace", "Hopper"),
        ]  # fmt: skip


@pytest.mark.every_server
def test_f_merge_by_source_with_returning__through_both_versions(database, tmp_path):
    """What PostgreSQL 17 added to MERGE."""
    if database.server.version < 17:
        pytest.skip("MERGE ... RETURNING and WHEN NOT MATCHED BY SOURCE came with PostgreSQL 17")
    flight = fly(database, tmp_path, USERS, SPLIT)
    with flight.clients() as clients:
        merged = clients["new"].fetch(
            "MERGE INTO users AS t USING (VALUES (1, 'King')) AS s (id, name) ON t.id = s.id"
            " WHEN MATCHED THEN UPDATE SET last_name = s.name WHEN NOT MATCHED BY SOURCE THEN DELETE"
            " RETURNING merge_action(), t.id, t.last_name"
        )
        assert sorted(merged) == [("DELETE", 2, "Turing"), ("UPDATE", 1, "King")]
        assert clients["old"].fetch("SELECT id, name FROM users") == [(1, "Ada King")]


# -- PostgreSQL 14 ------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_f_row_security_before_15__no_version_is_published(database, tmp_path):
    """There a view uses its owner's rights, and clients of a version would see every row."""
    setup = USERS + """
        ALTER TABLE users ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON users USING (email = current_user);
    """  # fmt: skip
    flight = None
    try:
        flight = fly(database, tmp_path, setup, SPLIT)
    except AssertionError as error:
        assert database.server.version == 14, str(error)
        assert "[ZD242]" in str(error)
        assert "public.users" in str(error)
        assert database.fetch("SELECT FROM pg_namespace WHERE nspname LIKE 'zd%'") == []
        return
    assert database.server.version > 14
    with flight.client(BEFORE) as client:
        assert client.fetch("SELECT count(*) FROM users") == [(0,)]


@pytest.mark.every_server
def test_f_publication_before_15__refused_for_want_of_column_lists(database, tmp_path):
    """From 15 on, test_replication.py shows with real subscribers that they go on."""
    flight = fly(database, tmp_path, USERS + "CREATE PUBLICATION p FOR TABLE users;", SPLIT, run=False)
    if database.server.version == 14:
        assert_refused(flight, "column lists exist from PostgreSQL 15 on")
    else:
        flight.run("upgrade", AFTER)
