"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LINE_EVERY_S = 2.0


def write_line(line: str) -> None:
    """Write a line to standard error, above whatever bars are there."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


@dataclass
class Course:
    """How far a piece of work has come, in blocks."""

    name: str
    total: int
    report: Callable[[str], None]
    keep_alive: Callable[[], None]
    bar: Any | None
    said: float

    def reach(self, block: int) -> None:
        """Say that all blocks before *block* are done; now and then keep env.py's connection from being idle."""
        block = min(block, self.total)
        if self.bar is not None:
            self.bar.update(block - self.bar.n)
        if time.monotonic() - self.said > _LINE_EVERY_S:
            self.said = time.monotonic()
            if self.bar is None:
                self.report(f"{self.name}: block {block} of {self.total}")
            self.keep_alive()


@dataclass(frozen=True)
class Progress:
    """Shows how far long work has come.

    :param report: says a line.
    :param keep_alive: called now and then.
    :param bars: whether somebody watches on a terminal.
    """

    report: Callable[[str], None]
    keep_alive: Callable[[], None]
    bars: bool = False

    @contextmanager
    def follow(self, name: str, total: int, start: int = 0) -> Iterator[Course]:
        """Show the progress of the block, from block *start* of a table to *total*."""
        bar = None
        if self.bars:
            bar = tqdm(desc=f"alembic_zero: {name}", total=total, initial=start, unit=" blocks", file=sys.stderr,
                       leave=False, dynamic_ncols=True)  # fmt: skip
        course = Course(name, total, self.report, self.keep_alive, bar, time.monotonic())
        try:
            yield course
        finally:
            if bar is not None:
                bar.close()
