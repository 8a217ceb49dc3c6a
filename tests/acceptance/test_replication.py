"""Logical replication: subscribers never stop because of a migration (REDTEAM B14)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from alembic_zero import version_schema
from tests.support.harness import APP, Session, assert_nothing_left
from tests.support.project import AlembicProject
from tests.support.replication import CONFIGURATION, subscribed
from tests.support.server import Server

pytestmark = [pytest.mark.one_server, pytest.mark.since(15, "its publications have no column lists")]

TABLE = "CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL, age integer, kept boolean DEFAULT true);"
SETUP = f"""
    {TABLE}
    INSERT INTO users SELECT n, 'Ann' || n || ' Lee', n FROM generate_series(1, 300) AS n;
"""
NAMES = """
    op.zd_add_column("users", sa.Column("first", sa.Text), up="split_part(name, ' ', 1)")
    op.zd_add_column("users", sa.Column("last", sa.Text), up="split_part(name, ' ', 2)")
    op.zd_drop_column("users", "name", down="first || ' ' || last")
"""
AGE = 'op.zd_alter_column("users", "age", type_=sa.Text(), up="age::text", down="age::integer")'
ID = 'op.zd_alter_column("users", "id", type_=sa.BigInteger(), up="id::bigint", down="id::integer")'

PUBLISHED = """
    SELECT p.pubname, r.prrelid::regclass::text, r.prattrs::text, pg_get_expr(r.prqual, r.prrelid)
      FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def server(request):
    """A server of its own: logical replication is a setting of the whole server."""
    running = Server(request.param, CONFIGURATION)
    yield running
    running.stop()


def _project(database, directory, *upgrades, extra=None, user="postgres"):
    """Return a project at r1, adopted, with a revision r2, r3, ... for each of *upgrades*."""
    database.execute(
        f"DO $$ BEGIN CREATE ROLE {APP} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {APP};" + SETUP
    )
    project = AlembicProject(directory, database.url.set(username=user), extra=extra)
    project.revision("r1")
    for number, upgrade in enumerate(upgrades, 2):
        project.revision(f"r{number}", f"r{number - 1}", upgrade)
    project.run_in_process("stamp", "r1")
    project.run_in_process("zd-init")
    return project


def _run(database, revision, *statements):
    with Session(database, revision) as client:
        for statement in statements:
            client.connection.execute(statement)


def test_b14_publication_of_the_table__expand_flight_rollback__subscriber_never_stops(database, tmp_path):
    """The subscriber has the old columns only, and sees every write of both versions in them."""
    other = database.other()
    other.execute(TABLE)
    project = _project(database, tmp_path / "project", NAMES)
    database.execute("CREATE TABLE more (id integer PRIMARY KEY); CREATE PUBLICATION p FOR TABLE more, users")
    other.execute("CREATE TABLE more (id integer PRIMARY KEY)")
    before = database.fetch(PUBLISHED)
    with subscribed(database, other, "p") as subscription:
        query = "SELECT id, name, age, kept FROM users ORDER BY id"
        assert len(subscription.same(query)) == 300
        plan = project.run_in_process("zd-plan").stdout
        assert 'ALTER PUBLICATION "p" ADD TABLE "public"."users" ("id", "name", "age", "kept")' in plan
        assert database.fetch(PUBLISHED) == before
        project.run_in_process("upgrade", "r2")
        subscription.same(query)
        _run(
            database,
            "r1",
            "INSERT INTO users VALUES (1001, 'Old One', 1)",
            "UPDATE users SET name = 'B C' WHERE id = 1",
        )
        _run(
            database,
            "r2",
            "INSERT INTO users (id, first, last) VALUES (1002, 'New', 'Two')",
            "UPDATE users SET first = 'Mary Ann' WHERE id = 2",
            "UPDATE users SET age = 7 WHERE id = 3",
            "DELETE FROM users WHERE id = 4",
        )
        rows = {row[0]: row[1:] for row in subscription.same(query)}
        assert rows[1002] == ("New Two", None, True)
        assert rows[2][0] == "Mary Ann Lee"
        assert 4 not in rows
        project.run_in_process("downgrade", "r1")
        assert database.fetch(PUBLISHED) == before
        database.execute("UPDATE users SET name = 'After All' WHERE id = 5; INSERT INTO more VALUES (1)")
        subscription.same(query)
        subscription.same("SELECT id FROM more")
    assert_nothing_left(database)


def test_b14_publication_of_the_table__complete__subscriber_sees_what_plain_alembic_would_show(database, tmp_path):
    """After the contract every column is published again; a subscriber that has the new ones goes on."""
    other = database.other()
    other.execute(TABLE)
    project = _project(database, tmp_path / "project", NAMES)
    database.execute("CREATE PUBLICATION p FOR TABLE users WHERE (id > 10)")
    before = database.fetch(PUBLISHED)
    with subscribed(database, other, "p") as subscription:
        project.run_in_process("upgrade", "r2")
        _run(database, "r2", "UPDATE users SET first = 'In Flight' WHERE id = 12")
        subscription.caught_up()
        assert other.fetch("SELECT name FROM users WHERE id = 12") == [("In Flight Lee",)]
        # What plain Alembic asks for, too: the subscriber's table gets the columns before they are published.
        other.execute("ALTER TABLE users ADD first text, ADD last text, ALTER name DROP NOT NULL")
        project.run_in_process("zd-complete")
        assert database.fetch(PUBLISHED) == before
        _run(
            database,
            "r2",
            "INSERT INTO users (id, first, last) VALUES (1003, 'A', 'B')",
            "UPDATE users SET last = 'Done' WHERE id = 13",
            "INSERT INTO users (id, first, last) VALUES (-1, 'not', 'published')",
        )
        subscription.caught_up()
        rows = other.fetch("SELECT id, first, last FROM users WHERE id IN (-1, 13, 1003) ORDER BY id")
        assert rows == [(13, "Ann13", "Done"), (1003, "A", "B")]
        database.execute("UPDATE users SET age = 0")
        subscription.same("SELECT id, first, last, age FROM users WHERE id > 10 ORDER BY id")
    assert_nothing_left(database)


def test_b14_two_revisions_in_flight__key_changed__each_completed__subscriber_never_stops(database, tmp_path):
    """While a second revision is in flight the subscriber sees what the first has made, not more."""
    other = database.other()
    other.execute(TABLE)
    project = _project(database, tmp_path / "project", ID, AGE)
    database.execute("CREATE PUBLICATION p FOR TABLE users; CREATE PUBLICATION q FOR TABLE users")
    before = database.fetch(PUBLISHED)
    with subscribed(database, other, "p, q") as subscription:
        query = "SELECT id::bigint, name, age::text, kept FROM users ORDER BY id"
        project.run_in_process("upgrade", "r2")
        _run(database, "r2", "UPDATE users SET id = 5000 WHERE id = 1")
        project.run_in_process("upgrade", "r3")
        _run(database, "r3", "UPDATE users SET age = '17' WHERE id = 2", "DELETE FROM users WHERE id = 3")
        _run(database, "r1", "UPDATE users SET id = 6000, age = 18 WHERE id = 4")
        subscription.same(query)
        project.run_in_process("zd-complete", "r2")
        _run(database, "r3", "UPDATE users SET age = '19', id = 7000 WHERE id = 5", "DELETE FROM users WHERE id = 6")
        _run(database, "r2", "INSERT INTO users VALUES (8000, 'X', 3)")
        subscription.same(query)
        assert len({row[2] for row in database.fetch(PUBLISHED)} - {None}) == 1
        project.run_in_process("zd-complete")
        assert database.fetch(PUBLISHED) == before
        _run(database, "r3", "UPDATE users SET age = '20' WHERE id = 7000", "DELETE FROM users WHERE id = 7")
        assert len(subscription.same(query)) == 298
    assert_nothing_left(database)


def test_b14_publications_ignored__subscriber_has_the_columns__goes_on(database, tmp_path):
    """Whoever has prepared the subscribers may say so; then they see everything, the marker too."""
    other = database.other()
    other.execute(TABLE + "ALTER TABLE users ADD first text, ADD last text, ADD _zd_v integer")
    project = _project(database, tmp_path / "project", NAMES, extra={"zd_publications": "ignore"})
    database.execute("CREATE PUBLICATION p FOR TABLE users")
    before = database.fetch(PUBLISHED)
    with subscribed(database, other, "p") as subscription:
        said = project.run_in_process("upgrade", "r2").stderr
        assert "warning ZD408" in said
        assert '"first" text, "last" text, "_zd_v" integer' in said
        _run(database, "r2", "UPDATE users SET first = 'Z' WHERE id = 1")
        subscription.same("SELECT id, name, first, last, _zd_v FROM users ORDER BY id")
        assert database.fetch(PUBLISHED) == before
        other.execute("ALTER TABLE users ALTER name DROP NOT NULL")
        project.run_in_process("zd-complete")
        assert database.fetch(PUBLISHED) == before
        database.execute("UPDATE users SET first = 'Y' WHERE id = 2")
        subscription.same("SELECT id, first, last FROM users ORDER BY id")


def test_b14_subscriber_migrates__applied_rows_are_kept_in_step(database, tmp_path):
    """Apply workers write under session_replication_role = replica: our triggers are ENABLE ALWAYS."""
    publisher = database.other()
    publisher.execute(SETUP + "CREATE PUBLICATION p FOR TABLE users")
    project = _project(database, tmp_path / "project", NAMES)
    database.execute("TRUNCATE users")
    with subscribed(publisher, database, "p") as subscription:
        said = project.run_in_process("upgrade", "r2").stderr
        assert "warning ZD409" in said
        publisher.execute(
            "INSERT INTO users VALUES (2001, 'Ap Plied', 1); UPDATE users SET name = 'Two Two' WHERE id = 2;"
            "DELETE FROM users WHERE id = 3"
        )
        subscription.same("SELECT id, name, age, kept FROM users ORDER BY id")
        with ExitStack() as stack:
            client = stack.enter_context(Session(database, "r2"))
            rows = client.fetch("SELECT first, last FROM users WHERE id IN (2, 3, 2001) ORDER BY id")
        assert rows == [("Two", "Two"), ("Ap", "Plied")]
        state = project.run_in_process("zd-status").stdout
        assert "0 rows quarantined" in state
        # What the publisher sends must fit the table: it stops sending "name" before the contract takes it.
        publisher.execute("ALTER TABLE users ADD first text, ADD last text, DROP name")
        project.run_in_process("zd-complete")
        publisher.execute("INSERT INTO users (id, first, last) VALUES (2002, 'N', 'M')")
        subscription.caught_up()
    assert database.fetch(f"SELECT first, last FROM {version_schema('r2')}.users WHERE id = 2002") == [("N", "M")]
