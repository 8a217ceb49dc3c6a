"""Compose edges into expressions over the physical cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic_zero.lens.lens import Edge, Flight


@dataclass(frozen=True)
class Composer:
    """Expressions of one level in one direction.

    :param edges: the level's edges of this direction.
    :param call: renders a function call from its name and argument texts.
    :param read: renders a physical cell.
    :param derived: physical cells that are to be derived like virtual ones, as they may not be filled yet.
    """

    flight: Flight
    edges: Sequence[Edge]
    call: Callable[[str, Sequence[str]], str]
    read: Callable[[str], str]
    derived: frozenset[str] = frozenset()

    def _edge(self, cell_id: str) -> Edge | None:
        cell = self.flight.cell(cell_id)
        if cell.generated:
            return next(e for e in self.flight.generated if e.target == cell_id)
        if cell.physical is None or cell_id in self.derived:
            return next(e for e in self.edges if e.target == cell_id)
        return None

    def value(self, cell_id: str) -> str:
        """Return the expression that yields a cell, virtual ones expanded."""
        edge = self._edge(cell_id)
        return self.read(cell_id) if edge is None else self.apply(edge)

    def apply(self, edge: Edge) -> str:
        """Return the call that derives the edge's target."""
        return self.call(edge.function, [self.value(cell) for cell in edge.inputs])

    def inputs(self, edge: Edge) -> tuple[str, ...]:
        """Return the physical, not generated cells that the edge depends on, through virtual ones too."""
        return tuple(dict.fromkeys(cell for read in edge.inputs for cell in self.base(read)))

    def base(self, cell_id: str) -> tuple[str, ...]:
        """Return the physical, not generated cells that a cell's value depends on: itself, unless it is virtual."""
        inner = self._edge(cell_id)
        return (cell_id,) if inner is None else self.inputs(inner)

    def reads(self, edge: Edge, cell_id: str) -> bool:
        """Return whether a virtual cell is among what an edge reads, through other virtual ones too."""
        inner = [found for cell in edge.inputs if (found := self._edge(cell)) is not None]
        return cell_id in edge.inputs or any(self.reads(found, cell_id) for found in inner)
