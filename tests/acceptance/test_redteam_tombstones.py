"""REDTEAM B2, B3, B9, B15, E3 and section C: versions, row security, the moment of publishing, locks, tombstones."""

from __future__ import annotations

import signal
import time

import psycopg
import pytest
from sqlalchemy import Engine, event

from alembic_zero import version_schema
from tests.acceptance.test_redteam import SPLIT, USERS, assert_refused, fly
from tests.support.harness import AFTER, BEFORE, LEFTOVERS, Case, Flight, Session, assert_same
from tests.support.project import AlembicProject
from tests.support.threads import in_threads

pytestmark = pytest.mark.one_server

FULL_NAME = 'op.zd_add_column("users", sa.Column("shout", sa.Text), up="upper(name)")'
SHOUTS = "SELECT id, shout FROM users ORDER BY id"


# -- B2 -----------------------------------------------------------------------------------------------


def test_b02_second_lens_on_the_same_table__every_row_is_derived_again(database, tmp_path):
    """Rows that one revision has synchronised are still to do for the next one."""
    flight = fly(database, tmp_path, USERS, FULL_NAME)
    flight.project.revision("r3", AFTER, """
        op.zd_add_column("users", sa.Column("size", sa.Integer), up="length(shout)")
        op.zd_alter_column("users", "email", nullable=False, up="coalesce(email, '?')")
    """)  # fmt: skip
    with flight.client(AFTER) as second:
        second.connection.execute("INSERT INTO users (name, shout) VALUES ('Zoe', 'ZOE!')")
        flight.run("upgrade", "r3")
        with flight.client(BEFORE) as first, flight.client("r3") as third:
            query = "SELECT shout, size, email FROM users ORDER BY id"
            rows = [("ADA LOVELACE", 12, "ada"), ("ALAN TURING", 11, "alan"), ("ZOE!", 4, "?")]
            assert third.fetch(query) == rows
            first.connection.execute("INSERT INTO users (name) VALUES ('Grace')")
            second.connection.execute("INSERT INTO users (name, shout, email) VALUES ('Mary', 'MARY!!', 'm')")
            third.connection.execute("INSERT INTO users (name, shout, size, email) VALUES ('Bob', 'B', 99, 'b')")
            rows += [("GRACE", 5, "?"), ("MARY!!", 6, "m"), ("B", 99, "b")]
            assert third.fetch(query) == rows
            first.connection.execute("UPDATE users SET name = 'Al' WHERE id = 2")
            rows[1] = ("AL", 2, "alan")
            assert third.fetch(query) == rows
        flight.run("zd-complete", AFTER)
        with flight.client("r3") as third:
            second.connection.execute("UPDATE users SET shout = 'ADA' WHERE id = 1")
            rows[0] = ("ADA", 3, "ada")
            assert third.fetch(query) == rows
    flight.run("zd-complete")
    assert database.fetch("SELECT shout, size, email FROM users ORDER BY id") == rows
    assert database.fetch(LEFTOVERS) == []


@pytest.mark.parametrize("below", [False, True], ids=["alone", "above_another"])
def test_b02_generation_is_not_reused__rolled_back_and_again__derived_anew(database, tmp_path, below):
    """After a rollback the same revision, edited, starts with every row to do."""
    flight = fly(database, tmp_path, USERS, FULL_NAME if below else "", run=False)
    start, end = (AFTER, "r3") if below else (BEFORE, AFTER)
    if below:
        flight.run("upgrade", AFTER)
    draft = 'op.zd_add_column("users", sa.Column("n", sa.Integer), up="{}")'
    generations = []
    for number in range(3):
        flight.project.revision(end, start, draft.format(f"length(name) + {number}"))
        flight.run("upgrade", end)
        assert database.fetch("SELECT n FROM users ORDER BY id") == [(12 + number,), (11 + number,)]
        generations += database.fetch("SELECT DISTINCT _zd_v FROM users")
        if number < 2:
            flight.run("downgrade", start)
    assert generations == sorted(set(generations))


# -- B3 -----------------------------------------------------------------------------------------------


def test_b03_shared_input__pinned_new_client__its_value_stays(database, tmp_path):
    """The setting tells who wrote a shared column; what a new client derived by hand is not overwritten."""
    setup = """
        CREATE TABLE people (id integer PRIMARY KEY, name text, email text);
        INSERT INTO people VALUES (1, 'Bob', 'b@x'), (2, 'Eve', 'e@x');
    """
    upgrade = """
        op.zd_add_column("people", sa.Column("label", sa.Text), up="name || ' <' || email || '>'")
    """
    flight = fly(database, tmp_path, setup, upgrade)
    with flight.clients() as clients:
        new, old = clients["new"].connection, clients["old"].connection
        new.execute(f"SET alembic_zero.revision = '{AFTER}'")
        new.execute("UPDATE people SET label = 'Sir Bob' WHERE id = 1")
        new.execute("UPDATE people SET email = 'bob@x' WHERE id = 1")
        new.execute("UPDATE people SET email = 'eve@x', label = 'Dame Eve' WHERE id = 2")
        assert clients["new"].fetch("SELECT label FROM people ORDER BY id") == [("Sir Bob",), ("Dame Eve",)]
        old.execute("UPDATE people SET email = 'bobby@x' WHERE id = 1")
        assert clients["new"].fetch("SELECT label FROM people WHERE id = 1") == [("Bob <bobby@x>",)]


# -- B9 -----------------------------------------------------------------------------------------------

MAKE_ROLE = "DO $$ BEGIN CREATE ROLE {0} LOGIN {1}; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;"
OWNER = f"""
    {MAKE_ROLE.format("{role}", "{attributes}")}
    {MAKE_ROLE.format("zd_app", "")}
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('{BEFORE}');
    ALTER TABLE users OWNER TO {{role}};
    ALTER TABLE alembic_version OWNER TO {{role}};
    ALTER TABLE users ENABLE ROW LEVEL SECURITY;
    ALTER TABLE users {{force}} ROW LEVEL SECURITY;
    CREATE POLICY mine ON users USING (email = current_user) WITH CHECK (email = current_user);
    INSERT INTO users (name, email) VALUES ('Zoe App', 'zd_app');
    GRANT SELECT, INSERT, UPDATE, DELETE ON users TO zd_app;
    GRANT ALL ON SCHEMA public TO {{role}} WITH GRANT OPTION;
    GRANT CREATE ON DATABASE {{database}} TO {{role}};
"""


def owned_flight(database, tmp_path, role, attributes, force):
    """Return a project that migrates as *role*, which owns the table, and the flight's clients."""
    project = AlembicProject(tmp_path / "owned", database.server.url(database.name, user=role))
    flight = object.__new__(Flight)
    database.execute(USERS + OWNER.format(role=role, attributes=attributes, force=force, database=database.name))
    flight.case, flight.database, flight.project = Case("rls", USERS, SPLIT, "pass"), database, project
    project.revision(BEFORE)
    project.revision(AFTER, BEFORE, SPLIT)
    project.run_in_process("zd-init")
    return flight


@pytest.mark.since(15, "its views cannot keep row security, ZD242")
def test_b09_forced_row_security__owner_without_bypass__refused(database, tmp_path):
    """A backfill that would see no rows is not begun."""
    flight = owned_flight(database, tmp_path, "zd_plain_owner", "", "FORCE")
    assert_refused(flight, "BYPASSRLS")
    planned = flight.project.run_in_process("zd-plan", check=False)
    assert planned.returncode == 2, planned.stderr


@pytest.mark.parametrize(("role", "attributes", "force"),
                         [("zd_bypass_owner", "BYPASSRLS", "FORCE"), ("zd_plain_owner", "", "NO FORCE")])  # fmt: skip
@pytest.mark.since(15, "its views cannot keep row security, ZD242")
def test_b09_row_security__every_row_is_migrated_and_policies_hold(database, tmp_path, role, attributes, force):
    """The backfill reaches rows that no policy shows; clients of both versions see what the policy lets them."""
    flight = owned_flight(database, tmp_path, role, attributes, force)
    flight.run("upgrade", AFTER)
    assert database.fetch("SELECT count(*) FROM users WHERE last_name IS NULL") == [(0,)]
    with flight.clients() as clients:
        assert clients["new"].fetch("SELECT first_name FROM users") == [("Zoe",)]
        clients["new"].connection.execute("UPDATE users SET last_name = 'Zed'")
        assert clients["old"].fetch("SELECT name FROM users") == [("Zoe Zed",)]
        for client in clients.values():
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.connection.execute("INSERT INTO users (id, email) VALUES (99, 'other')")
        flight.run("zd-complete")
        assert clients["new"].fetch("SELECT last_name FROM users") == [("Zed",)]
    assert database.fetch("SELECT count(*) FROM users") == [(3,)]


# -- B15 ----------------------------------------------------------------------------------------------

CHAIN = {
    "r2": FULL_NAME,
    "r3": 'op.zd_alter_column("users", "shout", new_column_name="cry")',
    "r4": 'op.zd_add_column("users", sa.Column("size", sa.Integer), up="length(cry)")',
}


def _chain(database, tmp_path):
    flight = fly(
        database, tmp_path, USERS + "INSERT INTO users SELECT i, 'x' FROM generate_series(3, 200) i;", "", run=False
    )
    for (revision, body), down in zip(CHAIN.items(), ("r1", "r2", "r3"), strict=True):
        flight.project.revision(revision, down, body)
    return flight


def _live(database):
    comments = "obj_description(oid, 'pg_namespace') LIKE 'alembic_zero: version%'"
    return [row[0] for row in database.fetch(f"SELECT nspname FROM pg_namespace WHERE {comments} ORDER BY 1")]


def test_b15_chain_of_three__version_moves_at_publish_only(database, tmp_path):
    """While three pending revisions expand, alembic_version names the start; then, at once, the end."""
    flight = _chain(database, tmp_path)
    seen = set()

    def watch(stop):
        with database.connect() as connection:
            while not stop.is_set():
                query = (
                    "SELECT string_agg(version_num, ','), (SELECT string_agg(nspname, ',' ORDER BY nspname)"
                    " FROM pg_namespace WHERE nspname LIKE 'zd\\_%') FROM alembic_version"
                )
                seen.add(connection.execute(query).fetchone())

    with in_threads(watch):
        flight.run("upgrade", "head")
        time.sleep(0.05)
    assert seen == {("r1", "zd_r1"), ("r4", "zd_r1,zd_r4")}
    with flight.client("r4") as client:
        assert client.fetch("SELECT cry, size FROM users WHERE id = 1") == [("ADA LOVELACE", 12)]
    flight.run("zd-complete")
    assert database.fetch(LEFTOVERS) == []


def test_b15_killed_before_publish__version_stays_and_the_next_run_goes_on(database, tmp_path):
    """kill -9 during the backfill of a chain: alembic_version is at the start, nothing is published."""
    flight = _chain(database, tmp_path)
    database.execute("""
        CREATE FUNCTION slow(text) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.005); RETURN upper($1); END $$;
    """)
    flight.project.revision("r2", BEFORE, CHAIN["r2"].replace("upper", "slow"))
    original = flight.dump()
    process = flight.project.start("upgrade", "head")
    deadline = time.monotonic() + 30
    marked = "SELECT FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = '_zd_v'"
    while not database.fetch(marked):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert database.fetch("SELECT version_num FROM alembic_version") == [("r1",)]
    assert _live(database) == ["zd_r1"]
    with flight.client(BEFORE) as client:
        client.connection.execute("INSERT INTO users (id, name) VALUES (1000, 'during')")
    flight.run("upgrade", "head")
    assert database.fetch("SELECT version_num FROM alembic_version") == [("r4",)]
    assert _live(database) == ["zd_r1", "zd_r4"]
    with flight.client(BEFORE) as old, flight.client("r4") as client:
        assert client.fetch("SELECT count(*) FROM users WHERE size <> length(cry) OR cry IS NULL") == [(0,)]
        assert client.fetch("SELECT cry, size FROM users WHERE id = 1000") == [("DURING", 6)]
        assert old.fetch("SELECT name FROM users WHERE id = 1000") == [("during",)]
    flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), original, "rollback after a killed expand")


def test_b15_publish_fails__neither_views_nor_version_are_there(database, tmp_path):
    """Views, rights and the version are one transaction: if its last statement fails, none of it happened."""
    flight = fly(database, tmp_path, USERS, FULL_NAME, run=False)
    database.execute("""
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
        CREATE TRIGGER no BEFORE UPDATE ON alembic_version FOR EACH ROW EXECUTE FUNCTION no();
    """)
    with pytest.raises(Exception, match="not today"):
        flight.run("upgrade", AFTER)
    assert _live(database) == ["zd_r1"]
    assert database.fetch("SELECT version_num FROM alembic_version") == [("r1",)]
    database.execute("DROP TRIGGER no ON alembic_version; DROP FUNCTION no()")
    flight.run("upgrade", AFTER)
    assert _live(database) == ["zd_r1", "zd_r2"]
    assert database.fetch("SELECT version_num FROM alembic_version") == [("r2",)]


def test_b15_stamp_in_flight__refused(database, tmp_path):
    """alembic stamp would tear alembic_version from the tables."""
    flight = fly(database, tmp_path, USERS, FULL_NAME)
    refused = flight.project.run_in_process("stamp", BEFORE, check=False)
    assert refused.returncode == 2, refused.stderr
    assert "zd-complete" in refused.stderr + refused.stdout
    assert database.fetch("SELECT version_num FROM alembic_version") == [(AFTER,)]


# -- E3 -----------------------------------------------------------------------------------------------


def _statements_of(flight, *command):
    """Run a command; return the statements that it sent."""
    sent = []

    def listen(_connection, _cursor, statement, *_rest):
        sent.append(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        flight.run(*command)
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    return sent


@pytest.mark.parametrize("command", [("zd-complete",), ("downgrade", BEFORE)], ids=["contract", "rollback"])
def test_e03_strong_locks__views_of_both_versions_before_the_table(database, tmp_path, command):
    """Clients lock a view, then its table; a step that also locks views must do the same."""
    flight = fly(database, tmp_path, USERS, FULL_NAME)
    sent = _statements_of(flight, *command)
    # ALTER VIEW locks a view without its table; LOCK TABLE would go on to the table at once.
    # A step takes all of its locks in one DO block.
    parts = [part.strip() for s in sent for part in (s.split(";") if s.startswith("DO ") else [s])]
    strong = [s for s in parts if "LOCK TABLE" in s or (s.startswith("ALTER VIEW") and "RESET" in s)]
    strong = [s for s in strong if "SHARE UPDATE EXCLUSIVE" not in s]
    assert strong
    base = next(n for n, s in enumerate(strong) if "public" in s.split(" IN ")[0] or s.startswith("LOCK TABLE users "))
    touched = {s.split('"')[1] for s in sent if s.startswith(("DROP VIEW", "CREATE OR REPLACE VIEW")) and "zd_" in s}
    assert touched
    for schema in touched - {"alembic_zero"}:
        assert any(schema in s for s in strong[:base]), f"{schema} is not locked before the table: {strong}"
    first_drop = next(n for n, s in enumerate(parts) if s.startswith("DROP VIEW"))
    assert any(s in strong for s in parts[:first_drop])


def test_e03_contract_under_steady_load_of_new_clients__gets_its_locks(database, tmp_path):
    """Clients of the new version that queue for the table do not starve the contract, and none of them fails."""
    flight = fly(database, tmp_path, USERS, FULL_NAME)
    flight.project.write_env(extra={"zd_lock_budget_s": 10})
    worst = []

    def client(stop):
        with flight.client(AFTER) as session:
            while not stop.is_set():
                started = time.monotonic()
                with session.connection.transaction():
                    session.connection.execute("SELECT shout FROM users WHERE id = 1")
                    session.connection.execute("INSERT INTO users (name) VALUES ('x')")
                    time.sleep(0.004)
                worst.append(time.monotonic() - started)

    with in_threads(*[client] * 6):
        time.sleep(0.1)
        started = time.monotonic()
        flight.run("zd-complete")
        taken = time.monotonic() - started
    assert taken < 15
    assert max(worst) < 1
    assert len(worst) > 20


# -- C ------------------------------------------------------------------------------------------------

ITEMS = """
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE items (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, code text COLLATE "C",
        name varchar(20) NOT NULL, price numeric(8, 2) DEFAULT 1, mood mood, data json,
        deleted boolean NOT NULL DEFAULT false, a int, b int);
    CREATE UNIQUE INDEX items_code ON items (code);
    CREATE UNIQUE INDEX items_ba ON items (b, a);
    CREATE UNIQUE INDEX items_a ON items (a) INCLUDE (name);
    CREATE UNIQUE INDEX items_lower ON items (lower(name));
    CREATE UNIQUE INDEX items_live ON items (name) WHERE NOT deleted;
    CREATE TABLE other (id integer PRIMARY KEY, note text);
"""
STATEMENTS = {
    "select": "SELECT * FROM {t}",
    "count": "SELECT count(*) FROM {t}",
    "exists": "SELECT EXISTS (SELECT FROM {t})",
    "limit": "SELECT id FROM {t} WHERE id = 1 LIMIT 1",
    "subquery": "SELECT (SELECT max(id) FROM {t})",
    "join": "SELECT o.id FROM {t} JOIN {t} AS o USING (id)",
    "for_update": "SELECT id FROM {t} WHERE id = 1 FOR UPDATE",
    "skip_locked": "SELECT id FROM {t} FOR NO KEY UPDATE SKIP LOCKED",
    "insert": "INSERT INTO {t} (id) VALUES (1)",
    "insert_select": "INSERT INTO {t} (id) SELECT 1 WHERE false",
    "insert_returning": "INSERT INTO {t} (id) VALUES (1) RETURNING id",
    "default_values": "INSERT INTO {t} DEFAULT VALUES",
    "do_nothing": "INSERT INTO {t} (id) VALUES (1) ON CONFLICT DO NOTHING",
    "upsert": "INSERT INTO {t} (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = excluded.id",
    "upsert_nothing": "INSERT INTO {t} (id) VALUES (1) ON CONFLICT (id) DO NOTHING RETURNING id",
    "update": "UPDATE {t} SET id = 1",
    "update_nothing": "UPDATE {t} SET id = 1 WHERE id = -1",
    "update_false": "UPDATE {t} SET id = 1 WHERE false",
    "delete": "DELETE FROM {t}",
    "delete_nothing": "DELETE FROM {t} WHERE id = -1 RETURNING id",
    "writable_cte": "WITH gone AS (DELETE FROM {t} RETURNING id) SELECT count(*) FROM gone",
    "prepared": "PREPARE p AS SELECT * FROM {t}; EXECUTE p",
    "cursor": "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM {t}",
}
UPSERTS = {
    "collated": "INSERT INTO items (code) VALUES ('x') ON CONFLICT (code) DO UPDATE SET name = 'x'",
    "two_columns": "INSERT INTO items (a, b) VALUES (1, 2) ON CONFLICT (a, b) DO NOTHING",
    "include": "INSERT INTO items (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 2",
    "expression": "INSERT INTO items (name) VALUES ('x') ON CONFLICT (lower(name)) DO UPDATE SET b = 2",
    "partial": "INSERT INTO items (name) VALUES ('x') ON CONFLICT (name) WHERE NOT deleted DO NOTHING",
}
# The table is in flight in one direction, "other" never is: both kinds of view must become tombstones.
RENAME = 'op.zd_alter_column("items", "price", type_=sa.Numeric(10, 3))'


def _tombstones(database, tmp_path, command):
    flight = fly(database, tmp_path, ITEMS, RENAME)
    early = flight.client(BEFORE if command == "zd-complete" else AFTER)
    early.connection.prepare_threshold = 0
    return flight, early


def _assert_buried(session, statement, wanted):
    try:
        session.connection.execute(statement.encode())
    except psycopg.Error as error:
        assert error.sqlstate == "55000", f"{statement}: {error.sqlstate} {error}"
        assert f"revision {wanted}" in str(error), str(error)
    else:
        raise AssertionError(f"{statement} still works; a tombstone should raise")


@pytest.mark.parametrize("command", ["zd-complete", "downgrade"])
def test_c_tombstone__every_kind_of_statement__names_the_revision_to_use(database, tmp_path, command):
    """Over an empty table, too, each statement raises and says which revision to deploy."""
    flight, early = _tombstones(database, tmp_path, command)
    wanted = AFTER if command == "zd-complete" else BEFORE
    with early:
        flight.run(*((command,) if command == "zd-complete" else (command, BEFORE)))
        failures = []
        for table in ("items", "other", f"{version_schema(BEFORE if wanted == AFTER else AFTER)}.items"):
            for statement in STATEMENTS.values():
                try:
                    for part in statement.format(t=table).split("; ")[-2:]:
                        if not part.startswith("PREPARE"):
                            _assert_buried(early, part if "EXECUTE" not in part else f"SELECT * FROM {table}", wanted)
                except AssertionError as error:
                    failures.append(str(error))
        assert failures == []


@pytest.mark.parametrize("command", ["zd-complete", "downgrade"])
@pytest.mark.parametrize("kind", UPSERTS)
def test_c_tombstone__on_conflict_over_any_unique_index__names_the_revision(database, tmp_path, command, kind):
    """ON CONFLICT needs a matching index before anything runs: the empty table has them all."""
    flight, early = _tombstones(database, tmp_path, command)
    with early:
        flight.run(*((command,) if command == "zd-complete" else (command, BEFORE)))
        _assert_buried(early, UPSERTS[kind], AFTER if command == "zd-complete" else BEFORE)


def test_c_tombstone__statements_prepared_before__name_the_revision(database, tmp_path):
    """A prepared statement whose plan is from before meets the tombstone, not a changed result type."""
    flight, early = _tombstones(database, tmp_path, "zd-complete")
    statements = [
        "SELECT id, code, price FROM items", "SELECT * FROM other", "UPDATE items SET b = 1 WHERE id = 1 RETURNING b",
        "INSERT INTO items (name) VALUES ('x') ON CONFLICT DO NOTHING RETURNING name",
        "DELETE FROM items RETURNING id, code",
        "INSERT INTO other VALUES (1) RETURNING *",
    ]  # fmt: skip
    with early:
        for statement in statements:
            early.connection.execute(statement)
        flight.run("zd-complete")
        failures = []
        for statement in statements:
            try:
                _assert_buried(early, statement, AFTER)
            except AssertionError as error:
                failures.append(str(error))
        assert failures == []


@pytest.mark.parametrize("statement", [
    "INSERT INTO items (name, mood) VALUES ('x', 'good'::mood)",
    "UPDATE items SET mood = 'bad'::mood WHERE id = 1", "SELECT data ->> 'a' FROM items",
    "SELECT name || '!' FROM items",
])  # fmt: skip
def test_c_tombstone__parameters_typed_as_drivers_do__name_the_revision(database, tmp_path, statement):
    """SQLAlchemy casts an enum's parameter to its type: that must still parse over the empty table."""
    flight = fly(database, tmp_path, ITEMS, RENAME)
    with Session(database, BEFORE, "public") as early:
        flight.run("zd-complete")
        _assert_buried(early, statement, AFTER)


def test_c_tombstone__column_of_a_users_type__still_an_error_and_the_type_can_go(database, tmp_path):
    """A tombstone has text where a user's type was: it must not keep the type from being dropped."""
    flight = fly(database, tmp_path, ITEMS, 'op.zd_drop_column("items", "mood")')
    with Session(database, BEFORE, "public") as early:
        flight.run("zd-complete")
        with pytest.raises(psycopg.Error):
            early.connection.execute("SELECT id FROM items WHERE mood = 'good'::mood")
    database.execute("DROP TYPE mood")


def test_c_tombstone__public_behind_it_on_the_path__is_not_reached(database, tmp_path):
    """An old client with public behind its version does not fall through to the tables."""
    flight = fly(database, tmp_path, ITEMS, RENAME)
    with Session(database, BEFORE, "public") as early:
        early.connection.execute("INSERT INTO items (name) VALUES ('before')")
        flight.run("zd-complete")
        _assert_buried(early, "INSERT INTO items (name) VALUES ('after')", AFTER)
        _assert_buried(early, "SELECT * FROM other", AFTER)
    assert database.fetch("SELECT name FROM items") == [("before",)]


def test_c_tombstone__zd_prune__removes_it_and_leaves_the_tables(database, tmp_path):
    """After zd-prune nothing is left of the old version, and nothing else is gone."""
    flight = fly(database, tmp_path, ITEMS, RENAME)
    flight.run("zd-complete")
    before = flight.dump()
    flight.run("zd-prune")
    assert database.fetch("SELECT FROM pg_namespace WHERE nspname = 'zd_r1'") == []
    assert database.fetch("SELECT relname FROM pg_class WHERE relname LIKE 'tomb%'") == []
    assert database.fetch("SELECT proname FROM pg_proc WHERE proname LIKE 'tomb%'") == []
    assert_same(flight.dump(), before, "zd-prune changed the tables")
    with flight.client(AFTER) as client:
        client.connection.execute("INSERT INTO items (name) VALUES ('x')")
    flight.run("zd-prune")


def test_c_tombstone__type_of_a_buried_column__can_be_dropped_once_pruned(database, tmp_path):
    """A tombstone keeps no user's type alive for longer than it stands."""
    flight = fly(database, tmp_path, ITEMS, 'op.zd_drop_column("items", "mood")')
    flight.run("zd-complete")
    flight.run("zd-prune")
    database.execute("DROP TYPE mood")
