"""The versions of steps, read without importing them."""

import re
from pathlib import Path

_STEPS = Path(__file__).parents[1] / "steps"


def step_version(module: str) -> int:
    """The version of a step, as its module says; read without importing it, which takes seconds.

    Args:
        module: of the step, below ``trak_steps.steps``.
    """
    file = _STEPS.joinpath(*module.split(".")).with_suffix(".py")
    found = re.search(r"^VERSION = (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, file
    return int(found[1])
