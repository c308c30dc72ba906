"""The tables of what runs again: for each setting, and for each source module of the package."""

from collections.abc import Iterable
from typing import Any

from trak_steps.config.load import parse_settings, setting_names
from trak_steps.config.settings import Settings
from trak_steps.fingerprint import PACKAGE, all_modules, depends_on
from trak_steps.steps.registry import STEPS, reads, what_follows

# What a step reads depends on these; the table is for both.
_KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"model": {"name_or_path": "other"}},
    {"checkpoints": {"existing": ["brought along"]}},
)


# What these change is which jobs there are: those of the new checkpoints.
_OF_NEW_CHECKPOINTS = {
    "checkpoints.count": ("finetune",),
    "checkpoints.existing": ("import-checkpoint",),
}


# What these change is other settings.
PRESETS = {
    "scoring": ("checkpoints.keep", "kernel.ridge", "scores.loss_weight_power", "scores.balance"),
    "evaluation.preset": ("evaluation.lds.subsets", "evaluation.removal.targets"),
}


def steps_that_read(setting: str) -> list[str]:
    """The steps whose output depends on a setting.

    Args:
        setting: a dotted name, ``NAME`` standing for the name of an entry.
    """
    named = PRESETS.get(setting, (setting,))
    direct = {step for name in named for step in _direct(name)}
    return [*_OF_NEW_CHECKPOINTS.get(setting, ()), *(step for step in STEPS if step in direct)]


def _direct(setting: str) -> list[str]:
    name = setting.replace("targets.NAME", "targets.validation")
    found = []
    for step in STEPS:
        known = {
            part for kind in _KINDS for part in reads(step, parse_settings(kind), targets="validation")
        }
        if any(name == part or name.startswith(part + ".") for part in known):
            found.append(step)
    return found


def settings_table() -> str:
    """A Markdown table: setting, steps that run again, steps that may."""
    rows = []
    for name in setting_names(Settings):
        always, perhaps = what_follows(steps_that_read(name))
        rows.append((f"`{name}`", always, perhaps))
    return _table("setting", rows)


def code_table() -> str:
    """A Markdown table: source modules, steps that run again, steps that may."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for module in all_modules():
        using = tuple(
            name for name, step in STEPS.items() if module in depends_on(f"steps.{step.module}")
        )
        groups.setdefault(using, []).append(module.removeprefix(f"{PACKAGE}."))
    rows = [
        (", ".join(f"`{module}`" for module in modules), *what_follows(using))
        for using, modules in groups.items()
    ]
    return _table("modules of `trak_steps`", rows)


def _table(head: str, rows: Iterable[tuple[str, list[str], list[str]]]) -> str:
    lines = [f"| {head} | runs again | and, where rows, classes or texts came out different |"]
    lines.append("| --- | --- | --- |")
    for name, always, perhaps in rows:
        lines.append(f"| {name} | {_named(always)} | {_named(perhaps)} |")
    return "\n".join(lines)


def _named(steps: list[str]) -> str:
    if len(steps) == len(STEPS):
        return "everything"
    return ", ".join(steps) or "nothing"
