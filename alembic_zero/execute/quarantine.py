"""Which rows are quarantined, and why: found out again on demand, as triggers record nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.lens.compose import Composer
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.sql.functions import render_assignment, render_call
from alembic_zero.sql.guards import UniqueGuardSql, key_guards
from alembic_zero.sql.links import call_again
from alembic_zero.sql.markers import quarantined_condition
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.lens.lens import Flight, Level, Rule


def count_quarantined(connection: Connection, flight: Flight) -> int:
    """Return how many rows of a table are quarantined."""
    condition = quarantined_condition(flight, f"t.{ident(MARKER)}")
    table = ident(flight.schema, flight.name)
    return int(send(connection, f"SELECT count(*) FROM {table} AS t WHERE {condition}").scalar_one())


def read_key(connection: Connection, flight: Flight) -> tuple[str, str]:
    """Return what tells the rows of a table from each other: in words, and as SQL over ``t``."""
    keys = [row["name"] for row in read_rows(connection, "key_columns", oid=flight.relation)]
    shown = [f"t.{ident(key)}::text" for key in keys]
    if not keys:
        keys, shown = ["ctid"], ["t.ctid::text"]
        if [leaf["oid"] for leaf in read_rows(connection, "leaves", oid=flight.relation)] != [flight.relation]:
            # Of a partitioned table, a row's place alone says nothing.
            keys, shown = ["partition", *keys], ["t.tableoid::regclass", *shown]
    return f"({', '.join(keys)})", f"ROW({', '.join(shown)})::text"


def describe_quarantined(connection: Connection, flight: Flight, limit: int) -> list[dict[str, Any]]:
    """Return key and error of some quarantined rows.

    :param connection: in a transaction; every attempt runs behind a savepoint.
    """
    name, shown = read_key(connection, flight)
    condition = quarantined_condition(flight, f"t.{ident(MARKER)}")
    rows = send(
        connection,
        f"SELECT n.nspname, c.relname, t.ctid::text, {shown} FROM {ident(flight.schema, flight.name)} AS t "
        "JOIN pg_catalog.pg_class AS c ON c.oid = t.tableoid "
        "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
        f"WHERE {condition} ORDER BY t.tableoid, t.ctid LIMIT {limit}",
    ).all()
    return [
        {"key": f"{name}={key}", "error": explain_row(connection, flight, (schema, table), tid)}
        for schema, table, tid, key in rows
    ]


def explain_row(connection: Connection, flight: Flight, leaf: tuple[str, str], tid: str) -> str:
    """Return why a row cannot be derived.

    :param connection: in a transaction; every attempt runs behind a savepoint.
    :param leaf: the table that holds the row, by schema and name.
    """
    name, shown = read_key(connection, flight)
    named = f"{literal(name)} || '=' || {shown}"
    for level in flight.levels:
        for statement, failure in _attempts(flight, level, leaf, tid, named):
            savepoint = connection.begin_nested()
            try:
                result = send(connection, statement)
                value = result.scalar() if result.returns_rows else None
            except DBAPIError as error:
                savepoint.rollback()
                return describe_error(error)
            # What follows in other tables is tried by writing it.
            savepoint.rollback()
            if value is False and failure:
                return failure
            if isinstance(value, str) and value:
                return value
    return "the row fits by now: any update of it ends the quarantine"


def _attempts(flight: Flight, level: Level, leaf: tuple[str, str], tid: str, named: str) -> list[tuple[str, str]]:
    """Return the queries to try on one row, in order, each with what it means if its answer is false.

    :param named: SQL that names a row, as text, for an answer that is a sentence.
    """

    def call(function: str, arguments: Sequence[str]) -> str:
        return render_call(JOURNAL_SCHEMA, function, arguments)

    values: dict[str, str] = {}

    def read(cell: str) -> str:
        # What the level derives is NULL in a quarantined row; its expression is what counts.
        return values.get(cell) or f"t.{ident(str(flight.cell(cell).physical))}"

    composer = Composer(flight, level.ups, call, read)
    for edge in level.ups:
        values[edge.target] = composer.apply(edge)
    source = f"FROM ONLY {ident(*leaf)} AS t WHERE t.ctid = {literal(tid)}::tid"
    # Assigned, as the trigger does it: a cast would cut off what is too long.
    attempts = [(render_assignment(flight.cell(c).type, f"SELECT {value} {source}"), "") for c, value in values.items()]
    for rule in level.rules:
        inputs = [values.get(c) or composer.value(c) for c in rule.cells]
        attempts.append((f"SELECT {_condition(rule, inputs, call)} {source}", _broken(rule, flight)))
    unique = [UniqueGuardSql(flight, level, guard) for guard in level.guards]
    attempts += [(one.render_conflict(values, named, leaf, tid), "") for one in unique]
    attempts += [(one.render_conflict(values, leaf, tid), "") for one in key_guards(flight, [level])]
    for link in level.links:
        if link.upward:
            inputs = [values.get(c) or composer.value(c) for c in link.source.cells]
            attempts.append((f"SELECT {call_again(link, inputs)} {source}", ""))
    return attempts


def _condition(rule: Rule, inputs: Sequence[str], call: Any) -> str:
    if rule.check is None:
        return f"({inputs[0]}) IS NOT NULL"
    return f"({call(str(rule.function), inputs)}) IS NOT FALSE"


def _broken(rule: Rule, flight: Flight) -> str:
    if rule.check is not None:
        return f"violates check constraint {rule.name!r}"
    names = {cell: name for number in range(len(flight.levels) + 1) for name, cell in flight.shape_at(number)}
    return f"null value in column {names[rule.cells[0]]!r}"
