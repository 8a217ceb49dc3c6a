"""Try a revision in a transaction that is rolled back, and learn its lenses from the server.

Every operation runs as plain DDL on an empty copy of the table. So the server itself says what the
table will be, how definitions carry over to a changed column, what an expression reads, and
whether it fits.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import find_table, read_rows, read_spec
from alembic_zero.execute.locks import sqlstate
from alembic_zero.execute.plain_ddl import render_plain, trial_schema
from alembic_zero.execute.sending import describe_error, send, send_single
from alembic_zero.execute.trial_objects import ObjectTrial
from alembic_zero.lens.lens import Cell, Edge, Flight
from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.operations.across import FromTable
from alembic_zero.operations.columns import ZdAddColumnOp, ZdAlterColumnOp, ZdDropColumnOp
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.irreversible import Irreversible
from alembic_zero.operations.tables import ZdDropTableOp, ZdRenameTableOp
from alembic_zero.plan.draft import Comparison, ReadColumn, new_draft
from alembic_zero.plan.publishing import publications_reading
from alembic_zero.sql import ddl
from alembic_zero.sql.functions import Form, render_function
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import Column, ForeignKey, TableFacts, TableSpec
    from alembic_zero.operations.base import ZdTableOperation
    from alembic_zero.plan.enums import EnumChange
    from alembic_zero.plan.items import Item

_PROBE = "_zd_probe"
_UNDEFINED_OBJECT, _INVALID_TEXT = "42704", "22P02"


class TableTrial(ObjectTrial):
    """The trial of all operations on one table.

    :param connection: inside a transaction that will be rolled back.
    :param copied: the empty copy is there already.
    """

    def __init__(
        self,
        connection: Connection,
        flight: Flight,
        facts: TableFacts,
        generation: int,
        options: dict[str, Any],
        *,
        copied: bool = False,
    ) -> None:
        self._connection = connection
        self._options = options
        self.draft = new_draft(flight, facts, generation)
        self._item: Item | None = None
        self.given_up: set[str] = set()
        self._schema = trial_schema(flight.schema)
        self._run(f"CREATE SCHEMA IF NOT EXISTS {ident(self._schema)}")
        for statement in [] if copied else ddl.create_copy(self.draft.spec, self._schema):
            self._run(statement)

    # -- talking to the server ------------------------------------------------------------

    def _run(self, text: str) -> Any:
        return send(self._connection, text)

    @property
    def _table(self) -> str:
        return ident(self._schema, self.draft.spec.name)

    @property
    def _probe_view(self) -> str:
        return ident(self._schema, _PROBE)

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        """Take back in any case what the block does to the copy."""
        savepoint = self._connection.begin_nested()
        try:
            yield
        finally:
            savepoint.rollback()

    def _refuse(self, problem: str, code: str = "ZD201", cause: BaseException | None = None) -> RefusedError:
        item = self._item
        where = item.describe() if item else self.draft.flight.name
        error = RefusedError(
            f"{where}: {problem}; nothing was changed",
            code=code,
            revision=item.revision if item else None,
            table=f"{self.draft.flight.schema}.{self.draft.flight.name}",
        )
        error.__cause__ = cause
        return error

    def _read_spec(self) -> TableSpec:
        return read_spec(self._connection, self._schema, self.draft.spec.name)

    # -- operations -----------------------------------------------------------------------

    def apply(self, item: Item) -> None:
        """Apply one operation to the copy and to the draft of the lens.

        :raises RefusedError: it cannot work; the message says why.
        """
        self._item = item
        operation = item.operation
        if isinstance(operation, ZdAddColumnOp):
            self._add_column(operation)
        elif isinstance(operation, ZdAlterColumnOp):
            self._alter_column(operation)
        elif isinstance(operation, ZdDropColumnOp):
            self._drop_column(operation)
        elif isinstance(operation, ZdRenameTableOp):
            self._rename_table(operation)
        elif isinstance(operation, ZdDropTableOp):
            self._drop_table()
        else:
            self.apply_to_object(operation)

    def _names_in_use(self) -> set[str]:
        """Return the names of the schema that no table in flight is about to give up."""
        rows = read_rows(self._connection, "relation_names", schema=self.draft.flight.schema)
        return {row["name"] for row in rows} - self.given_up

    def _apply_plain(self, operation: ZdTableOperation) -> list[ForeignKey]:
        """Run the plain DDL on the copy; return the foreign keys that it would have added."""
        statements, foreign_keys = render_plain(operation, self._options, self._schema)
        try:
            for statement in statements:
                self._run(statement)
        except DBAPIError as error:
            raise self._refuse(describe_error(error) + _hint(error), cause=error) from error
        return foreign_keys

    def _column(self, name: str) -> Column:
        column = self.draft.spec.column(name)
        if column is None:
            known = ", ".join(c.name for c in self.draft.spec.columns)
            raise self._refuse(f"there is no column {name!r} (columns: {known})", "ZD202")
        return column

    def _add_column(self, operation: ZdAddColumnOp) -> None:
        draft, name = self.draft, operation.column_name
        if draft.spec.column(name) is not None:
            raise self._refuse(f"column {name!r} exists already", "ZD203")
        before = draft.spec
        with self._savepoint():
            self._apply_plain(operation)
            column = self._read_spec().column(name)
        assert column is not None  # noqa: S101 - just added
        self._check_addable(operation, column)
        expression = operation.up or (column.default if column.default_volatile else None)
        cell = self._new_cell(column)
        if column.identity is not None:
            draft.ups.append(self._number(cell, column))
        elif expression is not None:
            draft.ups.append(self._probe("up", expression, before, cell, column))
        else:
            draft.ups.append(self._fallback(before, cell, column))
        foreign_keys = self._apply_plain(operation)
        self._refresh({name: cell.id})
        draft.foreign_keys += [replace(f, columns=(cell.id,)) for f in foreign_keys]

    def _check_addable(self, operation: ZdAddColumnOp, column: Column) -> None:
        if column.generated == "s":
            raise self._refuse(
                "a stored generated column rewrites the table under ACCESS EXCLUSIVE; add an ordinary column with up= "
                "and keep it in the application, or a virtual one (PostgreSQL 18)",
                "ZD204",
            )
        if column.identity is not None and operation.up is not None:
            raise self._refuse(f"column {column.name!r} gets its values from its identity: leave out up=", "ZD204")
        empty = operation.up is None and not (column.default or column.generated or column.identity)
        if column.not_null and empty:
            raise self._refuse(
                f"column {column.name!r} is NOT NULL without up= or server_default=: old clients could not insert",
                "ZD205",
            )

    def _number(self, cell: Cell, column: Column) -> Edge:
        """Return the edge that numbers the rows of a new identity column, by a sequence of ours until the contract."""
        name = self.draft.fresh("numbers")
        self.draft.cells[cell.id] = replace(cell, numbers=name)
        function = self.draft.fresh("next")
        expression = ddl.next_value(JOURNAL_SCHEMA, name)
        definition = render_function(
            (JOURNAL_SCHEMA, function), (), column.type, expression, form=Form.PLAIN, table=self.draft.spec.name
        )
        return Edge(cell.id, (), function, definition, self._description(), expression)

    def _drop_column(self, operation: ZdDropColumnOp) -> None:
        draft, name = self.draft, operation.column_name
        column = self._column(name)
        self._check_droppable(name)
        cell = draft.cells[draft.shape[name]]
        fills_itself = not column.not_null or column.default is not None or column.identity or column.generated
        if not isinstance(operation.down, str | FromTable) and not fills_itself:
            raise self._refuse(
                f"column {name!r} is NOT NULL without a default: new clients' rows need down= for the old version",
                "ZD206",
            )
        self._apply_plain(operation)
        self._refresh({})
        if isinstance(operation.down, str | FromTable):
            draft.downs.append(self._probe("down", operation.down, draft.spec, cell, column))
        else:
            draft.downs.append(self._fallback(draft.spec, cell, column))

    def _check_droppable(self, name: str) -> None:
        physical = self.draft.cells[self.draft.shape[name]].physical
        found = [thing for column, thing in self.draft.facts.dependents if column == physical]
        found += publications_reading(physical, self.draft.flight, self.draft.facts)
        if found:
            raise self._refuse(f"{', '.join(found)} depends on column {name!r}; drop or change it first", "ZD207")

    def _check_not_computed_from(self, name: str) -> None:
        """Refuse to copy a column that a generated one reads: that would go on reading the column of before."""
        for other in self.draft.spec.columns:
            if other.generated and other.name != name and name in self._read_inputs_quietly(str(other.default)):
                raise self._refuse(
                    f"generated column {other.name!r} is computed from {name!r}: drop it first in the same revision, "
                    "with op.zd_drop_column, and add an ordinary one with up= in its place",
                    "ZD204",
                )

    def _alter_column(self, operation: ZdAlterColumnOp) -> None:
        name = operation.column_name
        column = self._column(name)
        after_name = operation.new_column_name or name
        if after_name != name and self.draft.spec.column(after_name) is not None:
            raise self._refuse(f"column {after_name!r} exists already", "ZD203")
        before = self.draft.spec
        cell = self.draft.cells[self.draft.shape[name]]
        with self._savepoint():
            self._apply_plain(operation)
            after = self._read_spec().column(after_name)
        assert after is not None  # noqa: S101 - just altered
        if not self._copies(operation, column, after):
            self._apply_plain(operation)
            self._refresh({after_name: cell.id})
            return
        self._check_droppable(name)
        self._check_not_computed_from(name)
        if cell.numbers is not None:
            raise self._refuse(
                f"column {name!r} becomes an identity with zd-complete, and can be changed after that", "ZD204"
            )
        self._check_reversible(operation, column, after)
        copy = self._copy_of(cell, column, after)
        self.draft.ups.append(self._probe("up", operation.up or ident(name), before, copy, after))
        if operation.up is None and after.not_null and not column.not_null:
            self.draft.bare_not_nulls[cell.id] = self._description()
        self._apply_plain(operation)
        self._refresh({after_name: copy.id})
        self.draft.sources[copy.id] = cell.id
        if not isinstance(operation.down, Irreversible):
            down = operation.down or ident(after_name)
            self.draft.downs.append(self._probe("down", down, self.draft.spec, cell, column))

    def _is_numbered(self, cell: Cell, before: Column, after: Column) -> bool:
        """Return whether a sequence numbers the column and goes on to number its copy."""
        if before.identity is not None:
            return True
        owned = self.draft.origin_column(cell.id)
        serial = owned is not None and owned.owned_sequence is not None
        # Two defaults would take two numbers for each row.
        return before.default == after.default and (serial or (before.default or "").startswith("nextval("))

    def retype(self, item: Item, change: EnumChange) -> None:
        """Give every column of an enum a copy of the new type; what names the type or its labels follows.

        :raises RefusedError: something of the table cannot follow; the message says what.
        """
        self._item = item
        draft, before = self.draft, self.draft.spec
        columns = [c for c in before.columns if change.concerns(c)]
        after = change.retyped(before, lambda problem: self._refuse(problem, "ZD232"))
        replaced, copies = {}, {}
        for column in columns:
            retyped = after.column(column.name)
            assert retyped is not None  # noqa: S101 - the same names
            self._check_retypable(column, change)
            replaced[column.name] = draft.cells[draft.shape[column.name]]
            copy = copies[column.name] = self._new_cell(retyped)
            draft.ups.append(self._probe("up", change.expression(column, upwards=True), before, copy, retyped))
            draft.sources[copy.id] = replaced[column.name].id
        try:
            for statement in [f"DROP TABLE {self._table}", *ddl.create_copy(after, self._schema)]:
                self._run(statement)
        except DBAPIError as error:
            raise self._refuse(f"with the enum's new labels: {describe_error(error)}", cause=error) from error
        self._refresh({name: copy.id for name, copy in copies.items()})
        for column in columns:
            down = change.expression(column, upwards=False)
            draft.downs.append(self._probe("down", down, draft.spec, replaced[column.name], column))

    def _check_retypable(self, column: Column, change: EnumChange) -> None:
        name = column.name
        cell = self.draft.shape[name]
        self._check_droppable(name)
        for other in self.draft.spec.columns:
            if other.generated and (other == column or name in self._read_inputs_quietly(str(other.default))):
                raise self._refuse(
                    f"generated column {other.name!r} depends on the enum; drop it and add another", "ZD204"
                )
        if self.draft.cells[cell].physical in self._partition_key():
            raise self._refuse(f"column {name!r} is part of the table's partition key", "ZD204")
        for mapping, nulled in ((change.up, "up"), (change.down, "down")):
            labels = [label for label, became in mapping.items() if became is None]
            if column.not_null and labels:
                raise self._refuse(
                    f"column {name!r} is NOT NULL, and {nulled}= makes NULL of label {labels[0]!r}", "ZD231"
                )

    def _read_inputs_quietly(self, expression: str) -> tuple[str, ...]:
        with self._savepoint():
            return self._read_inputs(expression, self.draft.spec)[0]

    def _partition_key(self) -> set[str]:
        rows = read_rows(self._connection, "partition_key", oid=self.draft.facts.oid)
        return {row["name"] for row in rows}

    def _copies(self, operation: ZdAlterColumnOp, before: Column, after: Column) -> bool:
        """Return whether the change needs a column of its own; name, default and comment do not."""
        if (before.generated, bool(before.identity)) != (after.generated, bool(after.identity)):
            raise self._refuse("a column cannot become identity or generated, or stop being so, in flight", "ZD204")
        if before.generated and (operation.up or before.type != after.type):
            raise self._refuse("a generated column cannot be copied; drop it and add another", "ZD204")
        return bool(
            operation.up is not None
            or operation.down is not None
            or (before.type, before.collation, before.not_null) != (after.type, after.collation, after.not_null)
        )

    def _check_reversible(self, operation: ZdAlterColumnOp, before: Column, after: Column) -> None:
        fills_itself = before.default is not None or before.identity is not None
        if before.not_null and not after.not_null and operation.down is None:
            raise self._refuse(
                f"column {before.name!r} becomes nullable: down= must say what old clients read for NULL",
                "ZD206",
            )
        if isinstance(operation.down, Irreversible) and before.not_null and not fills_itself:
            raise self._refuse(
                f"column {before.name!r} is NOT NULL without a default: IRREVERSIBLE leaves new clients' inserts "
                "without a value for it",
                "ZD206",
            )

    def _rename_table(self, operation: ZdRenameTableOp) -> None:
        if operation.new_table_name in self._names_in_use():
            raise self._refuse(f"{self.draft.flight.schema}.{operation.new_table_name} exists already", "ZD203")
        self._apply_plain(operation)
        self.draft.spec = replace(self.draft.spec, name=operation.new_table_name)
        self._refresh({})

    def _drop_table(self) -> None:
        facts = self.draft.facts
        if facts.dependents:
            things = ", ".join(dict.fromkeys(thing for _, thing in facts.dependents))
            raise self._refuse(f"{things} depends on the table; drop or change it first", "ZD207")
        self._run(f"DROP TABLE {self._table}")
        self.draft.dropped = True

    # -- the draft ------------------------------------------------------------------------

    def _description(self) -> str:
        return str(self._item and self._item.describe())

    def _copy_of(self, cell: Cell, before: Column, after: Column) -> Cell:
        """Return a new cell that is to replace another one; what numbers the one numbers the other."""
        return self._new_cell(after, sequence_of=cell.id if self._is_numbered(cell, before, after) else None)

    def _new_cell(self, column: Column, sequence_of: str | None = None) -> Cell:
        cell = Cell(
            self.draft.fresh("c"),
            column.type,
            column.collation,
            generated=bool(column.generated),
            sequence_of=sequence_of,
        )
        self.draft.cells[cell.id] = cell
        return cell

    def _refresh(self, changed: dict[str, str]) -> None:
        """Read the copy again and carry names over to cells; *changed* maps new names to cells."""
        draft = self.draft
        spec = self._read_spec()
        shape = {}
        for column in spec.columns:
            shape[column.name] = changed.get(column.name) or draft.shape[column.name]
        draft.spec, draft.shape = spec, shape
        draft.lose()

    def _probe(
        self, direction: str, expression: str | FromTable, spec: TableSpec, target: Cell, column: Column
    ) -> Edge:
        """Return the edge for an expression, after the server has parsed it in every form that counts.

        :raises RefusedError: it does not parse, has the wrong type, or reads a table that it may not read.
        """
        if isinstance(expression, FromTable):
            raise TypeError("a trial of one table has no other to look into")
        arguments = f"{direction}= {expression!r}"
        name = self.draft.fresh(direction)
        with self._savepoint():
            try:
                inputs, reads = self._read_inputs(expression, spec)
                self._check_update_form(expression, spec, column)
                form = self._find_form(name, expression, spec, inputs, column)
            except (DBAPIError, psycopg.Error) as error:
                raise self._refuse(f"{arguments}: {describe_error(error)}", "ZD210", error) from error
        self.draft.reads += reads
        cells = tuple(self.draft.shape[i] for i in inputs)
        for cell in cells:
            self._bind_generated(cell, spec)
        types = [(i, self.draft.cells[self.draft.shape[i]].type) for i in inputs]
        definition = render_function((JOURNAL_SCHEMA, name), types, column.type, expression, form=form, table=spec.name)
        return Edge(target.id, cells, name, definition, self._description(), expression, reads_tables=bool(reads))

    def _fallback(self, spec: TableSpec, target: Cell, column: Column) -> Edge:
        """Return the edge that gives a cell its column's default, for want of anything better."""
        default = None if column.generated else column.default
        edge = self._probe("default", default or "NULL", spec, target, column)
        self.draft.fallbacks.add(edge.function)
        return edge

    def _bind_generated(self, cell_id: str, spec: TableSpec) -> None:
        """Make a function of a generated column: BEFORE triggers see NULL where the backfill sees the value."""
        if not self.draft.cells[cell_id].generated or cell_id in self.draft.generated:
            return
        name = next(n for n, c in self.draft.shape.items() if c == cell_id)
        column = spec.column(name)
        assert column is not None  # noqa: S101
        assert column.default is not None  # noqa: S101 - a generated column has an expression
        target = self.draft.cells[cell_id]
        self.draft.generated[cell_id] = self._probe("generated", column.default, spec, target, column)

    def _read_inputs(self, expression: str, spec: TableSpec) -> tuple[tuple[str, ...], list[ReadColumn]]:
        """Return the table's columns that an expression reads, and those of other tables in its subqueries."""
        probe = self._probe_view
        table = ident(self._schema, spec.name)
        send_single(self._connection, f"CREATE VIEW {probe} AS SELECT ({expression}\n) AS v FROM {table}")
        rows = self._run(
            f"SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.oid = {literal(table)}::regclass"
            " AS own, a.attname AS column, c.relkind IN ('r', 'p') AS is_table, row_security_active(c.oid) AS filtered "
            "FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid "
            "JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0 "
            f"WHERE r.ev_class = {literal(probe)}::regclass AND c.oid <> r.ev_class AND c.relkind <> 'S' "
            "ORDER BY n.nspname, c.relname, a.attnum"
        ).all()
        others = [row for row in rows if not row.own]
        for row in others:
            self._check_readable(expression, row)
        reads = [ReadColumn(row.oid, row.schema, row.name, row.column, self._description()) for row in others]
        return tuple(dict.fromkeys(row.column for row in rows if row.own and row.column is not None)), reads

    def _check_readable(self, expression: str, row: Any) -> None:
        """Refuse a subquery whose result would not be what it says, or not the same for all rows."""
        if row.oid == self.draft.flight.relation:
            problem = "other rows of its own table: what it gave would depend on the order of the rows"
        elif not row.is_table:
            problem = f"{row.schema}.{row.name}, which is not a table: read the tables behind it"
        elif row.filtered:
            problem = (
                f"{row.schema}.{row.name}, of which row security shows the migrating role a part only: migrate as the "
                "table's owner, or as a role with BYPASSRLS"
            )
        else:
            return
        raise self._refuse(f"expression {expression!r} reads {problem}", "ZD211")

    def _check_update_form(self, expression: str, spec: TableSpec, column: Column) -> None:
        """UPDATE refuses aggregates and set-returning functions, which a function body lets pass."""
        table = ident(self._schema, spec.name)
        self._run(ddl.add_column(table, column, _PROBE))
        self._run(f"UPDATE {table} SET {ident(_PROBE)} = ({expression}\n)")

    def _find_form(self, name: str, expression: str, spec: TableSpec, inputs: Sequence[str], column: Column) -> Form:
        types = [(i, self.draft.cells[self.draft.shape[i]].type) for i in inputs]
        failure: DBAPIError | None = None
        for form in Form:
            text = render_function((self._schema, name), types, column.type, expression, form=form, table=spec.name)
            try:
                with self._savepoint():
                    self._run(text)
            except DBAPIError as error:
                failure = failure or error
            else:
                return form
        assert failure is not None  # noqa: S101 - the loop ran
        raise failure

    # -- the result -----------------------------------------------------------------------

    def finish(self, migration: int, revision: str, *, taken_relations: set[str]) -> Flight:
        """Return the flight with the new level on top.

        :param taken_relations: names of relations in the table's schema that an index may not take.
        """
        self._item = None
        draft = self.draft
        draft.name_cells()
        physical = None if draft.dropped else self._read_physical_spec()
        for index in draft.new_exclusions():
            self._check_empty(f"exclusion constraint {index!r}")
        if not draft.dropped:
            draft.comparisons = self._read_comparisons()
        return draft.finish(migration, revision, physical, taken_relations)

    def _read_comparisons(self) -> dict[str, Comparison]:
        """Return how each unique index of the copy compares keys."""
        oid = find_table(self._connection, self._schema, self.draft.spec.name)
        rows = {row["name"]: row for row in read_rows(self._connection, "comparisons", oid=oid)}
        unique = [index for index in self.draft.spec.indexes if index.unique]
        return {
            index.name: Comparison(
                tuple(rows[index.name]["equals"]), tuple(rows[index.name]["collations"]), self._can_hash(index.keys)
            )
            for index in unique
        }

    def _can_hash(self, keys: Sequence[str]) -> bool:
        """Return whether the server can make a hash of a key."""
        row = f"ROW({', '.join(f'({key})' for key in keys)})"
        found = f"FROM (SELECT) AS one LEFT JOIN {self._table} ON true"
        try:
            with self._savepoint():
                self._run(f"SELECT pg_catalog.hash_record_extended({row}, 0) {found}")
        except DBAPIError:
            return False
        return True

    def _read_physical_spec(self) -> TableSpec:
        """Return the copy's description with every column under its physical name."""
        draft = self.draft
        pairs = [(name, str(draft.cells[cell].physical)) for name, cell in draft.shape.items()]
        with self._savepoint():
            for statement in ddl.rename_pairs(pairs, self._table):
                self._run(statement)
            return self._read_spec()


def _hint(error: DBAPIError) -> str:
    """Return what may help against an error about an enum."""
    # Alembic's add_column does not create the type that comes with a sqlalchemy.Enum.
    if sqlstate(error) == _UNDEFINED_OBJECT and "type" in str(error.orig):
        return " (op.zd_create_enum creates enums)"
    if sqlstate(error) == _INVALID_TEXT and "enum" in str(error.orig):
        return " (a label that op.zd_alter_enum brings can be used in a revision after this one, once it is completed)"
    return ""
