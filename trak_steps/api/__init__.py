"""A run in Python: what it holds, checked when it is read."""

from trak_steps.api.run import Run

__all__ = ["Run"]
