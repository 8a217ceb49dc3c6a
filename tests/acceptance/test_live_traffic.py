"""Real client processes write all the time while commands run: nothing fails, nothing is lost."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine

from alembic_zero import pin_engine
from alembic_zero.names import client_name, version_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

    from sqlalchemy import URL

    from tests.support.project import AlembicProject
    from tests.support.server import Database

ROWS = 50_000
COUNTERS = range(1, 21)
UNTOUCHED = range(40_001, ROWS + 1)
OWNED = range(100, 40_001)

Style = Literal["autocommit", "prepared", "transactions", "slow", "counters"]

# Name, and whether its old version goes by the base table.
CLIENTS: list[tuple[Style, bool]] = [
    ("autocommit", False),
    ("prepared", True),
    ("transactions", False),
    ("transactions", True),
    ("counters", False),
    ("counters", False),
]

UPGRADE = """
    op.zd_add_column("people", sa.Column("first_name", sa.Text, nullable=False), up="split_part(name, ' ', 1)")
    op.zd_add_column("people", sa.Column("last_name", sa.Text, nullable=False), up="split_part(name, ' ', 2)")
    op.zd_drop_column("people", "name", down="first_name || ' ' || last_name")
    op.zd_alter_column("people", "points", type_=sa.BigInteger(), new_column_name="score")
    op.zd_alter_column("people", "note", new_column_name="remark")
"""


# -- what a client knows -------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """A row as both versions show it; ``name`` and the two others are a lossy pair."""

    name: str
    first_name: str
    last_name: str
    email: str

    @classmethod
    def named(cls, name: str, email: str) -> Person:
        words = [*name.split(" "), ""]
        return cls(name, words[0], words[1], email)

    @classmethod
    def loaded(cls, key: int) -> Person:
        middle = f" Mid{key}" if key % 2 else ""
        return cls.named(f"First{key}{middle} Last{key}", f"{key}@example.org")

    def with_name(self, name: str) -> Person:
        return self if name == self.name else Person.named(name, self.email)

    def with_names(self, first_name: str, last_name: str) -> Person:
        if (first_name, last_name) == (self.first_name, self.last_name):
            return self
        return Person(f"{first_name} {last_name}", first_name, last_name, self.email)


LOAD = f"""
    INSERT INTO people (id, name, email)
    SELECT g, 'First' || g || CASE WHEN g % 2 = 1 THEN ' Mid' || g ELSE '' END || ' Last' || g, g || '@example.org'
    FROM generate_series(1, {ROWS}) AS g
"""


@dataclass
class Report:
    """What a client did; *people* holds None for rows that it deleted."""

    people: dict[int, Person | None] = field(default_factory=dict)
    increments: dict[int, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    statements: int = 0
    worst_ms: float = 0.0
    worst_statement: str = ""


# -- a client: runs in a process of its own ------------------------------------------------------


@dataclass
class LiveClient:
    """Writes rows that no other client writes, so that a deadlock can only be the migration's doing."""

    url: URL
    number: int
    style: Style
    by_base_table: bool
    pipe: Connection

    def __post_init__(self) -> None:
        self.random = random.Random(self.number)
        self.report = Report()
        self.revision = ""
        self.connection: psycopg.Connection[Any] | None = None
        self.inserted = 0
        self.prefix = ""
        self.stack = ExitStack()

    def run(self) -> None:
        """Obey the pipe: a revision to work for, or None to stop; write in between."""
        try:
            self._connect(self.pipe.recv())
            while True:
                if self.pipe.poll():
                    revision = self.pipe.recv()
                    if revision is None:
                        break
                    self._connect(revision)
                self._act()
                time.sleep(self.random.random() * 0.01)
        except (psycopg.Error, AssertionError):
            self.report.failures.append(f"client {self.number} ({self.style}): {traceback.format_exc(limit=-3)}")
        self.stack.close()
        self.pipe.send(self.report)

    # -- connections

    def _connect(self, revision: str) -> None:
        self.stack.close()
        self.revision = revision
        self.prefix = "public." if self.by_base_table and revision == "r0" else ""
        if self.prefix or self.number % 2:
            engine = create_engine(self.url, poolclass=NullPool)
            if not self.prefix:
                pin_engine(engine, revision)
            pooled = engine.raw_connection()
            self.stack.callback(pooled.close)
            connection = pooled.driver_connection
        else:
            connection = self.stack.enter_context(_connect_by_hand(self.url, revision))
        assert isinstance(connection, psycopg.Connection)
        connection.rollback()
        connection.autocommit = True
        connection.prepare_threshold = 0 if self.style == "prepared" else None
        self.connection = connection
        self.pipe.send(connection.info.backend_pid)

    def _execute(self, statement: str, *parameters: object) -> psycopg.Cursor[Any]:
        assert self.connection is not None
        started = time.perf_counter()
        cursor = self.connection.execute(statement.replace("people", f"{self.prefix}people", 1), parameters)
        elapsed_ms = (time.perf_counter() - started) * 1_000
        self.report.statements += 1
        if elapsed_ms > self.report.worst_ms:
            self.report.worst_ms, self.report.worst_statement = elapsed_ms, statement
        return cursor

    # -- what it does

    def _act(self) -> None:
        if self.style == "counters":
            self._count()
        elif self.style in ("transactions", "slow"):
            self._transact()
        else:
            self._write(self.report.people, self._keys(1)[0])

    def _count(self) -> None:
        """Increment a row that the others increment too."""
        key = self.random.choice(COUNTERS)
        column = "points" if self.revision == "r0" else "score"
        if self.random.random() < 0.5:
            cursor = self._execute(f"UPDATE people SET {column} = {column} + 1 WHERE id = %s RETURNING {column}", key)
        else:
            # The proposed row is never inserted, but it must satisfy the table.
            names = "name" if self.revision == "r0" else "first_name, last_name"
            values = ["x"] if self.revision == "r0" else ["x", "y"]
            cursor = self._execute(
                f"INSERT INTO people AS p (id, {names}, email) VALUES (%s, {', '.join(['%s'] * len(values))}, 'e') "
                f"ON CONFLICT (id) DO UPDATE SET {column} = p.{column} + 1 RETURNING {column}",
                *(key, *values),
            )
        assert cursor.rowcount == 1
        self.report.increments[key] = self.report.increments.get(key, 0) + 1

    def _transact(self) -> None:
        """Several rows in random order: a deadlock, if anyone else locks them in another one."""
        people = dict(self.report.people)
        self._execute("BEGIN")
        keys = self._keys(self.random.randint(2, 6))
        if self.random.random() < 0.2:
            self._execute("SELECT id FROM people WHERE id = ANY(%s) ORDER BY id DESC FOR UPDATE", keys)
        for key in keys:
            self._write(people, key)
            if self.style == "slow":
                time.sleep(0.1)
        if self.random.random() < 0.2:
            self._execute("ROLLBACK")
        else:
            self._execute("COMMIT")
            self.report.people = people
        if self.style == "slow":
            time.sleep(0.3)

    def _keys(self, count: int) -> list[int]:
        """Return keys of this client's rows, often of the last few, to find them unsynchronised or just so."""
        near = self.random.randrange(OWNED.start, OWNED.stop - 500)
        own = [key for key in range(near, near + 500) if key % len(CLIENTS) == self.number]
        return self.random.sample(own, count)

    def _write(self, people: dict[int, Person | None], key: int) -> None:
        person = people.get(key, Person.loaded(key))
        choice = self.random.random()
        if person is None or choice < 0.15:
            self.inserted += 1
            key = 1_000_000 * (self.number + 1) + self.inserted
            people[key] = self._insert(key)
        elif choice < 0.2:
            assert self._execute("DELETE FROM people WHERE id = %s", key).rowcount == 1
            people[key] = None
        elif choice < 0.45:
            email = f"{self.random.random()}@example.org"
            self._update(key, email=email)
            people[key] = replace(person, email=email)
        else:
            people[key] = self._rename(key, person)
        if self.random.random() < 0.3:
            self._check(key, people[key])

    def _word(self) -> str:
        return f"W{self.random.randrange(1_000)}"

    def _insert(self, key: int) -> Person:
        if self.revision == "r0":
            person = Person.named(f"{self._word()} {self._word()} {self._word()}", f"{key}@example.com")
            self._execute("INSERT INTO people (id, name, email) VALUES (%s, %s, %s)", key, person.name, person.email)
        else:
            first_name, last_name = f"{self._word()} {self._word()}", self._word()
            person = Person(f"{first_name} {last_name}", first_name, last_name, f"{key}@example.com")
            self._execute(
                "INSERT INTO people (id, first_name, last_name, email) VALUES (%s, %s, %s, %s)",
                *(key, first_name, last_name, person.email),
            )
        return person

    def _rename(self, key: int, person: Person) -> Person:
        """Change the name; now and then write it as it is."""
        if self.random.random() < 0.1:
            self._update(key, **self._shown(person))
            return person
        if self.revision == "r0":
            name = " ".join(self._word() for _ in range(self.random.randint(2, 3)))
            self._update(key, name=name)
            return person.with_name(name)
        first_name = f"{self._word()} {self._word()}"
        self._update(key, first_name=first_name)
        return person.with_names(first_name, person.last_name)

    def _update(self, key: int, **values: str) -> None:
        assignments = ", ".join(f"{name} = %s" for name in values)
        cursor = self._execute(f"UPDATE people SET {assignments} WHERE id = %s", *values.values(), key)
        assert cursor.rowcount == 1

    def _shown(self, person: Person) -> dict[str, str]:
        names = ("name",) if self.revision == "r0" else ("first_name", "last_name")
        return {name: getattr(person, name) for name in (*names, "email")}

    def _check(self, key: int, person: Person | None) -> None:
        """Read what was written."""
        shown = self._shown(person or Person.loaded(key))
        row = self._execute(f"SELECT {', '.join(shown)} FROM people WHERE id = %s", key).fetchone()
        expected = None if person is None else tuple(shown.values())
        assert row == expected, f"row {key} of {self.revision} is {row}, not {expected}"


@contextmanager
def _connect_by_hand(url: URL, revision: str) -> Iterator[psycopg.Connection[Any]]:
    """Connect as other drivers would, by the conventions of pin_engine."""
    with psycopg.connect(
        host=str(url.query["host"]),
        port=str(url.query["port"]),
        user=url.username,
        dbname=url.database,
        options=f"-c search_path={version_schema(revision)},public -c alembic_zero.revision={revision}",
        application_name=client_name("traffic", revision),
    ) as connection:
        yield connection


def run_client(url: URL, number: int, style: Style, by_base_table: bool, pipe: Connection) -> None:
    """Be a client until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    LiveClient(url, number, style, by_base_table, pipe).run()


# -- all of them ---------------------------------------------------------------------------------


class Traffic:
    """The clients, seen from the test."""

    def __init__(self, database: Database, clients: Sequence[tuple[Style, bool]], say: Callable[[str], None]) -> None:
        self.database = database
        self.say = say
        # Imports once for all clients; they are forked from a process without threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.pipes: list[Connection] = []
        self.processes = []
        self.pids: list[int] = []
        for number, (style, by_base_table) in enumerate(clients):
            here, there = context.Pipe()
            process = context.Process(
                target=run_client, args=(database.url, number, style, by_base_table, there), daemon=True
            )
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
            self.pids.append(0)
        self.switch("r0", range(len(clients)))

    def switch(self, revision: str, numbers: Sequence[int]) -> None:
        """Have clients work for another revision; return when their former connections are gone."""
        former = [self.pids[number] for number in numbers]
        for number in numbers:
            self.pipes[number].send(revision)
        for number in numbers:
            answer = self.pipes[number].recv()
            # A client that failed sends its report instead, and is gone.
            assert isinstance(answer, int), "\n".join(answer.failures)
            self.pids[number] = answer
        while self.database.fetch(f"SELECT 1 FROM pg_stat_activity WHERE pid = ANY (ARRAY{former})"):
            time.sleep(0.01)

    def stop(self) -> list[Report]:
        """Stop all clients and return what they did; none of their statements failed."""
        reports = []
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            reports.append(pipe.recv())
            process.join(10)
        failures = [failure for report in reports for failure in report.failures]
        assert not failures, "\n".join(failures)
        worst = max(reports, key=lambda report: report.worst_ms)
        self.say(
            f"{sum(report.statements for report in reports)} statements, the slowest took "
            f"{worst.worst_ms:.0f} ms: {worst.worst_statement}"
        )
        return reports

    def kill(self) -> None:
        """End whatever still runs, after a failed test."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join(10)


@pytest.fixture
def traffic(
    database: Database,
    project: AlembicProject,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Traffic]:
    """Clients of revision r0 at work on 50,000 rows; revision r1 is written, but not applied."""
    project.revision(
        "r0",
        upgrade="""
            op.create_table(
                "people",
                sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
                sa.Column("name", sa.Text, nullable=False),
                sa.Column("email", sa.Text, nullable=False),
                sa.Column("points", sa.Integer, nullable=False, server_default="0"),
                sa.Column("note", sa.Text),
            )
            op.create_table("other", sa.Column("id", sa.Integer, primary_key=True))
        """,
    )
    project.revision("r1", "r0", UPGRADE)
    project.run_in_process("upgrade", "r0")
    database.execute(LOAD)
    database.execute("VACUUM ANALYZE people")

    def say(line: str) -> None:
        with capfd.disabled():
            print(f"\n{request.node.name}: {line}")

    traffic = Traffic(database, getattr(request, "param", CLIENTS), say)
    time.sleep(0.3)
    yield traffic
    traffic.kill()


ALL = range(len(CLIENTS))
EARLY = ALL[::2]
LATE = ALL[1::2]


def _expected(reports: Sequence[Report]) -> dict[int, Person]:
    people: dict[int, Person | None] = {key: Person.loaded(key) for key in range(1, ROWS + 1)}
    for report in reports:
        people.update(report.people)
    return {key: person for key, person in people.items() if person is not None}


def check_people(database: Database, relation: str, columns: Sequence[str], reports: Sequence[Report]) -> None:
    """Compare every row: those that were written, and those that nobody touched."""
    found = {row[0]: row[1:] for row in database.fetch(f"SELECT id, {', '.join(columns)} FROM {relation}")}
    wanted = {key: tuple(getattr(person, name) for name in columns) for key, person in _expected(reports).items()}
    wrong = {key: (found.get(key), wanted.get(key)) for key in found.keys() | wanted.keys()}
    wrong = {key: pair for key, pair in wrong.items() if pair[0] != pair[1]}
    assert not wrong, f"{len(wrong)} rows of {relation} are not as they were written: {list(wrong.items())[:5]}"
    written = {key for report in reports for key in report.people}
    assert not written & set(UNTOUCHED)


def check_counters(database: Database, relation: str, column: str, reports: Sequence[Report]) -> None:
    increments = {key: sum(report.increments.get(key, 0) for report in reports) for key in COUNTERS}
    found = dict(database.fetch(f"SELECT id, {column} FROM {relation} WHERE id <= {COUNTERS[-1]}"))
    assert found == increments
    assert not database.fetch(f"SELECT id FROM {relation} WHERE id > {COUNTERS[-1]} AND {column} <> 0")


def check_completed(database: Database, reports: Sequence[Report]) -> None:
    for relation in (f"{version_schema('r1')}.people", "public.people"):
        check_people(database, relation, ("first_name", "last_name", "email"), reports)
        check_counters(database, relation, "score", reports)
    assert _columns(database) == {"id", "first_name", "last_name", "email", "score", "remark"}


def check_as_before(database: Database, reports: Sequence[Report]) -> None:
    for relation in (f"{version_schema('r0')}.people", "public.people"):
        check_people(database, relation, ("name", "email"), reports)
        check_counters(database, relation, "points", reports)
    assert _columns(database) == {"id", "name", "email", "points", "note"}


def _columns(database: Database) -> set[str]:
    rows = database.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return {name for (name,) in rows}


def _checksums(database: Database) -> Mapping[str, object]:
    """Return digests of the rows that nobody touches, as both versions show them."""
    return {
        revision: database.fetch(
            f"SELECT count(*), md5(string_agg(ROW({columns})::text, '' ORDER BY id)) "
            f"FROM {version_schema(revision)}.people WHERE id BETWEEN {UNTOUCHED[0]} AND {UNTOUCHED[-1]}"
        )
        for revision, columns in (("r0", "id, name, email"), ("r1", "id, first_name, last_name, email"))
    }


def kill_repeatedly(project: AlembicProject, *arguments: str, times: int, seed: int) -> None:
    """Start a command and kill it, again and again, a little later every time; then let it finish."""
    chance = random.Random(seed)
    for number in range(times):
        process = project.start(*arguments)
        time.sleep(0.35 + chance.random() * 0.25 * (1 + number))
        process.kill()
        process.communicate()
    project.run(*arguments)


# -- the tests -----------------------------------------------------------------------------------


def test_complete__clients_of_both_versions_writing__nothing_fails_and_nothing_is_lost(traffic, database, project):
    project.run("upgrade", "r1")
    before = _checksums(database)
    traffic.switch("r1", EARLY)
    time.sleep(0.8)
    assert _checksums(database) == before
    traffic.switch("r1", LATE)
    project.run("zd-complete", "r1")
    time.sleep(0.3)
    check_completed(database, traffic.stop())


def test_rollback__clients_of_both_versions_writing__everything_written_meanwhile_is_there(traffic, database, project):
    project.run("upgrade", "r1")
    traffic.switch("r1", EARLY)
    time.sleep(0.8)
    traffic.switch("r0", EARLY)
    project.run("downgrade", "r0")
    time.sleep(0.3)
    check_as_before(database, traffic.stop())


def test_kill_9__at_random_moments_of_upgrade_and_complete__runs_again_and_converges(traffic, database, project):
    kill_repeatedly(project, "upgrade", "r1", times=4, seed=database.server.version)
    traffic.switch("r1", ALL)
    kill_repeatedly(project, "zd-complete", "r1", times=3, seed=database.server.version)
    check_completed(database, traffic.stop())


def test_kill_9__upgrade_then_rollback__everything_written_meanwhile_is_there(traffic, database, project):
    process = project.start("upgrade", "r1")
    time.sleep(0.9)
    process.kill()
    process.communicate()
    kill_repeatedly(project, "downgrade", "r0", times=1, seed=database.server.version)
    check_as_before(database, traffic.stop())


@pytest.mark.parametrize("traffic", [[*CLIENTS[:4], ("slow", False), ("counters", False)]], indirect=True, ids=["slow"])
def test_long_transactions__open_all_the_time__nobody_waits_for_anybody(traffic, database, project):
    with (
        database.connect(autocommit=False) as writing,
        database.connect(autocommit=False) as reading,
    ):
        writing.execute("INSERT INTO other (id) VALUES (1)")
        reading.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reading.execute("SELECT count(*) FROM other")
        project.run("upgrade", "r1")
        traffic.switch("r1", EARLY)
        time.sleep(0.3)
        traffic.switch("r1", LATE)
        project.run("zd-complete", "r1")
        assert reading.execute("SELECT count(*) FROM other").fetchone() == (0,)
        writing.commit()
    check_completed(database, traffic.stop())
