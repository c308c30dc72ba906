"""What a page is made from, without a browser."""

import base64
import gzip
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Opens
from pages import HOSTILE, Made, made, page

from trak_steps.api import Run
from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.report import facts, figures
from trak_steps.report.contents import gather
from trak_steps.report.packed import influence_of, packed_page
from trak_steps.report.rows import most_given
from trak_steps.report.words import common_words
from trak_steps.run.layout import Layout
from trak_steps.steps.evaluation import find_mislabelled, measure_stability
from trak_steps.steps.summary import report
from trak_steps.store.artefact import check_artefact
from trak_steps.store.page import page_manifest


def unpacked(text: str) -> dict[str, Any]:
    """What the page's program reads."""
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
    return found


def packed(of: Made, **more: Any) -> tuple[dict[str, Any], int]:
    """What is packed of something that was made, and how many targets."""
    columns = ("question", "sentence")
    text, shown = packed_page(
        of.sets, of.rows, of.suspects, ("a", "b"), columns, run="x", identity="y", **more
    )
    return unpacked(text), shown


@pytest.fixture(scope="module")
def shown(small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The small run with a page, after what of the evaluation needs no retraining."""
    layout, settings = small_run
    copy = Layout(tmp_path_factory.mktemp("shown") / "small")
    shutil.copytree(layout.root, copy.root)
    find_mislabelled.run(copy, settings)
    measure_stability.run(copy, settings)
    report.run(copy, settings)
    return copy


def test_the_page_is_an_output_like_others(shown: Layout, small_run: tuple[Layout, Settings]) -> None:
    manifest = check_artefact(shown.report, "report")
    assert {"data/train#table", "scores/validation.top.parquet", "summary.json"} <= set(
        manifest.made_from
    )
    assert "evaluation/suspects.parquet" in manifest.made_from
    text = shown.report.read_text(encoding="utf-8")
    shown.report.write_text(
        text.replace("Can the scores be trusted?", "They can be trusted."), encoding="utf-8"
    )
    try:
        with pytest.raises(TrakError, match=r"report\.html: was altered after it was written"):
            page_manifest(shown.report, "report")
    finally:
        report.run(shown, small_run[1])
    # The same run gives the same page.
    assert shown.report.read_text(encoding="utf-8") == text


def test_the_page_of_a_run_opens(
    shown: Layout, small_run: tuple[Layout, Settings], opens: Opens
) -> None:
    opened = opens(shown.report, "#/targets/validation/0")
    assert opened.locator("#target .influences li").count() > 0
    table = Run.of(shown, small_run[1]).top("validation", target=0)
    listed = opened.locator("#target .influences.proponent li .how > a:first-of-type").all_inner_texts()
    first = table[(table["side"] == "proponent") & (table["rank"] == 1)]["train_row"].item()
    assert listed[0] == f"row {first}"


def test_what_is_missing_is_said(small_run: tuple[Layout, Settings], tmp_path: Path) -> None:
    layout, settings = small_run
    copy = Layout(tmp_path / "small")
    shutil.copytree(layout.root, copy.root)
    copy.top("validation").unlink()
    with pytest.raises(TrakError, match=r"is not finished, scores/validation\.top\.parquet is missing"):
        report.run(copy, settings)
    assert not copy.report.exists()


def test_rows_are_packed_once_and_lists_name_them() -> None:
    of = made(20, 500)
    found, shown = packed(of)
    assert shown == 20
    assert len(set(found["rows"]["row"])) == len(found["rows"]["row"])
    each = of.sets[0]
    for side, listed in each.lists.items():
        places = found["sets"][0]["lists"][side]["place"]
        rows = [found["rows"]["row"][place] for place in places]
        assert rows == [str(row) for row in listed["row"].ravel()]
        assert found["sets"][0]["lists"][side]["score"] == pytest.approx(
            listed["score"].ravel(), rel=1e-3
        )
    named = {*np.concatenate([listed["row"].ravel() for listed in each.lists.values()]).tolist()}
    named |= {*of.suspects["row"].to_pylist(), *np.concatenate(of.suspects["against_row"].to_pylist())}
    assert set(found["rows"]["row"]) == {str(row) for row in named}


def test_influence_is_what_lists_add_up_to() -> None:
    of = made(30, 60)
    found = influence_of(of.sets, of.rows)
    counts: dict[str, Counter[int]] = {side: Counter() for side in of.sets[0].lists}
    total: Counter[int] = Counter()
    for side, listed in of.sets[0].lists.items():
        for row, score in zip(listed["row"].ravel().tolist(), listed["score"].ravel(), strict=True):
            counts[side][row] += 1
            total[row] += abs(float(score))
    for place, row in enumerate(of.rows.row.tolist()):
        assert all(found[side][place] == counts[side][row] for side in counts)
        assert found["influence"][place] == pytest.approx(total[row], rel=1e-3, abs=1e-12)


def test_of_too_many_targets_the_most_telling_are_kept() -> None:
    of = made(400, 3000)
    whole, _ = packed(of)
    size = len(packed_page(of.sets, of.rows, of.suspects, (), (), run="", identity="")[0])
    some, shown = packed(of, most=size // 2)
    assert 0 < shown < 400
    assert some["sets"][0]["of"] == 400
    assert some["sets"][0]["target"] == whole["sets"][0]["target"][:shown]
    assert len(some["rows"]["row"]) < len(whole["rows"]["row"])
    # Their influence is that of all targets.
    influence = dict(zip(whole["rows"]["row"], whole["rows"]["influence"], strict=True))
    assert all(
        influence[row] == of
        for row, of in zip(some["rows"]["row"], some["rows"]["influence"], strict=True)
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found[tag] += 1
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_texts_add_no_element() -> None:
    counts = []
    for texts in ((), HOSTILE):
        tags = _Tags()
        tags.feed(page(made(10, 40, texts=texts)))
        counts.append(tags.found)
    assert counts[0] == counts[1]
    assert counts[0]["script"] == 3


def test_numbers_to_regress_on_have_no_right_and_wrong(opens: Opens, tmp_path: Path) -> None:
    of = made(10, 40)
    each = replace(of.sets[0], prediction=None, label=np.linspace(0, 1, 10))
    assert not each.wrong.any()
    file = tmp_path / "report.html"
    file.write_text(page(Made([each], of.rows, of.suspects.slice(0, 0)), labels=()), encoding="utf-8")
    opened = opens(file, "#/targets")
    assert opened.locator("#target-table tbody tr").count() == 10
    assert "Predicted" not in opened.locator("#target-table thead").inner_text()
    opens(file, "#/rows")


def test_ids_of_64_bits_are_those_of_the_rows(opens: Opens, tmp_path: Path) -> None:
    of = made(6, 40)
    for values in (
        of.rows.row,
        of.sets[0].lists["proponent"]["row"],
        of.sets[0].lists["opponent"]["row"],
    ):
        values += 2**62
    file = tmp_path / "report.html"
    file.write_text(page(Made(of.sets, of.rows, of.suspects.slice(0, 0))), encoding="utf-8")
    last = 2**62 + int(of.sets[0].lists["proponent"]["row"][2, 0] - 2**62)
    opened = opens(file, f"#/rows/{last}")
    assert opened.locator("#row h3").inner_text() == f"Train row {last}"


def test_of_as_many_trainings_the_margin_decides() -> None:
    votes = np.array([[0, 0, 1, 1], [1, 1, 1, 0]])
    label, margin = np.array([0, 0, 0, 2]), np.array([0.2, -0.2, -1.0, -0.1])
    assert most_given(votes, 3, label, margin).tolist() == [0, 1, 1, 0]


def test_small_scores_are_told_from_their_errors(opens: Opens, tmp_path: Path) -> None:
    of = made(4, 40)
    for listed in of.sets[0].lists.values():
        listed["score"][:] = listed["score"] * 1e-4
        listed["error"][:] = listed["error"] * 1e-4
    file = tmp_path / "report.html"
    file.write_text(page(of), encoding="utf-8")
    how = opens(file, "#/targets/validation/0").locator("#target .influences .how").first.inner_text()
    score, error = re.findall(r"0\.(\d+)", how)[:2]
    assert len(score) == len(error) >= 6
    assert int(error) > 0


def test_an_evaluation_that_found_little_is_said() -> None:
    nothing = {"value": 0.1, "low": None, "high": None}
    some = {"value": 0.4, "low": 0.3, "high": 0.5}
    less = {"value": -0.3, "low": -0.4, "high": -0.2}
    of = {
        "lds": some,
        "ceiling": {**some, "value": 0.8},
        "class_adjusted": None,
        "baselines": {"random": {"lds": some, "class_adjusted": None, "less_the_scores": less}},
    }
    measured = {"subsets": 8, "targets": {"validation": of, "other": {**of, "lds": nothing}}}
    (found,) = facts._lds("validation", measured)
    assert (found.figure, found.grade) == ("0.40 (0.30 to 0.50)", "good")
    assert "class-adjusted" not in str(found.details)
    assert figures.baselines(of) is not None
    assert next(facts._lds("other", measured)).grade == "unknown"
    assert next(facts._lds("added since", measured)).figure == "not measured"


def test_common_words_are_those_of_many_texts() -> None:
    texts = ["The river"] * 30 + ["A town"] * 300 + ["Founder"] * 300
    assert common_words(texts) == ["a", "founder", "town"]
    assert common_words(["the river"] * 5) == []


def test_what_was_gathered_names_what_it_read(shown: Layout, small_run: tuple[Layout, Settings]) -> None:
    contents = gather(Run.of(shown, small_run[1]))
    assert {shown.train, shown.summary, shown.suspects} <= set(contents.read)
    assert contents.stale == []
    made = {row[0]: row for row in contents.provenance[1:]}
    assert "data/train" in made["checkpoints/0"][3]
    assert made["kernel/0.zarr"][3] == "3 stores of features"
    assert not [name for name in made if name.startswith("features/")]
    assert dict(contents.asked)["Train set"].startswith("60 rows of demo")
    first = contents.findings["validation"][0]
    assert (first.title, first.grade) == ("Do scores predict retrained models?", "unknown")
