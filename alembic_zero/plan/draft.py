"""The draft of a level: cells while operations are applied, then everything that follows from them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alembic_zero.lens.lens import (
    Cell,
    Edge,
    Flight,
    Level,
    NewCheck,
    NewForeignKey,
    NewIndex,
    NewNotNull,
    Rule,
    UniqueGuard,
)
from alembic_zero.lens.objects import ObjectKind, object_names
from alembic_zero.names import JOURNAL_SCHEMA, MARKER, internal_name
from alembic_zero.plan.references import Pin, Reference, deferred, is_enforced_later, parse_clause
from alembic_zero.sql.functions import Form, render_function
from alembic_zero.sql.triggers import last_trigger_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.catalog.snapshot import Check, Column, ForeignKey, Index, Statistics, TableFacts, TableSpec
    from alembic_zero.lens.link import Link


@dataclass(frozen=True)
class ReadColumn:
    """A column of another table that an expression reads in a subquery; *source* is the operation."""

    relation: int
    schema: str
    table: str
    column: str | None
    source: str


@dataclass(frozen=True)
class Comparison:
    """How a unique index compares keys; see :class:`alembic_zero.lens.lens.UniqueGuard`."""

    equals: tuple[str, ...]
    collations: tuple[str, ...]
    hashed: bool


@dataclass
class Draft:
    """A level that grows with each operation on its table.

    *foreign_keys* name cells in place of columns; *sources* maps a copy to the cell it replaces.
    *pins* say what new foreign keys reference, *references* what all of them will, by their names.
    *fallbacks* are functions that give a column's default to a cell which nothing else derives: they
    count only where the cell stays virtual, a physical one has its default in the table. *links* begin at
    this table, *linked* says that it is an end of one, *relaxed* cells may be NULL until a commit.
    *origins* maps indexes and CHECKs that were there before, by kind and name, to their name before;
    *described* has the operation that made a new index or constraint. *bare_not_nulls* has cells whose copies
    are NOT NULL without an expression that sees to it, with the operation that wants it. *reads* has the columns
    of other tables that subqueries read, *comparisons* by name what unique indexes compare by.
    """

    flight: Flight
    facts: TableFacts
    generation: int
    spec: TableSpec
    shape: dict[str, str]
    cells: dict[str, Cell]
    ups: list[Edge] = field(default_factory=list)
    downs: list[Edge] = field(default_factory=list)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    generated: dict[str, Edge] = field(default_factory=dict)
    fallbacks: set[str] = field(default_factory=set)
    pins: dict[str, Pin] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    linked: bool = False
    relaxed: list[str] = field(default_factory=list)
    origins: dict[tuple[ObjectKind, str], str] = field(default_factory=dict)
    described: dict[tuple[ObjectKind, str], str] = field(default_factory=dict)
    bare_not_nulls: dict[str, str] = field(default_factory=dict)
    reads: list[ReadColumn] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    physical: TableSpec | None = None
    dropped: bool = False
    count: int = 0

    def __post_init__(self) -> None:
        self.origins = {(kind, name): name for kind, name in object_names(self.spec)}

    def fresh(self, kind: str) -> str:
        """Return a new name that belongs to this generation."""
        self.count += 1
        return f"{kind}_{self.generation}_{self.count}"

    @property
    def _old_shape(self) -> dict[str, str]:
        return dict(self.flight.shape_at(len(self.flight.levels)))

    @property
    def before(self) -> set[str]:
        """The cells of the shape that the operations began with."""
        return set(self._old_shape.values())

    @property
    def lost_columns(self) -> set[str]:
        """The physical columns that the table will be without."""
        kept = set() if self.dropped else set(self.shape.values())
        return {str(self.cells[cell].physical) for cell in self.before - kept}

    def lose(self) -> None:
        """Forget the origin of indexes and CHECKs that are gone, so that a new one of that name is new."""
        there = object_names(self.spec)
        self.origins = {key: name for key, name in self.origins.items() if key in there}

    @property
    def _old(self) -> TableSpec:
        return self.flight.spec_at(len(self.flight.levels))

    def finish(self, migration: int, revision: str, physical: TableSpec | None, taken: set[str]) -> Flight:
        """Return the flight with the new level on top.

        :param physical: the after-shape as the server deparses it under physical column names; None
         for a table that the revision drops.
        :param taken: names of relations in the table's schema that an index may not take.
        """
        self.physical = physical
        spec = self._carried_spec()
        level = Level(
            generation=self.generation,
            revision=revision,
            migration=migration,
            spec=spec,
            shape=tuple((c.name, self.shape[c.name]) for c in spec.columns),
            ups=self._counting(self.ups),
            downs=self._counting(self.downs),
            dropped=self.dropped,
            links=tuple(self.links),
            linked=self.linked,
            relaxed=tuple(cell for cell in self.relaxed if self.cells[cell].physical is not None),
        )
        if physical is not None:
            level = replace(
                level,
                rules=tuple(self._rules(spec, physical)),
                checks=tuple(self._checks(spec, physical)),
                indexes=tuple(self._indexes(spec, physical, taken)),
                foreign_keys=tuple(self._foreign_keys(spec)),
                statistics=tuple(s for s in spec.statistics if self._touches(s.columns)),
                not_nulls=tuple(self._not_nulls(spec)),
                renamed=tuple(self._renamed(spec)),
            )
            level = replace(level, guards=tuple(self._guards(level.indexes)))
        return self._on_top(level)

    def _counting(self, edges: Sequence[Edge]) -> tuple[Edge, ...]:
        return tuple(e for e in edges if e.function not in self.fallbacks or self.cells[e.target].physical is None)

    def _on_top(self, level: Level) -> Flight:
        flight = replace(
            self.flight,
            levels=(*self.flight.levels, level),
            cells=tuple(self.cells.values()),
            generated=tuple(self.generated.values()),
        )
        return replace(
            flight,
            cells=tuple(c for c in flight.cells if c.id in flight.used_cells()),
            has_marker=self.flight.has_marker or bool(flight.sync_levels),
            last_trigger=self.flight.last_trigger or last_trigger_name(t.name for t in self.facts.triggers),
        )

    def new_exclusions(self) -> list[str]:
        """Return the exclusion constraints that would have to be built anew."""
        return [i.name for i in self.spec.indexes if i.constraint == "x" and self._touches(i.columns)]

    def name_cells(self) -> None:
        """Give every new cell that the after-shape shows a physical name: its own, where that is free."""
        before = self.before
        taken = set(self.facts.physical_names) | {MARKER}
        for number in range(len(self.flight.levels) + 1):
            taken |= {name for name, _ in self.flight.shape_at(number)}
        taken |= {name for name, cell in self.shape.items() if cell in before}
        for name, cell_id in self.shape.items():
            if cell_id in before:
                continue
            physical = name if name not in taken else internal_name("_zd", str(self.generation), name)
            taken.add(physical)
            origin = self._origin(cell_id)
            source = origin if origin != cell_id else None
            self.cells[cell_id] = replace(self.cells[cell_id], physical=physical, source=source)

    def _origin(self, cell_id: str) -> str:
        """Return the cell of the before-shape that a copy descends from, by way of other copies."""
        source = self.sources.get(cell_id)
        return cell_id if source is None else self._origin(source)

    def origin_column(self, cell_id: str) -> Column | None:
        """Return how the column was described before the first operation, None for a new one."""
        names = {cell: name for name, cell in self.flight.shape_at(len(self.flight.levels))}
        name = names.get(self._origin(cell_id))
        return None if name is None else self._old.column(name)

    def _carried_spec(self) -> TableSpec:
        """Return the copy's description with what a copy in another schema cannot keep."""
        old = self._old
        by_index = {i.name: i for i in old.indexes}
        by_check = {c.name: c for c in old.checks}
        by_statistics = {s.name: s for s in old.statistics}
        names = {cell: name for name, cell in self.shape.items()}
        return replace(
            self.spec,
            schema=self.flight.schema,
            comment=old.comment,
            columns=tuple(self._carried_column(c, self.origin_column(self.shape[c.name])) for c in self.spec.columns),
            indexes=tuple(
                self._carried_index(i, by_index.get(self.origins.get((ObjectKind.INDEX, i.name), "")))
                for i in self.spec.indexes
            ),
            checks=tuple(
                self._carried_check(c, by_check.get(self.origins.get((ObjectKind.CHECK, c.name), "")))
                for c in self.spec.checks
            ),
            statistics=tuple(self._carried_statistics(s, by_statistics.get(s.name)) for s in self.spec.statistics),
            foreign_keys=tuple(
                replace(f, columns=tuple(names[self.latest(c)] for c in f.columns))
                for f in self.foreign_keys
                if all(self.latest(c) in names for c in f.columns)
            ),
        )

    def latest(self, cell_id: str) -> str:
        """Return the newest copy that descends from a cell."""
        for copy, source in self.sources.items():
            if source == cell_id:
                return self.latest(copy)
        return cell_id

    def _carried_column(self, column: Column, old: Column | None) -> Column:
        if old is None:
            return column
        identity = column.identity
        if identity is not None and old.identity is not None:
            identity = replace(identity, sequence=old.identity.sequence)
        return replace(column, identity=identity, owned_sequence=old.owned_sequence)

    def _carried_index(self, index: Index, old: Index | None) -> Index:
        if old is None:
            return index
        return replace(
            index, comment=old.comment, statistics=old.statistics, clustered=old.clustered,
            replica_identity=old.replica_identity,
        )  # fmt: skip

    def _carried_check(self, check: Check, old: Check | None) -> Check:
        return check if old is None else replace(check, comment=old.comment)

    def _carried_statistics(self, statistics: Statistics, old: Statistics | None) -> Statistics:
        if old is None:
            return replace(statistics, schema=self.flight.schema)
        return replace(statistics, schema=old.schema, comment=old.comment, target=old.target)

    def _touches(self, columns: Sequence[str]) -> bool:
        before = self.before
        return any(self.shape[c] not in before for c in columns)

    def _is_new(self, kind: ObjectKind, name: str, columns: Sequence[str]) -> bool:
        return (kind, name) not in self.origins or self._touches(columns)

    def _renamed(self, spec: TableSpec) -> Iterator[tuple[str, str, str]]:
        for kind, name in sorted(object_names(spec)):
            before = self.origins.get((kind, name), name)
            if before != name:
                yield kind, before, name

    def _not_nulls(self, spec: TableSpec) -> Iterator[NewNotNull]:
        """Yield NOT NULL for cells of the before-shape: a primary key brings it without a copy."""
        nullable = {self._old_shape[column.name] for column in self._old.columns if not column.not_null}
        for column in spec.columns:
            cell = self.shape[column.name]
            if column.not_null and cell in nullable:
                yield NewNotNull(column.not_null_name, cell, self.fresh("_zd_not_null"))

    def _derived(self) -> set[str]:
        return {edge.target for edge in self._counting(self.ups)}

    def _rules(self, spec: TableSpec, physical: TableSpec) -> Iterator[Rule]:
        before, derived = self.before, self._derived()
        for column in spec.columns:
            cell = self.shape[column.name]
            if column.not_null and cell not in before and cell in derived:
                yield Rule(column.not_null_name, (cell,), helper_name=self.fresh("_zd_not_null"))
        texts = {c.name: c.definition for c in physical.checks}
        for check in spec.checks:
            cells = [self.shape[c] for c in check.columns]
            if self._is_new(ObjectKind.CHECK, check.name, check.columns) and any(c in derived for c in cells):
                yield self._check_rule(check, cells, texts[check.name], spec)

    def _check_rule(self, check: Check, cells: Sequence[str], text: str, spec: TableSpec) -> Rule:
        name = self.fresh("check")
        types = [(c, self.cells[cell].type) for c, cell in zip(check.columns, cells, strict=True)]
        definition = render_function(
            (JOURNAL_SCHEMA, name), types, "boolean", check.expression, form=Form.PLAIN, table=spec.name
        )
        helper = self.fresh("_zd_check")
        return Rule(check.name, tuple(cells), name, definition, check, text, helper)

    def _checks(self, spec: TableSpec, physical: TableSpec) -> Iterator[NewCheck]:
        derived = self._derived()
        texts = {c.name: c.definition for c in physical.checks}
        taken = set(self.facts.constraint_names)
        for check in spec.checks:
            cells = [self.shape[c] for c in check.columns]
            if self._is_new(ObjectKind.CHECK, check.name, check.columns) and not any(c in derived for c in cells):
                name = self.fresh("_zd_check") if check.name in taken else check.name
                yield NewCheck(name, texts[check.name], check)

    def _indexes(self, spec: TableSpec, physical: TableSpec, taken: set[str]) -> Iterator[NewIndex]:
        texts = {i.name: i.definition for i in physical.indexes}
        for index in spec.indexes:
            if not self._is_new(ObjectKind.INDEX, index.name, index.columns):
                continue
            name = index.name if index.name not in taken else self.fresh("_zd_index")
            taken.add(name)
            yield NewIndex(name, texts[index.name], index)

    def rebuilds(self, foreign_key: ForeignKey) -> bool:
        """Return whether the level needs a foreign key of its own for this one; its columns are logical."""
        reference = self.references.get(foreign_key.name)
        moved = reference is not None and reference.moved
        return moved or foreign_key.origin is None or self._touches(foreign_key.columns)

    def _foreign_keys(self, spec: TableSpec) -> Iterator[NewForeignKey]:
        taken = {f.name for n in range(len(self.flight.levels) + 1) for f in self.flight.spec_at(n).foreign_keys}
        taken |= set(self.facts.constraint_names)
        for foreign_key in spec.foreign_keys:
            if not self.rebuilds(foreign_key):
                continue
            name = self.fresh("_zd_fkey") if foreign_key.name in taken else foreign_key.name
            columns = tuple(str(self.cells[self.shape[c]].physical) for c in foreign_key.columns)
            reference = self.references.get(foreign_key.name)
            if reference is None:
                yield self._guarded_key(NewForeignKey(name, columns, foreign_key))
                continue
            suffix = reference.suffix if name == foreign_key.name else deferred(reference.suffix)
            yield self._guarded_key(NewForeignKey(name, columns, foreign_key, suffix, reference.table))

    # -- what older versions' rows must not break ------------------------------------------

    def _guards(self, indexes: Sequence[NewIndex]) -> Iterator[UniqueGuard]:
        """Yield a guard for every unique index on what is derived for older versions' rows.

        Not where NULLs are equal, too: quarantined rows, all of them NULL, would break it themselves.
        """
        for new in indexes:
            index, how = new.index, self.comparisons.get(new.index.name)
            if not (index.unique and index.constraint != "x" and index.nulls_distinct and how and len(how.equals)):
                continue
            cells = [self.shape[column] for column in index.columns]
            if self._may_break(cells) and not self._is_unique_before(index):
                yield UniqueGuard(
                    index.name, new.physical, self.fresh("unique"), tuple(zip(index.columns, cells, strict=True)),
                    index.keys, how.equals, how.collations, index.predicate, how.hashed,
                )  # fmt: skip

    def _guarded_key(self, new: NewForeignKey) -> NewForeignKey:
        """Return a foreign key with a guard, where older versions' rows may break it."""
        cells = [self.shape[column] for column in new.foreign_key.columns]
        clause = parse_clause(new.suffix)
        if clause is None or is_enforced_later(new.suffix) or not self._may_break(cells):
            return new
        derived = self._derived()
        followed = new.foreign_key.origin is not None and all(self._same_value(c) for c in cells if c in derived)
        # Of a MATCH FULL key quarantine would have to make every column NULL.
        if followed or ("MATCH FULL" in clause.tail and not derived.issuperset(cells)):
            return new
        return replace(new, guard=self.fresh("key"), cells=tuple(cells), physical_keys=clause.columns)

    def _may_break(self, cells: Sequence[str]) -> bool:
        """Return whether values that are derived for older versions' rows are among these cells."""
        found = [self.cells[cell] for cell in cells]
        # Numbers of a sequence are never equal; what is generated, a trigger cannot see.
        if any(cell.numbers or cell.generated for cell in found):
            return False
        return any(cell.id in self._derived() for cell in found)

    def _is_unique_before(self, index: Index) -> bool:
        """Return whether a unique index of before holds every row to this one, too: values are only copied."""
        plain = len(index.keys) == len(index.columns) and not index.predicate
        if not plain or not all(self._same_value(self.shape[c]) for c in index.columns):
            return False
        sources = {self._origin(self.shape[c]) for c in index.columns}
        return any(
            old.unique
            and old.constraint != "x"
            and not old.predicate
            and len(old.keys) == len(old.columns)
            and {self._old_shape[c] for c in old.columns} <= sources
            for old in self._old.indexes
        )

    def _same_value(self, cell_id: str) -> bool:
        """Return whether a cell is one of before, or a copy that differs exactly where its source differs."""
        if cell_id in self.before:
            return True
        edge = next((e for e in self.ups if e.target == cell_id), None)
        source = self.sources.get(cell_id)
        if edge is None or source is None or edge.inputs != (source,) or not _PLAIN.fullmatch(edge.expression):
            return False
        before, after = self.cells[source], self.cells[cell_id]
        return (
            before.collation == after.collation
            and _KINDS.get(_family(before.type), before.type) == _KINDS.get(_family(after.type), after.type)
            and self._same_value(source)
        )


# A column's name, perhaps with a cast: its only input is that column.
_PLAIN = re.compile(r'\s*(?:"(?:[^"]|"")*"|\w+)\s*(?:::\s*[a-z ]+)?\s*')
# Types between which an assignment never makes one value of two.
_KINDS = {"smallint": "integer", "integer": "integer", "bigint": "integer", "text": "text", "character varying": "text"}


def _family(type_: str) -> str:
    return re.sub(r"\([^)]*\)", "", type_)


def new_draft(flight: Flight, facts: TableFacts, generation: int) -> Draft:
    """Return the draft of a level in which nothing has changed yet."""
    top = len(flight.levels)
    spec, shape = flight.spec_at(top), dict(flight.shape_at(top))
    draft = Draft(flight, facts, generation, spec, shape, {c.id: c for c in flight.cells})
    draft.generated = {edge.target: edge for edge in flight.generated}
    physical = flight.foreign_keys_at(top)
    draft.foreign_keys = [
        replace(f, columns=tuple(shape[c] for c in f.columns), origin=physical[f.name]) for f in spec.foreign_keys
    ]
    return draft
