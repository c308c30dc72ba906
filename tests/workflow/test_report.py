"""The run as a page, as the workflow makes it: when, and what is in it."""

import shutil
import zipfile
from pathlib import Path

import pytest
from workspace import WHOLE, Workspace

from trak_steps.run.layout import Layout
from trak_steps.store.page import page_manifest

PAGE = "results/tiny/report.html"


@pytest.fixture
def whole(finished: Workspace, tmp_path: Path) -> Workspace:
    """A workspace of its own, whose run is complete with its evaluation."""
    space = Workspace(tmp_path / "project")
    shutil.copytree(finished.root, space.root, symlinks=True)
    return space


def test_it_waits_for_the_evaluation_where_that_is_asked_for(whole: Workspace) -> None:
    layout = Layout(whole.root / "results" / "tiny")
    found = page_manifest(whole.root / PAGE, "report").made_from
    assert {layout.name(path) for path in (layout.lds, layout.suspects, layout.removals)} <= set(found)
    assert whole.planned(*WHOLE, page=True) == {}
    # Where it is not, what is there of it is shown all the same, and nothing of it is made anew.
    assert whole.planned(page=True) == {"report": 1}
    assert whole.snakemake("--cores", "1").returncode == 0
    assert page_manifest(whole.root / PAGE, "report").made_from == found
    assert whole.planned(page=True) == {}
    for path in layout.figures():
        path.unlink(missing_ok=True)
    assert whole.planned(page=True) == {"report": 1}


def test_an_evaluation_of_other_scores_is_not_shown(whole: Workspace) -> None:
    assert whole.snakemake("--cores", "2", kernel={"ridge": 0.3}).returncode == 0
    log = (whole.root / "results/tiny/logs/report.log").read_text()
    assert "evaluation/lds.json is of other scores than the run has now, or another version's" in log
    made_from = page_manifest(whole.root / PAGE, "report").made_from
    assert not [name for name in made_from if name.startswith("evaluation/")]
    assert "measures them anew" in (whole.root / PAGE).read_text()


def test_snakemakes_own_report_has_every_result(whole: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "report.zip"
    done = whole.snakemake(*WHOLE, "--report", str(file))
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(file) as archive:
        held = {Path(name).name for name in archive.namelist()}
        text = archive.read("report/report.html").decode()
    layout = Layout(whole.root / "results" / "tiny")
    results = [layout.report, layout.summary, layout.provenance, layout.top("validation")]
    results += [path for path in layout.figures() if path != layout.recipe]
    assert {path.name for path in results} <= held
    assert text.count("Train rows whose labels look wrong") == 1
