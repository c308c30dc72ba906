"""Input that is wrong on purpose: a right answer or one clear message; nothing run or half-written."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import attribute, small_settings
from families import classifier
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from trak_steps import __main__
from trak_steps.cli import app
from trak_steps.config import Settings, load_settings, parse_settings
from trak_steps.config.settings import CheckpointSettings
from trak_steps.data.files import check_files
from trak_steps.data.labels import Labels, encode, in_the_order_of, labels_of
from trak_steps.data.prepared import PreparedRows
from trak_steps.data.select import row_ids
from trak_steps.data.source import load_split
from trak_steps.errors import TrakError
from trak_steps.gradients.model_output import TextClassification, check_model_output
from trak_steps.layout import Layout, checkpoint_names
from trak_steps.model.demo import make_demo_model
from trak_steps.model.fetch import fetch_model
from trak_steps.model.load import load_classifier, load_config, load_for_training, load_tokenizer
from trak_steps.printable import printable
from trak_steps.show import top_lines
from trak_steps.steps import base_model, finetune, prepare, prepare_targets
from trak_steps.store.manifest import Manifest
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import save_table

CPU = torch.device("cpu")
ESCAPES = "a\x1b[2J\x1b]0;title\x07\r\n\t\x00\x7f\x9b1m\u202eb\u200b"


class Creates:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self._path,))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that hostile input would create; it is not there at the end of the test."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "what was hostile has run"


def message(call: Callable[[], object]) -> str:
    """What the person is told."""
    with pytest.raises(TrakError) as error:
        call()
    return str(error.value)


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("features.dim=true", "features.dim: should not be true or false; given True"),
        ("seed=no", "seed: should not be true or false; given False"),
        ("kernel.ridge=yes", "kernel.ridge: should not be true or false"),
        ("checkpoints.keep=[0.5, true]", "checkpoints.keep: should not be true or false"),
        ("dataset.train_size=on", "dataset.train_size: should not be true or false"),
        ("run=2024-01-01", "run: should be a text; given datetime.date(2024, 1, 1)"),
        ("features.dim=2024-01-01", "features.dim: should be a valid integer"),
        ("dataset.path=!!binary aGVsbG8=", "dataset.path: should be a text or a number; given binary"),
        ("dataset.text=!!set {a, b}", "dataset.text: should not be a set"),
        ("features.shard_size=100000000000000000000", "features.shard_size: should be below"),
        ("features.dim=0x" + "f" * 9999, "given a number of too many digits"),
        ("features.dim=" + "9" * 9999, "4300 digits"),
        ("kernel.ridge=1e300", "kernel.ridge: should be below"),
        ("kernel.ridge=.inf", "kernel.ridge: should be a finite number"),
        ("finetune.learning_rate=.nan", "finetune.learning_rate: should be a finite number"),
        ("targets={1: {}}", "targets[1]: should be a text; given 1"),
        ("dataset={null: 2}", "dataset.None: should be a text, as the name of a setting"),
        ("dataset.data_files={train: 3}", "dataset.data_files.train: should be a list; given 3"),
        ("features.dim=&a [*a]", "once every alias (`*name`) is followed"),
        ("targets=&a {v: *a}", "once every alias (`*name`) is followed"),
        ("features.dim=" + "[" * 100_000, "nested too deep"),
        ("features={dim: 1, dim: 2}", "`dim` is named twice"),
        ("features.parameters.include=['(']", "'(' is not a regular expression"),
        ("execution.device='cuda\n'", "execution.device: should be `auto`"),
        ('dataset.path="a\\0b"', "dataset.path: should not hold the character NUL"),
        ("dataset.text=[a, a]", "text names the column 'a' twice"),
        ("dataset={text: gold, label: gold}", "text names 'gold', the label column"),
        ("..=3", "should read setting=value"),
        ("[key]=1", "[key]: there is no such setting"),
        ("dataset={'list[x]': 1}", "dataset.list[x]: there is no such setting"),
        ("features.\x1b[2Jdim=3", "features.\\x1b[2Jdim: there is no such setting"),
        ("x" * 100_000 + "=1", "x…: there is no such setting"),
        ('run="' + "x" * 100_000 + '"', "run: should have at most 100 characters"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_briefly(override: str, said: str) -> None:
    found = message(lambda: load_settings(None, [override]))
    assert said in found
    assert len(found) < 1000
    assert printable(found, keep="\n") == found


def test_numbers_that_yaml_reads_as_texts_are_numbers() -> None:
    settings = load_settings(None, ["finetune.learning_rate=1e-4", "features.dim='256'"])
    assert (settings.finetune.learning_rate, settings.features.dim) == (1e-4, 256)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a: \x07", "special characters are not allowed"),
        (b"seed: 1\nrun: x\nseed: 2\n", "`seed` is named twice"),
        (b"true", "holds true or false"),
        (b"- a\n- b\n", "holds a list"),
        (b"? [a, b]\n: 1\n", "unhashable key"),
        (b"a: !!int ''\n", "a value does not fit its tag"),
        (b"a: !!bool q\n", "a value does not fit its tag"),
        (b"a: !!timestamp q\n", "a value does not fit its tag"),
        (b"a:\n" + b"".join(b" " * i + b"a:\n" for i in range(1, 900)), "nested too deep"),
        (b"<<: &a {<<: *a}\n", "nested too deep"),
        (b"seed: " + b"1" * 500_000, "4300 digits"),
        (b"#" * (2**20 + 1), "is larger than 1048576 bytes"),
        (b"".join(b"k%d: 1\n" % i for i in range(20_000)), "… and 19980 more"),
    ],
)
def test_a_file_that_is_no_settings_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    found = message(lambda: load_settings(file))
    assert found.startswith(str(file))
    assert said in found
    assert len(found) < 5000


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in message(lambda: load_settings(tmp_path))
    assert "cannot be read (embedded null byte)" in message(lambda: load_settings(Path("a\0b")))
    assert "is larger than" in message(lambda: load_settings(Path("/dev/zero")))


def bomb(of: str, join: str) -> bytes:
    """Nine levels of ten aliases each: a page that stands for 10⁹ values."""
    lines = [f"a: &a {of}"]
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} " + join.format(", ".join([f"*{above}"] * 10)))
    return "\n".join([*lines, "features: *i", "seed: *i", ""]).encode()


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x, x, x, x, x, x, x, x, x]", "[{}]"),
        bomb("{k1: x, k2: x}", "{{<<: [{}]}}"),
        # Ten thousand sets of ten thousand wrong settings each.
        b"b: &b {%s}\ntargets: {%s}\n"
        % (
            b", ".join(b"k%d: 1" % i for i in range(10_000)),
            b", ".join(b"t%d: *b" % i for i in range(10_000)),
        ),
    ],
    ids=["lists", "merges", "targets"],
)
def test_an_alias_bomb_is_refused_before_it_goes_off(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_bytes(text)
    start = time.monotonic()
    found = message(lambda: load_settings(file))
    assert "alias" in found or "merges" in found
    assert len(found) < 1000
    assert time.monotonic() - start < 20


def test_a_bomb_that_another_reader_let_through_is_refused_too() -> None:
    values: Any = OrderedDict(x=1)
    for _ in range(30):
        values = OrderedDict(a=values, b=values)
    assert "alias" in message(lambda: parse_settings(OrderedDict(features=values)))
    endless: dict[str, Any] = {}
    endless["features"] = endless
    assert "alias" in message(lambda: parse_settings(endless))


def test_aliases_are_read_and_an_override_changes_one_place(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("targets:\n  one: &t {split: dev, size: 2}\n  two: *t\n  three: {<<: *t, size: 3}\n")
    targets = load_settings(file, ["targets.one.size=9"]).targets
    assert {name: chosen.size for name, chosen in targets.items()} == {"one": 9, "two": 2, "three": 3}
    assert {chosen.split for chosen in targets.values()} == {"dev"}


def test_yaml_builds_no_objects(tmp_path: Path, mark: Path) -> None:
    text = f"!!python/object/apply:os.mkdir ['{mark}']"
    file = tmp_path / "config.yaml"
    for content in (text, f"run: {text}", f"features: {{dim: {text}}}", "run: !!python/name:os.system"):
        file.write_text(content)
        assert "not valid YAML" in message(lambda: load_settings(file))
    assert "not valid YAML" in message(lambda: load_settings(None, [f"run={text}"]))
    yaml.unsafe_load(text)  # so much for the text: another reader would have done it
    mark.rmdir()


@pytest.mark.parametrize("given", [None, 3, "ab", [1], [("run", "x")]])
def test_what_is_no_mapping_is_no_settings(given: Any) -> None:
    assert "should be a mapping of settings" in message(lambda: parse_settings(given))


def test_what_the_workflow_hands_over_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = OrderedDict(run="x", features=OrderedDict(dim=8), dataset=OrderedDict(text=("a", "b")))
    settings = parse_settings(values)
    assert (settings.features.dim, settings.dataset.text) == (8, ["a", "b"])
    monkeypatch.setenv("TRAK_STEPS_EXECUTION", "{threads: [")
    done = CliRunner().invoke(app, ["summarize", "--set", "run=x"])
    assert isinstance(done.exception, TrakError)
    assert "execution={threads: [: the value is not valid YAML" in str(done.exception)


# --- paths --------------------------------------------------------------------------------------------

OUTSIDE = [
    "../x",
    "../../x",
    "/x",
    "..",
    ".",
    "",
    "x/../y",
    "a\n",
    "0\n",
    "a\0b",
    "a b",
    "-x",
    "a/b",
    "~",
    "é",
]


@pytest.mark.parametrize(
    "name", [*OUTSIDE, "00", "0-", "0-2", "0-0.50", "0-nan", "0-1e5", "-1", "x", "0-0.5-0.5", "٣"]
)
def test_a_checkpoint_that_is_no_name_of_one_is_refused(tmp_path: Path, name: str) -> None:
    where = ["--results", str(tmp_path / "results"), "--set", "run=r", "--checkpoint", name]
    for command in (["featurize", "--shard", "0"], ["featurize", "--targets", "t"], ["kernel"]):
        done = CliRunner().invoke(app, [*command, *where])
        assert isinstance(done.exception, TrakError)
        assert "there is no checkpoint" in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_target_set_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    where = ["--results", str(tmp_path / "results"), "--set", "run=r", "--targets", name]
    for command in (["featurize", "--checkpoint", "0"], ["prepare-targets"], ["score"], ["rank"]):
        done = CliRunner().invoke(app, [*command, *where])
        assert isinstance(done.exception, TrakError), done.output
        assert "there is no set" in str(done.exception)
    assert "targets" in message(lambda: parse_settings({"targets": {name: {}}}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_run_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    override = f"run={json.dumps(name)}"
    assert "run: should be" in message(lambda: load_settings(None, [override])).replace("have at", "be")
    done = CliRunner().invoke(app, ["model", "--results", str(tmp_path / "results"), "--set", override])
    assert isinstance(done.exception, TrakError)
    assert not list(tmp_path.iterdir())


def test_every_name_that_a_run_gives_its_checkpoints_is_taken(tmp_path: Path) -> None:
    given = CheckpointSettings(count=12, keep=[1e-300, 1e-5, 0.25, 1 / 3, 0.9999999, 1.0][:5])
    for name in [*checkpoint_names(given), *checkpoint_names(CheckpointSettings(count=12))]:
        done = CliRunner().invoke(
            app, ["kernel", "--results", str(tmp_path), "--set", "run=r", "--checkpoint", name]
        )
        assert "manifest.json: is missing" in str(done.exception)


# --- models -------------------------------------------------------------------------------------------


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
            assert "which is not a safetensors file beside it" in message(call)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "absent.safetensors"}}))
    assert "absent.safetensors, which is missing" in message(lambda: fetch(folder))
    for text in ("{", "[]", "{}", '{"weight_map": []}', "[" * 100_000):
        index.write_text(text)
        assert "does not say where the weights are" in message(lambda: fetch(folder))
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
            assert "asks for code from the hub" in message(load)


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
        ("{}", "does not say of what type the model is"),
        ('{"model_type": ["bert"]}', "does not say of what type the model is"),
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
        assert "extra.json: is not a file that can be copied" in message(lambda: fetch(folder))
        extra.unlink()
    os.mkfifo(extra)
    assert "extra.json: is not a file that can be copied" in message(lambda: fetch(folder))


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
    assert "sets megatron_config, which can make code run" in message(loads(folder)[2])


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


# --- data ---------------------------------------------------------------------------------------------

ROWS = [
    {"question": "who?", "sentence": "he did.", "label": 0},
    {"question": "what?", "sentence": "a stone.", "label": 1},
    {"question": "where?", "sentence": "in town.", "label": 1},
    {"question": "when?", "sentence": "in May.", "label": 0},
]


def lines(*changes: dict[str, Any]) -> bytes:
    """JSON lines of the four rows, some of them changed."""
    rows = [{**row, **changed} for row, changed in zip(ROWS, [*changes, *[{}] * 4], strict=False)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def settings_of(kind: str, train: Path, dev: Path | None = None, **dataset: Any) -> Settings:
    return parse_settings(
        {
            "run": "data",
            "dataset": {
                "path": kind,
                "data_files": {"train": str(train), "validation": str(dev or train)},
                "text": ["question", "sentence"],
                **dataset,
            },
            "targets": {"validation": {}},
            "model": {"max_length": 32},
        }
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A run whose model is made."""
    file = tmp_path / "good.json"
    file.write_bytes(lines())
    made = Layout(tmp_path / "run")
    base_model.run(made, settings_of("json", file))
    return made


def prepared(layout: Layout, kind: str, content: bytes, **dataset: Any) -> PreparedRows:
    file = layout.root.parent / f"train.{kind}"
    file.write_bytes(content)
    prepare.run_train(layout, settings_of(kind, file, **dataset))
    return PreparedRows.load(layout.train)


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
NOT_UTF8 = pa.StringArray.from_buffers(
    4, pa.py_buffer(np.arange(5, dtype=np.int32).tobytes()), pa.py_buffer(b"ab\xffd")
)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("json", lines({"question": "a\ud800b"}), "surrogate pair in string is invalid"),
        ("json", lines({}, {"question": "\u200b\u200d\ufeff"}), "`question` of row 1 is empty"),
        ("json", lines({}, {"question": "\x00\x1b\u2028 \xa0"}), "`question` of row 1 is empty"),
        ("json", lines({"question": ["a", "b"]}), "`question` of row 0 is of type list, not text"),
        ("json", lines({}, {"question": {"a": 1}}), "`question` of row 1 is of type dict, not text"),
        ("json", lines({}, {"question": 3}), "`question` of row 1 is of type int, not text"),
        ("json", lines({}, {"label": "one"}), "holds values of several kinds"),
        ("json", lines({}, {"label": True}), "holds values of several kinds"),
        ("json", lines({}, {"label": [1]}), "holds values of several kinds"),
        ("json", lines(*[{"label": None}] * 4), "holds no label"),
        ("json", lines({}, {}, {"label": None}), "row 2 has no"),
        ("json", lines(*[{"label": "x"}] * 4), "every row has the same label"),
        ("json", lines().replace(b"who", b"w\xffo"), "`question` of row 0 is not UTF-8 text"),
        ("json", lines()[:-20], "JSON parse error"),
        ("json", b'{"question": "a", "question": "b"}\n', "was specified twice in row 0"),
        ("json", b"1\n2\n", "JSON parse error"),
        ("json", b"\0" * 99, "JSON parse error"),
        ("json", lines().decode().encode("utf-16"), "JSON parse error"),
        ("json", b'{"label": NaN, "question": "a", "sentence": "b"}\n' * 2, "row 0 has no finite label"),
        ("csv", b"question,sentence,label\na\xff,b,0\nc,d,1\n", "UTF8"),
        ("csv", b"question,sentence,label\na, b,c,0\nd, e,f,1\n", "more fields than its header names"),
        ("csv", b'question,sentence,label\n"a,b,0\nc,d,1\n', "EOF inside string"),
        ("csv", b"question,sentence,label\na,b,0\nc,d,\ne,f,1\n", "row 1 has no finite label"),
        ("csv", b"question,sentence,label\na,b,0.5\nc,d,inf\n", "row 1 has no finite label"),
        ("csv", b"question,sentence,label\na,b," + b"9" * 30 + b"\nc,d,1\n", "cannot be loaded"),
        ("csv", b"question\tsentence\tlabel\na\tb\t0\n", "there is no column `label`"),
        ("csv", b"\xff\xfe\x00" * 99, "cannot be loaded"),
        ("parquet", parquet(COLUMNS)[:-20], "Parquet magic bytes not found"),
        ("parquet", parquet(COLUMNS)[:4] + b"\xff" * 40 + parquet(COLUMNS)[44:], "cannot be loaded"),
        ("parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", "cannot be loaded"),
        ("parquet", parquet({**COLUMNS, "sentence": NOT_UTF8}), "`sentence` of row 2 is not UTF-8 text"),
        ("parquet", parquet({**COLUMNS, "label": [b"a", b"b", b"a", b"b"]}), "holds binary"),
        ("parquet", parquet({**COLUMNS, "label": pa.array([1, 2, 1, 2], pa.date32())}), "holds date32"),
    ],
)
def test_data_that_cannot_be_used_is_named_and_leaves_nothing(
    layout: Layout, kind: str, content: bytes, said: str
) -> None:
    found = message(lambda: prepared(layout, kind, content))
    assert said in found
    assert len(found) < 1000
    assert not layout.train.exists()
    assert not [file for file in layout.root.rglob("*") if "tmp" in file.name]


def test_control_characters_in_texts_are_kept_and_do_no_harm(layout: Layout) -> None:
    strange = "who \x00\x1b[2J \x07 is\u202e \x85 it"
    rows = prepared(layout, "json", lines({"question": strange}, {"question": "who is it"}))
    assert rows.column("question")[0] == strange
    assert (
        prepared(layout, "csv", b"question,sentence,label\na\0bc,d,0\ne,f,1\n").column("question")[0]
        == "a\0bc"
    )


@pytest.mark.parametrize(
    "content",
    [b"null\n", b"null\n{}\n", lines() + b"null\n" * 3, b"\xef\xbb\xbf null", b"nullx", b"[null, {}]"],
)
def test_a_row_that_is_null_is_named_before_the_reader_falls_over_it(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    assert "is null" in message(lambda: check_files("json", {"train": str(file)}))


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": ' * 30_000 + b"1" + b"}" * 30_000,
        b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n",
        b'{"a":\n' + b"[\n" * 30_000 + b"]\n" * 30_000 + b"}\n",
        b"[" * 30_000 + b"]" * 30_000,
    ],
)
def test_json_nested_too_deep_is_named_before_the_reader_falls_over_it(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    assert "deep" in message(lambda: check_files("json", {"train": str(file)}))


def test_brackets_in_texts_are_not_nesting(layout: Layout) -> None:
    strange = [{"question": bracket * 5000 + '"\\'} for bracket in ("[", "{", "{[", "]")]
    assert prepared(layout, "json", lines(*strange)).column("question")[2] == strange[2]["question"]
    pretty = json.dumps(ROWS, indent=1).encode()
    assert len(prepared(layout, "json", pretty)) == 4


def test_a_data_file_that_is_a_pickle_is_not_read(tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "rows.pkl"
    file.write_bytes(pickle.dumps(Creates(mark)))
    assert "pickles" in message(lambda: load_split("pandas", None, {"train": str(file)}, "train", 0))
    for kind in ("csv", "json", "parquet"):
        message(lambda kind=kind: load_split(kind, None, {"train": str(file)}, "train", 0))


def test_ten_megabytes_of_text_take_time_in_proportion_and_give_the_same_tokens(layout: Layout) -> None:
    """One word without end, and words without end: cut to the length that the model reads."""
    seconds = {}
    for size in (1_000_000, 10_000_000):
        changes = [{"question": "x" * size}, {"question": "who is " * (size // 7)}]
        start = time.monotonic()
        rows = prepared(layout, "json", lines(*changes))
        seconds[size] = time.monotonic() - start
        for place, changed in enumerate(changes):
            assert rows.rows[place]["question"] == changed["question"]
        tokens = rows.tokens(0, 2)
        short = prepared(layout, "json", lines({"question": "x" * 200}, {"question": "who is " * 50}))
        assert tokens == short.tokens(0, 2)
    assert seconds[10_000_000] < 30 * seconds[1_000_000]


def test_row_ids_are_integers_of_64_bits() -> None:
    rows = datasets.Dataset.from_dict(
        {"big": pa.array([1, 2**64 - 1], pa.uint64()), "flag": [True, False]}
    )
    assert "more than 64 bits" in message(lambda: row_ids(rows, "big", "split"))
    assert "does not hold integers" in message(lambda: row_ids(rows, "flag", "split"))


def test_a_label_to_regress_on_is_a_finite_number() -> None:
    numbers = Labels(None, ())
    assert encode([1, 0.5, True], numbers, [0, 1, 2], "dev").tolist() == [1.0, 0.5, 1.0]
    for wrong in ("abc", "0.5", None, [1.0], {}, float("nan"), float("inf"), 10**400, b"1"):
        found = message(lambda wrong=wrong: encode([1.0, wrong], numbers, [7, 8], "dev"))
        assert found.startswith("dev: row 8 has no finite label")


def test_one_label_that_is_missing_does_not_turn_classes_into_numbers() -> None:
    """A reader gives integers with a gap as floats; the gap may lie in a row that is not chosen."""
    rows = datasets.Dataset.from_dict({"label": [0.0, 1.0, None, 1.0]})
    assert "row 2 has no finite label" in message(lambda: labels_of(rows, "label", "split"))


def test_a_label_of_another_kind_than_the_train_sets_is_named() -> None:
    classes = Labels((0, 1), ("0", "1"))
    for wrong in ([1], {"a": 1}, "one", "x" * 10**6, 2):
        found = message(lambda wrong=wrong: encode([0, wrong], classes, [5, 6], "dev"))
        assert found.startswith("dev: row 6 has the label")
        assert len(found) < 300


def test_classes_that_differ_in_case_alone_are_told_apart() -> None:
    labels = Labels(("a", "A"), ("a", "A"))
    assert in_the_order_of(labels, {0: "A", 1: "a"}, "c").classes == ("A", "a")
    assert in_the_order_of(Labels((0, 1), ("no", "yes")), {0: "YES", 1: "No"}, "c").classes == (1, 0)
    assert "name them alike" in message(lambda: in_the_order_of(labels, {0: "a", 1: "b"}, "c"))
    many = {i: f"class {i} " + "x" * 100 for i in range(10_000)}
    assert len(message(lambda: in_the_order_of(labels, many, "c"))) < 2000


def test_one_class_is_refused_however_it_is_declared() -> None:
    """A classifier of one class has one logit, and no margin."""
    for column in (["a", "a"], [3, 3], [True, True]):
        rows = datasets.Dataset.from_dict({"label": column})
        assert "every row has the same label" in message(
            lambda rows=rows: labels_of(rows, "label", "split")
        )
    declared = datasets.Dataset.from_dict({"label": [0, 0]}).cast_column(
        "label", datasets.ClassLabel(names=["only"])
    )
    assert "a classifier needs two classes" in message(lambda: labels_of(declared, "label", "split"))


@pytest.mark.parametrize("kind", [int, str])
def test_ten_thousand_classes_are_encoded_and_have_margins(layout: Layout, kind: type) -> None:
    values = [kind(i) for i in range(10_000)]
    content = parquet({"question": ["who?"] * 10_000, "sentence": ["he."] * 10_000, "label": values})
    rows = prepared(layout, "parquet", content)
    assert (rows.outputs, len(set(rows.column("label").tolist()))) == (10_000, 10_000)
    assert [rows.label_names[number] for number in rows.column("label")] == [str(v) for v in values]

    output = TextClassification()
    check_model_output(output, "text_classification", 10_000)
    logits = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0)) * 5
    labels = torch.tensor([0, 5000, 9999])
    exact = torch.softmax(logits.double(), 1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(
        output.output(logits, labels), (exact / (1 - exact)).log().float(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(output.loss_weight(logits, labels), (1 - exact).float())


def test_a_single_train_row_is_scored(tmp_path: Path) -> None:
    settings = small_settings(
        dataset={"train_size": 1, "flip_labels": 0.0},
        checkpoints={"keep": [1.0]},
        finetune={"epochs": 1},
    )
    run = Layout(tmp_path / "run")
    base_model.run(run, settings)
    prepare.run_train(run, settings)
    prepare_targets.run(run, settings, "validation")
    finetune.run(run, settings, 0)
    attribute(run, settings)
    scores = ScoreStore.open(run.scores("validation")).scores(0, 1)
    assert scores.shape == (1, 5)
    assert np.isfinite(scores).all()


def test_targets_without_rows_are_named_and_leave_nothing(layout: Layout, tmp_path: Path) -> None:
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("question,sentence,label\na,b,0\nc,d,1\n")
    dev.write_text("question,sentence,label\n")
    settings = settings_of("csv", train, dev)
    prepare.run_train(layout, settings)
    assert "the split `validation` has no rows" in message(
        lambda: prepare_targets.run(layout, settings, "validation")
    )
    assert not layout.targets("validation").exists()
    assert "targets.none.size" in message(lambda: parse_settings({"targets": {"none": {"size": 0}}}))


# --- what is shown ------------------------------------------------------------------------------------

TOP: dict[str, Any] = {
    "target": [0, 0],
    "rank": [1, 1],
    "side": ["proponent", "opponent"],
    "score": [0.5, -0.5],
    "sign_stable": [False, True],
    "train_row": [1, 2],
    "train_label": [0, 1],
    "train_label_name": [ESCAPES, "b"],
    "train_question": [ESCAPES, "c"],
    "target_row": [0, 0],
    "target_label": [0, 0],
    "target_question": ["é " + "x" * 10_000_000] * 2,
}


def shown(folder: Path, **changes: Any) -> list[str]:
    file = folder / "x.top.parquet"
    columns = {name: values for name, values in {**TOP, **changes}.items() if values is not None}
    save_table(file, pa.table(columns), Manifest("top"))
    return list(top_lines(file, first=10**30, count=10**30, side="proponent"))


def test_texts_are_shown_without_what_a_terminal_obeys_and_cut(tmp_path: Path) -> None:
    target, row, legend = shown(tmp_path)
    assert row == (
        "  +0.500? "
        + (seen := r"a\x1b[2J\x1b]0;title\x07\r\n\t\x00\x7f\x9b1m\u202eb\u200b")
        + f"   [{seen}]"
    )
    assert target.startswith("é xxx")
    assert len(target) < 400
    assert "…" in target
    assert legend.startswith("? another training run")


@pytest.mark.parametrize("stable", [[True, True], [None, None], None], ids=["yes", "unknown", "older"])
def test_a_sign_is_marked_only_where_it_is_known_to_be_unstable(tmp_path: Path, stable: Any) -> None:
    _, row = shown(tmp_path, sign_stable=stable and pa.array(stable, pa.bool_()))
    assert row.startswith("  +0.500  ")


def test_a_file_that_is_no_list_of_top_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.top.parquet"
    pq.write_table(pa.table({"target": [0]}), file)
    assert "has no manifest" in message(
        lambda: list(top_lines(file, first=1, count=1, side="proponent"))
    )
    save_table(file, pa.table({"target": [0]}), Manifest("scores"))
    assert "holds scores, expected top" in message(
        lambda: list(top_lines(file, first=1, count=1, side="proponent"))
    )


def test_letters_of_every_script_are_shown_as_they_are() -> None:
    for text in ("naïve", "日本\u3000語", "می\u200cخواهم", "👩\u200d🔬", "a\xa0b", "ß\u0301"):
        assert printable(text) == text
    assert printable("ab" * 9, limit=4) == "abab…"
    assert printable("\ud800\U000e0041") == r"\ud800\U000e0041"


def test_a_message_does_not_reach_the_terminal_with_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise TrakError(f"one\n{ESCAPES}\ud800")

    monkeypatch.setattr(__main__, "app", fail)
    with pytest.raises(SystemExit):
        __main__.main()
    said = capsys.readouterr().err
    assert said.startswith("error: one\na\\x1b[2J")
    assert printable(said, keep="\n") == said


def test_a_terminal_of_few_characters_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trak_steps", "settings", "--set", "dataset.path=é🙂"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"path: \xe9\\U0001f642\n" in done.stdout
