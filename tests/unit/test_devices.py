"""Devices: what a name says, and what the machine has."""

import pytest
import torch

from trak_steps.config import parse_settings
from trak_steps.errors import TrakError
from trak_steps.model.device import check_device, pick_device, resolve_device, training_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """As if the machine had so many GPUs."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
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
    for device in ("auto", "cuda"):
        parse_settings({"features": features, "execution": {"device": device}})


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
    with pytest.raises(TrakError, match=r"cuda:2 cannot be used: this machine has 2 GPUs"):
        check_device("cuda:2")
    with pytest.raises(TrakError, match="CUDA_VISIBLE_DEVICES=1"):
        check_device("cuda:1", trains=True)
