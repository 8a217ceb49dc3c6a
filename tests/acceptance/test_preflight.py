"""What is looked at before the first change: every finding in zd-plan and in upgrade, errors all at once."""

from __future__ import annotations

import re

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


# -- rows that exist --------------------------------------------------------------------------------


def test_samples__up_fails_for_rows__refused_by_key_with_the_servers_words(database, tmp_path):
    """Nothing has been changed when a person hears of it, and the rows that fit are not among it."""
    bad = "UPDATE t SET name = 'x' WHERE id IN (7, 11)"
    to_number = """
        op.zd_alter_column("t", "name", type_=sa.Integer(), up="(name || '1')::integer", down="name::text")
    """
    fitting = SETUP.replace("Ann Lee", "5")
    project = _project(database, tmp_path, to_number, fitting + bad)
    said = _refused(project, database, "[ZD214]", "table public.t", "(id)=(7)", "(id)=(11)", 'integer: "x1"', "20 rows")
    assert "(name || '1')::integer" in said
    assert "(id)=(8)" not in said
    database.execute("UPDATE t SET name = '6'")
    project.run_in_process("upgrade", "r2")


def test_samples__new_shape_forbids_the_value__refused_by_key(database, tmp_path):
    upgrade = """
        op.zd_alter_column("t", "n", type_=sa.BigInteger(), nullable=False, up="nullif(n, 5)", down="n::integer")
        op.zd_create_check_constraint("small", "t", "n < 15")
    """
    project = _project(database, tmp_path, upgrade)
    _refused(
        project, database, "[ZD214]", "NULL for column 'n'", "(id)=(5)", "'small' is violated", "6 rows", "(id)=(15)"
    )


def test_samples__value_too_long_for_the_column__refused_as_an_update_would(database, tmp_path):
    upgrade = """op.zd_add_column("t", sa.Column("short", sa.String(3)), up="name")"""
    project = _project(database, tmp_path, upgrade)
    _refused(project, database, "[ZD214]", "value too long for type character varying(3)", "(id)=(1)")


def test_samples__lossy_pair__warning_with_key_and_both_values(database, tmp_path):
    upgrade = """
        op.zd_add_column("t", sa.Column("first", sa.Text), up="split_part(name, ' ', 1)")
        op.zd_add_column("t", sa.Column("last", sa.Text), up="split_part(name, ' ', 2)")
        op.zd_drop_column("t", "name", down="first || ' ' || last")
    """
    project = _project(database, tmp_path, upgrade, SETUP + "UPDATE t SET name = 'Mary Ann Lee' WHERE id = 9")
    done = project.run_in_process("zd-plan")
    line = next(line for line in done.stdout.splitlines() if "warning ZD401" in line)
    for word in ("table public.t", "column 'name'", "1 of 20 rows", "(id)=(9)", "'Mary Ann Lee' becomes 'Mary Ann'"):
        assert word in line
    assert "warning ZD401" in project.run_in_process("upgrade", "r2").stderr
    assert database.fetch("SELECT name FROM t WHERE id = 9") == [("Mary Ann Lee",)]


def test_samples__faithful_pair__nothing_is_said(database, tmp_path):
    project = _project(database, tmp_path)
    assert "ZD401" not in project.run_in_process("zd-plan").stdout


def test_samples__down_fails_for_what_up_makes__warning(database, tmp_path):
    upgrade = """op.zd_alter_column("t", "n", type_=sa.Text(), up="'n' || n", down="n::integer")"""
    project = _project(database, tmp_path, upgrade)
    assert "warning ZD401" in project.run_in_process("zd-plan").stdout


def test_samples__expression_takes_numbers__it_is_not_tried(database, tmp_path):
    """What a rolled-back transaction would not give back is not taken."""
    upgrade = """op.zd_add_column("t", sa.Column("x", sa.BigInteger), up="nextval('numbers')")"""
    project = _project(database, tmp_path, upgrade, SETUP + "CREATE SEQUENCE numbers")
    assert "note ZD401" in project.run_in_process("zd-plan").stdout
    # The rehearsal derives one row.
    assert database.fetch("SELECT last_value FROM numbers") == [(1,)]


def test_samples__users_triggers__do_not_fire(database, tmp_path):
    setup = """
        CREATE SEQUENCE fired;
        CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''fired''); RETURN NEW; END';
        CREATE TRIGGER fire BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire();
    """
    project = _project(database, tmp_path, setup=SETUP + setup)
    project.run_in_process("zd-plan")
    # The rehearsal updates one row of the twenty.
    assert database.fetch("SELECT last_value FROM fired") == [(1,)]


def test_samples__large_table__some_rows_of_random_blocks_in_bounded_time(database, tmp_path):
    """The one bad row in ten is found wherever it lies; the table is not read."""
    setup = """
        CREATE TABLE t (id integer PRIMARY KEY, n text, filler text);
        INSERT INTO t SELECT n, CASE WHEN n > 5000 AND n % 10 = 0 THEN 'bad' ELSE n::text END, repeat('x', 500)
          FROM generate_series(1, 20000) AS n;
        ANALYZE t;
    """
    upgrade = """op.zd_alter_column("t", "n", type_=sa.Integer(), up="n::integer", down="n::text")"""
    project = _project(database, tmp_path, upgrade, setup)
    said = _refused(project, database, "[ZD214]", 'invalid input syntax for type integer: "bad"')
    tried = int(re.search(r"([\d,]+) rows were tried", said).group(1).replace(",", ""))
    assert 500 < tried <= 1000


def test_samples__switched_off__rows_are_met_by_the_backfill(database, tmp_path):
    upgrade = """op.zd_alter_column("t", "name", type_=sa.Integer(), up="name::integer", down="name::text")"""
    project = _project(database, tmp_path, upgrade)
    project.write_env(extra={"zd_sample_rows": 0})
    done = project.run_in_process("upgrade", "r2", check=False)
    assert (done.returncode, "[ZD321]" in done.stdout) == (1, True)


def test_findings__errors_are_refused_all_at_once(database, tmp_path):
    upgrade = """
        op.zd_alter_column("t", "name", type_=sa.Integer(), up="name::integer", down="name::text")
        op.zd_create_check_constraint("small", "t", "id < 15")
    """
    setup = SETUP + "ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t"
    project = _project(database, tmp_path, upgrade, setup)
    _refused(project, database, "3 things are in the way", "error ZD218", "error ZD213", "error ZD214")
