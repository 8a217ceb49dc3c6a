"""The ``zd-`` commands, for the ``alembic`` script and for programs, as ``alembic.command`` has its own.

Each runs env.py, as Alembic's commands do, and leaves the work to :mod:`alembic_zero.driver`. The first
paragraph of a docstring is the command's ``--help``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    Action = Callable[[MigrationContext, tuple[str, ...], ScriptDirectory], None]

_Command = TypeVar("_Command", bound=Callable[..., None])


def _named(name: str) -> Callable[[_Command], _Command]:
    """Return a decorator that gives a function *name*, which is what Alembic calls its command."""

    def decorate(function: _Command) -> _Command:
        function.__name__ = name
        return function

    return decorate


@_named("zd-init")
def zd_init(config: Config) -> None:
    """Adopt an existing database: publish the version schema of its revision, without DDL on any table.

    Run again, it brings the rights on live versions in line with those on the tables, after GRANT or REVOKE.

    :param config: a :class:`alembic.config.Config`.
    :raises MigrationError: it failed.
    :raises RefusedError: nothing was changed.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        driver.zd_init(context, heads, script)

    _run_env(config, zd_init.__name__, act)


@_named("zd-status")
def zd_status(config: Config, as_json: bool = False) -> None:
    """Show what is in flight: phase, steps, progress, quarantined rows, blockers, clients.

    Takes no lock and runs no DDL.

    :param config: a :class:`alembic.config.Config`.
    :param as_json: print JSON instead of text.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        driver.zd_status(context, heads, script, as_json=as_json)

    _run_env(config, zd_status.__name__, act)


@_named("zd-plan")
def zd_plan(config: Config, revision: str | None = None) -> None:
    """Print every statement that an upgrade would run, with its lock. Changes nothing.

    :param config: a :class:`alembic.config.Config`.
    :param revision: revision to upgrade to; ``heads`` if None.
    :raises RefusedError: the upgrade would be refused.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        # Alembic's own upgrade command gets its steps from this method, too; there is no public one.
        steps = list(script._upgrade_revs(revision or "heads", heads))  # type: ignore[arg-type]  # noqa: SLF001
        driver.zd_plan(context, heads, script, revision=revision, steps=steps)

    _run_env(config, zd_plan.__name__, act)


@_named("zd-verify")
def zd_verify(
    config: Config, revision: str | None = None, as_json: bool = False, repair: Literal["old", "new"] | None = None
) -> None:
    """Compare what old and new versions see of every row in flight; change nothing, or repair what was found.

    :param config: a :class:`alembic.config.Config`.
    :param revision: look at what is in flight up to this one; up to the latest if None.
    :param as_json: print JSON instead of text.
    :param repair: mend what is found: by what the ``old`` version's columns say, or the ``new`` one's.
    :raises VerificationError: rows were found, or are left; they have been printed.
    :raises RefusedError: nothing was compared.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        driver.zd_verify(context, heads, script, revision=revision, as_json=as_json, repair=repair)

    _run_env(config, zd_verify.__name__, act)


@_named("zd-complete")
def zd_complete(config: Config, revision: str | None = None, force: bool = False) -> None:
    """Complete what is in flight: contract the tables and retire the old version.

    Forward-only once the first table has been swapped over. Safe to repeat.

    :param config: a :class:`alembic.config.Config`.
    :param revision: contract up to this one; up to the latest if None.
    :param force: go on although clients of the old version are connected, rows are quarantined or
     verification fails.
    :raises MigrationError: it failed; run it again.
    :raises RefusedError: nothing was changed.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        driver.zd_complete(context, heads, script, revision=revision, force=force)

    _run_env(config, zd_complete.__name__, act)


@_named("zd-prune")
def zd_prune(config: Config) -> None:
    """Remove the tombstones that completed migrations left for clients of old versions.

    :param config: a :class:`alembic.config.Config`.
    :raises MigrationError: it failed.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        driver.zd_prune(context, heads, script)

    _run_env(config, zd_prune.__name__, act)


@_named("zd-schema")
def zd_schema(config: Config, revision: str | None = None) -> None:
    """Print the SET search_path statement for clients that do not use SQLAlchemy.

    :param config: a :class:`alembic.config.Config`.
    :param revision: revision that the clients were written for; the script directory's single head if None.
    :raises RefusedError: there is no such revision, or no single head.
    """

    def act(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:
        from alembic_zero import driver

        driver.zd_schema(context, heads, script, revision=revision)

    _run_env(config, zd_schema.__name__, act)


def _run_env(config: Config, command_name: str, act: Action) -> None:
    """Run env.py with *act* in place of migrations.

    :raises RefusedError: code ZD102, env.py does not call ``alembic_zero.configure``.
    """
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    from alembic_zero.operations.dispatch import check_configured

    script = ScriptDirectory.from_config(config)

    def run_action(heads: tuple[str, ...], context: MigrationContext) -> list[Any]:
        check_configured(context.opts, command_name)
        act(context, heads, script)
        return []

    with EnvironmentContext(
        config,
        script,
        fn=run_action,
        dont_mutate=True,
        as_sql=False,
        alembic_zero_command=command_name,
    ):
        script.run_env()
