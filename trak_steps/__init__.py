"""TRAK for text classifiers as a pipeline of steps that run alone or under Snakemake.

from trak_steps import Run
Run("results/demo").top("validation", target=3)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trak_steps.api import Run

__version__ = "0.2.0"
__all__ = ["Run", "__version__"]


def __getattr__(name: str) -> Any:
    """Read when asked for: commands of the pipeline need not load what a run is read with."""
    if name == "Run":
        from trak_steps.api import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
