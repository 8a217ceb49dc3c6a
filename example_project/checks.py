"""Questions to the database, asked past the applications."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, text

from alembic_zero import version_schema

from .article import AUTHORS, Article, full_name
from .database import REVISION_1, REVISION_2

FINAL_COLUMNS = {
    "id": "bigint not null",
    "heading": "text not null",
    "body": "text not null",
    "author_first_name": "text not null",
    "author_last_name": "text not null",
    "views": "bigint not null",
    "created_at": "timestamp with time zone not null",
}

INSERT_ARTICLES = """
INSERT INTO public.articles (title, body, author, views)
SELECT 'Article ' || number,
       repeat(md5(number::text) || ' ', 6) || number,
       (%(authors)s::text[])[1 + mod(number, cardinality(%(authors)s::text[]))],
       mod(number, 1000)
FROM generate_series(1, %(rows)s::integer) AS number
"""

# Both views read the same snapshot of the same rows, so this may run while clients write.
COMPARE_VERSIONS = """
SELECT count(*) AS rows,
       count(*) FILTER (
           WHERE before.title = after.heading
             AND before.body = after.body
             AND before.author = rtrim(after.author_first_name || ' ' || after.author_last_name)
             AND before.views = after.views
             AND before.created_at = after.created_at
       ) AS agreeing
FROM {before}.articles AS before
FULL JOIN {after}.articles AS after USING (id)
"""

COLUMNS = """
SELECT column_name,
       data_type || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = 'articles'
ORDER BY ordinal_position
"""

INDEXES = """
SELECT indexdef
FROM pg_catalog.pg_indexes
WHERE schemaname = 'public' AND tablename = 'articles'
ORDER BY indexname
"""

LEFT_BEHIND = """
SELECT 'trigger ' || tgname FROM pg_catalog.pg_trigger
WHERE tgrelid = 'public.articles'::regclass AND NOT tgisinternal
UNION ALL
SELECT 'column ' || attname FROM pg_catalog.pg_attribute
WHERE attrelid = 'public.articles'::regclass AND attname ~ '_zd' AND NOT attisdropped
UNION ALL
SELECT 'constraint ' || conname FROM pg_catalog.pg_constraint
WHERE conrelid = 'public.articles'::regclass AND conname ~ '_zd'
UNION ALL
SELECT 'relation ' || relname FROM pg_catalog.pg_class
WHERE relnamespace = 'public'::regnamespace AND relname ~ '_zd'
UNION ALL
SELECT 'function ' || proname FROM pg_catalog.pg_proc
WHERE pronamespace = 'public'::regnamespace AND proname ~ '_zd'
ORDER BY 1
"""


@dataclass(frozen=True)
class Agreement:
    """How many articles there are, and for how many both versions say the same."""

    rows: int
    agreeing: int


@dataclass(frozen=True)
class FinalSchema:
    """The table as the migration left it."""

    columns: dict[str, str]
    indexes: list[str]
    left_behind: list[str]


def load_articles(engine: Engine, rows: int) -> None:
    """Fill the empty table with *rows* articles in one statement."""
    authors = [full_name(first, last) for first, last in AUTHORS]
    with engine.begin() as connection:
        connection.exec_driver_sql(INSERT_ARTICLES, {"authors": authors, "rows": rows})
        connection.exec_driver_sql("ANALYZE public.articles")


def read_agreement(engine: Engine) -> Agreement:
    """Compare every article as release 1 sees it with the same article as release 2 sees it."""
    # The names of version schemas never need quoting.
    statement = COMPARE_VERSIONS.format(before=version_schema(REVISION_1), after=version_schema(REVISION_2))
    with engine.connect() as connection:
        row = connection.exec_driver_sql(statement).one()
    return Agreement(row.rows, row.agreeing)


def count_articles(engine: Engine) -> int:
    """Return how many articles there are."""
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM public.articles").scalar_one())


def read_views(engine: Engine) -> int:
    """Return how often all articles together have been read."""
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT sum(views) FROM public.articles").scalar_one())


def read_final_articles(engine: Engine, ids: list[int]) -> dict[int, Article]:
    """Return the articles with these *ids* from the table that release 2 has left."""
    statement = text(
        "SELECT id, heading, body, author_first_name, author_last_name FROM public.articles WHERE id = ANY(:ids)"
    )
    with engine.connect() as connection:
        return {row[0]: Article(*row[1:]) for row in connection.execute(statement, {"ids": ids})}


def read_final_schema(engine: Engine) -> FinalSchema:
    """Return the columns and indexes of the table, and what should no longer be there."""
    with engine.connect() as connection:
        return FinalSchema(
            {row[0]: row[1] for row in connection.exec_driver_sql(COLUMNS)},
            list(connection.exec_driver_sql(INDEXES).scalars()),
            list(connection.exec_driver_sql(LEFT_BEHIND).scalars()),
        )
