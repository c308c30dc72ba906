"""Step ``featurize``: the features of one shard of the train set, or of one target set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN, FeatureSettings
from trak_steps.console.progress import counter, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.gradients.budget import tokens_at_once
from trak_steps.gradients.errors import GradientError, Remedy
from trak_steps.gradients.featurize import compute_features
from trak_steps.gradients.functional import FunctionalGradients
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import ModelOutput
from trak_steps.gradients.selfcheck import check_gradients
from trak_steps.gradients.source import GradientSource, select_parameters, tables_of
from trak_steps.model.device import check_device, pick_device
from trak_steps.model.load import load_classifier
from trak_steps.model.moments import load_moments
from trak_steps.projection import DenseProjection, FoldProjection, Parameter, Projection
from trak_steps.projection.base import projection_key, total_size
from trak_steps.projection.metric import TABLES_SHARE, Metric, metric_of
from trak_steps.run.identity import feature_settings, recipe_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage
from trak_steps.run.model_inputs import read_windows, shortest_and_longest
from trak_steps.run.model_output import check_model_output, load_model_output
from trak_steps.run.shards import shard_size
from trak_steps.store.artefact import keep
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import new_features
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2

MIB = 2**20
HELPS = {
    Remedy.WHOLE_GRADIENTS: "set features.gradients: functional, or drop the parameter by "
    "features.parameters.exclude",
    Remedy.DENSE_PROJECTION: "set features.projection: rademacher, and please report it",
    Remedy.OTHER_PARAMETERS: "see features.parameters.include and features.parameters.exclude",
    Remedy.SHORTER_ROWS: "set a smaller model.max_length, or use a machine with more memory",
    Remedy.WIDER_NUMBERS: "set features.dtype: float32",
}


def run_train(layout: Layout, settings: Settings, checkpoint: str, shard: int) -> None:
    """Write ``features/<m>/train/<shard>.zarr``."""
    rows = PreparedRows.open(layout.train)
    size = shard_size(settings.features, layout)
    start, stop = shard * size, min((shard + 1) * size, len(rows))
    if start >= stop:
        raise TrakError(
            f"there is no shard {shard}: {len(rows)} train rows in shards of {size} end before it"
        )
    path = layout.train_shard(checkpoint, f"{shard:05d}")
    featurize_rows(layout, settings, checkpoint, rows, start, stop, path)


def run_targets(layout: Layout, settings: Settings, checkpoint: str, targets: str) -> None:
    """Write ``features/<m>/targets/<set>.zarr``."""
    rows = PreparedRows.open(layout.targets(targets))
    path = layout.target_features(checkpoint, targets)
    featurize_rows(layout, settings, checkpoint, rows, 0, len(rows), path)


@contextmanager
def naming_settings() -> Iterator[None]:
    """Where gradients cannot be had, say which setting helps."""
    try:
        yield
    except GradientError as error:
        raise TrakError(f"{error}; {HELPS[error.remedy]}") from error


@naming_settings()
def featurize_rows(
    layout: Layout,
    settings: Settings,
    checkpoint: str,
    rows: PreparedRows,
    start: int,
    stop: int,
    path: Path,
) -> None:
    """Write the features that a checkpoint gives of the rows with places ``start`` to ``stop``.

    They are written as they are computed: what is held does not grow with the number of rows.

    Args:
        layout: where the run's outputs lie.
        settings: of the run.
        checkpoint: its name.
        rows: the train set or a target set.
        start: the first row's place in it.
        stop: one past the last one's.
        path: the store.
    """
    folder = layout.checkpoint(checkpoint)
    of_checkpoint = _check_inputs(layout, settings, checkpoint, rows)
    rows_name = layout.name(rows.path)
    if rows.path == layout.train:
        rows_name += f"#{start}:{stop}"
    chosen = settings.features
    manifest = Manifest(
        "features",
        made_from={
            layout.name(folder): of_checkpoint.content,
            rows_name: rows.content_of(start, stop),
        },
        settings={**feature_settings(settings), "checkpoint": checkpoint},
        version=VERSION,
        details={"start": start, "stop": stop, "codec": chosen.codec, "keep_bits": chosen.keep_bits},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    check_device(settings.execution.device, precision=chosen.precision)
    device = pick_device(settings.execution.device)
    precision: torch.dtype = getattr(torch, chosen.precision)
    model = load_classifier(
        folder,
        outputs=rows.outputs,
        device=device,
        trust_remote_code=settings.model.trust_remote_code,
        # For torch.func, since the fused ones have no batching rule and would run row by row.
        attention="eager" if chosen.gradients == "functional" else None,
    )
    output = _model_output(chosen, rows)
    parameters = select_parameters(model, chosen.parameters.include, chosen.parameters.exclude)
    size = total_size(parameters)
    shortest, longest = shortest_and_longest(rows, start, stop)
    memory = settings.execution.memory_mb * MIB
    source: GradientSource
    if chosen.gradients == "functional":
        source = FunctionalGradients(model, output, parameters, memory // 4)
    else:
        tokens = settings.execution.batch_tokens or tokens_at_once(
            model, longest, batch_memory(device, memory)
        )
        source = HookedGradients(
            model,
            output,
            parameters,
            tokens=tokens,
            example=shortest,
            precision=precision,
        )
    metric = _metric(folder, model, parameters) if chosen.metric == "adam" else None
    projection = projection_of(chosen, parameters, settings.seed, checkpoint, device, metric)
    say(f"{path}: {stop - start} rows, {size:,} parameters to {chosen.dim} dimensions on {device}")
    try:
        check_gradients(model, output, source, projection, [shortest, longest], precision)
    except RuntimeError as error:
        if precision == torch.float32 or isinstance(error, torch.OutOfMemoryError):
            raise
        # Some models' own code adds or fills numbers of two types, which torch refuses.
        raise TrakError(
            f"features.precision: {type(model).__name__} cannot be run in {chosen.precision} "
            f"({error}); set features.precision: float32"
        ) from error
    say_how_rows_are_run(source)
    manifest = replace(manifest, settings={**manifest.settings, "size": size})
    codec = codec_arguments(chosen.codec, chosen.keep_bits, chosen.dtype)
    with (
        new_features(path, (stop - start, chosen.dim), chosen.dtype, manifest, codec) as writer,
        counter(stop - start, "features", "row") as advance,
    ):
        for found in compute_features(
            source,
            projection,
            read_windows(rows, start, stop),
            memory=memory // 2,
            dtype=chosen.dtype,
            advance=advance,
            say=say,
        ):
            columns = {
                "loss_weight": found.loss_weight,
                "margin": found.margin,
                "prediction": found.prediction,
                "row": found.row,
            }
            writer.add(found.features, columns)
            del found  # or these features would be held while the next are computed
        if Manifest.load(folder, "checkpoint").content != of_checkpoint.content:
            raise TrakError(f"{folder}: was replaced while its features were computed; run this again")
    say(f"wrote {path}")


def say_how_rows_are_run(source: GradientSource) -> None:
    """Say why it takes long, if rows are run one by one; known once some were run."""
    if isinstance(source, HookedGradients) and source.one_by_one:
        names = ", ".join(source.one_by_one[:3]) + (" …" if len(source.one_by_one) > 3 else "")
        say(
            f"rows are run one by one, as the gradient of {names} cannot be told apart by row in a "
            "batch; features.parameters.exclude drops parameters"
        )
    elif isinstance(source, FunctionalGradients) and not source.vectorised:
        say("rows are run one by one, as torch.func cannot vectorise this model over rows")


def _check_inputs(layout: Layout, settings: Settings, checkpoint: str, rows: PreparedRows) -> Manifest:
    """The checkpoint's manifest, after checking that it, the rows and the settings fit together."""
    folder = layout.checkpoint(checkpoint)
    manifest = check_folder(folder, "checkpoint")
    lineage = Lineage(layout)
    lineage.check(folder, manifest)
    lineage.check(rows.path, rows.manifest)
    model = layout.name(layout.model)
    rows.manifest.require(
        rows.path, made_from={model: manifest.made_from[model]}, settings={"seed": settings.seed}
    )
    if manifest.details["checkpoint"] != checkpoint:
        raise TrakError(
            f"{folder}: holds checkpoint {manifest.details['checkpoint']}; delete it and rerun"
        )
    if manifest.settings:  # trained here, not imported
        if "finetune" not in vars(settings):
            raise TrakError(
                f"{folder}: was fine-tuned here, the settings say that it was imported "
                "(checkpoints.existing); delete it and rerun"
            )
        run = int(checkpoint.partition("-")[0])
        manifest.require(folder, settings=recipe_settings(settings, run))
    return manifest


def _model_output(chosen: FeatureSettings, rows: PreparedRows) -> ModelOutput:
    if chosen.model_output == BUILT_IN and not rows.label_names:
        raise TrakError(
            f"features.model_output: {BUILT_IN} needs classes, the labels are numbers; name your own "
            "`module:Class` (see docs/custom_output.md)"
        )
    output = load_model_output(chosen.model_output, chosen.loss_temperature)
    check_model_output(output, chosen.model_output, rows.outputs)
    return output


def batch_memory(device: torch.device, memory: int) -> int:
    """Bytes for a batch: a share of the setting, or most of what a GPU has free."""
    if device.type != "cuda":
        return memory // 4
    free, _ = torch.cuda.mem_get_info(device)
    return int(0.8 * free)


def _metric(folder: Path, model: PreTrainedModel, parameters: Sequence[Parameter]) -> Metric:
    """The optimizer's metric at a checkpoint, from what was kept beside its weights."""
    moments, epsilon = load_moments(folder, parameters)
    return metric_of(parameters, moments, epsilon=epsilon, tables=tables_of(model), share=TABLES_SHARE)


def projection_of(
    chosen: FeatureSettings,
    parameters: Sequence[Parameter],
    seed: int,
    checkpoint: str,
    device: torch.device,
    metric: Metric | None,
) -> Projection:
    """The projection of a checkpoint's gradients that the settings choose."""
    key = projection_key(seed, checkpoint)
    if chosen.projection == "fold":
        return FoldProjection(parameters, dim=chosen.dim, key=key, device=device, metric=metric)
    return DenseProjection(
        chosen.projection,
        size=total_size(parameters),
        dim=chosen.dim,
        key=key,
        device=device,
        metric=metric,
    )
