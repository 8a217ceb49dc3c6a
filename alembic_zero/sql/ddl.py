"""Statements on base tables and on trial copies of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic_zero.names import MARKER
from alembic_zero.sql.quoting import dollar_quoted, grantee, ident, idents, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alembic_zero.catalog.snapshot import (
        Column,
        Grant,
        Identity,
        Index,
        Statistics,
        TableSpec,
    )


def _storage_name(code: str) -> str:
    return {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}[code]


def _compression_name(code: str) -> str:
    return {"p": "pglz", "l": "lz4"}[code]


def _sequence_options(identity: Identity) -> str:
    cycle = "CYCLE" if identity.cycle else "NO CYCLE"
    return (
        f"START WITH {identity.start} INCREMENT BY {identity.increment} MINVALUE {identity.minimum} "
        f"MAXVALUE {identity.maximum} CACHE {identity.cache} {cycle}"
    )


def identity_clause(identity: Identity) -> str:
    """Return GENERATED ... AS IDENTITY with the sequence's options, without its name."""
    kind = "ALWAYS" if identity.always else "BY DEFAULT"
    return f"GENERATED {kind} AS IDENTITY ({_sequence_options(identity)})"


def column_clause(column: Column) -> str:
    """Return name, type and collation."""
    collate = f" COLLATE {column.collation}" if column.collation else ""
    return f"{ident(column.name)} {column.type}{collate}"


def _full_column(column: Column) -> str:
    text = column_clause(column)
    if column.generated:
        text += f" GENERATED ALWAYS AS ({column.default}) {'STORED' if column.generated == 's' else 'VIRTUAL'}"
    elif column.identity:
        text += " " + identity_clause(column.identity)
    elif column.default is not None:
        text += f" DEFAULT {column.default}"
    if column.not_null:
        name = f" CONSTRAINT {ident(column.not_null_name)}" if column.not_null_name else ""
        text += f"{name} NOT NULL"
    return text


def create_copy(spec: TableSpec, schema: str) -> list[str]:
    """Return the statements that build an empty copy of a logical table in another schema.

    Foreign keys are left out: adding one would lock the table that it references.
    """
    table = ident(schema, spec.name)
    statements = [f"CREATE TABLE {table} ({', '.join(_full_column(c) for c in spec.columns)})"]
    statements += [f"ALTER TABLE {table} ADD CONSTRAINT {ident(c.name)} {c.definition}" for c in spec.checks]
    for index in spec.indexes:
        statements += create_index(index, schema, spec.name)
    statements += [create_statistics(s, schema, table) for s in spec.statistics]
    for column in spec.columns:
        statements += column_settings(table, column, column.name)
        if column.comment is not None:
            statements.append(comment_on_column(table, column.name, column.comment))
    return statements


def create_index(index: Index, schema: str, table: str) -> list[str]:
    """Return CREATE INDEX, and the constraint that owns it, on a table that nobody uses yet."""
    relation = ident(schema, table)
    if index.constraint == "x":
        return [add_exclusion(relation, index.name, index.definition, index.constraint_suffix)]
    unique = "UNIQUE " if index.unique else ""
    statements = [f"CREATE {unique}INDEX {ident(index.name)} ON {relation} {index.definition}"]
    if index.constraint:
        statements.append(attach_constraint(relation, index, index.name))
    return statements


def add_exclusion(relation: str, name: str, definition: str, suffix: str) -> str:
    """Return ADD CONSTRAINT ... EXCLUDE; *definition* starts at ``USING``."""
    return f"ALTER TABLE {relation} ADD CONSTRAINT {ident(name)} EXCLUDE {definition}{suffix}"


def refuse_rows(table: str, what: str) -> str:
    """Return a block that fails if the table has a row; *what* cannot be added to one that has."""
    message = f"{what}: table {table} is not empty any more"
    return block(
        f"BEGIN\n  IF EXISTS (SELECT FROM {table}) THEN\n"
        f"    RAISE EXCEPTION USING MESSAGE = {literal(message)};\n  END IF;\nEND"
    )


def attach_constraint(relation: str, index: Index, index_name: str) -> str:
    """Return ADD CONSTRAINT ... USING INDEX; the server renames the index to the constraint's name."""
    kind = "PRIMARY KEY" if index.constraint == "p" else "UNIQUE"
    return (
        f"ALTER TABLE {relation} ADD CONSTRAINT {ident(index.name)} {kind} USING INDEX "
        f"{ident(index_name)}{index.constraint_suffix}"
    )


def create_index_concurrently(physical: str, definition: str, schema: str, table: str, *, unique: bool) -> str:
    """Return CREATE INDEX CONCURRENTLY; its name is never qualified, it lives beside its table."""
    kind = "UNIQUE INDEX" if unique else "INDEX"
    return f"CREATE {kind} CONCURRENTLY {ident(physical)} ON {ident(schema, table)} {definition}"


def create_statistics(statistics: Statistics, schema: str, table: str) -> str:
    """Return CREATE STATISTICS on a relation given as SQL text."""
    return f"CREATE STATISTICS {ident(schema, statistics.name)} {statistics.definition} FROM {table}"


def column_settings(table: str, column: Column, physical: str) -> list[str]:
    """Return what ADD COLUMN cannot say: storage, compression, statistics target, options."""
    prefix = f"ALTER TABLE {table} ALTER COLUMN {ident(physical)}"
    statements = []
    if column.storage:
        statements.append(f"{prefix} SET STORAGE {_storage_name(column.storage)}")
    if column.compression:
        statements.append(f"{prefix} SET COMPRESSION {_compression_name(column.compression)}")
    if column.statistics_target is not None:
        statements.append(f"{prefix} SET STATISTICS {column.statistics_target}")
    if column.options:
        pairs = (option.split("=", 1) for option in column.options)
        statements.append(f"{prefix} SET ({', '.join(f'{ident(k)} = {v}' for k, v in pairs)})")
    return statements


def add_column(table: str, column: Column, physical: str) -> str:
    """Return ADD COLUMN with type and collation only: no scan, no rewrite."""
    collate = f" COLLATE {column.collation}" if column.collation else ""
    return f"ALTER TABLE {table} ADD COLUMN {ident(physical)} {column.type}{collate}"


def add_constant_column(table: str, column: Column, physical: str) -> str:
    """Return ADD COLUMN with default and NOT NULL: metadata only as long as nothing in it is volatile."""
    text = add_column(table, column, physical)
    if column.generated:
        text += f" GENERATED ALWAYS AS ({column.default}) {'STORED' if column.generated == 's' else 'VIRTUAL'}"
    elif column.default is not None:
        text += f" DEFAULT {column.default}"
    if column.not_null:
        text += " NOT NULL"
    return text


def set_default(table: str, physical: str, default: str | None) -> str:
    """Return SET or DROP DEFAULT."""
    action = "DROP DEFAULT" if default is None else f"SET DEFAULT {default}"
    return f"ALTER TABLE {table} ALTER COLUMN {ident(physical)} {action}"


def drop_not_null(table: str, physical: str) -> str:
    """Return DROP NOT NULL."""
    return f"ALTER TABLE {table} ALTER COLUMN {ident(physical)} DROP NOT NULL"


def set_not_null(table: str, physical: str) -> str:
    """Return SET NOT NULL; with a validated CHECK it needs no scan."""
    return f"ALTER TABLE {table} ALTER COLUMN {ident(physical)} SET NOT NULL"


def drop_column(table: str, physical: str) -> str:
    """Return DROP COLUMN, never with CASCADE; IF EXISTS, so that a half-made expansion can go."""
    return f"ALTER TABLE {table} DROP COLUMN IF EXISTS {ident(physical)}"


def rename_column(table: str, before: str, after: str) -> str:
    """Return RENAME COLUMN."""
    return f"ALTER TABLE {table} RENAME COLUMN {ident(before)} TO {ident(after)}"


def add_marker(table: str) -> str:
    """Return ADD COLUMN for the marker."""
    return f"ALTER TABLE {table} ADD COLUMN {ident(MARKER)} integer"


def add_check(table: str, name: str, definition: str) -> str:
    """Return ADD CONSTRAINT ... NOT VALID: no scan; VALIDATE belongs in a later transaction."""
    suffix = "" if definition.endswith(" NOT VALID") else " NOT VALID"
    return f"ALTER TABLE {table} ADD CONSTRAINT {ident(name)} {definition}{suffix}"


def add_foreign_key(table: str, name: str, columns: Sequence[str], references: str) -> str:
    """Return ADD CONSTRAINT ... FOREIGN KEY ... NOT VALID; *references* starts at ``REFERENCES``."""
    suffix = "" if references.endswith(("NOT VALID", "NOT ENFORCED")) else " NOT VALID"
    return f"ALTER TABLE {table} ADD CONSTRAINT {ident(name)} FOREIGN KEY ({idents(columns)}) {references}{suffix}"


def validate(table: str, name: str) -> str:
    """Return VALIDATE CONSTRAINT: scans under SHARE UPDATE EXCLUSIVE."""
    return f"ALTER TABLE {table} VALIDATE CONSTRAINT {ident(name)}"


def drop_constraint(table: str, name: str) -> str:
    """Return DROP CONSTRAINT IF EXISTS."""
    return f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {ident(name)}"


def drop_index(schema: str, name: str) -> str:
    """Return DROP INDEX IF EXISTS, which takes ACCESS EXCLUSIVE on the table."""
    return f"DROP INDEX IF EXISTS {ident(schema, name)}"


def rename_constraint(table: str, before: str, after: str) -> str:
    """Return RENAME CONSTRAINT."""
    return f"ALTER TABLE {table} RENAME CONSTRAINT {ident(before)} TO {ident(after)}"


def comment_on_constraint(table: str, name: str, comment: str) -> str:
    """Return COMMENT ON CONSTRAINT."""
    return f"COMMENT ON CONSTRAINT {ident(name)} ON {table} IS {literal(comment)}"


def comment_on_column(table: str, column: str, comment: str | None) -> str:
    """Return COMMENT ON COLUMN."""
    return f"COMMENT ON COLUMN {table}.{ident(column)} IS {'NULL' if comment is None else literal(comment)}"


def grant_on_column(table: str, column: str, grant: Grant) -> str:
    """Return GRANT for one column."""
    option = " WITH GRANT OPTION" if grant.grantable else ""
    return f"GRANT {grant.privilege} ({ident(column)}) ON {table} TO {grantee(grant.grantee)}{option}"


def revoke_on_column(table: str, column: str, grant: Grant) -> str:
    """Return REVOKE for one column, and for whom its grantee has given it on."""
    return f"REVOKE {grant.privilege} ({ident(column)}) ON {table} FROM {grantee(grant.grantee)} CASCADE"


def drop_functions(schema: str, names: Iterable[str]) -> str:
    """Return one DROP FUNCTION IF EXISTS for functions whose names are their own alone."""
    return f"DROP FUNCTION IF EXISTS {', '.join(ident(schema, name) for name in names)}"


def lock_table(relation: str, mode: str) -> str:
    """Return LOCK TABLE for a relation given as SQL text."""
    return f"LOCK TABLE {relation} IN {mode} MODE"


def set_timeouts(lock_timeout: int | str, statement_timeout: int | str = 0) -> str:
    """Return the statement that sets both for the transaction, in milliseconds or with a unit."""
    return (
        f"SELECT set_config('lock_timeout', '{lock_timeout}', true),"
        f" set_config('statement_timeout', '{statement_timeout}', true)"
    )


def read_timeouts() -> str:
    """Return the query for both, in that order."""
    return "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"


def take_locks(views: Sequence[str], tables: Sequence[tuple[str, str]], timeout_ms: int) -> str:
    """Return one statement that takes locks in the order given, views first, and waits *timeout_ms* for all together.

    A view is locked by something that changes nothing: LOCK TABLE on it goes on to its table at once, before the
    next view, and clients of that one would hold the table while they wait for the view.

    :param views: SQL text.
    :param tables: SQL text and lock mode.
    """
    left = "GREATEST(1, ceil(extract(epoch FROM give_up - clock_timestamp()) * 1000))::int::text"
    steps = [f"ALTER VIEW {view} RESET (security_barrier)" for view in views]
    steps += [lock_table(relation, mode) for relation, mode in tables]
    timed = "".join(f"  PERFORM set_config('lock_timeout', {left}, true);\n  {step};\n" for step in steps)
    # What the step itself may still have to wait for, a sequence for example, is short in any case.
    rest = f"  PERFORM set_config('lock_timeout', '{max(1, timeout_ms // 4)}', true);\n"
    declared = f"  give_up timestamptz := clock_timestamp() + interval '{timeout_ms} ms';\n"
    return f"DO {dollar_quoted(f'{chr(10)}DECLARE{chr(10)}{declared}BEGIN{chr(10)}{timed}{rest}END{chr(10)}')}"


def _in_format(name: str) -> str:
    """Return a quoted name for a template of the server's format(), in which a percent sign is doubled."""
    return name.replace("%", "%%")


def rename_not_null(table: str, column: str, wanted: str) -> str:
    """Return a block that renames whatever NOT NULL constraint the column has (PostgreSQL 18)."""
    template = f"ALTER TABLE {_in_format(table)} RENAME CONSTRAINT %I TO %I"
    body = (
        "DECLARE found text;\nBEGIN\n"
        "  SELECT c.conname INTO found FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid\n"
        f"   WHERE c.conrelid = {literal(table)}::regclass AND c.contype = 'n' AND a.attname = {literal(column)}\n"
        "     AND c.conkey = ARRAY[a.attnum];\n"
        f"  IF found <> {literal(wanted)} THEN\n"
        f"    EXECUTE format({literal(template)}, found, {literal(wanted)});\n"
        "  END IF;\nEND"
    )
    return block(body)


def next_value(schema: str, sequence: str) -> str:
    """Return the expression that takes a sequence's next value."""
    return f"nextval({literal(ident(schema, sequence))}::regclass)"


def create_numbers(schema: str, sequence: str, identity: Identity) -> list[str]:
    """Return the statements that create a sequence which stands in for an identity: everybody may use it, too.

    Whoever is given INSERT on the table later needs no right on an identity either.
    """
    name = ident(schema, sequence)
    return [
        f"CREATE SEQUENCE {name} AS {identity.type} {_sequence_options(identity)}",
        revoke_from_all(name),
        f"GRANT USAGE ON SEQUENCE {name} TO PUBLIC",
    ]


def drop_sequence(schema: str, sequence: str) -> str:
    """Return DROP SEQUENCE IF EXISTS."""
    return f"DROP SEQUENCE IF EXISTS {ident(schema, sequence)}"


def become_identity(schema: str, table: str, column: str, identity: Identity, numbers: tuple[str, str]) -> str:
    """Return a block that gives a column its identity, which goes on where the sequence *numbers* stands."""
    relation = ident(schema, table)
    sequence = ident(schema, identity.sequence)
    kind = "ALWAYS" if identity.always else "BY DEFAULT"
    body = (
        "DECLARE last bigint; called boolean;\nBEGIN\n"
        f"  SELECT last_value, is_called INTO last, called FROM {ident(*numbers)};\n"
        f"  ALTER TABLE {relation} ALTER COLUMN {ident(column)} DROP DEFAULT;\n"
        f"  ALTER TABLE {relation} ALTER COLUMN {ident(column)} ADD GENERATED {kind} AS IDENTITY "
        f"(SEQUENCE NAME {sequence} {_sequence_options(identity)});\n"
        f"  PERFORM setval({literal(sequence)}::regclass, last, called);\nEND"
    )
    return block(body)


def move_identity(schema: str, table: str, before: str, after: str, identity: Identity) -> str:
    """Return a block that gives *after* an identity which goes on where *before*'s sequence stands.

    ADD GENERATED takes only constants, so the next value is read inside the block, under the
    table's lock; then START WITH is set back to what plain DDL would have left.
    """
    relation = ident(schema, table)
    kind = "ALWAYS" if identity.always else "BY DEFAULT"
    sequence = ident(schema, identity.sequence)
    options = _sequence_options(identity).replace(f"START WITH {identity.start} ", "")
    template = (
        f"ALTER TABLE {_in_format(relation)} ALTER COLUMN {_in_format(ident(after))} ADD GENERATED {kind} AS IDENTITY "
        f"(SEQUENCE NAME {_in_format(sequence)} START WITH %s {options})"
    )
    role = "CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END"
    # The new sequence has the old one's rights, not those of ALTER DEFAULT PRIVILEGES.
    revoke, grant = f"REVOKE ALL ON SEQUENCE {sequence} FROM ", f"GRANT %s ON SEQUENCE {_in_format(sequence)} TO %s"
    body = (
        "DECLARE last bigint; called boolean; rights aclitem[]; found record;\nBEGIN\n"
        f"  SELECT last_value, is_called INTO last, called FROM {sequence};\n"
        f"  SELECT c.relacl INTO rights FROM pg_class c WHERE c.oid = {literal(sequence)}::regclass;\n"
        f"  {drop_column(relation, before)};\n"
        f"  EXECUTE format({literal(template)}, last);\n"
        f"  PERFORM setval({literal(sequence)}::regclass, last, called);\n"
        f"  ALTER SEQUENCE {sequence} START WITH {identity.start};\n"
        f"  FOR found IN SELECT {role} AS role FROM pg_class c, LATERAL aclexplode(c.relacl) AS x\n"
        f"                WHERE c.oid = {literal(sequence)}::regclass AND x.grantee <> c.relowner LOOP\n"
        f"    EXECUTE {literal(revoke)} || found.role;\n  END LOOP;\n"
        f"  FOR found IN SELECT {role} AS role, x.privilege_type FROM aclexplode(rights) AS x\n"
        "                WHERE x.grantee <> x.grantor LOOP\n"
        f"    EXECUTE format({literal(grant)}, found.privilege_type, found.role);\n  END LOOP;\nEND"
    )
    return block(body)


def block(body: str) -> str:
    """Return an anonymous PL/pgSQL block."""
    return f"DO {dollar_quoted(body)}"


def revoke_from_all(relation: str) -> str:
    """Return a block that takes back what ALTER DEFAULT PRIVILEGES has given on a new relation of ours."""
    return _revoke(relation, "pg_class c, LATERAL aclexplode(c.relacl) AS x", f"c.oid = {literal(relation)}::regclass",
                   "c.relowner")  # fmt: skip


def give_to(kind: str, schema: str, name: str, owner: str) -> str:
    """Return a block that makes a role the owner of something in a schema of ours.

    Who is no superuser can do that only if the new owner may create things there: for this moment it may.

    :param kind: ``VIEW`` or ``TYPE``.
    """
    right = f"CREATE ON SCHEMA {ident(schema)}"
    body = (
        "DECLARE closed boolean;\nBEGIN\n"
        f"  closed := NOT has_schema_privilege({literal(owner)}::name, {literal(schema)}::text, 'CREATE');\n"
        f"  IF closed THEN GRANT {right} TO {ident(owner)}; END IF;\n"
        f"  ALTER {kind} {ident(schema, name)} OWNER TO {ident(owner)};\n"
        f"  IF closed THEN REVOKE {right} FROM {ident(owner)}; END IF;\nEND"
    )
    return block(body)


def revoke_everything(relation: str) -> str:
    """Return a block that takes back whatever anybody but its owner may do with a relation of ours, or its columns."""
    rights = (
        "pg_class c, LATERAL (SELECT r.grantee FROM aclexplode(c.relacl) AS r UNION ALL\n"
        "    SELECT r.grantee FROM pg_attribute a, LATERAL aclexplode(a.attacl) AS r WHERE a.attrelid = c.oid) AS x"
    )
    return _revoke(relation, rights, f"c.oid = {literal(relation)}::regclass", "c.relowner")


def close_function(schema: str, name: str) -> str:
    """Return a block that leaves a function of ours, whose name is its own alone, to its owner.

    A trigger needs no right to call it; a client could do with it what it may not do itself.
    """
    function = ident(schema, name)
    rights = "pg_proc p, LATERAL aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS x"
    return _revoke(f"FUNCTION {function}", rights, f"p.oid = {literal(function)}::regproc", "p.proowner")


def close_schema(schema: str) -> str:
    """Return a block that takes back what ALTER DEFAULT PRIVILEGES has given on a new schema of ours."""
    rights = "pg_namespace n, LATERAL aclexplode(n.nspacl) AS x"
    return _revoke(f"SCHEMA {ident(schema)}", rights, f"n.nspname = {literal(schema)}", "n.nspowner")


def close_type(schema: str, name: str) -> str:
    """Return a block that leaves a new type to its owner, whatever the defaults give to others."""
    rights = "pg_type t, LATERAL aclexplode(COALESCE(t.typacl, acldefault('T', t.typowner))) AS x"
    type_ = ident(schema, name)
    return _revoke(f"TYPE {type_}", rights, f"t.oid = {literal(type_)}::regtype", "t.typowner")


def _revoke(what: str, rights: str, condition: str, owner: str) -> str:
    """Return a block that takes every right on something from everybody but its owner."""
    body = (
        "DECLARE role text;\nBEGIN\n"
        "  FOR role IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC'\n"
        "                                   ELSE quote_ident(pg_get_userbyid(x.grantee)) END\n"
        f"                FROM {rights}\n"
        f"               WHERE {condition} AND x.grantee <> {owner} LOOP\n"
        f"    EXECUTE {literal(f'REVOKE ALL ON {what} FROM ')} || role || ' CASCADE';\n  END LOOP;\nEND"
    )
    return block(body)


def rename_index_columns(index: str) -> str:
    """Return a block that renames an index's own columns, which keep a column's temporary name."""
    template = f"ALTER TABLE {_in_format(index)} RENAME COLUMN %I TO %I"
    body = (
        "DECLARE found record;\nBEGIN\n"
        "  FOR found IN SELECT ia.attname AS before, ta.attname AS after\n"
        "                 FROM pg_index i\n"
        "                 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)\n"
        "                 JOIN pg_attribute ia ON ia.attrelid = i.indexrelid AND ia.attnum = k.position\n"
        "                 JOIN pg_attribute ta ON ta.attrelid = i.indrelid AND ta.attnum = k.attnum\n"
        f"                WHERE i.indexrelid = {literal(index)}::regclass AND starts_with(ia.attname, '_zd_') LOOP\n"
        f"    EXECUTE format({literal(template)}, found.before, found.after);\n"
        "  END LOOP;\nEND"
    )
    return block(body)


def own_sequence(sequence: str, owner: str) -> str:
    """Return ALTER SEQUENCE ... OWNED BY; both given as SQL text."""
    return f"ALTER SEQUENCE {sequence} OWNED BY {owner}"


def rename_pairs(pairs: Iterable[tuple[str, str]], table: str) -> list[str]:
    """Return RENAME COLUMN for each (before, after), by way of temporary names where they collide."""
    return [rename_column(table, before, after) for before, after in in_turns(pairs)]


def in_turns(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return renames, each (before, after), in an order that works: by way of temporary names where they collide."""
    wanted = [(before, after) for before, after in pairs if before != after]
    sources = {before for before, _ in wanted}
    detour = {before: f"_zd_rename_{n}" for n, (before, after) in enumerate(wanted) if after in sources}
    straight = [(before, after) for before, after in wanted if before not in detour]
    return [*detour.items(), *straight, *((detour[before], after) for before, after in wanted if before in detour)]
