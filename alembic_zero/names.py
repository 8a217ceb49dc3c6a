"""Every name that alembic_zero gives to something in a database; standard library only."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The marker column: the generation of a row, see the documentation.
MARKER = "_zd_v"

#: The schema of the journal; reserved.
JOURNAL_SCHEMA = "alembic_zero"

#: The table whose rows the writers of equal keys lock.
KEY_SLOTS = "key_slots"

#: Stands for "no revision" where a version needs a name; Alembic reserves the word too.
base_revision = "base"

#: PostgreSQL's NAMEDATALEN - 1. In bytes, not in characters.
MAX_BYTES = 63

#: How the COMMENT of a live version schema starts, and that of a tombstone.
VERSION_COMMENT = "alembic_zero: version"
TOMBSTONE_COMMENT = "alembic_zero: tombstone"

_PLAIN_REVISION = re.compile(r"[a-z0-9_]{1,40}")
_PLAIN_SUFFIX = re.compile(r"[A-Za-z0-9_.-]+(@[A-Za-z0-9_-]+)?(:[A-Za-z0-9_-]+)?")
_MAX_SUFFIX = 40
_SEPARATORS = re.compile(r"[@:]")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")
# One more than the longest plain revision: a hashed name can then never equal a plain one.
_HASHED_LENGTH = 41
_MAX_SLUG = 24


def version_schema(revision: str, schema: str = "public", project: str | None = None) -> str:
    """Return the name of the schema in which clients of *revision* find the tables of *schema*.

    Pure: the same arguments give the same name in every release. Lower-case ASCII,
    never in need of quoting, at most 63 bytes. ``zd_<revision>`` for an ordinary
    revision and ``public``; otherwise readable beginnings of both and a digest.

    :param project: as for ``alembic_zero.configure(zd_project=)``.
    """
    if schema == "public" and project is None and _PLAIN_REVISION.fullmatch(revision):
        return f"zd_{revision}"
    parts = [project or "", "" if schema == "public" else schema, revision]
    readable = "_".join(part for part in parts if part)
    slug = _NOT_SLUG.sub("_", readable.lower()).strip("_")[:_MAX_SLUG].rstrip("_") or "x"
    named = (schema, revision) if project is None else (schema, revision, project)
    digest = _digest(*named)[: _HASHED_LENGTH - 1 - len(slug)]
    return f"zd_{slug}_{digest}"


def internal_name(*parts: str) -> str:
    """Return *parts* joined by underscores; shortened, with a digest, to at most 63 bytes.

    Parts that merely meet differently, ``("a_b", "c")`` and ``("a", "b_c")``, join to the
    same name as long as it is short: keep all but one part free of underscores.
    """
    joined = "_".join(parts)
    if len(joined.encode()) <= MAX_BYTES:
        return joined
    digest = _digest(*parts)[:16]
    return f"{shorten(joined, MAX_BYTES - 1 - len(digest))}_{digest}"


def implicit_name(table: str, columns: Iterable[str], label: str) -> str:
    """Return the name that PostgreSQL gives to a constraint without one; *label* is ``fkey`` or the like.

    As its makeObjectName does it: table and columns are shortened in turns, the longer one first.
    """
    joined = b""
    for column in columns:
        joined += (b"_" if joined else b"") + column.encode()
        if len(joined) > MAX_BYTES:
            break
    first, second = len(table.encode()), len(joined)
    while first + second > MAX_BYTES - len(label.encode()) - 2:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return f"{shorten(table, first)}_{shorten(joined.decode(), second)}_{label}"


#: What the application_name of a client of any version has in it.
SUFFIX_START = " [zd:"


def client_suffix(revision: str, schema: str = "public", project: str | None = None) -> str:
    """Return how the ``application_name`` of every client pinned to *revision* ends.

    Printable ASCII, as the server replaces everything else in that setting, and at most
    46 bytes. No suffix is the end of another one.

    :param schema: the client's default schema: revision ids of two projects may be equal.
    """
    parts = [revision] if schema == "public" and project is None else [revision, schema, project or ""]
    name = revision + ("" if schema == "public" else f"@{schema}") + ("" if project is None else f":{project}")
    plain = len(name) <= _MAX_SUFFIX and _PLAIN_SUFFIX.fullmatch(name) and not _SEPARATORS.search("".join(parts))
    # "#" is not in the plain alphabet: a digest cannot be taken for a revision.
    return f"{SUFFIX_START}{name}]" if plain else f"{SUFFIX_START}#{_digest(*parts)[:32]}]"


def revision_setting(revision: str, project: str | None = None) -> str:
    """Return the value of ``alembic_zero.revision``, by which the triggers know a session's version."""
    return revision if project is None else f"{project}/{revision}"


def client_name(application_name: str, revision: str, schema: str = "public", project: str | None = None) -> str:
    """Return *application_name* with :func:`client_suffix` complete, in at most 63 bytes."""
    suffix = client_suffix(revision, schema, project)
    own = application_name.removesuffix(suffix)
    return shorten(own, MAX_BYTES - len(suffix)) + suffix


def shorten(text: str, max_bytes: int) -> str:
    """Return the longest beginning of *text* that is at most *max_bytes* in UTF-8."""
    return text.encode()[:max_bytes].decode(errors="ignore")


def _digest(*parts: str) -> str:
    # No identifier contains NUL, so different parts give different input.
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
