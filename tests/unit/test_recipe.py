"""Imported checkpoints whose recipe is given: is it the one, and can models then be retrained by it?"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_settings
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForSequenceClassification

from trak_steps.config import Settings, parse_settings
from trak_steps.errors import TrakError
from trak_steps.evaluation.reproduction import reproduction
from trak_steps.run.layout import Layout, imported
from trak_steps.steps.checkpoints import finetune, import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.evaluation import check_recipe, plan_removal, plan_subsets, retrain
from trak_steps.steps.features import featurize

NAMES = ("bad", "good")


def models(seed: int, count: int, size: float = 3.0, t: int = 60) -> NDArray[np.float64]:
    """The margins of models of a recipe: a part that all share, and one of each."""
    shared = size * np.random.default_rng(seed).normal(size=t)
    return shared + np.random.default_rng([seed, count]).normal(size=(count, t))


@pytest.mark.parametrize("count", [1, 3])
def test_models_of_one_recipe_are_told_from_others(count: int) -> None:
    alike, other, weaker = [], [], []
    for seed in range(200):
        every = models(seed, count + 3)
        alike.append(reproduction(every[:count], every[count:]).succeeded)
        other.append(reproduction(every[:count], models(1000 + seed, 3)).succeeded)
        weaker.append(reproduction(every[:count], every[count:] / 3).succeeded)
    assert np.mean(alike) > 0.95
    assert np.mean(other) < 0.05
    assert np.mean(weaker) < 0.05


def test_what_is_said_of_a_reproduction_is_so() -> None:
    first, second = models(0, 2), models(0, 3)[1:]
    found = reproduction(first, second)
    within = np.sqrt(((second[0] - second[1]) ** 2).mean())
    between = [np.sqrt(((a - b) ** 2).mean()) for a in first for b in second]
    assert found.apart == pytest.approx(np.mean(between) / within)
    sizes = [np.mean([np.sqrt((of**2).mean()) for of in group]) for group in (first, second)]
    assert found.sure == pytest.approx(sizes[1] / sizes[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two classes that one word tells apart, a model, and two trainings of it elsewhere."""
    folder = tmp_path_factory.mktemp("recipe")
    rows = [f"it was a {NAMES[i % 2]} day number {i},{NAMES[i % 2]}" for i in range(120)]
    for split, part in (("train", rows[:80]), ("validation", rows[80:])):
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *part]))
    demo = Layout(folder / "demo")
    base_model.run(demo, settings_of(folder))
    shutil.copytree(demo.model, folder / "base")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(demo.model, id2label=dict(enumerate(NAMES)))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "base")
    settings = settings_of(folder, model={"max_length": 16, "name_or_path": str(folder / "base")})
    elsewhere = Layout(folder / "elsewhere")
    base_model.run(elsewhere, settings)
    prepare.run_train(elsewhere, settings)
    for training in (0, 1):
        finetune.run(elsewhere, settings, training)
    return folder


def settings_of(data: Path, **sections: Any) -> Settings:
    dataset = {
        "path": "csv",
        "data_files": {split: str(data / f"{split}.csv") for split in ("train", "validation")},
        "text": ["text"],
        "train_size": None,
        "group": None,
        "flip_labels": 0.0,
    }
    return small_settings(
        **{
            "dataset": dataset,
            "targets": {"validation": {"split": "validation", "size": 40}},
            "model": {"max_length": 16},
            "finetune": {"epochs": 8, "learning_rate": 2e-3},
            "checkpoints": {"keep": [1.0]},
            "features": {"shard_size": 80},
            **sections,
        }
    )


def prepared(data: Path, run: Path, existing: list[str], **sections: Any) -> tuple[Layout, Settings]:
    """A run of imported checkpoints, up to what their recipe is checked by."""
    settings = settings_of(
        data,
        model={"max_length": 16, "name_or_path": str(data / "base")},
        checkpoints={"existing": existing},
        evaluation={"retrain_imported": True, "models_per_job": 2, "lds": {"subsets": 8}},
        **sections,
    )
    layout = Layout(run)
    named = imported(settings.checkpoints)
    base_model.run(layout, settings, next(iter(named.values())))
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    for name, source in named.items():
        import_checkpoint.run(layout, settings, name, source)
        featurize.run_targets(layout, settings, name, "validation")
    return layout, settings


def test_models_can_be_retrained_once_the_recipe_is_seen_to_be_theirs(
    data: Path, tmp_path: Path
) -> None:
    trained = Layout(data / "elsewhere")
    existing = [str(trained.checkpoint(name)) for name in ("0", "1")]
    layout, settings = prepared(data, tmp_path / "run", existing)
    with pytest.raises(TrakError, match=r"recipe\.json: is missing; run `trak-steps check-recipe`"):
        plan_subsets.run(layout, settings)
    check_recipe.run(layout, settings)
    found = json.loads(layout.recipe.read_text())
    assert found["targets"] == "validation"
    assert found["apart"] < 1.25
    assert min(found["imported_accuracy"], found["retrained_accuracy"]) > 0.9
    plan_subsets.run(layout, settings)
    retrain.run(layout, settings, "subsets", 0)
    assert layout.retrained("subsets", "00000").exists()
    longer = settings.model_copy(update={"finetune": settings.finetune.model_copy(update={"epochs": 9})})
    with pytest.raises(TrakError, match=r"recipe\.json"):
        retrain.run(layout, longer, "subsets", 1)


def test_another_recipe_is_refused(data: Path, tmp_path: Path) -> None:
    layout, settings = prepared(data, tmp_path / "run", [str(data / "base")])
    with pytest.raises(TrakError) as error:
        check_recipe.run(layout, settings)
    said = str(error.value)
    for part in ("evaluation.retrain_imported: ", "finetune", "model.name_or_path", "validation, "):
        assert part in said, part
    assert not layout.recipe.exists()
    with pytest.raises(TrakError, match=r"recipe\.json: is missing"):
        plan_removal.run(layout, settings)


def test_a_recipe_is_of_imported_checkpoints_and_has_a_model() -> None:
    given = {"retrain_imported": True}
    with pytest.raises(TrakError, match=r"retrain_imported: is of imported checkpoints"):
        parse_settings({"evaluation": given})
    with pytest.raises(TrakError, match=r"retrain_imported: needs model\.name_or_path"):
        parse_settings({"evaluation": given, "checkpoints": {"existing": ["a"]}})
