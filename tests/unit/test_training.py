"""Training that is interrupted ends where it would have ended."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_settings
from safetensors.torch import load_file
from transformers import TrainerCallback

from trak_steps.config import Settings, arguments
from trak_steps.config.settings import FinetuneSettings
from trak_steps.errors import TrakError
from trak_steps.model import training
from trak_steps.model.recipe import Recipe
from trak_steps.run.identity import recipe_settings
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.features import featurize
from trak_steps.store.manifest import Manifest

FINETUNE = {"epochs": 2}  # 8 steps
EXECUTION = {"save_minutes": 2}  # with a step a minute: after every other one


@pytest.fixture(autouse=True, scope="module")
def a_step_a_minute() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "now", count(step=60).__next__)
        yield


class KilledError(Exception):
    """Stands for a kill -9: nothing after it runs."""


def killer(at: int, method: str) -> type[TrainerCallback]:
    """Marks saves like the real callback, until the training is killed at a step."""

    class Killer(training._MarkSaves):
        pass

    def kill(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == at:
            raise KilledError
        getattr(super(Killer, self), method)(args, state, control, **kwargs)

    setattr(Killer, method, kill)
    return Killer


@pytest.fixture
def fresh(small_run: tuple[Layout, Settings], tmp_path: Path) -> Callable[[str], Layout]:
    """A run that has its model and rows, and no checkpoint yet."""

    def make(name: str) -> Layout:
        layout, _ = small_run
        copy = Layout(tmp_path / name)
        shutil.copytree(layout.model, copy.model)
        shutil.copytree(layout.train, copy.train)
        return copy

    return make


def weights(layout: Layout, checkpoint: str) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(layout.checkpoint(checkpoint) / "model.safetensors")
    return loaded


def interrupted(
    layout: Layout, settings: Settings, callback: type[TrainerCallback], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "_MarkSaves", callback)
        with pytest.raises(KilledError):
            finetune.run(layout, settings, 0)


@pytest.mark.parametrize(
    ("step", "method"), [(1, "on_step_end"), (5, "on_step_begin"), (4, "on_save"), (8, "on_step_end")]
)
def test_the_end_is_the_same_bit_for_bit(
    fresh: Callable[[str], Layout], monkeypatch: pytest.MonkeyPatch, step: int, method: str
) -> None:
    """Killed before the first save, between saves, before a save is marked, after the last step."""
    settings = small_settings(finetune=FINETUNE, execution=EXECUTION)
    whole, broken = fresh("whole"), fresh("broken")
    finetune.run(whole, settings, 0)
    interrupted(broken, settings, killer(step, method), monkeypatch)
    assert not broken.checkpoint("0").exists()
    finetune.run(broken, settings, 0)
    for checkpoint in checkpoint_names(settings.checkpoints):
        expected, found = weights(whole, checkpoint), weights(broken, checkpoint)
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not (broken.training("0") / "trainer").exists()


def test_it_goes_on_from_the_last_whole_save(
    fresh: Callable[[str], Layout], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small_settings(finetune=FINETUNE, execution=EXECUTION)
    layout = fresh("run")
    interrupted(layout, settings, killer(4, "on_save"), monkeypatch)  # the save at 4 is not marked
    finetune.run(layout, settings, 0)
    assert "resuming at checkpoint-2" in capsys.readouterr().err


def test_another_recipe_does_not_go_on_from_it(
    fresh: Callable[[str], Layout], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, other = fresh("run"), fresh("other")
    interrupted(
        layout,
        small_settings(finetune=FINETUNE, execution=EXECUTION),
        killer(5, "on_step_begin"),
        monkeypatch,
    )
    settings = small_settings(finetune={**FINETUNE, "learning_rate": 1e-3}, execution=EXECUTION)
    finetune.run(layout, settings, 0)
    assert "resuming" not in capsys.readouterr().err
    finetune.run(other, settings, 0)
    assert torch.equal(
        weights(layout, "0")["classifier.weight"], weights(other, "0")["classifier.weight"]
    )


def test_runs_and_states_differ(
    small_run: tuple[Layout, Settings], fresh: Callable[[str], Layout]
) -> None:
    layout, settings = small_run
    other = fresh("other")
    finetune.run(other, settings, 1)
    first, half, second = weights(layout, "0"), weights(layout, "0-0.5"), weights(other, "1")
    assert not torch.equal(first["classifier.weight"], half["classifier.weight"])
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])
    manifest = json.loads((layout.checkpoint("0-0.5") / "manifest.json").read_text())
    assert (manifest["details"]["fraction"], manifest["settings"]["seed"]) == (0.5, 0)


def test_a_training_that_diverges_names_the_setting(fresh: Callable[[str], Layout]) -> None:
    layout = fresh("run")
    settings = small_settings(finetune={"learning_rate": 1e15})
    with pytest.raises(TrakError, match=r"try a lower finetune\.learning_rate"):
        finetune.run(layout, settings, 0)
    assert not layout.checkpoint("0").exists()


def test_names_of_checkpoints_do_not_depend_on_their_number() -> None:
    few = small_settings(checkpoints={"count": 1, "keep": [0.25, 1.0]})
    many = small_settings(checkpoints={"count": 3, "keep": [0.25, 1.0]})
    assert checkpoint_names(few.checkpoints) == ["0-0.25", "0"]
    assert set(checkpoint_names(few.checkpoints)) < set(checkpoint_names(many.checkpoints))


def test_checkpoints_on_the_same_step_are_refused_before_anything_is_trained(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """Where the settings do not say how many rows there are: 60 in batches of 16 are 4 steps."""
    layout = Layout(tmp_path / "run")
    shutil.copytree(small_run[0].root / "model", layout.model)
    shutil.copytree(small_run[0].train, layout.train)
    settings = small_settings(checkpoints={"keep": [0.5, 0.6, 1.0]}, dataset={"train_size": None})
    with pytest.raises(TrakError, match=r"checkpoints\.keep: 0\.5 and 0\.6 .* step 2 .* 4"):
        finetune.run(layout, settings, 0)
    assert not layout.training("0").exists()


ALIKE = {"epochs": 1, "dropout": 0.0}  # 60 rows: the last step has 12


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({"accumulation": 4}, 1e-4), ({"recompute": True}, 1e-6), ({"precision": "bfloat16"}, 0.02)],
)
def test_what_saves_memory_trains_the_same_model(
    fresh: Callable[[str], Layout], changes: dict[str, Any], tolerance: float
) -> None:
    """But for rounding; weights are float32 all the same."""
    plain, other = fresh("plain"), fresh("other")
    finetune.run(plain, small_settings(finetune=ALIKE), 0)
    finetune.run(other, small_settings(finetune={**ALIKE, **changes}), 0)
    expected, found = weights(plain, "0"), weights(other, "0")
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * scale)
    if "precision" in changes:
        assert any(not torch.equal(found[name], value) for name, value in expected.items())


def test_parts_of_a_step_are_resumed_as_whole_ones(
    fresh: Callable[[str], Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(finetune={**FINETUNE, "accumulation": 4}, execution=EXECUTION)
    whole, broken = fresh("whole"), fresh("broken")
    finetune.run(whole, settings, 0)
    interrupted(broken, settings, killer(5, "on_step_begin"), monkeypatch)
    finetune.run(broken, settings, 0)
    expected, found = weights(whole, "0"), weights(broken, "0")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_model_without_gradient_checkpointing_is_refused(
    fresh: Callable[[str], Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.BertPreTrainedModel.supports_gradient_checkpointing", False)
    with pytest.raises(TrakError, match=r"finetune\.recompute: Bert\w+ has no"):
        finetune.run(fresh("run"), small_settings(finetune={"recompute": True}), 0)


def test_parts_of_a_step_have_as_many_rows() -> None:
    with pytest.raises(TrakError, match=r"accumulation: 3 .*batch_size: 16"):
        small_settings(finetune={"accumulation": 3, "batch_size": 16})


def test_recipes_of_before_are_as_they_were(
    small_run: tuple[Layout, Settings], fresh: Callable[[str], Layout]
) -> None:
    """What came later is named nowhere where it is not used, and missed nowhere; else it tells."""
    layout, settings = small_run
    recipe = Recipe(**settings.finetune.model_dump(), seed=0)
    assert recipe.identity.keys().isdisjoint({"precision", "accumulation", "recompute"})
    assert replace(recipe, accumulation=2).identity == {**recipe.identity, "accumulation": 2}
    assert "precision" not in arguments(settings, ["finetune"])
    other = small_settings(finetune={"precision": "bfloat16"})
    assert '"precision": "bfloat16"' in arguments(other, ["finetune"])
    with pytest.raises(TrakError, match="another precision"):
        featurize.run_targets(layout, other, "0", "validation")
    checkpoint = fresh("other")
    finetune.run(checkpoint, other, 0)
    manifest = Manifest.load(checkpoint.checkpoint("0"), "checkpoint")
    with pytest.raises(TrakError, match="another precision"):
        manifest.require(checkpoint.checkpoint("0"), settings=recipe_settings(settings, 0))
    old = {k: v for k, v in manifest.settings.items() if k not in FinetuneSettings.ADDED}
    replace(manifest, settings=old).require(layout.root, settings=recipe_settings(settings, 0))
