"""Two commands at once: one waits or refuses and names the other; nothing is done twice; the dead are recognised."""

from __future__ import annotations

import os
import signal
import time

import pytest

from alembic_zero.execute.command_lock import COMMAND_CLASS, SESSIONS_CLASS
from tests.acceptance.test_locks import PEOPLE, SPLIT, holding, wait_for_line
from tests.support.harness import AFTER, BEFORE, Case, Flight
from tests.support.project import AlembicProject
from tests.support.threads import in_threads

pytestmark = pytest.mark.one_server

BACK = """
op.zd_add_column("people", sa.Column("name", sa.Text), up="first")
op.zd_drop_column("people", "first", down="split_part(name, ' ', 1)")
"""
ORPHAN = (
    "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
    " AND datname = current_database()"
)
SLEEP = 'with op.get_context().autocommit_block():\n    op.execute("SELECT pg_sleep(600)")\n'


@pytest.fixture
def flight(database, tmp_path):
    return Flight(Case("commands", PEOPLE, SPLIT, "pass", BACK), database, tmp_path / "project")


def slow(flight, seconds):
    """Let each row of the backfill take its time: a command that is at work for a while."""
    flight.database.execute(
        f"CREATE FUNCTION slow(t text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_sleep({seconds});"
        " RETURN split_part(t, ' ', 1); END $$"
    )
    flight.project.revision(AFTER, BEFORE, SPLIT.replace("split_part(name, ' ', 1)", "public.slow(name)"), BACK)


def steps(flight):
    """Steps in the journal that are there twice, or are not finished."""
    return flight.database.fetch(
        "SELECT phase, name, count(*) FROM alembic_zero.step GROUP BY migration, 1, 2"
        " HAVING count(*) > 1 OR bool_or(finished_at IS NULL)"
    )


def end(process, code=0):
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == code, stdout + stderr
    return stdout + stderr


def wait_until(condition, what, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.05)


def holders(database, lock_class=COMMAND_CLASS):
    return [
        pid
        for (pid,) in database.fetch(
            f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = {lock_class} AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    ]


# -- one waits --------------------------------------------------------------------------------------------


def test_two_upgrades_at_once__one_waits_and_finds_nothing_left_to_do(flight):
    slow(flight, 0.2)
    first = flight.project.start("upgrade", AFTER)
    wait_until(lambda: holders(flight.database), "the first command's lock")
    second = flight.project.start("upgrade", AFTER)
    said = wait_for_line(second, "another command is running")
    assert f"alembic_zero upgrade {os.uname().nodename}:{first.pid}" in said
    for text in (f"pid {holders(flight.database)[0]}", "role postgres", "since 20"):
        assert text in said
    assert "published zd_r2" in end(first)
    assert "published" not in end(second)
    assert steps(flight) == []
    assert flight.database.fetch("SELECT count(*) FROM alembic_zero.migration WHERE revision = 'r2'") == [(1,)]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_two_upgrades_from_base_at_once__the_second_sees_what_the_first_has_done(isolation, database, tmp_path):
    """Also where env.py reads in one snapshot: it was taken before the first command committed."""
    project = AlembicProject(tmp_path, database.url)
    project.revision(
        BEFORE, None, 'op.create_table("t", sa.Column("id", sa.Integer))\nop.execute("SELECT pg_sleep(5)")'
    )
    env = project.migrations / "env.py"
    env.write_text(env.read_text().replace("NullPool)", f"NullPool, isolation_level={isolation!r})"))
    first = project.start("upgrade", "head")
    wait_until(lambda: holders(database), "the first command's lock")
    second = project.start("upgrade", "head")
    wait_for_line(second, "another command is running")
    end(first)
    end(second)
    assert database.fetch("SELECT version_num FROM alembic_version") == [(BEFORE,)]


def test_two_completions_at_once__one_waits_and_finds_nothing_left_to_do(flight):
    flight.run("upgrade", AFTER)
    with holding(flight, "SELECT FROM public.people"):
        first = flight.project.start("zd-complete")
        wait_for_line(first, "waiting for locks")
        second = flight.project.start("zd-complete")
        wait_for_line(second, "another command is running")
        # Between two tries it waits for nobody.
        wait_until(lambda: "it waits for pid" in flight.run("zd-status").stdout, "the blocker in zd-status")
        assert f"alembic_zero zd-complete {os.uname().nodename}:{first.pid}" in flight.run("zd-status").stdout
    end(first)
    assert "nothing to complete" in end(second)
    assert steps(flight) == []


def test_another_command_for_longer_than_one_waits__refused_with_its_name(flight):
    flight.project.write_env(extra={"zd_command_wait_s": 0})
    slow(flight, 0.2)
    first = flight.project.start("upgrade", AFTER)
    wait_until(lambda: holders(flight.database), "the first command's lock")
    refused = flight.project.run("upgrade", AFTER, check=False)
    assert refused.returncode == 2
    assert "[ZD302]" in refused.stdout + refused.stderr
    assert f"{os.uname().nodename}:{first.pid}" in refused.stdout + refused.stderr
    end(first)


# -- one refuses ------------------------------------------------------------------------------------------


def test_complete_during_upgrade__refused_with_the_upgrades_name(flight):
    """It must not complete, having waited, what was published a moment before."""
    slow(flight, 0.2)
    first = flight.project.start("upgrade", AFTER)
    wait_for_line(first, "expand: expand")
    refused = flight.project.run("zd-complete", check=False)
    assert refused.returncode == 2
    assert "[ZD302]" in refused.stdout + refused.stderr
    assert f"alembic_zero upgrade {os.uname().nodename}:{first.pid}" in refused.stdout + refused.stderr
    end(first)
    assert flight.database.fetch("SELECT state FROM alembic_zero.migration WHERE revision = 'r2'") == [("live",)]


def test_downgrade_during_complete__refused_once_that_is_done(flight):
    """A rollback that was asked for must not become a migration backwards."""
    flight.run("upgrade", AFTER)
    with holding(flight, "SELECT FROM public.people"):
        first = flight.project.start("zd-complete")
        wait_for_line(first, "waiting for locks")
        second = flight.project.start("downgrade", BEFORE)
        wait_for_line(second, "another command is running")
    end(first)
    assert "[ZD303]" in end(second, 2)
    assert flight.database.fetch("SELECT version_num FROM alembic_version") == [(AFTER,)]


def test_complete_during_rollback__refused(flight):
    flight.run("upgrade", AFTER)
    with holding(flight, "SELECT FROM public.people"):
        first = flight.project.start("downgrade", BEFORE)
        wait_for_line(first, "waiting for locks")
        refused = flight.project.run("zd-complete", check=False)
        assert refused.returncode == 2
        assert "alembic_zero downgrade" in refused.stdout + refused.stderr
    end(first)


def test_status_and_plan_during_anything__never_wait_never_fail(flight):
    slow(flight, 0.05)
    outputs = []

    def look(stop):
        while not stop.is_set() or len(outputs) < 2:
            for command in (("zd-status", "--json"), ("zd-plan",)):
                done = flight.project.run(*command, check=False, timeout_s=60)
                outputs.append((command, done.returncode, done.stdout + done.stderr))

    for command in (("upgrade", AFTER), ("zd-complete",)):
        with in_threads(look):
            end(flight.project.start(*command))
    failed = [one for one in outputs if one[1] != 0]
    assert failed == []


def their_project(database, directory):
    """Another project in the same database, with the same revision ids, adopted."""
    database.execute("CREATE TABLE other (id integer PRIMARY KEY, name text); INSERT INTO other VALUES (1, 'a b')")
    extra = {"version_table": "their_version", "zd_project": "theirs"}
    theirs = AlembicProject(directory / "theirs", database.url, extra=extra)
    theirs.revision(BEFORE)
    theirs.revision(AFTER, BEFORE, SPLIT.replace("people", "other"))
    theirs.run_in_process("stamp", BEFORE)
    theirs.run_in_process("zd-init")
    return theirs


def test_two_projects__do_not_wait_for_each_other(flight, database, tmp_path):
    theirs = their_project(database, tmp_path)
    flight.run("upgrade", AFTER)
    with holding(flight, "SELECT FROM public.other"):
        waiting = theirs.start("upgrade", AFTER)
        wait_for_line(waiting, "waiting for locks")
        assert "another command" not in flight.run("zd-complete").stderr
    end(waiting)


def test_two_projects_plan_at_once__the_second_to_begin_is_told_to_run_again(flight, database, tmp_path):
    """Both have planned with the same numbers."""
    theirs = their_project(database, tmp_path)
    with holding(flight, "SELECT FROM public.people"):
        ours = flight.project.start("upgrade", AFTER)
        wait_for_line(ours, "waiting for locks")
        theirs.run("upgrade", AFTER)
    assert "[ZD303]" in end(ours, 2)
    flight.run("upgrade", AFTER)


def test_users_advisory_locks__are_not_ours(flight):
    """The key of a project, and of one integer, in the user's hands: our lock is another one."""
    with flight.database.connect() as user:
        user.execute("SELECT pg_advisory_lock(hashtext('public.alembic_version'))")
        user.execute("SELECT pg_advisory_lock(0, hashtext('public.alembic_version'))")
        flight.run("upgrade", AFTER)
    assert holders(flight.database) == holders(flight.database, SESSIONS_CLASS) == []


# -- the dead ---------------------------------------------------------------------------------------------


def test_holder_killed__its_orphan_is_waited_for_and_named__then_the_work_goes_on(flight):
    """The process is gone, its server process is still in a statement: nobody begins beside it."""
    flight.project.revision(AFTER, BEFORE, SLEEP + SPLIT, BACK)
    first = flight.project.start("upgrade", AFTER)
    wait_until(lambda: flight.database.fetch(ORPHAN), "the long statement")
    ((pid,),) = flight.database.fetch(ORPHAN)
    os.kill(first.pid, signal.SIGSTOP)
    second = flight.project.start("upgrade", AFTER)
    said = wait_for_line(second, "another command is running")
    assert f"pid {pid} active" in said
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    wait_until(lambda: not flight.database.fetch(f"SELECT FROM pg_stat_activity WHERE pid = {pid}"), "the orphan's end")
    flight.database.execute("SELECT 1")
    wait_until(lambda: flight.database.fetch(ORPHAN), "the second command's statement")
    assert len(holders(flight.database)) == 1
    flight.database.execute(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid IN ({ORPHAN})")
    second.communicate(timeout=60)


def test_holder_killed_while_its_statement_runs__the_server_ends_that_by_itself(flight):
    """client_connection_check_interval: an orphan does not hold the project for hours."""
    flight.project.revision(AFTER, BEFORE, SLEEP + SPLIT, BACK)
    first = flight.project.start("upgrade", AFTER)
    wait_until(lambda: flight.database.fetch(ORPHAN), "the long statement")
    first.kill()
    first.communicate(timeout=60)
    wait_until(lambda: not flight.database.fetch(ORPHAN), "the end of the orphan")
    assert holders(flight.database) == []


def test_orphan_that_does_not_end__named_with_what_ends_it(flight):
    """A session that still shares the lock keeps others out, and the message tells which it is."""
    flight.project.write_env(extra={"zd_command_wait_s": 0})
    with flight.database.connect() as orphan:
        orphan.execute("SET application_name = 'alembic_zero upgrade elsewhere:1'")
        orphan.execute(f"SELECT pg_advisory_lock_shared({SESSIONS_CLASS}, hashtext('public.alembic_version'))")
        pid = orphan.info.backend_pid
        refused = flight.project.run("upgrade", AFTER, check=False)
    assert refused.returncode == 2
    text = refused.stdout + refused.stderr
    assert "[ZD302]" in text
    assert "alembic_zero upgrade elsewhere:1" in text
    assert f"SELECT pg_terminate_backend({pid})" in text
    flight.run("upgrade", AFTER)


def test_lock_session_is_ended__the_command_stops_before_its_next_step(flight):
    """Whoever loses the lock must not go on beside whoever has it now."""
    slow(flight, 0.1)
    first = flight.project.start("upgrade", AFTER)
    wait_for_line(first, "expand: expand")
    (pid,) = holders(flight.database)
    flight.database.execute(f"SELECT pg_terminate_backend({pid})")
    assert "[ZD304]" in end(first, 1)
    assert flight.database.fetch("SELECT state FROM alembic_zero.migration WHERE revision = 'r2'") == [("expanding",)]
    flight.run("upgrade", AFTER)
    assert steps(flight) == []
