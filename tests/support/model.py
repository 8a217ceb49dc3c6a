"""What every version of one table must show after any sequence of writes, in plain Python.

A second implementation of the semantics in DESIGN section 3, which shares no code with the first:

* A *slot* is one instance of a column. Versions that agree on a column show the same slot.
* What a statement wrote stays. A slot that the writer's version does not show is recomputed only
  if the image of one of its inputs changed; an INSERT derives everything.
* An older version's write never fails because of a newer one: from the first level that cannot be
  derived upwards, all derived slots are NULL and the row is quarantined. Any later update tries again.
* A newer version's write that the older shape cannot take gets the ordinary error.
* A column that comes and goes within one upgrade is a slot of no shape: it is computed through. Where
  nothing computes it, it holds its default.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Value = int | str | bool | Decimal | None
Slot = int

_slots = itertools.count(1)

SQLALCHEMY_TYPES = {
    "int": "sa.Integer()",
    "bigint": "sa.BigInteger()",
    "text": "sa.Text()",
    "bool": "sa.Boolean()",
    "numeric": "sa.Numeric()",
}
INFORMATION_SCHEMA_TYPES = {
    "int": "integer",
    "bigint": "bigint",
    "text": "text",
    "bool": "boolean",
    "numeric": "numeric",
}


class SqlError(Exception):
    """The statement fails with one of these SQLSTATEs and changes nothing."""

    def __init__(self, *sqlstates: str) -> None:
        super().__init__(*sqlstates)
        self.sqlstates = frozenset(sqlstates)


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"({value})" if str(value).startswith("-") else str(value)


def image(value: Value) -> tuple[str, str]:
    """Return what tells stored values apart: 1.0 and 1.00 are equal, but not the same."""
    return type(value).__name__, str(value)


def images(row: Iterable[Value]) -> list[tuple[str, str]]:
    return [image(value) for value in row]


# -- columns and expressions --------------------------------------------------------------------


@dataclass(frozen=True)
class Expression:
    """SQL text over ``{0}``, ``{1}``, ... and the same thing as a Python function."""

    sql: str
    function: Callable[..., Value]

    def render(self, inputs: Sequence[str]) -> str:
        return self.sql.format(*(ident(name) for name in inputs))


class Call(NamedTuple):
    """An expression with the names of the columns that it reads."""

    expression: Expression
    inputs: tuple[str, ...]

    @property
    def sql(self) -> str:
        return self.expression.render(self.inputs)


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    nullable: bool = True
    default: Value = None
    slot: Slot = field(default_factory=lambda: next(_slots))


Shape = tuple[Column, ...]


@dataclass(frozen=True)
class Edge:
    """How *target* follows from *inputs*."""

    target: Slot
    inputs: tuple[Slot, ...]
    function: Callable[..., Value]


@dataclass(frozen=True)
class Level:
    """What one upgrade does to the table; *constants* are the defaults of all its columns' slots."""

    revision: str
    before: Shape
    after: Shape
    ups: tuple[Edge, ...]
    downs: tuple[Edge, ...]
    constants: Mapping[Slot, Value]

    @cached_property
    def stored(self) -> frozenset[Slot]:
        return frozenset(column.slot for column in (*self.before, *self.after))

    @cached_property
    def derived(self) -> tuple[Edge, ...]:
        """Upward edges whose targets are stored; the others are only computed through."""
        return tuple(edge for edge in self.ups if edge.target in self.stored)

    @cached_property
    def rederived(self) -> tuple[Edge, ...]:
        """Downward edges whose targets are stored, in the order of their evaluation."""
        return tuple(edge for edge in reversed(self.downs) if edge.target in self.stored)

    @cached_property
    def required(self) -> frozenset[Slot]:
        """Derived slots that must not be NULL."""
        targets = {edge.target for edge in self.derived}
        return frozenset(c.slot for c in self.after if not c.nullable and c.slot in targets)

    def inputs(self, edge: Edge, edges: Sequence[Edge]) -> frozenset[Slot]:
        """Return the stored slots that an edge depends on."""
        found: set[Slot] = set()
        for slot in edge.inputs:
            inner = self._through(slot, edges)
            if slot in self.stored:
                found.add(slot)
            elif inner is not None:
                found |= self.inputs(inner, edges)
        return frozenset(found)

    def compute(self, edge: Edge, edges: Sequence[Edge], values: Mapping[Slot, Value]) -> Value:
        """Return the value of an edge's target."""
        return edge.function(*(self._read(slot, edges, values) for slot in edge.inputs))

    def _read(self, slot: Slot, edges: Sequence[Edge], values: Mapping[Slot, Value]) -> Value:
        if slot in self.stored:
            return values[slot]
        edge = self._through(slot, edges)
        return self.constants[slot] if edge is None else self.compute(edge, edges, values)

    def _through(self, slot: Slot, edges: Sequence[Edge]) -> Edge | None:
        return next((edge for edge in edges if edge.target == slot), None)


_KEEP = object()


class Draft:
    """A level in the making; every operation also gives the line of the revision file that asks for it."""

    def __init__(self, before: Shape, table: str) -> None:
        self.before = before
        self.columns = list(before)
        self.table = table
        self.lines: list[str] = []
        self._ups: list[Edge] = []
        self._downs: list[Edge] = []
        self._constants: dict[Slot, Value] = {}

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def _edge(self, target: Column, call: Call) -> Edge:
        inputs = tuple(self.column(name).slot for name in call.inputs)
        return Edge(target.slot, inputs, call.expression.function)

    def _write(self, directive: str, *arguments: str, **keywords: str) -> None:
        keyword_texts = [f"{name}={text}" for name, text in keywords.items()]
        self.lines.append(f"op.{directive}({', '.join([repr(self.table), *arguments, *keyword_texts])})")

    def add(self, column: Column, up: Call | None = None) -> None:
        definition = f"sa.Column({column.name!r}, {SQLALCHEMY_TYPES[column.type]}, nullable={column.nullable}"
        if column.default is not None:
            definition += f", server_default={_default(column.default)}"
        keywords = {} if up is None else {"up": repr(up.sql)}
        self._write("zd_add_column", definition + ")", **keywords)
        if up is not None:
            self._ups.append(self._edge(column, up))
        self.columns.append(column)
        self._constants[column.slot] = column.default

    def drop(self, name: str, down: Call | None = None) -> None:
        column = self.column(name)
        keywords = {} if down is None else {"down": repr(down.sql)}
        self._write("zd_drop_column", repr(name), **keywords)
        self.columns.remove(column)
        if down is not None:
            self._downs.append(self._edge(column, down))

    def alter(
        self,
        name: str,
        *,
        new_name: str | None = None,
        type_: str | None = None,
        nullable: bool | None = None,
        default: object = _KEEP,
        up: Call | None = None,
        down: Call | None = None,
    ) -> None:
        """Change a column. Only name and default are not a copy."""
        column = self.column(name)
        after = replace(column, name=new_name or name)
        keywords = {}
        if new_name is not None:
            keywords["new_column_name"] = repr(new_name)
        if type_ is not None:
            keywords["type_"] = SQLALCHEMY_TYPES[type_]
            after = replace(after, type=type_)
        if nullable is not None:
            keywords["nullable"] = repr(nullable)
            after = replace(after, nullable=nullable)
        if default is not _KEEP:
            assert default is None or isinstance(default, int | str | bool | Decimal)
            keywords["server_default"] = "None" if default is None else _default(default)
            after = replace(after, default=default)
        keywords |= {} if up is None else {"up": repr(up.sql)}
        keywords |= {} if down is None else {"down": repr(down.sql)}
        self._write("zd_alter_column", repr(name), **keywords)
        kept = (after.type, after.nullable) == (column.type, column.nullable)
        if not (kept and up is None and down is None):
            after = replace(after, slot=next(_slots))
            self._ups.append(self._edge(after, up or Call(_unchanged(column, after), (name,))))
        self.columns[self.columns.index(column)] = after
        if after.slot != column.slot:
            self._downs.append(self._edge(column, down or Call(_unchanged(after, column), (after.name,))))
        self._constants[column.slot] = column.default
        self._constants[after.slot] = after.default

    def finish(self, revision: str) -> Level:
        constants = {c.slot: c.default for c in (*self.before, *self.columns)} | self._constants
        ups, downs = tuple(self._ups), tuple(self._downs)
        return Level(revision, self.before, tuple(self.columns), ups, downs, _Constants(constants))


class _Constants(dict[Slot, Value]):
    def __missing__(self, slot: Slot) -> Value:
        return None


def _default(value: Value) -> str:
    return f"sa.text({literal(value)!r})"


def _unchanged(source: Column, target: Column) -> Expression:
    """Return what an alteration without an expression means: an assignment."""
    narrows = (source.type, target.type) == ("bigint", "int")
    assert source.type == target.type or {source.type, target.type} == {"int", "bigint"}
    return NARROWED if narrows else IDENTITY


IDENTITY = Expression("{0}", lambda value: value)


# -- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """A writer: its version's number, counted from the oldest live one; *pinned* connections say so."""

    version: int
    pinned: bool = True
    base_table: bool = False


@dataclass(frozen=True)
class Row:
    """Values by slot; *synced* is the newest level through which the row is derived."""

    values: Mapping[Slot, Value]
    synced: int


@dataclass(frozen=True)
class Excluded:
    """In an upsert: the value that the INSERT proposed for this column."""

    column: str


@dataclass(frozen=True)
class Other:
    """In an UPDATE: the value that another column had before."""

    column: str


Assignment = Value | Excluded | Other


class Model:
    """The table, at all its live versions; column ``id`` (whatever it is called) is the key."""

    def __init__(self, base: Shape) -> None:
        self.base = base
        self.levels: list[Level] = []
        self.rows: dict[int, Row] = {}
        self.key = base[0].slot

    # -- what there is --------------------------------------------------------------------------

    def shape(self, version: int) -> Shape:
        return self.levels[version - 1].after if version else self.base

    @property
    def top(self) -> int:
        return len(self.levels)

    @property
    def quarantined(self) -> list[int]:
        return [key for key, row in self.rows.items() if row.synced < self.top]

    def view(self, version: int) -> dict[int, tuple[Value, ...]]:
        """Return what clients of a version see, by key."""
        return {key: self.project(key, version) for key in self.rows}

    def project(self, key: int, version: int) -> tuple[Value, ...]:
        return tuple(self.rows[key].values[column.slot] for column in self.shape(version))

    def _slots(self) -> dict[Slot, Column]:
        """Return all stored slots, each as the column of the oldest live version that shows it."""
        found: dict[Slot, Column] = {}
        for version in range(self.top + 1):
            for column in self.shape(version):
                found.setdefault(column.slot, column)
        return found

    def _spans(self) -> dict[Slot, tuple[int, int]]:
        spans: dict[Slot, tuple[int, int]] = {}
        for version in range(self.top + 1):
            for column in self.shape(version):
                spans[column.slot] = (spans.get(column.slot, (version, version))[0], version)
        return spans

    # -- writes ---------------------------------------------------------------------------------

    def insert(self, client: Client, given: Mapping[str, Value]) -> int:
        """Insert a row; columns that are not given hold the version's defaults."""
        row = self._proposed(client, given)
        key = self._key_of(row)
        if key in self.rows:
            raise SqlError("23505")
        self.rows[key] = row
        return key

    def upsert(
        self, client: Client, given: Mapping[str, Value], assignments: Mapping[str, Assignment] | None
    ) -> int | None:
        """INSERT .. ON CONFLICT (id) DO UPDATE, or DO NOTHING; return the key of the written row."""
        row = self._proposed(client, given)
        key = self._key_of(row)
        if key not in self.rows:
            self.rows[key] = row
        elif assignments is None:
            return None
        else:
            self.update(client, [key], assignments, proposed=row)
        return key

    def update(
        self,
        client: Client,
        keys: Iterable[int],
        assignments: Mapping[str, Assignment],
        *,
        proposed: Row | None = None,
    ) -> None:
        """Update rows, all or none."""
        names = {column.name: column.slot for column in self.shape(client.version)}
        written: dict[int, Row] = {}
        sqlstates: set[str] = set()
        for key in keys:
            old = self.rows[key]
            values = dict(old.values)
            for name, assignment in assignments.items():
                values[names[name]] = _assigned(assignment, old, proposed, names)
            try:
                written[key] = self._derive(old, values, self._writer(client, old, values))
            except SqlError as error:
                sqlstates |= error.sqlstates
        if sqlstates:
            raise SqlError(*sqlstates)
        self.rows.update(written)

    def delete(self, keys: Iterable[int]) -> None:
        for key in keys:
            del self.rows[key]

    def _key_of(self, row: Row) -> int:
        key = row.values[self.key]
        assert isinstance(key, int)
        return key

    def _proposed(self, client: Client, given: Mapping[str, Value]) -> Row:
        values = {slot: column.default for slot, column in self._slots().items()}
        for column in self.shape(client.version):
            values[column.slot] = given.get(column.name, column.default)
        return self._derive(None, values, client.version)

    def _writer(self, client: Client, old: Row, values: Mapping[Slot, Value]) -> int:
        """Return the version that wrote: by evidence; by the setting only where that leaves a choice."""
        spans = self._spans()
        changed = [spans[slot] for slot in values if image(values[slot]) != image(old.values[slot])]
        lowest = max((first for first, _last in changed), default=0)
        highest = min((last for _first, last in changed), default=self.top)
        hinted = client.version if client.pinned else 0
        writer = hinted if lowest <= hinted <= highest else lowest
        # Only evidence turns a row that is quarantined below a version into that version's row.
        return min(writer, max(old.synced, lowest))

    def _derive(self, old: Row | None, values: dict[Slot, Value], writer: int) -> Row:
        def stale(level: Level, edge: Edge, edges: Sequence[Edge]) -> bool:
            inputs = level.inputs(edge, edges)
            return old is None or any(image(values[slot]) != image(old.values[slot]) for slot in inputs)

        for level in reversed(self.levels[:writer]):
            for edge in level.rederived:
                if stale(level, edge, level.downs):
                    values[edge.target] = level.compute(edge, level.downs, values)
        if any(values[slot] is None for level in self.levels[:writer] for slot in level.required):
            raise SqlError("23502")
        synced = self.top
        for number in range(writer + 1, self.top + 1):
            level = self.levels[number - 1]
            forced = old is not None and old.synced < number
            try:
                for edge in level.derived:
                    if forced or stale(level, edge, level.ups):
                        values[edge.target] = level.compute(edge, level.ups, values)
                if any(values[slot] is None for slot in level.required):
                    raise SqlError("23502")
            except SqlError:
                synced = number - 1
                values |= {e.target: None for later in self.levels[synced:] for e in later.derived}
                break
        self._check_not_null(values)
        return Row(values, synced)

    def _check_not_null(self, values: Mapping[Slot, Value]) -> None:
        derived = {edge.target for level in self.levels for edge in level.derived}
        for slot, column in self._slots().items():
            if not column.nullable and slot not in derived and values[slot] is None:
                raise SqlError("23502")

    # -- migrations -----------------------------------------------------------------------------

    def misfits(self, level: Level) -> list[int]:
        """Return the keys of rows that a backfill for *level* cannot derive."""
        return [key for key, row in self.rows.items() if self._expanded(level, row) is None]

    def expand(self, level: Level) -> None:
        """Publish a new version on top; no row may be quarantined or a misfit."""
        rows = {key: self._expanded(level, row) for key, row in self.rows.items()}
        self.rows = {key: row for key, row in rows.items() if row is not None}
        assert len(self.rows) == len(rows)
        self.levels.append(level)

    def _expanded(self, level: Level, row: Row) -> Row | None:
        values = dict(row.values)
        values |= {column.slot: column.default for column in level.after if column.slot not in values}
        try:
            for edge in level.derived:
                values[edge.target] = level.compute(edge, level.ups, values)
        except SqlError:
            return None
        if any(values[slot] is None for slot in level.required):
            return None
        return Row(values, self.top + 1)

    def roll_back(self, version: int) -> None:
        """Make *version* the newest."""
        self.levels = self.levels[:version]
        self._forget(lambda row: min(row.synced, version))

    def complete(self, version: int) -> None:
        """Make *version* the oldest; no row may be quarantined below it."""
        assert all(row.synced >= version for row in self.rows.values())
        self.base, self.levels = self.shape(version), self.levels[version:]
        self._forget(lambda row: row.synced - version)

    def _forget(self, synced: Callable[[Row], int]) -> None:
        kept = self._slots()
        self.rows = {key: Row({slot: row.values[slot] for slot in kept}, synced(row)) for key, row in self.rows.items()}


def _assigned(assignment: Assignment, old: Row, proposed: Row | None, names: Mapping[str, Slot]) -> Value:
    if isinstance(assignment, Excluded):
        assert proposed is not None
        return proposed.values[names[assignment.column]]
    if isinstance(assignment, Other):
        return old.values[names[assignment.column]]
    return assignment


# -- a family of expressions with the same meaning in SQL and in Python --------------------------

_RANGES = {"int": 2**31, "bigint": 2**63}


def _in_range(value: int, type_: str = "int") -> int:
    if not -_RANGES[type_] <= value < _RANGES[type_]:
        raise SqlError("22003")
    return value


def strict(function: Callable[..., Value]) -> Callable[..., Value]:
    """Return *function*, except that NULL in gives NULL out."""

    def wrapped(*values: Value) -> Value:
        return None if any(value is None for value in values) else function(*values)

    return wrapped


def _arithmetic(sql: str, function: Callable[..., int], type_: str) -> Expression:
    return Expression(sql, strict(lambda *values: _in_range(function(*values), type_)))


def _divided(left: int, right: int) -> int:
    if right == 0:
        raise SqlError("22012")
    return abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)


def _parsed(type_: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.strip(" ")
        if not digits.removeprefix("-").isdecimal():
            raise SqlError("22P02")
        return _in_range(int(digits), type_)

    return parse


def _to_numeric(text: str) -> Decimal:
    try:
        return Decimal(text.strip(" "))
    except InvalidOperation:
        raise SqlError("22P02") from None


def _to_text(value: Value) -> str:
    return literal(value) if isinstance(value, bool) else str(value)


def _split_part(text: str, number: int) -> str:
    parts = text.split(" ")
    return parts[number - 1] if number <= len(parts) else ""


TO_TEXT = Expression("{0}::text", strict(_to_text))
TO_INT = Expression("{0}::int", strict(_parsed("int")))
TO_BIGINT = Expression("{0}::bigint", strict(_parsed("bigint")))
TO_NUMERIC = Expression("{0}::numeric", strict(_to_numeric))
FIRST_WORD = Expression("split_part({0}, ' ', 1)", strict(lambda text: _split_part(text, 1)))
SECOND_WORD = Expression("split_part({0}, ' ', 2)", strict(lambda text: _split_part(text, 2)))
JOINED = Expression("{0} || ' ' || {1}", strict(lambda left, right: f"{left} {right}"))
UPPER = Expression("upper({0})", strict(lambda text: text.upper()))
LOWER = Expression("lower({0})", strict(lambda text: text.lower()))
NOT = Expression("NOT {0}", strict(lambda value: not value))
NARROWED = Expression("{0}::int", strict(lambda value: _in_range(value, "int")))
WIDENED = Expression("{0}::bigint", lambda value: value)
IS_POSITIVE = Expression("{0} > 0", strict(lambda value: value > 0))
BOOL_TO_INT = Expression("{0}::int", strict(int))
SUM_OR_ZERO = Expression(
    "coalesce({0}, 0) + coalesce({1}, 0)", lambda left, right: _in_range((left or 0) + (right or 0))
)
SAFE_INT = Expression(
    "CASE WHEN {0} ~ '^[0-9]{{1,8}}$' THEN {0}::int ELSE 0 END",
    lambda text: int(text) if text is not None and text.isdecimal() and len(text) <= 8 else 0,
)


def coalesced(value: Value) -> Expression:
    return Expression(f"coalesce({{0}}, {literal(value)})", lambda given: value if given is None else given)


def plus(number: int, type_: str = "int") -> Expression:
    return _arithmetic(f"{{0}} + {literal(number)}", lambda value: value + number, type_)


def times(number: int, type_: str = "int") -> Expression:
    return _arithmetic(f"{{0}} * {literal(number)}", lambda value: value * number, type_)


def divided(number: int, type_: str = "int") -> Expression:
    return _arithmetic(f"{{0}} / {literal(number)}", lambda value: _divided(value, number), type_)


RECIPROCAL = _arithmetic("100 / {0}", lambda value: _divided(100, value), "int")
SUM = _arithmetic("{0} + {1}", lambda left, right: left + right, "int")
DOUBLED = Expression("{0} * 2", strict(lambda value: value * 2))

CONVERSIONS: dict[tuple[str, str], list[tuple[Expression | None, Expression | None]]] = {
    ("int", "text"): [(TO_TEXT, TO_INT)],
    ("text", "int"): [(TO_INT, TO_TEXT), (SAFE_INT, TO_TEXT)],
    ("int", "bigint"): [(None, None), (WIDENED, NARROWED)],
    ("bigint", "int"): [(NARROWED, WIDENED), (NARROWED, None)],
    ("bigint", "text"): [(TO_TEXT, TO_BIGINT)],
    ("text", "bigint"): [(TO_BIGINT, TO_TEXT)],
    ("int", "int"): [(plus(1), plus(-1)), (times(-1), times(-1)), (divided(10), times(10)), (RECIPROCAL, RECIPROCAL)],
    ("bigint", "bigint"): [(plus(1, "bigint"), plus(-1, "bigint")), (divided(10, "bigint"), times(10, "bigint"))],
    ("text", "text"): [(UPPER, LOWER), (FIRST_WORD, None), (UPPER, None)],
    ("bool", "bool"): [(NOT, NOT)],
    ("bool", "int"): [(BOOL_TO_INT, IS_POSITIVE)],
    ("int", "bool"): [(IS_POSITIVE, BOOL_TO_INT)],
    ("bool", "text"): [(TO_TEXT, Expression("{0} = 'true'", strict(lambda text: text == "true")))],
    ("numeric", "text"): [(TO_TEXT, TO_NUMERIC)],
    ("numeric", "numeric"): [(DOUBLED, None)],
}  # fmt: skip
"""Ways to change a column from one type to another: up and down, None for the column itself."""

DERIVATIONS: dict[str, list[tuple[tuple[str, ...], Expression]]] = {
    "int": [
        (("int",), plus(1)),
        (("int",), RECIPROCAL),
        (("int", "int"), SUM),
        (("int", "int"), SUM_OR_ZERO),
        (("text",), TO_INT),
        (("text",), SAFE_INT),
        (("bool",), BOOL_TO_INT),
    ],
    "bigint": [(("int",), WIDENED), (("bigint",), times(3, "bigint"))],
    "text": [
        (("text",), UPPER),
        (("text",), FIRST_WORD),
        (("text", "text"), JOINED),
        (("text",), coalesced("none")),
        (("int",), TO_TEXT),
        (("numeric",), TO_TEXT),
        (("bool",), TO_TEXT),
    ],
    "bool": [(("bool",), NOT), (("int",), IS_POSITIVE)],
    "numeric": [(("numeric",), DOUBLED)],
}
"""Ways to fill a column from one or two others, by its type."""
