"""Block sizes, what is refused for its size, and the memory that jobs ask for."""

import errno
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_settings
from hypothesis import given
from hypothesis import strategies as st
from stores import save_features
from workspace import ROOT

from trak_steps.config import Settings, parse_settings
from trak_steps.errors import TrakError
from trak_steps.kernel import blocks
from trak_steps.kernel.blocks import Cost
from trak_steps.model.demo import make_demo_model
from trak_steps.model.load import count_parameters, load_for_training
from trak_steps.model.size import stored_parameters
from trak_steps.run.fit import rows_at_once
from trak_steps.run.layout import Layout
from trak_steps.steps.data import model as base_model
from trak_steps.store import kernel as kernel_store
from trak_steps.store import score_parts
from trak_steps.store.group import PLAIN
from trak_steps.store.kernel import save_kernel
from trak_steps.store.manifest import Manifest
from trak_steps.workflow import memory
from trak_steps.workflow.memory import LIBRARIES, Size, megabytes, memory_of
from trak_steps.workflow.registry import STEPS

MIB = 2**20
DEMO = Size(
    parameters=539_010,
    rows=2304,
    targets=(100,),
    dim=512,
    checkpoints=9,
    trainings=3,
    memory=1024 * MIB,
    max_length=64,
    batch_size=32,
    accumulation=1,
    recompute=False,
    subsets=16,
    repeats=2,
    resamples=1000,
    top=20,
    suspects=100,
    weighted=False,
    whole_gradients=False,
)
QNLI = replace(
    DEMO,
    parameters=22_713_986,
    rows=2000,
    dim=1024,
    memory=4096 * MIB,
    max_length=128,
    batch_size=16,
    subsets=24,
)
# Peaks of jobs, in MB, as getrusage gave them on Linux with torch 2.13 on a CPU.
MEASURED = {
    "demo": (
        DEMO,
        {
            "model": 386,
            "prepare": 398,
            "prepare-targets": 381,
            "finetune": 580,
            "featurize": 586,
            "kernel": 348,
            "score": 423,
            "rank": 180,
            "summarize": 184,
            "provenance": 94,
            "report": 245,
            "plan-subsets": 140,
            "plan-removal": 614,
            "retrain-subsets": 590,
            "retrain-removal": 593,
            "measure-lds": 699,
            "measure-removal": 522,
            "find-mislabelled": 456,
            "measure-stability": 335,
        },
    ),
    "QNLI with MiniLM": (
        QNLI,
        {"model": 369, "prepare": 405, "finetune": 1655, "featurize": 906, "kernel": 345},
    ),
}


@given(
    st.integers(1, 50),
    st.integers(0, 300),
    st.integers(0, 900),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.integers(1, 60),
)
def test_a_block_is_the_largest_that_fits(
    each: int, fixed: int, apart: int, most: int, allowed: int, count: int
) -> None:
    """By trying all sizes."""
    cost = Cost(each=each, fixed=fixed, apart=apart, most=most, fewest=1)
    fitting = [size for size in range(1, most + 1) if fixed + each * size <= allowed]
    assert cost.at_once(allowed) == max(fitting, default=1)
    if cost.least <= allowed:
        assert cost.within(allowed, count) <= allowed
    assert cost.within(allowed, count) == max(apart, fixed + each * min(cost.at_once(allowed), count))


@pytest.mark.parametrize(("k", "m", "allowed"), list(product((8, 256), (1, 9), (1, 40))))
def test_as_many_targets_as_fit_are_scored_for(k: int, m: int, allowed: int) -> None:
    most = 512

    def cost(t: int) -> Cost:
        return blocks.scores(t, k, m)

    found = blocks.targets_at_once(allowed * MIB, most, cost)
    fits = [t for t in range(1, most + 1) if cost(t).least <= allowed * MIB]
    largest = max(fits, default=1)
    assert largest // 2 < found <= largest
    assert found < blocks.WHOLE_TARGETS or found % blocks.WHOLE_TARGETS == 0


@pytest.mark.parametrize("allowed", [64, 4096])
@pytest.mark.parametrize("m", [9, 300])
def test_the_widest_features_are_the_last_that_fit(allowed: int, m: int) -> None:
    k = blocks.widest(allowed * MIB, m)
    assert blocks.needed(k, m) <= allowed * MIB < blocks.needed(k + 1, m)


def test_targets_of_a_chunk_are_those_that_are_counted() -> None:
    assert score_parts.CHUNK_TARGETS == blocks.WHOLE_TARGETS
    assert score_parts.CHUNK_ROWS == blocks.FEW_ROWS


def test_a_kernel_is_written_in_the_blocks_that_are_counted() -> None:
    assert kernel_store.ROWS == blocks.WRITTEN_ROWS


def test_a_step_refuses_what_does_not_fit_and_says_what_would() -> None:
    settings = small_settings(execution={"memory_mb": 64})
    cost = blocks.scores(5000, 1024, 4)
    with pytest.raises(TrakError, match=r"memory_mb: 64 .* targets") as refused:
        rows_at_once(settings, cost, "the targets", ", or fewer")
    enough = int(re.findall("at least (\\d+), or fewer", str(refused.value))[0])
    allowed = small_settings(execution={"memory_mb": enough})
    assert blocks.FEWEST_ROWS <= rows_at_once(allowed, cost, "") < blocks.MOST_ROWS
    with pytest.raises(TrakError):
        rows_at_once(small_settings(execution={"memory_mb": enough - 1}), cost, "")


@pytest.mark.parametrize(
    ("settings", "named", "enough"),
    [
        ({"features": {"dim": 16384}}, "features.dim", ("execution", "memory_mb")),
        ({"features": {"dim": 16384}}, "features.dim", ("features", "dim")),
        ({"checkpoints": {"count": 1500}}, "a target of 4500 checkpoints", ("execution", "memory_mb")),
        ({"checkpoints": {"count": 1500}}, "a target of 4500 checkpoints", ("features", "dim")),
    ],
)
def test_a_size_that_cannot_work_is_refused_when_settings_are_read(
    settings: dict[str, Any], named: str, enough: tuple[str, str]
) -> None:
    """What the message gives as enough is, and no less or more."""
    with pytest.raises(TrakError, match=re.escape(named)) as refused:
        parse_settings(settings)
    least = "least" if enough[1] == "memory_mb" else "most"
    given = int(re.findall(f"at {least} (\\d+)", str(refused.value))[0])
    assert "execution.memory_mb: 4096" in str(refused.value)
    section, name = enough
    parse_settings({**settings, section: {name: given}})
    beyond = given - 1 if name == "memory_mb" else given + 1
    with pytest.raises(TrakError):
        parse_settings({**settings, section: {name: beyond}})


def test_a_step_of_a_workflow_is_not_refused_for_defaults() -> None:
    """It is given the settings that it reads: others stand at their defaults."""
    parse_settings({"features": {"dim": 16384}}, partial=True)


def test_every_step_has_a_memory_and_every_rule_asks_for_its_own() -> None:
    assert LIBRARIES.keys() == STEPS.keys()
    asked: list[str] = []
    for file in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        text = file.read_text(encoding="utf-8")
        for rule in re.split(r"^ *(?=(?:rule|checkpoint) \w+:)", text, flags=re.MULTILINE)[1:]:
            rule = rule.split("use rule")[0]
            if "shell:" not in rule:
                continue
            named = re.findall(r'mem_mb=memory\("([\w-]+)"\)', rule)
            assert named == re.findall(r'\*\*step\("([\w-]+)"\)', rule), rule
            asked += named
    assert {*asked, "retrain-removal"} == STEPS.keys()


GROWING = ("parameters", "rows", "dim", "checkpoints", "memory", "max_length", "batch_size", "subsets")


@pytest.mark.parametrize("step", STEPS)
def test_more_of_anything_needs_no_less(step: str) -> None:
    before = megabytes(step, DEMO)
    for name in (*GROWING, "top", "suspects"):
        assert megabytes(step, replace(DEMO, **{name: 3 * getattr(DEMO, name)})) >= before, name
    assert megabytes(step, replace(DEMO, targets=(100, 700))) >= before
    assert megabytes(step, replace(DEMO, whole_gradients=True)) >= before
    assert megabytes(step, DEMO, attempt=2) >= 2 * before - 1


@pytest.mark.parametrize("name", MEASURED)
def test_jobs_ask_for_what_they_need_and_at_most_twice_that(name: str) -> None:
    size, measured = MEASURED[name]
    off = {
        step: (asked, peak)
        for step, peak in measured.items()
        if not peak <= (asked := megabytes(step, size)) <= 2 * peak
    }
    assert not off


def test_a_model_trained_or_run_takes_memory_by_its_size() -> None:
    large = replace(QNLI, parameters=10 * QNLI.parameters)
    for step in ("finetune", "retrain-subsets", "featurize", "import-checkpoint", "plan-removal"):
        weights = 9 * 4 * QNLI.parameters / 1e6
        assert megabytes(step, large) - megabytes(step, QNLI) > weights, step
    assert megabytes("finetune", large) - megabytes("finetune", QNLI) > 4 * weights
    assert megabytes("kernel", large) == megabytes("kernel", QNLI)


# A job on synthetic numbers, and how far its peak is above that of its libraries.
PEAK = """
import re, sys
from pathlib import Path
import torch
from trak_steps.kernel.gram import factor_kernel, sum_kernel
from trak_steps.scoring.solve import solve_targets
from trak_steps.scoring.stream import Stream
from trak_steps.store.features import FeatureStore
from trak_steps.store.kernel import KernelStore, save_kernel
from trak_steps.store.manifest import Manifest

what, folder, k, n, t, m, rows = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
torch.set_num_threads(1)
cpu = torch.device("cpu")

def peak():
    # The process's own; what getrusage gives may be that of the process which started it.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search("VmHWM: *\t* *([0-9]+) kB", status)[1])

def blocks(store):
    for start in range(0, n, rows):
        yield start, torch.from_numpy(store.features(start, min(start + rows, n)))

train, targets = (FeatureStore.open(folder / name) for name in ("train", "targets"))
small = torch.randn(64, 64, dtype=torch.float64)
torch.linalg.cholesky_ex(small @ small.T + torch.eye(64))
torch.cholesky_solve(small, small)
train.features(0, 1)
before = peak()
if what == "kernel":
    kernel, total, n = sum_kernel((block for _, block in blocks(train)), k, cpu)
    factor = factor_kernel(kernel, n, 1.0)
    manifest = Manifest("kernel", settings={"dim": k}, version=1)
    save_kernel(folder / "kernel", kernel.numpy(), factor.numpy(), total.numpy(), manifest)
else:
    kernels = [KernelStore.open(folder / "kernel")] * m
    wanted = (torch.from_numpy(targets.features(0, t)) for _ in range(m))
    solved = solve_targets(kernels, wanted, n, alike=True, device=cpu)
    stream = Stream(solved, [str(i) for i in range(m)], 32, 2.0)
    kept = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        # This block, the next and the one before it.
        block = [[torch.from_numpy(train.features(start, stop)) for _ in range(m)] for _ in range(3)]
        for _, scored in stream.add(block[0], None, start):
            kept += [scored.scores.clone(), scored.std.clone()]
        kept = [torch.cat([values.flatten() for values in kept]).clone()] * 0
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells it")
@pytest.mark.parametrize(
    ("what", "k", "n", "t", "m", "rows"),
    [
        ("kernel", 4096, 300, 1, 1, 150),
        ("score", 4096, 64, 20, 1, 64),
        ("score", 64, 2200, 4000, 3, 1100),
    ],
    ids=["kernel", "solving", "scores"],
)
def test_the_peaks_of_kernel_and_score_are_as_counted(
    tmp_path: Path, what: str, k: int, n: int, t: int, m: int, rows: int
) -> None:
    """In a process of its own, where one part of the count is nearly all of it; and not far below.

    Large arrays, since of small ones allocators keep some when they are let go.
    """
    for name, count in (("train", n), ("targets", t)):
        values = np.random.default_rng(0).standard_normal((count, k), np.float32)
        details = {"start": 0, "stop": count}
        manifest = Manifest("features", settings={"dim": k}, version=1, details=details)
        save_features(tmp_path / name, values, {}, manifest, PLAIN)
    if what == "score":
        manifest = Manifest("kernel", settings={"dim": k}, version=1)
        save_kernel(tmp_path / "kernel", np.eye(k), np.eye(k), np.ones(k), manifest)
    arguments = [what, str(tmp_path), *map(str, (k, n, t, m, rows))]
    found = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True
    )
    counted = (blocks.kernel(k) if what == "kernel" else blocks.scores(t, k, m)).peak(rows)
    # Beside arrays: allocators' and libraries' own buffers.
    assert 0.4 * counted < int(found.stdout) < counted + 40e6


def test_parameters_are_counted_from_headers_and_from_configurations(tmp_path: Path) -> None:
    """Both against the model itself; and a demo's without building one."""
    demo = tmp_path / "demo"
    demo.mkdir()
    counted = make_demo_model(["a town by the river", "another town"], demo)
    assert count_parameters(demo, trust_remote_code=False) == counted
    model = load_for_training(demo, outputs=2, label_names=["a", "b"], trust_remote_code=False)
    assert counted == sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    assert stored_parameters([weights]) == counted
    assert stored_parameters([weights, weights]) == 2 * counted
    assert count_parameters(tmp_path / "saved", trust_remote_code=False) == counted


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x09\0\0\0\0\0\0\0" + b'{"a": {}}',
        b"\x05" + bytes(7),
    ],
)
def test_damaged_headers_give_no_count(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert stored_parameters([file]) is None
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert count_parameters(tmp_path, trust_remote_code=False) is None


class Wildcards(dict[str, str]):
    """As Snakemake gives them."""


def asked_by(step: str, settings: Settings, layout: Layout, given: list[Path], **wildcards: str) -> int:
    return memory_of(step, settings, layout)(Wildcards(wildcards), [str(path) for path in given], 1)


def test_what_is_not_known_yet_is_asked_for_when_it_is(tmp_path: Path) -> None:
    """Snakemake shows <TBD> where FileNotFoundError names an input, and asks again before the job."""
    layout = Layout(tmp_path / "small")
    settings = small_settings(dataset={"train_size": None})
    receipt = layout.model / "done"
    for step in ("finetune", "featurize", "retrain-subsets", "kernel"):
        with pytest.raises(FileNotFoundError) as missing:
            asked_by(step, settings, layout, [receipt], training="0")
        assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, str(receipt))
    base_model.run(layout, settings)
    counted = Manifest.load(layout.model, "model").details["parameters"]
    assert counted > 100_000
    with pytest.raises(FileNotFoundError):  # rows are missing still
        asked_by("finetune", settings, layout, [receipt, layout.train], training="0")
    known = small_settings()
    found = asked_by("finetune", known, layout, [receipt, layout.train], training="0")
    size = replace(DEMO, parameters=counted, rows=60, max_length=48, batch_size=16)
    assert found == megabytes("finetune", size)
    # Nothing is missing, and nothing known: a model of the usual size.
    other = asked_by("finetune", known, Layout(tmp_path / "other"), [receipt], training="0")
    assert other == megabytes("finetune", replace(size, parameters=memory.PARAMETERS))


def test_a_local_models_size_is_known_before_the_run(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    counted = make_demo_model(["a town by the river"], demo)
    model = load_for_training(demo, outputs=2, label_names=["a", "b"], trust_remote_code=False)
    model.save_pretrained(tmp_path / "saved")
    named = str(tmp_path / "saved")
    layout, missing = Layout(tmp_path / "run"), [tmp_path / "missing"]
    for settings in (
        small_settings(model={"name_or_path": named}),
        small_settings(checkpoints={"existing": [named], "keep": [1.0]}),
    ):
        found = asked_by("featurize", settings, layout, missing, training="0")
        size = replace(
            DEMO,
            parameters=counted,
            rows=60,
            targets=(5,),
            dim=16,
            memory=256 * MIB,
            max_length=48,
        )
        assert found == megabytes("featurize", size)


def test_the_spread_of_numbers_in_a_kernel_does_not_hide_one_that_is_not_finite() -> None:
    """The diagonal alone is looked at: any row that is not finite shows there."""
    from trak_steps.kernel.gram import require_usable, sum_kernel

    for place, value in product((0, 3), (np.inf, -np.inf, np.nan)):
        features = torch.randn(6, 5)
        features[2, place] = value
        with pytest.raises(TrakError, match="not finite"):
            require_usable(sum_kernel([features], 5, torch.device("cpu"))[0])
