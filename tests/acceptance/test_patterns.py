"""What real histories do in several releases comes out as one revision."""

from __future__ import annotations

import datetime as dt

import pytest

from tests.support.harness import (
    AFTER,
    APP,
    OUTCOMES,
    Case,
    Flight,
    Session,
    assert_nothing_left,
    check_rows,
    new,
    old,
    outcome_id,
    outcomes_of,
)
from tests.support.project import AlembicProject

pytestmark = pytest.mark.one_server

EPOCH = dt.datetime(2000, 1, 1)
FOUR = [(schema, table) for schema in ("public", "shop") for table in ("buyers", "sellers")]


def four(line):
    """Return *line* once for each of four tables in two schemas."""
    return "\n".join(line.format(schema=schema, table=table) for schema, table in FOUR)


# What citext is, for servers without contrib modules or ICU: a type of its own with operators that fold case.
CASELESS = """
    CREATE TYPE ci;
    CREATE FUNCTION ci_in(cstring) RETURNS ci LANGUAGE internal IMMUTABLE STRICT AS 'textin';
    CREATE FUNCTION ci_out(ci) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
    CREATE TYPE ci (INPUT = ci_in, OUTPUT = ci_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
    CREATE CAST (ci AS text) WITHOUT FUNCTION AS IMPLICIT;
    CREATE CAST (text AS ci) WITHOUT FUNCTION AS ASSIGNMENT;
    CREATE FUNCTION ci_cmp(ci, ci) RETURNS integer LANGUAGE sql IMMUTABLE STRICT
        AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';
"""
for name, operator in (("lt", "<"), ("le", "<="), ("eq", "="), ("ge", ">="), ("gt", ">")):
    CASELESS += f"""
        CREATE FUNCTION ci_{name}(ci, ci) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
            AS 'SELECT lower($1::text) {operator} lower($2::text)';
        CREATE OPERATOR {operator} (FUNCTION = ci_{name}, LEFTARG = ci, RIGHTARG = ci);
    """
CASELESS += """
    CREATE OPERATOR CLASS ci_ops DEFAULT FOR TYPE ci USING btree AS
        OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 ci_cmp(ci, ci)
"""
CI = """
from sqlalchemy.types import UserDefinedType


class Ci(UserDefinedType):
    def get_col_spec(self, **kw):
        return "public.ci"
"""

PATTERNS = [
    Case(
        "dropped_and_another_takes_its_name_and_a_third_type",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, a integer NOT NULL DEFAULT 7, b text NOT NULL);
            CREATE INDEX t_b ON t (b);
            INSERT INTO t VALUES (1, 10, '100'), (2, 20, '200');
        """,
        upgrade="""
            op.zd_drop_column("t", "a", down="b::integer / 10")
            op.zd_alter_column("t", "b", new_column_name="a", type_=sa.BigInteger, up="b::bigint", down="a::text")
        """,
        plain="""
            op.drop_column("t", "a")
            op.alter_column("t", "b", new_column_name="a")
            op.alter_column("t", "a", type_=sa.BigInteger, postgresql_using="a::bigint")
        """,
        downgrade="""
            op.zd_alter_column("t", "a", new_column_name="b", type_=sa.Text, up="a::text", down="b::bigint")
            op.zd_add_column("t", sa.Column("a", sa.Integer, nullable=False, server_default="7"), up="b::integer / 10")
        """,
        writes=[
            old("INSERT INTO t VALUES (3, 30, '300')"),
            new("INSERT INTO t VALUES (4, 400)"),
            old("UPDATE t SET a = 11 WHERE id = 1"),
            new("UPDATE t SET a = 210 WHERE id = 2"),
        ],
        old={"SELECT id, a, b FROM t": [(1, 11, "100"), (2, 21, "210"), (3, 30, "300"), (4, 40, "400")]},
        new={"SELECT id, a FROM t": [(1, 100), (2, 210), (3, 300), (4, 400)]},
        reversed={"SELECT id, a, b FROM t": [(1, 10, "100"), (2, 21, "210"), (3, 30, "300"), (4, 40, "400")]},
    ),
    Case(
        "boolean_to_timestamp",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, deleted boolean NOT NULL DEFAULT false);
            INSERT INTO t VALUES (1, true), (2, false);
        """,
        upgrade="""
            op.zd_alter_column("t", "deleted", new_column_name="deleted_at", type_=sa.DateTime, nullable=True,
                server_default=None, up="CASE WHEN deleted THEN timestamp '2000-01-01' END",
                down="deleted_at IS NOT NULL")
        """,
        plain="""
            op.alter_column("t", "deleted", new_column_name="deleted_at", nullable=True, server_default=None)
            op.alter_column("t", "deleted_at", type_=sa.DateTime,
                postgresql_using="CASE WHEN deleted_at THEN timestamp '2000-01-01' END")
        """,
        downgrade="""
            op.zd_alter_column("t", "deleted_at", new_column_name="deleted", type_=sa.Boolean, nullable=False,
                server_default=sa.false(), up="deleted_at IS NOT NULL",
                down="CASE WHEN deleted THEN timestamp '2000-01-01' END")
        """,
        writes=[
            old("INSERT INTO t (id) VALUES (3) RETURNING deleted", [(False,)]),
            new("INSERT INTO t (id) VALUES (4) RETURNING deleted_at", [(None,)]),
            new("UPDATE t SET deleted_at = timestamp '2020-02-02' WHERE id = 2"),
            # A flag that says what it said before leaves the time alone.
            old("UPDATE t SET deleted = true WHERE id IN (2, 3)"),
            old("UPDATE t SET deleted = false WHERE id = 1"),
        ],
        old={"SELECT id, deleted FROM t": [(1, False), (2, True), (3, True), (4, False)]},
        new={
            "SELECT id, deleted_at FROM t": [(1, None), (2, dt.datetime(2020, 2, 2)), (3, EPOCH), (4, None)],
        },
        # PostgreSQL 18 names the new NOT NULL after the column that plain Alembic renames last.
        faithful=False,
    ),
    Case(
        "text_becomes_case_insensitive_under_its_unique_index",
        setup=f"""
            {CASELESS};
            CREATE TABLE t (id integer PRIMARY KEY, email text NOT NULL CONSTRAINT t_email UNIQUE);
            INSERT INTO t VALUES (1, 'Ada@x'), (2, 'bob@x');
        """,
        upgrade='op.zd_alter_column("t", "email", type_=Ci())',
        plain='op.alter_column("t", "email", type_=Ci())',
        downgrade='op.zd_alter_column("t", "email", type_=sa.Text())',
        prelude=CI,
        path="public",
        writes=[
            old("INSERT INTO t VALUES (3, 'Cy@x')"),
            new("INSERT INTO t VALUES (4, 'ADA@x')", error="23505"),
            new("INSERT INTO t VALUES (3, 'CY@X') ON CONFLICT (email) DO UPDATE SET email = excluded.email"),
            new("SELECT id FROM t WHERE email = 'ADA@X'", [(1,)]),
            old("SELECT id FROM t WHERE email = 'ADA@X'", []),
            # The same to the new version's operators, but a change all the same.
            new("UPDATE t SET email = 'BOB@x' WHERE id = 2"),
        ],
        old={"SELECT id, email::text FROM t": [(1, "Ada@x"), (2, "BOB@x"), (3, "CY@X")]},
        new={"SELECT id, email::text FROM t": [(1, "Ada@x"), (2, "BOB@x"), (3, "CY@X")]},
    ),
    Case(
        "eight_not_nulls_in_two_tables",
        setup="""
            CREATE TABLE one (id integer PRIMARY KEY, a text, b text, c text, d text);
            CREATE TABLE two (id integer PRIMARY KEY, one_id integer REFERENCES one, a integer, b integer, c integer,
                d integer);
            INSERT INTO one VALUES (1, 'x', NULL, NULL, 'y');
            INSERT INTO two VALUES (1, 1, NULL, 2, NULL, 4);
        """,
        upgrade="""
            for name in "abcd":
                op.zd_alter_column("one", name, nullable=False, up=f"coalesce({name}, '-')")
                op.zd_alter_column("two", name, nullable=False, up=f"coalesce({name}, 0)")
        """,
        plain="""
            for name in "abcd":
                op.execute(f"UPDATE one SET {name} = '-' WHERE {name} IS NULL")
                op.execute(f"UPDATE two SET {name} = 0 WHERE {name} IS NULL")
            for name in "abcd":
                op.alter_column("one", name, nullable=False)
                op.alter_column("two", name, nullable=False)
        """,
        downgrade="""
            for name in "abcd":
                op.zd_alter_column("one", name, nullable=True, down=f"coalesce({name}, '-')")
                op.zd_alter_column("two", name, nullable=True, down=f"coalesce({name}, 0)")
        """,
        writes=[
            old("INSERT INTO one (id, a) VALUES (2, 'z')"),
            old("INSERT INTO two (id, one_id) VALUES (2, 2)"),
            new("INSERT INTO one VALUES (3, 'n', 'e', 'w', '!')"),
            new("INSERT INTO two (id, one_id, a) VALUES (3, 3, 1)", error="23502"),
            old("UPDATE two SET b = NULL WHERE id = 1"),
        ],
        old={
            "SELECT * FROM one": [(1, "x", None, None, "y"), (2, "z", None, None, None), (3, "n", "e", "w", "!")],
            "SELECT * FROM two": [(1, 1, None, None, None, 4), (2, 2, None, None, None, None)],
        },
        new={
            "SELECT * FROM one": [(1, "x", "-", "-", "y"), (2, "z", "-", "-", "-"), (3, "n", "e", "w", "!")],
            "SELECT * FROM two": [(1, 1, 0, 0, 0, 4), (2, 2, 0, 0, 0, 0)],
        },
        reversed={
            "SELECT * FROM one": [(1, "x", "-", "-", "y"), (2, "z", "-", "-", "-"), (3, "n", "e", "w", "!")],
            "SELECT * FROM two": [(1, 1, 0, 0, 0, 4), (2, 2, 0, 0, 0, 0)],
        },
    ),
    Case(
        "hashed_in_place",
        setup="""
            CREATE TABLE t (id integer PRIMARY KEY, secret text, salt text NOT NULL DEFAULT 's');
            INSERT INTO t VALUES (1, 'one'), (2, NULL);
        """,
        upgrade="""op.zd_alter_column("t", "secret", up="md5(salt || secret)", down=alembic_zero.IRREVERSIBLE)""",
        plain="pass",
        writes=[
            old("INSERT INTO t VALUES (3, 'three')"),
            new("INSERT INTO t VALUES (4, md5('sfour'))"),
            old("UPDATE t SET secret = 'uno' WHERE id = 1"),
        ],
        old={"SELECT id, secret FROM t": [(1, "uno"), (2, None), (3, "three"), (4, None)]},
        new={
            "SELECT id FROM t WHERE secret IN (md5('suno'), md5('sthree'), md5('sfour'))": [(1,), (3,), (4,)],
        },
        # Through the new version a copied value is no way back, so writing it to itself must be.
        probes=False,
    ),
    Case(
        "same_change_in_four_tables_of_two_schemas",
        setup=f"""
            CREATE SCHEMA shop;
            GRANT USAGE ON SCHEMA shop TO {APP};
            {four('CREATE TABLE "{schema}".{table} (id integer PRIMARY KEY, phone text, "order" integer);')}
            {four('''INSERT INTO "{schema}".{table} VALUES (1, ' 12-3 ', 1);''')}
        """,
        upgrade="""
            for schema in (None, "shop"):
                for table in ("buyers", "sellers"):
                    op.zd_alter_column(table, "phone", new_column_name="digits", nullable=False, schema=schema,
                        up="coalesce(regexp_replace(phone, '\\\\D', '', 'g'), '')", down="nullif(digits, '')")
                    op.zd_drop_column(table, "order", schema=schema)
        """,
        plain="""
            for schema in (None, "shop"):
                for table in ("buyers", "sellers"):
                    op.alter_column(table, "phone", new_column_name="digits", nullable=False, schema=schema)
                    op.drop_column(table, "order", schema=schema)
        """,
        downgrade="""
            for schema in (None, "shop"):
                for table in ("buyers", "sellers"):
                    op.zd_alter_column(table, "digits", new_column_name="phone", nullable=True, schema=schema,
                        up="nullif(digits, '')", down="coalesce(regexp_replace(phone, '\\\\D', '', 'g'), '')")
                    op.zd_add_column(table, sa.Column("order", sa.Integer), schema=schema)
        """,
        schema="shop",
        metadata="""
            target_metadata = sa.MetaData()
            sa.Table("buyers", target_metadata, schema="shop")
        """,
        writes=[
            old("INSERT INTO buyers VALUES (2, '4 5', 2)"),
            new("INSERT INTO sellers VALUES (2, '67')"),
            new("UPDATE buyers SET digits = '9' WHERE id = 1"),
        ],
        old={
            "SELECT id, phone FROM buyers": [(1, "9"), (2, "4 5")],
            "SELECT id, phone FROM sellers": [(1, " 12-3 "), (2, "67")],
        },
        new={
            "SELECT id, digits FROM buyers": [(1, "9"), (2, "45")],
            "SELECT id, digits FROM sellers": [(1, "123"), (2, "67")],
        },
        reversed={
            "SELECT id, phone FROM buyers": [(1, "9"), (2, "45")],
            "SELECT id, phone FROM sellers": [(1, "123"), (2, "67")],
        },
        # The harness's rows and clients are those of one schema; the direct road's setup is in both.
        outcomes=("complete", "rollback", "reverse"),
    ),
]


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*PATTERNS), ids=outcome_id)
def test_pattern(database, tmp_path, case, outcome):
    OUTCOMES[outcome](case, database, tmp_path)


SEARCH = """
    CREATE TABLE docs (id integer PRIMARY KEY, title text NOT NULL, body text,
        search tsvector GENERATED ALWAYS AS (to_tsvector('simple', title || ' ' || coalesce(body, ''))) STORED);
    CREATE INDEX docs_search ON docs USING gin (search);
    INSERT INTO docs (id, title, body) VALUES (1, 'Alpha', 'one'), (2, 'Beta', NULL);
"""


BODY = """op.zd_alter_column("docs", "body", nullable=False, up="coalesce(body, 'empty')", down="body")"""


def test_generated_search_vector__over_the_column_that_changes__refused_with_what_to_do(database, tmp_path):
    flight = Flight(Case("search", SEARCH, BODY, "pass"), database, tmp_path / "project")
    refused = flight.project.run_in_process("upgrade", AFTER, check=False)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    said = " ".join((refused.stdout + refused.stderr).split())
    assert "[ZD204]" in said
    assert "generated column 'search' is computed from 'body': drop it first in the same revision" in said
    assert flight.dump() == flight.original


@pytest.mark.parametrize("outcome", ["complete", "rollback"])
def test_generated_search_vector__replaced_by_an_ordinary_one__as_the_refusal_says(database, tmp_path, outcome):
    """Each version has a vector over its own column; what old clients write is found through the new one's."""
    vector = "to_tsvector('simple', title || ' ' || body)"
    found = "SELECT id FROM docs WHERE search @@ 'uno' OR search @@ 'four' OR search @@ 'empty'"
    case = Case(
        "search",
        SEARCH,
        f"""
        op.zd_drop_column("docs", "search")
        {BODY}
        op.zd_add_column("docs", sa.Column("search", postgresql.TSVECTOR), up="{vector}")
        """,
        """
        op.drop_column("docs", "search")
        op.execute("UPDATE docs SET body = 'empty' WHERE body IS NULL")
        op.alter_column("docs", "body", nullable=False)
        op.add_column("docs", sa.Column("search", postgresql.TSVECTOR))
        """,
        writes=[
            old("INSERT INTO docs (id, title) VALUES (3, 'Gamma')"),
            new("INSERT INTO docs (id, title, body, search) VALUES (4, 'Delta', 'four', 'four')"),
            old("UPDATE docs SET body = 'uno' WHERE id = 1"),
        ],
        old={found: [(1,), (4,)]},
        new={found: [(1,), (2,), (3,), (4,)]},
    )
    OUTCOMES[outcome](case, database, tmp_path)


ARGUMENTS_ENV = """
import alembic_zero
import sqlalchemy as sa
from alembic import context, op as alembic_op

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
with engine.connect() as connection:
    alembic_zero.configure(context, connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations(op=alembic_op, tables={"users": "t"}, tester=None)
"""
ARGUMENTS_REVISION = """
revision = "r2"
down_revision = "r1"

import sqlalchemy as sa


def upgrade(op, tables, tester):
    op.zd_add_column(tables["users"], sa.Column("b", sa.Integer), up="a + 1")
    op.execute("COMMENT ON TABLE t IS 'two'")


def downgrade(op, tables, **kwargs):
    op.execute("COMMENT ON TABLE t IS NULL")
    op.zd_drop_column(tables["users"], "b")
"""


def test_migration_functions_with_arguments__every_command_passes_them(database, tmp_path):
    """env.py gives run_migrations() keyword arguments, which each upgrade() and downgrade() takes."""
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, a integer); INSERT INTO t VALUES (1, 10)")
    database.execute(
        f"DO $$ BEGIN CREATE ROLE {APP} LOGIN; EXCEPTION WHEN unique_violation OR duplicate_object THEN NULL; END $$;"
        f"GRANT SELECT ON t TO {APP}"
    )
    project = AlembicProject(tmp_path / "project", database.url)
    (project.migrations / "env.py").write_text(ARGUMENTS_ENV)
    first = project.revision("r1")
    first.write_text(first.read_text().replace("def upgrade()", "def upgrade(op, tables, tester)"))
    (project.versions / "r2.py").write_text(ARGUMENTS_REVISION)
    project.run_in_process("stamp", "r1")
    project.run_in_process("zd-init")
    assert "op.zd_add_column('t'" in project.run_in_process("zd-plan").stdout
    project.run_in_process("upgrade", "head")
    with Session(database, "r2") as client:
        check_rows(client, {"SELECT id, a, b FROM t": [(1, 10, 11)]}, "the new version")
    project.run_in_process("downgrade", "r1")
    assert database.fetch("SELECT obj_description('t'::regclass)") == [(None,)]
    project.run_in_process("upgrade", "head")
    project.run_in_process("zd-complete")
    project.run_in_process("downgrade", "r1")
    project.run_in_process("zd-complete")
    assert database.fetch("SELECT * FROM t") == [(1, 10)]
    assert_nothing_left(database)
