"""What a run will cost: the jobs that it will have, the bytes that it leaves, and what is not known."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_settings
from typer.testing import CliRunner
from workspace import ROOT

from benchmarks.plan import CASES, tables, with_tables
from trak_steps.cli import app
from trak_steps.config import Settings, parse_settings
from trak_steps.errors import TrakError
from trak_steps.planning import measure as measuring
from trak_steps.planning.costs import Cost, Costs, longest_of
from trak_steps.planning.facts import Facts, find_facts
from trak_steps.planning.lines import plan_lines
from trak_steps.planning.machine import KINDS, ROUGH, load_machine, save_machine
from trak_steps.planning.plan import BEGINS, Places, make_plan, places_of, plan_values
from trak_steps.run.jobs import Job, jobs_of
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import new_features
from trak_steps.store.kernel import save_kernel
from trak_steps.store.manifest import Manifest
from trak_steps.workflow.memory import LIBRARIES

HERE = Places(None, 2, None, 1)


def facts_of(lengths: Sequence[int] = (20,), **sections: Any) -> Facts:
    """Of a run of 3,000 rows and 200 targets by a model of a million parameters."""
    values = {
        "dataset": {"train_size": 3000},
        "targets": {"validation": {"size": 200}},
        "features": {"shard_size": 1024, "dim": 256},
    }
    values |= {name: {**values.get(name, {}), **of} for name, of in sections.items()}
    return Facts(parse_settings(values), 10**6, lengths, None)


def used(path: Path) -> tuple[int, int]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


@pytest.mark.parametrize("rows", [100, 3000, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_leave_as_many_bytes_as_planned(tmp_path: Path, rows: int, dtype: str) -> None:
    dim = 256
    manifest = Manifest("features", settings={"dim": dim}, details={"start": 0, "stop": rows})
    with new_features(
        tmp_path / "x.zarr", (rows, dim), dtype, manifest, codec_arguments("none", 10, dtype)
    ) as writer:
        columns = {"loss_weight": np.float32, "margin": np.float32, "prediction": int, "row": int}
        empty = {name: np.zeros(rows, kind) for name, kind in columns.items()}
        writer.add(np.ones((rows, dim), dtype), empty)
    facts = facts_of(dataset={"train_size": rows}, features={"dtype": dtype, "shard_size": rows})
    job = Job("featurize", "features/0/train/00000", (Path(),))
    found = Costs(facts, ROUGH, gpu=False).of(job, "featurize", uses_gpu=True)
    size, files = used(tmp_path / "x.zarr")
    assert found.disk == pytest.approx(size, rel=0.1)
    assert found.files == pytest.approx(files, abs=2)


def test_a_kernel_leaves_as_many_bytes_as_planned(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(size=(256, 256))
    save_kernel(tmp_path / "0.zarr", kernel, kernel, kernel[0], Manifest("kernel"))
    job = Job("kernel", "kernel/0", (Path(),))
    found = Costs(facts_of(), ROUGH, gpu=False).of(job, "kernel", uses_gpu=True)
    size, files = used(tmp_path / "0.zarr")
    assert found.disk == pytest.approx(size, rel=0.1)
    assert found.files == pytest.approx(files, abs=2)


def test_jobs_are_planned_before_anything_is_there_as_they_turn_out(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """Where the settings do not say how many rows there are, and how long."""
    layout, settings = small_run
    open_ended = settings.model_copy(
        update={"features": settings.features.model_copy(update={"shard_size": None})}
    )
    before = find_facts(open_ended, Layout(tmp_path / "none"), tmp_path)
    after = find_facts(open_ended, layout, tmp_path / "unused")
    assert before.parameters == after.parameters
    assert before.rows == after.rows == 60
    assert before.targets == after.targets == {"validation": 5}
    assert before.tokens == pytest.approx(after.tokens, rel=0.1)
    assert before.assumed == after.assumed == []
    assert not list((tmp_path / "none").glob("*"))
    for group, done in zip(jobs_of(before.settings, layout), jobs_of(open_ended, layout), strict=True):
        assert group == done


def test_all_rows_of_a_split_are_counted(tmp_path: Path) -> None:
    found = find_facts(parse_settings({"run": "all"}), Layout(tmp_path / "run"), tmp_path / "work")
    assert found.rows == 2304
    assert found.targets == {"validation": 100}
    assert 10 < found.tokens < 40
    assert len(found.lengths) == 256


def test_what_the_first_steps_would_refuse_is_refused(tmp_path: Path) -> None:
    for changes, words in (
        ({"dataset": {"label": "none"}}, r"dataset\.label"),
        ({"dataset": {"text": ["question", "other"]}}, r"dataset\.text"),
        ({"model": {"name_or_path": str(tmp_path / "none")}}, r"model\.name_or_path"),
        ({"targets": {"validation": {"split": "none", "size": 5}}}, "split `none`"),
    ):
        with pytest.raises(TrakError, match=words):
            find_facts(small_settings(**changes), Layout(tmp_path / "run"), tmp_path / "work")


def test_what_only_the_hub_has_is_assumed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = parse_settings(
        {
            "dataset": {"path": "org/none", "text": ["a"]},
            "model": {"name_or_path": "org/model", "max_length": 100},
        }
    )
    found = find_facts(settings, Layout(tmp_path / "run"), tmp_path / "work")
    said = " ".join(found.assumed)
    assert (found.rows, found.parameters, found.tokens) == (100_000, 110_000_000, 40)
    for words in ("fetched", "split train", "40 tokens", "110 million"):
        assert words in said


def test_rows_that_were_prepared_otherwise_are_not_taken(
    small_run: tuple[Layout, Settings], tmp_path: Path
) -> None:
    layout, settings = small_run
    same = find_facts(settings, layout, tmp_path / "same")
    assert same.sample == layout
    other = find_facts(small_settings(model={"max_length": 9}), layout, tmp_path / "other")
    assert other.sample != layout
    assert max(other.lengths) == 9
    with pytest.raises(TrakError, match=r"dataset\.label"):
        find_facts(small_settings(dataset={"label": "none"}), layout, tmp_path / "wrong")


def test_a_refusal_is_none_of_the_hub_whatever_a_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "github" / "model"
    folder.mkdir(parents=True)
    settings = parse_settings(
        {"dataset": {"path": "org/none", "text": ["a"]}, "model": {"name_or_path": str(folder)}}
    )
    with pytest.raises(TrakError, match=r"no config\.json"):
        find_facts(settings, Layout(tmp_path / "run"), tmp_path / "work")


def test_the_longest_of_a_batch_is_that_of_many_batches() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(5, 60, 40)
    batches = lengths[draw.integers(0, 40, (20000, 8))].max(1)
    assert longest_of(lengths.astype(float), 8) == pytest.approx(batches.mean(), rel=0.01)
    assert longest_of(np.array([7.0]), 16) == 7


def test_work_grows_as_it_should() -> None:
    """Features with rows and tokens, kernels with k², scores with rows and targets."""

    def seconds(rule: str, name: str, facts: Facts) -> float:
        start = ROUGH.start("featurize" if rule == "featurize" else rule)
        job = Job(rule, name, (Path(),))
        return Costs(facts, ROUGH, gpu=False).of(job, rule, uses_gpu=True).seconds - start

    shard = ("featurize", "features/0/train/00000")
    few, many = (facts_of(features={"shard_size": size}) for size in (1000, 2000))
    long = replace(few, lengths=(40,))
    once = seconds(*shard, few)
    assert seconds(*shard, many) - once == pytest.approx(seconds(*shard, long) - once, rel=0.05)
    part = ("score", "scores/validation/0-3000.0-200")
    one, two = (facts_of(targets={"validation": {"size": size}}) for size in (200, 400))
    both = ("score", "scores/validation/0-3000.0-400")
    assert 1 < seconds(*both, two) / seconds(*part, one) <= 2


def test_stages_add_up_and_the_path_is_the_longest_way() -> None:
    facts = facts_of()
    plan = make_plan(facts, ROUGH, HERE, evaluation=True, gpu=False)
    counted = {stage.name: len(stage.costs) for stage in plan.stages}
    # Three trainings, three shards.
    assert counted["checkpoints"] == 3
    assert counted["features"] == 3 * 3 + 3
    assert plan.whole.sum("disk") == pytest.approx(sum(s.sum("disk") for s in plan.stages))
    way = [rule for rule, _ in plan.path]
    assert way[:2] == ["model", "prepare"]
    assert way[-1].startswith("measure")
    assert plan.seconds >= sum(seconds for _, seconds in plan.path)
    alone = make_plan(facts, ROUGH, HERE, evaluation=False, gpu=False)
    assert [rule for rule, _ in alone.path][-1] == "report"
    assert "evaluation" not in [stage.name for stage in alone.stages]


def test_more_at_once_take_less_time_until_the_longest_way() -> None:
    facts = facts_of(checkpoints={"count": 20})
    found = [
        make_plan(facts, ROUGH, Places(None, cores, None, 1), evaluation=False, gpu=False).seconds
        for cores in (1, 2, 1000)
    ]
    assert found[0] == pytest.approx(2 * found[1], rel=0.01)
    plan = make_plan(facts, ROUGH, HERE, evaluation=False, gpu=False)
    assert found[2] == pytest.approx(BEGINS + sum(seconds for _, seconds in plan.path))
    on_gpus = [
        make_plan(facts, ROUGH, Places(None, 64, None, gpus), evaluation=False, gpu=True)
        for gpus in (1, 4)
    ]
    assert on_gpus[0].whole.gpu_seconds > 0
    assert on_gpus[1].seconds < on_gpus[0].seconds


def test_profiles_say_where_and_how_many(tmp_path: Path) -> None:
    assert places_of(None, 8) == Places(None, 8, None, 1)
    assert places_of(ROOT / "workflow" / "profiles" / "default", 8) == Places(None, 8, None, 1)
    slurm = places_of(ROOT / "workflow" / "profiles" / "slurm", 8)
    assert (slurm.executor, slurm.jobs, slurm.gpus) == ("slurm", 100, 100)
    (tmp_path / "config.yaml").write_text("cores: 4\nresources: [mem_mb=1, gpu=3]\n")
    assert places_of(tmp_path, 8) == Places(None, 4, None, 3)
    for written, expected in (
        ("cores: 0", Places(None, 8, None, 1)),
        ("cores: all\njobs: many", Places(None, 8, None, 1)),
        ("resources: gpu=many", Places(None, 8, None, 1)),
        ("resources: [gpu=1=2]", Places(None, 8, None, 1)),
        ("resources: 3", Places(None, 8, None, 1)),
        ("resources: mem_mb=1 gpu=2", Places(None, 8, None, 2)),
        ("resources: {gpu: 4}\nexecutor: local", Places(None, 8, None, 4)),
    ):
        (tmp_path / "config.yaml").write_text(written)
        assert places_of(tmp_path, 8) == expected
    with pytest.raises(TrakError, match=r"profile\.yaml"):
        places_of(tmp_path / "none", 8)


def test_a_calibration_is_read_as_it_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    save_machine(file, ROUGH)
    assert load_machine(file) == ROUGH
    good = asdict(ROUGH)
    for wrong in (
        {},
        {**good, "train": -1},
        {**good, "train": "fast"},
        {**good, "starts": {}},
        {"a": 1},
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(TrakError, match="calibration"):
            load_machine(file)


def test_every_step_is_of_a_kind_that_is_measured() -> None:
    assert {size for size, _ in KINDS.values()} == set(LIBRARIES.values())
    assert all(ROUGH.start(step) > 0 for step in LIBRARIES)


@pytest.mark.parametrize(("metric", "precision"), [("adam", "float32"), ("none", "bfloat16")])
def test_a_machine_is_measured_with_the_runs_own_model(
    small_run: tuple[Layout, Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
    precision: str,
) -> None:
    """Features in float32, in whatever models are trained."""
    monkeypatch.setattr(measuring, "_start", lambda _: 1.0)
    layout, _ = small_run
    settings = small_settings(features={"metric": metric}, finetune={"precision": precision})
    facts = find_facts(settings, layout, tmp_path)
    machine = measuring.measure(facts)
    assert machine.parameters == facts.parameters
    numbers = {name: value for name, value in asdict(machine).items() if isinstance(value, float)}
    assert all(np.isfinite(value) and value > 0 for value in numbers.values()), numbers
    assert machine.train > machine.forward
    save_machine(tmp_path / "machine.json", machine)
    assert load_machine(tmp_path / "machine.json") == machine


def test_another_model_is_measured_where_the_runs_own_is_not_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "_start", lambda _: 1.0)
    monkeypatch.setattr(measuring, "A_WHILE", 0.1)
    machine = measuring.measure(facts_of(lengths=(6,)))
    assert 10**7 < machine.parameters < 3 * 10**7
    long, *_ = measuring._model(facts_of(lengths=(600,)), torch.device("cpu"))
    assert long.config.max_position_embeddings == 600


def test_a_gpu_that_only_other_machines_have_is_no_refusal(
    small_run: tuple[Layout, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_start", lambda _: 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = find_facts(small_settings(execution={"device": "cuda"}), small_run[0], tmp_path)
    assert measuring.measure(facts, elsewhere=True).device == "cpu"
    with pytest.raises(TrakError, match=r"execution\.device: cuda"):
        measuring.measure(facts)


def test_the_command_says_what_a_run_costs_and_refuses_what_it_would() -> None:
    command = ["plan", "--rough", "--config", str(ROOT / "config" / "config.yaml")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    lines = done.output.splitlines()
    assert any(line.startswith("demo: 22 jobs, about ") for line in lines)
    assert any(line.startswith("features ") for line in lines)
    assert all(len(line) <= 100 for line in lines if not line.startswith("one after"))
    assert "assumed: nothing was measured" in done.output
    done = CliRunner().invoke(app, [*command, "--json", "--evaluation"], catch_exceptions=False)
    values = json.loads(done.output[done.output.index("{") :])
    assert {stage["name"] for stage in values["stages"]} > {"evaluation", "data"}
    assert values["all"]["disk_bytes"] == sum(stage["disk_bytes"] for stage in values["stages"])
    with pytest.raises(TrakError, match=r"dataset\.label"):
        CliRunner().invoke(app, [*command, "--set", "dataset.label=none"], catch_exceptions=False)


def test_what_is_too_much_is_said() -> None:
    facts = facts_of(dataset={"train_size": 10**7}, features={"shard_size": 64})
    plan = make_plan(facts, ROUGH, HERE, evaluation=False, gpu=False)
    assert any("features.shard_size" in line for line in plan.warnings)
    assert any(line.startswith("warning: ") for line in plan_lines(plan))
    assert plan_values(plan)["warnings"] == plan.warnings


def test_what_the_machine_does_not_have_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=3 * 10**8))
    plan = make_plan(facts_of(), ROUGH, HERE, evaluation=False, gpu=False)
    said = " ".join(plan.warnings)
    assert "1.0 MB are free" in said
    assert "this machine has 300 MB" in said
    there = make_plan(facts_of(), ROUGH, Places("slurm", 1, 100, 100), evaluation=False, gpu=False)
    assert there.warnings == []


def test_a_core_is_busy_only_where_threads_compute() -> None:
    cost = Cost(seconds=10, busy=6, threads=4, gpu=False, memory=1)
    assert cost.cpu == 28


def test_checkpoints_are_those_of_the_settings() -> None:
    facts = facts_of(checkpoints={"count": 2, "keep": [0.5, 1.0]})
    assert len(checkpoint_names(facts.settings.checkpoints)) == 4
    plan = make_plan(facts, ROUGH, HERE, evaluation=False, gpu=False)
    (stage,) = (stage for stage in plan.stages if stage.name == "checkpoints")
    assert stage.sum("disk") == pytest.approx(4 * 4e6, rel=0.02)


def test_the_page_shows_the_committed_plans() -> None:
    known = json.loads((ROOT / "benchmarks" / "results" / "plan.json").read_text())
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert with_tables(page, tables(known)) == page
    assert set(known["scale"]) >= set(CASES)
