"""What every command needs at hand: journal, own connections, executor, reporting."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_server
from alembic_zero.execute.blockers import Blocker, Witness
from alembic_zero.execute.clients import ClientWatch
from alembic_zero.execute.command_lock import CommandLock
from alembic_zero.execute.executor import Executor, open_bare
from alembic_zero.execute.journal import Journal, State
from alembic_zero.execute.locks import LockRules
from alembic_zero.execute.progress import Progress, write_line
from alembic_zero.execute.publish import Publisher
from alembic_zero.execute.rights import Rights
from alembic_zero.execute.sending import describe_error
from alembic_zero.execute.session import Sessions
from alembic_zero.names import MAX_BYTES, client_suffix, shorten
from alembic_zero.operations.errors import MigrationError, RefusedError
from alembic_zero.sql.ddl import read_timeouts, set_timeouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.engine import Connection

    from alembic_zero.configuration import Settings
    from alembic_zero.execute.journal import Migration
    from alembic_zero.execute.rights import Drift
    from alembic_zero.lens.lens import Flight


def process_name(command: str) -> str:
    """Return the application_name of all sessions of this process: whoever sees one knows where to look."""
    return shorten(f"alembic_zero {command} {socket.gethostname()}:{os.getpid()}", MAX_BYTES)


def _default_schema(connection: Connection) -> str:
    schema = connection.execute(text("SELECT current_schema()")).scalar_one()
    if schema is None:
        raise RefusedError(
            "the migration connection's search_path names no existing schema; nothing was changed", code="ZD111"
        )
    return str(schema)


@contextmanager
def translated_errors(what: str, next_command: str) -> Iterator[None]:
    """Turn an error of the database that nothing else explains into one line for a person.

    :raises MigrationError: code ZD390.
    """
    try:
        yield
    except DBAPIError as error:
        raise MigrationError(
            f"{what}: the database says: {describe_error(error)}; finished steps are recorded, clients go on working",
            code="ZD390",
            next_command=next_command,
        ) from error


class Workplace:
    """One command's view of one project in one database.

    :param context: Alembic's migration context, on env.py's connection.
    :param command: what the person called.
    """

    def __init__(self, context: MigrationContext, command: str) -> None:
        self.context = context
        self.command = command
        self.connection = cast("Connection", context.connection)
        self.settings: Settings = context.opts["alembic_zero"]
        self.default_schema = _default_schema(self.connection)
        self.version_table = (context.version_table_schema or self.default_schema, context.version_table)
        self.journal = Journal(".".join(self.version_table), self.settings.project)
        self._sessions: Sessions | None = None
        self._command_lock: CommandLock | None = None

    # -- talking --------------------------------------------------------------------------

    def report(self, line: str) -> None:
        """Say something to whoever watches; standard output belongs to results."""
        if not self._quiet:
            write_line(f"alembic_zero: {line}")

    @property
    def _quiet(self) -> bool:
        return bool(getattr(getattr(self.context.config, "cmd_opts", None), "quiet", False))

    @property
    def progress(self) -> Progress:
        """What shows the progress of long work."""
        return Progress(self.report, self.keep_alive, bars=sys.stderr.isatty() and not self._quiet)

    # -- env.py's connection --------------------------------------------------------------

    def commit(self) -> None:
        """Commit env.py's transaction below SQLAlchemy, whose own transaction object stays as it is.

        A transaction of env.py must not stay open across a backfill, whoever began it.
        """
        cast("Any", self.connection.connection.dbapi_connection).commit()

    def keep_alive(self) -> None:
        """Keep env.py's connection from being idle for too long, outside any transaction; check the command lock.

        :raises MigrationError: the command lock is lost.
        """
        self._keep_env_alive()
        if self._command_lock is not None:
            self._command_lock.check()

    def _keep_env_alive(self) -> None:
        self.connection.exec_driver_sql("SELECT 1")
        self.commit()

    def read_state(self) -> State:
        """Return what the journal says, read on env.py's connection."""
        return self.journal.read(self.connection)

    @property
    def naming_options(self) -> dict[str, Any]:
        """The context's options that decide what constraints and indexes are called."""
        return {"target_metadata": self.context.opts.get("target_metadata")}

    # -- our own connections --------------------------------------------------------------

    @property
    def sessions(self) -> Sessions:
        """Our own connections."""
        if self._sessions is None:
            self._sessions = Sessions(self.connection, process_name(self.command))
        return self._sessions

    @property
    def _lock(self) -> CommandLock:
        if self._command_lock is None:
            self._command_lock = CommandLock(
                self.sessions, self.journal.project, self.settings.command_wait_s, self.report, self._keep_env_alive
            )
        return self._command_lock

    def take_command_lock(self) -> bool:
        """Wait until no other command works on this project; return whether there was one.

        If there was, env.py's transaction has been ended: what it has read is no longer so.

        :raises RefusedError: the other one takes too long.
        """
        return self._lock.take()

    def other_command(self) -> str | None:
        """Return which other command is at work on this project, None if there is none."""
        return None if self._lock.is_held else self._lock.holder(self.connection)

    def blockers(self) -> list[Blocker]:
        """Return whom the other command waits for at this moment."""
        return self._lock.blockers(self.connection)

    def rules(self, deadlock_timeout_ms: int) -> LockRules:
        """Return the lock rules."""
        witness = Witness(self.sessions, self.report)
        return LockRules(deadlock_timeout_ms, self.settings.lock_budget_s, witness, self.report)

    def executor(self) -> Executor:
        """Return an executor on fresh connections."""
        work = self.sessions.open()
        bare = open_bare(self.sessions)
        server = read_server(bare)
        rules = self.rules(server.deadlock_timeout_ms)
        return Executor(
            self.sessions, self.journal, server, rules, work, bare, self.report, self.keep_alive, self.progress
        )

    def close(self) -> None:
        """Close our connections; the command lock goes with them."""
        if self._command_lock is not None:
            self._command_lock.close()
        if self._sessions is not None:
            self._sessions.close()
        self._sessions = self._command_lock = None

    @contextmanager
    def closing(self) -> Iterator[Workplace]:
        """Close our connections at the end of the block."""
        try:
            yield self
        finally:
            self.close()

    # -- versions -------------------------------------------------------------------------

    def schemas(self, state: State, more: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the schemas that hold tables of the project."""
        found = {self.default_schema, *self.settings.schemas, *more}
        found |= {schema for m in state.migrations for schema in m.schemas}
        metadata = self.context.opts.get("target_metadata")
        for one in metadata if isinstance(metadata, list | tuple) else [metadata] if metadata is not None else []:
            found |= {table.schema for table in one.tables.values() if table.schema}
        return tuple(sorted(found))

    def publisher(self, flights: Sequence[Flight], connection: Connection | None = None) -> Publisher:
        """Return a publisher on env.py's connection, or another one."""
        connection = connection or self.connection
        server = read_server(connection)
        published = self.journal.read(connection).published
        latest = published[-1].revision if published else None
        others = self.journal.read_others(connection)
        hidden = frozenset({self.version_table})
        return Publisher(connection, server.version, flights, hidden, latest, self.journal.name, others)

    def find_drifts(self, state: State, connection: Connection) -> list[Drift]:
        """Return what of live versions has no longer the rights of the tables; needs an open transaction.

        Nothing while a contract or a rollback is half done: it replaces the views in any case.
        """
        if state.unfinished is not None and state.unfinished.state != "expanding":
            return []
        return Rights(self.publisher(state.flights, connection), state.published).find_drifts()

    def align_rights(self, executor: Executor, state: State) -> None:
        """Give live versions the rights that their tables have by now."""
        with executor.work.begin():
            drifts = self.find_drifts(state, executor.work)
        if drifts:
            executor.run_alone("rights of versions", [text for drift in drifts for text in drift.statements])
            self.report(f"rights brought in line with the tables': {', '.join(drift.name for drift in drifts)}")

    def client_watch(self, connection: Connection, migrations: Iterable[Migration]) -> ClientWatch:
        """Return what sees the clients of some versions."""
        suffixes = {suffix: m.revision for m in migrations for suffix in self.client_suffixes(m)}
        return ClientWatch(connection, suffixes, self.settings.poolers, self.settings.client_watch_s)

    def client_suffixes(self, migration: Migration) -> tuple[str, ...]:
        """Return how the application_name of clients pinned to a version may end, whatever their default schema is."""
        return tuple(client_suffix(migration.revision, schema, self.journal.name) for schema in migration.schemas)

    def run_on_env(self, statements: Sequence[str]) -> None:
        """Run statements in env.py's transaction: the last act of a command, together with the version.

        What env.py does after them in the same transaction finds its own timeouts.
        """
        before = self.connection.exec_driver_sql(read_timeouts()).one()
        self.connection.exec_driver_sql(set_timeouts("0", "0"))
        driver = self.connection.dialect.driver
        if driver in ("psycopg", "psycopg2") and statements:
            # One round trip; both send text without parameters as it is.
            statements = [";\n".join(statements)]
        for statement in statements:
            self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        self.connection.exec_driver_sql(set_timeouts(*before))
