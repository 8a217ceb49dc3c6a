"""Errors of the migration side: they are Alembic command errors too."""

from __future__ import annotations

from alembic.util import CommandError

from alembic_zero.errors import ZeroError


class MigrationError(ZeroError, CommandError):
    """A migration command failed; the message says in which state things are."""


class RefusedError(MigrationError):
    """Bad input or an unsafe request: refused before anything was changed."""

    exit_code = 2


class LockTimeoutError(MigrationError):
    """No lock could be had within the budget; the step changed nothing."""


class VerificationError(MigrationError):
    """Rows were found; they are listed on standard output already."""

    printed = True
