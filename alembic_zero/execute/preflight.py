"""Look for rows that a new constraint would not let pass, before anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.locks import sqlstate
from alembic_zero.execute.quarantine import read_key
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.lens.compose import Composer
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.operations.errors import RefusedError
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.guards import key_guards, unique_guards
from alembic_zero.sql.markers import todo_condition
from alembic_zero.sql.preflight import SHOWN_ROWS, render_offending, render_repeated, row_key
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.lens.lens import Flight
    from alembic_zero.plan.demands import Demand

# Undefined table, column, function, type: the same upgrade makes it, so its rows cannot be looked at yet.
_NOT_THERE_YET = {"42P01", "42703", "42883", "42704", "3F000"}


def check_rows(connection: Connection, flight: Flight, demands: Iterable[Demand]) -> None:
    """Run the query of every demand in a transaction that only reads; ACCESS SHARE is its only lock.

    :raises RefusedError: code ZD213, there are rows that do not fit; names up to ten.
    """
    for demand in demands:
        with connection.begin():
            send(connection, "SET TRANSACTION READ ONLY")
            keys = [row["name"] for row in read_rows(connection, "key_columns", oid=flight.relation)]
            rows = _offending(connection, flight, demand, keys)
        if rows:
            raise _refuse(flight, demand, _listed(rows, keys))


def check_derived_keys(connection: Connection, flight: Flight) -> None:
    """Look for rows whose derived values break a UNIQUE or foreign key on them; ACCESS SHARE is the only lock.

    :param connection: in a transaction in which the newest level's functions are there, and no column of it.
    :raises RefusedError: code ZD213, there are such rows; names up to ten.
    """
    level = flight.levels[-1]
    before = flight.without_levels(len(flight.levels) - 1)
    skipped = todo_condition(before, f"t.{ident(MARKER)}") if before.has_marker else None
    name, shown = read_key(connection, flight)
    named = f"{literal(name)} || '=' || {shown}"
    values = _derived_values(flight)
    for guard in [one for one in unique_guards(flight) if one.level is level]:
        query = guard.render_repeated(values, named, skipped)
        _check(connection, flight, query, f"rows would be equal where {guard.guard.name!r} is to be unique")
    for key in key_guards(flight, [level]):
        problem = f"rows would have no match in {key.key.referenced}, for foreign key {key.key.foreign_key.name!r}"
        _check(connection, flight, key.render_orphans(values, named, skipped), problem)


def _derived_values(flight: Flight) -> dict[str, str]:
    """Return what the newest level will derive, as SQL over ``t``."""
    level = flight.levels[-1]
    composer = Composer(
        flight,
        level.ups,
        lambda function, arguments: render_call(JOURNAL_SCHEMA, function, arguments),
        lambda cell: f"t.{ident(str(flight.cell(cell).physical))}",
        frozenset(edge.target for edge in level.ups),
    )
    return {edge.target: composer.apply(edge) for edge in level.ups if not edge.linked}


def _check(connection: Connection, flight: Flight, query: str, problem: str) -> None:
    savepoint = connection.begin_nested()
    try:
        rows = send(connection, query).all()
    except DBAPIError:
        # What an expression makes of a single row is looked at elsewhere, and some of it is not there yet.
        savepoint.rollback()
        return
    if not rows:
        return
    label = flight.label
    listed = ", ".join(f"{key} with {value}" for key, value in rows) + (", ..." if len(rows) == SHOWN_ROWS else "")
    raise RefusedError(
        f"revision {flight.levels[-1].revision!r}, table {label}: {problem}: {listed}; nothing was changed: correct "
        "those rows, or change up=",
        code="ZD213",
        revision=flight.levels[-1].revision,
        table=label,
    )


def _offending(connection: Connection, flight: Flight, demand: Demand, keys: Sequence[str]) -> list[Sequence[str]]:
    table, key = ident(flight.schema, flight.name), row_key(keys)
    if demand.values:
        query = render_repeated(table, key, demand.values, where=demand.where, nulls_distinct=demand.nulls_distinct)
    else:
        query = render_offending(table, key, demand.condition, demand.skipped)
    savepoint = connection.begin_nested()
    try:
        return list(send(connection, query).all())
    except DBAPIError as error:
        savepoint.rollback()
        if sqlstate(error) in _NOT_THERE_YET:
            return []
        raise _refuse(flight, demand, describe_error(error)) from error


def _listed(rows: Sequence[Sequence[str]], keys: Sequence[str]) -> str:
    name = ", ".join(keys) or "ctid"
    shown = [f"({name})={key}" + (f" with {value}" if value else "") for key, value in rows]
    return ", ".join(shown) + (", ..." if len(rows) == SHOWN_ROWS else "")


def _refuse(flight: Flight, demand: Demand, listed: str) -> RefusedError:
    level = flight.levels[-1]
    name = flight.label
    return RefusedError(
        f"{demand.source}, table {name}: {demand.problem}: {listed}; nothing was changed: correct those rows, or give "
        "up= to convert them",
        code="ZD213",
        revision=level.revision,
        table=name,
    )
