"""Dataclasses as plain data: to JSON-ready dictionaries and back."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _load(kind: Any, value: Any) -> Any:
    """Return *value*, as JSON gave it, in the shape that the annotation *kind* asks for."""
    if value is None:
        return None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _load(next(a for a in arguments if a is not types.NoneType), value)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_load(arguments[0], item) for item in value)
        return tuple(_load(a, item) for a, item in zip(arguments, value, strict=True))
    if origin is dict:
        return {key: _load(arguments[1], item) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, PlainData):
        return kind.from_plain(value)
    return value


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _with_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(item, change) for item in value]
    return value


class PlainData:
    """Mixin for frozen dataclasses that the journal stores as JSON."""

    def to_plain(self) -> dict[str, Any]:
        """Return nested dictionaries and lists of JSON types."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def to_json(self) -> str:
        """Return :meth:`to_plain` as JSON text."""
        return json.dumps(self.to_plain())

    def with_texts(self, change: Callable[[str], str]) -> Self:
        """Return the object with every text in it, however deep, replaced by what *change* makes of it."""
        return self.from_plain(_with_texts(self.to_plain(), change))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the object that :meth:`to_json` wrote."""
        return cls.from_plain(json.loads(text))

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Self:
        """Return the object that :meth:`to_plain` described; unknown keys are ignored."""
        hints = _fields(cls)  # type: ignore[arg-type]
        known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: _load(hints[key], value) for key, value in data.items() if key in known})
