"""Triggers that carry what is written to a table over to those that follow from it.

They compare images, and run as the migration's role: a client needs no rights on a table that its version
does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import GENERATION_STRIDE, QUARANTINE_OFFSET
from alembic_zero.names import JOURNAL_SCHEMA, MARKER, revision_setting
from alembic_zero.sql.links import call_linked
from alembic_zero.sql.markers import eq, ge, le, lt, quarantined_below
from alembic_zero.sql.patience import announce, patient, render_plpgsql, waited_for, waited_for_long
from alembic_zero.sql.quoting import ident, idents, literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic_zero.lens.lens import Edge, Flight, Level
    from alembic_zero.lens.link import Link

RERAISED = "transaction_rollback OR operator_intervention OR insufficient_resources OR system_error OR internal_error"

# What a deletion of ours follows from, "up" or "down"; "off" where nothing is to be carried at all.
_CARRYING = "alembic_zero.carrying"


def carry_nothing(*, on: bool) -> str:
    """Return the statement after which nothing that this session writes is carried on, or everything again."""
    return f"SET {_CARRYING} = {literal('off' if on else '')}"


def _ignoring_failure(statements: str, raised: str) -> str:
    return f"BEGIN {statements}\n      EXCEPTION WHEN {raised} THEN RAISE;\n      WHEN OTHERS THEN NULL; END;"


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
            self.flight, self._edges, call_linked, lambda cell: f"{row}.{ident(str(self.flight.cell(cell).physical))}"
        )
        return [composer.value(cell) for cell in self.link.source.cells]

    @property
    def _edges(self) -> Sequence[Edge]:
        return self.level.ups if self.link.upward else self.level.downs

    def _base_cells(self, cells: Sequence[str]) -> list[str]:
        composer = Composer(self.flight, self._edges, call_linked, str)
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
            body = announce(self.level.migration) + patient(write, self._set_aside(), condition, self._failed(), 0)
        else:
            body = patient(write, "RETURN NULL;", waited_for(self.level.migration))
        setting = f"COALESCE(pg_catalog.current_setting({literal(_CARRYING)}, true), '')"
        declare = f"  carrying pg_catalog.text := {setting};\n  whole boolean := false;\n"
        return render_plpgsql(self.link.carry, (), "trigger", f"{self._skip()}{body}", waits=True, declare=declare)

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
            f"    IF {eq('TG_OP', literal('DELETE'))} THEN {self._leave_behind()}RETURN NULL; END IF;\n"
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
        was = call_linked(give, self._arguments("OLD"))
        now = call_linked(give, self._arguments("NEW"))
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
        rekeyed = f"whole := {call_linked(f'rekey_{name}', [*old, *new])} IS NOT TRUE;"
        rekey = f"{rekeyed} IF whole THEN {self._vanish()} END IF;"
        # The new place is taken, or the old one stays for another: nothing comes along.
        move = f"IF {call_linked(f'moved_{name}', [*old, *new])} THEN whole := true; {self._inherit(rekey)} END IF;"
        # What a quarantined row was before may be just what cannot be computed.
        careful = _ignoring_failure(move, f"lock_not_available OR {RERAISED}")
        return (
            f"IF {delete} THEN {self._inherit(self._vanish())}\n"
            f"    ELSIF {insert} THEN PERFORM {call_linked(put, [*new, *new, 'true'])};\n"
            f"    ELSE\n      IF {undone} THEN {careful}\n      ELSE {move}\n      END IF;\n"
            f"      PERFORM {call_linked(put, [*new, *old, f'whole OR {undone}'])};\n    END IF;"
        )

    def _leave(self) -> str:
        """Text that, while a row is set aside, takes away what it made where it no longer is."""
        if self.link.cell:
            return ""
        moved = call_linked(f"moved_{self.link.name}", [*self._arguments("OLD"), *self._arguments("NEW")])
        leave = _ignoring_failure(f"IF {moved} THEN {self._inherit(self._vanish())} END IF;", RERAISED)
        return f"    IF {eq('TG_OP', literal('UPDATE'))} THEN {leave} END IF;\n"

    def _leave_behind(self) -> str:
        """Text that marks what OLD made, and what cannot be deleted, for zd-verify."""
        if self.link.cell:
            return ""
        leave = f"PERFORM {call_linked(f'leave_{self.link.name}', self._arguments('OLD'))};"
        return f"{_ignoring_failure(leave, RERAISED)} "

    def _vanish(self) -> str:
        """Text that deletes the row that OLD made."""
        said = f"PERFORM pg_catalog.set_config({literal(_CARRYING)}, {{}}, true);"
        on, off = said.format(literal("up" if self.link.upward else "down")), said.format("carrying")
        return f"{on} PERFORM {call_linked(f'drop_{self.link.name}', self._arguments('OLD'))}; {off}"

    def _inherit(self, otherwise: str) -> str:
        """Text that gives what OLD made to another source row, or else does what it is told."""
        if not self.link.shared:
            return otherwise
        return (
            f"IF {call_linked(f'heir_{self.link.name}', self._arguments('OLD'))} IS NOT TRUE THEN {otherwise} END IF;"
        )

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
        return render_plpgsql(self.function, (), "trigger", body, waits=False)

    def render_trigger(self) -> tuple[str, str]:
        """Return name and CREATE CONSTRAINT TRIGGER."""
        table = ident(self.flight.schema, self.flight.name)
        return self.trigger, (
            f"CREATE CONSTRAINT TRIGGER {ident(self.trigger)} AFTER INSERT OR UPDATE ON {table}\n"
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ({self._missing('NEW.')})\n"
            f"EXECUTE FUNCTION {ident(JOURNAL_SCHEMA, self.function)}()"
        )
