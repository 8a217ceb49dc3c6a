"""The value of ``down=`` that says: there is no way back."""

from __future__ import annotations

from typing import final


@final
class Irreversible:
    """Type of :data:`IRREVERSIBLE`, of which there is one instance, also after a copy or a pickle."""

    _instance: Irreversible | None = None

    def __new__(cls) -> Irreversible:
        """Return the one instance."""
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "alembic_zero.IRREVERSIBLE"

    def __reduce__(self) -> tuple[type[Irreversible], tuple[()]]:
        return (Irreversible, ())


IRREVERSIBLE = Irreversible()
