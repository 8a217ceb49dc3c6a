"""What the trigger costs: statements on tables in flight, against twins that no migration touches.

Each statement runs in a transaction that is rolled back, in turn with its yardstick. Times are CPU
seconds of the server process, where the system tells them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.support import interleave, new_project, process_cpu_s, say, title

if TYPE_CHECKING:
    from bench.support import Database, Options, Project, Server

_WIDE_EXTRA = 36
_LENSES = ("a", "b", "c", "d", "e")

_NARROW = """CREATE TABLE {name} (id bigint PRIMARY KEY, name text NOT NULL, email text, note text)"""
_WIDE = "CREATE TABLE {name} (id bigint PRIMARY KEY, {lenses}, {rest})"

_UNIQUE = "CREATE TABLE {name} (id bigint PRIMARY KEY, email text {more}, note text)"
_REFERRING = "CREATE TABLE {name} (id bigint PRIMARY KEY, customer {more}, note text)"

_UPGRADE = """
op.zd_add_column("narrow", sa.Column("first_name", sa.Text), up="split_part(name, ' ', 1)")
op.zd_add_column("narrow", sa.Column("last_name", sa.Text), up="split_part(name, ' ', 2)")
op.zd_drop_column("narrow", "name", down="first_name || ' ' || last_name")
for column in {lenses!r}:
    op.zd_alter_column("wide", column, type_=sa.Text, up=column + "::text", down=column + "::integer")
op.zd_add_column("uniq", sa.Column("mail", sa.Text, unique=True), up="lower(email)")
op.zd_drop_column("uniq", "email", down="mail")
op.zd_add_column("refers", sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.id")), up="customer::integer")
op.zd_drop_column("refers", "customer", down="customer_id::text")
"""


@dataclass(frozen=True)
class Case:
    """One statement; *table* and *twin* take the place of ``{t}``."""

    label: str
    table: str
    twin: str
    sql: str
    twin_sql: str = ""
    truncate: str = ""


def _build(database: Database, project: Project, rows: int) -> None:
    rest = ", ".join(f"x{n} integer" for n in range(_WIDE_EXTRA))
    lenses = ", ".join(f"{c} integer" for c in _LENSES)
    zeros = ", ".join(["n"] * _WIDE_EXTRA)
    statements = []
    for name in ("narrow", "narrow_twin"):
        statements.append(_NARROW.format(name=name))
        statements.append(
            f"INSERT INTO {name} SELECT n, 'Ada Lovelace', 'ada@example.org', 'note' FROM generate_series(1, {rows}) n"
        )
    for name in ("wide", "wide_twin"):
        statements.append(_WIDE.format(name=name, lenses=lenses, rest=rest))
        statements.append(f"INSERT INTO {name} SELECT n, n, n, n, n, n, {zeros} FROM generate_series(1, {rows}) n")
    # The constraint itself is the yardstick's, too.
    for name, more in (("uniq", ""), ("uniq_twin", "UNIQUE")):
        statements.append(_UNIQUE.format(name=name, more=more))
        statements.append(f"INSERT INTO {name} SELECT n, 'Mail' || n, 'note' FROM generate_series(1, {rows}) n")
    statements.append("CREATE TABLE customers (id integer PRIMARY KEY)")
    statements.append("INSERT INTO customers SELECT generate_series(0, 999)")
    for name, more in (("refers", "text"), ("refers_twin", "integer REFERENCES customers")):
        statements.append(_REFERRING.format(name=name, more=more))
        statements.append(f"INSERT INTO {name} SELECT n, n % 1000, 'note' FROM generate_series(1, {rows}) n")
    database.execute(*statements)
    project.revision("r1")
    project.run(database, "stamp", "r1")
    project.run(database, "zd-init")
    project.revision("r2", _UPGRADE.format(lenses=_LENSES))
    project.run(database, "upgrade", "r2")


def _schema(database: Database, revision: str) -> str:
    return str(database.value(f"SELECT nspname FROM pg_namespace WHERE nspname ~ '^zd_.*{revision}'"))


def _cases(before: str, after: str, rows: int) -> list[Case]:
    source = f"FROM generate_series(1, {rows}) n"
    old = f"INSERT INTO {{t}} (id, name, email, note) SELECT n, 'Ada Lovelace', 'a@b.c', 'note' {source}"
    new = f"INSERT INTO {{t}} (id, first_name, last_name, email, note) SELECT n, 'Ada', 'Lovelace', 'a@b.c', 'note' {source}"  # noqa: E501
    columns = ", ".join(["id", *_LENSES, *(f"x{n}" for n in range(_WIDE_EXTRA))])
    values = ", ".join(["n"] * _WIDE_EXTRA)
    wide_old = f"INSERT INTO {{t}} ({columns}) SELECT n, n, n, n, n, n, {values} {source}"
    wide_new = f"INSERT INTO {{t}} ({columns}) SELECT n, {', '.join(['n::text'] * len(_LENSES))}, {values} {source}"
    lens, first = "UPDATE {t} SET name = 'Grace Hopper'", "UPDATE {t} SET first_name = 'Grace'"
    twin, wide_twin = "narrow_twin", "wide_twin"
    cases = [
        Case("narrow: insert, base", "narrow", twin, old, truncate="narrow"),
        Case("narrow: insert, old view", f"{before}.narrow", twin, old, truncate="narrow"),
        Case("narrow: insert, new view", f"{after}.narrow", twin, new, old, truncate="narrow"),
        Case("narrow: update lens column, base", "narrow", twin, lens),
        Case("narrow: update lens column, old view", f"{before}.narrow", twin, lens),
        Case("narrow: update lens column, new view", f"{after}.narrow", twin, first, lens),
    ]
    for label, table in (("base", "narrow"), ("old view", f"{before}.narrow"), ("new view", f"{after}.narrow")):
        cases.append(Case(f"narrow: update other column, {label}", table, twin, "UPDATE {t} SET note = 'changed'"))
    cases += [
        Case("wide: insert, base", "wide", wide_twin, wide_old, truncate="wide"),
        Case("wide: insert, new view", f"{after}.wide", wide_twin, wide_new, wide_old, truncate="wide"),
        Case("wide: update lens column, base", "wide", wide_twin, "UPDATE {t} SET a = a + 1"),
        Case("wide: update lens column, new view", f"{after}.wide", wide_twin, "UPDATE {t} SET a = '7'",
             "UPDATE {t} SET a = 7"),
        Case("wide: update other column, base", "wide", wide_twin, "UPDATE {t} SET x7 = 7"),
        Case("wide: update other column, new view", f"{after}.wide", wide_twin, "UPDATE {t} SET x7 = 7"),
    ]  # fmt: skip
    return cases + _constrained(before, after, source)


def _constrained(before: str, after: str, source: str) -> list[Case]:
    """Return the cases of tables whose derived columns are unique, or reference something."""
    old = f"INSERT INTO {{t}} (id, email, note) SELECT n, 'Mail' || n, 'note' {source}"
    new = f"INSERT INTO {{t}} (id, mail, note) SELECT n, 'mail' || n, 'note' {source}"
    change, change_new = "UPDATE {t} SET email = email || 'x'", "UPDATE {t} SET mail = mail || 'x'"
    refer = f"INSERT INTO {{t}} (id, customer, note) SELECT n, n % 1000, 'note' {source}"
    refer_new = f"INSERT INTO {{t}} (id, customer_id, note) SELECT n, n % 1000, 'note' {source}"
    uniq, refers = "uniq_twin", "refers_twin"
    return [
        Case("unique: insert, old view", f"{before}.uniq", uniq, old, truncate="uniq"),
        Case("unique: insert, new view", f"{after}.uniq", uniq, new, old, truncate="uniq"),
        Case("unique: update lens column, old view", f"{before}.uniq", uniq, change),
        Case("unique: update lens column, new view", f"{after}.uniq", uniq, change_new, change),
        Case("unique: update other column, old view", f"{before}.uniq", uniq, "UPDATE {t} SET note = 'changed'"),
        Case("foreign key: insert, old view", f"{before}.refers", refers, refer, truncate="refers"),
        Case("foreign key: insert, new view", f"{after}.refers", refers, refer_new, refer, truncate="refers"),
    ]


def _run(database: Database, sql: str, truncate: str) -> float:
    with database.connect(autocommit=False) as connection:
        if truncate:
            connection.execute(f"TRUNCATE {truncate}".encode())
        pid = connection.info.backend_pid
        wall, cpu = time.perf_counter(), process_cpu_s(pid)
        connection.execute(sql.encode())
        wall, cpu = time.perf_counter() - wall, process_cpu_s(pid) - cpu
        connection.rollback()
    return wall if math.isnan(cpu) else cpu


def _measure(database: Database, case: Case, times: int) -> None:
    twin_truncate = case.twin if case.truncate else ""
    base = case.table.rpartition(".")[2]

    def ours() -> float:
        return _run(database, case.sql.format(t=case.table), case.truncate)

    def theirs() -> float:
        return _run(database, (case.twin_sql or case.sql).format(t=case.twin), twin_truncate)

    # The space of rolled-back rows is there for the next one, on both sides alike.
    database.execute(f"VACUUM {base}", f"VACUUM {case.twin}")
    ours(), theirs()
    database.execute(f"VACUUM {base}", f"VACUUM {case.twin}")
    found = interleave(ours, theirs, times)
    say(f"{case.label:38} {found.measured.show(' s')}   twin {found.yardstick.show(' s')}   ratio {found.ratio.show()}")


def run(server: Server, options: Options) -> None:
    rows = options.size(300_000, 20_000)
    title(f"trigger: statements over {rows:,} rows in flight against an untouched twin")
    with server.database() as database, new_project() as project:
        _build(database, project, rows)
        before, after = _schema(database, "r1"), _schema(database, "r2")
        for case in _cases(before, after, rows):
            _measure(database, case, options.times(5))
