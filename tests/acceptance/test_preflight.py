"""What is looked at before the first change: every finding in zd-plan and in upgrade, errors all at once."""

from __future__ import annotations

import re
import time

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


@pytest.fixture
def lists(server):
    """For tests of what publications may say from PostgreSQL 15 on."""
    if server.version < 15:
        pytest.skip("column lists exist from PostgreSQL 15 on")


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
def test_b14_publication_that_cannot_be_held__refused(kind, lists, database, tmp_path):
    setup, word = UNHELD[kind]
    project = _project(database, tmp_path, setup=SETUP + setup)
    _refused(project, database, "[ZD218]", "'p'", word)


def test_b14_publication_of_somebody_else__refused(lists, database, tmp_path):
    database.execute("DROP ROLE IF EXISTS zd_pub_owner; CREATE ROLE zd_pub_owner LOGIN")
    database.execute(f"GRANT CREATE ON DATABASE {database.name} TO zd_pub_owner; GRANT ALL ON SCHEMA public TO PUBLIC")
    database.execute(SETUP, user="zd_pub_owner")
    project = _project(database, tmp_path, setup="CREATE PUBLICATION p FOR TABLE t", user="zd_pub_owner")
    _refused(project, database, "[ZD218]", "it does not belong to role 'zd_pub_owner'")
    database.execute("ALTER PUBLICATION p OWNER TO zd_pub_owner")
    project.run_in_process("upgrade", "r2")
    project.run_in_process("zd-complete")


def test_b14_own_column_list__left_alone_unless_it_names_what_goes(lists, database, tmp_path):
    published = "SELECT pubname, prattrs::text FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid"
    project = _project(database, tmp_path, setup=SETUP + "CREATE PUBLICATION p FOR TABLE t (id, name)")
    project.run_in_process("upgrade", "r2")
    assert database.fetch(published) == [("p", "1 3")]
    project.run_in_process("downgrade", "r1")
    database.execute("ALTER PUBLICATION p SET TABLE t (id, n)")
    _refused(project, database, "[ZD207]", "publication 'p' depends on column 'n'")
    database.execute("ALTER PUBLICATION p SET TABLE t WHERE (n > 1)")
    _refused(project, database, "[ZD207]", "publication 'p' depends on column 'n'")


def test_b14_postgresql_14__refused(server, database, tmp_path):
    if server.version >= 15:
        pytest.skip("there are column lists")
    project = _project(database, tmp_path, setup=SETUP + "CREATE PUBLICATION p FOR TABLE t")
    _refused(project, database, "[ZD218]", "column lists exist from PostgreSQL 15 on")


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


@pytest.mark.parametrize(
    ("mapping", "word"),
    [
        ("t.name", "too long"),
        ("nullif(left(t.name, 3), 'Bob')", "null value"),
        ("left(t.name, 3)", "no_bob"),
        ("left((1 / (t.id - 5))::text, 1)", "division by zero"),
    ],
    ids=["type", "not_null", "check", "error"],
)
def test_samples__rows_of_another_table__refused_by_the_sources_key(mapping, word, database, tmp_path):
    upgrade = f"""
        op.zd_create_table("u", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("s", sa.String(3), sa.CheckConstraint("s <> 'Bob'", name="no_bob"), nullable=False),
            up=alembic_zero.from_table("t", {{"id": "t.id", "s": {mapping!r}}}))
    """
    setup = SETUP.replace("Ann Lee", "Ann") + "UPDATE t SET name = 'Bob Lee' WHERE id = 5"
    project = _project(database, tmp_path, upgrade, setup)
    _refused(project, database, "[ZD214]", "table public.t", "rows for public.u: (id)=(5)", word)
    database.execute("DELETE FROM t WHERE id = 5")
    project.run_in_process("upgrade", "r2")


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


# -- dependants -------------------------------------------------------------------------------------

DROP_N = 'op.zd_drop_column("t", "n")'
FUNCTION = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
DEPENDANTS = {
    "view": ("CREATE VIEW v AS SELECT id, n FROM t", "view public.v", NUMBER),
    "view_of_dropped": ("CREATE VIEW v AS SELECT count(*) FROM t WHERE n > 1", "view public.v", DROP_N),
    "materialised_view": ("CREATE MATERIALIZED VIEW v AS SELECT n FROM t", "materialized view public.v", DROP_N),
    "policy": ("CREATE POLICY mine ON t USING (n > 0)", "policy mine on table public.t", DROP_N),
    "policy_of_another_table": (
        "CREATE TABLE o (n integer); CREATE POLICY mine ON o USING (n IN (SELECT n FROM t))",
        "policy mine on table public.o",
        DROP_N,
    ),
    "function": (
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT sum(n) FROM t; END",
        "function public.f()",
        DROP_N,
    ),
    "rule": (
        "CREATE TABLE o (n integer); CREATE RULE mine AS ON DELETE TO t DO ALSO INSERT INTO o VALUES (OLD.n)",
        "rule mine on table public.t",
        DROP_N,
    ),
    "trigger_condition": (
        FUNCTION + "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW WHEN (NEW.n > 1) EXECUTE FUNCTION f()",
        "trigger g on table public.t",
        DROP_N,
    ),
    "trigger_columns": (
        FUNCTION + "CREATE TRIGGER g BEFORE UPDATE OF n ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger g on table public.t",
        DROP_N,
    ),
    "row_type": (
        "CREATE TABLE o (one t)",
        "column one of table public.o",
        'op.zd_drop_table("t")',
    ),
    "view_without_columns": ("CREATE VIEW v AS SELECT count(*) FROM t", "view public.v", 'op.zd_drop_table("t")'),
}


@pytest.mark.parametrize("kind", DEPENDANTS)
def test_e11_something_depends_on_what_goes__refused_before_anything_changes(kind, database, tmp_path):
    setup, thing, upgrade = DEPENDANTS[kind]
    project = _project(database, tmp_path, upgrade, SETUP + setup)
    _refused(project, database, "[ZD207]", thing, "depends on")


def test_e11_made_while_in_flight__zd_complete_refuses_before_the_first_table(database, tmp_path):
    """Past the first table there would be no way back; and until it is gone everybody works on."""
    project = _project(database, tmp_path)
    project.run_in_process("upgrade", "r2")
    database.execute("CREATE VIEW late AS SELECT n FROM t; CREATE POLICY late ON t USING (n > 0)")
    before = database.normalised_dump(None)
    done = project.run_in_process("zd-complete", check=False)
    assert done.returncode == 2
    for word in ("[ZD207]", "view public.late on 'n'", "policy late on table public.t on 'n'", "nothing was changed"):
        assert word in done.stdout
    assert database.normalised_dump(None) == before
    assert "in flight" in project.run_in_process("zd-status").stdout
    database.execute("DROP VIEW late; DROP POLICY late ON t")
    project.run_in_process("zd-complete")


# -- rights -----------------------------------------------------------------------------------------


def _roles(database):
    for role in ("zd_migrator", "zd_table_owner"):
        database.execute(
            f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
            f"REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT CREATE ON DATABASE {database.name} TO {role};"
            f"GRANT USAGE ON SCHEMA public TO {role}"
        )
    database.execute("REVOKE zd_table_owner FROM zd_migrator")


def test_rights__views_must_belong_to_somebody_else__refused_before_publishing_could_fail(database, tmp_path):
    """A view over columns with privileges of their own has its owner's rights: the table's owner's."""
    _roles(database)
    database.execute("GRANT CREATE ON SCHEMA public TO zd_migrator")
    owned = "CREATE TABLE o (id integer, x integer); GRANT SELECT (id) ON o TO PUBLIC;"
    owned += "ALTER TABLE o OWNER TO zd_table_owner;"
    owned += "ALTER TABLE t OWNER TO zd_migrator; CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);"
    owned += "ALTER TABLE alembic_version OWNER TO zd_migrator"
    project = _project(database, tmp_path, setup=SETUP + owned, user="zd_migrator")
    _refused(project, database, "[ZD219]", "table public.o", "owner 'zd_table_owner'")
    database.execute("ALTER TABLE o OWNER TO zd_migrator")
    project.run_in_process("upgrade", "r2")


def test_rights__not_the_owner_and_no_create__every_grant_is_named_at_once(lists, database, tmp_path):
    _roles(database)
    owned = "ALTER TABLE t OWNER TO zd_table_owner; CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);"
    owned += "ALTER TABLE alembic_version OWNER TO zd_migrator"
    project = _project(database, tmp_path, setup=SETUP + owned, user="zd_migrator")
    words = (
        "error ZD219",
        'GRANT "zd_table_owner" TO "zd_migrator"',
        'GRANT CREATE ON SCHEMA "public" TO "zd_migrator"',
    )
    _refused(project, database, *words)
    database.execute(
        "GRANT zd_table_owner TO zd_migrator; GRANT CREATE ON SCHEMA public TO zd_migrator, zd_table_owner"
    )
    project.run_in_process("upgrade", "r2")
    project.run_in_process("zd-complete")
    database.execute("REVOKE zd_table_owner FROM zd_migrator")


def test_rights__foreign_key_to_somebody_elses_table__the_grant_is_named(lists, database, tmp_path):
    _roles(database)
    setup = (
        SETUP
        + """
        CREATE TABLE other (id integer PRIMARY KEY);
        CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
        INSERT INTO other SELECT n FROM generate_series(1, 20) AS n;
        ALTER TABLE t OWNER TO zd_migrator; ALTER TABLE alembic_version OWNER TO zd_migrator;
        GRANT CREATE ON SCHEMA public TO zd_migrator; GRANT SELECT ON other TO zd_migrator;
    """
    )
    upgrade = 'op.zd_create_foreign_key("fk", "t", "other", ["n"], ["id"])'
    project = _project(database, tmp_path, upgrade, setup, user="zd_migrator")
    _refused(project, database, "[ZD219]", 'GRANT REFERENCES, UPDATE ON "public"."other" TO "zd_migrator"')
    database.execute("GRANT REFERENCES, UPDATE ON other TO zd_migrator")
    project.run_in_process("upgrade", "r2")


def test_rights__version_schema_of_somebody_else__refused_before_a_contract_could_fail(database, tmp_path):
    _roles(database)
    project = _project(database, tmp_path)
    project.run_in_process("zd-init")
    database.execute(
        "GRANT ALL ON SCHEMA public, alembic_zero TO zd_migrator;"
        "GRANT ALL ON ALL TABLES IN SCHEMA alembic_zero TO zd_migrator;"
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA alembic_zero TO zd_migrator;"
        "ALTER TABLE t OWNER TO zd_migrator; ALTER TABLE alembic_version OWNER TO zd_migrator"
    )
    other = AlembicProject(tmp_path / "project", database.url.set(username="zd_migrator"))
    _refused(other, database, "[ZD219]", 'ALTER SCHEMA "zd_r1" OWNER TO "zd_migrator"')


# -- disk, slots, sessions, and what is half done ---------------------------------------------------


def test_disk__less_than_the_estimate__refused(database, tmp_path):
    project = _project(database, tmp_path)
    plan = project.run_in_process("zd-plan").stdout
    assert "note ZD404: table public.t" in plan
    assert "of WAL (estimates)" in plan
    project.write_env(extra={"zd_free_disk": 1000})
    _refused(project, database, "[ZD222]", "1 kB left")
    project.write_env(extra={"zd_free_disk": 1 << 40})
    project.run_in_process("upgrade", "r2")


def test_slots__used_by_nobody__warning_with_what_it_holds(database, tmp_path):
    name = f"slot_{database.name}"
    database.execute(f"SELECT pg_create_physical_replication_slot('{name}', true)")
    try:
        project = _project(database, tmp_path)
        said = project.run_in_process("upgrade", "r2").stderr
    finally:
        database.execute(f"SELECT pg_drop_replication_slot('{name}')")
    assert f"warning ZD403: physical replication slot '{name}' is used by nobody" in said


def test_sessions__lock_on_the_table_and_prepared_transaction__named_before_anything_waits(database, tmp_path):
    project = _project(database, tmp_path)
    project.write_env(extra={"zd_lock_budget_s": 0.5})
    gid = f"gid_{database.name}"
    with database.connect() as holder:
        holder.execute("SET application_name = 'report'; BEGIN; SELECT * FROM t LIMIT 1")
        database.execute(f"CREATE TABLE o (n integer); BEGIN; INSERT INTO o VALUES (1); PREPARE TRANSACTION '{gid}'")
        time.sleep(1.2)
        done = project.run_in_process("upgrade", "r2", check=False)
        pid = holder.info.backend_pid
    database.execute(f"ROLLBACK PREPARED '{gid}'")
    assert (done.returncode, "[ZD310]" in done.stdout) == (1, True)
    assert f"warning ZD402: table public.t: pid {pid} (report, idle in transaction" in done.stderr
    assert f"warning ZD402: prepared transaction '{gid}'" in done.stderr


def test_half_done__invalid_index_and_constraint_not_valid__warnings(database, tmp_path):
    setup = (
        SETUP
        + """
        CREATE INDEX broken ON t (name);
        UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass;
        ALTER TABLE t ADD CONSTRAINT loose CHECK (id > 0) NOT VALID;
    """
    )
    project = _project(database, tmp_path, setup=setup)
    said = project.run_in_process("upgrade", "r2").stderr
    assert "warning ZD405: table public.t: index 'broken' is invalid" in said
    assert "warning ZD405: table public.t: constraint 'loose' is NOT VALID" in said
    project.run_in_process("zd-complete")


def test_triggers__function_uses_a_column_that_goes__warning(database, tmp_path):
    setup = (
        SETUP
        + """
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := upper(new.name); RETURN NEW; END';
        CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
    """
    )
    upgrade = 'op.zd_alter_column("t", "name", new_column_name="title")'
    project = _project(database, tmp_path, upgrade, setup)
    said = project.run_in_process("zd-plan").stdout
    assert "warning ZD407: table public.t: trigger 'g' uses column 'name'" in said
    database.execute("CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    assert "ZD407" not in project.run_in_process("zd-plan").stdout


def test_leftovers__marker_without_a_journal__refused(database, tmp_path):
    project = _project(database, tmp_path, setup=SETUP + "ALTER TABLE t ADD _zd_v integer")
    _refused(project, database, "[ZD223]", "column _zd_v")
    database.execute("ALTER TABLE t DROP _zd_v")
    project.run_in_process("upgrade", "r2")


def test_columns__slots_of_dropped_ones_count__refused_or_warned_of(database, tmp_path):
    """A copy and the marker need two; PostgreSQL has 1,600 for ever."""
    columns = [f"c{n}" for n in range(1595)]
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer, name text)")
    database.execute("ALTER TABLE t " + ", ".join(f"ADD {c} integer" for c in columns))
    database.execute("ALTER TABLE t " + ", ".join(f"DROP {c}" for c in columns))
    project = _project(database, tmp_path, setup="INSERT INTO t VALUES (1, 1, 'a')")
    assert "warning ZD405: table public.t: 1,598 of 1,600" in project.run_in_process("zd-plan").stdout
    database.execute("ALTER TABLE t ADD one_more integer")
    _refused(project, database, "[ZD201]", "1,599 of 1,600", "needs 2")


# -- publications of unusual tables, and what a failed upgrade leaves of them -----------------------

RELATIONS = """
    SELECT pubname, prrelid::regclass::text, prattrs::text
      FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid
"""


def test_b14_partitioned_table__held_by_its_root_only(lists, database, tmp_path):
    setup = """
        CREATE TABLE t (id integer PRIMARY KEY, n integer) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
        INSERT INTO t SELECT n, n FROM generate_series(1, 9) AS n;
        CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root);
    """
    project = _project(database, tmp_path, setup=setup)
    before = database.fetch(RELATIONS)
    project.run_in_process("upgrade", "r2")
    assert database.fetch(RELATIONS) == [("p", "t", "1 2")]
    project.run_in_process("zd-complete")
    assert database.fetch(RELATIONS) == before
    database.execute("ALTER PUBLICATION p SET (publish_via_partition_root = false)")
    project.revision("r3", "r2", NUMBER.replace("Text", "Integer").replace("n::text", "n::integer", 1))
    _refused_next(project, "publish_via_partition_root")
    database.execute("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE low")
    _refused_next(project, "it names a partition")


def _refused_next(project, word):
    done = project.run_in_process("upgrade", "r3", check=False)
    assert (done.returncode, "[ZD218]" in done.stdout, word in done.stdout) == (2, True, True), done.stdout


def test_b14_generated_column__is_published_in_flight_as_before(lists, database, tmp_path):
    """PostgreSQL publishes no generated column, unless (18) it is asked to; a column list could not name it before."""
    generated = "ALTER TABLE t ADD g integer GENERATED ALWAYS AS (id * 2) STORED; CREATE PUBLICATION p FOR TABLE t"
    project = _project(database, tmp_path, setup=SETUP + generated)
    project.run_in_process("upgrade", "r2")
    assert database.fetch(RELATIONS) == [("p", "t", "1 2 3")]
    project.run_in_process("downgrade", "r1")
    if database.server.version >= 18:
        database.execute("ALTER PUBLICATION p SET (publish_generated_columns = stored)")
        project.run_in_process("upgrade", "r2")
        assert database.fetch(RELATIONS) == [("p", "t", "1 2 3 4")]
        project.run_in_process("zd-complete")
    assert database.fetch(RELATIONS) == [("p", "t", None)]


def test_b14_upgrade_stops_half_way__rollback_takes_the_column_list_back(lists, database, tmp_path):
    upgrade = """op.zd_alter_column("t", "name", type_=sa.Integer(), up="name::integer", down="name::text")"""
    project = _project(database, tmp_path, upgrade, SETUP + "CREATE PUBLICATION p FOR TABLE t WHERE (id > 1)")
    project.write_env(extra={"zd_sample_rows": 0})
    assert "[ZD321]" in project.run_in_process("upgrade", "r2", check=False).stdout
    assert database.fetch(RELATIONS) == [("p", "t", "1 2 3")]
    project.run_in_process("downgrade", "r1")
    assert database.fetch(RELATIONS) == [("p", "t", None)]
    assert database.fetch("SELECT pg_get_expr(prqual, prrelid) FROM pg_publication_rel") == [("(id > 1)",)]


def test_b14_published_table_is_renamed_and_dropped__as_plain_alembic_would(lists, database, tmp_path):
    setup = SETUP + "CREATE TABLE o (id integer PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t, o"
    upgrade = f"""
        op.zd_rename_table("t", "u")
        {NUMBER.replace('"t"', '"u"')}
        op.zd_drop_table("o")
    """
    project = _project(database, tmp_path, upgrade, setup)
    project.run_in_process("upgrade", "r2")
    project.run_in_process("zd-complete")
    assert database.fetch(RELATIONS) == [("p", "u", None)]


# -- rights of clients ------------------------------------------------------------------------------


def test_rights__client_may_not_execute_what_up_calls__the_grant_is_named(database, tmp_path):
    """Else what it writes would be quarantined, row by row, and nobody would know why."""
    _roles(database)
    setup = (
        SETUP
        + """
        CREATE FUNCTION twice(integer) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN $1 * 2; END';
        REVOKE EXECUTE ON FUNCTION twice(integer) FROM PUBLIC;
        GRANT SELECT, UPDATE ON t TO zd_table_owner; GRANT SELECT ON t TO zd_migrator;
    """
    )
    upgrade = """op.zd_alter_column("t", "n", type_=sa.BigInteger(), up="twice(n)", down="(n / 2)::integer")"""
    project = _project(database, tmp_path, upgrade, setup)
    said = _refused(project, database, "[ZD219]", 'GRANT EXECUTE ON FUNCTION twice(integer) TO "zd_table_owner"')
    assert "zd_migrator" not in said
    database.execute("GRANT EXECUTE ON FUNCTION twice(integer) TO zd_table_owner")
    project.run_in_process("upgrade", "r2")


def test_rights__migrating_role_may_not_execute_what_up_calls__refused(database, tmp_path):
    _roles(database)
    setup = (
        SETUP
        + """
        CREATE FUNCTION twice(integer) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN $1 * 2; END';
        REVOKE EXECUTE ON FUNCTION twice(integer) FROM PUBLIC;
        CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
        ALTER TABLE t OWNER TO zd_migrator; ALTER TABLE alembic_version OWNER TO zd_migrator;
        GRANT CREATE ON SCHEMA public TO zd_migrator;
    """
    )
    upgrade = """op.zd_alter_column("t", "n", type_=sa.BigInteger(), up="twice(n)", down="(n / 2)::integer")"""
    project = _project(database, tmp_path, upgrade, setup, user="zd_migrator")
    _refused(project, database, "permission denied for function twice")
