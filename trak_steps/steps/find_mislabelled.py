"""Step ``find-mislabelled``: train rows whose labels look wrong, and what argues against them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.detection import detection
from trak_steps.evaluation.suspicion import class_sums, relative_support, standing
from trak_steps.fingerprint import fingerprint
from trak_steps.kernel.gram import solve_kernel
from trak_steps.layout import Layout, checkpoint_names, last_states
from trak_steps.progress import progress, say
from trak_steps.scoring.scores import score_block
from trak_steps.scoring.top import Top, TopRows
from trak_steps.steps.parts import open_kernel, open_train_features
from trak_steps.store.document import save_document
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import save_table

ROWS_AT_ONCE = 1024
# Opponents named for each suspect.
AGAINST = 5
# The measure by which suspects are listed: see docs/evaluation.md.
BEST = "support"
Array = NDArray[np.float64]


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/suspects.parquet`` and ``evaluation/mislabelled.json``."""
    code = fingerprint("steps.find_mislabelled")
    train = PreparedRows.load(layout.train)
    if not train.label_names:
        say("the labels are numbers, not classes: none is right or wrong")
        manifest = Manifest("suspects", made_from={layout.name(train.path): train.content}, code=code)
        save_table(layout.suspects, pa.table({"row": pa.array([], pa.int64())}), manifest)
        save_document(layout.mislabelled, {"rows": len(train), "measures": {}}, manifest)
        return
    names = checkpoint_names(settings.checkpoints)
    features = [open_train_features(layout, settings, name, train) for name in names]
    kernels = [
        open_kernel(layout, settings, name, of_train)
        for name, of_train in zip(names, features, strict=True)
    ]
    measures = _measures(settings, train, names, features, kernels)
    wrong = train.column("flipped").astype(bool)
    found = {name: detection(values, wrong) for name, values in measures.items()}
    count = min(settings.evaluation.suspects, len(train))
    suspects = np.argsort(-measures[BEST], kind="stable")[:count]
    say(f"the {count} most suspicious of {len(train)} rows: what argues against them")
    against = _opponents(features, kernels, suspects)
    predicted = _predictions(features)
    made_from = {
        f"{layout.name(train.path)}#table": str(train.manifest.details["table_digest"]),
        **{layout.name(kernel.path): kernel.manifest.content for kernel in kernels},
        **{
            layout.name(shard.path): shard.manifest.content
            for of_train in features
            for shard in of_train.shards
        },
    }
    manifest = Manifest("suspects", made_from=made_from, settings={"suspects": count}, code=code)
    table = _table(train, suspects, against, predicted, measures)
    figures = {
        "rows": len(train),
        "flipped": int(wrong.sum()),
        "listed_by": BEST,
        "measures": {name: asdict(of) if of else None for name, of in found.items()},
    }
    save_table(layout.suspects, table, manifest)
    save_document(layout.mislabelled, figures, manifest)
    say(json.dumps(figures, indent=2))
    say(f"wrote {layout.suspects} and {layout.mislabelled}")


def _blocks(features: TrainFeatures) -> Iterator[Tensor]:
    for start in range(0, features.n, ROWS_AT_ONCE):
        yield torch.from_numpy(features.features(start, min(start + ROWS_AT_ONCE, features.n)))


def _measures(
    settings: Settings,
    train: PreparedRows,
    names: list[str],
    features: list[TrainFeatures],
    kernels: list[KernelStore],
) -> dict[str, Array]:
    """How suspicious each row is, the larger the more, [n] each, by every measure."""
    labels = torch.from_numpy(train.column("label")).long()
    influence, scores = (torch.zeros(len(train), dtype=torch.float64) for _ in range(2))
    pairs = zip(features, kernels, strict=True)
    for of_train, kernel in progress(pairs, total=len(names), label="support", unit="checkpoint"):
        sums = class_sums(_blocks(of_train), labels, train.outputs)
        factor = torch.from_numpy(kernel.cholesky)
        by = standing(_blocks(of_train), labels, sums, factor)
        influence += by.self_influence / len(names)
        scores += by.mean_score / len(names)
    columns = [of_train.column("margin").astype(np.float64) for of_train in features]
    margins = dict(zip(names, columns, strict=True))
    last = np.stack([margins[name] for name in last_states(settings.checkpoints)])
    found = {
        BEST: -relative_support(scores, influence).numpy(),
        "mean score": -scores.numpy(),
        "self-influence": influence.numpy(),
        "margin": -last.mean(0),
        "loss": np.logaddexp(0, -last).mean(0),
    }
    if len(last) < len(names):
        found["area under the margin"] = -np.mean(columns, 0)
    return found


def _opponents(
    features: list[TrainFeatures], kernels: list[KernelStore], rows: NDArray[np.int64]
) -> Top:
    """The strongest opponents of train rows [q], taken as targets."""
    solved = []
    for of_train, kernel in zip(features, kernels, strict=True):
        own = np.concatenate([of_train.features(row, row + 1) for row in rows])
        solved.append(solve_kernel(torch.from_numpy(kernel.cholesky), torch.from_numpy(own)))
    n = features[0].n
    top = TopRows(len(rows), min(AGAINST, n), largest=False)
    for start in range(0, n, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, n)
        some = [torch.from_numpy(of_train.features(start, stop)) for of_train in features]
        block = score_block(some, solved, torch.ones(len(some), stop - start), 0.0)
        top.add(block.scores.float().numpy(), start)
    return top.result()


def _predictions(features: list[TrainFeatures]) -> NDArray[np.int64]:
    """The class that most checkpoints give each row, [n]; of several the first."""
    votes = np.stack([of_train.column("prediction") for of_train in features])
    classes = np.arange(votes.max() + 1)
    counted: NDArray[np.int64] = (votes[:, :, None] == classes).sum(0).argmax(1)
    return counted


def _table(
    train: PreparedRows,
    suspects: NDArray[np.int64],
    against: Top,
    predicted: NDArray[np.int64],
    measures: dict[str, Array],
) -> pa.Table:
    """One row a suspect, most suspicious first."""
    ids, labels = train.column("row"), train.column("label")
    names = np.array(train.label_names, object)
    texts = {column: train.column(column) for column in train.text_columns}

    def lists(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values.tolist(), pa.list_(kind))

    columns: dict[str, Any] = {
        "rank": np.arange(1, len(suspects) + 1),
        "row": ids[suspects],
        **{column: pa.array(values[suspects], pa.string()) for column, values in texts.items()},
        "label": labels[suspects],
        "label_name": pa.array(names[labels[suspects]], pa.string()),
        "predicted": predicted[suspects],
        "predicted_name": pa.array(names[predicted[suspects]], pa.string()),
        "flipped": train.column("flipped").astype(bool)[suspects],
        **{name.replace(" ", "_").replace("-", "_"): of[suspects] for name, of in measures.items()},
        "against_row": lists(ids[against.place], pa.int64()),
        "against_score": lists(against.score, pa.float32()),
        "against_label_name": lists(names[labels[against.place]], pa.string()),
        **{f"against_{column}": lists(of[against.place], pa.string()) for column, of in texts.items()},
    }
    return pa.table(columns)
