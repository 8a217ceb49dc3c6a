"""The journal: what is in flight, which step comes next."""

from __future__ import annotations

from alembic_zero.names import JOURNAL_SCHEMA
from alembic_zero.sql.ddl import close_schema, revoke_from_all
from alembic_zero.sql.quoting import ident

CREATE_JOURNAL = (
    f"CREATE SCHEMA {ident(JOURNAL_SCHEMA)}",
    f"COMMENT ON SCHEMA {ident(JOURNAL_SCHEMA)} IS 'alembic_zero: journal, functions and inner views'",
    close_schema(JOURNAL_SCHEMA),
    # Clients call the expressions' functions and go through inner views; tables in it stay closed.
    f"GRANT USAGE ON SCHEMA {ident(JOURNAL_SCHEMA)} TO PUBLIC",
    """CREATE TABLE alembic_zero.generation (
  last integer PRIMARY KEY
)""",
    "INSERT INTO alembic_zero.generation VALUES (0)",
    """CREATE TABLE alembic_zero.migration (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  project text NOT NULL,
  revision text NOT NULL,
  from_revision text NOT NULL,
  state text NOT NULL,
  schemas text[] NOT NULL,
  operations_digest text,
  expand text,
  finish text,
  extras text,
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_at timestamptz NOT NULL DEFAULT now()
)""",
    """CREATE TABLE alembic_zero.flight (
  table_oid bigint PRIMARY KEY,
  project text NOT NULL,
  data text NOT NULL
)""",
    """CREATE TABLE alembic_zero.step (
  migration integer NOT NULL REFERENCES alembic_zero.migration ON DELETE CASCADE,
  phase text NOT NULL,
  position integer NOT NULL,
  name text NOT NULL,
  digest text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  PRIMARY KEY (migration, phase, position)
)""",
    """CREATE TABLE alembic_zero.backfill (
  table_oid bigint NOT NULL,
  generation integer NOT NULL,
  filenode bigint NOT NULL,
  next_block bigint NOT NULL,
  end_block bigint NOT NULL,
  updated_rows bigint NOT NULL DEFAULT 0,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (table_oid, generation)
)""",
    # Default privileges must not open the journal to anyone.
    revoke_from_all(ident(JOURNAL_SCHEMA, "generation")),
    revoke_from_all(ident(JOURNAL_SCHEMA, "migration")),
    revoke_from_all(ident(JOURNAL_SCHEMA, "migration_id_seq")),
    revoke_from_all(ident(JOURNAL_SCHEMA, "flight")),
    revoke_from_all(ident(JOURNAL_SCHEMA, "step")),
    revoke_from_all(ident(JOURNAL_SCHEMA, "backfill")),
)

EXISTS = "SELECT to_regclass('alembic_zero.migration') IS NOT NULL"

MIGRATIONS = """SELECT id, project, revision, from_revision, state, schemas, operations_digest, expand, finish, extras
  FROM alembic_zero.migration
 WHERE project = :project AND state <> 'ended'
 ORDER BY id"""

FLIGHTS = """SELECT f.table_oid, f.data, c.oid::bigint
  FROM alembic_zero.flight f
  LEFT JOIN pg_namespace n ON n.nspname = f.data::jsonb ->> 'schema'
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = f.data::jsonb ->> 'name'
 WHERE f.project = :project
 ORDER BY f.table_oid"""

OTHER_FLIGHTS = FLIGHTS.replace("f.project = :project", "f.project <> :project")

LAST_GENERATION = "SELECT last FROM alembic_zero.generation"

SET_GENERATION = "UPDATE alembic_zero.generation SET last = GREATEST(last, :last)"

ADD_MIGRATION = """INSERT INTO alembic_zero.migration
  (id, project, revision, from_revision, state, schemas, operations_digest, expand, extras) OVERRIDING SYSTEM VALUE
VALUES (:id, :project, :revision, :from_revision, :state, :schemas, :digest, :expand, :extras)"""

NEXT_MIGRATION = "SELECT COALESCE(max(id), 0) + 1 FROM alembic_zero.migration"

RESERVE_NUMBER = "SELECT nextval(pg_get_serial_sequence('alembic_zero.migration', 'id'))"

SET_STATE = (
    "UPDATE alembic_zero.migration SET state = :state, changed_at = now() WHERE id = :id AND state = ANY (:from)"
)

SET_FINISH = "UPDATE alembic_zero.migration SET state = :state, finish = :finish, changed_at = now() WHERE id = :id"

END_EARLIER = """UPDATE alembic_zero.migration SET state = 'ended', changed_at = now()
 WHERE project = :project AND id < :id AND state <> 'ended'"""

PUT_FLIGHT = """INSERT INTO alembic_zero.flight (table_oid, project, data) VALUES (:oid, :project, :data)
ON CONFLICT (table_oid) DO UPDATE SET data = EXCLUDED.data"""

DROP_FLIGHT = "DELETE FROM alembic_zero.flight WHERE table_oid = :oid"

START_STEP = """INSERT INTO alembic_zero.step (migration, phase, position, name, digest)
VALUES (:migration, :phase, :position, :name, :digest) ON CONFLICT DO NOTHING"""

FINISH_STEP = """UPDATE alembic_zero.step SET finished_at = clock_timestamp()
 WHERE migration = :migration AND phase = :phase AND position = :position"""

FORGET_STEPS = "DELETE FROM alembic_zero.step WHERE migration = :migration AND phase = :phase"

STEPS = """SELECT phase, position, name, digest, started_at, finished_at
  FROM alembic_zero.step
 WHERE migration = :migration
 ORDER BY phase DESC, position"""

BACKFILLS = """SELECT table_oid, generation, filenode, next_block, end_block, updated_rows,
       extract(epoch FROM changed_at - started_at) AS seconds
  FROM alembic_zero.backfill
 ORDER BY table_oid, generation"""

PUT_BACKFILL = """INSERT INTO alembic_zero.backfill (table_oid, generation, filenode, next_block, end_block)
VALUES (:oid, :generation, :filenode, 0, :end_block)
ON CONFLICT (table_oid, generation) DO UPDATE
   SET filenode = EXCLUDED.filenode, next_block = 0, end_block = EXCLUDED.end_block
 WHERE backfill.filenode <> EXCLUDED.filenode
RETURNING next_block"""

READ_BACKFILL = """SELECT next_block, end_block, filenode FROM alembic_zero.backfill
 WHERE table_oid = :oid AND generation = :generation"""

MOVE_BACKFILL = """UPDATE alembic_zero.backfill
   SET next_block = :next_block, updated_rows = updated_rows + :rows, changed_at = clock_timestamp()
 WHERE table_oid = :oid AND generation = :generation"""
