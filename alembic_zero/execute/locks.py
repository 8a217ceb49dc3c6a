"""Lock rules: everything up front, never long enough for a client to die, retried with patience."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.sending import send
from alembic_zero.operations.errors import LockTimeoutError
from alembic_zero.sql import ddl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.plan.step import Lock

LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"

_MAX_LOCK_TIMEOUT_MS = 100
_AUTOVACUUM_MARGIN_MS = 2_000


def lock_timeout_ms(deadlock_timeout_ms: int) -> int:
    """Return how long a step of ours may wait: a quarter of deadlock_timeout, so that no client is the victim."""
    return max(1, min(_MAX_LOCK_TIMEOUT_MS, deadlock_timeout_ms // 4))


def pause_s(attempt: int, jitter: float) -> float:
    """Return the pause after a failed try: growing, jittered, less than a second."""
    doubled: float = 0.05 * 2.0 ** min(attempt, 6)
    return min(0.5, doubled) * (0.5 + jitter)


def sqlstate(error: DBAPIError) -> str | None:
    """Return the SQLSTATE that the server gave, None if it gave none."""
    return getattr(error.orig, "sqlstate", None)


@dataclass
class LockRules:
    """How a step takes its locks.

    :param budget_s: how long, by the wall clock, a step tries before it gives up.
    :param observer: a connection that may ask for blockers while the other one is failing.
    """

    deadlock_timeout_ms: int
    budget_s: float
    observer: Connection
    report: Callable[[str], None]
    clock: Callable[[], float] = field(default=time.monotonic)

    def set_timeout(self, connection: Connection) -> None:
        """Set lock_timeout for the rest of the transaction."""
        value = lock_timeout_ms(self.deadlock_timeout_ms)
        send(connection, f"SET LOCAL lock_timeout = {value}")

    def take(self, connection: Connection, locks: Sequence[Lock]) -> None:
        """Take all locks of a step, views before base tables, tables in the order given.

        Autovacuum gives way only to a waiter that outlasts deadlock_timeout. So first comes a lock
        that no client notices, with time enough, then the strong ones, with little.
        """
        patience = self.deadlock_timeout_ms + _AUTOVACUUM_MARGIN_MS
        send(connection, f"SET LOCAL lock_timeout = {patience}")
        for lock in locks:
            if not lock.view:
                send(connection, ddl.lock_table(lock.relation, "SHARE UPDATE EXCLUSIVE"))
        self.set_timeout(connection)
        for lock in locks:
            if lock.view:
                # LOCK TABLE on a view goes on to its table at once, before the next view: clients of
                # that one would hold it while they wait for the table. This locks the view alone.
                send(connection, f"ALTER VIEW {lock.relation} RESET (security_barrier)")
        for lock in [lock for lock in locks if not lock.view]:
            send(connection, ddl.lock_table(lock.relation, lock.mode))

    def retry(self, name: str, oids: Sequence[int], attempt: Callable[[], None]) -> None:
        """Call *attempt* until it gets its locks.

        :raises LockTimeoutError: it did not within the budget; names the last blocker seen.
        """
        deadline = self.clock() + self.budget_s
        tries = 0
        while True:
            try:
                attempt()
            except DBAPIError as error:
                if sqlstate(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                    raise
                blockers = self._blockers(oids)
                if self.clock() > deadline:
                    raise LockTimeoutError(
                        f"step {name!r}: no lock within {self.budget_s:.0f} s, blocked by {blockers}; "
                        "this step changed nothing and the database is usable by all clients: run the command again",
                        code="ZD310",
                    ) from error
                if tries in (0, 5) or tries % 20 == 0:
                    self.report(f"waiting for locks of step {name!r}, held by {blockers}")
                time.sleep(pause_s(tries, random.random()))  # noqa: S311 - jitter, not a secret
                tries += 1
            else:
                return

    def _blockers(self, oids: Sequence[int]) -> str:
        own = [row[0] for row in send(self.observer, "SELECT pg_backend_pid()")]
        rows = read_rows(self.observer, "blockers", oids=list(oids), own=own)
        self.observer.rollback()
        found = [f"pid {r['pid']} ({r['state']} for {r['seconds']} s: {r['query']!r})" for r in rows[:3]]
        return ", ".join(found) or "a transaction that has ended meanwhile"
