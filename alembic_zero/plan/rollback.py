"""Steps that take an expansion back: the shape before, with everything written meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.names import MARKER
from alembic_zero.plan.contract import PublishedView, bury_view, drop_functions, drop_numbers, view_lock
from alembic_zero.plan.expand import replace_trigger, table_lock
from alembic_zero.plan.publishing import release_statements
from alembic_zero.plan.step import Kind, LockMode, Step
from alembic_zero.sql import ddl
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic_zero.catalog.surroundings import Publication
    from alembic_zero.lens.lens import Flight


def plan_table_rollback(
    flight: Flight, views: Sequence[PublishedView], publications: Sequence[Publication], source: str
) -> Step:
    """Return the step that removes the newest level of a table.

    :param publications: those that carry the table: subscribers see all columns again once the last level is gone.
    :param views: views of the versions that end; a tombstone takes their place, as a client that
     is still pinned must not fall through to the base table.
    """
    number = len(flight.levels)
    after = flight.without_levels(number - 1)
    table = ident(flight.schema, flight.name)
    statements = [text for view in views for text in bury_view(flight, view)]
    if flight.has_marker:
        statements += replace_trigger(flight, after)
    level = flight.levels[-1]
    statements += [ddl.drop_constraint(table, c.physical) for c in level.checks]
    statements += [ddl.drop_constraint(table, n.helper_name) for n in level.not_nulls]
    statements += [ddl.drop_constraint(table, i.physical) for i in level.indexes if i.index.constraint == "x"]
    statements += _drop_columns(flight, after, table)
    statements += drop_functions(flight, flight.levels[-1:], after) + drop_numbers(flight, after)
    if not after.levels:
        statements += release_statements(flight, after, publications, 0)
    locks = [view_lock(flight, view) for view in views]
    return Step(
        f"roll back {flight.label}",
        Kind.TRANSACTION,
        source,
        tuple(statements),
        (
            *locks,
            table_lock(flight, LockMode.ACCESS_EXCLUSIVE),
        ),
        LockMode.ACCESS_EXCLUSIVE,
        table=flight.id,
        state=after.to_json() if after.levels else "",
    )


def plan_index_rollback(flight: Flight, source: str) -> list[Step]:
    """Return the step that removes the newest level's indexes on columns that stay; others went with a column.

    It belongs after the step above, which has put tombstones before clients that infer a unique index.
    """
    number = len(flight.levels)
    kept = {cell for n in range(number) for _, cell in flight.shape_at(n)}
    shape = dict(flight.shape_at(number))
    texts = tuple(
        f"DROP INDEX CONCURRENTLY IF EXISTS {ident(flight.schema, new.physical)}"
        for new in flight.levels[-1].indexes
        if new.index.constraint != "x" and all(shape[c] in kept for c in new.index.columns)
    )
    if not texts:
        return []
    return [Step(f"drop indexes of {flight.label}", Kind.AUTOCOMMIT, source, texts,
                 lock_mode=LockMode.SHARE_UPDATE_EXCLUSIVE, table=flight.id)]  # fmt: skip


def _drop_columns(flight: Flight, after: Flight, table: str) -> list[str]:
    number = len(flight.levels)
    kept = {cell for n in range(number) for _, cell in flight.shape_at(n)}
    gone = [str(flight.cell(cell).physical) for _, cell in flight.shape_at(number) if cell not in kept]
    statements = [ddl.drop_column(table, physical) for physical in gone]
    if flight.has_marker and not after.has_marker:
        statements.append(ddl.drop_column(table, MARKER))
    return statements
