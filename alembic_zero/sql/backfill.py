"""Statements of the backfill: set-based, one block range at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import QUARANTINE_OFFSET
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.links import found_table, found_value
from alembic_zero.sql.markers import quarantined_condition, todo_condition
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic_zero.lens.lens import Edge, Flight


def _call(function: str, arguments: Sequence[str]) -> str:
    return render_call(JOURNAL_SCHEMA, function, arguments)


def _column(flight: Flight, cell: str) -> str:
    return ident(str(flight.cell(cell).physical))


def _range(first_block: int, end_block: int) -> str:
    first, end = literal(f"({first_block},0)"), literal(f"({end_block},0)")
    return f"t.ctid >= {first}::tid AND t.ctid < {end}::tid"


def _targets(flight: Flight) -> list[Edge]:
    derived = flight.derived(len(flight.levels))
    return [e for e in flight.levels[-1].ups if e.target in derived]


def _stages(flight: Flight) -> list[list[Edge]]:
    """Return the edges in groups: an edge that reads another one's target comes in a later group."""
    composer = Composer(flight, flight.levels[-1].ups, _call, lambda cell: _column(flight, cell))
    stages: list[list[Edge]] = []
    placed: dict[str, int] = {}
    for edge in _targets(flight):
        stage = max((placed[c] + 1 for c in composer.inputs(edge) if c in placed), default=0)
        placed[edge.target] = stage
        stages += [[] for _ in range(stage + 1 - len(stages))]
        stages[stage].append(edge)
    return stages


def _ready(flight: Flight) -> str:
    """Return SQL for rows that stand exactly one level below the newest: the set-based statement's share."""
    generation = flight.levels[-1].generation
    below = flight.without_levels(len(flight.levels) - 1).backfilled_generation()
    marker = f"t.{ident(MARKER)}"
    if below is None:
        return f"({marker} IS NULL OR {marker} >= 0 AND {marker} < {generation})"
    return f"({marker} >= {below} AND {marker} < {generation})"


def render_range(
    flight: Flight, leaf: tuple[str, str], first_block: int, end_block: int, found_in: Sequence[int] = ()
) -> str:
    """Return the statement that derives the newest level for one block range of one leaf table.

    :param found_in: the files of the table in which linked values have been found by ctid; once a rewrite has
        put the rows into another file, the statement leaves all of them to the trigger.

    Rows that clients hold are skipped; those whose result the level's rules forbid are quarantined.
    The ctids go into a TID scan, whatever the statistics say: for a join with the locked rows, once the
    table has been analysed, the planner reads the whole table for every range.
    """
    source, names = _derived_row(flight)
    cells = [e.target for e in _targets(flight)]
    condition = _acceptable(flight, names)
    marker = str(flight.levels[-1].generation)
    values = [names[c] for c in cells]
    if condition:
        marker = f"CASE WHEN v.ok THEN {marker} ELSE {-QUARANTINE_OFFSET - flight.levels[-1].generation} END"
        values = [f"CASE WHEN v.ok THEN {value} END" for value in values]
        source = f"(SELECT v.*, {condition} AS ok FROM {source} AS v OFFSET 0)"
    targets = ", ".join([ident(MARKER), *(_column(flight, c) for c in cells)])
    unmoved = [f"{_filenode(leaf)} = {number}" for number in found_in]
    return (
        f"UPDATE ONLY {ident(*leaf)} AS t SET ({targets}) =\n"
        f"  (SELECT {', '.join([marker, *values])} FROM {source} AS v WHERE v.tid = t.ctid)\n"
        f" WHERE t.ctid = ANY (ARRAY(\n  SELECT t.ctid FROM ONLY {ident(*leaf)} AS t\n"
        f"   WHERE {' AND '.join([_range(first_block, end_block), _ready(flight), *unmoved])}\n"
        "     FOR NO KEY UPDATE SKIP LOCKED))"
    )


def _filenode(table: tuple[str, str]) -> str:
    return f"pg_catalog.pg_relation_filenode({literal(ident(*table))}::pg_catalog.regclass)"


def render_filenode(table: tuple[str, str]) -> str:
    """Return the query for the file that holds the rows of a table; a rewrite makes a new one."""
    return f"SELECT {_filenode(table)}"


def _derived_row(flight: Flight) -> tuple[str, dict[str, str]]:
    """Return a FROM item with every derived value, computed once a row, and how each cell is read from it."""
    names: dict[str, str] = {}
    # Bound to the row: without it, a volatile function without arguments would run once a statement.
    source = "(SELECT t.ctid AS tid OFFSET 0)"
    for stage in _stages(flight):
        composer = _reader(flight, dict(names))
        kept = ["v.tid", *names.values()]
        values = [f"{_value(flight, composer, e)} AS d{len(kept) + n}" for n, e in enumerate(stage)]
        # OFFSET 0: not merged into the query above, which would compute a value again wherever it is used.
        source = f"(SELECT {', '.join([*kept, *values])} FROM {source} AS v OFFSET 0)"
        names.update({e.target: f"v.d{len(kept) + n}" for n, e in enumerate(stage)})
    return source, names


def _value(flight: Flight, composer: Composer, edge: Edge) -> str:
    """Return a derived value; one from another table has been found before, by one join for all rows."""
    if not edge.linked:
        return composer.apply(edge)
    column = next(c for c, cell in flight.columns_at(len(flight.levels)) if cell.id == edge.target)
    value = found_value(None if column.identity else column.default)
    return f"(SELECT {value} FROM (SELECT) AS one LEFT JOIN {found_table(edge.function)} AS f ON f.tid = t.ctid)"


def _reader(flight: Flight, names: dict[str, str]) -> Composer:
    return Composer(flight, flight.levels[-1].ups, _call, lambda c: names.get(c) or f"t.{_column(flight, c)}")


def _acceptable(flight: Flight, names: dict[str, str]) -> str:
    composer = _reader(flight, names)
    conditions = []
    for rule in flight.levels[-1].rules:
        if rule.check is None:
            conditions.append(f"{composer.value(rule.cells[0])} IS NOT NULL")
        else:
            call = _call(str(rule.function), [composer.value(c) for c in rule.cells])
            conditions.append(f"({call}) IS NOT FALSE")
    return " AND ".join(conditions)


def render_touch(flight: Flight, leaf: tuple[str, str], first_block: int, end_block: int) -> str:
    """Return the statement that leaves the rest of a range to the trigger, row by row.

    Rows that clients hold are skipped.
    For rows that an older level quarantined or never reached, and for ranges in which an
    expression raised: there the trigger finds the one row and quarantines it.
    """
    marker = f"t.{ident(MARKER)}"
    return (
        f"UPDATE ONLY {ident(*leaf)} AS t SET {ident(MARKER)} = {marker}\n"
        f" WHERE t.ctid = ANY (ARRAY(\n  SELECT t.ctid FROM ONLY {ident(*leaf)} AS t\n"
        f"   WHERE {_range(first_block, end_block)} AND {todo_condition(flight, marker)}\n"
        "     FOR NO KEY UPDATE SKIP LOCKED))"
    )


def render_remaining(flight: Flight, condition: str) -> str:
    """Return the query whether any row of the table meets a condition over its marker."""
    return f"SELECT EXISTS (SELECT FROM {ident(flight.schema, flight.name)} AS t WHERE {condition})"


def render_try_again(flight: Flight, limit: int | None = None) -> str:
    """Return the statement by which the trigger tries quarantined rows again, but for those that clients hold.

    :param limit: how many of them; all by default.
    """
    most = "" if limit is None else f" LIMIT {limit}"
    table, marker = ident(flight.schema, flight.name), f"t.{ident(MARKER)}"
    return (
        f"UPDATE {table} AS t SET {ident(MARKER)} = {marker}\n"
        f" WHERE (t.tableoid, t.ctid) IN (SELECT t.tableoid, t.ctid FROM {table} AS t\n"
        f"   WHERE {quarantined_condition(flight, marker)}{most} FOR NO KEY UPDATE SKIP LOCKED)"
    )


def render_left(leaf: tuple[str, str], condition: str) -> str:
    """Return the query for the blocks of one leaf table that still hold rows of a condition, some of them at once."""
    block = "(t.ctid::text::point)[0]::bigint"
    return (
        f"SELECT {block}, count(*) FROM ONLY {ident(*leaf)} AS t WHERE {condition}\n GROUP BY 1 ORDER BY 1 LIMIT 1000"
    )


def render_vacuum(leaf: tuple[str, str]) -> str:
    """Return the VACUUM between ranges, so that the table does not double."""
    return f"VACUUM (INDEX_CLEANUP OFF, TRUNCATE OFF, SKIP_LOCKED) {ident(*leaf)}"
