"""Several schemas of one project, several projects in one database, several databases in one env.py."""

from __future__ import annotations

import json

import psycopg
import pytest
import sqlalchemy as sa

from alembic_zero import pin_engine, version_schema
from alembic_zero.names import client_suffix
from tests.support.harness import APP, Case, Flight, Session, assert_nothing_left, assert_same, normalise_settings
from tests.support.project import AlembicProject

pytestmark = pytest.mark.one_server

SALES, AUDIT = "sales", "Audit Log"
SCHEMAS = ("public", SALES, AUDIT)

SETUP = f"""
    CREATE SCHEMA sales;
    CREATE SCHEMA "Audit Log";
    GRANT USAGE ON SCHEMA sales, "Audit Log" TO {APP};
    CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL);
    CREATE TABLE sales.orders (
        id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES users, total numeric(8, 2) NOT NULL, note text);
    CREATE TABLE sales.notes (id integer PRIMARY KEY, order_id integer REFERENCES sales.orders);
    CREATE TABLE "Audit Log"."Event %" (
        id integer PRIMARY KEY, order_id integer REFERENCES sales.orders, "user" integer REFERENCES public.users,
        "at""x" text DEFAULT 'now');
    CREATE TABLE "Audit Log".gone (id integer PRIMARY KEY, user_id integer REFERENCES users);
    INSERT INTO users VALUES (1, 'Ada Lovelace'), (2, 'Alan Turing');
    INSERT INTO sales.orders VALUES (1, 1, 9.99, NULL), (2, 2, 5, 'x');
    INSERT INTO sales.notes VALUES (1, 1);
    INSERT INTO "Audit Log"."Event %" VALUES (1, 1, 1, 'first');
"""

# Every operation, in every schema; the foreign keys go from each schema to another.
UPGRADE = """
    op.zd_add_column("users", sa.Column("first", sa.Text, nullable=False), up="split_part(name, ' ', 1)")
    op.zd_add_column("users", sa.Column("last_order", sa.Integer, sa.ForeignKey("sales.orders.id")), schema="public")
    op.zd_alter_column("orders", "total", new_column_name="cents", type_=sa.Integer, up="total * 100",
        down="cents / 100.0", schema="sales")
    op.zd_drop_column("orders", "note", schema="sales")
    op.zd_rename_table("notes", "remarks", schema="sales")
    op.zd_add_column("Event %", sa.Column("order", sa.Text, unique=True, comment="it's"), up="'#' || id",
        schema="Audit Log")
    op.zd_alter_column("Event %", 'at"x', nullable=False, server_default="then", up="coalesce(\\"at\\"\\"x\\", '?')",
        schema="Audit Log")
    op.zd_drop_table("gone", schema="Audit Log")
    op.zd_create_table("lines", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("order_id", sa.Integer, sa.ForeignKey("sales.orders.id"), index=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id")), schema="Audit Log")
    op.zd_execute(expand='CREATE SEQUENCE IF NOT EXISTS sales."S %"', rollback='DROP SEQUENCE IF EXISTS sales."S %"')
"""
PLAIN = """
    op.execute("ALTER TABLE users ADD first text; UPDATE users SET first = ''")
    op.alter_column("users", "first", nullable=False)
    op.add_column("users", sa.Column("last_order", sa.Integer, sa.ForeignKey("sales.orders.id")))
    op.alter_column("orders", "total", new_column_name="cents", type_=sa.Integer, schema="sales")
    op.drop_column("orders", "note", schema="sales")
    op.rename_table("notes", "remarks", schema="sales")
    op.add_column("Event %", sa.Column("order", sa.Text, unique=True, comment="it's"), schema="Audit Log")
    op.alter_column("Event %", 'at"x', nullable=False, server_default="then", schema="Audit Log")
    op.drop_table("gone", schema="Audit Log")
    op.create_table("lines", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("order_id", sa.Integer, sa.ForeignKey("sales.orders.id"), index=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id")), schema="Audit Log")
    op.execute('CREATE SEQUENCE sales."S %"')
"""
# What the project says about its schemas: some by its models, one by name.
METADATA = """
target_metadata = sa.MetaData()
sa.Table("orders", target_metadata, schema="sales")
sa.Table("Event %", target_metadata, schema="Audit Log")
"""
CASE = Case("three_schemas", SETUP, UPGRADE, PLAIN, metadata=METADATA)


def dump(database):
    return normalise_settings(database.normalised_dump(('"Audit Log"', "public", "sales")))


class ByPath:
    """A client in another language: the version schemas of all schemas on its search_path."""

    def __init__(self, database, revision):
        self.connection = database.connect(user=APP)
        path = ", ".join([*(version_schema(revision, schema) for schema in SCHEMAS), "public"])
        self.connection.execute(f"SET search_path = {path}")

    def run(self, statement, *tables):
        cursor = self.connection.execute(statement.format(*(f'"{name}"' for _, name in tables)))
        return cursor.fetchall() if cursor.description else []

    def close(self):
        self.connection.close()


class ByQualifiedNames(ByPath):
    """A client that names the version schemas, whatever its search_path is."""

    def __init__(self, database, revision):
        super().__init__(database, revision)
        self.revision = revision
        self.connection.execute("SET search_path = public")

    def run(self, statement, *tables):
        qualified = [f'{version_schema(self.revision, schema)}."{name}"' for schema, name in tables]
        cursor = self.connection.execute(statement.format(*qualified))
        return cursor.fetchall() if cursor.description else []


CLIENTS = [ByPath, ByQualifiedNames]
USERS, ORDERS, EVENTS = ("public", "users"), (SALES, "orders"), (AUDIT, "Event %")


def use(old, new):
    """Write through both versions, and check what each reads."""
    old.run("INSERT INTO {} VALUES (3, 'Grace Hopper')", USERS)
    old.run("INSERT INTO {} (id, user_id, total) VALUES (3, 3, 0.5)", ORDERS)
    old.run("""INSERT INTO {} (id, order_id, "user") VALUES (3, 3, 3)""", EVENTS)
    new.run("INSERT INTO {} VALUES (4, 'Edsger D', 'Edsger', 3)", USERS)
    new.run("INSERT INTO {} VALUES (4, 4, 1250)", ORDERS)
    new.run("""INSERT INTO {} (id, order_id, "user", "order") VALUES (4, 4, 4, 'new')""", EVENTS)
    new.run("INSERT INTO {} VALUES (1, 4, 4)", (AUDIT, "lines"))
    old.run("UPDATE {} SET total = 7 WHERE id = 2", ORDERS)
    joined = "FROM {} AS u JOIN {} AS o ON o.user_id = u.id JOIN {} AS e ON e.order_id = o.id ORDER BY u.id"
    assert new.run(f'SELECT u.first, o.cents, e."order", e."at""x" {joined}', USERS, ORDERS, EVENTS) == [
        ("Ada", 999, "#1", "first"),
        ("Grace", 50, "#3", "now"),
        ("Edsger", 1250, "new", "then"),
    ]
    assert [row[:1] for row in old.run(f"SELECT u.name, o.total {joined}", USERS, ORDERS, EVENTS)] == [
        ("Ada Lovelace",),
        ("Grace Hopper",),
        ("Edsger D",),
    ]
    assert new.run("SELECT cents FROM {} WHERE id = 2", ORDERS) == [(700,)]
    assert str(old.run("SELECT total FROM {} WHERE id = 4", ORDERS)[0][0]) == "12.50"
    assert old.run("SELECT id FROM {}", (SALES, "notes")) == new.run("SELECT id FROM {}", (SALES, "remarks")) == [(1,)]
    assert old.run("SELECT count(*) FROM {}", (AUDIT, "gone")) == [(0,)]


@pytest.mark.parametrize("client", CLIENTS)
def test_three_schemas__completed__as_plain_alembic(database, tmp_path, client):
    flight = Flight(CASE, database, tmp_path / "project")
    flight.run("upgrade", "r2")
    old, new = client(database, "r1"), client(database, "r2")
    use(old, new)
    old.close()
    flight.run("zd-complete")
    assert new.run("SELECT first FROM {} WHERE last_order = 3", USERS) == [("Edsger",)]
    new.close()
    other = database.other()
    other.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP};" + SETUP)
    other.execute(f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {APP}")
    plain = AlembicProject(tmp_path / "plain", other.url, env="plain")
    plain.revision("r1")
    plain.revision("r2", "r1", PLAIN)
    plain.run_in_process("stamp", "r1")
    plain.run_in_process("upgrade", "r2")
    assert_same(dump(database), dump(other), "three schemas against plain Alembic")
    flight.run("zd-prune")
    assert_nothing_left(database)
    left = {name for (name,) in database.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_'")}
    assert left == {version_schema("r2", schema) for schema in SCHEMAS}


@pytest.mark.parametrize("client", CLIENTS)
def test_three_schemas__rolled_back__as_before(database, tmp_path, client):
    flight = Flight(CASE, database, tmp_path / "project")
    before = dump(database)
    flight.run("upgrade", "r2")
    old, new = client(database, "r1"), client(database, "r2")
    use(old, new)
    new.close()
    flight.run("downgrade", "r1")
    assert_same(dump(database), before, "rollback in three schemas")
    assert old.run("SELECT count(*) FROM {}", ORDERS) == [(4,)]
    old.close()
    assert_nothing_left(database)


def test_three_schemas__pinned_models__each_in_its_version_schema(database, tmp_path):
    """Models with schema=: pin_engine translates those schemas, the default one is on the search_path."""
    flight = Flight(CASE, database, tmp_path / "project")
    flight.run("upgrade", "r2")
    url = database.server.url(database.name, user=APP)
    metadata = sa.MetaData()
    users = sa.Table(
        "users", metadata, sa.Column("id", sa.Integer), sa.Column("first", sa.Text), sa.Column("name", sa.Text)
    )
    orders = sa.Table("orders", metadata, *(sa.Column(c, sa.Integer) for c in ("id", "user_id", "cents")), schema=SALES)
    events = sa.Table("Event %", metadata, *(sa.Column(c, sa.Text) for c in ("id", "order")), schema=AUDIT)
    with pin_engine(sa.create_engine(url, poolclass=sa.NullPool), "r2", schemas=[SALES, AUDIT]).begin() as connection:
        connection.execute(users.insert().values(id=5, name="E F", first="E"))
        connection.execute(orders.insert().values(id=5, user_id=5, cents=500))
        joined = sa.select(users.c.first, orders.c.cents).join(orders, orders.c.user_id == users.c.id)
        assert connection.execute(joined.where(users.c.id == 5)).all() == [("E", 500)]
        assert connection.execute(sa.select(events.c.order)).scalars().all() == ["#1"]
    shown = json.loads(flight.run("zd-status", "--json").stdout)
    assert [version["clients"] for version in shown["versions"]] == [0, 0]


def test_three_schemas__grants_of_each__on_its_own_version_schema(database, tmp_path):
    role = f"{database.name}_reader"
    database.execute(f"CREATE ROLE {role}")
    setup = f"""{SETUP}
        REVOKE USAGE ON SCHEMA public FROM PUBLIC;
        GRANT USAGE ON SCHEMA public TO {APP};
        GRANT USAGE ON SCHEMA "Audit Log" TO {role};
        GRANT SELECT ON "Audit Log"."Event %" TO {role} WITH GRANT OPTION;"""
    try:
        flight = Flight(Case("grants", setup, UPGRADE, PLAIN, metadata=METADATA), database, tmp_path / "project")
        flight.run("upgrade", "r2")
        for revision in ("r1", "r2"):
            usable = [
                database.fetch(f"SELECT has_schema_privilege('{role}', '{version_schema(revision, schema)}', 'USAGE')")
                for schema in SCHEMAS
            ]
            assert usable == [[(False,)], [(False,)], [(True,)]]
            with database.connect() as connection:
                connection.execute(f"SET ROLE {role}")
                view = f'{version_schema(revision, AUDIT)}."Event %"'
                assert connection.execute(f"SELECT count(*) FROM {view}").fetchall() == [(1,)]
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"DELETE FROM {view}")
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_default_schema_of_the_metadata__is_the_projects(database, tmp_path):
    """MetaData(schema=...): models and operations name it, env.py's connection need not."""
    metadata = """
        target_metadata = sa.MetaData(schema="sales")
        sa.Table("users", target_metadata, sa.Column("id", sa.Integer, primary_key=True))
    """
    case = Case(
        "metadata_schema",
        f"""
        CREATE SCHEMA sales;
        GRANT USAGE ON SCHEMA sales TO {APP};
        CREATE TABLE sales.users (id integer PRIMARY KEY, name text);
        INSERT INTO sales.users VALUES (1, 'Ada')""",
        """
        op.zd_alter_column("users", "name", type_=sa.String(9), nullable=False, up="name", schema="sales")
        op.zd_add_column("users", sa.Column("boss", sa.Integer, sa.ForeignKey("sales.users.id")), schema="sales")
        """,
        "pass",
        metadata=metadata,
        schema="sales",
    )
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", "r2")
    with Session(database, "r2", schema="sales") as client:
        client.connection.execute("INSERT INTO users VALUES (2, 'Bob', 1)")
    with Session(database, "r1", schema="sales") as client:
        assert client.fetch("SELECT * FROM users ORDER BY 1") == [(1, "Ada"), (2, "Bob")]
    flight.run("zd-complete")
    assert_nothing_left(database)


# -- several projects in one database ------------------------------------------------------------------


def project_of(database, directory, *, schema="public", table="things", **extra):
    """Return an adopted project at r1 with r2 to come; equal ids, whatever the project is."""
    url = database.url.update_query_dict({"options": f"-csearch_path={schema}"})
    database.execute(
        f"CREATE SCHEMA IF NOT EXISTS {schema}; GRANT USAGE ON SCHEMA {schema} TO {APP};"
        f"CREATE TABLE {schema}.{table} (id integer PRIMARY KEY, n integer);"
        f"INSERT INTO {schema}.{table} VALUES (1, 10)"
    )
    project = AlembicProject(directory, url, extra=extra)
    project.revision("r1")
    project.revision(
        "r2", "r1", f'op.zd_alter_column("{table}", "n", type_=sa.Text, up="\'#\' || n", down="substr(n, 2)::int")'
    )
    project.revision("r3", "r2", f'op.zd_rename_table("{table}", "{table}_new")')
    project.run_in_process("stamp", "r1")
    return project


def clients_of(project):
    """Return how many clients each live version has."""
    versions = json.loads(project.run_in_process("zd-status", "--json").stdout)["versions"]
    return {version["revision"]: version["clients"] for version in versions}


@pytest.fixture
def role(database):
    database.execute(
        f"""DO $$ BEGIN CREATE ROLE {APP} LOGIN; EXCEPTION WHEN unique_violation OR duplicate_object THEN NULL; END $$;
        ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP}"""
    )


def test_two_projects__two_schemas_equal_revision_ids__do_not_meet(database, tmp_path, role):
    first = project_of(database, tmp_path / "a", schema="a")
    second = project_of(database, tmp_path / "b", schema="b")
    for project in (first, second):
        project.run_in_process("zd-init")
    first.run_in_process("upgrade", "r2")
    second.run_in_process("upgrade", "r2")
    pinned = pin_engine(database.engine(), "r1", schema="b")
    with pinned.connect() as connection:
        assert connection.execute(sa.text("SELECT n FROM things")).all() == [(10,)]
        assert clients_of(first) == {"r1": 0, "r2": 0}
        assert clients_of(second) == {"r1": 1, "r2": 0}
        # The other project's client of a revision of the same id is no hindrance, its own is.
        first.run_in_process("zd-complete")
        assert second.run_in_process("zd-complete", check=False).returncode == 2
        assert connection.execute(sa.text("SELECT n FROM things")).all() == [(10,)]
    second.run_in_process("downgrade", "r1")
    assert database.fetch("SELECT n FROM a.things") == [("#10",)]
    assert database.fetch("SELECT n FROM b.things") == [(10,)]
    assert database.fetch("SELECT version_num FROM a.alembic_version, LATERAL (SELECT 1) x") == [("r2",)]
    assert database.fetch("SELECT version_num FROM b.alembic_version") == [("r1",)]
    first.run_in_process("upgrade", "r3")
    first.run_in_process("zd-complete")
    assert_nothing_left(database)


def test_two_projects__one_schema_equal_ids_without_a_name__second_is_refused_with_advice(database, tmp_path, role):
    first = project_of(database, tmp_path / "a", table="ours", version_table="version_a")
    second = project_of(database, tmp_path / "b", table="theirs", version_table="version_b")
    first.run_in_process("zd-init")
    refused = second.run_in_process("zd-init", check=False)
    assert refused.returncode == 2
    said = " ".join((refused.stdout + refused.stderr).split())
    assert "[ZD240]" in said
    assert "zd_project" in said
    first.run_in_process("upgrade", "r2")
    first.run_in_process("zd-complete")
    # Only now, and as ever without harm to the other one.
    assert database.fetch(f"SELECT n FROM {version_schema('r2')}.ours") == [("#10",)]


@pytest.fixture
def two(database, tmp_path, role):
    """Two projects in schema public, with equal revision ids, the second under a name."""
    first = project_of(database, tmp_path / "a", table="ours", version_table="version_a")
    second = project_of(database, tmp_path / "b", table="theirs", version_table="version_b", zd_project="b")
    for project in (first, second):
        project.run_in_process("zd-init")
    return first, second


def columns(database, schema, view):
    return [
        name
        for (name,) in database.fetch(
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = '{schema}.{view}'::regclass"
            " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
    ]


def test_two_projects__one_schema__each_pins_its_own_versions(database, two):
    first, second = two
    for project in two:
        project.run_in_process("upgrade", "r2")
    engines = {
        (name, revision): pin_engine(database.engine(), revision, project=name)
        for name in (None, "b")
        for revision in ("r1", "r2")
    }
    found = {}
    for (name, revision), engine in engines.items():
        with engine.connect() as connection:
            table = "theirs" if name else "ours"
            found[name, revision] = connection.execute(sa.text(f"SELECT n FROM {table}")).scalar_one()
            assert clients_of(second if name else first)[revision] == 1
            assert clients_of(first if name else second)[revision] == 0
            setting = connection.execute(sa.text("SHOW alembic_zero.revision")).scalar_one()
            assert setting == (f"b/{revision}" if name else revision)
    assert found == {(None, "r1"): 10, (None, "r2"): "#10", ("b", "r1"): 10, ("b", "r2"): "#10"}
    shown = second.run_in_process("zd-schema", "r2").stdout
    assert version_schema("r2", "public", "b") in shown
    second.run_in_process("zd-complete")
    first.run_in_process("downgrade", "r1")
    assert columns(database, "public", "ours") == columns(database, "public", "theirs") == ["id", "n"]
    assert_nothing_left(database)


def test_two_projects__one_publishes_while_the_other_is_in_flight__shows_the_oldest_shape(database, two):
    first, second = two
    second.run_in_process("upgrade", "r2")
    first.run_in_process("upgrade", "r2")
    ours, theirs = version_schema("r2"), version_schema("r2", "public", "b")
    assert columns(database, ours, "theirs") == ["id", "n"]
    assert database.fetch(f"SELECT * FROM {ours}.theirs") == [(1, 10)]
    # What comes through another project's view counts as the oldest version's.
    database.execute(f"INSERT INTO {ours}.theirs VALUES (2, 20)", user=APP)
    database.execute(f"INSERT INTO {theirs}.theirs VALUES (3, '#30')", user=APP)
    assert database.fetch(f"SELECT n FROM {theirs}.theirs ORDER BY id") == [("#10",), ("#20",), ("#30",)]
    assert database.fetch(f"SELECT n FROM {ours}.theirs ORDER BY id") == [(10,), (20,), (30,)]
    # No version of either keeps the other from completing.
    second.run_in_process("zd-complete")
    for revision in ("r1", "r2"):
        schema = version_schema(revision)
        assert database.fetch(f"SELECT n FROM {schema}.theirs WHERE id < 4 ORDER BY id") == [
            ("#10",),
            ("#20",),
            ("#30",),
        ]
        database.execute(f"INSERT INTO {schema}.theirs VALUES ({4 if revision == 'r1' else 5}, '#x')", user=APP)
    first.run_in_process("zd-complete")
    second.run_in_process("upgrade", "r3")
    assert columns(database, ours, "theirs") == ["id", "n"]
    second.run_in_process("zd-complete")
    assert columns(database, ours, "theirs_new") == ["id", "n"]
    second.revision("r4", "r3", 'op.zd_drop_table("theirs_new")')
    second.run_in_process("upgrade", "r4")
    second.run_in_process("zd-complete")
    assert database.fetch("SELECT relname::text FROM pg_class WHERE relname ~ '^theirs' AND relkind = 'r'") == []
    assert database.fetch(f"SELECT n FROM {ours}.ours") == [("#10",)]
    assert_nothing_left(database)


def test_two_projects__enums_of_one_schema__each_version_has_its_own(database, two):
    first, second = two
    database.execute(
        "CREATE TYPE mood AS ENUM ('ok', 'sad');"
        "CREATE TABLE ours_e (id integer PRIMARY KEY, m mood); INSERT INTO ours_e VALUES (1, 'sad');"
        "CREATE TYPE tint AS ENUM ('red', 'blue');"
        "CREATE TABLE theirs_e (id integer PRIMARY KEY, t tint); INSERT INTO theirs_e VALUES (1, 'red')"
    )
    first.revision("r2", "r1", 'op.zd_alter_enum("mood", ["ok", "low"], up={"sad": "low"})')
    second.revision("r2", "r1", 'op.zd_alter_enum("tint", ["rose", "blue"], up={"red": "rose"})')
    second.run_in_process("upgrade", "r2")
    first.run_in_process("upgrade", "r2")
    assert database.fetch(f"SELECT m::text FROM {version_schema('r2')}.ours_e") == [("low",)]
    assert database.fetch(f"SELECT t::text FROM {version_schema('r2')}.theirs_e") == [("red",)]
    assert database.fetch(f"SELECT t::text FROM {version_schema('r2', 'public', 'b')}.theirs_e") == [("rose",)]
    second.run_in_process("zd-complete")
    assert database.fetch(f"SELECT t::text FROM {version_schema('r2')}.theirs_e") == [("rose",)]
    first.run_in_process("downgrade", "r1")
    assert database.fetch("SELECT m::text, t::text FROM ours_e, theirs_e") == [("sad", "rose")]
    assert_nothing_left(database)


def test_two_projects__the_others_table_in_flight__refused(database, two):
    first, second = two
    second.run_in_process("upgrade", "r2")
    before = second.run_in_process("zd-status", "--json").stdout
    first.revision("r2", "r1", 'op.zd_add_column("theirs", sa.Column("c", sa.Text), up="n::text")')
    refused = first.run_in_process("upgrade", "r2", check=False)
    assert refused.returncode == 2
    assert "[ZD241]" in refused.stdout + refused.stderr
    assert second.run_in_process("zd-status", "--json").stdout == before
    second.run_in_process("zd-complete")
    first.run_in_process("upgrade", "r2")
    first.run_in_process("zd-complete")
    assert_nothing_left(database)


def test_two_projects__rolled_back_while_the_other_is_live__nothing_in_the_way(database, two):
    first, second = two
    second.run_in_process("upgrade", "r2")
    first.run_in_process("upgrade", "r2")
    second.run_in_process("downgrade", "r1")
    first.run_in_process("downgrade", "r1")
    assert columns(database, "public", "ours") == columns(database, "public", "theirs") == ["id", "n"]
    assert_nothing_left(database)


def test_client_suffix__other_schemas_and_projects__told_apart():
    given = [("r1",), ("r1", "s"), ("r1", "public", "s"), ("r1", "s", "s"), ("r1", "s.s"), ("r1@s",), ("r1:s",)]
    given += [("r1", "a@b"), ("r1", "a", "b:c"), ("r1", "é"), ("r1", "x" * 63), ("r1", "x" * 62, "x")]
    suffixes = [client_suffix(*arguments) for arguments in given]
    assert len(set(suffixes)) == len(given)
    assert all(len(suffix.encode()) <= 46 for suffix in suffixes)
    assert suffixes[:4] == [" [zd:r1]", " [zd:r1@s]", " [zd:r1:s]", " [zd:r1@s:s]"]
    names = [version_schema(*arguments) for arguments in given]
    assert len(set(names)) == len(given)


# -- several databases or schemas in one env.py --------------------------------------------------------

TENANTS_ENV = """
import alembic_zero
import sqlalchemy as sa
from alembic import context

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
for tenant in ("t_one", "T Two"):
    with engine.connect() as connection:
        connection.execute(sa.text(f'SET search_path = "{tenant}"'))
        connection.commit()
        alembic_zero.configure(context, connection=connection, target_metadata=None, version_table_schema=tenant)
        with context.begin_transaction():
            context.run_migrations()
"""


def test_env_that_loops_over_tenants__every_command_reaches_each(database, tmp_path, role):
    tenants = ("t_one", "T Two")
    for tenant in tenants:
        database.execute(
            f'CREATE SCHEMA "{tenant}"; GRANT USAGE ON SCHEMA "{tenant}" TO {APP};'
            f'CREATE TABLE "{tenant}".things (id integer PRIMARY KEY, n integer);'
            f'INSERT INTO "{tenant}".things VALUES (1, 10)'
        )
    project = AlembicProject(tmp_path / "project", database.url)
    (project.migrations / "env.py").write_text(TENANTS_ENV)
    project.revision("r1")
    back = 'op.zd_alter_column("things", "n", type_=sa.Integer, up="substr(n, 2)::int", down="\'#\' || n")'
    project.revision(
        "r2", "r1", 'op.zd_alter_column("things", "n", type_=sa.Text, up="\'#\' || n", down="substr(n, 2)::int")', back
    )
    project.run_in_process("stamp", "r1")
    project.run_in_process("zd-init")
    original = normalise_settings(database.normalised_dump(('"T Two"', "t_one")))
    assert project.run_in_process("zd-plan").stdout.count("-- upgrade to r2") == 2
    project.run_in_process("upgrade", "head")
    for number, tenant in enumerate(tenants):
        with Session(database, "r1", schema=tenant) as old, Session(database, "r2", schema=tenant) as new:
            old.connection.execute(f"INSERT INTO things VALUES (2, {number})")
            assert new.fetch("SELECT n FROM things ORDER BY id") == [("#10",), (f"#{number}",)]
    assert project.run_in_process("zd-status").stdout.count("phase: in flight") == 2
    project.run_in_process("downgrade", "r1")
    assert_same(normalise_settings(database.normalised_dump(('"T Two"', "t_one"))), original, "rollback of the tenants")
    project.run_in_process("upgrade", "head")
    project.run_in_process("zd-complete")
    assert [database.fetch(f'SELECT n FROM "{tenant}".things WHERE id = 2') for tenant in tenants] == [
        [("#0",)],
        [("#1",)],
    ]
    project.run_in_process("downgrade", "r1")
    project.run_in_process("zd-complete")
    assert_same(normalise_settings(database.normalised_dump(('"T Two"', "t_one"))), original, "and back")
    assert_nothing_left(database)


def test_env_that_configures_two_version_tables__from_base_and_in_flight(database, tmp_path, role):
    """One env.py, two chains in one process: the second does not inherit the first one's road."""
    env = TENANTS_ENV.replace('("t_one", "T Two")', '("a", "b")').replace(
        "version_table_schema=tenant", "version_table=tenant"
    )
    env = env.replace("""f'SET search_path = "{tenant}"'""", "'SELECT 1'").replace(
        "target_metadata=None", "target_metadata=None, zd_project=tenant"
    )
    project = AlembicProject(tmp_path / "project", database.url)
    (project.migrations / "env.py").write_text(env)
    project.revision(
        "r1", upgrade='op.execute("CREATE TABLE IF NOT EXISTS shared (id integer PRIMARY KEY, n integer)")'
    )
    project.run_in_process("upgrade", "r1")
    names = {version_schema("r1", "public", tenant) for tenant in ("a", "b")}
    assert names == {n for (n,) in database.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_'")}
