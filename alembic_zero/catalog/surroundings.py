"""Plain data about what surrounds a migration: the server, its sessions, its disk, its subscribers."""

from __future__ import annotations

from dataclasses import dataclass

from alembic_zero.plain import PlainData


@dataclass(frozen=True)
class Publication(PlainData):
    """How a publication carries a table.

    *scope* is ``table`` if it names the table, ``partition`` if it names one of its partitions, ``schema`` or ``all``.
    *columns* and *condition* are its column list and row filter, which reads *condition_columns*.
    *owned*: the migrating role may change it. *sends_old_rows*: it publishes UPDATE or DELETE, for which
    the table needs a replica identity. *via_root*: partitions are published as the table that they
    belong to. *generated*: so are stored generated columns.
    """

    name: str
    scope: str
    columns: tuple[str, ...] | None
    condition: str | None
    condition_columns: tuple[str, ...]
    owned: bool
    sends_old_rows: bool
    via_root: bool
    generated: bool


@dataclass(frozen=True)
class Health(PlainData):
    """What a migration of a table has to know of it beyond its shape.

    *attributes* counts column slots, those of dropped columns too. *owned* and *may_create* say whether the
    migrating role owns the table (and its partitions) and may create in its schema. *leftovers* are columns and
    triggers that look like ours.
    """

    attributes: int
    owned: bool
    may_create: bool
    rows: int
    heap: int
    indexes: int
    index_count: int
    frozen_age: int
    freeze_max_age: int
    invalid_indexes: tuple[str, ...] = ()
    not_valid: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rights(PlainData):
    """What the migrating role may do in the database; *foreign_versions* are version schemas that it does not own."""

    database: str
    role: str
    may_create_schemas: bool
    may_create_temporary: bool
    may_create_functions: bool
    foreign_versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot(PlainData):
    """A replication slot; *retained* is how many bytes of WAL it holds."""

    name: str
    type: str
    active: bool
    wal_status: str
    retained: int


@dataclass(frozen=True)
class WalLimits(PlainData):
    """How many bytes of WAL may be kept: for slots (None: without limit), and between checkpoints."""

    slots: int | None
    checkpoints: int


@dataclass(frozen=True)
class Transaction(PlainData):
    """A transaction that others wait for: of a session, or *prepared* under this name."""

    pid: int | None
    prepared: str | None
    application: str
    state: str
    seconds: int

    def describe(self) -> str:
        """Return who it is, for a person."""
        if self.prepared is not None:
            return f"prepared transaction {self.prepared!r} of {self.application}, {self.seconds} s old"
        return f"pid {self.pid} ({self.application or 'no application_name'}, {self.state}, {self.seconds} s old)"
