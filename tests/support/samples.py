"""For each operation, calls with all its options: what every operation must be able to do is tried on them.

A registered operation without a sample fails ``test_rendering.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic_zero import IRREVERSIBLE
from alembic_zero.operations.across import from_table
from alembic_zero.operations.columns import ZdAddColumnOp, ZdAlterColumnOp, ZdDropColumnOp
from alembic_zero.operations.constraints import (
    ZdCreateCheckConstraintOp,
    ZdCreateExcludeConstraintOp,
    ZdCreateForeignKeyOp,
    ZdCreatePrimaryKeyOp,
    ZdCreateUniqueConstraintOp,
    ZdDropConstraintOp,
    ZdRenameConstraintOp,
)
from alembic_zero.operations.enums import ZdAlterEnumOp, ZdCreateEnumOp, ZdDropEnumOp
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.indexes import ZdCreateIndexOp, ZdDropIndexOp
from alembic_zero.operations.tables import ZdCreateTableOp, ZdDropTableOp, ZdRenameTableOp

if TYPE_CHECKING:
    from alembic_zero.operations.base import ZdOperation

ODD = "o'd\"d %s \\ :x é\n\"\"\"'''"


def samples() -> list[ZdOperation]:
    """Return new operations; each call gives others, so that no test sees what another did to them."""
    return [*_columns(), *_altered(), *_tables(), *_enums(), *_indexes(), *_constraints(), *_others()]


def _columns() -> list[ZdOperation]:
    keyed = sa.Column(
        "org_id",
        sa.Integer,
        sa.ForeignKey("s.orgs.id", name="fk", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
        sa.CheckConstraint(r"org_id::text <> '\:x 100%'", name="ck"),
        unique=True,
        index=True,
        nullable=False,
        server_default="it's 5",
        comment=ODD,
    )
    return [
        ZdAddColumnOp("users", sa.Column("a", sa.Text)),
        ZdAddColumnOp("users", keyed, up=ODD, schema="s"),
        ZdAddColumnOp(ODD, sa.Column(ODD, sa.Numeric(8, 2), server_default=sa.text(r"'a\:b'::text"))),
        ZdAddColumnOp("t", sa.Column("a", sa.Integer, sa.Computed("b + 1 % 2", persisted=True))),
        ZdAddColumnOp("t", sa.Column("a", sa.BigInteger, sa.Identity(always=True, start=3), primary_key=True)),
        ZdAddColumnOp("t", sa.Column("a", sa.DateTime(timezone=True), server_default=sa.func.now())),
        ZdAddColumnOp("t", sa.Column("a", sa.String(5, collation="C"), server_default=sa.FetchedValue())),
        ZdAddColumnOp("t", sa.Column("a", postgresql.ARRAY(sa.Text, dimensions=1))),
        ZdAddColumnOp("t", sa.Column("a", sa.Text().with_variant(postgresql.CITEXT(), "postgresql"))),
        ZdAddColumnOp("t", sa.Column("a", sa.Text), up=from_table("s", ODD, "s.id = t.id", schema="x")),
        ZdDropColumnOp("users", "a"),
        ZdDropColumnOp("users", "a", down=from_table("s", "b", where=ODD)),
        ZdDropColumnOp("users", ODD, down=ODD, schema=ODD, _reverse=sa.Column(ODD, sa.Text)),
        ZdDropColumnOp("users", "a", down=IRREVERSIBLE),
    ]


def _altered() -> list[ZdOperation]:
    enum = postgresql.ENUM("a", "b'", name="e", schema="s", create_type=False)
    return [
        ZdAlterColumnOp("t", "a", new_column_name=ODD),
        ZdAlterColumnOp("t", "a", server_default=None, comment=None, existing_comment="c"),
        ZdAlterColumnOp("t", "a", server_default=sa.text("now()"), existing_server_default=None),
        ZdAlterColumnOp("t", "a", server_default="", existing_server_default="'quoted'"),
        ZdAlterColumnOp("t", "a", server_default=sa.Identity(), existing_server_default=sa.Identity(always=True)),
        ZdAlterColumnOp("t", "a", nullable=False, up="coalesce(a, 0)"),
        ZdAlterColumnOp("t", "a", up="a + 1", down=IRREVERSIBLE),
        ZdAlterColumnOp("t", "a", type_=enum, existing_type=sa.Enum("x", "y", name="f", native_enum=False)),
        ZdAlterColumnOp("t", "a", type_=postgresql.JSONB, existing_type=postgresql.DOMAIN("d", sa.Integer())),
        ZdAlterColumnOp(
            ODD,
            ODD,
            type_=sa.BigInteger,
            existing_type=sa.Integer,
            nullable=False,
            existing_nullable=True,
            server_default="1",
            existing_server_default=sa.text("2"),
            comment=ODD,
            existing_comment="before",
            new_column_name="b",
            up=ODD,
            down=ODD,
            schema="s",
        ),
    ]


def _tables() -> list[ZdOperation]:
    items = [
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("b", sa.Integer, sa.ForeignKey("x.id", ondelete="SET NULL"), unique=True, index=True),
        sa.Column("c", sa.Boolean(create_constraint=True, name="c_bool"), server_default=sa.false()),
        sa.Column(ODD, sa.Enum("a", "b", name="e"), sa.CheckConstraint("b > 1")),
        sa.CheckConstraint("b > 0", name="positive"),
        sa.UniqueConstraint("b", "c", name="u", postgresql_nulls_not_distinct=True),
        sa.UniqueConstraint("c", deferrable=True, initially="DEFERRED"),
        sa.ForeignKeyConstraint(["b", "c"], ["s.y.b", "s.y.c"], name="f", onupdate="CASCADE", match="FULL"),
        sa.Index("ix", "b", sa.text("lower(x)"), unique=True, postgresql_where=sa.text(r"b > 0 AND x <> '\:y'")),
        postgresql.ExcludeConstraint(("b", "="), name="ex", using="gist", where=sa.text("b > 0")),
    ]
    return [
        ZdCreateTableOp("t", items, schema="s", comment=ODD, if_not_exists=True, info={"a": 1}, prefixes=["UNLOGGED"]),
        ZdCreateTableOp(ODD, [sa.Column("a", sa.Integer), sa.Column("b", sa.Text), sa.PrimaryKeyConstraint("a", "b")]),
        ZdCreateTableOp("p", [sa.Column("a", sa.Date)], postgresql_partition_by="RANGE (a)"),
        ZdRenameTableOp("a", ODD, schema="s"),
        ZdCreateTableOp(
            "t", [sa.Column("a", sa.Integer, primary_key=True)], up=from_table("s", {"a": "b", ODD: ODD}, ODD)
        ),
        ZdDropTableOp("t"),
        ZdDropTableOp("t", down=from_table("s", {"a": "b"}, schema=ODD)),
        ZdDropTableOp(ODD, schema=ODD, _reverse=ZdCreateTableOp(ODD, [sa.Column("a", sa.Text)], schema=ODD)),
    ]


def _enums() -> list[ZdOperation]:
    label = ODD[:20]
    return [
        ZdCreateEnumOp("e", ["a"]),
        ZdCreateEnumOp(ODD, ["a", label], schema="s"),
        ZdAlterEnumOp("e", ["a", "b"]),
        ZdAlterEnumOp(
            ODD,
            ["a", label],
            up={"c": label, "d": None},
            down={label: "c"},
            existing_values=["a", "c", "d"],
            schema="s",
        ),
        ZdDropEnumOp("e"),
        ZdDropEnumOp(ODD, existing_values=["a", label], schema="s"),
    ]


def _indexes() -> list[ZdOperation]:
    index = ZdCreateIndexOp(
        "i",
        "t",
        ["a", sa.text(r"lower(b) || '\:x'")],
        schema="s",
        unique=True,
        if_not_exists=True,
        postgresql_using="btree",
        postgresql_where=sa.text("a <> '%s'"),
        postgresql_ops={"a": "text_pattern_ops"},
        postgresql_include=["c"],
    )
    return [
        ZdCreateIndexOp(None, "t", ["a"]),
        index,
        ZdCreateIndexOp(ODD, ODD, [ODD], postgresql_with={"fillfactor": 50}),
        ZdDropIndexOp("i"),
        ZdDropIndexOp(ODD, ODD, schema=ODD, if_exists=True),
        ZdDropIndexOp("i", "t", schema="s", _reverse=index),
    ]


def _constraints() -> list[ZdOperation]:
    check = ZdCreateCheckConstraintOp(
        "c", "t", r"a > 0 AND b <> '\:x'", schema="s", up={"a": ODD, "b": "b"}, down={"a": "a"}
    )
    return [
        ZdCreateForeignKeyOp(None, "t", "u", ["a"], ["id"]),
        ZdCreateForeignKeyOp(
            ODD,
            "t",
            "u",
            ["a", "b"],
            ["x", ODD],
            source_schema="s",
            referent_schema=ODD,
            up={"a": ODD},
            down={"a": IRREVERSIBLE},
            onupdate="CASCADE",
            ondelete="SET NULL",
            deferrable=True,
            initially="DEFERRED",
            match="FULL",
            use_alter=True,
        ),
        check,
        ZdCreateCheckConstraintOp(None, ODD, sa.text("a > 0")),
        ZdCreateUniqueConstraintOp("q", "t", ["a"], schema="s", up="a || id", down=ODD, deferrable=True),
        ZdCreateUniqueConstraintOp(None, "t", ["a", ODD]),
        ZdCreatePrimaryKeyOp("p", "t", ["a", "b"], schema="s", up={"a": "b"}, down={"b": "a"}),
        ZdCreateExcludeConstraintOp("x", "t", [("a", "&&")], schema="s", using="gist", where="a > 0"),
        ZdDropConstraintOp("c", "t"),
        ZdDropConstraintOp(ODD, ODD, "unique", schema=ODD, if_exists=True, up="a", down={"a": ODD}),
        ZdDropConstraintOp("c", "t", schema="s", up={"a": "a"}, down={"a": ODD, "b": "b"}, _reverse=check),
        ZdRenameConstraintOp("c", "t", ODD, schema="s"),
    ]


def _others() -> list[ZdOperation]:
    return [
        ZdExecuteOp(expand=ODD),
        ZdExecuteOp(expand=["SELECT 1", ODD], rollback="SELECT 2"),
        ZdExecuteOp(expand="SELECT 1", contract=["SELECT 2", "SELECT 3"], rollback=["SELECT 4"]),
    ]
