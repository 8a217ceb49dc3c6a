"""What subscribers see of a table in flight: the columns that they know, and nothing of ours.

A row with a column that a subscriber's table lacks stops the subscription, for good: a column list given
afterwards comes too late for what is in the WAL already (REDTEAM B14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.names import MARKER
from alembic_zero.plan.findings import IGNORE, Finding, Severity
from alembic_zero.sql.publications import set_published
from alembic_zero.sql.quoting import ident

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.catalog.snapshot import TableFacts, TableSpec
    from alembic_zero.catalog.surroundings import Publication
    from alembic_zero.lens.lens import Flight

_COLUMN_LISTS_SINCE = 15


def new_columns(flight: Flight) -> list[str]:
    """Return the physical columns, with their types, that the newest level adds to the table."""
    number = len(flight.levels)
    known = {cell for n in range(number) for _, cell in flight.shape_at(n)}
    cells = [cell for _, cell in flight.columns_at(number) if cell.id not in known]
    added = [f"{ident(str(cell.physical))} {cell.type}" for cell in cells]
    before = flight.without_levels(number - 1)
    return added + ([f"{ident(MARKER)} integer"] if flight.has_marker and not before.has_marker else [])


def held_publications(flight: Flight, facts: TableFacts, server_version: int) -> tuple[str, ...]:
    """Return the publications that have, or get, a column list of ours while the table is in flight."""
    if not new_columns(flight):
        return flight.held
    found = [p.name for p in facts.publications if _shows_all(p) and _obstacle(p, facts, server_version) is None]
    return (*flight.held, *(name for name in found if name not in flight.held))


def find_unheld(flight: Flight, facts: TableFacts, server_version: int, setting: str) -> Iterator[Finding]:
    """Yield a finding for each publication that would show its subscribers our columns."""
    added = new_columns(flight)
    for publication in facts.publications if added else ():
        obstacle = _obstacle(publication, facts, server_version)
        shown = _shows_all(publication) and (setting == IGNORE or obstacle is not None)
        if shown and publication.scope != "all":
            yield _unheld(publication, f"{facts.schema}.{facts.name}", obstacle, added, setting)


def find_published_all(names: Sequence[str], setting: str) -> Iterator[Finding]:
    """Yield a finding for each publication FOR ALL TABLES: those of the journal are among them."""
    for name in names:
        severity, code = (Severity.WARNING, "ZD408") if setting == IGNORE else (Severity.ERROR, "ZD218")
        yield Finding(
            severity,
            code,
            None,
            f"publication {name!r} is FOR ALL TABLES: subscribers that lack the columns of tables in flight, or the "
            "tables of schema alembic_zero, stop",
            "let it name its tables; or give subscribers all of that first, then configure(zd_publications='ignore')",
        )


def find_without_identity(flight: Flight, facts: TableFacts) -> Iterator[Finding]:
    """Yield a finding if the backfill's UPDATE would be refused, as any client's is already."""
    publications = [p.name for p in facts.publications if p.sends_old_rows]
    if publications and flight.levels[-1].ups and not _has_identity(facts, flight.spec):
        yield Finding(
            Severity.ERROR,
            "ZD218",
            f"{facts.schema}.{facts.name}",
            f"publication {publications[0]!r} publishes updates, and the table has no replica identity: PostgreSQL "
            "refuses the backfill's UPDATE, and anybody's",
            "ALTER TABLE ... REPLICA IDENTITY",
        )


def find_subscriptions(flight: Flight, facts: TableFacts) -> Iterator[Finding]:
    """Yield a finding for each subscription that writes to columns which go with the contract."""
    number = len(flight.levels)
    stays = {column.name for column, _ in flight.columns_at(number)}
    gone = [column.name for column, _ in flight.columns_at(number - 1) if column.name not in stays]
    for name in facts.subscriptions if gone else ():
        yield Finding(
            Severity.WARNING,
            "ZD409",
            f"{facts.schema}.{facts.name}",
            f"subscription {name!r} writes to the table, and zd-complete takes its columns {', '.join(gone)} away",
            "let the publisher stop sending them before zd-complete, or the subscription stops",
        )


def publications_reading(physical: str | None, flight: Flight, facts: TableFacts) -> Iterator[str]:
    """Yield the publications whose own column list or row filter has the column."""
    for publication in facts.publications:
        listed = () if publication.name in flight.held else publication.columns or ()
        if physical in (*listed, *publication.condition_columns):
            yield f"publication {publication.name!r}"


def hold_statements(flight: Flight, facts: TableFacts) -> list[str]:
    """Return the statements that show subscribers the oldest live shape only, before columns are added."""
    held = [p for p in facts.publications if p.name in flight.held and _shows_all(p)]
    return [text for p in held for text in _show(flight, p, _columns(flight, 0, p))]


def release_statements(flight: Flight, after: Flight, publications: Sequence[Publication], level: int) -> list[str]:
    """Return the statements that let subscribers see the table as it is after the transaction.

    To be run while names are as they are before it: column lists and filters follow what is renamed.

    :param after: the flight after the transaction.
    :param level: the level that is the oldest live one then.
    """
    held = [p for p in publications if p.name in flight.held and p.scope == "table" and p.columns is not None]
    statements = []
    for publication in held:
        columns = _columns(flight, level, publication) if after.levels else None
        if columns is None or set(columns) != set(publication.columns or ()):
            statements += _show(flight, publication, columns)
    return statements


def _show(flight: Flight, publication: Publication, columns: Sequence[str] | None) -> list[str]:
    return set_published(publication.name, ident(flight.schema, flight.name), columns, publication.condition)


def _columns(flight: Flight, level: int, publication: Publication) -> list[str]:
    """Return the physical columns of a level that the publication shows when it shows all."""
    columns = list(flight.columns_at(level))
    return [
        str(cell.physical)
        for column, cell in columns
        if not column.generated or (column.generated == "s" and publication.generated)
    ]


def _shows_all(publication: Publication) -> bool:
    return publication.columns is None


def _obstacle(publication: Publication, facts: TableFacts, server_version: int) -> str | None:
    """Return why the publication cannot get a column list, None if it can."""
    if publication.scope == "all":
        return "it is FOR ALL TABLES"
    if publication.scope == "schema":
        return "it is FOR TABLES IN SCHEMA"
    if publication.scope == "partition":
        return "it names a partition of the table"
    if server_version < _COLUMN_LISTS_SINCE:
        return "column lists exist from PostgreSQL 15 on"
    if not publication.owned:
        return f"it does not belong to role {facts.role!r}"
    if facts.kind == "p" and not publication.via_root:
        return "the table is partitioned, and it has not publish_via_partition_root"
    if facts.replica_identity == "f" and publication.sends_old_rows:
        return "with REPLICA IDENTITY FULL, PostgreSQL refuses updates of a table that has a column list"
    return None


def _unheld(publication: Publication, table: str, obstacle: str | None, added: Sequence[str], setting: str) -> Finding:
    problem = (
        f"publication {publication.name!r} shows subscribers every column: those that lack {', '.join(added)} stop"
    )
    if setting == IGNORE:
        return Finding(Severity.WARNING, "ZD408", table, problem, "add them there before the upgrade")
    return Finding(
        Severity.ERROR,
        "ZD218",
        table,
        f"{problem}; it cannot get a column list here: {obstacle}",
        "let it name the table and belong to the migrating role; or add the columns there, then "
        "configure(zd_publications='ignore')",
    )


def _has_identity(facts: TableFacts, spec: TableSpec) -> bool:
    if facts.replica_identity == "d":
        return any(index.constraint == "p" for index in spec.indexes)
    if facts.replica_identity == "i":
        return any(index.replica_identity for index in spec.indexes)
    return facts.replica_identity == "f"
