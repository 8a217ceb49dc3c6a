"""A server that may crash, for each version: not the one that other tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A PostgreSQL server of these tests' own."""
    server = Server(request.param)
    yield server
    server.stop()
