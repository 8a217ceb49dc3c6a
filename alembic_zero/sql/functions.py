"""Early-bound SQL functions: the only place where a user's expression is parsed.

A body in ``BEGIN ATOMIC`` is parsed once, under the search_path of the migration, and tracked in
pg_depend (PostgreSQL manual, CREATE FUNCTION), so no client's search_path changes its meaning.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from alembic_zero.sql.quoting import dollar_quoted, ident

if TYPE_CHECKING:
    from collections.abc import Sequence


class Form(StrEnum):
    """How the expression is wrapped.

    *CAST* gives untyped literals the target's type, which a plain body refuses with 42P13.
    The *ALIASED* forms let ``table.column`` resolve; they are not inlined, so they come last.
    """

    PLAIN = "plain"
    CAST = "cast"
    ALIASED = "aliased"
    ALIASED_CAST = "aliased cast"


def render_function(
    name: tuple[str, str],
    arguments: Sequence[tuple[str, str]],
    returns: str,
    expression: str,
    *,
    form: Form,
    table: str,
) -> str:
    """Return CREATE FUNCTION for an expression over named, typed arguments.

    :param name: schema and function.
    :param arguments: (logical column name, type) pairs.
    :param table: logical table name, by which the expression may qualify columns.
    """
    value = f"({expression}\n)"
    if form in (Form.CAST, Form.ALIASED_CAST):
        value = f"CASE WHEN true THEN {value} ELSE NULL::{returns} END"
    aliased = form in (Form.ALIASED, Form.ALIASED_CAST)
    if aliased:
        parameters = ", ".join(type_ for _, type_ in arguments)
        source = f" FROM (SELECT {_aliased(arguments)}) AS {ident(table)}"
    else:
        parameters = ", ".join(f"{ident(column)} {type_}" for column, type_ in arguments)
        source = ""
    return (
        f"CREATE FUNCTION {ident(*name)}({parameters}) RETURNS {returns} LANGUAGE sql\n"
        f"BEGIN ATOMIC\n  SELECT {value}{source};\nEND"
    )


def _aliased(arguments: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"${n} AS {ident(column)}" for n, (column, _) in enumerate(arguments, 1)) or "1"


def render_call(schema: str, name: str, arguments: Sequence[str]) -> str:
    """Return a call of one of these functions."""
    return f"{ident(schema, name)}({', '.join(arguments)})"


def render_assignment(type_: str, query: str) -> str:
    """Return a statement that fails if the one value of a query cannot be assigned to a type; it writes nothing."""
    return f"DO {dollar_quoted(f'DECLARE value {type_}; BEGIN value := ({query}); END')}"
