"""Trainings elsewhere: what `transformers.Trainer` leaves in a folder is a training's checkpoints."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import attribute, small_settings
from scipy.linalg import cho_solve
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from trak_steps.config import Settings, parse_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model.load import load_classifier, load_tokenizer
from trak_steps.model.moments import moments_of
from trak_steps.model.optimizer_file import moments_in
from trak_steps.model.trainer_folder import checkpoints_of
from trak_steps.projection.metric import SecondMoments
from trak_steps.run.layout import Layout, checkpoint_names, final_checkpoints, imported
from trak_steps.run.parts import open_kernel, open_target_features, open_train_features
from trak_steps.steps.checkpoints import import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.evaluation import measure_stability
from trak_steps.store.folder import check_folder
from trak_steps.store.scores import ScoreStore
from trak_steps.workflow.inputs import base_files, imported_files

CPU = torch.device("cpu")
TRAINED = ("first", "second")


class _Moments(TrainerCallback):
    """What the optimizer itself says its second moments are, at each save."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, SecondMoments]] = {}

    def on_save(self, *given: Any, **kwargs: Any) -> None:
        self.at[given[1].global_step], _ = moments_of(kwargs["optimizer"], kwargs["model"])


@pytest.fixture(scope="module")
def trained(
    small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, dict[str, SecondMoments]]]:
    """Two trainings by a Trainer, of 3 and 2 checkpoints; and the optimizer's moments in the first."""
    layout, _ = small_run
    folder = tmp_path_factory.mktemp("trainer")
    rows = PreparedRows.load(layout.train)
    labels = rows.column("label")
    examples = [
        {**tokens, "labels": int(label)}
        for tokens, label in zip(rows.tokens(0, len(rows)), labels, strict=True)
    ]
    tokenizer = load_tokenizer(layout.model, max_length=48, trust_remote_code=False)
    seen = [_Moments(), _Moments()]
    for seed, (name, steps) in enumerate(zip(TRAINED, (2, 4), strict=True)):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(layout.checkpoint("0"))
        Trainer(
            model,
            TrainingArguments(
                str(folder / name),
                max_steps=6,
                per_device_train_batch_size=8,
                learning_rate=1e-3,
                save_steps=steps,
                logging_steps=1,
                seed=seed,
                use_cpu=True,
                report_to=[],
            ),
            train_dataset=examples,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[seen[seed]],
        ).train()
    return folder, seen[0].at


@pytest.fixture
def folders(
    trained: tuple[Path, dict[int, dict[str, SecondMoments]]], tmp_path: Path
) -> tuple[Path, Path]:
    """Copies of the trainings' folders, to damage."""
    first, second = (
        Path(shutil.copytree(trained[0] / name, tmp_path / "trained" / name)) for name in TRAINED
    )
    return first, second


def prepared(tmp_path: Path, existing: list[Any], **sections: Any) -> tuple[Layout, Settings]:
    """A run whose rows are prepared, and whose checkpoints are to be imported."""
    settings = small_settings(checkpoints={"existing": existing}, **sections)
    layout = Layout(tmp_path / "run")
    base_model.run(layout, settings, next(iter(imported(settings.checkpoints).values())))
    prepare.run_train(layout, settings)
    return layout, settings


def test_a_folder_is_a_training_and_its_checkpoints(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Two trainings of unequal numbers of checkpoints are two: the mean over each, then over both."""
    existing = [{"run": str(folder)} for folder in folders]
    layout, settings = prepared(tmp_path, existing, scores={"balance": False, "loss_weight_power": 0.0})
    names = ["0-0.333333", "0-0.666667", "0", "1-0.666667", "1"]
    assert checkpoint_names(settings.checkpoints) == names
    assert final_checkpoints(settings.checkpoints) == ["0", "1"]
    prepare.run_targets(layout, settings, "validation")
    for name, source in imported(settings.checkpoints).items():
        import_checkpoint.run(layout, settings, name, source)
    assert not list(layout.root.rglob("*.pt"))  # pickles stay where they are
    attribute(layout, settings)
    measure_stability.run(layout, settings)
    assert json.loads(layout.stability.read_text())["trainings"] == 2
    train = PreparedRows.load(layout.train)
    targets = PreparedRows.load(layout.targets("validation"))
    own = []
    for name in names:
        of_train = open_train_features(layout, settings, name, train)
        of_targets = open_target_features(layout, name, "validation", targets, of_train).whole()
        factor = (open_kernel(layout, settings, name, of_train).cholesky, True)
        solved = cho_solve(factor, of_targets.T.astype(np.float64))
        own.append(of_train.features(0, len(train)).astype(np.float64) @ solved)
    first, second = np.mean(own[:3], 0), np.mean(own[3:], 0)
    store = ScoreStore.open(layout.scores("validation"))
    scale = float(store.manifest.details["scale"])
    found, std = store.scores(0, len(train)) / scale, store.std(0, len(train)) / scale
    size = np.abs(found).max()
    np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-4, atol=1e-4 * size)
    np.testing.assert_allclose(std, np.abs(first - second) / 2**0.5, rtol=1e-4, atol=1e-4 * size)


def test_jobs_are_told_what_was_found(folders: tuple[Path, Path]) -> None:
    """A folder in which a training goes on says something else to every job that looks."""
    given = parse_settings({"checkpoints": {"existing": [{"run": str(folders[0])}, "b"]}})
    told = given.model_dump(mode="json")["checkpoints"]
    shutil.rmtree(folders[0])
    assert parse_settings({"checkpoints": told}, partial=True).checkpoints == given.checkpoints
    with pytest.raises(TrakError, match="there is no folder"):
        parse_settings({"checkpoints": told})


def test_some_checkpoints_may_be_named_and_fractions_given(folders: tuple[Path, Path]) -> None:
    first, _ = folders
    assert checkpoints_of(first) == {
        "checkpoint-2": 0.333333,
        "checkpoint-4": 0.666667,
        "checkpoint-6": 1.0,
    }
    assert checkpoints_of(first, ["checkpoint-6", "checkpoint-2"]) == {
        "checkpoint-2": 0.333333,
        "checkpoint-6": 1.0,
    }
    by_hand = {"checkpoint-6": 0.5, "checkpoint-2": 0.1}
    settings = parse_settings(
        {"checkpoints": {"existing": [{"run": str(first), "checkpoints": by_hand}]}}
    )
    assert imported(settings.checkpoints) == {
        "0-0.1": str(first / "checkpoint-2"),
        "0-0.5": str(first / "checkpoint-6"),
    }


def test_second_moments_are_the_optimizers_own(
    trained: tuple[Path, dict[int, dict[str, SecondMoments]]],
    folders: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    first, _ = folders
    for step, expected in trained[1].items():
        folder = first / f"checkpoint-{step}"
        model = load_classifier(folder, outputs=2, device=CPU, trust_remote_code=False)
        found, epsilon = moments_in(folder / "optimizer.pt", model)
        assert epsilon == 1e-8
        assert found.keys() == expected.keys()
        for name, of in expected.items():
            assert torch.equal(found[name].rows, of.rows), name
            assert (found[name].columns is None) == (of.columns is None)
            assert of.columns is None or torch.equal(found[name].columns, of.columns), name
    layout, settings = prepared(tmp_path, [{"run": str(first)}])
    import_checkpoint.run(layout, settings, "0", str(first / "checkpoint-6"))
    about = (layout.checkpoint("0") / "second_moments.safetensors").read_bytes()[:400]
    assert b"the optimizer" in about


class _Evil:
    """What a pickle may do where it is read without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def _changed(change: Any) -> Any:
    """A damage that changes an optimizer's state."""

    def damage(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        change(content)
        torch.save(content, file)

    return damage


def _fill(value: float) -> Any:
    def fill(content: Any) -> None:
        for state in content["state"].values():
            state["exp_avg_sq"].fill_(value)

    return _changed(fill)


def _of_sgd(content: Any) -> None:
    for group in content["param_groups"]:
        del group["betas"], group["eps"]
    content["state"] = {place: {"momentum_buffer": torch.ones(2)} for place in content["state"]}


def _of_less(content: Any) -> None:
    content["param_groups"][1]["params"].pop()


def _of_another_shape(content: Any) -> None:
    content["state"][0]["exp_avg_sq"] = torch.ones(3, 3)


def _sparse(content: Any) -> None:
    content["state"][0]["exp_avg_sq"] = content["state"][0]["exp_avg_sq"].to_sparse()


def _evil(file: Path) -> None:
    file.write_bytes(pickle.dumps(_Evil(file.parent / "harm")))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (_evil, "cannot be read as tensors alone"),
        (lambda file: torch.save([1, 2], file), "is not the state of an optimizer"),
        (_changed(_of_sgd), "another optimizer than Adam"),
        (_changed(_of_less), "is of other parameters"),
        (_changed(_of_another_shape), "is of other parameters"),
        (_fill(float("nan")), "not finite"),
        (_fill(-1.0), "negative"),
        (_fill(0.0), "all second moments are zero"),
        (_changed(lambda of: of["state"][0].update(step="x")), "has no number"),
        (_changed(lambda of: of["state"][0].update(step=torch.tensor(-1.0))), "moved by -1 steps"),
        (_changed(lambda of: of["param_groups"][0].update(eps=float("nan"))), "an ε of nan"),
        (_changed(lambda of: of["param_groups"][0].update(params=[[1]])), "not the state"),
        (_changed(_sparse), "is of other parameters"),
    ],
    ids=[
        *("cut", "empty", "evil", "list", "sgd", "fewer", "shape", "nan", "negative", "zero"),
        *("step", "negative step", "eps", "params", "sparse"),
    ],
)
def test_an_optimizers_file_that_is_of_no_use_is_refused(
    folders: tuple[Path, Path],
    tmp_path: Path,
    damage: Any,
    said: str,
) -> None:
    """In one message, which names the file and says what to do; and then it is done without."""
    first, _ = folders
    layout, settings = prepared(tmp_path, [{"run": str(first)}])
    source = first / "checkpoint-2"
    damage(source / "optimizer.pt")
    with pytest.raises(TrakError) as error:
        import_checkpoint.run(layout, settings, "0-0.333333", str(source))
    message = str(error.value)
    assert said in message
    assert "checkpoint-2/optimizer.pt: " in message
    assert "move it away" in message
    assert "\n" not in message
    assert not (source / "harm").exists()
    assert not layout.checkpoint("0-0.333333").exists()
    (source / "optimizer.pt").unlink()
    import_checkpoint.run(layout, settings, "0-0.333333", str(source))
    about = (layout.checkpoint("0-0.333333") / "second_moments.safetensors").read_bytes()[:400]
    assert b"gradients of train rows" in about


def _refused(*existing: Any) -> str:
    with pytest.raises(TrakError) as error:
        parse_settings({"checkpoints": {"existing": list(existing)}})
    return str(error.value)


def _edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **values}))


def test_folders_that_are_no_training_are_refused_when_the_settings_are_read(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = folders
    run = {"run": str(first)}
    state = first / "checkpoint-4" / "trainer_state.json"
    assert "there is no folder" in _refused({"run": str(tmp_path / "nowhere")})
    assert "has no checkpoint-* folders" in _refused({"run": str(tmp_path)})
    assert "there is no folder" in _refused({**run, "checkpoints": ["checkpoint-5"]})
    assert "the same training" in _refused(run, {"run": f"{first}/"})
    ends = [str(first / "checkpoint-4"), str(first / "checkpoint-6")]
    assert "several checkpoints of one training" in _refused(*ends)
    assert "several checkpoints of one training" in _refused(run, ends[0])
    assert "several checkpoints of one training" in _refused(str(first), run)
    assert "several checkpoints of one training" in _refused(str(first), ends[0])
    assert "there is no folder" in _refused({**run, "checkpoints": {"checkpoint-5": 0.5}})
    assert "should not be true" in _refused({**run, "checkpoints": {"checkpoint-4": True}})
    assert "fraction twice" in _refused({**run, "checkpoints": dict.fromkeys(("a", "b"), 0.5)})
    for long in ({"run": "a" * 5000}, {**run, "checkpoints": ["b" * 5000]}):
        assert "not a folder that can be read" in _refused(long)
    parse_settings({"checkpoints": {"existing": [ends[0], str(second / "checkpoint-6")]}})

    kept = state.read_text()
    _edit(state, global_step=9)
    assert "global_step is 9, max_steps 6; say yourself" in _refused(run)
    state.write_text("{")
    assert f"{state}: does not say global_step" in _refused(run)
    state.unlink()
    assert f"{state}: cannot be read" in _refused(run)
    state.write_text(kept)
    parse_settings({"checkpoints": {"existing": [run]}})

    shutil.rmtree(first / "checkpoint-4")
    shutil.copytree(second / "checkpoint-4", first / "checkpoint-4")
    said = _refused(run)
    assert "checkpoint-2 and checkpoint-4 are not of one training" in said
    _edit(first / "checkpoint-4" / "trainer_state.json", max_steps=9)
    assert "is of 6 steps in all, checkpoint-4 of 9" in _refused(run)
    shutil.rmtree(first / "checkpoint-4")
    parse_settings({"checkpoints": {"existing": [run]}})
    _edit(first / "checkpoint-2" / "config.json", hidden_size=99)
    assert "are different models: their configurations differ in hidden_size" in _refused(run)


def test_a_checkpoint_more_leaves_the_others_as_they_are(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Neither the place in a training, nor what was logged, is copied into a run."""
    first, _ = folders
    contents = []
    for place in ("before", "after"):
        layout, _ = prepared(tmp_path / place, [{"run": str(first), "checkpoints": ["checkpoint-4"]}])
        import_checkpoint.run(layout, small_settings(), "0-0.666667", str(first / "checkpoint-4"))
        made = layout.model, layout.checkpoint("0-0.666667")
        contents.append([check_folder(of, None).content for of in made])
        _edit(first / "checkpoint-4" / "trainer_state.json", best_metric=1.0)
    assert contents[0] == contents[1]


def test_the_tokenizer_is_that_of_the_base_where_checkpoints_have_none(
    small_run: tuple[Layout, Settings], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = folders
    beside = [file for file in first.rglob("*") if "tokenizer" in file.name or file.name == "vocab.txt"]
    assert beside
    kept = tmp_path / "kept"
    kept.mkdir()
    for file in beside:
        shutil.move(file, kept / file.name)
    existing = [{"run": str(first)}]
    with pytest.raises(TrakError, match=r"checkpoint-2 has no tokenizer; set model\.name_or_path"):
        prepared(tmp_path, existing)
    base = str(small_run[0].model)
    layout, settings = prepared(tmp_path / "base", existing, model={"name_or_path": base})
    import_checkpoint.run(layout, settings, "0", str(first / "checkpoint-6"))
    for file in kept.iterdir():
        shutil.copy(file, first / file.name)
    beside_it, _ = prepared(tmp_path / "beside", existing)
    contents = [PreparedRows.open(of.train).content for of in (layout, beside_it, small_run[0])]
    assert len(set(contents)) == 1


def test_a_training_named_as_if_it_were_a_classifier_is_pointed_out(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(TrakError, match=r"has no config\.json, .*write \{run: .*first\}"):
        prepared(tmp_path, [str(folders[0])])


@pytest.mark.parametrize("named", ["~nobody-of-that-name/a", "a" * 5000, "org/model"])
def test_a_name_of_no_folder_has_no_files(named: str) -> None:
    settings = parse_settings({"checkpoints": {"existing": [named]}})
    assert base_files(settings) == imported_files(named) == []
