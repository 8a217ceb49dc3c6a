"""The direct road for columns that foreign keys join: let go of the keys, convert, take them back.

PostgreSQL refuses types that do not compare and values that do not match, although the revision is about to
convert the other end, too. A key that cannot be taken back yet waits in a temporary table, by the numbers of
its columns; if it still waits at COMMIT, the transaction fails.
"""

from __future__ import annotations

_JOINED = """\
pg_catalog.pg_constraint AS c
         WHERE c.contype = 'f' AND c.conparentid = 0 AND EXISTS (
               SELECT FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = {table}::pg_catalog.regclass AND a.attname = {column}
                  AND (a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                       OR a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)))"""

_NAMES = """\
(SELECT pg_catalog.string_agg(pg_catalog.quote_ident(n.attname), ', ' ORDER BY u.position)
              FROM pg_catalog.unnest({numbers}) WITH ORDINALITY AS u(number, position)
              JOIN pg_catalog.pg_attribute AS n ON n.attrelid = {relation} AND n.attnum = u.number)"""

_DEFINITION = """\
pg_catalog.format('FOREIGN KEY (%s) REFERENCES %s(%s)',
            {columns},
            {referenced}::pg_catalog.regclass,
            {referenced_columns})"""


def _definition(row: str, relation: str, numbers: str, referenced: str, referenced_numbers: str) -> str:
    """Return SQL for a key's definition up to its referenced columns, as they are called now."""
    return _DEFINITION.format(
        columns=_NAMES.format(numbers=f"{row}.{numbers}", relation=f"{row}.{relation}"),
        referenced=f"{row}.{referenced}",
        referenced_columns=_NAMES.format(numbers=f"{row}.{referenced_numbers}", relation=f"{row}.{referenced}"),
    )


_LET_GO = """\
DO $zd$
DECLARE
    key record;
BEGIN
    CREATE TEMPORARY TABLE IF NOT EXISTS _zd_foreign_keys (
        relation oid, name text, numbers int2[], referenced oid, referenced_numbers int2[], tail text, remark text
    ) ON COMMIT DROP;
    CREATE OR REPLACE FUNCTION pg_temp._zd_foreign_key_is_back() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN
            PERFORM FROM pg_temp._zd_foreign_keys AS k WHERE k.relation = NEW.relation AND k.name = NEW.name;
            IF FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch', MESSAGE = pg_catalog.format(
                    'foreign key %I of %s does not hold any more: change both of its ends',
                    NEW.name, NEW.relation::pg_catalog.regclass);
            END IF;
            RETURN NULL;
        END $body$;
    PERFORM FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = 'pg_temp._zd_foreign_keys'::pg_catalog.regclass;
    IF NOT FOUND THEN
        CREATE CONSTRAINT TRIGGER is_back AFTER INSERT ON pg_temp._zd_foreign_keys DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION pg_temp._zd_foreign_key_is_back();
    END IF;
    FOR key IN
        SELECT c.*, c.conrelid::pg_catalog.regclass::text AS relation,
               pg_catalog.substr(pg_catalog.pg_get_constraintdef(c.oid), 1 + pg_catalog.length(
            {definition})) AS tail,
               pg_catalog.obj_description(c.oid, 'pg_constraint') AS remark
          FROM {joined}
    LOOP
        INSERT INTO pg_temp._zd_foreign_keys
        VALUES (key.conrelid, key.conname, key.conkey, key.confrelid, key.confkey, key.tail, key.remark);
        EXECUTE pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', key.relation, key.conname);
    END LOOP;
END
$zd$"""

TAKE_BACK = f"""\
DO $zd$
DECLARE
    key record;
BEGIN
    FOR key IN
        SELECT k.*, k.relation::pg_catalog.regclass::text AS place,
            {_definition("k", "relation", "numbers", "referenced", "referenced_numbers")} AS definition
          FROM pg_temp._zd_foreign_keys AS k
         ORDER BY k.relation, k.name
    LOOP
        BEGIN
            EXECUTE pg_catalog.format(
                'ALTER TABLE %s ADD CONSTRAINT %I %s%s', key.place, key.name, key.definition, key.tail);
            IF key.remark IS NOT NULL THEN
                EXECUTE pg_catalog.format(
                    'COMMENT ON CONSTRAINT %I ON %s IS %L', key.name, key.place, key.remark);
            END IF;
            DELETE FROM pg_temp._zd_foreign_keys AS k WHERE k.relation = key.relation AND k.name = key.name;
        EXCEPTION WHEN datatype_mismatch OR foreign_key_violation THEN
            NULL;
        END;
    END LOOP;
END
$zd$"""


def let_go(table: str, column: str) -> str:
    """Return the block that drops and notes the foreign keys of a column; both given as SQL literals.

    :data:`TAKE_BACK` adds them again, as far as they hold by then.
    """
    definition = _definition("c", "conrelid", "conkey", "confrelid", "confkey")
    return _LET_GO.format(definition=definition, joined=_JOINED.format(table=table, column=column))


def ask_for_keys(table: str, column: str) -> str:
    """Return the query whether foreign keys join the column, or wait to be taken back."""
    joined = _JOINED.format(table=table, column=column)
    return (
        f"SELECT EXISTS (SELECT FROM {joined})\n    OR pg_catalog.to_regclass('pg_temp._zd_foreign_keys') IS NOT NULL"
    )
