"""Rows that do not fit, and names and dependants that are in the way: refused before anything changes."""

from __future__ import annotations

import pytest

from tests.support.harness import AFTER, BEFORE, Case, Flight, assert_nothing_left, assert_same, check_rows

pytestmark = pytest.mark.one_server

SETUP = """
    CREATE TABLE parent (id integer PRIMARY KEY, code text, CONSTRAINT parent_code UNIQUE (code));
    CREATE TABLE child (id integer, part integer, parent_id integer, n integer, m integer, "e x" text,
        CONSTRAINT child_pkey PRIMARY KEY (id, part), CONSTRAINT child_n CHECK (n <> 77),
        CONSTRAINT child_code FOREIGN KEY ("e x") REFERENCES parent (code));
    CREATE INDEX child_m ON child (m);
    CREATE TABLE other (id integer PRIMARY KEY);
    CREATE INDEX other_id ON other (id);
    CREATE TABLE keyless (k integer);
    CREATE VIEW per_parent AS SELECT id, code FROM parent GROUP BY id;
    INSERT INTO parent VALUES (1, 'one'), (2, NULL);
    INSERT INTO child VALUES (1, 1, 1, 10, 5, 'one'), (1, 2, 8, -1, 5, NULL), (2, 1, 9, NULL, NULL, NULL);
    INSERT INTO keyless VALUES (7), (7);
"""

# Body of the revision, error code, and what the message must say.
BAD = {
    "not_null": (
        'op.zd_alter_column("child", "n", nullable=False)',
        "ZD213",
        ["zd_alter_column('child', 'n', nullable=False)", "NULL in column 'n'", "(id, part)=(2,1)", "up="],
    ),
    "not_null_with_other_changes": (
        'op.zd_alter_column("child", "n", nullable=False, type_=sa.BigInteger, new_column_name="x", down="x::integer")',
        "ZD213",
        ["(id, part)=(2,1)"],
    ),
    "check": (
        'op.zd_create_check_constraint("ck", "child", "n > 0")',
        "ZD213",
        ["zd_create_check_constraint('ck', 'child', 'n > 0')", "'ck'", "(id, part)=(1,2)"],
    ),
    "check_fails": (
        'op.zd_create_check_constraint("ck", "child", "1 / (n + 1) >= 0")',
        "ZD213",
        ["division by zero"],
    ),
    "foreign_key": (
        'op.zd_create_foreign_key("fk", "child", "parent", ["parent_id"], ["id"])',
        "ZD213",
        [
            "zd_create_foreign_key('fk', 'child', 'parent', ['parent_id'], ['id'])",
            '"public"."parent"',
            "(1,2)",
            "(2,1)",
        ],
    ),
    "foreign_key_match_full": (
        (
            'op.zd_create_unique_constraint("u2", "parent", ["id", "code"])\n'
            'op.zd_create_foreign_key("fk", "child", "parent", ["id", "e x"], ["id", "code"], match="FULL")'
        ),
        "ZD213",
        ["(1,2)", "(2,1)"],
    ),
    "unique": (
        'op.zd_create_unique_constraint("uq", "child", ["m"])',
        "ZD213",
        ["'uq'", "(id, part)=(1,1) with (5)", "(id, part)=(1,2) with (5)"],
    ),
    "unique_index_expression": (
        'op.zd_create_index("ux", "child", [sa.text("(abs(m) + 1)")], unique=True, postgresql_where=sa.text("m > 0"))',
        "ZD213",
        ["'ux'", "with (6)"],
    ),
    "unique_without_key": (
        'op.zd_create_unique_constraint("uq", "keyless", ["k"])',
        "ZD213",
        ["(ctid)=((0,1))".replace("((0,1))", '("(0,1)")'), "with (7)"],
    ),
    "primary_key_duplicates": ('op.zd_create_primary_key("pk", "keyless", ["k"])', "ZD213", ["with (7)"]),
    "primary_key_null": (
        'op.zd_drop_constraint("child_pkey", "child")\nop.zd_create_primary_key("pk", "child", ["id", "part", "n"])',
        "ZD213",
        ["zd_create_primary_key('pk', 'child', ['id', 'part', 'n'])", "NULL in column 'n'", "(2,1)"],
    ),
    "later_operation_is_bad": (
        (
            'op.zd_add_column("child", sa.Column("x", sa.Integer), up="n")\n'
            'op.zd_create_check_constraint("ck", "child", "n > 0")'
        ),
        "ZD213",
        ["(1,2)"],
    ),
    "index_exists": ('op.zd_create_index("child_m", "child", ["n"])', "ZD203", ["child_m", "there are:"]),
    "index_of_other_table_exists": ('op.zd_create_index("other_id", "child", ["n"])', "ZD203", ["other_id"]),
    "index_named_like_table": ('op.zd_create_index("other", "child", ["n"])', "ZD203", ["public.other"]),
    "index_made_twice": (
        'op.zd_create_index("x", "child", ["n"])\nop.zd_create_index("x", "parent", ["id"])',
        "ZD203",
        ["'parent'", "x"],
    ),
    "unique_named_like_index": (
        'op.zd_create_unique_constraint("other_id", "child", ["n"])',
        "ZD203",
        ["other_id"],
    ),
    "check_exists": ('op.zd_create_check_constraint("child_n", "child", "n > 0")', "ZD203", ["child_n"]),
    "foreign_key_exists": (
        'op.zd_create_foreign_key("child_code", "child", "parent", ["parent_id"], ["id"])',
        "ZD203",
        ["child_code", "child_n"],
    ),
    "second_primary_key": ('op.zd_create_primary_key("pk2", "child", ["id"])', "ZD201", ["primary key"]),
    "rename_to_existing": (
        'op.zd_rename_constraint("child_n", "child", "child_code")',
        "ZD203",
        ["child_code"],
    ),
    "rename_to_index_of_other": (
        'op.zd_rename_constraint("child_pkey", "child", "other_id")',
        "ZD203",
        ["other_id"],
    ),
    "index_unknown_column": ('op.zd_create_index("x", "child", ["nope"])', "ZD201", ["nope"]),
    "index_unknown_method": (
        'op.zd_create_index("x", "child", ["n"], postgresql_using="nope")',
        "ZD201",
        ["nope"],
    ),
    "check_syntax": ('op.zd_create_check_constraint("x", "child", "n >")', "ZD201", ["syntax"]),
    "foreign_key_unknown_table": (
        'op.zd_create_foreign_key("fk", "child", "nowhere", ["parent_id"], ["id"])',
        "ZD202",
        ["public.nowhere"],
    ),
    "foreign_key_unknown_local_column": (
        'op.zd_create_foreign_key("fk", "child", "parent", ["nope"], ["id"])',
        "ZD202",
        ["nope"],
    ),
    "foreign_key_unknown_remote_column": (
        'op.zd_create_foreign_key("fk", "child", "parent", ["parent_id"], ["nope"])',
        "ZD202",
        ["nope", "parent", "code"],
    ),
    "foreign_key_without_unique": (
        'op.zd_create_foreign_key("fk", "child", "keyless", ["parent_id"], ["k"])',
        "ZD201",
        ["unique"],
    ),
    "foreign_key_of_other_type": (
        'op.zd_create_foreign_key("fk", "child", "parent", ["e x"], ["id"])',
        "ZD201",
        ["text", "integer"],
    ),
    "drop_unknown_index": ('op.zd_drop_index("nope", "child")', "ZD202", ["nope", "child_m"]),
    "drop_unknown_index_without_table": ('op.zd_drop_index("nope")', "ZD202", ["nope"]),
    "drop_unknown_constraint": (
        'op.zd_drop_constraint("nope", "child")',
        "ZD202",
        ["nope", "child_n", "child_pkey", "child_code"],
    ),
    "drop_constraint_as_index": ('op.zd_drop_index("child_pkey", "child")', "ZD204", ["zd_drop_constraint"]),
    "drop_index_as_constraint": ('op.zd_drop_constraint("child_m", "child")', "ZD204", ["zd_drop_index"]),
    "dropped_twice": (
        'op.zd_drop_constraint("child_n", "child")\nop.zd_drop_constraint("child_n", "child")',
        "ZD202",
        ["child_n"],
    ),
    "rename_unknown": ('op.zd_rename_constraint("nope", "child", "x")', "ZD202", ["nope", "child_n"]),
    "drop_needed_unique": (
        'op.zd_drop_constraint("parent_code", "parent")',
        "ZD207",
        ["child_code", "public.child"],
    ),
    "drop_needed_primary_key": ('op.zd_drop_constraint("parent_pkey", "parent")', "ZD207", ["per_parent"]),
    "foreign_key_to_a_key_that_goes": (
        (
            'op.zd_create_unique_constraint("u2", "other", ["id"])\nop.zd_drop_constraint("other_pkey", "other")\n'
            'op.zd_create_foreign_key("fk", "keyless", "other", ["k"], ["id"])'
        ),
        "ZD207",
        ["other_pkey"],
    ),
    "exclude_on_rows": (
        'op.zd_create_exclude_constraint("ex", "keyless", ("k", "="), using="btree")',
        "ZD204",
        ["ex", "rows"],
    ),
    "up_for_two_columns": (
        'op.zd_create_unique_constraint("uq", "child", ["m", "n"], up="m")',
        "ZD101",
        ["map column names", "m, n"],
    ),
    "up_of_another_column": (
        'op.zd_create_unique_constraint("uq", "child", ["m"], up={"n": "n"})',
        "ZD101",
        ["'n'"],
    ),
    "up_syntax": ('op.zd_create_unique_constraint("uq", "child", ["m"], up="m +")', "ZD210", ["up="]),
}


@pytest.mark.parametrize("name", BAD)
def test_s09_constraint__bad_revision__refused_before_any_change(name, database, tmp_path):
    upgrade, code, words = BAD[name]
    flight = Flight(Case(name, SETUP, upgrade, "pass"), database, tmp_path / "project")
    before = flight.everything()
    completed = flight.project.run_in_process("upgrade", AFTER, check=False)
    message = completed.stdout + completed.stderr
    assert completed.returncode == 2, message
    for word in [f"[{code}]", "'r2'", "nothing was changed", *words]:
        assert word in message, f"{word!r} is missing in {message}"
    assert_same(flight.everything(), before, "a refused revision changed something")
    with flight.client(BEFORE) as client:
        check_rows(client, {"SELECT k FROM keyless": [(7,), (7,)]}, "after the refusal")


def test_bad_rows__more_than_ten__ten_are_named(database, tmp_path):
    setup = "CREATE TABLE t (id integer PRIMARY KEY, n integer); INSERT INTO t SELECT i FROM generate_series(1, 30) i;"
    case = Case("many", setup, 'op.zd_alter_column("t", "n", nullable=False)', "pass")
    flight = Flight(case, database, tmp_path / "project")
    completed = flight.project.run_in_process("upgrade", AFTER, check=False)
    assert completed.returncode == 2
    assert completed.stdout.count("(id)=(") == 10
    assert ", ..." in completed.stdout


def test_bad_rows__corrected__the_same_revision_works(database, tmp_path):
    case = Case("fixed", SETUP, BAD["foreign_key"][0], "pass")
    flight = Flight(case, database, tmp_path / "project")
    assert flight.project.run_in_process("upgrade", AFTER, check=False).returncode == 2
    database.execute("UPDATE child SET parent_id = 1 WHERE parent_id > 2")
    flight.run("upgrade", AFTER)
    flight.run("zd-complete")
    assert database.fetch("SELECT convalidated FROM pg_constraint WHERE conname = 'fk'") == [(True,)]
    assert_nothing_left(database)


@pytest.mark.parametrize(
    ("upgrade", "word"),
    [
        ('op.zd_alter_column("t", "s", nullable=False)', "NULL in column 's'"),
        ('op.zd_create_check_constraint("ck", "t", "s <> \'b\'")', "(id)=(2)"),
        ('op.zd_create_unique_constraint("uq", "t", ["s"])', "with (a)"),
        ('op.zd_create_foreign_key("fk", "t", "o", ["s"], ["s"])', "(id)=(2)"),
        ('op.zd_create_primary_key("pk", "t", ["s"])', "NULL in column 's'"),
    ],
)
def test_bad_rows__column_of_a_revision_in_flight__found(upgrade, word, database, tmp_path):
    setup = """
        CREATE TABLE t (id integer, n integer); CREATE UNIQUE INDEX t_id ON t (id);
        CREATE TABLE o (s text PRIMARY KEY); INSERT INTO o VALUES ('a');
        INSERT INTO t VALUES (1, 1), (2, 2), (3, NULL), (4, 1);
    """
    first = 'op.zd_alter_column("t", "n", new_column_name="s", type_=sa.Text, up="chr(96 + n)", down="ascii(s) - 96")'
    if "(id)=" in word:
        setup = setup.replace("id integer,", "id integer PRIMARY KEY,", 1)
    flight = Flight(Case("later", setup, first, "pass"), database, tmp_path / "project")
    flight.run("upgrade", AFTER)
    flight.project.revision("r3", AFTER, upgrade)
    before = flight.everything()
    completed = flight.project.run_in_process("upgrade", "r3", check=False)
    assert completed.returncode == 2, completed.stdout
    assert "[ZD213]" in completed.stdout
    assert word in completed.stdout, completed.stdout
    assert_same(flight.everything(), before, "a refused revision changed something")
