"""Watch our own transactions from within: which locks they hold, when they took them, what they scanned under them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.server import Database

# What conflicts with a client's INSERT, UPDATE or DELETE, or even with its SELECT; weakest first.
STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")

# Statements that take a step's locks and do nothing else.
_UP_FRONT = re.compile(r"\s*(LOCK TABLE |DO |SELECT )")
_REHEARSAL = "SET CONSTRAINTS ALL IMMEDIATE"

# Tables and views of users, and the views of versions; what the schema alembic_zero has is behind those.
_HELD = """
SELECT c.oid::bigint, c.oid::regclass::text, array_agg(l.mode ORDER BY l.mode),
       COALESCE(max(s.seq_tup_read), 0)::bigint
  FROM pg_locks l
  JOIN pg_class c ON c.oid = l.relation
  LEFT JOIN pg_stat_xact_user_tables s ON s.relid = c.oid
 WHERE l.pid = pg_backend_pid() AND l.granted AND l.locktype = 'relation' AND l.mode = ANY (%s::text[])
   AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relnamespace <> 'pg_catalog'::regnamespace
   AND c.relnamespace IS DISTINCT FROM to_regnamespace('alembic_zero')
   AND c.relnamespace::regnamespace::text !~ '_zd_trial'
 GROUP BY c.oid
"""


# Views, and what they read: a table that no version shows, no client knows.
_SHOWN = """
SELECT DISTINCT d.refobjid::bigint FROM pg_depend d
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
"""


@dataclass(frozen=True)
class Held:
    """The strongest lock that a transaction holds on a relation; rows that it has read there one after another."""

    name: str
    mode: str
    rows_read: int


@dataclass
class Transaction:
    """One transaction of ours: what it held when it had taken its locks, and when it ended."""

    statements: list[str] = field(default_factory=list)
    up_front: dict[int, Held] = field(default_factory=dict)
    end: dict[int, Held] = field(default_factory=dict)

    def taken_late(self) -> Iterator[str]:
        """Yield each strong lock that the transaction took, or made stronger, after its first change.

        Where it is the only one, nobody can stand behind another one meanwhile.
        """
        for oid, held in self.end.items():
            before = self.up_front.get(oid)
            if before is None and len(self.end) == 1:
                continue
            if before is None or STRONG.index(before.mode) < STRONG.index(held.mode):
                yield f"{held.mode} on {held.name}, held up front: {before.mode if before else 'nothing'}"

    def scanned(self) -> Iterator[str]:
        """Yield each table whose rows the transaction read through while it had a strong lock on it."""
        if _REHEARSAL in self.statements:
            # It updates a row, with all triggers, within a statement_timeout; its DDL comes again in the step.
            return
        for oid, held in self.end.items():
            before = self.up_front.get(oid)
            rows = held.rows_read - (before.rows_read if before else 0)
            if rows > 0:
                yield f"{rows} rows of {held.name} read under {held.mode}"


@dataclass
class LockAudit:
    """All transactions of ours, while the block of :func:`audited` runs, that held a strong lock in the end."""

    database: Database
    transactions: list[Transaction] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Return what breaks the rules, with the statements of the transaction."""
        return [
            f"{problem}\n  " + "\n  ".join(one.statements)
            for one in self.transactions
            for problem in (*one.taken_late(), *one.scanned())
        ]


@contextmanager
def audited(database: Database) -> Iterator[LockAudit]:
    """Audit the transactions of SQLAlchemy connections of this process, to *database*, in the block."""
    audit = LockAudit(database)
    running: dict[int, Transaction] = {}
    with database.connect() as outside:

        def held(connection: Any) -> dict[int, Held]:
            rows = connection.connection.driver_connection.execute(_HELD, [list(STRONG)], prepare=False).fetchall()
            # From outside: what the transaction itself has created, nobody else sees or waits for.
            known = {oid for (oid,) in outside.execute(_SHOWN)}
            return {
                oid: Held(name, max(modes, key=STRONG.index), read) for oid, name, modes, read in rows if oid in known
            }

        def relevant(connection: Any) -> bool:
            return connection.engine.url.database == database.name and not _is_autocommit(connection)

        def after(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if not relevant(connection):
                return
            one = running.setdefault(id(connection), Transaction())
            changing = not _UP_FRONT.match(statement)
            if not changing and not any(not _UP_FRONT.match(s) for s in one.statements if "alembic_zero" not in s):
                one.up_front = held(connection)
            one.statements.append(" ".join(statement.split())[:200])

        def ending(connection: Any) -> None:
            one = running.pop(id(connection), None)
            if one is not None and relevant(connection):
                one.end = held(connection)
                if one.end:
                    audit.transactions.append(one)

        def forget(connection: Any) -> None:
            # A failed transaction answers no questions.
            if _is_failed(connection):
                running.pop(id(connection), None)
            else:
                ending(connection)

        listeners: Mapping[str, Any] = {"after_cursor_execute": after, "commit": ending, "rollback": forget}
        for name, listener in listeners.items():
            event.listen(Engine, name, listener)
        try:
            yield audit
        finally:
            for name, listener in listeners.items():
                event.remove(Engine, name, listener)


def _is_autocommit(connection: Any) -> bool:
    return bool(connection.connection.driver_connection.autocommit)


def _is_failed(connection: Any) -> bool:
    return bool(connection.invalidated) or _status(connection) != "INTRANS"


def _status(connection: Any) -> str:
    return str(connection.connection.driver_connection.info.transaction_status.name)
