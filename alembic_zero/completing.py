"""Completion: contract every table in flight up to a revision, then retire the versions before it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from alembic_zero.catalog.reader import read_facts, read_live_foreign_keys, read_rows
from alembic_zero.execute.clients import describe_clients
from alembic_zero.execute.planner import Extras
from alembic_zero.execute.sending import send
from alembic_zero.lens.lens import Flight
from alembic_zero.names import internal_name
from alembic_zero.operations.errors import MigrationError, RefusedError
from alembic_zero.plan.contract import PublishedView, Swap, plan_validation
from alembic_zero.plan.links import is_tied, plan_untie
from alembic_zero.plan.references import plan_severing, plan_unguarding
from alembic_zero.plan.step import Kind, Plan, Step
from alembic_zero.sql.backfill import render_try_again
from alembic_zero.sql.enums import rename_type
from alembic_zero.sql.verify import QUARANTINED
from alembic_zero.verifying import describe, describe_counts, find_live, flights_until, verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic_zero.execute.discrepancies import Verification
    from alembic_zero.execute.executor import Executor
    from alembic_zero.execute.journal import Migration, State
    from alembic_zero.workplace import Workplace

# A client that has just closed its connection is listed until its server process has ended.
_LINGER_S = 2.0
_LISTED = 5


class Completion:
    """One run of ``alembic zd-complete``.

    :param revision: contract up to this one; None for the newest live version.
    :param current: the version that alembic_version names.
    """

    def __init__(self, workplace: Workplace, state: State, revision: str | None, current: str, *, force: bool) -> None:
        self._workplace = workplace
        self._state = state
        self._revision = revision
        self._current = current
        self._force = force

    def run(self) -> None:
        """Contract, or go on contracting; nothing to do is fine.

        :raises RefusedError: clients of older versions are connected, rows are quarantined, or another
         command has to be finished first; nothing was changed.
        """
        workplace = self._workplace
        target = self.target()
        if target is None:
            workplace.report("nothing to complete")
            return
        executor = workplace.executor()
        if target.state == "contracting" and target.finish is not None:
            plan = target.finish
            workplace.report(f"going on with the contract up to revision {target.revision!r}")
        else:
            plan = self._begin(executor, target)
        try:
            executor.run(target, plan, f"alembic zd-complete {target.revision}")
        except MigrationError as error:
            # Without the command lock, which may be gone with a connection, another command may have gone on with it.
            if error.code != "ZD304" and not getattr(error.__cause__, "connection_invalidated", False):
                self._abandon(executor, target, plan)
            raise
        with executor.work.begin():
            workplace.journal.set_state(executor.work, target.id, "current", ["contracting"])
            workplace.journal.end_earlier(executor.work, target.id)
        workplace.report(f"completed revision {target.revision}")

    def _abandon(self, executor: Executor, target: Migration, plan: Plan) -> None:
        """Go back to being in flight, as long as no table has been swapped over."""
        with executor.work.begin():
            rows = self._workplace.journal.read_steps(executor.work, target.id)
        if is_forward_only(plan, rows):
            return
        for statement in (text for step in undoable_steps(plan) for text in step.inverse):
            # Each by itself: no lock waits behind another one.
            executor.run_alone("abandon the contract", [statement])
        with executor.work.begin():
            self._workplace.journal.set_state(executor.work, target.id, "live", ["contracting"])
        self._workplace.report(f"revision {target.revision} stays in flight: no table had been swapped over")

    def preview(self) -> Plan | None:
        """Return the plan of a contract, None if nothing is in flight; changes nothing."""
        target = self.target()
        if target is None:
            return None
        return target.finish or self._plan(self._workplace.executor(), target)

    def target(self) -> Migration | None:
        """Return the migration to contract up to; None if there is nothing to do.

        :raises RefusedError: another command has to be finished first, or it is not in flight.
        """
        unfinished = self._state.unfinished
        if unfinished is not None and unfinished.state != "contracting":
            raise RefusedError(
                f"revision {unfinished.revision!r} is {unfinished.state}: nothing can be completed now; "
                "nothing was changed",
                code="ZD251",
                revision=unfinished.revision,
                next_command="alembic zd-status",
            )
        if unfinished is not None:
            return unfinished
        return find_live(self._state, self._revision)

    def _gone(self, target: Migration) -> list[Migration]:
        return [m for m in self._state.published if m.id < target.id]

    # -- may it begin? --------------------------------------------------------------------

    def _begin(self, executor: Executor, target: Migration) -> Plan:
        if not self._force:
            self._check_clients(executor, target)
            self._check_rows(executor, target)
        self._workplace.align_rights(executor, self._state)
        plan = self._plan(executor, target)
        with executor.work.begin():
            self._workplace.journal.start_finish(executor.work, target.id, "contracting", plan)
        return plan

    def _check_clients(self, executor: Executor, target: Migration) -> None:
        watch = self._workplace.client_watch(executor.bare, self._gone(target))
        deadline = time.monotonic() + _LINGER_S
        clients = watch.look()
        while clients and time.monotonic() < deadline:
            time.sleep(0.1)
            clients = watch.look()
        clients = clients or watch.observe()
        if clients:
            raise RefusedError(
                f"revision {target.revision!r}: clients of older versions are connected: {describe_clients(clients)}; "
                "nothing was changed: stop them, or use --force",
                code="ZD260",
                revision=target.revision,
                next_command="alembic zd-complete",
            )

    def _check_rows(self, executor: Executor, target: Migration) -> None:
        found = self._verify(executor, target)
        if any(kind == QUARANTINED for _, kind in found.counts):
            # Twice: a row may have waited for another table's, which only now leaves the quarantine.
            for flight in [*flights_until(self._state, target)] * 2:
                self._try_again(executor, flight)
            found = self._verify(executor, target)
        if not found.total:
            return
        listed = "; ".join(describe(discrepancy) for discrepancy in found.discrepancies[:_LISTED])
        raise RefusedError(
            f"revision {target.revision!r}: rows do not fit or do not agree with what older versions say: "
            f"{describe_counts(found)} ({listed}); nothing was changed: correct them through either version or with "
            "alembic zd-verify --repair, or use --force",
            code="ZD261",
            revision=target.revision,
            table=found.discrepancies[0].table,
            next_command="alembic zd-verify",
        )

    def _verify(self, executor: Executor, target: Migration) -> Verification:
        return verify(self._workplace, executor, self._state, target)

    @staticmethod
    def _try_again(executor: Executor, flight: Flight) -> None:
        """Let quarantined rows that fit by now leave the quarantine; rows that clients hold stay in it."""
        if any(level.quarantines for level in flight.levels):
            with executor.work.begin():
                executor.rules.set_timeout(executor.work)
                send(executor.work, render_try_again(flight))

    # -- the plan -------------------------------------------------------------------------

    def _flights(self, target: Migration) -> list[Flight]:
        return [f for f in self._state.flights if f.level_of(target.id)]

    def _plan(self, executor: Executor, target: Migration) -> Plan:
        source = f"contract up to revision {target.revision!r}"
        connection = executor.work
        with connection.begin():
            publisher = self._workplace.publisher(self._state.flights, connection)
            gone = self._gone(target)
            tombs = [text for m in gone for text in publisher.tomb_functions(m.revision, m.schemas, target.revision)]
            untombs = [text for m in gone for text in publisher.drop_tomb_functions(m.revision, m.schemas)]
            handled: dict[str, list[str]] = {}
            swaps = [self._swap(connection, f, target, handled, executor.server.version) for f in self._flights(target)]
            for swap in swaps:
                self._check_dependants(swap, target)
            severing = {f.id: self._severing(connection, f, target, source) for f in self._flights(target)}
            buried = [
                text for m in gone for text in publisher.bury(m.revision, m.schemas, target.revision, handled, m.id)
            ]
        steps: list[Step] = []
        for swap in swaps:
            if not swap.is_dropped:
                steps += plan_validation(swap.flight, swap.level, source)
        if tombs:
            # Nobody calls them yet: there still is a way back.
            steps.append(Step("tombstone functions", Kind.TRANSACTION, source, tuple(tombs), inverse=tuple(untombs)))
        # Rows of a table that goes are not kept in step once it is untied: nobody may be bound by them then.
        steps += [step for swap in swaps if swap.is_dropped for step in severing[swap.flight.id]]
        kept = [swap.flight.id for swap in swaps if not swap.is_dropped]
        swaps = self._untie(swaps, source, steps)
        for swap in swaps:
            steps += plan_unguarding(swap.flight, swap.flight.levels[: swap.level], source, forward_only=True)
        steps += [step for number in kept for step in severing[number]]
        ordered = _vacating_first(_dropped_first(swaps))
        steps += [swap.plan(source) for swap in ordered]
        steps += [swap.plan_arrival(source) for swap in ordered if swap.detour is not None]
        steps += self._types(target, source)
        steps += self._custom(target, source)
        if buried:
            steps.append(Step("older versions", Kind.TRANSACTION, source, tuple(buried), forward_only=True))
        return Plan("contract", tuple(self._renamed(step, target) for step in steps))

    def _renamed(self, step: Step, target: Migration) -> Step:
        """Return a step after which newer levels know enums by their final names."""
        if not step.state:
            return step
        flight = Flight.from_json(step.state)
        for enum in [e for m in self._state.in_flight if m.id <= target.id for e in _extras(m).enums]:
            flight = flight.with_texts(partial(rename_type, before=enum.type, after=enum.final))
        return replace(step, state=flight.to_json())

    @staticmethod
    def _severing(connection: Any, flight: Flight, target: Migration, source: str) -> list[Step]:
        found = read_live_foreign_keys(connection, flight.relation)
        return plan_severing(flight, flight.level_of(target.id), found, source)

    @staticmethod
    def _untie(swaps: list[Swap], source: str, steps: list[Step]) -> list[Swap]:
        """Add the step that ends the links of everything that is contracted; return the swaps as they are after it."""
        tied = [swap for swap in swaps if is_tied(swap.flight.levels[: swap.level])]
        if not tied:
            return swaps
        ended = {level.migration for swap in tied for level in swap.flight.levels[: swap.level]}
        gone = {swap.flight.id: swap.gone for swap in tied}
        step, after = plan_untie([swap.flight for swap in tied], gone, ended, source, forward_only=True)
        steps.append(step)
        return [
            replace(swap, flight=after[swap.flight.id], gone=()) if swap.flight.id in after else swap for swap in swaps
        ]

    def _swap(
        self, connection: Any, flight: Flight, target: Migration, handled: dict[str, list[str]], version: int
    ) -> Swap:
        gone, kept, seen = [], [], set()
        for migration in self._state.published:
            level = flight.level_of(migration.id)
            view_schema = self._workplace.journal.view_schema(migration.revision, flight.schema)
            seen.add(view_schema)
            existing = {row["name"] for row in read_rows(connection, "views", schema=view_schema)}
            name = flight.spec_at(level).name
            if name not in existing or any(one.dropped for one in flight.levels[:level]):
                continue
            if migration.id < target.id:
                gone.append(PublishedView(view_schema, level))
                handled.setdefault(view_schema, []).append(name)
            else:
                kept.append(PublishedView(view_schema, level))
        facts = read_facts(connection, flight.schema, flight.name)
        rows = read_rows(connection, "views_of_table", oid=flight.relation)
        others = [(row["schema"], row["name"]) for row in rows if row["schema"] not in seen]
        return Swap(flight, flight.level_of(target.id), facts, gone, kept, version, others=others)

    @staticmethod
    def _check_dependants(swap: Swap, target: Migration) -> None:
        """Refuse what somebody has made in flight on columns that go: past the first table there is no way back.

        :raises RefusedError: code ZD207.
        """
        found = swap.dependants()
        if found:
            name = f"{swap.facts.schema}.{swap.facts.name}"
            listed = ", ".join(f"{thing} on {column!r}" if column else thing for column, thing in found)
            raise RefusedError(
                f"revision {target.revision!r}, table {name}: what goes is still used: {listed}; nothing was changed: "
                "drop it, or change it first",
                code="ZD207",
                revision=target.revision,
                table=name,
                next_command=f"alembic zd-complete {target.revision}",
            )

    def _types(self, target: Migration, source: str) -> list[Step]:
        """Return the step that puts new enums in the place of former ones, which no table has any more."""
        statements = tuple(text for m in self._state.in_flight if m.id <= target.id for text in _extras(m).types)
        return [Step("types", Kind.TRANSACTION, source, statements, forward_only=True)] if statements else []

    def _custom(self, target: Migration, source: str) -> list[Step]:
        steps = []
        for migration in self._state.in_flight:
            if migration.id > target.id:
                continue
            statements = _extras(migration).contract
            if statements:
                name = f"contract SQL of {migration.revision}"
                steps.append(Step(name, Kind.TRANSACTION, source, tuple(statements), cost="unknown", forward_only=True))
        return steps


def _extras(migration: Migration) -> Extras:
    return Extras.from_json(migration.extras) if migration.extras else Extras()


def undoable_steps(plan: Plan) -> list[Step]:
    """Return the steps of a contract that can be taken back, until its first forward-only step has begun."""
    return [step for step in plan.steps if step.inverse and not step.forward_only]


def is_forward_only(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the journal's rows say that a contract can only go on."""
    begun = {row["position"] for row in rows if row["phase"] == plan.phase and row["finished_at"]}
    return any(step.forward_only and position in begun for position, step in enumerate(plan.steps))


def _dropped_first(swaps: list[Swap]) -> list[Swap]:
    """Order swaps: dropped tables, then the others by name."""
    return sorted(swaps, key=lambda s: (not s.is_dropped, s.flight.schema, s.flight.name))


def _vacating_first(swaps: list[Swap]) -> list[Swap]:
    """Order swaps so that a table's new name is free when it gets there; break rings by a detour."""
    waiting, ordered = list(swaps), []
    while waiting:
        held = {(s.flight.schema, s.flight.name) for s in waiting}
        free = [s for s in waiting if s.is_dropped or not _moves(s) or (s.flight.schema, _destination(s)) not in held]
        if not free:
            detour = internal_name("_zd", str(waiting[0].flight.id), _destination(waiting[0]))
            free = [waiting[0]]
            ordered.append(replace(waiting[0], detour=detour))
        else:
            ordered += free
        waiting = [s for s in waiting if s not in free]
    return ordered


def _destination(swap: Swap) -> str:
    return swap.flight.contracted(swap.level).name


def _moves(swap: Swap) -> bool:
    return _destination(swap) != swap.flight.name
