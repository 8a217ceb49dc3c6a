"""Hours of traffic: ``python -m tests.traffic``, which ``make traffic`` runs.

ALEMBIC_ZERO_TRAFFIC says how long, as words like ``seconds=3600 statements=5000000``; those are the defaults, and
whichever is reached first ends the run after the scenario that it is in. ``only=s03,s1`` chooses scenarios by the
beginnings of their names, ``size=small`` the size that ``make test`` has (``tiny`` is smaller), ``turns=2`` ends the
run when every scenario has been run so often. ALEMBIC_ZERO_TEST_SERVERS chooses servers, as for the tests.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.server import Server, requested_versions
from tests.traffic.driver import FULL, OUTCOMES, SIZES, Outcome, Size, run_traffic
from tests.traffic.report import Run, total
from tests.traffic.scenarios import CASES, scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "ALEMBIC_ZERO_TRAFFIC"


@dataclass(frozen=True)
class Limits:
    """How long to go on, and with what."""

    seconds: float = 3_600
    statements: int = 5_000_000
    only: str = ""
    size: Size = FULL
    turns: int | None = None
    servers: tuple[int, ...] = field(default_factory=requested_versions)

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Return what *text* says, and the defaults for the rest."""
        words = dict(word.split("=", 1) for word in text.split())
        unknown = set(words) - {"seconds", "statements", "only", "size", "turns"}
        if unknown:
            raise ValueError(f"{VARIABLE} knows no {sorted(unknown)}")
        return cls(
            float(words.get("seconds", cls.seconds)),
            int(words.get("statements", cls.statements)),
            words.get("only", cls.only),
            SIZES[words.get("size", "full")],
            int(words["turns"]) if "turns" in words else None,
        )


def journeys(limits: Limits) -> Iterator[tuple[int, str, Outcome]]:
    """Yield server, scenario and outcome, complete and rollback in turns, every server in turns."""
    names = [name for name in CASES if name.startswith(tuple(limits.only.split(",")))]
    for turn in itertools.count() if limits.turns is None else range(limits.turns):
        for number, name in enumerate(names):
            server = limits.servers[(turn // len(OUTCOMES) + number) % len(limits.servers)]
            yield server, name, OUTCOMES[(turn + number) % len(OUTCOMES)]


def main() -> int:
    """Run until a limit is reached, and print what came of it; return the exit code."""
    limits = Limits.parse(os.environ.get(VARIABLE, ""))
    runs: list[Run] = []
    servers = {version: Server(version) for version in limits.servers}
    deadline = time.monotonic() + limits.seconds
    try:
        for version, name, outcome in journeys(limits):
            with servers[version].fresh_database() as database, tempfile.TemporaryDirectory() as directory:
                run = run_traffic(
                    scenario(name, limits.size.rows), outcome, limits.size, database, Path(directory) / "project"
                )
            run.name = f"pg{version} {run.name}"
            runs.append(run)
            print(run.render(), flush=True)
            if time.monotonic() > deadline or sum(run.tally.statements for run in runs) >= limits.statements:
                break
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        for server in servers.values():
            server.stop()
    print(total(runs).render())
    return 0 if all(run.ok for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
