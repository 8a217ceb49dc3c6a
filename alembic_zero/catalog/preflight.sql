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

-- name: health
-- What a migration of a table has to know of it beyond its shape: sizes, rights, what others have left half done.
SELECT c.relnatts::int AS attributes,
       pg_has_role(c.relowner, 'USAGE')
         AND NOT EXISTS (SELECT FROM pg_partition_tree(:oid) t JOIN pg_class l ON l.oid = t.relid
                          WHERE NOT pg_has_role(l.relowner, 'USAGE')) AS owned,
       has_schema_privilege(c.relnamespace, 'CREATE') AS may_create,
       GREATEST(c.reltuples, s.rows, 0)::bigint AS rows, s.heap::bigint AS heap, s.indexes::bigint AS indexes,
       (SELECT count(*)::int FROM pg_index i WHERE i.indrelid = :oid) AS index_count,
       COALESCE(s.age, 0)::bigint AS frozen_age, current_setting('autovacuum_freeze_max_age')::bigint AS freeze_max_age,
       ARRAY(SELECT ic.relname::text FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
              WHERE i.indrelid = :oid AND NOT i.indisvalid ORDER BY 1) AS invalid_indexes,
       ARRAY(SELECT con.conname::text FROM pg_constraint con
              WHERE con.conrelid = :oid AND NOT con.convalidated ORDER BY 1) AS not_valid,
       ARRAY(SELECT 'column ' || quote_ident(a.attname) FROM pg_attribute a
              WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname ~ '^_zd_' ORDER BY a.attnum)
         || ARRAY(SELECT 'trigger ' || quote_ident(g.tgname) FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
                   WHERE g.tgrelid = :oid AND p.pronamespace IS NOT DISTINCT FROM to_regnamespace('alembic_zero')
                   ORDER BY 1) AS leftovers
  FROM pg_class c
 CROSS JOIN LATERAL (
       SELECT sum(pg_relation_size(l.oid)) AS heap, sum(pg_indexes_size(l.oid)) AS indexes, sum(GREATEST(l.reltuples, 0)) AS rows,
              max(CASE WHEN l.relfrozenxid <> '0' THEN age(l.relfrozenxid) END) AS age
         FROM pg_class l
        WHERE l.oid = :oid OR l.oid IN (SELECT t.relid FROM pg_partition_tree(:oid) t WHERE t.isleaf)) AS s
 WHERE c.oid = :oid

-- name: rights
-- What the migrating role may do in the database.
SELECT current_database() AS database, current_user AS role,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schemas,
       has_database_privilege(current_database(), 'TEMPORARY') AS may_create_temporary,
       n.oid IS NULL OR has_schema_privilege(n.oid, 'CREATE') AS may_create_functions,
       ARRAY(SELECT v.nspname::text FROM pg_namespace v
              WHERE obj_description(v.oid, 'pg_namespace') LIKE 'alembic_zero: version%' AND NOT pg_has_role(v.nspowner, 'USAGE')
              ORDER BY 1) AS foreign_versions
  FROM (SELECT to_regnamespace('alembic_zero')::oid) AS n(oid)

-- name: rights_to_reference
-- Whether the role may lock a table and let a foreign key reference it; NULL if there is no such table.
SELECT has_table_privilege(t.oid, 'REFERENCES') AND has_table_privilege(t.oid, 'UPDATE, DELETE, TRUNCATE') AS granted
  FROM (SELECT to_regclass(:name)) AS t(oid)

-- name: slots
-- Replication slots, and how much WAL each holds.
SELECT s.slot_name AS name, s.slot_type AS type, s.active, COALESCE(s.wal_status, '') AS wal_status,
       COALESCE(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint AS retained
  FROM pg_replication_slots s
 WHERE NOT s.temporary
 ORDER BY 1

-- name: wal_limits
-- How much WAL may be kept: for slots (NULL: without limit), and between checkpoints.
SELECT CASE WHEN k.setting::bigint >= 0 THEN k.setting::bigint * 1024 * 1024 END AS slots, m.setting::bigint * 1024 * 1024 AS checkpoints
  FROM pg_settings k, pg_settings m
 WHERE k.name = 'max_slot_wal_keep_size' AND m.name = 'max_wal_size'

-- name: old_transactions
-- Transactions of this database that are a minute old, prepared ones of any age: they keep VACUUM from rows, and
-- CREATE INDEX CONCURRENTLY waits for them.
SELECT a.pid, NULL::text AS prepared, COALESCE(a.application_name, '') AS application, COALESCE(a.state, 'unknown') AS state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start < clock_timestamp() - interval '60 s'
UNION ALL
SELECT NULL, x.gid, x.owner, 'prepared', extract(epoch FROM clock_timestamp() - x.prepared)::int
  FROM pg_prepared_xacts x
 WHERE x.database = current_database()
 ORDER BY 5 DESC, 1, 2

-- name: lock_holders
-- Transactions older than a second that hold a lock on a table, or on one of its partitions.
SELECT DISTINCT a.pid, x.gid AS prepared, COALESCE(a.application_name, x.owner, '') AS application,
       COALESCE(a.state, CASE WHEN x.gid IS NULL THEN 'unknown' ELSE 'prepared' END) AS state,
       extract(epoch FROM clock_timestamp() - COALESCE(a.xact_start, x.prepared))::int AS seconds
  FROM pg_locks l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_locks xl ON l.pid IS NULL AND xl.virtualtransaction = l.virtualtransaction AND xl.locktype = 'transactionid' AND xl.granted
  LEFT JOIN pg_prepared_xacts x ON x.transaction = xl.transactionid
 WHERE l.granted AND l.locktype = 'relation' AND l.mode <> 'ShareUpdateExclusiveLock'
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
   AND (l.relation = :oid OR l.relation IN (SELECT t.relid FROM pg_partition_tree(:oid) t))
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND COALESCE(a.xact_start, x.prepared) < clock_timestamp() - interval '1 s'
 ORDER BY 5 DESC, 1, 2

-- name: foreign_view_owners
-- Tables of a schema whose views would have to belong to a role that this one cannot act as: before PostgreSQL 15, and
-- over columns with privileges of their own, a view has its owner's rights.
SELECT c.relname AS name, pg_get_userbyid(c.relowner) AS owner
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT pg_has_role(c.relowner, 'MEMBER')
   AND (current_setting('server_version_num')::int < 150000
        OR NOT c.relrowsecurity
           AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped))
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1

-- name: functions_of_clients
-- Functions of users that functions of ours call with the rights of whoever writes to a table, and the roles with the
-- right to write that may not execute them.
SELECT DISTINCT f.oid::regprocedure::text AS function, CASE WHEN g.grantee <> 0 THEN pg_get_userbyid(g.grantee) ELSE 'public' END AS role
  FROM pg_depend d
  JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
  JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'alembic_zero'
  JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid AND f.pronamespace <> n.oid
 CROSS JOIN pg_class c
 CROSS JOIN LATERAL (SELECT x.grantee FROM aclexplode(COALESCE(c.relacl, acldefault('r', c.relowner))) AS x
                      WHERE x.privilege_type IN ('INSERT', 'UPDATE')
                      UNION SELECT x.grantee FROM pg_attribute a, LATERAL aclexplode(a.attacl) AS x
                      WHERE a.attrelid = c.oid AND x.privilege_type IN ('INSERT', 'UPDATE')) AS g
 WHERE c.oid = :oid AND NOT p.prosecdef AND p.proname = ANY (CAST(:names AS text[]))
   AND NOT has_function_privilege(CASE WHEN g.grantee = 0 THEN 'public'::name ELSE pg_get_userbyid(g.grantee) END, f.oid, 'EXECUTE')
 ORDER BY 1, 2

-- name: path_writers
-- Schemas on the search_path in which roles that this one does not trust anyway may create objects.
SELECT n.nspname AS schema, string_agg(DISTINCT COALESCE(r.rolname, 'PUBLIC'), ', ' ORDER BY COALESCE(r.rolname, 'PUBLIC')) AS roles
  FROM pg_namespace n
 CROSS JOIN LATERAL aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) AS x
  LEFT JOIN pg_roles r ON r.oid = x.grantee
  JOIN pg_roles own ON own.rolname = current_user
 WHERE n.nspname = ANY (current_schemas(false)) AND x.privilege_type = 'CREATE' AND x.grantee NOT IN (n.nspowner, own.oid)
   AND (r.oid IS NULL OR NOT r.rolsuper AND (own.rolsuper OR NOT pg_has_role(r.oid, 'MEMBER')))
 GROUP BY n.nspname
 ORDER BY 1
