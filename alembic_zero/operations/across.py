"""Values that come from another table: ``from_table`` in place of an SQL expression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from alembic_zero.operations.base import check_expression, check_name, refuse_arguments


@dataclass(frozen=True)
class FromTable:
    """What :func:`from_table` returns.

    *values* is one expression for a column, a mapping of columns to expressions for rows.
    """

    factory: ClassVar[str] = "from_table"

    source: str
    values: str | dict[str, str]
    where: str | None = None
    schema: str | None = None

    def __repr__(self) -> str:
        more = "".join(
            f", {name}={value!r}" for name, value in (("where", self.where), ("schema", self.schema)) if value
        )
        return f"alembic_zero.from_table({self.source!r}, {self.values!r}{more})"


def from_table(
    source: str,
    value_or_values: str | Mapping[str, str],
    where: str | None = None,
    *,
    schema: str | None = None,
) -> FromTable:
    """Return what ``up=`` or ``down=`` takes in place of SQL text where values come from another table.

    The expressions name columns as ``table.column``, or bare where that is not ambiguous; *where* may use
    the columns of both tables.

    :param source: name of the other table, just before the operation for ``up``, just after it for ``down``.
    :param value_or_values: for a column, the SQL expression of its value. For a whole table, a mapping
     of its columns to expressions over the source: each row of the source gives one row.
    :param where: SQL condition by which rows of the two tables belong together. Of several rows of the
     source, the one with the lowest key counts.
    :param schema: schema of the source.
    :raises RefusedError: an argument cannot be what it says, code ZD101.
    """
    directive = "from_table"
    check_name(directive, "source", source)
    if schema is not None:
        check_name(directive, "schema", schema)
    check_expression(directive, "where", where)
    if not isinstance(value_or_values, Mapping):
        if value_or_values is None:
            refuse_arguments(directive, "the second argument must be SQL text or a mapping, not None")
        check_expression(directive, "value", value_or_values)
        return FromTable(source, value_or_values, where, schema)
    if not value_or_values:
        refuse_arguments(directive, "values are empty: map the table's columns to expressions")
    for column, expression in value_or_values.items():
        check_name(directive, "a column of values", column)
        check_expression(directive, f"values[{column!r}]", expression)
        if expression is None:
            refuse_arguments(directive, f"values[{column!r}] must be SQL text, not None")
    return FromTable(source, dict(value_or_values), where, schema)


def check_column_source(directive: str, argument: str, value: object) -> bool:
    """Return whether *value* takes a column's value from another table; refuse one for a whole table.

    :raises RefusedError: code ZD101.
    """
    if not isinstance(value, FromTable):
        return False
    if not isinstance(value.values, str):
        refuse_arguments(directive, f"{argument}: a column takes one value, not a mapping of columns")
    if value.where is None:
        refuse_arguments(directive, f"{argument}: from_table needs where= to tell which rows belong together")
    return True


def check_row_source(directive: str, argument: str, value: object) -> None:
    """Refuse *value* unless it is None or gives the rows of a whole table.

    :raises RefusedError: code ZD101.
    """
    if value is None:
        return
    if not isinstance(value, FromTable):
        refuse_arguments(directive, f"{argument} must be from_table(...), not {value!r}")
    if isinstance(value.values, str):
        refuse_arguments(directive, f"{argument}: a table needs a mapping of its columns, not one value")
