"""Plans, held against runs that were made; and the runs that no one here can make, planned.

    python -m benchmarks.plan compare SETTINGS RUN --calibration FILE   # adds to results/plan.json
    python -m benchmarks.plan scale SETTINGS --calibration FILE         # the same, for large runs
    python -m benchmarks.plan pages                                     # the tables of docs/scale.md

A comparison says something if calibration and run met the same machine, with nothing beside them.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from trak_steps.config import Settings, load_settings
from trak_steps.console.table import duration, size
from trak_steps.planning.facts import Facts
from trak_steps.planning.machine import load_machine
from trak_steps.planning.plan import Places, Plan, make_plan, plan_values
from trak_steps.planning.run import plan_of
from trak_steps.run.jobs import jobs_of
from trak_steps.run.layout import Layout

RESULTS = Path("benchmarks/results/plan.json")
PAGE = Path("docs/scale.md")
# Rows, k, and rows of a shard, so that jobs are no millions.
CASES: dict[str, dict[str, Any]] = {
    "50,000 rows × 100 checkpoints": {"rows": 50_000, "dim": 1024, "shard": 8192},
    "10 million × 100": {"rows": 10**7, "dim": 1024, "shard": 65_536},
    "a billion × 100, k = 4,096": {"rows": 10**9, "dim": 4096, "shard": 2**20},
}
TRAININGS, KEPT, TARGETS = 25, (0.125, 0.25, 0.5, 1.0), 1000
MEMORY = 16384  # MB of arrays
AT_ONCE = 100

app = typer.Typer(add_completion=False)
Calibration = Annotated[Path, typer.Option(help="Of the machine; measured where it is not there.")]


@app.command()
def compare(
    settings: Path,
    run: Path,
    calibration: Calibration,
    name: Annotated[str | None, typer.Option(help="Of the run, as it is shown.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Those to compare; all, unless given.")] = None,
) -> None:
    """Plan a run that is complete, and compare what it took and left, but for its evaluation."""
    given = load_settings(settings)
    plan = plan_of(given, None, evaluation=False, calibration=calibration, rough=False)
    found = _compared(plan, given, Layout(run), stage or [of.name for of in plan.stages])
    calibrated = json.loads(calibration.read_text())
    _add("runs", name or given.run, {**found, "calibration": calibrated})
    for stage, values in found["stages"].items():
        print(stage, values)


@app.command()
def scale(settings: Path, calibration: Calibration) -> None:
    """Plan large runs of the same model and rows."""
    given = load_settings(settings)
    first = plan_of(given, None, evaluation=False, calibration=calibration, rough=False)
    _add("scale", "first", plan_values(first))
    machine = load_machine(calibration)
    for name, case in CASES.items():
        facts = _facts(given, first, case)
        places = Places("slurm", 1, AT_ONCE, AT_ONCE)
        plan = make_plan(facts, machine, places, evaluation=False, gpu=False)
        _add("scale", name, plan_values(plan))
        print(name, duration(plan.seconds), size(plan.whole.sum("disk")))


def _facts(settings: Settings, first: Plan, case: Mapping[str, Any]) -> Facts:
    """Of a run of so many rows as long as those of the first."""
    old = first.facts
    changes = {
        "dataset": {"train_size": case["rows"]},
        "features": {"dim": case["dim"], "shard_size": case["shard"]},
        "checkpoints": {"count": TRAININGS, "keep": list(KEPT)},
        "execution": {"memory_mb": MEMORY},
    }
    updates: dict[str, Any] = {
        name: getattr(old.settings, name).model_copy(update=of) for name, of in changes.items()
    }
    updates["targets"] = {
        name: of.model_copy(update={"size": TARGETS}) for name, of in settings.targets.items()
    }
    return Facts(old.settings.model_copy(update=updates), old.parameters, old.lengths, None)


def _compared(plan: Plan, settings: Settings, layout: Layout, stages: Iterable[str]) -> dict[str, Any]:
    """By stage: seconds, CPU seconds and bytes, planned and taken; of memory, asked for over used."""
    planned = {name: cost for stage in plan.stages for name, cost in stage.by_job.items()}
    found: dict[str, dict[str, float]] = {}
    for group in jobs_of(settings, layout):
        if group.stage not in stages:
            continue
        values = found.setdefault(group.stage, dict.fromkeys(_NUMBERS, 0.0))
        for job in group.jobs or ():
            times = layout.times(job.name)
            if job.name not in planned or not times.exists():
                continue
            cost, row = planned[job.name], next(csv.DictReader(times.open(), delimiter="\t"))
            values["planned_seconds"] += cost.seconds
            values["seconds"] += float(row["s"])
            values["planned_cpu"] += cost.cpu
            values["cpu"] += float(row["cpu_time"])
            values["planned_bytes"] += cost.disk
            values["bytes"] += sum(map(_used, job.outputs))
            # Of a job that ends within Snakemake's first look, nothing is known.
            if (peak := float(row["max_rss"])) > LEAST_PEAK:
                values["most_memory"] = max(values["most_memory"], cost.memory / peak)
    whole = {name: sum(of[name] for of in found.values()) for name in _NUMBERS if name != "most_memory"}
    whole["most_memory"] = max(of["most_memory"] for of in found.values())
    return {"stages": {**found, "all": whole}}


_NUMBERS = (
    *("planned_seconds", "seconds", "planned_cpu", "cpu"),
    *("planned_bytes", "bytes", "most_memory"),
)
LEAST_PEAK = 50.0  # MB


def _used(output: Path) -> int:
    folder = output.parent if output.name == "done" else output
    files: Iterable[Path] = folder.rglob("*") if folder.is_dir() else [folder]
    return sum(file.stat().st_size for file in files if file.is_file())


def _add(kind: str, name: str, values: Mapping[str, Any]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}, "scale": {}}
    known[kind][name] = values
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def tables(known: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the page, by name."""
    runs = [
        "| run | stage | seconds, planned | taken | ratio | CPU, planned | taken | disk, planned | "
        "left | ratio | memory asked, over used |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run, found in known["runs"].items():
        for stage, of in found["stages"].items():
            runs.append(
                f"| {run} | {stage} | {of['planned_seconds']:.0f} | {of['seconds']:.0f} | "
                f"{of['planned_seconds'] / of['seconds']:.2f} | {of['planned_cpu']:.0f} | "
                f"{of['cpu']:.0f} | {size(of['planned_bytes'])} | "
                f"{size(of['bytes'])} | {of['planned_bytes'] / of['bytes']:.2f} | "
                f"{of['most_memory']:.1f} |"
            )
    scaled = [
        "| run | stage | jobs | CPU | longest job | memory of a job | disk | files | read |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in CASES:
        of_case = known["scale"].get(name)
        for stage in [*of_case["stages"], of_case["all"]] if of_case else []:
            scaled.append(
                f"| {name} | {stage['name']} | {stage['jobs']:,} | {duration(stage['cpu_seconds'])} | "
                f"{duration(stage['longest_seconds'])} | {size(1e6 * stage['memory_mb'])} | "
                f"{size(stage['disk_bytes'])} | {stage['files']:,} | {size(stage['read_bytes'])} |"
            )
    return {"runs": "\n".join(runs), "scale": "\n".join(scaled)}


def with_tables(text: str, made: Mapping[str, str]) -> str:
    """A page with its tables made anew, each between its markers."""
    for name, table in made.items():
        pattern = rf"(<!-- plans: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(
            pattern, lambda found, t=table: f"{found[1]}{t}\n{found[2]}", text, flags=re.DOTALL
        )
    return text


@app.command()
def pages() -> None:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(text, tables(json.loads(RESULTS.read_text()))), encoding="utf-8")


if __name__ == "__main__":
    app()
