"""What the models of a comparison said, kept, so that its figures can be had without training them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.run.layout import Layout
from trak_steps.steps.evaluation.retrain import Retrainer
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import digest_json
from trak_steps.store.plan import load_plan
from trak_steps.store.retrained import Answers, find_answers, save_answers

PLAN = "subsets"
# The least correlation of the margins of one model, trained twice. Two seeds agree to some 0.9.
SAME = 0.999


def _of(layout: Layout, settings: Settings, targets: str) -> dict[bytes, bytes]:
    """What decides the answers, but for the code that trains."""
    parts = {
        b"base": check_folder(layout.model, "model").content,
        b"train": PreparedRows.open(layout.train).content,
        b"targets": PreparedRows.open(layout.targets(targets)).content,
        b"recipe": digest_json(settings.finetune.model_dump()),
    }
    return {name: value.encode() for name, value in parts.items()}


def keep(layout: Layout, settings: Settings, targets: str, file: Path) -> int:
    """Write what is known of the models of a run's subsets to a file; gives how many."""
    train = PreparedRows.load(layout.train)
    plan, _ = load_plan(layout.plan(PLAN), len(train))
    retrainer = Retrainer(layout, settings, train)
    found = []
    for kept, seed in zip(plan.kept, plan.seeds, strict=True):
        answers = find_answers(layout.retrained_models, retrainer.identity(kept, int(seed), targets))
        if answers is not None:
            found.append((np.packbits(kept).tobytes(), int(seed), answers))
    if found:
        table = pa.table(
            {
                "kept": [kept for kept, _, _ in found],
                "seed": [seed for _, seed, _ in found],
                "margin": [answers.margin for _, _, answers in found],
                "prediction": [answers.prediction.astype(np.int16) for _, _, answers in found],
            }
        )
        pq.write_table(table.replace_schema_metadata(_of(layout, settings, targets)), file)
    return len(found)


def put(layout: Layout, settings: Settings, targets: str, file: Path) -> int:
    """Put the answers of a file where a run whose subsets are planned finds them; gives how many.

    The code that trains may be another than the file's models were trained by, and so may libraries and
    machine: one of them is retrained, and has to say the same.
    """
    table = pq.read_table(file)
    wanted = _of(layout, settings, targets)
    if {name: (table.schema.metadata or {}).get(name) for name in wanted} != wanted:
        print(f"{file}: is of other rows, another model or recipe; models are trained")
        return 0
    train = PreparedRows.load(layout.train)
    plan, _ = load_plan(layout.plan(PLAN), len(train))
    known = {(row["kept"], row["seed"]): row for row in table.to_pylist()}
    retrainer = Retrainer(layout, settings, train)
    found = []
    for kept, seed in zip(plan.kept, plan.seeds, strict=True):
        row = known.get((np.packbits(kept).tobytes(), int(seed)))
        if row is not None:
            answers = Answers(np.array(row["margin"], np.float32), np.array(row["prediction"]))
            found.append((kept, int(seed), answers))
    if found and not _same(retrainer, *found[0], targets):
        print(f"{file}: a model that is retrained says something else; models are trained")
        return 0
    for kept, seed, answers in found:
        save_answers(layout.retrained_models, retrainer.identity(kept, seed, targets), answers)
    return len(found)


def _same(
    retrainer: Retrainer, kept: NDArray[np.bool_], seed: int, known: Answers, targets: str
) -> bool:
    """Whether a model that is trained now says what a file's did, but for rounding."""
    margin = retrainer.answers(kept, seed)[targets].margin
    return float(np.corrcoef(margin, known.margin)[0, 1]) > SAME
