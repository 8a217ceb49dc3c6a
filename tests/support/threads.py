"""Run what clients do beside the test."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Target = Callable[[threading.Event], object]


@contextmanager
def in_threads(*targets: Target) -> Iterator[None]:
    """Run each target(stop) in a thread while the block runs; their exceptions are raised at the end."""
    stop = threading.Event()
    errors: list[BaseException] = []
    threads = [threading.Thread(target=partial(_guarded, target, stop, errors)) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert errors == []


def _guarded(target: Target, stop: threading.Event, errors: list[BaseException]) -> None:
    try:
        target(stop)
    except BaseException as error:  # noqa: BLE001 - raised by the main thread
        errors.append(error)
