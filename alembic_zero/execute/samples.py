"""Try both expressions of every column on rows that exist, before anything changes.

Some rows of each table, in a transaction that is rolled back: the first ones, and some of random blocks. ACCESS
SHARE is the only lock on the table; nothing is written to it, so no trigger fires.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from alembic_zero.catalog.reader import read_rows
from alembic_zero.execute.backfill import is_about_data
from alembic_zero.execute.locks import sqlstate
from alembic_zero.execute.sending import describe_error, send
from alembic_zero.plan.findings import Finding, Severity
from alembic_zero.sql.quoting import ident
from alembic_zero.sql.samples import SampleSql, render_first, render_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from sqlalchemy.engine import Connection

    from alembic_zero.lens.lens import Edge, Flight, Rule
    from alembic_zero.sql.links import LinkSql

_SHOWN = 3
_TABLE_S = 5.0
_LEAVES = 4
_BLOCKS = 64
_READ_ONLY = "25006"


class _GivenUpError(Exception):
    """The rows cannot be tried, or not in time; says why."""


@dataclass
class Sample:
    """The trial of a table's newest level on some of its rows.

    :param connection: in a transaction that will be rolled back, in which the level's functions are there.
    :param rows: how many to try.
    :param filled: cells that all rows have been searched for NULL already.
    """

    connection: Connection
    flight: Flight
    rows: int
    filled: frozenset[str] = frozenset()
    clock: Callable[[], float] = time.monotonic
    _tried: int = 0
    _deadline: float = field(init=False)
    _sql: SampleSql = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = self.clock() + _TABLE_S
        keys = [row["name"] for row in read_rows(self.connection, "key_columns", oid=self.flight.relation)]
        self._sql = SampleSql(self.flight, keys, self.filled)

    def findings(self) -> Iterator[Finding]:
        """Yield what the rows say: an error for ``up``, a warning for the way back."""
        if not self.rows or not self._has_work():
            return
        try:
            yield from self._try()
        except (_GivenUpError, DBAPIError) as error:
            reason = describe_error(error) if isinstance(error, DBAPIError) else error
            yield self._finding(
                Severity.NOTE, "ZD401", f"up= and down= were tried on {self._tried:,} rows, not more: {reason}"
            )

    def _has_work(self) -> bool:
        return bool(self._sql.ups)

    def _try(self) -> Iterator[Finding]:
        for statement in self._sql.create():
            self._send(statement)
        # What an expression writes, or a number that it takes, would stay.
        self._send("SET LOCAL transaction_read_only = on")
        failures: list[str] = []
        for leaf, tids in self._chosen():
            failures += self._upward(leaf, tids)
            self._tried += len(tids)
        if failures:
            yield self._unfit(failures)
        for number, rule in enumerate(self._sql.rules):
            found = self._send(self._sql.broken(number, _SHOWN)).all()
            if found:
                keys = ", ".join(f"{self._name}={row[0]}" for row in found)
                yield self._unfit([f"{self._broken(rule)}: {found[0][1]:,} rows, {keys}"])
        if self._sql.downs and not failures:
            yield from self._back()

    # -- which rows -----------------------------------------------------------------------

    def _chosen(self) -> Iterator[tuple[tuple[str, str], list[str]]]:
        leaves = sorted(read_rows(self.connection, "leaves", oid=self.flight.relation), key=lambda r: -r["blocks"])
        leaves = [leaf for leaf in leaves if leaf["blocks"]][:_LEAVES]
        for leaf in leaves:
            yield (leaf["schema"], leaf["name"]), self._tids(leaf, max(2, self.rows // len(leaves)))

    def _tids(self, leaf: Mapping[str, Any], rows: int) -> list[str]:
        name = (leaf["schema"], leaf["name"])
        if leaf["blocks"] <= _BLOCKS:
            return [row[0] for row in self._send(render_first(name, rows))]
        percent = 100.0 * _BLOCKS / leaf["blocks"]
        found = [row[0] for row in self._send(render_first(name, rows // 2))]
        found += [row[0] for row in self._send(render_random(name, rows - len(found), percent))]
        return list(dict.fromkeys(found))

    # -- upwards --------------------------------------------------------------------------

    def _upward(self, leaf: tuple[str, str], tids: list[str]) -> list[str]:
        """Derive rows all at once; return what is said of those that fail, found by halving."""

        def insert(part: Sequence[str]) -> str:
            return self._sql.fill_upward(leaf, part, self._sql.ups, whole=True)

        return [self._explain(leaf, tid, error) for tid, error in self._failing(tids, insert)]

    def _failing(self, tids: Sequence[str], insert: Callable[[Sequence[str]], str]) -> list[tuple[str, DBAPIError]]:
        """Run an INSERT for all rows that it can be run for; return some of the others with their errors."""
        failing: list[tuple[str, DBAPIError]] = []
        waiting = [list(tids)] if tids else []
        while waiting and len(failing) < _SHOWN:
            part = waiting.pop(0)
            error = self._attempt(insert(part))
            if error is None:
                continue
            if len(part) == 1:
                failing.append((part[0], error))
            else:
                middle = len(part) // 2
                waiting[:0] = [part[:middle], part[middle:]]
        return failing

    def _attempt(self, statement: str) -> DBAPIError | None:
        """Run a statement behind a savepoint; return an error that is about the rows."""
        savepoint = self.connection.begin_nested()
        try:
            self._send(statement)
        except DBAPIError as error:
            savepoint.rollback()
            if sqlstate(error) == _READ_ONLY:
                raise _GivenUpError(f"an expression writes ({describe_error(error)})") from error
            if not is_about_data(error):
                raise _GivenUpError(describe_error(error)) from error
            return error
        savepoint.commit()
        return None

    def _explain(self, leaf: tuple[str, str], tid: str, error: DBAPIError) -> str:
        edge = self._culprit(leaf, tid)
        said = f"{edge.source}, up= {edge.expression!r}: " if edge else ""
        return f"{said}{self._name}={self._key(leaf, tid)}: {describe_error(error)}"

    def _culprit(self, leaf: tuple[str, str], tid: str) -> Edge | None:
        for edge in self._sql.ups:
            savepoint = self.connection.begin_nested()
            try:
                self._send(self._sql.fill_upward(leaf, [tid], [edge], whole=False))
            except DBAPIError:
                savepoint.rollback()
                return edge
            savepoint.rollback()
        return None

    def _key(self, leaf: tuple[str, str], tid: str) -> str:
        return str(self._send(self._sql.key_of(leaf, tid)).scalar_one())

    def _broken(self, rule: Rule) -> str:
        if rule.check is not None:
            return f"check constraint {rule.name!r} is violated"
        name = next(name for name, cell in self.flight.levels[-1].shape if cell == rule.cells[0])
        return f"NULL for column {name!r}, which is NOT NULL"

    def _unfit(self, failures: Sequence[str]) -> Finding:
        shown = "; ".join(failures[:_SHOWN])
        return self._finding(
            Severity.ERROR,
            "ZD214",
            f"rows do not fit the new version ({shown}; {self._tried:,} rows were tried)",
            "correct those rows, or give an up= that converts them",
        )

    # -- and back -------------------------------------------------------------------------

    def _back(self) -> Iterator[Finding]:
        error = self._attempt(self._sql.fill_back())
        if error is not None:
            keys = dict(self._send(self._sql.derived_tids()).all())
            found = self._failing(list(keys), self._sql.fill_back)
            shown = "; ".join(f"{self._name}={keys[tid]}: {describe_error(one)}" for tid, one in found)
            yield self._finding(
                Severity.WARNING,
                "ZD401",
                f"down= fails for what up= makes of existing rows ({shown})",
                "new clients that write such a value get this error",
            )
            return
        before = {cell: name for name, cell in self.flight.shape_at(len(self.flight.levels) - 1)}
        for edge in self._sql.downs:
            rows = self._send(self._sql.lossy(edge, _SHOWN)).all()
            if rows:
                shown = "; ".join(f"{self._name}={row[0]}: {_short(row[1])} becomes {_short(row[2])}" for row in rows)
                yield self._finding(
                    Severity.WARNING,
                    "ZD401",
                    f"column {before[edge.target]!r}: for {rows[0][3]:,} of {self._tried:,} rows, down= does not lead "
                    f"back from what up= makes of them ({shown})",
                    "they keep their values, unless a new client changes what down= reads",
                )

    # -- talking to the server ------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"({', '.join(self._sql.keys) or 'ctid'})"

    def _finding(self, severity: Severity, code: str, message: str, advice: str = "") -> Finding:
        return Finding(severity, code, self.flight.label, message, advice)

    def _send(self, statement: str) -> Any:
        left_ms = int((self._deadline - self.clock()) * 1000)
        if left_ms <= 0:
            raise _GivenUpError(f"{_TABLE_S:.0f} s are over")
        send(self.connection, f"SET LOCAL statement_timeout = {left_ms}")
        return send(self.connection, statement)


@dataclass
class RowSample(Sample):
    """The trial of a link that makes a row of another table of each row."""

    link: LinkSql | None = None

    @property
    def _link(self) -> LinkSql:
        assert self.link is not None  # noqa: S101 - only because the fields before it have defaults
        return self.link

    def _has_work(self) -> bool:
        return True

    def _try(self) -> Iterator[Finding]:
        target = self._link.target
        spec = target.spec_at(len(target.levels))
        filled = [(column, spec.column(column.column)) for column in self._link.link.columns]
        columns = [
            f"{ident(mapped.column)} {mapped.type}{' NOT NULL' if column and column.not_null else ''}"
            for mapped, column in filled
        ]
        names = {mapped.column for mapped, _ in filled}
        columns += [f"CONSTRAINT {ident(c.name)} {c.definition}" for c in spec.checks if names.issuperset(c.columns)]
        self._send(f"CREATE TEMPORARY TABLE {ident(spec.name)} ({', '.join(columns)}) ON COMMIT DROP")
        self._send("SET LOCAL transaction_read_only = on")
        failures: list[str] = []
        for leaf, tids in self._chosen():
            found = self._failing(tids, lambda part, leaf=leaf: self._insert(spec.name, leaf, part))  # type: ignore[misc]
            failures += [f"{self._name}={self._key(leaf, tid)}: {describe_error(error)}" for tid, error in found]
            self._tried += len(tids)
        if failures:
            yield self._unfit([f"rows for {target.schema}.{spec.name}: {failures[0]}", *failures[1:]])

    def _insert(self, table: str, leaf: tuple[str, str], tids: Sequence[str]) -> str:
        return self._link.try_rows(ident("pg_temp", table), leaf, tids)


def _short(value: str | None) -> str:
    if value is None:
        return "NULL"
    return repr(value if len(value) <= 60 else f"{value[:57]}...")
