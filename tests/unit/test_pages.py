"""The reader of runnable examples refuses what it would otherwise skip."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.support.harness import Statement
from tests.support.pages import Fence, PageError, read_examples, read_statements

EXAMPLE = """\
Text.

```sql setup
CREATE TABLE t (id integer);
```

```python upgrade
op.zd_drop_table("t")
```

More text.

```sql old
INSERT INTO t
VALUES (1);
SELECT id FROM t;
-- gives: (1,)
```
"""


def page(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def test_read_examples__two_on_a_page(tmp_path):
    examples = read_examples(page(tmp_path, EXAMPLE + EXAMPLE.replace("python upgrade", "python upgrade", 1)))
    assert [example.line for example in examples] == [3, 21]
    assert examples[0].setup == "CREATE TABLE t (id integer);"
    assert examples[0].upgrade == 'op.zd_drop_table("t")'
    assert examples[0].downgrade == ""
    assert examples[0].statements == [
        Statement("old", "INSERT INTO t\nVALUES (1);"),
        Statement("old", "SELECT id FROM t;", [(1,)]),
    ]


def test_read_examples__code_that_is_only_shown(tmp_path):
    assert read_examples(page(tmp_path, "```text\nx\n```\n~~~console\n$ x\n~~~\n```python\nx = 1\n```\n")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sql\nSELECT 1;\n```", "line 1: a fence with 'sql' is not understood"),
        ("```\nSELECT 1;\n```", "line 1: a fence with '' is not understood"),
        ("```python upgrade\npass\n```", "line 1: 'python upgrade' without 'sql setup' before it"),
        ("```sql setup\n```\n\n```sql new\nSELECT 1;\n```", "line 4: 'sql new' after 'sql setup'"),
        (EXAMPLE + "```python downgrade\npass\n```", "'python downgrade' after 'sql old'"),
        ("```sql setup\n```", "line 1: an example needs"),
        (EXAMPLE.replace("-- gives: (1,)", ""), "line 3: an example needs"),
        (EXAMPLE.replace("-- gives: (1,)", "-- given: (1,)"), "line 13: '-- given: (1,)' is neither"),
        (EXAMPLE.replace("(1,)", "(1)"), "each row must be a tuple"),
        (EXAMPLE.replace("(1,)", "(x,)"), "name 'x' is not defined"),
        (EXAMPLE.replace("FROM t;", "FROM t"), "a statement without ';'"),
        (EXAMPLE.removesuffix("```\n"), "line 13: a fence that is not closed"),
    ],
)
def test_read_examples__not_understood__says_where(tmp_path, text, message):
    with pytest.raises(PageError) as raised:
        read_examples(page(tmp_path, text))
    assert message in str(raised.value)
    assert str(raised.value).startswith("page.md, ")


def test_read_examples__python_that_is_only_shown_must_compile(tmp_path):
    with pytest.raises(SyntaxError):
        read_examples(page(tmp_path, "```python\nx =\n```"))


def test_read_statements__what_must_come_back():
    text = """\
        -- a comment before a statement belongs to it
        SELECT 1;
        -- gives: (1, 'a'),
        --        (Decimal("2.5"), None)
        DELETE FROM t;

        SELECT 2;
        -- gives: nothing
        INSERT INTO t VALUES (1);
        -- fails: 23505"""
    first, second, third, fourth = read_statements(Fence("sql new", text, 1))
    assert first.action.split("\n")[1].strip() == "SELECT 1;"
    assert first.rows == [(1, "a"), (Decimal("2.5"), None)]
    assert (second.rows, second.error) == (None, None)
    assert third.rows == []
    assert fourth == Statement("new", "        INSERT INTO t VALUES (1);", error="23505")
