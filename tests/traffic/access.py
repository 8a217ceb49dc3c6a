"""Ways to the database: raw psycopg, SQLAlchemy Core, SQLAlchemy ORM, behind one interface."""

from __future__ import annotations

import abc
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import sqlalchemy as sa
from psycopg.rows import dict_row
from psycopg.types.json import JsonbDumper
from sqlalchemy import event, orm
from sqlalchemy.dialects import postgresql

from alembic_zero import pin_engine
from alembic_zero.names import client_name, version_schema
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.traffic.report import Tally
    from tests.traffic.workload import Key, Relation, Row

Style = Literal["prepared", "transactions", "core", "orm"]
STYLES: tuple[Style, ...] = ("prepared", "transactions", "core", "orm")


@dataclass(frozen=True)
class Address:
    """Where a version's clients find their tables.

    :param path: schemas after the version schema.
    :param by_tables: go by the tables themselves, as clients do that nobody has pinned.
    """

    url: sa.URL
    revision: str
    path: str = ""
    by_tables: bool = False


class Access(abc.ABC):
    """A client's session; what it sends is counted in *tally*."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.stack = ExitStack()

    def close(self) -> None:
        """End the session."""
        self.stack.close()

    @abc.abstractmethod
    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run what is inside in one transaction; an exception rolls it back."""

    @abc.abstractmethod
    def insert(self, relation: Relation, row: Row) -> Row | None:
        """Insert a row and return it as RETURNING gave it."""

    @abc.abstractmethod
    def update(self, relation: Relation, key: Key, changes: Row) -> Row | None:
        """Update the row with this key and return it, or None if there is none."""

    @abc.abstractmethod
    def upsert(self, relation: Relation, row: Row, changes: Sequence[str]) -> Row | None:
        """Insert, or update *changes* if there is such a row, or do nothing if *changes* is empty."""

    @abc.abstractmethod
    def increment(self, relation: Relation, key: Key, row: Row | None) -> int | None:
        """Increment the counter, by an upsert of *row* if given; return its new value."""

    @abc.abstractmethod
    def delete(self, relation: Relation, key: Key) -> int:
        """Delete the row with this key and return how many there were."""

    @abc.abstractmethod
    def read(self, relation: Relation, key: Key, *, lock: bool) -> Row | None:
        """Return a row, if asked FOR UPDATE."""

    @abc.abstractmethod
    def read_many(self, relation: Relation, keys: Sequence[Key]) -> list[Row]:
        """Return the rows with these keys."""


# -- psycopg ------------------------------------------------------------------------------------------


class RawAccess(Access):
    """psycopg with SQL text, connected by hand as other drivers would.

    :param threshold: psycopg's ``prepare_threshold``; 0 prepares every statement.
    """

    def __init__(self, address: Address, tally: Tally, threshold: int | None) -> None:
        super().__init__(tally)
        self._connection = self.stack.enter_context(_connect(address))
        self._connection.prepare_threshold = threshold
        self._connection.adapters.register_dumper(dict, JsonbDumper)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._run("BEGIN")
        try:
            yield
        except BaseException:
            if not self._connection.closed:
                self._connection.execute("ROLLBACK")
            raise
        self._run("COMMIT")

    def insert(self, relation: Relation, row: Row) -> Row | None:
        return self._run(f"{_insert(relation, row)} RETURNING {_names(relation.shown)}", row).fetchone()

    def update(self, relation: Relation, key: Key, changes: Row) -> Row | None:
        text = (
            f"UPDATE {ident(relation.name)} SET {_assignments(changes)} WHERE {ident(relation.key)} = %(_key)s "
            f"RETURNING {_names(relation.shown)}"
        )
        return self._run(text, {**changes, "_key": key}).fetchone()

    def upsert(self, relation: Relation, row: Row, changes: Sequence[str]) -> Row | None:
        assigned = ", ".join(f"{ident(name)} = excluded.{ident(name)}" for name in changes)
        action = f"DO UPDATE SET {assigned}" if changes else "DO NOTHING"
        return self._run(
            f"{_insert(relation, row)} ON CONFLICT ({_names(relation.target)}) {action} "
            f"RETURNING {_names(relation.shown)}",
            row,
        ).fetchone()

    def increment(self, relation: Relation, key: Key, row: Row | None) -> int | None:
        counter = ident(relation.counter or "")
        if row is None:
            text = f"UPDATE {ident(relation.name)} SET {counter} = {counter} + 1 WHERE {ident(relation.key)} = %(_key)s"
        else:
            text = (
                f"{_insert(relation, row, 'AS r ')} ON CONFLICT ({_names(relation.target)}) "
                f"DO UPDATE SET {counter} = r.{counter} + 1"
            )
        found = self._run(f"{text} RETURNING {counter} AS value", {**(row or {}), "_key": key}).fetchone()
        return None if found is None else int(found["value"])

    def delete(self, relation: Relation, key: Key) -> int:
        text = f"DELETE FROM {ident(relation.name)} WHERE {ident(relation.key)} = %(_key)s"
        return self._run(text, {"_key": key}).rowcount

    def read(self, relation: Relation, key: Key, *, lock: bool) -> Row | None:
        text = f"{_select(relation)} = %(_key)s{' FOR UPDATE' if lock else ''}"
        return self._run(text, {"_key": key}).fetchone()

    def read_many(self, relation: Relation, keys: Sequence[Key]) -> list[Row]:
        return self._run(f"{_select(relation)} = ANY (%(_keys)s)", {"_keys": list(keys)}).fetchall()

    def _run(self, statement: str, parameters: Row | None = None) -> psycopg.Cursor[Row]:
        with self.tally.measure(statement):
            return self._connection.execute(statement.encode(), parameters)


def _connect(address: Address) -> psycopg.Connection[Row]:
    url = address.url
    schema = "public" if address.by_tables else version_schema(address.revision)
    path = f"{schema},{address.path}" if address.path else schema
    pinned = "" if address.by_tables else f" -c alembic_zero.revision={address.revision}"
    return psycopg.connect(
        host=str(url.query["host"]),
        port=str(url.query["port"]),
        user=url.username,
        dbname=url.database,
        options=f"-c search_path={path}{pinned}",
        application_name="traffic" if address.by_tables else client_name("traffic", address.revision),
        autocommit=True,
        row_factory=dict_row,
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(ident, names))


def _insert(relation: Relation, row: Row, alias: str = "") -> str:
    if not row:
        return f"INSERT INTO {ident(relation.name)} {alias}DEFAULT VALUES"
    values = ", ".join(f"%({name})s" for name in row)
    return f"INSERT INTO {ident(relation.name)} {alias}({_names(list(row))}) VALUES ({values})"


def _assignments(changes: Row) -> str:
    return ", ".join(f"{ident(name)} = %({name})s" for name in changes)


def _select(relation: Relation) -> str:
    return f"SELECT {_names(relation.shown)} FROM {ident(relation.name)} WHERE {ident(relation.key)}"


# -- SQLAlchemy -----------------------------------------------------------------------------------------


class PinnedAccess(Access):
    """An engine that ``pin_engine`` has pinned; tables are reflected, keys declared as models do."""

    def __init__(self, address: Address, tally: Tally, relations: Sequence[Relation]) -> None:
        super().__init__(tally)
        self._engine = pin_engine(sa.create_engine(address.url, pool_size=1), address.revision)
        self.stack.callback(self._engine.dispose)
        self._metadata = sa.MetaData()
        self._tables = {relation.name: self._reflect(relation) for relation in relations}
        event.listen(self._engine, "before_cursor_execute", self._before)
        event.listen(self._engine, "after_cursor_execute", self._after)

    def _reflect(self, relation: Relation) -> sa.Table:
        kind: sa.types.TypeEngine[Any] = sa.Uuid() if relation.kind == "uuid" else sa.BigInteger()
        default = sa.FetchedValue() if relation.serial else None
        key = sa.Column(relation.key, kind, primary_key=True, server_default=default)
        table = sa.Table(relation.name, self._metadata, key, autoload_with=self._engine)
        # Views show no defaults: models have to say which columns have one.
        for name in filter(None, [relation.counter, *relation.defaults]):
            table.c[name].server_default = sa.FetchedValue()
        return table

    def _before(self, _conn: Any, _cursor: Any, _sql: str, _args: Any, context: Any, _many: bool) -> None:
        context.traffic_started = time.perf_counter()

    def _after(self, _conn: Any, _cursor: Any, sql: str, _args: Any, context: Any, _many: bool) -> None:
        self.tally.count(sql, context.traffic_started)

    @abc.abstractmethod
    def _execute(self, statement: Any) -> sa.Result[Any]: ...

    def _columns(self, relation: Relation) -> list[sa.ColumnElement[Any]]:
        table = self._tables[relation.name]
        return [table.c[name] for name in relation.shown]

    def _one(self, statement: Any) -> Row | None:
        found = self._execute(statement).mappings().one_or_none()
        return None if found is None else dict(found)

    def upsert(self, relation: Relation, row: Row, changes: Sequence[str]) -> Row | None:
        statement = postgresql.insert(self._tables[relation.name]).values(row)
        if changes:
            excluded = {name: statement.excluded[name] for name in changes}
            statement = statement.on_conflict_do_update(index_elements=relation.target, set_=excluded)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=relation.target)
        return self._one(statement.returning(*self._columns(relation)))

    def increment(self, relation: Relation, key: Key, row: Row | None) -> int | None:
        table = self._tables[relation.name]
        counter = table.c[relation.counter or ""]
        statement: Any
        if row is None:
            statement = sa.update(table).where(table.c[relation.key] == key).values({counter: counter + 1})
        else:
            statement = postgresql.insert(table).values(row)
            statement = statement.on_conflict_do_update(index_elements=relation.target, set_={counter: counter + 1})
        found: int | None = self._execute(statement.returning(counter)).scalar_one_or_none()
        return found

    def read_many(self, relation: Relation, keys: Sequence[Key]) -> list[Row]:
        table = self._tables[relation.name]
        statement = sa.select(*self._columns(relation)).where(table.c[relation.key].in_(keys))
        with self.transaction():
            return [dict(row) for row in self._execute(statement).mappings()]


class CoreAccess(PinnedAccess):
    """SQLAlchemy Core."""

    _connection: sa.Connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._engine.connect() as self._connection:
            yield
            with self.tally.measure("COMMIT"):
                self._connection.commit()

    def _execute(self, statement: Any) -> sa.Result[Any]:
        return self._connection.execute(statement)

    def insert(self, relation: Relation, row: Row) -> Row | None:
        return self._one(sa.insert(self._tables[relation.name]).values(row).returning(*self._columns(relation)))

    def update(self, relation: Relation, key: Key, changes: Row) -> Row | None:
        table = self._tables[relation.name]
        statement = sa.update(table).where(table.c[relation.key] == key).values(changes)
        return self._one(statement.returning(*self._columns(relation)))

    def delete(self, relation: Relation, key: Key) -> int:
        table = self._tables[relation.name]
        result = self._connection.execute(sa.delete(table).where(table.c[relation.key] == key))
        return result.rowcount

    def read(self, relation: Relation, key: Key, *, lock: bool) -> Row | None:
        table = self._tables[relation.name]
        statement = sa.select(*self._columns(relation)).where(table.c[relation.key] == key)
        return self._one(statement.with_for_update() if lock else statement)


class OrmAccess(PinnedAccess):
    """SQLAlchemy ORM: objects of mapped classes, flushed by a session."""

    _session: orm.Session

    def __init__(self, address: Address, tally: Tally, relations: Sequence[Relation]) -> None:
        super().__init__(address, tally, relations)
        registry = orm.registry()
        self._classes: dict[str, Any] = {}
        for name, table in self._tables.items():
            self._classes[name] = type(name, (), {})
            registry.map_imperatively(self._classes[name], table)
        self.stack.callback(registry.dispose)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with orm.Session(self._engine, expire_on_commit=False) as self._session:
            yield
            self._session.flush()
            with self.tally.measure("COMMIT"):
                self._session.commit()

    def _execute(self, statement: Any) -> sa.Result[Any]:
        return self._session.execute(statement)

    def insert(self, relation: Relation, row: Row) -> Row | None:
        entity = self._classes[relation.name]()
        for name, value in row.items():
            setattr(entity, name, value)
        self._session.add(entity)
        self._session.flush()
        return _as_row(relation, entity)

    def update(self, relation: Relation, key: Key, changes: Row) -> Row | None:
        entity = self._get(relation, key)
        if entity is None:
            return None
        for name, value in changes.items():
            setattr(entity, name, value)
        self._session.flush()
        return _as_row(relation, entity)

    def upsert(self, relation: Relation, row: Row, changes: Sequence[str]) -> Row | None:
        found = super().upsert(relation, row, changes)
        # The session must not go on believing what it knew of the row.
        self._session.expire_all()
        return found

    def delete(self, relation: Relation, key: Key) -> int:
        entity = self._get(relation, key)
        if entity is None:
            return 0
        self._session.delete(entity)
        self._session.flush()
        return 1

    def read(self, relation: Relation, key: Key, *, lock: bool) -> Row | None:
        entity = self._get(relation, key, lock=lock)
        return None if entity is None else _as_row(relation, entity)

    def _get(self, relation: Relation, key: Key, *, lock: bool = False) -> Any:
        return self._session.get(self._classes[relation.name], key, populate_existing=True, with_for_update=lock)


def _as_row(relation: Relation, entity: Any) -> Row:
    return {name: getattr(entity, name) for name in relation.shown}


def open_access(style: Style, address: Address, tally: Tally, relations: Sequence[Relation]) -> Access:
    """Return a session in this style."""
    if style == "core":
        return CoreAccess(address, tally, relations)
    if style == "orm":
        return OrmAccess(address, tally, relations)
    return RawAccess(address, tally, 0 if style == "prepared" else 5)
