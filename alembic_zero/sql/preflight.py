"""Queries that find rows which a new constraint would not let pass. They read only; the table's alias is ``t``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_ROWS = 10


def row_key(columns: Sequence[str]) -> str:
    """Return the expression that names a row: its primary key, else where it lies."""
    shown = ", ".join(f"t.{ident(column)}::text" for column in columns) or "t.ctid::text"
    return f"ROW({shown})::text"


def is_null(column: str) -> str:
    """Return the condition of rows that NOT NULL refuses."""
    return f"t.{ident(column)} IS NULL"


def is_false(expression: str) -> str:
    """Return the condition of rows that a CHECK refuses."""
    return f"({expression}\n) IS FALSE"


def is_orphan(columns: Sequence[str], referenced: str, referenced_columns: Sequence[str], *, match_full: bool) -> str:
    """Return the condition of rows that a foreign key refuses."""
    pairs = zip(columns, referenced_columns, strict=True)
    found = " AND ".join(f"r.{ident(after)} = t.{ident(before)}" for before, after in pairs)
    filled = " AND ".join(f"t.{ident(column)} IS NOT NULL" for column in columns)
    orphan = f"({filled} AND NOT EXISTS (SELECT FROM {referenced} AS r WHERE {found}))"
    if not match_full or len(columns) == 1:
        return orphan
    nulls = " AND ".join(f"t.{ident(column)} IS NULL" for column in columns)
    return f"({orphan} OR NOT ({filled}) AND NOT ({nulls}))"


def render_offending(table: str, key: str, condition: str, skipped: str | None) -> str:
    """Return the query for the keys of some rows that fulfil *condition*; scans under ACCESS SHARE.

    :param skipped: condition of rows that do not count.
    """
    rest = f" AND NOT ({skipped})" if skipped else ""
    return f"SELECT {key}, NULL FROM {table} AS t WHERE ({condition}){rest} LIMIT {SHOWN_ROWS}"


def render_repeated(table: str, key: str, values: Sequence[str], *, where: Sequence[str], nulls_distinct: bool) -> str:
    """Return the query for the keys and values of some rows that are equal in *values*.

    :param where: conditions of the rows that count.
    """
    names = [f"_zd_k{number}" for number in range(len(values))]
    selected = ", ".join(f"({value}) AS {name}" for value, name in zip(values, names, strict=True))
    condition = f" WHERE {' AND '.join(f'({one})' for one in where)}" if where else ""
    filled = f" WHERE {' AND '.join(f'{name} IS NOT NULL' for name in names)}" if nulls_distinct else ""
    same = " AND ".join(f"k.{name} IS NOT DISTINCT FROM d.{name}" for name in names)
    return (
        f"WITH keyed AS NOT MATERIALIZED (SELECT {key} AS _zd_key, {selected} FROM {table} AS t{condition}),\n"
        f"repeated AS (SELECT {', '.join(names)} FROM keyed{filled} GROUP BY {', '.join(names)}\n"
        f"             HAVING count(*) > 1 LIMIT {SHOWN_ROWS})\n"
        f"SELECT k._zd_key, ROW({', '.join(f'k.{name}' for name in names)})::text\n"
        f"  FROM keyed AS k JOIN repeated AS d ON {same} ORDER BY 2, 1 LIMIT {SHOWN_ROWS}"
    )
