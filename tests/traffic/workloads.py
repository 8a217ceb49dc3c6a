"""What clients do in each scenario, and what both versions must agree on, in plain SQL without any lens.

Values that only a new client can have written begin with ``new``: where a column follows another one in one
direction only, either it is what follows, or it was written so.
"""

from __future__ import annotations

from tests.traffic.workload import (
    SERIAL_START,
    Relation,
    Side,
    Workload,
    default_or,
    document,
    first_name,
    full_name,
    made_by_new,
    maybe,
    number,
    one_of,
    random_uuid,
    spread,
    stamp,
    stamp_text,
    unique,
    word,
)

ACCOUNTS = one_of(1, 2, 3)
ROLES = one_of("admin", "user", "guest", "it's")
HITS = "hits"


def _counter(table: str) -> str:
    return f"ALTER TABLE {table} ADD {HITS} integer NOT NULL DEFAULT 0;"


def _serial(table: str) -> str:
    return f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {SERIAL_START});"


SERIES = "generate_series({first}, {last}) AS g"


def _differ(table: str, condition: str, *, key: str = "id", new_table: str = "", new_key: str = "") -> str:
    """Return a query for rows that only one version has, or that do not meet *condition* on ``o`` and ``n``."""
    return (
        f"SELECT to_jsonb(o.*), to_jsonb(n.*) FROM {{old}}.{table} AS o FULL JOIN {{new}}.{new_table or table} AS n"
        f" ON o.{key} = n.{new_key or key} WHERE o.{key} IS NULL OR n.{new_key or key} IS NULL"
        f" OR ({condition}) IS NOT TRUE"
    )


# -- S1, S2: 1:N becomes N:M --------------------------------------------------------------------------

_USERS = Relation("users", {}, serial=True, counter=HITS)

S01 = Workload(
    old=Side((Relation("users", {"account_id": maybe(ACCOUNTS), "account_role": ROLES}, serial=True, counter=HITS),)),
    new=Side(
        (
            _USERS,
            Relation(
                "account_users",
                {"account_id": ACCOUNTS, "role": ROLES},
                key="user_id",
                conflict=("account_id", "user_id"),
            ),
        )
    ),
    load=_counter("users")
    + f"INSERT INTO users (id, account_id, account_role) SELECT g, nullif(g % 4, 0), 'role ' || g FROM {SERIES};"
    + _serial("users"),
    agree=(
        _differ("users", "o.hits = n.hits"),
        """
        SELECT to_jsonb(o.*), to_jsonb(n.*) FROM {old}.users AS o FULL JOIN {new}.account_users AS n ON n.user_id = o.id
         WHERE o.id IS NULL OR o.account_id IS DISTINCT FROM n.account_id
            OR (n.user_id IS NOT NULL AND o.account_role IS DISTINCT FROM n.role)
        """,
    ),
)

S02 = Workload(
    old=Side((Relation("users", {"account_id": ACCOUNTS, "account_role": ROLES}, serial=True, counter=HITS),)),
    new=Side(
        (
            _USERS,
            Relation(
                "user_account_connections",
                {"account_id": ACCOUNTS, "role": one_of("ADMIN", "User", "GUEST")},
                key="user_id",
                conflict=("account_id", "user_id"),
                required=True,
            ),
        ),
    ),
    load=_counter("users")
    + f"INSERT INTO users (id, account_id, account_role) SELECT g, g % 4, 'role ' || g FROM {SERIES};"
    + _serial("users"),
    agree=(
        _differ("users", "o.hits = n.hits"),
        _differ(
            "users",
            "o.account_id = n.account_id AND (n.role = upper(o.account_role) OR o.account_role = lower(n.role))",
            new_table="user_account_connections",
            new_key="user_id",
        ),
    ),
)

# -- S3 -------------------------------------------------------------------------------------------------

S03 = Workload(
    old=Side((Relation("users", {"name": maybe(full_name), "email": unique}, serial=True, counter=HITS),)),
    new=Side(
        (
            Relation(
                "users",
                {"first_name": maybe(first_name), "last_name": full_name, "email": unique},
                serial=True,
                counter=HITS,
            ),
        )
    ),
    load=_counter("users")
    + "INSERT INTO users (id, name, email) SELECT g, 'First' || g || CASE WHEN g % 2 = 1 THEN ' Mid' ELSE '' END ||"
    + f" ' Last' || g, g || '@example.org' FROM {SERIES};"
    + _serial("users"),
    agree=(
        _differ(
            "users",
            "o.email = n.email AND o.hits = n.hits AND (o.name IS NOT DISTINCT FROM n.first_name || ' ' || n.last_name"
            " OR (n.first_name, n.last_name) IS NOT DISTINCT FROM"
            " (split_part(o.name, ' ', 1), split_part(o.name, ' ', 2)))",
        ),
    ),
)

# -- S4 -------------------------------------------------------------------------------------------------

S04 = Workload(
    old=Side((Relation("users", {"data": maybe(document)}, counter=HITS),)),
    new=Side((Relation("users", {"data": document, "name": made_by_new}, fixed=frozenset({"data"}), counter=HITS),)),
    load=_counter("users")
    + "INSERT INTO users SELECT g, jsonb_build_object('path', jsonb_build_object('to',"
    + f" jsonb_build_object('value', 'v' || g))) FROM {SERIES};",
    agree=(
        _differ(
            "users",
            "o.hits = n.hits AND o.data::text IS NOT DISTINCT FROM n.data::text AND"
            " (n.name IS NOT DISTINCT FROM o.data -> 'path' -> 'to' ->> 'value' OR n.name LIKE 'new %')",
        ),
    ),
)

# -- S5, S6 ---------------------------------------------------------------------------------------------

_PROFILES_LOAD = (
    _counter("users")
    + f"INSERT INTO users (id, email, name) SELECT g, g || '@x', 'name ' || g FROM {SERIES};"
    + f"INSERT INTO profiles (id, user_id, bio) SELECT g, g, 'bio ' || g FROM {SERIES};"
    + "CREATE INDEX profiles_user ON profiles (user_id);"
    + _serial("users")
    + _serial("profiles")
)
_OLD_PROFILES = Relation("profiles", {"bio": maybe(word)}, links=("user_id",))

S05_DUPLICATE = Workload(
    old=Side((Relation("users", {"email": unique, "name": maybe(word)}, serial=True, counter=HITS), _OLD_PROFILES)),
    new=Side(
        (
            Relation(
                "users",
                {"email": made_by_new, "name": maybe(word)},
                serial=True,
                fixed=frozenset({"email"}),
                counter=HITS,
            ),
            Relation("profiles", {"bio": maybe(word), "email": made_by_new}, links=("user_id",)),
        )
    ),
    load=_PROFILES_LOAD,
    agree=(
        _differ("users", "o.email = n.email AND o.hits = n.hits AND o.name IS NOT DISTINCT FROM n.name"),
        _differ("profiles", "o.bio IS NOT DISTINCT FROM n.bio AND o.user_id = n.user_id"),
        (
            "SELECT to_jsonb(u.*), to_jsonb(p.*) FROM {old}.users u JOIN {new}.profiles p ON p.user_id = u.id"
            " WHERE (p.email = u.email OR p.email LIKE 'new %') IS NOT TRUE"
        ),
    ),
)

S05_MOVE = Workload(
    old=Side(
        (Relation("users", {"email": maybe(unique), "name": maybe(word)}, serial=True, counter=HITS), _OLD_PROFILES)
    ),
    new=Side(
        (
            Relation("users", {"name": maybe(word)}, serial=True, counter=HITS),
            Relation("profiles", {"bio": maybe(word), "email": maybe(unique)}, links=("user_id",)),
        )
    ),
    load=_PROFILES_LOAD,
    agree=(
        _differ("users", "o.hits = n.hits AND o.name IS NOT DISTINCT FROM n.name"),
        _differ("profiles", "o.bio IS NOT DISTINCT FROM n.bio AND o.user_id = n.user_id"),
        (
            "SELECT to_jsonb(u.*), to_jsonb(p.*) FROM {old}.users u JOIN {new}.profiles p ON p.user_id = u.id"
            " WHERE u.id > 3 AND u.email IS DISTINCT FROM p.email"
        ),
    ),
)

S06 = Workload(
    old=Side((Relation("users", {"email": maybe(unique)}, counter=HITS),)),
    new=Side(
        (
            Relation("users", {"email": made_by_new}, counter=HITS),
            Relation("profiles", {"user_email": made_by_new}, key="user_id"),
        ),
        removes=False,
    ),
    load=_counter("users") + f"INSERT INTO users (id, email) SELECT g, 'mail ' || g FROM {SERIES};",
    agree=(
        _differ("users", "o.email IS NOT DISTINCT FROM n.email AND o.hits = n.hits"),
        # What follows from an old client's row is there, whatever new clients add.
        (
            "SELECT to_jsonb(u.*), to_jsonb(p.*) FROM {old}.users u LEFT JOIN {new}.profiles p ON p.user_id = u.id"
            " WHERE (u.email LIKE 'new %' OR p.user_email LIKE 'new %'"
            " OR (p.user_id IS NOT NULL AND u.email IS NOT DISTINCT FROM p.user_email)) IS NOT TRUE"
        ),
    ),
)

# -- S7 -------------------------------------------------------------------------------------------------

_USERS_LOAD = _counter("users")


def _column(name: str, old: Relation, new: Relation, value: str, condition: str) -> Workload:
    """Return a workload on one column of ``users``."""
    return Workload(
        Side((old,)),
        Side((new,)),
        load=f"{_USERS_LOAD} INSERT INTO users (id, {name}) SELECT g, {value} FROM {SERIES};",
        agree=(_differ("users", f"o.hits = n.hits AND ({condition})"),),
    )


def _users(**columns: object) -> Relation:
    return Relation("users", columns, counter=HITS)  # type: ignore[arg-type]


S07_RENAME = _column(
    "last_name",
    _users(last_name=unique),
    _users(family_name=unique),
    "'Loaded ' || g",
    "o.last_name = n.family_name",
)
S07_INTEGER_TO_TEXT = _column(
    "reference",
    _users(reference=number(-1000, 1000)),
    _users(reference=one_of("0012", "-7", "300", "+5")),
    "g",
    "o.reference = n.reference::integer",
)
S07_TEXT_TO_INTEGER = _column(
    "reference",
    _users(reference=maybe(one_of(" 20 ", "0012", "-7"))),
    _users(reference=maybe(number(-1000, 1000))),
    "g::text",
    "o.reference::integer IS NOT DISTINCT FROM n.reference",
)
S07_PLUS = {
    times: _column(
        "index",
        _users(index=spread(0, 4)),
        _users(index=spread(2 + times, 6 + times)),
        "10 * g",
        f"o.index + {times} = n.index",
    )
    for times in (1, 2)
}
S07_NOT_NULL = _column(
    "name",
    _users(name=maybe(word)),
    _users(name=word),
    "nullif('n ' || g % 9, 'n 0')",
    "n.name = coalesce(o.name, 'N/A')",
)
S07_NULLABLE = _column(
    "name",
    _users(name=word),
    _users(name=maybe(word)),
    "'n ' || g",
    "o.name = coalesce(n.name, 'N/A')",
)
_WITH_DEFAULT = Relation("users", {"kind": default_or(word)}, defaults=frozenset({"kind"}), counter=HITS)
S07_DEFAULT = _column(
    "kind",
    _WITH_DEFAULT,
    _WITH_DEFAULT,
    "'n ' || g",
    "o.kind = n.kind AND o.created_at IS NOT DISTINCT FROM n.created_at",
)

# -- S8 -------------------------------------------------------------------------------------------------

_OLD_PRODUCTS = Relation("products", {}, counter=HITS)
_PRODUCTS_LOAD = _counter("products") + f"INSERT INTO products SELECT g FROM {SERIES};"

S08_DEFAULT = Workload(
    Side((_OLD_PRODUCTS,)),
    Side(
        (
            Relation(
                "products",
                {"reference": default_or(number(1000, 9999))},
                defaults=frozenset({"reference"}),
                counter=HITS,
            ),
        )
    ),
    load=_PRODUCTS_LOAD,
    agree=(_differ("products", "o.hits = n.hits AND (n.reference = 10 OR n.reference >= 1000)"),),
)
S08_VOLATILE = Workload(
    Side((_OLD_PRODUCTS,)),
    Side(
        (Relation("products", {"token": default_or(random_uuid)}, defaults=frozenset({"token"}), counter=HITS),),
    ),
    load=_PRODUCTS_LOAD,
    agree=(
        _differ("products", "o.hits = n.hits AND n.token IS NOT NULL"),
        "SELECT to_jsonb(token), count(*) FROM {new}.products GROUP BY token HAVING count(*) > 1",
    ),
)
S08_NULLABLE = Workload(
    Side((_OLD_PRODUCTS,)),
    Side((Relation("products", {"note": maybe(unique)}, counter=HITS),)),
    load=_PRODUCTS_LOAD,
    agree=(_differ("products", "o.hits = n.hits"),),
)
S08_UP = Workload(
    Side((Relation("products", {"price": number(0, 20)}, counter=HITS),)),
    Side(
        (
            Relation(
                "products", {"price": number(0, 20), "band": one_of("free")}, fixed=frozenset({"price"}), counter=HITS
            ),
        )
    ),
    load=_counter("products") + f"INSERT INTO products (id, price) SELECT g, g % 20 FROM {SERIES};",
    agree=(
        _differ(
            "products",
            "o.hits = n.hits AND o.price = n.price AND"
            " n.band IN ('free', CASE WHEN o.price > 10 THEN 'dear' ELSE 'cheap' END)",
        ),
    ),
)

# -- S9, S10 --------------------------------------------------------------------------------------------

_CHILD = Relation(
    "child",
    {"parent_id": maybe(one_of(1, 2, 3)), "a": one_of(None, 10), "b": one_of("x"), "email": unique},
    counter=HITS,
)
# A foreign key that only one version knows of binds both: what it references neither deletes.
S09 = Workload(
    old=Side((_CHILD, Relation("gone", {}, links=("child_id",))), removes=False),
    new=Side((_CHILD, Relation("pet", {}, links=("child_id",))), removes=False),
    load=_counter("child")
    + f"INSERT INTO child SELECT g, 1 + g % 3, 10, 'x', g::text FROM {SERIES};"
    + f"INSERT INTO gone SELECT g, g FROM {SERIES} WHERE g % 2 = 0;",
    agree=(
        _differ(
            "child",
            "(o.parent_id, o.a, o.b, o.email, o.hits) IS NOT DISTINCT FROM (n.parent_id, n.a, n.b, n.email, n.hits)",
        ),
        _differ("parent", "(o.a, o.b) IS NOT DISTINCT FROM (n.a, n.b)", new_table="mother"),
    ),
)

_T = Relation("t", {"name": unique, "n": maybe(number(0, 9)), "deleted": one_of(True, False, None)}, counter=HITS)
S10_INDEX = Workload(
    Side((_T,)),
    Side((_T,)),
    load=_counter("t") + f"INSERT INTO t (id, name, n) SELECT g, 'n ' || g, g FROM {SERIES};",
    agree=(_differ("t", "(o.name, o.n, o.deleted, o.hits) IS NOT DISTINCT FROM (n.name, n.n, n.deleted, n.hits)"),),
)


def _enum(old: tuple[str, ...], new: tuple[str, ...], condition: str) -> Workload:
    return Workload(
        Side((Relation("t", {"mood": one_of(*old)}, counter=HITS),)),
        Side((Relation("t", {"mood": one_of(*new)}, counter=HITS),)),
        load=_counter("t") + f"INSERT INTO t (id, mood) SELECT g, 'sad' FROM {SERIES};",
        agree=(_differ("t", f"o.hits = n.hits AND ({condition})"),),
    )


S10_ENUM_ADD = _enum(
    ("sad", "ok"),
    ("sad", "ok", "happy"),
    "o.mood::text IS NOT DISTINCT FROM CASE n.mood::text WHEN 'happy' THEN 'ok' ELSE n.mood::text END",
)
S10_ENUM_RENAME = _enum(
    ("sad", "ok"),
    ("it's bad", "ok"),
    "n.mood::text IS NOT DISTINCT FROM CASE o.mood::text WHEN 'sad' THEN 'it''s bad' ELSE o.mood::text END",
)

# -- S11, S13, S14, S15, keys -----------------------------------------------------------------------------

_XY = {"x": one_of(3.0, 6.0, 0.0), "y": one_of(4.0, 8.0, 1.0)}
S11 = Workload(
    Side((Relation("places", _XY, counter=HITS),)),
    Side((Relation("places", {**_XY, "length": one_of(-1.0, -2.0)}, fixed=frozenset(_XY), counter=HITS),)),
    load=_counter("places") + f"INSERT INTO places SELECT g, 3, 4 FROM {SERIES};",
    agree=(
        _differ(
            "places",
            "o.hits = n.hits AND (o.x, o.y) = (n.x, n.y)"
            " AND (n.length < 0 OR abs(n.length - sqrt(o.x * o.x + o.y * o.y)) < 0.001)",
        ),
    ),
)

_REVIEW = {"username": word, "product": word}
S13 = Workload(
    Side((Relation("reviews", {**_REVIEW, "review": maybe(word)}, serial=True, counter=HITS),)),
    Side((Relation("reviews", {**_REVIEW, "review": word}, serial=True, fixed=frozenset({"product"}), counter=HITS),)),
    load=_counter("reviews")
    + f"INSERT INTO reviews SELECT g, 'u ' || g, 'p ' || g, nullif('r ' || g % 3, 'r 0') FROM {SERIES};"
    + _serial("reviews"),
    agree=(
        _differ(
            "reviews",
            "o.hits = n.hits AND (o.username, o.product) = (n.username, n.product)"
            " AND n.review = coalesce(o.review, o.product || ' is good')",
        ),
    ),
)

S14 = Workload(
    Side((Relation("old", {"data": stamp_text}, key="old_id", kind="uuid", serial=True, counter=HITS),)),
    Side((Relation("new", {"created_date": stamp}, key="new_id", kind="uuid", serial=True, counter=HITS),)),
    load=_counter("old")
    + "INSERT INTO old SELECT lpad(to_hex(g), 32, '0')::uuid, ('2022-05-04 10:00:00+00'::timestamptz +"
    + f" g * interval '1 second')::text FROM {SERIES};",
    agree=(
        _differ(
            "old", "o.hits = n.hits AND o.data::timestamptz = n.created_date", key="old_id", new_table="new",
            new_key="new_id",
        ),
    ),
)  # fmt: skip

S15 = Workload(
    Side((Relation("articles", {"title": maybe(word), "body": word}, kind="always", serial=True, counter=HITS),)),
    Side((Relation("articles", {"heading": maybe(word), "body": word}, kind="always", serial=True, counter=HITS),)),
    load=_counter("articles")
    + f"INSERT INTO articles (id, title, body) OVERRIDING SYSTEM VALUE SELECT g, 't ' || g, 'b ' || g FROM {SERIES};"
    + _serial("articles"),
    agree=(
        _differ(
            "articles",
            "(o.title, o.body, o.created_at, o.hits) IS NOT DISTINCT FROM (n.heading, n.body, n.created_at, n.hits)",
        ),
    ),
)

_FAMILY = Side(
    (
        Relation("parent", {"name": maybe(word)}, serial=True, counter=HITS),
        Relation("child", {}, links=("parent_id", "before_id")),
        Relation("visit", {}, links=("parent_id",)),
    )
)
KEYS = Workload(
    _FAMILY,
    _FAMILY,
    load=_counter("parent")
    + f"INSERT INTO parent (id, name) SELECT g, 'n ' || g FROM {SERIES};"
    + f"INSERT INTO child SELECT g, g, g FROM {SERIES};"
    + f"INSERT INTO visit SELECT g, g FROM {SERIES} WHERE g % 2 = 0;"
    + _serial("parent"),
    agree=(
        _differ("parent", "o.hits = n.hits AND o.name IS NOT DISTINCT FROM n.name"),
        _differ("child", "o.parent_id = n.parent_id AND o.before_id IS NOT DISTINCT FROM n.before_id"),
        _differ("visit", "o.parent_id = n.parent_id"),
    ),
)

WORKLOADS: dict[str, Workload] = {
    "s01_one_to_many": S01,
    "s02_upper_lower": S02,
    "s03_split": S03,
    "s04_json": S04,
    "s05_duplicate": S05_DUPLICATE,
    "s05_move": S05_MOVE,
    "s06_table_from_table": S06,
    "s07_rename": S07_RENAME,
    "s07_integer_to_text": S07_INTEGER_TO_TEXT,
    "s07_text_to_integer": S07_TEXT_TO_INTEGER,
    "s07_plus_1": S07_PLUS[1],
    "s07_plus_2": S07_PLUS[2],
    "s07_not_null": S07_NOT_NULL,
    "s07_nullable": S07_NULLABLE,
    "s07_default": S07_DEFAULT,
    "s08_default": S08_DEFAULT,
    "s08_nullable": S08_NULLABLE,
    "s08_up": S08_UP,
    "s08_volatile": S08_VOLATILE,
    "s09_tables": S09,
    "s10_index_unique": S10_INDEX,
    "s10_index_expression": S10_INDEX,
    "s10_index_dropped": S10_INDEX,
    "s10_enum_add": S10_ENUM_ADD,
    "s10_enum_rename": S10_ENUM_RENAME,
    "s11_custom_sql": S11,
    "s12_edited": S03,
    "s13_review": S13,
    "s14_table_replaced": S14,
    "s15_web_application": S15,
    "keys": KEYS,
}
