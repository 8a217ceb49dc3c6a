"""The test support itself: what the other tests lean on."""

from __future__ import annotations

from tests.support.project import AlembicProject


def test_database__fresh__empty_and_of_the_right_version(server, database):
    (version,) = database.fetch("SHOW server_version_num")[0]
    assert int(version) // 10000 == server.version
    assert "TABLE" not in database.normalised_dump()


def test_normalised_dump__other_column_and_statement_order__equal(database):
    other = database.other()
    assert other.name != database.name
    database.execute(
        """
        CREATE TABLE users (id integer PRIMARY KEY, name text DEFAULT 'a, (b' NOT NULL, price numeric(10, 2),
            CONSTRAINT positive CHECK (CASE WHEN name = 'x' THEN price > 0 ELSE true END));
        CREATE TABLE alpha ("odd, (name" text[]) PARTITION BY LIST ("odd, (name");
        COMMENT ON TABLE users IS 'it''s; a -- comment';
        """
    )
    other.execute(
        """
        CREATE TABLE alpha ("odd, (name" text[]) PARTITION BY LIST ("odd, (name");
        CREATE TABLE users (price numeric(10, 2), name text DEFAULT 'a, (b' NOT NULL, id integer PRIMARY KEY,
            CONSTRAINT positive CHECK (CASE WHEN name = 'x' THEN price > 0 ELSE true END));
        COMMENT ON TABLE users IS 'it''s; a -- comment';
        """
    )
    dump = database.normalised_dump()
    assert dump == other.normalised_dump()
    assert "numeric(10,2)" in dump
    other.execute("ALTER TABLE users ALTER name DROP NOT NULL")
    assert dump != other.normalised_dump()


def test_normalised_dump__machinery__left_out(database):
    database.execute("CREATE SCHEMA zd_r1; CREATE SCHEMA alembic_zero; CREATE SCHEMA sales")
    dump = database.normalised_dump(None)
    assert "sales" in dump
    assert "zd_r1" not in dump
    assert "alembic_zero" not in dump


def test_project__plain__runs_both_ways(database, tmp_path):
    project = AlembicProject(tmp_path, database.url, env="plain")
    project.revision(
        "r1",
        upgrade="""
            op.create_table("users", sa.Column("id", sa.Integer, primary_key=True))
            op.add_column("users", sa.Column("name", postgresql.VARCHAR(10)))
        """,
        downgrade='op.drop_table("users")',
    )
    project.run_in_process("upgrade", "head")
    assert "r1 (head)" in project.run_in_process("current").stdout
    assert "CREATE TABLE public.users" in database.normalised_dump()
    assert project.run("downgrade", "base").returncode == 0
    assert "CREATE TABLE public.users" not in database.normalised_dump()
    assert project.run_in_process("upgrade", "nowhere", check=False).returncode == 255
    assert project.run("upgrade", "nowhere", check=False).returncode == 255
