"""``import alembic`` with our plugin and without.

In CPU time of the importing process: on a machine that others use too, the wall clock says little.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from bench.support import STUB, environment, interleave, say, title, verdict

if TYPE_CHECKING:
    from bench.support import Options, Server

LIMIT_MS = 20.0

_SCRIPT = "import time\n_started = time.process_time()\nimport {module}\nprint(time.process_time() - _started)\n"


def _import_ms(module: str, *, hide: bool) -> float:
    script = STUB.format(hide=hide) + _SCRIPT.format(module=module)
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    return float(done.stdout) * 1000


def run(server: Server, options: Options) -> None:  # noqa: ARG001 - every benchmark's signature
    times = options.times(60, 5)
    title(f"import: with the plugin against without, {times} pairs of processes, CPU time")
    for module in ("alembic", "alembic.config"):
        found = interleave(
            lambda: _import_ms(module, hide=False),  # noqa: B023
            lambda: _import_ms(module, hide=True),  # noqa: B023
            times,
        )
        more = found.difference
        say(f"import {module:15} with {found.measured.show(' ms', 0)}   without {found.yardstick.show(' ms', 0)}")
        say(f"{'':22} difference {more.show(' ms', 1)}  {verdict(more.median, LIMIT_MS)}; ratio {found.ratio.show()}")
