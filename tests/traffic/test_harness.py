"""The harness itself: what it must notice, it notices."""

from __future__ import annotations

import pytest

from tests.support.harness import Flight
from tests.traffic.driver import TINY, Journey
from tests.traffic.report import Latencies, Run, Tally, Waits, total
from tests.traffic.scenarios import scenario
from tests.traffic.workload import FIRST

pytestmark = pytest.mark.one_server

DISABLED = """
DO $$ DECLARE t record; BEGIN
    FOR t IN SELECT tgname, tgrelid::regclass AS tab FROM pg_trigger WHERE tgname ~ 'zd' AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', t.tab, t.tgname);
    END LOOP;
END $$
"""
# Row by row: nobody shall wait for two of them.
OVERWRITTEN = f"""
DO $$ BEGIN
    FOR n IN {FIRST}..{FIRST + TINY.rows} LOOP
        UPDATE users SET email = 'lost ' || n, hits = hits + 1 WHERE id = n;
        COMMIT;
    END LOOP;
END $$
"""
FORBIDDEN = "REVOKE UPDATE ON zd_r2.users FROM zd_app"


class Sabotaged(Journey):
    """A run in which the migration's machinery does what it must not do."""

    sabotage: tuple[str, ...] = ()

    def _work(self, name):
        if name == "in flight":
            for statement in self.sabotage:
                self.database.execute(statement)
        super()._work(name)


def broken_run(outcome, database, directory, *sabotage):
    chosen = scenario("s03_split", TINY.rows)
    journey = Sabotaged(chosen, TINY, Flight(chosen.case, database, directory / "project"), Run("broken"))
    journey.sabotage = sabotage
    try:
        journey.go(outcome)
    except AssertionError as error:
        journey.run.problems.append(str(error))
    assert not journey.run.ok
    return journey.run.render()


def test_harness__rows_overwritten_and_statements_refused__noticed(database, tmp_path):
    report = broken_run("rollback", database, tmp_path, OVERWRITTEN, FORBIDDEN)
    assert "LOST new client" in report or "LOST old client" in report
    assert "rows that nobody writes have changed" in report
    assert "42501" in report


def test_harness__trigger_missing__versions_disagree(database, tmp_path):
    assert "the versions disagree" in broken_run("complete", database, tmp_path, DISABLED)


def test_latencies__quantiles__within_the_width_of_a_bucket():
    latencies = Latencies()
    for number in range(1, 1_001):
        latencies.add(float(number), f"statement {number}")
    assert 500 <= latencies.quantile_ms(0.5) <= 525
    assert 999 <= latencies.quantile_ms(0.999) <= 1_000
    assert (latencies.worst_ms, latencies.worst_statement) == (1_000, "statement 1000")
    assert Latencies().quantile_ms(0.5) == 0


def test_total__adds_counts_and_keeps_the_worst():
    one, two = Run("one", 1.0), Run("two", 2.0)
    one.tally = Tally(lost=["x"], checked=3)
    with one.tally.measure("select 1"):
        pass
    two.tally.failures["55P03 LockNotAvailable"] = 2
    two.waits.add("relation", 0.09, "UPDATE")
    one.waits.add("relation", 0.02, "SELECT")
    both = total([one, two])
    assert (both.seconds, both.tally.statements, both.tally.checked) == (3.0, 1, 3)
    assert both.waits == Waits({"relation": (0.09, "UPDATE")})
    assert not both.ok
    assert "2 failed, 1 lost" in both.render()
    assert "55P03" in both.render()
