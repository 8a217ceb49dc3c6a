"""The commands on the ``alembic`` script: arguments, errors and exit codes."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from alembic.config import CommandLine, Config
from sqlalchemy.exc import OperationalError

import alembic_zero
from alembic_zero import cli, commands
from alembic_zero.errors import NEXT_COMMAND, PinError
from alembic_zero.operations.errors import MigrationError, RefusedError

ENV = """
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

url = context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=NullPool).connect() as connection:
    context.configure(connection=connection, {options})
    with context.begin_transaction():
        context.run_migrations()
"""

REVISION = """
revision = {revision!r}
down_revision = {down!r}

def upgrade():
    from alembic import op
    {upgrade}

def downgrade():
    pass
"""


class Project:
    """A script directory with two revisions, ``one`` and ``two``, and no tables."""

    def __init__(self, path) -> None:
        self.path = path
        (path / "versions").mkdir()
        self.config = Config()
        self.config.set_main_option("script_location", str(path))
        self.config.set_main_option("path_separator", "os")
        self.config.set_main_option("sqlalchemy.url", f"sqlite:///{path}/data.db")
        self.ini = path / "alembic.ini"
        self.write_env("alembic_zero=object()")
        self.write_revision("one", None)
        self.write_revision("two", "one")
        self.write_ini(f"sqlite:///{path}/data.db")

    def write_ini(self, url: str) -> None:
        lines = (
            "[alembic]",
            f"script_location = {self.path}",
            "path_separator = os",
            f"sqlalchemy.url = {url}",
        )
        self.ini.write_text("\n".join(lines))

    def write_env(self, options: str) -> None:
        (self.path / "env.py").write_text(ENV.format(options=options))

    def write_revision(self, revision: str, down: str | None, upgrade: str = "pass") -> None:
        text = REVISION.format(revision=revision, down=down, upgrade=upgrade)
        (self.path / "versions" / f"{revision}.py").write_text(text)

    def run(self, *arguments: str) -> None:
        class Line(CommandLine):
            """Ours to change: the class that other tests use stays as it is."""

        cli.install(Line)
        Line(prog="alembic").main(["-c", str(self.ini), *arguments])


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def driver(monkeypatch):
    """Return the calls that a driver in place of the real one has got."""
    fake = ModuleType("alembic_zero.driver")
    fake.calls = []

    def remember(name):
        def run(context, heads, script, **options):
            fake.calls.append((name, heads, options))
            fake.context, fake.script = context, script
            if fake.error is not None:
                raise fake.error

        return run

    fake.error = None
    for name in ("zd_init", "zd_status", "zd_plan", "zd_complete", "zd_prune", "zd_schema"):
        setattr(fake, name, remember(name))
    monkeypatch.setitem(sys.modules, "alembic_zero.driver", fake)
    monkeypatch.setattr(alembic_zero, "driver", fake, raising=False)
    return fake


@pytest.mark.parametrize(
    ("arguments", "name", "options"),
    [
        (["zd-init"], "zd_init", {}),
        (["zd-status"], "zd_status", {"as_json": False}),
        (["zd-status", "--json"], "zd_status", {"as_json": True}),
        (["zd-complete"], "zd_complete", {"revision": None, "force": False}),
        (["zd-complete", "--force", "one"], "zd_complete", {"revision": "one", "force": True}),
        (["zd-prune"], "zd_prune", {}),
        (["zd-schema"], "zd_schema", {"revision": None}),
        (["zd-schema", "two"], "zd_schema", {"revision": "two"}),
    ],
)
def test_command__with_arguments__driver_gets_them(project, driver, arguments, name, options):
    project.run(*arguments)
    assert driver.calls == [(name, (), options)]
    assert driver.context.opts["alembic_zero_command"] == name.replace("_", "-")
    assert driver.script.get_current_head() == "two"


def test_command__run__leaves_the_database_alone(project, driver):
    """Not even the version table is made: zd-status is for looking."""
    project.run("zd-status")
    assert not driver.context.opts["as_sql"]
    assert (project.path / "data.db").stat().st_size == 0


def test_zd_plan__revision_or_none__steps_of_the_upgrade(project, driver):
    project.run("upgrade", "one")
    project.run("zd-plan")
    project.run("zd-plan", "one")
    (_, heads, to_heads), (_, _, to_one) = driver.calls
    assert heads == ("one",)
    assert [step.revision.revision for step in to_heads["steps"]] == ["two"]
    assert (to_heads["revision"], to_one["revision"], to_one["steps"]) == (None, "one", [])


def test_commands__as_api__same_calls(project, driver):
    commands.zd_init(project.config)
    commands.zd_status(project.config, as_json=True)
    commands.zd_plan(project.config, "one")
    commands.zd_complete(project.config, "two", force=True)
    commands.zd_prune(project.config)
    commands.zd_schema(project.config, "two")
    assert [name for name, _, _ in driver.calls] == [
        "zd_init",
        "zd_status",
        "zd_plan",
        "zd_complete",
        "zd_prune",
        "zd_schema",
    ]
    driver.error = PinError("broken", code="ZD999")
    with pytest.raises(PinError):
        commands.zd_prune(project.config)


def test_command__env_without_configure__refused(project, driver, capsys):
    project.write_env("")
    with pytest.raises(SystemExit) as exit_:
        project.run("zd-complete")
    assert exit_.value.code == 2
    output = " ".join(capsys.readouterr().out.split())
    assert output.startswith("FAILED: [ZD102] zd-complete: env.py does not call alembic_zero.configure(")
    assert driver.calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MigrationError("it broke", code="ZD900"), 1),
        (RefusedError("no", code="ZD901", next_command="alembic zd-status"), 2),
        (PinError("not an Alembic error", code="ZD902"), 1),
    ],
)
def test_zero_error__any_command__own_exit_code(project, driver, capsys, error, code):
    driver.error = error
    with pytest.raises(SystemExit) as exit_:
        project.run("zd-prune")
    assert exit_.value.code == code
    assert exit_.value.__cause__ is error
    captured = capsys.readouterr()
    assert " ".join(captured.out.split()) == f"FAILED: {error}"
    assert captured.err == ""


def test_zero_error__quiet__nothing_printed(project, driver, capsys):
    driver.error = MigrationError("it broke", code="ZD900")
    with pytest.raises(SystemExit) as exit_:
        project.run("-q", "zd-prune")
    assert exit_.value.code == 1
    assert capsys.readouterr().out == ""


def test_zero_error__raiseerr__raised(project, driver):
    driver.error = MigrationError("it broke", code="ZD900")
    with pytest.raises(MigrationError) as raised:
        project.run("--raiseerr", "zd-prune")
    assert raised.value is driver.error


def test_zero_error__stock_upgrade__own_exit_code(project, capsys):
    project.write_revision("two", "one", "op.zd_execute()")
    with pytest.raises(SystemExit) as exit_:
        project.run("upgrade", "head")
    assert exit_.value.code == 2
    assert "FAILED: [ZD101] zd_execute: nothing to run" in " ".join(capsys.readouterr().out.split())


def test_command_error__stock_command__alembics_exit_code(project, capsys):
    with pytest.raises(SystemExit) as exit_:
        project.run("upgrade", "nowhere")
    assert exit_.value.code == -1
    assert "FAILED: Can't locate revision" in " ".join(capsys.readouterr().out.split())


def test_stock_command__env_looks_at_its_command__sees_alembics_own(project):
    """env.py files tell commands apart by ``config.cmd_opts.cmd``."""
    with (project.path / "env.py").open("a") as env:
        env.write("\nfrom alembic import command\nassert context.config.cmd_opts.cmd[0] is command.upgrade\n")
    project.run("upgrade", "head")


def test_database_not_there__our_command__one_line(project, driver, capsys):
    project.write_ini(f"sqlite:///{project.path}/no/such/data.db")
    with pytest.raises(SystemExit) as exit_:
        project.run("zd-status")
    assert exit_.value.code == 1
    output = " ".join(capsys.readouterr().out.split())
    assert output == "FAILED: [ZD103] cannot connect to the database: unable to open database file"
    with pytest.raises(OperationalError):
        project.run("--raiseerr", "zd-status")
    with pytest.raises(OperationalError):
        project.run("current")


def test_install__twice__commands_once():
    class Line(CommandLine):
        pass

    cli.install(Line)
    before = Line.run_cmd
    cli.install(Line)
    assert Line.run_cmd is before
    assert "zd-init" in Line().subparsers.choices


def test_connection_lost__env_cannot_even_roll_back__our_error_is_shown(project, capsys):
    """SQLAlchemy's error of the ROLLBACK comes last; ours came before it and says more."""
    (project.path / "env.py").write_text(
        """
from sqlalchemy.exc import OperationalError
from alembic_zero.operations.errors import MigrationError
try:
    raise MigrationError("the backfill broke", code="ZD900")
finally:
    raise OperationalError("ROLLBACK", None, Exception("the connection is lost"))
"""
    )
    with pytest.raises(SystemExit) as exit_:
        project.run("upgrade", "head")
    assert exit_.value.code == 1
    assert " ".join(capsys.readouterr().out.split()) == "FAILED: [ZD900] the backfill broke"


def test_connection_lost__stock_command_of_ours__one_line_with_the_next_command(project, capsys):
    (project.path / "env.py").write_text(
        f"""
from alembic import context
from sqlalchemy.exc import OperationalError
context.config.attributes[{NEXT_COMMAND!r}] = "alembic upgrade two"
raise OperationalError("COMMIT", None, Exception("the connection is lost"))
"""
    )
    with pytest.raises(SystemExit) as exit_:
        project.run("upgrade", "head")
    assert exit_.value.code == 1
    output = " ".join(capsys.readouterr().out.split())
    assert output == (
        "FAILED: [ZD103] the database failed: the connection is lost; finished steps are recorded, "
        "clients go on working; next: alembic upgrade two"
    )
