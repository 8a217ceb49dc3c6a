"""Look for rows that a new constraint would not let pass, before anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.locks import sqlstate
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.operations.errors import RefusedError
from alembic_zero.sql.preflight import SHOWN_ROWS, render_offending, render_repeated, row_key
from alembic_zero.sql.quoting import ident

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
    name = f"{flight.schema}.{flight.name}"
    return RefusedError(
        f"{demand.source}, table {name}: {demand.problem}: {listed}; nothing was changed: correct those rows, or give "
        "up= to convert them",
        code="ZD213",
        revision=level.revision,
        table=name,
    )
