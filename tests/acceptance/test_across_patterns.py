"""Across tables: the patterns that real histories contain (CATALOGUE section 5)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.harness import OUTCOMES, Case, new, old, outcome_id, outcomes_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Database

pytestmark = pytest.mark.one_server

_PINNED = new("SET alembic_zero.revision = 'r2'")

LOOKUP = Case(
    "boolean_becomes_a_foreign_key_to_a_lookup_row",
    setup="""
        CREATE TABLE tasks (id integer PRIMARY KEY, done boolean NOT NULL DEFAULT false, title text);
        INSERT INTO tasks VALUES (1, true, 'a'), (2, false, 'b'), (3, true, 'c');
    """,
    upgrade="""
        op.zd_create_table("states", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.Text, nullable=False, unique=True),
            up=alembic_zero.from_table("tasks", {"id": "CASE WHEN done THEN 2 ELSE 1 END",
                "name": "CASE WHEN done THEN 'done' ELSE 'open' END"}))
        op.zd_add_column("tasks", sa.Column("state_id", sa.Integer, sa.ForeignKey("states.id"), nullable=False),
            up="CASE WHEN done THEN 2 ELSE 1 END")
        op.zd_drop_column("tasks", "done", down="state_id = 2")
    """,
    plain="""
        op.create_table("states", sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.Text, nullable=False, unique=True))
        op.execute("INSERT INTO states VALUES (1, 'open'), (2, 'done')")
        op.add_column("tasks", sa.Column("state_id", sa.Integer, sa.ForeignKey("states.id")))
        op.execute("UPDATE tasks SET state_id = 1")
        op.alter_column("tasks", "state_id", nullable=False)
        op.drop_column("tasks", "done")
    """,
    writes=[
        old("DELETE FROM tasks WHERE id = 3"),
        old("INSERT INTO tasks (id, title) VALUES (4, 'd')"),
        old("UPDATE tasks SET done = true WHERE id = 2"),
        new("INSERT INTO states VALUES (3, 'waiting')"),
        new("UPDATE tasks SET state_id = 3 WHERE id = 1"),
        new("INSERT INTO tasks (id, state_id) VALUES (5, 2)"),
    ],
    old={"SELECT id, done FROM tasks": [(1, False), (2, True), (4, False), (5, True)]},
    new={
        "SELECT id, state_id FROM tasks": [(1, 3), (2, 2), (4, 1), (5, 2)],
        "SELECT id, name FROM states": [(1, "open"), (2, "done"), (3, "waiting")],
    },
)

ONE, TWO, THREE, FOUR = (str(uuid.UUID(int=number)) for number in (1, 2, 3, 4))

UUIDS = Case(
    "integer_key_to_uuid_with_the_children",
    setup="""
        CREATE TABLE parents (id integer PRIMARY KEY, name text);
        CREATE TABLE children (id integer PRIMARY KEY, parent_id integer REFERENCES parents);
        CREATE INDEX children_parent ON children (parent_id);
        INSERT INTO parents VALUES (1, 'a'), (2, 'b');
        INSERT INTO children VALUES (1, 1), (2, 1), (3, 2), (4, NULL);
    """,
    upgrade="""
        op.zd_add_column("parents", sa.Column("uid", sa.Uuid, nullable=False,
            server_default=sa.text("gen_random_uuid()"), unique=True), up="lpad(id::text, 32, '0')::uuid")
        op.zd_add_column("children", sa.Column("parent_uid", sa.Uuid),
            up=alembic_zero.from_table("parents", "parents.uid", where="children.parent_id = parents.id"))
        op.zd_drop_column("children", "parent_id",
            down=alembic_zero.from_table("parents", "parents.id", where="children.parent_uid = parents.uid"))
    """,
    plain="""
        op.add_column("parents", sa.Column("uid", sa.Uuid, nullable=False,
            server_default=sa.text("gen_random_uuid()"), unique=True))
        op.add_column("children", sa.Column("parent_uid", sa.Uuid))
        op.drop_column("children", "parent_id")
    """,
    writes=[
        old("INSERT INTO parents VALUES (3, 'c')"),
        old("INSERT INTO children VALUES (5, 3)"),
        old("UPDATE children SET parent_id = 2 WHERE id = 2"),
        new(f"UPDATE children SET parent_uid = '{ONE}' WHERE id = 4"),
        new(f"INSERT INTO parents VALUES (4, 'd', '{FOUR}')"),
        new(f"INSERT INTO children VALUES (6, '{FOUR}')"),
    ],
    old={"SELECT id, parent_id FROM children": [(1, 1), (2, 2), (3, 2), (4, 1), (5, 3), (6, 4)]},
    new={"SELECT id, parent_uid::text FROM children": [
        (1, ONE), (2, TWO), (3, TWO), (4, ONE), (5, THREE), (6, FOUR),
    ]},
    outcomes=("complete", "rollback"),
)  # fmt: skip

SURROGATE = Case(
    "composite_key_to_surrogate_in_the_children",
    setup="""
        CREATE TABLE rooms (house text, number integer, id integer GENERATED ALWAYS AS IDENTITY UNIQUE, beds integer,
            PRIMARY KEY (house, number));
        CREATE TABLE stays (id integer PRIMARY KEY, house text, number integer,
            FOREIGN KEY (house, number) REFERENCES rooms);
        INSERT INTO rooms (house, number) VALUES ('a', 1), ('a', 2), ('b', 1);
        INSERT INTO stays VALUES (1, 'a', 2), (2, 'b', 1), (3, NULL, NULL);
    """,
    upgrade="""
        op.zd_add_column("stays", sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id")),
            up=alembic_zero.from_table("rooms", "rooms.id",
                where="(stays.house, stays.number) = (rooms.house, rooms.number)"))
        for name in ("house", "number"):
            op.zd_drop_column("stays", name,
                down=alembic_zero.from_table("rooms", f"rooms.{name}", where="stays.room_id = rooms.id"))
    """,
    plain="""
        op.add_column("stays", sa.Column("room_id", sa.Integer, sa.ForeignKey("rooms.id")))
        op.drop_column("stays", "house")
        op.drop_column("stays", "number")
    """,
    writes=[
        old("INSERT INTO rooms (house, number) VALUES ('c', 7)"),
        old("INSERT INTO stays VALUES (4, 'c', 7)"),
        new("UPDATE stays SET room_id = 1 WHERE id = 3"),
        new("INSERT INTO stays VALUES (5, 3)"),
        old("UPDATE stays SET number = 1 WHERE id = 1"),
        new("UPDATE stays SET room_id = NULL WHERE id = 2"),
    ],
    old={"SELECT id, house, number FROM stays": [
        (1, "a", 1), (2, None, None), (3, "a", 1), (4, "c", 7), (5, "b", 1),
    ]},
    new={"SELECT id, room_id FROM stays": [(1, 1), (2, None), (3, 1), (4, 4), (5, 3)]},
    outcomes=("complete", "rollback"),
)  # fmt: skip

JUNCTION = Case(
    "column_moves_through_a_junction",
    setup="""
        CREATE TABLE people (id integer PRIMARY KEY, phone text);
        CREATE TABLE teams (id integer PRIMARY KEY, name text);
        CREATE TABLE seats (person_id integer REFERENCES people, team_id integer REFERENCES teams,
            PRIMARY KEY (person_id, team_id));
        INSERT INTO people VALUES (1, '111'), (2, '222');
        INSERT INTO teams VALUES (10, 'ten'), (20, 'twenty'), (30, 'thirty');
        INSERT INTO seats VALUES (1, 10), (2, 20), (2, 10);
    """,
    upgrade="""
        op.zd_add_column("seats", sa.Column("phone", sa.Text),
            up=alembic_zero.from_table("people", "phone", where="seats.person_id = people.id"))
        op.zd_add_column("teams", sa.Column("phone", sa.Text),
            up=alembic_zero.from_table("seats", "seats.phone", where="seats.team_id = teams.id"))
    """,
    plain="""
        op.add_column("seats", sa.Column("phone", sa.Text))
        op.add_column("teams", sa.Column("phone", sa.Text))
    """,
    downgrade="""
        op.zd_drop_column("teams", "phone")
        op.zd_drop_column("seats", "phone")
    """,
    writes=[
        new("SELECT id, phone FROM teams ORDER BY id", [(10, "111"), (20, "222"), (30, None)]),
        old("UPDATE people SET phone = '112' WHERE id = 1"),
        new("SELECT id, phone FROM teams ORDER BY id", [(10, "112"), (20, "222"), (30, None)]),
        old("INSERT INTO seats VALUES (1, 30)"),
        old("DELETE FROM seats WHERE person_id = 1 AND team_id = 10"),
    ],
    old={"SELECT id, phone FROM people": [(1, "112"), (2, "222")]},
    new={"SELECT id, phone FROM teams": [(10, "222"), (20, "222"), (30, "112")]},
)

RETARGETED = Case(
    "foreign_key_retargeted_to_another_table",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text UNIQUE);
        CREATE TABLE accounts (id integer PRIMARY KEY, user_id integer NOT NULL UNIQUE REFERENCES users);
        CREATE TABLE orders (id integer PRIMARY KEY, user_id integer REFERENCES users);
        INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c');
        INSERT INTO accounts VALUES (101, 1), (102, 2);
        INSERT INTO orders VALUES (1, 1), (2, 2), (3, NULL), (4, 3);
    """,
    upgrade="""
        op.zd_add_column("orders", sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id")),
            up=alembic_zero.from_table("accounts", "accounts.id", where="orders.user_id = accounts.user_id"))
        op.zd_drop_column("orders", "user_id",
            down=alembic_zero.from_table("accounts", "accounts.user_id", where="orders.account_id = accounts.id"))
    """,
    plain="""
        op.add_column("orders", sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id")))
        op.drop_column("orders", "user_id")
    """,
    downgrade="""
        op.zd_add_column("orders", sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id")),
            up=alembic_zero.from_table("accounts", "accounts.user_id", where="orders.account_id = accounts.id"))
        op.zd_drop_column("orders", "account_id",
            down=alembic_zero.from_table("accounts", "accounts.id", where="orders.user_id = accounts.user_id"))
    """,
    writes=[
        old("INSERT INTO accounts VALUES (103, 3)"),
        new("SELECT account_id FROM orders WHERE id = 4", [(103,)]),
        old("UPDATE orders SET user_id = 2 WHERE id = 1"),
        new("UPDATE orders SET account_id = 101 WHERE id = 2"),
        new("INSERT INTO orders VALUES (5, 103)"),
        old("INSERT INTO orders VALUES (6, 1)"),
    ],
    old={"SELECT id, user_id FROM orders": [(1, 2), (2, 1), (3, None), (4, 3), (5, 3), (6, 1)]},
    new={"SELECT id, account_id FROM orders": [(1, 102), (2, 101), (3, None), (4, 103), (5, 103), (6, 101)]},
)

TO_PARENT = Case(
    "column_moves_to_the_parent_and_back",
    setup="""
        CREATE TABLE houses (id integer PRIMARY KEY);
        CREATE TABLE flats (id integer PRIMARY KEY, house_id integer REFERENCES houses,
            street text NOT NULL DEFAULT '?');
        INSERT INTO houses VALUES (1), (2), (3);
        INSERT INTO flats VALUES (1, 1, 'A'), (2, 1, 'AA'), (3, 2, 'B');
    """,
    upgrade="""
        op.zd_add_column("houses", sa.Column("street", sa.Text, nullable=False, server_default="?"),
            up=alembic_zero.from_table("flats", "flats.street", where="flats.house_id = houses.id"))
        op.zd_drop_column("flats", "street",
            down=alembic_zero.from_table("houses", "houses.street", where="flats.house_id = houses.id"))
    """,
    plain="""
        op.add_column("houses", sa.Column("street", sa.Text, nullable=False, server_default="?"))
        op.drop_column("flats", "street")
    """,
    downgrade="""
        op.zd_add_column("flats", sa.Column("street", sa.Text, nullable=False, server_default="?"),
            up=alembic_zero.from_table("houses", "houses.street", where="flats.house_id = houses.id"))
        op.zd_drop_column("houses", "street",
            down=alembic_zero.from_table("flats", "flats.street", where="flats.house_id = houses.id"))
    """,
    writes=[
        new("SELECT id, street FROM houses ORDER BY id", [(1, "A"), (2, "B"), (3, "?")]),
        _PINNED,
        new("UPDATE houses SET street = 'New' WHERE id = 1"),
        old("SELECT id, street FROM flats ORDER BY id", [(1, "New"), (2, "New"), (3, "B")]),
        old("UPDATE flats SET street = 'Old' WHERE id = 1"),
        new("SELECT street FROM houses WHERE id = 1", [("Old",)]),
        new("INSERT INTO flats (id, house_id) VALUES (4, 3)"),
        new("UPDATE houses SET street = 'C' WHERE id = 3"),
        old("INSERT INTO flats VALUES (5, 2, 'later')"),
        old("INSERT INTO flats VALUES (6, NULL, 'nowhere')"),
    ],
    old={"SELECT id, street FROM flats": [
        (1, "Old"), (2, "New"), (3, "B"), (4, "C"), (5, "later"), (6, "nowhere"),
    ]},
    new={"SELECT id, street FROM houses": [(1, "Old"), (2, "B"), (3, "C")]},
    reversed={"SELECT id, street FROM flats": [
        (1, "Old"), (2, "Old"), (3, "B"), (4, "C"), (5, "B"), (6, "?"),
    ]},
)  # fmt: skip

MADE_AND_CHANGED = Case(
    "filled_table_changed_by_later_operations",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, email text, age text);
        INSERT INTO users VALUES (1, 'One', '1'), (2, 'Two', '22'), (3, NULL, '3');
    """,
    upgrade="""
        op.zd_create_table("mails", sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
            sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False,
                unique=True),
            sa.Column("email", sa.Text, index=True), sa.Column("age", sa.Text),
            sa.Column("plus", sa.Integer, sa.Computed("user_id + 1", persisted=True)),
            up=alembic_zero.from_table("users", {"user_id": "id", "email": "email", "age": "users.age"}))
        op.zd_alter_column("mails", "age", new_column_name="years", type_=sa.Integer,
            up="age::integer", down="years::text")
        op.zd_add_column("mails", sa.Column("short", sa.String(2)), up="left(email, 2)")
        op.zd_rename_table("mails", "addresses")
        op.zd_alter_column("addresses", "short", server_default="-")
        op.zd_drop_column("users", "email",
            down=alembic_zero.from_table("addresses", "addresses.email", where="users.id = addresses.user_id"))
        op.zd_drop_column("users", "age",
            down=alembic_zero.from_table("addresses", "years::text", where="users.id = addresses.user_id"))
    """,
    plain="""
        op.create_table("mails", sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
            sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False,
                unique=True),
            sa.Column("email", sa.Text, index=True), sa.Column("age", sa.Text),
            sa.Column("plus", sa.Integer, sa.Computed("user_id + 1", persisted=True)))
        op.alter_column("mails", "age", new_column_name="years", type_=sa.Integer, postgresql_using="age::integer")
        op.add_column("mails", sa.Column("short", sa.String(2)))
        op.rename_table("mails", "addresses")
        op.alter_column("addresses", "short", server_default="-")
        op.drop_column("users", "email")
        op.drop_column("users", "age")
    """,
    writes=[
        new("SELECT user_id, email, years, short, plus FROM addresses ORDER BY 1", [
            (1, "One", 1, "On", 2), (2, "Two", 22, "Tw", 3), (3, None, 3, None, 4)]),
        old("UPDATE users SET email = 'Eins' WHERE id = 1"),
        old("INSERT INTO users VALUES (4, 'four', '44')"),
        new("UPDATE addresses SET years = 5, short = 'xx' WHERE user_id = 2"),
        old("SELECT age FROM users WHERE id = 2", [("5",)]),
        old("UPDATE users SET age = '6' WHERE id = 2"),
        old("DELETE FROM users WHERE id = 3"),
        new("INSERT INTO users VALUES (5)"),
        new("INSERT INTO addresses (user_id, email) VALUES (5, 'five') RETURNING short", [("-",)]),
    ],
    old={"SELECT id, email, age FROM users": [
        (1, "Eins", "1"), (2, "Two", "6"), (4, "four", "44"), (5, "five", None),
    ]},
    new={"SELECT user_id, email, years, short, plus FROM addresses": [
        (1, "Eins", 1, "Ei", 2), (2, "Two", 6, "xx", 3), (4, "four", 44, "fo", 5), (5, "five", None, "-", 6),
    ]},
    outcomes=("complete", "rollback"),
)  # fmt: skip

MERGED = Case(
    "table_merged_into_another_and_back",
    setup="""
        CREATE TABLE users (id integer PRIMARY KEY, name text);
        CREATE TABLE profiles (user_id integer PRIMARY KEY REFERENCES users ON DELETE CASCADE, bio text, age integer);
        INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c');
        INSERT INTO profiles VALUES (1, 'one', 1), (2, 'two', 2);
    """,
    upgrade="""
        for name, type_ in [("bio", sa.Text()), ("age", sa.Integer())]:
            op.zd_add_column("users", sa.Column(name, type_),
                up=alembic_zero.from_table("profiles", f"profiles.{name}", where="users.id = profiles.user_id"))
        op.zd_drop_table("profiles", down=alembic_zero.from_table("users",
            {"user_id": "id", "bio": "bio", "age": "age"}, where="users.bio IS NOT NULL"))
    """,
    plain="""
        op.add_column("users", sa.Column("bio", sa.Text))
        op.add_column("users", sa.Column("age", sa.Integer))
        op.drop_table("profiles")
    """,
    downgrade="""
        op.zd_create_table("profiles", sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE"),
            primary_key=True, autoincrement=False), sa.Column("bio", sa.Text), sa.Column("age", sa.Integer),
            up=alembic_zero.from_table("users", {"user_id": "id", "bio": "bio", "age": "age"},
                where="users.bio IS NOT NULL"))
        for name in ("bio", "age"):
            op.zd_drop_column("users", name,
                down=alembic_zero.from_table("profiles", f"profiles.{name}", where="users.id = profiles.user_id"))
    """,
    writes=[
        new("SELECT id, bio, age FROM users ORDER BY id", [(1, "one", 1), (2, "two", 2), (3, None, None)]),
        old("UPDATE profiles SET bio = 'eins' WHERE user_id = 1"),
        new("SELECT bio FROM users WHERE id = 1", [("eins",)]),
        new("UPDATE users SET bio = 'three', age = 3 WHERE id = 3"),
        old("SELECT bio, age FROM profiles WHERE user_id = 3", [("three", 3)]),
        new("INSERT INTO users VALUES (4, 'd', 'four', 4)"),
        old("INSERT INTO users VALUES (5, 'e')"),
        old("INSERT INTO profiles VALUES (5, 'five', 5)"),
        new("UPDATE users SET bio = NULL WHERE id = 2"),
        old("SELECT user_id FROM profiles ORDER BY 1", [(1,), (3,), (4,), (5,)]),
        old("DELETE FROM profiles WHERE user_id = 4"),
    ],
    old={"SELECT user_id, bio, age FROM profiles": [(1, "eins", 1), (3, "three", 3), (5, "five", 5)]},
    new={"SELECT id, bio, age FROM users": [
        (1, "eins", 1), (2, None, 2), (3, "three", 3), (4, None, None), (5, "five", 5),
    ]},
)  # fmt: skip

CASES = [LOOKUP, UUIDS, SURROGATE, JUNCTION, RETARGETED, TO_PARENT, MADE_AND_CHANGED, MERGED]


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(*CASES), ids=outcome_id)
def test_across_patterns(case: Case, outcome: str, database: Database, tmp_path: Path) -> None:
    OUTCOMES[outcome](case, database, tmp_path)
