"""Verification: compare every row in flight, and say what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alembic_zero.execute.discrepancies import Verification
from alembic_zero.execute.repair import Repairer, Truth
from alembic_zero.execute.verify import Verifier
from alembic_zero.operations.errors import MigrationError, RefusedError, VerificationError
from alembic_zero.reporting import print_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic_zero.execute.discrepancies import Difference, Discrepancy
    from alembic_zero.execute.executor import Executor
    from alembic_zero.execute.journal import Migration, State
    from alembic_zero.lens.lens import Flight
    from alembic_zero.workplace import Workplace


def find_live(state: State, revision: str | None) -> Migration | None:
    """Return the live version in flight that a revision identifier means; the newest one if there is none.

    None if nothing is in flight, or that version no longer.

    :raises RefusedError: code ZD258, the revision is not in flight.
    """
    live = [m for m in state.in_flight if m.state == "live"]
    if revision is None or revision == "head":
        return live[-1] if live else None
    found = [m for m in live if m.revision == revision] or [m for m in live if m.revision.startswith(revision)]
    if len(found) == 1:
        return found[0]
    if any(m.revision == revision for m in state.published):
        return None
    raise RefusedError(
        f"revision {revision!r} is not in flight (in flight: "
        f"{', '.join(m.revision for m in live) or 'nothing'}); nothing was changed",
        code="ZD258",
        revision=revision,
        next_command="alembic zd-status",
    )


def flights_until(state: State, target: Migration) -> list[Flight]:
    """Return the tables that a version changes, without the levels above it."""
    return [f.without_levels(level) for f in state.flights if (level := f.level_of(target.id))]


def verify(
    workplace: Workplace, executor: Executor, state: State, target: Migration, truth: Truth | None = None
) -> Verification:
    """Compare the rows of all tables that are in flight up to a version.

    :param truth: mend what is found, by what this version says; the result is then what is left.
    :raises MigrationError: code ZD303, another command has changed what is in flight.
    """
    flights = flights_until(state, target)
    verifier = Verifier(executor.work, executor.bare, executor.rules, workplace.progress)
    try:
        if truth is None:
            return verifier.run(flights)
        repairer = Repairer(executor.work, executor.rules, truth)
        before = replace(verifier, limit=0, repairer=repairer).run(flights)
        after = verifier.run(flights) if before.total else before
        after.repaired = max(0, before.total - after.total)
        return after
    finally:
        now = workplace.read_state()
        workplace.commit()
        if (now.migrations, now.flights) != (state.migrations, state.flights):
            raise MigrationError("another command has changed what is in flight; run this one again", code="ZD303")


def run_verification(
    workplace: Workplace, revision: str | None, *, as_json: bool = False, truth: Truth | None = None
) -> None:
    """Compare, mend what is found if a *truth* is given, and print what was found, or is left.

    :raises VerificationError: code ZD330, something was found.
    """
    state = workplace.read_state()
    workplace.commit()
    if state.unfinished is not None:
        raise RefusedError(
            f"revision {state.unfinished.revision!r} is {state.unfinished.state}: rows can be compared when that is "
            "finished; nothing was changed",
            code="ZD251",
            revision=state.unfinished.revision,
            next_command="alembic zd-status",
        )
    target = find_live(state, revision)
    if target is None:
        found, name = Verification(), None
    else:
        found, name = verify(workplace, workplace.executor(), state, target, truth), target.revision
    lines = [json.dumps(_to_json(found, name), indent=2)] if as_json else list(_lines(found, name))
    print_lines(workplace.context, lines)
    if found.total:
        raise VerificationError(
            f"revision {name!r}: {describe_counts(found)}; "
            + ("nothing was changed" if truth is None else f"these are left, {found.repaired} were repaired"),
            code="ZD330",
            revision=name,
            next_command="alembic zd-verify --repair" if truth is None else "alembic zd-verify",
        )


def describe_counts(found: Verification) -> str:
    """Return in words how many rows of which tables were found."""
    tables: dict[str, list[str]] = {}
    for (table, kind), count in sorted(found.counts.items()):
        tables.setdefault(table, []).append(f"{count} {kind}")
    return "; ".join(f"table {table}: {', '.join(counts)}" for table, counts in tables.items())


def describe(discrepancy: Discrepancy) -> str:
    """Return a discrepancy in one line."""
    parts = [_describe_difference(difference) for difference in discrepancy.differences]
    parts += [discrepancy.error] if discrepancy.error else []
    revision = f" (revision {discrepancy.revision})" if discrepancy.revision else ""
    return f"{discrepancy.key}: {discrepancy.kind}{revision}" + (f": {'; '.join(parts)}" if parts else "")


def _describe_difference(difference: Difference) -> str:
    version = f"version {difference.revision}" if difference.revision else "the version before"
    should = f"cannot be computed ({difference.error})" if difference.error else _quoted(difference.derived)
    return f"{difference.column} of {version} is {_quoted(difference.stored)}, what follows is {should}"


def _quoted(value: str | None) -> str:
    return "NULL" if value is None else repr(value)


def _lines(found: Verification, revision: str | None) -> Iterator[str]:
    if revision is None:
        yield "nothing is in flight"
        return
    for table in found.tables:
        counts = {kind: count for (name, kind), count in sorted(found.counts.items()) if name == table}
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "consistent"
        yield f"table {table}: {said}"
        listed = [f for f in found.discrepancies if f.table == table]
        yield from (f"  {describe(discrepancy)}" for discrepancy in listed)
        if len(listed) < sum(counts.values()):
            yield f"  and {sum(counts.values()) - len(listed)} more"
    for one in found.unchecked:
        yield f"not comparable: {one.table}, column {one.column} of {one.revision}: {one.reason}"
    if found.repaired:
        yield f"repaired {found.repaired} rows"
    yield f"revision {revision}: " + (f"{found.total} rows found" if found.total else "consistent")


def _to_json(found: Verification, revision: str | None) -> dict[str, Any]:
    tables = [
        {"table": table, "counts": {kind: n for (name, kind), n in sorted(found.counts.items()) if name == table}}
        for table in found.tables
    ]
    discrepancies = [
        {
            "kind": f.kind,
            "table": f.table,
            "key": f.key,
            "revision": f.revision,
            "columns": [d.__dict__ for d in f.differences],
            "error": f.error,
        }
        for f in found.discrepancies
    ]
    return {
        "revision": revision,
        "consistent": not found.total,
        "rows": found.total,
        "repaired": found.repaired,
        "tables": tables,
        "discrepancies": discrepancies,
        "not_comparable": [u.__dict__ for u in found.unchecked],
    }
