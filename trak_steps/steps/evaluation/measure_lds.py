"""Step ``measure-lds``: do scores predict what models say that are trained on parts of the train set?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.console.progress import counter, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.calibration import SlopeOverSubsets
from trak_steps.evaluation.intervals import Interval
from trak_steps.evaluation.lds import Lds, Measured, Truth
from trak_steps.evaluation.predictions import Checkpoint, Point, points, predict, some_at_once
from trak_steps.evaluation.resamples import Resamples
from trak_steps.evaluation.sums import sum_rows
from trak_steps.kernel.blocks import FEWEST_ROWS, predicted_targets, subset_sums
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
VERSION = 3

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
    by_states = predict_by_hidden_states(layout, settings, train, targets, kept)
    scoring = Scoring.open(layout, settings, train)
    calibration = open_calibration(layout, settings, scoring.kernels)
    of_targets = {name: scoring.targets(layout, name, rows) for name, rows in targets.items()}
    memory = bytes_allowed(settings) // 2
    sums = _sums_of_scores(scoring, kept, memory)
    measures = {
        name: _Measures(settings, _truth(retrained, name, train, kept), len(rows))
        for name, rows in targets.items()
    }
    baselines = {
        name: {
            **_label_baselines(settings, measures[name].truth, train, rows),
            "last hidden state": by_states[name],
        }
        for name, rows in targets.items()
    }
    repeats = len(retrained.plan) // len(kept)
    cost = predicted_targets(len(chosen), len(kept), repeats, scoring.dim, len(scoring.names))
    # Each group takes a pass over all features, so few targets at once cost more than they save.
    at_once = max(cost.at_once(memory), FEWEST_ROWS)
    groups = some_at_once({name: len(rows) for name, rows in targets.items()}, at_once)
    if len(groups) > 1:
        say(f"{at_once} targets at once, so {len(groups)} passes over the features")
    with counter(len(checkpoints) * len(groups), "sums", "checkpoint") as advance:
        for group in groups:
            by_gradients = predict(
                checkpoints, kept, chosen, targets=group, memory=memory, advance=advance, say=say
            )
            for name, (first, last) in group.items():
                own = _sums_for(scoring, of_targets[name], (first, last), calibration.scale, sums)
                named: dict[Any, Array] = {SCORES: own}
                named |= {way: values[:, first:last] for way, values in baselines[name].items()}
                named |= by_gradients[name].baselines
                named |= by_gradients[name].points
                measures[name].add(first, last, named)
                # What is left out of one group is left out of all.
                chosen = list(by_gradients[name].points)
    figures: dict[str, Any] = {}
    curves: list[dict[str, Any]] = []
    for name, rows in targets.items():
        plain, adjusted, slope = measures[name].result()
        ways = [way for way in plain.scores if isinstance(way, str)]
        figures[name] = {
            "rows": len(rows),
            "accuracy": _accuracy(retrained, name, rows),
            **_figures(plain, adjusted, ways),
            "slope": asdict(slope) if slope else None,
        }
        curves += _curves(name, plain, adjusted, [way for way in plain.scores if isinstance(way, Point)])
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
        "repeats": repeats,
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


def _sums_of_scores(scoring: Scoring, kept: NDArray[np.bool_], memory: int) -> list[Array]:
    """Features summed over subsets, weighted as in the run's own scores, by each checkpoint: [s, k]."""
    at_once = subset_sums(scoring.dim).at_once(memory)
    weights = [None] * len(scoring.names) if scoring.weights is None else list(scoring.weights)
    return [
        sum_rows(_weighted(of_train, own, at_once), kept)
        for of_train, own in zip(scoring.features, weights, strict=True)
    ]


def _sums_for(
    scoring: Scoring,
    targets: Sequence[FeatureStore],
    span: tuple[int, int],
    scale: float | None,
    sums: Sequence[Array],
) -> Array:
    """The run's own scores of some targets, summed over subsets, [s, g]: those of summed features."""
    solved = scoring.solve((torch.from_numpy(of.features(*span)) for of in targets), scale).weights
    shares = shares_of_trainings(scoring.trainings)
    parts = (
        share * (of_subsets @ of.double().numpy().T)
        for share, of_subsets, of in zip(shares, sums, solved, strict=True)
    )
    return reduce(np.add, parts)


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
    margins = retrained.answers[targets].margin
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
    _, s, t = truth.margins.shape
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


class _Measures:
    """Of a target set, some targets at a time: the LDS, plain and adjusted, and the slope."""

    def __init__(self, settings: Settings, truth: Truth, targets: int) -> None:
        self.truth = truth
        drawn = Resamples.draw(len(truth.classes), targets, settings.evaluation.bootstrap, settings.seed)
        self._plain = Lds(truth.classes, drawn, adjusted=False)
        self._adjusted = Lds(truth.classes, drawn, adjusted=True) if _can_adjust(truth) else None
        self._slope = SlopeOverSubsets(drawn)

    def add(self, first: int, last: int, predictions: Mapping[Any, Array]) -> None:
        """Take the targets from one place to another, and what is predicted of them, [s, g] each."""
        margins = self.truth.margins[:, :, first:last].astype(np.float64)
        for measured in (self._plain, self._adjusted):
            if measured:
                measured.add(first, margins, predictions)
        self._slope.add(first, margins.mean(0), predictions[SCORES])

    def result(self) -> tuple[Measured, Measured | None, Interval | None]:
        """Of all targets: plain, adjusted, and of margins on sums of scores."""
        adjusted = self._adjusted.result() if self._adjusted else None
        return self._plain.result(), adjusted, self._slope.result()


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
    targets: str, plain: Measured, adjusted: Measured | None, of_points: Sequence[Point]
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
