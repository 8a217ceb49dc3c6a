"""What ``zd-plan`` says first: every operation, with its steps and their locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.operations.enums import ZdDropEnumOp
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.plan.step import Kind, LockMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from alembic_zero.operations.base import ZdOperation
    from alembic_zero.plan.items import Item
    from alembic_zero.plan.step import Step


def outline(items: Sequence[Item], steps: Sequence[Step], positions: Mapping[int, Sequence[int]]) -> tuple[str, ...]:
    """Return the lines.

    :param steps: the plan of the expand phase.
    :param positions: by table, the items that change it; they have its steps in common.
    """
    lines: list[str] = []
    cause: ZdOperation | None = None
    for position, item in enumerate(items):
        if item.cause is None or item.cause is not cause:
            lines.append(item.describe_whole())
            tables = {table for table, found in positions.items() if position in found}
            lines += [f"  {line}" for line in _locks(item, [s for s in steps if _belongs(s, item, tables)], tables)]
        cause = item.cause
    return tuple(lines)


def _belongs(step: Step, item: Item, tables: set[int]) -> bool:
    return step.table in tables or (step.table is None and step.source == item.describe())


def _locks(item: Item, steps: Sequence[Step], tables: set[int]) -> Iterator[str]:
    for step in steps:
        if step.statements or step.kind != Kind.TRANSACTION:
            yield f"{step.name}: {step.lock_mode}, {step.cost}"
    if tables:
        yield f"zd-complete: {LockMode.ACCESS_EXCLUSIVE}, metadata only"
    elif isinstance(item.operation, ZdExecuteOp) and item.operation.contract:
        yield "zd-complete: locks as the statements take, cost unknown"
    elif isinstance(item.operation, ZdDropEnumOp):
        yield "zd-complete: no lock on a table, metadata only"
