"""Step ``measure-lds``: do scores predict what models say that are trained on parts of the train set?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import counter, progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.calibration import slope_over_subsets
from trak_steps.evaluation.intervals import Interval
from trak_steps.evaluation.lds import Measured, Truth, measure
from trak_steps.evaluation.predictions import Checkpoint, Point, points, predict
from trak_steps.evaluation.sums import sum_rows
from trak_steps.kernel.blocks import subset_sums
from trak_steps.run.fit import bytes_allowed
from trak_steps.run.hidden_states import HiddenStates
from trak_steps.run.layout import (
    Layout,
    checkpoint_names,
    final_checkpoints,
    fraction_of,
    training_of,
)
from trak_steps.run.lineage import contents
from trak_steps.run.parts import (
    Retrained,
    open_calibration,
    open_kernel,
    open_retrained,
    open_target_features,
    open_train_features,
)
from trak_steps.run.scoring import Scoring
from trak_steps.scoring.units import shares_of_trainings
from trak_steps.store.document import save_document
from trak_steps.store.features import FeatureStore, TrainFeatures
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import save_table

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2

PLAN = "subsets"
SCORES = "scores"
# Subsets for each class: with fewer, little is left when class counts are regressed out.
FEWEST_FOR_A_CLASS = 3
Array = NDArray[np.float64]


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/lds.json`` and, with the curves, ``evaluation/lds.parquet``."""
    train = PreparedRows.load(layout.train)
    targets = {name: PreparedRows.load(layout.targets(name)) for name in settings.targets}
    retrained = open_retrained(layout, settings, PLAN, train)
    first = retrained.plan.about["repeat"] == 0
    kept = retrained.plan.kept[first]
    features, kernels, checkpoints = open_checkpoints(layout, settings, train, targets)
    chosen = points(own_point(settings), checkpoints)
    say(f"{len(chosen)} ways to score, {len(kept)} subsets of {len(train)} rows")
    memory = bytes_allowed(settings)
    with counter(len(checkpoints), "sums", "checkpoint") as advance:
        by_gradients = predict(checkpoints, kept, chosen, memory=memory, advance=advance, say=say)
    by_states = predict_by_hidden_states(layout, settings, train, targets, kept)
    scoring = Scoring.open(layout, settings, train)
    calibration = open_calibration(layout, settings, scoring.kernels)
    of_targets = {name: scoring.targets(layout, name, rows) for name, rows in targets.items()}
    by_scores = _sums_of_scores(settings, scoring, of_targets, calibration.scale, kept)
    figures: dict[str, Any] = {}
    curves: list[dict[str, Any]] = []
    for name, rows in progress(targets.items(), total=len(targets), label="LDS", unit="target set"):
        predicted = by_gradients[name]
        truth = _truth(retrained, name, train, kept)
        named: dict[Any, Array] = {SCORES: by_scores[name]}
        named.update(_label_baselines(settings, truth, train, rows))
        named.update(predicted.baselines)
        named["last hidden state"] = by_states[name]
        named.update(predicted.points)
        plain = _measure(settings, truth, named, adjusted=False)
        adjusted = _measure(settings, truth, named, adjusted=True) if _can_adjust(truth) else None
        figures[name] = {
            "rows": len(rows),
            "accuracy": _accuracy(retrained, name, rows),
            **_figures(plain, adjusted, [key for key in named if isinstance(key, str)]),
            "slope": _slope(settings, truth, named[SCORES]),
        }
        curves += _curves(name, plain, adjusted, predicted.points)
    shards = [shard for of_train in features for shard in of_train.shards]
    of_sets = [store for stores in of_targets.values() for store in stores]
    manifest = Manifest(
        "lds",
        made_from={
            **contents(layout, train, *targets.values(), calibration, *kernels, *shards, *of_sets),
            **_checkpoint_contents(layout, settings),
            **retrained.made_from,
        },
        settings={"bootstrap": settings.evaluation.bootstrap},
        version=VERSION,
    )
    values = {
        "run": settings.run,
        **next(iter(figures.values())),
        "subsets": len(kept),
        "rows_of_a_subset": int(kept[0].sum()),
        "repeats": len(retrained.plan) // len(kept),
        "targets": figures,
    }
    save_table(layout.lds_curves, pa.Table.from_pylist(curves), manifest)
    save_document(layout.lds, values, manifest)
    say(json.dumps(next(iter(figures.values())), indent=2))
    say(f"wrote {layout.lds} and {layout.lds_curves}")


def own_point(settings: Settings) -> Point:
    """The run's own way to score."""
    return Point(
        "",
        tuple(checkpoint_names(settings.checkpoints)),
        settings.features.dim,
        settings.kernel.ridge,
        settings.kernel.effective_dof,
        settings.scores.loss_weight,
        settings.scores.loss_weight_power,
        settings.scores.balance,
    )


def open_checkpoints(
    layout: Layout, settings: Settings, train: PreparedRows, targets: Mapping[str, PreparedRows]
) -> tuple[list[TrainFeatures], list[KernelStore], list[Checkpoint]]:
    """Open every checkpoint's features and kernel: the stores, and what predictions are made from."""
    features, kernels, checkpoints = [], [], []
    for name in checkpoint_names(settings.checkpoints):
        of_train = open_train_features(layout, settings, name, train)
        kernel = open_kernel(layout, settings, name, of_train)
        of_targets = {
            of_set: open_target_features(layout, name, of_set, rows, of_train)
            for of_set, rows in targets.items()
        }
        features.append(of_train)
        kernels.append(kernel)
        place = training_of(name), fraction_of(name)
        checkpoints.append(Checkpoint(name, *place, of_train, kernel, of_targets))
    return features, kernels, checkpoints


def predict_by_hidden_states(
    layout: Layout,
    settings: Settings,
    train: PreparedRows,
    targets: Mapping[str, PreparedRows],
    kept: NDArray[np.bool_],
) -> dict[str, Array]:
    """By the cosine of last hidden states, summed over each training's last checkpoint, [s, t] each."""
    found = {of_set: np.zeros((len(kept), len(rows))) for of_set, rows in targets.items()}
    for name in final_checkpoints(settings.checkpoints):
        states = HiddenStates(layout, settings, name, train.outputs)
        sums = sum_rows(((start, block.numpy()) for start, block in states.blocks(train)), kept)
        for of_set, rows in targets.items():
            found[of_set] += sums @ states.of(rows).numpy().T
    return found


def _sums_of_scores(
    settings: Settings,
    scoring: Scoring,
    targets: Mapping[str, Sequence[FeatureStore]],
    scale: float | None,
    kept: NDArray[np.bool_],
) -> dict[str, Array]:
    """By the run's own scores, [s, t] each: scores are linear, so sums of features are scored."""
    at_once = subset_sums(scoring.dim).at_once(bytes_allowed(settings) // 2)
    weights = [None] * len(scoring.names) if scoring.weights is None else list(scoring.weights)
    sums = [
        sum_rows(_weighted(of_train, own, at_once), kept)
        for of_train, own in zip(scoring.features, weights, strict=True)
    ]
    shares = shares_of_trainings(scoring.trainings)
    found = {}
    for name, stores in targets.items():
        solved = scoring.solve((torch.from_numpy(store.whole()) for store in stores), scale).weights
        found[name] = np.zeros((len(kept), stores[0].n))
        for share, of_subsets, of in zip(shares, sums, solved, strict=True):
            found[name] += share * (of_subsets @ of.double().numpy().T)
    return found


def _weighted(
    features: TrainFeatures, weights: torch.Tensor | None, at_once: int
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """A checkpoint's features, weighted as its part in scores is, block by block."""
    for start in range(0, features.n, at_once):
        stop = min(start + at_once, features.n)
        block = features.features(start, stop)
        yield start, block if weights is None else block * weights[start:stop, None].numpy()


def _checkpoint_contents(layout: Layout, settings: Settings) -> dict[str, str]:
    """The contents of the checkpoints that were read, by path in the run."""
    folders = map(layout.checkpoint, final_checkpoints(settings.checkpoints))
    return {layout.name(folder): Manifest.load(folder, "checkpoint").content for folder in folders}


def _truth(retrained: Retrained, targets: str, train: PreparedRows, kept: NDArray[np.bool_]) -> Truth:
    margins = retrained.answers[targets].margin.astype(np.float64)
    labels = train.column("label")
    classes = range(train.outputs) if train.label_names else ()
    counts = [kept[:, labels == label].sum(1) for label in classes]
    return Truth(
        margins.reshape(-1, len(kept), margins.shape[1]),
        np.array(counts, np.float64).reshape(-1, len(kept)).T,
    )


def _label_baselines(
    settings: Settings, truth: Truth, train: PreparedRows, rows: PreparedRows
) -> dict[str, Array]:
    """The baselines that need no model."""
    s, t = truth.mean.shape
    draw = np.random.default_rng([settings.seed, s])
    found = {"random": draw.normal(size=(s, t))}
    if train.label_names:
        found["same label"] = truth.classes[:, rows.column("label")]
    return found


def _can_adjust(truth: Truth) -> bool:
    """Whether there are classes, and enough is left when their counts are regressed out."""
    s, c = truth.classes.shape
    if s < FEWEST_FOR_A_CLASS * c:
        say(
            f"{s} subsets are too few to adjust for {c} classes; set evaluation.lds.subsets to "
            f"{FEWEST_FOR_A_CLASS * c}"
        )
    return bool(0 < FEWEST_FOR_A_CLASS * c <= s)


def _measure(
    settings: Settings, truth: Truth, predictions: Mapping[Any, Array], *, adjusted: bool
) -> Measured:
    return measure(
        truth,
        predictions,
        adjusted=adjusted,
        resamples=settings.evaluation.bootstrap,
        seed=settings.seed,
    )


def _slope(settings: Settings, truth: Truth, predicted: Array) -> dict[str, float] | None:
    """Of margins on sums of scores."""
    found = slope_over_subsets(
        truth.mean, predicted, resamples=settings.evaluation.bootstrap, seed=settings.seed
    )
    return asdict(found) if found else None


def _accuracy(retrained: Retrained, targets: str, rows: PreparedRows) -> float | None:
    """Of the models trained on subsets: near chance, their margins say little."""
    if not rows.label_names:
        return None
    return float((retrained.answers[targets].prediction == rows.column("label")).mean())


def _figures(plain: Measured, adjusted: Measured | None, names: list[str]) -> dict[str, Any]:
    def of_kind(measured: Measured) -> dict[str, Any]:
        share = measured.shares[SCORES]
        return {
            "lds": asdict(measured.scores[SCORES]),
            "ceiling": asdict(measured.ceiling),
            "share_of_ceiling": asdict(share) if share else None,
        }

    return {
        **of_kind(plain),
        "class_adjusted": of_kind(adjusted) if adjusted else None,
        "baselines": {
            name: {
                "lds": asdict(plain.scores[name]),
                "class_adjusted": asdict(adjusted.scores[name]) if adjusted else None,
                # From the same resamples, so sharper than the two intervals.
                "less_the_scores": asdict((adjusted or plain).differences[name]),
            }
            for name in names
            if name != SCORES
        },
    }


def _curves(
    targets: str, plain: Measured, adjusted: Measured | None, of_points: Mapping[Point, Array]
) -> list[dict[str, Any]]:
    found = []
    for point in of_points:
        row: dict[str, Any] = {"targets": targets, **asdict(point)}
        row["checkpoints"] = list(point.checkpoints)
        for name, measured in (("lds", plain), ("class_adjusted", adjusted)):
            of_point = measured.scores[point] if measured else Interval(*[np.nan] * 3)
            row |= {name: of_point.value, f"{name}_low": of_point.low, f"{name}_high": of_point.high}
        found.append(row)
    return found
