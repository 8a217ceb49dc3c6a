"""Compare both representations of every row in flight, block range by block range, and say where they disagree."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.backfill import is_about_data, next_range_blocks
from alembic_zero.execute.discrepancies import (
    FORBIDDEN,
    INCONSISTENT,
    Difference,
    Discrepancy,
    Suspect,
    Unchecked,
    Verification,
)
from alembic_zero.execute.quarantine import explain_row, read_key
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.execute.verify_links import LinkVerifier
from alembic_zero.lens.comparing import Arrow, arrows_of, demands_of
from alembic_zero.lens.lens import Rule
from alembic_zero.sql.verify import QUARANTINED, READ_ONLY, RowCheck, VerifySql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.discrepancies import Leaf
    from alembic_zero.execute.locks import LockRules
    from alembic_zero.execute.progress import Progress
    from alembic_zero.execute.repair import Repairer
    from alembic_zero.lens.lens import Flight

T = TypeVar("T")

_TARGET_S = 0.2
_FIRST_RANGE_BLOCKS = 64
_SHOWN_CHARACTERS = 200


@dataclass
class Verifier:
    """Compares rows; writes nothing, and holds no lock above ACCESS SHARE for longer than a range takes.

    :param limit: how many rows of each kind are described, table by table.
    :param repairer: mends what was found, range by range; then what is found is what it has tried to mend.
    """

    work: Connection
    bare: Connection
    rules: LockRules
    progress: Progress
    limit: int = 20
    repairer: Repairer | None = None

    def run(self, flights: Sequence[Flight]) -> Verification:
        """Compare the rows of tables in flight, as far as the levels in *flights* go."""
        found = Verification()
        unsteady = {row["name"]: bool(row["reads"]) for row in read_rows(self.bare, "unsteady_functions")}
        for flight in flights:
            if flight.has_marker:
                self._compare(flight, found, unsteady)
        LinkVerifier(self).run(flights, found, list(unsteady))
        return found

    def _compare(self, flight: Flight, found: Verification, unsteady: dict[str, bool]) -> None:
        label = flight.label
        sql = VerifySql(flight, tuple(self._checks(flight, found, unsteady)))
        found.tables.append(label)
        for leaf, first, end in self.ranges(flight, label):
            self._range(sql, leaf, first, end, found)

    def ranges(self, flight: Flight, name: str) -> Iterator[tuple[Leaf, int, int]]:
        """Yield block ranges of a table's leaves, of the size that the time taken by the last one suggests."""
        for leaf in read_rows(self.bare, "leaves", oid=flight.relation):
            block, size = 0, _FIRST_RANGE_BLOCKS
            with self.progress.follow(f"verifying {name}", leaf["blocks"]) as course:
                while block <= leaf["blocks"]:
                    started = time.monotonic()
                    yield (leaf["schema"], leaf["name"]), block, block + size
                    block += size
                    size = next_range_blocks(size, time.monotonic() - started, _TARGET_S)
                    course.reach(block)

    # -- what can be compared -------------------------------------------------------------

    @staticmethod
    def _checks(flight: Flight, found: Verification, unsteady: dict[str, bool]) -> Iterator[RowCheck]:
        linked = {e.function for level in flight.levels for e in (*level.ups, *level.downs) if e.linked}
        for number, level in enumerate(flight.levels, 1):
            demands = demands_of(flight, number, {*unsteady, *linked})
            held = [demand for demand in demands if demand.excuses is not None]
            yield from (RowCheck(number, demand=demand) for demand in held)
            steady = [r for r in level.rules if r.function not in unsteady]
            yield from (RowCheck(number, rule=rule) for rule in steady)
            yield from (RowCheck(number, rule=Rule(None, (cell,))) for cell in level.relaxed)
            left = {demand.arrow for demand in held}
            arrows = [a for up in (True, False) for a in arrows_of(flight, number, upward=up)]
            for arrow in [a for a in arrows if a not in left and not a.functions & linked]:
                reason = _reason(arrow, unsteady)
                found.unchecked.append(Unchecked(flight.label, _name(flight, arrow.target), level.revision, reason))

    # -- a range --------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Read in one snapshot, in a transaction that cannot write."""
        with self.work.begin():
            send(self.work, READ_ONLY)
            self.rules.set_timeout(self.work)
            yield

    def _range(self, sql: VerifySql, leaf: Leaf, first: int, end: int, found: Verification) -> None:
        try:
            suspects = self._patiently(
                lambda: [Suspect(leaf, *row) for row in send(self.work, sql.suspects(leaf, first, end))], sql, found
            )
        except DBAPIError as error:
            if not is_about_data(error):
                raise
            suspects = self._narrow(sql, leaf, first, end, found)
        if self.repairer is None:
            self._explain(sql, suspects, found)
            return
        for suspect in suspects:
            self.repairer.mend(sql, suspect)

    def _narrow(self, sql: VerifySql, leaf: Leaf, first: int, end: int, found: Verification) -> Sequence[Suspect]:
        """Look at a range in which an expression raises in smaller ones, in the end at its rows one by one."""
        if end - first > 1:
            middle = (first + end) // 2
            self._range(sql, leaf, first, middle, found)
            self._range(sql, leaf, middle, end, found)
            return ()

        def look() -> list[Suspect]:
            tids = [str(row[0]) for row in send(self.work, sql.tids(leaf, first, end))]
            return [suspect for tid in tids if (suspect := self._look(sql, leaf, tid))]

        return self._patiently(look, sql, found)

    def _patiently(self, look: Callable[[], list[Suspect]], sql: VerifySql, found: Verification) -> Sequence[Suspect]:
        """Return what *look* finds in one snapshot, and list it."""

        def look_and_list() -> list[tuple[Suspect, Discrepancy | None]]:
            return self._list(sql, look(), found)

        listed = self.read(sql.flight, look_and_list)
        found.discrepancies += [discrepancy for _, discrepancy in listed if discrepancy is not None]
        found.counts.update((sql.flight.label, _kind(sql, suspect)) for suspect, _ in listed)
        return [suspect for suspect, _ in listed]

    def read(self, flight: Flight, look: Callable[[], list[T]]) -> list[T]:
        """Return what *look* finds in one snapshot; looks again if somebody holds the table."""
        seen: list[T] = []

        def attempt() -> None:
            with self._snapshot():
                seen[:] = look()

        self.rules.retry(f"verify {flight.label}", self.work, attempt)
        return seen

    def _look(self, sql: VerifySql, leaf: Leaf, tid: str) -> Suspect | None:
        """Return what is wrong with a row, each of its values computed by itself: one that raises does not hold."""
        try:
            with self.work.begin_nested():
                row = send(self.work, sql.suspect(leaf, tid)).one_or_none()
        except DBAPIError as error:
            if not is_about_data(error):
                raise
        else:
            return None if row is None else Suspect(leaf, *row)
        state = self._value(sql, leaf, tid, sql.state())[0]
        failed = tuple(n for n, check in enumerate(sql.checks) if self._fails(sql, leaf, tid, check))
        return Suspect(leaf, tid, state, failed) if state or failed else None

    def _fails(self, sql: VerifySql, leaf: Leaf, tid: str, check: RowCheck) -> bool:
        value = partial(self._value, sql, leaf, tid)
        if not value(sql.reached(check.level))[0]:
            return False
        if check.demand is None:
            return value(sql.breaks(check))[0] is True

        def holds(arrow: Arrow) -> bool:
            return value(sql.holds(arrow))[0] is True

        excuses = check.demand.excuses or ()
        return not holds(check.demand.arrow) and not any(all(map(holds, excuse)) for excuse in excuses)

    def _value(self, sql: VerifySql, leaf: Leaf, tid: str, value: str) -> tuple[Any, str | None]:
        """Return a value of a row, or None and the error that there is in its place."""
        return self.text_of(sql.of_row(leaf, tid, value))

    def text_of(self, query: str) -> tuple[Any, str | None]:
        """Return the one value of a query, or None and the error that there is in its place."""
        try:
            with self.work.begin_nested():
                return send(self.work, query).scalar_one_or_none(), None
        except DBAPIError as error:
            if not is_about_data(error):
                raise
            return None, describe_error(error)

    # -- saying so ------------------------------------------------------------------------

    def _list(
        self, sql: VerifySql, suspects: Sequence[Suspect], found: Verification
    ) -> list[tuple[Suspect, Discrepancy | None]]:
        """Return suspects, the first of each kind described."""
        counts = found.counts.copy()
        listed = []
        for suspect in suspects:
            place = (sql.flight.label, _kind(sql, suspect))
            counts[place] += 1
            listed.append((suspect, self._describe(sql, suspect) if counts[place] <= self.limit else None))
        return listed

    def key_of(self, flight: Flight, leaf: Leaf, tid: str) -> str:
        """Return what tells a row from others, for a person."""
        words, shown = read_key(self.work, flight)
        return f"{words}={self.text_of(VerifySql(flight).of_row(leaf, tid, shown))[0]}"

    def _describe(self, sql: VerifySql, suspect: Suspect) -> Discrepancy:
        key = self.key_of(sql.flight, suspect.leaf, suspect.tid)
        label, kind = sql.flight.label, _kind(sql, suspect)
        if suspect.state is not None:
            return Discrepancy(kind, label, key, place=(suspect.leaf, suspect.tid))
        checks = [sql.checks[n] for n in suspect.failed]
        revision = sql.flight.levels[checks[0].level - 1].revision
        differences = tuple(self._difference(sql, suspect, c.demand.arrow) for c in checks if c.demand is not None)
        broken = "; ".join(_broken(sql.flight, c.rule) for c in checks if c.rule is not None)
        return Discrepancy(kind, label, key, revision, differences, broken or None)

    def _explain(self, sql: VerifySql, suspects: Sequence[Suspect], found: Verification) -> None:
        """Add why rows are quarantined; what follows in other tables is tried by writing it, and taken back."""
        places = {(s.leaf, s.tid) for s in suspects if s.state == QUARANTINED}
        for number, discrepancy in enumerate(found.discrepancies):
            if discrepancy.kind != QUARANTINED or discrepancy.error is not None or discrepancy.place not in places:
                continue
            with self.work.begin():
                self.rules.set_timeout(self.work)
                error = explain_row(self.work, sql.flight, *discrepancy.place)
            found.discrepancies[number] = replace(discrepancy, error=error)

    def _difference(self, sql: VerifySql, suspect: Suspect, arrow: Arrow) -> Difference:
        stored, _ = self._value(sql, suspect.leaf, suspect.tid, f"({sql.stored(arrow)})::text")
        derived, error = self._value(sql, suspect.leaf, suspect.tid, f"({sql.derived(arrow)})::text")
        return self.difference(sql.flight, arrow, stored, derived, error)

    @staticmethod
    def difference(
        flight: Flight, arrow: Arrow, stored: str | None, derived: str | None, error: str | None
    ) -> Difference:
        """Return in what an arrow's target is not what follows."""
        number = arrow.level if arrow.upward else arrow.level - 1
        revision = flight.levels[number - 1].revision if number else None
        return Difference(_name(flight, arrow.cell), revision, _cut(stored), _cut(derived), error)


def _kind(sql: VerifySql, suspect: Suspect) -> str:
    if suspect.state is not None:
        return suspect.state
    return FORBIDDEN if all(sql.checks[n].rule is not None for n in suspect.failed) else INCONSISTENT


def _cut(value: str | None) -> str | None:
    return value if value is None or len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."


def _name(flight: Flight, cell: str) -> str:
    """Return what the newest version that shows a cell calls it."""
    for number in range(len(flight.levels), -1, -1):
        for name, shown in flight.shape_at(number):
            if shown == cell:
                return name
    return cell


def _broken(flight: Flight, rule: Rule) -> str:
    if rule.check is not None:
        return f"violates check constraint {rule.name!r}"
    return f"null value in column {_name(flight, rule.cells[0])!r}"


def _reason(arrow: Arrow, unsteady: dict[str, bool]) -> str:
    functions = arrow.functions
    if any(unsteady.get(name) for name in functions):
        return "reads a table"
    if functions & unsteady.keys():
        return "not the same each time: volatile, or asks for the time or the session"
    what = "newer" if arrow.upward else "older"
    return f"clients of the {what} version may write it, or what it follows from, and nothing follows from that"
