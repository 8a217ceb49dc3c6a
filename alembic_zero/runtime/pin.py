"""Tie an application's engine to the schema version that the application was built for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

from alembic_zero.errors import PinError
from alembic_zero.names import TOMBSTONE_COMMENT, VERSION_COMMENT, client_name, revision_setting, version_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor

REVISION_VARIABLE = "ALEMBIC_ZERO_REVISION"

# The engine's own execution options remember the pin: they survive dispose(), and
# engines derived with Engine.execution_options() inherit them.
_OPTION = "alembic_zero_pin"

# Comments of the schemas on the path tell whether somebody put a version schema there already.
_READ_SESSION = """\
SELECT current_schema(),
       current_setting('search_path'),
       current_setting('application_name'),
       ARRAY(
           SELECT n.nspname::text
           FROM pg_catalog.pg_namespace AS n
           WHERE n.nspname = ANY (current_schemas(false))
             AND starts_with(pg_catalog.obj_description(n.oid, 'pg_namespace'), %s)
           ORDER BY n.nspname
       )"""

_READ_VERSION_SCHEMA = """\
SELECT coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), ''),
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')
FROM pg_catalog.pg_namespace AS n
WHERE n.nspname = %s"""

_SET_SESSION = """\
SELECT pg_catalog.set_config('search_path', %s, false),
       pg_catalog.set_config('alembic_zero.revision', %s, false),
       pg_catalog.set_config('application_name', %s, false)"""


@dataclass(frozen=True)
class _Pin:
    """What an engine is pinned to."""

    revision: str
    schema: str | None
    schemas: tuple[str, ...]
    project: str | None = None

    def view_schema(self, schema: str) -> str:
        """Return the version schema for the tables of *schema*."""
        return version_schema(self.revision, schema, self.project)


def pin_engine(
    engine: Engine,
    revision: str | None = None,
    *,
    script_location: str | Path | None = None,
    schema: str | None = None,
    schemas: Sequence[str] = (),
    project: str | None = None,
) -> Engine:
    """Pin *engine*, in place, to one revision's version schema, and return it.

    Every new connection puts the version schema first on its ``search_path``, for the
    whole session, and checks that it is there, live and usable; a connection that would
    fall through to the tables themselves is never handed out. For direct connections and
    poolers in session mode.

    Pin before the engine's first connection. Do not create tables through a pinned engine:
    ``metadata.create_all()`` would put them into the version schema (ordinary roles lack
    CREATE there, a superuser does not).

    :param revision: the revision; else the single head of *script_location*; else the
        environment variable ``ALEMBIC_ZERO_REVISION``.
    :param script_location: Alembic's migrations folder; only this way imports Alembic.
    :param schema: the schema of the models that name none; the connection's
        ``current_schema()`` if left out.
    :param schemas: schemas that models name with ``schema=``; they are translated to their
        version schemas by ``schema_translate_map`` (which leaves ``text()`` alone).
    :param project: what env.py gives to ``alembic_zero.configure`` as ``zd_project``, if it does.
    :raises PinError: at once if the engine cannot be pinned, at connect if the version
        schema is missing, completed away or out of reach.
    """
    _check_engine(engine)
    pin = _Pin(_find_revision(revision, script_location), schema, tuple(schemas), project)
    options = engine.get_execution_options()
    earlier: _Pin | None = options.get(_OPTION)
    if earlier is not None:
        _check_same_pin(earlier, pin)
        return engine
    translate = _translate_map(options.get("schema_translate_map") or {}, pin)

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        _pin_connection(connection, pin)

    event.listen(engine, "connect", on_connect)
    engine.update_execution_options(**{_OPTION: pin})
    if translate:
        engine.update_execution_options(schema_translate_map=translate)
    return engine


def _check_engine(engine: object) -> None:
    """Raise unless *engine* is a synchronous SQLAlchemy engine on psycopg 3."""
    if not isinstance(engine, Engine):
        kind = type(engine).__name__
        # Told by a name, not by isinstance: importing sqlalchemy.ext.asyncio costs every application.
        later = "asynchronous engines come later" if kind == "AsyncEngine" else "a SQLAlchemy Engine is needed"
        raise PinError(f"cannot pin {kind!r}: {later}", code="ZD601")
    dialect = engine.dialect
    if dialect.name != "postgresql":
        raise PinError(f"cannot pin an engine for {dialect.name!r}: only PostgreSQL has versions", code="ZD601")
    if dialect.is_async:
        raise PinError("cannot pin an asynchronous engine: they come later", code="ZD601")
    if dialect.driver != "psycopg":
        raise PinError(
            f"cannot pin an engine with driver {dialect.driver!r}: other drivers than psycopg come later; "
            "use a URL that starts with 'postgresql+psycopg://'",
            code="ZD601",
        )


def _find_revision(revision: str | None, script_location: str | Path | None) -> str:
    if revision is None and script_location is not None:
        revision = _single_head(script_location)
    if revision is None:
        revision = os.environ.get(REVISION_VARIABLE)
    if not revision:
        raise PinError(
            "no revision to pin to: give revision= or script_location=, "
            f"or set the environment variable {REVISION_VARIABLE}",
            code="ZD602",
        )
    return revision


def _single_head(script_location: str | Path) -> str:
    # Late: an application that is told its revision need not have Alembic loaded.
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(script_location).replace("%", "%%"))
    heads = ScriptDirectory.from_config(config).get_heads()
    if len(heads) != 1:
        found = ", ".join(map(repr, sorted(heads))) or "none"
        raise PinError(
            f"script_location {str(script_location)!r} has not exactly one head (found: {found}); give revision=",
            code="ZD602",
        )
    return heads[0]


def _check_same_pin(earlier: _Pin, pin: _Pin) -> None:
    if earlier.revision != pin.revision:
        raise PinError(
            f"the engine is already pinned to revision {earlier.revision!r}; it stays so, "
            f"use another engine for {pin.revision!r}",
            code="ZD603",
            revision=pin.revision,
        )
    if earlier != pin:
        raise PinError(
            f"the engine is already pinned to revision {pin.revision!r} with other schemas or another project",
            code="ZD603",
            revision=pin.revision,
        )


def _translate_map(existing: Mapping[str | None, str | None], pin: _Pin) -> dict[str | None, str | None]:
    """Return *existing* with an entry for each of the pin's schemas; raise if one is taken."""
    taken = sorted(set(pin.schemas) & {key for key in existing if key is not None})
    if taken:
        raise PinError(
            f"the engine's schema_translate_map already translates {', '.join(map(repr, taken))}",
            code="ZD603",
            revision=pin.revision,
        )
    return {**existing, **{name: pin.view_schema(name) for name in pin.schemas}}


def _pin_connection(connection: DBAPIConnection, pin: _Pin) -> None:
    """Pin a new DBAPI connection; close it if that fails, as the pool does not."""
    try:
        # What an earlier listener left open would be undone by the first rollback, and autocommit
        # can be switched only between transactions.
        connection.commit()
        autocommit = connection.autocommit
        # With autocommit, so that no rollback, the pool's least of all, undoes the settings.
        connection.autocommit = True
        try:
            cursor = connection.cursor()
            try:
                _pin_session(cursor, pin)
            finally:
                cursor.close()
        finally:
            connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise


def _pin_session(cursor: DBAPICursor, pin: _Pin) -> None:
    current_schema, path, application_name, others = _one_row(cursor, _READ_SESSION, ("alembic_zero: ",))
    default_schema = pin.schema or current_schema
    _check_path(pin, default_schema, others, path)
    target = pin.view_schema(default_schema)
    for name in [target, *map(pin.view_schema, pin.schemas)]:
        _check_version_schema(cursor, pin.revision, name)
    # The rest of the path stays as it is written, "$user" and all: types and functions live there.
    new_path = f'"{target}", {path}' if path.strip() else f'"{target}"'
    own_name = client_name(application_name, pin.revision, default_schema, pin.project)
    _one_row(cursor, _SET_SESSION, (new_path, revision_setting(pin.revision, pin.project), own_name))
    (effective,) = _one_row(cursor, "SELECT current_schema()", ())
    if effective != target:
        raise PinError(
            f"revision {pin.revision!r}: current_schema() is {effective!r}, not {target!r}, although "
            "search_path has been set; is there a pooler in transaction mode in between?",
            code="ZD608",
            revision=pin.revision,
        )


def _check_path(pin: _Pin, default_schema: str | None, others: Sequence[str], path: str) -> None:
    """Raise if the connection's own search_path leaves no one schema to be the default."""
    if others:
        raise PinError(
            f"revision {pin.revision!r}: the connection's search_path already holds the version schema "
            f"{', '.join(map(repr, others))}; remove it from the URL, the role or the database",
            code="ZD608",
            revision=pin.revision,
        )
    if default_schema is None:
        raise PinError(
            f"revision {pin.revision!r}: search_path {path!r} holds no schema that exists and is usable; give schema=",
            code="ZD608",
            revision=pin.revision,
        )


def _check_version_schema(cursor: DBAPICursor, revision: str, name: str) -> None:
    """Raise unless the version schema *name* exists, is live, and may be used by this role."""
    cursor.execute(_READ_VERSION_SCHEMA, (name,))
    row = cursor.fetchone()
    if row is None:
        raise PinError(
            f"revision {revision!r} has no version schema {name!r} in this database: it has not been "
            "migrated to yet, or has been completed away (alembic zd-status tells)",
            code="ZD604",
            revision=revision,
            next_command=f"alembic upgrade {revision}",
        )
    comment, usable = row
    if comment.startswith(TOMBSTONE_COMMENT):
        raise PinError(
            f"revision {revision!r} is no longer served: {name!r} is a tombstone "
            f"({comment!r}); deploy an application for a live revision",
            code="ZD606",
            revision=revision,
            next_command="alembic zd-status",
        )
    if not comment.startswith(VERSION_COMMENT):
        raise PinError(
            f"revision {revision!r}: schema {name!r} is not a version schema of alembic_zero "
            f"(its comment is {comment!r})",
            code="ZD607",
            revision=revision,
            next_command="alembic zd-status",
        )
    if not usable:
        raise PinError(
            f"revision {revision!r}: this role has no USAGE on version schema {name!r}, PostgreSQL would "
            "skip it silently; grant the role what it has on the schema itself, then publish again",
            code="ZD605",
            revision=revision,
            next_command=f"alembic upgrade {revision}",
        )


def _one_row(cursor: DBAPICursor, sql: str, parameters: tuple[Any, ...]) -> Any:
    cursor.execute(sql, parameters)
    return cursor.fetchone()
