"""Give every existing row its new shape, range by range; the marker alone tells what is left."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.locks import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, sqlstate
from alembic_zero.execute.quarantine import describe_quarantined
from alembic_zero.execute.sending import send
from alembic_zero.names import MARKER
from alembic_zero.operations.errors import MigrationError
from alembic_zero.sql import journal as journal_sql
from alembic_zero.sql.backfill import (
    render_filenode,
    render_left,
    render_range,
    render_remaining,
    render_touch,
    render_try_again,
    render_vacuum,
)
from alembic_zero.sql.carry import carry_nothing
from alembic_zero.sql.links import found_table
from alembic_zero.sql.markers import quarantined_condition, todo_condition
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import Server
    from alembic_zero.execute.locks import LockRules
    from alembic_zero.execute.progress import Progress
    from alembic_zero.lens.lens import Flight
    from alembic_zero.sql.links import LinkSql

_FIRST_RANGE_BLOCKS = 64
_MAX_RANGE_BLOCKS = 4_096
_TARGET_S = 0.025
_VACUUM_BLOCKS = 1_280
_SETTLED_AT_ONCE = 50_000
# Values that the table's own triggers change will never be what the expression says.
_SETTLING_ROUNDS = 5

_TRIES = 3
_BETWEEN_TRIES_S = 0.1
_TRIED_AT_ONCE = 1000

# Faults of the moment and of the server, which are no statement about the data.
_NOT_THE_DATA = ("08", "25", "40", "53", "55", "57", "58", "XX")


def is_about_data(error: DBAPIError) -> bool:
    """Return whether an error says something about the rows, not about the server or the moment."""
    return (sqlstate(error) or "XX")[:2] not in _NOT_THE_DATA


def next_range_blocks(blocks: int, seconds: float, target_s: float = _TARGET_S) -> int:
    """Return the size of the next range: steered to the time target, at most doubled or halved at once."""
    factor = min(2.0, max(0.5, target_s / max(seconds, 1e-6)))
    return max(1, min(_MAX_RANGE_BLOCKS, int(blocks * factor)))


@contextmanager
def carrying_nothing(work: Connection) -> Iterator[None]:
    """Keep what a session writes from being carried to other tables: they have a backfill of their own."""
    with work.begin():
        send(work, carry_nothing(on=True))
    try:
        yield
    finally:
        with work.begin():
            send(work, carry_nothing(on=False))


@dataclass(frozen=True)
class BlockCursor:
    """How far the rows of one table have been visited; kept in the journal.

    :param generation: what they are visited for: a level's generation, or one of the numbers after it.
    """

    work: Connection
    leaf: Mapping[str, Any]
    generation: int

    @property
    def end(self) -> int:
        """The number of blocks that the table had at first."""
        return int(self.leaf["blocks"])

    @property
    def _key(self) -> dict[str, int]:
        return {"oid": self.leaf["oid"], "generation": self.generation}

    def start(self) -> int:
        """Return the block to begin with, or to go on with."""
        with self.work.begin():
            self.work.execute(
                text(journal_sql.PUT_BACKFILL),
                {**self._key, "filenode": self.leaf["filenode"], "end_block": self.end},
            )
            return int(self.work.execute(text(journal_sql.READ_BACKFILL), self._key).one()[0])

    def note(self, block: int, rows: int) -> None:
        """Record that all blocks before *block* are done, the last ones with this many rows."""
        with self.work.begin():
            self.work.execute(
                text(journal_sql.MOVE_BACKFILL),
                {**self._key, "next_block": min(block, self.end + 1), "rows": rows},
            )


@dataclass
class Backfill:
    """Runs the backfill of one table."""

    work: Connection
    bare: Connection
    server: Server
    rules: LockRules
    report: Callable[[str], None]
    keep_alive: Callable[[], None]
    progress: Progress
    _found_in: Sequence[int] = field(default=(), init=False)

    def run(self, flight: Flight, joins: Sequence[LinkSql] = ()) -> None:
        """Visit every block once, then whatever was skipped.

        :param joins: links that give the table's columns their values.
        """
        self._found_in = [self._join(join) for join in joins]
        with carrying_nothing(self.work), self._quiet():
            for leaf in read_rows(self.bare, "leaves", oid=flight.relation):
                self._visit(flight, leaf)
            self._complete(flight)
        for join in joins:
            if join.reads_derived:
                self._settle(join)
            send(self.bare, f"DROP TABLE {found_table(join.link.lookup)}")

    def _join(self, sql: LinkSql) -> int:
        """Find every row's value in another table at once; rows that change from now on find it by themselves.

        :return: the file of the table in which the rows were.
        """
        self.report(f"finding the values of {sql.target.schema}.{sql.target.name} in {sql.source.name}")
        with self.work.begin():
            for statement in sql.fill_found():
                send(self.work, statement)
            # Nobody can rewrite the table before this transaction ends.
            return int(send(self.work, render_filenode((sql.target.schema, sql.target.name))).scalar_one())

    def _settle(self, sql: LinkSql) -> None:
        """Look again where the source has changed while rows could not be matched yet."""
        for _ in range(_SETTLING_ROUNDS):
            with self.work.begin():
                for statement in sql.fill_found(backfilled=True):
                    send(self.work, statement)
            if not self._execute(sql.settle(_SETTLED_AT_ONCE)):
                return

    def _complete(self, flight: Flight) -> None:
        """Go back to what was skipped, until no row is left: clients hold rows, rewrites move them.

        :raises MigrationError: nothing has got better for as long as a step may wait for locks.
        """
        left, since, tries = -1, self.rules.clock(), 0
        while blocks := self._left(flight):
            rows = sum(count for *_, count in blocks)
            if rows != left:
                left, since = rows, self.rules.clock()
            elif self.rules.clock() - since > self.rules.budget_s:
                raise self._stuck(flight, rows)
            for leaf, block, _count in blocks:
                self._run_range(flight, leaf, block, block + 1, rest=True)
            self.keep_alive()
            if tries and tries % 20 == 0:
                self.report(f"waiting for {rows} rows of {flight.label} that clients hold")
            time.sleep(min(1.0, 0.02 * tries))
            tries += 1

    def _left(self, flight: Flight) -> list[tuple[tuple[str, str], int, int]]:
        condition = todo_condition(flight, f"t.{ident(MARKER)}")
        return [
            ((leaf["schema"], leaf["name"]), row[0], row[1])
            for leaf in read_rows(self.bare, "leaves", oid=flight.relation)
            for row in send(self.bare, render_left((leaf["schema"], leaf["name"]), condition))
        ]

    @staticmethod
    def _stuck(flight: Flight, rows: int) -> MigrationError:
        name = flight.label
        return MigrationError(
            f"table {name}: {rows} rows are held by clients in long transactions, or written again and again with "
            "session_replication_role = replica; nothing is lost and nothing published: end those, then run the "
            "command again",
            code="ZD320",
            table=name,
        )

    def fulfil(self, flight: Flight, revision: str) -> None:
        """Make sure that every row has its new shape.

        :raises MigrationError: some rows cannot have it; names them and their errors.
        """
        quarantined = quarantined_condition(flight, f"t.{ident(MARKER)}")
        with self._quiet():
            self._complete(flight)
            for _ in range(_TRIES if flight.levels[-1].guarded else 0):
                if not self._any(flight, quarantined):
                    return
                # What was in the way of a row may have gone, or another table's row have come.
                self._execute(render_try_again(flight, _TRIED_AT_ONCE))
                time.sleep(_BETWEEN_TRIES_S)
        if not self._any(flight, quarantined):
            return
        with self.work.begin():
            rows = describe_quarantined(self.work, flight, limit=5)
        listed = "; ".join(f"{row['key']}: {row['error']}" for row in rows)
        raise MigrationError(
            f"revision {revision!r}, table {flight.label}: some rows do not fit the new version "
            f"({listed}); nothing is published, the old version works on: correct those rows, then go on, "
            "or take the expansion back with alembic downgrade",
            code="ZD321",
            revision=revision,
            table=flight.label,
            next_command=f"alembic upgrade {revision}",
        )

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep users' triggers out of it where the role may; say so where it may not."""
        if not self.server.may_set_replication_role:
            self.report("the role may not set session_replication_role: the backfill fires users' UPDATE triggers")
            yield
            return
        self._set_replication_role("replica")
        try:
            yield
        finally:
            self._set_replication_role("origin")

    def _set_replication_role(self, role: str) -> None:
        with self.work.begin():
            send(self.work, f"SET session_replication_role = {role}")

    def _any(self, flight: Flight, condition: str) -> bool:
        return bool(send(self.bare, render_remaining(flight, condition)).scalar_one())

    def _visit(self, flight: Flight, leaf: Mapping[str, Any]) -> None:
        cursor = BlockCursor(self.work, leaf, flight.levels[-1].generation)
        block = cursor.start()
        # Where each row has to look for equal keys, a range of this size would take too long.
        size, vacuumed = _FIRST_RANGE_BLOCKS // (8 if flight.levels[-1].guards else 1), block
        name = (leaf["schema"], leaf["name"])
        with self.progress.follow(f"backfill of {'.'.join(name)}", leaf["blocks"], block) as course:
            # One past the end: a relation that grows meanwhile grows by synchronised rows.
            while block <= leaf["blocks"]:
                started = time.monotonic()
                end = block + size
                rows = self._run_range(flight, name, block, end)
                block = end
                cursor.note(block, rows)
                size = next_range_blocks(size, time.monotonic() - started)
                if block - vacuumed >= _VACUUM_BLOCKS and block <= leaf["blocks"]:
                    send(self.bare, render_vacuum(name))
                    vacuumed = block
                course.reach(block)

    def _run_range(self, flight: Flight, leaf: tuple[str, str], first: int, end: int, *, rest: bool = False) -> int:
        """Derive the rows of a range; one by one where that fails, or where each has to look for equal keys.

        :param rest: whether to look for rows, too, that older levels have left behind.
        """
        if flight.levels[-1].guards:
            return self._touch(flight, leaf, first, end)
        try:
            rows = self._execute(render_range(flight, leaf, first, end, self._found_in))
        except DBAPIError as error:
            if not is_about_data(error) and sqlstate(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                raise
            rows, rest = 0, True
        return rows + (self._touch(flight, leaf, first, end) if rest else 0)

    def _touch(self, flight: Flight, leaf: tuple[str, str], first: int, end: int) -> int:
        """Let the trigger finish a range; rows that a client holds stay for the next pass."""
        try:
            return self._execute(render_touch(flight, leaf, first, end))
        except DBAPIError as error:
            if sqlstate(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                raise
            return 0

    def _execute(self, statement: str) -> int:
        with self.work.begin():
            self.rules.set_timeout(self.work)
            return int(send(self.work, statement).rowcount)
