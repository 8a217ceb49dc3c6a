"""What a visitor's browser does: requests over kept connections, and reading pages."""

from __future__ import annotations

import html
import re
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlencode

TIMEOUT_S = 60
ARTICLE_LINK = re.compile(r'href="/articles/(\d+)"')
ITEM = re.compile(r'itemprop="(\w+)">(.*?)</', re.DOTALL)
INPUT = re.compile(r'<input name="(\w+)" value="([^"]*)"')
TEXTAREA = re.compile(r'<textarea name="(\w+)">(.*?)</textarea>', re.DOTALL)


class RequestFailedError(Exception):
    """The application did not answer as it should."""


@dataclass(frozen=True)
class Backend:
    """One web server process."""

    release: int
    port: int


@dataclass(frozen=True)
class Sample:
    """One request: when it began (seconds since the epoch), what it took, and who answered."""

    started_s: float
    elapsed_ms: float
    release: int
    failed: bool


class Browser:
    """Keeps a connection to each web server and a record of each request."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._connections: dict[Backend, HTTPConnection] = {}

    def get(self, backend: Backend, path: str) -> str:
        """Return the page at *path*."""
        return self._request(backend, "GET", path, 200)[1]

    def post(self, backend: Backend, path: str, form: dict[str, str]) -> int:
        """Send *form* and return the id of the article that the application redirects to."""
        location, _ = self._request(backend, "POST", path, 303, urlencode(form).encode())
        return int(location.rsplit("/", 1)[1])

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _request(
        self, backend: Backend, method: str, path: str, expected: int, body: bytes | None = None
    ) -> tuple[str, str]:
        started_s, started = time.time(), time.perf_counter()
        failed = True
        try:
            status, location, page = self._exchange(backend, method, path, body)
            failed = status != expected
        except (OSError, HTTPException) as error:
            self._connections.pop(backend).close()
            raise RequestFailedError(f"release {backend.release}: {method} {path}: {error!r}") from error
        finally:
            elapsed_ms = (time.perf_counter() - started) * 1000
            self.samples.append(Sample(started_s, elapsed_ms, backend.release, failed))
        if failed:
            raise RequestFailedError(f"release {backend.release}: {method} {path}: status {status}")
        return location, page

    def _exchange(self, backend: Backend, method: str, path: str, body: bytes | None) -> tuple[int, str, str]:
        if backend not in self._connections:
            self._connections[backend] = HTTPConnection("127.0.0.1", backend.port, timeout=TIMEOUT_S)
        connection = self._connections[backend]
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        page = response.read().decode()
        return response.status, response.getheader("Location", ""), page


def article_links(page: str) -> list[int]:
    """Return the ids of the articles that a page links to."""
    return [int(link) for link in ARTICLE_LINK.findall(page)]


def displayed(page: str) -> dict[str, str]:
    """Return what an article's page shows, by schema.org's property names."""
    return {name: html.unescape(value) for name, value in ITEM.findall(page)}


def form_fields(page: str) -> dict[str, str]:
    """Return what the form on a page is filled with."""
    return {name: html.unescape(value) for name, value in [*INPUT.findall(page), *TEXTAREA.findall(page)]}
