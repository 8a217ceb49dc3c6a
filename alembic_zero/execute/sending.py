"""Send finished SQL text: the drivers must not look for parameters in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from sqlalchemy.engine import Connection


def send(connection: Connection, text: str) -> Any:
    """Execute *text* character by character as it is, and return the cursor result.

    A percent sign in an identifier or a user's expression is not a placeholder.
    """
    return connection.exec_driver_sql(text, execution_options={"no_parameters": True})


def send_all(connection: Connection, statements: Sequence[str]) -> None:
    """Execute statements in one round trip: what is locked meanwhile does not wait for the network."""
    driver_connection: Any = connection.connection.driver_connection
    threshold, driver_connection.prepare_threshold = driver_connection.prepare_threshold, None
    try:
        # On a line of its own, as a statement may end in a comment.
        send(connection, "\n;\n".join(statements))
    finally:
        # The driver would prepare a text that comes often, and several statements cannot be.
        driver_connection.prepare_threshold = threshold


def send_single(connection: Connection, text: str) -> None:
    """Execute *text*, which must be one statement; the server refuses a second one after a semicolon.

    By the extended query protocol, whose Parse message takes a single statement (PostgreSQL manual,
    Message Flow).
    """
    driver_connection: Any = connection.connection.driver_connection
    driver_connection.execute(text, prepare=True)


def describe_error(error: DBAPIError | psycopg.Error) -> str:
    """Return what the server said, with its detail, in one line for a person."""
    original = error.orig if isinstance(error, DBAPIError) else error
    diagnostics = getattr(original, "diag", None)
    message = getattr(diagnostics, "message_primary", None) or str(original)
    detail = getattr(diagnostics, "message_detail", None)
    return f"{message} ({detail})" if detail else str(message)
