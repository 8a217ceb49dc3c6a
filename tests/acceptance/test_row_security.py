"""Row security through versions is that of the table; what runs with whose rights, and by whose search_path."""

from __future__ import annotations

import re

import psycopg
import pytest

from tests.acceptance.test_across import CASES as ACROSS
from tests.acceptance.test_everything_at_once import EVERYTHING
from tests.acceptance.test_scenarios import S03_SPLIT
from tests.support.harness import AFTER, BEFORE, Case, Flight, outcome_id

pytestmark = pytest.mark.one_server

ROLES = ("rls_sales", "rls_audit", "rls_chief", "rls_owner", "rls_bypass", "rls_other")
MAKE_ROLES = f"""
DO $$ BEGIN
    PERFORM pg_advisory_xact_lock(76);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLES[0]}') THEN
        {"".join(f"CREATE ROLE {role} LOGIN;" for role in ROLES)}
        ALTER ROLE rls_bypass BYPASSRLS;
        GRANT rls_sales TO rls_chief;
    END IF;
END $$;
"""
# Permissive and restrictive, for all or one command, for roles, by current_user and by a setting.
SETUP = """
    CREATE TABLE notes (id integer PRIMARY KEY, team text, author name, body text, level integer);
    INSERT INTO notes
    SELECT i, (ARRAY['red', 'blue'])[1 + i % 2], ('rls_' || (ARRAY['sales', 'audit', 'chief'])[1 + i % 3]),
           'note ' || i, i % 4
      FROM generate_series(1, 24) AS i;
    GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO rls_sales, rls_audit, rls_chief, rls_bypass, rls_other;
    CREATE FUNCTION leaky(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
        AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$;
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY team ON notes USING (team = current_setting('app.team', true));
    CREATE POLICY own ON notes FOR SELECT TO rls_sales, rls_audit USING (author = current_user);
    CREATE POLICY write ON notes FOR UPDATE TO rls_sales USING (author = current_user) WITH CHECK (level < 3);
    CREATE POLICY add ON notes FOR INSERT TO rls_sales, rls_audit WITH CHECK (author = current_user AND level < 3);
    CREATE POLICY erase ON notes FOR DELETE TO rls_audit USING (level = 0);
    CREATE POLICY quiet ON notes AS RESTRICTIVE FOR SELECT TO rls_audit USING (id <> 4);
    ALTER TABLE notes OWNER TO rls_owner;
"""
UPGRADE = """
    op.zd_alter_column("notes", "body", new_column_name="text", type_=sa.String(99), up="body || '!'",
                       down="left(text, -1)")
    op.zd_add_column("notes", sa.Column("words", sa.Integer), up="length(text)")
"""
STATEMENTS = {
    "read": "SELECT id, team, level FROM {0} ORDER BY id",
    "read one": "SELECT id FROM {0} WHERE id = 4",
    "leak": "SELECT id FROM {0} WHERE leaky({1}) ORDER BY id",
    "lock": "SELECT id FROM {0} ORDER BY id FOR UPDATE",
    "touch": "WITH u AS (UPDATE {0} SET {1} = {1} || 'x!' RETURNING id) SELECT id FROM u ORDER BY id",
    "raise": "WITH u AS (UPDATE {0} SET level = level + 1 RETURNING id) SELECT id FROM u ORDER BY id",
    "unread": "UPDATE {0} SET level = 1",
    "erase": "DELETE FROM {0}",
    "erase read": "WITH d AS (DELETE FROM {0} RETURNING id) SELECT id FROM d ORDER BY id",
    "mine": "INSERT INTO {0} (id, team, author, level) VALUES (100, 'red', current_user, 1)",
    "high": "INSERT INTO {0} (id, team, author, level) VALUES (101, 'red', current_user, 3)",
    "other's": "INSERT INTO {0} (id, team, author, level) VALUES (102, 'red', 'somebody', 1)",
    "team's": "INSERT INTO {0} (id, team, author, {1}, level) VALUES (103, 'blue', 'somebody', 'x!', 3) RETURNING id",
    "upsert": "INSERT INTO {0} (id, team, author, level) VALUES (1, 'blue', current_user, 1) "
              "ON CONFLICT (id) DO UPDATE SET level = 2 RETURNING id",
}  # fmt: skip


def tried(database, relation, column):
    """Return what becomes of every statement, for every role and team: rows, SQLSTATE, and what leaked."""
    found = {}
    for role in ROLES:
        for team in ("", "red", "blue"):
            with database.connect(user=role) as connection:
                leaked = []
                connection.add_notice_handler(
                    lambda notice, leaked=leaked: leaked.append(notice.message_primary.rstrip("!"))
                )
                connection.execute(f"SET app.team = '{team}'".encode())
                for name, statement in STATEMENTS.items():
                    try:
                        with connection.transaction(force_rollback=True):
                            cursor = connection.execute(statement.format(relation, column).encode())
                            rows = cursor.fetchall() if cursor.description else cursor.rowcount
                            outcome = rows
                    except psycopg.Error as error:
                        outcome = error.sqlstate
                    found[role, team, name] = (outcome, sorted(leaked))
                    leaked.clear()
    return found


def assert_same_rows(found, expected, when):
    different = {key: (expected[key], found[key]) for key in expected if found[key] != expected[key]}
    assert not different, f"{when}: (table, view) differ for {different}"


@pytest.mark.parametrize("force", ["NO FORCE", "FORCE"])
def test_row_security__every_policy_role_and_command__that_of_the_table(database, tmp_path, force):
    """Rows seen, changed, refused and leaked through each version are those of the table before the migration."""
    database.execute(MAKE_ROLES)
    setup = f"{SETUP} ALTER TABLE notes {force} ROW LEVEL SECURITY;"
    flight = Flight(Case("policies", setup, UPGRADE, "pass"), database, tmp_path / "project")
    expected = tried(database, "public.notes", "body")
    assert len({str(one) for one in expected.values()}) > 20
    assert_same_rows(tried(database, "zd_r1.notes", "body"), expected, "adopted")
    flight.run("upgrade", AFTER)
    assert_same_rows(tried(database, "zd_r1.notes", "body"), expected, "in flight, r1")
    assert_same_rows(tried(database, "zd_r2.notes", "text"), expected, "in flight, r2")
    flight.run("zd-complete")
    assert_same_rows(tried(database, "zd_r2.notes", "text"), expected, "completed")


def test_row_security__policy_reads_a_column_in_flight__refused(database, tmp_path):
    """A policy goes with a column; one that a revision copies or drops must be changed first."""
    database.execute(MAKE_ROLES)
    for upgrade in (
        'op.zd_drop_column("notes", "team")',
        'op.zd_alter_column("notes", "level", type_=sa.BigInteger())',
    ):
        flight = Flight(Case("policies", SETUP, upgrade, "pass"), database, tmp_path / "project")
        refused = flight.project.run_in_process("upgrade", AFTER, check=False)
        assert refused.returncode == 2
        assert "policy" in refused.stdout + refused.stderr
        database.execute("DROP SCHEMA zd_r1, alembic_zero CASCADE; DROP TABLE notes, alembic_version;"
                         "DROP FUNCTION leaky")  # fmt: skip


# -- functions --------------------------------------------------------------------------------------

FUNCTIONS = """
SELECT p.oid::regprocedure::text, l.lanname, p.prosecdef, p.prosqlbody IS NOT NULL AS early,
       (SELECT split_part(c, '=', 2) FROM unnest(p.proconfig) AS c WHERE starts_with(c, 'search_path=')) AS path,
       p.prosrc, p.prorettype::regtype::text
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.pronamespace = 'alembic_zero'::regnamespace ORDER BY 1
"""


@pytest.mark.parametrize("case", [S03_SPLIT, EVERYTHING, *ACROSS], ids=outcome_id)
def test_functions__in_flight__take_nothing_from_a_callers_path(database, tmp_path, case):
    """SQL is bound early; PL/pgSQL with the migration's rights has a path of its own that ends with pg_temp."""
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    functions = database.fetch(FUNCTIONS)
    assert functions
    for name, language, definer, early, path, source, returns in functions:
        assert language in ("sql", "plpgsql"), name
        assert early or language == "plpgsql", name
        if definer:
            assert path, name
            assert path.split(", ")[-1] == "pg_temp", (name, path)
        elif not early:
            # With the writer's rights and path: no name or operator in it may be looked for there.
            assert returns in ("trigger", "boolean"), name
            source = re.sub(r"RAISE EXCEPTION USING (?:'(?:[^']|'')*'|[^;'])*;", "", source)
            bare = re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|OPERATOR\(pg_catalog\.[^ )]+\)|:=|;", " ", source)
            assert not re.search(r"[<>=~|+*/%]", bare.replace("=> ", "")), (name, bare)
            called = set(re.findall(r"(?<![.\w])([a-z_0-9]+)\(", bare))
            assert called <= {"greatest", "least", "coalesce", "row", "array"}, (name, called)


def test_temporary_tables_of_a_client__do_not_change_what_runs_with_other_rights(database, tmp_path):
    """A function of the user's that reads a table by its bare name finds the migration's, not the client's own."""
    database.execute(MAKE_ROLES)
    case = Case(
        "shadow",
        """
        CREATE TABLE kinds (id integer PRIMARY KEY, label text);
        CREATE TABLE t (id integer PRIMARY KEY, kind integer);
        INSERT INTO kinds VALUES (1, 'true'); INSERT INTO t VALUES (1, 1);
        CREATE FUNCTION label_of(integer) RETURNS text LANGUAGE plpgsql
            AS $$ BEGIN RETURN (SELECT k.label FROM kinds k WHERE k.id = $1); END $$;
        """,
        """
        label = alembic_zero.from_table("kinds", "label", "kinds.id = t.kind")
        op.zd_add_column("t", sa.Column("a", sa.Text), up=label)
        op.zd_add_column("t", sa.Column("b", sa.Text), up="label_of(kind)")
        """,
        "pass",
    )
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    with flight.client(BEFORE) as client:
        client.connection.execute("CREATE TEMP TABLE kinds (id integer, label text)")
        client.connection.execute("INSERT INTO kinds VALUES (1, 'false')")
        client.connection.execute("INSERT INTO t VALUES (2, 1)")
    assert database.fetch("SELECT a, b FROM zd_r2.t WHERE id = 2") == [("true", "true")]


def test_schema_on_the_path_is_open_to_others__warned_of(database, tmp_path):
    add = 'op.zd_add_column("t", sa.Column("b", sa.Text), up="name")'
    case = Case("open", "CREATE TABLE t (id integer PRIMARY KEY, name text)", add, "pass")
    flight = Flight(case, database, tmp_path / "project")
    assert "ZD410" not in flight.run("zd-plan").stdout
    database.execute("GRANT CREATE ON SCHEMA public TO PUBLIC, zd_app")
    planned = flight.run("zd-plan").stdout
    assert "ZD410" in planned
    assert "PUBLIC, zd_app" in planned
