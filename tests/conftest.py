"""Fixtures that every test may use: servers, fresh databases, Alembic projects."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.project import AlembicProject
from tests.support.server import (
    ENVIRONMENT_VARIABLE,
    Database,
    Server,
    describe_servers,
    other_versions,
    requested_versions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


EVERYTHING = "ALEMBIC_ZERO_EVERYTHING"

# The way back after completion, and a replay from base: half of them are left to "make test-all".
SAMPLED_OUTCOMES = ("reverse", "direct")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's own libpq settings away from the test servers."""
    for name in [name for name in os.environ if name.startswith("PG") and name.isupper()]:
        del os.environ[name]
    os.environ.pop("ALEMBIC_ZERO_REVISION", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave most tests to one of the servers, half of them to each; all to all if asked."""
    versions = requested_versions()
    if EVERYTHING in os.environ or len(versions) == 1:
        return
    left_out = [
        item
        for item in items
        if _is_spread(item) and (_chosen(item, versions) != _version(item) or not _is_sampled(item))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_spread(item: pytest.Item) -> bool:
    everywhere = item.get_closest_marker("both_servers") is not None and _parameter(item, "outcome") == "complete"
    spread = _parameter(item, "outcome") is not None or item.get_closest_marker("one_server") is not None
    return spread and not everywhere and _version(item) in requested_versions()


def _is_sampled(item: pytest.Item) -> bool:
    return _parameter(item, "outcome") not in SAMPLED_OUTCOMES or _number(item) // 7 % 2 == 0


def _chosen(item: pytest.Item, versions: Sequence[int]) -> int:
    return versions[_number(item) % len(versions)]


def _number(item: pytest.Item) -> int:
    """Return a number for a test: the same on each server, in every process, and for every order of the tests."""
    return zlib.crc32(item.nodeid.replace(f"pg{_version(item)}", "").encode())


def _version(item: pytest.Item) -> int | None:
    return _parameter(item, "server")


def _parameter(item: pytest.Item, name: str) -> Any:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(name) if callspec else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the killing tests have counted, whichever process ran them."""
    counts: Counter[str] = Counter()
    for report in [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]:
        for name, value in report.user_properties:
            if name == "crash":
                counts.update(json.loads(value))
    if counts:
        terminalreporter.section("killed at steps")
        for what, number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:8} {what}")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"test server: {line}" for line in describe_servers()]


class _Servers:
    """Starts each server when it is first asked for, and stops all of them at the end."""

    def __init__(self) -> None:
        self._running: dict[int, Server] = {}

    def get(self, version: int) -> Server:
        if version not in self._running:
            self._running[version] = Server(version)
        return self._running[version]

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


@pytest.fixture(scope="session")
def _servers() -> Iterator[_Servers]:
    servers = _Servers()
    yield servers
    servers.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that uses a server on each requested version, marked ones on others that are found, too."""
    if "server" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("every_server")
        others = other_versions() if marker else ()
        left_out = marker and marker.kwargs.get("others_only") and not os.environ.get(ENVIRONMENT_VARIABLE)
        versions = sorted(others if left_out else requested_versions() + others)
        ids = [f"pg{version}" for version in versions]
        metafunc.parametrize("server", versions, indirect=True, ids=ids, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, _servers: _Servers) -> Server:
    """A PostgreSQL server; see :func:`pytest_generate_tests` for which."""
    return _servers.get(request.param)


@pytest.fixture
def database(request: pytest.FixtureRequest, server: Server) -> Iterator[Database]:
    """A fresh, empty database, dropped after the test."""
    since = request.node.get_closest_marker("since")
    if since is not None and server.version < since.args[0]:
        pytest.skip(f"PostgreSQL {server.version}: {since.args[1]}")
    with server.fresh_database() as fresh:
        yield fresh


@pytest.fixture
def project(database: Database, tmp_path: Path) -> AlembicProject:
    """An Alembic project with the one-line env.py change, on the fresh database."""
    return AlembicProject(tmp_path / "project", database.url)
