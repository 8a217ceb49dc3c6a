"""``alembic upgrade head`` from base over many small revisions: zd_ operations against plain Alembic's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.support import interleave, new_project, say, timed, title, verdict

if TYPE_CHECKING:
    from bench.support import Options, Project, Server

LIMIT = 1.5

# One cycle of revisions for a table: (with zd_ operations, the same DDL in Alembic's own).
_CYCLE = (
    (
        """op.zd_create_table("{t}", sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
            sa.Column("name", sa.Text, nullable=False), sa.Column("amount", sa.Integer))""",
        """op.create_table("{t}", sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
            sa.Column("name", sa.Text, nullable=False), sa.Column("amount", sa.Integer))""",
    ),
    (
        """op.zd_add_column("{t}", sa.Column("note", sa.Text))""",
        """op.add_column("{t}", sa.Column("note", sa.Text))""",
    ),
    (
        """op.zd_add_column("{t}", sa.Column("first_name", sa.Text, nullable=False), up="split_part(name, ' ', 1)")""",
        """op.add_column("{t}", sa.Column("first_name", sa.Text))
op.execute("UPDATE {t} SET first_name = split_part(name, ' ', 1)")
op.alter_column("{t}", "first_name", nullable=False)""",
    ),
    (
        """op.zd_alter_column("{t}", "amount", type_=sa.BigInteger, up="amount * 100", down="(amount / 100)::int")""",
        """op.alter_column("{t}", "amount", type_=sa.BigInteger, postgresql_using="amount * 100")""",
    ),
    (
        """op.zd_alter_column("{t}", "note", new_column_name="remark", server_default="x", comment="said by them")""",
        """op.alter_column("{t}", "note", new_column_name="remark", server_default="x", comment="said by them")""",
    ),
    (
        """op.create_index("ix_{t}", "{t}", ["amount"])""",
        """op.create_index("ix_{t}", "{t}", ["amount"])""",
    ),
    (
        """op.zd_drop_column("{t}", "name", down="first_name")""",
        """op.drop_column("{t}", "name")""",
    ),
    (
        """op.zd_rename_table("{t}", "{t}_renamed")""",
        """op.rename_table("{t}", "{t}_renamed")""",
    ),
)  # fmt: skip


def _write(project: Project, revisions: int) -> None:
    for number in range(revisions):
        table, place = divmod(number, len(_CYCLE))
        project.revision(f"r{number:04}", _CYCLE[place][0 if project.zero else 1].format(t=f"t{table:03}"))


def run(server: Server, options: Options) -> None:
    revisions = options.rows or (24 if options.quick else 200)
    title(f"direct: alembic upgrade head over {revisions} revisions from base, in a subprocess")
    for extra in ({}, {"transaction_per_migration": True}):
        with new_project(extra=extra) as zero, new_project(zero=False, extra=extra) as plain:

            def upgrade(project: Project) -> float:
                with server.database() as database:
                    return timed(lambda: project.run(database, "upgrade", "head"))

            for project in (zero, plain):
                _write(project, revisions)
                upgrade(project)  # compiles the revision files, once
            found = interleave(lambda: upgrade(zero), lambda: upgrade(plain), options.times(9))
        how = "one transaction each" if extra else "one transaction"
        ratio = found.ratio
        say(f"{how:22} zd_ {found.measured.show(' s')}   plain {found.yardstick.show(' s')}")
        say(f"{'':22} ratio {ratio.show()}  {verdict(ratio.median, LIMIT)}")
