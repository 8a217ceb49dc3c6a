"""What zd-status and zd-plan print."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.planner import Extras
from alembic_zero.execute.quarantine import count_quarantined, describe_quarantined
from alembic_zero.heads import version_name
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.findings import Severity
from alembic_zero.sql import journal as sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic.runtime.migration import MigrationContext

    from alembic_zero.execute.journal import Migration, State
    from alembic_zero.execute.planner import Expansion
    from alembic_zero.lens.lens import Flight
    from alembic_zero.plan.findings import Finding
    from alembic_zero.plan.step import Plan, Step
    from alembic_zero.workplace import Workplace

_SHOWN_ROWS = 10


def print_lines(context: MigrationContext, lines: Iterable[str]) -> None:
    """Print lines to where Alembic's own commands print."""
    config = context.config
    for line in lines:
        if config is None:
            print(line)  # noqa: T201 - a program that runs commands without a Config
        else:
            config.print_stdout("%s", line)


def read_status(workplace: Workplace, heads: tuple[str, ...]) -> dict[str, Any]:
    """Return everything that zd-status shows, as JSON-ready data."""
    state = workplace.read_state()
    connection = workplace.connection
    clients = _clients(workplace, state)
    status: dict[str, Any] = {
        "revision": version_name(heads),
        "phase": _phase(state),
        "command": workplace.other_command(),
        "blockers": [blocker.describe() for blocker in workplace.blockers()],
        "versions": [
            {
                "revision": m.revision,
                "from_revision": m.from_revision,
                "state": m.state,
                "clients": clients.get(m.revision, 0),
                "operations": _operations(m),
                "steps": _steps(workplace, m),
            }
            for m in state.migrations
        ],
        "tables": [_table(workplace, flight) for flight in state.flights],
        "backfills": [],
        "rights": [],
    }
    if state.exists:
        status["rights"] = [drift.name for drift in workplace.find_drifts(state, connection)]
        rows = connection.execute(text(sql.BACKFILLS)).mappings().all()
        flying = _visits(state.flights) if state.unfinished is not None else {}
        status["backfills"] = [
            {
                "table": flying[row["generation"]],
                "blocks_done": min(row["next_block"], row["end_block"]),
                "blocks_total": row["end_block"],
                "rows_updated": row["updated_rows"],
                "rows_per_second": round(row["updated_rows"] / max(float(row["seconds"]), 0.001)),
            }
            for row in rows
            if row["generation"] in flying and row["end_block"]
        ]
    return status


def _visits(flights: Sequence[Flight]) -> dict[int, str]:
    """Return what the rows of a table are visited for, by number: its own backfill, or the tables that it fills."""
    names = {flight.id: flight.label for flight in flights}
    visits = {}
    for flight in flights:
        for level in flight.levels:
            visits[level.generation] = names[flight.id]
            for number, link in enumerate(level.links, level.generation + 1):
                visits[number] = f"{names[link.target.flight]} from {names[flight.id]}"
    return visits


def _phase(state: State) -> str:
    if state.unfinished is not None:
        return {"expanding": "expand", "contracting": "contract", "rolling back": "rollback"}[state.unfinished.state]
    return "in flight" if state.in_flight else "idle"


def _clients(workplace: Workplace, state: State) -> dict[str, int]:
    """Return how many clients each version has at this moment, as far as can be seen."""
    watch = workplace.client_watch(workplace.connection, state.migrations)
    try:
        found = watch.look()
    except RefusedError as error:
        # A status fails for nothing.
        workplace.report(error.message)
        found = replace(watch, poolers=()).look()
    return dict(Counter(client.revision for client in found))


def _operations(migration: Migration) -> list[dict[str, Any]]:
    """Return the calls of a version in flight, as the journal has kept them."""
    if migration.state == "current" or not migration.extras:
        return []
    return [stored.to_plain() for stored in Extras.from_json(migration.extras).operations]


def _steps(workplace: Workplace, migration: Migration) -> list[dict[str, Any]]:
    rows = {(r["phase"], r["position"]): r for r in workplace.journal.read_steps(workplace.connection, migration.id)}
    steps = []
    # The plan of a contract that was abandoned is kept, and no longer counts.
    finish = migration.finish if migration.state in ("contracting", "rolling back") else None
    for plan in (migration.expand, finish):
        for position, step in enumerate(plan.steps if plan else ()):
            row = rows.get((plan.phase, position)) if plan else None
            state = "to do" if row is None else "done" if row["finished_at"] else "begun"
            steps.append({"phase": plan.phase if plan else "", "name": step.name, "state": state})
    return steps


def _table(workplace: Workplace, flight: Flight) -> dict[str, Any]:
    connection = workplace.connection
    table: dict[str, Any] = {
        "table": flight.label,
        "levels": [level.revision for level in flight.levels],
        "quarantined": 0,
        "quarantined_rows": [],
    }
    if any(level.quarantines for level in flight.levels) and _has_marker(connection, flight):
        table["quarantined"] = count_quarantined(connection, flight)
        if table["quarantined"]:
            table["quarantined_rows"] = describe_quarantined(connection, flight, _SHOWN_ROWS)
    return table


def _has_marker(connection: Any, flight: Flight) -> bool:
    return flight.has_marker and bool(read_rows(connection, "table", schema=flight.schema, name=flight.name))


def print_status(context: MigrationContext, status: dict[str, Any], *, as_json: bool) -> None:
    """Print a status as JSON or for people."""
    if as_json:
        print_lines(context, [json.dumps(status, indent=2, default=str)])
        return
    print_lines(context, _status_lines(status))


def _status_lines(status: dict[str, Any]) -> Iterable[str]:
    yield f"revision {status['revision']}, phase: {status['phase']}"
    if status["command"]:
        yield f"a command is running: {status['command']}"
    yield from (f"it waits for {blocker}" for blocker in status["blockers"])
    for version in status["versions"]:
        yield f"version {version['revision']}: {version['state']}, {version['clients']} clients"
        if version["state"] != "current":
            yield from (f"  {s['phase']}: {s['name']}: {s['state']}" for s in version["steps"] if s["state"] != "done")
    for backfill in status["backfills"]:
        yield (
            f"backfill of {backfill['table']}: block {backfill['blocks_done']} of {backfill['blocks_total']}, "
            f"{backfill['rows_updated']} rows, {backfill['rows_per_second']} rows/s"
        )
    for table in status["tables"]:
        levels = ", ".join(table["levels"])
        yield f"table {table['table']}: in flight for {levels}; {table['quarantined']} rows quarantined"
        yield from (f"  {row['key']}: {row['error']}" for row in table["quarantined_rows"])
    if status["rights"]:
        yield f"rights differ from the tables' (alembic zd-init brings them in line): {', '.join(status['rights'])}"


def print_plan(workplace: Workplace, expansion: Expansion, target: str) -> None:
    """Print the steps of an expansion and how it would be published."""
    findings = finding_lines(expansion.findings, notes=True)
    title = "\n".join([f"upgrade to {target}", *findings, *expansion.outline])
    print_steps(workplace.context, title, expansion.plan)
    schemas = ", ".join(workplace.schemas(workplace.read_state(), expansion.schemas))
    print_lines(workplace.context, [f"-- then, in Alembic's own transaction: views of {target} for {schemas}"])


def finding_lines(findings: Iterable[Finding], *, notes: bool) -> list[str]:
    """Return a line for each finding that refuses nothing.

    :param notes: whether notes are wanted, too.
    """
    return [one.render() for one in findings if notes or one.severity != Severity.NOTE]


def print_steps(context: MigrationContext, title: str, plan: Plan) -> None:
    """Print the steps of one phase with their statements."""
    lines = [f"-- {line}" for line in title.splitlines()]
    for number, step in enumerate(plan.steps, 1):
        lines += _step_lines(number, step)
    print_lines(context, [*lines, ""])


def _step_lines(number: int, step: Step) -> list[str]:
    lines = ["", f"-- {number}. {step.name} [{step.kind}; {step.lock_mode}; {step.cost}] from {step.source}"]
    return lines + [f"{statement};" for statement in step.statements]
