"""Foreign keys follow the columns that they join: also those of tables that a revision does not mention.

A level that copies a column of a referenced key needs every foreign key that points there once more, onto
the copy. A referencing table without an operation of its own takes off for that: without trigger or backfill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import find_table, qualified_names, read_live_foreign_keys, read_rows
from alembic_zero.execute.plain_ddl import TRIAL_SCHEMA
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.references import Clause, Pin, Reference, parse_clause, rename_action_columns
from alembic_zero.sql.quoting import ident, idents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import ForeignKey, LiveForeignKey
    from alembic_zero.lens.lens import Flight
    from alembic_zero.plan.draft import Draft

_PARTITIONED_NOT_VALID_SINCE = 18


@dataclass
class Following:
    """The foreign keys of one plan.

    :param connection: inside the trial's transaction.
    :param flights: tables that were in flight before.
    :param revision: for errors.
    """

    connection: Connection
    flights: Sequence[Flight]
    revision: str
    default_schema: str
    server_version: int

    def _refuse(self, draft: Draft, problem: str, code: str = "ZD208") -> RefusedError:
        table = f"{draft.flight.schema}.{draft.flight.name}"
        return RefusedError(
            f"revision {self.revision!r}, table {table}: {problem}; nothing was changed",
            code=code,
            revision=self.revision,
            table=table,
        )

    # -- what new foreign keys mean --------------------------------------------------------

    def pin(self, draft: Draft, drafts: Sequence[Draft]) -> None:
        """Note what new foreign keys reference, in the names of this moment of the revision."""
        for foreign_key in draft.foreign_keys:
            if foreign_key.origin is not None or foreign_key.name in draft.pins:
                continue
            clause = parse_clause(foreign_key.suffix)
            pin = clause and self._find(clause, drafts)
            if pin:
                draft.pins[foreign_key.name] = pin

    def _find(self, clause: Clause, drafts: Sequence[Draft]) -> Pin | None:
        schema = clause.table[0] if len(clause.table) > 1 else self.default_schema
        name = clause.table[-1]
        for draft in drafts:
            if (draft.flight.schema, draft.spec.name, draft.dropped) == (schema, name, False):
                cells = tuple(draft.shape[c] for c in clause.columns if c in draft.shape)
                return _pin(draft.flight, cells=cells) if len(cells) == len(clause.columns) else None
        for flight in self.flights:
            if (flight.schema, flight.spec_at(len(flight.levels)).name) == (schema, name):
                shape = dict(flight.shape_at(len(flight.levels)))
                columns = tuple(str(flight.cell(shape[c]).physical) for c in clause.columns if c in shape)
                return _pin(flight, columns=columns) if len(columns) == len(clause.columns) else None
        relation = find_table(self.connection, schema, name)
        return None if relation is None else Pin(relation, ident(schema, name), columns=clause.columns)

    # -- who is concerned --------------------------------------------------------------------

    def take_off(self, drafts: Sequence[Draft], launch: Callable[[LiveForeignKey, Draft], Draft]) -> list[Draft]:
        """Return all drafts, those of tables included whose foreign keys have to follow.

        :param launch: returns the draft of a table that no operation names.
        """
        found = {draft.flight.relation: draft for draft in drafts}
        for draft in drafts:
            gone = {str(draft.flight.cell(c).physical) for c in draft.before - set(draft.shape.values())}
            if not gone and not draft.dropped:
                continue
            for link in read_live_foreign_keys(self.connection, draft.flight.relation):
                concerned = link.referenced_relation == draft.flight.relation and gone & set(link.referenced_columns)
                if link.relation not in found and (concerned or draft.dropped):
                    found[link.relation] = launch(link, draft)
        return list(found.values())

    # -- what they will reference --------------------------------------------------------------

    def resolve(self, drafts: Sequence[Draft]) -> None:
        """Note what each foreign key will reference, once every cell has its physical name.

        :raises RefusedError: a referenced column or table goes, or the two ends no longer compare.
        """
        by_relation = {draft.flight.relation: draft for draft in drafts}
        for draft in drafts:
            if draft.dropped:
                continue
            names = {cell: name for name, cell in draft.shape.items()}
            links = {link.name: link for link in read_live_foreign_keys(self.connection, draft.flight.relation)}
            for foreign_key in draft.foreign_keys:
                cells = [draft.latest(c) for c in foreign_key.columns]
                if not all(c in names for c in cells):
                    continue
                link = None if foreign_key.origin is None else links.get(foreign_key.origin)
                reference = self._reference(draft, foreign_key, link, by_relation)
                if reference is not None:
                    draft.references[foreign_key.name] = reference
                    logical = replace(foreign_key, columns=tuple(names[c] for c in cells))
                    if draft.rebuilds(logical):
                        self._check(draft, foreign_key, reference, cells, by_relation)

    def _reference(
        self, draft: Draft, foreign_key: ForeignKey, link: LiveForeignKey | None, by_relation: dict[int, Draft]
    ) -> Reference | None:
        clause = parse_clause(foreign_key.suffix if link is None else link.definition)
        pin = draft.pins.get(foreign_key.name) if link is None else _pin_of(link)
        if pin is None:
            return None
        target = by_relation.get(pin.relation)
        columns, moved = (pin.columns, False) if target is None else self._columns(draft, foreign_key, pin, target)
        if clause is None:
            if moved or any(c not in draft.before for c in map(draft.latest, foreign_key.columns)):
                raise self._refuse(draft, f"foreign key {foreign_key.name!r} is of a kind that cannot be copied")
            return None
        tail = rename_action_columns(clause.tail, lambda name: self._physical(draft, name, physical=link is not None))
        return Reference(pin.relation, pin.table, columns, tail, moved)

    def _columns(self, draft: Draft, foreign_key: ForeignKey, pin: Pin, target: Draft) -> tuple[tuple[str, ...], bool]:
        """Return the physical columns that are referenced, and whether they are new ones."""
        table = f"{target.flight.schema}.{target.flight.name}"
        wanted = f"foreign key {foreign_key.name!r} references it: drop that first, with op.zd_drop_constraint"
        if target.dropped:
            raise self._refuse(draft, f"zd_drop_table drops {table}, and {wanted}")
        by_physical = {cell.physical: cell.id for cell in target.flight.cells}
        before = pin.cells or [by_physical[name] for name in pin.columns]
        cells = [target.latest(c) for c in before]
        for cell, origin in zip(cells, before, strict=True):
            if cell not in target.shape.values():
                name = target.cells[origin].physical
                raise self._refuse(draft, f"column {name!r} of {table} is dropped, and {wanted}")
        return tuple(str(target.cells[c].physical) for c in cells), any(c not in target.before for c in cells)

    @staticmethod
    def _physical(draft: Draft, name: str, *, physical: bool) -> str:
        """Return the physical name that a referencing column will have."""
        by_physical = {str(cell.physical): cell.id for cell in draft.flight.cells}
        cell = by_physical[name] if physical else draft.shape[name]
        return str(draft.cells[draft.latest(cell)].physical)

    # -- does it work? ---------------------------------------------------------------------

    def _check(
        self, draft: Draft, foreign_key: ForeignKey, reference: Reference, cells: list[str], known: dict[int, Draft]
    ) -> None:
        """Let the server say, over two empty tables, whether both ends still compare.

        :raises RefusedError: they do not.
        """
        if draft.facts.kind == "p" and self.server_version < _PARTITIONED_NOT_VALID_SINCE:
            raise self._refuse(
                draft, f"foreign key {foreign_key.name!r} of a partitioned table can be added without a lock only from "
                "PostgreSQL 18 on"
            )  # fmt: skip
        ends = self._referenced_types(reference, known)
        types = [_type(draft.cells[c].type, draft.cells[c].collation) for c in cells]
        savepoint = self.connection.begin_nested()
        try:
            for statement in _trial_statements(types, ends):
                send(self.connection, statement)
        except DBAPIError as error:
            raise self._refuse(
                draft, f"foreign key {foreign_key.name!r} cannot follow to {reference.table}: {describe_error(error)}: "
                "change both ends in this revision"
            ) from error  # fmt: skip
        finally:
            savepoint.rollback()

    def _referenced_types(self, reference: Reference, known: dict[int, Draft]) -> list[str]:
        draft = known.get(reference.relation)
        if draft is not None:
            types = {str(cell.physical): _type(cell.type, cell.collation) for cell in draft.cells.values()}
        else:
            with qualified_names(self.connection):
                rows = read_rows(self.connection, "columns", oid=reference.relation)
            types = {row["name"]: _type(row["type"], row["collation"]) for row in rows}
        return [types[name] for name in reference.columns]


def _pin(flight: Flight, cells: tuple[str, ...] = (), columns: tuple[str, ...] = ()) -> Pin:
    return Pin(flight.relation, ident(flight.schema, flight.name), cells, columns)


def _pin_of(link: LiveForeignKey) -> Pin:
    table = ident(link.referenced_schema, link.referenced_table)
    return Pin(link.referenced_relation, table, columns=link.referenced_columns)


def _type(name: str, collation: str | None) -> str:
    return f"{name} COLLATE {collation}" if collation else name


def _trial_statements(referencing: Sequence[str], referenced: Sequence[str]) -> list[str]:
    names = [f"c{n}" for n in range(len(referenced))]
    one, other = ident(TRIAL_SCHEMA, "_zd_referencing"), ident(TRIAL_SCHEMA, "_zd_referenced")
    return [
        f"CREATE TABLE {other} ({_columns(names, referenced)}, UNIQUE ({idents(names)}))",
        f"CREATE TABLE {one} ({_columns(names, referencing)})",
        f"ALTER TABLE {one} ADD FOREIGN KEY ({idents(names)}) REFERENCES {other} ({idents(names)})",
    ]


def _columns(names: Sequence[str], types: Sequence[str]) -> str:
    return ", ".join(f"{ident(name)} {kind}" for name, kind in zip(names, types, strict=True))
