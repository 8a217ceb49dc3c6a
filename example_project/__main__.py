"""Runs the example: ``python -m example_project``."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from .database import DatabaseNotEmptyError
from .demo import run


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m example_project",
        description="Migrates a web application from release 1 to release 2 while both serve requests.",
    )
    option = parser.add_argument
    option("--rows", type=int, default=200_000, help="articles before the migration (%(default)s)")
    option("--seconds", type=float, default=5.0, help="how long each phase serves (%(default)s)")
    option("--servers", type=int, default=2, help="web server processes per release (%(default)s)")
    option("--visitors", type=int, default=8, help="visitors at a time (%(default)s)")
    option("--timeout", type=float, default=900.0, help="seconds for one alembic command (%(default)s)")
    option(
        "--database-url",
        default=os.environ.get("DATABASE_URL"),
        help="an empty database to use instead of the embedded server (default: $DATABASE_URL)",
    )
    option("--keep", action="store_true", help="leave the database as it is at the end")
    options = parser.parse_args(arguments)
    if min(options.servers, options.visitors) < 1 or options.rows < options.visitors:
        parser.error("there must be a server, a visitor, and an article for each visitor")
    return options


def main() -> int:
    """Run the example and return the exit code."""
    # SystemExit lets every process be ended and the database be removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(parse(sys.argv[1:]))
    except DatabaseNotEmptyError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
