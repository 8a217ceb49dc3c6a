"""Zero-downtime PostgreSQL migrations for SQLAlchemy and Alembic.

The public names are resolved on first use (PEP 562): an application that imports
``pin_engine`` loads neither Alembic nor the migration side.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic_zero.configuration import configure
    from alembic_zero.errors import PinError, ZeroError
    from alembic_zero.names import version_schema
    from alembic_zero.operations.across import from_table
    from alembic_zero.operations.errors import MigrationError, RefusedError
    from alembic_zero.operations.irreversible import IRREVERSIBLE
    from alembic_zero.runtime.pin import pin_engine

__all__ = [
    "IRREVERSIBLE",
    "MigrationError",
    "PinError",
    "RefusedError",
    "ZeroError",
    "configure",
    "from_table",
    "pin_engine",
    "version_schema",
]

_HOMES = {
    "IRREVERSIBLE": "alembic_zero.operations.irreversible",
    "MigrationError": "alembic_zero.operations.errors",
    "PinError": "alembic_zero.errors",
    "RefusedError": "alembic_zero.operations.errors",
    "ZeroError": "alembic_zero.errors",
    "configure": "alembic_zero.configuration",
    "from_table": "alembic_zero.operations.across",
    "pin_engine": "alembic_zero.runtime.pin",
    "version_schema": "alembic_zero.names",
}


def __getattr__(name: str) -> Any:
    """Return the public *name*, importing its module now."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
