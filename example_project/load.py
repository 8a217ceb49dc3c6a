"""The visitors and the load balancer, in a process of their own.

Each line of standard input is a JSON list of ``[release, port]``: the web servers from now on.
It is answered by ``routed`` once no request is on its way to any other server.
The end of standard input ends the load and writes the report.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .browser import Backend
from .visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import Sequence


def route(visitors: Sequence[Visitor], backends: tuple[Backend, ...]) -> None:
    """Send all visitors to *backends*; return when none is still being answered by another."""
    for visitor in visitors:
        with visitor.busy:
            visitor.backends = backends


def report(visitors: Sequence[Visitor]) -> dict[str, Any]:
    """Return what the visitors did and what must be found in the database."""
    return {
        "created": sum(visitor.created for visitor in visitors),
        "views": sum(visitor.views for visitor in visitors),
        "failures": [failure for visitor in visitors for failure in visitor.failures],
        "samples": [astuple(sample) for visitor in visitors for sample in visitor.browser.samples],
        "ledger": {
            article_id: asdict(article) for visitor in visitors for article_id, article in visitor.ledger.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the visitors until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m example_project.load")
    parser.add_argument("--visitors", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True, help="articles loaded before")
    parser.add_argument("--report", type=Path, required=True, help="file to write at the end")
    options = parser.parse_args(arguments)

    visitors = [Visitor(number, options.visitors, options.rows) for number in range(options.visitors)]
    for visitor in visitors:
        visitor.start()
    for line in sys.stdin:
        route(visitors, tuple(Backend(release, port) for release, port in json.loads(line)))
        print("routed", flush=True)
    for visitor in visitors:
        visitor.stopping.set()
    for visitor in visitors:
        visitor.join()
    options.report.write_text(json.dumps(report(visitors)))


if __name__ == "__main__":
    main()
