"""Shapes and lenses: what each version of a table in flight looks like, and how they map.

A *cell* is one instance of a column. A column that a revision does not copy is the same cell in
both shapes, however it is called there. Cells that no live version shows are *virtual*: they exist
only inside expressions, so that several operations on one column compose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alembic_zero.catalog.snapshot import Check, Column, ForeignKey, Index, Statistics, TableSpec
from alembic_zero.lens.link import Link
from alembic_zero.plain import PlainData

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

QUARANTINE_OFFSET = 1_000_000_000
"""A quarantined row's marker is minus (offset + generation whose derivation failed)."""

FIRST_TAG, LAST_TAG = -999_999_999, -1
"""Markers in this range exist only on the way into the trigger: the writer's version."""

OLDEST_TAG = -900_000_000
"""The tag of the oldest version, which needs none on an INSERT."""

GENERATION_STRIDE = 16
"""How far generations are apart. On some tables, generation + n marks a row that version number n wrote."""


@dataclass(frozen=True)
class Cell(PlainData):
    """One instance of a column; *physical* is its name in the base table, None if virtual.

    *numbers* is the sequence, among our own, that stands in for a new column's identity until the contract.
    *sequence_of* names the cell whose identity or serial default also feeds this copy, *source* the
    cell of the shape before that it replaces.
    """

    id: str
    type: str
    collation: str | None
    physical: str | None = None
    generated: bool = False
    sequence_of: str | None = None
    numbers: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Edge(PlainData):
    """How *target* follows from *inputs*: an early-bound function and the text that creates it.

    *linked* is for a function that looks into another table; a link's own statements create it. One that
    *reads_tables* has a subquery in its expression, of a table that nothing keeps in step with this one.
    """

    target: str
    inputs: tuple[str, ...]
    function: str
    definition: str
    source: str
    expression: str
    linked: bool = False
    reads_tables: bool = False


@dataclass(frozen=True)
class Rule(PlainData):
    """A NOT NULL (*check* is None) or CHECK that a level adds to derived cells.

    Until the contract the trigger enforces it: an error for writers of that level and above,
    quarantine for older ones.
    """

    name: str | None
    cells: tuple[str, ...]
    function: str | None = None
    definition: str | None = None
    check: Check | None = None
    physical_check: str | None = None
    helper_name: str = ""


@dataclass(frozen=True)
class NewIndex(PlainData):
    """An index that a level adds, under *physical* until the contract renames it."""

    physical: str
    physical_definition: str
    index: Index


@dataclass(frozen=True)
class UniqueGuard(PlainData):
    """What keeps older versions' rows from breaking a unique index on cells that are derived for them.

    :param name: what the index will be called.
    :param function: the trigger function's name.
    :param inputs: what the index reads: logical column names and cells.
    :param keys: expressions over these columns.
    :param equals: for each key, the operator by which the index compares, as SQL text.
    :param collations: for each key, the collation by which it does, empty if there is none.
    :param hashed: whether the server can hash the keys.
    """

    name: str
    physical: str
    function: str
    inputs: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    equals: tuple[str, ...]
    collations: tuple[str, ...]
    predicate: str | None
    hashed: bool


@dataclass(frozen=True)
class NewForeignKey(PlainData):
    """A foreign key that a level adds, under *physical* until the contract renames it.

    *physical_suffix* and *physical_referenced* say by physical names what it references, where that is known.
    With a *guard*, a name, older versions' rows are kept from breaking it; *cells* are its columns and
    *physical_keys* those that it references.
    """

    physical: str
    physical_columns: tuple[str, ...]
    foreign_key: ForeignKey
    physical_suffix: str | None = None
    physical_referenced: str | None = None
    guard: str = ""
    cells: tuple[str, ...] = ()
    physical_keys: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """The clause from ``REFERENCES`` on with which it is created."""
        return self.physical_suffix or self.foreign_key.suffix

    @property
    def referenced(self) -> str:
        """The table that it references, by its physical name, as SQL text."""
        return self.physical_referenced or self.foreign_key.referenced


@dataclass(frozen=True)
class NewCheck(PlainData):
    """A CHECK over cells that nothing derives: an ordinary constraint from the start."""

    physical: str
    physical_definition: str
    check: Check


@dataclass(frozen=True)
class NewNotNull(PlainData):
    """A NOT NULL on a cell that is there already: a CHECK called *helper_name* until the contract."""

    name: str | None
    cell: str
    helper_name: str


@dataclass(frozen=True)
class Level(PlainData):
    """One revision's (or one upgrade's) change of a table, and the shape after it.

    *shape* maps logical column names to cell ids, in the order of ``spec.columns``. *ups* and
    *downs* stand in the order of the operations; downs are applied in reverse. *links* begin at this
    table; a table that is *linked* is one of their ends. *relaxed* cells may be NULL until a
    transaction commits, whatever their column says. *guards* are those of unique indexes. *renamed* has the kind of an
    index or CHECK (:class:`alembic_zero.lens.objects.ObjectKind`), its name before and its name after.
    """

    generation: int
    revision: str
    migration: int
    spec: TableSpec
    shape: tuple[tuple[str, str], ...]
    ups: tuple[Edge, ...] = ()
    downs: tuple[Edge, ...] = ()
    rules: tuple[Rule, ...] = ()
    indexes: tuple[NewIndex, ...] = ()
    foreign_keys: tuple[NewForeignKey, ...] = ()
    checks: tuple[NewCheck, ...] = ()
    statistics: tuple[Statistics, ...] = ()
    not_nulls: tuple[NewNotNull, ...] = ()
    renamed: tuple[tuple[str, str, str], ...] = ()
    dropped: bool = False
    links: tuple[Link, ...] = ()
    linked: bool = False
    relaxed: tuple[str, ...] = ()
    guards: tuple[UniqueGuard, ...] = ()

    @property
    def guarded(self) -> tuple[str, ...]:
        """Return the cells of constraints that older versions' rows are kept from breaking."""
        keys = [cell for guard in self.guards for _, cell in guard.inputs]
        return tuple(dict.fromkeys([*keys, *(cell for key in self.foreign_keys if key.guard for cell in key.cells)]))

    @property
    def quarantines(self) -> bool:
        """Return whether a row that an older version writes may fail to follow."""
        return bool(self.ups or any(link.upward for link in self.links))

    @property
    def syncs(self) -> bool:
        """Return whether rows must be kept in step with the shape before."""
        return bool(self.ups or self.downs or self.rules or self.linked)


@dataclass(frozen=True)
class Flight(PlainData):
    """A table in flight: its oldest live shape and the levels above it, oldest first.

    *id* is the table's oid when it took off, and part of names ever after; *relation* its oid now,
    another one in a database that was restored from a dump. A *created* table is shown by no version
    below its first level. *project* is the name of the project, which tells its revisions from those
    of others. *held* are publications that have a column list of ours while the table is in flight.
    """

    id: int
    schema: str
    name: str
    spec: TableSpec
    shape: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]
    levels: tuple[Level, ...] = ()
    generated: tuple[Edge, ...] = ()
    user_triggers: bool = False
    last_trigger: str = ""
    has_marker: bool = False
    relation: int = 0
    created: bool = False
    project: str | None = None
    held: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Schema and name, for a person."""
        return f"{self.schema}.{self.name}"

    def cell(self, cell_id: str) -> Cell:
        """Return the cell with this id."""
        return next(c for c in self.cells if c.id == cell_id)

    def shape_at(self, level: int) -> tuple[tuple[str, str], ...]:
        """Return the shape of level number *level*; 0 is the oldest live one."""
        return self.levels[level - 1].shape if level else self.shape

    def spec_at(self, level: int) -> TableSpec:
        """Return the logical description at level number *level*."""
        return self.levels[level - 1].spec if level else self.spec

    def columns_at(self, level: int) -> Iterator[tuple[Column, Cell]]:
        """Yield each logical column with its cell."""
        names = dict(self.shape_at(level))
        for column in self.spec_at(level).columns:
            yield column, self.cell(names[column.name])

    def foreign_keys_at(self, level: int) -> dict[str, str]:
        """Return the physical name of each foreign key of level number *level*."""
        made = {new.foreign_key.name: new.physical for new in self.levels[level - 1].foreign_keys} if level else {}
        return {f.name: made.get(f.name) or (level and f.origin) or f.name for f in self.spec_at(level).foreign_keys}

    def level_of(self, migration: int) -> int:
        """Return the level that versions published by this migration see."""
        return sum(1 for level in self.levels if level.migration <= migration)

    @property
    def sync_levels(self) -> tuple[int, ...]:
        """Return the numbers of the levels whose rows a trigger keeps in step."""
        return tuple(n for n, level in enumerate(self.levels, 1) if level.syncs)

    @property
    def shown_levels(self) -> tuple[int, ...]:
        """Return the numbers of the levels at which a version shows the table."""
        first = 1 if self.created else 0
        return tuple(n for n in range(first, len(self.levels) + 1) if not (n and self.levels[n - 1].dropped))

    @property
    def linked(self) -> bool:
        """Return whether a link begins or ends at this table."""
        return any(level.linked for level in self.levels)

    @property
    def tells_writer(self) -> bool:
        """Return whether a row's marker says which version wrote it: the generation plus the version's number."""
        return self.linked or any(level.guarded for level in self.levels)

    def level_number(self, generation: int) -> int:
        """Return the number of the level of this generation."""
        return next(n for n, level in enumerate(self.levels, 1) if level.generation == generation)

    def sync_index(self, level: int) -> int:
        """Return how many syncing levels there are up to *level*."""
        return sum(1 for n in self.sync_levels if n <= level)

    def tag_at(self, level: int) -> int | None:
        """Return the marker default of a view at *level*; None where a plain view does."""
        tags = [self.levels[n - 1].generation for n in self.sync_levels if n <= level]
        return -tags[-1] if tags else None

    def backfilled_generation(self) -> int | None:
        """Return the newest generation that has something to derive upwards, None if none has."""
        generations = [level.generation for level in self.levels if level.ups]
        return generations[-1] if generations else None

    def derived(self, level: int) -> tuple[str, ...]:
        """Return the physical cells that level number *level* derives upwards."""
        shown = {cell for _, cell in self.shape_at(level)}
        return tuple(
            dict.fromkeys(
                e.target for e in self.levels[level - 1].ups if e.target in shown and self.cell(e.target).physical
            )
        )

    def used_cells(self) -> set[str]:
        """Return the ids of all cells that a shape shows or an edge needs."""
        shown = {cell for n in range(len(self.levels) + 1) for _, cell in self.shape_at(n)}
        edges = [edge for level in self.levels for edge in (*level.ups, *level.downs)]
        used = shown | {cell for edge in edges for cell in (edge.target, *edge.inputs)}
        used |= {cell for level in self.levels for link in level.links for cell in link.read_cells}
        return used | {cell for edge in self.read_generated() for cell in edge.inputs}

    def read_generated(self) -> tuple[Edge, ...]:
        """Return the functions of generated columns that a level's expressions or rules read."""
        edges = [edge for level in self.levels for edge in (*level.ups, *level.downs)]
        read = {c for e in edges for c in e.inputs} | {c for n in self.levels for r in n.rules for c in r.cells}
        read |= {cell for level in self.levels for link in level.links for cell in link.read_cells}
        return tuple(edge for edge in self.generated if edge.target in read)

    def without_levels(self, keep: int) -> Flight:
        """Return the flight with only the lowest *keep* levels, as after a rollback."""
        rest = replace(self, levels=self.levels[:keep])
        return replace(
            rest,
            generated=rest.read_generated(),
            cells=tuple(c for c in self.cells if c.id in rest.used_cells()),
            has_marker=bool(rest.sync_levels),
        )

    def unlinked(self, keep: Container[int]) -> Flight:
        """Return the flight without the links of all levels but those whose migration is in *keep*."""
        virtual = {cell.id for cell in self.cells if cell.physical is None}
        return replace(self, levels=tuple(n if n.migration in keep else _unlinked(n, virtual) for n in self.levels))

    def contracted(self, level: int) -> Flight:
        """Return the flight with everything up to *level* folded into the base."""
        rest = replace(self, spec=self.spec_at(level), shape=self.shape_at(level), levels=self.levels[level:])
        names = {cell.id: column.name for column, cell in self.columns_at(level)}
        used = rest.used_cells()
        return replace(
            rest,
            schema=rest.spec.schema,
            name=rest.spec.name,
            generated=rest.read_generated(),
            levels=tuple(self._with_final_keys(one, level) for one in rest.levels),
            created=self.created and not level,
            cells=tuple(
                replace(
                    c,
                    physical=names.get(c.id, c.physical),
                    sequence_of=None if c.id in names else c.sequence_of,
                    numbers=None if c.id in names else c.numbers,
                )
                for c in self.cells
                if c.id in used
            ),
            has_marker=bool(rest.sync_levels),
        )

    def _with_final_keys(self, one: Level, level: int) -> Level:
        """Return a level whose foreign keys stand under the names that a contract up to *level* gives them."""
        final = {physical: name for name, physical in self.foreign_keys_at(level).items()}
        keys = tuple(replace(f, origin=final.get(f.origin or "", f.origin)) for f in one.spec.foreign_keys)
        return replace(one, spec=replace(one.spec, foreign_keys=keys))


def _unlinked(level: Level, virtual: Container[str]) -> Level:
    return replace(
        level, links=(), ups=_without_links(level.ups, virtual), downs=_without_links(level.downs, virtual), relaxed=()
    )


def _without_links(edges: tuple[Edge, ...], virtual: Container[str]) -> tuple[Edge, ...]:
    """Return the edges without those that look into another table, and what follows from them in expressions only."""
    gone = {e.target for e in edges if e.linked and e.target in virtual}
    rest = tuple(e for e in edges if not e.linked)
    while any(gone & set(e.inputs) for e in rest):
        gone |= {e.target for e in rest if gone & set(e.inputs) and e.target in virtual}
        rest = tuple(e for e in rest if not gone & set(e.inputs))
    return rest
