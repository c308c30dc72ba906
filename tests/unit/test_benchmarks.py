"""The README's figures are those of the committed benchmark."""

import json
from pathlib import Path

import pytest

from benchmarks.features import crossover_table, hard_table, table

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
