"""title becomes heading, author becomes two names, views outgrows integer

Revision ID: 0002_heading
Revises: 0001_articles
"""

import sqlalchemy as sa

from alembic_zero import op

revision = "0002_heading"
down_revision = "0001_articles"
branch_labels = None
depends_on = None

FIRST_NAME = "split_part(author, ' ', 1)"
LAST_NAME = "substr(author, length(split_part(author, ' ', 1)) + 2)"
AUTHOR = "rtrim(author_first_name || ' ' || author_last_name)"


def upgrade() -> None:
    op.zd_alter_column("articles", "title", new_column_name="heading")
    op.zd_add_column("articles", sa.Column("author_first_name", sa.Text, nullable=False), up=FIRST_NAME)
    op.zd_add_column("articles", sa.Column("author_last_name", sa.Text, nullable=False), up=LAST_NAME)
    op.zd_drop_column("articles", "author", down=AUTHOR)
    op.zd_alter_column(
        "articles",
        "views",
        existing_type=sa.Integer(),
        type_=sa.BigInteger(),
        up="views::bigint",
        down="views::integer",
    )


def downgrade() -> None:
    op.zd_alter_column(
        "articles",
        "views",
        existing_type=sa.BigInteger(),
        type_=sa.Integer(),
        up="views::integer",
        down="views::bigint",
    )
    op.zd_add_column("articles", sa.Column("author", sa.Text, nullable=False), up=AUTHOR)
    op.zd_drop_column("articles", "author_last_name", down=LAST_NAME)
    op.zd_drop_column("articles", "author_first_name", down=FIRST_NAME)
    op.zd_alter_column("articles", "heading", new_column_name="title")
