"""A run in Python: what it holds, checked when it is read."""

from typing import TYPE_CHECKING, Any

from trak_steps.api.explanation import ClassExplanation, Explanation
from trak_steps.api.run import Run

if TYPE_CHECKING:
    from trak_steps.api.compare import Comparison

__all__ = ["ClassExplanation", "Comparison", "Explanation", "Run"]


def __getattr__(name: str) -> Any:
    """Read when asked for: it needs scipy, which takes long to import."""
    if name == "Comparison":
        from trak_steps.api.compare import Comparison

        return Comparison
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
