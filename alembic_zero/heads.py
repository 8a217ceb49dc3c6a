"""Versions by name: a version is the set of heads that alembic_version holds, and ``a2+b2`` is its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alembic.runtime.migration import HeadMaintainer

from alembic_zero.names import base_revision
from alembic_zero.operations.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

# No revision id may contain it.
_SEPARATOR = "+"


def version_name(heads: Iterable[str]) -> str:
    """Return the name of the version that a set of heads makes."""
    return _SEPARATOR.join(sorted(heads)) or base_revision


def parts_of(version: str) -> tuple[str, ...]:
    """Return the heads that make the version called *version*."""
    return tuple(version.split(_SEPARATOR)) if version != base_revision else ()


class _Foreseen(HeadMaintainer):
    """Alembic's own account of the heads, without the database: merges and ``depends_on`` are its business."""

    def _insert_version(self, version: str) -> None:
        self.heads.add(version)

    def _delete_version(self, version: str) -> None:
        self.heads.remove(version)

    def _update_version(self, from_: str, to_: str) -> None:
        self.heads.remove(from_)
        self.heads.add(to_)


def heads_after(context: MigrationContext, heads: Iterable[str], steps: Iterable[Any]) -> tuple[str, ...]:
    """Return what alembic_version will hold when *steps* have run."""
    foreseen = _Foreseen(context, heads)
    for step in steps:
        foreseen.update_to_step(step)
    return tuple(sorted(foreseen.heads))


def newest_version(context: MigrationContext, script: ScriptDirectory) -> str:
    """Return the name of the version that ``alembic upgrade heads`` leads to."""
    steps: Any = script._upgrade_revs("heads", None)  # type: ignore[arg-type]  # noqa: SLF001 - as Alembic's own command
    return version_name(heads_after(context, (), steps))


def steps_to(context: MigrationContext, heads: tuple[str, ...], version: str, command: str) -> list[Any]:
    """Return the steps to a version of several heads, which Alembic's own argument cannot name.

    :param command: ``upgrade`` or ``downgrade``.
    :raises RefusedError: code ZD259, that command does not lead there.
    """
    script: Any = context.script
    choose = script._upgrade_revs if command == "upgrade" else script._downgrade_revs  # noqa: SLF001
    now: tuple[str, ...] = heads
    steps: list[Any] = []
    for revision in parts_of(version):
        if revision not in now:
            more: Sequence[Any] = choose(revision, now)
            now = heads_after(context, now, more)
            steps += more
    if version_name(now) != version:
        raise RefusedError(
            f"alembic {command} {version}: from {version_name(heads)!r} this command leads to {version_name(now)!r}; "
            "nothing was changed",
            code="ZD259",
            revision=version,
            next_command="alembic zd-status",
        )
    return steps
