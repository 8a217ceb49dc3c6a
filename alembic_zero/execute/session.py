"""The executor's own connections, free of what env.py set on its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool, StaticPool

from alembic_zero.operations.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine

_SETTINGS = (
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    # An error instead of silently missing rows, where row security would hide some (REDTEAM B9).
    ("row_security", "off"),
    ("client_min_messages", "warning"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("session_replication_role", "origin"),
)

_SUPERUSER_SETTINGS = {"session_replication_role"}


class Sessions:
    """Opens psycopg connections to the database that env.py is connected to, as the same role.

    :param like: env.py's connection; its search_path and role are taken over, its timeouts are not.
    """

    def __init__(self, like: Connection) -> None:
        self._role, self._session_role, self._path = like.execute(
            text("SELECT current_user, session_user, current_setting('search_path')")
        ).one()
        self._engine = self._make_engine(like)
        self._opened: list[Connection] = []

    def _make_engine(self, like: Connection) -> Engine:
        engine = like.engine
        if (
            engine.dialect.driver == "psycopg"
            and not engine.dialect.is_async
            and not isinstance(engine.pool, StaticPool)
        ):
            return engine
        return create_engine(engine.url.set(drivername="postgresql+psycopg"), poolclass=NullPool)

    def open(self) -> Connection:
        """Return a new connection with our settings; it belongs to this object."""
        try:
            connection = self._engine.connect()
        except Exception as error:
            raise MigrationError(
                f"cannot open a psycopg connection of our own to {self._engine.url!r}: {error}", code="ZD301"
            ) from error
        self._opened.append(connection)
        if self._role != self._session_role:
            connection.execute(text("SELECT set_config('role', :role, false)"), {"role": self._role})
        wanted = dict((*_SETTINGS, ("search_path", self._path)))
        for name in _SUPERUSER_SETTINGS:
            del wanted[name]
        # At once, and only those that this server knows.
        connection.execute(
            text(
                "SELECT set_config(s.name, v.value, false) FROM unnest(CAST(:names AS text[]), CAST(:values AS text[]))"
                " AS v(name, value) JOIN pg_settings s ON s.name = v.name"
            ),
            {"names": list(wanted), "values": list(wanted.values())},
        )
        connection.commit()
        return connection

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """Give a new connection for the time of the block."""
        connection = self.open()
        try:
            yield connection
        finally:
            self._opened.remove(connection)
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        """Close every connection, and with it whatever lock its session held."""
        while self._opened:
            connection = self._opened.pop()
            connection.invalidate()
            connection.close()


def autocommit(connection: Connection) -> Connection:
    """Return the connection in autocommit mode, for VACUUM and CREATE INDEX CONCURRENTLY."""
    return connection.execution_options(isolation_level="AUTOCOMMIT")
