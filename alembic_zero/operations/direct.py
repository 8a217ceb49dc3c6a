"""The direct road: plain DDL, for a database that nobody is connected to.

Works online and with ``--sql``. The user's expressions go into the SQL unchanged: see :func:`run_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.operations.ops import AlterColumnOp, CreateCheckConstraintOp
from alembic.util.sqla_compat import _copy as copy_column
from sqlalchemy import Column, Computed, Constraint, Dialect, Identity, PrimaryKeyConstraint, Table, inspect
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.types import to_instance

from alembic_zero.operations.across import FromTable
from alembic_zero.operations.columns import ZdAddColumnOp, ZdAlterColumnOp
from alembic_zero.operations.constraints import ZdConstraintOperation, ZdDropConstraintOp, ZdRenameConstraintOp
from alembic_zero.operations.direct_keys import TAKE_BACK, ask_for_keys, let_go
from alembic_zero.operations.enums import ZdAlterEnumOp, ZdCreateEnumOp
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.tables import ZdCreateTableOp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alembic.operations import Operations
    from alembic.operations.ops import MigrateOperation

    from alembic_zero.operations.base import ZdOperation, ZdTableOperation
    from alembic_zero.operations.columns import Type

# Renders names and types. The connection's own dialect doubles each "%" for a driver that looks for
# parameters; our text is sent without any, and the named style leaves "%" alone.
_DIALECT: Dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]

# Checks now what a deferred constraint of the table would check at COMMIT, and defers it again.
# Until then its pending trigger events forbid every ALTER TABLE in the same transaction.
_CHECK_DEFERRED = """\
DO $zd$
DECLARE
    deferred record;
BEGIN
    FOR deferred IN
        SELECT DISTINCT n.nspname, c.conname
          FROM pg_catalog.pg_constraint AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
         WHERE c.condeferred AND {table}::pg_catalog.regclass IN (c.conrelid, c.confrelid)
         ORDER BY n.nspname, c.conname
    LOOP
        EXECUTE pg_catalog.format('SET CONSTRAINTS %I.%I IMMEDIATE', deferred.nspname, deferred.conname);
        EXECUTE pg_catalog.format('SET CONSTRAINTS %I.%I DEFERRED', deferred.nspname, deferred.conname);
    END LOOP;
END
$zd$"""


def run_directly(operations: Operations, operation: ZdOperation) -> Any:
    """Run *operation* as plain DDL, applying ``up`` in place.

    Rewrites or scans tables under ACCESS EXCLUSIVE wherever plain Alembic would.

    :return: what Alembic's own directive returns: a table for ``zd_create_table``, else None.
    """
    if isinstance(operation, ZdExecuteOp):
        for statement in (*operation.expand, *operation.contract):
            run_text(operations, statement)
        return None
    if isinstance(operation, ZdAddColumnOp) and operation.up is not None:
        return _add_column(operations, operation, operation.up)
    if isinstance(operation, ZdAlterColumnOp):
        return _alter_column(operations, operation)
    if isinstance(operation, ZdAlterEnumOp):
        return run_text(operations, operation.render_block())
    if isinstance(operation, ZdCreateEnumOp):
        note_created(operations, operation)
    if isinstance(operation, ZdRenameConstraintOp):
        return run_text(operations, operation.statement())
    (plain,) = operation.plain_operations()
    if isinstance(operation, ZdConstraintOperation) and operation.up is not None:
        return _change_constraint(operations, operation, plain)
    result = operations.invoke(plain)
    if isinstance(operation, ZdCreateTableOp) and operation.up is not None:
        _insert_rows(operations, operation, operation.up, result)
    return result


def note_created(operations: Operations, operation: ZdCreateEnumOp) -> None:
    """Keep SQLAlchemy from creating the enum once more with a table that has a column of it."""
    operations.migration_context.impl.memo.setdefault(f"pg_{ENUM.__visit_name__}", set()).add(
        (operation.schema, operation.name)
    )


def _change_constraint(operations: Operations, operation: ZdConstraintOperation, plain: MigrateOperation) -> None:
    """Convert the columns before the constraint is there, or once it is gone."""
    drops = isinstance(operation, ZdDropConstraintOp)
    columns = getattr(operation, "columns", None)
    if isinstance(operation.up, str) and columns is None:
        _fill_only_column(operations, operation, plain)
    else:
        ups, _ = operation.expressions(columns or tuple(operation.up or ()))
        if drops:
            operations.invoke(plain)
        _fill_columns(operations, operation, ups)
    if not drops:
        operations.invoke(plain)


# Only the server knows which column a CHECK, or a constraint that is dropped, is about.
_FILL_ONLY_COLUMN = """\
DO $zd$
DECLARE
    found text;
BEGIN
    {before}SELECT a.attname INTO STRICT found
      FROM pg_catalog.pg_constraint AS c
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
     WHERE c.conrelid = {literal}::pg_catalog.regclass AND c.conname = {name};
    ALTER TABLE {table} DROP CONSTRAINT {quoted};
    EXECUTE pg_catalog.concat({update}, pg_catalog.quote_ident(found), {value});
END
$zd$"""


def _fill_only_column(operations: Operations, operation: ZdConstraintOperation, plain: MigrateOperation) -> None:
    """Set the one column of the constraint to ``up``; a constraint that is to be dropped goes first."""
    table, name, before = _quote_table(operation.table_name, operation.schema), str(operation.constraint_name), ""
    if isinstance(plain, CreateCheckConstraintOp):
        name = "_zd_probe"
        constraint = plain.to_constraint(operations.migration_context)
        condition = constraint.sqltext.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})
        before = f"ALTER TABLE {table} ADD CONSTRAINT {_quote(name)} CHECK ({condition}) NOT VALID;\n    "
    text = _FILL_ONLY_COLUMN.format(
        before=before,
        literal=_literal(table),
        name=_literal(name),
        table=table,
        quoted=_quote(name),
        update=_literal(f"UPDATE {table} SET "),
        value=_literal(f" = ({_end_line(str(operation.up))})"),
    )
    run_text(operations, text)
    run_text(operations, _CHECK_DEFERRED.format(table=_literal(table)))


def _literal(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if chr(92) in value else f"'{quoted}'"


def run_text(operations: Operations, statement: str) -> None:
    """Execute *statement* character by character as it is, or write it to the ``--sql`` script.

    ``text()`` would read ``:x`` as a parameter, the driver ``%s``, and Alembic's script mode would
    replace tabs. An expression may hold any of these.
    """
    impl = operations.migration_context.impl
    if impl.as_sql:
        impl.static_output(_end_line(statement.strip()) + impl.command_terminator)
        return
    assert impl.connection is not None  # noqa: S101 - only scripts have none
    impl.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _add_column(operations: Operations, operation: ZdAddColumnOp, up: str | FromTable) -> None:
    """Add the column, fill it, and only then hold it to what it promises.

    A default would be written to every row for nothing, and clash with UNIQUE; a foreign key is
    cheaper to check once.
    """
    column = copy_column(operation.column)
    table = operations.schema_obj.table(operation.table_name, column, schema=operation.schema)
    if column.identity is None:
        column.nullable = True
        if isinstance(up, str):
            column.server_default = None
    operations.impl.add_column(operation.table_name, column, schema=operation.schema)
    _fill_column(operations, operation, operation.column_name, up)
    if column.identity is None:
        operations.invoke(_promises(operation))
    _add_belongings(operations, table, column)


def _promises(operation: ZdAddColumnOp) -> AlterColumnOp:
    """Return the operation that gives the filled column its default and NOT NULL, where it has them."""
    column = operation.column
    return AlterColumnOp(
        operation.table_name,
        operation.column_name,
        schema=operation.schema,
        existing_type=column.type,
        modify_nullable=None if column.nullable else False,
        modify_server_default=False if column.server_default is None else column.server_default,
    )


def _add_belongings(operations: Operations, table: Table, column: Column[Any]) -> None:
    """Add what Alembic's own ``add_column`` adds after the column: constraints, indexes, comment.

    Column CHECKs are part of ADD COLUMN itself.
    """
    for constraint in _real_constraints(table):
        operations.impl.add_constraint(constraint)
    for index in table.indexes:
        operations.impl.create_index(index)
    if column.comment is not None:
        operations.impl.create_column_comment(column)


def _alter_column(operations: Operations, operation: ZdAlterColumnOp) -> None:
    """Let go of what may not hold for the new values, convert them, then do the rest; rename last."""
    rest = operation.plain_operation()
    if isinstance(operation.up, FromTable) and operation.type_ is not None:
        raise RefusedError(
            f"{operation.describe()}: a database that is built from base takes no new type together with a value from "
            "another table: add a column with up= and drop the old one; nothing was changed by this operation",
            code="ZD114",
        )
    keys = _joins_keys(operations, operation)
    if keys:
        run_text(operations, let_go(*_literals(operation)))
    _loosen(operations, operation)
    if isinstance(operation.up, str) and operation.type_ is not None:
        _convert_column(operations, operation, operation.type_, operation.up)
        rest.existing_type, rest.modify_type = operation.type_, None
    elif operation.up is not None:
        _fill_column(operations, operation, operation.column_name, operation.up)
    if operation.nullable:
        rest.modify_nullable = None
    operations.invoke(rest)
    if keys:
        run_text(operations, TAKE_BACK)


def _joins_keys(operations: Operations, operation: ZdAlterColumnOp) -> bool:
    """Return whether foreign keys may stand in the way of new types or values; a script cannot look."""
    if operation.up is None and operation.type_ is None:
        return False
    impl = operations.migration_context.impl
    if impl.as_sql:
        return operation.up is not None
    table, column = _literals(operation)
    assert impl.connection is not None  # noqa: S101 - only scripts have none
    text = ask_for_keys(table, column)
    found = impl.connection.exec_driver_sql(text, execution_options={"no_parameters": True})
    return bool(found.scalar())


def _literals(operation: ZdAlterColumnOp) -> tuple[str, str]:
    """Return table and column as SQL literals."""
    return _literal(_quote_table(operation.table_name, operation.schema)), _literal(operation.column_name)


def _loosen(operations: Operations, operation: ZdAlterColumnOp) -> None:
    """Drop NOT NULL, and a default that is to be replaced, before values are converted.

    PostgreSQL converts a default with the type, and fails if there is no cast for it.
    """
    new, existing = operation.server_default, operation.existing_server_default
    plain = not any(isinstance(value, Identity | Computed) for value in (new, existing))
    drop_default = operation.type_ is not None and new is not False and plain
    if not (operation.nullable or drop_default):
        return
    operations.invoke(
        AlterColumnOp(
            operation.table_name,
            operation.column_name,
            schema=operation.schema,
            existing_type=operation.existing_type,
            modify_nullable=operation.nullable or None,
            modify_server_default=None if drop_default else False,
        )
    )


def _convert_column(operations: Operations, operation: ZdAlterColumnOp, type_: Type, up: str) -> None:
    """Change the column's type, with *up* as the USING expression.

    Constraints that come with a type (CHECK of an Enum that is not native) are exchanged, as
    Alembic's own ``alter_column`` does.
    """
    if operation.existing_type is not None:
        for constraint in _type_constraints(operations, operation, operation.existing_type):
            operations.impl.drop_constraint(constraint)
    rendered_type = _DIALECT.type_compiler_instance.process(to_instance(type_))
    table = _quote_table(operation.table_name, operation.schema)
    alter = f"ALTER TABLE {table} ALTER COLUMN {_quote(operation.column_name)}"
    run_text(operations, f"{alter} TYPE {rendered_type} USING ({_end_line(up)})")
    for constraint in _type_constraints(operations, operation, type_):
        operations.impl.add_constraint(constraint)


def _type_constraints(operations: Operations, operation: ZdAlterColumnOp, type_: Type) -> list[Constraint]:
    """Return the constraints that come with *type_*."""
    column: Column[Any] = Column(operation.column_name, type_)
    table = operations.schema_obj.table(operation.table_name, column, schema=operation.schema)
    return _real_constraints(table)


def _real_constraints(table: Table) -> list[Constraint]:
    """Return the constraints that PostgreSQL gets for *table*, without the primary key."""
    compiler = _DIALECT.statement_compiler(_DIALECT, None)

    def is_created(constraint: Constraint) -> bool:
        # SQLAlchemy's own rule, as Alembic asks it: an Enum that is native has no CHECK.
        rule = constraint._create_rule  # noqa: SLF001
        return not isinstance(constraint, PrimaryKeyConstraint) and (rule is None or rule(compiler))

    return [constraint for constraint in table.constraints if is_created(constraint)]


def _fill_column(operations: Operations, operation: ZdTableOperation, column_name: str, up: str | FromTable) -> None:
    """Set the column to *up* in every row.

    Every row is written: to spare those that would not change, the expression would run twice, and
    not every type has an operator to compare with. From another table, the rows that match one of its.
    """
    table = _quote_table(operation.table_name, operation.schema)
    condition = ""
    if isinstance(up, FromTable):
        rows = f"FROM {_source(up)} WHERE ({_end_line(str(up.where))})"
        up, condition = (
            f"SELECT {_end_line(str(up.values))} {rows} ORDER BY {_order(operations, up)} LIMIT 1",
            f" WHERE EXISTS (SELECT {rows})",
        )
    run_text(operations, f"UPDATE {table} SET {_quote(column_name)} = ({_end_line(up)}){condition}")
    run_text(operations, _CHECK_DEFERRED.format(table=_literal(table)))


def _fill_columns(operations: Operations, operation: ZdTableOperation, ups: Mapping[str, str]) -> None:
    """Set several columns in one statement: each expression sees the row as it was."""
    table = _quote_table(operation.table_name, operation.schema)
    assigned = ", ".join(f"{_quote(name)} = ({_end_line(up)})" for name, up in ups.items())
    run_text(operations, f"UPDATE {table} SET {assigned}")
    run_text(operations, _CHECK_DEFERRED.format(table=_literal(table)))


def _insert_rows(operations: Operations, operation: ZdCreateTableOp, up: FromTable, table: Table) -> None:
    """Make the new table's rows; a row without a key is none."""
    values = {} if isinstance(up.values, str) else up.values
    keys = [c.name for c in table.primary_key.columns if c.name in values]
    conditions = [f"({_end_line(values[key])}) IS NOT NULL" for key in keys]
    if up.where is not None:
        mapped = ", ".join(f"({_end_line(text)}) AS {_quote(column)}" for column, text in values.items())
        row = f"(SELECT {mapped}) AS {_quote(operation.table_name)}"
        conditions.append(
            f"EXISTS (SELECT FROM (SELECT) AS one CROSS JOIN LATERAL {row} WHERE ({_end_line(up.where)}))"
        )
    selected = ", ".join(f"({_end_line(text)})" for text in values.values())
    run_text(
        operations,
        f"INSERT INTO {_quote_table(operation.table_name, operation.schema)} ({', '.join(map(_quote, values))}) "
        f"OVERRIDING SYSTEM VALUE SELECT {selected} FROM {_source(up)}"
        f"{' WHERE ' if conditions else ''}{' AND '.join(conditions)} "
        f"ORDER BY {_order(operations, up)} ON CONFLICT DO NOTHING",
    )


def _source(said: FromTable) -> str:
    return f"{_quote_table(said.source, said.schema)} AS {_quote(said.source)}"


def _order(operations: Operations, said: FromTable) -> str:
    """Return what the source's rows are ordered by: its key, or where a script cannot know it, their age."""
    connection = operations.migration_context.connection
    keys = []
    if connection is not None:
        keys = inspect(connection).get_pk_constraint(said.source, said.schema)["constrained_columns"]
    return ", ".join(f"{_quote(said.source)}.{_quote(name)}" for name in keys or ["ctid"])


def _end_line(text: str) -> str:
    """Return *text* such that what follows it is not part of a ``--`` comment."""
    return f"{text}\n" if "--" in text.rpartition("\n")[2] else text


def _quote(name: str) -> str:
    return _DIALECT.identifier_preparer.quote(name)


def _quote_table(name: str, schema: str | None) -> str:
    if schema is None:
        return _quote(name)
    return f"{_DIALECT.identifier_preparer.quote_schema(schema)}.{_quote(name)}"
