"""Each scenario's migration, as the other tests define it, with the workload that goes with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.acceptance import test_across, test_constraints, test_enums, test_indexes, test_keys_live, test_scenarios
from tests.traffic.workload import FIRST
from tests.traffic.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.harness import Case
    from tests.traffic.workload import Workload


def _named(cases: Iterable[Case], name: str) -> Case:
    return next(case for case in cases if case.name == name)


CASES: dict[str, Case] = {
    "s01_one_to_many": test_across.S01,
    "s02_upper_lower": test_across.S02,
    "s03_split": test_scenarios.S03_SPLIT,
    "s04_json": test_scenarios._s04("jsonb"),
    "s05_duplicate": _named(test_across.S05, "S05_duplicate_a_column"),
    "s05_move": _named(test_across.S05, "S05_move_a_column"),
    "s06_table_from_table": test_across.S06,
    "s07_rename": _named(test_scenarios.S07, "rename"),
    "s07_integer_to_text": _named(test_scenarios.S07, "integer_to_text"),
    "s07_text_to_integer": _named(test_scenarios.S07, "text_to_integer"),
    "s07_plus_1": _named(test_scenarios.S07, "plus_1"),
    "s07_plus_2": _named(test_scenarios.S07, "plus_2"),
    "s07_not_null": _named(test_scenarios.S07, "not_null_with_coalesce"),
    "s07_nullable": _named(test_scenarios.S07, "nullable_with_down"),
    "s07_default": _named(test_scenarios.S07, "default"),
    "s08_default": _named(test_scenarios.S08, "not_null_with_default"),
    "s08_nullable": _named(test_scenarios.S08, "nullable"),
    "s08_up": _named(test_scenarios.S08, "with_up"),
    "s08_volatile": _named(test_scenarios.S08, "volatile_default"),
    "s09_tables": test_constraints.S09_TABLES,
    "s10_index_unique": _named(test_indexes.S10_KINDS, "create_unique"),
    "s10_index_expression": _named(test_indexes.S10_KINDS, "create_expression"),
    "s10_index_dropped": _named(test_indexes.S10_DROPS, "drop"),
    "s10_enum_add": _named(test_enums.CASES, "add"),
    "s10_enum_rename": _named(test_enums.CASES, "rename"),
    "s11_custom_sql": test_scenarios.S11,
    "s12_edited": test_scenarios.S03_SPLIT,
    "s13_review": test_scenarios.S13,
    "s14_table_replaced": test_scenarios.S14,
    "s15_web_application": test_scenarios.S15,
    "keys": test_keys_live.CASE,
}

# What a developer tries first, and takes back.
DRAFTS: dict[str, str] = {"s12_edited": 'op.zd_add_column("users", sa.Column("nick", sa.Integer), up="length(name)")'}


@dataclass(frozen=True)
class Scenario:
    """A migration under traffic.

    :param case: its tables with *rows* more rows.
    :param draft: the revision's first text, which is upgraded to and rolled back before.
    """

    name: str
    case: Case
    workload: Workload
    rows: int
    draft: str = ""


def scenario(name: str, rows: int) -> Scenario:
    """Return a scenario with that many rows."""
    workload = WORKLOADS[name]
    case = CASES[name]
    load = workload.load.format(first=FIRST, last=FIRST + rows - 1)
    return Scenario(name, replace(case, setup=f"{case.setup};{load}"), workload, rows, DRAFTS.get(name, ""))
