"""The roads that ``alembic upgrade`` and ``alembic downgrade`` take: direct, in flight, back."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from alembic_zero import reporting
from alembic_zero.completing import is_forward_only
from alembic_zero.errors import NEXT_COMMAND
from alembic_zero.execute.journal import Migration
from alembic_zero.execute.planner import Extras, Planner, digest_items
from alembic_zero.heads import heads_after, parts_of, steps_to, version_name
from alembic_zero.operations.base import ZdOperation
from alembic_zero.operations.errors import MigrationError, RefusedError
from alembic_zero.plan.stored import describe_edit, store_operations
from alembic_zero.recording import Recorder
from alembic_zero.returning import Rollback
from alembic_zero.workplace import Workplace, translated_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from alembic.runtime.migration import MigrationContext

    from alembic_zero.execute.journal import State
    from alembic_zero.plan.findings import Finding
    from alembic_zero.plan.items import Item


@contextmanager
def one_at_a_time(context: MigrationContext) -> Iterator[None]:
    """Have the command lock in the block where an upgrade starts with nothing: not even alembic_version is there.

    Alembic creates that table before it asks for the steps, and of two at once the second one would fail.
    """
    original = getattr(context._migrations_fn, "zd_original", None)  # noqa: SLF001 - Alembic has no accessor
    if getattr(original, "__name__", "") != "upgrade" or context._has_version_table():  # noqa: SLF001
        yield
        return
    settings = context.opts["alembic_zero"]
    workplace = settings.workplace = Workplace(context, "upgrade")
    try:
        with workplace.closing():
            workplace.take_command_lock()
            yield
    finally:
        settings.workplace = None


def run_stock_command(
    context: MigrationContext, heads: tuple[str, ...], original: Callable[..., Iterable[Any]]
) -> Iterator[Any]:
    """Stand in for the function by which a stock command chooses its steps.

    :param original: Alembic's own; its name tells the command.
    """
    command = original.__name__
    if command == "do_stamp":
        check_stamp(context)
    if command not in ("upgrade", "downgrade"):
        yield from original(heads, context)
        return
    workplace = context.opts["alembic_zero"].workplace or Workplace(context, command)
    steps = _choose_steps(workplace, heads, original)
    with workplace.closing():
        state = workplace.read_state()
        if state.migrations or not heads:
            before, waited = state, workplace.take_command_lock()
            if set(context.get_current_heads()) != set(heads):
                yield from _after_another(workplace, original)
                return
            state = workplace.read_state()
            if waited and command == "downgrade" and _flying(before) != _flying(state):
                # What was a rollback when the person asked for it, would be a migration backwards now.
                raise _moved()
        yield from Road(workplace, state, heads, steps, command).walk()


def _choose_steps(workplace: Workplace, heads: tuple[str, ...], original: Callable[..., Iterable[Any]]) -> list[Any]:
    """Return Alembic's own steps; those to a version of several heads where its name is the argument."""
    context = workplace.context
    destination = context.opts.get("destination_rev")
    migrations = workplace.read_state().migrations
    names = {name for m in migrations for name in (m.revision, m.from_revision) if len(parts_of(name)) > 1}
    if destination in names:
        return steps_to(context, heads, str(destination), original.__name__)
    return list(original(heads, context))


def _after_another(workplace: Workplace, original: Callable[..., Iterable[Any]]) -> list[Any]:
    """Return no steps if another command has done the work meanwhile.

    :raises MigrationError: it has done something else.
    """
    if _choose_steps(workplace, tuple(workplace.context.get_current_heads()), original):
        raise _moved()
    return []


def _flying(state: State) -> list[tuple[int, str]]:
    return [(migration.id, migration.state) for migration in state.in_flight]


def _moved() -> RefusedError:
    return RefusedError(
        "another command has changed the version, or what is in flight, meanwhile; this one changed nothing: "
        "run it again if it is still wanted",
        code="ZD303",
        next_command="alembic zd-status",
    )


def check_stamp(context: MigrationContext) -> None:
    """Refuse to stamp while something is in flight.

    :raises RefusedError: code ZD250.
    """
    in_flight = Workplace(context, "stamp").read_state().in_flight
    if in_flight:
        raise RefusedError(
            f"revision {in_flight[-1].revision!r} is in flight: stamping would tear alembic_version from the tables; "
            "nothing was changed",
            code="ZD250",
            revision=in_flight[-1].revision,
            next_command=f"alembic zd-complete, or alembic downgrade {in_flight[0].from_revision}",
        )


class Road:
    """One run of ``alembic upgrade`` or ``alembic downgrade``."""

    def __init__(
        self, workplace: Workplace, state: State, heads: tuple[str, ...], steps: Sequence[Any], command: str
    ) -> None:
        self._workplace = workplace
        self._state = state
        self._heads = heads
        self._steps = list(steps)
        self._command = command
        self._originals = [step.migration_fn for step in self._steps]
        self._published: Callable[[], None] | None = None
        self._in_flight = False
        self._started = False
        self._target = version_name(heads_after(workplace.context, heads, steps))
        self._current = version_name(heads)
        if state.migrations and workplace.context.config is not None:
            workplace.context.config.attributes[NEXT_COMMAND] = f"alembic {command} {self._target}"

    def walk(self) -> Iterator[Any]:
        """Yield the steps to Alembic, having done, or doing inside them, what they stand for."""
        rollback = self._rollback()
        if rollback is not None:
            yield from self._walk_back(rollback)
            return
        self._check_unfinished()
        if not self._steps:
            return
        managed = self._manage_transaction()
        for number, step in enumerate(self._steps):
            step.migration_fn = self._stand_in(number, partial(self._run_step, number))
            yield step
        if managed:
            self._commit_managed()

    # -- deciding -------------------------------------------------------------------------

    def _rollback(self) -> Rollback | None:
        """Return the rollback that this command asks for, None if it goes somewhere else."""
        flying = self._state.in_flight
        if not flying:
            return None
        unfinished = self._state.unfinished
        names = [m.from_revision for m in flying]
        if unfinished is not None and self._has_swapped(unfinished):
            return None
        backwards = self._command == "downgrade" or bool(self._steps)
        if not backwards or self._target not in names:
            return None
        if unfinished is not None and unfinished.state == "expanding" and self._target == unfinished.revision:
            return None
        if not self._steps and unfinished is None:
            return None
        ended = flying[names.index(self._target) :]
        if unfinished is not None and unfinished not in ended:
            return None
        return Rollback(self._workplace, self._state, ended)

    def _has_swapped(self, migration: Migration) -> bool:
        """Return whether a contract has taken something from the old version: then there is only forwards."""
        if migration.state != "contracting":
            return False
        assert migration.finish is not None  # noqa: S101 - a contract has its plan
        rows = self._workplace.journal.read_steps(self._workplace.connection, migration.id)
        return is_forward_only(migration.finish, rows)

    def _walk_back(self, rollback: Rollback) -> Iterator[Any]:
        self._workplace.take_command_lock()
        managed = self._manage_transaction()
        self._workplace.commit()
        with translated_errors(f"rollback to {self._target!r}", f"alembic downgrade {self._target}"):
            rollback.run()
        if not self._steps:
            rollback.finish()
        for number, step in enumerate(self._steps):
            function = self._nothing if number < len(self._steps) - 1 else rollback.finish
            step.migration_fn = self._stand_in(number, function)
            yield step
        if managed or not self._steps:
            self._commit_managed()

    def _stand_in(self, number: int, function: Callable[..., None]) -> Callable[..., None]:
        """Return *function* under the name of the revision's own, which Alembic writes to its log."""

        @wraps(self._originals[number])
        def run(**kw: Any) -> None:
            function(**kw)

        return run

    @staticmethod
    def _nothing(**_kw: Any) -> None:
        """Stand in for a migration function whose work is done elsewhere."""

    def _check_unfinished(self) -> None:
        unfinished = self._state.unfinished
        if unfinished is None:
            self._check_drift()
            return
        going_on = unfinished.state == "expanding" and unfinished.revision == self._target
        if going_on:
            return
        commands = {
            "expanding": f"alembic upgrade {unfinished.revision} to go on, or alembic downgrade "
            f"{unfinished.from_revision} to take it back",
            "contracting": f"alembic zd-complete {unfinished.revision}",
            "rolling back": f"alembic downgrade {unfinished.from_revision}",
        }
        swapped = (
            ": the old version has lost a table already, there is no way back any more"
            if self._has_swapped(unfinished)
            else ""
        )
        raise RefusedError(
            f"revision {unfinished.revision!r} is {unfinished.state} and has to be finished first{swapped}; "
            "nothing was changed",
            code="ZD251",
            revision=unfinished.revision,
            next_command=commands[unfinished.state],
        )

    def _check_drift(self) -> None:
        published = self._state.published
        if self._steps and published and published[-1].revision != self._current:
            raise RefusedError(
                f"alembic_version says {self._current!r}, but the newest published version is "
                f"{published[-1].revision!r}; nothing was changed",
                code="ZD252",
                revision=self._current,
                next_command="alembic zd-init" if not self._state.in_flight else "alembic zd-status",
            )
        names = {m.revision for m in self._state.published}
        if self._steps and self._target in names:
            raise RefusedError(
                f"revision {self._target!r} is still live as an older version; nothing was changed",
                code="ZD253",
                revision=self._target,
                next_command="alembic zd-complete",
            )

    def _manage_transaction(self) -> bool:
        """Make all steps one transaction where env.py wants one for each: the version moves once, at the end."""
        context: Any = self._workplace.context
        if not (context._transaction_per_migration and self._state.migrations):  # noqa: SLF001
            return False
        context._transaction_per_migration = False  # noqa: SLF001 - read again for every step
        return True

    def _commit_managed(self) -> None:
        transaction = self._workplace.connection.get_transaction()
        if transaction is not None and transaction.is_active and self._workplace.context._transaction is None:  # noqa: SLF001
            transaction.commit()

    # -- the steps ------------------------------------------------------------------------

    def _run_step(self, number: int, **kw: Any) -> None:
        """Stand in for the migration function of one step."""
        if number == 0:
            self._in_flight = self._decide(kw)
        if not self._in_flight:
            self._originals[number](**kw)
        if number == len(self._steps) - 1 and self._published is not None:
            self._published()

    def _decide(self, kw: dict[str, Any]) -> bool:
        """Do what comes before publishing; return whether the originals' work is done with that."""
        if not self._heads and not self._state.migrations:
            self._workplace.settings.direct = True
            self._published = self._publish_direct
            return False
        if self._workplace.connection.get_isolation_level() == "AUTOCOMMIT":
            # Our operations refuse by themselves; without any, the database is plain Alembic's business.
            self._check_not_adopted()
            return False
        items = self._record(kw)
        if items is None:
            return False
        context: Any = self._workplace.context
        if context._transaction_per_migration and len(self._steps) > 1:  # noqa: SLF001
            raise RefusedError(
                "several revisions at once with transaction_per_migration=True need a version to start from; "
                "nothing was changed",
                code="ZD254",
                next_command="alembic zd-init",
            )
        with translated_errors(f"revision {self._target!r}", f"alembic {self._command} {self._target}"):
            self._expand(items)
        return True

    def _check_not_adopted(self) -> None:
        if self._state.migrations:
            raise RefusedError(
                "env.py's connection is in autocommit mode, in which a version cannot be published together with "
                "alembic_version; nothing was changed",
                code="ZD112",
                revision=self._target,
            )

    def _record(self, kw: dict[str, Any]) -> list[Item] | None:
        """Return what the revisions ask for; None where the database is plain Alembic's business."""
        connection = self._workplace.connection
        recorder = Recorder(self._workplace.context, self._workplace.default_schema)
        savepoint = connection.begin_nested()
        try:
            for step, original in zip(self._steps, self._originals, strict=True):
                recorder.record(step.revision.revision, original, **kw)
        except RefusedError as error:
            if self._state.migrations or error.code != "ZD105" or self._uses_us(recorder.items):
                raise
        finally:
            # With the savepoint goes the transaction's READ ONLY.
            savepoint.rollback()
        if not self._state.migrations and not self._uses_us(recorder.items):
            return None
        return recorder.items

    @staticmethod
    def _uses_us(items: Sequence[Item]) -> bool:
        return any(isinstance(item.operation, ZdOperation) and not item.adopted for item in items)

    def _publish_direct(self) -> None:
        """Publish the one version of a database that was built from base: nobody was there to notice."""
        workplace = self._workplace
        schemas = workplace.schemas(self._state)
        workplace.journal.create(workplace.connection)
        number = workplace.journal.reserve_number(workplace.connection)
        migration = Migration(number, self._target, self._current, "current", schemas)
        workplace.journal.add_migration(workplace.connection, migration, 0)
        workplace.run_on_env(workplace.publisher(()).statements(self._target, schemas))

    def _expand(self, items: list[Item]) -> None:
        workplace = self._workplace
        workplace.take_command_lock()
        if workplace.read_state() != self._state:
            raise MigrationError("another command has changed what is in flight; run this one again", code="ZD303")
        executor = workplace.executor()
        options = workplace.naming_options
        digest = digest_items(items, options)
        migration = self._state.unfinished
        if migration is None:
            migration = self._begin(items, digest, executor, options)
        elif migration.operations_digest != digest:
            stored = Extras.from_json(migration.extras).operations if migration.extras else ()
            edit = describe_edit(stored, store_operations(items))
            raise RefusedError(
                f"revision {migration.revision!r} has been edited since its expansion began"
                f"{f': {edit}' if edit else ''}; nothing was changed",
                code="ZD255",
                revision=migration.revision,
                next_command=f"alembic downgrade {migration.from_revision}",
            )
        else:
            workplace.report(f"going on with revision {migration.revision!r}")
            workplace.commit()
        workplace.align_rights(executor, self._state)
        assert migration.expand is not None  # noqa: S101 - every expanding migration has its plan
        executor.run(migration, migration.expand, f"alembic {self._command} {self._target}")
        self._published = partial(self._publish, migration)

    def _begin(self, items: list[Item], digest: str, executor: Any, options: dict[str, Any]) -> Migration:
        workplace = self._workplace
        number = workplace.journal.reserve_number(workplace.connection)
        planner = Planner(
            workplace.sessions, workplace.journal, self._state, executor.server, executor.rules,
            workplace.default_schema, options, workplace.settings.preflight, self._announce,
        )  # fmt: skip
        expansion = planner.plan(items, self._target, number)
        schemas = workplace.schemas(self._state, expansion.schemas)
        workplace.publisher(()).check(self._target, schemas)
        migration = Migration(
            number, self._target, self._current, "expanding", schemas, digest, expansion.plan, None,
            expansion.extras.to_json(),
        )  # fmt: skip
        workplace.commit()
        with executor.work.begin():
            workplace.journal.create(executor.work)
            if workplace.journal.read_generation(executor.work) != self._state.last_generation:
                raise MigrationError(
                    "another project's command has begun a migration in this database meanwhile; nothing was changed: "
                    "run this one again",
                    code="ZD303",
                    revision=self._target,
                    next_command=f"alembic {self._command} {self._target}",
                )
            workplace.journal.add_migration(executor.work, migration, expansion.last_generation)
        return migration

    def _announce(self, findings: Sequence[Finding]) -> None:
        for line in reporting.finding_lines(findings, notes=False):
            self._workplace.report(line)

    def _publish(self, migration: Migration) -> None:
        """Create the version schema in Alembic's own transaction, in which the version moves too."""
        workplace = self._workplace
        state = workplace.read_state()
        if not workplace.journal.set_state(workplace.connection, migration.id, "live", ["expanding"]):
            raise MigrationError(
                f"revision {migration.revision!r} was published or taken back by another command meanwhile",
                code="ZD303",
                revision=migration.revision,
            )
        statements = workplace.publisher(state.flights).statements(migration.revision, migration.schemas)
        workplace.run_on_env(statements)
        schema = workplace.journal.view_schema(migration.revision, workplace.default_schema)
        workplace.report(f"published {schema}; when every client uses it: alembic zd-complete")
