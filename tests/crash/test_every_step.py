"""Kill at every step: each command of each scenario, at each of its steps, by each kind of disturbance.

``make test`` runs a sample, always the same; ``make crash`` everything. For a part of everything, in the
environment: ``ALEMBIC_ZERO_CRASH_PART=3/8`` (scenarios), ``..._SCENARIO=keys`` (part of the name), ``..._KIND=crash``,
``..._TRIALS=20`` (at most so many for each scenario).
"""

from __future__ import annotations

import json
import os
from itertools import product

import pytest

from tests.crash.ground import Ground
from tests.crash.points import COMMANDS, Kind, Point, instants_within, part_of, points_of, ranked
from tests.crash.registry import NEEDS, SCENARIOS, family_of
from tests.crash.trial import Tally, Trial

pytestmark = pytest.mark.one_server

FULL = "ALEMBIC_ZERO_CRASH"
SAMPLED_OF_A_FAMILY = 1
SAMPLED_TRIALS = 6


def _option(name: str) -> str:
    return os.environ.get(f"{FULL}_{name}", "")


def _scenarios() -> list[str]:
    names = [name for name in SCENARIOS if _option("SCENARIO") in name]
    if FULL not in os.environ:
        families = dict.fromkeys(map(family_of, names))
        return [
            name
            for family in families
            for name in ranked([n for n in names if family_of(n) == family], "sample")[:SAMPLED_OF_A_FAMILY]
        ]
    part, parts = map(int, (_option("PART") or "1/1").split("/"))
    return [name for name in names if part_of(name, parts) == part]


def _kinds() -> list[Kind]:
    return [Kind(_option("KIND"))] if _option("KIND") else list(Kind)


def _all_points(ground: Ground, command: str, seed: str) -> list[Point]:
    trips = ground.trips[command]
    return points_of(command, trips) + instants_within(command, trips, seed)


def _everything(ground: Ground, name: str) -> list[tuple[Point, Kind]]:
    limit = int(_option("TRIALS") or 0) or None
    trials = [
        (point, kind)
        for command, kind in product(COMMANDS, _kinds())
        for point in _all_points(ground, command, f"{name} {kind}")
    ]
    return ranked(trials, name)[:limit] if limit else trials


def _sample(ground: Ground, name: str, number: int) -> list[tuple[Point, Kind]]:
    """Return some trials; those of two neighbouring scenarios are every command with every kind."""
    pairs = list(product(COMMANDS, Kind))
    chosen = pairs[number % 2 :: 2]
    assert len(chosen) == SAMPLED_TRIALS
    return [(ranked(_all_points(ground, command, name), f"{name} {kind}")[0], kind) for command, kind in chosen]


SELECTED = _scenarios()


@pytest.mark.parametrize("name", SELECTED)
def test_disturbed__the_same_command_again_converges__and_rollback_restores(
    name, server, tmp_path, record_property, request
):
    if server.version < NEEDS.get(name, 0):
        pytest.skip(f"PostgreSQL {NEEDS[name]}")
    tally = Tally()
    ground = Ground(SCENARIOS[name], server, tmp_path / "project")
    try:
        trials = _everything(ground, name) if FULL in os.environ else _sample(ground, name, SELECTED.index(name))
        for point, kind in trials:
            Trial(ground, point, kind, tally).run()
    finally:
        ground.close()
        tally.count("scenarios")
        record_property("crash", json.dumps(tally.counts))
    assert tally.counts["points"] == len(trials) > 0
    assert not tally.failures, "\n\n".join(tally.failures)
