"""A few whole migrations on every supported server that is found; ``make test-servers`` runs everything there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_across import S01
from tests.acceptance.test_everything_at_once import EVERYTHING
from tests.acceptance.test_scenarios import S03_SPLIT
from tests.support.harness import OUTCOMES, Case, outcome_id, outcomes_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Database

pytestmark = pytest.mark.every_server(others_only=True)

CASES = [run for run in outcomes_of(EVERYTHING, S01, S03_SPLIT) if run[1] in ("complete", "rollback")]


@pytest.mark.parametrize(("case", "outcome"), CASES, ids=outcome_id)
def test_f_other_servers(case: Case, outcome: str, database: Database, tmp_path: Path) -> None:
    OUTCOMES[outcome](case, database, tmp_path)
