"""Statements that try a level's expressions on some rows, in temporary tables of a transaction that is rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.markers import quarantined_condition, todo_condition
from alembic_zero.sql.preflight import row_key
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic_zero.lens.lens import Edge, Flight, Rule

_UPWARD, _BACK = "pg_temp._zd_upward", "pg_temp._zd_back"
_ROWS_OF_A_BLOCK = 10


def render_first(leaf: tuple[str, str], rows: int) -> str:
    """Return the query for the addresses of the first rows of a table."""
    return f"SELECT t.ctid::text FROM ONLY {ident(*leaf)} AS t LIMIT {rows}"


def render_random(leaf: tuple[str, str], rows: int, percent: float) -> str:
    """Return the query for the addresses of some rows of random blocks: it reads those blocks and no others.

    :param percent: of the table's blocks.
    """
    block = "((t.ctid::text)::point)[0]"
    return (
        f"SELECT s.tid FROM (SELECT t.ctid::text AS tid, row_number() OVER (PARTITION BY {block}) AS number\n"
        f"    FROM ONLY {ident(*leaf)} AS t TABLESAMPLE SYSTEM ({percent:.6f})) AS s\n"
        f" WHERE s.number <= {_ROWS_OF_A_BLOCK} ORDER BY random() LIMIT {rows}"
    )


def _call(function: str, arguments: Sequence[str]) -> str:
    return render_call(JOURNAL_SCHEMA, function, arguments)


@dataclass(frozen=True)
class SampleSql:
    """Statements for the newest level of a table.

    :param keys: the primary key's columns.
    :param filled: cells in which no row is NULL, as is known already.
    """

    flight: Flight
    keys: Sequence[str]
    filled: frozenset[str] = frozenset()

    # -- what can be tried ----------------------------------------------------------------

    @cached_property
    def ups(self) -> list[Edge]:
        """The expressions for physical columns that can be computed from a row alone."""
        unknown = self._unknown(self.flight.levels[-1].ups)
        return [
            e for e in self.flight.levels[-1].ups if e.target not in unknown and self.flight.cell(e.target).physical
        ]

    @cached_property
    def rules(self) -> list[Rule]:
        """The level's rules over such columns and those that are there."""
        unknown = self._unknown(self.flight.levels[-1].ups)
        return [r for r in self.flight.levels[-1].rules if not unknown & set(r.cells) and not self._holds(r)]

    def _holds(self, rule: Rule) -> bool:
        return rule.check is None and self.flight.cell(rule.cells[0]).source in self.filled

    @cached_property
    def downs(self) -> list[Edge]:
        """The expressions that lead back to a column from what was derived from it."""
        level = self.flight.levels[-1]
        unknown = self._unknown(level.ups) | self._unknown(level.downs)
        return [
            e
            for e in level.downs
            if e.target not in unknown
            and self.flight.cell(e.target).physical
            and not unknown & set(self._downward.inputs(e))
            and any(e.target in self._upward.inputs(up) for up in self._derived_inputs(e))
        ]

    def _derived_inputs(self, edge: Edge) -> list[Edge]:
        inputs = set(self._downward.inputs(edge))
        return [up for up in self.ups if up.target in inputs]

    def _unknown(self, edges: Iterable[Edge]) -> set[str]:
        """Return the cells that need another table, or a number that would be taken for good."""
        edges = list(edges)
        unknown = {e.target for e in edges if e.linked or self.flight.cell(e.target).numbers}
        while more := {e.target for e in edges if unknown & set(e.inputs)} - unknown:
            unknown |= more
        return unknown

    # -- upwards --------------------------------------------------------------------------

    @cached_property
    def _upward(self) -> Composer:
        ups = self.flight.levels[-1].ups
        return Composer(self.flight, ups, _call, lambda c: f"t.{self._column(c)}", frozenset(e.target for e in ups))

    @cached_property
    def _downward(self) -> Composer:
        return Composer(self.flight, self.flight.levels[-1].downs, _call, lambda c: f"s.{ident(c)}")

    def _column(self, cell: str) -> str:
        return ident(str(self.flight.cell(cell).physical))

    @cached_property
    def _kept(self) -> list[str]:
        """Cells of the row that the way back reads, or is compared with."""
        derived = {e.target for e in self.ups}
        found = [c for e in self.downs for c in (e.target, *self._downward.inputs(e)) if c not in derived]
        return list(dict.fromkeys(found))

    def create(self) -> list[str]:
        """Return CREATE TABLE for both directions: an INSERT checks and cuts values as the columns would."""
        upward = [f"{ident(e.target)} {self.flight.cell(e.target).type}" for e in self.ups]
        upward += [f"{ident(c)} {self.flight.cell(c).type}" for c in self._kept]
        upward += [f"rule_{n} boolean" for n in range(len(self.rules))]
        back = [f"{ident(e.target)} {self.flight.cell(e.target).type}" for e in self.downs]
        return [
            f"CREATE TEMPORARY TABLE {name.removeprefix('pg_temp.')} ({', '.join([key, *columns])}) ON COMMIT DROP"
            for name, key, columns in (
                (_UPWARD, "_zd_tid text, _zd_key text", upward),
                (_BACK, "_zd_tid text", back),
            )
        ]

    def fill_upward(self, leaf: tuple[str, str], tids: Sequence[str], edges: Sequence[Edge], *, whole: bool) -> str:
        """Return the statement that derives these rows.

        :param whole: all that belongs to a row, not the values of *edges* alone.
        """
        columns = ["_zd_tid", "_zd_key", *(ident(e.target) for e in edges)]
        values = ["t.tableoid::text || t.ctid::text", row_key(self.keys), *(self._upward.apply(e) for e in edges)]
        if whole:
            columns += [ident(c) for c in self._kept] + [f"rule_{n}" for n in range(len(self.rules))]
            values += [f"t.{self._column(c)}" for c in self._kept] + [self._condition(r) for r in self.rules]
        return (
            f"INSERT INTO {_UPWARD} ({', '.join(columns)}) SELECT {', '.join(values)}\n"
            f"  FROM ONLY {ident(*leaf)} AS t WHERE t.ctid = ANY ({literal(list(tids))}::tid[]){self._synchronised}"
        )

    def key_of(self, leaf: tuple[str, str], tid: str) -> str:
        """Return the query for a row's key."""
        return f"SELECT {row_key(self.keys)} FROM ONLY {ident(*leaf)} AS t WHERE t.ctid = {literal(tid)}::tid"

    @property
    def _synchronised(self) -> str:
        """A condition: rows that an earlier revision has still to derive, or cannot, say nothing of this one."""
        before = self.flight.without_levels(len(self.flight.levels) - 1)
        if not before.has_marker:
            return ""
        marker = f"t.{ident(MARKER)}"
        return f" AND ({todo_condition(before, marker)} OR {quarantined_condition(before, marker)}) IS NOT TRUE"

    def _condition(self, rule: Rule) -> str:
        values = [self._upward.value(c) for c in rule.cells]
        if rule.check is None:
            return f"({values[0]}) IS NOT NULL"
        return f"({_call(str(rule.function), values)}) IS NOT FALSE"

    def broken(self, rule: int, limit: int) -> str:
        """Return the query for keys of rows that a rule does not let pass, with their number."""
        return (
            f"SELECT _zd_key, count(*) OVER () FROM {_UPWARD} WHERE NOT rule_{rule} ORDER BY length(_zd_key), 1 "
            f"LIMIT {limit}"
        )

    # -- and back -------------------------------------------------------------------------

    def fill_back(self, tids: Sequence[str] | None = None) -> str:
        """Return the statement that goes back from what was derived.

        :param tids: only for these rows.
        """
        columns = ", ".join(["_zd_tid", *(ident(e.target) for e in self.downs)])
        values = ", ".join(["s._zd_tid", *(self._downward.apply(e) for e in self.downs)])
        chosen = "" if tids is None else f" WHERE s._zd_tid = ANY ({literal(list(tids))}::text[])"
        return f"INSERT INTO {_BACK} ({columns}) SELECT {values} FROM {_UPWARD} AS s{chosen}"

    def derived_tids(self) -> str:
        """Return the query for the addresses, and the keys, of all rows that were derived."""
        return f"SELECT _zd_tid, _zd_key FROM {_UPWARD}"

    def lossy(self, edge: Edge, limit: int) -> str:
        """Return the query for rows whose value there and back is another one: key, both values, how many there are."""
        column = ident(edge.target)
        return (
            f"SELECT s._zd_key, s.{column}::text, b.{column}::text, count(*) OVER ()\n"
            f"  FROM {_UPWARD} AS s JOIN {_BACK} AS b USING (_zd_tid)\n"
            f" WHERE pg_catalog.record_image_ne(ROW(s.{column}), ROW(b.{column}))\n"
            f" ORDER BY length(s._zd_key), 1 LIMIT {limit}"
        )
