"""What a publication shows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.sql.quoting import ident, idents

if TYPE_CHECKING:
    from collections.abc import Sequence


def set_published(publication: str, table: str, columns: Sequence[str] | None, condition: str | None) -> list[str]:
    """Return the statements that give a table its column list and row filter in a publication.

    Both belong into one transaction: subscribers see either what was or what will be. They lock the table against
    other DDL only.

    :param table: SQL text.
    :param columns: None for all of them, whatever they are later.
    :param condition: the row filter, as the server deparses it.
    """
    listed = "" if columns is None else f" ({idents(columns)})"
    where = "" if condition is None else f" WHERE ({condition})"
    return [
        f"ALTER PUBLICATION {ident(publication)} DROP TABLE {table}",
        f"ALTER PUBLICATION {ident(publication)} ADD TABLE {table}{listed}{where}",
    ]
