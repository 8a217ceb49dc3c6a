"""Tables: ``zd_create_table``, ``zd_rename_table``, ``zd_drop_table``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from alembic.operations import Operations
from alembic.operations.ops import CreateTableOp, DropTableOp, RenameTableOp
from sqlalchemy.schema import SchemaItem

from alembic_zero.operations.across import FromTable, check_row_source
from alembic_zero.operations.base import ZdTableOperation, check_name, refuse_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Table


@Operations.register_operation("zd_create_table")
class ZdCreateTableOp(ZdTableOperation):
    """A new table, which only the new version sees.

    :param columns: columns, constraints and indexes.
    :param up: where its rows come from.
    :param kw: all else that ``op.create_table`` takes.
    """

    directive: ClassVar[str] = "zd_create_table"

    def __init__(
        self,
        table_name: str,
        columns: Sequence[SchemaItem],
        *,
        up: FromTable | None = None,
        schema: str | None = None,
        **kw: Any,
    ) -> None:
        super().__init__(table_name, schema=schema)
        check_row_source(self.directive, "up", up)
        self.up = up
        for item in columns:
            if not isinstance(item, SchemaItem):
                refuse_arguments(self.directive, f"a column or constraint is wanted, not {item!r}")
        self.columns = tuple(columns)
        self.kw = kw

    @classmethod
    def zd_create_table(
        cls,
        operations: Operations,
        table_name: str,
        *columns: SchemaItem,
        up: FromTable | None = None,
        schema: str | None = None,
        **kw: Any,
    ) -> Table:
        r"""Create a table that only clients of the new version see.

        :param table_name: name of the table.
        :param \*columns: columns, constraints and indexes, as for ``op.create_table``.
        :param up: :func:`alembic_zero.from_table` with a mapping: the table is filled from another one, and
         kept in step with what clients of the revision before write there.
        :param schema: schema of the table.
        :param \**kw: all else that ``op.create_table`` takes.
        :return: the table, as ``op.create_table`` returns it.
        """
        table: Table = operations.invoke(cls(table_name, columns, up=up, schema=schema, **kw))
        return table

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call()

    def plain_operation(self) -> CreateTableOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return CreateTableOp(self.table_name, self.columns, schema=self.schema, **self.kw)

    def reverse(self) -> ZdDropTableOp:
        """Return the drop, which knows what it drops."""
        return ZdDropTableOp(self.table_name, down=self.up, schema=self.schema, _reverse=self)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return self.plain_operation().to_diff_tuple()


@Operations.register_operation("zd_rename_table")
class ZdRenameTableOp(ZdTableOperation):
    """Another name for a table; each version has its own."""

    directive: ClassVar[str] = "zd_rename_table"

    def __init__(self, old_table_name: str, new_table_name: str, *, schema: str | None = None) -> None:
        super().__init__(old_table_name, schema=schema)
        check_name(self.directive, "new_table_name", new_table_name)
        if new_table_name == old_table_name:
            refuse_arguments(self.directive, f"table {old_table_name!r} has that name already")
        self.new_table_name = new_table_name

    @classmethod
    def zd_rename_table(
        cls, operations: Operations, old_table_name: str, new_table_name: str, *, schema: str | None = None
    ) -> None:
        """Rename a table without downtime; each version keeps its name for it.

        :param old_table_name: name before.
        :param new_table_name: name after.
        :param schema: schema of the table.
        """
        operations.invoke(cls(old_table_name, new_table_name, schema=schema))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call, by parameter."""
        return {
            "old_table_name": self.table_name,
            "new_table_name": self.new_table_name,
            "schema": self.schema,
        }

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call(str(self.new_table_name))

    def plain_operation(self) -> RenameTableOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        return RenameTableOp(self.table_name, self.new_table_name, schema=self.schema)

    def reverse(self) -> ZdRenameTableOp:
        """Return the renaming back."""
        return ZdRenameTableOp(self.new_table_name, self.table_name, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return ("rename_table", self.schema, self.table_name, self.new_table_name)


@Operations.register_operation("zd_drop_table")
class ZdDropTableOp(ZdTableOperation):
    """A table that goes; it stays, with its data, until the migration is completed."""

    directive: ClassVar[str] = "zd_drop_table"

    def __init__(
        self,
        table_name: str,
        *,
        down: FromTable | None = None,
        schema: str | None = None,
        _reverse: ZdCreateTableOp | None = None,
    ) -> None:
        super().__init__(table_name, schema=schema)
        check_row_source(self.directive, "down", down)
        self.down = down
        self._reverse = _reverse

    @classmethod
    def zd_drop_table(
        cls, operations: Operations, table_name: str, *, down: FromTable | None = None, schema: str | None = None
    ) -> None:
        """Drop a table without downtime; it goes when the migration is completed.

        :param table_name: name of the table.
        :param down: :func:`alembic_zero.from_table` with a mapping: until then the table is kept in step with
         what newer clients write to another one.
        :param schema: schema of the table.
        """
        operations.invoke(cls(table_name, down=down, schema=schema))

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call()

    def plain_operation(self) -> DropTableOp:
        """Return the ordinary operation, without ``up`` and ``down``."""
        created = None if self._reverse is None else self._reverse.plain_operation()
        return DropTableOp(self.table_name, schema=self.schema, _reverse=created)

    def reverse(self) -> ZdCreateTableOp:
        """Return the creation of the table.

        :raises ValueError: the table's definition is not known.
        """
        if self._reverse is None:
            raise ValueError("operation is not reversible; original table is not present")
        return self._reverse

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return self.plain_operation().to_diff_tuple()
