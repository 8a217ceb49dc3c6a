"""Operations as Python text: written, read back, reversed."""

from __future__ import annotations

import ast
import sys
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic.autogenerate import render_python_code, renderers
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType

import alembic_zero
from alembic_zero import IRREVERSIBLE
from alembic_zero.operations.columns import ZdAddColumnOp, ZdAlterColumnOp, ZdDropColumnOp
from alembic_zero.operations.dispatch import OPERATION_CLASSES
from alembic_zero.operations.execute import ZdExecuteOp
from alembic_zero.operations.irreversible import Irreversible
from alembic_zero.operations.reading import StoredFormError, read_operations
from alembic_zero.operations.rendering import directive_parameters, render_line
from alembic_zero.operations.tables import ZdCreateTableOp, ZdDropTableOp, ZdRenameTableOp
from alembic_zero.plan.items import Item, Ordinary
from alembic_zero.plan.stored import StoredOperation, describe_edit, store_operations
from tests.support.samples import samples

SAMPLES = [pytest.param(number, id=f"{number}-{sample.directive}") for number, sample in enumerate(samples())]


class Capturing(Operations):
    """What a revision's ``op`` is while its text is executed here."""

    def __init__(self):
        super().__init__(MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True}))
        self.operations = []

    def invoke(self, operation):
        self.operations.append(operation)


def executed(text):
    """Return the operations that a revision with this text invokes."""
    capturing = Capturing()
    names = {"op": capturing, "sa": sa, "postgresql": postgresql, "alembic_zero": alembic_zero}
    exec(text, names)
    return capturing.operations


@pytest.mark.parametrize("operation_class", OPERATION_CLASSES, ids=lambda cls: cls.directive)
def test_render__every_registered_operation__has_renderer_samples_and_reverse(operation_class):
    found = [sample for sample in samples() if isinstance(sample, operation_class)]
    assert found, f"add calls of {operation_class.directive} with all options to tests/support/samples.py"
    for sample in found:
        assert render_python_code(ops.UpgradeOps([sample])).count(f"op.{operation_class.directive}(") == 1
    # Every option is tried by some sample.
    rendered = " ".join(render_line(sample) for sample in found)
    options = [n for n, p in directive_parameters(operation_class).items() if p.kind is p.KEYWORD_ONLY]
    assert not [option for option in options if f"{option}=" not in rendered]
    assert operation_class.reverse is not ops.MigrateOperation.reverse


@pytest.mark.parametrize("number", SAMPLES)
def test_render__executed_in_a_revision__equal_operation(number):
    text = samples()[number].render()
    (again,) = executed(text)
    assert again.render() == text
    # Rendering leaves no trace on columns and constraints that rendering again would show.
    sample = samples()[number]
    assert [sample.render(), sample.render()] == [text, text]


@pytest.mark.parametrize("number", SAMPLES)
def test_render__read_back_from_the_stored_form__equal_operation(number):
    sample = samples()[number]
    line = render_line(sample)
    assert "\n" not in line
    (again,) = read_operations(line)
    assert type(again) is type(sample)
    assert again.render() == sample.render()
    assert again.describe() == sample.describe()


@pytest.mark.parametrize("number", SAMPLES)
def test_render__used_before__same_text(number):
    """A table that was made of the columns, as when the revision runs, has tied them to itself."""
    sample = samples()[number]
    text = sample.render()
    for plain in sample.plain_operations():
        if isinstance(plain, ops.CreateTableOp):
            plain.to_table()
    (again,) = read_operations(sample.render())
    # The exclusion constraint's columns have become columns meanwhile.
    assert again.render().replace("(sa.column('b'), '=')", "('b', '=')") == text


@pytest.mark.parametrize("number", SAMPLES)
def test_render__plain_counterpart__same_sql_when_read_back(number):
    """Nothing that matters to PostgreSQL is lost on the way."""

    def script(operation):
        context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True})
        written = []
        context.impl._exec = lambda construct, *args, **kw: written.append(
            str(construct.compile(dialect=context.dialect)) if not isinstance(construct, str) else construct
        )
        for plain in operation.plain_operations():
            Operations(context).invoke(plain)
        return written

    (again,) = read_operations(samples()[number].render())
    assert sorted(script(again)) == sorted(script(samples()[number]))


@pytest.mark.parametrize("number", SAMPLES)
def test_reverse__twice__the_operation_again(number):
    sample = samples()[number]
    try:
        back = sample.reverse()
    except ValueError as error:
        assert "not reversible" in str(error)
        return
    assert back.render() != sample.render()
    (read,) = read_operations(back.render())
    assert read.render() == back.render()
    assert back.reverse().render() == sample.render()


def test_reverse__samples__most_are_reversible():
    reversible = set()
    for sample in samples():
        try:
            reversible.add(type(sample.reverse().reverse()))
        except ValueError:
            continue
    assert reversible >= {ZdAddColumnOp, ZdAlterColumnOp, ZdDropColumnOp, ZdCreateTableOp, ZdDropTableOp}
    assert reversible >= {ZdRenameTableOp, ZdExecuteOp}


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=70)
expressions = names.filter(str.strip)
odd = st.sampled_from(["'", '"', "'''", '"""', "%", "%%", "%s", ":x", "\\", "\\:", "\n", "é", "{}", "\u2028", "#"])
hostile = st.lists(st.one_of(odd, expressions), min_size=1, max_size=6).map("".join).filter(str.strip)


@given(table=hostile, column=hostile, up=hostile, down=st.one_of(st.none(), st.just(IRREVERSIBLE), hostile))
def test_render__any_names_and_expressions__survive(table, column, up, down):
    for operation in (
        ZdAddColumnOp(table, sa.Column(column, sa.Text, comment=up, server_default=up), up=up, schema=column),
        ZdAlterColumnOp(table, column, up=up, down=down, comment=up, new_column_name=table),
        ZdDropColumnOp(table, column, down=down),
        ZdCreateTableOp(table, [sa.Column(column, sa.Text), sa.UniqueConstraint(column, name=table)], comment=up),
        ZdExecuteOp(expand=up, contract=[up, column], rollback=column),
    ):
        text = operation.render()
        (again,) = read_operations(text)
        assert again.render() == text
        assert {k: v for k, v in vars(again).items() if isinstance(v, str | tuple | Irreversible | bool | None)} == {
            k: v for k, v in vars(operation).items() if isinstance(v, str | tuple | Irreversible | bool | None)
        } or isinstance(operation, ZdCreateTableOp)


@given(text=hostile, other=hostile)
def test_render__sql_of_checks_and_defaults__survives(text, other):
    escaped = text.replace("\\", "").replace(":", r"\:")
    column = sa.Column("a", sa.Text, sa.CheckConstraint(escaped), server_default=sa.text(escaped))
    (again,) = read_operations(ZdAddColumnOp("t", column, up=other).render())
    (check,) = again.column.constraints
    assert check.sqltext.text == escaped
    assert again.column.server_default.arg.text == escaped


@given(calls=st.lists(hostile, min_size=1, max_size=4))
def test_revision__written_by_alembic__executes_to_the_same(calls):
    """Alembic's printer of revisions keeps track of quotes and comments, and must not stumble over ours."""
    operations = [ZdAddColumnOp(one, sa.Column(one, sa.Text), up=one) for one in calls]
    text = render_python_code(ops.UpgradeOps(operations))
    body = "\n".join(["def upgrade():", *(f"    {line}" for line in text.split("\n"))])
    assert [o.render() for o in executed(f"{body}\nupgrade()")] == [o.render() for o in operations]


def test_render__short_call__on_one_line():
    assert ZdDropColumnOp("users", "name", down="first").render() == "op.zd_drop_column('users', 'name', down='first')"


def test_render__long_call__a_line_for_each_argument():
    operation = ZdAlterColumnOp("users", "name", type_=sa.Text, existing_type=sa.String(50), up="lower(name)" * 5)
    assert operation.render() == (
        "op.zd_alter_column(\n    'users',\n    'name',\n    type_=sa.Text(),\n"
        "    existing_type=sa.String(length=50),\n"
        f"    up={'lower(name)' * 5!r},\n)"
    )


class Money(UserDefinedType):
    """A type of the user's."""

    def __repr__(self):
        return "Money()"


def test_render__for_a_revision__what_it_needs_is_imported():
    imports = set()
    operations = [
        ZdAddColumnOp("t", sa.Column("a", Money())),
        ZdAddColumnOp("t", sa.Column("a", postgresql.JSONB())),
        ZdDropColumnOp("t", "a", down=IRREVERSIBLE),
    ]
    text = render_python_code(ops.UpgradeOps(operations), imports=imports)
    assert f"{__name__}.Money()" in text
    written = imports or _imports_of(operations)
    assert written >= {
        f"import {__name__}",
        "from sqlalchemy.dialects import postgresql",
        "import alembic_zero",
    }


def _imports_of(operations):
    from alembic.autogenerate.api import AutogenContext

    options = {"sqlalchemy_module_prefix": "sa.", "alembic_module_prefix": "op.", "user_module_prefix": None}
    context = AutogenContext(MigrationContext.configure(dialect_name="postgresql"), opts=options, autogenerate=False)
    for operation in operations:
        renderers.dispatch(operation)(context, operation)
    return context.imports


def test_render__render_item_of_env__is_asked():
    def render_item(kind, item, context):
        return "my_types.money()" if kind == "type" and isinstance(item, Money) else False

    operation = ZdAddColumnOp("t", sa.Column("a", Money(), nullable=False))
    text = render_python_code(ops.UpgradeOps([operation]), render_item=render_item)
    assert "sa.Column('a', my_types.money(), nullable=False)" in text


def test_render__other_prefixes__are_kept():
    operation = ZdCreateTableOp("t", [sa.Column("a", sa.Text), sa.UniqueConstraint("a")])
    text = render_python_code(ops.UpgradeOps([operation]), sqlalchemy_module_prefix="", alembic_module_prefix="o.")
    assert "o.zd_create_table('t', Column('a', Text(), nullable=True), UniqueConstraint('a'))" in text


def test_read__type_of_the_users__with_its_module():
    text = ZdAddColumnOp("t", sa.Column("a", Money())).render()
    with pytest.raises(StoredFormError, match="not allowed"):
        read_operations(text)
    (again,) = read_operations(text, {__name__: sys.modules.get(__name__) or _module()})
    assert isinstance(again.column.type, Money)


def _module():
    module = ModuleType(__name__)
    module.Money = Money
    return module


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "x = 1",
        "op.drop_table('t')",
        "op.zd_drop_table('t').table_name",
        "op.zd_drop_table(__import__('os').name)",
        "op.zd_drop_table(open('/dev/null'))",
        "op.zd_drop_table('t' if True else 'u')",
        "op.zd_drop_table(f'{1}')",
        "op.zd_add_column('t', sa.create_engine('sqlite://'))",
        "op.zd_add_column('t', sa.util.compat.os)",
        "op.zd_add_column('t', sa.Column.__init__)",
        "op.zd_add_column('t', sa.text('a').bindparams(a=1))",
        "op.zd_drop_table(*['t'])",
        "op.zd_drop_table(**{'table_name': 't'})",
        "op.zd_drop_table()",
        "op.zd_drop_table(''",
        "(lambda: 1)()",
        "alembic_zero.pin_engine(1)",
        "op.zd_drop_table(alembic_zero.configure)",
    ],
)
def test_read__anything_else__refused(text):
    with pytest.raises(StoredFormError) as refused:
        read_operations(text)
    assert refused.value.code == "ZD270"


def test_read__ordinary_statement__as_alembics_own():
    stored = store_operations([Item("r2", Ordinary("sql", "SELECT 'é%'"))])
    (operation,) = read_operations(stored[0].call)
    assert isinstance(operation, ops.ExecuteSQLOp)
    assert operation.sqltext == "SELECT 'é%'"


def test_store__statements_of_one_call__once():
    cause = ZdCreateTableOp("t", [sa.Column("a", sa.Text)])
    items = [Item("r2", Ordinary("create_table", "CREATE TABLE t (a text)"), cause=cause)]
    items += [Item("r2", Ordinary("sql", "CREATE INDEX x"), cause=cause), Item("r3", ZdDropTableOp("u"))]
    assert store_operations(items) == (
        StoredOperation("r2", "op.zd_create_table('t', sa.Column('a', sa.Text(), nullable=True))"),
        StoredOperation("r3", "op.zd_drop_table('u')"),
    )


def test_store__type_that_cannot_be_rendered__comment():
    class Broken(UserDefinedType):
        def __repr__(self):
            raise RuntimeError

    operation = ZdAddColumnOp("t", sa.Column("a", Broken()))
    ((call,),) = [[stored.call for stored in store_operations([Item("r2", operation)])]]
    assert call == "# zd_add_column('t', 'a')"
    assert read_operations(call) == []
    assert Item("r2", operation).describe() == "revision 'r2', zd_add_column('t', 'a')"


def test_item__describes__short_call_whole_and_long_one_abbreviated():
    assert Item("r2", ZdDropColumnOp("t", "a", down="b")).describe() == (
        "revision 'r2', op.zd_drop_column('t', 'a', down='b')"
    )
    long = Item("r2", ZdDropColumnOp("t", "a", down="b" * 200))
    assert long.describe() == "revision 'r2', zd_drop_column('t', 'a')"
    assert "b" * 200 in long.describe_whole()


def stored(*calls):
    return [StoredOperation("r2", call) for call in calls]


def test_describe_edit__changed_added_and_removed_calls():
    before = stored("op.zd_drop_table('a')", "op.zd_drop_column('t', 'x')", "op.zd_drop_table('z')")
    now = stored("op.zd_drop_table('b')", "op.zd_drop_column('t', 'x')")
    assert describe_edit(before, now) == (
        "was op.zd_drop_table('a'), is now op.zd_drop_table('b'); no longer op.zd_drop_table('z')"
    )
    assert describe_edit(now, [*now, *stored("op.zd_drop_table('n')")]) == "new is op.zd_drop_table('n')"
    assert "another one" in describe_edit(now, now)
    assert describe_edit([], now) == ""


def test_describe_edit__long_calls_and_many__cut_to_what_differs():
    long = "op.zd_execute(expand='" + "x" * 500
    text = describe_edit(stored(long + "a" + "y" * 500 + "')"), stored(long + "b" + "y" * 500 + "')"))
    assert len(text) < 500
    assert "xa" in text.partition("is now")[0]
    assert "xb" in text.partition("is now")[2]
    many = describe_edit(stored("op.zd_drop_table('a')"), stored(*(f"op.zd_drop_table('{n}')" for n in range(9))))
    assert many.endswith("and 5 more")
    ast.parse(many.partition("is now ")[2].partition(";")[0])
