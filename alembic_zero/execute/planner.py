"""From items to a plan: everything is tried and checked here, before anything changes."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import find_table, in_order, read_column_order, read_facts, read_rows, read_spec
from alembic_zero.catalog.snapshot import TableFacts
from alembic_zero.execute.enums import EnumTrials
from alembic_zero.execute.following import Following
from alembic_zero.execute.linked_trial import LinkedTrial
from alembic_zero.execute.locks import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE, QUERY_CANCELED, sqlstate
from alembic_zero.execute.plain_ddl import TRIAL_SCHEMA, render_plain, trial_schema
from alembic_zero.execute.preflight import check_derived_keys, check_rows
from alembic_zero.execute.samples import RowSample, Sample
from alembic_zero.execute.sending import describe_error, send, send_all
from alembic_zero.execute.survey import survey_clients, survey_plan, survey_rights
from alembic_zero.lens.lens import GENERATION_STRIDE, Cell, Flight
from alembic_zero.names import MARKER
from alembic_zero.operations.base import ZdTableOperation
from alembic_zero.operations.enums import ZdCreateEnumOp, ZdEnumOperation
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.tables import ZdCreateTableOp
from alembic_zero.plain import PlainData
from alembic_zero.plan.demands import demands_of
from alembic_zero.plan.draft import new_draft
from alembic_zero.plan.enums import EnumFlight, plan_types
from alembic_zero.plan.expand import (
    function_statements,
    is_guarded,
    plan_activation,
    plan_backfill,
    plan_columns,
    plan_fills,
    plan_foreign_keys,
    plan_fulfilment,
    plan_indexes,
    plan_key_slots,
    plan_validation,
    table_lock,
    unguarded,
)
from alembic_zero.plan.findings import HOLD, Finding, PreflightOptions, check_findings
from alembic_zero.plan.items import Item, Ordinary
from alembic_zero.plan.links import groups, sources_first
from alembic_zero.plan.outline import outline
from alembic_zero.plan.policy import (
    check_columns,
    check_foreign_keys,
    check_looked_up,
    check_reads,
    check_table,
    check_triggers,
)
from alembic_zero.plan.publishing import held_publications
from alembic_zero.plan.step import Kind, Lock, LockMode, Plan, Step
from alembic_zero.plan.stored import StoredOperation, store_operations
from alembic_zero.sql.enums import create_type, drop_type
from alembic_zero.sql.links import LinkSql
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import LiveForeignKey, Server, TableSpec
    from alembic_zero.execute.journal import Journal, State
    from alembic_zero.execute.locks import LockRules
    from alembic_zero.execute.session import Sessions
    from alembic_zero.plan.draft import Draft


@dataclass(frozen=True)
class Extras(PlainData):
    """What a revision's own SQL wants done later, in order, and the calls that it consists of.

    :param types: what becomes of enums, once the tables are contracted.
    :param enums: the enums that are in flight until then.
    """

    contract: tuple[str, ...] = ()
    has_text: bool = False
    operations: tuple[StoredOperation, ...] = ()
    types: tuple[str, ...] = ()
    enums: tuple[EnumFlight, ...] = ()


@dataclass(frozen=True)
class Expansion:
    """A plan for the expand phase, and the flights as they will be after it."""

    plan: Plan
    flights: tuple[Flight, ...]
    extras: Extras
    last_generation: int
    schemas: tuple[str, ...]
    outline: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def digest_items(items: Sequence[Item], options: dict[str, Any]) -> str:
    """Return a digest of what revisions ask for, by which an edited one is told from the one begun."""
    parts = []
    # Revisions of different branches come in the order in which the file system lists their files.
    for item in sorted(items, key=lambda item: item.revision):
        operation = item.operation
        parts += [item.revision, operation.describe()]
        if isinstance(operation, ZdTableOperation):
            statements, foreign_keys = render_plain(operation, options)
            parts += [*statements, *map(str, foreign_keys)]
            parts += [repr(getattr(operation, name, None)) for name in ("up", "down")]
        elif isinstance(operation, ZdEnumOperation):
            parts.append(repr(sorted(vars(operation).items())))
        elif isinstance(operation, ZdExecuteOp):
            parts += [*operation.expand, *operation.contract, *operation.rollback]
        elif isinstance(operation, Ordinary):
            parts.append(operation.text)
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def _say_nothing(_findings: Sequence[Finding]) -> None:
    """Leave it to the expansion to carry what was found."""


@dataclass
class Planner:
    """Plans one upgrade (or reverse migration).

    :param default_schema: schema of unqualified names.
    :param options: env.py's context options, for naming conventions.
    :param announce: is told what refuses nothing, before the first strong lock.
    """

    sessions: Sessions
    journal: Journal
    state: State
    server: Server
    rules: LockRules
    default_schema: str
    options: dict[str, Any]
    preflight: PreflightOptions
    announce: Callable[[Sequence[Finding]], None] = _say_nothing
    _trials: dict[int, LinkedTrial] = field(default_factory=dict)
    _followers: dict[int, Draft] = field(default_factory=dict)
    _positions: dict[int, list[int]] = field(default_factory=dict)
    _next_generation: int = 1
    _position: int = 0
    _released: bool = False
    _created: set[tuple[str, str]] = field(default_factory=set)
    _findings: list[Finding] = field(default_factory=list)
    _enums: EnumTrials = field(init=False)

    def plan(self, items: Sequence[Item], revision: str, migration: int) -> Expansion:
        """Return the plan for *items*.

        :raises RefusedError: one of them cannot work or is unsafe; nothing was changed.
        """
        self._next_generation = self.state.last_generation + 1
        with self.sessions.lend() as connection, rolled_back(connection):
            self.rules.set_timeout(connection)
            check_findings(list(survey_rights(connection, self._schemas(items), self._version_schemas())), revision)
            send(connection, f"CREATE SCHEMA {ident(TRIAL_SCHEMA)}")
            following = Following(connection, self.state.flights, revision, self.default_schema, self.server.version)
            self._created = set(created_tables(items, self.default_schema))
            self._enums = EnumTrials(
                connection, revision, self.default_schema, self.state.flights, flying_enums(self.state), self._trials,
                self.journal.name,
            )  # fmt: skip
            for position, item in enumerate(items):
                self._try(connection, position, item, following)
            self._enums.apply(items, partial(self._resolve_last, connection, items))
            self._follow(connection, following, items)
            flights = self._finish(connection, migration, revision)
            tables = [(flight, self._drafts[oid].facts) for oid, flight in flights.items()]
            self._findings += survey_plan(connection, tables, self.server, self.preflight)
        types = plan_types(self._enums.changes, revision, self._enums.holders)
        prelude = [text for item in items for text in definitions(item, self.default_schema)]
        prelude += [text for step in types for text in step.statements]
        if not any(one.code == "ZD219" for one in self._findings):
            # Without its rights the role could not read them.
            self._findings += self._look_at_rows(flights, prelude)
        check_findings(self._findings, revision)
        self.announce(self._findings)
        for group in groups(flights):
            self._rehearse(group, prelude, self._creations(items, group))
        return self._assemble(items, flights, types)

    def _schemas(self, items: Sequence[Item]) -> list[str]:
        """Return the schemas of which versions are, or will be, published."""
        named = {getattr(item.operation, "schema", None) or self.default_schema for item in items}
        return sorted({self.default_schema, *named, *(s for m in self.state.published for s in m.schemas)})

    def _version_schemas(self) -> list[str]:
        """Return the project's version schemas, which a contract or a rollback will have to change."""
        return [self.journal.view_schema(m.revision, s) for m in self.state.published for s in m.schemas]

    # -- the trial ------------------------------------------------------------------------

    @property
    def _drafts(self) -> dict[int, Draft]:
        """The drafts of all tables of the plan, by the flight's id."""
        return {**{key: trial.draft for key, trial in self._trials.items()}, **self._followers}

    def _try(self, connection: Connection, position: int, item: Item, following: Following) -> None:
        operation = item.operation
        if isinstance(operation, Ordinary):
            self._check_ordinary(item, operation)
        if isinstance(operation, ZdEnumOperation):
            self._enums.check(item, operation)
        for text in harmless_texts(item, self.default_schema):
            self._try_text(connection, item, text)
        if isinstance(operation, Ordinary | ZdExecuteOp):
            return
        if isinstance(operation, ZdTableOperation):
            self._position = position
            if isinstance(operation, ZdCreateTableOp):
                trial = self._create_trial(connection, item, operation)
            else:
                name = operation.table_name or self._table_of_index(connection, item, operation)
                trial = self._resolve(connection, item, operation.schema, name)
            self._inform(connection, trial)
            trial.apply(item)
            following.pin(trial.draft, list(self._drafts.values()))

    def _inform(self, connection: Connection, trial: LinkedTrial) -> None:
        """Tell a trial what it must know of other tables."""
        others = [t.draft for t in self._trials.values() if t is not trial]
        flying = [f for f in self.state.flights if f.id not in self._trials]
        specs = [d.spec for d in others if not d.dropped] + [f.spec_at(len(f.levels)) for f in flying]
        schema = trial.draft.flight.schema
        trial.given_up = self._given_up(trial)
        trial.default_schema = self.default_schema
        trial.names_reserved = frozenset(i.name for s in specs if s.schema == schema for i in s.indexes)
        trial.keys_given_up = frozenset(key for t in self._trials.values() for key in t.lost_foreign_keys())
        trial.find_spec = partial(self._find_spec, connection)

    def _find_spec(self, connection: Connection, schema: str | None, name: str) -> TableSpec | None:
        """Return a table as it is at this point of the upgrade; None if it cannot be seen in the trial.

        :raises LookupError: there is no such table.
        """
        schema = schema or self.default_schema
        trial = next((t for t in self._trials.values() if t.is_of(schema, name)), None)
        if trial is not None:
            return replace(trial.draft.spec, schema=schema)
        flight = self._find_flight(connection, schema, name)
        if flight is not None:
            return flight.spec_at(len(flight.levels))
        if self._released:
            return None
        raise LookupError(f"{schema}.{name}")

    def _given_up(self, trial: LinkedTrial) -> set[str]:
        """Return physical table names that no version will show any more once everything is contracted."""
        drafts = [t.draft for t in self._trials.values()]
        flying = [f for f in self.state.flights if f.relation not in {d.flight.relation for d in drafts}]
        shown = {d.spec.name for d in drafts if not d.dropped and d is not trial.draft}
        shown |= {f.spec_at(len(f.levels)).name for f in flying if not any(level.dropped for level in f.levels)}
        return {f.name for f in [d.flight for d in drafts] + flying} - shown

    @staticmethod
    def _check_ordinary(item: Item, operation: Ordinary) -> None:
        if operation.blocking:
            raise RefusedError(
                f"{item.describe()}: {operation.blocking}; nothing was changed",
                code="ZD220",
                revision=item.revision,
                table=operation.table,
            )

    def _try_text(self, connection: Connection, item: Item, text: str) -> None:
        savepoint = connection.begin_nested()
        try:
            send(connection, text)
        except DBAPIError as error:
            savepoint.rollback()
            untried = self._released and sqlstate(error) == _UNDEFINED_TABLE
            if untried or sqlstate(error) == LOCK_NOT_AVAILABLE:
                return
            raise RefusedError(
                f"{item.describe()}: {describe_error(error)}; nothing was changed",
                code="ZD221",
                revision=item.revision,
            ) from error
        if "REFERENCES" in text.upper():
            # The lock on the referenced table, for which writers wait, goes with the savepoint; and with
            # it the table, so that what follows on it cannot be tried.
            savepoint.rollback()
            self._released = True
        else:
            savepoint.commit()

    def _resolve_last(
        self, connection: Connection, items: Sequence[Item], item: Item, schema: str, name: str
    ) -> LinkedTrial:
        """Return a table's trial for what *item* does after all items."""
        last = len(items)
        created = (schema, name) in self._created
        self._position = last if created else next((n for n, one in enumerate(items) if one is item), last)
        return self._resolve(connection, item, schema, name)

    def _resolve(self, connection: Connection, item: Item, schema: str | None, name: str) -> LinkedTrial:
        """Return the trial of a table, for the operation at the current position."""
        schema = schema or self.default_schema
        trial = next((t for t in self._trials.values() if t.is_of(schema, name)), None)
        if trial is None:
            trial = self._begin_trial(connection, item, schema, name)
        self._positions.setdefault(trial.draft.flight.id, []).append(self._position)
        return trial

    def _begin_trial(self, connection: Connection, item: Item, schema: str, name: str) -> LinkedTrial:
        flight = self._find_flight(connection, schema, name)
        if flight is None:
            raise RefusedError(
                f"{item.describe()}: there is no table {schema}.{name}; nothing was changed",
                code="ZD202",
                revision=item.revision,
                table=f"{schema}.{name}",
            )
        self._check_not_shared(connection, item, flight)
        facts = read_facts(connection, flight.schema, flight.name)
        check_table(item, facts, self.server)
        return self._add_trial(connection, flight, facts)

    def _add_trial(
        self, connection: Connection, flight: Flight, facts: TableFacts, *, copied: bool = False
    ) -> LinkedTrial:
        trial = LinkedTrial(
            connection,
            flight,
            facts,
            self._take_generation(),
            self.options,
            copied=copied,
            find=partial(self._resolve, connection),
        )
        self._trials[flight.id] = trial
        return trial

    def _take_generation(self) -> int:
        """Return a new generation."""
        self._next_generation += GENERATION_STRIDE
        return self._next_generation - GENERATION_STRIDE

    def _follow(self, connection: Connection, following: Following, items: Sequence[Item]) -> None:
        """Let foreign keys follow the columns that they join, those of tables without an operation too."""

        def launch(link: LiveForeignKey, cause: Draft) -> Draft:
            position = self._positions[cause.flight.id][0]
            flying = {f.relation: f for f in self.state.flights}
            flight = flying.get(link.relation) or self._take_off(connection, link.relation, link.schema, link.table)
            self._check_not_shared(connection, items[position], flight)
            facts = read_facts(connection, flight.schema, flight.name)
            check_table(items[min(position, len(items) - 1)], facts, self.server)
            self._positions[flight.id] = [position]
            self._followers[flight.id] = new_draft(flight, facts, self._take_generation())
            return self._followers[flight.id]

        drafts = following.take_off(list(self._drafts.values()), launch)
        for draft in drafts:
            draft.name_cells()
        following.resolve(drafts)

    def _create_trial(self, connection: Connection, item: Item, operation: ZdCreateTableOp) -> LinkedTrial:
        """Return the trial of a table that the same upgrade creates, and fills from another one."""
        schema = operation.schema or self.default_schema
        copies = trial_schema(schema)
        statements, foreign_keys = render_plain(operation, self.options, copies)
        try:
            send(connection, f"CREATE SCHEMA IF NOT EXISTS {ident(copies)}")
            for statement in statements:
                send(connection, statement)
        except DBAPIError as error:
            raise RefusedError(
                f"{item.describe()}: {describe_error(error)}; nothing was changed", code="ZD221", revision=item.revision
            ) from error
        spec = read_spec(connection, copies, operation.table_name)
        spec = at_home(replace(spec, foreign_keys=tuple(foreign_keys)), schema)
        flight = replace(first_shape(spec, _CREATED + self._next_generation), created=True, project=self.journal.name)
        names = tuple(column.name for column in spec.columns)
        facts = TableFacts(flight.id, schema, spec.name, self.server.role, "r", 0, 0, physical_names=names)
        trial = self._add_trial(connection, flight, facts, copied=True)
        self._positions.setdefault(flight.id, []).append(self._position)
        return trial

    def _check_not_shared(self, connection: Connection, item: Item, flight: Flight) -> None:
        """Refuse a table that another project has in flight: its columns and triggers are that project's."""
        if flight.relation in {other.relation for other in self.journal.read_others(connection)}:
            name = flight.label
            raise RefusedError(
                f"{item.describe()}: table {name} is in flight for another project (another version table) of this "
                "database; nothing was changed",
                code="ZD241",
                revision=item.revision,
                table=name,
                next_command="alembic zd-complete, in that project",
            )

    def _table_of_index(self, connection: Connection, item: Item, operation: ZdTableOperation) -> str:
        """Return the name that the table of an index has by now, for a drop that does not name it."""
        schema, index = operation.schema or self.default_schema, str(getattr(operation, "index_name", ""))
        specs = [t.draft.spec for t in self._trials.values() if t.draft.flight.schema == schema]
        specs += [f.spec_at(len(f.levels)) for f in self.state.flights if f.schema == schema]
        found = [s.name for s in specs if index in {i.name for i in s.indexes}]
        found += [row["name"] for row in read_rows(connection, "table_of_index", schema=schema, name=index)]
        if found:
            return found[0]
        raise RefusedError(
            f"{item.describe()}: there is no index {schema}.{index}; nothing was changed",
            code="ZD202",
            revision=item.revision,
        )

    def _find_flight(self, connection: Connection, schema: str, name: str) -> Flight | None:
        for flight in self.state.flights:
            top = flight.spec_at(len(flight.levels))
            if flight.schema == schema and top.name == name and not any(level.dropped for level in flight.levels):
                return flight
        oid = find_table(connection, schema, name)
        taken = {f.relation for f in self.state.flights} | {t.draft.flight.relation for t in self._trials.values()}
        if oid is None or oid in taken:
            return None
        return self._take_off(connection, oid, schema, name)

    def _take_off(self, connection: Connection, oid: int, schema: str, name: str) -> Flight:
        """Return the flight of a table that nothing has changed yet."""
        facts = read_facts(connection, schema, name)
        identity = oid
        while identity in {f.id for f in self.state.flights}:
            # A restored database may give this table a number that another one has taken off with.
            identity += 1
        published = self.state.published
        order = (
            read_column_order(connection, self.journal.view_schema(published[-1].revision, schema), name)
            if published
            else []
        )
        return replace(new_flight(connection, facts, order), id=identity, project=self.journal.name)

    def _finish(self, connection: Connection, migration: int, revision: str) -> dict[int, Flight]:
        flights = {}
        for oid, trial in self._trials.items():
            taken = {row["name"] for row in read_rows(connection, "relation_names", schema=trial.draft.flight.schema)}
            flight = trial.finish(migration, revision, taken_relations=taken)
            check_columns(revision, flight, trial.draft.facts)
            check_triggers(revision, flight, trial.draft.facts)
            flights[oid] = self._holding(flight, trial.draft)
        for oid, draft in self._followers.items():
            # Its columns are as they were, so physical names are of no account.
            flights[oid] = self._holding(draft.finish(migration, revision, draft.spec, set()), draft)
        check_reads(revision, list(self._drafts.values()), self.state.flights)
        for draft in self._drafts.values():
            lookups = [(r["column"], r["function"]) for r in self._lookups(connection, draft.flight)]
            check_looked_up(revision, draft, lookups, self.state.flights)
            check_foreign_keys(revision, draft, [*flights.values(), *self.state.flights])
        try:
            for upward in (True, False):
                sources_first(flights, upward=upward)
        except ValueError as error:
            raise RefusedError(
                f"revision {revision!r}: the tables {error} follow from each other in a circle: no write could be "
                "carried to its end; nothing was changed",
                code="ZD217",
                revision=revision,
            ) from error
        return flights

    @staticmethod
    def _lookups(connection: Connection, flight: Flight) -> Sequence[Mapping[str, Any]]:
        return [] if flight.created else read_rows(connection, "lookups", oid=flight.relation)

    def _holding(self, flight: Flight, draft: Draft) -> Flight:
        """Return the flight with the publications that are to show its subscribers the oldest live shape only."""
        if self.preflight.publications != HOLD:
            return flight
        return replace(flight, held=held_publications(flight, draft.facts, self.server.version))

    def _look_at_rows(self, flights: dict[int, Flight], prelude: Sequence[str]) -> Iterator[Finding]:
        """Yield what rows that exist say against the plan, while nothing has changed yet."""
        with self.sessions.lend() as connection:
            for oid, flight in flights.items():
                try:
                    check_rows(connection, flight, demands_of(flight, self._drafts[oid]))
                except RefusedError as error:
                    yield Finding.of_error(error)
            for flight in flights.values():
                if flight.created or (flight.schema, flight.name) in self._created:
                    continue
                with rolled_back(connection):
                    yield from self._sample(connection, flight, None, prelude)
                for link in flight.levels[-1].links:
                    if link.upward and link.columns:
                        with rolled_back(connection):
                            made = LinkSql(link, flight, flights[link.target.flight])
                            yield from self._sample(connection, flight, made, prelude)

    def _sample(
        self, connection: Connection, flight: Flight, link: LinkSql | None, prelude: Sequence[str]
    ) -> list[Finding]:
        """Return what a table's expressions make of some of its rows; nothing if they need what is not there yet.

        :param link: makes rows of another table of them; None for the table's own columns.
        """
        self.rules.set_timeout(connection)
        savepoint = connection.begin_nested()
        try:
            self.journal.create(connection)
            for statement in (*prelude, *function_statements(flight)):
                send(connection, statement)
        except DBAPIError:
            # The rehearsal comes to it, with everything that the revision creates before.
            savepoint.rollback()
            return []
        rows = self.preflight.sample_rows
        if link is not None:
            return list(RowSample(connection, flight, rows, link=link).findings())
        try:
            check_derived_keys(connection, flight)
        except RefusedError as error:
            return [Finding.of_error(error)]
        filled = frozenset(self._drafts[flight.id].bare_not_nulls)
        return [*survey_clients(connection, flight), *Sample(connection, flight, rows, filled).findings()]

    def _creations(self, items: Sequence[Item], group: Sequence[Flight]) -> list[Ordinary]:
        """Return what creates the tables of a group which are not there yet."""
        created = {(flight.schema, flight.name) for flight in group if flight.created}
        created |= {(read.schema, read.table) for flight in group for read in self._drafts[flight.id].reads}
        return [
            item.operation
            for item in items
            if isinstance(item.operation, Ordinary)
            and (item.operation.created or item.operation.kind == "create_table")
            and (item.operation.schema or self.default_schema, item.operation.table) in created
            and not item.operation.autocommit
        ]

    def _rehearse(self, group: Sequence[Flight], prelude: Sequence[str], created: Sequence[Ordinary]) -> None:
        """Run the tables' expand transaction, update one row of each with users' triggers on, and roll back.

        *prelude* makes the types and functions that revisions create for themselves, *created* the tables.

        In a session of its own: one that has run a trigger before keeps its old plan (REDTEAM B5).
        """
        group = [f for f in group if f.created or (f.schema, f.name) not in self._created]
        if not group:
            return
        step = plan_columns([(unguarded(f), self._drafts[f.id].facts) for f in group], "rehearsal")
        if not step.statements:
            return
        locks = [table_lock(flight, LockMode.ACCESS_EXCLUSIVE) for flight in group if not self._is_new(flight)]
        locks += [lock for one in created for lock in self._referenced(one)]
        statements = [*prelude, *(one.text for one in created), *step.statements]
        with self.sessions.lend() as connection:

            def attempt() -> None:
                with rolled_back(connection):
                    self.journal.create(connection)
                    self._check_generation(connection)
                    self.rules.take(connection, locks)
                    self._run_rehearsal(connection, group, statements)

            self.rules.retry(f"rehearsal of {step.name}", connection, attempt)

    def _check_generation(self, connection: Connection) -> None:
        """Refuse to go on with numbers that another project's migration has taken since the plan was begun.

        :raises RefusedError: code ZD303.
        """
        if self.journal.read(connection).last_generation != self.state.last_generation:
            raise RefusedError(
                "another project's command has begun a migration in this database meanwhile; nothing was changed: "
                "run this one again",
                code="ZD303",
            )

    @staticmethod
    def _is_new(flight: Flight) -> bool:
        """Return whether the table is created by this very upgrade."""
        return flight.created and len(flight.levels) == 1

    def _run_rehearsal(self, connection: Connection, group: Sequence[Flight], statements: Sequence[str]) -> None:
        try:
            send_all(connection, statements)
            # The tables are locked: a look-up that reads one of them as a whole must not go on for long.
            send(connection, f"SET LOCAL statement_timeout = {_REHEARSAL_MS}")
            for flight in group:
                _touch_table(connection, flight)
            send(connection, "SET CONSTRAINTS ALL IMMEDIATE")
        except DBAPIError as error:
            if sqlstate(error) in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                raise
            revision = group[0].levels[-1].revision
            tables = ", ".join(flight.label for flight in group)
            raise RefusedError(
                f"revision {revision!r}, table {tables}: in a rehearsal, rolled back, an "
                f"ordinary UPDATE after the expansion fails: {describe_error(error)} "
                f"{_where(error)}{_slow_advice(error)}; nothing was changed",
                code="ZD230",
                revision=revision,
                table=tables,
            ) from error

    # -- the plan -------------------------------------------------------------------------

    def _assemble(self, items: Sequence[Item], flights: dict[int, Flight], types: Sequence[Step]) -> Expansion:
        facts = {oid: draft.facts for oid, draft in self._drafts.items()}
        steps = list(types)
        if is_guarded(flights.values()):
            steps.append(plan_key_slots(f"revision {next(iter(flights.values())).levels[-1].revision!r}"))
        contract: list[str] = []
        hoisted: set[int] = set()
        for position, item in enumerate(items):
            operation = item.operation
            if position not in hoisted:
                steps += self._own_steps(item)
            if isinstance(operation, ZdExecuteOp):
                contract += operation.contract
            for group in groups(flights):
                positions = sorted({p for flight in group for p in self._positions[flight.id]})
                if positions[0] == position:
                    steps += self._hoist(items, positions, hoisted)
                    steps += _table_steps(group, facts, item.describe())
        for group in groups(flights):
            if all(p >= len(items) for flight in group for p in self._positions[flight.id]):
                source = f"revision {group[0].levels[-1].revision!r}"
                steps += _table_steps(group, facts, source)
        steps += self._row_steps(flights, facts)
        # Not those of followers: a schema that the project does not know needs no version of its own.
        schemas = {c.facts.schema for c in self._enums.changes} | {flights[oid].schema for oid in self._trials}
        schemas |= {i.operation.schema for i in items if isinstance(i.operation, Ordinary) and i.operation.schema}
        text = any(isinstance(i.operation, Ordinary) and i.operation.kind == "sql" for i in items)
        return Expansion(
            Plan("expand", tuple(steps)),
            tuple(flights.values()),
            Extras(
                tuple(contract),
                text,
                store_operations(items),
                tuple(self._enums.contract),
                tuple(c.flight for c in self._enums.changes),
            ),
            self._next_generation - 1,
            tuple(sorted(schemas)),
            outline(items, steps, self._positions),
            tuple(self._findings),
        )

    def _row_steps(self, flights: dict[int, Flight], facts: dict[int, TableFacts]) -> list[Step]:
        """Return what follows once every table has its columns, phase by phase: tables build on each other."""
        source = f"revision {next(iter(flights.values())).levels[-1].revision!r}" if flights else ""
        steps: list[Step] = []
        for flight in sources_first(flights):
            steps += plan_backfill(flight, source, self._fired(facts[flight.id]))
            steps += plan_fills(flight, flights, source)
        # A foreign key onto a copy needs the copy of every row of the table that it references.
        referenced = {r.relation for d in self._drafts.values() for r in d.references.values() if r.moved}
        keys = [f for f in flights.values() if f.relation in referenced]
        steps += [replace(s, name=f"{s.name} (keys)") for f in keys if (s := plan_fulfilment(f, source))]
        for phase in (plan_indexes, plan_foreign_keys, plan_validation):
            steps += [s for f in flights.values() for s in phase(f, source)]
        return steps + [s for f in flights.values() if (s := plan_fulfilment(f, source))]

    def _fired(self, facts: TableFacts) -> list[str]:
        if self.server.may_set_replication_role:
            return []
        return [t.name for t in facts.triggers if t.on_update]

    def _hoist(self, items: Sequence[Item], positions: Sequence[int], hoisted: set[int]) -> list[Step]:
        """Return the steps of types, functions and tables that a table's later operations may need.

        All operations on a table become one step, in the place of the first.
        """
        steps = []
        for position in range(positions[0], min(max(positions), len(items))):
            if position not in hoisted and harmless_texts(items[position], self.default_schema):
                hoisted.add(position)
                steps += self._own_steps(items[position])
        return steps

    def _own_steps(self, item: Item) -> list[Step]:
        """Return the step of an ordinary operation or of zd_execute; none for operations on a table."""
        operation = item.operation
        if isinstance(operation, Ordinary):
            return [self._ordinary_step(item, operation)]
        if isinstance(operation, ZdExecuteOp) and (operation.expand or operation.rollback):
            return [_custom_step("expand", item, operation.expand, operation.rollback)]
        if isinstance(operation, ZdCreateEnumOp):
            schema = operation.schema or self.default_schema
            return [Step(f"type {schema}.{operation.name}", Kind.TRANSACTION, item.describe(),
                         tuple(definitions(item, self.default_schema)),
                         inverse=(drop_type(schema, operation.name),))]  # fmt: skip
        return []

    def _ordinary_step(self, item: Item, operation: Ordinary) -> Step:
        name = operation.describe()
        if operation.index is not None:
            index = (operation.index[0] or self.default_schema, operation.index[1])
            return Step(name, Kind.INDEX, item.describe(), (operation.text,), index=index, inverse=operation.inverse,
                        lock_mode=LockMode.SHARE_UPDATE_EXCLUSIVE, cost="scans")  # fmt: skip
        kind = Kind.AUTOCOMMIT if operation.autocommit else Kind.TRANSACTION
        known = operation.kind in ("create_table", "comment")
        cost = "metadata only" if known else "cost unknown"
        return Step(name, kind, item.describe(), (operation.text,), self._referenced(operation),
                    inverse=operation.inverse, lock_mode="locks as the statement takes", cost=cost,
                    is_text=operation.kind == "sql")  # fmt: skip

    def _referenced(self, operation: Ordinary) -> tuple[Lock, ...]:
        """Return the locks that a new table's foreign keys take on tables that are there already."""
        tables = [(schema or self.default_schema, name) for schema, name in operation.references]
        return tuple(
            Lock(ident(*table), LockMode.SHARE_ROW_EXCLUSIVE) for table in tables if table not in self._created
        )


@contextmanager
def rolled_back(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction that is rolled back in any case."""
    transaction = connection.begin()
    try:
        yield
    finally:
        transaction.rollback()


def _table_steps(group: Sequence[Flight], facts: dict[int, TableFacts], source: str) -> list[Step]:
    """Return the steps that give a group of tables its columns and triggers."""
    steps = [plan_columns([(flight, facts[flight.id]) for flight in group], source)]
    if is_guarded(group):
        steps += [step for flight in group for step in plan_indexes(flight, source, guarded=True)]
        steps.append(plan_activation(group, source))
    return steps


def _custom_step(phase: str, item: Item, statements: Sequence[str], inverse: Sequence[str]) -> Step:
    return Step(f"{phase} SQL of {item.revision}", Kind.TRANSACTION, item.describe(), tuple(statements),
                inverse=tuple(inverse), cost="unknown")  # fmt: skip


def _updatable_column(flight: Flight) -> str | None:
    """Return the physical name of a column that an UPDATE may set to what it is."""
    plain = {c.name for c in flight.spec.columns if not c.generated and c.identity is None}
    return next((str(flight.cell(cell).physical) for name, cell in flight.shape if name in plain), None)


def _touch_table(connection: Connection, flight: Flight) -> None:
    """Update one row: of the marker alone, which fires every trigger, and makes ours derive the row."""
    table = ident(flight.schema, flight.name)
    column = MARKER if flight.has_marker else _updatable_column(flight)
    if column is not None:
        send(connection, _touch_one(table, ident(column), f"SELECT tableoid, ctid FROM {table} LIMIT 1"))


def _touch_one(table: str, column: str, target: str) -> str:
    return (
        f"UPDATE {table} AS t SET {column} = t.{column} FROM ({target}) AS one "
        "WHERE t.tableoid = one.tableoid AND t.ctid = one.ctid"
    )


def flying_enums(state: State) -> dict[tuple[str, str], EnumFlight]:
    """Return the enums in flight by schema and name, each as the newest version has it."""
    extras = [Extras.from_json(m.extras) for m in state.in_flight if m.extras]
    return {(enum.schema, enum.name): enum for one in extras for enum in one.enums}


def created_tables(items: Sequence[Item], default_schema: str) -> Iterator[tuple[str, str]]:
    """Yield schema and name of every table that the upgrade creates."""
    for item in items:
        operation = item.operation
        if isinstance(operation, Ordinary) and operation.kind == "create_table":
            yield operation.schema or default_schema, str(operation.table)


def harmless_texts(item: Item, default_schema: str) -> list[str]:
    """Return an item's statements that can be tried: they lock nothing that clients use.

    Types, functions and tables that later operations may need; never something that takes long.
    """
    operation = item.operation
    if isinstance(operation, Ordinary) and (operation.created or operation.kind == "create_table"):
        return [] if operation.autocommit else [operation.text]
    return definitions(item, default_schema)


def definitions(item: Item, default_schema: str) -> list[str]:
    """Return an item's statements that define a type, a function or the like, which columns may need."""
    operation = item.operation
    if isinstance(operation, Ordinary) and not operation.autocommit and operation.kind == "sql":
        return [operation.text] if _creates_definition(operation.text) else []
    if isinstance(operation, ZdExecuteOp):
        return [text for text in operation.expand if _creates_definition(text)]
    if isinstance(operation, ZdCreateEnumOp):
        return [create_type(operation.schema or default_schema, operation.name, operation.values)]
    return []


# How long the rehearsal may take over one row, its table being locked.
_REHEARSAL_MS = 2_000

_UNDEFINED_TABLE = "42P01"

# A table that is not there yet has no oid; greater than any that PostgreSQL gives.
_CREATED = 10_000_000_000

_DEFINED = r"(TYPE|DOMAIN|FUNCTION|EXTENSION|SCHEMA|SEQUENCE|CAST|OPERATOR|AGGREGATE|VIEW)"
_CREATES = re.compile(rf"\s*CREATE\s+(OR\s+REPLACE\s+)?(TEMP(ORARY)?\s+|UNLOGGED\s+)?{_DEFINED}\b", re.IGNORECASE)
# The idiom for a definition that bears being run twice.
_CREATES_IN_BLOCK = re.compile(rf"\s*DO\b.*\bCREATE\s+{_DEFINED}\b", re.IGNORECASE | re.DOTALL)
_TOUCHES_ROWS = re.compile(
    r"\b(INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|ALTER\s+TABLE|TRUNCATE)\b", re.IGNORECASE
)


def _creates_definition(text: str) -> bool:
    if _CREATES.match(text):
        return True
    return bool(_CREATES_IN_BLOCK.match(text)) and not _TOUCHES_ROWS.search(text)


def _slow_advice(error: DBAPIError) -> str:
    if sqlstate(error) != QUERY_CANCELED:
        return ""
    return (
        f": one row took more than {_REHEARSAL_MS / 1000:.0f} s, and so would every write; what from_table() looks up "
        "needs an index"
    )


def _where(error: DBAPIError) -> str:
    context = getattr(getattr(error.orig, "diag", None), "context", None)
    return f"({' '.join(context.split())[:200]})" if context else ""


def new_flight(connection: Connection, facts: TableFacts, order: Sequence[str]) -> Flight:
    """Return the flight of a table that nothing has changed yet: level 0 only.

    :param order: the column order that clients know, which is not always the physical one.
    """
    spec = read_spec(connection, facts.schema, facts.name)
    by_name = {c.name: c for c in spec.columns}
    spec = replace(spec, columns=tuple(by_name[name] for name in in_order(list(by_name), order)))
    return replace(
        first_shape(spec, facts.oid),
        relation=facts.oid,
        user_triggers=any(t.before_row and (t.on_insert or t.on_update) for t in facts.triggers),
    )


def first_shape(spec: TableSpec, number: int) -> Flight:
    """Return the flight of a table as *spec* describes it, without levels."""
    cells = tuple(
        Cell(f"b{n}", c.type, c.collation, physical=c.name, generated=bool(c.generated))
        for n, c in enumerate(spec.columns, 1)
    )
    return Flight(
        id=number,
        schema=spec.schema,
        name=spec.name,
        spec=spec,
        shape=tuple((c.name, cell.id) for c, cell in zip(spec.columns, cells, strict=True)),
        cells=cells,
    )


def at_home(spec: TableSpec, schema: str) -> TableSpec:
    """Return the description of a trial copy as that of the table in its own schema."""
    trial, home = f"{trial_schema(schema)}.", f"{ident(schema)}."

    def moved(text: str | None) -> str | None:
        return text and text.replace(trial, home)

    columns = [replace(c, default=moved(c.default), owned_sequence=moved(c.owned_sequence)) for c in spec.columns]
    return replace(spec, schema=schema, columns=tuple(columns))
