"""pin_engine on real servers; the version schemas are made by hand, by the comment convention."""

from __future__ import annotations

import secrets

import pytest
import sqlalchemy as sa

from alembic_zero import PinError, pin_engine, version_schema
from alembic_zero.names import client_suffix
from tests.support.project import AlembicProject


def publish(database, revision, schema="public", comment="alembic_zero: version"):
    name = version_schema(revision, schema)
    database.execute(
        f"""
        CREATE SCHEMA IF NOT EXISTS {schema};
        CREATE TABLE IF NOT EXISTS {schema}.users (id integer PRIMARY KEY, name text);
        CREATE SCHEMA {name};
        CREATE VIEW {name}.users WITH (security_invoker) AS
            SELECT id, name AS name_{revision} FROM {schema}.users;
        COMMENT ON SCHEMA {name} IS '{comment}';
        """
    )
    return name


@pytest.fixture
def role(database):
    name = f"zd_role_{secrets.token_hex(4)}"
    database.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def async_engine():
    pytest.importorskip("greenlet")  # sqlalchemy[asyncio]; the extra "test" has it
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine("postgresql+psycopg://")


def refuses(engine, code):
    with pytest.raises(PinError) as caught, engine.connect():
        pass
    assert caught.value.code == code
    return str(caught.value)


def test_pin__new_connection__version_schema_first_then_the_rest_as_written(database):
    name = publish(database, "r1")
    database.execute(f"""ALTER DATABASE {database.name} SET search_path = "$user", public, "Odd, Name" """)
    engine = pin_engine(database.engine(), "r1")
    with engine.connect() as connection:
        path = connection.scalar(sa.text("SELECT current_setting('search_path')"))
        assert path == f'"{name}", "$user", public, "Odd, Name"'
        assert connection.scalar(sa.text("SELECT current_setting('alembic_zero.revision')")) == "r1"
        assert connection.execute(sa.text("SELECT name_r1 FROM users")).all() == []


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT", "SERIALIZABLE"])
def test_pin__rollbacks_and_pool_resets__stay_pinned(database, isolation_level):
    name = publish(database, "r1")
    options = {"isolation_level": isolation_level} if isolation_level else {}
    engine = pin_engine(database.engine(poolclass=sa.QueuePool, pool_size=1, max_overflow=0, **options), "r1")
    pids = set()
    for _ in range(3):
        with engine.connect() as connection:
            pids.add(connection.scalar(sa.text("SELECT pg_backend_pid()")))
            connection.rollback()
            assert connection.scalar(sa.text("SELECT current_schema()")) == name
            assert connection.scalar(sa.text("SELECT current_setting('alembic_zero.revision')")) == "r1"
            with pytest.raises(sa.exc.DataError):
                connection.execute(sa.text("SELECT 1/0"))
    assert len(pids) == 1


@pytest.mark.parametrize("isolation_level", [None, "AUTOCOMMIT"])
def test_pin__autocommit__as_it_was_before(database, isolation_level):
    publish(database, "r1")
    options = {"isolation_level": isolation_level} if isolation_level else {}
    engine = pin_engine(database.engine(**options), "r1")
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection.autocommit is (isolation_level == "AUTOCOMMIT")
        connection.execute(sa.text("INSERT INTO users VALUES (1, 'x')"))
        connection.rollback()
    expected = 1 if isolation_level == "AUTOCOMMIT" else 0
    assert database.fetch("SELECT count(*) FROM users") == [(expected,)]


def test_pin__earlier_listener_left_a_transaction_open__kept_and_pinned(database):
    name = publish(database, "r1")
    engine = database.engine()
    sa.event.listen(engine, "connect", lambda dbapi, _: dbapi.execute("SET statement_timeout = '7s'"))
    with pin_engine(engine, "r1").connect() as connection:
        connection.rollback()
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "7s"
        assert connection.scalar(sa.text("SELECT current_schema()")) == name


def test_pin__application_name__ends_with_the_suffix_and_fits(database):
    publish(database, "r1")
    for own in ("web", "x" * 63, ""):
        engine = pin_engine(database.engine(connect_args={"application_name": own}), "r1")
        with engine.connect() as connection:
            pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            [(seen,)] = database.fetch(f"SELECT application_name FROM pg_stat_activity WHERE pid = {pid}")
            assert seen.endswith(client_suffix("r1"))
            assert seen.startswith(own[:40])
            assert len(seen) <= 63


def test_pin__two_revisions__side_by_side(database):
    publish(database, "r1")
    publish(database, "r2")
    for revision in ("r1", "r2"):
        with pin_engine(database.engine(), revision).connect() as connection:
            connection.execute(sa.text(f"SELECT name_{revision} FROM users"))


def test_pin__existing_pin__same_is_kept_other_is_refused(database):
    publish(database, "r1")
    engine = database.engine()
    assert pin_engine(engine, "r1") is engine
    assert pin_engine(engine, "r1") is engine
    with pytest.raises(PinError, match="already pinned to revision 'r1'"):
        pin_engine(engine, "r2")
    with pytest.raises(PinError, match="already pinned"):
        pin_engine(engine.execution_options(isolation_level="AUTOCOMMIT"), "r2")
    with pytest.raises(PinError, match="other schemas"):
        pin_engine(engine, "r1", schemas=["sales"])
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_schema()")) == "zd_r1"


def test_pin__dispose__still_pinned(database):
    name = publish(database, "r1")
    engine = pin_engine(database.engine(), "r1")
    engine.dispose()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_schema()")) == name


def test_pin__no_version_schema__refused_at_connect_then_works_when_it_comes(database):
    engine = pin_engine(database.engine(), "r1")
    message = refuses(engine, "ZD604")
    assert "'r1'" in message
    assert "'zd_r1'" in message
    assert "alembic upgrade r1" in message
    publish(database, "r1")
    with engine.connect():
        pass


def test_pin__refused__connection_is_closed_and_the_pool_not_exhausted(database):
    engine = pin_engine(database.engine(poolclass=sa.QueuePool, pool_size=1, max_overflow=0), "r1")
    for _ in range(3):
        refuses(engine, "ZD604")
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert database.fetch(others) == [(0,)]


def test_pin__tombstone__refused_with_its_text(database):
    publish(database, "r1", comment="alembic_zero: tombstone, upgrade to r2")
    assert "upgrade to r2" in refuses(pin_engine(database.engine(), "r1"), "ZD606")


def test_pin__foreign_schema_of_that_name__refused(database):
    database.execute("CREATE SCHEMA zd_r1")
    refuses(pin_engine(database.engine(), "r1"), "ZD607")


def test_pin__no_usage__refused_then_works_when_granted(database, role):
    name = publish(database, "r1")
    engine = sa.create_engine(database.server.url(database.name, user=role), poolclass=sa.NullPool)
    pin_engine(engine, "r1")
    assert "USAGE" in refuses(engine, "ZD605")
    database.execute(f"GRANT USAGE ON SCHEMA {name} TO {role}")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_schema()")) == name


def test_pin__ordinary_role__create_all_fails(database, role):
    name = publish(database, "r1")
    database.execute(f"GRANT USAGE ON SCHEMA {name} TO {role}")
    engine = sa.create_engine(database.server.url(database.name, user=role), poolclass=sa.NullPool)
    metadata = sa.MetaData()
    sa.Table("fresh", metadata, sa.Column("id", sa.Integer, primary_key=True))
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        metadata.create_all(pin_engine(engine, "r1"))


def test_pin__path_already_holds_a_version_schema__refused(database):
    publish(database, "r1")
    publish(database, "r2")
    database.execute(f"ALTER DATABASE {database.name} SET search_path = zd_r1, public")
    assert "'zd_r1'" in refuses(pin_engine(database.engine(), "r2"), "ZD608")


def test_pin__path_without_a_usable_schema__refused_unless_named(database):
    name = publish(database, "r1")
    database.execute(f"ALTER DATABASE {database.name} SET search_path = nowhere")
    refuses(pin_engine(database.engine(), "r1"), "ZD608")
    with pin_engine(database.engine(), "r1", schema="public").connect() as connection:
        assert connection.scalar(sa.text("SELECT current_schema()")) == name


def test_pin__default_schema_is_not_public__its_own_version_schema(database):
    name = publish(database, "r1", "app")
    database.execute(f"ALTER DATABASE {database.name} SET search_path = app, public")
    with pin_engine(database.engine(), "r1").connect() as connection:
        assert connection.scalar(sa.text("SELECT current_schema()")) == name != "zd_r1"


def test_pin__several_schemas__translated_and_checked(database):
    publish(database, "r1")
    engine = database.engine(execution_options={"schema_translate_map": {"audit": "audit_log"}})
    pin_engine(engine, "r1", schemas=["sales"])
    refuses(engine, "ZD604")
    name = publish(database, "r1", "sales")
    table = sa.Table("users", sa.MetaData(), sa.Column("name_r1"), schema="sales")
    with engine.connect() as connection:
        assert connection.execute(sa.select(table)).all() == []
    translation = engine.get_execution_options()["schema_translate_map"]
    assert translation == {"audit": "audit_log", "sales": name}


def test_pin__schema_already_translated__refused(database):
    engine = database.engine(execution_options={"schema_translate_map": {"sales": "sales_2"}})
    with pytest.raises(PinError, match="already translates 'sales'"):
        pin_engine(engine, "r1", schemas=["sales"])


def test_pin__revision_sources__argument_then_script_then_environment(database, tmp_path, monkeypatch):
    for revision in ("r1", "r2", "r3"):
        publish(database, revision)
    project = AlembicProject(tmp_path / "50%", database.url)
    monkeypatch.setenv("ALEMBIC_ZERO_REVISION", "r3")

    def pinned(**arguments):
        with pin_engine(database.engine(), **arguments).connect() as connection:
            return connection.scalar(sa.text("SELECT current_setting('alembic_zero.revision')"))

    assert pinned() == "r3"
    with pytest.raises(PinError, match="found: none"):
        pinned(script_location=project.migrations)
    project.revision("r1")
    project.revision("r2", "r1")
    assert pinned(script_location=project.migrations) == "r2"
    assert pinned(revision="r1", script_location=project.migrations) == "r1"
    project.revision("r4", "r1")
    with pytest.raises(PinError, match="'r2', 'r4'"):
        pinned(script_location=project.migrations)


def test_pin__no_revision__refused():
    with pytest.raises(PinError, match="ALEMBIC_ZERO_REVISION") as caught:
        pin_engine(sa.create_engine("postgresql+psycopg://"))
    assert caught.value.code == "ZD602"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (lambda: sa.create_engine("sqlite://"), "'sqlite'"),
        (async_engine, "asynchronous"),
        (lambda: async_engine().sync_engine, "asynchronous"),
        (lambda: sa.create_mock_engine("postgresql://", print), "MockConnection"),
    ],
)
def test_pin__not_a_psycopg_engine__refused_at_once(engine, message):
    with pytest.raises(PinError, match=message) as caught:
        pin_engine(engine(), "r1")
    assert caught.value.code == "ZD601"
