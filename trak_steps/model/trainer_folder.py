"""The folder that ``transformers.Trainer`` writes: a training's checkpoints, and where in it each is.

The settings ask here, so nothing heavy is imported.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from trak_steps.model.files import ADAPTER_CONFIG, CONFIG, TRAINER_STATE

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What differs between the configurations of one model that was saved several times.
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
BY_HAND = "say yourself where each is, as `checkpoints: {NAME: fraction of the training}`"


@dataclass(frozen=True)
class _State:
    """What a ``trainer_state.json`` says.

    Attributes:
        folder: the checkpoint's name.
        step: after which it was saved.
        steps: that the training was to have.
        history: what was logged up to there.
    """

    folder: str
    step: int
    steps: int
    history: list[Any]


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of those that a Trainer saves its checkpoints in."""
    try:
        return _CHECKPOINT.fullmatch(folder.name) is not None and (folder / TRAINER_STATE).is_file()
    except OSError:  # a name that is too long
        return False


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder is one that a Trainer writes."""
    try:
        return any(map(is_checkpoint, folder.iterdir()))
    except OSError:
        return False


def checkpoints_of(folder: Path, names: Sequence[str] | None = None) -> dict[str, float]:
    """The checkpoints of a training in their order: of each, at which fraction of the steps it is.

    Args:
        folder: that a Trainer wrote.
        names: which; all, if none are named.

    Raises:
        ValueError: in words for a user, if there are none, it is not known where they are, or they are
            not of one training.
    """
    require_folders(folder, names or [])
    if names is None:
        names = [path.name for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name)]
    if not names:
        raise ValueError(
            f"{folder}: has no checkpoint-* folders, as `transformers.Trainer` saves (save_strategy)"
        )
    states = sorted((_state(folder, name) for name in names), key=lambda state: state.step)
    _require_one_training(folder, states)
    require_one_model(folder, [state.folder for state in states])
    found = {state.folder: float(f"{state.step / state.steps:g}") for state in states}
    if len(set(found.values())) < len(found):
        raise ValueError(f"{folder}: has checkpoints too near to each other to tell apart; name fewer")
    return found


def require_folders(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that is not there or cannot be read, or has not all that are named within.

    Raises:
        ValueError: naming the first.
    """
    try:
        for path in [folder, *(folder / name for name in names)]:
            if not path.is_dir():
                raise ValueError(f"there is no folder {str(path.absolute())[:400]}")
        next(folder.iterdir(), None)
    except OSError as error:
        words = error.strerror or error
        raise ValueError(f"{str(folder)[:200]} is not a folder that can be read ({words})") from None


def _state(folder: Path, name: str) -> _State:
    file = folder / name / TRAINER_STATE
    try:
        values = json.loads(file.read_bytes())
        step, steps, history = values["global_step"], values["max_steps"], values.get("log_history")
    except OSError as error:
        words = error.strerror or error
        raise ValueError(f"{file}: cannot be read ({words}), which tells its step; {BY_HAND}") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file}: does not say global_step and max_steps; {BY_HAND}") from None
    if not (type(step) is type(steps) is int and 0 < step <= steps):
        raise ValueError(f"{file}: global_step is {step!r:.20}, max_steps {steps!r:.20}; {BY_HAND}")
    return _State(name, step, steps, history if isinstance(history, list) else [])


def _require_one_training(folder: Path, states: Sequence[_State]) -> None:
    """Each checkpoint's log begins as the next one's does: a folder may hold what two trainings left."""
    longest = max(states, key=lambda state: state.steps)
    for state in states:
        if state.steps != longest.steps:
            raise ValueError(
                f"{folder}: {state.folder} is of {state.steps} steps in all, {longest.folder} of "
                f"{longest.steps}; name those of one training under `checkpoints`, or, if it was "
                f"resumed for longer, {BY_HAND}"
            )
    for earlier, later in pairwise(states):
        if earlier.step == later.step:
            raise ValueError(
                f"{folder}: {earlier.folder} and {later.folder} are both of step {later.step}; name one"
            )
        if _until(later.history, earlier.step) != _until(earlier.history, earlier.step):
            raise ValueError(
                f"{folder}: {earlier.folder} and {later.folder} are not of one training, as their "
                f"{TRAINER_STATE} say (log_history); name those of one under `checkpoints`"
            )


def _until(history: Sequence[Any], step: int) -> list[str]:
    """The losses logged up to a step, as texts: one that is not a number is like itself.

    A Trainer logs before it saves.
    """
    return [
        f"{entry['step']}: {entry['loss']}"
        for entry in history
        if isinstance(entry, dict) and "loss" in entry and _number(entry.get("step")) <= step
    ]


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) else float("inf")


def require_one_model(folder: Path, names: Sequence[str]) -> None:
    """Refuse checkpoints whose configurations are not those of one model; of those that have one.

    Raises:
        ValueError: naming two of them, and what differs.
    """
    first: tuple[str, dict[str, Any]] | None = None
    for name in names:
        values = {**_config(folder / name / ADAPTER_CONFIG), **_config(folder / name / CONFIG)}
        if not values:
            continue  # the import says what is wrong with it
        beside, other = first = first or (name, values)
        differ = sorted(key for key in {*values, *other} if values.get(key) != other.get(key))
        if differ:
            raise ValueError(
                f"{folder}: {beside} and {name} are different models: their configurations differ in "
                f"{', '.join(differ[:3])}; name those of one training under `checkpoints`"
            )


def _config(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    # Some lists are sets, saved in any order.
    return {
        key: sorted(map(str, value)) if isinstance(value, list) else value
        for key, value in values.items()
        if key not in _VOLATILE
    }
