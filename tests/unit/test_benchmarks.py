"""The README's figures are those of the committed benchmark, but for rounding and noise."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import scores
from benchmarks.features import crossover_table, hard_table, table
from benchmarks.measure import scoring_tables, tasks
from benchmarks.measure.scoring_figure import digest
from trak_steps.config import load_settings
from trak_steps.errors import TrakError

ROOT = Path(__file__).parents[2]
SCORES = json.loads((ROOT / "benchmarks/results/scores.json").read_text())
FIGURES = json.loads((ROOT / "benchmarks/results/features.json").read_text())


def _split(text: str) -> tuple[list[str], list[float]]:
    """A text's lines without their numbers, and the numbers."""
    number = r"[-+]?\d[\d,]*(?:\.\d+)?"
    found = [float(each.replace(",", "")) for each in re.findall(number, text)]
    return re.sub(number, "0", text).splitlines(), found


def _same_figures(shown: str, measured: str) -> None:
    """The same rows and columns; figures within a tenth, as another measurement gives them."""
    (lines, figures), (wanted, exact) = _split(shown), _split(measured)
    assert lines == wanted
    assert figures == pytest.approx(exact, rel=0.1, abs=0.02)


def _shown(page: str, like: str) -> str:
    """A page's table that begins like another one."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    wanted = like.splitlines()
    start = lines.index(wanted[0])
    return "\n".join(lines[start : start + len(wanted)])


@pytest.mark.parametrize(
    ("page", "made"),
    [
        ("README.md", table(FIGURES)),
        ("benchmarks/README.md", crossover_table(FIGURES)),
        ("benchmarks/README.md", hard_table(FIGURES)),
        ("benchmarks/README.md", scores.table(SCORES)),
    ],
    ids=["features", "crossover", "hard", "scores"],
)
def test_the_tables_shown_are_the_benchmarks(page: str, made: str) -> None:
    _same_figures(_shown(page, made), made)


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        ("step_ratio_128", 1.0),
        ("step_ratio_qnli", 0.5),
        ("metric_ratio", 1.05),
        ("kernel_error_ratio", 1.3),
        ("memory_ratio_10x", 1.05),
        ("self_check_share", 0.02),
    ],
)
def test_the_committed_figures_keep_their_limits(key: str, limit: float) -> None:
    assert 0 < FIGURES[key] <= limit


def test_scores_of_many_targets_take_little_more_than_the_product() -> None:
    """On one core and on two, by what a run has by default: several trainings, of three checkpoints."""
    for of in SCORES["speed"]:
        if of["targets"] >= 1000 and of["checkpoints"] > 1:
            assert all(each["share"] >= 0.7 for each in of["threads"].values())


def test_scores_of_a_million_rows_take_no_more_memory_than_of_ten_thousand() -> None:
    rows = SCORES["by_rows"]["rows"]
    assert (rows[0]["rows"], rows[-1]["rows"]) == (10_000, 1_000_000)
    assert SCORES["memory_ratio"] <= 1.05
    assert 0.9 < SCORES["by_rows"]["power"] < 1.1
    drawn = (ROOT / "docs/figures/scores.svg").read_text(encoding="utf-8")
    assert scores.digest(ROOT / "benchmarks/results/scores.json") in drawn


def test_the_reference_is_slower_and_scores_are_as_good() -> None:
    assert FIGURES["speedup_traker"] >= 200
    assert FIGURES["score_correlation"] >= 1.0


SCORINGS = {
    task: json.loads((ROOT / f"benchmarks/results/scoring-{task}.json").read_text())
    for task in (*scoring_tables.TASKS, *scoring_tables.FROM_SCRATCH)
}


@pytest.mark.parametrize("page", scoring_tables.PAGES, ids=str)
def test_the_scorings_compared_are_those_of_the_pages(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- scorings: " in text
    _same_figures(text, scoring_tables.filled(text, scoring_tables.committed(ROOT)))


@pytest.mark.parametrize("task", scoring_tables.TASKS)
def test_the_curves_drawn_are_those_of_the_figures(task: str) -> None:
    drawn = (ROOT / f"docs/figures/scoring-{task}.svg").read_text(encoding="utf-8")
    assert digest(ROOT / f"benchmarks/results/scoring-{task}.json") in drawn


@pytest.mark.parametrize("task", SCORINGS)
@pytest.mark.parametrize("kind", ["lds", "class_adjusted"])
def test_the_default_beats_the_reference_and_every_baseline(task: str, kind: str) -> None:
    """By the intervals of the differences, on a truth that is sharp enough."""
    found = SCORINGS[task]
    assert found["rows"] >= 1000
    assert found["targets"] >= 100
    assert found["subsets"] >= 40
    assert found["lds"]["ceiling"]["value"] >= 0.6
    less = found[kind]["less_the_default"]
    rules = [name for name in less if name.startswith("reference rule")]
    assert len(rules) >= 2
    # Counting labels wins a good part of the plain LDS where there are many classes.
    others = scoring_tables.BASELINES if kind == "class_adjusted" else ("random",)
    for other in (*rules, *others):
        if other != "pretrained embeddings" or task in scoring_tables.TASKS:
            assert less[other]["high"] < 0, other


def test_fold_features_score_no_worse_than_dense_ones() -> None:
    for kind in ("lds", "class_adjusted"):
        assert SCORINGS["qnli"]["projections"][kind]["less_dense"]["fold"]["high"] >= 0


def test_the_demo_as_a_task_is_of_its_rows_with_the_defaults(tmp_path: Path) -> None:
    twice = tasks.named("demo_twice", None, None)
    assert len(twice.train) == twice.rows == 2 * tasks.named("demo", None, None).rows
    settings = load_settings(tasks.prepare(twice, "not asked for", tmp_path / "twice"))
    assert settings.model.name_or_path == "demo"
    assert settings.features.metric == "adam"


@pytest.mark.parametrize(
    ("name", "files", "named"),
    [("demo", True, "demo"), ("trec", False, "trec"), ("sst2", True, "demo_twice")],
)
def test_a_task_that_does_not_fit_its_files_is_refused(name: str, files: bool, named: str) -> None:
    file = Path("rows.txt") if files else None
    with pytest.raises(TrakError, match=named):
        tasks.named(name, file, file)
