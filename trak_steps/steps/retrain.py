"""Step ``retrain``: train some models of a plan, and keep what they say of the targets.

Nothing else of a model is kept, and nothing is trained twice: see :mod:`trak_steps.store.retrained`.
An interruption loses the model that was being trained.
"""

import hashlib

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.fingerprint import fingerprint, foreign_fingerprint
from trak_steps.gradients.model_output import ModelOutput, check_model_output, load_model_output
from trak_steps.gradients.rows import Row
from trak_steps.gradients.source import predict
from trak_steps.layout import Layout
from trak_steps.lineage import Lineage
from trak_steps.model.device import pick_device
from trak_steps.model.forward import forward
from trak_steps.model.load import load_for_training, load_tokenizer
from trak_steps.model.recipe import Recipe
from trak_steps.progress import progress, say
from trak_steps.retraining.train import retrain
from trak_steps.steps.identity import answers_settings
from trak_steps.steps.tokens import read_rows
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest
from trak_steps.store.plan import load_plan
from trak_steps.store.retrained import Answers, Identity, find_answers, save_answers, save_shard


def run(layout: Layout, settings: Settings, plan_name: str, shard: int) -> None:
    """Write ``evaluation/retrained/<plan>/<shard>.parquet``."""
    code = fingerprint("steps.retrain")
    train = PreparedRows.load(layout.train)
    trainer = Retrainer(layout, settings, train)
    sets = trainer.sets
    plan, of_plan = load_plan(layout.plan(plan_name), len(train))
    lineage = Lineage(layout, artefact_manifest)
    lineage.check(layout.plan(plan_name), of_plan)
    for rows in sets.values():
        lineage.check(rows.path, rows.manifest)
    size = settings.evaluation.models_per_job
    models = range(shard * size, min((shard + 1) * size, len(plan)))
    if not models:
        raise TrakError(
            f"there is no shard {shard}: the plan's {len(plan)} models in shards of {size} end before it"
        )
    made = [
        trainer.answers(plan.kept[model], int(plan.seeds[model]))
        for model in progress(models, total=len(models), label=f"models of {plan_name}", unit="model")
    ]
    path = layout.retrained(plan_name, f"{shard:05d}")
    manifest = Manifest(
        "retrained",
        made_from={
            layout.name(layout.model): trainer.base,
            layout.name(layout.plan(plan_name)): of_plan.content,
            **{layout.name(part.path): part.content for part in (train, *sets.values())},
        },
        settings=answers_settings(settings),
        code=code,
        details={"start": models.start, "stop": models.stop},
    )
    save_shard(path, made, models.start, manifest)
    say(f"wrote {path}: {trainer.trained} models trained, {len(models) - trainer.trained} known before")


class Retrainer:
    """Trains models on parts of one train set, and asks them about the same targets.

    Attributes:
        sets: the target sets.
        base: the content of the model that is trained.
        trained: how many models were.
    """

    def __init__(self, layout: Layout, settings: Settings, train: PreparedRows) -> None:
        self.base = check_folder(layout.model, "model").content
        train.manifest.require(
            train.path,
            made_from={layout.name(layout.model): self.base},
            settings={"seed": settings.seed, "max_length": settings.model.max_length},
        )
        self.sets = {name: PreparedRows.load(layout.targets(name)) for name in settings.targets}
        self.trained = 0
        self._layout = layout
        self._settings = settings
        self._train = train
        # Of what decides answers, and no more: that they are stored otherwise trains nothing again.
        self._code = [fingerprint(name) for name in ("retraining.train", "model.load")]
        self._code_of_answers = [
            fingerprint(name) for name in ("model.forward", "gradients.model_output", "gradients.source")
        ]
        self._device = pick_device(settings.execution.device)
        named = settings.features.model_output
        # The temperature is the loss weight's, which is not asked for.
        self._output = load_model_output(named, 1.0)
        check_model_output(self._output, named, train.outputs)
        names = [name for name in ("input_ids", "token_type_ids") if name in train.rows.column_names]
        self._rows = train.rows.select_columns([*names, "label"]).rename_column("label", "labels")
        self._tokenizer = load_tokenizer(
            layout.model,
            max_length=settings.model.max_length,
            trust_remote_code=settings.model.trust_remote_code,
        )
        self._targets = {name: read_rows(rows) for name, rows in self.sets.items()}

    def answers(self, kept: NDArray[np.bool_], seed: int) -> dict[str, Answers]:
        """A model's answers to every target set, from the shared folder or from training it."""
        folder = self._layout.retrained_models
        recipe = self._recipe(seed)
        identities = {name: self.identity(kept, seed, name) for name in self.sets}
        found = {name: find_answers(folder, identity) for name, identity in identities.items()}
        known = {name: answers for name, answers in found.items() if answers is not None}
        if len(known) == len(found):
            return known
        chosen = self._settings.model
        model = retrain(
            lambda: load_for_training(
                self._layout.model,
                outputs=self._train.outputs,
                label_names=self._train.label_names,
                dropout=recipe.dropout,
                trust_remote_code=chosen.trust_remote_code,
            ),
            self._tokenizer,
            self._rows_kept(kept),
            recipe,
            cpu=self._device.type == "cpu",
        )
        self.trained += 1
        made = {
            name: _ask(model, self._output, rows, f"seed {seed}") for name, rows in self._targets.items()
        }
        for name, answers in made.items():
            save_answers(folder, identities[name], answers)
        return made

    def _rows_kept(self, kept: NDArray[np.bool_]) -> datasets.Dataset:
        return self._rows.select(np.flatnonzero(kept))

    def _recipe(self, seed: int) -> Recipe:
        return Recipe(**self._settings.finetune.model_dump(), seed=seed, keep=())

    def identity(self, kept: NDArray[np.bool_], seed: int, targets: str) -> Identity:
        """What decides a model's answers to a target set."""
        recipe = {name: value for name, value in vars(self._recipe(seed)).items() if name != "keep"}
        model = {
            "base": self.base,
            "train": self._train.content,
            "code": self._code,
            "recipe": recipe,
            "kept": hashlib.sha256(np.packbits(kept).tobytes()).hexdigest(),
        }
        output = self._settings.features.model_output
        asked = {
            "targets": self.sets[targets].content,
            "model_output": output,
            "output_code": foreign_fingerprint(output.partition(":")[0]),
            "answers_code": self._code_of_answers,
        }
        return Identity(model, asked)


def _ask(model: PreTrainedModel, output: ModelOutput, rows: list[Row], which: str) -> Answers:
    logits = forward(model, rows).logits
    margin = output.output(logits, torch.tensor([row.label for row in rows]))
    if not torch.isfinite(margin).all():
        raise TrakError(
            f"the training with {which} diverged: a target's margin is not finite; try a lower "
            "finetune.learning_rate"
        )
    return Answers(margin.float().numpy(), predict(logits).numpy())
