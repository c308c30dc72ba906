"""A run's own targets explained as texts, against the lists that its steps made of them."""

import hashlib
from pathlib import Path

import numpy as np

from trak_steps import Run
from trak_steps.config import Settings
from trak_steps.run.asked import Asked
from trak_steps.run.layout import Layout

LISTED = {"side", "rank", "score", "std", "sign_stable", "rank_best", "rank_worst"}


def opened(layout: Layout, settings: Settings) -> Run:
    """A run that steps made, as the workflow leaves it."""
    Asked(settings, ("all",)).save(layout)
    return Run(layout.root)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_explained_as_listed(layout: Layout, settings: Settings, tolerance: float = 1e-4) -> None:
    """Scores relative to the largest of their target; rows, signs and ranks are the same."""
    run = opened(layout, settings)
    rows = run.target_rows("validation")
    texts = rows.table.select(rows.text_columns).to_pylist()
    before = digests(layout.root)
    explained = run.explain(texts, rows.column("label").tolist(), settings.scores.top)
    assert digests(layout.root) == before
    assert len(explained) == len(rows)
    listed = run.top("validation")
    for target, found in enumerate(explained):
        expected = listed[listed.target == target].reset_index(drop=True)
        largest = expected.score.abs().max()
        top = found.top
        assert set(top.columns) == {
            name for name in expected.columns if name.startswith("train_") or name in LISTED
        }
        for name in ("score", "std"):
            difference = np.abs(top[name] - expected[name]).max()
            assert not difference > tolerance * largest, (target, name)
            assert (top[name].isna() == expected[name].isna()).all()
        exact = ["side", "rank", "sign_stable", "rank_best", "rank_worst", "train_row", "train_label"]
        assert top[exact].equals(expected[exact]), (target, top[exact], expected[exact])
        assert abs(found.margin - expected.margin[0]) < tolerance * max(1, abs(expected.margin[0]))
        room = tolerance * largest * len(run.train_rows) ** 0.5
        assert abs(found.sum_of_scores - expected.sum_of_scores[0]) < room
