"""Keep the rights on live versions those of their tables, also after GRANT and REVOKE while they are live."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alembic_zero.catalog.reader import find_table, qualified_names, read_facts, read_rows
from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.sql.ddl import grant_on_column, revoke_on_column
from alembic_zero.sql.quoting import ident
from alembic_zero.sql.views import render_regrant, render_regrant_schema, rights_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from sqlalchemy.engine import Connection

    from alembic_zero.catalog.snapshot import Grant, TableFacts
    from alembic_zero.execute.journal import Migration
    from alembic_zero.execute.publish import Publisher
    from alembic_zero.lens.lens import Flight
    from alembic_zero.sql.views import VersionView


@dataclass(frozen=True)
class Drift:
    """A view or schema of a version, or a copied column, whose rights are no longer the table's.

    :param name: what it is, for a person.
    """

    name: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Rights:
    """Compares live versions with their tables.

    :param published: the live versions.
    """

    publisher: Publisher
    published: Sequence[Migration]
    _known: dict[tuple[str, str], TableFacts] = field(default_factory=dict)

    @property
    def _connection(self) -> Connection:
        return self.publisher.connection

    def find_drifts(self) -> list[Drift]:
        """Return what has to be brought in line; needs an open transaction, takes no lock."""
        with qualified_names(self._connection):
            columns = [drift for flight in self.publisher.flights for drift in self._columns(flight)]
            return columns + [
                drift
                for migration in self.published
                for schema in migration.schemas
                for drift in (*self._schema(migration, schema), *self._views(migration, schema))
            ]

    # -- tables in flight -----------------------------------------------------------------

    def _columns(self, flight: Flight) -> Iterator[Drift]:
        """Yield the copies whose privileges are not those of the columns that they will replace."""
        if find_table(self._connection, flight.schema, flight.name) is None:
            return
        actual = self._facts(flight)
        wanted = _with_copies(flight, actual)
        table = ident(flight.schema, flight.name)
        for column, _ in _copies(flight):
            before, after = (_of_column(facts, column) for facts in (actual, wanted))
            if set(before) != set(after) and column in actual.physical_names:
                revoked = [revoke_on_column(table, column, grant) for grant in before]
                granted = [grant_on_column(table, column, grant) for grant in after]
                yield Drift(f"{flight.label}, copy {column}", (*revoked, *granted))

    # -- versions -------------------------------------------------------------------------

    def _schema(self, version: Migration, schema: str) -> Iterator[Drift]:
        wanted = self.publisher.schema(version.revision, schema)
        for row in read_rows(self._connection, "schema_rights", schema=wanted.name):
            others = [grant for grant in wanted.grants if grant.grantee != row["owner"]]
            if _as_set(row["rights"]) != {(g.grantee, "USAGE", g.grantable, None) for g in others}:
                yield Drift(wanted.name, tuple(render_regrant_schema(wanted)))

    def _views(self, version: Migration, schema: str) -> Iterator[Drift]:
        view_schema = self.publisher.view_schema(version.revision, schema)
        levels = {f.relation: f.level_of(version.id) for f in self.publisher.flights}
        found = {name: self._read_views(name) for name in (view_schema, JOURNAL_SCHEMA)}

        def read_wanted(flight: Flight) -> TableFacts:
            return _with_copies(flight, self._facts(flight))

        for view in self.publisher.views(view_schema, schema, levels, read_wanted):
            for name in ((view_schema, view.name), (JOURNAL_SCHEMA, str(view.inner))):
                row = found[name[0]].get(name[1])
                if row is not None and _differs(view, row):
                    yield Drift(".".join(name), tuple(render_regrant(view, name, owner_rights=row["owner_rights"])))

    def _facts(self, flight: Flight) -> TableFacts:
        """Return a table's facts, read once however many versions show it."""
        key = (flight.schema, flight.name)
        if key not in self._known:
            self._known[key] = read_facts(self._connection, *key)
        return self._known[key]

    def _read_views(self, schema: str) -> dict[str, Mapping[str, Any]]:
        return {row["name"]: row for row in read_rows(self._connection, "view_rights", schema=schema)}


def _differs(view: VersionView, row: Mapping[str, Any]) -> bool:
    # What a view's owner may do needs no grant.
    owner = view.owner if view.owner_rights else row["owner"]
    wanted = {(g.grantee, g.privilege, g.grantable, g.column) for g in rights_of(view) if g.grantee != owner}
    return bool(view.owner_rights != row["owner_rights"] or _as_set(row["rights"]) != wanted)


def _as_set(rights: Sequence[Sequence[Any]]) -> set[tuple[Any, ...]]:
    return {tuple(entry) for entry in rights}


def _of_column(facts: TableFacts, column: str) -> list[Grant]:
    return [grant for grant in facts.column_grants if grant.column == column]


def _copies(flight: Flight) -> Iterator[tuple[str, str]]:
    """Yield each copied column with the one that it will replace, by their names in the table."""
    physical = {cell.id: cell.physical for cell in flight.cells}
    for cell in flight.cells:
        # After a contract of earlier versions the copy is the column itself.
        source = physical.get(cell.source) if cell.source else None
        if source is not None and cell.physical is not None:
            yield cell.physical, source


def _with_copies(flight: Flight, facts: TableFacts) -> TableFacts:
    """Return a table's facts as they are once every copy has the privileges of the column that it replaces."""
    for copy, source in _copies(flight):
        others = [grant for grant in facts.column_grants if grant.column != copy]
        copied = [replace(grant, column=copy) for grant in _of_column(facts, source)]
        facts = replace(facts, column_grants=(*others, *copied))
    return facts
