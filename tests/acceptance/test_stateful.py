"""Random revisions, random clients of all live versions: after every step all views show what the model says.

The model is :mod:`tests.support.model`. ``ALEMBIC_ZERO_STATEFUL_EXAMPLES`` sets the number of runs.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import sql as pgsql

from alembic_zero.execute.executor import Executor
from alembic_zero.names import client_name, version_schema
from tests.support.model import (
    CONVERSIONS,
    DERIVATIONS,
    FIRST_WORD,
    INFORMATION_SCHEMA_TYPES,
    JOINED,
    SECOND_WORD,
    SQLALCHEMY_TYPES,
    Assignment,
    Call,
    Client,
    Column,
    Draft,
    Excluded,
    Expression,
    Level,
    Model,
    Other,
    Shape,
    SqlError,
    Value,
    coalesced,
    ident,
    image,
    images,
    literal,
)
from tests.support.project import AlembicProject
from tests.support.server import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.server import Server

T = TypeVar("T")

numbers = st.integers(0, 2**32 - 1)

TABLE = "t"
STEPS = 60
EXAMPLES = int(os.environ.get("ALEMBIC_ZERO_STATEFUL_EXAMPLES", "40"))
MIN_STEPS = 2_000

MAX_IN_FLIGHT = 3
MAX_COMMANDS = 5

VALUES: dict[str, list[Value]] = {
    "int": [1, 2, 0, -1, 7, 40, 41, 1000, 2**31 - 1],
    "bigint": [1, 2, 0, -7, 2**31, 2**40],
    "text": [
        "ada lovelace",
        "x",
        "mary ann lee",
        "7",
        "42",
        "",
        "-3",
        "Grace Hopper",
        " 12",
        "it's",
        "99999999999",
    ],
    "bool": [False, True],
    "numeric": [Decimal("1.0"), Decimal("1.00"), Decimal(2), Decimal("-0.50")],
}
NAMES = ["a", "b", "c", "name", "note", "user", "Order Nr", "ü", "qty", "ref"]

BASE: Shape = (
    Column("id", "int", nullable=False),
    Column("name", "text", nullable=False),
    Column("note", "text", default="n/a"),
    Column("qty", "int", nullable=False, default=1),
    Column("ref", "int"),
    Column("ok", "bool", nullable=False, default=False),
    Column("price", "numeric"),
)


class Picker:
    """Makes the choices of one step. Hypothesis draws, and shrinks, only its number: that is quick."""

    def __init__(self, number: int) -> None:
        self._random = random.Random(number)

    def number(self, highest: int) -> int:
        return self._random.randint(0, highest)


def pick(picker: Picker, choices: Sequence[T]) -> T:
    return choices[picker.number(len(choices) - 1)]


def rarely(picker: Picker, one_in: int) -> bool:
    return picker.number(one_in - 1) == one_in - 1


def pick_some(picker: Picker, choices: Sequence[T]) -> list[T]:
    return [choice for choice in choices if picker.number(1)]


# -- operations -------------------------------------------------------------------------------------


class Operations:
    """Draws operations that the table, as the draft has it, can take."""

    def __init__(self, draft: Draft, picker: Picker) -> None:
        self.draft = draft
        self.picker = picker

    def draw(self) -> None:
        kinds = [
            *(self.rename, self.add, self.add_derived, self.drop, self.convert, self.convert, self.not_null),
            *(self.nullable, self.default, self.split, self.join, self.take_name),
        ]
        pick(self.picker, kinds)()

    # -- what there is to choose from

    @property
    def columns(self) -> list[Column]:
        return self.draft.columns[1:]

    def _named(self, *types: str) -> list[str]:
        return [c.name for c in self.columns if c.type in types]

    def _free_name(self) -> str:
        used = {c.name for c in self.draft.columns}
        return pick(self.picker, [name for name in NAMES if name not in used])

    def _value(self, type_: str) -> Value:
        return pick(self.picker, VALUES[type_])

    def _derivation(self, type_: str, without: str | None = None) -> Call | None:
        options: list[Call] = []
        for types, expression in DERIVATIONS[type_]:
            names = [[n for n in self._named(t) if n != without] for t in types]
            options += [Call(expression, combination) for combination in itertools.product(*names)]
        return pick(self.picker, options) if options else None

    # -- the family

    def rename(self) -> None:
        column = pick(self.picker, self.draft.columns)
        self.draft.alter(column.name, new_name=self._free_name())

    def add(self) -> None:
        type_ = pick(self.picker, list(VALUES))
        default = self._value(type_) if self.picker.number(1) else None
        nullable = default is None or bool(self.picker.number(1))
        self.draft.add(Column(self._free_name(), type_, nullable=nullable, default=default))

    def add_derived(self) -> None:
        type_ = pick(self.picker, list(VALUES))
        up = self._derivation(type_)
        if up is None:
            self.add()
            return
        default = self._value(type_) if rarely(self.picker, 3) else None
        nullable = not rarely(self.picker, 3)
        self.draft.add(Column(self._free_name(), type_, nullable=nullable, default=default), up)

    def drop(self) -> None:
        if len(self.columns) < 3:
            self.add()
            return
        column = pick(self.picker, self.columns)
        fills_itself = column.nullable or column.default is not None
        down = None
        if not fills_itself or self.picker.number(1):
            down = self._derivation(column.type, without=column.name)
        if down is None and not fills_itself:
            self.rename()
            return
        self.draft.drop(column.name, down)

    def convert(self) -> None:
        column = pick(self.picker, self.columns)
        types = [after for before, after in CONVERSIONS if before == column.type]
        after = pick(self.picker, types)
        up, down = pick(self.picker, CONVERSIONS[column.type, after])
        new_name = self._free_name() if rarely(self.picker, 3) else None
        final = new_name or column.name
        changes: dict[str, Any] = {"new_name": new_name}
        if after != column.type:
            changes["type_"] = after
            if column.default is not None:
                changes["default"] = self._value(after) if self.picker.number(1) else None
        self.draft.alter(
            column.name,
            **changes,
            up=None if up is None else Call(up, (column.name,)),
            down=None if down is None else Call(down, (final,)),
        )

    def not_null(self) -> None:
        column = pick(self.picker, self.columns)
        up = None if rarely(self.picker, 4) else Call(coalesced(self._value(column.type)), (column.name,))
        self.draft.alter(column.name, nullable=False, up=up)

    def nullable(self) -> None:
        column = pick(self.picker, self.columns)
        down = Call(coalesced(self._value(column.type)), (column.name,))
        self.draft.alter(column.name, nullable=True, down=down)

    def default(self) -> None:
        column = pick(self.picker, self.columns)
        value = self._value(column.type) if self.picker.number(2) else None
        self.draft.alter(column.name, default=value)

    def split(self) -> None:
        """A lossy pair: words after the second are not in the new columns."""
        names = self._named("text")
        if not names or len(self.columns) > 8:
            self.rename()
            return
        column = self.draft.column(pick(self.picker, names))
        first, second = Column(self._free_name(), "text", nullable=column.nullable), None
        self.draft.add(first, Call(FIRST_WORD, (column.name,)))
        second = Column(self._free_name(), "text", nullable=column.nullable)
        self.draft.add(second, Call(SECOND_WORD, (column.name,)))
        self.draft.drop(column.name, Call(JOINED, (first.name, second.name)))

    def join(self) -> None:
        names = self._named("text")
        if len(names) < 2:
            self.rename()
            return
        first = pick(self.picker, names)
        second = pick(self.picker, [name for name in names if name != first])
        joined = Column(self._free_name(), "text")
        self.draft.add(joined, Call(JOINED, (first, second)))
        self.draft.drop(first, Call(self._or_empty(first, FIRST_WORD), (joined.name,)))
        self.draft.drop(second, Call(self._or_empty(second, SECOND_WORD), (joined.name,)))

    def _or_empty(self, name: str, expression: Expression) -> Expression:
        if self.draft.column(name).nullable:
            return expression
        return Expression(f"coalesce({expression.sql}, '')", lambda text: expression.function(text) or "")

    def take_name(self) -> None:
        """Drop a column and give its name to another one, often of another type."""
        fills_itself = [c.name for c in self.columns if c.nullable or c.default is not None]
        if not fills_itself or len(self.columns) < 3:
            self.rename()
            return
        name = pick(self.picker, fills_itself)
        self.draft.drop(name)
        other = pick(self.picker, self.columns)
        self.draft.alter(other.name, new_name=name)


# -- the machine ------------------------------------------------------------------------------------


class TableMachine(RuleBasedStateMachine):
    """One table; ``server`` and ``template`` are set by a subclass for each server."""

    server: ClassVar[Server]
    template: ClassVar[str]
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(self.server, f"{self.template}_{next(_database_numbers)}")
        _maintain(self.server, f'CREATE DATABASE "{self.database.name}" TEMPLATE "{self.template}"')
        self.directory = Path(tempfile.mkdtemp(prefix="zd-stateful-"))
        self.project = AlembicProject(self.directory, self.database.url)
        write_base_revision(self.project)
        self.model = Model(BASE)
        for number, values in enumerate(base_rows()):
            self.model.insert(Client(0), {"id": number, **values})
        self.revisions = ["r0"]
        self.commands_left = MAX_COMMANDS
        self.revision_number = 0
        self.connections: dict[str, psycopg.Connection[Any]] = {}
        self.since_comparison = 0

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.compare()
                self.finish()
        finally:
            self._disconnect()
            _maintain(self.server, f'DROP DATABASE "{self.database.name}" WITH (FORCE)')
            shutil.rmtree(self.directory)

    # -- clients --------------------------------------------------------------------------------

    def _clients(self, versions: range | None = None) -> list[Client]:
        versions = versions or range(len(self.revisions))
        clients = [Client(version, pinned) for version in versions for pinned in (True, False)]
        return [*clients, Client(0, pinned=False, base_table=True)] if versions[0] == 0 else clients

    def _connection(self, client: Client) -> psycopg.Connection[Any]:
        name = self.revisions[client.version] if client.pinned else ""
        if name not in self.connections:
            connection = self.database.connect()
            if client.pinned:
                settings_of = {
                    "search_path": f"{version_schema(name)}, public",
                    "alembic_zero.revision": name,
                    "application_name": client_name("stateful", name),
                }
                for setting, value in settings_of.items():
                    connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
            self.connections[name] = connection
        return self.connections[name]

    def _disconnect(self, names: Sequence[str] | None = None) -> None:
        for name in list(self.connections) if names is None else names:
            connection = self.connections.pop(name, None)
            if connection is not None:
                self._close(connection)

    def _close(self, connection: psycopg.Connection[Any]) -> None:
        """Close a connection and wait until the server has noticed."""
        pid = connection.info.backend_pid
        connection.close()
        while self.database.fetch(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"):
            time.sleep(0.002)

    def _relation(self, client: Client) -> str:
        if client.base_table:
            return f"public.{TABLE}"
        return TABLE if client.pinned else f"{version_schema(self.revisions[client.version])}.{TABLE}"

    # -- writes ---------------------------------------------------------------------------------

    def _perform(
        self,
        client: Client,
        statement: str,
        expected: Callable[[], Sequence[int]],
        *,
        savepoint: bool = False,
    ) -> None:
        """Run one statement here and in the model: the same rows, or the same error."""
        self.tally["statements"] += 1
        shape = self.model.shape(client.version)
        columns = ", ".join(ident(c.name) for c in shape)
        text = statement if statement.startswith("DELETE") else f"{statement} RETURNING {columns}"
        who = "base" if client.base_table else self.revisions[client.version]
        note(f"{who}{'' if client.pinned else ' (not pinned)'}: {text}")
        before = dict(self.model.rows)
        keys: Sequence[int] = []
        error: SqlError | None = None
        try:
            keys = expected()
        except SqlError as raised:
            error = raised
            self.model.rows = before
        connection = self._connection(client)
        if savepoint:
            connection.execute("SAVEPOINT statement")
        try:
            cursor = connection.execute(text.encode())
            rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as raised:
            assert error is not None, f"{text} failed: {raised.sqlstate} {raised}"
            assert raised.sqlstate in error.sqlstates, f"{text}: {raised.sqlstate} {raised}, not {error.sqlstates}"
            self.tally["errors as expected"] += 1
            if savepoint:
                connection.execute("ROLLBACK TO SAVEPOINT statement")
            return
        assert error is None, f"{text} should have failed with {error.sqlstates}"
        fresh = [key for key in self.model.quarantined if self.model.rows[key] is not before.get(key)]
        self.tally["quarantined"] += len(fresh)
        if cursor.description:
            wanted = [self.model.project(key, client.version) for key in keys]
            assert _sorted(rows) == _sorted(wanted), f"{text}: {rows} is not {wanted}"

    def _value(self, picker: Picker, column: Column) -> Value:
        one_in = 4 if column.nullable else 12
        return None if rarely(picker, one_in) else pick(picker, VALUES[column.type])

    def _given(self, picker: Picker, client: Client, key: int) -> dict[str, Value]:
        """Choose columns for an INSERT; one with neither value nor default is left out seldom."""
        first, *others = self.model.shape(client.version)
        given: dict[str, Value] = {first.name: key}
        for column in others:
            needed = not column.nullable and column.default is None
            if (needed and not rarely(picker, 20)) or picker.number(2):
                given[column.name] = self._value(picker, column)
        return given

    def _assignments(self, picker: Picker, client: Client) -> dict[str, Assignment]:
        others = self.model.shape(client.version)[1:]
        chosen = pick_some(picker, others)[:3] or [pick(picker, others)]
        assignments: dict[str, Assignment] = {}
        for column in chosen:
            same = [c.name for c in others if c.type == column.type]
            assignments[column.name] = Other(pick(picker, same)) if rarely(picker, 5) else self._value(picker, column)
        return assignments

    def _some_keys(self, picker: Picker, most: int = 3) -> list[int]:
        keys = sorted(self.model.rows)
        return [] if not keys else list(dict.fromkeys(pick(picker, keys) for _ in range(1 + picker.number(most - 1))))

    def _new_key(self) -> int:
        return max(self.model.rows, default=0) + 1

    def _key_name(self, client: Client) -> str:
        return ident(self.model.shape(client.version)[0].name)

    def _insert(self, picker: Picker, client: Client, *, savepoint: bool = False) -> None:
        # Keys of failed inserts are used again: that is what a retry does.
        key = pick(picker, [self._new_key(), self._new_key(), self._new_key(), *self._some_keys(picker, 1)])
        given = self._given(picker, client, key)
        shape = self.model.shape(client.version)
        columns = list(shape) if rarely(picker, 3) else [c for c in shape if c.name in given]
        values = ", ".join(literal(given[c.name]) if c.name in given else "DEFAULT" for c in columns)
        names = ", ".join(ident(c.name) for c in columns)
        statement = f"INSERT INTO {self._relation(client)} ({names}) VALUES ({values})"
        self._perform(client, statement, lambda: [self.model.insert(client, given)], savepoint=savepoint)

    def _insert_many(self, picker: Picker, client: Client, *, savepoint: bool = False) -> None:
        rows = [self._given(picker, client, self._new_key() + n) for n in range(3)]
        shape = self.model.shape(client.version)
        values = ", ".join(
            f"({', '.join(literal(row[c.name]) if c.name in row else 'DEFAULT' for c in shape)})" for row in rows
        )
        names = ", ".join(ident(c.name) for c in shape)
        statement = f"INSERT INTO {self._relation(client)} ({names}) VALUES {values}"
        self._perform(client, statement, lambda: [self.model.insert(client, row) for row in rows], savepoint=savepoint)

    def _update(self, picker: Picker, client: Client, *, savepoint: bool = False) -> None:
        keys = sorted(self.model.rows) if rarely(picker, 8) else self._some_keys(picker)
        assignments = self._assignments(picker, client)
        if keys and rarely(picker, 5):
            # Written, but not changed.
            column = pick(picker, self.model.shape(client.version))
            assignments = {column.name: Other(column.name)}
        self._write_update(client, keys, assignments, savepoint=savepoint)

    def _write_update(
        self, client: Client, keys: Sequence[int], assignments: Mapping[str, Assignment], *, savepoint: bool
    ) -> None:
        wanted = ", ".join(map(str, keys)) or "-1"
        statement = (
            f"UPDATE {self._relation(client)} SET {_assigning(assignments)} "
            f"WHERE {self._key_name(client)} IN ({wanted})"
        )

        def expected() -> Sequence[int]:
            self.model.update(client, keys, assignments)
            return keys

        self._perform(client, statement, expected, savepoint=savepoint)

    def _upsert(self, picker: Picker, client: Client, *, savepoint: bool = False) -> None:
        key = pick(picker, [*self._some_keys(picker), self._new_key()])
        given = self._given(picker, client, key)
        assignments: dict[str, Assignment] | None = None
        action = "NOTHING"
        if not rarely(picker, 6):
            assignments = {
                name: Excluded(name) if picker.number(2) else value
                for name, value in self._assignments(picker, client).items()
            }
            action = f"UPDATE SET {_assigning(assignments, qualified=TABLE)}"
        names = ", ".join(ident(name) for name in given)
        statement = (
            f"INSERT INTO {self._relation(client)} ({names}) VALUES ({', '.join(map(literal, given.values()))}) "
            f"ON CONFLICT ({self._key_name(client)}) DO {action}"
        )

        def expected() -> Sequence[int]:
            written = self.model.upsert(client, given, assignments)
            return [] if written is None else [written]

        self._perform(client, statement, expected, savepoint=savepoint)

    def _delete(self, picker: Picker, client: Client, *, savepoint: bool = False) -> None:
        keys = self._some_keys(picker, 2)
        self._write_delete(client, keys, savepoint=savepoint)

    def _write_delete(self, client: Client, keys: Sequence[int], *, savepoint: bool = False) -> None:
        listed = ", ".join(map(str, keys)) or "-1"
        statement = f"DELETE FROM {self._relation(client)} WHERE {self._key_name(client)} IN ({listed})"

        def expected() -> Sequence[int]:
            self.model.delete(keys)
            return keys

        self._perform(client, statement, expected, savepoint=savepoint)

    def _write(self, picker: Picker, client: Client, *, savepoint: bool = False) -> None:
        kinds = [self._update, self._update, self._insert, self._upsert, self._insert_many, self._delete]
        pick(picker, kinds)(picker, client, savepoint=savepoint)

    # -- rules ----------------------------------------------------------------------------------

    def _stepped(self) -> None:
        self.tally["steps"] += 1
        self.since_comparison += 1
        if self.since_comparison >= 10:
            self.compare()

    @initialize(number=numbers)
    def first_upgrade(self, number: int) -> None:
        self._upgrade(Picker(number))
        self._stepped()

    @rule(number=numbers)
    def insert(self, number: int) -> None:
        picker = Picker(number)
        kind = self._insert_many if rarely(picker, 4) else self._insert
        kind(picker, pick(picker, self._clients()))
        self._stepped()

    @rule(number=numbers)
    def update(self, number: int) -> None:
        picker = Picker(number)
        self._update(picker, pick(picker, self._clients()))
        self._stepped()

    @rule(number=numbers)
    def update_again(self, number: int) -> None:
        picker = Picker(number)
        self._update(picker, pick(picker, self._clients()))
        self._stepped()

    @rule(number=numbers)
    def upsert(self, number: int) -> None:
        picker = Picker(number)
        self._upsert(picker, pick(picker, self._clients()))
        self._stepped()

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        picker = Picker(number)
        self._delete(picker, pick(picker, self._clients()))
        self._stepped()

    @rule(number=numbers)
    def transact(self, number: int) -> None:
        """Several statements, a savepoint that may be rolled back, COMMIT or ROLLBACK."""
        picker = Picker(number)
        clients = self._clients()
        client = pick(picker, clients)
        # One session that uses qualified names may well write to several versions.
        mixed = [c for c in clients if not c.pinned] if not client.pinned else [client]
        connection = self._connection(client)
        start = dict(self.model.rows)
        note(f"{self.revisions[client.version]}: BEGIN")
        connection.execute("BEGIN")
        try:
            for _ in range(1 + picker.number(1)):
                self._write(picker, pick(picker, mixed), savepoint=True)
            if picker.number(1):
                saved = dict(self.model.rows)
                connection.execute("SAVEPOINT middle")
                self._write(picker, pick(picker, mixed), savepoint=True)
                if picker.number(1):
                    note("ROLLBACK TO SAVEPOINT middle")
                    connection.execute("ROLLBACK TO SAVEPOINT middle")
                    self.model.rows = saved
            end = "ROLLBACK" if rarely(picker, 3) else "COMMIT"
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        note(end)
        connection.execute(end.encode())
        if end == "ROLLBACK":
            self.model.rows = start
        self._stepped()

    @precondition(lambda self: self.commands_left and len(self.revisions) <= MAX_IN_FLIGHT)
    @rule(number=numbers)
    def upgrade(self, number: int) -> None:
        picker = Picker(number)
        if not rarely(picker, 3):
            self._update(picker, pick(picker, self._clients()))
        else:
            self._upgrade(picker)
        self._stepped()

    @precondition(lambda self: self.commands_left and len(self.revisions) > 1)
    @rule(number=numbers)
    def complete_or_roll_back(self, number: int) -> None:
        picker = Picker(number)
        if not rarely(picker, 4):
            self._upsert(picker, pick(picker, self._clients()))
        elif rarely(picker, 3):
            self._roll_back(picker, picker.number(len(self.revisions) - 2))
        else:
            self._complete(picker, 1 + picker.number(len(self.revisions) - 2))
        self._stepped()

    # -- commands -------------------------------------------------------------------------------

    def _upgrade(self, picker: Picker) -> None:
        """Write one or two revisions and upgrade; rows that do not fit are corrected, before or after."""
        self._repair(self.model.quarantined)
        draft = Draft(self.model.shape(self.model.top), TABLE)
        previous = self.revisions[-1]
        revisions = []
        for _ in range(1 + (rarely(picker, 4))):
            done = len(draft.lines)
            for _ in range(1 + picker.number(3)):
                Operations(draft, picker).draw()
            revision = self._new_revision(picker)
            body = "\n".join(draft.lines[done:])
            note(f"revision {revision}, after {previous}:\n{body}")
            self.project.revision(revision, previous, body)
            revisions.append(revision)
            previous = revision
        level = draft.finish(previous)
        if rarely(picker, 2):
            self._upgrade_in_vain(picker, level)
        self._repair(self.model.misfits(level))
        with self._writing(picker, range(len(self.revisions)), level):
            self._alembic("upgrade", previous)
        self.model.expand(level)
        self.revisions.append(previous)
        self.compare()

    def _new_revision(self, picker: Picker) -> str:
        # A revision that was rolled back may come again, edited.
        if not rarely(picker, 3) or (self.project.versions / f"r{self.revision_number}.py").exists():
            self.revision_number += 1
        return f"r{self.revision_number}"

    def _upgrade_in_vain(self, picker: Picker, level: Level) -> None:
        """Upgrade while rows do not fit; then the triggers are there, but the version is not."""
        if not self.model.misfits(level):
            return
        result = self._alembic("upgrade", level.revision, check=False)
        assert result.returncode != 0, result.stdout
        self.compare()
        for _ in range(3):
            self._write(picker, pick(picker, self._clients()))

    def _repair(self, keys: Sequence[int]) -> None:
        """Correct rows in the shortest way."""
        if keys:
            self._write_delete(Client(0, pinned=False, base_table=True), keys)

    def _roll_back(self, picker: Picker, version: int) -> None:
        self._disconnect(self.revisions[version + 1 :])
        self._disconnect([""])
        with self._writing(picker, range(version + 1)):
            self._alembic("downgrade", self.revisions[version])
        self.model.roll_back(version)
        self._forget_revisions(version)
        self.compare()

    def _forget_revisions(self, version: int) -> None:
        del self.revisions[version + 1 :]
        for path in self.project.versions.glob("*.py"):
            if int(path.stem[1:]) > int(self.revisions[version][1:]):
                path.unlink()

    def _complete(self, picker: Picker, version: int) -> None:
        if self.model.quarantined:
            refused = self._alembic("zd-complete", self.revisions[version], check=False)
            assert refused.returncode == 2, refused.stdout + refused.stderr
            self.compare()
            self._repair(self.model.quarantined)
        self._disconnect(self.revisions[:version])
        self._disconnect([""])

        def swapped() -> None:
            self.model.complete(version)
            del self.revisions[:version]

        with self._writing(picker, range(version, len(self.revisions)), swapped=swapped):
            self._alembic("zd-complete", self.revisions[version])
        self.compare()
        self.check_catalog()

    def _alembic(self, *arguments: str, check: bool = True) -> Any:
        note(f"alembic {' '.join(arguments)}")
        self.tally["commands"] += 1
        self.commands_left -= 1
        return self.project.run_in_process(*arguments, check=check)

    @contextmanager
    def _writing(
        self,
        picker: Picker,
        versions: range,
        level: Level | None = None,
        *,
        swapped: Callable[[], None] | None = None,
    ) -> Iterator[None]:
        """Let clients write between the steps of a command.

        :param level: rows must go on to fit it.
        :param swapped: called once the table is swapped over; the clients' numbers change with it.
        """
        inside = Picker(picker.number(2**16))
        run_step = Executor._run_step
        clients = self._clients(versions)

        def write() -> None:
            if clients and not rarely(inside, 3):
                self._write(inside, pick(inside, clients))
                if level is not None:
                    self._repair(sorted({*self.model.misfits(level), *self.model.quarantined}))

        def run_and_write(executor: Executor, migration: Any, phase: str, position: int, step: Any) -> None:
            write()
            note(f"-- {phase}: {step.name}")
            run_step(executor, migration, phase, position, step)
            if swapped is not None and step.name.startswith("contract "):
                swapped()
                clients[:] = self._clients()
            write()

        Executor._run_step = run_and_write  # type: ignore[method-assign]
        try:
            yield
        finally:
            Executor._run_step = run_step  # type: ignore[method-assign]

    def finish(self) -> None:
        """Complete everything or roll all back, and compare the table that is left."""
        if len(self.revisions) > 1:
            picker = Picker(len(self.model.rows))
            if self.revision_number % 3:
                self._complete(picker, len(self.revisions) - 1)
            else:
                self._roll_back(picker, 0)
        self.check_catalog()
        assert not self.database.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.t'::regclass AND NOT tgisinternal"
        )

    # -- comparison -----------------------------------------------------------------------------

    def compare(self) -> None:
        """Compare every row of every version, and of the base table."""
        self.since_comparison = 0
        sources = [f"{version_schema(revision)}.{TABLE}" for revision in self.revisions]
        with self.database.connect() as connection:
            for version, source in [*enumerate(sources), (0, f"public.{TABLE}")]:
                shape = self.model.shape(version)
                listed = "*" if source.startswith("zd_") else ", ".join(ident(c.name) for c in shape)
                key = ident(shape[0].name)
                cursor = connection.execute(f"SELECT {listed} FROM {source} ORDER BY {key}".encode())
                assert cursor.description is not None
                assert [c.name for c in cursor.description] == [c.name for c in shape]
                found = {row[0]: row for row in cursor}
                _check_equal(source, shape, self.model.view(version), found)

    def check_catalog(self) -> None:
        """Compare the table's columns with the model's; with nothing in flight, nothing else may be there."""
        rows = self.database.fetch(
            "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns "
            f"WHERE table_schema = 'public' AND table_name = '{TABLE}'"
        )
        found = {name: (type_, nullable) for name, type_, nullable in rows}
        wanted = {c.name: (INFORMATION_SCHEMA_TYPES[c.type], c.nullable) for c in self.model.base}
        if len(self.revisions) == 1:
            assert found == wanted
        else:
            assert wanted.items() <= found.items()


_database_numbers = itertools.count(1)


def _sorted(rows: Sequence[Sequence[Value]]) -> list[list[tuple[str, str]]]:
    return sorted(images(row) for row in rows)


def _assigning(assignments: Mapping[str, Assignment], qualified: str | None = None) -> str:
    prefix = "" if qualified is None else f"{qualified}."

    def right(assignment: Assignment) -> str:
        if isinstance(assignment, Excluded):
            return f"excluded.{ident(assignment.column)}"
        if isinstance(assignment, Other):
            return prefix + ident(assignment.column)
        return literal(assignment)

    return ", ".join(f"{ident(name)} = {right(assignment)}" for name, assignment in assignments.items())


def _check_equal(
    source: str, shape: Shape, wanted: Mapping[int, Sequence[Value]], found: Mapping[int, Sequence[Value]]
) -> None:
    assert sorted(found) == sorted(wanted), f"{source} has rows {sorted(found)}, not {sorted(wanted)}"
    wrong = [
        f"row {key}, {column.name}: {have!r}, not {want!r}"
        for key in wanted
        for column, want, have in zip(shape, wanted[key], found[key], strict=True)
        if image(want) != image(have)
    ]
    assert not wrong, f"{source}: {'; '.join(wrong)}"


def _maintain(server: Server, statement: str) -> None:
    with psycopg.connect(
        host=server.host, port=server.port, user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(pgsql.SQL(statement))  # type: ignore[arg-type]


def base_rows() -> list[dict[str, Value]]:
    texts = VALUES["text"]
    return [
        {
            "name": texts[n % len(texts)],
            "note": None if n % 3 else texts[(n + 4) % len(texts)],
            "qty": [5, 0, 17, -4][n % 4],
            "ref": None if n % 2 else n,
            "ok": n % 3 == 0,
            "price": None if n % 4 == 0 else VALUES["numeric"][n % 4],
        }
        for n in range(10)
    ]


def write_base_revision(project: AlembicProject) -> None:
    columns = []
    for column in BASE:
        text = f"sa.Column({column.name!r}, {SQLALCHEMY_TYPES[column.type]}, nullable={column.nullable}"
        if column.default is not None:
            text += f", server_default=sa.text({literal(column.default)!r})"
        columns.append(f"{text}, primary_key={column.name == 'id'}, autoincrement=False)")
    project.revision("r0", None, f"op.create_table({TABLE!r}, {', '.join(columns)})")


@pytest.fixture
def machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[TableMachine]]:
    """The machine for one server, with a template database in which revision r0 is published."""
    # Five minutes by default, and Hypothesis has no setting for it.
    monkeypatch.setattr("hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS", 60)
    with server.fresh_database() as database:
        project = AlembicProject(tmp_path / "template", database.url)
        write_base_revision(project)
        project.run_in_process("upgrade", "r0")
        for number, row in enumerate(base_rows()):
            names = ", ".join(map(ident, row))
            values = ", ".join(map(literal, row.values()))
            database.execute(f"INSERT INTO {TABLE} (id, {names}) VALUES ({number}, {values})")
        attributes = {"server": server, "template": database.name, "tally": Counter()}
        yield type(f"TableMachineOn{server.version}", (TableMachine,), attributes)


def profile(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def test_any_operations__any_writers__every_version_shows_what_the_model_says(machine, server, capfd):
    run_state_machine_as_test(seed(server.version)(machine), settings=profile(EXAMPLES))
    with capfd.disabled():
        counts = ", ".join(f"{count} {what}" for what, count in machine.tally.items())
        print(f"\nPostgreSQL {server.version}: {counts}")
    assert machine.tally["steps"] >= MIN_STEPS


@pytest.mark.slow
@pytest.mark.skipif("ALEMBIC_ZERO_SLOW" not in os.environ, reason="set ALEMBIC_ZERO_SLOW to run it")
def test_any_operations__any_writers__a_hundred_thousand_steps(machine, server):
    run_state_machine_as_test(seed(random.SystemRandom().getrandbits(32))(machine), settings=profile(1_700))
    assert machine.tally["steps"] >= 100_000
