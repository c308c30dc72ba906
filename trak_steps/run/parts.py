"""Open the parts of a run for a step, after checking that they fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.run.identity import (
    answers_settings,
    feature_settings,
    kernel_settings,
    part_settings,
    plan_settings,
    score_settings,
    weighted_settings,
)
from trak_steps.run.layout import Layout, checkpoint_names, shard_names
from trak_steps.run.lineage import Lineage, contents
from trak_steps.run.shards import shard_size
from trak_steps.run.spans import Span
from trak_steps.run.tiles import Tile
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.calibration import Calibration, WeightedSums
from trak_steps.store.features import FeatureStore, TrainFeatures
from trak_steps.store.group import Group
from trak_steps.store.kernel import KernelPart, KernelStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.plan import Plan, load_plan
from trak_steps.store.retrained import Answers, load_shards
from trak_steps.store.score_parts import ScorePart
from trak_steps.store.scores import ScoreStore
from trak_steps.store.tree import is_there

Part = TypeVar("Part", bound=Group)


def open_train_features(
    layout: Layout,
    settings: Settings,
    checkpoint: str,
    train: PreparedRows,
    span: tuple[int, int] | None = None,
) -> TrainFeatures:
    """A checkpoint's features of the train set, or of the rows from one place to another.

    Raises:
        TrakError: if a shard is missing, or was made from other rows, another checkpoint, other
            settings or other code; or if rows are asked for that are not whole shards.
    """
    start, stop = span or (0, len(train))
    size = shard_size(settings.features, layout)
    if start % size or (stop % size and stop != len(train)):
        raise TrakError(f"rows {start} to {stop} are not whole shards of {size} (features.shard_size)")
    shards = shard_names(len(train), size)[start // size : -(-stop // size)]
    paths = [layout.train_shard(checkpoint, shard) for shard in shards]
    features = TrainFeatures(paths, stop, start)
    expected = {**feature_settings(settings), "checkpoint": checkpoint}
    lineage, name = Lineage(layout), layout.name(layout.checkpoint(checkpoint))
    if of_checkpoint := lineage.manifest(name):
        lineage.check(layout.checkpoint(checkpoint), of_checkpoint)
    # Where the checkpoint is no longer there, all shards are of the first one's.
    content = of_checkpoint.content if of_checkpoint else features.manifest.made_from.get(name, "")
    for shard in features.shards:
        rows = f"{layout.name(layout.train)}#{shard.start}:{shard.stop}"
        made_from = {rows: train.content_of(shard.start, shard.stop), name: content}
        shard.manifest.require(shard.path, made_from=made_from, settings=expected)
    return features


def open_target_features(
    layout: Layout, checkpoint: str, targets: str, rows: PreparedRows, train: TrainFeatures
) -> FeatureStore:
    """A checkpoint's features of a target set, made as those of the train set were.

    Raises:
        TrakError: if they are missing or were made otherwise.
    """
    store = FeatureStore.open(layout.target_features(checkpoint, targets))
    name = layout.name(layout.checkpoint(checkpoint))
    store.manifest.require(
        store.path,
        made_from={name: train.manifest.made_from[name], **contents(layout, rows)},
        settings=train.manifest.settings,
        version=train.manifest.version,
        by=str(train.path),
    )
    return store


def open_kernel(
    layout: Layout,
    settings: Settings,
    checkpoint: str,
    train: TrainFeatures,
    *,
    rows: int | None = None,
) -> KernelStore:
    """A checkpoint's kernel, made from these features; if they are but a part, of so many rows in all.

    Raises:
        TrakError: if it is missing or was made otherwise.
    """
    kernel = KernelStore.open(layout.kernel(checkpoint))
    expected = {**kernel_settings(settings), "checkpoint": checkpoint}
    kernel.manifest.require(
        kernel.path,
        made_from=contents(layout, *train.shards),
        nothing_else=rows is None,
        settings=expected,
    )
    summed = kernel.manifest.details["rows"]
    if rows is not None and summed != rows:
        raise TrakError(
            f"{kernel.path}: is a sum over {summed} rows, {layout.train} has {rows}; delete the kernel "
            "and rerun"
        )
    return kernel


def features_of_span(
    layout: Layout, train: PreparedRows, features: Sequence[TrainFeatures]
) -> dict[str, str]:
    """What is made from some rows' features is made from: shards, and those rows and checkpoints.

    These are named too, for who puts such parts together need not look at features.

    Args:
        layout: of the run.
        train: all train rows.
        features: of the rows, by one or more checkpoints.
    """
    start, stop = features[0].start, features[0].stop
    found = {f"{layout.name(train.path)}#{start}:{stop}": train.content_of(start, stop)}
    checkpoints = f"{layout.name(layout.checkpoint('x').parent)}/"
    for of_train in features:
        found |= contents(layout, *of_train.shards)
        made_from = of_train.manifest.made_from.items()
        found |= {name: content for name, content in made_from if name.startswith(checkpoints)}
    return found


def open_spans(
    kind: type[Part],
    layout: Layout,
    train: PreparedRows,
    paths: Mapping[Span, Path],
    settings: Mapping[str, Any],
) -> list[Part]:
    """What was made of the parts of the train set, with these settings, from what is there.

    Args:
        kind: of the stores.
        layout: of the run.
        train: all train rows.
        paths: of each part.
        settings: that they are made with.

    Raises:
        TrakError: if one is missing, or was made otherwise, from other rows, or by another version than
            the others.
    """
    lineage = Lineage(layout)
    found: list[Part] = []
    for span, path in paths.items():
        part = kind.open(path)
        part.manifest.require(path, settings=settings)
        if (rows := part.manifest.details["rows"]) != [span.start, span.stop]:
            raise TrakError(f"{path}: is another part, of rows {rows[0]} to {rows[1]}; delete it")
        content = train.content_of(span.start, span.stop)
        of_rows = {f"{layout.name(train.path)}#{span.start}:{span.stop}": content}
        part.manifest.require(path, made_from=of_rows)
        lineage.check(path, part.manifest)
        found.append(part)
        first = found[0]
        part.manifest.require(path, version=first.manifest.version, by=str(first.path))
        if part.manifest.details["features"] != first.manifest.details["features"]:
            raise TrakError(
                f"{path}: is of features by another version of the step than {first.path}; delete the "
                "wrong one and rerun"
            )
    return found


def open_kernel_parts(
    layout: Layout, settings: Settings, checkpoint: str, train: PreparedRows, spans: Sequence[Span]
) -> list[KernelPart]:
    """The parts that a checkpoint's kernel is summed in. Raises TrakError, as above."""
    paths = {span: layout.kernel_part(checkpoint, span.name) for span in spans}
    chosen = {**feature_settings(settings), "checkpoint": checkpoint}
    return open_spans(KernelPart, layout, train, paths, chosen)


def open_weighted_sums(
    layout: Layout, settings: Settings, train: PreparedRows, spans: Sequence[Span]
) -> list[WeightedSums]:
    """The parts that weighted features are summed in. Raises TrakError, as above."""
    paths = {span: layout.weighted_sums(span.name) for span in spans}
    return open_spans(WeightedSums, layout, train, paths, weighted_settings(settings))


def open_calibration(layout: Layout, settings: Settings, kernels: Sequence[KernelStore]) -> Calibration:
    """The calibration of a run's scores, found by these kernels.

    Raises:
        TrakError: if it is missing or was made otherwise.
    """
    found = Calibration.open(layout.calibration)
    made_from = contents(layout, *kernels)
    found.manifest.require(found.path, made_from=made_from, settings=score_settings(settings))
    return found


@dataclass(frozen=True)
class Retrained:
    """A plan, and what its models say of the target sets.

    Attributes:
        plan: which models were trained, on which rows.
        answers: of all models, [models, t] each, by target set.
        made_from: the contents of what was read, by path in the run.
    """

    plan: Plan
    answers: Mapping[str, Answers]
    made_from: Mapping[str, str]


def open_retrained(layout: Layout, settings: Settings, name: str, train: PreparedRows) -> Retrained:
    """A plan of models and what they say, after checking that they are of this run.

    Raises:
        TrakError: if something is missing, or was made from other rows, models or settings.
    """
    plan, of_plan = load_plan(layout.plan(name), len(train))
    of_plan.require(layout.plan(name), settings=plan_settings(settings, name))
    lineage = Lineage(layout)
    lineage.check(layout.plan(name), of_plan)
    shards = shard_names(len(plan), settings.evaluation.models_per_job)
    paths = [layout.retrained(name, shard) for shard in shards]
    made_from = {layout.name(layout.plan(name)): of_plan.content}
    found = {}
    for path in paths:
        manifest = artefact_manifest(path, "retrained")
        manifest.require(path, made_from=made_from, settings=answers_settings(settings))
        lineage.check(path, manifest)
        found[layout.name(path)] = manifest.content
    answers = {targets: load_shards(paths, len(plan), targets) for targets in settings.targets}
    return Retrained(plan, answers, {**made_from, **found})


def require_one_recipe(layout: Layout, checkpoints: Sequence[str], *, imported: bool) -> None:
    """Refuse checkpoints that were not trained alike, but for the seed; those that are there.

    Args:
        layout: of the run.
        checkpoints: their names.
        imported: whether they should have been imported, not fine-tuned here.

    Raises:
        TrakError: naming two of them.
    """
    first: tuple[Path, Manifest] | None = None
    for name in checkpoints:
        path = layout.checkpoint(name)
        if not is_there(path):
            continue
        manifest = Manifest.load(path, "checkpoint")
        if imported == bool(manifest.settings):
            words = ("imported", "fine-tuned here")
            raise TrakError(
                f"{path}: was {words[imported]}, the settings say {words[not imported]} "
                "(checkpoints.existing); delete it and rerun"
            )
        beside, other = first = first or (path, manifest)
        shared = {key: value for key, value in other.settings.items() if key != "seed"}
        # But for the rows that some imported ones' second moments were estimated by.
        made_from = {name: content for name, content in other.made_from.items() if not _is_rows(name)}
        manifest.require(
            path, made_from=made_from, settings=shared, version=other.version, by=str(beside)
        )


def _is_rows(name: str) -> bool:
    """Whether a name in a manifest is of some rows of a set."""
    return ":" in name.partition("#")[2]


def open_score_part(
    layout: Layout, settings: Settings, targets: str, part: str, matrix: Sequence[str], listed: int
) -> ScorePart:
    """A part of the scores of a target set, made with these settings, from what is there.

    Raises:
        TrakError: if it is missing or was made otherwise.
    """
    found = ScorePart.open(layout.score_part(targets, part))
    found.manifest.require(found.path, settings=part_settings(settings, matrix, listed))
    tile = Tile.named(part)
    places = {"rows": [tile.start, tile.stop], "targets": [tile.first, tile.last]}
    if dict(found.manifest.details) != places:
        raise TrakError(f"{found.path}: is another part, of {dict(found.manifest.details)}; delete it")
    Lineage(layout).check(found.path, found.manifest)
    return found


def open_scores(layout: Layout, settings: Settings, targets: str) -> ScoreStore:
    """Scores of a target set, made with these settings, of these checkpoints, from what is there.

    Raises:
        TrakError: if they are missing or were made otherwise.
    """
    store = ScoreStore.open(layout.scores(targets))
    parts = [layout.train, layout.targets(targets), layout.calibration]
    for name in checkpoint_names(settings.checkpoints):
        parts += [layout.kernel(name), layout.target_features(name, targets)]
    made_from = {
        layout.name(part): store.manifest.made_from.get(layout.name(part), "") for part in parts
    }
    store.manifest.require(store.path, settings=score_settings(settings))
    store.manifest.require(store.path, made_from=made_from)
    Lineage(layout).check(store.path, store.manifest)
    return store
