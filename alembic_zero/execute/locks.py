"""Lock rules: everything up front, never long enough for a client to die, retried with patience."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.execute.blockers import advise, describe_blockers
from alembic_zero.execute.sending import send
from alembic_zero.operations.errors import LockTimeoutError
from alembic_zero.plan.step import LockMode
from alembic_zero.sql import ddl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.blockers import Blocker, Witness
    from alembic_zero.plan.step import Lock

LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
QUERY_CANCELED = "57014"

_STRENGTH = [str(mode) for mode in LockMode]
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


def in_lock_order(locks: Sequence[Lock]) -> list[tuple[str, str]]:
    """Return the tables among *locks* with their modes: by name, however that is quoted, each with its strongest."""
    modes: dict[str, str] = {}
    for lock in locks:
        if not lock.view:
            known = modes.get(lock.relation, _STRENGTH[0])
            modes[lock.relation] = max(known, lock.mode, key=_STRENGTH.index)
    return sorted(modes.items(), key=lambda item: (item[0].replace('"', ""), item[0]))


@dataclass
class LockRules:
    """How a step takes its locks.

    :param budget_s: how long, by the wall clock, a step tries before it gives up.
    :param witness: sees who holds what another session waits for.
    """

    deadlock_timeout_ms: int
    budget_s: float
    witness: Witness
    report: Callable[[str], None]
    clock: Callable[[], float] = field(default=time.monotonic)

    @property
    def timeout_ms(self) -> int:
        """How long one try of a step waits, for all strong locks together."""
        return lock_timeout_ms(self.deadlock_timeout_ms)

    @property
    def patience_ms(self) -> int:
        """How long to wait for a lock that no client notices: long enough for autovacuum to give way."""
        return self.deadlock_timeout_ms + _AUTOVACUUM_MARGIN_MS

    def set_timeout(self, connection: Connection) -> None:
        """Set lock_timeout for the rest of the transaction; whatever else ends statements is off."""
        send(connection, ddl.set_timeouts(self.timeout_ms))

    def take(self, connection: Connection, locks: Sequence[Lock]) -> None:
        """Take all locks of a step, views before base tables, tables in one order wherever they are locked.

        Autovacuum gives way only to a waiter that outlasts deadlock_timeout. So first comes a lock
        that no client notices, with time enough, then the strong ones, with little for all of them
        together: a client may stand behind the first while we wait for the last.
        """
        send(connection, ddl.set_timeouts(self.patience_ms))
        tables = in_lock_order(locks)
        for relation, _ in tables:
            send(connection, ddl.lock_table(relation, "SHARE UPDATE EXCLUSIVE"))
        send(connection, ddl.take_locks([lock.relation for lock in locks if lock.view], tables, self.timeout_ms))

    @contextmanager
    def without_transaction(self, connection: Connection, timeout_ms: int) -> Iterator[None]:
        """Set lock_timeout on a connection in autocommit mode, for the block."""
        send(connection, f"SET lock_timeout = {timeout_ms}")
        try:
            yield
        finally:
            send(connection, "SET lock_timeout = 0")

    def retry(self, name: str, connection: Connection, attempt: Callable[[], None]) -> None:
        """Call *attempt*, which works on *connection*, until it gets its locks.

        :raises LockTimeoutError: it did not within the budget; names the last blocker seen.
        """
        deadline = self.clock() + self.budget_s
        tries = 0
        while True:
            with self.witness.watching(connection, self.timeout_ms / 4_000) as sight:
                try:
                    attempt()
                except DBAPIError as error:
                    if sqlstate(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                        raise
                    failure = error
                else:
                    return
            if self.clock() > deadline:
                raise self._given_up(name, sight.blockers) from failure
            if tries in (0, 5) or tries % 20 == 0:
                self.report(f"waiting for locks of step {name!r}, held by {describe_blockers(sight.blockers)}")
            self.witness.make_autovacuum_yield(sight.blockers, self.patience_ms)
            time.sleep(pause_s(tries, random.random()))  # noqa: S311 - jitter, not a secret
            tries += 1

    def _given_up(self, name: str, blockers: Sequence[Blocker]) -> LockTimeoutError:
        return LockTimeoutError(
            f"step {name!r}: no lock within {self.budget_s:.0f} s, blocked by {describe_blockers(blockers)}; "
            f"this step changed nothing and the database is usable by all clients: {advise(blockers)}, "
            "then run the command again",
            code="ZD310",
        )
