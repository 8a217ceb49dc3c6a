"""``alembic_zero.configure``: what env.py calls in place of ``context.configure``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.findings import HOLD, IGNORE, PreflightOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.engine import Connection

    from alembic_zero.workplace import Workplace


class Settings:
    """What ``configure`` was told beyond Alembic's own arguments.

    :param schemas: schemas with tables of the project, beside the default one and the metadata's.
    :param project: what tells this project from others in the same database with equal revision ids.
    :param lock_budget_s: how long, by the wall clock, one step tries to get its locks.
    :param preflight: what is looked at before the first change.
    :param command_wait_s: how long a command waits for another one that is at work on the project.
    :param poolers: URLs of the admin consoles of poolers, which know clients that the server does not.
    :param client_watch_s: for how long zd-complete looks for clients of older versions; None decides by what it sees.

    *direct* turns true for a run that starts from base: only then may our operations be plain DDL.
    *workplace* is the one that has taken the command lock already, if one has.
    *arguments* are what env.py gives to ``context.run_migrations``, and that to every upgrade() and downgrade().
    """

    def __init__(
        self,
        schemas: Sequence[str] = (),
        lock_budget_s: float = 120.0,
        project: str | None = None,
        preflight: PreflightOptions | None = None,
        *,
        command_wait_s: float = 600.0,
        poolers: Sequence[str] = (),
        client_watch_s: float | None = None,
    ) -> None:
        self.schemas = tuple(schemas)
        self.command_wait_s = command_wait_s
        self.poolers = tuple(poolers)
        self.client_watch_s = client_watch_s
        self.lock_budget_s = lock_budget_s
        self.project = project
        self.preflight = preflight or PreflightOptions()
        self.direct = False
        self.workplace: Workplace | None = None
        self.arguments: dict[str, Any] = {}


def configure(
    context: Any,
    connection: Connection | None = None,
    *,
    zd_schemas: Sequence[str] = (),
    zd_lock_budget_s: float = 120.0,
    zd_command_wait_s: float = 600.0,
    zd_poolers: Sequence[str] = (),
    zd_client_watch_s: float | None = None,
    zd_project: str | None = None,
    zd_publications: str = HOLD,
    zd_sample_rows: int = 1000,
    zd_free_disk: int | Callable[[], int] | None = None,
    **kw: Any,
) -> None:
    """Configure Alembic's context for zero-downtime migrations.

    Works online, with ``--sql``, and inside ``run_sync`` of an async env.py.

    :param context: ``alembic.context``, or an ``EnvironmentContext``.
    :param connection: as for ``context.configure``; None for ``--sql``.
    :param zd_schemas: schemas with tables of the project, beside the default schema and those of
     ``target_metadata``.
    :param zd_lock_budget_s: seconds, by the wall clock, that one step tries to get its locks.
    :param zd_command_wait_s: seconds that a command waits for another one on the same project; 0 refuses at once.
    :param zd_poolers: URLs of PgBouncer admin consoles, such as ``postgresql://stats@host:6432/pgbouncer``: their lists
     of clients are exact, where the server sees a client of a pool in transaction mode only while it works.
    :param zd_client_watch_s: seconds that zd-complete looks for clients of older versions before it begins; else a
     quarter of a second if there are pinned sessions, ten seconds if they change hands meanwhile.
    :param zd_project: a name for this project. Needed where two projects, each with a version table of its own,
     keep tables in one schema of one database, or have a table's schema in common: their revision ids may be equal.
     Applications give the same to ``pin_engine(project=)``. Not to be changed later.
    :param zd_publications: ``"hold"`` gives publications a column list while a table is in flight, so that subscribers
     see nothing of it, and refuses where that cannot be; ``"ignore"`` leaves them alone.
    :param zd_sample_rows: on how many rows of each table ``up`` and ``down`` are tried before anything changes; 0 for
     none.
    :param zd_free_disk: how many bytes the database's disk has left, or a function that finds out: an upgrade that is
     estimated to need more is refused.
    :param kw: everything else that ``context.configure`` takes.
    :raises RefusedError: the connection's search_path holds a version schema, or *zd_publications* is wrong.
    """
    environment = getattr(context, "_proxy", None) or context
    if connection is not None and connection.dialect.name == "postgresql":
        _check_search_path(connection)
    original = _original(kw.pop("fn", None) or environment.context_opts.get("fn"))
    if original is not None:
        kw["fn"] = _wrapped(original)
    preflight = PreflightOptions(_checked_choice(zd_publications), zd_sample_rows, zd_free_disk)
    settings = Settings(
        zd_schemas,
        zd_lock_budget_s,
        zd_project,
        preflight,
        command_wait_s=zd_command_wait_s,
        poolers=zd_poolers,
        client_watch_s=zd_client_watch_s,
    )
    environment.configure(connection=connection, alembic_zero=settings, **kw)
    _keep_arguments(environment.get_context(), settings)


def _checked_choice(publications: str) -> str:
    if publications not in (HOLD, IGNORE):
        raise RefusedError(
            f"zd_publications= must be 'hold' or 'ignore', not {publications!r}; nothing was changed", code="ZD101"
        )
    return publications


def _keep_arguments(context: MigrationContext, settings: Settings) -> None:
    """Keep what env.py gives to every migration function: plans and rollbacks call them, too."""
    run_migrations = context.run_migrations

    def run_and_keep(**kw: Any) -> None:
        settings.arguments = kw
        if context.as_sql or context.dialect.name != "postgresql":
            run_migrations(**kw)
            return
        from alembic_zero import road

        if context.purge:
            # Alembic empties the version table before it asks for the steps; in autocommit mode that would stay.
            road.check_stamp(context)
        with road.one_at_a_time(context):
            run_migrations(**kw)

    context.run_migrations = run_and_keep  # type: ignore[method-assign]


def _check_search_path(connection: Connection) -> None:
    """Refuse a pinned connection: new tables, and alembic_version, would land in a version schema."""
    began = connection.in_transaction()
    found = connection.execute(
        text(
            r"SELECT n.nspname FROM pg_namespace n WHERE n.nspname = ANY (current_schemas(false))"
            r" AND obj_description(n.oid, 'pg_namespace') ~ '^alembic_zero\: (version|tombstone)' ORDER BY 1"
        )
    ).scalars().all()  # fmt: skip
    if not began:
        # Alembic leaves a transaction that is open already to env.py, and would not commit.
        connection.rollback()
    if found:
        raise RefusedError(
            f"the migration connection's search_path holds version schema {', '.join(found)}: env.py must not use "
            "an engine that pin_engine has pinned; nothing was changed",
            code="ZD110",
        )


def _original(function: Any) -> Any:
    """Return Alembic's own function: env.py may configure several times in one process."""
    return getattr(function, "zd_original", function)


def _wrapped(original: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
    def run(heads: Any, context: MigrationContext) -> Iterable[Any]:
        if context.as_sql or context.dialect.name != "postgresql":
            return original(heads, context)
        from alembic_zero import road

        return road.run_stock_command(context, tuple(heads), original)

    run.zd_original = original  # type: ignore[attr-defined]
    return run
