"""Names: bounded in bytes, stable, and never the same for two things."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alembic_zero.names import (
    MAX_BYTES,
    base_revision,
    client_name,
    client_suffix,
    internal_name,
    shorten,
    version_schema,
)

# What PostgreSQL takes in an identifier: any text without NUL that UTF-8 can hold.
identifiers = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=80)


@pytest.mark.parametrize("revision", ["3f2a9c", "r1", "a_b", base_revision, "x" * 40])
def test_version_schema__ordinary_revision__readable(revision):
    assert version_schema(revision) == f"zd_{revision}"


def test_version_schema__stable_across_releases():
    """A deployed application computes the name by itself: these may never change."""
    assert version_schema("r1", "sales") == STABLE["r1", "sales"]
    assert version_schema("Über-Revision") == STABLE["Über-Revision", "public"]


STABLE = {
    ("r1", "sales"): "zd_sales_r1_8b3c22c2c3365f4305debc7b0b7d8bb5",
    ("Über-Revision", "public"): "zd_ber_revision_8fda0ec98dfb1cd42957a27eabf8",
}


def test_version_schema__underscores_in_either_part__different():
    names = [
        version_schema("a_b"),
        version_schema("a", "b"),
        version_schema("b", "a"),
        version_schema("b_a"),
        version_schema("c", "a_b"),
        version_schema("b_c", "a"),
        version_schema("A_B"),
        version_schema("a-b"),
    ]
    assert len(set(names)) == len(names)


@given(identifiers, identifiers)
def test_version_schema__any_identifiers__bounded_and_never_quoted(revision, schema):
    name = version_schema(revision, schema)
    assert re.fullmatch(r"zd_[a-z0-9_]+", name)
    assert len(name.encode()) <= MAX_BYTES
    assert name == version_schema(revision, schema)


@given(st.tuples(identifiers, identifiers), st.tuples(identifiers, identifiers))
def test_version_schema__different_arguments__different_names(one, other):
    assert (version_schema(*one) == version_schema(*other)) == (one == other)


@given(identifiers)
def test_version_schema__a_revision_that_imitates_a_hashed_name__does_not_reach_it(schema):
    hashed = version_schema("r1", schema)
    if hashed != "zd_r1":
        assert version_schema(hashed.removeprefix("zd_")) != hashed


@given(st.lists(identifiers, min_size=1, max_size=4))
def test_internal_name__any_parts__bounded_in_bytes(parts):
    name = internal_name(*parts)
    assert len(name.encode()) <= MAX_BYTES
    if len("_".join(parts).encode()) <= MAX_BYTES:
        assert name == "_".join(parts)


def test_internal_name__long_parts_that_differ_at_the_end__different():
    assert internal_name("x" * 63, "a") != internal_name("x" * 63, "b")
    assert internal_name("é" * 40, "a").startswith("é" * 20)


@given(identifiers, identifiers)
def test_client_suffix__no_suffix_is_the_end_of_another(one, other):
    if one != other:
        assert not client_suffix(one).endswith(client_suffix(other))
    assert re.fullmatch(r" \[zd:[ -~]+\]", client_suffix(one))


@given(identifiers, identifiers)
def test_client_name__any_application_name__suffix_complete(application_name, revision):
    name = client_name(application_name, revision)
    assert name.endswith(client_suffix(revision))
    assert len(name.encode()) <= MAX_BYTES
    assert client_name(name, revision) == name


def test_shorten__inside_a_character__drops_it_whole():
    assert shorten("aé", 2) == "a"
    assert shorten("aé", 3) == "aé"
