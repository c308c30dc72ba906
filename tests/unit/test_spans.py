"""Kernels, sums and suspects of parts of the train set: the same as by one job, and mixtures refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_settings
from faults.damage import put, remove
from hypothesis import given
from hypothesis import strategies as st

from trak_steps.audit.clean import removable
from trak_steps.audit.verify import verify_run
from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.planning.costs import Costs
from trak_steps.planning.facts import Facts
from trak_steps.planning.machine import ROUGH
from trak_steps.run import spans as spans_module
from trak_steps.run.jobs import jobs_of, step_of
from trak_steps.run.layout import Layout, checkpoint_names, jobs_of_checkpoints
from trak_steps.run.parts import open_train_features
from trak_steps.run.spans import (
    Span,
    kernel_spans,
    support_spans,
    suspect_spans,
    weighted_spans,
)
from trak_steps.steps.evaluation import (
    find_mislabelled,
    find_opponents,
    find_support,
    pick_suspects,
    sum_classes,
)
from trak_steps.steps.kernels import kernel, sum_kernel
from trak_steps.steps.scores import calibrate, gather, rank, score, sum_weighted
from trak_steps.steps.summary import provenance, summarize
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.calibration import Calibration
from trak_steps.store.document import load_document
from trak_steps.store.kernel import KernelStore
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import load_table
from trak_steps.store.tree import MANIFEST

Copy = Callable[[], tuple[Layout, Settings]]
# The small run has 60 rows in shards of 25.
ROWS = ("0-25", "25-50", "50-60")
IN_PARTS = {"execution": {"rows_per_job": 25}}
SUSPECTS = {"evaluation": {"suspects": 8}}


def sum_kernels(layout: Layout, settings: Settings) -> None:
    for name in checkpoint_names(settings.checkpoints):
        for rows in ROWS:
            sum_kernel.run(layout, settings, name, rows)


def suspect_in_parts(layout: Layout, settings: Settings) -> None:
    for rows in ROWS:
        sum_classes.run(layout, settings, rows)
    for job in jobs_of_checkpoints(settings.checkpoints):
        for rows in ROWS:
            find_support.run(layout, settings, job, rows)
    pick_suspects.run(layout, settings)
    for rows in ROWS:
        find_opponents.run(layout, settings, rows)
    find_mislabelled.run(layout, settings)


def test_a_kernel_of_parts_is_that_of_one_job(
    copy_run: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    """And both are what NumPy makes of all features in float64; the parts' order is that of the rows."""
    layout, settings = copy_run()
    in_parts = small_settings(**IN_PARTS)
    train = PreparedRows.open(layout.train)
    sum_kernels(layout, in_parts)
    for name in checkpoint_names(settings.checkpoints):
        features = open_train_features(layout, settings, name, train)
        phi = features.features(0, 60).astype(np.float64)
        path = layout.kernel(name)
        whole, manifest = KernelStore.open(path), artefact_manifest(path)
        before = whole.kernel(), whole.total(), whole.cholesky
        capsys.readouterr()
        kernel.run(layout, in_parts, name)
        assert f"kept {path}" in capsys.readouterr().err
        remove(path)
        kernel.run(layout, in_parts, name)
        found, made = KernelStore.open(path), artefact_manifest(path)
        size = np.abs(before[0]).max()
        np.testing.assert_allclose(found.kernel(), before[0], rtol=0, atol=1e-12 * size)
        np.testing.assert_allclose(found.kernel(), phi.T @ phi, rtol=0, atol=1e-12 * size)
        np.testing.assert_allclose(found.total(), before[1], rtol=0, atol=1e-12 * np.abs(phi).sum())
        np.testing.assert_allclose(found.total(), phi.sum(0), rtol=0, atol=1e-12 * np.abs(phi).sum())
        np.testing.assert_allclose(found.cholesky, before[2], rtol=0, atol=1e-10 * np.sqrt(size))
        for what in ("made_from", "settings", "version"):
            assert getattr(made, what) == getattr(manifest, what)
        assert made.details == {**manifest.details, "parts": 3}
        # Twice from the same parts: the same bits.
        remove(path)
        kernel.run(layout, in_parts, name)
        assert artefact_manifest(path).content == made.content


def test_a_kernel_is_not_made_of_other_parts(copy_run: Copy, small_run: tuple[Layout, Settings]) -> None:
    layout, _ = copy_run()
    in_parts = small_settings(**IN_PARTS)
    sum_kernels(layout, in_parts)
    remove(layout.kernel("0"))
    first, second = (layout.kernel_part("0", rows) for rows in ROWS[:2])
    aside = layout.root.parent / "aside"

    def refused(words: str, settings: Settings = in_parts) -> None:
        with pytest.raises(TrakError, match=words):
            kernel.run(layout, settings, "0")
        assert not layout.kernel("0").exists()

    put(first, aside)
    put(second, first)
    refused(r"kernel/0/0-25\.zarr: is another part, of rows 25 to 50")
    put(layout.kernel_part("0-0.5", ROWS[0]), first)
    refused(r"kernel/0/0-25\.zarr: was made with another checkpoint")
    remove(first)
    refused(r"kernel/0/0-25\.zarr: is missing; run `trak-steps sum-kernel`")
    put(aside, first)
    # Cut otherwise, what is there is of no use.
    refused(r"kernel/0/0-50\.zarr: is missing", small_settings(execution={"rows_per_job": 50}))
    # Of other features: made anew by another projection.
    refused(r"another dim", small_settings(**IN_PARTS, features={"dim": 8}))
    shard = layout.train_shard("0", "00001")
    put(shard, layout.root.parent / "shard")
    put(layout.train_shard("0-0.5", "00001"), shard)
    refused(r"25-50\.zarr: was made from another features/0/train/00001\.zarr")
    assert any("25-50.zarr" in str(problem) for problem in verify_run(layout).problems)
    put(layout.root.parent / "shard", shard)
    kernel.run(layout, in_parts, "0")
    assert artefact_manifest(layout.kernel("0")).made_from == (
        artefact_manifest(small_run[0].kernel("0")).made_from
    )


def test_parts_of_another_version_or_other_rows_do_not_mix(
    copy_run: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, _ = copy_run()
    in_parts = small_settings(**IN_PARTS)
    sum_kernels(layout, in_parts)
    remove(layout.kernel("0"))
    monkeypatch.setattr(sum_kernel, "VERSION", 2)
    sum_kernel.run(layout, in_parts, "0", ROWS[1])
    with pytest.raises(TrakError, match=r"0/25-50\.zarr: was made by another version"):
        kernel.run(layout, in_parts, "0")
    for rows in ROWS:
        sum_kernel.run(layout, in_parts, "0", rows)
    content = PreparedRows.content_of

    def other(self: PreparedRows, start: int, stop: int) -> str:
        return "other" if start == 50 else content(self, start, stop)

    monkeypatch.setattr(PreparedRows, "content_of", other)
    with pytest.raises(TrakError, match=r"0/50-60\.zarr: was made from another data/train#50:60"):
        kernel.run(layout, in_parts, "0")
    monkeypatch.undo()
    kernel.run(layout, in_parts, "0")


def test_weighted_sums_of_parts_make_the_calibration_that_one_job_makes(copy_run: Copy) -> None:
    layout, _settings = copy_run()
    in_parts = small_settings(**IN_PARTS)
    whole = Calibration.open(layout.calibration)
    before = whole.totals(2, 16), whole.scale, whole.stable_signs, whole.manifest
    for rows in ROWS:
        sum_weighted.run(layout, in_parts, rows)
    remove(layout.calibration)
    calibrate.run(layout, in_parts)
    found = Calibration.open(layout.calibration)
    size = np.abs(before[0]).max()
    np.testing.assert_allclose(found.totals(2, 16), before[0], rtol=0, atol=1e-12 * size)
    assert found.scale == pytest.approx(before[1], rel=1e-10)
    assert found.stable_signs == before[2]
    for what in ("made_from", "settings", "version"):
        assert getattr(found.manifest, what) == getattr(before[3], what)
    other = small_settings(**IN_PARTS, scores={"loss_weight": "own"})
    remove(layout.calibration)
    with pytest.raises(TrakError, match="another loss_weight"):
        calibrate.run(layout, other)


def test_suspects_of_parts_are_those_of_one_job(copy_run: Copy) -> None:
    layout, _ = copy_run()
    settings = small_settings(**SUSPECTS)
    find_mislabelled.run(layout, settings)
    before, figures = found_of(layout)
    in_parts = small_settings(**SUSPECTS, **IN_PARTS)
    suspect_in_parts(layout, in_parts)
    after, others = found_of(layout)
    assert others == pytest.approx(figures)
    assert len(after) == len(before) == 8
    for one, other in zip(before, after, strict=True):
        for name, value in one.items():
            tolerance = 1e-4 if name.startswith("against_s") else 1e-10
            close = isinstance(value, float) or name in ("against_score", "against_std")
            expected = pytest.approx(value, rel=tolerance, nan_ok=True) if close else value
            assert other[name] == expected, name
    assert verify_run(layout).problems == []
    parts = {layout.picked, layout.class_sums("0-25"), layout.support("0", "25-50")}
    assert parts <= {one.path for one in removable(layout, settings)}
    assert not parts & {one.path for one in removable(layout, in_parts)}


def found_of(layout: Layout) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The suspects, and the figures of each measure."""
    figures = load_document(layout.mislabelled, "suspects")[0]
    measures = {
        f"{of}.{name}": value
        for of, found in figures.pop("measures").items()
        for name, value in found.items()
    }
    return load_table(layout.suspects, "suspects")[0].to_pylist(), {**figures, **measures}


def test_suspects_are_not_found_by_other_parts(copy_run: Copy) -> None:
    layout, _ = copy_run()
    in_parts = small_settings(**SUSPECTS, **IN_PARTS)
    suspect_in_parts(layout, in_parts)
    more = small_settings(evaluation={"suspects": 9}, **IN_PARTS)
    with pytest.raises(TrakError, match=r"picked\.zarr: was made with another suspects"):
        find_opponents.run(layout, more, ROWS[0])
    with pytest.raises(TrakError, match=r"picked\.zarr: was made with another suspects"):
        find_mislabelled.run(layout, more)
    pick_suspects.run(layout, more)
    with pytest.raises(TrakError, match=r"opponents/0-25\.zarr: was made with another suspects"):
        find_mislabelled.run(layout, more)
    put(layout.support("0", ROWS[0]), layout.support("0", ROWS[1]))
    with pytest.raises(TrakError, match=r"support/0/25-50\.zarr: is another part"):
        pick_suspects.run(layout, in_parts)
    put(layout.class_sums(ROWS[0]), layout.class_sums(ROWS[1]))
    with pytest.raises(TrakError, match=r"classes/25-50\.zarr: is another part"):
        find_support.run(layout, in_parts, "0", ROWS[1])


def test_labels_that_are_numbers_are_not_looked_at(copy_run: Copy) -> None:
    layout, _ = copy_run()
    in_parts = small_settings(**SUSPECTS, **IN_PARTS)
    assert len(suspect_spans(in_parts, layout, 60)) == len(support_spans(in_parts, layout, 60)) == 3
    manifest = Manifest.load(layout.train, "data")
    (layout.train / MANIFEST).unlink()
    replace(manifest, details={**manifest.details, "label_names": []}).save(layout.train)
    assert suspect_spans(in_parts, layout, 60) == support_spans(in_parts, layout, 60) == []
    assert len(kernel_spans(in_parts, layout, 60)) == 3
    rules = {group.rule for group in jobs_of(in_parts, layout)}
    assert not rules & {"sum_classes", "find_support", "pick_suspects", "find_opponents"}
    with pytest.raises(TrakError, match="0-25: is no part of the train set"):
        sum_classes.run(layout, in_parts, ROWS[0])
    find_mislabelled.run(layout, in_parts)
    assert len(load_table(layout.suspects, "suspects")[0]) == 0


def test_provenance_and_verify_know_the_parts_of_a_run(copy_run: Copy) -> None:
    layout, settings = copy_run()
    in_parts = small_settings(**IN_PARTS)
    missing = {str(problem) for problem in verify_run(layout, in_parts).problems}
    assert any("kernel/0-0.5/25-50.zarr: is not there" in words for words in missing)
    assert any("sums/50-60.zarr: is not there" in words for words in missing)
    assert verify_run(layout, settings).problems == []
    sum_kernels(layout, in_parts)
    for rows in ROWS:
        sum_weighted.run(layout, in_parts, rows)
    for name in checkpoint_names(settings.checkpoints):
        remove(layout.kernel(name))
        kernel.run(layout, in_parts, name)
    remove(layout.calibration)
    calibrate.run(layout, in_parts)
    assert verify_run(layout, settings).surplus != []
    # What was made by the kernels before is not by these.
    for path in (layout.root / "scores", layout.summary, layout.provenance):
        remove(path)
    score.run(layout, in_parts, "validation", 32)
    gather.run(layout, in_parts, "validation", 32)
    rank.run(layout, in_parts, "validation")
    summarize.run(layout, in_parts)
    provenance.run(layout, in_parts)
    entries = load_document(layout.provenance, "provenance")[0]["outputs"]
    assert {"kernel/0/0-25.zarr", "kernel/0-0.5/50-60.zarr", "sums/25-50.zarr"} <= set(entries)
    found = verify_run(layout, in_parts)
    assert (found.problems, found.surplus) == ([], [])
    found = verify_run(layout)
    assert (found.problems, found.surplus) == ([], [])


def test_a_part_that_is_not_planned_is_refused(copy_run: Copy) -> None:
    layout, settings = copy_run()
    with pytest.raises(TrakError, match=re.escape("0-25: is no part of the train set with these set")):
        sum_kernel.run(layout, settings, "0", "0-25")
    with pytest.raises(TrakError, match="but 0-25, 25-50, 50-60"):
        sum_kernel.run(layout, small_settings(**IN_PARTS), "0", "0-50")
    with pytest.raises(TrakError, match="25: is no part of the train set, such as"):
        Span.named("25")


KINDS = (kernel_spans, weighted_spans, support_spans, suspect_spans)


@given(
    n=st.integers(1, 300),
    shard=st.integers(1, 100),
    rows=st.none() | st.integers(1, 400),
    work=st.floats(1e3, 1e9),
    most=st.floats(1e3, 1e9),
)
def test_parts_are_whole_shards_and_have_every_row_once(
    n: int, shard: int, rows: int | None, work: float, most: float
) -> None:
    settings = small_settings(features={"shard_size": shard}, execution={"rows_per_job": rows})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans_module, "WORK", work)
        patch.setattr(spans_module, "MOST", most)
        for kind in KINDS:
            found = kind(settings, Layout(Path("none")), n)
            if not found:
                continue
            places = [place for span in found for place in range(span.start, span.stop)]
            assert places == list(range(n))
            assert all(span.start % shard == 0 for span in found)
            assert all(Span.named(span.name) == span for span in found)
            assert rows is None or rows < n


def large(n: int, dim: int = 1024, **scores: Any) -> Settings:
    """25 trainings of four checkpoints each, as in docs/scale.md."""
    return small_settings(
        dataset={"train_size": n},
        targets={"validation": {"size": 1000}},
        features={"dim": dim, "shard_size": 65536},
        checkpoints={"count": 25, "keep": [0.125, 0.25, 0.5, 1.0]},
        scores=scores,
        execution={"memory_mb": 16384},
    )


def test_only_what_takes_hours_is_cut() -> None:
    run = Layout(Path("none"))

    def rules(settings: Settings) -> dict[str, int]:
        return {group.rule: len(group.jobs or ()) for group in jobs_of(settings, run)}

    of_parts = {"sum_kernel", "sum_weighted", "sum_classes", "find_support", "pick_suspects"}
    of_parts.add("find_opponents")
    assert not rules(large(50_000)).keys() & of_parts
    ten_million = rules(large(10**7, loss_weight_power=0.0))
    # Kernels of a training take less than an hour still; one job by all checkpoints does not.
    assert ten_million.keys() & of_parts == of_parts - {"sum_kernel", "sum_weighted"}
    assert ten_million["find_support"] > 25
    assert "sum_weighted" in rules(large(10**7, loss_weight_power=1.0))
    assert rules(large(10**8))["sum_kernel"] > 25
    of_jobs = spans_module._of_a_job(large(10**8)) * (1024 + spans_module.READ)
    for span in kernel_spans(large(10**8), run, 10**8):
        assert len(span) * of_jobs <= spans_module.WORK


@pytest.mark.parametrize("n", [10**7, 10**8])
def test_no_job_of_parts_is_planned_to_take_more_than_an_hour(n: int) -> None:
    """Of a core as it was measured: products, and bytes read, a second."""
    core = replace(ROUGH, double=3e10, single=5.6e10, read=1e9, write=1e9, spectrum=7e-11)
    settings = large(n, loss_weight_power=1.0)
    costs = Costs(Facts(settings, 10**8, (50,), None), core, gpu=False)
    groups = {group.rule: group.jobs or [] for group in jobs_of(settings, Layout(Path("none")))}
    names = ("kernel", "sum_weighted", "calibrate", "sum_classes", "find_support", "pick_suspects")
    for rule in (*names, "find_opponents", "find_mislabelled", *(["sum_kernel"] if n > 10**7 else [])):
        for job in groups[rule][:2]:
            assert costs.of(job, step_of(rule), uses_gpu=False).seconds < 3600, rule
    # In one job, more.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans_module, "MOST", 1e40)
        whole = Costs(Facts(settings, 10**8, (50,), None), core, gpu=False)
        for rule in ("calibrate", "find_mislabelled", *(["kernel"] if n > 10**7 else [])):
            seconds = whole.of(groups[rule][0], step_of(rule), uses_gpu=False).seconds
            assert seconds > 3600, rule
