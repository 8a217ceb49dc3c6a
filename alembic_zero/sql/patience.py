"""How a trigger waits for rows of another table: in short tries, so that no client is a deadlock's victim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.sql.markers import eq, lt
from alembic_zero.sql.quoting import dollar_quoted, ident, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCK_CLASS = 1_514_427_764


def render_plpgsql(
    name: str,
    types: Sequence[str],
    returns: str,
    body: str,
    *,
    waits: bool,
    declare: str = "",
    columns_first: bool = False,
) -> str:
    """Return CREATE OR REPLACE FUNCTION for a function that runs as the migration's role.

    :param waits: whether it waits for locks in short tries.
    :param columns_first: whether a bare name in a query may be a column's, and then is.
    """
    conflict = "#variable_conflict use_column\n" if columns_first else ""
    timeout = " SET lock_timeout = '50ms'" if waits else ""
    counter = "  tries int := 0;\n" if waits else ""
    declared = f"DECLARE\n{counter}{declare}" if counter or declare else ""
    return (
        f"CREATE OR REPLACE FUNCTION {ident(JOURNAL_SCHEMA, name)}({', '.join(types)}) RETURNS {returns} "
        f"LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT{timeout}\n"
        f"AS {dollar_quoted(f'{chr(10)}{conflict}{declared}BEGIN{chr(10)}{body}END{chr(10)}')}"
    )


def announce(key: int) -> str:
    """Return the statement by which a session says, until its transaction ends, that it may wait for the target."""
    return f"PERFORM pg_catalog.pg_advisory_xact_lock_shared({_LOCK_CLASS}, {key});\n"


def patient(attempt: str, give_way: str, condition: str, handlers: str = "", pause_s: float = 0.005) -> str:
    """Return statements that try until they get their locks, or until somebody else could not go on otherwise.

    Short waits by lock_timeout are no deadlock to the server, so no client is its victim.

    :param attempt: ends in RETURN.
    :param condition: whether to give way, after a try that has failed.
    :param handlers: for what else may go wrong.
    :param pause_s: seconds between two tries.
    """
    return (
        "LOOP\n"
        f"  BEGIN\n    {attempt}\n"
        "  EXCEPTION WHEN lock_not_available THEN\n"
        "    tries := tries OPERATOR(pg_catalog.+) 1;\n"
        f"    IF {condition} THEN\n      {give_way}\n    END IF;\n"
        # Against the order it asks without waiting: a third client's deadlock check would see a circle.
        f"    PERFORM pg_catalog.pg_sleep({pause_s});\n{handlers}"
        "  END;\nEND LOOP;\n"
    )


_WAITS_FOR_US = "pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) ANY (pg_catalog.pg_blocking_pids(l.pid))"


def waited_for(key: int) -> str:
    """Return the condition that a session which carries along a link waits for this one.

    Rows of the two tables are locked source first. Who has the target's row already must not wait for
    someone who waits for that: the other side then carries what it writes over this session's row.
    """
    announced = (
        f"{eq('l.locktype', literal('advisory'))} AND {eq('l.classid::pg_catalog.int8', str(_LOCK_CLASS))}"
        f" AND {eq('l.objid::pg_catalog.int8', str(key))} AND l.granted"
    )
    return (
        f"EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE {_WAITS_FOR_US} AND ({announced}\n"
        f"        OR (tries OPERATOR(pg_catalog.>) 4) AND {_waits_for_long()}))"
    )


def waited_for_long() -> str:
    """Return the condition that a client waits for this session, and not for a moment: as we do ourselves."""
    return f"EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE {_waits_for_long()} AND {_WAITS_FOR_US})"


def _waits_for_long() -> str:
    since = "(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => 0.15))"
    return f"NOT l.granted AND {lt('l.waitstart', since)}"
