"""Read pg_catalog into plain data."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from alembic_zero.catalog.snapshot import (
    Check,
    Column,
    ForeignKey,
    Grant,
    Identity,
    Index,
    LiveForeignKey,
    Server,
    Statistics,
    TableFacts,
    TableSpec,
    Trigger,
)
from alembic_zero.catalog.surroundings import Publication

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection

_PARAMETER_GRANTS_SINCE = 15


_COLUMN_LISTS_SINCE = 15


@cache
def _queries() -> dict[str, str]:
    folder = resources.files("alembic_zero.catalog")
    source = "\n".join(folder.joinpath(f"{name}.sql").read_text("utf-8") for name in ("queries", "preflight"))
    blocks = re.split(r"^-- name: (\w+)\n", source, flags=re.MULTILINE)[1:]
    # text() would take a cast or a regular expression's colon for a bind parameter.
    return {
        name: re.sub(r"(?<!:):(?!:|oid\b|pid\b|schema\b|class\b|key\b|names?\b)", r"\:", body)
        for name, body in zip(blocks[::2], blocks[1::2], strict=True)
    }


def read_rows(connection: Connection, query: str, **parameters: Any) -> Sequence[Mapping[str, Any]]:
    """Return the rows of the named query in ``queries.sql``.

    :param parameters: its bind parameters.
    """
    rows = connection.execute(text(_queries()[query]), parameters).mappings().all()
    return [dict(row) for row in rows]


@contextmanager
def qualified_names(connection: Connection) -> Iterator[None]:
    """Make the server deparse every name with its schema, for the time of the block.

    Needs an open transaction: the setting is local to it.
    """
    before = connection.execute(text("SELECT current_setting('search_path')")).scalar_one()
    connection.execute(text("SELECT set_config('search_path', 'pg_catalog', true)"))
    yield
    connection.execute(text("SELECT set_config('search_path', :path, true)"), {"path": before})


def read_server(connection: Connection) -> Server:
    """Return version, timeouts and what the current role may do."""
    row = dict(read_rows(connection, "server")[0])
    if row["version"] >= _PARAMETER_GRANTS_SINCE and not row["may_set_replication_role"]:
        row["may_set_replication_role"] = read_rows(connection, "may_set_replication_role")[0]["granted"]
    return Server(**row)


def find_table(connection: Connection, schema: str, name: str) -> int | None:
    """Return the oid of the relation, None if there is none."""
    rows = read_rows(connection, "table", schema=schema, name=name)
    return rows[0]["oid"] if rows else None


def read_column_order(connection: Connection, schema: str, name: str) -> list[str]:
    """Return the column names of a relation in order, nothing if there is no such relation."""
    oid = find_table(connection, schema, name)
    return [] if oid is None else [row["name"] for row in read_rows(connection, "columns", oid=oid)]


def in_order(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return *names* as they stand in *order*, those that it does not know at the end."""
    known = [name for name in order if name in names]
    return known + [name for name in names if name not in known]


def read_spec(connection: Connection, schema: str, name: str) -> TableSpec:
    """Return the logical description of a table, every name in it qualified.

    :raises LookupError: there is no such table.
    """
    with qualified_names(connection):
        rows = read_rows(connection, "table", schema=schema, name=name)
        if not rows:
            raise LookupError(f"{schema}.{name}")
        oid = rows[0]["oid"]
        return TableSpec(
            schema=schema,
            name=name,
            columns=_columns(connection, oid),
            checks=tuple(
                Check(**{**row, "columns": tuple(row["columns"])}) for row in read_rows(connection, "checks", oid=oid)
            ),
            indexes=tuple(_index(row) for row in read_rows(connection, "indexes", oid=oid)),
            foreign_keys=tuple(_foreign_key(row) for row in read_rows(connection, "foreign_keys", oid=oid)),
            statistics=tuple(_statistics(row) for row in read_rows(connection, "statistics", oid=oid)),
            comment=rows[0]["comment"],
        )


def _columns(connection: Connection, oid: int) -> tuple[Column, ...]:
    volatile = {row["name"] for row in read_rows(connection, "volatile_defaults", oid=oid)}
    return tuple(_column(row, row["name"] in volatile) for row in read_rows(connection, "columns", oid=oid))


def _column(row: Mapping[str, Any], default_volatile: bool) -> Column:
    identity = None
    if row["identity"]:
        identity = Identity(
            always=row["identity"] == "a",
            sequence=row["seq_name"],
            **{
                key: row[f"seq_{key}"] for key in ("type", "start", "increment", "minimum", "maximum", "cache", "cycle")
            },
        )
    return Column(
        **{
            key: row[key]
            for key in (
                "name", "type", "collation", "not_null", "not_null_name", "default", "generated",
                "comment", "storage", "compression", "statistics_target",
            )
        },
        identity=identity,
        owned_sequence=None if identity else row["owned_sequence"],
        options=tuple(row["options"]),
        default_volatile=default_volatile,
    )  # fmt: skip


def _index(row: Mapping[str, Any]) -> Index:
    # The header names index and table, both known; what follows is the part worth keeping.
    definition = row["definition"]
    if row["constraint"] == "x":
        definition = definition.removeprefix("EXCLUDE ").removesuffix(row["constraint_suffix"])
    else:
        definition = definition[_using_position(definition, row["name"]) :]
    return Index(
        name=row["name"],
        definition=definition,
        unique=row["unique"],
        columns=tuple(row["columns"]),
        constraint=row["constraint"],
        constraint_suffix=row["constraint_suffix"],
        comment=row["constraint_comment"] if row["constraint"] else row["comment"],
        statistics=tuple(tuple(pair) for pair in row["statistics"]),
        clustered=row["clustered"],
        replica_identity=row["replica_identity"],
        keys=tuple(row["keys"]),
        predicate=row["predicate"],
        nulls_distinct=row["nulls_distinct"],
    )


_HEADER = re.compile(
    r'CREATE (?:UNIQUE )?INDEX (?:"(?:[^"]|"")*"|[^ "]+) ON (?:ONLY )?'
    r'(?:"(?:[^"]|"")*"|[^ ".]+)\.(?:"(?:[^"]|"")*"|[^ "]+) '
)


def _using_position(definition: str, name: str) -> int:
    match = _HEADER.match(definition)
    if match is None:
        raise ValueError(f"unexpected definition of index {name!r}: {definition!r}")
    return match.end()


def _foreign_key(row: Mapping[str, Any]) -> ForeignKey:
    definition = row["definition"]
    return ForeignKey(
        name=row["name"],
        columns=tuple(row["columns"]),
        suffix=definition[_references_position(definition) :],
        referenced=row["referenced"],
        comment=row["comment"],
    )


def _references_position(definition: str) -> int:
    match = re.match(r'FOREIGN KEY \((?:"(?:[^"]|"")*"|[^")])*\) ', definition)
    if match is None:
        raise ValueError(f"unexpected foreign key {definition!r}")
    return match.end()


def read_live_foreign_keys(connection: Connection, relation: int) -> list[LiveForeignKey]:
    """Return the foreign keys from and to a table, found by its oid."""
    with qualified_names(connection):
        rows = read_rows(connection, "live_foreign_keys", oid=relation)
    tuples = ("columns", "referenced_columns")
    return [LiveForeignKey(**{**row, **{key: tuple(row[key]) for key in tuples}}) for row in rows]


def _statistics(row: Mapping[str, Any]) -> Statistics:
    definition = row["definition"]
    match = re.match(r'CREATE STATISTICS (?:"(?:[^"]|"")*"|[^ ".]+)\.(?:"(?:[^"]|"")*"|[^ "]+) ', definition)
    if match is None:
        raise ValueError(f"unexpected statistics object {definition!r}")
    body = definition[match.end() :]
    return Statistics(
        schema=row["schema"],
        name=row["name"],
        definition=body[: body.rindex(" FROM ")],
        columns=tuple(row["columns"]),
        comment=row["comment"],
        target=row["target"],
    )


def read_publications(connection: Connection, oid: int) -> tuple[Publication, ...]:
    """Return the publications that carry a table; names in their filters are as the search_path lets them."""
    version = connection.execute(text("SELECT current_setting('server_version_num')::int / 10000")).scalar_one()
    rows = read_rows(connection, "publications" if version >= _COLUMN_LISTS_SINCE else "publications_14", oid=oid)
    return tuple(
        Publication(
            **{
                **row,
                "columns": None if row["columns"] is None else tuple(row["columns"]),
                "condition_columns": tuple(row["condition_columns"]),
            }
        )
        for row in rows
    )


def read_facts(connection: Connection, schema: str, name: str) -> TableFacts:
    """Return what is true of the physical table: owner, size, triggers, grants, dependents.

    :raises LookupError: there is no such table.
    """
    with qualified_names(connection):
        rows = read_rows(connection, "table", schema=schema, name=name)
        if not rows:
            raise LookupError(f"{schema}.{name}")
        fields = {key: value for key, value in rows[0].items() if key != "comment"}
        oid = fields["oid"]
        return TableFacts(
            **fields,
            triggers=tuple(
                Trigger(
                    **{
                        **row,
                        "update_columns": tuple(row["update_columns"]),
                        "arguments": tuple(
                            part.decode() for part in bytes.fromhex(row["arguments"]).split(b"\0") if part
                        ),
                    }
                )
                for row in read_rows(connection, "triggers", oid=oid)
            ),
            grants=tuple(Grant(**row) for row in read_rows(connection, "grants", oid=oid)),
            column_grants=tuple(Grant(**row) for row in read_rows(connection, "column_grants", oid=oid)),
            dependents=tuple((row["column"], row["object"]) for row in read_rows(connection, "dependents", oid=oid)),
            row_type_functions=tuple(row["function"] for row in read_rows(connection, "row_type_functions", oid=oid)),
            publications=read_publications(connection, oid),
            subscriptions=tuple(row["name"] for row in read_rows(connection, "subscriptions", oid=oid)),
            physical_names=tuple(row["name"] for row in read_rows(connection, "columns", oid=oid)),
            constraint_names=tuple(row["name"] for row in read_rows(connection, "constraint_names", oid=oid)),
            object_dependents=tuple(
                (row["name"], row["object"]) for row in read_rows(connection, "object_dependents", oid=oid)
            ),
        )
