"""Two tables tied together, two writers on each side: both sides agree, and nobody is a deadlock's victim."""

from __future__ import annotations

import collections
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.harness import AFTER, BEFORE, Case, Flight, Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.server import Database

SECONDS = float(os.environ.get("ALEMBIC_ZERO_TRAFFIC_SECONDS", "8"))
PEOPLE = 12

# A column moves to a table that is there.
MOVED = Case(
    "moved",
    setup=f"""
        CREATE TABLE users (id integer PRIMARY KEY, email text, visits integer NOT NULL DEFAULT 0);
        CREATE TABLE profiles (user_id integer PRIMARY KEY REFERENCES users ON DELETE CASCADE, bio text);
        INSERT INTO users SELECT g, 'start ' || g FROM generate_series(1, {PEOPLE}) g;
        INSERT INTO profiles SELECT id FROM users;
    """,
    upgrade="""
        op.zd_add_column("profiles", sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", "users.email", where="profiles.user_id = users.id"))
        op.zd_drop_column("users", "email",
            down=alembic_zero.from_table("profiles", "profiles.email", where="users.id = profiles.user_id"))
    """,
    plain="",
)

# A column moves to a table that is made for it.
SPLIT = Case(
    "split",
    setup=f"""
        CREATE TABLE users (id integer PRIMARY KEY, email text, visits integer NOT NULL DEFAULT 0);
        INSERT INTO users SELECT g, 'start ' || g FROM generate_series(1, {PEOPLE}) g;
    """,
    upgrade="""
        op.zd_create_table("profiles",
            sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("email", sa.Text), sa.Column("bio", sa.Text),
            up=alembic_zero.from_table("users", {"user_id": "id", "email": "email"}))
        op.zd_drop_column("users", "email",
            down=alembic_zero.from_table("profiles", "profiles.email", where="users.id = profiles.user_id"))
    """,
    plain="",
)


class Writer(threading.Thread):
    """A client that writes until it is told to stop; what goes wrong is counted by SQLSTATE."""

    def __init__(self, session: Session, number: int, step: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._connection = session.connection
        self.close = session.connection.close
        self._random = random.Random(number)
        self._number = number
        self._step = getattr(self, step)
        self._stopped = stop
        self.done = 0
        self.errors: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        """Write in transactions, each about some people in order of their number."""
        while not self._stopped.is_set():
            people = sorted(self._random.sample(range(1, PEOPLE + 1), self._random.choice((1, 1, 1, 2, 3))))
            try:
                with self._connection.transaction():
                    for person in people:
                        self._step(person)
                self.done += 1
            except psycopg.Error as error:
                self.errors[f"{error.sqlstate} {error}"] += 1

    def old(self, person: int) -> None:
        """Write as the old application does."""
        run = self._connection.execute
        value = f"old {self._number} {self.done}"
        choice = self._random.random()
        if choice < 0.2:
            run("SELECT FROM users WHERE id = %s FOR UPDATE", (person,))
        if choice < 0.5:
            run("UPDATE users SET email = %s WHERE id = %s", (value, person))
        elif choice < 0.65:
            run("UPDATE users SET visits = visits + 1 WHERE id = %s", (person,))
        elif choice < 0.8:
            run(
                "INSERT INTO users (id, email) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET email = excluded.email",
                (person, value),
            )
        elif choice < 0.9:
            run("UPDATE users SET email = email, visits = 0 WHERE id = %s", (person,))
        else:
            run("DELETE FROM users WHERE id = %s", (person,))

    def new(self, person: int) -> None:
        """Write as the new application does; where it takes both rows, the parent comes first."""
        run = self._connection.execute
        value = f"new {self._number} {self.done}"
        choice = self._random.random()
        if choice < 0.2:
            # The other way round than old clients take the two rows, of which they know one.
            run("SELECT FROM profiles WHERE user_id = %s FOR UPDATE", (person,))
        if choice < 0.5:
            run("UPDATE profiles SET email = %s WHERE user_id = %s", (value, person))
        elif choice < 0.65:
            run("UPDATE profiles SET bio = %s WHERE user_id = %s", (value, person))
        elif choice < 0.9:
            run("INSERT INTO users (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET visits = 1", (person,))
            run(
                "INSERT INTO profiles (user_id, email) VALUES (%s, %s)"
                " ON CONFLICT (user_id) DO UPDATE SET email = excluded.email",
                (person, value),
            )
        else:
            run("DELETE FROM profiles WHERE user_id = %s", (person,))

    def old_update(self, person: int) -> None:
        """Write one row as the old application does."""
        value = f"old {self._number} {self.done}"
        self._connection.execute("UPDATE users SET email = %s WHERE id = %s", (value, person))

    def new_backwards(self, person: int) -> None:
        """Take both rows in the opposite order, which among new clients alone hurts nobody."""
        value = f"new {self._number} {self.done}"
        self._connection.execute("SELECT FROM profiles WHERE user_id = %s FOR UPDATE", (person,))
        if self._random.random() < 0.7:
            self._connection.execute("UPDATE profiles SET email = %s WHERE user_id = %s", (value, person))
        self._connection.execute("UPDATE users SET visits = visits + 1 WHERE id = %s", (person,))


def run_writers(open_session: Callable[[str], Session], seconds: float, *steps: str) -> list[Writer]:
    """Run two writers on each side."""
    stop = threading.Event()
    writers = [
        Writer(open_session(BEFORE if step.startswith("old") else AFTER), n, step, stop)
        for n, step in enumerate([*steps, *steps])
    ]
    for writer in writers:
        writer.start()
    time.sleep(seconds)
    stop.set()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive(), "a writer still waits"
        writer.close()
    return writers


@pytest.mark.parametrize("steps", [("old", "new"), ("old_update", "new_backwards")], ids=["all", "backwards"])
@pytest.mark.parametrize("case", [MOVED, SPLIT], ids=str)
def test_across__two_writers_on_each_side__agree_row_for_row_without_deadlock(
    case: Case, steps: tuple[str, ...], database: Database, tmp_path: Path
) -> None:
    flight = Flight(case, database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    writers = run_writers(flight.client, SECONDS, *steps)
    errors = sum((writer.errors for writer in writers), collections.Counter[str]())
    assert not errors, errors.most_common(5)
    assert all(writer.done for writer in writers)
    assert disagreements(database) == []
    flight.run("downgrade", BEFORE)
    assert flight.dump() == flight.original


def disagreements(database: Database) -> list[tuple[Any, ...]]:
    """Return every person of whom the two versions say something else."""
    return database.fetch("""
        SELECT u.id, u.email, p.email FROM zd_r1.users u FULL JOIN zd_r2.profiles p ON p.user_id = u.id
         WHERE u.id IS NULL OR (p.user_id IS NULL AND u.email IS NOT NULL AND NOT EXISTS (
               SELECT FROM information_schema.tables WHERE table_schema = 'zd_r1' AND table_name = 'profiles'))
            OR (p.user_id IS NOT NULL AND u.email IS DISTINCT FROM p.email)
    """)
