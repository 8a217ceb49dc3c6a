"""Runnable examples in the pages of the documentation: read them, and nothing that is not understood.

An example is a sequence of fenced blocks, told by their info strings, in this order:
``sql setup``, ``python upgrade``, optionally ``python downgrade``, then any number of ``sql old``
and ``sql new``. Every ``sql setup`` begins another example.

In a client's block each statement ends with a line that ends with ``;``. Lines after it that begin
with ``--`` say what must come back: ``-- gives: (1, 'a'), (2, 'b')`` its rows, in order, as Python
tuples (``-- gives: nothing`` for none; it may go on on further ``--`` lines), ``-- fails: 23505``
the SQLSTATE.
"""

from __future__ import annotations

import datetime as dt
import re
import textwrap
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.support.harness import Statement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Shown, not run: a terminal's text, and code of the application or env.py, which is compiled at least.
_SHOWN = ("text", "console", "python")
_EXECUTED = ("sql setup", "python upgrade", "python downgrade", "sql old", "sql new")
_ORDER = {"sql setup": ("python upgrade",), "python upgrade": ("python downgrade", "sql old", "sql new"),
          "python downgrade": ("sql old", "sql new"), "sql old": ("sql old", "sql new"),
          "sql new": ("sql old", "sql new")}  # fmt: skip

_NAMES: dict[str, Any] = {"Decimal": Decimal, "UUID": UUID, "date": dt.date, "datetime": dt.datetime,
                          "time": dt.time, "timedelta": dt.timedelta, "UTC": dt.UTC}  # fmt: skip
_REMARK = re.compile(r"--\s*(gives|fails):\s*(.*)", re.DOTALL)


class PageError(ValueError):
    """A page says something that its reader does not understand."""


@dataclass(frozen=True)
class Fence:
    """One fenced block: its info string, its text, the line on which it begins."""

    info: str
    text: str
    line: int


@dataclass(frozen=True)
class Example:
    """One runnable example; *line* is where its setup begins."""

    line: int
    setup: str
    upgrade: str
    downgrade: str
    statements: Sequence[Statement]


def read_examples(path: Path) -> list[Example]:
    """Return the examples of a page.

    :raises PageError: a fence, or the order of fences, is not understood.
    """
    try:
        return list(_examples(list(read_fences(path.read_text(encoding="utf-8")))))
    except PageError as error:
        raise PageError(f"{path.name}, {error}") from error


def read_fences(text: str) -> Iterator[Fence]:
    """Yield every fenced block of *text*.

    :raises PageError: one is not closed.
    """
    opened: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None:
            opened = re.match(r"\s*(`{3,}|~{3,})\s*(.*?)\s*$", line)
            start, lines = number, []
        elif re.match(rf"\s*{opened[1]}\s*$", line):
            yield Fence(opened[2], textwrap.dedent("\n".join(lines)), start)
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        raise PageError(f"line {start}: a fence that is not closed")


def _examples(fences: Sequence[Fence]) -> Iterator[Example]:
    """Yield an example for each run of fences that begins with a setup."""
    runs: list[list[Fence]] = []
    for fence in fences:
        if fence.info in _SHOWN:
            if fence.info == "python":
                compile(fence.text, f"line {fence.line}", "exec")
            continue
        if fence.info not in _EXECUTED:
            known = ", ".join(map(repr, (*_EXECUTED, *_SHOWN)))
            raise PageError(f"line {fence.line}: a fence with {fence.info!r} is not understood; known are {known}")
        if fence.info == "sql setup":
            runs.append([fence])
            continue
        if not runs or fence.info not in _ORDER[runs[-1][-1].info]:
            after = f"after {runs[-1][-1].info!r}" if runs else "without 'sql setup' before it"
            raise PageError(f"line {fence.line}: {fence.info!r} {after}")
        runs[-1].append(fence)
    yield from (_example(run) for run in runs)


def _example(run: Sequence[Fence]) -> Example:
    texts = {fence.info: fence.text for fence in run}
    statements = [s for fence in run if fence.info in ("sql old", "sql new") for s in read_statements(fence)]
    if "python upgrade" not in texts or not any(s.rows is not None for s in statements):
        raise PageError(f"line {run[0].line}: an example needs 'python upgrade' and a query with '-- gives:'")
    return Example(
        run[0].line, texts["sql setup"], texts["python upgrade"], texts.get("python downgrade", ""), statements
    )


def read_statements(fence: Fence) -> Iterator[Statement]:
    """Yield the statements of a client's block, with what each must give.

    :raises PageError: text that is no statement, or a remark that is none.
    """
    client: Any = fence.info.removeprefix("sql ")
    text, remark = list[str](), list[str]()
    complete: str | None = None
    for line in [*fence.text.splitlines(), ""]:
        stripped = line.strip()
        if complete is not None and stripped.startswith("--"):
            remark.append(stripped)
            continue
        if complete is not None:
            yield _statement(client, complete, remark, fence.line)
            complete, remark = None, []
        if stripped:
            text.append(line)
        if stripped.endswith(";"):
            complete, text = "\n".join(text), []
    if complete is not None:
        yield _statement(client, complete, remark, fence.line)
    if text:
        raise PageError(f"line {fence.line}: a statement without ';' at its end: {text[0].strip()!r}")


def _statement(client: Any, text: str, remark: Sequence[str], line: int) -> Statement:
    if not remark:
        return Statement(client, text)
    joined = " ".join([remark[0], *(part.removeprefix("--").strip() for part in remark[1:])])
    found = _REMARK.fullmatch(joined)
    if found is None:
        raise PageError(f"line {line}: {joined!r} is neither '-- gives:' nor '-- fails:'")
    kind, value = found[1], found[2].strip()
    if kind == "fails":
        return Statement(client, text, error=value)
    try:
        rows = [] if value == "nothing" else eval(f"[{value}]", {"__builtins__": {}}, _NAMES)
    except Exception as error:
        raise PageError(f"line {line}: {joined!r}: {error}") from error
    if not all(isinstance(row, tuple) for row in rows):
        raise PageError(f"line {line}: {joined!r}: each row must be a tuple")
    return Statement(client, text, rows)
