"""Read rendered operations back: the opposite of :mod:`alembic_zero.operations.rendering`.

The text is Python, but no program: calls of known directives with types, columns and constants as
arguments. Everything else is refused before anything of it is evaluated.
"""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.operations.ops import ExecuteSQLOp, MigrateOperation
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import FetchedValue, SchemaItem
from sqlalchemy.sql.elements import conv
from sqlalchemy.types import TypeEngine

from alembic_zero.operations.across import from_table
from alembic_zero.operations.dispatch import OPERATION_CLASSES
from alembic_zero.operations.errors import MigrationError
from alembic_zero.operations.irreversible import IRREVERSIBLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What operations may name of this package's public names.
VALUES: dict[str, Any] = {"IRREVERSIBLE": IRREVERSIBLE, "from_table": from_table}

_MODULES: dict[str, Any] = {"sa": sa, "postgresql": postgresql, "alembic_zero": SimpleNamespace(**VALUES)}
_FUNCTIONS = {"text", "column", "literal_column"}
_METHODS = {"with_variant", "label"}


class StoredFormError(MigrationError):
    """Text that is not the stored form of operations."""


class _Collector:
    """Takes the place of Alembic's ``Operations`` while directives are called."""

    def __init__(self) -> None:
        self.operations: list[MigrateOperation] = []

    def invoke(self, operation: MigrateOperation) -> None:
        """Keep *operation*."""
        self.operations.append(operation)


def read_operations(text: str, names: Mapping[str, Any] | None = None) -> list[MigrateOperation]:
    """Return the operations whose calls *text* consists of: ours, and ``op.execute`` as Alembic's own.

    :param names: modules of types that are not SQLAlchemy's, by the name that *text* has for them.
    :raises StoredFormError: code ZD270, *text* is something else.
    """
    reader = _Reader({**_MODULES, **(names or {})})
    try:
        for statement in ast.parse(text).body:
            reader.read(statement)
    except StoredFormError:
        raise
    except Exception as error:
        raise _refusal(f"{type(error).__name__}: {error}") from error
    return reader.collector.operations


def _refusal(problem: str) -> StoredFormError:
    return StoredFormError(
        f"the stored form of a revision's operations cannot be read ({problem}); nothing was changed", code="ZD270"
    )


class _Reader:
    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = modules
        self._directives: dict[str, Any] = {c.directive: getattr(c, c.directive) for c in OPERATION_CLASSES}
        self._directives["execute"] = ExecuteSQLOp.execute
        self.collector = _Collector()

    def read(self, statement: ast.stmt) -> None:
        """Read one call of a directive."""
        match statement:
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("op"), name)) as call) if name in self._directives:
                self._directives[name](self.collector, *self._positional(call), **self._keywords(call))
            case _:
                raise _refusal(f"no call of an operation: {ast.unparse(statement)[:80]}")

    def _positional(self, call: ast.Call) -> Iterator[Any]:
        return (self._value(argument) for argument in call.args)

    def _keywords(self, call: ast.Call) -> dict[str, Any]:
        return {str(keyword.arg): self._value(keyword.value) for keyword in call.keywords if keyword.arg}

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
                return -number
            case ast.List(items):
                return [self._value(item) for item in items]
            case ast.Tuple(items):
                return tuple(self._value(item) for item in items)
            case ast.Dict(keys, values) if None not in keys:
                return {self._value(key): self._value(value) for key, value in zip(keys, values, strict=True) if key}
            case ast.Call(ast.Attribute(ast.Name("op"), "f"), [ast.Constant(str() as name)], []):
                return conv(name)
            case ast.Call(function):
                return self._callee(function)(*self._positional(node), **self._keywords(node))
            case ast.Attribute():
                return self._public(node)
        raise _refusal(f"not allowed: {ast.unparse(node)[:80]}")

    def _callee(self, node: ast.expr) -> Any:
        match node:
            case ast.Attribute(ast.Call() as call, name) if name in _METHODS:
                return getattr(self._value(call), name)
            case ast.Attribute():
                return self._public(node)
        raise _refusal(f"not allowed: {ast.unparse(node)[:80]}")

    def _public(self, node: ast.Attribute) -> Any:
        """Return a type, a schema item or one of the few functions; nothing that leads on into a module."""
        module, _, name = ast.unparse(node).rpartition(".")
        value = getattr(self._modules.get(module), name, None)
        harmless = isinstance(value, type) and issubclass(value, TypeEngine | SchemaItem | FetchedValue)
        ours = module == "alembic_zero" and name in VALUES
        if module in self._modules and (harmless or ours or (module == "sa" and name in _FUNCTIONS)):
            return value
        raise _refusal(f"not allowed: {ast.unparse(node)[:80]}")
