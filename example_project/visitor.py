"""A visitor of the web site who reads, writes and edits, and remembers what must be found again."""

from __future__ import annotations

import threading
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from .article import AUTHORS, Article, article_in_form, random_article, random_text
from .browser import Backend, Browser, RequestFailedError, article_links, displayed, form_fields

if TYPE_CHECKING:
    from collections.abc import Callable

THINK_S = 0.01
PAUSE_AFTER_FAILURE_S = 0.2


class Visitor(threading.Thread):
    """One visitor, whose requests go to any of the web servers that the load balancer offers.

    Only this visitor edits the articles in its ledger, so each must stay as the ledger says.
    Everybody looks at everything, and each look adds one to an article's views.

    :param number: which of *visitors* this is; it may edit the loaded articles whose id says so.
    :param rows: how many articles were loaded before.
    """

    def __init__(self, number: int, visitors: int, rows: int) -> None:
        super().__init__(name=f"visitor-{number}", daemon=True)
        self.busy = threading.Lock()
        self.stopping = threading.Event()
        self.backends: tuple[Backend, ...] = ()
        self.browser = Browser()
        self.ledger: dict[int, Article] = {}
        self.created = 0
        self.views = 0
        self.failures: list[str] = []
        self._random = Random(number)
        self._own_rows = range(number + 1, rows + 1, visitors)
        self._front_page: list[int] = []

    def run(self) -> None:
        """Act until told to stop; one action at a time goes to one web server."""
        pause_s = 0.0
        while not self.stopping.wait(pause_s):
            with self.busy:
                pause_s = self._act_once()
        self.browser.close()

    def _act_once(self) -> float:
        """Do one thing and return how long to wait before the next."""
        if not self.backends:
            return THINK_S
        actions: list[Callable[[Backend], None]] = [self._list, self._show, self._create, self._edit]
        action = self._random.choices(actions, (20, 40, 15, 25))[0]
        try:
            action(self._random.choice(self.backends))
        except RequestFailedError as error:
            self.failures.append(str(error))
            return PAUSE_AFTER_FAILURE_S
        except (LookupError, ValueError) as error:
            self.failures.append(f"unreadable page: {error!r}")
            return PAUSE_AFTER_FAILURE_S
        return THINK_S

    def _list(self, backend: Backend) -> None:
        self._front_page = article_links(self.browser.get(backend, "/articles"))

    def _show(self, backend: Backend) -> None:
        article_id = self._random.choice([self._any_own_id(), *self._front_page[:3]])
        page = self.browser.get(backend, f"/articles/{article_id}")
        self.views += 1
        if article_id in self.ledger:
            self._compare(backend, article_id, displayed(page), self.ledger[article_id].as_displayed())

    def _create(self, backend: Backend) -> None:
        article = random_article(self._random)
        article_id = self.browser.post(backend, "/articles", article.as_form(backend.release))
        self.created += 1
        self.ledger[article_id] = article.after_saving(backend.release, None)

    def _edit(self, backend: Backend) -> None:
        """Open the form, change one thing in it, and save all of it: what a browser does."""
        article_id = self._any_own_id()
        fields = form_fields(self.browser.get(backend, f"/articles/{article_id}/edit"))
        previous = self.ledger.get(article_id) or article_in_form(fields)
        self._compare(backend, article_id, fields, previous.as_form(backend.release))
        edited = self._edited(previous)
        self.browser.post(backend, f"/articles/{article_id}", edited.as_form(backend.release))
        self.ledger[article_id] = edited.after_saving(backend.release, previous)

    def _edited(self, article: Article) -> Article:
        match self._random.randrange(3):
            case 0:
                return replace(article, heading=random_text(self._random, 4))
            case 1:
                return replace(article, body=random_text(self._random, 30))
            case _:
                first, last = self._random.choice(AUTHORS)
                return replace(article, first_name=first, last_name=last)

    def _any_own_id(self) -> int:
        """Return an article of the ledger, or a loaded one that nobody else edits."""
        if self.ledger and self._random.random() < 0.5:
            return self._random.choice(list(self.ledger))
        return self._random.choice(self._own_rows)

    def _compare(self, backend: Backend, article_id: int, found: dict[str, str], expected: dict[str, str]) -> None:
        if found != expected:
            raise RequestFailedError(f"release {backend.release}: article {article_id} is {found!r}, not {expected!r}")
