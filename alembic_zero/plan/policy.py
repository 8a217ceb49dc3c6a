"""What is refused before anything changes, because it cannot be done safely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.lens.objects import lost_at
from alembic_zero.operations.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic_zero.catalog.snapshot import Server, TableFacts
    from alembic_zero.lens.lens import Flight
    from alembic_zero.plan.draft import Draft
    from alembic_zero.plan.items import Item

_ROW_SECURITY_SINCE = 15
_KINDS = {"f": "a foreign table", "v": "a view", "m": "a materialized view"}


def check_table(item: Item, facts: TableFacts, server: Server) -> None:
    """Refuse a kind of table that views and triggers of ours cannot serve.

    :raises RefusedError: says which and what to do instead.
    """
    problem = _table_problem(facts, server)
    if problem:
        name = f"{facts.schema}.{facts.name}"
        raise RefusedError(
            f"{item.describe()}: table {name} {problem}; nothing was changed",
            code="ZD208",
            revision=item.revision,
            table=name,
        )


def _table_problem(facts: TableFacts, server: Server) -> str | None:
    if facts.kind not in ("r", "p"):
        return f"is {_KINDS.get(facts.kind, 'not a table')}, not an ordinary table"
    if facts.has_foreign_partition:
        return "has a foreign table as a partition, whose rows are elsewhere: detach it for the time of the migration"
    if (facts.kind == "r" and facts.has_children) or facts.is_child:
        return "is part of an inheritance tree: its triggers would not fire for every row"
    if facts.row_security and server.version < _ROW_SECURITY_SINCE:
        return "has row security, which views can keep from PostgreSQL 15 on only"
    if facts.row_security and facts.column_grants:
        return "has both row security and column privileges: no view can keep both"
    if facts.force_row_security and not server.bypasses_row_security:
        return "forces row security on its owner: migrate as a role with BYPASSRLS, or rows would be overlooked"
    return None


def check_columns(revision: str, flight: Flight, facts: TableFacts) -> None:
    """Refuse new columns where functions or triggers take the table's row as it is now.

    :raises RefusedError: names them.
    """
    level = flight.levels[-1]
    before = {c for n in range(len(flight.levels)) for _, c in flight.shape_at(n)}
    adds = any(cell not in before for _, cell in level.shape) or level.syncs
    name = flight.label
    copying = [t.name for t in facts.triggers if t.copies_rows]
    if adds and copying:
        raise RefusedError(
            f"revision {revision!r}, table {name}: trigger {copying[0]!r} copies whole rows (OLD.* or NEW.*) and would "
            "fail with one more column: give it explicit column lists first; nothing was changed",
            code="ZD209",
            revision=revision,
            table=name,
        )
    if adds and facts.row_type_functions:
        raise RefusedError(
            f"revision {revision!r}, table {name}: function {', '.join(facts.row_type_functions)} returns the "
            "table's row type and would fail with one more column: give it an explicit column list first; "
            "nothing was changed",
            code="ZD209",
            revision=revision,
            table=name,
        )


def check_foreign_keys(revision: str, draft: Draft, flights: Sequence[Flight]) -> None:
    """Refuse a new foreign key that the server would tie to a key which is about to go.

    :param flights: all tables in flight.
    :raises RefusedError: names the key.
    """
    for new in draft.foreign_keys:
        reference = draft.references.get(new.name)
        other = next((f for f in flights if reference and f.relation == reference.relation), None)
        if new.origin is not None or reference is None or other is None:
            continue
        for lost in lost_at(other, len(other.levels)):
            if lost.unique and {other.cell(c).physical for c in lost.cells} == set(reference.columns):
                name = f"{draft.flight.schema}.{draft.flight.name}"
                raise RefusedError(
                    f"revision {revision!r}, table {name}: foreign key {new.name!r} would depend on {lost.name!r} of "
                    f"{other.schema}.{other.name}, which goes: create it in a revision after that one is completed; "
                    "nothing was changed",
                    code="ZD207",
                    revision=revision,
                    table=name,
                )


def check_reads(revision: str, drafts: Sequence[Draft], flights: Sequence[Flight]) -> None:
    """Refuse subqueries of a table that is not, or will not be, as the expression takes it to be.

    :param flights: tables that were in flight before.
    :raises RefusedError: names the operation and the table.
    """
    flying = {flight.relation: flight for flight in flights}
    planned = {draft.flight.relation: draft for draft in drafts}
    for read in (read for draft in drafts for read in draft.reads):
        name = f"{read.schema}.{read.table}"
        if read.relation in flying:
            problem = f"{name}, which is in flight: its columns are not what the newest version shows"
            advice = f"alembic zd-complete {flying[read.relation].levels[-1].revision}"
        elif read.relation in planned and read.column in planned[read.relation].lost_columns:
            problem = f"column {read.column!r} of {name}, which the same upgrade takes away: do that in a later one"
            advice = None
        else:
            continue
        raise RefusedError(
            f"{read.source}: the expression reads {problem}; nothing was changed",
            code="ZD211",
            revision=revision,
            table=name,
            next_command=advice,
        )


def check_looked_up(revision: str, draft: Draft, lookups: Sequence[tuple[str, str]], flights: Sequence[Flight]) -> None:
    """Refuse to take away a column that expressions in flight look up.

    :param lookups: column and function of each look-up into this table.
    :param flights: all tables that were in flight before.
    :raises RefusedError: names the column and the revision to complete first.
    """
    reading = {
        edge.function: (flight, level, edge)
        for flight in flights
        for level in flight.levels
        for edge in (*level.ups, *level.downs)
        if edge.reads_tables
    }
    for column, function in lookups:
        if function in reading and column in draft.lost_columns:
            flight, level, edge = reading[function]
            name = f"{draft.flight.schema}.{draft.flight.name}"
            raise RefusedError(
                f"revision {revision!r}, table {name}: column {column!r} is looked up by {edge.expression!r} for table "
                f"{flight.label} (revision {level.revision!r}), which is in flight; nothing was "
                "changed: complete that one first",
                code="ZD207",
                revision=revision,
                table=name,
                next_command=f"alembic zd-complete {level.revision}",
            )


def check_triggers(revision: str, flight: Flight, facts: TableFacts) -> None:
    """Refuse users' triggers that look at a statement's column list: they would not see synchronised columns.

    :raises RefusedError: names the trigger and its replacement.
    """
    if not flight.levels[-1].syncs:
        return
    touched = {
        flight.cell(cell).physical
        for level in flight.levels
        for edge in (*level.ups, *level.downs)
        for cell in (edge.target,)
    }
    for trigger in facts.triggers:
        by_list = set(trigger.update_columns) & touched
        # Arguments: the vector column, the configuration (or its column), then the text columns.
        vector = trigger.on_update and trigger.function.startswith("tsvector_update_trigger")
        by_argument = set(trigger.arguments[2:]) & touched if vector else set()
        found = by_list | by_argument
        if found:
            column = min(str(c) for c in found)
            raise RefusedError(
                f"revision {revision!r}, table {flight.label}: trigger {trigger.name!r} fires only when "
                f"a statement names column {column!r} and would miss what new clients write: make it a plain UPDATE "
                "trigger that compares OLD and NEW; nothing was changed",
                code="ZD212",
                revision=revision,
                table=flight.label,
            )
