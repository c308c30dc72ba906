"""What is explained of texts, in Python and by the command: answers, refusals, and nothing touched."""

import json
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained import digests, opened
from hostile import ESCAPES, message
from typer.testing import CliRunner, Result

from trak_steps import Run
from trak_steps.api import explain as explaining
from trak_steps.api.explain import Explainer
from trak_steps.api.texts import query_of_object
from trak_steps.cli import app
from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.featurizer import Featurizer
from trak_steps.run.layout import Layout
from trak_steps.store.manifest import Manifest

TEXT = ("Who founded Monburg?", "A statue of Devsk, who founded Monburg, stands in the square.")


@pytest.fixture(scope="module")
def run(small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the small run, which no test changes."""
    root = tmp_path_factory.mktemp("explained") / "small"
    shutil.copytree(small_run[0].root, root)
    return opened(Layout(root), small_run[1])


@pytest.fixture
def damaged(run: Run, tmp_path: Path) -> Run:
    """A copy that a test may damage."""
    shutil.copytree(run.path, tmp_path / "small")
    return Run(tmp_path / "small")


def command(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given, env={"COLUMNS": "80"})


def test_one_text_has_one_explanation_and_many_have_a_list(run: Run) -> None:
    by_name = dict(zip(run.text_columns, TEXT, strict=True))
    one, other = run.explain(TEXT), run.explain(by_name)
    (of_list,) = run.explain([TEXT], top=2)
    assert one.texts == other.texts == of_list.texts == by_name
    assert one.margins == pytest.approx(other.margins)
    assert len(one.proponents) == len(one.opponents) == 10
    assert len(of_list.proponents) == 2
    assert one.top.side.tolist() == ["proponent"] * 10 + ["opponent"] * 10
    assert one.proponents["rank"].tolist() == list(range(1, 11))
    assert one.proponents.score.is_monotonic_decreasing
    assert one.opponents.score.is_monotonic_increasing
    assert one.tokens > 10
    assert one.tokens_cut == 0
    with pytest.raises(FrozenInstanceError):
        one.tokens = 3  # type: ignore[misc]
    assert run.explain([]) == []


def test_without_a_label_every_class_is_explained_the_predicted_one_first(run: Run) -> None:
    found = run.explain(TEXT)
    assert not found.asked
    assert found.prediction_name == run.labels[int(found.prediction)]
    assert found.label == found.prediction == found.classes[0].label
    assert sorted(of.label for of in found.classes) == [0, 1]
    assert found.margin == pytest.approx(max(found.margins_of_classes.values()), abs=1e-5)
    assert found.margin >= 0
    assert set(found.margins_of_classes) == set(run.labels)


@pytest.mark.parametrize("label", [1, "1", "not_entailment", np.int64(1)])
def test_a_label_is_a_name_or_a_number(run: Run, label: Any) -> None:
    found = run.explain(TEXT, label)
    assert found.asked
    assert (found.label, found.label_name) == (1, "not_entailment")
    assert len(found.classes) == 1
    assert found.margin == pytest.approx(found.margins_of_classes["not_entailment"], abs=1e-5)


def test_each_text_may_have_its_own_label(run: Run) -> None:
    found = run.explain([TEXT, TEXT, TEXT], ["entailment", None, 1])
    assert [of.label for of in found] == [0, found[1].prediction, 1]
    assert [of.asked for of in found] == [True, False, True]
    # A stream is read as it is explained.
    stream = run.explain_stream(iter([TEXT] * 2), iter(["entailment", 1]))
    assert [of.label for of in stream] == [0, 1]
    for labels in ([0], [0, 1, 0]):
        assert message(lambda given=labels: run.explain([TEXT, TEXT], given)).startswith("label: ")


def test_of_many_classes_those_of_the_largest_margins_are_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run.explain([TEXT, ("who?", "he did.")])
    monkeypatch.setattr("trak_steps.api.explain.CLASSES", 1)
    found = run.explain([TEXT, ("who?", "he did.")])
    for few, every in zip(found, whole, strict=True):
        (one,) = few.classes
        assert one.label == every.prediction
        assert one.margins == pytest.approx(every.margins, abs=1e-5)
        assert few.margins_of_classes == pytest.approx(every.margins_of_classes, abs=1e-5)
    shown = command("explain", str(run.path), *TEXT)
    assert "and 1 classes of smaller margins" in shown.output


def test_a_long_text_is_cut_as_the_models_read_it_and_that_is_said(run: Run) -> None:
    limit = run.settings.model.max_length
    long = (TEXT[0], "stone " * 500)
    found = run.explain(long, 0)
    assert found.tokens == limit
    assert found.tokens_cut > 400
    assert found.margin == pytest.approx(run.explain((TEXT[0], "stone " * 100), 0).margin, abs=1e-4)
    shown = command("explain", str(run.path), *long, "--label", "0")
    assert f"the models read the first {limit} of {limit + found.tokens_cut} tokens" in shown.output


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        ("one", None, "1 of the 2"),
        (("a", "b", "c"), None, "3 of the 2"),
        ({"question": "who?"}, None, "has no `sentence`"),
        (("who?", ""), None, "`sentence` is empty"),
        (("who?", " \u200b\n\t\x00"), None, "`sentence` is empty"),
        (("who?", "half \ud800"), None, "`sentence` is not valid Unicode"),
        ({"question": None, "sentence": "a"}, None, "`question` is missing"),
        ({"question": 3, "sentence": "a"}, None, "`question` is of type int"),
        (("who?", "he"), "neither", "no label `neither`; .*entailment, not_entailment"),
        (("who?", "he"), 2, "no label `2`"),
        (("who?", "he"), -1, "no label `-1`"),
        (("who?", "he"), True, "no label `True`"),
        (("who?", "he"), "9" * 5000, "no label `9"),
        (("who?", "he"), 0.5, "no label `0.5`"),
    ],
)
def test_a_text_or_label_that_is_wrong_is_named(run: Run, text: Any, label: Any, said: str) -> None:
    before = digests(run.path)
    with pytest.raises(TrakError, match=f"^text 2: .*{said}"):
        run.explain([TEXT, text], [0, label])
    assert digests(run.path) == before


def test_texts_with_markup_and_escapes_are_explained_and_shown_harmless(run: Run) -> None:
    text = (f"<script>alert(1)</script>{ESCAPES}", "[bold]{{x}} %s ${HOME} \u202e")
    found = run.explain(text)
    assert tuple(found.texts.values()) == text
    shown = command("explain", str(run.path), *text, "--top", "1")
    assert shown.exit_code == 0
    as_json = command("explain", str(run.path), *text, "--json")
    for output in (shown.output, as_json.output):
        assert not set("\x1b\x07\x00\x7f\x9b\u202e\u200b\r") & set(output)
    assert r"\x1b[2J" in shown.output
    assert tuple(json.loads(as_json.output)["texts"].values()) == text


def test_the_command_says_what_is_predicted_and_by_which_rows(run: Run) -> None:
    found = run.explain(TEXT, "entailment")
    shown = command("explain", str(run.path), *TEXT, "--label", "entailment", "--top", "2")
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[0] == f"question: {TEXT[0]}"
    assert f"predicted: {found.prediction_name}" in shown.output
    assert f"margin of entailment: {found.margin:+.2f}" in shown.output
    assert "what speaks for entailment" in lines
    assert "what speaks against entailment" in lines
    first = found.proponents.iloc[0]
    assert any(line.startswith(f"  {first.score:+.3f}") for line in lines)
    assert f"row {first.train_row}]" in shown.output
    assert max(map(len, lines)) <= 80
    every = command("explain", str(run.path), *TEXT).output
    for label in run.labels:
        assert f"what speaks for {label}" in every
    as_json = json.loads(command("explain", str(run.path), *TEXT, "--label", "0", "--json").output)
    (of_class,) = as_json["classes"]
    assert of_class["margin"] == pytest.approx(found.margin)
    assert [row["row"] for row in of_class["opponents"]] == found.opponents.train_row.tolist()


def test_json_lines_are_explained_in_their_order(run: Run, tmp_path: Path) -> None:
    rows = [
        {"question": TEXT[0], "sentence": TEXT[1], "label": "not_entailment", "id": 7},
        {"question": "who?", "sentence": "he did."},
    ]
    lines = "\n\n".join(map(json.dumps, rows)) + "\n"
    file = tmp_path / "texts.jsonl"
    file.write_text(lines)
    for done in (
        command("explain", str(run.path), "--jsonl", str(file)),
        command("explain", str(run.path), "--jsonl", "-", given=lines),
    ):
        found = [json.loads(line) for line in done.output.splitlines()]
        assert [of["texts"]["question"] for of in found] == [TEXT[0], "who?"]
        assert [of["asked"] for of in found] == [True, False]
        assert found[0]["classes"][0]["label_name"] == "not_entailment"
    labelled = command("explain", str(run.path), "--jsonl", str(file), "--label", "entailment")
    labels = [json.loads(line)["classes"][0]["label_name"] for line in labelled.output.splitlines()]
    assert labels == ["not_entailment", "entailment"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "line 2: is not JSON"),
        ("[1, 2]", "line 2: is no JSON object with `question` and `sentence`"),
        ('{"question": "who?"}', "line 2: has no `sentence`"),
        ('{"question": "who?", "sentence": "he", "label": []}', r"line 2: there is no label `\[\]`"),
        ("[" * 100_000, "line 2: is not JSON"),
    ],
    ids=["text", "list", "column", "label", "deep"],
)
def test_a_line_that_is_wrong_is_named(run: Run, line: str, said: str) -> None:
    good = json.dumps(dict(zip(run.text_columns, TEXT, strict=True)))
    done = command("explain", str(run.path), "--jsonl", "-", given=f"{good}\n{line}\n")
    (answer,) = done.output.splitlines()
    assert json.loads(answer)["texts"]["question"] == TEXT[0]
    assert isinstance(done.exception, TrakError)
    with pytest.raises(TrakError, match=said):
        raise done.exception


def test_a_file_that_cannot_be_read_is_named(run: Run, tmp_path: Path) -> None:
    missing = command("explain", str(run.path), "--jsonl", str(tmp_path / "none.jsonl"))
    assert "none.jsonl: cannot be read" in str(missing.exception)
    (tmp_path / "latin.jsonl").write_bytes('{"question": "\u00e9"}\n'.encode("latin-1"))
    latin = command("explain", str(run.path), "--jsonl", str(tmp_path / "latin.jsonl"))
    assert "is not UTF-8" in str(latin.exception)
    assert command("explain", str(run.path)).exit_code == 2
    assert command("explain", str(run.path), "a", "b", "--jsonl", "-").exit_code == 2


@pytest.mark.parametrize(
    "part", ["checkpoints/0", "features/0", "kernel/0.zarr", "scores.calibration.zarr", "data/train"]
)
def test_an_unfinished_run_is_refused_by_what_is_missing(damaged: Run, part: str) -> None:
    shutil.rmtree(damaged.path / part)
    said = message(lambda: damaged.explain(TEXT))
    assert "is not finished" in said
    assert part.split(".")[0] in said


def test_an_altered_checkpoint_or_tokenizer_is_refused(damaged: Run) -> None:
    weights = damaged.layout.checkpoint("0") / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert "model.safetensors is damaged or was altered" in message(lambda: damaged.explain(TEXT))
    weights.write_bytes(kept)
    with (damaged.layout.model / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert "tokenizer.json is damaged or was altered" in message(lambda: damaged.explain(TEXT))


def test_a_run_of_another_version_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trak_steps.api.explain.step_version", lambda _: 1000)
    assert "made by version" in (said := message(lambda: run.explain(TEXT)))
    assert "1000; run the workflow once more" in said


def test_gradients_are_held_against_autograd_again_where_libraries_are_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[object] = []
    monkeypatch.setattr(Featurizer, "check", lambda self: checked.append(self))
    run.explain(TEXT)
    assert checked == []
    versions = {**Manifest("x").versions, "torch": "1.0"}
    monkeypatch.setattr(explaining, "library_versions", lambda: versions)
    run.explain(TEXT)
    assert len(checked) == len(run.checkpoints)


def test_as_many_texts_go_together_as_the_memory_allows(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    explain = Explainer._explain

    def counted(self: Explainer, queries: Any) -> Any:
        together.append(len(queries))
        return explain(self, queries)

    monkeypatch.setattr(Explainer, "_explain", counted)
    monkeypatch.setattr("trak_steps.api.explain.TOGETHER", 6)
    assert len(run.explain([TEXT] * 7)) == 7
    assert together == [3, 3, 1]


def test_labels_that_are_numbers_are_numbers() -> None:
    class Numbers:
        text_columns = ("sentence",)
        label_names: tuple[str, ...] = ()

    train: Any = Numbers()
    assert query_of_object({"sentence": "a", "label": "0.5"}, train, "x").label == 0.5
    for wrong in ("b", "nan", True, [1]):
        with pytest.raises(TrakError, match="is no number"):
            query_of_object({"sentence": "a", "label": wrong}, train, "x")
