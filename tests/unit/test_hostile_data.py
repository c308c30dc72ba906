"""Data that is wrong on purpose: a right answer or one clear message; nothing half-written."""

import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import attribute, small_settings
from explained import opened
from hostile import Creates, message

from trak_steps.config import Settings, parse_settings
from trak_steps.data.files import check_files
from trak_steps.data.labels import Labels, encode, in_the_order_of, labels_of
from trak_steps.data.prepared import PreparedRows
from trak_steps.data.select import row_ids
from trak_steps.data.source import load_split
from trak_steps.gradients.model_output import TextClassification
from trak_steps.run.layout import Layout
from trak_steps.run.model_output import check_model_output
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.store.scores import ScoreStore

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
        ("json", lines({"question": "a\ud800b"}), "surrogate pair"),
        ("json", lines({}, {"question": "\u200b\u200d\ufeff"}), "`question` of row 1 is empty"),
        ("json", lines({}, {"question": "\x00\x1b\u2028 \xa0"}), "`question` of row 1 is empty"),
        ("json", lines({"question": ["a", "b"]}), "`question` of row 0 is of type list"),
        ("json", lines({}, {"question": {"a": 1}}), "`question` of row 1 is of type dict"),
        ("json", lines({}, {"question": 3}), "`question` of row 1 is of type int"),
        ("json", lines({}, {"label": "one"}), "holds values of several kinds"),
        ("json", lines({}, {"label": True}), "holds values of several kinds"),
        ("json", lines({}, {"label": [1]}), "holds values of several kinds"),
        ("json", lines(*[{"label": None}] * 4), "holds no label"),
        ("json", lines({}, {}, {"label": None}), "row 2 has no"),
        ("json", lines(*[{"label": "x"}] * 4), "the same label"),
        ("json", lines().replace(b"who", b"w\xffo"), "`question` of row 0 is not UTF-8"),
        ("json", lines()[:-20], "JSON parse error"),
        ("json", b'{"question": "a", "question": "b"}\n', "was specified twice in row 0"),
        ("json", b"1\n2\n", "JSON parse error"),
        ("json", b"\0" * 99, "JSON parse error"),
        ("json", lines().decode().encode("utf-16"), "JSON parse error"),
        ("json", b'{"label": NaN, "question": "a", "sentence": "b"}\n' * 2, "row 0 has no finite label"),
        ("csv", b"question,sentence,label\na\xff,b,0\nc,d,1\n", "UTF8"),
        ("csv", b"question,sentence,label\na, b,c,0\nd, e,f,1\n", "more fields"),
        ("csv", b'question,sentence,label\n"a,b,0\nc,d,1\n', "EOF inside string"),
        ("csv", b"question,sentence,label\na,b,0\nc,d,\ne,f,1\n", "row 1 has no finite label"),
        ("csv", b"question,sentence,label\na,b,0.5\nc,d,inf\n", "row 1 has no finite label"),
        ("csv", b"question,sentence,label\na,b," + b"9" * 30 + b"\nc,d,1\n", "cannot be loaded"),
        ("csv", b"question\tsentence\tlabel\na\tb\t0\n", "there is no column `label`"),
        ("csv", b"\xff\xfe\x00" * 99, "cannot be loaded"),
        ("parquet", parquet(COLUMNS)[:-20], "Parquet magic bytes not found"),
        ("parquet", parquet(COLUMNS)[:4] + b"\xff" * 40 + parquet(COLUMNS)[44:], "cannot be loaded"),
        ("parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1", "cannot be loaded"),
        ("parquet", parquet({**COLUMNS, "sentence": NOT_UTF8}), "`sentence` of row 2 is not UTF-8"),
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


def test_megabytes_of_text_give_the_same_tokens(layout: Layout) -> None:
    """One word without end, and words without end: cut to the length that the model reads."""
    for size in (1_000_000, 10_000_000):
        changes = [{"question": "x" * size}, {"question": "who is " * (size // 7)}]
        rows = prepared(layout, "json", lines(*changes))
        for place, changed in enumerate(changes):
            assert rows.table["question"][place].as_py() == changed["question"]
        tokens = rows.tokens(0, 2)
        short = prepared(layout, "json", lines({"question": "x" * 200}, {"question": "who is " * 50}))
        assert tokens == short.tokens(0, 2)


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
        assert "the same label" in message(lambda rows=rows: labels_of(rows, "label", "split"))
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
    prepare.run_targets(run, settings, "validation")
    finetune.run(run, settings, 0)
    attribute(run, settings)
    scores = ScoreStore.open(run.scores("validation")).scores(0, 1)
    assert scores.shape == (1, 5)
    assert np.isfinite(scores).all()
    found = opened(run, settings).explain(("who?", "he did."))
    assert len(found.proponents) == len(found.opponents) == 1


def test_targets_without_rows_are_named_and_leave_nothing(layout: Layout, tmp_path: Path) -> None:
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("question,sentence,label\na,b,0\nc,d,1\n")
    dev.write_text("question,sentence,label\n")
    settings = settings_of("csv", train, dev)
    prepare.run_train(layout, settings)
    assert "`validation` has no rows" in message(
        lambda: prepare.run_targets(layout, settings, "validation")
    )
    assert not layout.targets("validation").exists()
    assert "targets.none.size" in message(lambda: parse_settings({"targets": {"none": {"size": 0}}}))
