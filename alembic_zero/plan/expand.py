"""Steps that expand a table: columns, trigger, backfill, indexes, constraints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.plan.publishing import hold_statements
from alembic_zero.plan.references import is_enforced_later
from alembic_zero.plan.step import Kind, Lock, LockMode, Step
from alembic_zero.sql import ddl
from alembic_zero.sql.guards import create_key_slots, key_guards
from alembic_zero.sql.links import LinkSql
from alembic_zero.sql.quoting import ident
from alembic_zero.sql.triggers import SyncTrigger, sync_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alembic_zero.catalog.snapshot import Column, Grant, TableFacts
    from alembic_zero.lens.lens import Cell, Edge, Flight, NewIndex, NewNotNull


def table_lock(flight: Flight, mode: LockMode) -> Lock:
    """Return the lock on the base table."""
    return Lock(ident(flight.schema, flight.name), mode, flight.relation)


def plan_columns(group: Sequence[tuple[Flight, TableFacts]], source: str) -> Step:
    """Return the step that adds the newest levels' columns, functions and triggers.

    ACCESS EXCLUSIVE, metadata only; without any lock where only views will differ.

    :param group: one table, or all that links tie together: what one of them carries must arrive.
    """
    flights = [flight for flight, _ in group]
    statements = expansion_statements(group)
    first = flights[0]
    return Step(
        name=f"expand {', '.join(flight.label for flight in flights)}",
        kind=Kind.TRANSACTION,
        source=source,
        statements=tuple(statements),
        locks=tuple(table_lock(flight, LockMode.ACCESS_EXCLUSIVE) for flight in flights) if statements else (),
        lock_mode=LockMode.ACCESS_EXCLUSIVE if statements else LockMode.ACCESS_SHARE,
        table=first.id,
        state=first.to_json(),
        states=tuple((flight.id, flight.to_json()) for flight in flights[1:]),
    )


def expansion_statements(group: Sequence[tuple[Flight, TableFacts]]) -> list[str]:
    """Return the DDL of that step; without triggers where they need an index first."""
    flights = {flight.id: flight for flight, _ in group}
    statements = [text for flight, facts in group for text in hold_statements(flight, facts)]
    statements += [text for flight, facts in group for text in _column_statements(flight, facts)]
    statements += [text for flight in flights.values() for text in function_statements(flight)]
    for flight in flights.values():
        for link in flight.levels[-1].links:
            statements += LinkSql(link, flight, flights[link.target.flight]).functions()
    return statements if is_guarded(flights.values()) else statements + _activation(flights.values())


def is_guarded(flights: Iterable[Flight]) -> bool:
    """Return whether triggers of these tables look into a unique index of the newest level.

    Then the index is built first, while what is to be derived is NULL everywhere: the triggers come after
    it, and what is written in between is left to the backfill.
    """
    return any(flight.levels[-1].guards for flight in flights)


def unguarded(flight: Flight) -> Flight:
    """Return the flight as it would be if nobody had to be kept from breaking the newest level's indexes."""
    return replace(flight, levels=(*flight.levels[:-1], replace(flight.levels[-1], guards=())))


def _activation(flights: Iterable[Flight]) -> list[str]:
    return [text for flight in flights for text in (*_defaults(flight), *_trigger_statements(flight))]


def plan_key_slots(source: str) -> Step:
    """Return the step that creates, once in a database, the rows that writers of equal keys lock."""
    return Step("key slots", Kind.TRANSACTION, source, tuple(create_key_slots()))


def plan_activation(flights: Sequence[Flight], source: str) -> Step:
    """Return the step that creates the triggers of guarded tables; ACCESS EXCLUSIVE, metadata only."""
    return Step(
        f"triggers of {', '.join(flight.label for flight in flights)}", Kind.TRANSACTION, source,
        tuple(_activation(flights)), tuple(table_lock(flight, LockMode.ACCESS_EXCLUSIVE) for flight in flights),
        LockMode.ACCESS_EXCLUSIVE, table=flights[0].id,
    )  # fmt: skip


def _column_statements(flight: Flight, facts: TableFacts) -> list[str]:
    number = len(flight.levels)
    level = flight.levels[-1]
    table = ident(flight.schema, flight.name)
    before = flight.without_levels(number - 1)
    known = {cell for n in range(number) for _, cell in flight.shape_at(n)}
    derived = set(flight.derived(number))
    statements = [] if before.has_marker or not flight.has_marker else [ddl.add_marker(table)]
    for column, cell in flight.columns_at(number):
        if cell.id not in known:
            statements += _new_column(table, column, cell, cell.id in derived)
            statements += _copied_grants(flight, facts, table, cell)
    return statements + [ddl.drop_not_null(table, str(flight.cell(cell).physical)) for cell in level.relaxed]


def function_statements(flight: Flight) -> list[str]:
    """Return the statements that create the newest level's functions; no table is locked."""
    level = flight.levels[-1]
    if not level.syncs:
        return []
    known = {edge.function for edge in flight.without_levels(len(flight.levels) - 1).generated}
    edges = [e for e in (*flight.generated, *level.ups, *level.downs) if e.function not in known and not e.linked]
    statements = [text for e in edges for text in (e.definition, _rights_on(e))]
    functions = [(str(r.function), r.definition) for r in level.rules if r.definition]
    return statements + [text for name, definition in functions for text in (definition, _grant_execute(name))]


def _rights_on(edge: Edge) -> str:
    """Return the statement after which clients' triggers, and nobody else, may call an edge's function."""
    if edge.reads_tables:
        # The trigger has the rights of the migrating role then.
        return ddl.close_function(JOURNAL_SCHEMA, edge.function)
    # Clients call it; a hardened database gives PUBLIC no right on new functions by itself.
    return _grant_execute(edge.function)


def _grant_execute(name: str) -> str:
    return f"GRANT EXECUTE ON FUNCTION {ident(JOURNAL_SCHEMA, name)} TO PUBLIC"


def _trigger_statements(flight: Flight) -> list[str]:
    level = flight.levels[-1]
    table = ident(flight.schema, flight.name)
    before = flight.without_levels(len(flight.levels) - 1)
    statements = [ddl.add_check(table, c.physical, c.physical_definition) for c in level.checks]
    statements += [ddl.add_check(table, n.helper_name, _not_null(flight, n)) for n in level.not_nulls]
    if flight.has_marker and (level.syncs or before.has_marker):
        statements += replace_trigger(before, flight, fresh=True)
    return statements


def _not_null(flight: Flight, new: NewNotNull) -> str:
    return f"CHECK ({ident(str(flight.cell(new.cell).physical))} IS NOT NULL)"


def replace_trigger(before: Flight, after: Flight, *, fresh: bool = False) -> list[str]:
    """Return the statements that put the trigger of *after* in the place of that of *before*.

    :param fresh: the foreign keys of the newest level are not there yet, or not any more.
    """
    statements = drop_triggers(before) if before.has_marker else []
    if after.has_marker:
        sync = SyncTrigger(after, fresh)
        statements += [sync.render_function(), *sync.render_triggers()]
    elif before.has_marker:
        statements.append(f"DROP FUNCTION IF EXISTS {ident(JOURNAL_SCHEMA, sync_name(before))}()")
    return statements


def drop_triggers(flight: Flight) -> list[str]:
    """Return DROP TRIGGER for each of the flight's triggers."""
    table = ident(flight.schema, flight.name)
    return [f"DROP TRIGGER IF EXISTS {ident(name)} ON {table}" for name in SyncTrigger(flight).trigger_names()]


def _new_column(table: str, column: Column, cell: Cell, derived: bool) -> list[str]:
    physical = str(cell.physical)
    if not derived:
        return [
            ddl.add_constant_column(table, column, physical),
            *ddl.column_settings(table, column, physical),
        ]
    statements = [ddl.add_column(table, column, physical), *ddl.column_settings(table, column, physical)]
    if cell.numbers is not None and column.identity is not None:
        statements += ddl.create_numbers(JOURNAL_SCHEMA, cell.numbers, column.identity)
    return statements


def _defaults(flight: Flight) -> list[str]:
    """Return SET DEFAULT for new columns that are derived.

    In statements of their own: together with ADD COLUMN a volatile default rewrites the table. And not before
    the triggers, which keep a default from being written twice to a column that is to be unique.
    """
    number = len(flight.levels)
    table = ident(flight.schema, flight.name)
    derived = set(flight.derived(number))
    known = {cell for n in range(number) for _, cell in flight.shape_at(n)}
    statements = []
    for column, cell in flight.columns_at(number):
        if cell.id in known or cell.id not in derived:
            continue
        if cell.numbers is not None and column.identity is not None:
            value = ddl.next_value(JOURNAL_SCHEMA, cell.numbers)
            statements.append(ddl.set_default(table, str(cell.physical), value))
        elif column.default is not None and cell.sequence_of is None:
            statements.append(ddl.set_default(table, str(cell.physical), column.default))
    return statements


def _copied_grants(flight: Flight, facts: TableFacts, table: str, cell: Cell) -> list[str]:
    """Return the column privileges of the column that a copy replaces."""
    if cell.source is None:
        return []
    before = flight.cell(cell.source).physical
    grants: list[Grant] = [g for g in facts.column_grants if g.column == before]
    return [ddl.grant_on_column(table, str(cell.physical), g) for g in grants]


def plan_backfill(flight: Flight, source: str, fired: Sequence[str]) -> list[Step]:
    """Return the backfill, if there is anything to derive.

    :param fired: users' triggers that the backfill fires.
    """
    if not flight.levels[-1].ups:
        return []
    cost = "scans and updates every row" + (f", fires {', '.join(fired)}" if fired else "")
    return [
        Step(f"backfill {flight.label}", Kind.BACKFILL, source, table=flight.id, lock_mode=LockMode.ROW_EXCLUSIVE,
             cost=cost)
    ]  # fmt: skip


def plan_fills(flight: Flight, targets: Mapping[int, Flight], source: str) -> Iterator[Step]:
    """Yield the backfill of every table whose rows follow from this one's."""
    for link in flight.levels[-1].links:
        if link.upward and link.columns:
            target = targets[link.target.flight]
            yield Step(f"fill {target.label} from {flight.label}", Kind.FILL, source, table=flight.id,
                       link=link.name, lock_mode=LockMode.ROW_EXCLUSIVE, cost="scans, inserts every row")  # fmt: skip


def plan_indexes(flight: Flight, source: str, *, guarded: bool = False) -> Iterator[Step]:
    """Yield the concurrent build of every new index.

    :param guarded: of those that triggers look into, or of all others.
    """
    looked_into = {guard.physical for guard in flight.levels[-1].guards}
    for index in flight.levels[-1].indexes:
        if (index.physical in looked_into) != guarded:
            continue
        if index.index.constraint == "x":
            yield _exclusion(flight, index, source)
            continue
        text = ddl.create_index_concurrently(
            index.physical, index.physical_definition, flight.schema, flight.name, unique=index.index.unique
        )
        yield Step(f"index {index.physical} on {flight.label}", Kind.INDEX, source, (text,), table=flight.id,
                   index=(flight.schema, index.physical), lock_mode=LockMode.SHARE_UPDATE_EXCLUSIVE,
                   cost="scans twice")  # fmt: skip


def _exclusion(flight: Flight, new: NewIndex, source: str) -> Step:
    """Return the step that adds an exclusion constraint to a table that is still empty.

    There is no concurrent way: on a table with rows the step fails before it scans them.
    """
    table = ident(flight.schema, flight.name)
    statements = (
        ddl.drop_constraint(table, new.physical),
        ddl.refuse_rows(table, f"exclusion constraint {new.index.name!r}"),
        ddl.add_exclusion(table, new.physical, new.physical_definition, new.index.constraint_suffix),
    )
    lock = table_lock(flight, LockMode.ACCESS_EXCLUSIVE)
    return Step(f"exclusion constraint {new.physical} on {flight.label}", Kind.TRANSACTION, source, statements,
                (lock,), LockMode.ACCESS_EXCLUSIVE, cost="of an empty table", table=flight.id)  # fmt: skip


def plan_validation(flight: Flight, source: str) -> list[Step]:
    """Return the validation of constraints that were added NOT VALID."""
    level = flight.levels[-1]
    table = ident(flight.schema, flight.name)
    validations = [ddl.validate(table, c.physical) for c in level.checks]
    validations += [ddl.validate(table, n.helper_name) for n in level.not_nulls]
    validations += [ddl.validate(table, f.physical) for f in level.foreign_keys if not is_enforced_later(f.suffix)]
    if not validations:
        return []
    return [
        Step(f"validate {flight.label}", Kind.AUTOCOMMIT, source, tuple(validations), table=flight.id,
             lock_mode=LockMode.SHARE_UPDATE_EXCLUSIVE, cost="scans")
    ]  # fmt: skip


def plan_foreign_keys(flight: Flight, source: str) -> list[Step]:
    """Return the step that adds new foreign keys NOT VALID; both ends are locked.

    Nothing in it may need a stronger lock on a table than the one taken first: PostgreSQL ends at once, as
    a deadlock, a client that has read the table and would write to it meanwhile.
    """
    level = flight.levels[-1]
    table = ident(flight.schema, flight.name)
    if not level.foreign_keys:
        return []
    locks = [table_lock(flight, LockMode.SHARE_ROW_EXCLUSIVE)]
    locks += [Lock(f.referenced, LockMode.SHARE_ROW_EXCLUSIVE) for f in level.foreign_keys]
    statements = [ddl.add_foreign_key(table, f.physical, f.physical_columns, f.suffix) for f in level.foreign_keys]
    guards = key_guards(flight, [level])
    for guard in guards:
        statements += guard.render_functions()
        for name, text in guard.render_triggers():
            statements += [text, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {ident(name)}"]
    steps = [
        Step(f"foreign keys of {flight.label}", Kind.TRANSACTION, source, tuple(statements), tuple(locks),
             LockMode.SHARE_ROW_EXCLUSIVE, table=flight.id)
    ]  # fmt: skip
    if guards:
        settle = tuple(guard.render_settle() for guard in guards)
        steps.append(Step(f"orphans of {flight.label}", Kind.TRANSACTION, source, settle,
                          lock_mode=LockMode.ROW_EXCLUSIVE, cost="scans", table=flight.id))  # fmt: skip
    return steps


def plan_fulfilment(flight: Flight, source: str) -> Step | None:
    """Return the step that makes sure that no row is left to do; None if the level derives nothing."""
    if not flight.levels[-1].quarantines:
        return None
    return Step(f"check {flight.label}", Kind.FULFILLED, source, table=flight.id, cost="scans")
