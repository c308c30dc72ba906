"""What models that were retrained say of targets.

Each model's answers to one target set are a JSON file of their own in a folder that all runs share,
named by what decides them, so that no model is ever trained twice. A run's own shards gather them: a
parquet table of one row a model and target set, with ``margin`` and ``prediction`` as lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.errors import TrakError
from trak_steps.store.document import load_document, save_document
from trak_steps.store.manifest import Manifest, digest_json
from trak_steps.store.table import load_table, save_table

KIND = "retrained"
# The detail of a shard's manifest that names the files of the shared folder that it was gathered from.
ANSWERS = "answers"


@dataclass(frozen=True)
class Answers:
    """Of one model to t targets.

    Attributes:
        margin: the model output f, [t].
        prediction: class numbers, or a regression's values, [t].
    """

    margin: NDArray[np.float32]
    prediction: NDArray[Any]


@dataclass(frozen=True)
class Identity:
    """What decides a model's answers.

    Attributes:
        model: what decides the model.
        asked: what decides, beside it, what it is asked: the targets and the model output.
    """

    model: Mapping[str, Any]
    asked: Mapping[str, Any]

    def path(self, folder: Path) -> Path:
        """Where its answers lie below the shared folder."""
        return folder / self.name

    @property
    def name(self) -> str:
        """Its path there."""
        return f"{digest_json(self.model)[:32]}/{digest_json(self.asked)[:32]}.json"

    @property
    def settings(self) -> dict[str, Any]:
        """All of it."""
        return {**self.model, **self.asked}


def save_answers(folder: Path, identity: Identity, answers: Answers) -> None:
    """Write a model's answers to the shared folder, complete or absent."""
    values = {"margin": answers.margin.tolist(), "prediction": answers.prediction.tolist()}
    save_document(identity.path(folder), values, Manifest(KIND, settings=identity.settings))


def find_answers(folder: Path, identity: Identity) -> Answers | None:
    """A model's answers; none if it was not trained yet, or its file is damaged."""
    path = identity.path(folder)
    if not path.exists():
        return None
    try:
        values, manifest = load_document(path, KIND)
        manifest.require(path, settings=identity.settings)
    except TrakError:
        return None
    return Answers(np.array(values["margin"], np.float32), np.array(values["prediction"]))


def save_shard(
    path: Path, answers: Sequence[Mapping[str, Answers]], start: int, manifest: Manifest
) -> None:
    """Write the answers of a plan's models from place ``start`` on, a mapping by target set each."""
    of_sets = [
        (start + i, name, given) for i, sets in enumerate(answers) for name, given in sets.items()
    ]
    table = pa.table(
        {
            "model": [model for model, _, _ in of_sets],
            "targets": [name for _, name, _ in of_sets],
            "margin": pa.array([given.margin for _, _, given in of_sets], pa.list_(pa.float32())),
            "prediction": pa.array(
                [given.prediction.astype(np.float64) for _, _, given in of_sets],
                pa.list_(pa.float64()),
            ),
        }
    )
    save_table(path, table, manifest)


def load_shards(paths: Sequence[Path], models: int, targets: str) -> Answers:
    """The answers of all models of a plan to one target set, [models, t] each.

    Raises:
        TrakError: if a shard is missing or damaged, or the shards do not hold every model once.
    """
    tables = [load_table(path, KIND)[0] for path in paths]
    rows = [row for table in tables for row in table.to_pylist() if row["targets"] == targets]
    if [row["model"] for row in rows] != list(range(models)):
        raise TrakError(
            f"{paths[0].parent}: does not hold the answers to {targets} of the plan's {models} models; "
            "delete it and rerun"
        )
    return Answers(
        np.array([row["margin"] for row in rows], np.float32),
        np.array([row["prediction"] for row in rows]),
    )
