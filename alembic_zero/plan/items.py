"""What a revision asked for, in order: our operations, and ordinary ones as captured SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.operations.rendering import render_line

if TYPE_CHECKING:
    from alembic_zero.operations.base import ZdOperation

#: Longer calls are abbreviated where they are only to be recognised.
_SHORT = 120


@dataclass(frozen=True)
class Ordinary:
    """A statement of an ordinary ``op.*`` call.

    :param kind: ``create_table``, ``add_column``, ... or ``sql`` for text and DML.
    :param inverse: statements that take it back, empty if nothing does.
    :param index: schema and name of an index that is built concurrently.
    :param created: its table is created by the same upgrade.
    :param references: schema and name of tables that a new one references.
    :param blocking: why live clients would suffer, and what to call instead; None if they do not.
    """

    kind: str
    text: str
    schema: str | None = None
    table: str | None = None
    inverse: tuple[str, ...] = ()
    autocommit: bool = False
    blocking: str | None = None
    index: tuple[str | None, str] | None = None
    created: bool = False
    references: tuple[tuple[str | None, str], ...] = ()

    def describe(self) -> str:
        """Return the statement in one line."""
        line = " ".join(self.text.split())
        return line if len(line) <= 100 else f"{line[:97]}..."


@dataclass(frozen=True)
class Item:
    """One operation with the revision that asked for it.

    :param adopted: it was an ordinary directive that in flight is the same as one of ours.
    :param cause: the operation of ours for which this statement stands.
    """

    revision: str
    operation: ZdOperation | Ordinary
    adopted: bool = False
    cause: ZdOperation | None = None

    def describe(self) -> str:
        """Return revision and operation in one line; the whole call if it is short."""
        return f"revision {self.revision!r}, {self._describe(_SHORT)}"

    def describe_whole(self) -> str:
        """Return revision and operation in one line, however long."""
        return f"revision {self.revision!r}, {self._describe(None)}"

    def _describe(self, limit: int | None) -> str:
        operation = self.cause or self.operation
        return operation.describe() if isinstance(operation, Ordinary) else describe_operation(operation, limit)


def describe_operation(operation: ZdOperation, limit: int | None = _SHORT) -> str:
    """Return the call of an operation on one line; abbreviated if it is longer than *limit*."""
    try:
        call = render_line(operation)
    except Exception:  # noqa: BLE001 - a type of the user's may raise anything, and this is called for error messages
        return operation.describe()
    return call if limit is None or len(call) <= limit else operation.describe()
