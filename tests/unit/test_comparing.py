"""What a row may be held to: no state that writers of both sides can reach breaks it."""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from alembic_zero.lens.comparing import Arrow, Demand, Direction, demands_between

if TYPE_CHECKING:
    from collections.abc import Sequence

OLD, SHARED, NEW = ("a", "b", "c"), ("s",), ("x", "y", "z")


def arrow(text: str, *, upward: bool) -> Arrow:
    """Return the arrow that "x=ab" describes: the target, and what it follows from."""
    target, _, inputs = text.partition("=")
    return Arrow(1, upward, target, frozenset(inputs), frozenset(), None)


def demands(ups: str, downs: str) -> dict[str, list[set[str]] | None]:
    """Return by target what excuses each arrow."""
    found = demands_between(*directions(ups.split(), downs.split()), frozenset())
    return {
        d.arrow.target: None if d.excuses is None else [{a.target for a in excuse} for excuse in d.excuses]
        for d in found
    }


def directions(ups: Sequence[str], downs: Sequence[str]) -> tuple[Direction, Direction]:
    return (
        Direction([arrow(up, upward=True) for up in ups], frozenset(OLD + SHARED)),
        Direction([arrow(down, upward=False) for down in downs], frozenset(NEW + SHARED)),
    )


def test_demands__split_and_join__all_of_one_side():
    assert demands("x=a y=a", "a=xy") == {"x": [{"a"}], "y": [{"a"}], "a": [{"x", "y"}]}


def test_demands__two_independent_pairs__each_by_itself():
    assert demands("x=a y=b", "a=x b=y") == {"x": [{"a"}], "y": [{"b"}], "a": [{"x"}], "b": [{"y"}]}


def test_demands__no_way_back__nothing_to_hold_it_to():
    assert demands("x=a", "") == {"x": None}
    assert demands("", "a=x") == {"a": None}


def test_demands__column_of_both_versions_that_only_one_side_follows__nothing_to_hold_it_to():
    assert demands("x=as", "a=x") == {"x": None, "a": None}


def test_demands__column_of_both_versions_that_both_sides_follow__held():
    assert demands("x=as", "a=xs") == {"x": [{"a"}], "a": [{"x"}]}


def test_demands__other_way_undone_without_this_one__no_excuse():
    """What an old client writes to b spoils the way back to it, and x stays as it is: nothing says why."""
    assert demands("x=a", "b=x") == {"x": None, "b": None}


# -- every state that can be reached -------------------------------------------------------------------

INPUTS = {"up": OLD + SHARED, "down": NEW + SHARED}


def _ways(targets: Sequence[str], sources: Sequence[str]) -> st.SearchStrategy[list[str]]:
    inputs = st.sets(st.sampled_from(sources), min_size=1).map(lambda cells: "".join(sorted(cells)))
    return st.dictionaries(st.sampled_from(targets), inputs).map(lambda d: [f"{t}={i}" for t, i in sorted(d.items())])


class Row:
    """One row, kept in step as the trigger does it: what follows from what has changed, on the other side."""

    def __init__(self, upper: Direction, lower: Direction, chance: random.Random) -> None:
        self.upper, self.lower, self.chance = upper, lower, chance
        tables = chance.randrange(1 << 30)
        self.value = lambda one, cells: hash((one.target, tables, tuple(cells[c] for c in sorted(one.inputs)))) % 3
        self.cells: dict[str, Any] = {cell: chance.randrange(3) for cell in OLD + SHARED + NEW}
        for one in chance.choice((upper, lower)).arrows:
            self.cells[one.target] = self.value(one, self.cells)

    def write(self) -> None:
        """Let a client of one side write some of its columns."""
        ways, columns = self.chance.choice([(self.upper, OLD + SHARED), (self.lower, NEW + SHARED)])
        before = dict(self.cells)
        for cell in self.chance.sample(columns, self.chance.randint(1, 2)):
            self.cells[cell] = self.chance.randrange(3)
        changed = {cell for cell in columns if self.cells[cell] != before[cell]}
        for one in ways.arrows:
            if one.inputs & changed:
                self.cells[one.target] = self.value(one, self.cells)

    def holds(self, one: Arrow) -> bool:
        return bool(self.cells[one.target] == self.value(one, self.cells))

    def fails(self, demand: Demand) -> bool:
        excused = any(all(map(self.holds, excuse)) for excuse in demand.excuses or ())
        return demand.excuses is not None and not self.holds(demand.arrow) and not excused


@settings(max_examples=300, deadline=None)
@given(_ways(NEW, INPUTS["up"]), _ways(OLD, INPUTS["down"]), st.integers())
def test_demands__whatever_clients_write__none_fails(ups, downs, seed):
    upper, lower = directions(ups, downs)
    held = demands_between(upper, lower, frozenset())
    row = Row(upper, lower, random.Random(seed))
    for _ in range(60):
        assert not [d.arrow.target for d in held if row.fails(d)], (ups, downs, row.cells)
        row.write()


def test_demands__complete_pair__every_state_that_cannot_be_reached_fails():
    """Of split and join, the states that pass are just those in which one whole side follows."""
    upper, lower = directions(["x=a", "y=a"], ["a=xy"])
    held = demands_between(upper, lower, frozenset())
    row = Row(upper, lower, random.Random(1))
    for values in product(range(3), repeat=3):
        row.cells |= dict(zip("axy", values, strict=True))
        legal = all(map(row.holds, upper.arrows)) or all(map(row.holds, lower.arrows))
        assert legal is not any(map(row.fails, held))
