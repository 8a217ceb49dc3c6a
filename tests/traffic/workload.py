"""What clients of one version do: the relations that they use, and the values that they write."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

Key = int | uuid.UUID
Row = dict[str, Any]
Maker = "Callable[[Random, Key], Any]"
Version = Literal["old", "new"]

# Rows that are there before the first client comes; the numbers below it are the scenario's own.
FIRST = 100_001
# How the loaded rows are shared out.
SHARED = 16  # everybody writes them
HELD = 16  # only the disturbances lock them
UNTOUCHED = 0.4  # nobody writes these, the last ones

# Where the server's own numbers start, and a client's.
SERIAL_START = 500_000
CLIENT_START = 1_000_000


class _Omitted:
    """The column is left to its default."""


OMITTED: Final = _Omitted()


@dataclass(frozen=True)
class Relation:
    """A table as one version shows it.

    The first relation of a version is the root; rows of the others have the key of a root's row, as a detail of it.

    :param columns: what clients write, and how a value is made.
    :param key: the column by which clients find their rows.
    :param kind: the key's type; ``always`` is an identity that takes no numbers from clients.
    :param serial: whether the server can give the key.
    :param links: more columns that hold the key: references to the root.
    :param conflict: the columns of ON CONFLICT; the key if empty.
    :param required: a detail that is made and removed with its root, in one transaction.
    :param fixed: columns that are written by INSERT only.
    :param defaults: columns that may be left to their default.
    :param counter: a column that clients of both versions increment in shared rows.
    """

    name: str
    columns: Mapping[str, Callable[[Random, Key], Any]]
    key: str = "id"
    kind: Literal["integer", "always", "uuid"] = "integer"
    serial: bool = False
    links: tuple[str, ...] = ()
    conflict: tuple[str, ...] = ()
    required: bool = False
    fixed: frozenset[str] = frozenset()
    defaults: frozenset[str] = frozenset()
    counter: str | None = None

    @property
    def target(self) -> tuple[str, ...]:
        """Return the columns of ON CONFLICT."""
        return self.conflict or (self.key,)

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the columns that clients read: the key and what they write."""
        return (self.key, *self.links, *self.columns)

    @property
    def changeable(self) -> list[str]:
        """Return the columns that an UPDATE may write."""
        return [name for name in self.columns if name not in self.fixed]

    def key_of(self, number: int) -> Key:
        """Return the key of a loaded or explicitly numbered row."""
        return uuid.UUID(int=number) if self.kind == "uuid" else number

    def new_row(self, random: Random, key: Key) -> Row:
        """Return values for an INSERT, defaults left out."""
        row: Row = {self.key: key} | dict.fromkeys(self.links, key)
        row |= {name: make(random, key) for name, make in self.columns.items()}
        return {name: value for name, value in row.items() if value is not OMITTED}

    def changes(self, random: Random, key: Key) -> Row:
        """Return values for an UPDATE of one or more columns; empty if there is nothing to change."""
        names = self.changeable
        chosen = random.sample(names, random.randint(1, len(names))) if names else []
        row = {name: self.columns[name](random, key) for name in chosen}
        return {name: value for name, value in row.items() if value is not OMITTED}


@dataclass(frozen=True)
class Side:
    """What clients of one version use; the first relation is the root.

    :param removes: whether clients delete rows.
    """

    relations: tuple[Relation, ...]
    removes: bool = True

    @property
    def root(self) -> Relation:
        return self.relations[0]

    @property
    def details(self) -> tuple[Relation, ...]:
        return self.relations[1:]


@dataclass(frozen=True)
class Workload:
    """Both versions' clients, and what must hold between the versions.

    :param load: SQL that makes the counter and the rows; ``{first}`` and ``{last}`` are the keys.
    :param agree: queries for what the two versions contradict each other in; ``{old}`` and ``{new}`` are schemas.
    """

    old: Side
    new: Side
    load: str
    agree: tuple[str, ...] = field(default=())

    def side(self, version: Version) -> Side:
        """Return what clients of *version* use."""
        return self.old if version == "old" else self.new


# -- values --------------------------------------------------------------------------------------


def word(random: Random, _key: Key) -> str:
    """Return a text that is never empty, quotes and all."""
    return (
        random.choice(("plain", "it's", "100%", 'say "x"', "zoë", "back\\slash", ":colon")) + f"{random.random():.6f}"
    )


def unique(random: Random, _key: Key) -> str:
    """Return a text that nobody else writes, of at most 16 characters."""
    return f"{random.getrandbits(63):x}"


def full_name(random: Random, _key: Key) -> str:
    """Return two words, or three, which splitting and joining does not restore."""
    return " ".join(f"W{random.randrange(1_000)}" for _ in range(random.choice((2, 2, 3))))


def first_name(random: Random, _key: Key) -> str:
    """Return one word or two."""
    return " ".join(f"F{random.randrange(1_000)}" for _ in range(random.choice((1, 1, 2))))


def made_by_new(random: Random, _key: Key) -> str:
    """Return a text by which the check knows that a new client wrote it."""
    return f"new {random.getrandbits(40):x}"


def number(low: int, high: int) -> Callable[[Random, Key], int]:
    """Return a maker of integers."""
    return lambda random, _key: random.randint(low, high)


def one_of(*values: object) -> Callable[[Random, Key], Any]:
    """Return a maker that chooses."""
    return lambda random, _key: random.choice(values)


def spread(*offsets: int) -> Callable[[Random, Key], int]:
    """Return a maker of integers that are unique as long as keys are."""
    return lambda random, key: 10 * int(key) + random.choice(offsets)


def maybe(make: Callable[[Random, Key], Any]) -> Callable[[Random, Key], Any]:
    """Return a maker that sometimes gives NULL."""
    return lambda random, key: None if random.random() < 0.2 else make(random, key)


def default_or(make: Callable[[Random, Key], Any]) -> Callable[[Random, Key], Any]:
    """Return a maker that sometimes leaves the column to its default."""
    return lambda random, key: OMITTED if random.random() < 0.3 else make(random, key)


def stamp(random: Random, _key: Key) -> datetime:
    """Return a time with a zone."""
    return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=random.randrange(10**8))


def stamp_text(random: Random, key: Key) -> str:
    """Return a time as text, in one of several forms."""
    moment = stamp(random, key)
    return random.choice((str(moment), moment.isoformat(), moment.strftime("%Y-%m-%d %H:%M:%S+00")))


def random_uuid(random: Random, _key: Key) -> uuid.UUID:
    """Return a random UUID."""
    return uuid.UUID(int=random.getrandbits(128))


def document(random: Random, key: Key) -> Any:
    """Return a JSON document with a value at path, to, value, or without."""
    if random.random() < 0.2:
        return {"other": random.randrange(9)}
    return {"path": {"to": {"value": word(random, key)}}}
