"""A finished run in Python and by `top` and `compare`: its lists, its targets, and another run."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from doctest import DocTestParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, attribute, small_settings
from explained import digests, opened
from hostile import message
from typer.testing import CliRunner, Result

from trak_steps import Run
from trak_steps.api.viewer import viewer_records
from trak_steps.cli import app
from trak_steps.config import Settings
from trak_steps.console.results import target_lines
from trak_steps.run.layout import Layout
from trak_steps.steps.data import prepare
from trak_steps.steps.evaluation import find_mislabelled


@pytest.fixture(scope="module")
def run(small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the small run, which no test changes."""
    root = tmp_path_factory.mktemp("opened") / "small"
    shutil.copytree(small_run[0].root, root)
    return opened(Layout(root), small_run[1])


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})


def test_what_a_row_influences_is_its_scores_strongest_first(run: Run) -> None:
    row = run.train[7]["row"]
    found = run.influence(row)
    scores = run.scores("validation").scores.sel(train=row)
    assert len(found) == 5
    assert np.array_equal(found.score, scores.values[found.target])
    assert found.score.abs().is_monotonic_decreasing
    assert found.target_row.tolist() == scores.target.values[found.target].tolist()
    assert "no train row has this id" in message(lambda: run.influence(10**6))


def test_without_all_scores_a_row_has_the_targets_that_list_it(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "small"
    shutil.copytree(run.path, root)
    settings = small_settings(scores={"matrix": "none"})
    attribute(Layout(root), settings)
    fewer = opened(Layout(root), settings)
    row = int(fewer.top("validation", target=2).train_row[0])
    found = fewer.influence(row)
    listed = fewer.top(row=row)
    assert sorted(found.target) == sorted(listed.target)
    assert sorted(found.score) == sorted(listed.score)
    assert "scores.matrix" in message(lambda: fewer.scores())


def test_the_overview_counts_the_trainings_that_are_right(run: Run) -> None:
    found = run.overview()
    labels = run.target_rows("validation").column("label")
    assert found.target.tolist() == list(range(5))
    assert np.allclose(found.margin, run.margins("validation").mean(0))
    assert np.array_equal(found.right, (run.predictions("validation") == labels).mean(0))
    assert found.label_name.tolist() == [run.labels[label] for label in labels]


def test_top_without_more_lists_wrong_targets_first(run: Run) -> None:
    done = command("top", str(run.path))
    assert done.exit_code == 0
    head, *lines = done.output.splitlines()
    assert head.split() == ["target", "row", "right", "margin", "label", "text"]
    order = [int(line.split()[0]) for line in lines]
    expected = run.overview().sort_values(["right", "margin", "target"]).target.tolist()
    assert order == expected
    assert max(map(len, lines)) <= 80


def test_top_shows_a_target_with_its_lists_and_a_row_with_its_targets(run: Run) -> None:
    listed = run.top(target=3)
    shown = command("top", str(run.path), "--target", "3", "--top", "2").output
    for side, score in ((side, of.score.iloc[0]) for side, of in listed.groupby("side")):
        assert f"  {score:+.3f}" in shown, side
    assert f"row {listed.train_row[0]}]" in shown.replace("\n                  ", " ")
    assert shown.count(", row ") == 4 + 1
    row = int(listed.train_row[0])
    found = command("top", str(run.path), "--row", str(row)).output
    assert f"train row {row}, labelled" in found
    assert found.count(", target ") == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "5"), "validation: has targets 0 to 4, not 5"),
        (("--row", "1000000"), "no train row has this id"),
        (("--targets", "test"), "test: is no target set; there are validation"),
    ],
)
def test_a_target_row_or_set_that_is_not_there_is_named(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    before = digests(run.path)
    for form in ((), ("--json",)):
        assert said in str(command("top", str(run.path), *arguments, *form).exception)
    assert digests(run.path) == before


def test_what_is_no_target_row_or_text_is_named(run: Run) -> None:
    for wrong in (True, np.True_, 3.5, "3"):
        for call in (lambda: run.top(target=wrong), lambda: run.top(row=wrong)):  # noqa: B023
            assert f"is {wrong!r}, not a whole number" in message(call)
        assert message(lambda: run.influence(wrong)).startswith("row: is")  # noqa: B023
    assert len(run.top(target=np.int32(3))) == len(run.top(target=3)) > 0
    row = run.train_rows.column("row")[7]
    assert len(run.top(row=row)) == len(run.top(row=int(row)))
    for wrong in (None, 5):
        assert f"texts: are {wrong}, which" in message(lambda: run.explain(wrong))  # type: ignore[call-overload]  # noqa: B023
        assert "texts: are" in message(lambda: list(run.explain_stream(wrong)))  # type: ignore[arg-type]  # noqa: B023


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ((0.089, -0.024), ("+0.089 ± 0.012", "-0.024 ± 0.012")),
        ((123.4, 0.5), ("+123.400 ± 0.012", "+0.500 ± 0.012")),
        ((0.00089, -0.0001), ("+0.00089 ± 0.01200", "-0.00010 ± 0.01200")),
        ((3e-12, -1.2e-14), ("+3.0e-12 ± 1.2e-02", "-1.2e-14 ± 1.2e-02")),
        ((0.0, -0.0), ("+0.000 ± 0.012", "-0.000 ± 0.012")),
    ],
)
def test_small_scores_are_shown_with_digits(scores: tuple[float, float], shown: tuple[str, str]) -> None:
    """As many for all of a list, and for their errors."""
    of_target = {"target": 0, "target_row": 4, "target_text": "t", "target_label": 1, "margin": 1.0}
    of_row = {"train_row": 7, "train_text": "a", "train_label": 1, "side": "proponent"}
    rows = [
        {**of_target, **of_row, "sum_of_scores": 0.0, "score": score, "std": 0.024, "sign_stable": True}
        for score in scores
    ]
    lines = [line for line in target_lines(rows, ["text"], 4, 80) if line.startswith("  ")]
    assert [line.split("  a ")[0].strip() for line in lines] == list(shown)


def test_tables_for_programs_hold_the_lists(run: Run) -> None:
    listed = run.top(target=1)
    rows = json.loads(command("top", str(run.path), "--target", "1", "--json").output)
    assert [row["train_row"] for row in rows] == listed.train_row.tolist()
    assert [row["score"] for row in rows] == pytest.approx(listed.score.tolist())
    assert rows[0]["sign_stable"] is None  # of a single training
    table = list(csv.DictReader(io.StringIO(command("top", str(run.path), "--csv").output)))
    every = run.top()
    assert [int(row["train_row"]) for row in table] == every.train_row.tolist()
    assert [row["train_sentence"] for row in table] == every.train_sentence.tolist()
    for wrong in (("--csv", "--json"), ("--row", "1", "--target", "1"), ("--row", "1", "--jsonl")):
        assert command("top", str(run.path), *wrong).exit_code == 2


def test_the_other_viewers_format(run: Run) -> None:
    """The keys and types that PAIR-code/pretraining-tda names for its results, an object in a line."""
    done = command("top", str(run.path), "--jsonl", "--top", "2")
    records = [json.loads(line) for line in done.output.split("\n") if line]
    assert len(records) == 5
    texts = {"example_id", "query_set", "inputs_plaintext", "targets_plaintext"}
    numbers = {"model_confidence", "proponent_scores", "opponent_scores"}
    lists = {"proponents", "proponent_ids", "opponents", "opponent_ids", "proponent_correct"}
    for target, record in enumerate(records):
        listed = run.top(target=target).query("rank <= 2")
        assert record.keys() == texts | numbers | lists
        assert all(isinstance(record[name], str) and record[name] for name in texts)
        for side, of_side in listed.groupby("side"):
            assert record[f"{side}_ids"] == [str(row) for row in of_side.train_row]
            assert record[f"{side}_scores"] == pytest.approx(of_side.score.tolist())
            for shown, sentence in zip(record[f"{side}s"], of_side.train_sentence, strict=True):
                assert sentence in shown
        proponents = listed[listed.side == "proponent"]
        same = (proponents.train_group == proponents.target_group).tolist()
        assert record["proponent_correct"] == same
        margin = listed.margin.iloc[0]
        assert record["model_confidence"] == pytest.approx(1 / (1 + math.exp(-margin)), abs=1e-6)
    plain = run.top_table(target=0).drop_columns(["train_group", "target_group"])
    (record,) = viewer_records(plain, "validation", run.text_columns, probabilities=False)
    assert not {"proponent_correct", "model_confidence"} & record.keys()


def test_a_run_agrees_with_itself(run: Run) -> None:
    found = run.compare(run, top=3)
    assert (found.shared_proponents, found.shared_opponents) == (1, 1)
    assert found.correlation == pytest.approx(1)
    done = command("compare", str(run.path), str(run.path))
    assert "5 targets of validation are in both runs" in done.output


def other_run(run: Run, root: Path, **sections: Any) -> Run:
    """The same with other settings, from its features on."""
    shutil.copytree(run.path, root)
    settings = small_settings(**sections)
    attribute(Layout(root), settings)
    return opened(Layout(root), settings)


def test_runs_of_other_settings_are_compared_by_their_rows(run: Run, tmp_path: Path) -> None:
    other = other_run(run, tmp_path / "small", features={"dim": 8}, scores={"top": 2})
    found = run.compare(other)
    assert found.top == 2
    mine, theirs = run.top().query("rank <= 2"), other.top()
    shares = []
    for target in range(5):
        first, second = (
            set(of[(of.target == target) & (of.side == "proponent")].train_row) for of in (mine, theirs)
        )
        shares.append(len(first & second) / 2)
    assert found.shared_proponents == pytest.approx(np.mean(shares))
    both = [of.scores("validation").scores.to_pandas() for of in (run, other)]
    expected = both[0].corrwith(both[1], method="spearman")
    assert found.targets.correlation.tolist() == pytest.approx(
        expected[found.targets.target_row].tolist(), abs=1e-6
    )


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ({"train_size": 40}, "have other train rows, 60 and 40 with 40 in both"),
        ({"flip_labels": 0.5}, "has another label in each, as have"),
    ],
)
def test_runs_whose_rows_differ_are_refused(
    run: Run, tmp_path: Path, dataset: dict[str, Any], said: str
) -> None:
    settings = small_settings(dataset=dataset)
    layout = Layout(tmp_path / "small")
    shutil.copytree(run.layout.model, layout.model)
    prepare.run_train(layout, settings)
    prepare.run_targets(layout, settings, "validation")
    other = opened(layout, settings)
    assert said in message(lambda: run.compare(other))
    assert said in str(command("compare", str(run.path), str(other.path)).exception)


def test_settings_that_a_run_does_not_hold_are_given_to_compare(run: Run, tmp_path: Path) -> None:
    """Of either run, by the options that the error names."""
    bare = tmp_path / "small"
    shutil.copytree(run.path, bare)
    Layout(bare).asked.unlink()
    config = tmp_path / "small.yaml"
    config.write_text(json.dumps(SMALL))  # which YAML has
    for runs, option in (((bare, run.path), "--config"), ((run.path, bare), "--other-config")):
        refused = command("compare", *map(str, runs))
        assert f"{bare}: does not say" in str(refused.exception)
        assert option in str(refused.exception)
        done = command("compare", *map(str, runs), option, str(config))
        assert "shared of 3 proponents: 100%" in done.output, option


def test_every_example_of_a_docstring_works(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, tmp_path / "results" / "demo")
    find_mislabelled.run(Layout(tmp_path / "results" / "demo"), run.settings)
    (tmp_path / "results" / "other").symlink_to(tmp_path / "results" / "demo")
    row = {"question": "who?", "sentence": "he did."}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"json": json}
    tried = set()
    for name, of in {"": Run, **vars(Run)}.items():
        for example in DocTestParser().get_examples(getattr(of, "__doc__", None) or ""):
            source = example.source.replace("(17)", f"({run.train[17]['row']})")
            exec(compile(source, name, "single"), names)  # raises what is wrong with it
            tried.add(name)
    assert tried >= {"", "top", "scores", "explain", "explain_stream", "suspects", "features", "lds"}


def test_the_package_loads_nothing_before_it_is_asked() -> None:
    code = (
        "import sys; import trak_steps; before = set(sys.modules);"
        "assert not {'numpy', 'torch', 'zarr', 'pyarrow', 'trak_steps.api'} & before, before;"
        "trak_steps.Run; large = {'torch', 'transformers', 'datasets', 'xarray', 'scipy'};"
        "assert not large & set(sys.modules), large & set(sys.modules);"
        "import trak_steps.api.explain;"  # which needs no more than models do
        "assert not {'datasets', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
