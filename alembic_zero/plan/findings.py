"""Findings: what speaks against a migration, or should be known before it; found before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from alembic_zero.operations.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


HOLD, IGNORE = "hold", "ignore"
"""What to do about publications: keep what a table in flight has more from subscribers, or leave them alone."""


@dataclass(frozen=True)
class PreflightOptions:
    """What is looked at before the first change.

    :param publications: ``hold`` or ``ignore``.
    :param sample_rows: how many rows of a table expressions are tried on; 0 for none.
    :param free_disk: bytes that the database's disk has left, or what finds that out; None if nobody can tell.
    """

    publications: str = HOLD
    sample_rows: int = 1000
    free_disk: int | Callable[[], int] | None = None


class Severity(StrEnum):
    """*ERROR* refuses, *WARNING* is printed by upgrade and zd-plan, *NOTE* by zd-plan alone."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One finding.

    :param table: the qualified table that it is about, None for the whole database.
    :param message: what was found.
    :param advice: what to do about it; empty if *message* says that, too.
    :param cause: the error that says it all, where the finding is one.
    """

    severity: Severity
    code: str
    table: str | None
    message: str
    advice: str = ""
    cause: RefusedError | None = None

    @classmethod
    def of_error(cls, error: RefusedError) -> Finding:
        """Return an error that was found together with others."""
        message = error.message.replace("; nothing was changed", "")
        return cls(Severity.ERROR, error.code, error.table, message, cause=error)

    @property
    def text(self) -> str:
        """Table, message and advice in one line."""
        where = f"table {self.table}: " if self.table and self.cause is None else ""
        return f"{where}{self.message}" + (f": {self.advice}" if self.advice else "")

    def render(self) -> str:
        """Return the finding as one line for a person."""
        return f"{self.severity} {self.code}: {self.text}"


def check_findings(findings: Sequence[Finding], revision: str) -> None:
    """Refuse if one of the findings is an error.

    :raises RefusedError: names all errors at once, and the warnings after them; the code is the first one's.
    """
    errors = [one for one in findings if one.severity == Severity.ERROR]
    if not errors:
        return
    first, *more = errors
    if not more and first.cause is not None:
        raise first.cause
    if not more:
        where = f", table {first.table}" if first.table else ""
        raise RefusedError(
            f"revision {revision!r}{where}: {first.message}; nothing was changed"
            f"{f': {first.advice}' if first.advice else ''}",
            code=first.code,
            revision=revision,
            table=first.table,
        )
    warnings = [one for one in findings if one.severity == Severity.WARNING]
    listed = "".join(f"\n  {one.render()}" for one in (*errors, *warnings))
    raise RefusedError(
        f"revision {revision!r}: {len(errors)} things are in the way; nothing was changed:{listed}",
        code=first.code,
        revision=revision,
        table=first.table,
    )


def readable(size: int) -> str:
    """Return a number of bytes in a unit that a person can compare."""
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1024:,.0f} kB"
