-- name: publications
-- Publications that carry a table, or one of its partitions (PostgreSQL 15 and later).
SELECT p.pubname AS name,
       CASE WHEN p.puballtables THEN 'all' WHEN r.prrelid = :oid THEN 'table' WHEN r.prrelid IS NOT NULL THEN 'partition'
            ELSE 'schema' END AS scope,
       CASE WHEN r.prattrs IS NOT NULL THEN
            ARRAY(SELECT a.attname::text FROM pg_attribute a
                   WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[]) ORDER BY a.attnum) END AS columns,
       pg_get_expr(r.prqual, r.prrelid) AS condition,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = r.prrelid AND a.attnum IN (
                    SELECT m.number[1]::int FROM regexp_matches(r.prqual::text, ':varattno (\d+)', 'g') AS m(number))
              ORDER BY a.attnum) AS condition_columns,
       pg_has_role(p.pubowner, 'USAGE') AS owned,
       p.pubupdate OR p.pubdelete AS sends_old_rows,
       p.pubviaroot AS via_root,
       COALESCE(to_jsonb(p) ->> 'pubgencols' = 's', false) AS generated
  FROM pg_publication p
  LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid
   AND (r.prrelid = :oid OR r.prrelid IN (SELECT t.relid FROM pg_partition_tree(:oid) t))
 WHERE p.puballtables OR r.prrelid IS NOT NULL
    OR EXISTS (SELECT FROM pg_publication_namespace s
                 JOIN pg_class c ON c.relnamespace = s.pnnspid
                WHERE s.pnpubid = p.oid AND (c.oid = :oid OR c.oid IN (SELECT t.relid FROM pg_partition_tree(:oid) t)))
 ORDER BY 1, 2

-- name: publications_14
-- Publications that carry a table, or one of its partitions (PostgreSQL 14).
SELECT p.pubname AS name,
       CASE WHEN p.puballtables THEN 'all' WHEN r.prrelid = :oid THEN 'table' ELSE 'partition' END AS scope,
       NULL::text[] AS columns, NULL::text AS condition, '{}'::text[] AS condition_columns,
       pg_has_role(p.pubowner, 'USAGE') AS owned,
       p.pubupdate OR p.pubdelete AS sends_old_rows,
       p.pubviaroot AS via_root,
       false AS generated
  FROM pg_publication p
  LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid
   AND (r.prrelid = :oid OR r.prrelid IN (SELECT t.relid FROM pg_partition_tree(:oid) t))
 WHERE p.puballtables OR r.prrelid IS NOT NULL
 ORDER BY 1, 2

-- name: publications_of_all
-- Publications FOR ALL TABLES.
SELECT p.pubname AS name
  FROM pg_publication p
 WHERE p.puballtables
 ORDER BY 1

-- name: subscriptions
-- Subscriptions that write to a table, or to one of its partitions.
SELECT DISTINCT s.subname AS name
  FROM pg_subscription_rel r
  JOIN pg_subscription s ON s.oid = r.srsubid
 WHERE r.srrelid = :oid OR r.srrelid IN (SELECT t.relid FROM pg_partition_tree(:oid) t)
 ORDER BY 1
