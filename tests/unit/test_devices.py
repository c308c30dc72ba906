"""Devices: what a name says, and what the machine has."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from workspace import ROOT, STAGES, Workspace, copy_project

from trak_steps.config import parse_settings
from trak_steps.errors import TrakError
from trak_steps.model import device
from trak_steps.model.device import check_device, pick_device, resolve_device, training_device
from trak_steps.run.jobs import step_of
from trak_steps.workflow.gpus import VARIABLE, VISIBLE, let_jobs_choose, visible_gpus
from trak_steps.workflow.registry import HANDED_VARIABLE, STEPS, device_of_jobs, hand_to_jobs

PACKAGE = ROOT / "trak_steps"


def in_float32(name: str) -> torch.device:
    return training_device(name, "float32")


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
        with pytest.raises(TrakError, match=r"finetune\.precision: .*execution\.device"):
            parse_settings({"finetune": {"precision": precision}, "execution": {"device": "cpu"}})
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
        for check in (check_device, pick_device, in_float32):
            with pytest.raises(TrakError, match=rf"execution\.device: {name} cannot be used.*no GPU"):
                check(name)
    assert pick_device("auto") == in_float32("auto") == torch.device("cpu")
    with pytest.raises(TrakError, match=r"finetune\.precision: float16 needs a GPU"):
        training_device("auto", "float16")


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
    """Exactly those of steps that use one; or as many would use one as there are cores."""
    # Of a train set in parts, so that there are jobs of all steps.
    changes = {
        "execution": {"device": name, "rows_per_job": 20},
        "scores": {"top": 3, "loss_weight_power": 1.0},
    }
    planned = Workspace(pretend).snakemake("-n", "all", "evaluation", **changes)
    said = planned.stdout + planned.stderr
    assert planned.returncode == 0, said
    jobs = re.split(r"^(?:local)?(?:rule|checkpoint) (\w+):$", said, flags=re.MULTILINE)[1:]
    asks = {
        rule: re.search(r"gpu=(\d)", shown)
        for rule, shown in zip(jobs[::2], jobs[1::2], strict=True)
        if rule not in STAGES
    }
    found = {rule: gpu and int(gpu[1]) for rule, gpu in asks.items()}
    steps = {rule: step_of(rule) for rule in found}
    assert found == {rule: asked * STEPS[step].gpu for rule, step in steps.items()}
    assert set(STEPS) - set(steps.values()) == {"import-checkpoint", "check-recipe"}


def test_what_is_fetched_runs_where_the_workflow_is_started(pretend: Path) -> None:
    """And what is not may run anywhere."""
    with (pretend / "workflow" / "Snakefile").open("a") as snakefile:
        snakefile.write("\nprint('here:', *workflow._localrules)\n")
    for path, local in (("org/data", {"model", "prepare", "prepare_targets"}), ("demo", set())):
        dataset = {"path": path, "text": ["a"], "train_size": 40} if local else {"path": path}
        planned = Workspace(pretend).snakemake("-n", "features", dataset=dataset)
        assert planned.returncode == 0, planned.stdout
        (line,) = re.findall(r"^here:(.*)$", planned.stdout, re.MULTILINE)
        assert set(line.split()) - set(STAGES) == local


def test_steps_that_compute_on_a_device_are_those_that_are_said_to() -> None:
    """A step does where it, or what it imports of the package, asks for the device."""

    def modules(file: Path) -> set[Path]:
        names = re.findall(
            r"^from trak_steps\.((?:run|steps|retraining)\.[\w.]+) import", file.read_text(), re.M
        )
        found = {(PACKAGE / name.replace(".", "/")).with_suffix(".py") for name in names}
        return {file}.union(*map(modules, found)) if found else {file}

    for name, step in STEPS.items():
        file = PACKAGE.joinpath("steps", *step.module.split(".")).with_suffix(".py")
        asks = any("_device(settings.execution.device" in m.read_text() for m in modules(file))
        assert asks == step.gpu, name


# Jobs on pretend GPUs compute on the CPU, and say what they saw; a training waits for others to begin.
PRETEND = """

def check_device(name, **_):
    import os, sys, time
    folder = Path("saw")
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).write_text(sys.argv[1] + " " + os.environ["CUDA_VISIBLE_DEVICES"])
    for _ in range(600):
        if sys.argv[1] != "finetune" or len(list(folder.iterdir())) >= int(os.environ["TOGETHER"]):
            break
        time.sleep(0.1)
    return "cpu"
"""


@pytest.mark.parametrize("together", [1, 2, 3])
def test_each_job_has_a_gpu_of_its_own(tmp_path: Path, together: int) -> None:
    """Of two; and where three run at once, two share one."""
    copy_project(tmp_path)
    with (tmp_path / "trak_steps" / "model" / "device.py").open("a") as module:
        module.write(PRETEND)
    space = Workspace(tmp_path, environment={VISIBLE: "3,GPU-5", "TOGETHER": str(together)})
    options = ["--cores", "3", *(["--resources", f"gpu={together}"] if together > 1 else [])]
    done = space.snakemake(
        "checkpoints",
        *options,
        checkpoints={"count": 3, "keep": [1.0]},
        finetune={"epochs": 0.5, "batch_size": 20},
        execution={"device": "cuda"},
    )
    assert done.returncode == 0, done.stdout
    saw = [file.read_text() for file in (tmp_path / "saw").iterdir()]
    assert {line.split()[0] for line in saw} == {"finetune"}
    counts = Counter(line.split()[1] for line in saw)
    assert sum(counts.values()) == 3
    if together == 1:
        assert counts.keys() <= {"3", "GPU-5"}
    else:
        assert set(counts.values()) == {1, 2}
        assert counts.keys() == {"3", "GPU-5"}


HOLD = "from trak_steps.workflow.gpus import take_gpu; import os, sys; take_gpu();"
HOLD += "print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); sys.stdin.read()"


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts a process that takes a GPU and keeps it; gives what it sees, too."""
    started = []

    def start(**environment: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, VARIABLE: str(tmp_path / "locks"), **environment},
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.communicate()


def test_a_killed_jobs_gpu_is_free(hold: Callable[..., tuple[subprocess.Popen[str], str]]) -> None:
    given = {VISIBLE: "0, MIG-GPU-1/2/0,7"}
    first, second, third = (hold(**given) for _ in range(3))
    assert [first[1], second[1], third[1]] == ["0", "MIG-GPU-1/2/0", "7"]
    second[0].kill()
    second[0].wait()
    assert hold(**given)[1] == second[1]
    assert hold(**given)[1] == "0"  # all are taken, so one has two


def test_a_process_that_is_given_one_gpu_or_none_keeps_it(
    hold: Callable[..., tuple[subprocess.Popen[str], str]],
) -> None:
    assert [hold(**{VISIBLE: "4"})[1] for _ in range(2)] == ["4", "4"]
    assert hold(**{VISIBLE: ""})[1] == ""
    # By hand, or on a cluster.
    assert hold(**{VISIBLE: "1,2", VARIABLE: ""})[1] == "1,2"


@pytest.mark.parametrize("gpus", [3], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_all_gpus_are_seen_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv(VISIBLE, "2,0")
    assert visible_gpus() == ["2", "0"]


def test_on_a_cluster_jobs_keep_the_gpus_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    let_jobs_choose(elsewhere=False)
    assert Path(os.environ[VARIABLE]).is_absolute()
    let_jobs_choose(elsewhere=True)
    assert VARIABLE not in os.environ


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
