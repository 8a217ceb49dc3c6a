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
    from sqlalchemy.sql.elements import ColumnElement, TextClause

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


def zd_create_index(
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
    _invoke(
        "zd_create_index",
        index_name,
        table_name,
        columns,
        schema=schema,
        unique=unique,
        if_not_exists=if_not_exists,
        **kw,
    )


def zd_drop_index(
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
    _invoke(
        "zd_drop_index",
        index_name,
        table_name,
        schema=schema,
        if_exists=if_exists,
        **kw,
    )


def zd_create_foreign_key(
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
    _invoke(
        "zd_create_foreign_key",
        constraint_name,
        source_table,
        referent_table,
        local_cols,
        remote_cols,
        onupdate=onupdate,
        ondelete=ondelete,
        deferrable=deferrable,
        initially=initially,
        match=match,
        source_schema=source_schema,
        referent_schema=referent_schema,
        up=up,
        down=down,
        **dialect_kw,
    )


def zd_create_check_constraint(
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
    _invoke(
        "zd_create_check_constraint",
        constraint_name,
        table_name,
        condition,
        schema=schema,
        up=up,
        down=down,
        **kw,
    )


def zd_create_unique_constraint(
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
    _invoke(
        "zd_create_unique_constraint",
        constraint_name,
        table_name,
        columns,
        schema=schema,
        up=up,
        down=down,
        **kw,
    )


def zd_create_primary_key(
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
    _invoke(
        "zd_create_primary_key",
        constraint_name,
        table_name,
        columns,
        schema=schema,
        up=up,
        down=down,
    )


def zd_create_exclude_constraint(
    constraint_name: str | None,
    table_name: str,
    *elements: Any,
    **kw: Any,
) -> None:
    r"""Create an EXCLUDE constraint on an empty table; on one with rows it is refused.

    :param constraint_name: name of the constraint, None for PostgreSQL's or the naming convention's own.
    :param table_name: name of the table.
    :param \*elements: pairs of column and operator, as for ``op.create_exclude_constraint``.
    :param \**kw: all else that ``op.create_exclude_constraint`` takes: ``where``, ``using``, ``schema``, ...
    """
    _invoke(
        "zd_create_exclude_constraint",
        constraint_name,
        table_name,
        *elements,
        **kw,
    )


def zd_drop_constraint(
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
    _invoke(
        "zd_drop_constraint",
        constraint_name,
        table_name,
        type_,
        schema=schema,
        if_exists=if_exists,
        up=up,
        down=down,
    )


def zd_rename_constraint(
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
    _invoke(
        "zd_rename_constraint",
        constraint_name,
        table_name,
        new_constraint_name,
        schema=schema,
    )
