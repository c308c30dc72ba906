"""One Snakemake at a time on a run, and none with a plan that another made stale."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import packaged_modules

from trak_steps.config import Settings, parse_settings
from trak_steps.data.patterns import BUILDERS
from trak_steps.errors import TrakError
from trak_steps.model.fetch import fetch_model
from trak_steps.run.layout import Layout
from trak_steps.store.manifest import Manifest
from trak_steps.workflow import inputs
from trak_steps.workflow.housekeeping import Turn, drop_empty, drop_surplus


def test_a_turn_is_taken_by_one_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    first, second = Turn.begin(layout), Turn.begin(layout)
    held = first.take()
    third = Turn.begin(layout)
    works = rf"another Snakemake .*process {os.getpid()} on"
    with pytest.raises(TrakError, match=works):
        second.take()
    os.close(held)
    for stale in (second, third):
        with pytest.raises(TrakError, match="while this one planned"):
            stale.take()
    os.close(Turn.begin(layout).take())


def test_folders_of_outputs_that_failed_are_removed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "run")
    layout.train_shard("0", "00000").mkdir(parents=True)
    layout.kernel("0").mkdir(parents=True)
    (layout.kernel("0") / "zarr.json").write_text("{}")
    drop_empty(layout)
    assert [path.name for path in layout.root.iterdir()] == ["kernel"]


def test_the_files_of_a_model_that_are_copied_are_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a.safetensors", "config.json", "vocab.txt", "s.model", "chat.jinja", "code.py"):
        (folder / name).write_text("{}")
    for name in ("pytorch_model.bin", "README.md"):
        (folder / name).write_text("")
    fetch_model(str(folder), tmp_path / "copy", setting="x", weights=False, trust_remote_code=True)
    copied = {path.name for path in (tmp_path / "copy").iterdir()}
    found = {Path(file).name for file in inputs.local_model(str(folder))}
    assert found == copied | {"a.safetensors"}
    assert len(found) == 6


def test_what_the_workflow_asks_for_its_inputs_loads_no_large_library() -> None:
    heavy = ["torch", "transformers", "datasets", "huggingface_hub", "pyarrow", "scipy"]
    asked = f"import sys, trak_steps.workflow.inputs; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_the_workflow_knows_rows_as_manifests_name_them(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """So what a shard was made from is what makes it run again, once the rows are others."""
    layout = Layout(tmp_path / "run")
    assert inputs.known(layout, "data/train") == inputs.known(layout, "data/train#0:25") == ""
    shutil.copytree(small_run[0].train, layout.train)
    for path in (small_run[0].train_shard("0", "00001"), small_run[0].checkpoint("0")):
        made_from = Manifest.load(path).made_from
        (name,) = (name for name in made_from if name.startswith("data/train"))
        assert inputs.known(layout, name) == made_from[name] != ""
    assert inputs.known_count(layout, layout.train, "rows") == 60
    assert inputs.known_count(layout, layout.model, "parameters") is None
    before = inputs.known_seal(layout.train), inputs.known(layout, "data/train#classes")
    manifest = Manifest.load(layout.train)
    replace(manifest, details={**manifest.details, "classes_digest": "other"}).save(layout.train)
    after = inputs.known_seal(layout.train), inputs.known(layout, "data/train#classes")
    assert before[0] != after[0]
    assert before[1] != after[1] == "other"
    (layout.train / "manifest.json").write_text("{}")
    assert inputs.known(layout, "data/train") == ""


def test_a_folder_that_has_the_name_of_a_reader_is_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*BUILDERS, "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text("a\n")
    for name in BUILDERS:
        assert inputs.local_files(parse_settings({"dataset": {"path": name}}), "train") == []
    assert inputs.local_files(parse_settings({"dataset": {"path": "mine"}}), "train") == [
        "mine/rows.csv"
    ]
    # A reader that `datasets` did not know would be a folder after all.
    assert BUILDERS - {"demo"} <= set(packaged_modules._PACKAGED_DATASETS_MODULES)


def test_the_files_that_a_run_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("train.csv", "dev.csv", "deep/er/more.csv"):
        (tmp_path / name).write_text("a\n")
    files = {"train": ["train.csv", "deep/**/*.csv"], "validation": "dev.csv"}
    settings = parse_settings({"dataset": {"path": "csv", "data_files": files}})
    assert inputs.local_files(settings, "train") == ["deep/er/more.csv", "train.csv"]
    assert inputs.local_files(settings, "validation") == ["dev.csv"]
    assert len(inputs.local_files(settings, "train[:10]")) == 3
    assert inputs.base_files(settings) == inputs.local_files(settings, "train")
    folder = parse_settings({"dataset": {"path": "deep"}})
    assert inputs.local_files(folder, "train") == ["deep/er/more.csv"]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for path in (base, adapter):
        path.mkdir()
        (path / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    found = inputs.local_model(str(adapter))
    assert str(base / "config.json") in found
    shutil.rmtree(base)
    assert len(inputs.local_model(str(adapter))) == 2
    assert inputs.local_model("~nobody-of-that-name/x") == []
    assert inputs.local_model("x" * 5000) == []


def test_what_models_said_that_are_no_longer_planned_is_removed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for part in ("00000", "00001", "00002"):
        path = layout.retrained("subsets", part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert drop_surplus(layout, {"subsets": ["00000", "00001"], "removal": ["00000"]}) == [path]
    assert [left.stem for left in layout.retrained_parts("subsets")] == ["00000", "00001"]
    assert drop_surplus(layout, {"subsets": ["00000", "00001"]}) == []
