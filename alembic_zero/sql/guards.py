"""Triggers that keep an older version's row from breaking a UNIQUE or a foreign key on what it derives.

The server itself would refuse the row, and with it a statement whose author knows nothing of the
constraint. So the trigger looks first, and quarantines the row. Nobody waits in the server's lock
queue for that: a wait is a try, repeated for a moment, so that no client can become a deadlock's
victim by it; who cannot find out in that time quarantines, which harms no data.

They run as the migrating role, as clients may not see the rows that are in the way, and are closed:
nobody can ask them anything but by writing a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.lens.lens import GENERATION_STRIDE, QUARANTINE_OFFSET
from alembic_zero.names import JOURNAL_SCHEMA, KEY_SLOTS, MARKER
from alembic_zero.sql.ddl import close_function, revoke_from_all
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.markers import done_condition, eq, ge, le, lt
from alembic_zero.sql.patience import render_plpgsql
from alembic_zero.sql.preflight import SHOWN_ROWS
from alembic_zero.sql.quoting import ident, literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic_zero.lens.lens import Flight, Level, NewForeignKey, UniqueGuard

_SLOTS = 65_536
_NEEDS_NO_QUOTES = re.compile(r"[a-z_][a-z0-9_]*")
_TRIES = 30
_PAUSE = "PERFORM pg_catalog.pg_sleep(0.005);"


def create_key_slots() -> list[str]:
    """Return the statements that make the rows which writers of equal keys lock.

    Row locks and not advisory ones: those of a statement of many thousand rows would fill the lock table,
    which all sessions of the server share.
    """
    table = ident(JOURNAL_SCHEMA, KEY_SLOTS)
    return [
        f"CREATE TABLE IF NOT EXISTS {table} (slot integer PRIMARY KEY)",
        revoke_from_all(table),
        f"INSERT INTO {table} SELECT generate_series(0, {_SLOTS - 1}) ON CONFLICT DO NOTHING",
    ]


@dataclass(frozen=True)
class _Guard:
    """What guards of one level have in common."""

    flight: Flight
    level: Level

    @property
    def _number(self) -> int:
        return self.flight.level_number(self.level.generation)

    @property
    def _index(self) -> int:
        return self.flight.sync_index(self._number)

    @property
    def _base(self) -> int:
        # What was derived from another table is not any more, once they are untied.
        return self.flight.backfilled_generation() or self.level.generation

    @property
    def _table(self) -> str:
        return ident(self.flight.schema, self.flight.name)

    def _physical(self, cell: str) -> str:
        return ident(str(self.flight.cell(cell).physical))

    def _differs(self, cells: Sequence[str]) -> str:
        new, old = (", ".join(f"{row}.{self._physical(c)}" for c in cells) for row in ("NEW", "OLD"))
        return f"pg_catalog.record_image_ne(ROW({new}), ROW({old}))"

    def _writer(self) -> str:
        """Return the number of the version that has written NEW, which its marker tells."""
        marker = f"NEW.{ident(MARKER)}"
        cases = [f"WHEN {ge(marker, str(self._base))} THEN {marker} OPERATOR(pg_catalog.-) {self._base}"]
        for level in self.flight.levels:
            code = -QUARANTINE_OFFSET - level.generation
            within = f"{le(marker, str(code))} AND {lt(str(code - GENERATION_STRIDE), marker)}"
            cases.append(f"WHEN {within} THEN {code} OPERATOR(pg_catalog.-) {marker}")
        return f"CASE {' '.join(cases)} ELSE 0 END"

    def _nulled(self) -> list[str]:
        """Return the columns that quarantine leaves NULL: what this level derives, and those above it."""
        edges = [edge for level in self.flight.levels[self._number - 1 :] for edge in level.ups]
        cells = [self.flight.cell(edge.target) for edge in edges]
        return list(dict.fromkeys(ident(str(c.physical)) for c in cells if c.physical and not c.generated))

    @property
    def _code(self) -> str:
        return f"{-QUARANTINE_OFFSET - self.level.generation} OPERATOR(pg_catalog.-) _zd_writer"


@dataclass(frozen=True)
class UniqueGuardSql(_Guard):
    """Trigger function and triggers of one unique index."""

    guard: UniqueGuard

    @property
    def function(self) -> str:
        """The trigger function's name."""
        return self.guard.function

    def _columns(self, row: str) -> str:
        return ", ".join(f"{row}.{self._physical(cell)} AS {ident(name)}" for name, cell in self.guard.inputs)

    def _keys(self) -> list[str]:
        pairs = zip(self.guard.keys, self.guard.collations, strict=True)
        return [f"(({key}){f' COLLATE {collation}' if collation else ''})" for key, collation in pairs]

    def _key_of(self, row: str) -> str:
        """Return a query of the key of a row, in columns k0, k1, ..., whether it counts, and its slot."""
        names = [f"_zd_k{n}" for n in range(len(self.guard.keys))]
        keys = ", ".join(f"{key} AS {name}" for key, name in zip(self._keys(), names, strict=True))
        counts = " AND ".join([f"({self.guard.predicate or 'true'})", *(f"{name} IS NOT NULL" for name in names)])
        return (
            f"SELECT k.*, ({counts}) AS _zd_counts, {self._slot(names)} AS _zd_slot\n"
            f"    FROM (SELECT {keys}, n.* FROM (SELECT {self._columns(row)}) AS n) AS k"
        )

    def _plain_keys(self) -> list[str] | None:
        """Return the values of NEW that are its key, None where that takes more than columns."""
        columns = {ident(name): self._physical(cell) for name, cell in self.guard.inputs}
        columns |= {name: self._physical(cell) for name, cell in self.guard.inputs if _NEEDS_NO_QUOTES.fullmatch(name)}
        if self.guard.predicate or not columns.keys() >= set(self.guard.keys):
            return None
        return [f"NEW.{columns[key]}" for key in self.guard.keys]

    def _find_key(self) -> tuple[str, list[str]]:
        """Return statements that set *slot*, or return if no key counts; and the key's values."""
        plain = self._plain_keys()
        if plain is None:
            values = [f"_zd_key._zd_k{n}" for n in range(len(self.guard.keys))]
            find = f"  {self._key_of('NEW')} INTO _zd_key;\n"
            return f"{find}  IF _zd_key._zd_counts IS NOT TRUE THEN RETURN NEW; END IF;\n", values
        pairs = zip(plain, self.guard.collations, strict=True)
        hashed = [f"{value}{f' COLLATE {collation}' if collation else ''}" for value, collation in pairs]
        missing = " OR ".join(f"{value} IS NULL" for value in plain)
        # Expressions only, which PL/pgSQL evaluates without a query.
        return f"  IF {missing} THEN RETURN NEW; END IF;\n  _zd_slot := {self._slot(hashed)};\n", plain

    def _slot(self, values: Sequence[str]) -> str:
        # What the index takes for equal has one hash; that the other way round need not be true.
        number = f"pg_catalog.hash_record_extended(ROW({', '.join(values)}), {self.level.generation})"
        return f"({number if self.guard.hashed else self.level.generation} OPERATOR(pg_catalog.&) {_SLOTS - 1})"

    def _equal(self, columns: str, values: Sequence[str]) -> str:
        """Return FROM and WHERE for the rows whose key has these values."""
        conditions = [
            f"{mine} {operator} {value}"
            for mine, operator, value in zip(self._keys(), self.guard.equals, values, strict=True)
        ]
        conditions += [f"({self.guard.predicate})"] if self.guard.predicate else []
        rows = f"SELECT t.tableoid AS _zd_table, t.ctid AS _zd_tid, {columns} FROM {self._table} AS t"
        return f"FROM ({rows}) AS t\n      WHERE {' AND '.join(conditions)}"

    def render_function(self) -> str:
        """Return CREATE OR REPLACE FUNCTION for the trigger function."""
        own = f"{eq('t._zd_tid', '_zd_own')} AND {eq('t._zd_table', 'TG_RELID')}"
        find, values = self._find_key()
        slot = "_zd_slot" if self._plain_keys() else "_zd_key._zd_slot::pg_catalog.int4"
        others = f"{self._equal(self._columns('t'), values)} AND NOT COALESCE({own}, false)"
        newer = le(str(self._index), "_zd_writer")
        nulls = "".join(f"  NEW.{column} := NULL;\n" for column in self._nulled())
        body = (
            f"  IF {eq('TG_OP', literal('UPDATE'))} THEN _zd_own := OLD.ctid; END IF;\n"
            f"{find}  LOOP\n"
            f"    PERFORM FROM {ident(JOURNAL_SCHEMA, KEY_SLOTS)} AS s\n"
            f"      WHERE {eq('s.slot', slot)} FOR NO KEY UPDATE SKIP LOCKED;\n"
            # From here on until the end of the transaction, nobody else writes an equal key without looking.
            "    IF FOUND THEN\n"
            f"      IF {newer} THEN RETURN NEW; END IF;\n"
            f"      PERFORM {others} LIMIT 1;\n"
            "      IF NOT FOUND THEN RETURN NEW; END IF;\n"
            # A row that somebody is about to delete may be none, by the time that is certain.
            f"      PERFORM {others} LIMIT 1 FOR KEY SHARE OF t SKIP LOCKED;\n"
            "      EXIT WHEN FOUND;\n"
            "    END IF;\n"
            "    tries := tries OPERATOR(pg_catalog.+) 1;\n"
            f"    EXIT WHEN {le(str(_TRIES), 'tries')};\n"
            f"    {_PAUSE}\n"
            "  END LOOP;\n"
            # A newer version's row is the index's own business, which knows how to wait.
            f"  IF {newer} THEN RETURN NEW; END IF;\n"
            f"{nulls}  NEW.{ident(MARKER)} := {self._code};\n  RETURN NEW;\n"
        )
        held = "_zd_slot int" if self._plain_keys() else "_zd_key record"
        declare = f"  tries int := 0;\n  _zd_own tid;\n  {held};\n  _zd_writer int := {self._writer()};\n"
        return render_plpgsql(self.function, (), "trigger", body, waits=False, declare=declare, columns_first=True)

    def _trigger(self, suffix: str, event: str, when: str = "") -> tuple[str, str]:
        # Of all BEFORE triggers the last one: what it has looked at must not change any more.
        name = f"{self.flight.last_trigger.replace('~zd_sync', '~zd_unique')}_{self.function}_{suffix}"
        condition = f"\nWHEN ({when})" if when else ""
        return name, (
            f"CREATE TRIGGER {ident(name)} BEFORE {event} ON {self._table} FOR EACH ROW{condition}\n"
            f"EXECUTE FUNCTION {ident(JOURNAL_SCHEMA, self.function)}()"
        )

    def triggers(self, watched: Sequence[str]) -> list[tuple[str, str]]:
        """Return name and CREATE TRIGGER of each.

        :param watched: the cells with whose change the synchronising trigger begins.
        """
        changed = self._differs([cell for _, cell in self.guard.inputs])
        insert = self._trigger("insert", "INSERT")
        if self.flight.user_triggers:
            return [insert, self._trigger("update", "UPDATE", changed)]
        done = done_condition(self.flight, f"OLD.{ident(MARKER)}")
        columns = ", ".join(self._physical(cell) for cell in watched)
        return [
            insert,
            self._trigger("update", f"UPDATE OF {columns}", f"{done} AND {changed}"),
            self._trigger("todo", "UPDATE", f"NOT {done} AND {changed}"),
        ]

    def render_repeated(self, values: Mapping[str, str], shown: str, skipped: str | None) -> str:
        """Return the query for some rows whose keys are equal, by name and key; before there is anything of ours.

        :param values: SQL over the row ``t`` for cells that are derived.
        :param shown: SQL over ``t`` that names a row, as text.
        :param skipped: SQL that is true for rows that do not count.
        """
        listed = ", ".join(
            f"{values.get(cell) or f't.{self._physical(cell)}'} AS {ident(name)}" for name, cell in self.guard.inputs
        )
        names = [f"_zd_k{n}" for n in range(len(self.guard.keys))]
        keys = ", ".join(f"{key} AS {name}" for key, name in zip(self._keys(), names, strict=True))
        rest = f" WHERE NOT ({skipped})" if skipped else ""
        counted = f" WHERE {self.guard.predicate}" if self.guard.predicate else ""
        filled = " AND ".join(f"{name} IS NOT NULL" for name in names)
        pairs = zip(names, self.guard.equals, strict=True)
        same = " AND ".join(f"k.{name} {operator} d.{name}" for name, operator in pairs)
        return (
            f"WITH keyed AS (SELECT n._zd_row, {keys} FROM (SELECT {shown} AS _zd_row, {listed}\n"
            f"    FROM {self._table} AS t{rest} OFFSET 0) AS n{counted}),\n"
            f"repeated AS (SELECT {', '.join(names)} FROM keyed WHERE {filled} GROUP BY {', '.join(names)}\n"
            f"             HAVING count(*) > 1 LIMIT {SHOWN_ROWS})\n"
            f"SELECT k._zd_row, ROW({', '.join(f'k.{name}' for name in names)})::text\n"
            f"  FROM keyed AS k JOIN repeated AS d ON {same} ORDER BY 2, 1 LIMIT {SHOWN_ROWS}"
        )

    def render_conflict(self, values: Mapping[str, str], shown: str, leaf: tuple[str, str], tid: str) -> str:
        """Return the query for what is in the way of one row, as a sentence; no row if nothing is.

        :param values: SQL over the row ``t`` for cells that are derived.
        :param shown: SQL over ``t`` that names a row, as text.
        :param leaf: the table that holds the row, by schema and name.
        :param tid: where it is there.
        """
        listed = ", ".join(
            f"{values.get(cell) or f't.{self._physical(cell)}'} AS {ident(name)}" for name, cell in self.guard.inputs
        )
        keys = ", ".join(f"{key} AS _zd_k{n}" for n, key in enumerate(self._keys()))
        counted = f" WHERE {self.guard.predicate}" if self.guard.predicate else ""
        names = [f"key._zd_k{n}" for n in range(len(self._keys()))]
        found = self._equal(f"{shown} AS shown, {self._columns('t')}", names)
        row = f"FROM ONLY {ident(*leaf)} AS t WHERE t.ctid = {literal(tid)}::tid"
        own = f"t._zd_tid = {literal(tid)}::tid AND t._zd_table = {literal(ident(*leaf))}::regclass"
        message = literal(f"duplicate key value violates unique constraint {self.guard.name!r}: ")
        return (
            f"SELECT {message} || ROW({', '.join(names)})::text || ' is the key of row ' || o.shown\n"
            f"  FROM (SELECT {keys} FROM (SELECT {listed} {row} OFFSET 0) AS n{counted} OFFSET 0) AS key,\n"
            f"  LATERAL (SELECT t.shown {found} AND NOT ({own}) LIMIT 1) AS o"
        )


@dataclass(frozen=True)
class KeyGuardSql(_Guard):
    """Functions and trigger of one foreign key.

    An AFTER trigger, by name before the server's own: like that it sees what the whole statement, or for a
    deferred key the whole transaction, has written.
    """

    key: NewForeignKey

    @property
    def functions(self) -> tuple[str, str, str]:
        """Names of the trigger function, and of what finds the referenced row, with a lock and without one."""
        return self.key.guard, f"keep_{self.key.guard}", f"seen_{self.key.guard}"

    @property
    def name(self) -> str:
        """The trigger's name."""
        return f"!zd_{self.key.guard}"

    def render_functions(self) -> list[str]:
        """Return the statements that create the functions, closed to everybody else."""
        types = [self.flight.cell(cell).type for cell in self.key.cells]
        _, kept, seen = self.functions
        pairs = enumerate(self.key.physical_keys, 1)
        condition = " AND ".join(f"p.{ident(column)} = ${n}" for n, column in pairs)
        found = f"SELECT true FROM {self.key.referenced} AS p WHERE {condition}"
        bodies = {kept: f"{found} FOR KEY SHARE OF p SKIP LOCKED", seen: f"{found} LIMIT 1"}
        # Early-bound: the referenced table's contract may rename its columns before this one's.
        texts = [
            f"CREATE OR REPLACE FUNCTION {ident(JOURNAL_SCHEMA, name)}({', '.join(types)}) RETURNS boolean "
            f"LANGUAGE sql VOLATILE\nBEGIN ATOMIC\n  {body};\nEND"
            for name, body in bodies.items()
        ]
        return [
            *texts,
            *(close_function(JOURNAL_SCHEMA, name) for name in (kept, seen)),
            *self.render_trigger_function(),
        ]

    def render_trigger_function(self) -> list[str]:
        """Return the statements that create the trigger function, whose text names this table's columns."""
        values = [f"NEW.{self._physical(cell)}" for cell in self.key.cells]
        name, kept, seen = self.functions
        sets = ", ".join(f"{column} = NULL" for column in self._nulled())
        row = f"t.ctid OPERATOR(pg_catalog.=) NEW.ctid AND {eq('t.tableoid', 'TG_RELID')}"
        body = (
            "  LOOP\n"
            f"    IF {render_call(JOURNAL_SCHEMA, kept, values)} THEN RETURN NULL; END IF;\n"
            f"    EXIT WHEN {render_call(JOURNAL_SCHEMA, seen, values)} IS NOT TRUE;\n"
            # Somebody is deleting it, or not.
            "    tries := tries OPERATOR(pg_catalog.+) 1;\n"
            f"    EXIT WHEN {le(str(_TRIES), 'tries')};\n"
            f"    {_PAUSE}\n"
            "  END LOOP;\n"
            f"  UPDATE {self._table} AS t SET {sets}, {ident(MARKER)} = {self._code} WHERE {row};\n"
            "  RETURN NULL;\n"
        )
        declare = f"  tries int := 0;\n  _zd_writer int := {self._writer()};\n"
        text = render_plpgsql(name, (), "trigger", body, waits=False, declare=declare, columns_first=True)
        return [text, close_function(JOURNAL_SCHEMA, name)]

    def render_triggers(self) -> list[tuple[str, str]]:
        """Return name and CREATE TRIGGER."""
        kind, timing = ("CONSTRAINT TRIGGER", f"\n{self._deferral}") if self._deferral else ("TRIGGER", "")
        function = ident(JOURNAL_SCHEMA, self.functions[0])
        when = {"INSERT": self._asked(), "UPDATE": f"{self._asked()} AND {self._differs(self.key.cells)}"}
        names = {event: f"{self.name}_{event.lower()}" for event in when}
        return [
            (
                names[event],
                (
                    f"CREATE {kind} {ident(names[event])} AFTER {event} ON {self._table}{timing} FOR EACH ROW\n"
                    f"WHEN ({condition})\nEXECUTE FUNCTION {function}()"
                ),
            )
            for event, condition in when.items()
        ]

    @property
    def _deferral(self) -> str:
        _, found, rest = self.key.suffix.partition(" DEFERRABLE")
        if not found or self.key.suffix.endswith(" NOT DEFERRABLE"):
            return ""
        return f"DEFERRABLE{' INITIALLY DEFERRED' if 'INITIALLY DEFERRED' in rest else ''}"

    def _asked(self) -> str:
        """Return the condition that an older version has written a row which references something."""
        filled = " AND ".join(f"NEW.{self._physical(cell)} IS NOT NULL" for cell in self.key.cells)
        return f"{filled} AND {lt(self._writer(), str(self._index))}"

    def render_orphans(self, values: Mapping[str, str], shown: str, skipped: str | None) -> str:
        """Return the query for some rows whose referenced row is missing, by name and key.

        :param values: SQL over the row ``t`` for cells that are derived.
        :param shown: SQL over ``t`` that names a row, as text.
        :param skipped: SQL that is true for rows that do not count.
        """
        names = [f"_zd_k{n}" for n in range(len(self.key.cells))]
        listed = ", ".join(
            f"{values.get(cell) or f't.{self._physical(cell)}'} AS {name}"
            for cell, name in zip(self.key.cells, names, strict=True)
        )
        pairs = zip(self.key.physical_keys, names, strict=True)
        found = " AND ".join(f"p.{ident(column)} = n.{name}" for column, name in pairs)
        filled = " AND ".join(f"n.{name} IS NOT NULL" for name in names)
        rest = f" WHERE NOT ({skipped})" if skipped else ""
        return (
            f"SELECT n._zd_row, ROW({', '.join(f'n.{name}' for name in names)})::text\n"
            f"  FROM (SELECT {shown} AS _zd_row, {listed} FROM {self._table} AS t{rest} OFFSET 0) AS n\n"
            f" WHERE {filled} AND NOT EXISTS (SELECT FROM {self.key.referenced} AS p WHERE {found}) LIMIT {SHOWN_ROWS}"
        )

    def render_settle(self) -> str:
        """Return the statement that quarantines rows from before the trigger whose referenced row is missing."""
        pairs = zip(self.key.cells, self.key.physical_keys, strict=True)
        found = " AND ".join(f"p.{ident(column)} = t.{self._physical(cell)}" for cell, column in pairs)
        filled = " AND ".join(f"t.{self._physical(cell)} IS NOT NULL" for cell in self.key.cells)
        sets = ", ".join(f"{column} = NULL" for column in self._nulled())
        return (
            f"UPDATE {self._table} AS t SET {sets}, {ident(MARKER)} = {-QUARANTINE_OFFSET - self.level.generation}\n"
            f" WHERE {filled} AND NOT EXISTS (SELECT FROM {self.key.referenced} AS p WHERE {found})"
        )

    def render_conflict(self, values: Mapping[str, str], leaf: tuple[str, str], tid: str) -> str:
        """Return the query for what one row lacks, as a sentence; no row if it lacks nothing.

        :param values: SQL over the row ``t`` for cells that are derived.
        :param leaf: the table that holds the row, by schema and name.
        :param tid: where it is there.
        """
        listed = [values.get(cell) or f"t.{self._physical(cell)}" for cell in self.key.cells]
        names = [f"n.k{n}" for n in range(len(listed))]
        filled = " AND ".join(f"{name} IS NOT NULL" for name in names)
        message = (
            f"violates foreign key constraint {self.key.foreign_key.name!r}: {self.key.referenced} has no row with "
        )
        key = f"({', '.join(self.key.physical_keys)})="
        given = ", ".join(f"{value} AS k{n}" for n, value in enumerate(listed))
        return (
            f"SELECT {literal(message + key)} || ROW({', '.join(names)})::text\n"
            f"  FROM (SELECT {given} FROM ONLY {ident(*leaf)} AS t\n"
            f"         WHERE t.ctid = {literal(tid)}::tid OFFSET 0) AS n\n"
            f" WHERE {filled} AND {render_call(JOURNAL_SCHEMA, self.functions[2], names)} IS NOT TRUE"
        )


def unique_guards(flight: Flight) -> list[UniqueGuardSql]:
    """Return the guards of a flight's unique indexes."""
    return [UniqueGuardSql(flight, level, guard) for level in flight.levels for guard in level.guards]


def key_guards(flight: Flight, levels: Sequence[Level] | None = None) -> list[KeyGuardSql]:
    """Return the guards of the foreign keys of some levels, of all by default."""
    chosen = flight.levels if levels is None else levels
    return [KeyGuardSql(flight, level, key) for level in chosen for key in level.foreign_keys if key.guard]
