"""Plain data about tables, as the catalog (or a trial copy) describes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from alembic_zero.catalog.surroundings import Publication
from alembic_zero.plain import PlainData


@dataclass(frozen=True)
class Identity(PlainData):
    """An identity column's sequence; *always* is GENERATED ALWAYS."""

    always: bool
    sequence: str
    type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycle: bool


@dataclass(frozen=True)
class Column(PlainData):
    """A column; *type* and *collation* are SQL text with qualified names."""

    name: str
    type: str
    collation: str | None = None
    not_null: bool = False
    not_null_name: str | None = None
    default: str | None = None
    identity: Identity | None = None
    generated: str = ""
    owned_sequence: str | None = None
    comment: str | None = None
    storage: str | None = None
    compression: str | None = None
    statistics_target: int | None = None
    options: tuple[str, ...] = ()
    default_volatile: bool = False


@dataclass(frozen=True)
class Index(PlainData):
    """An index; *definition* starts at ``USING``.

    *constraint* is ``p``, ``u`` or ``x`` for an index that a constraint owns, and
    *constraint_suffix* what follows the constraint's column list (deferrability). *keys* are the
    expressions of its key columns.
    """

    name: str
    definition: str
    unique: bool
    columns: tuple[str, ...]
    constraint: str | None = None
    constraint_suffix: str = ""
    comment: str | None = None
    statistics: tuple[tuple[int, int], ...] = ()
    clustered: bool = False
    replica_identity: bool = False
    keys: tuple[str, ...] = ()
    predicate: str | None = None
    nulls_distinct: bool = True


@dataclass(frozen=True)
class Check(PlainData):
    """A CHECK constraint; *expression* names logical columns, *definition* is the whole text."""

    name: str
    definition: str
    expression: str
    columns: tuple[str, ...]
    comment: str | None = None


@dataclass(frozen=True)
class ForeignKey(PlainData):
    """An outgoing foreign key; *suffix* starts at ``REFERENCES``.

    *origin* is the constraint that stands for it while a revision is planned, None for a new one.
    """

    name: str
    columns: tuple[str, ...]
    suffix: str
    referenced: str
    comment: str | None = None
    origin: str | None = None


@dataclass(frozen=True)
class LiveForeignKey(PlainData):
    """A foreign key between two tables as it stands in the catalog: every name is physical."""

    name: str
    relation: int
    schema: str
    table: str
    kind: str
    columns: tuple[str, ...]
    referenced_relation: int
    referenced_schema: str
    referenced_table: str
    referenced_columns: tuple[str, ...]
    definition: str


@dataclass(frozen=True)
class Statistics(PlainData):
    """An extended statistics object; *definition* is what stands between name and FROM."""

    schema: str
    name: str
    definition: str
    columns: tuple[str, ...]
    comment: str | None = None
    target: int | None = None


@dataclass(frozen=True)
class TableSpec(PlainData):
    """Everything that plain DDL would say about one logical table."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    checks: tuple[Check, ...] = ()
    indexes: tuple[Index, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    statistics: tuple[Statistics, ...] = ()
    comment: str | None = None

    def column(self, name: str) -> Column | None:
        """Return the column called *name*, or None."""
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True)
class Trigger(PlainData):
    """A user's trigger: *before_row* for BEFORE ... FOR EACH ROW; *update_columns* of UPDATE OF.

    *body* is the text of its function. *copies_rows* if that inserts ``OLD.*`` or ``NEW.*``, whole rows, into
    another table.
    """

    name: str
    before_row: bool
    on_insert: bool
    on_update: bool
    update_columns: tuple[str, ...] = ()
    function: str = ""
    arguments: tuple[str, ...] = ()
    copies_rows: bool = False
    body: str = ""


@dataclass(frozen=True)
class Grant(PlainData):
    """One granted privilege; *grantee* is None for PUBLIC, *column* None for the whole table."""

    grantee: str | None
    privilege: str
    grantable: bool = False
    column: str | None = None


@dataclass(frozen=True)
class TableFacts(PlainData):
    """What the server says about the physical table itself.

    *role* is the migrating one.
    """

    oid: int
    schema: str
    name: str
    owner: str
    kind: str
    blocks: int
    rows: int
    row_security: bool = False
    force_row_security: bool = False
    has_children: bool = False
    is_child: bool = False
    has_foreign_partition: bool = False
    replica_identity: str = "d"
    triggers: tuple[Trigger, ...] = ()
    grants: tuple[Grant, ...] = ()
    column_grants: tuple[Grant, ...] = ()
    dependents: tuple[tuple[str | None, str], ...] = ()
    row_type_functions: tuple[str, ...] = ()
    publications: tuple[Publication, ...] = ()
    physical_names: tuple[str, ...] = field(default=())
    constraint_names: tuple[str, ...] = ()
    object_dependents: tuple[tuple[str, str], ...] = ()
    role: str = ""
    subscriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server(PlainData):
    """What planning needs to know of the server and the migrating role."""

    version: int
    deadlock_timeout_ms: int
    role: str
    bypasses_row_security: bool
    may_set_replication_role: bool
    search_path: str
