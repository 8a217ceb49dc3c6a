"""Read and write the journal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from alembic_zero.execute.sending import send
from alembic_zero.lens.lens import Flight
from alembic_zero.names import version_schema
from alembic_zero.plan.step import Plan
from alembic_zero.sql import journal as sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.plan.step import Step


@dataclass(frozen=True)
class Migration:
    """One published or unfinished change of version.

    *state* is ``current`` (the oldest live version), ``expanding``, ``live``, ``contracting`` or
    ``rolling back``; ended ones are not shown.
    """

    id: int
    revision: str
    from_revision: str
    state: str
    schemas: tuple[str, ...]
    operations_digest: str | None = None
    expand: Plan | None = None
    finish: Plan | None = None
    extras: str | None = None


@dataclass(frozen=True)
class State:
    """Everything that the journal says about a project."""

    exists: bool
    migrations: tuple[Migration, ...] = ()
    flights: tuple[Flight, ...] = ()
    # Other projects count on, too: that is no change of this one's state.
    last_generation: int = field(default=0, compare=False)
    next_migration: int = field(default=1, compare=False)

    @property
    def unfinished(self) -> Migration | None:
        """Return the migration that a command has left halfway, if any."""
        return next((m for m in self.migrations if m.state not in ("current", "live")), None)

    @property
    def published(self) -> tuple[Migration, ...]:
        """Return the live versions, oldest first."""
        return tuple(m for m in self.migrations if m.state in ("current", "live"))

    @property
    def in_flight(self) -> tuple[Migration, ...]:
        """Return what a rollback or a contract could still end."""
        return tuple(m for m in self.migrations if m.state != "current")


class Journal:
    """The journal of one project, told from others by its version table and name.

    :param version_table: the version table's qualified name.
    :param name: the name that the project has been given, if any; names of its version schemas derive from it.
    """

    def __init__(self, version_table: str, name: str | None = None) -> None:
        self.name = name
        self.project = version_table if name is None else f"{version_table} as {name}"

    def view_schema(self, revision: str, schema: str) -> str:
        """Return the name of the version schema of *revision* for the tables of *schema*."""
        return version_schema(revision, schema, self.name)

    def read(self, connection: Connection) -> State:
        """Return the whole state; an absent journal is an empty one."""
        if not connection.execute(text(sql.EXISTS)).scalar_one():
            return State(exists=False)
        rows = connection.execute(text(sql.MIGRATIONS), {"project": self.project}).mappings().all()
        flights = connection.execute(text(sql.FLIGHTS), {"project": self.project}).all()
        return State(
            exists=True,
            migrations=tuple(_migration(dict(row)) for row in rows),
            flights=tuple(replace(Flight.from_json(row[1]), relation=row[2] or 0) for row in flights),
            last_generation=connection.execute(text(sql.LAST_GENERATION)).scalar_one(),
            next_migration=connection.execute(text(sql.NEXT_MIGRATION)).scalar_one(),
        )

    def read_others(self, connection: Connection) -> tuple[Flight, ...]:
        """Return the tables that other projects have in flight."""
        if not connection.execute(text(sql.EXISTS)).scalar_one():
            return ()
        rows = connection.execute(text(sql.OTHER_FLIGHTS), {"project": self.project}).all()
        return tuple(replace(Flight.from_json(row[1]), relation=row[2] or 0) for row in rows)

    def reserve_number(self, connection: Connection) -> int:
        """Return a number for a migration that no other project's command takes meanwhile; 1 for the very first."""
        if not connection.execute(text(sql.EXISTS)).scalar_one():
            return 1
        lowest = int(connection.execute(text(sql.NEXT_MIGRATION)).scalar_one())
        number = 0
        while number < lowest:
            number = int(connection.execute(text(sql.RESERVE_NUMBER)).scalar_one())
        return number

    def read_generation(self, connection: Connection) -> int:
        """Return the last generation, and keep other projects from taking one until the transaction ends."""
        return int(connection.execute(text(f"{sql.LAST_GENERATION} FOR UPDATE")).scalar_one())

    def create(self, connection: Connection) -> None:
        """Create the journal's schema and tables unless they are there."""
        if connection.execute(text(sql.EXISTS)).scalar_one():
            return
        for statement in sql.CREATE_JOURNAL:
            send(connection, statement)

    def add_migration(self, connection: Connection, migration: Migration, last_generation: int) -> None:
        """Record a migration, with the plan that it will follow also after a crash."""
        connection.execute(text(sql.SET_GENERATION), {"last": last_generation})
        connection.execute(
            text(sql.ADD_MIGRATION),
            {
                "id": migration.id,
                "project": self.project,
                "revision": migration.revision,
                "from_revision": migration.from_revision,
                "state": migration.state,
                "schemas": list(migration.schemas),
                "digest": migration.operations_digest,
                "expand": migration.expand and migration.expand.to_json(),
                "extras": migration.extras,
            },
        )

    def set_state(self, connection: Connection, migration: int, state: str, allowed: Sequence[str]) -> bool:
        """Move a migration to *state* if it is in one of *allowed*; return whether it was."""
        result = connection.execute(text(sql.SET_STATE), {"id": migration, "state": state, "from": list(allowed)})
        return result.rowcount == 1

    def start_finish(self, connection: Connection, migration: int, state: str, plan: Plan) -> None:
        """Record the plan of a contract or rollback, from which there may be no way back."""
        connection.execute(text(sql.FORGET_STEPS), {"migration": migration, "phase": plan.phase})
        connection.execute(text(sql.SET_FINISH), {"id": migration, "state": state, "finish": plan.to_json()})

    def put_flight_json(self, connection: Connection, oid: int, data: str) -> None:
        """Record a table's flight from its JSON; an empty one ends it."""
        if data:
            connection.execute(text(sql.PUT_FLIGHT), {"oid": oid, "project": self.project, "data": data})
        else:
            connection.execute(text(sql.DROP_FLIGHT), {"oid": oid})

    def start_step(self, connection: Connection, migration: int, phase: str, position: int, step: Step) -> None:
        """Record that a step has begun."""
        connection.execute(
            text(sql.START_STEP),
            {
                "migration": migration,
                "phase": phase,
                "position": position,
                "name": step.name,
                "digest": step.digest(),
            },
        )

    def finish_step(self, connection: Connection, migration: int, phase: str, position: int) -> None:
        """Record that a step is done; in the step's own transaction where it has one."""
        connection.execute(text(sql.FINISH_STEP), {"migration": migration, "phase": phase, "position": position})

    def read_steps(self, connection: Connection, migration: int) -> Sequence[Mapping[str, Any]]:
        """Return the steps of a migration that have begun."""
        rows = connection.execute(text(sql.STEPS), {"migration": migration}).mappings()
        return [dict(row) for row in rows]

    def end_earlier(self, connection: Connection, migration: int) -> None:
        """Mark every version before this migration as ended."""
        connection.execute(text(sql.END_EARLIER), {"project": self.project, "id": migration})


def _migration(row: Mapping[str, Any]) -> Migration:
    return Migration(
        id=row["id"],
        revision=row["revision"],
        from_revision=row["from_revision"],
        state=row["state"],
        schemas=tuple(row["schemas"]),
        operations_digest=row["operations_digest"],
        expand=Plan.from_json(row["expand"]) if row["expand"] else None,
        finish=Plan.from_json(row["finish"]) if row["finish"] else None,
        extras=row["extras"],
    )
