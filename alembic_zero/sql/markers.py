"""What a row's marker says, as SQL conditions; and comparisons that name their operator's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.lens.lens import QUARANTINE_OFFSET

if TYPE_CHECKING:
    from alembic_zero.lens.lens import Flight


def eq(left: str, right: str) -> str:
    """Return a comparison by = that no search_path can change."""
    return f"{left} OPERATOR(pg_catalog.=) {right}"


def lt(left: str, right: str) -> str:
    """Return a comparison by < that no search_path can change."""
    return f"{left} OPERATOR(pg_catalog.<) {right}"


def le(left: str, right: str) -> str:
    """Return a comparison by <= that no search_path can change."""
    return f"{left} OPERATOR(pg_catalog.<=) {right}"


def ge(left: str, right: str) -> str:
    """Return a comparison by >= that no search_path can change."""
    return f"{left} OPERATOR(pg_catalog.>=) {right}"


def done_condition(flight: Flight, marker: str) -> str:
    """Return SQL that is true for a marker that says: synchronised through the newest level."""
    generation = flight.backfilled_generation()
    carried = [-QUARANTINE_OFFSET - n.generation for n in flight.levels if n.quarantines and not n.ups]
    codes = ", ".join(map(str, carried))
    kept = f"COALESCE({marker} OPERATOR(pg_catalog.<>) ALL (ARRAY[{codes}]), true)" if codes else "true"
    if generation is None:
        return kept
    done = f"COALESCE({ge(marker, str(generation))} OR {lt(marker, str(-QUARANTINE_OFFSET - generation))}, false)"
    return done if not codes else f"({done} AND {kept})"


def quarantine_codes(flight: Flight) -> tuple[int, ...]:
    """Return the markers of rows that some level of this flight could not derive."""
    return tuple(-QUARANTINE_OFFSET - level.generation for level in flight.levels if level.quarantines)


def todo_condition(flight: Flight, marker: str) -> str:
    """Return SQL that is true for a row that the backfill has still to visit."""
    codes = ", ".join(map(str, quarantine_codes(flight)))
    if not codes:
        return "false"
    if flight.backfilled_generation() is None:
        return "false"
    return f"NOT {done_condition(flight, marker)} AND ({marker} IS NULL OR {marker} NOT IN ({codes}))"


def quarantined_condition(flight: Flight, marker: str) -> str:
    """Return SQL that is true for a quarantined row."""
    codes = ", ".join(map(str, quarantine_codes(flight)))
    return f"{marker} IN ({codes})" if codes else "false"
