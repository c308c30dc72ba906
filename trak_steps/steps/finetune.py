"""Step ``finetune``: one training run, of which one or more states become checkpoints."""

import os
import shutil
from pathlib import Path

import torch

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.fingerprint import fingerprint
from trak_steps.layout import Layout, state_name
from trak_steps.model.device import training_device
from trak_steps.model.load import load_classifier, load_for_training, load_tokenizer
from trak_steps.model.recipe import Recipe
from trak_steps.model.training import finetune
from trak_steps.progress import say
from trak_steps.steps.identity import recipe_settings
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.folder import check_folder
from trak_steps.store.lock import one_at_a_time
from trak_steps.store.manifest import FILE, Manifest


def run(layout: Layout, settings: Settings, training_run: int) -> None:
    """Write ``checkpoints/<m>`` for each kept state of one run."""
    train = PreparedRows.load(layout.train)
    base = check_folder(layout.model, "model")
    train.manifest.require(
        train.path,
        made_from={layout.name(layout.model): base.content},
        settings={"seed": settings.seed, "max_length": settings.model.max_length},
    )
    recipe = Recipe(
        **settings.finetune.model_dump(),
        seed=settings.seed + training_run,
        keep=tuple(sorted(settings.checkpoints.keep)),
    )
    device = training_device(settings.execution.device)
    made_from = {
        layout.name(layout.model): base.content,
        layout.name(train.path): train.content,
    }
    manifests = {
        fraction: Manifest(
            "checkpoint",
            made_from=made_from,
            settings=recipe_settings(settings, training_run),
            code=fingerprint("steps.finetune"),
            details={
                "checkpoint": state_name(str(training_run), fraction),
                "fraction": fraction,
                "keep": list(recipe.keep),
            },
        )
        for fraction in recipe.keep
    }
    work = layout.training(str(training_run))

    def wait(holder: str) -> None:
        say(f"{work}: waiting for process {holder}, which trains the same run")

    with one_at_a_time(layout.lock(f"training-{training_run}"), wait):
        # By another process, perhaps the orphan of a killed Snakemake.
        if _are_made(layout, manifests):
            say("these checkpoints are made already; delete them to train again")
            return
        _train(layout, settings, train, recipe, manifests, work, device.type == "cpu")


def _are_made(layout: Layout, manifests: dict[float, Manifest]) -> bool:
    """Whether all of these checkpoints are there, whole, and made from the same things."""
    for manifest in manifests.values():
        path = layout.checkpoint(str(manifest.details["checkpoint"]))
        try:
            check_folder(path, "checkpoint").require(
                path,
                made_from=manifest.made_from,
                settings=manifest.settings,
                code=manifest.code,
            )
        except TrakError:
            return False
    return True


def _train(
    layout: Layout,
    settings: Settings,
    train: PreparedRows,
    recipe: Recipe,
    manifests: dict[float, Manifest],
    work: Path,
    cpu: bool,
) -> None:
    trust = settings.model.trust_remote_code
    states = finetune(
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
        work=work,
        identity={
            "made_from": dict(manifests[recipe.keep[-1]].made_from),
            "code": manifests[recipe.keep[-1]].code,
        },
        save_every=settings.execution.save_every,
        cpu=cpu,
    )
    if Manifest.load(layout.model, "model").content not in manifests[recipe.keep[-1]].made_from.values():
        raise TrakError(f"{layout.model}: was replaced while it was fine-tuned; run this again")
    for fraction, state in states.items():
        _check(state, train, trust)
        path = layout.checkpoint(str(manifests[fraction].details["checkpoint"]))
        _save(path, state, layout.model, manifests[fraction])
        say(f"wrote {path}")
    # The states stay until Snakemake, too, knows that they are done: see housekeeping.
    shutil.rmtree(work / "trainer", ignore_errors=True)


def _check(state: Path, train: PreparedRows, trust_remote_code: bool) -> None:
    """A training that diverged leaves weights that are not finite: better to stop here."""
    check_folder(state, "state")
    try:
        load_classifier(
            state,
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


def _save(path: Path, state: Path, base: Path, manifest: Manifest) -> None:
    """The state with the tokenizer's files, so that the folder loads on its own."""
    with complete_or_absent(path) as folder:
        ignored = shutil.ignore_patterns(FILE)
        shutil.copytree(state, folder, ignore=ignored, copy_function=_link_or_copy)
        for file in base.iterdir():
            wanted = file.suffix in (".json", ".txt", ".model") and file.name != FILE
            if wanted and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
        manifest.save(folder)
