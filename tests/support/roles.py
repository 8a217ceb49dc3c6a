"""Databases whose migrating role is no superuser: it owns the tables, or belongs to the role that owns them."""

from __future__ import annotations

from typing import Literal

from tests.support.harness import APP
from tests.support.server import Database

Kind = Literal["owner", "member"]

MIGRATORS: dict[Kind, str] = {"owner": "zd_owner", "member": "zd_member"}
GROUP = "zd_group"

# Roles are the server's, not the database's: whoever comes first makes them, once.
_ROLES = f"""
DO $$ BEGIN
    PERFORM pg_advisory_xact_lock(74);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{GROUP}') THEN
        CREATE ROLE {GROUP};
        CREATE ROLE zd_owner LOGIN;
        CREATE ROLE zd_member LOGIN IN ROLE {GROUP};
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APP}') THEN
        CREATE ROLE {APP} LOGIN;
    END IF;
    -- Cases that are about column grants would create it.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zd_reader') THEN
        CREATE ROLE zd_reader;
    END IF;
END $$;
"""

# What docs/security.md says that the migrating role needs, and nothing else; it owns the tables, or may act as owner.
NEEDED = """
GRANT CREATE ON DATABASE "{database}" TO {role};
GRANT USAGE, CREATE ON SCHEMA public TO {role};
"""
_DEFAULT_RIGHTS = f"""
ALTER DEFAULT PRIVILEGES FOR ROLE {{role}} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP};
ALTER DEFAULT PRIVILEGES FOR ROLE {{role}} GRANT USAGE ON SEQUENCES TO {APP};
"""


class RoleDatabase(Database):
    """A database in which migrations run as a role with no more than the documented grants.

    What tests set up belongs to that role (*owner*), or to a group that it is a member of (*member*).
    """

    def __init__(self, database: Database, kind: Kind) -> None:
        super().__init__(database.server, database.name)
        self.kind = kind
        self._origin = database
        self.role = MIGRATORS[kind]
        self.url = database.url.set(username=self.role)
        owner = GROUP if kind == "member" else self.role
        database.execute(_ROLES)
        database.execute(NEEDED.format(role=owner, database=self.name) + _DEFAULT_RIGHTS.format(role=self.role))

    def execute(self, sql: str, *, user: str | None = None) -> None:
        """Run statements, by default as the owner of the tables."""
        with self.connect(user=user or self.role) as connection:
            if user is None and self.kind == "member":
                connection.execute(f"SET ROLE {GROUP}".encode())
            connection.execute(sql.encode())

    def other(self) -> Database:
        """Return a second database for the same role."""
        return RoleDatabase(self._origin.other(), self.kind)
