"""Plans of models to retrain: a parquet table of one row a model.

``seed`` of the training and ``kept``, the rows of the train set that it sees, one bit each; beside
them whatever else the plan's maker wants to know of each model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import load_table, save_table

KIND = "plan"


@dataclass(frozen=True)
class Plan:
    """Which models are retrained.

    Attributes:
        kept: the rows of the train set that each sees, [models, n].
        seeds: of their trainings, [models].
        about: further columns, [models] each.
    """

    kept: NDArray[np.bool_]
    seeds: NDArray[np.int64]
    about: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.seeds)


def save_plan(path: Path, plan: Plan, manifest: Manifest) -> None:
    """Write a plan, complete or absent."""
    bits = [row.tobytes() for row in np.packbits(plan.kept, axis=1)]
    columns = {"seed": plan.seeds, "kept": pa.array(bits, pa.binary()), **plan.about}
    save_table(path, pa.table(columns), manifest)


def load_plan(path: Path, n: int) -> tuple[Plan, Manifest]:
    """A plan for n train rows. Raises TrakError if it is missing, altered, or for another number."""
    table, manifest = load_table(path, KIND)
    bits = [np.frombuffer(row, np.uint8) for row in table["kept"].to_pylist()]
    if any(len(row) != -(-n // 8) for row in bits):
        raise TrakError(f"{path}: is not for {n} train rows; delete it and rerun")
    kept = np.unpackbits(np.stack(bits), axis=1, count=n).astype(bool)
    about = {name: table[name].to_numpy() for name in table.column_names if name not in ("seed", "kept")}
    return Plan(kept, table["seed"].to_numpy(), about), manifest
