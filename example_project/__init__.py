"""A small web application in two releases, migrated by alembic_zero while it serves requests."""
