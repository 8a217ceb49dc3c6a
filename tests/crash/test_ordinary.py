"""A killed upgrade with ordinary operations and SQL text: rollback undoes what has been done, and nothing else."""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.crash.ground import Ground
from tests.crash.points import Kind, Point
from tests.crash.registry import ORDINARY
from tests.crash.trial import Tally, Trial

pytestmark = pytest.mark.one_server


def test_killed_upgrade__ordinary_operations_and_text__undone_as_far_as_they_were_done(server, tmp_path):
    tally = Tally()
    ground = Ground(ORDINARY, server, tmp_path / "project")
    try:
        points = [
            Point("upgrade", stage, last.index, last.text)
            for stage, (*_, last) in groupby(ground.trips["upgrade"], key=lambda trip: trip.stage)
            # Done, but not recorded; recorded.
            if stage.startswith("expand") and stage.endswith((": work", ": after"))
        ]
        for point in points:
            Trial(ground, point, Kind.KILL, tally).run()
    finally:
        ground.close()
    assert not tally.failures, "\n\n".join(tally.failures)
    assert tally.counts["rolled back"] == tally.counts["converged"] == len(points) >= 12
