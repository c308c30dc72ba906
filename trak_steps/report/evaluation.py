"""What was found out about a run's scores, as far as it is there and is of what the run holds now."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from trak_steps.api.run import Run
from trak_steps.errors import TrakError
from trak_steps.store.tree import is_there


@dataclass(frozen=True)
class Evaluation:
    """Results of the evaluation; None for those that are not there, or not of what the run holds now.

    Attributes:
        lds, removal, mislabelled, stability: figures.
        curves, removals, suspects: tables.
        files: what of it is shown.
        stale: what is there of earlier scores, and why it is not shown.
    """

    lds: dict[str, Any] | None
    removal: dict[str, Any] | None
    mislabelled: dict[str, Any] | None
    stability: dict[str, Any] | None
    curves: pa.Table | None
    removals: pa.Table | None
    suspects: pa.Table | None
    files: list[Path] = field(default_factory=list)
    stale: dict[Path, str] = field(default_factory=dict)


def read_evaluation(run: Run) -> Evaluation:
    """What is there of a run's evaluation."""
    layout = run.layout
    files: list[Path] = []
    stale: dict[Path, str] = {}

    def known(path: Path, read: Callable[[], Any]) -> Any:
        if not is_there(path):
            return None
        try:
            found = read()
        except TrakError as error:
            stale[path] = str(error)
            return None
        files.append(path)
        return found

    return Evaluation(
        lds=known(layout.lds, lambda: run.lds),
        removal=known(layout.removal, lambda: run.removal),
        mislabelled=known(layout.mislabelled, lambda: run.mislabelled),
        stability=known(layout.stability, lambda: run.stability),
        curves=known(layout.lds_curves, lambda: run.measured_table(layout.lds_curves, "lds")),
        removals=known(layout.removals, lambda: run.measured_table(layout.removals, "removal")),
        suspects=known(layout.suspects, run.suspects_table),
        files=files,
        stale=stale,
    )
