"""Steps that contract tables: validate, then swap each over in one short transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from alembic_zero.lens.objects import ObjectKind, lost_at, names_at, objects_until
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.plan.expand import drop_triggers, table_lock
from alembic_zero.plan.publishing import publications_reading, release_statements
from alembic_zero.plan.references import restored_deferral
from alembic_zero.plan.step import Kind, Lock, LockMode, Step
from alembic_zero.sql import ddl
from alembic_zero.sql.guards import key_guards
from alembic_zero.sql.quoting import ident, literal
from alembic_zero.sql.triggers import SyncTrigger, sync_name
from alembic_zero.sql.views import inner_name, render_flattened, render_tombstone, render_view, view_of_flight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.catalog.snapshot import Column, TableFacts, TableSpec
    from alembic_zero.lens.lens import Cell, Flight, Level, NewIndex, Rule
    from alembic_zero.lens.objects import TableObject


@dataclass(frozen=True)
class PublishedView:
    """A view of a table in flight, in one live version schema."""

    schema: str
    level: int


def view_lock(flight: Flight, view: PublishedView) -> Lock:
    """Return the lock on a view; it goes on to the base table, as clients' own locks do."""
    name = ident(view.schema, flight.spec_at(view.level).name)
    return Lock(name, LockMode.ACCESS_EXCLUSIVE, view=True)


def drop_view(flight: Flight, view: PublishedView) -> list[str]:
    """Return DROP VIEW for both depths."""
    statements = [f"DROP VIEW IF EXISTS {ident(view.schema, flight.spec_at(view.level).name)}"]
    tag = flight.tag_at(view.level)
    if tag is not None:
        inner = inner_name(flight.id, tag, view.schema)
        statements.append(f"DROP VIEW IF EXISTS {ident(JOURNAL_SCHEMA, inner)}")
    return statements


def bury_view(flight: Flight, view: PublishedView) -> list[str]:
    """Return the statements that put a tombstone where a view was."""
    spec = flight.spec_at(view.level)
    return [*drop_view(flight, view), *tombstone_of(view.schema, spec)]


def tombstone_of(view_schema: str, spec: TableSpec) -> list[str]:
    """Return the statements that create a tombstone for a logical table."""
    builtin = {c.name for c in spec.columns if _is_builtin(c.type)}
    keys = [
        i.definition for i in spec.indexes if i.unique and builtin.issuperset(i.columns) and _is_builtin(i.definition)
    ]
    return render_tombstone(view_schema, spec.name, [(c.name, _tomb_type(c)) for c in spec.columns], keys)


def _is_builtin(text: str) -> bool:
    """Return whether a type or definition, every name in it qualified, uses nothing that a user made."""
    return "." not in text


def _tomb_type(column: Column) -> str:
    """Return the column's type and collation, or text: a tombstone must not keep a user's type from being dropped."""
    if not _is_builtin(column.type):
        return "text[]" if column.type.endswith("[]") else "text"
    if column.collation is None or not column.collation.startswith("pg_catalog."):
        return column.type
    return f"{column.type} COLLATE {column.collation}"


# -- validation -------------------------------------------------------------------------------------


def plan_validation(flight: Flight, level: int, source: str) -> list[Step]:
    """Return the steps that add and validate, as plain constraints, what the trigger enforced so far.

    So SET NOT NULL needs no scan under ACCESS EXCLUSIVE (PostgreSQL manual, ALTER TABLE).
    """
    table = ident(flight.schema, flight.name)
    definitions = list(_helpers(flight, level))
    if not definitions:
        return []
    label = flight.label
    drop = tuple(ddl.drop_constraint(table, name) for name, _ in definitions)
    add = tuple(ddl.add_check(table, name, text) for name, text in definitions)
    lock = table_lock(flight, LockMode.ACCESS_EXCLUSIVE)
    validate = tuple(ddl.validate(table, name) for name, _ in definitions)
    return [
        Step(f"constraints of {label}", Kind.TRANSACTION, source, (*drop, *add), (lock,), LockMode.ACCESS_EXCLUSIVE,
             table=flight.id, inverse=drop),
        Step(f"validate {label}", Kind.AUTOCOMMIT, source, validate, lock_mode=LockMode.SHARE_UPDATE_EXCLUSIVE,
             cost="scans", table=flight.id),
    ]  # fmt: skip


def _helpers(flight: Flight, level: int) -> Iterator[tuple[str, str]]:
    shown = {cell for _, cell in flight.shape_at(level)}
    kept = names_at(flight, level)
    for number in range(1, level + 1):
        for rule in flight.levels[number - 1].rules:
            if not set(rule.cells) <= shown or (rule.check and (ObjectKind.CHECK, rule.helper_name) not in kept):
                continue
            if rule.check is None:
                yield rule.helper_name, f"CHECK ({ident(str(flight.cell(rule.cells[0]).physical))} IS NOT NULL)"
            else:
                yield rule.helper_name, str(rule.physical_check)


# -- the swap ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swap:
    """One table's contract up to a level.

    :param gone: views of versions that end here; they become tombstones.
    :param kept: views of the version that is completed and of newer ones.
    :param others: views of other projects' versions over the table, which show what is its oldest shape.
    :param detour: name that the table gets first, because another one still holds its new name.
    """

    flight: Flight
    level: int
    facts: TableFacts
    gone: Sequence[PublishedView]
    kept: Sequence[PublishedView]
    server_version: int
    detour: str | None = None
    others: Sequence[tuple[str, str]] = ()

    @property
    def after(self) -> Flight:
        """The table's flight after the swap."""
        after = self.flight.contracted(self.level)
        return after if self.detour is None else replace(after, name=self.detour)

    def plan_arrival(self, source: str) -> Step:
        """Return the step that gives a table its new name, once that is free."""
        final = self.flight.contracted(self.level)
        table = ident(self.flight.schema, str(self.detour))
        return Step(
            f"rename to {final.schema}.{final.name}",
            Kind.TRANSACTION,
            source,
            (f"ALTER TABLE {table} RENAME TO {ident(final.name)}",),
            (Lock(table, LockMode.ACCESS_EXCLUSIVE, self.flight.relation),),
            LockMode.ACCESS_EXCLUSIVE,
            table=self.flight.id,
            forward_only=True,
            state=final.to_json() if final.levels else "",
        )

    def plan(self, source: str) -> Step:
        """Return the step: one transaction, all locks first, retried whole."""
        after = self.after
        locks = [view_lock(self.flight, v) for v in (*self.gone, *self.kept)]
        locks += [Lock(ident(*other), LockMode.ACCESS_EXCLUSIVE, view=True) for other in self.others]
        locks.append(table_lock(self.flight, LockMode.ACCESS_EXCLUSIVE))
        return Step(
            f"contract {self.flight.schema}.{self.flight.name}",
            Kind.TRANSACTION,
            source,
            tuple(self._drop_table() if self.is_dropped else self._statements(after)),
            tuple(locks),
            LockMode.ACCESS_EXCLUSIVE,
            table=self.flight.id,
            forward_only=True,
            state="" if self.is_dropped or not after.levels else after.to_json(),
        )

    @property
    def is_dropped(self) -> bool:
        """Whether the revision drops the table."""
        return any(level.dropped for level in self.flight.levels[: self.level])

    def dependants(self) -> list[tuple[str | None, str]]:
        """Return what would keep the server from dropping what goes, with the column that it uses."""
        if self.is_dropped:
            return list(self.facts.dependents)
        gone = [str(self.flight.cell(c).physical) for c in self._gone_cells()]
        found: list[tuple[str | None, str]] = [one for one in self.facts.dependents if one[0] in gone]
        return found + [(c, thing) for c in gone for thing in publications_reading(c, self.flight, self.facts)]

    @cached_property
    def _names(self) -> dict[tuple[ObjectKind, str], str]:
        """What indexes and constraints are to be called, by kind and physical name."""
        return names_at(self.flight, self.level)

    def _gone_cells(self) -> list[str]:
        kept = {c for n in range(self.level, len(self.flight.levels) + 1) for _, c in self.flight.shape_at(n)}
        shown = dict.fromkeys(c for n in range(self.level) for _, c in self.flight.shape_at(n))
        return [c for c in shown if c not in kept]

    @property
    def _table(self) -> str:
        return ident(self.flight.schema, self.flight.name)

    def _drop_table(self) -> list[str]:
        statements = [text for view in self.gone for text in bury_view(self.flight, view)]
        statements += [text for view in self.kept for text in drop_view(self.flight, view)]
        statements += self._drop_others()
        statements.append(f"DROP TABLE {self._table}")
        if self.flight.has_marker:
            statements.append(f"DROP FUNCTION IF EXISTS {ident(JOURNAL_SCHEMA, sync_name(self.flight))}()")
        return statements + self._drop_functions(len(self.flight.levels))

    def _statements(self, after: Flight) -> list[str]:
        statements = [text for view in self.gone for text in bury_view(self.flight, view)]
        statements += release_statements(self.flight, after, self.facts.publications, self.level)
        statements += self._drop_others() + self._flatten()
        if self.flight.has_marker:
            statements += drop_triggers(self.flight)
        statements += self._drop_objects() + self._move_sequences() + self._drop_columns() + self._renames()
        statements += self._not_nulls() + self._rename_objects() + self._deferrals()
        statements += self._indexes() + self._comments_on_constraints()
        statements += self._defaults() + self._serials() + self._identities() + self._comments() + self._statistics()
        if self.flight.has_marker and not after.has_marker:
            statements.append(ddl.drop_column(self._table, MARKER))
        if after.name != self.flight.name:
            statements.append(f"ALTER TABLE {self._table} RENAME TO {ident(after.name)}")
        if after.has_marker:
            sync = SyncTrigger(after)
            statements += [sync.render_function(), *sync.render_triggers()]
        elif self.flight.has_marker:
            statements.append(f"DROP FUNCTION IF EXISTS {ident(JOURNAL_SCHEMA, sync_name(self.flight))}()")
        return (
            statements + self._show_others(after) + self._drop_functions(self.level) + drop_numbers(self.flight, after)
        )

    def _drop_others(self) -> list[str]:
        return [f"DROP VIEW IF EXISTS {ident(*other)}" for other in self.others]

    def _show_others(self, after: Flight) -> list[str]:
        """Show other projects the table as it is now: what they know of it is only where it is."""
        # Under a name that is on its way the table would be shown under the wrong one.
        schemas = dict.fromkeys(schema for schema, _ in self.others) if self.detour is None else {}
        views = [view_of_flight(schema, after, 0, self.facts, self.server_version) for schema in schemas]
        return [text for view in views for text in render_view(view)]

    def _flatten(self) -> list[str]:
        """Put views straight on the base table that need no marker any more, those of newer versions too."""
        statements = []
        after = self.flight.contracted(self.level)
        for view in self.kept:
            tag = self.flight.tag_at(view.level)
            rendered = view_of_flight(view.schema, self.flight, view.level, self.facts, self.server_version)
            if tag is not None and after.tag_at(view.level - self.level) is None:
                statements += render_flattened(rendered)
                statements.append(f"DROP VIEW {ident(JOURNAL_SCHEMA, inner_name(self.flight.id, tag, view.schema))}")
            if view.level != self.level:
                continue
            name = ident(view.schema, rendered.name)
            statements += [
                f"ALTER VIEW {name} ALTER COLUMN {ident(c.logical)} DROP DEFAULT" for c in rendered.columns if c.default
            ]
        return statements

    def _columns(self) -> Iterator[tuple[Column, Cell]]:
        return self.flight.columns_at(self.level)

    def _move_sequences(self) -> list[str]:
        statements = []
        for column, cell in self._columns():
            if cell.sequence_of is None:
                continue
            source = self._sequence_source(cell)
            if column.identity is not None:
                statements.append(f"ALTER TABLE {self._table} ALTER COLUMN {ident(str(cell.physical))} SET NOT NULL")
                statements.append(
                    ddl.move_identity(
                        self.flight.schema,
                        self.flight.name,
                        str(source.physical),
                        str(cell.physical),
                        column.identity,
                    )
                )
            elif column.owned_sequence is not None:
                statements.append(ddl.own_sequence(column.owned_sequence, "NONE"))
        return statements

    def _sequence_source(self, cell: Cell) -> Cell:
        source = self.flight.cell(str(cell.sequence_of))
        based = {c for _, c in self.flight.shape}
        return source if source.id in based or source.sequence_of is None else self._sequence_source(source)

    def _drop_columns(self) -> list[str]:
        # What is generated goes before what it is computed from.
        gone = sorted(map(self.flight.cell, self._gone_cells()), key=lambda cell: not cell.generated)
        return [ddl.drop_column(self._table, str(cell.physical)) for cell in gone]

    def _drop_objects(self) -> list[str]:
        """Drop indexes and constraints that are gone while their columns stay; others go with a column."""
        gone = set(self._gone_cells())
        lost = lost_at(self.flight, self.level)
        return [drop_object(self.flight, one) for one in lost if not gone & set(one.cells)]

    def _renames(self) -> list[str]:
        return ddl.rename_pairs(((str(cell.physical), column.name) for column, cell in self._columns()), self._table)

    def _not_nulls(self) -> list[str]:
        """SET NOT NULL by the validated CHECK; what PostgreSQL 18 calls the constraint is as plain DDL's."""
        statements = []
        shape = {cell: name for name, cell in self.flight.shape_at(self.level)}
        for rule in self._rules():
            if rule.check is None:
                name = shape[rule.cells[0]]
                statements.append(f"ALTER TABLE {self._table} ALTER COLUMN {ident(name)} SET NOT NULL")
                statements.append(ddl.drop_constraint(self._table, rule.helper_name))
        added = [one for level in self._levels() for one in level.not_nulls if one.cell in shape]
        for one in added:
            statements.append(f"ALTER TABLE {self._table} ALTER COLUMN {ident(shape[one.cell])} SET NOT NULL")
            statements.append(ddl.drop_constraint(self._table, one.helper_name))
        based = {c for _, c in self.flight.shape} - {one.cell for one in added}
        wanted = [
            (column.name, column.not_null_name)
            for column, cell in self._columns()
            if column.not_null_name and cell.id not in based
        ]
        # By way of temporary names: two columns may have exchanged theirs.
        statements += [ddl.rename_not_null(self._table, c, f"_zd_not_null_{n}") for n, (c, _) in enumerate(wanted)]
        return statements + [ddl.rename_not_null(self._table, column, name) for column, name in wanted]

    def _rules(self) -> list[Rule]:
        shown = {cell for _, cell in self.flight.shape_at(self.level)}
        return [rule for level in self.flight.levels[: self.level] for rule in level.rules if set(rule.cells) <= shown]

    def _rename_objects(self) -> list[str]:
        """Give indexes and constraints their final names; what an index becomes a constraint by, renames it, too."""
        constraints, indexes = [], []
        kinds = {(o.kind, o.physical): o.constraint for o in objects_until(self.flight, self.level)}
        attached = {new.physical for level in self._levels() for new in level.indexes if _is_attached(new)}
        for (kind, physical), name in self._names.items():
            if kind == ObjectKind.FOREIGN_KEY or kinds[kind, physical]:
                constraints.append((physical, name))
            elif physical not in attached:
                indexes.append((physical, name))
        statements = [ddl.rename_constraint(self._table, *pair) for pair in ddl.in_turns(constraints)]
        return statements + [
            f"ALTER INDEX {ident(self.flight.schema, before)} RENAME TO {ident(after)}"
            for before, after in ddl.in_turns(indexes)
        ]

    def _levels(self) -> tuple[Level, ...]:
        return self.flight.levels[: self.level]

    def _has(self, level: Level, columns: Sequence[str]) -> bool:
        """Return whether all these columns of a level are still shown at the end."""
        shown = {cell for _, cell in self.flight.shape_at(self.level)}
        names = dict(level.shape)
        return all(names[c] in shown for c in columns)

    def _indexes(self) -> list[str]:
        statements = []
        for level in self._levels():
            for new in level.indexes:
                name = self._names.get((ObjectKind.INDEX, new.physical))
                if name is not None:
                    statements += self._index(replace(new, index=replace(new.index, name=name)))
        return statements

    def _index(self, new: NewIndex) -> list[str]:
        index = new.index
        statements = []
        if _is_attached(new):
            statements.append(ddl.attach_constraint(self._table, index, new.physical))
        name = ident(self.flight.schema, index.name)
        statements.append(ddl.rename_index_columns(name))
        statements += [
            f"ALTER INDEX {name} ALTER COLUMN {position} SET STATISTICS {target}"
            for position, target in index.statistics
        ]
        if index.clustered:
            statements.append(f"ALTER TABLE {self._table} CLUSTER ON {ident(index.name)}")
        if index.replica_identity:
            statements.append(f"ALTER TABLE {self._table} REPLICA IDENTITY USING INDEX {ident(index.name)}")
        if index.comment and index.constraint:
            statements.append(ddl.comment_on_constraint(self._table, index.name, index.comment))
        elif index.comment:
            statements.append(f"COMMENT ON INDEX {name} IS {literal(index.comment)}")
        return statements

    def _comments_on_constraints(self) -> list[str]:
        found = []
        for level in self._levels():
            found += [(ObjectKind.CHECK, c.physical, c.check.comment) for c in level.checks]
            found += [(ObjectKind.CHECK, r.helper_name, r.check.comment) for r in level.rules if r.check]
            found += [(ObjectKind.FOREIGN_KEY, f.physical, f.foreign_key.comment) for f in level.foreign_keys]
        return [
            ddl.comment_on_constraint(self._table, self._names[kind, physical], comment)
            for kind, physical, comment in found
            if comment and (kind, physical) in self._names
        ]

    def _deferrals(self) -> list[str]:
        """Give back to foreign keys what only their final name lets clients use."""
        statements = []
        for level in self._levels():
            for new in level.foreign_keys:
                name = self._names.get((ObjectKind.FOREIGN_KEY, new.physical))
                if name is not None and new.physical != new.foreign_key.name:
                    statements += restored_deferral(self._table, name, new.foreign_key)
        return statements

    def _origin(self, cell: Cell) -> Column | None:
        """Return how the column was described where its cell first appeared: so is it physically."""
        for number in range(self.level + 1):
            for name, cell_id in self.flight.shape_at(number):
                if cell_id == cell.id:
                    return self.flight.spec_at(number).column(name)
        return None

    def _defaults(self) -> list[str]:
        statements = []
        for column, cell in self._columns():
            origin = self._origin(cell)
            if column.generated or column.identity or cell.sequence_of is not None or origin is None:
                continue
            if column.default != origin.default:
                statements.append(ddl.set_default(self._table, column.name, column.default))
        return statements

    def _serials(self) -> list[str]:
        statements = []
        for column, cell in self._columns():
            if cell.sequence_of is not None and column.identity is None:
                statements.append(ddl.set_default(self._table, column.name, column.default))
                if column.owned_sequence is not None:
                    owner = f"{self._table}.{ident(column.name)}"
                    statements.append(ddl.own_sequence(column.owned_sequence, owner))
        return statements

    def _identities(self) -> list[str]:
        """Return what makes identities of the columns that sequences of ours have numbered so far."""
        return [
            ddl.become_identity(
                self.flight.schema, self.flight.name, column.name, column.identity, (JOURNAL_SCHEMA, cell.numbers)
            )
            for column, cell in self._columns()
            if cell.numbers is not None and column.identity is not None
        ]

    def _comments(self) -> list[str]:
        based = {c for _, c in self.flight.shape}
        statements = []
        for column, cell in self._columns():
            origin = self._origin(cell)
            existing = origin.comment if origin and cell.id in based else None
            if column.comment != existing:
                statements.append(ddl.comment_on_column(self._table, column.name, column.comment))
        return statements

    def _statistics(self) -> list[str]:
        found = {}
        for level in self._levels():
            for statistics in level.statistics:
                if self._has(level, statistics.columns):
                    found[statistics.name] = statistics
        statements = []
        for statistics in found.values():
            name = ident(statistics.schema, statistics.name)
            statements.append(ddl.create_statistics(statistics, statistics.schema, self._table))
            if statistics.comment:
                statements.append(f"COMMENT ON STATISTICS {name} IS {literal(statistics.comment)}")
            if statistics.target is not None:
                statements.append(f"ALTER STATISTICS {name} SET STATISTICS {statistics.target}")
        return statements

    def _drop_functions(self, levels: int) -> list[str]:
        return drop_functions(self.flight, self.flight.levels[:levels], self.flight.contracted(levels))


def _is_attached(new: NewIndex) -> bool:
    """Return whether the contract makes a constraint of this index."""
    return new.index.constraint in ("p", "u")


def drop_object(flight: Flight, one: TableObject) -> str:
    """Return DROP CONSTRAINT or DROP INDEX for something on the flight's table."""
    if one.constraint:
        return ddl.drop_constraint(ident(flight.schema, flight.name), one.physical)
    return ddl.drop_index(flight.schema, one.physical)


def drop_functions(flight: Flight, gone: Sequence[Level], after: Flight) -> list[str]:
    """Return DROP FUNCTION for expressions of levels that end and generated columns that nothing reads any more."""
    names = [e.function for level in gone for e in (*level.ups, *level.downs)]
    names += [r.function for level in gone for r in level.rules if r.function]
    names += [guard.function for level in gone for guard in level.guards]
    names += [name for guard in key_guards(flight, gone) for name in guard.functions]
    kept = {e.function for e in after.generated}
    names += [e.function for e in flight.generated if e.function not in kept]
    return [f"DROP FUNCTION IF EXISTS {ident(JOURNAL_SCHEMA, name)}" for name in names]


def drop_numbers(flight: Flight, after: Flight) -> list[str]:
    """Return DROP SEQUENCE for those that stood in for an identity which is there now, or is no more wanted."""
    kept = {cell.numbers for cell in after.cells}
    return [ddl.drop_sequence(JOURNAL_SCHEMA, c.numbers) for c in flight.cells if c.numbers and c.numbers not in kept]
