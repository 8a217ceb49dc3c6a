"""A client: writes rows of its own and shared ones, remembers what was acknowledged, and looks for it again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tests.traffic.access import Access, Address, open_access
from tests.traffic.report import Tally
from tests.traffic.workload import CLIENT_START, FIRST, HELD, SHARED, UNTOUCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.traffic.access import Style
    from tests.traffic.workload import Key, Relation, Row, Side, Version, Workload

Place = tuple[str, "Key"]  # a relation's name, and a key
Ledger = dict[Place, "Row | None"]  # None: there is no such row

# Rows that follow one another in the table, so that some are written just before the backfill reaches them.
_NEIGHBOURS = 400
_SHOWN_TEXT = 300
_PAUSE_AFTER_FAILURE_S = 0.1
_BATCH = 500


class LostWriteError(Exception):
    """A row is not as this client wrote it."""


class _UndoneError(Exception):
    """The application rolls its own transaction back."""


@dataclass(frozen=True)
class Assignment:
    """What a client works on.

    :param number: which of *clients* it is; its rows are those whose number says so.
    :param think_s: the longest pause between two acts.
    """

    workload: Workload
    addresses: dict[Version, Address]
    rows: int
    clients: int
    number: int
    style: Style
    think_s: float

    def owned(self) -> range:
        """Return the numbers of the loaded rows that this client alone writes."""
        first = FIRST + SHARED + HELD
        return range(first + self.number, FIRST + int(self.rows * (1 - UNTOUCHED)), self.clients)

    def shared(self) -> range:
        """Return the numbers of the rows that every client writes."""
        return range(FIRST, FIRST + SHARED)


class Client(threading.Thread):
    """One client, on one version after another; every error is a failure, nothing is tried again."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(daemon=True)
        self.assignment = assignment
        self.tally = Tally()
        self.ledger: Ledger = {}
        self.version: Version = "old"
        self.settled = threading.Event()
        self._wanted: Version | None = "old"
        self._random = Random(assignment.number)
        self._made = 0
        self._access: Access | None = None

    # -- what the process asks for

    def switch(self, version: Version | None) -> None:
        """Have the client work for another version, or stop; :attr:`settled` tells when it does."""
        self.settled.clear()
        self._wanted = version

    def run(self) -> None:
        """Work until told to stop."""
        while self._wanted is not None:
            if self._access is None:
                self._guarded(self._connect)
            elif self._wanted != self.version:
                self._guarded(self._move)
            else:
                self.settled.set()
                self._guarded(self._act)
            time.sleep(self._random.random() * self.assignment.think_s)
        if self._access is not None:
            self._guarded(self._check_everything)
            self._disconnect()
        self.settled.set()

    def _guarded(self, act: Callable[[], None]) -> None:
        """Count what goes wrong; go on with a new connection."""
        try:
            act()
        except _UndoneError:
            return
        except LostWriteError as error:
            self._lose(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure to be reported
            self.tally.failures[f"{self._whose()}: {_describe(error)}"] += 1
            self._disconnect()
            time.sleep(_PAUSE_AFTER_FAILURE_S)

    def _lose(self, text: str) -> None:
        self.tally.lost.append(f"{self._whose()}: {text}")

    def _whose(self) -> str:
        return f"{self.version} client ({self.assignment.style})"

    # -- versions

    @property
    def side(self) -> Side:
        return self.assignment.workload.side(self.version)

    def _connect(self) -> None:
        address = self.assignment.addresses[self.version]
        self._access = open_access(self.assignment.style, address, self.tally, self.side.relations)

    def _disconnect(self) -> None:
        if self._access is not None:
            self._access.close()
            self._access = None

    def _move(self) -> None:
        """Check every write in the version that is left, and go on from what the next one shows."""
        self._check_everything()
        keys = list({key for _, key in self.ledger})
        self._disconnect()
        self.version = "old" if self.version == "new" else "new"
        self.ledger = {}
        self._connect()
        for relation in self.side.relations:
            found = self._read_all(relation, keys)
            self.ledger |= {(relation.name, key): found.get(key) for key in keys}

    def _check_everything(self) -> None:
        """Compare every row that this client knows with what its version shows."""
        for relation in self.side.relations:
            keys = [key for name, key in self.ledger if name == relation.name]
            found = self._read_all(relation, keys)
            self.tally.checked += len(keys)
            for key in keys:
                expected = self.ledger[relation.name, key]
                if found.get(key) != expected:
                    self._lose(f"{relation.name} {key} is {found.get(key)} in the end, not {expected}")

    def _read_all(self, relation: Relation, keys: Sequence[Key]) -> dict[Key, Row]:
        assert self._access is not None
        found: dict[Key, Row] = {}
        for start in range(0, len(keys), _BATCH):
            rows = self._access.read_many(relation, keys[start : start + _BATCH])
            found |= {row[relation.key]: row for row in rows}
        return found

    # -- work

    def _act(self) -> None:
        assert self._access is not None
        if self._random.random() < 0.15:
            self._act_on_shared_rows()
            return
        work = _Work(self, self._access, self._random)
        if self.assignment.style == "prepared" and self._random.random() < 0.7:
            work.one_statement(self._own_key())
        else:
            self._transact(work)
        self.ledger |= work.pending

    def _transact(self, work: _Work) -> None:
        assert self._access is not None
        with self._access.transaction():
            for _ in range(self._random.choice((1, 1, 2, 3, 5))):
                work.on_entity(self._own_key())
            if self._random.random() < 0.1:
                raise _UndoneError

    def _own_key(self) -> Key:
        """Return the key of a row that this client alone writes."""
        if self.ledger and self._random.random() < 0.4:
            return self._random.choice(list(self.ledger))[1]
        owned = self.assignment.owned()
        near = self._random.randrange(max(1, len(owned) - _NEIGHBOURS // self.assignment.clients))
        window = owned[near : near + max(1, _NEIGHBOURS // self.assignment.clients)]
        return self.side.root.key_of(self._random.choice(window))

    def next_key(self) -> Key:
        """Return a key that nobody has used."""
        self._made += 1
        return self.side.root.key_of(CLIENT_START * (self.assignment.number + 1) + self._made)

    def _act_on_shared_rows(self) -> None:
        """Write what others write, too, in order of the keys; the counter must come out right."""
        assert self._access is not None
        count = self._random.choice((1, 1, 2, 3))
        keys = [self.side.root.key_of(n) for n in sorted(self._random.sample(self.assignment.shared(), count))]
        increments = 0
        with self._access.transaction():
            for key in keys:
                increments += self._write_shared(self._access, key)
        self.tally.increments += increments

    def _write_shared(self, access: Access, key: Key) -> int:
        """Write the root before its details: among clients of one version there is no deadlock then."""
        root = self.side.root
        if self._random.random() < 0.3 and access.read(root, key, lock=True) is None:
            raise LostWriteError(f"shared row {key} of {root.name} is gone")
        self._change_shared(access, root, key)
        incremented = self._increment_shared(access, root, key)
        for detail in self.side.details:
            self._change_shared(access, detail, key)
        return incremented

    def _change_shared(self, access: Access, relation: Relation, key: Key) -> None:
        changes = relation.changes(self._random, key)
        if changes and self._random.random() < 0.5:
            self._write_and_look(access, relation, key, changes)

    def _increment_shared(self, access: Access, root: Relation, key: Key) -> int:
        if root.counter is None or self._random.random() < 0.3:
            return 0
        proposed = root.new_row(self._random, key) if root.kind != "always" and self._random.random() < 0.4 else None
        if access.increment(root, key, proposed) is None:
            raise LostWriteError(f"shared row {key} of {root.name} is gone")
        return 1

    def _write_and_look(self, access: Access, relation: Relation, key: Key, changes: Row) -> None:
        """What a transaction wrote it must see itself, whoever else writes the row."""
        if self.assignment.style == "orm":
            # It writes only what differs from what it has read: nobody must change that in between.
            access.read(relation, key, lock=True)
        if access.update(relation, key, changes) is None:
            if relation is self.side.root or relation.required:
                raise LostWriteError(f"shared row {key} of {relation.name} is gone")
            return
        found = access.read(relation, key, lock=False)
        self.tally.checked += 1
        if found is None or any(found[name] != value for name, value in changes.items()):
            raise LostWriteError(f"shared {relation.name} {key} is {found} right after {changes}")


class _Work:
    """What is done in one transaction, to be remembered if it commits."""

    def __init__(self, client: Client, access: Access, random: Random) -> None:
        self.client = client
        self.access = access
        self.random = random
        self.pending: Ledger = {}

    @property
    def side(self) -> Side:
        return self.client.side

    def one_statement(self, key: Key) -> None:
        """Do what needs no transaction."""
        root = self.side.root
        choice = self.random.random()
        if choice < 0.2 and not any(detail.required for detail in self.side.details):
            self._insert(root, None)
        elif choice < 0.5:
            self._look(self._relation(key), key, lock=False)
        elif choice < 0.7 and root.kind != "always" and self.known(root, key) is not None:
            self._upsert(root, key)
        else:
            self._update(self._relation(key), key)

    def on_entity(self, key: Key) -> None:
        """Do one of the things that applications do to a row and its details."""
        actions: list[Callable[[Key], None]] = [
            self._create, self._change, self._replace, self._remove, self._toggle, self._inspect,
        ]  # fmt: skip
        self.random.choices(actions, (20, 35, 15, 5, 10, 15))[0](key)

    def known(self, relation: Relation, key: Key) -> Row | None:
        """Return the row as it must be; what this client has never seen it reads first."""
        place = relation.name, key
        if place not in self.pending:
            if place not in self.client.ledger:
                self.client.ledger[place] = self.access.read(relation, key, lock=False)
            self.pending[place] = self.client.ledger[place]
        return self.pending[place]

    def _relation(self, key: Key) -> Relation:
        """Return the root, or a detail that this key has."""
        there = [detail for detail in self.side.details if self.known(detail, key) is not None]
        return self.random.choice([self.side.root, *there])

    def _create(self, _key: Key) -> None:
        key = self._insert(self.side.root, None)
        for detail in self.side.details:
            if detail.required or self.random.random() < 0.6:
                self._insert(detail, key)

    def _change(self, key: Key) -> None:
        if self.random.random() < 0.3:
            self._look(self.side.root, key, lock=True)
        self._update(self._relation(key), key)

    def _replace(self, key: Key) -> None:
        relation = self._relation(key)
        if relation.kind != "always" and self.known(relation, key) is not None:
            self._upsert(relation, key)

    def _remove(self, key: Key) -> None:
        if not self.side.removes or self.known(self.side.root, key) is None:
            return
        for relation in reversed(self.side.relations):
            if self.known(relation, key) is not None:
                self._delete(relation, key)

    def _toggle(self, key: Key) -> None:
        """Give the row a detail, or take it away."""
        optional = [detail for detail in self.side.details if not detail.required]
        if not optional or self.known(self.side.root, key) is None:
            return
        detail = self.random.choice(optional)
        if self.known(detail, key) is None:
            self._insert(detail, key)
        elif self.side.removes:
            self._delete(detail, key)

    def _inspect(self, key: Key) -> None:
        for relation in self.side.relations:
            self._look(relation, key, lock=self.random.random() < 0.3)

    # -- statements, each compared with what it must give

    def _insert(self, relation: Relation, key: Key | None) -> Key:
        by_server = key is None and relation.serial and (relation.kind == "always" or self.random.random() < 0.5)
        given = key if key is not None else self.client.next_key()
        row = relation.new_row(self.random, given)
        if by_server:
            del row[relation.key]
        found = self.access.insert(relation, row)
        self._check(relation, given, row, found)
        assert found is not None
        self.pending[relation.name, found[relation.key]] = found
        new_key: Key = found[relation.key]
        if key is None:
            # No details yet, and no other client knows the key.
            self.pending |= {(detail.name, new_key): None for detail in self.side.details}
        return new_key

    def _update(self, relation: Relation, key: Key) -> None:
        expected = self.known(relation, key)
        changes = relation.changes(self.random, key)
        if not changes:
            self._look(relation, key, lock=False)
            return
        found = self.access.update(relation, key, changes)
        self._settle(relation, key, None if expected is None else {**expected, **changes}, found)

    def _upsert(self, relation: Relation, key: Key) -> None:
        """Upsert over a row that is there."""
        expected = self.known(relation, key)
        assert expected is not None
        row = relation.new_row(self.random, key)
        row |= {name: expected[name] for name in relation.target}
        changes = [name for name in relation.changeable if name in row and name not in relation.target]
        if self.random.random() < 0.3:
            changes = []
        found = self.access.upsert(relation, row, changes)
        if changes:
            self._settle(relation, key, expected | {name: row[name] for name in changes}, found)
        elif found is not None:
            raise LostWriteError(f"{relation.name} {key} was inserted over {expected}")

    def _delete(self, relation: Relation, key: Key) -> None:
        if self.access.delete(relation, key) != 1:
            raise LostWriteError(f"{relation.name} {key} was not there to be deleted: {self.known(relation, key)}")
        self.pending[relation.name, key] = None

    def _look(self, relation: Relation, key: Key, *, lock: bool) -> None:
        expected = self.known(relation, key)
        self._settle(relation, key, expected, self.access.read(relation, key, lock=lock))

    def _settle(self, relation: Relation, key: Key, expected: Row | None, found: Row | None) -> None:
        self.client.tally.checked += 1
        self.pending[relation.name, key] = expected
        if found != expected:
            # Each loss counts once: from here on the client believes what it will read next.
            self.client.ledger.pop((relation.name, key), None)
            raise LostWriteError(f"{relation.name} {key} is {found}, not {expected}")

    def _check(self, relation: Relation, key: Key, row: Row, found: Row | None) -> None:
        self.client.tally.checked += 1
        if found is None or any(found[name] != value for name, value in row.items()):
            raise LostWriteError(f"{relation.name} {key} was inserted as {row} and came back as {found}")


def _describe(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None)
    statement = " ".join(str(getattr(error, "statement", None) or "").split())
    return f"{state} {type(original).__name__}: {' '.join(str(original).split())[:_SHOWN_TEXT]} [{statement[:120]}]"
