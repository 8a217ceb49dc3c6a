"""A throw-away Alembic project: configuration, env.py, revision files, and running ``alembic`` on it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic.config import Config
    from sqlalchemy import URL

CHECKOUT = Path(__file__).resolve().parents[2]

EnvKind = Literal["sync", "async", "plain"]

INI = """\
[alembic]
script_location = %(here)s/migrations
path_separator = os
sqlalchemy.url = {url}
"""

ENV_HEAD = """\
{import_zero}
import sqlalchemy as sa
from alembic import context
from sqlalchemy import pool

config = context.config
{metadata}


def run_offline():
    {configure}
        url=config.get_main_option("sqlalchemy.url"),
        target_metadata=target_metadata,
        literal_binds=True,
        dialect_opts={{"paramstyle": "named"}},
        **{extra},
    )
    with context.begin_transaction():
        context.run_migrations()


def run_on(connection):
    {configure}connection=connection, target_metadata=target_metadata, **{extra})
    with context.begin_transaction():
        context.run_migrations()

"""

ENV_SYNC = """
def run_online():
    engine = sa.create_engine(config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
    with engine.connect() as connection:
        run_on(connection)

"""

ENV_ASYNC = """
async def run_async():
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run_on)
    await engine.dispose()


def run_online():
    import asyncio

    asyncio.run(run_async())

"""

ENV_TAIL = """
if context.is_offline_mode():
    run_offline()
else:
    run_online()
"""

SCRIPT_TEMPLATE = '''\
"""${message}"""

from alembic import op
import sqlalchemy as sa
import alembic_zero
from sqlalchemy.dialects import postgresql
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''

REVISION = '''\
"""{message}"""

from alembic import op
import sqlalchemy as sa
import alembic_zero
from sqlalchemy.dialects import postgresql

revision = {revision!r}
down_revision = {down!r}
branch_labels = {branch_labels!r}
depends_on = {depends_on!r}
{prelude}

def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''


class AlembicProject:
    """An Alembic project in *directory* for the database at *url*.

    :param env: ``sync`` and ``async`` call ``alembic_zero.configure``, ``plain`` Alembic's own.
    :param extra: more keyword arguments for the configure call; each must survive ``repr``.
    :param metadata: Python source for env.py that sets ``target_metadata``.
    """

    def __init__(
        self,
        directory: Path,
        url: URL,
        *,
        env: EnvKind = "sync",
        extra: Mapping[str, object] | None = None,
        metadata: str = "target_metadata = None",
    ) -> None:
        self.directory = directory
        self.url = url
        self.ini = directory / "alembic.ini"
        self.migrations = directory / "migrations"
        self.versions = self.migrations / "versions"
        self.versions.mkdir(parents=True, exist_ok=True)
        text = url.render_as_string(hide_password=False).replace("%", "%%")
        self.ini.write_text(INI.format(url=text))
        (self.migrations / "script.py.mako").write_text(SCRIPT_TEMPLATE)
        self.write_env(env=env, extra=extra, metadata=metadata)

    def write_env(
        self,
        *,
        env: EnvKind = "sync",
        extra: Mapping[str, object] | None = None,
        metadata: str = "target_metadata = None",
    ) -> None:
        """Write env.py, over the one that is there."""
        plain = env == "plain"
        head = ENV_HEAD.format(
            import_zero="" if plain else "import alembic_zero",
            configure="context.configure(" if plain else "alembic_zero.configure(context, ",
            extra=repr(dict(extra or {})),
            metadata=textwrap.dedent(metadata),
        )
        online = ENV_ASYNC if env == "async" else ENV_SYNC
        (self.migrations / "env.py").write_text(head + online + ENV_TAIL)

    def revision(
        self,
        revision: str,
        down: str | tuple[str, ...] | None = None,
        upgrade: str = "pass",
        downgrade: str = "pass",
        *,
        message: str = "",
        prelude: str = "",
        branch_labels: str | tuple[str, ...] | None = None,
        depends_on: str | tuple[str, ...] | None = None,
    ) -> Path:
        """Write (or overwrite) a revision file and return its path; the bodies are dedented Python."""
        slug = re.sub(r"\W", "_", revision, flags=re.ASCII)
        if slug != revision:
            slug = f"{slug}_{hashlib.sha256(revision.encode()).hexdigest()[:8]}"
        path = self.versions / f"{slug}.py"
        path.write_text(
            REVISION.format(
                message=message or revision,
                revision=revision,
                down=down,
                branch_labels=branch_labels,
                depends_on=depends_on,
                prelude=textwrap.dedent(prelude),
                upgrade=_body(upgrade),
                downgrade=_body(downgrade),
            ),
            encoding="utf-8",
        )
        return path

    def run(
        self,
        *arguments: str,
        check: bool = True,
        timeout_s: float = 120,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the ``alembic`` script of this Python environment in a process of its own.

        :param check: raise AssertionError, both outputs in it, unless the exit code is 0.
        """
        completed = subprocess.run(
            self._command(arguments),
            cwd=self.directory,
            env=_environment(env),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return _checked(completed) if check else completed

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start the ``alembic`` script and return at once; for tests that kill it."""
        return subprocess.Popen(
            self._command(arguments),
            cwd=self.directory,
            env=_environment(env),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run_in_process(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the same command line in this process: half a second faster, same exit codes.

        Not thread-safe (neither is Alembic). An exception that the script would show as a
        traceback is raised here, whatever *check* says.
        """
        stdout, stderr = io.StringIO(), io.StringIO()
        argv = ["-c", str(self.ini), *arguments]
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                code = _main(argv)
        finally:
            sys.dont_write_bytecode = bytecode
        completed = subprocess.CompletedProcess(argv, code, stdout.getvalue(), stderr.getvalue())
        return _checked(completed) if check else completed

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "alembic", "-c", str(self.ini), *arguments]


def _main(argv: list[str]) -> int:
    """Return the exit code that the ``alembic`` script would have."""
    from alembic.config import CommandLine

    class CapturedCommandLine(CommandLine):
        def run_cmd(self, config: Config, options: Any) -> None:
            # Config's default is the sys.stdout of the moment when Alembic was imported.
            config.stdout = sys.stdout
            super().run_cmd(config, options)

    try:
        CapturedCommandLine(prog="alembic").main(argv)
    except SystemExit as exc:
        if exc.code is None:
            return 0
        if isinstance(exc.code, int):
            return exc.code & 0xFF
        print(exc.code, file=sys.stderr)
        return 1
    return 0


def _checked(completed: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if completed.returncode != 0:
        raise AssertionError(
            f"alembic {' '.join(map(str, completed.args))} exited with {completed.returncode}\n"
            f"--- stdout\n{completed.stdout}\n--- stderr\n{completed.stderr}"
        )
    return completed


def _environment(changes: Mapping[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    # No bytecode: a revision file rewritten within a second, at the same size, would be stale.
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(changes or {})}


def _body(source: str) -> str:
    return textwrap.indent(textwrap.dedent(source).strip("\n") or "pass", "    ")
