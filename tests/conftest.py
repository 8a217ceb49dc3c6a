"""Fixtures that every test may use: servers, fresh databases, Alembic projects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.project import AlembicProject
from tests.support.server import Database, Server, describe_servers, requested_versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's own libpq settings away from the test servers."""
    for name in [name for name in os.environ if name.startswith("PG") and name.isupper()]:
        del os.environ[name]
    os.environ.pop("ALEMBIC_ZERO_REVISION", None)


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


@pytest.fixture(scope="session", params=requested_versions(), ids=lambda version: f"pg{version}")
def server(request: pytest.FixtureRequest, _servers: _Servers) -> Server:
    """A PostgreSQL server; every test that uses it runs once for each version."""
    return _servers.get(request.param)


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A fresh, empty database, dropped after the test."""
    with server.fresh_database() as fresh:
        yield fresh


@pytest.fixture
def project(database: Database, tmp_path: Path) -> AlembicProject:
    """An Alembic project with the one-line env.py change, on the fresh database."""
    return AlembicProject(tmp_path / "project", database.url)
