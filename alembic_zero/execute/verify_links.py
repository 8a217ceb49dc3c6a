"""Compare rows of tables that follow from each other, and say where they do not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.execute.backfill import is_about_data
from alembic_zero.execute.discrepancies import INCONSISTENT, LEFT_BEHIND, MISSING, Difference, Discrepancy, Unchecked
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.lens.comparing import Tied
from alembic_zero.sql.verify import in_blocks
from alembic_zero.sql.verify_links import Linked, link_sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.execute.discrepancies import Leaf, Verification
    from alembic_zero.execute.verify import Verifier
    from alembic_zero.lens.comparing import Arrow, Demand
    from alembic_zero.lens.lens import Flight
    from alembic_zero.lens.link import Link
    from alembic_zero.sql.links import LinkSql

_SECOND_LOOK_S = 0.3


@dataclass(frozen=True)
class Stray:
    """A row that does not agree with what follows from it, or from which it follows.

    :param other: the ctid of the row at the other end, if there is one.
    :param failed: which demands of the link it fails; none if not even that can be computed.
    :param oldest: the oldest transaction that had not ended when it was seen; *next* the next one to begin.
    """

    tid: str
    other: str | None
    failed: tuple[int, ...] = ()
    oldest: int = 0
    next: int = 0
    error: str | None = None


def tied_tables(flights: Sequence[Flight]) -> Iterator[Tied]:
    """Yield, for each migration that has links, the tables that they tie together."""
    migrations = dict.fromkeys(n.migration for f in flights for n in f.levels if n.linked)
    for migration in migrations:
        levels = {
            f.id: number
            for f in flights
            for number, n in enumerate(f.levels, 1)
            if n.migration == migration and n.linked
        }
        yield Tied({f.id: f for f in flights if f.id in levels}, levels)


def linked_queries(tied: Tied, blind: Sequence[str]) -> tuple[list[Linked], list[Arrow]]:
    """Return the queries along each link, and the arrows to which nothing can be held."""
    demands = tied.demands(blind)
    held = [d for d in demands if d.excuses is not None]
    ends = (tied.flights, tied.numbers)
    queries = []
    for link in tied.links:
        chosen = tuple(d for d in held if _belongs(d.arrow, link, tied))
        if chosen:
            backs = tuple(Linked(link_sql(one, *ends), *ends, ()) for one in _backs(link, tied))
            queries.append(Linked(link_sql(link, *ends), *ends, chosen, backs))
    left = [d.arrow for d in demands if d.excuses is None and _is_across(d.arrow, tied)]
    return queries, left


def left_behind_queries(tied: Tied) -> Iterator[LinkSql]:
    """Yield the links by which an older version's deletion may have failed to follow."""
    return (link_sql(link, tied.flights, tied.numbers) for link in tied.links if link.upward and link.columns)


def _backs(link: Link, tied: Tied) -> list[Link]:
    """Return the links that give the source of a link values from the rows that it makes, if it makes rows."""
    ends = (link.target.flight, link.source.flight)
    backs = [one for one in tied.links if one.cell and (one.source.flight, one.target.flight) == ends]
    return backs if link.columns else []


def _is_across(arrow: Arrow, tied: Tied) -> bool:
    return arrow.edge is None or any(link.lookup in arrow.functions for link in tied.links)


def _belongs(arrow: Arrow, link: Link, tied: Tied) -> bool:
    """Return whether a demand is looked at along a link: each is along one."""
    if link.cell:
        # What older versions see of it, the link in the other direction looks at, too.
        return link.upward and arrow.flight == link.target.flight and link.lookup in arrow.functions
    looked_up = arrow.flight == link.source.flight and any(one.lookup in arrow.functions for one in _backs(link, tied))
    return arrow.link == link.name or looked_up


@dataclass
class LinkVerifier:
    """Compares rows along links, for a :class:`Verifier`."""

    verifier: Verifier

    def run(self, flights: Sequence[Flight], found: Verification, blind: Sequence[str]) -> None:
        """Compare the rows of all tables that links tie together."""
        for tied in tied_tables(flights):
            queries, left = linked_queries(tied, blind)
            for arrow in left:
                found.unchecked.append(_unchecked(tied, arrow))
            for linked in queries:
                self._compare(linked, found)
            for sql in left_behind_queries(tied):
                self._find_left_behind(sql, tied.flights[sql.link.target.flight], found)

    def _find_left_behind(self, sql: LinkSql, flight: Flight, found: Verification) -> None:
        label = flight.label
        for leaf, first, end in self.verifier.ranges(flight, f"{label} for rows left behind"):
            tids = partial(self._tids, sql.left_behind(in_blocks(first, end)))
            for tid in self.verifier.read(flight, tids):
                found.counts[label, LEFT_BEHIND] += 1
                if found.counts[label, LEFT_BEHIND] <= self.verifier.limit:
                    key = self.verifier.read(flight, partial(self._keys, flight, leaf, tid))[0]
                    error = f"the row of {sql.source.label} that it followed from is deleted, it could not be"
                    found.discrepancies.append(
                        Discrepancy(LEFT_BEHIND, label, key, flight.levels[-1].revision, error=error)
                    )
                if self.verifier.repairer is not None:
                    self.verifier.repairer.mend_left_behind(sql, tid)

    def _keys(self, flight: Flight, leaf: Leaf, tid: str) -> list[str]:
        return [self.verifier.key_of(flight, leaf, tid)]

    def _tids(self, query: str) -> list[str]:
        return [str(row[0]) for row in send(self.verifier.work, query)]

    def _compare(self, linked: Linked, found: Verification) -> None:
        name = f"{linked.at.label} against {linked.other.label}"
        for _leaf, first, end in self.verifier.ranges(linked.at, name):
            self._range(linked, first, end, found)

    def _range(self, linked: Linked, first: int, end: int, found: Verification) -> None:
        strays = self._settled(linked, self._look(linked, first, end))
        self._list(linked, strays, found)
        if self.verifier.repairer is not None:
            for stray in strays:
                self.verifier.repairer.mend_pair(linked, stray)

    def _settled(self, linked: Linked, strays: Sequence[Stray]) -> list[Stray]:
        """Return the rows that nobody was about to carry when they were seen first.

        Who has to give way leaves it to the other session to carry, in that one's transaction. So a pair of rows is
        wrong for good if neither has changed when all transactions of that moment have ended.
        """
        waiting = {(stray.tid, stray.other): stray.next for stray in strays}
        deadline = time.monotonic() + self.verifier.rules.budget_s
        settled: list[Stray] = []
        while waiting:
            time.sleep(_SECOND_LOOK_S)
            left = {}
            for tid, _ in waiting:
                for stray in self._look_again(linked, Stray(tid, None)):
                    place = (stray.tid, stray.other)
                    since = waiting.get(place, stray.next)
                    if stray.error is not None or stray.oldest >= since or time.monotonic() > deadline:
                        settled.append(stray)
                    else:
                        left[place] = since
            waiting = left
        return settled

    def _look(self, linked: Linked, first: int, end: int) -> list[Stray]:
        def look() -> list[Stray]:
            return [_stray(row) for row in send(self.verifier.work, linked.suspects(first, end))]

        try:
            return self.verifier.read(linked.at, look)
        except DBAPIError as error:
            if not is_about_data(error):
                raise
        tids = self.verifier.read(linked.at, lambda: self._tids(linked.tids(first, end)))
        return [stray for tid in tids for stray in self._look_again(linked, Stray(tid, None))]

    def _look_again(self, linked: Linked, stray: Stray) -> list[Stray]:
        """Return the row again if it is still there and still does not agree."""

        def look() -> list[Stray]:
            return [_stray(row) for row in send(self.verifier.work, linked.suspect(stray.tid))]

        try:
            return self.verifier.read(linked.at, look)
        except DBAPIError as error:
            if not is_about_data(error):
                raise
            return [Stray(stray.tid, None, error=describe_error(error))]

    # -- saying so ------------------------------------------------------------------------

    def _list(self, linked: Linked, strays: Sequence[Stray], found: Verification) -> None:
        for stray in strays:
            place = (linked.at.label, MISSING if self._is_missing(linked, stray) else INCONSISTENT)
            found.counts[place] += 1
            if found.counts[place] <= self.verifier.limit:
                found.discrepancies += self.verifier.read(linked.at, partial(self._describe, linked, stray))

    @staticmethod
    def _is_missing(linked: Linked, stray: Stray) -> bool:
        return bool(linked.link.columns) and stray.other is None and stray.error is None

    def _describe(self, linked: Linked, stray: Stray) -> list[Discrepancy]:
        label = linked.at.label
        revision = linked.at.levels[linked.numbers[linked.at.id] - 1].revision
        key = self.verifier.key_of(linked.at, (linked.at.schema, linked.at.name), stray.tid)
        if self._is_missing(linked, stray):
            error = f"the row of {linked.other.label} that follows from it is missing"
            return [Discrepancy(MISSING, label, key, revision, error=error)]
        differences = tuple(self._difference(linked, stray, linked.demands[n]) for n in stray.failed)
        return [Discrepancy(INCONSISTENT, label, key, revision, differences, stray.error)]

    def _difference(self, linked: Linked, stray: Stray, demand: Demand) -> Difference:
        stored, derived = linked.values(demand.arrow)
        values = []
        for value in (stored, derived):
            query = linked.of_pair if linked.link.columns else linked.of_row
            values.append(self.verifier.text_of(query(stray.tid, f"({value})::text")))
        (was, _), (should, error) = values
        flight = linked.flights[demand.arrow.flight]
        return self.verifier.difference(flight, demand.arrow, was, should, error)


def _stray(row: Sequence[object]) -> Stray:
    tid, other, failed, oldest, following = row
    return Stray(str(tid), None if other is None else str(other), tuple(failed), oldest, following)  # type: ignore[arg-type]


def _unchecked(tied: Tied, arrow: Arrow) -> Unchecked:
    flight = tied.flights[arrow.flight]
    level = flight.levels[tied.numbers[arrow.flight] - 1]
    names = {cell: name for n in range(len(flight.levels) + 1) for name, cell in flight.shape_at(n)}
    side = "newer" if arrow.upward else "older"
    reason = f"clients of the {side} version may write or delete it, and nothing follows from that"
    return Unchecked(flight.label, names.get(arrow.cell, "(its rows)"), level.revision, reason)
