"""The synchronising trigger of a table in flight, compiled from all its lenses.

No operator in the body is looked up on a client's search_path: comparisons name their schema,
change is detected by record_image_ne, and users' expressions are early-bound functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import FIRST_TAG, GENERATION_STRIDE, LAST_TAG, OLDEST_TAG, QUARANTINE_OFFSET, Rule
from alembic_zero.lens.link import read_function
from alembic_zero.names import JOURNAL_SCHEMA, MARKER, revision_setting
from alembic_zero.sql.carry import RERAISED, Carry, Owed
from alembic_zero.sql.ddl import close_function
from alembic_zero.sql.functions import render_call
from alembic_zero.sql.guards import KeyGuardSql, key_guards, unique_guards
from alembic_zero.sql.markers import done_condition, eq, ge, le, lt
from alembic_zero.sql.quoting import dollar_quoted, ident, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic_zero.lens.lens import Edge, Flight, Level

FIRST_TRIGGER = "!zd_sync"
TODO_TRIGGER = "~zd_todo"

# Tags between the two triggers of a table with BEFORE triggers of its own: who wrote, and whether
# the first derivation failed. Generations stay below, so they never meet a version's tag.
_FAILED = -950_000_000


def sync_name(flight: Flight) -> str:
    """Return the name of the table's trigger function."""
    return f"sync_{flight.id}"


def last_trigger_name(existing: Iterable[str]) -> str:
    """Return a trigger name that fires after all of *existing* (BEFORE triggers fire in byte order)."""
    name = "~zd_sync"
    while any(other.encode() >= name.encode() for other in existing):
        name = "\U0010ffff" + name
    return name


def _close(function: str) -> str:
    return close_function(JOURNAL_SCHEMA, function)


@dataclass(frozen=True)
class SyncTrigger:
    """Renders function and triggers of one table.

    :param fresh: the foreign keys of the newest level are not there yet.
    """

    flight: Flight
    fresh: bool = False

    # -- which cells matter ---------------------------------------------------------------

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Return the levels that keep rows in step; the trigger knows no others."""
        return tuple(self.flight.levels[n - 1] for n in self.flight.sync_levels)

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """For each physical cell, the first and the last sync index whose versions show it."""
        spans: dict[str, tuple[int, int]] = {}
        for number in self.flight.shown_levels:
            index = self.flight.sync_index(number)
            for _, cell in self.flight.shape_at(number):
                first, _last = spans.get(cell, (index, index))
                spans[cell] = (first, index)
        # What a table that is filled was created with: only links write it.
        return {cell: (0, 0) for _, cell in self.flight.shape} | spans

    def _inputs(self) -> dict[str, None]:
        found: dict[str, None] = {}
        for level in self.levels:
            for edges in (level.ups, level.downs):
                composer = self._composer(edges)
                for edge in edges:
                    found.update(dict.fromkeys(composer.inputs(edge)))
            for rule in level.rules:
                found.update(dict.fromkeys(rule.cells))
            for link in level.links:
                composer = self._composer(level.ups if link.upward else level.downs)
                found.update(dict.fromkeys(cell for read in link.source.cells for cell in composer.base(read)))
            found.update(dict.fromkeys([*level.relaxed, *level.guarded]))
        return found

    @cached_property
    def watched(self) -> tuple[str, ...]:
        """Physical cells whose change means work: inputs, and what rules look at."""
        return tuple(c for c in self._inputs() if self._plain(c))

    @cached_property
    def flagged(self) -> tuple[str, ...]:
        """Physical cells that need a changed flag: the watched ones and every piece of evidence."""
        top = len(self.levels)
        evidence = [c for c, span in self.spans.items() if span != (0, top) and self._plain(c)]
        return tuple(dict.fromkeys([*self.watched, *evidence]))

    def _plain(self, cell_id: str) -> bool:
        cell = self.flight.cell(cell_id)
        return cell.physical is not None and not cell.generated

    # -- small pieces of text -------------------------------------------------------------

    def _composer(self, edges: Sequence[Edge]) -> Composer:
        return Composer(self.flight, edges, self._call, lambda cell: self._ref("NEW", cell))

    def _call(self, function: str, arguments: Sequence[str]) -> str:
        call = render_call(JOURNAL_SCHEMA, function, arguments)
        if function not in self._downward_lookups:
            return call
        # INSERT ... ON CONFLICT comes by here before it takes this table's row, which must be the first of the two.
        read = render_call(JOURNAL_SCHEMA, read_function(function), arguments)
        return f"CASE WHEN {eq('TG_OP', literal('INSERT'))} THEN {read} ELSE {call} END"

    @cached_property
    def _downward_lookups(self) -> frozenset[str]:
        return frozenset(e.function for level in self.levels for e in level.downs if e.linked)

    def _ref(self, row: str, cell_id: str) -> str:
        physical = self.flight.cell(cell_id).physical
        assert physical is not None  # noqa: S101 - a virtual cell never gets here
        return f"{row}.{ident(physical)}"

    def _flag(self, cell_id: str) -> str:
        return ident(f"changed_{cell_id}")

    def _image_differs(self, cells: Sequence[str]) -> str:
        new = ", ".join(self._ref("NEW", c) for c in cells)
        old = ", ".join(self._ref("OLD", c) for c in cells)
        return f"pg_catalog.record_image_ne(ROW({new}), ROW({old}))"

    @property
    def _marker_new(self) -> str:
        return f"NEW.{ident(MARKER)}"

    @property
    def _marker_old(self) -> str:
        return f"OLD.{ident(MARKER)}"

    # -- the function ---------------------------------------------------------------------

    def render_function(self) -> str:
        """Return CREATE OR REPLACE FUNCTION for the synchronising trigger's function."""
        body = self._general() if self.flight.user_triggers else f"{self._insert()}{self._general()}"
        body = f"\nBEGIN\n{body}END\n"
        rights = " SECURITY DEFINER SET search_path FROM CURRENT" if self.looks_elsewhere else ""
        return (
            f"CREATE OR REPLACE FUNCTION {ident(JOURNAL_SCHEMA, sync_name(self.flight))}() RETURNS trigger "
            f"LANGUAGE plpgsql{rights} AS {dollar_quoted(body)}"
        )

    @property
    def looks_elsewhere(self) -> bool:
        """Whether the function reads another table, which a client of this one may have no right to."""
        return any(edge.linked or edge.reads_tables for level in self.levels for edge in (*level.ups, *level.downs))

    def _insert(self) -> str:
        """Return the short way for an INSERT: everything is derived, so nothing is compared (bench/ trigger)."""
        return (
            f"IF {eq('TG_OP', literal('INSERT'))} THEN\n"
            f"DECLARE\n  writer int := {self._tag_cases()};\n  failed boolean := false;\nBEGIN\n"
            f"{self._sequences()}{self._downs(forced=True)}{self._relaxed()}{self._rules_of_writer()}"
            f"{self._ups(forced=True)}{self._finish()}  RETURN NEW;\nEND;\nEND IF;\n"
        )

    def _general(self) -> str:
        flags = "".join(f"  {self._flag(c)} boolean := false;\n" for c in self.flagged)
        return (
            "DECLARE\n  writer int;\n  synced int := 0;\n  hinted int;\n  lowest int;\n  highest int;\n"
            "  forced boolean := false;\n  failed boolean := false;\n"
            f"{flags}BEGIN\n{self._identify()}{self._sequences()}{self._downs(forced=False)}{self._relaxed()}"
            f"{self._rules_of_writer()}{self._ups(forced=False)}{self._finish()}  RETURN NEW;\nEND;\n"
        )

    def _tag_cases(self) -> str:
        cases = "".join(
            f" WHEN {eq(self._marker_new, str(-level.generation))} THEN {n}" for n, level in enumerate(self.levels, 1)
        )
        return f"CASE{cases} ELSE 0 END"

    def _identify(self) -> str:
        phases = self._after_first() if self.flight.user_triggers else ""
        return (
            f"{phases}  IF {eq('TG_OP', literal('INSERT'))} AND writer IS NULL THEN\n"
            f"    writer := {self._tag_cases()};\n    forced := true;\n"
            f"  ELSIF writer IS NULL THEN\n{self._changed_since_old()}{self._synced()}{self._told()}  END IF;\n"
        )

    def _told(self) -> str:
        """Text that finds the writer of an UPDATE; one that a link makes brings its version along."""
        if not self.flight.linked:
            return self._who()
        return f"    IF {self._is_tag()} THEN writer := {self._tag_cases()};\n    ELSE\n{self._who()}    END IF;\n"

    def _changed_since_old(self) -> str:
        return "".join(f"    {self._flag(c)} := {self._image_differs([c])};\n" for c in self.flagged)

    def _synced(self) -> str:
        """Text that finds the newest level through which OLD is synchronised."""
        lines = []
        for index, level in enumerate(self.levels, 1):
            if not level.ups:
                reached = "true"
            else:
                low = str(-QUARANTINE_OFFSET - level.generation - GENERATION_STRIDE + 1)
                reached = (
                    f"COALESCE({ge(self._marker_old, str(level.generation))} OR {lt(self._marker_old, low)}, false)"
                )
            lines.append(f"    IF {eq('synced', str(index - 1))} AND {reached} THEN synced := {index}; END IF;\n")
        return "".join(lines)

    def _who(self) -> str:
        """Text that finds the writer's version from the cells that it changed."""
        cases = {"lowest": "GREATEST", "highest": "LEAST"}
        lines = []
        for position, (variable, function) in enumerate(cases.items()):
            parts = [f"CASE WHEN {self._flag(c)} THEN {self.spans[c][position]} END" for c in self.flagged]
            default = ["0"] if variable == "lowest" else [str(len(self.levels))]
            lines.append(f"    {variable} := {function}({', '.join(parts + default)});\n")
        setting = f"pg_catalog.current_setting({literal('alembic_zero.revision')}, true)"
        hints = "".join(f" WHEN {eq(setting, literal(revision))} THEN {index}" for revision, index in self._hints())
        lines.append(f"    hinted := CASE{hints} ELSE 0 END;\n" if hints else "    hinted := 0;\n")
        lines.append(
            f"    writer := CASE WHEN {lt('highest', 'lowest')} THEN highest\n"
            f"      WHEN {le('lowest', 'hinted')} AND {le('hinted', 'highest')} THEN hinted ELSE lowest END;\n"
            # Only evidence makes a row that is not synchronised a newer version's.
            "    writer := LEAST(writer, GREATEST(synced, lowest));\n"
        )
        return "".join(lines)

    def _hints(self) -> list[tuple[str, int]]:
        return [
            (revision_setting(level.revision, self.flight.project), self.flight.sync_index(n))
            for n, level in enumerate(self.flight.levels, 1)
            if self.flight.sync_index(n)
        ]

    def _after_first(self) -> str:
        """Text for the second of two triggers: finds what a user's trigger has changed since the first."""
        setting = self._seen_setting()
        flags = "".join(
            f"      {self._flag(c)} := COALESCE(seen[{n}] OPERATOR(pg_catalog.<>) {self._digest(c)}, true);\n"
            for n, c in enumerate(self.flagged, 1)
        )
        writers = "".join(
            f" WHEN {eq(self._marker_new, str(-level.generation))} THEN {n}" for n, level in enumerate(self.levels, 1)
        )
        failing = "".join(
            f" WHEN {eq(self._marker_new, str(_FAILED - n))} THEN {n}" for n in range(len(self.levels) + 1)
        )
        anything = " OR ".join(self._flag(c) for c in self.flagged) or "false"
        return (
            f"  IF {eq('TG_ARGV[0]', literal('last'))} AND {self._is_tag()} THEN\n"
            f"    DECLARE seen pg_catalog.text[] := "
            f"pg_catalog.current_setting({setting}, true)::pg_catalog.text[];\n    BEGIN\n"
            f"      synced := {len(self.levels)};\n"
            f"      forced := {le(self._marker_new, str(_FAILED))};\n"
            f"      hinted := CASE{writers}{failing} ELSE 0 END;\n{flags}"
            f"      writer := hinted;\n      IF {anything} THEN\n{self._who_after()}      END IF;\n"
            "    END;\n  END IF;\n"
        )

    def _seen_setting(self) -> str:
        """Return the setting that carries a row's state between the two triggers.

        By nesting depth: a user's trigger may write other rows of the same table in between.
        """
        prefix = literal(f"alembic_zero.row_{self.flight.id}_")
        return f"pg_catalog.concat({prefix}, pg_catalog.pg_trigger_depth())"

    def _who_after(self) -> str:
        lines = self._who().splitlines(keepends=True)
        return "".join("    " + line for line in lines if not line.lstrip().startswith("hinted :="))

    def _digest(self, cell_id: str) -> str:
        return f"pg_catalog.md5(ROW({self._ref('NEW', cell_id)})::pg_catalog.text)"

    def _sequences(self) -> str:
        """Text for copies of identity and serial columns: the base column's number feeds both."""
        lines = []
        for index, level in enumerate(self.levels, 1):
            composer = self._composer(level.ups)
            for edge in level.ups:
                if self._plain(edge.target) and self.flight.cell(edge.target).sequence_of:
                    target = self._ref("NEW", edge.target)
                    lines.append(
                        f"  IF {eq('TG_OP', literal('INSERT'))} AND {le(str(index), 'writer')}"
                        f" AND {target} IS NULL THEN {target} := {composer.apply(edge)}; END IF;\n"
                    )
        return "".join(lines)

    def _assign(self, composer: Composer, edge: Edge, indent: str, *, forced: bool) -> str:
        if self.flight.cell(edge.target).numbers:
            # The column's default numbers new rows; a number that a row has stays.
            target = self._ref("NEW", edge.target)
            return f"{indent}IF {target} IS NULL THEN {target} := {composer.apply(edge)}; END IF;\n"
        if forced:
            return f"{indent}{self._ref('NEW', edge.target)} := {composer.apply(edge)};\n"
        cells = [c for c in composer.inputs(edge) if c in self.flagged]
        condition = " OR ".join(["forced", *(self._flag(c) for c in cells)])
        target = self._ref("NEW", edge.target)
        # What the statement wrote stays: a derived cell is never in the writer's own shape.
        flag = f" {self._mark_changed(edge.target)}" if edge.target in self.flagged else ""
        return f"{indent}IF {condition} THEN {target} := {composer.apply(edge)};{flag} END IF;\n"

    def _mark_changed(self, cell_id: str) -> str:
        """Text that flags a recomputed cell, unless it is what it was: nothing follows from that."""
        return (
            f"{self._flag(cell_id)} := true; IF {eq('TG_OP', literal('UPDATE'))} THEN "
            f"{self._flag(cell_id)} := {self._image_differs([cell_id])}; END IF;"
        )

    def _downs(self, *, forced: bool) -> str:
        text = ""
        for index in range(len(self.levels), 0, -1):
            level = self.levels[index - 1]
            composer = self._composer(level.downs)
            lines = "".join(
                self._assign(composer, edge, "    ", forced=forced)
                for edge in reversed(level.downs)
                if self._plain(edge.target)
            )
            if lines:
                text += f"  IF {le(str(index), 'writer')} THEN\n{lines}  END IF;\n"
        return text

    def _rule_failure(self, rule: Rule) -> tuple[str, str]:
        if rule.check is None:
            cell = rule.cells[0]
            column = self._logical(cell)
            message = f'null value in column "{column}" of relation "{self.flight.name}" violates not-null constraint'
            options = f"ERRCODE = '23502', COLUMN = {literal(column)}"
            return f"{self._ref('NEW', cell)} IS NULL", self._raise(message, options)
        call = self._call(str(rule.function), [self._composer(()).value(c) for c in rule.cells])
        message = f'new row for relation "{self.flight.name}" violates check constraint "{rule.name}"'
        return f"({call}) IS FALSE", self._raise(message, f"ERRCODE = '23514', CONSTRAINT = {literal(rule.name)}")

    def _raise(self, message: str, options: str) -> str:
        return (
            f"RAISE EXCEPTION USING MESSAGE = {literal(message)}, {options}, "
            f"SCHEMA = {literal(self.flight.schema)}, TABLE = {literal(self.flight.name)};"
        )

    def _logical(self, cell_id: str) -> str:
        for number in range(len(self.flight.levels), -1, -1):
            for name, cell in self.flight.shape_at(number):
                if cell == cell_id:
                    return name
        return cell_id

    def _relaxed(self) -> str:
        """Text that holds older versions to a NOT NULL that newer ones need to keep only until they commit."""
        text = ""
        for index, level in enumerate(self.levels, 1):
            for cell in level.relaxed:
                _, failure = self._rule_failure(Rule(None, (cell,)))
                text += f"  IF {lt('writer', str(index))} AND {self._ref('NEW', cell)} IS NULL THEN {failure} END IF;\n"
        return text

    def _rules_of_writer(self) -> str:
        text = ""
        for index, level in enumerate(self.levels, 1):
            for rule in level.rules:
                condition, failure = self._rule_failure(rule)
                text += f"  IF {le(str(index), 'writer')} AND {condition} THEN {failure} END IF;\n"
        return text

    def _ups(self, *, forced: bool) -> str:
        """Text that derives upwards, level by level, each behind its own quarantine."""
        text = ""
        for index, level in enumerate(self.levels, 1):
            composer = self._composer(level.ups)
            edges = [e for e in level.ups if self._plain(e.target)]
            lines = "".join(self._assign(composer, edge, "        ", forced=forced) for edge in edges)
            for rule in level.rules:
                condition, failure = self._rule_failure(rule)
                lines += f"        IF {condition} THEN {failure} END IF;\n"
            if not lines:
                continue
            nulls = "".join(f"        {self._ref('NEW', c)} := NULL;\n" for c in self._derived_from(index))
            code = str(-QUARANTINE_OFFSET - level.generation)
            code += " OPERATOR(pg_catalog.-) writer" if self.flight.tells_writer else ""
            behind = "" if forced else f"      forced := forced OR {lt('synced', str(index))};\n"
            text += (
                f"  IF {lt('writer', str(index))} AND NOT failed THEN\n{behind}      BEGIN\n{lines}"
                f"      EXCEPTION WHEN {RERAISED} THEN RAISE;\n      WHEN OTHERS THEN\n"
                f"        failed := true;\n{nulls}        {self._marker_new} := {code};\n      END;\n  END IF;\n"
            )
        return text

    def _derived_from(self, index: int) -> tuple[str, ...]:
        cells = [edge.target for level in self.levels[index - 1 :] for edge in level.ups if self._plain(edge.target)]
        return tuple(dict.fromkeys(cells))

    def _finish(self) -> str:
        value = str(self.base)
        if self.flight.tells_writer:
            value += " OPERATOR(pg_catalog.+) writer"
        last = f"  IF NOT failed THEN {self._marker_new} := {value}; END IF;\n"
        if not self.flight.user_triggers:
            return last
        setting = self._seen_setting()
        digests = f"ARRAY[{', '.join(self._digest(c) for c in self.flagged)}]::pg_catalog.text[]"
        tags = "".join(
            f" WHEN {eq('writer', str(n))} THEN {-level.generation}" for n, level in enumerate(self.levels, 1)
        )
        return (
            f"  IF {eq('TG_ARGV[0]', literal('first'))} THEN\n"
            f"    PERFORM pg_catalog.set_config({setting}, ({digests})::pg_catalog.text, true);\n"
            f"    {self._marker_new} := CASE WHEN failed THEN {_FAILED} OPERATOR(pg_catalog.-) writer"
            f"{tags} ELSE {OLDEST_TAG} END;\n  ELSE\n  {last}  END IF;\n"
        )

    @property
    def base(self) -> int:
        """The marker of a synchronised row; on a linked table the writer's number is added to it."""
        return self.flight.backfilled_generation() or self.levels[-1].generation

    # -- the triggers ---------------------------------------------------------------------

    def render_triggers(self) -> list[str]:
        """Return CREATE TRIGGER for the table, and ENABLE ALWAYS: replicas and logical apply need it too.

        With the functions of the links that begin here, whose text names this table's columns.
        """
        statements = self._all_triggers()
        table = ident(self.flight.schema, self.flight.name)
        own = [_close(sync_name(self.flight))] if self.looks_elsewhere else []
        return [
            *own,
            *(text for one in self._carries() for text in (one.render_function(), _close(one.link.carry))),
            *(text for one in self._owed() for text in (one.render_function(), _close(one.function))),
            *(text for one in unique_guards(self.flight) for text in (one.render_function(), _close(one.function))),
            *(text for one in self._key_guards() for text in one.render_trigger_function()),
            *(text for _, text in statements),
            *(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {ident(name)}" for name, _ in statements),
        ]

    def _trigger(self, name: str, event: str, when: str, argument: str) -> tuple[str, str]:
        table = ident(self.flight.schema, self.flight.name)
        function = ident(JOURNAL_SCHEMA, sync_name(self.flight))
        return name, (
            f"CREATE TRIGGER {ident(name)} BEFORE {event} ON {table} FOR EACH ROW\n"
            f"WHEN ({when}) EXECUTE FUNCTION {function}({literal(argument)})"
        )

    def _is_tag(self) -> str:
        return f"({ge(self._marker_new, str(FIRST_TAG))} AND {le(self._marker_new, str(LAST_TAG))})"

    def _insert_when(self) -> str:
        return f"{self._marker_new} IS NULL OR {self._is_tag()}"

    def _marker_untouched(self) -> str:
        return f"NOT pg_catalog.record_image_ne(ROW({self._marker_new}), ROW({self._marker_old}))"

    def _single_phase(self) -> list[tuple[str, str]]:
        done = done_condition(self.flight, self._marker_old)
        columns = ", ".join(ident(str(self.flight.cell(c).physical)) for c in self.watched)
        last = self.flight.last_trigger
        triggers = [self._trigger(f"{last}_insert", "INSERT", self._insert_when(), "only")]
        if columns:
            # An unrelated update must not even look at the values: comparing detoasts them.
            when = f"{done} AND {self._marker_untouched()} AND {self._image_differs(self.watched)}"
            triggers.append(self._trigger(last, f"UPDATE OF {columns}", when, "only"))
        whens = [f"NOT {done} AND {self._marker_untouched()}"] if done != "true" else []
        whens += [self._is_tag()] if self.flight.linked else []
        if whens:
            triggers.append(self._trigger(TODO_TRIGGER, "UPDATE", " OR ".join(whens), "only"))
        return triggers

    def _two_phases(self) -> list[tuple[str, str]]:
        done = done_condition(self.flight, self._marker_old)
        touched = f"(NOT {done} OR {self._image_differs(self.watched)})" if self.watched else f"NOT {done}"
        update_when = f"{self._marker_untouched()} AND {touched}"
        first_when = f"{self._is_tag()} OR {update_when}" if self.flight.linked else update_when
        last = self.flight.last_trigger
        return [
            self._trigger(f"{FIRST_TRIGGER}_insert", "INSERT", self._insert_when(), "first"),
            self._trigger(f"{FIRST_TRIGGER}_update", "UPDATE", first_when, "first"),
            self._trigger(f"{last}_insert", "INSERT", self._insert_when(), "last"),
            self._trigger(f"{last}_update", "UPDATE", f"{self._is_tag()} OR {update_when}", "last"),
        ]

    def trigger_names(self) -> list[str]:
        """Return the names of all triggers that :meth:`render_triggers` creates."""
        return [name for name, _ in self._all_triggers()]

    def _all_triggers(self) -> list[tuple[str, str]]:
        own = self._two_phases() if self.flight.user_triggers else self._single_phase()
        carried = [trigger for carry in self._carries() for trigger in carry.triggers()]
        guards = [trigger for one in unique_guards(self.flight) for trigger in one.triggers(self.watched)]
        guards += [trigger for one in self._key_guards() for trigger in one.render_triggers()]
        return own + carried + [owed.render_trigger() for owed in self._owed()] + guards

    def _carries(self) -> list[Carry]:
        return [Carry(self.flight, level, link, self.base) for level in self.levels for link in level.links]

    def _key_guards(self) -> list[KeyGuardSql]:
        if self.flight.backfilled_generation() is None:
            # Untied: what was derived came from another table, and its writers have ended.
            return []
        return key_guards(self.flight, self.flight.levels[:-1] if self.fresh else None)

    def _owed(self) -> list[Owed]:
        return [Owed(self.flight, level) for level in self.levels if level.relaxed]
