"""A run whose train set is summed and judged in parts, a job each, and the same run by one job each."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.damage import remove
from workspace import TINY, Workspace, copy_project

from trak_steps.audit.find import present
from trak_steps.audit.status import status_of
from trak_steps.audit.verify import verify_run
from trak_steps.config import parse_settings
from trak_steps.run.jobs import jobs_of
from trak_steps.run.layout import Layout
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import load_table
from trak_steps.store.tree import RECEIPT

# Of 40 rows, three parts: of shards that are not those of the finished run, so all is made anew.
WHOLE: dict[str, Any] = {
    "features": {"dim": 8, "shard_size": 14},
    "scores": {"top": 3, "loss_weight_power": 1.0},
}
IN_PARTS = {**WHOLE, "execution": {**TINY["execution"], "rows_per_job": 14}}
ASKED = ("report", "find_mislabelled")
OF_PARTS = {
    "sum_kernel": 6,
    "sum_weighted": 3,
    "sum_classes": 3,
    "find_support": 6,
    "pick_suspects": 1,
    "find_opponents": 3,
}


@pytest.fixture(scope="module")
def space(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the finished run whose features, kernels and what follows were made in parts."""
    made = Workspace(tmp_path_factory.mktemp("parts") / "project")
    shutil.copytree(finished.root, made.root, symlinks=True)
    remove(made.root / "results" / "tiny" / "evaluation")
    planned = made.planned(*ASKED, **IN_PARTS)
    assert {rule: planned.get(rule) for rule in OF_PARTS} == OF_PARTS
    assert planned["kernel"] == 2
    done = made.snakemake("--cores", "2", *ASKED, **IN_PARTS)
    assert done.returncode == 0, done.stdout
    return made


def test_nothing_is_left_to_do_and_all_is_known(space: Workspace) -> None:
    layout, settings = Layout(space.root / "results" / "tiny"), parse_settings({**TINY, **IN_PARTS})
    assert space.planned(*ASKED, **IN_PARTS) == {}
    jobs = {job.name: job for group in jobs_of(settings, layout) for job in group.jobs or ()}
    for name in ("kernel/1/14-28", "sums/28-40", "evaluation/support/0/0-14", "evaluation/picked"):
        assert layout.log(name).is_file()
        assert layout.times(name).is_file()
        assert all(file.is_file() for file in jobs[name].outputs)
    made = {
        file.parent if file.name == RECEIPT else file for job in jobs.values() for file in job.outputs
    }
    assert set(present(layout)) <= made | set(verify_run(layout, settings).surplus)
    assert verify_run(layout, settings).problems == []
    assert status_of(layout).state == "complete"


def test_a_kernel_that_is_deleted_needs_its_missing_part_alone(space: Workspace, tmp_path: Path) -> None:
    """And comes out the same, bit for bit."""
    copy = Workspace(tmp_path / "project")
    shutil.copytree(space.root, copy.root, symlinks=True)
    layout = Layout(copy.root / "results" / "tiny")
    before = artefact_manifest(layout.kernel("0")).content
    for path in (layout.kernel("0"), layout.kernel_part("0", "14-28")):
        remove(path)
    assert copy.planned("kernels", **IN_PARTS) == {"sum_kernel": 1, "kernel": 1}
    done = copy.snakemake("--cores", "2", "kernels", **IN_PARTS)
    assert done.returncode == 0, done.stdout
    assert artefact_manifest(layout.kernel("0")).content == before


def test_one_job_each_finds_the_same(space: Workspace) -> None:
    """Kernels of parts are kept; then all is made from nothing but the features."""
    layout = Layout(space.root / "results" / "tiny")
    before = _found(layout)
    planned = space.planned(*ASKED, **WHOLE)
    assert not planned.keys() & OF_PARTS.keys()
    assert {"kernel", "calibrate", "find_mislabelled"} <= planned.keys()
    done = space.snakemake("--cores", "2", *ASKED, **WHOLE)
    assert done.returncode == 0, done.stdout
    assert "kept" in layout.log("kernel/0").read_text()
    assert space.planned(*ASKED, **WHOLE) == {}
    for path in (layout.root / "kernel", layout.root / "scores", layout.calibration, layout.evaluation):
        remove(path)
    done = space.snakemake("--cores", "2", *ASKED, **WHOLE)
    assert done.returncode == 0, done.stdout
    assert not re.search("sum-|support|opponents", done.stdout)
    after = _found(layout)
    scores, suspects, measures = zip(before, after, strict=True)
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-6 * np.abs(scores[0]).max())
    assert suspects[0] == suspects[1]
    np.testing.assert_allclose(measures[1], measures[0], rtol=1e-10)


REGRESSION = """
class Regression:
    def output(self, logits, labels):
        return logits[:, 0]

    def loss_weight(self, logits, labels):
        return labels - logits[:, 0]
"""


def test_no_wrong_labels_are_looked_for_where_labels_are_numbers(tmp_path: Path) -> None:
    """Which is known after the rows are prepared, though the number of rows is known before."""
    space = Workspace(tmp_path / "project")
    copy_project(space.root)
    (space.root / "tasks.py").write_text(REGRESSION)
    for name, count in (("train", 40), ("validation", 12)):
        rows = [{"text": f"number {i} is here", "label": i / 7} for i in range(count)]
        (space.root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: f"{name}.jsonl" for name in ("train", "validation")}
    numbers: dict[str, Any] = {
        **IN_PARTS,
        "dataset": {"path": "json", "data_files": files, "text": ["text"], "train_size": 40},
        "features": {**WHOLE["features"], "model_output": "tasks:Regression"},
    }
    asked = "find_mislabelled"
    assert space.planned(asked, **numbers)["sum_classes"] == 3
    done = space.snakemake("--cores", "2", asked, **numbers)
    assert done.returncode == 0, done.stdout
    layout = Layout(space.root / "results" / "tiny")
    assert len(load_table(layout.suspects, "suspects")[0]) == 0
    assert set(layout.evaluation.iterdir()) == {layout.suspects, layout.mislabelled}
    assert layout.kernel_part("0", "0-14").exists()
    assert space.planned(asked, **numbers) == {}
    again = space.planned(asked, "--forcerun", asked, **numbers)
    assert again == {"find_mislabelled": 1}


def _found(layout: Layout) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """All scores; the suspects, and those that argue against them; the measures of suspicion."""
    store = ScoreStore.open(layout.scores("validation"))
    table = load_table(layout.suspects, "suspects")[0]
    named = table.select(["row", "predicted", "against_row", "against_label_name"]).to_pylist()
    columns = ("trust", "support", "mean_score", "self_influence", "margin", "loss")
    return store.scores(0, 40), named, np.stack([table[name].to_numpy() for name in columns])
