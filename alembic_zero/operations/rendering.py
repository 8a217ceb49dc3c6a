"""An operation as the Python text of its call, for revision files, plans, errors and the journal.

The text comes from the directive's signature and the operation's arguments, so an operation needs no
code of its own here. Types and foreign keys are Alembic's to render; what Alembic's rendering loses
(a column's own constraints, colons and quotes in expressions) is rendered here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.util import sqla_compat
from sqlalchemy import schema as sa_schema
from sqlalchemy.sql.elements import ClauseElement, TextClause
from sqlalchemy.sql.elements import conv as constructed_name
from sqlalchemy.sql.schema import NULL_UNSPECIFIED
from sqlalchemy.types import TypeEngine, to_instance

from alembic_zero.operations.irreversible import Irreversible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from alembic.autogenerate.api import AutogenContext

    from alembic_zero.operations.base import ZdOperation

#: Calls that are longer take a line for each argument.
LINE_LENGTH = 100

#: As it is for a parameter of :func:`sqlalchemy.text`; everything else with a colon is not one.
_BIND = re.compile(r"(?<![:\w\\]):(?=\w)")


def render_operation(operation: ZdOperation) -> str:
    """Return the call of *operation*, under the names that Alembic's template imports."""
    return Writer(_plain_context()).call(operation)


def render_line(operation: ZdOperation) -> str:
    """Return the same on one line, however long."""
    return Writer(_plain_context()).call(operation, line_length=None)


@cache
def _plain_context() -> AutogenContext:
    """Return a context for rendering without env.py, and without a database."""
    # Imported here because this module is imported during "import alembic".
    from alembic.autogenerate.api import AutogenContext
    from alembic.runtime.migration import MigrationContext

    options: dict[str, Any] = {
        "sqlalchemy_module_prefix": "sa.",
        "alembic_module_prefix": "op.",
        "user_module_prefix": None,
        "render_as_batch": False,
    }
    context = MigrationContext.configure(dialect=_dialect())
    return AutogenContext(context, opts=options, autogenerate=False)


@cache
def _dialect() -> Any:
    from sqlalchemy.dialects.postgresql.base import PGDialect

    # Unlike a driver's dialect it does not double percent signs.
    return PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]


class Writer:
    """Writes operations and their arguments.

    :param context: Alembic's; has the prefixes, env.py's ``render_item``, and collects imports.
    """

    def __init__(self, context: AutogenContext) -> None:
        self._context = context
        self._sa = context.opts["sqlalchemy_module_prefix"] or ""

    def call(self, operation: ZdOperation, *, line_length: int | None = LINE_LENGTH) -> str:
        """Return the call of *operation*; longer than *line_length*, it has a line for each argument."""
        name = f"{self._context.opts['alembic_module_prefix'] or ''}{operation.directive}"
        arguments = list(self._arguments(operation))
        line = f"{name}({', '.join(arguments)})"
        if line_length is None or len(line) <= line_length:
            return line
        return f"{name}(\n{''.join(f'    {argument},{chr(10)}' for argument in arguments)})"

    def _arguments(self, operation: ZdOperation) -> Iterator[str]:
        """Yield the arguments, without those that have their default."""
        given = operation.arguments()
        for name, parameter in directive_parameters(type(operation)).items():
            value = given[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                yield from self._schema_items(operation, value)
            elif parameter.kind is parameter.VAR_KEYWORD:
                yield from (f"{key}={self.value(value[key])}" for key in sorted(value) if not key.startswith("_"))
            elif parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY:
                yield self.value(value)
            elif not _is_default(value, parameter.default):
                yield f"{name}={self._named_value(name, value)}"

    def _named_value(self, name: str, value: Any) -> str:
        # Alone among the arguments a default may be a plain string that means a literal.
        return self.server_default(value) if name.endswith("server_default") else self.value(value)

    def _schema_items(self, operation: ZdOperation, items: Any) -> Iterator[str]:
        """Yield columns, constraints and indexes, without making a table: that would tie them to it for good."""
        included = bool(operation.arguments().get("kw", {}).get("_constraints_included"))
        given = {id(item) for item in items}
        keyed = any(isinstance(item, sa.PrimaryKeyConstraint) for item in items)
        for item in items:
            if isinstance(item, sa.Column):
                foreign_keys = [key for key in item.foreign_keys if not included and id(key.constraint) not in given]
                yield self.column(item, foreign_keys, flags=not included, primary_key=not keyed)
            elif isinstance(item, sa.Index):
                yield self._index(item)
            elif isinstance(item, sa.Constraint):
                yield from self._constraint(item)
            else:
                yield self.value(item)

    # -- values ---------------------------------------------------------------------------

    def value(self, value: Any) -> str:
        """Return the Python text of any argument."""
        if isinstance(value, Irreversible):
            self._import("import alembic_zero")
            return repr(value)
        if isinstance(value, sa.Column):
            return self.column(value)
        if isinstance(value, TypeEngine) or (isinstance(value, type) and issubclass(value, TypeEngine)):
            return self.type(value)
        if isinstance(value, sa_schema.FetchedValue):
            return self.server_default(value)
        if isinstance(value, ClauseElement):
            return f"{self._sa}text({_quote(sql_text(value))})"
        if isinstance(value, str):
            return _quote(value)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self.value(key)}: {self.value(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return f"[{', '.join(map(self.value, value))}]"
        if isinstance(value, tuple):
            return f"({', '.join(map(self.value, value))}{',' if len(value) == 1 else ''})"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value)
        return repr(value)

    def _dataclass(self, value: Any) -> str:
        """Return the call of the public function, or class, that makes *value*; its fields are the arguments.

        ``factory`` on the class names that function.
        """
        self._import("import alembic_zero")
        name = getattr(type(value), "factory", type(value).__name__)
        arguments: list[str] = []
        for position, field in enumerate(f for f in dataclasses.fields(value) if f.init):
            given = getattr(value, field.name)
            if field.default is dataclasses.MISSING and position == len(arguments) and not field.kw_only:
                arguments.append(self.value(given))
            elif not _is_default(given, field.default):
                arguments.append(f"{field.name}={self.value(given)}")
        return f"alembic_zero.{name}({', '.join(arguments)})"

    def type(self, value: Any) -> str:
        """Return a type, as Alembic renders it, and import the module of a type that is not SQLAlchemy's."""
        from alembic.autogenerate import render

        instance: Any = to_instance(value)
        module = type(instance).__module__
        if not module.startswith("sqlalchemy.") and self._context.opts["user_module_prefix"] is None:
            self._import(f"import {module}")
        text = render._repr_type(instance, self._context)  # noqa: SLF001 - what every renderer of a type calls
        if isinstance(instance, sa.Enum) and not getattr(instance, "create_type", True) and "create_type=" not in text:
            text = f"{text[:-1]}, create_type=False)"
        return str(text)

    def server_default(self, value: Any) -> str:
        """Return a server default: text, or an expression, or what generates the column."""
        from alembic.autogenerate import render

        rendered = render._user_defined_render("server_default", value, self._context)  # noqa: SLF001
        if rendered is not False:
            return str(rendered)
        if isinstance(value, sa.Computed):
            persisted = "" if value.persisted is None else f", persisted={value.persisted!r}"
            return f"{self._sa}Computed({_quote(sql_text(value.sqltext))}{persisted})"
        if isinstance(value, sa.Identity):
            return str(render._render_identity(value, self._context))  # noqa: SLF001
        if isinstance(value, sa_schema.DefaultClause):
            return self.server_default(value.arg)
        if isinstance(value, sa_schema.FetchedValue):
            return f"{self._sa}FetchedValue()"
        return self.value(value)

    # -- columns and constraints ----------------------------------------------------------

    def column(
        self,
        column: sa.Column[Any],
        foreign_keys: Iterable[sa.ForeignKey] | None = None,
        *,
        flags: bool = True,
        primary_key: bool = True,
    ) -> str:
        """Return a column with what it brings along.

        :param foreign_keys: those of its own; all that it has if None.
        :param flags: whether it is to say ``unique`` and ``index`` itself.
        :param primary_key: the same for ``primary_key``.
        """
        from alembic.autogenerate import render

        rendered = render._user_defined_render("column", column, self._context)  # noqa: SLF001
        if rendered is not False:
            return str(rendered)
        arguments = [_quote(str(column.name)), self.type(column.type)]
        keys = column.foreign_keys if foreign_keys is None else foreign_keys
        arguments += [self._foreign_key(key) for key in sorted(keys, key=_colspec)]
        checks = [c for c in column.constraints if isinstance(c, sa.CheckConstraint)]
        arguments += [text for check in sorted(checks, key=_creation_order) for text in self._constraint(check)]
        shown = [*(["primary_key"] if primary_key else []), *(["unique", "index"] if flags else [])]
        options: dict[str, Any] = {name: True for name in shown if getattr(column, name)}
        generated = column.computed if column.computed is not None else column.identity
        default = ""
        if generated is not None:
            arguments.append(self.server_default(generated))
        elif column.server_default is not None:
            default = f", server_default={self.server_default(column.server_default)}"
        # A primary key that the table has apart decides for a column that says nothing about NULL.
        silent = not primary_key and column._user_defined_nullable is NULL_UNSPECIFIED  # noqa: SLF001
        options |= self._column_options(column, implied=silent or ("primary_key" in options and not column.nullable))
        rest = "".join(f", {key}={self.value(value)}" for key, value in options.items())
        return f"{self._sa}Column({', '.join(arguments)}{default}{rest})"

    @staticmethod
    def _column_options(column: sa.Column[Any], *, implied: bool) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if column.autoincrement != sqla_compat.AUTOINCREMENT_DEFAULT:
            options["autoincrement"] = column.autoincrement
        if not implied:
            options["nullable"] = column.nullable
        if column.system:
            options["system"] = True
        if column.comment is not None:
            options["comment"] = column.comment
        return options | dict(column.kwargs)

    def _foreign_key(self, key: sa.ForeignKey) -> str:
        arguments = [_quote(_colspec(key)), *self._name(key.name)]
        arguments += self._options(key, "onupdate", "ondelete", "deferrable", "initially", "match")
        return f"{self._sa}ForeignKey({', '.join(arguments)})"

    def _constraint(self, constraint: Any) -> Iterator[str]:
        """Yield the constraint; nothing for an empty primary key, and for one that a type makes."""
        from alembic.autogenerate import render

        if isinstance(constraint, sa.CheckConstraint):
            if not sqla_compat._is_type_bound(constraint):  # noqa: SLF001 - as Alembic's own renderer
                yield self._constraint_call("CheckConstraint", constraint, _quote(sql_text(constraint.sqltext)))
        elif isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint):
            names = [self.value(name) for name in _column_names(constraint)]
            if names:
                yield self._constraint_call(type(constraint).__name__, constraint, *names)
        elif isinstance(constraint, sa.ForeignKeyConstraint):
            columns = self.value([str(key) for key in constraint.column_keys])
            referenced = self.value([_colspec(element) for element in constraint.elements])
            yield self._constraint_call("ForeignKeyConstraint", constraint, columns, referenced)
        else:
            text = render._render_constraint(constraint, self._context, None)  # noqa: SLF001
            if text is not None:
                yield text

    def _constraint_call(self, kind: str, constraint: Any, *arguments: str) -> str:
        options = [*self._name(constraint.name)]
        options += self._options(constraint, "onupdate", "ondelete", "deferrable", "initially", "match")
        options += [f"{key}={self.value(value)}" for key, value in constraint.dialect_kwargs.items()]
        return f"{self._sa}{kind}({', '.join([*arguments, *options])})"

    def _index(self, index: sa.Index) -> str:
        arguments = [self._plain_name(index.name)]
        arguments += [self.value(one.name if isinstance(one, sa.Column) else one) for one in index.expressions]
        arguments.append(f"unique={bool(index.unique)}")
        arguments += [f"{key}={self.value(value)}" for key, value in index.dialect_kwargs.items() if value is not None]
        return f"{self._sa}Index({', '.join(arguments)})"

    def _name(self, name: Any) -> Iterator[str]:
        if sqla_compat.constraint_name_defined(name):
            yield f"name={self._plain_name(name)}"

    def _plain_name(self, name: Any) -> str:
        if not sqla_compat.constraint_name_defined(name):
            return "None"
        if isinstance(name, constructed_name):
            # A naming convention has been applied to it already.
            return f"{self._context.opts['alembic_module_prefix'] or ''}f({_quote(str(name))})"
        return _quote(str(name))

    def _options(self, owner: Any, *names: str) -> list[str]:
        return [f"{name}={self.value(value)}" for name in names if (value := getattr(owner, name, None)) is not None]

    def _import(self, line: str) -> None:
        self._context.imports.add(line)


def sql_text(clause: Any) -> str:
    """Return SQL text that :func:`sqlalchemy.text` makes the same clause of."""
    if isinstance(clause, TextClause) and not clause._bindparams:  # noqa: SLF001 - as it was written, escapes included
        return clause.text
    compiled = clause.compile(dialect=_dialect(), compile_kwargs={"literal_binds": True, "include_table": False})
    return _BIND.sub(r"\:", str(compiled))


def directive_parameters(operation_class: type[ZdOperation]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the operation's directive, without Alembic's *operations*."""
    signature = inspect.signature(getattr(operation_class, operation_class.directive))
    (_, *parameters) = signature.parameters.values()
    return {parameter.name: parameter for parameter in parameters}


def _is_default(value: Any, default: Any) -> bool:
    # Expressions of SQLAlchemy have an "==" of their own: only plain values are compared.
    plain = type(value) is type(default) and isinstance(value, str | int | tuple)
    return value is default or (plain and value == default)


def _quote(text: str) -> str:
    """Return a string literal that Mako, which Alembic writes revisions with, takes for no multi-line one."""
    return repr(str(text)).replace("'''", "''\\'").replace('"""', '""\\"')


def _colspec(key: sa.ForeignKey) -> str:
    return ".".join(token for token in sqla_compat._fk_target_tokens(key) if token)  # noqa: SLF001


def _column_names(constraint: Any) -> list[str]:
    """Return the columns of a constraint, whether it has met its table or not."""
    columns = constraint.columns if len(constraint.columns) else constraint._pending_colargs  # noqa: SLF001
    return [str(getattr(column, "name", column)) for column in columns]


def _creation_order(constraint: Any) -> int:
    return int(constraint._creation_order)  # noqa: SLF001 - names that PostgreSQL makes depend on it
