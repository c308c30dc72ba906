"""Step ``featurize``: the features of one shard of the train set, or of one target set."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from trak_steps.config import Settings
from trak_steps.config.settings import FeatureSettings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.features import compute_features
from trak_steps.gradients.functional import FunctionalGradients
from trak_steps.gradients.model_output import BUILT_IN, check_model_output, load_model_output
from trak_steps.gradients.source import (
    GradientSource,
    Parameter,
    Row,
    select_parameters,
    total_size,
)
from trak_steps.layout import Layout
from trak_steps.model.device import pick_device
from trak_steps.model.load import load_classifier
from trak_steps.progress import progress, say
from trak_steps.projection import DenseProjection, Projection
from trak_steps.projection.base import projection_key
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import save_features
from trak_steps.store.manifest import Manifest

MIB = 2**20


def run_train(layout: Layout, settings: Settings, checkpoint: str, shard: int) -> None:
    """Write ``features/<m>/train/<shard>.zarr``."""
    rows = PreparedRows.load(layout.train)
    start = shard * settings.features.shard_size
    stop = min(start + settings.features.shard_size, len(rows))
    if start >= stop:
        raise TrakError(
            f"there is no shard {shard}: {len(rows)} train rows in shards of "
            f"{settings.features.shard_size} end before it"
        )
    path = layout.train_shard(checkpoint, f"{shard:05d}")
    _featurize(layout, settings, checkpoint, rows, start, stop, path)


def run_targets(layout: Layout, settings: Settings, checkpoint: str, targets: str) -> None:
    """Write ``features/<m>/targets/<set>.zarr``."""
    rows = PreparedRows.load(layout.targets(targets))
    path = layout.target_features(checkpoint, targets)
    _featurize(layout, settings, checkpoint, rows, 0, len(rows), path)


def _featurize(
    layout: Layout,
    settings: Settings,
    checkpoint: str,
    rows: PreparedRows,
    start: int,
    stop: int,
    path: Path,
) -> None:
    folder = layout.checkpoint(checkpoint)
    device = pick_device(settings.execution.device)
    memory = settings.execution.memory_mb * MIB
    model = load_classifier(
        folder,
        outputs=rows.outputs,
        device=device,
        trust_remote_code=settings.model.trust_remote_code,
        attention="eager",  # the fused ones have no batching rule, and would run row by row
    )
    chosen = settings.features
    source = _source(chosen, model, rows, memory // 4)
    size = total_size(source.parameters)
    projection = _projection(chosen, size, settings.seed, checkpoint, device)
    say(f"{path}: {stop - start} rows, {size:,} parameters to {chosen.dim} dimensions on {device}")

    def track(batches: Iterator[Sequence[int]], total: int) -> Iterator[Sequence[int]]:
        return progress(batches, total=total, label="features", unit="batch")

    labels = rows.column("label", start, stop).tolist()
    ids = rows.column("row", start, stop)
    features = compute_features(
        source,
        projection,
        [
            Row(label=label, **tokens)
            for label, tokens in zip(labels, rows.tokens(start, stop), strict=True)
        ],
        ids,
        memory=memory // 2,
        dtype=chosen.dtype,
        track=track,
    )
    manifest = Manifest(
        "features",
        made_from={
            "data": rows.digest,
            "checkpoint": Manifest.load(folder, "checkpoint").content,
        },
        settings={
            **chosen.model_dump(exclude={"shard_size", "codec", "keep_bits"}),
            "seed": settings.seed,
            "checkpoint": checkpoint,
            "size": size,
        },
        details={"start": start, "stop": stop, "codec": chosen.codec, "keep_bits": chosen.keep_bits},
    )
    columns = {
        "loss_weight": features.loss_weight,
        "margin": features.margin,
        "prediction": features.prediction,
        "row": features.row,
    }
    codec = codec_arguments(chosen.codec, chosen.keep_bits, chosen.dtype)
    save_features(path, features.features, columns, manifest, codec)
    say(f"wrote {path}")


def _source(
    chosen: FeatureSettings, model: PreTrainedModel, rows: PreparedRows, memory: int
) -> GradientSource:
    if chosen.model_output == BUILT_IN and not rows.label_names:
        raise TrakError(
            f"features.model_output: {BUILT_IN} needs classes, the labels are numbers; name your own "
            "`module:Class` (see docs/own_task.md)"
        )
    parameters: list[Parameter] = select_parameters(
        model, chosen.parameters.include, chosen.parameters.exclude
    )
    output = load_model_output(chosen.model_output, chosen.loss_temperature)
    check_model_output(output, chosen.model_output, rows.outputs)
    return FunctionalGradients(model, output, parameters, memory)


def _projection(
    chosen: FeatureSettings, size: int, seed: int, checkpoint: str, device: torch.device
) -> Projection:
    return DenseProjection(
        chosen.projection,
        size=size,
        dim=chosen.dim,
        key=projection_key(seed, checkpoint),
        device=device,
    )
