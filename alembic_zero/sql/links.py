"""Functions and triggers that carry what is written to one table over to another.

What touches the other table is early-bound SQL: it follows when tables and columns are renamed. What
runs in a trigger compares images, and runs as the migration's role: a client needs no rights on a
table that its version does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import GENERATION_STRIDE, OLDEST_TAG, QUARANTINE_OFFSET
from alembic_zero.names import JOURNAL_SCHEMA, MARKER, revision_setting
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.markers import done_condition, eq, ge, le, lt, quarantined_below, quarantined_condition
from alembic_zero.sql.quoting import dollar_quoted, ident, idents, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic_zero.lens.lens import Edge, Flight, Level
    from alembic_zero.lens.link import Link, Mapped, Side

_LOCK_CLASS = 1_514_427_764
_TID = "_zd_tid"
_TARGET = "_zd_t"

RERAISED = "transaction_rollback OR operator_intervention OR insufficient_resources OR system_error OR internal_error"

# What a deletion of ours follows from, "up" or "down"; "off" where nothing is to be carried at all.
_CARRYING = "alembic_zero.carrying"


def found_table(link: Link) -> str:
    """Return the table in which the backfill of a column keeps what the one join has found."""
    return ident(JOURNAL_SCHEMA, f"found_{link.name}")


def function_names(link: Link) -> list[str]:
    """Return the names of all functions of a link, callers before what they call."""
    kinds = ("lookup", "give", "lock", "read") if link.cell else ("heir", "put", "moved", "rekey", "drop")
    return [link.carry, *(f"{kind}_{link.name}" for kind in kinds)]


def _call(function: str, arguments: Sequence[str]) -> str:
    return render_call(JOURNAL_SCHEMA, function, arguments)


def call_again(link: Link, values: Sequence[str]) -> str:
    """Return the call that carries a source row with these values of its inputs, as if it had just been written."""
    if link.cell:
        return _call(f"give_{link.name}", values)
    return _call(f"put_{link.name}", [*values, *values, "true"])


def _untyped(type_: str) -> str:
    """Return a type without its modifier: an explicit cast to the whole type would cut values off."""
    plain = re.sub(r"\([^)]*\)", "", type_)
    stem = plain.removesuffix("[]")
    return {"character": "bpchar", "bit": "varbit"}.get(stem, stem) + "[]" * (stem != plain)


def cast_untyped(expression: str, type_: str) -> str:
    """Return an expression cast to a type without its modifier; the assignment checks that."""
    return f"CAST(({expression}\n) AS {_untyped(type_)})"


@dataclass(frozen=True)
class LinkSql:
    """Statements of one link; *source* and *target* are the flights with the link's level on top."""

    link: Link
    source: Flight
    target: Flight

    # -- pieces ---------------------------------------------------------------------------

    def _composer(self, flight: Flight, read: Callable[[str], str]) -> Composer:
        level = flight.levels[-1]
        return Composer(flight, level.ups if self.link.upward else level.downs, _call, read)

    @staticmethod
    def _stored(flight: Flight, prefix: str = "") -> Callable[[str], str]:
        return lambda cell: prefix + ident(str(flight.cell(cell).physical))

    def _rows(self, side: Side, flight: Flight, order: Sequence[tuple[str, str]] = ()) -> str:
        """Return a FROM item: the stored rows of a table as the link's expressions know them."""
        composer = self._composer(flight, self._stored(flight))
        listed = [f"{composer.value(cell)} AS {ident(name)}" for name, cell in side.inputs]
        listed += [f"{composer.value(cell)} AS {ident(f'_zd_k{n}')}" for n, (_, cell) in enumerate(order)]
        listed += [f"ctid AS {_TID}", ident(MARKER)]
        return f"(SELECT {', '.join(listed)} FROM {ident(flight.schema, flight.name)}) AS {ident(side.alias)}"

    @staticmethod
    def _given(side: Side, first: int = 1) -> str:
        """Return a FROM item: one row, from the function's arguments."""
        listed = [f"${n} AS {ident(name)}" for n, (name, _) in enumerate(side.inputs, first)]
        return f"(SELECT {', '.join(listed) or '1'}) AS {ident(side.alias)}"

    @staticmethod
    def _types(side: Side, flight: Flight) -> list[str]:
        return [flight.cell(cell).type for cell in side.cells]

    @property
    def _where(self) -> str:
        return f"({self.link.where}\n)"

    def _order(self) -> str:
        listed = [f"{ident(self.link.source.alias, f'_zd_k{n}')}" for n in range(len(self.link.order))]
        return ", ".join(listed or [ident(self.link.source.alias, _TID)])

    @property
    def _table(self) -> str:
        return ident(self.target.schema, self.target.name)

    def _physical(self, cell: str) -> str:
        return ident(str(self.target.cell(cell).physical))

    @property
    def tag(self) -> int:
        """The marker by which a write of ours tells the target's trigger whose version it carries."""
        number = self.target.sync_index(len(self.target.levels)) - self.link.upward
        if number == 0:
            return OLDEST_TAG
        return -self.target.levels[self.target.sync_levels[number - 1] - 1].generation

    @staticmethod
    def _sql(name: str, types: Sequence[str], returns: str, *statements: str, definer: bool = False) -> str:
        rights = " SECURITY DEFINER SET search_path FROM CURRENT" if definer else ""
        body = "".join(f"  {statement};\n" for statement in statements)
        return (
            f"CREATE FUNCTION {ident(JOURNAL_SCHEMA, name)}({', '.join(types)}) RETURNS {returns} "
            f"LANGUAGE sql VOLATILE{rights}\nBEGIN ATOMIC\n{body}END"
        )

    # -- a column's value -----------------------------------------------------------------

    def functions(self) -> list[str]:
        """Return CREATE FUNCTION for everything but the trigger functions, which :class:`Carry` renders."""
        return self._value_functions() if self.link.cell else self._row_functions()

    def _value_functions(self) -> list[str]:
        name, types = self.link.name, self._types(self.link.target, self.target)
        return [
            self._sql(self.link.read, types, str(self.link.type), self._find(""), definer=True),
            self._sql(f"lock_{name}", types, str(self.link.type), self._find(" FOR SHARE OF {}")),
            self._lookup(types),
            self._sql(
                f"give_{name}", self._types(self.link.source, self.source), "void", self._hold_targets(), self._give()
            ),
        ]

    def _find(self, lock: str) -> str:
        link = self.link
        source = self._rows(link.source, self.source, link.order)
        lock = lock.format(ident(link.source.alias))
        value = cast_untyped(str(link.value), str(link.type))
        tail = f"FROM {source}, {self._given(link.target)} WHERE {self._where} ORDER BY {self._order()} LIMIT 1{lock}"
        if link.default is None:
            return f"SELECT {value} {tail}"
        return (
            f"SELECT CASE WHEN q.found THEN q.v ELSE {link.default} END FROM (SELECT 1) AS one\n"
            f"    LEFT JOIN LATERAL (SELECT {value} AS v, true AS found {tail}) AS q ON true"
        )

    def _lookup(self, types: Sequence[str]) -> str:
        arguments = [f"${n}" for n in range(1, len(types) + 1)]
        locked, unlocked = (_call(name, arguments) for name in (f"lock_{self.link.name}", self.link.read))
        if self.link.upward:
            body = patient(f"RETURN {locked};", f"RETURN {unlocked};", waited_for(self.key))
        else:
            body = f"{announce(self.key)}RETURN {locked};\n"
        return _plpgsql(self.link.lookup, types, str(self.link.type), body, patient_=self.link.upward)

    @property
    def key(self) -> int:
        """The number by which sessions that carry along this link announce themselves."""
        return self.source.levels[-1].migration

    def _matching(self, columns: str, lock: str = "") -> str:
        source = self._given(self.link.source)
        target = self._rows(self.link.target, self.target)
        alias = ident(self.link.target.alias)
        return f"SELECT {columns} FROM {target}, {source} WHERE {self._where} ORDER BY {alias}.{_TID}{lock}"

    def _hold_targets(self) -> str:
        """Wait for the rows' other writers first: the statement after it sees what they wrote."""
        alias = ident(self.link.target.alias)
        return f"SELECT pg_catalog.count(*) FROM ({self._matching('1', f' FOR NO KEY UPDATE OF {alias}')}) AS held"

    def _given_cells(self) -> list[tuple[str, str]]:
        """Return the physical columns that the link gives their value, with that; one column, unless it is virtual."""
        cell = self.target.cell(str(self.link.cell))

        def call(function: str, arguments: Sequence[str]) -> str:
            return _call(self.link.read if function == self.link.lookup else function, arguments)

        level = self.target.levels[-1]
        edges = level.ups if self.link.upward else level.downs
        composer = Composer(self.target, edges, call, self._stored(self.target, f"{_TARGET}."))
        if cell.physical is not None:
            found = [edge for edge in edges if edge.target == cell.id]
        else:
            found = [e for e in edges if self.target.cell(e.target).physical and composer.reads(e, cell.id)]
        return [(self._physical(edge.target), composer.apply(edge)) for edge in found]

    def _give(self) -> str:
        given = self._given_cells()
        done = done_condition(self.target, f"{_TARGET}.{ident(MARKER)}")
        alias = ident(self.link.target.alias)
        sets = ", ".join(f"{column} = {value}" for column, value in given)
        stored, values = ", ".join(f"{_TARGET}.{column}" for column, _ in given), ", ".join(value for _, value in given)
        return (
            f"UPDATE {self._table} AS {_TARGET} SET {sets}, {ident(MARKER)} = {self.tag}\n"
            f"   WHERE {_TARGET}.ctid = ANY (ARRAY({self._matching(f'{alias}.{_TID}')}))\n"
            f"     AND (NOT {done} OR pg_catalog.record_image_ne(ROW({stored}), ROW({values})))"
        )

    def fill_found(self) -> list[str]:
        """Return the statements that find the value of every row by one join."""
        link, table = self.link, found_table(self.link)
        alias = ident(link.target.alias, _TID)
        value = cast_untyped(str(link.value), str(link.type))
        both = f"{self._rows(link.target, self.target)}, {self._rows(link.source, self.source, link.order)}"
        rest = f" WHERE {self._where} ORDER BY {alias}, {self._order()}"
        return [
            f"DROP TABLE IF EXISTS {table}",
            f"CREATE UNLOGGED TABLE {table} (tid tid NOT NULL, value {_untyped(str(link.type))})",
            f"INSERT INTO {table} SELECT DISTINCT ON ({alias}) {alias}, {value}\n  FROM {both}\n{rest}",
            f"CREATE UNIQUE INDEX ON {table} (tid)",
        ]

    # -- rows -----------------------------------------------------------------------------

    def _column(self, cell: str) -> Mapped:
        return next(c for c in self.link.columns if c.cell == cell)

    def _mapped(self, rows: str, columns: Sequence[Mapped], more: Sequence[str] = ()) -> str:
        """Return a query of the mapped values of *rows* that give a row, as columns _zd_m0, _zd_m1, ..."""
        needed = columns if self.link.where is None else self.link.columns
        listed = ", ".join(f"{cast_untyped(c.expression, c.type)} AS {self._value_name(c)}" for c in needed)
        # By themselves, so that a bare name in one expression means the source's column.
        source = f"{rows} CROSS JOIN LATERAL (SELECT {listed}) AS _zd_m"
        valid = [f"_zd_m.{self._value_name(self._column(k))} IS NOT NULL" for k in self.link.key]
        if self.link.where is not None:
            row = ", ".join(f"_zd_m.{self._value_name(c)} AS {ident(c.column)}" for c in self.link.columns)
            source += f" CROSS JOIN LATERAL (SELECT {row}) AS {ident(self.link.target.alias)}"
            valid.append(self._where)
        values = [f"_zd_m.{self._value_name(c)}" for c in columns]
        return f"SELECT {', '.join([*more, *values])} FROM {source} WHERE {' AND '.join(valid)}"

    def _value_name(self, column: Mapped) -> str:
        # Not what a column of the source may be called: conditions may name it bare.
        return f"_zd_m{self.link.columns.index(column)}"

    def _keys_match(self, row: str) -> str:
        pairs = [f"{_TARGET}.{self._physical(k)} = {row}.{self._value_name(self._column(k))}" for k in self.link.key]
        return " AND ".join(pairs)

    def _arguments(self, column: Mapped, first: int) -> list[str]:
        names = [name for name, _ in self.link.source.inputs]
        return [f"${first + names.index(name)}" for name in column.inputs]

    def _changed(self, column: Mapped, old: int, new: int) -> str:
        if not column.inputs:
            return "false"
        rows = (", ".join(self._arguments(column, first)) for first in (new, old))
        return "pg_catalog.record_image_ne({})".format(", ".join(f"ROW({row})" for row in rows))

    def _insert(self, rows: str, marker: str, conflict: str) -> str:
        """Return INSERT for the mapped values of *rows*; *marker* is SQL."""
        columns = ", ".join(self._physical(c.cell) for c in self.link.columns)
        values = ", ".join(f"v.{self._value_name(c)}" for c in self.link.columns)
        keys = ", ".join(self._physical(k) for k in self.link.key)
        return (
            f"INSERT INTO {self._table} AS {_TARGET} ({columns}, {ident(MARKER)}) OVERRIDING SYSTEM VALUE\n"
            f"    SELECT {values}, {marker} FROM ({self._mapped(rows, self.link.columns)}) AS v\n"
            f"    ON CONFLICT ({keys}) {conflict}"
        )

    # -- rows that several source rows make: the first of them counts ------------------------

    def _all_mapped(self, columns: Sequence[Mapped]) -> str:
        """Return a query of what all source rows give, with their order as k0, k1, ... and their inputs as i0, ..."""
        alias = self.link.source.alias
        listed = [f"{ident(alias, f'_zd_k{n}')} AS k{n}" for n in range(len(self.link.order))]
        listed += [f"{ident(alias, _TID)} AS k0"] if not listed else []
        listed += [f"{ident(alias, name)} AS i{n}" for n, (name, _) in enumerate(self.link.source.inputs)]
        listed += [f"{ident(alias, _TID)} AS tid", self._source_marker()]
        return self._mapped(self._rows(self.link.source, self.source, self.link.order), columns, listed)

    def _by_order(self, row: str) -> str:
        return ", ".join(f"{row}.k{n}" for n in range(len(self.link.order) or 1))

    def _first(self, keys: str) -> str:
        """Return the query of what the first source row gives that has the same key as the row *keys*."""
        same = " AND ".join(f"s.{self._value_name(c)} = {keys}.{self._value_name(c)}" for c in self._key_columns())
        return (
            f"SELECT s.* FROM ({self._all_mapped(self.link.columns)}) AS s WHERE {same} "
            f"ORDER BY {self._by_order('s')} LIMIT 1"
        )

    def _put_first(self, others: Sequence[Mapped], values: Sequence[str]) -> str:
        """Return INSERT of what the first row with the given one's key says; what is there changes if that is it."""
        given = ", ".join(f"${n}" for n in range(1, len(self.link.source.inputs) + 1))
        inputs = ", ".join(f"f.i{n}" for n in range(len(self.link.source.inputs)))
        columns = ", ".join(self._physical(c.cell) for c in self.link.columns)
        listed = ", ".join(f"f.{self._value_name(c)}" for c in self.link.columns)
        keys = ", ".join(self._physical(k) for k in self.link.key)
        first = f"{self._old_keys()} CROSS JOIN LATERAL ({self._first('o')}) AS f"
        insert = (
            f"INSERT INTO {self._table} AS {_TARGET} ({columns}, {ident(MARKER)}) OVERRIDING SYSTEM VALUE\n"
            f"    SELECT {listed}, {self.tag} FROM {first}\n    ON CONFLICT ({keys})"
        )
        if not others:
            return f"{insert} DO NOTHING"
        is_first = f"SELECT FROM {first} WHERE NOT pg_catalog.record_image_ne(ROW({inputs}), ROW({given}))"
        return f"{insert} {self._overwrite(others, values)} AND EXISTS ({is_first})"

    def _heir(self) -> list[str]:
        """Return statements that give a row to the first of the source rows left, and say whether there is one.

        What does not say what the row that is gone said was written by a client, and stays.
        """
        others = [c for c in self.link.columns if c.cell not in self.link.key]
        old = f"({self._mapped(self._given(self.link.source), self.link.columns)}) AS o"
        left = f"SELECT EXISTS (SELECT FROM {self._old_keys()} CROSS JOIN LATERAL ({self._first('o')}) AS f)"
        if not others:
            return [left]
        sets = []
        for column in others:
            cell, value = self._physical(column.cell), self._value_name(column)
            own = f"pg_catalog.record_image_ne(ROW({_TARGET}.{cell}), ROW(CAST(o.{value} AS {column.type})))"
            sets.append(f"{cell} = CASE WHEN {own} THEN {_TARGET}.{cell} ELSE f.{value} END")
        update = (
            f"UPDATE {self._table} AS {_TARGET} SET {', '.join(sets)}, {ident(MARKER)} = {self.tag}\n"
            f"    FROM {old} CROSS JOIN LATERAL ({self._first('o')}) AS f\n   WHERE {self._keys_match('o')}"
        )
        return [update, left]

    # -- the functions ----------------------------------------------------------------------

    def _row_functions(self) -> list[str]:
        name, types = self.link.name, self._types(self.link.source, self.source)
        both = [*types, *types]
        heir = [self._sql(f"heir_{name}", types, "boolean", *self._heir())] if self.link.shared else []
        return [
            *heir,
            self._sql(f"put_{name}", [*both, "boolean"], "void", self._put(len(types))),
            self._sql(f"moved_{name}", both, "boolean", self._moved(len(types))),
            self._sql(f"rekey_{name}", both, "boolean", self._rekey(len(types))),
            self._sql(f"drop_{name}", types, "void", self._drop()),
        ]

    def _put(self, width: int) -> str:
        """Arguments: the row as it is, as it was, and whether all columns count as changed."""
        every = f"${2 * width + 1}"
        others = [c for c in self.link.columns if c.cell not in self.link.key]
        values = [
            f"CASE WHEN {every} OR {self._changed(c, width + 1, 1)} THEN excluded.{self._physical(c.cell)} "
            f"ELSE {_TARGET}.{self._physical(c.cell)} END"
            for c in others
        ]
        if self.link.shared:
            return self._put_first(others, values)
        conflict = self._overwrite(others, values) if others else "DO NOTHING"
        return self._insert(self._given(self.link.source), str(self.tag), conflict)

    def _overwrite(self, columns: Sequence[Mapped], values: Sequence[str]) -> str:
        """Return what follows ON CONFLICT: columns take values that they do not have."""
        sets = [f"{self._physical(c.cell)} = {value}" for c, value in zip(columns, values, strict=True)]
        stored = ", ".join(f"{_TARGET}.{self._physical(c.cell)}" for c in columns)
        return (
            f"DO UPDATE SET {', '.join(sets)}, {ident(MARKER)} = {self.tag}\n"
            f"    WHERE pg_catalog.record_image_ne(ROW({stored}), ROW({', '.join(values)}))"
        )

    def _key_columns(self) -> list[Mapped]:
        return [self._column(k) for k in self.link.key]

    def _moved(self, width: int) -> str:
        """Arguments: the row as it was, and as it is. Whether the row that it made is no longer its own."""
        new = f"({self._mapped(self._given(self.link.source, width + 1), self._key_columns())}) AS n"
        keys = (", ".join(f"{row}.{self._value_name(c)}" for c in self._key_columns()) for row in "on")
        same = "NOT pg_catalog.record_image_ne({})".format(", ".join(f"ROW({row})" for row in keys))
        return f"SELECT EXISTS (SELECT FROM {self._old_keys()} WHERE NOT EXISTS (SELECT FROM {new} WHERE {same}))"

    def _old_keys(self) -> str:
        return f"({self._mapped(self._given(self.link.source), self._key_columns())}) AS o"

    def _rekey(self, width: int) -> str:
        """Arguments: the row as it was, and as it is. Moves the one row, unless its new place is taken."""
        new = f"({self._mapped(self._given(self.link.source, width + 1), self.link.columns)}) AS n"
        sets = []
        for column in self.link.columns:
            cell = self._physical(column.cell)
            changed = "true" if column.cell in self.link.key else self._changed(column, 1, width + 1)
            value = f"n.{self._value_name(column)}"
            sets.append(f"{cell} = CASE WHEN {changed} THEN {value} ELSE {_TARGET}.{cell} END")
        taken = f"SELECT FROM {self._table} AS {_TARGET} WHERE {self._keys_match('n')}"
        return (
            f"UPDATE {self._table} AS {_TARGET} SET {', '.join(sets)}, {ident(MARKER)} = {self.tag}\n"
            f"    FROM {self._old_keys()}, {new}\n"
            f"   WHERE {self._keys_match('o')} AND NOT EXISTS ({taken}) RETURNING true"
        )

    def _drop(self) -> str:
        return f"DELETE FROM {self._table} AS {_TARGET} USING {self._old_keys()} WHERE {self._keys_match('o')}"

    # -- the backfill of rows ---------------------------------------------------------------

    def _source_rows(self) -> str:
        return self._rows(self.link.source, self.source)

    def fill_range(self, first_block: int, end_block: int) -> str:
        """Return the statement that makes the rows of one block range of the source."""
        tid = ident(self.link.source.alias, _TID)
        rows = (
            f"(SELECT * FROM {self._source_rows()} WHERE {tid} >= {literal(f'({first_block},0)')}::tid"
            f" AND {tid} < {literal(f'({end_block},0)')}::tid) AS {ident(self.link.source.alias)}"
        )
        return self._insert(rows, str(self._filled_marker), "DO NOTHING")

    @property
    def _filled_marker(self) -> int:
        base = self.target.backfilled_generation() or self.target.levels[-1].generation
        derives = bool(self.target.levels[-1].ups or self.target.levels[-1].rules)
        return self.tag if derives else base

    def _winners(self) -> str:
        """Return the query of what the first source row of each key gives."""
        keys = ", ".join(f"s.{self._value_name(c)}" for c in self._key_columns())
        quarantined = quarantined_condition(self.source, f"s.{ident(MARKER)}")
        return (
            f"SELECT DISTINCT ON ({keys}) s.* FROM ({self._all_mapped(self.link.columns)}) AS s "
            f"WHERE ({quarantined}) IS NOT TRUE ORDER BY {keys}, {self._by_order('s')}"
        )

    def fill_all(self) -> str:
        """Return the statement that makes all rows at once, where several source rows make one."""
        columns = ", ".join(self._physical(c.cell) for c in self.link.columns)
        values = ", ".join(f"v.{self._value_name(c)}" for c in self.link.columns)
        keys = ", ".join(self._physical(k) for k in self.link.key)
        return (
            f"INSERT INTO {self._table} AS {_TARGET} ({columns}, {ident(MARKER)}) OVERRIDING SYSTEM VALUE\n"
            f"    SELECT {values}, {self._filled_marker} FROM ({self._winners()}) AS v\n"
            f"    ON CONFLICT ({keys}) DO NOTHING"
        )

    def differing(self) -> str:
        """Return the query whether anything is missing or stale, by one join of the two tables."""
        tid = f"{ident(self.link.source.alias, _TID)} AS tid"
        rows = self._mapped(self._source_rows(), self.link.columns, [tid, self._source_marker()])
        if self.link.shared:
            rows = self._winners()
        quarantined = quarantined_condition(self.source, f"v.{ident(MARKER)}")
        return (
            f"SELECT EXISTS (SELECT FROM (SELECT * FROM ({rows}) AS v WHERE ({quarantined}) IS NOT TRUE) AS v\n"
            f"  FULL JOIN {self._table} AS {_TARGET} ON {self._keys_match('v')}\n"
            f" WHERE v.tid IS NULL OR {_TARGET}.ctid IS NULL OR {self._differs()})"
        )

    def _differs(self) -> str:
        values = ", ".join(f"CAST(v.{self._value_name(c)} AS {c.type})" for c in self.link.columns)
        stored = ", ".join(f"{_TARGET}.{self._physical(c.cell)}" for c in self.link.columns)
        return f"pg_catalog.record_image_ne(ROW({values}), ROW({stored}))"

    def missing(self, limit: int) -> str:
        """Return the query for the tids of source rows that have no row yet."""
        keys = [self._column(k) for k in self.link.key]
        rows = self._mapped(self._source_rows(), keys, [ident(self.link.source.alias, _TID), self._source_marker()])
        quarantined = quarantined_condition(self.source, f"v.{ident(MARKER)}")
        return (
            f"SELECT v.{_TID} FROM ({rows}) AS v WHERE ({quarantined}) IS NOT TRUE\n"
            f"   AND NOT EXISTS (SELECT FROM {self._table} AS {_TARGET} WHERE {self._keys_match('v')}) LIMIT {limit}"
        )

    def _source_marker(self) -> str:
        return ident(self.link.source.alias, MARKER)

    def stale(self, limit: int) -> str:
        """Return the query for the tids of rows that follow from no source row as it is now."""
        rows = self._winners() if self.link.shared else self._mapped(self._source_rows(), self.link.columns)
        return (
            f"SELECT {_TARGET}.ctid FROM {self._table} AS {_TARGET} WHERE NOT EXISTS (\n"
            f"  SELECT FROM ({rows}) AS v WHERE {self._keys_match('v')}\n"
            f"     AND NOT {self._differs()}) LIMIT {limit}"
        )

    def remove(self, tids: Sequence[str]) -> str:
        """Return the statement that removes rows, without a trace on the other side."""
        listed = ", ".join(f"{literal(tid)}::tid" for tid in tids)
        return f"DELETE FROM {self._table} WHERE ctid = ANY (ARRAY[{listed}])"

    def hold_source(self, tid: str) -> str:
        """Return the statement that keeps a source row from changing."""
        table = ident(self.source.schema, self.source.name)
        return f"SELECT FROM {table} WHERE ctid = {literal(tid)}::tid FOR NO KEY UPDATE"

    def put_one(self, tid: str) -> str:
        """Return the statement that makes the row of one source row."""
        composer = self._composer(self.source, self._stored(self.source))
        values = [composer.value(cell) for cell in self.link.source.cells]
        table = ident(self.source.schema, self.source.name)
        call = _call(f"put_{self.link.name}", [*values, *values, "true"])
        return f"SELECT {call} FROM {table} WHERE ctid = {literal(tid)}::tid"

    def quarantine_one(self, tid: str) -> str:
        """Return the statement that quarantines one source row."""
        code = -QUARANTINE_OFFSET - self.source.levels[-1].generation
        table = ident(self.source.schema, self.source.name)
        return f"UPDATE {table} SET {ident(MARKER)} = {code} WHERE ctid = {literal(tid)}::tid"

    def tids(self, first_block: int, end_block: int) -> str:
        """Return the query for the tids of the source's rows in a block range."""
        first, end = literal(f"({first_block},0)"), literal(f"({end_block},0)")
        table = ident(self.source.schema, self.source.name)
        return f"SELECT ctid FROM {table} WHERE ctid >= {first}::tid AND ctid < {end}::tid"


def carry_nothing(*, on: bool) -> str:
    """Return the statement after which nothing that this session writes is carried on, or everything again."""
    return f"SET {_CARRYING} = {literal('off' if on else '')}"


def _plpgsql(name: str, types: Sequence[str], returns: str, body: str, *, patient_: bool, declare: str = "") -> str:
    timeout = " SET lock_timeout = '50ms'" if patient_ else ""
    counter = "  tries int := 0;\n" if patient_ else ""
    declared = f"DECLARE\n{counter}{declare}" if counter or declare else ""
    return (
        f"CREATE OR REPLACE FUNCTION {ident(JOURNAL_SCHEMA, name)}({', '.join(types)}) RETURNS {returns} "
        f"LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT{timeout}\n"
        f"AS {dollar_quoted(f'{chr(10)}{declared}BEGIN{chr(10)}{body}END{chr(10)}')}"
    )


def _ignoring_failure(statements: str, raised: str) -> str:
    return f"BEGIN {statements}\n      EXCEPTION WHEN {raised} THEN RAISE;\n      WHEN OTHERS THEN NULL; END;"


def announce(key: int) -> str:
    """Return the statement by which a session says, until its transaction ends, that it may wait for the target."""
    return f"PERFORM pg_catalog.pg_advisory_xact_lock_shared({_LOCK_CLASS}, {key});\n"


def patient(attempt: str, give_way: str, condition: str, handlers: str = "") -> str:
    """Return statements that try until they get their locks, or until somebody else could not go on otherwise.

    Short waits by lock_timeout are no deadlock to the server, so no client is its victim.

    :param attempt: ends in RETURN.
    :param condition: whether to give way, after a try that has failed.
    :param handlers: for what else may go wrong.
    """
    return (
        "LOOP\n"
        f"  BEGIN\n    {attempt}\n"
        "  EXCEPTION WHEN lock_not_available THEN\n"
        "    tries := tries OPERATOR(pg_catalog.+) 1;\n"
        f"    IF {condition} THEN\n      {give_way}\n    END IF;\n{handlers}"
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


@dataclass(frozen=True)
class Carry:
    """Trigger function and triggers of one link on its source table.

    :param flight: the source's flight, as it is now.
    :param level: the link's level.
    :param base: marker of a row that the oldest version wrote.
    """

    flight: Flight
    level: Level
    link: Link
    base: int

    # -- the function ---------------------------------------------------------------------

    def _arguments(self, row: str) -> list[str]:
        composer = Composer(
            self.flight, self._edges, _call, lambda cell: f"{row}.{ident(str(self.flight.cell(cell).physical))}"
        )
        return [composer.value(cell) for cell in self.link.source.cells]

    @property
    def _edges(self) -> Sequence[Edge]:
        return self.level.ups if self.link.upward else self.level.downs

    def _base_cells(self, cells: Sequence[str]) -> list[str]:
        composer = Composer(self.flight, self._edges, _call, str)
        return list(dict.fromkeys(base for cell in cells for base in composer.base(cell)))

    def _differs(self, cells: Sequence[str]) -> str:
        names = [ident(str(self.flight.cell(c).physical)) for c in self._base_cells(cells)]
        if not names:
            return "false"
        rows = (", ".join(f"{row}.{name}" for name in names) for row in ("NEW", "OLD"))
        return "pg_catalog.record_image_ne({})".format(", ".join(f"ROW({row})" for row in rows))

    def render_function(self) -> str:
        """Return CREATE OR REPLACE FUNCTION for the trigger function."""
        write = f"{self._give() if self.link.cell else self._put()}\n    RETURN NULL;"
        if self.link.upward:
            condition = f"NOT {eq('TG_OP', literal('DELETE'))} AND {waited_for_long()}"
            body = announce(self.level.migration) + patient(write, self._set_aside(), condition, self._failed())
        else:
            body = patient(write, "RETURN NULL;", waited_for(self.level.migration))
        setting = f"COALESCE(pg_catalog.current_setting({literal(_CARRYING)}, true), '')"
        declare = f"  carrying pg_catalog.text := {setting};\n  whole boolean := false;\n"
        return _plpgsql(self.link.carry, (), "trigger", f"{self._skip()}{body}", patient_=True, declare=declare)

    def _set_aside(self) -> str:
        """Text that quarantines the row: whoever updates it next carries it on, at the latest zd-complete."""
        table = ident(self.flight.schema, self.flight.name)
        code = -QUARANTINE_OFFSET - self.level.generation
        row = "ctid OPERATOR(pg_catalog.=) NEW.ctid"
        return f"UPDATE {table} SET {ident(MARKER)} = {code} WHERE {row};\n      RETURN NULL;"

    def _failed(self) -> str:
        """Text that keeps an older client's statement from failing: its row is quarantined instead."""
        return (
            f"  WHEN {RERAISED} THEN RAISE;\n  WHEN OTHERS THEN\n"
            f"    IF {eq('TG_OP', literal('DELETE'))} THEN RETURN NULL; END IF;\n"
            f"{self._leave()}    {self._set_aside()}\n"
        )

    def _skip(self) -> str:
        """Text that leaves alone what is not this side's: nothing in a deleted row says who deleted it."""
        setting = f"pg_catalog.current_setting({literal('alembic_zero.revision')}, true)"
        index = self.flight.sync_index(self._number)
        newer = [
            revision_setting(level.revision, self.flight.project)
            for n, level in enumerate(self.flight.levels, 1)
            if self.flight.sync_index(n) >= index and level.syncs
        ]
        names = f"ARRAY[{', '.join(literal(name) for name in newer)}]::pg_catalog.text[]"
        is_newer = f"COALESCE({setting} OPERATOR(pg_catalog.=) ANY ({names}), false)"
        off, up, down, client = (eq("carrying", literal(value)) for value in ("off", "up", "down", ""))
        if self.link.upward:
            skip = f"{down} OR {client} AND {is_newer}"
        else:
            skip = up if self.flight.created else f"{up} OR {client} AND NOT {is_newer}"
        return f"IF {off} OR {eq('TG_OP', literal('DELETE'))} AND ({skip}) THEN RETURN NULL; END IF;\n"

    def _give(self) -> str:
        give = f"give_{self.link.name}"
        was = _call(give, self._arguments("OLD"))
        now = _call(give, self._arguments("NEW"))
        delete, update = (eq("TG_OP", literal(event)) for event in ("DELETE", "UPDATE"))
        return (
            f"IF {delete} THEN PERFORM {was};\n"
            f"    ELSE\n      IF {update} THEN IF {self._differs(self.link.source.cells)} THEN PERFORM {was}; END IF;"
            f" END IF;\n      PERFORM {now};\n    END IF;"
        )

    def _put(self) -> str:
        old, new = self._arguments("OLD"), self._arguments("NEW")
        name = self.link.name
        put = f"put_{name}"
        undone = self._undone()
        delete, insert = (eq("TG_OP", literal(event)) for event in ("DELETE", "INSERT"))
        rekeyed = f"whole := {_call(f'rekey_{name}', [*old, *new])} IS NOT TRUE;"
        rekey = f"{rekeyed} IF whole THEN {self._vanish()} END IF;"
        # The new place is taken, or the old one stays for another: nothing comes along.
        move = f"IF {_call(f'moved_{name}', [*old, *new])} THEN whole := true; {self._inherit(rekey)} END IF;"
        # What a quarantined row was before may be just what cannot be computed.
        careful = _ignoring_failure(move, f"lock_not_available OR {RERAISED}")
        return (
            f"IF {delete} THEN {self._inherit(self._vanish())}\n"
            f"    ELSIF {insert} THEN PERFORM {_call(put, [*new, *new, 'true'])};\n"
            f"    ELSE\n      IF {undone} THEN {careful}\n      ELSE {move}\n      END IF;\n"
            f"      PERFORM {_call(put, [*new, *old, f'whole OR {undone}'])};\n    END IF;"
        )

    def _leave(self) -> str:
        """Text that, while a row is set aside, takes away what it made where it no longer is."""
        if self.link.cell:
            return ""
        moved = _call(f"moved_{self.link.name}", [*self._arguments("OLD"), *self._arguments("NEW")])
        leave = _ignoring_failure(f"IF {moved} THEN {self._inherit(self._vanish())} END IF;", RERAISED)
        return f"    IF {eq('TG_OP', literal('UPDATE'))} THEN {leave} END IF;\n"

    def _vanish(self) -> str:
        """Text that deletes the row that OLD made."""
        said = f"PERFORM pg_catalog.set_config({literal(_CARRYING)}, {{}}, true);"
        on, off = said.format(literal("up" if self.link.upward else "down")), said.format("carrying")
        return f"{on} PERFORM {_call(f'drop_{self.link.name}', self._arguments('OLD'))}; {off}"

    def _inherit(self, otherwise: str) -> str:
        """Text that gives what OLD made to another source row, or else does what it is told."""
        if not self.link.shared:
            return otherwise
        return f"IF {_call(f'heir_{self.link.name}', self._arguments('OLD'))} IS NOT TRUE THEN {otherwise} END IF;"

    # -- the triggers ---------------------------------------------------------------------

    def _name(self, event: str) -> str:
        # Before the server's own foreign key triggers: what they check must have followed by then.
        return f"!zd_carry_{self.link.name}_{event}"

    @property
    def _number(self) -> int:
        return self.flight.level_number(self.level.generation)

    def _undone(self) -> str:
        """Return the condition that the row as it was has not been carried."""
        return quarantined_below(self.flight, self._number, f"OLD.{ident(MARKER)}")

    def _writer(self) -> str:
        """Return the condition that the row was written on this link's side.

        It may have failed at a level above; then its marker says so, and who wrote it, too.
        """
        marker = f"NEW.{ident(MARKER)}"
        index = self.flight.sync_index(self._number)
        low, high = (0, index) if self.link.upward else (index, GENERATION_STRIDE)
        conditions = [f"{ge(marker, str(self.base + low))} AND {lt(marker, str(self.base + high))}"]
        for level in self.flight.levels[self._number :]:
            code = -QUARANTINE_OFFSET - level.generation
            conditions.append(f"{lt(str(code - high), marker)} AND {le(marker, str(code - low))}")
        return f"({' OR '.join(conditions)})"

    def triggers(self) -> list[tuple[str, str]]:
        """Return name and CREATE TRIGGER of each."""
        changed = f"({self._differs(self.link.source.cells)} OR {self._undone()})"
        whens = {
            "insert": f"\nWHEN ({self._writer()})",
            "update": f"\nWHEN ({self._writer()} AND {changed})",
            "delete": "",
        }
        table = ident(self.flight.schema, self.flight.name)
        function = ident(JOURNAL_SCHEMA, self.link.carry)
        return [
            (
                self._name(event),
                (
                    f"CREATE TRIGGER {ident(self._name(event))} AFTER {event.upper()} ON {table} FOR EACH ROW{when}\n"
                    f"EXECUTE FUNCTION {function}()"
                ),
            )
            for event, when in whens.items()
        ]


@dataclass(frozen=True)
class Owed:
    """The check, when a transaction commits, that no row of a table lacks what older versions need."""

    flight: Flight
    level: Level

    @property
    def function(self) -> str:
        """The trigger function's name."""
        return f"owed_{self.level.generation}"

    @property
    def trigger(self) -> str:
        """The trigger's name."""
        return f"!zd_owed_{self.level.generation}"

    def _missing(self, row: str) -> str:
        cells = [ident(str(self.flight.cell(cell).physical)) for cell in self.level.relaxed]
        return " OR ".join(f"{row}{cell} IS NULL" for cell in cells)

    def render_function(self) -> str:
        """Return CREATE OR REPLACE FUNCTION for the trigger function."""
        table = ident(self.flight.schema, self.flight.name)
        columns = idents(str(self.flight.cell(cell).physical) for cell in self.level.relaxed)
        message = (
            f"a row of table {self.flight.schema}.{self.flight.name} would be left without {columns}, which clients of "
            "the version before need: insert or keep the row that it follows from in the same transaction"
        )
        row = f"ctid OPERATOR(pg_catalog.=) NEW.ctid AND ({self._missing('')})"
        body = (
            f"IF EXISTS (SELECT FROM {table} WHERE {row}) THEN\n"
            f"  RAISE EXCEPTION USING ERRCODE = '23503', MESSAGE = {literal(message)}, "
            f"SCHEMA = {literal(self.flight.schema)}, TABLE = {literal(self.flight.name)};\nEND IF;\nRETURN NULL;\n"
        )
        return _plpgsql(self.function, (), "trigger", body, patient_=False)

    def render_trigger(self) -> tuple[str, str]:
        """Return name and CREATE CONSTRAINT TRIGGER."""
        table = ident(self.flight.schema, self.flight.name)
        return self.trigger, (
            f"CREATE CONSTRAINT TRIGGER {ident(self.trigger)} AFTER INSERT OR UPDATE ON {table}\n"
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ({self._missing('NEW.')})\n"
            f"EXECUTE FUNCTION {ident(JOURNAL_SCHEMA, self.function)}()"
        )
