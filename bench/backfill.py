"""``alembic upgrade`` of a table that must be backfilled, against one plain UPDATE of the same column."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.support import Comparison, new_project, process_cpu_s, say, spread, timed, title

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.support import Database, Options, Project, Server

_TABLE = (
    """CREATE TABLE items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    amount integer NOT NULL,
    name text NOT NULL,
    payload text NOT NULL)""",
    """INSERT INTO items (amount, name, payload)
SELECT n % 100000, 'name of ' || n, repeat(md5(n::text), 3) FROM generate_series(1, {rows}) AS n""",
    "CREATE INDEX ix_items_amount ON items (amount)",
    "VACUUM (FREEZE, ANALYZE) items",
)

_UPGRADE = """op.zd_alter_column("items", "amount", type_=sa.BigInteger, existing_type=sa.Integer,
    up="amount::bigint * 100", down="(amount / 100)::integer")"""

_YARDSTICK = "UPDATE items SET amount = amount + 1"

_STEP = re.compile(r"alembic_zero: expand: (\w+) .*\(([\d.]+) s\)")


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    seconds: float
    cpu: float
    wal_mb: float
    growth: float
    steps: dict[str, float]


def _heap_bytes(database: Database) -> int:
    return int(database.value("SELECT pg_relation_size('items')"))


def _ended_cpu_s(database: Database) -> float:
    """Return CPU seconds of all server processes that have ended."""
    time.sleep(0.3)  # the last one may have said goodbye only just now
    return process_cpu_s(database.server.pid, children=True)


def _measure(database: Database, work: Callable[[], object]) -> Cost:
    heap, wal, cpu = _heap_bytes(database), database.wal_position(), _ended_cpu_s(database)
    said: list[str] = []
    seconds = timed(lambda: said.append(str(work())))
    cpu = _ended_cpu_s(database) - cpu
    wal_mb = (database.wal_position() - wal) / 1e6
    steps: dict[str, float] = defaultdict(float)
    for name, took in _STEP.findall(said[0]):
        steps[name] += float(took)
    return Cost(seconds, cpu, wal_mb, _heap_bytes(database) / heap, steps)


def _upgrade(server: Server, template: str, project: Project) -> Cost:
    with server.database(template) as database:
        cost = _measure(database, lambda: project.run(database, "upgrade", "r2"))
        _check(database)
    return cost


def _check(database: Database) -> None:
    """Fail unless every row has its new value, whatever the columns are called just now."""
    schema = database.value("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_' AND nspname ~ 'r2'")
    query = f"""SELECT count(*) FROM items AS a JOIN "{schema}".items AS b USING (id)
                 WHERE b.amount IS DISTINCT FROM a.amount::bigint * 100"""
    wrong = database.value(query)
    if wrong:
        raise SystemExit(f"{wrong} rows are wrong")


def _plain(server: Server, template: str) -> Cost:
    with server.database(template) as database:
        return _measure(database, lambda: database.execute(_YARDSTICK))


def run(server: Server, options: Options) -> None:
    rows = options.size(1_000_000, 50_000)
    title(f"backfill: type change of an indexed NOT NULL column, {rows:,} rows")
    with server.database() as template, new_project() as project:
        template.execute(*(text.format(rows=rows) for text in _TABLE))
        project.revision("r1")
        project.run(template, "stamp", "r1")
        project.revision("r2", _UPGRADE)
        ours, plain = [], []
        for number in range(options.times(5)):
            for which in (0, 1) if number % 2 else (1, 0):
                if which:
                    plain.append(_plain(server, template.name))
                else:
                    ours.append(_upgrade(server, template.name, project))
    _report(rows, ours, plain)


def _report(rows: int, ours: list[Cost], plain: list[Cost]) -> None:
    total = Comparison(spread([c.seconds for c in ours]), spread([c.seconds for c in plain]))
    cpu = Comparison(spread([c.cpu for c in ours]), spread([c.cpu for c in plain]))
    wal = Comparison(spread([c.wal_mb for c in ours]), spread([c.wal_mb for c in plain]))
    step = Comparison(spread([c.steps["backfill"] for c in ours]), total.yardstick)
    say(f"alembic upgrade      {total.measured.show(' s')}   one UPDATE {total.yardstick.show(' s')}")
    say(f"  ratio              {total.ratio.show()}")
    say(f"server CPU           {cpu.measured.show(' s')}   one UPDATE {cpu.yardstick.show(' s')}")
    say(f"  ratio              {cpu.ratio.show()}")
    say(f"backfill step alone  {step.measured.show(' s')}   ratio {step.ratio.show()}")
    for name in sorted({name for c in ours for name in c.steps} - {"backfill"}):
        say(f"  {name:18} {spread([c.steps[name] for c in ours]).show(' s')}")
    fast, yard = rows / step.measured.median, rows / total.yardstick.median
    say(f"rows/s               {fast:,.0f}   one UPDATE {yard:,.0f}")
    say(f"WAL                  {wal.measured.show(' MB', 0)}   one UPDATE {wal.yardstick.show(' MB', 0)}")
    say(f"  ratio              {wal.ratio.show()}")
    say(f"heap after / before  {spread([c.growth for c in ours]).show()}   one UPDATE "
        f"{spread([c.growth for c in plain]).show()}")  # fmt: skip
