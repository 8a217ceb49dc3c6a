"""One alembic command in a process of its own that halts before one of its round trips to the server.

What a process has done to a database changes only from one round trip to the next: halts before each statement
and each COMMIT are all the instants that there are between them. The product knows nothing of it: psycopg's
methods and some of the product's are wrapped, in that process alone.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import re
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import alembic.config  # noqa: F401 - imported once, by the process that all runs are forked from
import psycopg
from psycopg.pq import TransactionStatus

import alembic_zero.driver
import alembic_zero.road  # noqa: F401 - the same
from alembic_zero.execute.executor import Executor
from alembic_zero.execute.journal import Journal
from tests.support.project import CHECKOUT, _main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

LAST = "exit"

_READS = re.compile(r"(\s|--[^\n]*\n)*(SELECT|SHOW|SET|BEGIN|ROLLBACK|SAVEPOINT)\b", re.IGNORECASE)
_PATIENCE_S = 120


@dataclass(frozen=True)
class RoundTrip:
    """One message to the server, about to be sent.

    :param stage: what the command is at: a journaled step's entry, its work, or what comes around them.
    :param index: number of the round trip within the stage.
    :param changes: whether it makes a change permanent: a COMMIT, or a statement in autocommit mode.
    :param at_s: seconds since the process began.
    """

    stage: str
    index: int
    text: str
    changes: bool
    at_s: float


@dataclass(frozen=True)
class Ending:
    """How a command ended by itself: its exit code, or None for an exception that it let through."""

    code: int | None
    output: str
    trips: tuple[RoundTrip, ...]


class Watch:
    """Counts the round trips of this process; tells the test when the wanted one comes.

    :param halt: stage and index of the round trip before which to halt.
    :param waits: whether to wait there until the test says to go on; else the test is only told.
    """

    def __init__(self, pipe: Connection, halt: tuple[str, int] | None, *, waits: bool) -> None:
        self.trips: list[RoundTrip] = []
        self._pipe = pipe
        self._halt = halt
        self._waits = waits
        self._stage = "begin"
        self._counts: Counter[str] = Counter()
        self._dirty: set[int] = set()
        self._started = time.monotonic()

    def enter(self, stage: str) -> None:
        """Begin another stage."""
        self._stage = stage

    def trip(self, text: str, *, changes: bool) -> None:
        """Take note of a round trip; halt if it is the one."""
        index = self._counts[self._stage]
        self._counts[self._stage] += 1
        text = " ".join(text.split())[:60]
        self.trips.append(RoundTrip(self._stage, index, text, changes, time.monotonic() - self._started))
        if (self._stage, index) == self._halt:
            self._pipe.send("halted")
            if self._waits:
                self._pipe.recv()

    def install(self) -> None:
        """Wrap what sends statements and what runs steps, in this process."""
        self._wrap_execute()
        self._wrap_commit()
        self._wrap_stage(Journal, "start_step", _entry, _entry)
        self._wrap_stage(Executor, "_run_step", _work, _after)
        self._wrap_stage(Executor, "run", None, lambda *_: "end")

    def _wrap_execute(self) -> None:
        execute = psycopg.Cursor.execute

        @functools.wraps(execute)
        def watched(cursor: Any, query: Any, *args: Any, **kw: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            changes = _READS.match(text) is None
            if changes:
                self._dirty.add(id(cursor.connection))
            self.trip(text, changes=changes and cursor.connection.autocommit)
            return execute(cursor, query, *args, **kw)

        psycopg.Cursor.execute = watched  # type: ignore[method-assign]

    def _wrap_commit(self) -> None:
        commit = psycopg.Connection.commit

        @functools.wraps(commit)
        def watched(connection: Any) -> None:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                self.trip("COMMIT", changes=id(connection) in self._dirty)
                self._dirty.discard(id(connection))
            commit(connection)

        psycopg.Connection.commit = watched  # type: ignore[method-assign]

    def _wrap_stage(
        self, owner: type, name: str, before: Callable[..., str] | None, after: Callable[..., str] | None
    ) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args: Any) -> Any:
            if before is not None:
                self.enter(before(*args))
            result = original(*args)
            if after is not None:
                self.enter(after(*args))
            return result

        setattr(owner, name, watched)


def _entry(_journal: Any, _connection: Any, _migration: int, phase: str, position: int, step: Any) -> str:
    return f"{phase} {position} {step.name}: entry"


def _work(_executor: Any, _migration: Any, phase: str, position: int, step: Any) -> str:
    return f"{phase} {position} {step.name}: work"


def _after(_executor: Any, _migration: Any, phase: str, position: int, step: Any) -> str:
    return f"{phase} {position} {step.name}: after"


def run_watched(pipe: Connection, argv: list[str], halt: tuple[str, int] | None, waits: bool) -> None:
    """Run an alembic command; what the forked process does."""
    watch = Watch(pipe, halt, waits=waits)
    watch.install()
    output = io.StringIO()
    code = None
    with redirect_stdout(output), redirect_stderr(output):
        try:
            code = _main(argv)
        except Exception:  # noqa: BLE001 - the test judges it
            traceback.print_exc()
    watch.enter(LAST)
    watch.trip("exit", changes=False)
    pipe.send(Ending(code, output.getvalue(), tuple(watch.trips)))


class Command:
    """A command that runs in another process, until it ends or until it is killed."""

    def __init__(
        self, ini: Path, arguments: Sequence[str], halt: tuple[str, int] | None = None, *, waits: bool = True
    ) -> None:
        self.pipe, there = multiprocessing.Pipe()
        argv = ["-c", str(ini), *arguments]
        self.process = _context().Process(target=run_watched, args=(there, argv, halt, waits), daemon=True)
        self.process.start()
        there.close()

    def wait_halted(self) -> Ending | None:
        """Wait until it has halted; return how it ended if it never did."""
        answer = self._receive()
        return answer if isinstance(answer, Ending) else None

    def go_on(self) -> None:
        """Let it go on after its halt."""
        self.pipe.send("go on")

    def wait_ended(self) -> Ending:
        """Wait until it has ended by itself."""
        try:
            answer = self._receive()
            if not isinstance(answer, Ending):
                answer = self._receive()
            return answer
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill it, if it still runs: SIGKILL, no chance to clean up."""
        if self.pipe.closed:
            return
        self.process.kill()
        self.process.join(_PATIENCE_S)
        self.process.close()
        self.pipe.close()

    def _receive(self) -> Any:
        if not self.pipe.poll(_PATIENCE_S):
            raise TimeoutError("the command neither halts nor ends")
        return self.pipe.recv()


@functools.cache
def _context() -> Any:
    """Return what starts processes: a server that has imported everything forks one within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    # The fork server imports by its own path.
    saved = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), saved]))
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        from multiprocessing.forkserver import ensure_running

        ensure_running()
    finally:
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        if saved is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = saved
    return context
