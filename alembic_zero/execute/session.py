"""The executor's own connections, free of what env.py set on its own."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from alembic_zero.operations.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection, Engine

_SETTINGS = (
    ("statement_timeout", "0"),
    # Steps set their own, which is short; what has none, CREATE INDEX CONCURRENTLY for example, lets clients pass.
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    # An error instead of silently missing rows, where row security would hide some (REDTEAM B9).
    ("row_security", "off"),
    ("client_min_messages", "warning"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("session_replication_role", "origin"),
    # Whoever is killed, or cut off, must not leave a statement of hours behind.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
)

# The same for a client on the server's own host; not every platform of a server can tell.
_LIVENESS = (("client_connection_check_interval", "2s"),)

_SUPERUSER_SETTINGS = {"session_replication_role"}


class Sessions:
    """Opens psycopg connections to the database that env.py is connected to, as the same role.

    :param like: env.py's connection; its search_path and role are taken over, its timeouts are not.
    :param name: the application_name of all of them, which tells their process.

    *join* is called with every connection that is opened, if it is set.
    """

    def __init__(self, like: Connection, name: str) -> None:
        self.join: Callable[[Connection], object] | None = None
        self._name = name
        self._role, self._session_role, self._path = like.execute(
            text("SELECT current_user, session_user, current_setting('search_path')")
        ).one()
        if self._path and "pg_temp" not in self._path:
            # Functions that run with our rights keep this path. Unless it says otherwise, a caller's temporary tables
            # would come first in it (PostgreSQL manual, CREATE FUNCTION, Writing SECURITY DEFINER Functions Safely).
            self._path = f"{self._path}, pg_temp"
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
        connection.info["alembic_zero_pid"] = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        wanted = (*_SETTINGS, ("search_path", self._path), ("application_name", self._name))
        _set(connection, [(name, value) for name, value in wanted if name not in _SUPERUSER_SETTINGS])
        connection.commit()
        with suppress(DBAPIError), connection.begin():
            _set(connection, _LIVENESS)
        if self.join is not None:
            self.join(connection)
            connection.commit()
        return connection

    @staticmethod
    def pid(connection: Connection) -> int:
        """Return the server process of one of our connections."""
        return int(connection.info["alembic_zero_pid"])

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


def _set(connection: Connection, settings: Sequence[tuple[str, str]]) -> None:
    """Set settings for the session at once, those that this server knows."""
    connection.execute(
        text(
            "SELECT set_config(s.name, v.value, false) FROM unnest(CAST(:names AS text[]), CAST(:values AS text[]))"
            " AS v(name, value) JOIN pg_settings s ON s.name = v.name"
        ),
        {"names": [name for name, _ in settings], "values": [value for _, value in settings]},
    )


def autocommit(connection: Connection) -> Connection:
    """Return the connection in autocommit mode, for VACUUM and CREATE INDEX CONCURRENTLY."""
    return connection.execution_options(isolation_level="AUTOCOMMIT")
