-- name: columns
-- Columns of a table in order, with everything that a copy must carry over.
SELECT a.attname AS name,
       format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0
            THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END AS collation,
       a.attnotnull AS not_null,
       nn.conname AS not_null_name,
       pg_get_expr(d.adbin, d.adrelid) AS default,
       a.attidentity AS identity,
       a.attgenerated AS generated,
       pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) AS owned_sequence,
       col_description(c.oid, a.attnum) AS comment,
       CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END AS storage,
       NULLIF(a.attcompression, '') AS compression,
       NULLIF(to_jsonb(a) ->> 'attstattarget', '-1')::int AS statistics_target,
       COALESCE(a.attoptions, '{}') AS options,
       s.seqstart AS seq_start, s.seqincrement AS seq_increment, s.seqmin AS seq_minimum,
       s.seqmax AS seq_maximum, s.seqcache AS seq_cache, s.seqcycle AS seq_cycle,
       format_type(s.seqtypid, NULL) AS seq_type,
       sc.relname AS seq_name
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  LEFT JOIN pg_constraint nn ON nn.conrelid = c.oid AND nn.contype = 'n' AND nn.conkey = ARRAY[a.attnum]
  LEFT JOIN pg_depend sd ON sd.refclassid = 'pg_class'::regclass AND sd.refobjid = c.oid
       AND sd.refobjsubid = a.attnum AND sd.deptype = 'i' AND sd.classid = 'pg_class'::regclass AND a.attidentity <> ''
  LEFT JOIN pg_sequence s ON s.seqrelid = sd.objid
  LEFT JOIN pg_class sc ON sc.oid = s.seqrelid
 WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: volatile_defaults
-- Columns whose default is not immutable or stable all through: adding one would rewrite the table.
SELECT a.attname AS name
  FROM pg_attrdef d
  JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE d.adrelid = :oid
   AND EXISTS (
       SELECT FROM regexp_matches(d.adbin::text, ':(?:opfuncid|funcid) (\d+)', 'g') AS m(ids)
         JOIN pg_proc p ON p.oid = m.ids[1]::oid
        WHERE p.provolatile = 'v')
    OR d.adrelid = :oid AND d.adbin::text ~ 'NEXTVALUEEXPR'
 ORDER BY 1

-- name: checks
-- CHECK constraints, as text over the columns' current names.
SELECT con.conname AS name,
       pg_get_constraintdef(con.oid) AS definition,
       pg_get_expr(con.conbin, con.conrelid) AS expression,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = con.conrelid AND a.attnum = ANY (con.conkey) ORDER BY a.attnum) AS columns,
       obj_description(con.oid, 'pg_constraint') AS comment
  FROM pg_constraint con
 WHERE con.conrelid = :oid AND con.contype = 'c'
 ORDER BY con.conname

-- name: indexes
-- Indexes with the constraints that own them; the definition still carries its header.
SELECT ic.relname AS name,
       CASE WHEN con.contype = 'x' THEN pg_get_constraintdef(con.oid) ELSE pg_get_indexdef(i.indexrelid) END AS definition,
       i.indisunique AS unique,
       ARRAY(SELECT DISTINCT a.attname::text
               FROM pg_attribute a
              WHERE a.attrelid = i.indrelid
                AND (a.attnum = ANY (i.indkey) OR EXISTS (
                     SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                        AND d.refobjsubid = a.attnum))
              ORDER BY 1) AS columns,
       con.contype AS constraint,
       CASE WHEN con.condeferrable THEN ' DEFERRABLE' || CASE WHEN con.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END
            ELSE '' END AS constraint_suffix,
       obj_description(i.indexrelid, 'pg_class') AS comment,
       obj_description(con.oid, 'pg_constraint') AS constraint_comment,
       i.indisclustered AS clustered,
       i.indisreplident AS replica_identity,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k) AS keys,
       pg_get_expr(i.indpred, i.indrelid) AS predicate,
       COALESCE(NOT (to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, true) AS nulls_distinct,
       (SELECT COALESCE(jsonb_agg(jsonb_build_array(a.attnum, (to_jsonb(a) ->> 'attstattarget')::int) ORDER BY a.attnum), '[]')
          FROM pg_attribute a
         WHERE a.attrelid = i.indexrelid AND COALESCE((to_jsonb(a) ->> 'attstattarget')::int, -1) <> -1) AS statistics
  FROM pg_index i
  JOIN pg_class ic ON ic.oid = i.indexrelid
  LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = :oid AND i.indisvalid
 ORDER BY ic.relname

-- name: comparisons
-- By which operators, and in which collations, unique indexes tell keys apart.
SELECT ic.relname AS name,
       ARRAY(SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
               FROM generate_series(0, i.indnkeyatts - 1) AS k(n)
               JOIN pg_opclass c ON c.oid = i.indclass[k.n]
               JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
                             AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
               JOIN pg_operator o ON o.oid = a.amopopr
               JOIN pg_namespace n ON n.oid = o.oprnamespace
              ORDER BY k.n) AS equals,
       ARRAY(SELECT COALESCE((SELECT format('%I.%I', n.nspname, c.collname)
                                FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
                               WHERE c.oid = i.indcollation[k.n]), '')
               FROM generate_series(0, i.indnkeyatts - 1) AS k(n) ORDER BY k.n) AS collations
  FROM pg_index i
  JOIN pg_class ic ON ic.oid = i.indexrelid
 WHERE i.indrelid = :oid AND i.indisunique
 ORDER BY 1

-- name: foreign_keys
-- Outgoing foreign keys; the definition still carries its column list.
SELECT con.conname AS name,
       pg_get_constraintdef(con.oid) AS definition,
       ARRAY(SELECT a.attname::text FROM unnest(con.conkey) WITH ORDINALITY AS k(attnum, position)
               JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum
              ORDER BY k.position) AS columns,
       quote_ident(rn.nspname) || '.' || quote_ident(rc.relname) AS referenced,
       obj_description(con.oid, 'pg_constraint') AS comment
  FROM pg_constraint con
  JOIN pg_class rc ON rc.oid = con.confrelid
  JOIN pg_namespace rn ON rn.oid = rc.relnamespace
 WHERE con.conrelid = :oid AND con.contype = 'f' AND con.conparentid = 0
 ORDER BY con.conname

-- name: live_foreign_keys
-- Foreign keys from and to a table, with both ends; none of a partition's own.
SELECT con.conname AS name, con.conrelid::bigint AS relation, n.nspname AS schema, c.relname AS table, c.relkind AS kind,
       ARRAY(SELECT a.attname::text FROM unnest(con.conkey) WITH ORDINALITY AS k(attnum, position)
               JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum
              ORDER BY k.position) AS columns,
       con.confrelid::bigint AS referenced_relation, rn.nspname AS referenced_schema, rc.relname AS referenced_table,
       ARRAY(SELECT a.attname::text FROM unnest(con.confkey) WITH ORDINALITY AS k(attnum, position)
               JOIN pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.attnum
              ORDER BY k.position) AS referenced_columns,
       pg_get_constraintdef(con.oid) AS definition
  FROM pg_constraint con
  JOIN pg_class c ON c.oid = con.conrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class rc ON rc.oid = con.confrelid
  JOIN pg_namespace rn ON rn.oid = rc.relnamespace
 WHERE con.contype = 'f' AND con.conparentid = 0 AND (con.conrelid = :oid OR con.confrelid = :oid)
 ORDER BY con.conrelid, con.conname

-- name: constraint_names
-- Names of all constraints of a table: no constraint may take one of them.
SELECT con.conname AS name
  FROM pg_constraint con
 WHERE con.conrelid = :oid
 ORDER BY con.conname

-- name: schema_constraints
-- Names of all constraints of a schema: PostgreSQL gives none of them to a constraint that has no name.
SELECT DISTINCT con.conname AS name
  FROM pg_constraint con
  JOIN pg_namespace n ON n.oid = con.connamespace
 WHERE n.nspname = :schema
 ORDER BY con.conname

-- name: object_dependents
-- What depends on an index or constraint of a table: foreign keys, views that group by a key.
SELECT DISTINCT COALESCE(con.conname, ic.relname) AS name,
       CASE WHEN r.ev_class IS NULL THEN pg_describe_object(d.classid, d.objid, 0)
            ELSE pg_describe_object('pg_class'::regclass, r.ev_class, 0) END AS object
  FROM pg_depend d
  LEFT JOIN pg_constraint con ON d.refclassid = 'pg_constraint'::regclass AND con.oid = d.refobjid
  LEFT JOIN pg_index i ON d.refclassid = 'pg_class'::regclass AND i.indexrelid = d.refobjid
  LEFT JOIN pg_class ic ON ic.oid = i.indexrelid
  LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
 WHERE :oid IN (con.conrelid, i.indrelid) AND d.deptype = 'n'
 ORDER BY 1, 2

-- name: statistics
-- Extended statistics objects.
SELECT n.nspname AS schema, s.stxname AS name, pg_get_statisticsobjdef(s.oid) AS definition,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = s.stxrelid
                AND (a.attnum = ANY (s.stxkeys) OR EXISTS (
                     SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
                        AND d.refobjid = s.stxrelid AND d.refobjsubid = a.attnum))
              ORDER BY 1) AS columns,
       obj_description(s.oid, 'pg_statistic_ext') AS comment,
       NULLIF(to_jsonb(s) ->> 'stxstattarget', '-1')::int AS target
  FROM pg_statistic_ext s
  JOIN pg_namespace n ON n.oid = s.stxnamespace
 WHERE s.stxrelid = :oid
 ORDER BY 1, 2

-- name: table
-- One table by schema and name.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner, c.relkind AS kind,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint AS blocks,
       GREATEST(c.reltuples, 0)::bigint AS rows,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS force_row_security,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS is_child,
       c.relreplident AS replica_identity, current_user AS role,
       EXISTS (SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid WHERE p.relkind = 'f') AS has_foreign_partition,
       obj_description(c.oid, 'pg_class') AS comment
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relname = :name AND c.relkind IN ('r', 'p', 'f', 'v', 'm')

-- name: triggers
-- Users' triggers, not the server's own.
SELECT t.tgname AS name,
       (t.tgtype & 3) = 3 AS before_row,
       (t.tgtype & 4) <> 0 AS on_insert,
       (t.tgtype & 16) <> 0 AS on_update,
       ARRAY(SELECT a.attname::text FROM unnest(t.tgattr::int2[]) WITH ORDINALITY AS k(attnum, position)
               JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = k.attnum ORDER BY k.position) AS update_columns,
       p.proname AS function, p.prosrc AS body,
       encode(t.tgargs, 'hex') AS arguments,
       p.prosrc ~* 'insert\s+into[^;]*(values\s*\(|select)\s*\(?\s*(old|new)\.\*' AS copies_rows
  FROM pg_trigger t
  JOIN pg_proc p ON p.oid = t.tgfoid
 WHERE t.tgrelid = :oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
   AND p.pronamespace IS DISTINCT FROM to_regnamespace('alembic_zero')
 ORDER BY t.tgname

-- name: grants
-- Privileges on the table, PUBLIC as NULL.
SELECT CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END AS grantee, x.privilege_type AS privilege, x.is_grantable AS grantable
  FROM pg_class c, LATERAL aclexplode(COALESCE(c.relacl, acldefault('r', c.relowner))) AS x
 WHERE c.oid = :oid AND x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
 ORDER BY 1 NULLS FIRST, 2

-- name: column_grants
-- Privileges on single columns.
SELECT a.attname AS column, CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END AS grantee,
       x.privilege_type AS privilege, x.is_grantable AS grantable
  FROM pg_attribute a, LATERAL aclexplode(a.attacl) AS x
 WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped AND x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
 ORDER BY a.attnum, 2 NULLS FIRST, 3

-- name: schema_grants
-- Roles that may use a schema, PUBLIC as NULL.
SELECT CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END AS grantee, 'USAGE' AS privilege, x.is_grantable AS grantable
  FROM pg_namespace n, LATERAL aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) AS x
 WHERE n.nspname = :schema AND x.privilege_type = 'USAGE'
 ORDER BY 1 NULLS FIRST

-- name: schema_rights
-- What anybody but its owner may do with a version schema.
SELECT pg_get_userbyid(n.nspowner) AS owner,
       (SELECT COALESCE(jsonb_agg(jsonb_build_array(CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END,
                                                    x.privilege_type, x.is_grantable, NULL)), '[]')
          FROM aclexplode(n.nspacl) AS x
         WHERE x.grantee <> n.nspowner) AS rights
  FROM pg_namespace n
 WHERE n.nspname = :schema

-- name: dependents
-- Whatever reads a column of a table, or (column NULL) the table or its row type, and would prevent its removal. Not what
-- goes or moves with the table: its defaults, indexes, constraints, statistics, sequences, and keys that reference it.
-- Nor publications: see "publications". Nor anything of ours.
SELECT DISTINCT a.attname AS column,
       CASE WHEN r.ev_class IS NULL OR r.ev_class = :oid THEN pg_describe_object(d.classid, d.objid, d.objsubid)
            ELSE pg_describe_object('pg_class'::regclass, r.ev_class, 0) END AS object
  FROM pg_depend d
  JOIN pg_class c ON c.oid = :oid
  LEFT JOIN pg_type t ON t.oid = c.reltype
  LEFT JOIN pg_attribute a ON d.refobjsubid > 0 AND a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_class v ON v.oid = r.ev_class
  LEFT JOIN pg_namespace vn ON vn.oid = v.relnamespace
 WHERE (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND (d.refobjsubid > 0 OR d.deptype = 'n')
        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray) AND d.deptype = 'n')
   AND d.classid NOT IN ('pg_attrdef'::regclass, 'pg_statistic_ext'::regclass, 'pg_publication_rel'::regclass)
   AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
            SELECT FROM pg_class o LEFT JOIN pg_index i ON i.indexrelid = o.oid
             WHERE o.oid = d.objid AND (o.relkind = 'S' OR o.oid = c.oid OR i.indrelid = c.oid)))
   AND NOT EXISTS (SELECT FROM pg_constraint con
                    WHERE d.classid = 'pg_constraint'::regclass AND con.oid = d.objid AND c.oid IN (con.conrelid, con.confrelid))
   AND NOT EXISTS (
       SELECT FROM pg_trigger g
         JOIN pg_proc p ON p.oid = g.tgfoid
        WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
          AND (g.tgisinternal OR p.pronamespace IS NOT DISTINCT FROM to_regnamespace('alembic_zero')))
   AND NOT EXISTS (
       SELECT FROM pg_proc p
        WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid
          AND p.pronamespace IS NOT DISTINCT FROM to_regnamespace('alembic_zero'))
   AND (vn.nspname IS NULL OR vn.nspname <> 'alembic_zero'
        AND COALESCE(obj_description(vn.oid, 'pg_namespace'), '') NOT LIKE 'alembic_zero:%')
 ORDER BY 1 NULLS LAST, 2

-- name: lookups
-- Columns of a table that our functions read.
SELECT a.attname AS column, p.proname AS function
  FROM pg_depend d
  JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = :oid
   AND p.pronamespace = to_regnamespace('alembic_zero')
 ORDER BY 1, 2

-- name: row_type_functions
-- Functions that take or return the table's row type: a new column changes their result.
SELECT p.oid::regprocedure::text AS function
  FROM pg_proc p
  JOIN pg_class c ON c.oid = :oid
 WHERE p.prorettype = c.reltype
   AND (p.prolang = (SELECT l.oid FROM pg_language l WHERE l.lanname = 'sql')
        OR p.proretset AND p.prosrc ~* 'return\s+query' AND p.prosrc !~* 'select\s+(\w+\.)?\*')
 ORDER BY 1

-- name: server
-- The server and the migrating role.
SELECT current_setting('server_version_num')::int / 10000 AS version,
       (SELECT s.setting::int FROM pg_settings s WHERE s.name = 'deadlock_timeout') AS deadlock_timeout_ms,
       current_user AS role,
       (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user) AS bypasses_row_security,
       (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) AS may_set_replication_role,
       current_setting('search_path') AS search_path

-- name: may_set_replication_role
-- Whether the role was granted what superusers may do anyway; PostgreSQL 14 has no such grants and no such function.
SELECT has_parameter_privilege(current_user, 'session_replication_role', 'SET') AS granted

-- name: clients
-- Sessions of pinned applications: the suffix of application_name tells the version.
-- Without pg_read_all_stats the server hides what kind of backend another role's is, but not its name.
SELECT a.pid, a.usename AS role, a.application_name, a.state, a.client_addr::text AS address, a.backend_start, a.state_change
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND COALESCE(a.backend_type, 'client backend') = 'client backend' AND a.pid <> pg_backend_pid()
 ORDER BY a.pid

-- name: blockers
-- Whom a session waits for; a prepared transaction has no process, and is found by the lock that it holds.
SELECT DISTINCT a.pid, p.gid, COALESCE(a.usename, p.owner) AS role, a.application_name, a.client_addr::text AS address,
       a.backend_type, a.state, left(regexp_replace(a.query, '\s+', ' ', 'g'), 100) AS query,
       round(extract(epoch FROM clock_timestamp() - COALESCE(a.xact_start, p.prepared)))::int AS seconds,
       CASE WHEN c.relkind IN ('r', 'p') THEN format('%I.%I', n.nspname, c.relname) END AS relation
  FROM pg_locks w
 CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)
  LEFT JOIN pg_stat_activity a ON a.pid = b.pid
  LEFT JOIN pg_locks h ON b.pid = 0 AND h.granted AND h.pid IS NULL AND h.locktype = w.locktype
        AND (h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
            IS NOT DISTINCT FROM (w.database, w.relation, w.page, w.tuple, w.transactionid, w.classid, w.objid, w.objsubid)
  LEFT JOIN pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = h.virtualtransaction
  LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
  LEFT JOIN pg_class c ON c.oid = w.relation
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE w.pid = :pid AND NOT w.granted AND COALESCE(a.pid::text, p.gid) IS NOT NULL
 ORDER BY 1, 2

-- name: try_advisory
-- Take an advisory lock for the session, or do not.
SELECT pg_try_advisory_lock(:class, hashtext(:key)) AS taken

-- name: free_advisory
-- Give it back.
SELECT pg_advisory_unlock(:class, hashtext(:key)) AS freed

-- name: holds_advisory
-- Whether this session has an advisory lock.
SELECT EXISTS (SELECT FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.granted AND l.pid = pg_backend_pid() AND l.classid::bigint = :class
                  AND l.objid::bigint = hashtext(:key)::bigint & 4294967295 AND l.objsubid = 2) AS held

-- name: share_advisory
-- Share an advisory lock for the session.
SELECT pg_advisory_lock_shared(:class, hashtext(:key)) IS NULL AS taken

-- name: advisory_holders
-- Other sessions of this database that hold an advisory lock, with what all sessions of the same process do.
SELECT a.pid, a.application_name, a.usename AS role, a.client_addr::text AS address, a.backend_start AS since,
       (SELECT jsonb_agg(jsonb_build_object(
                   'pid', o.pid, 'state', COALESCE(o.state, 'in an unknown state'),
                   'query', left(regexp_replace(o.query, '\s+', ' ', 'g'), 100),
                   'seconds', round(extract(epoch FROM clock_timestamp() - o.state_change))::int) ORDER BY o.pid)
          FROM pg_stat_activity o
         WHERE o.datid = a.datid AND o.application_name = a.application_name) AS busy
  FROM pg_locks l
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() AND l.database = a.datid AND a.pid <> pg_backend_pid()
   AND l.classid::bigint = :class AND l.objid::bigint = hashtext(:key)::bigint & 4294967295 AND l.objsubid = 2
 ORDER BY a.pid

-- name: schema_views
-- All tables of a schema with what a one-deep view of each needs, in one round trip.
SELECT c.oid::bigint AS oid, c.relname AS name, pg_get_userbyid(c.relowner) AS owner, c.relrowsecurity AS row_security,
       obj_description(c.oid, 'pg_class') AS comment,
       (SELECT COALESCE(jsonb_agg(jsonb_build_array(a.attname, col_description(c.oid, a.attnum)) ORDER BY a.attnum), '[]')
          FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT COALESCE(jsonb_agg(jsonb_build_array(CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END, x.privilege_type, x.is_grantable)
                                  ORDER BY x.grantee, x.privilege_type), '[]')
          FROM aclexplode(COALESCE(c.relacl, acldefault('r', c.relowner))) AS x
         WHERE x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) AS grants,
       (SELECT COALESCE(jsonb_agg(jsonb_build_array(CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END, x.privilege_type, x.is_grantable, a.attname)
                                  ORDER BY a.attnum, x.grantee, x.privilege_type), '[]')
          FROM pg_attribute a, LATERAL aclexplode(a.attacl) AS x
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE')) AS column_grants
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY c.relname

-- name: row_security
-- Tables of a schema with row security.
SELECT c.relname AS name
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') AND c.relrowsecurity
 ORDER BY c.relname

-- name: views
-- Views of a schema.
SELECT c.relname AS name
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relkind = 'v'
 ORDER BY c.relname

-- name: view_rights
-- Views of a schema with owner, whose rights they use, and what their owner has granted.
SELECT c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
       NOT COALESCE(c.reloptions @> '{security_invoker=true}'::text[], false) AS owner_rights,
       (SELECT COALESCE(jsonb_agg(jsonb_build_array(CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END,
                                                    x.privilege_type, x.is_grantable, x.column)), '[]')
          FROM (SELECT r.grantee, r.privilege_type, r.is_grantable, NULL::name AS column
                  FROM aclexplode(c.relacl) AS r
                 UNION ALL
                SELECT r.grantee, r.privilege_type, r.is_grantable, a.attname
                  FROM pg_attribute a, LATERAL aclexplode(a.attacl) AS r
                 WHERE a.attrelid = c.oid AND NOT a.attisdropped) AS x
         WHERE x.grantee <> c.relowner) AS rights
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relkind = 'v'
 ORDER BY c.relname

-- name: views_of_table
-- Views of version schemas that read a table directly.
SELECT DISTINCT n.nspname AS schema, v.relname AS name
  FROM pg_depend d
  JOIN pg_rewrite r ON r.oid = d.objid
  JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v'
  JOIN pg_namespace n ON n.oid = v.relnamespace
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = :oid
   AND obj_description(n.oid, 'pg_namespace') LIKE 'alembic_zero: version%'
 ORDER BY 1, 2

-- name: schema_comment
-- The comment of a schema, by which version schemas and tombstones are told from users' schemas.
SELECT n.oid::bigint AS oid, obj_description(n.oid, 'pg_namespace') AS comment
  FROM pg_namespace n
 WHERE n.nspname = :schema

-- name: version_schemas
-- Every version schema and tombstone in the database.
SELECT n.nspname AS name, obj_description(n.oid, 'pg_namespace') AS comment
  FROM pg_namespace n
 WHERE obj_description(n.oid, 'pg_namespace') ~ '^alembic_zero: (version|tombstone)'
 ORDER BY n.nspname

-- name: relation_names
-- Names of all relations of a schema: no index may take one of them.
SELECT c.relname AS name
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema
 ORDER BY c.relname

-- name: leaves
-- The tables that hold a table's rows: itself, or the leaves of its partition tree.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint AS blocks,
       pg_relation_filenode(c.oid)::bigint AS filenode, GREATEST(c.reltuples, 0)::bigint AS rows
  FROM pg_partition_tree(:oid) t
  JOIN pg_class c ON c.oid = t.relid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.isleaf
UNION
SELECT c.oid::bigint, n.nspname, c.relname,
       pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       pg_relation_filenode(c.oid)::bigint, GREATEST(c.reltuples, 0)::bigint
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = :oid AND c.relkind = 'r'
 ORDER BY 2, 3

-- name: index_state
-- Whether an index exists, and whether it is valid.
SELECT i.indisvalid AS valid
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_index i ON i.indexrelid = c.oid
 WHERE n.nspname = :schema AND c.relname = :name

-- name: table_of_index
-- The table that an index belongs to.
SELECT t.relname AS name
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relname = :name

-- name: key_columns
-- The columns of the primary key, else none.
SELECT a.attname AS name
  FROM pg_index i
  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = :oid AND i.indisprimary
 ORDER BY k.position

-- name: default_grants
-- Whether ALTER DEFAULT PRIVILEGES says anything about new relations of this role.
SELECT EXISTS (SELECT FROM pg_default_acl d
                WHERE d.defaclobjtype = 'r' AND d.defaclrole = (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)) AS found

-- name: enum
-- An enum with its labels in order, owner, rights (NULL: as any new type has here) and comment.
SELECT t.oid::bigint AS oid, format_type(t.oid, NULL) AS type,
       CASE WHEN t.typowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)
            THEN pg_get_userbyid(t.typowner) END AS owner,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels,
       obj_description(t.oid, 'pg_type') AS comment,
       CASE WHEN t.typacl IS NOT NULL OR EXISTS (
                 SELECT FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
                  WHERE d.defaclobjtype = 'T' AND r.rolname = current_user) THEN
            (SELECT COALESCE(jsonb_agg(jsonb_build_array(CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee) END, x.is_grantable)
                                       ORDER BY x.grantee), '[]')
               FROM aclexplode(COALESCE(t.typacl, acldefault('T', t.typowner))) AS x) END AS grants
  FROM pg_type t
  JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = :schema AND t.typname = :name AND t.typtype = 'e'

-- name: enums
-- The enums of users, for a person who has mistyped one.
SELECT n.nspname AS schema, t.typname AS name
  FROM pg_type t
  JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typtype = 'e' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'alembic_zero') AND n.nspname !~ '^_zd_trial'
   AND COALESCE(obj_description(n.oid, 'pg_namespace'), '') NOT LIKE 'alembic_zero:%'
 ORDER BY 1, 2

-- name: schema_types
-- Enums of a schema.
SELECT t.typname AS name
  FROM pg_type t
  JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = :schema AND t.typtype = 'e'
 ORDER BY 1

-- name: type_tables
-- Tables with a column of an enum, or of an array of it, roots of partition trees only.
SELECT DISTINCT n.nspname AS schema, c.relname AS name
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE :oid IN (t.oid, t.typelem) AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname <> 'alembic_zero' AND n.nspname !~ '^_zd_trial'
 ORDER BY 1, 2

-- name: type_users
-- Whatever depends on an enum or an array of it, apart from our own views, functions and triggers;
-- for what belongs to a table, that table.
SELECT DISTINCT n.nspname AS schema, c.relname AS table, c.oid::bigint AS oid,
       CASE WHEN o.relkind IN ('v', 'm') THEN pg_describe_object('pg_class'::regclass, o.oid, 0)
            ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS object
  FROM pg_depend d
  JOIN pg_type t ON t.oid = d.refobjid AND :oid IN (t.oid, t.typelem)
  LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
  LEFT JOIN pg_constraint con ON d.classid = 'pg_constraint'::regclass AND con.oid = d.objid
  LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
  LEFT JOIN pg_statistic_ext s ON d.classid = 'pg_statistic_ext'::regclass AND s.oid = d.objid
  LEFT JOIN pg_class o ON o.oid = COALESCE(r.ev_class, CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END)
  LEFT JOIN pg_class c ON c.relkind IN ('r', 'p')
        AND c.oid = COALESCE(f.adrelid, NULLIF(con.conrelid, 0), i.indrelid, s.stxrelid, o.oid)
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_namespace vn ON vn.oid = o.relnamespace
 WHERE d.refclassid = 'pg_type'::regclass
   AND NOT (d.classid = 'pg_type'::regclass AND d.deptype IN ('i', 'a') AND EXISTS (
            SELECT FROM pg_type own WHERE own.oid = d.objid AND own.typelem = :oid))
   AND NOT (o.relkind IS NOT DISTINCT FROM 'v'
            AND (vn.nspname = 'alembic_zero' OR COALESCE(obj_description(vn.oid, 'pg_namespace'), '') LIKE 'alembic_zero:%'))
   AND NOT EXISTS (SELECT FROM pg_proc p WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid
                      AND p.pronamespace IS NOT DISTINCT FROM to_regnamespace('alembic_zero'))
   AND NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
                    WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
                      AND p.pronamespace IS NOT DISTINCT FROM to_regnamespace('alembic_zero'))
 ORDER BY 1, 2, 4

-- name: partition_key
-- The columns of a table's partition key.
SELECT a.attname AS name
  FROM pg_partitioned_table p
  CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
  JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
 WHERE p.partrelid = :oid
 ORDER BY 1

-- name: type_columns
-- Columns of an enum, or of arrays of it, in the tables of users.
SELECT n.nspname AS schema, c.relname AS table, c.oid::bigint AS oid, a.attname AS column, t.oid <> :oid AS array
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE :oid IN (t.oid, t.typelem) AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname <> 'alembic_zero' AND n.nspname !~ '^_zd_trial'
 ORDER BY 1, 2, a.attnum

-- name: unsteady_functions
-- Our functions of users' expressions whose result may be another one the next time: what they call is volatile,
-- asks for the time or the session, or they read a table.
SELECT p.proname AS name,
       EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass) AS reads
  FROM pg_proc p
 WHERE p.pronamespace = 'alembic_zero'::regnamespace AND p.prosqlbody IS NOT NULL
   AND (p.prosqlbody::text ~ '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR)'
        OR EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass)
        OR EXISTS (
           SELECT FROM regexp_matches(p.prosqlbody::text, ':(?:opfuncid|funcid) (\d+)', 'g') AS m(ids)
             JOIN pg_proc f ON f.oid = m.ids[1]::oid
            WHERE f.provolatile = 'v'
               OR f.pronamespace = 'pg_catalog'::regnamespace
                  AND f.proname IN ('now', 'transaction_timestamp', 'statement_timestamp', 'current_setting',
                                    'current_schema', 'current_schemas', 'txid_current_if_assigned',
                                    'pg_current_xact_id_if_assigned', 'inet_client_addr', 'inet_client_port')))
 ORDER BY 1
