"""Links: how rows of one table follow from rows of another."""

from __future__ import annotations

from dataclasses import dataclass

from alembic_zero.plain import PlainData


@dataclass(frozen=True)
class Side(PlainData):
    """One of a link's two tables, as its expressions see it.

    :param flight: the table's flight.
    :param alias: the table's name in the expressions.
    :param inputs: (column, cell) pairs that the expressions read.
    """

    flight: int
    alias: str
    inputs: tuple[tuple[str, str], ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells that the expressions read."""
        return tuple(cell for _, cell in self.inputs)


@dataclass(frozen=True)
class Mapped(PlainData):
    """One column of a row that a link makes: the target's cell, its expression, the source's columns in it."""

    cell: str
    column: str
    type: str
    expression: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Link(PlainData):
    """Rows of *target* follow from rows of *source*.

    With *cell* it gives one column's value to the rows that *where* matches; of several sources the
    first by *order* counts. With *columns* it makes one row for each row of the source, found again
    by its *key*; where several may make the same one (it is *shared*), the first by *order* counts.

    *upward* links carry what writers below the link's level write, the others what writers of that
    level and above write. *default* is what a row without a match gets. *required* is a link to a
    column that must not stay NULL: checked when a transaction commits.
    """

    name: str
    upward: bool
    source: Side
    target: Side
    where: str | None = None
    cell: str | None = None
    type: str | None = None
    value: str | None = None
    default: str | None = None
    required: bool = False
    order: tuple[tuple[str, str], ...] = ()
    columns: tuple[Mapped, ...] = ()
    key: tuple[str, ...] = ()
    shared: bool = False

    @property
    def read_cells(self) -> tuple[str, ...]:
        """The source's cells that the expressions or the order read."""
        return (*self.source.cells, *(cell for _, cell in self.order))

    @property
    def lookup(self) -> str:
        """The function that finds a target row's value, and holds the source row that it comes from."""
        return f"lookup_{self.name}"

    @property
    def read(self) -> str:
        """The function that finds a target row's value, and holds nothing."""
        return read_function(self.lookup)

    @property
    def carry(self) -> str:
        """The trigger function that carries a change of the source."""
        return f"carry_{self.name}"


def read_function(lookup: str) -> str:
    """Return the function that finds what *lookup* finds, and holds nothing."""
    return f"read_{lookup.removeprefix('lookup_')}"
