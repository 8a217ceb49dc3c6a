"""Clients of both versions while commands are killed, and while transactions stay open all the time."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from tests.support.harness import AFTER, BEFORE, Flight
from tests.traffic import disturbances
from tests.traffic.driver import SMALL, Journey
from tests.traffic.report import Run
from tests.traffic.scenarios import scenario

pytestmark = pytest.mark.one_server

SIZE = replace(SMALL, disturbances=disturbances.Size(0.5, 1.0))
KILLS = 3


class Killed(Journey):
    """A run whose commands get SIGKILL a few times before they are left alone."""

    chance = random.Random(0)

    def _command(self, phase, *arguments):
        for number in range(KILLS):
            self._kill(0.4 + self.chance.random() * 0.5 * (1 + number), *arguments)
        super()._command(phase, *arguments)

    def _kill(self, seconds, *arguments):
        process = self.flight.project.start(*arguments)
        time.sleep(seconds)
        process.kill()
        process.communicate()


class GivenUp(Killed):
    """An upgrade is killed, and then rolled back."""

    def _go_through_phases(self, outcome):
        self._work("before")
        self._kill(1.5, "upgrade", AFTER)
        self._work("half expanded")
        self.staying = self.loaded
        Journey._command(self, outcome, "downgrade", BEFORE)
        self._work("after")


class Slow(Journey):
    """Two transactions that have nothing to do with the tables stay open from the first command to the last."""

    def _go_through_phases(self, outcome):
        self.database.execute("CREATE SCHEMA apart; CREATE TABLE apart.other (id integer)")
        with self.database.connect(autocommit=False) as writing, self.database.connect(autocommit=False) as reading:
            writing.execute("INSERT INTO apart.other VALUES (1)")
            reading.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reading.execute("SELECT count(*) FROM apart.other")
            super()._go_through_phases(outcome)
            assert reading.execute("SELECT count(*) FROM apart.other").fetchone() == (0,)
            writing.commit()


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [(Killed, "complete"), (Killed, "rollback"), (GivenUp, "rollback"), (Slow, "complete")],
    ids=["killed-complete", "killed-rollback", "given_up", "slow"],
)
def test_traffic__commands_killed_or_transactions_open__nothing_fails_and_nothing_is_lost(
    kind, outcome, database, tmp_path, capfd
):
    chosen = scenario("s03_split", SIZE.rows)
    journey = kind(chosen, SIZE, Flight(chosen.case, database, tmp_path / "project"), Run(f"{kind.__name__} {outcome}"))
    journey.go(outcome)
    with capfd.disabled():
        print(f"\npg{database.server.version} {journey.run.render()}")
    assert journey.run.ok, journey.run.render()
