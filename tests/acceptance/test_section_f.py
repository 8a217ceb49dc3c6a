"""REDTEAM F, what it had not tested: pg_repack, foreign and unlogged tables, companions, SSI, wraparound, MERGE.

Several heads, merges and stamp are in test_branches.py, whole migrations on other servers in test_versions.py.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from tests.acceptance.test_redteam import fly
from tests.support.harness import (
    AFTER,
)

MANY_USERS = """
    CREATE TABLE users (id integer PRIMARY KEY, name text, email text);
    INSERT INTO users SELECT i, 'First' || i || ' Last' || i, 'e' || i FROM generate_series(1, 3000) AS i;
"""
LINKED = """
    CREATE TABLE users (id integer PRIMARY KEY, email text);
    CREATE TABLE profiles (user_id integer PRIMARY KEY, note text);
    INSERT INTO users SELECT i, 'e' || i FROM generate_series(1, 3000) AS i;
    INSERT INTO profiles SELECT i, 'n' || i FROM generate_series(1, 3000) AS i;
    DELETE FROM profiles WHERE user_id <= 1000;
"""
LINK = """
    op.zd_add_column("profiles", sa.Column("email", sa.Text),
        up=alembic_zero.from_table("users", "users.email", where="profiles.user_id = users.id"))
"""


@contextmanager
def running(target):
    """Run *target(stop)* in a thread while the block runs; its exception is raised at the end."""
    stop, failures = threading.Event(), []

    def run():
        try:
            target(stop)
        except BaseException as error:  # noqa: BLE001 - raised again by the block
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


# -- rewrites: VACUUM FULL, CLUSTER, pg_repack --------------------------------------------------------


def test_f_rewrite_while_linked_values_are_filled__no_row_gets_another_ones_value(database, tmp_path):
    """The values are kept by ctid; a rewrite of the table between finding and writing them moves every row."""
    flight = fly(database, tmp_path, LINKED, LINK, run=False)
    with database.connect(autocommit=False) as hold:
        # The first range notes its position here: that comes after the values have been found.
        hold.execute("LOCK TABLE alembic_zero.backfill IN EXCLUSIVE MODE")
        process = flight.project.start("upgrade", AFTER)
        waiting = "SELECT FROM pg_locks WHERE relation = 'alembic_zero.backfill'::regclass AND NOT granted"
        wait_for(lambda: database.fetch(waiting) or process.poll() is not None, "the backfill waits")
        database.execute("VACUUM FULL profiles")
        hold.rollback()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    with flight.client(AFTER) as client:
        assert client.fetch("SELECT count(*) FROM profiles WHERE email = 'e' || user_id") == [(2000,)]
    flight.run("zd-complete")
    assert database.fetch("SELECT count(*) FROM profiles WHERE email = 'e' || user_id") == [(2000,)]
