"""One harness for every operation: expand, use both versions, complete or roll back or reverse, compare."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Self

import psycopg
import pytest

from alembic_zero import version_schema
from tests.support.project import AlembicProject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.support.server import Database

Client = Literal["old", "new"]
Rows = Sequence[tuple[Any, ...]]
Action = str | Callable[[psycopg.Connection[Any]], object]

APP = "zd_app"
BEFORE, AFTER = "r1", "r2"

# The clients' role: it has table grants on what there is and what will be, and nothing else.
_ROLE = f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP}') THEN
        CREATE ROLE {APP} LOGIN;
    END IF;
EXCEPTION WHEN unique_violation OR duplicate_object THEN
    NULL;
END $$;
"""
_DEFAULT_RIGHTS = f"""
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP};
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {APP};
"""

_LOAD = "op.get_bind().exec_driver_sql({sql!r}, execution_options={{'no_parameters': True}})"

# Every trace that a finished migration might leave: name, and where.
LEFTOVERS = """
SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger
 WHERE NOT tgisinternal
   AND tgfoid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'alembic_zero'::regnamespace)
   AND tgrelid NOT IN (SELECT oid FROM pg_class WHERE relnamespace = 'alembic_zero'::regnamespace)
UNION ALL
SELECT 'column ' || attname || ' of ' || attrelid::regclass
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE attname ~ '_?zd_' AND NOT attisdropped AND c.relnamespace <> 'alembic_zero'::regnamespace
UNION ALL
SELECT 'relation ' || oid::regclass FROM pg_class
 WHERE relname ~ 'zd_' AND relnamespace::regnamespace::text !~ '^(alembic_zero|zd_|pg_toast)'
UNION ALL
SELECT 'constraint ' || conname || ' of ' || conrelid::regclass FROM pg_constraint
 WHERE conname ~ 'zd_' AND connamespace <> 'alembic_zero'::regnamespace
UNION ALL
SELECT 'type ' || typname FROM pg_type t
 WHERE typname ~ 'zd_' AND typrelid = 0 AND typelem = 0 AND typnamespace <> 'alembic_zero'::regnamespace
UNION ALL
SELECT 'statistics ' || stxname FROM pg_statistic_ext WHERE stxname ~ 'zd_'
UNION ALL
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '_zd_'
UNION ALL
SELECT 'function ' || oid::regprocedure FROM pg_proc
 WHERE pronamespace = 'alembic_zero'::regnamespace AND proname !~ '^tomb'
UNION ALL
SELECT 'inner view ' || oid::regclass FROM pg_class
 WHERE relkind = 'v' AND relnamespace = 'alembic_zero'::regnamespace AND relname !~ '^tomb'
"""


@dataclass(frozen=True)
class Statement:
    """What one client does: *rows* is what it must get back, *error* the SQLSTATE that it must get."""

    client: Client
    action: Action
    rows: Rows | None = None
    error: str | None = None


def old(action: Action, rows: Rows | None = None, *, error: str | None = None) -> Statement:
    """Return a statement of a client of the version before."""
    return Statement("old", action, rows, error)


def new(action: Action, rows: Rows | None = None, *, error: str | None = None) -> Statement:
    """Return a statement of a client of the new version."""
    return Statement("new", action, rows, error)


@dataclass(frozen=True)
class Case:
    """A migration, what clients do while it is in flight, and what must be the outcome.

    :param setup: tables and rows that are there before.
    :param upgrade: body of the revision.
    :param plain: body of a revision that leads plain Alembic to the same catalog.
    :param downgrade: body of the inverse; empty if there is none.
    :param writes: what the clients do, in this order.
    :param old: queries of the old version, with the rows that they must give after the writes.
    :param new: the same for the new version.
    :param reversed: like *old*, after completion and the way back; None means *old*.
    :param faithful: whether *downgrade* leads back to the very same catalog.
    :param path: schemas that clients have on their search_path after their version schema.
    :param prelude: module-level source of the revision.
    :param schema: schema of the tables.
    :param metadata: source for env.py that sets ``target_metadata``.
    :param probes: whether ``SET c = c`` on every column may be tried through both versions.
    :param since: the first server version that has what *setup* asks for.
    :param outcomes: what to run; ``reverse`` only if there is a *downgrade*.
    """

    name: str
    setup: str
    upgrade: str
    plain: str
    downgrade: str = ""
    writes: Sequence[Statement] = ()
    old: Mapping[str, Rows] = field(default_factory=dict)
    new: Mapping[str, Rows] = field(default_factory=dict)
    reversed: Mapping[str, Rows] | None = None
    faithful: bool = True
    path: str = ""
    prelude: str = ""
    schema: str = "public"
    metadata: str = "target_metadata = None"
    probes: bool = True
    since: int = 14
    outcomes: tuple[str, ...] = ("complete", "rollback", "reverse", "direct")

    def __str__(self) -> str:
        return self.name


class Session:
    """One client's connection: it enters by its version schema, as role ``zd_app``."""

    def __init__(self, database: Database, revision: str, path: str = "", schema: str = "public") -> None:
        self.connection = database.connect(user=APP)
        tail = f", {path}" if path else ""
        self.connection.execute(f"SET search_path = {version_schema(revision, schema)}{tail}".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.connection.close()

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of *query*."""
        return self.connection.execute(query.encode()).fetchall()

    def run(self, statement: Statement) -> None:
        """Run one statement and check what comes back."""
        if statement.error is not None:
            self._run_failing(statement)
            return
        if not isinstance(statement.action, str):
            statement.action(self.connection)
            return
        try:
            cursor = self.connection.execute(statement.action.encode())
        except psycopg.Error as error:
            raise AssertionError(f"{statement.client} client: {statement.action}\n{error.sqlstate} {error}") from error
        if statement.rows is not None:
            found = cursor.fetchall()
            wanted = list(statement.rows)
            assert found == wanted, (
                f"{statement.client} client: {statement.action}\nexpected {wanted}\nfound    {found}"
            )

    def _run_failing(self, statement: Statement) -> None:
        try:
            with self.connection.transaction():
                if isinstance(statement.action, str):
                    self.connection.execute(statement.action.encode())
                else:
                    statement.action(self.connection)
        except psycopg.Error as error:
            assert error.sqlstate == statement.error, f"{statement.action}: {error.sqlstate} {error}"
            return
        raise AssertionError(f"{statement.client} client: {statement.action} did not raise {statement.error}")


class Flight:
    """A case on its way: a database at revision r1, adopted, with the case as revision r2."""

    def __init__(self, case: Case, database: Database, directory: Path, *, init: bool = True) -> None:
        if database.server.version < case.since:
            pytest.skip(f"what the case sets up came with PostgreSQL {case.since}")
        self.case = case
        self.database = database
        database.execute(_ROLE)
        database.execute(_DEFAULT_RIGHTS + case.setup)
        self.project = AlembicProject(directory, database.url, metadata=case.metadata)
        self.project.revision(BEFORE)
        self.project.revision(AFTER, BEFORE, case.upgrade, case.downgrade, prelude=case.prelude)
        self.project.run_in_process("stamp", BEFORE)
        self.original = self.dump()
        if init:
            self._adopt()

    def _adopt(self) -> None:
        self.project.run_in_process("zd-init")
        assert_same(self.dump(), self.original, "zd-init changed the tables")

    def dump(self) -> str:
        """Return the catalog in a form that can be compared."""
        return normalise_settings(self.database.normalised_dump(("public", self.case.schema)))

    def everything(self) -> str:
        """Return the whole database's catalog, machinery included."""
        lines = self.database.dump().splitlines()
        return "\n".join(line for line in lines if not re.match(r"\\(un)?restrict ", line))

    def run(self, *arguments: str) -> CompletedProcess[str]:
        """Run an alembic command that must succeed."""
        return self.project.run_in_process(*arguments)

    @contextmanager
    def clients(self, *, prepared: bool = False) -> Iterator[dict[Client, Session]]:
        """Yield a client of each version."""
        with self.client(BEFORE) as before, self.client(AFTER) as after:
            if prepared:
                before.connection.prepare_threshold = after.connection.prepare_threshold = 0
            yield {"old": before, "new": after}

    def client(self, revision: str) -> Session:
        """Return a new client of *revision*."""
        return Session(self.database, revision, self.case.path, self.case.schema)

    def write(self, clients: Mapping[Client, Session], *, transactions: bool) -> None:
        """Run the case's writes, each by itself or neighbours of one client in one transaction."""
        for name, group in groupby(self.case.writes, key=lambda statement: statement.client):
            client = clients[name]
            if not transactions:
                for statement in group:
                    client.run(statement)
                continue
            with client.connection.transaction():
                for statement in group:
                    client.run(statement)

    def check(self, clients: Mapping[Client, Session], when: str) -> None:
        """Check that each version sees the rows that it must see."""
        for name, client in clients.items():
            check_rows(client, self.case.old if name == "old" else self.case.new, f"{name} version {when}")

    def probe(self, clients: Mapping[Client, Session]) -> None:
        """Write every column's own value to it, through both versions: nothing may change."""
        if not self.case.probes:
            return
        for name, client in clients.items():
            for table, column in self._columns(BEFORE if name == "old" else AFTER):
                # Generated columns and GENERATED ALWAYS identities take no value.
                try:
                    client.connection.execute(f"UPDATE {table} SET {column} = {column}".encode())
                except psycopg.errors.GeneratedAlways:
                    continue
                self.check(clients, f"after the {name} client's UPDATE {table} SET {column} = {column}")
            for table in {table for table, _ in self._columns(BEFORE if name == "old" else AFTER)}:
                with client.connection.transaction():
                    client.connection.execute(f"SELECT * FROM {table} FOR UPDATE".encode())

    def _columns(self, revision: str) -> list[tuple[Any, ...]]:
        return self.database.fetch(
            "SELECT quote_ident(relname), quote_ident(attname)"
            " FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            f" WHERE relnamespace = '{self.view_schema(revision)}'::regnamespace AND attnum > 0"
            " AND relname <> 'alembic_version' ORDER BY relname, attnum"
        )

    def view_schema(self, revision: str) -> str:
        """Return the version schema of *revision* for the case's tables."""
        return version_schema(revision, self.case.schema)

    def contents(self, schema: str, *, without: str = "") -> dict[str, list[str]]:
        """Return every row of every table or view in *schema*, as text, columns in order of their names.

        :param without: a column to leave out.
        """
        tables: dict[str, list[str]] = {}
        for table, columns in self.database.fetch(
            "SELECT quote_ident(relname), string_agg(quote_ident(attname), ', ' ORDER BY attname)"
            " FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            f" WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'v', 'p') AND attnum > 0"
            f" AND NOT attisdropped AND attname <> '{without}'"
            " AND relname <> 'alembic_version' GROUP BY relname ORDER BY relname"
        ):
            rows = self.database.fetch(f"SELECT ROW({columns})::text FROM {schema}.{table} ORDER BY 1")
            tables[f"{table}({columns})"] = [row for (row,) in rows]
        return tables

    def check_contents(self, schema: str, expected: Mapping[str, list[str]], what: str) -> None:
        """Check that *schema* has these tables with these rows."""
        found = self.contents(schema)
        for table in {*found, *expected}:
            assert found.get(table) == expected.get(table), (
                f"{what}: {table}\nexpected {expected.get(table)}\nfound    {found.get(table)}"
            )


# -- the outcomes -----------------------------------------------------------------------------------


def run_complete(case: Case, database: Database, directory: Path) -> None:
    """Upgrade, use both versions, complete: the catalog is what plain Alembic makes."""
    flight = Flight(case, database, directory / "project")
    with flight.client(BEFORE) as early:
        # Its plans are from before the migration.
        _prepare(early, case.old)
        flight.run("upgrade", AFTER)
        with flight.client(AFTER) as late:
            clients: dict[Client, Session] = {"old": early, "new": late}
            flight.write(clients, transactions=False)
            flight.check(clients, "in flight")
            flight.probe(clients)
            contents = flight.contents(flight.view_schema(AFTER))
            flight.run("zd-complete")
            check_rows(late, case.new, "new version after zd-complete, same connection")
        plain = plain_dump(case, database, directory)
        assert_same(flight.dump(), plain, "zd-complete against plain Alembic")
        flight.check_contents(flight.view_schema(AFTER), contents, "the new version after zd-complete")
        flight.check_contents(case.schema, contents, "the tables after zd-complete")
        with flight.client(AFTER) as fresh:
            check_rows(fresh, case.new, "new version after zd-complete, new connection")
        assert_tombstone(early, case.old, AFTER)
    flight.run("zd-prune")
    assert database.fetch(f"SELECT FROM pg_namespace WHERE nspname = '{flight.view_schema(BEFORE)}'") == []
    assert_same(flight.dump(), plain, "zd-prune changed the tables")
    assert_nothing_left(database)


def run_rollback(case: Case, database: Database, directory: Path) -> None:
    """Upgrade, use both versions in transactions, roll back: the catalog is what it was, no row is lost."""
    flight = Flight(case, database, directory / "project")
    flight.run("upgrade", AFTER)
    with flight.clients(prepared=True) as clients:
        flight.write(clients, transactions=True)
        flight.check(clients, "in flight")
        contents = flight.contents(flight.view_schema(BEFORE))
        flight.run("downgrade", BEFORE)
        check_rows(clients["old"], case.old, "old version after rollback, same connection")
        assert_same(flight.dump(), flight.original, "rollback against the state before")
        flight.check_contents(case.schema, contents, "the tables after rollback")
        assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]
        with flight.client(BEFORE) as fresh:
            check_rows(fresh, case.old, "old version after rollback, new connection")
        assert_tombstone(clients["new"], case.new, BEFORE)
    assert_nothing_left(database)


def run_reverse(case: Case, database: Database, directory: Path) -> None:
    """Complete, then downgrade: a migration in the other direction, in flight until it is completed."""
    flight = Flight(case, database, directory / "project")
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        flight.write(clients, transactions=False)
        flight.run("zd-complete")
        completed = flight.dump()
        flight.run("downgrade", BEFORE)
        check_rows(clients["new"], case.new, "version r2 while it is reversed")
        expected = case.old if case.reversed is None else case.reversed
        with flight.client(BEFORE) as back:
            check_rows(back, expected, "version r1 while r2 is reversed")
            flight.run("zd-complete")
            check_rows(back, expected, "version r1 after zd-complete of the reverse migration")
        assert_tombstone(clients["new"], case.new, BEFORE)
    assert_nothing_left(database)
    assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]
    if case.faithful:
        assert_same(flight.dump(), flight.original, "reverse migration against the state before")
    else:
        assert flight.dump() != completed


def run_direct(case: Case, database: Database, directory: Path) -> None:
    """Replay the history on an empty database: same catalog, and the same rows as the backfill gives."""
    flight = Flight(case, database, directory / "project")
    flight.run("upgrade", AFTER)
    in_flight = flight.contents(flight.view_schema(AFTER))
    other = database.other()
    other.execute(_DEFAULT_RIGHTS)
    project = AlembicProject(directory / "direct", other.url, metadata=case.metadata)
    project.revision(BEFORE, None, _LOAD.format(sql=case.setup))
    project.revision(AFTER, BEFORE, case.upgrade, case.downgrade, prelude=case.prelude)
    project.run_in_process("upgrade", "head")
    flight.database = other
    assert_same(flight.dump(), plain_dump(case, database, directory), "direct road against plain Alembic")
    flight.check_contents(flight.view_schema(AFTER), in_flight, "the version on the direct road")
    flight.check_contents(case.schema, in_flight, "the tables on the direct road")


OUTCOMES: dict[str, Callable[[Case, Database, Path], None]] = {
    "complete": run_complete,
    "rollback": run_rollback,
    "reverse": run_reverse,
    "direct": run_direct,
}


def outcomes_of(*cases: Case) -> list[tuple[Case, str]]:
    """Return each case with each outcome that it has."""
    return [(case, outcome) for case in cases for outcome in case.outcomes if outcome != "reverse" or case.downgrade]


def outcome_id(value: object) -> str:
    """Return how pytest is to call a parameter."""
    return str(value)


# -- comparisons --------------------------------------------------------------------------------------


def plain_dump(case: Case, database: Database, directory: Path) -> str:
    """Return the dump of another database on which plain Alembic ran the plain operations."""
    other = database.other()
    other.execute(_ROLE + _DEFAULT_RIGHTS)
    other.execute(case.setup)
    project = AlembicProject(directory / f"plain_{other.name}", other.url, env="plain", metadata=case.metadata)
    project.revision(BEFORE)
    project.revision(AFTER, BEFORE, case.plain, prelude=case.prelude)
    project.run_in_process("stamp", BEFORE)
    project.run_in_process("upgrade", AFTER)
    return normalise_settings(other.normalised_dump(("public", case.schema)))


_STATISTICS = re.compile(r"^(CREATE STATISTICS .* ON )(.*)( FROM .*;)$", re.MULTILINE)
_SETTINGS = re.compile(r"(^ALTER TABLE ONLY \S.* ALTER COLUMN .*;\n)+", re.MULTILINE)


def normalise_settings(dump: str) -> str:
    """Return *dump* with what PostgreSQL orders by column position sorted: statistics and settings."""
    dump = _STATISTICS.sub(lambda m: m[1] + ", ".join(sorted(m[2].split(", "))) + m[3], dump)
    return _SETTINGS.sub(lambda m: "".join(sorted(m[0].splitlines(keepends=True))), dump)


def assert_same(found: str, expected: str, what: str) -> None:
    """Compare two dumps; the failure shows only the lines that differ."""
    if found != expected:
        lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", n=2, lineterm="")
        raise AssertionError(f"{what}\n" + "\n".join(lines))


def assert_nothing_left(database: Database) -> None:
    """Check that no trace of a migration is left, tombstones apart."""
    left = database.fetch(LEFTOVERS)
    assert left == [], f"left behind: {left}"


def check_rows(client: Session, expected: Mapping[str, Rows], when: str) -> None:
    """Check what every query gives, rows in any order."""
    for query, rows in expected.items():
        try:
            found = client.fetch(query)
        except psycopg.Error as error:
            raise AssertionError(f"{when}: {query}\n{error.sqlstate} {error}") from error
        found, wanted = sorted(found, key=repr), sorted(rows, key=repr)
        assert found == wanted, f"{when}: {query}\nexpected {wanted}\nfound    {found}"


def assert_tombstone(client: Session, queries: Mapping[str, Rows], revision: str) -> None:
    """Check that every query raises the error that names the revision to use."""
    for query in queries:
        try:
            client.fetch(query)
        except psycopg.Error as error:
            assert error.sqlstate == "55000", f"{query}: {error.sqlstate} {error}"
            assert f"revision {revision}" in str(error), str(error)
        else:
            raise AssertionError(f"{query} still works; a tombstone should raise")


def _prepare(client: Session, queries: Mapping[str, Rows]) -> None:
    client.connection.prepare_threshold = 0
    for query in queries:
        client.fetch(query)
