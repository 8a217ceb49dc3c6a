"""One command disturbed at one point: then the same command again, or the way back, must lead where it should."""

from __future__ import annotations

import difflib
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg

from tests.crash.ground import Contents, Copy, Ground, contents_of
from tests.crash.points import Kind, Point
from tests.support.harness import AFTER, BEFORE, check_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.crash.ground import Outcome
    from tests.crash.runner import Ending
    from tests.support.harness import Rows

TOMBSTONE = "55000"
_ATTEMPTS = 4


@dataclass
class Tally:
    """What was tried and what came out."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def count(self, *what: str) -> None:
        """Count something."""
        self.counts.update(what)


class NotReachedError(Exception):
    """The command has ended without coming to the point: the run that was counted had to try for a lock again."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.output)
        self.ending = ending

    def nearest(self, point: Point) -> Point:
        """Return the point of this run that is most like the one that was not reached."""
        stage = [trip for trip in self.ending.trips if trip.stage == point.stage]
        assert stage, f"{point}: there is no such stage in {self.ending.output}"
        alike = [trip for trip in stage if trip.text == point.text] or stage
        return replace(point, index=alike[-1].index, text=alike[-1].text)


class Trial:
    """A disturbed command and its aftermath.

    :param ground: the scenario's databases.
    """

    def __init__(self, ground: Ground, point: Point, kind: Kind, tally: Tally) -> None:
        self.ground = ground
        self.case = ground.case
        self.point = point
        self.kind = kind
        self.tally = tally

    def run(self) -> None:
        """Disturb, look, then both ways; what is wrong is kept in the tally.

        :raises Exception: the trial itself does not work.
        """
        place = self.point.place if self.point.delay_s is None else "at a random instant"
        self.tally.count("points", f"kind: {self.kind}", f"command: {self.point.command}", f"place: {place}")
        for _ in range(_ATTEMPTS):
            try:
                self._run_once()
            except NotReachedError as missed:
                self.tally.count("again, not reached")
                self.point = missed.nearest(self.point)
            except (AssertionError, psycopg.Error, TimeoutError) as error:
                self._fail(f"{type(error).__name__} {error}")
                return
            else:
                return
        self._fail("this point is never reached")

    def _run_once(self) -> None:
        with self.ground.copied(self.ground.start_of(self.point.command)) as flight:
            ending = self._disturb(flight)
            self._check_ending(ending)
            self.ground.wait_idle(flight.database.name)
            getattr(self, "_after_" + self.point.command.replace("zd-", ""))(flight)

    def _fail(self, what: str) -> None:
        self.tally.count("failures")
        self.tally.failures.append(f"{self.case.name}: {self.kind} {self.point}: {what}")

    # -- the disturbance ------------------------------------------------------------------------------

    def _disturb(self, flight: Copy) -> Ending | None:
        """Disturb the command; return how it ended, None if it was killed."""
        waits = self.point.delay_s is None
        command = flight.start(self.point.command, (self.point.stage, self.point.index), waits=waits)
        try:
            ended = command.wait_halted()
            if ended is not None:
                raise NotReachedError(ended)
            time.sleep(self.point.delay_s or 0)
            if self.kind == Kind.KILL:
                return None
            self._hit(flight)
            if waits:
                command.go_on()
            return command.wait_ended()
        finally:
            command.kill()

    def _hit(self, flight: Copy) -> None:
        if self.kind == Kind.CRASH:
            self.ground.server.crash()
            self.ground.reconnect()
        else:
            one = self.point.index + len(self.point.stage) if self.kind == Kind.CUT else None
            self.ground.terminate(flight.database.name, one)

    def _check_ending(self, ending: Ending | None) -> None:
        """A command that has lost its sessions ends with an error for people, or has done its work."""
        if ending is None or ending.code == 0:
            return
        if ending.code is None and self.point.stage == "begin" and "sqlalchemy.exc.OperationalError" in ending.output:
            # Before alembic_zero has a part in a stock command.
            return
        assert ending.code == 1, f"exit code {ending.code}: {ending.output[-2000:]}"
        assert "[ZD" in ending.output, ending.output

    # -- the aftermath --------------------------------------------------------------------------------

    def _after_upgrade(self, flight: Copy) -> None:
        before = {"version r1": self.ground.original.contents["version r1"]}
        self._check_contents(flight, before, "after the disturbance")
        self.ground.write_early(flight)
        with self.ground.copied(flight.database.name) as back:
            self._again(back, "downgrade")
            self._check_original(back, self.ground.written)
            self.tally.count("rolled back")
        self._again(flight, "upgrade")
        self._check_outcome(flight, self.ground.outcomes["upgrade"])
        self.tally.count("converged")

    def _after_complete(self, flight: Copy) -> None:
        with flight.client(AFTER) as client:
            check_rows(client, self.case.new, "the new version after the disturbance")
            self.ground.write_own_values(flight, client, AFTER)
        buried = self._check_old_or_tombstone(flight, BEFORE, self.case.old)
        forward_only = buried or self._has_lost(flight)
        if not forward_only:
            with flight.client(BEFORE) as client:
                self.ground.write_own_values(flight, client, BEFORE)
        with self.ground.copied(flight.database.name) as back:
            if forward_only:
                self._check_refused(back)
            else:
                self._again(back, "downgrade")
                self._check_original(back, self.ground.flying.contents["version r1"])
                _same("\n".join(back.machinery()), "\n".join(self.ground.outcomes["downgrade"].machinery), "ours")
                self.tally.count("rolled back")
        self._again(flight, "zd-complete")
        self._check_outcome(flight, self.ground.outcomes["zd-complete"])
        self.tally.count("converged")

    def _after_downgrade(self, flight: Copy) -> None:
        with flight.client(BEFORE) as client:
            check_rows(client, self.case.old, "the old version after the disturbance")
            self.ground.write_own_values(flight, client, BEFORE)
        self._check_old_or_tombstone(flight, AFTER, self.case.new)
        self._again(flight, "downgrade")
        self._check_original(flight, self.ground.flying.contents["version r1"])
        self._check_outcome(flight, self.ground.outcomes["downgrade"])
        self.tally.count("converged", "rolled back")

    # -- checks ---------------------------------------------------------------------------------------

    def _again(self, flight: Copy, command: str) -> None:
        ending = flight.start(command).wait_ended()
        assert ending.code == 0, f"{command} afterwards: exit code {ending.code}: {ending.output[-3000:]}"
        found = flight.refuse()
        assert found == [], f"{command} afterwards leaves {found}"

    def _check_contents(self, flight: Copy, expected: Mapping[str, Contents], when: str) -> None:
        found = contents_of(flight)
        for what, rows in expected.items():
            assert found.get(what) == rows, f"{when}: {what}\nexpected {rows}\nfound    {found.get(what)}"

    def _check_outcome(self, flight: Copy, expected: Outcome) -> None:
        _same(flight.catalog(), expected.catalog, "catalog")
        _same("\n".join(flight.machinery()), "\n".join(expected.machinery), "what there is of ours")
        assert flight.journal() == expected.journal, flight.journal()
        assert flight.version() == expected.version, flight.version()
        self._check_contents(flight, expected.contents, "in the end")
        assert flight.leftovers() == expected.leftovers, flight.leftovers()

    def _check_original(self, flight: Copy, rows: Contents) -> None:
        original = self.ground.original
        tables = Copy.dump(flight)
        _same(tables, self.ground.original_tables, "catalog of the tables after the way back")
        assert flight.journal() == original.journal, flight.journal()
        assert flight.version() == original.version, flight.version()
        assert flight.leftovers() == [], flight.leftovers()
        self._check_contents(flight, {"tables": rows}, "after the way back")
        with flight.client(BEFORE) as client:
            for query in self.case.old:
                client.fetch(query)

    def _check_old_or_tombstone(self, flight: Copy, revision: str, queries: Mapping[str, Rows]) -> bool:
        """Check that a version that ends works or says so; return whether it has begun to say so."""
        buried = False
        for query, rows in queries.items():
            try:
                with flight.client(revision) as client:
                    client.fetch(query)
            except psycopg.Error as error:
                successor = AFTER if revision == BEFORE else BEFORE
                assert error.sqlstate == TOMBSTONE, f"{revision}: {query}: {error.sqlstate} {error}"
                assert f"revision {successor}" in str(error), str(error)
                buried = True
            else:
                with flight.client(revision) as client:
                    check_rows(client, {query: rows}, f"version {revision} after the disturbance")
        return buried

    def _has_lost(self, flight: Copy) -> bool:
        """Return whether something that was there in flight is gone."""
        before, after = (set(text.splitlines()) for text in (self.ground.flying.catalog, flight.catalog()))
        return bool(before - after)

    def _check_refused(self, flight: Copy) -> None:
        """E12: there is only forwards now, and the refusal says so."""
        if flight.journal() == [(AFTER, BEFORE, "current")]:
            # Completed: the way back is a migration of its own, which this revision may not have.
            return
        before = flight.catalog()
        ending = flight.start("downgrade").wait_ended()
        assert ending.code == 2, f"downgrade afterwards: exit code {ending.code}: {ending.output}"
        for word in ("ZD251", f"'{AFTER}'", f"zd-complete {AFTER}", "nothing was changed"):
            assert word in ending.output, f"{word} is missing in: {ending.output}"
        _same(flight.catalog(), before, "catalog after the refusal")
        self.tally.count("refused: only forwards")


def _same(found: str, expected: str, what: str) -> None:
    if found != expected:
        lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", n=1, lineterm="")
        raise AssertionError(f"{what}\n" + "\n".join(lines))
