"""REDTEAM E12: a contract is per table. Until it takes something away there is a way back, afterwards only forwards."""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.crash.ground import Ground
from tests.crash.points import Kind, Point
from tests.crash.registry import SCENARIOS
from tests.crash.runner import Command
from tests.crash.trial import Tally, Trial
from tests.support.harness import AFTER, BEFORE, Case, Flight, assert_nothing_left, assert_same

pytestmark = pytest.mark.one_server

TWO_TABLES = Case(
    "two_tables",
    setup="""
        CREATE TABLE a (id integer PRIMARY KEY, n integer);
        CREATE TABLE b (id integer PRIMARY KEY, name text);
        INSERT INTO a VALUES (1, 10), (2, NULL);
        INSERT INTO b VALUES (1, 'x'), (2, 'y');
    """,
    upgrade="""
        op.zd_alter_column("a", "n", nullable=False, up="COALESCE(n, 0)")
        op.zd_alter_column("b", "name", new_column_name="label", up="upper(name)", down="lower(label)")
    """,
    plain="pass",
    old={"SELECT * FROM a": [(1, 10), (2, None)], "SELECT * FROM b": [(1, "x"), (2, "y")]},
    new={"SELECT * FROM a": [(1, 10), (2, 0)], "SELECT id, label FROM b": [(1, "X"), (2, "Y")]},
)


def _boundaries(ground: Ground) -> list[Point]:
    """Return the instants of zd-complete before its first step, and right after the end of each."""
    return [
        Point("zd-complete", stage, first.index, first.text)
        for stage, (first, *_) in groupby(ground.trips["zd-complete"], key=lambda trip: trip.stage)
        if not stage.endswith((": entry", ": work"))
    ]


CASES = [TWO_TABLES, SCENARIOS["across-S05_move_a_column"], SCENARIOS["keys-all_ends"]]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_e12_killed_contract__way_back_until_a_table_is_swapped_over__then_refused_and_forwards(case, server, tmp_path):
    tally = Tally()
    ground = Ground(case, server, tmp_path / "project")
    try:
        points = _boundaries(ground)
        for point in points:
            Trial(ground, point, Kind.KILL, tally).run()
    finally:
        ground.close()
    assert not tally.failures, "\n\n".join(tally.failures)
    counts = tally.counts
    assert counts["converged"] == counts["points"] == len(points)
    assert counts["rolled back"] >= 2
    assert counts["refused: only forwards"] >= 2
    # The last one finds everything completed.
    assert counts["rolled back"] + counts["refused: only forwards"] == len(points) - 1


def test_e12_killed_contract_of_the_middle_revision__rollback_of_the_newer_one_is_refused(database, tmp_path):
    """The contract's plan counts on the versions that were live when it was made."""
    flight = Flight(TWO_TABLES, database, tmp_path / "project")
    flight.project.revision("r3", AFTER, 'op.zd_add_column("a", sa.Column("m", sa.Integer), up="n + 1")')
    flight.run("upgrade", AFTER)
    flight.run("upgrade", "r3")
    command = Command(flight.project.ini, ("zd-complete", AFTER), ("contract 0 constraints of public.a: after", 0))
    ended = command.wait_halted()
    command.kill()
    assert ended is None, ended
    refused = flight.project.run_in_process("downgrade", AFTER, check=False)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 2, said
    assert f"zd-complete {AFTER}" in said
    assert "nothing was changed" in said
    flight.run("downgrade", BEFORE)
    assert_same(flight.dump(), flight.original, "rolled back from a contract that had swapped nothing")
    assert_nothing_left(database)
