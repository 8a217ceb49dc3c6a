"""Steps: what is to be done, as plain data that the journal keeps and ``zd-plan`` prints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from alembic_zero.plain import PlainData


class Kind(StrEnum):
    """How the executor runs a step.

    *TRANSACTION*: locks first, then all statements, in one transaction that is retried whole.
    *AUTOCOMMIT*: each statement by itself, without lock_timeout; safe to repeat.
    *INDEX*: CREATE INDEX CONCURRENTLY; an invalid left-over is dropped first.
    *BACKFILL*: the table's rows, block range by block range.
    *FILL*: rows of other tables that links make of the table's rows, block range by block range.
    *FULFILLED*: wait until no row of the table is left to do; rows that cannot be derived refuse.
    """

    TRANSACTION = "transaction"
    AUTOCOMMIT = "autocommit"
    INDEX = "index"
    BACKFILL = "backfill"
    FILL = "fill"
    FULFILLED = "fulfilled"


class LockMode(StrEnum):
    """Lock modes as PostgreSQL's manual spells them."""

    ACCESS_SHARE = "ACCESS SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"


@dataclass(frozen=True)
class Lock(PlainData):
    """A lock that a step takes up front; *relation* is SQL text, *oid* lets us name blockers."""

    relation: str
    mode: str
    oid: int | None = None
    view: bool = False


@dataclass(frozen=True)
class Step(PlainData):
    """One step of a phase.

    :param source: the operation that it comes from, for people.
    :param table: the table's oid, for the kinds that work on rows.
    :param index: schema and name of the index that an INDEX step builds.
    :param inverse: statements that take the step back.
    :param state: the table's flight, as JSON, once this step is committed; empty if it ends, None
     for no change.
    :param link: name of the link along which a FILL step makes rows.
    :param states: the same for further tables of the step, by flight.
    :param forward_only: once it is done there is no way back.
    :param is_text: it is SQL text of the revision's own, which only the revision's opposite function can undo.
    """

    name: str
    kind: str
    source: str
    statements: tuple[str, ...] = ()
    locks: tuple[Lock, ...] = ()
    lock_mode: str = LockMode.ACCESS_SHARE
    cost: str = "metadata only"
    table: int | None = None
    index: tuple[str, str] | None = None
    inverse: tuple[str, ...] = ()
    state: str | None = None
    states: tuple[tuple[int, str], ...] = ()
    link: str | None = None
    forward_only: bool = False
    is_text: bool = False

    def digest(self) -> str:
        """Return a digest of what the step does."""
        text = "\x00".join([self.kind, *self.statements])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan(PlainData):
    """The steps of one phase, in order."""

    phase: str
    steps: tuple[Step, ...]

    def digest(self) -> str:
        """Return a digest of all steps."""
        return hashlib.sha256("".join(s.name + s.digest() for s in self.steps).encode()).hexdigest()[:16]
