"""Step ``check-recipe``: does the recipe that is given for imported checkpoints make such models?

Models retrained on parts of the rows tell about the scores of imported checkpoints only if those were
trained in the same way. So some are trained on all rows first.
"""

from dataclasses import asdict

import numpy as np

from trak_steps.config import Settings
from trak_steps.console.progress import progress, say
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.reproduction import reproduction
from trak_steps.run.identity import answers_settings, require_recipe, retraining_seed
from trak_steps.run.layout import Layout, final_checkpoints
from trak_steps.run.lineage import Lineage, contents
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
        TrakError: if retrained models are right further from as often than seeds set them apart.
    """
    require_recipe(settings)
    train = PreparedRows.load(layout.train)
    if not train.label_names:
        raise TrakError(
            "evaluation.retrain_imported: the labels are numbers, so it cannot be said how often models "
            "are right, and whether `finetune` makes such models; set it to false"
        )
    retrainer = Retrainer(layout, settings, train)
    name, targets = next(iter(retrainer.sets.items()))
    labels = targets.column("label")
    ends = final_checkpoints(settings.checkpoints)
    stores = [FeatureStore.open(layout.target_features(end, name)) for end in ends]
    for store in stores:
        Lineage(layout).check(store.path, store.manifest)
    imported = np.stack([store.column("prediction") for store in stores]) == labels
    seeds = [retraining_seed(settings, repeat) for repeat in range(MODELS)]
    everything = np.ones(len(train), bool)
    answers = [
        retrainer.answers(everything, seed)[name]
        for seed in progress(seeds, total=MODELS, label="models on all rows", unit="model")
    ]
    found = reproduction(imported, np.stack([of.prediction for of in answers]) == labels)
    said = (
        f"models trained by `finetune` from {settings.model.name_or_path} are right about "
        f"{np.mean(found.retrained):.0%} of the targets {name}, the imported checkpoints about "
        f"{np.mean(found.imported):.0%}"
    )
    if not found.succeeded:
        raise TrakError(
            f"evaluation.retrain_imported: {said}; seeds set such models {found.allowed:.0%} apart at "
            "most, so they were trained otherwise: mend finetune or model.name_or_path, or set it false"
        )
    manifest = Manifest(
        "recipe",
        made_from={layout.name(layout.model): retrainer.content, **contents(layout, train, *stores)},
        settings=answers_settings(settings),
        version=VERSION,
    )
    save_document(layout.recipe, {"targets": name, **asdict(found)}, manifest)
    say(f"{said}: as far apart as seeds set such models")
    say(f"wrote {layout.recipe}")
