"""The README's figures are those of the committed benchmark."""

import json
from pathlib import Path

import pytest

from benchmarks.features import crossover_table, hard_table, table
from benchmarks.scoring import short_table
from benchmarks.scoring import table as scoring_table

ROOT = Path(__file__).parents[2]
FIGURES = json.loads((ROOT / "benchmarks/results/features.json").read_text())


def test_the_tables_shown_are_the_benchmarks() -> None:
    assert table(FIGURES) in (ROOT / "README.md").read_text(encoding="utf-8")
    more = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert crossover_table(FIGURES) in more
    assert hard_table(FIGURES) in more


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        ("step_ratio_128", 1.0),
        ("step_ratio_qnli", 0.5),
        ("kernel_error_ratio", 1.3),
        ("memory_ratio_10x", 1.05),
        ("self_check_share", 0.02),
    ],
)
def test_the_committed_figures_keep_their_limits(key: str, limit: float) -> None:
    assert 0 < FIGURES[key] <= limit


def test_the_reference_is_slower_and_scores_are_as_good() -> None:
    assert FIGURES["speedup_traker"] >= 200
    assert FIGURES["score_correlation"] >= 1.0


def test_the_scorings_compared_are_those_of_the_docs() -> None:
    """And the default beats the reference, and the best baseline, with intervals apart."""
    found = json.loads((ROOT / "benchmarks/results/scoring-qnli.json").read_text())
    assert scoring_table(found) in (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    assert short_table(found) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert found["rows"] >= 1000
    assert found["targets"] >= 100
    assert found["subsets"] >= 60
    assert found["lds"]["ceiling"]["value"] >= 0.6
    for kind in ("lds", "class_adjusted"):
        ways = found[kind]["ways"]
        baselines = ("gradient dot product", "gradient cosine", "same label", "random")
        references = [name for name in ways if name.startswith("reference rule")]
        for other in (*baselines, *references):
            assert ways["default"]["low"] > ways[other]["high"], (kind, other)
