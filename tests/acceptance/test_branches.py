"""REDTEAM F and B15: several heads, merges, depends_on, branch labels, stamp. A version is a set of heads."""

from __future__ import annotations

import re

import pytest

from alembic_zero import version_schema
from tests.support.harness import assert_nothing_left, assert_same
from tests.support.project import AlembicProject

pytestmark = pytest.mark.one_server

TABLES = """
    CREATE TABLE ta (id integer PRIMARY KEY, x integer);
    CREATE TABLE tb (id integer PRIMARY KEY, y integer);
    INSERT INTO ta VALUES (1, 1);
    INSERT INTO tb VALUES (1, 1);
"""
ADD_A = (
    'op.zd_add_column("ta", sa.Column("x2", sa.Integer), up="x * 2")',
    'op.zd_drop_column("ta", "x2", down="x * 2")',
)
ADD_B = (
    'op.zd_add_column("tb", sa.Column("y2", sa.Integer), up="y * 2")',
    'op.zd_drop_column("tb", "y2", down="y * 2")',
)
PLAIN = """
    ALTER TABLE ta ADD COLUMN x2 integer;
    ALTER TABLE tb ADD COLUMN y2 integer;
"""


class Branches:
    """Two branches, a1 - a2 and b1 - b2, each with a table; the database is at a1 and b1, adopted."""

    def __init__(self, database, directory, *, depends_on=None, a2=ADD_A, b2=ADD_B):
        database.execute(TABLES)
        self.database = database
        self.project = AlembicProject(directory / "project", database.url)
        self.project.revision("a1", branch_labels=("a",))
        self.project.revision("b1", branch_labels=("b",))
        self.project.revision("a2", "a1", *a2)
        self.project.revision("b2", "b1", *b2, depends_on=depends_on)
        self.project.run_in_process("stamp", "a1", "b1")
        self.project.run_in_process("zd-init")
        self.original = database.normalised_dump()

    def run(self, *arguments):
        """Run a command that must succeed; alembic_version and the newest live version then agree."""
        done = self.project.run_in_process(*arguments)
        newest = self.database.fetch(
            "SELECT revision FROM alembic_zero.migration WHERE state IN ('current', 'live') ORDER BY id DESC LIMIT 1"
        )
        assert newest == [("+".join(self.heads()),)]
        return done

    def heads(self):
        return [row[0] for row in self.database.fetch("SELECT version_num FROM alembic_version ORDER BY 1")]

    def columns(self, version):
        """Return the columns that a version shows, 'gone' if it is a tombstone."""
        schema = version_schema(version)
        comment = self.database.fetch(
            f"SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = '{schema}'"
        )
        if not comment or "tombstone" in comment[0][0]:
            return "gone"
        rows = self.database.fetch(
            "SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            f" WHERE relnamespace = '{schema}'::regnamespace AND attnum > 0 ORDER BY relname, attnum"
        )
        return " ".join(row[0] for row in rows)

    def fetch(self, version, query):
        with self.database.connect() as connection:
            connection.execute(f"SET search_path = {version_schema(version)}")
            return connection.execute(query).fetchall()


def said(completed):
    """Return what a failed command printed: Alembic prints errors to one stream or the other."""
    return completed.stdout + completed.stderr


OLD, NEW = "id x id y", "id x x2 id y y2"


def test_f_heads__one_branch_after_the_other__each_version_is_the_set_of_heads(database, tmp_path):
    """Version a2+b1 shows a's new shape and b's old one, and each branch goes back by itself."""
    branches = Branches(database, tmp_path)
    branches.run("upgrade", "a2")
    branches.run("upgrade", "b@head")
    assert branches.heads() == ["a2", "b2"]
    shown = {version: branches.columns(version) for version in ("a1+b1", "a2+b1", "a2+b2")}
    assert shown == {"a1+b1": OLD, "a2+b1": "id x x2 id y", "a2+b2": NEW}
    # Whoever writes, all three see it.
    branches.fetch("a1+b1", "INSERT INTO ta VALUES (2, 5) RETURNING id")
    branches.fetch("a2+b1", "INSERT INTO tb VALUES (2, 6) RETURNING id")
    assert branches.fetch("a2+b2", "SELECT x2, y2 FROM ta JOIN tb USING (id) ORDER BY id") == [(2, 2), (10, 12)]
    branches.run("downgrade", "b1")
    assert branches.heads() == ["a2", "b1"]
    assert branches.columns("a2+b2") == "gone"
    branches.run("downgrade", "a@-1")
    assert_same(database.normalised_dump(), branches.original, "both branches rolled back")
    assert_nothing_left(database)


def test_f_heads__upgrade_heads__is_one_migration_and_completes_to_plain_alembic(database, tmp_path):
    branches = Branches(database, tmp_path)
    planned = branches.project.run_in_process("zd-plan").stdout
    assert "-- upgrade to a2+b2" in planned
    branches.run("upgrade", "heads")
    assert branches.columns("a1+b1") == OLD
    assert branches.columns("a2+b1") == "gone"
    assert branches.columns("a2+b2") == NEW
    branches.run("zd-complete", "a2+b2")
    assert branches.columns("a1+b1") == "gone"
    other = database.other()
    other.execute(TABLES + PLAIN)
    other.execute(
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
    )
    assert_same(database.normalised_dump(), other.normalised_dump(), "two branches completed against plain DDL")
    assert_nothing_left(database)


def test_f_heads__upgrade_heads__goes_back_by_the_name_of_the_version(database, tmp_path):
    """Alembic's argument names one revision; the former version's name takes both branches back in one command."""
    branches = Branches(database, tmp_path)
    branches.run("upgrade", "heads")
    branches.fetch("a2+b2", "INSERT INTO ta VALUES (2, 5, 0) RETURNING id")
    branches.run("downgrade", "a1+b1")
    assert branches.heads() == ["a1", "b1"]
    assert_same(database.normalised_dump(), branches.original, "rollback of two branches")
    assert database.fetch("SELECT * FROM ta ORDER BY id") == [(1, 1), (2, 5)]
    assert_nothing_left(database)


def test_f_heads__one_branch_back_after_upgrade_heads__is_a_migration_of_its_own(database, tmp_path):
    """No version a1+b2 was ever live, so there is nothing to roll back to: it is published as a newer one."""
    branches = Branches(database, tmp_path)
    branches.run("upgrade", "heads")
    branches.run("downgrade", "a1")
    assert branches.heads() == ["a1", "b2"]
    shown = {version: branches.columns(version) for version in ("a1+b1", "a2+b2", "a1+b2")}
    assert shown == {"a1+b1": OLD, "a2+b2": NEW, "a1+b2": "id x id y y2"}
    branches.run("zd-complete")
    assert branches.columns("a2+b2") == "gone"
    assert_nothing_left(database)


def test_f_heads__failed_upgrade__the_commands_that_the_error_names_work(database, tmp_path):
    branches = Branches(database, tmp_path, b2=('op.zd_execute(expand="SELECT 1 / y FROM tb")', "pass"))
    database.execute("UPDATE tb SET y = 0")
    failed = branches.project.run_in_process("upgrade", "heads", check=False)
    assert failed.returncode == 1, said(failed)
    assert branches.heads() == ["a1", "b1"]
    refused = branches.project.run_in_process("upgrade", "a2", check=False)
    assert refused.returncode == 2, said(refused)
    named = re.search(
        r"next: alembic (upgrade) (\S+) to go on, or alembic (downgrade) (\S+) to take it back", said(refused)
    )
    assert named is not None, said(refused)
    again = branches.project.run_in_process(named[1], named[2], check=False)
    assert again.returncode == 1, said(again)
    assert "division by zero" in said(again)
    branches.run(named[3], named[4])
    assert_same(database.normalised_dump(), branches.original, "failed upgrade of two branches taken back")
    branches.run("upgrade", "a2")


def test_f_heads__version_that_the_command_does_not_lead_to__refused(database, tmp_path):
    branches = Branches(database, tmp_path)
    branches.run("upgrade", "a2")
    branches.run("upgrade", "b2")
    refused = branches.project.run_in_process("upgrade", "a2+b1", check=False)
    assert refused.returncode != 0
    assert branches.heads() == ["a2", "b2"]
    branches.run("downgrade", "a1+b1")
    assert_nothing_left(database)


def test_f_heads__branch_of_its_own_base__joins_what_is_live(database, tmp_path):
    """A branch that begins in a database that has clients is in flight like any other revision."""
    branches = Branches(database, tmp_path)
    branches.project.revision(
        "c1", None, 'op.zd_create_table("tc", sa.Column("id", sa.Integer, primary_key=True))',
        'op.zd_drop_table("tc")', branch_labels=("c",),
    )  # fmt: skip
    branches.run("upgrade", "c@head")
    assert branches.heads() == ["a1", "b1", "c1"]
    assert branches.columns("a1+b1") == OLD
    assert branches.columns("a1+b1+c1") == f"{OLD} id"
    branches.run("downgrade", "c@base")
    assert branches.heads() == ["a1", "b1"]
    assert_nothing_left(database)


# -- merges -------------------------------------------------------------------------------------------


def test_f_merge__in_flight__is_one_more_version(database, tmp_path):
    branches = Branches(database, tmp_path)
    branches.run("upgrade", "heads")
    branches.project.revision("m", ("a2", "b2"))
    branches.run("upgrade", "head")
    assert branches.heads() == ["m"]
    assert branches.columns("a2+b2") == branches.columns("m") == NEW
    branches.run("downgrade", "a2+b2")
    assert branches.heads() == ["a2", "b2"]
    branches.run("upgrade", "m")
    branches.run("zd-complete")
    assert branches.columns("a2+b2") == "gone"
    with_old = version_schema("a1+b1")
    assert database.fetch(f"SELECT obj_description('{with_old}'::regnamespace)")[0][0].endswith("use m")
    assert_nothing_left(database)


def test_f_merge__both_branches_and_what_follows_in_one_upgrade__and_back(database, tmp_path):
    branches = Branches(database, tmp_path)
    branches.project.revision("m", ("a2", "b2"))
    branches.project.revision(
        "n", "m", 'op.zd_drop_column("tb", "y", down="y2 / 2")',
        'op.zd_add_column("tb", sa.Column("y", sa.Integer), up="y2 / 2")',
    )  # fmt: skip
    branches.run("upgrade", "head")
    assert branches.columns("n") == "id x x2 id y2"
    branches.fetch("n", "INSERT INTO tb VALUES (2, 8) RETURNING id")
    assert branches.fetch("a1+b1", "SELECT y FROM tb WHERE id = 2") == [(4,)]
    branches.run("downgrade", "a1+b1")
    assert_same(database.normalised_dump(), branches.original, "rollback over a merge")
    branches.run("upgrade", "head")
    branches.run("zd-complete")
    # Completed: now a migration in the other direction, over the merge and down one of its branches.
    branches.run("downgrade", "b1")
    assert branches.heads() == ["a2", "b1"]
    assert branches.columns("a2+b1") == "id x x2 id y"
    assert branches.columns("n") == "id x x2 id y2"
    branches.run("zd-complete")
    assert_nothing_left(database)


# -- depends_on ---------------------------------------------------------------------------------------


def test_f_depends_on__version_is_what_alembic_version_holds(database, tmp_path):
    """b2 depends on a2: alembic_version then holds b2 alone, and that is the version's name."""
    branches = Branches(database, tmp_path, depends_on="a2")
    branches.run("upgrade", "b2")
    assert branches.heads() == ["b2"]
    assert branches.columns("b2") == NEW
    assert branches.project.run_in_process("zd-schema").stdout.startswith('SET search_path TO "zd_b2"')
    branches.run("downgrade", "a1+b1")
    assert_same(database.normalised_dump(), branches.original, "rollback over a dependency")
    branches.run("upgrade", "heads")
    branches.run("zd-complete")
    branches.run("downgrade", "b@b1")
    assert branches.heads() == ["a2", "b1"]
    branches.run("zd-complete")
    branches.run("downgrade", "a@a1")
    branches.run("zd-complete")
    assert_same(database.normalised_dump(), branches.original, "both directions over a dependency")
    assert_nothing_left(database)


def test_f_depends_on__from_base__the_direct_road_publishes_what_alembic_version_holds(database, tmp_path):
    project = AlembicProject(tmp_path / "project", database.url)
    create = 'op.zd_create_table("{0}", sa.Column("id", sa.Integer, primary_key=True), sa.Column("{1}", sa.Integer))'
    project.revision("a1", None, create.format("ta", "x"), branch_labels=("a",))
    project.revision("b1", None, create.format("tb", "y"), branch_labels=("b",))
    project.revision("a2", "a1", *ADD_A)
    project.revision("b2", "b1", *ADD_B, depends_on="a2")
    project.run_in_process("upgrade", "heads")
    assert database.fetch("SELECT version_num FROM alembic_version") == [("b2",)]
    assert database.fetch("SELECT revision, state FROM alembic_zero.migration") == [("b2", "current")]
    project.run_in_process("downgrade", "b@b1")
    assert database.fetch("SELECT version_num FROM alembic_version ORDER BY 1") == [("a2",), ("b1",)]


# -- stamp --------------------------------------------------------------------------------------------

AUTOCOMMIT = """
def run_online():
    engine = sa.create_engine(
        config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        run_on(connection)

"""


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (("a1",), "ordinary"),
        (("base",), "ordinary"),
        (("--purge", "heads"), "ordinary"),
        (("--purge", "a1"), "autocommit"),
    ],
)
def test_f_stamp_in_flight__refused_and_nothing_changed(database, tmp_path, arguments, env):
    """Also --purge, for which Alembic empties the version table before anybody is asked."""
    branches = Branches(database, tmp_path)
    branches.run("upgrade", "heads")
    if env == "autocommit":
        script = branches.project.migrations / "env.py"
        text = script.read_text()
        start, end = text.index("\ndef run_online"), text.index("\nif context.is_offline_mode")
        script.write_text(text[:start] + AUTOCOMMIT + text[end:])
    refused = branches.project.run_in_process("stamp", *arguments, check=False)
    assert refused.returncode == 2, said(refused)
    assert "ZD250" in said(refused)
    assert branches.heads() == ["a2", "b2"]
    assert branches.columns("a2+b2") == NEW
    # The command that the message names.
    named = re.search(r"or alembic (downgrade) (\S+)", said(refused))
    assert named is not None, said(refused)
    if env == "ordinary":
        branches.run(named[1], named[2])
        assert_nothing_left(database)


def test_f_stamp__nothing_in_flight__zd_init_publishes_what_it_says(database, tmp_path):
    """Stamped by hand: commands refuse until zd-init has published the version that is named now."""
    branches = Branches(database, tmp_path)
    database.execute(PLAIN)
    branches.project.run_in_process("stamp", "--purge", "a2", "b2")
    branches.project.revision(
        "a3", "a2", 'op.zd_add_column("ta", sa.Column("x3", sa.Integer))', 'op.zd_drop_column("ta", "x3")'
    )
    refused = branches.project.run_in_process("upgrade", "a3", check=False)
    assert refused.returncode == 2
    assert "ZD252" in said(refused)
    assert "alembic zd-init" in said(refused)
    branches.run("zd-init")
    assert branches.columns("a1+b1") == "gone"
    assert branches.columns("a2+b2") == NEW
    branches.run("upgrade", "a3")
    branches.run("zd-complete")


# -- names --------------------------------------------------------------------------------------------


def test_f_heads__zd_schema_and_status_name_the_version(database, tmp_path):
    branches = Branches(database, tmp_path)
    schema = version_schema("a2+b2")
    expected = f'SET search_path TO "{schema}", "public";\n'
    for arguments in ((), ("heads",), ("a2+b2",), ("b2+a2",)):
        assert branches.project.run_in_process("zd-schema", *arguments).stdout == expected
    branches.run("upgrade", "heads")
    assert "version a2+b2: live" in branches.project.run_in_process("zd-status").stdout
    with database.connect() as connection:
        connection.execute(expected.encode())
        assert connection.execute("SELECT x2 FROM ta").fetchall() == [(2,)]
