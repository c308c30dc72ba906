"""Scores in parts, and while they stream by: the same as all of them at once, by whatever was cut."""

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import small_settings
from faults.damage import put
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run import tiles as tiles_module
from trak_steps.run import units
from trak_steps.run.layout import Layout
from trak_steps.run.tiles import Tile, tiles
from trak_steps.scoring.chance import ListedByChance
from trak_steps.scoring.lists import Top, together
from trak_steps.scoring.ranks import rank_range
from trak_steps.scoring.scores import CELL, by_chance
from trak_steps.scoring.solve import Solved
from trak_steps.scoring.stream import Stream
from trak_steps.scoring.uncertainty import students
from trak_steps.steps.scores import gather, rank, score
from trak_steps.store.score_parts import ScorePart
from trak_steps.store.scores import ScoreStore
from trak_steps.store.table import load_table

Copy = Callable[[], tuple[Layout, Settings]]
TARGETS = "validation"


def _made(layout: Layout, settings: Settings) -> tuple[ScoreStore, list[dict[str, object]]]:
    score.run(layout, settings, TARGETS, 32)
    gather.run(layout, settings, TARGETS, 32)
    rank.run(layout, settings, TARGETS)
    rows = load_table(layout.top(TARGETS), "top")[0].to_pylist()
    return ScoreStore.open(layout.scores(TARGETS)), rows


def _same(rows: list[dict[str, object]], others: list[dict[str, object]]) -> None:
    """But for the last digits of numbers, which depend on how many are multiplied at once."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            close = isinstance(value, float)
            assert other[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if close else value), name


@pytest.mark.parametrize(
    "cut",
    [
        {"rows_per_job": 25},
        {"targets_per_job": 2},
        {"rows_per_job": 30, "targets_per_job": 3},
    ],
    ids=str,
)
def test_parts_make_the_scores_that_one_job_makes(copy_run: Copy, cut: dict[str, object]) -> None:
    layout, settings = copy_run()
    store, rows = _made(layout, settings)
    n, t = store.shape
    whole = {name: store.scores(0, n) if name == "scores" else store.std(0, n) for name in store.matrix}
    sums = store.column("target_sum")
    in_parts = small_settings(scores=cut)
    found, others = _made(layout, in_parts)
    names = [tile.name for tile in tiles(in_parts, layout, n, t)]
    assert len(names) > 1
    assert all(layout.score_part(TARGETS, name).exists() for name in names)
    _same(rows, others)
    tolerance = 1e-5 * np.abs(whole["scores"]).max()
    np.testing.assert_allclose(found.scores(0, n), whole["scores"], atol=tolerance)
    np.testing.assert_allclose(found.std(0, n), whole["std"], atol=tolerance)
    np.testing.assert_allclose(found.column("target_sum"), sums, rtol=1e-5)


def test_as_few_targets_at_once_as_memory_holds_give_the_same(
    copy_run: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = copy_run()
    _, rows = _made(layout, settings)
    monkeypatch.setattr(score, "targets_at_once", lambda *_: 2)
    monkeypatch.setattr(score, "cells_at_once", lambda *_: 8)
    another = small_settings(scores={"matrix": "scores"})  # so that nothing is kept
    store, others = _made(layout, another)
    assert store.matrix == ("scores",)
    _same(rows, others)


@pytest.mark.parametrize("matrix", ["none", "scores"])
def test_scores_that_are_not_kept_are_not_there_and_lists_are(copy_run: Copy, matrix: str) -> None:
    layout, settings = copy_run()
    _, rows = _made(layout, settings)
    store, others = _made(layout, small_settings(scores={"matrix": matrix}))
    _same(rows, others)
    with pytest.raises(TrakError, match=r"`std` .* scores\.matrix to scores_and_std"):
        store.std(0, 1)
    if matrix == "none":
        with pytest.raises(TrakError, match=r"`scores` .* scores\.matrix to scores"):
            store.scores(0, 1)
    assert not list(layout.score_part(TARGETS, "0-60.0-5").glob("std/c/*"))


def test_a_few_more_rows_to_show_need_no_new_scores(copy_run: Copy) -> None:
    layout, _settings = copy_run()
    before = ScorePart.open(layout.score_part(TARGETS, "0-60.0-5")).manifest.content
    more = small_settings(scores={"top": 30})
    rank.run(layout, more, TARGETS)
    rows = load_table(layout.top(TARGETS), "top")[0]
    assert len(rows) == 2 * 5 * 30
    assert ScorePart.open(layout.score_part(TARGETS, "0-60.0-5")).manifest.content == before
    with pytest.raises(TrakError, match="another listed"):
        rank.run(layout, small_settings(scores={"top": 33}), TARGETS)


def test_a_part_that_is_not_planned_is_refused(copy_run: Copy) -> None:
    layout, settings = copy_run()
    with pytest.raises(TrakError, match=re.escape("0-25.0-5: is no part")):
        score.run(layout, settings, TARGETS, 32, "0-25.0-5")
    with pytest.raises(TrakError, match="no part of scores"):
        Tile.named("0-25")


@given(
    n=st.integers(1, 300),
    t=st.integers(1, 40),
    shard=st.integers(1, 100),
    rows=st.none() | st.integers(1, 400),
    targets=st.none() | st.integers(1, 50),
    work=st.floats(1e3, 1e9),
)
def test_every_row_meets_every_target_in_one_part_of_whole_shards(
    n: int, t: int, shard: int, rows: int | None, targets: int | None, work: float
) -> None:
    settings = small_settings(
        features={"shard_size": shard}, scores={"rows_per_job": rows, "targets_per_job": targets}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_module, "WORK", work)
        found = tiles(settings, Layout(tiles_module.__file__), n, t)  # type: ignore[arg-type]
    met = np.zeros((n, t), int)
    for tile in found:
        assert Tile.named(tile.name) == tile
        assert tile.start % shard == 0
        assert tile.stop % shard == 0 or tile.stop == n
        met[tile.start : tile.stop, tile.first : tile.last] += 1
    assert (met == 1).all()


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(1, 15),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_lists_of_parts_are_the_list_of_all_rows(
    sizes: list[int], listed: int, top: int, largest: bool, seed: int
) -> None:
    """Of few different scores, so that many are equal: those go by place."""
    scores = np.random.default_rng(seed).integers(-2, 3, (3, sum(sizes))).astype(np.float32)

    def strongest(first: int, last: int, count: int) -> Top:
        part = scores[:, first:last]
        order = np.argsort(-part if largest else part, axis=1, kind="stable")[:, :count]
        found = np.take_along_axis(part, order, 1)
        return Top(order + first, found, (2 * found,))

    ends = np.cumsum([0, *sizes])
    parts = [strongest(a, b, max(listed, top)) for a, b in itertools.pairwise(ends)]
    found, wanted = together(parts, top, largest=largest), strongest(0, sum(sizes), top)
    np.testing.assert_array_equal(found.place, wanted.place)
    np.testing.assert_array_equal(found.score, wanted.score)
    np.testing.assert_array_equal(found.more[0], wanted.more[0])


def _by_pairs(
    score: NDArray[np.float64], error: NDArray[np.float64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best and worst rank of some rows of a target, by comparing each with all, larger first."""
    low, high = score - 2 * error, score + 2 * error
    best = 1 + (low[None] > high[order, None]).sum(1)
    return best, np.maximum((high[None] >= low[order, None]).sum(1), best)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows_at_once", [64, 1024])
def test_what_streams_by_is_found_as_from_all_scores(weighted: bool, rows_at_once: int) -> None:
    """Against all scores in float64, relative 1e-4; of more targets than are scored for at once."""
    n, t, k, trainings = 1500, 530, 16, ["0", "0", "1", "2", "2"]
    draw = torch.Generator().manual_seed(0)
    features = [torch.randn(n, k, generator=draw) for _ in trainings]
    common = torch.randn(t, k, generator=draw)
    solved = [common + 0.3 * torch.randn(t, k, generator=draw) for _ in trainings]
    features = [features[0] + 0.3 * of for of in features]
    weights = torch.rand(len(trainings), n, generator=draw) if weighted else None
    own = np.stack(
        [
            (f.double() @ s.double().T).numpy() * (1 if weights is None else weights[m, :, None].numpy())
            for m, (f, s) in enumerate(zip(features, solved, strict=True))
        ]
    )
    by_training = np.stack([own[:2].mean(0), own[2], own[3:].mean(0)])
    mean, std = by_training.mean(0), by_training.std(0, ddof=1)
    roots = torch.from_numpy(np.sqrt((mean**2).mean(0)))
    stream = Stream(Solved(solved, roots), trainings, 32, 2.0)
    seen = np.full((n, t), np.nan)
    for start in range(0, n, rows_at_once):
        rows = slice(start, start + rows_at_once)
        of_block = None if weights is None else weights[:, rows]
        for part, block in stream.add([of[rows] for of in features], of_block, start):
            seen[rows, part] = block.scores
    size = np.abs(mean).max()
    np.testing.assert_allclose(seen, mean, rtol=0, atol=1e-5 * size)
    counts = stream.counts()
    assert counts is not None
    for place, (side, sign) in enumerate((("proponent", 1), ("opponent", -1))):
        top = stream.top(side)
        order = np.argsort(-sign * mean, axis=0, kind="stable")[:32].T
        assert (top.place == order).mean() > 0.999
        listed = np.take_along_axis(mean.T, order, 1)
        np.testing.assert_allclose(top.score, listed, rtol=0, atol=1e-5 * size)
        spread = np.take_along_axis(std.T, top.place, 1)
        np.testing.assert_allclose(top.more[0], spread, rtol=1e-3, atol=1e-5 * size)
        error = top.more[0] / np.sqrt(3)
        best, worst = rank_range(top.score, error, 2.0, counts[place], roots.numpy(), largest=sign > 0)
        for z in range(0, t, 53):
            exact = _by_pairs(sign * mean[:, z], std[:, z] / np.sqrt(3), top.place[z])
            assert np.abs(best[z] - exact[0]).max() <= 1
            assert (worst[z] >= exact[1] - 1).all()
            assert (worst[z] <= 1.2 * exact[1] + 2).all()


@pytest.mark.parametrize("n", [10, 2**12, 10**6 + 7])
def test_chance_is_seen_in_whole_cells_of_rows_from_all_over(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "CHANCE_ROWS", 2**12)
    spans = units._spans(n)
    assert all(start % CELL == 0 for start, _ in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert sum(stop - start for start, stop in spans) == min(n, 2**12)
    assert spans[-1][1] > 0.98 * n


def test_fewer_rows_than_trainings_have_no_chance_to_list() -> None:
    chance = ListedByChance(2, 20)
    own = [torch.randn(3, 2) for _ in range(4)]
    chance.add(by_chance(own, 4), 0)
    assert chance.signs(4) == {"errors": students(4), "by_chance": 0.0}


def test_a_part_in_the_place_of_another_is_refused(copy_run: Copy) -> None:
    layout, _ = copy_run()
    in_parts = small_settings(scores={"targets_per_job": 2})
    _made(layout, in_parts)
    first, other = (layout.score_part(TARGETS, f"0-60.{of}") for of in ("0-2", "2-4"))
    put(other, first)
    with pytest.raises(TrakError, match=r"0-60\.0-2\.zarr: is another part"):
        gather.run(layout, in_parts, TARGETS, 32)


def test_small_weights_of_rows_change_no_rank() -> None:
    """A fitted model's loss weights make every score small, for a run as a whole."""
    draw = torch.Generator().manual_seed(0)
    features = [torch.randn(3000, 8, generator=draw) for _ in range(3)]
    common = torch.randn(4, 8, generator=draw)
    solved = [common + 0.05 * torch.randn(4, 8, generator=draw) for _ in features]
    features = [features[0] + 0.05 * of for of in features]
    found = []
    for size in (1.0, 0.003):
        stream = Stream(Solved(solved, torch.full((4,), 3.0 * size)), ["0", "1", "2"], 32, 4.3)
        for _ in stream.add(features, torch.full((3, 3000), size), 0):
            pass
        top, counts = stream.top("proponent"), stream.counts()
        assert counts is not None
        error = top.more[0] / np.sqrt(3)
        roots = np.full(4, 3.0 * size)
        found.append(rank_range(top.score, error, 4.3, counts[0], roots, largest=True)[1])
    np.testing.assert_allclose(found[0], found[1], rtol=0.05, atol=1)
