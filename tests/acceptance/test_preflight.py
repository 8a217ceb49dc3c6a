"""What is looked at before the first change: every finding in zd-plan and in upgrade, errors all at once."""

from __future__ import annotations

import pytest

from tests.support.project import AlembicProject

pytestmark = pytest.mark.one_server

SETUP = """
    CREATE TABLE t (id integer PRIMARY KEY, n integer, name text);
    INSERT INTO t SELECT n, n, 'Ann Lee' FROM generate_series(1, 20) AS n;
"""
NUMBER = 'op.zd_alter_column("t", "n", type_=sa.Text(), up="n::text", down="n::integer")'


def _project(database, tmp_path, upgrade=NUMBER, setup=SETUP, user="postgres", **extra):
    database.execute(setup)
    project = AlembicProject(tmp_path / "project", database.url.set(username=user), extra=extra)
    project.revision("r1")
    project.revision("r2", "r1", upgrade)
    project.run_in_process("stamp", "r1")
    return project


def _refused(project, database, *words):
    """Check that zd-plan and upgrade refuse for the same reasons and change nothing; return what they say."""
    before = database.normalised_dump(None)
    said = []
    for command in (("zd-plan",), ("upgrade", "r2")):
        done = project.run_in_process(*command, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        said.append(done.stdout)
        for word in (*words, "nothing was changed"):
            assert word in done.stdout
    assert database.normalised_dump(None) == before
    return said[0]


# -- publications (with subscribers: test_replication.py) -------------------------------------------

UNHELD = {
    "all": ("CREATE PUBLICATION p FOR ALL TABLES", "FOR ALL TABLES"),
    "schema": ("CREATE PUBLICATION p FOR TABLES IN SCHEMA public", "IN SCHEMA"),
    "full": ("ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t", "REPLICA IDENTITY FULL"),
    "no_identity": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey; CREATE PUBLICATION p FOR TABLE t (id, name)",
        "no replica identity",
    ),
}


@pytest.mark.parametrize("kind", UNHELD)
def test_b14_publication_that_cannot_be_held__refused(kind, database, tmp_path):
    setup, word = UNHELD[kind]
    project = _project(database, tmp_path, setup=SETUP + setup)
    _refused(project, database, "[ZD218]", "'p'", word)


def test_b14_publication_of_somebody_else__refused(database, tmp_path):
    database.execute("DROP ROLE IF EXISTS zd_pub_owner; CREATE ROLE zd_pub_owner LOGIN")
    database.execute(f"GRANT CREATE ON DATABASE {database.name} TO zd_pub_owner; GRANT ALL ON SCHEMA public TO PUBLIC")
    database.execute(SETUP, user="zd_pub_owner")
    project = _project(database, tmp_path, setup="CREATE PUBLICATION p FOR TABLE t", user="zd_pub_owner")
    _refused(project, database, "[ZD218]", "it does not belong to role 'zd_pub_owner'")
    database.execute("ALTER PUBLICATION p OWNER TO zd_pub_owner")
    project.run_in_process("upgrade", "r2")
    project.run_in_process("zd-complete")


def test_b14_own_column_list__left_alone_unless_it_names_what_goes(database, tmp_path):
    published = "SELECT pubname, prattrs::text FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid"
    project = _project(database, tmp_path, setup=SETUP + "CREATE PUBLICATION p FOR TABLE t (id, name)")
    project.run_in_process("upgrade", "r2")
    assert database.fetch(published) == [("p", "1 3")]
    project.run_in_process("downgrade", "r1")
    database.execute("ALTER PUBLICATION p SET TABLE t (id, n)")
    _refused(project, database, "[ZD207]", "publication 'p' depends on column 'n'")
    database.execute("ALTER PUBLICATION p SET TABLE t WHERE (n > 1)")
    _refused(project, database, "[ZD207]", "publication 'p' depends on column 'n'")


def test_b14_publication_for_all_tables__adoption_is_refused(database, tmp_path):
    """The journal's own rows would stop subscribers that do not have it."""
    project = _project(database, tmp_path, setup=SETUP + "CREATE PUBLICATION p FOR ALL TABLES")
    done = project.run_in_process("zd-init", check=False)
    assert (done.returncode, "[ZD218]" in done.stdout) == (2, True)
    project.write_env(extra={"zd_publications": "ignore"})
    assert "warning ZD408" in project.run_in_process("zd-init").stderr
    assert "warning ZD408" in project.run_in_process("upgrade", "r2").stderr


def test_publications__wrong_setting__refused(database, tmp_path):
    project = _project(database, tmp_path)
    project.write_env(extra={"zd_publications": "perhaps"})
    assert "[ZD101]" in project.run_in_process("zd-plan", check=False).stdout
