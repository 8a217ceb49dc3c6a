"""A scenario's databases: states to start from, and what an undisturbed run makes of them."""

from __future__ import annotations

import copy
import re
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

import psycopg

from alembic_zero.names import MARKER
from tests.crash.runner import Command
from tests.support.harness import AFTER, BEFORE, LEFTOVERS, Case, Flight, Session, normalise_settings
from tests.support.project import INI
from tests.support.server import Database, Server, normalise_dump

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.runner import RoundTrip
    from tests.support.project import AlembicProject

ARGUMENTS = {"upgrade": ("upgrade", AFTER), "zd-complete": ("zd-complete",), "downgrade": ("downgrade", BEFORE)}

# An index that was left behind unfinished; pg_dump does not show it.
_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid OR NOT indisready"
_JOURNAL = """
SELECT revision, from_revision, state FROM alembic_zero.migration WHERE state <> 'ended' ORDER BY id
"""
_UNFINISHED = """
SELECT phase, name FROM alembic_zero.step JOIN alembic_zero.migration m ON m.id = migration
 WHERE finished_at IS NULL AND state IN ('current', 'live')
"""
# What an expression that is not the same twice may give.
_RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBERS = re.compile(r"(?<=[a-z_])\d+|\b\d+\b|\b[0-9a-f]{8,}\b")

Contents = dict[str, list[str]]


class Copy(Flight):
    """A copy of a scenario's database, with the same project."""

    def __init__(self, case: Case, database: Database, project: AlembicProject) -> None:
        self.case = case
        self.database = database
        self.project = copy.copy(project)
        self.project.url = database.url
        self.project.ini = project.directory / f"{database.name}.ini"
        text = database.url.render_as_string(hide_password=False).replace("%", "%%")
        self.project.ini.write_text(INI.format(url=text))

    def start(self, command: str, halt: tuple[str, int] | None = None, *, waits: bool = True) -> Command:
        """Start a command in a process of its own."""
        return Command(self.project.ini, ARGUMENTS[command], halt, waits=waits)

    def catalog(self) -> str:
        """Return the catalog of all that clients see: the tables and the version schemas."""
        dump = self.database.dump("--exclude-schema=alembic_zero")
        return normalise_settings(normalise_dump(dump))

    def machinery(self) -> list[str]:
        """Return what there is of ours, numbers left out: a killed command may have used some up."""
        names = self.database.fetch("""
            SELECT CASE relkind WHEN 'i' THEN 'index' ELSE 'relation' END || ' ' || relname FROM pg_class
             WHERE relnamespace = 'alembic_zero'::regnamespace
            UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'alembic_zero'::regnamespace
            UNION ALL SELECT 'trigger ' || tgname || ' of ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'column ' || attname || ' of ' || attrelid::regclass FROM pg_attribute
             WHERE attname ~ '_zd_' AND NOT attisdropped
            UNION ALL SELECT 'constraint ' || conname || ' of ' || conrelid::regclass || ' ' || convalidated
              FROM pg_constraint WHERE conname ~ '_zd_'
        """)
        return sorted(_NUMBERS.sub("N", name) for (name,) in names)

    def journal(self) -> list[tuple[str, ...]]:
        """Return what is current and in flight."""
        return self.database.fetch(_JOURNAL)

    def version(self) -> list[tuple[str, ...]]:
        """Return what alembic_version says."""
        return self.database.fetch("SELECT version_num FROM alembic_version")

    def refuse(self) -> list[str]:
        """Return what nobody wants to find, whatever the command was: unfinished or left-over things."""
        found = [f"invalid index {name}" for (name,) in self.database.fetch(_INVALID)]
        return found + [f"unfinished step {phase} {name}" for phase, name in self.database.fetch(_UNFINISHED)]

    def leftovers(self) -> list[str]:
        """Return the traces of a migration that is over."""
        return sorted(name for (name,) in self.database.fetch(LEFTOVERS))


@dataclass(frozen=True)
class Outcome:
    """What a command makes of a database if nobody disturbs it."""

    catalog: str
    machinery: list[str]
    journal: list[tuple[str, ...]]
    version: list[tuple[str, ...]]
    contents: dict[str, Contents]
    leftovers: list[str]

    @classmethod
    def of(cls, flight: Copy) -> Outcome:
        """Return what there is now."""
        return cls(
            flight.catalog(),
            flight.machinery(),
            flight.journal(),
            flight.version(),
            contents_of(flight),
            flight.leftovers(),
        )


def contents_of(flight: Copy) -> dict[str, Contents]:
    """Return the rows that each version that works shows, and those of the tables."""
    found = {"tables": table_contents(flight, flight.case.schema)}
    for revision in (BEFORE, AFTER):
        schema = flight.view_schema(revision)
        live = "SELECT FROM pg_namespace WHERE nspname = '{}' AND obj_description(oid) LIKE '%version%'"
        if flight.database.fetch(live.format(schema)):
            try:
                found[f"version {revision}"] = table_contents(flight, schema)
            except psycopg.errors.ObjectNotInPrerequisiteState:
                found[f"version {revision}"] = {"tombstone": []}
    return found


def table_contents(flight: Copy, schema: str) -> Contents:
    """Return the rows of every table or view of a schema; random values masked, the marker left out.

    A row's marker tells who has written it last, a client or the backfill: that is a matter of time.
    """
    found = flight.contents(schema, without=MARKER)
    return {table: sorted(_RANDOM.sub("random", row) for row in rows) for table, rows in found.items()}


class Ground:
    """The databases of one scenario on one server, and its undisturbed runs.

    States to start from: *adopted*, at revision r1; *in flight*, expanded and written by both versions.
    """

    def __init__(self, case: Case, server: Server, directory: Path) -> None:
        self.case = case
        self.server = server
        self._admin = psycopg.connect(
            host=server.host, port=server.port, user="postgres", dbname="postgres", autocommit=True
        )
        self._names: list[str] = []
        try:
            self._prepare(directory)
        except BaseException:
            self.close()
            raise

    def _prepare(self, directory: Path) -> None:
        first = self._create("template0")
        self._project = Flight(self.case, first, directory).project
        self.states = {"adopted": first.name}
        adopted = Copy(self.case, first, self._project)
        self.original, self.original_tables = Outcome.of(adopted), adopted.dump()
        flying = self._copy(first.name)
        self._undisturbed(flying, "upgrade")
        with flying.clients() as clients:
            flying.write(clients, transactions=False)
        self.wait_idle(flying.database.name)
        self.states["in flight"] = flying.database.name
        self.flying = Outcome.of(flying)

    def close(self) -> None:
        """Drop every database."""
        self.reconnect()
        for name in self._names:
            self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        self._admin.close()

    def reconnect(self) -> None:
        """Connect again, after a crash of the server."""
        self._admin.close()
        self._admin = psycopg.connect(
            host=self.server.host, port=self.server.port, user="postgres", dbname="postgres", autocommit=True
        )

    # -- databases ----------------------------------------------------------------------------------

    def _create(self, template: str) -> Database:
        name = f"zd_crash_{secrets.token_hex(5)}"
        self._names.append(name)
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return Database(self.server, name)

    def _copy(self, template: str) -> Copy:
        return Copy(self.case, self._create(template), self._project)

    @contextmanager
    def copied(self, source: str) -> Iterator[Copy]:
        """Yield a copy of a database or of a state; it is gone at the end of the block."""
        name = self.states.get(source, source)
        self.wait_idle(name)
        flight = self._copy(name)
        try:
            yield flight
        finally:
            self.reconnect()
            self._admin.execute(f"DROP DATABASE IF EXISTS {flight.database.name} WITH (FORCE)".encode())
            self._names.remove(flight.database.name)
            flight.project.ini.unlink()

    def sessions(self, database: str) -> list[int]:
        """Return the server processes that work for clients of a database."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend' ORDER BY pid"
        return [pid for (pid,) in self._admin.execute(query, [database])]

    def wait_idle(self, database: str) -> None:
        """Wait until nobody is connected to a database: a server process outlives its client a little."""
        for _ in range(6000):
            if not self.sessions(database):
                return
            self._admin.execute("SELECT pg_sleep(0.005)")
        raise TimeoutError(f"sessions of {database} do not end: {self.sessions(database)}")

    def terminate(self, database: str, one: int | None = None) -> None:
        """Have the server end all sessions of a database, or the one with this number; wait until they are gone."""
        pids = self.sessions(database)
        chosen = pids if one is None else [pids[one % len(pids)]] if pids else []
        self._admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [chosen])
        for _ in range(2000):
            if not set(chosen) & set(self.sessions(database)):
                return
            self._admin.execute("SELECT pg_sleep(0.005)")
        raise TimeoutError(f"sessions {chosen} do not end")

    # -- undisturbed runs -----------------------------------------------------------------------------

    @staticmethod
    def _undisturbed(flight: Copy, command: str) -> tuple[RoundTrip, ...]:
        ending = flight.start(command).wait_ended()
        assert ending.code == 0, f"undisturbed {command}: {ending.output}"
        return ending.trips

    @cached_property
    def trips(self) -> dict[str, tuple[RoundTrip, ...]]:
        """The round trips of each command."""
        return {command: trips for command, (trips, _) in self._runs.items()}

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """What each command leads to, with the clients' writes before it."""
        return {command: outcome for command, (_, outcome) in self._runs.items()}

    @cached_property
    def written(self) -> Contents:
        """The tables at revision r1 after the clients' writes that a trial makes before it upgrades or rolls back."""
        with self.copied("adopted") as flight:
            self.write_early(flight)
            return table_contents(flight, self.case.schema)

    @cached_property
    def _runs(self) -> dict[str, tuple[tuple[RoundTrip, ...], Outcome]]:
        found = {}
        for command in ARGUMENTS:
            with self.copied(self.start_of(command)) as flight:
                if command == "upgrade":
                    self.write_early(flight)
                trips = self._undisturbed(flight, command)
                found[command] = (trips, Outcome.of(flight))
        return found

    @staticmethod
    def start_of(command: str) -> str:
        """Return the state in which a command is run."""
        return "adopted" if command == "upgrade" else "in flight"

    def write_early(self, flight: Copy) -> None:
        """Make those writes of old clients that come before any of a new one."""
        with flight.client(BEFORE) as client:
            for statement in takewhile(lambda one: one.client == "old", self.case.writes):
                client.run(statement)

    def write_own_values(self, flight: Copy, client: Session, revision: str) -> None:
        """Write a column's own values to every table of a version: triggers fire, nothing changes."""
        if not self.case.probes:
            return
        seen: set[str] = set()
        for table, column in flight._columns(revision):
            if table in seen:
                continue
            try:
                client.connection.execute(f"UPDATE {table} SET {column} = {column}".encode())
            except psycopg.errors.GeneratedAlways:
                continue
            seen.add(table)
