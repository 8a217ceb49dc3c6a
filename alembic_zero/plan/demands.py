"""What a plan demands of the rows that exist: constraints that nothing derives values for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.lens.objects import ObjectKind
from alembic_zero.names import MARKER
from alembic_zero.plan.references import parse_clause
from alembic_zero.sql.markers import todo_condition
from alembic_zero.sql.preflight import is_false, is_null, is_orphan
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic_zero.lens.lens import Flight, NewForeignKey, NewIndex
    from alembic_zero.plan.draft import Draft


@dataclass(frozen=True)
class Demand:
    """One constraint, and how to find rows that break it.

    :param source: the operation that it comes from.
    :param problem: what is wrong with the rows, for a person.
    :param condition: SQL that is true for such a row; empty for uniqueness, which *values* are about.
    :param where: conditions of the rows that count, for uniqueness.
    :param skipped: SQL that is true for rows which an earlier revision has still to derive.
    """

    source: str
    problem: str
    condition: str = ""
    values: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    nulls_distinct: bool = True
    skipped: str | None = None


def demands_of(flight: Flight, draft: Draft) -> Iterator[Demand]:
    """Yield what the newest level demands of rows as they are; columns that it derives are not among it."""
    level = flight.levels[-1]
    if draft.physical is None:
        return
    skipped = _skipped(flight)
    names = {cell: name for name, cell in (*level.shape, *flight.shape_at(len(flight.levels) - 1))}
    for new in level.not_nulls:
        source = next((s for (kind, _), s in draft.described.items() if kind == ObjectKind.INDEX), level.revision)
        yield _not_null(flight, new.cell, names[new.cell], source, skipped)
    for cell, source in draft.bare_not_nulls.items():
        if cell in draft.before:
            yield _not_null(flight, cell, names[cell], source, skipped)
    expressions = {c.name: c.expression for c in draft.physical.checks}
    for check in level.checks:
        if _exist(draft, check.check.columns):
            source = _source(draft, ObjectKind.CHECK, check.check.name, level.revision)
            problem = f"rows violate check constraint {check.check.name!r}"
            yield Demand(source, problem, is_false(expressions[check.check.name]), skipped=skipped)
    for index in level.indexes:
        if index.index.unique and _exist(draft, index.index.columns):
            yield _unique(draft, index, level.revision, skipped)
    for key in level.foreign_keys:
        if key.foreign_key.origin is None and _exist(draft, key.foreign_key.columns):
            yield _foreign_key(draft, key, level.revision, skipped)


def _exist(draft: Draft, columns: tuple[str, ...]) -> bool:
    """Return whether the table has all these columns already, and keeps them as they are."""
    return all(draft.shape[c] in draft.before for c in columns)


def _skipped(flight: Flight) -> str | None:
    before = flight.without_levels(len(flight.levels) - 1)
    return todo_condition(before, f"t.{ident(MARKER)}") if before.has_marker else None


def _source(draft: Draft, kind: ObjectKind, name: str, revision: str) -> str:
    return draft.described.get((kind, name), f"revision {revision!r}")


def _not_null(flight: Flight, cell: str, name: str, source: str, skipped: str | None) -> Demand:
    return Demand(
        source, f"rows are NULL in column {name!r}", is_null(str(flight.cell(cell).physical)), skipped=skipped
    )


def _unique(draft: Draft, new: NewIndex, revision: str, skipped: str | None) -> Demand:
    assert draft.physical is not None  # noqa: S101 - checked by the caller
    physical = next(i for i in draft.physical.indexes if i.name == new.index.name)
    where = [physical.predicate] if physical.predicate else []
    return Demand(
        _source(draft, ObjectKind.INDEX, new.index.name, revision),
        f"rows are equal where {new.index.name!r} is to be unique",
        values=physical.keys,
        where=(*where, *([f"NOT ({skipped})"] if skipped else [])),
        nulls_distinct=physical.nulls_distinct,
    )


def _foreign_key(draft: Draft, key: NewForeignKey, revision: str, skipped: str | None) -> Demand:
    clause = parse_clause(key.suffix)
    assert clause is not None  # noqa: S101 - it is one that Alembic has written
    full = "MATCH FULL" in clause.tail
    return Demand(
        _source(draft, ObjectKind.FOREIGN_KEY, key.foreign_key.name, revision),
        f"rows have no match in {key.referenced}, which foreign key {key.foreign_key.name!r} asks for",
        is_orphan(key.physical_columns, key.referenced, clause.columns, match_full=full),
        skipped=skipped,
    )
