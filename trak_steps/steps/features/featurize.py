"""Step ``featurize``: the features of one shard of the train set, or of one target set."""

from dataclasses import replace
from pathlib import Path

from trak_steps.config import Settings
from trak_steps.console.progress import counter, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.gradients.functional import FunctionalGradients
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.source import GradientSource
from trak_steps.model.device import check_device, pick_device
from trak_steps.run.featurizer import Featurizer, naming_settings
from trak_steps.run.identity import feature_settings, recipe_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage
from trak_steps.run.model_inputs import read_windows, shortest_and_longest
from trak_steps.run.shards import shard_size
from trak_steps.store.artefact import keep
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import new_features
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2


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
    extremes = shortest_and_longest(rows, start, stop)
    featurizer = Featurizer.open(layout, settings, checkpoint, rows, extremes, device)
    size = featurizer.size
    say(f"{path}: {stop - start} rows, {size:,} parameters to {chosen.dim} dimensions on {device}")
    featurizer.check()
    say_how_rows_are_run(featurizer.source)
    manifest = replace(manifest, settings={**manifest.settings, "size": size})
    codec = codec_arguments(chosen.codec, chosen.keep_bits, chosen.dtype)
    with (
        new_features(path, (stop - start, chosen.dim), chosen.dtype, manifest, codec) as writer,
        counter(stop - start, "features", "row") as advance,
    ):
        for found in featurizer.features(read_windows(rows, start, stop), advance):
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
