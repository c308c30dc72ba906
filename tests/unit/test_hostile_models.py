"""Models' folders that are wrong on purpose: one clear message; nothing unpickled, nothing run."""

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import classifier
from hostile import CPU, Creates, message
from safetensors.torch import load_file, save_file

from trak_steps.model.demo import make_demo_model
from trak_steps.model.fetch import fetch_model
from trak_steps.model.load import load_classifier, load_config, load_for_training, load_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-class BERT with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    make_demo_model(["who what where it is in town"], folder)
    classifier("bert", 2).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def fetch(folder: Path, *, trust: bool = False) -> Path:
    copy = folder.with_name("copy")
    fetch_model(str(folder), copy, setting="model.name_or_path", weights=True, trust_remote_code=trust)
    return copy


def loads(folder: Path) -> list[Callable[[], object]]:
    """All ways in which a folder is loaded."""
    return [
        lambda: load_config(folder, trust_remote_code=False),
        lambda: load_tokenizer(folder, max_length=16, trust_remote_code=False),
        lambda: load_classifier(folder, outputs=2, device=CPU, trust_remote_code=False),
        lambda: load_for_training(folder, outputs=2, label_names=["a", "b"], trust_remote_code=False),
    ]


def change(folder: Path, name: str = "config.json", **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_whole_folder_is_fetched_and_loaded(folder: Path) -> None:
    for load in loads(fetch(folder)):
        load()


def test_pickles_beside_the_weights_are_neither_copied_nor_loaded(folder: Path, mark: Path) -> None:
    hostile = pickle.dumps(Creates(mark))
    for name in (
        "pytorch_model.bin",
        "training_args.bin",
        "model.pkl",
        "optimizer.pt",
        "a.ckpt",
        "a.h5",
    ):
        (folder / name).write_bytes(hostile)
    copy = fetch(folder)
    assert {file.suffix for file in copy.iterdir()} == {".json", ".safetensors"}
    for load in [*loads(copy), *loads(folder)]:
        load()
    pickle.loads(hostile)  # it would have run
    mark.unlink()


@pytest.mark.parametrize("zipped", [True, False])
def test_only_pickles_are_refused_by_every_way_in(folder: Path, mark: Path, zipped: bool) -> None:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    if zipped:
        torch.save(Creates(mark), file)
    else:
        file.write_bytes(pickle.dumps(Creates(mark)))
    assert "pickled weights (pytorch_model.bin)" in message(lambda: fetch(folder))
    for load in loads(folder)[2:]:
        assert "model.safetensors" in message(load)


def test_an_index_that_names_a_pickle_or_leaves_the_folder_is_refused(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "weights.bin").write_bytes(pickle.dumps(Creates(mark)))
    index = folder / "model.safetensors.index.json"
    for part in ("weights.bin", "../model/part.safetensors", "/etc/passwd", 3, None):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"bert.pooler.dense.bias": part}}))
        for call in [lambda: fetch(folder), *loads(folder)[2:]]:
            assert "not a safetensors file" in message(call)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "absent.safetensors"}}))
    assert "absent.safetensors, which is missing" in message(lambda: fetch(folder))
    for text in ("{", "[]", "{}", '{"weight_map": []}', "[" * 100_000):
        index.write_text(text)
        assert "where the weights are" in message(lambda: fetch(folder))
    names = load_file(folder / "part.safetensors")
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")})
    )
    for load in loads(fetch(folder)):
        load()


def test_code_of_a_folder_is_not_run(
    folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast\n"
        "class C(BertConfig): pass\n"
        "class M(BertForSequenceClassification): pass\n"
        "class T(PreTrainedTokenizerFast): pass\n"
    )
    change(folder, auto_map={"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"})
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    copy = fetch(folder)
    assert not list(copy.glob("*.py"))
    for load in [*loads(folder), *loads(copy)]:  # the type is known: its own code is used
        load()
    change(folder, model_type="unheard-of", trust_remote_code=True)
    change(folder, "tokenizer_config.json", tokenizer_class="Unheard", trust_remote_code=True)
    for load in loads(folder):
        assert "model.trust_remote_code: true" in message(load)
    assert not mark.exists()
    load_config(folder, trust_remote_code=True)
    mark.unlink()  # it would have run


def test_code_from_the_hub_is_not_asked_for(folder: Path) -> None:
    for key in ("_attn_implementation", "attn_implementation"):
        change(folder, **{key: "somebody/kernel"})
        for load in loads(folder):
            assert "code from the hub" in message(load)


def damaged(write: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: write(folder / "model.safetensors")


def changed_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        weights = load_file(file)
        change(weights)
        save_file(weights, file, {"format": "pt"})

    return damaged(write)


DENSE = "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged(lambda file: file.write_bytes(b"")), "its weights are damaged"),
        (damaged(lambda file: os.truncate(file, file.stat().st_size - 10)), "its weights are damaged"),
        (damaged(lambda file: file.write_bytes(struct.pack("<Q", 2**63) + b"{}")), "header too large"),
        (damaged(lambda file: file.write_bytes(struct.pack("<Q", 9 * 10**7) + b"{}")), "header length"),
        (
            damaged(lambda file: file.write_bytes(struct.pack("<Q", 4) + b'{"a"')),
            "its weights are damaged",
        ),
        (changed_weights(lambda w: w.update({DENSE: w[DENSE].long()})), "is of type I64, not floats"),
        (
            changed_weights(lambda w: w.update({DENSE: torch.zeros(3, 3)})),
            "has the shape [3, 3], its config",
        ),
        (changed_weights(lambda w: w[DENSE].fill_(torch.inf)), "is not finite"),
        (changed_weights(lambda w: w.update({DENSE: w[DENSE].double() * 1e300})), "is not finite"),
        (changed_weights(lambda w: w.pop(DENSE)), f"has no weights for {DENSE}"),
    ],
    ids=[
        "empty",
        "cut",
        "huge",
        "long",
        "no-json",
        "integers",
        "shape",
        "infinite",
        "overflow",
        "missing",
    ],
)
def test_damaged_weights_are_named(folder: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(folder)
    for load in loads(fetch(folder))[2:]:
        assert said in message(load)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "should hold a JSON object"),
        ("null", "should hold a JSON object"),
        ("{}", "of what type"),
        ('{"model_type": ["bert"]}', "of what type"),
        ('{"model_type": "../../x"}', "model type `../../x`"),
        ('{"model_type": "bert", "hidden_size": "16"}', "expected int, got str"),
        ('{"model_type": "bert", "id2label": ["a"]}', "config.json"),
    ],
)
def test_a_configuration_that_is_none_is_named(folder: Path, text: str, said: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    copy = fetch(folder)
    for load in loads(copy):
        found = message(load)
        assert str(copy) in found
        if "config.json" not in said:
            assert said in found


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "\xff", '"x"', '{"model_max_length": [], "added_tokens": 3}']
)
def test_a_damaged_tokenizer_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    assert "tokenizer cannot be loaded" in message(loads(fetch(folder))[1])


def test_a_folder_without_a_tokenizer_does_not_get_an_empty_one(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in message(loads(fetch(folder))[1])


def test_links_are_followed_to_files_only(folder: Path, tmp_path: Path) -> None:
    """A hub's cache is made of links; one that leads nowhere, or to a device, is no model's file."""
    blob = tmp_path / "blob"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    (folder / "folder.json").mkdir()
    copy = fetch(folder)
    assert (copy / "model.safetensors").is_file()
    assert not (copy / "model.safetensors").is_symlink()
    extra = folder / "extra.json"
    for target in (tmp_path / "nowhere", Path("/dev/zero"), extra):
        extra.symlink_to(target)
        assert "extra.json: is not a file" in message(lambda: fetch(folder))
        extra.unlink()
    os.mkfifo(extra)
    assert "extra.json: is not a file" in message(lambda: fetch(folder))


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "./" + "x" * 300])
def test_a_name_that_is_no_path_is_named(tmp_path: Path, name: str) -> None:
    assert message(
        lambda: fetch_model(
            name, tmp_path / "copy", setting="model.name_or_path", weights=True, trust_remote_code=False
        )
    ).startswith("model.name_or_path: ")
    assert not (tmp_path / "copy").exists()


def test_an_adapter_that_makes_code_run_is_refused(folder: Path, mark: Path, tmp_path: Path) -> None:
    (folder / "adapter").mkdir()
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    values = {"peft_type": "LORA", "megatron_config": {"x": 1}, "megatron_core": "evil"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(values))
    assert "sets megatron_config" in message(loads(folder)[2])


def test_an_adapter_that_is_damaged_is_not_taken_for_its_base(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = tmp_path / "adapter"
    kind = LoraConfig(
        task_type="SEQ_CLS", target_modules=["query"], r=2, base_model_name_or_path=str(folder)
    )
    model = load_classifier(folder, outputs=2, device=CPU, trust_remote_code=False)
    get_peft_model(model, kind).save_pretrained(adapter)
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if "lora_A" in name)
    copy = tmp_path / "copy"

    def load() -> object:
        fetch_model(
            str(adapter), copy, setting="checkpoints.existing", weights=True, trust_remote_code=False
        )
        return load_classifier(copy, outputs=2, device=CPU, trust_remote_code=False)

    load()
    for damaged, said in (
        ({key: weight for key, weight in whole.items() if key != name}, "missing adapter keys"),
        ({**whole, name: whole[name].long()}, "is of type I64, not floats"),
        ({**whole, name: whole[name] * torch.nan}, "is not finite"),
    ):
        save_file(damaged, file, {"format": "pt"})
        assert said in message(load)
    file.write_bytes(b"")
    assert "its weights are damaged" in message(load)
