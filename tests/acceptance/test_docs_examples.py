"""Every example of every page on operations runs, and gives what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.harness import (
    AFTER,
    BEFORE,
    Case,
    Flight,
    assert_nothing_left,
    assert_same,
)
from tests.support.pages import read_examples

pytestmark = pytest.mark.one_server

FOLDER = Path(__file__).parents[2] / "docs" / "operations"
PAGES = sorted(FOLDER.glob("*.md"))
EXAMPLES = [
    pytest.param(example, id=f"{path.stem}:{example.line}") for path in PAGES for example in read_examples(path)
]


def flight_of(example, database, tmp_path):
    # Clients' search_path goes on to public, as pin_engine sets it: types and functions are there.
    case = Case("page", example.setup, example.upgrade, "pass", example.downgrade or "pass", path="public")
    return Flight(case, database, tmp_path / "project")


def upgrade_and_use(flight, example):
    """Upgrade, and run what the page lets clients of both versions do."""
    flight.run("upgrade", AFTER)
    with flight.clients() as clients:
        for statement in example.statements:
            clients[statement.client].run(statement)


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "README.md"], ids=lambda path: path.name)
def test_docs__every_page_has_an_example(path):
    assert read_examples(path)


@pytest.mark.parametrize("example", EXAMPLES)
def test_docs_example__completed__and_back(database, tmp_path, example):
    flight = flight_of(example, database, tmp_path)
    upgrade_and_use(flight, example)
    flight.run("zd-complete")
    assert_nothing_left(database)
    if not example.downgrade:
        return
    flight.run("downgrade", BEFORE)
    flight.run("zd-complete")
    assert_nothing_left(database)
    assert_same(flight.dump(), flight.original, "the page's downgrade against the state before")


@pytest.mark.parametrize("example", EXAMPLES)
def test_docs_example__rolled_back(database, tmp_path, example):
    flight = flight_of(example, database, tmp_path)
    upgrade_and_use(flight, example)
    flight.run("downgrade", BEFORE)
    assert_nothing_left(database)
    assert_same(flight.dump(), flight.original, "rollback against the state before")
