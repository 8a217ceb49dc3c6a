"""Enums: arguments, mappings, reverses, and definitions carried over to other labels."""

from __future__ import annotations

import io

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from alembic_zero.lens.lens import Cell
from alembic_zero.operations.enums import (
    LabelsError,
    ZdAlterEnumOp,
    ZdCreateEnumOp,
    ZdDropEnumOp,
    complete_down,
    complete_up,
)
from alembic_zero.operations.errors import RefusedError
from alembic_zero.plan.enums import EnumChange, EnumFacts
from alembic_zero.sql.enums import LabelUsedError, map_array, map_value, rename_type, translate


class Script:
    """The operations of a revision, run with ``--sql``."""

    def __init__(self):
        self.buffer = io.StringIO()
        opts = {"as_sql": True, "output_buffer": self.buffer, "alembic_zero": object()}
        dialect_opts = {"paramstyle": "named"}
        self.op = Operations(
            MigrationContext.configure(dialect_name="postgresql", dialect_opts=dialect_opts, opts=opts)
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda op: op.zd_create_enum("", "a"), "name is empty"),
        (lambda op: op.zd_create_enum("e"), "an enum without labels"),
        (lambda op: op.zd_create_enum("e", "a", "b", "a"), "label 'a' is there twice"),
        (lambda op: op.zd_create_enum("e", "a", 1), "a label must be a string, not 1"),
        (lambda op: op.zd_create_enum("e", ["a"], schema=""), "schema is empty"),
        (lambda op: op.zd_create_enum("e", "ä" * 32), "longer than 63 bytes"),
        (lambda op: op.zd_alter_enum("e", "abc"), "values must be a sequence of labels, not 'abc'"),
        (lambda op: op.zd_alter_enum("e", None), "values must be a sequence of labels, not None"),
        (lambda op: op.zd_alter_enum("e", ["a"], up=["a"]), "up must map labels to labels"),
        (lambda op: op.zd_alter_enum("e", ["a"], up={"b": 1}), "up: a label must be a string, not 1"),
        (lambda op: op.zd_alter_enum("e", ["a"], up={"b": "c"}), "up names 'c', which is not among the new labels"),
        (lambda op: op.zd_alter_enum("e", ["a"], down={"c": "a"}), "down names 'c', which is not among the new labels"),
        (lambda op: op.zd_drop_enum("e", existing_values="ab"), "existing_values must be a sequence"),
        (lambda op: op.zd_drop_enum(7), "name must be a string"),
    ],
)
def test_directive__bad_argument__refused(call, words):
    script = Script()
    with pytest.raises(RefusedError) as refusal:
        call(script.op)
    assert words in str(refusal.value)
    assert refusal.value.code == "ZD101"
    assert script.buffer.getvalue() == ""


def test_create__values_one_by_one_or_as_a_sequence__the_same():
    script = Script()
    script.op.zd_create_enum("e", "a", "it's")
    script.op.zd_create_enum("e", ["a", "it's"], schema="S x")
    assert script.buffer.getvalue().split(";\n\n")[:2] == [
        "CREATE TYPE e AS ENUM ('a', 'it''s')",
        """CREATE TYPE "S x".e AS ENUM ('a', 'it''s')""",
    ]


def test_create__then_table_with_the_enum__created_once():
    script = Script()
    script.op.zd_create_enum("e", "a")
    script.op.zd_create_table("t", sa.Column("e", sa.Enum("a", name="e")))
    assert script.buffer.getvalue().count("CREATE TYPE e ") == 1


def test_direct__alter__whatever_the_labels_hold_the_script_has_it():
    script = Script()
    script.op.zd_alter_enum('E "x', ["$zd$", ":b", "it's\t%s"], up={"$zd_$": None}, schema="s")
    text = script.buffer.getvalue()
    assert text.startswith("DO $zd__$")
    assert """'"s"."E ""x"'::pg_catalog.regtype""" in text
    assert "ARRAY['$zd$', ':b', 'it''s\t%s']" in text


# Mappings


@pytest.mark.parametrize(
    ("before", "after", "given", "up", "down"),
    [
        ("ab", "ab", {}, {"a": "a", "b": "b"}, {"a": "a", "b": "b"}),
        ("ab", "ba", {}, {"a": "a", "b": "b"}, {"a": "a", "b": "b"}),
        ("ab", "cb", {"a": "c"}, {"a": "c", "b": "b"}, {"c": "a", "b": "b"}),
        ("ab", "b", {"a": "b"}, {"a": "b", "b": "b"}, {"b": "b"}),
        ("ab", "b", {"a": None}, {"a": None, "b": "b"}, {"b": "b"}),
        ("ab", "ab", {"a": "b", "b": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "a"}),
    ],
)
def test_mappings__what_is_obvious__may_be_left_out(before, after, given, up, down):
    assert complete_up(tuple(before), tuple(after), given) == up
    assert complete_down(tuple(before), tuple(after), up, {}) == down


@pytest.mark.parametrize(
    ("before", "after", "up", "down", "words"),
    [
        ("ab", "a", {}, {}, "'b' would go"),
        ("ab", "ab", {"c": "a"}, {}, "up= names 'c', which the enum does not have"),
        ("ab", "abc", {}, {}, "do not know 'c'"),
        ("ab", "c", {"a": "c", "b": "c"}, {}, "do not know 'c'"),
        ("ab", "abc", {}, {"c": "d"}, "down= leads to 'd'"),
    ],
)
def test_mappings__what_is_not_obvious__asked_for(before, after, up, down, words):
    with pytest.raises(LabelsError, match=words):
        complete_down(tuple(before), tuple(after), complete_up(tuple(before), tuple(after), up), down)


def test_then__two_changes__one_mapping():
    facts = EnumFacts(1, "s", "e", "s.e", "s.e", ("a", "b", "x"))
    first = EnumChange(facts, "h", "h.e", ("c", "b"), {"a": "c", "b": "b", "x": None}, {"c": "a", "b": "b"})
    both = first.then(("d", "b", "n"), {"c": "d", "b": "b"}, {"d": "c", "b": "b", "n": None})
    assert both.labels == ("d", "b", "n")
    assert both.up == {"a": "d", "b": "b", "x": None}
    assert both.down == {"d": "a", "b": "b", "n": None}


# Reverses


def test_reverse__create_and_drop__there_and_back():
    created = ZdCreateEnumOp("e", ["a"], schema="s")
    back = created.reverse().reverse()
    assert (back.name, back.values, back.schema) == ("e", ("a",), "s")
    with pytest.raises(ValueError, match="existing_values is not present"):
        ZdDropEnumOp("e").reverse()


def test_reverse__alter__labels_and_mappings_exchanged():
    forward = ZdAlterEnumOp(
        "e", ["x", "b", "new"], up={"a": "x", "c": None}, down={"new": "b"}, existing_values=["a", "b", "c"], schema="s"
    )
    back = forward.reverse()
    assert (back.values, back.existing_values) == (("a", "b", "c"), ("x", "b", "new"))
    assert (back.up, back.down) == ({"x": "a", "new": "b"}, {"a": "x", "c": None})
    assert back.reverse().up == forward.up
    with pytest.raises(ValueError, match="existing_values is not present"):
        ZdAlterEnumOp("e", ["a"]).reverse()


def test_describe_and_diff__each__one_line_and_all_that_differs():
    assert ZdCreateEnumOp("e", ["a"]).describe() == "zd_create_enum('e')"
    assert ZdAlterEnumOp("e", ["a"], schema="s").describe() == "zd_alter_enum('e', ..., schema='s')"
    assert ZdDropEnumOp("e").describe() == "zd_drop_enum('e')"
    assert ZdCreateEnumOp("e", ["a"]).to_diff_tuple() == ("add_enum", None, "e", ("a",))
    assert ZdDropEnumOp("e").to_diff_tuple() == ("remove_enum", None, "e", None)
    assert ZdAlterEnumOp("e", ["a"]).to_diff_tuple() == ("modify_enum", None, "e", None, ("a",))


# Texts


def test_map_value__labels__by_their_text():
    assert map_value("a b", {}, "n.e") == '"a b"::text::n.e'
    assert map_value("m", {"it's": "x", "y": None}, "n.e") == (
        """(CASE "m"::text WHEN 'it''s' THEN 'x' WHEN 'y' THEN NULL ELSE "m"::text END)::n.e"""
    )


def test_map_array__labels_exchanged__by_way_of_what_is_no_label():
    text = map_array("m", {"a": "b", "b": "a"}, "n.e")
    assert text.count("array_replace(") == 4
    assert "0" * 64 in text
    assert text.endswith(")::n.e[]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(m <> 'a'::s.e)", "(m <> 'x'::h.e)"),
        ("(m <> 'b'::s.e)", "(m <> 'b'::h.e)"),
        ("(m = ANY (ARRAY['a'::s.e, 'b'::s.e]))", "(m = ANY (ARRAY['x'::h.e, 'b'::h.e]))"),
        ("((n)::text = 'a'::text)", "((n)::text = 'a'::text)"),
        ("(n <> 's.e'::text)", "(n <> 's.e'::text)"),
        ("(n <> '''a''::s.e'::text)", "(n <> '''a''::s.e'::text)"),
        ("((n)::s.e = m)", "((n)::h.e = m)"),
        ("((n)::s.eggs = 'a'::s.eggs)", "((n)::s.eggs = 'a'::s.eggs)"),
        ("('a'::other.s.e)", "('a'::other.s.e)"),
        ("""("s.e" = 'a'::s.e)""", """("s.e" = 'x'::h.e)"""),
        ("'it''s'::s.e", """'y"''z'::h.e"""),
        ("'{a,b,NULL}'::s.e[]", """'{"x","b",NULL}'::h.e[]"""),
        ("""'[0:1]={a,"b"}'::s.e[]""", """'[0:1]={"x","b"}'::h.e[]"""),
        ("'{{a},{a}}'::s.e[]", """'{{"x"},{"x"}}'::h.e[]"""),
        ("'{\"it''s\"}'::s.e[]", """E'{"y\\\\"''z"}'::h.e[]"""),
        ("'n'::s.e", "NULL::h.e"),
    ],
)
def test_translate__definition__only_the_enum_and_its_labels(text, expected):
    mapping = {"a": "x", "b": "b", "it's": "y\"'z", "n": None}
    assert translate(text, "s.e", "h.e", mapping) == expected


def test_translate__label_without_counterpart__says_which():
    with pytest.raises(LabelUsedError, match="gone"):
        translate("m = 'gone'::s.e", "s.e", "h.e", {})
    with pytest.raises(LabelUsedError, match="two words"):
        translate("""m = '{"two words"}'::s.e[]""", "s.e", "h.e", {})


def test_rename_type__plain_data__every_text_in_it():
    cell = Cell("c", 'zd_r2."Mood"[]', None, physical='x zd_r2."Mood"s')
    renamed = cell.with_texts(lambda text: rename_type(text, 'zd_r2."Mood"', 'public."Mood"'))
    assert renamed == Cell("c", 'public."Mood"[]', None, physical='x zd_r2."Mood"s')
