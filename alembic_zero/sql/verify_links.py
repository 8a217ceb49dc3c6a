"""Queries that compare rows of two tables in flight that follow from each other. They read only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.link import read_function
from alembic_zero.names import MARKER
from alembic_zero.sql.links import LinkSql, call_linked
from alembic_zero.sql.markers import quarantined_below
from alembic_zero.sql.quoting import ident
from alembic_zero.sql.verify import VerifySql, in_blocks, only_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic_zero.lens.comparing import Arrow, Demand
    from alembic_zero.lens.lens import Flight
    from alembic_zero.lens.link import Link, Side

_OTHER = "_zd_t"
_MATCH = "_zd_s"
# The oldest transaction that writes and has not ended, and the next one to begin, as the query's snapshot has it.
_HORIZON = (
    "pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint AS oldest, "
    "pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next"
)


@dataclass(frozen=True)
class Linked:
    """Queries along one link, over the rows of the table *at* which it looks, called ``t``.

    :param sql: the link, with the flights up to its level.
    :param flights: the tables as they are in flight now.
    :param numbers: the level that the link belongs to, of each.
    :param demands: what must hold.
    :param backs: queries along the links by which this table's rows get values from the rows that they make.
    """

    sql: LinkSql
    flights: Mapping[int, Flight]
    numbers: Mapping[int, int]
    demands: tuple[Demand, ...]
    backs: tuple[Linked, ...] = ()

    @property
    def link(self) -> Link:
        """The link."""
        return self.sql.link

    @property
    def at(self) -> Flight:
        """The table whose rows are looked at: the source of a link that makes rows, the target of one for a column."""
        side = self.link.target if self.link.cell else self.link.source
        return self.flights[side.flight]

    @property
    def other(self) -> Flight:
        """The table at the link's other end."""
        side = self.link.source if self.link.cell else self.link.target
        return self.flights[side.flight]

    def _verify(self, flight: Flight, alias: str) -> VerifySql:
        return VerifySql(flight, alias=alias)

    def _synchronised(self, flight: Flight, alias: str) -> str:
        """Return SQL that is true for a row that the link's level, and those below it, have nothing left to do for."""
        number = self.numbers[flight.id]
        marker = f"{alias}.{ident(MARKER)}"
        return f"{self._verify(flight, alias).reached(number)} AND NOT {quarantined_below(flight, number, marker)}"

    def _given(self, side: Side, alias: str) -> str:
        """Return a FROM item: a row of one of the tables as the link's expressions know it."""
        flight = self.sql.target if side is self.link.target else self.sql.source
        level = flight.levels[-1]
        edges = level.ups if self.link.upward else level.downs
        composer = Composer(flight, edges, _call, lambda cell: f"{alias}.{ident(str(flight.cell(cell).physical))}")
        listed = [f"{composer.value(cell)} AS {ident(name)}" for name, cell in side.inputs]
        return f"(SELECT {', '.join(listed) or '1'}) AS {ident(side.alias)}"

    # -- arrows ---------------------------------------------------------------------------

    def holds(self, arrow: Arrow) -> str:
        """Return SQL that is true if an arrow of the row, or of the one at the link's other end, holds."""
        if arrow.edge is not None and arrow.flight in (self.at.id, self.other.id):
            alias = "t" if arrow.flight == self.at.id else _OTHER if self.link.columns else _MATCH
            return f"({self._verify(self.flights[arrow.flight], alias).holds(arrow)}{self._or_several(arrow)})"
        if arrow.link != self.link.name:
            # Of a third table, or of another link: nobody knows from here, and it may well hold.
            return "true"
        if arrow.column is None:
            return f"{_OTHER}.ctid IS NOT NULL"
        return self.sql.agrees(arrow.column, "m")

    def _or_several(self, arrow: Arrow) -> str:
        # The value is that of the match which was written last, and nobody knows by now which one that was.
        backs = [back for back in self.backs if back.link.lookup in arrow.functions]
        return "".join(f" OR (SELECT count(*) FROM (SELECT 1 {back.matching} LIMIT 2) AS s) > 1" for back in backs)

    @cached_property
    def _arrows(self) -> list[Arrow]:
        found: dict[Arrow, None] = {d.arrow: None for d in self.demands}
        for demand in self.demands:
            found |= {arrow: None for excuse in demand.excuses or () for arrow in sorted(excuse, key=_by_target)}
        return list(found)

    @staticmethod
    def _excused(demand: Demand, names: Mapping[Arrow, str]) -> str:
        excuses = [" AND ".join(f"{names[a]} IS TRUE" for a in excuse) for excuse in demand.excuses or ()]
        return "".join(f" AND NOT ({excuse})" for excuse in excuses)

    # -- a link that makes rows -------------------------------------------------------------

    def suspects(self, first_block: int, end_block: int) -> str:
        """Return the query for rows of a block range with which something is wrong: tid, the other row's, demands."""
        return self._query(in_blocks(first_block, end_block))

    def suspect(self, tid: str) -> str:
        """Return the same query for one row."""
        return self._query(only_row(tid))

    def tids(self, first_block: int, end_block: int) -> str:
        """Return the query for the rows of a block range."""
        return f"SELECT t.ctid::text FROM {self._table} AS t WHERE {in_blocks(first_block, end_block)}"

    @property
    def _table(self) -> str:
        return ident(self.at.schema, self.at.name)

    def _query(self, rows: str) -> str:
        return self._row_query(rows) if self.link.columns else self._column_query(rows)

    def _row_query(self, rows: str) -> str:
        own = [a for a in self._arrows if a.link == self.link.name]
        rest = [a for a in self._arrows if a not in own]
        names = {a: f"u.a{self._arrows.index(a)}" for a in own} | {a: f"d.a{self._arrows.index(a)}" for a in rest}
        all_hold = " AND ".join(names[a] for a in own)
        lazily = {a: f"CASE WHEN {all_hold} THEN NULL ELSE {self.holds(a)} END" for a in rest}
        laterals = self._laterals({a: self.holds(a) for a in own}, "u") + self._laterals(lazily, "d")
        failed = ", ".join(
            f"CASE WHEN NOT ({all_hold}) AND {names[d.arrow]} IS NOT TRUE{self._excused(d, names)} THEN {n} END"
            for n, d in enumerate(self.demands)
        )
        other = f"{ident(self.other.schema, self.other.name)} AS {_OTHER}"
        return (
            f"SELECT t.ctid::text AS tid, {_OTHER}.ctid::text AS other, c.failed, {_HORIZON}\n"
            f"  FROM {self._table} AS t CROSS JOIN LATERAL ({self.sql.made(self._given(self.link.source, 't'))}) AS m\n"
            f"  LEFT JOIN {other} ON {self.sql.matches('m')}{laterals}\n"
            f"  CROSS JOIN LATERAL (SELECT pg_catalog.array_remove(ARRAY[{failed}]::pg_catalog.int4[], NULL) AS failed"
            " OFFSET 0) AS c\n"
            f" WHERE {rows} AND {self._synchronised(self.at, 't')} AND c.failed <> '{{}}'\n"
            f"   AND ({_OTHER}.ctid IS NULL OR {self._synchronised(self.other, _OTHER)}){self._first()}"
        )

    def _first(self) -> str:
        """Return the condition that a row is the one that counts, where several make the same one."""
        return f" AND ({_OTHER}.ctid IS NULL OR m.tid = t.ctid)" if self.link.shared else ""

    def _laterals(self, texts: Mapping[Arrow, str], alias: str) -> str:
        if not texts:
            return ""
        columns = ", ".join(f"{text} AS a{self._arrows.index(a)}" for a, text in texts.items())
        return f"\n  CROSS JOIN LATERAL (SELECT {columns} OFFSET 0) AS {alias}"

    def of_pair(self, tid: str, value: str) -> str:
        """Return the query for one value of a row and the one that it makes."""
        return (
            f"SELECT {value} FROM {self._table} AS t "
            f"CROSS JOIN LATERAL ({self.sql.made(self._given(self.link.source, 't'))}) AS m "
            f"LEFT JOIN {ident(self.other.schema, self.other.name)} AS {_OTHER} ON {self.sql.matches('m')} "
            f"WHERE {only_row(tid)}"
        )

    def of_row(self, tid: str, value: str) -> str:
        """Return the query for one value of a row."""
        return f"SELECT {value} FROM {self._table} AS t WHERE {only_row(tid)}"

    def values(self, arrow: Arrow) -> tuple[str, str]:
        """Return, as SQL, the value that an arrow's target has, and what follows; both for :meth:`of_pair`."""
        if arrow.edge is not None:
            verify = self._verify(self.flights[arrow.flight], "t" if arrow.flight == self.at.id else _OTHER)
            return verify.stored(arrow), verify.derived(arrow)
        assert arrow.column is not None  # noqa: S101 - the row as such has no value
        cell = self.flights[arrow.flight].cell(arrow.cell)
        return f"{_OTHER}.{ident(str(cell.physical))}", self.sql.made_value(arrow.column, "m")

    # -- a link that gives a column its values ----------------------------------------------

    def _column_query(self, rows: str) -> str:
        """Return the query for rows whose column is not what follows, although nobody on its own side has written it.

        Who has would have left a trace in every row that it follows from; without such a row there is none.
        """
        failed = ", ".join(
            f"CASE WHEN {self.holds(d.arrow)} THEN NULL WHEN {self._untraced(d)} THEN {n} END"
            for n, d in enumerate(self.demands)
        )
        return (
            f"SELECT t.ctid::text AS tid, ({self._matches()}) AS other, c.failed, {_HORIZON}\n"
            f"  FROM {self._table} AS t\n"
            f"  CROSS JOIN LATERAL (SELECT pg_catalog.array_remove(ARRAY[{failed}]::pg_catalog.int4[], NULL) AS failed"
            " OFFSET 0) AS c\n"
            f" WHERE {rows} AND {self._synchronised(self.at, 't')} AND c.failed <> '{{}}'"
        )

    def _untraced(self, demand: Demand) -> str:
        conditions = [self._any_match(self._synchronised(self.other, _MATCH))]
        for excuse in demand.excuses or ():
            here = [f"({self.holds(a)}) IS NOT TRUE" for a in excuse if a.flight == self.at.id]
            there = " AND ".join(f"({self.holds(a)}) IS TRUE" for a in excuse if a.flight != self.at.id) or "true"
            missing = self._any_match(f"{self._synchronised(self.other, _MATCH)} AND NOT ({there})")
            conditions.append(f"({' OR '.join([*here, missing])})")
        return " AND ".join(conditions)

    def _any_match(self, condition: str) -> str:
        """Return SQL that is true if a row of the other table that matches meets a condition."""
        return f"EXISTS (SELECT {self.matching} AND {condition})"

    def _matches(self) -> str:
        """Return the query for the places of all rows of the other table that match."""
        return f"SELECT pg_catalog.string_agg({_MATCH}.ctid::text, ' ' ORDER BY {_MATCH}.ctid) {self.matching}"

    @property
    def matching(self) -> str:
        """FROM and WHERE for the rows of the other table that match the row."""
        return (
            f"FROM {ident(self.other.schema, self.other.name)} AS {_MATCH} CROSS JOIN LATERAL "
            f"{self._given(self.link.source, _MATCH)}, {self._given(self.link.target, 't')} "
            f"WHERE ({self.link.where}\n)"
        )


def link_sql(link: Link, flights: Mapping[int, Flight], numbers: Mapping[int, int]) -> LinkSql:
    """Return a link's statements, with its tables as far as its level goes."""
    source, target = (flights[n].without_levels(numbers[n]) for n in (link.source.flight, link.target.flight))
    return LinkSql(link, source, target)


def _call(function: str, arguments: Sequence[str]) -> str:
    held = function.startswith("lookup_")
    return call_linked(read_function(function) if held else function, arguments)


def _by_target(arrow: Arrow) -> str:
    return arrow.target
