"""Step ``finetune``: one training, whose end and intermediate checkpoints serve."""

import os
import shutil
from pathlib import Path

import torch

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model.device import training_device
from trak_steps.model.load import load_classifier, load_for_training, load_tokenizer
from trak_steps.model.recipe import Recipe
from trak_steps.model.schedule import falling_together
from trak_steps.model.training import finetune
from trak_steps.run.identity import recipe_settings
from trak_steps.run.layout import Layout, checkpoint_name
from trak_steps.store.artefact import keep
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.folder import check_folder
from trak_steps.store.lock import one_at_a_time
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import MANIFEST, RECEIPT

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 2


def run(layout: Layout, settings: Settings, training: int) -> None:
    """Write ``checkpoints/<m>`` for each kept fraction of one training."""
    train = PreparedRows.load(layout.train)
    base = check_folder(layout.model, "model")
    train.manifest.require(
        train.path,
        made_from={layout.name(layout.model): base.content},
        settings={"seed": settings.seed, "max_length": settings.model.max_length},
    )
    recipe = Recipe(**settings.finetune.model_dump(), seed=settings.seed + training)
    if together := falling_together(settings.checkpoints.keep, recipe.steps(len(train))):
        raise TrakError(together)
    device = training_device(settings.execution.device, settings.finetune.precision)
    wanted = {
        fraction: Manifest(
            "checkpoint",
            made_from={
                layout.name(layout.model): base.content,
                layout.name(train.path): train.content,
            },
            settings=recipe_settings(settings, training),
            version=VERSION,
            details={"checkpoint": checkpoint_name(str(training), fraction), "fraction": fraction},
        )
        for fraction in sorted(settings.checkpoints.keep)
    }
    work = layout.training(str(training))

    def wait(holder: str) -> None:
        say(f"{work}: waiting for process {holder}, which does the same training")

    with one_at_a_time(layout.lock(f"training-{training}"), wait):
        # Some may have been kept before, or made by another process: the orphan of a killed Snakemake.
        missing = {
            fraction: manifest
            for fraction, manifest in wanted.items()
            if not keep(layout.checkpoint(str(manifest.details["checkpoint"])), manifest)
        }
        if len(missing) < len(wanted):
            say(f"kept {len(wanted) - len(missing)} of {len(wanted)} checkpoints: made from the same")
        if missing:
            _train(layout, settings, train, recipe, missing, work, device.type == "cpu")
        # Also what a process left that was killed after it wrote the last checkpoint.
        shutil.rmtree(work, ignore_errors=True)


def _train(
    layout: Layout,
    settings: Settings,
    train: PreparedRows,
    recipe: Recipe,
    wanted: dict[float, Manifest],
    work: Path,
    cpu: bool,
) -> None:
    trust = settings.model.trust_remote_code
    made_from = next(iter(wanted.values())).made_from
    kept = finetune(
        lambda: load_for_training(
            layout.model,
            outputs=train.outputs,
            label_names=train.label_names,
            dropout=recipe.dropout,
            trust_remote_code=trust,
        ),
        load_tokenizer(layout.model, max_length=settings.model.max_length, trust_remote_code=trust),
        train.table,
        recipe,
        fractions=wanted,
        work=work,
        identity={"made_from": dict(made_from), "version": VERSION},
        save_minutes=settings.execution.save_minutes,
        cpu=cpu,
    )
    if Manifest.load(layout.model, "model").content not in made_from.values():
        raise TrakError(f"{layout.model}: was replaced while it was fine-tuned; run this again")
    for fraction, folder in kept.items():
        _check(folder, train, trust)
        path = layout.checkpoint(str(wanted[fraction].details["checkpoint"]))
        _save(path, folder, layout.model, wanted[fraction])
        say(f"wrote {path}")


def _check(folder: Path, train: PreparedRows, trust_remote_code: bool) -> None:
    """A training that diverged leaves weights that are not finite: better to stop here."""
    check_folder(folder, "kept")
    try:
        load_classifier(
            folder,
            outputs=train.outputs,
            device=torch.device("cpu"),
            trust_remote_code=trust_remote_code,
        )
    except TrakError as error:
        raise TrakError(
            f"the training ended in a model that cannot be used ({error}); "
            "try a lower finetune.learning_rate"
        ) from error


def _link_or_copy(source: str, destination: str) -> str:
    """A second name for the same file where the file system has such."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
    return destination


def _save(path: Path, kept: Path, base: Path, manifest: Manifest) -> None:
    """The weights with the tokenizer's files, so that the folder loads on its own."""
    with complete_or_absent(path) as folder:
        ignored = shutil.ignore_patterns(MANIFEST, RECEIPT)
        shutil.copytree(kept, folder, ignore=ignored, copy_function=_link_or_copy)
        for file in base.iterdir():
            own = file.suffix in (".json", ".txt", ".model") and file.name != MANIFEST
            if own and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
        manifest.save(folder)
