"""Alembic's environment; the calls of ``alembic_zero.configure`` are all that differs from the template."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool

import alembic_zero
from example_project.database import url_from_environment
from example_project.release2.models import Base

target_metadata = Base.metadata


def run_migrations_offline() -> None:
    """Print the migration as a script."""
    alembic_zero.configure(
        context,
        url=url_from_environment(),
        target_metadata=target_metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Run the migration on the database."""
    engine = create_engine(url_from_environment(), poolclass=pool.NullPool)
    with engine.connect() as connection:
        alembic_zero.configure(context, connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
