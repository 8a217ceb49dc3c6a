"""Whole migrations as a role that is no superuser, with no more grants than docs/security.md asks for."""

from __future__ import annotations

import importlib
import os

import pytest

from tests.support.harness import OUTCOMES, Case, outcome_id, outcomes_of
from tests.support.roles import RoleDatabase

pytestmark = pytest.mark.one_server

MODULES = ("scenarios", "across", "across_patterns", "across_semantics", "constraints", "enums", "everything_at_once",
           "indexes", "keys", "operations", "patterns")  # fmt: skip


# Their setup, or the revision itself, is what only a superuser may do; or they are no whole migrations.
LEFT_OUT = {"first_draft", "extension", "locks", "text_becomes_case_insensitive_under_its_unique_index"}


def _cases():
    """Return every case that the acceptance tests run as a superuser."""
    found = {}
    for name in MODULES:
        for value in vars(importlib.import_module(f"tests.acceptance.test_{name}")).values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Case) and one.name not in LEFT_OUT:
                    found[f"{name}: {one.name}"] = one
    return found


CASES = _cases()


@pytest.mark.parametrize("kind", ["owner", "member"])
@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*CASES.values()), ids=outcome_id)
def test_every_case__without_superuser(database, tmp_path, case, outcome, kind):
    OUTCOMES[outcome](case, RoleDatabase(database, kind), tmp_path)
