"""The plain DDL of an operation, aimed at the trial's empty copy of the table."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from alembic.ddl.base import AlterTable
from alembic.operations import Operations
from alembic.operations.ops import AlterColumnOp
from alembic.runtime.migration import MigrationContext
from sqlalchemy import schema as sa_schema
from sqlalchemy.dialects.postgresql.base import PGDialect

from alembic_zero.catalog.snapshot import ForeignKey
from alembic_zero.names import implicit_name
from alembic_zero.sql import ddl
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from alembic_zero.operations.base import ZdTableOperation

TRIAL_SCHEMA = "_zd_trial"


def trial_schema(schema: str) -> str:
    """Return the schema for copies of tables of *schema*: other schemas may have tables and indexes of the same names.

    It needs no quotes.
    """
    return f"{TRIAL_SCHEMA}_{hashlib.sha256(schema.encode()).hexdigest()[:12]}"


class _Capture:
    """Collects what Alembic would execute, with foreign keys apart."""

    def __init__(self, operation: ZdTableOperation, options: dict[str, Any], schema: str) -> None:
        self._operation = operation
        self._schema = schema
        self.statements: list[str] = []
        self.foreign_keys: list[ForeignKey] = []
        dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
        self._context = MigrationContext(dialect, None, {**options, "as_sql": True})
        self._context.impl._exec = self._take  # type: ignore[method-assign] # noqa: SLF001 - Alembic's one exit for SQL

    def run(self) -> None:
        """Invoke the plain operations."""
        operations = Operations(self._context)
        for plain in self._operation.plain_operations():
            if isinstance(plain, AlterColumnOp) and plain.modify_type is not None:
                self._prepare_type_change(plain)
            operations.invoke(plain)

    def _prepare_type_change(self, plain: AlterColumnOp) -> None:
        """Make the change possible whatever casts there are: the copy is empty, ``up`` does the rest."""
        plain.kw = {**plain.kw, "postgresql_using": "NULL"}
        if plain.modify_server_default is not False:
            table = ident(self._schema, self._operation.table_name)
            self.statements.append(ddl.set_default(table, plain.column_name, None))

    def _take(self, construct: Any, *_args: Any, **_kw: Any) -> None:
        element = getattr(construct, "element", None)
        if isinstance(construct, sa_schema.AddConstraint) and isinstance(element, sa_schema.ForeignKeyConstraint):
            text = str(construct.compile(dialect=self._context.dialect))
            self.foreign_keys.append(_foreign_key(self._operation.table_name, element, text))
        else:
            if isinstance(construct, sa_schema.CreateTable):
                self._take_apart(construct)
            self.statements.append(self._aimed(construct))

    def _take_apart(self, construct: Any) -> None:
        """Keep the foreign keys of a new table out of its statement."""
        compiler = self._context.dialect.ddl_compiler(self._context.dialect, construct)
        for constraint in construct.element.foreign_key_constraints:
            text = compiler.process(constraint)
            self.foreign_keys.append(_foreign_key(self._operation.table_name, constraint, text))
        construct.include_foreign_key_constraints = []

    def _aimed(self, construct: Any) -> str:
        """Return the statement for the copy's schema; names that derive from the real one stay as they are."""
        if isinstance(construct, str):
            return construct
        if isinstance(construct, AlterTable):
            construct.schema = self._schema
            return str(construct.compile(dialect=self._context.dialect)).strip()
        if isinstance(construct, sa_schema.CreateTable):
            # A translation would take the types that its columns are of for some of the copy's schema.
            table, home = construct.element, construct.element.schema
            table.schema = self._schema
            text = str(construct.compile(dialect=self._context.dialect)).strip()
            table.schema = home
            return text
        compiled = construct.compile(
            dialect=self._context.dialect,
            schema_translate_map={None: self._schema, self._operation.schema: self._schema},
            render_schema_translate=True,
        )
        return str(compiled).strip()


def render_plain(
    operation: ZdTableOperation, options: dict[str, Any], schema: str = TRIAL_SCHEMA
) -> tuple[list[str], list[ForeignKey]]:
    """Return an operation's plain DDL for the trial copy, with foreign keys apart.

    :param options: env.py's context options, for naming conventions.
    :param schema: where the copy is.
    """
    capture = _Capture(operation, options, schema)
    capture.run()
    return capture.statements, capture.foreign_keys


def _foreign_key(table: str, constraint: Any, text: str) -> ForeignKey:
    columns = tuple(str(name) for name in constraint.column_keys)
    referenced = str(constraint.elements[0].target_fullname).split(".")[:-1]
    return ForeignKey(
        name=str(constraint.name or implicit_name(table, columns, "fkey")),
        columns=columns,
        suffix=text[text.index(" REFERENCES ") + 1 :].strip(),
        referenced=ident(*referenced),
    )
