"""What a revision asked for, in order: our operations, and ordinary ones as captured SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic_zero.operations.base import ZdOperation


@dataclass(frozen=True)
class Ordinary:
    """A statement of an ordinary ``op.*`` call.

    :param kind: ``create_table``, ``add_column``, ... or ``sql`` for text and DML.
    :param inverse: statements that take it back, empty if nothing does.
    :param index: schema and name of an index that is built concurrently.
    :param created: its table is created by the same upgrade.
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

    def describe(self) -> str:
        """Return the statement in one line."""
        line = " ".join(self.text.split())
        return line if len(line) <= 100 else f"{line[:97]}..."


@dataclass(frozen=True)
class Item:
    """One operation with the revision that asked for it.

    :param adopted: it was an ordinary directive that in flight is the same as one of ours.
    """

    revision: str
    operation: ZdOperation | Ordinary
    adopted: bool = False

    def describe(self) -> str:
        """Return revision and operation in one line."""
        return f"revision {self.revision!r}, {self.operation.describe()}"
