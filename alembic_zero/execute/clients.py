"""Which clients of a version are connected: seen in the server, over a while, and in poolers' own lists."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from alembic_zero.catalog.reader import read_rows
from alembic_zero.names import SUFFIX_START
from alembic_zero.operations.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection

_PAUSE_S = 0.02
# Enough to see that sessions change hands; then it takes longer to see everybody.
_GLANCE_S = 0.25
_POOLED_S = 10.0
_CONNECT_TIMEOUT_S = 3


@dataclass(frozen=True)
class Client:
    """A client that is connected; *pid* is its server process, None if only its pooler knows it."""

    revision: str
    application_name: str
    role: str | None
    address: str | None
    state: str | None
    since: str | None
    pid: int | None
    pooler: str | None = None


def describe_clients(clients: Iterable[Client]) -> str:
    """Return who they are, those that differ only by their sessions together."""
    groups: dict[tuple[str, str, str | None, str | None, str | None], list[Client]] = {}
    for client in clients:
        key = (client.revision, client.application_name, client.role, client.address, client.pooler)
        groups.setdefault(key, []).append(client)
    return "; ".join(_describe(group) for _, group in sorted(groups.items(), key=lambda item: str(item[0])))


def _describe(group: Sequence[Client]) -> str:
    first = group[0]
    origin = f" from {first.address}" if first.address else ""
    states = ", ".join(sorted({client.state for client in group if client.state})) or "state not visible"
    since = min((client.since for client in group if client.since), default=None)
    pids = [str(client.pid) for client in group if client.pid is not None]
    parts = [states, *([f"since {since}"] if since else []), *([f"pid {', '.join(pids)}"] if pids else [])]
    through = f", through pooler {first.pooler}" if first.pooler else ""
    return (
        f"{len(group)} of version {first.revision}: {first.application_name!r}, role {first.role}{origin}{through} "
        f"({'; '.join(parts)})"
    )


# -- poolers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PoolerList:
    """What a pooler's console says of one database: its clients, and the sessions of the server that are its own."""

    name: str
    clients: tuple[Mapping[str, Any], ...] = ()
    servers: frozenset[tuple[int, str]] = frozenset()


def ask_pooler(url: str, database: str) -> PoolerList:
    """Return what PgBouncer's admin console says.

    :param database: the name in the server; in the pooler it may have others.
    :raises RefusedError: code ZD262, the console does not answer.
    """
    address = make_url(url).set(drivername="postgresql")
    name = address.render_as_string(hide_password=True)
    try:
        with psycopg.connect(
            address.render_as_string(hide_password=False),
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=_CONNECT_TIMEOUT_S,
            row_factory=dict_row,
        ) as console:
            aliases = {row["name"] for row in console.execute("SHOW DATABASES") if row["database"] == database}
            clients = [row for row in console.execute("SHOW CLIENTS") if row["database"] in aliases]
            servers = [row for row in console.execute("SHOW SERVERS") if row["database"] in aliases]
    except psycopg.Error as error:
        raise RefusedError(
            f"pooler {name} does not say who its clients are: {error}; nothing was changed",
            code="ZD262",
            next_command="alembic zd-complete",
        ) from error
    own = frozenset((row["remote_pid"], row.get("application_name") or "") for row in servers)
    return PoolerList(name, tuple(clients), own)


# -- looking -------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """What successive looks have seen of one server process."""

    row: Mapping[str, Any]
    changed_hands: bool = False
    worked: dict[str, Client] = field(default_factory=dict)


@dataclass
class ClientWatch:
    """Looks for the clients of some versions.

    :param suffixes: how their application_name ends, with the revision.
    :param poolers: URLs of admin consoles.
    :param watch_s: for how long to look; None decides by what is seen.
    """

    connection: Connection
    suffixes: Mapping[str, str]
    poolers: Sequence[str] = ()
    watch_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    _sessions: dict[tuple[int, Any], _Session] = field(default_factory=dict)

    def look(self) -> list[Client]:
        """Return the clients that can be seen at this moment.

        :raises RefusedError: a pooler's console does not answer.
        """
        lists = [ask_pooler(url, self._database()) for url in self.poolers] if self.poolers else []
        pooled = {pid for one in lists for pid in one.servers}
        rows = [row for row in self._read() if (row["pid"], row["application_name"]) not in pooled]
        found = [client for row in rows if (client := self._client(row)) is not None]
        return found + [client for one in lists for client in self._listed(one)]

    def observe(self) -> list[Client]:
        """Return the clients that are connected, pooled ones that are seen only while they work included.

        In transaction mode a server's session has the application_name of whoever used it last. So a name that comes
        back, or works, on a session that has changed hands belongs to a client that is there; one that has only
        stayed may be of a client that has gone. Where no session names any version there is nothing to wait for.

        :raises RefusedError: a pooler's console does not answer.
        """
        self._sessions.clear()
        began = self.clock()
        rows = self._note(self._read())
        pinned = any(SUFFIX_START in row["application_name"] for row in rows)
        if self.watch_s or (pinned and not self.poolers):
            while self.clock() - began < self._window():
                time.sleep(_PAUSE_S)
                self._note(self._read())
        found = {(c.pid, c.application_name): c for c in self.look()}
        for session in self._sessions.values():
            if session.changed_hands:
                found |= {(c.pid, c.application_name): c for c in session.worked.values()}
        return list(found.values())

    def _window(self) -> float:
        if self.watch_s is not None:
            return self.watch_s
        return _POOLED_S if any(one.changed_hands for one in self._sessions.values()) else _GLANCE_S

    def _read(self) -> Sequence[Mapping[str, Any]]:
        return read_rows(self.connection, "clients")

    def _database(self) -> str:
        return str(self.connection.exec_driver_sql("SELECT current_database()").scalar_one())

    def _note(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Compare sessions with how they were a moment ago."""
        for row in rows:
            session = self._sessions.setdefault((row["pid"], row["backend_start"]), _Session(row))
            before, session.row = session.row, row
            named = before["application_name"] != row["application_name"]
            session.changed_hands |= named and bool(before["application_name"]) and bool(row["application_name"])
            client = self._client(row)
            if client is not None and (named or before["state_change"] != row["state_change"]):
                session.worked[client.application_name] = client
        return rows

    def _client(self, row: Mapping[str, Any]) -> Client | None:
        revision = self._revision(row["application_name"])
        if revision is None:
            return None
        since = f"{row['backend_start']:%Y-%m-%d %H:%M:%S %Z}" if row["backend_start"] else None
        return Client(
            revision, row["application_name"], row["role"], row["address"], row["state"], since, row["pid"]
        )  # fmt: skip

    def _listed(self, pooler: PoolerList) -> Iterable[Client]:
        for row in pooler.clients:
            name = row.get("application_name") or ""
            revision = self._revision(name)
            if revision is not None:
                since = str(row["connect_time"])
                yield Client(revision, name, row["user"], row["addr"], row["state"], since, None, pooler.name)

    def _revision(self, application_name: str) -> str | None:
        return next((r for suffix, r in self.suffixes.items() if application_name.endswith(suffix)), None)
