"""Foreign keys between tables in flight: what they reference now, and the steps that let go of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.plan.step import Kind, Lock, LockMode, Step
from alembic_zero.sql import ddl
from alembic_zero.sql.guards import key_guards
from alembic_zero.sql.quoting import ident, idents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from alembic_zero.catalog.snapshot import ForeignKey, LiveForeignKey
    from alembic_zero.lens.lens import Flight, Level

_NAME = r'(?:"(?:[^"]|"")*"|[^\s",().]+)'
_NAMES = rf"{_NAME}(?:, ?{_NAME})*"
_REFERENCES = re.compile(rf"REFERENCES ({_NAME}(?:\.{_NAME})?) ?\(({_NAMES})\)(.*)", re.DOTALL)
_ACTION_COLUMNS = re.compile(rf"(SET (?:NULL|DEFAULT)) \(({_NAMES})\)")


@dataclass(frozen=True)
class Pin:
    """What a foreign key references: cells of a table that is being planned, else physical columns."""

    relation: int
    table: str
    cells: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """What a foreign key will reference, by physical names.

    :param table: SQL text.
    :param tail: what follows the referenced columns.
    :param moved: whether these are other columns than before.
    """

    relation: int
    table: str
    columns: tuple[str, ...]
    tail: str
    moved: bool

    @property
    def suffix(self) -> str:
        """The clause from ``REFERENCES`` on."""
        return f"REFERENCES {self.table}({idents(self.columns)}){self.tail}"


@dataclass(frozen=True)
class Clause:
    """The clause of a foreign key from ``REFERENCES`` on, taken apart; names are not quoted."""

    table: tuple[str, ...]
    columns: tuple[str, ...]
    tail: str


def parse_clause(text: str) -> Clause | None:
    """Return the clause that *text* holds, None for a form that is not known (a temporal key)."""
    match = _REFERENCES.search(text)
    if match is None:
        return None
    return Clause(tuple(_split(match[1])), tuple(_split(match[2])), match[3])


def _split(text: str) -> list[str]:
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in re.findall(_NAME, text)]


def rename_action_columns(tail: str, rename: Callable[[str], str]) -> str:
    """Return *tail* with the referencing columns of ``ON DELETE SET NULL (...)`` under other names."""
    return _ACTION_COLUMNS.sub(lambda found: f"{found[1]} ({idents(map(rename, _split(found[2])))})", tail)


def is_immediate(suffix: str) -> bool:
    """Return whether a foreign key is checked at once unless a client asks for something else."""
    return bool(re.search(r"(?<!NOT )DEFERRABLE(?! INITIALLY DEFERRED)", suffix))


def deferred(suffix: str) -> str:
    """Return the clause with the check at COMMIT where clients may ask for that.

    A client defers by the constraint's name, which the copy in flight cannot have.
    """
    if not is_immediate(suffix):
        return suffix
    return re.sub(r"(?<!NOT )DEFERRABLE(?: INITIALLY IMMEDIATE)?", "DEFERRABLE INITIALLY DEFERRED", suffix, count=1)


def is_enforced_later(suffix: str) -> bool:
    """Return whether the foreign key itself is one that is not validated."""
    return suffix.endswith((" NOT VALID", " NOT ENFORCED"))


# -- letting go -----------------------------------------------------------------------------------


def plan_severing(flight: Flight, level: int, links: Sequence[LiveForeignKey], source: str) -> list[Step]:
    """Return the contract step that drops the foreign keys which end with the levels up to *level*.

    It comes before every table's swap: then no table's columns hang on another one's, whatever the
    order, rings of tables included.

    :param links: the table's foreign keys as they stand.
    """
    ending = {f.name for f in flight.spec.foreign_keys}
    ending |= {new.physical for one in flight.levels[:level] for new in one.foreign_keys}
    if not any(one.dropped for one in flight.levels[:level]):
        ending -= set(flight.foreign_keys_at(level).values())
    return _drop(flight, [one for one in links if one.name in ending], source, forward_only=True)


def plan_unguarding(flight: Flight, levels: Sequence[Level], source: str, *, forward_only: bool) -> list[Step]:
    """Return the step that drops the guards of these levels' foreign keys.

    Before any table is swapped over or rolled back: they depend on columns of other tables.
    """
    guards = key_guards(flight, levels)
    if not guards:
        return []
    table = ident(flight.schema, flight.name)
    names = [name for guard in guards for name, _ in guard.render_triggers()]
    functions = [name for guard in guards for name in guard.functions]
    texts = [f"DROP TRIGGER IF EXISTS {ident(name)} ON {table}" for name in names]
    texts += [f"DROP FUNCTION IF EXISTS {ident(JOURNAL_SCHEMA, name)}" for name in functions]
    lock = Lock(table, LockMode.ACCESS_EXCLUSIVE, flight.relation)
    return [Step(f"guards of {flight.label}", Kind.TRANSACTION, source, tuple(texts), (lock,),
                 LockMode.ACCESS_EXCLUSIVE, table=flight.id, forward_only=forward_only)]  # fmt: skip


def plan_unlinking(flight: Flight, links: Sequence[LiveForeignKey], source: str) -> list[Step]:
    """Return the rollback step that drops the foreign keys which the newest level has added."""
    ending = {new.physical for new in flight.levels[-1].foreign_keys}
    return _drop(flight, [one for one in links if one.name in ending], source, forward_only=False)


def plan_release(flight: Flight, links: Sequence[LiveForeignKey], source: str) -> list[Step]:
    """Return the rollback step that drops all foreign keys of a table that will go."""
    return _drop(flight, links, source, forward_only=False)


def _drop(flight: Flight, links: Sequence[LiveForeignKey], source: str, *, forward_only: bool) -> list[Step]:
    own = [one for one in links if one.relation == flight.relation]
    if not own:
        return []
    table = ident(flight.schema, flight.name)
    return [
        Step(
            f"foreign keys of {flight.label}",
            Kind.TRANSACTION,
            source,
            tuple(ddl.drop_constraint(table, one.name) for one in own),
            tuple(_both_ends(own)),
            LockMode.ACCESS_EXCLUSIVE,
            table=flight.id,
            forward_only=forward_only,
        )
    ]


def _both_ends(links: Iterable[LiveForeignKey]) -> list[Lock]:
    """Return the locks on both ends, which DROP CONSTRAINT takes, in one fixed order."""
    ends = {one.relation: ident(one.schema, one.table) for one in links}
    ends |= {one.referenced_relation: ident(one.referenced_schema, one.referenced_table) for one in links}
    return [Lock(ends[oid], LockMode.ACCESS_EXCLUSIVE, oid) for oid in sorted(ends)]


def restored_deferral(table: str, name: str, wanted: ForeignKey) -> list[str]:
    """Return the statement that makes a foreign key which was deferred in flight immediate again."""
    if not is_immediate(wanted.suffix):
        return []
    return [f"ALTER TABLE {table} ALTER CONSTRAINT {ident(name)} DEFERRABLE INITIALLY IMMEDIATE"]
