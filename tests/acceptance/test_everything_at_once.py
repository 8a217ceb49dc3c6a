"""One revision with an operation of every family, on two tables that hang together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.harness import OUTCOMES, Case, new, old, outcome_id, outcomes_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Database

_ITEMS = '"Order Items"'

EVERYTHING = Case(
    "everything_at_once",
    setup=f"""
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TABLE customers (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "full name" text,
            email text NOT NULL UNIQUE, tier text);
        CREATE TABLE {_ITEMS} (id serial PRIMARY KEY, "user" integer, qty integer DEFAULT 1 CHECK (qty > 0),
            mood mood DEFAULT 'ok', CONSTRAINT fk FOREIGN KEY ("user") REFERENCES customers ON DELETE CASCADE);
        INSERT INTO customers ("full name", email, tier)
            VALUES ('Ada L', 'a@x', 'gold'), ('Bob R', 'b@x', NULL), ('Cy 100%', 'c@x', 'gold');
        INSERT INTO {_ITEMS} ("user", qty, mood) VALUES (1, 5, 'sad'), (1, 2, 'ok'), (3, 1, NULL);
    """,
    upgrade=f"""
        op.zd_rename_table("customers", "clients")
        op.zd_alter_column("clients", "id", type_=sa.BigInteger)
        op.zd_alter_column({_ITEMS!r}[1:-1], "user", type_=sa.BigInteger, new_column_name="client_id")
        op.zd_create_table("tiers", sa.Column("name", sa.Text, primary_key=True),
            sa.Column("size", sa.Integer, server_default="0"),
            up=alembic_zero.from_table("clients", {{"name": "tier"}}, where="clients.tier <> 'none'"))
        # Rows are matched by what the same revision derives.
        op.zd_add_column({_ITEMS!r}[1:-1], sa.Column("email", sa.Text),
            up=alembic_zero.from_table("clients", "lower(clients.email)", where='{_ITEMS}.client_id = clients.id'))
        op.zd_alter_enum("mood", ["ok", "blue"], up={{"sad": "blue"}})
        op.zd_create_check_constraint("small", {_ITEMS!r}[1:-1], "qty < 100")
        op.zd_create_index("ix_email", {_ITEMS!r}[1:-1], [sa.text("upper(email)")])
        op.zd_add_column("clients", sa.Column("nr", sa.Integer, sa.Identity()))
    """,
    plain=f"""
        op.rename_table("customers", "clients")
        op.alter_column("clients", "id", type_=sa.BigInteger)
        op.alter_column({_ITEMS!r}[1:-1], "user", type_=sa.BigInteger, new_column_name="client_id")
        op.create_table("tiers", sa.Column("name", sa.Text, primary_key=True),
            sa.Column("size", sa.Integer, server_default="0"))
        op.add_column({_ITEMS!r}[1:-1], sa.Column("email", sa.Text))
        op.execute("ALTER TYPE mood RENAME TO former_mood")
        op.execute("CREATE TYPE mood AS ENUM ('ok', 'blue')")
        op.execute('''ALTER TABLE {_ITEMS} ALTER mood DROP DEFAULT, ALTER mood TYPE mood
            USING replace(mood::text, 'sad', 'blue')::mood, ALTER mood SET DEFAULT 'ok' ''')
        op.execute("DROP TYPE former_mood")
        op.create_check_constraint("small", {_ITEMS!r}[1:-1], "qty < 100")
        op.create_index("ix_email", {_ITEMS!r}[1:-1], [sa.text("upper(email)")])
        op.add_column("clients", sa.Column("nr", sa.Integer, sa.Identity()))
    """,
    writes=[
        new(f"SELECT id, client_id, email, mood::text FROM {_ITEMS} ORDER BY id",
            [(1, 1, "a@x", "blue"), (2, 1, "a@x", "ok"), (3, 3, "c@x", None)]),
        old("INSERT INTO customers (\"full name\", email, tier) VALUES ('Dee', 'D@X', 'silver') RETURNING id",
            [(4,)]),
        old(f"""INSERT INTO {_ITEMS} ("user", mood) VALUES (4, 'sad') RETURNING id""", [(4,)]),
        new(f"SELECT client_id, email, mood::text FROM {_ITEMS} WHERE id = 4", [(4, "d@x", "blue")]),
        old("UPDATE customers SET email = 'AA@x', tier = 'none' WHERE id = 1"),
        new("SELECT name FROM tiers ORDER BY 1", [("gold",), ("silver",)]),
        new("""INSERT INTO clients ("full name", email) VALUES ('Eve', 'e@x') RETURNING id, nr""", [(5, 5)]),
        new(f"INSERT INTO {_ITEMS} (client_id, email, mood) VALUES (5, 'E', 'blue')"),
        old("DELETE FROM customers WHERE id = 3"),
    ],
    old={
        f"""SELECT id, "user", qty, mood::text FROM {_ITEMS}""": [
            (1, 1, 5, "sad"), (2, 1, 2, "ok"), (4, 4, 1, "sad"), (5, 5, 1, "sad"),
        ],
        "SELECT id, email, tier FROM customers": [
            (1, "AA@x", "none"), (2, "b@x", None), (4, "D@X", "silver"), (5, "e@x", None),
        ],
    },
    new={
        f"SELECT id, client_id, email, mood::text FROM {_ITEMS}": [
            (1, 1, "aa@x", "blue"), (2, 1, "aa@x", "ok"), (4, 4, "d@x", "blue"), (5, 5, "E", "blue"),
        ],
        "SELECT name, size FROM tiers": [("silver", 0)],
    },
    probes=False,
    outcomes=("complete", "rollback", "direct"),
)  # fmt: skip


@pytest.mark.parametrize(("case", "outcome"), outcomes_of(EVERYTHING), ids=outcome_id)
def test_everything_at_once__one_revision(case: Case, outcome: str, database: Database, tmp_path: Path) -> None:
    OUTCOMES[outcome](case, database, tmp_path)
