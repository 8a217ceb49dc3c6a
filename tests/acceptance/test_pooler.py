"""zd-complete sees clients of older versions and lists them: direct ones, and those behind PgBouncer."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import NullPool, create_engine, text

from alembic_zero import pin_engine
from alembic_zero.names import client_name
from tests.acceptance.test_locks import PEOPLE, SPLIT
from tests.support.harness import AFTER, APP, BEFORE, Case, Flight
from tests.support.pooler import find_pgbouncer, running_pooler

pytestmark = pytest.mark.one_server

needs_pgbouncer = pytest.mark.skipif(
    find_pgbouncer() is None, reason="no pgbouncer on the PATH, in /usr/sbin, or named by ALEMBIC_ZERO_PGBOUNCER"
)
OLD, NEW = client_name("web", BEFORE), client_name("web", AFTER)


@pytest.fixture
def flight(database, tmp_path):
    found = Flight(Case("pooler", PEOPLE, SPLIT, "pass"), database, tmp_path / "project")
    found.run("upgrade", AFTER)
    return found


def configure(flight, **extra):
    flight.project.write_env(extra=extra)


def refused(flight):
    """Run zd-complete, which must refuse; return what it says."""
    done = flight.project.run("zd-complete", check=False)
    assert done.returncode == 2, done
    assert "[ZD260]" in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_direct_clients__listed_with_name_role_state_and_number(flight):
    engine = pin_engine(
        create_engine(
            flight.database.url.set(username=APP), poolclass=NullPool, connect_args={"application_name": "web"}
        ),
        revision=BEFORE,
    )
    with engine.connect() as one, engine.connect() as two:
        one.execute(text("SELECT 1"))
        two.rollback()
        said = refused(flight)
        for words in (f"2 of version {BEFORE}: {OLD!r}, role {APP}", "idle in transaction", "idle", "since 20", "pid "):
            assert words in said
    flight.run("zd-complete")


@needs_pgbouncer
def test_session_mode__clients_are_seen_as_if_direct(flight):
    with running_pooler(flight.database, "session", size=3) as pooler:
        engine = pin_engine(
            create_engine(
                pooler.url().set(drivername="postgresql+psycopg"),
                poolclass=NullPool,
                connect_args={"application_name": "web"},
            ),
            revision=BEFORE,
        )
        with engine.connect() as client, pooler.connect(NEW) as new:
            client.execute(text("SELECT count(*) FROM people"))
            new.execute("SELECT 1")
            assert f"1 of version {BEFORE}: {OLD!r}" in refused(flight)
        # PgBouncer keeps the session, and resets it: its name is gone with the client.
        flight.run("zd-complete")


@needs_pgbouncer
def test_transaction_mode__client_that_works_now_and_then__seen_within_the_time_that_is_watched(flight):
    """One session of the server for all; at most moments it has the name of the other version's client."""
    configure(flight, zd_client_watch_s=4)
    stop = threading.Event()

    def busy(name, pause):
        with pooler.connect(name) as client:
            while not stop.is_set():
                client.execute("SELECT 1")
                time.sleep(pause)

    with running_pooler(flight.database, "transaction") as pooler:
        threads = [threading.Thread(target=busy, args=arguments) for arguments in ((OLD, 0.08), (NEW, 0.015))]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.5)
            assert f"1 of version {BEFORE}: {OLD!r}" in refused(flight)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)


@needs_pgbouncer
def test_transaction_mode__idle_client__only_the_console_knows_it(flight):
    """What is honestly not seen without the console is seen with it."""
    with running_pooler(flight.database, "transaction") as pooler, pooler.connect(OLD) as old:
        old.execute("SELECT 1")
        with pooler.connect(NEW) as new:
            new.execute("SELECT 1")
            configure(flight, zd_poolers=[str(pooler.url("pgbouncer"))])
            said = refused(flight)
            assert f"1 of version {BEFORE}: {OLD!r}" in said
            assert "through pooler postgresql://postgres@" in said
            assert '"clients": 1' in flight.run("zd-status", "--json").stdout


@needs_pgbouncer
def test_transaction_mode__session_with_the_name_of_one_who_has_gone__the_console_knows_better(flight):
    """Without the console it refuses, to be safe."""
    with running_pooler(flight.database, "transaction") as pooler:
        with pooler.connect(OLD) as old:
            old.execute("SELECT 1")
        assert f"1 of version {BEFORE}" in refused(flight)
        configure(flight, zd_poolers=[str(pooler.url("pgbouncer"))])
        flight.run("zd-complete")


def test_console_does_not_answer__refused__status_goes_on(flight):
    configure(flight, zd_poolers=["postgresql://postgres@/pgbouncer?host=/nowhere"])
    done = flight.project.run("zd-complete", check=False)
    assert done.returncode == 2
    assert "[ZD262]" in done.stdout + done.stderr
    assert "does not say who its clients are" in flight.run("zd-status").stderr
    flight.run("zd-complete", "--force")
