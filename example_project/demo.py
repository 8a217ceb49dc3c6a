"""The whole story: create, serve, upgrade, roll out, complete, and look whether anything was lost."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from . import checks
from .article import Article
from .browser import Sample
from .database import REVISION_1, Database, open_database, plain_engine
from .outcome import RELEASES, Outcome, render
from .processes import Load, ProcessFailedError, WebServer, run_alembic

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from sqlalchemy import Engine


def run(options: Namespace) -> int:
    """Run the example and print what happened; return the exit code."""
    outcome = Outcome()
    with ExitStack() as stack:
        database = stack.enter_context(open_database(options.database_url, options.keep))
        print(f"{options.rows:,} articles on {database.description}", flush=True)
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alembic_zero_example_logs_")))
        demo = Demo(options, database, logs, stack, outcome)
        try:
            demo.play()
        except (ProcessFailedError, SQLAlchemyError) as error:
            outcome.problems.append(str(error))
        print(render(outcome))
        if options.keep:
            print(f"\nKept: {database.url}")
    print("\nFAILED" if outcome.problems else "\nNo statement failed, no write was lost.")
    return 1 if outcome.problems else 0


class Demo:
    """One run of the example.

    :param logs: directory for what the processes write.
    :param stack: ends the processes, however the run ends.
    """

    def __init__(self, options: Namespace, database: Database, logs: Path, stack: ExitStack, outcome: Outcome) -> None:
        self.options = options
        self.url = database.url
        self.engine: Engine = plain_engine(database.url)
        self.logs = logs
        self.stack = stack
        self.outcome = outcome
        self.servers: dict[int, list[WebServer]] = {release: [] for release in RELEASES}

    def play(self) -> None:
        """Go through all phases."""
        views_loaded = self.create_and_load()
        load = self.start_load()
        try:
            self.migrate(load)
        finally:  # what the applications met is worth most when the migration failed
            report = self.finish_load(load)
            for release in RELEASES:
                self.stop_servers(release)
        self.check_content(report, views_loaded)
        self.check_schema()

    def create_and_load(self) -> int:
        """Create the table, fill it, and return how often its articles have been read."""
        with self.outcome.phase(f"alembic upgrade {REVISION_1}"):
            self.alembic("upgrade", REVISION_1)
        with self.outcome.phase(f"load {self.options.rows:,} articles"):
            checks.load_articles(self.engine, self.options.rows)
        return checks.read_views(self.engine)

    def migrate(self, load: Load) -> None:
        """Bring the database and the application from release 1 to release 2, under load."""
        self.start_servers(1)
        with self.outcome.phase("release 1 serves"):
            self.route(load, 1)
            self.let_serve()
        with self.outcome.phase("alembic upgrade head"):
            self.alembic("upgrade", "head")
        with self.outcome.phase("rollout: both releases serve"):
            self.start_servers(2)
            self.route(load, 1, 2)
            self.alembic("zd-status")
            self.let_serve()
            self.check_agreement("while both releases write")
        with self.outcome.phase("release 1 is drained and stops"):
            self.route(load, 2)
            self.stop_servers(1)
            self.check_agreement("after release 1 stopped")
        with self.outcome.phase("alembic zd-complete"):
            self.alembic("zd-complete")
        with self.outcome.phase("release 2 serves"):
            self.let_serve()

    def alembic(self, *arguments: str) -> None:
        """Run the real command."""
        run_alembic(*arguments, url=self.url, timeout_s=self.options.timeout)

    def let_serve(self) -> None:
        """Leave the visitors and the web servers alone for a while."""
        time.sleep(self.options.seconds)

    def start_load(self) -> Load:
        """Start the visitors; they have nowhere to go yet."""
        return self.stack.enter_context(Load(self.options.visitors, self.options.rows, self.url, self.logs))

    def start_servers(self, release: int) -> None:
        """Start the web servers of *release* and wait until all of them answer."""
        for number in range(1, self.options.servers + 1):
            server = self.stack.enter_context(WebServer(release, number, self.url, self.logs))
            self.servers[release].append(server)
        for server in self.servers[release]:
            server.wait_until_ready()

    def stop_servers(self, release: int) -> None:
        """Stop the web servers of *release*, which nobody asks any more, and keep their counts."""
        while self.servers[release]:
            server = self.servers[release].pop()
            self.outcome.add_statements(release, server.stats())
            server.stop()

    def route(self, load: Load, *releases: int) -> None:
        """Tell the load balancer which releases to use."""
        servers = [server for release in releases for server in self.servers[release]]
        load.route([server.address for server in servers])

    def finish_load(self, load: Load) -> dict[str, Any]:
        """Stop the visitors and return what they report."""
        report = load.finish()
        self.outcome.samples = [Sample(*sample) for sample in report["samples"]]
        self.outcome.add_failures(report["failures"])
        return report

    def check_agreement(self, when: str) -> None:
        """Compare what the two versions say about every article."""
        found = checks.read_agreement(self.engine)
        fact = f"{found.agreeing:,} of {found.rows:,} articles are the same in both versions, {when}"
        self.outcome.check(fact, 0 < found.rows == found.agreeing)

    def check_content(self, report: dict[str, Any], views_loaded: int) -> None:
        """Look for every write that the application has acknowledged."""
        ledger = {int(article_id): Article(**content) for article_id, content in report["ledger"].items()}
        found = checks.read_final_articles(self.engine, list(ledger))
        self.check_ledger(ledger, found)
        rows = checks.count_articles(self.engine)
        expected_rows = self.options.rows + report["created"]
        self.outcome.check(f"{rows:,} articles of {expected_rows:,} loaded or created", rows == expected_rows)
        views = checks.read_views(self.engine) - views_loaded
        self.outcome.check(f"{views:,} views counted of {report['views']:,}", views == report["views"])
        failed = sum(statements.failed for statements in self.outcome.statements.values())
        self.outcome.check(f"{failed:,} failed statements", failed == 0)
        served = all(statements.total for statements in self.outcome.statements.values())
        self.outcome.check("both releases served requests", served)

    def check_ledger(self, ledger: dict[int, Article], found: dict[int, Article]) -> None:
        """Compare what the visitors wrote with what is there."""
        wrong = [article_id for article_id, article in ledger.items() if found.get(article_id) != article]
        right = len(ledger) - len(wrong)
        self.outcome.check(f"{right:,} of {len(ledger):,} articles are as they were last written", not wrong)
        self.outcome.problems += wrong_articles(wrong[:5], ledger, found)

    def check_schema(self) -> None:
        """Look at what the migration has made of the table, and whether it left anything of its own."""
        schema = checks.read_final_schema(self.engine)
        self.outcome.columns, self.outcome.indexes = schema.columns, schema.indexes
        self.outcome.check("the columns are those of release 2", schema.columns == checks.FINAL_COLUMNS)
        left_behind = ", ".join(schema.left_behind) or "nothing"
        self.outcome.check(f"left behind by the migration: {left_behind}", not schema.left_behind)


def wrong_articles(ids: Sequence[int], ledger: dict[int, Article], found: dict[int, Article]) -> list[str]:
    """Return a line for each article that is not as it was written."""
    return [f"article {key} is {found.get(key)!r}, not {ledger[key]!r}" for key in ids]
