"""Read settings from a file and from ``key=value`` pairs, with errors written for a user."""

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trak_steps.config.checkpoints import TAGS
from trak_steps.config.reading import as_tree, kind, read_file, read_text
from trak_steps.config.settings import Settings
from trak_steps.console.printable import printable
from trak_steps.errors import TrakError

# Where pydantic's own words would not help the user who wrote the file.
_WORDS = {
    "model_type": "should be a section of settings",
    "model_attributes_type": "should be a section of settings",
    "missing": "is missing",
    "dict_type": "should be a section of named entries",
    "invalid_key": "should be a text, as the name of a setting",
    "list_type": "should be a list",
    "string_type": "should be a text",
    "string_pattern_mismatch": "should be letters, digits, `_`, `-` (and `.` in a run's name), "
    "beginning with a letter or digit",
}
# How pydantic marks keys and the choices of a union, which are no part of a setting's name.
_MARK = re.compile(r"\[key\]|constrained-str|list\[.*\]|dict\[.*\]|<\w+>")
# Settings of earlier versions.
RENAMED = {
    "kernel.freedom": "kernel.effective_dof",
    "execution.save_every": "execution.save_minutes (minutes, not a share of the steps)",
}
SHOWN = 80
PROBLEMS = 20


def load_settings(
    file: Path | None, overrides: Iterable[str] = (), *, partial: bool = False
) -> Settings:
    """Read ``file`` (none: the defaults), lay ``key=value`` pairs over it and check the result.

    Args:
        file: YAML with the keys of :class:`Settings`.
        overrides: such as ``features.dim=256``; the value is read as YAML, so ``{dim: 256}`` and
            ``null`` work too.
        partial: these are a step's settings and not all of a run's, so defaults that stand in for
            the others say nothing.

    Raises:
        TrakError: naming each wrong setting, what was given and what is allowed.
    """
    values = read_file(file) if file else {}
    for override in overrides:
        _lay_over(values, override)
    return parse_settings(values, source=str(file) if file else "the settings", partial=partial)


def parse_settings(
    values: Mapping[str, Any], source: str = "the settings", *, partial: bool = False
) -> Settings:
    """Check a mapping of settings and fill in the defaults. Raises TrakError, as above."""
    if not isinstance(values, Mapping):
        raise TrakError(f"{source}: should be a mapping of settings to values, is {kind(values)}")
    try:
        return Settings.model_validate(as_tree(values, source), context={"partial": partial})
    except ValidationError as error:
        problems = error.errors()
        said = list(dict.fromkeys(map(_explain, problems[:PROBLEMS])))
        more = [f"… and {len(problems) - PROBLEMS} more"] if len(problems) > PROBLEMS else []
        lines = "\n".join(f"  {line}" for line in [*said, *more])
        raise TrakError(f"{source}:\n{lines}") from None


def _lay_over(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.strip().split(".")
    said = f"--set {printable(override, SHOWN)}"
    if not equals or not all([*sections, name]):
        raise TrakError(f"{said}: should read setting=value, such as features.dim=256")
    value = as_tree(read_text(text, f"{said}: the value is"), said)
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise TrakError(f"{said}: `{printable(section, SHOWN)}` is {kind(inner)}, not a section")
        values = inner
    values[name] = value


def _explain(problem: ErrorDetails) -> str:
    """One line on one wrong setting: its name, what was given, what is allowed."""
    where = list(problem["loc"])
    if problem["type"] == "extra_forbidden":
        # The last part is the user's own, whatever it looks like.
        where = [part for part in where[:-1] if part not in TAGS] + where[-1:]
        if renamed := RENAMED.get(_dotted(where)):
            return f"{_dotted(where)}: is called {renamed} now"
        return f"{_dotted(where)}: there is no such setting{_nearest(where)}"
    name = _dotted(part for part in where if not _MARK.fullmatch(str(part)))
    if problem["type"] == "value_error":
        return f"{name}: {printable(problem['msg'].removeprefix('Value error, '))}"
    message = _WORDS.get(problem["type"]) or re.sub(
        r"^(Input|List|Dictionary|Value|String) should", "should", problem["msg"]
    )
    message = re.sub(r" after validation, not \d+$", "", message)
    return f"{name}: {message}; given {_shown(problem['input'])}"


def _dotted(where: Iterable[Any]) -> str:
    name = ""
    for part in where:
        shown = printable(str(part), SHOWN)
        name += f"[{shown}]" if isinstance(part, int) else f".{shown}" if name else shown
    return name or "the settings"


def _nearest(where: list[Any]) -> str:
    """Point at the known setting nearest to an unknown one: in its own section, else anywhere."""
    *sections, last = where
    known = _children(Settings, sections)
    match = difflib.get_close_matches(str(last), known, n=1)
    if match:
        return f"; did you mean {_dotted([*sections, match[0]])}?"
    elsewhere = {path.rsplit(".", 1)[-1]: path for path in setting_names(Settings)}
    match = difflib.get_close_matches(str(last), elsewhere, n=1, cutoff=0.8)
    if match:
        return f"; did you mean {elsewhere[match[0]]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _children(model: type[BaseModel], sections: Iterable[Any]) -> list[str]:
    for section in sections:
        field = model.model_fields.get(str(section))
        inner = (section_type(field.annotation) or _entry_type(field.annotation)) if field else None
        if inner is None:
            # An entry, as under `targets`: the model stays that of the entries.
            continue
        model = inner
    return list(model.model_fields)


def section_type(annotation: Any) -> type[BaseModel] | None:
    """The section model behind an annotation, also as the values of a mapping; none for a leaf."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (dict, types.UnionType, typing.Union):
        found = [section_type(argument) for argument in typing.get_args(annotation)]
        return next((inner for inner in found if inner), None)
    return None


def _entry_type(annotation: Any) -> type[BaseModel] | None:
    """The section model that an entry of a list may be, beside others."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_entry_type(argument) for argument in typing.get_args(annotation))
    return next((inner for inner in found if inner), None)


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting's dotted name, in order; a mapping's entries are written ``targets.NAME``."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        inner = section_type(field.annotation)
        if inner is None:
            names.append(prefix + name)
        else:
            entry = "NAME." if typing.get_origin(field.annotation) is dict else ""
            names += setting_names(inner, f"{prefix}{name}.{entry}")
    return names


class _Brief(reprlib.Repr):
    """A ``repr`` that never grows with the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**SHOWN else "a number of too many digits"


def _shown(value: Any) -> str:
    return printable(_Brief().repr(value), SHOWN)
