"""Models that are retrained: the same recipe, the same answers, any kind of model and labels."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import attribute, small_settings
from families import VOCABULARY, classifier
from safetensors.torch import load_file
from transformers import BartConfig, BartForSequenceClassification
from versions.digest import depends_on

from trak_steps.config import Settings, parse_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.gradients.rows import Row
from trak_steps.model.forward import forward
from trak_steps.model.load import load_classifier
from trak_steps.run.layout import Layout, planned_models, shard_names
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.evaluation import (
    find_mislabelled,
    measure_lds,
    measure_removal,
    measure_stability,
    plan_removal,
    plan_subsets,
    retrain,
)
from trak_steps.steps.evaluation.retrain import Retrainer
from trak_steps.store.document import load_document
from trak_steps.store.table import load_table


def test_all_rows_and_a_checkpoints_seed_give_that_checkpoint(
    small_run: tuple[Layout, Settings],
) -> None:
    """What makes the truth of retrained models the truth about a run: one recipe, bit for bit."""
    layout, settings = small_run
    train = PreparedRows.load(layout.train)
    again = Retrainer(layout, settings, train).train(np.ones(len(train), bool), settings.seed)
    kept = load_file(layout.checkpoint("0") / "model.safetensors")
    trained = again.state_dict()
    assert set(kept) <= set(trained)
    for name, value in kept.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"accumulation": 2, "recompute": True}])
def test_a_retrained_model_answers_as_the_checkpoint_does(
    small_run: tuple[Layout, Settings], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """However it was trained, it answers in float32, as a checkpoint that is loaded."""
    settings = small_settings(finetune=changes)
    layout = Layout(tmp_path / "run")
    shutil.copytree(small_run[0].model, layout.model)
    shutil.copytree(small_run[0].train, layout.train)
    shutil.copytree(small_run[0].targets("validation"), layout.targets("validation"))
    finetune.run(layout, settings, 0)
    train = PreparedRows.load(layout.train)
    again = Retrainer(layout, settings, train).train(np.ones(len(train), bool), settings.seed)
    kept = load_classifier(
        layout.checkpoint("0"), outputs=2, device=torch.device("cpu"), trust_remote_code=False
    )
    found, expected = forward(again, ROWS).logits, forward(kept, ROWS).logits
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_decides_answers_is_known_by_its_code_and_no_more() -> None:
    """A change to the sketch, or to how answers are stored, needs no new version."""
    deciding = {*depends_on("retraining.train"), *depends_on("retraining.ask")}
    for module in ("model.load", "model.recipe", "model.forward", "gradients.model_output"):
        assert f"trak_steps.{module}" in deciding
    for part in ("projection", "store", "steps", "run", "evaluation"):
        assert not any(name.startswith(f"trak_steps.{part}") for name in deciding), part


ROWS = [Row(input_ids=list(range(3, 3 + length)), label=0) for length in (5, 9, 4, 7)]


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_hidden_states_do_not_depend_on_the_batch(family: str) -> None:
    model = classifier(family)
    together = forward(model, ROWS, hidden=True)
    for row, logits, hidden in zip(ROWS, together.logits, together.hidden, strict=True):
        ids = torch.tensor([row.input_ids])
        alone = model(input_ids=ids, output_hidden_states=True)
        torch.testing.assert_close(logits, alone.logits[0], atol=1e-5, rtol=1e-5)
        mean = alone.hidden_states[-1][0].mean(0)
        torch.testing.assert_close(hidden, mean, atol=1e-5, rtol=1e-5)


def test_an_encoder_with_a_decoder_tells_the_decoders_states() -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        num_labels=2,
    )
    model = BartForSequenceClassification(config).eval()
    # Its head reads the state of the token that ends a text.
    rows = [Row(input_ids=[*row.input_ids, 2], label=0) for row in ROWS]
    found = forward(model, rows, hidden=True)
    assert found.hidden is not None
    assert found.hidden.shape == (4, 16)
    ids = torch.tensor([rows[0].input_ids])
    alone = model(input_ids=ids, output_hidden_states=True).decoder_hidden_states[-1][0].mean(0)
    torch.testing.assert_close(found.hidden[0], alone, atol=1e-5, rtol=1e-5)


def _evaluated(layout: Layout, settings: Settings) -> None:
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    for name in settings.targets:
        prepare.run_targets(layout, settings, name)
    for run in range(settings.checkpoints.count):
        finetune.run(layout, settings, run)
    attribute(layout, settings)
    plan_subsets.run(layout, settings)
    plan_removal.run(layout, settings)
    for plan, models in planned_models(settings.evaluation).items():
        for shard in shard_names(models, settings.evaluation.models_per_job):
            retrain.run(layout, settings, plan, int(shard))
    for step in (measure_lds, measure_removal, find_mislabelled, measure_stability):
        step.run(layout, settings)


EVALUATION: dict[str, Any] = {
    "lds": {"subsets": 8, "repeats": 2},
    "removal": {"targets": 2, "rows": 3, "repeats": 2},
    "suspects": 4,
    "bootstrap": 100,
    "models_per_job": 30,
}


class Regression:
    """The predicted number, and how far the label is above it."""

    def output(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits[:, 0]

    def loss_weight(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return labels - logits[:, 0]


def test_a_regression_is_evaluated_by_what_has_no_classes(tmp_path: Path) -> None:
    """Two target sets, of another model output than a margin."""
    for name in ("train", "dev"):
        lines = [f"number {i} of {name} is here,{i % 7 / 7:.3f}" for i in range(24)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    files = {"train": str(tmp_path / "train.csv"), "validation": str(tmp_path / "dev.csv")}
    settings = parse_settings(
        {
            "run": "regression",
            "dataset": {
                "path": "csv",
                "data_files": files,
                "text": "text",
                "train_size": 24,
            },
            "targets": {
                "validation": {"split": "validation", "size": 4},
                "train": {"split": "train", "size": 3},
            },
            "model": {"max_length": 16},
            "checkpoints": {"count": 3, "keep": [0.5, 1.0]},
            "finetune": {"epochs": 1, "batch_size": 12},
            "features": {"dim": 8, "model_output": "test_retraining:Regression"},
            "scores": {"top": 3, "loss_weight_power": 1.0},
            "evaluation": EVALUATION,
            "execution": {"memory_mb": 256},
        }
    )
    layout = Layout(tmp_path / "results" / "regression")
    _evaluated(layout, settings)
    found, _ = load_document(layout.lds, "lds")
    assert set(found["targets"]) == {"validation", "train"}
    for of_set in found["targets"].values():
        assert of_set["class_adjusted"] is None
        assert of_set["accuracy"] is None
        assert np.isfinite(of_set["lds"]["value"])
        assert "same label" not in of_set["baselines"]
    assert load_table(layout.suspects, "suspects")[0].num_rows == 0
    removal, _ = load_document(layout.removal, "removal")
    assert removal["without"]["proponents"]["predictions_flipped"] is None
    stability, _ = load_document(layout.stability, "stability")
    assert stability["trainings"] == 3
    assert 0 <= stability["targets"]["train"]["signs_held"] <= 1


def test_fewer_repeats_take_what_is_known_and_other_subsets_do_not(
    small_run: tuple[Layout, Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of models that are not really trained, since it is their identities that count."""
    model = load_classifier(
        small_run[0].checkpoint("0"), outputs=2, device=torch.device("cpu"), trust_remote_code=False
    )
    monkeypatch.setattr(Retrainer, "train", lambda *_: model)
    layout = Layout(tmp_path / "small")
    shutil.copytree(small_run[0].root, layout.root)

    def trained(**changes: Any) -> list[str]:
        evaluation = {**EVALUATION, "lds": {"subsets": 8, **changes}}
        settings = small_settings(evaluation=evaluation)
        plan_subsets.run(layout, settings)
        shards = shard_names(planned_models(settings.evaluation)["subsets"], 30)
        for shard in shards:
            retrain.run(layout, settings, "subsets", int(shard))
        said = capsys.readouterr().err
        return [line for line in said.splitlines() if "models trained" in line]

    assert "24 models trained, 0 known before" in trained(repeats=3)[0]
    assert "0 models trained, 16 known before" in trained(repeats=2)[0]
    assert "16 models trained, 0 known before" in trained(repeats=2, share=0.25)[0]
