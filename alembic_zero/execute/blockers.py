"""Who holds what a session of ours waits for: seen from another session, while it waits."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.sending import send_all
from alembic_zero.execute.session import autocommit
from alembic_zero.sql import ddl
from alembic_zero.sql.quoting import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.session import Sessions

_SHOWN = 3
_LONG_S = 2.0
_REPORT_EVERY_S = 30.0
_MAX_PAUSE_S = 1.0


@dataclass(frozen=True)
class Blocker:
    """A session, or a prepared transaction, that holds what we wait for.

    :param relation: the table that we wait for, as SQL text, if it is one.
    :param seconds: age of its transaction.
    """

    pid: int | None
    gid: str | None
    role: str | None
    application_name: str | None
    address: str | None
    backend_type: str | None
    state: str | None
    query: str | None
    seconds: int | None
    relation: str | None

    @property
    def is_autovacuum(self) -> bool:
        """Whether it is an autovacuum worker; their query tells without any privilege."""
        return self.backend_type == "autovacuum worker" or (self.query or "").startswith("autovacuum:")

    @property
    def yields(self) -> bool:
        """Whether it gives way to somebody who waits for longer than deadlock_timeout."""
        return self.is_autovacuum and "to prevent wraparound" not in (self.query or "")

    def describe(self) -> str:
        """Return who it is, for how long, and what it does."""
        age = "" if self.seconds is None else f" for {self.seconds} s"
        if self.gid is not None:
            return f"prepared transaction {self.gid!r} of {self.role}, prepared{age}"
        if self.is_autovacuum:
            return f"pid {self.pid} ({self.query or 'autovacuum'}, running{age})"
        named = f"application_name {self.application_name!r}" if self.application_name else "no application_name"
        origin = f"{self.role or 'unknown role'}{f' from {self.address}' if self.address else ''}"
        doing = f"{self.state or 'in an unknown state'}, transaction open{age}" if age else f"{self.state}"
        return f"pid {self.pid} ({named}, {origin}, {doing}: {self.query!r})"


def describe_blockers(blockers: Sequence[Blocker]) -> str:
    """Return who holds the locks, the first of them."""
    if not blockers:
        return "a transaction that has ended meanwhile"
    more = len(blockers) - _SHOWN
    return ", ".join(b.describe() for b in blockers[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def advise(blockers: Sequence[Blocker]) -> str:
    """Return what a person can do about the blockers."""
    prepared = next((b for b in blockers if b.gid is not None), None)
    if prepared is not None:
        return f"end the prepared transaction with COMMIT PREPARED or ROLLBACK PREPARED {literal(prepared.gid)}"
    stubborn = next((b for b in blockers if b.is_autovacuum and not b.yields), None)
    if stubborn is not None:
        return "let the vacuum against wraparound finish, it gives way to nobody"
    idle = next((b for b in blockers if (b.state or "").startswith("idle in transaction")), None)
    if idle is not None:
        return f"have its client end the transaction, or SELECT pg_terminate_backend({idle.pid})"
    return "let it end, or end it"


@dataclass
class Sight:
    """What the witness has seen last."""

    blockers: list[Blocker] = field(default_factory=list)


@dataclass
class Witness:
    """Looks, from a session of its own, at whom another one waits for."""

    sessions: Sessions
    report: Callable[[str], None]
    _connection: Connection | None = None

    @contextmanager
    def watching(self, connection: Connection, pause_s: float, long_wait: str | None = None) -> Iterator[Sight]:
        """Look in the background until the block ends.

        :param pause_s: until the first look; later ones come at growing intervals.
        :param long_wait: what waits without a timeout: its blockers are reported, now and then.
        """
        if self._connection is None or self._connection.invalidated:
            self._connection = autocommit(self.sessions.open())
        sight, stop = Sight(), threading.Event()
        look = partial(self._look, self._connection, self.sessions.pid(connection), pause_s, long_wait)
        thread = threading.Thread(target=look, args=(sight, stop), name="alembic_zero witness", daemon=True)
        thread.start()
        try:
            yield sight
        finally:
            stop.set()
            thread.join()

    def make_autovacuum_yield(self, blockers: Sequence[Blocker], patience_ms: int) -> None:
        """Wait for autovacuum longer than deadlock_timeout, in a lock that no client notices.

        For statements whose locks nobody knows beforehand.
        """
        locks = [ddl.lock_table(b.relation, "SHARE UPDATE EXCLUSIVE") for b in blockers if b.yields and b.relation]
        if not locks or self._connection is None:
            return
        try:
            # Several statements at once are one transaction.
            send_all(self._connection, [ddl.set_timeouts(patience_ms), *locks])
        except DBAPIError:
            # Then the next try finds out.
            return

    def _look(  # noqa: PLR0917 - a thread's arguments
        self,
        connection: Connection,
        pid: int,
        pause_s: float,
        long_wait: str | None,
        sight: Sight,
        stop: threading.Event,
    ) -> None:
        since: float | None = None
        said = -_REPORT_EVERY_S
        while not stop.wait(pause_s):
            try:
                found = read_blockers(connection, pid)
            except DBAPIError:
                # Only a message depends on it.
                return
            now = time.monotonic()
            since = (since or now) if found else None
            sight.blockers = found or sight.blockers
            if found and long_wait is None:
                return
            if since is not None and now - since > _LONG_S and now - said >= _REPORT_EVERY_S:
                said = now
                self.report(f"{long_wait} waits for {describe_blockers(found)}: {advise(found)}")
            pause_s = min(_MAX_PAUSE_S, pause_s * 1.5)


def read_blockers(connection: Connection, pid: int) -> list[Blocker]:
    """Return whom the session *pid* waits for at this moment."""
    return [Blocker(**row) for row in read_rows(connection, "blockers", pid=pid)]
