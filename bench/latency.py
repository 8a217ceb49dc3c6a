"""The slowest client statement while upgrade and complete run, against the same clients left alone.

A report, not a judgement: the worst of many on a shared machine is mostly the machine's.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from bench.support import new_project, say, spread, title

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bench.support import Database, Options, Project, Server

_CLIENTS = 4
_PAUSE_S = 0.005
_LEAD_S = 0.5
_UPGRADE = """op.zd_alter_column("items", "amount", type_=sa.BigInteger, existing_type=sa.Integer,
    up="amount::bigint * 100", down="(amount / 100)::integer")"""


@dataclass
class Client(threading.Thread):
    """Writes and reads rows of its own in short transactions; keeps every statement's latency."""

    database: Database
    table: str
    rows: int
    stop: threading.Event
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        chance = random.Random(id(self))
        with self.database.connect(autocommit=False) as connection:
            while not self.stop.is_set():
                key = chance.randrange(1, self.rows + 1)
                try:
                    self._transaction(connection, key)
                except psycopg.Error as error:
                    self.errors.append(str(error).splitlines()[0])
                    connection.rollback()
                time.sleep(_PAUSE_S)

    def _transaction(self, connection: psycopg.Connection[Any], key: int) -> None:
        for sql in (
            f"SELECT amount, name FROM {self.table} WHERE id = %s",
            f"UPDATE {self.table} SET amount = amount + 100 WHERE id = %s",
            f"UPDATE {self.table} SET name = name || '.' WHERE id = %s",
        ):
            started = time.perf_counter()
            connection.execute(sql.encode(), (key,))
            self.latencies.append(time.perf_counter() - started)
        connection.commit()


def _under_load(database: Database, tables: list[str], rows: int, work: Callable[[], object]) -> list[Client]:
    stop = threading.Event()
    clients = [Client(database, tables[n % len(tables)], rows, stop) for n in range(_CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(_LEAD_S)
    try:
        work()
    finally:
        stop.set()
        for client in clients:
            client.join()
    return clients


def _report(label: str, clients: list[Client], took: float) -> tuple[float, float]:
    values = sorted(value * 1000 for client in clients for value in client.latencies)
    errors = [error for client in clients for error in client.errors]
    p999 = values[int(len(values) * 0.999)]
    say(f"  {label:22} {took:6.2f} s  {len(values):7,} statements  p50 {values[len(values) // 2]:.2f}  "
        f"p99.9 {p999:.1f}  worst {values[-1]:.1f} ms  errors {len(errors)}"
        + (f" ({errors[0]})" if errors else ""))  # fmt: skip
    return values[-1], p999


def _command(project: Project, database: Database, *arguments: str) -> None:
    command, variables = project.command(database, *arguments)
    # Python's interpreter lock is shared with the client threads: wait without holding it.
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"alembic {' '.join(arguments)} exited with {done.returncode}\n{done.stderr}")


def _once(server: Server, template: str, project: Project, rows: int) -> list[tuple[float, float]]:
    found = []
    with server.database(template) as database:
        found.append(_pair(project, database, ["items"], rows, "upgrade", "r2"))
        after = database.value("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_.*r2'")
        found.append(_pair(project, database, [f'"{after}".items'], rows, "zd-complete", "--force"))
    return found


def _pair(project: Project, database: Database, tables: list[str], rows: int, *arguments: str) -> tuple[float, float]:
    """Return how many times slower the worst statement, and the 99.9th percentile, is with the command."""
    started = time.perf_counter()
    clients = _under_load(database, tables, rows, lambda: _command(project, database, *arguments))
    took = time.perf_counter() - started
    with_it = _report(" ".join(arguments), clients, took)
    alone = _under_load(database, tables, rows, lambda: time.sleep(max(0.0, took - _LEAD_S)))
    without = _report("left alone", alone, took)
    return with_it[0] / without[0], with_it[1] / without[1]


def run(server: Server, options: Options) -> None:
    rows = options.size(300_000, 20_000)
    title(f"latency: {_CLIENTS} clients on {rows:,} rows while commands run, in ms")
    with server.database() as template, new_project() as project:
        template.execute(
            "CREATE TABLE items (id bigint PRIMARY KEY, amount integer NOT NULL, name text NOT NULL)",
            f"INSERT INTO items SELECT n, n * 100, 'name' FROM generate_series(1, {rows}) AS n",
            "CREATE INDEX ix_items_amount ON items (amount)",
            "VACUUM (FREEZE, ANALYZE) items",
        )
        project.revision("r1")
        project.run(template, "stamp", "r1")
        project.run(template, "zd-init")
        project.revision("r2", _UPGRADE)
        found = [_once(server, template.name, project, rows) for _ in range(options.times(3))]
    for place, name in enumerate(("upgrade", "zd-complete")):
        worst = spread([run_[place][0] for run_ in found])
        high = spread([run_[place][1] for run_ in found])
        say(f"{name:12} worst statement {worst.show()} times that without; p99.9 {high.show()} times")
