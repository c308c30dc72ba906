"""Damage in the state of an unfinished training: never resumed from, and the end is the same."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_settings
from transformers import TrainerCallback

from faults.damage import DAMAGES, files_of, means_the_same
from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.model import training
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.folder import check_folder

SETTINGS = small_settings(finetune={"epochs": 2}, execution={"save_minutes": 2})
STOPPED_AT = 7  # of eight steps, saved after every other one; the state at half is kept after four


@pytest.fixture(autouse=True, scope="module")
def a_step_a_minute() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "now", count(step=60).__next__)
        yield


class StoppedError(Exception):
    """Stands for a kill -9."""


class Stop(training._Keep):
    """Keeps states like the real callback, until the training is killed."""

    def on_step_begin(self, *arguments: Any, **_: Any) -> None:
        state = arguments[1]
        if state.global_step == STOPPED_AT:
            raise StoppedError


@pytest.fixture(scope="module")
def stopped(
    small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Layout, list[str]]:
    """A run whose training was killed, and the contents that its checkpoints should have."""
    layouts = []
    for name in ("whole", "stopped"):
        layout = Layout(tmp_path_factory.mktemp(name))
        shutil.copytree(small_run[0].model, layout.model)
        shutil.copytree(small_run[0].train, layout.train)
        layouts.append(layout)
    whole, broken = layouts
    finetune.run(whole, SETTINGS, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_Keep", Stop)
        assert issubclass(Stop, TrainerCallback)
        with pytest.raises(StoppedError):
            finetune.run(broken, SETTINGS, 0)
    return broken, _contents(whole)


def _contents(layout: Layout) -> list[str]:
    return [check_folder(layout.checkpoint(name), "checkpoint").content for name in ("0", "0-0.5")]


def _states(layout: Layout) -> dict[str, Path]:
    work = layout.training("0")
    return {
        "newest save": work / "trainer" / "checkpoint-6",
        "older save": work / "trainer" / "checkpoint-4",
        "kept weights": work / "kept" / "0.5",
    }


@pytest.mark.parametrize("what", ["newest save", "older save", "kept weights"])
def test_every_change_is_found(stopped: tuple[Layout, list[str]], what: str) -> None:
    path = _states(stopped[0])[what]
    artefact_manifest(path)
    random = np.random.default_rng(len(what))
    files = files_of(path)
    for trial in range(54):
        file = files[int(random.integers(len(files)))]
        before = file.read_bytes()
        DAMAGES[trial % len(DAMAGES)](file, random)
        if means_the_same(file, before):
            file.write_bytes(before)
            continue
        with pytest.raises(TrakError):
            check_folder(path)
        file.write_bytes(before)
    check_folder(path)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (["newest save"], "resuming at checkpoint-4"),
        (["newest save", "older save"], "training 8 of 8 steps\n"),
        (["kept weights"], "trained again"),
        ([], "resuming at checkpoint-6"),
    ],
)
def test_a_damaged_state_is_not_resumed_from(
    stopped: tuple[Layout, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    what: list[str],
    says: str,
) -> None:
    layout = Layout(tmp_path / "run")
    shutil.copytree(stopped[0].root, layout.root)
    for name in what:
        weights = next(_states(layout)[name].glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        data[-10] ^= 1
        weights.write_bytes(data)
    finetune.run(layout, SETTINGS, 0)
    assert says in capsys.readouterr().err
    assert _contents(layout) == stopped[1]
    assert not (layout.training("0") / "trainer").exists()


def test_what_is_trained_is_not_trained_again(
    stopped: tuple[Layout, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither if another process made the checkpoints, nor if only some are missing."""
    layout = Layout(tmp_path / "run")
    shutil.copytree(stopped[0].root, layout.root)
    finetune.run(layout, SETTINGS, 0)
    assert "resuming at checkpoint-6" in capsys.readouterr().err
    assert not layout.training("0").exists()
    # Killed after the last checkpoint was written: what it worked with is left.
    shutil.copytree(stopped[0].training("0"), layout.training("0"))
    (layout.checkpoint("0") / "done").unlink()  # as Snakemake does before a job
    finetune.run(layout, SETTINGS, 0)
    assert "kept 2 of 2 checkpoints" in capsys.readouterr().err
    assert not layout.training("0").exists()
    assert (layout.checkpoint("0") / "done").is_file()
    shutil.rmtree(layout.checkpoint("0-0.5"))
    finetune.run(layout, SETTINGS, 0)
    assert "training 4 of 8 steps" in capsys.readouterr().err
    assert _contents(layout) == stopped[1]


def test_an_intermediate_checkpoint_is_added_without_training_on(
    stopped: tuple[Layout, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unfinished training that is past it begins anew; what was kept of it stays."""
    layout = Layout(tmp_path / "run")
    shutil.copytree(stopped[0].root, layout.root)
    more = small_settings(
        finetune={"epochs": 2}, execution={"save_minutes": 2}, checkpoints={"keep": [0.25, 0.5, 1.0]}
    )
    finetune.run(layout, more, 0)
    assert "training 8 of 8 steps\n" in capsys.readouterr().err
    assert _contents(layout) == stopped[1]
    assert layout.checkpoint("0-0.25").is_dir()
