"""What every group of settings has in common, and the kinds of values that many have."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
TargetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Text = Annotated[str, StringConstraints(min_length=1)]

# More than any array or file can hold, and more than any rate or weight can be.
COUNTABLE = 2**63


def _parts(value: Any) -> Iterator[Any]:
    """A setting's texts and numbers, those of a list or of a mapping one by one."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _parts(inner)
    else:
        yield value


class Section(BaseModel):
    """A group of settings: unknown names are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Settings that came after runs had been made. At their defaults they do what those runs did, and are
    # written nowhere: so that an upgrade makes nothing again.
    ADDED: ClassVar[frozenset[str]] = frozenset()

    @property
    def unwritten(self) -> set[str]:
        """Those at their defaults."""
        fields, values = type(self).model_fields, vars(self)
        return {name for name in self.ADDED & values.keys() if values[name] == fields[name].default}

    @model_serializer(mode="wrap")
    def _without_the_unwritten(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name not in self.unwritten}

    @field_validator("*", mode="before")
    @classmethod
    def _types_as_declared(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what would be taken without a word for something else: ``true`` for 1, say."""
        if isinstance(value, (set, frozenset)):
            raise ValueError("should not be a set, which has no order; given a set")
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, bytes):
                raise ValueError("should be a text or a number; given binary data")
            if isinstance(part, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
                raise ValueError(f"should not be true or false; given {part}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _within_bounds(cls, value: Any) -> Any:
        """Refuse numbers that no machine counts to, and texts that no file or program takes."""
        for part in _parts(value):
            if isinstance(part, (int, float)) and abs(part) >= COUNTABLE:
                raise ValueError(f"should be below {COUNTABLE}")
            if isinstance(part, str) and "\0" in part:
                raise ValueError(f"should not hold the character NUL; given {part!r:.80}")
        return value
