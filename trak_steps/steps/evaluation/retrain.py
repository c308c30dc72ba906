"""Step ``retrain``: train some models of a plan, and keep what they say of the targets.

Nothing else of a model is kept, and nothing is trained twice: see :mod:`trak_steps.store.retrained`.
An interruption loses the model that was being trained.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model.device import training_device
from trak_steps.model.recipe import Recipe
from trak_steps.retraining.ask import ask
from trak_steps.retraining.train import Base, retrain
from trak_steps.run.identity import answers_settings, output_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage, contents
from trak_steps.run.model_inputs import read_rows
from trak_steps.run.model_output import check_model_output, load_model_output
from trak_steps.run.recipe import require_same_recipe
from trak_steps.store.folder import check_folder
from trak_steps.store.manifest import Manifest
from trak_steps.store.plan import load_plan
from trak_steps.store.retrained import ANSWERS, Answers, Identity, find_answers, save_answers, save_shard

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, plan_name: str, shard: int) -> None:
    """Write ``evaluation/retrained/<plan>/<shard>.parquet``."""
    require_same_recipe(layout, settings)
    train = PreparedRows.load(layout.train)
    trainer = Retrainer(layout, settings, train)
    sets = trainer.sets
    plan, of_plan = load_plan(layout.plan(plan_name), len(train))
    lineage = Lineage(layout)
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
    used = [
        trainer.identity(plan.kept[model], int(plan.seeds[model]), name).name
        for model in models
        for name in sets
    ]
    path = layout.retrained(plan_name, f"{shard:05d}")
    manifest = Manifest(
        "retrained",
        made_from={
            layout.name(layout.model): trainer.content,
            layout.name(layout.plan(plan_name)): of_plan.content,
            **contents(layout, train, *sets.values()),
        },
        settings=answers_settings(settings),
        version=VERSION,
        details={"start": models.start, "stop": models.stop, ANSWERS: used},
    )
    save_shard(path, made, models.start, manifest)
    say(f"wrote {path}: {trainer.trained} models trained, {len(models) - trainer.trained} known before")


class Retrainer:
    """Trains models on parts of one train set, and asks them about the same targets.

    Attributes:
        sets: the target sets.
        content: of the model that is trained.
        trained: how many models were.
    """

    def __init__(self, layout: Layout, settings: Settings, train: PreparedRows) -> None:
        self.content = check_folder(layout.model, "model").content
        train.manifest.require(
            train.path,
            made_from={layout.name(layout.model): self.content},
            settings={"seed": settings.seed, "max_length": settings.model.max_length},
        )
        self.sets = {name: PreparedRows.load(layout.targets(name)) for name in settings.targets}
        self.trained = 0
        self._layout = layout
        self._settings = settings
        self._train = train
        self._device = training_device(settings.execution.device, settings.finetune.precision)
        named = settings.features.model_output
        # The temperature is the loss weight's, which is not asked for.
        self._output = load_model_output(named, 1.0)
        check_model_output(self._output, named, train.outputs)
        self._base = Base(
            layout.model,
            train.outputs,
            train.label_names,
            settings.model.max_length,
            settings.model.trust_remote_code,
        )
        self._targets = {name: read_rows(rows) for name, rows in self.sets.items()}

    def answers(self, kept: NDArray[np.bool_], seed: int) -> dict[str, Answers]:
        """A model's answers to every target set, from the shared folder or from training it."""
        folder = self._layout.retrained_models
        identities = {name: self.identity(kept, seed, name) for name in self.sets}
        found = {name: find_answers(folder, identity) for name, identity in identities.items()}
        known = {name: answers for name, answers in found.items() if answers is not None}
        if len(known) == len(found):
            return known
        model = self.train(kept, seed)
        self.trained += 1
        try:
            made = {
                name: Answers(*ask(model, self._output, rows)) for name, rows in self._targets.items()
            }
        except TrakError as error:
            raise TrakError(
                f"the training with seed {seed} diverged: {error}; try a lower finetune.learning_rate"
            ) from None
        for name, answers in made.items():
            save_answers(folder, identities[name], answers)
        return made

    def train(self, kept: NDArray[np.bool_], seed: int) -> PreTrainedModel:
        """A model trained on the rows kept."""
        cpu = self._device.type == "cpu"
        return retrain(self._base, self._train.table, kept, self._recipe(seed), cpu=cpu)

    def _recipe(self, seed: int) -> Recipe:
        return Recipe(**self._settings.finetune.model_dump(), seed=seed)

    def identity(self, kept: NDArray[np.bool_], seed: int, targets: str) -> Identity:
        """What decides a model's answers to a target set."""
        model = {
            "base": self.content,
            "train": self._train.content,
            "version": VERSION,
            "recipe": self._recipe(seed).identity,
            "kept": hashlib.sha256(np.packbits(kept).tobytes()).hexdigest(),
        }
        asked = {"targets": self.sets[targets].content, **output_settings(self._settings)}
        return Identity(model, asked)
