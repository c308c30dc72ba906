"""Rows from local files of every kind, and a clear message for each thing that can be wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from conftest import small_settings

from trak_steps.config import Settings, parse_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.data.select import choose_rows, flip_labels
from trak_steps.data.source import load_split
from trak_steps.data.tasks import GLUE, known_text_columns
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.workflow.inputs import downloading, local_files

Columns = dict[str, list[Any]]
PAIRS: Columns = {
    "question": ["who?", "what?", "where?", "when?"],
    "sentence": ["he did.", "a stone.", "in town.", "in May."],
    "label": [0, 1, 1, 0],
    "number": [70, 30, 50, 10],
}


def write(folder: Path, kind: str, columns: Columns, name: str = "train") -> str:
    table = pa.table(columns)
    file = folder / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "csv":
        pacsv.write_csv(table, file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return str(file)


def settings_of(
    file: str, kind: str = "parquet", targets: str | None = None, **dataset: Any
) -> Settings:
    return parse_settings(
        {
            "run": "data",
            "dataset": {
                "path": kind,
                "data_files": {"train": file, "validation": targets or file},
                "text": ["question", "sentence"],
                **dataset,
            },
            "targets": {"validation": {}},
            "model": {"max_length": 32},
            "checkpoints": {"keep": [1.0]},  # the rows are few
        }
    )


def prepared(layout: Layout, settings: Settings, *, targets: bool = False) -> PreparedRows:
    base_model.run(layout, settings)
    prepare.run_train(layout, settings)
    if not targets:
        return PreparedRows.load(layout.train)
    prepare.run_targets(layout, settings, "validation")
    return PreparedRows.load(layout.targets("validation"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "run")


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_local_files_of_every_kind(tmp_path: Path, layout: Layout, kind: str) -> None:
    rows = prepared(layout, settings_of(write(tmp_path, kind, PAIRS), kind))
    assert rows.column("question").tolist() == PAIRS["question"]
    assert rows.column("label").tolist() == PAIRS["label"]
    assert rows.column("row").tolist() == [0, 1, 2, 3]
    assert (rows.label_names, rows.outputs) == (["0", "1"], 2)
    tokens = rows.tokens(1, 3)
    assert len(tokens) == 2
    assert all(len(t["input_ids"]) == len(t["token_type_ids"]) for t in tokens)


@pytest.mark.parametrize(
    ("labels", "encoded", "names"),
    [
        (["no", "yes", "no", "maybe"], [1, 2, 1, 0], ["maybe", "no", "yes"]),
        ([5, 1, 3, 1], [2, 0, 1, 0], ["1", "3", "5"]),
        ([True, False, True, True], [1, 0, 1, 1], ["False", "True"]),
    ],
)
def test_labels_of_every_kind_become_class_numbers(
    tmp_path: Path, layout: Layout, labels: list[Any], encoded: list[int], names: list[str]
) -> None:
    rows = prepared(layout, settings_of(write(tmp_path, "parquet", {**PAIRS, "label": labels})))
    assert rows.column("label").tolist() == encoded
    assert rows.label_names == names


def test_floats_are_regressed_on(tmp_path: Path, layout: Layout) -> None:
    file = write(tmp_path, "parquet", {**PAIRS, "label": [0.5, 2.0, 3.5, 5.0]})
    settings = settings_of(file)
    custom = {**settings.model_dump(), "features": {"model_output": "my_task:Similarity"}}
    rows = prepared(layout, parse_settings(custom))
    assert rows.column("label").tolist() == [0.5, 2.0, 3.5, 5.0]
    assert (rows.label_names, rows.outputs) == ([], 1)


def test_floats_are_refused_before_anything_is_trained_where_the_model_output_wants_classes(
    tmp_path: Path, layout: Layout
) -> None:
    settings = settings_of(write(tmp_path, "parquet", {**PAIRS, "label": [0.0, 1.0, 1.0, 0.0]}))
    with pytest.raises(TrakError) as error:
        prepared(layout, settings)
    for part in ("`label` holds floats", "text_classification", "integers", "features.model_output"):
        assert part in str(error.value)
    assert not layout.train.exists()


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_files_in_folders_at_any_depth(tmp_path: Path, layout: Layout, kind: str) -> None:
    for depth, folder in enumerate(["data", "data/one", "data/one/two/three"]):
        (tmp_path / folder).mkdir(parents=True)
        changed = {**PAIRS, "question": [f"{word} {depth}" for word in PAIRS["question"]]}
        write(tmp_path / folder, kind, changed)
    settings = settings_of(str(tmp_path / "data" / "**" / f"*.{kind}"), kind)
    rows = prepared(layout, settings)
    assert set(rows.column("question").tolist()) == {
        f"{word} {depth}" for word in PAIRS["question"] for depth in range(3)
    }
    files = local_files(settings, "train")
    assert [Path(file).relative_to(tmp_path).as_posix() for file in files] == [
        f"data/one/train.{kind}",
        f"data/one/two/three/train.{kind}",
        f"data/train.{kind}",
    ]
    deepest = settings_of(str(tmp_path / "data" / "**" / "three" / "*"), kind)
    assert len(prepared(layout, deepest)) == 4


def test_one_text_column_and_rows_by_their_own_id(tmp_path: Path, layout: Layout) -> None:
    file = write(tmp_path, "parquet", PAIRS)
    rows = prepared(layout, settings_of(file, text="sentence", row_id="number"))
    assert rows.text_columns == ["sentence"]
    assert rows.column("row").tolist() == PAIRS["number"]


def test_targets_use_the_classes_of_the_train_set(tmp_path: Path, layout: Layout) -> None:
    train = write(tmp_path, "parquet", {**PAIRS, "label": ["b", "a", "c", "b"]})
    dev = write(tmp_path, "parquet", {**PAIRS, "label": ["c", "c", "b", "b"]}, "dev")
    rows = prepared(layout, settings_of(train, targets=dev), targets=True)
    assert rows.column("label").tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("changes", "dataset", "message"),
    [
        ({}, {"text": "label"}, "dataset.text: `label`"),
        ({}, {"text": ["question", "answer"]}, "no column ... answer"),
        ({}, {"label": "gold"}, "no column `gold` (dataset.label) ... question"),
        ({}, {"group": "fact"}, "no column `fact` (dataset.group)"),
        ({}, {"row_id": "idx"}, "no column `idx` (dataset.row_id)"),
        ({"number": [1, 2, 2, 3]}, {"row_id": "number"}, "has 2 more than once"),
        ({"label": [0, 1, -1, 0]}, {}, "row 2 ... label -1 ... unlabelled"),
        ({"label": ["a", None, "b", "a"]}, {}, "row 1 has no label"),
        ({"label": [1, 1, 1, 1]}, {}, "the same label"),
        ({"label": [0.5, float("nan"), 1.0, 2.0]}, {}, "row 1 has no finite label"),
        ({"label": [[0], [1], [0], [1]]}, {}, "integers, texts or floats"),
        ({"sentence": ["a", "b", "  ", "d"]}, {}, "`sentence` of row 2 is empty"),
        ({"sentence": ["a", None, "c", "d"]}, {}, "`sentence` of row 1 is missing"),
        ({"sentence": [1, 2, 3, 4]}, {}, "`sentence` of row 0 ... type int"),
        ({}, {"train_size": 5}, "5 rows ... has 4"),
        ({}, {"train_split": "test"}, "test"),
        ({}, {"data_files": {"train": "nowhere.csv"}}, "dataset.data_files.train: ... no file"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, layout: Layout, changes: Columns, dataset: dict[str, Any], message: str
) -> None:
    settings = settings_of(write(tmp_path, "parquet", {**PAIRS, **changes}), **dataset)
    good = settings_of(write(tmp_path, "parquet", PAIRS, "good"))
    base_model.run(layout, good)
    with pytest.raises(TrakError) as error:
        prepare.run_train(layout, settings)
    for part in message.split(" ... "):
        assert part in str(error.value)
    assert not layout.train.exists()
    assert not any(layout.train.parent.glob("*")) if layout.train.parent.exists() else True


def test_labels_to_regress_on_are_not_flipped(tmp_path: Path, layout: Layout) -> None:
    file = write(tmp_path, "parquet", {**PAIRS, "label": [0.5, 1.0, 2.0, 3.0]})
    settings = settings_of(file, flip_labels=0.5)
    custom = {**settings.model_dump(), "features": {"model_output": "my_task:Similarity"}}
    with pytest.raises(TrakError, match=r"dataset\.flip_labels: regression"):
        prepared(layout, parse_settings(custom))


def test_an_unknown_label_in_the_targets_is_named(tmp_path: Path, layout: Layout) -> None:
    train = write(tmp_path, "parquet", PAIRS)
    dev = write(tmp_path, "parquet", {**PAIRS, "label": [0, 7, 1, 0]}, "dev")
    with pytest.raises(TrakError, match=r"row 1 has the label 7; .* 0, 1"):
        prepared(layout, settings_of(train, targets=dev), targets=True)


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_an_empty_split_is_named(tmp_path: Path, layout: Layout, kind: str) -> None:
    columns = {name: pa.array(values)[:0] for name, values in PAIRS.items()}
    file = write(tmp_path, kind, columns)  # type: ignore[arg-type]
    with pytest.raises(TrakError, match="`train` has no rows"):
        prepared(layout, settings_of(file, kind))


def test_a_hub_that_cannot_be_reached_names_the_setting(layout: Layout) -> None:
    settings = parse_settings({"dataset": {"path": "glue", "name": "qnli"}})
    with pytest.raises(TrakError, match=r"dataset\.data_files"):
        prepare.run_train(layout, settings)


def test_text_columns_of_glue_are_known() -> None:
    assert known_text_columns("glue", "qnli") == ("question", "sentence")
    assert known_text_columns("nyu-mll/glue", "sst2") == ("sentence",)
    assert known_text_columns("somebody/else", "qnli") is None
    assert {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"} <= set(GLUE)


def test_a_larger_sample_begins_with_the_smaller() -> None:
    small = choose_rows(1000, 10, "random", 0, "train set")
    assert choose_rows(1000, 50, "random", 0, "train set")[:10].tolist() == small.tolist()
    assert choose_rows(1000, 10, "random", 1, "train set").tolist() != small.tolist()
    assert choose_rows(1000, 10, "random", 0, "targets").tolist() != small.tolist()
    assert choose_rows(1000, 3, "first", 0, "train set").tolist() == [0, 1, 2]


def test_flips_are_wrong_labels_of_about_the_share_and_stay_when_the_set_grows() -> None:
    places = np.random.default_rng(0).permutation(4000)
    labels = places % 3
    flipped_labels, flipped = flip_labels(labels, places, 3, 0.1, seed=5)
    assert ((flipped_labels != labels) == flipped).all()
    assert flipped.mean() == pytest.approx(0.1, abs=0.02)
    assert set(np.unique((flipped_labels - labels)[flipped] % 3)) == {1, 2}
    fewer, which = flip_labels(labels[:100], places[:100], 3, 0.1, seed=5)
    assert (fewer == flipped_labels[:100]).all()
    assert (which == flipped[:100]).all()


def test_the_demo_records_its_flips(small_run: tuple[Layout, Settings]) -> None:
    layout, _ = small_run
    rows = PreparedRows.load(layout.train)
    assert rows.manifest.details["flipped"] == rows.column("flipped").sum() > 0
    assert not PreparedRows.load(layout.targets("validation")).column("flipped").any()


def test_rows_of_the_hub_know_their_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_run: tuple[Layout, Settings]
) -> None:
    """The revision is asked for, and the commit that the library made of it is recorded."""
    commit, asked = "a" * 40, {}
    cache = tmp_path / "cache" / "org___data" / "default" / "0.0.0" / commit
    cache.mkdir(parents=True)
    demo = load_split("demo", None, None, "train", 0)
    demo.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.rename(cache / "data-train.arrow")

    def load(path: str, *_: Any, **given: Any) -> datasets.Dataset:
        asked.update(given, path=path)
        return datasets.Dataset.from_file(str(cache / "data-train.arrow"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = small_settings(
        dataset={"path": "org/data", "revision": "v2", "text": ["question", "sentence"]}
    )
    layout = Layout(tmp_path / "run")
    shutil.copytree(small_run[0].model, layout.model)
    prepare.run_train(layout, settings)
    assert (asked["path"], asked["revision"]) == ("org/data", "v2")
    manifest = PreparedRows.open(layout.train).manifest
    assert manifest.details["revision"] == commit
    assert manifest.settings["dataset"]["revision"] == "v2"
    of_demo = PreparedRows.open(small_run[0].train).manifest
    assert "revision" not in {**of_demo.details, **of_demo.settings["dataset"]}


def test_a_revision_that_the_hub_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class RevisionNotFoundError(Exception):
        pass

    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("wrapped") from RevisionNotFoundError("404")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(TrakError, match=r"dataset\.revision: org/data has no revision `v9`"):
        load_split("org/data", None, None, "train", 0, revision="v9")


def test_what_is_fetched_from_the_hub_is_known_beforehand(tmp_path: Path) -> None:
    def steps(**settings: Any) -> set[str]:
        return downloading(parse_settings(settings))

    rows = {"prepare", "prepare-targets"}
    local = {"path": "csv", "data_files": {"train": "train.csv", "validation": "dev.csv"}}
    of_hub = {"path": "org/data", "text": ["a"]}
    model, folder = {"name_or_path": "org/model"}, {"name_or_path": str(tmp_path)}
    assert steps() == steps(dataset=local) == steps(dataset=local, model=folder) == set()
    assert steps(dataset={"path": str(tmp_path)}) == set()
    # The demo's vocabulary is made from the rows.
    assert steps(dataset=of_hub) == {"model", *rows}
    assert steps(dataset=of_hub, model=folder) == rows
    assert steps(dataset={**local, "data_files": {"train": "hf://a/b"}}, model=folder) == rows
    assert steps(model=model) == {"model"}
    existing = {"existing": [str(tmp_path), "org/classifier@v1"]}
    assert steps(checkpoints=existing) == {"model", "import-checkpoint"}
    assert steps(checkpoints={"existing": [str(tmp_path)]}) == set()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    assert steps(checkpoints={"existing": [str(tmp_path)]}) == {"model", "import-checkpoint"}
