"""What models are retrained by: the recipe of trainings here, or one that is given for imported ones."""

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.identity import answers_settings
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage
from trak_steps.store.document import load_document


def require_recipe(settings: Settings) -> None:
    """Refuse to train models as checkpoints were that were trained nobody says how.

    Raises:
        TrakError: if checkpoints are imported, and `finetune` is not said to be their recipe.
    """
    if settings.checkpoints.existing and not settings.evaluation.retrain_imported:
        raise TrakError(
            "checkpoints.existing: how these were trained is not known here, so no model can be trained "
            "as they were; set evaluation.retrain_imported if `finetune` says it. `find-mislabelled` "
            "and `measure-stability` need none"
        )


def require_known_recipe(layout: Layout, settings: Settings) -> None:
    """Refuse to plan models of a recipe that is not given, or was not held against what was imported.

    Raises:
        TrakError: if checkpoints are imported, and it is so.
    """
    require_recipe(settings)
    if settings.checkpoints.existing:
        path = layout.recipe
        if not path.exists():
            raise TrakError(f"{path}: is missing; run `trak-steps check-recipe` first")
        _, manifest = load_document(path, "recipe")
        Lineage(layout).check(path, manifest)


def require_same_recipe(layout: Layout, settings: Settings) -> None:
    """Refuse to train models by another recipe than was held against imported checkpoints.

    Raises:
        TrakError: naming what differs.
    """
    if layout.recipe.exists():
        _, manifest = load_document(layout.recipe, "recipe")
        manifest.require(layout.recipe, settings=answers_settings(settings))
