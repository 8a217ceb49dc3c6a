"""The operations of a migration, with types: ``from alembic_zero import op``.

``alembic.op`` gets ``zd_*`` at run time, so no type checker knows them. This module has them with
their signatures, and everything of ``alembic.op`` besides: one import line in a revision is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from alembic import op as _alembic_op

# Registers the operations, should the plugin's entry point be missing.
import alembic_zero.operations  # noqa: F401
from alembic_zero.autogenerate import render as _render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic.op import *  # noqa: F403 - the stub is what a type checker is to see here
    from sqlalchemy import Column, Table
    from sqlalchemy.schema import SchemaItem

    from alembic_zero.operations.across import FromTable
    from alembic_zero.operations.columns import ServerDefault, Type
    from alembic_zero.operations.irreversible import Irreversible
else:

    def __getattr__(name: str) -> Any:
        """Return attribute *name* of ``alembic.op``, which changes as migrations begin and end."""
        return getattr(_alembic_op, name)


_render.register()


def _invoke(directive: str, *args: Any, **kw: Any) -> Any:
    """Call *directive* on the operations of the migration that is running."""
    return getattr(_alembic_op, directive)(*args, **kw)


def zd_add_column(
    table_name: str, column: Column[Any], *, up: str | FromTable | None = None, schema: str | None = None
) -> None:
    """Add a column without downtime.

    :param table_name: name of the table.
    :param column: the column, as for ``op.add_column``.
    :param up: SQL expression over the other columns that gives the value for rows that exist,
     and for rows that clients of the revision before write; or :func:`alembic_zero.from_table`.
    :param schema: schema of the table.
    """
    _invoke("zd_add_column", table_name, column, up=up, schema=schema)


def zd_alter_column(
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
    _invoke(
        "zd_alter_column",
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


def zd_drop_column(
    table_name: str, column_name: str, *, down: str | FromTable | Irreversible | None = None, schema: str | None = None
) -> None:
    """Drop a column without downtime.

    :param table_name: name of the table.
    :param column_name: name of the column.
    :param down: SQL expression over the other columns that gives clients of the revision before
     the column's value in rows that newer clients write; or :func:`alembic_zero.from_table`;
     ``alembic_zero.IRREVERSIBLE`` if there is none.
    :param schema: schema of the table.
    """
    _invoke("zd_drop_column", table_name, column_name, down=down, schema=schema)


def zd_create_table(
    table_name: str, *columns: SchemaItem, up: FromTable | None = None, schema: str | None = None, **kw: Any
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
    table: Table = _invoke("zd_create_table", table_name, *columns, up=up, schema=schema, **kw)
    return table


def zd_rename_table(old_table_name: str, new_table_name: str, *, schema: str | None = None) -> None:
    """Rename a table without downtime; each version keeps its name for it.

    :param old_table_name: name before.
    :param new_table_name: name after.
    :param schema: schema of the table.
    """
    _invoke("zd_rename_table", old_table_name, new_table_name, schema=schema)


def zd_drop_table(table_name: str, *, down: FromTable | None = None, schema: str | None = None) -> None:
    """Drop a table without downtime; it goes when the migration is completed.

    :param table_name: name of the table.
    :param down: :func:`alembic_zero.from_table` with a mapping: until then the table is kept in step with
     what newer clients write to another one.
    :param schema: schema of the table.
    """
    _invoke("zd_drop_table", table_name, down=down, schema=schema)


def zd_create_enum(name: str, *values: str | Sequence[str], schema: str | None = None) -> None:
    r"""Create an enum type.

    :param name: name of the enum.
    :param \*values: its labels in their order, or one sequence of them.
    :param schema: schema of the enum.
    """
    _invoke("zd_create_enum", name, *values, schema=schema)


def zd_alter_enum(
    name: str,
    values: Sequence[str],
    *,
    up: Mapping[str, str | None] | None = None,
    down: Mapping[str, str | None] | None = None,
    existing_values: Sequence[str] | None = None,
    schema: str | None = None,
) -> None:
    """Add, rename, remove or reorder the labels of an enum without downtime.

    :param name: name of the enum.
    :param values: all labels that it is to have, in their order.
    :param up: what former labels become: labels among *values*, or None for NULL. Those that stay
     may be left out.
    :param down: what clients of the revision before read for new labels: former labels, or None for
     NULL. Labels that stay, and those that a single former one becomes, may be left out.
    :param existing_values: the former labels, should the operation have to be reversed.
    :param schema: schema of the enum.
    """
    _invoke("zd_alter_enum", name, values, up=up, down=down, existing_values=existing_values, schema=schema)


def zd_drop_enum(name: str, *, existing_values: Sequence[str] | None = None, schema: str | None = None) -> None:
    """Drop an enum type; it stays for old clients until the migration is completed.

    :param name: name of the enum.
    :param existing_values: its labels, should the operation have to be reversed.
    :param schema: schema of the enum.
    """
    _invoke("zd_drop_enum", name, existing_values=existing_values, schema=schema)


def zd_execute(
    *,
    expand: str | Sequence[str] | None = None,
    contract: str | Sequence[str] | None = None,
    rollback: str | Sequence[str] | None = None,
) -> None:
    """Run SQL of your own in the phases of a migration.

    Each argument is one statement or several, and each statement must bear being run twice.

    :param expand: runs with ``alembic upgrade``, before the new version is published.
    :param contract: runs with ``alembic zd-complete``.
    :param rollback: runs when the migration is rolled back, to undo *expand*.
    """
    _invoke("zd_execute", expand=expand, contract=contract, rollback=rollback)
