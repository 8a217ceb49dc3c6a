"""The stored form of what revisions ask for: the text of each call, kept by the journal."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from alembic_zero.operations.rendering import render_line
from alembic_zero.plain import PlainData
from alembic_zero.plan.items import Ordinary, describe_operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alembic_zero.operations.base import ZdOperation
    from alembic_zero.plan.items import Item

_SHOWN_CHANGES = 4
_SHOWN_CHARACTERS = 160
_CONTEXT_CHARACTERS = 60


@dataclass(frozen=True)
class StoredOperation(PlainData):
    """One call of a revision, on one line; :func:`~alembic_zero.operations.reading.read_operations` reads it back.

    What cannot be written as a call is a comment.
    """

    revision: str
    call: str


def store_operations(items: Sequence[Item]) -> tuple[StoredOperation, ...]:
    """Return the stored form of *items*; statements that one call stands for are that call."""
    stored = []
    cause: ZdOperation | None = None
    for item in items:
        if item.cause is None or item.cause is not cause:
            stored.append(StoredOperation(item.revision, _call(item)))
        cause = item.cause
    return tuple(stored)


def _call(item: Item) -> str:
    operation = item.cause or item.operation
    if isinstance(operation, Ordinary):
        return f"op.execute({operation.text!r})"
    try:
        return render_line(operation)
    except Exception:  # noqa: BLE001 - a type of the user's, or render_item, may raise anything: the call is for people
        return f"# {describe_operation(operation)}"


def describe_edit(before: Sequence[StoredOperation], now: Sequence[StoredOperation]) -> str:
    """Return in words which calls differ; an empty text if nothing was stored."""
    if not before:
        return ""
    changes = list(_changes(*([s.call for s in sorted(calls, key=lambda s: s.revision)] for calls in (before, now))))
    if not changes:
        return "the calls read the same, but the SQL that they stand for is another one"
    shown = "; ".join(changes[:_SHOWN_CHANGES])
    more = len(changes) - _SHOWN_CHANGES
    return shown + (f"; and {more} more" if more > 0 else "")


def _changes(before: list[str], now: list[str]) -> Iterator[str]:
    matcher = SequenceMatcher(None, before, now, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        gone, come = before[i1:i2], now[j1:j2]
        pairs = min(len(gone), len(come))
        for one, other in zip(gone, come, strict=False):
            was, is_now = _around_difference(one, other)
            yield f"was {was}, is now {is_now}"
        yield from (f"no longer {_cut(call)}" for call in gone[pairs:])
        yield from (f"new is {_cut(call)}" for call in come[pairs:])


def _around_difference(one: str, other: str) -> tuple[str, str]:
    """Return both calls, cut to where they differ if they are long."""
    start = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return _cut(one, start), _cut(other, start)


def _cut(call: str, start: int = 0) -> str:
    if len(call) <= _SHOWN_CHARACTERS:
        return call
    begin = max(0, min(start - _CONTEXT_CHARACTERS, len(call) - _SHOWN_CHARACTERS))
    end = begin + _SHOWN_CHARACTERS
    head = f"{call.partition('(')[0]}(..." if begin else ""
    return f"{head}{call[begin:end]}{'...' if end < len(call) else ''}"
