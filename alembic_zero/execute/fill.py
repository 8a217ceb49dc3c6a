"""Make the rows of a new table from those of another one, set-based, by block ranges of the source."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.backfill import BlockCursor, carrying_nothing, is_about_data, next_range_blocks
from alembic_zero.execute.locks import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, sqlstate
from alembic_zero.execute.sending import send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.locks import LockRules
    from alembic_zero.execute.progress import Progress
    from alembic_zero.sql.links import LinkSql

# Nobody waits for a range: no client knows the new table, and the source's rows are not locked.
_TARGET_S = 0.5
_FIRST_RANGE_BLOCKS = 512
_REPAIRED_AT_ONCE = 1000
# Rows that the table's own triggers change will never be what the expressions say.
_ROUNDS = 5
_EVERY_BLOCK = 4_294_967_295


@dataclass
class Fill:
    """The backfill along one link that makes rows.

    The ranges are copied without locks on the source, while triggers carry every change. What a change
    and a range missed of each other, as neither saw the other's uncommitted row, the check afterwards
    finds: in one snapshot the two tables either agree, or the copying was at fault.
    """

    work: Connection
    bare: Connection
    rules: LockRules
    progress: Progress

    def run(self, sql: LinkSql) -> None:
        """Copy every range once, then mend what concurrent changes made of it."""
        if sql.link.shared:
            self._try(sql, sql.fill_all(), lambda: sql.tids(0, _EVERY_BLOCK))
        for leaf in [] if sql.link.shared else read_rows(self.bare, "leaves", oid=sql.source.relation):
            level = sql.source.levels[-1]
            number = level.generation + 1 + level.links.index(sql.link)
            self._copy(sql, BlockCursor(self.work, leaf, number))
        for _ in range(_ROUNDS):
            if not self._differ(sql) or not self._mend(sql):
                return

    def _copy(self, sql: LinkSql, cursor: BlockCursor) -> None:
        block, size = cursor.start(), _FIRST_RANGE_BLOCKS
        with self.progress.follow(f"filling {sql.target.label}", cursor.end, block) as course:
            while block <= cursor.end:
                started = time.monotonic()
                rows = self._range(sql, block, block + size)
                block += size
                cursor.note(block, rows)
                size = next_range_blocks(size, time.monotonic() - started, _TARGET_S)
                course.reach(block)

    def _range(self, sql: LinkSql, first: int, end: int) -> int:
        """Make the rows of a range; what triggers, or a run before, have made already is left as it is."""
        try:
            with self.work.begin():
                self.rules.set_timeout(self.work)
                return int(send(self.work, sql.fill_range(first, end, careful=False)).rowcount)
        except DBAPIError as error:
            if sqlstate(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED) and not is_about_data(error):
                raise
        return self._try(sql, sql.fill_range(first, end, careful=True), lambda: sql.tids(first, end))

    def _try(self, sql: LinkSql, statement: str, tids: Callable[[], str]) -> int:
        """Run a statement for many rows; where the data do not let it, make them one by one."""
        try:
            with self.work.begin():
                self.rules.set_timeout(self.work)
                return int(send(self.work, statement).rowcount)
        except DBAPIError as error:
            if sqlstate(error) in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                return 0
            if not is_about_data(error):
                raise
        return self._put_each(sql, self._tids(tids()))

    def _differ(self, sql: LinkSql) -> bool:
        with self.work.begin():
            return bool(send(self.work, sql.differing()).scalar_one())

    def _mend(self, sql: LinkSql) -> int:
        """Mend some of what is wrong; return how much that was."""
        stale = self._tids(sql.stale(_REPAIRED_AT_ONCE))
        if stale:
            with carrying_nothing(self.work), self.work.begin():
                self.rules.set_timeout(self.work)
                send(self.work, sql.remove(stale))
        found = len(stale)
        while missing := self._tids(sql.missing(_REPAIRED_AT_ONCE)):
            found += len(missing)
            if not self._put_each(sql, missing):
                break
        return found

    def _put_each(self, sql: LinkSql, tids: Sequence[str]) -> int:
        """Make the rows of single source rows; one that cannot be made leaves its source row quarantined."""
        return sum(self._put(sql, tid) for tid in tids)

    def _put(self, sql: LinkSql, tid: str) -> bool:
        try:
            with self.work.begin():
                self.rules.set_timeout(self.work)
                send(self.work, sql.hold_source(tid))
                send(self.work, sql.carry_one(tid))
        except DBAPIError as error:
            if sqlstate(error) in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                return False
            if not is_about_data(error):
                raise
            with self.work.begin():
                send(self.work, sql.quarantine_one(tid))
        return True

    def _tids(self, query: str) -> list[str]:
        with self.work.begin():
            return [str(row[0]) for row in send(self.work, query)]
