"""Indexes: ``zd_create_index``, ``zd_drop_index``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from alembic.operations import Operations
from alembic.operations.ops import CreateIndexOp, DropIndexOp

from alembic_zero.operations.base import ZdTableOperation, check_name, refuse_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.sql.elements import ColumnElement, TextClause

# What plain DDL in a transaction cannot take, and what we do in any case while clients are about.
_IMPLIED = "postgresql_concurrently"


@Operations.register_operation("zd_create_index")
class ZdCreateIndexOp(ZdTableOperation):
    """A new index, built concurrently."""

    directive: ClassVar[str] = "zd_create_index"

    def __init__(
        self,
        index_name: str | None,
        table_name: str,
        columns: Sequence[str | TextClause | ColumnElement[Any]],
        *,
        schema: str | None = None,
        unique: bool = False,
        if_not_exists: bool | None = None,
        **kw: Any,
    ) -> None:
        super().__init__(table_name, schema=schema)
        if index_name is not None:
            check_name(self.directive, "index_name", index_name)
        self.index_name = index_name
        self.columns = check_columns(self.directive, "columns", columns)
        self.unique = unique
        self.if_not_exists = if_not_exists
        self.kw = {key: value for key, value in kw.items() if key != _IMPLIED}
        if self.kw.get("postgresql_tablespace") is not None:
            refuse_arguments(
                self.directive, "argument 'postgresql_tablespace' is not supported: set default_tablespace"
            )

    @classmethod
    def zd_create_index(
        cls,
        operations: Operations,
        index_name: str | None,
        table_name: str,
        columns: Sequence[str | TextClause | ColumnElement[Any]],
        *,
        schema: str | None = None,
        unique: bool = False,
        if_not_exists: bool | None = None,
        **kw: Any,
    ) -> None:
        r"""Create an index without downtime: it is built concurrently.

        :param index_name: name of the index.
        :param table_name: name of the table.
        :param columns: column names, or ``sa.text()`` for expressions.
        :param schema: schema of the table.
        :param unique: if True, no two rows may be equal in these columns, from the time it is built.
        :param if_not_exists: if True, an index of this name that the table has already is left alone.
        :param \**kw: all else that ``op.create_index`` takes.
        """
        operations.invoke(
            cls(index_name, table_name, columns, schema=schema, unique=unique, if_not_exists=if_not_exists, **kw)
        )

    def describe(self) -> str:
        """Return the call in one line."""
        return describe_named(self, self.index_name)

    def plain_operation(self) -> CreateIndexOp:
        """Return the ordinary operation."""
        return CreateIndexOp(
            self.index_name,
            self.table_name,
            self.columns,
            schema=self.schema,
            unique=self.unique,
            if_not_exists=self.if_not_exists,
            **self.kw,
        )

    def reverse(self) -> ZdDropIndexOp:
        """Return the drop, which knows what it drops.

        :raises ValueError: the index has no name of its own.
        """
        if self.index_name is None:
            raise ValueError("operation is not reversible; the index has no name")
        return ZdDropIndexOp(self.index_name, self.table_name, schema=self.schema, _reverse=self)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return self.plain_operation().to_diff_tuple()


@Operations.register_operation("zd_drop_index")
class ZdDropIndexOp(ZdTableOperation):
    """An index that goes when the migration is completed; *table_name* is empty where the call names no table."""

    directive: ClassVar[str] = "zd_drop_index"

    def __init__(
        self,
        index_name: str,
        table_name: str | None = None,
        *,
        schema: str | None = None,
        if_exists: bool | None = None,
        _reverse: ZdCreateIndexOp | None = None,
        **kw: Any,
    ) -> None:
        check_name(self.directive, "index_name", index_name)
        super().__init__(index_name if table_name is None else table_name, schema=schema)
        if table_name is None:
            self.table_name = ""
        self.index_name = index_name
        self.if_exists = if_exists
        self._reverse = _reverse
        self.kw = {key: value for key, value in kw.items() if key != _IMPLIED}

    @classmethod
    def zd_drop_index(
        cls,
        operations: Operations,
        index_name: str,
        table_name: str | None = None,
        *,
        schema: str | None = None,
        if_exists: bool | None = None,
        **kw: Any,
    ) -> None:
        r"""Drop an index without downtime; it goes when the migration is completed.

        :param index_name: name of the index.
        :param table_name: name of the table; it may be left out.
        :param schema: schema of the table.
        :param if_exists: if True, an index that does not exist is no error; needs *table_name*.
        :param \**kw: all else that ``op.drop_index`` takes.
        """
        operations.invoke(cls(index_name, table_name, schema=schema, if_exists=if_exists, **kw))

    def describe(self) -> str:
        """Return the call in one line."""
        return describe_named(self, self.index_name)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call, by parameter."""
        return {**super().arguments(), "table_name": self.table_name or None}

    def plain_operation(self) -> DropIndexOp:
        """Return the ordinary operation."""
        created = None if self._reverse is None else self._reverse.plain_operation()
        return DropIndexOp(
            self.index_name,
            self.table_name or None,
            schema=self.schema,
            if_exists=self.if_exists,
            _reverse=created,
            **self.kw,
        )

    def reverse(self) -> ZdCreateIndexOp:
        """Return the creation of the index.

        :raises ValueError: the index's definition is not known.
        """
        if self._reverse is None:
            raise ValueError("operation is not reversible; original index is not present")
        return self._reverse

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        if self._reverse is None:
            return ("remove_index", self.index_name, self.schema, self.table_name)
        return self.plain_operation().to_diff_tuple()


def describe_named(operation: ZdTableOperation, name: str | None, *arguments: object) -> str:
    """Return a call whose first argument is the name of an index or constraint."""
    shown = [repr(None if name is None else str(name))]
    shown += [repr(str(operation.table_name))] if operation.table_name else []
    shown += [repr(argument) for argument in arguments]
    if operation.schema is not None:
        shown.append(f"schema={str(operation.schema)!r}")
    return f"{operation.directive}({', '.join(shown)})"


def check_columns(directive: str, argument: str, columns: Any) -> list[Any]:
    """Return *columns* as a list.

    :raises RefusedError: code ZD101, it is a single string, or empty.
    """
    if isinstance(columns, str):
        refuse_arguments(directive, f"{argument} must be a list of columns, not {columns!r}")
    found = list(columns)
    if not found:
        refuse_arguments(directive, f"{argument} is empty")
    for column in found:
        if isinstance(column, str):
            check_name(directive, argument, column)
    return found
