"""Plain data about what surrounds a migration: the server, its sessions, its disk, its subscribers."""

from __future__ import annotations

from dataclasses import dataclass

from alembic_zero.plain import PlainData


@dataclass(frozen=True)
class Publication(PlainData):
    """How a publication carries a table.

    *scope* is ``table`` if it names the table, ``partition`` if it names one of its partitions, ``schema`` or ``all``.
    *columns* and *condition* are its column list and row filter, which reads *condition_columns*.
    *owned*: the migrating role may change it. *sends_old_rows*: it publishes UPDATE or DELETE, for which
    the table needs a replica identity. *via_root*: partitions are published as the table that they
    belong to. *generated*: so are stored generated columns.
    """

    name: str
    scope: str
    columns: tuple[str, ...] | None
    condition: str | None
    condition_columns: tuple[str, ...]
    owned: bool
    sends_old_rows: bool
    via_root: bool
    generated: bool
