"""Model folders: every family tokenises, trains and loads; what is wrong with one is named."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from conftest import attribute, small_settings
from explained import assert_explained_as_listed
from families import FAMILIES, classifier, config
from safetensors.torch import load_file, save_file

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.model import fetch as fetch_module
from trak_steps.model.demo import make_demo_model
from trak_steps.model.fetch import fetch_model
from trak_steps.model.load import load_classifier, load_for_training, load_tokenizer
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune, import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.store.features import FeatureStore

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole two-class BERT."""
    classifier("bert", 2).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def fetch(folder: Path, tmp_path: Path) -> None:
    fetch_model(
        str(folder),
        tmp_path / "copy",
        setting="model.name_or_path",
        weights=True,
        trust_remote_code=False,
    )


def load(folder: Path, outputs: int = 2) -> None:
    load_classifier(folder, outputs=outputs, device=CPU, trust_remote_code=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_through_training_and_features(
    family: str, small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """From a folder without weights, with the demo's tokenizer, to features of the targets."""
    layout, _ = small_run
    base = tmp_path / "base"
    shutil.copytree(layout.model, base)
    tokenizer_config = json.loads((base / "tokenizer_config.json").read_text())
    made = config(family, 2)
    made.vocab_size = 1500
    if family in ("roberta", "distilbert", "modernbert"):
        tokenizer_config["model_input_names"] = ["input_ids", "attention_mask"]
        (base / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    torch.manual_seed(0)
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_config(made).save_pretrained(base)
    settings = small_settings(
        model={"name_or_path": str(base)},
        dataset={"train_size": 20},
        checkpoints={"keep": [1.0]},
        finetune={"batch_size": 10},
    )
    run = Layout(tmp_path / "run")
    base_model.run(run, settings)
    prepare.run_train(run, settings)
    finetune.run(run, settings, 0)
    featurize.run_train(run, settings, "0", 0)
    store = FeatureStore.open(run.train_shard("0", "00000"))
    assert store.features(0, 20).shape == (20, 16)
    has_types = "token_type_ids" in PreparedRows.load(run.train).table.column_names
    assert has_types == (family not in ("roberta", "distilbert", "modernbert"))


def test_only_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(TrakError, match=r"pickled weights \(pytorch_model\.bin\)"):
        fetch(folder, tmp_path)


class Hub:
    """A hub with one model, of which it gives the files that are asked for."""

    name = "some/model"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def download(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == (self.name, None)
        copy = self.folder.parent / "cache"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in self.folder.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(file, copy / file.name)
        return str(copy)

    def list_repo_files(self, name: str, revision: str | None) -> list[str]:
        assert (name, revision) == (self.name, None)
        return ["onnx/other.bin", *(file.name for file in self.folder.iterdir())]


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(folder)
    monkeypatch.setattr(fetch_module, "snapshot_download", made.download)
    monkeypatch.setattr(fetch_module, "HfApi", lambda: made)
    return made


def test_a_model_of_the_hub_with_pickled_weights_alone_is_said_to_have_those(
    hub: Hub, tmp_path: Path
) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(TrakError, match=r"some/model has no weights"):
        fetch(Path("some/model"), tmp_path)
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(TrakError, match=r"some/model .*pickled .*pytorch_model\.bin"):
        fetch(Path("some/model"), tmp_path)


def test_a_hub_that_does_not_list_its_files_leaves_what_was_known(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / "model.safetensors").unlink()

    def offline() -> None:
        raise ConnectionError

    monkeypatch.setattr(fetch_module, "HfApi", offline)
    with pytest.raises(TrakError, match=r"some/model has no weights"):
        fetch(Path("some/model"), tmp_path)


FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the hub's client keeps of a model with two commits, of which a tag names the first."""
    cache = tmp_path / "hub"
    of_model = cache / "models--org--model"
    (of_model / "refs").mkdir(parents=True)
    for name, commit, outputs in (("v1", FIRST, 2), ("main", SECOND, 3)):
        (of_model / "refs" / name).write_text(commit)
        classifier("bert", outputs).save_pretrained(of_model / "snapshots" / commit)
        shutil.copy(of_model / "snapshots" / commit / "config.json", of_model / f"{name}.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.mark.parametrize(
    ("revision", "commit", "outputs"),
    [(None, SECOND, 3), ("v1", FIRST, 2), (FIRST, FIRST, 2), ("main", SECOND, 3)],
)
@pytest.mark.usefixtures("cache")
def test_a_revision_is_fetched_and_its_commit_recorded(
    tmp_path: Path,
    small_run: tuple[Layout, Settings],
    revision: str | None,
    commit: str,
    outputs: int,
) -> None:
    settings = small_settings(model={"name_or_path": "org/model", "revision": revision})
    layout = Layout(tmp_path / "run")
    base_model.run(layout, settings)
    manifest = json.loads((layout.model / "manifest.json").read_text())
    assert manifest["details"]["revisions"] == {"org/model": commit}
    load(layout.model, outputs)
    own = json.loads((small_run[0].model / "manifest.json").read_text())
    assert "revisions" not in own["details"]
    named = f"org/model@{revision}" if revision else "org/model"
    copy = tmp_path / "imported"
    found = fetch_model(
        named, copy, setting="checkpoints.existing", weights=True, trust_remote_code=False
    )
    assert found == {"org/model": commit}
    load(copy, outputs)


@pytest.mark.usefixtures("cache")
def test_a_revision_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    settings = small_settings(model={"name_or_path": "org/model", "revision": "v3"})
    with pytest.raises(TrakError, match=r"model\.name_or_path: `org/model` at revision `v3`"):
        base_model.run(Layout(tmp_path / "run"), settings)
    assert not (tmp_path / "run" / "model").exists()


def test_a_folder_has_no_revision(folder: Path, tmp_path: Path) -> None:
    settings = small_settings(model={"name_or_path": str(folder), "revision": "v1"})
    with pytest.raises(TrakError, match=r"model\.revision: .*is a folder here"):
        base_model.run(Layout(tmp_path / "run"), settings)
    for section in ({"model": {"revision": "v1"}}, {"dataset": {"revision": "v1"}}):
        with pytest.raises(TrakError, match="revision is of a hub id"):
            small_settings(**section)


def test_an_adapter_names_the_revision_of_its_model(cache: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    values = {"base_model_name_or_path": "org/model", "revision": "v1"}
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    # Of a folder there are none, whatever stands there.
    base = tmp_path / "base"
    classifier("bert", 2).save_pretrained(base)
    of_folder = {"base_model_name_or_path": str(base), "revision": "main"}
    (adapter / "adapter_config.json").write_text(json.dumps(of_folder))
    assert (
        fetch_model(
            *(str(adapter), tmp_path / "local"),
            setting="checkpoints.existing",
            weights=True,
            trust_remote_code=False,
        )
        == {}
    )
    (adapter / "adapter_config.json").write_text(json.dumps(values))
    copy = tmp_path / "copy"
    found = fetch_model(
        str(adapter), copy, setting="checkpoints.existing", weights=True, trust_remote_code=False
    )
    assert found == {"org/model": FIRST}
    assert (copy / "config.json").read_bytes() == (cache / "models--org--model" / "v1.json").read_bytes()


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(TrakError, match="has no weights"):
        fetch(folder, tmp_path)


def test_a_folder_without_configuration_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(TrakError, match="not a model's folder"):
        fetch(folder, tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrakError, match="there is no folder"):
        fetch(tmp_path / "nowhere", tmp_path)


def test_a_hub_that_cannot_be_reached_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(TrakError, match=r"model\.name_or_path to a local folder"):
        fetch_model(
            "bert-base-cased",
            tmp_path / "copy",
            setting="model.name_or_path",
            weights=True,
            trust_remote_code=False,
        )
    assert not (tmp_path / "copy").exists()


def test_code_in_a_folder_is_left_behind(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling.py").write_text("raise SystemExit")
    fetch(folder, tmp_path)
    assert not (tmp_path / "copy" / "modeling.py").exists()


def test_another_number_of_classes_is_refused(folder: Path) -> None:
    with pytest.raises(TrakError, match="has 2 classes, the data has 5"):
        load(folder, outputs=5)


def test_a_head_without_weights_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(
        {name: w for name, w in weights.items() if "classifier" not in name}, file, {"format": "pt"}
    )
    with pytest.raises(TrakError, match="has no weights for classifier"):
        load(folder)


def test_a_weight_that_is_not_finite_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["classifier.weight"][0, 0] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(TrakError, match=r"classifier\.weight is not finite"):
        load(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(TrakError, match="cannot be loaded as a classifier"):
        load(folder)


def test_more_tokens_than_the_model_reads_are_refused(small_run: tuple[Layout, Settings]) -> None:
    layout, _ = small_run
    with pytest.raises(TrakError, match=r"model\.max_length: .* 1000, .* 512"):
        load_tokenizer(layout.model, max_length=1000, trust_remote_code=False)


def test_existing_checkpoints_are_scored_and_nothing_is_trained(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    layout, _ = small_run
    existing = [str(layout.checkpoint("0")), str(layout.checkpoint("0-0.5"))]
    settings = small_settings(checkpoints={"existing": existing})
    run = Layout(tmp_path / "run")
    base_model.run(run, settings, settings.checkpoints.existing[0])
    assert not list(run.model.glob("*.safetensors"))
    prepare.run_train(run, settings)
    prepare.run_targets(run, settings, "validation")
    for checkpoint in ("0", "1"):
        import_checkpoint.run(run, settings, checkpoint, existing[int(checkpoint)])
    attribute(run, settings)
    assert json.loads(run.summary.read_text())["checkpoints"] == ["0", "1"]
    assert not (run.root / "training").exists()
    assert_explained_as_listed(run, settings)


def test_an_existing_checkpoint_that_does_not_fit_is_refused(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    layout, _ = small_run
    wrong = tmp_path / "wrong"
    shutil.copytree(layout.checkpoint("0"), wrong)
    classifier("bert", 5).save_pretrained(wrong)
    settings = small_settings(checkpoints={"existing": [str(layout.checkpoint("0")), str(wrong)]})
    run = Layout(tmp_path / "run")
    base_model.run(run, settings, settings.checkpoints.existing[0])
    prepare.run_train(run, settings)
    with pytest.raises(TrakError, match=r"checkpoints\.existing: .*wrong: .* 5 .* 2"):
        import_checkpoint.run(run, settings, "1", settings.checkpoints.existing[1])
    assert not run.checkpoint("1").exists()


def test_existing_checkpoints_keep_the_order_of_their_classes(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """The first one's names, in any case, decide the class numbers; another order is refused."""
    layout, _ = small_run
    first, turned, foreign = (tmp_path / name for name in ("first", "turned", "foreign"))
    for folder, names in (
        (first, ["NOT_ENTAILMENT", "ENTAILMENT"]),
        (turned, ["entailment", "not_entailment"]),
        (foreign, ["cat", "dog"]),
    ):
        shutil.copytree(layout.checkpoint("0"), folder)
        values = json.loads((folder / "config.json").read_text())
        values["id2label"] = {str(i): name for i, name in enumerate(names)}
        values["label2id"] = {name: i for i, name in enumerate(names)}
        (folder / "config.json").write_text(json.dumps(values))
    run = Layout(tmp_path / "run")
    settings = small_settings(checkpoints={"existing": [str(first), str(turned)]})
    base_model.run(run, settings, settings.checkpoints.existing[0])
    prepare.run_train(run, settings)
    rows, original = PreparedRows.load(run.train), PreparedRows.load(layout.train)
    assert rows.label_names == ["not_entailment", "entailment"]
    assert (rows.column("label") == 1 - original.column("label")).all()
    import_checkpoint.run(run, settings, "0", settings.checkpoints.existing[0])
    with pytest.raises(TrakError, match=r"turned .* entailment, not_ent"):
        import_checkpoint.run(run, settings, "1", settings.checkpoints.existing[1])
    other = small_settings(checkpoints={"existing": [str(foreign)]})
    base_model.run(run, other, str(foreign))
    with pytest.raises(TrakError, match=r"foreign .* cat, dog, .* entailment"):
        prepare.run_train(run, other)


def test_weights_of_another_model_are_not_trained_from(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({f"foreign.{name}": w for name, w in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(TrakError, match="of another model"):
        load_for_training(folder, outputs=2, label_names=["a", "b"], trust_remote_code=False)


def test_a_loss_saved_in_the_configuration_is_not_taken_over(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "problem_type": "regression"}))
    model = load_for_training(folder, outputs=3, label_names=["a", "b", "c"], trust_remote_code=False)
    assert model.config.problem_type == "single_label_classification"
    assert model.config.num_labels == 3


def test_the_demos_vocabulary_is_the_same_every_time(tmp_path: Path) -> None:
    texts = ["who founded arlin? it was", "oskar, who founded arlin", "in may", "am I"] * 3
    for name in ("one", "two"):
        make_demo_model(texts, tmp_path / name)
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert first == second
    tokenizer = load_tokenizer(tmp_path / "one", max_length=16, trust_remote_code=False)
    assert tokenizer.tokenize("Arlin, who was") == ["arlin", ",", "who", "was"]
    assert tokenizer.tokenize("foo") == ["f", "##o", "##o"]
    encoded = tokenizer("who", "in may")
    assert tokenizer.decode(encoded["input_ids"]) == "[CLS] who [SEP] in may [SEP]"
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1, 1]
