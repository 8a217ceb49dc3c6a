"""Our operations in revision files that Alembic writes: one renderer for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

# This module is imported during "import alembic", when the package's own "renderers" is not there yet.
from alembic.autogenerate.render import renderers

from alembic_zero.operations.base import ZdOperation

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext


def register() -> None:
    """Make Alembic render every operation of ours, those to come included. Safe to repeat."""
    # The dispatcher goes by the classes that an operation derives from.
    renderers.dispatch_for(ZdOperation, replace=True)(render)


def render(context: AutogenContext, operation: ZdOperation) -> str:
    """Return the call of *operation*; what its text needs to be imported is added to the context."""
    from alembic_zero.operations.rendering import Writer

    return Writer(context).call(operation)
