"""Base error of the whole package, importable without Alembic or a driver."""

from __future__ import annotations

#: Key in the ``attributes`` of Alembic's Config: what to run again if a stock command of ours loses the database.
NEXT_COMMAND = "alembic_zero.next_command"


class ZeroError(Exception):
    """Base of every error raised by alembic_zero.

    :param message: one line for a person in an incident.
    :param code: stable code such as ``"ZD201"``; ``docs/errors.md`` has a section for each.
    :param revision: revision concerned, if any.
    :param table: qualified table concerned, if any.
    :param next_command: the command to run next, if there is one.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        code: str,
        revision: str | None = None,
        table: str | None = None,
        next_command: str | None = None,
    ) -> None:
        self.code = code
        self.revision = revision
        self.table = table
        self.next_command = next_command
        self.message = message
        text = f"[{code}] {message}"
        super().__init__(f"{text}; next: {next_command}" if next_command else text)


class PinError(ZeroError):
    """An engine cannot be pinned, or a connection does not reach its version schema."""
