"""Devices: what a name says, and what the machine has."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workspace import Workspace, copy_project

from trak_steps.config import parse_settings
from trak_steps.errors import TrakError
from trak_steps.model import device
from trak_steps.model.device import check_device, pick_device, resolve_device, training_device
from trak_steps.workflow.registry import HANDED_VARIABLE, device_of_jobs, hand_to_jobs


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """As if the machine had so many GPUs."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(device, "has_driver", lambda: count > 0)
    monkeypatch.setattr(device, "_best", device._best.__wrapped__)
    return count


def test_names_of_devices_are_few() -> None:
    for name in ("auto", "cpu", "cuda", "cuda:0"):
        assert parse_settings({"execution": {"device": name}}).execution.device == name
    for name in ("foo", "mps", "cuda:", "cuda:01", "cpu:0", "auto:1", "CUDA", "cuda:x", "meta"):
        with pytest.raises(TrakError, match=r"execution\.device: should be"):
            parse_settings({"execution": {"device": name}})


def test_a_device_that_training_cannot_use_is_refused_where_something_is_trained() -> None:
    second = {"execution": {"device": "cuda:1"}}
    with pytest.raises(TrakError, match="CUDA_VISIBLE_DEVICES=1"):
        parse_settings(second)
    imported = parse_settings({**second, "checkpoints": {"existing": ["a"]}})
    assert imported.execution.device == "cuda:1"
    # A step that scores imported checkpoints is not told that nothing is trained.
    assert parse_settings(second, partial=True).execution.device == "cuda:1"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_is_held_against_device_and_gradients(precision: str) -> None:
    features = {"precision": precision}
    on_cpu = {"features": features, "execution": {"device": "cpu"}}
    if precision == "float16":
        with pytest.raises(TrakError, match=r"features\.precision: .*execution\.device"):
            parse_settings(on_cpu)
    else:
        parse_settings(on_cpu)
    with pytest.raises(TrakError, match=r"features: precision: .*gradients: hooks"):
        parse_settings({"features": {**features, "gradients": "functional"}})
    for name in ("auto", "cuda"):
        parse_settings({"features": features, "execution": {"device": name}})


@pytest.mark.parametrize("gpus", [0, 2], indirect=True)
def test_auto_is_what_the_machine_has(gpus: int) -> None:
    expected = "cuda" if gpus else "cpu"
    assert resolve_device("auto") == check_device("auto") == expected
    assert check_device("auto", trains=True) == expected
    for name in ("cpu", "cuda", "cuda:3"):
        assert resolve_device(name) == name


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_without_a_gpu_what_needs_one_is_refused() -> None:
    with pytest.raises(TrakError, match=r"features\.precision: float16 needs a GPU"):
        check_device("auto", precision="float16")
    assert check_device("auto", precision="bfloat16") == "cpu"
    for name in ("cuda", "cuda:99"):
        for check in (check_device, pick_device, training_device):
            with pytest.raises(TrakError, match=rf"execution\.device: {name} cannot be used.*no GPU"):
                check(name)
    assert pick_device("auto") == training_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_only_gpus_that_are_there_are_used() -> None:
    assert check_device("auto", precision="bfloat16") == "cuda"
    assert check_device("cuda:1") == "cuda:1"
    with pytest.raises(TrakError, match=r"cuda:2 .* 2 GPUs"):
        check_device("cuda:2")
    with pytest.raises(TrakError, match="CUDA_VISIBLE_DEVICES=1"):
        check_device("cuda:1", trains=True)


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on a machine with a GPU: a driver's command, and a torch that says so."""
    space = tmp_path / "space"
    copy_project(space)
    for rules in (space / "workflow" / "rules").glob(
        "*.smk"
    ):  # a message is shown in place of resources
        rules.write_text(re.sub(r"\n +message:\n.*", "", rules.read_text()))
    (space / "torch").mkdir()
    (space / "torch" / "__init__.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: True)\n"
    )
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    return space


@pytest.mark.parametrize(("name", "asked"), [("auto", 1), ("cpu", 0)])
def test_jobs_ask_for_the_gpu_that_they_use(pretend: Path, name: str, asked: int) -> None:
    """Or as many would use one as there are cores."""
    planned = Workspace(pretend).snakemake("-n", "features", execution={"device": name})
    said = planned.stdout + planned.stderr
    assert planned.returncode == 0, said
    jobs = {block.split(":")[0]: block for block in said.split("rule ")[1:]}
    assert f"gpu={asked}" in jobs["featurize"]
    assert "gpu=0" in jobs["model"]


def test_without_a_driver_torch_is_not_asked() -> None:
    code = (
        "import sys; from trak_steps.model import device; device.has_driver = lambda: False;"
        "print(device.resolve_device('auto'), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "cpu False\n"


@pytest.mark.parametrize("gpus", [1], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_jobs_are_told_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster gives a GPU to those who ask, so that `auto` asks for none and uses none."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv(HANDED_VARIABLE, "")
    for name, here, elsewhere in (
        ("auto", "cuda", "cpu"),
        ("cuda", "cuda", "cuda"),
        ("cpu", "cpu", "cpu"),
    ):
        settings = parse_settings({"execution": {"device": name}})
        assert device_of_jobs(settings, elsewhere=False) == here
        assert device_of_jobs(settings, elsewhere=True) == elsewhere
        hand_to_jobs(settings, elsewhere)
        assert json.loads(os.environ[HANDED_VARIABLE])["execution"]["device"] == elsewhere
