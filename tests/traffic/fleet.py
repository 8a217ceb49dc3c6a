"""The client processes: one for each style and each half of the fleet, as a rolling deployment has them."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from tests.traffic.access import STYLES, Address
from tests.traffic.client import Assignment, Client
from tests.traffic.report import Tally
from tests.traffic.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from tests.traffic.access import Style
    from tests.traffic.client import Ledger
    from tests.traffic.workload import Version

Half = Literal["first", "second"]
HALVES: tuple[Half, ...] = ("first", "second")

_ANSWER_S = 60


@dataclass(frozen=True)
class Order:
    """What a process is to do; plain data, as it goes to another process.

    :param workload: name of the workload in :data:`WORKLOADS`.
    :param number: number of the process's first client.
    :param threads: how many clients the process has.
    """

    workload: str
    addresses: dict[Version, Address]
    rows: int
    clients: int
    number: int
    threads: int
    style: Style
    think_s: float

    def assignments(self) -> list[Assignment]:
        """Return what each client of the process works on."""
        return [
            Assignment(
                WORKLOADS[self.workload], self.addresses, self.rows, self.clients, number, self.style, self.think_s
            )
            for number in range(self.number, self.number + self.threads)
        ]


@dataclass
class Answer:
    """What a process says at its end: counts, and every row that must be there, by version."""

    tally: Tally
    ledgers: dict[Version, Ledger]


def run_process(order: Order, pipe: Connection) -> None:
    """Be a process of clients: obey the pipe, which gives a version to work for, or None to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    clients = [Client(assignment) for assignment in order.assignments()]
    for client in clients:
        client.start()
    while True:
        for client in clients:
            client.settled.wait()
        pipe.send("settled")
        version = pipe.recv()
        for client in clients:
            client.switch(version)
        if version is None:
            break
    answer = Answer(Tally(), {})
    for client in clients:
        client.join()
        answer.tally.merge(client.tally)
        answer.ledgers.setdefault(client.version, {}).update(client.ledger)
    pipe.send(answer)


class Fleet:
    """All client processes, seen from the driver; all start with the old version.

    :param order: what all of them have in common.
    """

    def __init__(self, order: Order) -> None:
        # Imports once for all; children are forked from a process without threads.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pipes: dict[tuple[Half, Style], Connection] = {}
        self._processes: list[Any] = []
        for number, (half, style) in enumerate((half, style) for half in HALVES for style in STYLES):
            here, there = context.Pipe()
            own = replace(order, number=number * order.threads, style=style)
            if half == "second" and style == "transactions":
                own = replace(own, addresses=_by_tables(own.addresses))
            process = context.Process(target=run_process, args=(own, there), daemon=True)
            process.start()
            there.close()
            self._pipes[half, style] = here
            self._processes.append(process)
        self.settle(HALVES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End whatever still runs."""
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()

    def switch(self, version: Version, halves: Sequence[Half]) -> None:
        """Have half of the clients of every style work for another version; return when they do."""
        for pipe in self._of(halves):
            pipe.send(version)
        self.settle(halves)

    def settle(self, halves: Sequence[Half]) -> None:
        """Return when these clients work for the version that they are to work for."""
        for pipe in self._of(halves):
            _receive(pipe)

    def stop(self) -> Answer:
        """Stop all clients, and return what they did and what they know."""
        together = Answer(Tally(), {})
        for pipe in self._of(HALVES):
            pipe.send(None)
        for pipe in self._of(HALVES):
            answer = _receive(pipe)
            together.tally.merge(answer.tally)
            for version, ledger in answer.ledgers.items():
                together.ledgers.setdefault(version, {}).update(ledger)
        return together

    def _of(self, halves: Sequence[Half]) -> list[Connection]:
        return [pipe for (half, _), pipe in self._pipes.items() if half in halves]


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(_ANSWER_S):
        raise TimeoutError(f"a client process does not answer within {_ANSWER_S} s")
    return pipe.recv()


def _by_tables(addresses: dict[Version, Address]) -> dict[Version, Address]:
    """Return the addresses of clients that nobody has pinned yet: they count as the oldest version."""
    return {**addresses, "old": replace(addresses["old"], by_tables=True)}
