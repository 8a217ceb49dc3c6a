"""Custom SQL: ``zd_execute``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from alembic.operations import Operations

from alembic_zero.operations.base import ZdOperation, read_statements, refuse_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.operations.ops import MigrateOperation

_SHOWN_CHARACTERS = 40


@Operations.register_operation("zd_execute")
class ZdExecuteOp(ZdOperation):
    """SQL of the user's own for each phase, as tuples of statements; each must bear being run twice."""

    directive: ClassVar[str] = "zd_execute"

    def __init__(
        self,
        *,
        expand: str | Sequence[str] | None = None,
        contract: str | Sequence[str] | None = None,
        rollback: str | Sequence[str] | None = None,
        _reverse: ZdExecuteOp | None = None,
    ) -> None:
        self._reverse = _reverse
        self.expand = read_statements(self.directive, "expand", expand)
        self.contract = read_statements(self.directive, "contract", contract)
        self.rollback = read_statements(self.directive, "rollback", rollback)
        if not (self.expand or self.contract or self.rollback):
            refuse_arguments(self.directive, "nothing to run: give expand=, contract= or rollback=")

    @classmethod
    def zd_execute(
        cls,
        operations: Operations,
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
        operations.invoke(cls(expand=expand, contract=contract, rollback=rollback))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call; a single statement as text."""
        phases = {"expand": self.expand, "contract": self.contract, "rollback": self.rollback}
        return {phase: _as_written(statements) for phase, statements in phases.items()}

    def reverse(self) -> ZdExecuteOp:
        """Return what undoes *expand* once nobody needs it: *rollback*, when the reverse migration is completed.

        :raises ValueError: *rollback* is missing, or *contract* has done what nothing undoes.
        """
        if self._reverse is not None:
            return self._reverse
        if self.contract or not self.rollback:
            raise ValueError("operation is not reversible; what undoes its statements is not known")
        return ZdExecuteOp(contract=self.rollback, _reverse=self)

    def describe(self) -> str:
        """Return the call in one line."""
        phases = (("expand", self.expand), ("contract", self.contract), ("rollback", self.rollback))
        shown = ", ".join(f"{phase}={_shorten(statements)!r}" for phase, statements in phases if statements)
        return f"{self.directive}({shown})"

    def plain_operations(self) -> list[MigrateOperation]:
        """Return nothing: what the statements do to the catalog is not known."""
        return []

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference as Alembic words it for ``alembic check``."""
        return ("execute", self.expand, self.contract, self.rollback)


def _as_written(statements: tuple[str, ...]) -> str | list[str] | None:
    if len(statements) == 1:
        return statements[0]
    return list(statements) or None


def _shorten(statements: tuple[str, ...]) -> str:
    """Return *statements* on one line, cut if need be."""
    line = " ".join("; ".join(statements).split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 3]}..."
