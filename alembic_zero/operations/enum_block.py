"""The direct road's exchange of an enum: one block, for a database that nobody is connected to.

Needs no look at the database before, so that ``--sql`` can write it, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy.dialects.postgresql.base import PGDialect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PREPARER = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]

# Labels that only get another name do so in place: every literal in defaults, CHECKs and predicates
# follows. What that cannot do needs another type. Labels that go have temporary names by then, so that no
# text of a definition can mean another label.
_BLOCK = """\
DO {tag}
DECLARE
    enum oid := {name}::pg_catalog.regtype;
    labels text[] := {labels};
    wanted jsonb := {up};
    gone jsonb := '{{}}';
    full_name text;
    former text;
    remark text := obj_description(enum, 'pg_type');
    rights aclitem[] := (SELECT t.typacl FROM pg_type t WHERE t.oid = enum);
    later text[] := '{{}}';
    found record;
    label record;
    part text;
    value text;
BEGIN
    SELECT format('%I.%I', n.nspname, t.typname), format('%I.%I', n.nspname, '_zd_former')
      INTO full_name, former
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = enum;
    FOR label IN SELECT u.key, u.value, '_zd_label_' || row_number() OVER (ORDER BY u.key) || '_' AS name,
                        count(*) OVER (PARTITION BY u.value) AS sources
                   FROM jsonb_each_text(wanted) AS u WHERE u.key IS DISTINCT FROM u.value LOOP
        EXECUTE format('ALTER TYPE %s RENAME VALUE %L TO %L', full_name, label.key, label.name);
        gone := gone || jsonb_build_object(label.name, label.value);
    END LOOP;
    FOR label IN SELECT g.key, g.value FROM jsonb_each_text(gone) AS g
                  WHERE g.value IS NOT NULL AND (SELECT count(*) FROM jsonb_each_text(gone) AS o
                                                  WHERE o.value = g.value) = 1 LOOP
        IF NOT EXISTS (SELECT FROM pg_enum e WHERE e.enumtypid = enum AND e.enumlabel = label.value) THEN
            EXECUTE format('ALTER TYPE %s RENAME VALUE %L TO %L', full_name, label.key, label.value);
            gone := gone - label.key;
        END IF;
    END LOOP;
    IF labels = ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = enum ORDER BY e.enumsortorder) THEN
        RETURN;
    END IF;

    FOR found IN
        SELECT c.oid::regclass::text AS relation, con.conname AS name, pg_get_constraintdef(con.oid) AS definition,
               obj_description(con.oid, 'pg_constraint') AS remark
          FROM pg_constraint con JOIN pg_class c ON c.oid = con.conrelid
         WHERE con.contype = 'c' AND con.conislocal AND con.coninhcount = 0
           AND EXISTS (SELECT FROM pg_depend d JOIN pg_type t ON t.oid = d.refobjid
                        WHERE d.classid = 'pg_constraint'::regclass AND d.objid = con.oid
                          AND d.refclassid = 'pg_type'::regclass AND enum IN (t.oid, t.typelem))
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.relation, found.name);
        later := later || format('ALTER TABLE %s ADD CONSTRAINT %I %s', found.relation, found.name, found.definition);
        IF found.remark IS NOT NULL THEN
            later := later || format('COMMENT ON CONSTRAINT %I ON %s IS %L', found.name, found.relation, found.remark);
        END IF;
    END LOOP;
    FOR found IN
        SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition,
               obj_description(i.indexrelid, 'pg_class') AS remark
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE NOT c.relispartition
           AND EXISTS (SELECT FROM pg_depend d JOIN pg_type t ON t.oid = d.refobjid
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                          AND d.refclassid = 'pg_type'::regclass AND enum IN (t.oid, t.typelem))
    LOOP
        EXECUTE format('DROP INDEX %s', found.name);
        later := later || found.definition;
        IF found.remark IS NOT NULL THEN
            later := later || format('COMMENT ON INDEX %s IS %L', found.name, found.remark);
        END IF;
    END LOOP;
    FOR found IN
        SELECT c.oid::regclass::text AS relation, a.attname AS name, pg_get_expr(f.adbin, f.adrelid) AS definition
          FROM pg_attrdef f JOIN pg_class c ON c.oid = f.adrelid
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = f.adnum
          JOIN pg_type t ON t.oid = a.atttypid
         WHERE enum IN (t.oid, t.typelem) AND a.attgenerated = '' AND c.relkind IN ('r', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', found.relation, found.name);
        part := found.definition;
        FOR label IN SELECT g.key, g.value FROM jsonb_each_text(gone) AS g LOOP
            part := replace(part, quote_literal(label.key), COALESCE(quote_literal(label.value), 'NULL'));
            part := replace(part, label.key, COALESCE('"' || replace(label.value, '''', '''''') || '"', 'NULL'));
        END LOOP;
        later := later
            || format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', found.relation, found.name, part);
    END LOOP;

    EXECUTE format('ALTER TYPE %s RENAME TO _zd_former', full_name);
    EXECUTE format('CREATE TYPE %s AS ENUM (%s)', full_name,
                   (SELECT string_agg(quote_literal(l.label), ', ' ORDER BY l.position)
                      FROM unnest(labels) WITH ORDINALITY AS l(label, position)));
    FOR found IN
        SELECT c.oid::regclass::text AS relation, string_agg(format(
                   'ALTER COLUMN %I TYPE %s USING ', a.attname,
                   full_name || CASE WHEN t.oid = enum THEN '' ELSE '[]' END)
                   || CASE WHEN t.oid = enum THEN format('(%s)::%s', (
                          SELECT COALESCE(
                                     'CASE ' || string_agg(
                                         format('WHEN %I::text = %L THEN %L', a.attname, g.key, g.value), ' ')
                                     || format(' ELSE %I::text END', a.attname),
                                     format('%I::text', a.attname))
                            FROM jsonb_each_text(gone) AS g), full_name)
                      ELSE format('(%s%I::text[]%s)::%s[]', (
                          SELECT repeat('array_replace(', count(*)::int) FROM jsonb_each_text(gone) AS g), a.attname, (
                          SELECT COALESCE(string_agg(format(', %L, %L)', g.key, g.value), ''), '')
                            FROM jsonb_each_text(gone) AS g), full_name)
                      END, ', ' ORDER BY a.attnum) AS actions
          FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0
          JOIN pg_type t ON t.oid = a.atttypid AND enum IN (t.oid, t.typelem)
         WHERE c.relkind IN ('r', 'p')
         GROUP BY c.oid
         ORDER BY c.oid
    LOOP
        EXECUTE format('ALTER TABLE %s %s', found.relation, found.actions);
    END LOOP;
    EXECUTE format('DROP TYPE %s', former);
    FOREACH part IN ARRAY later LOOP
        FOR value IN SELECT g.key FROM jsonb_object_keys(gone) AS g(key) LOOP
            IF position(value IN part) > 0 THEN
                RAISE EXCEPTION 'a label that goes is used: %', part;
            END IF;
        END LOOP;
        EXECUTE part;
    END LOOP;
    IF remark IS NOT NULL THEN
        EXECUTE format('COMMENT ON TYPE %s IS %L', full_name, remark);
    END IF;
    IF rights IS NOT NULL THEN
        EXECUTE format('REVOKE ALL ON TYPE %s FROM PUBLIC', full_name);
        FOR found IN SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC'
                                           ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS role,
                            x.is_grantable FROM aclexplode(rights) AS x LOOP
            EXECUTE format('GRANT USAGE ON TYPE %s TO %s%s', full_name, found.role,
                           CASE WHEN found.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
        END LOOP;
    END IF;
END
{tag}"""


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def render_block(name: str, schema: str | None, labels: Sequence[str], up: Mapping[str, str | None]) -> str:
    """Return the block that gives an enum these labels, and every column of it the type's values.

    Rewrites tables under ACCESS EXCLUSIVE, unless labels are only renamed.
    """
    quoted = _PREPARER.quote_identifier(name)
    if schema is not None:
        quoted = f"{_PREPARER.quote_identifier(schema)}.{quoted}"
    tag = "$zd$"
    while any(tag in part for part in (name, schema or "", *labels, *up, *(v or "" for v in up.values()))):
        tag = f"${tag.strip('$')}_$"
    return _BLOCK.format(
        tag=tag,
        name=_literal(quoted),
        labels=f"ARRAY[{', '.join(_literal(label) for label in labels)}]",
        up=_literal(json.dumps(dict(up), ensure_ascii=False)) + "::jsonb",
    )
