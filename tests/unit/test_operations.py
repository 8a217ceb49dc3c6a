"""Operations: arguments, reverses, plain counterparts, and the direct road as a script."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from alembic import op as alembic_op
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext

from alembic_zero import op as typed_op
from alembic_zero.execute.plain_ddl import render_plain
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
from alembic_zero.operations.direct import run_text
from alembic_zero.operations.dispatch import OPERATION_CLASSES
from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.indexes import ZdCreateIndexOp, ZdDropIndexOp
from alembic_zero.operations.irreversible import IRREVERSIBLE, Irreversible
from alembic_zero.operations.tables import ZdCreateTableOp, ZdDropTableOp, ZdRenameTableOp

HOSTILE = "'100%' || ':x' || to_char(now(), 'HH24:MI:SS') || '%s\t%%'"


class Script:
    """The operations of a revision, run with ``--sql``."""

    def __init__(self, **opts: object) -> None:
        self.buffer = io.StringIO()
        context = MigrationContext.configure(
            dialect_name="postgresql",
            dialect_opts={"paramstyle": "named"},
            opts={"as_sql": True, "output_buffer": self.buffer, **opts},
        )
        self.op = Operations(context)

    def statements(self) -> list[str]:
        """Return what was written, without the statements that check deferred constraints."""
        chunks = (chunk.strip() for chunk in self.buffer.getvalue().split(";\n\n"))
        return [chunk for chunk in chunks if chunk and not chunk.startswith("DO $zd$")]


@pytest.fixture
def script():
    return Script(alembic_zero=object())


# Arguments


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda op: op.zd_add_column("", sa.Column("a", sa.Text)), "table_name is empty"),
        (lambda op: op.zd_add_column(5, sa.Column("a", sa.Text)), "table_name must be a string"),
        (lambda op: op.zd_add_column("t", "a"), "column must be a sqlalchemy.Column"),
        (lambda op: op.zd_add_column("t", sa.Column(sa.Text)), "column.name must be a string"),
        (lambda op: op.zd_add_column("t", sa.Column("a", sa.Text), up=" "), "up is empty"),
        (lambda op: op.zd_add_column("t", sa.Column("a", sa.Text), up=1), "up must be SQL text"),
        (
            lambda op: op.zd_add_column("t", sa.Column("a", sa.Text, sa.Computed("b")), up="c"),
            "accepts no value for generated column 'a'",
        ),
        (
            lambda op: op.zd_add_column("t", sa.Column("a", sa.Integer, sa.Identity(always=True)), up="c"),
            "accepts no value for generated column 'a'",
        ),
        (lambda op: op.zd_alter_column("t", "a"), "nothing to change on column 'a' of 't'"),
        (lambda op: op.zd_alter_column("t", "a", nullable="no"), "nullable must be True or False"),
        (lambda op: op.zd_alter_column("t", "a", comment=True), "comment takes a value or None"),
        (lambda op: op.zd_alter_column("t", "a", down=""), "down is empty"),
        (lambda op: op.zd_alter_column("t", "a", new_column_name=""), "new_column_name is empty"),
        (lambda op: op.zd_alter_column("t", "a", type_=sa.Text, postgresql_using="b"), "as up="),
        (lambda op: op.zd_alter_column("t", "a", autoincrement=True), "Identity"),
        (lambda op: op.zd_alter_column("t", "a", typ=sa.Text), "argument 'typ' is not supported"),
        (lambda op: op.zd_drop_column("t", None), "column_name must be a string"),
        (lambda op: op.zd_drop_column("t", "a", down=object()), "down must be SQL text"),
        (lambda op: op.zd_create_table("t", "a"), "a column or constraint is wanted"),
        (lambda op: op.zd_rename_table("t", "t"), "has that name already"),
        (lambda op: op.zd_drop_table("t", schema=""), "schema is empty"),
        (lambda op: op.zd_create_index("i", "t", "a"), "columns must be a list of columns"),
        (lambda op: op.zd_create_index("i", "t", []), "columns is empty"),
        (lambda op: op.zd_create_index("", "t", ["a"]), "index_name is empty"),
        (lambda op: op.zd_create_index("i", "t", ["a"], postgresql_tablespace="x"), "postgresql_tablespace"),
        (lambda op: op.zd_drop_index(None, "t"), "index_name must be a string"),
        (lambda op: op.zd_drop_index("i", ""), "table_name is empty"),
        (lambda op: op.zd_create_foreign_key("f", "t", "", ["a"], ["b"]), "referent_table is empty"),
        (lambda op: op.zd_create_foreign_key("f", "t", "u", ["a"], ["b", "c"]), "the same length"),
        (lambda op: op.zd_create_foreign_key("f", "t", "u", ["a"], ["b"], postgresql_not_valid=True), "is validated"),
        (lambda op: op.zd_create_check_constraint("c", "t", ""), "condition is empty"),
        (lambda op: op.zd_create_check_constraint("c", "t", "a > 0", up={}), "up is empty"),
        (lambda op: op.zd_create_check_constraint("c", "t", "a > 0", up={"a": None}), "up of column 'a' is None"),
        (lambda op: op.zd_create_unique_constraint("c", "t", ["a"], down=5), "down must be SQL text"),
        (lambda op: op.zd_drop_constraint(None, "t"), "constraint_name must be a string"),
        (lambda op: op.zd_rename_constraint("a", "t", "a"), "has that name already"),
        (lambda op: op.zd_execute(), "nothing to run"),
        (lambda op: op.zd_execute(expand=["SELECT 1", ""]), "expand is empty"),
        (lambda op: op.zd_execute(contract=7), "contract must be SQL text"),
        (lambda op: op.zd_execute(rollback=[None]), "rollback must be SQL text"),
    ],
)
def test_directive__bad_argument__refused(script, call, words):
    with pytest.raises(RefusedError) as refusal:
        call(script.op)
    assert words in str(refusal.value)
    assert "[ZD101] zd_" in str(refusal.value)
    assert refusal.value.code == "ZD101"
    assert refusal.value.exit_code == 2
    assert script.statements() == []


def test_directive__env_without_configure__refused():
    with pytest.raises(RefusedError, match=r"zd_drop_table\('t'\).*alembic_zero\.configure") as refusal:
        Script().op.zd_drop_table("t")
    assert refusal.value.code == "ZD102"


@pytest.mark.parametrize("operation_class", OPERATION_CLASSES, ids=lambda cls: cls.directive)
def test_directive__all__registered_and_typed_alike(operation_class):
    """alembic.op, Operations and our typed module have the same signature, and a docstring."""
    name = operation_class.directive
    declared = inspect.signature(getattr(operation_class, name))
    (_, *parameters) = declared.parameters.values()  # without "operations"
    typed = getattr(typed_op, name)
    assert list(inspect.signature(typed).parameters.values()) == parameters
    assert inspect.signature(typed).return_annotation == declared.return_annotation
    registered = inspect.signature(getattr(Operations, name)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in registered][1:] == [(p.name, p.kind, p.default) for p in parameters]
    assert callable(getattr(alembic_op, name))
    assert inspect.getdoc(getattr(Operations, name)) == inspect.getdoc(typed)


def test_typed_op__running_migration__same_operations(script):
    script.op._install_proxy()
    try:
        typed_op.zd_add_column("t", sa.Column("a", sa.Text), schema="s")
        typed_op.zd_alter_column("t", "a", new_column_name="b")
        typed_op.zd_drop_column("t", "b", down=IRREVERSIBLE)
        table = typed_op.zd_create_table("n", sa.Column("id", sa.Integer))
        typed_op.zd_rename_table("n", "m")
        typed_op.zd_drop_table("m")
        typed_op.zd_execute(contract="SELECT 1")
        typed_op.drop_table("z")
    finally:
        script.op._remove_proxy()
    assert isinstance(table, sa.Table)
    assert len(script.statements()) == 8
    with pytest.raises(AttributeError):
        _ = typed_op.no_such_directive


def test_alter__metadata_only__until_values_are_concerned():
    assert ZdAlterColumnOp("t", "a", new_column_name="b", comment="c", server_default=None).metadata_only
    for values in ({"type_": sa.Text}, {"nullable": True}, {"up": "a"}, {"down": IRREVERSIBLE}):
        assert not ZdAlterColumnOp("t", "a", **values).metadata_only


def test_describe__each__one_short_line():
    assert ZdAddColumnOp("users", sa.Column("first_name", sa.Text)).describe() == (
        "zd_add_column('users', 'first_name')"
    )
    assert ZdRenameTableOp("a", "b", schema="s").describe() == "zd_rename_table('a', 'b', schema='s')"
    assert ZdExecuteOp(expand=["SELECT\n 1", "SELECT 2"], rollback="x" * 99).describe() == (
        f"zd_execute(expand='SELECT 1; SELECT 2', rollback='{'x' * 37}...')"
    )


def test_irreversible__copied_or_pickled__still_the_one():
    assert repr(IRREVERSIBLE) == "alembic_zero.IRREVERSIBLE"
    assert Irreversible() is IRREVERSIBLE
    assert copy.deepcopy(IRREVERSIBLE) is IRREVERSIBLE
    assert pickle.loads(pickle.dumps(IRREVERSIBLE)) is IRREVERSIBLE


# Plain counterparts and reverses


def test_render_plain__twice__keeps_the_foreign_key():
    """Rendering attaches a column to a table, and a copy of an attached column has lost its foreign keys."""
    operation = ZdAddColumnOp("t", sa.Column("c_id", sa.Integer, sa.ForeignKey("c.id"), index=True))
    first, second = render_plain(operation, {}), render_plain(operation, {})
    assert first == second
    assert [f.suffix for f in first[1]] == ["REFERENCES c (id)"]
    assert any("ix_t_c_id" in statement for statement in first[0])


def test_plain_operations__each__what_plain_alembic_needs():
    column = sa.Column("a", sa.Text)
    (added,) = ZdAddColumnOp("t", column, up="b", schema="s").plain_operations()
    assert isinstance(added, ops.AddColumnOp)
    assert (added.table_name, added.column.name, added.schema) == ("t", "a", "s")
    (altered,) = ZdAlterColumnOp("t", "a", type_=sa.Text, new_column_name="b", up="a").plain_operations()
    assert isinstance(altered, ops.AlterColumnOp)
    assert (altered.modify_type, altered.modify_name, altered.modify_comment) == (sa.Text, "b", False)
    assert altered.kw == {}
    (created,) = ZdCreateTableOp("t", [column], comment="c", if_not_exists=True).plain_operations()
    assert isinstance(created, ops.CreateTableOp)
    assert (created.comment, created.if_not_exists) == ("c", True)
    (renamed,) = ZdRenameTableOp("t", "u").plain_operations()
    assert isinstance(renamed, ops.RenameTableOp)
    (dropped,) = ZdDropTableOp("t").plain_operations()
    assert isinstance(dropped, ops.DropTableOp)
    (dropped,) = ZdDropColumnOp("t", "a").plain_operations()
    assert isinstance(dropped, ops.DropColumnOp)
    assert ZdExecuteOp(expand="SELECT 1").plain_operations() == []


def test_reverse__add_column__drop_with_the_same_expression_and_back():
    column = sa.Column("a", sa.Text, nullable=False)
    dropped = ZdAddColumnOp("t", column, up="lower(b)", schema="s").reverse()
    assert (dropped.column_name, dropped.down, dropped.schema) == ("a", "lower(b)", "s")
    added = dropped.reverse()
    assert (added.column, added.up, added.schema) == (column, "lower(b)", "s")


def test_reverse__drop_column__needs_the_definition():
    with pytest.raises(ValueError, match="original column is not present"):
        ZdDropColumnOp("t", "a").reverse()
    column = sa.Column("a", sa.Text)
    assert ZdDropColumnOp("t", "a", down=IRREVERSIBLE, _reverse=column).reverse().up is None


def test_reverse__alter_column__everything_exchanged():
    forward = ZdAlterColumnOp(
        "t",
        "a",
        type_=sa.BigInteger,
        existing_type=sa.Integer,
        nullable=False,
        existing_nullable=True,
        server_default="1",
        existing_server_default=None,
        existing_comment="kept",
        new_column_name="b",
        up="a + 1",
        down="b - 1",
        schema="s",
    )
    back = forward.reverse()
    assert (back.column_name, back.new_column_name) == ("b", "a")
    assert (back.type_, back.existing_type) == (sa.Integer, sa.BigInteger)
    assert (back.nullable, back.existing_nullable) == (True, False)
    assert (back.server_default, back.existing_server_default) == (None, "1")
    assert (back.comment, back.existing_comment) == (False, "kept")
    assert (back.up, back.down, back.schema) == ("b - 1", "a + 1", "s")
    assert vars(back.reverse()) == vars(forward)


@pytest.mark.parametrize(
    "arguments",
    [
        {"type_": sa.Text},
        {"nullable": False},
        {"server_default": None},
        {"up": "a", "down": IRREVERSIBLE},
    ],
)
def test_reverse__alter_column_without_the_state_before__error(arguments):
    with pytest.raises(ValueError, match="not reversible"):
        ZdAlterColumnOp("t", "a", **arguments).reverse()


def test_reverse__tables__there_and_back():
    created = ZdCreateTableOp("t", [sa.Column("id", sa.Integer)], schema="s")
    assert created.reverse().reverse() is created
    assert created.reverse().to_diff_tuple()[1].c.keys() == ["id"]
    back = ZdRenameTableOp("a", "b", schema="s").reverse()
    assert (back.table_name, back.new_table_name, back.schema) == ("b", "a", "s")
    with pytest.raises(ValueError, match="original table is not present"):
        ZdDropTableOp("t").reverse()


def test_to_diff_tuple__each__alembics_words():
    column = sa.Column("a", sa.Text)
    assert ZdAddColumnOp("t", column).to_diff_tuple() == ("add_column", None, "t", column)
    assert ZdDropColumnOp("t", "a", _reverse=column).to_diff_tuple() == ("remove_column", None, "t", column)
    altered = ZdAlterColumnOp("t", "a", nullable=True, new_column_name="b").to_diff_tuple()
    assert [change[0] for change in altered] == ["modify_nullable", "rename_column"]
    assert ZdRenameTableOp("t", "u").to_diff_tuple() == ("rename_table", None, "t", "u")
    assert ZdCreateTableOp("t", [column]).to_diff_tuple()[0] == "add_table"
    assert ZdExecuteOp(expand="SELECT 1").to_diff_tuple()[0] == "execute"


# The direct road


def test_direct__add_column_with_up__filled_before_promises(script):
    script.op.zd_add_column(
        "users",
        sa.Column(
            "org",
            sa.Integer,
            sa.ForeignKey("orgs.id"),
            nullable=False,
            server_default="1",
            unique=True,
            comment="why",
        ),
        up=HOSTILE,
    )
    assert script.statements() == [
        "ALTER TABLE users ADD COLUMN org INTEGER",
        f"UPDATE users SET org = ({HOSTILE})",
        "ALTER TABLE users ALTER COLUMN org SET NOT NULL",
        "ALTER TABLE users ALTER COLUMN org SET DEFAULT '1'",
        *script.statements()[4:6],
        "COMMENT ON COLUMN users.org IS 'why'",
    ]
    assert set(script.statements()[4:6]) == {
        "ALTER TABLE users ADD FOREIGN KEY(org) REFERENCES orgs (id)",
        "ALTER TABLE users ADD UNIQUE (org)",
    }


def test_direct__fill__deferred_constraints_of_the_table_are_checked(script):
    """A pending trigger event would forbid every later ALTER TABLE in the transaction."""
    script.op.zd_add_column("T'x", sa.Column("a", sa.Text), up="b", schema="s")
    assert """'s."T''x"'::pg_catalog.regclass""" in script.buffer.getvalue()


def test_direct__add_identity_column_with_up__keeps_its_nature(script):
    script.op.zd_add_column("t", sa.Column("n", sa.BigInteger, sa.Identity()), up="id")
    assert script.statements() == [
        "ALTER TABLE t ADD COLUMN n BIGINT GENERATED BY DEFAULT AS IDENTITY",
        "UPDATE t SET n = (id)",
    ]


def test_direct__type_with_up__default_goes_first_and_name_last(script):
    script.op.zd_alter_column(
        "t",
        "a",
        type_=sa.String(10),
        up=HOSTILE,
        nullable=True,
        server_default="x",
        comment="c",
        new_column_name="b",
        schema="S x",
    )
    assert script.statements() == [
        'ALTER TABLE "S x".t ALTER COLUMN a DROP NOT NULL',
        'ALTER TABLE "S x".t ALTER COLUMN a DROP DEFAULT',
        f'ALTER TABLE "S x".t ALTER COLUMN a TYPE VARCHAR(10) USING ({HOSTILE})',
        "ALTER TABLE \"S x\".t ALTER COLUMN a SET DEFAULT 'x'",
        "COMMENT ON COLUMN \"S x\".t.a IS 'c'",
        'ALTER TABLE "S x".t RENAME a TO b',
    ]


def test_direct__type_with_up_and_type_constraints__exchanged(script):
    def enum(name: str) -> sa.Enum:
        return sa.Enum("a", name=name, native_enum=False, create_constraint=True)

    script.op.zd_alter_column("t", "a", type_=enum("new%"), existing_type=enum("former"), up="'a'")
    assert script.statements() == [
        "ALTER TABLE t DROP CONSTRAINT former",
        "ALTER TABLE t ALTER COLUMN a TYPE VARCHAR(1) USING ('a')",
        "ALTER TABLE t ADD CONSTRAINT \"new%\" CHECK (a IN ('a'))",
    ]


def test_direct__up_without_type__every_row_before_not_null(script):
    script.op.zd_alter_column("t", "a%", up="coalesce(\"a%\", '') -- why", nullable=False)
    assert script.statements() == [
        'UPDATE t SET "a%" = (coalesce("a%", \'\') -- why\n)',
        'ALTER TABLE t ALTER COLUMN "a%" SET NOT NULL',
    ]


def test_direct__identity_default__is_not_dropped_as_a_default(script):
    script.op.zd_alter_column("t", "a", type_=sa.BigInteger, server_default=None, existing_server_default=sa.Identity())
    assert script.statements() == [
        "ALTER TABLE t ALTER COLUMN a TYPE BIGINT",
        "ALTER TABLE t ALTER COLUMN a DROP IDENTITY",
    ]


def test_direct__without_expressions__as_plain_alembic(script):
    plain = Script()
    for op, prefix in ((script.op, "zd_"), (plain.op, "")):

        def call(name, *args, op=op, prefix=prefix, **kw):
            return getattr(op, prefix + name)(*args, **kw)

        call("add_column", "t", sa.Column("a", sa.Text, sa.ForeignKey("u.id"), index=True, nullable=False))
        call("alter_column", "t", "a", type_=sa.String(9), comment="it's", new_column_name="b")
        call("drop_column", "t", "b", schema="s")
        table = call("create_table", "n", sa.Column("id", sa.Integer, primary_key=True), comment="c")
        assert isinstance(table, sa.Table)
        call("rename_table", "n", "m", schema="s")
        call("drop_table", "m")
    assert script.statements() == plain.statements()


def test_direct__execute__expand_then_contract_unchanged(script):
    script.op.zd_execute(expand=["SELECT ':x', '%s\t%%'", "SELECT 2 -- end"], contract="SELECT 3", rollback="no")
    assert script.statements() == ["SELECT ':x', '%s\t%%'", "SELECT 2 -- end", "SELECT 3"]
    assert "-- end\n;" in script.buffer.getvalue()


def test_run_text__online__driver_gets_no_parameters():
    """Otherwise psycopg reads "%s" as a parameter and SQLAlchemy's text() reads ":x" as one."""
    connection = Mock()
    impl = SimpleNamespace(as_sql=False, connection=connection)
    run_text(SimpleNamespace(migration_context=SimpleNamespace(impl=impl)), HOSTILE)
    connection.exec_driver_sql.assert_called_once_with(HOSTILE, execution_options={"no_parameters": True})


# Indexes and constraints


CREATIONS = [
    (ZdCreateIndexOp("i", "t", ["a"], unique=True, schema="s", postgresql_concurrently=True), ops.CreateIndexOp),
    (ZdCreateForeignKeyOp("c", "t", "u", ["a"], ["b"], source_schema="s", ondelete="CASCADE"), ops.CreateForeignKeyOp),
    (ZdCreateCheckConstraintOp("c", "t", "a > 0", schema="s"), ops.CreateCheckConstraintOp),
    (ZdCreateUniqueConstraintOp("c", "t", ["a"], schema="s", deferrable=True), ops.CreateUniqueConstraintOp),
    (ZdCreatePrimaryKeyOp("c", "t", ["a"], schema="s"), ops.CreatePrimaryKeyOp),
    (ZdCreateExcludeConstraintOp("c", "t", [("a", "&&")], schema="s", using="gist"), ops.AddConstraintOp),
]


@pytest.mark.parametrize(("operation", "kind"), CREATIONS, ids=lambda value: getattr(value, "directive", ""))
def test_create_object__plain_reverse_and_diff(operation, kind):
    plain = operation.plain_operation()
    assert isinstance(plain, kind)
    assert "postgresql_concurrently" not in plain.kw
    assert operation.to_diff_tuple()[0].startswith("add_")
    dropped = operation.reverse()
    assert isinstance(dropped, ZdDropIndexOp | ZdDropConstraintOp)
    assert (dropped.table_name, dropped.schema) == ("t", "s")
    assert dropped.to_diff_tuple()[0].startswith("remove_")
    assert dropped.reverse() is operation


def test_drop_object__definition_unknown__not_reversible():
    for operation in (ZdDropIndexOp("i", "t"), ZdDropConstraintOp("c", "t")):
        assert operation.to_diff_tuple()[0].startswith("remove_")
        with pytest.raises(ValueError, match="not reversible"):
            operation.reverse()
    assert isinstance(ZdDropIndexOp("i").plain_operation(), ops.DropIndexOp)
    assert ZdDropIndexOp("i").describe() == "zd_drop_index('i')"


def test_reverse__constraint_with_expressions__exchanged():
    dropped = ZdCreateUniqueConstraintOp("c", "t", ["a"], up="a || id", down={"a": "a"}).reverse()
    assert (dropped.up, dropped.down) == ({"a": "a"}, "a || id")
    with pytest.raises(ValueError, match="IRREVERSIBLE"):
        ZdCreateUniqueConstraintOp("c", "t", ["a"], down={"a": IRREVERSIBLE}).reverse()
    with pytest.raises(ValueError, match="has no name"):
        ZdCreateUniqueConstraintOp(None, "t", ["a"]).reverse()


def test_rename_constraint__there_and_back():
    operation = ZdRenameConstraintOp("a:b", "t", "c d", schema="S")
    assert operation.statement() == 'ALTER TABLE "S"."t" RENAME CONSTRAINT "a:b" TO "c d"'
    assert str(operation.plain_operation().sqltext) == operation.statement()
    assert operation.reverse().statement() == 'ALTER TABLE "S"."t" RENAME CONSTRAINT "c d" TO "a:b"'
    assert operation.to_diff_tuple()[0] == "rename_constraint"


def test_direct__objects__as_plain_alembic(script):
    plain = Script()
    for op, prefix in ((script.op, "zd_"), (plain.op, "")):

        def call(name, *args, op=op, prefix=prefix, **kw):
            return getattr(op, prefix + name)(*args, **kw)

        call("create_index", "i", "t", [sa.text("lower(a)")], unique=True, postgresql_where=sa.text("a <> '%s:x'"))
        call("drop_index", "i", "t", schema="s")
        call("create_foreign_key", "f", "t", "u", ["a"], ["b"], deferrable=True, initially="DEFERRED", match="FULL")
        call("create_check_constraint", None, "t", "a > 0")
        call("create_unique_constraint", "q", "t", ["a", "b"])
        call("create_primary_key", None, "t", ["a"])
        call("create_exclude_constraint", "x", "t", ("a", "&&"), using="gist", schema="s")
        call("drop_constraint", "q", "t", "unique")
    assert script.statements() == plain.statements()


def test_direct__constraint_with_up__values_first_and_the_drop_before_them(script):
    script.op.zd_create_unique_constraint("q", "t", ["a"], up="a || id", down="a")
    script.op.zd_drop_constraint("q", "t", up={"a": HOSTILE, "b": "a"})
    script.op.zd_drop_constraint("q", "t", down="a")
    assert script.statements() == [
        "UPDATE t SET a = (a || id)",
        "ALTER TABLE t ADD CONSTRAINT q UNIQUE (a)",
        "ALTER TABLE t DROP CONSTRAINT q",
        f"UPDATE t SET a = ({HOSTILE}), b = (a)",
        "ALTER TABLE t DROP CONSTRAINT q",
    ]


def test_direct__rename_constraint__not_read_by_a_driver(script):
    script.op.zd_rename_constraint("a:b", "t", "100%s")
    assert script.statements() == ['ALTER TABLE "t" RENAME CONSTRAINT "a:b" TO "100%s"']
