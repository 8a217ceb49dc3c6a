"""Mend rows that verification has found: one short transaction each, and no client ever waits for long.

A row that a client holds is left for the next run; one that has changed since it was found is looked at again under
its lock, and left alone if it is right by now.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.execute.backfill import carrying_nothing, is_about_data
from alembic_zero.execute.locks import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, sqlstate
from alembic_zero.execute.sending import send
from alembic_zero.lens.comparing import arrows_of
from alembic_zero.sql.repair import RepairSql
from alembic_zero.sql.verify import VerifySql
from alembic_zero.sql.verify_links import link_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.discrepancies import Leaf, Suspect
    from alembic_zero.execute.locks import LockRules
    from alembic_zero.execute.verify_links import Stray
    from alembic_zero.lens.comparing import Arrow, Demand
    from alembic_zero.lens.link import Link
    from alembic_zero.sql.links import LinkSql
    from alembic_zero.sql.verify_links import Linked


class Truth(StrEnum):
    """Whose values count where two versions of a row say different things."""

    OLD = "old"
    NEW = "new"


@dataclass
class Repairer:
    """Mends rows."""

    work: Connection
    rules: LockRules
    truth: Truth

    # -- within a table -------------------------------------------------------------------

    def mend(self, sql: VerifySql, suspect: Suspect) -> None:
        """Derive a row again: what it quarantines, what is left to do, what disagrees."""
        repair = RepairSql(sql.flight, suspect.leaf)

        def attempt() -> None:
            if not self._hold(repair, suspect.tid):
                return
            tid = suspect.tid
            # It may be computable row by row only: then what was found stands, as the row has not moved.
            if suspect.state is None and self._is_clean(sql, suspect):
                return
            failed = [check for n in suspect.failed if (check := sql.checks[n]).demand is not None]
            if failed and self.truth == Truth.NEW:
                downs = _downs(c.demand for c in failed if c.demand is not None)
                self._write_down(sql, suspect.leaf, suspect.tid, downs)
                return
            if suspect.state is None:
                level = min(sql.checks[n].level for n in suspect.failed)
                tid = self._moved(repair.unsynchronise(tid, level))
            send(self.work, repair.touch(tid))

        self._try(attempt)

    def _is_clean(self, sql: VerifySql, suspect: Suspect) -> bool:
        try:
            with self.work.begin_nested():
                return send(self.work, sql.suspect(suspect.leaf, suspect.tid)).one_or_none() is None
        except DBAPIError as error:
            if not is_about_data(error):
                raise
            return False

    def _write_down(self, sql: VerifySql, leaf: Leaf, tid: str, downs: Iterable[Arrow]) -> None:
        """Compute older versions' columns from newer ones, and what still older ones have from those."""
        repair = RepairSql(sql.flight, leaf)
        marker = send(self.work, repair.read_marker(tid)).scalar_one()
        wanted = {arrow.cell: arrow.level for arrow in downs}
        changed: set[str] = set()
        touched = 0
        for level in range(max(wanted.values(), default=0), 0, -1):
            for arrow in arrows_of(sql.flight, level, upward=False):
                if wanted.get(arrow.target) == level or arrow.inputs & changed:
                    value = sql.derived(arrow)
                    tid = self._moved(repair.write_past(tid, arrow.target, value, touched))
                    changed.add(arrow.target)
                    touched += 1
        send(self.work, repair.set_marker(tid, marker))

    # -- across tables --------------------------------------------------------------------

    def mend_pair(self, linked: Linked, stray: Stray) -> None:
        """Let a row of one table follow from that of another again."""
        link = linked.link
        back = _back(linked)
        if link.cell:
            self._mend_column(linked, stray, back)
        elif link.upward == (self.truth == Truth.OLD):
            self._put(linked.sql, stray.tid)
        elif back is not None and back.link.columns:
            self._put_back(linked, stray, back)
        else:
            self._try(lambda: self._look_up(linked, stray))

    def _mend_column(self, linked: Linked, stray: Stray, back: LinkSql | None) -> None:
        flight = linked.at
        repair = RepairSql(flight, (flight.schema, flight.name))

        def derive() -> None:
            if self._hold(repair, stray.tid):
                tid = self._moved(repair.unsynchronise(stray.tid, linked.numbers[flight.id]))
                send(self.work, repair.touch(tid))

        def give() -> None:
            if back is not None and self._hold(repair, stray.tid):
                send(self.work, back.carry_one(stray.tid))

        self._try(derive if self.truth == Truth.OLD else give)

    def _put(self, sql: LinkSql, tid: str) -> None:
        """Make the row that follows from a source row; what the other table refuses leaves its source quarantined."""
        repair = RepairSql(sql.source, (sql.source.schema, sql.source.name))

        def put() -> None:
            if self._hold(repair, tid):
                send(self.work, sql.carry_one(tid))

        def quarantine() -> None:
            if self._hold(repair, tid):
                send(self.work, sql.quarantine_one(tid))

        self._try(put, quarantine if sql.link.upward else None)

    def _put_back(self, linked: Linked, stray: Stray, back: LinkSql) -> None:
        """Let the row that was looked at follow from the other one: it goes if there is none."""
        if stray.other is not None:
            self._put(back, stray.other)
            return
        repair = RepairSql(linked.at, (linked.at.schema, linked.at.name))

        def remove() -> None:
            if self._hold(repair, stray.tid):
                send(self.work, repair.remove(stray.tid))

        with carrying_nothing(self.work):
            self._try(remove)

    def _look_up(self, linked: Linked, stray: Stray) -> None:
        """Take over what the newer version's table says into the row's older columns."""
        flight = linked.at
        leaf = (flight.schema, flight.name)
        if not self._hold(RepairSql(flight, leaf), stray.tid):
            return
        downs = [a for a in _downs(linked.demands[n] for n in stray.failed) if a.flight == flight.id]
        self._write_down(VerifySql(flight), leaf, stray.tid, downs)

    def mend_left_behind(self, sql: LinkSql, tid: str) -> None:
        """Delete a row whose deletion failed, or let it be the newer version's own."""
        repair = RepairSql(sql.target, (sql.target.schema, sql.target.name))

        def mend() -> None:
            if self._hold(repair, tid):
                send(self.work, repair.remove(tid) if self.truth == Truth.OLD else sql.keep(tid))

        with carrying_nothing(self.work):
            self._try(mend)

    # -- pieces ---------------------------------------------------------------------------

    def _hold(self, repair: RepairSql, tid: str) -> bool:
        """Lock a row, unless it is gone or somebody holds it."""
        return send(self.work, repair.hold(tid)).one_or_none() is not None

    def _moved(self, statement: str) -> str:
        return str(send(self.work, statement).scalar_one())

    def _try(self, attempt: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
        """Run an attempt as one transaction; locks that are not to be had, and values that do not fit, end it."""
        try:
            with self.work.begin():
                self.rules.set_timeout(self.work)
                attempt()
        except DBAPIError as error:
            if sqlstate(error) in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                return
            if not is_about_data(error):
                raise
            if otherwise is not None:
                self._try(otherwise)


def _downs(demands: Iterable[Demand]) -> list[Arrow]:
    """Return the arrows downwards that these demands are about."""
    found: dict[Arrow, None] = {}
    for demand in demands:
        arrows = [demand.arrow, *(a for excuse in demand.excuses or () for a in excuse)]
        found |= {arrow: None for arrow in arrows if not arrow.upward and arrow.edge is not None}
    return list(found)


def _back(linked: Linked) -> LinkSql | None:
    """Return the link in the other direction, between the same tables."""
    here = linked.link
    ends = {here.source.flight, here.target.flight}

    def answers(link: Link) -> bool:
        return link.upward is not here.upward and {link.source.flight, link.target.flight} == ends

    for flight in linked.flights.values():
        for link in flight.levels[linked.numbers[flight.id] - 1].links:
            if answers(link):
                return link_sql(link, linked.flights, linked.numbers)
    return None
