"""Tables that links tie together: which they are, and the step that unties them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.plan.contract import PublishedView, bury_view, view_lock
from alembic_zero.plan.expand import replace_trigger, table_lock
from alembic_zero.plan.step import Kind, LockMode, Step
from alembic_zero.sql import ddl
from alembic_zero.sql.carry import Owed
from alembic_zero.sql.links import found_table, function_names
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from alembic_zero.lens.lens import Flight, Level
    from alembic_zero.lens.link import Link


def links_of(flights: Iterable[Flight]) -> Iterator[Link]:
    """Yield the links of the flights' newest levels."""
    for flight in flights:
        yield from flight.levels[-1].links


def groups(flights: Mapping[int, Flight]) -> list[list[Flight]]:
    """Return the tables in groups that links tie together, most of them of one table."""
    group_of = {number: {number} for number in flights}
    for link in links_of(flights.values()):
        joined = group_of[link.source.flight] | group_of[link.target.flight]
        for number in joined:
            group_of[number] = joined
    found: list[list[Flight]] = []
    seen: set[int] = set()
    for number in flights:
        if number not in seen:
            seen |= group_of[number]
            members = [flights[n] for n in flights if n in group_of[number]]
            found.append(sorted(members, key=lambda f: (f.schema, f.name)))
    return found


def sources_first(flights: Mapping[int, Flight], *, upward: bool = True) -> list[Flight]:
    """Return the tables in an order in which the source of a link of this direction comes before its target.

    :raises ValueError: they go round in a circle; the error's argument is the tables' names.
    """
    before: dict[int, set[int]] = {number: set() for number in flights}
    for link in links_of(flights.values()):
        if link.upward == upward:
            before[link.target.flight].add(link.source.flight)
    return [flights[number] for number in _sorted(before, flights)]


def _sorted(before: dict[int, set[int]], flights: Mapping[int, Flight]) -> list[int]:
    ordered: list[int] = []
    waiting = list(before)
    while waiting:
        ready = [number for number in waiting if before[number] <= set(ordered)]
        if not ready:
            names = [f"{flights[n].schema}.{flights[n].spec_at(len(flights[n].levels)).name}" for n in waiting]
            raise ValueError(", ".join(sorted(names)))
        ordered += ready
        waiting = [number for number in waiting if number not in ready]
    return ordered


def is_tied(levels: Sequence[Level]) -> bool:
    """Return whether the trigger of a table still carries something across because of these levels."""
    return any(level.links or level.relaxed or any(e.linked for e in (*level.ups, *level.downs)) for level in levels)


def plan_untie(
    flights: Sequence[Flight],
    gone: Mapping[int, Sequence[PublishedView]],
    ended: Container[int],
    source: str,
    *,
    forward_only: bool,
) -> tuple[Step, dict[int, Flight]]:
    """Return the step that ends the links of some migrations, and the flights after it.

    In the same transaction the views of the version that ends become tombstones: whatever its clients
    still wrote would not be carried any more.

    :param gone: by flight, views of the versions that end.
    :param ended: migrations whose links end.
    """
    flights = sorted(flights, key=lambda f: (f.schema, f.name))
    keep = {level.migration for f in flights for level in f.levels if level.migration not in ended}
    after = {flight.id: flight.unlinked(keep) for flight in flights}
    views = [(flight, view) for flight in flights for view in gone.get(flight.id, ())]
    statements = [text for flight, view in views for text in bury_view(flight, view)]
    for flight in flights:
        statements += replace_trigger(flight, after[flight.id], fresh=not forward_only)
    levels = [(flight, level) for flight in flights for level in flight.levels if level.migration in ended]
    names = [name for flight, level in levels for name in _functions(level, flight)]
    names += [name for flight in flights for name in _followed(flight, after[flight.id])]
    if names:
        # At once: some are made of others, in no order that the tables would tell.
        statements.append(ddl.drop_functions(JOURNAL_SCHEMA, names))
    statements += [f"DROP TABLE IF EXISTS {found_table(k.lookup)}" for _, level in levels for k in level.links]
    first, *others = flights
    locks = [view_lock(flight, view) for flight, view in views]
    step = Step(
        f"untie {', '.join(f'{flight.label}' for flight in flights)}",
        Kind.TRANSACTION,
        source,
        tuple(statements),
        (*locks, *(table_lock(flight, LockMode.ACCESS_EXCLUSIVE) for flight in flights)),
        LockMode.ACCESS_EXCLUSIVE,
        table=first.id,
        state=after[first.id].to_json(),
        states=tuple((flight.id, after[flight.id].to_json()) for flight in others),
        forward_only=forward_only,
    )
    return step, after


def _functions(level: Level, flight: Flight) -> Iterator[str]:
    for link in level.links:
        yield from function_names(link)
    if level.relaxed:
        yield Owed(flight, level).function


def _followed(flight: Flight, after: Flight) -> list[str]:
    """Return the functions of edges that are gone because what they read came from a link."""
    pairs = zip(flight.levels, after.levels, strict=True)
    gone = [e for one, rest in pairs for e in (*one.ups, *one.downs) if e not in rest.ups and e not in rest.downs]
    return [edge.function for edge in gone if not edge.linked]


def plan_hold(flight: Flight, source: str) -> list[Step]:
    """Return the steps that hold relaxed columns to their NOT NULL again, without a scan under a strong lock."""
    level = flight.levels[-1]
    if not level.relaxed:
        return []
    table = ident(flight.schema, flight.name)
    label = flight.label
    names = {cell: f"_zd_held_{level.generation}_{n}" for n, cell in enumerate(level.relaxed)}
    physical = {cell: str(flight.cell(cell).physical) for cell in level.relaxed}
    lock = (table_lock(flight, LockMode.ACCESS_EXCLUSIVE),)
    add, hold = list[str](), list[str]()
    for cell, name in names.items():
        add += [
            ddl.drop_constraint(table, name),
            ddl.add_check(table, name, f"CHECK ({ident(physical[cell])} IS NOT NULL)"),
        ]
        hold += [ddl.set_not_null(table, physical[cell]), ddl.drop_constraint(table, name)]
        hold += [ddl.rename_not_null(table, physical[cell], wanted) for wanted in _not_null_names(flight, cell)]
    return [
        Step(f"constraints of {label}", Kind.TRANSACTION, source, tuple(add), lock, LockMode.ACCESS_EXCLUSIVE,
             table=flight.id),
        Step(f"validate {label}", Kind.AUTOCOMMIT, source, tuple(ddl.validate(table, name) for name in names.values()),
             lock_mode=LockMode.SHARE_UPDATE_EXCLUSIVE, cost="scans", table=flight.id),
        Step(f"NOT NULL of {label}", Kind.TRANSACTION, source, tuple(hold), lock, LockMode.ACCESS_EXCLUSIVE,
             table=flight.id),
    ]  # fmt: skip


def _not_null_names(flight: Flight, cell: str) -> Iterator[str]:
    number = len(flight.levels) - 1
    column = next(flight.spec_at(number).column(name) for name, found in flight.shape_at(number) if found == cell)
    if column is not None and column.not_null_name:
        yield column.not_null_name
