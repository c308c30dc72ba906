"""What the models of a comparison said, kept, so that its figures can be had without training them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.run.layout import Layout
from trak_steps.steps.evaluation.retrain import Retrainer
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import digest_json
from trak_steps.store.plan import load_plan
from trak_steps.store.retrained import Answers, find_answers, save_answers

PLAN = "subsets"
# The least correlation of the margins of one model, trained twice. Two seeds agree to some 0.9.
SAME = 0.999


@dataclass(frozen=True)
class Model:
    """What tells one retrained model from another.

    Attributes:
        packed: which train rows it keeps, eight to a byte.
        seed: of its training.
    """

    packed: bytes
    seed: int

    @classmethod
    def of(cls, kept: NDArray[np.bool_], seed: int) -> "Model":
        """From which rows it keeps, [n]."""
        return cls(np.packbits(kept).tobytes(), seed)

    def kept(self, n: int) -> NDArray[np.bool_]:
        """Which of n train rows it keeps."""
        return np.unpackbits(np.frombuffer(self.packed, np.uint8), count=n).astype(bool)


def planned(layout: Layout) -> list[Model]:
    """The models of a run's subsets."""
    plan, _ = load_plan(layout.plan(PLAN), len(PreparedRows.load(layout.train)))
    return [Model.of(kept, int(seed)) for kept, seed in zip(plan.kept, plan.seeds, strict=True)]


def known(
    layout: Layout, settings: Settings, targets: str, models: Iterable[Model]
) -> dict[Model, Answers]:
    """What is known of models, in their order."""
    train = PreparedRows.load(layout.train)
    retrainer = Retrainer(layout, settings, train)
    found = {}
    for model in models:
        identity = retrainer.identity(model.kept(len(train)), model.seed, targets)
        answers = find_answers(layout.retrained_models, identity)
        if answers is not None:
            found[model] = answers
    return found


def _of(layout: Layout, settings: Settings, targets: str) -> dict[bytes, bytes]:
    """What decides the answers, but for the code that trains."""
    parts = {
        b"base": check_folder(layout.model, "model").content,
        b"train": PreparedRows.open(layout.train).content,
        b"targets": PreparedRows.open(layout.targets(targets)).content,
        b"recipe": digest_json(settings.finetune.model_dump()),
    }
    return {name: value.encode() for name, value in parts.items()}


def keep(layout: Layout, settings: Settings, targets: str, file: Path, models: Iterable[Model]) -> int:
    """Write what is known of models to a file, complete or absent; gives of how many."""
    found = known(layout, settings, targets, models)
    if found:
        table = pa.table(
            {
                "kept": [model.packed for model in found],
                "seed": [model.seed for model in found],
                "margin": [answers.margin for answers in found.values()],
                "prediction": [answers.prediction.astype(np.int16) for answers in found.values()],
            }
        )
        with complete_or_absent(file) as unfinished:
            pq.write_table(table.replace_schema_metadata(_of(layout, settings, targets)), unfinished)
    return len(found)


def put(layout: Layout, settings: Settings, targets: str, file: Path) -> list[Model]:
    """Put the answers of a file where a run finds them; gives the models.

    The code that trains may be another than the file's models were trained by, and so may libraries and
    machine: one of them is retrained, and has to say the same.
    """
    table = pq.read_table(file)
    wanted = _of(layout, settings, targets)
    if {name: (table.schema.metadata or {}).get(name) for name in wanted} != wanted:
        print(f"{file}: is of other rows, another model or recipe; models are trained")
        return []
    train = PreparedRows.load(layout.train)
    retrainer = Retrainer(layout, settings, train)
    found = {
        Model(row["kept"], row["seed"]): Answers(
            np.array(row["margin"], np.float32), np.array(row["prediction"])
        )
        for row in table.to_pylist()
    }
    for model, answers in list(found.items())[:1]:
        if not _same(retrainer, model.kept(len(train)), model.seed, answers, targets):
            print(f"{file}: a model that is retrained says something else; models are trained")
            return []
    there = known(layout, settings, targets, found)
    for model, answers in found.items():
        if model not in there:
            identity = retrainer.identity(model.kept(len(train)), model.seed, targets)
            save_answers(layout.retrained_models, identity, answers)
    return list(found)


def _same(
    retrainer: Retrainer, kept: NDArray[np.bool_], seed: int, answers: Answers, targets: str
) -> bool:
    """Whether a model that is trained now says what a file's did, but for rounding."""
    margin = retrainer.answers(kept, seed)[targets].margin
    return float(np.corrcoef(margin, answers.margin)[0, 1]) > SAME
