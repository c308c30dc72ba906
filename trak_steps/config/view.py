"""What each step may see of the settings, so that a change reruns what depends on it and no more.

``trak_steps/steps/registry.py`` lists what each step reads. Under Snakemake exactly those settings are
written into its command, as ``--set`` arguments and into the rule's ``params``, and inside the step
every other setting is absent: reading one that was not declared fails at once, instead of silently
reading a default.
"""

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from trak_steps.config.section import Section
from trak_steps.config.settings import Settings

Model = TypeVar("Model", bound=BaseModel)

# What JSON leaves as it is and YAML does not read, or reads as the end of a line.
_NO_YAML = re.compile("[\\x7f-\\x9f\\u2028\\u2029\\ufeff\\ufffe\\uffff]")


def restrict(settings: Settings, reads: Iterable[str]) -> Settings:
    """A copy that holds only the settings named in ``reads`` (dotted; a section stands for all)."""
    return _keep(settings, [name.split(".") for name in reads])


def arguments(settings: Settings, reads: Iterable[str]) -> str:
    """The ``--set`` arguments that hand a step the settings it reads, quoted for a shell."""
    parts = []
    for name in reads:
        value: Any = settings
        unwritten = False
        for part in name.split("."):
            unwritten = isinstance(value, Section) and part in value.unwritten
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        if unwritten:
            continue
        # The first target set stays first: the summary puts its figures on top.
        text = json.dumps(_plain(value), sort_keys=name != "targets", ensure_ascii=False)
        text = _NO_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        parts.append(f"--set {shlex.quote(f'{name}={text}')}")
    return " ".join(parts)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _keep(model: Model, paths: list[list[str]]) -> Model:
    kept: dict[str, Any] = {}
    for name in {path[0] for path in paths}:
        deeper = [path[1:] for path in paths if path[0] == name]
        value = getattr(model, name)
        if [] in deeper:
            kept[name] = value
        elif isinstance(value, dict):
            kept[name] = {path[0]: value[path[0]] for path in deeper if path[0] in value}
        else:
            kept[name] = _keep(value, deeper)
    copy = type(model).model_construct()
    # model_construct fills defaults in; what was not declared has to be missing, not default.
    copy.__dict__.clear()
    copy.__dict__.update(kept)
    return copy
