"""What of a row can be compared: which derived values must hold, and what excuses one that does not.

The sync is directed by changes: a row is consistent if each of its derived values follows from the others as
they are, or if a writer of the other side has changed it since, and what follows in his direction holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from alembic_zero.lens.lens import Edge, Flight, Level
    from alembic_zero.lens.link import Link


@dataclass(frozen=True)
class Arrow:
    """A cell that one level derives from others, in one direction; no virtual cell is among them.

    :param functions: every function that the value is computed by.
    :param flight: the target's table, where several are looked at; cells are then called "flight.cell".
    :param edge: what derives it within a row; None for what a link makes, then *link* is its name, and *column*
     the number of its column, None for the row as such.
    """

    level: int
    upward: bool
    target: str
    inputs: frozenset[str]
    functions: frozenset[str]
    edge: Edge | None
    flight: int = 0
    link: str | None = None
    column: int | None = None

    @property
    def cell(self) -> str:
        """The target's cell, in its own table."""
        return self.edge.target if self.edge is not None else self.target.partition(".")[2]


Excuses = tuple[frozenset[Arrow], ...]


@dataclass(frozen=True)
class Demand:
    """An arrow that must hold, unless all arrows of one of the *excuses* do.

    None for *excuses*: writers of the other side may leave it unfulfilled without a trace.
    """

    arrow: Arrow
    excuses: Excuses | None


@dataclass(frozen=True)
class Writers:
    """The cells that versions below a level show, and those that it and newer ones show."""

    below: frozenset[str]
    above: frozenset[str]


def arrows_of(flight: Flight, number: int, *, upward: bool) -> list[Arrow]:
    """Return how level *number* derives stored cells, in the order in which its trigger does."""
    level = flight.levels[number - 1]
    edges = level.ups if upward else level.downs
    found = [_arrow(flight, number, edges, edge, upward=upward) for edge in edges if _is_stored(flight, edge.target)]
    return found if upward else found[::-1]


def _is_stored(flight: Flight, cell_id: str) -> bool:
    cell = flight.cell(cell_id)
    return cell.physical is not None and not cell.generated


def _arrow(flight: Flight, number: int, edges: Sequence[Edge], edge: Edge, *, upward: bool) -> Arrow:
    functions: set[str] = set()

    def call(function: str, _arguments: Sequence[str]) -> str:
        functions.add(function)
        return ""

    composer = Composer(flight, edges, call, str)
    composer.apply(edge)
    return Arrow(number, upward, edge.target, frozenset(composer.inputs(edge)), frozenset(functions), edge)


def writers_at(flight: Flight, number: int, *, filled: bool = True) -> Writers:
    """Return who shows which cell.

    :param filled: whether what a filled table was created with counts as written by older versions, as links do.
    """
    shown = [*flight.shown_levels, *([0] if flight.created and filled else [])]
    below = (cell for n in shown if n < number for _, cell in flight.shape_at(n))
    above = (cell for n in shown if n >= number for _, cell in flight.shape_at(n))
    return Writers(frozenset(below), frozenset(above))


def demands_of(flight: Flight, number: int, blind: Iterable[str]) -> list[Demand]:
    """Return what must hold at a level, for every arrow that can be computed again.

    :param blind: functions whose result is another one each time.
    """
    ups, downs = (arrows_of(flight, number, upward=upward) for upward in (True, False))
    writers = writers_at(flight, number)
    return demands_between(Direction(ups, writers.below), Direction(downs, writers.above), frozenset(blind))


def demands_between(upper: Direction, lower: Direction, blind: frozenset[str]) -> list[Demand]:
    """Return what must hold between two sides.

    :param upper: what follows from older versions' writes.
    :param lower: what follows from newer versions' writes.
    :param blind: functions whose result is another one each time.
    """
    return [
        Demand(arrow, _excuses(arrow, own, other, blind))
        for own, other in ((upper, lower), (lower, upper))
        for arrow in own.arrows
        if not arrow.functions & blind
    ]


@dataclass(frozen=True)
class Direction:
    """The arrows of one direction, and the cells that the writers show whose writes they carry."""

    arrows: Sequence[Arrow]
    writes: frozenset[str]


def _excuses(
    arrow: Arrow, own: Direction, opposite: Direction, blind: frozenset[str]
) -> tuple[frozenset[Arrow], ...] | None:
    """Return the sets of arrows of the other direction of which one holds whenever this arrow rightly does not.

    Whoever changes a cell sees to it that all arrows that read this cell hold. So for every cell by which the
    other side can spoil the arrow, those that read it are the trace, as long as nobody can undo them without
    deriving this arrow's target anew.
    """
    spoiling = ({arrow.target} | arrow.inputs) & opposite.writes
    for other in opposite.arrows:
        if other.target in arrow.inputs:
            spoiling |= other.inputs
    found: set[frozenset[Arrow]] = set()
    for cell in spoiling:
        readers = [o for o in opposite.arrows if cell in o.inputs and not o.functions & blind]
        trace = {o for o in readers if _lasts(o, arrow, own)}
        if not trace:
            return None
        found.add(frozenset(trace))
    return tuple(sorted((s for s in found if not any(t < s for t in found)), key=lambda s: sorted(a.target for a in s)))


def _lasts(other: Arrow, arrow: Arrow, own: Direction) -> bool:
    """Return whether *other*, once it holds, holds until the target of *arrow* is derived anew."""
    return (
        other.target in arrow.inputs
        and other.inputs & own.writes <= arrow.inputs
        and all(a.inputs <= arrow.inputs for a in own.arrows if a != arrow and a.target in other.inputs)
    )


# -- across tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tied:
    """Tables that the links of one migration tie together, each with the number of its level."""

    flights: Mapping[int, Flight]
    numbers: Mapping[int, int]

    def _level(self, flight: int) -> Level:
        return self.flights[flight].levels[self.numbers[flight] - 1]

    @property
    def links(self) -> list[Link]:
        """All links."""
        return [link for flight in self.flights for link in self._level(flight).links]

    def demands(self, blind: Iterable[str]) -> list[Demand]:
        """Return what must hold in rows and between rows that follow from each other.

        :param blind: functions whose result is another one each time.
        """
        upper, lower = (Direction(self._arrows(upward=up), self._writes(below=up)) for up in (True, False))
        return demands_between(upper, lower, frozenset(blind))

    def _writes(self, *, below: bool) -> frozenset[str]:
        found = set()
        for flight, number in self.numbers.items():
            # What links write, they derive.
            writers = writers_at(self.flights[flight], number, filled=False)
            found |= {f"{flight}.{cell}" for cell in (writers.below if below else writers.above)}
            if any((n < number) is below for n in self.flights[flight].shown_levels):
                found.add(f"{flight}.*")
        return frozenset(found)

    def _arrows(self, *, upward: bool) -> list[Arrow]:
        found = []
        for flight, number in self.numbers.items():
            found += [self._named(flight, a) for a in arrows_of(self.flights[flight], number, upward=upward)]
        for link in self.links:
            if link.upward is upward and link.columns:
                found += self._row_arrows(link)
        return found

    def _named(self, flight: int, arrow: Arrow) -> Arrow:
        """Return an arrow within a row with its cells' full names, and what links read elsewhere for it."""
        inputs = {f"{flight}.{cell}" for cell in arrow.inputs} | {f"{flight}.*"}
        for link in self.links:
            if link.lookup in arrow.functions:
                inputs |= self._read(link, link.source.cells) | self._ordered(link)
        return replace(arrow, flight=flight, target=f"{flight}.{arrow.target}", inputs=frozenset(inputs))

    def _read(self, link: Link, cells: Iterable[str]) -> set[str]:
        """Return the stored cells of a link's source that these cells follow from; "*" is that there is a row."""
        source = link.source.flight
        level = self._level(source)
        composer = Composer(
            self.flights[source], level.ups if link.upward else level.downs, lambda name, _arguments: name, str
        )
        return {f"{source}.{base}" for cell in cells for base in composer.base(cell)} | {f"{source}.*"}

    def _ordered(self, link: Link) -> set[str]:
        """Return the cells by which the first of several rows is found, but for those that both sides write."""
        names = {f"{link.source.flight}.{cell}" for _, cell in link.order}
        return names - (self._writes(below=True) & self._writes(below=False))

    def _row_arrows(self, link: Link) -> list[Arrow]:
        inputs = dict(link.source.inputs)
        keys = [c for c in link.columns if c.cell in link.key]
        placing = {inputs[name] for column in keys for name in column.inputs}
        if link.where is not None:
            placing |= set(link.source.cells)
        target = link.target.flight
        level = self.numbers[link.source.flight]
        exists = Arrow(level, link.upward, f"{target}.*", frozenset(self._read(link, placing)), frozenset(), None,
                       target, link.name)  # fmt: skip
        found = [exists]
        for number, column in enumerate(link.columns):
            if column.cell not in link.key:
                read = self._read(link, placing | {inputs[name] for name in column.inputs})
                found.append(
                    replace(exists, target=f"{target}.{column.cell}", inputs=frozenset(read | {f"{target}.*"}),
                            column=number)
                )  # fmt: skip
        return found
