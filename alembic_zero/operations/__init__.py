"""What a revision says: the operations behind ``op.zd_*``. Importing this package registers them."""

from __future__ import annotations

from alembic_zero.operations import dispatch as dispatch
