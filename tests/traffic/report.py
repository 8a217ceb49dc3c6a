"""What clients counted: statements, failures, lost writes, latencies; added up and printed."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Latencies are counted in buckets that are 5% wide.
_WIDTH = math.log(1.05)
SHOWN = 5


@dataclass
class Latencies:
    """How long statements took; cheap to keep and to add."""

    buckets: Counter[int] = field(default_factory=Counter)
    worst_ms: float = 0.0
    worst_statement: str = ""

    def add(self, elapsed_ms: float, statement: str) -> None:
        """Count one statement."""
        self.buckets[math.ceil(math.log(max(elapsed_ms, 0.001)) / _WIDTH)] += 1
        if elapsed_ms > self.worst_ms:
            self.worst_ms, self.worst_statement = elapsed_ms, statement

    def merge(self, other: Latencies) -> None:
        """Add the counts of *other*."""
        self.buckets.update(other.buckets)
        if other.worst_ms > self.worst_ms:
            self.worst_ms, self.worst_statement = other.worst_ms, other.worst_statement

    def quantile_ms(self, share: float) -> float:
        """Return what *share* of the statements did not exceed, rounded up by at most 5%."""
        left = share * self.buckets.total()
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(math.exp(bucket * _WIDTH), self.worst_ms)
        return 0.0


@dataclass
class Tally:
    """What one client did, or all of them.

    :param kinds: how many statements of each kind there were.
    :param failures: error messages with their SQLSTATE; each must be 0.
    :param lost: acknowledged writes that were not there when they were looked for.
    :param increments: of shared counters, acknowledged.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    failures: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    checked: int = 0
    increments: int = 0

    @property
    def statements(self) -> int:
        return self.kinds.total()

    @contextmanager
    def measure(self, statement: str) -> Iterator[None]:
        """Count and time a statement."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.count(statement, started)

    def count(self, statement: str, started: float) -> None:
        """Count a statement that was *started* at that ``perf_counter``."""
        self.kinds[statement.split(None, 1)[0].upper()] += 1
        self.latencies.add((time.perf_counter() - started) * 1_000, statement)

    def merge(self, other: Tally) -> None:
        """Add the counts of *other*."""
        self.kinds.update(other.kinds)
        self.latencies.merge(other.latencies)
        self.failures.update(other.failures)
        self.lost += other.lost
        self.checked += other.checked
        self.increments += other.increments


@dataclass
class Waits:
    """The longest waits for locks, as the server saw them: seconds, by kind of lock."""

    longest: dict[str, tuple[float, str]] = field(default_factory=dict)

    def add(self, kind: str, seconds: float, query: str) -> None:
        """Remember a wait if it is the longest of its kind."""
        if seconds > self.longest.get(kind, (0.0, ""))[0]:
            self.longest[kind] = seconds, query

    def merge(self, other: Waits) -> None:
        """Take over what is longer in *other*."""
        for kind, (seconds, query) in other.longest.items():
            self.add(kind, seconds, query)

    def render(self) -> str:
        """Return the longest waits in milliseconds."""
        found = [f"{kind} {seconds * 1_000:.0f} ms" for kind, (seconds, _) in sorted(self.longest.items())]
        return ", ".join(found) or "none seen"


@dataclass
class Run:
    """One scenario with one outcome: what it came to.

    :param repeated: commands that got no lock within their budget and were run again, as their error says.
    :param problems: what is wrong beside clients' failures and lost writes; each must go away.
    """

    name: str
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    waits: Waits = field(default_factory=Waits)
    phases: dict[str, float] = field(default_factory=dict)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.tally.failures or self.tally.lost or self.problems)

    def merge(self, other: Run) -> None:
        """Add another run."""
        self.seconds += other.seconds
        self.tally.merge(other.tally)
        self.waits.merge(other.waits)
        for phase, seconds in other.phases.items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.repeated += other.repeated
        self.problems += other.problems

    def render(self) -> str:
        """Return the report of this run."""
        tally, latencies = self.tally, self.tally.latencies
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.phases.items())
        phases += f"; {self.repeated} commands run again for want of a lock" if self.repeated else ""
        lines = [
            (
                f"{'ok ' if self.ok else 'BAD'} {self.name}: {tally.statements:,} statements in {self.seconds:.0f} s, "
                f"{tally.failures.total()} failed, {len(tally.lost)} lost or altered of {tally.checked:,} checked"
            ),
            f"    {', '.join(f'{count:,} {kind}' for kind, count in tally.kinds.most_common())}",
            (
                f"    latency: p50 {latencies.quantile_ms(0.5):.1f} ms, p99.9 {latencies.quantile_ms(0.999):.0f} ms, "
                f"worst {latencies.worst_ms:.0f} ms ({' '.join(latencies.worst_statement.split())[:70]})"
            ),
            f"    longest lock wait of a client: {self.waits.render()}; {phases}",
        ]
        lines += [f"    FAILED {count} x {text}" for text, count in tally.failures.most_common(SHOWN)]
        lines += [f"    LOST {text}" for text in tally.lost[:SHOWN]]
        lines += [f"    PROBLEM {text}" for text in self.problems[:SHOWN]]
        return "\n".join(lines)


def total(runs: Iterable[Run]) -> Run:
    """Return the sum of *runs*."""
    together: Sequence[Run] = list(runs)
    added = Run(f"total of {len(together)} runs")
    for run in together:
        added.merge(run)
    return added
