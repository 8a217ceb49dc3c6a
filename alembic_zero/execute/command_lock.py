"""The command lock: of all commands that change one project in one database, one works."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.blockers import read_blockers
from alembic_zero.execute.session import autocommit
from alembic_zero.operations.errors import MigrationError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.blockers import Blocker
    from alembic_zero.execute.session import Sessions

# Advisory locks of two integers, the second one from the project: whose database has locks with
# one of these as the first is the only one who could get in the way.
COMMAND_CLASS = 1_514_427_763
SESSIONS_CLASS = 1_514_427_765

_FIRST_PAUSE_S = 0.01
_MAX_PAUSE_S = 0.2
_LINGER_S = 0.5
_KEEP_ALIVE_S = 5.0


@dataclass
class CommandLock:
    """An advisory lock of a session that does nothing else, and shared ones of all other sessions of the command.

    A process that is killed loses the first at once. Its other sessions may still be at a long statement, of which
    the server learns only later that nobody waits for it: nobody else begins before they have ended.

    :param project: what tells this project from others in the database.
    :param wait_s: how long to wait for another command.
    :param keep_alive: keeps env.py's connection from being idle for too long.
    """

    sessions: Sessions
    project: str
    wait_s: float
    report: Callable[[str], None]
    keep_alive: Callable[[], None]
    _guard: Connection | None = None

    @property
    def is_held(self) -> bool:
        """Whether this command has it."""
        return self._guard is not None

    def take(self) -> bool:
        """Wait until no other command works on this project; return whether there was one.

        :raises RefusedError: the other one takes too long; says who it is.
        """
        if self._guard is not None:
            return False
        guard = autocommit(self.sessions.open())
        deadline = time.monotonic() + max(self.wait_s, _LINGER_S)
        waited = self._wait(guard, COMMAND_CLASS, deadline)
        waited = self._wait(guard, SESSIONS_CLASS, deadline) or waited
        read_rows(guard, "free_advisory", **self._key(SESSIONS_CLASS))
        self.sessions.join = lambda connection: read_rows(connection, "share_advisory", **self._key(SESSIONS_CLASS))
        self._guard = guard
        return waited

    def check(self) -> None:
        """Make sure that the lock is still there.

        :raises MigrationError: its session has ended; another command may be working.
        """
        if self._guard is None:
            return
        try:
            rows = (
                [] if self._guard.invalidated else read_rows(self._guard, "holds_advisory", **self._key(COMMAND_CLASS))
            )
            held = any(row["held"] for row in rows)
        except DBAPIError:
            held = False
        if not held:
            raise MigrationError(
                "the session that holds the command lock has been ended, so another command may have begun; what is "
                "done is recorded, clients go on working: look at alembic zd-status, then run this one again",
                code="ZD304",
            )

    def holder(self, connection: Connection) -> str | None:
        """Return who holds the lock, or still works for one who has been killed; None if nobody does."""
        for lock_class, orphaned in ((COMMAND_CLASS, False), (SESSIONS_CLASS, True)):
            rows = read_rows(connection, "advisory_holders", **self._key(lock_class))
            if rows:
                return _describe(rows, orphaned=orphaned)
        return None

    def blockers(self, connection: Connection) -> list[Blocker]:
        """Return whom the sessions of the command that holds the lock wait for at this moment."""
        rows = read_rows(connection, "advisory_holders", **self._key(COMMAND_CLASS))
        pids = [one["pid"] for row in rows for one in row["busy"] or () if one["state"] == "active"]
        return [blocker for pid in pids for blocker in read_blockers(connection, pid)]

    def _key(self, lock_class: int) -> dict[str, Any]:
        return {"class": lock_class, "key": self.project}

    def _wait(self, guard: Connection, lock_class: int, deadline: float) -> bool:
        """Wait for an exclusive lock; return whether it was not to be had at once."""
        began = kept = time.monotonic()
        waited, said, pause = False, False, _FIRST_PAUSE_S
        while not read_rows(guard, "try_advisory", **self._key(lock_class))[0]["taken"]:
            now = time.monotonic()
            # The sessions of a command that has just ended are there for a moment.
            if not said and now - began > _LINGER_S:
                self.report(f"waiting: another command is running: {self.holder(guard) or 'just ended'}")
                said = True
            if now > deadline:
                raise RefusedError(
                    f"another command is still running: {self.holder(guard) or 'just ended'}; nothing was changed",
                    code="ZD302",
                    next_command="alembic zd-status",
                )
            if not waited or now - kept > _KEEP_ALIVE_S:
                # Its transaction must not stay open either: the other command may wait for it.
                self.keep_alive()
                kept = now
            waited = True
            time.sleep(pause)
            pause = min(_MAX_PAUSE_S, pause * 1.5)
        return waited

    def close(self) -> None:
        """Forget the session; who closes it gives up the lock."""
        with suppress(DBAPIError):
            if self._guard is not None and not self._guard.invalidated:
                read_rows(self._guard, "free_advisory", **self._key(COMMAND_CLASS))
        self._guard = None
        self.sessions.join = None


def _describe(rows: Sequence[Mapping[str, Any]], *, orphaned: bool) -> str:
    """Return who holds the lock: process, since when, what its sessions do."""
    row = rows[0]
    origin = f" from {row['address']}" if row["address"] else ""
    who = f"pid {row['pid']}, application_name {row['application_name']!r}, role {row['role']}{origin}"
    since = f"since {row['since']:%Y-%m-%d %H:%M:%S %Z}" if row["since"] else "since an unknown time"
    busy = [
        f"pid {one['pid']} {one['state']} for {one['seconds']} s: {one['query']!r}"
        for one in row["busy"] or ()
        if one["state"] != "idle"
    ]
    doing = "; ".join(busy) if busy else "no statement is running at this moment"
    if orphaned:
        return (
            f"{who}: its process has ended, its statement has not ({doing}); the server ends it by itself, "
            f"or SELECT pg_terminate_backend({row['pid']})"
        )
    return f"{who}, {since} ({doing})"
