"""The backfill across tables, against the one statement that one would write by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.support import Comparison, new_project, say, spread, timed, title

if TYPE_CHECKING:
    from bench.support import Database, Options, Project, Server

_TABLES = (
    "CREATE TABLE users (id integer PRIMARY KEY, account_id integer NOT NULL, role text NOT NULL, email text NOT NULL)",
    """INSERT INTO users SELECT n, n % 1000, 'role ' || n % 7, 'user' || n || '@example.org'
  FROM generate_series(1, {rows}) AS n""",
    "CREATE TABLE profiles (id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES users, bio text)",
    "INSERT INTO profiles SELECT n, n, repeat('bio ', 10) FROM generate_series(1, {rows}) AS n",
    "CREATE INDEX ix_profiles_user_id ON profiles (user_id)",
    "VACUUM (FREEZE, ANALYZE) users",
    "VACUUM (FREEZE, ANALYZE) profiles",
)

_STEP = re.compile(r"alembic_zero: expand: (\w+) .*\(([\d.]+) s\)")

_NEW_TABLE = """CREATE TABLE account_users (account_id integer, user_id integer, role text NOT NULL,
    PRIMARY KEY (account_id, user_id))"""

# What is made, the operation, its step, and how one would do the same by hand.
_CASES = {
    "rows of a new table": (
        """op.zd_create_table("account_users", sa.Column("account_id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer, primary_key=True), sa.Column("role", sa.Text, nullable=False),
    up=alembic_zero.from_table("users", {"account_id": "account_id", "user_id": "id", "role": "upper(role)"}))""",
        "fill",
        (_NEW_TABLE,),
        "INSERT INTO account_users SELECT account_id, id, upper(role) FROM users",
        """SELECT count(*) FROM users u LEFT JOIN account_users a ON a.user_id = u.id
            WHERE a.role IS DISTINCT FROM upper(u.role)""",
    ),
    "a new column": (
        """op.zd_add_column("profiles", sa.Column("email", sa.Text),
    up=alembic_zero.from_table("users", "users.email", where="profiles.user_id = users.id"))""",
        "backfill",
        ("ALTER TABLE profiles ADD COLUMN email text",),
        "UPDATE profiles SET email = users.email FROM users WHERE profiles.user_id = users.id",
        "SELECT count(*) FROM users u JOIN profiles p ON p.user_id = u.id WHERE p.email IS DISTINCT FROM u.email",
    ),
}


def _upgrade(server: Server, template: str, project: Project, step: str, check: str) -> tuple[float, float]:
    """Return seconds of the step, and of the whole command."""
    with server.database(template) as database:
        said: list[str] = []
        seconds = timed(lambda: said.append(str(project.run(database, "upgrade", "r2"))))
        _check(database, check)
    return sum(float(took) for name, took in _STEP.findall(said[0]) if name == step), seconds


def _by_hand(server: Server, template: str, prepare: tuple[str, ...], statement: str, check: str) -> float:
    with server.database(template) as database:
        database.execute(*prepare)
        seconds = timed(lambda: database.execute(statement))
        _check(database, check)
    return seconds


def _check(database: Database, query: str) -> None:
    wrong = database.value(query)
    if wrong:
        raise SystemExit(f"{wrong} rows are wrong")


def run(server: Server, options: Options) -> None:
    rows = options.size(100_000, 10_000)
    for what, (operation, step, prepare, statement, check) in _CASES.items():
        title(f"across tables: {what}, {rows:,} source rows")
        with server.database() as template, new_project() as project:
            template.execute(*(text.format(rows=rows) for text in _TABLES))
            project.revision("r1")
            project.run(template, "stamp", "r1")
            project.revision("r2", operation)
            ours, plain = [], []
            for number in range(options.times(5)):
                for which in (0, 1) if number % 2 else (1, 0):
                    if which:
                        plain.append(_by_hand(server, template.name, prepare, statement, check))
                    else:
                        ours.append(_upgrade(server, template.name, project, step, check))
        compared = Comparison(spread([step for step, _ in ours]), spread(plain))
        say(f"{step} step           {compared.measured.show(' s')}   by hand {compared.yardstick.show(' s')}")
        say(f"  ratio              {compared.ratio.show()}")
        say(f"alembic upgrade      {spread([whole for _, whole in ours]).show(' s')}")
