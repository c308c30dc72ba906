"""Step ``find-mislabelled``: train rows whose labels look wrong, and what argues against them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.stats import mode

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.detection import detection
from trak_steps.evaluation.suspicion import class_sums, standing
from trak_steps.kernel.blocks import scores as scores_cost
from trak_steps.kernel.blocks import standing as standing_cost
from trak_steps.kernel.blocks import targets_at_once
from trak_steps.run.fit import bytes_allowed, cells_at_once, rows_at_once
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints, training_of
from trak_steps.run.lineage import contents
from trak_steps.run.parts import open_calibration
from trak_steps.run.scoring import Scoring
from trak_steps.run.spans import suspect_spans
from trak_steps.run.suspects import (
    AGAINST,
    SUSPECTS_AT_ONCE,
    Array,
    Places,
    blocks_of,
    gather_rows,
    measures_of,
    measures_of_parts,
    most_suspicious,
    open_opponents,
    open_picked,
    open_supports,
    strongest_against,
    suspects_of,
    suspicion,
)
from trak_steps.scoring.lists import Top, together
from trak_steps.scoring.uncertainty import sign_is_stable, standard_error, students
from trak_steps.scoring.units import shares_of_trainings
from trak_steps.store.document import save_document
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import save_table
from trak_steps.store.texts import cut

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 4


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/suspects.parquet`` and ``evaluation/mislabelled.json``."""
    train = PreparedRows.load(layout.train)
    if not train.label_names:
        say("the labels are numbers, not classes: none is right or wrong")
        manifest = Manifest(
            "suspects", made_from={layout.name(train.path): train.content}, version=VERSION
        )
        save_table(layout.suspects, pa.table({"row": pa.array([], pa.int64())}), manifest)
        save_document(layout.mislabelled, {"rows": len(train), "measures": {}}, manifest)
        return
    count = suspects_of(settings, train)
    in_parts = suspect_spans(settings, layout, len(train))
    measures, table, read = (_of_parts if in_parts else _of_all)(layout, settings, train, count)
    wrong = train.column("flipped").astype(bool)
    found = {name: detection(suspicion(name, of), wrong) for name, of in measures.items()}
    table = table.add_column(0, "rank", [np.arange(1, count + 1)])
    of_rows = {f"{layout.name(train.path)}#table": str(train.manifest.details["table_digest"])}
    chosen = {
        "suspects": count,
        "loss_weight": settings.scores.loss_weight,
        "loss_weight_power": settings.scores.loss_weight_power,
        "balance": settings.scores.balance,
    }
    manifest = Manifest("suspects", made_from={**of_rows, **read}, settings=chosen, version=VERSION)
    figures = {
        "rows": len(train),
        "flipped": int(wrong.sum()),
        "listed_by": next(iter(measures)),
        "measures": {name: asdict(of) if of else None for name, of in found.items()},
    }
    save_table(layout.suspects, table, manifest)
    save_document(layout.mislabelled, figures, manifest)
    say(json.dumps(figures, indent=2))
    say(f"wrote {layout.suspects} and {layout.mislabelled}")


def _of_all(
    layout: Layout, settings: Settings, train: PreparedRows, count: int
) -> tuple[dict[str, Array], pa.Table, dict[str, str]]:
    """All measures, the suspects, and what they are made from: in passes over all features."""
    names = checkpoint_names(settings.checkpoints)
    scoring = Scoring.open(layout, settings, train)
    features, kernels = scoring.features, scoring.kernels
    calibration = open_calibration(layout, settings, kernels)
    measures = _measures(settings, train, names, features, kernels)
    suspects = most_suspicious(measures, count)
    say(f"the {count} most suspicious of {len(train)} rows: what argues against them")
    parts = []
    most = min(SUSPECTS_AT_ONCE, count)
    at_once = targets_at_once(
        bytes_allowed(settings), most, lambda q: scores_cost(q, scoring.dim, len(names))
    )
    for start in range(0, count, at_once):
        some = suspects[start : start + at_once]
        against = _opponents(settings, scoring, calibration.scale, some)
        votes = np.stack([of_train.column("prediction")[some] for of_train in features])
        parts.append(_table(train, some, against, _predicted(votes[_ends(settings)]), measures))
    shards = (shard for of_train in features for shard in of_train.shards)
    read = contents(layout, calibration, *kernels, *shards)
    return measures, pa.concat_tables(parts), read


def _of_parts(
    layout: Layout, settings: Settings, train: PreparedRows, count: int
) -> tuple[dict[str, Array], pa.Table, dict[str, str]]:
    """The same, put together from what other jobs found of parts of the train set."""
    supports = open_supports(layout, settings, train)
    picked = open_picked(layout, settings, count)
    opponents = open_opponents(layout, settings, train, count)
    measures = measures_of_parts(settings, supports)
    tops = []
    for span, part in opponents.items():
        size = count, min(AGAINST, len(span))
        place, score, std = (part.listed(name, *size) for name in ("place", "score", "std"))
        tops.append(Top(place, score, (std,)))
    names = [training_of(name) for name in checkpoint_names(settings.checkpoints)]
    against = _known(together(tops, AGAINST, largest=False), names)
    predicted = _predicted(picked.prediction()[_ends(settings)])
    table = _table(train, picked.place(), against, predicted, measures)
    every = (part for of_job in supports for part in of_job)
    return measures, table, contents(layout, picked, *every, *opponents.values())


def _measures(
    settings: Settings,
    train: PreparedRows,
    names: Sequence[str],
    features: Sequence[TrainFeatures],
    kernels: Sequence[KernelStore],
) -> dict[str, Array]:
    """What every measure says of each row, [n] each; first the one to list suspects by."""
    labels = torch.tensor(train.column("label"), dtype=torch.int64)
    influence, scores, others = (torch.zeros(len(train), dtype=torch.float64) for _ in range(3))
    shares = shares_of_trainings([training_of(name) for name in names])
    pairs = zip(features, kernels, shares, strict=True)
    dim = settings.features.dim
    block = rows_at_once(
        settings, standing_cost(train.outputs, dim), f"a kernel of {dim} dimensions and its factor"
    )
    for of_train, kernel, share in progress(pairs, total=len(names), label="support", unit="checkpoint"):
        sums = class_sums(blocks_of(of_train, block), labels, train.outputs)
        factor = torch.from_numpy(kernel.cholesky)
        by = standing(blocks_of(of_train, block), labels, sums, factor)
        influence += share * by.self_influence
        scores += share * by.mean_score
        others += share * by.others
    columns = [of_train.column("margin").astype(np.float64) for of_train in features]
    margins = dict(zip(names, columns, strict=True))
    last = np.stack([margins[name] for name in final_checkpoints(settings.checkpoints)])
    means = {
        "self_influence": influence.numpy(),
        "mean_score": scores.numpy(),
        "others": others.numpy(),
        "area": np.average(columns, 0, shares),
        "margin": last.mean(0),
        "loss": np.logaddexp(0, -last).mean(0),
    }
    return measures_of(settings, means)


@dataclass(frozen=True)
class _Opponents:
    """The train rows that argue against q suspects, strongest first; a may be less than AGAINST.

    Attributes:
        score: of each for the suspect as target, [q, a]; infinite where fewer argue against it.
        std: [q, a]; not a number where a single checkpoint is.
        stable: whether the score's sign is, by Student's quantile, [q, a]; of a single training none is.
        place: in the train set, [q, a].
        trainings: that the scores are of.
    """

    score: NDArray[np.float32]
    std: NDArray[np.float32]
    stable: NDArray[np.bool_]
    place: Places
    trainings: int


def _opponents(
    settings: Settings, scoring: Scoring, scale: float | None, suspects: Places
) -> _Opponents:
    """What argues most against train rows [q], by the scores that the run gives them as targets."""
    q, m = len(suspects), len(scoring.names)
    cost = scores_cost(q, scoring.dim, m)
    block_rows = cells_at_once(settings, cost, f"{q} suspects of {m} checkpoints")
    gathered = (gather_rows(of_train, suspects, block_rows) for of_train in scoring.features)
    solved = scoring.solve(gathered, scale).weights
    strongest = strongest_against(scoring, solved, suspects, block_rows)
    return _known(strongest.result(), scoring.trainings)


def _known(top: Top, of_trainings: Sequence[str]) -> _Opponents:
    """What is known of those that argue, by the training that each checkpoint is of."""
    trainings = len(set(of_trainings))
    (std,) = top.more
    stable = sign_is_stable(top.score, standard_error(std, trainings), students(trainings))
    return _Opponents(top.score, std, stable, top.place, trainings)


def _table(
    train: PreparedRows,
    suspects: Places,
    against: _Opponents,
    predicted: Places,
    measures: dict[str, Array],
) -> pa.Table:
    """One row a suspect, most suspicious first."""
    ids, labels = train.column("row"), train.column("label")
    classes = np.array(train.label_names, object)
    listed = np.isfinite(against.score)
    place, std = against.place[listed], against.std[listed]
    texts = _texts(train, np.concatenate([suspects, place]))
    q = len(suspects)

    def lists(values: pa.Array) -> pa.Array:
        ends = np.concatenate([[0], np.cumsum(listed.sum(1))])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)

    columns: dict[str, Any] = {
        "row": ids[suspects],
        **{f"text_{column}": values[:q] for column, values in texts.items()},
        "label": labels[suspects],
        "label_name": pa.array(classes[labels[suspects]], pa.string()),
        "predicted": predicted,
        "predicted_name": pa.array(classes[predicted], pa.string()),
        "flipped": train.column("flipped").astype(bool)[suspects],
        **{name.replace(" ", "_").replace("-", "_"): of[suspects] for name, of in measures.items()},
        "against_row": lists(pa.array(ids[place])),
        "against_score": lists(pa.array(against.score[listed])),
        "against_std": lists(pa.array(std, from_pandas=True)),
        # Of a single training nothing is known.
        "against_sign_stable": lists(
            pa.array(against.stable[listed], mask=np.full(len(std), against.trainings < 2))
        ),
        "against_label_name": lists(pa.array(classes[labels[place]], pa.string())),
        **{f"against_text_{column}": lists(values[q:]) for column, values in texts.items()},
    }
    return pa.table(columns)


def _ends(settings: Settings) -> list[int]:
    """The places of the trainings' ends among all checkpoints: earlier ones have learnt little yet."""
    names = checkpoint_names(settings.checkpoints)
    return [names.index(end) for end in final_checkpoints(settings.checkpoints)]


def _predicted(votes: NDArray[np.int64]) -> Places:
    """The class that most give each row, [q], by the votes of each, [c, q]; of several the first."""
    found: Places = mode(votes, axis=0).mode
    return found


def _texts(train: PreparedRows, places: Places) -> dict[str, pa.Array]:
    """The texts of some rows, [q] each, by column; no others are read."""
    some, back = np.unique(places, return_inverse=True)
    picked = train.take(some, train.text_columns)
    return {name: cut(picked[name]).combine_chunks().take(pa.array(back)) for name in train.text_columns}
