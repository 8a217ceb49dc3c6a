"""Build the statements that publish a version, or mark one as gone, from the catalog as it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alembic_zero.catalog.reader import in_order, qualified_names, read_column_order, read_facts, read_rows, read_spec
from alembic_zero.catalog.snapshot import Grant, TableFacts
from alembic_zero.names import JOURNAL_SCHEMA, TOMBSTONE_COMMENT, VERSION_COMMENT, version_schema
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.contract import tombstone_of
from alembic_zero.sql.enums import TYPES_COMMENT
from alembic_zero.sql.quoting import ident
from alembic_zero.sql.views import (
    SECURITY_INVOKER_SINCE,
    VersionSchema,
    VersionView,
    ViewColumn,
    inner_name,
    render_bury,
    render_drop_tomb_functions,
    render_prune,
    render_schema,
    render_tomb_functions,
    render_view,
    tomb_table,
    view_of_flight,
    view_of_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from sqlalchemy.engine import Connection

    from alembic_zero.lens.lens import Flight


@dataclass(frozen=True)
class Publisher:
    """Publishes one revision for all schemas of a project.

    :param hidden: (schema, table) pairs that versions do not show: the version table.
    :param project: the project's name, if it has one.
    :param others: tables that other projects have in flight: versions show them as they were before.
    :param latest: the newest version that is published already, whose column order is kept.
    """

    connection: Connection
    server_version: int
    flights: Sequence[Flight]
    hidden: frozenset[tuple[str, str]]
    latest: str | None = None
    project: str | None = None
    others: Sequence[Flight] = ()

    def view_schema(self, revision: str, schema: str) -> str:
        """Return the name of the version schema of *revision* for the tables of *schema*."""
        return version_schema(revision, schema, self.project)

    def check(self, revision: str, schemas: Sequence[str]) -> None:
        """Refuse a revision whose version schema is taken by something that is not ours, or would show too much.

        :raises RefusedError: says by what.
        """
        for schema in schemas:
            self._check_row_security(revision, schema)
            name = self.view_schema(revision, schema)
            rows = read_rows(self.connection, "schema_comment", schema=name)
            if rows and not (rows[0]["comment"] or "").startswith(TOMBSTONE_COMMENT):
                raise RefusedError(
                    f"revision {revision!r}: schema {name} exists already ({rows[0]['comment'] or 'no comment'})"
                    f"{_advice(rows[0]['comment'])}; nothing was changed",
                    code="ZD240",
                    revision=revision,
                )

    def _check_row_security(self, revision: str, schema: str) -> None:
        """Refuse a version whose views could not keep row security: before PostgreSQL 15 they have owner's rights."""
        if self.server_version >= SECURITY_INVOKER_SINCE:
            return
        rows = read_rows(self.connection, "row_security", schema=schema)
        if rows:
            names = ", ".join(f"{schema}.{row['name']}" for row in rows)
            raise RefusedError(
                f"revision {revision!r}: row security of {names} would not hold for clients of a version: views "
                "keep it from PostgreSQL 15 on only; nothing was changed",
                code="ZD242",
                revision=revision,
                table=f"{schema}.{rows[0]['name']}",
            )

    def statements(self, revision: str, schemas: Sequence[str]) -> list[str]:
        """Return the statements that publish *revision*; an earlier tombstone of it goes first."""
        statements: list[str] = []
        with qualified_names(self.connection):
            for schema in schemas:
                self._check_row_security(revision, schema)
                name = self.view_schema(revision, schema)
                # Types of this version wait here already.
                held = self._holds_types(name)
                statements += self._clear(name)[: -1 if held else None]
                statements += render_schema(self.schema(revision, schema))[1 if held else 0 :]
                statements += self._views(name, schema)
        return statements

    def schema(self, revision: str, schema: str) -> VersionSchema:
        """Return the version schema of *revision* for the tables of *schema*, with the rights on that one."""
        grants = tuple(Grant(**row) for row in read_rows(self.connection, "schema_grants", schema=schema))
        return VersionSchema(self.view_schema(revision, schema), revision, schema, grants)

    def _views(self, view_schema: str, schema: str) -> list[str]:
        levels = {f.relation: len(f.levels) for f in self.flights}
        default_grants = self._default_grants()
        return [
            text
            for view in self.views(view_schema, schema, levels, self._read_facts)
            for text in render_view(replace(view, default_grants=default_grants))
        ]

    def _read_facts(self, flight: Flight) -> TableFacts:
        return read_facts(self.connection, flight.schema, flight.name)

    def views(
        self, view_schema: str, schema: str, levels: Mapping[int, int], facts_of: Callable[[Flight], TableFacts]
    ) -> Iterator[VersionView]:
        """Yield the views of a version.

        :param levels: for the tables that this project has in flight, which level the version shows, by their oid.
        """
        flights = {f.relation: f for f in (*self.flights, *self.others)}
        for row in read_rows(self.connection, "schema_views", schema=schema):
            if (schema, row["name"]) in self.hidden:
                continue
            flight = flights.get(row["oid"])
            level = levels.get(row["oid"], 0)
            if flight is None:
                yield self._plain_view(view_schema, schema, row)
            elif level in flight.shown_levels and not any(one.dropped for one in flight.levels[:level]):
                yield view_of_flight(view_schema, flight, level, facts_of(flight), self.server_version)

    def _plain_view(self, view_schema: str, schema: str, row: Mapping[str, Any]) -> VersionView:
        facts = TableFacts(
            oid=row["oid"],
            schema=schema,
            name=row["name"],
            owner=row["owner"],
            kind="r",
            blocks=0,
            rows=0,
            grants=tuple(Grant(*entry) for entry in row["grants"]),
            column_grants=tuple(Grant(*entry) for entry in row["column_grants"]),
            row_security=row["row_security"],
        )
        comments = dict(row["columns"])
        # A contract leaves copied columns at the table's end; clients go on seeing them where they were.
        order = (
            read_column_order(self.connection, self.view_schema(self.latest, schema), row["name"])
            if self.latest
            else []
        )
        columns = [ViewColumn(name, name, comment=comments[name]) for name in in_order(list(comments), order)]
        return view_of_table(view_schema, facts, columns, row["comment"], self.server_version)

    def _default_grants(self) -> bool:
        return bool(read_rows(self.connection, "default_grants")[0]["found"])

    def prune(self, view_schema: str) -> list[str]:
        """Return the statements that remove a tombstone, none if there is none, or if a version is on its way there."""
        return [] if self._holds_types(view_schema) else self._clear(view_schema)

    def _holds_types(self, view_schema: str) -> bool:
        return bool(read_rows(self.connection, "schema_types", schema=view_schema))

    def _clear(self, view_schema: str) -> list[str]:
        rows = read_rows(self.connection, "schema_comment", schema=view_schema)
        if not rows or not (rows[0]["comment"] or "").startswith(TOMBSTONE_COMMENT):
            return []
        views = [row["name"] for row in read_rows(self.connection, "views", schema=view_schema)]
        return render_prune(view_schema, views)

    def tomb_functions(self, revision: str, schemas: Sequence[str], successor: str) -> list[str]:
        """Return the functions of a version's tombstones; they must be there before the first table's."""
        return [
            text
            for schema in self._existing(revision, schemas)
            for text in render_tomb_functions(self.view_schema(revision, schema), revision, successor)
        ]

    def drop_tomb_functions(self, revision: str, schemas: Sequence[str]) -> list[str]:
        """Return the statements that remove those functions again, as long as no tombstone calls them."""
        return [
            text
            for schema in self._existing(revision, schemas)
            for text in render_drop_tomb_functions(self.view_schema(revision, schema))
        ]

    def bury(
        self,
        revision: str,
        schemas: Sequence[str],
        successor: str,
        handled: Mapping[str, Sequence[str]],
        migration: int = 0,
    ) -> list[str]:
        """Return the statements that end a version: tombstones for all its remaining views.

        :param handled: by version schema, views that a table's own step has buried already.
        :param migration: the version's number, by which tables in flight know what it sees.
        """
        statements: list[str] = []
        for schema in self._existing(revision, schemas):
            name = self.view_schema(revision, schema)
            for row in read_rows(self.connection, "views", schema=name):
                if row["name"] not in handled.get(name, ()):
                    statements += self._bury_view(name, schema, row["name"])
                    statements += self._drop_inner(name, schema, row["name"], migration)
            statements += render_bury(name, revision, successor)
        return statements

    def _bury_view(self, view_schema: str, schema: str, name: str) -> list[str]:
        try:
            spec = read_spec(self.connection, schema, name)
        except LookupError:
            spec = read_spec(self.connection, view_schema, name)
        view = read_spec(self.connection, view_schema, name)
        names = {c.name for c in view.columns}
        usable = tuple(i for i in spec.indexes if set(i.columns) <= names)
        table = ident(JOURNAL_SCHEMA, tomb_table(view_schema, name))
        return [
            f"DROP VIEW IF EXISTS {ident(view_schema, name)}",
            f"DROP TABLE IF EXISTS {table}",
            *tombstone_of(view_schema, replace(view, indexes=usable)),
        ]

    def _drop_inner(self, view_schema: str, schema: str, name: str, migration: int) -> list[str]:
        for flight in self.flights:
            level = flight.level_of(migration)
            tag = flight.tag_at(level)
            if tag is not None and (flight.schema, flight.spec_at(level).name) == (schema, name):
                return [f"DROP VIEW IF EXISTS {ident(JOURNAL_SCHEMA, inner_name(flight.id, tag, view_schema))}"]
        return []

    def _existing(self, revision: str, schemas: Sequence[str]) -> list[str]:
        return [
            schema
            for schema in schemas
            for row in read_rows(self.connection, "schema_comment", schema=self.view_schema(revision, schema))
            if not (row["comment"] or "").startswith(TYPES_COMMENT)
        ]


def _advice(comment: str | None) -> str:
    """Return what to do about a live version schema that another project must have made."""
    if not (comment or "").startswith(VERSION_COMMENT):
        return ""
    return (
        ": another project of this database, with another version table, has a revision of that id; give this one a "
        "name with alembic_zero.configure(zd_project=...) and pin_engine(project=...)"
    )
