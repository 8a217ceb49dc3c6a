"""Runs a scenario through all its phases while clients of both versions work, and checks what is left."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from alembic_zero import version_schema
from alembic_zero.names import client_name
from alembic_zero.sql.quoting import ident
from tests.support.harness import AFTER, APP, BEFORE, Flight, assert_nothing_left, assert_same, plain_dump
from tests.traffic import disturbances
from tests.traffic.access import Address
from tests.traffic.disturbances import Disturbances, Observer
from tests.traffic.fleet import HALVES, Fleet, Order
from tests.traffic.report import Run
from tests.traffic.workload import FIRST, SHARED, UNTOUCHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.server import Database
    from tests.traffic.client import Ledger
    from tests.traffic.scenarios import Scenario
    from tests.traffic.workload import Relation, Version

Outcome = Literal["complete", "rollback"]
OUTCOMES: tuple[Outcome, ...] = ("complete", "rollback")

REVISIONS: Mapping[Version, str] = {"old": BEFORE, "new": AFTER}
_COMMAND_S = 600
_NO_LOCK = "ZD310"
_SHOWN_ROWS = 3


@dataclass(frozen=True)
class Size:
    """How much traffic there is.

    :param phase_s: how long clients work undisturbed by commands, before, between and after them.
    :param disturbances: the readers, idle transactions and row locks.
    :param threads: clients in each process.
    :param think_s: the longest pause of a client between two acts.
    :param catalog: whether the catalog is compared with plain Alembic's, too.
    """

    rows: int
    phase_s: float
    disturbances: disturbances.Size
    threads: int = 1
    think_s: float = 0.0
    catalog: bool = True


# For trying a workload, and the harness itself.
TINY = Size(rows=2_000, phase_s=0.3, disturbances=disturbances.Size(0.5, 1.0), threads=1, think_s=0.15, catalog=False)
# What "make test" has time for.
SMALL = Size(rows=12_000, phase_s=0.5, disturbances=disturbances.Size(3.0, 3.0), think_s=0.15)
# Clients that never pause would leave no moment without a lock, at which alone a strong one can be had.
FULL = Size(rows=100_000, phase_s=5.0, disturbances=disturbances.Size(10.0, 5.0), threads=2, think_s=0.05)
SIZES = {"tiny": TINY, "small": SMALL, "full": FULL}


def run_traffic(scenario: Scenario, outcome: Outcome, size: Size, database: Database, directory: Path) -> Run:
    """Run *scenario* with *outcome* and return what happened; nothing is raised for what clients met."""
    run = Run(f"{scenario.name} {outcome}")
    try:
        Journey(scenario, size, Flight(scenario.case, database, directory), run).go(outcome)
    except (AssertionError, psycopg.Error, TimeoutError) as error:
        run.problems.append(f"{type(error).__name__}: {error}")
    return run


class Journey:
    """One run: the fleet, what disturbs it, and the commands."""

    def __init__(self, scenario: Scenario, size: Size, flight: Flight, run: Run) -> None:
        self.scenario = scenario
        self.workload = scenario.workload
        self.size = size
        self.flight = flight
        self.database = flight.database
        self.run = run

    def go(self, outcome: Outcome) -> None:
        """Go through all phases, then check; what clients counted is in the run, whatever happens."""
        started = time.monotonic()
        try:
            self._go(outcome)
        finally:
            self.run.seconds = time.monotonic() - started

    def _go(self, outcome: Outcome) -> None:
        self.loaded = self._digest("old")
        with ExitStack() as stack:
            self.fleet = stack.enter_context(Fleet(self._order()))
            observer = stack.enter_context(Observer(self.database.connect(), APP))
            self.disturbances = stack.enter_context(Disturbances(self._open, self.size.disturbances, self.workload.old))
            self.run.waits = observer.waits
            try:
                self._go_through_phases(outcome)
            finally:
                answer = self.fleet.stop()
                self.run.tally = answer.tally
        self._check_ended("new" if outcome == "complete" else "old", answer.ledgers)

    def _go_through_phases(self, outcome: Outcome) -> None:
        self._work("before")
        if self.scenario.draft:
            self._draft()
        self._command("upgrade", "upgrade", AFTER)
        self.fleet.switch("new", ["first"])
        self._work("in flight")
        self._check_in_flight()
        if outcome == "complete":
            self._end("old", "complete", "zd-complete")
        else:
            self._end("new", "rollback", "downgrade", BEFORE)
        self._work("after")

    def _order(self) -> Order:
        url = self.database.url.set(username=APP)
        addresses = {
            version: Address(url, revision, self.scenario.case.path) for version, revision in REVISIONS.items()
        }
        size = self.size
        clients = len(HALVES) * 4 * size.threads
        return Order(self.scenario.name, addresses, size.rows, clients, 0, size.threads, "core", size.think_s)

    def _open(self, version: Version, what: str) -> psycopg.Connection[Any]:
        """Open a session as other programs than the application would."""
        connection = self.database.connect(user=APP, autocommit=False)
        connection.execute(f"SET application_name = 'traffic {what}'".encode())
        connection.execute(f"SET search_path = {version_schema(REVISIONS[version])}".encode())
        connection.commit()
        return connection

    # -- phases

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.run.phases[name] = self.run.phases.get(name, 0.0) + time.monotonic() - started

    def _work(self, name: str) -> None:
        with self._phase(name):
            time.sleep(self.size.phase_s)

    def _command(self, phase: str, *arguments: str) -> None:
        with self._phase(phase):
            done = self.flight.project.run(*arguments, timeout_s=_COMMAND_S, check=False)
            if _NO_LOCK in done.stderr:
                # On a machine this busy there was no moment without a lock: the error says to run it again.
                self.run.repeated += 1
                done = self.flight.project.run(*arguments, timeout_s=_COMMAND_S, check=False)
            assert done.returncode == 0, f"alembic {' '.join(arguments)}: {done.stdout}{done.stderr}"

    def _draft(self) -> None:
        """Try another text of the revision first, and take it back."""
        project, case = self.flight.project, self.scenario.case
        project.revision(AFTER, BEFORE, self.scenario.draft)
        self._command("draft", "upgrade", AFTER)
        self._work("in flight")
        project.revision(AFTER, BEFORE, case.upgrade, case.downgrade, prelude=case.prelude)
        self._command("draft", "downgrade", BEFORE)

    def _end(self, version: Version, phase: str, *arguments: str) -> None:
        """Move the clients of the version that ends, as a deployment does, and end it."""
        stays: Version = "old" if version == "new" else "new"
        self.fleet.switch(stays, ["first" if version == "new" else "second"])
        self.disturbances.follow(stays, self.workload.side(stays))
        self._await_clients_gone(version)
        self._check_in_flight()
        self.staying = self._digest(stays)
        self._command(phase, *arguments)

    def _await_clients_gone(self, version: Version) -> None:
        """Wait until the server has noticed that the connections are closed."""
        name = client_name("", REVISIONS[version])
        query = f"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%{name}'"
        deadline = time.monotonic() + 30
        while self.database.fetch(query):
            assert time.monotonic() < deadline, f"clients of {REVISIONS[version]} are still connected"
            time.sleep(0.02)

    # -- checks

    def _check_in_flight(self) -> None:
        """Compare both versions, each query in one snapshot, while everybody writes."""
        schemas = {version: version_schema(revision) for version, revision in REVISIONS.items()}
        for query in self.workload.agree:
            rows = self.database.fetch(query.format(**schemas))
            if rows:
                self.run.problems.append(
                    f"the versions disagree on {len(rows)} rows: {rows[:_SHOWN_ROWS]} ({' '.join(query.split())})"
                )
        self._check_digest("old", self.loaded, "in flight")

    def _digest(self, version: Version) -> object:
        """Return a digest of the rows that nobody writes, as *version* shows them."""
        root = self.workload.side(version).root
        columns = ", ".join(map(ident, root.shown))
        with self.database.connect() as connection:
            return connection.execute(
                f"SELECT count(*), md5(string_agg(ROW({columns})::text, '' ORDER BY {ident(root.key)}))"
                f" FROM {version_schema(REVISIONS[version])}.{ident(root.name)}"
                f" WHERE {ident(root.key)} BETWEEN %s AND %s".encode(),
                (
                    root.key_of(FIRST + int(self.size.rows * (1 - UNTOUCHED)) + 1),
                    root.key_of(FIRST + self.size.rows - 1),
                ),
            ).fetchone()

    def _check_digest(self, version: Version, expected: object, when: str) -> None:
        found = self._digest(version)
        if found != expected:
            self.run.problems.append(f"rows that nobody writes have changed {when}: {found}, not {expected}")

    def _check_ended(self, version: Version, ledgers: Mapping[Version, Ledger]) -> None:
        """Compare what is left with what every client knows, in the version and in the tables."""
        if set(ledgers) != {version}:
            self.run.problems.append(f"clients ended as {sorted(ledgers)}, not {version}")
        self._check_digest(version, self.staying, "in the end")
        if version == "old":
            self._check_digest(version, self.loaded, "since they were loaded")
        for schema in (version_schema(REVISIONS[version]), "public"):
            self._check_counters(schema, self.workload.side(version).root)
            for relation in self.workload.side(version).relations:
                self._check_ledger(schema, relation, ledgers[version])
        self._check_catalog(version)

    def _check_counters(self, schema: str, root: Relation) -> None:
        if root.counter is None:
            return
        shared = [root.key_of(number) for number in range(FIRST, FIRST + SHARED)]
        with self.database.connect() as connection:
            found = connection.execute(
                f"SELECT sum({root.counter}) FILTER (WHERE {ident(root.key)} = ANY (%s)), sum({root.counter})"
                f" FROM {schema}.{ident(root.name)}".encode(),
                (shared,),
            ).fetchone()
        expected = self.run.tally.increments
        if found != (expected, expected):
            self.run.tally.lost.append(f"{expected} increments, and {schema} has {found}")

    def _check_ledger(self, schema: str, relation: Relation, ledger: Ledger) -> None:
        columns = ", ".join(map(ident, relation.shown))
        with self.database.connect() as connection:
            rows = connection.execute(f"SELECT {columns} FROM {schema}.{ident(relation.name)}".encode()).fetchall()
        found = {row[0]: dict(zip(relation.shown, row, strict=True)) for row in rows}
        for (name, key), expected in ledger.items():
            if name == relation.name:
                self.run.tally.checked += 1
                if found.get(key) != expected:
                    self.run.tally.lost.append(f"{schema}.{name} {key} is {found.get(key)}, not {expected}")

    def _check_catalog(self, version: Version) -> None:
        assert_nothing_left(self.database)
        if version == "old":
            assert_same(self.flight.dump(), self.flight.original, "rolled back under traffic")
        elif self.size.catalog:
            plain = plain_dump(self.scenario.case, self.database, self.flight.project.directory.parent)
            assert_same(self.flight.dump(), plain, "completed under traffic")
