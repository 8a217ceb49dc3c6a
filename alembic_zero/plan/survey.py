"""Findings from what surrounds a plan: rights, sizes, sessions, slots, and what others have left half done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.plan.findings import Finding, Severity, readable
from alembic_zero.plan.publishing import new_columns
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.catalog.snapshot import TableFacts, Trigger
    from alembic_zero.catalog.surroundings import Health, Rights, Slot, Transaction, WalLimits
    from alembic_zero.lens.lens import Flight

_SLOTS_OF_A_TABLE = 1_600
_FEW_SLOTS = 100
_LARGE = 1 << 30
# An anti-wraparound vacuum, which does not give way, begins at the setting itself.
_NEARLY = 0.9

# Measured by bench/backfill.py, with the VACUUM between ranges: the heap to 1.15 times its size, the WAL to
# 1.15 times that of one UPDATE. What an UPDATE writes for a row and for each index entry beyond their own bytes.
_HEAP_GROWTH, _WAL_FACTOR = 0.15, 1.15
_ROW_OVERHEAD, _ENTRY_BYTES = 80, 90
_WIDTHS = {"boolean": 1, "smallint": 2, "integer": 4, "bigint": 8, "real": 4, "double precision": 8, "uuid": 16}
_USUAL_WIDTH = 16


# -- rights -----------------------------------------------------------------------------------------


def find_rights(rights: Rights) -> Iterator[Finding]:
    """Yield a finding for each right that every migration needs, and the role has not."""
    if not rights.may_create_schemas:
        yield _missing(None, f"GRANT CREATE ON DATABASE {ident(rights.database)} TO {ident(rights.role)}")
    if not rights.may_create_functions:
        yield _missing(None, f'GRANT CREATE ON SCHEMA "alembic_zero" TO {ident(rights.role)}')


def find_versions_of_others(rights: Rights, versions: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding for each of the project's version schemas that the role cannot replace."""
    for schema in versions:
        if schema in rights.foreign_versions:
            yield _missing(None, f"ALTER SCHEMA {ident(schema)} OWNER TO {ident(rights.role)}, and its views likewise")


def find_path_writers(schema: str, roles: str) -> Finding:
    """Return the finding that others could put something in the way of names that the migration looks up."""
    return Finding(
        Severity.WARNING,
        "ZD410",
        None,
        f"{roles} may create functions and operators in schema {schema}, on the migration's search_path: they could "
        "run with the migration's rights",
        f"REVOKE CREATE ON SCHEMA {ident(schema)} FROM {roles}, or take it off the search_path of env.py's connection",
    )


def find_view_owner(schema: str, name: str, owner: str, rights: Rights) -> Finding:
    """Return the finding that a view over a table cannot be given to the table's owner, whose rights it must have."""
    return Finding(
        Severity.ERROR,
        "ZD219",
        f"{schema}.{name}",
        f"views over it must have the rights of its owner {owner!r} (PostgreSQL 14, or privileges on single columns), "
        f"and role {rights.role!r} cannot give them away",
        f"migrate as {owner!r} (SET ROLE in env.py does), or ALTER TABLE ... OWNER TO {ident(rights.role)}",
    )


def find_client_rights(table: str, rows: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Yield a finding for each role that writes to a table and may not execute what its expressions call.

    :param rows: function and role.
    """
    for function, role in rows:
        name = "PUBLIC" if role == "public" else ident(role)
        yield Finding(
            Severity.ERROR,
            "ZD219",
            table,
            f"up= or down= calls function {function}, which role {role!r} may not execute: what it writes would fail, "
            "or be quarantined",
            f"GRANT EXECUTE ON FUNCTION {function} TO {name}",
        )


def find_table_rights(facts: TableFacts, health: Health) -> Iterator[Finding]:
    """Yield a finding for each right on a table, or its schema, that a later step needs."""
    table = f"{facts.schema}.{facts.name}"
    if not health.owned:
        yield _missing(
            table, f"GRANT {ident(facts.owner)} TO {ident(facts.role)} (the table, or a partition, is not its)"
        )
    if not health.may_create:
        yield _missing(table, f"GRANT CREATE ON SCHEMA {ident(facts.schema)} TO {ident(facts.role)}")


def find_reference_rights(facts: TableFacts, referenced: str) -> Finding:
    """Return the finding that a new foreign key may not reference a table."""
    return _missing(f"{facts.schema}.{facts.name}", f"GRANT REFERENCES, UPDATE ON {referenced} TO {ident(facts.role)}")


def _missing(table: str | None, grant: str) -> Finding:
    return Finding(Severity.ERROR, "ZD219", table, "the migrating role lacks a right that a later step needs", grant)


# -- the table --------------------------------------------------------------------------------------


def find_slots_left(flight: Flight, facts: TableFacts, health: Health) -> Iterator[Finding]:
    """Yield a finding if the table has too few, or only a few, slots for columns."""
    added = len(new_columns(flight))
    left = _SLOTS_OF_A_TABLE - health.attributes - added
    if added and left < _FEW_SLOTS:
        yield Finding(
            Severity.ERROR if left < 0 else Severity.WARNING,
            "ZD201" if left < 0 else "ZD405",
            f"{facts.schema}.{facts.name}",
            f"{health.attributes:,} of {_SLOTS_OF_A_TABLE:,} column slots are used, by dropped columns too, and the "
            f"migration needs {added}",
            "copy the table into a new one: only that gives them back",
        )


def find_leftovers(flight: Flight, facts: TableFacts, health: Health) -> Iterator[Finding]:
    """Yield a finding if a table that the journal does not know carries something of ours."""
    if health.leftovers and len(flight.levels) == 1:
        yield Finding(
            Severity.ERROR,
            "ZD223",
            f"{facts.schema}.{facts.name}",
            f"it has {', '.join(health.leftovers)}, which the journal knows nothing of: a dump of part of a database "
            "in flight, or a lost schema alembic_zero",
            "restore the journal, too; or, once the columns that clients need hold what they must, drop these",
        )


def find_half_done(flight: Flight, facts: TableFacts, health: Health) -> Iterator[Finding]:
    """Yield findings about indexes and constraints that are there and do not hold."""
    table = f"{facts.schema}.{facts.name}"
    for name in health.invalid_indexes:
        yield Finding(
            Severity.WARNING,
            "ZD405",
            table,
            f"index {name!r} is invalid: a concurrent build of it failed, or still runs",
            f"DROP INDEX CONCURRENTLY {ident(facts.schema, name)}",
        )
    ours = {c.physical for level in flight.levels for c in level.checks}
    ours |= {f.physical for level in flight.levels for f in level.foreign_keys}
    ours |= {n.helper_name for level in flight.levels for n in level.not_nulls}
    for name in health.not_valid:
        if name not in ours:
            yield Finding(
                Severity.WARNING,
                "ZD405",
                table,
                f"constraint {name!r} is NOT VALID: rows that exist may break it, and a copy of its columns would not "
                "let them pass",
                f"ALTER TABLE {ident(facts.schema, facts.name)} VALIDATE CONSTRAINT {ident(name)}",
            )


def find_wraparound(facts: TableFacts, health: Health) -> Iterator[Finding]:
    """Yield a finding if a vacuum that gives way to nobody is near."""
    if health.frozen_age > _NEARLY * health.freeze_max_age:
        yield Finding(
            Severity.WARNING,
            "ZD406",
            f"{facts.schema}.{facts.name}",
            f"its oldest transaction id is {health.frozen_age:,} transactions old: a vacuum against wraparound is due, "
            "and gives way to no lock of ours",
            f"VACUUM (FREEZE) {ident(facts.schema, facts.name)}",
        )


def find_reading_triggers(flight: Flight, facts: TableFacts) -> Iterator[Finding]:
    """Yield a finding for each trigger whose function names a column that goes, or gets another name."""
    number = len(flight.levels)
    after = {column.name for column, _ in flight.columns_at(number)}
    gone = {str(cell.physical) for _, cell in flight.columns_at(number - 1)} - after
    for trigger in facts.triggers:
        read = sorted(c for c in gone if _uses(trigger, c))
        if read:
            yield Finding(
                Severity.WARNING,
                "ZD407",
                f"{facts.schema}.{facts.name}",
                f"trigger {trigger.name!r} uses column {', '.join(map(repr, read))}, which goes with zd-complete: "
                "what it does would fail then, and with it every write that fires it",
                f"change function {trigger.function!r} before, or in zd_execute(contract=)",
            )


def _uses(trigger: Trigger, column: str) -> bool:
    return re.search(rf'\b(?:NEW|OLD)\s*\.\s*"?{re.escape(column)}\b', trigger.body, re.IGNORECASE) is not None


# -- disk and WAL -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """What a backfill is estimated to take, in bytes: files of the table at best and at worst, and WAL."""

    least: int
    most: int
    wal: int


def estimate_growth(flight: Flight, health: Health) -> Growth:
    """Return what filling the newest level's columns will take.

    At worst a long transaction keeps VACUUM from every old row, so that table and indexes double.
    """
    level = flight.levels[-1]
    if not level.ups:
        return Growth(0, 0, 0)
    cells = [flight.cell(c) for c in flight.derived(len(flight.levels))]
    width = 4 + sum(_WIDTHS.get(cell.type, _USUAL_WIDTH) for cell in cells)
    added = health.rows * width
    built = len(level.indexes) * health.rows * (_USUAL_WIDTH + width)
    entries = health.rows * health.index_count * _ENTRY_BYTES
    rewritten = health.heap + added + health.rows * _ROW_OVERHEAD + entries
    return Growth(
        # The VACUUM between ranges leaves indexes alone.
        least=int(health.heap * _HEAP_GROWTH + health.indexes + added + built),
        most=int(health.heap + health.indexes + added + built),
        # Full-page images: every page once, at worst.
        wal=int(rewritten * _WAL_FACTOR + health.heap + health.indexes + built),
    )


def find_growth(
    growths: Sequence[tuple[str, Growth]], slots: Sequence[Slot], limits: WalLimits, free: int | None
) -> Iterator[Finding]:
    """Yield what the disk has to hold: an error where it is known to have less.

    :param growths: by table.
    """
    growths = [(table, growth) for table, growth in growths if growth.wal]
    for table, growth in growths:
        yield Finding(
            Severity.WARNING if growth.most >= _LARGE else Severity.NOTE,
            "ZD404",
            table,
            f"the backfill makes its files about {readable(growth.least)} larger, up to {readable(growth.most)} while "
            f"a long transaction keeps VACUUM from old rows; it writes about {readable(growth.wal)} of WAL (estimates)",
            "see that the disk has room",
        )
    wal = sum(growth.wal for _, growth in growths)
    holds = any(not slot.active for slot in slots)
    needed = sum(growth.most for _, growth in growths) + (wal if holds else min(wal, limits.checkpoints))
    if growths and free is not None and needed > free:
        yield Finding(
            Severity.ERROR,
            "ZD222",
            None,
            f"the disk has {readable(free)} left, and the migration may need {readable(needed)} (zd_free_disk)",
            "make room, or migrate fewer tables at once",
        )


def find_slots(slots: Sequence[Slot], limits: WalLimits, wal: int) -> Iterator[Finding]:
    """Yield a finding for each replication slot that a backfill's WAL would hurt, or that would keep it.

    :param wal: bytes of WAL that the backfills are estimated to write.
    """
    for slot in slots if wal else ():
        if slot.wal_status == "lost":
            continue
        ends = limits.slots is not None and slot.retained + wal > limits.slots
        if not slot.active or (ends and limits.slots is not None and wal > limits.slots):
            state = "is used by nobody and " if not slot.active else ""
            then = (
                f"with this migration's {readable(wal)} it passes max_slot_wal_keep_size and may be lost"
                if ends
                else f"this migration adds about {readable(wal)}"
            )
            yield Finding(
                Severity.WARNING,
                "ZD403",
                None,
                f"{slot.type} replication slot {slot.name!r} {state}holds {readable(slot.retained)} of WAL: {then}",
                "let its consumer catch up, or drop the slot",
            )


# -- sessions ---------------------------------------------------------------------------------------


def find_transactions(transactions: Sequence[Transaction], *, waits: bool) -> Iterator[Finding]:
    """Yield a finding for each old transaction.

    :param waits: whether a step waits for all older transactions, as CREATE INDEX CONCURRENTLY does.
    """
    effect = "CREATE INDEX CONCURRENTLY waits for it, " if waits else ""
    for one in transactions:
        yield Finding(
            Severity.WARNING,
            "ZD402",
            None,
            f"{one.describe()}: {effect}and the backfill's VACUUM removes nothing as long as it lasts",
            "end it, or wait for it",
        )


def find_lock_holders(facts: TableFacts, holders: Sequence[Transaction]) -> Iterator[Finding]:
    """Yield a finding for each transaction that holds a lock on the table and has done so for a while."""
    for one in holders:
        yield Finding(
            Severity.WARNING,
            "ZD402",
            f"{facts.schema}.{facts.name}",
            f"{one.describe()} holds a lock on it: steps that need their own try for zd_lock_budget_s and then give up",
            "end it, or wait for it",
        )
