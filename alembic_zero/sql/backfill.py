"""Statements of the backfill: set-based, one block range at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import QUARANTINE_OFFSET
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.quoting import ident, literal
from alembic_zero.sql.triggers import todo_condition

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


def render_range(flight: Flight, leaf: tuple[str, str], first_block: int, end_block: int) -> str:
    """Return the statement that derives the newest level for one block range of one leaf table.

    Rows that clients hold are skipped; those whose result the level's rules forbid are quarantined.
    """
    stages = _stages(flight)
    read = _selected(flight)
    columns = "".join(f", t.{_column(flight, c)}" for c in read)
    source = (
        f"todo AS MATERIALIZED (\n  SELECT t.ctid AS _zd_tid{columns}\n    FROM ONLY {ident(*leaf)} AS t\n"
        f"   WHERE {_range(first_block, end_block)} AND {_ready(flight)}\n"
        "     FOR NO KEY UPDATE SKIP LOCKED)"
    )
    composer = Composer(flight, flight.levels[-1].ups, _call, lambda cell: _column(flight, cell))
    name = "todo"
    for number, stage in enumerate(stages, 1):
        values = "".join(f", {composer.apply(e)} AS {_column(flight, e.target)}" for e in stage)
        replaced = {e.target for e in stage}
        kept = "".join(f", {_column(flight, c)}" for c in _carried(read, stages[: number - 1], replaced))
        source += f",\nstage_{number} AS MATERIALIZED (\n  SELECT _zd_tid{kept}{values} FROM {name})"
        name = f"stage_{number}"
    return f"WITH {source}\n{_update(flight, leaf, name)}"


def _carried(read: Sequence[str], earlier: Sequence[Sequence[Edge]], replaced: set[str]) -> list[str]:
    names = [*read, *(e.target for stage in earlier for e in stage)]
    return [c for c in dict.fromkeys(names) if c not in replaced]


def _selected(flight: Flight) -> list[str]:
    """Return the cells that the first stage has to read."""
    composer = Composer(flight, flight.levels[-1].ups, _call, lambda cell: _column(flight, cell))
    targets = {e.target for e in _targets(flight)}
    found = [c for e in _targets(flight) for c in composer.inputs(e)]
    for rule in flight.levels[-1].rules:
        found += [c for cell in rule.cells for c in _plain_inputs(flight, composer, cell)]
    return [c for c in dict.fromkeys(found) if c not in targets]


def _plain_inputs(flight: Flight, composer: Composer, cell: str) -> tuple[str, ...]:
    if not flight.cell(cell).generated:
        return (cell,)
    return composer.inputs(next(e for e in flight.generated if e.target == cell))


def _acceptable(flight: Flight) -> str:
    composer = Composer(flight, flight.levels[-1].ups, _call, lambda cell: f"v.{_column(flight, cell)}")
    conditions = []
    for rule in flight.levels[-1].rules:
        if rule.check is None:
            conditions.append(f"v.{_column(flight, rule.cells[0])} IS NOT NULL")
        else:
            call = _call(str(rule.function), [composer.value(c) for c in rule.cells])
            conditions.append(f"({call}) IS NOT FALSE")
    return " AND ".join(conditions)


def _update(flight: Flight, leaf: tuple[str, str], source: str) -> str:
    generation = flight.levels[-1].generation
    condition = _acceptable(flight)
    marker = str(generation)
    values = {e.target: f"v.{_column(flight, e.target)}" for e in _targets(flight)}
    if condition:
        marker = f"CASE WHEN {condition} THEN {generation} ELSE {-QUARANTINE_OFFSET - generation} END"
        values = {c: f"CASE WHEN {condition} THEN {v} END" for c, v in values.items()}
    assignments = "".join(f", {_column(flight, c)} = {v}" for c, v in values.items())
    return (
        f"UPDATE ONLY {ident(*leaf)} AS t SET {ident(MARKER)} = {marker}{assignments}\n"
        f"  FROM {source} AS v\n WHERE t.ctid = v._zd_tid"
    )


def render_touch(flight: Flight, leaf: tuple[str, str], first_block: int, end_block: int) -> str:
    """Return the statement that leaves the rest of a range to the trigger, row by row.

    For rows that an older level quarantined or never reached, and for ranges in which an
    expression raised: there the trigger finds the one row and quarantines it.
    """
    marker = f"t.{ident(MARKER)}"
    return (
        f"UPDATE ONLY {ident(*leaf)} AS t SET {ident(MARKER)} = {marker}\n"
        f" WHERE {_range(first_block, end_block)} AND {todo_condition(flight, marker)}"
    )


def render_remaining(flight: Flight, condition: str) -> str:
    """Return the query whether any row of the table meets a condition over its marker."""
    return f"SELECT EXISTS (SELECT FROM {ident(flight.schema, flight.name)} AS t WHERE {condition})"


def render_left(leaf: tuple[str, str], condition: str) -> str:
    """Return the query for the blocks of one leaf table that still hold rows of a condition, some of them at once."""
    block = "(t.ctid::text::point)[0]::bigint"
    return (
        f"SELECT {block}, count(*) FROM ONLY {ident(*leaf)} AS t WHERE {condition}\n GROUP BY 1 ORDER BY 1 LIMIT 1000"
    )


def render_vacuum(leaf: tuple[str, str]) -> str:
    """Return the VACUUM between ranges, so that the table does not double."""
    return f"VACUUM (INDEX_CLEANUP OFF, TRUNCATE OFF, SKIP_LOCKED) {ident(*leaf)}"
