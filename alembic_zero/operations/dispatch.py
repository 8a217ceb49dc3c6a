"""What Alembic's own ``Operations`` does with our operations.

While a migration runs beside live clients, a recorder takes the operations before they get here.
So this is the direct road, or an env.py that does not know us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.operations import Operations

from alembic_zero.operations.columns import ZdAddColumnOp, ZdAlterColumnOp, ZdDropColumnOp
from alembic_zero.operations.constraints import (
    ZdCreateCheckConstraintOp,
    ZdCreateExcludeConstraintOp,
    ZdCreateForeignKeyOp,
    ZdCreatePrimaryKeyOp,
    ZdCreateUniqueConstraintOp,
    ZdDropConstraintOp,
    ZdRenameConstraintOp,
)
from alembic_zero.operations.enums import ZdAlterEnumOp, ZdCreateEnumOp, ZdDropEnumOp
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.indexes import ZdCreateIndexOp, ZdDropIndexOp
from alembic_zero.operations.tables import ZdCreateTableOp, ZdDropTableOp, ZdRenameTableOp

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from alembic_zero.operations.base import ZdOperation

OPERATION_CLASSES: tuple[type[ZdOperation], ...] = (
    ZdAddColumnOp,
    ZdAlterColumnOp,
    ZdDropColumnOp,
    ZdCreateTableOp,
    ZdRenameTableOp,
    ZdDropTableOp,
    ZdCreateEnumOp,
    ZdAlterEnumOp,
    ZdDropEnumOp,
    ZdExecuteOp,
    ZdCreateIndexOp,
    ZdDropIndexOp,
    ZdCreateForeignKeyOp,
    ZdCreateCheckConstraintOp,
    ZdCreateUniqueConstraintOp,
    ZdCreatePrimaryKeyOp,
    ZdCreateExcludeConstraintOp,
    ZdDropConstraintOp,
    ZdRenameConstraintOp,
)


def run_operation(operations: Operations, operation: ZdOperation) -> Any:
    """Run *operation* directly.

    :return: what Alembic's own directive returns: a table for ``zd_create_table``, else None.
    :raises RefusedError: code ZD102, env.py did not call ``alembic_zero.configure``.
    """
    context = operations.migration_context
    check_configured(context.opts, operation.describe())
    check_direct(context, operation.describe())
    # Imported here because this module is imported during "import alembic", which it must not slow down.
    from alembic_zero.operations.direct import run_directly

    return run_directly(operations, operation)


def check_configured(options: dict[str, Any], what: str) -> None:
    """Refuse *what* if the migration context with *options* was not set up by ``alembic_zero.configure``.

    :raises RefusedError: code ZD102.
    """
    if not options.get("alembic_zero"):
        raise RefusedError(
            f"{what}: env.py does not call alembic_zero.configure(context, ...) in place of "
            "context.configure(...); nothing was changed",
            code="ZD102",
        )


def check_direct(context: MigrationContext, what: str) -> None:
    """Refuse plain DDL for one of our operations on a database that may have clients.

    :raises RefusedError: code ZD112, the run does not start from base.
    """
    if context.as_sql:
        if context.get_current_heads():
            raise RefusedError(
                f"{what}: without a database there is no catalog to plan from; --sql works from base only; "
                "nothing was written for this revision",
                code="ZD113",
            )
    elif not context.opts["alembic_zero"].direct:
        raise RefusedError(
            f"{what}: env.py's connection is in autocommit mode, in which a version cannot be published together "
            "with alembic_version; nothing was changed by this operation",
            code="ZD112",
        )


for _operation_class in OPERATION_CLASSES:
    Operations.implementation_for(_operation_class)(run_operation)
