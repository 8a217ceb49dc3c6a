"""Run benchmarks: ``python -m bench [name ...]``; all of them without a name."""

from __future__ import annotations

import argparse
from importlib import import_module

from bench.support import Options, running_server

# Names differ from modules only where Python reserves the word.
BENCHMARKS = {
    "direct": "bench.direct",
    "import": "bench.plugin_import",
    "backfill": "bench.backfill",
    "across": "bench.across",
    "trigger": "bench.trigger",
    "reads": "bench.reads",
    "latency": "bench.latency",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Every figure is a ratio to a yardstick.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(BENCHMARKS)}; all if left out")
    parser.add_argument("--rows", type=int, default=0, help="table size, for those that have a table")
    parser.add_argument("--repeat", type=int, default=0, help="how often each pair is measured")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures little")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    options = Options(arguments.rows, arguments.repeat, arguments.quick)
    with running_server() as server:
        for name in arguments.names or BENCHMARKS:
            import_module(BENCHMARKS[name]).run(server, options)


if __name__ == "__main__":
    main()
