"""Columns: ``zd_add_column``, ``zd_alter_column``, ``zd_drop_column``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alembic.operations import Operations
from alembic.operations.ops import AddColumnOp, AlterColumnOp, DropColumnOp
from alembic.util.sqla_compat import _copy as copy_column
from sqlalchemy import Column, Computed

from alembic_zero.operations.across import FromTable, check_column_source
from alembic_zero.operations.base import (
    ZdTableOperation,
    check_expression,
    check_name,
    check_no_more_arguments,
    check_reverse_expression,
    refuse_arguments,
)
from alembic_zero.operations.irreversible import Irreversible

Expression = str | FromTable | None
ReverseExpression = str | FromTable | Irreversible | None

if TYPE_CHECKING:
    from sqlalchemy import Identity
    from sqlalchemy.sql.elements import TextClause
    from sqlalchemy.sql.functions import FunctionElement
    from sqlalchemy.types import TypeEngine

    ServerDefault = str | Literal[False] | Identity | Computed | TextClause | FunctionElement[Any] | None
    Type = TypeEngine[Any] | type[TypeEngine[Any]]


@Operations.register_operation("zd_add_column")
class ZdAddColumnOp(ZdTableOperation):
    """A new column, filled from *up*, which sees the table as it is without the column."""

    directive: ClassVar[str] = "zd_add_column"

    def __init__(
        self, table_name: str, column: Column[Any], *, up: Expression = None, schema: str | None = None
    ) -> None:
        super().__init__(table_name, schema=schema)
        if not isinstance(column, Column):
            refuse_arguments(self.directive, f"column must be a sqlalchemy.Column, not {column!r}")
        check_name(self.directive, "column.name", column.name)
        _check_up(self.directive, up)
        if up is not None and is_always_generated(column):
            refuse_arguments(
                self.directive,
                f"PostgreSQL accepts no value for generated column {column.name!r}; leave out up=",
            )
        self.column = column
        self.up = up

    @property
    def column_name(self) -> str:
        """The name of the new column."""
        return str(self.column.name)

    @classmethod
    def zd_add_column(
        cls,
        operations: Operations,
        table_name: str,
        column: Column[Any],
        *,
        up: str | FromTable | None = None,
        schema: str | None = None,
    ) -> None:
        """Add a column without downtime.

        :param table_name: name of the table.
        :param column: the column, as for ``op.add_column``.
        :param up: SQL expression over the other columns that gives the value for rows that exist,
         and for rows that clients of the revision before write; or :func:`alembic_zero.from_table`.
        :param schema: schema of the table.
        """
        operations.invoke(cls(table_name, column, up=up, schema=schema))

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call(self.column_name)

    def plain_operation(self) -> AddColumnOp:
        """Return the ordinary operation, without ``up`` and ``down``.

        With a column of its own each time: rendering attaches it to a table, and a copy of an
        attached column has lost its foreign keys.
        """
        return AddColumnOp(self.table_name, copy_column(self.column), schema=self.schema)

    def reverse(self) -> ZdDropColumnOp:
        """Return the drop; what *up* computes from is still there after it, so *up* is its ``down``."""
        return ZdDropColumnOp(self.table_name, self.column_name, down=self.up, schema=self.schema, _reverse=self.column)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return ("add_column", self.schema, self.table_name, self.column)


@Operations.register_operation("zd_drop_column")
class ZdDropColumnOp(ZdTableOperation):
    """A column that goes; *down*, which sees the table without it, keeps it filled until then."""

    directive: ClassVar[str] = "zd_drop_column"

    def __init__(
        self,
        table_name: str,
        column_name: str,
        *,
        down: ReverseExpression = None,
        schema: str | None = None,
        _reverse: Column[Any] | None = None,
    ) -> None:
        super().__init__(table_name, schema=schema)
        check_name(self.directive, "column_name", column_name)
        _check_down(self.directive, down)
        self.column_name = column_name
        self.down = down
        self._reverse = _reverse

    @classmethod
    def zd_drop_column(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        *,
        down: str | FromTable | Irreversible | None = None,
        schema: str | None = None,
    ) -> None:
        """Drop a column without downtime.

        :param table_name: name of the table.
        :param column_name: name of the column.
        :param down: SQL expression over the other columns that gives clients of the revision before
         the column's value in rows that newer clients write; or :func:`alembic_zero.from_table`;
         ``alembic_zero.IRREVERSIBLE`` if there is none.
        :param schema: schema of the table.
        """
        operations.invoke(cls(table_name, column_name, down=down, schema=schema))

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call(self.column_name)

    def reverse(self) -> ZdAddColumnOp:
        """Return the addition of the column, filled by *down*.

        :raises ValueError: the column's definition is not known.
        """
        if self._reverse is None:
            raise ValueError("operation is not reversible; original column is not present")
        up = None if isinstance(self.down, Irreversible) or is_always_generated(self._reverse) else self.down
        return ZdAddColumnOp(self.table_name, self._reverse, up=up, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return self.plain_operation().to_diff_tuple()

    def plain_operation(self) -> DropColumnOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        added = None
        if self._reverse is not None:
            added = AddColumnOp(self.table_name, self._reverse, schema=self.schema)
        return DropColumnOp(self.table_name, self.column_name, schema=self.schema, _reverse=added)


@Operations.register_operation("zd_alter_column")
class ZdAlterColumnOp(ZdTableOperation):
    """A changed column: name, type, nullability, default, comment, alone or together.

    *up* sees the column, and the table, as before; *down* as after. The attributes have the names
    of the directive's arguments.
    """

    directive: ClassVar[str] = "zd_alter_column"

    _advice: ClassVar[dict[str, str]] = {
        "postgresql_using": "give the expression as up=, and its inverse as down=",
        "autoincrement": "it means nothing on PostgreSQL; use server_default=sqlalchemy.Identity()",
        "existing_autoincrement": "it means nothing on PostgreSQL",
        "name": "use new_column_name=",
    }

    def __init__(
        self,
        table_name: str,
        column_name: str,
        *,
        nullable: bool | None = None,
        comment: str | Literal[False] | None = False,
        server_default: ServerDefault = False,
        new_column_name: str | None = None,
        type_: Type | None = None,
        existing_type: Type | None = None,
        existing_server_default: ServerDefault = False,
        existing_nullable: bool | None = None,
        existing_comment: str | None = None,
        schema: str | None = None,
        up: Expression = None,
        down: ReverseExpression = None,
        **kw: Any,
    ) -> None:
        super().__init__(table_name, schema=schema)
        self.column_name = column_name
        self.nullable = nullable
        self.comment = comment
        self.server_default = server_default
        self.new_column_name = new_column_name
        self.type_ = type_
        self.existing_type = existing_type
        self.existing_server_default = existing_server_default
        self.existing_nullable = existing_nullable
        self.existing_comment = existing_comment
        self.up = up
        self.down = down
        check_no_more_arguments(self.directive, kw, self._advice)
        self._check()

    def _check(self) -> None:
        check_name(self.directive, "column_name", self.column_name)
        if self.new_column_name is not None:
            check_name(self.directive, "new_column_name", self.new_column_name)
        _check_up(self.directive, self.up)
        _check_down(self.directive, self.down)
        for argument in ("nullable", "existing_nullable"):
            value = getattr(self, argument)
            if not isinstance(value, bool | None):
                refuse_arguments(self.directive, f"{argument} must be True or False, not {value!r}")
        for argument in ("comment", "server_default"):
            if getattr(self, argument) is True:
                refuse_arguments(self.directive, f"{argument} takes a value or None, not True")
        if not self._changes_something():
            refuse_arguments(self.directive, f"nothing to change on column {self.column_name!r} of {self.table_name!r}")

    def _changes_something(self) -> bool:
        return (
            not self.metadata_only
            or self.comment is not False
            or self.server_default is not False
            or self.new_column_name is not None
        )

    @property
    def metadata_only(self) -> bool:
        """Whether values and what is allowed as one stay as they are: name, default and comment only."""
        return self.type_ is None and self.nullable is None and self.up is None and self.down is None

    @property
    def final_column_name(self) -> str:
        """The column's name after the operation."""
        return self.column_name if self.new_column_name is None else self.new_column_name

    @classmethod
    def zd_alter_column(
        cls,
        operations: Operations,
        table_name: str,
        column_name: str,
        *,
        nullable: bool | None = None,
        comment: str | Literal[False] | None = False,
        server_default: ServerDefault = False,
        new_column_name: str | None = None,
        type_: Type | None = None,
        existing_type: Type | None = None,
        existing_server_default: ServerDefault = False,
        existing_nullable: bool | None = None,
        existing_comment: str | None = None,
        schema: str | None = None,
        up: str | FromTable | None = None,
        down: str | FromTable | Irreversible | None = None,
        **kw: Any,
    ) -> None:
        r"""Change a column without downtime.

        Takes what ``op.alter_column`` takes, and:

        :param up: SQL expression that gives the new value; it sees the table as it was before.
        :param down: SQL expression that gives the former value, for clients of the revision before;
         it sees the table as it is after. ``alembic_zero.IRREVERSIBLE`` if there is none.
        :param \**kw: refused, with what to use instead.
        """
        operations.invoke(
            cls(
                table_name,
                column_name,
                nullable=nullable,
                comment=comment,
                server_default=server_default,
                new_column_name=new_column_name,
                type_=type_,
                existing_type=existing_type,
                existing_server_default=existing_server_default,
                existing_nullable=existing_nullable,
                existing_comment=existing_comment,
                schema=schema,
                up=up,
                down=down,
                **kw,
            )
        )

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call(self.column_name)

    def plain_operation(self) -> AlterColumnOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return AlterColumnOp(
            self.table_name,
            self.column_name,
            schema=self.schema,
            existing_type=self.existing_type,
            existing_server_default=self.existing_server_default,
            existing_nullable=self.existing_nullable,
            existing_comment=self.existing_comment,
            modify_nullable=self.nullable,
            modify_comment=self.comment,
            modify_server_default=self.server_default,
            modify_name=self.new_column_name,
            modify_type=self.type_,
        )

    def reverse(self) -> ZdAlterColumnOp:
        """Return the change back, from the ``existing_`` arguments, with *up* and *down* exchanged.

        :raises ValueError: *down* is IRREVERSIBLE, or the state before is not known.
        """
        if isinstance(self.down, Irreversible):
            raise ValueError("operation is not reversible; down is IRREVERSIBLE")  # noqa: TRY004 - as Alembic
        if self.type_ is not None and self.existing_type is None:
            raise ValueError("operation is not reversible; existing_type is not present")
        if self.nullable is not None and self.existing_nullable is None:
            raise ValueError("operation is not reversible; existing_nullable is not present")
        if self.server_default is not False and self.existing_server_default is False:
            raise ValueError("operation is not reversible; existing_server_default is not present")
        return ZdAlterColumnOp(
            self.table_name,
            self.final_column_name,
            new_column_name=None if self.new_column_name is None else self.column_name,
            schema=self.schema,
            up=self.down,
            down=self.up,
            **self._reversed_attributes(),
        )

    def _reversed_attributes(self) -> dict[str, Any]:
        """Return what the change back sets, and what it finds, by argument."""
        reversed_: dict[str, Any] = {}
        for changed, existing, absent in (
            ("type_", "existing_type", None),
            ("nullable", "existing_nullable", None),
            ("server_default", "existing_server_default", False),
            ("comment", "existing_comment", False),
        ):
            if getattr(self, changed) is absent:
                reversed_[existing] = getattr(self, existing)
            else:
                reversed_[changed] = getattr(self, existing)
                reversed_[existing] = getattr(self, changed)
        return reversed_

    def to_diff_tuple(self) -> Any:
        """Return Alembic's list of changes; it has no word for a change of name, so that is ours."""
        changes = list(self.plain_operation().to_diff_tuple())
        if self.new_column_name is not None:
            names = (self.column_name, self.new_column_name)
            changes.append(("rename_column", self.schema, self.table_name, *names))
        return changes


def is_always_generated(column: Column[Any]) -> bool:
    """Return whether PostgreSQL refuses every value but its own for *column*."""
    return column.computed is not None or (column.identity is not None and bool(column.identity.always))


def _check_up(directive: str, value: object) -> None:
    if not check_column_source(directive, "up", value):
        check_expression(directive, "up", value)


def _check_down(directive: str, value: object) -> None:
    if not check_column_source(directive, "down", value):
        check_reverse_expression(directive, "down", value)
