"""Clients of both versions through every phase: nothing fails, nothing is lost. ``make traffic`` runs all scenarios."""

from __future__ import annotations

import pytest

from tests.traffic.__main__ import Limits, journeys
from tests.traffic.driver import OUTCOMES, SMALL, run_traffic
from tests.traffic.scenarios import CASES, scenario
from tests.traffic.workloads import WORKLOADS

pytestmark = pytest.mark.one_server

# Rows that go to another table, a lossy pair, and keys with their foreign keys.
CHOSEN = ("s02_upper_lower", "s03_split", "keys")


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("name", CHOSEN)
def test_traffic__every_phase_under_disturbances__nothing_fails_and_nothing_is_lost(
    name, outcome, database, tmp_path, capfd
):
    run = run_traffic(scenario(name, SMALL.rows), outcome, SMALL, database, tmp_path / "project")
    with capfd.disabled():
        print(f"\npg{database.server.version} {run.render()}")
    assert run.ok, run.render()
    assert run.tally.statements > 1_000
    assert {"SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT"} <= set(run.tally.kinds)


def test_scenarios__each_has_a_workload():
    assert list(CASES) == list(WORKLOADS)


def test_journeys__two_turns__every_scenario_with_both_outcomes():
    seen = {(name, outcome) for _, name, outcome in journeys(Limits.parse("turns=2"))}
    assert seen == {(name, outcome) for name in CASES for outcome in OUTCOMES}


def test_journeys__four_turns__also_on_every_server():
    seen = list(journeys(Limits(turns=4, servers=(16, 18))))
    assert len(set(seen)) == len(seen) == len(CASES) * len(OUTCOMES) * 2


@pytest.mark.parametrize("text", ["second=1", "size=huge", "seconds"])
def test_limits__nonsense__refused(text):
    with pytest.raises((ValueError, KeyError)):
        Limits.parse(text)
