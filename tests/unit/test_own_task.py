"""A custom model output, exactly as `docs/custom_output.md` shows it, on regression data."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import attribute
from explained import assert_explained_as_listed
from typer.testing import CliRunner

from trak_steps import Run
from trak_steps.cli import app
from trak_steps.config import parse_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model.load import load_classifier
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.store.features import FeatureStore

DOCS = Path(__file__).parents[2] / "docs" / "custom_output.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return found[1]


def similarity_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Pairs of texts, and the share of words that they have in common, as in STS-B."""
    draw = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(20)]
    rows = []
    for _ in range(count):
        first, second = draw.choice(words, 5), draw.choice(words, 5)
        shared = len(set(first) & set(second))
        rows.append(
            {"sentence1": " ".join(first), "sentence2": " ".join(second), "label": float(shared)}
        )
    return rows


def settings_of(folder: Path, model_output: str) -> Any:
    for split, count in (("train", 24), ("validation", 4)):
        lines = [json.dumps(row) + "\n" for row in similarity_rows(count, seed=count)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    shown = yaml.safe_load(block("yaml"))
    return parse_settings(
        {
            "run": "own",
            "dataset": {
                "path": "json",
                "data_files": {s: str(folder / f"{s}.jsonl") for s in ("train", "validation")},
                "text": ["sentence1", "sentence2"],
                "train_size": 24,
            },
            "targets": {"validation": {"size": 4}},
            "model": {"max_length": 32},
            "checkpoints": {"count": 1, "keep": [1.0]},
            "finetune": {"epochs": 1},
            "features": {**shown["features"], "model_output": model_output, "dim": 8},
            "scores": {**shown["scores"], "top": 2},
        }
    )


def test_the_documented_regression_runs_and_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tasks.py").write_text(block("python"))
    settings = settings_of(tmp_path, yaml.safe_load(block("yaml"))["features"]["model_output"])
    layout = Layout(tmp_path / "results" / "own")
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    finetune.run(layout, settings, 0)
    attribute(layout, settings)

    train = PreparedRows.load(layout.train)
    store = FeatureStore.open(layout.train_shard("0", "00000"))
    model = load_classifier(
        layout.checkpoint("0"), outputs=1, device=torch.device("cpu"), trust_remote_code=False
    )
    for i, tokens in enumerate(train.tokens(0, len(train))):
        predicted = model(**{name: torch.tensor([ids]) for name, ids in tokens.items()}).logits.item()
        assert store.column("margin")[i] == pytest.approx(predicted, abs=1e-5)
        assert store.column("prediction")[i] == pytest.approx(predicted, abs=1e-5)
        residual = train.column("label")[i] - predicted
        assert store.column("loss_weight")[i] == pytest.approx(residual, abs=1e-5)
    assert_explained_as_listed(layout, settings)
    run = Run(layout.root)
    found = run.explain(("word1 word2", "word2 word3"))
    assert not found.asked
    assert found.label == found.prediction == pytest.approx(found.margin, abs=1e-5)
    assert found.prediction_name is None
    assert found.margins_of_classes == {}
    asked = run.explain(("word1 word2", "word2 word3"), 3)
    assert (asked.label, asked.prediction) == (3.0, found.prediction)
    shown = CliRunner().invoke(app, ["explain", str(layout.root), "word1 word2", "word2"])
    assert "predicted: " in shown.output
    assert "what speaks against" in shown.output
    summary = json.loads(layout.summary.read_text())
    assert "accuracy" not in summary
    assert summary["train_rows"] == 24


def test_numbers_without_a_task_of_ones_own_say_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(tmp_path, "text_classification")
    layout = Layout(tmp_path / "results" / "own")
    base_model.run(layout, settings)
    with pytest.raises(TrakError, match=r"features\.model_output .*`module:Class`"):
        prepare.run_train(layout, settings)
    # Rows that were prepared for a task, and settings that have lost it since.
    prepare.run_train(layout, settings_of(tmp_path, "my_task:Similarity"))
    finetune.run(layout, settings, 0)
    with pytest.raises(TrakError, match=r"features\.model_output: .*`module:Class`"):
        featurize.run_train(layout, settings, "0", 0)
    assert not layout.train_features("0").exists()


def test_a_model_output_that_is_not_finite_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad_task.py").write_text(
        "class DividesByZero:\n"
        "    def output(self, logits, labels):\n"
        "        return logits[:, 0] / (labels - 1.0)\n"
        "    def loss_weight(self, logits, labels):\n"
        "        return labels\n"
    )
    settings = settings_of(tmp_path, "bad_task:DividesByZero")
    layout = Layout(tmp_path / "results" / "own")
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    finetune.run(layout, settings, 0)
    train = PreparedRows.load(layout.train)
    with pytest.raises(TrakError, match="its margin is not finite") as error:
        featurize.run_train(layout, settings, "0", 0)
    named = int(re.findall(r"row (\d+)", str(error.value))[0])
    assert named in train.column("row")[train.column("label") == 1.0]
    assert not layout.train_shard("0", "00000").exists()
