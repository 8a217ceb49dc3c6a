"""The pure rooms: lenses, composition, names, steering."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alembic_zero.catalog.snapshot import Column, TableSpec
from alembic_zero.execute.backfill import next_range_blocks
from alembic_zero.execute.locks import lock_timeout_ms, pause_s
from alembic_zero.lens.compose import Composer
from alembic_zero.lens.lens import Cell, Edge, Flight, Level
from alembic_zero.sql.ddl import rename_pairs
from alembic_zero.sql.markers import done_condition, todo_condition
from alembic_zero.sql.quoting import dollar_quoted, ident
from alembic_zero.sql.triggers import FIRST_TRIGGER, SyncTrigger, last_trigger_name


def edge(target: str, *inputs: str) -> Edge:
    return Edge(target, inputs, f"f_{target}", "", "", "")


def chain() -> Flight:
    """Return a table with ``a``, copied to ``b`` at level 1 and, by way of a virtual cell, to ``d`` at level 2."""
    shapes = {name: TableSpec("public", "t", (Column(name, "text"),)) for name in ("a", "b", "d")}
    cells = tuple(Cell(name, "text", None, physical=None if name == "c" else name) for name in "abcd")
    levels = (
        Level(5, "r2", 1, shapes["b"], (("b", "b"),), ups=(edge("b", "a"),), downs=(edge("a", "b"),)),
        Level(
            9,
            "r3",
            2,
            shapes["d"],
            (("d", "d"),),
            ups=(edge("c", "b"), edge("d", "c")),
            downs=(edge("b", "c"), edge("c", "d")),
        ),
    )
    return Flight(1, "public", "t", shapes["a"], (("a", "a"),), cells, levels, has_marker=True, last_trigger="~zd_sync")


def composer(flight: Flight, level: int) -> Composer:
    return Composer(flight, flight.levels[level - 1].ups, lambda f, args: f"{f}({','.join(args)})", lambda c: c)


def test_composer__virtual_cell__is_expanded_in_place():
    flight = chain()
    last = flight.levels[1].ups[1]
    assert composer(flight, 2).apply(last) == "f_d(f_c(b))"
    assert composer(flight, 2).inputs(last) == ("b",)


def test_flight__plain_data__survives_the_journal():
    flight = chain()
    assert Flight.from_json(flight.to_json()) == flight


def test_flight__without_levels__keeps_no_cell_of_the_newest():
    rest = chain().without_levels(1)
    assert [c.id for c in rest.cells] == ["a", "b"]
    assert rest.has_marker
    assert not chain().without_levels(0).has_marker


def test_flight__contracted__folds_the_lower_level_and_keeps_virtual_cells_of_the_rest():
    rest = chain().contracted(1)
    assert rest.shape == (("b", "b"),)
    assert [c.id for c in rest.cells] == ["b", "c", "d"]
    assert rest.levels[0].generation == 9


def test_flight__tags__name_the_newest_synchronised_level():
    flight = chain()
    assert [flight.tag_at(n) for n in range(3)] == [None, -5, -9]
    assert [flight.level_of(m) for m in (0, 1, 2, 3)] == [0, 1, 2, 2]


def test_markers__done_and_todo__exclude_each_other_in_text():
    flight = chain()
    assert "9" in done_condition(flight, "m")
    assert "-1000000005" in todo_condition(flight, "m")
    assert "-1000000009" in todo_condition(flight, "m")


def test_sync_trigger__spans__tell_which_versions_show_a_cell():
    assert SyncTrigger(chain()).spans == {"a": (0, 0), "b": (1, 1), "d": (2, 2)}


@given(st.lists(st.text(min_size=1, max_size=20), max_size=5))
def test_last_trigger_name__any_names__sorts_after_all_of_them(existing):
    name = last_trigger_name(existing).encode()
    assert all(name > other.encode() for other in existing)
    assert FIRST_TRIGGER.encode() < name


@given(st.permutations(list("abcdefgh")).map(lambda names: names[:4]))
def test_rename_pairs__any_renames__end_where_they_should(after):
    """Play the statements on a dictionary of names."""
    names = {n: n for n in "abcd"}
    for statement in rename_pairs(zip("abcd", after, strict=True), '"t"'):
        before, new = statement.split(" RENAME COLUMN ")[1].replace('"', "").split(" TO ")
        assert new not in names, "two columns of one name"
        names[new] = names.pop(before)
    assert {origin: name for name, origin in names.items()} == dict(zip("abcd", after, strict=True))


@given(st.text())
def test_dollar_quoted__any_text__is_not_closed_early(body):
    text = dollar_quoted(body)
    tag = text[: text.index("$", 1) + 1]
    assert text == f"{tag}{body}{tag}"
    assert tag not in body


@given(st.text(min_size=1).filter(lambda s: "\0" not in s))
def test_ident__any_name__doubles_inner_quotes(name):
    assert ident(name) == '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize(("deadlock_timeout_ms", "expected"), [(1000, 100), (200, 50), (1, 1), (10_000, 100)])
def test_lock_timeout__never_above_a_quarter_of_deadlock_timeout(deadlock_timeout_ms, expected):
    assert lock_timeout_ms(deadlock_timeout_ms) == expected


@given(st.integers(0, 1000), st.floats(0, 1))
def test_pause__any_try__is_positive_and_bounded(attempt, jitter):
    assert 0 < pause_s(attempt, jitter) <= 3.0


@given(st.integers(1, 4096), st.floats(0, 100))
def test_next_range__any_duration__changes_by_a_factor_of_two_at_most(blocks, seconds):
    size = next_range_blocks(blocks, seconds)
    assert 1 <= size <= 4096
    assert blocks // 2 <= size <= blocks * 2
