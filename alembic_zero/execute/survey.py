"""Look around before a migration: read what surrounds it, and let pure functions say what they find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic_zero.catalog.reader import read_rows
from alembic_zero.catalog.surroundings import Health, Rights, Slot, Transaction, WalLimits
from alembic_zero.plan import survey
from alembic_zero.plan.publishing import find_published_all, find_subscriptions, find_unheld, find_without_identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import Server, TableFacts
    from alembic_zero.lens.lens import Flight
    from alembic_zero.plan.findings import Finding, PreflightOptions


def survey_rights(connection: Connection, schemas: Sequence[str], versions: Sequence[str]) -> Iterator[Finding]:
    """Yield what the role lacks for any migration at all.

    :param schemas: the schemas with the project's tables.
    :param versions: its version schemas.
    """
    rights = Rights(**_tuples(read_rows(connection, "rights")[0]))
    yield from survey.find_rights(rights)
    yield from survey.find_versions_of_others(rights, versions)
    for schema in schemas:
        for row in read_rows(connection, "foreign_view_owners", schema=schema):
            yield survey.find_view_owner(schema, row["name"], row["owner"], rights)


def survey_publications(connection: Connection, options: PreflightOptions) -> Iterator[Finding]:
    """Yield what is published whatever the plan is: the journal's tables are."""
    names = [row["name"] for row in read_rows(connection, "publications_of_all")]
    yield from find_published_all(names, options.publications)


def survey_plan(
    connection: Connection,
    tables: Sequence[tuple[Flight, TableFacts]],
    server: Server,
    options: PreflightOptions,
) -> Iterator[Finding]:
    """Yield what the catalog and the server's views say against a plan.

    :param tables: all tables of the plan, with the new level on top.
    """
    yield from survey_publications(connection, options)
    for row in read_rows(connection, "path_writers"):
        yield survey.find_path_writers(row["schema"], row["roles"])
    growths = []
    for flight, facts in tables:
        if flight.created:
            continue
        health = Health(**_tuples(read_rows(connection, "health", oid=flight.relation)[0]))
        growths.append((f"{facts.schema}.{facts.name}", survey.estimate_growth(flight, health)))
        yield from _table(connection, flight, facts, health)
        yield from find_unheld(flight, facts, server.version, options.publications)
    yield from _around(connection, tables, growths, options)


def survey_clients(connection: Connection, flight: Flight) -> Iterator[Finding]:
    """Yield what clients lack to have their rows derived.

    :param connection: the newest level's functions are there, for the time of its transaction.
    """
    level = flight.levels[-1]
    names = [e.function for e in (*flight.generated, *level.ups, *level.downs)]
    names += [rule.function for rule in level.rules if rule.function]
    rows = read_rows(connection, "functions_of_clients", oid=flight.relation, names=names)
    pairs = [(row["function"], row["role"]) for row in rows]
    yield from survey.find_client_rights(flight.label, pairs)


def _table(connection: Connection, flight: Flight, facts: TableFacts, health: Health) -> Iterator[Finding]:
    yield from survey.find_table_rights(facts, health)
    for key in flight.levels[-1].foreign_keys:
        if read_rows(connection, "rights_to_reference", name=key.referenced)[0]["granted"] is False:
            yield survey.find_reference_rights(facts, key.referenced)
    yield from survey.find_slots_left(flight, facts, health)
    yield from survey.find_leftovers(flight, facts, health)
    yield from find_without_identity(flight, facts)
    yield from find_subscriptions(flight, facts)
    yield from survey.find_half_done(flight, facts, health)
    yield from survey.find_reading_triggers(flight, facts)
    yield from survey.find_wraparound(facts, health)
    yield from survey.find_lock_holders(facts, _transactions(connection, "lock_holders", oid=flight.relation))


def _around(
    connection: Connection,
    tables: Sequence[tuple[Flight, TableFacts]],
    growths: Sequence[tuple[str, survey.Growth]],
    options: PreflightOptions,
) -> Iterator[Finding]:
    slots = [Slot(**row) for row in read_rows(connection, "slots")]
    limits = WalLimits(**read_rows(connection, "wal_limits")[0])
    free = options.free_disk() if callable(options.free_disk) else options.free_disk
    yield from survey.find_growth(growths, slots, limits, free)
    yield from survey.find_slots(slots, limits, sum(growth.wal for _, growth in growths))
    waits = any(flight.levels[-1].indexes for flight, _ in tables)
    if waits or any(growth.wal for _, growth in growths):
        yield from survey.find_transactions(_transactions(connection, "old_transactions"), waits=waits)


def _transactions(connection: Connection, query: str, **parameters: Any) -> list[Transaction]:
    return [Transaction(**row) for row in read_rows(connection, query, **parameters)]


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
