"""Enum types: their own statements, values mapped from one to another, definitions that name labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from alembic_zero.sql.ddl import block, close_schema, close_type, give_to
from alembic_zero.sql.quoting import grantee, ident, literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from alembic_zero.catalog.snapshot import Grant

TYPES_COMMENT = "alembic_zero: types"


def create_type(schema: str, name: str, labels: Sequence[str]) -> str:
    """Return CREATE TYPE ... AS ENUM."""
    return f"CREATE TYPE {ident(schema, name)} AS ENUM ({', '.join(literal(label) for label in labels)})"


def drop_type(schema: str, name: str) -> str:
    """Return DROP TYPE, never with CASCADE."""
    return f"DROP TYPE IF EXISTS {ident(schema, name)}"


def move_type(schema: str, name: str, target: str) -> str:
    """Return ALTER TYPE ... SET SCHEMA; the type keeps its oid, so prepared statements go on."""
    return f"ALTER TYPE {ident(schema, name)} SET SCHEMA {ident(target)}"


def type_settings(
    schema: str, name: str, *, owner: str | None, grants: Sequence[Grant] | None, comment: str | None
) -> list[str]:
    """Return what CREATE TYPE cannot say: owner, rights and comment.

    :param owner: None for the role that creates it.
    :param grants: None where nobody has granted or revoked anything.
    """
    type_ = ident(schema, name)
    statements = [give_to("TYPE", schema, name, owner)] if owner is not None else []
    if grants is not None:
        statements.append(close_type(schema, name))
        statements += [
            f"GRANT USAGE ON TYPE {type_} TO {grantee(g.grantee)}{' WITH GRANT OPTION' if g.grantable else ''}"
            for g in grants
        ]
    if comment is not None:
        statements.append(f"COMMENT ON TYPE {type_} IS {literal(comment)}")
    return statements


def create_holder(schema: str, revision: str) -> list[str]:
    """Return the statements that create the schema which holds a version's types before it has views."""
    name = ident(schema)
    return [
        f"CREATE SCHEMA IF NOT EXISTS {name}",
        f"COMMENT ON SCHEMA {name} IS {literal(f'{TYPES_COMMENT} of version {revision}, which is not published yet')}",
        close_schema(schema),
    ]


def drop_holder(schema: str) -> str:
    """Return a block that drops that schema, unless the version was published and left a tombstone there."""
    body = (
        "BEGIN\n"
        "  IF EXISTS (SELECT FROM pg_namespace n\n"
        f"              WHERE n.nspname = {literal(schema)}\n"
        f"                AND starts_with(obj_description(n.oid, 'pg_namespace'), {literal(TYPES_COMMENT)})) THEN\n"
        f"    DROP SCHEMA {ident(schema)};\n  END IF;\nEND"
    )
    return block(body)


# -- values -----------------------------------------------------------------------------------------

# No label is longer than 63 bytes, so none equals one of these.
_PLACEHOLDER = "{:064d}"


def map_value(column: str, mapping: Mapping[str, str | None], type_: str) -> str:
    """Return the expression that turns a column's labels into those of another enum.

    :param mapping: labels that change; others keep their name.
    :param type_: the other enum, as SQL text.
    """
    value = f"{ident(column)}::text"
    if mapping:
        cases = "".join(f" WHEN {literal(k)} THEN {_label(v)}" for k, v in mapping.items())
        value = f"(CASE {value}{cases} ELSE {value} END)"
    return f"{value}::{type_}"


def map_array(column: str, mapping: Mapping[str, str | None], type_: str) -> str:
    """Return the same for an array; NULL, dimensions and bounds stay as they are.

    By way of placeholders, as labels may exchange their names.
    """
    value = f"{ident(column)}::text[]"
    places = {label: _PLACEHOLDER.format(number) for number, label in enumerate(mapping)}
    for label, place in places.items():
        value = f"array_replace({value}, {literal(label)}, {literal(place)})"
    for label, place in places.items():
        value = f"array_replace({value}, {literal(place)}, {_label(mapping[label])})"
    return f"({value})::{type_}[]"


def _label(value: str | None) -> str:
    return "NULL" if value is None else literal(value)


# -- definitions ------------------------------------------------------------------------------------


class LabelUsedError(ValueError):
    """A definition uses a label that has no exact counterpart; *label* is which."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.label = label


def translate(text: str, before: str, after: str, mapping: Mapping[str, str | None]) -> str:
    """Return an expression, as the server deparses it, for another enum.

    :param before: the enum's name in the text, qualified and quoted as the server does.
    :param after: the other enum's.
    :param mapping: what each label becomes; None is NULL.
    :raises LabelUsedError: a label is not in *mapping*.
    """
    # Strings and quoted names are matched so that nothing inside them is taken for the type's name.
    name = rf'(?<![\w$."]){re.escape(before)}(?![\w$"])'
    token = re.compile(
        rf"'(?P<string>(?:[^']|'')*)'(?:::{re.escape(before)}(?![\w$\"])(?P<array>\[\])?)?|{name}|\"(?:[^\"]|\"\")*\""
    )

    def exchange(match: re.Match[str]) -> str:
        found = match[0]
        if found == before:
            return after
        if match["string"] is None or found.endswith("'"):
            return found
        value = match["string"].replace("''", "'")
        if match["array"]:
            return f"{literal(_translate_array(value, mapping))}::{after}[]"
        return f"{_label(_find(mapping, value))}::{after}"

    return token.sub(exchange, text)


def rename_type(text: str, before: str, after: str) -> str:
    """Return a text with a type's qualified name exchanged wherever it stands."""
    return re.sub(rf'(?<![\w$."]){re.escape(before)}(?![\w$"])', lambda _: after, text)


def _find(mapping: Mapping[str, str | None], label: str) -> str | None:
    if label not in mapping:
        raise LabelUsedError(label)
    return mapping[label]


_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^{},"]+)')


def _translate_array(text: str, mapping: Mapping[str, str | None]) -> str:
    """Return an array literal with its labels exchanged; bounds such as ``[0:1]=`` stay."""
    bounds, brace, elements = text.partition("{")

    def exchange(match: re.Match[str]) -> str:
        if match[1] is None and match[2].upper() == "NULL":
            return "NULL"
        label = match[2] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1])
        became = _find(mapping, label)
        return "NULL" if became is None else '"' + re.sub(r'(["\\])', r"\\\1", became) + '"'

    return bounds + brace + _ELEMENT.sub(exchange, elements)
