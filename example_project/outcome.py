"""What a run of the example found out, and how it is printed."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .browser import Sample

RELEASES = (1, 2)
SHOWN_FAILURES = 10


@dataclass(frozen=True)
class Phase:
    """A part of the run; times are seconds since the epoch, which all processes share."""

    name: str
    started_s: float
    ended_s: float

    def holds(self, sample: Sample) -> bool:
        """Tell whether the request of *sample* began in this phase."""
        return self.started_s <= sample.started_s < self.ended_s


@dataclass
class Statements:
    """SQL statements of one release, all its web servers together."""

    by_kind: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    worst_ms: float = 0.0

    @property
    def total(self) -> int:
        """Return how many statements succeeded."""
        return sum(self.by_kind.values())

    def add(self, counts: dict[str, Any]) -> None:
        """Add the counts of one web server."""
        for kind, count in counts["statements"].items():
            self.by_kind[kind] = self.by_kind.get(kind, 0) + count
        self.failed += counts["failed"]
        self.worst_ms = max(self.worst_ms, counts["worst_ms"])


@dataclass
class Outcome:
    """Everything that is printed at the end; without problems the run was a success."""

    phases: list[Phase] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    statements: dict[int, Statements] = field(default_factory=lambda: {release: Statements() for release in RELEASES})
    facts: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    indexes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase, and time it."""
        print(f"-- {name}", flush=True)
        started_s = time.time()
        try:
            yield
        finally:
            self.phases.append(Phase(name, started_s, time.time()))

    def check(self, fact: str, holds: bool) -> None:
        """Record a fact, and that it is a problem if it does not hold."""
        self.facts.append(f"{'ok ' if holds else 'BAD'} {fact}")
        if not holds:
            self.problems.append(fact)

    def add_statements(self, release: int, counts: dict[str, Any]) -> None:
        """Add what one web server of *release* sent to the database."""
        self.statements[release].add(counts)
        self.problems += [f"release {release}: {error}" for error in counts["errors"]]

    def add_failures(self, failures: Sequence[str]) -> None:
        """Add what the visitors complained about."""
        self.problems += failures[:SHOWN_FAILURES]
        if len(failures) > SHOWN_FAILURES:
            self.problems.append(f"... and {len(failures) - SHOWN_FAILURES} more failures like these")


def render(outcome: Outcome) -> str:
    """Return the report of a run."""
    sections = [
        ("Phases", table(phase_rows(outcome))),
        ("Statements by version", table(statement_rows(outcome))),
        ("Final schema of articles", table([(name, kind) for name, kind in outcome.columns.items()])),
        ("", outcome.indexes),
        ("Checks", outcome.facts),
        ("Problems", outcome.problems),
    ]
    return "\n".join(render_section(title, lines) for title, lines in sections if lines)


def render_section(title: str, lines: Sequence[str]) -> str:
    """Return *lines*, indented below their title."""
    heading = f"\n{title}\n" if title else ""
    return heading + "\n".join(f"  {line}" for line in lines)


def phase_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """Return one row for each phase, with the requests that began in it."""
    rows: list[tuple[str, ...]] = [
        ("", "seconds", "release 1", "failed", "worst ms", "release 2", "failed", "worst ms")
    ]
    for phase in outcome.phases:
        samples = [sample for sample in outcome.samples if phase.holds(sample)]
        seconds = f"{phase.ended_s - phase.started_s:.1f}"
        rows.append((phase.name, seconds, *request_cells(samples, 1), *request_cells(samples, 2)))
    return rows


def request_cells(samples: Sequence[Sample], release: int) -> tuple[str, str, str]:
    """Return the number of requests to *release*, how many failed, and the longest."""
    answered = [sample for sample in samples if sample.release == release]
    if not answered:
        return "-", "-", "-"
    failed = sum(sample.failed for sample in answered)
    return f"{len(answered):,}", f"{failed:,}", f"{max(sample.elapsed_ms for sample in answered):.0f}"


def statement_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """Return one row for each release."""
    rows: list[tuple[str, ...]] = [("", "statements", "failed", "worst ms", "of which")]
    for release, statements in outcome.statements.items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in statements.by_kind.items())
        total, failed, worst = f"{statements.total:,}", f"{statements.failed:,}", f"{statements.worst_ms:.0f}"
        rows.append((f"release {release}", total, failed, worst, kinds))
    return rows


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return *rows* as aligned lines: numbers to the right, the rest to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(aligned, row, widths)).rstrip() for row in rows]


def aligned(cell: str, width: int) -> str:
    """Return *cell*, padded to *width*."""
    is_number = cell == "-" or cell.replace(",", "").replace(".", "").isdigit()
    return cell.rjust(width) if is_number else cell.ljust(width)
