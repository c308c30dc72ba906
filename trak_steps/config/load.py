"""Read settings from a file and from ``key=value`` pairs, with errors written for a person."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trak_steps.config.settings import Settings
from trak_steps.errors import TrakError

# Where pydantic's own words would not help the person who wrote the file.
_WORDS = {
    "model_type": "should be a section of settings",
    "model_attributes_type": "should be a section of settings",
    "dict_type": "should be a section of named entries",
    "list_type": "should be a list",
    "string_type": "should be a text",
    "string_pattern_mismatch": "should be letters, digits, `_`, `-` (and `.` in a run's name), "
    "beginning with a letter or digit",
}


def load_settings(file: Path | None, overrides: Iterable[str] = ()) -> Settings:
    """Read ``file`` (none: the defaults), lay ``key=value`` pairs over it and check the result.

    Args:
        file: YAML with the keys of :class:`Settings`.
        overrides: such as ``features.dim=256``; the value is read as YAML, so ``{dim: 256}`` and
            ``null`` work too.

    Raises:
        TrakError: naming each wrong setting, what was given and what is allowed.
    """
    values = _read_yaml(file) if file else {}
    for override in overrides:
        _lay_over(values, override)
    return parse_settings(values, source=str(file) if file else "the settings")


def parse_settings(values: Mapping[str, Any], source: str = "the settings") -> Settings:
    """Check a mapping of settings and fill in the defaults. Raises TrakError, as above."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise TrakError(f"{source}:\n" + "\n".join(f"  {line}" for line in problems)) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrakError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TrakError(f"{file}: is not UTF-8 text") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrakError(f"{file}: is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise TrakError(f"{file}: should hold `setting: value` lines, holds {_kind(values)}")
    return values


def _lay_over(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise TrakError(f"--set {override}: should read setting=value, such as features.dim=256")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrakError(f"--set {override}: the value is not valid YAML: {error}") from None
    *sections, name = key.strip().split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise TrakError(f"--set {override}: `{section}` is {_kind(inner)}, not a section")
        values = inner
    values[name] = value


def _explain(problem: ErrorDetails) -> str:
    """One line on one wrong setting: its name, what was given, what is allowed."""
    where = [part for part in problem["loc"] if part != "[key]"]
    name = _dotted(where)
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting{_nearest(where)}"
    if problem["type"] == "value_error":
        return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
    message = _WORDS.get(problem["type"]) or re.sub(
        r"^(Input|List|Dictionary|Value|String) should", "should", problem["msg"]
    )
    message = re.sub(r" after validation, not \d+$", "", message)
    return f"{name}: {message}; given {_shown(problem['input'])}"


def _dotted(where: Iterable[Any]) -> str:
    name = ""
    for part in where:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
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
        inner = section_type(field.annotation) if field else None
        if inner is None:
            # A named entry, as under `targets`: the model stays that of the entries.
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


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind(value: Any) -> str:
    return {"list": "a list", "str": "a text", "int": "a number", "float": "a number"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )
