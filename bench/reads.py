"""SELECT by key through the new version's two-deep view, against the base table."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from bench.support import interleave, new_project, say, title

if TYPE_CHECKING:
    from typing import Any

    import psycopg

    from bench.support import Options, Server

_COLUMNS = "id, first_name, last_name, email"
_UPGRADE = """
op.zd_add_column("users", sa.Column("first_name", sa.Text), up="split_part(name, ' ', 1)")
op.zd_add_column("users", sa.Column("last_name", sa.Text), up="split_part(name, ' ', 2)")
op.zd_drop_column("users", "name", down="first_name || ' ' || last_name")
"""


def _plan(connection: psycopg.Connection[Any], query: str) -> str:
    rows = connection.execute(f"EXPLAIN (COSTS OFF) {query}".encode()).fetchall()
    return "\n".join(row[0] for row in rows)


def _block_ms(connection: psycopg.Connection[Any], query: str, keys: range, *, prepare: bool) -> float:
    """Return milliseconds a statement, over one statement for each key."""
    started = time.perf_counter()
    for key in keys:
        connection.execute(query.encode(), (key,), prepare=prepare).fetchall()
    return (time.perf_counter() - started) * 1000 / len(keys)


def run(server: Server, options: Options) -> None:
    rows = options.size(200_000, 10_000)
    title(f"reads: SELECT by key, two-deep view against base table, {rows:,} rows")
    with server.database() as database, new_project() as project:
        database.execute(
            "CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, email text)",
            f"INSERT INTO users SELECT n, 'Ada Lovelace', 'ada@example.org' FROM generate_series(1, {rows}) n",
        )
        project.revision("r1")
        project.run(database, "stamp", "r1")
        project.revision("r2", _UPGRADE)
        project.run(database, "upgrade", "r2")
        view = str(database.value("SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_.*r2'"))
        with database.connect() as connection:
            connection.execute(b"VACUUM (ANALYZE) users")
            _compare(connection, f'"{view}".users', options)


def _compare(connection: psycopg.Connection[Any], view: str, options: Options) -> None:
    physical = str(_base_columns(connection, view))
    through, direct = f"SELECT {_COLUMNS} FROM {view}", f"SELECT {physical} FROM users"
    same = _plan(connection, f"{through} WHERE id = 1") == _plan(connection, f"{direct} WHERE id = 1")
    say(f"EXPLAIN of the view and of the base table: {'the same' if same else 'DIFFERENT'}")
    count = options.size(2_000, 500)
    for label, condition, prepare in (
        ("by key, prepared", "id = %s", True),
        ("by key, planned each time", "id = %s", False),
        ("1,000 rows, prepared", "id BETWEEN %s AND 1000", True),
    ):
        keys = range(1, (count if "key" in label else count // 20) + 1)
        queries = [f"{query} WHERE {condition}" for query in (through, direct)]
        found = interleave(
            lambda: _block_ms(connection, queries[0], keys, prepare=prepare),  # noqa: B023
            lambda: _block_ms(connection, queries[1], keys, prepare=prepare),  # noqa: B023
            options.times(21, 5),
        )
        say(f"{label:28} view {found.measured.show(' ms', 3)}   base {found.yardstick.show(' ms', 3)}   "
            f"ratio {found.ratio.show()}")  # fmt: skip


def _base_columns(connection: psycopg.Connection[Any], view: str) -> str:
    """Return the base table's columns that the view shows, in the view's order."""
    lines = _plan_verbose(connection, f"SELECT {_COLUMNS} FROM {view} WHERE id = 1")
    match = re.search(r"Output: (.*)", lines)
    assert match is not None
    return match.group(1)


def _plan_verbose(connection: psycopg.Connection[Any], query: str) -> str:
    rows = connection.execute(f"EXPLAIN (COSTS OFF, VERBOSE) {query}".encode()).fetchall()
    return "\n".join(row[0] for row in rows)
