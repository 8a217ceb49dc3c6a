"""Databases that give less than usual: no rights by default, roles that may not create."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, event

from alembic_zero import pin_engine
from tests.support.project import AlembicProject

NUMBER = 'op.zd_alter_column("t", "n", type_=sa.Text(), up="n::text", down="n::integer")'


def _project(database, tmp_path, user="postgres"):
    project = AlembicProject(tmp_path, database.url.set(username=user))
    project.revision("r1", None, upgrade="pass", downgrade="pass")
    project.revision("r2", "r1", upgrade=NUMBER, downgrade="pass")
    return project


def _role(database, name, rights):
    database.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN; {rights}")


def test_upgrade__functions_closed_by_default__application_writes_are_converted(database, tmp_path):
    """With EXECUTE taken from PUBLIC by default, an old client's row must not end in quarantine."""
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer)")
    _role(database, "closed_app", "GRANT SELECT, INSERT, UPDATE ON t TO closed_app")
    database.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    project = _project(database, tmp_path)
    project.run_in_process("stamp", "r1")
    project.run_in_process("zd-init")
    project.run_in_process("upgrade", "r2")
    for revision, value in (("r1", "1"), ("r2", "'2'")):
        engine = pin_engine(create_engine(database.url.set(username="closed_app")), revision=revision)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO t VALUES ({value.strip(chr(39))}, {value})")
        engine.dispose()
    assert database.fetch("SELECT id, n FROM zd_r1.t ORDER BY id") == [(1, 1), (2, 2)]
    assert database.fetch("SELECT id, n FROM zd_r2.t ORDER BY id") == [(1, "1"), (2, "2")]


def test_upgrade__role_may_not_create_schemas__the_grant_is_named_and_nothing_changed(database, tmp_path):
    """A missing privilege is foreseeable: no traceback, the GRANT that helps, the catalog as it was."""
    _role(database, "poor_owner", "GRANT CREATE ON SCHEMA public TO poor_owner")
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer)", user="poor_owner")
    project = _project(database, tmp_path, user="poor_owner")
    project.run_in_process("stamp", "r1")
    before = database.normalised_dump(None)
    refused = project.run_in_process("upgrade", "r2", check=False)
    assert refused.returncode == 2
    assert "[ZD219]" in refused.stdout
    assert "GRANT CREATE ON DATABASE" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
    assert database.normalised_dump(None) == before


def test_upgrade__new_table_references_a_busy_one__its_lock_is_not_kept_while_planning(database, tmp_path):
    """CREATE TABLE ... REFERENCES stops writers of the referenced table: the trial lets go of it at once."""
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer); INSERT INTO t VALUES (1, 1)")
    project = AlembicProject(tmp_path, database.url)
    project.revision("r1", None, upgrade="pass", downgrade="pass")
    create = 'op.create_table("c", sa.Column("id", sa.Integer, sa.ForeignKey("t.id"), index=True))'
    add = 'op.zd_add_column("t", sa.Column("m", sa.Integer), up="n + 1")'
    project.revision("r2", "r1", upgrade=f"{create}\n{add}", downgrade="pass")
    project.run_in_process("stamp", "r1")
    project.run_in_process("zd-init")
    held = []

    def listen(_connection, _cursor, statement, *_rest):
        if '"_zd_trial"' in statement:
            held.extend(database.fetch(
                "SELECT mode FROM pg_locks WHERE relation = 't'::regclass AND mode = 'ShareRowExclusiveLock'"
            ))  # fmt: skip
            held.append(None)

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        project.run_in_process("upgrade", "r2")
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert held
    assert not any(held)
    project.run_in_process("zd-complete")
    assert database.fetch("SELECT m FROM t") == [(2,)]
    assert database.fetch("SELECT conname FROM pg_constraint WHERE conrelid = 'c'::regclass AND contype = 'f'")
