"""Rollback: take back what is in flight, newest first, with everything written meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alembic_zero.catalog.reader import qualified_names, read_live_foreign_keys, read_publications, read_rows
from alembic_zero.completing import undoable_steps
from alembic_zero.names import base_revision
from alembic_zero.operations.errors import MigrationError
from alembic_zero.plan.contract import PublishedView
from alembic_zero.plan.items import Ordinary
from alembic_zero.plan.links import is_tied, plan_hold, plan_untie
from alembic_zero.plan.references import plan_release, plan_unguarding, plan_unlinking
from alembic_zero.plan.rollback import plan_index_rollback, plan_table_rollback
from alembic_zero.plan.step import Kind, LockMode, Plan, Step
from alembic_zero.recording import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.execute.executor import Executor
    from alembic_zero.execute.journal import Migration, State
    from alembic_zero.lens.lens import Flight
    from alembic_zero.workplace import Workplace


class Rollback:
    """Ends some of the migrations in flight.

    :param ended: the migrations to take back, oldest first.
    """

    def __init__(self, workplace: Workplace, state: State, ended: Sequence[Migration]) -> None:
        self._workplace = workplace
        self._state = state
        self._ended = list(ended)

    def run(self) -> None:
        """Undo tables and version schemas, each migration by itself, newest first."""
        executor = self._workplace.executor()
        for migration in reversed(self._ended):
            plan = self._start(executor, migration)
            executor.run(migration, plan, f"alembic downgrade {migration.from_revision}")

    def _start(self, executor: Executor, migration: Migration) -> Plan:
        if migration.state == "rolling back" and migration.finish is not None:
            return migration.finish
        with executor.work.begin():
            state = self._workplace.journal.read(executor.work)
        self._workplace.align_rights(executor, state)
        plan = self._plan(migration, state, executor)
        with executor.work.begin():
            self._workplace.journal.start_finish(executor.work, migration.id, "rolling back", plan)
        return plan

    def finish(self, **_kw: Any) -> None:
        """End the migrations in Alembic's own transaction, in which the version moves too."""
        workplace = self._workplace
        for migration in self._ended:
            if not workplace.journal.set_state(workplace.connection, migration.id, "ended", ["rolling back"]):
                raise MigrationError(
                    f"revision {migration.revision!r} was changed by another command meanwhile", code="ZD303"
                )
        first = self._ended[0]
        workplace.report(f"rolled back to {first.from_revision}")

    # -- the plan -------------------------------------------------------------------------

    def _plan(self, migration: Migration, state: State, executor: Executor) -> Plan:
        source = f"rollback of revision {migration.revision!r}"
        connection = executor.work
        with connection.begin():
            publisher = self._workplace.publisher(state.flights, connection)
            tombs = publisher.tomb_functions(migration.revision, migration.schemas, migration.from_revision)
            handled: dict[str, list[str]] = {}
            ending = [f for f in state.flights if f.levels and f.levels[-1].migration == migration.id]
            views = {flight.id: self._views(connection, migration, flight, handled) for flight in ending}
            # First, so that no table's columns hang on another one's.
            keys = [(flight, read_live_foreign_keys(connection, flight.relation)) for flight in ending]
            # Rows of a table that goes are not kept in step once it is untied: nobody may be bound by them then.
            tables = [s for flight, found in keys if _goes(flight) for s in plan_release(flight, found, source)]
            tables += _untie(ending, views, migration, source)
            for flight in ending:
                tables += plan_unguarding(flight, flight.levels[-1:], source, forward_only=False)
            tables += [step for flight, found in keys for step in plan_unlinking(flight, found, source)]
            with qualified_names(connection):
                published = {flight.id: read_publications(connection, flight.relation) for flight in ending}
            tables += [plan_table_rollback(f, views[f.id], published[f.id], source) for f in ending]
            tables += [step for flight in ending for step in plan_index_rollback(flight, source)]
            buried = publisher.bury(
                migration.revision, migration.schemas, migration.from_revision, handled, migration.id
            )
        steps = self._abandoned_contract(migration, source)
        steps += [Step("tombstone functions", Kind.TRANSACTION, source, tuple(tombs))] if tombs else []
        steps += tables
        if buried:
            steps.append(Step(f"version {migration.revision}", Kind.TRANSACTION, source, tuple(buried)))
        steps += self._custom(connection, migration, source)
        return Plan("rollback", tuple(steps))

    @staticmethod
    def _abandoned_contract(migration: Migration, source: str) -> list[Step]:
        """Return the step that takes back what a contract has done that has not swapped over any table."""
        if migration.state != "contracting" or migration.finish is None:
            return []
        undone = undoable_steps(migration.finish)
        if not undone:
            return []
        locks = {lock.relation: lock for step in undone for lock in step.locks}
        statements = tuple(text for step in undone for text in step.inverse)
        return [Step("abandon the contract", Kind.TRANSACTION, source, statements, tuple(locks.values()))]

    def _views(
        self, connection: Any, migration: Migration, flight: Flight, handled: dict[str, list[str]]
    ) -> list[PublishedView]:
        level = flight.level_of(migration.id)
        name = flight.spec_at(level).name
        view_schema = self._workplace.journal.view_schema(migration.revision, flight.schema)
        existing = {row["name"] for row in read_rows(connection, "views", schema=view_schema)}
        if name not in existing or flight.levels[level - 1].dropped:
            return []
        handled.setdefault(view_schema, []).append(name)
        return [PublishedView(view_schema, level)]

    def _custom(self, connection: Any, migration: Migration, source: str) -> Iterator[Step]:
        """Yield the steps that undo what the revision's own and ordinary operations did."""
        with connection.begin():
            rows = self._workplace.journal.read_steps(connection, migration.id)
        rows = [row for row in rows if row["phase"] == "expand"]
        begun, done = {row["position"] for row in rows}, {row["position"] for row in rows if row["finished_at"]}
        steps = migration.expand.steps if migration.expand else ()
        # What is no transaction may have happened although its end is not recorded.
        executed = [
            step
            for position, step in enumerate(steps)
            if position in (done if step.kind == Kind.TRANSACTION else begun)
        ]
        if any(step.is_text for step in executed):
            yield from self._undo_texts(migration, steps, executed, source)
        for step in reversed(executed):
            # Dropping a table that references others locks those, too.
            locks = tuple(replace(lock, mode=LockMode.ACCESS_EXCLUSIVE) for lock in step.locks)
            for text in step.inverse:
                yield Step(f"undo: {step.name[:60]}", Kind.TRANSACTION, source, (text,), locks)

    def _undo_texts(
        self, migration: Migration, steps: Sequence[Step], executed: Sequence[Step], source: str
    ) -> Iterator[Step]:
        """Yield the steps that undo the revision's own SQL text.

        As many texts as there are is taken for each undoing one, the last one first: then what has not been
        executed is not undone.
        """
        texts = self._texts_of_downgrade(migration)
        missing = sum(step.is_text for step in steps) - sum(step.is_text for step in executed)
        if len(texts) == sum(step.is_text for step in steps):
            texts = texts[missing:]
        for text in texts:
            yield Step(f"rollback SQL: {text[:60]}", Kind.TRANSACTION, source, (text,))

    def _texts_of_downgrade(self, migration: Migration) -> list[str]:
        """Return the plain SQL of the revisions' opposite functions: what ``op.execute`` did, it undoes."""
        script: Any = self._workplace.context.script
        if script is None:
            return []
        forwards = _is_upgrade(script, migration)
        upper, lower = migration.revision, migration.from_revision
        if not forwards:
            upper, lower = lower, upper
        revisions = list(script.iterate_revisions(upper, lower))
        recorder = Recorder(self._workplace.context, self._workplace.default_schema)
        savepoint = self._workplace.connection.begin_nested()
        try:
            for revision in revisions if forwards else reversed(revisions):
                function = revision.module.downgrade if forwards else revision.module.upgrade
                recorder.record(revision.revision, function, **self._workplace.settings.arguments)
        finally:
            savepoint.rollback()
            self._workplace.commit()
        return [
            i.operation.text for i in recorder.items if isinstance(i.operation, Ordinary) and i.operation.kind == "sql"
        ]


def _untie(
    flights: list[Flight], views: dict[int, list[PublishedView]], migration: Migration, source: str
) -> list[Step]:
    """Return the steps that end a migration's links; *flights* and *views* are then as they are after them."""
    tied = [flight for flight in flights if is_tied(flight.levels[-1:])]
    if not tied:
        return []
    step, after = plan_untie(tied, views, {migration.id}, source, forward_only=False)
    flights[:] = [after.get(flight.id, flight) for flight in flights]
    views.update({flight.id: [] for flight in tied})
    return [step, *(hold for flight in tied for hold in plan_hold(flight, source))]


def _goes(flight: Flight) -> bool:
    """Return whether the table was made by the migration that is taken back."""
    return flight.created and len(flight.levels) == 1


def _is_upgrade(script: Any, migration: Migration) -> bool:
    if migration.revision == base_revision:
        return False
    below = {r.revision for r in script.iterate_revisions(migration.revision, "base")}
    return migration.from_revision == base_revision or migration.from_revision in below
