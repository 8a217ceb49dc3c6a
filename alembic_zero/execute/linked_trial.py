"""The trial of an operation whose values come from another table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.exc import DBAPIError

from alembic_zero.execute.sending import describe_error, send_single
from alembic_zero.execute.trial import TableTrial
from alembic_zero.lens.lens import Edge
from alembic_zero.lens.link import Link, Mapped, Side
from alembic_zero.operations.across import FromTable
from alembic_zero.operations.tables import ZdCreateTableOp, ZdDropTableOp
from alembic_zero.sql import ddl
from alembic_zero.sql.links import cast_untyped
from alembic_zero.sql.quoting import ident, idents, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic_zero.catalog.snapshot import Column, Index, TableSpec
    from alembic_zero.lens.lens import Cell
    from alembic_zero.plan.items import Item

_PROBE = "_zd_value"

Finder = Callable[["Item", str | None, str], "LinkedTrial"]


class LinkedTrial(TableTrial):
    """A table's trial that may look for another table's.

    :param find: returns the trial of the table with this schema and name, for an item.
    """

    def __init__(self, *args: Any, find: Finder, **kw: Any) -> None:
        self._find = find
        super().__init__(*args, **kw)

    @property
    def table(self) -> str:
        """The empty copy, as SQL text."""
        return self._table

    def is_of(self, schema: str, name: str) -> bool:
        """Return whether the table has this schema and, by now, this name."""
        draft = self.draft
        return draft.flight.schema == schema and draft.spec.name == name and not draft.dropped

    def apply(self, item: Item) -> None:
        """Apply one operation to the copy and to the draft of the lens.

        :raises RefusedError: it cannot work; the message says why.
        """
        self._item = item
        operation = item.operation
        if isinstance(operation, ZdCreateTableOp) and operation.up is not None:
            self._link_rows(operation.up, upward=True)
            return
        if isinstance(operation, ZdDropTableOp) and operation.down is not None:
            self._link_rows(operation.down, upward=False)
        super().apply(item)

    def bind(self, cells: Iterable[str]) -> None:
        """Make sure that triggers can compute these cells."""
        for cell in cells:
            self._bind_generated(cell, self.draft.spec)

    def _probe(
        self, direction: str, expression: str | FromTable, spec: TableSpec, target: Cell, column: Column
    ) -> Edge:
        if isinstance(expression, FromTable):
            return self._probe_value(direction, expression, target, column)
        return super()._probe(direction, expression, spec, target, column)

    # -- a column's value -------------------------------------------------------------------

    def _probe_value(self, direction: str, said: FromTable, target: Cell, column: Column) -> Edge:
        other = self._other(said)
        value, where = str(said.values), str(said.where)
        with self._probing(f"{direction}= {said!r}"):
            tables = f"{self._table} JOIN {other.table} ON (({value}\n) IS NULL)"
            # A condition refuses aggregates and sets, of which a list of results would take the first.
            self._run(f"SELECT FROM {tables}")
            source = f"{self._table}, {other.table}"
            own, others = self._reads([cast_untyped(value, column.type), where], source, other, boolean=where)
            self._check_assignable(column, value, where, other)
        self.bind(self.draft.shape[name] for name in own)
        other.bind(other.draft.shape[name] for name in others)
        link = Link(
            name=self.draft.fresh("link").removeprefix("link_"),
            upward=direction == "up",
            source=other.side(others),
            target=self.side(own),
            where=where,
            cell=target.id,
            type=column.type,
            value=value,
            default=None if column.identity or column.generated else column.default,
            required=direction == "down" and column.not_null and column.default is None,
            order=tuple((name, other.draft.shape[name]) for name in other.key_columns()),
        )
        if link.required:
            self._relax(column, target)
        self._tie(link, other)
        return Edge(
            target.id,
            link.target.cells,
            link.lookup,
            "",
            str(self._item and self._item.describe()),
            repr(said),
            linked=True,
        )

    def _check_assignable(self, column: Column, value: str, where: str, other: LinkedTrial) -> None:
        """Let UPDATE refuse a type that only an explicit cast would turn into the column's."""
        with self._savepoint():
            self._run(ddl.add_column(self._table, column, _PROBE))
            self._run(f"UPDATE {self._table} SET {ident(_PROBE)} = ({value}\n) FROM {other.table} WHERE ({where}\n)")

    def _relax(self, column: Column, target: Cell) -> None:
        """Let a column be NULL until a transaction commits; a key's cannot."""
        before = self.draft.flight.spec_at(len(self.draft.flight.levels))
        if any(column.name in index.columns for index in before.indexes if index.constraint == "p"):
            raise self._refuse(
                f"column {column.name!r} is part of the primary key: it cannot wait for a row of another table", "ZD215"
            )
        self.draft.relaxed.append(target.id)

    def side(self, names: Sequence[str]) -> Side:
        """Return this table as one side of a link whose expressions read these columns."""
        draft = self.draft
        return Side(draft.flight.id, draft.spec.name, tuple((name, draft.shape[name]) for name in names))

    def key_columns(self) -> list[str]:
        """Return the columns of the primary key, else of a unique constraint, in order; none if there is neither."""
        indexes = self.draft.spec.indexes
        for wanted in ("p", "u"):
            for index in indexes:
                if index.constraint == wanted:
                    return columns_in_order(index)
        return []

    def _other(self, said: FromTable) -> LinkedTrial:
        item = self._item
        if item is None:
            raise TypeError("a link is found while an item is applied")
        other = self._find(item, said.schema, said.source)
        if other is self or other.draft.spec.name == self.draft.spec.name:
            raise self._refuse(
                f"{said!r}: expressions could not tell the two tables apart, both are called {said.source!r}", "ZD215"
            )
        for trial in (self, other):
            if trial.draft.facts.kind != "r":
                raise self._refuse(
                    f"{said!r}: {trial.draft.spec.name!r} is partitioned, which links across tables do not support",
                    "ZD208",
                )
        return other

    def _tie(self, link: Link, other: LinkedTrial) -> None:
        other.draft.links.append(link)
        self.draft.linked = other.draft.linked = True

    # -- rows -------------------------------------------------------------------------------

    def _link_rows(self, said: FromTable, *, upward: bool) -> None:
        other = self._other(said)
        values = {} if isinstance(said.values, str) else said.values
        columns = {name: self._column(name) for name in values}
        key = self._row_key(said, values)
        self._check_filled(said, values)
        mapped, reads = [], list[str]()
        with self._probing(repr(said)):
            for name, expression in values.items():
                self._run(f"SELECT FROM (SELECT) AS one JOIN {other.table} ON (({expression}\n) IS NULL)")
                text = cast_untyped(expression, columns[name].type)
                _, inputs = self._reads([text], other.table, other)
                mapped.append(
                    Mapped(self.draft.shape[name], name, columns[name].type, expression, tuple(inputs))
                )  # fmt: skip
                reads += inputs
            listed = ", ".join(f"({expression}\n)" for expression in values.values())
            with self._savepoint():
                self._run(
                    f"INSERT INTO {self._table} ({idents(values)}) OVERRIDING SYSTEM VALUE "
                    f"SELECT {listed} FROM {other.table}"
                )
            if said.where is not None:
                own, others = self._reads([said.where], f"{self._table}, {other.table}", other, boolean=said.where)
                reads += others
                self._check_mapped(said, own, values)
        shared = not self._tells_apart(other, [values[name] for name in key])
        names = [name for name in other.draft.shape if name in reads]
        other.bind(other.draft.shape[name] for name in names)
        link = Link(
            name=self.draft.fresh("link").removeprefix("link_"),
            upward=upward,
            source=other.side(names),
            target=Side(self.draft.flight.id, self.draft.spec.name, ()),
            where=said.where,
            columns=tuple(mapped),
            key=tuple(self.draft.shape[name] for name in key),
            order=tuple((name, other.draft.shape[name]) for name in other.key_columns()) if shared else (),
            shared=shared,
        )
        self._tie(link, other)

    @staticmethod
    def _tells_apart(other: LinkedTrial, expressions: Sequence[str]) -> bool:
        """Return whether no two rows of the other table can give equal values for all of these expressions."""
        spec = other.draft.spec
        texts = {text.strip() for text in expressions}
        plain = {c.name for c in spec.columns if texts & _spellings(spec.name, c.name)}
        # Within a statement, a deferrable constraint does let two rows have the same key.
        keys = [set(i.columns) for i in spec.indexes if i.constraint in ("p", "u") and not i.constraint_suffix]
        return any(key and key <= plain for key in keys)

    def _row_key(self, said: FromTable, values: dict[str, str]) -> list[str]:
        """Return the columns by which a row is found again."""
        # ON CONFLICT takes no deferrable constraint.
        constraints = [i for i in self.draft.spec.indexes if i.constraint in ("p", "u") and not i.constraint_suffix]
        for index in sorted(constraints, key=lambda i: str(i.constraint)):
            if set(index.columns) <= values.keys():
                return columns_in_order(index)
        raise self._refuse(
            f"{said!r} gives no value for every column of a primary key or unique constraint of "
            f"{self.draft.spec.name!r}: there would be no telling which row follows from which",
            "ZD216",
        )

    def _check_filled(self, said: FromTable, values: dict[str, str]) -> None:
        for column in self.draft.spec.columns:
            filled = column.name in values or column.default or column.identity or column.generated
            if column.not_null and not filled:
                raise self._refuse(f"{said!r} gives no value for column {column.name!r}, which is NOT NULL", "ZD205")
            if column.generated and column.name in values:
                raise self._refuse(f"{said!r} gives a value for generated column {column.name!r}", "ZD204")

    def _check_mapped(self, said: FromTable, own: Sequence[str], values: dict[str, str]) -> None:
        for name in own:
            if name not in values:
                raise self._refuse(f"{said!r}: where= reads {name!r}, for which there is no value", "ZD216")

    # -- asking the server ------------------------------------------------------------------

    def _probing(self, what: str) -> _Probing:
        return _Probing(self, what)

    def _reads(
        self, expressions: Sequence[str], tables: str, other: LinkedTrial, boolean: str | None = None
    ) -> tuple[list[str], list[str]]:
        """Return the columns of this table and of the other one that expressions read."""
        listed = ", ".join(f"({text}\n) AS v{n}" for n, text in enumerate(expressions))
        condition = f" WHERE ({boolean}\n)" if boolean else ""
        with self._savepoint():
            send_single(self._connection, f"CREATE VIEW {self._probe_view} AS SELECT {listed} FROM {tables}{condition}")
            rows = self._run(
                f"SELECT c.oid::regclass::text, c.oid = {literal(self._table)}::regclass,"
                f" c.oid = {literal(other.table)}::regclass, a.attname FROM pg_rewrite r "
                "JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid "
                "JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid "
                "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0 "
                f"WHERE r.ev_class = {literal(self._probe_view)}::regclass AND c.oid <> r.ev_class "
                "AND c.relkind <> 'S' ORDER BY a.attnum"
            ).all()
            whole = self._run(
                "SELECT EXISTS (SELECT FROM pg_rewrite WHERE ev_action::text LIKE '%:varattno 0 %'"
                f" AND ev_class = {literal(self._probe_view)}::regclass)"
            ).scalar_one()
        if whole:
            # Its columns are not known by name, so a change of them would not be noticed.
            raise self._refuse("the expressions read a whole row: name the columns", "ZD210")
        strangers = sorted({row[0] for row in rows if not (row[1] or row[2])})
        if strangers:
            raise self._refuse(f"the expressions read {', '.join(strangers)}, too", "ZD211")
        own = list(dict.fromkeys(row[3] for row in rows if row[1] and row[3]))
        others = list(dict.fromkeys(row[3] for row in rows if row[2] and row[3]))
        return own, others

    def fail(self, what: str, error: DBAPIError | psycopg.Error) -> None:
        """Refuse the item because the server does not take its expressions.

        :raises RefusedError: always, code ZD210.
        """
        raise self._refuse(f"{what}: {describe_error(error)}", "ZD210", error) from error


class _Probing:
    """Turns what the server says of an expression into a refusal of its operation."""

    def __init__(self, trial: LinkedTrial, what: str) -> None:
        self._trial = trial
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: object, _traceback: object) -> None:
        if isinstance(error, DBAPIError | psycopg.Error):
            self._trial.fail(self._what, error)


def _spellings(table: str, column: str) -> set[str]:
    """Return the texts that mean nothing but a column."""
    quoted, plain = f'"{column}"', column
    return {f"{t}{c}" for t in ("", f"{table}.", f'"{table}".') for c in (quoted, plain)}


def columns_in_order(index: Index) -> list[str]:
    """Return the columns of a constraint's index in the order of its definition."""
    names = re.findall(r'"(?:[^"]|"")*"|[^\s,()]+', index.definition.partition("(")[2])
    plain = [name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names]
    return [name for name in dict.fromkeys(plain) if name in index.columns]
