"""Enums of an upgrade: read, checked and tried, column by column, before anything changes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alembic_zero.catalog.reader import find_table, qualified_names, read_rows
from alembic_zero.catalog.snapshot import Grant
from alembic_zero.execute.plain_ddl import TRIAL_SCHEMA
from alembic_zero.execute.sending import send
from alembic_zero.names import version_schema
from alembic_zero.operations.enums import (
    LabelsError,
    ZdAlterEnumOp,
    ZdCreateEnumOp,
    ZdDropEnumOp,
    ZdEnumOperation,
    complete_down,
    complete_up,
)
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.enums import EnumChange, EnumFacts
from alembic_zero.plan.items import Item, Ordinary
from alembic_zero.sql.enums import create_holder
from alembic_zero.sql.quoting import ident, idents, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from sqlalchemy.engine import Connection

    from alembic_zero.execute.trial import TableTrial
    from alembic_zero.lens.lens import Flight
    from alembic_zero.operations.enums import Labels
    from alembic_zero.plan.enums import EnumFlight

    Resolve = Callable[[Item, str, str], TableTrial]

_SHOWN_KEYS = 10


def read_enum(connection: Connection, schema: str, name: str, flight: EnumFlight | None = None) -> EnumFacts | None:
    """Return an enum, None if there is none of that name.

    :param flight: where it is, if it is in flight.
    """
    with qualified_names(connection):
        rows = read_rows(connection, "enum", schema=schema if flight is None else flight.holder, name=name)
    if not rows:
        return None
    row = rows[0]
    grants = row["grants"]
    return EnumFacts(
        oid=row["oid"],
        schema=schema,
        name=name,
        type=row["type"],
        final=row["type"] if flight is None else flight.final,
        labels=tuple(row["labels"]),
        owner=row["owner"],
        grants=None if grants is None else tuple(Grant(role, "USAGE", option) for role, option in grants),
        comment=row["comment"],
    )


@dataclass
class EnumTrials:
    """The enums of one upgrade.

    :param revision: the version that will be published, in whose schema new types wait.
    :param flights: tables in flight, as they are before this upgrade.
    :param flying: enums in flight by schema and name, each as its newest version has it.
    :param trials: the trials of tables that the upgrade changes, which grow in number here.
    :param project: the project's name, if it has one.
    :param holders: the schemas in which new types wait, and whether they have to be created.
    """

    connection: Connection
    revision: str
    default_schema: str
    flights: Sequence[Flight]
    flying: Mapping[tuple[str, str], EnumFlight]
    trials: Mapping[int, TableTrial]
    project: str | None = None
    changes: list[EnumChange] = field(default_factory=list)
    contract: list[str] = field(default_factory=list)
    holders: dict[str, bool] = field(default_factory=dict)

    def check(self, item: Item, operation: ZdEnumOperation) -> None:
        """Refuse an operation on an enum that is not there, or the creation of one that is.

        :raises RefusedError: code ZD202 or ZD203.
        """
        schema = operation.schema or self.default_schema
        there = self._exists(schema, operation.name)
        if isinstance(operation, ZdCreateEnumOp):
            if there:
                raise _refuse(item, f"type {schema}.{operation.name} exists already", "ZD203")
        elif not read_rows(self.connection, "enum", schema=schema, name=operation.name):
            known = ", ".join(f"{r['schema']}.{r['name']}" for r in read_rows(self.connection, "enums")) or "none"
            raise _refuse(item, f"there is no enum {schema}.{operation.name} (enums: {known})", "ZD202")

    def _exists(self, schema: str, name: str) -> bool:
        regtype = f"to_regtype({literal(ident(schema, name))})"
        return bool(send(self.connection, f"SELECT {regtype} IS NOT NULL").scalar_one())

    # -- changes --------------------------------------------------------------------------

    def apply(self, items: Sequence[Item], resolve: Resolve) -> None:
        """Try what *items* do to enums, once everything else of them has been tried.

        So every column that the upgrade leaves is converted, those that it adds, too.

        :raises RefusedError: something of it cannot work; the message says what.
        """
        for item in items:
            if isinstance(item.operation, ZdAlterEnumOp):
                self._add(item, item.operation)
        self._follow(items)
        for number, change in enumerate(self.changes):
            item = next((i for i in items if self._is_about(i, change)), self._itself)
            self._check_unseen(items, change)
            self.changes[number] = self._convert(item, change, resolve)
            self._check_users(item, change.facts)
            self.contract += change.contract()
        for place, flight in self.flying.items():
            self._check_former(self._itself, place, flight)
        for item in items:
            if isinstance(item.operation, ZdDropEnumOp):
                self._drop(item, item.operation)

    def _follow(self, items: Sequence[Item]) -> None:
        """Give this version a type of its own for every enum in flight, unless it drops it.

        Its clients look for the type in their version's schema, and would find the oldest version's without.
        """
        known = {(c.facts.schema, c.facts.name) for c in self.changes}
        dropped = {self._place(i.operation) for i in items if isinstance(i.operation, ZdDropEnumOp)}
        for place in self.flying:
            if place not in known | dropped:
                facts = self._read(*place)
                same: dict[str, str | None] = {label: label for label in facts.labels}
                holder = version_schema(self.revision, facts.schema, self.project)
                self.changes.append(EnumChange(facts, holder, "", facts.labels, same, same))

    def _check_former(self, item: Item, place: tuple[str, str], flight: EnumFlight) -> None:
        """Refuse columns that the upgrade makes of a type in flight: by its name, the server finds the oldest one.

        :raises RefusedError: code ZD233.
        """
        found = [
            f"{t.draft.flight.schema}.{t.draft.spec.name}.{c.name}"
            for t in self.trials.values()
            for c in t.draft.spec.columns
            if not t.draft.dropped and c.type in (flight.final, f"{flight.final}[]")
        ]
        former = read_enum(self.connection, *place)
        known = {(f.schema, f.name) for f in self.flights}
        found += [
            f"{row['schema']}.{row['table']}.{row['column']}"
            for row in read_rows(self.connection, "type_columns", oid=former.oid if former else 0)
            if (row["schema"], row["table"]) not in known
        ]
        if found:
            raise _refuse(
                item,
                f"{', '.join(sorted(set(found)))} would be of enum {flight.final} as it was before the change that is "
                "in flight",
                "ZD233",
                next_command="alembic zd-complete",
            )

    @property
    def _itself(self) -> Item:
        """What stands for the operation where a change follows from an earlier one that is in flight."""
        return Item(self.revision, Ordinary("enum", "an enum of an earlier revision is in flight"))

    def _check_unseen(self, items: Sequence[Item], change: EnumChange) -> None:
        """Refuse new tables that could not be tried, as they have foreign keys, and may have columns of the enum.

        :raises RefusedError: code ZD233.
        """
        word = re.compile(rf"(?<!\w){re.escape(change.facts.name)}(?!\w)")
        for item in items:
            operation = item.operation
            if not isinstance(operation, Ordinary) or operation.kind != "create_table":
                continue
            schema, name = operation.schema or self.default_schema, str(operation.table)
            if find_table(self.connection, schema, name) is None and word.search(operation.text):
                raise _refuse(
                    item,
                    f"{schema}.{name} would be created with enum {change.facts.final} as it is before the change in "
                    "the same upgrade: upgrade to one of the two revisions first, or create the table without its "
                    "foreign keys",
                    "ZD233",
                )

    def _place(self, operation: Any) -> tuple[str, str]:
        return operation.schema or self.default_schema, operation.name

    def _read(self, schema: str, name: str) -> EnumFacts:
        facts = read_enum(self.connection, schema, name, self.flying.get((schema, name)))
        assert facts is not None  # noqa: S101 - checked when its turn came
        return facts

    def _is_about(self, item: Item, change: EnumChange) -> bool:
        place = (change.facts.schema, change.facts.name)
        return isinstance(item.operation, ZdAlterEnumOp) and self._place(item.operation) == place

    def _add(self, item: Item, operation: ZdAlterEnumOp) -> None:
        schema = operation.schema or self.default_schema
        earlier = next((c for c in self.changes if self._is_about(item, c)), None)
        facts = self._read(schema, operation.name)
        before = facts.labels if earlier is None else earlier.labels
        up, down = self._complete(item, operation, facts, before)
        if earlier is not None:
            self.changes[self.changes.index(earlier)] = earlier.then(operation.values, up, down)
            return
        # The server says what the new type is called, once there is one.
        self.changes.append(
            EnumChange(facts, version_schema(self.revision, schema, self.project), "", operation.values, up, down)
        )

    def _complete(
        self, item: Item, operation: ZdAlterEnumOp, facts: EnumFacts, before: Labels
    ) -> tuple[dict[str, str | None], dict[str, str | None]]:
        """Return the whole mappings.

        :raises RefusedError: code ZD231; names the rows that hold a label without a future.
        """
        try:
            up = complete_up(before, operation.values, operation.up)
            return up, complete_down(before, operation.values, up, operation.down)
        except LabelsError as error:
            used = "; ".join(self._describe_use(facts, label) for label in error.removed if label in facts.labels)
            why = f" ({used})" if used else ""
            raise _refuse(item, f"{error}{why}", "ZD231") from error

    def _convert(self, item: Item, change: EnumChange, resolve: Resolve) -> EnumChange:
        """Return the change with the new type's name, all columns of it converted."""
        if change.holder not in self.holders:
            self.holders[change.holder] = not read_rows(self.connection, "schema_comment", schema=change.holder)
        statements = create_holder(change.holder, self.revision) if self.holders[change.holder] else []
        for statement in [*statements, *change.create()]:
            send(self.connection, statement)
        created = read_enum(self.connection, change.holder, change.facts.name)
        assert created is not None  # noqa: S101
        change = replace(change, type=created.type, source=item.describe())
        for schema, name in self._tables(change):
            resolve(item, schema, name).retype(item, change)
        return change

    def _tables(self, change: EnumChange) -> list[tuple[str, str]]:
        """Return schema and name, as the newest version has it, of every table with such a column."""
        drafts = [trial.draft for trial in self.trials.values()]
        flying = {(f.schema, f.name): f for f in self.flights}
        tried = {(d.flight.schema, d.flight.name) for d in drafts}
        found = [
            (d.flight.schema, d.spec.name) for d in drafts
            if not d.dropped and any(change.concerns(c) for c in d.spec.columns)
        ]  # fmt: skip
        for row in read_rows(self.connection, "type_tables", oid=change.facts.oid):
            place = (row["schema"], row["name"])
            flight = flying.get(place)
            if place in tried:
                continue
            if flight is None:
                found.append(place)
            elif not _is_dropped(flight) and any(change.concerns(c) for c in _top(flight).columns):
                found.append((flight.schema, _top(flight).name))
        return found

    # -- users of a type ------------------------------------------------------------------

    def _drop(self, item: Item, operation: ZdDropEnumOp) -> None:
        schema = operation.schema or self.default_schema
        self._check_users(item, self._read(schema, operation.name))
        self.contract.append(f"DROP TYPE IF EXISTS {ident(schema, operation.name)}")

    def _check_users(self, item: Item, facts: EnumFacts) -> None:
        """Refuse an enum that something still uses after the upgrade.

        A table that the upgrade changes is judged by its copy in the trial.
        """
        tried = {(trial.draft.flight.schema, trial.draft.flight.name) for trial in self.trials.values()}
        flying = {(f.schema, f.name): f for f in self.flights}
        users = []
        for row in read_rows(self.connection, "type_users", oid=facts.oid):
            place = (row["schema"], row["table"])
            flight = flying.get(place)
            if place in tried or (flight is not None and not self._mentions(flight, facts)):
                continue
            users.append(re.sub(rf"\b{TRIAL_SCHEMA}_\w+\.", "", row["object"]))
        if users:
            raise _refuse(
                item, f"enum {facts.schema}.{facts.name} is used by {', '.join(dict.fromkeys(users))}", "ZD207"
            )

    @staticmethod
    def _mentions(flight: Flight, facts: EnumFacts) -> bool:
        return not _is_dropped(flight) and any(
            c.type in (facts.type, f"{facts.type}[]") or facts.type in (c.default or "") for c in _top(flight).columns
        )

    def _describe_use(self, facts: EnumFacts, label: str) -> str:
        """Return where a label is used: table, column and the first keys, with those of their rows."""
        uses = []
        for row in read_rows(self.connection, "type_columns", oid=facts.oid):
            keys = self._keys(row, label)
            if keys:
                uses.append(f"{row['schema']}.{row['table']}.{row['column']} in rows {', '.join(keys)}")
        if uses:
            return f"label {label!r} is used by {'; '.join(uses)}"
        return f"no row has label {label!r} now, but clients of the revision before may write it"

    def _keys(self, row: Mapping[str, Any], label: str) -> list[str]:
        names = [key["name"] for key in read_rows(self.connection, "key_columns", oid=row["oid"])]
        key = f"concat_ws(', ', {idents(names)})" if names else "ctid"
        column = ident(row["column"])
        condition = (
            f"{literal(label)} = ANY ({column}::text[])" if row["array"] else f"{column}::text = {literal(label)}"
        )
        table = ident(row["schema"], row["table"])
        query = f"SELECT {key} FROM {table} WHERE {condition} ORDER BY {idents(names) or 'ctid'} LIMIT {_SHOWN_KEYS}"
        return [str(found) for found in send(self.connection, query).scalars()]


def _top(flight: Flight) -> Any:
    return flight.spec_at(len(flight.levels))


def _is_dropped(flight: Flight) -> bool:
    return any(level.dropped for level in flight.levels)


def _refuse(item: Item, problem: str, code: str, next_command: str | None = None) -> RefusedError:
    return RefusedError(
        f"{item.describe()}: {problem}; nothing was changed",
        code=code,
        revision=item.revision,
        next_command=next_command,
    )
