"""Findings that a test server is not in the state for: pure functions of what a server would say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alembic_zero.catalog.snapshot import Column, TableFacts, TableSpec
from alembic_zero.catalog.surroundings import Health, Slot, WalLimits
from alembic_zero.lens.lens import Cell, Edge, Flight, Level
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.findings import Finding, Severity, check_findings, readable
from alembic_zero.plan.survey import (
    Growth,
    estimate_growth,
    find_growth,
    find_slots,
    find_wraparound,
)

GB = 1 << 30
FACTS = TableFacts(1, "public", "t", "me", "r", 0, 0)
HEALTH = Health(3, True, True, 1_000_000, 100 << 20, 20 << 20, 1, 0, 200_000_000)


def flight() -> Flight:
    spec = TableSpec("public", "t", (Column("a", "integer"),))
    after = TableSpec("public", "t", (Column("a", "integer"), Column("b", "bigint")))
    cells = (Cell("a", "integer", None, physical="a"), Cell("b", "bigint", None, physical="b"))
    level = Level(1, "r2", 1, after, (("a", "a"), ("b", "b")), ups=(Edge("b", ("a",), "f", "", "", ""),))
    return Flight(1, "public", "t", spec, (("a", "a"),), cells, (level,), has_marker=True)


def test_wraparound__near__warning():
    assert list(find_wraparound(FACTS, HEALTH)) == []
    (found,) = find_wraparound(FACTS, replace(HEALTH, frozen_age=190_000_000))
    assert (found.severity, found.code) == (Severity.WARNING, "ZD406")
    assert "190,000,000" in found.text


def test_growth__of_a_backfill__between_a_fraction_of_the_table_and_twice_it():
    growth = estimate_growth(flight(), HEALTH)
    assert 0.1 * HEALTH.heap < growth.least < growth.most
    assert growth.most >= HEALTH.heap + HEALTH.indexes
    assert HEALTH.heap < growth.wal < 10 * HEALTH.heap


def test_growth__nothing_to_fill__nothing():
    level = replace(flight().levels[0], ups=())
    assert estimate_growth(replace(flight(), levels=(level,)), HEALTH) == Growth(0, 0, 0)


@pytest.mark.parametrize(("free", "errors"), [(None, 0), (5 * GB, 0), (4 * GB, 1)])
def test_growth__against_the_disk__refused_only_where_it_is_known(free, errors):
    found = list(find_growth([("public.t", Growth(GB, 3 * GB, 9 * GB))], [], WalLimits(None, GB + GB // 2), free))
    assert sum(one.code == "ZD222" for one in found) == errors
    assert [one.severity for one in found if one.code == "ZD404"] == [Severity.WARNING]


def test_growth__a_slot_holds_the_wal__all_of_it_counts():
    slot = Slot("s", "logical", False, "reserved", 0)
    found = list(find_growth([("public.t", Growth(GB, 3 * GB, 9 * GB))], [slot], WalLimits(None, GB), 5 * GB))
    assert "ZD222" in [one.code for one in found]


@pytest.mark.parametrize(
    ("slot", "limit", "words"),
    [
        (Slot("s", "logical", False, "extended", GB), None, ["used by nobody", "holds 1.0 GB", "adds about 2.0 GB"]),
        (Slot("s", "logical", False, "reserved", GB), 2 * GB, ["used by nobody", "may be lost"]),
        (Slot("s", "physical", True, "reserved", 0), GB, ["may be lost"]),
        (Slot("s", "physical", True, "reserved", 0), None, None),
        (Slot("s", "logical", False, "lost", 0), None, None),
    ],
)
def test_slots__hurt_by_the_backfill__warning(slot, limit, words):
    found = list(find_slots([slot], WalLimits(limit, GB), 2 * GB))
    assert len(found) == (words is not None)
    for word in words or ():
        assert word in found[0].text


def test_slots__no_backfill__nothing():
    assert list(find_slots([Slot("s", "logical", False, "extended", GB)], WalLimits(None, GB), 0)) == []


def test_check_findings__warnings_only__nothing_is_refused():
    check_findings([Finding(Severity.WARNING, "ZD402", None, "m")], "r2")


def test_check_findings__one_error__its_own_words():
    with pytest.raises(RefusedError) as refused:
        check_findings([Finding(Severity.ERROR, "ZD219", "public.t", "what", "do")], "r2")
    assert str(refused.value) == "[ZD219] revision 'r2', table public.t: what; nothing was changed: do"


def test_check_findings__several__all_of_them_and_the_warnings():
    cause = RefusedError("old words; nothing was changed: help", code="ZD213", table="public.u")
    found = [
        Finding(Severity.NOTE, "ZD404", None, "a note"),
        Finding(Severity.WARNING, "ZD402", None, "a warning", "w"),
        Finding(Severity.ERROR, "ZD219", "public.t", "what", "do"),
        Finding.of_error(cause),
    ]
    with pytest.raises(RefusedError) as refused:
        check_findings(found, "r2")
    assert str(refused.value).splitlines() == [
        "[ZD219] revision 'r2': 2 things are in the way; nothing was changed:",
        "  error ZD219: table public.t: what: do",
        "  error ZD213: old words: help",
        "  warning ZD402: a warning: w",
    ]


@pytest.mark.parametrize(("size", "text"), [(1000, "1 kB"), (5 << 20, "5.0 MB"), (3 * GB, "3.0 GB")])
def test_readable__bytes__in_a_unit_to_compare(size, text):
    assert readable(size) == text
