"""The processes of the example: alembic, web servers, load. All of them end with this one."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.request import urlopen

from .browser import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

PACKAGE = Path(__file__).resolve().parent
ALEMBIC_INI = PACKAGE / "alembic.ini"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


class ProcessFailedError(Exception):
    """A process of the example failed, died or does not answer."""


def run_alembic(*arguments: str, url: str, timeout_s: float) -> None:
    """Run the real ``alembic`` command; what it prints goes where our own output goes."""
    command = [sys.executable, "-m", "alembic", "-c", str(ALEMBIC_INI), *arguments]
    sys.stdout.flush()
    try:
        done = subprocess.run(command, cwd=PACKAGE.parent, env=environment(url), timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProcessFailedError(f"alembic {' '.join(arguments)} took more than {timeout_s} s") from error
    if done.returncode != 0:
        raise ProcessFailedError(f"alembic {' '.join(arguments)} ended with code {done.returncode}")


def environment(url: str) -> Mapping[str, str]:
    """Return the environment for a process that uses the database at *url*."""
    return {**os.environ, "DATABASE_URL": url}


class Worker:
    """A Python module running as a process that ends when its standard input does.

    So it ends even if this process is killed and cannot tidy up.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], url: str, log_directory: Path) -> None:
        self.name = name
        self.log = log_directory / f"{name.replace(' ', '-')}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=PACKAGE.parent,
                env=environment(url),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the orchestrator, which ends the others in order
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make sure that the process is gone."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def tell(self, line: str) -> None:
        """Send one line."""
        stdin = self._pipe(self._process.stdin)
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except OSError as error:
            raise self.failure("is gone") from error

    def answer(self, timeout_s: float) -> str:
        """Return the next line that the process prints."""
        stdout = self._pipe(self._process.stdout)
        ready, _, _ = select.select([stdout], [], [], timeout_s)
        line = stdout.readline() if ready else ""
        if not line:
            raise self.failure("does not answer")
        return line.rstrip()

    def stop(self) -> None:
        """End the process and wait for it."""
        self._pipe(self._process.stdin).close()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise self.failure("does not stop") from error
        if code != 0:
            raise self.failure(f"ended with code {code}")

    def failure(self, what: str) -> ProcessFailedError:
        """Return the error to raise, with the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return ProcessFailedError("\n".join([f"{self.name} {what}", *lines]))

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None  # all pipes were asked for
        return stream


class WebServer(Worker):
    """One process that serves one release."""

    def __init__(self, release: int, number: int, url: str, log_directory: Path) -> None:
        arguments = ["--release", str(release), "--supervised"]
        name = f"release {release} server {number}"
        super().__init__(name, "example_project.serve", arguments, url, log_directory)
        self.release = release
        self._backend: Backend | None = None

    @property
    def address(self) -> Backend:
        """Return where it listens, known once it is ready."""
        assert self._backend is not None
        return self._backend

    def wait_until_ready(self) -> None:
        """Return once it answers requests."""
        line = self.answer(START_TIMEOUT_S)
        port = re.search(r":(\d+)$", line)
        if port is None:
            raise self.failure(f"says {line!r}")
        self._backend = Backend(self.release, int(port[1]))
        self.stats()

    def stats(self) -> dict[str, Any]:
        """Return the counts of SQL statements."""
        try:
            with urlopen(f"http://127.0.0.1:{self.address.port}/stats", timeout=10) as response:
                counts: dict[str, Any] = json.load(response)
        except OSError as error:
            raise self.failure("does not answer /stats") from error
        return counts


class Load(Worker):
    """The process with all visitors."""

    def __init__(self, visitors: int, rows: int, url: str, log_directory: Path) -> None:
        self._report = log_directory / "load.json"
        arguments = ["--visitors", str(visitors), "--rows", str(rows), "--report", str(self._report)]
        super().__init__("load", "example_project.load", arguments, url, log_directory)

    def route(self, backends: Sequence[Backend]) -> None:
        """Send all requests to *backends* from now on; none is left on its way to another."""
        self.tell(json.dumps([[backend.release, backend.port] for backend in backends]))
        self.answer(START_TIMEOUT_S)

    def finish(self) -> dict[str, Any]:
        """Stop and return the report of :mod:`example_project.load`."""
        self.stop()
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report
