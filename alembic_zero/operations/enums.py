"""Enums: ``zd_create_enum``, ``zd_alter_enum``, ``zd_drop_enum``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from alembic.operations import Operations
from alembic.operations.ops import ExecuteSQLOp
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.dialects.postgresql.named_types import CreateEnumType, DropEnumType

from alembic_zero.names import MAX_BYTES
from alembic_zero.operations.base import ZdOperation, check_name, refuse_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.operations.ops import MigrateOperation

Labels = tuple[str, ...]
LabelMap = dict[str, str | None]


class LabelsError(ValueError):
    """Labels before and after do not fit together; the message says which, and what is missing.

    :param removed: labels that go and have nothing to become.
    """

    def __init__(self, problem: str, removed: Labels = ()) -> None:
        super().__init__(problem)
        self.removed = removed


def complete_up(before: Labels, after: Labels, up: Mapping[str, str | None]) -> LabelMap:
    """Return what every former label becomes; None is NULL.

    :raises LabelsError: *up* names a label that there is not, or leaves one out that goes.
    """
    unknown = [label for label in up if label not in before]
    if unknown:
        raise LabelsError(f"up= names {_listed(unknown)}, which the enum does not have (labels: {_listed(before)})")
    removed = tuple(label for label in before if label not in up and label not in after)
    if removed:
        raise LabelsError(f"{_listed(removed)} would go, and up= does not say what becomes of it", removed)
    return {label: up.get(label, label) for label in before}


def complete_down(
    before: Labels, after: Labels, up: Mapping[str, str | None], down: Mapping[str, str | None]
) -> LabelMap:
    """Return what former clients read for every label.

    A label that stays is itself, one that a single former label becomes is that; *down* says the rest.

    :param up: as :func:`complete_up` returned it.
    :raises LabelsError: *down* leads to a label that there was not, or leaves one out.
    """
    unknown = [label for label in down.values() if label is not None and label not in before]
    if unknown:
        raise LabelsError(f"down= leads to {_listed(unknown)}, which the enum does not have ({_listed(before)})")
    found: LabelMap = {}
    missing = []
    for label in after:
        sources = [former for former, became in up.items() if became == label]
        if label in down:
            found[label] = down[label]
        elif label in sources:
            found[label] = label
        elif len(sources) == 1:
            found[label] = sources[0]
        else:
            missing.append(label)
    if missing:
        raise LabelsError(
            f"clients of the revision before do not know {_listed(missing)}: down= must say what they read for it "
            "(one of the former labels, or None for NULL)"
        )
    return found


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(repr(label) for label in labels)


def read_labels(directive: str, argument: str, values: object) -> Labels:
    """Return *values* as the labels of an enum.

    :raises RefusedError: code ZD101.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        refuse_arguments(directive, f"{argument} must be a sequence of labels, not {values!r}")
    labels = tuple(values)
    for label in labels:
        if not isinstance(label, str):
            refuse_arguments(directive, f"a label must be a string, not {label!r}")
        if len(label.encode()) > MAX_BYTES:
            refuse_arguments(directive, f"label {label!r} is longer than {MAX_BYTES} bytes")
    if not labels:
        refuse_arguments(directive, "an enum without labels holds nothing")
    for label in labels:
        if labels.count(label) > 1:
            refuse_arguments(directive, f"label {label!r} is there twice")
    return tuple(str(label) for label in labels)


def _read_map(directive: str, argument: str, value: object) -> LabelMap:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        refuse_arguments(directive, f"{argument} must map labels to labels, not {value!r}")
    for label in (*value.keys(), *(v for v in value.values() if v is not None)):
        if not isinstance(label, str):
            refuse_arguments(directive, f"{argument}: a label must be a string, not {label!r}")
    return {str(key): None if label is None else str(label) for key, label in value.items()}


class ZdEnumOperation(ZdOperation):
    """An operation on one enum, called *name* in *schema*; None is the default schema."""

    def __init__(self, name: str, *, schema: str | None = None) -> None:
        check_name(self.directive, "name", name)
        if schema is not None:
            check_name(self.directive, "schema", schema)
        self.name = name
        self.schema = schema

    def describe_call(self, *arguments: str) -> str:
        """Return the call with the enum's name, *arguments* and the schema, if there is one."""
        shown = [repr(str(self.name)), *arguments]
        if self.schema is not None:
            shown.append(f"schema={str(self.schema)!r}")
        return f"{self.directive}({', '.join(shown)})"

    def _enum(self, labels: Sequence[str]) -> ENUM:
        return ENUM(*labels, name=self.name, schema=self.schema)


@Operations.register_operation("zd_create_enum")
class ZdCreateEnumOp(ZdEnumOperation):
    """A new enum, which all that follows in the same revision may use."""

    directive: ClassVar[str] = "zd_create_enum"

    def __init__(self, name: str, values: Iterable[str], *, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.values = read_labels(self.directive, "values", values)

    @classmethod
    def zd_create_enum(
        cls, operations: Operations, name: str, *values: str | Sequence[str], schema: str | None = None
    ) -> None:
        r"""Create an enum type.

        :param name: name of the enum.
        :param \*values: its labels in their order, or one sequence of them.
        :param schema: schema of the enum.
        """
        labels = values[0] if len(values) == 1 and not isinstance(values[0], str) else values
        operations.invoke(cls(name, labels, schema=schema))  # type: ignore[arg-type] # the constructor checks

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call()

    def plain_operations(self) -> list[MigrateOperation]:
        """Return CREATE TYPE."""
        return [ExecuteSQLOp(CreateEnumType(self._enum(self.values)))]

    def reverse(self) -> ZdDropEnumOp:
        """Return the drop."""
        return ZdDropEnumOp(self.name, existing_values=self.values, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference; Alembic has no word for it."""
        return ("add_enum", self.schema, self.name, self.values)


@Operations.register_operation("zd_drop_enum")
class ZdDropEnumOp(ZdEnumOperation):
    """An enum that nothing uses any more after the revision; it goes when the migration is completed."""

    directive: ClassVar[str] = "zd_drop_enum"

    def __init__(self, name: str, *, existing_values: Iterable[str] | None = None, schema: str | None = None) -> None:
        super().__init__(name, schema=schema)
        self.existing_values = (
            None if existing_values is None else read_labels(self.directive, "existing_values", existing_values)
        )

    @classmethod
    def zd_drop_enum(
        cls,
        operations: Operations,
        name: str,
        *,
        existing_values: Sequence[str] | None = None,
        schema: str | None = None,
    ) -> None:
        """Drop an enum type; it stays for old clients until the migration is completed.

        :param name: name of the enum.
        :param existing_values: its labels, should the operation have to be reversed.
        :param schema: schema of the enum.
        """
        operations.invoke(cls(name, existing_values=existing_values, schema=schema))

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call()

    def plain_operations(self) -> list[MigrateOperation]:
        """Return DROP TYPE."""
        return [ExecuteSQLOp(DropEnumType(self._enum(())))]

    def reverse(self) -> ZdCreateEnumOp:
        """Return the creation of the enum.

        :raises ValueError: its labels are not known.
        """
        if self.existing_values is None:
            raise ValueError("operation is not reversible; existing_values is not present")
        return ZdCreateEnumOp(self.name, self.existing_values, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference; Alembic has no word for it."""
        return ("remove_enum", self.schema, self.name, self.existing_values)


@Operations.register_operation("zd_alter_enum")
class ZdAlterEnumOp(ZdEnumOperation):
    """Other labels for an enum, in every column of it; each version has its own.

    *up* says what former labels become, *down* what former clients read for new ones.
    """

    directive: ClassVar[str] = "zd_alter_enum"

    def __init__(
        self,
        name: str,
        values: Iterable[str],
        *,
        up: Mapping[str, str | None] | None = None,
        down: Mapping[str, str | None] | None = None,
        existing_values: Iterable[str] | None = None,
        schema: str | None = None,
    ) -> None:
        super().__init__(name, schema=schema)
        self.values = read_labels(self.directive, "values", values)
        self.existing_values = (
            None if existing_values is None else read_labels(self.directive, "existing_values", existing_values)
        )
        self.up = _read_map(self.directive, "up", up)
        self.down = _read_map(self.directive, "down", down)
        for argument, labels in (("up", self.up.values()), ("down", self.down)):
            unknown = [label for label in labels if label is not None and label not in self.values]
            if unknown:
                refuse_arguments(
                    self.directive, f"{argument} names {_listed(unknown)}, which is not among the new labels"
                )

    @classmethod
    def zd_alter_enum(
        cls,
        operations: Operations,
        name: str,
        values: Sequence[str],
        *,
        up: Mapping[str, str | None] | None = None,
        down: Mapping[str, str | None] | None = None,
        existing_values: Sequence[str] | None = None,
        schema: str | None = None,
    ) -> None:
        """Add, rename, remove or reorder the labels of an enum without downtime.

        :param name: name of the enum.
        :param values: all labels that it is to have, in their order.
        :param up: what former labels become: labels among *values*, or None for NULL. Those that stay
         may be left out.
        :param down: what clients of the revision before read for new labels: former labels, or None for
         NULL. Labels that stay, and those that a single former one becomes, may be left out.
        :param existing_values: the former labels, should the operation have to be reversed.
        :param schema: schema of the enum.
        """
        operations.invoke(cls(name, values, up=up, down=down, existing_values=existing_values, schema=schema))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the directive's call, by parameter; an empty mapping is none."""
        given = super().arguments()
        return {**given, "values": list(self.values), "up": self.up or None, "down": self.down or None}

    def describe(self) -> str:
        """Return the call in one line."""
        return self.describe_call("...")

    def plain_operations(self) -> list[MigrateOperation]:
        """Return one block that exchanges the type in place; it applies *up*, as the type forces it to."""
        # text() would take ":x" for a parameter.
        return [ExecuteSQLOp(text(self.render_block().replace(":", r"\:")))]

    def render_block(self) -> str:
        """Return that block."""
        # Imported here because this module is imported during "import alembic".
        from alembic_zero.operations.enum_block import render_block

        return render_block(self.name, self.schema, self.values, self.up)

    def reverse(self) -> ZdAlterEnumOp:
        """Return the change back, with *up* and *down* exchanged.

        :raises ValueError: the former labels are not known, or do not fit.
        """
        if self.existing_values is None:
            raise ValueError("operation is not reversible; existing_values is not present")
        up = complete_up(self.existing_values, self.values, self.up)
        down = complete_down(self.existing_values, self.values, up, self.down)
        return ZdAlterEnumOp(
            self.name,
            self.existing_values,
            up={label: became for label, became in down.items() if label != became},
            down={label: became for label, became in up.items() if label != became},
            existing_values=self.values,
            schema=self.schema,
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return the difference; Alembic has no word for it."""
        return ("modify_enum", self.schema, self.name, self.existing_values, self.values)
