"""Queries that compare the representations of rows in flight. They read, and call no function that does more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import GENERATION_STRIDE, QUARANTINE_OFFSET, Rule
from alembic_zero.lens.link import read_function
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.markers import quarantined_condition, todo_condition
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic_zero.lens.comparing import Arrow, Demand
    from alembic_zero.lens.lens import Flight

READ_ONLY = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

QUARANTINED, TO_DO = "quarantined", "not synchronised"


def _call(function: str, arguments: Sequence[str]) -> str:
    # Another table's value: found without holding its row.
    function = read_function(function) if function.startswith("lookup_") else function
    return render_call(JOURNAL_SCHEMA, function, arguments)


def in_blocks(first_block: int, end_block: int) -> str:
    """Return the condition for the rows of a block range."""
    first, end = literal(f"({first_block},0)"), literal(f"({end_block},0)")
    return f"t.ctid >= {first}::tid AND t.ctid < {end}::tid"


def only_row(tid: str) -> str:
    """Return the condition for the row at *tid*."""
    return f"t.ctid = {literal(tid)}::tid"


@dataclass(frozen=True)
class RowCheck:
    """Something that must be so in every synchronised row: *demand*, or *rule*, at level number *level*."""

    level: int
    demand: Demand | None = None
    rule: Rule | None = None


@dataclass(frozen=True)
class VerifySql:
    """Queries over one table.

    :param checks: what they look at, in this order.
    :param alias: the table's name in the queries.
    """

    flight: Flight
    checks: tuple[RowCheck, ...] = ()
    alias: str = "t"

    # -- expressions ----------------------------------------------------------------------

    def _column(self, cell: str) -> str:
        return f"{self.alias}.{ident(str(self.flight.cell(cell).physical))}"

    def _composer(self, level: int, *, upward: bool) -> Composer:
        edges = self.flight.levels[level - 1].ups if upward else self.flight.levels[level - 1].downs
        return Composer(self.flight, edges, _call, self._column)

    def derived(self, arrow: Arrow) -> str:
        """Return the value that an arrow's target would get now."""
        assert arrow.edge is not None  # noqa: S101 - a link's own arrows are not within a row
        value = self._composer(arrow.level, upward=arrow.upward).apply(arrow.edge)
        return f"CAST({value} AS {self.flight.cell(arrow.cell).type})"

    def stored(self, arrow: Arrow) -> str:
        """Return the value that the arrow's target has."""
        return self._column(arrow.cell)

    def holds(self, arrow: Arrow) -> str:
        """Return SQL that is true if the arrow's target is what would be derived."""
        return f"pg_catalog.record_image_eq(ROW({self.derived(arrow)}), ROW({self.stored(arrow)}))"

    def breaks(self, check: RowCheck) -> str:
        """Return SQL that is true if a row breaks the check's rule."""
        assert check.rule is not None  # noqa: S101 - of rules only
        composer = self._composer(check.level, upward=True)
        if check.rule.check is None:
            return f"{composer.value(check.rule.cells[0])} IS NULL"
        return f"({_call(str(check.rule.function), [composer.value(c) for c in check.rule.cells])}) IS FALSE"

    @property
    def marker(self) -> str:
        """The marker column."""
        return f"{self.alias}.{ident(MARKER)}"

    def reached(self, level: int) -> str:
        """Return SQL that is true for a row that is synchronised through a level."""
        reached = []
        for one in self.flight.levels[:level]:
            if one.ups:
                low = -QUARANTINE_OFFSET - one.generation - GENERATION_STRIDE + 1
                reached.append(f"COALESCE({self.marker} >= {one.generation} OR {self.marker} < {low}, false)")
        return " AND ".join(reached) or "true"

    @cached_property
    def _arrows(self) -> list[Arrow]:
        demanded = [c.demand for c in self.checks if c.demand is not None and c.demand.excuses is not None]
        found = {d.arrow: None for d in demanded}
        for demand in demanded:
            found |= {arrow: None for excuse in demand.excuses or () for arrow in sorted(excuse, key=_by_target)}
        return list(found)

    # -- the query ------------------------------------------------------------------------

    def suspects(self, leaf: tuple[str, str], first_block: int, end_block: int) -> str:
        """Return the query for rows of a block range with which something is wrong: tid, state, failed checks."""
        return self._query(leaf, in_blocks(first_block, end_block))

    def suspect(self, leaf: tuple[str, str], tid: str) -> str:
        """Return the same query for one row."""
        return self._query(leaf, only_row(tid))

    def _query(self, leaf: tuple[str, str], rows: str) -> str:
        ups, downs = ([a for a in self._arrows if a.upward is upward] for upward in (True, False))
        names = {a: f"u.a{self._arrows.index(a)}" for a in ups} | {a: f"d.a{self._arrows.index(a)}" for a in downs}
        # Computed once a row; downwards only where something upwards does not hold: it may not be meant for the rest.
        first = self._computed({a: self._reached(a.level, self.holds(a), "NULL") for a in ups}, "u")
        second = self._computed({a: self._lazily(a, [names[u] for u in ups if u.level == a.level]) for a in downs}, "d")
        failed = ", ".join(f"CASE WHEN {self._fails(check, names)} THEN {n} END" for n, check in enumerate(self.checks))
        checked = f"(SELECT pg_catalog.array_remove(ARRAY[{failed}]::pg_catalog.int4[], NULL) AS failed OFFSET 0)"
        return (
            f"SELECT t.ctid::text AS tid, {self._state()} AS state, c.failed\n"
            f"  FROM ONLY {ident(*leaf)} AS t{first}{second} CROSS JOIN LATERAL {checked} AS c\n"
            f" WHERE {rows} AND ({self._state()} IS NOT NULL OR c.failed <> '{{}}')"
        )

    def _computed(self, texts: dict[Arrow, str], alias: str) -> str:
        if not texts:
            return ""
        columns = ", ".join(f"{text} AS a{self._arrows.index(a)}" for a, text in texts.items())
        return f"\n  CROSS JOIN LATERAL (SELECT {columns} OFFSET 0) AS {alias}"

    def _lazily(self, arrow: Arrow, ups: Sequence[str]) -> str:
        unless = f"CASE WHEN {' AND '.join(ups)} THEN NULL ELSE {self.holds(arrow)} END" if ups else self.holds(arrow)
        return self._reached(arrow.level, unless, "NULL")

    def _reached(self, level: int, value: str, otherwise: str) -> str:
        """Return a value for rows that are synchronised through a level: for others it may not be computable."""
        reached = self.reached(level)
        return value if reached == "true" else f"CASE WHEN {reached} THEN {value} ELSE {otherwise} END"

    def _state(self) -> str:
        quarantined = quarantined_condition(self.flight, self.marker)
        todo = todo_condition(self.flight, self.marker)
        return f"CASE WHEN {quarantined} THEN {literal(QUARANTINED)} WHEN {todo} THEN {literal(TO_DO)} END"

    def _fails(self, check: RowCheck, names: dict[Arrow, str]) -> str:
        if check.rule is not None:
            return self._reached(check.level, self.breaks(check), "false")
        assert check.demand is not None  # noqa: S101 - one or the other
        if check.demand.excuses is None:
            return "false"
        excuses = [" AND ".join(f"{names[a]} IS TRUE" for a in excuse) for excuse in check.demand.excuses]
        excused = "".join(f" AND NOT ({excuse})" for excuse in excuses)
        return f"{self.reached(check.level)} AND {names[check.demand.arrow]} IS NOT TRUE{excused}"

    # -- one row --------------------------------------------------------------------------

    def of_row(self, leaf: tuple[str, str], tid: str, value: str) -> str:
        """Return the query for one value of one row."""
        return f"SELECT {value} FROM ONLY {ident(*leaf)} AS t WHERE {only_row(tid)}"

    def tids(self, leaf: tuple[str, str], first_block: int, end_block: int) -> str:
        """Return the query for the rows of a block range."""
        return f"SELECT t.ctid::text FROM ONLY {ident(*leaf)} AS t WHERE {in_blocks(first_block, end_block)}"

    def state(self) -> str:
        """Return SQL for what a row's marker says is wrong with it, NULL if nothing is."""
        return self._state()


def _by_target(arrow: Arrow) -> str:
    return arrow.target
