"""Statements that mend one row, found by its place and held by its lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.names import MARKER
from alembic_zero.sql.quoting import ident, literal
from alembic_zero.sql.verify import only_row

if TYPE_CHECKING:
    from alembic_zero.lens.lens import Flight

# No generation is one of these: setting one, and then the other, keeps the triggers out.
_PASSING = (0, 1)


@dataclass(frozen=True)
class RepairSql:
    """Statements for single rows of one leaf table."""

    flight: Flight
    leaf: tuple[str, str]

    @property
    def _table(self) -> str:
        return ident(*self.leaf)

    def _update(self, tid: str, sets: str) -> str:
        return f"UPDATE ONLY {self._table} AS t SET {sets} WHERE {only_row(tid)} RETURNING t.ctid::text"

    def hold(self, tid: str) -> str:
        """Return the statement that locks the row, if it is there and nobody else does."""
        return f"SELECT t.ctid FROM ONLY {self._table} AS t WHERE {only_row(tid)} FOR NO KEY UPDATE SKIP LOCKED"

    def read_marker(self, tid: str) -> str:
        """Return the query for the row's marker."""
        return f"SELECT t.{ident(MARKER)} FROM ONLY {self._table} AS t WHERE {only_row(tid)}"

    def unsynchronise(self, tid: str, level: int) -> str:
        """Return the statement after which the trigger has the row to derive from the level below on."""
        below = self.flight.without_levels(level - 1).backfilled_generation()
        return self.set_marker(tid, below)

    def set_marker(self, tid: str, marker: int | None) -> str:
        """Return the statement that sets the row's marker, and nothing else."""
        return self._update(tid, f"{ident(MARKER)} = {'NULL' if marker is None else marker}")

    def touch(self, tid: str) -> str:
        """Return the statement by which the trigger derives what the row lacks."""
        return self._update(tid, f"{ident(MARKER)} = t.{ident(MARKER)}")

    def write_past(self, tid: str, cell: str, value: str, count: int) -> str:
        """Return the statement that writes a value past the trigger.

        :param count: how many such statements have gone before.
        """
        column = ident(str(self.flight.cell(cell).physical))
        return self._update(tid, f"{column} = {value}, {ident(MARKER)} = {_PASSING[count % 2]}")

    def remove(self, tid: str) -> str:
        """Return the statement that deletes the row."""
        return f"DELETE FROM ONLY {self._table} WHERE ctid = {literal(tid)}::tid"
