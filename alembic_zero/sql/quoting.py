"""Identifiers and literals, quoted once and for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.sql import Literal
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from collections.abc import Iterable

# The named style leaves "%" alone; drivers' own styles double it for text that has parameters, ours has none.
_PREPARER = postgresql.dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]


def ident(*names: str) -> str:
    """Return the dotted identifier, every part quoted."""
    return ".".join(_PREPARER.quote_identifier(name) for name in names)


def idents(names: Iterable[str]) -> str:
    """Return a comma-separated list of quoted names."""
    return ", ".join(ident(name) for name in names)


def literal(value: object) -> str:
    """Return the SQL literal of a Python value, quoted by the driver."""
    return Literal(value).as_string(None).lstrip()


def grantee(role: str | None) -> str:
    """Return the role as GRANT wants it; None is PUBLIC."""
    return "PUBLIC" if role is None else ident(role)


def dollar_quoted(body: str) -> str:
    """Return *body* as a dollar-quoted string whose tag it does not contain."""
    tag = "$zd$"
    while tag in body:
        tag = f"${tag.strip('$')}_$"
    return f"{tag}{body}{tag}"
