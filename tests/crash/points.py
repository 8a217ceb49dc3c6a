"""At which instants a command is disturbed, and how."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.crash.runner import RoundTrip

Item = TypeVar("Item")


class Kind(StrEnum):
    """What happens to the command.

    *KILL*: its process gets SIGKILL. *TERMINATE*: the server ends all its sessions. *CUT*: the server ends one of
    them. *CRASH*: the server is shut down immediately, and started again.
    """

    KILL = "kill"
    TERMINATE = "terminate"
    CUT = "cut"
    CRASH = "crash"


COMMANDS = ("upgrade", "zd-complete", "downgrade")


@dataclass(frozen=True)
class Point:
    """An instant of a command.

    :param stage: what the command is at.
    :param index: number of the round trip within the stage before which it is.
    :param text: that round trip.
    :param delay_s: for instants within steps: how long after the beginning of the round trip, without a halt.
    """

    command: str
    stage: str
    index: int
    text: str
    delay_s: float | None = None

    def __str__(self) -> str:
        when = "before" if self.delay_s is None else f"{self.delay_s * 1000:.1f} ms after"
        return f"{self.command}, {self.stage}, {when} round trip {self.index} ({self.text})"

    @property
    def place(self) -> str:
        """What of a step, or what around the steps, the instant is in."""
        return self.stage.rsplit(": ", 1)[-1]


def points_of(command: str, trips: Sequence[RoundTrip]) -> list[Point]:
    """Return the instants of a command at which its stages begin, end, or make something permanent, and their middles.

    Halts before and after each COMMIT, and before and after each statement in autocommit mode, are all that leave
    different databases behind; the others differ in the locks that are held.
    """
    return [
        Point(command, stage, wanted.index, wanted.text)
        for stage, group in groupby(trips, key=lambda trip: trip.stage)
        for wanted in _chosen(list(group))
    ]


def _chosen(trips: list[RoundTrip]) -> Iterator[RoundTrip]:
    wanted = {0, len(trips) // 2, len(trips) - 1}
    for number, trip in enumerate(trips):
        if trip.changes:
            wanted |= {number, number + 1}
    return (trip for number, trip in enumerate(trips) if number in wanted)


def instants_within(command: str, trips: Sequence[RoundTrip], seed: str, per_step: int = 2) -> list[Point]:
    """Return random instants within the work of each step: during a statement, as likely as not."""
    found = []
    for stage, group in groupby(trips, key=lambda trip: trip.stage):
        work = list(group)
        if not stage.endswith(": work"):
            continue
        lasts = max(0.004, work[-1].at_s - work[0].at_s)
        for number in range(per_step):
            share = _hash(f"{seed} {stage} {number}") / 2**32
            found.append(Point(command, stage, work[0].index, work[0].text, delay_s=share * lasts))
    return found


def ranked(items: Iterable[Item], seed: str) -> list[Item]:
    """Return items in an order that is random, but always the same."""
    return sorted(items, key=lambda item: _hash(f"{seed} {item}"))


def part_of(key: str, parts: int) -> int:
    """Return to which of so many parts a key belongs, from 1."""
    return _hash(key) % parts + 1


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
