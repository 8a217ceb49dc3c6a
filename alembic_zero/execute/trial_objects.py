"""The trial of operations on indexes and constraints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.locks import sqlstate
from alembic_zero.execute.plain_ddl import render_plain
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.lens.objects import ObjectKind, names_at, object_names, objects_until
from alembic_zero.names import implicit_name
from alembic_zero.operations.constraints import (
    ZdConstraintOperation,
    ZdCreateExcludeConstraintOp,
    ZdCreateForeignKeyOp,
    ZdDropConstraintOp,
    ZdRenameConstraintOp,
)
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.indexes import ZdCreateIndexOp, ZdDropIndexOp
from alembic_zero.operations.irreversible import Irreversible
from alembic_zero.plan.references import parse_clause
from alembic_zero.sql import ddl
from alembic_zero.sql.quoting import ident, idents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import Column, ForeignKey, Index, TableSpec
    from alembic_zero.lens.lens import Cell, Edge
    from alembic_zero.operations.base import ZdOperation, ZdTableOperation
    from alembic_zero.plan.draft import Draft
    from alembic_zero.plan.items import Ordinary

_DUPLICATES = {"42P07", "42710"}
_REFERENT_SCHEMA = "_zd_referent"


class ObjectTrial:
    """What a trial does with indexes and constraints: the other half of ``TableTrial``.

    *find_spec* gives the description of a table as it is at this point of the upgrade, None if there is
    none; *names_reserved* are names of relations that other tables will have; *keys_given_up* are
    foreign keys, as the server describes them, that earlier operations drop.
    """

    draft: Draft
    find_spec: Callable[[str | None, str], TableSpec | None]
    default_schema: str = ""
    names_reserved: frozenset[str] = frozenset()
    keys_given_up: frozenset[str] = frozenset()

    if TYPE_CHECKING:
        _connection: Connection
        _options: dict[str, Any]
        _schema: str

        @property
        def _table(self) -> str: ...
        def _run(self, text: str) -> Any: ...
        def _savepoint(self) -> AbstractContextManager[None]: ...
        def _refuse(self, problem: str, code: str = "", cause: BaseException | None = None) -> RefusedError: ...
        def _read_spec(self) -> TableSpec: ...
        def _refresh(self, changed: dict[str, str]) -> None: ...
        def _column(self, name: str) -> Column: ...
        def _names_in_use(self) -> set[str]: ...
        def _check_droppable(self, name: str) -> None: ...
        def _description(self) -> str: ...
        def _copy_of(self, cell: Cell, before: Column, after: Column) -> Cell: ...
        def _probe(self, direction: str, expression: str, spec: TableSpec, target: Cell, column: Column) -> Edge: ...

    def apply_to_object(self, operation: ZdOperation | Ordinary) -> None:
        """Apply an operation on an index or constraint.

        :raises RefusedError: it cannot work; the message says why.
        """
        if isinstance(operation, ZdDropIndexOp):
            self._drop_index(operation)
        elif isinstance(operation, ZdDropConstraintOp):
            self._drop_constraint(operation)
        elif isinstance(operation, ZdRenameConstraintOp):
            self._rename_constraint(operation)
        elif isinstance(operation, ZdCreateForeignKeyOp):
            self._create_foreign_key(operation)
        elif isinstance(operation, ZdCreateIndexOp | ZdConstraintOperation):
            self._create_object(operation)

    # -- creation -------------------------------------------------------------------------

    def _create_object(self, operation: ZdCreateIndexOp | ZdConstraintOperation) -> None:
        if isinstance(operation, ZdCreateExcludeConstraintOp):
            self._check_empty(f"exclusion constraint {operation.constraint_name!r}")
        made: list[tuple[ObjectKind, str]] = []

        def create() -> None:
            made[:] = self._create_plainly(operation)

        with self._savepoint():
            create()
            after = self._read_spec()
        if isinstance(operation, ZdConstraintOperation) and operation.copies:
            self._with_copies(operation, _columns_of(after, made), after, create)
        else:
            create()
            self._refresh({})
        for key in made:
            self.draft.described[key] = self._description()

    def _create_plainly(self, operation: ZdTableOperation) -> list[tuple[ObjectKind, str]]:
        """Run the plain DDL on the copy; return what the table has now and had not before."""
        statements, _ = render_plain(operation, self._options, self._schema)
        try:
            before = object_names(self._read_spec())
            for statement in statements:
                self._run(statement)
        except DBAPIError as error:
            problem = describe_error(error)
            if sqlstate(error) in _DUPLICATES:
                raise self._refuse(f"{problem} (there are: {self._existing()})", "ZD203", error) from error
            raise self._refuse(problem, "ZD201", error) from error
        made = sorted(object_names(self._read_spec()) - before)
        for kind, name in made:
            if kind == ObjectKind.INDEX:
                self._check_relation_name(name)
        return made

    def _check_relation_name(self, name: str) -> None:
        """Refuse the name of a relation that stays; what this table itself gives up is free at the contract."""
        flight = self.draft.flight
        own = {o.physical for o in objects_until(flight, len(flight.levels)) if o.kind == ObjectKind.INDEX}
        if name in self.names_reserved or name in self._names_in_use() - own:
            raise self._refuse(f"{self.draft.flight.schema}.{name} exists already", "ZD203")

    def _check_empty(self, what: str) -> None:
        flight = self.draft.flight
        filled = send(self._connection, f"SELECT EXISTS (SELECT FROM {ident(flight.schema, flight.name)})").scalar_one()
        if filled:
            raise self._refuse(
                f"PostgreSQL cannot build {what} concurrently: writers would wait, and the table has rows. Create it "
                "in a quiet hour with op.zd_execute(contract=...), or on a new table that takes this one's place",
                "ZD204",
            )

    def _create_foreign_key(self, operation: ZdCreateForeignKeyOp) -> None:
        _, (key,) = render_plain(operation, self._options, self._schema)
        for column in operation.columns:
            self._column(str(column))
        spec = self._referent(operation)
        key = self._named(self._qualified(key, operation, spec), operation)
        if any(f.name == key.name for f in self._foreign_keys()) or self._constraint_columns(key.name) is not None:
            raise self._refuse(f"constraint {key.name!r} exists already (there are: {self._existing()})", "ZD203")

        def create() -> None:
            self._check_referent(key, spec, list(map(str, operation.remote_columns)))

        if operation.copies:
            self._with_copies(operation, key.columns, self.draft.spec, create)
        else:
            create()
        self.draft.pins.pop(key.name, None)
        cells = tuple(self.draft.shape[c] for c in key.columns)
        self.draft.foreign_keys.append(replace(key, columns=cells))
        self.draft.described[ObjectKind.FOREIGN_KEY, key.name] = self._description()

    def _referent(self, operation: ZdCreateForeignKeyOp) -> TableSpec | None:
        """Return the referenced table's description; None where it is made later in the same upgrade."""
        name = operation.referent_table
        own = operation.referent_schema in (None, self.draft.flight.schema)
        if own and name == self.draft.spec.name:
            # Not under the copy's schema, which goes with the trial.
            return replace(self.draft.spec, schema=self.draft.flight.schema)
        try:
            return self.find_spec(operation.referent_schema, name)
        except LookupError as error:
            shown = f"{operation.referent_schema or self.default_schema}.{name}"
            raise self._refuse(f"there is no table {shown}", "ZD202", error) from error

    def _qualified(self, key: ForeignKey, operation: ZdCreateForeignKeyOp, spec: TableSpec | None) -> ForeignKey:
        schema = operation.referent_schema or (spec.schema if spec else self.default_schema)
        columns = tuple(map(str, operation.remote_columns))
        known = {c.name for c in spec.columns} if spec else set(columns)
        missing = [name for name in columns if name not in known]
        if missing:
            raise self._refuse(
                f"there is no column {missing[0]!r} in {schema}.{operation.referent_table} "
                f"(columns: {', '.join(sorted(known))})",
                "ZD202",
            )
        table = ident(schema, operation.referent_table)
        suffix = f"REFERENCES {table} ({idents(columns)}){_tail(key)}"
        return replace(key, suffix=suffix, referenced=table)

    def _named(self, key: ForeignKey, operation: ZdCreateForeignKeyOp) -> ForeignKey:
        """Return the key with the name that PostgreSQL would choose, if nothing else gives it one."""
        implicit = implicit_name(operation.table_name, key.columns, "fkey")
        if operation.constraint_name is not None or key.name != implicit:
            return key
        rows = read_rows(self._connection, "schema_constraints", schema=self.draft.flight.schema)
        taken = {row["name"] for row in rows} | {f.name for f in self._foreign_keys()}
        number = 0
        while implicit in taken:
            number += 1
            implicit = implicit_name(operation.table_name, key.columns, f"fkey{number}")
        return replace(key, name=implicit)

    def _check_referent(self, key: ForeignKey, spec: TableSpec | None, columns: Sequence[str]) -> None:
        """Let the server judge columns, types and the key that they need, without a lock on the referenced table."""
        if spec is None:
            return
        copy = replace(
            spec,
            columns=tuple(replace(c, default=None, identity=None, generated="", comment=None) for c in spec.columns),
            checks=(),
            statistics=(),
            indexes=tuple(i for i in spec.indexes if i.unique),
        )
        with self._savepoint():
            try:
                self._run(f"CREATE SCHEMA {_REFERENT_SCHEMA}")
                for statement in ddl.create_copy(copy, _REFERENT_SCHEMA):
                    self._run(statement)
                self._run(
                    f"ALTER TABLE {self._table} ADD FOREIGN KEY ({idents(key.columns)}) REFERENCES "
                    f"{ident(_REFERENT_SCHEMA, spec.name)} ({idents(columns)}){_tail(key)}"
                )
            except DBAPIError as error:
                raise self._refuse(describe_error(error), "ZD201", error) from error

    # -- copies ---------------------------------------------------------------------------

    def _with_copies(
        self,
        operation: ZdConstraintOperation,
        columns: Sequence[str],
        after: TableSpec,
        change: Callable[[], None],
    ) -> None:
        """Copy the columns that ``up`` and ``down`` are about, and make the change on the copies."""
        try:
            ups, downs = operation.expressions(columns)
        except RefusedError as error:
            raise self._refuse(error.message.removesuffix("; nothing was changed"), "ZD101", error) from error
        draft, before = self.draft, self.draft.spec
        copies: dict[str, tuple[Cell, Cell]] = {}
        for name in dict.fromkeys([*ups, *downs]):
            column, target = self._column(name), after.column(name)
            assert target is not None  # noqa: S101 - no constraint takes a column away
            self._check_copy(name, column, downs.get(name))
            cell = draft.cells[draft.shape[name]]
            copy = self._copy_of(cell, column, target)
            draft.ups.append(self._probe("up", ups.get(name, ident(name)), before, copy, target))
            copies[name] = (cell, copy)
        change()
        self._refresh({name: copy.id for name, (_, copy) in copies.items()})
        for name, (cell, copy) in copies.items():
            draft.sources[copy.id] = cell.id
            down = downs.get(name, ident(name))
            former = before.column(name)
            assert former is not None  # noqa: S101 - found above
            if not isinstance(down, Irreversible):
                draft.downs.append(self._probe("down", down, draft.spec, cell, former))

    def _check_copy(self, name: str, column: Column, down: str | Irreversible | None) -> None:
        self._check_droppable(name)
        if column.generated:
            raise self._refuse(f"column {name!r} is generated: it cannot be copied", "ZD204")
        fills_itself = column.default is not None or column.identity is not None
        if isinstance(down, Irreversible) and column.not_null and not fills_itself:
            raise self._refuse(
                f"column {name!r} is NOT NULL without a default: IRREVERSIBLE leaves new clients' inserts without a "
                "value for it",
                "ZD206",
            )

    # -- drops ----------------------------------------------------------------------------

    def _drop_index(self, operation: ZdDropIndexOp) -> None:
        name = str(operation.index_name)
        index = self._index(name)
        if index is None:
            if operation.if_exists:
                return
            plain = [i.name for i in self.draft.spec.indexes if not i.constraint]
            raise self._refuse(f"there is no index {name!r} (indexes: {', '.join(plain) or 'none'})", "ZD202")
        if index.constraint:
            raise self._refuse(f"index {name!r} belongs to a constraint: use op.zd_drop_constraint", "ZD204")
        self._check_independent(name)
        self._run_plainly(ddl.drop_index(self._schema, name))
        self._refresh({})

    def _drop_constraint(self, operation: ZdDropConstraintOp) -> None:
        name = str(operation.constraint_name)
        key = next((f for f in self._foreign_keys() if f.name == name), None)
        columns = self._constraint_columns(name)
        if key is None and columns is None:
            if operation.if_exists:
                return
            raise self._refuse_missing(name)
        self._check_independent(name)

        def drop() -> None:
            if key is None:
                self._run_plainly(ddl.drop_constraint(self._table, name))
            else:
                self.draft.foreign_keys.remove(key)

        if not operation.copies:
            drop()
            self._refresh({})
            return
        names = {cell: column for column, cell in self.draft.shape.items()}
        about = columns if key is None else tuple(names[self.draft.latest(c)] for c in key.columns)
        self._with_copies(operation, about or (), self._without(drop, key), drop)

    def _without(self, drop: Callable[[], None], key: ForeignKey | None) -> TableSpec:
        """Return the table's description without the constraint."""
        if key is not None:
            return self.draft.spec
        with self._savepoint():
            drop()
            return self._read_spec()

    def _refuse_missing(self, name: str) -> RefusedError:
        column = next((c.name for c in self.draft.spec.columns if c.not_null_name == name), None)
        if column is not None:
            return self._refuse(
                f"constraint {name!r} is the NOT NULL of column {column!r}: use op.zd_alter_column(nullable=True)",
                "ZD204",
            )
        if self._index(name) is not None:
            return self._refuse(f"{name!r} is an index, not a constraint: use op.zd_drop_index", "ZD204")
        return self._refuse(f"there is no constraint {name!r} (constraints: {self._existing()})", "ZD202")

    def _check_independent(self, name: str) -> None:
        """Refuse to drop what foreign keys or views need."""
        physical = {n: p for (_, n), (_, p) in self._physical_names().items()}.get(name)
        needed = [
            thing
            for found, thing in self.draft.facts.object_dependents
            if found == physical and thing not in self.keys_given_up
        ]
        if needed:
            raise self._refuse(f"{', '.join(needed)} depends on {name!r}; drop that first", "ZD207")

    def lost_foreign_keys(self) -> set[str]:
        """Return the foreign keys that the operations so far have dropped, as the server describes them."""
        flight = self.draft.flight
        kept = set() if self.draft.dropped else {f.origin for f in self._foreign_keys()}
        table = f"{_plain_name(flight.schema)}.{_plain_name(flight.name)}"
        standing = flight.foreign_keys_at(len(flight.levels)).values()
        return {f"constraint {physical} on table {table}" for physical in standing if physical not in kept}

    # -- names ----------------------------------------------------------------------------

    def _rename_constraint(self, operation: ZdRenameConstraintOp) -> None:
        before, after = str(operation.constraint_name), str(operation.new_constraint_name)
        keys = {f.name: f for f in self._foreign_keys()}
        if before in keys:
            if after in keys or self._constraint_columns(after) is not None:
                raise self._refuse(f"constraint {after!r} exists already (there are: {self._existing()})", "ZD203")
            position = self.draft.foreign_keys.index(keys[before])
            self.draft.foreign_keys[position] = replace(keys[before], name=after)
            self.draft.pins.pop(after, None)
            if before in self.draft.pins:
                self.draft.pins[after] = self.draft.pins.pop(before)
            self._move_origin(ObjectKind.FOREIGN_KEY, before, after)
            return
        if self._constraint_columns(before) is None:
            raise self._refuse_missing(before)
        if after in keys:
            raise self._refuse(f"constraint {after!r} exists already (there are: {self._existing()})", "ZD203")
        if self._index(before) is not None:
            self._check_relation_name(after)
        self._run_plainly(ddl.rename_constraint(self._table, before, after))
        for kind in (ObjectKind.INDEX, ObjectKind.CHECK):
            if (kind, before) in object_names(self.draft.spec):
                self._move_origin(kind, before, after)
        self._refresh({})

    def _move_origin(self, kind: ObjectKind, before: str, after: str) -> None:
        origin = self.draft.origins.pop((kind, before), None)
        if origin is not None:
            self.draft.origins[kind, after] = origin
        described = self.draft.described.pop((kind, before), None)
        if described is not None:
            self.draft.described[kind, after] = described

    def _physical_names(self) -> dict[tuple[ObjectKind, str], tuple[ObjectKind, str]]:
        """Return, by kind and name after, kind and physical name of what was there before the first operation.

        With what the operations have dropped so far, under the name that it had.
        """
        flight = self.draft.flight
        physical = {(kind, name): found for (kind, found), name in names_at(flight, len(flight.levels)).items()}
        kept = {(kind, origin): name for (kind, name), origin in self.draft.origins.items()}
        return {(kind, kept.get((kind, name), name)): (kind, found) for (kind, name), found in physical.items()}

    def _index(self, name: str) -> Index | None:
        return next((i for i in self.draft.spec.indexes if i.name == name), None)

    def _foreign_keys(self) -> list[ForeignKey]:
        """Return the foreign keys that the table has at this point; they name cells in place of columns."""
        shown = set(self.draft.shape.values())
        return [f for f in self.draft.foreign_keys if all(self.draft.latest(c) in shown for c in f.columns)]

    def _constraint_columns(self, name: str) -> tuple[str, ...] | None:
        """Return the columns of a CHECK, UNIQUE, PRIMARY KEY or EXCLUDE constraint, None if there is none."""
        spec = self.draft.spec
        found: list[Any] = [c for c in spec.checks if c.name == name]
        found += [i for i in spec.indexes if i.name == name and i.constraint]
        return tuple(found[0].columns) if found else None

    def _existing(self) -> str:
        spec = self.draft.spec
        names = [*(i.name for i in spec.indexes), *(c.name for c in spec.checks)]
        return ", ".join(sorted({*names, *(f.name for f in self._foreign_keys())})) or "none"

    # -- small things ---------------------------------------------------------------------

    def _run_plainly(self, statement: str) -> None:
        try:
            self._run(statement)
        except DBAPIError as error:
            raise self._refuse(describe_error(error), "ZD201", error) from error


def _columns_of(spec: TableSpec, made: Sequence[tuple[ObjectKind, str]]) -> tuple[str, ...]:
    """Return the columns of new constraints."""
    everything: tuple[Any, ...] = (*spec.indexes, *spec.checks)
    found = [c for c in everything if c.name in {name for _, name in made}]
    return tuple(dict.fromkeys(column for one in found for column in one.columns))


def _tail(key: ForeignKey) -> str:
    """Return what follows the referenced columns: MATCH, ON DELETE, DEFERRABLE and so on."""
    clause = parse_clause(key.suffix)
    return clause.tail if clause else ""


def _plain_name(name: str) -> str:
    """Return a name as the server's quote_ident writes it."""
    return name if name.isidentifier() and name.islower() else ident(name)
