"""What a comparison of rows comes to, as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

INCONSISTENT, FORBIDDEN, MISSING, LEFT_BEHIND = "inconsistent", "forbidden", "missing", "left behind"

Leaf = tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """A column whose value is not what follows from the other version's.

    :param revision: the version that the column belongs to; None for the one before the first in flight.
    :param derived: what it should be; None for SQL's NULL, or with *error*.
    """

    column: str
    revision: str | None
    stored: str | None
    derived: str | None
    error: str | None = None


@dataclass(frozen=True)
class Discrepancy:
    """One row with which something is wrong.

    :param kind: ``quarantined``, ``not synchronised``, ``inconsistent``, ``forbidden``, ``missing`` or
     ``left behind``.
    :param revision: the revision whose expressions say so.
    :param place: where the row was: the table that holds it, and its ctid.
    """

    kind: str
    table: str
    key: str
    revision: str | None = None
    differences: tuple[Difference, ...] = ()
    error: str | None = None
    place: tuple[Leaf, str] | None = None


@dataclass(frozen=True)
class Unchecked:
    """A column of which clients may have made something else than follows, so that nothing tells a fault."""

    table: str
    column: str
    revision: str
    reason: str


@dataclass
class Verification:
    """What a comparison has come to.

    :param counts: how many rows were found, by table and kind; *discrepancies* has the first of each.
    """

    discrepancies: list[Discrepancy] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    unchecked: list[Unchecked] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    repaired: int = 0

    @property
    def total(self) -> int:
        """How many rows were found."""
        return self.counts.total()


@dataclass(frozen=True)
class Suspect:
    """A row with which something is wrong: where it is, what its marker says, which checks it fails."""

    leaf: Leaf
    tid: str
    state: str | None
    failed: tuple[int, ...] = ()
