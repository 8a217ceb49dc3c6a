"""Counts what an application sends to the database."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

KEPT_ERRORS = 10


class StatementCounter:
    """Counts the statements of an engine by kind, and those that failed.

    :param engine: the engine to listen to, for as long as it lives.
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._statements: Counter[str] = Counter()
        self._failed = 0
        self._worst_ms = 0.0
        self._errors: list[str] = []
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "handle_error", self._failure)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts so far as plain data."""
        with self._lock:
            return {
                "statements": dict(sorted(self._statements.items())),
                "failed": self._failed,
                "worst_ms": self._worst_ms,
                "errors": list(self._errors),
            }

    def _before(self, _connection: Any, _cursor: Any, _sql: str, _args: Any, context: Any, _many: bool) -> None:
        context.example_started = time.perf_counter()

    def _after(self, _connection: Any, _cursor: Any, sql: str, _args: Any, context: Any, _many: bool) -> None:
        elapsed_ms = (time.perf_counter() - context.example_started) * 1000
        kind = sql.split(None, 1)[0].upper()
        with self._lock:
            self._statements[kind] += 1
            self._worst_ms = max(self._worst_ms, elapsed_ms)

    def _failure(self, context: ExceptionContext) -> None:
        with self._lock:
            self._failed += 1
            if len(self._errors) < KEPT_ERRORS:
                self._errors.append(f"{context.original_exception}".strip())
