"""Step ``finetune``: one training run, of which one or more states become checkpoints."""

import shutil
from pathlib import Path

import torch

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.layout import Layout, state_name
from trak_steps.model.device import pick_device
from trak_steps.model.load import load_classifier, load_for_training, load_tokenizer
from trak_steps.model.training import Recipe, finetune
from trak_steps.progress import say
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, digest_files


def run(layout: Layout, settings: Settings, training_run: int) -> None:
    """Write ``checkpoints/<m>`` for each kept state of one run."""
    train = PreparedRows.load(layout.train)
    base = Manifest.load(layout.model, "model")
    trust = settings.model.trust_remote_code
    recipe = Recipe(
        **settings.finetune.model_dump(),
        seed=settings.seed + training_run,
        keep=tuple(sorted(settings.checkpoints.keep)),
    )
    device = pick_device(settings.execution.device)
    if device.index:
        raise TrakError(
            f"execution.device: training uses the first GPU it sees, not {device}; set "
            f"CUDA_VISIBLE_DEVICES={device.index} and execution.device: cuda"
        )
    work = layout.training(str(training_run))
    made_from = {"model": base.content, "data": train.digest}
    inputs = [name for name in ("input_ids", "token_type_ids") if name in train.rows.column_names]
    states = finetune(
        lambda: load_for_training(
            layout.model,
            outputs=train.outputs,
            label_names=train.label_names,
            trust_remote_code=trust,
        ),
        load_tokenizer(layout.model, max_length=settings.model.max_length, trust_remote_code=trust),
        train.rows.select_columns([*inputs, "label"]).rename_column("label", "labels"),
        recipe,
        work=work,
        identity=made_from,
        save_every=settings.execution.save_every,
        cpu=device.type == "cpu",
    )
    for fraction, state in states.items():
        _check(state, train, trust)
        path = layout.checkpoint(state_name(str(training_run), fraction))
        _save(path, state, layout.model, recipe, fraction, made_from)
        say(f"wrote {path}")
    shutil.rmtree(work)


def _check(state: Path, train: PreparedRows, trust_remote_code: bool) -> None:
    """A training that diverged leaves weights that are not finite: better to stop here."""
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


def _save(
    path: Path,
    state: Path,
    base: Path,
    recipe: Recipe,
    fraction: float,
    made_from: dict[str, str],
) -> None:
    """The state with the tokenizer's files, so that the folder loads on its own."""
    with complete_or_absent(path) as folder:
        shutil.copytree(state, folder)
        for file in base.iterdir():
            if file.suffix in (".json", ".txt", ".model") and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
        Manifest(
            "checkpoint",
            made_from=made_from,
            settings={**vars(recipe), "keep": None, "fraction": fraction},
            content=digest_files([folder / "config.json", *folder.glob("*.safetensors")]),
        ).save(folder)
