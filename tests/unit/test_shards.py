"""How many rows a shard has, where the settings leave it open."""

from pathlib import Path

import pytest
from conftest import small_settings

from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.run.shards import FEWEST, MOST, rows_of_a_shard, shard_size


@pytest.mark.parametrize(
    ("parameters", "tokens", "rows"),
    [
        (110_000_000, 50.0, 8192),  # BERT-base on QNLI
        (22_700_000, 50.0, 32768),  # MiniLM
        (550_000, 20.0, MOST),  # the demo
        (7_000_000_000, 512.0, FEWEST),
        (0, 0.0, MOST),
    ],
)
def test_larger_models_and_longer_rows_have_smaller_shards(
    parameters: int, tokens: float, rows: int
) -> None:
    assert rows_of_a_shard(parameters, tokens) == rows


def test_a_shard_has_about_the_same_work_whatever_the_model() -> None:
    for parameters in (10**7, 10**8, 10**9):
        for tokens in (20.0, 100.0, 500.0):
            rows = rows_of_a_shard(parameters, tokens)
            if FEWEST < rows < MOST:
                assert 2.7e13 < rows * parameters * tokens < 5.8e13
            assert rows & (rows - 1) == 0


def test_a_setting_decides_and_without_one_model_and_rows_do(
    small_run: tuple[Layout, object], tmp_path: Path
) -> None:
    layout, _ = small_run
    assert shard_size(small_settings().features, layout) == 25
    open_size = small_settings(features={"shard_size": None}).features
    assert shard_size(open_size, layout) == MOST
    with pytest.raises(TrakError, match="is missing"):
        shard_size(open_size, Layout(tmp_path))
