"""Run a revision's functions without touching the database: its operations become items.

Ordinary directives are captured where Alembic would write an offline script. ``op.get_bind()``
still gives the real connection, in a read-only transaction: a revision may look before it decides.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from alembic import op as op_module
from alembic.ddl import base as ddl
from alembic.ddl.postgresql import PostgresqlColumnType
from alembic.operations import Operations
from alembic.operations.ops import AddColumnOp
from alembic.runtime.migration import MigrationContext
from psycopg import ProgrammingError
from sqlalchemy import schema as sa_schema
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect
from sqlalchemy.dialects.postgresql.named_types import CreateDomainType, CreateEnumType
from sqlalchemy.exc import CompileError, DBAPIError

from alembic_zero.operations.base import ZdOperation, ZdTableOperation
from alembic_zero.operations.columns import ZdAddColumnOp
from alembic_zero.operations.direct import note_created, run_directly
from alembic_zero.operations.enums import ZdCreateEnumOp
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.tables import ZdCreateTableOp
from alembic_zero.plan.items import Item, Ordinary
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from alembic.operations.ops import MigrateOperation
    from sqlalchemy.engine import Connection

_READ_ONLY = "25006"

_ADVICE: dict[type, tuple[str, str | None]] = {
    ddl.DropColumn: ("drop_column", "old clients still use the column: use op.zd_drop_column"),
    PostgresqlColumnType: (
        "alter_column",
        "it rewrites the table under ACCESS EXCLUSIVE: use op.zd_alter_column",
    ),
    ddl.ColumnNullable: ("alter_column", "old clients are not ready for it: use op.zd_alter_column"),
    ddl.ColumnName: ("alter_column", "old clients know the column by its name: use op.zd_alter_column"),
    ddl.ColumnDefault: ("alter_column", "old clients rely on the default: use op.zd_alter_column"),
    ddl.IdentityColumnDefault: ("alter_column", "old clients rely on the default: use op.zd_alter_column"),
    ddl.RenameTable: ("rename_table", "old clients know the table by its name: use op.zd_rename_table"),
    sa_schema.DropTable: ("drop_table", "old clients still use the table: use op.zd_drop_table"),
    sa_schema.DropConstraint: ("drop_constraint", "old clients rely on it: use op.zd_drop_constraint"),
}

_CONSTRAINTS: tuple[tuple[type, str], ...] = (
    (sa.ForeignKeyConstraint, "it scans the table while writers wait: use op.zd_create_foreign_key"),
    (sa.UniqueConstraint, "writers wait while its index is built: use op.zd_create_unique_constraint"),
    (sa.PrimaryKeyConstraint, "writers wait while its index is built: use op.zd_create_primary_key"),
    (ExcludeConstraint, "writers wait while its index is built: use op.zd_create_exclude_constraint"),
    (sa.CheckConstraint, "it scans the table while everybody waits: use op.zd_create_check_constraint"),
)


class _LiteralCompiler(PGCompiler):
    """Renders values whose column has no type, too, as the driver would send them."""

    def render_literal_value(self, value: Any, type_: Any) -> str:
        """Return the SQL literal of *value*."""
        try:
            return str(super().render_literal_value(value, type_))  # type: ignore[no-untyped-call]
        except CompileError:
            return literal(value)


class RecordingOperations(Operations):
    """Operations that keep our directives as items and let Alembic's own be captured."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder.context)
        self._recorder = recorder

    def invoke(self, operation: Any) -> Any:
        """Keep *operation* if it is ours; otherwise have Alembic render it.

        Nobody uses a table that the same upgrade creates: there, plain DDL does.
        """
        if isinstance(operation, AddColumnOp) and not self._recorder.creates(operation):
            # In flight the two are one: what a nullable column without a default needs, is nothing.
            added = ZdAddColumnOp(operation.table_name, operation.column, schema=operation.schema)
            self._recorder.add(added, adopted=True)
            return None
        if not isinstance(operation, ZdOperation):
            return super().invoke(operation)
        if isinstance(operation, ZdCreateTableOp) or self._recorder.creates(operation):
            with self._recorder.on_behalf_of(operation):
                return self._create(operation)
        if isinstance(operation, ZdCreateEnumOp):
            note_created(self, operation)
        self._recorder.add(operation)
        return None

    def _create(self, operation: ZdOperation) -> Any:
        """Run an operation on a new table; one that is filled from another table goes on from there."""
        if not isinstance(operation, ZdCreateTableOp) or operation.up is None:
            return run_directly(self, operation)
        (plain,) = operation.plain_operations()
        table = super().invoke(plain)
        self._recorder.add_filled(operation)
        return table

    def get_bind(self) -> Connection:
        """Return the real connection; its transaction is read-only while recording."""
        return self._recorder.connection


# The proxy registry is keyed by class, and Operations.context() only ever makes its own class.
Operations._setups[RecordingOperations] = Operations._setups[Operations]  # noqa: SLF001


class Recorder:
    """Collects the items of one revision after the other.

    :param real: env.py's own context, whose options and connection the revision gets to see.
    :param default_schema: schema of unqualified names.
    """

    def __init__(self, real: MigrationContext, default_schema: str) -> None:
        self.items: list[Item] = []
        self._default_schema = default_schema
        self._created: set[tuple[str, str]] = set()
        self._filled: set[tuple[str, str]] = set()
        self._revision = ""
        self._autocommit = False
        self._cause: ZdOperation | None = None
        self.connection = cast("Connection", real.connection)
        self._real = real
        self.context = self._make_context(real)

    def _make_context(self, real: MigrationContext) -> MigrationContext:
        dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
        dialect.statement_compiler = _LiteralCompiler
        options = {**real.opts, "as_sql": True, "literal_binds": True, "output_buffer": io.StringIO()}
        options.pop("fn", None)
        context = MigrationContext(dialect, None, options, real.environment_context)
        impl = context.impl
        impl._exec = self._capture  # type: ignore[method-assign] # noqa: SLF001 - Alembic's one exit for SQL
        impl.emit_commit = lambda: self._set_autocommit(value=True)  # type: ignore[method-assign]
        impl.emit_begin = lambda: self._set_autocommit(value=False)  # type: ignore[method-assign]
        impl.static_output = self._capture_text  # type: ignore[method-assign]
        context.connection = self.connection
        return context

    def creates(self, operation: MigrateOperation) -> bool:
        """Return whether the operation's table was created earlier in the same upgrade."""
        if not isinstance(operation, ZdTableOperation | AddColumnOp):
            return False
        if (operation.schema or self._default_schema, operation.table_name) in self._filled:
            return False
        return self._is_created(operation.schema, operation.table_name)

    def add_filled(self, operation: ZdCreateTableOp) -> None:
        """Append the creation of a table whose rows come from another one: it is in flight from the start."""
        self._filled.add((operation.schema or self._default_schema, operation.table_name))
        self.add(operation)

    def _is_created(self, schema: str | None, table: str | None) -> bool:
        return (schema or self._default_schema, table or "") in self._created

    def _capture_text(self, text: str) -> None:
        self.add(Ordinary("sql", text.strip().removesuffix(";")))

    def _set_autocommit(self, *, value: bool) -> None:
        self._autocommit = value

    def add(self, operation: ZdOperation | Ordinary, *, adopted: bool = False) -> None:
        """Append an operation of the revision that is being recorded."""
        self.items.append(Item(self._revision, operation, adopted, self._cause))

    @contextmanager
    def on_behalf_of(self, operation: ZdOperation) -> Iterator[None]:
        """Record ordinary statements as what *operation* stands for."""
        self._cause = operation
        try:
            yield
        finally:
            self._cause = None

    def record(self, revision: str, function: Callable[..., None], **kw: Any) -> None:
        """Run one migration function and keep what it asks for.

        :raises RefusedError: it writes through ``op.get_bind()``.
        """
        self._revision = revision
        try:
            with self._installed(), self._read_only(revision):
                function(**kw)
        except RefusedError as error:
            if error.revision is not None:
                raise
            raise RefusedError(f"revision {revision!r}: {error.message}", code=error.code, revision=revision) from error

    @contextmanager
    def _installed(self) -> Iterator[None]:
        outer = getattr(op_module, "_proxy", None)
        recording = RecordingOperations(self)
        recording._install_proxy()  # noqa: SLF001 - what Operations.context() does
        try:
            yield
        finally:
            if outer is None:
                recording._remove_proxy()  # noqa: SLF001
            else:
                outer._install_proxy()  # noqa: SLF001

    @contextmanager
    def _read_only(self, revision: str) -> Iterator[None]:
        self.connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        try:
            yield
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _READ_ONLY:
                raise
            raise RefusedError(
                f"revision {revision!r} writes through op.get_bind() ({error.orig}); live clients need it as a step: "
                "use op.execute(), op.bulk_insert() or op.zd_execute(); nothing was changed",
                code="ZD105",
                revision=revision,
            ) from error

    def _capture(
        self,
        construct: Any,
        execution_options: Mapping[str, Any] | None = None,  # noqa: ARG002 - Alembic's signature
        multiparams: Any = None,
        params: Any = None,
    ) -> None:
        if isinstance(construct, str):
            construct = sa.text(construct)
        for values in multiparams or [params]:
            ordinary = self._ordinary(construct, self._render(construct, values))
            if ordinary.kind == "create_table":
                self._created.add((ordinary.schema or self._default_schema, str(ordinary.table)))
            elif self._is_created(ordinary.schema, ordinary.table):
                ordinary = replace(ordinary, blocking=None, created=ordinary.kind != "sql")
                self._follow(construct, ordinary)
            self.add(ordinary)

    def _follow(self, construct: Any, ordinary: Ordinary) -> None:
        """Keep track of a created table that is renamed or dropped again."""
        schema = ordinary.schema or self._default_schema
        if isinstance(construct, ddl.RenameTable):
            self._created.add((schema, str(construct.new_table_name)))
        if isinstance(construct, ddl.RenameTable | sa_schema.DropTable):
            self._created.discard((schema, str(ordinary.table)))

    def _render(self, construct: Any, values: Any) -> str:
        try:
            if values:
                construct = construct.values(values) if hasattr(construct, "values") else construct.bindparams(**values)
            binds = {} if isinstance(construct, sa_schema.DDLElement) else {"literal_binds": True}
            return str(construct.compile(dialect=self.context.dialect, compile_kwargs=binds)).strip()
        except (CompileError, ProgrammingError) as error:
            raise RefusedError(
                f"revision {self._revision!r}: a statement's values cannot be written as SQL ({error}); "
                "nothing was changed",
                code="ZD104",
                revision=self._revision,
            ) from error

    def _ordinary(self, construct: Any, text: str) -> Ordinary:
        kind, blocking = next((found for kind, found in _ADVICE.items() if isinstance(construct, kind)), ("sql", None))
        schema, table = _table_of(construct)
        inverse: tuple[str, ...] = ()
        autocommit, index = self._autocommit, None
        if isinstance(construct, sa_schema.CreateTable):
            kind, inverse = "create_table", (f"DROP TABLE IF EXISTS {_qualified(schema, str(table))}",)
        elif isinstance(construct, CreateEnumType | CreateDomainType):
            inverse = (f"DROP TYPE IF EXISTS {_qualified(construct.element.schema, str(construct.element.name))}",)
        elif isinstance(construct, ddl.AddColumn):
            kind, blocking, inverse = self._add_column(construct)
        elif isinstance(construct, sa_schema.CreateIndex):
            kind, inverse = (
                "create_index",
                (f"DROP INDEX IF EXISTS {_qualified(schema, str(construct.element.name))}",),
            )
            autocommit = autocommit or "CONCURRENTLY" in text.split("(", 1)[0]
            index = (schema, str(construct.element.name)) if "CONCURRENTLY" in text.split("(", 1)[0] else None
            blocking = None if autocommit else "writers wait while it is built: use op.zd_create_index"
        elif isinstance(construct, sa_schema.AddConstraint):
            kind = "add_constraint"
            blocking = next(advice for type_, advice in _CONSTRAINTS if isinstance(construct.element, type_))
        elif isinstance(construct, sa_schema.DropIndex):
            kind, blocking = "drop_index", "old clients still rely on it: use op.zd_drop_index"
            schema, table = (None, None) if construct.element.table is None else (schema, table)
        elif isinstance(construct, sa_schema.DDLElement) and table is not None and kind == "sql":
            kind = "comment"
        return Ordinary(
            kind, text, schema, table, inverse, autocommit, blocking, index, references=_references(construct)
        )

    def _add_column(self, construct: Any) -> tuple[str, str | None, tuple[str, ...]]:
        column = construct.column
        blocking = None
        if not column.nullable and column.server_default is None:
            blocking = "old clients cannot fill the column: use op.zd_add_column with up= or a default"
        elif column.computed is not None or column.identity is not None:
            blocking = "it rewrites the table: use op.zd_add_column"
        table = _qualified(construct.schema, construct.table_name)
        return "add_column", blocking, (f"ALTER TABLE {table} DROP COLUMN IF EXISTS {ident(column.name)}",)


def _qualified(schema: str | None, name: str) -> str:
    return ident(name) if schema is None else ident(schema, name)


def _references(construct: Any) -> tuple[tuple[str | None, str], ...]:
    """Return schema and name of every table that a new one references, itself left out."""
    if not isinstance(construct, sa_schema.CreateTable):
        return ()
    targets = {
        tuple(str(key.target_fullname).split(".")[:-1])
        for constraint in construct.element.foreign_key_constraints
        for key in constraint.elements
    }
    found = {(target[0] if len(target) > 1 else None, target[-1]) for target in targets}
    return tuple(sorted(found - {(construct.element.schema, str(construct.element.name))}, key=str))


def _table_of(construct: Any) -> tuple[str | None, str | None]:
    """Return schema and name of the table that a DDL construct is about."""
    if isinstance(construct, ddl.AlterTable):
        return construct.schema, str(construct.table_name)
    element = getattr(construct, "element", None)
    if isinstance(element, sa.Table):
        return element.schema, str(element.name)
    table = getattr(element, "table", None)
    if isinstance(table, sa.Table):
        return table.schema, str(table.name)
    return None, None
