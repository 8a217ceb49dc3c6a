"""Real logical replication between two databases, and whether the subscriber keeps up."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Database

# Only what logical replication asks for.
CONFIGURATION = """
wal_level = logical
wal_retrieve_retry_interval = '100ms'
"""

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Subscription:
    """A subscription of database *subscriber* to *publications* of database *publisher*."""

    name: str
    publisher: Database
    subscriber: Database

    def caught_up(self) -> None:
        """Wait until the subscriber has everything that the publisher has committed.

        :raises AssertionError: it has stopped, or an error has made it try again.
        """
        target = self.publisher.fetch("SELECT pg_current_wal_lsn()")[0][0]
        deadline = time.monotonic() + _PATIENCE_S
        while not self._has_reached(target):
            self.check_errors()
            assert time.monotonic() < deadline, "the subscriber does not catch up"
            time.sleep(0.02)
        self.check_errors()

    def _has_reached(self, target: str) -> bool:
        rows = self.publisher.fetch(
            f"SELECT confirmed_flush_lsn >= '{target}' FROM pg_replication_slots WHERE slot_name = '{self.name}'"
        )
        copied = self.subscriber.fetch("SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'")
        return rows == [(True,)] and not copied

    def errors(self) -> int:
        """Return how often applying or copying has failed."""
        rows = self.subscriber.fetch(
            f"SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats WHERE subname = '{self.name}'"
        )
        return int(rows[0][0]) if rows else 0

    def check_errors(self) -> None:
        """Raise AssertionError if applying or copying has failed."""
        assert self.errors() == 0, "the subscription has stopped with an error"

    def same(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, which must be the same on both sides."""
        self.caught_up()
        rows = self.publisher.fetch(query)
        assert self.subscriber.fetch(query) == rows
        return rows


@contextlib.contextmanager
def subscribed(publisher: Database, subscriber: Database, publications: str) -> Iterator[Subscription]:
    """Subscribe for the time of the block; both databases may be on one server."""
    # Two databases of one server: CREATE SUBSCRIPTION would wait for itself to make the slot.
    name = f"s_{publisher.name[-12:]}"
    publisher.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    where = f"host={publisher.server.host} port={publisher.server.port} dbname={publisher.name} user=postgres"
    subscriber.execute(
        f"CREATE SUBSCRIPTION {name} CONNECTION '{where}' PUBLICATION {publications} WITH (create_slot = false)"
    )
    subscription = Subscription(name, publisher, subscriber)
    try:
        subscription.caught_up()
        yield subscription
    finally:
        subscriber.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
        subscriber.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
        subscriber.execute(f"DROP SUBSCRIPTION {name}")
        _drop_slot(publisher, name)


def _drop_slot(publisher: Database, name: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while publisher.fetch(f"SELECT FROM pg_replication_slots WHERE slot_name = '{name}' AND active"):
        assert time.monotonic() < deadline, "the slot stays in use"
        time.sleep(0.02)
    publisher.execute(f"SELECT pg_drop_replication_slot('{name}')")
