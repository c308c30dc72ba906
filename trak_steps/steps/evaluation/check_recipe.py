"""Step ``check-recipe``: does the recipe that is given for imported checkpoints make such models?

Models retrained on parts of the rows tell about the scores of imported checkpoints only if those were
trained in the same way. So some are trained on all rows first.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.accuracy import accuracy
from trak_steps.evaluation.reproduction import FURTHER, SURER, reproduction
from trak_steps.model.files import ADAPTER
from trak_steps.run.identity import answers_settings, retraining_seed
from trak_steps.run.layout import Layout, final_checkpoints
from trak_steps.run.lineage import Lineage, contents
from trak_steps.run.recipe import require_recipe
from trak_steps.steps.evaluation.retrain import Retrainer
from trak_steps.store.document import save_document
from trak_steps.store.features import FeatureStore
from trak_steps.store.manifest import Manifest

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1
# Models on all rows. They are the first of those that the removal of rows is held against.
MODELS = 3


def run(layout: Layout, settings: Settings) -> None:
    """Write ``evaluation/recipe.json``, or refuse the recipe.

    Raises:
        TrakError: if retrained models differ from the imported ones by more than seeds explain, or those
            are adapters.
    """
    require_recipe(settings)
    train = PreparedRows.load(layout.train)
    ends = final_checkpoints(settings.checkpoints)
    for end in ends:
        if (layout.checkpoint(end) / ADAPTER).is_dir():
            raise TrakError(
                f"evaluation.retrain_imported: {layout.checkpoint(end)} is an adapter, and `finetune` "
                "trains whole models; set it to false"
            )
    retrainer = Retrainer(layout, settings, train)
    name, targets = next(iter(retrainer.sets.items()))
    stores = [FeatureStore.open(layout.target_features(end, name)) for end in ends]
    lineage = Lineage(layout)
    for store in stores:
        lineage.check(store.path, store.manifest)
    imported = np.stack([store.column("margin") for store in stores]).astype(np.float64)
    seeds = [retraining_seed(settings, repeat) for repeat in range(MODELS)]
    everything = np.ones(len(train), bool)
    answers = [
        retrainer.answers(everything, seed)[name]
        for seed in progress(seeds, total=MODELS, label="models on all rows", unit="model")
    ]
    found = reproduction(imported, np.stack([of.margin for of in answers]).astype(np.float64))
    figures: dict[str, Any] = {"targets": name, **asdict(found)}
    said = (
        f"for targets {name}, models trained by `finetune` from {settings.model.name_or_path} are "
        f"{found.apart:.2f} times as far from the imported checkpoints as from each other (allowed: "
        f"{FURTHER:g}), and their margins {found.sure:.2f} times as large (allowed: {1 / SURER:g} to "
        f"{SURER:g})"
    )
    if train.label_names:
        labels = targets.column("label")
        predictions = np.stack([store.column("prediction") for store in stores])
        figures["imported_accuracy"] = accuracy(predictions, labels).mean
        retrained = np.stack([of.prediction for of in answers])
        figures["retrained_accuracy"] = accuracy(retrained, labels).mean
        said += (
            f"; right about {figures['retrained_accuracy']:.0%}, where those are about "
            f"{figures['imported_accuracy']:.0%}"
        )
    if not found.succeeded:
        raise TrakError(
            f"evaluation.retrain_imported: {said}: they were trained otherwise. Mend finetune or "
            "model.name_or_path, or set it to false"
        )
    manifest = Manifest(
        "recipe",
        made_from={layout.name(layout.model): retrainer.content, **contents(layout, train, *stores)},
        settings=answers_settings(settings),
        version=VERSION,
    )
    save_document(layout.recipe, figures, manifest)
    say(said)
    say(f"wrote {layout.recipe}")
