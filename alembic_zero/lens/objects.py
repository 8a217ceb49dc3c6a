"""Indexes and constraints through the levels of a flight: what each is called, and what is gone at the end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic_zero.catalog.snapshot import TableSpec
    from alembic_zero.lens.lens import Flight, Level


class ObjectKind(StrEnum):
    """The namespaces that matter: an index is also the UNIQUE, PRIMARY KEY or EXCLUDE constraint that owns it."""

    INDEX = "index"
    CHECK = "check"
    FOREIGN_KEY = "foreign key"


@dataclass(frozen=True)
class TableObject:
    """An index or CHECK as it stands in the database.

    :param name: what the level where it first appeared calls it.
    :param cells: the cells that it is about.
    :param constraint: it is a constraint already, not an index that will become one.
    """

    kind: ObjectKind
    physical: str
    name: str
    cells: tuple[str, ...]
    constraint: bool
    unique: bool = False


def object_names(spec: TableSpec) -> set[tuple[ObjectKind, str]]:
    """Return kind and name of every index and CHECK that a logical table has."""
    return {(ObjectKind.INDEX, i.name) for i in spec.indexes} | {(ObjectKind.CHECK, c.name) for c in spec.checks}


def objects_until(flight: Flight, level: int) -> Iterator[TableObject]:
    """Yield every index and CHECK that the base or a level up to *level* has brought."""
    shape = dict(flight.shape)
    for index in flight.spec.indexes:
        cells = tuple(shape[c] for c in index.columns)
        yield TableObject(ObjectKind.INDEX, index.name, index.name, cells, bool(index.constraint), index.unique)
    for check in flight.spec.checks:
        cells = tuple(shape[c] for c in check.columns)
        yield TableObject(ObjectKind.CHECK, check.name, check.name, cells, constraint=True)
    for one in flight.levels[:level]:
        yield from _made_by(one)


def _made_by(level: Level) -> Iterator[TableObject]:
    shape = dict(level.shape)
    for new in level.indexes:
        cells = tuple(shape[c] for c in new.index.columns)
        # An exclusion constraint cannot be made from an index: it is one from the start.
        yield TableObject(
            ObjectKind.INDEX, new.physical, new.index.name, cells, new.index.constraint == "x", new.index.unique
        )
    for check in level.checks:
        cells = tuple(shape[c] for c in check.check.columns)
        yield TableObject(ObjectKind.CHECK, check.physical, check.check.name, cells, constraint=True)
    for rule in level.rules:
        if rule.check is not None:
            yield TableObject(ObjectKind.CHECK, rule.helper_name, rule.check.name, rule.cells, constraint=True)


def names_at(flight: Flight, level: int) -> dict[tuple[ObjectKind, str], str]:
    """Return, by kind and physical name, what level number *level* calls each index and constraint that it has."""
    logical = {key: key[1] for key in object_names(flight.spec)}
    for one in flight.levels[:level]:
        made = {(o.kind, o.name): o.physical for o in _made_by(one)}
        renamed = {(ObjectKind(kind), after): (ObjectKind(kind), before) for kind, before, after in one.renamed}
        logical = {
            key: made[key] if key in made else logical[renamed.get(key, key)]
            for key in object_names(one.spec)
            if key in made or renamed.get(key, key) in logical
        }
    keys = {(ObjectKind.FOREIGN_KEY, physical): name for name, physical in flight.foreign_keys_at(level).items()}
    return keys | {(kind, physical): name for (kind, name), physical in logical.items()}


def lost_at(flight: Flight, level: int) -> list[TableObject]:
    """Return the indexes and CHECKs that the base or a level below has and level number *level* has not.

    Foreign keys are let go of by themselves, in :mod:`alembic_zero.plan.references`.
    """
    kept = names_at(flight, level)
    return [one for one in objects_until(flight, level) if (one.kind, one.physical) not in kept]
