"""Version schemas: auto-updatable views over the base tables, and tombstones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alembic_zero.names import JOURNAL_SCHEMA, MARKER, internal_name
from alembic_zero.sql.ddl import close_schema, give_to, revoke_everything, revoke_from_all
from alembic_zero.sql.quoting import dollar_quoted, grantee, ident, idents, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic_zero.catalog.snapshot import Grant, TableFacts
    from alembic_zero.lens.lens import Flight

SECURITY_INVOKER_SINCE = 15


@dataclass(frozen=True)
class ViewColumn:
    """One column of a version's view; *default* is set on the view only where it differs from the base."""

    physical: str
    logical: str
    default: str | None = None
    comment: str | None = None


@dataclass(frozen=True)
class VersionView:
    """A logical table as one version sees it.

    :param default_grants: whether ALTER DEFAULT PRIVILEGES may give rights on new views.
    :param inner: name of the marker-carrying view below the visible one, None for a plain view.
    :param tag: the inner view's marker default.
    """

    schema: str
    name: str
    base: tuple[str, str]
    owner: str
    columns: tuple[ViewColumn, ...]
    grants: tuple[Grant, ...]
    column_grants: tuple[Grant, ...] = ()
    owner_rights: bool = False
    inner: str | None = None
    tag: int | None = None
    comment: str | None = None
    default_grants: bool = False


@dataclass(frozen=True)
class VersionSchema:
    """A version's schema for one base schema, with all its views."""

    name: str
    revision: str
    base_schema: str
    grants: tuple[Grant, ...]
    views: tuple[VersionView, ...] = field(default=())


def uses_owner_rights(facts: TableFacts, version: int) -> bool:
    """Return whether a table's views check rights as its owner and not as whoever asks.

    With column privileges they must: an invoker needs a right on every column that a view reads. Row security
    they would pass by, so with both the view is the invoker's: whoever has only column privileges is denied.
    """
    return version < SECURITY_INVOKER_SINCE or (bool(facts.column_grants) and not facts.row_security)


def inner_name(oid: int, level_tag: int, view_schema: str) -> str:
    """Return the name of the inner view of a table for one version."""
    return internal_name("v", str(oid), str(-level_tag), view_schema)


def view_of_table(
    view_schema: str, facts: TableFacts, columns: Sequence[ViewColumn], comment: str | None, version: int
) -> VersionView:
    """Return the one-deep view of a table that is not in flight."""
    return VersionView(
        schema=view_schema,
        name=facts.name,
        base=(facts.schema, facts.name),
        owner=facts.owner,
        columns=tuple(columns),
        grants=facts.grants,
        column_grants=facts.column_grants,
        owner_rights=uses_owner_rights(facts, version),
        comment=comment,
    )


def view_of_flight(view_schema: str, flight: Flight, level: int, facts: TableFacts, version: int) -> VersionView:
    """Return the view of a table in flight at one of its levels."""
    tag = flight.tag_at(level)
    spec = flight.spec_at(level)
    return VersionView(
        schema=view_schema,
        name=spec.name,
        base=(flight.schema, flight.name),
        owner=facts.owner,
        columns=tuple(
            ViewColumn(str(cell.physical), column.name, _view_default(flight, level, column.name), column.comment)
            for column, cell in flight.columns_at(level)
        ),
        grants=facts.grants,
        column_grants=facts.column_grants,
        owner_rights=uses_owner_rights(facts, version),
        inner=None if tag is None else inner_name(flight.id, tag, view_schema),
        tag=tag,
        comment=spec.comment,
    )


def _view_default(flight: Flight, level: int, name: str) -> str | None:
    """Return the default that the view must carry because a shared cell's base default is another."""
    cell_id = dict(flight.shape_at(level))[name]
    column = flight.spec_at(level).column(name)
    assert column is not None  # noqa: S101 - shape and spec name the same columns
    first = next(n for n in range(level + 1) if any(c == cell_id for _, c in flight.shape_at(n)))
    origin_name = next(n for n, c in flight.shape_at(first) if c == cell_id)
    origin = flight.spec_at(first).column(origin_name)
    if origin is None or column.generated or origin.default == column.default:
        return None
    # A bare NULL is no default to PostgreSQL: the base table's would apply.
    return column.default or f"CASE WHEN true THEN NULL::{column.type} END"


def _options(view: VersionView) -> str:
    return "" if view.owner_rights else " WITH (security_invoker = true)"


def _select(source: str, columns: Sequence[tuple[str, str]]) -> str:
    listed = ", ".join(f"{ident(p)} AS {ident(n)}" if p != n else ident(n) for p, n in columns)
    return f"SELECT {listed} FROM {source}"


def render_view(view: VersionView) -> list[str]:
    """Return the statements that create a view with its defaults, rights and comments."""
    outer = ident(view.schema, view.name)
    columns = [(c.physical, c.logical) for c in view.columns]
    statements = []
    source = ident(*view.base)
    if view.inner is not None:
        statements += _render_inner(view, columns)
        source = ident(JOURNAL_SCHEMA, view.inner)
        columns = [(name, name) for _, name in columns]
    statements.append(f"CREATE VIEW {outer}{_options(view)} AS {_select(source, columns)}")
    statements += [
        f"ALTER VIEW {outer} ALTER COLUMN {ident(c.logical)} SET DEFAULT {c.default}" for c in view.columns if c.default
    ]
    statements += _render_rights(view, (view.schema, view.name)) + _render_comments(view, outer)
    return statements


def _render_inner(view: VersionView, columns: Sequence[tuple[str, str]]) -> list[str]:
    inner = ident(JOURNAL_SCHEMA, str(view.inner))
    select = _select(ident(*view.base), [*columns, (MARKER, MARKER)])
    return [
        f"CREATE VIEW {inner}{_options(view)} AS {select}",
        f"ALTER VIEW {inner} ALTER COLUMN {ident(MARKER)} SET DEFAULT {view.tag}",
        *_render_rights(view, (JOURNAL_SCHEMA, str(view.inner))),
    ]


def _render_rights(view: VersionView, name: tuple[str, str]) -> list[str]:
    statements = [revoke_from_all(ident(*name))] if view.default_grants else []
    if view.owner_rights:
        statements.append(give_to("VIEW", *name, view.owner))
    return statements + _render_grants(view, name)


def _render_grants(view: VersionView, name: tuple[str, str]) -> list[str]:
    return [
        f"GRANT {g.privilege}{f' ({ident(g.column)})' if g.column else ''} ON {ident(*name)} TO {grantee(g.grantee)}"
        f"{' WITH GRANT OPTION' if g.grantable else ''}"
        for g in rights_of(view)
    ]


def rights_of(view: VersionView) -> list[Grant]:
    """Return what a view grants, by the names of its own columns."""
    by_physical = {c.physical: c.logical for c in view.columns}
    columns = [g for g in view.column_grants if g.column in by_physical and g.privilege != "REFERENCES"]
    granted = [*view.grants, *(replace(g, column=by_physical[str(g.column)]) for g in columns)]
    # A table's owner may pass on what it has; the view's owner is whoever migrates.
    return [replace(g, grantable=g.grantable or g.grantee == view.owner) for g in granted]


def render_regrant(view: VersionView, name: tuple[str, str], *, owner_rights: bool) -> list[str]:
    """Return the statements that give a view the rights of its table anew, and nobody any other.

    :param name: schema and name of the visible view, or of the inner one.
    :param owner_rights: whose rights it uses so far; a change takes ACCESS EXCLUSIVE on the view.
    """
    text = ident(*name)
    statements = [revoke_everything(text)]
    if view.owner_rights and not owner_rights:
        statements += [f"ALTER VIEW {text} RESET (security_invoker)", give_to("VIEW", *name, view.owner)]
    elif owner_rights and not view.owner_rights:
        statements.append(f"ALTER VIEW {text} SET (security_invoker = true)")
    return statements + _render_grants(view, name)


def render_regrant_schema(schema: VersionSchema) -> list[str]:
    """Return the statements that give a version schema the rights of its base schema anew."""
    return [close_schema(schema.name), *_render_schema_grants(schema)]


def _render_comments(view: VersionView, name: str) -> list[str]:
    statements = [f"COMMENT ON VIEW {name} IS {literal(view.comment)}"] if view.comment else []
    return statements + [
        f"COMMENT ON COLUMN {name}.{ident(c.logical)} IS {literal(c.comment)}" for c in view.columns if c.comment
    ]


def render_flattened(view: VersionView) -> list[str]:
    """Return the statements that put a two-deep view straight on the base table.

    ``CREATE OR REPLACE VIEW`` keeps defaults and rights, but drops security_invoker unless it is
    said again; column names and types do not change, so prepared statements go on.
    """
    columns = [(c.physical, c.logical) for c in view.columns]
    name = ident(view.schema, view.name)
    return [f"CREATE OR REPLACE VIEW {name}{_options(view)} AS {_select(ident(*view.base), columns)}"]


def render_schema(schema: VersionSchema) -> list[str]:
    """Return the statements that create a version schema, without its views."""
    name = ident(schema.name)
    comment = f"alembic_zero: version {schema.revision} of {schema.base_schema}"
    return [
        f"CREATE SCHEMA {name}",
        f"COMMENT ON SCHEMA {name} IS {literal(comment)}",
        close_schema(schema.name),
        *_render_schema_grants(schema),
    ]


def _render_schema_grants(schema: VersionSchema) -> list[str]:
    return [
        f"GRANT USAGE ON SCHEMA {ident(schema.name)} TO {grantee(g.grantee)}"
        f"{' WITH GRANT OPTION' if g.grantable else ''}"
        for g in schema.grants
    ]


# -- tombstones ---------------------------------------------------------------------------------


def tomb_comment(revision: str, successor: str) -> str:
    """Return the comment that marks a schema as a tombstone."""
    return f"alembic_zero: tombstone of version {revision}, use {successor}"


def _tomb_names(view_schema: str) -> tuple[str, str]:
    return internal_name("tomb", view_schema), internal_name("tomb_dml", view_schema)


def render_tomb_functions(view_schema: str, revision: str, successor: str) -> list[str]:
    """Return the functions by which a tombstone raises.

    STABLE, so that the view's condition becomes a one-time filter that is called even over an
    empty table; the statement trigger catches what writes without reading.
    """
    message = (
        f"version {revision} of this database is gone (schema {view_schema}): "
        f"deploy the application for revision {successor}"
    )
    read, write = _tomb_names(view_schema)
    body = dollar_quoted(f"BEGIN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = {literal(message)}; END")
    reading, writing = ident(JOURNAL_SCHEMA, read), ident(JOURNAL_SCHEMA, write)
    return [
        f"CREATE OR REPLACE FUNCTION {reading}() RETURNS boolean LANGUAGE plpgsql STABLE AS {body}",
        f"CREATE OR REPLACE FUNCTION {writing}() RETURNS trigger LANGUAGE plpgsql AS {body}",
        f"GRANT EXECUTE ON FUNCTION {ident(JOURNAL_SCHEMA, read)}() TO PUBLIC",
    ]


def render_drop_tomb_functions(view_schema: str) -> list[str]:
    """Return the statements that remove the functions of a tombstone."""
    return [f"DROP FUNCTION IF EXISTS {ident(JOURNAL_SCHEMA, name)}()" for name in _tomb_names(view_schema)]


def tomb_table(view_schema: str, name: str) -> str:
    """Return the name of the empty table behind a tombstone view."""
    return internal_name("tomb", view_schema, name)


def _tomb_trigger(table: str, function: str) -> str:
    events = "BEFORE INSERT OR UPDATE OR DELETE"
    return f"CREATE TRIGGER tombstone {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"


def render_tombstone(view_schema: str, name: str, columns: Sequence[tuple[str, str]], keys: Sequence[str]) -> list[str]:
    """Return the statements that replace a dropped view by one that raises.

    :param columns: (name, type) pairs.
    :param keys: definitions of unique indexes, from ``USING`` on, for ON CONFLICT to find.
    """
    read, write = _tomb_names(view_schema)
    table = ident(JOURNAL_SCHEMA, tomb_table(view_schema, name))
    view = ident(view_schema, name)
    listed = ", ".join(f"{ident(column)} {type_}" for column, type_ in columns)
    names = idents(column for column, _ in columns)
    select = f"SELECT {names} FROM {table} WHERE {ident(JOURNAL_SCHEMA, read)}()"
    return [
        f"CREATE TABLE {table} ({listed})",
        revoke_from_all(table),
        *(f"CREATE UNIQUE INDEX ON {table} {key}" for key in keys),
        _tomb_trigger(table, ident(JOURNAL_SCHEMA, write)),
        # A barrier, so that the condition stays with the scan: as a join's condition, on the optional side of an outer
        # join, it would wait for a row of the empty table.
        f"CREATE VIEW {view} WITH (security_barrier) AS {select}",
        revoke_from_all(view),
        # Whoever still asks must meet the explanation, not a missing right: the table is empty.
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {view} TO PUBLIC",
    ]


def render_bury(view_schema: str, revision: str, successor: str) -> list[str]:
    """Return the statement that marks a schema, all of whose views are tombstones, as one itself."""
    return [f"COMMENT ON SCHEMA {ident(view_schema)} IS {literal(tomb_comment(revision, successor))}"]


def render_prune(view_schema: str, views: Sequence[str]) -> list[str]:
    """Return the statements that remove a tombstone, never CASCADE over what is not ours."""
    return [
        *(f"DROP VIEW IF EXISTS {ident(view_schema, name)}" for name in views),
        *(f"DROP TABLE IF EXISTS {ident(JOURNAL_SCHEMA, tomb_table(view_schema, name))}" for name in views),
        *render_drop_tomb_functions(view_schema),
        f"DROP SCHEMA IF EXISTS {ident(view_schema)}",
    ]
