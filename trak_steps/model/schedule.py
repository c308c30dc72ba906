"""When a training ends, and at which of its steps checkpoints are kept. Numbers only."""

import math
from collections.abc import Iterable


def training_steps(n: int, *, epochs: float, batch_size: int) -> int:
    """Optimizer steps of a training on n rows."""
    return max(1, math.ceil(epochs * math.ceil(n / batch_size)))


def step_of(fraction: float, steps: int) -> int:
    """The step, from 1, at whose end a fraction of the training is done."""
    return max(1, round(fraction * steps))


def falling_together(fractions: Iterable[float], steps: int) -> str:
    """Which fractions are of the same step and so of the same checkpoint, in words; empty if none."""
    at: dict[int, float] = {}
    for fraction in sorted(fractions):
        step = step_of(fraction, steps)
        if step in at:
            return (
                f"checkpoints.keep: {at[step]:g} and {fraction:g} both fall on step {step} of the "
                f"training's {steps}, so they are the same checkpoint; drop one, or train for more steps"
            )
        at[step] = fraction
    return ""
