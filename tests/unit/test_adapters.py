"""PEFT adapters as checkpoints: what they trained is featurized, nothing else."""

import json
from pathlib import Path

import pytest
import torch
from conftest import attribute, small_settings
from explained import assert_explained_as_listed
from families import config
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from test_gradients import rows_of, run, slow
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.model.fetch import fetch_model
from trak_steps.model.files import SECOND_MOMENTS
from trak_steps.model.load import load_classifier
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.store.features import FeatureStore

CPU = torch.device("cpu")


@pytest.fixture
def adapter(tmp_path: Path, small_run: tuple[Layout, Settings]) -> Path:
    """A LoRA of a small BERT, saved as PEFT does: the classifier with it, the base by its path."""
    torch.manual_seed(0)
    made = config("bert", 2)
    made.vocab_size = 1500
    base = AutoModelForSequenceClassification.from_config(made)
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(small_run[0].model).save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"])
    adapted = get_peft_model(base, lora)
    for name, tensor in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            nn.init.normal_(tensor, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tmp_path / "base")
    return tmp_path / "adapter"


def fetch(adapter: Path, to: Path, setting: str = "checkpoints.existing") -> None:
    fetch_model(str(adapter), to, setting=setting, weights=True, trust_remote_code=False)


@pytest.mark.parametrize("kind", ["hooks", "functional"])
def test_the_gradient_is_over_the_adapter_and_the_new_head(
    adapter: Path, tmp_path: Path, kind: str
) -> None:
    fetch(adapter, tmp_path / "fetched")
    model = load_classifier(tmp_path / "fetched", outputs=2, device=CPU, trust_remote_code=False)
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert {part for name in trained for part in ("lora_A", "lora_B") if part in name}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    given = [row for row in rows_of([5, 9, 7]) if row.label < 2]
    gradients, _ = run(kind, model, given)
    sizes = [(name, tensor.numel()) for name, tensor in model.named_parameters()]
    taken = torch.cat([torch.full((size,), name in trained) for name, size in sizes])
    for i, row in enumerate(given):
        exact = slow(model, row)[0][taken]
        assert gradients.shape[1] == len(exact)
        assert (gradients[i] - exact).abs().max() < 2e-5 * exact.abs().max()


def test_an_adapter_goes_from_its_folder_to_scores(adapter: Path, tmp_path: Path) -> None:
    """Its base's second moments are not its own."""
    save_file({"other.rows": torch.ones(1)}, tmp_path / "base" / SECOND_MOMENTS)
    settings = small_settings(
        dataset={"train_size": 20}, checkpoints={"existing": [str(adapter)], "keep": [1.0]}
    )
    layout = Layout(tmp_path / "run")
    base_model.run(layout, settings, settings.checkpoints.existing[0])
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    import_checkpoint.run(layout, settings, "0", settings.checkpoints.existing[0])
    attribute(layout, settings)
    store = FeatureStore.open(layout.train_shard("0", "00000"))
    assert store.features(0, 20).any()
    assert_explained_as_listed(layout, settings)


def test_a_head_that_only_the_adapter_has(tmp_path: Path) -> None:
    """A base without head, of another number of classes, as pretrained models are."""
    torch.manual_seed(0)
    made = config("roberta", 3)
    whole = AutoModelForSequenceClassification.from_config(made)
    whole.base_model.save_pretrained(tmp_path / "base")
    described = json.loads((tmp_path / "base" / "config.json").read_text())
    for key in ("id2label", "label2id", "num_labels"):
        described.pop(key, None)
    (tmp_path / "base" / "config.json").write_text(json.dumps(described))
    whole.name_or_path = str(tmp_path / "base")
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"])
    adapted = get_peft_model(whole, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    fetch(tmp_path / "adapter", tmp_path / "fetched")
    model = load_classifier(tmp_path / "fetched", outputs=3, device=CPU, trust_remote_code=False)
    ids = torch.tensor([[2, 7, 9, 11]])
    assert torch.allclose(model(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-6)


def test_an_adapter_that_cannot_be_used_says_why(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(TrakError, match=r"is an adapter, .*checkpoints\.existing"):
        fetch(adapter, tmp_path / "a", setting="model.name_or_path")
    described = adapter / "adapter_config.json"
    values = json.loads(described.read_text())
    described.write_text(json.dumps({**values, "base_model_name_or_path": None}))
    with pytest.raises(TrakError, match="of which model"):
        fetch(adapter, tmp_path / "b")
    described.write_text(json.dumps({**values, "base_model_name_or_path": str(adapter)}))
    with pytest.raises(TrakError, match="which is an adapter itself"):
        fetch(adapter, tmp_path / "d")
    described.write_text(json.dumps({**values, "base_model_name_or_path": "/gone/base"}))
    with pytest.raises(TrakError, match=r"adapter of /gone/base: .*no folder /gone/base"):
        fetch(adapter, tmp_path / "e")
    described.write_text(json.dumps(values))
    fetch(adapter, tmp_path / "c")
    (tmp_path / "c" / "adapter" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(TrakError, match="adapter: cannot be loaded"):
        load_classifier(tmp_path / "c", outputs=2, device=CPU, trust_remote_code=False)
