"""Other sessions that are in the way, and an observer of who waits for whom."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import psycopg

from alembic_zero.sql.quoting import ident
from tests.traffic.report import Waits
from tests.traffic.workload import FIRST, HELD, SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.traffic.workload import Relation, Side, Version

_SAMPLE_S = 0.02

# Clients only: the migration's own sessions go by other names. waitstart is empty for a moment after the wait began.
_WAITING = """
SELECT l.locktype, extract(epoch FROM clock_timestamp() - l.waitstart)::float8, a.query
  FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
 WHERE NOT l.granted AND l.waitstart IS NOT NULL AND a.datname = current_database() AND a.usename = %s
"""


class _Background(threading.Thread):
    """A thread that runs until its ``with`` block ends; what it raises is raised there."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.over.set()
        self.join()
        if self.error is not None and exc_info[0] is None:
            raise self.error

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for this one
            self.error = error

    def work(self) -> None:
        """Do what the thread is for, until :attr:`over`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Size:
    """How long disturbances last: a reader, and then some time without."""

    reader_s: float
    pause_s: float


class Disturbances(_Background):
    """In turns: a long reader of all tables, an idle transaction, and locked rows; then a pause.

    They come at the same time and end at about the same time, as otherwise nobody would ever get a strong lock.

    :param connect: opens a session by name of what it is, of the version that stays.
    :param side: what that version uses; :meth:`follow` changes it.
    """

    def __init__(self, connect: Callable[[Version, str], psycopg.Connection[Any]], size: Size, side: Side) -> None:
        super().__init__()
        self._connect = connect
        self._size = size
        self._now: tuple[Version, Side] = ("old", side)
        self._random = random.Random(0)
        self._between = threading.Event()
        self.turns = 0

    def follow(self, version: Version, side: Side) -> None:
        """Disturb by another version from the next turn on; return when no session of the former one is left."""
        self._now = version, side
        self._between.clear()
        while not self._between.wait(0.1):
            if not self.is_alive():
                return

    def work(self) -> None:
        while not self.over.is_set():
            self._between.set()
            self._turn(*self._now)
            self.turns += 1
            self._between.set()
            self.over.wait(self._size.pause_s)

    def _turn(self, version: Version, side: Side) -> None:
        with ExitStack() as stack:
            idle = stack.enter_context(self._connect(version, "idle"))
            idle.execute("CREATE TEMPORARY TABLE scratch ON COMMIT DROP AS SELECT 1 AS one")
            locker = stack.enter_context(self._connect(version, "locker"))
            # By the version that all clients have in common: the same rows for all.
            low, high = FIRST + SHARED, FIRST + SHARED + HELD
            root = side.root
            locker.execute(
                f"SELECT FROM {ident(root.name)} WHERE {ident(root.key)} BETWEEN %s AND %s FOR UPDATE".encode(),
                (root.key_of(low), root.key_of(high - 1)),
            )
            reader = stack.enter_context(self._connect(version, "reader"))
            reading = threading.Thread(target=self._read, args=(reader, side.relations))
            reading.start()
            self.over.wait(self._size.reader_s * self._random.uniform(0.5, 0.9))
            locker.commit()
            reading.join()
            idle.commit()

    def _read(self, connection: psycopg.Connection[Any], relations: Sequence[Relation]) -> None:
        """Run one statement that has all tables open for as long as it takes."""
        tables = ", ".join(
            f"(SELECT FROM {ident(relation.name)} LIMIT 1) AS t{n}" for n, relation in enumerate(relations)
        )
        try:
            connection.execute(f"SELECT pg_sleep(%s) FROM {tables}".encode(), (self._size.reader_s,))
            connection.commit()
        except psycopg.Error as error:
            self.error = error


class Observer(_Background):
    """Samples which clients wait for a lock, and remembers the longest waits."""

    def __init__(self, connection: psycopg.Connection[Any], role: str) -> None:
        super().__init__()
        self._connection = connection
        self._role = role
        self.waits = Waits()

    def work(self) -> None:
        with self._connection:
            while not self.over.is_set():
                for kind, seconds, query in self._connection.execute(_WAITING.encode(), (self._role,)):
                    self.waits.add(kind, seconds, query)
                time.sleep(_SAMPLE_S)
