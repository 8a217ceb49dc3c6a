"""What an upgrade does to enums: changes of one enum composed, and what each phase runs for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alembic_zero.plain import PlainData
from alembic_zero.plan.step import Kind, Step
from alembic_zero.sql import enums as sql
from alembic_zero.sql.enums import LabelUsedError, map_array, map_value, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from alembic_zero.catalog.snapshot import Column, Grant, TableSpec

LabelMap = dict[str, str | None]


@dataclass(frozen=True)
class EnumFlight(PlainData):
    """An enum whose newest labels are those of a type in *holder* until the contract puts it in its place.

    *type* and *final* are its qualified names until then and after it, as the server writes them.
    """

    schema: str
    name: str
    holder: str
    type: str
    final: str


@dataclass(frozen=True)
class EnumFacts:
    """An enum as the catalog describes it; *type* is its qualified name as the server writes it.

    *schema* is where it belongs, though one in flight is still somewhere else; *final* is what it is called there.

    :param owner: None for the migrating role itself.
    :param grants: None where nobody has granted or revoked anything.
    """

    oid: int
    schema: str
    name: str
    type: str
    final: str
    labels: tuple[str, ...]
    owner: str | None = None
    grants: tuple[Grant, ...] | None = None
    comment: str | None = None


@dataclass(frozen=True)
class EnumChange:
    """Other labels for an enum, as one step from *facts*: a new type in the schema *holder*.

    *up* says what each former label becomes, *down* what each new one is for former clients. *source* is the
    operation that it comes from.
    """

    facts: EnumFacts
    holder: str
    type: str
    labels: tuple[str, ...]
    up: LabelMap
    down: LabelMap
    source: str = ""

    def then(self, labels: tuple[str, ...], up: Mapping[str, str | None], down: Mapping[str, str | None]) -> EnumChange:
        """Return this change followed by another one."""
        return replace(
            self,
            labels=labels,
            up={label: None if became is None else up[became] for label, became in self.up.items()},
            down={label: None if former is None else self.down[former] for label, former in down.items()},
        )

    # -- statements -----------------------------------------------------------------------

    def create(self) -> list[str]:
        """Return the statements that create the new type, with all that the former one has."""
        facts = self.facts
        return [
            sql.create_type(self.holder, facts.name, self.labels),
            *sql.type_settings(self.holder, facts.name, owner=facts.owner, grants=facts.grants, comment=facts.comment),
        ]

    def contract(self) -> tuple[str, ...]:
        """Return the statements that put the new type in the place of the former one."""
        schema, name = self.facts.schema, self.facts.name
        return sql.drop_type(schema, name), sql.move_type(self.holder, name, schema)

    @property
    def flight(self) -> EnumFlight:
        """What later upgrades have to know of it."""
        return EnumFlight(self.facts.schema, self.facts.name, self.holder, self.type, self.facts.final)

    # -- columns --------------------------------------------------------------------------

    def concerns(self, column: Column) -> bool:
        """Return whether a column is of the former type, or an array of it."""
        return column.type in (self.facts.type, f"{self.facts.type}[]")

    def expression(self, column: Column, *, upwards: bool) -> str:
        """Return the expression that maps a column's value to the other type, by the column's own name."""
        mapping, type_ = (self.up, self.type) if upwards else (self.down, self.facts.type)
        changed = {label: became for label, became in mapping.items() if label != became}
        return (map_array if column.type.endswith("[]") else map_value)(column.name, changed, type_)

    def _exact(self) -> LabelMap:
        """Return the labels that have one counterpart, there and back: only those may stand in a condition."""
        return {label: became for label, became in self.up.items() if became is not None and self.down[became] == label}

    def retyped(self, spec: TableSpec, refuse: Callable[[str], Exception]) -> TableSpec:
        """Return a table's description with the new type in it, whatever names it or its labels.

        :param refuse: makes the error for a definition that has no counterpart.
        """
        exact = self._exact()

        def condition(what: str, text: str) -> str:
            try:
                return translate(text, self.facts.type, self.type, exact)
            except LabelUsedError as error:
                raise refuse(
                    f"{what} uses label {error.label!r}, which goes or merges with another one: drop it first"
                ) from error

        return replace(
            spec,
            columns=tuple(self._column(c, condition) for c in spec.columns),
            checks=tuple(
                replace(
                    c,
                    definition=condition(f"CHECK {c.name!r}", c.definition),
                    expression=condition(f"CHECK {c.name!r}", c.expression),
                )
                for c in spec.checks
            ),
            indexes=tuple(replace(i, definition=condition(f"index {i.name!r}", i.definition)) for i in spec.indexes),
            statistics=tuple(
                replace(s, definition=condition(f"statistics object {s.name!r}", s.definition)) for s in spec.statistics
            ),
        )

    def _column(self, column: Column, condition: Callable[[str, str], str]) -> Column:
        default = column.default
        if default is not None and column.generated:
            default = condition(f"generated column {column.name!r}", default)
        elif default is not None:
            default = translate(default, self.facts.type, self.type, self.up)
            default = None if default in (f"NULL::{self.type}", f"NULL::{self.type}[]") else default
        type_ = column.type
        if self.concerns(column):
            type_ = self.type + type_.removeprefix(self.facts.type)
        return replace(column, type=type_, default=default)


def plan_types(changes: Sequence[EnumChange], revision: str, holders: Mapping[str, bool]) -> list[Step]:
    """Return the steps that create the new types, before anything else: no table is locked.

    :param holders: the schemas for them, and whether they have to be created: a tombstone is there already.
    """
    steps: list[Step] = []
    for change in changes:
        if holders.get(change.holder) and f"schema {change.holder}" not in [s.name for s in steps]:
            steps.append(Step(f"schema {change.holder}", Kind.TRANSACTION, change.source,
                              tuple(sql.create_holder(change.holder, revision)),
                              inverse=(sql.drop_holder(change.holder),)))  # fmt: skip
        steps.append(Step(f"type {change.type}", Kind.TRANSACTION, change.source, tuple(change.create()),
                          inverse=(sql.drop_type(change.holder, change.facts.name),)))  # fmt: skip
    return steps
