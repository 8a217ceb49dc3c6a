"""What a row's marker says, as SQL conditions; and comparisons that name their operator's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.lens.lens import GENERATION_STRIDE, QUARANTINE_OFFSET

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    carried = [n.generation for n in flight.levels if n.quarantines and not n.ups]
    kept = f"({_quarantined_at(carried, marker)}) IS NOT TRUE" if carried else "true"
    if generation is None:
        return kept if not carried else f"({kept})"
    newer = lt(marker, str(-QUARANTINE_OFFSET - generation - GENERATION_STRIDE + 1))
    done = f"COALESCE({ge(marker, str(generation))} OR {newer}, false)"
    return done if not carried else f"({done} AND {kept})"


def _quarantined_at(generations: Sequence[int], marker: str) -> str:
    """Return SQL that is true for a row that the level of one of these generations could not derive.

    On a linked table its marker says, too, which version wrote it: a little less than the generation's own.
    """
    ranges = [
        f"{le(marker, str(-QUARANTINE_OFFSET - g))} AND {lt(str(-QUARANTINE_OFFSET - g - GENERATION_STRIDE), marker)}"
        for g in generations
    ]
    return " OR ".join(ranges)


def todo_condition(flight: Flight, marker: str) -> str:
    """Return SQL that is true for a row that the backfill has still to visit."""
    if flight.backfilled_generation() is None:
        return "false"
    return f"NOT {done_condition(flight, marker)} AND ({quarantined_condition(flight, marker)}) IS NOT TRUE"


def quarantined_condition(flight: Flight, marker: str) -> str:
    """Return SQL that is true for a quarantined row."""
    return _quarantined_at([n.generation for n in flight.levels if n.quarantines], marker) or "false"


def quarantined_below(flight: Flight, level: int, marker: str) -> str:
    """Return SQL that is true for a row that level number *level*, or one below, could not derive."""
    generations = [n.generation for n in flight.levels[:level] if n.quarantines]
    return f"COALESCE({_quarantined_at(generations, marker)}, false)" if generations else "false"
