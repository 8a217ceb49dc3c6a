"""What the ``zd-`` commands do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from alembic_zero import reporting
from alembic_zero.catalog.reader import read_rows
from alembic_zero.completing import Completion
from alembic_zero.errors import ZeroError
from alembic_zero.execute.journal import Migration
from alembic_zero.execute.planner import Planner
from alembic_zero.execute.repair import Truth
from alembic_zero.execute.survey import survey_publications
from alembic_zero.heads import heads_after, newest_version, parts_of, version_name
from alembic_zero.names import base_revision, version_schema
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.findings import check_findings
from alembic_zero.recording import Recorder
from alembic_zero.sql.quoting import ident
from alembic_zero.verifying import run_verification
from alembic_zero.workplace import Workplace, translated_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from alembic_zero.execute.journal import State
    from alembic_zero.execute.planner import Expansion
    from alembic_zero.plan.items import Item


def zd_init(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:  # noqa: ARG001
    """Publish the version schema of the current revision; nothing but views is created.

    Where versions are live already, bring their rights in line with the tables'.
    """
    workplace = Workplace(context, "zd-init")
    with workplace.closing():
        if workplace.take_command_lock():
            heads = tuple(context.get_current_heads())
        state = workplace.read_state()
        current = version_name(heads)
        published = state.published
        if state.in_flight or (published and published[-1].revision == current):
            workplace.commit()
            with translated_errors("zd-init", "alembic zd-init"):
                workplace.align_rights(workplace.executor(), state)
            rest = (
                f"revision {state.in_flight[-1].revision!r} is in flight" if state.in_flight else "nothing else to do"
            )
            workplace.report(f"version {published[-1].revision if published else current} is published: {rest}")
            return
        if current == base_revision:
            raise RefusedError(
                "alembic_version is empty: there is no revision to publish; nothing was changed",
                code="ZD256",
                next_command="alembic stamp, for a database that has its tables already, or alembic upgrade",
            )
        schemas = workplace.schemas(state)
        findings = tuple(survey_publications(workplace.connection, workplace.settings.preflight))
        check_findings(findings, current)
        for line in reporting.finding_lines(findings, notes=False):
            workplace.report(line)
        publisher = workplace.publisher(())
        publisher.check(current, schemas)
        with translated_errors("zd-init", "alembic zd-init"):
            _adopt(workplace, state, current, schemas)
    _commit(workplace)
    workplace.report(f"published {workplace.journal.view_schema(current, workplace.default_schema)}")


def _adopt(workplace: Workplace, state: State, current: str, schemas: tuple[str, ...]) -> None:
    connection = workplace.connection
    workplace.journal.create(connection)
    number = workplace.journal.reserve_number(connection)
    publisher = workplace.publisher(())
    for old in state.published:
        workplace.run_on_env(publisher.tomb_functions(old.revision, old.schemas, current))
        workplace.run_on_env(publisher.bury(old.revision, old.schemas, current, {}))
    workplace.journal.add_migration(connection, Migration(number, current, current, "current", schemas), 0)
    workplace.journal.end_earlier(connection, number)
    workplace.run_on_env(publisher.statements(current, schemas))


def _commit(workplace: Workplace) -> None:
    """Commit what a zd- command did on env.py's connection; env.py's own block, if any, finds nothing left."""
    workplace.commit()


def zd_status(
    context: MigrationContext,
    heads: tuple[str, ...],
    script: ScriptDirectory,  # noqa: ARG001 - every command's signature
    *,
    as_json: bool = False,
) -> None:
    """Print what is in flight."""
    workplace = Workplace(context, "zd-status")
    with workplace.closing():
        status = reporting.read_status(workplace, heads)
        reporting.print_status(context, status, as_json=as_json)


def zd_plan(
    context: MigrationContext,
    heads: tuple[str, ...],
    script: ScriptDirectory,  # noqa: ARG001
    *,
    revision: str | None = None,  # noqa: ARG001
    steps: Sequence[Any] = (),
) -> None:
    """Print every statement of an upgrade, then of its contract; change nothing."""
    workplace = Workplace(context, "zd-plan")
    with workplace.closing():
        state = workplace.read_state()
        if not steps:
            _plan_contract(workplace, state, version_name(heads))
            return
        if not heads and not state.migrations:
            reporting.print_lines(context, ["from base: the direct road, plain DDL, nothing in flight"])
            return
        target = version_name(heads_after(context, heads, steps))
        with translated_errors("zd-plan", "alembic zd-plan"):
            expansion = _plan_steady(workplace, state, steps, target)
        if expansion is None:
            _plan_contract(workplace, workplace.read_state(), version_name(context.get_current_heads()))
        else:
            reporting.print_plan(workplace, expansion, target)


def _plan_steady(workplace: Workplace, state: State, steps: Sequence[Any], target: str) -> Expansion | None:
    """Return the plan of an upgrade; None if a command at work has published it meanwhile.

    A plan that fails while another command changes what it looks at is made again.
    """
    while True:
        try:
            return _plan_only(workplace, state, _record(workplace, steps), target)
        except ZeroError:
            now = workplace.read_state()
            if now == state:
                raise
            if any(m.revision == target for m in now.published):
                return None
            state = now


def _record(workplace: Workplace, steps: Sequence[Any]) -> list[Item]:
    recorder = Recorder(workplace.context, workplace.default_schema)
    savepoint = workplace.connection.begin_nested()
    for step in steps:
        recorder.record(step.revision.revision, step.migration_fn, **workplace.settings.arguments)
    savepoint.rollback()
    return list(recorder.items)


def _plan_contract(workplace: Workplace, state: State, current: str) -> None:
    """Print what zd-complete would run, nothing being left to upgrade."""
    plan = Completion(workplace, state, None, current, force=True).preview()
    if plan is None:
        reporting.print_lines(workplace.context, ["nothing to do"])
    else:
        reporting.print_steps(workplace.context, f"zd-complete up to {state.in_flight[-1].revision}", plan)


def _plan_only(workplace: Workplace, state: State, items: Sequence[Item], target: str) -> Expansion:
    executor = workplace.executor()
    planner = Planner(
        workplace.sessions, workplace.journal, state, executor.server, executor.rules,
        workplace.default_schema, workplace.naming_options, workplace.settings.preflight,
    )  # fmt: skip
    return planner.plan(items, target, state.next_migration)


def zd_verify(
    context: MigrationContext,
    heads: tuple[str, ...],  # noqa: ARG001 - every command's signature
    script: ScriptDirectory,  # noqa: ARG001
    *,
    revision: str | None = None,
    as_json: bool = False,
    repair: str | None = None,
) -> None:
    """Compare rows in flight, and mend them if asked to."""
    workplace = Workplace(context, "zd-verify")
    with workplace.closing(), translated_errors("zd-verify", "alembic zd-verify"):
        if repair is not None:
            workplace.take_command_lock()
        run_verification(workplace, revision, as_json=as_json, truth=None if repair is None else Truth(repair))


def zd_complete(
    context: MigrationContext,
    heads: tuple[str, ...],
    script: ScriptDirectory,  # noqa: ARG001
    *,
    revision: str | None = None,
    force: bool = False,
) -> None:
    """Contract up to a revision."""
    workplace = Workplace(context, "zd-complete")
    with workplace.closing():
        wanted = _aim(workplace, revision, version_name(heads))
        if workplace.take_command_lock():
            now = _aim(workplace, revision, version_name(heads))
            if now not in (None, wanted):
                raise RefusedError(
                    f"while this command waited for another one, what it would complete has become {now!r}, and was "
                    f"{wanted!r}; nothing was changed: run it again if that is wanted",
                    code="ZD303",
                    revision=now,
                    next_command="alembic zd-status",
                )
        state = workplace.read_state()
        workplace.commit()
        with translated_errors("zd-complete", "alembic zd-complete"):
            Completion(workplace, state, revision, version_name(heads), force=force).run()


def _aim(workplace: Workplace, revision: str | None, current: str) -> str | None:
    """Return the revision that zd-complete would complete at this moment, None if there is nothing to do.

    :raises RefusedError: nothing can be completed; names the command that is at work, if there is one.
    """
    state = workplace.read_state()
    try:
        target = Completion(workplace, state, revision, current, force=True).target()
    except RefusedError as error:
        other = workplace.other_command()
        if other is None:
            raise
        raise RefusedError(
            f"{error.message} (another command is running: {other})",
            code="ZD302",
            revision=error.revision,
            next_command="alembic zd-status",
        ) from error
    return None if target is None else target.revision


def zd_prune(context: MigrationContext, heads: tuple[str, ...], script: ScriptDirectory) -> None:  # noqa: ARG001
    """Remove tombstones."""
    workplace = Workplace(context, "zd-prune")
    with workplace.closing():
        workplace.take_command_lock()
        executor = workplace.executor()
        publisher = workplace.publisher(())
        names = [row["name"] for row in read_rows(workplace.connection, "version_schemas")]
        found = {name: publisher.prune(name) for name in names}
        workplace.commit()
        for name, statements in found.items():
            if statements:
                executor.run_alone(f"prune {name}", statements)
                workplace.report(f"removed tombstone {name}")


def zd_schema(
    context: MigrationContext,
    heads: tuple[str, ...],  # noqa: ARG001
    script: ScriptDirectory,
    *,
    revision: str | None = None,
) -> None:
    """Print SET search_path for clients of a revision."""
    connection = context.connection
    assert connection is not None  # noqa: S101 - zd- commands are online
    schema = str(connection.execute(text("SELECT current_schema()")).scalar_one())
    names = connection.execute(text("SELECT unnest(current_schemas(false))")).scalars().all()
    if revision in (None, "head", "heads"):
        resolved = newest_version(context, script)
        if resolved == base_revision:
            raise RefusedError("the script directory has no revision; nothing was changed", code="ZD257")
    else:
        found = script.get_revisions(parts_of(str(revision)))
        resolved = version_name(one.revision for one in found if one)
    view_schema = version_schema(resolved, schema, context.opts["alembic_zero"].project)
    path = ", ".join(ident(name) for name in (view_schema, *names))
    reporting.print_lines(context, [f"SET search_path TO {path};"])
