"""Locks: taken up front and together, never for longer than a moment, never over a scan; who holds them is named."""

from __future__ import annotations

import importlib
import os
import re
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from alembic_zero.execute.blockers import Blocker, advise, describe_blockers
from alembic_zero.execute.locks import in_lock_order
from alembic_zero.plan.step import Lock, LockMode, Plan
from tests.acceptance.test_everything_at_once import EVERYTHING
from tests.acceptance.test_redteam import busy_autovacuum
from tests.support.harness import AFTER, APP, BEFORE, Case, Flight
from tests.support.lock_audit import audited
from tests.support.threads import in_threads

pytestmark = pytest.mark.one_server

# The full size: see "make locks".
SLOW = "ALEMBIC_ZERO_LOCKS" in os.environ

PEOPLE = """
    CREATE TABLE teams (id integer PRIMARY KEY, title text);
    CREATE TABLE people (id integer PRIMARY KEY, name text, team_id integer REFERENCES teams);
    INSERT INTO teams SELECT i, 'team ' || i FROM generate_series(1, 20) AS i;
    INSERT INTO people SELECT i, 'First Last' || i, i FROM generate_series(1, 20) AS i;
"""
SPLIT = """
op.zd_add_column("people", sa.Column("first", sa.Text), up="split_part(name, ' ', 1)")
op.zd_drop_column("people", "name", down="first")
"""


def fly(database, tmp_path, upgrade, *, setup=PEOPLE, budget_s=120.0, downgrade=""):
    """A project at r1, adopted, with the revision r2."""
    flight = Flight(Case("locks", setup, upgrade, "pass", downgrade), database, tmp_path / "project")
    flight.project.write_env(extra={"zd_lock_budget_s": budget_s})
    return flight


def run(flight, *arguments):
    """Run a command that fails with exit code 1; return all that it says."""
    failed = flight.project.run(*arguments, check=False)
    assert failed.returncode == 1, failed
    return failed.stdout + failed.stderr


# -- E2, and the ladder: all locks up front, no scan under them --------------------------------------


_MODULES = (
    "across", "across_patterns", "across_semantics", "constraints", "enums", "everything_at_once", "indexes", "keys",
    "operations", "patterns", "scenarios",
)  # fmt: skip

# One of every family; ALEMBIC_ZERO_LOCKS audits all cases of all suites.
_CHOSEN = ("everything_at_once", "S01_one_to_many_to_many_to_many", "create_rename_and_remove_tables")


def _cases():
    def walk(value):
        if isinstance(value, Case):
            yield value
        elif isinstance(value, list | tuple):
            for one in value:
                yield from walk(one)

    modules = [importlib.import_module(f"tests.acceptance.test_{name}") for name in _MODULES]
    found = {case.name: case for module in modules for value in vars(module).values() for case in walk(value)}
    return [found[name] for name in (sorted(found) if SLOW else _CHOSEN)]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)
def test_every_transaction__locks_up_front_and_scans_nothing_under_them(case, database, tmp_path):
    """Seen by our own sessions at their commit: what they hold, since when, and how many rows they have read."""
    # A look-up by key in a table of three rows would be a scan of it.
    database.execute(f"ALTER DATABASE {database.name} SET enable_seqscan = off")
    with audited(database) as audit:
        flight = Flight(case, database, tmp_path / "project")
        flight.run("upgrade", AFTER)
        check_plans(database)
        if "rollback" in case.outcomes:
            flight.run("downgrade", BEFORE)
            check_plans(database)
            flight.run("upgrade", AFTER)
        if "complete" in case.outcomes:
            flight.run("zd-complete")
            check_plans(database)
            if SLOW and case.downgrade and "reverse" in case.outcomes:
                flight.run("downgrade", BEFORE)
                flight.run("zd-complete")
    problems = audit.problems()
    assert audit.transactions, "nothing was seen"
    assert problems == [], "\n".join(problems)


_SCANS = re.compile(
    r"VALIDATE CONSTRAINT|^\s*(CREATE (UNIQUE )?INDEX(?! CONCURRENTLY)|UPDATE|DELETE|CLUSTER|REINDEX|VACUUM)\b"
    r"|ADD CONSTRAINT (?!.*(NOT VALID|USING INDEX|NOT NULL NOT VALID)).*(CHECK|FOREIGN KEY|UNIQUE|PRIMARY)"
    r"|\bTYPE\b.*\bUSING\b",
    re.DOTALL,
)


def check_plans(database):
    """No step with a strong lock has a statement that scans; what is set NOT NULL has a CHECK validated before."""
    plans = database.fetch("SELECT expand::text, finish::text FROM alembic_zero.migration")
    for plan in [Plan.from_json(text) for row in plans for text in row if text]:
        validated = set()
        for step in plan.steps:
            strong = any(lock.mode in (LockMode.SHARE_ROW_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE) for lock in step.locks)
            for statement in step.statements:
                validated |= set(re.findall(r"VALIDATE CONSTRAINT (\S+)", statement))
                # Tombstones stand on empty tables of ours.
                scans = _SCANS.search(statement) and ' ON "alembic_zero"."tomb_' not in statement
                assert not (strong and scans), f"{step.name}: {statement}"
                if strong and "SET NOT NULL" in statement and "_zd_" in "".join(step.statements):
                    dropped = set(re.findall(r"DROP CONSTRAINT (?:IF EXISTS )?(\S+)", "\n".join(step.statements)))
                    assert dropped & validated or "_zd_numbers" in statement, f"{step.name}: {statement}"


KEYS = """
op.zd_alter_column("teams", "id", type_=sa.BigInteger)
op.zd_alter_column("people", "team_id", type_=sa.BigInteger)
"""
DROP_KEY = 'op.zd_drop_constraint("people_team_id_fkey", "people", type_="foreignkey")'
ADD_KEY = 'op.zd_create_foreign_key("fk_boss", "people", "people2", ["team_id"], ["id"])'


@pytest.mark.parametrize("upgrade", [KEYS, DROP_KEY, ADD_KEY], ids=["keys", "drop", "add"])
def test_e02_foreign_keys__both_tables_up_front_in_one_order_never_stronger_later(upgrade, database, tmp_path):
    """REDTEAM E2: what locks two tables takes both first, views before them, each with its final mode."""
    setup = PEOPLE + "CREATE TABLE people2 (id integer PRIMARY KEY); INSERT INTO people2 SELECT generate_series(1, 20);"
    with audited(database) as audit:
        flight = fly(database, tmp_path, upgrade, setup=setup)
        flight.run("upgrade", AFTER)
        flight.run("downgrade", BEFORE)
        flight.run("upgrade", AFTER)
        flight.run("zd-complete")
    problems = audit.problems()
    assert problems == [], "\n".join(problems)
    tables = {"teams", "people", "people2"}
    both = [one for one in audit.transactions if len(tables & {held.name for held in one.end.values()}) == 2]
    assert both, "no transaction locked two tables"
    for one in both:
        strong = [text for text in one.statements if text.startswith("DO ") and "LOCK TABLE" in text]
        assert len(strong) <= 1, one.statements


def test_e02_step_fails_at_its_second_table__retried_whole(database, tmp_path):
    """The first table's lock is given up with the second one's, so clients of the first do not stand in line."""
    flight = fly(database, tmp_path, DROP_KEY)
    flight.run("upgrade", AFTER)
    with holding(flight, "SELECT FROM public.teams", until="waiting for locks"), flight.client(AFTER) as client:
        client.connection.execute("SET lock_timeout = '5s'")
        process = flight.project.start("zd-complete")
        wait_for_line(process, "waiting for locks")
        for _ in range(20):
            client.fetch("SELECT count(*) FROM people")
            time.sleep(0.02)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0, stderr


def test_lock_order__by_name_however_quoted_with_the_strongest_mode():
    locks = [
        Lock('"b"."t"', LockMode.SHARE_ROW_EXCLUSIVE),
        Lock("a.z", LockMode.ACCESS_EXCLUSIVE),
        Lock('"a"."y"', LockMode.SHARE_ROW_EXCLUSIVE),
        Lock('"b"."t"', LockMode.ACCESS_EXCLUSIVE),
        Lock("v", LockMode.ACCESS_EXCLUSIVE, view=True),
    ]
    assert in_lock_order(locks) == [
        ('"a"."y"', "SHARE ROW EXCLUSIVE"), ("a.z", "ACCESS EXCLUSIVE"), ('"b"."t"', "ACCESS EXCLUSIVE"),
    ]  # fmt: skip


# -- nobody waits -------------------------------------------------------------------------------------


def wait_for_line(process, text, timeout_s=60):
    """Read a command's standard error until a line has *text*; return it."""
    deadline = time.monotonic() + timeout_s
    seen = []
    while time.monotonic() < deadline:
        line = process.stderr.readline()
        if not line:
            break
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"no line with {text!r} in:\n{''.join(seen)}")


@contextmanager
def holding(flight, *statements, user="postgres", until=""):
    """Hold what the statements lock, in an open transaction, until the block ends."""
    with flight.database.connect(user=user, autocommit=False) as connection:
        connection.execute("SET application_name = 'the holder'")
        for statement in statements:
            connection.execute(statement.encode())
        yield connection
        connection.rollback()


class LockWaits:
    """Samples how long, as the server sees it, sessions of the application's role wait for locks."""

    _WAITS = f"""
        SELECT max(extract(epoch FROM clock_timestamp() - l.waitstart))::float8
          FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE NOT l.granted AND a.usename = '{APP}' AND a.datname = current_database()
    """

    def __init__(self, database):
        self._database = database
        self.longest = 0.0

    def __call__(self, stop):
        with self._database.connect() as connection:
            while not stop.wait(0.003):
                (waited,) = connection.execute(self._WAITS).fetchone()
                self.longest = max(self.longest, waited or 0.0)


HOLD_S = 10.0 if SLOW else 6.0
# The server itself ends a client's statement that waits for longer, and the test fails. Without a lock_timeout
# of ours a client would wait until the holder ends.
LIMIT_S = HOLD_S - 1

TEAM = """
op.zd_add_column("people", sa.Column("team", sa.Text),
    up=alembic_zero.from_table("teams", "teams.title", where="teams.id = people.team_id"))
"""
_ITEMS = '"Order Items"'
_PEOPLE, _TEAMS = ("people", "team_id"), ("teams", "title")
# By name: set-up, upgrade, and by version the tables and columns that its clients write to.
SCENARIOS = {
    "columns": (PEOPLE, SPLIT, [_PEOPLE], [_PEOPLE]),
    "swap": (PEOPLE, 'op.zd_alter_column("people", "name", type_=sa.String(50))', [_PEOPLE], [("people", "name")]),
    "foreign key": (PEOPLE, DROP_KEY, [_PEOPLE, _TEAMS], [_PEOPLE, _TEAMS]),
    "keys": (PEOPLE, KEYS, [_PEOPLE, _TEAMS], [_PEOPLE, _TEAMS]),
    "enums": (
        """
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TABLE people (id integer PRIMARY KEY, mood mood);
        INSERT INTO people SELECT i, 'ok' FROM generate_series(1, 20) i;
        """,
        'op.zd_alter_enum("mood", ["ok", "blue"], up={"sad": "blue"})',
        [("people", "mood")],
        [("people", "mood")],
    ),
    "across": (
        PEOPLE,
        TEAM,
        [_PEOPLE, _TEAMS],
        [_PEOPLE, _TEAMS],
    ),
    "everything": (
        EVERYTHING.setup,
        EVERYTHING.upgrade,
        [("customers", "email"), (_ITEMS, "qty")],
        [("clients", "email"), (_ITEMS, "qty")],
    ),
}
HOLDERS = {
    "reader": "SELECT FROM public.{0}",
    "row lock": "SELECT FROM public.{0} WHERE id = 3 FOR UPDATE",
    "writer": "UPDATE public.{0} SET {1} = {1} WHERE id = 3",
}
COMMANDS = [("upgrade", AFTER), ("downgrade", BEFORE), ("upgrade", AFTER), ("zd-complete",)]


def _held():
    """Every kind of holder for each kind of change at full size, else the one change that has all."""
    if SLOW:
        return [(name, holder) for name in SCENARIOS for holder in HOLDERS]
    return [("everything", "reader")]


@pytest.mark.parametrize(("name", "holder"), _held())
def test_long_transaction_on_the_tables__no_client_waits(name, holder, database, tmp_path):
    """While somebody holds the tables, and we wait for them, clients go on."""
    setup, upgrade, old, new = SCENARIOS[name]
    flight = fly(database, tmp_path, upgrade, setup=setup)
    waits, counted = LockWaits(database), []

    def client(revision, table, column):
        def work(stop):
            with flight.client(revision) as session:
                session.connection.execute(f"SET lock_timeout = '{LIMIT_S}s'")
                while not stop.is_set():
                    session.fetch(f"SELECT count(*) FROM {table}")
                    session.connection.execute(f"UPDATE {table} SET {column} = {column} WHERE id = 1".encode())
                    counted.append(1)
                    time.sleep(0.01)

        return work

    for command in COMMANDS if SLOW else (COMMANDS[0], COMMANDS[-1]):
        done = command == COMMANDS[-1]
        clients = [client(AFTER if done else BEFORE, *target) for target in (new if done else old)]
        before = len(counted)
        with ExitStack() as stack, in_threads(waits, *clients):
            for target in old:
                stack.enter_context(holding(flight, HOLDERS[holder].format(*target)))
            process = flight.project.start(*command)
            wait_for_line(process, "waiting for")
            time.sleep(HOLD_S)
            stack.close()
            stderr = process.communicate(timeout=240)[1]
            assert process.returncode == 0, stderr
        assert len(counted) > before + 10
    print(f"{name}, {holder}: {2 * len(counted)} statements, longest lock wait {waits.longest:.3f} s")
    assert waits.longest < LIMIT_S


# -- who it is ------------------------------------------------------------------------------------------


def test_budget_is_over__error_names_the_blocker_and_what_to_do(database, tmp_path):
    flight = fly(database, tmp_path, SPLIT, budget_s=1)
    with holding(flight, "SELECT FROM public.people") as holder:
        pid = holder.info.backend_pid
        failed = run(flight, "upgrade", AFTER)
    for text in (
        "[ZD310]",
        f"pid {pid}",
        "'the holder'",
        "idle in transaction, transaction open for",
        "SELECT FROM public.people",
        f"SELECT pg_terminate_backend({pid})",
        "changed nothing",
    ):
        assert text in failed, failed
    flight.run("upgrade", AFTER)


def test_blocked_in_a_recorded_step__error_names_revision_and_next_command(database, tmp_path):
    flight = fly(database, tmp_path, SPLIT, budget_s=1)
    flight.run("upgrade", AFTER)
    with holding(flight, "SELECT FROM public.people"):
        failed = run(flight, "zd-complete")
    assert "revision 'r2', step 'contract public.people'" in failed, failed
    assert "next: alembic zd-complete r2" in failed
    flight.run("zd-complete")


def test_prepared_transaction_holds_the_table__named_with_what_ends_it(database, tmp_path):
    """It has no process: pg_stat_activity does not know it."""
    flight = fly(database, tmp_path, SPLIT, budget_s=1)
    with database.connect(autocommit=False) as connection:
        connection.execute("UPDATE people SET name = name WHERE id = 3")
        connection.execute("PREPARE TRANSACTION 'it''s two-phase'")
    try:
        failed = run(flight, "upgrade", AFTER)
        assert 'prepared transaction "it\'s two-phase" of postgres, prepared for' in failed, failed
        assert "ROLLBACK PREPARED 'it''s two-phase'" in failed
    finally:
        database.execute("ROLLBACK PREPARED 'it''s two-phase'")
    flight.run("upgrade", AFTER)


def test_vacuum_against_wraparound__named_as_what_gives_way_to_nobody():
    vacuum = Blocker(7, None, None, "", None, "autovacuum worker", "active",
                     "autovacuum: VACUUM public.people (to prevent wraparound)", 60, "public.people")  # fmt: skip
    assert not vacuum.yields
    assert "to prevent wraparound" in describe_blockers([vacuum])
    assert "gives way to nobody" in advise([vacuum])
    assert replace(vacuum, query="autovacuum: VACUUM public.people").yields


def test_concurrent_build_waits_for_an_open_transaction__reported_while_it_waits(database, tmp_path):
    """CREATE INDEX CONCURRENTLY has no timeout, and no client behind it: a person must learn why nothing happens."""
    flight = fly(database, tmp_path, 'op.zd_create_index("ix", "people", ["name"])')
    with holding(flight, "UPDATE public.people SET name = name WHERE id = 3"):
        process = flight.project.start("upgrade", AFTER)
        line = wait_for_line(process, "'the holder'")
        assert "index ix on public.people" in line
        assert "pg_terminate_backend" in line
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0, stderr


# -- users' own statements ------------------------------------------------------------------------------

# Each locks the table like a careless migration does.
OWN = {
    "op.execute": 'op.execute("ALTER TABLE people ALTER COLUMN name SET STATISTICS 50; LOCK TABLE people")',
    "zd_execute": 'op.zd_execute(expand="LOCK TABLE people", rollback="SELECT 1")',
    "autocommit": """
with op.get_context().autocommit_block():
    op.execute("ALTER TABLE people SET (autovacuum_enabled = on, fillfactor = 90); LOCK TABLE people")
""",
}


@pytest.mark.parametrize("kind", OWN)
def test_users_own_statement_blocked__clients_pass_it_is_retried(kind, database, tmp_path):
    """It waits by short tries, like ours; the holder gone, it gets through."""
    flight = fly(database, tmp_path, OWN[kind] + '\nop.zd_create_check_constraint("c", "people", "id > 0")')
    with holding(flight, "SELECT FROM public.people"), flight.client(BEFORE) as client:
        client.connection.execute("SET lock_timeout = '5s'")
        process = flight.project.start("upgrade", AFTER)
        assert "'the holder'" in wait_for_line(process, "waiting for locks")
        for _ in range(20):
            client.fetch("SELECT count(*) FROM people")
            time.sleep(0.02)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0, stderr


def test_users_own_statement_behind_autovacuum__makes_it_yield(database, tmp_path):
    """A short timeout alone never gets past autovacuum, and what the statement locks nobody knows beforehand."""
    setup = PEOPLE + "INSERT INTO people SELECT i, repeat('A B', 300), 1 FROM generate_series(30, 4000) i;"
    flight = fly(database, tmp_path, OWN["op.execute"], setup=setup, budget_s=40)
    with busy_autovacuum(database, "people"):
        flight.run("upgrade", AFTER)


def test_timeouts_of_role_and_database__do_not_reach_our_steps(database, tmp_path):
    """Neither CREATE INDEX CONCURRENTLY nor a step is ended by them."""
    flight = fly(database, tmp_path, 'op.zd_create_index("ix", "people", ["name"])\n' + KEYS)
    database.execute(f"ALTER DATABASE {database.name} SET lock_timeout = '200ms'")
    database.execute(f"ALTER DATABASE {database.name} SET statement_timeout = '2s'")
    with holding(flight, "UPDATE public.people SET name = name WHERE id = 3"):
        process = flight.project.start("upgrade", AFTER)
        wait_for_line(process, "'the holder'")
        time.sleep(2)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0, stderr


def test_timeouts_of_env_py__are_back_after_publishing(database, tmp_path):
    """What env.py has set holds for what env.py does after us in the same transaction."""
    flight = fly(database, tmp_path, SPLIT)
    env = flight.project.migrations / "env.py"
    sets = "".join(
        f"        connection.execute(sa.text(\"SET {name} = '77s'\"))\n"
        for name in ("statement_timeout", "lock_timeout")
    )
    shows = """
        for name in ("statement_timeout", "lock_timeout"):
            print(name, connection.execute(sa.text(f"SHOW {name}")).scalar_one())
"""
    text = env.read_text().replace("        run_on(", f"{sets}        connection.commit()\n        run_on(")
    env.write_text(text.replace("        context.run_migrations()\n\n", f"        context.run_migrations(){shows}\n"))
    shown = flight.run("upgrade", AFTER).stdout
    assert "statement_timeout 77s" in shown
    assert "lock_timeout 77s" in shown
