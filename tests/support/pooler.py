"""PgBouncer for the tests, if there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import URL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Database

ENVIRONMENT_VARIABLE = "ALEMBIC_ZERO_PGBOUNCER"
_PORT = 6432

_CONFIGURATION = """
[databases]
* = host={host} port={port} user=postgres

[pgbouncer]
listen_addr =
listen_port = {own_port}
unix_socket_dir = {directory}
auth_type = any
admin_users = postgres
pool_mode = {mode}
default_pool_size = {size}
logfile = {directory}/pgbouncer.log
"""


def find_pgbouncer() -> str | None:
    """Return the program: what the environment variable names, else on the PATH, else where Debian puts it."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return named or shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


class Pooler:
    """A running PgBouncer in front of a test database's server."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory = directory
        self._database = database

    def url(self, database: str | None = None) -> URL:
        """Return the URL of a database behind it; its admin console is ``pgbouncer``."""
        name = database or self._database.name
        query = {"host": str(self.directory), "port": str(_PORT)}
        return URL.create("postgresql", username="postgres", database=name, query=query)

    def connect(self, application_name: str) -> psycopg.Connection[Any]:
        """Return a client of the pool."""
        return psycopg.connect(
            host=str(self.directory),
            port=_PORT,
            user="postgres",
            dbname=self._database.name,
            autocommit=True,
            prepare_threshold=None,
            application_name=application_name,
        )


@contextmanager
def running_pooler(database: Database, mode: str, size: int = 1) -> Iterator[Pooler]:
    """Run PgBouncer while the block runs.

    :param mode: its pool_mode.
    :param size: sessions that it opens for a database.
    """
    program = find_pgbouncer()
    assert program is not None
    # Short, for the socket's path; of the server's user, as PgBouncer does not run as root and must reach the server.
    directory = Path(tempfile.mkdtemp(prefix="zd-pgb", dir="/tmp"))
    owner = Path(database.server.host).owner()
    configuration = directory / "pgbouncer.ini"
    server = {"host": database.server.host, "port": database.server.port}
    configuration.write_text(_CONFIGURATION.format(**server, own_port=_PORT, directory=directory, mode=mode, size=size))
    command = [program, str(configuration)]
    if os.geteuid() == 0:
        shutil.chown(directory, owner)
        directory.chmod(0o755)
        command[1:1] = ["-u", owner]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pooler = Pooler(directory, database)
        _wait_for(pooler)
        yield pooler
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(pooler: Pooler) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), pooler.connect("are you there?") as connection:
            connection.execute("SELECT 1")
            return
        time.sleep(0.1)
    log = pooler.directory / "pgbouncer.log"
    raise AssertionError(f"PgBouncer does not answer:\n{log.read_text() if log.exists() else ''}")
