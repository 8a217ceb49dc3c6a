"""What one table's rows make of another's: functions for triggers, statements for the backfill.

All of it is early-bound SQL: it follows when tables and columns are renamed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import GENERATION_STRIDE, OLDEST_TAG, QUARANTINE_OFFSET
from alembic_zero.lens.link import read_function
from alembic_zero.names import JOURNAL_SCHEMA, MARKER
from alembic_zero.sql.ddl import close_function
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.markers import done_condition, quarantined_condition
from alembic_zero.sql.patience import announce, patient, render_plpgsql, waited_for
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic_zero.lens.lens import Flight
    from alembic_zero.lens.link import Link, Mapped, Side

_TID = "_zd_tid"
_TARGET = "_zd_t"


def found_table(lookup: str) -> str:
    """Return the table in which the backfill of a column keeps what the one join has found.

    :param lookup: the link's function, which finds the same for one row.
    """
    return ident(JOURNAL_SCHEMA, f"found_{lookup.removeprefix('lookup_')}")


def found_value(default: str | None) -> str:
    """Return a row's value, where ``f`` is what that table says of it, if anything."""
    return f"CASE WHEN f.tid IS NULL THEN {default or 'NULL'} ELSE f.value END"


def function_names(link: Link) -> list[str]:
    """Return the names of all functions of a link, callers before what they call."""
    kinds = ("lookup", "give", "lock", "read") if link.cell else ("heir", "put", "moved", "rekey", "drop", "leave")
    return [link.carry, *(f"{kind}_{link.name}" for kind in kinds)]


def call_linked(function: str, arguments: Sequence[str]) -> str:
    """Return a call of one of these functions."""
    return render_call(JOURNAL_SCHEMA, function, arguments)


def call_again(link: Link, values: Sequence[str]) -> str:
    """Return the call that carries a source row with these values of its inputs, as if it had just been written."""
    if link.cell:
        return call_linked(f"give_{link.name}", values)
    return call_linked(f"put_{link.name}", [*values, *values, "true"])


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

    def _composer(self, flight: Flight, read: Callable[[str], str], derived: frozenset[str] = frozenset()) -> Composer:
        level = flight.levels[-1]
        return Composer(flight, level.ups if self.link.upward else level.downs, self._call, read, derived)

    @staticmethod
    def _call(function: str, arguments: Sequence[str]) -> str:
        # Another link's value: held by nobody, where rows are only looked at.
        held = function.startswith("lookup_")
        return call_linked(read_function(function) if held else function, arguments)

    @property
    def _derived(self) -> frozenset[str]:
        """The target's cells that its level derives: not there yet in a row that the backfill has not visited."""
        return frozenset(edge.target for edge in self.target.levels[-1].ups)

    @property
    def fills_column(self) -> bool:
        """Whether the backfill finds a column's values by one join; a virtual cell's are part of an expression."""
        return self.link.upward and self.link.cell is not None and self.target.cell(self.link.cell).physical is not None

    @property
    def reads_derived(self) -> bool:
        """Whether rows are matched by what the target's own backfill derives."""
        return bool(self._derived & set(self.link.target.cells))

    @staticmethod
    def _stored(flight: Flight, prefix: str = "") -> Callable[[str], str]:
        return lambda cell: prefix + ident(str(flight.cell(cell).physical))

    def _rows(
        self,
        side: Side,
        flight: Flight,
        order: Sequence[tuple[str, str]] = (),
        derived: frozenset[str] = frozenset(),
    ) -> str:
        """Return a FROM item: the stored rows of a table as the link's expressions know them."""
        composer = self._composer(flight, self._stored(flight), derived)
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
        """Return CREATE FUNCTION for all but the trigger function; what has its owner's rights is closed to others."""
        if not self.link.cell:
            return self._row_functions()
        privileged = (self.link.lookup, self.link.read)
        return self._value_functions() + [close_function(JOURNAL_SCHEMA, name) for name in privileged]

    def _value_functions(self) -> list[str]:
        name, types = self.link.name, self._types(self.link.target, self.target)
        return [
            self._sql(self.link.read, types, str(self.link.type), self._find(""), definer=True),
            self._sql(
                f"lock_{name}",
                types,
                str(self.link.type),
                self._find(" FOR SHARE OF {}" + (" NOWAIT" if self.link.upward else "")),
            ),
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
        locked, unlocked = (call_linked(name, arguments) for name in (f"lock_{self.link.name}", self.link.read))
        if self.link.upward:
            body = patient(f"RETURN {locked};", f"RETURN {unlocked};", waited_for(self.key))
        else:
            body = f"{announce(self.key)}RETURN {locked};\n"
        return render_plpgsql(self.link.lookup, types, str(self.link.type), body, waits=self.link.upward)

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
        lock = f" FOR NO KEY UPDATE OF {ident(self.link.target.alias)}" + ("" if self.link.upward else " NOWAIT")
        return f"SELECT pg_catalog.count(*) FROM ({self._matching('1', lock)}) AS held"

    def _given_cells(self) -> list[tuple[str, str]]:
        """Return the physical columns that the link gives their value, with that; one column, unless it is virtual."""
        cell = self.target.cell(str(self.link.cell))
        level = self.target.levels[-1]
        edges = level.ups if self.link.upward else level.downs
        composer = self._composer(self.target, self._stored(self.target, f"{_TARGET}."))
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

    def fill_found(self, *, backfilled: bool = False) -> list[str]:
        """Return the statements that find the value of every row by one join.

        :param backfilled: whether the target's rows have their derived values.
        """
        link, table = self.link, found_table(self.link.lookup)
        alias = ident(link.target.alias, _TID)
        value = cast_untyped(str(link.value), str(link.type))
        derived = frozenset[str]() if backfilled else self._derived
        targets = self._rows(link.target, self.target, derived=derived)
        both = f"{targets}, {self._rows(link.source, self.source, link.order)}"
        rest = f" WHERE {self._where} ORDER BY {alias}, {self._order()}"
        return [
            f"DROP TABLE IF EXISTS {table}",
            f"CREATE UNLOGGED TABLE {table} (tid tid NOT NULL, value {_untyped(str(link.type))})",
            f"INSERT INTO {table} SELECT DISTINCT ON ({alias}) {alias}, {value}\n  FROM {both}\n{rest}",
            f"CREATE UNIQUE INDEX ON {table} (tid)",
        ]

    def settle(self, limit: int) -> str:
        """Return the statement that looks again for some rows whose value is not what the join has found.

        Before the version is published nobody writes such a value: the source has changed meanwhile.
        """
        ((cell, value),) = self._given_cells()
        marker = f"{_TARGET}.{ident(MARKER)}"
        found = f"CAST({found_value(self.link.default)} AS {self.link.type})"
        return (
            f"UPDATE {self._table} AS {_TARGET} SET {cell} = {value}, {ident(MARKER)} = {self.tag}\n"
            f" WHERE {_TARGET}.ctid = ANY (ARRAY(SELECT {_TARGET}.ctid FROM {self._table} AS {_TARGET}\n"
            f"   LEFT JOIN {found_table(self.link.lookup)} AS f ON f.tid = {_TARGET}.ctid\n"
            f"  WHERE {done_condition(self.target, marker)}\n"
            f"    AND pg_catalog.record_image_ne(ROW({_TARGET}.{cell}), ROW({found}))\n"
            f"  LIMIT {limit} FOR NO KEY UPDATE OF {_TARGET} SKIP LOCKED))"
        )

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

    def try_rows(self, into: str, leaf: tuple[str, str], tids: Sequence[str]) -> str:
        """Return the statement that derives rows of the target from some rows of the source, into another table.

        That has a column for each mapped one. Cells that the source's own level derives are computed, too.
        """
        derived = frozenset(edge.target for edge in self.source.levels[-1].ups)
        composer = self._composer(self.source, self._stored(self.source), derived)
        listed = [f"{composer.value(cell)} AS {ident(name)}" for name, cell in self.link.source.inputs]
        rows = (
            f"(SELECT {', '.join(listed) or '1'} FROM ONLY {ident(*leaf)}\n"
            f"    WHERE ctid = ANY ({literal(list(tids))}::tid[])) AS {ident(self.link.source.alias)}"
        )
        return f"INSERT INTO {into} {self._mapped(rows, self.link.columns)}"

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

    def _insert(self, rows: str, marker: str, conflict: str | None) -> str:
        """Return INSERT for the mapped values of *rows*; *marker* and *conflict* are SQL."""
        columns = ", ".join(self._physical(c.cell) for c in self.link.columns)
        values = ", ".join(f"v.{self._value_name(c)}" for c in self.link.columns)
        keys = ", ".join(self._physical(k) for k in self.link.key)
        return (
            f"INSERT INTO {self._table} AS {_TARGET} ({columns}, {ident(MARKER)}) OVERRIDING SYSTEM VALUE\n"
            f"    SELECT {values}, {marker} FROM ({self._mapped(rows, self.link.columns)}) AS v"
        ) + (f"\n    ON CONFLICT ({keys}) {conflict}" if conflict else "")

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
            self._sql(f"leave_{name}", types, "void", self._leave()),
        ]

    def _put(self, width: int) -> str:
        """Arguments: the row as it is, as it was, and whether all columns count as changed."""
        # Where there was no row before, the place may be taken by one of which this row has written nothing.
        before = f"({self._mapped(self._given(self.link.source, width + 1), self._key_columns())}) AS o"
        every = f"(${2 * width + 1} OR NOT EXISTS (SELECT FROM {before}))"
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

    def _leave(self) -> str:
        """Mark the row as one that should have gone, and could not: nothing else of it says so."""
        return (
            f"UPDATE {self._table} AS {_TARGET} SET {ident(MARKER)} = {self._left_marker}\n"
            f"    FROM {self._old_keys()} WHERE {self._keys_match('o')}"
        )

    @property
    def _base(self) -> int:
        return self.target.backfilled_generation() or self.target.levels[-1].generation

    @property
    def _left_marker(self) -> int:
        # There are never as many versions in flight as generations are apart.
        return self._base + GENERATION_STRIDE - 1

    # -- the backfill of rows ---------------------------------------------------------------

    def _source_rows(self) -> str:
        return self._rows(self.link.source, self.source)

    def fill_range(self, first_block: int, end_block: int, *, careful: bool) -> str:
        """Return the statement that makes the rows of one block range of the source.

        :param careful: whether some may be there already; asking costs as much again (bench/ across).
        """
        tid = ident(self.link.source.alias, _TID)
        rows = (
            f"(SELECT * FROM {self._source_rows()} WHERE {tid} >= {literal(f'({first_block},0)')}::tid"
            f" AND {tid} < {literal(f'({end_block},0)')}::tid) AS {ident(self.link.source.alias)}"
        )
        return self._insert(rows, str(self._filled_marker), "DO NOTHING" if careful else None)

    @property
    def _filled_marker(self) -> int:
        derives = bool(self.target.levels[-1].ups or self.target.levels[-1].rules)
        return self.tag if derives else self._base

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

    # -- comparing --------------------------------------------------------------------------

    def made(self, row: str) -> str:
        """Return the query of what the source row of the FROM item *row* makes; the first counts if several do.

        Its columns are for :meth:`matches` and :meth:`agrees`; of shared rows, ``tid`` is the one that counts.
        """
        if not self.link.shared:
            return self._mapped(row, self.link.columns)
        keys = f"({self._mapped(row, self._key_columns())}) AS o"
        return f"SELECT f.* FROM {keys} CROSS JOIN LATERAL ({self._first('o')}) AS f"

    def matches(self, made: str) -> str:
        """Return the condition by which the target's row is found."""
        return self._keys_match(made)

    def agrees(self, column: int, made: str) -> str:
        """Return SQL that is true if a column of the target's row is what has been made."""
        mapped = self.link.columns[column]
        stored = f"{_TARGET}.{self._physical(mapped.cell)}"
        return f"pg_catalog.record_image_eq(ROW({self.made_value(column, made)}), ROW({stored}))"

    def made_value(self, column: int, made: str) -> str:
        """Return what has been made of a column."""
        mapped = self.link.columns[column]
        return f"CAST({made}.{self._value_name(mapped)} AS {mapped.type})"

    def left_behind(self, rows: str) -> str:
        """Return the query for the tids of rows whose deletion failed, and which still follow from nothing.

        :param rows: a condition on rows of the target, called ``t``.
        """
        made = self._mapped(self._source_rows(), self._key_columns())
        target = f"(SELECT t.*, t.ctid AS {_TID} FROM {self._table} AS t WHERE {rows} OFFSET 0) AS {_TARGET}"
        return (
            f"SELECT {_TARGET}.{_TID}::text FROM {target} WHERE {_TARGET}.{ident(MARKER)} = {self._left_marker}\n"
            f"   AND NOT EXISTS (SELECT FROM ({made}) AS v WHERE {self._keys_match('v')})"
        )

    def keep(self, tid: str) -> str:
        """Return the statement after which a row counts as written by the newer version."""
        marker = self._base + self.target.sync_index(len(self.target.levels))
        return f"UPDATE {self._table} SET {ident(MARKER)} = {marker} WHERE ctid = {literal(tid)}::tid"

    def remove(self, tids: Sequence[str]) -> str:
        """Return the statement that removes rows, without a trace on the other side."""
        listed = ", ".join(f"{literal(tid)}::tid" for tid in tids)
        return f"DELETE FROM {self._table} WHERE ctid = ANY (ARRAY[{listed}])"

    def hold_source(self, tid: str) -> str:
        """Return the statement that keeps a source row from changing."""
        table = ident(self.source.schema, self.source.name)
        return f"SELECT FROM {table} WHERE ctid = {literal(tid)}::tid FOR NO KEY UPDATE"

    def carry_one(self, tid: str) -> str:
        """Return the statement that makes the row of one source row, or gives its value to the rows that match."""
        composer = self._composer(self.source, self._stored(self.source))
        values = [composer.value(cell) for cell in self.link.source.cells]
        table = ident(self.source.schema, self.source.name)
        return f"SELECT {call_again(self.link, values)} FROM {table} WHERE ctid = {literal(tid)}::tid"

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
