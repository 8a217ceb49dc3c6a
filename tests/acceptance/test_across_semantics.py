"""Across tables, row by row of the table in CATALOGUE section 3: a column's value, and rows of a new table."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.harness import OUTCOMES, Case, new, old, outcome_id, outcomes_of

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from tests.support.server import Database

pytestmark = pytest.mark.one_server


_ODD = r" %s %(x)s 100% 'it's' :y -- no \ $1"

# -- a column's value ---------------------------------------------------------------------------------

COLUMN = Case(
    "column_follows_the_first_of_several_matches",
    setup="""
        CREATE TABLE prices (region text, item integer, price numeric(8, 2), active boolean NOT NULL DEFAULT true,
            note text, PRIMARY KEY (region, item));
        CREATE TABLE orders (id integer PRIMARY KEY, item integer, qty integer NOT NULL DEFAULT 1);
        INSERT INTO prices VALUES ('b', 1, 20, true), ('a', 1, 10, true), ('c', 2, 5, true), ('a', 3, 7, false);
        INSERT INTO orders VALUES (1, 1), (2, 2), (3, 3), (4, NULL), (5, 9);
    """,
    upgrade="""
        op.zd_add_column("orders", sa.Column("price", sa.Numeric(8, 2), server_default="0"),
            up=alembic_zero.from_table("prices", "price", where="orders.item = prices.item AND prices.active"))
    """,
    plain="""op.add_column("orders", sa.Column("price", sa.Numeric(8, 2), server_default="0"))""",
    downgrade="""op.zd_drop_column("orders", "price", down=alembic_zero.from_table("prices", "price",
        where="orders.item = prices.item AND prices.active"))""",
    writes=[
        new("SELECT id, price FROM orders ORDER BY id", [(1, 10), (2, 5), (3, 0), (4, 0), (5, 0)]),
        # The first match goes, by DELETE: the one that is left counts.
        old("DELETE FROM prices WHERE region = 'a' AND item = 1"),
        new("SELECT price FROM orders WHERE id = 1", [(20,)]),
        # The condition becomes true, then false.
        old("UPDATE prices SET active = true WHERE item = 3"),
        old("UPDATE prices SET active = false WHERE item = 2"),
        new("SELECT id, price FROM orders WHERE id IN (2, 3) ORDER BY id", [(2, 0), (3, 7)]),
        # What nobody meant to change stays.
        new("UPDATE orders SET price = 99 WHERE id = 1 RETURNING price", [(99,)]),
        old("UPDATE prices SET note = 'x'"),
        old("UPDATE orders SET qty = 3 WHERE id = 1"),
        new("UPDATE orders SET qty = 4 WHERE id = 1"),
        new("SELECT price FROM orders WHERE id = 1", [(99,)]),
        old("UPDATE prices SET price = 21 WHERE item = 1"),
        new("SELECT price FROM orders WHERE id = 1", [(21,)]),
        # A match with a lower key arrives, and moves on to another row.
        old("INSERT INTO prices VALUES ('0', 1, 1)"),
        new("SELECT price FROM orders WHERE id = 1", [(1,)]),
        old("UPDATE prices SET item = 9 WHERE region = '0'"),
        new("SELECT id, price FROM orders WHERE id IN (1, 5) ORDER BY id", [(1, 21), (5, 1)]),
        # The target's side.
        old("INSERT INTO orders VALUES (6, 9)"),
        new("INSERT INTO orders (id, item, price) VALUES (7, 9, 77) RETURNING price", [(77,)]),
        new("INSERT INTO orders (id, item) VALUES (8, 9) RETURNING price", [(0,)]),
        old("INSERT INTO public.orders VALUES (9, 9)"),
        new("SELECT id, price FROM orders WHERE id IN (6, 9) ORDER BY id", [(6, 1), (9, 1)]),
        old("UPDATE orders SET item = 1 WHERE id = 6"),
        new("SELECT price FROM orders WHERE id = 6", [(21,)]),
        old("UPDATE orders SET item = NULL WHERE id = 6"),
        new("SELECT price FROM orders WHERE id = 6", [(0,)]),
        # Upserts on the source and on the target, several rows at once.
        old("INSERT INTO prices VALUES ('c', 2, 6) ON CONFLICT DO NOTHING"),
        new("SELECT price FROM orders WHERE id = 2", [(0,)]),
        old("INSERT INTO prices VALUES ('c', 2, 6) ON CONFLICT (region, item)"
            " DO UPDATE SET price = excluded.price, active = true"),
        new("SELECT price FROM orders WHERE id = 2", [(6,)]),
        old("INSERT INTO prices VALUES ('d', 4, 40), ('d', 5, 50)"),
        old("INSERT INTO orders SELECT 16 + n, n FROM pg_catalog.generate_series(4, 5) AS n"),
        old("INSERT INTO orders VALUES (20, 5), (2, 5) ON CONFLICT (id) DO UPDATE SET item = excluded.item"),
        old("INSERT INTO orders VALUES (20, 4) ON CONFLICT DO NOTHING"),
        new("SELECT id, price FROM orders WHERE id IN (2, 20, 21) ORDER BY id", [(2, 50), (20, 50), (21, 50)]),
        new("INSERT INTO orders (id, item, price) VALUES (21, 5, 51) ON CONFLICT (id)"
            " DO UPDATE SET price = excluded.price RETURNING price", [(51,)]),
        old("DELETE FROM prices WHERE item IN (1, 4)"),
        old("DELETE FROM orders WHERE id IN (7, 8)"),
    ],
    old={
        "SELECT id, item, qty FROM orders": [
            (1, 1, 4), (2, 5, 1), (3, 3, 1), (4, None, 1), (5, 9, 1), (6, None, 1), (9, 9, 1), (20, 5, 1), (21, 5, 1),
        ],
        "SELECT region, item, price, note FROM prices": [
            ("0", 9, 1, None), ("c", 2, 6, "x"), ("a", 3, 7, "x"), ("d", 5, 50, None),
        ],
    },
    new={
        "SELECT id, price FROM orders": [
            (1, 0), (2, 50), (3, 7), (4, 0), (5, 1), (6, 0), (9, 1), (20, 50), (21, 51),
        ],
    },
)  # fmt: skip

# -- rows ---------------------------------------------------------------------------------------------

ROWS = Case(
    "rows_move_vanish_and_come_back",
    setup="""
        CREATE TABLE members (id integer PRIMARY KEY, team integer, person integer, role text, note text);
        INSERT INTO members VALUES (1, 1, 1, 'a'), (2, 1, 2, 'b'), (3, 2, 1, 'c'), (4, NULL, 1, 'd'), (5, 5, 5, NULL);
    """,
    upgrade="""
        op.zd_create_table("seats",
            sa.Column("person", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("team", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("role", sa.Text, nullable=False), sa.Column("double", sa.Integer),
            sa.Column("since", sa.Date, nullable=False, server_default="2020-01-01"),
            up=alembic_zero.from_table("members",
                {"team": "team", "person": "person", "role": "upper(role)", "double": "team * 2"},
                where="members.role IS NOT NULL AND seats.team > 0"))
    """,
    plain="""
        op.create_table("seats",
            sa.Column("person", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("team", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("role", sa.Text, nullable=False), sa.Column("double", sa.Integer),
            sa.Column("since", sa.Date, nullable=False, server_default="2020-01-01"))
    """,
    downgrade="""op.zd_drop_table("seats")""",
    writes=[
        new("SELECT team, person, role, double FROM seats ORDER BY 1, 2", [
            (1, 1, "A", 2), (1, 2, "B", 2), (2, 1, "C", 4)]),
        # Only what follows from a changed column changes.
        new("UPDATE seats SET role = 'Mine', since = '2024-01-01' WHERE team = 1 AND person = 1"),
        old("UPDATE members SET note = 'x'"),
        old("UPDATE members SET team = 7 WHERE id = 1"),
        new("SELECT role, double, since::text FROM seats WHERE team = 7 AND person = 1", [("Mine", 14, "2024-01-01")]),
        new("SELECT team FROM seats WHERE person = 1 ORDER BY 1", [(2,), (7,)]),
        # Onto a place that is taken by a row of a new client.
        new("INSERT INTO seats (team, person, role) VALUES (8, 1, 'NEW')"),
        old("UPDATE members SET team = 8, role = 'z' WHERE id = 1"),
        new("SELECT team, role, double FROM seats WHERE person = 1 ORDER BY 1", [(2, "C", 4), (8, "Z", 16)]),
        # NULL in the key, before and after.
        old("UPDATE members SET team = 4 WHERE id = 4"),
        new("SELECT role FROM seats WHERE team = 4", [("D",)]),
        old("UPDATE members SET team = NULL WHERE id = 4"),
        new("SELECT role FROM seats WHERE team = 4", []),
        old("UPDATE members SET person = 4 WHERE id = 4"),
        # The condition becomes true and false: of a column, and of what has been mapped.
        old("UPDATE members SET role = 'e' WHERE id = 5"),
        new("SELECT role FROM seats WHERE team = 5", [("E",)]),
        old("UPDATE members SET team = -5 WHERE id = 5"),
        new("SELECT count(*) FROM seats WHERE person = 5", [(0,)]),
        old("UPDATE members SET team = 5 WHERE id = 5"),
        old("UPDATE members SET role = NULL WHERE id = 5"),
        new("SELECT count(*) FROM seats WHERE person = 5", [(0,)]),
        old("UPDATE members SET role = 'back' WHERE id = 5"),
        # Several rows: a swap, a shift along a chain, DELETE.
        old("INSERT INTO members SELECT 20 + n, 20, n, 'n' || n FROM pg_catalog.generate_series(1, 4) AS n"),
        new("SELECT person, role FROM seats WHERE team = 20 ORDER BY 1", [
            (1, "N1"), (2, "N2"), (3, "N3"), (4, "N4")]),
        old("DELETE FROM members WHERE id IN (23, 24)"),
        new("SELECT person, role FROM seats WHERE team = 20 ORDER BY 1", [(1, "N1"), (2, "N2")]),
        new("DELETE FROM seats WHERE team = 20 AND person = 1"),
        old("UPDATE members SET note = 'y' WHERE id = 21"),
        new("SELECT person FROM seats WHERE team = 20", [(2,)]),
        old("UPDATE members SET role = 'again' WHERE id = 21"),
        new("SELECT person, role FROM seats WHERE team = 20 ORDER BY 1", [(1, "AGAIN"), (2, "N2")]),
        # Upserts on either side.
        old("INSERT INTO members VALUES (22, 21, 2, 'up') ON CONFLICT (id)"
            " DO UPDATE SET team = excluded.team, role = excluded.role"),
        new("SELECT team, role FROM seats WHERE person = 2 ORDER BY 1", [(1, "B"), (21, "UP")]),
        new("INSERT INTO seats (team, person, role) VALUES (21, 2, 'no') ON CONFLICT DO NOTHING"),
        new("INSERT INTO seats (team, person, role) VALUES (21, 2, 'no') ON CONFLICT (person, team)"
            " DO UPDATE SET role = seats.role || excluded.role RETURNING role", [("UPno",)]),
        old("INSERT INTO public.members VALUES (30, 30, 30, 'base')"),
        old("UPDATE public.members SET role = 'table' WHERE id = 30"),
    ],
    old={"SELECT id, team, person, role FROM members": [
        (1, 8, 1, "z"), (2, 1, 2, "b"), (3, 2, 1, "c"), (4, None, 4, "d"), (5, 5, 5, "back"), (21, 20, 1, "again"),
        (22, 21, 2, "up"), (30, 30, 30, "table"),
    ]},
    new={"SELECT team, person, role, double FROM seats": [
        (8, 1, "Z", 16), (1, 2, "B", 2), (2, 1, "C", 4), (5, 5, "BACK", 10), (20, 1, "AGAIN", 40),
        (21, 2, "UPno", 42), (30, 30, "TABLE", 60),
    ]},
)  # fmt: skip

MANY = Case(
    "several_rows_make_one",
    setup="""
        CREATE TABLE parts (id integer PRIMARY KEY, color text, shade text);
        INSERT INTO parts VALUES (3, 'red', 'c'), (1, 'red', 'a'), (2, 'red', 'b'), (4, 'blue', 'd'), (5, NULL, 'e');
    """,
    upgrade="""
        op.zd_create_table("colors", sa.Column("name", sa.Text, primary_key=True), sa.Column("shade", sa.Text),
            up=alembic_zero.from_table("parts", {"name": "color", "shade": "shade"}))
    """,
    plain="""op.create_table("colors", sa.Column("name", sa.Text, primary_key=True), sa.Column("shade", sa.Text))""",
    downgrade="""op.zd_drop_table("colors")""",
    writes=[
        new("SELECT name, shade FROM colors ORDER BY 1", [("blue", "d"), ("red", "a")]),
        old("DELETE FROM parts WHERE id = 1"),
        new("SELECT name, shade FROM colors ORDER BY 1", [("blue", "d"), ("red", "b")]),
        old("UPDATE parts SET color = 'green' WHERE id = 2"),
        new("SELECT name, shade FROM colors ORDER BY 1", [("blue", "d"), ("green", "b"), ("red", "c")]),
        old("UPDATE parts SET color = 'blue' WHERE id = 3"),
        new("SELECT name FROM colors ORDER BY 1", [("blue",), ("green",)]),
        old("DELETE FROM parts WHERE color = 'blue'"),
    ],
    old={"SELECT id, color FROM parts": [(2, "green"), (5, None)]},
    new={"SELECT name, shade FROM colors": [("green", "b")]},
)  # fmt: skip


SWAPPED = Case(
    "keys_swapped_in_one_statement",
    setup="""
        CREATE TABLE songs (id integer PRIMARY KEY, place integer UNIQUE DEFERRABLE, title text, note text);
        INSERT INTO songs VALUES (1, 1, 'a', 'x'), (2, 2, 'b', 'y'), (3, 3, 'c', 'z');
    """,
    upgrade="""
        op.zd_create_table("charts", sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("title", sa.Text), sa.Column("note", sa.Text),
            up=alembic_zero.from_table("songs", {"place": "place", "title": "title", "note": "note"}))
    """,
    plain="""
        op.create_table("charts", sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("title", sa.Text), sa.Column("note", sa.Text))
    """,
    downgrade="""op.zd_drop_table("charts")""",
    writes=[
        old("UPDATE songs SET place = 3 - place WHERE place < 3"),
        new("SELECT * FROM charts ORDER BY 1", [(1, "b", "y"), (2, "a", "x"), (3, "c", "z")]),
        old("UPDATE songs SET place = place % 3 + 1"),
        new("SELECT * FROM charts ORDER BY 1", [(1, "c", "z"), (2, "b", "y"), (3, "a", "x")]),
        old("UPDATE songs SET place = place + 1"),
        new("SELECT * FROM charts ORDER BY 1", [(2, "c", "z"), (3, "b", "y"), (4, "a", "x")]),
        # Onto the place of a row that is a new client's: it gets all the values.
        new("INSERT INTO charts VALUES (9, 'mine', 'own')"),
        old("UPDATE songs SET place = 9 WHERE id = 1"),
    ],
    old={"SELECT id, place FROM songs": [(1, 9), (2, 3), (3, 2)]},
    new={"SELECT * FROM charts": [(2, "c", "z"), (3, "b", "y"), (9, "a", "x")]},
)

# -- transactions -------------------------------------------------------------------------------------


def _with_savepoints(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        connection.execute("INSERT INTO users VALUES (10, 'ten')")
        with pytest.raises(ZeroDivisionError), connection.transaction():
            connection.execute("UPDATE users SET email = 'lost' WHERE id = 10")
            connection.execute("DELETE FROM users WHERE id = 1")
            raise ZeroDivisionError
        with connection.transaction():
            connection.execute("UPDATE users SET email = 'kept' WHERE id = 2")


def _rolled_back(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(ZeroDivisionError), connection.transaction():
        connection.execute("UPDATE users SET id = id + 100, email = 'lost'")
        connection.execute("DELETE FROM users WHERE id = 101")
        raise ZeroDivisionError


def _delete_first(connection: psycopg.Connection[Any]) -> None:
    """Replace a row: what goes and comes back in one transaction."""
    with connection.transaction():
        connection.execute("DELETE FROM users WHERE id = 3")
        connection.execute("INSERT INTO users VALUES (3, 'anew')")


TRANSACTIONS = Case(
    "transactions_and_savepoints",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text);
        CREATE TABLE letters (id integer PRIMARY KEY, user_id integer);
        INSERT INTO users VALUES (1, 'one'), (2, 'two'), (3, 'three');
        INSERT INTO letters VALUES (1, 1), (2, 2), (3, 3), (4, 10);
    """,
    upgrade="""
        op.zd_create_table("profiles", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text), up=alembic_zero.from_table("users", {"id": "id", "email": "email"}))
        op.zd_add_column("letters", sa.Column("email", sa.Text),
            up=alembic_zero.from_table("users", "email", where="users.id = user_id"))
    """,
    plain="""
        op.create_table("profiles", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("email", sa.Text))
        op.add_column("letters", sa.Column("email", sa.Text))
    """,
    downgrade="""
        op.zd_drop_column("letters", "email")
        op.zd_drop_table("profiles")
    """,
    writes=[
        old(_with_savepoints),
        old(_rolled_back),
        new("SELECT id, email FROM profiles ORDER BY id", [(1, "one"), (2, "kept"), (3, "three"), (10, "ten")]),
        new("SELECT id, email FROM letters ORDER BY id", [(1, "one"), (2, "kept"), (3, "three"), (4, "ten")]),
        old(_delete_first),
        # Deleted and written again by a new client, in between.
        new("DELETE FROM profiles WHERE id = 2"),
        new("INSERT INTO profiles VALUES (2, 'new')"),
    ],
    old={"SELECT id, email FROM users": [(1, "one"), (2, "kept"), (3, "anew"), (10, "ten")]},
    new={
        "SELECT id, email FROM profiles": [(1, "one"), (2, "new"), (3, "anew"), (10, "ten")],
        "SELECT id, email FROM letters": [(1, "one"), (2, "kept"), (3, "anew"), (4, "ten")],
    },
)

# -- foreign keys -------------------------------------------------------------------------------------

_FOREIGN_KEY_SETUP = """
    CREATE TABLE users (id integer PRIMARY KEY, email text);
    INSERT INTO users VALUES (1, 'one'), (2, 'two'), (3, 'three');
"""


def _foreign_key(action: str, rows: list[tuple[Any, ...]]) -> Case:
    """Return a case with a foreign key from T to S with this action."""
    table = f"""table("profiles", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", {action})), sa.Column("email", sa.Text)"""
    return Case(
        f"foreign_key_from_target_to_source_{action.split(chr(34))[1].replace(' ', '_').lower()}",
        setup=_FOREIGN_KEY_SETUP,
        upgrade=f"""op.zd_create_{table},
            up=alembic_zero.from_table("users", {{"id": "id", "user_id": "id", "email": "email"}}))""",
        plain=f"op.create_{table})",
        downgrade="""op.zd_drop_table("profiles")""",
        writes=[
            old("INSERT INTO users VALUES (4, 'four'), (5, 'five')"),
            new("INSERT INTO profiles VALUES (30, 3, 'three, too')"),
            new("INSERT INTO profiles VALUES (40, 99, 'nobody')", error="23503"),
            old("DELETE FROM users WHERE id IN (2, 3)"),
            old("UPDATE users SET email = 'anew' WHERE id = 4"),
        ],
        old={"SELECT id, email FROM users": [(1, "one"), (4, "anew"), (5, "five")]},
        new={"SELECT id, user_id, email FROM profiles": [(1, 1, "one"), (4, 4, "anew"), (5, 5, "five"), *rows]},
    )


FROM_TARGET = [
    _foreign_key('ondelete="CASCADE"', []),
    _foreign_key('ondelete="SET NULL"', [(30, None, "three, too")]),
]

FROM_SOURCE = Case(
    "foreign_key_from_source_to_target",
    setup="""
        CREATE TABLE parts (id integer PRIMARY KEY, color text);
        INSERT INTO parts VALUES (1, 'red'), (2, 'red'), (3, 'blue'), (4, NULL);
    """,
    upgrade="""
        op.zd_create_table("colors", sa.Column("name", sa.Text, primary_key=True),
            up=alembic_zero.from_table("parts", {"name": "color"}))
        op.zd_add_column("parts", sa.Column("color_name", sa.Text, sa.ForeignKey("colors.name")), up="color")
        op.zd_drop_column("parts", "color", down="color_name")
    """,
    plain="""
        op.create_table("colors", sa.Column("name", sa.Text, primary_key=True))
        op.add_column("parts", sa.Column("color_name", sa.Text, sa.ForeignKey("colors.name")))
        op.drop_column("parts", "color")
    """,
    downgrade="""
        op.zd_add_column("parts", sa.Column("color", sa.Text), up="color_name")
        op.zd_drop_column("parts", "color_name", down="color")
        op.zd_drop_table("colors")
    """,
    writes=[
        old("INSERT INTO parts VALUES (5, 'green')"),
        new("SELECT name FROM colors ORDER BY 1", [("blue",), ("green",), ("red",)]),
        new("SELECT color_name FROM parts WHERE id = 5", [("green",)]),
        new("INSERT INTO parts VALUES (6, 'pink')", error="23503"),
        new("INSERT INTO colors VALUES ('pink')"),
        new("INSERT INTO parts VALUES (6, 'pink')"),
        old("UPDATE parts SET color = 'black' WHERE id = 2"),
        old("UPDATE parts SET color = 'white' WHERE id = 1"),
        new("DELETE FROM colors WHERE name = 'blue'", error="23503"),
        old("DELETE FROM parts WHERE id = 5"),
    ],
    old={"SELECT id, color FROM parts": [(1, "white"), (2, "black"), (3, "blue"), (4, None), (6, "pink")]},
    new={
        "SELECT id, color_name FROM parts": [(1, "white"), (2, "black"), (3, "blue"), (4, None), (6, "pink")],
        "SELECT name FROM colors": [("white",), ("black",), ("blue",), ("pink",)],
    },
)  # fmt: skip

NATURAL = Case(
    "foreign_key_of_the_sources_own_column_to_target",
    setup="""
        CREATE TABLE parts (id integer PRIMARY KEY, color text);
        CREATE INDEX ON parts (color);
        INSERT INTO parts VALUES (1, 'red'), (2, 'red'), (3, 'blue'), (4, NULL);
    """,
    upgrade="""
        op.zd_create_table("colors", sa.Column("name", sa.Text, primary_key=True),
            up=alembic_zero.from_table("parts", {"name": "color"}))
        op.zd_create_foreign_key("parts_color", "parts", "colors", ["color"], ["name"])
    """,
    plain="""
        op.create_table("colors", sa.Column("name", sa.Text, primary_key=True))
        op.execute("INSERT INTO colors SELECT DISTINCT color FROM parts WHERE color IS NOT NULL")
        op.create_foreign_key("parts_color", "parts", "colors", ["color"], ["name"])
    """,
    writes=[
        old("INSERT INTO parts VALUES (5, 'green')"),
        old("UPDATE parts SET color = 'black' WHERE id = 3"),
        old("UPDATE parts SET color = 'white' WHERE color = 'red'"),
        old("INSERT INTO parts VALUES (6, 'pink'), (7, 'pink') ON CONFLICT DO NOTHING"),
        new("SELECT name FROM colors ORDER BY 1", [("black",), ("green",), ("pink",), ("white",)]),
        old("DELETE FROM parts WHERE id IN (5, 6)"),
    ],
    old={"SELECT id, color FROM parts": [(1, "white"), (2, "white"), (3, "black"), (4, None), (7, "pink")]},
    new={"SELECT name FROM colors": [("black",), ("pink",), ("white",)]},
    outcomes=("complete", "rollback"),
)  # fmt: skip

# -- names, types, expressions ------------------------------------------------------------------------

NAMES = Case(
    "names_and_expressions_as_odd_as_they_come",
    setup="""
        CREATE TABLE "Order" ("Id" integer PRIMARY KEY, "user" text, "select" numeric, "naïve ""q"" x" text);
        CREATE TABLE "Sélect" ("Id" integer PRIMARY KEY, "order" integer, note text);
        CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql RETURN upper($1) || '!';
        INSERT INTO "Order" VALUES (1, 'ann', 1.5, 'a'), (2, NULL, 2.5, 'b');
        INSERT INTO "Sélect" VALUES (10, 1, 'x'), (20, 2, 'y'), (30, NULL, 'z');
    """,
    upgrade=r"""
        op.zd_add_column("Sélect", sa.Column("User", sa.Text), up=alembic_zero.from_table("Order",
            "shout(\"Order\".\"user\") || E' %s %(x)s 100% ''it''s'' :y -- no \\\\ $1'",
            where='"Order"."Id" = "Sélect"."order"'))
        op.zd_create_table("Größe", sa.Column("Id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("group", sa.Numeric), sa.Column('naïve "q" x', sa.Text),
            up=alembic_zero.from_table("Order", {"Id": '"Id"', "group": '"select" * 2 -- twice',
                'naïve "q" x': 'shout("Order"."naïve ""q"" x")'}, where='"Größe"."group" > 0'))
    """,
    plain="""
        op.add_column("Sélect", sa.Column("User", sa.Text))
        op.create_table("Größe", sa.Column("Id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("group", sa.Numeric), sa.Column('naïve "q" x', sa.Text))
    """,
    downgrade="""
        op.zd_drop_table("Größe")
        op.zd_drop_column("Sélect", "User")
    """,
    writes=[
        old("""INSERT INTO "Order" VALUES (3, 'cy', 3, 'c')"""),
        old("""UPDATE "Order" SET "user" = 'bob' WHERE "Id" = 2"""),
        old("""UPDATE "Sélect" SET "order" = 3 WHERE "Id" = 30"""),
        old("""UPDATE "Order" SET "Id" = 4, "naïve ""q"" x" = 'd' WHERE "Id" = 1"""),
    ],
    old={'SELECT "Id", "user" FROM "Order"': [(2, "bob"), (3, "cy"), (4, "ann")]},
    new={
        'SELECT "Id", "User" FROM "Sélect"': [(10, None), (20, f"BOB!{_ODD}"), (30, f"CY!{_ODD}")],
        'SELECT "Id", "group", "naïve ""q"" x" FROM "Größe"': [(2, 5, "B!"), (3, 6, "C!"), (4, 3, "D!")],
    },
)  # fmt: skip

KEY = uuid.UUID(int=7)
_TYPED = """op.create_table("target",
            sa.Column("u", sa.Uuid, primary_key=True), sa.Column("k", sa.LargeBinary, primary_key=True),
            sa.Column("n", sa.Numeric(6, 2)), sa.Column("v", sa.String(5)), sa.Column("c", sa.CHAR(4)),
            sa.Column("t", postgresql.TIMESTAMP(precision=0)), sa.Column("j", sa.JSON),
            sa.Column("a", postgresql.ARRAY(sa.Numeric(4, 1))),
            sa.Column("m", postgresql.ENUM(name="mood", create_type=False)),
            sa.Column("d", postgresql.DOMAIN("positive", sa.Integer, create_type=False)), sa.Column("b", sa.Boolean)"""

TYPES = Case(
    "types_take_what_an_assignment_would",
    setup=f"""
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
        CREATE TABLE source (k bytea, u uuid, v text, t timestamptz, j text, a text, m text, PRIMARY KEY (k, u));
        CREATE TABLE single (id integer PRIMARY KEY, k bytea);
        INSERT INTO source VALUES
            ('\\x00ff', '{KEY}', 'abc', '2024-01-01 00:00:00.7', '{{"a": 1}}', '{{1,2.25}}', 'ok');
        INSERT INTO single VALUES (1, '\\x00ff');
    """,
    upgrade="\n        " + _TYPED.replace("op.create", "op.zd_create") + """,
            up=alembic_zero.from_table("source", {"u": "u", "k": "k", "n": "length(v) / 3.0", "v": "upper(v)",
                "c": "v", "t": "t", "j": "j::json", "a": "a::numeric[]", "m": "m::mood", "d": "length(v)",
                "b": "v = 'abc'"}))
        op.zd_add_column("single", sa.Column("v", sa.String(4)),
            up=alembic_zero.from_table("source", "v", where="single.k = source.k"))
    """,
    plain="\n        " + _TYPED + """)
        op.add_column("single", sa.Column("v", sa.String(4)))
    """,
    downgrade="""
        op.zd_drop_column("single", "v")
        op.zd_drop_table("target")
    """,
    writes=[
        old(f"INSERT INTO source VALUES ('\\x01', '{KEY}', 'ab', '2024-02-02 11:11:11.2', '[]', '{{0}}', 'sad')"),
        old("INSERT INTO single VALUES (2, '\\x01')"),
        old("UPDATE source SET v = 'wxyz' WHERE k = '\\x01'"),
        old("UPDATE source SET k = '\\x02' WHERE k = '\\x01'"),
        old("UPDATE single SET k = '\\x02' WHERE id = 2"),
        new("UPDATE target SET j = '[1]', m = 'ok' WHERE k = '\\x02'"),
        old("UPDATE source SET j = j, v = v, m = m"),
    ],
    old={"SELECT k, v, m FROM source": [(b"\x00\xff", "abc", "ok"), (b"\x02", "wxyz", "sad")]},
    new={
        "SELECT k, u, n, v, c, t, j, a, m::text, d::integer, b FROM target": [
            (b"\x00\xff", KEY, Decimal("1.00"), "ABC", "abc ", dt.datetime(2024, 1, 1, 0, 0, 1), {"a": 1},
             [Decimal("1.0"), Decimal("2.3")], "ok", 3, True),
            (b"\x02", KEY, Decimal("1.33"), "WXYZ", "wxyz", dt.datetime(2024, 2, 2, 11, 11, 11), [1],
             [Decimal("0.0")], "ok", 4, False),
        ],
        "SELECT id, v FROM single": [(1, "abc"), (2, "wxyz")],
    },
)  # fmt: skip

# -- other operations on the same tables ----------------------------------------------------------------

ALTERED = Case(
    "columns_altered_before_and_after_and_tables_renamed",
    setup="""
        CREATE TABLE s (id integer PRIMARY KEY, a text, b text NOT NULL, gone text, total integer
            GENERATED ALWAYS AS (id * 100) STORED);
        CREATE TABLE t (id integer PRIMARY KEY, s_id integer);
        INSERT INTO s (id, a, b, gone) VALUES (1, '10', 'b', 'abc'), (2, '20', 'bb', 'abc');
        INSERT INTO t VALUES (1, 1), (2, 2), (3, NULL);
    """,
    upgrade="""
        op.zd_alter_column("s", "a", new_column_name="aa", type_=sa.Integer, up="a::integer", down="aa::text")
        op.zd_add_column("t", sa.Column("x", sa.Integer),
            up=alembic_zero.from_table("s", "aa + length(b) + length(gone) + total", where="t.s_id = s.id"))
        op.zd_alter_column("s", "aa", type_=sa.BigInteger, up="aa * 10", down="(aa / 10)::integer")
        op.zd_alter_column("t", "x", new_column_name="y", type_=sa.Text, up="x::text", down="y::integer")
        op.zd_drop_column("s", "gone", down="'abc'")
        op.zd_rename_table("s", "source")
        op.zd_rename_table("t", "target")
        op.zd_create_table("w", sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("b", sa.Text), sa.Column("total", sa.Integer),
            up=alembic_zero.from_table("source", {"number": "aa", "b": "source.b", "total": "total + 1"}))
    """,
    plain="""
        op.alter_column("s", "a", new_column_name="aa", type_=sa.BigInteger, postgresql_using="a::bigint * 10")
        op.add_column("t", sa.Column("y", sa.Text))
        op.drop_column("s", "gone")
        op.rename_table("s", "source")
        op.rename_table("t", "target")
        op.create_table("w", sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("b", sa.Text), sa.Column("total", sa.Integer))
    """,
    writes=[
        new("SELECT id, y FROM target ORDER BY id", [(1, "114"), (2, "225"), (3, None)]),
        new("SELECT number, b, total FROM w ORDER BY 1", [(100, "b", 101), (200, "bb", 201)]),
        old("UPDATE s SET a = '11', b = 'bbb' WHERE id = 1"),
        old("INSERT INTO s (id, a, b, gone) VALUES (3, '30', '', 'abc')"),
        old("UPDATE t SET s_id = 3 WHERE id = 3"),
        new("UPDATE target SET y = '5' WHERE id = 2"),
        old("UPDATE s SET id = 4 WHERE id = 3"),
    ],
    old={
        "SELECT id, a, b, gone FROM s": [(1, "11", "bbb", "abc"), (2, "20", "bb", "abc"), (4, "30", "", "abc")],
        "SELECT * FROM t": [(1, 1), (2, 2), (3, 3)],
    },
    new={
        "SELECT id, aa, b FROM source": [(1, 110, "bbb"), (2, 200, "bb"), (4, 300, "")],
        "SELECT id, y FROM target": [(1, "117"), (2, "5"), (3, None)],
        "SELECT number, b, total FROM w": [(110, "bbb", 101), (200, "bb", 201), (300, "", 401)],
    },
    outcomes=("complete", "rollback"),
)  # fmt: skip

TRIGGERS = Case(
    "triggers_of_the_users_on_either_side",
    setup="""
        CREATE TABLE s (id integer PRIMARY KEY, name text, times integer NOT NULL DEFAULT 0);
        CREATE TABLE t (id integer PRIMARY KEY, s_id integer, note text);
        CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.name := trim(NEW.name); NEW.times := NEW.times + 1; RETURN NEW; END $$;
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.note := coalesce(NEW.note, 'none'); NEW.s_id := abs(NEW.s_id); RETURN NEW; END $$;
        INSERT INTO s VALUES (1, 'one'), (2, 'two');
        INSERT INTO t VALUES (1, 1, 'none'), (2, 2, 'none'), (3, NULL, 'none');
        CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON s FOR EACH ROW EXECUTE FUNCTION tidy();
        CREATE TRIGGER note BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note();
    """,
    upgrade="""
        op.zd_add_column("t", sa.Column("name", sa.Text),
            up=alembic_zero.from_table("s", "s.name", where="t.s_id = s.id"))
        op.zd_create_table("u", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.Text), up=alembic_zero.from_table("s", {"id": "id", "name": "name"}))
    """,
    plain="""
        op.add_column("t", sa.Column("name", sa.Text))
        op.create_table("u", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.Text))
    """,
    writes=[
        new("SELECT id, name FROM t ORDER BY id", [(1, "one"), (2, "two"), (3, None)]),
        old("UPDATE s SET name = ' eins ' WHERE id = 1"),
        old("INSERT INTO s VALUES (3, ' drei')"),
        old("INSERT INTO s VALUES (2, 'x') ON CONFLICT DO NOTHING"),
        old("UPDATE t SET s_id = -3 WHERE id = 3"),
        new("SELECT id, name FROM t ORDER BY id", [(1, "eins"), (2, "two"), (3, "drei")]),
        new("UPDATE t SET name = 'mine' WHERE id = 2"),
        old("UPDATE s SET times = 0"),
        old("UPDATE t SET note = 'same'"),
    ],
    old={"SELECT id, name FROM s": [(1, "eins"), (2, "two"), (3, "drei")]},
    new={
        "SELECT id, s_id, note, name FROM t": [(1, 1, "same", "eins"), (2, 2, "same", "mine"), (3, 3, "same", "drei")],
        "SELECT id, name FROM u": [(1, "eins"), (2, "two"), (3, "drei")],
    },
)  # fmt: skip

NO_KEY = Case(
    "source_without_a_key",
    setup="""
        CREATE TABLE log (name text, hits integer);
        CREATE TABLE pages (name text, title text);
        INSERT INTO log VALUES ('a', 1), ('a', 2), ('b', 3);
        INSERT INTO pages VALUES ('a', 'A'), ('a', 'AA'), ('c', 'C');
    """,
    upgrade="""
        op.zd_add_column("pages", sa.Column("hits", sa.Integer),
            up=alembic_zero.from_table("log", "hits", where="log.name = pages.name"))
        op.zd_create_table("names", sa.Column("name", sa.Text, primary_key=True), sa.Column("hits", sa.Integer),
            up=alembic_zero.from_table("log", {"name": "name", "hits": "hits"}))
    """,
    plain="""
        op.add_column("pages", sa.Column("hits", sa.Integer))
        op.create_table("names", sa.Column("name", sa.Text, primary_key=True), sa.Column("hits", sa.Integer))
    """,
    downgrade="""
        op.zd_drop_table("names")
        op.zd_drop_column("pages", "hits")
    """,
    writes=[
        old("INSERT INTO log VALUES ('c', 9)"),
        old("DELETE FROM log WHERE name = 'b'"),
        old("DELETE FROM log WHERE hits = 1"),
    ],
    old={"SELECT name, hits FROM log": [("a", 2), ("c", 9)]},
    new={
        "SELECT name, title, hits FROM pages": [("a", "A", 2), ("a", "AA", 2), ("c", "C", 9)],
        "SELECT name, hits FROM names": [("a", 2), ("c", 9)],
    },
)

CASES = [
    COLUMN,
    ROWS,
    MANY,
    SWAPPED,
    TRANSACTIONS,
    *FROM_TARGET,
    FROM_SOURCE,
    NATURAL,
    NAMES,
    TYPES,
    ALTERED,
    TRIGGERS,
    NO_KEY,
]


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*CASES), ids=outcome_id)
def test_across_semantics(case: Case, outcome: str, database: Database, tmp_path: Path) -> None:
    OUTCOMES[outcome](case, database, tmp_path)
