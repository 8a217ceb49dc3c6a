"""What all operations have in common, and the checks of their arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

from alembic.operations.ops import MigrateOperation

from alembic_zero.operations.errors import RefusedError
from alembic_zero.operations.irreversible import Irreversible


class ZdOperation(MigrateOperation):
    """One change that a revision asks for: its arguments, checked, and nothing else."""

    directive: ClassVar[str]

    def describe(self) -> str:
        """Return the call in one line, short enough for an error or a plan."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call, by parameter.

        The attributes of the same names; ``kw`` for ``**kw``, which need not be there.
        """
        from alembic_zero.operations.rendering import directive_parameters

        return {
            name: getattr(self, name, {}) if parameter.kind is parameter.VAR_KEYWORD else getattr(self, name)
            for name, parameter in directive_parameters(type(self)).items()
        }

    def render(self) -> str:
        """Return the call as Python text; executed in a revision, it gives an equal operation."""
        # Imported here because this module is imported during "import alembic".
        from alembic_zero.operations.rendering import render_operation

        return render_operation(self)

    def plain_operations(self) -> list[MigrateOperation]:
        """Return the ordinary Alembic operations that lead to the same catalog.

        They move no data: ``up`` and ``down`` have no part in them.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"


class ZdTableOperation(ZdOperation):
    """An operation on one table, which has *table_name* just before it (just after it, if it creates one)."""

    def __init__(self, table_name: str, *, schema: str | None = None) -> None:
        check_name(self.directive, "table_name", table_name)
        if schema is not None:
            check_name(self.directive, "schema", schema)
        self.table_name = table_name
        self.schema = schema

    def plain_operation(self) -> MigrateOperation:
        """Return the one ordinary Alembic operation that leads to the same catalog."""
        raise NotImplementedError

    def plain_operations(self) -> list[MigrateOperation]:
        """Return that one operation."""
        return [self.plain_operation()]

    def describe_call(self, *arguments: object) -> str:
        """Return the call with the table's name, *arguments* and the schema, if there is one."""
        shown = [repr(str(self.table_name)), *(repr(argument) for argument in arguments)]
        if self.schema is not None:
            shown.append(f"schema={str(self.schema)!r}")
        return f"{self.directive}({', '.join(shown)})"


def refuse_arguments(directive: str, problem: str) -> NoReturn:
    """Refuse a call of *directive* because of *problem*.

    :raises RefusedError: always, code ZD101.
    """
    raise RefusedError(f"{directive}: {problem}; nothing was changed", code="ZD101")


def check_name(directive: str, argument: str, value: object) -> None:
    """Refuse *value* unless it can be the name of something.

    :raises RefusedError: code ZD101.
    """
    if not isinstance(value, str):
        refuse_arguments(directive, f"{argument} must be a string, not {value!r}")
    if not value:
        refuse_arguments(directive, f"{argument} is empty")


def check_expression(directive: str, argument: str, value: object) -> None:
    """Refuse *value* unless it is None or SQL text; PostgreSQL is the judge of the text itself.

    :raises RefusedError: code ZD101.
    """
    if value is None:
        return
    if not isinstance(value, str):
        refuse_arguments(directive, f"{argument} must be SQL text, not {value!r}")
    if not value.strip():
        refuse_arguments(directive, f"{argument} is empty; leave it out if there is nothing to compute")


def check_reverse_expression(directive: str, argument: str, value: object) -> None:
    """Like :func:`check_expression`, and IRREVERSIBLE is good too.

    :raises RefusedError: code ZD101.
    """
    if not isinstance(value, Irreversible):
        check_expression(directive, argument, value)


def check_no_more_arguments(directive: str, given: dict[str, Any], advice: dict[str, str]) -> None:
    """Refuse arguments that Alembic's own directive takes and this one does not.

    :param given: what is left over from the call.
    :param advice: what to do instead, by argument.
    :raises RefusedError: code ZD101.
    """
    for argument in given:
        hint = advice.get(argument)
        refuse_arguments(directive, f"argument {argument!r} is not supported{f': {hint}' if hint else ''}")


def read_statements(directive: str, argument: str, value: object) -> tuple[str, ...]:
    """Return *value*, None or one or several SQL statements, as a tuple.

    :raises RefusedError: code ZD101.
    """
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = (value,)
    statements = tuple(value)
    for statement in statements:
        if statement is None:
            refuse_arguments(directive, f"{argument} must be SQL text, not None")
        check_expression(directive, argument, statement)
    return statements
