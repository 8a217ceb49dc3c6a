"""Constraints: foreign key, CHECK, UNIQUE, primary key, EXCLUDE; dropped and renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from alembic.operations import Operations
from alembic.operations.ops import (
    CreateCheckConstraintOp,
    CreateForeignKeyOp,
    CreatePrimaryKeyOp,
    CreateUniqueConstraintOp,
    DropConstraintOp,
    ExecuteSQLOp,
)
from sqlalchemy import text

from alembic_zero.operations.base import (
    ZdTableOperation,
    check_expression,
    check_name,
    check_reverse_expression,
    refuse_arguments,
)
from alembic_zero.operations.indexes import check_columns, describe_named
from alembic_zero.operations.irreversible import Irreversible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.ddl.postgresql import CreateExcludeConstraintOp
    from alembic.operations.ops import MigrateOperation
    from sqlalchemy.sql.elements import ColumnElement, TextClause

    Ups = str | Mapping[str, str] | None
    Downs = str | Irreversible | Mapping[str, str | Irreversible] | None


class ZdConstraintOperation(ZdTableOperation):
    """An operation on one constraint.

    *up* and *down* are SQL text for a constraint on one column, or map column names to SQL text. With
    either, those columns are copied as ``zd_alter_column`` does, and only one version is held to the
    constraint.
    """

    takes_expressions: ClassVar[bool] = True

    def __init__(
        self,
        constraint_name: str | None,
        table_name: str,
        *,
        schema: str | None = None,
        up: Ups = None,
        down: Downs = None,
    ) -> None:
        super().__init__(table_name, schema=schema)
        if constraint_name is not None:
            check_name(self.directive, "constraint_name", constraint_name)
        self.constraint_name = constraint_name
        self.up = _checked(self.directive, "up", up)
        self.down = _checked(self.directive, "down", down)

    @property
    def copies(self) -> bool:
        """Whether columns are copied, so that one version is not held to the constraint."""
        return self.up is not None or self.down is not None

    def expressions(self, columns: Sequence[str]) -> tuple[dict[str, str], dict[str, str | Irreversible]]:
        """Return *up* and *down* by column.

        :param columns: the columns of the constraint.
        :raises RefusedError: code ZD101, they do not go with these columns.
        """
        ups: dict[str, Any] = self._by_column("up", self.up, columns)
        downs = self._by_column("down", self.down, columns)
        return ups, downs

    def _by_column(self, argument: str, value: Any, columns: Sequence[str]) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            if len(columns) != 1:
                refuse_arguments(
                    self.directive,
                    f"{argument} must map column names to SQL text: constraint {self.constraint_name!r} has columns "
                    f"{', '.join(columns)}",
                )
            return {columns[0]: value}
        unknown = [name for name in value if name not in columns]
        if unknown:
            refuse_arguments(
                self.directive,
                f"{argument} names column {unknown[0]!r}, which constraint {self.constraint_name!r} does not have "
                f"(columns: {', '.join(columns)})",
            )
        return value

    def describe(self) -> str:
        """Return the call in one line."""
        return describe_named(self, self.constraint_name)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return tuple(self.plain_operation().to_diff_tuple())

    def reverse(self) -> MigrateOperation:
        """Return the drop, which knows what it drops, with *up* and *down* exchanged.

        :raises ValueError: *down* is IRREVERSIBLE, or the constraint has no name of its own.
        """
        if self.constraint_name is None:
            raise ValueError("operation is not reversible; the constraint has no name")
        up, down = self._exchanged()
        return ZdDropConstraintOp(
            self.constraint_name, self.table_name, schema=self.schema, up=up, down=down, _reverse=self
        )

    def _exchanged(self) -> tuple[Any, Any]:
        downs = self.down.values() if isinstance(self.down, dict) else (self.down,)
        if any(isinstance(one, Irreversible) for one in downs):
            raise ValueError("operation is not reversible; down is IRREVERSIBLE")
        return self.down, self.up


def _checked(directive: str, argument: str, value: Any) -> Any:
    """Return *up* or *down*, a mapping as a dictionary.

    :raises RefusedError: code ZD101, it is neither SQL text nor a mapping to SQL text.
    """
    check = check_expression if argument == "up" else check_reverse_expression
    if not isinstance(value, Mapping):
        check(directive, argument, value)
        return value
    if not value:
        refuse_arguments(directive, f"{argument} is empty")
    for column, expression in value.items():
        check_name(directive, f"a column of {argument}", column)
        if expression is None:
            refuse_arguments(directive, f"{argument} of column {column!r} is None")
        check(directive, f"{argument} of column {column!r}", expression)
    return dict(value)


def _check_validated(directive: str, kw: dict[str, Any]) -> None:
    if kw.get("postgresql_not_valid"):
        refuse_arguments(directive, "argument 'postgresql_not_valid' is not supported: the constraint is validated")


@Operations.register_operation("zd_create_foreign_key")
class ZdCreateForeignKeyOp(ZdConstraintOperation):
    """A new foreign key: NOT VALID first, then validated, without a strong lock during the scan."""

    directive: ClassVar[str] = "zd_create_foreign_key"

    def __init__(
        self,
        constraint_name: str | None,
        source_table: str,
        referent_table: str,
        local_cols: Sequence[str],
        remote_cols: Sequence[str],
        *,
        source_schema: str | None = None,
        referent_schema: str | None = None,
        up: Ups = None,
        down: Downs = None,
        **kw: Any,
    ) -> None:
        super().__init__(constraint_name, source_table, schema=source_schema, up=up, down=down)
        check_name(self.directive, "referent_table", referent_table)
        if referent_schema is not None:
            check_name(self.directive, "referent_schema", referent_schema)
        self.referent_table = referent_table
        self.referent_schema = referent_schema
        self.columns = check_columns(self.directive, "local_cols", local_cols)
        self.remote_columns = check_columns(self.directive, "remote_cols", remote_cols)
        if len(self.columns) != len(self.remote_columns):
            refuse_arguments(self.directive, "local_cols and remote_cols must have the same length")
        _check_validated(self.directive, kw)
        self.kw = kw

    @classmethod
    def zd_create_foreign_key(  # noqa: PLR0917 - Alembic's signature
        cls,
        operations: Operations,
        constraint_name: str | None,
        source_table: str,
        referent_table: str,
        local_cols: Sequence[str],
        remote_cols: Sequence[str],
        *,
        onupdate: str | None = None,
        ondelete: str | None = None,
        deferrable: bool | None = None,
        initially: str | None = None,
        match: str | None = None,
        source_schema: str | None = None,
        referent_schema: str | None = None,
        up: str | Mapping[str, str] | None = None,
        down: str | Irreversible | Mapping[str, str | Irreversible] | None = None,
        **dialect_kw: Any,
    ) -> None:
        r"""Create a foreign key without downtime: no scan holds a lock that writers notice.

        :param constraint_name: name of the constraint, None for PostgreSQL's or the naming convention's own.
        :param source_table: name of the referencing table.
        :param referent_table: name of the referenced table.
        :param local_cols: columns of *source_table*.
        :param remote_cols: columns of *referent_table*.
        :param onupdate: for example ``"CASCADE"``.
        :param ondelete: for example ``"SET NULL"``.
        :param deferrable: whether it is DEFERRABLE.
        :param initially: ``"DEFERRED"`` or ``"IMMEDIATE"``.
        :param match: for example ``"FULL"``.
        :param source_schema: schema of the referencing table.
        :param referent_schema: schema of the referenced table.
        :param up: SQL expression that gives a value which fits, for rows that do not; by column, if several.
        :param down: SQL expression that gives clients of the revision before their value.
        :param \**dialect_kw: all else that ``op.create_foreign_key`` takes.
        """
        operations.invoke(
            cls(
                constraint_name,
                source_table,
                referent_table,
                local_cols,
                remote_cols,
                source_schema=source_schema,
                referent_schema=referent_schema,
                up=up,
                down=down,
                onupdate=onupdate,
                ondelete=ondelete,
                deferrable=deferrable,
                initially=initially,
                match=match,
                **dialect_kw,
            )
        )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call, by parameter."""
        names = ("onupdate", "ondelete", "deferrable", "initially", "match")
        return {
            "constraint_name": self.constraint_name,
            "source_table": self.table_name,
            "referent_table": self.referent_table,
            "local_cols": self.columns,
            "remote_cols": self.remote_columns,
            **{name: self.kw.get(name) for name in names},
            "source_schema": self.schema,
            "referent_schema": self.referent_schema,
            "up": self.up,
            "down": self.down,
            "dialect_kw": {key: value for key, value in self.kw.items() if key not in names},
        }

    def describe(self) -> str:
        """Return the call in one line."""
        return describe_named(self, self.constraint_name, str(self.referent_table))

    def plain_operation(self) -> CreateForeignKeyOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return CreateForeignKeyOp(
            self.constraint_name,
            self.table_name,
            self.referent_table,
            list(self.columns),
            list(self.remote_columns),
            source_schema=self.schema,
            referent_schema=self.referent_schema,
            **self.kw,
        )


@Operations.register_operation("zd_create_check_constraint")
class ZdCreateCheckConstraintOp(ZdConstraintOperation):
    """A new CHECK: NOT VALID first, then validated, without a strong lock during the scan."""

    directive: ClassVar[str] = "zd_create_check_constraint"

    def __init__(
        self,
        constraint_name: str | None,
        table_name: str,
        condition: str | ColumnElement[bool] | TextClause,
        *,
        schema: str | None = None,
        up: Ups = None,
        down: Downs = None,
        **kw: Any,
    ) -> None:
        super().__init__(constraint_name, table_name, schema=schema, up=up, down=down)
        if isinstance(condition, str):
            check_name(self.directive, "condition", condition)
        self.condition = condition
        _check_validated(self.directive, kw)
        self.kw = kw

    @classmethod
    def zd_create_check_constraint(
        cls,
        operations: Operations,
        constraint_name: str | None,
        table_name: str,
        condition: str | ColumnElement[bool] | TextClause,
        *,
        schema: str | None = None,
        up: str | Mapping[str, str] | None = None,
        down: str | Irreversible | Mapping[str, str | Irreversible] | None = None,
        **kw: Any,
    ) -> None:
        r"""Create a CHECK constraint without downtime: no scan holds a lock that writers notice.

        :param constraint_name: name of the constraint, None for PostgreSQL's or the naming convention's own.
        :param table_name: name of the table.
        :param condition: SQL text, or an expression of SQLAlchemy.
        :param schema: schema of the table.
        :param up: SQL expression that gives a value which fits, for rows that do not; by column, if several.
        :param down: SQL expression that gives clients of the revision before their value.
        :param \**kw: all else that ``op.create_check_constraint`` takes.
        """
        operations.invoke(cls(constraint_name, table_name, condition, schema=schema, up=up, down=down, **kw))

    def plain_operation(self) -> CreateCheckConstraintOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return CreateCheckConstraintOp(
            self.constraint_name, self.table_name, self.condition, schema=self.schema, **self.kw
        )


@Operations.register_operation("zd_create_unique_constraint")
class ZdCreateUniqueConstraintOp(ZdConstraintOperation):
    """A new UNIQUE constraint, made from a unique index that is built concurrently."""

    directive: ClassVar[str] = "zd_create_unique_constraint"

    def __init__(
        self,
        constraint_name: str | None,
        table_name: str,
        columns: Sequence[str],
        *,
        schema: str | None = None,
        up: Ups = None,
        down: Downs = None,
        **kw: Any,
    ) -> None:
        super().__init__(constraint_name, table_name, schema=schema, up=up, down=down)
        self.columns = check_columns(self.directive, "columns", columns)
        self.kw = kw

    @classmethod
    def zd_create_unique_constraint(
        cls,
        operations: Operations,
        constraint_name: str | None,
        table_name: str,
        columns: Sequence[str],
        *,
        schema: str | None = None,
        up: str | Mapping[str, str] | None = None,
        down: str | Irreversible | Mapping[str, str | Irreversible] | None = None,
        **kw: Any,
    ) -> None:
        r"""Create a UNIQUE constraint without downtime, from an index that is built concurrently.

        :param constraint_name: name of the constraint, None for PostgreSQL's or the naming convention's own.
        :param table_name: name of the table.
        :param columns: names of the columns.
        :param schema: schema of the table.
        :param up: SQL expression that gives a value which fits, for rows that do not; by column, if several.
        :param down: SQL expression that gives clients of the revision before their value.
        :param \**kw: all else that ``op.create_unique_constraint`` takes.
        """
        operations.invoke(cls(constraint_name, table_name, columns, schema=schema, up=up, down=down, **kw))

    def plain_operation(self) -> CreateUniqueConstraintOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return CreateUniqueConstraintOp(
            self.constraint_name, self.table_name, self.columns, schema=self.schema, **self.kw
        )


@Operations.register_operation("zd_create_primary_key")
class ZdCreatePrimaryKeyOp(ZdConstraintOperation):
    """A primary key, made from a unique index that is built concurrently, on columns that become NOT NULL."""

    directive: ClassVar[str] = "zd_create_primary_key"

    def __init__(
        self,
        constraint_name: str | None,
        table_name: str,
        columns: Sequence[str],
        *,
        schema: str | None = None,
        up: Ups = None,
        down: Downs = None,
    ) -> None:
        super().__init__(constraint_name, table_name, schema=schema, up=up, down=down)
        self.columns = check_columns(self.directive, "columns", columns)

    @classmethod
    def zd_create_primary_key(
        cls,
        operations: Operations,
        constraint_name: str | None,
        table_name: str,
        columns: Sequence[str],
        *,
        schema: str | None = None,
        up: str | Mapping[str, str] | None = None,
        down: str | Irreversible | Mapping[str, str | Irreversible] | None = None,
    ) -> None:
        """Create a primary key without downtime, from an index that is built concurrently.

        :param constraint_name: name of the constraint, None for PostgreSQL's or the naming convention's own.
        :param table_name: name of the table.
        :param columns: names of the columns.
        :param schema: schema of the table.
        :param up: SQL expression that gives a value which fits, for rows that do not; by column, if several.
        :param down: SQL expression that gives clients of the revision before their value.
        """
        operations.invoke(cls(constraint_name, table_name, columns, schema=schema, up=up, down=down))

    def plain_operation(self) -> CreatePrimaryKeyOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return CreatePrimaryKeyOp(self.constraint_name, self.table_name, self.columns, schema=self.schema)


@Operations.register_operation("zd_create_exclude_constraint")
class ZdCreateExcludeConstraintOp(ZdConstraintOperation):
    """An EXCLUDE constraint on a table that is empty: PostgreSQL cannot build one concurrently."""

    directive: ClassVar[str] = "zd_create_exclude_constraint"

    def __init__(
        self,
        constraint_name: str | None,
        table_name: str,
        elements: Sequence[Any],
        *,
        schema: str | None = None,
        **kw: Any,
    ) -> None:
        super().__init__(constraint_name, table_name, schema=schema)
        self.elements = check_columns(self.directive, "elements", elements)
        self.kw = kw

    @classmethod
    def zd_create_exclude_constraint(
        cls, operations: Operations, constraint_name: str | None, table_name: str, *elements: Any, **kw: Any
    ) -> None:
        r"""Create an EXCLUDE constraint on an empty table; on one with rows it is refused.

        :param constraint_name: name of the constraint, None for PostgreSQL's or the naming convention's own.
        :param table_name: name of the table.
        :param \*elements: pairs of column and operator, as for ``op.create_exclude_constraint``.
        :param \**kw: all else that ``op.create_exclude_constraint`` takes: ``where``, ``using``, ``schema``, ...
        """
        schema = kw.pop("schema", None)
        operations.invoke(cls(constraint_name, table_name, elements, schema=schema, **kw))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call, by parameter."""
        kw = self.kw if self.schema is None else {**self.kw, "schema": self.schema}
        return {
            "constraint_name": self.constraint_name,
            "table_name": self.table_name,
            "elements": self.elements,
            "kw": kw,
        }

    def plain_operation(self) -> CreateExcludeConstraintOp:
        """Return the ordinary operation."""
        # This module is imported during "import alembic", in the middle of which that one cannot be.
        from alembic.ddl.postgresql import CreateExcludeConstraintOp

        return CreateExcludeConstraintOp(
            self.constraint_name, self.table_name, self.elements, schema=self.schema, **self.kw
        )


@Operations.register_operation("zd_drop_constraint")
class ZdDropConstraintOp(ZdConstraintOperation):
    """A constraint that goes when the migration is completed; with *down*, new clients are free of it at once."""

    directive: ClassVar[str] = "zd_drop_constraint"

    def __init__(
        self,
        constraint_name: str,
        table_name: str,
        type_: str | None = None,
        *,
        schema: str | None = None,
        if_exists: bool | None = None,
        up: Ups = None,
        down: Downs = None,
        _reverse: ZdConstraintOperation | None = None,
    ) -> None:
        check_name(self.directive, "constraint_name", constraint_name)
        super().__init__(constraint_name, table_name, schema=schema, up=up, down=down)
        self.type_ = type_
        self.if_exists = if_exists
        self._reverse = _reverse

    @classmethod
    def zd_drop_constraint(
        cls,
        operations: Operations,
        constraint_name: str,
        table_name: str,
        type_: str | None = None,
        *,
        schema: str | None = None,
        if_exists: bool | None = None,
        up: str | Mapping[str, str] | None = None,
        down: str | Irreversible | Mapping[str, str | Irreversible] | None = None,
    ) -> None:
        """Drop a constraint without downtime; it goes when the migration is completed.

        :param constraint_name: name of the constraint.
        :param table_name: name of the table.
        :param type_: as for ``op.drop_constraint``; PostgreSQL does not need it.
        :param schema: schema of the table.
        :param if_exists: if True, a constraint that does not exist is no error.
        :param up: SQL expression that gives the new version's value; by column, if the constraint has several.
        :param down: SQL expression that gives a value which conforms, for clients of the revision before.
         With it new clients are free of the constraint at once.
        """
        operations.invoke(cls(constraint_name, table_name, type_, schema=schema, if_exists=if_exists, up=up, down=down))

    def plain_operation(self) -> DropConstraintOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        created: Any = None if self._reverse is None else self._reverse.plain_operation()
        return DropConstraintOp(
            self.constraint_name,
            self.table_name,
            self.type_,
            schema=self.schema,
            if_exists=self.if_exists,
            _reverse=created,
        )

    def reverse(self) -> ZdConstraintOperation:
        """Return the creation of the constraint.

        :raises ValueError: the constraint's definition is not known.
        """
        if self._reverse is None:
            raise ValueError("operation is not reversible; original constraint is not present")
        self._exchanged()
        return self._reverse

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        if self._reverse is None:
            return ("remove_constraint", self.constraint_name, self.schema, self.table_name)
        return tuple(self.plain_operation().to_diff_tuple())


@Operations.register_operation("zd_rename_constraint")
class ZdRenameConstraintOp(ZdTableOperation):
    """Another name for a constraint, which the table gets when the migration is completed."""

    directive: ClassVar[str] = "zd_rename_constraint"

    def __init__(
        self, constraint_name: str, table_name: str, new_constraint_name: str, *, schema: str | None = None
    ) -> None:
        super().__init__(table_name, schema=schema)
        check_name(self.directive, "constraint_name", constraint_name)
        check_name(self.directive, "new_constraint_name", new_constraint_name)
        if constraint_name == new_constraint_name:
            refuse_arguments(self.directive, f"constraint {constraint_name!r} has that name already")
        self.constraint_name = constraint_name
        self.new_constraint_name = new_constraint_name

    @classmethod
    def zd_rename_constraint(
        cls,
        operations: Operations,
        constraint_name: str,
        table_name: str,
        new_constraint_name: str,
        *,
        schema: str | None = None,
    ) -> None:
        """Rename a constraint without downtime; the table's own gets its new name with ``zd-complete``.

        :param constraint_name: name before.
        :param table_name: name of the table.
        :param new_constraint_name: name after.
        :param schema: schema of the table.
        """
        operations.invoke(cls(constraint_name, table_name, new_constraint_name, schema=schema))

    def describe(self) -> str:
        """Return the call in one line."""
        return describe_named(self, self.constraint_name, str(self.new_constraint_name))

    def statement(self) -> str:
        """Return ALTER TABLE ... RENAME CONSTRAINT; Alembic has no operation for it."""
        names = [self.table_name] if self.schema is None else [self.schema, self.table_name]
        table = ".".join(_quote(name) for name in names)
        before, after = _quote(self.constraint_name), _quote(self.new_constraint_name)
        return f"ALTER TABLE {table} RENAME CONSTRAINT {before} TO {after}"

    def plain_operation(self) -> ExecuteSQLOp:
        """Return the ordinary operation: Alembic has none but ``execute``."""
        return ExecuteSQLOp(text(self.statement().replace(":", r"\:")))

    def reverse(self) -> ZdRenameConstraintOp:
        """Return the renaming back."""
        return ZdRenameConstraintOp(self.new_constraint_name, self.table_name, self.constraint_name, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference; Alembic has no word for it."""
        return ("rename_constraint", self.schema, self.table_name, self.constraint_name, self.new_constraint_name)


def _quote(name: str) -> str:
    """Return a quoted identifier."""
    return '"' + str(name).replace('"', '""') + '"'
