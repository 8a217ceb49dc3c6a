"""zd-verify against a second opinion in plain SQL: random corruption, and clients that never stop.

ALEMBIC_ZERO_VERIFY_SECONDS (default 5) is how long clients write while it looks; ALEMBIC_ZERO_VERIFY_SEEDS (default 1)
how many random corruptions of each kind there are.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest

from tests.acceptance.test_verify import MEMBERS, MOVED, corrupt, verify
from tests.support.harness import AFTER, BEFORE, Case, Flight, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.support.server import Database

pytestmark = pytest.mark.one_server

SECONDS = float(os.environ.get("ALEMBIC_ZERO_VERIFY_SECONDS", "5"))
SEEDS = int(os.environ.get("ALEMBIC_ZERO_VERIFY_SEEDS", "1"))
ROWS = 60
LISTED = 20  # of each kind


@dataclass(frozen=True)
class Kind:
    """A migration, and in plain SQL over the table what is wrong with a row.

    :param cells: by physical column, values that corruption may put there.
    :param oracle: condition that is true for a row whose versions do not agree; ``t`` is the table.
    :param key: how zd-verify names a row, as SQL.
    :param old: what old clients do, over :id; *new* the same.
    :param more: a further revision on top.
    """

    name: str
    table: str
    setup: str
    upgrade: str
    cells: dict[str, Sequence[str]]
    oracle: str
    old: Sequence[str]
    new: Sequence[str]
    key: str = "'(id)=(' || id || ')'"
    more: str = ""


SPLIT_UP = """
    op.zd_add_column("p", sa.Column("first", sa.Text), up="split_part(name, ' ', 1)")
    op.zd_add_column("p", sa.Column("last", sa.Text, nullable=False), up="COALESCE(split_part(name, ' ', 2), '')")
    op.zd_drop_column("p", "name", down="first || ' ' || last")
"""
SPLIT_ORACLE = """(
    (first IS DISTINCT FROM split_part(name, ' ', 1) OR last IS DISTINCT FROM COALESCE(split_part(name, ' ', 2), ''))
    AND name IS DISTINCT FROM first || ' ' || last)"""
NAMES = ("'A B'", "'A B C'", "NULL", "''", "'Ada Lovelace'")
SPLIT_CELLS = {"name": NAMES, "first": ("'A'", "'X Y'", "NULL", "''"), "last": ("'B'", "'Z'", "''")}
SPLIT_OLD = ("UPDATE p SET name = 'Old  Name' WHERE id = :id", "UPDATE p SET name = NULL WHERE id = :id",
             "UPDATE p SET name = 'A B C' WHERE id = :id", "UPDATE p SET note = 'x' WHERE id = :id")  # fmt: skip
SPLIT_NEW = (
    "UPDATE p SET first = 'N M' WHERE id = :id",
    "UPDATE p SET last = 'Q R' WHERE id = :id",
    "UPDATE p SET first = NULL, last = 'z' WHERE id = :id",
    "UPDATE p SET note = 'y' WHERE id = :id",
)
FILLED = f"INSERT INTO p (id, name) SELECT i, 'First' || i || ' Last' || i FROM generate_series(1, {ROWS}) AS i"

KINDS = [
    Kind(
        "split", "p", f"CREATE TABLE p (id integer PRIMARY KEY, name text, note text); {FILLED}",
        SPLIT_UP, SPLIT_CELLS, SPLIT_ORACLE, SPLIT_OLD, SPLIT_NEW,
    ),
    Kind(
        "chain", "p", f"CREATE TABLE p (id integer PRIMARY KEY, name text, note text); {FILLED}",
        SPLIT_UP, SPLIT_CELLS | {"upper_first": ("'A'", "'x y'", "NULL", "''")},
        f"({SPLIT_ORACLE} OR upper_first IS DISTINCT FROM upper(first) AND first IS DISTINCT FROM lower(upper_first))",
        SPLIT_OLD, SPLIT_NEW[1:],
        more="""op.zd_alter_column("p", "first", new_column_name="upper_first", up="upper(first)",
            down="lower(upper_first)")""",
    ),
    Kind(
        "partitioned_without_key", "p",
        "CREATE TABLE p (id integer, name text, note text) PARTITION BY LIST ((id % 3));"
        + "".join(f"CREATE TABLE p{n} PARTITION OF p FOR VALUES IN ({n});" for n in range(3)) + FILLED,
        SPLIT_UP, SPLIT_CELLS, SPLIT_ORACLE, SPLIT_OLD, SPLIT_NEW,
        key="'(partition, ctid)=' || ROW(tableoid::regclass, ctid::text)::text",
    ),
    Kind(
        "many_to_one", "p",
        f"""CREATE TABLE p (id integer PRIMARY KEY, a boolean NOT NULL, b boolean NOT NULL, n integer, note text);
            INSERT INTO p SELECT i, i % 2 = 0, i % 3 = 0, i FROM generate_series(1, {ROWS}) AS i""",
        """
        op.zd_add_column("p", sa.Column("s", sa.String(9), nullable=False),
            up="CASE WHEN a THEN CASE WHEN b THEN 'both' ELSE 'a' END ELSE CASE WHEN b THEN 'b' ELSE 'none' END END")
        op.zd_drop_column("p", "a", down="s IN ('a', 'both', 'A')")
        op.zd_drop_column("p", "b", down="s IN ('b', 'both')")
        op.zd_alter_column("p", "n", new_column_name="big", type_=sa.Numeric, up="n * 2", down="(big / 2)::integer")
        """,
        {"a": ("true", "false"), "b": ("true", "false"), "s": ("'a'", "'both'", "'none'", "'A'", "'other'"),
         "n": ("7", "NULL", "8"), "big": ("14", "15", "NULL", "16.0")},
        """(s <> CASE WHEN a THEN CASE WHEN b THEN 'both' ELSE 'a' END ELSE CASE WHEN b THEN 'b' ELSE 'none' END END
            AND (a <> (s IN ('a', 'both', 'A')) OR b <> (s IN ('b', 'both')))
            OR big::text IS DISTINCT FROM (n * 2)::numeric::text AND n IS DISTINCT FROM (big / 2)::integer)""",
        ("UPDATE p SET a = NOT a WHERE id = :id", "UPDATE p SET b = true, n = n + 1 WHERE id = :id",
         "UPDATE p SET n = NULL WHERE id = :id"),
        ("UPDATE p SET s = 'A' WHERE id = :id", "UPDATE p SET s = 'both', big = 3.1 WHERE id = :id",
         "UPDATE p SET big = NULL WHERE id = :id"),
    ),
]  # fmt: skip


def _fly(kind: Kind, database: Database, directory: Path) -> tuple[Flight, str]:
    """Bring a kind's migration in flight; return it with the newest revision."""
    flight = Flight(Case(kind.name, kind.setup, kind.upgrade, "pass"), database, directory)
    flight.run("upgrade", AFTER)
    if not kind.more:
        return flight, AFTER
    flight.project.revision("r3", AFTER, kind.more)
    flight.run("upgrade", "r3")
    return flight, "r3"


def _write(client: Session, statement: str, row: int) -> None:
    # A new client's value may have no old one.
    with suppress(psycopg.errors.DataError, psycopg.errors.IntegrityError):
        client.connection.execute(statement.replace(":id", str(row)).encode())


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_zd_verify__random_corruption__what_plain_sql_finds(
    kind: Kind, seed: int, database: Database, tmp_path: Path
) -> None:
    chance = random.Random(f"{kind.name} {seed}")
    flight, newest = _fly(kind, database, tmp_path / "project")
    with flight.client(BEFORE) as old, flight.client(newest) as new:
        for _ in range(80):
            client, statements = chance.choice([(old, kind.old), (new, kind.new)])
            statement = chance.choice(statements)
            if kind.more and client is new:
                statement = statement.replace("first", "upper_first")
            _write(client, statement, chance.randint(1, ROWS))
    assert verify(flight)["consistent"]
    assert database.fetch(f"SELECT FROM {kind.table} WHERE {kind.oracle}") == []
    writes = []
    for _ in range(LISTED - 2):
        column = chance.choice(list(kind.cells))
        writes.append(
            f"UPDATE p SET {column} = {chance.choice(kind.cells[column])} WHERE id = {chance.randint(1, ROWS)}"
        )
    writes.append("UPDATE p SET _zd_v = NULL WHERE id = 1")
    corrupt(database, kind.table, *writes)
    wrong = database.fetch(f"SELECT {kind.key} FROM {kind.table} WHERE {kind.oracle} AND _zd_v IS NOT NULL")
    expected = {(key, "inconsistent") for (key,) in wrong}
    expected |= {
        (key, "not synchronised") for (key,) in database.fetch(f"SELECT {kind.key} FROM p WHERE _zd_v IS NULL")
    }
    said = verify(flight)
    assert len(expected) > 5
    assert {(f["key"], f["kind"]) for f in said["discrepancies"]} == expected
    assert said["rows"] == len(expected)
    repaired = verify(flight, f"--repair={chance.choice(['old', 'new'])}")
    assert database.fetch(f"SELECT FROM {kind.table} WHERE {kind.oracle}") == []
    assert repaired["consistent"], repaired["discrepancies"]
    assert repaired["repaired"] == len(expected)


# -- clients that never stop -----------------------------------------------------------------------------

LIVE = [
    (MEMBERS, "users", {
        "old": ["UPDATE users SET account_role = 'oLd :n' WHERE id = :id",
                "UPDATE users SET account_id = :a WHERE id = :id",
                "UPDATE users SET account_id = NULL WHERE id = :id"],
        "new": ["UPDATE account_users SET role = 'New :n' WHERE user_id = :id",
                "DELETE FROM account_users WHERE user_id = :id",
                "INSERT INTO account_users VALUES (:a, :id, 'Mixed :n') ON CONFLICT DO NOTHING"],
    }, ["UPDATE account_users SET role = 'wrong' WHERE user_id IN (58, 59)"], {"(id)=(58)", "(id)=(59)"},
     "account_users"),
    (MOVED, "profiles", {
        "old": ["UPDATE users SET email = 'oLd :n' WHERE id = :id", "UPDATE profiles SET user_id = :id WHERE id = :id"],
        "new": ["UPDATE profiles SET email = 'New :n' WHERE id = :id",
                "UPDATE profiles SET user_id = :id WHERE id = :id",
                "UPDATE profiles SET email = NULL WHERE user_id = :id"],
    }, ["UPDATE profiles SET email = 'wrong' WHERE id IN (48, 49)"], {"(id)=(48)", "(id)=(49)"}, "profiles"),
    (Case("split", KINDS[0].setup, KINDS[0].upgrade, "pass"), "p", {"old": SPLIT_OLD, "new": SPLIT_NEW},
     ["UPDATE p SET first = 'wrong' WHERE id IN (58, 59)"], {"(id)=(58)", "(id)=(59)"}, "p"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "table", "writes", "corruption", "expected", "where"),
    LIVE,
    ids=lambda v: v.name if isinstance(v, Case) else "",
)
def test_zd_verify__clients_write_all_the_time__corrupted_rows_and_no_other(
    case: Case, table: str, writes: dict[str, Sequence[str]], corruption: list[str], expected: set[str], where: str,
    database: Database, tmp_path: Path,
) -> None:  # fmt: skip
    """Writers of both versions leave their transactions open now and then; every look finds just what is wrong."""
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    corrupt(database, where, *corruption)
    with Writers(flight, writes) as writers:
        end, looks = time.monotonic() + SECONDS, 0
        while time.monotonic() < end or not looks:
            said = verify(flight)
            # A row that gave way to a writer of the other table is quarantined for the moment, and truly so.
            wrong = {f["key"] for f in said["discrepancies"] if f["kind"] != "quarantined"}
            assert wrong == expected, json.dumps(said["discrepancies"], indent=1)
            looks += 1
    print(f"{case}: {looks} looks during {writers.statements} statements")
    assert writers.failures == []
    assert writers.statements > 10
    assert verify(flight, "--repair")["consistent"]


class Writers:
    """Two clients of each version, which write rows 1 to 40 in short transactions until the end of the block."""

    def __init__(self, flight: Flight, writes: dict[str, Sequence[str]]) -> None:
        self._stop = threading.Event()
        self.failures: list[Any] = []
        self.statements = 0
        jobs: list[tuple[str, Sequence[str]]] = [(BEFORE, writes["old"]), (AFTER, writes["new"])] * 2
        self._threads = [
            threading.Thread(target=self._work, args=(flight, *job, seed)) for seed, job in enumerate(jobs)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, flight: Flight, revision: str, statements: Sequence[str], seed: int) -> None:
        chance = random.Random(seed)
        pick: Callable[[], str] = lambda: (  # noqa: E731
            chance.choice(statements)
            .replace(":id", str(chance.randint(1, 40)))
            .replace(":a", str(chance.randint(1, 9)))
            .replace(":n", str(chance.randint(1, 9)))
        )
        with flight.client(revision) as client:
            client.connection.execute(f"SET alembic_zero.revision = '{revision}'".encode())
            while not self._stop.is_set():
                try:
                    with client.connection.transaction():
                        client.connection.execute(pick().encode())
                        if chance.random() < 0.2:
                            time.sleep(0.2)
                    self.statements += 1
                except psycopg.Error as error:
                    self.failures.append(error)
                    return
