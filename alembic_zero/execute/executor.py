"""Run a plan's steps, each one journaled, each one safe to run again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.backfill import Backfill
from alembic_zero.execute.fill import Fill
from alembic_zero.execute.locks import DEADLOCK_DETECTED, sqlstate
from alembic_zero.execute.sending import describe_error, send, send_all
from alembic_zero.execute.session import autocommit
from alembic_zero.operations.errors import LockTimeoutError, MigrationError
from alembic_zero.plan.step import Kind, LockMode
from alembic_zero.sql.links import LinkSql
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import Server
    from alembic_zero.execute.journal import Journal, Migration
    from alembic_zero.execute.locks import LockRules
    from alembic_zero.execute.progress import Progress
    from alembic_zero.execute.session import Sessions
    from alembic_zero.lens.lens import Flight
    from alembic_zero.lens.link import Link
    from alembic_zero.plan.step import Plan, Step


@dataclass
class Executor:
    """Runs steps on connections of its own; no transaction stays open from one to the next.

    :param work: for transactions.
    :param bare: in autocommit mode, for what cannot run in a transaction.
    :param next_command: what a person should run if a step fails.
    """

    sessions: Sessions
    journal: Journal
    server: Server
    rules: LockRules
    work: Connection
    bare: Connection
    report: Callable[[str], None]
    keep_alive: Callable[[], None]
    progress: Progress

    def run(self, migration: Migration, plan: Plan, next_command: str) -> None:
        """Run what is left of a plan.

        :raises MigrationError: a step failed; says which, why, and what state things are in.
        """
        with self.work.begin():
            rows = self.journal.read_steps(self.work, migration.id)
        done = {r["position"] for r in rows if r["phase"] == plan.phase and r["finished_at"]}
        for position, step in enumerate(plan.steps):
            if position in done:
                continue
            started = time.monotonic()
            with self.work.begin():
                self.journal.start_step(self.work, migration.id, plan.phase, position, step)
            try:
                self._run_step(migration, plan.phase, position, step)
            except LockTimeoutError as error:
                raise LockTimeoutError(
                    f"revision {migration.revision!r}, {error.message}",
                    code=error.code,
                    revision=migration.revision,
                    next_command=next_command,
                ) from error.__cause__
            except DBAPIError as error:
                raise MigrationError(
                    f"revision {migration.revision!r}, step {step.name!r} ({step.source}) failed: "
                    f"{describe_error(error)}; earlier steps are done and recorded, clients go on working",
                    code="ZD311",
                    revision=migration.revision,
                    next_command=next_command,
                ) from error
            self.report(f"{plan.phase}: {step.name} ({time.monotonic() - started:.2f} s)")
            self.keep_alive()

    def run_alone(self, name: str, statements: Sequence[str]) -> None:
        """Run statements as one transaction under the lock rules, without a journal entry."""

        def attempt() -> None:
            with self.work.begin():
                self.rules.set_timeout(self.work)
                for statement in statements:
                    send(self.work, statement)

        self.rules.retry(name, self.work, attempt)

    def _run_step(self, migration: Migration, phase: str, position: int, step: Step) -> None:
        if step.kind == Kind.TRANSACTION:
            self._run_transaction(migration, phase, position, step)
            return
        if step.kind == Kind.AUTOCOMMIT:
            for statement in step.statements:
                self._run_bare(step, statement)
        elif step.kind == Kind.INDEX:
            self._build_index(step)
        else:
            self._run_rows(migration, step)
        with self.work.begin():
            self.journal.finish_step(self.work, migration.id, phase, position)

    def _run_bare(self, step: Step, statement: str) -> None:
        """Run a statement that cannot be in a transaction, or need not.

        What works CONCURRENTLY waits for as long as it takes, and no client behind it; a VALIDATE of ours likewise
        takes nothing that clients notice, but may stand behind autovacuum. Whatever a user's statement locks,
        clients would stand behind it: it gets the short timeout.
        """
        if "CONCURRENTLY" in statement.upper():
            with self.rules.witness.watching(self.bare, 1.0, f"step {step.name!r}"):
                send(self.bare, statement)
            return
        ours = step.lock_mode == LockMode.SHARE_UPDATE_EXCLUSIVE
        timeout_ms = self.rules.patience_ms if ours else self.rules.timeout_ms

        def attempt() -> None:
            with self.rules.without_transaction(self.bare, timeout_ms):
                send(self.bare, statement)

        self.rules.retry(step.name, self.bare, attempt)

    def _run_rows(self, migration: Migration, step: Step) -> None:
        with self.work.begin():
            flights = {f.id: f for f in self.journal.read(self.work).flights}
        flight = flights[int(step.table or 0)]
        joins = [
            LinkSql(link, f, flights[link.target.flight]) for f in flights.values() for link in _newest(f, migration)
        ]
        backfill = Backfill(self.work, self.bare, self.server, self.rules, self.report, self.keep_alive, self.progress)
        if step.kind == Kind.BACKFILL:
            backfill.run(flight, [sql for sql in joins if sql.target is flight and sql.fills_column])
        elif step.kind == Kind.FILL:
            (sql,) = (sql for sql in joins if sql.link.name == step.link)
            Fill(self.work, self.bare, self.rules, self.progress).run(sql)
        else:
            backfill.fulfil(flight, migration.revision)

    def _run_transaction(self, migration: Migration, phase: str, position: int, step: Step) -> None:
        def attempt() -> None:
            with self.work.begin():
                # The journal first: while the strong locks are held, nothing else is done.
                self._note(migration, phase, position, step)
                if step.locks:
                    self.rules.take(self.work, step.locks)
                    send_all(self.work, step.statements)
                else:
                    self.rules.set_timeout(self.work)
                    for statement in step.statements:
                        send(self.work, statement)

        self.rules.retry(step.name, self.work, attempt)

    def _note(self, migration: Migration, phase: str, position: int, step: Step) -> None:
        if step.state is not None and step.table is not None:
            self.journal.put_flight_json(self.work, step.table, step.state)
        for table, state in step.states:
            self.journal.put_flight_json(self.work, table, state)
        self.journal.finish_step(self.work, migration.id, phase, position)

    def _build_index(self, step: Step) -> None:
        """Build an index concurrently; what a killed try left invalid goes first."""
        assert step.index is not None  # noqa: S101 - INDEX steps name their index
        schema, name = step.index
        rows = read_rows(self.bare, "index_state", schema=schema, name=name)
        if rows and rows[0]["valid"]:
            return
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS {ident(schema, name)}"
        if rows:
            self._run_bare(step, drop)
        deadline = self.rules.clock() + self.rules.budget_s
        while True:
            try:
                for statement in step.statements:
                    self._run_bare(step, statement)
            except DBAPIError as error:
                # With the connection gone, the next run finds what is left.
                if not error.connection_invalidated:
                    send(self.bare, drop)
                # Two builds on one table may wait for each other; PostgreSQL ends one of them.
                if sqlstate(error) != DEADLOCK_DETECTED or self.rules.clock() > deadline:
                    raise
            else:
                return


def open_bare(sessions: Sessions) -> Connection:
    """Return one of our connections in autocommit mode."""
    return autocommit(sessions.open())


def _newest(flight: Flight, migration: Migration) -> tuple[Link, ...]:
    """Return the links that a migration has begun at a table."""
    level = flight.levels[-1]
    return level.links if level.migration == migration.id else ()
