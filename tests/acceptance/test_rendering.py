"""Operations as text, on a real server: plans, the journal, errors, and reversed migrations."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from alembic_zero.operations.columns import ZdAddColumnOp, ZdAlterColumnOp
from alembic_zero.operations.dispatch import OPERATION_CLASSES
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.reading import read_operations
from alembic_zero.operations.tables import ZdCreateTableOp, ZdRenameTableOp
from tests.support.harness import AFTER, BEFORE, Case, Flight, assert_nothing_left, assert_same

pytestmark = pytest.mark.one_server

SETUP = """
    CREATE TABLE orgs (id integer PRIMARY KEY);
    CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL, age integer DEFAULT 1, note text);
    CREATE TABLE empty (id integer);
    CREATE INDEX users_note ON users (note);
    ALTER TABLE users ADD CONSTRAINT named CHECK (length(note) < 200);
    COMMENT ON COLUMN users.age IS 'years';
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TYPE unused AS ENUM ('a');
    CREATE TABLE feelings (mood mood);
    INSERT INTO orgs VALUES (1), (2);
    INSERT INTO users VALUES (1, 'Ada', 36, NULL), (2, 'Alan', NULL, 'x');
"""

# By directive: a call, what zd-plan must say about it, and the lines below it.
PLANS = {
    "zd_add_column": (
        "op.zd_add_column('users', sa.Column('upper', sa.Text(), nullable=True), up='upper(name)')",
        [
            "expand public.users: ACCESS EXCLUSIVE, metadata only",
            "backfill public.users: ROW EXCLUSIVE, scans and updates every row",
            "check public.users: ACCESS SHARE, scans",
            "zd-complete: ACCESS EXCLUSIVE, metadata only",
        ],
    ),
    "zd_alter_column": (
        "op.zd_alter_column('users', 'age', type_=sa.Text(), up='age::text', down='age::integer')",
        ["expand public.users: ACCESS EXCLUSIVE, metadata only", "backfill public.users: ROW EXCLUSIVE"],
    ),
    "zd_drop_column": ("op.zd_drop_column('users', 'note')", ["zd-complete: ACCESS EXCLUSIVE, metadata only"]),
    "zd_create_table": (
        "op.zd_create_table('n', sa.Column('id', sa.Integer(), primary_key=True))",
        ["CREATE TABLE n ( id SERIAL NOT NULL, PRIMARY KEY (id) ): locks as the statement takes, metadata only"],
    ),
    "zd_rename_table": ("op.zd_rename_table('users', 'people')", ["zd-complete: ACCESS EXCLUSIVE, metadata only"]),
    "zd_drop_table": ("op.zd_drop_table('users')", ["zd-complete: ACCESS EXCLUSIVE, metadata only"]),
    "zd_create_enum": (
        "op.zd_create_enum('state', 'on', 'off')",
        ["type public.state: ACCESS SHARE, metadata only"],
    ),
    "zd_alter_enum": (
        "op.zd_alter_enum('mood', ['ok', 'bad'], up={'sad': 'bad'})",
        [
            "schema zd_r2: ACCESS SHARE, metadata only",
            "type zd_r2.mood: ACCESS SHARE, metadata only",
            "expand public.feelings: ACCESS EXCLUSIVE, metadata only",
            "backfill public.feelings: ROW EXCLUSIVE, scans and updates every row",
            "zd-complete: ACCESS EXCLUSIVE, metadata only",
        ],
    ),
    "zd_drop_enum": ("op.zd_drop_enum('unused')", ["zd-complete: no lock on a table, metadata only"]),
    "zd_execute": (
        "op.zd_execute(expand='SELECT 1', contract='SELECT 2')",
        ["expand SQL of r2: ", "zd-complete: locks as the statements take, cost unknown"],
    ),
    "zd_create_index": (
        "op.zd_create_index('ix', 'users', ['name'])",
        ["index ix on public.users: SHARE UPDATE EXCLUSIVE, scans twice"],
    ),
    "zd_drop_index": (
        "op.zd_drop_index('users_note', table_name='users')",
        ["zd-complete: ACCESS EXCLUSIVE, metadata only"],
    ),
    "zd_create_foreign_key": (
        "op.zd_create_foreign_key('fk', 'users', 'orgs', ['id'], ['id'])",
        [
            "foreign keys of public.users: SHARE ROW EXCLUSIVE, metadata only",
            "validate public.users: SHARE UPDATE EXCLUSIVE, scans",
        ],
    ),
    "zd_create_check_constraint": (
        "op.zd_create_check_constraint('ck', 'users', 'age > 0')",
        [
            "expand public.users: ACCESS EXCLUSIVE, metadata only",
            "validate public.users: SHARE UPDATE EXCLUSIVE, scans",
        ],
    ),
    "zd_create_unique_constraint": (
        "op.zd_create_unique_constraint('uq', 'users', ['name'])",
        ["index uq on public.users: SHARE UPDATE EXCLUSIVE, scans twice"],
    ),
    "zd_create_exclude_constraint": (
        "op.zd_create_exclude_constraint('ex', 'empty', ('id', '='), using='btree')",
        [
            "exclusion constraint ex on public.empty: ACCESS EXCLUSIVE, of an empty table",
            "zd-complete: ACCESS EXCLUSIVE, metadata only",
        ],
    ),
    "zd_create_primary_key": (
        "op.zd_create_primary_key('pk', 'empty', ['id'])",
        ["index pk on public.empty: SHARE UPDATE EXCLUSIVE, scans twice"],
    ),
    "zd_drop_constraint": (
        "op.zd_drop_constraint('named', 'users')",
        ["zd-complete: ACCESS EXCLUSIVE, metadata only"],
    ),
    "zd_rename_constraint": (
        "op.zd_rename_constraint('named', 'users', 'other')",
        ["zd-complete: ACCESS EXCLUSIVE, metadata only"],
    ),
}


def flight_of(database, tmp_path, upgrade, downgrade="pass"):
    return Flight(Case("rendering", SETUP, upgrade, "pass", downgrade), database, tmp_path / "project")


@pytest.mark.parametrize("directive", [c.directive for c in OPERATION_CLASSES])
def test_zd_plan__each_operation__call_steps_and_locks(database, tmp_path, directive):
    assert directive in PLANS, f"say what zd-plan must show for {directive}"
    call, expected = PLANS[directive]
    flight = flight_of(database, tmp_path, call)
    shown = [line for line in flight.run("zd-plan").stdout.splitlines() if not line.startswith("-- note ")]
    assert shown[:2] == [f"-- upgrade to {AFTER}", f"-- revision {AFTER!r}, {call}"]
    below = shown[2 : shown.index("")]
    assert all(line.startswith("--   ") for line in below)
    for words in expected:
        assert any(line.startswith(f"--   {words}") for line in below), (words, below)
    assert_same(flight.dump(), flight.original, "zd-plan changed something")


def test_zd_plan__several_operations__each_with_its_own_steps(database, tmp_path):
    flight = flight_of(
        database,
        tmp_path,
        """
        op.zd_add_column('users', sa.Column('upper', sa.Text), up='upper(name)')
        op.zd_execute(expand='SELECT 1')
        op.zd_drop_column('users', 'note')
        op.zd_rename_table('orgs', 'firms')
        """,
    )
    shown = [line for line in flight.run("zd-plan").stdout.split("\n\n")[0].splitlines() if "revision 'r2'" in line]
    assert [line.partition("op.")[2].partition("(")[0] for line in shown] == [
        "zd_add_column",
        "zd_execute",
        "zd_drop_column",
        "zd_rename_table",
    ]


def test_zd_status__in_flight__lists_the_calls_which_can_be_read_back(database, tmp_path):
    upgrade = """
        op.zd_create_table('n', sa.Column('id', sa.Integer(), primary_key=True), comment='it''s %')
        op.execute("COMMENT ON TABLE orgs IS 'é'")
        op.add_column('orgs', sa.Column('a', sa.Text()))
        op.zd_alter_column('users', 'age', type_=sa.Text(), up="age::text || ''", down='age::integer')
    """
    flight = flight_of(database, tmp_path, upgrade.replace("''s", "\\'s"))
    flight.run("upgrade", AFTER)
    current, version = json.loads(flight.run("zd-status", "--json").stdout)["versions"]
    assert current["operations"] == []
    assert {stored["revision"] for stored in version["operations"]} == {AFTER}
    calls = [stored["call"] for stored in version["operations"]]
    assert calls == [
        "op.zd_create_table('n', sa.Column('id', sa.Integer(), primary_key=True), comment=\"it's %\")",
        "op.execute(\"COMMENT ON TABLE orgs IS 'é'\")",
        "op.zd_add_column('orgs', sa.Column('a', sa.Text(), nullable=True))",
        "op.zd_alter_column('users', 'age', type_=sa.Text(), up=\"age::text || ''\", down='age::integer')",
    ]
    assert len(read_operations("\n".join(calls))) == 4
    flight.run("zd-complete")
    (last,) = json.loads(flight.run("zd-status", "--json").stdout)["versions"]
    assert last["operations"] == []


def test_upgrade__revision_edited_half_way__says_what_was_edited(database, tmp_path):
    good = "op.zd_alter_column('users', 'age', nullable=False, up='coalesce(age, 0)')"
    bad = good.replace("coalesce(age, 0)", "age")
    flight = flight_of(database, tmp_path, f"{bad}\nop.zd_drop_column('users', 'note')")
    # Nobody has looked at rows before, and the backfill finds one that does not fit: the expansion stays half-way.
    flight.project.write_env(extra={"zd_sample_rows": 0})
    assert flight.project.run_in_process("upgrade", AFTER, check=False).returncode != 0
    flight.project.revision(AFTER, BEFORE, good)
    refused = flight.project.run_in_process("upgrade", AFTER, check=False)
    assert refused.returncode == 2
    said = " ".join(f"{refused.stdout} {refused.stderr}".split())
    assert "[ZD255] revision 'r2' has been edited since its expansion began: " in said
    assert "was op.zd_alter_column('users', 'age', nullable=False, up='age'), is now " in said
    assert "up='coalesce(age, 0)'); no longer op.zd_drop_column('users', 'note'); nothing was changed" in said
    flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), flight.original, "rollback of the half-way expansion")


REVERSIBLE = {
    "add_column": [
        ZdAddColumnOp(
            "users",
            sa.Column("org_id", sa.Integer, sa.ForeignKey("orgs.id"), unique=True, comment="it's", nullable=False),
            up="id",
        )
    ],
    "alter_column": [
        ZdAlterColumnOp(
            "users",
            "age",
            new_column_name="years",
            type_=sa.Text(),
            existing_type=sa.Integer(),
            nullable=False,
            existing_nullable=True,
            server_default="one",
            existing_server_default=sa.text("1"),
            comment=None,
            existing_comment="years",
            up="coalesce(age::text, 'none')",
            down="nullif(regexp_replace(years, '\\D', '', 'g'), '')::integer",
        )
    ],
    "create_table": [
        ZdCreateTableOp(
            "n",
            [
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("org_id", sa.Integer, sa.ForeignKey("orgs.id"), index=True),
                sa.Column("code", sa.String(5), sa.CheckConstraint("code <> '%'"), unique=True),
            ],
            comment="é",
        )
    ],
    "rename_table": [ZdRenameTableOp("users", "people")],
    "execute": [ZdExecuteOp(expand="CREATE SEQUENCE IF NOT EXISTS s", rollback="DROP SEQUENCE IF EXISTS s")],
    "chain": [
        ZdAddColumnOp("users", sa.Column("first", sa.Text), up="lower(name)"),
        ZdAddColumnOp("users", sa.Column("name", sa.Text, nullable=False), up="upper(first)").reverse(),
        ZdRenameTableOp("users", "people"),
    ],
}


@pytest.mark.parametrize("name", REVERSIBLE)
def test_reverse__rendered_into_revisions__leads_back(database, tmp_path, name):
    """Upgrade with the operations, complete, upgrade with their reverses, complete: the catalog is what it was."""
    forwards = REVERSIBLE[name]
    backwards = [operation.reverse() for operation in reversed(forwards)]
    flight = flight_of(database, tmp_path, "\n".join(operation.render() for operation in forwards))
    flight.run("upgrade", AFTER)
    flight.run("zd-complete")
    assert flight.dump() != flight.original
    flight.project.revision("r3", AFTER, "\n".join(operation.render() for operation in backwards))
    flight.run("upgrade", "r3")
    flight.run("zd-complete")
    assert_same(flight.dump(), flight.original, "reversed")
    assert_nothing_left(database)
